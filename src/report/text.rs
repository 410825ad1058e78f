//! outcomes -> lines for people. Names are escaped, colours carry meaning only.

use std::fmt::{self, Write as _};

use super::escape::Escaped;
use super::explanation::explanation;
use super::paint;
use super::table::{edits, painted, sites};
use crate::digest::Sha256;
use crate::elf::{FileType, Identity};
use crate::outcome::{Action, Direction, Explanation, File, Kind, Target, Unchanged, Written};
use crate::site::Verdict;
use crate::verify::Finding;

/// How much to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detail {
    /// Harmless sites, and every edit before and after.
    pub verbose: bool,
    /// Files without a site, too.
    pub all: bool,
}

/// What is to be said of a target on stdout; an error is said on stderr, by [`error_line`].
#[must_use]
pub fn target(target: &Target, detail: Detail) -> String {
    let mut out = String::new();
    if let Ok(file) = &target.result {
        write_file(&mut out, file, detail).expect("a string takes all");
    }
    out
}

/// `vsyspatch: PATH: offset 0x..: message (remedy)`
#[must_use]
pub fn error_line(target: &Target) -> Option<String> {
    let error = target.result.as_ref().err()?;
    let (name, message) = (Escaped::path(&target.name), error.to_string());
    Some(line_of(paint::BAD, &format!("{name}: {}", Escaped::text(&message))))
}

/// `vsyspatch: PATH: warning: ...`, a line for each.
#[must_use]
pub fn warning_lines(target: &Target) -> Vec<String> {
    let Ok(file) = &target.result else { return vec![] };
    let line = |text: &str| {
        line_of(paint::DOUBT, &format!("{}: warning: {}", Escaped::path(&target.name), Escaped::text(text)))
    };
    file.warnings.iter().cloned().chain(doubt(file)).map(|text| line(&text)).collect()
}

/// What `unproven` sites mean.
fn doubt(file: &File) -> Option<String> {
    match file.count(Verdict::Unproven) {
        0 => None,
        1 => Some("a site is unproven: it may become a call, and stays as it is".into()),
        count => Some(format!("{count} sites are unproven: they may become calls, and stay as they are")),
    }
}

/// `vsyspatch: message`: an error of the run, not of a target.
#[must_use]
pub fn message(message: &str) -> String {
    line_of(paint::BAD, &Escaped::text(message).to_string())
}

fn line_of(style: anstyle::Style, message: &str) -> String {
    format!("{style}vsyspatch:{style:#} {message}")
}

fn write_file(out: &mut String, file: &File, detail: Detail) -> fmt::Result {
    let listed = |verdict| detail.verbose || verdict != Verdict::Harmless;
    let rows = file.plan.as_ref().map_or(&[][..], |plan| &plan.sites);
    let rows = || rows.iter().filter(|site| listed(site.verdict));
    if rows().next().is_none() && file.is_uneventful() && !detail.all {
        return Ok(());
    }
    painted(out, paint::NAME, &Escaped::path(&file.path))?;
    writeln!(out, ": {}", kind(&file.kind))?;
    if let (Action::Explained(explanations), Some(plan)) = (&file.action, &file.plan) {
        if explanations.is_empty() && file.is_handled() {
            writeln!(out, "  no site: nothing in it holds an address of the vsyscall page")?;
        }
        return explanations.iter().try_for_each(|Explanation { site, listing }| {
            explanation(out, plan, &plan.sites[*site], listing)
        });
    }
    sites(out, rows())?;
    match (&file.action, &file.plan) {
        (Action::Written(written), _) if detail.verbose || written.dry_run => edits(out, &written.edits)?,
        (Action::Scanned, Some(plan)) if detail.verbose => edits(out, &plan.edits)?,
        _ => {}
    }
    write_action(out, file)
}

/// `EXEC, static, not stripped`, or what other kind of file it is.
fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Clean => "x86-64, no vsyscall".into(),
        Kind::Foreign(what) => format!("{}: not handled", Escaped::text(what)),
        Kind::Unscannable(what) => format!("{}: cannot be scanned", Escaped::text(what)),
        Kind::Archive { members, objects } => format!("archive, {members} members, {objects} objects"),
        Kind::Elf(Identity { file_type, is_static, stripped, .. }) => {
            let linked = match (file_type, is_static) {
                (FileType::Rel, _) => "",
                (_, true) => ", static",
                (_, false) => ", dynamic",
            };
            let symbols = if *stripped { "stripped" } else { "not stripped" };
            format!("{}{linked}, {symbols}", file_type.name())
        }
    }
}

fn write_action(out: &mut String, file: &File) -> fmt::Result {
    match &file.action {
        Action::Scanned | Action::Explained(_) => Ok(()),
        Action::Written(written) => write_written(out, file, written),
        Action::Unchanged(unchanged) => write_unchanged(out, file, unchanged),
        Action::Verified(findings) => write_verified(out, file, findings),
    }
}

fn write_written(out: &mut String, file: &File, written: &Written) -> fmt::Result {
    let (done, sum_before, sum_after) = match written.direction {
        Direction::Patch => ("patched", "original", "patched"),
        Direction::Revert => ("reverted", "patched", "original"),
    };
    let would = if written.dry_run { "would be " } else { "" };
    write!(out, "  {would}")?;
    painted(out, paint::GOOD, &done)?;
    if let Some(output) = &written.output {
        write!(out, ", written to {}", Escaped::path(output))?;
    }
    out.push('\n');
    write_sum(out, sum_before, file.sha256)?;
    write_sum(out, sum_after, Some(written.sha256))?;
    match &written.record {
        Some(record) => writeln!(out, "  record           {}", Escaped::path(record)),
        None => Ok(()),
    }
}

fn write_unchanged(out: &mut String, file: &File, unchanged: &Unchanged) -> fmt::Result {
    match unchanged {
        Unchanged::Clean { copy } => {
            let what = if matches!(file.kind, Kind::Unscannable(_)) {
                "nothing changed"
            } else if file.count(Verdict::Refused) + file.count(Verdict::Unproven) > 0 {
                "nothing that can be patched"
            } else {
                "clean: no vsyscall to patch"
            };
            write!(out, "  {what}")?;
            if let Some(copy) = copy {
                write!(out, "; identical copy: {}", Escaped::path(copy))?;
            }
            out.push('\n');
            Ok(())
        }
        Unchanged::AlreadyPatched { copy: None } => writeln!(out, "  patched already: nothing changed"),
        Unchanged::AlreadyPatched { copy: Some(copy) } => {
            writeln!(out, "  patched already; identical copy with its record: {}", Escaped::path(copy))
        }
        Unchanged::AlreadyOriginal => writeln!(out, "  the original already: nothing changed"),
    }
}

fn write_verified(out: &mut String, file: &File, findings: &[Finding]) -> fmt::Result {
    for finding in findings {
        out.push_str("  ");
        painted(out, paint::BAD, &finding.slug)?;
        if let Some(offset) = finding.offset {
            write!(out, ": offset {offset}")?;
        }
        writeln!(out, ": {}", Escaped::text(&finding.message))?;
    }
    if findings.is_empty() {
        out.push_str("  ");
        painted(out, paint::GOOD, &"verified")?;
        writeln!(out, ": the original plus the recorded edits, no call left that can be patched")?;
    }
    write_sum(out, "", file.sha256)
}

fn write_sum(out: &mut String, of: &str, sum: Option<Sha256>) -> fmt::Result {
    let Some(sum) = sum else { return Ok(()) };
    writeln!(out, "  sha256 {of:8}  {sum}")
}

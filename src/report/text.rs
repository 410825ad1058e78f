//! outcomes -> lines for people. Names are escaped, colours carry meaning only.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::escape::Escaped;
use super::explanation::explanation;
use super::paint;
use super::summary::Summary;
use super::table::{edits, painted, sites};
use crate::digest::Sha256;
use crate::elf::{FileType, Identity};
use crate::error::Error;
use crate::outcome::{
    Action, Direction, Explanation, File, ImageFacts, Kind, Target, Tree, Unchanged, Written,
};
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

/// What is to be said of a target on stdout; errors are said on stderr, by [`error_lines`].
#[must_use]
pub fn target(target: &Target, detail: Detail) -> String {
    let mut out = String::new();
    let written = target
        .files()
        .filter_map(|(_, result)| result.ok())
        .try_for_each(|file| write_file(&mut out, file, detail, target.tree().is_some()))
        .and_then(|()| target.tree().map_or(Ok(()), |tree| write_tree(&mut out, target, tree)));
    written.expect("a string takes all");
    out
}

/// `vsyspatch: PATH: offset 0x..: message (remedy)`, a line for each file that failed.
#[must_use]
pub fn error_lines(target: &Target) -> Vec<String> {
    let line = |(path, result): (&Path, Result<&File, &Error>)| {
        let message = result.err()?.to_string();
        Some(line_of(paint::BAD, &format!("{}: {}", Escaped::path(path), Escaped::text(&message))))
    };
    target.files().filter_map(line).collect()
}

/// `vsyspatch: PATH: warning: ...`, a line for each.
#[must_use]
pub fn warning_lines(target: &Target) -> Vec<String> {
    let line = |path: &Path, text: &str| {
        line_of(paint::DOUBT, &format!("{}: warning: {}", Escaped::path(path), Escaped::text(text)))
    };
    let of_file = |(path, result): (&Path, Result<&File, &Error>)| -> Vec<String> {
        let Ok(file) = result else { return vec![] };
        file.warnings.iter().cloned().chain(doubt(file)).map(|text| line(path, &text)).collect()
    };
    let of_tree = target.tree().map_or(&[][..], |tree| &tree.warnings);
    let of_tree = of_tree.iter().map(|text| line(&target.name, text));
    target.files().flat_map(of_file).chain(of_tree).collect()
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

fn write_file(out: &mut String, file: &File, detail: Detail, is_in_tree: bool) -> fmt::Result {
    let listed = |verdict| detail.verbose || verdict != Verdict::Harmless;
    let rows = file.plan.as_ref().map_or(&[][..], |plan| &plan.sites);
    let rows = || rows.iter().filter(|site| listed(site.verdict));
    if rows().next().is_none() && file.is_uneventful() && !detail.all {
        return Ok(());
    }
    painted(out, paint::NAME, &Escaped::path(&file.path))?;
    for link in &file.links {
        write!(out, " = {}", Escaped::path(link))?;
    }
    write!(out, ": {}", kind(&file.kind))?;
    if let Some(layer) = &file.layer {
        write!(out, ", layer {layer}")?;
    }
    writeln!(out)?;
    if let (Action::Explained(explanations), Some(plan)) = (&file.action, &file.plan) {
        if explanations.is_empty() && file.is_handled() {
            writeln!(out, "  no site: nothing in it holds an address of the vsyscall page")?;
        }
        return explanations.iter().try_for_each(|Explanation { site, listing }| {
            explanation(out, plan, &plan.sites[*site], listing)
        });
    }
    sites(out, rows())?;
    if let Some(reason) = file.plan.as_ref().and_then(|plan| plan.not_vdso.as_ref()) {
        writeln!(out, "  system calls, not the vDSO: {reason}")?;
    }
    match (&file.action, &file.plan) {
        (Action::Written(written), _) if detail.verbose || written.dry_run => edits(out, &written.edits)?,
        (Action::Scanned, Some(plan)) if detail.verbose => edits(out, &plan.edits)?,
        _ => {}
    }
    if is_in_tree && !detail.verbose {
        return write_result(out, file);
    }
    write_action(out, file)
}

/// What came of a file of a tree, in one line.
fn write_result(out: &mut String, file: &File) -> fmt::Result {
    match &file.action {
        Action::Written(written) => {
            write_done(out, written)?;
            writeln!(out)
        }
        Action::Verified(findings) if !findings.is_empty() => write_findings(out, findings),
        Action::Verified(_) => {
            out.push_str("  ");
            painted(out, paint::GOOD, &"verified")?;
            writeln!(out)
        }
        Action::Unchanged(unchanged) => write_unchanged(out, file, unchanged),
        Action::Scanned | Action::Explained(_) => Ok(()),
    }
}

/// What is to be said of a tree besides its files.
fn write_tree(out: &mut String, target: &Target, tree: &Tree) -> fmt::Result {
    if let Some(direction) = tree.unfinished {
        let what = match direction {
            Direction::Patch => "patch",
            Direction::Revert => "revert",
        };
        writeln!(out, "found a run of {what} that was killed before it had finished")?;
    }
    write_findings(out, &tree.findings)?;
    let not_entered: Vec<String> =
        tree.not_entered.iter().map(|path| Escaped::path(path).to_string()).collect();
    if !not_entered.is_empty() {
        writeln!(out, "not entered: {}", not_entered.join(", "))?;
    }
    let summary = Summary::of(target);
    if let Some(facts) = &tree.image {
        write_image(out, facts, tree.files.is_empty())?;
    }
    if let Some(record) = &tree.record {
        writeln!(out, "record: {}", Escaped::path(record))?;
    }
    if summary.patched > 0 && tree.image.is_none() {
        out.push_str(
            "package managers will report the patched files as changed (rpm -V, dpkg --verify, debsums)\n",
        );
    }
    writeln!(out, "{}", summary.of_tree(tree.seen.seconds))
}

fn write_image(out: &mut String, facts: &ImageFacts, is_clean: bool) -> fmt::Result {
    for layer in &facts.not_scanned {
        writeln!(out, "not scanned: {}", Escaped::text(layer))?;
    }
    for what in &facts.outdated {
        writeln!(out, "no longer valid: {}", Escaped::text(what))?;
    }
    let plural = if facts.layers == 1 { "" } else { "s" };
    writeln!(out, "image: {}, {} layer{plural}", facts.digest, facts.layers)?;
    match &facts.output {
        Some((output, digest)) => {
            write!(out, "written to {}: {digest}", Escaped::text(output))?;
            match facts.sent {
                Some(sent) => writeln!(out, ", {sent} bytes sent"),
                None => writeln!(out),
            }
        }
        None if is_clean && facts.is_complete() => {
            writeln!(out, "clean: no vsyscall to patch")
        }
        None => Ok(()),
    }
}

/// `EXEC, static, not stripped`, or what other kind of file it is.
fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Clean => "x86-64, no vsyscall".into(),
        Kind::Foreign(what) => format!("{}: not handled", Escaped::text(what)),
        Kind::Unscannable(what) | Kind::Container(what) => {
            format!("{}: cannot be scanned", Escaped::text(what))
        }
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

fn write_done(out: &mut String, written: &Written) -> fmt::Result {
    let done = match written.direction {
        Direction::Patch => "patched",
        Direction::Revert => "reverted",
    };
    let would = if written.dry_run { "would be " } else { "" };
    write!(out, "  {would}")?;
    painted(out, paint::GOOD, &done)
}

fn write_written(out: &mut String, file: &File, written: &Written) -> fmt::Result {
    let (sum_before, sum_after) = match written.direction {
        Direction::Patch => ("original", "patched"),
        Direction::Revert => ("patched", "original"),
    };
    write_done(out, written)?;
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
            let what = if file.kind.not_scanned().is_some() {
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

fn write_findings(out: &mut String, findings: &[Finding]) -> fmt::Result {
    for finding in findings {
        out.push_str("  ");
        painted(out, paint::BAD, &finding.slug)?;
        if let Some(offset) = finding.offset {
            write!(out, ": offset {offset}")?;
        }
        writeln!(out, ": {}", Escaped::text(&finding.message))?;
    }
    Ok(())
}

fn write_verified(out: &mut String, file: &File, findings: &[Finding]) -> fmt::Result {
    write_findings(out, findings)?;
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

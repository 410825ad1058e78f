//! outcomes -> one page for a person: nothing of it comes from elsewhere, and it holds no script.

use std::fmt::{self, Display, Write as _};
use std::path::Path;

use super::escape::Escaped;
use super::json::Options;
use super::summary::Summary;
use super::table::{assembly, shown_bytes};
use crate::error::Error;
use crate::outcome::{Action, Direction, File, Target, Unchanged, Written};
use crate::plan::{Edit, PlannedSite};
use crate::site::Verdict;

const STYLE: &str = include_str!("page.css");

/// Nothing is fetched, nothing is run, whatever a name may hold.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Text of a page: what a terminal would obey is shown as an escape, and what HTML would, as an entity.
pub(super) struct Text<'a>(Escaped<'a>);

pub(super) fn text(text: &str) -> Text<'_> {
    Text(Escaped::text(text))
}

fn name(path: &Path) -> Text<'_> {
    Text(Escaped::path(path))
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The page.
#[must_use]
pub fn page(options: Options, targets: &[Target]) -> String {
    let mut out = String::new();
    write(&mut out, options, targets).expect("a string takes all");
    out
}

fn write(out: &mut String, options: Options, targets: &[Target]) -> fmt::Result {
    let mut summary = Summary::default();
    targets.iter().for_each(|target| summary.add(Summary::of(target)));
    out.write_str(&head(&format!("vsyspatch {}", options.command)))?;
    writeln!(out, "<p>{}</p>", text(&summary.to_string()))?;
    for target in targets {
        for (path, result) in target.files() {
            match result {
                Ok(file) => write_file(out, file, options)?,
                Err(error) => write_error(out, path, error)?,
            }
        }
        for finding in target.tree().map_or(&[][..], |tree| &tree.findings) {
            writeln!(out, "<p class=\"bad\">{}: {}</p>", name(&target.name), text(&finding.message))?;
        }
        if let Some(record) = target.tree().and_then(|tree| tree.record.as_deref()) {
            writeln!(out, "<p>Record: <code>{}</code></p>", name(record))?;
        }
    }
    out.write_str(
        "<h2>What to do with it</h2>\n\
         <p><code>vsyspatch verify TARGET</code> proves that a patched file is the original plus the recorded edits. \
         <code>vsyspatch revert TARGET --in-place</code> brings the original back, byte for byte.</p>\n",
    )?;
    out.write_str(&foot())
}

/// The begin of a page.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    )
}

/// The end of a page.
pub(super) fn foot() -> String {
    format!("<p class=\"harmless\">vsyspatch {}</p>\n</body>\n</html>\n", env!("CARGO_PKG_VERSION"))
}

fn write_error(out: &mut String, path: &Path, error: &Error) -> fmt::Result {
    writeln!(out, "<h2>{}</h2>\n<p class=\"bad\">{}</p>", name(path), text(&error.to_string()))
}

fn write_file(out: &mut String, file: &File, options: Options) -> fmt::Result {
    writeln!(out, "<h2>{}</h2>", name(&file.path))?;
    if let Some(what) = file.kind.not_scanned() {
        writeln!(out, "<p class=\"unproven\">Cannot be scanned: {}</p>", text(what))?;
    }
    let done = match &file.action {
        Action::Scanned | Action::Explained(_) => None,
        Action::Written(Written { dry_run: true, .. }) => Some(("good", "would be written")),
        Action::Written(Written { direction: Direction::Patch, .. }) => Some(("good", "patched")),
        Action::Written(Written { direction: Direction::Revert, .. }) => Some(("good", "reverted")),
        Action::Unchanged(Unchanged::Clean { .. }) => Some(("good", "nothing to patch")),
        Action::Unchanged(Unchanged::AlreadyPatched { .. }) => Some(("good", "patched already")),
        Action::Unchanged(Unchanged::AlreadyOriginal) => Some(("good", "the original already")),
        Action::Verified(findings) if findings.is_empty() => Some(("good", "verified")),
        Action::Verified(_) => Some(("bad", "not what the record says")),
    };
    if let Some((class, what)) = done {
        writeln!(out, "<p class=\"tag {class}\">{what}</p>")?;
    }
    if let Action::Verified(findings) = &file.action {
        findings.iter().try_for_each(|f| writeln!(out, "<p class=\"bad\">{}</p>", text(&f.message)))?;
    }
    out.write_str("<dl>")?;
    if let Some(sum) = file.sha256 {
        write!(out, "<dt>sha256</dt><dd class=\"sum\">{sum}</dd>")?;
    }
    if let Action::Written(written) = &file.action {
        write!(out, "<dt>sha256 after</dt><dd class=\"sum\">{}</dd>", written.sha256)?;
        for (what, path) in [("output", &written.output), ("record", &written.record)] {
            if let Some(path) = path {
                write!(out, "<dt>{what}</dt><dd>{}</dd>", name(path))?;
            }
        }
    }
    out.write_str("</dl>\n")?;
    let Some(plan) = &file.plan else { return Ok(()) };
    let sites = plan.sites.iter().filter(|site| options.all || site.verdict != Verdict::Harmless);
    sites.into_iter().try_for_each(|site| write_site(out, site, &plan.edits))
}

fn write_site(out: &mut String, site: &PlannedSite, edits: &[Edit]) -> fmt::Result {
    let function = site.function.as_deref().map(|name| format!(" in {name}")).unwrap_or_default();
    let verdict = site.verdict;
    writeln!(
        out,
        "<section>\n<h3><code>{}</code> {}{}: <span class=\"tag {verdict}\">{verdict}</span></h3>\n<p>{}: {}</p>",
        site.vaddr,
        site.entry,
        text(&function),
        site.form,
        text(&site.reason)
    )?;
    if site.steps.len() > 1 {
        out.write_str("<ol class=\"way\">")?;
        site.steps
            .iter()
            .try_for_each(|step| write!(out, "<li>{} <code>{}</code></li>", step.deed, step.vaddr))?;
        out.write_str("</ol>\n")?;
    }
    let edits: Vec<&Edit> = site.edits.iter().filter_map(|&index| edits.get(index)).collect();
    if !edits.is_empty() {
        out.write_str("<pre>")?;
        for edit in edits {
            let [before, after] = assembly(edit);
            let place = edit.offset;
            let side = |bytes: &[u8], asm: &[String]| format!("{}  {}", shown_bytes(bytes), asm.join("; "));
            writeln!(out, "offset {place}")?;
            writeln!(out, "<span class=\"del\">- {}</span>", text(side(&edit.before, &before).trim_end()))?;
            writeln!(out, "<span class=\"ins\">+ {}</span>", text(side(&edit.after, &after).trim_end()))?;
        }
        out.write_str("</pre>\n")?;
    }
    out.write_str("</section>\n")
}

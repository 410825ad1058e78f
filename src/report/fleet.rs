//! What came of a fleet: a plan, and the table of its results, as text, JSON and a page.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use super::escape::Escaped;
use super::html;
use crate::fleet::merge::{Merged, Open, Totals};
use crate::fleet::plan::Counts;
use crate::fleet::{Status, WORK_SCHEMA};

/// The form of the document of a merge.
pub const SCHEMA: &str = "vsyspatch.fleet/1";

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// What a plan holds, for people.
#[must_use]
pub fn plan(counts: &Counts, shards: Option<u64>) -> String {
    let Counts { items, names, images, trees, files, bytes, shared, cost, .. } = *counts;
    let Counts { unresolved, artifacts, links, unnamed, unlisted, sources_failed, .. } = *counts;
    let mut text = format!(
        "{items} item{}: {images} image{}, {trees} tree{}, {files} file{}\n",
        plural(items),
        plural(images),
        plural(trees),
        plural(files)
    );
    let _ = writeln!(
        text,
        "{names} name{}, {} of them of content that another name has, too",
        plural(names),
        names - items
    );
    let _ = writeln!(
        text,
        "{}, {} of them in layers shared with the item before",
        megabytes(bytes),
        megabytes(shared)
    );
    if unresolved > 0 {
        let _ = writeln!(
            text,
            "{unresolved} could not be looked up, and will be tried again when they are worked on"
        );
    }
    if artifacts > 0 {
        let _ =
            writeln!(text, "{artifacts} signature{0} or artifact{0} left out: no images", plural(artifacts));
    }
    if links > 0 {
        let _ = writeln!(text, "{links} symbolic link{0} left out: name what they lead to", plural(links));
    }
    if unnamed > 0 {
        let _ = writeln!(text, "{unnamed} image{0} of archives left out: they have no name", plural(unnamed));
    }
    if sources_failed > 0 {
        let _ = writeln!(
            text,
            "{sources_failed} source{} ended with an error, and may hold more",
            plural(sources_failed)
        );
    }
    if unlisted > 0 {
        let word = if unlisted == 1 { "repository" } else { "repositories" };
        let _ = writeln!(text, "{unlisted} {word} left out, whose tags could not be listed");
    }
    if let Some(shards) = shards {
        let _ = writeln!(text, "{shards} shards cost {} each", megabytes(cost / shards.max(1)));
    }
    text
}

/// The document of a plan.
#[must_use]
pub fn plan_json(counts: &Counts) -> String {
    #[derive(Serialize)]
    struct Plan<'a> {
        schema: &'static str,
        #[serde(flatten)]
        counts: &'a Counts,
    }
    serde_json::to_string_pretty(&Plan { schema: WORK_SCHEMA, counts }).expect("numbers only") + "\n"
}

/// Rows of the table: what, and how much.
fn rows(totals: &Totals) -> Vec<(String, String)> {
    let count = |count: u64| count.to_string();
    let mut rows = vec![
        ("items".into(), count(totals.items)),
        ("done".into(), count(totals.results - totals.count(Status::Failed))),
    ];
    for status in Status::ALL {
        let number = totals.count(status);
        let is_shown = matches!(status, Status::Clean | Status::Patched | Status::Refused | Status::Failed);
        if number > 0 || is_shown {
            let indent = if status == Status::Failed { "" } else { "  " };
            rows.push((format!("{indent}{status}"), count(number)));
        }
    }
    for (kind, reason) in &totals.failures {
        rows.push((format!("  {kind}"), count(reason.count)));
    }
    if totals.may_pass > 0 {
        rows.push(("  of them may pass".into(), count(totals.may_pass)));
    }
    rows.push(("missing".into(), totals.missing.map_or("? (--work WORK.jsonl tells)".into(), count)));
    rows.push(("written".into(), count(totals.written)));
    rows.push(("sites".into(), count(totals.sites)));
    rows.push(("files patched".into(), count(totals.files_patched)));
    rows.push(("bytes".into(), megabytes(totals.bytes)));
    rows.push(("layers known".into(), count(totals.layers_known)));
    rows.push(("time of workers".into(), format!("{:.1} s", totals.seconds)));
    if totals.of_other_versions > 0 {
        rows.push(("of other versions".into(), count(totals.of_other_versions)));
    }
    rows
}

fn line_of(open: &Open) -> String {
    let status = open.status.map_or("missing", Status::name);
    let first = open.names.first().map_or(open.id.as_str(), String::as_str);
    let more = match open.names.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more name{}", plural(more as u64)),
    };
    let why = open.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
    format!("{status}  {first}{more}{why}")
}

/// The table for people, with a line for each item that somebody has to look after where that is wanted.
///
/// # Errors
/// Those of reading what was merged, and of `out`.
pub fn write_text(merged: &mut Merged, with_items: bool, out: &mut dyn Write) -> io::Result<()> {
    let rows = rows(&merged.totals);
    let width = rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    for (what, number) in rows {
        writeln!(out, "{what:width$}  {number}")?;
    }
    for reason in merged.totals.failures.values() {
        writeln!(out, "for example {}", Escaped::text(&reason.example))?;
    }
    if with_items {
        for open in merged.open().map_err(io::Error::other)? {
            writeln!(out, "{}", Escaped::text(&line_of(&open.map_err(io::Error::other)?)))?;
        }
    }
    Ok(())
}

/// The same as one JSON document, whose items are written one at a time.
///
/// # Errors
/// Those of [`write_text`].
pub fn write_json(merged: &mut Merged, out: &mut dyn Write) -> io::Result<()> {
    let status = merged.totals.status().code();
    let totals = serde_json::to_string(&merged.totals)?;
    write!(out, "{{\"schema\":\"{SCHEMA}\",\"status\":{status},\"totals\":{totals},\"open\":[")?;
    for (number, open) in merged.open().map_err(io::Error::other)?.enumerate() {
        let item = serde_json::to_string(&open.map_err(io::Error::other)?)?;
        write!(out, "{}\n{item}", if number > 0 { "," } else { "" })?;
    }
    out.write_all(b"]}\n")
}

/// The same as a page.
///
/// # Errors
/// Those of [`write_text`].
pub fn write_html(merged: &mut Merged, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}<dl>", html::head("vsyspatch fleet merge"))?;
    for (what, number) in rows(&merged.totals) {
        writeln!(out, "<dt>{}</dt><dd>{number}</dd>", what.trim())?;
    }
    out.write_all(b"</dl>\n<h2>What is left</h2>\n<ul>\n")?;
    for open in merged.open().map_err(io::Error::other)? {
        writeln!(out, "<li>{}</li>", html::text(&line_of(&open.map_err(io::Error::other)?)))?;
    }
    write!(out, "</ul>\n{}", html::foot())
}

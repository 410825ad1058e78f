//! A site with the code that it was seen in, for people: the way of the address, the verdict, before and after.

use std::fmt::{self, Write as _};

use super::escape::Escaped;
use super::paint;
use super::table::{assembly, hex_bytes, painted, shown_bytes};
use crate::explain::Line;
use crate::plan::{Edit, Plan, PlannedSite, Role};
use crate::site::{Deed, Reach};

/// Writes `site` of `plan` with its `listing`.
pub fn explanation(out: &mut String, plan: &Plan, site: &PlannedSite, listing: &[Line]) -> fmt::Result {
    out.push('\n');
    let place = match &site.member {
        Some(member) => format!("{} {}", Escaped::text(member), site.vaddr),
        None => site.vaddr.to_string(),
    };
    painted(out, paint::NAME, &place)?;
    write!(out, ": {}, {}", site.entry, site.form)?;
    if let Some(function) = &site.function {
        write!(out, " in {}", Escaped::text(function))?;
    }
    match site.reach {
        Some(Reach::Always) => out.push_str(", always called"),
        Some(Reach::Fallback) => out.push_str(", called where nothing else stands in (as the vDSO does)"),
        None => {}
    }
    out.push('\n');
    lines(out, site, listing)?;
    out.push_str("  ");
    painted(out, paint::verdict(site.verdict), &site.verdict)?;
    writeln!(out, ": {}", Escaped::text(&site.reason))?;
    let edits: Vec<&Edit> = site.edits.iter().filter_map(|&edit| plan.edits.get(edit)).collect();
    side_by_side(out, &edits)
}

/// The listing: a mark, address, bytes, assembly, what it does with the address.
fn lines(out: &mut String, site: &PlannedSite, listing: &[Line]) -> fmt::Result {
    let code = |line: &Line| line.assembly.clone().unwrap_or_else(|| "(data)".into());
    let width = |text: fn(&Line) -> String| listing.iter().map(|line| text(line).len()).max().unwrap_or(0);
    let addresses = width(|line| line.vaddr.to_string());
    let bytes = width(|line| hex_bytes(&line.bytes));
    let assembly = listing.iter().filter(|line| line.deed.is_some()).map(|line| code(line).len()).max();
    for line in listing {
        if line.is_behind_gap {
            writeln!(out, "    ...")?;
        }
        let (mark, style) = match line.deed {
            None => (' ', anstyle::Style::new()),
            Some(Deed::Holds) => ('>', paint::DOUBT),
            Some(_) => ('>', paint::GOOD),
        };
        out.push_str("  ");
        painted(out, style, &mark)?;
        write!(out, " {:addresses$}  {:bytes$}  ", line.vaddr.to_string(), hex_bytes(&line.bytes))?;
        match line.deed {
            None => writeln!(out, "{}", code(line))?,
            Some(deed) => {
                write!(out, "{:width$}  ", code(line), width = assembly.unwrap_or(0))?;
                painted(out, style, &told(deed, site))?;
                out.push('\n');
            }
        }
    }
    Ok(())
}

fn told(deed: Deed, site: &PlannedSite) -> String {
    let told = match deed {
        Deed::Near => "stands before it",
        Deed::Holds => return format!("holds the address of {}", site.entry),
        Deed::Contains => "only has the bytes inside",
        Deed::Moves => "moves it on",
        Deed::Loads => "loads it",
        Deed::Computes => "computes with it",
        Deed::Compares => "compares it",
        Deed::Passes => "passes it on",
        Deed::Stores => "stores it",
        Deed::StoresMangled => "stores it, mangled",
        Deed::Returns => "returns it",
        Deed::Calls => "calls it",
        Deed::Jumps => "jumps to it",
    };
    told.into()
}

/// The edits, before on the left and after on the right.
fn side_by_side(out: &mut String, edits: &[&Edit]) -> fmt::Result {
    let rows: Vec<[String; 3]> = edits.iter().flat_map(|edit| rows(edit)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let title = ["", "before", "after"].map(str::to_owned);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (places, before) = (width(0), width(1).max(title[1].len()));
    for (number, [place, old, new]) in std::iter::once(&title).chain(&rows).enumerate() {
        let (bad, good) = if number == 0 { (paint::FAINT, paint::FAINT) } else { (paint::BAD, paint::GOOD) };
        write!(out, "    {place:places$}  {bad}{old:before$}{bad:#}")?;
        if !new.is_empty() {
            write!(out, "  {good}{new}{good:#}")?;
        }
        out.push('\n');
    }
    Ok(())
}

/// The rows of one edit: its place in the first, and an instruction a row on both sides.
fn rows(edit: &Edit) -> Vec<[String; 3]> {
    let place = edit.vaddr.map_or_else(|| format!("file {}", edit.offset), |vaddr| vaddr.to_string());
    let [before, after] = assembly(edit);
    let side = |lines: Vec<String>, bytes: &[u8]| match edit.role {
        _ if !lines.is_empty() => repeated(&lines),
        Role::Stub | Role::Detour | Role::Guard => vec!["(unused)".to_owned()],
        _ => vec![shown_bytes(bytes)],
    };
    let (before, after) = (side(before, &edit.before), side(after, &edit.after));
    let at = |lines: &[String], row: usize| lines.get(row).cloned().unwrap_or_default();
    (0..before.len().max(after.len()))
        .map(|row| {
            let place = if row == 0 { place.clone() } else { String::new() };
            [place, at(&before, row), at(&after, row)]
        })
        .collect()
}

/// The lines, where equal ones that follow each other are one: `nop (3 times)`.
fn repeated(lines: &[String]) -> Vec<String> {
    lines
        .chunk_by(|a, b| a == b)
        .map(|equal| match equal {
            [line] => line.clone(),
            _ => format!("{} ({} times)", equal[0], equal.len()),
        })
        .collect()
}

//! Sites and edits as aligned lines.

use std::fmt::{self, Write as _};

use anstyle::Style;

use super::escape::Escaped;
use super::paint;
use crate::plan::{Edit, PlannedSite, Role, Strategy};
use crate::site::{Reach, Verdict};

/// One line per site: address, entry, form, function, reach, verdict; then why, where nothing is patched.
pub fn sites<'a>(out: &mut String, sites: impl Iterator<Item = &'a PlannedSite>) -> fmt::Result {
    let rows: Vec<Row<'_>> = sites.map(Row::of).collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    rows.iter().try_for_each(|row| row.write(out, &widths))
}

/// Address, entry, form, function, reach; the verdict stands behind them.
const COLUMNS: usize = 5;

struct Row<'a> {
    cells: [String; COLUMNS],
    site: &'a PlannedSite,
}

impl<'a> Row<'a> {
    fn of(site: &'a PlannedSite) -> Self {
        let function = site.function.as_deref().map_or("-".into(), |name| Escaped::text(name).to_string());
        let reach = match site.reach {
            Some(Reach::Always) => "always",
            Some(Reach::Fallback) => "fallback",
            None => "-",
        };
        let place = match &site.member {
            Some(member) => format!("{} {}", Escaped::text(member), site.vaddr),
            None => site.vaddr.to_string(),
        };
        let cells = [place, site.entry.to_string(), site.form.to_string(), function, reach.into()];
        Self { cells, site }
    }

    fn write(&self, out: &mut String, widths: &[usize; COLUMNS]) -> fmt::Result {
        out.push_str("  ");
        for (cell, &width) in self.cells.iter().zip(widths) {
            write!(out, "{cell:width$}  ")?;
        }
        let verdict = self.site.verdict;
        painted(out, paint::verdict(verdict), &verdict)?;
        if self.site.strategy == Some(Strategy::Vdso) {
            out.push_str(" (vDSO)");
        }
        if verdict != Verdict::Patch {
            write!(out, ": {}", Escaped::text(&self.site.reason))?;
        }
        out.push('\n');
        Ok(())
    }
}

/// Per edit a line with its place, then the bytes and the assembly before (`-`) and after (`+`).
pub fn edits(out: &mut String, edits: &[Edit]) -> fmt::Result {
    for edit in edits {
        write!(out, "  edit at offset {}", edit.offset)?;
        if let Some(vaddr) = edit.vaddr {
            write!(out, ", address {vaddr}")?;
        }
        writeln!(out, ": {}, {}", name_of(&edit.role), name_of(&edit.strategy))?;
        let (before, after) = (shown_bytes(&edit.before), shown_bytes(&edit.after));
        let width = before.len().max(after.len());
        let [before_asm, after_asm] = assembly(edit);
        side(out, '-', paint::BAD, &before, width, &before_asm)?;
        side(out, '+', paint::GOOD, &after, width, &after_asm)?;
    }
    Ok(())
}

fn side(out: &mut String, sign: char, style: Style, hex: &str, width: usize, asm: &[String]) -> fmt::Result {
    out.push_str("    ");
    painted(out, style, &sign)?;
    let line = format!(" {hex:width$}  {}", asm.join("; "));
    writeln!(out, "{}", line.trim_end())
}

/// The bytes before and after as assembly; nothing for bytes that are no code.
pub fn assembly(edit: &Edit) -> [Vec<String>; 2] {
    let code = |bytes: &[u8]| edit.vaddr.map_or_else(Vec::new, |at| crate::code::assembly(bytes, at));
    match edit.role {
        Role::Constant | Role::Call => [code(&edit.before), code(&edit.after)],
        Role::Stub | Role::Detour | Role::Guard => {
            let unless_unused = |bytes| if is_unused(bytes) { vec![] } else { code(bytes) };
            [unless_unused(&edit.before), unless_unused(&edit.after)]
        }
        Role::Pointer | Role::Header | Role::Page | Role::Pointers | Role::Init | Role::Fill => {
            [vec![], vec![]]
        }
    }
}

/// Whether the bytes are what stands where nothing is: one byte over and over.
fn is_unused(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[0] == pair[1])
}

/// `value` in the colours of `style`.
pub fn painted(out: &mut String, style: Style, value: &dyn fmt::Display) -> fmt::Result {
    write!(out, "{style}{value}{style:#}")
}

/// `48 c7 c0`
pub fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The bytes in hexadecimal; of long ones the number.
pub fn shown_bytes(bytes: &[u8]) -> String {
    const MOST: usize = 64;
    match bytes.len() {
        0 => "(nothing)".into(),
        len if len > MOST => format!("({len} bytes)"),
        _ => hex_bytes(bytes),
    }
}

/// The stable name of a role or a strategy.
pub fn name_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("{other:?} is no name"),
    }
}

//! What the tool saw of a site, as a listing: the instructions on the address' way from the one that holds it
//! to every use, with what each does, and the code around them. Data for [`crate::report`]; nothing is
//! decided here.

use crate::addr::{FileOffset, Vaddr};
use crate::code;
use crate::plan::PlannedSite;
use crate::site::{Deed, Form, Step};

/// Instructions between two steps that are shown; more are left out.
const BETWEEN: usize = 6;

/// Instructions behind the last step that are shown, to see what comes of a result.
const BEHIND: usize = 2;

/// One instruction, or one word of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where in the file.
    pub offset: FileOffset,
    /// Its address.
    pub vaddr: Vaddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its assembly; nothing for data.
    pub assembly: Option<String>,
    /// What it does with the address; nothing where it has to do with something else.
    pub deed: Option<Deed>,
    /// Code was left out between the line before and this one.
    pub is_behind_gap: bool,
}

/// The listing of `site`, which a plan for the file `bytes` has.
#[must_use]
pub fn listing(bytes: &[u8], site: &PlannedSite) -> Vec<Line> {
    let is_data = |step: &Step| step.deed == Deed::Holds && matches!(site.form, Form::DataWord | Form::Data);
    let mut lines: Vec<Line> = Vec::new();
    let mut behind: Option<(FileOffset, Vaddr)> = None;
    for step in &site.steps {
        let between = behind.and_then(|behind| between(bytes, behind, step));
        let is_behind_gap = behind.is_some() && between.is_none();
        lines.extend(between.unwrap_or_default());
        let Some(shown) = bytes.get(step.offset.index()..).and_then(|rest| rest.get(..step.len)) else {
            break;
        };
        let assembly = (!is_data(step)).then(|| code::assembly(shown, step.vaddr).join("; "));
        let deed = Some(step.deed).filter(|&deed| deed != Deed::Near);
        let (offset, vaddr, bytes) = (step.offset, step.vaddr, shown.to_vec());
        lines.push(Line { offset, vaddr, bytes, assembly, deed, is_behind_gap });
        behind = (!is_data(step))
            .then(|| (FileOffset(step.offset.0 + step.len as u64), step.vaddr.plus(step.len as u64)));
    }
    if let Some(behind) = behind {
        for line in instructions(bytes, behind).take(BEHIND) {
            if lines.last().is_some_and(ends_flow) {
                break;
            }
            lines.push(line);
        }
    }
    lines
}

/// Whether code does not go on behind `line`.
fn ends_flow(line: &Line) -> bool {
    line.assembly.as_ref().is_some_and(|assembly| assembly.starts_with("ret") || assembly.starts_with("jmp"))
}

/// The instructions from `behind` up to `step`, where they are few and lead there.
fn between(bytes: &[u8], behind: (FileOffset, Vaddr), step: &Step) -> Option<Vec<Line>> {
    let lines: Vec<Line> =
        instructions(bytes, behind).take_while(|line| line.offset < step.offset).take(BETWEEN + 1).collect();
    let end = lines.last().map_or(behind.0.0, |line| line.offset.0 + line.bytes.len() as u64);
    (lines.len() <= BETWEEN && end == step.offset.0).then_some(lines)
}

/// The instructions at a place of the file, one after the other.
fn instructions(bytes: &[u8], start: (FileOffset, Vaddr)) -> impl Iterator<Item = Line> {
    let code = bytes.get(start.0.index()..).unwrap_or_default();
    code::instructions(code, start.1).map(move |(vaddr, bytes, assembly)| Line {
        offset: FileOffset(start.0.0 + (vaddr.0 - start.1.0)),
        vaddr,
        bytes: bytes.to_vec(),
        assembly: Some(assembly),
        deed: None,
        is_behind_gap: false,
    })
}

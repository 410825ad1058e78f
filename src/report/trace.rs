//! What programs were seen to do, as lines for people.

use std::fmt::{self, Write as _};

use super::escape::Escaped;
use super::paint;
use super::table::painted;
use crate::deny::Killed;
use crate::trace::caller::By;
use crate::trace::{CallingFile, Calls, Explained, Trace};

/// What to say where the kernel, not the filter, ended a program.
pub const NO_VSYSCALLS: &str = "killed by SIGSEGV, and this kernel has no vsyscalls (vsyscall=none): \
                                `vsyspatch doctor -- COMMAND` tells whether that is why";

/// `PROGRAM (PID) made a vsyscall ...`
#[must_use]
pub fn killed(killed: &Killed) -> String {
    let mut line = match &killed.program {
        Some(program) => program.to_string_lossy().into_owned(),
        None => "a program".into(),
    };
    if let Some(pid) = killed.pid {
        line += &format!(" (process {pid})");
    }
    match killed.entry {
        Some(entry) => line += &format!(" made the vsyscall {entry}"),
        None => line += ", or what it started, made a vsyscall",
    }
    line + ", and was killed for it: it does not live on a host with vsyscall=none"
}

/// The report of a traced program.
#[must_use]
pub fn traced(trace: &Trace) -> String {
    let mut out = String::new();
    write(&mut out, trace).expect("a string takes all");
    out
}

fn write(out: &mut String, trace: &Trace) -> fmt::Result {
    for file in &trace.files {
        painted(out, paint::NAME, &Escaped::path(&file.path))?;
        match &file.build_id {
            Some(id) => writeln!(out, ": build-id {id}")?,
            None => writeln!(out, ": no build-id")?,
        }
        calls(out, &file.calls)?;
    }
    for ((entry, reason), count) in &trace.unknown {
        writeln!(out, "{} of {entry}: {}", times(*count), Escaped::text(reason))?;
    }
    for (file, calls) in trace.unexplained() {
        mistake(out, file, calls)?;
    }
    let processes = match trace.processes {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    match trace.count() {
        0 => writeln!(out, "no vsyscall was made"),
        count => writeln!(out, "{} of the vsyscall page, by {processes}", times(count)),
    }
}

fn times(count: u64) -> String {
    if count == 1 { "1 call".into() } else { format!("{count} calls") }
}

/// One aligned line per place: where the call returned to, function, entry, count, the site.
fn calls(out: &mut String, calls: &[Calls]) -> fmt::Result {
    let rows: Vec<[String; 4]> = calls.iter().map(cells).collect();
    let mut widths = [0; 4];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (row, calls) in rows.iter().zip(calls) {
        out.push_str("  ");
        for (cell, &width) in row.iter().zip(&widths) {
            write!(out, "{cell:width$}  ")?;
        }
        match &calls.explained {
            Ok(explained) => painted(out, paint::GOOD, &site(*explained))?,
            Err(_) => painted(out, paint::BAD, &"not listed by scan")?,
        }
        out.push('\n');
    }
    Ok(())
}

fn cells(calls: &Calls) -> [String; 4] {
    let function = calls.function.as_deref().map_or("-".into(), |name| Escaped::text(name).to_string());
    let place = format!("before offset {}", calls.returned_to);
    [place, function, calls.entry.to_string(), times(calls.count)]
}

fn site(explained: Explained) -> String {
    let site = match (explained.site, explained.form) {
        (Some(site), Some(form)) => format!("site {site}, {form}"),
        _ => "the address came from elsewhere".into(),
    };
    match explained.by {
        By::TailJump => site + ", jumped to from there",
        By::Edit | By::Function | By::Travel => site,
    }
}

/// All that is needed to look into a call that a scan did not list.
fn mistake(out: &mut String, file: &CallingFile, calls: &Calls) -> fmt::Result {
    let Err(reason) = &calls.explained else { return Ok(()) };
    painted(out, paint::BAD, &"scan does not list this call; please report it with the file:")?;
    writeln!(out, "\n  file          {}", Escaped::path(&file.path))?;
    if let Some(sha256) = file.sha256 {
        writeln!(out, "  sha256        {sha256}")?;
    }
    writeln!(out, "  build-id      {}", file.build_id.as_deref().unwrap_or("-"))?;
    writeln!(out, "  call of       {}, {}", calls.entry, times(calls.count))?;
    writeln!(out, "  returned to   offset {}", calls.returned_to)?;
    writeln!(out, "  function      {}", calls.function.as_deref().unwrap_or("-").escape_debug())?;
    writeln!(out, "  why           {}", Escaped::text(reason))?;
    writeln!(out, "  vsyspatch     {}", env!("CARGO_PKG_VERSION"))
}

//! Commands about programs that run: `doctor`, `exec` and `trace`. The status of a program that is run is theirs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::process::Command;

use super::args::{Common, Doctor, Exec, Trace};
use super::output::Output;
use crate::deny::{self, SIGNAL_BY_KERNEL};
use crate::doctor::host::Host;
use crate::doctor::log::{self, KernelLog};
use crate::error::Error;
use crate::outcome::Status;
use crate::report::json::Document;
use crate::report::{doctor as diagnosis, text, trace as report};
use crate::trace;
use crate::watch::{self, Ended};

/// The command that the words make.
fn command(words: Vec<OsString>) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Says what is known of vsyscalls on this host, in a log, or in the end of a program.
///
/// # Errors
/// Those of stdout.
pub fn doctor(doctor: Doctor, common: &Common, output: &Output) -> io::Result<u8> {
    if let Some(path) = &doctor.log {
        let read = || match path.to_str() {
            Some("-") => log::read(io::stdin().lock()),
            _ => log::read(BufReader::new(File::open(path)?)),
        };
        let deaths = match read() {
            Ok(deaths) => deaths,
            Err(error) => {
                return Ok(failed(&Error::io(format!("cannot read {}", path.display()), error), output));
            }
        };
        let status = if deaths.is_empty() { Status::Clean } else { Status::Findings };
        if common.json {
            output.result(&Document::of_log(deaths, status).to_text())?;
        } else if !common.quiet || status != Status::Clean {
            output.result(&diagnosis::deaths(&deaths))?;
        }
        return Ok(status.code());
    }
    if !doctor.command.is_empty() {
        return Ok(autopsy(doctor.command, output));
    }
    let host = Host::of_this_machine();
    let status = if host.works() { Status::Clean } else { Status::Findings };
    if common.json {
        output.result(&Document::of_host(host, status).to_text())?;
    } else if !common.quiet || status != Status::Clean {
        output.result(&diagnosis::host(&host))?;
    }
    Ok(status.code())
}

/// Runs a program and explains its end on stderr: where vsyscalls are emulated by looking at those that it makes, else by
/// what the kernel's log tells, where it can be read.
fn autopsy(words: Vec<OsString>, output: &Output) -> u8 {
    let emulates = watch::emulates();
    let log = KernelLog::from_now();
    let ended = if emulates == Some(true) {
        trace::trace(command(words)).map(|traced| (traced.ended, traced.count()))
    } else {
        let watched = watch::start(command(words), None);
        let ended = watched.and_then(|watched| {
            let ended = watched.until_end(|listener, question| listener.let_pass(question));
            ended.map_err(|error| Error::io("cannot watch the program", error))
        });
        ended.map(|ended| (ended, 0))
    };
    match ended {
        Ok((ended, calls)) => {
            let deaths = log.and_then(KernelLog::deaths).unwrap_or_default();
            output.note(&diagnosis::end(ended, calls, emulates, &deaths));
            ended.status()
        }
        Err(error) => failed(&error, output),
    }
}

/// Runs a program with vsyscalls denied, and names on stderr what is killed for one.
pub fn exec(exec: Exec, common: &Common, output: &Output) -> u8 {
    let tell = |killed: &deny::Killed| output.message(&text::message(&report::killed(killed)));
    let ended = deny::exec(command(exec.command), tell);
    if ended.as_ref().is_ok_and(|ended| *ended == Ended::Killed(SIGNAL_BY_KERNEL))
        && watch::emulates() == Some(false)
        && !common.quiet
    {
        output.message(&text::message(report::NO_VSYSCALLS));
    }
    ended.map_or_else(|error| failed(&error, output), Ended::status)
}

/// Runs a program and tells of its vsyscalls.
pub fn trace(trace: Trace, common: &Common, output: &Output) -> u8 {
    let traced = match trace::trace(command(trace.command)) {
        Ok(traced) => traced,
        Err(error) => return failed(&error, output),
    };
    let missed = traced.unexplained().next().is_some();
    let status = if missed { Status::Findings } else { Status::Clean };
    let ended = traced.ended.status();
    let told = if common.json {
        Document::of_trace(&traced, status).to_text()
    } else if common.quiet && !missed {
        String::new()
    } else {
        report::traced(&traced)
    };
    match trace.output {
        None => output.note(&told),
        Some(path) => {
            let told = anstream::adapter::strip_str(&told).to_string();
            if let Err(error) = fs::write(&path, told) {
                return failed(&Error::io(format!("cannot write {}", path.display()), error), output);
            }
        }
    }
    if ended == 0 { status.code() } else { ended }
}

fn failed(error: &Error, output: &Output) -> u8 {
    output.message(&text::message(&error.to_string()));
    Status::of(error).code()
}

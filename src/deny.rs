//! Runs a program, and everything that it starts, with vsyscalls denied, on a kernel that still emulates them.
//!
//! A program that makes a vsyscall is killed by SIGSYS, or by SIGKILL where it would not die of SIGSYS; with a
//! kernel that has no vsyscalls (`vsyscall=none`) it gets SIGSEGV before any filter is asked.

use std::ffi::OsString;
use std::io;
use std::process::Command;

use rustix::process::{Signal, kill_process};

use crate::error::Result;
use crate::vsyscall::Entry;
use crate::watch::filter::Verdict;
use crate::watch::process::Thread;
use crate::watch::{self, Ended};

/// Signal that ends a program which makes a vsyscall under the filter: SIGSYS (a shell shows status 159).
pub const SIGNAL_BY_FILTER: i32 = 31;

/// Signal that ends it where the kernel itself has no vsyscalls: SIGSEGV (a shell shows status 139).
pub const SIGNAL_BY_KERNEL: i32 = 11;

/// A process that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killed {
    /// Its program; nothing where nothing tells.
    pub program: Option<OsString>,
    /// Its number, as this process sees it.
    pub pid: Option<u32>,
    /// The call that it made.
    pub entry: Option<Entry>,
}

/// Runs `command` until the last process that it started has ended; `tell` hears of each that is killed.
///
/// # Errors
/// `Io` where the program cannot be run, or watched.
pub fn exec(command: Command, mut tell: impl FnMut(&Killed)) -> Result<Ended> {
    let program = command.get_program().to_owned();
    // Where nobody may listen the kernel kills, and does not say whom.
    let watched = watch::start(command, Some(Verdict::Kill))?;
    let is_heard = watched.is_heard();
    let ended = watched.until_end(|listener, question| {
        let thread = Thread::new(question.thread);
        let (program, pid) = (thread.program(), thread.process());
        let signal = if thread.is_ended_by(SIGNAL_BY_FILTER as u32) { Signal::SYS } else { Signal::KILL };
        if !listener.is_waiting(question) {
            return Ok(());
        }
        tell(&Killed { program, pid, entry: Entry::at(question.instruction_pointer) });
        match kill_process(question.thread, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => result.map_err(io::Error::from),
        }
    });
    let ended = ended.map_err(|error| crate::error::Error::io("cannot watch the program", error))?;
    if ended == Ended::Killed(SIGNAL_BY_FILTER) && !is_heard {
        tell(&Killed { program: Some(program), pid: None, entry: None });
    }
    Ok(ended)
}

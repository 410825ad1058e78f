//! Runs a program, and everything that it starts, under a filter that tells of every vsyscall, on a kernel that
//! emulates these. No privilege is needed, and nothing is traced in the sense of `ptrace`.
//!
//! A thread of this process installs the filter on itself (a filter belongs to a thread), starts the program, which
//! inherits the filter, and ends. This process reaps what the program leaves behind, passes on the signals that
//! it gets, and ends with the last process under the filter: then there is nobody left to ask.

pub mod filter;
pub mod listener;
pub mod process;

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, set_child_subreaper, wait as wait_for_any,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::error::{Error, ErrorKind, Result};
use filter::{Verdict, filter};
use listener::{Listener, Question};

/// Signals that are meant for the program.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal.
    Killed(i32),
}

impl Ended {
    /// The status as a shell shows it: 128 and the signal's number for a program that was killed.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    fn of(status: WaitStatus) -> Option<Self> {
        let exited = status.exit_status().and_then(|status| u8::try_from(status).ok()).map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Killed))
    }
}

/// Whether this kernel emulates vsyscalls; nothing where `/proc` does not tell.
#[must_use]
pub fn emulates() -> Option<bool> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    Some(maps.lines().any(|line| line.ends_with("[vsyscall]")))
}

/// A program that runs.
#[derive(Debug)]
pub struct Watched {
    child: Pid,
    listener: Option<Listener>,
    /// What came for the program since it was started.
    signals: Signals,
}

/// Starts `command` under a filter that asks about each vsyscall. Where nobody may listen, because the kernel is
/// older than 5.0 or somebody listens already, `otherwise` is what becomes of vsyscalls, or the error.
///
/// # Errors
/// `Io` where the filter cannot be installed or the program cannot be run.
pub fn start(mut command: Command, otherwise: Option<Verdict>) -> Result<Watched> {
    let program = command.get_program().to_string_lossy().escape_debug().to_string();
    // Without: what loses its parent goes to the system's first process, and is not waited for.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
    let signals = Signals::new(PASSED_ON).map_err(|error| Error::io("cannot pass signals on", error))?;
    let starter = thread::spawn(move || -> Result<(Child, Option<Listener>)> {
        let refused = |error| Error::io("cannot install the seccomp filter", error);
        let listener = match (Listener::install(&filter(Verdict::Ask)), otherwise) {
            (Ok(listener), _) => Some(listener),
            (Err(_), Some(verdict)) => listener::install(&filter(verdict)).map(|()| None).map_err(refused)?,
            (Err(error), None) => return Err(refused(error)),
        };
        let child = command.spawn().map_err(|error| Error::io(format!("cannot run {program}"), error))?;
        Ok((child, listener))
    });
    let ended = |_| Error::new(ErrorKind::Io, "the thread that starts the program died");
    let (child, listener) = starter.join().map_err(ended)??;
    Ok(Watched { child: Pid::from_child(&child), listener, signals })
}

impl Watched {
    /// Whether each vsyscall is asked about; else the kernel does what `otherwise` said, and nobody hears of it.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.listener.is_some()
    }

    /// Waits for the end of the program and of everything that it started; `ask` answers the questions that come
    /// until then.
    ///
    /// # Errors
    /// Those of `ask` and of the kernel.
    pub fn until_end(self, mut ask: impl FnMut(&Listener, &Question) -> io::Result<()>) -> io::Result<Ended> {
        let Self { child, listener, mut signals } = self;
        let passing = signals.handle();
        let passer = thread::spawn(move || {
            for signal in signals.forever().filter_map(Signal::from_named_raw) {
                let _ = kill_process(child, signal);
            }
        });
        let (over, at_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let reaper = thread::spawn(move || reap(child, at_end));
        if let Some(listener) = &listener {
            answer(listener, &over, &mut ask)?;
        }
        let ended = reaper.join().map_err(|_| io::Error::other("the thread that waits died"))?;
        passing.close();
        passer.join().map_err(|_| io::Error::other("the thread that passes signals on died"))?;
        ended?.ok_or_else(|| io::Error::other("the program ended and nobody knows how"))
    }
}

/// Waits until there is no process left, and tells how `child` ended. `_at_end` is closed then.
fn reap(child: Pid, _at_end: OwnedFd) -> io::Result<Option<Ended>> {
    let mut ended = None;
    loop {
        match wait_for_any(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => ended = Ended::of(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(ended),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Answers until there is nobody left who could ask: `over` was closed at its other end.
fn answer(
    listener: &Listener,
    over: &OwnedFd,
    ask: &mut impl FnMut(&Listener, &Question) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(over, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        if ready[0].revents().contains(PollFlags::IN) {
            if let Some(question) = listener.receive()? {
                ask(listener, &question)?;
            }
        } else if ready.iter().any(|ready| ready.revents().contains(PollFlags::HUP)) {
            return Ok(());
        }
    }
}

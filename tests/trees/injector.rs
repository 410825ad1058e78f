//! Runs that are hindered: killed or failing at one of their system calls, or with something else done meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{self, Ran, need, skip};
use crate::tree::Tree;

/// Runs the command with faults.
pub struct Injector {
    program: PathBuf,
    directory: tempfile::TempDir,
    runs: AtomicUsize,
}

/// How a hindered run went.
pub struct Hindered {
    pub ran: Ran,
    /// The calls that write, in order.
    pub calls: Vec<String>,
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    NoSpace,
    Io,
    /// Nothing fails, but the shell does this first where the tree is `root`.
    Meanwhile(&'static str),
}

impl Injector {
    /// Nothing where there is no compiler, or no such filter, which is said aloud.
    pub fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("fault");
        let source = harness::root().join("tests/trees/fault.c");
        if !need("cc") {
            return None;
        }
        let compile = ["-O1", "-Wall", "-Werror", "-o"];
        Ran::of(Command::new("cc").args(compile).arg(&program).arg(source)).expect(0);
        let injector = Self { program, directory, runs: AtomicUsize::new(0) };
        let nothing = Command::new(&injector.program).args(["/dev/null", "0", "0", "true"]).output();
        if nothing.expect("the program starts").status.code() == Some(125) {
            skip("system calls cannot be intercepted here");
            return None;
        }
        Some(injector)
    }

    /// Runs the command on `tree`, with `fault` at its system call `number` that writes (0: none).
    pub fn run(&self, tree: &Tree, line: &str, number: usize, fault: Fault) -> Hindered {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(run.to_string());
        let errno = match fault {
            Fault::Kill => 0,
            Fault::NoSpace => rustix::io::Errno::NOSPC.raw_os_error(),
            Fault::Io => rustix::io::Errno::IO.raw_os_error(),
            Fault::Meanwhile(_) => -1,
        };
        let mut command = Command::new(&self.program);
        if let Fault::Meanwhile(script) = fault {
            command.env("FAULT_COMMAND", script);
        }
        command.arg(&log).arg(number.to_string()).arg(errno.to_string());
        command.arg(env!("CARGO_BIN_EXE_vsyspatch")).args(line.split(' '));
        let ran = Ran::of(command.current_dir(tree.outside()));
        assert_ne!(ran.status, 125, "{ran}");
        let calls = fs::read_to_string(&log).expect("the calls").lines().map(str::to_owned).collect();
        fs::remove_file(log).expect("the calls were read");
        Hindered { ran, calls }
    }
}

/// Calls `check` for every number up to `count`, on all processors; the messages of those that failed.
pub fn for_each_number(count: usize, check: impl Fn(usize) + Sync) -> Vec<String> {
    let next = AtomicUsize::new(1);
    let failed = std::sync::Mutex::new(vec![]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > count {
                        return;
                    }
                    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(number)));
                    if let Err(panic) = checked {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text =
                            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                        failed.lock().unwrap().push(text.unwrap_or_default());
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

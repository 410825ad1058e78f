//! The command: argv -> options -> run -> exit status.

mod args;
mod fleet;
mod output;
mod program;
mod progress;
mod run;

use std::io;
use std::process::ExitCode;

use args::Args;
use clap::CommandFactory as _;
use output::Output;

use crate::outcome::Status;

/// How the command line is spelt, for man pages and completions.
#[must_use]
pub fn definition() -> clap::Command {
    Args::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Where the allocator cannot, it takes more memory.
    let _ = crate::memory::give_back_large_blocks();
    let args = match Args::parse_from_os(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => return explain(&error),
    };
    let output = Output::new(args.common.color, args.common.quiet);
    match run::run(args, &output) {
        Ok(status) => ExitCode::from(status),
        Err(error) => stdout_failed(&error, &output),
    }
}

/// Prints what clap has to say: a usage error (2), or the help that was asked for (0).
fn explain(error: &clap::Error) -> ExitCode {
    let status = if error.use_stderr() { Status::Failed } else { Status::Clean };
    match error.print() {
        Err(error) if status == Status::Clean => {
            stdout_failed(&error, &Output::new(args::Color::Auto, false))
        }
        _ => ExitCode::from(status.code()),
    }
}

/// A reader that has seen enough is a success; a result that could not be written is not.
fn stdout_failed(error: &io::Error, output: &Output) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::from(Status::Clean.code());
    }
    output.message(&format!("vsyspatch: cannot write to stdout: {error}"));
    ExitCode::from(Status::Failed.code())
}

//! The command `vsyspatch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vsyspatch::cli::main()
}

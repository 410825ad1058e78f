//! What the tests of the command share: running it, and the sample.

#![allow(dead_code, reason = "each test program uses its part")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The sample that `demo` carries: one direct call of `time`.
pub const SAMPLE: &[u8] = include_bytes!("../../corpus/prebuilt/demo");

/// Where the sample's two edits are.
pub const SAMPLE_CONSTANT: usize = 0x124;

/// The command, in an environment that says nothing about colours.
pub fn vsyspatch(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsyspatch"));
    command.current_dir(folder);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

/// Runs the command and takes what it says.
pub fn run<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Ran {
    Ran::from(vsyspatch(folder).args(arguments).output().expect("the command starts"))
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    /// The run, if it ended with `status`.
    #[track_caller]
    pub fn ends_with(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        self
    }

    /// stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A fresh folder with the sample in it.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_program(&folder.path().join("sample"), SAMPLE);
    folder
}

/// Writes a file that may be run.
pub fn write_program(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::write(path, bytes).expect("a file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    path.into()
}

/// Says that a test did not run, and fails it where everything must run.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    if let Some(log) = std::env::var_os("VSYSPATCH_SKIP_LOG") {
        // tests/run counts these lines.
        let mut log = fs::OpenOptions::new().create(true).append(true).open(log).expect("the skip log opens");
        writeln!(log, "SKIPPED {why}").expect("the skip log is written");
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped although CI=true: {why}");
}

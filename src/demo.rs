//! The whole story on an embedded sample: scan, run and see it killed, patch, verify, run, revert.
//!
//! Every step is this program again with the arguments that a user would type, in a fresh folder. What
//! is shown is therefore what a user gets; and a process that denies itself vsyscalls is one of its own.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{self, Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::deny::{SIGNAL_BY_FILTER, SIGNAL_BY_KERNEL};
use crate::digest::Sha256;

/// Static, its `time()` written in the way of glibc 2.13's; made from `corpus/demo.s`.
pub(crate) const SAMPLE: &[u8] = include_bytes!("../corpus/prebuilt/demo");

/// The program that runs, even where its file was replaced or removed meanwhile.
const MYSELF: &str = "/proc/self/exe";

/// What the patched sample's clock may differ from ours by, in seconds; it is read a moment before.
const CLOCK_TOLERANCE: u64 = 60;

const ORIGINAL: &str = "sample";
const PATCHED: &str = "sample.patched";
const REVERTED: &str = "sample.reverted";

/// Who stopped the sample from making its vsyscall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeniedBy {
    /// The kernel emulates vsyscalls; the filter of [`crate::deny`] killed the sample.
    Filter,
    /// The kernel has none (`vsyscall=none`); the sample crashed for real.
    Kernel,
}

/// One command and how it ended.
#[derive(Debug, serde::Serialize)]
pub struct Step {
    /// As a user would type it.
    pub command: String,
    /// The exit status, as a shell shows it.
    pub status: i32,
}

/// The story as it went, as far as it went.
#[derive(Debug, Default, serde::Serialize)]
pub struct Story {
    /// The commands, in order.
    pub steps: Vec<Step>,
    /// Who denied the vsyscall.
    pub denied_by: Option<DeniedBy>,
    /// Checksum of the sample.
    pub original: Option<Sha256>,
    /// Checksum of the patched sample.
    pub patched: Option<Sha256>,
    /// Checksum after the revert.
    pub reverted: Option<Sha256>,
    /// Where the story went otherwise than told; nothing if all of it held.
    pub differed: Option<String>,
}

/// Why the story stopped.
enum Stop {
    /// Something went otherwise than told.
    Differed(String),
    /// What is told could not be written.
    Tell(io::Error),
}

impl From<String> for Stop {
    fn from(differed: String) -> Self {
        Self::Differed(differed)
    }
}

/// Runs the story; `tell` gets it piece by piece, in `color` or not.
///
/// # Errors
/// Those of `tell`. What went wrong in the story itself is in [`Story::differed`].
pub fn run(color: bool, tell: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<Story> {
    let mut teller = Teller { color, tell, story: Story::default() };
    match teller.in_fresh_folder() {
        Ok(()) => {}
        Err(Stop::Differed(what)) => teller.story.differed = Some(what),
        Err(Stop::Tell(error)) => return Err(error),
    }
    Ok(teller.story)
}

struct Teller<'a> {
    color: bool,
    tell: &'a mut dyn FnMut(&str) -> io::Result<()>,
    story: Story,
}

/// What a step left behind.
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Teller<'_> {
    fn in_fresh_folder(&mut self) -> Result<(), Stop> {
        let folder = fresh_folder();
        let folder = folder.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        let told = self.all_steps(folder.path());
        folder.close().map_err(|error| format!("cannot remove the temporary folder: {error}"))?;
        told
    }

    fn all_steps(&mut self, folder: &Path) -> Result<(), Stop> {
        write_sample(folder).map_err(|error| format!("cannot write the sample: {error}"))?;
        self.say("A static program with the time() of glibc 2.13. What does it call?\n")?;
        self.expect(folder, &["scan", ORIGINAL], 1)?;
        self.see_it_killed(folder)?;

        self.say("\nThe call is replaced by a real system call:\n")?;
        self.expect(folder, &["patch", ORIGINAL, PATCHED], 0)?;
        self.expect(folder, &["verify", PATCHED], 0)?;
        self.see_it_work(folder)?;

        self.say("\nAnd back:\n")?;
        self.expect(folder, &["revert", PATCHED, REVERTED], 0)?;
        self.compare_checksums(folder)
    }

    fn see_it_killed(&mut self, folder: &Path) -> Result<(), Stop> {
        self.say("\nRun without vsyscalls, it is gone before it can say a word:\n")?;
        let ended = self.step(folder, &["exec", "--", "./sample"])?;
        let (by, what) = match shell_status(ended.status) - 128 {
            SIGNAL_BY_FILTER => (
                DeniedBy::Filter,
                "  killed by SIGSYS (status 159): this kernel emulates vsyscalls, so a seccomp filter denied\n  \
                 it here; a kernel with vsyscall=none ends it by SIGSEGV (status 139)\n",
            ),
            SIGNAL_BY_KERNEL => (
                DeniedBy::Kernel,
                "  killed by SIGSEGV (status 139): this kernel has no vsyscalls (vsyscall=none)\n",
            ),
            _ => return Err(not_as_told("the sample was not killed", &ended).into()),
        };
        self.story.denied_by = Some(by);
        self.say(what)
    }

    fn see_it_work(&mut self, folder: &Path) -> Result<(), Stop> {
        self.say("\nRun in the same way again:\n")?;
        let ended = self.step(folder, &["exec", "--", "./sample.patched"])?;
        let seconds =
            ended.stdout.strip_prefix("time() works: ").and_then(|rest| rest.trim_end().parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let is_right = seconds.is_some_and(|told: u64| now.abs_diff(told) <= CLOCK_TOLERANCE);
        if !ended.status.success() || !is_right {
            return Err(not_as_told("the patched sample did not tell the time", &ended).into());
        }
        Ok(())
    }

    fn compare_checksums(&mut self, folder: &Path) -> Result<(), Stop> {
        let sum_of = |name: &str| -> Result<Sha256, String> {
            let bytes =
                fs::read(folder.join(name)).map_err(|error| format!("cannot read {name}: {error}"))?;
            Ok(Sha256::of(&bytes))
        };
        let [original, patched, reverted] = [sum_of(ORIGINAL)?, sum_of(PATCHED)?, sum_of(REVERTED)?];
        self.story.original = Some(original);
        self.story.patched = Some(patched);
        self.story.reverted = Some(reverted);
        let mut lines = String::from("\nsha256\n");
        for (sum, name) in [(original, ORIGINAL), (patched, PATCHED), (reverted, REVERTED)] {
            lines += &format!("  {sum}  {name}\n");
        }
        self.say(&lines)?;
        if patched == original {
            return Err("the patched sample is not different".to_owned().into());
        }
        if reverted != original || original != Sha256::of(SAMPLE) {
            return Err("the reverted sample is not the original".to_owned().into());
        }
        self.say("\nThe story held: the original is back, byte for byte.\n")
    }

    /// Runs a step that must end with `status`.
    fn expect(&mut self, folder: &Path, arguments: &[&str], status: i32) -> Result<(), Stop> {
        let ended = self.step(folder, arguments)?;
        if ended.status.code() == Some(status) {
            return Ok(());
        }
        Err(not_as_told(&format!("{} did not end with status {status}", arguments[0]), &ended).into())
    }

    /// Runs this program with `arguments` and tells what it says.
    fn step(&mut self, folder: &Path, arguments: &[&str]) -> Result<Ended, Stop> {
        let typed = format!("vsyspatch {}", arguments.join(" "));
        self.say(&format!("$ {typed}\n"))?;
        let ended = command(self.color, arguments, folder).output();
        let ended = ended.map_err(|error| format!("cannot run {typed}: {error}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let ended = Ended { status: ended.status, stdout: text(ended.stdout), stderr: text(ended.stderr) };
        self.say(&ended.stderr)?;
        self.say(&ended.stdout)?;
        self.story.steps.push(Step { command: typed, status: shell_status(ended.status) });
        Ok(ended)
    }

    fn say(&mut self, text: &str) -> Result<(), Stop> {
        if text.is_empty() {
            return Ok(());
        }
        (self.tell)(text).map_err(Stop::Tell)
    }
}

/// In the temporary folder; an image of one static program has none, nor says where another would be.
fn fresh_folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("vsyspatch-demo.");
    let is_bare = env::var_os("TMPDIR").is_none() && !env::temp_dir().exists();
    if is_bare { builder.tempdir_in(env::current_dir()?) } else { builder.tempdir() }
}

/// How to run this program again; without `/proc` by the name it was called by.
fn myself() -> PathBuf {
    let called = || env::args_os().next().map(PathBuf::from);
    let named = |name: &PathBuf| name.components().count() > 1;
    match called().filter(|_| !Path::new(MYSELF).exists()) {
        Some(name) if named(&name) => path::absolute(&name).unwrap_or(name),
        Some(name) => name,
        None => PathBuf::from(MYSELF),
    }
}

fn command(color: bool, arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(myself());
    command.args(["--color", if color { "always" } else { "never" }]);
    // Closed at once; there need not be a /dev/null.
    command.args(arguments).current_dir(folder).stdin(Stdio::piped());
    command
}

fn write_sample(folder: &Path) -> io::Result<()> {
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(folder.join(ORIGINAL))?;
    file.write_all(SAMPLE)
}

/// The status as a shell shows it: 128 and the signal's number for a program that was killed.
fn shell_status(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// What was told, and what came instead.
fn not_as_told(what: &str, ended: &Ended) -> String {
    let said = ended.stderr.lines().chain(ended.stdout.lines()).next().unwrap_or("nothing");
    let status = shell_status(ended.status);
    let remedy = if said.contains("Permission denied") {
        " (set TMPDIR to a folder from which programs may be run)"
    } else {
        ""
    };
    format!("{what}: status {status}, it said: {said}{remedy}")
}

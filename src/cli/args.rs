//! argv -> validated [`Args`]: the only place that knows how the command line is spelt.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::image::Cache;
use crate::image::Platform;
use crate::image::reference::Access;
use crate::plan;
use crate::session;

const AFTER_HELP: &str = "\
Exit status, the same for all commands:
  0  nothing (left) to do
  1  scan: something to patch; patch, verify, revert: something refused, or a finding;
     all: a file that cannot be looked into (packed with UPX, for example)
  2  an error: unreadable, malformed, no record, wrong usage
  3  a network or a registry failed; trying again may help (fleet: as may a full disk or a file system that is away)
Of several targets the worst status wins.

A program that needs this dies with status 139 (SIGSEGV), and the kernel logs
  vsyscall attempted with vsyscall=none";

/// Frees old x86-64 programs from the vsyscall page: finds their calls into it and replaces them by
/// system calls, in the file, with a record that undoes it byte for byte.
#[derive(Debug, Parser)]
#[command(name = "vsyspatch", version = env!("VSYSPATCH_VERSION"), after_help = AFTER_HELP, max_term_width = 100)]
pub struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Write one JSON document (vsyspatch.report/1) to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing on success (but a JSON document, and the reference of an image that was sent to a registry)
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more: harmless look-alikes, and every edit before and after
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// In which form a command tells what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One document vsyspatch.report/1.
    Json,
    /// One SARIF 2.1.0 log, for code scanning.
    Sarif,
}

/// The form of the report.
#[derive(Clone, Debug, clap::Args)]
pub struct Form {
    /// Form of the report; --json is short for --format json
    #[arg(long, value_name = "FORM", value_enum, conflicts_with = "json")]
    pub format: Option<Format>,
    /// Write a page for a person to this file, too: what was found, before and after, checksums
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what calls the vsyscall page, where, how, and what would be done about it
    Scan(Scan),
    /// Show for each site what was seen: the code, the way of the address, the verdict, before and after
    Explain(Explain),
    /// Write the patched file and its record
    Patch(Patch),
    /// Prove that a patched file is the original plus the recorded edits, and has no call left
    Verify(Verify),
    /// Write the original, byte for byte
    Revert(Revert),
    /// Show the whole story on an embedded sample, on any machine
    Demo,
    /// Tell what this host does with vsyscalls, what a kernel's log tells of them, or why a command died
    Doctor(Doctor),
    /// Run a command with vsyscalls denied: what makes one is killed, as on a host without them
    Exec(Exec),
    /// Run a command and tell which code of which file makes vsyscalls, and whether scan lists it
    Trace(Trace),
    /// Do the same to thousands of images, trees and files, on any number of machines
    Fleet(super::fleet::Fleet),
}

/// `scan TARGET...`
#[derive(Debug, clap::Args)]
pub struct Scan {
    /// ELF files (programs, shared objects, relocatable objects), archives, directories with all in them, or
    /// images: oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME]
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<PathBuf>,
    /// List files without a site too, and in JSON the harmless sites
    #[arg(long)]
    pub all: bool,
    /// What calls become, when they are patched.
    #[command(flatten)]
    pub way: Way,
    /// What is looked at in directories.
    #[command(flatten)]
    pub walk: Walk,
    /// What is remembered of images.
    #[command(flatten)]
    pub memory: Memory,
    /// Which image is meant.
    #[command(flatten)]
    pub image: Image,
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The form of the report.
    #[command(flatten)]
    pub form: Form,
    /// How far doubt counts.
    #[command(flatten)]
    pub strict: Strict,
}

/// `explain TARGET`
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// ELF file or archive to look at
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
    /// Only the site at this address or file offset (0x1ecf0, or decimal)
    #[arg(long, value_name = "ADDR", value_parser = number)]
    pub site: Option<u64>,
    /// What calls become, when they are patched.
    #[command(flatten)]
    pub way: Way,
}

/// A number as assembly has it: hexadecimal behind `0x`, else decimal.
fn number(word: &str) -> Result<u64, std::num::ParseIntError> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    }
}

/// `patch TARGET (OUT | -o OUT | --in-place)`
#[derive(Debug, clap::Args)]
pub struct Patch {
    /// ELF file or archive to patch, directory with all in it, or image (oci:DIR[:TAG], docker-archive:FILE ...)
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
    /// Where the result goes.
    #[command(flatten)]
    pub destination: Destination,
    /// What calls become.
    #[command(flatten)]
    pub way: Way,
    /// The record to write [default: OUT.vsyspatch.json, or TARGET.vsyspatch.json with --in-place;
    /// of a directory var/lib/vsyspatch/record.json in it]
    #[arg(long, value_name = "PATH")]
    pub record: Option<PathBuf>,
    /// Write an image, too, in which there is nothing to patch
    #[arg(long)]
    pub always: bool,
    /// Write the digest of the new image, too
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// What becomes of attributes and names.
    #[command(flatten)]
    pub keep: Keep,
    /// What is looked at in directories.
    #[command(flatten)]
    pub walk: Walk,
    /// What is remembered of images.
    #[command(flatten)]
    pub memory: Memory,
    /// Which image is meant.
    #[command(flatten)]
    pub image: Image,
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The form of the report.
    #[command(flatten)]
    pub form: Form,
    /// How far doubt counts.
    #[command(flatten)]
    pub strict: Strict,
}

/// `verify TARGET...`
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Patched ELF files, directories, or images
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<PathBuf>,
    /// The record to read; only with one target [default: TARGET.vsyspatch.json,
    /// of a directory var/lib/vsyspatch/record.json in it]
    #[arg(long, value_name = "PATH")]
    pub record: Option<PathBuf>,
    /// The image that the patched one must come of
    #[arg(long, value_name = "SRC")]
    pub against: Option<PathBuf>,
    /// What is looked at in directories.
    #[command(flatten)]
    pub walk: Walk,
    /// Which image is meant.
    #[command(flatten)]
    pub image: Image,
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The form of the report.
    #[command(flatten)]
    pub form: Form,
    /// How far doubt counts.
    #[command(flatten)]
    pub strict: Strict,
}

/// `revert TARGET (OUT | -o OUT | --in-place)`
#[derive(Debug, clap::Args)]
pub struct Revert {
    /// Patched ELF file, directory, or image
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
    /// Where the result goes.
    #[command(flatten)]
    pub destination: Destination,
    /// The record to read [default: TARGET.vsyspatch.json,
    /// of a directory var/lib/vsyspatch/record.json in it]
    #[arg(long, value_name = "PATH")]
    pub record: Option<PathBuf>,
    /// Write the digest of the new image, too
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// What becomes of attributes and names.
    #[command(flatten)]
    pub keep: Keep,
    /// What is remembered of images.
    #[command(flatten)]
    pub memory: Memory,
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
}

/// What is looked at in directories.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Directories")]
pub struct Walk {
    /// Only files that match: usr/lib/*.so* is a path from the directory, libc-*.so any last name
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// No files that match, and nothing in directories that match
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Do not enter other file systems that are mounted there (always so for /)
    #[arg(long)]
    pub one_file_system: bool,
    /// Number of threads [default: as many as processors]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
}

/// Which image of several is meant.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Images")]
pub struct Image {
    /// The one of an index that is for this platform: linux/amd64 [default: all for x86-64]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
}

/// How to get at registries.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Registries")]
pub struct Registry {
    /// false: accept certificates that nobody vouches for
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Directory with certificates of further authorities (*.crt, *.pem)
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Who to be; without: what docker login and podman login know
    #[arg(long, value_name = "USER:PASSWORD")]
    pub creds: Option<String>,
    /// File that docker login or podman login wrote
    #[arg(long, value_name = "PATH")]
    pub authfile: Option<PathBuf>,
}

/// What is remembered of images.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Images")]
pub struct Memory {
    /// Directory with what is known of layers that were looked at before; it may be removed at any time
    /// [default: vsyspatch in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache_dir: Option<PathBuf>,
    /// Look at every layer anew, and remember nothing (verify always does)
    #[arg(long)]
    pub no_cache: bool,
}

impl Memory {
    /// What the words mean.
    #[must_use]
    pub fn cache(&self) -> Option<Cache> {
        let of_user = || Cache::of_user().filter(|_| !self.no_cache);
        self.cache_dir.clone().map(Cache::new).or_else(of_user)
    }
}

impl Registry {
    /// What the words mean.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            is_insecure: !self.tls_verify,
            certificates: self.cert_dir.clone(),
            credentials: self.creds.clone(),
            credentials_file: self.authfile.clone(),
        }
    }
}

/// What calls become.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Way {
    /// What calls become: system calls, the smallest change; or calls of the kernel's vDSO, a hundred times faster than
    /// emulated ones, for which the file grows by a page (for programs that ask the time all the time; sandboxes do
    /// not see the calls); auto: the vDSO where the file can take the page
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    pub via: Via,
}

/// The values of `--via`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// System calls.
    #[default]
    Syscall,
    /// The vDSO, or refused.
    Vdso,
    /// The vDSO, or else system calls.
    Auto,
}

/// What becomes of attributes and names of a file that is replaced.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Keep {
    /// Keep the modification time, though the content changes (rsync and make would miss that)
    #[arg(long)]
    pub preserve_mtime: bool,
    /// Replace files that have further hard links elsewhere: these keep the old content
    #[arg(long)]
    pub break_links: bool,
}

/// Where a command that writes puts its result.
#[derive(Debug, clap::Args)]
pub struct Destination {
    /// Where to write the result
    #[arg(value_name = "OUT", conflicts_with_all = ["output", "in_place"])]
    pub out: Option<PathBuf>,
    /// Where to write the result, the same as a second argument
    #[arg(short, long, value_name = "OUT", conflicts_with = "in_place")]
    pub output: Option<PathBuf>,
    /// Replace the target
    #[arg(short, long)]
    pub in_place: bool,
    /// Print the plan, write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// How far doubt counts.
#[derive(Debug, clap::Args)]
pub struct Strict {
    /// Exit with status 1 for a site that is unproven, too
    #[arg(long)]
    pub strict: bool,
}

const AFTER_DOCTOR: &str = "\
Exit status: without --log and CMD 0 where calls work on this host, 1 where they do not; with --log 1 where the log tells of
programs that died of a vsyscall; with CMD its status.";

/// `doctor [--log FILE | -- CMD...]`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_DOCTOR)]
pub struct Doctor {
    /// Read dmesg, journalctl, syslog or the log of a node from this file (-: stdin)
    #[arg(long, value_name = "FILE", conflicts_with = "command")]
    pub log: Option<PathBuf>,
    /// Run this program with its arguments, and explain its end
    #[arg(value_name = "CMD", last = true)]
    pub command: Vec<OsString>,
}

const AFTER_EXEC: &str = "\
The command, and everything that it starts, runs under a seccomp filter; no privilege is needed. A process that makes a
vsyscall is killed by SIGSYS (status 159), and its program is named on stderr; one that catches, ignores or blocks
SIGSYS, or is the first process of a container, is killed by SIGKILL (137). A kernel without vsyscalls kills it
itself, by SIGSEGV (139).

The exit status is that of the command, 128 and the signal's number where a signal ended it; 2 where it cannot be run.
vsyspatch ends with the last process that the command started. Programs that gain privileges (setuid) do not gain them.

  docker run --rm -v $PWD/vsyspatch:/vsyspatch --entrypoint /vsyspatch IMAGE exec -- /bin/bash -c true";

const AFTER_TRACE: &str = "\
Calls pass, and are told of at the end on stderr: per caller the file, its build-id, the offset that the call returned to,
the function, the entry and how often; threads and children included; with --json as a document. A call that scan does not list is a mistake of
scan; what is needed to report it is told.

The exit status is that of the command; 1 where that is 0 and scan missed a call; 2 where it cannot be traced. The host
must emulate vsyscalls (vsyscall=xonly or emulate), Linux 5.5 or later. A call takes about 0.1 ms more.";

/// `exec -- CMD...`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_EXEC)]
pub struct Exec {
    /// Program and arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// `trace -- CMD...`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_TRACE)]
pub struct Trace {
    /// Write the report to this file instead of stderr
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Program and arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

impl Args {
    /// Parses and validates a command line.
    ///
    /// # Errors
    /// clap's own, ready to print; `--help` and `--version` come this way too.
    pub fn parse_from_os(argv: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args = Self::try_parse_from(argv)?;
        args.validate().map_err(|message| Self::command().error(ErrorKind::ArgumentConflict, message))?;
        Ok(args)
    }

    fn validate(&self) -> Result<(), &'static str> {
        match &self.command {
            Command::Patch(Patch { destination, .. }) | Command::Revert(Revert { destination, .. })
                if !destination.is_known() =>
            {
                Err("say where the result goes: OUT, -o OUT or --in-place (or --dry-run to write nothing)")
            }
            Command::Verify(Verify { targets, record: Some(_), .. }) if targets.len() > 1 => {
                Err("--record names the record of one target, but there are several")
            }
            Command::Exec(_) if self.common.json => {
                Err("--json: exec has no report, its output is that of the command (trace has one)")
            }
            Command::Doctor(Doctor { command, .. }) if self.common.json && !command.is_empty() => {
                Err("--json: the end of a command is explained as text only (trace has a report)")
            }
            _ => Ok(()),
        }
    }
}

impl Destination {
    fn is_known(&self) -> bool {
        self.dry_run || self.in_place || self.out.is_some() || self.output.is_some()
    }

    /// The one place that the words name.
    #[must_use]
    pub fn resolve(self) -> session::Destination {
        match self.out.or(self.output) {
            _ if self.dry_run => session::Destination::DryRun,
            Some(out) => session::Destination::To(out),
            None => session::Destination::InPlace,
        }
    }
}

impl Way {
    /// What the word means to the engine.
    #[must_use]
    pub fn resolve(self) -> plan::Via {
        match self.via {
            Via::Syscall => plan::Via::Syscall,
            Via::Vdso => plan::Via::Vdso,
            Via::Auto => plan::Via::Auto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_destination_is_needed_once() {
        let accepted = |words: &str| Args::parse_from_os(words.split(' ').map(OsString::from)).is_ok();
        for command in ["patch", "revert"] {
            for good in ["A B", "A -o B", "--output=B A", "-i A", "A --in-place", "-n A", "-n A B", "-n -i A"]
            {
                assert!(accepted(&format!("vsyspatch {command} {good}")), "{command} {good}");
            }
            for bad in ["A", "A B C", "A B -o C", "A B -i", "A -o B -i", "-o B", "--record R A"] {
                assert!(!accepted(&format!("vsyspatch {command} {bad}")), "{command} {bad}");
            }
        }
        assert!(accepted("vsyspatch verify A --record R"));
        assert!(!accepted("vsyspatch verify A B --record R"));
        assert!(!accepted("vsyspatch scan A -q -v"));
        assert!(accepted("vsyspatch explain A --site 0x1ecf0") && accepted("vsyspatch explain A --site 12"));
        assert!(!accepted("vsyspatch explain A --site ecf0") && !accepted("vsyspatch explain A B"));
    }
}

//! argv -> validated [`Args`]: the only place that knows how the command line is spelt.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::image::reference::Access;
use crate::session;

const AFTER_HELP: &str = "\
Exit status, the same for all commands:
  0  nothing (left) to do
  1  scan: something to patch; patch, verify, revert: something refused, or a finding;
     all: a file that cannot be looked into (packed with UPX, for example)
  2  an error: unreadable, malformed, no record, wrong usage
  3  a network or a registry failed; trying again may help
Of several targets the worst status wins.

A program that needs this dies with status 139 (SIGSEGV), and the kernel logs
  vsyscall attempted with vsyscall=none";

/// Frees old x86-64 programs from the vsyscall page: finds their calls into it and replaces them by
/// system calls, in the file, with a record that undoes it byte for byte.
#[derive(Debug, Parser)]
#[command(name = "vsyspatch", version, after_help = AFTER_HELP, max_term_width = 100)]
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
    /// Print nothing on success (a JSON document is still written)
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more: harmless look-alikes, and every edit before and after
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub color: Color,
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
    /// Run a program with vsyscalls denied: one that makes such a call is killed
    #[command(hide = true)]
    Exec(Exec),
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
    /// What is looked at in directories.
    #[command(flatten)]
    pub walk: Walk,
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
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
    /// The record to write [default: OUT.vsyspatch.json, or TARGET.vsyspatch.json with --in-place;
    /// of a directory var/lib/vsyspatch/record.json in it]
    #[arg(long, value_name = "PATH")]
    pub record: Option<PathBuf>,
    /// Write an image, too, in which there is nothing to patch
    #[arg(long)]
    pub always: bool,
    /// What becomes of attributes and names.
    #[command(flatten)]
    pub keep: Keep,
    /// What is looked at in directories.
    #[command(flatten)]
    pub walk: Walk,
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
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
    /// How to get at registries.
    #[command(flatten)]
    pub registry: Registry,
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
    /// What becomes of attributes and names.
    #[command(flatten)]
    pub keep: Keep,
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

/// `exec -- CMD...`
#[derive(Debug, clap::Args)]
pub struct Exec {
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

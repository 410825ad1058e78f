//! What this host does with vsyscalls.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use flate2::read::GzDecoder;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;

use crate::demo::SAMPLE;
use crate::limits;

/// How the page is mapped. The names are those of the kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It can be read; calls trap and are emulated.
    Emulate,
    /// It cannot be read; calls trap and are emulated.
    Xonly,
    /// It is not there: a call is SIGSEGV.
    None,
}

/// What came of one real call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// It returned.
    Works,
    /// The program died of it, by SIGSEGV.
    Crashes,
    /// The program that makes it could not be run, or ended otherwise.
    Unknown,
}

/// What this host says, and does. What cannot be read is nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Release of the kernel.
    pub release: Option<String>,
    /// The `[vsyscall]` line of `/proc/self/maps`.
    pub mode: Option<Mode>,
    /// `vsyscall=` of the kernel's command line; the last one counts.
    pub parameter: Option<String>,
    /// Lines on vsyscalls in the kernel's build configuration.
    pub configuration: Vec<String>,
    /// What came of a real call in a process of its own.
    pub call: Call,
}

impl Host {
    /// Asks this one.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let release = read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        let configuration = release.as_deref().and_then(configuration).unwrap_or_default();
        Self {
            mode: read("/proc/self/maps").map(|maps| mode(&maps)),
            parameter: read("/proc/cmdline").and_then(|line| parameter(&line)),
            configuration: vsyscall_lines(&configuration),
            call: call(),
            release,
        }
    }

    /// Whether old programs work here: what happened counts, and what is told only where nothing could be tried.
    #[must_use]
    pub fn works(&self) -> bool {
        match self.call {
            Call::Works => true,
            Call::Crashes => false,
            Call::Unknown => matches!(self.mode, Some(Mode::Emulate | Mode::Xonly)),
        }
    }
}

fn mode(maps: &str) -> Mode {
    match maps.lines().find(|line| line.ends_with("[vsyscall]")) {
        Some(line) if line.split(' ').nth(1).is_some_and(|rights| rights.starts_with('r')) => Mode::Emulate,
        Some(_) => Mode::Xonly,
        None => Mode::None,
    }
}

fn parameter(line: &str) -> Option<String> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("vsyscall="))
        .next_back()
        .map(str::to_owned)
}

fn configuration(release: &str) -> Option<String> {
    let mut text = String::new();
    if let Ok(file) = File::open("/proc/config.gz") {
        GzDecoder::new(file).take(limits::DOCUMENT_BYTES).read_to_string(&mut text).ok()?;
        return Some(text);
    }
    let names = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    names.iter().find_map(|name| fs::read_to_string(name).ok())
}

fn vsyscall_lines(configuration: &str) -> Vec<String> {
    configuration
        .lines()
        .filter(|line| line.contains("_X86_VSYSCALL") || line.contains("_LEGACY_VSYSCALL"))
        .map(str::to_owned)
        .collect()
}

/// Runs a static program, from memory, that makes one call of `time` in the page.
fn call() -> Call {
    let run = || {
        let mut file = File::from(memfd_create("vsyscall", MemfdFlags::CLOEXEC)?);
        file.write_all(SAMPLE)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).output()
    };
    match run() {
        Ok(output) if output.status.success() => Call::Works,
        Ok(output) if output.status.signal() == Some(crate::deny::SIGNAL_BY_KERNEL) => Call::Crashes,
        _ => Call::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_understood() {
        let line = |rights| {
            format!(
                "7ffd-7ffe r-xp 0 00:00 0 [vdso]\nffffffffff600000-ffffffffff601000 {rights} 00000000 00:00 0    [vsyscall]\n"
            )
        };
        assert_eq!(mode(&line("r-xp")), Mode::Emulate);
        assert_eq!(mode(&line("--xp")), Mode::Xonly);
        assert_eq!(mode("7ffd-7ffe r-xp 0 00:00 0 [vdso]\n"), Mode::None);
        assert_eq!(parameter("quiet vsyscall=none ro vsyscall=xonly\n").as_deref(), Some("xonly"));
        assert_eq!(parameter("novsyscall=1 quiet"), None);
        let text = "CONFIG_X86=y\nCONFIG_LEGACY_VSYSCALL_NONE=y\n# CONFIG_LEGACY_VSYSCALL_XONLY is not set\n";
        assert_eq!(vsyscall_lines(text).len(), 2);
    }
}

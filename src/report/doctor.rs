//! Diagnoses, as lines for people: what is, what it means, what can be done.

use std::fmt::{self, Write as _};

use super::escape::Escaped;
use super::paint;
use super::table::painted;
use crate::deny::{SIGNAL_BY_FILTER, SIGNAL_BY_KERNEL};
use crate::doctor::host::{Call, Host, Mode};
use crate::doctor::log::Death;
use crate::watch::Ended;

const CHOICES: &str = "\
what can be done:
  patch the programs    vsyspatch scan DIR; vsyspatch patch --in-place DIR
                        works on every host, needs no right over this one
  or change this host   vsyscall=xonly on the kernel's command line, and boot again
    GRUB                GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub or grub2-mkconfig
    systemd-boot        the options line in /boot/loader/entries/*.conf, or /etc/kernel/cmdline
    WSL                 kernelCommandLine=vsyscall=xonly in [wsl2] of .wslconfig, then wsl --shutdown
                        (no use with kernels that are built without CONFIG_X86_VSYSCALL_EMULATION)
                        xonly, not emulate: both run the calls, but emulate leaves a page of code at a fixed
                        address that every program can read
";

/// What this host does.
#[must_use]
pub fn host(host: &Host) -> String {
    let mut out = String::new();
    write_host(&mut out, host).expect("a string takes all");
    out
}

fn write_host(out: &mut String, host: &Host) -> fmt::Result {
    let line =
        |out: &mut String, name: &str, value: &str| writeln!(out, "{name:<22}{}", Escaped::text(value));
    line(out, "kernel", host.release.as_deref().unwrap_or("unknown"))?;
    let mode = match host.mode {
        Some(Mode::Emulate) => "emulate: [vsyscall] is mapped, readable, and calls are emulated",
        Some(Mode::Xonly) => "xonly: [vsyscall] is mapped, and calls are emulated",
        Some(Mode::None) => "none: [vsyscall] is not mapped",
        None => "unknown: /proc/self/maps cannot be read",
    };
    line(out, "mode", mode)?;
    let parameter =
        host.parameter.as_ref().map_or("no vsyscall=".into(), |value| format!("vsyscall={value}"));
    line(out, "kernel command line", &parameter)?;
    match &host.configuration[..] {
        [] => line(out, "build configuration", "not readable here")?,
        lines => lines.iter().try_for_each(|text| line(out, "build configuration", text))?,
    }
    let call = match host.call {
        Call::Works => "works",
        Call::Crashes => "the program died by SIGSEGV (status 139)",
        Call::Unknown => "could not be tried",
    };
    line(out, "a real call of time", call)?;
    if host.works() {
        painted(
            out,
            paint::GOOD,
            &"vsyscalls work here: programs that make them run; each call costs a trap into the kernel",
        )?;
        return writeln!(
            out,
            "\non hosts with vsyscall=none they die with status 139: vsyspatch exec -- COMMAND shows it here"
        );
    }
    painted(
        out,
        paint::BAD,
        &"vsyscalls do not work here: programs that make them die by SIGSEGV, status 139, without output",
    )?;
    write!(out, "\n{CHOICES}")
}

/// What a log tells.
#[must_use]
pub fn deaths(deaths: &[Death]) -> String {
    let mut out = String::new();
    write_deaths(&mut out, deaths).expect("a string takes all");
    out
}

fn write_deaths(out: &mut String, deaths: &[Death]) -> fmt::Result {
    for death in deaths {
        painted(out, paint::NAME, &Escaped::text(&death.program))?;
        write!(out, " (process {}): ", death.pid)?;
        match death.entry {
            Some(entry) => write!(out, "died calling {entry} in the vsyscall page")?,
            None => write!(out, "died at {:#x}, in the vsyscall page but no entry of it", death.address)?,
        }
        if death.count > 1 {
            write!(out, ", {} times", death.count)?;
        }
        match &death.first {
            Some(when) => writeln!(out, "; {}", Escaped::text(when))?,
            None => out.push('\n'),
        }
    }
    if deaths.is_empty() {
        return writeln!(out, "the log tells of no program that died of a vsyscall");
    }
    writeln!(
        out,
        "next: vsyspatch scan the programs, their libraries or the whole image, then vsyspatch patch"
    )
}

/// Why a program ended as it did; `told` is what the kernel's log has of while it ran.
#[must_use]
pub fn end(ended: Ended, calls: u64, emulates: Option<bool>, told: &[Death]) -> String {
    let what = match ended {
        Ended::Exited(status) => format!("it ended with status {status}"),
        Ended::Killed(signal) => format!("it was killed by signal {signal} (status {})", ended.status()),
    };
    let is_killed_by = |signal: i32| ended.status() == 128 + signal as u8;
    let why = match (emulates, calls) {
        (Some(true), 1..) => format!(
            "it made {calls} vsyscalls, which this host emulates: with vsyscall=none it dies with status 139. \
             vsyspatch trace -- COMMAND shows from where"
        ),
        (Some(true), 0) if is_killed_by(SIGNAL_BY_FILTER) => {
            "SIGSYS: a filter of system calls killed it, and no vsyscall was seen".into()
        }
        (Some(true), 0) => "it made no vsyscall: they are not its problem".into(),
        (_, _) if is_killed_by(SIGNAL_BY_KERNEL) && !told.is_empty() => {
            let told = deaths(told);
            return format!(
                "vsyspatch: {what}\nvsyspatch: SIGSEGV; the kernel's log says of while it ran:\n{told}"
            );
        }
        (_, _) if is_killed_by(SIGNAL_BY_KERNEL) => {
            "SIGSEGV, and this host has no vsyscalls: that is how programs that make one die. \
             dmesg | vsyspatch doctor --log - tells whether it was, vsyspatch scan which file"
                .into()
        }
        (_, _) if is_killed_by(SIGNAL_BY_FILTER) => {
            "SIGSYS: a filter of system calls killed it; vsyspatch exec does so for a vsyscall".into()
        }
        (_, _) => "this host has no vsyscalls, and it did not die of one".into(),
    };
    format!("vsyspatch: {what}\nvsyspatch: {why}\n")
}

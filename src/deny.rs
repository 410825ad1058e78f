//! Runs a program with the vsyscall page denied, on a kernel that still emulates it.
//!
//! A seccomp filter sees an emulated call with the instruction pointer inside the page; no other code
//! can be there. The process installs the filter on itself and becomes the program, so nothing is
//! traced and no privilege is needed. A program that makes a vsyscall is killed by SIGSYS; with a
//! kernel that has no vsyscalls (`vsyscall=none`) it gets SIGSEGV before any filter is asked.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::sock_filter;

use crate::error::{Error, ErrorKind};
use crate::vsyscall::PAGE;

/// Signal that ends a program which makes a vsyscall under the filter: SIGSYS (a shell shows status 159).
pub const SIGNAL_BY_FILTER: i32 = 31;

/// Signal that ends it where the kernel itself has no vsyscalls: SIGSEGV (a shell shows status 139).
pub const SIGNAL_BY_KERNEL: i32 = 11;

// linux/bpf_common.h, linux/seccomp.h
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
const KILL_PROCESS: u32 = 0x8000_0000; // SECCOMP_RET_KILL_PROCESS
const IP_LOW: u32 = 8; // offset of instruction_pointer in struct seccomp_data, little-endian
const IP_HIGH: u32 = IP_LOW + 4;

/// The filter: kill the process for any system call made at or above the vsyscall page.
///
/// Nothing but the page is executable for a program up there, so its upper bound need not be tested.
fn filter() -> Vec<sock_filter> {
    let [high, low] = [(PAGE >> 32) as u32, PAGE as u32];
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let jump = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    vec![
        statement(LOAD_WORD, IP_HIGH),
        jump(JUMP_IF_EQUAL, high, 0, 3), // else: allow
        statement(LOAD_WORD, IP_LOW),
        jump(JUMP_IF_AT_LEAST, low, 0, 1), // else: allow
        statement(RETURN, KILL_PROCESS),
        statement(RETURN, ALLOW),
    ]
}

/// Denies vsyscalls to this process and becomes `command`. Returns only where that failed.
pub fn exec(mut command: Command) -> Error {
    if let Err(error) = seccompiler::apply_filter(&filter()) {
        return Error::new(ErrorKind::Io, format!("cannot install the seccomp filter: {error}"));
    }
    let program = command.get_program().to_string_lossy().escape_debug().to_string();
    Error::io(format!("cannot run {program}"), command.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on one instruction pointer as the kernel's classic BPF machine does.
    fn verdict(ip: u64) -> u32 {
        let program = filter();
        let (mut at, mut word) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD_WORD if step.k == IP_LOW => word = ip as u32,
                LOAD_WORD if step.k == IP_HIGH => word = (ip >> 32) as u32,
                JUMP_IF_EQUAL => at += jump(word == step.k),
                JUMP_IF_AT_LEAST => at += jump(word >= step.k),
                RETURN => return step.k,
                _ => panic!("unknown step {step:?}"),
            }
        }
    }

    #[test]
    fn the_filter_kills_in_the_page_and_nowhere_a_program_can_be() {
        for entry in crate::vsyscall::Entry::ALL {
            assert_eq!(verdict(entry.address()), KILL_PROCESS, "{entry}");
        }
        for ip in [0, 0x40_1000, 0xff60_0400, 0x7fff_ff60_0400, PAGE - 1, 0xffff_fffe_ff60_0400] {
            assert_eq!(verdict(ip), ALLOW, "{ip:#x}");
        }
    }
}

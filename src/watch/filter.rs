//! The filter: which system calls are vsyscalls.
//!
//! A seccomp filter sees an emulated call with the instruction pointer inside the page; no other code can be
//! there.

use libc::sock_filter;

use crate::vsyscall::PAGE;

// linux/bpf_common.h, linux/seccomp.h
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
const IP_LOW: u32 = 8; // offset of instruction_pointer in struct seccomp_data, little-endian
const IP_HIGH: u32 = IP_LOW + 4;

/// What the kernel does with a vsyscall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// `SECCOMP_RET_KILL_PROCESS`
    Kill = 0x8000_0000,
    /// `SECCOMP_RET_USER_NOTIF`: asks whoever listens.
    Ask = 0x7fc0_0000,
}

/// `verdict` for any system call made at or above the vsyscall page, all others are allowed.
///
/// Nothing but the page is executable for a program up there, so its upper bound need not be tested.
#[must_use]
pub fn filter(verdict: Verdict) -> [sock_filter; 6] {
    let [high, low] = [(PAGE >> 32) as u32, PAGE as u32];
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let jump = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    [
        statement(LOAD_WORD, IP_HIGH),
        jump(JUMP_IF_EQUAL, high, 0, 3), // else: allow
        statement(LOAD_WORD, IP_LOW),
        jump(JUMP_IF_AT_LEAST, low, 0, 1), // else: allow
        statement(RETURN, verdict as u32),
        statement(RETURN, ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on one instruction pointer as the kernel's classic BPF machine does.
    fn verdict(ip: u64) -> u32 {
        let program = filter(Verdict::Kill);
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
    fn the_filter_sees_the_page_and_nothing_where_a_program_can_be() {
        for entry in crate::vsyscall::Entry::ALL {
            assert_eq!(verdict(entry.address()), Verdict::Kill as u32, "{entry}");
        }
        for ip in [0, 0x40_1000, 0xff60_0400, 0x7fff_ff60_0400, PAGE - 1, 0xffff_fffe_ff60_0400] {
            assert_eq!(verdict(ip), ALLOW, "{ip:#x}");
        }
    }
}

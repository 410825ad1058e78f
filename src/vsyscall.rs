//! The facts of the vsyscall ABI: the page, its three entries, and the system calls that do the same.
//!
//! Source: Linux `arch/x86/include/uapi/asm/vsyscall.h`, `arch/x86/entry/vsyscall/vsyscall_64.c` and
//! `arch/x86/entry/syscalls/syscall_64.tbl`.

use std::fmt;

/// Address of the page. Only the three entries below are valid in it.
pub const PAGE: u64 = 0xffff_ffff_ff60_0000;

/// The distance between two entries.
pub const ENTRY_STRIDE: u64 = 0x400;

/// One of the three functions of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// `long gettimeofday(struct timeval *tv, struct timezone *tz)` at +0.
    Gettimeofday,
    /// `long time(time_t *t)` at +0x400.
    Time,
    /// `long getcpu(unsigned *cpu, unsigned *node, void *unused)` at +0x800.
    Getcpu,
}

impl Entry {
    /// All entries, by address.
    pub const ALL: [Self; 3] = [Self::Gettimeofday, Self::Time, Self::Getcpu];

    /// The fixed address that old programs call.
    #[must_use]
    pub fn address(self) -> u64 {
        PAGE + ENTRY_STRIDE * self as u64
    }

    /// The entry at exactly `address`.
    #[must_use]
    pub fn at(address: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|entry| entry.address() == address)
    }

    /// The entry whose address is `imm` sign-extended from 32 bits, as `mov $imm32,%r64` does.
    #[must_use]
    pub fn from_imm32(imm: u32) -> Option<Self> {
        Self::at(i64::from(imm.cast_signed()).cast_unsigned())
    }

    /// The number of the system call that does the same, for x86-64.
    #[must_use]
    pub fn syscall_number(self) -> u32 {
        match self {
            Self::Gettimeofday => 96,
            Self::Time => 201,
            Self::Getcpu => 309,
        }
    }

    /// The name, as reports and records spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gettimeofday => "gettimeofday",
            Self::Time => "time",
            Self::Getcpu => "getcpu",
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Entry;

    #[test]
    fn addresses_are_those_of_the_abi_and_no_others() {
        assert_eq!(Entry::Gettimeofday.address(), 0xffff_ffff_ff60_0000);
        assert_eq!(Entry::Time.address(), 0xffff_ffff_ff60_0400);
        assert_eq!(Entry::Getcpu.address(), 0xffff_ffff_ff60_0800);
        assert_eq!(Entry::at(0xffff_ffff_ff60_0c00), None);
        assert_eq!(Entry::from_imm32(0xff60_0400), Some(Entry::Time));
        assert_eq!(Entry::at(0xff60_0400), None);
    }
}

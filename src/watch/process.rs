//! What `/proc` tells of a thread that waits for an answer.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

/// A thread that asked may not have begun to wait: then the kernel says `running`.
const TRIES: u32 = 10_000;
const PAUSE: Duration = Duration::from_micros(50);

/// Part of a file in the memory of a program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, as the kernel names it.
    pub path: PathBuf,
    /// Its inode.
    pub inode: u64,
    /// Where in the file.
    pub offset: u64,
}

/// A thread that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Thread(Pid);

impl Thread {
    /// The one with this number.
    #[must_use]
    pub fn new(thread: Pid) -> Self {
        Self(thread)
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    /// The program that it runs: its path, or else its short name.
    #[must_use]
    pub fn program(self) -> Option<OsString> {
        let short = || fs::read(self.file("comm")).ok().map(|name| name.trim_ascii_end().to_owned());
        let path = fs::read_link(self.file("exe")).ok().map(OsString::from);
        path.or_else(|| short().map(OsString::from_vec))
    }

    /// Whether a signal with this number ends it: it is not caught, ignored or blocked, and not for the first process
    /// of a container, which the kernel keeps from signals that it does not handle (pid_namespaces(7)).
    #[must_use]
    pub fn is_ended_by(self, signal: u32) -> bool {
        let Ok(status) = fs::read_to_string(self.file("status")) else { return true };
        let has = |line: &str| {
            let sets = ["SigBlk:", "SigIgn:", "SigCgt:"];
            let set = sets.iter().find_map(|name| line.strip_prefix(name));
            set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
                .is_some_and(|set| set >> (signal - 1) & 1 == 1)
        };
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let is_first = numbers.split_ascii_whitespace().next_back() == Some("1");
        !is_first && !status.lines().any(has)
    }

    /// The number of its process, and the process's name for itself where it has none.
    #[must_use]
    pub fn process(self) -> Option<u32> {
        let status = fs::read_to_string(self.file("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
    }

    /// Where its call will return to: the word on the top of its stack.
    ///
    /// # Errors
    /// Those of reading `/proc/PID/syscall` and `/proc/PID/mem`, which needs the rights to trace it.
    pub fn return_address(self) -> io::Result<u64> {
        for _ in 0..TRIES {
            let line = fs::read_to_string(self.file("syscall"))?;
            // NUMBER ARGUMENT... STACK-POINTER INSTRUCTION-POINTER
            let mut words = line.split_ascii_whitespace().rev().skip(1);
            let stack = words.next().and_then(|word| word.strip_prefix("0x"));
            let Some(stack) = stack.and_then(|word| u64::from_str_radix(word, 16).ok()) else {
                thread::sleep(PAUSE);
                continue;
            };
            let mut word = [0; 8];
            File::open(self.file("mem"))?.read_exact_at(&mut word, stack)?;
            return Ok(u64::from_le_bytes(word));
        }
        Err(io::Error::other("the thread that makes the call does not wait"))
    }

    /// The file that is mapped at `address`; nothing where none is.
    ///
    /// # Errors
    /// Those of reading `/proc/PID/maps`.
    pub fn place(self, address: u64) -> io::Result<Option<Place>> {
        let maps = fs::read(self.file("maps"))?;
        Ok(maps.split(|&byte| byte == b'\n').find_map(|line| place(line, address)))
    }

    /// Opens the file at `place`: as the thread names it, or as this process does.
    #[must_use]
    pub fn open(self, place: &Place) -> Option<File> {
        let below_root = place.path.strip_prefix("/").ok().map(|path| self.file("root").join(path));
        let names = [below_root.as_deref(), Some(&*place.path)];
        let open = |name: Option<&Path>| {
            let file = File::open(name?).ok()?;
            let attributes = file.metadata().ok()?;
            attributes.is_file().then_some((attributes.ino(), file))
        };
        let mut found: Vec<(u64, File)> = names.into_iter().filter_map(open).collect();
        // On some file systems a map has another inode than the file.
        let same = found.iter().position(|(inode, _)| *inode == place.inode).unwrap_or_default();
        (same < found.len()).then(|| found.swap_remove(same).1)
    }
}

/// The place of `address` in a line of `/proc/PID/maps`, where it is in this one:
/// `START-END PERMISSIONS OFFSET DEVICE INODE PATH`, numbers in hex but for the inode.
fn place(line: &[u8], address: u64) -> Option<Place> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut next = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = next()?.split_once('-')?;
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    if !(start..end).contains(&address) {
        return None;
    }
    let (_permissions, offset, _device) = (next()?, hex(next()?)?, next()?);
    let inode = next()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    path.starts_with(b"/").then(|| Place {
        path: OsString::from_vec(unescaped(path)).into(),
        inode,
        offset: address - start + offset,
    })
}

/// The kernel writes a newline in a name as `\012`, and nothing else otherwise than it is.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(tail) => {
                out.push(b'\n');
                rest = tail;
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_maps() {
        let line = b"7f0000001000-7f0000003000 r-xp 00002000 fe:00 131      /lib/a b\\012c.so";
        let at = |address| place(line, address);
        assert_eq!((at(0x7f00_0000_0fff), at(0x7f00_0000_3000)), (None, None));
        let path = PathBuf::from("/lib/a b\nc.so");
        assert_eq!(at(0x7f00_0000_1234), Some(Place { path, inode: 131, offset: 0x2234 }));
        for other in
            ["1000-3000 r-xp 00000000 00:00 0 ", "1000-3000 r-xp 00000000 00:00 0    [heap]", "", "x"]
        {
            assert_eq!(place(other.as_bytes(), 0x2000), None, "{other}");
        }
    }
}

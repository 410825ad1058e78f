//! Lines of a kernel's log that tell of programs which died of a vsyscall, in whatever wrapping they come:
//!
//! ```text
//! bash[N] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33 sp:...
//! bash[N]: segfault at ffffffffff600400 ip ffffffffff600400 sp ... error 15
//! ```
//!
//! A kernel without emulation at all (`CONFIG_X86_VSYSCALL_EMULATION=n`) writes the second line alone, one that
//! limits its rate either.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use serde::Serialize;

use crate::vsyscall::{Entry, PAGE};

/// Bytes of a line that are looked at: journals have lines of megabytes.
const LINE_BYTES: u64 = 64 << 10;

const HINT: &str = " vsyscall attempted with vsyscall=none";
const SEGFAULT: &str = ": segfault at ";

/// A process that died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Death {
    /// Short name of the program (the kernel keeps 15 bytes).
    pub program: String,
    /// Number of the process.
    pub pid: u32,
    /// What it called; nothing where the page has no entry at the address.
    pub entry: Option<Entry>,
    /// The address that it called.
    pub address: u64,
    /// When it is first told of, as the log writes it.
    pub first: Option<String>,
    /// How often it is told of; both lines of one death count once.
    pub count: u64,
}

/// This host's kernel log, from some moment on.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// What is logged from now on.
    ///
    /// # Errors
    /// Those of opening `/dev/kmsg`, for which most hosts want a privilege.
    pub fn from_now() -> io::Result<Self> {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let mut log = OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// What it tells of vsyscalls by now.
    ///
    /// # Errors
    /// Those of reading.
    pub fn deaths(self) -> io::Result<Vec<Death>> {
        read(BufReader::new(self))
    }
}

impl Read for KernelLog {
    /// The next entry; nothing where there is none yet.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                // Entries were lost, because the log is full; the next read gives the first that is left.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                read => return read,
            }
        }
    }
}

/// The two kinds of line, counted.
#[derive(Debug, Default)]
struct Told {
    first: Option<String>,
    hints: u64,
    segfaults: u64,
}

/// Everything that the log tells of vsyscalls, in the order of the log.
///
/// # Errors
/// Those of reading.
pub fn read(mut log: impl BufRead) -> io::Result<Vec<Death>> {
    let mut order = vec![];
    let mut told: BTreeMap<(String, u32, u64), Told> = BTreeMap::new();
    let mut line = vec![];
    loop {
        line.clear();
        if log.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            log.skip_until(b'\n')?;
        }
        let Some(event) = Event::of(&String::from_utf8_lossy(&line)) else { continue };
        let key = (event.program, event.pid, event.address);
        let told = told.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            Told { first: event.when, ..Told::default() }
        });
        *(if event.is_hint { &mut told.hints } else { &mut told.segfaults }) += 1;
    }
    let death = |key: (String, u32, u64)| {
        let Told { first, hints, segfaults } = told.remove(&key).unwrap_or_default();
        let (program, pid, address) = key;
        Death { program, pid, entry: Entry::at(address), address, first, count: hints.max(segfaults) }
    };
    Ok(order.into_iter().map(death).collect())
}

struct Event {
    program: String,
    pid: u32,
    address: u64,
    when: Option<String>,
    is_hint: bool,
}

impl Event {
    fn of(line: &str) -> Option<Self> {
        let (is_hint, before, address) = match line.split_once(HINT) {
            Some((before, behind)) => (true, before, behind.split_once("ip:")?.1),
            None => line.split_once(SEGFAULT).map(|(before, behind)| (false, before, behind))?,
        };
        let digits = address.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        let address = u64::from_str_radix(digits, 16).ok().filter(|at| (PAGE..PAGE + 0x1000).contains(at))?;
        let (before, pid) = before.strip_suffix(']')?.rsplit_once('[')?;
        let (prefix, program) = split_program(before);
        Some(Self {
            program: program.to_owned(),
            pid: pid.parse().ok()?,
            address,
            when: when(prefix),
            is_hint,
        })
    }
}

/// What stands before the short name of a program, and the name. Names may have blanks, colons and brackets; what a
/// log puts before them ends in one of these.
fn split_program(before: &str) -> (&str, &str) {
    let ends = ["] ", "kernel: ", "\"", ">", "\t", ";"];
    let begin = ends.iter().filter_map(|end| before.rfind(end).map(|at| at + end.len())).max().unwrap_or(0);
    let (prefix, name) = before.split_at(begin);
    // A log that puts nothing there but a time.
    match name.rsplit_once(": ") {
        Some((_, last)) if begin == 0 => before.split_at(before.len() - last.len()),
        _ => (prefix, name),
    }
}

/// The time in front of a line: `2026-11-23T22:01:07+0000`, `Nov 23 22:01:07`, or else what is in brackets.
fn when(prefix: &str) -> Option<String> {
    let is_clock = |word: &str| {
        let word = word.as_bytes();
        word.len() >= 8 && word[2] == b':' && word[5] == b':' && word[..2].iter().all(u8::is_ascii_digit)
    };
    let is_stamp =
        |word: &str| word.split_once('T').is_some_and(|(day, clock)| day.len() == 10 && is_clock(clock));
    let (before, bracket) = prefix.rsplit_once('[').map_or((prefix, None), |(before, inside)| {
        (before, inside.split(']').next().map(str::trim).filter(|inside| !inside.is_empty()))
    });
    let trim = |word: &'_ str| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    let words: Vec<String> = before.split_ascii_whitespace().map(trim).collect();
    if let Some(stamp) = words.iter().find(|word| is_stamp(word)) {
        return Some(stamp.clone());
    }
    match words.iter().position(|word| is_clock(word)) {
        Some(clock) => Some(words[clock.saturating_sub(2)..=clock].join(" ")),
        None => bracket.map(str::to_owned),
    }
}

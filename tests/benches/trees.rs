//! What looking at a whole tree costs: `cargo bench --bench trees [-- DIR]`; DIR is `/usr` without.
//!
//! All runs of a comparison are interleaved, after one of each to fill the page cache; what is shown are medians
//! and their ratios. Against `rg` (Debian's package ripgrep) that searches every file for the two bytes that every
//! entry's address has; against the least that can be done, a walk that opens every file and reads what must be
//! read; and a tree against ten copies of it, in a temporary directory that needs a gigabyte. How far the least is from
//! `rg` depends on the machine, and tells what a scan can reach there.
//!
//! Files that were just written, as by a package manager, lie in the page cache in smaller pieces than those that were read:
//! for what a machine has after a start, drop its caches before (`echo 3 >/proc/sys/vm/drop_caches`).
//!
//! Peak memory: `/usr/bin/time -f '%M KiB' target/release/vsyspatch scan -q DIR`.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rayon::Scope;
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir};

/// Runs of each candidate; the median of an odd number is one of them.
const RUNS: usize = 11;

/// What a tree and its ten copies are compared with.
const SAMPLE_FILES: usize = 10_000;
const SAMPLE_BYTES: u64 = 100 << 20;
const SAMPLE_FILE_BYTES: u64 = 4 << 20;

/// Bytes read at a time, as the scan does.
const BLOCK: usize = 256 << 10;

/// Bytes of a line of memory: the kernel copies faster to the begin of one.
const LINE: usize = 64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LINE + BLOCK]);
}

fn main() {
    // `cargo test --all-targets` runs benches, too.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let named = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let dir = PathBuf::from(named.unwrap_or_else(|| "/usr".to_owned()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    println!("{}, {threads} threads, medians of {RUNS} runs", dir.display());

    let floor = || {
        let read = AtomicU64::new(0);
        pool.scope(|scope| {
            enter(scope, None, CString::new(dir.to_str().expect("UTF-8")).expect("a path"), &read)
        });
        std::hint::black_box(read.into_inner());
    };
    let search = || {
        let pattern = r"(?-u)\x60\xff";
        run(Command::new("rg").args(["-j", &threads.to_string(), "-uuu", "-c", "-a", pattern]).arg(&dir));
    };
    if Command::new("rg").arg("--version").stdout(Stdio::null()).status().is_ok() {
        let [scan, floor, search] = medians([&|| scan(&dir, threads), &floor, &search]);
        tell("scan", scan, "the least", floor);
        tell("scan", scan, "rg", search);
        tell("the least", floor, "rg", search);
    } else {
        println!("rg is not installed");
        let [scan, floor] = medians([&|| scan(&dir, threads), &floor]);
        tell("scan", scan, "the least", floor);
    }

    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (one, ten) = (temporary.path().join("one"), temporary.path().join("ten"));
    let files = sample(&dir, &one);
    fs::create_dir(&ten).expect("a directory");
    for copy in 0..10 {
        run(Command::new("cp").arg("-r").arg(&one).arg(ten.join(copy.to_string())));
    }
    let [ten, one] = medians([&|| self::scan(&ten, threads), &|| self::scan(&one, threads)]);
    tell(&format!("ten times {files} files"), ten, "once", one);
}

fn tell(name: &str, time: Duration, other: &str, other_time: Duration) {
    let ratio = time.as_secs_f64() / other_time.as_secs_f64();
    println!("{name} {:.3} s, {other} {:.3} s: {ratio:.2}", time.as_secs_f64(), other_time.as_secs_f64());
}

fn medians<const N: usize>(candidates: [&dyn Fn(); N]) -> [Duration; N] {
    candidates.iter().for_each(|candidate| candidate());
    let mut times = [const { Vec::new() }; N];
    for _ in 0..RUNS {
        for (candidate, times) in candidates.iter().zip(&mut times) {
            let begun = Instant::now();
            candidate();
            times.push(begun.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort();
        times[RUNS / 2]
    })
}

fn scan(dir: &Path, threads: usize) {
    let command = env!("CARGO_BIN_EXE_vsyspatch");
    run(Command::new(command).args(["scan", "-q", "-j", &threads.to_string()]).arg(dir));
}

/// Runs the command; 1 means that something was found or not.
fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.code().is_some(), "{command:?}: {status}");
}

/// Copies of files of `dir`, in one directory per hundred; their number.
fn sample(dir: &Path, to: &Path) -> usize {
    let (mut files, mut bytes, mut open) = (0, 0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(stat) = entry.metadata() else { continue };
            if stat.is_dir() {
                open.push(entry.path());
            } else if stat.is_file() && stat.len() <= SAMPLE_FILE_BYTES {
                let parent = to.join((files / 100).to_string());
                fs::create_dir_all(&parent).expect("a directory");
                fs::copy(entry.path(), parent.join(files.to_string())).expect("a copy");
                (files, bytes) = (files + 1, bytes + stat.len());
                if files == SAMPLE_FILES || bytes > SAMPLE_BYTES {
                    return files;
                }
            }
        }
    }
    files
}

/// Opens and reads what has to be, below the directory `name` in `parent`.
fn enter<'s>(scope: &Scope<'s>, parent: Option<Arc<OwnedFd>>, name: CString, read: &'s AtomicU64) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match &parent {
        Some(parent) => rustix::fs::openat(parent, &*name, flags, Mode::empty()),
        None => rustix::fs::openat(CWD, &*name, flags, Mode::empty()),
    };
    drop(parent);
    let Ok(fd) = opened.map(Arc::new) else { return };
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(fd.as_fd(), &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        match entry.file_type() {
            FileType::Directory if ![&b"."[..], b".."].contains(&name.to_bytes()) => {
                let (parent, name) = (fd.clone(), name.to_owned());
                scope.spawn(move |scope| enter(scope, Some(parent), name, read));
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(file) = rustix::fs::openat(&fd, name, flags, Mode::empty()) {
                    let count = BUFFER.with_borrow_mut(|buffer| {
                        let first = buffer.as_ptr().align_offset(LINE);
                        read_file(&file, &mut buffer[first..first + BLOCK])
                    });
                    read.fetch_add(count, Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }
}

/// Reads eight bytes, and of programs all segments but what the scan leaves out, too; of objects and archives everything.
fn read_file(file: &OwnedFd, block: &mut [u8]) -> u64 {
    let mut head = [0; 4096];
    let count = rustix::io::pread(file, &mut head[..8], 0).unwrap_or(0);
    if head.starts_with(b"!<arch>\n") {
        return read_range(file, 0, u64::MAX, block);
    }
    if count < 8 || !head.starts_with(b"\x7fELF") {
        return count as u64;
    }
    let _ = rustix::io::pread(file, &mut head[..], 0);
    let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (kind, machine, table, segments) = (half(16), half(18), field(32) as usize, half(56));
    if kind == 1 {
        return read_range(file, 0, u64::MAX, block);
    }
    let is_whole = table.checked_add(segments * 56).is_some_and(|end| end <= head.len());
    if machine != 62 || !is_whole {
        return count as u64;
    }
    let unread = if rustix::fs::fstat(file).is_ok_and(|stat| stat.st_size > 1 << 20) {
        runtime_tables(file, field(40), half(60), half(62)).unwrap_or_default()
    } else {
        Vec::new()
    };
    let loads = (0..segments).map(|index| table + index * 56).filter(|&at| head[at..at + 4] == [1, 0, 0, 0]);
    let read = |at: usize| {
        let whole = field(at + 8)..field(at + 8).saturating_add(field(at + 32));
        let (mut start, end) = (whole.start, whole.end);
        let is_constant = head[at + 4..at + 8] == [4, 0, 0, 0];
        let mut read = 0;
        for table in unread.iter().filter(|table| is_constant && whole.contains(&table.start)) {
            read += read_range(file, start, table.start.saturating_sub(start), block);
            start = table.end;
        }
        read + read_range(file, start, end.saturating_sub(start), block)
    };
    loads.map(read).sum()
}

/// What of a large program need not be read: sections of these names, by offset.
fn runtime_tables(file: &OwnedFd, at: u64, count: usize, names: usize) -> Option<Vec<Range<u64>>> {
    const NAMES: [&[u8]; 3] = [b".eh_frame_hdr\0", b".eh_frame\0", b".gopclntab\0"];
    let bytes = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        (rustix::io::pread(file, &mut bytes[..], at).ok()? == len).then_some(bytes)
    };
    let headers = bytes(at, count * 64)?;
    let field = |section: usize, at: usize| {
        let field = headers.get(section * 64 + at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*field))
    };
    let names =
        bytes(field(names, 24)?, usize::try_from(field(names, 32)?).ok().filter(|&len| len < 1 << 20)?)?;
    let mut tables = Vec::new();
    for section in 0..count {
        let name = names.get(field(section, 0)? as u32 as usize..)?;
        let start = field(section, 24)?;
        if NAMES.iter().any(|known| name.starts_with(known)) {
            tables.push(start..start.checked_add(field(section, 32)?)?);
        }
    }
    tables.sort_by_key(|table| table.start);
    Some(tables)
}

fn read_range(file: &OwnedFd, start: u64, size: u64, block: &mut [u8]) -> u64 {
    let mut done = 0;
    while done < size {
        let wanted = (size - done).min(block.len() as u64) as usize;
        match rustix::io::pread(file, &mut block[..wanted], start + done) {
            Ok(count) if count > 0 => done += count as u64,
            _ => break,
        }
    }
    done
}

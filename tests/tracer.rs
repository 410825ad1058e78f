//! Another pair of eyes: programs run under a tracer (tests/tracer/tracer.c) that sees every vsyscall they make
//! and where it returns to. Each must belong to a site that `scan` lists, found here without the tool's data
//! flow: only instructions are decoded, and functions looked up.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::source::{Dress, Source, Variant};
use harness::{
    Ran, Site, host_emulates, is_root, need, read, real_corpus, root, rootfs, scan, skip, temp_dir,
};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use vsyspatch::addr::{Vaddr, VaddrRange};
use vsyspatch::elf::{Image, Parsed, Segment, parse};
use vsyspatch::functions::Functions;
use vsyspatch::vsyscall::Entry;

/// How a vsyscall that was made belongs to a listed site, the most certain first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// It returns behind a call that an edit of the site replaces.
    Edit,
    /// The function that called holds the site.
    Function,
    /// The function that was called (or one that it jumps to) holds the site: a tail jump, so the page
    /// returned to the caller.
    TailJump,
    /// The site's address travels through memory, an argument or a returned value to a call elsewhere: the
    /// code that called has no address of its own.
    Travel,
}

/// Forms whose call may be in another function than the site, or in another file.
const TRAVELLING: [&str; 6] =
    ["ifunc-fallback", "stored-fallback", "data-word", "computed", "argument", "stored-constant"];

/// Longest call that is looked for before a return address.
const LONGEST_CALL: u64 = 9;

/// Bytes of code that are taken for a function where nothing tells of one.
const NEAR: u64 = 64;

/// Jumps from function to function that are followed to a tail jump into the page.
const JUMPS: usize = 4;

/// Calls that were seen: file and offset of the return address, and the entry.
type Seen = BTreeSet<(PathBuf, u64, Entry)>;

/// The tracer, compiled; nothing where programs cannot be traced here, which is said aloud.
fn tracer(dir: &Path) -> Option<PathBuf> {
    if !host_emulates() {
        skip("this host does not emulate vsyscalls: none can be seen");
        return None;
    }
    if !need("cc") {
        return None;
    }
    let tracer = dir.join("tracer");
    let source = root().join("tests/tracer/tracer.c");
    Ran::of(Command::new("cc").args(["-O1", "-Wall", "-Werror", "-o"]).arg(&tracer).arg(source)).expect(0);
    Some(tracer)
}

/// Runs `program` and returns the calls that it made.
fn trace(tracer: &Path, program: &[&str]) -> Seen {
    let output = tracer.with_extension("lines");
    let ran =
        Ran::of(Command::new(tracer).arg(&output).args(program).env("LC_ALL", "C").env("TERM", "xterm"));
    assert_ne!(ran.status, 125, "the tracer failed: {ran}");
    let lines = fs::read_to_string(&output).expect("the tracer's lines");
    let call = |line: &str| {
        let fields: Vec<_> = line.splitn(5, ' ').collect();
        let [_pid, entry, _address, offset, path] = fields[..] else { panic!("five fields: {line}") };
        let number = |hex: &str| u64::from_str_radix(hex, 16).expect("a number in hex");
        let address = number(entry);
        let entry = Entry::ALL.into_iter().find(|entry| entry.address() == address);
        let entry = entry.unwrap_or_else(|| panic!("a call into the page at no entry: {line}"));
        assert!(path.starts_with('/'), "the caller is in no file: {line}");
        (PathBuf::from(path), number(offset), entry)
    };
    lines.lines().map(call).collect()
}

/// A file that called, with what is needed to find out from where.
struct Caller<'a> {
    image: &'a Image<'a>,
    functions: Functions<'a>,
    /// Without those that the report calls harmless: a call through one of these belongs to none.
    sites: Vec<Site>,
}

impl Caller<'_> {
    /// How the call of `entry` that returned to file offset `offset` belongs to a site.
    fn belongs(&self, offset: u64, entry: Entry) -> Result<By, String> {
        let sites: Vec<&Site> = self.sites.iter().filter(|site| is_of(site, entry)).collect();
        let address = self.address(offset).ok_or("it returned to no segment")?;
        let calls = self.calls_before(address);
        if calls.is_empty() {
            return Err("it did not return behind a call".into());
        }
        let edits = sites.iter().flat_map(|site| &site.edits);
        if edits.into_iter().any(|edit| edit.offset + edit.before.len() as u64 == offset) {
            return Ok(By::Edit);
        }
        let (local, outward): (Vec<Instruction>, Vec<_>) =
            calls.iter().partition(|call| self.is_own_code(call));
        let mut ranges = vec![];
        if !outward.is_empty() {
            ranges.push((self.function(address - 1, address - NEAR..address), By::Function));
        }
        let mut called: BTreeSet<u64> = local.iter().map(Instruction::near_branch_target).collect();
        for _ in 0..JUMPS {
            ranges.extend(called.iter().map(|&at| (self.function(at, at..at + NEAR), By::TailJump)));
            called = called.iter().flat_map(|&at| self.jumps_out_of(at)).collect();
        }
        for &(range, by) in &ranges {
            if sites.iter().any(|site| range.contains(Vaddr(site.vaddr))) {
                return Ok(by);
            }
        }
        if let Some((range, _)) = ranges.iter().find(|(range, _)| self.has_address(*range, entry)) {
            return Err(format!("the address is in the code at {:#x}, and no site is listed", range.start.0));
        }
        if sites.iter().any(|site| TRAVELLING.contains(&site.form.as_str())) {
            return Ok(By::Travel);
        }
        Err(format!(
            "no listed site fits the calls {}",
            calls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ))
    }

    fn address(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| segment.offset.0 <= offset && offset < segment.file_end().0;
        let segment =
            self.image.segments.iter().filter(|s| self.image.is_executable(s.range.start)).find(holds)?;
        Some(offset - segment.offset.0 + segment.range.start.0)
    }

    /// Whether `call` is one of a place in this file: else it is indirect, or straight into the page.
    fn is_own_code(&self, call: &Instruction) -> bool {
        call.flow_control() == FlowControl::Call && self.image.is_executable(Vaddr(call.near_branch_target()))
    }

    /// The function around `address`; `near` where nothing tells of one.
    fn function(&self, address: u64, near: Range<u64>) -> VaddrRange {
        let near = VaddrRange { start: Vaddr(near.start), end: Vaddr(near.end) };
        self.functions.extent(self.image, Vaddr(address)).map_or(near, |extent| extent.range)
    }

    /// Whether the bytes of `entry`'s address are in `range`, as instructions have them.
    fn has_address(&self, range: VaddrRange, entry: Entry) -> bool {
        let bytes = self.image.bytes_at(range.start).unwrap_or_default();
        let len = bytes.len().min(range.len() as usize);
        let immediate = (entry.address() as u32).to_le_bytes();
        bytes[..len].windows(immediate.len()).any(|window| window == immediate)
    }

    /// Every instruction that ends at `address` and is a call: of some bytes, more than one reading is.
    fn calls_before(&self, address: u64) -> Vec<Instruction> {
        let read = |len: u64| {
            let at = address.checked_sub(len)?;
            let call = decode(self.image.bytes_at(Vaddr(at))?, at).next()?;
            let is_call = matches!(call.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            (is_call && call.len() as u64 == len).then_some(call)
        };
        (2..=LONGEST_CALL).filter_map(read).collect()
    }

    /// Where the function at `address` jumps to outside of itself.
    fn jumps_out_of(&self, address: u64) -> BTreeSet<u64> {
        let own = self.function(address, address..address + NEAR);
        let Some(bytes) = self.image.bytes_at(Vaddr(address)) else { return BTreeSet::new() };
        decode(bytes, address)
            .take_while(|instruction| own.contains(Vaddr(instruction.ip())))
            .filter(|i| {
                matches!(i.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch)
            })
            .map(|instruction| instruction.near_branch_target())
            .filter(|&to| !own.contains(Vaddr(to)))
            .collect()
    }
}

fn decode(bytes: &[u8], at: u64) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
}

/// A computed entry is known only at run time.
fn is_of(site: &Site, entry: Entry) -> bool {
    site.entry == entry.name() || site.form == "computed"
}

/// Holds the calls against the sites of the files that made them. Returns how many belong in which way.
#[track_caller]
fn check(seen: &Seen, what: &str) -> BTreeMap<By, usize> {
    let mut wrong = vec![];
    let mut counts = BTreeMap::new();
    let files: BTreeSet<&PathBuf> = seen.iter().map(|(file, ..)| file).collect();
    for file in files {
        let bytes = read(file);
        let Ok(Parsed::Image(image)) = parse(&bytes) else {
            panic!("{}: no program, and it ran", file.display())
        };
        let sites = scan(file).into_iter().filter(|site| site.verdict != "harmless").collect();
        let caller = Caller { image: &image, functions: Functions::of(&image), sites };
        for (_, offset, entry) in seen.iter().filter(|(of, ..)| of == file) {
            match caller.belongs(*offset, *entry) {
                Ok(by) => *counts.entry(by).or_default() += 1,
                Err(reason) => {
                    wrong.push(format!("{}: {entry} returned to {offset:#x}: {reason}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{what}: calls that no listed site explains:\n{}", wrong.join("\n"));
    eprintln!("{what}: {} call sites, {counts:?}", seen.len());
    counts
}

#[test]
fn compiled_programs() {
    let dir = temp_dir();
    let Some(tracer) = tracer(dir.path()) else { return };
    for compiler in ["gcc", "clang"] {
        if !need(compiler) {
            continue;
        }
        for options in [
            "-O0 -no-pie -fno-pie",
            "-O0 -pie -fPIE",
            "-O1 -pie -fPIE",
            "-O2 -no-pie -fno-pie",
            "-O2 -pie -fPIE",
            "-O3 -pie -fPIE -fcf-protection=full",
            "-Os -no-pie -fno-pie",
        ] {
            let program = dir.path().join("program");
            let sources = ["forms.c", "run.c"].map(|name| root().join("corpus/compiled").join(name));
            let mut command = Command::new(compiler);
            command.arg("-w").args(options.split(' ')).args(sources).arg("-o").arg(&program);
            Ran::of(&mut command).expect(0);
            let seen = trace(&tracer, &[program.to_str().expect("a path in UTF-8")]);
            let what = format!("{compiler} {options}");
            let counts = check(&seen, &what);
            assert!(seen.len() > 30, "{what}: call sites seen: {}", seen.len());
            let travelled = counts.get(&By::Travel).copied().unwrap_or_default();
            assert!(travelled * 3 < seen.len(), "{what}: {counts:?}");
        }
    }
}

#[test]
fn corpus_sources() {
    let dir = temp_dir();
    let Some(tracer) = tracer(dir.path()) else { return };
    if !["as", "strip", "ld.bfd", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let mut programs = 0;
    for entry in fs::read_dir(harness::source::dir()).expect("the corpus directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_str().expect("a name in UTF-8");
        if path.extension().is_none_or(|extension| extension != "s") || name == "demo" {
            continue;
        }
        let source = Source::load(name);
        let object = source.assemble(dir.path());
        for (link, linker) in source.variants() {
            let runs = |dress| source.run(Variant { link, linker, dress }).is_some();
            if !Dress::ALL.into_iter().any(runs) {
                continue;
            }
            let linked = source.link(&object, link, linker, dir.path());
            for (file, dress) in linked.files.iter().zip(Dress::ALL).filter(|&(_, dress)| runs(dress)) {
                let seen = trace(&tracer, &[file.to_str().expect("a path in UTF-8")]);
                let what = format!("{name} {}", Variant { link, linker, dress });
                assert!(!seen.is_empty(), "{what}: no call was seen");
                check(&seen, &what);
                programs += 1;
            }
        }
    }
    assert!(programs > 100, "programs that ran: {programs}");
}

#[test]
fn real_programs() {
    let dir = temp_dir();
    let Some(tracer) = tracer(dir.path()) else { return };
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    if !is_root() {
        return skip("chroot needs root");
    }
    if !["mknod", "as", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let tree = rootfs::with_tmux(dir.path(), "tree");
    let glibc_2_5 = rootfs::glibc_2_5(dir.path(), "glibc-2.5");
    let in_tree = |tree: &Path, program: &[&str]| {
        let tree = tree.to_str().expect("a path in UTF-8");
        trace(&tracer, &[&["chroot", tree], program].concat())
    };
    let callers: [(&Path, &[&str]); 4] = [
        (&tree, &["mdadm", "--version"]),
        (&tree, &["e2fsck", "-V"]),
        (&tree, &rootfs::TMUX_SERVER),
        (&glibc_2_5, &["/old-glibc"]),
    ];
    for (tree, program) in callers {
        let seen = in_tree(tree, program);
        assert!(!seen.is_empty(), "{program:?}: no call was seen");
        let counts = check(&seen, program[0]);
        assert_eq!(counts.get(&By::Travel), None, "{program:?}: {counts:?}");
    }
    for program in [&["busybox", "true"][..], &["strace", "-V"]] {
        let seen = in_tree(&tree, program);
        assert!(seen.is_empty(), "{program:?} makes none: {seen:?}");
    }
}

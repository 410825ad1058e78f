//! Patched code does what the original does: both run in an emulator from the same states, thousands for each site,
//! and all that a program can notice is compared. The emulator knows nothing of how the tool decides.

mod emulator;
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use emulator::{
    Event, Machine, POINTER_GUARD, R11, R12, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Random, Run,
};
use emulator::{Start, What};
use harness::elf::{Segment, segments, u32_at, u64_at};
use harness::source::{Dress, Link, Linker, Source, Variant};
use harness::{Ran, need, read, real_corpus, root, rootfs, skip, temp_dir};
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind};
use vsyspatch::addr::Vaddr;
use vsyspatch::elf::{Image, Parsed};
use vsyspatch::functions::Functions;
use vsyspatch::plan::{Edit, Plan, PlannedSite, Role, Strategy, Via};
use vsyspatch::site::{Form, Verdict};
use vsyspatch::vsyscall::{Entry, PAGE};

/// States for each site of each link of a source.
const STATES_OF_SOURCE: usize = 200;
/// States for each site of a compiled program, and of a real one.
const STATES_OF_COMPILED: usize = 400;
const STATES_OF_REAL: usize = 3000;
/// The kinds of programs that compilers make.
const KINDS: [&str; 2] = ["-no-pie -fno-pie", "-pie -fPIE"];
/// What calls become, and how many times fewer states that is tried from: with the page only the way to it differs, and
/// what a function of the vDSO changes, which a model of it does in half of the states.
const WAYS: [(Via, usize); 2] = [(Via::Syscall, 1), (Via::Vdso, 2)];
/// States in which a mistake has to show.
const STATES_OF_MUTANT: usize = 200;

/// Of an index that is not known, one in some hundred is that of an entry.
const STATES_OF_INDEX: usize = 10 * STATES_OF_MUTANT;
/// States for each entry of the page.
const STATES_OF_ENTRY: usize = 2000;
/// Starts before the instruction that holds an address, besides it and the function's beginning.
const STARTS_BEFORE: usize = 5;
/// Functions that are tried for a pointer in data.
const MAX_READERS: usize = 24;
const PAGE_SIZE: u64 = 0x1000;
/// What stands in that page where nothing is.
const FREE_BYTE: u8 = 0xcc;
/// From an entry of the page that is added to the one that keeps all registers.
const PRESERVING: u64 = 0x40;
/// A table of pointers is read by its first address.
const TABLE: u64 = 64;

/// A file and its patch.
struct Subject {
    name: String,
    original: Vec<u8>,
    plan: Plan,
    patched: Vec<u8>,
    /// Number of the general register that each constant in place is for, which holds the entry's address only
    /// in the original.
    constant_registers: BTreeSet<usize>,
    /// Where to begin, by the index of the site.
    starts: BTreeMap<usize, Vec<Start>>,
}

impl Subject {
    /// Nothing where the file has nothing to patch.
    fn new(name: String, original: Vec<u8>, via: Via) -> Option<Self> {
        let Ok(Parsed::Image(image)) = vsyspatch::elf::parse(&original) else { return None };
        let (_, plan) = vsyspatch::examine::examine(&original, via).ok()?;
        let plan = plan?;
        if !plan.has_edits() {
            return None;
        }
        let checksum = vsyspatch::digest::Sha256::of(&original);
        let patched = vsyspatch::apply::apply(&original, checksum, &plan.edits).expect("the plan fits");
        let constants = plan
            .edits
            .iter()
            .filter(|edit| edit.role == Role::Constant && edit.strategy == Strategy::InPlace)
            .map(|edit| Decoder::with_ip(64, &edit.before, 0, DecoderOptions::NONE).decode())
            .filter(|instruction| instruction.op0_kind() == OpKind::Register)
            .map(|instruction| instruction.op0_register().number())
            .collect();
        let sites = plan.sites.iter().enumerate().filter(|(_, site)| site.verdict == Verdict::Patch);
        let starts = sites.map(|(index, site)| (index, starts(&image, &plan, site))).collect();
        Some(Self { name, plan, patched, constant_registers: constants, starts, original })
    }

    /// As [`Self::new`], of a file that `source` was linked to.
    fn of_source(source: &Source, name: String, file: &Path, via: Via) -> Option<Self> {
        let mut subject = Self::new(name, read(file), via)?;
        if let Some((_, arguments)) = FROM_THE_BEGIN.iter().find(|(name, _)| *name == source.name) {
            for starts in subject.starts.values_mut() {
                starts.retain(|start| start.is_entry);
                starts.iter_mut().for_each(|start| start.arguments = arguments);
            }
        }
        Some(subject)
    }

    /// The machines of the original and of `patched`.
    fn machines(&self, patched: &[u8]) -> (Machine, Machine) {
        let none = BTreeSet::new();
        let original =
            Machine::new(&self.original, &self.changed(), &none, &none, &self.fixed(), &self.left(), None);
        (original, self.machine_of_patch(patched))
    }

    fn machine_of_patch(&self, patched: &[u8]) -> Machine {
        let stubs = self.stubs().map(|(at, _)| at).collect();
        let detours = self.plan.edits.iter().filter(|edit| matches!(edit.role, Role::Detour | Role::Guard));
        let detours = detours.filter_map(|edit| Some(edit.vaddr?.0)).collect();
        let pointers = self.pointers().map(|range| range.start);
        Machine::new(patched, &self.changed(), &stubs, &detours, &self.fixed(), &self.left(), pointers)
    }

    /// The pointers of the page that was added: in a segment of their own, or at the end of the last one's memory.
    fn pointers(&self) -> Option<Range<u64>> {
        let with = |role| self.plan.edits.iter().find(|edit| edit.role == role);
        with(Role::Page)?;
        with(Role::Pointers).and_then(range).or_else(|| {
            let is_data = |segment: &&Segment| segment.kind == 1 && segment.flags & 2 != 0;
            let ends =
                segments(&self.patched).iter().filter(is_data).map(|data| data.vaddr + data.mem_size).max();
            ends.map(|end| end - 24..end)
        })
    }

    fn changed(&self) -> Vec<Range<u64>> {
        self.plan.edits.iter().filter_map(range).collect()
    }

    /// Pointers whose loads are changed, and not they: nothing writes to them.
    fn fixed(&self) -> BTreeSet<u64> {
        let is_fixed = |site: &&PlannedSite| {
            let mut edits = site.edits.iter().map(|&index| &self.plan.edits[index]);
            // A detour looks at what is there.
            let is_seen = |edit: &Edit| matches!(edit.role, Role::Pointer | Role::Detour | Role::Guard);
            site.form == Form::DataWord && !edits.any(is_seen)
        };
        let words = self.plan.sites.iter().filter(is_fixed).map(|site| site.vaddr.0);
        // A run begins with pointers to the model of a vDSO, or none.
        words.chain(self.pointers().into_iter().flat_map(|range| range.step_by(8))).collect()
    }

    /// The stubs, and the entries of the page that was added, with their entries.
    fn stubs(&self) -> impl Iterator<Item = (u64, Entry)> {
        let stubs = self.plan.edits.iter().filter(|edit| edit.role == Role::Stub);
        let pages = self.plan.edits.iter().filter(|edit| edit.role == Role::Page);
        let entries = pages.filter_map(|edit| edit.vaddr).flat_map(|page| {
            let of = move |entry: Entry| page.0 + (entry.address() - PAGE);
            Entry::ALL
                .into_iter()
                .flat_map(move |entry| [(of(entry), entry), (of(entry) + PRESERVING, entry)])
        });
        stubs.filter_map(|edit| Some((edit.vaddr?.0, edit.entry))).chain(entries)
    }

    fn has_index(&self) -> bool {
        self.plan.sites.iter().any(|site| site.verdict == Verdict::Patch && site.form == Form::Computed)
    }

    /// Whether calls are looked at before they are made.
    fn has_guard(&self) -> bool {
        self.plan.edits.iter().any(|edit| edit.role == Role::Guard)
    }

    /// The places that hold an entry's address in the patched file, too.
    fn left(&self) -> BTreeSet<u64> {
        self.plan
            .sites
            .iter()
            .filter(|site| site.verdict != Verdict::Patch)
            .map(|site| site.vaddr.0)
            .collect()
    }
}

/// Whether `edit` is the branch to a call that is looked at before it is made.
fn leads_to_guard(edit: &Edit) -> bool {
    edit.role == Role::Call && edit.strategy != Strategy::InPlace
}

fn range(edit: &Edit) -> Option<Range<u64>> {
    let at = edit.vaddr?.0;
    Some(at..at + edit.after.len() as u64)
}

/// The places that runs for `site` begin at.
fn starts(image: &Image<'_>, plan: &Plan, site: &PlannedSite) -> Vec<Start> {
    let functions = Functions::of(image);
    let edits = site.edits.iter().map(|&index| &plan.edits[index]);
    let mut constants = vec![];
    for edit in edits {
        let Some(at) = edit.vaddr else { continue };
        match edit.role {
            Role::Constant => constants.push(at.0),
            // Whichever of its words comes to the call: by an index, it is one of few.
            Role::Call if leads_to_guard(edit) => {
                constants.push(at.0);
                constants.extend(readers(image, site.vaddr.0));
            }
            Role::Pointer => constants.extend(readers(image, at.0)),
            _ => {}
        }
    }
    let computed: Vec<u64> = plan
        .edits
        .iter()
        .filter(|edit| edit.form == Form::Computed && edit.role == Role::Constant)
        .filter_map(|edit| Some(edit.vaddr?.0))
        .collect();
    let mut starts: BTreeMap<u64, Start> = BTreeMap::new();
    for at in constants {
        let extent = functions.extent(image, Vaddr(at)).filter(|extent| extent.range.contains(Vaddr(at)));
        let (begin, is_entry) = match extent {
            Some(extent) if at - extent.range.start.0 < 0x4000 => (extent.range.start.0, extent.is_bounded),
            _ => (at, false),
        };
        let code = image.bytes_at(Vaddr(begin)).unwrap_or_default();
        let mut boundaries = vec![];
        let mut frame_pointer = false;
        for instruction in Decoder::with_ip(64, code, begin, DecoderOptions::NONE).iter() {
            if instruction.ip() >= at {
                break;
            }
            // Two instructions that became others have no boundary between them any more.
            let is_inside = |edit| {
                range(edit)
                    .is_some_and(|range| range.start < instruction.ip() && range.contains(&instruction.ip()))
            };
            if !plan.edits.iter().any(is_inside) {
                boundaries.push(instruction.ip());
            }
            frame_pointer |= code[(instruction.ip() - begin) as usize..].starts_with(&[0x48, 0x89, 0xe5]);
        }
        let start = |at, is_entry| Start { is_entry, frame_pointer, ..Start::of_function(at, 0) };
        starts.insert(begin, start(begin, is_entry));
        // In the middle of a computation, only what was computed before leads to the entry.
        let extent = extent.map_or(at..at + 1, |extent| extent.range.start.0..extent.range.end.0);
        if computed.iter().any(|at| extent.contains(at)) {
            continue;
        }
        for &before in boundaries.iter().rev().take(STARTS_BEFORE).chain([&at]) {
            starts.entry(before).or_insert_with(|| start(before, false));
        }
    }
    starts.into_values().collect()
}

/// The instructions that read the pointer at `word`, or may; the likeliest first.
fn readers(image: &Image<'_>, word: u64) -> Vec<u64> {
    let table = word - TABLE..=word;
    let mut readers = vec![];
    for segment in image.segments.iter().filter(|segment| segment.executable) {
        let code = image.segment_bytes(segment);
        for instruction in &mut Decoder::with_ip(64, code, segment.range.start.0, DecoderOptions::NONE) {
            let has_memory =
                (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
            let address = match instruction.op1_kind() {
                _ if has_memory => instruction.memory_displacement64(),
                OpKind::Immediate32 => u64::from(instruction.immediate32()),
                _ => continue,
            };
            if table.contains(&address) {
                readers.push((word - address, instruction.ip()));
            }
        }
    }
    readers.sort_unstable();
    readers.truncate(MAX_READERS);
    readers.into_iter().map(|(_, at)| at).collect()
}

/// What came out of the runs of a site.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sites: usize,
    runs: usize,
    /// Runs in which the site's call was made.
    calls: usize,
    /// Calls that the patched program made of the vDSO's functions.
    of_vdso: usize,
    /// The least of these for a site.
    least: Option<usize>,
    /// Runs that were compared only up to what cannot happen, or is not defined.
    cut: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sites += other.sites;
        self.runs += other.runs;
        self.calls += other.calls;
        self.of_vdso += other.of_vdso;
        self.least = self.least.into_iter().chain(other.least).min();
        self.cut += other.cut;
    }
}

/// How two runs that agree ended.
enum Agreed {
    Whole,
    /// What follows cannot happen, or is not defined.
    Cut,
}

/// `sub $n,%rsp`, which an edit begins with that makes a jump of a function.
const SUB_RSP: &[u8] = &[0x48, 0x83, 0xec];

/// `call *%rax; add $n,%rsp; ret` behind such an edit.
const BEHIND_CONSTANT: u64 = 2 + 4 + 1;

/// Compares runs.
struct Judge<'a> {
    subject: &'a Subject,
    bias: u64,
    /// Stubs, in memory's addresses, with their entries.
    stubs: BTreeMap<u64, Entry>,
    /// In place calls, in memory's addresses.
    calls: Vec<Range<u64>>,
    /// Functions that only make the call, in memory's addresses, which have become jumps.
    wrappers: Vec<Range<u64>>,
    /// Numbers of the pages that the patch adds, in memory.
    added: BTreeSet<u64>,
    /// Stubs that the patched program had where the original had the entry's address.
    handed: BTreeSet<(Entry, u64)>,
    /// The patched program had an entry's address where it can be seen.
    holds_page: bool,
}

impl<'a> Judge<'a> {
    fn new(subject: &'a Subject, bias: u64) -> Self {
        let in_place = |edit: &&Edit| edit.strategy == Strategy::InPlace && edit.role == Role::Call;
        let calls = subject.plan.edits.iter().filter(in_place).filter_map(range);
        Self {
            subject,
            bias,
            stubs: subject.stubs().map(|(at, entry)| (at + bias, entry)).collect(),
            calls: calls.map(|range| range.start + bias..range.end + bias).collect(),
            wrappers: { subject.plan.edits.iter() }
                .filter(|edit| edit.role == Role::Constant && edit.before.starts_with(SUB_RSP))
                .filter_map(range)
                .map(|range| range.start + bias..range.end + bias + BEHIND_CONSTANT)
                .collect(),
            added: { subject.plan.edits.iter() }
                .filter(|edit| edit.before.is_empty())
                .filter_map(|edit| Some((edit.vaddr?.0 + bias) / PAGE_SIZE))
                .collect(),
            handed: BTreeSet::new(),
            holds_page: false,
        }
    }

    /// Whether `patched` means in the patched program what `original` means in the original: the same, or the stub
    /// of the entry, either of them mangled or not.
    fn same(&mut self, original: u64, patched: u64) -> bool {
        let demangled = |value: u64| value.rotate_right(17) ^ POINTER_GUARD;
        self.holds_page |= [patched, demangled(patched)].into_iter().any(|value| Entry::at(value).is_some());
        original == patched
            || self.is_handed(original, patched)
            || self.is_handed(demangled(original), demangled(patched))
    }

    fn is_handed(&mut self, original: u64, patched: u64) -> bool {
        let Some(entry) = Entry::at(original) else { return false };
        let is_stub = self.stubs.get(&patched) == Some(&entry);
        if is_stub {
            self.handed.insert((entry, patched - self.bias));
        }
        is_stub
    }

    /// The events without the way through functions that have become jumps, where the called code returns to.
    fn without_wrappers(&self, events: &[Event]) -> Vec<Event> {
        let is_inside = |at: &u64| self.wrappers.iter().any(|wrapper| wrapper.contains(at));
        let (mut kept, mut writes) = (Vec::new(), Vec::new());
        for event in events {
            writes.extend(event.writes.iter().copied());
            if !matches!(event.what, What::After(at) if is_inside(&at)) {
                let trace = event.trace.iter().copied().filter(|at| !is_inside(at)).collect();
                kept.push(Event { trace, writes: std::mem::take(&mut writes), ..event.clone() });
            }
        }
        kept
    }

    /// Compares the runs from `start`; what differs in words.
    fn compare(&mut self, start: &Start, original: &Run, patched: &Run) -> Result<Agreed, String> {
        self.holds_page = false;
        let (events, of_patch) =
            (self.without_wrappers(&original.events), self.without_wrappers(&patched.events));
        // What the patch adds is memory that is no program's.
        if original.pages.iter().any(|page| self.added.contains(&(page / PAGE_SIZE))) {
            return Ok(Agreed::Cut);
        }
        for (index, event) in events.iter().enumerate() {
            // One entry returned to another, since the stack of a run that begins inside a function is not its own: the
            // second gets what a function may change, and the page keeps.
            let is_entry = |event: &Event| matches!(event.what, What::Entry(_));
            let is_returned_to = index > 0 && is_entry(&events[index - 1]) && is_entry(event);
            if is_returned_to && start.has_vdso() && !start.is_entry && !self.added.is_empty() {
                return Ok(Agreed::Cut);
            }
            let of_patch = of_patch.get(index);
            if let What::Call(_) | What::Jump(_) | What::Invalid(_) = event.what
                && !start.is_entry
                && self.calls.iter().any(|call| call.contains(&event.at))
            {
                return Ok(Agreed::Cut);
            }
            // Nothing is there in the original.
            if let What::Call(to) | What::Jump(to) = event.what
                && self.added.contains(&(to / PAGE_SIZE))
            {
                return Ok(Agreed::Cut);
            }
            // The page kills, and the system call gives an error; or the pointer is the original's constant.
            if event.split || matches!(event.what, What::BadPointer(_)) {
                return Ok(Agreed::Cut);
            }
            let Some(of_patch) = of_patch else {
                return Err(format!("event {index} is missing: {event:x?}"));
            };
            // A load by a wild index faults where it is done.
            if matches!((event.what, of_patch.what), (What::Fault(_), What::Fault(_)))
                && self.subject.has_guard()
            {
                return Ok(Agreed::Cut);
            }
            if let Some(what) = self.difference(start, event, of_patch, patched) {
                return Err(format!("event {index}: {what}\n  original {event:x?}\n  patched {of_patch:x?}"));
            }
        }
        if of_patch.len() > events.len() {
            return Err(format!("more events: {:x?}", of_patch.last()));
        }
        // An index that leads to no entry leads where it led before.
        let is_wild = |event: &Event| match event.what {
            What::Invalid(_) => true,
            What::Call(to) | What::Jump(to) => to > i64::MAX as u64,
            _ => false,
        };
        let has_wild_index = self.subject.has_index() && events.iter().any(is_wild);
        // What is called is looked at, and stays where it was.
        let holds_page = self.holds_page && !self.subject.has_guard();
        if (patched.used_page || holds_page) && !(patched.passed_left || has_wild_index) {
            return Err("the patched program calls the page, or has its address".into());
        }
        Ok(Agreed::Whole)
    }

    fn difference(&mut self, start: &Start, original: &Event, patched: &Event, run: &Run) -> Option<String> {
        if original.what != patched.what {
            return Some("another event".into());
        }
        if original.trace != patched.trace {
            let first = original.trace.iter().zip(&patched.trace).position(|(one, other)| one != other);
            return Some(format!("another way: {first:?}"));
        }
        let writes = original.writes.iter().zip(&patched.writes);
        let same_writes = original.writes.len() == patched.writes.len() && { writes }
            .all(|(one, other)| (one.0, one.1) == (other.0, other.1) && self.same(one.2, other.2));
        if !same_writes {
            return Some("another write".into());
        }
        let compared: &[usize] = match original.what {
            What::Entry(Entry::Time) => &[RDI],
            What::Entry(_) => &[RDI, RSI],
            What::Fault(_) | What::Limit | What::BadPointer(_) => &[],
            // What a return leaves in the other registers, nobody may look at.
            What::Return(_) => &[RAX, RDX, RBX, RSP, RBP, R12, 13, 14, 15],
            _ => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        };
        for &register in compared {
            let (one, other) = (original.registers[register], patched.registers[register]);
            let is_return = matches!(original.what, What::Return(_));
            let kept = is_return && ![RAX, RDX].contains(&register);
            // A system call or a function of the vDSO changes these, and a detour may.
            let is_called = [What::Call(other), What::Jump(other)].contains(&original.what)
                || (self.subject.has_guard() && run.events.iter().any(|event| event.trace.contains(&other)));
            let by_detour = register == R11 && is_called;
            let lost = by_detour
                || run.garbage.get(&other) == Some(&Some(register))
                || [RCX, R11].contains(&register) && self.stubs.contains_key(&other);
            // The original's constant, which nothing uses after the call.
            let dead = !(kept || is_return && register == RAX)
                && self.subject.constant_registers.contains(&register)
                && Entry::at(one).is_some();
            if !(self.same(one, other) || lost || dead) {
                return Some(format!("register {register} is {other:#x}, not {one:#x}"));
            }
        }
        let with_stack = matches!(
            original.what,
            What::After(_) | What::Call(_) | What::Syscall(_) | What::Return(_) | What::Jump(_)
        );
        if with_stack && original.stack != patched.stack {
            if original.stack.len() != patched.stack.len() {
                return Some("another stack".into());
            }
            let is_gone = start.is_entry && matches!(original.what, What::Return(_));
            let mut at = 0;
            while let Some(distance) =
                (at..original.stack.len()).position(|at| original.stack[at] != patched.stack[at])
            {
                let byte = at + distance;
                // Where the word begins that the byte is of, is known only by what it means.
                let begins = (at.max(byte.saturating_sub(7))..=byte).find(|&begin| {
                    let Some(one) = original.stack.get(begin..begin + 8) else { return false };
                    let (one, other) = (u64_at(one, 0), u64_at(&patched.stack, begin));
                    // A slot of the frame may hold the number for a call in place, or what was in rcx.
                    let number =
                        Entry::at(one).is_some_and(|entry| u64::from(entry.syscall_number()) == other);
                    self.same(one, other) || !is_gone && (number || run.garbage.contains_key(&other))
                });
                match begins {
                    Some(begin) => at = begin + 8,
                    None => return Some(format!("byte {byte} of the stack is another")),
                }
            }
        }
        None
    }
}

/// Runs the site number `index` from `states` states; stops at the first difference, which it returns.
fn run_site(
    subject: &Subject,
    index: usize,
    machines: &mut (Machine, Machine),
    states: usize,
    seed: u64,
) -> Result<Tally, String> {
    let site = &subject.plan.sites[index];
    let places: BTreeSet<u64> = site
        .edits
        .iter()
        .map(|&index| &subject.plan.edits[index])
        .filter(|edit| matches!(edit.role, Role::Constant | Role::Pointer) || leads_to_guard(edit))
        .filter_map(|edit| Some(edit.vaddr?.0))
        .collect();
    let is_guarded = site.edits.iter().any(|&index| subject.plan.edits[index].role == Role::Guard);
    let mut tally = Tally { sites: 1, ..Tally::default() };
    let mut random = Random(seed);
    let mut judge = Judge::new(subject, machines.0.bias);
    // A pointer in data is there before anything has run.
    for at in
        site.edits.iter().map(|&index| &subject.plan.edits[index]).filter(|edit| edit.role == Role::Pointer)
    {
        let at = at.vaddr.expect("a pointer is in memory").0;
        let (original, patched) = (machines.0.word(at), machines.1.word(at));
        if !judge.is_handed(original, patched) {
            return Err(format!(
                "{}: the pointer at {at:#x} is {patched:#x}, not {original:#x}",
                subject.name
            ));
        }
    }
    let starts = &subject.starts[&index];
    let mut run = |judge: &mut Judge<'_>, start: &Start, of_patch: &Start, is_site: bool| {
        let original = machines.0.run(start);
        let patched = machines.1.run(of_patch);
        let agreed = judge.compare(start, &original, &patched).map_err(|difference| {
            let Start { at, seed, .. } = start;
            format!(
                "{}: {} at {} ({}): from {at:#x} with seed {seed:#x}: {difference}",
                subject.name, site.entry, site.vaddr, site.form
            )
        })?;
        tally.runs += 1;
        tally.of_vdso += patched.of_vdso;
        tally.cut += usize::from(matches!(agreed, Agreed::Cut));
        let passed = !is_site || !original.passed.is_disjoint(&places);
        // Which word of a table an index leads to is chance.
        let is_made = |what| match what {
            What::Entry(entry) => is_guarded || entry == site.entry,
            _ => false,
        };
        let made = original.events.iter().any(|event| is_made(event.what));
        tally.calls += usize::from(passed && made);
        Ok::<(), String>(())
    };
    if !starts.is_empty() {
        // An index that leads to the word is rare.
        for number in 0..if is_guarded { 4 * states } else { states } {
            let start = Start { seed: random.next(), ..starts[number % starts.len()] };
            run(&mut judge, &start, &start, true)?;
        }
    }
    // Where the address goes elsewhere, what is there in its stead must do what the entry does.
    // So must every stub that a detour chooses from, though no state may have led there.
    let own: Vec<&Edit> = site.edits.iter().map(|&index| &subject.plan.edits[index]).collect();
    let mut stubs = judge.handed.clone();
    if own.iter().any(|edit| matches!(edit.role, Role::Detour | Role::Guard)) {
        let chosen = own.iter().filter(|edit| edit.role == Role::Stub);
        stubs.extend(chosen.filter_map(|edit| Some((edit.entry, edit.vaddr?.0))));
    }
    for (entry, stub) in stubs {
        for _ in 0..states / 4 {
            let start = Start::of_function(entry.address(), random.next());
            run(&mut judge, &start, &Start { at: stub, ..start }, false)?;
        }
    }
    tally.least = Some(tally.calls);
    Ok(tally)
}

/// Runs every site of `subject`.
fn run_subject(subject: &Subject, states: usize) -> Tally {
    let mut machines = subject.machines(&subject.patched);
    let mut tally = Tally::default();
    let mut wrong: Vec<String> = vec![];
    for &index in subject.starts.keys() {
        let site = &subject.plan.sites[index];
        match run_site(subject, index, &mut machines, states, site.vaddr.0) {
            Ok(of_site) if of_site.calls == 0 => {
                wrong.push(format!(
                    "{}: {} at {}: no run made the call",
                    subject.name, site.entry, site.vaddr
                ));
            }
            Ok(of_site) => tally += of_site,
            Err(difference) => wrong.push(difference),
        }
    }
    assert!(wrong.is_empty(), "{} sites differ\n{}", wrong.len(), wrong.join("\n"));
    tally
}

fn report(what: &str, files: usize, tally: Tally) {
    let Tally { sites, runs, calls, of_vdso, least, cut } = tally;
    let least = least.unwrap_or(0);
    eprintln!(
        "{what}: {files} files, {sites} sites, {runs} runs, {calls} with the call, at least {least} for a site, {cut} cut short, {of_vdso} calls of the vDSO"
    );
    assert!(of_vdso * 20 > runs, "{what}: too few calls of the vDSO");
    assert!(sites > 0 && calls * 20 > runs, "{what}: too few runs make a call");
}

/// Functions that jump by a distance that they compute, keep the page's address and an index, or add to what is in a table,
/// or print it: from a state of any registers they get anywhere, as into the middle of an instruction, out of the page or
/// into another table. They are run from their begin, with these as the first argument, if any.
const FROM_THE_BEGIN: [(&str, &[u64]); 4] = [
    ("label-distance-between", &[]),
    ("computed-index-stored", &[0, 0x400, 0x800]),
    ("data-word-fields", &[]),
    ("look-alike-fields", &[]),
];

/// The corpus' sources that have something to patch.
fn sources() -> Vec<Source> {
    let mut names: Vec<String> = std::fs::read_dir(harness::source::dir())
        .expect("the corpus directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "s"))
        .filter(|path| {
            read_text(path).lines().any(|line| line.starts_with("#@") && line.contains("verdict=patch"))
        })
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.iter().map(|name| Source::load(name)).collect()
}

fn read_text(path: &Path) -> String {
    String::from_utf8(read(path)).expect("a text")
}

#[test]
fn corpus_sources() {
    if !["as", "strip", "ld.bfd", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let (mut files, mut tally) = (0, Tally::default());
    for source in sources() {
        let object = source.assemble(dir.path());
        for (link, linker) in source.variants() {
            let linked = source.link(&object, link, linker, dir.path());
            for (file, dress) in linked.files.iter().zip(Dress::ALL) {
                let name = format!("{} {}", source.name, Variant { link, linker, dress });
                for (via, states) in WAYS {
                    let name = format!("{name} via {via:?}");
                    let Some(subject) = Subject::of_source(&source, name, file, via) else { continue };
                    files += 1;
                    tally += run_subject(&subject, STATES_OF_SOURCE / states);
                }
            }
        }
    }
    report("corpus", files, tally);
}

#[test]
fn compiled_by_gcc() {
    compiled_by("gcc");
}

#[test]
fn compiled_by_clang() {
    compiled_by("clang");
}

fn compiled_by(compiler: &str) {
    if !need(compiler) {
        return;
    }
    let dir = temp_dir();
    let (mut files, mut tally) = (0, Tally::default());
    for level in ["-O0", "-O2"] {
        for kind in KINDS {
            for (via, states) in WAYS {
                let subject = compiled(compiler, level, kind, via, dir.path());
                files += 1;
                tally += run_subject(&subject, STATES_OF_COMPILED / states);
            }
        }
    }
    report(compiler, files, tally);
}

fn compiled(compiler: &str, level: &str, kind: &str, via: Via, dir: &Path) -> Subject {
    let sources = ["forms.c", "run.c"].map(|name| root().join("corpus/compiled").join(name));
    let program = dir.join("program");
    let mut command = Command::new(compiler);
    command.args(["-w", level]).args(kind.split(' ')).args(sources).arg("-o").arg(&program);
    Ran::of(&mut command).expect(0);
    let name = format!("{compiler} {level} {kind} via {via:?}");
    Subject::new(name, read(&program), via).expect("there is something to patch")
}

/// The files of the real corpus that have something to patch.
fn real(corpus: &Path, via: Via, dir: &Path) -> impl Iterator<Item = Subject> {
    let tree = rootfs::unpack(dir, &format!("tree-{via:?}"));
    let files = rootfs::elf_files(corpus).into_iter().chain(rootfs::elf_files(&tree));
    let corpus = corpus.to_owned();
    files.filter_map(move |file| {
        let name = file.strip_prefix(&corpus).or_else(|_| file.strip_prefix(&tree)).expect("below one");
        Subject::new(format!("{} via {via:?}", name.display()), read(&file), via)
    })
}

#[test]
fn real_programs() {
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    let dir = temp_dir();
    let (mut files, mut tally) = (0, Tally::default());
    for (via, states) in WAYS {
        for subject in real(&corpus, via, dir.path()) {
            files += 1;
            tally += run_subject(&subject, STATES_OF_REAL / states);
        }
    }
    report("real programs", files, tally);
}

/// A kind of mistake that a patcher could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mistake {
    /// The number of no entry's system call.
    OtherNumber,
    /// Number or stub of another entry.
    OtherEntry,
    /// The number or the address in another register.
    OtherRegister,
    /// Everything a byte further.
    ByteFurther,
    /// Everything a byte before.
    ByteBefore,
    /// No return behind the system call.
    NoReturn,
    /// What was there before.
    Forgotten,
    /// In the page: a branch on the opposite, and another distance.
    OtherWay,
    OtherDistance,
}

/// A patched file with a mistake in one edit.
struct Mutant {
    mistake: Mistake,
    bytes: Vec<u8>,
    /// Why nobody could tell it from the patched file, if so.
    excuse: Option<&'static str>,
}

impl Subject {
    /// What becomes of the patched file where `edit` is made with a mistake.
    fn mutants(&self, edit: &Edit) -> Vec<Mutant> {
        let mut mutants = vec![];
        let from = edit.offset.index();
        let mut mutant = |mistake, at: usize, bytes: &[u8], excuse| {
            let mut mutated = self.patched.clone();
            mutated[at..at + bytes.len()].copy_from_slice(bytes);
            mutants.push(Mutant { mistake, bytes: mutated, excuse });
        };
        let vaddr = edit.vaddr.map_or(0, |at| at.0);
        let is_code = matches!(edit.role, Role::Constant | Role::Call | Role::Stub);
        let number = edit.entry.syscall_number();
        let other = Entry::ALL[(edit.entry as usize + 1) % 3];
        for instruction in
            Decoder::with_ip(64, &edit.after, vaddr, DecoderOptions::NONE).iter().filter(|_| is_code)
        {
            let at = (instruction.ip() - vaddr) as usize;
            let bytes = &edit.after[at..at + instruction.len()];
            let last = from + at + bytes.len() - 4;
            match instruction.mnemonic() {
                Mnemonic::Mov if instruction.op0_kind() == OpKind::Register => {
                    if bytes.ends_with(&number.to_le_bytes()) {
                        mutant(Mistake::OtherNumber, last, &(number + 1).to_le_bytes(), None);
                        mutant(Mistake::OtherEntry, last, &other.syscall_number().to_le_bytes(), None);
                    }
                    // The register's number ends the opcode, or the byte that follows it.
                    let place =
                        if bytes[0] & 0xf0 == 0x40 && bytes.len() == 7 { 2 } else { bytes.len().min(10) - 5 };
                    let place = if bytes.len() == 10 { 1 } else { place };
                    mutant(Mistake::OtherRegister, from + at + place, &[bytes[place] ^ 1], None);
                }
                Mnemonic::Lea => {
                    mutant(Mistake::OtherRegister, from + at + 2, &[bytes[2] ^ 8], None);
                }
                Mnemonic::Ret => {
                    let behind = &self.patched[from + at + 1..];
                    mutant(Mistake::NoReturn, from + at, &[0x90], returns(behind));
                }
                _ => {}
            }
        }
        // To the stub of another entry.
        if let (Role::Constant | Role::Pointer | Role::Detour, Some((this, that))) =
            (edit.role, self.another_stub(edit))
            && let Some(at) = refers(&edit.after, vaddr, this)
        {
            let field = u32_at(&edit.after, at).wrapping_add(that.wrapping_sub(this) as u32);
            mutant(Mistake::OtherEntry, from + at, &field.to_le_bytes(), None);
        }
        let nothing = vec![FREE_BYTE; edit.after.len()];
        let before = if edit.before.is_empty() { &nothing } else { &edit.before };
        let first = before[0];
        let further = [&[first], &edit.after[..]].concat();
        let behind = &self.patched[from + edit.after.len()..];
        let excuse = match edit.role {
            Role::Stub if first == 0x90 => Some("a nop before the stub"),
            Role::Call if first & 0xf0 == 0x40 => Some("a prefix without effect before the system call"),
            Role::Constant if first == 0x48 && behind.starts_with(&[0x48, 0xc7]) => {
                Some("a prefix taken from the next number, which is positive")
            }
            _ => None,
        };
        mutant(Mistake::ByteFurther, from, &further, excuse);
        mutant(Mistake::Forgotten, from, before, None);
        let before = [&edit.after[..], &before[before.len() - 1..]].concat();
        mutant(Mistake::ByteBefore, from - 1, &before, None);
        mutants
    }

    /// The stub of the entry of `edit` that it refers to, and one of another entry.
    fn another_stub(&self, edit: &Edit) -> Option<(u64, u64)> {
        let site = self
            .plan
            .sites
            .iter()
            .find(|site| site.edits.iter().any(|&index| self.plan.edits[index].offset == edit.offset))?;
        let own = site.edits.iter().map(|&index| &self.plan.edits[index]);
        let mut own = own
            .filter(|stub| stub.role == Role::Stub && stub.entry == edit.entry)
            .filter_map(|stub| Some((stub.vaddr?.0, stub.entry)));
        let vaddr = edit.vaddr?.0;
        let of_page =
            || self.stubs().find(|&(at, of)| of == edit.entry && refers(&edit.after, vaddr, at).is_some());
        let (own, entry) = own.next().or_else(of_page)?;
        let other = self.stubs().find(|&(at, of)| of != entry && at != own)?;
        Some((own, other.0))
    }
}

/// Where the 4 bytes of the address `target` are in the code or pointer `bytes`, as a number or a distance.
fn refers(bytes: &[u8], vaddr: u64, target: u64) -> Option<usize> {
    (0..bytes.len().saturating_sub(3)).find(|&at| {
        let field = u32_at(bytes, at);
        let is_distance = (at + 4..=bytes.len().min(at + 8))
            .any(|end| field == target.wrapping_sub(vaddr + end as u64) as u32);
        field == target as u32 || is_distance
    })
}

/// Whether `code` only returns.
fn returns(code: &[u8]) -> Option<&'static str> {
    let mut decoder = Decoder::with_ip(64, &code[..code.len().min(64)], 0, DecoderOptions::NONE);
    let first = decoder.iter().find(|instruction| instruction.mnemonic() != Mnemonic::Nop)?;
    (first.code() == Code::Retnq).then_some("what follows returns")
}

/// How many mutants were caught, excused, and neither.
#[derive(Default)]
struct Caught {
    caught: BTreeMap<(Mistake, String), usize>,
    excused: BTreeMap<&'static str, usize>,
    escaped: Vec<String>,
}

impl Caught {
    fn add(&mut self, subject: &Subject) {
        let mut machines = subject.machines(&subject.patched);
        // The page has mistakes of its own, below.
        let is_of_site = |edit: &Edit| {
            use Role::{Call, Constant, Detour, Guard, Pointer, Stub};
            edit.vaddr.is_some() && matches!(edit.role, Call | Constant | Detour | Guard | Pointer | Stub)
        };
        for (number, edit) in subject.plan.edits.iter().enumerate().filter(|(_, edit)| is_of_site(edit)) {
            let sites: Vec<usize> = subject
                .starts
                .keys()
                .copied()
                .filter(|&site| subject.plan.sites[site].edits.contains(&number))
                .collect();
            for mutant in subject.mutants(edit) {
                machines.1 = subject.machine_of_patch(&mutant.bytes);
                let is_by_index = edit.form == Form::Computed && edit.role == Role::Stub;
                let states = if is_by_index { STATES_OF_INDEX } else { STATES_OF_MUTANT };
                let is_caught = sites
                    .iter()
                    .any(|&site| run_site(subject, site, &mut machines, states, edit.offset.0).is_err());
                let form =
                    sites.first().map_or_else(String::new, |&site| subject.plan.sites[site].form.to_string());
                match mutant.excuse {
                    _ if is_caught => *self.caught.entry((mutant.mistake, form)).or_default() += 1,
                    Some(excuse) => *self.excused.entry(excuse).or_default() += 1,
                    None => self.escaped.push(format!(
                        "{}: {:?} in {:?} of {form} at {:#x}: {:x?}",
                        subject.name, mutant.mistake, edit.role, edit.offset.0, edit.after
                    )),
                }
            }
        }
    }

    /// Nothing escaped, and each of `forms` was tried with most kinds of mistakes.
    fn check(&self, forms: &BTreeSet<String>) {
        for ((mistake, form), count) in &self.caught {
            eprintln!("{mistake:?} in {form}: {count} noticed");
        }
        eprintln!(
            "{} noticed; the same as the patch: {:?}",
            self.caught.values().sum::<usize>(),
            self.excused
        );
        assert!(!self.caught.is_empty(), "there are mistakes to notice");
        assert!(
            self.escaped.is_empty(),
            "{} mistakes are not noticed\n{}",
            self.escaped.len(),
            self.escaped.join("\n")
        );
        for form in forms {
            let mistakes = self.caught.keys().filter(|(_, of)| of == form).count();
            assert!(mistakes >= 4, "{form}: only {mistakes} kinds of mistakes were tried");
        }
    }
}

/// The comparison is worth something: it sees each mistake that a patcher could make.
#[test]
fn mistakes_are_noticed() {
    mistakes_are_noticed_via(Via::Syscall);
}

#[test]
fn mistakes_with_the_page_are_noticed() {
    mistakes_are_noticed_via(Via::Vdso);
}

fn mistakes_are_noticed_via(via: Via) {
    if !["as", "strip", "ld.bfd", "gcc"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let mut caught = Caught::default();
    let mut forms = BTreeSet::new();
    for source in sources() {
        let object = source.assemble(dir.path());
        for link in [Link::Exec, Link::Pie] {
            if !source.variants().contains(&(link, Linker::Bfd)) {
                continue;
            }
            let linked = source.link(&object, link, Linker::Bfd, dir.path());
            let name = format!("{} via {via:?}", linked.files[0].display());
            let Some(subject) = Subject::of_source(&source, name, &linked.files[0], via) else { continue };
            forms.extend(subject.starts.keys().map(|&index| subject.plan.sites[index].form.to_string()));
            caught.add(&subject);
        }
    }
    for kind in KINDS {
        caught.add(&compiled("gcc", "-O2", kind, via, dir.path()));
    }
    caught.check(&forms);
}

/// An entry's code in the page that was added, at its address.
fn code_of_entry(page: &Edit, at: u64) -> Vec<iced_x86::Instruction> {
    let from = (at - page.vaddr.expect("it is in memory").0) as usize;
    let end = page.after[from..].windows(2).position(|two| two == [FREE_BYTE; 2]).expect("it ends");
    Decoder::with_ip(64, &page.after[from..from + end], at, DecoderOptions::NONE).iter().collect()
}

/// What becomes of `code`, the bytes of `instruction`, by mistakes.
fn mistaken(instruction: &iced_x86::Instruction, code: &[u8]) -> Vec<(Mistake, Vec<u8>)> {
    let last_word = |change: u32| {
        let at = code.len() - 4;
        let word = u32_at(code, at).wrapping_add(change).to_le_bytes();
        [&code[..at], &word].concat()
    };
    let last_byte = |change: u8| [&code[..code.len() - 1], &[code[code.len() - 1] ^ change]].concat();
    let mut mistaken = vec![(Mistake::Forgotten, vec![0x90; code.len()])];
    mistaken.extend(match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory => {
            vec![(Mistake::OtherEntry, last_word(8)), (Mistake::OtherEntry, last_word(8_u32.wrapping_neg()))]
        }
        Mnemonic::Mov => vec![
            (Mistake::OtherNumber, last_word(1)),
            (Mistake::OtherRegister, [&[code[0] ^ 1], &code[1..]].concat()),
        ],
        Mnemonic::Call => vec![(Mistake::OtherEntry, last_word(0x400)), (Mistake::ByteFurther, last_word(1))],
        Mnemonic::Je => vec![(Mistake::OtherWay, [&[code[0] ^ 1], &code[1..]].concat())],
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Jmp => vec![(Mistake::OtherRegister, last_byte(1))],
        Mnemonic::Lea if code.len() > 7 => vec![(Mistake::OtherDistance, last_word(8))],
        Mnemonic::Lea => vec![(Mistake::OtherDistance, last_byte(0x40))],
        Mnemonic::Ret => vec![(Mistake::NoReturn, vec![0xcc])],
        _ => vec![],
    });
    mistaken
}

/// Runs the entry of the page at `at` from `states` states beside the vsyscall page's own.
fn run_entry(
    subject: &Subject,
    (at, entry): (u64, Entry),
    machines: &mut (Machine, Machine),
    states: usize,
) -> Result<(), String> {
    let mut judge = Judge::new(subject, machines.0.bias);
    let mut random = Random(at);
    for _ in 0..states {
        let start = Start::of_function(entry.address(), random.next());
        let original = machines.0.run(&start);
        let patched = machines.1.run(&Start { at, ..start });
        let is_cut = matches!(judge.compare(&start, &original, &patched)?, Agreed::Cut);
        if is_cut && !original.events.iter().any(|event| event.what == What::BadPointer(entry)) {
            return Err(format!("{entry}: {:x?}", patched.events));
        }
        if patched.of_vdso != usize::from(start.has_vdso()) {
            return Err(format!("{entry}: {} calls of the vDSO", patched.of_vdso));
        }
        if let (true, Some(one), Some(other)) =
            (at & PRESERVING != 0, original.events.last(), patched.events.last())
            && let What::Return(_) = one.what
            && (&one.registers[1..], one.flags, &one.below)
                != (&other.registers[1..], other.flags, &other.below)
        {
            return Err(format!("{entry}: not all is kept"));
        }
    }
    Ok(())
}

/// The page's entries do what the vsyscall page's do, with a vDSO and without one; and each mistake in them is noticed.
#[test]
fn mistakes_in_the_page_are_noticed() {
    let original = read(&root().join("corpus/prebuilt/demo"));
    let subject = Subject::new("demo".into(), original, Via::Vdso).expect("there is something to patch");
    let page = subject.plan.edits.iter().find(|edit| edit.role == Role::Page).expect("a page");
    let vaddr = page.vaddr.expect("it is in memory").0;
    let mut machines = subject.machines(&subject.patched);
    let (mut caught, mut escaped) = (0, vec![]);
    for (at, entry) in subject.stubs().filter(|(at, _)| (vaddr..vaddr + 0x1000).contains(at)) {
        machines.1 = subject.machine_of_patch(&subject.patched);
        run_entry(&subject, (at, entry), &mut machines, STATES_OF_ENTRY).expect("it is the same");
        for instruction in code_of_entry(page, at) {
            let from = (page.offset.0 + instruction.ip() - vaddr) as usize;
            let code = &subject.patched[from..from + instruction.len()];
            for (mistake, bytes) in mistaken(&instruction, code) {
                let mut mutated = subject.patched.clone();
                mutated[from..from + bytes.len()].copy_from_slice(&bytes);
                machines.1 = subject.machine_of_patch(&mutated);
                match run_entry(&subject, (at, entry), &mut machines, STATES_OF_MUTANT) {
                    Err(_) => caught += 1,
                    Ok(()) => {
                        escaped.push(format!("{mistake:?} in {entry} at {:#x}: {code:x?}", instruction.ip()))
                    }
                }
            }
        }
    }
    eprintln!("{caught} mistakes in the page noticed");
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
    assert!(caught > 100, "{caught}");
}

#[test]
fn mistakes_in_real_programs_are_noticed() {
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    let dir = temp_dir();
    let mut caught = Caught::default();
    for via in [Via::Syscall, Via::Vdso] {
        real(&corpus, via, dir.path()).for_each(|subject| caught.add(&subject));
    }
    caught.check(&BTreeSet::new());
}

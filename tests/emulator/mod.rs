//! A processor with one ELF file in its memory, and a kernel that knows the vsyscall page. Code runs from a start
//! that a seed makes, and what it does is taken down, so that it can be compared with what other code does.
//!
//! The run is of one function: other functions that it calls are entered or passed over, as the seed says, and it
//! ends where the function returns.

pub mod registers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind};
use unicorn_engine::{Arch, HookType, MemType, Mode, Prot, RegisterX86, Unicorn, uc_error};
use vsyspatch::vsyscall::{Entry, PAGE};

use registers::REGISTERS;

use crate::harness::elf::{segments, u16_at, u32_at, u64_at};

const PAGE_SIZE: u64 = 0x1000;
/// Where a position-independent file is loaded.
const BIAS: u64 = 0x5555_5000_0000;
/// Memory that pointers of the start lead to.
const SCRATCH: Range<u64> = 0x6000_0000_0000..0x6000_0001_0000;
const STACK: Range<u64> = 0x7ff0_0000_0000..0x7ff0_0001_0000;
/// What the stack pointer is near to at the start.
const STACK_MIDDLE: u64 = STACK.start + 0x8000;
/// The part of the stack that the start fills, and that is compared.
const FRAME: Range<u64> = STACK_MIDDLE - 0x100..STACK_MIDDLE + 0x600;
/// Around the thread pointer, fs.
const THREAD: Range<u64> = 0x7fe0_0000_0000..0x7fe0_0000_2000;
const THREAD_POINTER: u64 = THREAD.start + PAGE_SIZE;
/// What glibc mangles pointers with.
pub const POINTER_GUARD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Where functions of other files are.
const OUTSIDE: u64 = 0x7fc0_0000_0000;
/// Where the function returns to.
const SENTINEL: u64 = 0x7fd0_0000_1230;
/// Where the functions of a model of the vDSO are, as far from each other as the page's entries; nothing is mapped there.
const MODEL: u64 = 0x7fb0_1234_0000;
const MODEL_STRIDE: u64 = 0x400;
/// Bytes of stack that its functions use.
const STACK_OF_MODEL: u64 = 200;
/// What a caller may keep below its stack pointer, behind the return address of a call.
const BELOW: u64 = 120;
/// Flags that an instruction of a program sets.
const FLAGS: u64 = 0x8d5;
/// What a function may change, but for what it returns.
const CALLER_SAVED: [usize; 8] = [RCX, RDX, RSI, RDI, 8, 9, 10, R11];
/// An address that nothing goes to.
const NOWHERE: u64 = 0xffff_9c0d_e000_0001;
/// Addresses above are no user's.
const USER_END: u64 = 0x7fff_ffff_f000;

/// Instructions of a run, without those that the patch changes.
const MAX_TRACE: usize = 400;
/// Instructions of a run with these.
const MAX_STEPS: usize = 1600;
const MAX_EVENTS: usize = 30;
/// Pages of a run that are made when they are first used.
const MAX_NEW_PAGES: usize = 24;
const MAX_DEPTH: usize = 3;

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;
pub const R11: usize = 11;
pub const R12: usize = 12;

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A value as programs have them: pointers, small numbers, anything.
    fn value(&mut self) -> u64 {
        match self.below(16) {
            0..=3 => SCRATCH.start + self.below(0x1000) * 8,
            4 => STACK_MIDDLE + 0x40 + self.below(0x20) * 8,
            5..=8 => self.below(4),
            9 | 10 => 0,
            11 => self.next() & 0xffff_ffff,
            12 => u64::MAX,
            13 => OUTSIDE + self.below(16) * 16,
            _ => self.next(),
        }
    }
}

/// The bytes of `range`, which words fill.
fn bytes_of(range: Range<u64>, mut word: impl FnMut() -> u64) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    for place in bytes.chunks_exact_mut(8) {
        place.copy_from_slice(&word().to_le_bytes());
    }
    bytes
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// What a run is made of, besides the code.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Where it begins, in the file's addresses; or in the vsyscall page.
    pub at: u64,
    pub seed: u64,
    /// The beginning of a function: its caller's return address is on the stack.
    pub is_entry: bool,
    /// rbp is the frame's.
    pub frame_pointer: bool,
    /// What the first argument is one of; anything where it is empty.
    pub arguments: &'static [u64],
}

impl Start {
    /// A call of the function at `at`.
    pub fn of_function(at: u64, seed: u64) -> Self {
        Self { at, seed, is_entry: true, frame_pointer: false, arguments: &[] }
    }

    /// Whether the pointers of the page lead to the model of a vDSO.
    pub fn has_vdso(&self) -> bool {
        self.seed & 8 != 0
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The call of an entry or of its system call.
    Entry(Entry),
    /// The first instruction behind one.
    After(u64),
    /// A call of another function.
    Call(u64),
    /// Another system call.
    Syscall(u64),
    /// The end: return to an address.
    Return(u64),
    /// The end: a jump to an address that is no code of the file.
    Jump(u64),
    /// The end: an address in the page that is no entry.
    Invalid(u64),
    /// The end: the system call of a patch with another number.
    WrongNumber(u64),
    /// The end: a pointer that the kernel cannot write through.
    BadPointer(Entry),
    /// The end: any other fault.
    Fault(u64),
    /// The end: enough was run.
    Limit,
}

/// Something that another run must do as well, with what can be seen at that time.
#[derive(Clone)]
pub struct Event {
    pub what: What,
    /// The instruction that did it.
    pub at: u64,
    pub registers: [u64; 16],
    pub flags: u64,
    /// What is below the return address that was on the stack last.
    pub below: Vec<u8>,
    /// The stack from the stack pointer on, in whole words.
    pub stack: Vec<u8>,
    /// Address, size and value of the writes since the last event, without those to the stack.
    pub writes: Vec<(u64, usize, u64)>,
    /// The instructions since the last event, without those that the patch changes.
    pub trace: Vec<u64>,
    /// A part of what the patch changes was read or written as data before, by an address that is no element's.
    pub split: bool,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, at, registers, stack, writes, trace, .. } = self;
        write!(
            f,
            "{what:x?} at {at:#x}, registers {registers:x?}, stack {:x?}",
            &stack[..stack.len().min(64)]
        )?;
        write!(f, ", writes {writes:x?}, way {trace:x?}")
    }
}

/// A finished run.
#[derive(Debug, Default)]
pub struct Run {
    pub events: Vec<Event>,
    /// Changed places (in the file's addresses) that were run or read.
    pub passed: BTreeSet<u64>,
    /// What system calls left in rcx and r11, and functions of the vDSO in what a function may change, each with its
    /// register; and what these left below the stack pointer.
    pub garbage: BTreeMap<u64, Option<usize>>,
    /// Calls of functions of the vDSO.
    pub of_vdso: usize,
    /// Whether a call went to the page itself.
    pub used_page: bool,
    /// Whether a place was run or read that holds an entry's address and stays.
    pub passed_left: bool,
    /// Pages, by their addresses, that were read or written and are not of the file.
    pub pages: Vec<u64>,
}

/// How an instruction leaves the straight way, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Call {
        behind: u64,
    },
    Return {
        pops: u64,
    },
    Syscall,
    /// What it gives is not the same every time.
    Clock,
}

/// Why the processor was stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// A call has arrived at its target.
    Called {
        behind: u64,
    },
    /// A detour that was called has jumped to code of the file.
    Left,
    Return {
        pops: u64,
    },
    Syscall,
    Clock,
    After,
    Limit,
}

/// What the hooks know.
struct Watch {
    kinds: BTreeMap<u64, Kind>,
    /// What the patch changes, in memory's addresses.
    changed: Vec<Range<u64>>,
    /// Data of the file that a run may find changed.
    data: Vec<Range<u64>>,
    /// Words of it that no run does.
    fixed: BTreeSet<u64>,
    /// Places that hold an entry's address and stay.
    left: BTreeSet<u64>,
    bias: u64,
    // What follows is of one run.
    seed: u64,
    stop: Option<Stop>,
    called: Option<u64>,
    /// A detour was called; where that call returns to.
    detoured: Option<u64>,
    /// A part of what the patch changes was read or written as data.
    split: bool,
    wait_after: bool,
    last: u64,
    steps: usize,
    traced: usize,
    events: usize,
    trace: Vec<u64>,
    writes: Vec<(u64, usize, u64)>,
    undo: Vec<(u64, Vec<u8>)>,
    touched: BTreeSet<u64>,
    new_pages: Vec<u64>,
    passed: BTreeSet<u64>,
    passed_left: bool,
}

impl Watch {
    fn pass_left(&mut self, at: u64, size: u64) {
        self.passed_left |= self.left.range(at..at.saturating_add(size)).next().is_some();
    }

    /// `size` bytes at `at` are read or written.
    fn access(&mut self, at: u64, size: u64) {
        let bytes = at..at.saturating_add(size);
        let is_split =
            |range: &&Range<u64>| bytes.start < range.end && range.start < bytes.end && bytes != **range;
        self.split = self.split || self.changed.iter().any(|range| is_split(&range));
    }

    fn changed_at(&self, at: u64) -> Option<u64> {
        self.changed.iter().find(|range| range.contains(&at)).map(|range| range.start)
    }
}

/// A processor with a file in its memory.
pub struct Machine {
    engine: Unicorn<'static, Watch>,
    pub bias: u64,
    code: Vec<Range<u64>>,
    /// Stubs, which are run as if they were the page.
    stubs: BTreeSet<u64>,
    /// Detours: what calls one calls what the detour jumps to.
    detours: BTreeSet<u64>,
    /// The pointers to the vDSO's functions, which lead to the model in half of the runs.
    pointers: Option<u64>,
}

impl Machine {
    /// Loads the file `bytes`. `changed` are the places that the patch changes, `stubs` and `detours` where these begin,
    /// `fixed` words of data that nothing writes to and `left` places that hold an entry's address and stay, in the
    /// file's addresses. `pointers` are those of the page that the patch adds.
    pub fn new(
        bytes: &[u8],
        changed: &[Range<u64>],
        stubs: &BTreeSet<u64>,
        detours: &BTreeSet<u64>,
        fixed: &BTreeSet<u64>,
        left: &BTreeSet<u64>,
        pointers: Option<u64>,
    ) -> Self {
        let bias = if u16_at(bytes, 16) == 3 { BIAS } else { 0 };
        let shifted = |range: &Range<u64>| range.start + bias..range.end + bias;
        let watch = Watch {
            kinds: BTreeMap::new(),
            changed: changed.iter().map(shifted).collect(),
            data: vec![],
            fixed: fixed.iter().map(|at| at + bias).collect(),
            left: left.iter().map(|at| at + bias).collect(),
            passed_left: false,
            bias,
            seed: 0,
            stop: None,
            called: None,
            detoured: None,
            split: false,
            wait_after: false,
            last: 0,
            steps: 0,
            traced: 0,
            events: 0,
            trace: vec![],
            writes: vec![],
            undo: vec![],
            touched: BTreeSet::new(),
            new_pages: vec![],
            passed: BTreeSet::new(),
        };
        let engine = Unicorn::new_with_data(Arch::X86, Mode::MODE_64, watch).expect("the emulator starts");
        let [stubs, detours] = [stubs, detours].map(|places| places.iter().map(|at| at + bias).collect());
        let pointers = pointers.map(|at| at + bias);
        let mut machine = Self { engine, bias, code: vec![], stubs, detours, pointers };
        machine.load(bytes);
        machine.hook();
        machine
    }

    /// Maps the segments as the kernel does, and fills what the loader fills.
    fn load(&mut self, bytes: &[u8]) {
        let loads: Vec<_> = segments(bytes).into_iter().filter(|segment| segment.kind == 1).collect();
        let mut pages: BTreeMap<u64, Prot> = BTreeMap::new();
        for (index, load) in loads.iter().enumerate() {
            let start = load.vaddr + self.bias;
            let size = memory_size(bytes, index);
            let rights = if load.flags & 1 == 0 { Prot::READ | Prot::WRITE } else { Prot::ALL };
            for page in (start / PAGE_SIZE)..(start + size).div_ceil(PAGE_SIZE) {
                *pages.entry(page * PAGE_SIZE).or_insert(rights) |= rights;
            }
            if load.flags & 1 != 0 {
                self.code.push(start..start + load.file_size);
            } else if load.flags & 2 != 0 {
                self.engine.get_data_mut().data.push(start..start + size);
            }
        }
        for (page, rights) in runs(&pages) {
            self.engine.mem_map(page.start, page.end - page.start, rights).expect("a segment is mapped");
        }
        for load in &loads {
            let contents = &bytes[load.offset as usize..(load.offset + load.file_size) as usize];
            self.engine.mem_write(load.vaddr + self.bias, contents).expect("a segment is written");
        }
        self.relocate(bytes);
        for range in [SCRATCH, STACK, THREAD] {
            self.engine
                .mem_map(range.start, range.end - range.start, Prot::READ | Prot::WRITE)
                .expect("mapped");
        }
        for page in SCRATCH.chain(THREAD).step_by(PAGE_SIZE as usize) {
            self.engine.mem_write(page, &contents_of(page)).expect("written");
        }
        let guard = POINTER_GUARD.to_le_bytes();
        self.engine.mem_write(THREAD_POINTER + 0x30, &guard).expect("written");
        self.engine.reg_write(RegisterX86::FS_BASE, THREAD_POINTER).expect("a register");
    }

    fn relocate(&mut self, bytes: &[u8]) {
        let Some(dynamic) = segments(bytes).into_iter().find(|segment| segment.kind == 2) else { return };
        let entry = |tag: u64| {
            let range = dynamic.offset as usize..(dynamic.offset + dynamic.file_size) as usize;
            bytes[range].chunks_exact(16).find(|entry| u64_at(entry, 0) == tag).map(|entry| u64_at(entry, 8))
        };
        let symbols = entry(6).unwrap_or(0);
        for (table, size) in [(7, 8), (23, 2)] {
            let (Some(table), Some(size)) = (entry(table), entry(size)) else { continue };
            for at in (table..table + size).step_by(24) {
                let Ok(relocation) = self.engine.mem_read_as_vec(at + self.bias, 24) else { continue };
                let (place, addend) = (u64_at(&relocation, 0) + self.bias, u64_at(&relocation, 16));
                let symbol = u64::from(u32_at(&relocation, 12));
                let of_symbol = || {
                    let at = symbols + symbol * 24 + 8 + self.bias;
                    match self.engine.mem_read_as_vec(at, 8).map(|value| u64_at(&value, 0)) {
                        Ok(value) if value != 0 => value + self.bias,
                        _ => OUTSIDE + symbol * 16,
                    }
                };
                let value = match u32_at(&relocation, 8) {
                    8 => addend.wrapping_add(self.bias),
                    1 => of_symbol().wrapping_add(addend),
                    6 | 7 => of_symbol(),
                    37 => OUTSIDE + addend,
                    _ => continue,
                };
                let _ = self.engine.mem_write(place, &value.to_le_bytes());
            }
        }
    }

    fn hook(&mut self) {
        self.engine.add_code_hook(1, 0, on_instruction).expect("a hook");
        self.engine.add_mem_hook(HookType::MEM_READ | HookType::MEM_WRITE, 1, 0, on_access).expect("a hook");
        let unmapped = HookType::MEM_READ_UNMAPPED | HookType::MEM_WRITE_UNMAPPED;
        self.engine.add_mem_hook(unmapped, 1, 0, on_unmapped).expect("a hook");
    }

    fn get(&self, register: usize) -> u64 {
        self.engine.reg_read(REGISTERS[register]).expect("a register")
    }

    fn set(&mut self, register: usize, value: u64) {
        self.engine.reg_write(REGISTERS[register], value).expect("a register");
    }

    /// The word at `at`, in the file's addresses.
    pub fn word(&self, at: u64) -> u64 {
        self.engine.mem_read_as_vec(at + self.bias, 8).map_or(0, |word| u64_at(&word, 0))
    }

    fn is_code(&self, at: u64) -> bool {
        self.code.iter().any(|range| range.contains(&at))
    }

    /// Runs from `start` to the end, and puts the memory back as it was.
    pub fn run(&mut self, start: &Start) -> Run {
        self.prepare(start);
        let in_page = (PAGE..PAGE + PAGE_SIZE).contains(&start.at);
        let mut driver = Driver { machine: self, run: Run::default(), depth: 0, calls: 0, seed: start.seed };
        if in_page {
            let behind = driver.jump(start.at);
            driver.go(behind);
        } else {
            let at = start.at + driver.machine.bias;
            driver.go(Some(at));
        }
        let mut run = driver.run;
        let watch = self.engine.get_data_mut();
        run.passed = std::mem::take(&mut watch.passed);
        run.passed_left = watch.passed_left;
        let (undo, pages) = (std::mem::take(&mut watch.undo), std::mem::take(&mut watch.new_pages));
        for (at, bytes) in undo.into_iter().rev() {
            self.engine.mem_write(at, &bytes).expect("it was read");
            if self.is_code(at) {
                // What was translated of it is of the other bytes.
                let end = at + bytes.len() as u64;
                self.engine.ctl_remove_cache(at, end).expect("it is mapped");
                self.engine.get_data_mut().kinds.clear();
            }
        }
        for &page in &pages {
            self.engine.mem_unmap(page, PAGE_SIZE).expect("it was mapped");
        }
        run.pages = pages;
        run
    }

    fn prepare(&mut self, start: &Start) {
        let watch = self.engine.get_data_mut();
        watch.seed = start.seed;
        watch.stop = None;
        watch.called = None;
        watch.detoured = None;
        watch.split = false;
        watch.wait_after = false;
        watch.steps = 0;
        watch.traced = 0;
        watch.events = 0;
        watch.trace.clear();
        watch.writes.clear();
        watch.touched.clear();
        watch.passed.clear();
        watch.passed_left = false;
        let mut random = Random(mix(start.seed));
        let mut values: [u64; 16] = std::array::from_fn(|_| random.value());
        for register in [RDI, RSI] {
            values[register] = match random.below(8) {
                0..=3 => SCRATCH.start + random.below(0x1000) * 8,
                4 | 5 => 0,
                6 => STACK_MIDDLE + 0x80 + random.below(0x20) * 8,
                _ => random.value(),
            };
        }
        if !start.arguments.is_empty() {
            values[RDI] = start.arguments[random.below(start.arguments.len() as u64) as usize];
        }
        // As the ABI has it, or as it is within a function.
        let aligned = random.below(2) * 8;
        values[RSP] = STACK_MIDDLE + if start.is_entry { 8 } else { aligned };
        if start.frame_pointer || random.below(2) == 0 {
            values[RBP] = STACK_MIDDLE + 0x80 + random.below(0x10) * 16;
        }
        let mut frame = bytes_of(FRAME, || if random.below(3) == 0 { SENTINEL } else { random.value() });
        if start.is_entry {
            let returned_to = (values[RSP] - FRAME.start) as usize;
            frame[returned_to..returned_to + 8].copy_from_slice(&SENTINEL.to_le_bytes());
        }
        for (register, value) in values.into_iter().enumerate() {
            self.set(register, value);
        }
        let flags = 0x202 | random.next() & FLAGS;
        self.engine.reg_write(RegisterX86::RFLAGS, flags).expect("a register");
        for (number, pointer) in self.pointers.into_iter().flat_map(|at| (0..3).zip((at..).step_by(8))) {
            let function = if start.has_vdso() { MODEL + number * MODEL_STRIDE } else { 0 };
            self.engine.mem_write(pointer, &function.to_le_bytes()).expect("the pointers are mapped");
        }
        self.engine.mem_write(FRAME.start, &frame).expect("the stack is mapped");
    }
}

/// One run of a machine.
struct Driver<'a> {
    machine: &'a mut Machine,
    run: Run,
    /// Functions that were entered and have not returned.
    depth: usize,
    /// Calls so far: what they give differs from one to the next.
    calls: u64,
    seed: u64,
}

impl Driver<'_> {
    /// Runs from `at` until it ends.
    fn go(&mut self, mut at: Option<u64>) {
        while let Some(from) = at {
            let result = self.machine.engine.emu_start(from, NOWHERE, 0, 0);
            let here = self.machine.engine.reg_read(RegisterX86::RIP).expect("a register");
            let watch = self.machine.engine.get_data_mut();
            let (stop, called) = (watch.stop.take(), watch.called.take());
            at = match (result, stop) {
                (_, Some(Stop::Called { behind })) => self.call(here, behind),
                (_, Some(Stop::Return { pops })) => {
                    let to = self.pop();
                    let stack = self.machine.get(RSP);
                    self.machine.set(RSP, stack.wrapping_add(pops));
                    self.go_back(to)
                }
                (_, Some(Stop::Left)) => self.jump(here),
                (_, Some(Stop::Syscall)) => self.syscall(here),
                (_, Some(Stop::After)) => {
                    self.event(What::After(here));
                    Some(here)
                }
                (_, Some(Stop::Clock)) => self.end(What::Fault(here)),
                (_, Some(Stop::Limit)) => self.end(What::Limit),
                (Err(uc_error::FETCH_UNMAPPED | uc_error::FETCH_PROT), None) => match called {
                    Some(behind) => self.call(here, behind),
                    None => self.jump(here),
                },
                (Err(_) | Ok(()), None) => self.end(What::Fault(here)),
            };
        }
    }

    fn event(&mut self, what: What) {
        self.machine.engine.get_data_mut().events += 1;
        let registers = std::array::from_fn(|register| self.machine.get(register));
        let from = registers[RSP].checked_next_multiple_of(8).unwrap_or(0);
        let stack = if FRAME.contains(&from) {
            let size = (FRAME.end - from) as usize;
            self.machine.engine.mem_read_as_vec(from, size).expect("the stack is mapped")
        } else {
            vec![]
        };
        let watch = self.machine.engine.get_data_mut();
        let (writes, trace) = (std::mem::take(&mut watch.writes), std::mem::take(&mut watch.trace));
        let (at, split) = (watch.last, watch.split);
        let flags = self.machine.engine.reg_read(RegisterX86::RFLAGS).expect("a register") & FLAGS;
        let below = registers[RSP].wrapping_sub(8 + BELOW);
        let below = self.machine.engine.mem_read_as_vec(below, BELOW as usize).unwrap_or_default();
        self.run.events.push(Event { what, at, registers, flags, below, stack, writes, trace, split });
    }

    fn end(&mut self, what: What) -> Option<u64> {
        self.event(what);
        None
    }

    /// A call has pushed its return address, `behind`.
    fn call(&mut self, target: u64, behind: u64) -> Option<u64> {
        if (PAGE..PAGE + PAGE_SIZE).contains(&target) {
            return self.jump(target);
        }
        if self.machine.detours.contains(&target) {
            self.depth += 1;
            self.machine.engine.get_data_mut().detoured = Some(behind);
            return Some(target);
        }
        let is_stub = self.machine.stubs.contains(&target);
        let enters = self.machine.is_code(target) && self.seed.is_multiple_of(3) && self.depth < MAX_DEPTH;
        if is_stub || enters {
            self.depth += 1;
            if !is_stub {
                self.event(What::Call(target));
            }
            return Some(target);
        }
        self.pop();
        self.event(What::Call(target));
        self.calls += 1;
        let mut random = Random(mix(self.seed ^ self.calls.rotate_left(32)));
        let result = random.value();
        self.machine.set(RAX, result);
        if self.seed % 3 == 1 {
            for register in CALLER_SAVED {
                let value = random.value();
                self.machine.set(register, value);
            }
        }
        Some(behind)
    }

    /// A jump to what is no code, or out of a detour.
    fn jump(&mut self, target: u64) -> Option<u64> {
        let of_model = |entry: &Entry| target == MODEL + *entry as u64 * MODEL_STRIDE;
        if let Some(entry) = Entry::ALL.into_iter().find(of_model) {
            return self.model(entry);
        }
        if let Some(behind) = self.machine.engine.get_data_mut().detoured.take() {
            self.depth -= 1;
            return self.call(target, behind);
        }
        if !(PAGE..PAGE + PAGE_SIZE).contains(&target) {
            return self.end(What::Jump(target));
        }
        self.run.used_page = true;
        let Some(entry) = Entry::at(target) else { return self.end(What::Invalid(target)) };
        // The page is no function that was entered: it returns to where its caller is.
        self.kernel(entry)?;
        let to = self.pop();
        let was_called = self.machine.engine.get_data().kinds.get(&self.machine.engine.get_data().last);
        match was_called {
            Some(&Kind::Call { behind }) if behind == to => Some(to),
            _ => self.go_back(to),
        }
    }

    /// A function of the vDSO: what the kernel does for `entry`, and all is changed that a function may change.
    fn model(&mut self, entry: Entry) -> Option<u64> {
        self.run.of_vdso += 1;
        self.kernel(entry)?;
        let mut random = Random(mix(self.seed ^ self.calls.rotate_left(56)));
        for register in CALLER_SAVED {
            let value = random.next();
            self.machine.set(register, value);
            self.run.garbage.insert(value, Some(register));
        }
        let flags = 0x202 | random.next() & FLAGS;
        self.machine.engine.reg_write(RegisterX86::RFLAGS, flags).expect("a register");
        let stack = self.machine.get(RSP);
        for at in (stack.wrapping_sub(STACK_OF_MODEL)..stack).step_by(8) {
            let value = random.next();
            self.run.garbage.insert(value, None);
            wrote(&mut self.machine.engine, at, 8, value);
            if self.machine.engine.mem_write(at, &value.to_le_bytes()).is_err() {
                return self.end(What::Fault(at));
            }
        }
        let to = self.pop();
        self.go_back(to)
    }

    /// A return to `to`.
    fn go_back(&mut self, to: u64) -> Option<u64> {
        if (PAGE..PAGE + PAGE_SIZE).contains(&to) {
            return self.jump(to);
        }
        if self.machine.stubs.contains(&to) {
            return Some(to);
        }
        if self.depth > 0 && self.machine.is_code(to) {
            self.machine.engine.get_data_mut().detoured = None;
            self.depth -= 1;
            return Some(to);
        }
        self.end(What::Return(to))
    }

    fn syscall(&mut self, at: u64) -> Option<u64> {
        let number = self.machine.get(RAX);
        let entry = Entry::ALL.into_iter().find(|entry| u64::from(entry.syscall_number()) == number);
        match entry {
            Some(entry) => self.kernel(entry)?,
            None if self.machine.engine.get_data().changed_at(at).is_some() => {
                return self.end(What::WrongNumber(number));
            }
            None => {
                self.event(What::Syscall(number));
                self.calls += 1;
                let result = Random(mix(self.seed ^ self.calls.rotate_left(32))).value();
                self.machine.set(RAX, result);
            }
        }
        // The real values, or any: a program can rely on neither.
        let mut random = Random(mix(self.seed ^ self.calls.rotate_left(48)));
        let flags = self.machine.engine.reg_read(RegisterX86::RFLAGS).expect("a register");
        let garbage =
            if self.seed.is_multiple_of(2) { [at + 2, flags] } else { [random.next(), random.next()] };
        for (register, value) in [RCX, R11].into_iter().zip(garbage) {
            self.machine.set(register, value);
            self.run.garbage.insert(value, Some(register));
        }
        Some(at + 2)
    }

    /// What the kernel does for `entry`: results in memory and in rax.
    fn kernel(&mut self, entry: Entry) -> Option<()> {
        self.event(What::Entry(entry));
        self.calls += 1;
        let now = mix(self.seed ^ self.calls.rotate_left(32)) >> 33;
        let pair = |low: u64, high: u64| [low.to_le_bytes(), high.to_le_bytes()].concat();
        let (first, second, result) = match entry {
            Entry::Gettimeofday => (pair(now, now % 1_000_000), vec![0; 8], 0),
            Entry::Time => (now.to_le_bytes().to_vec(), vec![], now),
            Entry::Getcpu => {
                ((now as u32 & 63).to_le_bytes().to_vec(), (now as u32 & 1).to_le_bytes().to_vec(), 0)
            }
        };
        for (register, bytes) in [(RDI, first), (RSI, second)] {
            let at = self.machine.get(register);
            if at == 0 || bytes.is_empty() {
                continue;
            }
            if at >= USER_END || !self.store(at, &bytes) {
                self.end(What::BadPointer(entry));
                return None;
            }
        }
        self.machine.set(RAX, result);
        self.machine.engine.get_data_mut().wait_after = true;
        Some(())
    }

    fn store(&mut self, at: u64, bytes: &[u8]) -> bool {
        let engine = &mut self.machine.engine;
        for page in [at / PAGE_SIZE, (at + bytes.len() as u64 - 1) / PAGE_SIZE] {
            if engine.mem_read_as_vec(page * PAGE_SIZE, 1).is_err() && !map_page(engine, page * PAGE_SIZE) {
                return false;
            }
        }
        for (at, bytes) in (at..).step_by(4).zip(bytes.chunks(4)) {
            wrote(engine, at, 4, u64::from(u32_at(bytes, 0)));
            engine.mem_write(at, bytes).expect("it is mapped");
        }
        true
    }

    fn pop(&mut self) -> u64 {
        let stack = self.machine.get(RSP);
        self.machine.set(RSP, stack.wrapping_add(8));
        self.machine.engine.mem_read_as_vec(stack, 8).map_or(0, |word| u64_at(&word, 0))
    }
}

fn on_instruction(engine: &mut Unicorn<Watch>, at: u64, size: u32) {
    engine.get_data_mut().pass_left(at, u64::from(size));
    let stop = instruction(engine, at);
    if stop.is_some() {
        engine.get_data_mut().stop = stop;
        engine.emu_stop().expect("the emulator stops");
    }
}

fn instruction(engine: &mut Unicorn<Watch>, at: u64) -> Option<Stop> {
    let kind = match engine.get_data().kinds.get(&at) {
        Some(&kind) => kind,
        None => {
            let kind = decode(engine, at);
            engine.get_data_mut().kinds.insert(at, kind);
            kind
        }
    };
    let watch = engine.get_data_mut();
    if watch.stop.is_some() {
        return watch.stop;
    }
    if let Some(behind) = watch.called.take() {
        return Some(Stop::Called { behind });
    }
    let changed = watch.changed_at(at);
    if changed.is_none() && watch.detoured.is_some() {
        return Some(Stop::Left);
    }
    if changed.is_none() && watch.wait_after {
        watch.wait_after = false;
        return Some(Stop::After);
    }
    watch.last = at;
    watch.steps += 1;
    match changed {
        Some(start) => {
            watch.passed.insert(start - watch.bias);
        }
        None => {
            watch.traced += 1;
            watch.trace.push(at);
        }
    }
    let is_enough = watch.traced > MAX_TRACE || watch.events > MAX_EVENTS;
    if is_enough && changed.is_none() || watch.steps > MAX_STEPS {
        return Some(Stop::Limit);
    }
    match kind {
        Kind::Plain => None,
        Kind::Call { behind } => {
            watch.called = Some(behind);
            None
        }
        Kind::Return { pops } => Some(Stop::Return { pops }),
        Kind::Syscall => Some(Stop::Syscall),
        Kind::Clock => Some(Stop::Clock),
    }
}

fn decode(engine: &Unicorn<Watch>, at: u64) -> Kind {
    let bytes = (1..=15).rev().find_map(|len| engine.mem_read_as_vec(at, len).ok()).unwrap_or_default();
    let instruction = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE).decode();
    match (instruction.flow_control(), instruction.mnemonic()) {
        (_, Mnemonic::Syscall) => Kind::Syscall,
        (_, Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdrand | Mnemonic::Rdseed | Mnemonic::Cpuid) => {
            Kind::Clock
        }
        (FlowControl::Call | FlowControl::IndirectCall, _) => Kind::Call { behind: instruction.next_ip() },
        (FlowControl::Return, _) if instruction.code() == Code::Retnq => Kind::Return { pops: 0 },
        (FlowControl::Return, _) if instruction.code() == Code::Retnq_imm16 => {
            assert_eq!(instruction.op0_kind(), OpKind::Immediate16);
            Kind::Return { pops: u64::from(instruction.immediate16()) }
        }
        _ => Kind::Plain,
    }
}

/// Notes a write, and what was there before.
fn wrote(engine: &mut Unicorn<Watch>, at: u64, size: usize, value: u64) {
    let before = engine.mem_read_as_vec(at, size);
    let watch = engine.get_data_mut();
    if let Ok(before) = before {
        watch.undo.push((at, before));
    }
    watch.touched.insert(at / 8);
    watch.touched.insert((at + size as u64 - 1) / 8);
    if !STACK.contains(&at) {
        let mask = if size < 8 { (1 << (size * 8)) - 1 } else { u64::MAX };
        watch.writes.push((at, size, value & mask));
    }
}

fn on_access(engine: &mut Unicorn<Watch>, kind: MemType, at: u64, size: usize, value: i64) -> bool {
    engine.get_data_mut().access(at, size as u64);
    if kind == MemType::WRITE {
        wrote(engine, at, size, value.cast_unsigned());
        return true;
    }
    let watch = engine.get_data_mut();
    watch.pass_left(at, size as u64);
    if let Some(start) = watch.changed_at(at) {
        watch.passed.insert(start - watch.bias);
    }
    // In half of the runs, the program has written other values to its data before.
    let slot = at / 8;
    let is_data = watch.data.iter().any(|range| range.contains(&at));
    let is_fixed = watch.fixed.range(slot * 8..).next().is_some_and(|&word| word < slot * 8 + 16);
    if watch.seed & 4 == 0 || !is_data || is_fixed || !watch.touched.insert(slot) {
        return true;
    }
    let mut random = Random(mix(watch.seed ^ mix(slot)));
    if random.below(2) == 0 {
        let value = random.value();
        if let Ok(before) = engine.mem_read_as_vec(slot * 8, 8) {
            engine.get_data_mut().undo.push((slot * 8, before));
            engine.mem_write(slot * 8, &value.to_le_bytes()).expect("it was read");
        }
    }
    true
}

fn on_unmapped(engine: &mut Unicorn<Watch>, _: MemType, at: u64, size: usize, _: i64) -> bool {
    let last = at.saturating_add(size as u64 - 1);
    last < USER_END
        && [at / PAGE_SIZE, last / PAGE_SIZE].into_iter().all(|page| {
            engine.mem_read_as_vec(page * PAGE_SIZE, 1).is_ok() || map_page(engine, page * PAGE_SIZE)
        })
}

/// Makes a page whose contents its address gives.
fn map_page(engine: &mut Unicorn<Watch>, page: u64) -> bool {
    if engine.get_data().new_pages.len() == MAX_NEW_PAGES {
        return false;
    }
    engine.get_data_mut().new_pages.push(page);
    engine.mem_map(page, PAGE_SIZE, Prot::READ | Prot::WRITE).is_ok()
        && engine.mem_write(page, &contents_of(page)).is_ok()
}

fn contents_of(page: u64) -> Vec<u8> {
    let mut random = Random(mix(page));
    bytes_of(0..PAGE_SIZE, || random.value())
}

/// `p_memsz` of the PT_LOAD number `index`.
fn memory_size(bytes: &[u8], index: usize) -> u64 {
    let (table, count) = (u64_at(bytes, 0x20) as usize, usize::from(u16_at(bytes, 0x38)));
    let mut loads = (0..count).map(|number| table + number * 56).filter(|&at| u32_at(bytes, at) == 1);
    u64_at(bytes, loads.nth(index).expect("there are as many") + 40)
}

/// Pages side by side with the same rights as one range.
fn runs(pages: &BTreeMap<u64, Prot>) -> Vec<(Range<u64>, Prot)> {
    let mut ranges: Vec<(Range<u64>, Prot)> = vec![];
    for (&page, &rights) in pages {
        match ranges.last_mut() {
            Some((range, known)) if range.end == page && *known == rights => range.end += PAGE_SIZE,
            _ => ranges.push((page..page + PAGE_SIZE, rights)),
        }
    }
    ranges
}

//! `--via vdso`: the code that is added looks for the vDSO in an emulator, from stacks as kernels and loaders make them
//! and in vDSOs of all kinds; programs and libraries, real and compiled ones, run with it, with the system calls denied
//! that it does without; and tools read what comes out.

mod harness;
#[path = "emulator/registers.rs"]
mod registers;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use harness::elf::{offset_of, segments, told_table, u32_at, u64_at};
use harness::source::{Link, Linker, Source};
use harness::values::{self, KINDS, OBJECTS, can_run, compile, patched};
use harness::{
    Ran, denied, host_emulates, is_root, need, read, real_corpus, root, rootfs, skip, temp_dir, tool,
};
use object::{Object as _, ObjectSymbol as _};
use registers::REGISTERS;
use unicorn_engine::{Arch, HookType, MemType, Mode, Prot, RegisterX86, Unicorn};
use vsyspatch::apply::{apply, inverse};
use vsyspatch::digest::Sha256;
use vsyspatch::examine::examine;
use vsyspatch::plan::{Edit, Role, Via};
use vsyspatch::record::Record;
use vsyspatch::site::Verdict;
use vsyspatch::verify::verify;
use vsyspatch::vsyscall::Entry;

const DEMO: &[u8] = include_bytes!("../corpus/prebuilt/demo");

/// From an entry to the next, and to the one that keeps all registers.
const STRIDE: u64 = 0x400;
const PRESERVING: u64 = 0x40;

/// Where the emulator has things.
const STACK: u64 = 0x7ff0_0000_0000;
const STACK_SIZE: u64 = 0x10000;
/// Where the stack of a program begins, and how far it has come where a shared object's init function is called.
const BOTTOM: u64 = STACK + 0x4000;
const STACK_OF_OBJECT: u64 = BOTTOM - 0x800;
const VDSO: u64 = 0x7fff_1000_0000;
const MODEL: u64 = 0x7000_0000_0000;
const END: u64 = 0x7100_0000_0000;

/// Bytes below the stack pointer that the init code may use.
const STACK_OF_INIT: u64 = 128;

/// The general registers but the stack pointer.
fn general() -> impl Iterator<Item = RegisterX86> {
    REGISTERS.into_iter().filter(|&register| register != RegisterX86::RSP)
}

fn values(engine: &Unicorn<Vec<u64>>) -> Vec<u64> {
    general().map(|register| engine.reg_read(register).expect("a register")).collect()
}

/// `bytes` patched, and where what was added is.
struct Patched {
    bytes: Vec<u8>,
    page: u64,
    pointers: u64,
    /// The init code, and what it goes on with.
    init: u64,
    next: u64,
}

impl Patched {
    fn of(bytes: &[u8]) -> Self {
        let plan = examine(bytes, Via::Vdso).expect("a program").1.expect("a plan");
        let edit = |role| plan.edits.iter().find(|edit| edit.role == role).expect("it is added");
        let code = edit(Role::Page);
        let page = code.vaddr.expect("it is in memory").0;
        // The first entry begins with a load of its pointer, relative to what follows.
        let load = if code.after.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
        assert_eq!(code.after[load..load + 3], [0x48, 0x8b, 0x05], "mov pointer(%rip),%rax");
        let distance = i64::from(u32_at(&code.after, load + 3).cast_signed());
        let pointers = page.wrapping_add_signed(load as i64 + 7 + distance);
        // They are zeros in the file, or in memory alone.
        let own = plan.edits.iter().find(|edit| edit.role == Role::Pointers);
        assert!(own.is_none_or(|own| own.vaddr.is_some_and(|at| at.0 == pointers)), "{own:x?}");
        let init = edit(Role::Init);
        let (before, after) = (u64_at(&init.before, 0), u64_at(&init.after, 0));
        let patched = apply(bytes, Sha256::of(bytes), &plan.edits).expect("the plan fits");
        Self { bytes: patched, page, pointers, init: after, next: before }
    }

    fn entry(&self, entry: Entry) -> u64 {
        self.page + entry as u64 * STRIDE
    }
}

/// The vDSO of this kernel, as it is in this process's memory.
fn vdso_of_host() -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").expect("the maps");
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("this kernel has a vDSO");
    let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
    let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("an address"));
    let mut image = vec![0; (end - start) as usize];
    let memory = fs::File::open("/proc/self/mem").expect("its own memory");
    memory.read_exact_at(&mut image, start).expect("it is mapped");
    image
}

const NAMES: [&str; 3] = ["__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"];

/// What the pointers are to be for the vDSO `image`, by another reader of symbols.
fn functions(image: &[u8]) -> [u64; 3] {
    let file = object::File::parse(image).expect("the vDSO is an ELF file");
    let of = |name: &str| {
        let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(name));
        symbol.map_or(0, |symbol| VDSO + symbol.address())
    };
    NAMES.map(of)
}

/// File offset of the value of entry `tag` of the dynamic table.
fn dynamic(image: &[u8], tag: u64) -> Option<usize> {
    let table = segments(image).into_iter().find(|segment| segment.kind == 2).expect("a dynamic table");
    (table.offset as usize..(table.offset + table.file_size) as usize)
        .step_by(16)
        .take_while(|&at| u64_at(image, at) != 0)
        .find(|&at| u64_at(image, at) == tag)
        .map(|at| at + 8)
}

fn without(image: &[u8], tags: &[u64]) -> Vec<u8> {
    let mut image = image.to_vec();
    for &tag in tags {
        if let Some(value) = dynamic(&image, tag) {
            image[value - 8..value].copy_from_slice(&0x6000_0000_u64.to_le_bytes());
        }
    }
    image
}

fn replaced(image: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut image = image.to_vec();
    let wanted = [old.as_bytes(), &[0]].concat();
    let mut found = 0;
    for at in 0..image.len() - wanted.len() {
        if image[at..].starts_with(&wanted) && (at == 0 || image[at - 1] == 0) {
            image[at..at + new.len()].copy_from_slice(new.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "{old} is in the vDSO");
    image
}

/// What is on the stack of a program that starts.
#[derive(Clone)]
struct Begin {
    arguments: usize,
    environment: usize,
    /// Null words behind the one that ends the environment: where variables were taken out.
    nulls: usize,
    /// Pointers behind these: where the environment was cut short.
    leftovers: usize,
    auxiliary: Vec<(u64, u64)>,
}

const AT_SYSINFO_EHDR: u64 = 33;

impl Begin {
    fn with_vdso(arguments: usize, environment: usize, nulls: usize) -> Self {
        let auxiliary = vec![(3, 0x40_0040), (16, 0xbfeb_fbff), (AT_SYSINFO_EHDR, VDSO), (6, 4096), (0, 0)];
        Self { arguments, environment, nulls, leftovers: 0, auxiliary }
    }

    fn words(&self) -> Vec<u64> {
        let mut words = vec![self.arguments as u64];
        words.extend((0..self.arguments).map(|number| STACK + 0x8000 + number as u64));
        words.push(0);
        words.extend((0..self.environment).map(|number| STACK + 0x9000 + number as u64));
        words.extend(vec![0; 1 + self.nulls]);
        words.extend((0..self.leftovers).map(|number| STACK + 0xa000 + number as u64));
        words.extend(self.auxiliary.iter().flat_map(|&(kind, value)| [kind, value]));
        words
    }
}

fn machine(patched: &[u8]) -> Unicorn<'static, Vec<u64>> {
    let mut engine = Unicorn::new_with_data(Arch::X86, Mode::MODE_64, vec![]).expect("the emulator starts");
    let mut pages: BTreeMap<u64, Prot> = BTreeMap::new();
    let loads = segments(patched).into_iter().filter(|segment| segment.kind == 1);
    for load in loads.clone() {
        let rights = match load.flags & 3 {
            0 => Prot::READ,
            1 => Prot::READ | Prot::EXEC,
            2 => Prot::READ | Prot::WRITE,
            _ => Prot::ALL,
        };
        for page in load.vaddr / 0x1000..(load.vaddr + load.mem_size).div_ceil(0x1000) {
            *pages.entry(page * 0x1000).or_insert(rights) |= rights;
        }
    }
    for (page, rights) in pages {
        engine.mem_map(page, 0x1000, rights).expect("mapped");
    }
    for load in loads {
        let content = &patched[load.offset as usize..(load.offset + load.file_size) as usize];
        engine.mem_write(load.vaddr, content).expect("written");
    }
    engine.mem_map(STACK, STACK_SIZE, Prot::READ | Prot::WRITE).expect("mapped");
    engine
}

/// Runs the init code of `patched`, and gives the pointers. All else must be as before.
fn pointers_found(patched: &Patched, begin: &Begin, image: Option<&[u8]>, is_object: bool) -> [u64; 3] {
    // The upper half of an int argument may hold anything.
    let arguments = [0xdead_beef_0000_0000 | begin.arguments as u64, BOTTOM + 8];
    pointers_found_with(is_object.then_some(arguments), patched, begin, image)
}

/// Likewise, of a shared object whose init function gets these `arguments`, or of a program.
fn pointers_found_with(
    arguments: Option<[u64; 2]>,
    patched: &Patched,
    begin: &Begin,
    image: Option<&[u8]>,
) -> [u64; 3] {
    let mut engine = machine(&patched.bytes);
    if let Some(image) = image {
        engine
            .mem_map(VDSO, (image.len() as u64).next_multiple_of(0x1000), Prot::READ | Prot::EXEC)
            .expect("mapped");
        engine.mem_write(VDSO, image).expect("written");
    }
    // A shared object's loader has its own frames above the stack pointer.
    let words: Vec<u8> = begin.words().into_iter().flat_map(u64::to_le_bytes).collect();
    engine.mem_write(BOTTOM, &words).expect("written");
    let stack = if arguments.is_some() { STACK_OF_OBJECT } else { BOTTOM };
    for (number, register) in general().enumerate() {
        engine.reg_write(register, 0x1111_1111_1111_1111 * (number as u64 + 1)).expect("a register");
    }
    for (register, argument) in
        [RegisterX86::RDI, RegisterX86::RSI].into_iter().zip(arguments.into_iter().flatten())
    {
        engine.reg_write(register, argument).expect("a register");
    }
    engine.reg_write(RegisterX86::RSP, stack).expect("a register");
    let before = values(&engine);
    let whole =
        |engine: &Unicorn<Vec<u64>>| engine.mem_read_as_vec(STACK, STACK_SIZE as usize).expect("mapped");
    let memory = whole(&engine);
    engine
        .add_mem_hook(HookType::MEM_WRITE, 1, 0, |engine, kind, at, _, _| {
            assert_eq!(kind, MemType::WRITE);
            engine.get_data_mut().push(at);
            true
        })
        .expect("a hook");
    engine.emu_start(patched.init, patched.next, 0, 1_000_000).expect("the init code runs");
    assert_eq!(engine.reg_read(RegisterX86::RIP), Ok(patched.next), "it goes on with what was there");
    assert_eq!(values(&engine), before, "the registers");
    assert_eq!(engine.reg_read(RegisterX86::RSP), Ok(stack), "the stack pointer");
    let used = (stack - STACK_OF_INIT - STACK) as usize..(stack - STACK) as usize;
    let after = whole(&engine);
    assert!(
        after[..used.start] == memory[..used.start] && after[used.end..] == memory[used.end..],
        "the stack"
    );
    let is_expected =
        |&at: &u64| (patched.pointers..patched.pointers + 24).contains(&at) || at >> 40 == STACK >> 40;
    assert!(engine.get_data().iter().all(is_expected), "writes: {:x?}", engine.get_data());
    let found = engine.mem_read_as_vec(patched.pointers, 24).expect("mapped");
    [0, 8, 16].map(|at| u64_at(&found, at))
}

#[test]
fn the_vdso_is_found_on_every_stack() {
    let (patched, image) = (Patched::of(DEMO), vdso_of_host());
    let expected = functions(&image);
    assert!(!expected.contains(&0), "this kernel's vDSO has all: {expected:x?}");
    for begin in [(0, 0, 0), (1, 0, 0), (1, 30, 0), (200, 1, 0), (2, 500, 0), (1, 3, 60)] {
        let begin = Begin::with_vdso(begin.0, begin.1, begin.2);
        assert_eq!(pointers_found(&patched, &begin, Some(&image), false), expected);
    }
    let without_vdso = [
        vec![(3, 0x40_0040), (0, 0)],
        vec![(AT_SYSINFO_EHDR, 0), (0, 0)],
        vec![(3, 0x40_0040), (0, 0), (AT_SYSINFO_EHDR, VDSO)],
    ];
    for auxiliary in without_vdso {
        let begin = Begin { arguments: 1, environment: 2, nulls: 0, leftovers: 0, auxiliary };
        assert_eq!(pointers_found(&patched, &begin, None, false), [0; 3]);
    }
}

#[test]
fn the_vdso_is_found_by_shared_objects() {
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    let (libc, image) = (Patched::of(&read(&corpus.join("glibc-2.17/libc.so.6"))), vdso_of_host());
    let expected = functions(&image);
    for begin in [(1, 0, 0), (1, 30, 0), (3, 5, 7)] {
        let begin = Begin::with_vdso(begin.0, begin.1, begin.2);
        assert_eq!(pointers_found(&libc, &begin, Some(&image), true), expected);
    }
    // The user number 33 in the middle of what looks like a pair.
    for leftovers in 0..6 {
        let mut begin = Begin { leftovers, ..Begin::with_vdso(1, 0, 0) };
        begin.auxiliary.insert(1, (11, 33));
        let found = pointers_found(&libc, &begin, Some(&image), true);
        assert!(found == expected || leftovers % 2 == 1 && found == [0; 3], "{leftovers}: {found:x?}");
    }
}

/// musl takes `libc.so.6` for itself, and calls init functions without arguments: what is in the registers then, leads
/// nowhere.
#[test]
fn what_is_no_argument_is_not_taken_for_one() {
    if !need("gcc") {
        return;
    }
    let dir = temp_dir();
    let file = dir.path().join("values.so");
    compile("values.c", "-shared -fPIC", &file);
    let (object, image) = (Patched::of(&read(&file)), vdso_of_host());
    let begin = Begin::with_vdso(3, 5, 0);
    let found = |arguments| pointers_found_with(Some(arguments), &object, &begin, Some(&image));
    let argv = BOTTOM + 8;
    assert_eq!(found([3, argv]), functions(&image), "as glibc has it");
    for count in [u64::MAX, 0x8000_0000, 0x7fff_ffff, 0, 2, 4, 9] {
        assert_eq!(found([count, argv]), [0; 3], "{count:#x} arguments");
    }
    let others =
        [0, 1, 8, object.init, 0x7fff_f000, 0x6000_0000_0000, STACK_OF_OBJECT - 0x200, STACK_OF_OBJECT];
    let above = [STACK_OF_OBJECT + 8, argv - 8, argv + 8, argv + 1, STACK + STACK_SIZE - 8];
    let nowhere = [1 << 47, u64::MAX, u64::MAX - 7, 0xffff_8000_0000_0000, 0x5555_5555_5555_5558];
    for at in others.into_iter().chain(above).chain(nowhere) {
        for count in [0, 1, 3, 0x1234_5678, 0x7fff_ffff, 0xffff_fff0] {
            assert_eq!(found([count, at]), [0; 3], "{count:#x} arguments at {at:#x}");
        }
    }
}

#[test]
fn only_what_the_vdso_has_is_taken() {
    const HASH: u64 = 4;
    const GNU_HASH: u64 = 0x6fff_fef5;
    const VERSYM: u64 = 0x6fff_fff0;
    const VERDEF: u64 = 0x6fff_fffc;
    const SYMTAB: u64 = 6;
    const STRTAB: u64 = 5;
    let (patched, image) = (Patched::of(DEMO), vdso_of_host());
    let all = functions(&image);
    let found = |image: &[u8]| pointers_found(&patched, &Begin::with_vdso(1, 5, 0), Some(image), false);
    let mut tables = 0;
    for (tag, other) in [(HASH, GNU_HASH), (GNU_HASH, HASH)] {
        if dynamic(&image, tag).is_some() {
            assert_eq!(found(&without(&image, &[other])), all, "with the table {tag:#x} alone");
            tables += 1;
        }
    }
    assert!(tables > 0, "the vDSO has a hash table");
    assert_eq!(found(&with_gnu_hash(&image)), all, "with a GNU hash table of several buckets");
    assert_eq!(
        found(&without(&image, &[HASH, GNU_HASH])),
        [0; 3],
        "nobody can tell how many symbols there are"
    );
    for tag in [SYMTAB, STRTAB] {
        assert_eq!(found(&without(&image, &[tag])), [0; 3]);
    }
    assert_eq!(found(&without(&image, &[VERSYM, VERDEF])), all, "without versions");
    assert_eq!(found(&replaced(&image, "LINUX_2.6", "LINUX_2.7")), [0; 3], "of another version");
    for (number, name) in NAMES.into_iter().enumerate() {
        let other = name.replace("__vdso", "__none");
        let mut expected = all;
        expected[number] = 0;
        assert_eq!(found(&replaced(&image, name, &other)), expected, "without {name}, as in some sandboxes");
    }
    for base in [0x1000, 0xffff_ffff_ff70_0000] {
        assert_eq!(
            found(&linked_at(&image, base)),
            all,
            "linked at {base:#x}, as kernels before 3.16 have it"
        );
    }
    let mut damaged = image.clone();
    damaged[0] = 0;
    assert_eq!(found(&damaged), [0; 3], "no ELF file");
    let mut headless = image.clone();
    headless[56..58].copy_from_slice(&0_u16.to_le_bytes());
    assert_eq!(found(&headless), [0; 3], "no program headers");
    // A symbol that is not defined, or is no function.
    for (field, value) in [(6, [0, 0]), (4, [0x11, 0])] {
        let mut image = image.clone();
        let symbols = u64_at(&image, dynamic(&image, SYMTAB).expect("symbols")) as usize;
        let strings = u64_at(&image, dynamic(&image, STRTAB).expect("strings")) as usize;
        let count = object::File::parse(&*image).expect("an ELF file").dynamic_symbols().count();
        for at in (symbols..).step_by(24).take(count + 1) {
            let name = &image[strings + u32_at(&image, at) as usize..];
            if name.starts_with(b"__vdso_time\0") {
                let bytes = if field == 4 { 1 } else { 2 };
                image[at + field..at + field + bytes].copy_from_slice(&value[..bytes]);
            }
        }
        assert_eq!(found(&image), [all[0], 0, all[2]]);
    }
}

/// The vDSO with all its addresses `base` higher.
fn linked_at(image: &[u8], base: u64) -> Vec<u8> {
    /// Tags of the dynamic table whose values are addresses.
    const ADDRESSES: [u64; 6] = [4, 5, 6, 0x6fff_fef5, 0x6fff_fff0, 0x6fff_fffc];
    let mut moved = image.to_vec();
    let mut shift = |at: usize| {
        let value = u64_at(image, at).wrapping_add(base);
        moved[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    let headers = u64_at(image, 32) as usize;
    for header in (headers..).step_by(56).take(segments(image).len()) {
        shift(header + 16);
    }
    ADDRESSES.into_iter().filter_map(|tag| dynamic(image, tag)).for_each(&mut shift);
    let symbols = u64_at(image, dynamic(image, 6).expect("symbols")) as usize;
    let count = object::File::parse(image).expect("an ELF file").dynamic_symbols().count();
    (symbols + 24..).step_by(24).take(count).for_each(|symbol| shift(symbol + 8));
    moved
}

/// The vDSO with a GNU hash table of two buckets at its end, and no other.
fn with_gnu_hash(image: &[u8]) -> Vec<u8> {
    let mut image = without(image, &[4]);
    let count = object::File::parse(&*image).expect("an ELF file").dynamic_symbols().count() as u32 + 1;
    let table = image.len() as u64;
    // The first bucket has all symbols but the last, which is in the second one.
    let (first, last) = (1, count - 1);
    let mut words = vec![2, first, 1, 6, 0, 0, first, last];
    words.extend((first..count).map(|number| if number >= last - 1 { 1 } else { 0 }));
    image.extend(words.into_iter().flat_map(u32::to_le_bytes));
    let value = dynamic(&image, 0x6fff_fef5).expect("the vDSO has such a table");
    image[value..value + 8].copy_from_slice(&table.to_le_bytes());
    image
}

#[test]
fn entries_hand_on_what_they_get() {
    let patched = Patched::of(DEMO);
    for entry in Entry::ALL {
        for preserving in [false, true] {
            let mut engine = machine(&patched.bytes);
            // A function of the vDSO that changes all that a function may change.
            let mut model = vec![0x48, 0xc7, 0xc0, 0x2a, 0, 0, 0]; // mov $42,%rax
            let changes = [
                &[0x48, 0xc7, 0xc1][..], // rcx, rdx, rsi, rdi, r8 to r11
                &[0x48, 0xc7, 0xc2],
                &[0x48, 0xc7, 0xc6],
                &[0x48, 0xc7, 0xc7],
                &[0x49, 0xc7, 0xc0],
                &[0x49, 0xc7, 0xc1],
                &[0x49, 0xc7, 0xc2],
                &[0x49, 0xc7, 0xc3],
            ];
            changes.iter().for_each(|code| model.extend([code, &[7, 0, 0, 0][..]].concat()));
            model.extend([0x48, 0x85, 0xc0, 0xf9, 0xc3]); // test %rax,%rax; stc; ret
            engine.mem_map(MODEL, 0x1000, Prot::READ | Prot::EXEC).expect("mapped");
            engine.mem_write(MODEL, &model).expect("written");
            engine.mem_map(END, 0x1000, Prot::READ | Prot::EXEC).expect("mapped");
            engine.mem_write(patched.pointers + entry as u64 * 8, &MODEL.to_le_bytes()).expect("written");
            let stack = STACK + 0x4000;
            let below: Vec<u8> = (0..128).collect();
            engine.mem_write(stack - 120, &below).expect("written");
            engine.mem_write(stack, &END.to_le_bytes()).expect("written");
            for (number, register) in general().enumerate() {
                engine.reg_write(register, 0x0101_0101_0101_0101 * (number as u64 + 1)).expect("a register");
            }
            engine.reg_write(RegisterX86::RSP, stack).expect("a register");
            engine.reg_write(RegisterX86::RFLAGS, 0x246).expect("flags");
            let at = patched.entry(entry) + if preserving { PRESERVING } else { 0 };
            let before = values(&engine);
            engine
                .add_code_hook(MODEL, MODEL, |engine, _, _| {
                    let all = general().chain([RegisterX86::RSP]);
                    *engine.get_data_mut() =
                        all.map(|register| engine.reg_read(register).expect("a register")).collect();
                })
                .expect("a hook");
            engine.emu_start(at, END, 0, 1000).expect("it returns");
            let at_function = engine.get_data().clone();
            let (stack_there, arguments) = at_function.split_last().expect("the function was called");
            assert_eq!(arguments[1..], before[1..], "{entry}: the arguments, and all else but rax");
            if !preserving {
                assert_eq!(*stack_there, stack, "nothing is on the stack");
            }
            assert_eq!(stack_there % 16, stack % 16, "as a function expects it");
            assert_eq!(engine.reg_read(RegisterX86::RSP), Ok(stack + 8));
            let after = values(&engine);
            assert_eq!(after[0], 42, "the result");
            if preserving {
                assert_eq!(after[1..], before[1..], "{entry}: all registers are kept");
                assert_eq!(
                    engine.reg_read(RegisterX86::RFLAGS).expect("flags") & 0x8d5,
                    0x44,
                    "and the flags"
                );
                // All that may be kept below the stack pointer, but for the return address of the call.
                let kept = engine.mem_read_as_vec(stack - 120, 120).expect("mapped");
                assert_eq!(kept, below[..120], "and the red zone");
            }
        }
    }
}

/// The functions of this kernel's vDSO take less of the stack than the README says, and the entry that keeps all
/// registers as much more as it says.
#[test]
fn the_stack_that_a_call_takes_is_bounded() {
    /// Below a call of an entry, its return address not counted.
    const MOST: u64 = 200;
    const OF_PRESERVING: u64 = 208;
    /// What the kernel keeps for its vDSO is right before that, in some pages.
    const DATA: u64 = 0x10_000;
    let (patched, image) = (Patched::of(DEMO), vdso_of_host());
    let functions = functions(&image);
    let stack = STACK + 0x4000;
    // Clocks of different kinds: none, and one that is read; the rest as if nothing had been counted yet.
    let clocks =
        [vec![0; DATA as usize], [0_u32, 1, 0, 0].map(u32::to_le_bytes).concat().repeat(DATA as usize / 16)];
    let mut most = [0; 2];
    for (entry, preserving) in Entry::ALL.into_iter().flat_map(|entry| [(entry, false), (entry, true)]) {
        let mut returned = 0;
        for clock in &clocks {
            let mut engine = machine(&patched.bytes);
            let size = (image.len() as u64).next_multiple_of(0x1000);
            engine.mem_map(VDSO - DATA, DATA, Prot::READ).expect("mapped");
            engine.mem_map(VDSO, size, Prot::READ | Prot::EXEC).expect("mapped");
            engine.mem_map(END, 0x1000, Prot::READ | Prot::EXEC).expect("mapped");
            engine.mem_write(VDSO - DATA, clock).expect("written");
            engine.mem_write(VDSO, &image).expect("written");
            let words: Vec<u8> = functions.iter().flat_map(|function| function.to_le_bytes()).collect();
            engine.mem_write(patched.pointers, &words).expect("written");
            engine.mem_write(stack, &END.to_le_bytes()).expect("written");
            engine.reg_write(RegisterX86::RSP, stack).expect("a register");
            for (register, at) in
                [(RegisterX86::RDI, 0x100), (RegisterX86::RSI, 0x180), (RegisterX86::RDX, 0)]
            {
                let at = if at == 0 { 0 } else { stack + at };
                engine.reg_write(register, at).expect("a register");
            }
            engine
                .add_mem_hook(HookType::MEM_WRITE, STACK, stack - 1, |engine, _, at, _, _| {
                    engine.get_data_mut().push(at);
                    true
                })
                .expect("a hook");
            let system_call = |engine: &mut Unicorn<Vec<u64>>| {
                engine.reg_write(RegisterX86::RAX, 0).expect("a register");
            };
            engine.add_insn_sys_hook(unicorn_engine::X86Insn::SYSCALL, 1, 0, system_call).expect("a hook");
            // `rdpid`, which the emulator does not know, is passed over.
            let unknown = |engine: &mut Unicorn<Vec<u64>>| {
                const RDPID: [u8; 3] = [0xf3, 0x0f, 0xc7];
                let at = engine.reg_read(RegisterX86::RIP).expect("a register");
                engine.reg_write(RegisterX86::RIP, at + 4).expect("a register");
                engine.mem_read_as_vec(at, 3).is_ok_and(|code| code == RDPID)
            };
            engine.add_insn_invalid_hook(unknown).expect("a hook");
            // Room that is made and not written to counts, too.
            engine
                .add_code_hook(VDSO, VDSO + size, |engine, _, _| {
                    let at = engine.reg_read(RegisterX86::RSP).expect("a register");
                    engine.get_data_mut().push(at);
                })
                .expect("a hook");
            let at = patched.entry(entry) + if preserving { PRESERVING } else { 0 };
            let ended = engine.emu_start(at, END, 0, 100_000);
            if ended.is_ok() && engine.reg_read(RegisterX86::RIP) == Ok(END) {
                returned += 1;
                let lowest = engine.get_data().iter().copied().min().unwrap_or(stack);
                let taken = &mut most[usize::from(preserving)];
                *taken = stack.saturating_sub(lowest).max(*taken);
            }
        }
        assert!(returned > 0, "{entry}: the vDSO's function returns");
    }
    eprintln!("{most:?} bytes of stack");
    assert!(most[0] < MOST, "{most:?}");
    assert!((OF_PRESERVING..OF_PRESERVING + MOST).contains(&most[1]), "{most:?}");
}

/// What each file of the corpus comes to.
#[test]
fn real_files_go_there_and_back() {
    /// A page, the pointers, and the section headers with their names.
    const MOST: usize = 12 << 10;
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    let dir = temp_dir();
    let tree = rootfs::unpack(dir.path(), "tree");
    let (mut patched, mut refused) = (0, vec![]);
    for file in rootfs::elf_files(&corpus).into_iter().chain(rootfs::elf_files(&tree)) {
        let bytes = read(&file);
        let (_, Some(plan)) = examine(&bytes, Via::Vdso).expect("it is sound") else { continue };
        let by_syscall = examine(&bytes, Via::Syscall).expect("it is sound").1.expect("a plan");
        if !by_syscall.has_edits() {
            assert!(!plan.has_edits(), "{}", file.display());
            continue;
        }
        if !plan.has_edits() {
            refused.push((file.file_name().expect("a name").to_owned(), plan.sites[0].reason.clone()));
            let auto = examine(&bytes, Via::Auto).expect("it is sound").1.expect("a plan");
            assert_eq!(auto.edits, by_syscall.edits, "{}", file.display());
            assert!(auto.not_vdso.is_some(), "{}", file.display());
            continue;
        }
        for verdict in [Verdict::Refused, Verdict::Unproven] {
            assert!(plan.count(verdict) <= by_syscall.count(verdict), "{}", file.display());
        }
        let result = apply(&bytes, Sha256::of(&bytes), &plan.edits).expect("the plan fits");
        let record = Record::of(&plan, Sha256::of(&bytes), Sha256::of(&result), None);
        assert_eq!(verify(&result, &record), [], "{}", file.display());
        assert!(
            result.len() < bytes.len() + MOST + 0x1000,
            "{}: {} more",
            file.display(),
            result.len() - bytes.len()
        );
        let back = apply(&result, record.patched, &inverse(&record.edits)).expect("the inverse fits");
        assert!(back == bytes, "{}", file.display());
        patched += 1;
    }
    assert_eq!(refused, [], "{patched} patched");
    assert!(patched > 10, "{patched}");
}

/// Where the table of a patched program has gone, and the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rung {
    InPlace,
    InPlaceWithoutPointers,
    Between,
    Behind,
    Below,
}

fn rung(before: &[u8], patched: &Patched) -> Rung {
    let loads = |bytes: &[u8]| segments(bytes).into_iter().filter(|load| load.kind == 1).collect::<Vec<_>>();
    let (old, new) = (loads(before), loads(&patched.bytes));
    let is_in_place = u64_at(before, 32) == u64_at(&patched.bytes, 32);
    if is_in_place && new.len() == old.len() + 1 {
        Rung::InPlaceWithoutPointers
    } else if is_in_place {
        Rung::InPlace
    } else if patched.page < old[0].vaddr {
        Rung::Below
    } else if old.last().is_some_and(|last| last.vaddr < patched.page) {
        Rung::Behind
    } else {
        Rung::Between
    }
}

/// Programs find their program headers under each kernel, wherever these had to go.
#[test]
fn old_kernels_tell_where_the_table_is() {
    if !["gcc", "ld.lld"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let mut programs = vec![("demo".to_owned(), DEMO.to_vec())];
    // Much zeroed data leaves fixed addresses only the memory below where the table has no entry that says nothing.
    let more =
        ["-no-pie -fno-pie -fuse-ld=lld -DZEROS=100000", "-static -no-pie -Wl,-z,max-page-size=0x200000"];
    for kind in KINDS.into_iter().chain(more) {
        let program = dir.path().join("program");
        compile("values.c", &format!("-DPROGRAM {kind}"), &program);
        programs.push((kind.to_owned(), read(&program)));
    }
    for file in real_corpus().into_iter().flat_map(|corpus| rootfs::elf_files(&corpus)) {
        let bytes = read(&file);
        // The libraries that can be run are told of in the README.
        let is_library = file.to_string_lossy().contains(".so");
        if !is_library
            && examine(&bytes, Via::Vdso).is_ok_and(|(_, plan)| plan.is_some_and(|plan| plan.has_edits()))
        {
            programs.push((file.display().to_string(), bytes));
        }
    }
    let mut rungs = std::collections::BTreeSet::new();
    for (name, bytes) in programs {
        let patched = Patched::of(&bytes);
        let rung = rung(&bytes, &patched);
        eprintln!("{rung:?}: {name}");
        rungs.insert(rung);
        let (told, there) = told_table(&patched.bytes);
        assert_eq!(Some(told), there, "{name}");
        let named = segments(&patched.bytes).into_iter().find(|segment| segment.kind == 6);
        assert!(named.is_none_or(|named| named.vaddr == told), "{name}: PT_PHDR");
    }
    assert_eq!(rungs.len(), 5, "{rungs:?}");
}

/// Status of a process that was killed for a system call.
const DENIED: i32 = 128 + 31;

#[test]
fn programs_get_their_values_from_the_vdso() {
    if !can_run() {
        return;
    }
    let dir = temp_dir();
    for (number, kind) in KINDS.into_iter().enumerate() {
        let program = dir.path().join(format!("values-{number}"));
        compile("values.c", &format!("-DPROGRAM {kind}"), &program);
        denied([&program, Path::new("check")]).expect(harness::KILLED);
        let cured = patched(&program, "vdso");
        let ran = denied([&cured, Path::new("check")]).expect(0);
        assert!(ran.stdout.contains("6000000 values from 4 threads, under signals"), "{kind}: {ran}");
        denied([&cured, Path::new("without")]).expect(0);
        denied([&cured, Path::new("only")]).expect(0);
        // The filter of the program's own does bite.
        let by_syscall = patched(&program, "syscall");
        let ran = denied([&by_syscall, Path::new("without")]).expect(DENIED);
        assert_eq!(ran.stderr, "", "another filter killed it");
        denied([&by_syscall, Path::new("only")]).expect(0);
        // A bad pointer, as README.md has it.
        denied([&cured, Path::new("bad")]).expect(128 + 11);
        denied([&by_syscall, Path::new("bad")]).expect(0);
    }
}

#[test]
fn shared_objects_get_their_values_from_the_vdso() {
    if !can_run() {
        return;
    }
    let dir = temp_dir();
    let (host, objects) = values::host_and_objects(dir.path());
    objects.iter().for_each(|object| gets_values(&host, object));
}

/// What `host` comes to with `object`, as it is and patched.
fn gets_values(host: &Path, object: &Path) {
    let cured = patched(object, "vdso");
    let by_syscall = patched(object, "syscall");
    let run = |what: &str, object: &Path| denied([host, Path::new(what), object]);
    let preloaded =
        |what: &str, object: &Path| Ran::of(Command::new(host).arg(what).env("LD_PRELOAD", object));
    run("check", object).expect(harness::KILLED);
    for what in ["check", "without", "only"] {
        run(what, &cured).expect(0);
        preloaded(what, &cured).expect(0);
    }
    run("without", &by_syscall).expect(DENIED);
    preloaded("without", &by_syscall).expect(DENIED);
}

/// What reads and writes such files takes them as it took the originals: no new complaint, and what is written runs.
#[test]
fn tools_take_what_was_patched() {
    if !can_run() || !values::TOOLS.into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let (host, objects) = values::host_and_objects(dir.path());
    let mut files: Vec<_> = objects.into_iter().map(|object| (object, true)).collect();
    for (number, kind) in KINDS.into_iter().enumerate() {
        let program = dir.path().join(format!("values-{number}"));
        compile("values.c", &format!("-DPROGRAM {kind}"), &program);
        files.push((program, false));
    }
    for (file, is_library) in files {
        let cured = patched(&file, "vdso");
        let run = |file: &Path| {
            let words = if is_library {
                denied([&host, Path::new("without"), file])
            } else {
                denied([file, Path::new("without")])
            };
            words.status
        };
        values::assert_taken_by_tools(&file, &cured, run);
    }
    // A debugger stops at an entry, and sees who called it.
    let program = dir.path().join("values-0.vdso");
    let entry = Patched::of(&read(&dir.path().join("values-0"))).entry(Entry::Time);
    let stop = format!("break *{entry:#x}");
    let words = ["-nx", "-batch", "-ex", &stop, "-ex", "run only", "-ex", "bt", "-ex", "finish"];
    let ran = Ran::of(Command::new("gdb").args(words).arg(&program));
    assert!(ran.stdout.contains("Breakpoint 1, ") && ran.stdout.contains("main ("), "{ran}");
}

/// Trees with old loaders, which have no /proc; records, verification and the way back are as with system calls.
#[test]
fn old_loaders_load_it() {
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    if !is_root() {
        return skip("chroot needs root");
    }
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    if !["as", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let tree = rootfs::unpack(dir.path(), "old");
    let new = rootfs::unpack(dir.path(), "new");
    tool([Path::new("patch"), Path::new("--in-place"), Path::new("--via"), Path::new("vdso"), &new])
        .expect(0);
    let run = |tree: &Path, program: &[&str]| {
        Ran::of(harness::vsyspatch().args(["exec", "--", "chroot"]).arg(tree).args(program))
    };
    for program in [&["e2fsck", "-V"][..], &["mdadm", "--version"]] {
        run(&tree, program).expect(harness::KILLED);
        let normal = Ran::of(Command::new("chroot").arg(&tree).args(program));
        let ran = run(&new, program);
        assert_eq!((ran.status, ran.stdout, ran.stderr), (normal.status, normal.stdout, normal.stderr));
    }
    tool([Path::new("verify"), &new]).expect(0);
    tool([Path::new("patch"), Path::new("--in-place"), &new]).expect(0);
    tool([Path::new("revert"), Path::new("--in-place"), &new]).expect(0);
    rootfs::assert_same(&tree, &new);

    let oldest = rootfs::glibc_2_5(dir.path(), "oldest");
    for library in ["lib64/libc.so.6", "lib64/libpthread.so.0"] {
        tool([Path::new("patch"), Path::new("--in-place"), Path::new("--via=vdso"), &oldest.join(library)])
            .expect(0);
    }
    run(&oldest, &["/old-glibc"]).expect(0);

    // They find the vDSO: nothing needs the system calls, which kill where those are made that stand for the calls.
    if !need("gcc") {
        return;
    }
    let deny = dir.path().join("deny");
    compile("deny.c", "-static", &deny);
    let run = |tree: &Path, program: &[&str]| {
        Ran::of(harness::vsyspatch().args(["exec", "--"]).arg(&deny).arg("chroot").arg(tree).args(program))
    };
    run(&oldest, &["/old-glibc"]).expect(0);
    tool([Path::new("patch"), Path::new("--in-place"), Path::new("--via=vdso"), &new]).expect(0);
    run(&new, &["e2fsck", "-V"]).expect(0);
    for library in ["lib64/libc.so.6", "lib64/libpthread.so.0"] {
        tool([Path::new("revert"), Path::new("--in-place"), &oldest.join(library)]).expect(0);
        tool([Path::new("patch"), Path::new("--in-place"), &oldest.join(library)]).expect(0);
    }
    run(&oldest, &["/old-glibc"]).expect(DENIED);
    tool([Path::new("revert"), Path::new("--in-place"), &new]).expect(0);
    tool([Path::new("patch"), Path::new("--in-place"), &new]).expect(0);
    run(&new, &["e2fsck", "-V"]).expect(DENIED);
}

/// What runs before the init code gets its values, too: a resolver of the object's own, and another's constructor.
#[test]
fn what_runs_before_the_init_code_makes_system_calls() {
    if !can_run() {
        return;
    }
    let dir = temp_dir();
    let [before, object, program] = ["before.so", "early.so", "program"].map(|name| dir.path().join(name));
    let here = format!("-Wl,--no-as-needed -Wl,-rpath,{0} -L{0}", dir.path().display());
    compile("early.c", "-DBEFORE -shared -fPIC", &before);
    compile("early.c", &format!("-DOBJECT -shared -fPIC -Wl,-z,now {here} -l:before.so"), &object);
    compile("early.c", &format!("{here} -l:early.so"), &program);
    denied([&program]).expect(harness::KILLED);
    tool([Path::new("patch"), Path::new("--in-place"), Path::new("--via=vdso"), &object]).expect(0);
    denied([&program]).expect(0);
}

/// Go programs run with the page, too.
#[test]
fn go_programs_run_with_the_page() {
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    let dir = temp_dir();
    for name in ["go1.14.7-tree", "go1.6.2-stripped"] {
        let original = corpus.join("go").join(name);
        let cured = dir.path().join(name);
        tool([Path::new("patch"), Path::new("--via=vdso"), &original, &cured]);
        assert!(read(&cured).len() > read(&original).len(), "{name} has the page");
        let (normal, ran) = (Ran::of(&mut Command::new(&original)), denied([&cured]));
        assert_eq!((ran.status, ran.stdout), (normal.status, normal.stdout), "{name}");
    }
}

/// A program that gains privileges, whose loader takes variables out of the environment.
#[test]
fn a_program_that_gains_privileges_has_the_vdso() {
    if !can_run() || !need("setpriv") {
        return;
    }
    if !is_root() {
        return skip("only root gives files to root");
    }
    let dir = temp_dir();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
    let program = dir.path().join("values");
    compile("values.c", "-DPROGRAM -pie -fPIE", &program);
    let cured = patched(&program, "vdso");
    fs::set_permissions(&cured, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("its mode");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups"]).arg(&cured).arg("without");
    command.envs([
        ("LD_PRELOAD", "none.so"),
        ("LD_LIBRARY_PATH", "/none"),
        ("MALLOC_CHECK_", "0"),
        ("TMPDIR", "/"),
    ]);
    Ran::of(&mut command).expect(0);
}

/// A jump stands for a function that only makes the call, unless something leads into what it replaces.
#[test]
fn a_function_that_only_makes_the_call_becomes_a_jump() {
    if !["as", "strip", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let source = Source::load("wrapper");
    let linked = source.link(&source.assemble(dir.path()), Link::Exec, Linker::Bfd, dir.path());
    let plan = examine(&read(&linked.files[0]), Via::Vdso).expect("an ELF file").1.expect("a plan");
    let first_byte = |function: &str| {
        let of_it = |edit: &&Edit| edit.role == Role::Constant && edit.function.as_deref() == Some(function);
        let edits: Vec<&Edit> = plan.edits.iter().filter(of_it).collect();
        assert_eq!(edits.len(), 1, "{function}");
        (edits[0].after[0], edits[0].after.len())
    };
    assert_eq!(first_byte("plain"), (0xe9, 11), "jmp");
    assert_eq!(first_byte("entered"), (0x48, 7), "lea");
}

/// The pointers in the memory of the last segment, which takes nothing of the file and none of the program's memory.
#[test]
fn pointers_find_a_place_behind_much_zeroed_data() {
    if !need("gcc") {
        return;
    }
    let dir = temp_dir();
    let image = vdso_of_host();
    for kind in ["-static-pie -fPIE", "-pie -fPIE", "-no-pie -fno-pie"] {
        let program = dir.path().join("program");
        compile("values.c", &format!("-DPROGRAM -DZEROS=1000000 {kind}"), &program);
        let bytes = read(&program);
        let patched = Patched::of(&bytes);
        assert_eq!(rung(&bytes, &patched), Rung::InPlaceWithoutPointers, "{kind}");
        let [before, after] = [&bytes, &patched.bytes].map(|bytes| {
            let mut loads = segments(bytes).into_iter().filter(|load| load.kind == 1 && load.flags == 6);
            loads.next_back().expect("data")
        });
        let end = before.vaddr + before.mem_size;
        assert_eq!(patched.pointers, end.next_multiple_of(0x1000), "{kind}: a page of its own");
        assert_eq!(after.vaddr + after.mem_size, patched.pointers + 24, "{kind}: the segment ends with it");
        assert_eq!(after.file_size, before.file_size, "{kind}");
        assert_eq!(patched.page, patched.pointers + 0x1000, "{kind}");
        let begin = Begin::with_vdso(1, 30, 0);
        assert_eq!(pointers_found(&patched, &begin, Some(&image), false), functions(&image), "{kind}");
    }
}

/// A program without room in its table, and with more zeroed data than its file can be made longer by.
#[test]
fn much_zeroed_data_is_told() {
    if !["gcc", "ld.lld"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let program = dir.path().join("program");
    compile("values.c", "-DPROGRAM -DZEROS=1000000 -pie -fPIE -fuse-ld=lld", &program);
    let ran = tool([Path::new("scan"), Path::new("--via=auto"), &program]).expect(1);
    assert!(ran.stdout.contains("a position-independent program with much zeroed data"), "{ran}");
}

/// The init code of a shared object without `DT_INIT` is the first function of its array, where a relocation says so.
#[test]
fn the_first_of_an_array_of_functions_leads_to_the_init_code() {
    if !["gcc", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let file = dir.path().join("values.so");
    let image = vdso_of_host();
    for linker in ["bfd", "gold", "lld", "bfd -Wl,-z,pack-relative-relocs"] {
        compile("values.c", &format!("{} -fuse-ld={linker}", OBJECTS[1]), &file);
        let bytes = read(&file);
        assert_eq!(dynamic(&bytes, 12), None, "{linker}: no DT_INIT");
        let object = Patched::of(&bytes);
        let found = pointers_found(&object, &Begin::with_vdso(1, 30, 0), Some(&image), true);
        assert_eq!(found, functions(&image), "{linker}");
        // There and back; and as it is looked at, the patched one has the same functions as the original.
        let cured = patched(&file, "vdso");
        let back = dir.path().join("back.so");
        tool([Path::new("revert"), &cured, &back]).expect(0);
        assert!(read(&back) == bytes, "{linker}");
    }
    // Nothing that runs when it is loaded.
    compile("values.c", "-shared -fPIC -nostartfiles", &file);
    let is_told = |file: &Path| {
        let ran = tool([Path::new("scan"), Path::new("--via=auto"), file]).expect(1);
        assert!(ran.stdout.contains("no init function (DT_INIT), nor a relocation"), "{ran}");
    };
    is_told(&file);
    // A prelinked file; a word that another relocation has to do with, too; an array without a word.
    compile("values.c", OBJECTS[1], &file);
    let bytes = read(&file);
    let array = u64_at(&bytes, dynamic(&bytes, 25).expect("an array"));
    let relocations = u64_at(&bytes, dynamic(&bytes, 7).expect("relocations"));
    let table = offset_of(&bytes, relocations).expect("in the file") as usize;
    let other = (table..).step_by(24).find(|&at| u64_at(&bytes, at) != array).expect("another");
    let size = dynamic(&bytes, 27).expect("its size");
    let unused = dynamic(&bytes, 0x6fff_fff0).expect("versions") - 8;
    const COPY: u64 = 5;
    let changes =
        [(unused, 0x6fff_fdf5), (other, array - 7), (other, array + 7), (other + 8, COPY), (size, 7)];
    for (at, value) in changes {
        let mut changed = bytes.clone();
        if at == other + 8 {
            changed[other..other + 8].copy_from_slice(&u64::to_le_bytes(array - 0x100));
        }
        changed[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        fs::write(&file, &changed).expect("written");
        is_told(&file);
    }
}

/// What cannot take the page is refused, or gets system calls, and both are told.
#[test]
fn what_cannot_take_the_page_is_told() {
    let dir = temp_dir();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let library = put("forms.so", &read(&root().join("corpus/prebuilt/forms.so")));
    let payload = put("payload", &[DEMO, b"PK\x05\x06 found from the end of the file"].concat());
    // A linker that ends the file at a multiple of 16 puts fewer there.
    let padded = put("padded", &[DEMO, &[0; 15]].concat());
    let cured = patched(&padded, "vdso");
    tool([Path::new("verify"), &cured]).expect(0);
    let back = dir.path().join("back");
    tool([Path::new("revert"), &cured, &back]).expect(0);
    assert!(read(&back) == read(&padded));
    let zeros = put("zeros", &[DEMO, &[0; 16]].concat());
    let behind = "stand behind everything";
    for (file, why) in [(library, "without glibc's libc.so.6"), (payload, behind), (zeros, behind)] {
        let before = read(&file);
        let output = harness::with_suffix(&file, ".new");
        let words =
            |via: &str| tool([Path::new("patch"), Path::new(&format!("--via={via}")), &file, &output]);
        let strict = words("vdso").expect(1);
        assert!(strict.stdout.contains(why) && strict.stdout.contains("--via auto"), "{strict}");
        assert!(read(&output) == before, "nothing is changed");
        let auto = words("auto");
        assert!(auto.status < 2 && auto.stdout.contains("system calls, not the vDSO: "), "{auto}");
        assert!(auto.stdout.contains(why) && read(&output).len() == before.len(), "{auto}");
        let scanned = tool([Path::new("scan"), Path::new("--via=auto"), &file]).expect(1);
        assert!(scanned.stdout.contains(why), "{scanned}");
        let ran = tool([Path::new("scan"), Path::new("--via=auto"), Path::new("--json"), &file]).expect(1);
        let told = harness::files(&ran.report())[0]["not_vdso"].as_str().map(str::to_owned);
        assert!(told.is_some_and(|told| told.contains(why)), "{ran}");
        let explained = tool([Path::new("explain"), Path::new("--via=vdso"), &file]);
        assert!(explained.stdout.contains(why), "{explained}");
    }
}

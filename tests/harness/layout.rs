//! ELF files made in memory: random layouts with planted sites, for the property tests.

use proptest::prelude::*;
use proptest::sample::select;

/// What is planted. Each function returns, keeps what it must keep, and uses the address in one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// `mov $entry,%rax; call *%rax` inside a frame.
    Direct,
    /// The same with instructions between, through the given register (0 to 15, not rsp).
    Register(u8),
    /// `mov $entry,%rax; jmp *%rax` at the end.
    Tail,
    /// One constant in rbx, two calls.
    Hoisted,
    /// `movabs $entry,%rax; call *%rax`.
    Movabs,
}

/// One function of a layout.
#[derive(Clone, Debug)]
pub enum Function {
    /// Only instructions of its own; indices into `FILLERS`.
    Filler(Vec<usize>),
    /// A site, with fillers before.
    Planted(Vec<usize>, Plant, u8),
}

/// Padding behind a function.
#[derive(Clone, Debug)]
pub enum Padding {
    Nops(usize),
    Int3(usize),
    Zeros(usize),
    /// As assemblers pad: one long nop of so many bytes.
    LongNop(usize),
}

/// A file to be made.
#[derive(Clone, Debug)]
pub struct Layout {
    pub exec: bool,
    /// Extra segments: read-only in front, data behind, zeros only behind.
    pub extra: [bool; 3],
    pub functions: Vec<(Function, Padding)>,
    /// Bytes between the end of the text in the file and what follows it.
    pub gap: usize,
    pub seed: u64,
}

/// A site that is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planted {
    pub offset: u64,
    pub plant: Plant,
    pub entry: &'static str,
    /// File range of its function.
    pub function: std::ops::Range<u64>,
}

/// The file, and what is known of it.
#[derive(Clone, Debug)]
pub struct Made {
    pub bytes: Vec<u8>,
    pub planted: Vec<Planted>,
    /// File ranges that hold padding, the unused rest of the text segment's page included.
    pub padding: Vec<std::ops::Range<u64>>,
    /// File range of the program header table.
    pub headers: std::ops::Range<u64>,
}

/// Instructions that touch nothing which matters: rax, rcx, rdx, and the flags.
const FILLERS: &[&[u8]] = &[
    &[0x48, 0x8d, 0x04, 0x37],                         // lea (%rdi,%rsi),%rax
    &[0x48, 0x0f, 0xaf, 0xc7],                         // imul %rdi,%rax
    &[0x31, 0xc0],                                     // xor %eax,%eax
    &[0x48, 0xc1, 0xe0, 0x03],                         // shl $3,%rax
    &[0x48, 0xc7, 0xc2, 0x00, 0x10, 0x60, 0xff],       // mov $0xffffffffff601000,%rdx
    &[0xb9, 0x78, 0x56, 0x34, 0x12],                   // mov $0x12345678,%ecx
    &[0x48, 0x85, 0xff, 0x74, 0x03, 0x48, 0xff, 0xc0], // test %rdi,%rdi; je 1f; inc %rax; 1:
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],             // nopw (%rax,%rax)
    &[0x81, 0xe1, 0x00, 0x00, 0x60, 0x7f],             // and $0x7f600000,%ecx
    &[0x48, 0x3d, 0x00, 0x04, 0x60, 0x0f],             // cmp $0xf600400,%rax
];

const LONG_NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

const ENTRIES: [(&str, u8); 3] = [("gettimeofday", 0x00), ("time", 0x04), ("getcpu", 0x08)];

fn plant() -> impl Strategy<Value = Plant> {
    // rdi holds an argument, rsp cannot hold it.
    let registers = select(vec![0_u8, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15]);
    prop_oneof![
        Just(Plant::Direct),
        registers.prop_map(Plant::Register),
        Just(Plant::Tail),
        Just(Plant::Hoisted),
        Just(Plant::Movabs),
    ]
}

fn function() -> impl Strategy<Value = Function> {
    let fillers = || prop::collection::vec(0..FILLERS.len(), 0..12);
    prop_oneof![
        2 => fillers().prop_map(Function::Filler),
        3 => (fillers(), plant(), 0_u8..3).prop_map(|(fillers, plant, entry)| Function::Planted(fillers, plant, entry)),
    ]
}

fn padding() -> impl Strategy<Value = Padding> {
    prop_oneof![
        (0_usize..40).prop_map(Padding::Nops),
        (0_usize..40).prop_map(Padding::Int3),
        (0_usize..40).prop_map(Padding::Zeros),
        (1_usize..10).prop_map(Padding::LongNop),
    ]
}

/// Any layout.
pub fn layout() -> impl Strategy<Value = Layout> {
    let functions = prop::collection::vec((function(), padding()), 1..24);
    let gap = prop_oneof![Just(0_usize), 0..64_usize, Just(4096)];
    (any::<bool>(), any::<[bool; 3]>(), functions, gap, any::<u64>())
        .prop_map(|(exec, extra, functions, gap, seed)| Layout { exec, extra, functions, gap, seed })
}

/// Code of one planted site: the bytes, and where in them the constant's instruction begins.
fn code(plant: Plant, entry: u8) -> (Vec<u8>, usize) {
    let imm = [0x00, entry, 0x60, 0xff];
    let mut code = vec![];
    let at;
    match plant {
        Plant::Direct => {
            code.extend([0x48, 0x83, 0xec, 0x08]); // sub $8,%rsp
            at = code.len();
            code.extend([0x48, 0xc7, 0xc0]); // mov $entry,%rax
            code.extend(imm);
            code.extend([0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3]); // call *%rax; add $8,%rsp; ret
        }
        Plant::Register(register) => {
            let (high, low) = (register >> 3, register & 7);
            // push and pop keep it and align the stack, whether a callee must keep it or not.
            let push = |base: u8| if high == 1 { vec![0x41, base + low] } else { vec![base + low] };
            code.extend(push(0x50));
            at = code.len();
            code.extend([0x48 | high, 0xc7, 0xc0 + low]); // mov $entry,%reg
            code.extend(imm);
            code.extend([0x31, 0xf6]); // xor %esi,%esi
            if high == 1 {
                code.push(0x41);
            }
            code.extend([0xff, 0xd0 + low]); // call *%reg
            if register == 0 {
                code.extend([0x59, 0xc3]); // pop %rcx; ret
            } else {
                code.extend(push(0x58));
                code.push(0xc3);
            }
        }
        Plant::Tail => {
            at = 0;
            code.extend([0x48, 0xc7, 0xc0]);
            code.extend(imm);
            code.extend([0xff, 0xe0]); // jmp *%rax
        }
        Plant::Hoisted => {
            code.push(0x53); // push %rbx
            at = code.len();
            code.extend([0x48, 0xc7, 0xc3]); // mov $entry,%rbx
            code.extend(imm);
            code.extend([0xff, 0xd3, 0x31, 0xff, 0xff, 0xd3]); // call *%rbx; xor %edi,%edi; call *%rbx
            code.extend([0x5b, 0xc3]); // pop %rbx; ret
        }
        Plant::Movabs => {
            code.push(0x51); // push %rcx
            at = code.len();
            code.extend([0x48, 0xb8]); // movabs $entry,%rax
            code.extend(imm);
            code.extend([0xff; 4]);
            code.extend([0xff, 0xd0, 0x59, 0xc3]); // call *%rax; pop %rcx; ret
        }
    }
    (code, at)
}

impl Plant {
    /// The form that the report names.
    pub fn form(self) -> &'static str {
        match self {
            Self::Tail => "tail-jump",
            Self::Direct | Self::Register(_) | Self::Hoisted | Self::Movabs => "direct-call",
        }
    }
}

impl Layout {
    /// Number of program headers.
    fn headers(&self) -> usize {
        1 + self.extra.iter().filter(|there| **there).count()
    }

    /// The file of this layout.
    pub fn make(&self) -> Made {
        let base = if self.exec { 0x40_0000_u64 } else { 0 };
        let headers = 64..64 + 56 * self.headers() as u64;
        let mut bytes = vec![0; headers.end as usize];
        let mut loads: Vec<[u64; 5]> = vec![]; // flags, offset, address, file size, memory size
        if self.extra[0] {
            let start = bytes.len() as u64;
            bytes.extend(noise(self.seed, 100));
            loads.push([4, start, base + start, 100, 100]);
        }
        // The text starts in a page of its own where something is in front of it.
        if self.extra[0] {
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let text = if self.extra[0] { bytes.len() as u64 } else { 0 };
        let text_vaddr = |offset: u64| base + offset + if self.extra[0] { 0x1000 } else { 0 };
        let first = bytes.len() as u64;
        let (mut planted, mut padding, mut symbols) = (vec![], vec![], vec![]);
        for (function, behind) in &self.functions {
            let start = bytes.len();
            let (Function::Filler(fillers) | Function::Planted(fillers, ..)) = function;
            fillers.iter().for_each(|&index| bytes.extend(FILLERS[index]));
            match function {
                Function::Filler(_) => bytes.push(0xc3),
                Function::Planted(_, plant, entry) => {
                    let (name, low) = ENTRIES[usize::from(*entry)];
                    let (code, at) = code(*plant, low);
                    let offset = (bytes.len() + at) as u64;
                    bytes.extend(code);
                    let function = start as u64..bytes.len() as u64;
                    planted.push(Planted { offset, plant: *plant, entry: name, function });
                }
            }
            symbols.push((text_vaddr(start as u64), (bytes.len() - start) as u64));
            let end = bytes.len() as u64;
            match *behind {
                Padding::Nops(len) => bytes.extend(vec![0x90; len]),
                Padding::Int3(len) => bytes.extend(vec![0xcc; len]),
                Padding::Zeros(len) => bytes.extend(vec![0x00; len]),
                Padding::LongNop(len) => bytes.extend(LONG_NOPS[len - 1]),
            }
            padding.push(end..bytes.len() as u64);
        }
        let text_end = bytes.len() as u64;
        loads.push([5, text, text_vaddr(text), text_end - text, text_end - text]);
        bytes.extend(vec![0; self.gap]);
        // What follows is aligned: nobody's bytes up to there.
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        padding.push(text_end..bytes.len() as u64);
        if self.extra[1] {
            let start = bytes.len() as u64;
            let data = noise(self.seed ^ 1, 200);
            loads.push([6, start, base + 0x20_0000 + start, data.len() as u64, data.len() as u64]);
            bytes.extend(data);
        }
        if self.extra[2] {
            let start = bytes.len() as u64;
            loads.push([6, start, base + 0x40_0000 + start, 0, 0x3000]);
        }
        self.section_headers(&mut bytes, first..text_end, text_vaddr(first), &symbols);
        self.headers_into(&mut bytes, &loads, text_vaddr(first));
        Made { bytes, planted, padding, headers }
    }

    fn headers_into(&self, bytes: &mut [u8], loads: &[[u64; 5]], entry: u64) {
        bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put16(bytes, 0x10, if self.exec { 2 } else { 3 });
        put16(bytes, 0x12, 62);
        put32(bytes, 0x14, 1);
        put64(bytes, 0x18, entry);
        put64(bytes, 0x20, 64);
        put16(bytes, 0x34, 64);
        put16(bytes, 0x36, 56);
        put16(bytes, 0x38, loads.len() as u16);
        for (index, &[flags, offset, vaddr, file_size, mem_size]) in loads.iter().enumerate() {
            let at = 64 + index * 56;
            put32(bytes, at, 1);
            put32(bytes, at + 4, flags as u32);
            put64(bytes, at + 8, offset);
            put64(bytes, at + 16, vaddr);
            put64(bytes, at + 24, vaddr);
            put64(bytes, at + 32, file_size);
            put64(bytes, at + 40, mem_size);
            put64(bytes, at + 48, 0x1000);
        }
    }

    /// `.text`, `.symtab`, `.strtab` and `.shstrtab`, with a symbol for every function.
    fn section_headers(
        &self,
        bytes: &mut Vec<u8>,
        text: std::ops::Range<u64>,
        vaddr: u64,
        symbols: &[(u64, u64)],
    ) {
        const NAMES: &[u8] = b"\0.text\0.symtab\0.strtab\0.shstrtab\0";
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let symtab = bytes.len() as u64;
        bytes.extend([0; 24]);
        let mut names = vec![0];
        for (index, (address, size)) in symbols.iter().enumerate() {
            bytes.extend((names.len() as u32).to_le_bytes());
            bytes.extend([0x12, 0, 1, 0]); // global function, default, section 1
            bytes.extend(address.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            names.extend(format!("function_{index}\0").bytes());
        }
        let strtab = bytes.len() as u64;
        bytes.extend(&names);
        let shstrtab = bytes.len() as u64;
        bytes.extend(NAMES);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table = bytes.len() as u64;
        // name, type, flags, address, offset, size, link, info, alignment, entry size
        let sections: [[u64; 10]; 5] = [
            [0; 10],
            [1, 1, 6, vaddr, text.start, text.end - text.start, 0, 0, 16, 0],
            [7, 2, 0, 0, symtab, strtab - symtab, 3, 1, 8, 24],
            [15, 3, 0, 0, strtab, names.len() as u64, 0, 0, 1, 0],
            [23, 3, 0, 0, shstrtab, NAMES.len() as u64, 0, 0, 1, 0],
        ];
        for [name, kind, flags, address, offset, size, link, info, align, entry_size] in sections {
            bytes.extend((name as u32).to_le_bytes());
            bytes.extend((kind as u32).to_le_bytes());
            [flags, address, offset, size].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
            bytes.extend((link as u32).to_le_bytes());
            bytes.extend((info as u32).to_le_bytes());
            [align, entry_size].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        }
        put64(bytes, 0x28, table);
        put16(bytes, 0x3a, 64);
        put16(bytes, 0x3c, sections.len() as u16);
        put16(bytes, 0x3e, 4);
    }
}

/// Bytes that hold no address of the page.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3] & 0x7f
    };
    (0..len).map(|_| next()).collect()
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

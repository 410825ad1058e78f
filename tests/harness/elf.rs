//! Just enough ELF for the tests to know better than the tool: offsets of addresses, the corpus' own labels.
//! Reads fields by their offsets in the specification, on purpose without the parsers that the tool uses.

use std::collections::BTreeMap;

pub const E_SHOFF: usize = 0x28;
pub const E_SHNUM: usize = 0x3c;
pub const E_SHSTRNDX: usize = 0x3e;

pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// A program header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub file_size: u64,
    pub mem_size: u64,
}

pub fn segments(bytes: &[u8]) -> Vec<Segment> {
    let (table, count) = (u64_at(bytes, 0x20) as usize, usize::from(u16_at(bytes, 0x38)));
    (0..count)
        .map(|index| table + index * 56)
        .map(|at| Segment {
            kind: u32_at(bytes, at),
            flags: u32_at(bytes, at + 4),
            offset: u64_at(bytes, at + 8),
            vaddr: u64_at(bytes, at + 16),
            file_size: u64_at(bytes, at + 32),
            mem_size: u64_at(bytes, at + 40),
        })
        .collect()
}

/// The file offset that PT_LOAD maps to `vaddr`.
pub fn offset_of(bytes: &[u8], vaddr: u64) -> Option<u64> {
    let loads = segments(bytes).into_iter().filter(|segment| segment.kind == 1);
    loads
        .filter(|segment| vaddr >= segment.vaddr && vaddr - segment.vaddr < segment.file_size)
        .map(|segment| vaddr - segment.vaddr + segment.offset)
        .next()
}

/// Contents of the section named `name`.
pub fn section<'a>(bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (table, count) = (u64_at(bytes, E_SHOFF) as usize, usize::from(u16_at(bytes, E_SHNUM)));
    let header = |index: usize| table + index * 64;
    let contents = |index: usize| {
        let start = u64_at(bytes, header(index) + 24) as usize;
        &bytes[start..start + u64_at(bytes, header(index) + 32) as usize]
    };
    let names = contents(usize::from(u16_at(bytes, E_SHSTRNDX)));
    let named = |index: usize| {
        let rest = &names[u32_at(bytes, header(index)) as usize..];
        rest.split(|&byte| byte == 0).next() == Some(name.as_bytes())
    };
    (1..count).find(|&index| named(index)).map(contents)
}

/// The addresses that `site` (corpus/common.inc) wrote down, by label.
pub fn labels(bytes: &[u8]) -> BTreeMap<String, u64> {
    let mut rest = section(bytes, ".vsyspatch.sites").unwrap_or_default();
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (vaddr, named) = rest.split_at(8);
        let end = named.iter().position(|&byte| byte == 0).expect("a label ends with a zero byte");
        let label = String::from_utf8(named[..end].to_vec()).expect("a label is text");
        let doubled = labels.insert(label, u64_at(vaddr, 0));
        assert_eq!(doubled, None, "a label is there twice");
        rest = &named[end + 1..];
    }
    labels
}

/// What sstrip leaves: nothing behind the last segment, and no section header table.
pub fn without_section_headers(bytes: &[u8]) -> Vec<u8> {
    let end = segments(bytes).iter().map(|segment| segment.offset + segment.file_size).max().unwrap_or(0);
    let mut bytes = bytes[..end as usize].to_vec();
    bytes[E_SHOFF..E_SHOFF + 8].fill(0);
    bytes[E_SHNUM..E_SHNUM + 2].fill(0);
    bytes[E_SHSTRNDX..E_SHSTRNDX + 2].fill(0);
    bytes
}

/// Where Linux before 5.18 tells a program that its table of program headers is, and where it is in memory.
pub fn told_table(bytes: &[u8]) -> (u64, Option<u64>) {
    let table = u64_at(bytes, 32);
    let mut loads = segments(bytes).into_iter().filter(|segment| segment.kind == 1);
    let holds = |offset: u64, size: u64| (offset..offset + size).contains(&table);
    let of = loads.clone().find(|load| holds(load.offset, load.file_size));
    let first = loads.next().expect("a segment");
    let told = first.vaddr.wrapping_sub(first.offset).wrapping_add(table);
    (told, of.map(|load| load.vaddr + (table - load.offset)))
}

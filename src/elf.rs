//! bytes -> [`Image`]: what kind of file, its segments, its tables, address <-> offset.
//! The only user of `object`, together with [`crate::functions`], which reads the symbols.
//!
//! Only the ELF header and the program headers must be sound, as for the kernel. Section headers are
//! used where they make sense and ignored where they do not: many real files have damaged ones.

use std::cell::Cell;

use object::LittleEndian as Le;
use object::elf;
use object::pod;
use object::read::ReadRef as _;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};
use serde::{Deserialize, Serialize};

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::compression;
use crate::error::{Error, ErrorKind, Result};
use crate::go_table;
use crate::limits;
use crate::memory::{self, STRETCH};
use crate::search::Hit;
use crate::vdso::{Page, Start};

/// Pages are this big on x86-64; the kernel maps whole ones.
pub const PAGE_SIZE: u64 = 0x1000;

/// Where the kernel's half of the address space starts.
const KERNEL_HALF: u64 = 0x8000_0000_0000_0000;

/// Offsets of fields in the ELF64 header and in a program header, for error messages.
mod field {
    pub const E_TYPE: u64 = 16;
    pub const E_PHOFF: u64 = 32;
    pub const E_PHENTSIZE: u64 = 54;
    pub const E_PHNUM: u64 = 56;
    pub const P_OFFSET: u64 = 8;
    pub const P_VADDR: u64 = 16;
    pub const P_FILESZ: u64 = 32;
}

/// What the first bytes turned out to be.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// An x86-64 ELF64 little-endian program or shared object.
    Image(Box<Image<'a>>),
    /// A relocatable object for x86-64: it has to be linked before there is an image.
    Relocatable,
    /// Something that may hold vsyscall calls and cannot be looked into: what it is, in words.
    Unscannable(String),
    /// An ELF file that vsyscall calls cannot be in, or that is not handled: what it is, in words.
    Foreign(String),
}

/// A pointer that the loader makes of an addend (`R_X86_64_RELATIVE`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelativeRelocation {
    /// Where the pointer will be.
    pub(crate) at: Vaddr,
    /// What it will point to, before the file is moved.
    pub(crate) value: u64,
    /// Where the relocation says so.
    pub(crate) addend_at: Vaddr,
}

/// `ET_EXEC`, `ET_DYN` or `ET_REL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileType {
    /// Fixed addresses.
    Exec,
    /// Shared object or position-independent executable.
    Dyn,
    /// Relocatable object.
    Rel,
}

impl FileType {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "EXEC",
            Self::Dyn => "DYN",
            Self::Rel => "REL",
        }
    }
}

/// The identity of a file, as reports show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Program with fixed addresses or not.
    pub file_type: FileType,
    /// A program without interpreter and needed libraries.
    pub is_static: bool,
    /// No symbol table (`.symtab`).
    pub stripped: bool,
    /// The program interpreter (`PT_INTERP`).
    pub interp: Option<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// The GNU build-id, in hex.
    pub build_id: Option<String>,
}

/// A loaded part of the file (`PT_LOAD` with bytes in the file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Addresses of the bytes that come from the file.
    pub range: VaddrRange,
    /// Offset of the first of them.
    pub offset: FileOffset,
    /// Bytes in memory, zeros behind those of the file included.
    pub mem_size: u64,
    /// `PF_X`.
    pub executable: bool,
    /// `PF_W`.
    pub writable: bool,
    /// File offset of its program header.
    pub header: FileOffset,
}

impl Segment {
    /// File offset behind the last byte.
    #[must_use]
    pub fn file_end(&self) -> FileOffset {
        FileOffset(self.offset.0 + self.range.len())
    }

    /// Where `at`, which lies inside, is in the file.
    fn offset_of(&self, at: Vaddr) -> FileOffset {
        FileOffset(self.offset.0 + (at.0 - self.range.start.0))
    }
}

/// One entry of the section header table, as far as it is of use here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) range: VaddrRange,
    pub(crate) file: (u64, u64),
    pub(crate) executable: bool,
    pub(crate) allocated: bool,
}

/// The entries of the dynamic table that the analysis uses; addresses unless said otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dynamic {
    pub(crate) symtab: Option<u64>,
    pub(crate) strtab: Option<u64>,
    pub(crate) strtab_size: u64,
    pub(crate) hash: Option<u64>,
    pub(crate) gnu_hash: Option<u64>,
    /// What the loader calls first: `DT_INIT`, or what the first word of `DT_INIT_ARRAY` becomes.
    pub(crate) init: Option<u64>,
    /// File offset and address of the field that `init` stands in.
    pub(crate) init_field: Option<(FileOffset, Vaddr)>,
    /// Address and size in bytes.
    init_array: Option<(u64, u64)>,
    /// `prelink` has done the relocations already.
    is_prelinked: bool,
    pub(crate) fini: Option<u64>,
    /// Address and size in bytes.
    pub(crate) rela: Option<(u64, u64)>,
    pub(crate) plt_rela: Option<(u64, u64)>,
    /// Those of relocations that have only an address.
    relr: Option<(u64, u64)>,
    plt_got: Option<u64>,
    pub(crate) soname: Option<u64>,
    /// Names of needed libraries, as offsets into the string table.
    pub(crate) needed: Vec<u64>,
    pub(crate) is_pie: bool,
}

/// One ELF file that can be scanned.
#[derive(Debug)]
pub struct Image<'a> {
    /// The file.
    pub bytes: &'a [u8],
    /// What it says of itself.
    pub identity: Identity,
    /// Its segments, by address, disjoint.
    pub segments: Vec<Segment>,
    /// Address of the first instruction, where there is one.
    pub entry_point: Option<Vaddr>,
    /// Indirect branch tracking is on: what is called must start with `endbr64`.
    pub ibt: bool,
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) dynamic: Dynamic,
    pub(crate) eh_frame_hdr: Option<VaddrRange>,
    /// What the loader makes read-only once it has relocated it (`PT_GNU_RELRO`).
    relro: Option<VaddrRange>,
    /// File ranges of the program and section header tables.
    tables: [(u64, u64); 2],
    /// File range of the program headers of the file that was edited, where this is another one's; empty otherwise.
    former_program_headers: (u64, u64),
    /// Bytes that may still be searched for references.
    search_budget: Cell<u64>,
    /// What looks like an entry's address, where the file was searched before.
    pub(crate) known_hits: Option<Vec<Hit>>,
}

impl<'a> Image<'a> {
    fn new(
        bytes: &'a [u8],
        header: &elf::FileHeader64<Le>,
        sections: Vec<Section<'a>>,
        segments: Vec<Segment>,
    ) -> Self {
        Self {
            bytes,
            identity: Identity {
                file_type: file_type(header),
                is_static: false,
                stripped: !has_symbol_table(bytes, header),
                interp: None,
                soname: None,
                build_id: None,
            },
            segments,
            entry_point: Some(Vaddr(header.e_entry.get(Le))).filter(|entry| entry.0 != 0),
            ibt: false,
            sections,
            dynamic: Dynamic::default(),
            eh_frame_hdr: None,
            relro: None,
            search_budget: Cell::new(limits::searched_bytes(bytes.len())),
            known_hits: None,
            former_program_headers: (0, 0),
            tables: [
                match file_type(header) {
                    FileType::Rel => (0, 0),
                    _ => table(header.e_phoff.get(Le), header.e_phnum.get(Le), header.e_phentsize.get(Le)),
                },
                match header.e_shoff.get(Le) {
                    0 => (0, 0),
                    at => table(at, header.e_shnum.get(Le), header.e_shentsize.get(Le)),
                },
            ],
        }
    }

    /// Takes `bytes` from what may be searched; whether so many were left.
    pub(crate) fn may_search(&self, bytes: usize) -> bool {
        let left = self.search_budget.get().checked_sub(bytes as u64);
        self.search_budget.set(left.unwrap_or(0));
        left.is_some()
    }

    /// The same kind of image of other `bytes`: those of this one with some edits made.
    pub(crate) fn of_edited<'b>(&self, bytes: &'b [u8]) -> Option<Image<'b>> {
        let edited = match self.identity.file_type {
            FileType::Rel => parse_linked(bytes).ok()?,
            FileType::Exec | FileType::Dyn => match parse(bytes).ok()? {
                Parsed::Image(image) => *image,
                _ => return None,
            },
        };
        let is_original = self.former_program_headers == (0, 0);
        let former = if is_original { self.tables[0] } else { self.former_program_headers };
        Some(Image { former_program_headers: former, ..edited })
    }

    /// The segment whose bytes in the file hold `at`.
    #[must_use]
    pub fn segment_at(&self, at: Vaddr) -> Option<&Segment> {
        let behind = self.segments.partition_point(|segment| segment.range.start <= at);
        self.segments[..behind].last().filter(|segment| segment.range.contains(at))
    }

    /// Where the byte at address `at` is in the file.
    #[must_use]
    pub fn offset_at(&self, at: Vaddr) -> Option<FileOffset> {
        Some(self.segment_at(at)?.offset_of(at))
    }

    /// The bytes from `at` to the end of what its segment has in the file.
    #[must_use]
    pub fn bytes_at(&self, at: Vaddr) -> Option<&'a [u8]> {
        let segment = self.segment_at(at)?;
        self.bytes.get(segment.offset_of(at).index()..segment.file_end().index())
    }

    /// The `N` bytes at address `at`.
    #[must_use]
    pub fn array_at<const N: usize>(&self, at: Vaddr) -> Option<[u8; N]> {
        self.bytes_at(at)?.first_chunk().copied()
    }

    /// The bytes of `segment`.
    #[must_use]
    pub fn segment_bytes(&self, segment: &Segment) -> &'a [u8] {
        self.bytes.get(segment.offset.index()..segment.file_end().index()).unwrap_or_default()
    }

    /// Whether `at` is in an executable segment.
    #[must_use]
    pub fn is_executable(&self, at: Vaddr) -> bool {
        self.segment_at(at).is_some_and(|segment| segment.executable)
    }

    /// Whether the program can write at `at` once it runs.
    #[must_use]
    pub(crate) fn is_writable(&self, at: Vaddr) -> bool {
        let read_only_later = self.relro.is_some_and(|relro| relro.contains(at));
        self.segment_at(at).is_some_and(|segment| segment.writable) && !read_only_later
    }

    /// Whether the `len` bytes at `offset` have a part in what the kernel reads of the file: the ELF header
    /// and the program headers, or those from which others were made.
    pub(crate) fn is_in_headers(&self, offset: FileOffset, len: usize) -> bool {
        let header = (0, size_of::<elf::FileHeader64<Le>>() as u64);
        let end = offset.0.saturating_add(len as u64);
        [header, self.tables[0], self.former_program_headers]
            .into_iter()
            .any(|(start, behind)| offset.0 < behind && start < end)
    }

    /// Whether `at` is code as far as the section headers, where there are any, can tell.
    #[must_use]
    pub(crate) fn may_be_code(&self, at: Vaddr) -> bool {
        self.is_executable(at)
            && match self.section_at(at) {
                Some(section) => section.executable,
                None => true,
            }
    }

    /// The relocations that the loader applies, with their addresses. What was gone over leaves memory.
    pub(crate) fn relocations(&self) -> impl Iterator<Item = (Vaddr, &'a elf::Rela64<Le>)> {
        let tables = [self.dynamic.rela, self.dynamic.plt_rela].into_iter().flatten();
        let entries = tables.filter_map(|(at, size)| {
            let entry = size_of::<elf::Rela64<Le>>() as u64;
            let count = usize::try_from(size / entry).unwrap_or(0);
            let entries = self.bytes_at(Vaddr(at))?.read_slice_at::<elf::Rela64<Le>>(0, count).ok()?;
            let mut before: &[elf::Rela64<Le>] = &[];
            let entries = entries.chunks(STRETCH / size_of::<elf::Rela64<Le>>()).flat_map(move |chunk| {
                memory::searched(pod::bytes_of_slice(std::mem::replace(&mut before, chunk)));
                chunk
            });
            Some((0..).zip(entries).map(move |(index, entry_at)| (Vaddr(at).plus(index * entry), entry_at)))
        });
        entries.flatten()
    }

    /// Those relocations that make a pointer of the load address and an addend.
    pub(crate) fn relative_relocations(&self) -> impl Iterator<Item = RelativeRelocation> {
        let relative =
            self.relocations().filter(|(_, entry)| entry.r_type(Le, false) == elf::R_X86_64_RELATIVE);
        relative.map(|(at, entry)| RelativeRelocation {
            at: Vaddr(entry.r_offset.get(Le)),
            value: entry.r_addend.get(Le).cast_unsigned(),
            addend_at: at.plus(16),
        })
    }

    /// Whether the load address is added to what is in the file at `word` (`DT_RELR`).
    fn is_relr(&self, word: u64) -> bool {
        const BITS: u64 = 63;
        let entries = self.dynamic.relr.and_then(|(at, size)| {
            let bytes = self.bytes_at(Vaddr(at))?.get(..usize::try_from(size).ok()?)?;
            Some(bytes.as_chunks::<8>().0)
        });
        let mut next = 0_u64;
        entries.into_iter().flatten().any(|&entry| match u64::from_le_bytes(entry) {
            // The bits above the lowest are for as many words behind those before.
            bits if bits & 1 == 1 => {
                let distance = word.wrapping_sub(next);
                next = next.wrapping_add(8 * BITS);
                distance.is_multiple_of(8) && distance / 8 < BITS && bits >> (1 + distance / 8) & 1 == 1
            }
            address => {
                next = address.wrapping_add(8);
                address == word
            }
        })
    }

    /// What the loader makes of the first word of `DT_INIT_ARRAY`, and where the field is that says so: the addend of the
    /// one relocation that has to do with the word, or the word itself. Nothing where it is not as simple.
    fn first_initializer(&self) -> Option<(u64, (FileOffset, Vaddr))> {
        let word = self.dynamic.init_array.filter(|&(_, size)| size >= 8 && !self.dynamic.is_prelinked)?.0;
        let touches = |entry: &elf::Rela64<Le>| {
            let at = entry.r_offset.get(Le);
            at < word.saturating_add(8) && word < at.saturating_add(written_by(entry.r_type(Le, false)))
        };
        let mut touching = self.relocations().filter(|(_, entry)| touches(entry));
        let (first, field) = match (touching.next(), touching.next(), self.is_relr(word)) {
            (Some((at, entry)), None, false) => {
                let is_relative = entry.r_type(Le, false) == elf::R_X86_64_RELATIVE;
                let is_it = is_relative && entry.r_sym(Le, false) == 0 && entry.r_offset.get(Le) == word;
                (Some(entry.r_addend.get(Le).cast_unsigned()).filter(|_| is_it)?, at.plus(16))
            }
            (None, None, true) => (u64::from_le_bytes(self.array_at(Vaddr(word))?), Vaddr(word)),
            _ => return None,
        };
        Some((first, (self.offset_at(field).filter(|_| self.is_executable(Vaddr(first)))?, field)))
    }

    /// The program header table: its offset, and its entries.
    pub(crate) fn program_headers(&self) -> (FileOffset, &'a [ProgramHeader]) {
        let (start, end) = self.tables[0];
        let count = end.saturating_sub(start) as usize / size_of::<ProgramHeader>();
        // They were read before.
        (FileOffset(start), self.bytes.read_slice_at(start, count).unwrap_or_default())
    }

    /// File offset behind the last byte that headers name.
    pub(crate) fn named_end(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.file_end().0);
        let sections = self.sections.iter().map(|section| section.file.0.saturating_add(section.file.1));
        segments.chain(sections).chain(self.tables.map(|(_, end)| end)).max().unwrap_or(0)
    }

    /// Whether any library is needed.
    pub(crate) fn needs_others(&self) -> bool {
        !self.dynamic.needed.is_empty()
    }

    /// Whether the library `name` is needed.
    pub(crate) fn needs(&self, name: &str) -> bool {
        self.dynamic.needed.iter().any(|&at| dynamic_string(self, at).is_some_and(|needed| needed == name))
    }

    /// How many bytes from `from` on belong to nothing that the headers name, up to something that they do
    /// name: a segment, a section, a header table. What stands behind all of these is not the program's,
    /// but may be somebody's (the payload of an installer), so that it is never unused.
    pub(crate) fn unused_file_bytes(&self, from: FileOffset) -> u64 {
        let segments = self.segments.iter().map(|segment| (segment.offset.0, segment.file_end().0));
        let sections = self
            .sections
            .iter()
            .map(|section| (section.file.0, section.file.0.saturating_add(section.file.1)));
        let used =
            segments.chain(sections).chain(self.tables).filter(|&(start, end)| start < end && end > from.0);
        used.map(|(start, _)| start.saturating_sub(from.0)).min().unwrap_or(0)
    }

    /// `_GLOBAL_OFFSET_TABLE_`, from which code of the medium and large models counts 64-bit distances (`@GOTOFF`).
    pub(crate) fn global_offset_table(&self) -> Option<Vaddr> {
        let named = |name: &[u8]| {
            let section = self.sections.iter().find(|section| section.allocated && section.name == name)?;
            Some(section.range.start)
        };
        self.dynamic.plt_got.map(Vaddr).or_else(|| named(b".got.plt")).or_else(|| named(b".got"))
    }

    /// Whether `at` is in a slot of that table, as far as section headers tell.
    pub(crate) fn is_in_global_offset_table(&self, at: Vaddr) -> bool {
        self.section_at(at).is_some_and(|section| matches!(section.name, b".got" | b".got.plt"))
    }

    /// [`Headers::runtime_tables`] of this file.
    pub(crate) fn runtime_tables(&self) -> Vec<VaddrRange> {
        runtime_tables(self.bytes, &self.segments, &self.sections, self.eh_frame_hdr)
    }

    /// The allocated section that holds `at`, where section headers tell.
    pub(crate) fn section_at(&self, at: Vaddr) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.allocated && section.range.contains(at))
    }
}

/// What the kernel reads of a program: enough to search it.
#[derive(Debug)]
pub struct Headers {
    /// `ET_EXEC` or `ET_DYN`.
    pub file_type: FileType,
    /// Its segments, by address, disjoint.
    pub segments: Vec<Segment>,
}

impl Headers {
    /// Reads the headers of a file of `size` bytes from its first bytes. Nothing where these do not hold
    /// all headers of a program that can be scanned; then [`parse`] tells why.
    #[must_use]
    pub fn parse(head: &[u8], size: u64) -> Option<Self> {
        let header: &elf::FileHeader64<Le> = head.read_at(0).ok()?;
        if foreign_by_ident(head).ok()?.is_some() || foreign_by_type(header).ok()?.is_some() {
            return None;
        }
        let program_headers = program_headers(head, header).ok()?;
        if header.e_type.get(Le) == elf::ET_REL || is_kernel(&program_headers) || is_packed(head, header) {
            return None;
        }
        let segments = segments(size, &program_headers).ok()?;
        Some(Self { file_type: file_type(header), segments })
    }

    /// Large tables that only a run-time reads, the unwinder's (`.eh_frame`, `.eh_frame_hdr`) and Go's (`.gopclntab`), in
    /// segments that hold neither code nor anything that is written to; by address. `bytes` are the whole file. Sections
    /// tell of them, and what the run-time itself finds or knows them by has to tell the same.
    pub(crate) fn runtime_tables(&self, bytes: &[u8]) -> Vec<VaddrRange> {
        let Ok(header) = bytes.read_at::<elf::FileHeader64<Le>>(0) else { return Vec::new() };
        let program_headers = program_headers(bytes, header).unwrap_or_default();
        let eh_frame_hdr = program_headers.iter().rev().find_map(|(_, p)| eh_frame_hdr(p));
        runtime_tables(bytes, &self.segments, &sections(bytes, header), eh_frame_hdr)
    }
}

fn runtime_tables(
    bytes: &[u8],
    segments: &[Segment],
    sections: &[Section<'_>],
    eh_frame_hdr: Option<VaddrRange>,
) -> Vec<VaddrRange> {
    let bytes_of = |range: VaddrRange| {
        let behind = segments.partition_point(|segment| segment.range.start <= range.start);
        let segment = segments[..behind].last().filter(|segment| range.end <= segment.range.end)?;
        let is_constant = !(segment.executable || segment.writable);
        let start = segment.offset_of(range.start).index();
        is_constant.then(|| bytes.get(start..start.checked_add(usize::try_from(range.len()).ok()?)?))?
    };
    // As linkers write it: version 1, a distance of four bytes, which counts from where it stands.
    let eh_frame = eh_frame_hdr.and_then(|header| match bytes_of(header)? {
        [1, 0x1b, _, _, distance @ ..] => {
            let distance = i32::from_le_bytes(*distance.first_chunk()?);
            Some(Vaddr(header.start.0.wrapping_add(4).wrapping_add_signed(distance.into())))
        }
        _ => None,
    });
    let is_table = |section: &Section<'_>, name: &[u8]| {
        section.allocated
            && section.name == name
            && bytes_of(section.range).is_some_and(|bytes| match name {
                b".eh_frame_hdr" => eh_frame_hdr == Some(section.range) && eh_frame.is_some(),
                b".eh_frame" => eh_frame == Some(section.range.start),
                _ => go_table::is_begin(bytes),
            })
    };
    // One of each kind, as there is.
    let names: [&[u8]; 3] = [b".eh_frame_hdr", b".eh_frame", b".gopclntab"];
    let table = |name| Some(sections.iter().find(|section| is_table(section, name))?.range);
    let mut tables: Vec<VaddrRange> = names.into_iter().filter_map(table).collect();
    tables.sort_unstable();
    tables
}

/// `segments` without `tables`, both by address: those with a table inside become several.
pub(crate) fn without(segments: &[Segment], tables: &[VaddrRange]) -> Vec<Segment> {
    let mut parts = Vec::new();
    for segment in segments {
        let mut from = segment.range.start;
        let mut add = |range: VaddrRange| {
            if range.start < range.end {
                parts.push(Segment { range, offset: segment.offset_of(range.start), ..*segment });
            }
        };
        for table in tables.iter().filter(|table| segment.range.contains(table.start)) {
            add(VaddrRange { start: from, end: table.start });
            from = from.max(table.end);
        }
        add(VaddrRange { start: from, end: segment.range.end });
    }
    parts
}

fn eh_frame_hdr(p: &ProgramHeader) -> Option<VaddrRange> {
    let is_it = p.p_type.get(Le) == elf::PT_GNU_EH_FRAME;
    is_it.then(|| VaddrRange::new(Vaddr(p.p_vaddr.get(Le)), p.p_memsz.get(Le)))?
}

fn file_type(header: &elf::FileHeader64<Le>) -> FileType {
    match header.e_type.get(Le) {
        elf::ET_EXEC => FileType::Exec,
        elf::ET_REL => FileType::Rel,
        _ => FileType::Dyn,
    }
}

fn is_kernel(program_headers: &[(FileOffset, &ProgramHeader)]) -> bool {
    let in_kernel_half =
        |p: &ProgramHeader| p.p_type.get(Le) == elf::PT_LOAD && p.p_vaddr.get(Le) >= KERNEL_HALF;
    program_headers.iter().any(|(_, p)| in_kernel_half(p))
}

/// Reads the headers of `bytes`.
///
/// # Errors
/// `NotElf` where the magic is missing, `Malformed` with the offset of the header field that lies.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>> {
    if let Some(foreign) = foreign_by_ident(bytes)? {
        return Ok(Parsed::Foreign(foreign));
    }
    let header: &elf::FileHeader64<Le> = bytes
        .read_at(0)
        .map_err(|()| Error::malformed(bytes.len(), "the file ends inside the ELF header of 64 bytes"))?;
    if let Some(foreign) = foreign_by_type(header)? {
        return Ok(Parsed::Foreign(foreign));
    }
    if header.e_type.get(Le) == elf::ET_REL {
        return Ok(Parsed::Relocatable);
    }
    let program_headers = program_headers(bytes, header)?;
    if is_kernel(&program_headers) {
        return Ok(Parsed::Foreign(
            "a kernel image (segments in the kernel's half of the address space)".into(),
        ));
    }
    if is_packed(bytes, header) {
        let what = "packed with UPX: unpack it with upx -d, and patch what comes out";
        return Ok(Parsed::Unscannable(what.into()));
    }
    let sections = sections(bytes, header);
    if is_debug_companion(bytes, header) {
        return Ok(Parsed::Foreign("separate debug information (no code in the file)".into()));
    }
    let segments = segments(bytes.len() as u64, &program_headers)?;
    let mut image = Image::new(bytes, header, sections, segments);
    for (_, program_header) in &program_headers {
        read_program_header(&mut image, program_header);
    }
    let program = image.identity.file_type == FileType::Exec || image.dynamic.is_pie;
    image.identity.is_static = program && image.identity.interp.is_none() && image.dynamic.needed.is_empty();
    image.identity.soname = image.dynamic.soname.and_then(|name| dynamic_string(&image, name));
    if image.identity.file_type == FileType::Dyn && image.dynamic.init.is_none() && !image.dynamic.is_pie {
        (image.dynamic.init, image.dynamic.init_field) = image.first_initializer().unzip();
    }
    // Of a patched program, the code of the page comes before its own.
    if let Some(page) = image.entry_point.and_then(|init| Page::begun_at(&image, init, Start::Program)) {
        image.entry_point = Some(page.next);
    }
    if let Some(page) = image.dynamic.init.and_then(|init| Page::begun_at(&image, Vaddr(init), Start::Object))
    {
        image.dynamic.init = Some(page.next.0);
    }
    Ok(Parsed::Image(Box::new(image)))
}

/// Whether the program is one that UPX packed: its code appears only in memory. UPX puts a header of its own
/// right behind the program headers, and another one at the end of the file (UPX' `p_unix.h`, `packhead.cpp`).
fn is_packed(bytes: &[u8], header: &elf::FileHeader64<Le>) -> bool {
    const MAGIC: &[u8; 4] = b"UPX!";
    const FORMAT_LINUX_AMD64: u8 = 22;
    const PACK_HEADER: usize = 32;
    let (_, behind) = table(header.e_phoff.get(Le), header.e_phnum.get(Le), header.e_phentsize.get(Le));
    let loader_info = usize::try_from(behind).ok().and_then(|at| bytes.get(at..)?.first_chunk::<12>());
    if loader_info.is_some_and(|info| info[4..8] == *MAGIC && info[11] == FORMAT_LINUX_AMD64) {
        return true;
    }
    let tail = bytes.last_chunk::<{ PACK_HEADER + 4 }>();
    tail.is_some_and(|tail| {
        let sum: u32 = tail[4..31].iter().map(|&byte| u32::from(byte)).sum();
        let is_checked = sum % 251 == u32::from(tail[31]);
        tail[..4] == *MAGIC && tail[5] == FORMAT_LINUX_AMD64 && is_checked
    })
}

/// The image of a relocatable object that has been linked: its tables hold addresses. Each section with
/// bytes in the file is a segment of its own.
///
/// # Errors
/// `Malformed` where sections overlap or reach beyond the file.
pub(crate) fn parse_linked(bytes: &[u8]) -> Result<Image<'_>> {
    let unreadable = |error: object::Error| Error::malformed(0_u64, error.to_string());
    let header = elf::FileHeader64::<Le>::parse(bytes).map_err(unreadable)?;
    let table = header.sections(Le, bytes).map_err(unreadable)?;
    let mut segments = Vec::new();
    for (index, section) in table.enumerate() {
        let flags = section.sh_flags.get(Le).0;
        let Some((offset, size)) = section.file_range(Le) else { continue };
        let header = FileOffset(
            header.e_shoff.get(Le).saturating_add((index.0 * size_of::<elf::SectionHeader64<Le>>()) as u64),
        );
        // A section of no type is none, whatever else its header says: linkers drop it.
        if flags & elf::SHF_ALLOC.0 == 0 || size == 0 || section.sh_type.get(Le) == elf::SHT_NULL {
            continue;
        }
        let range = VaddrRange::new(Vaddr(section.sh_addr.get(Le)), size);
        let in_file = offset.checked_add(size).is_some_and(|end| end <= bytes.len() as u64);
        let Some(range) = range.filter(|_| in_file) else {
            return Err(Error::malformed(header, "the section reaches beyond the end of the file"));
        };
        segments.push(Segment {
            range,
            offset: FileOffset(offset),
            mem_size: size,
            executable: flags & elf::SHF_EXECINSTR.0 != 0,
            writable: flags & elf::SHF_WRITE.0 != 0,
            header,
        });
    }
    segments.sort_unstable_by_key(|segment| segment.range);
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        return Err(Error::malformed(pair[1].header, "the section overlaps another one"));
    }
    Ok(Image::new(bytes, header, sections(bytes, header), segments))
}

/// Whether the file has a symbol table.
pub(crate) fn has_symbols(bytes: &[u8]) -> bool {
    elf::FileHeader64::<Le>::parse(bytes).is_ok_and(|header| has_symbol_table(bytes, header))
}

/// File range of a header table.
fn table(offset: u64, count: u16, size: u16) -> (u64, u64) {
    (offset, offset.saturating_add(u64::from(count) * u64::from(size)))
}

/// Checks magic, class and byte order; says what a file of another kind is.
fn foreign_by_ident(bytes: &[u8]) -> Result<Option<String>> {
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::NotElf, "the file is empty").at(0_usize));
    }
    if !bytes.starts_with(b"\x7fELF") {
        let error = Error::new(ErrorKind::NotElf, "not an ELF file (no magic)").at(0_usize);
        return Err(match compression::program(bytes) {
            Some(program) => error.remedy(compression::remedy(program)),
            None => error,
        });
    }
    let Some([class, data]) = bytes.get(4..6) else {
        return Err(Error::malformed(bytes.len(), "the file ends inside the ELF identification"));
    };
    let machine = |big_endian: bool| -> String {
        match bytes.get(18..20) {
            Some(&[low, high]) if big_endian => machine_name(u16::from_be_bytes([low, high])),
            Some(&[low, high]) => machine_name(u16::from_le_bytes([low, high])),
            _ => "an unknown machine".into(),
        }
    };
    match (*class, *data) {
        (2, 1) => Ok(None),
        (1, 1) if bytes.get(18..20) == Some(&[62, 0]) => {
            Ok(Some("an x32 program (32-bit pointers on x86-64): not handled".into()))
        }
        (class @ (1 | 2), data @ (1 | 2)) => Ok(Some(format!(
            "a {}-bit {}-endian ELF file for {}: no vsyscall page there",
            u32::from(class) * 32,
            if data == 2 { "big" } else { "little" },
            machine(data == 2),
        ))),
        (1 | 2, data) => Err(Error::malformed(5_u64, format!("byte order {data} is neither 1 nor 2"))),
        (class, _) => Err(Error::malformed(4_u64, format!("class {class} is neither 1 nor 2"))),
    }
}

/// What the ELF file that begins with `head` is, in words, where its first header tells that it is not handled.
#[must_use]
pub fn foreign(head: &[u8]) -> Option<String> {
    let by_type = || foreign_by_type(head.read_at(0).ok()?).ok()?;
    foreign_by_ident(head).ok()?.or_else(by_type)
}

/// Whether `head` begins a relocatable object for x86-64.
#[must_use]
pub fn is_object(head: &[u8]) -> bool {
    let header = head.read_at::<elf::FileHeader64<Le>>(0);
    matches!(foreign_by_ident(head), Ok(None))
        && header.is_ok_and(|header| {
            header.e_type.get(Le) == elf::ET_REL && header.e_machine.get(Le) == elf::EM_X86_64
        })
}

fn foreign_by_type(header: &elf::FileHeader64<Le>) -> Result<Option<String>> {
    let machine = header.e_machine.get(Le);
    if machine != elf::EM_X86_64 {
        return Ok(Some(format!("an ELF file for {}: no vsyscall page there", machine_name(machine.0))));
    }
    let file_type = header.e_type.get(Le);
    match file_type {
        elf::ET_EXEC | elf::ET_DYN | elf::ET_REL => Ok(None),
        elf::ET_CORE => Ok(Some("a core file: not a program".into())),
        _ => Err(Error::malformed(
            field::E_TYPE,
            format!("file type {:#x} is none of an ELF file", file_type.0),
        )),
    }
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "i386",
        8 => "MIPS",
        20 => "PowerPC",
        21 => "PowerPC64",
        22 => "S/390",
        40 => "ARM",
        62 => "x86-64",
        183 => "AArch64",
        243 => "RISC-V",
        247 => "BPF",
        other => return format!("machine number {other}"),
    };
    name.into()
}

pub(crate) type ProgramHeader = elf::ProgramHeader64<Le>;

/// The program headers with their file offsets.
fn program_headers<'a>(
    bytes: &'a [u8],
    header: &elf::FileHeader64<Le>,
) -> Result<Vec<(FileOffset, &'a ProgramHeader)>> {
    let count = header.e_phnum.get(Le);
    let size = size_of::<ProgramHeader>() as u64;
    match count {
        0 => {
            return Err(Error::malformed(field::E_PHNUM, "no program headers: nothing that could be loaded"));
        }
        0xffff => {
            return Err(Error::malformed(
                field::E_PHNUM,
                "program header count 0xffff: the kernel loads no such file",
            ));
        }
        _ => {}
    }
    if u64::from(header.e_phentsize.get(Le)) != size {
        return Err(Error::malformed(
            field::E_PHENTSIZE,
            format!("program header size is {}, not {size}", header.e_phentsize.get(Le)),
        ));
    }
    let offset = header.e_phoff.get(Le);
    let table: &[ProgramHeader] = bytes.read_slice_at(offset, usize::from(count)).map_err(|()| {
        Error::malformed(
            field::E_PHOFF,
            format!(
                "{count} program headers at {offset:#x} reach beyond the file's {:#x} bytes",
                bytes.len()
            ),
        )
    })?;
    Ok(table.iter().enumerate().map(|(i, p)| (FileOffset(offset + i as u64 * size), p)).collect())
}

/// The checked `PT_LOAD` entries with bytes in the file.
fn segments(size: u64, program_headers: &[(FileOffset, &ProgramHeader)]) -> Result<Vec<Segment>> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut loaded: Vec<(VaddrRange, FileOffset)> = Vec::new();
    for &(at, p) in program_headers {
        if p.p_type.get(Le) != elf::PT_LOAD || p.p_memsz.get(Le) == 0 {
            continue;
        }
        let segment = segment(size, at, p)?;
        let Some(memory) = VaddrRange::new(segment.range.start, segment.mem_size) else {
            return Err(Error::malformed(
                at.0 + field::P_VADDR,
                "the segment wraps around the address space",
            ));
        };
        loaded.push((memory, at));
        if !segment.range.is_empty() {
            segments.push(segment);
        }
    }
    if loaded.is_empty() {
        return Err(Error::malformed(
            field::E_PHNUM,
            "no PT_LOAD program header: nothing that could be loaded",
        ));
    }
    loaded.sort_unstable();
    if let Some(pair) = loaded.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        return Err(Error::malformed(
            pair[1].1.0 + field::P_VADDR,
            format!("the segment at {} overlaps the one before it", pair[1].0.start),
        ));
    }
    segments.sort_unstable_by_key(|segment| segment.range);
    Ok(segments)
}

fn segment(size: u64, at: FileOffset, p: &ProgramHeader) -> Result<Segment> {
    let (offset, vaddr) = (p.p_offset.get(Le), p.p_vaddr.get(Le));
    let (file_size, mem_size) = (p.p_filesz.get(Le), p.p_memsz.get(Le));
    if file_size > 0 && offset.checked_add(file_size).is_none_or(|end| end > size) {
        return Err(Error::malformed(
            at.0 + field::P_OFFSET,
            format!(
                "the segment's {file_size:#x} bytes at {offset:#x} reach beyond the file's {size:#x} bytes"
            ),
        ));
    }
    if file_size > mem_size {
        return Err(Error::malformed(
            at.0 + field::P_FILESZ,
            format!("the segment has {file_size:#x} bytes in the file but only {mem_size:#x} in memory"),
        ));
    }
    if file_size > 0 && offset % PAGE_SIZE != vaddr % PAGE_SIZE {
        return Err(Error::malformed(
            at.0 + field::P_OFFSET,
            format!("offset {offset:#x} and address {vaddr:#x} of the segment differ within the page"),
        ));
    }
    let Some(range) = VaddrRange::new(Vaddr(vaddr), file_size) else {
        return Err(Error::malformed(at.0 + field::P_VADDR, "the segment wraps around the address space"));
    };
    let flags = p.p_flags.get(Le).0;
    Ok(Segment {
        range,
        offset: FileOffset(offset),
        mem_size,
        executable: flags & elf::PF_X.0 != 0,
        writable: flags & elf::PF_W.0 != 0,
        header: at,
    })
}

/// The section headers, or none where they are missing or lie.
fn sections<'a>(bytes: &'a [u8], header: &elf::FileHeader64<Le>) -> Vec<Section<'a>> {
    let Ok(table) = header.sections(Le, bytes) else { return Vec::new() };
    table
        .iter()
        .filter_map(|section| {
            let allocated = section.sh_flags.get(Le).0 & elf::SHF_ALLOC.0 != 0;
            let size = section.sh_size.get(Le);
            Some(Section {
                name: table.section_name(Le, section).unwrap_or_default(),
                range: VaddrRange::new(Vaddr(section.sh_addr.get(Le)), size)?,
                file: section.file_range(Le).unwrap_or((section.sh_offset.get(Le), 0)),
                executable: section.sh_flags.get(Le).0 & elf::SHF_EXECINSTR.0 != 0,
                allocated: allocated && section.sh_type.get(Le) != elf::SHT_NULL,
            })
        })
        .collect()
}

fn has_symbol_table(bytes: &[u8], header: &elf::FileHeader64<Le>) -> bool {
    header
        .sections(Le, bytes)
        .is_ok_and(|table| table.iter().any(|section| section.sh_type.get(Le) == elf::SHT_SYMTAB))
}

/// `objcopy --only-keep-debug` keeps the headers and drops the bytes: code sections are `NOBITS`.
fn is_debug_companion(bytes: &[u8], header: &elf::FileHeader64<Le>) -> bool {
    header.sections(Le, bytes).is_ok_and(|table| {
        table.iter().any(|section| {
            section.sh_type.get(Le) == elf::SHT_NOBITS
                && section.sh_flags.get(Le).0 & elf::SHF_EXECINSTR.0 != 0
                && section.sh_size.get(Le) > 0
                && table.section_name(Le, section) == Ok(b".text")
        })
    })
}

/// Takes what `p` tells into `image`. Nothing here is needed to scan, so what lies is left out.
fn read_program_header(image: &mut Image<'_>, p: &ProgramHeader) {
    if let Ok(Some(interp)) = p.interpreter(Le, image.bytes) {
        image.identity.interp = Some(String::from_utf8_lossy(interp).into_owned());
    } else if let Ok(Some(entries)) = p.dynamic(Le, image.bytes) {
        image.dynamic = dynamic(entries, FileOffset(p.p_offset.get(Le)), Vaddr(p.p_vaddr.get(Le)));
    } else if let Some(range) = eh_frame_hdr(p) {
        image.eh_frame_hdr = Some(range);
    } else if p.p_type.get(Le) == elf::PT_GNU_RELRO {
        let protected = VaddrRange::new(Vaddr(p.p_vaddr.get(Le)), p.p_memsz.get(Le));
        let whole_pages =
            |range: VaddrRange| VaddrRange { end: Vaddr(range.end.0 & !(PAGE_SIZE - 1)), ..range };
        image.relro = protected.map(whole_pages);
    } else if let Ok(Some(mut notes)) = p.notes(Le, image.bytes) {
        while let Ok(Some(note)) = notes.next() {
            if note.name() != elf::ELF_NOTE_GNU {
                continue;
            }
            if note.n_type(Le) == elf::NT_GNU_BUILD_ID {
                image.identity.build_id = Some(hex::encode(note.desc()));
            }
            image.ibt |= note_has_ibt(note.desc(), note.n_type(Le).0);
        }
    }
}

/// Whether a `NT_GNU_PROPERTY_TYPE_0` note carries `GNU_PROPERTY_X86_FEATURE_1_IBT`.
fn note_has_ibt(mut properties: &[u8], note_type: u32) -> bool {
    const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
    const GNU_PROPERTY_X86_FEATURE_1_AND: u32 = 0xc000_0002;
    const IBT: u32 = 1;
    if note_type != NT_GNU_PROPERTY_TYPE_0 {
        return false;
    }
    while let Some((head, rest)) = properties.split_first_chunk::<8>() {
        let kind = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if kind == GNU_PROPERTY_X86_FEATURE_1_AND {
            return rest.first_chunk::<4>().is_some_and(|flags| u32::from_le_bytes(*flags) & IBT != 0);
        }
        properties = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
    false
}

/// Bytes that a relocation of this type writes at most.
fn written_by(r_type: elf::RelocationType) -> u64 {
    match r_type {
        elf::R_X86_64_NONE
        | elf::R_X86_64_64
        | elf::R_X86_64_GLOB_DAT
        | elf::R_X86_64_JUMP_SLOT
        | elf::R_X86_64_RELATIVE
        | elf::R_X86_64_DTPMOD64
        | elf::R_X86_64_DTPOFF64
        | elf::R_X86_64_TPOFF64
        | elf::R_X86_64_IRELATIVE => 8,
        elf::R_X86_64_TLSDESC => 16,
        // R_X86_64_COPY: as much as the symbol has.
        _ => u64::MAX,
    }
}

/// What `entries` say, which stand at `offset` and `vaddr`.
fn dynamic(entries: &[elf::Dyn64<Le>], offset: FileOffset, vaddr: Vaddr) -> Dynamic {
    let mut dynamic = Dynamic::default();
    let (mut rela_size, mut plt_size, mut relr_size, mut array_size) = (0, 0, 0, 0);
    for (index, entry) in entries.iter().enumerate() {
        let value = entry.d_val.get(Le);
        match entry.tag(Le) {
            elf::DT_NULL => break,
            elf::DT_SYMTAB => dynamic.symtab = Some(value),
            elf::DT_STRTAB => dynamic.strtab = Some(value),
            elf::DT_STRSZ => dynamic.strtab_size = value,
            elf::DT_HASH => dynamic.hash = Some(value),
            elf::DT_GNU_HASH => dynamic.gnu_hash = Some(value),
            elf::DT_INIT => {
                let distance = (index * size_of::<elf::Dyn64<Le>>() + size_of::<u64>()) as u64;
                dynamic.init = Some(value);
                dynamic.init_field = Some((FileOffset(offset.0 + distance), vaddr.plus(distance)));
            }
            elf::DT_INIT_ARRAY => dynamic.init_array = Some((value, 0)),
            elf::DT_INIT_ARRAYSZ => array_size = value,
            elf::DT_GNU_PRELINKED => dynamic.is_prelinked = true,
            elf::DT_FINI => dynamic.fini = Some(value),
            elf::DT_RELA => dynamic.rela = Some((value, 0)),
            elf::DT_RELASZ => rela_size = value,
            elf::DT_JMPREL => dynamic.plt_rela = Some((value, 0)),
            elf::DT_PLTRELSZ => plt_size = value,
            elf::DT_RELR => dynamic.relr = Some((value, 0)),
            elf::DT_RELRSZ => relr_size = value,
            elf::DT_PLTGOT => dynamic.plt_got = Some(value),
            elf::DT_SONAME => dynamic.soname = Some(value),
            elf::DT_NEEDED => dynamic.needed.push(value),
            elf::DT_FLAGS_1 => dynamic.is_pie = value & elf::DF_1_PIE.0 != 0,
            _ => {}
        }
    }
    dynamic.rela = dynamic.rela.map(|(at, _)| (at, rela_size));
    dynamic.plt_rela = dynamic.plt_rela.map(|(at, _)| (at, plt_size));
    dynamic.relr = dynamic.relr.map(|(at, _)| (at, relr_size));
    dynamic.init_array = dynamic.init_array.map(|(at, _)| (at, array_size));
    dynamic
}

/// The string at `offset` of the dynamic string table.
pub(crate) fn dynamic_string(image: &Image<'_>, offset: u64) -> Option<String> {
    let table = image.bytes_at(Vaddr(image.dynamic.strtab?))?;
    let table = &table[..table.len().min(usize::try_from(image.dynamic.strtab_size).ok()?)];
    let string = table.get(usize::try_from(offset).ok()?..)?;
    let end = memchr::memchr(0, string)?;
    Some(String::from_utf8_lossy(&string[..end]).into_owned())
}

//! What was added to a file (the page of `--via vdso`, or room for stubs): what it must be, and what it may change in the
//! headers.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::dynamic::{
    DT_INIT, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_JMPREL, DT_PLTRELSZ, DT_RELA, DT_RELASZ,
};
use goblin::elf::program_header::{
    PF_R, PF_W, PF_X, PT_DYNAMIC, PT_GNU_PROPERTY, PT_GNU_RELRO, PT_LOAD, PT_NULL, PT_PHDR,
};
use goblin::elf::section_header::{SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_NOBITS, SHT_PROGBITS};
use goblin::elf::{Elf, ProgramHeader, SectionHeader};

use super::{PROGRAM_HEADER_SIZE, program_headers};
use crate::addr::Vaddr;
use crate::elf::PAGE_SIZE;
use crate::extension;
use crate::plan::{Edit, Role};
use crate::record::Record;
use crate::vdso::{POINTERS_SIZE, Page, Start};

/// Byte offset of the section header table's place in the ELF header.
const SECTION_TABLE: usize = 40;

const SECTION_HEADER_SIZE: usize = 64;

/// Byte offset of the entry point in the ELF header.
pub(super) const E_ENTRY: u64 = 24;

/// What the edits add to a file.
pub(super) struct Added {
    /// The segment with code.
    segment: ProgramHeader,
    /// Bytes at its begin that the program header table takes, where that moved.
    head: u64,
    /// The page, where it is not only room.
    pub(super) page: Option<Page>,
}

impl Added {
    /// What `patched` is longer by than `original`: a segment that begins behind the bytes that were there.
    pub(super) fn by(original: &[u8], patched: &[u8], record: &Record) -> Option<Self> {
        let (table, headers) = program_headers(patched)?;
        let is_it = |p: &&ProgramHeader| {
            let is_code = p.p_type == PT_LOAD && p.p_flags == PF_R | PF_X;
            is_code
                && p.p_offset >= original.len() as u64
                && p.p_filesz > 0
                && p.p_filesz.is_multiple_of(PAGE_SIZE)
        };
        let segment = headers.iter().find(is_it)?.clone();
        let end = extension::TABLE_AT + (headers.len() * PROGRAM_HEADER_SIZE) as u64;
        let is_moved = segment.p_offset.checked_add(extension::TABLE_AT)? == table;
        let head = if is_moved { end.next_multiple_of(16) } else { 0 };
        let mut added = Self { segment, head, page: None };
        if record.edits.iter().any(|edit| edit.role == Role::Page) {
            let page = added_page(original, record)?;
            let is_there =
                only(record, Role::Page)?.offset.0 == added.code_at() && added.segment.p_filesz == PAGE_SIZE;
            added.page = Some(page).filter(|page| is_there && Some(page.vaddr) == added.vaddr());
            added.page?;
        }
        Some(added)
    }

    /// File offset of its code.
    fn code_at(&self) -> u64 {
        self.segment.p_offset.saturating_add(self.head)
    }

    /// Address of its code.
    fn vaddr(&self) -> Option<Vaddr> {
        self.segment.p_vaddr.checked_add(self.head).map(Vaddr)
    }

    /// File offset behind its segment.
    fn end(&self) -> u64 {
        self.segment.p_offset.saturating_add(self.segment.p_filesz)
    }
}

/// The page that the edits add, made anew from where they say that it is and what they say that it goes on with.
fn added_page(original: &[u8], record: &Record) -> Option<Page> {
    let (page, init) = (only(record, Role::Page)?, only(record, Role::Init)?);
    let pointers = if has_pointers(record) {
        only(record, Role::Pointers)?.vaddr?
    } else {
        let (_, headers) = program_headers(original)?;
        behind_last(&headers)?.1
    };
    let start = if init.vaddr.is_none() { Start::Program } else { Start::Object };
    let next = Vaddr(u64::from_le_bytes(init.before.as_slice().try_into().ok()?));
    let header = Elf::parse_header(original).ok()?;
    let is_next = match start {
        Start::Program => init.offset.0 == E_ENTRY && header.e_entry == next.0,
        Start::Object => {
            let first = dynamic_value(original, DT_INIT).or_else(|| first_initializer(original));
            first == Some((init.offset.0, next.0))
        }
    };
    let ibt = page.after.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]);
    let page = Page { vaddr: page.vaddr?, pointers, start, next, ibt };
    (is_next && init.after == page.init().0.to_le_bytes()).then_some(page)
}

/// Whether the pointers are in a segment of their own.
fn has_pointers(record: &Record) -> bool {
    record.edits.iter().any(|edit| edit.role == Role::Pointers)
}

/// The last segment, where it has zeroed data at its end, and the begin of the page behind it: what the pointers are in
/// where they have no segment of their own.
fn behind_last(headers: &[ProgramHeader]) -> Option<(&ProgramHeader, Vaddr)> {
    let loaded = headers.iter().filter(|p| p.p_type == PT_LOAD);
    let last = loaded.max_by_key(|p| p.p_vaddr.saturating_add(p.p_memsz))?;
    let behind = last.p_vaddr.checked_add(last.p_memsz)?.checked_next_multiple_of(PAGE_SIZE)?;
    let is_zeroed = last.p_flags == PF_R | PF_W && (1..last.p_memsz).contains(&last.p_filesz);
    let is_read_only =
        |p: &ProgramHeader| p.p_type == PT_GNU_RELRO && p.p_vaddr.saturating_add(p.p_memsz) > behind;
    (is_zeroed && !headers.iter().any(is_read_only)).then_some((last, Vaddr(behind)))
}

/// The edit with this `role`, where there is one alone.
fn only(record: &Record, role: Role) -> Option<&Edit> {
    let mut edits = record.edits.iter().filter(|edit| edit.role == role);
    edits.next().filter(|_| edits.next().is_none())
}

/// Where the value of the first entry `tag` of the dynamic table is in the file, and the value.
fn dynamic_value(bytes: &[u8], tag: u64) -> Option<(u64, u64)> {
    let (_, headers) = program_headers(bytes)?;
    let table = headers.iter().find(|p| p.p_type == PT_DYNAMIC)?;
    let start = usize::try_from(table.p_offset).ok()?;
    let end = start.checked_add(usize::try_from(table.p_filesz).ok()?)?;
    let entries = bytes.get(start..end)?.chunks_exact(16).enumerate();
    let mut found = entries.filter(|(_, entry)| word(entry) == Some(tag));
    let (index, entry) = found.next()?;
    Some((table.p_offset + index as u64 * 16 + 8, word(&entry[8..])?))
}

/// Likewise of the relocation that makes the first word of `DT_INIT_ARRAY` the address of a function, alone; or of that
/// word, where `DT_RELR` names it.
fn first_initializer(bytes: &[u8]) -> Option<(u64, u64)> {
    const DT_GNU_PRELINKED: u64 = 0x6fff_fdf5;
    const DT_RELR: u64 = 36;
    const DT_RELRSZ: u64 = 35;
    const RELATIVE: u64 = 8;
    const SIZE: usize = 24;
    let value = |tag| dynamic_value(bytes, tag).map(|(_, value)| value);
    let first = value(DT_INIT_ARRAY).filter(|_| value(DT_INIT_ARRAYSZ).is_some_and(|size| size >= 8))?;
    let (_, headers) = program_headers(bytes)?;
    let offset_of = |at: u64| {
        let mut loaded = headers.iter().filter(|p| p.p_type == PT_LOAD && p.p_vaddr <= at);
        let holding = loaded.find(|p| at - p.p_vaddr < p.p_filesz)?;
        holding.p_offset.checked_add(at - holding.p_vaddr)
    };
    let mut found = Vec::new();
    for (at, size) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
        let Some((at, size)) = value(at).and_then(offset_of).zip(value(size)) else { continue };
        let table = bytes.get(usize::try_from(at).ok()?..)?.get(..usize::try_from(size).ok()?)?;
        for (index, entry) in table.chunks_exact(SIZE).enumerate() {
            let [written, kind, addend] = [0, 8, 16].map(|field| word(&entry[field..]).unwrap_or_default());
            let len = match kind & 0xffff_ffff {
                0 | 1 | 6..=8 | 16..=18 | 37 => 8,
                36 => 16,      // R_X86_64_TLSDESC
                _ => u64::MAX, // R_X86_64_COPY, and what is not known
            };
            if written < first.saturating_add(8) && first < written.saturating_add(len) {
                found.push((written, kind, at + (index * SIZE + 16) as u64, addend));
            }
        }
    }
    let relr = value(DT_RELR).and_then(offset_of).zip(value(DT_RELRSZ)).and_then(|(at, size)| {
        let table = bytes.get(usize::try_from(at).ok()?..)?.get(..usize::try_from(size).ok()?)?;
        Some(relr_words(table))
    });
    let is_relr = relr.is_some_and(|words| words.contains(&first));
    if value(DT_GNU_PRELINKED).is_some() {
        return None;
    }
    match found[..] {
        [(written, RELATIVE, field, addend)] if written == first && !is_relr => Some((field, addend)),
        [] if is_relr => {
            let field = offset_of(first)?;
            Some((field, word(bytes.get(usize::try_from(field).ok()?..)?)?))
        }
        _ => None,
    }
}

/// The addresses that a table of `DT_RELR` names: an even word is one; each bit of an odd one but the lowest is for one
/// of the 63 words that follow.
fn relr_words(table: &[u8]) -> Vec<u64> {
    let (mut words, mut behind) = (Vec::new(), 0_u64);
    for entry in table.chunks_exact(8).filter_map(word) {
        if entry & 1 == 0 {
            words.push(entry);
            behind = entry.wrapping_add(8);
        } else {
            let set = (0..63).filter(|bit| entry >> (bit + 1) & 1 == 1);
            words.extend(set.map(|bit| behind.wrapping_add(8 * bit)));
            behind = behind.wrapping_add(8 * 63);
        }
    }
    words
}

fn word(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_le_bytes)
}

/// The program headers `after`, a table at `table` in `patched`, without the segments that were `added`, and with those of
/// `before`, at `old_table`, that made room for them; nothing where segments or table are not as they have to be.
pub(super) fn without_added(
    (old_table, before): (u64, &[ProgramHeader]),
    (table, after): (u64, &[ProgramHeader]),
    patched: &[u8],
    added: &Added,
    record: &Record,
) -> Option<Vec<ProgramHeader>> {
    let (head, end) = (added.head, added.end());
    // A table that moved tells of no physical addresses.
    let is_physical = after.iter().any(|p| p.p_paddr != 0);
    let segment = |at: u64, offset, flags, size| ProgramHeader {
        p_type: PT_LOAD,
        p_flags: flags,
        p_offset: offset,
        p_vaddr: at,
        p_paddr: if is_physical { at } else { 0 },
        p_filesz: size,
        p_memsz: size,
        p_align: PAGE_SIZE,
    };
    let first = added.segment.p_vaddr;
    let of_code = segment(first, added.segment.p_offset, PF_R | PF_X, added.segment.p_filesz);
    let (mut in_memory, mut listed, mut behind_all) = (vec![of_code.clone()], vec![of_code], end);
    let mut rest_before = None;
    if let Some(page) = &added.page {
        let own = only(record, Role::Pointers).map(|edit| edit.offset.0);
        // Without an edit they are in memory alone.
        let (at, size) = own.map_or((end, 0), |at| (at, POINTERS_SIZE));
        let of_pointers = segment(page.pointers.0, at, PF_R | PF_W, POINTERS_SIZE);
        behind_all = end.max(at.saturating_add(size));
        in_memory.push(of_pointers.clone());
        if size > 0 {
            listed.push(of_pointers);
        } else {
            let (last, behind) = behind_last(before)?;
            let longer = behind.0.checked_add(POINTERS_SIZE)? - last.p_vaddr;
            rest_before = Some((ProgramHeader { p_memsz: longer, ..last.clone() }, last.clone()));
        }
    }
    let loaded: Vec<u64> = after.iter().filter(|p| p.p_type == PT_LOAD).map(|p| p.p_vaddr).collect();
    let mut rest: Vec<ProgramHeader> = after.iter().filter(|&p| !listed.contains(p)).cloned().collect();
    if let Some((longer, last)) = rest_before {
        *rest.iter_mut().find(|p| **p == longer)? = last;
    }
    let place = if head > 0 { added.segment.p_offset + extension::TABLE_AT } else { old_table };
    let are_headers_known = table == place
        && is_head(patched, &added.segment, head, after.len())
        && are_added_headers_apart(record, &added.segment, head, behind_all)
        && are_alone(&in_memory, &rest);
    if rest.len() + listed.len() != after.len() || !loaded.is_sorted() || !are_headers_known {
        return None;
    }
    for (header, old) in rest.iter_mut().zip(before).filter(|_| !is_physical && head > 0) {
        header.p_paddr = old.p_paddr;
    }
    // The table describes itself, wherever it is.
    for (header, old) in rest.iter_mut().zip(before).filter(|(header, _)| header.p_type == PT_PHDR) {
        let size = (after.len() * PROGRAM_HEADER_SIZE) as u64;
        let mut expected = ProgramHeader { p_filesz: size, p_memsz: size, ..old.clone() };
        if head > 0 {
            expected.p_offset = table;
            expected.p_vaddr = first + extension::TABLE_AT;
        }
        if *header != expected {
            return None;
        }
        *header = old.clone();
    }
    // What is gone said nothing.
    for (index, old) in before.iter().enumerate() {
        let is_silent = matches!(old.p_type, PT_NULL | PT_GNU_PROPERTY);
        if is_silent && rest.get(index) != Some(old) && rest.len() < before.len() {
            rest.insert(index, old.clone());
        }
    }
    Some(rest)
}

/// Whether `segment` of `patched` begins with `head` bytes of a program header table of `count` entries, zeros before and
/// behind it.
fn is_head(patched: &[u8], segment: &ProgramHeader, head: u64, count: usize) -> bool {
    let start = segment.p_offset as usize;
    let Some(bytes) = patched.get(start..start + head as usize) else { return false };
    let (before, rest) = bytes.split_at(bytes.len().min(extension::TABLE_AT as usize));
    let behind = rest.get(count * PROGRAM_HEADER_SIZE..);
    let are_zeros = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    head == 0 || (are_zeros(before) && behind.is_some_and(are_zeros))
}

/// Whether headers that the edits add stand behind `end_of_added`, the code and the pointers, or in the first `head` bytes
/// of the segment with the `code`.
fn are_added_headers_apart(record: &Record, code: &ProgramHeader, head: u64, end_of_added: u64) -> bool {
    let mut headers = record.edits.iter().filter(|edit| edit.role == Role::Header && edit.before.is_empty());
    headers.all(|edit| {
        let end = edit.offset.0.saturating_add(edit.after.len() as u64);
        let is_head = edit.offset.0 >= code.p_offset && end <= code.p_offset + head;
        is_head || edit.offset.0 >= end_of_added
    })
}

/// Whether no page of memory of the `added` segments is one of the `rest`.
fn are_alone(added: &[ProgramHeader], rest: &[ProgramHeader]) -> bool {
    let pages = |p: &ProgramHeader| {
        let end = p.p_vaddr.saturating_add(p.p_memsz);
        (p.p_vaddr & !(PAGE_SIZE - 1), end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX))
    };
    let mut loaded = rest.iter().filter(|p| p.p_type == PT_LOAD && p.p_memsz > 0).map(pages);
    let own: Vec<(u64, u64)> = added.iter().map(pages).collect();
    loaded.all(|(start, end)| own.iter().all(|&(first, behind)| end <= first || behind <= start))
}

/// Whether the section headers of `patched` are those of `original`, with their names elsewhere, and those of what was
/// `added`; or the same in both, where there are none.
pub(super) fn are_sections_with_added(
    original: &[u8],
    patched: &[u8],
    added: &Added,
    record: &Record,
) -> bool {
    let pointers_end = only(record, Role::Pointers).map(|edit| edit.offset.0 + POINTERS_SIZE);
    let end = added.end().max(pointers_end.unwrap_or_default()) as usize;
    // The table that the header names is the original's, whatever stands there: nothing was added.
    let table = |bytes: &[u8]| [40..48, 60..62].map(|field| bytes.get(field).map(<[u8]>::to_vec));
    if table(original) == table(patched) {
        return patched.len() == end;
    }
    let (Some((_, mut before)), Some((names, after))) = (section_headers(original), section_headers(patched))
    else {
        return false;
    };
    let Some(expected) = sections_of(original, added, record) else { return false };
    let Some((rest, own)) = after.len().checked_sub(expected.len()).map(|old| after.split_at(old)) else {
        return false;
    };
    let bytes_of = |bytes: &[u8], section: &SectionHeader, size| {
        let start = usize::try_from(section.sh_offset).ok()?;
        bytes.get(start..)?.get(..usize::try_from(size).ok()?).map(<[u8]>::to_vec)
    };
    let (Some(old), Some(new)) = (before.get_mut(names), rest.get(names)) else { return false };
    let size = old.sh_size;
    if new.sh_size <= size || bytes_of(patched, new, size) != bytes_of(original, old, size) {
        return false;
    }
    (old.sh_offset, old.sh_size) = (new.sh_offset, new.sh_size);
    let is_own = |(section, (name, header)): (&SectionHeader, &(&[u8], SectionHeader))| {
        let at = new.sh_offset.saturating_add(section.sh_name as u64) as usize;
        let named = patched.get(at..).and_then(|bytes| bytes.strip_prefix(*name));
        let is_named = named.is_some_and(|rest| rest.first() == Some(&0));
        is_named && *section == SectionHeader { sh_name: section.sh_name, ..header.clone() }
    };
    // The names, up to seven zeros, the table, and nothing else.
    let table_at = word(&patched[SECTION_TABLE..]).unwrap_or_default() as usize;
    let names_end = new.sh_offset.saturating_add(new.sh_size) as usize;
    let filling = patched
        .get(names_end..table_at)
        .is_some_and(|bytes| bytes.len() < 8 && bytes.iter().all(|&byte| byte == 0));
    let table_end = table_at.saturating_add(after.len() * SECTION_HEADER_SIZE);
    let is_all = new.sh_offset as usize == end && filling && table_end == patched.len();
    is_all && rest == before && own.iter().zip(&expected).all(is_own)
}

/// The sections that what was `added` has, with their names.
fn sections_of(
    original: &[u8],
    added: &Added,
    record: &Record,
) -> Option<Vec<(&'static [u8], SectionHeader)>> {
    let section = |at: Vaddr, flags: u32, sh_offset, sh_size, sh_addralign| SectionHeader {
        sh_type: SHT_PROGBITS,
        sh_flags: u64::from(SHF_ALLOC | flags),
        sh_addr: at.0,
        sh_offset,
        sh_size,
        sh_addralign,
        ..SectionHeader::new()
    };
    let size = added.segment.p_filesz.checked_sub(added.head)?;
    let code = section(added.vaddr()?, SHF_EXECINSTR, added.code_at(), size, 16);
    let mut sections = vec![(extension::PAGE_SECTION, code)];
    if let Some(page) = &added.page {
        let own = only(record, Role::Pointers).map(|edit| edit.offset.0);
        let mut data = section(page.pointers, SHF_WRITE, own.unwrap_or_default(), POINTERS_SIZE, 8);
        if own.is_none() {
            let (_, headers) = program_headers(original)?;
            let (last, _) = behind_last(&headers)?;
            data.sh_type = SHT_NOBITS;
            data.sh_offset = last.p_offset.saturating_add(last.p_filesz);
        }
        sections.push((extension::POINTERS_SECTION, data));
    }
    Some(sections)
}

/// The section header table, and the number of the section with the names.
fn section_headers(bytes: &[u8]) -> Option<(usize, Vec<SectionHeader>)> {
    let header = Elf::parse_header(bytes).ok()?;
    let offset = usize::try_from(header.e_shoff).ok().filter(|&offset| offset != 0)?;
    let context = Ctx::new(Container::Big, Endian::Little);
    let sections = SectionHeader::parse(bytes, offset, usize::from(header.e_shnum), context).ok()?;
    Some((usize::from(header.e_shstrndx), sections)).filter(|(_, sections)| !sections.is_empty())
}

//! An image -> the same file with more at its end: the page of [`crate::vdso`], in one or two more segments and with the
//! init code in the way of what starts the program; or room for stubs, in one more segment that nothing leads to yet.
//! Nothing that is there moves; what is planned then is planned for the longer file.
//!
//! # Where the segments' headers find room
//!
//! In this order; where nothing fits, the file is refused.
//!
//! 1. *In the table's place*: the zero bytes between the table and the first section, or entries that say nothing:
//!    `PT_NULL`, and `PT_GNU_PROPERTY` where a `PT_NOTE` covers the same bytes.
//! 2. *A shared object*: the table moves to the begin of the page's segment, before the page, and that segment lies behind
//!    the last one. The loader reads the table from the file. The loader itself looks for its own in memory: to it the rules
//!    for programs apply.
//! 3. *A program*: likewise, where that makes the page's address and offset as far from each other as those of the first
//!    segment, with a few pages of zeros before it at most. The address may lie between two segments, as in programs of
//!    old linkers, where these are 2 MiB apart.
//! 4. *A program with zeroed data at its end*: in the table's place, as 1, but with one entry, that of the page. The
//!    pointers are in the memory of the last segment, which grows by the rest of its last page and the pointers.
//! 5. *A program with fixed addresses*: as 3, and the segment lies below the first one.
//!
//! Linux up to 5.17 tells a program that its program headers are as far from the first segment's address as in the file
//! from that segment's offset; this holds for 1, 3, 4 and 5. Others (valgrind, and gVisor as its sources have it) add the
//! offset in the file to the lowest address, which does not hold for 5. Nor is the ELF header at their lowest address any
//! more, which is what `dladdr` gives. It does not hold for 2, either: a shared object that is run as a program
//! (`libc.so.6`) does not find its table there. Nor for 3 once `strip` has put the table elsewhere.
//!
//! What 4 adds is zeroed data as what is before it: kernels and loaders map it by themselves, and put the heap
//! behind the last segment, the page. The pointers get a page of memory of their own, so that a program that uses the
//! rest of the page behind its `_end` does not meet them, nor does what is made read-only reach them. A
//! position-independent program whose table has no entry for the page is done as 3 with up to 64 KiB of zeros; one whose
//! zeroed data is longer than what these can bridge (64 KiB, and what of the file is not loaded) is refused.
//!
//! Room for stubs is a page, or a few, where the vDSO's would be; it needs one entry, and no pointers.
//!
//! # Who runs the init code
//!
//! A program at its entry point. A shared object as its `DT_INIT`, and only where glibc's loader runs it, which hands
//! `argc` and `argv` to it; the loader itself is refused. One without `DT_INIT` as the first function of `DT_INIT_ARRAY`,
//! which gets the same: the addend of the word's relocation leads to it, or the word itself, where `DT_RELR` names it. That
//! is done where this relocation, `R_X86_64_RELATIVE` or of `DT_RELR`, is the only one that may write there, and the file is
//! not prelinked: then both words would count.

use object::LittleEndian as Le;
use object::elf;
use object::pod::{bytes_of, bytes_of_slice};
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{U32, U64};

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::apply;
use crate::elf::{FileType, Image, PAGE_SIZE, ProgramHeader};
use crate::plan::{Edit, Plan, PlannedSite, Role, Strategy};
use crate::vdso::{FREE_BYTE, POINTERS_SIZE, Page, Start};
use crate::vsyscall::ENTRY_STRIDE;

/// The kernel maps nothing of a program below this (`vm.mmap_min_addr`, as distributions set it).
const LOWEST_ADDRESS: u64 = 0x1_0000;

/// The farthest that the end of a file is moved so that the page's address fits its offset, where the page could be had
/// in another way.
const LARGEST_FILL: u64 = 0x3000;

/// The same where it could not.
const LARGEST_NEEDED_FILL: u64 = 0x1_0000;

/// From the begin of the page's segment to the program header table, where that moves: as far as from the begin of a file.
/// `llvm-strip` takes a table at the very begin of a segment for what the segment is in.
pub(crate) const TABLE_AT: u64 = 64;

/// Byte offsets of fields of the ELF header.
const E_ENTRY: u64 = 24;
const E_PHOFF: u64 = 32;
const E_SHOFF: u64 = 40;
const E_PHNUM: u64 = 56;
const E_SHNUM: u64 = 60;

/// The sections of the page or the room, and of pointers: without them `strip` and `objcopy` would drop what is in the segments.
pub(crate) const PAGE_SECTION: &[u8] = b".vsyspatch";
pub(crate) const POINTERS_SECTION: &[u8] = b".vsyspatch.data";

type SectionHeader = elf::SectionHeader64<Le>;

/// A stretch of bytes of the longer file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: FileOffset,
    /// Its address, where it is code or data of the program.
    pub(crate) vaddr: Option<Vaddr>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) role: Role,
}

/// What a file is longer by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// What calls are to lead to, where that was made.
    pub(crate) page: Option<Page>,
    /// Where code can be put.
    pub(crate) room: VaddrRange,
}

/// A file that is longer.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    /// The whole file.
    pub(crate) bytes: Vec<u8>,
    pub(crate) made: Made,
    /// What differs in the bytes that were there before, sorted by offset.
    changed: Vec<Piece>,
    /// What stands behind these, without gaps.
    added: Vec<Piece>,
}

impl Extension {
    /// `plan`, which is for the longer file, as one for the `original`.
    ///
    /// # Errors
    ///
    /// Why there is none: it leads to nothing that was made, or overlaps what the extension changes.
    pub(crate) fn of_original(&self, original: &[u8], plan: Plan) -> Result<Plan, String> {
        let size = original.len() as u64;
        let is_behind = |&edit: &usize| plan.edits.get(edit).is_some_and(|edit| edit.offset.0 >= size);
        let leads_there =
            |site: &&PlannedSite| site.strategy == Some(Strategy::Vdso) || site.edits.iter().any(is_behind);
        let first = plan.sites.iter().find(leads_there);
        let Some((first, strategy)) = first.and_then(|first| Some((first, first.strategy?))) else {
            return Err("no call could lead to what would be added".into());
        };
        let overlapping = || "the changes overlap the headers".to_owned();
        let edit = |piece: &Piece, before: &[u8]| Edit {
            offset: piece.offset,
            vaddr: piece.vaddr,
            before: before.to_vec(),
            after: piece.bytes.clone(),
            role: piece.role,
            entry: first.entry,
            form: first.form,
            strategy,
            function: first.function.clone(),
        };
        let mut edits = Vec::new();
        for piece in &self.changed {
            let there = original.get(piece.offset.index()..).and_then(|rest| rest.get(..piece.bytes.len()));
            edits.push(edit(piece, there.ok_or_else(overlapping)?));
        }
        let (inside, behind): (Vec<&Edit>, Vec<&Edit>) =
            plan.edits.iter().partition(|edit| edit.offset.0 < size);
        for piece in &self.added {
            edits.extend(split(piece, &behind).iter().map(|piece| edit(piece, &[])));
        }
        let own: Vec<FileOffset> = edits.iter().map(|edit| edit.offset).collect();
        edits.extend(inside.into_iter().cloned());
        edits.extend(behind.into_iter().map(|edit| Edit { before: vec![], ..edit.clone() }));
        edits.sort_by_key(|edit| edit.offset);
        apply::check_layout(&edits, size).map_err(|_| overlapping())?;
        let number = |offset: &FileOffset| edits.binary_search_by_key(offset, |edit| edit.offset).ok();
        let renumbered = |site: &PlannedSite| {
            let of_site = site.edits.iter().filter_map(|&edit| number(&plan.edits.get(edit)?.offset));
            // What all need is listed with the first.
            let of_all = own.iter().filter(|_| site.offset == first.offset).filter_map(number);
            let mut edits: Vec<usize> = of_site.chain(of_all).collect();
            edits.sort_unstable();
            PlannedSite { edits, ..site.clone() }
        };
        let sites = plan.sites.iter().map(renumbered).collect();
        Ok(Plan { size, sites, edits, not_vdso: None })
    }
}

/// What is left of `piece` between `edits`.
fn split(piece: &Piece, edits: &[&Edit]) -> Vec<Piece> {
    let end = piece.offset.0 + piece.bytes.len() as u64;
    let mut left = Vec::new();
    let mut from = piece.offset.0;
    let inside = edits.iter().filter(|edit| (piece.offset.0..end).contains(&edit.offset.0));
    let stops = inside.map(|edit| (edit.offset.0, edit.offset.0 + edit.after.len() as u64));
    for (start, behind) in stops.chain([(end, end)]) {
        if start > from {
            let range = (from - piece.offset.0) as usize..(start - piece.offset.0) as usize;
            let vaddr = piece.vaddr.map(|at| at.plus(range.start as u64));
            let bytes = piece.bytes.get(range).unwrap_or_default().to_vec();
            left.push(Piece { offset: FileOffset(from), vaddr, bytes, role: piece.role });
        }
        from = behind;
    }
    left
}

/// `image` with the page; or why it cannot take the page.
pub(crate) fn with_page(image: &Image<'_>) -> Result<Extension, String> {
    let hook = hook(image)?;
    let wanted = Wanted { size: PAGE_SIZE, pointers: true, moves_freely: hook.start == Start::Object };
    let place = place(image, wanted)?;
    let page = Page {
        vaddr: place.code_at(),
        pointers: place.pointers_at().ok_or("the pointers have no place")?,
        start: hook.start,
        next: hook.next,
        ibt: image.ibt,
    };
    let code = page.code().ok_or("the page is too far from what the program begins with")?;
    let made = Made { page: Some(page), room: page.room() };
    extended(image, &place, made, Some(hook.leading_to(page.init())), code)
}

/// `image` with `pages` pages of room for code; or why it cannot take them.
pub(crate) fn with_room(image: &Image<'_>, pages: u64) -> Result<Extension, String> {
    // The loader, which needs no other object, looks for its own headers in memory.
    let is_loaded = !is_program(image)? && image.needs_others();
    let wanted = Wanted { size: pages * PAGE_SIZE, pointers: false, moves_freely: is_loaded };
    let place = place(image, wanted)?;
    let range = VaddrRange { start: place.code_at(), end: place.vaddr.plus(place.size) };
    extended(image, &place, Made { page: None, room: range }, None, Vec::new())
}

/// `image` with what was `made` at its `place`, `code` at its begin, and what `lead`s there.
fn extended(
    image: &Image<'_>,
    place: &Place,
    made: Made,
    lead: Option<Piece>,
    code: Vec<u8>,
) -> Result<Extension, String> {
    /// Zeros that a linker puts behind the last of what it writes: up to a multiple of this.
    const ALIGNMENT: usize = 16;
    let size = image.bytes.len() as u64;
    let rest = image.bytes.get(image.named_end() as usize..).unwrap_or_default();
    if rest.len() >= ALIGNMENT || rest.iter().any(|&byte| byte != 0) {
        return Err(
            "bytes stand behind everything that the headers name, which are found from the end of the file"
                .into(),
        );
    }
    let sections = sections(image.bytes, place);
    let changed = changed(image, place, lead, sections.as_ref());
    let added = added(size, place, code, sections.as_ref());
    let mut bytes = image.bytes.to_vec();
    for piece in &changed {
        let start = piece.offset.index();
        let there =
            bytes.get_mut(start..start + piece.bytes.len()).ok_or("the headers do not fit the file")?;
        there.copy_from_slice(&piece.bytes);
    }
    for piece in &added {
        bytes.extend_from_slice(&piece.bytes);
    }
    Ok(Extension { bytes, made, changed, added })
}

/// What differs in the file: what `lead`s to the init code, and the headers.
fn changed(image: &Image<'_>, place: &Place, lead: Option<Piece>, sections: Option<&Sections>) -> Vec<Piece> {
    let (old_table, headers) = image.program_headers();
    let mut changed = Vec::from_iter(lead);
    let mut change = |offset, bytes: &[u8]| {
        let (offset, bytes) = (FileOffset(offset), bytes.to_vec());
        changed.push(Piece { offset, vaddr: None, bytes, role: Role::Header });
    };
    if place.head > 0 {
        change(E_PHOFF, &(place.offset.0 + TABLE_AT).to_le_bytes());
    } else {
        let is_kept = |(new, old): &(&ProgramHeader, &ProgramHeader)| {
            bytes_of::<ProgramHeader>(new) == bytes_of::<ProgramHeader>(old)
        };
        let kept = place.table.iter().zip(headers).take_while(is_kept).count();
        change(
            old_table.0 + (kept * size_of::<ProgramHeader>()) as u64,
            bytes_of_slice(&place.table[kept..]),
        );
    }
    if place.table.len() != headers.len() {
        change(E_PHNUM, &(place.table.len() as u16).to_le_bytes());
    }
    if let Some(Sections { names, table }) = sections {
        change(E_SHOFF, &(place.names_at() + names.len() as u64).to_le_bytes());
        change(E_SHNUM, &(table.len() as u16).to_le_bytes());
    }
    changed.sort_by_key(|piece| piece.offset);
    changed
}

/// What stands behind the `size` bytes of the file, in order: `code` and room for more, the pointers, and the tables.
fn added(size: u64, place: &Place, code: Vec<u8>, sections: Option<&Sections>) -> Vec<Piece> {
    let mut added = Vec::new();
    let mut end = size;
    let mut add = |role, vaddr, bytes: Vec<u8>| {
        if !bytes.is_empty() {
            let offset = FileOffset(end);
            end += bytes.len() as u64;
            added.push(Piece { offset, vaddr, bytes, role });
        }
    };
    add(Role::Fill, None, vec![0; (place.offset.0 - size) as usize]);
    if place.head > 0 {
        let mut head = vec![0; TABLE_AT as usize];
        head.extend_from_slice(bytes_of_slice(&place.table));
        head.resize(place.head as usize, 0);
        add(Role::Header, None, head);
    }
    let free = place.size - place.head - code.len() as u64;
    add(Role::Page, Some(place.code_at()), code);
    add(Role::Fill, None, vec![FREE_BYTE; free as usize]);
    if place.pointers == Some(Pointers::Segment) {
        add(Role::Pointers, place.pointers_at(), vec![0; POINTERS_SIZE as usize]);
    }
    if let Some(Sections { names, table }) = sections {
        add(Role::Header, None, names.clone());
        add(Role::Header, None, bytes_of_slice(table).to_vec());
    }
    added
}

/// The field that leads to the init code.
struct Hook {
    start: Start,
    next: Vaddr,
    offset: FileOffset,
    /// Its address, where it is data of the program.
    vaddr: Option<Vaddr>,
}

impl Hook {
    fn leading_to(&self, init: Vaddr) -> Piece {
        let bytes = init.0.to_le_bytes().to_vec();
        Piece { offset: self.offset, vaddr: self.vaddr, bytes, role: Role::Init }
    }
}

/// Whether the kernel runs it, not only a loader that reads it.
fn is_program(image: &Image<'_>) -> Result<bool, String> {
    match image.identity.file_type {
        FileType::Exec => Ok(true),
        FileType::Dyn => {
            let is_named = image.identity.soname.is_some();
            Ok(image.dynamic.is_pie || (image.identity.interp.is_some() && !is_named))
        }
        FileType::Rel => Err("an object has no segments".into()),
    }
}

fn hook(image: &Image<'_>) -> Result<Hook, String> {
    const LIBC: &str = "libc.so.6";
    if is_program(image)? {
        let next = image.entry_point.ok_or("the program has no entry point")?;
        return Ok(Hook { start: Start::Program, next, offset: FileOffset(E_ENTRY), vaddr: None });
    }
    if image.identity.soname.as_deref() != Some(LIBC) && !image.needs(LIBC) {
        return Err(
            "a shared object without glibc's libc.so.6: its init function may not be given argc and argv"
                .into(),
        );
    }
    let field = image.dynamic.init.zip(image.dynamic.init_field).filter(|(next, _)| *next != 0);
    let (next, (offset, vaddr)) = field.ok_or(
        "the shared object has no init function (DT_INIT), nor a relocation that says which is the first of DT_INIT_ARRAY",
    )?;
    Ok(Hook { start: Start::Object, next: Vaddr(next), offset, vaddr: Some(vaddr) })
}

/// What the pointers are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pointers {
    /// A segment of their own, right behind the page in memory and in the file.
    Segment,
    /// The memory of the last segment, which is made longer so that it ends with them.
    LastSegment {
        vaddr: Vaddr,
        /// Where its bytes in the file end.
        file_end: FileOffset,
    },
}

/// What a place is looked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Bytes of the segment with code: whole pages.
    size: u64,
    /// Whether there are pointers, too.
    pointers: bool,
    /// Whether the program header table is read from the file alone, so that it can be anywhere.
    moves_freely: bool,
}

/// Where what is added goes, and the program headers that tell of it.
struct Place {
    vaddr: Vaddr,
    offset: FileOffset,
    /// Bytes of the segment with code.
    size: u64,
    table: Vec<ProgramHeader>,
    /// Bytes of the table at the begin of the segment, before the code; none where it stays where it is.
    head: u64,
    pointers: Option<Pointers>,
}

impl Place {
    fn code_at(&self) -> Vaddr {
        self.vaddr.plus(self.head)
    }

    fn pointers_at(&self) -> Option<Vaddr> {
        self.pointers.map(|pointers| match pointers {
            Pointers::Segment => self.vaddr.plus(self.size),
            Pointers::LastSegment { vaddr, .. } => vaddr,
        })
    }

    /// File offset behind the code and the pointers, where the names of sections go.
    fn names_at(&self) -> u64 {
        let pointers = if self.pointers == Some(Pointers::Segment) { POINTERS_SIZE } else { 0 };
        self.offset.0 + self.size + pointers
    }
}

fn place(image: &Image<'_>, wanted: Wanted) -> Result<Place, String> {
    let added = if wanted.pointers { 2 } else { 1 };
    let own_pointers = wanted.pointers.then_some(Pointers::Segment);
    // Of memory, in bytes.
    let size = wanted.size + if wanted.pointers { PAGE_SIZE } else { 0 };
    let (at, headers) = image.program_headers();
    let loaded = || headers.iter().filter(|p| p.p_type.get(Le) == elf::PT_LOAD);
    if !loaded().is_sorted_by_key(|p| p.p_vaddr.get(Le)) {
        return Err("the segments are not in the order of their addresses".into());
    }
    let first = loaded().min_by_key(|p| p.p_vaddr.get(Le)).ok_or("nothing is loaded")?;
    let first_page = first.p_vaddr.get(Le) & !(PAGE_SIZE - 1);
    let behind = loaded().map(end_in_memory).max().unwrap_or(0).checked_next_multiple_of(PAGE_SIZE);
    let behind = behind
        .filter(|at| at.checked_add(PAGE_SIZE + size).is_some())
        .ok_or("the last segment ends with the address space")?;
    let offset = (image.bytes.len() as u64).next_multiple_of(PAGE_SIZE);
    let says_so = |p: &ProgramHeader| {
        p.p_type.get(Le) != elf::PT_PHDR
            || (p.p_offset.get(Le) == at.0 && image.offset_at(Vaddr(p.p_vaddr.get(Le))) == Some(at))
    };
    let in_place = |added| {
        let talking = without_silent(headers, added);
        let fits =
            headers.iter().all(says_so) && talking.kept.len() + added <= talking.room_at(image, at, added);
        fits.then_some(talking)
    };
    if let Some(table) = in_place(added) {
        return Ok(table.with(Vaddr(behind), FileOffset(offset), 0, wanted.size, own_pointers));
    }
    let whole = Table { kept: headers.to_vec(), silent: 0 };
    let table_size = ((whole.kept.len() + added) * size_of::<ProgramHeader>()) as u64;
    let head = (TABLE_AT + table_size).next_multiple_of(16);
    if head >= ENTRY_STRIDE {
        // The code takes most of the page that both are in.
        return Err("the program header table is too large to move".into());
    }
    let moved = |vaddr, offset| whole.with(Vaddr(vaddr), FileOffset(offset), head, wanted.size, own_pointers);
    // A page stays free before the segment: `strip` begins a segment with the table anywhere in a page of the file.
    let below = first_page.checked_sub(size).filter(|&at| at >= LOWEST_ADDRESS + PAGE_SIZE);
    if wanted.moves_freely {
        return Ok(moved(behind + PAGE_SIZE, offset));
    }
    let distance = first.p_vaddr.get(Le).wrapping_sub(first.p_offset.get(Le));
    let is_free = |at: u64| {
        let taken = at.checked_sub(PAGE_SIZE).zip(at.checked_add(size));
        let is_apart = |p: &ProgramHeader, (start, end): (u64, u64)| {
            let pages = p.p_vaddr.get(Le) & !(PAGE_SIZE - 1)..end_in_memory(p);
            pages.end.checked_next_multiple_of(PAGE_SIZE).is_some_and(|stop| stop <= start)
                || end <= pages.start
        };
        taken.is_some_and(|taken| loaded().all(|p| is_apart(p, taken)))
    };
    let fitting = |largest_fill: u64| {
        let fills = (0..=largest_fill).step_by(PAGE_SIZE as usize).filter(|_| distance % PAGE_SIZE == 0);
        let places = fills.map(|fill| ((offset + fill).wrapping_add(distance), offset + fill));
        places.into_iter().find(|&(vaddr, _)| is_free(vaddr)).map(|(vaddr, offset)| moved(vaddr, offset))
    };
    if let Some(place) = fitting(LARGEST_FILL) {
        return Ok(place);
    }
    if let Some((pointers, table)) =
        in_last_segment(headers, behind).filter(|_| wanted.pointers).zip(in_place(1))
    {
        let at = Vaddr(behind + PAGE_SIZE);
        return Ok(table.with(at, FileOffset(offset), 0, wanted.size, Some(pointers)));
    }
    match (image.identity.file_type, below) {
        (FileType::Exec, Some(below)) => Ok(moved(below, offset)),
        (FileType::Exec, None) => fitting(LARGEST_NEEDED_FILL).ok_or(
            "the program header table has no room for more segments, nor is memory free below the program"
        ),
        _ => fitting(LARGEST_NEEDED_FILL).ok_or(
            "a position-independent program with much zeroed data, and no room for another segment in its program header table"
        ),
    }
    .map_err(str::to_owned)
}

/// Where the segment ends in memory; an empty one has a place in the order of addresses, too.
fn end_in_memory(p: &ProgramHeader) -> u64 {
    p.p_vaddr.get(Le).saturating_add(p.p_memsz.get(Le).max(1))
}

/// Pointers at `behind`, a page's begin, where the segment that ends in the page before it can take them: it has
/// zeroed data, which nobody makes read-only.
fn in_last_segment(headers: &[ProgramHeader], behind: u64) -> Option<Pointers> {
    let of = |kind| headers.iter().filter(move |p| p.p_type.get(Le) == kind);
    let last = of(elf::PT_LOAD).max_by_key(|p| end_in_memory(p))?;
    let is_data = last.p_flags.get(Le) == elf::PF_R | elf::PF_W;
    let file_size = last.p_filesz.get(Le);
    let has_zeros = file_size > 0 && file_size < last.p_memsz.get(Le);
    let stays_writable = of(elf::PT_GNU_RELRO).all(|p| end_in_memory(p) <= behind);
    let file_end = FileOffset(last.p_offset.get(Le).checked_add(file_size)?);
    (is_data && has_zeros && stays_writable)
        .then_some(Pointers::LastSegment { vaddr: Vaddr(behind), file_end })
}

/// A section header table, and the names in it, which stand right before it.
struct Sections {
    names: Vec<u8>,
    table: Vec<SectionHeader>,
}

/// The sections of the file `bytes` and those of what is added. Nothing where the file has no sound section headers: then
/// nobody reads them.
fn sections(bytes: &[u8], place: &Place) -> Option<Sections> {
    let header = elf::FileHeader64::<Le>::parse(bytes).ok()?;
    let old = header.sections(Le, bytes).ok().filter(|table| !table.is_empty())?;
    let index = header.section_strings_index(Le, bytes).ok()?;
    let (start, size) = old.section(index).ok()?.file_range(Le)?;
    let mut names = bytes.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(size).ok()?)?.to_vec();
    let mut table: Vec<SectionHeader> = old.iter().copied().collect();
    if table.len() + 2 >= usize::from(elf::SHN_LORESERVE) {
        return None;
    }
    let mut add =
        |name: &[u8], kind, flags: elf::SectionFlags, (vaddr, offset): (Vaddr, FileOffset), size, align| {
            let section = SectionHeader {
                sh_name: U32::new(Le, names.len() as u32),
                sh_type: U32::new(Le, kind),
                sh_flags: U64::new(Le, flags),
                sh_addr: U64::new(Le, vaddr.0),
                sh_offset: U64::new(Le, offset.0),
                sh_size: U64::new(Le, size),
                sh_link: U32::new(Le, 0),
                sh_info: U32::new(Le, 0),
                sh_addralign: U64::new(Le, align),
                sh_entsize: U64::new(Le, 0),
            };
            names.extend_from_slice(name);
            names.push(0);
            table.push(section);
        };
    let (code, data) = (elf::SHF_ALLOC | elf::SHF_EXECINSTR, elf::SHF_ALLOC | elf::SHF_WRITE);
    let page = (place.code_at(), FileOffset(place.offset.0 + place.head));
    add(PAGE_SECTION, elf::SHT_PROGBITS, code, page, place.size - place.head, 16);
    if let Some((pointers, at)) = place.pointers.zip(place.pointers_at()) {
        let (kind, offset) = match pointers {
            Pointers::Segment => (elf::SHT_PROGBITS, FileOffset(place.offset.0 + place.size)),
            Pointers::LastSegment { file_end, .. } => (elf::SHT_NOBITS, file_end),
        };
        add(POINTERS_SECTION, kind, data, (at, offset), POINTERS_SIZE, 8);
    }
    let of_names = table.get_mut(index.0)?;
    of_names.sh_offset = U64::new(Le, place.names_at());
    of_names.sh_size = U64::new(Le, names.len() as u64);
    names.resize(names.len().next_multiple_of(8), 0);
    Some(Sections { names, table })
}

/// Program headers that can take more.
struct Table {
    /// All that say something.
    kept: Vec<ProgramHeader>,
    /// Number of those that do not.
    silent: usize,
}

/// `headers` without those that nothing is lost with, `added` of them at most.
fn without_silent(headers: &[ProgramHeader], added: usize) -> Table {
    let file =
        |p: &ProgramHeader| (p.p_offset.get(Le), p.p_offset.get(Le).saturating_add(p.p_filesz.get(Le)));
    let is_noted = |property: &ProgramHeader| {
        let (start, end) = file(property);
        let covers = |note: &ProgramHeader| {
            let (from, to) = file(note);
            note.p_type.get(Le) == elf::PT_NOTE && from <= start && end <= to
        };
        headers.iter().any(covers)
    };
    let is_silent = |p: &ProgramHeader| match p.p_type.get(Le) {
        elf::PT_NULL => true,
        elf::PT_GNU_PROPERTY => is_noted(p),
        _ => false,
    };
    let mut left = added;
    let mut kept = Vec::new();
    for header in headers {
        if left > 0 && is_silent(header) {
            left -= 1;
        } else {
            kept.push(*header);
        }
    }
    Table { silent: added - left, kept }
}

impl Table {
    /// Number of entries that the table can have where it is, at `at`: its own, and where `added` ones fit into these and
    /// the zero bytes before the first section behind it, those, too.
    fn room_at(&self, image: &Image<'_>, at: FileOffset, added: usize) -> usize {
        let now = self.kept.len() + self.silent;
        let size = size_of::<ProgramHeader>();
        let end = at.0 + (now * size) as u64;
        let wanted = added.saturating_sub(self.silent);
        let behind = end..end + (wanted * size) as u64;
        let is_mapped = image
            .segments
            .iter()
            .any(|segment| segment.offset.0 <= at.0 && behind.end <= segment.file_end().0);
        let overlaps = |(start, stop): (u64, u64)| start < behind.end && behind.start < stop;
        let sections = image
            .sections
            .iter()
            .map(|section| (section.file.0, section.file.0.saturating_add(section.file.1)));
        let headers = self.kept.iter().filter(|p| p.p_type.get(Le) != elf::PT_LOAD);
        let named =
            headers.map(|p| (p.p_offset.get(Le), p.p_offset.get(Le).saturating_add(p.p_filesz.get(Le))));
        let knows_sections = image.sections.iter().any(|section| section.executable);
        let is_taken =
            sections.chain(named).filter(|&(start, stop)| start < stop && start != at.0).any(overlaps);
        let zeros = image.bytes.get(behind.start as usize..behind.end as usize);
        let are_zeros = zeros.is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0));
        if is_mapped && knows_sections && !is_taken && are_zeros { now + wanted } else { now }
    }

    /// The table with the segment of `code_size` bytes at `vaddr` and `offset`, which has the table itself in its first
    /// `head` bytes, and that of the `pointers`.
    fn with(
        &self,
        vaddr: Vaddr,
        offset: FileOffset,
        head: u64,
        code_size: u64,
        pointers: Option<Pointers>,
    ) -> Place {
        let mut table = self.kept.clone();
        let segment = |flags: elf::ProgramFlags, distance: u64, size: u64| ProgramHeader {
            p_type: U32::new(Le, elf::PT_LOAD),
            p_flags: U32::new(Le, flags),
            p_offset: U64::new(Le, offset.0 + distance),
            p_vaddr: U64::new(Le, vaddr.0 + distance),
            p_paddr: U64::new(Le, vaddr.0 + distance),
            p_filesz: U64::new(Le, size),
            p_memsz: U64::new(Le, size),
            p_align: U64::new(Le, PAGE_SIZE),
        };
        let mut segments = vec![segment(elf::PF_R | elf::PF_X, 0, code_size)];
        match pointers {
            None => {}
            Some(Pointers::Segment) => {
                segments.push(segment(elf::PF_R | elf::PF_W, code_size, POINTERS_SIZE));
            }
            Some(Pointers::LastSegment { vaddr, .. }) => {
                let loaded = table.iter_mut().filter(|p| p.p_type.get(Le) == elf::PT_LOAD);
                if let Some(last) = loaded.max_by_key(|p| end_in_memory(p)) {
                    let size = (vaddr.0 + POINTERS_SIZE).saturating_sub(last.p_vaddr.get(Le));
                    last.p_memsz = U64::new(Le, size);
                }
            }
        }
        // Loaders want them by address.
        let is_above = |p: &ProgramHeader| p.p_type.get(Le) == elf::PT_LOAD && p.p_vaddr.get(Le) < vaddr.0;
        let last_below = table.iter().rposition(is_above).map(|last| last + 1);
        let first = table.iter().position(|p| p.p_type.get(Le) == elf::PT_LOAD).unwrap_or(table.len());
        let at = last_below.unwrap_or(first);
        table.splice(at..at, segments);
        let size = U64::new(Le, (table.len() * size_of::<ProgramHeader>()) as u64);
        for header in table.iter_mut().filter(|p| p.p_type.get(Le) == elf::PT_PHDR) {
            header.p_filesz = size;
            header.p_memsz = size;
            if head > 0 {
                header.p_offset = U64::new(Le, offset.0 + TABLE_AT);
                header.p_vaddr = U64::new(Le, vaddr.0 + TABLE_AT);
            }
        }
        if head > 0 {
            // Linux does not read physical addresses. Without them `strip` finds a place for a table that is not at the
            // begin of the file; with them it complains of sections whose physical address it has to adjust.
            table.iter_mut().for_each(|header| header.p_paddr = U64::new(Le, 0));
        }
        Place { vaddr, offset, size: code_size, table, head, pointers }
    }
}

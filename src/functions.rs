//! Where functions begin and end: symbols, unwind information, entry points.
//! Built once per file, and only for files that hold an entry's address.

use std::cell::OnceCell;
use std::num::{NonZeroU32, NonZeroU64};

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, UnwindSection as _};
use memchr::memchr;
use object::LittleEndian as Le;
use object::elf;
use object::pod;
use object::read::ReadRef as _;
use object::read::elf::{FileHeader as _, GnuHashTable, HashTable, SectionHeader as _};

use crate::addr::{Vaddr, VaddrRange};
use crate::elf::Image;
use crate::go_table;
use crate::memory::{self, STRETCH};

/// What says that a function begins somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Unwind information, or Go's table: begin and end are those of the code.
    UnwindInfo,
    /// A function symbol.
    Symbol,
    /// `e_entry`, `DT_INIT`, `DT_FINI`, or an IFUNC relocation.
    EntryPoint,
}

/// A place where a function begins. Large programs have a hundred thousand: 32 bytes each.
#[derive(Clone, Copy, Debug)]
struct Start {
    at: u64,
    /// First address behind the function; `at` where it is not known.
    end: u64,
    /// The exception table, where there is one.
    lsda: Option<NonZeroU64>,
    /// Number of the name in the list of names.
    name: Option<NonZeroU32>,
    source: Source,
    resolver: bool,
}

impl Start {
    /// One that nothing more is known of.
    fn new(at: u64, source: Source) -> Self {
        Self { at, end: at, lsda: None, name: None, source, resolver: false }
    }
}

/// Names of functions with their ranks; the lower rank is the better name. Each with what follows it in its table: the
/// ends of hardly any are ever looked for.
#[derive(Debug, Default)]
struct Names<'a>(Vec<(u32, &'a [u8])>);

impl<'a> Names<'a> {
    fn add(&mut self, rank: u32, name: &'a [u8]) -> Option<NonZeroU32> {
        self.0.push((rank, name));
        u32::try_from(self.0.len()).ok().and_then(NonZeroU32::new)
    }

    fn rank(&self, name: Option<NonZeroU32>) -> u32 {
        self.entry(name).map_or(u32::MAX, |(rank, _)| rank)
    }

    fn get(&self, name: Option<NonZeroU32>) -> Option<&'a str> {
        let (_, name) = self.entry(name)?;
        std::str::from_utf8(&name[..memchr(0, name)?]).ok()
    }

    fn entry(&self, name: Option<NonZeroU32>) -> Option<(u32, &'a [u8])> {
        self.0.get(name?.get() as usize - 1).copied()
    }
}

/// All known functions of a file.
#[derive(Debug)]
pub struct Functions<'a> {
    /// Functions that lie in no other, by address, one per address.
    primary: Vec<Start>,
    names: Names<'a>,
    /// Further entries inside of them, by address.
    secondary: Vec<u64>,
    /// Initialised pointers that relocations fill, by address; collected when first asked for.
    relocated: OnceCell<Vec<u64>>,
    /// What other files can reach by name.
    exported: Vec<VaddrRange>,
    /// [`Functions::stretches`]; collected when first asked for.
    stretches: OnceCell<Vec<VaddrRange>>,
}

/// The stretch of code that belongs to one function, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent<'a> {
    /// From the function's first byte to the beginning of the next function.
    pub range: VaddrRange,
    /// Where symbol or unwind information says that it ends; padding or out-of-line code follows.
    pub nominal_end: Vaddr,
    /// Its name, where a symbol tells.
    pub name: Option<&'a str>,
    /// Something tells where it begins; else it is only a stretch of code around some place.
    pub is_bounded: bool,
    /// An IFUNC resolver: what it returns is called.
    pub is_resolver: bool,
    /// Its exception table (`.gcc_except_table` entry).
    pub lsda: Option<Vaddr>,
}

impl<'a> Functions<'a> {
    /// Collects what `image` tells of its functions. Tables that lie are left out.
    #[must_use]
    pub fn of(image: &Image<'a>) -> Self {
        let (mut starts, mut names) = (Vec::new(), Names::default());
        unwind_starts(image, &mut starts);
        if !symbol_starts(image, |_| true, &mut starts, &mut names) {
            let functions = go_table::functions(image).into_iter();
            starts.extend(
                functions
                    .map(|range| Start { end: range.end.0, ..Start::new(range.start.0, Source::UnwindInfo) }),
            );
        }
        for entry in image
            .relocations()
            .map(|(_, entry)| entry)
            .filter(|entry| entry.r_type(Le, false) == elf::R_X86_64_IRELATIVE)
        {
            let at = entry.r_addend.get(Le).cast_unsigned();
            starts.push(Start { resolver: true, ..Start::new(at, Source::EntryPoint) });
        }
        for at in
            [image.entry_point.map(|e| e.0), image.dynamic.init, image.dynamic.fini].into_iter().flatten()
        {
            starts.push(Start::new(at, Source::EntryPoint));
        }
        Self { exported: exported(image), ..Self::new(image, starts, names) }
    }

    /// Only those that hold one of `places`, where unwind information has one for each and a table to find it by; nothing is
    /// known of what lies between. Takes no time that grows with the program, but for its symbols.
    #[must_use]
    pub fn holding(image: &Image<'a>, places: &[Vaddr]) -> Option<Self> {
        let mut starts = unwind_starts_at(image, places)?;
        starts.sort_unstable_by_key(|start| start.at);
        starts.dedup_by_key(|start| start.at);
        let begins: Vec<u64> = starts.iter().map(|start| start.at).collect();
        // Each goes as far as its unwind information does.
        let ends: Vec<Start> = starts.iter().map(|start| Start::new(start.end, Source::EntryPoint)).collect();
        starts.extend(ends);
        let mut names = Names::default();
        symbol_starts(image, |at| begins.binary_search(&at).is_ok(), &mut starts, &mut names);
        Some(Self::new(image, starts, names))
    }

    fn new(image: &Image<'a>, mut starts: Vec<Start>, names: Names<'a>) -> Self {
        starts.retain(|start| image.is_executable(Vaddr(start.at)));
        let (primary, secondary) = layered(starts, &names);
        let (relocated, stretches) = (OnceCell::new(), OnceCell::new());
        Self { primary, names, secondary, relocated, exported: Vec::new(), stretches }
    }

    /// The function whose code `at` belongs to: the last one that begins at or before it, up to the next.
    #[must_use]
    pub fn extent(&self, image: &Image<'_>, at: Vaddr) -> Option<Extent<'a>> {
        let index = self.primary.partition_point(|start| start.at <= at.0).checked_sub(1)?;
        self.extent_of(image, index)
    }

    /// The extent of function number `index`, in order of address.
    fn extent_of(&self, image: &Image<'_>, index: usize) -> Option<Extent<'a>> {
        let start = self.primary.get(index)?;
        let segment_end = image.segment_at(Vaddr(start.at))?.range.end.0;
        let next = self.primary.get(index + 1).map_or(segment_end, |next| next.at.min(segment_end));
        let section_end = image.section_at(Vaddr(start.at)).map_or(next, |section| section.range.end.0);
        let end = next.min(section_end).max(start.at);
        Some(Extent {
            range: VaddrRange { start: Vaddr(start.at), end: Vaddr(end) },
            nominal_end: Vaddr(start.end.min(end)),
            name: self.names.get(start.name),
            is_bounded: true,
            is_resolver: start.resolver,
            lsda: start.lsda.map(|at| Vaddr(at.get())),
        })
    }

    /// The functions from the one at `at` onwards, then those before it, nearest first.
    pub fn around(&self, image: &Image<'_>, at: Vaddr) -> impl Iterator<Item = Extent<'a>> {
        let index = self.primary.partition_point(|start| start.at <= at.0);
        let (before, after) = (index.saturating_sub(1), index.saturating_sub(1)..self.primary.len());
        after.chain((0..before).rev()).filter_map(move |index| self.extent_of(image, index))
    }

    /// Where the first function behind `at` begins.
    #[must_use]
    pub fn next_start(&self, at: Vaddr) -> Option<Vaddr> {
        let index = self.primary.partition_point(|start| start.at <= at.0);
        self.primary.get(index).map(|start| Vaddr(start.at))
    }

    /// The code that belongs to functions whose ends are known, in stretches that only padding and ends of segments
    /// interrupt, by address.
    pub fn stretches(&self, image: &Image<'_>) -> &[VaddrRange] {
        /// Bytes between two functions that are not worth a stretch of its own.
        const PADDING: u64 = 64;
        self.stretches.get_or_init(|| {
            let mut stretches: Vec<VaddrRange> = Vec::new();
            let mut segment_end = Vaddr(0);
            for start in self.primary.iter().filter(|start| start.at < start.end) {
                let at = Vaddr(start.at);
                let is_first = at >= segment_end;
                if is_first {
                    let Some(segment) = image.segment_at(at) else { continue };
                    segment_end = segment.range.end;
                }
                let end = Vaddr(start.end).min(segment_end);
                match stretches.last_mut() {
                    Some(last) if !is_first && start.at <= last.end.0.saturating_add(PADDING) => {
                        last.end = last.end.max(end);
                    }
                    _ => stretches.push(VaddrRange { start: at, end }),
                }
            }
            stretches
        })
    }

    /// Known entries strictly inside `range`, functions and entries within functions alike.
    pub fn entries_inside(&self, range: VaddrRange) -> impl Iterator<Item = Vaddr> {
        let inside = move |at: u64| range.start.0 < at && at < range.end.0;
        let primary = self.primary.iter().map(|start| start.at);
        let from = self.secondary.partition_point(|&at| at <= range.start.0);
        let first = self.primary.partition_point(|start| start.at <= range.start.0);
        primary
            .skip(first)
            .take_while(move |&at| inside(at))
            .chain(self.secondary[from..].iter().copied().take_while(move |&at| inside(at)))
            .map(Vaddr)
    }

    /// Whether a function begins at `at`.
    #[must_use]
    pub fn begins_at(&self, at: Vaddr) -> bool {
        self.primary.binary_search_by_key(&at.0, |start| start.at).is_ok()
    }

    /// Whether other files can reach the code or data at `at` by name.
    #[must_use]
    pub fn is_exported(&self, at: Vaddr) -> bool {
        self.exported.iter().any(|range| range.contains(at))
    }

    /// Whether the 8 bytes at `at` are filled by a relocation when the file is loaded.
    #[must_use]
    pub fn is_relocated(&self, image: &Image<'_>, at: Vaddr) -> bool {
        let relocated = self.relocated.get_or_init(|| {
            let mut places: Vec<u64> = image.relocations().map(|(_, entry)| entry.r_offset.get(Le)).collect();
            places.sort_unstable();
            places
        });
        let index = relocated.partition_point(|&place| place.wrapping_add(8) <= at.0);
        relocated.get(index).is_some_and(|&place| place < at.0.wrapping_add(8))
    }
}

/// Sorts `starts` into functions and entries inside of functions.
fn layered(mut starts: Vec<Start>, names: &Names<'_>) -> (Vec<Start>, Vec<u64>) {
    // Stable, since what the tables tell comes in runs that are sorted already.
    starts.sort_by_key(|start| (start.at, start.source));
    let mut secondary = Vec::new();
    starts.dedup_by(|start, last| {
        if last.at == start.at {
            last.end = last.end.max(start.end);
            last.resolver |= start.resolver;
            last.lsda = last.lsda.or(start.lsda);
            if names.rank(start.name) < names.rank(last.name) {
                last.name = start.name;
            }
            return true;
        }
        let is_inside = start.at < last.end && last.source == Source::UnwindInfo;
        if is_inside && secondary.last() != Some(&start.at) {
            secondary.push(start.at);
        }
        is_inside
    });
    starts.shrink_to_fit();
    (starts, secondary)
}

fn unwind_starts(image: &Image<'_>, starts: &mut Vec<Start>) {
    let Some((at, bytes, bases)) = eh_frame(image) else { return };
    // Room for all at once: what is reserved and not used costs nothing, growing would cost copies.
    starts.reserve(bytes.len() / SMALLEST_FDE);
    let eh_frame = EhFrame::new(bytes, gimli::LittleEndian);
    let bases = bases.set_eh_frame(at.0);
    let mut entries = eh_frame.entries(&bases);
    let (mut known_cie, mut done) = (None, 0);
    while let Ok(Some(entry)) = entries.next() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        if partial.offset() - done >= STRETCH {
            memory::searched(&bytes[done..partial.offset()]);
            done = partial.offset();
        }
        let fde =
            partial.parse(|section, bases, offset| known_or_parsed(&mut known_cie, section, bases, offset));
        starts.extend(fde.ok().filter(|fde| fde.len() > 0).map(|fde| start_of(&fde)));
    }
    memory::searched(&bytes[done..]);
}

/// The functions that hold `places`, as the table that the unwinder searches tells; nothing where it has none for one of
/// them, or is not as linkers write it: version 1, distances of four bytes.
fn unwind_starts_at(image: &Image<'_>, places: &[Vaddr]) -> Option<Vec<Start>> {
    let (at, bytes, bases) = eh_frame(image)?;
    let start = image.eh_frame_hdr?.start;
    let bases = bases.set_eh_frame(at.0).set_eh_frame_hdr(start.0);
    let header = image.bytes_at(start).filter(|header| header.starts_with(&[1, 0x1b, 0x03, 0x3b]))?;
    let header = EhFrameHdr::new(header, gimli::LittleEndian).parse(&bases, 8).ok()?;
    if header.eh_frame_ptr() != gimli::Pointer::Direct(at.0) {
        return None;
    }
    let (eh_frame, table) = (EhFrame::new(bytes, gimli::LittleEndian), header.table()?);
    let (mut starts, mut known_cie): (Vec<Start>, _) = (Vec::new(), None);
    for place in places {
        if starts.last().is_some_and(|last| (last.at..last.end).contains(&place.0)) {
            continue;
        }
        let gimli::Pointer::Direct(fde) = table.lookup(place.0, &bases).ok()? else { return None };
        let offset = usize::try_from(fde.checked_sub(at.0)?).ok()?;
        let cie_at = |section: &_, bases: &_, offset| known_or_parsed(&mut known_cie, section, bases, offset);
        let fde = eh_frame.fde_from_offset(&bases, offset.into(), cie_at).ok()?;
        starts.push(Some(start_of(&fde)).filter(|start| (start.at..start.end).contains(&place.0))?);
    }
    Some(starts)
}

type Frames<'a> = EhFrame<gimli::EndianSlice<'a, gimli::LittleEndian>>;
type Cie<'a> = gimli::CommonInformationEntry<gimli::EndianSlice<'a, gimli::LittleEndian>>;

/// The CIE at `offset`: most functions have the same as the one before.
fn known_or_parsed<'a>(
    known: &mut Option<(gimli::EhFrameOffset, Cie<'a>)>,
    section: &Frames<'a>,
    bases: &BaseAddresses,
    offset: gimli::EhFrameOffset,
) -> gimli::Result<Cie<'a>> {
    match known {
        Some((at, cie)) if *at == offset => Ok(cie.clone()),
        _ => {
            let cie = section.cie_from_offset(bases, offset)?;
            *known = Some((offset, cie.clone()));
            Ok(cie)
        }
    }
}

fn start_of<R: gimli::Reader>(fde: &gimli::FrameDescriptionEntry<R>) -> Start {
    let lsda = match fde.lsda() {
        Some(gimli::Pointer::Direct(lsda)) => NonZeroU64::new(lsda),
        _ => None,
    };
    let start = Start::new(fde.initial_address(), Source::UnwindInfo);
    Start { end: fde.end_address(), lsda, ..start }
}

/// Bytes of the smallest frame description: length, CIE, begin and size of the code, padding.
const SMALLEST_FDE: usize = 20;

/// `.eh_frame`: from `PT_GNU_EH_FRAME`, which points to it, or from the section of that name.
fn eh_frame<'a>(image: &Image<'a>) -> Option<(Vaddr, &'a [u8], BaseAddresses)> {
    let bases = BaseAddresses::default();
    let by_header = || {
        let header = image.eh_frame_hdr?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header.start.0);
        let parsed =
            EhFrameHdr::new(image.bytes_at(header.start)?, gimli::LittleEndian).parse(&bases, 8).ok()?;
        match parsed.eh_frame_ptr() {
            gimli::Pointer::Direct(at) => Some((Vaddr(at), image.bytes_at(Vaddr(at))?, bases)),
            gimli::Pointer::Indirect(_) => None,
        }
    };
    let by_section = || {
        let section =
            image.sections.iter().find(|section| section.allocated && section.name == b".eh_frame")?;
        let bytes = image.bytes_at(section.range.start)?;
        let size = usize::try_from(section.range.len()).ok()?;
        Some((section.range.start, bytes.get(..size)?, bases.clone()))
    };
    by_section().or_else(by_header)
}

/// Adds what the symbol tables tell of the addresses that are wanted; whether there is one that strip would remove.
fn symbol_starts<'a>(
    image: &Image<'a>,
    is_wanted: impl Fn(u64) -> bool,
    starts: &mut Vec<Start>,
    names: &mut Names<'a>,
) -> bool {
    if let Some((symbols, strings)) = dynamic_symbols(image) {
        push_symbols(symbols, strings, 0, &is_wanted, starts, names);
    }
    let Ok(header) = elf::FileHeader64::<Le>::parse(image.bytes) else { return false };
    let Ok(sections) = header.sections(Le, image.bytes) else { return false };
    let Ok(table) = sections.symbols(Le, image.bytes, elf::SHT_SYMTAB) else { return false };
    let strings = sections.section(table.string_section()).and_then(|section| section.data(Le, image.bytes));
    push_symbols(table.symbols(), strings.unwrap_or_default(), 1 << 30, &is_wanted, starts, names);
    !table.is_empty()
}

/// Symbols of exported names come first, in the order of the tables: their names are those of the manual.
fn push_symbols<'a>(
    symbols: &'a [elf::Sym64<Le>],
    strings: &'a [u8],
    rank: u32,
    is_wanted: impl Fn(u64) -> bool,
    starts: &mut Vec<Start>,
    names: &mut Names<'a>,
) {
    const LOCAL: u32 = 1 << 31;
    for (index, symbol) in symbols.iter().enumerate() {
        let resolver = symbol.st_type() == elf::STT_GNU_IFUNC;
        if !(resolver || symbol.st_type() == elf::STT_FUNC) || symbol.st_shndx.get(Le) == elf::SHN_UNDEF {
            continue;
        }
        let at = symbol.st_value.get(Le);
        if !is_wanted(at) {
            continue;
        }
        let local = if symbol.st_bind() == elf::STB_LOCAL { LOCAL } else { 0 };
        let rank = local.saturating_add(rank).saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
        let name =
            strings.get(symbol.st_name.get(Le) as usize..).filter(|name| !matches!(name, [] | [0, ..]));
        let name = name.and_then(|name| names.add(rank, name));
        let end = at.saturating_add(symbol.st_size.get(Le));
        starts.push(Start { end, name, resolver, ..Start::new(at, Source::Symbol) });
    }
    memory::searched(pod::bytes_of_slice(symbols));
    memory::searched(strings);
}

/// For each of `addresses`, which are sorted, the largest data object that holds it, as symbols tell.
pub(crate) fn objects_around(image: &Image<'_>, addresses: &[Vaddr]) -> Vec<Option<VaddrRange>> {
    let mut objects: Vec<Option<VaddrRange>> = vec![None; addresses.len()];
    each_object(image, |object| {
        let first = addresses.partition_point(|&address| address < object.start);
        let inside = addresses[first..].iter().take_while(|&&address| object.contains(address)).count();
        for known in &mut objects[first..first + inside] {
            *known = Some(known.filter(|known| known.len() >= object.len()).unwrap_or(object));
        }
    });
    objects
}

/// The data objects that symbols tell of and that begin in `range`.
pub(crate) fn objects_in(image: &Image<'_>, range: VaddrRange) -> Vec<VaddrRange> {
    let mut objects = Vec::new();
    each_object(image, |object| objects.extend(range.contains(object.start).then_some(object)));
    objects
}

fn each_object(image: &Image<'_>, mut found: impl FnMut(VaddrRange)) {
    let mut note = |symbols: &[elf::Sym64<Le>]| {
        let objects = symbols.iter().filter(|symbol| symbol.st_type() == elf::STT_OBJECT);
        let range =
            |symbol: &elf::Sym64<Le>| VaddrRange::new(Vaddr(symbol.st_value.get(Le)), symbol.st_size.get(Le));
        objects.filter_map(range).for_each(&mut found);
    };
    if let Some((symbols, _)) = dynamic_symbols(image) {
        note(symbols);
    }
    let header = elf::FileHeader64::<Le>::parse(image.bytes);
    let sections = header.and_then(|header| header.sections(Le, image.bytes));
    if let Ok(table) = sections.and_then(|sections| sections.symbols(Le, image.bytes, elf::SHT_SYMTAB)) {
        note(table.symbols());
    }
}

/// Where the dynamic symbols are.
pub(crate) fn dynamic_symbol_table(image: &Image<'_>) -> Option<VaddrRange> {
    let (symbols, _) = dynamic_symbols(image)?;
    VaddrRange::new(Vaddr(image.dynamic.symtab?), size_of_val(symbols) as u64)
}

/// The dynamic symbols, found as the loader finds them: without section headers.
fn dynamic_symbols<'a>(image: &Image<'a>) -> Option<(&'a [elf::Sym64<Le>], &'a [u8])> {
    let dynamic = &image.dynamic;
    let count = dynamic
        .hash
        .and_then(|at| {
            Some(
                HashTable::<elf::FileHeader64<Le>>::parse(Le, image.bytes_at(Vaddr(at))?)
                    .ok()?
                    .symbol_table_length(),
            )
        })
        .or_else(|| {
            let table = image.bytes_at(Vaddr(dynamic.gnu_hash?))?;
            GnuHashTable::<elf::FileHeader64<Le>>::parse(Le, table).ok()?.symbol_table_length(Le)
        })?;
    let symbols = image.bytes_at(Vaddr(dynamic.symtab?))?.read_slice_at(0, count as usize).ok()?;
    let strings_at = image.offset_at(Vaddr(dynamic.strtab?))?.0;
    let strings = strings_at..strings_at.checked_add(dynamic.strtab_size)?;
    let strings = image.bytes.get(strings.start as usize..strings.end as usize).unwrap_or_default();
    Some((symbols, strings))
}

fn exported(image: &Image<'_>) -> Vec<VaddrRange> {
    let Some((symbols, _)) = dynamic_symbols(image) else { return Vec::new() };
    let is_place = |symbol: &&elf::Sym64<Le>| {
        !matches!(symbol.st_type(), elf::STT_TLS | elf::STT_SECTION | elf::STT_FILE)
            && symbol.st_shndx.get(Le) != elf::SHN_UNDEF
    };
    symbols
        .iter()
        .filter(is_place)
        .filter_map(|symbol| VaddrRange::new(Vaddr(symbol.st_value.get(Le)), symbol.st_size.get(Le).max(1)))
        .collect()
}

//! Where functions begin and end: symbols, unwind information, entry points.
//! Built once per file, and only for files that hold an entry's address.

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, UnwindSection as _};
use object::LittleEndian as Le;
use object::elf;
use object::read::elf::{FileHeader as _, GnuHashTable, HashTable, Sym as _};
use object::read::{ReadRef as _, StringTable};

use crate::addr::{Vaddr, VaddrRange};
use crate::elf::Image;

/// What says that a function begins somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Unwind information: begin and end are those of the code.
    UnwindInfo,
    /// A function symbol.
    Symbol,
    /// `e_entry`, `DT_INIT`, `DT_FINI`, or an IFUNC relocation.
    EntryPoint,
}

/// A place where a function begins.
#[derive(Clone, Debug)]
struct Start<'a> {
    at: u64,
    /// First address behind the function; `at` where it is not known.
    end: u64,
    source: Source,
    /// Rank of the name (lower is better) and the name.
    name: Option<(u32, &'a [u8])>,
    resolver: bool,
    lsda: Option<u64>,
}

/// All known functions of a file.
#[derive(Debug)]
pub struct Functions<'a> {
    /// Functions that lie in no other, by address, one per address.
    primary: Vec<Start<'a>>,
    /// Further entries inside of them, by address.
    secondary: Vec<u64>,
    /// Initialised pointers that relocations fill, by address.
    relocated: Vec<u64>,
    /// Data that other files can reach by name.
    exported_data: Vec<VaddrRange>,
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
        let mut starts = Vec::new();
        unwind_starts(image, &mut starts);
        symbol_starts(image, &mut starts);
        let mut relocated = Vec::new();
        relocation_starts(image, &mut starts, &mut relocated);
        for at in
            [image.entry_point.map(|e| e.0), image.dynamic.init, image.dynamic.fini].into_iter().flatten()
        {
            starts.push(Start {
                at,
                end: at,
                source: Source::EntryPoint,
                name: None,
                resolver: false,
                lsda: None,
            });
        }
        starts.retain(|start| image.is_executable(Vaddr(start.at)));
        relocated.sort_unstable();
        let (primary, secondary) = layered(starts);
        Self { primary, secondary, relocated, exported_data: exported_data(image) }
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
            name: start.name.and_then(|(_, name)| std::str::from_utf8(name).ok()),
            is_bounded: true,
            is_resolver: start.resolver,
            lsda: start.lsda.map(Vaddr),
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

    /// Whether other files can reach the data at `at` by name.
    #[must_use]
    pub fn is_exported_data(&self, at: Vaddr) -> bool {
        self.exported_data.iter().any(|range| range.contains(at))
    }

    /// Whether the 8 bytes at `at` are filled by a relocation when the file is loaded.
    #[must_use]
    pub fn is_relocated(&self, at: Vaddr) -> bool {
        let index = self.relocated.partition_point(|&place| place.wrapping_add(8) <= at.0);
        self.relocated.get(index).is_some_and(|&place| place < at.0.wrapping_add(8))
    }
}

/// Sorts `starts` into functions and entries inside of functions.
fn layered(mut starts: Vec<Start<'_>>) -> (Vec<Start<'_>>, Vec<u64>) {
    starts.sort_by_key(|start| (start.at, start.source));
    let mut primary: Vec<Start<'_>> = Vec::new();
    let mut secondary = Vec::new();
    for start in starts {
        match primary.last_mut() {
            Some(last) if last.at == start.at => {
                last.end = last.end.max(start.end);
                last.resolver |= start.resolver;
                last.lsda = last.lsda.or(start.lsda);
                if let Some(name) = start.name
                    && last.name.is_none_or(|(rank, _)| name.0 < rank)
                {
                    last.name = Some(name);
                }
            }
            Some(last) if start.at < last.end && last.source == Source::UnwindInfo => {
                if secondary.last() != Some(&start.at) {
                    secondary.push(start.at);
                }
            }
            _ => primary.push(start),
        }
    }
    (primary, secondary)
}

fn unwind_starts<'a>(image: &Image<'a>, starts: &mut Vec<Start<'a>>) {
    let Some((at, bytes, bases)) = eh_frame(image) else { return };
    let eh_frame = EhFrame::new(bytes, gimli::LittleEndian);
    let bases = bases.set_eh_frame(at.0);
    let mut entries = eh_frame.entries(&bases);
    let mut known_cie = None;
    while let Ok(Some(entry)) = entries.next() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(|section, bases, offset| match &known_cie {
            Some((known, cie)) if *known == offset => Ok(Clone::clone(cie)),
            _ => {
                let cie = section.cie_from_offset(bases, offset)?;
                known_cie = Some((offset, cie.clone()));
                Ok(cie)
            }
        });
        let Ok(fde) = fde else { continue };
        if fde.len() == 0 {
            continue;
        }
        let lsda = match fde.lsda() {
            Some(gimli::Pointer::Direct(lsda)) => Some(lsda),
            _ => None,
        };
        starts.push(Start {
            at: fde.initial_address(),
            end: fde.end_address(),
            source: Source::UnwindInfo,
            name: None,
            resolver: false,
            lsda,
        });
    }
}

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

fn symbol_starts<'a>(image: &Image<'a>, starts: &mut Vec<Start<'a>>) {
    if let Some((symbols, strings)) = dynamic_symbols(image) {
        push_symbols(symbols, &strings, 0, starts);
    }
    let Ok(header) = elf::FileHeader64::<Le>::parse(image.bytes) else { return };
    let Ok(sections) = header.sections(Le, image.bytes) else { return };
    if let Ok(table) = sections.symbols(Le, image.bytes, elf::SHT_SYMTAB) {
        push_symbols(table.symbols(), &table.strings(), 1 << 30, starts);
    }
}

/// Symbols of exported names come first, in the order of the tables: their names are those of the manual.
fn push_symbols<'a>(
    symbols: &'a [elf::Sym64<Le>],
    strings: &StringTable<'a>,
    rank: u32,
    starts: &mut Vec<Start<'a>>,
) {
    const LOCAL: u32 = 1 << 31;
    for (index, symbol) in symbols.iter().enumerate() {
        let resolver = symbol.st_type() == elf::STT_GNU_IFUNC;
        if !(resolver || symbol.st_type() == elf::STT_FUNC) || symbol.st_shndx.get(Le) == elf::SHN_UNDEF {
            continue;
        }
        let at = symbol.st_value.get(Le);
        let local = if symbol.st_bind() == elf::STB_LOCAL { LOCAL } else { 0 };
        let rank = local.saturating_add(rank).saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
        starts.push(Start {
            at,
            end: at.saturating_add(symbol.st_size.get(Le)),
            source: Source::Symbol,
            name: symbol.name(Le, *strings).ok().filter(|name| !name.is_empty()).map(|name| (rank, name)),
            resolver,
            lsda: None,
        });
    }
}

/// The dynamic symbols, found as the loader finds them: without section headers.
fn dynamic_symbols<'a>(image: &Image<'a>) -> Option<(&'a [elf::Sym64<Le>], StringTable<'a>)> {
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
    let strings = StringTable::new(image.bytes, strings_at, strings_at.checked_add(dynamic.strtab_size)?);
    Some((symbols, strings))
}

fn exported_data(image: &Image<'_>) -> Vec<VaddrRange> {
    let Some((symbols, _)) = dynamic_symbols(image) else { return Vec::new() };
    let is_data = |symbol: &&elf::Sym64<Le>| {
        symbol.st_type() == elf::STT_OBJECT && symbol.st_shndx.get(Le) != elf::SHN_UNDEF
    };
    symbols
        .iter()
        .filter(is_data)
        .filter_map(|symbol| VaddrRange::new(Vaddr(symbol.st_value.get(Le)), symbol.st_size.get(Le)))
        .collect()
}

/// IFUNC resolvers that only relocations name, and the places that relocations fill.
fn relocation_starts<'a>(image: &Image<'a>, starts: &mut Vec<Start<'a>>, relocated: &mut Vec<u64>) {
    for (at, size) in [image.dynamic.rela, image.dynamic.plt_rela].into_iter().flatten() {
        let count = usize::try_from(size).unwrap_or(0) / size_of::<elf::Rela64<Le>>();
        let Some(bytes) = image.bytes_at(Vaddr(at)) else { continue };
        let Ok(entries) = bytes.read_slice_at::<elf::Rela64<Le>>(0, count) else { continue };
        for entry in entries {
            relocated.push(entry.r_offset.get(Le));
            if entry.r_type(Le, false) == elf::R_X86_64_IRELATIVE {
                let at = entry.r_addend.get(Le).cast_unsigned();
                starts.push(Start {
                    at,
                    end: at,
                    source: Source::EntryPoint,
                    name: None,
                    resolver: true,
                    lsda: None,
                });
            }
        }
    }
}

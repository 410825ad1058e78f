//! Relocatable objects (`ET_REL`), linked in memory: every section gets an address, and the relocations are
//! applied, so that calls lead to what they call and the engine can follow the code as in any program.
//! What it plans is then taken back to the object as it is: a byte that a relocation changes cannot be
//! patched, since the linker will overwrite it.

use std::collections::BTreeSet;

use object::LittleEndian as Le;
use object::elf;
use object::read::SectionIndex;
use object::read::elf::{FileHeader as _, Rela as _, SectionHeader as _, SectionTable, SymbolTable};

use crate::addr::{FileOffset, Vaddr};
use crate::elf::Image;
use crate::error::{Error, Result};
use crate::plan::{Edit, Plan, PlannedSite};
use crate::search;
use crate::site::{Step, Verdict};

/// Sections stand at this address plus their offset in the file, so that no small number is an address.
const SECTIONS: u64 = 0x2000_0000;

/// Symbols of other objects stand from here on, a little apart; nothing is loaded there.
const UNDEFINED: u64 = 0x6000_0000;
const UNDEFINED_STRIDE: u64 = 0x40;
const UNDEFINED_SYMBOLS: u64 = 1 << 20;

/// Byte offsets of fields that linking fills.
const SH_ADDR: u64 = 16;
const ST_VALUE: u64 = 8;

type Header = elf::FileHeader64<Le>;
type Section = elf::SectionHeader64<Le>;

/// Whether the object `bytes` may hold an entry's address: in code or data, or put there by a relocation. One
/// whose sections cannot be read may. With the sorted `places` that look like one, where they are known.
pub(crate) fn may_hold_entry(bytes: &[u8], places: Option<&[u64]>) -> bool {
    let sections = || Header::parse(bytes).ok()?.sections(Le, bytes).ok();
    let Some(sections) = sections() else { return true };
    sections.iter().any(|section| {
        let Ok(content) = section.data(Le, bytes) else { return true };
        let holds = |test: fn(&[u8]) -> bool| {
            let Some(places) = places else { return test(content) };
            let start = section.sh_offset.get(Le);
            let from = places.partition_point(|&place| place < start);
            let inside = places[from..].iter().map(|place| (place - start) as usize);
            inside.take_while(|&at| at < content.len()).any(|at| test(search::around(content, at)))
        };
        let flags = section.sh_flags.get(Le).0;
        let is_loaded = flags & elf::SHF_ALLOC.0 != 0;
        match section.sh_type.get(Le) {
            _ if is_loaded && flags & elf::SHF_EXECINSTR.0 != 0 => holds(search::any_entry),
            elf::SHT_SYMTAB | elf::SHT_RELA => holds(search::any_word),
            _ => is_loaded && holds(search::any_word),
        }
    })
}

/// An object, linked by itself.
#[derive(Debug)]
pub(crate) struct Object {
    /// A copy of the file with addresses in its tables and relocated contents.
    linked: Vec<u8>,
    /// File ranges that relocations change, sorted.
    relocated: Vec<(u64, u64)>,
}

impl Object {
    /// Links the object `bytes`.
    ///
    /// # Errors
    /// `Malformed` where section headers or symbols cannot be read.
    pub(crate) fn link(bytes: &[u8]) -> Result<Self> {
        let unreadable = |error: object::Error| Error::malformed(0_u64, error.to_string());
        let header = Header::parse(bytes).map_err(unreadable)?;
        let sections = header.sections(Le, bytes).map_err(unreadable)?;
        let symbols = sections.symbols(Le, bytes, elf::SHT_SYMTAB).map_err(unreadable)?;
        let mut object = Self { linked: bytes.to_vec(), relocated: Vec::new() };
        let addresses = object.lay_out(header.e_shoff.get(Le), &sections);
        let values = object.place_symbols(&sections, &symbols, &addresses);
        for section in sections.iter() {
            let Ok(Some((entries, _))) = section.rela(Le, bytes) else { continue };
            let target = section.info_link(Le);
            if let (Ok(relocated), Some(&address)) = (sections.section(target), addresses.get(target.0)) {
                object.relocate(relocated, address, entries, &values);
            }
        }
        object.relocated.sort_unstable();
        Ok(object)
    }

    /// Gives each section that is loaded its address; returns all addresses, zero for the others.
    fn lay_out(&mut self, table: u64, sections: &SectionTable<'_, Header>) -> Vec<u64> {
        let mut free = SECTIONS + (self.linked.len() as u64).next_multiple_of(0x1000);
        let mut addresses = Vec::new();
        for (index, section) in sections.enumerate() {
            let loaded = section.sh_flags.get(Le).0 & elf::SHF_ALLOC.0 != 0;
            let address = match section.file_range(Le) {
                _ if !loaded => 0,
                Some((offset, _)) => SECTIONS.wrapping_add(offset),
                None => {
                    let start = free.next_multiple_of(16);
                    free = start.saturating_add(section.sh_size.get(Le)).min(UNDEFINED);
                    start
                }
            };
            addresses.push(address);
            let field = table.saturating_add((index.0 * size_of::<Section>()) as u64);
            self.write(field.saturating_add(SH_ADDR), &address.to_le_bytes());
        }
        addresses
    }

    /// The address of each symbol, also put into the symbol table.
    fn place_symbols(
        &mut self,
        sections: &SectionTable<'_, Header>,
        symbols: &SymbolTable<'_, Header>,
        addresses: &[u64],
    ) -> Vec<u64> {
        let table = sections.section(symbols.section()).map_or(0, |section| section.sh_offset.get(Le));
        let mut values = Vec::new();
        for (index, symbol) in symbols.enumerate() {
            let value = symbol.st_value.get(Le);
            let value = match symbols.symbol_section(Le, symbol, index) {
                Ok(Some(SectionIndex(section))) => {
                    value.wrapping_add(addresses.get(section).copied().unwrap_or(0))
                }
                _ if symbol.st_shndx.get(Le) == elf::SHN_ABS => value,
                _ => UNDEFINED + (index.0 as u64 % UNDEFINED_SYMBOLS) * UNDEFINED_STRIDE,
            };
            values.push(value);
            let field = table.saturating_add((index.0 * size_of::<elf::Sym64<Le>>()) as u64);
            self.write(field.saturating_add(ST_VALUE), &value.to_le_bytes());
        }
        values
    }

    /// Applies `entries` to `section`, which stands at `address`.
    fn relocate(&mut self, section: &Section, address: u64, entries: &[elf::Rela64<Le>], values: &[u64]) {
        let in_file = |&(start, size): &(u64, u64)| {
            start.checked_add(size).is_some_and(|end| end <= self.linked.len() as u64)
        };
        let Some((start, size)) = section.file_range(Le).filter(in_file) else { return };
        for entry in entries {
            let at = entry.r_offset.get(Le);
            let place = address.wrapping_add(at);
            let symbol =
                entry.symbol(Le, false).map_or(0, |symbol| values.get(symbol.0).copied().unwrap_or(0));
            let target = symbol.wrapping_add_signed(entry.r_addend.get(Le));
            let (len, value) = match entry.r_type(Le, false) {
                elf::R_X86_64_NONE => continue,
                elf::R_X86_64_64 => (8, Some(target)),
                elf::R_X86_64_PC64 => (8, Some(target.wrapping_sub(place))),
                elf::R_X86_64_32 | elf::R_X86_64_32S => (4, Some(target)),
                elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => (4, Some(target.wrapping_sub(place))),
                // The slot of the global offset table is made by the linker.
                elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                    (4, Some(UNDEFINED.wrapping_sub(place).wrapping_add_signed(entry.r_addend.get(Le))))
                }
                elf::R_X86_64_GOTOFF64
                | elf::R_X86_64_GOTPCREL64
                | elf::R_X86_64_GOT64
                | elf::R_X86_64_PLTOFF64
                | elf::R_X86_64_DTPOFF64
                | elf::R_X86_64_TPOFF64
                | elf::R_X86_64_SIZE64 => (8, None),
                elf::R_X86_64_16 | elf::R_X86_64_PC16 => (2, None),
                elf::R_X86_64_8 | elf::R_X86_64_PC8 => (1, None),
                _ => (4, None),
            };
            if at.checked_add(len).is_none_or(|end| end > size) {
                continue;
            }
            self.relocated.push((start + at, start + at + len));
            if let Some(value) = value {
                self.write(start + at, &value.to_le_bytes()[..len as usize]);
            }
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let field =
            usize::try_from(at).ok().and_then(|at| self.linked.get_mut(at..at.checked_add(bytes.len())?));
        if let Some(field) = field {
            field.copy_from_slice(bytes);
        }
    }

    /// The linked object, as the engine sees it.
    pub(crate) fn image(&self) -> Result<Image<'_>> {
        crate::elf::parse_linked(&self.linked)
    }

    /// `plan`, made for the linked object's `image`, for the object as it is: addresses count from the
    /// section's begin, and a site with an edit that a relocation changes is refused.
    pub(crate) fn unlinked(&self, image: &Image<'_>, plan: &Plan) -> Plan {
        let mut lost: BTreeSet<usize> =
            (0..plan.edits.len()).filter(|&edit| self.is_relocated(&plan.edits[edit])).collect();
        let is_lost =
            |site: &PlannedSite, lost: &BTreeSet<usize>| site.edits.iter().any(|edit| lost.contains(edit));
        // Sites that share an edit stand and fall together.
        loop {
            let before = lost.len();
            let more: Vec<usize> = plan
                .sites
                .iter()
                .filter(|site| is_lost(site, &lost))
                .flat_map(|site| site.edits.iter().copied())
                .collect();
            lost.extend(more);
            if lost.len() == before {
                break;
            }
        }
        let kept: Vec<usize> = (0..plan.edits.len()).filter(|edit| !lost.contains(edit)).collect();
        let in_section = |at: Vaddr| {
            let section = image.section_at(at);
            section.map_or(at, |section| Vaddr(at.0.wrapping_sub(section.range.start.0)))
        };
        let site = |site: &PlannedSite| {
            let vaddr = in_section(site.vaddr);
            let steps =
                site.steps.iter().map(|step| Step { vaddr: in_section(step.vaddr), ..*step }).collect();
            if is_lost(site, &lost) {
                let (verdict, reason) = (Verdict::Refused, RELOCATED.into());
                let (strategy, edits) = (None, Vec::new());
                return PlannedSite { vaddr, verdict, reason, strategy, edits, steps, ..site.clone() };
            }
            let edits = site.edits.iter().filter_map(|edit| kept.binary_search(edit).ok()).collect();
            PlannedSite { vaddr, edits, steps, ..site.clone() }
        };
        let edit = |&edit: &usize| {
            let edit = &plan.edits[edit];
            Edit { vaddr: edit.vaddr.map(in_section), ..edit.clone() }
        };
        let (sites, edits) = (plan.sites.iter().map(site).collect(), kept.iter().map(edit).collect());
        Plan { size: plan.size, sites, edits, not_vdso: plan.not_vdso.clone() }
    }

    fn is_relocated(&self, edit: &Edit) -> bool {
        let FileOffset(start) = edit.offset;
        let end = start + edit.after.len() as u64;
        let first = self.relocated.partition_point(|&(_, behind)| behind <= start);
        self.relocated.get(first).is_some_and(|&(begin, _)| begin < end)
    }
}

const RELOCATED: &str = "a relocation changes bytes of it when the object is linked";

//! Proves from the final bytes that a patch is what it says: the original plus the recorded edits, and
//! no call left. Reads the headers with `goblin`, not with the parser that planned. Never optional.
//!
//! Only goblin's header and program-header parsing is used: its full parse refuses real files whose
//! section table is damaged while every loader runs them.

mod added;
mod replaced;

use std::collections::BTreeSet;
use std::ops::Range;

use goblin::archive;
use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::ET_REL;
use goblin::elf::program_header::{PF_X, PT_LOAD};
use goblin::elf::section_header::{SHT_NOBITS, SHT_NULL};
use goblin::elf::{Elf, ProgramHeader, SectionHeader};

use crate::addr::{FileOffset, Vaddr};
use crate::apply;
use crate::code;
use crate::detour;
use crate::digest::Sha256;
use crate::elf;
use crate::encode::{Kept, NOP};
use crate::examine::examine;
use crate::outcome::Kind;
use crate::plan::{Edit, Plan, PlannedSite, Role, Strategy, Via};
use crate::record::Record;
use crate::site::Verdict;
use crate::vdso::{FREE_BYTE, POINTERS_SIZE, Page, Start};
use crate::vsyscall::Entry;
use added::Added;

/// Something that is not as the record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing; stable.
    pub slug: &'static str,
    /// What was found, in words.
    pub message: String,
    /// Where in the file.
    pub offset: Option<FileOffset>,
}

pub(crate) fn finding(slug: &'static str, message: impl Into<String>, offset: Option<FileOffset>) -> Finding {
    Finding { slug, message: message.into(), offset }
}

/// Checks `patched` against `record`; no findings are the proof. The original is rebuilt from the
/// inverse edits, so that nothing but these edits can differ if its checksum is right.
#[must_use]
pub fn verify(patched: &[u8], record: &Record) -> Vec<Finding> {
    verify_hashed(patched, Sha256::of(patched), record)
}

/// [`verify`] of bytes whose checksum `actual` was just taken.
pub(crate) fn verify_hashed(patched: &[u8], actual: Sha256, record: &Record) -> Vec<Finding> {
    let (mut findings, original) = checked(patched, actual, record);
    findings.extend(original.iter().flat_map(|original| against_plan(original, record)));
    findings
}

/// [`verify_hashed`] of the edits of a plan that was just made for the original: that they are those of whole calls needs no
/// second look.
pub(crate) fn verify_applied(patched: &[u8], actual: Sha256, record: &Record) -> Vec<Finding> {
    checked(patched, actual, record).0
}

/// What is not as the record says, and the original, where the file holds it.
fn checked(patched: &[u8], actual: Sha256, record: &Record) -> (Vec<Finding>, Option<Vec<u8>>) {
    if actual == record.original {
        return (vec![finding("not-patched", "the file is the original, byte for byte", None)], None);
    }
    let size = record.patched_size();
    if patched.len() as u64 != size {
        let message = format!("the file has {} bytes, the record is for {size}", patched.len());
        return (vec![finding("size-changed", message, None)], None);
    }
    let mut findings: Vec<Finding> =
        record.edits.iter().filter(|edit| !holds(patched, edit)).map(missing_edit).collect();
    if actual != record.patched {
        let message = format!("the file's sha256 is {actual}, the record says {}", record.patched);
        findings.push(finding("checksum-patched", message, None));
    }
    let original = apply::replaced(patched, &apply::inverse(&record.edits));
    match &original {
        Some(original) => {
            let checksum = Sha256::of(original);
            if checksum != record.original {
                let message = format!(
                    "without the edits the file's sha256 is {checksum}, not {}: bytes outside of the edits differ",
                    record.original
                );
                findings.push(finding("unplanned-change", message, None));
            }
            let added = Added::by(original, patched, record);
            if added.is_none() && record.edits.iter().any(|edit| edit.before.is_empty()) {
                let message = "what was added is in no segment of the kind that a patch adds";
                findings.push(finding("header-changed", message, Some(FileOffset(record.size))));
            }
            findings.extend(headers(original, patched, record, added.as_ref()));
            findings.extend(instructions(record, added.as_ref()));
        }
        None => findings.push(finding("record-layout", "the record's edits do not fit the file", None)),
    }
    let mut left = sites_left(patched);
    if let Some(original) = original.as_ref().filter(|_| !left.is_empty()) {
        let known = patchable_in(original);
        left.retain(|left| left.offset.is_none_or(|at| known.contains(&at)));
    }
    findings.extend(left);
    (findings, original)
}

/// Edits that a plan for `original` would not make so: one of a constant that is no call's, and a part of those that only
/// together make a call in place. Where another version of the planner went another way, nothing is said.
fn against_plan(original: &[u8], record: &Record) -> Vec<Finding> {
    let has_page = record.edits.iter().any(|edit| edit.role == Role::Page);
    let via = if has_page { Via::Vdso } else { Via::Syscall };
    let Ok((_, Some(plan))) = examine(original, via) else { return Vec::new() };
    let recorded = |offset| {
        let edit = record.edits.binary_search_by_key(&offset, |edit| edit.offset).ok();
        edit.map(|edit| &record.edits[edit])
    };
    let mut findings = Vec::new();
    for edit in record.edits.iter().filter(|edit| edit.role == Role::Constant) {
        let end = FileOffset(edit.offset.0 + edit.before.len() as u64);
        let first = plan.sites.partition_point(|site| site.offset < edit.offset);
        let mut inside = plan.sites[first..].iter().take_while(|site| site.offset < end).peekable();
        if inside.peek().is_some() && inside.all(|site| site.verdict == Verdict::Harmless) {
            let message = "what the edit replaces is no call";
            findings.push(finding("edit-misplaced", message, Some(edit.offset)));
        }
    }
    for site in plan.sites.iter().filter(|site| site.strategy == Some(Strategy::InPlace)) {
        let offsets = site.edits.iter().map(|&edit| plan.edits[edit].offset);
        let (done, missing): (Vec<_>, Vec<_>) = offsets
            .partition(|&offset| recorded(offset).is_some_and(|edit| edit.strategy == Strategy::InPlace));
        let is_other_way = missing.iter().any(|&offset| recorded(offset).is_some());
        if let Some(&missing) = missing.first().filter(|_| !done.is_empty() && !is_other_way) {
            let message = "the call is half patched: the edit that belongs here is missing";
            findings.push(finding("edit-missing", message, Some(missing)));
        }
    }
    findings
}

/// Where sites are in `original` that can be patched. The edits around another can show where instructions begin that
/// nothing showed before: then it is no call that was left.
fn patchable_in(original: &[u8]) -> BTreeSet<FileOffset> {
    let Ok((_, Some(plan))) = examine(original, Via::default()) else { return BTreeSet::new() };
    plan.sites.iter().filter(|site| site.verdict == Verdict::Patch).map(|site| site.offset).collect()
}

fn holds(patched: &[u8], edit: &Edit) -> bool {
    let start = edit.offset.index();
    patched.get(start..).is_some_and(|bytes| bytes.starts_with(&edit.after))
}

fn missing_edit(edit: &Edit) -> Finding {
    finding("edit-missing", "the bytes here are not those that the edit wrote", Some(edit.offset))
}

/// The headers hold, and differ only where an edit says so; every edit is where it may be.
fn headers(original: &[u8], patched: &[u8], record: &Record, added: Option<&Added>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (Some((old_table, before)), Some((table, after))) =
        (program_headers(original), program_headers(patched))
    else {
        return vec![finding("header-unreadable", "goblin cannot read the program headers", None)];
    };
    if elf_header(original, added) != elf_header(patched, added) {
        findings.push(finding("header-changed", "the ELF header is not the original's", Some(FileOffset(0))));
    }
    if let Some(added) = added
        && !added::are_sections_with_added(original, patched, added, record)
    {
        let message = "the section headers are not those of the original and of what was added";
        findings.push(finding("header-changed", message, None));
    }
    let kept = match added {
        Some(added) => added::without_added((old_table, &before), (table, &after), patched, added, record),
        None => Some(after.clone()),
    };
    match kept {
        Some(kept) if kept.len() == before.len() => {
            for (old, new) in before.iter().zip(&kept) {
                if old != new && !is_growth_in_page(old, new) {
                    let message =
                        format!("the program header of {:#x} changed in more than its size", old.p_vaddr);
                    findings.push(finding("header-changed", message, Some(FileOffset(table))));
                }
            }
        }
        _ => {
            let message = "the program headers are not those of the original and of what was added";
            findings.push(finding("header-changed", message, Some(FileOffset(table))));
        }
    }
    for (index, new) in after.iter().enumerate() {
        let at = Some(FileOffset(table + (index * PROGRAM_HEADER_SIZE) as u64));
        let is_read = new.p_type == PT_LOAD && new.p_memsz > 0 && new.p_filesz > 0;
        if is_read && new.p_offset.checked_add(new.p_filesz).is_none_or(|end| end > patched.len() as u64) {
            let message = "a segment reaches beyond the end of the file";
            findings.push(finding("header-segment", message, at));
        }
    }
    let Some(places) = places(patched, &after) else {
        return vec![finding("header-unreadable", "goblin cannot read the section headers", None)];
    };
    let old_end = old_table.saturating_add((before.len() * PROGRAM_HEADER_SIZE) as u64);
    let end = old_table.saturating_add((after.len() * PROGRAM_HEADER_SIZE) as u64);
    let behind = original.get(old_end as usize..end as usize).unwrap_or_default();
    let unused = behind.iter().take_while(|&&byte| byte == 0).count() as u64;
    let tables = [0..ELF_HEADER_SIZE as u64, old_table..old_end.saturating_add(unused)];
    for edit in &record.edits {
        if !is_where_it_may_be(&places, &tables, edit) {
            let message = "the edit is not in a segment of the kind that it needs";
            findings.push(finding("edit-misplaced", message, Some(edit.offset)));
        }
    }
    findings
}

/// The ELF header of `bytes`; without what `added` changes there.
fn elf_header(bytes: &[u8], added: Option<&Added>) -> Option<Vec<u8>> {
    const TABLES: [Range<usize>; 3] = [32..48, 56..58, 60..62]; // e_phoff and e_shoff, e_phnum, e_shnum
    const ENTRY: Range<usize> = added::E_ENTRY as usize..32;
    let mut header = bytes.get(..ELF_HEADER_SIZE)?.to_vec();
    let changed = added.map(|added| {
        let is_entered = added.page.as_ref().is_some_and(|page| page.start == Start::Program);
        TABLES.into_iter().chain(is_entered.then_some(ENTRY))
    });
    for field in changed.into_iter().flatten() {
        header[field].fill(0);
    }
    Some(header)
}

const ELF_HEADER_SIZE: usize = 64;

const PROGRAM_HEADER_SIZE: usize = 56;

/// The offset of the program header table, and its entries; objects and archives have none.
fn program_headers(bytes: &[u8]) -> Option<(u64, Vec<ProgramHeader>)> {
    if bytes.starts_with(archive::MAGIC) {
        return Some((0, Vec::new()));
    }
    let header = Elf::parse_header(bytes).ok()?;
    if header.e_type == ET_REL {
        return Some((0, Vec::new()));
    }
    let context = Ctx::new(Container::Big, Endian::Little);
    let offset = usize::try_from(header.e_phoff).ok()?;
    let entries = ProgramHeader::parse(bytes, offset, usize::from(header.e_phnum), context).ok()?;
    Some((header.e_phoff, entries))
}

/// A stretch of the file that code or data of the program stands in.
struct Place {
    file: std::ops::Range<u64>,
    /// Address of its first byte.
    vaddr: u64,
    executable: bool,
}

/// What is loaded of a program, and what is linked of an object or of an archive's objects.
fn places(bytes: &[u8], program_headers: &[ProgramHeader]) -> Option<Vec<Place>> {
    if bytes.starts_with(archive::MAGIC) {
        return places_in_archive(bytes);
    }
    if Elf::parse_header(bytes).ok()?.e_type == ET_REL {
        return places_in_object(bytes);
    }
    let loaded = program_headers.iter().filter(|p| p.p_type == PT_LOAD);
    let place = |p: &ProgramHeader| Place {
        file: p.p_offset..p.p_offset.saturating_add(p.p_filesz),
        vaddr: p.p_vaddr,
        executable: p.p_flags & PF_X != 0,
    };
    Some(loaded.map(place).collect())
}

fn places_in_object(bytes: &[u8]) -> Option<Vec<Place>> {
    let header = Elf::parse_header(bytes).ok()?;
    let (offset, count) = (usize::try_from(header.e_shoff).ok()?, usize::from(header.e_shnum));
    let context = Ctx::new(Container::Big, Endian::Little);
    let sections = SectionHeader::parse(bytes, offset, count, context).ok()?;
    let has_bytes = |section: &SectionHeader| ![SHT_NULL, SHT_NOBITS].contains(&section.sh_type);
    let in_file = sections.iter().filter(|section| section.is_alloc() && has_bytes(section));
    let place = |section: &SectionHeader| Place {
        file: section.sh_offset..section.sh_offset.saturating_add(section.sh_size),
        vaddr: 0,
        executable: section.is_executable(),
    };
    Some(in_file.map(place).collect())
}

fn places_in_archive(bytes: &[u8]) -> Option<Vec<Place>> {
    let mut places = Vec::new();
    let mut at = archive::MAGIC.len();
    while at + 1 < bytes.len() {
        at += at & 1;
        let member = archive::Member::parse(bytes, &mut at).ok()?;
        at = at.checked_add(member.size())?;
        let data = bytes.get(usize::try_from(member.offset).ok()?..at)?;
        let moved = |Place { file, vaddr, executable }: Place| Place {
            file: file.start.saturating_add(member.offset)..file.end.saturating_add(member.offset),
            vaddr,
            executable,
        };
        places.extend(places_in_object(data).unwrap_or_default().into_iter().map(moved));
    }
    Some(places)
}

/// Whether `new` is the executable segment `old`, larger but with the same last page.
fn is_growth_in_page(old: &ProgramHeader, new: &ProgramHeader) -> bool {
    let last_page = |p: &ProgramHeader| p.p_vaddr.wrapping_add(p.p_filesz).wrapping_sub(1) / elf::PAGE_SIZE;
    let resized = ProgramHeader { p_filesz: new.p_filesz, p_memsz: new.p_memsz, ..old.clone() };
    resized == *new
        && new.p_type == PT_LOAD
        && new.p_flags & PF_X != 0
        && new.p_filesz == new.p_memsz
        && old.p_filesz == old.p_memsz
        && new.p_filesz > old.p_filesz
        && last_page(old) == last_page(new)
}

fn holds_range(table: &Range<u64>, edit: &Edit) -> bool {
    let end = edit.offset.0.saturating_add(edit.before.len() as u64);
    table.start <= edit.offset.0 && end <= table.end
}

/// Whether `edit` is in one of the `places` as its role wants it, or in the original's `headers` and the zeros behind them.
fn is_where_it_may_be(places: &[Place], headers: &[Range<u64>], edit: &Edit) -> bool {
    let is_added = edit.before.is_empty();
    let Some(vaddr) = edit.vaddr else {
        return match edit.role {
            Role::Fill => is_added,
            Role::Header => is_added || headers.iter().any(|table| holds_range(table, edit)),
            Role::Init => edit.offset.0 == added::E_ENTRY,
            _ => false,
        };
    };
    let end = edit.offset.0 + edit.after.len() as u64;
    places.iter().any(|place| {
        place.file.contains(&edit.offset.0)
            && end <= place.file.end
            && place.vaddr.wrapping_add(edit.offset.0 - place.file.start) == vaddr.0
            && (place.executable || matches!(edit.role, Role::Pointer | Role::Pointers | Role::Init))
    })
}

/// Every edit decodes to what its role says.
fn instructions(record: &Record, added: Option<&Added>) -> Vec<Finding> {
    let describe = |edit: &Edit| {
        let assembly = in_short(&edit.after, edit);
        finding("instruction-mismatch", format!("the edit decodes to `{assembly}`"), Some(edit.offset))
    };
    let of_another = |edit: &Edit| {
        let assembly = in_short(&edit.before, edit);
        let message = format!("the edit replaces `{assembly}`, which no patch does");
        finding("edit-misplaced", message, Some(edit.offset))
    };
    let mismatched = record.edits.iter().filter(|edit| !is_as_its_role(edit, &record.edits, added));
    let elsewhere = record.edits.iter().filter(|edit| !replaced::may_be_replaced(edit, &record.edits));
    mismatched.map(describe).chain(elsewhere.map(of_another)).collect()
}

/// The first instructions among the `bytes` of `edit`.
fn in_short(bytes: &[u8], edit: &Edit) -> String {
    const MOST: usize = 8;
    let assembly = code::assembly(&bytes[..bytes.len().min(MOST * 16)], edit.vaddr.unwrap_or(Vaddr(0)));
    let more = if assembly.len() > MOST { "; ..." } else { "" };
    format!("{}{more}", assembly[..assembly.len().min(MOST)].join("; "))
}

/// Whether `edit`, one of `edits`, does what its role says, instruction by instruction, for its entry.
fn is_as_its_role(edit: &Edit, edits: &[Edit], added: Option<&Added>) -> bool {
    let page = added.and_then(|added| added.page.as_ref());
    let is_added = edit.before.is_empty();
    let is_one_byte = || edit.after.iter().all(|&byte| byte == 0 || byte == FREE_BYTE);
    match edit.role {
        // The headers are looked at as what they say.
        Role::Header => return edit.vaddr.is_none(),
        Role::Init => return page.is_some(),
        Role::Fill => return added.is_some() && is_added && is_one_byte(),
        Role::Pointers => return page.is_some() && is_added && edit.after == [0; POINTERS_SIZE as usize],
        Role::Page => return is_added && page.and_then(Page::code).is_some_and(|code| code == edit.after),
        Role::Constant | Role::Call | Role::Pointer | Role::Stub | Role::Detour | Role::Guard => {}
    }
    let Some(at) = edit.vaddr else { return false };
    let mut assembly = code::assembly(&edit.after, at);
    while assembly.len() > 1 && assembly.last().is_some_and(|line| line == "nop") {
        assembly.pop();
    }
    let lines: Vec<&str> = assembly.iter().map(String::as_str).collect();
    let number = format!("${:#x}", edit.entry.syscall_number());
    let is_in_page = |to: Vaddr, entry| {
        page.is_some_and(|page| {
            [Kept::AsFunction, Kept::Registers].into_iter().any(|kept| page.entry(entry, kept) == to)
        })
    };
    let is_stub_of = |to: Vaddr, entry| {
        let is_it =
            |other: &Edit| other.role == Role::Stub && other.vaddr == Some(to) && other.entry == entry;
        edits.iter().any(is_it) || is_in_page(to, entry)
    };
    let leads_to_detour = |to: Vaddr| {
        let is_it = |other: &&Edit| other.role == Role::Detour && other.vaddr == Some(to);
        let mut detours = edits.iter().filter(is_it).filter(|other| other.entry == edit.entry);
        detours.any(|detour| is_detour_of(edit, detour, to, is_stub_of))
    };
    match (edit.role, edit.strategy) {
        (Role::Header | Role::Page | Role::Pointers | Role::Init | Role::Fill, _) => false,
        (Role::Pointer, _) => {
            let word = edit.after.as_slice().try_into().map(u64::from_le_bytes);
            word.is_ok_and(|word| is_stub_of(Vaddr(word), edit.entry))
        }
        (Role::Stub, _) => is_stub(&lines, &format!("mov {number},%eax")),
        (Role::Detour, _) => {
            let leads_here =
                |source: &&Edit| code::refers_to(&source.after, source.vaddr.unwrap_or(at)) == Some(at);
            let mut sources = edits.iter().filter(|source| source.role == Role::Constant).filter(leads_here);
            sources.any(|source| is_detour_of(source, edit, at, is_stub_of))
        }
        (Role::Guard, _) => {
            let sources = edits.iter().filter(|source| source.role == Role::Call);
            let guarded = |source: &Edit| {
                let branch = only_branch(source).filter(|&(_, to)| to == at)?;
                Some(is_guard_of(source, &branch.0, &edit.after, at, is_stub_of))
            };
            sources.filter_map(guarded).next().unwrap_or_default()
        }
        (Role::Call, Strategy::InPlace) => matches!(lines[..], ["syscall"] | ["syscall", "ret"]),
        (Role::Call, Strategy::Stub | Strategy::Vdso) => {
            let to = only_branch(edit).map(|(_, to)| to);
            to.is_some() && edits.iter().any(|other| other.role == Role::Guard && other.vaddr == to)
        }
        (Role::Constant, Strategy::InPlace) => match lines.split_first() {
            Some((constant, rest)) => {
                let operand = constant.split_once(' ').map_or("", |(_, operands)| operands);
                let holds_number = operand.split(',').next() == Some(&number);
                let is_move = constant.starts_with("mov") || constant.starts_with("push");
                is_move && holds_number && matches!(rest, [] | ["syscall", "ret"])
            }
            None => false,
        },
        (Role::Constant, Strategy::Stub | Strategy::Vdso) => {
            let to = code::refers_to(&edit.after, at);
            let is_jump = lines[0].starts_with("jmp");
            let is_branch = is_jump || lines[0].starts_with("call");
            let may_lead_to_stub = !is_jump || leaves_its_function(edit, at);
            let leads =
                |to| (is_branch && leads_to_detour(to)) || (may_lead_to_stub && is_stub_of(to, edit.entry));
            lines.len() == 1 && to.is_some_and(leads)
        }
    }
}

/// Whether `detour`, which stands at `at`, does what the instruction that `source` replaced did, with stubs in the stead of
/// entries: it is made anew from that instruction and from the stubs that it names.
fn is_detour_of(source: &Edit, detour: &Edit, at: Vaddr, is_stub_of: impl Fn(Vaddr, Entry) -> bool) -> bool {
    let Some(instruction) = source.vaddr.and_then(|start| code::first(&source.before, start)) else {
        return false;
    };
    let named = code::replacements(&detour.after, at);
    let are_stubs = named.iter().all(|&(stub, entry)| is_stub_of(stub, entry.unwrap_or(detour.entry)));
    let code = match named[..] {
        [(stub, None)] => detour::with_address(&instruction, at, stub),
        [(stub, Some(entry))] if entry == detour.entry => detour::with_guard(&instruction, entry, at, stub),
        [..] => {
            let stubs: Option<Vec<_>> = named.iter().map(|&(stub, entry)| Some((entry?, stub))).collect();
            let of_all = stubs.filter(|stubs| stubs.iter().map(|(entry, _)| *entry).eq(Entry::ALL));
            of_all.and_then(|stubs| detour::with_index(&instruction, at, &stubs))
        }
    };
    let rest = code.as_deref().and_then(|code| detour.after.strip_prefix(code));
    are_stubs && rest.is_some_and(|filling| filling.iter().all(|&byte| byte == NOP))
}

/// Whether nothing of the function ran behind the call that `edit` replaces: the bytes before end in a jump or a return,
/// or are the begin of a function that only makes the call.
fn leaves_its_function(edit: &Edit, at: Vaddr) -> bool {
    let before = code::assembly(&edit.before, at);
    let constant = format!(" ${:#x},%rax", edit.entry.address());
    match before.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [taken, moved] if moved.starts_with("mov") && moved.ends_with(&constant) => {
            taken.starts_with("sub $") && taken.ends_with(",%rsp")
        }
        [.., last] => last.starts_with("jmp") || last == "ret",
        [] => false,
    }
}

/// The branch that `edit` puts among `nop`s, and where it leads. A call stands last, so that it returns to where the one
/// in its place did.
fn only_branch(edit: &Edit) -> Option<(String, Vaddr)> {
    let first = edit.after.iter().position(|&byte| byte != NOP)?;
    let at = edit.vaddr?.plus(first as u64);
    let assembly = code::assembly(&edit.after[first..], at);
    let (branch, filling) = assembly.split_first()?;
    let is_branch = (branch.starts_with("call ") && filling.is_empty()) || branch.starts_with("jmp ");
    let to = code::refers_to(&edit.after[first..], at)?;
    (is_branch && filling.iter().all(|line| line == "nop")).then(|| (branch.clone(), to))
}

/// Whether `guard`, which stands at `at` and is reached by `branch`, does what the bytes before `source` did, with stubs in
/// the stead of entries.
fn is_guard_of(
    source: &Edit,
    branch: &str,
    guard: &[u8],
    at: Vaddr,
    is_stub_of: impl Fn(Vaddr, Entry) -> bool,
) -> bool {
    let before = code::assembly(&source.before, source.vaddr.unwrap_or(at));
    let Some((call, moved)) = before.split_last() else { return false };
    let Some((mnemonic, target)) = call.split_once(" *") else { return false };
    let is_call = mnemonic.starts_with("call");
    let in_memory = !target.starts_with('%');
    let register = if in_memory { "%r11" } else { target };
    let mut expected = moved.to_vec();
    expected.extend(in_memory.then(|| format!("mov {target},%r11")));
    let stubs = code::instructions(guard, at).filter_map(|(at, bytes, line)| {
        line.starts_with("je ").then(|| code::refers_to(bytes, at)).flatten()
    });
    let stubs: Vec<Vaddr> = stubs.collect();
    if stubs.len() != Entry::ALL.len()
        || is_call != branch.starts_with("call ")
        || !(is_call || mnemonic.starts_with("jmp"))
    {
        return false;
    }
    for (entry, &stub) in Entry::ALL.into_iter().zip(&stubs) {
        expected.push(format!("cmp ${:#x},{register}", entry.address()));
        expected.push(format!("je {:#x}", stub.0));
        if !is_stub_of(stub, entry) {
            return false;
        }
    }
    expected.push(format!("jmp *{register}"));
    let mut assembly = code::assembly(guard, at);
    while assembly.last().is_some_and(|line| line == "nop") {
        assembly.pop();
    }
    assembly == expected
}

/// Whether `lines` are a stub: the system call, and nothing but what a function's caller may see of it.
fn is_stub(lines: &[&str], number: &str) -> bool {
    let body = lines.strip_prefix(&["endbr64"]).unwrap_or(lines);
    let skips = body.strip_prefix(&["lea -0x80(%rsp),%rsp"]);
    let unskipped = skips.and_then(|body| body.strip_suffix(&["lea 0x80(%rsp),%rsp", "ret"]));
    let preserving = ["push %rcx", "push %r11", number, "syscall", "pop %r11", "pop %rcx"];
    body == [number, "syscall", "ret"]
        || body.strip_suffix(&["ret"]).is_some_and(|body| body == preserving)
        || unskipped.is_some_and(|body| body == preserving)
}

/// Every call that could be patched.
pub(crate) fn sites_left_in(plan: &Plan) -> Vec<Finding> {
    let left = plan.sites.iter().filter(|site| site.verdict == Verdict::Patch);
    let finding_of = |site: &PlannedSite| {
        finding("site-left", format!("a call of {} is left", site.entry), Some(site.offset))
    };
    left.map(finding_of).collect()
}

/// Nothing that could be patched is left, by the planner's own eyes.
fn sites_left(patched: &[u8]) -> Vec<Finding> {
    match examine(patched, Via::default()) {
        Ok((_, Some(plan))) => sites_left_in(&plan),
        Ok((Kind::Foreign(what) | Kind::Unscannable(what) | Kind::Container(what), None)) => {
            vec![finding("header-unreadable", format!("the file is {what}"), None)]
        }
        Ok((_, None)) => Vec::new(),
        Err(error) => vec![finding("header-unreadable", error.to_string(), error.offset())],
    }
}

//! The plan: what to change and why, and what is left alone and why. Data, no bytes are changed here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::addr::{FileOffset, Vaddr};
use crate::digest::Sha256;
use crate::elf::{FileType, Image};
use crate::encode;
use crate::flow::{RAX, Through};
use crate::scan::{Constant, Evidence, Finding, Scan, Site, Span};
use crate::site::{Form, Reach, Verdict};
use crate::stub::Allocator;
use crate::vsyscall::Entry;

/// How a site is rewritten. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The constant becomes the system call's number and the calls become `syscall`.
    InPlace,
    /// The constant becomes the address of a stub, in unused bytes of the file, that makes the system call.
    Stub,
}

/// What one edit does. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The instruction that holds the entry's address.
    Constant,
    /// A call or jump through that address.
    Call,
    /// An 8-byte pointer in data.
    Pointer,
    /// The code of a stub, in bytes that were unused.
    Stub,
    /// A field of the program header table.
    Header,
}

/// One contiguous change: whole instructions (or a pointer, a stub, a header field), same length before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where in the file.
    pub offset: FileOffset,
    /// Its address; nothing for bytes that are not code or data of the program (headers).
    pub vaddr: Option<Vaddr>,
    /// The bytes there now.
    pub before: Vec<u8>,
    /// The bytes to write; as many.
    pub after: Vec<u8>,
    /// What the change does.
    pub role: Role,
    /// Entry of the (first) site that needs this edit.
    pub entry: Entry,
    /// Form of that site.
    pub form: Form,
    /// Strategy of that site.
    pub strategy: Strategy,
    /// Function that the site is in, where known.
    pub function: Option<String>,
}

/// A site with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSite {
    /// File offset of the first byte of the instruction, or of the data word, that holds the address.
    pub offset: FileOffset,
    /// Its address.
    pub vaddr: Vaddr,
    /// Which entry.
    pub entry: Entry,
    /// How it is held and used.
    pub form: Form,
    /// Function that it is in, where known.
    pub function: Option<String>,
    /// When the call is made; nothing where no call is known.
    pub reach: Option<Reach>,
    /// What is done about it.
    pub verdict: Verdict,
    /// Why, in one sentence without a full stop.
    pub reason: String,
    /// How it is rewritten; only with [`Verdict::Patch`].
    pub strategy: Option<Strategy>,
    /// Indices into [`Plan::edits`], ascending; an edit may serve several sites.
    pub edits: Vec<usize>,
}

/// What to do about one ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Checksum of the bytes that the plan is for.
    pub original: Sha256,
    /// Size of those bytes.
    pub size: u64,
    /// Every site, sorted by offset.
    pub sites: Vec<PlannedSite>,
    /// The changes, sorted by offset and disjoint.
    pub edits: Vec<Edit>,
}

impl Plan {
    /// Whether there is something to write.
    #[must_use]
    pub fn has_edits(&self) -> bool {
        !self.edits.is_empty()
    }

    /// Number of sites with `verdict`.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.sites.iter().filter(|site| site.verdict == verdict).count()
    }
}

/// Decides what to do about each site of `scan`.
pub(crate) fn plan(image: &Image<'_>, scan: &Scan<'_>) -> Plan {
    let in_place = sites_in_place(&scan.sites);
    let mut planner = Planner {
        image,
        in_place,
        allocator: scan.functions.as_ref().map(|functions| Allocator::new(image, functions)),
        stubs: BTreeMap::new(),
        edits: BTreeMap::new(),
    };
    let outcomes: Vec<Outcome> = scan.sites.iter().map(|site| planner.decide(site)).collect();
    planner.grow_segment(scan, &outcomes);
    let offsets: Vec<FileOffset> = planner.edits.keys().copied().collect();
    let sites =
        scan.sites.iter().zip(outcomes).map(|(site, outcome)| planned(site, outcome, &offsets)).collect();
    Plan {
        original: Sha256::of(image.bytes),
        size: image.bytes.len() as u64,
        sites,
        edits: planner.edits.into_values().collect(),
    }
}

/// What was decided about a site; edits by their offset.
struct Outcome {
    verdict: Verdict,
    reason: String,
    strategy: Option<Strategy>,
    edits: Vec<FileOffset>,
}

fn planned(site: &Site, outcome: Outcome, offsets: &[FileOffset]) -> PlannedSite {
    let mut edits: Vec<usize> =
        outcome.edits.iter().filter_map(|offset| offsets.binary_search(offset).ok()).collect();
    edits.sort_unstable();
    PlannedSite {
        offset: site.span.offset,
        vaddr: site.span.vaddr,
        entry: site.entry,
        form: site.form,
        function: site.function.clone(),
        reach: site.reach,
        verdict: outcome.verdict,
        reason: outcome.reason,
        strategy: outcome.strategy,
        edits,
    }
}

/// Why the constant of `evidence` cannot become a system call number in place, if it cannot.
fn against_in_place(evidence: &Evidence) -> Option<&'static str> {
    let register = match evidence.constant {
        Constant::Register(register) => Some(register),
        Constant::Immediate { .. } => None,
        Constant::Computed(_) | Constant::Indexed => return Some("the address is computed"),
        Constant::Word => return Some("the address is a pointer in data"),
        Constant::Branch => return Some("the call has no room for a number"),
    };
    if !evidence.only_called {
        return Some("the address is not only called, or calls may get another one");
    }
    if evidence.expects_preserved {
        return Some("code behind the call reads a register that a system call changes");
    }
    let through = |wanted| evidence.calls.iter().all(|call| call.through == Through::Register(wanted));
    let number_reaches_rax = through(RAX) || (evidence.adjacent && register.is_some_and(through));
    if !number_reaches_rax {
        return Some("the number would not be in rax at the call");
    }
    let room_to_return = evidence.adjacent && register.is_some();
    if evidence.calls.iter().any(|call| call.jump && call.span.len < 3 && !room_to_return) {
        return Some("there is no room to return from a jump");
    }
    None
}

/// The sites that can be rewritten in place: all that share a call with one of them must be so too.
fn sites_in_place(sites: &[Site]) -> BTreeSet<Vaddr> {
    let calls = |site: &Site| match &site.finding {
        Finding::Call(evidence) if against_in_place(evidence).is_none() => Some(evidence.calls.clone()),
        _ => None,
    };
    let mut candidates: BTreeMap<Vaddr, Vec<Vaddr>> = sites
        .iter()
        .filter_map(|site| {
            Some((site.span.vaddr, calls(site)?.into_iter().flat_map(|call| call.sites).collect()))
        })
        .collect();
    loop {
        let before = candidates.len();
        let alive: BTreeSet<Vaddr> = candidates.keys().copied().collect();
        candidates.retain(|_, partners| partners.iter().all(|partner| alive.contains(partner)));
        if candidates.len() == before {
            return alive;
        }
    }
}

struct Planner<'a> {
    image: &'a Image<'a>,
    in_place: BTreeSet<Vaddr>,
    /// Nothing where nothing was decoded, so that no room was looked for.
    allocator: Option<Allocator<'a>>,
    /// Stubs by what they do: entry, and whether they keep `rcx` and `r11`.
    stubs: BTreeMap<(Entry, bool), Vaddr>,
    edits: BTreeMap<FileOffset, Edit>,
}

impl Planner<'_> {
    fn decide(&mut self, site: &Site) -> Outcome {
        let left =
            |verdict, reason: &str| Outcome { verdict, reason: reason.into(), strategy: None, edits: vec![] };
        let evidence = match &site.finding {
            Finding::Unproven(reason) => return left(Verdict::Unproven, reason),
            Finding::Harmless(reason) => return left(Verdict::Harmless, reason),
            Finding::Call(evidence) => evidence,
        };
        if self.in_place.contains(&site.span.vaddr)
            && let Some(edits) = self.edits_in_place(site, evidence)
        {
            let reason = "the address is only called".into();
            return self.patch(site, Strategy::InPlace, reason, edits);
        }
        if let Some(conflict) = evidence.conflict {
            return left(Verdict::Refused, conflict);
        }
        let against = against_in_place(evidence).unwrap_or("another site that shares its call is not");
        match self.edits_for_stub(site, evidence) {
            Ok(edits) => self.patch(site, Strategy::Stub, format!("through a stub: {against}"), edits),
            Err(refusal) => left(Verdict::Refused, refusal),
        }
    }

    fn patch(&mut self, site: &Site, strategy: Strategy, reason: String, edits: Vec<NewEdit>) -> Outcome {
        let mut offsets = Vec::new();
        for edit in edits {
            offsets.push(edit.offset);
            self.add(site, strategy, edit);
        }
        Outcome { verdict: Verdict::Patch, reason, strategy: Some(strategy), edits: offsets }
    }

    fn add(&mut self, site: &Site, strategy: Strategy, edit: NewEdit) {
        let NewEdit { offset, vaddr, before, after, role } = edit;
        let (entry, form, function) = (site.entry, site.form, site.function.clone());
        self.edits.entry(offset).or_insert(Edit {
            offset,
            vaddr,
            before,
            after,
            role,
            entry,
            form,
            strategy,
            function,
        });
    }

    fn bytes(&self, offset: FileOffset, len: usize) -> Option<Vec<u8>> {
        Some(self.image.bytes.get(offset.index()..)?.get(..len)?.to_vec())
    }

    fn edit(&self, span: Span, role: Role, after: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Option<NewEdit> {
        let before = self.bytes(span.offset, span.len)?;
        let after = after(&before)?;
        Some(NewEdit { offset: span.offset, vaddr: Some(span.vaddr), before, after, role })
    }

    fn edits_in_place(&self, site: &Site, evidence: &Evidence) -> Option<Vec<NewEdit>> {
        let number = site.entry.syscall_number();
        if let [call] = evidence.calls.as_slice()
            && call.jump
            && call.span.len < 3
        {
            let whole = Span { len: site.span.len + call.span.len, ..site.span };
            return Some(vec![self.edit(whole, Role::Constant, |before| encode::tail_call(before, number))?]);
        }
        let constant = self.edit(site.span, Role::Constant, |before| match evidence.constant {
            Constant::Register(RAX) => {
                encode::immediate(before, before.len() - immediate_size(before), number)
            }
            Constant::Register(_)
                if evidence.calls.iter().all(|call| call.through == Through::Register(RAX)) =>
            {
                encode::immediate(before, before.len() - immediate_size(before), number)
            }
            Constant::Register(_) => encode::number_to_rax(before, number),
            Constant::Immediate { at } => encode::immediate(before, at, number),
            _ => None,
        })?;
        let mut edits = vec![constant];
        for call in &evidence.calls {
            let replacement = if call.jump { encode::syscall_and_return } else { encode::syscall };
            edits.push(self.edit(call.span, Role::Call, replacement)?);
        }
        Some(edits)
    }

    fn edits_for_stub(&mut self, site: &Site, evidence: &Evidence) -> Result<Vec<NewEdit>, &'static str> {
        let is_exec = self.image.identity.file_type == FileType::Exec;
        let pushed =
            evidence.adjacent.then(|| evidence.calls.iter().find(|call| call.through == Through::Return));
        if let Some(Some(call)) = pushed {
            let whole = Span { len: site.span.len + call.span.len, ..site.span };
            let (target, stub) = self.stub(site, evidence.expects_preserved)?;
            let jump = self.edit(whole, Role::Constant, |before| encode::jump(before, whole.vaddr, target));
            return Ok([Some(jump.ok_or("no stub is near enough")?), stub].into_iter().flatten().collect());
        }
        match evidence.constant {
            Constant::Computed(_) | Constant::Indexed => {
                return Err("the address is computed: not handled yet");
            }
            Constant::Word if !is_exec => {
                return Err("the word has no relocation that could make it point to a stub");
            }
            Constant::Immediate { .. } if !is_exec => {
                return Err("the instruction has no room for an address relative to itself");
            }
            _ => {}
        }
        let (target, stub) = self.stub(site, evidence.expects_preserved)?;
        let span = site.span;
        let absolute = i32::try_from(target.0).ok().map(i32::cast_unsigned);
        let role = if evidence.constant == Constant::Word { Role::Pointer } else { Role::Constant };
        let constant = self.edit(span, role, |before| match evidence.constant {
            Constant::Register(register) => encode::load_address(before, span.vaddr, register, target),
            Constant::Immediate { at } => encode::immediate(before, at, absolute?),
            Constant::Word => Some(target.0.to_le_bytes().to_vec()),
            Constant::Branch => encode::branch(before, span.vaddr, target),
            Constant::Computed(_) | Constant::Indexed => None,
        });
        let constant = constant.ok_or("no stub is near enough")?;
        Ok([Some(constant), stub].into_iter().flatten().collect())
    }

    /// The stub for `site`, and the edit that makes it; the edit is listed for each site that uses it.
    fn stub(&mut self, site: &Site, preserving: bool) -> Result<(Vaddr, Option<NewEdit>), &'static str> {
        let key = (site.entry, preserving);
        if let Some(&vaddr) = self.stubs.get(&key) {
            let existing = self.edits.values().find(|edit| edit.vaddr == Some(vaddr)).cloned();
            return Ok((vaddr, existing.map(NewEdit::from)));
        }
        const NO_ROOM: &str = "no unused bytes for a stub in an executable segment";
        let mut code = encode::stub(site.entry.syscall_number(), preserving, self.image.ibt);
        let room =
            self.allocator.as_mut().and_then(|allocator| allocator.allocate(code.len(), site.span.vaddr));
        let room = room.ok_or(NO_ROOM)?;
        code.resize(room.len, encode::NOP);
        let before = self.bytes(room.offset, code.len()).ok_or(NO_ROOM)?;
        self.stubs.insert(key, room.vaddr);
        let edit =
            NewEdit { offset: room.offset, vaddr: Some(room.vaddr), before, after: code, role: Role::Stub };
        Ok((room.vaddr, Some(edit)))
    }

    /// Makes the segment that stubs were put behind as large as that takes.
    fn grow_segment(&mut self, scan: &Scan<'_>, outcomes: &[Outcome]) {
        let Some(growth) = self.allocator.as_ref().and_then(Allocator::growth) else { return };
        let user =
            scan.sites.iter().zip(outcomes).find(|(_, outcome)| outcome.strategy == Some(Strategy::Stub));
        let (Some((site, _)), Some(before)) = (user, self.bytes(growth.field, 16)) else { return };
        let after = [growth.size.to_le_bytes(), growth.size.to_le_bytes()].concat();
        let edit = NewEdit { offset: growth.field, vaddr: None, before, after, role: Role::Header };
        self.add(site, Strategy::Stub, edit);
    }
}

/// An edit whose site is not noted yet.
struct NewEdit {
    offset: FileOffset,
    vaddr: Option<Vaddr>,
    before: Vec<u8>,
    after: Vec<u8>,
    role: Role,
}

impl From<Edit> for NewEdit {
    fn from(edit: Edit) -> Self {
        let Edit { offset, vaddr, before, after, role, .. } = edit;
        Self { offset, vaddr, before, after, role }
    }
}

/// Bytes of the immediate at the end of a `mov` to a register: 8 in the ten-byte form, else 4.
fn immediate_size(instruction: &[u8]) -> usize {
    if instruction.len() == 10 { 8 } else { 4 }
}

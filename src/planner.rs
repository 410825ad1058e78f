//! scan -> [`Plan`]: decides what to do about each site. A ladder of tactics in fixed order; each gives
//! edits or nothing, and a site that no rung fits is refused with the reason. No bytes are changed here.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::FlowControl;

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::apply;
use crate::code;
use crate::detour;
use crate::elf::{FileType, Image};
use crate::encode::{self, Kept};
use crate::extension::{self, Made};
use crate::flow::Through;
use crate::guard;
use crate::limits;
use crate::plan::{Edit, Plan, PlannedSite, Role, Strategy, Via};
use crate::registers::{Gpr, RAX, RDI, RSI};
use crate::scan::{Constant, Evidence, Finding, Load, Scan, Site, Span, scan};
use crate::site::Verdict;
use crate::stub::{Allocator, Room};
use crate::vdso::Page;
use crate::vsyscall::Entry;

/// The plan for `image` whose calls become what `via` says.
pub(crate) fn planned(image: &Image<'_>, via: Via) -> Plan {
    let plan = settled(image, None);
    if !plan.has_calls() {
        return plan;
    }
    if via == Via::Syscall {
        return with_room(image, plan);
    }
    match with_page(image) {
        Ok(plan) => plan,
        Err(reason) => without_page(image, plan, via, &reason),
    }
}

/// The plan that adds the page of [`crate::vdso`] and leads calls to it; or why the file cannot take it.
fn with_page(image: &Image<'_>) -> Result<Plan, String> {
    let extension = extension::with_page(image)?;
    let longer = image.of_edited(&extension.bytes).ok_or("the file with the page cannot be read back")?;
    let plan = settled(&longer, Some(&extension.made));
    let patched = |by_page: bool| {
        let is_so = move |strategy| (strategy == Strategy::Vdso) == by_page;
        plan.sites.iter().filter(move |site| site.strategy.is_some_and(is_so)).count()
    };
    let (by_page, otherwise) = (patched(true), patched(false));
    if by_page == 0 {
        return Err("no call finds the room to lead to the page".into());
    }
    let not_vdso =
        (otherwise > 0).then(|| format!("{otherwise} of the calls have no room to lead to the page"));
    let plan = extension.of_original(image.bytes, plan)?;
    Ok(Plan { not_vdso, ..plan })
}

/// `plan`, or where calls find no room for their stubs, one that adds pages of room for them; where that cannot be, the
/// reason is told.
fn with_room(image: &Image<'_>, mut plan: Plan) -> Plan {
    let sizes = std::iter::successors(Some(1), |pages| Some(pages * 2));
    for pages in sizes.take_while(|&pages| pages <= limits::ROOM_PAGES) {
        if !plan.sites.iter().any(lacks_room) {
            break;
        }
        match roomier(image, pages) {
            Ok(longer) if longer.count(Verdict::Patch) > plan.count(Verdict::Patch) => plan = longer,
            Ok(_) => break,
            Err(reason) => {
                for site in plan.sites.iter_mut().filter(|site| lacks_room(site)) {
                    site.reason = format!("{NO_ROOM}, and none can be added: {reason}");
                }
            }
        }
    }
    plan
}

fn lacks_room(site: &PlannedSite) -> bool {
    site.verdict == Verdict::Refused && site.reason == NO_ROOM
}

/// The plan that adds `pages` of room; or why the file cannot take them.
fn roomier(image: &Image<'_>, pages: u64) -> Result<Plan, String> {
    let extension = extension::with_room(image, pages)?;
    let longer = image.of_edited(&extension.bytes).ok_or("the file with more room cannot be read back")?;
    let plan = settled(&longer, Some(&extension.made));
    extension.of_original(image.bytes, plan)
}

/// `plan`, which makes system calls, where the page cannot be had for this `reason`.
fn without_page(image: &Image<'_>, plan: Plan, via: Via, reason: &str) -> Plan {
    if via != Via::Vdso {
        let plan = with_room(image, plan);
        return Plan { not_vdso: plan.has_edits().then(|| reason.to_owned()), ..plan };
    }
    let refused = |site: PlannedSite| PlannedSite {
        verdict: Verdict::Refused,
        reason: format!("no page for the vDSO: {reason} (--via auto makes it a system call)"),
        strategy: None,
        edits: vec![],
        ..site
    };
    let told = |site: PlannedSite| if site.verdict == Verdict::Patch { refused(site) } else { site };
    Plan { sites: plan.sites.into_iter().map(told).collect(), edits: vec![], ..plan }
}

/// The plan for `image` that leaves nothing to be patched by another run: a site may be provable, or find
/// room, only once others are rewritten. With what was `made`, calls lead there.
fn settled(image: &Image<'_>, made: Option<&Made>) -> Plan {
    let mut plan = plan(image, &scan(image), made);
    // What finds no way to the page may still become a system call.
    let room = made.map(|made| Made { page: None, ..*made });
    let ways = made.into_iter().filter(|made| made.page.is_some()).map(Some).chain([room.as_ref()]);
    for made in ways {
        for _ in 0..limits::PLAN_ROUNDS {
            match continued(image, &plan, made) {
                Some(both) => plan = both,
                None => break,
            }
        }
    }
    plan
}

/// `plan`, and what becomes possible by it; nothing where nothing does.
fn continued(image: &Image<'_>, plan: &Plan, made: Option<&Made>) -> Option<Plan> {
    let is_open = |site: &PlannedSite| matches!(site.verdict, Verdict::Refused | Verdict::Unproven);
    if !plan.has_edits() || !plan.sites.iter().any(is_open) {
        return None;
    }
    let patched = apply::replaced(image.bytes, &plan.edits)?;
    let next = image.of_edited(&patched)?;
    let more = self::plan(&next, &scan(&next), made);
    merged(image, plan, &more).filter(|both| both != plan)
}

/// `first`, and then `more` for the bytes that `first` makes of `image`, as one plan; nothing where an edit of
/// one overlaps another of the other in more than the `nop`s that fill it.
fn merged(image: &Image<'_>, first: &Plan, more: &Plan) -> Option<Plan> {
    let mut edits: BTreeMap<FileOffset, Edit> =
        first.edits.iter().map(|edit| (edit.offset, edit.clone())).collect();
    for edit in &more.edits {
        let end = |edit: &Edit| edit.offset.0 + edit.after.len() as u64;
        if let Some(known) = edits.get_mut(&edit.offset) {
            if known.after.len() != edit.after.len() {
                return None;
            }
            known.after.clone_from(&edit.after);
            continue;
        }
        if let Some((_, before)) = edits.range_mut(..edit.offset).next_back()
            && end(before) > edit.offset.0
        {
            let kept = (edit.offset.0 - before.offset.0) as usize;
            if end(before) > end(edit) || before.after[kept..].iter().any(|&byte| byte != encode::NOP) {
                return None;
            }
            before.before.truncate(kept);
            before.after.truncate(kept);
        }
        if edits.range(edit.offset..).next().is_some_and(|(behind, _)| behind.0 < end(edit)) {
            return None;
        }
        let original = image.bytes.get(edit.offset.index()..)?.get(..edit.after.len())?;
        edits.insert(edit.offset, Edit { before: original.to_vec(), ..edit.clone() });
    }
    let offsets: Vec<FileOffset> = edits.keys().copied().collect();
    let renumbered = |plan: &Plan, site: &PlannedSite| {
        let number = |&edit: &usize| offsets.binary_search(&plan.edits.get(edit)?.offset).ok();
        PlannedSite { edits: site.edits.iter().filter_map(number).collect(), ..site.clone() }
    };
    let mut sites: BTreeMap<FileOffset, PlannedSite> =
        first.sites.iter().map(|site| (site.offset, renumbered(first, site))).collect();
    for site in more.sites.iter().filter(|site| site.is_call()) {
        let is_done = sites.get(&site.offset).is_some_and(|known| known.verdict == Verdict::Patch);
        if site.verdict == Verdict::Patch || !is_done {
            sites.insert(site.offset, renumbered(more, site));
        }
    }
    let (sites, edits) = (sites.into_values().collect(), edits.into_values().collect());
    Some(Plan { size: first.size, sites, edits, not_vdso: None })
}

/// Decides what to do about each site of `scan`.
fn plan<'a>(image: &'a Image<'a>, scan: &'a Scan<'a>, made: Option<&'a Made>) -> Plan {
    let in_place = sites_in_place(image, &scan.sites);
    let mut planner = Planner {
        image,
        page: made.and_then(|made| made.page.as_ref()),
        in_place,
        allocator: scan
            .functions
            .as_ref()
            .map(|functions| Allocator::new(image, functions, made.map(|made| made.room))),
        stubs: BTreeMap::new(),
        guards: BTreeMap::new(),
        edits: BTreeMap::new(),
    };
    let mut outcomes: Vec<Outcome> = scan.sites.iter().map(|site| planner.decide(site)).collect();
    planner.grow_segment(scan, &mut outcomes);
    let offsets: Vec<FileOffset> = planner.edits.keys().copied().collect();
    let sites =
        scan.sites.iter().zip(outcomes).map(|(site, outcome)| judged(site, outcome, &offsets)).collect();
    let edits = planner.edits.into_values().collect();
    Plan { size: image.bytes.len() as u64, sites, edits, not_vdso: None }
}

/// What was decided about a site; edits by their offset.
struct Outcome {
    verdict: Verdict,
    reason: String,
    strategy: Option<Strategy>,
    edits: Vec<FileOffset>,
}

fn judged(site: &Site, outcome: Outcome, offsets: &[FileOffset]) -> PlannedSite {
    let mut edits: Vec<usize> =
        outcome.edits.iter().filter_map(|offset| offsets.binary_search(offset).ok()).collect();
    edits.sort_unstable();
    PlannedSite {
        offset: site.span.offset,
        vaddr: site.span.vaddr,
        entry: site.entry,
        form: site.form,
        function: site.function.clone(),
        member: None,
        reach: site.reach,
        verdict: outcome.verdict,
        reason: outcome.reason,
        strategy: outcome.strategy,
        edits,
        steps: site.steps.clone(),
    }
}

impl Entry {
    /// The registers that it reads.
    fn arguments(self) -> &'static [Gpr] {
        match self {
            Self::Time => &[RDI],
            Self::Gettimeofday | Self::Getcpu => &[RDI, RSI],
        }
    }
}

/// Why `site` must stay as it is, if it must; sites that share a call with it then cannot be in place, either.
fn against_any_change(image: &Image<'_>, site: &Site, evidence: &Evidence) -> Option<&'static str> {
    let calls =
        evidence.calls.iter().map(|call| call.span).chain(evidence.loads.iter().map(|load| load.span));
    if calls.chain([site.span]).any(|span| image.is_in_headers(span.offset, span.len)) {
        return Some("it stands in a header table");
    }
    let is_argument = evidence.calls.iter().any(|call| match call.through {
        Through::Register(register) => site.entry.arguments().contains(&register),
        _ => false,
    });
    is_argument.then_some("the address is an argument of its own call, too: a bad pointer")
}

/// Why the constant of `evidence` cannot become a system call number in place, if it cannot.
fn against_in_place(evidence: &Evidence) -> Option<&'static str> {
    let register = match evidence.constant {
        Constant::Register(register) => Some(register),
        Constant::Immediate { .. } => None,
        Constant::Computed(_) | Constant::Indexed(_) => return Some("the address is computed"),
        Constant::Word => return Some("the address is a pointer in data"),
        Constant::Branch => return Some("the call has no room for a number"),
    };
    if !evidence.only_called {
        return Some("the address is not only called, or calls may get another one");
    }
    if evidence.expected.of_syscall() {
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
fn sites_in_place(image: &Image<'_>, sites: &[Site]) -> BTreeSet<Vaddr> {
    let calls = |site: &Site| match &site.finding {
        Finding::Call(evidence)
            if against_in_place(evidence).or(against_any_change(image, site, evidence)).is_none() =>
        {
            Some(evidence.calls.clone())
        }
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
    /// What calls are to lead to, where the file has it.
    page: Option<&'a Page>,
    in_place: BTreeSet<Vaddr>,
    /// Nothing where nothing was decoded, so that no room was looked for.
    allocator: Option<Allocator<'a>>,
    /// Stubs by what they do.
    stubs: BTreeMap<(Entry, Kept), (Vaddr, NewEdit)>,
    /// Branches to guarded calls and the code for these, by the call.
    guards: BTreeMap<Vaddr, [NewEdit; 2]>,
    edits: BTreeMap<FileOffset, Edit>,
}

/// Whether all code that loads a word names it.
fn loads_are_direct(evidence: &Evidence) -> bool {
    evidence.loads.iter().all(|load| load.is_direct)
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
        if let Some(reason) = against_any_change(self.image, site, evidence) {
            return left(Verdict::Refused, reason);
        }
        if self.page.is_none()
            && self.in_place.contains(&site.span.vaddr)
            && let Some(edits) = self.edits_in_place(site, evidence)
        {
            let reason = "the address is only called".into();
            return self.patch(site, Strategy::InPlace, reason, edits);
        }
        if let Some(conflict) = evidence.conflict {
            return left(Verdict::Refused, conflict);
        }
        let against = against_in_place(evidence).unwrap_or("another site that shares its call is not");
        if self.image.identity.file_type == FileType::Rel {
            let reason = format!("an object can be patched in place only: {against}");
            return left(Verdict::Refused, &reason);
        }
        match self.edits_for_stub(site, evidence) {
            Ok(edits) if self.page.is_some() => {
                self.patch(site, Strategy::Vdso, "through the page that calls the vDSO".into(), edits)
            }
            Ok(edits) => self.patch(site, Strategy::Stub, format!("through a stub: {against}"), edits),
            // What has no way to the page is looked at again without it.
            Err(refusal) => left(Verdict::Refused, refusal),
        }
    }

    /// What has to be kept for the code behind a call.
    fn kept(&self, evidence: &Evidence) -> Kept {
        let expected = evidence.expected;
        match self.page {
            Some(_) if expected.of_function() => Kept::RegistersAndRedZone,
            None if expected.of_syscall() && expected.of_red_zone() => Kept::RegistersAndRedZone,
            None if expected.of_syscall() => Kept::Registers,
            _ => Kept::AsFunction,
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
        let NewEdit { offset, vaddr, before, after, role, entry } = edit;
        let (form, function) = (site.form, site.function.clone());
        let edit = Edit { offset, vaddr, before, after, role, entry, form, strategy, function };
        self.edits.entry(offset).or_insert(edit);
    }

    fn is_exec(&self) -> bool {
        self.image.identity.file_type == FileType::Exec
    }

    fn bytes(&self, offset: FileOffset, len: usize) -> Option<Vec<u8>> {
        Some(self.image.bytes.get(offset.index()..)?.get(..len)?.to_vec())
    }

    fn edit(
        &self,
        span: Span,
        role: Role,
        entry: Entry,
        after: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<NewEdit> {
        let before = self.bytes(span.offset, span.len)?;
        let after = after(&before)?;
        Some(NewEdit { offset: span.offset, vaddr: Some(span.vaddr), before, after, role, entry })
    }

    fn edits_in_place(&self, site: &Site, evidence: &Evidence) -> Option<Vec<NewEdit>> {
        let (entry, number) = (site.entry, site.entry.syscall_number());
        if let [call] = evidence.calls.as_slice()
            && call.jump
            && call.span.len < 3
        {
            let whole = Span { len: site.span.len + call.span.len, ..site.span };
            return Some(vec![
                self.edit(whole, Role::Constant, entry, |before| encode::tail_call(before, number))?,
            ]);
        }
        let number_is_in_rax = evidence.calls.iter().all(|call| call.through == Through::Register(RAX));
        let instruction = code::instruction_at(self.image, site.span.vaddr)?;
        let at = code::constant_offsets(self.image, &instruction).immediate_offset();
        let constant = self.edit(site.span, Role::Constant, entry, |before| match evidence.constant {
            Constant::Register(_) if number_is_in_rax => encode::immediate(before, at, number),
            Constant::Register(_) => encode::number_to_rax(before, number),
            Constant::Immediate { at } => encode::immediate(before, at, number),
            _ => None,
        })?;
        let mut edits = vec![constant];
        for call in &evidence.calls {
            let replacement = if call.jump { encode::syscall_and_return } else { encode::syscall };
            edits.push(self.edit(call.span, Role::Call, entry, replacement)?);
        }
        Some(edits)
    }

    /// The ladder of ways to a stub: where the constant is, else by a detour.
    fn edits_for_stub(&mut self, site: &Site, evidence: &Evidence) -> Result<Vec<NewEdit>, &'static str> {
        let (near, kept) = (site.span.vaddr, self.kept(evidence));
        if let Constant::Indexed(_) = evidence.constant {
            return self.guarded_index(site, evidence);
        }
        let (target, stub) = self.stub(site.entry, kept, near)?;
        let mut edits = match self.constant_edits(site, evidence, target) {
            Some(edits) => edits,
            None => self.detour(site, evidence, target)?,
        };
        edits.extend(stub);
        Ok(edits)
    }

    /// The constant becomes `target`, where its place has the room for it.
    fn constant_edits(&self, site: &Site, evidence: &Evidence, target: Vaddr) -> Option<Vec<NewEdit>> {
        let span = site.span;
        let one = |span: Span, role, change: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
            Some(vec![self.edit(span, role, site.entry, change)?])
        };
        if let Some(whole) = evidence.wrapper.filter(|_| self.page.is_some()) {
            return one(whole, Role::Constant, &|before| encode::jump(before, whole.vaddr, target));
        }
        // A `ret` that does more has more bytes, and what it does must go on.
        let is_plain = |span: Span| span.len == 1;
        let returned_to =
            evidence.calls.iter().find(|call| call.through == Through::Return && is_plain(call.span));
        if let Some(call) = returned_to.filter(|_| evidence.adjacent) {
            let whole = Span { len: span.len + call.span.len, ..span };
            return one(whole, Role::Constant, &|before| encode::jump(before, span.vaddr, target));
        }
        match evidence.constant {
            Constant::Register(register) => one(span, Role::Constant, &|before| {
                encode::load_address(before, span.vaddr, register, target)
            }),
            Constant::Branch => {
                one(span, Role::Constant, &|before| encode::branch(before, span.vaddr, target))
            }
            Constant::Word if self.is_exec() => {
                one(span, Role::Pointer, &|_| Some(target.0.to_le_bytes().to_vec()))
            }
            Constant::Word if evidence.word_may_change || !loads_are_direct(evidence) => None,
            Constant::Word => evidence.loads.iter().map(|load| self.load_edit(site, load, target)).collect(),
            Constant::Immediate { at } => {
                let absolute = self.absolute(target)?;
                one(span, Role::Constant, &|before| encode::immediate(before, at, absolute))
            }
            Constant::Computed(_) | Constant::Indexed(_) => None,
        }
    }

    /// The load of a pointer that cannot itself be changed.
    fn load_edit(&self, site: &Site, load: &Load, target: Vaddr) -> Option<NewEdit> {
        let at = load.span.vaddr;
        self.edit(load.span, Role::Constant, site.entry, |before| match load.register {
            Some(register) => encode::load_address(before, at, register, target),
            None => encode::branch_through_memory(before, at, target),
        })
    }

    /// The computation goes on in more code, which takes a stub in the stead of each entry's address.
    fn guarded_index(&mut self, site: &Site, evidence: &Evidence) -> Result<Vec<NewEdit>, &'static str> {
        let (span, kept) = (site.span, self.kept(evidence));
        if !(evidence.scratch_is_free && evidence.flags_are_free) {
            return Err(
                "the index is not known, and r11 or the flags are in use where it could be looked at",
            );
        }
        let instruction = code::instruction_at(self.image, span.vaddr).ok_or(NO_DETOUR)?;
        let (mut stubs, mut edits) = (Vec::new(), Vec::new());
        for entry in Entry::ALL {
            let (stub, edit) = self.stub(entry, kept, span.vaddr)?;
            stubs.push((entry, stub));
            edits.extend(edit);
        }
        let code_at = |place| detour::with_index(&instruction, place, &stubs);
        let len = code_at(span.vaddr).ok_or(NO_DETOUR)?.len();
        edits.extend(self.branch_to_code(site, span, encode::jump, len, code_at)?);
        Ok(edits)
    }

    /// What stands at `span` becomes a branch to the `len` bytes of code that `code_at` makes for their place.
    fn branch_to_code(
        &mut self,
        site: &Site,
        span: Span,
        branch: impl Fn(&[u8], Vaddr, Vaddr) -> Option<Vec<u8>>,
        len: usize,
        code_at: impl Fn(Vaddr) -> Option<Vec<u8>>,
    ) -> Result<[NewEdit; 2], &'static str> {
        let room = self.room(len, span.vaddr)?;
        let branch = |before: &[u8]| branch(before, span.vaddr, room.vaddr);
        let branch = self.edit(span, Role::Constant, site.entry, branch).ok_or(NO_DETOUR)?;
        let code = code_at(room.vaddr).ok_or(NO_DETOUR)?;
        let code = self.fill(room, code, Role::Detour, site.entry).ok_or(NO_ROOM)?;
        Ok([branch, code])
    }

    /// `at` as a number of 32 bits, which only a file with fixed addresses has.
    fn absolute(&self, at: Vaddr) -> Option<u32> {
        i32::try_from(at.0).ok().map(i32::cast_unsigned).filter(|_| self.is_exec())
    }

    /// The constant's instruction becomes a jump to code that does the same with `target`.
    fn detour(
        &mut self,
        site: &Site,
        evidence: &Evidence,
        target: Vaddr,
    ) -> Result<Vec<NewEdit>, &'static str> {
        let span = site.span;
        if evidence.constant == Constant::Word {
            if loads_are_direct(evidence)
                && let Ok(edits) = self.guarded_loads(site, &evidence.loads, target)
            {
                return Ok(edits);
            }
            return self.guarded_calls(site, evidence);
        }
        if !evidence.scratch_is_free {
            return Err("no room for the address of a stub, and r11 or the flags are in use for a detour");
        }
        let instruction = code::instruction_at(self.image, span.vaddr).ok_or(NO_DETOUR)?;
        let code_at = |place| detour::with_address(&instruction, place, target);
        let len = code_at(span.vaddr).ok_or(NO_DETOUR)?.len();
        self.branch_to_code(site, span, encode::jump, len, code_at).map(Vec::from)
    }

    /// Each load of a pointer that the program may replace becomes a branch to code that takes `target` in the
    /// stead of the entry's address only.
    fn guarded_loads(
        &mut self,
        site: &Site,
        loads: &[Load],
        target: Vaddr,
    ) -> Result<Vec<NewEdit>, &'static str> {
        let (mut edits, mut done) = (Vec::new(), BTreeSet::new());
        for load in loads {
            if !load.flags_are_free {
                return Err(
                    "the flags are in use where the word is loaded, so that it cannot be compared there",
                );
            }
            let at = load.span.vaddr;
            // Code that several functions share is seen in each of them.
            if !done.insert(at) {
                continue;
            }
            let instruction = code::instruction_at(self.image, at).ok_or(NO_GUARD)?;
            let code_at = |place| detour::with_guard(&instruction, site.entry, place, target);
            let len = code_at(at).ok_or(NO_GUARD)?.len();
            let is_call = instruction.flow_control() == FlowControl::IndirectCall;
            let branch = if is_call { encode::call } else { encode::jump };
            edits.extend(self.branch_to_code(site, load.span, branch, len, code_at)?);
        }
        Ok(edits)
    }

    /// Each call through a pointer, with what stands right before it, becomes a branch to code that takes a stub in the
    /// stead of any entry's address and calls whatever else it finds.
    fn guarded_calls(&mut self, site: &Site, evidence: &Evidence) -> Result<Vec<NewEdit>, &'static str> {
        if !evidence.word_is_only_called {
            return Err(
                "the word has no relocation that could make it point to a stub, and is not only called",
            );
        }
        if evidence.expected.of_guard() {
            return Err("code behind the call reads a register that a look at what is called changes");
        }
        let (mut stubs, mut edits) = (Vec::new(), Vec::new());
        for entry in Entry::ALL {
            let (stub, edit) = self.stub(entry, self.kept(evidence), site.span.vaddr)?;
            stubs.push((entry, stub));
            edits.extend(edit);
        }
        for call in &evidence.calls {
            if let Some(known) = self.guards.get(&call.span.vaddr) {
                edits.extend(known.iter().cloned());
                continue;
            }
            let run = call.run.ok_or(NO_GUARD)?;
            let range = VaddrRange::new(run.vaddr, run.len as u64).ok_or(NO_GUARD)?;
            let instructions = code::sweep(self.image, range);
            let code_at = |place| guard::code(&instructions, place, &stubs);
            let len = code_at(run.vaddr).ok_or(NO_GUARD)?.len();
            let branch = if call.jump { encode::jump } else { encode::call_at_end };
            let [branch, guard] = self.branch_to_code(site, run, branch, len, code_at)?;
            let guard = [NewEdit { role: Role::Call, ..branch }, NewEdit { role: Role::Guard, ..guard }];
            self.guards.insert(call.span.vaddr, guard.clone());
            edits.extend(guard);
        }
        Ok(edits)
    }

    fn room(&mut self, len: usize, near: Vaddr) -> Result<Room, &'static str> {
        self.allocator.as_mut().and_then(|allocator| allocator.allocate(len, near)).ok_or(NO_ROOM)
    }

    /// Puts `code` into `room`.
    fn fill(&self, room: Room, mut code: Vec<u8>, role: Role, entry: Entry) -> Option<NewEdit> {
        code.resize(room.len.max(code.len()), encode::NOP);
        let before = self.bytes(room.offset, code.len())?;
        Some(NewEdit { offset: room.offset, vaddr: Some(room.vaddr), before, after: code, role, entry })
    }

    /// The stub for `entry`, made once, and the edit that makes it, for each site that uses it; or what the page has.
    fn stub(
        &mut self,
        entry: Entry,
        kept: Kept,
        near: Vaddr,
    ) -> Result<(Vaddr, Option<NewEdit>), &'static str> {
        if let Some(page) = self.page {
            return Ok((page.entry(entry, kept), None));
        }
        if let Some((at, edit)) = self.stubs.get(&(entry, kept)) {
            return Ok((*at, Some(edit.clone())));
        }
        let code = encode::stub(entry.syscall_number(), kept, self.image.ibt);
        let room = self.room(code.len(), near)?;
        let edit = self.fill(room, code, Role::Stub, entry).ok_or(NO_ROOM)?;
        self.stubs.insert((entry, kept), (room.vaddr, edit.clone()));
        Ok((room.vaddr, Some(edit)))
    }

    /// Makes the segment that stubs were put behind as large as that takes.
    fn grow_segment(&mut self, scan: &Scan<'_>, outcomes: &mut [Outcome]) {
        let Some(growth) = self.allocator.as_ref().and_then(Allocator::growth) else { return };
        let Some(before) = self.bytes(growth.field, 16) else { return };
        let after = [growth.size.to_le_bytes(), growth.size.to_le_bytes()].concat();
        for (site, outcome) in scan.sites.iter().zip(outcomes) {
            if outcome.edits.iter().any(|offset| growth.tail.contains(offset)) {
                let (offset, role, entry) = (growth.field, Role::Header, site.entry);
                let (before, after) = (before.clone(), after.clone());
                self.add(site, Strategy::Stub, NewEdit { offset, vaddr: None, before, after, role, entry });
                outcome.edits.push(offset);
            }
        }
    }
}

const NO_ROOM: &str = "no unused bytes for a stub in an executable segment";
const NO_GUARD: &str = "the word has no relocation that could make it point to a stub, and a call through it no room for more code";
const NO_DETOUR: &str = "the instruction has no room for the address of a stub, nor for a jump to more code";

/// An edit whose site is not noted yet.
#[derive(Clone)]
struct NewEdit {
    offset: FileOffset,
    vaddr: Option<Vaddr>,
    before: Vec<u8>,
    after: Vec<u8>,
    role: Role,
    entry: Entry,
}

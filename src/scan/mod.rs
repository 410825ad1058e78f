//! search -> decode -> flow -> classify: every place that holds an entry's address, with what is known of it.

mod finding;
mod judge;
mod pointers;
mod words;

use std::collections::BTreeMap;

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

pub(crate) use self::finding::{Call, Constant, Evidence, Finding, Load, Site, Span};
use self::judge::{Judged, called_form, judge};
use self::words::{Candidate, CellUses};
use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::code::{self, Function};
use crate::elf::Image;
use crate::flow::{self, Flow, Incoming, SiteUses, Subjects, Use};
use crate::functions::Functions;
use crate::guard;
use crate::limits;
use crate::liveness::{self, Expected};
use crate::references;
use crate::registers::{Gpr, RAX, gpr};
use crate::search::{self, Hit};
use crate::site::{Deed, Form, Reach, Step};
use crate::vsyscall::{Entry, PAGE};

/// What a scan found; `functions` is there where something had to be decoded.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    /// By offset.
    pub(crate) sites: Vec<Site>,
    pub(crate) functions: Option<Functions<'a>>,
}

/// Finds every site of `image`. A file without an entry's address is searched, never decoded.
pub(crate) fn scan<'a>(image: &'a Image<'a>) -> Scan<'a> {
    let mut hits = search::hits(image);
    let tables = if hits.is_empty() { Vec::new() } else { image.runtime_tables() };
    hits.retain(|hit| may_be_site(image, &tables, hit));
    if hits.is_empty() {
        return Scan { sites: Vec::new(), functions: None };
    }
    if let Some(sites) = inside_instructions(image, &hits) {
        return Scan { sites, functions: None };
    }
    let mut scanner = Scanner::new(image, Functions::of(image));
    scanner.scan(&hits);
    let Scanner { mut sites, functions, .. } = scanner;
    sites.sort_by_key(|site| site.span.offset);
    sites.dedup_by_key(|site| site.span.offset);
    for site in &mut sites {
        // Of what one instruction does, what says most.
        site.steps.sort_unstable_by_key(|step| (step.offset, std::cmp::Reverse(step.deed)));
        site.steps.dedup_by_key(|step| step.offset);
    }
    Scan { sites, functions: Some(functions) }
}

/// The sites where all `hits` are parts of instructions that do nothing with an entry's address, wherever instructions begin,
/// and in functions that unwind information tells of: then nothing else of the program needs to be known. Large programs
/// have some by chance.
fn inside_instructions<'a>(image: &'a Image<'a>, hits: &[Hit]) -> Option<Vec<Site>> {
    let span = |hit: &Hit| match *hit {
        Hit::Immediate(offset, vaddr) => image.may_be_code(vaddr).then_some(Span { vaddr, offset, len: 4 }),
        _ => None,
    };
    let spans = hits.iter().take(limits::SITES_PER_FILE).map(span).collect::<Option<Vec<_>>>()?;
    let places: Vec<Vaddr> = spans.iter().map(|span| span.vaddr).collect();
    let mut scanner = Scanner::new(image, Functions::holding(image, &places)?);
    let mut decoded: Option<Function<'_>> = None;
    for span in spans {
        let at = span.vaddr;
        // Wherever instructions begin.
        if scanner.may_matter(at) {
            return None;
        }
        decoded = decoded
            .filter(|function| function.contains(at))
            .or_else(|| Function::bounded(image, &scanner.functions, at));
        let function = decoded.as_ref()?;
        let instruction = function.instructions[function.covering(at)?];
        match scanner.role(&instruction, at) {
            Role::Other(reason) => {
                let entry = Entry::from_imm32(u32::from_le_bytes(image.array_at(at)?))?;
                scanner.other(span, &instruction, entry, function.extent.name, reason);
            }
            Role::Followed(_) | Role::Compared | Role::Computed => return None,
        }
    }
    Some(scanner.sites)
}

/// Whether `hit` is worth a look: in code, or a whole pointer outside of `tables` of a run-time.
fn may_be_site(image: &Image<'_>, tables: &[VaddrRange], hit: &Hit) -> bool {
    match *hit {
        Hit::Word(_, at, _) => !tables.iter().any(|table| table.contains(at)),
        Hit::Immediate(_, at) => image.may_be_code(at) || pointer_at(image, at).is_some(),
        Hit::Subtrahend(_, at) | Hit::Branch(_, at) => image.may_be_code(at),
    }
}

/// The entry whose address, as a pointer, stands at `at`.
fn pointer_at(image: &Image<'_>, at: Vaddr) -> Option<Entry> {
    image.array_at::<8>(at).map(u64::from_le_bytes).and_then(Entry::at)
}

struct Scanner<'a> {
    image: &'a Image<'a>,
    functions: Functions<'a>,
    sites: Vec<Site>,
    /// Words of memory to find readers of.
    cells: Vec<Candidate>,
    /// Words that the address of a called site is stored to, too, each with the site's number.
    kept_words: Vec<(Vaddr, usize)>,
    /// Entries whose address some code compares a pointer in memory with.
    compared: Vec<Entry>,
}

/// An instruction whose value is to be followed.
struct Subject {
    instruction: Instruction,
    constant: Constant,
}

impl<'a> Scanner<'a> {
    fn new(image: &'a Image<'a>, functions: Functions<'a>) -> Self {
        Self { image, functions, sites: vec![], cells: vec![], kept_words: vec![], compared: vec![] }
    }

    fn scan(&mut self, hits: &[Hit]) {
        // Functions by their first byte, so that each is decoded once for all its sites.
        let mut functions: BTreeMap<Vaddr, (Function<'a>, Vec<Subject>)> = BTreeMap::new();
        for hit in hits.iter().take(limits::SITES_PER_FILE) {
            match *hit {
                Hit::Word(offset, vaddr, entry) => self.word(Span { vaddr, offset, len: 8 }, entry),
                Hit::Branch(_, vaddr) => self.branch(vaddr),
                Hit::Immediate(offset, vaddr) => self.immediate(offset, vaddr, &mut functions),
                Hit::Subtrahend(_, vaddr) => self.subtrahend(vaddr, &mut functions),
            }
        }
        for (function, subjects) in functions.into_values() {
            if !subjects.is_empty() {
                self.follow(function, &subjects);
            }
        }
        self.read_cells();
        self.note_comparisons();
    }

    /// Where code compares a pointer in memory with an entry's address, that must not become another one where it goes to
    /// code that is not followed.
    fn note_comparisons(&mut self) {
        let may_conflict = |site: &Site| match &site.finding {
            Finding::Call(evidence) => evidence.conflict.is_none() && evidence.is_passed_on,
            _ => false,
        };
        if self.sites.iter().any(may_conflict) && self.any_distance_from_page() {
            self.compared.push(Entry::Gettimeofday);
        }
        for site in self.sites.iter_mut().filter(|site| may_conflict(site)) {
            let Finding::Call(evidence) = &mut site.finding else { continue };
            let may_be_any = matches!(evidence.constant, Constant::Indexed(_));
            // With the first entry's, which is the page's, the page as a whole is compared.
            let is_it = |&entry: &Entry| may_be_any || entry == site.entry || entry == Entry::Gettimeofday;
            if self.compared.iter().any(is_it) {
                evidence.conflict =
                    Some("code elsewhere in the file compares a pointer in memory with the address");
            }
        }
    }

    /// Whether code asks of a pointer in memory whether it leads into the page, by its distance.
    fn any_distance_from_page(&self) -> bool {
        let distance = VaddrRange { start: Vaddr(PAGE.wrapping_neg()), end: Vaddr(PAGE.wrapping_neg() + 1) };
        let mut places = Vec::new();
        let are_all = search::absolute_references(self.image, distance, |at| {
            if self.image.may_be_code(at) {
                places.push(at);
            }
        });
        let asks = |&at: &Vaddr| match Function::decode(self.image, &self.functions, at) {
            Ok(function) if function.extent.is_bounded => {
                function.covering(at).is_some_and(|index| asks_for_page(&function, index))
            }
            // Where nothing tells where a function begins, what stands before is not known.
            _ => self.possible_holders(at).any(|instruction| {
                pointer_of_distance(&instruction).is_some()
                    && code::has_operand_at(self.image, &instruction, at)
            }),
        };
        !are_all || places.len() > limits::CELL_READERS || places.iter().any(asks)
    }

    fn span(&self, instruction: &Instruction) -> Span {
        let vaddr = Vaddr(instruction.ip());
        Span { vaddr, offset: self.image.offset_at(vaddr).unwrap_or(FileOffset(0)), len: instruction.len() }
    }

    fn push(&mut self, span: Span, entry: Entry, form: Form, function: Option<&str>, finding: Finding) {
        let function = function.map(str::to_owned);
        let deed = if form == Form::Compare { Deed::Compares } else { Deed::Holds };
        let steps = vec![step(span, deed)];
        self.sites.push(Site { span, entry, form, function, reach: None, finding, steps });
    }

    /// What instructions of `function` do with the value whose `uses` these are.
    fn steps(&self, function: &Function<'a>, uses: &SiteUses) -> Vec<Step> {
        let first = uses.deeds.first().map_or(0, |&(index, _)| index);
        let near = (first.saturating_sub(STEPS_BEFORE)..first).map(|index| (index, Deed::Near));
        near.chain(uses.deeds.iter().copied())
            .map(|(index, deed)| step(self.span(&function.instructions[index]), deed))
            .collect()
    }

    fn word(&mut self, span: Span, entry: Entry) {
        if self.functions.is_relocated(self.image, span.vaddr) {
            let reason = "a relocation replaces the word when the file is loaded";
            return self.push(span, entry, Form::Data, None, Finding::Harmless(reason.into()));
        }
        self.cells.push(Candidate {
            at: span.vaddr,
            span,
            entry,
            function: None,
            constant: Constant::Word,
            initialised: true,
            joined: false,
            conflict: None,
            flags_are_free: false,
            scratch_is_free: false,
            steps: vec![step(span, Deed::Holds)],
        });
    }

    /// The decoded function that holds `at`, from `functions` if it is there. Code that no function is known of is
    /// decoded where it `may_matter`: that takes a search of all code.
    fn function_at<'f>(
        &self,
        at: Vaddr,
        may_matter: impl FnOnce() -> bool,
        functions: &'f mut BTreeMap<Vaddr, (Function<'a>, Vec<Subject>)>,
    ) -> Result<&'f mut (Function<'a>, Vec<Subject>), code::Doubt> {
        let known = functions.range(..=at).next_back().filter(|(_, (function, _))| function.contains(at));
        let known = known.map(|(&start, _)| start);
        let start = match known {
            Some(start) => start,
            None => {
                let unbounded =
                    || may_matter().then(|| Function::unbounded(self.image, &self.functions, at))?;
                let function = Function::bounded(self.image, &self.functions, at)
                    .or_else(unbounded)
                    .ok_or(code::Doubt::NoBoundary)?;
                let start = function.extent.range.start;
                functions.insert(start, (function, Vec::new()));
                start
            }
        };
        functions.get_mut(&start).ok_or(code::Doubt::NoBoundary)
    }

    /// Whether the bytes at `at` may be more than nothing where no function is known: a pointer, or what some instruction
    /// would take for an entry's address, wherever instructions begin.
    fn may_matter(&self, at: Vaddr) -> bool {
        pointer_at(self.image, at).is_some()
            || self.holder(at, |role| !matches!(role, Role::Other(_))).is_some()
    }

    /// The first instruction that begins up to eleven bytes before `at` and would have a role with these bytes that
    /// `is_wanted`.
    fn holder(&self, at: Vaddr, is_wanted: impl Fn(&Role) -> bool) -> Option<Instruction> {
        self.possible_holders(at).find(|instruction| is_wanted(&self.role(instruction, at)))
    }

    /// The instructions that begin up to eleven bytes before `at`, wherever instructions really begin; the nearest first.
    fn possible_holders(&self, at: Vaddr) -> impl Iterator<Item = Instruction> {
        (1..=11).filter_map(move |back| code::instruction_at(self.image, Vaddr(at.0.checked_sub(back)?)))
    }

    /// `at` is the displacement of what may be a branch straight into the page.
    fn branch(&mut self, at: Vaddr) {
        // The last byte of the opcode.
        let opcode = Vaddr(at.0.wrapping_sub(1));
        if !self.image.may_be_code(opcode) {
            return;
        }
        let Ok(function) = Function::decode(self.image, &self.functions, opcode) else { return };
        let Some(index) = function.covering(opcode) else { return };
        let (instruction, name) = (function.instructions[index], function.extent.name);
        let branches = matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
        ) && instruction.next_ip() == at.plus(4).0;
        let Some(entry) = Entry::at(instruction.near_branch_target()).filter(|_| branches) else { return };
        // Behind a jump is what the function's callers know of functions; where code cannot be followed, it may expect
        // anything.
        let is_jump = instruction.flow_control() != FlowControl::Call;
        let complete = function.complete(self.image, &self.functions).ok();
        let expected = complete.and_then(|function| {
            let index = function.index_of(Vaddr(instruction.ip()))?;
            Some(Expected::behind_call(&function, index))
        });
        let evidence = Evidence {
            constant: Constant::Branch,
            calls: Vec::new(),
            loads: Vec::new(),
            word_is_only_called: false,
            word_may_change: false,
            only_called: false,
            adjacent: false,
            wrapper: None,
            expected: if is_jump { Expected::default() } else { expected.unwrap_or(Expected::ALL) },
            is_passed_on: false,
            conflict: None,
            flags_are_free: false,
            scratch_is_free: false,
        };
        let span = self.span(&instruction);
        self.push(span, entry, Form::DirectBranch, name, Finding::Call(evidence));
        if let Some(site) = self.sites.last_mut() {
            site.reach = Some(Reach::Always);
        }
    }

    /// `at` is where four bytes in an executable segment look like an entry's address.
    fn immediate(
        &mut self,
        offset: FileOffset,
        at: Vaddr,
        functions: &mut BTreeMap<Vaddr, (Function<'a>, Vec<Subject>)>,
    ) {
        let bytes = self.image.array_at::<4>(at).unwrap_or_default();
        let Some(entry) = Entry::from_imm32(u32::from_le_bytes(bytes)) else { return };
        let span = Span { vaddr: at, offset, len: 4 };
        if !self.image.may_be_code(at) {
            return self.in_data(span);
        }
        let found = match self.function_at(at, || self.may_matter(at), functions) {
            Ok((function, subjects)) => {
                let extent = function.extent;
                let found = function.covering(at).map(|index| {
                    // Of a stretch of code, what stands before it is not known.
                    let of_pointer = is_of_a_pointer(function, index) || !function.extent.is_bounded;
                    (function.instructions[index], of_pointer, subjects, extent)
                });
                found.ok_or(code::Doubt::NoBoundary)
            }
            Err(doubt) => Err(doubt),
        };
        let (instruction, of_pointer, subjects, extent) = match found {
            Ok(found) => found,
            Err(doubt) => return self.undecoded(span, entry, doubt),
        };
        let name = extent.name;
        match self.role(&instruction, at) {
            Role::Followed(constant) => subjects.push(Subject { instruction, constant }),
            Role::Compared => {
                let reason = "compared with, never called";
                let span = self.span(&instruction);
                if of_pointer {
                    self.compared.push(entry);
                }
                self.push(span, entry, Form::Compare, name, Finding::Harmless(reason.into()));
            }
            Role::Computed => {
                let reason = "computed with, and the result is not followed";
                let span = self.span(&instruction);
                self.push(span, entry, Form::Computed, name, Finding::Unproven(reason.into()));
            }
            // Where nothing tells code from data, four bytes that no instruction takes whole are nothing.
            Role::Other(_) if !extent.is_bounded => self.note_possible_comparison(at, entry),
            Role::Other(reason) => self.other(span, &instruction, entry, name, reason),
        }
    }

    /// The four bytes at `at` are in `instruction`, which does nothing with an entry's address.
    fn other(
        &mut self,
        span: Span,
        instruction: &Instruction,
        entry: Entry,
        function: Option<&str>,
        reason: &str,
    ) {
        let holder = step(self.span(instruction), Deed::Contains);
        self.push(span, entry, Form::OtherInstruction, function, Finding::Harmless(reason.into()));
        if let Some(site) = self.sites.last_mut() {
            site.steps = vec![holder];
        }
    }

    /// `at` is where an instruction may subtract an entry's negated address. Only what is called is a site: ten megabytes
    /// are a common number.
    fn subtrahend(&mut self, at: Vaddr, functions: &mut BTreeMap<Vaddr, (Function<'a>, Vec<Subject>)>) {
        if !self.image.may_be_code(at) {
            return;
        }
        let Ok((function, subjects)) = self.function_at(at, || true, functions) else { return };
        let Some(index) = function.covering(at) else { return };
        let instruction = function.instructions[index];
        let offsets = code::constant_offsets(self.image, &instruction);
        let is_operand = instruction.ip().wrapping_add(offsets.immediate_offset() as u64) == at.0;
        let register =
            gpr(instruction.op0_register()).filter(|_| code::subtracts(&instruction) && is_operand);
        if let Some(register) = register {
            subjects.push(Subject { instruction, constant: Constant::Computed(register) });
        }
    }

    /// Four bytes in an executable segment, but not in code: only a whole pointer is a site.
    fn in_data(&mut self, span: Span) {
        let Some(entry) = pointer_at(self.image, span.vaddr) else { return };
        let span = Span { len: 8, ..span };
        if span.vaddr.0.is_multiple_of(8) {
            return self.word(span, entry);
        }
        self.push(span, entry, Form::Data, None, Finding::Harmless("not aligned as a pointer is".into()));
    }

    /// Nothing proves where instructions begin around `at`: what may be a comparison with the address of `entry` there may
    /// be one of a pointer.
    fn note_possible_comparison(&mut self, at: Vaddr, entry: Entry) {
        if self.holder(at, |role| matches!(role, Role::Compared)).is_some() {
            self.compared.push(entry);
        }
    }

    /// Nothing proves where instructions begin at `span`; what may be there all the same?
    fn undecoded(&mut self, span: Span, entry: Entry, doubt: code::Doubt) {
        self.note_possible_comparison(span.vaddr, entry);
        match self.holder(span.vaddr, |role| matches!(role, Role::Followed(_))) {
            Some(instruction) => {
                let span = self.span(&instruction);
                let finding = Finding::Unproven(doubt.reason().into());
                self.push(span, entry, Form::DirectCall, None, finding);
            }
            None => self.in_data(span),
        }
    }

    /// What `instruction` does with the bytes at `at`, which it covers.
    fn role(&self, instruction: &Instruction, at: Vaddr) -> Role {
        let offsets = code::constant_offsets(self.image, instruction);
        let distance = at.0.wrapping_sub(instruction.ip()) as usize;
        let is_immediate = offsets.has_immediate()
            && offsets.immediate_offset() == distance
            && offsets.immediate_size() >= 4;
        let is_displacement = offsets.has_displacement() && offsets.displacement_offset() == distance;
        let operand =
            (0..instruction.op_count()).rev().find_map(|operand| instruction.try_immediate(operand).ok());
        if is_displacement && instruction.code() == Code::Lea_r64_m && !instruction.is_ip_rel_memory_operand()
        {
            return match gpr(instruction.op0_register()) {
                Some(register) => Role::Followed(Constant::Computed(register)),
                None => Role::Other("bytes of a displacement"),
            };
        }
        if !is_immediate {
            return Role::Other("bytes inside another instruction");
        }
        if operand.and_then(Entry::at).is_none() {
            return Role::Other("a number that is not the address");
        }
        let register =
            (instruction.op0_kind() == OpKind::Register).then(|| gpr(instruction.op0_register())).flatten();
        match (instruction.code(), register) {
            (Code::Mov_rm64_imm32 | Code::Mov_r64_imm64, Some(register)) => {
                Role::Followed(Constant::Register(register))
            }
            (Code::Mov_rm64_imm32 | Code::Pushq_imm32, None) => {
                Role::Followed(Constant::Immediate { at: distance })
            }
            (
                Code::Add_RAX_imm32 | Code::Add_rm64_imm32 | Code::Or_RAX_imm32 | Code::Or_rm64_imm32,
                Some(register),
            ) => Role::Followed(Constant::Computed(register)),
            _ if matches!(instruction.mnemonic(), Mnemonic::Cmp) => Role::Compared,
            // `sbb %rax,%rax; and $entry,%rax` is how gcc chooses between the address and zero.
            _ if matches!(instruction.mnemonic(), Mnemonic::And | Mnemonic::Xor | Mnemonic::Imul)
                && register.is_some() =>
            {
                Role::Computed
            }
            _ => Role::Other("an operand that is never called"),
        }
    }

    fn follow(&mut self, function: Function<'a>, subjects: &[Subject]) {
        let name = function.extent.name;
        let instructions = subjects.iter().map(|subject| Vaddr(subject.instruction.ip())).collect();
        let query = Subjects { instructions, ..Subjects::default() };
        let analysed = function.complete(self.image, &self.functions).and_then(|function| {
            let flow = flow::analyse(self.image, &self.functions, &function, &query)?;
            Ok((function, flow))
        });
        match analysed {
            Ok((function, flow)) => {
                for (number, subject) in subjects.iter().enumerate() {
                    self.classify(&function, &flow, &query, number, subject);
                }
            }
            Err(doubt) => {
                for subject in subjects {
                    let (span, entry) = (self.span(&subject.instruction), self.nominal_entry(subject));
                    let finding = Finding::Unproven(doubt.reason().into());
                    self.push(span, entry, Form::DirectCall, name, finding);
                }
            }
        }
    }

    /// The entry that the bytes alone name, to which an index may be added.
    fn nominal_entry(&self, subject: &Subject) -> Entry {
        let instruction = &subject.instruction;
        let immediate =
            (0..instruction.op_count()).find_map(|operand| instruction.try_immediate(operand).ok());
        let negated = code::subtracts(instruction);
        let immediate = immediate.map(|number| if negated { number.wrapping_neg() } else { number });
        let displaced = (instruction.code() == Code::Lea_r64_m).then(|| instruction.memory_displacement64());
        immediate.or(displaced).and_then(Entry::at).unwrap_or(Entry::Gettimeofday)
    }

    fn classify(
        &mut self,
        function: &Function<'a>,
        flow: &Flow,
        query: &Subjects,
        number: usize,
        subject: &Subject,
    ) {
        let uses = &flow.sites[number];
        let span = self.span(&subject.instruction);
        let computed = match subject.constant {
            Constant::Computed(register) => Some(register),
            _ => None,
        };
        let entry = uses.entry.unwrap_or_else(|| self.nominal_entry(subject));
        let name = function.extent.name.map(str::to_owned);
        let calls = self.calls(function, flow, query, number);
        let elsewhere = if calls.is_empty() { self.called_elsewhere(function, uses) } else { None };
        let only_arithmetic = computed.is_some()
            && uses.entry.is_none()
            && uses.uses.iter().all(|used| match *used {
                Use::Computed | Use::Compared => true,
                Use::Argument { callee: Some(callee), register } => self.is_left_over(callee, register),
                _ => false,
            });
        let returned = uses.uses.contains(&Use::Returned);
        let in_resolver = function.extent.is_resolver
            || (returned && self.is_named_as_resolver(function.extent.range.start));
        let judged = judge(uses, !calls.is_empty() || elsewhere.is_some(), in_resolver);
        let compared = uses.deeds.iter().filter(|&&(_, deed)| deed == Deed::Compares);
        if compared.into_iter().any(|&(index, _)| is_of_a_pointer(function, index)) {
            self.compared.push(entry);
        }
        let constant = match computed {
            Some(register) if uses.entry.is_none() => Constant::Indexed(register),
            _ => subject.constant,
        };
        if computed.is_some() && !matches!(judged, Judged::Call(_) | Judged::Cell { .. }) {
            // Ten megabytes less is a common number; ten megabytes and an entry less is not.
            if code::subtracts(&subject.instruction) && (only_arithmetic || entry == Entry::Gettimeofday) {
                return;
            }
            if only_arithmetic {
                let reason = "a number that is computed with, never called";
                let finding = Finding::Harmless(reason.into());
                return self.push(span, entry, Form::OtherInstruction, function.extent.name, finding);
            }
        }
        let mut steps = self.steps(function, uses);
        steps.extend(elsewhere.iter().flat_map(|elsewhere| &elsewhere.steps));
        let (form, reach, finding) = match judged {
            Judged::Cell { at, joined } => {
                let scratch_is_free = self.scratch_is_free(function, subject);
                let flags_are_free = self.flags_are_free(function, subject);
                let (function, initialised) = (name, false);
                self.cells.push(Candidate {
                    at,
                    span,
                    entry,
                    function,
                    constant,
                    initialised,
                    joined,
                    conflict: conflict(uses),
                    flags_are_free,
                    scratch_is_free,
                    steps,
                });
                return;
            }
            Judged::Not(form, finding) => (form, None, finding),
            Judged::Call(kept) => {
                let form = match kept {
                    Some(form) => form,
                    None => {
                        let by_others = elsewhere.as_ref().map_or(&[][..], |elsewhere| &elsewhere.calls);
                        called_form(subject.constant, uses, calls.iter().chain(by_others))
                    }
                };
                let exact = calls.iter().any(|call| call.exact);
                let is_always = exact || elsewhere.is_some() || matches!(constant, Constant::Indexed(_));
                let mut evidence = self.evidence(function, subject, constant, uses, calls, flow);
                evidence.is_passed_on &= kept.is_none();
                let words = uses.uses.iter().filter_map(|used| match *used {
                    Use::StoredTo { at, .. } => Some((at, self.sites.len())),
                    _ => None,
                });
                self.kept_words.extend(words);
                if let Some(elsewhere) = elsewhere {
                    evidence.conflict = evidence.conflict.or(elsewhere.conflict);
                    evidence.expected = elsewhere.expected;
                }
                let reach = if is_always { Reach::Always } else { Reach::Fallback };
                (form, Some(reach), Finding::Call(evidence))
            }
        };
        let form = if computed.is_some() { Form::Computed } else { form };
        self.sites.push(Site { span, entry, form, function: name, reach, finding, steps });
    }

    /// Whether a function that the value is passed to, or a caller that it is returned to, calls it.
    fn called_elsewhere(&self, function: &Function<'a>, uses: &SiteUses) -> Option<CellUses> {
        let mut found = CellUses::default();
        for used in &uses.uses {
            match *used {
                Use::Argument { callee: Some(callee), register } => {
                    self.note_incoming(callee, Incoming::Argument(register), &mut found);
                }
                Use::Returned if !function.extent.is_resolver && function.extent.is_bounded => {
                    let start = function.extent.range.start;
                    let mut callers = Vec::new();
                    // A caller that is not looked at proves nothing; one that is, enough.
                    let own = VaddrRange { start, end: start.plus(1) };
                    let mut note = |at: Vaddr, may_call: bool| {
                        if may_call && callers.len() < limits::CELL_READERS {
                            callers.push(at);
                        }
                    };
                    let _ = search::relative_references(self.image, own, |at| {
                        note(at, code::may_be_branch_operand(self.image, at));
                    });
                    let _ = search::table_references(self.image, own, |at| {
                        note(at, self.image.may_be_code(at));
                    });
                    for caller in callers {
                        self.note_incoming(caller, Incoming::Result(start), &mut found);
                    }
                }
                _ => {}
            }
        }
        (!found.calls.is_empty()).then_some(found)
    }

    /// Follows a value that comes into the function at `at` from another one.
    fn note_incoming(&self, at: Vaddr, incoming: Incoming, found: &mut CellUses) {
        if let Some((function, query, flow)) = self.incoming(at, incoming) {
            self.note_uses(&function, &flow, &query, 0, &flow.sites[0], found);
        }
    }

    /// Whether the function at `callee` does nothing with what comes in `register`.
    fn is_left_over(&self, callee: Vaddr, register: Gpr) -> bool {
        let incoming = self.incoming(callee, Incoming::Argument(register));
        incoming.is_some_and(|(_, _, flow)| flow.sites[0].uses.is_empty())
    }

    /// The function at `at`, and what it does with a value that comes in from another one; nothing where it cannot be
    /// followed.
    fn incoming(&self, at: Vaddr, incoming: Incoming) -> Option<(Function<'a>, Subjects, Flow)> {
        let decoded = Function::decode(self.image, &self.functions, at);
        let function = decoded.and_then(|function| function.complete(self.image, &self.functions)).ok()?;
        if matches!(incoming, Incoming::Argument(_)) && function.extent.range.start != at {
            return None;
        }
        let query = Subjects { incoming: Some(incoming), ..Subjects::default() };
        let flow = flow::analyse(self.image, &self.functions, &function, &query).ok()?;
        Some((function, query, flow))
    }

    fn calls(&self, function: &Function<'a>, flow: &Flow, query: &Subjects, number: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        for used in &flow.sites[number].uses {
            let Use::Call { index, jump, exact, through, .. } = *used else { continue };
            let sites = flow
                .calls
                .iter()
                .filter(|call| call.index == index)
                .flat_map(|call| call.sites.iter())
                .filter_map(|site| query.address(site))
                .collect();
            let span = self.span(&function.instructions[index]);
            calls.push(Call { span, jump, exact, through, sites, run: None });
        }
        calls
    }

    /// The run of instructions up to the call number `index` that [`crate::guard`] can stand for: nothing leads into it.
    fn run_up_to(&self, function: &Function<'a>, flow: &Flow, index: usize) -> Option<Span> {
        let first = guard::run_up_to(&function.instructions, index)?;
        let (start, call) = (&function.instructions[first], &function.instructions[index]);
        let is_straight = (first + 1..=index).all(|inside| !flow.block_starts[inside]);
        let inside = VaddrRange { start: Vaddr(start.ip() + 1), end: Vaddr(call.next_ip()) };
        let is_entered = references::may_lead_into(self.image, &self.functions, Some(function), inside);
        let len = (call.next_ip() - start.ip()) as usize;
        (is_straight && !is_entered).then_some(Span { len, ..self.span(start) })
    }

    /// Whether no caller of the function at `start` reads its result, and all are known.
    fn result_is_ignored(&self, start: Vaddr) -> bool {
        if self.functions.is_exported(start) {
            return false;
        }
        let own = VaddrRange { start, end: start.plus(1) };
        let (mut callers, mut is_taken) = (Vec::new(), false);
        let are_all =
            search::relative_references(self.image, own, |at| {
                if code::may_be_branch_operand(self.image, at) && callers.len() < limits::CELL_READERS {
                    callers.push(at);
                } else {
                    is_taken |= self.image.may_be_code(at) && code::may_be_displacement(self.image, at);
                }
            }) && search::absolute_references(self.image, own, |at| {
                is_taken |= references::may_be_pointer(self.image, at);
            }) && search::table_references(self.image, own, |at| is_taken |= self.image.may_be_code(at));
        let ignores = |&at: &Vaddr| {
            let decoded = Function::decode(self.image, &self.functions, at);
            let Ok(caller) = decoded.and_then(|function| function.complete(self.image, &self.functions))
            else {
                return false;
            };
            let Some(index) = caller.covering(at) else { return false };
            let call = &caller.instructions[index];
            let is_call = call.mnemonic() == Mnemonic::Call && call.near_branch_target() == start.0;
            is_call && !liveness::result_is_read(&caller, index)
        };
        are_all && !is_taken && callers.iter().all(ignores)
    }

    fn evidence(
        &self,
        function: &Function<'a>,
        subject: &Subject,
        constant: Constant,
        uses: &SiteUses,
        calls: Vec<Call>,
        flow: &Flow,
    ) -> Evidence {
        let expected = uses.uses.iter().fold(Expected::default(), |expected, used| match *used {
            Use::Call { index, .. } | Use::IndexedCall { index } => {
                expected.or(Expected::behind_call(function, index))
            }
            _ => expected,
        });
        let conflict = conflict(uses);
        let is_called = |used: &Use| matches!(used, Use::Call { .. } | Use::IndexedCall { .. });
        // What is mangled is of use to nobody else.
        let is_passed_on = !uses.uses.iter().all(|used| is_called(used) || *used == Use::StoredMangled);
        let only_called = !calls.is_empty()
            && uses.uses.iter().all(|used| matches!(used, Use::Call { exact: true, .. }))
            && !code::jumps_by_distance(function)
            && !self.is_entered_between(function, subject, &calls);
        let adjacent = match calls.as_slice() {
            [call] => {
                let index = function.index_of(call.span.vaddr);
                call.span.vaddr.0 == subject.instruction.next_ip()
                    && index.is_some_and(|index| !flow.block_starts[index])
            }
            _ => false,
        };
        let is_in_rax = constant == Constant::Register(RAX);
        let is_simple = is_in_rax && only_called && adjacent && !expected.of_function();
        let wrapper = if is_simple { self.wrapper(function, subject, flow) } else { None };
        let scratch_is_free = self.scratch_is_free(function, subject);
        let flags_are_free = self.flags_are_free(function, subject);
        let (loads, word_is_only_called, word_may_change) = (Vec::new(), false, false);
        Evidence {
            constant,
            calls,
            loads,
            word_is_only_called,
            word_may_change,
            only_called,
            adjacent,
            wrapper,
            expected,
            is_passed_on,
            conflict,
            flags_are_free,
            scratch_is_free,
        }
    }

    /// The first instructions of `function`, up to the constant's, where the stack pointer is aligned for the call and
    /// nothing else is done:
    /// ```text
    /// sub $n,%rsp; mov $entry,%rax; call *%rax; add $n,%rsp; ret
    /// ```
    fn wrapper(&self, function: &Function<'a>, subject: &Subject, flow: &Flow) -> Option<Span> {
        let constant = function.index_of(Vaddr(subject.instruction.ip()))?;
        let first = constant.checked_sub(1)?;
        let [sub, _, _, add, ret] = function.instructions.get(first..constant + 4)? else { return None };
        let of_stack = |instruction: &Instruction, code| {
            let is_it = instruction.code() == code && instruction.op0_register() == Register::RSP;
            is_it.then(|| instruction.immediate(1))
        };
        let taken = of_stack(sub, Code::Sub_rm64_imm8)?;
        let is_given_back = of_stack(add, Code::Add_rm64_imm8) == Some(taken);
        let start = function.extent.range.start;
        let is_first = sub.ip() == start.0
            || (first == 1
                && function.instructions[0].code() == Code::Endbr64
                && function.instructions[0].ip() == start.0);
        let is_straight = (first..first + 4).all(|index| function.fall_through(index) == Some(index + 1))
            && !flow.block_starts[constant];
        if !(is_given_back && is_first && is_straight && ret.mnemonic() == Mnemonic::Ret) {
            return None;
        }
        let span = self.span(sub);
        let span = Span { len: span.len + subject.instruction.len(), ..span };
        let inside = VaddrRange { start: span.vaddr.plus(1), end: span.vaddr.plus(span.len as u64) };
        let is_entered = references::may_lead_into(self.image, &self.functions, Some(function), inside);
        (!is_entered).then_some(span)
    }

    /// Whether an `R_X86_64_IRELATIVE` relocation names the function at `start`. Static programs have such
    /// relocations without a dynamic table, and only section headers, if there are any, tell where.
    fn is_named_as_resolver(&self, start: Vaddr) -> bool {
        const R_X86_64_IRELATIVE: u64 = 37;
        let word = |at: u64| self.image.array_at::<8>(Vaddr(at)).map(u64::from_le_bytes);
        let mut named = false;
        let _ = search::absolute_references(self.image, VaddrRange { start, end: start.plus(1) }, |at| {
            let place = word(at.0.wrapping_sub(16)).map(Vaddr).and_then(|place| self.image.segment_at(place));
            named |= word(at.0.wrapping_sub(8)) == Some(R_X86_64_IRELATIVE)
                && word(at.0) == Some(start.0)
                && place.is_some_and(|segment| segment.writable);
        });
        named
    }

    fn flags_are_free(&self, function: &Function<'a>, subject: &Subject) -> bool {
        let index = function.index_of(Vaddr(subject.instruction.ip()));
        index.is_some_and(|index| liveness::flags_are_free(function, index))
    }

    fn scratch_is_free(&self, function: &Function<'a>, subject: &Subject) -> bool {
        let index = function.index_of(Vaddr(subject.instruction.ip()));
        index.is_some_and(|index| liveness::scratch_is_free(function, index))
    }

    /// Whether control may arrive between the constant and its last call in a way that the data flow does
    /// not see.
    fn is_entered_between(&self, function: &Function<'a>, subject: &Subject, calls: &[Call]) -> bool {
        let start = Vaddr(subject.instruction.next_ip());
        let first = calls.iter().map(|call| call.span.vaddr).min().unwrap_or(start).min(start);
        let last = calls.iter().map(|call| call.span.vaddr).max().unwrap_or(start).max(start);
        let between = VaddrRange { start: first, end: last.plus(1) };
        references::may_lead_into(self.image, &self.functions, Some(function), between)
    }
}

/// What is done with a value so that it must not become another one.
fn conflict(uses: &SiteUses) -> Option<&'static str> {
    uses.uses.iter().find_map(|used| match used {
        Use::Compared => Some("the address is also compared with something"),
        Use::Computed => Some("the address is also computed with"),
        _ => None,
    })
}

/// Instructions before the first one that has to do with a site, to show where that is.
const STEPS_BEFORE: usize = 3;

fn step(Span { vaddr, offset, len }: Span, deed: Deed) -> Step {
    Step { offset, vaddr, len, deed }
}

/// Instructions before a comparison that may load what it compares, and behind a subtraction that compare the difference.
const NEAR_COMPARISON: usize = 8;

/// Whether what the comparison number `index` compares stands behind an address: a pointer in a structure, or in an array.
/// What is in a variable of the frame, or came to a register in another way, is as likely the address of an instruction
/// or of a fault.
fn is_of_a_pointer(function: &Function<'_>, index: usize) -> bool {
    let compare = &function.instructions[index];
    (0..compare.op_count()).any(|operand| {
        is_pointed_to(compare, operand)
            || (compare.op_kind(operand) == OpKind::Register
                && is_loaded(function, index, compare.op_register(operand)))
    })
}

/// Whether operand `operand` of `instruction` is in memory that no variable of the frame names.
fn is_pointed_to(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Memory
        && (!matches!(instruction.memory_base(), Register::RSP | Register::RBP)
            || instruction.memory_index() != Register::None)
}

/// Whether `register` is loaded from such memory right before instruction `index`.
fn is_loaded(function: &Function<'_>, index: usize, register: Register) -> bool {
    let before = (index.saturating_sub(NEAR_COMPARISON)..index).rev();
    let straight = before.take_while(|&before| function.fall_through(before) == Some(before + 1));
    let mut writers = straight.map(|before| &function.instructions[before]).filter(|instruction| {
        let only_reads = matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push);
        instruction.op0_kind() == OpKind::Register && instruction.op0_register() == register && !only_reads
    });
    writers.next().is_some_and(|load| load.op_count() == 2 && is_pointed_to(load, 1))
}

/// Whether instruction `index` subtracts the page's address from a pointer that was loaded, to compare the distance.
fn asks_for_page(function: &Function<'_>, index: usize) -> bool {
    let instruction = &function.instructions[index];
    let Some(pointer) = pointer_of_distance(instruction) else { return false };
    let compares = |behind: &Instruction| {
        behind.mnemonic() == Mnemonic::Cmp && behind.op0_register() == instruction.op0_register()
    };
    let mut behind = function.instructions[index + 1..].iter().take(NEAR_COMPARISON);
    behind.any(compares) && is_loaded(function, index, pointer)
}

/// The register that `instruction` subtracts the page's address from, by adding ten megabytes.
fn pointer_of_distance(instruction: &Instruction) -> Option<Register> {
    let (added, register) = match instruction.code() {
        Code::Add_RAX_imm32 | Code::Add_rm64_imm32 => {
            (instruction.immediate32to64().cast_unsigned(), instruction.op0_register())
        }
        Code::Lea_r64_m => (instruction.memory_displacement64(), instruction.memory_base()),
        _ => return None,
    };
    (added == PAGE.wrapping_neg()).then_some(register)
}

/// What an instruction does with an immediate that is an entry's address.
enum Role {
    Followed(Constant),
    Compared,
    /// Computed with in a way that is not followed.
    Computed,
    Other(&'static str),
}

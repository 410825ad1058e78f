//! search -> decode -> flow -> classify: every place that holds an entry's address, with what is known of it.

use std::collections::BTreeMap;

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::code::{self, Function};
use crate::elf::{FileType, Image};
use crate::flow::{self, Cell, Flow, Gpr, Incoming, SiteUses, Subjects, Through, Use};
use crate::functions::Functions;
use crate::limits;
use crate::references;
use crate::search::{self, Hit};
use crate::site::{Deed, Form, Reach, Step};
use crate::vsyscall::Entry;

/// Where an instruction, or a data word, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) vaddr: Vaddr,
    pub(crate) offset: FileOffset,
    pub(crate) len: usize,
}

/// What holds the address, as far as that matters for changing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Constant {
    /// `mov $entry,%reg`
    Register(Gpr),
    /// An immediate of 32 bits at this distance into the instruction: `movq $entry,mem`, `push $entry`.
    Immediate { at: usize },
    /// Part of a computation whose result in this register is the entry's address.
    Computed(Gpr),
    /// The page's address plus an index that is not known, in this register.
    Indexed(Gpr),
    /// A pointer in data.
    Word,
    /// `call rel32` or `jmp rel32`.
    Branch,
}

/// A call or jump through the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) span: Span,
    pub(crate) jump: bool,
    /// The target is nothing but sites' entries.
    pub(crate) exact: bool,
    pub(crate) through: Through,
    /// All sites that the call may go through.
    pub(crate) sites: Vec<Vaddr>,
}

/// A load of a data word into a register, or a call through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) span: Span,
    /// The register; nothing for a call or jump through memory.
    pub(crate) register: Option<Gpr>,
    /// The flags are free behind it.
    pub(crate) flags_are_free: bool,
}

/// Why a site is a call, and what must change with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) constant: Constant,
    pub(crate) calls: Vec<Call>,
    /// Loads of a data word.
    pub(crate) loads: Vec<Load>,
    /// The program may put something else into that word, so that loads must see what is there.
    pub(crate) word_may_change: bool,
    /// The value reaches nothing but exact calls, so it may become another value.
    pub(crate) only_called: bool,
    /// Nothing lies between the constant and its single call.
    pub(crate) adjacent: bool,
    /// Code behind a call reads `rcx` or `r11`.
    pub(crate) expects_preserved: bool,
    /// What else is done with the value, which a rewrite would change.
    pub(crate) conflict: Option<&'static str>,
    /// `r11` and the flags are free behind the constant, so that other code may run there.
    pub(crate) scratch_is_free: bool,
}

/// What is known of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Call(Evidence),
    Unproven(String),
    Harmless(String),
}

/// A place that holds an entry's address, or looks so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) span: Span,
    pub(crate) entry: Entry,
    pub(crate) form: Form,
    pub(crate) function: Option<String>,
    pub(crate) reach: Option<Reach>,
    pub(crate) finding: Finding,
    /// The way of the address, by offset.
    pub(crate) steps: Vec<Step>,
}

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
    hits.retain(|hit| may_be_site(image, hit));
    if hits.is_empty() {
        return Scan { sites: Vec::new(), functions: None };
    }
    let mut scanner =
        Scanner { image, functions: Functions::of(image), sites: Vec::new(), cells: Vec::new() };
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

/// Whether `hit` is worth a look: in code, or a whole pointer.
fn may_be_site(image: &Image<'_>, hit: &Hit) -> bool {
    match *hit {
        Hit::Word(..) => true,
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
}

/// A word of memory that holds an entry's address, or gets it from code.
struct Candidate {
    at: Vaddr,
    span: Span,
    entry: Entry,
    function: Option<String>,
    constant: Constant,
    /// In initialised data, not stored by code.
    initialised: bool,
    /// Code stores it in the stead of another value.
    joined: bool,
    scratch_is_free: bool,
    /// The way of the address to the word.
    steps: Vec<Step>,
}

/// An instruction whose value is to be followed.
struct Subject {
    instruction: Instruction,
    constant: Constant,
}

impl<'a> Scanner<'a> {
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
        if self.functions.is_relocated(span.vaddr) {
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
            scratch_is_free: false,
            steps: vec![step(span, Deed::Holds)],
        });
    }

    /// The decoded function that holds `at`, from `functions` if it is there.
    fn function_at<'f>(
        &self,
        at: Vaddr,
        functions: &'f mut BTreeMap<Vaddr, (Function<'a>, Vec<Subject>)>,
    ) -> Result<&'f mut (Function<'a>, Vec<Subject>), code::Doubt> {
        let known = functions.range(..=at).next_back().filter(|(_, (function, _))| function.contains(at));
        let known = known.map(|(&start, _)| start);
        let start = match known {
            Some(start) => start,
            None => {
                let function = Function::decode(self.image, &self.functions, at)?;
                let start = function.extent.range.start;
                functions.insert(start, (function, Vec::new()));
                start
            }
        };
        functions.get_mut(&start).ok_or(code::Doubt::NoBoundary)
    }

    /// `at` is the displacement of what may be a branch straight into the page.
    fn branch(&mut self, at: Vaddr) {
        let opcode = Vaddr(at.0.wrapping_sub(1));
        if !self.image.may_be_code(opcode) {
            return;
        }
        let Ok(function) = Function::decode(self.image, &self.functions, opcode) else { return };
        let Some(index) = function.covering(opcode) else { return };
        let (instruction, name) = (function.instructions[index], function.extent.name);
        let branches =
            matches!(instruction.flow_control(), FlowControl::Call | FlowControl::UnconditionalBranch);
        let Some(entry) = Entry::at(instruction.near_branch_target()).filter(|_| branches) else { return };
        // Where the code behind cannot be followed, it may expect anything.
        let expects_preserved = function.complete(self.image, &self.functions).map_or(true, |function| {
            let index = function.index_of(Vaddr(instruction.ip()));
            index.is_none_or(|index| flow::expects_preserved(&function, index))
        });
        let evidence = Evidence {
            constant: Constant::Branch,
            calls: Vec::new(),
            loads: Vec::new(),
            word_may_change: false,
            only_called: false,
            adjacent: false,
            expects_preserved,
            conflict: None,
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
        let found = match self.function_at(at, functions) {
            Ok((function, subjects)) => {
                let extent = function.extent;
                function
                    .covering(at)
                    .map(|index| (function.instructions[index], subjects, extent))
                    .ok_or(code::Doubt::NoBoundary)
            }
            Err(doubt) => Err(doubt),
        };
        let (instruction, subjects, extent) = match found {
            Ok(found) => found,
            Err(doubt) => return self.undecoded(span, entry, doubt),
        };
        let name = extent.name;
        match self.role(&instruction, at) {
            Role::Followed(constant) => subjects.push(Subject { instruction, constant }),
            Role::Compared => {
                let reason = "compared with, never called";
                let span = self.span(&instruction);
                self.push(span, entry, Form::Compare, name, Finding::Harmless(reason.into()));
            }
            // Where nothing tells code from data, four bytes that no instruction takes whole are nothing.
            Role::Other(_) if !extent.is_bounded => {}
            Role::Other(reason) => {
                let holder = step(self.span(&instruction), Deed::Contains);
                self.push(span, entry, Form::OtherInstruction, name, Finding::Harmless(reason.into()));
                if let Some(site) = self.sites.last_mut() {
                    site.steps = vec![holder];
                }
            }
        }
    }

    /// `at` is where an instruction may subtract the negated address of the page. Only what is called is a
    /// site: ten megabytes are a common number.
    fn subtrahend(&mut self, at: Vaddr, functions: &mut BTreeMap<Vaddr, (Function<'a>, Vec<Subject>)>) {
        if !self.image.may_be_code(at) {
            return;
        }
        let Ok((function, subjects)) = self.function_at(at, functions) else { return };
        let Some(index) = function.covering(at) else { return };
        let instruction = function.instructions[index];
        let offsets = code::constant_offsets(self.image, &instruction);
        let is_operand = instruction.ip().wrapping_add(offsets.immediate_offset() as u64) == at.0;
        let subtracts = matches!(instruction.code(), Code::Sub_RAX_imm32 | Code::Sub_rm64_imm32);
        let register = flow::gpr(instruction.op0_register()).filter(|_| subtracts && is_operand);
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

    /// Nothing proves where instructions begin at `span`; what may be there all the same?
    fn undecoded(&mut self, span: Span, entry: Entry, doubt: code::Doubt) {
        let holder = (1..=11).find_map(|back| {
            let start = Vaddr(span.vaddr.0.checked_sub(back)?);
            let instruction = code::instruction_at(self.image, start)?;
            matches!(self.role(&instruction, span.vaddr), Role::Followed(_)).then_some(instruction)
        });
        match holder {
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
            return match flow::gpr(instruction.op0_register()) {
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
        let register = (instruction.op0_kind() == OpKind::Register)
            .then(|| flow::gpr(instruction.op0_register()))
            .flatten();
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

    /// The entry that the bytes alone name, to which an index may be added; the first one for its negative.
    fn nominal_entry(&self, subject: &Subject) -> Entry {
        let instruction = &subject.instruction;
        let immediate =
            (0..instruction.op_count()).find_map(|operand| instruction.try_immediate(operand).ok());
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
        let only_arithmetic = uses.entry.is_none() && uses.uses.iter().all(|used| *used == Use::Computed);
        let returned = uses.uses.contains(&Use::Returned);
        let in_resolver = function.extent.is_resolver
            || (returned && self.is_named_as_resolver(function.extent.range.start));
        let judged = judge(uses, !calls.is_empty() || elsewhere.is_some(), in_resolver);
        if computed.is_some() && !matches!(judged, Judged::Call(_)) {
            if subject.instruction.mnemonic() == Mnemonic::Sub {
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
                let (constant, function, initialised) = (subject.constant, name, false);
                self.cells.push(Candidate {
                    at,
                    span,
                    entry,
                    function,
                    constant,
                    initialised,
                    joined,
                    scratch_is_free,
                    steps,
                });
                return;
            }
            Judged::Not(form, finding) => (form, None, finding),
            Judged::Call(kept) => {
                let form = match kept {
                    Some(form) => form,
                    None => called_form(subject.constant, uses, &calls),
                };
                let exact = calls.iter().any(|call| call.exact);
                let constant = match computed {
                    Some(register) if uses.entry.is_none() => Constant::Indexed(register),
                    _ => subject.constant,
                };
                let is_always = exact || elsewhere.is_some() || matches!(constant, Constant::Indexed(_));
                let mut evidence = self.evidence(function, subject, constant, uses, calls, flow);
                if let Some(elsewhere) = elsewhere {
                    evidence.conflict = evidence.conflict.or(elsewhere.conflict);
                    evidence.expects_preserved = elsewhere.expects_preserved;
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
                    let _ = search::relative_references(self.image, own, |at| {
                        if code::may_be_branch_operand(self.image, at) && callers.len() < limits::CELL_READERS
                        {
                            callers.push(at);
                        }
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
        let decoded = Function::decode(self.image, &self.functions, at);
        let complete = decoded.and_then(|function| function.complete(self.image, &self.functions));
        let Ok(function) = complete else { return };
        if matches!(incoming, Incoming::Argument(_)) && function.extent.range.start != at {
            return;
        }
        let query = Subjects { incoming: Some(incoming), ..Subjects::default() };
        if let Ok(flow) = flow::analyse(self.image, &self.functions, &function, &query) {
            self.note_uses(&function, &flow, &query, 0, &flow.sites[0], found);
        }
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
            calls.push(Call { span: self.span(&function.instructions[index]), jump, exact, through, sites });
        }
        calls
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
        let expects_preserved = uses.uses.iter().any(|used| match *used {
            Use::Call { index, .. } | Use::IndexedCall { index } => flow::expects_preserved(function, index),
            _ => false,
        });
        let conflict = uses.uses.iter().find_map(|used| match used {
            Use::Compared => Some("the address is also compared with something"),
            Use::Computed => Some("the address is also computed with"),
            _ => None,
        });
        let only_called = !calls.is_empty()
            && uses.uses.iter().all(|used| matches!(used, Use::Call { exact: true, .. }))
            && !self.is_entered_between(function, subject, &calls);
        let adjacent = match calls.as_slice() {
            [call] => {
                let index = function.index_of(call.span.vaddr);
                call.span.vaddr.0 == subject.instruction.next_ip()
                    && index.is_some_and(|index| !flow.block_starts[index])
            }
            _ => false,
        };
        let scratch_is_free = self.scratch_is_free(function, subject);
        let (loads, word_may_change) = (Vec::new(), false);
        Evidence {
            constant,
            calls,
            loads,
            word_may_change,
            only_called,
            adjacent,
            expects_preserved,
            conflict,
            scratch_is_free,
        }
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

    fn scratch_is_free(&self, function: &Function<'a>, subject: &Subject) -> bool {
        let index = function.index_of(Vaddr(subject.instruction.ip()));
        index.is_some_and(|index| flow::scratch_is_free(function, index))
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

    // Words of memory.

    /// Finds out which of the collected words are called through.
    fn read_cells(&mut self) {
        let candidates = std::mem::take(&mut self.cells);
        if candidates.is_empty() {
            return;
        }
        let mut cells: Vec<(Vaddr, Entry)> =
            candidates.iter().map(|candidate| (candidate.at, candidate.entry)).collect();
        cells.sort_unstable();
        cells.dedup_by_key(|&mut (at, _)| at);
        let (addresses, entries): (Vec<Vaddr>, Vec<Entry>) = cells.into_iter().unzip();
        let readers = self.readers(&addresses, &entries);
        for candidate in &candidates {
            let reader = addresses.binary_search(&candidate.at).ok().and_then(|index| readers.get(index));
            if let Some(reader) = reader {
                self.classify_cell(candidate, reader);
            }
        }
    }

    /// What code does with the words at `addresses`.
    fn readers(&self, addresses: &[Vaddr], entries: &[Entry]) -> Vec<CellUses> {
        let mut found: Vec<CellUses> = addresses.iter().map(|_| CellUses::default()).collect();
        let mut places: Vec<Vaddr> = Vec::new();
        for (number, &address) in addresses.iter().enumerate() {
            let range = VaddrRange { start: self.table_start(address), end: address.plus(1) };
            let mut is_complete = true;
            let mut near = |at: Vaddr| {
                is_complete &= places.len() < limits::CELL_READERS;
                if is_complete {
                    places.push(at);
                }
            };
            let is_searched = search::relative_references(self.image, range, &mut near)
                && search::absolute_references(self.image, range, &mut near);
            found[number].pointed_to = self.is_pointed_to(address);
            found[number].doubtful = !(is_complete && is_searched);
        }
        places.sort_unstable();
        places.dedup();
        let mut functions: Vec<Function<'a>> = Vec::new();
        let mut is_doubtful = false;
        for &place in &places {
            if !self.image.may_be_code(place) || functions.iter().any(|function| function.contains(place)) {
                continue;
            }
            let is_operand = |function: &Function<'_>| {
                let covering = function.covering(place).map(|index| &function.instructions[index]);
                covering.is_some_and(|instruction| code::has_operand_at(self.image, instruction, place))
            };
            match Function::decode(self.image, &self.functions, place) {
                Ok(function) if !is_operand(&function) => {}
                Ok(function) => match function.complete(self.image, &self.functions) {
                    Ok(function) => functions.push(function),
                    Err(_) => is_doubtful = true,
                },
                Err(_) => is_doubtful |= code::may_be_displacement(self.image, place),
            }
        }
        for uses in &mut found {
            uses.doubtful |= is_doubtful;
        }
        for function in &functions {
            self.note_writers(function, addresses, &mut found);
        }
        for function in &functions {
            self.note_readers(function, addresses, entries, &mut found);
        }
        found
    }

    /// The first word of the table that the word at `at` may belong to: pointers to code, or nothing,
    /// stand before it.
    fn table_start(&self, at: Vaddr) -> Vaddr {
        let mut start = at;
        for _ in 0..limits::TABLE_WORDS {
            let before = Vaddr(start.0.wrapping_sub(8));
            let Some(word) = self.image.array_at::<8>(before).map(u64::from_le_bytes) else { break };
            let is_function = Entry::at(word).is_some() || self.image.is_executable(Vaddr(word)) || word == 0;
            if !is_function && !self.functions.is_relocated(before) {
                break;
            }
            start = before;
        }
        start
    }

    /// Whether data holds the address of the word at `at`, so that code unseen may write there.
    fn is_pointed_to(&self, at: Vaddr) -> bool {
        let mut found = false;
        let word = VaddrRange { start: at, end: at.plus(1) };
        let is_searched = search::absolute_references(self.image, word, |place| {
            found |= !self.image.may_be_code(place) && references::may_be_pointer(self.image, place);
        });
        found || !is_searched
    }

    fn note_writers(&self, function: &Function<'a>, addresses: &[Vaddr], found: &mut [CellUses]) {
        for instruction in &function.instructions {
            let Some(target) = memory_address(instruction) else { continue };
            let Ok(number) = addresses.binary_search(&target) else { continue };
            let reads_only = match instruction.mnemonic() {
                Mnemonic::Mov => instruction.op0_kind() == OpKind::Register,
                Mnemonic::Call | Mnemonic::Jmp | Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push => true,
                _ => false,
            };
            match instruction.mnemonic() {
                Mnemonic::Lea => found[number].pointed_to = true,
                _ => found[number].written |= !reads_only,
            }
        }
    }

    fn note_readers(
        &self,
        function: &Function<'a>,
        addresses: &[Vaddr],
        entries: &[Entry],
        found: &mut [CellUses],
    ) {
        let cells = addresses.iter().zip(entries).zip(found.iter()).map(|((&at, &entry), uses)| Cell {
            at,
            entry,
            may_change: uses.may_change(),
        });
        let mut query = Subjects::default();
        let cells: Vec<Cell> = cells.collect();
        for (chunk, cells) in cells.chunks(limits::SITES_PER_FUNCTION).enumerate() {
            query.cells = cells.to_vec();
            let first = chunk * limits::SITES_PER_FUNCTION;
            let Ok(flow) = flow::analyse(self.image, &self.functions, function, &query) else {
                for uses in &mut found[first..first + cells.len()] {
                    uses.doubtful = true;
                }
                continue;
            };
            for (number, uses) in flow.sites.iter().enumerate() {
                self.note_uses(function, &flow, &query, number, uses, &mut found[first + number]);
            }
        }
    }

    fn note_uses(
        &self,
        function: &Function<'a>,
        flow: &Flow,
        query: &Subjects,
        number: usize,
        uses: &SiteUses,
        found: &mut CellUses,
    ) {
        found.calls.extend(self.calls(function, flow, query, number));
        found.steps.extend(self.steps(function, uses));
        for used in &uses.uses {
            found.compared |= *used == Use::Compared;
            found.used |= !matches!(used, Use::Compared | Use::Loaded { .. });
            match *used {
                Use::Loaded { index } => {
                    let instruction = &function.instructions[index];
                    let register = (instruction.mnemonic() == Mnemonic::Mov)
                        .then(|| flow::gpr(instruction.op0_register()))
                        .flatten();
                    let flags_are_free = register.is_none() || flow::flags_are_free(function, index);
                    found.loads.push(Load { span: self.span(instruction), register, flags_are_free });
                }
                Use::Call { index, .. } => {
                    found.expects_preserved |= flow::expects_preserved(function, index);
                }
                Use::Compared => found.conflict = Some("the pointer is also compared with something"),
                Use::Computed => found.conflict = Some("the pointer is also computed with"),
                Use::Returned if function.extent.is_resolver => found.returned = true,
                _ => {}
            }
        }
    }

    /// Why the loads of an initialised word, not the word, cannot be rewritten where they have to be: in a
    /// file without fixed addresses.
    fn unrelocatable(&self, candidate: &Candidate, uses: &CellUses) -> Option<&'static str> {
        if !candidate.initialised || self.image.identity.file_type == FileType::Exec {
            return None;
        }
        let direct = |load: &Load| {
            let instruction = code::instruction_at(self.image, load.span.vaddr);
            instruction.and_then(|instruction| memory_address(&instruction)) == Some(candidate.at)
        };
        if uses.pointed_to || self.functions.is_exported_data(candidate.at) {
            Some("the word has no relocation that could make it point to a stub, and code unseen may read it")
        } else if uses.doubtful || !uses.loads.iter().all(direct) {
            Some("the word is read by an index and has no relocation that could make it point to a stub")
        } else {
            None
        }
    }

    fn classify_cell(&mut self, candidate: &Candidate, uses: &CellUses) {
        let called = !uses.calls.is_empty() || uses.returned;
        let (form, reach, finding) = if called {
            let form = if candidate.initialised { Form::DataWord } else { Form::StoredFallback };
            let always = candidate.initialised && !uses.may_change();
            let reach = if always { Reach::Always } else { Reach::Fallback };
            let evidence = Evidence {
                constant: candidate.constant,
                calls: uses.calls.clone(),
                loads: uses.loads.clone(),
                word_may_change: uses.may_change() || self.image.is_writable(candidate.at),
                only_called: false,
                adjacent: false,
                expects_preserved: uses.expects_preserved,
                conflict: uses.conflict.or(self.unrelocatable(candidate, uses)),
                scratch_is_free: candidate.scratch_is_free,
            };
            (form, Some(reach), Finding::Call(evidence))
        } else {
            let form = match candidate {
                Candidate { initialised: true, .. } => Form::DataWord,
                Candidate { joined: true, .. } => Form::StoredFallback,
                _ => Form::StoredConstant,
            };
            if candidate.initialised && uses.is_only_compared() {
                let reason = "compared with what is loaded, never called";
                let (span, entry, function) = (candidate.span, candidate.entry, candidate.function.clone());
                let steps = candidate.steps.iter().chain(&uses.steps).copied().collect();
                let finding = Finding::Harmless(reason.into());
                self.sites.push(Site { span, entry, form, function, reach: None, finding, steps });
                return;
            }
            let reason = if uses.doubtful {
                "the code that reads the word could not be analysed"
            } else if uses.loads.is_empty() {
                "no code is seen that reads the word"
            } else {
                "no code is seen that calls through the word"
            };
            (form, None, Finding::Unproven(reason.into()))
        };
        let (span, entry, function) = (candidate.span, candidate.entry, candidate.function.clone());
        let steps = candidate.steps.iter().chain(&uses.steps).copied().collect();
        self.sites.push(Site { span, entry, form, function, reach, finding, steps });
    }
}

/// What is known of the code that uses a word of memory.
#[derive(Clone, Debug, Default)]
struct CellUses {
    calls: Vec<Call>,
    steps: Vec<Step>,
    loads: Vec<Load>,
    written: bool,
    pointed_to: bool,
    returned: bool,
    compared: bool,
    /// Anything is done with it but loading and comparing.
    used: bool,
    doubtful: bool,
    expects_preserved: bool,
    conflict: Option<&'static str>,
}

impl CellUses {
    /// Whether all that code does with the word is to load and to compare it.
    fn is_only_compared(&self) -> bool {
        self.compared && !self.used && !self.doubtful && !self.pointed_to
    }

    fn may_change(&self) -> bool {
        self.written || self.pointed_to
    }
}

/// Instructions before the first one that has to do with a site, to show where that is.
const STEPS_BEFORE: usize = 3;

fn step(Span { vaddr, offset, len }: Span, deed: Deed) -> Step {
    Step { offset, vaddr, len, deed }
}

/// What an instruction does with an immediate that is an entry's address.
enum Role {
    Followed(Constant),
    Compared,
    Other(&'static str),
}

enum Judged {
    /// Called; the form where it is not the kind of the calls that tells.
    Call(Option<Form>),
    /// Stored in a word of memory: whether it is called is for the readers of the word to tell.
    Cell {
        at: Vaddr,
        joined: bool,
    },
    Not(Form, Finding),
}

fn judge(uses: &SiteUses, called: bool, in_resolver: bool) -> Judged {
    let has = |wanted: fn(&Use) -> bool| uses.uses.iter().any(wanted);
    let unproven = |form, reason: &str| Judged::Not(form, Finding::Unproven(reason.into()));
    let stored_to = uses.uses.iter().find_map(|used| match used {
        Use::StoredTo { at, joined } => Some((*at, *joined)),
        _ => None,
    });
    if called || has(|used| matches!(used, Use::IndexedCall { .. })) {
        Judged::Call(None)
    } else if has(|used| *used == Use::Returned) && in_resolver {
        Judged::Call(Some(Form::IfuncFallback))
    } else if has(|used| *used == Use::StoredMangled) {
        Judged::Call(Some(Form::StoredFallback))
    } else if let Some((at, joined)) = stored_to {
        Judged::Cell { at, joined }
    } else if has(|used| *used == Use::Returned) {
        unproven(Form::StoredConstant, "returned to callers that are not known")
    } else if has(|used| *used == Use::Stored) {
        unproven(Form::StoredConstant, "stored in memory that is not followed")
    } else if has(|used| matches!(used, Use::Argument { .. })) {
        unproven(Form::Argument, "passed on as an argument")
    } else if has(|used| *used == Use::Computed) {
        unproven(Form::Computed, "computed with, and the result is not followed")
    } else if has(|used| *used == Use::Compared) {
        Judged::Not(Form::Compare, Finding::Harmless("compared with, never called".into()))
    } else {
        unproven(Form::OtherInstruction, "no use of the value is seen")
    }
}

fn called_form(constant: Constant, uses: &SiteUses, calls: &[Call]) -> Form {
    let through_slot = uses.uses.iter().any(|used| matches!(used, Use::Call { through_slot: true, .. }));
    if matches!(constant, Constant::Computed(_)) {
        Form::Computed
    } else if through_slot {
        Form::StackSlot
    } else if calls.iter().all(|call| call.jump) {
        Form::TailJump
    } else {
        Form::DirectCall
    }
}

/// The fixed address that a memory operand of `instruction` names.
fn memory_address(instruction: &Instruction) -> Option<Vaddr> {
    let has_memory =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    if !has_memory || matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
        return None;
    }
    if instruction.is_ip_rel_memory_operand() {
        return Some(Vaddr(instruction.ip_rel_memory_address()));
    }
    let fixed = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    fixed.then(|| Vaddr(instruction.memory_displacement64()))
}

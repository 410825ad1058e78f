//! Words of memory that hold an entry's address, or get it from code: who reads them, who calls through them,
//! who may replace what is there.

use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::pointers::Pointers;
use super::{Call, Constant, Evidence, Finding, Load, Scanner, Site, Span, pointer_at};
use crate::addr::{Vaddr, VaddrRange};
use crate::code::{self, Function};
use crate::elf::FileType;
use crate::flow::{self, Cell, Flow, SiteUses, Subjects, Through, Use};
use crate::functions;
use crate::guard;
use crate::limits;
use crate::liveness::{self, Expected};
use crate::references;
use crate::registers::gpr;
use crate::search;
use crate::site::{Form, Reach, Step};
use crate::vsyscall::Entry;

/// A word of memory that holds an entry's address, or gets it from code.
pub(super) struct Candidate {
    pub(super) at: Vaddr,
    pub(super) span: Span,
    pub(super) entry: Entry,
    pub(super) function: Option<String>,
    pub(super) constant: Constant,
    /// In initialised data, not stored by code.
    pub(super) initialised: bool,
    /// Code stores it in the stead of another value.
    pub(super) joined: bool,
    /// What the code that stores it does with it otherwise, so that it must not become another one.
    pub(super) conflict: Option<&'static str>,
    pub(super) flags_are_free: bool,
    pub(super) scratch_is_free: bool,
    /// The way of the address to the word.
    pub(super) steps: Vec<Step>,
}

/// Bytes of an immediate that may follow a displacement.
const LARGEST_IMMEDIATE: u64 = 4;

impl<'a> Scanner<'a> {
    /// Finds out which of the collected words are called through, and what else is done with those that called addresses are
    /// kept in.
    pub(super) fn read_cells(&mut self) {
        let (candidates, kept) = (std::mem::take(&mut self.cells), std::mem::take(&mut self.kept_words));
        let of_kept = kept.iter().map(|&(at, site)| (at, self.sites[site].entry));
        let mut cells: Vec<(Vaddr, Entry)> =
            candidates.iter().map(|candidate| (candidate.at, candidate.entry)).chain(of_kept).collect();
        if cells.is_empty() {
            return;
        }
        cells.sort_unstable();
        cells.dedup_by_key(|&mut (at, _)| at);
        let (addresses, entries): (Vec<Vaddr>, Vec<Entry>) = cells.into_iter().unzip();
        let mut readers = self.readers(&addresses, &entries);
        self.note_conflicts_where_kept(&mut readers, &entries);
        let reader = |at: Vaddr| addresses.binary_search(&at).ok().and_then(|index| readers.get(index));
        for candidate in &candidates {
            if let Some(reader) = reader(candidate.at) {
                self.classify_cell(candidate, reader);
            }
        }
        for (at, site) in kept {
            let conflict = reader(at).and_then(|reader| reader.conflict);
            if let Finding::Call(evidence) = &mut self.sites[site].finding {
                evidence.conflict = evidence.conflict.or(conflict);
            }
        }
    }

    /// What stands in a word may be stored to another one, where code compares or computes with it.
    fn note_conflicts_where_kept(&self, readers: &mut [CellUses], entries: &[Entry]) {
        let mut kept: Vec<(Vaddr, Entry)> = readers
            .iter()
            .zip(entries)
            .filter(|(reader, _)| reader.conflict.is_none() && !reader.calls.is_empty())
            .flat_map(|(reader, &entry)| reader.kept_in.iter().map(move |&at| (at, entry)))
            .collect();
        if kept.is_empty() {
            return;
        }
        kept.sort_unstable();
        kept.dedup_by_key(|&mut (at, _)| at);
        let (addresses, kept_entries): (Vec<Vaddr>, Vec<Entry>) = kept.into_iter().unzip();
        let where_kept = self.readers(&addresses, &kept_entries);
        for reader in readers.iter_mut().filter(|reader| reader.conflict.is_none()) {
            let words = reader.kept_in.iter().filter_map(|at| addresses.binary_search(at).ok());
            reader.conflict = words.filter_map(|word| where_kept[word].conflict).next();
        }
    }

    /// What code does with the words at `addresses`, which are sorted.
    fn readers(&self, addresses: &[Vaddr], entries: &[Entry]) -> Vec<CellUses> {
        let pointed = |&at: &Vaddr| {
            let pointers = match Pointers::to(self.image, at) {
                // By its name.
                Pointers::None if self.functions.is_exported(at) => Pointers::Unknown,
                pointers => pointers,
            };
            CellUses { pointers, ..CellUses::default() }
        };
        let mut found: Vec<CellUses> = addresses.iter().map(pointed).collect();
        let mut functions: Vec<Function<'a>> = Vec::new();
        let mut objects = functions::objects_around(self.image, addresses);
        for ((object, &at), uses) in objects.iter_mut().zip(addresses).zip(&found) {
            let is_variable = object.is_none() && uses.pointers == Pointers::ByVdsoName;
            *object = if is_variable { VaddrRange::new(at, 8) } else { *object };
        }
        let tables: Vec<VaddrRange> =
            addresses.iter().zip(&objects).map(|(&at, &object)| self.table_around(at, object)).collect();
        for (uses, object) in found.iter_mut().zip(&objects) {
            uses.has_object = object.is_some();
        }
        let mut first = 0;
        while first < addresses.len() {
            // Words of one table are looked for at once.
            let is_behind = |&next: &usize| tables[next].start >= tables[next - 1].end;
            let behind = (first + 1..addresses.len()).find(is_behind).unwrap_or(addresses.len());
            // An immediate behind the displacement moves what this seems to lead to.
            let start = Vaddr(tables[first].start.0.saturating_sub(LARGEST_IMMEDIATE));
            let table = VaddrRange { start, end: tables[behind - 1].end };
            let is_doubtful = !self.collect_readers(table, &mut functions);
            found[first..behind].iter_mut().for_each(|uses| uses.doubtful = is_doubtful);
            first = behind;
        }
        for function in &functions {
            self.note_writers(function, addresses, &mut found);
        }
        let words = addresses.iter().zip(entries).zip(objects).zip(&found);
        let words: Vec<Cell> = words
            .map(|(((&at, &entry), object), uses)| Cell { at, entry, object, may_change: uses.may_change() })
            .collect();
        let start = tables.iter().map(|table| table.start).min();
        let whole = start.zip(addresses.last()).map(|(start, &end)| VaddrRange { start, end });
        let objects = whole.map_or_else(Vec::new, |whole| functions::objects_in(self.image, whole));
        for function in &functions {
            self.note_readers(function, &words, &objects, &mut found);
        }
        found
    }

    /// Adds the functions that name an address in `table`; whether these are all.
    fn collect_readers(&self, table: VaddrRange, functions: &mut Vec<Function<'a>>) -> bool {
        let (mut places, mut are_all): (Vec<Vaddr>, bool) = (Vec::new(), true);
        let mut near = |at: Vaddr| {
            are_all &= places.len() < limits::CELL_READERS;
            if are_all {
                places.push(at);
            }
        };
        let is_searched = search::relative_references(self.image, table, &mut near)
            && search::absolute_references(self.image, table, &mut near)
            && search::table_references(self.image, table, &mut near);
        are_all &= is_searched;
        for place in places {
            let is_operand = |function: &Function<'_>| {
                let covering = function.covering(place).map(|index| &function.instructions[index]);
                covering.is_some_and(|instruction| code::has_operand_at(self.image, instruction, place))
            };
            if !self.image.may_be_code(place) || functions.iter().any(is_operand) {
                continue;
            }
            match Function::decode(self.image, &self.functions, place) {
                Ok(function) if !is_operand(&function) => {}
                Ok(function) => match function.complete(self.image, &self.functions) {
                    Ok(function) => functions.push(function),
                    Err(_) => are_all = false,
                },
                Err(_) => are_all &= !code::may_be_displacement(self.image, place),
            }
        }
        are_all
    }

    /// The addresses that code may name which reads the word at `at` by an index: those of the table that it may belong to.
    /// Pointers stand before it there, to code or to names, or nothing; symbols tell of `object`. Where the word holds an
    /// entry's address from the begin on, an element before the table, too, for indices from one on, and in a file with
    /// fixed addresses all to an element behind it, for those up to zero.
    fn table_around(&self, at: Vaddr, object: Option<VaddrRange>) -> VaddrRange {
        let is_fixed = self.image.identity.file_type == FileType::Exec;
        let points = |word: Vaddr| {
            let pointer = self.image.array_at::<8>(word).map(u64::from_le_bytes);
            is_fixed && pointer.is_some_and(|pointer| self.image.segment_at(Vaddr(pointer)).is_some())
        };
        let holds_function = |word: Vaddr| references::may_hold_function(self.image, &self.functions, word);
        let words_before = (1..=limits::TABLE_WORDS).map(|words| Vaddr(at.0.wrapping_sub(8 * words)));
        let is_before = |&word: &Vaddr| {
            !self.image.is_in_global_offset_table(word) && (points(word) || holds_function(word))
        };
        let (farthest, behind) = (at.0.saturating_sub(8 * limits::TABLE_WORDS), at.plus(8));
        let start = words_before.take_while(is_before).last().unwrap_or(at);
        let start = object.map_or(start, |object| start.min(object.start.max(Vaddr(farthest))));
        if pointer_at(self.image, at).is_none() {
            return VaddrRange { start, end: behind };
        }
        let start = Vaddr(start.0.saturating_sub(limits::TABLE_ELEMENT_BYTES));
        if !is_fixed {
            return VaddrRange { start, end: behind };
        }
        let words_behind = (1..=limits::TABLE_WORDS).map(|words| at.plus(8 * words));
        let is_behind = |&word: &Vaddr| points(word) || pointer_at(self.image, word).is_some();
        let last = words_behind.take_while(is_behind).last().unwrap_or(at);
        let end = object.map_or(last.plus(8), |object| object.end.min(at.plus(8 * limits::TABLE_WORDS)));
        VaddrRange { start, end: end.plus(limits::TABLE_ELEMENT_BYTES) }
    }

    fn note_writers(&self, function: &Function<'a>, addresses: &[Vaddr], found: &mut [CellUses]) {
        for instruction in &function.instructions {
            let distant = code::distance_from_table(self.image, instruction);
            if let Some(number) = distant.and_then(|target| addresses.binary_search(&target).ok()) {
                found[number].address_is_taken = true;
            }
            let Some(target) = memory_address(instruction) else { continue };
            let Some(number) = addresses.partition_point(|&at| at <= target).checked_sub(1) else { continue };
            let reads_only = match instruction.mnemonic() {
                Mnemonic::Mov => instruction.op0_kind() == OpKind::Register,
                Mnemonic::Call | Mnemonic::Jmp | Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push => true,
                _ => false,
            };
            if target != addresses[number] {
                if target < addresses[number].plus(8) && !reads_only {
                    found[number].conflict = Some("a part of the pointer is also written");
                }
                continue;
            }
            match instruction.mnemonic() {
                Mnemonic::Lea => found[number].address_is_taken = true,
                _ => found[number].written |= !reads_only,
            }
        }
    }

    fn note_readers(
        &self,
        function: &Function<'a>,
        cells: &[Cell],
        objects: &[VaddrRange],
        found: &mut [CellUses],
    ) {
        let mut query = Subjects { objects: objects.to_vec(), ..Subjects::default() };
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

    pub(super) fn note_uses(
        &self,
        function: &Function<'a>,
        flow: &Flow,
        query: &Subjects,
        number: usize,
        uses: &SiteUses,
        found: &mut CellUses,
    ) {
        let mut calls = self.calls(function, flow, query, number);
        for call in &mut calls {
            let index = function.index_of(call.span.vaddr).filter(|_| call.through != Through::Return);
            call.run = index.and_then(|index| self.run_up_to(function, flow, index));
        }
        let reads_word = |used: &Use| match *used {
            Use::Loaded { index } => memory_address(&function.instructions[index]) == query.address(number),
            _ => false,
        };
        let mut loads = uses.uses.iter().filter(|used| matches!(used, Use::Loaded { .. })).peekable();
        let is_alone = loads.peek().is_some() && loads.all(reads_word);
        found.called_alone |= is_alone && !calls.is_empty();
        found.calls.extend(calls);
        found.steps.extend(self.steps(function, uses));
        for used in &uses.uses {
            let is_looked_at = matches!(
                used,
                Use::Compared
                    | Use::Loaded { .. }
                    | Use::Guarded
                    | Use::ReturnedSecond
                    | Use::Copied
                    | Use::Pointed
                    | Use::PointedResult
            );
            let is_called = matches!(used, Use::Call { .. });
            found.used |= !is_looked_at;
            found.goes_elsewhere |= !is_looked_at && !is_called;
            found.used_alone |= is_alone && !is_looked_at && !is_called;
            match *used {
                Use::Loaded { index } => {
                    let instruction = &function.instructions[index];
                    let register = (instruction.mnemonic() == Mnemonic::Mov)
                        .then(|| gpr(instruction.op0_register()))
                        .flatten();
                    let is_direct = reads_word(used);
                    let flags_are_free = register.is_none() || liveness::flags_are_free(function, index);
                    let is_guarded =
                        is_guard(function, index) || guard::is_at(self.image, Vaddr(instruction.ip()));
                    found.guards += usize::from(is_guarded);
                    let span = self.span(instruction);
                    found.loads.push(Load { span, register, flags_are_free, is_direct });
                }
                Use::Call { index, .. } => {
                    found.expected = found.expected.or(Expected::behind_call(function, index));
                }
                Use::Compared => found.conflict = Some("the pointer is also compared with something"),
                Use::Computed => found.conflict = Some("the pointer is also computed with"),
                Use::Returned if function.extent.is_resolver => found.returned = true,
                Use::Argument { callee, register } if !found.passed => {
                    found.passed = !callee.is_some_and(|callee| self.is_left_over(callee, register));
                }
                Use::StoredTo { at, .. } => found.kept_in.push(at),
                Use::Guarded => found.guards += 1,
                Use::Copied => found.copied = true,
                Use::Pointed => found.escapes = true,
                Use::PointedResult => {
                    let is_ignored =
                        function.extent.is_bounded && self.result_is_ignored(function.extent.range.start);
                    found.escapes |= !is_ignored;
                }
                _ => {}
            }
        }
    }

    /// Why the code that reads an initialised word, not the word, cannot be rewritten where it has to be: in a file
    /// without fixed addresses.
    fn unrelocatable(&self, candidate: &Candidate, uses: &CellUses) -> Option<&'static str> {
        if !candidate.initialised || self.image.identity.file_type == FileType::Exec {
            return None;
        }
        if uses.may_be_read_by_pointer() || uses.escapes || uses.copied {
            Some("the word has no relocation that could make it point to a stub, and code unseen may read it")
        } else if uses.doubtful {
            Some(
                "the word has no relocation that could make it point to a stub, and code that reads it could not be analysed",
            )
        } else {
            None
        }
    }

    fn classify_cell(&mut self, candidate: &Candidate, uses: &CellUses) {
        // What is copied on its own, and called through only where a table before it is read by an index, is more
        // likely a constant that stands behind that table: such constants have no symbols.
        let is_direct = uses.loads.iter().any(|load| load.is_direct);
        let is_copied_apart = uses.copied && !uses.has_object && !is_direct;
        // Likewise what is a value of its own to all code that reads it alone.
        let is_read_apart = uses.used_alone && !uses.called_alone;
        // What code finds in a table and passes on may be a value of another kind than what it finds there and calls.
        let is_of_table = uses.loads.iter().any(|load| !load.is_direct);
        let is_of_two_kinds = is_of_table && uses.passed && !uses.called_alone;
        let is_apart = candidate.initialised && (is_copied_apart || is_read_apart || is_of_two_kinds);
        let called = (!uses.calls.is_empty() || uses.returned) && !is_apart;
        let (form, reach, finding) = if called {
            let form = match candidate.constant {
                Constant::Indexed(_) => Form::Computed,
                _ if candidate.initialised => Form::DataWord,
                _ => Form::StoredFallback,
            };
            let always = candidate.initialised && !uses.may_change();
            let reach = if always { Reach::Always } else { Reach::Fallback };
            // There the code that reads the word is changed, not the word.
            let keeps_value = candidate.initialised && self.image.identity.file_type != FileType::Exec;
            let evidence = Evidence {
                constant: candidate.constant,
                calls: uses.calls.clone(),
                loads: uses.loads.clone(),
                word_is_only_called: !uses.goes_elsewhere,
                word_may_change: uses.may_change() || self.image.is_writable(candidate.at),
                only_called: false,
                adjacent: false,
                wrapper: None,
                expected: uses.expected,
                is_passed_on: !keeps_value && uses.is_passed_on(),
                conflict: candidate.conflict.or(uses.conflict).or(self.unrelocatable(candidate, uses)),
                flags_are_free: candidate.flags_are_free,
                scratch_is_free: candidate.scratch_is_free,
            };
            (form, Some(reach), Finding::Call(evidence))
        } else {
            // Ten megabytes less is a common number.
            let holder = code::instruction_at(self.image, candidate.span.vaddr);
            if !candidate.initialised && holder.is_some_and(|holder| code::subtracts(&holder)) {
                return;
            }
            let form = match candidate {
                Candidate { initialised: true, .. } => Form::DataWord,
                Candidate { joined: true, .. } => Form::StoredFallback,
                _ => Form::StoredConstant,
            };
            if candidate.initialised && uses.is_guarded() {
                let reason = "where it is loaded, it is replaced before it is called";
                let (span, entry, function) = (candidate.span, candidate.entry, candidate.function.clone());
                let steps = candidate.steps.iter().chain(&uses.steps).copied().collect();
                let finding = Finding::Harmless(reason.into());
                self.sites.push(Site { span, entry, form, function, reach: None, finding, steps });
                return;
            }
            let reason = if uses.doubtful {
                "the code that reads the word could not be analysed"
            } else if is_read_apart && is_apart && !uses.calls.is_empty() {
                "the word is read on its own and not called, and may stand behind the table that is called through"
            } else if is_of_two_kinds && !uses.calls.is_empty() {
                "code that reads a table calls what it finds there, and passes it on, too: it may be no function"
            } else if uses.copied {
                "the word is copied to where it is not followed"
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
pub(super) struct CellUses {
    pub(super) calls: Vec<Call>,
    pub(super) steps: Vec<Step>,
    pub(super) loads: Vec<Load>,
    pub(super) written: bool,
    /// Data that points to it, or to its table.
    pub(super) pointers: Pointers,
    /// Code computes its address.
    pub(super) address_is_taken: bool,
    /// That address, or its table's, goes where it is not followed.
    pub(super) escapes: bool,
    /// It is known what data object it belongs to.
    pub(super) has_object: bool,
    /// Instructions take the word along to where it is not followed.
    pub(super) copied: bool,
    pub(super) returned: bool,
    /// Code passes it to a function that does something with it.
    pub(super) passed: bool,
    /// Words that what stands in it is stored to.
    pub(super) kept_in: Vec<Vaddr>,
    /// Places where the entry's address is told from what else may be there, before that is called.
    pub(super) guards: usize,
    /// Code that reads just this word, not a table by an index, calls what it finds.
    pub(super) called_alone: bool,
    /// Such code does something else with it than loading, comparing and calling.
    pub(super) used_alone: bool,
    /// Anything is done with it but loading and comparing.
    pub(super) used: bool,
    /// Anything is done with it but loading, comparing and calling.
    pub(super) goes_elsewhere: bool,
    pub(super) doubtful: bool,
    pub(super) expected: Expected,
    pub(super) conflict: Option<&'static str>,
}

impl CellUses {
    /// Whether code that loads the word takes something else where it holds the entry's address, as patched code does,
    /// and no other code calls it.
    fn is_guarded(&self) -> bool {
        let is_seen_whole = !self.doubtful && !self.may_be_read_by_pointer() && !self.escapes && !self.copied;
        self.guards > 0 && !self.used && is_seen_whole
    }

    /// Whether the word, or what stands in it, goes to code that is not followed; what reads a table by an index may be
    /// about any of its words.
    fn is_passed_on(&self) -> bool {
        let is_of_table = self.loads.iter().any(|load| !load.is_direct);
        let is_found = self.may_be_read_by_pointer() || self.escapes || self.copied;
        self.goes_elsewhere || is_of_table || is_found || self.doubtful
    }

    fn may_change(&self) -> bool {
        self.written || self.pointers != Pointers::None || self.address_is_taken
    }

    fn may_be_read_by_pointer(&self) -> bool {
        self.pointers == Pointers::Unknown
    }
}

/// Whether instruction number `index` loads a register that is compared with an entry's address right behind it,
/// and loaded anew where it is equal.
fn is_guard(function: &Function<'_>, index: usize) -> bool {
    let [load, compare, branch, address] = [0, 1, 2, 3].map(|next| function.instructions.get(index + next));
    let (Some(load), Some(compare), Some(branch), Some(address)) = (load, compare, branch, address) else {
        return false;
    };
    let register = load.op0_register();
    load.code() == Code::Mov_r64_rm64
        && matches!(compare.code(), Code::Cmp_rm64_imm32 | Code::Cmp_RAX_imm32)
        && compare.op0_register() == register
        && Entry::at(compare.immediate32to64().cast_unsigned()).is_some()
        && branch.condition_code() == ConditionCode::ne
        && address.code() == Code::Lea_r64_m
        && address.op0_register() == register
        && function.fall_through(index) == Some(index + 1)
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

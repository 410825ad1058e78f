//! How a call that was really made belongs to what a scan lists, found without the scan's data flow: only
//! instructions are decoded, and functions looked up. So one is a test of the other.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use serde::Serialize;

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::elf::{Image, Segment};
use crate::functions::Functions;
use crate::plan::{Plan, PlannedSite, Strategy};
use crate::site::{Form, Verdict};
use crate::vsyscall::Entry;

/// How a call belongs to a listed site, the most certain first. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// It returns behind a call that an edit of the site replaces.
    Edit,
    /// The function that called holds the site.
    Function,
    /// The function that was called (or one that it jumps to) holds the site: a tail jump, so the page
    /// returned to the caller.
    TailJump,
    /// The site's address travels through memory, an argument or a returned value to a call elsewhere: the
    /// code that called has no address of its own.
    Travel,
}

/// Longest call that is looked for before a return address, in bytes.
const LONGEST_CALL: u64 = 9;

/// Bytes of code that are taken for a function where nothing tells of one.
const NEAR: u64 = 64;

/// Jumps from function to function that are followed to a tail jump into the page.
const JUMPS: usize = 4;

/// Whether the call may be in another function than the site, or in another file: what becomes the address of a stub
/// may go anywhere.
fn travels(site: &PlannedSite) -> bool {
    let may_travel = matches!(
        site.form,
        Form::IfuncFallback
            | Form::StoredFallback
            | Form::DataWord
            | Form::Computed
            | Form::Argument
            | Form::StoredConstant
    );
    may_travel || matches!(site.strategy, Some(Strategy::Stub | Strategy::Vdso))
}

/// A file that called, with what is needed to find out from where.
#[derive(Debug)]
pub struct Caller<'a> {
    image: &'a Image<'a>,
    functions: Functions<'a>,
    plan: &'a Plan,
}

impl<'a> Caller<'a> {
    /// The file `image`, for which `plan` was made.
    #[must_use]
    pub fn new(image: &'a Image<'a>, plan: &'a Plan) -> Self {
        Self { image, functions: Functions::of(image), plan }
    }

    /// The address of the code at a file offset.
    #[must_use]
    pub fn address(&self, offset: FileOffset) -> Option<Vaddr> {
        let holds = |segment: &&Segment| segment.offset.0 <= offset.0 && offset.0 < segment.file_end().0;
        let mut code = self.image.segments.iter().filter(|s| self.image.is_executable(s.range.start));
        let segment = code.find(holds)?;
        Some(Vaddr(offset.0 - segment.offset.0 + segment.range.start.0))
    }

    /// The name of the function that called and is returned to at `address`.
    #[must_use]
    pub fn name(&self, address: Vaddr) -> Option<&'a str> {
        self.functions.extent(self.image, Vaddr(address.0.checked_sub(1)?))?.name
    }

    /// How the call of `entry` that returned to `offset` belongs to a site, and its index in the plan, where that
    /// is known.
    ///
    /// # Errors
    /// Why it belongs to none, in words.
    pub fn belongs(&self, offset: FileOffset, entry: Entry) -> Result<(By, Option<usize>), String> {
        let address = self.address(offset).ok_or("it returned to no code")?.0;
        let calls = self.calls_before(address);
        if calls.is_empty() {
            return Err("it did not return behind a call".into());
        }
        let replaced = |site: &PlannedSite| {
            let mut edits = site.edits.iter().filter_map(|&index| self.plan.edits.get(index));
            edits.any(|edit| edit.offset.0 + edit.before.len() as u64 == offset.0)
        };
        if let Some(site) = self.site_of(entry, replaced) {
            return Ok((By::Edit, Some(site)));
        }
        let ranges = self.code_of(address, &calls);
        for &(range, by) in &ranges {
            if let Some(site) = self.site_of(entry, |site| range.contains(site.vaddr)) {
                return Ok((by, Some(site)));
            }
        }
        if let Some((range, _)) = ranges.iter().find(|(range, _)| self.has_address(*range, entry)) {
            return Err(format!("the address is in the code at {}, and no site is listed", range.start));
        }
        if self.site_of(entry, travels).is_some() {
            return Ok((By::Travel, None));
        }
        let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
        Err(format!("no listed site fits the call {}", calls.join(" or ")))
    }

    /// The first site of `entry` that fits. One that is called harmless explains no call; a computed entry is
    /// known only at run time.
    fn site_of(&self, entry: Entry, fits: impl Fn(&PlannedSite) -> bool) -> Option<usize> {
        self.plan.sites.iter().position(|site| {
            let is_of_entry = site.entry == entry || site.form == Form::Computed;
            is_of_entry && site.verdict != Verdict::Harmless && fits(site)
        })
    }

    /// The functions that may have held the address when `calls` returned to `address`.
    fn code_of(&self, address: u64, calls: &[Instruction]) -> Vec<(VaddrRange, By)> {
        let (local, outward): (Vec<Instruction>, Vec<_>) =
            calls.iter().partition(|call| self.is_own_code(call));
        let mut ranges = vec![];
        if !outward.is_empty() {
            ranges.push((self.function(address - 1, address.saturating_sub(NEAR)..address), By::Function));
        }
        let mut called: BTreeSet<u64> = local.iter().map(Instruction::near_branch_target).collect();
        for _ in 0..JUMPS {
            let near = |at: u64| at..at.saturating_add(NEAR);
            ranges.extend(called.iter().map(|&at| (self.function(at, near(at)), By::TailJump)));
            called = called.iter().flat_map(|&at| self.jumps_out_of(at)).collect();
        }
        ranges
    }

    /// Whether `call` is one of a place in this file: else it is indirect, or straight into the page.
    fn is_own_code(&self, call: &Instruction) -> bool {
        call.flow_control() == FlowControl::Call && self.image.is_executable(Vaddr(call.near_branch_target()))
    }

    /// The function around `address`; `near` where nothing tells of one.
    fn function(&self, address: u64, near: Range<u64>) -> VaddrRange {
        let near = VaddrRange { start: Vaddr(near.start), end: Vaddr(near.end) };
        self.functions.extent(self.image, Vaddr(address)).map_or(near, |extent| extent.range)
    }

    /// Whether the bytes of `entry`'s address are in `range`, as instructions have them.
    fn has_address(&self, range: VaddrRange, entry: Entry) -> bool {
        let bytes = self.image.bytes_at(range.start).unwrap_or_default();
        let len = bytes.len().min(range.len() as usize);
        let immediate = (entry.address() as u32).to_le_bytes();
        memchr::memmem::find(&bytes[..len], &immediate).is_some()
    }

    /// Every instruction that ends at `address` and is a call: of some bytes, more than one reading is.
    fn calls_before(&self, address: u64) -> Vec<Instruction> {
        let read = |len: u64| {
            let at = address.checked_sub(len)?;
            let call = decode(self.image.bytes_at(Vaddr(at))?, at).next()?;
            let is_call = matches!(call.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            (is_call && call.len() as u64 == len).then_some(call)
        };
        (2..=LONGEST_CALL).filter_map(read).collect()
    }

    /// Where the function at `address` jumps to outside of itself.
    fn jumps_out_of(&self, address: u64) -> BTreeSet<u64> {
        let own = self.function(address, address..address.saturating_add(NEAR));
        let Some(bytes) = self.image.bytes_at(Vaddr(address)) else { return BTreeSet::new() };
        decode(bytes, address)
            .take_while(|instruction| own.contains(Vaddr(instruction.ip())))
            .filter(|i| {
                matches!(i.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch)
            })
            .map(|instruction| instruction.near_branch_target())
            .filter(|&to| !own.contains(Vaddr(to)))
            .collect()
    }
}

fn decode(bytes: &[u8], at: u64) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
}

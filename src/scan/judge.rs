//! What the uses of a site's value make of it.

use super::{Call, Constant, Finding};
use crate::addr::Vaddr;
use crate::flow::{SiteUses, Use};
use crate::site::Form;

pub(super) enum Judged {
    /// Called; the form where it is not the kind of the calls that tells.
    Call(Option<Form>),
    /// Stored in a word of memory: whether it is called is for the readers of the word to tell.
    Cell {
        at: Vaddr,
        joined: bool,
    },
    Not(Form, Finding),
}

pub(super) fn judge(uses: &SiteUses, called: bool, in_resolver: bool) -> Judged {
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
    } else if has(|used| *used == Use::ReturnedSecond) {
        unproven(Form::StoredConstant, "may be returned to callers that are not known")
    } else {
        unproven(Form::OtherInstruction, "no use of the value is seen")
    }
}

/// The form of a site that some of `calls` go through.
pub(super) fn called_form<'a>(
    constant: Constant,
    uses: &SiteUses,
    mut calls: impl Iterator<Item = &'a Call>,
) -> Form {
    let through_slot = uses.uses.iter().any(|used| matches!(used, Use::Call { through_slot: true, .. }));
    if matches!(constant, Constant::Computed(_)) {
        Form::Computed
    } else if through_slot {
        Form::StackSlot
    } else if calls.all(|call| call.jump) {
        Form::TailJump
    } else {
        Form::DirectCall
    }
}

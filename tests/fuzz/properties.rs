//! What holds for any bytes. Errors are fine, panics are bugs, and revert(patch(x)) is x.
//!
//! Shared by the fuzz targets and by tests/fuzz_seeds.rs, which needs no fuzzer.
#![allow(dead_code, reason = "each target uses its own property")]

use vsyspatch::apply::{apply, inverse};
use vsyspatch::digest::Sha256;
use vsyspatch::elf::{Parsed, parse};
use vsyspatch::record::Record;
use vsyspatch::site::Verdict;
use vsyspatch::verify::verify;

/// Parsing and planning end, without a panic. Returns whether `bytes` were taken for a program.
pub fn scan(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Ok(Parsed::Image(image)) => {
            let plan = vsyspatch::plan_elf(&image);
            assert_eq!(plan.size, bytes.len() as u64, "size of the plan");
            assert_eq!(plan.has_edits(), plan.count(Verdict::Patch) > 0, "{plan:x?}");
            assert_eq!(plan.has_edits(), plan.original.is_some(), "{plan:x?}");
            true
        }
        Ok(Parsed::Foreign(_)) | Err(_) => false,
    }
}

/// Where there is something to patch: the result passes verification, leaves nothing to be patched, and
/// goes back to `bytes` by what its record says. Returns whether there was something.
pub fn patch_revert(bytes: &[u8]) -> bool {
    let Ok(Parsed::Image(image)) = parse(bytes) else { return false };
    let plan = vsyspatch::plan_elf(&image);
    let Some(original) = plan.original else { return false };
    assert_eq!(original, Sha256::of(bytes), "the plan is for these bytes");
    let patched = apply(bytes, original, &plan.edits).expect("the plan's edits fit");
    assert_ne!(patched, bytes, "the edits change something");

    let record = Record::of(&plan, original, Sha256::of(&patched), image.identity.build_id.clone());
    let read_back = Record::from_json(&record.to_json()).expect("the record can be read back");
    assert_eq!(read_back, record, "the record as it is read back");
    let findings = verify(&patched, &record);
    assert!(findings.is_empty(), "verification: {findings:x?}\nedits: {:x?}", record.edits);

    let Ok(Parsed::Image(again)) = parse(&patched) else { panic!("the patched file is no program any more") };
    let left = vsyspatch::plan_elf(&again);
    assert_eq!(left.count(Verdict::Patch), 0, "left to patch: {:x?}", left.sites);

    let reverted = apply(&patched, record.patched, &inverse(&record.edits)).expect("the inverse edits fit");
    assert!(reverted == bytes, "reverting does not give the original");
    true
}

//! Properties over random files. Every run prints its seed; `VSYSPATCH_SEED=n` repeats it.

mod harness;

use std::fs;

use harness::layout::{Made, Plant, layout};
use harness::{read, root, round_trip, temp_dir};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};
use vsyspatch::plan::{Plan, Role, Via};
use vsyspatch::site::Verdict;

/// Runs `property` on `cases` values and panics with the seed and the smallest value that breaks it.
#[track_caller]
fn check<S: Strategy>(
    name: &str,
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = match std::env::var("VSYSPATCH_SEED") {
        Ok(seed) => seed.parse().expect("VSYSPATCH_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64,
    };
    eprintln!("{name}: VSYSPATCH_SEED={seed}");
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(strategy, property) {
        panic!("{name}, VSYSPATCH_SEED={seed}: {error}");
    }
}

/// The plan for `bytes`, where there is something to plan.
fn plan(bytes: &[u8]) -> Option<Plan> {
    vsyspatch::examine::examine(bytes, Via::Syscall).ok()?.1
}

/// Writes the edits of `plan` into `bytes`, and checks what must hold for the edits of any plan. On purpose not
/// the tool's own way of doing it.
fn apply(bytes: &[u8], plan: &Plan) -> Result<Vec<u8>, TestCaseError> {
    let mut patched = bytes.to_vec();
    let mut behind = 0;
    for edit in &plan.edits {
        let start = edit.offset.index();
        prop_assert!(start >= behind, "sorted and disjoint: {edit:x?}");
        if edit.before.is_empty() {
            prop_assert_eq!(start, patched.len(), "what is added stands at the end");
            patched.extend(&edit.after);
            continue;
        }
        prop_assert_eq!(edit.before.len(), edit.after.len());
        behind = start + edit.before.len();
        prop_assert!(behind <= bytes.len(), "inside the file: {edit:x?}");
        prop_assert_eq!(&bytes[start..behind], &edit.before[..], "the bytes before");
        prop_assert!(edit.before != edit.after, "an edit changes something: {edit:x?}");
        patched[start..behind].copy_from_slice(&edit.after);
    }
    let used: std::collections::BTreeSet<_> =
        plan.sites.iter().flat_map(|site| &site.edits).copied().collect();
    prop_assert!(used.iter().copied().eq(0..plan.edits.len()), "every edit belongs to a site");
    for site in &plan.sites {
        prop_assert_eq!(site.verdict == Verdict::Patch, !site.edits.is_empty(), "{:x?}", site);
    }
    Ok(patched)
}

fn inverse(bytes: &[u8], plan: &Plan) -> Vec<u8> {
    let mut original = bytes[..plan.size as usize].to_vec();
    for edit in plan.edits.iter().filter(|edit| !edit.before.is_empty()) {
        original[edit.offset.index()..][..edit.before.len()].copy_from_slice(&edit.before);
    }
    original
}

#[test]
fn every_planted_site_is_found_and_only_what_may_change_is_changed() {
    check("planted", 400, &layout(), |layout| {
        let made = layout.make();
        let plan = plan(&made.bytes).ok_or_else(|| TestCaseError::fail("the file is sound"))?;
        let found: Vec<_> = plan
            .sites
            .iter()
            .filter(|site| site.verdict != Verdict::Harmless)
            .map(|site| site.offset.0)
            .collect();
        let planted: Vec<_> = made.planted.iter().map(|planted| planted.offset).collect();
        prop_assert_eq!(found, planted, "sites found, sites planted");
        for (site, planted) in
            plan.sites.iter().filter(|site| site.verdict != Verdict::Harmless).zip(&made.planted)
        {
            prop_assert_eq!(site.entry.name(), planted.entry);
            prop_assert_eq!(site.form.to_string(), planted.plant.form(), "{:?}", planted);
            // All are proven calls. What finds no room gets some.
            prop_assert_eq!(site.verdict, Verdict::Patch, "{:x?}", site);
        }
        let patched = apply(&made.bytes, &plan)?;
        let grows = patched.len() > made.bytes.len();
        for edit in &plan.edits {
            let range = edit.offset.0..edit.offset.0 + edit.before.len() as u64;
            let inside = |outer: &std::ops::Range<u64>| outer.start <= range.start && range.end <= outer.end;
            let is_added = edit.before.is_empty();
            let allowed = match edit.role {
                Role::Constant | Role::Call => may_change(&made, &range),
                Role::Stub | Role::Detour | Role::Guard => is_added || made.padding.iter().any(inside),
                Role::Header if grows => is_added || inside(&made.headers) || inside(&TABLES_OF_HEADER),
                Role::Header => inside(&made.headers),
                Role::Fill => is_added,
                Role::Pointer | Role::Page | Role::Pointers | Role::Init => false,
            };
            prop_assert!(allowed, "{:x?} in {:x?}", edit, made.planted);
        }
        let again = self::plan(&patched).ok_or_else(|| TestCaseError::fail("the patched file is sound"))?;
        prop_assert!(!again.has_edits(), "patched twice: {:x?}", again.sites);
        prop_assert_eq!(inverse(&patched, &plan), made.bytes);
        Ok(())
    });
}

/// Where the ELF header tells of the tables of program headers and of sections.
const TABLES_OF_HEADER: std::ops::Range<u64> = 32..64;

/// The instructions of a planted site; a tail jump may use the padding right behind it.
fn may_change(made: &Made, range: &std::ops::Range<u64>) -> bool {
    made.planted.iter().any(|planted| {
        let tail = made.padding.iter().find(|padding| padding.start == planted.function.end);
        let end = match (planted.plant, tail) {
            (Plant::Tail, Some(padding)) => padding.end,
            _ => planted.function.end,
        };
        planted.offset <= range.start && range.end <= end
    })
}

/// The same through the command: with its writer, its record and its verification.
#[test]
fn the_command_goes_there_and_back() {
    let dir = temp_dir();
    check("command", 16, &layout(), |layout| {
        let made = layout.make();
        let file = dir.path().join("made");
        fs::write(&file, &made.bytes).expect("written");
        for left in ["made.patched", "made.again", "made.reverted"] {
            for name in [left.to_owned(), format!("{left}.vsyspatch.json")] {
                let _ = fs::remove_file(dir.path().join(name));
            }
        }
        let trip = round_trip(&file, dir.path());
        prop_assert_eq!(
            trip.sites.iter().filter(|site| site.verdict != "harmless").count(),
            made.planted.len()
        );
        Ok(())
    });
}

/// A sound file for the mutations: the prebuilt ones (which have unwind tables, dynamic tables, relocations).
fn sound_files() -> Vec<Vec<u8>> {
    ["demo", "forms", "forms.so"].map(|name| read(&root().join("corpus/prebuilt").join(name))).into()
}

#[test]
fn no_change_of_bytes_makes_it_panic() {
    let files = sound_files();
    for file in &files {
        assert!(plan(file).is_some_and(|plan| plan.has_edits()), "there is something to break");
    }
    let places = prop_oneof![
        3 => (0_usize..64 + 56 * 6).prop_map(Some),
        2 => (0_usize..8192).prop_map(Some),
        // Behind: section headers and symbols.
        1 => Just(None),
    ];
    let values = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f), Just(0x80)];
    let changes = prop::collection::vec((places, any::<prop::sample::Index>(), values), 1..12);
    check("mutations", 3000, &(0..files.len(), changes), |(index, changes)| {
        let mut bytes = files[index].clone();
        for (place, anywhere, value) in changes {
            let place = place.unwrap_or_else(|| anywhere.index(bytes.len()));
            let place = place % bytes.len();
            bytes[place] = value;
        }
        let Some(first) = plan(&bytes) else { return Ok(()) };
        let patched = apply(&bytes, &first)?;
        prop_assert_eq!(inverse(&patched, &first), bytes);
        let _ = plan(&patched);
        Ok(())
    });
}

/// Random code where the text was: overlapping instructions, jumps into the middle, bytes of no instruction.
#[test]
fn random_code_around_the_constants_makes_no_panic() {
    let base = read(&root().join("corpus/prebuilt/forms"));
    let text = 0x120..0x300_usize;
    let pieces = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..8),
        2 => (0_u8..16, 0_u8..3).prop_map(|(register, entry)| {
            let (high, low) = (register >> 3, register & 7);
            vec![0x48 | high, 0xc7, 0xc0 + low, 0x00, entry * 4, 0x60, 0xff]
        }),
        1 => (0_u8..8).prop_map(|register| vec![0xff, 0xd0 + register]),
        1 => (0_u8..8).prop_map(|register| vec![0xff, 0xe0 + register]),
        1 => any::<i8>().prop_map(|distance| vec![0xeb, distance.cast_unsigned()]),
        1 => (0x70_u8..0x80, any::<i8>()).prop_map(|(op, distance)| vec![op, distance.cast_unsigned()]),
        1 => any::<i8>().prop_map(|distance| {
            let mut call = vec![0xe8];
            call.extend(i32::from(distance).to_le_bytes());
            call
        }),
        1 => Just(vec![0xc3]),
    ];
    check("random code", 1500, &prop::collection::vec(pieces, 1..160), |pieces| {
        let mut bytes = base.clone();
        let code: Vec<u8> = pieces.concat();
        let len = code.len().min(text.len());
        bytes[text.start..text.start + len].copy_from_slice(&code[..len]);
        let first = plan(&bytes).ok_or_else(|| TestCaseError::fail("the headers are sound"))?;
        let patched = apply(&bytes, &first)?;
        prop_assert_eq!(inverse(&patched, &first), bytes);
        let again = plan(&patched).ok_or_else(|| TestCaseError::fail("the headers are sound"))?;
        prop_assert!(!again.has_edits(), "patched twice: {:x?}", again.sites);
        Ok(())
    });
}

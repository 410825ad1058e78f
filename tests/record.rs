//! Apply, record and verify: what they accept, and that each thing that can be wrong is found and named.

mod files;
mod harness;

use std::path::Path;

use files::{CALL, CONSTANT, Expected, plan, program};
use proptest::prelude::*;
use serde_json::{Value, json};
use vsyspatch::addr::{FileOffset, Vaddr};
use vsyspatch::apply::{apply, inverse};
use vsyspatch::digest::Sha256;
use vsyspatch::error::ErrorKind;
use vsyspatch::plan::{Edit, Plan, PlannedSite, Role, Strategy as PatchStrategy, Via};
use vsyspatch::record::{Record, SCHEMA};
use vsyspatch::site::Form;
use vsyspatch::verify::verify;
use vsyspatch::vsyscall::Entry;

// --- apply ---

#[test]
fn the_plan_makes_the_bytes_that_are_written_down() {
    let expected = Expected::new();
    let plan = plan(&expected.original);
    let patched = apply(&expected.original, Sha256::of(&expected.original), &plan.edits).unwrap();
    assert!(patched == expected.patched);
    let original = apply(&patched, Sha256::of(&patched), &inverse(&plan.edits)).unwrap();
    assert!(original == expected.original);
}

fn edit(offset: u64, before: &[u8], after: &[u8]) -> Edit {
    Edit {
        offset: FileOffset(offset),
        vaddr: None,
        before: before.to_vec(),
        after: after.to_vec(),
        role: Role::Constant,
        entry: Entry::Time,
        form: Form::DirectCall,
        strategy: PatchStrategy::InPlace,
        function: None,
    }
}

#[test]
fn apply_refuses_what_was_not_planned_for_these_bytes() {
    let bytes = b"0123456789";
    let sum = Sha256::of(bytes);
    let cases: [(&str, Vec<Edit>, Option<u64>); 8] = [
        ("other bytes there", vec![edit(2, b"xx", b"yy")], Some(2)),
        ("longer after", vec![edit(2, b"23", b"yyy")], Some(2)),
        ("empty", vec![edit(2, b"", b"")], Some(2)),
        ("overlap", vec![edit(2, b"234", b"aaa"), edit(4, b"45", b"bb")], Some(4)),
        ("twice", vec![edit(2, b"2", b"a"), edit(2, b"2", b"a")], Some(2)),
        ("not sorted", vec![edit(5, b"5", b"a"), edit(2, b"2", b"b")], Some(2)),
        ("beyond the end", vec![edit(9, b"9x", b"aa")], Some(9)),
        ("offset that wraps", vec![edit(u64::MAX, b"9", b"a")], Some(u64::MAX)),
    ];
    for (what, edits, at) in cases {
        let error = apply(bytes, sum, &edits).expect_err(what);
        assert_eq!(error.offset().map(|at| at.0), at, "{what}: {error}");
    }
    let error = apply(b"012345678x", sum, &[edit(2, b"2", b"a")]).expect_err("another file");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    // Edits that touch do not overlap.
    assert_eq!(apply(bytes, sum, &[edit(2, b"23", b"ab"), edit(4, b"4", b"c")]).unwrap(), b"01abc56789");
}

proptest! {
    /// Gaps and lengths make edits that are sorted and disjoint; any bytes may be there and go there.
    #[test]
    fn the_inverse_undoes_any_edits(
        bytes in prop::collection::vec(any::<u8>(), 1..400),
        steps in prop::collection::vec((0usize..20, prop::collection::vec(any::<u8>(), 1..12)), 0..20),
    ) {
        let mut at = 0;
        let mut edits = Vec::new();
        let mut expected = bytes.clone();
        for (gap, after) in steps {
            let end = at + gap + after.len();
            let Some(before) = bytes.get(at + gap..end) else { break };
            expected[at + gap..end].copy_from_slice(&after);
            edits.push(edit((at + gap) as u64, before, &after));
            at = end;
        }
        let patched = apply(&bytes, Sha256::of(&bytes), &edits).unwrap();
        prop_assert_eq!(&patched, &expected);
        prop_assert_eq!(apply(&patched, Sha256::of(&patched), &inverse(&edits)).unwrap(), bytes);
    }
}

// --- record ---

fn json() -> Value {
    serde_json::from_slice(&Expected::new().record().to_json()).unwrap()
}

#[test]
fn a_record_comes_back_as_it_went() {
    let record = Expected::new().record();
    assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
    let json = json();
    assert_eq!(json["schema"], SCHEMA);
    assert_eq!(json["edits"][0]["offset"], json!(CONSTANT));
    assert_eq!(json["edits"][0]["before"], "48c7c0000460ff");
    assert_eq!(json["edits"][0]["after"], "48c7c0c9000000");
    assert_eq!(json["edits"][1]["after"], "0f05");
}

#[test]
fn a_record_with_one_wrong_field_is_refused() {
    let digits = "0".repeat(63);
    let cases: Vec<(&str, &str, Value)> = vec![
        ("unknown version", "/schema", json!("vsyspatch.record/2")),
        ("another document", "/schema", json!("vsyspatch.report/1")),
        ("no string", "/schema", json!(1)),
        ("short checksum", "/original_sha256", json!(digits)),
        ("no checksum", "/patched_sha256", json!("x")),
        ("file too small", "/size", json!(CALL + 1)),
        ("negative size", "/size", json!(-1)),
        ("overlap", "/edits/1/offset", json!(CONSTANT + 6)),
        ("not sorted", "/edits/0/offset", json!(CALL + 2)),
        ("offset that wraps", "/edits/1/offset", json!(u64::MAX)),
        ("odd hex", "/edits/0/before", json!("48c7c0000460f")),
        ("no hex", "/edits/0/after", json!("48c7c0c90000zz")),
        ("shorter", "/edits/0/after", json!("48c7c0c90000")),
        ("unknown role", "/edits/0/role", json!("magic")),
        ("unknown entry", "/edits/0/entry", json!("clock")),
        ("unknown form", "/edits/0/form", json!("?")),
        ("unknown strategy", "/edits/0/strategy", json!("hope")),
    ];
    for (what, pointer, value) in cases {
        let mut json = json();
        *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        let error = Record::from_json(&serde_json::to_vec(&json).unwrap()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Record, "{what}: {error}");
    }
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", &b"[".repeat(100_000)] {
        assert_eq!(Record::from_json(bytes).expect_err("no record").kind(), ErrorKind::Record);
    }
    let unknown =
        String::from_utf8(serde_json::to_vec(&json()).unwrap()).unwrap().replace("record/1", "record/2");
    let error = Record::from_json(unknown.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("record/2") && error.contains(SCHEMA), "{error}");
}

// --- verify ---

fn slugs(patched: &[u8], record: &Record) -> Vec<&'static str> {
    let mut slugs: Vec<_> = verify(patched, record).iter().map(|finding| finding.slug).collect();
    slugs.dedup();
    slugs
}

#[test]
fn what_the_planner_made_has_no_findings() {
    let expected = Expected::new();
    assert_eq!(verify(&expected.patched, &expected.record()), []);
}

#[test]
fn each_way_in_which_a_file_can_differ_is_found() {
    let Expected { original, patched } = Expected::new();
    let record = Expected::new().record();
    assert_eq!(slugs(&original, &record), ["not-patched"]);
    assert_eq!(slugs(&patched[..patched.len() - 1], &record), ["size-changed"]);
    let with = |at: usize, byte: u8| {
        let mut bytes = patched.clone();
        assert_ne!(bytes[at], byte);
        bytes[at] = byte;
        slugs(&bytes, &record)
    };
    let undone = with(CALL, 0xff);
    assert!(undone.contains(&"edit-missing") && undone.contains(&"checksum-patched"), "{undone:?}");
    let elsewhere = with(patched.len() - 1, 0);
    assert!(
        elsewhere.contains(&"unplanned-change") && elsewhere.contains(&"checksum-patched"),
        "{elsewhere:?}"
    );
}

/// A record whose checksums and edits agree with `patched`, as a bug of the planner would make it.
fn record_of(original: &[u8], patched: &[u8], change: impl FnOnce(&mut Vec<Edit>)) -> Record {
    let mut record = Expected::new().record();
    record.original = Sha256::of(original);
    record.patched = Sha256::of(patched);
    record.size = patched.len() as u64;
    change(&mut record.edits);
    record
}

#[test]
fn edits_that_agree_with_the_checksums_and_are_wrong_all_the_same_are_found() {
    let original = program();
    let cases: [(&str, usize, &[u8], &str); 5] = [
        ("no number", CONSTANT, &[0x48, 0xc7, 0xc0, 202, 0, 0, 0], "instruction-mismatch"),
        ("no instruction", CONSTANT, &[0x48, 0xc7, 0xc0, 201, 0, 0, 0x06], "instruction-mismatch"),
        ("no system call", CALL, &[0x90, 0x90], "instruction-mismatch"),
        ("half an instruction", CALL, &[0x0f, 0x0f], "instruction-mismatch"),
        ("sysenter", CALL, &[0x0f, 0x34], "instruction-mismatch"),
    ];
    for (what, at, after, slug) in cases {
        let mut patched = Expected::new().patched;
        patched[at..at + after.len()].copy_from_slice(after);
        let record = record_of(&original, &patched, |edits| {
            let edit = edits.iter_mut().find(|edit| edit.offset.0 == at as u64).unwrap();
            edit.after = after.to_vec();
        });
        let slugs = slugs(&patched, &record);
        assert!(slugs.contains(&slug), "{what}: {slugs:?}");
        assert!(!slugs.contains(&"checksum-patched"), "{what}: {slugs:?}");
    }
}

/// The corpus' forms, patched: constants, calls, stubs, a pointer.
#[test]
fn stubs_that_do_something_else_and_ways_to_another_stub_are_found() {
    let original = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/prebuilt/forms")).unwrap();
    let edits = plan(&original).edits;
    let patched = apply(&original, Sha256::of(&original), &edits).unwrap();
    let stub = |entry| edits.iter().find(|edit| edit.role == Role::Stub && edit.entry == entry).unwrap();
    let (time, getcpu) = (stub(Entry::Time), stub(Entry::Getcpu));
    let loads_time = |edit: &&Edit| {
        (edit.role, edit.strategy, edit.entry) == (Role::Constant, PatchStrategy::Stub, Entry::Time)
    };
    let load = edits.iter().find(loads_time).unwrap();
    let pointer = edits.iter().find(|edit| edit.role == Role::Pointer).unwrap();
    let moved = |edit: &Edit, from: usize, by: u64| {
        let mut after = edit.after.clone();
        let field = after[from..].first_chunk_mut::<4>().unwrap();
        *field = u32::from_le_bytes(*field).wrapping_add(by as u32).to_le_bytes();
        after
    };
    let between = getcpu.vaddr.unwrap().0.wrapping_sub(time.vaddr.unwrap().0);
    let call = edits.iter().find(|edit| edit.role == Role::Call).unwrap();
    let cases: [(&str, &Edit, Vec<u8>); 8] = [
        ("another entry's stub", load, moved(load, 3, between)),
        ("right behind the stub's first byte", load, moved(load, 3, 1)),
        ("a pointer to another entry's stub", pointer, time.vaddr.unwrap().0.to_le_bytes().to_vec()),
        ("a pointer into a stub", pointer, moved(pointer, 0, 5)),
        (
            "the number behind the system call",
            time,
            vec![0x0f, 0x05, 0xb8, 201, 0, 0, 0, 0xc3, 0x90, 0x90, 0x90],
        ),
        ("no way back", time, [&time.after[..7], &[0x90; 4]].concat()),
        ("another register", time, [&[0xb9], &time.after[1..]].concat()),
        ("a call that returns at once", call, vec![0xc3, 0x90]),
    ];
    for (what, edit, after) in cases {
        let mut bytes = patched.clone();
        bytes[edit.offset.index()..][..after.len()].copy_from_slice(&after);
        let mut record = Record::of(&plan(&original), Sha256::of(&original), Sha256::of(&bytes), None);
        record.edits.iter_mut().find(|other| other.offset == edit.offset).unwrap().after = after;
        let slugs = slugs(&bytes, &record);
        assert!(slugs.contains(&"instruction-mismatch"), "{what}: {slugs:?}");
    }
}

#[test]
fn a_call_that_is_left_is_found() {
    let original = program();
    let mut patched = original.clone();
    // Both edits forgotten, another made in their stead.
    let last = patched.len() - 2;
    patched[last..].copy_from_slice(&[0x0f, 0x05]);
    let record = record_of(&original, &patched, |edits| {
        let call = edits.pop().unwrap();
        edits.clear();
        let vaddr = Some(Vaddr(files::BASE + last as u64));
        edits.push(Edit { offset: FileOffset(last as u64), vaddr, before: vec![0x0f, 0x0b], ..call });
    });
    // What was replaced is no call, either.
    assert_eq!(slugs(&patched, &record), ["edit-misplaced", "site-left"]);
}

#[test]
fn edits_of_headers_and_of_places_that_are_not_run_are_found() {
    let expected = Expected::new();
    for (what, at, slug) in [("e_entry", 0x18, "header-changed"), ("p_flags", 0x44, "header-changed")] {
        let mut patched = expected.patched.clone();
        patched[at] ^= 2;
        let header =
            Edit { role: Role::Header, ..edit(at as u64, &expected.patched[at..=at], &patched[at..=at]) };
        let record = record_of(&expected.original, &patched, |edits| edits.insert(0, header));
        let slugs = slugs(&patched, &record);
        assert!(slugs.contains(&slug), "{what}: {slugs:?}");
    }
    // Behind the segment: never loaded, so no code.
    let trailer = [expected.original.as_slice(), b"\xff\xd0"].concat();
    let patched = [expected.patched.as_slice(), b"\x0f\x05"].concat();
    let record = record_of(&trailer, &patched, |edits| {
        let vaddr = Some(Vaddr(files::BASE + expected.patched.len() as u64));
        let offset = FileOffset(expected.patched.len() as u64);
        let call = Edit { offset, vaddr, ..edits[1].clone() };
        edits.push(call);
    });
    assert_eq!(slugs(&patched, &record), ["edit-misplaced"]);
}

/// A file that was made longer, and records of it that are true and say what no patch may do.
struct Forged {
    original: Vec<u8>,
    patched: Vec<u8>,
    plan: Plan,
}

impl Forged {
    /// With the page for the vDSO.
    fn of(file: &Path) -> Self {
        Self::via(Via::Vdso, file)
    }

    fn via(via: Via, file: &Path) -> Self {
        let original = harness::read(file);
        let plan = vsyspatch::examine::examine(&original, via).unwrap().1.unwrap();
        let patched = apply(&original, Sha256::of(&original), &plan.edits).unwrap();
        let forged = Self { original, patched, plan };
        assert_eq!(forged.found(&|_| {}), [""; 0], "as it was planned");
        forged
    }

    /// Of the program or shared object that values.c becomes with these `options`.
    fn compiled(options: &[&str]) -> Self {
        let dir = harness::temp_dir();
        let file = dir.path().join("values");
        let mut command = std::process::Command::new("gcc");
        command.args(["-O2", "-w", "-pthread"]).args(options).arg("-o").arg(&file);
        harness::Ran::of(command.arg(harness::root().join("tests/vdso/values.c"))).expect(0);
        Self::of(&file)
    }

    /// Other `bits` in the byte `at` of what `edit` writes into the headers are found.
    #[track_caller]
    fn assert_header(&self, what: &str, edit: &Edit, at: usize, bits: u8) {
        let slugs = self.found(&|edits| {
            edits.iter_mut().find(|other| other.offset == edit.offset).unwrap().after[at] ^= bits;
        });
        assert!(slugs.contains(&"header-changed"), "{what}: {slugs:?}");
    }

    /// What is found of the file that the edits make once they are changed.
    fn found(&self, change: &dyn Fn(&mut Vec<Edit>)) -> Vec<&'static str> {
        let Self { original, patched, plan } = self;
        let mut record = Record::of(plan, Sha256::of(original), Sha256::of(patched), None);
        change(&mut record.edits);
        record.edits.sort_by_key(|edit| edit.offset);
        let mut bytes = patched.clone();
        let replaced = plan.edits.iter().filter(|edit| !edit.before.is_empty());
        for (offset, content) in replaced
            .map(|edit| (edit.offset, &edit.before))
            .chain(record.edits.iter().map(|edit| (edit.offset, &edit.after)))
        {
            bytes.resize(bytes.len().max(offset.index() + content.len()), 0);
            bytes[offset.index()..][..content.len()].copy_from_slice(content);
        }
        record.patched = Sha256::of(&bytes);
        slugs(&bytes, &record)
    }
}

/// Bytes of headers, of live code and of the added segment that no patch changes.
#[test]
fn edits_that_lead_elsewhere_are_found() {
    let Some(corpus) = harness::real_corpus() else {
        return harness::skip(
            "VSYSPATCH_CORPUS is not set, and there are no real binaries beside the project",
        );
    };
    let library = Forged::of(&corpus.join("glibc-2.17/libc.so.6"));
    let header = library.plan.edits.iter().find(|edit| edit.role == Role::Header).unwrap();
    let entry_point = library.found(&|edits| {
        let (before, after) = (library.original[24..32].to_vec(), vec![0x10; 8]);
        edits.push(Edit { offset: FileOffset(24), before, after, ..header.clone() });
    });
    assert!(entry_point.contains(&"header-changed"), "the entry point of a library: {entry_point:?}");
    // The added headers: what comes first stands before the table, in the segment that is run.
    let is_added = |edit: &&Edit| edit.role == Role::Header && edit.before.is_empty();
    let tables: Vec<&Edit> = library.plan.edits.iter().filter(is_added).collect();
    let [table, names, sections] = tables[..] else { panic!("{tables:x?}") };
    let name = names.after.windows(4).position(|bytes| bytes == b".vsy").unwrap();
    let kind = sections.after.len() - 60;
    for (what, edit, at) in [
        ("code before the table", table, 0),
        ("code behind the table", table, table.after.len() - 1),
        ("where the table says that it is", table, 64 + 16),
        ("the name of an added section", names, name + 1),
        ("the type of an added section", sections, kind),
    ] {
        library.assert_header(what, edit, at, 0x41);
    }
    let program = Forged::of(&harness::root().join("corpus/prebuilt/forms"));
    let call = program.plan.edits.iter().find(|edit| edit.role == Role::Constant).unwrap();
    let behind = call.offset.index() + call.before.len();
    let stub = [&[0xb8][..], &call.entry.syscall_number().to_le_bytes(), &[0x0f, 0x05, 0xc3]].concat();
    let number = [&[0x48, 0xc7, 0xc0][..], &call.entry.syscall_number().to_le_bytes()].concat();
    for (role, strategy, after) in [
        (Role::Stub, PatchStrategy::Stub, stub),
        (Role::Constant, PatchStrategy::InPlace, number),
        (Role::Call, PatchStrategy::InPlace, vec![0x0f, 0x05]),
    ] {
        let slugs = program.found(&|edits| {
            let before = program.original[behind + 2..][..after.len()].to_vec();
            let vaddr = call.vaddr.map(|at| at.plus(call.before.len() as u64 + 2));
            let (offset, after) = (FileOffset(behind as u64 + 2), after.clone());
            edits.push(Edit { offset, vaddr, before, after, role, strategy, ..call.clone() });
        });
        assert!(slugs.contains(&"edit-misplaced"), "{role:?} over code: {slugs:?}");
    }
}

#[test]
fn edits_that_no_page_needs_are_found() {
    let forged = Forged::of(&harness::root().join("corpus/prebuilt/forms"));
    let found = |change: &dyn Fn(&mut Vec<Edit>)| forged.found(change);
    let (original, plan) = (&forged.original, &forged.plan);
    let load = plan.edits.iter().find(|edit| edit.role == Role::Constant && edit.after[0] == 0x48).unwrap();
    // Bytes of code that no edit of the plan touches, right behind one.
    let behind = load.offset.index() + load.before.len();
    let another = |role, vaddr: Option<Vaddr>| Edit {
        offset: FileOffset(behind as u64),
        vaddr,
        before: original[behind..behind + 2].to_vec(),
        after: vec![0xcc, 0xcc],
        role,
        ..load.clone()
    };
    let in_memory = load.vaddr.map(|at| at.plus(load.before.len() as u64));
    for role in [Role::Init, Role::Pointers, Role::Page, Role::Fill, Role::Header] {
        for vaddr in [None, in_memory] {
            let slugs = found(&|edits| edits.push(another(role, vaddr)));
            assert!(!slugs.is_empty(), "{role:?} over code, {vaddr:?}");
        }
    }
    let changed = |role: Role, change: &dyn Fn(&mut Edit)| {
        found(&|edits| change(edits.iter_mut().find(|edit| edit.role == role).unwrap()))
    };
    let code = changed(Role::Page, &|edit| edit.after[20] ^= 1);
    assert_eq!(code, ["instruction-mismatch"], "other code in the page");
    let fill = changed(Role::Fill, &|edit| edit.after[0] = 0x90);
    assert_eq!(fill, ["instruction-mismatch"], "code in what is unused");
    let pointers = changed(Role::Pointers, &|edit| edit.after[0] = 1);
    assert_eq!(pointers, ["instruction-mismatch"], "a pointer before anything has run");
    assert!(!changed(Role::Init, &|edit| edit.after[0] ^= 0x40).is_empty(), "another way to the program");
    // A jump for an instruction that others follow.
    let to = i32::from_le_bytes(load.after[3..7].try_into().unwrap()) + 2;
    let jump = found(&|edits| {
        let edit = edits.iter_mut().find(|edit| edit.offset == load.offset).unwrap();
        edit.after = [&[0xe9][..], &to.to_le_bytes(), &[0x90, 0x90]].concat();
    });
    assert_eq!(jump, ["instruction-mismatch"], "a jump instead of a load");
}

/// The relocation that leads to the init code of an object without an init function, and no other, says what it goes on
/// with.
#[test]
fn another_first_function_is_found() {
    if !harness::need("gcc") {
        return;
    }
    let forged = Forged::compiled(&["-DCONSTRUCTORS", "-shared", "-fPIC", "-nostartfiles"]);
    let changed = |change: &dyn Fn(&mut Edit)| {
        forged.found(&|edits| change(edits.iter_mut().find(|edit| edit.role == Role::Init).unwrap()))
    };
    assert!(!changed(&|init| init.after[0] ^= 0x40).is_empty(), "another way into the page");
    // The second constructor's relocation follows.
    let second = changed(&|init| {
        let offset = init.offset.0 + 24;
        init.before = forged.original[offset as usize..][..8].to_vec();
        (init.offset, init.vaddr) = (FileOffset(offset), init.vaddr.map(|at| at.plus(24)));
    });
    assert!(!second.is_empty(), "the second function");
    let packed = ["-Wl,-z,pack-relative-relocs"];
    let forged =
        Forged::compiled(&[&["-DCONSTRUCTORS", "-shared", "-fPIC", "-nostartfiles"][..], &packed].concat());
    let second = forged.found(&|edits| {
        let init = edits.iter_mut().find(|edit| edit.role == Role::Init).unwrap();
        let offset = init.offset.0 + 8;
        init.before = forged.original[offset as usize..][..8].to_vec();
        (init.offset, init.vaddr) = (FileOffset(offset), init.vaddr.map(|at| at.plus(8)));
    });
    assert!(!second.is_empty(), "the second word of the array");
}

/// Pointers in the memory of the last segment: this is as much longer as they take, and nothing else is.
#[test]
fn other_pointers_in_memory_are_found() {
    if !harness::need("gcc") {
        return;
    }
    let forged = Forged::compiled(&["-DPROGRAM", "-DZEROS=1000000", "-pie", "-fPIE"]);
    assert!(forged.plan.edits.iter().all(|edit| edit.role != Role::Pointers));
    // The program headers that differ, and the section headers, which end the file.
    let headers: Vec<&Edit> = forged.plan.edits.iter().filter(|edit| edit.role == Role::Header).collect();
    let table = headers.iter().find(|edit| edit.offset.0 > 64).unwrap();
    let load = |flags: u8| {
        let header = |at: &usize| table.after[*at..].starts_with(&[1, 0, 0, 0, flags, 0, 0, 0]);
        (0..table.after.len()).step_by(56).find(header).unwrap()
    };
    let (data, code) = (load(6), load(5));
    let sections = headers.last().unwrap();
    let own = sections.after.len() - 64;
    for (what, edit, at, bits) in [
        ("a segment that is longer still", table, data + 40, 0x40),
        ("a segment that is a page longer", table, data + 41, 0x10),
        ("bytes of the file in memory that had none", table, data + 32, 0x08),
        ("data that is run", table, data + 4, 0x01),
        ("code that is written", table, code + 4, 0x02),
        ("a page elsewhere", table, code + 17, 0x10),
        ("the type of the section", sections, own + 4, 0x09),
        ("its address", sections, own + 16, 0x08),
        ("its place in the file", sections, own + 24, 0x08),
    ] {
        forged.assert_header(what, edit, at, bits);
    }
    let page = forged.plan.edits.iter().find(|edit| edit.role == Role::Page).unwrap();
    let slugs = forged.found(&|edits| {
        let code = edits.iter_mut().find(|edit| edit.role == Role::Page).unwrap();
        let at = if code.after[0] == 0xf3 { 7 } else { 3 };
        code.after[at] ^= 8;
    });
    assert_eq!(slugs, ["instruction-mismatch"], "an entry that looks for its pointer elsewhere");
    let slugs = forged.found(&|edits| {
        let end = forged.patched.len() as u64;
        let (role, after) = (Role::Pointers, vec![0; 24]);
        edits.push(Edit {
            offset: FileOffset(end - 24),
            vaddr: None,
            before: vec![],
            after,
            role,
            ..page.clone()
        });
    });
    assert!(!slugs.is_empty(), "pointers in the file, too");
}

/// A page of room is one more segment, of code and nothing else; nothing else of the headers differs.
#[test]
fn other_room_is_found() {
    let forged = Forged::via(Via::Syscall, &harness::root().join("corpus/prebuilt/no-room"));
    let added = |role| {
        let is_it = move |edit: &&Edit| edit.role == role && edit.before.is_empty();
        forged.plan.edits.iter().filter(is_it).collect::<Vec<_>>()
    };
    let headers = added(Role::Header);
    let [table, .., sections] = headers[..] else { panic!("{headers:x?}") };
    let is_room = |at: &usize| table.after[*at..].starts_with(&[1, 0, 0, 0, 5, 0, 0, 0]);
    let room = (64..table.after.len()).step_by(56).rfind(is_room).unwrap();
    let own = sections.after.len() - 64;
    for (what, edit, at, bits) in [
        ("room that is written", table, room + 4, 0x02),
        ("room elsewhere in the file", table, room + 9, 0x10),
        ("room elsewhere in memory", table, room + 17, 0x10),
        ("more of the file", table, room + 33, 0x10),
        ("more memory", table, room + 41, 0x10),
        ("another alignment", table, room + 49, 0x10),
        ("the section is written, too", sections, own + 8, 0x01),
        ("the section is elsewhere", sections, own + 16, 0x10),
        ("the section is another's", sections, own + 24, 0x10),
    ] {
        forged.assert_header(what, edit, at, bits);
    }
    let stub = added(Role::Stub)[0].offset;
    let rest = added(Role::Fill).last().unwrap().offset;
    let changed = |offset, change: &dyn Fn(&mut Edit)| {
        forged.found(&|edits| change(edits.iter_mut().find(|edit| edit.offset == offset).unwrap()))
    };
    assert_eq!(changed(stub, &|edit| edit.after[1] ^= 1), ["instruction-mismatch"], "another system call");
    assert_eq!(
        changed(rest, &|edit| edit.after[0] = 0x90),
        ["instruction-mismatch"],
        "code in what is unused"
    );
    for role in [Role::Page, Role::Pointers, Role::Init, Role::Stub, Role::Detour, Role::Guard] {
        assert!(!changed(rest, &|edit| edit.role = role).is_empty(), "{role:?} that is none");
    }
    let longer = forged.found(&|edits| edits.last_mut().unwrap().after.extend([0xcc; 64]));
    assert!(longer.contains(&"header-changed"), "more than what was added: {longer:?}");
    let entered = forged.found(&|edits| {
        let (before, after) = (forged.original[24..32].to_vec(), vec![0x10; 8]);
        edits.push(Edit {
            offset: FileOffset(24),
            before,
            after,
            role: Role::Init,
            vaddr: None,
            ..edits[0].clone()
        });
    });
    assert!(entered.contains(&"header-changed"), "another entry point: {entered:?}");
}

/// Of a call that is made in place, each edit needs the others.
#[test]
fn a_half_patched_call_is_found() {
    let forged = Forged::via(Via::Syscall, &harness::root().join("corpus/prebuilt/forms"));
    let is_in_place =
        |site: &&PlannedSite| site.strategy == Some(PatchStrategy::InPlace) && site.edits.len() > 1;
    let site = forged.plan.sites.iter().find(is_in_place).expect("a constant and a call");
    for &index in &site.edits {
        let forgotten = forged.plan.edits[index].offset;
        let slugs = forged.found(&|edits| edits.retain(|edit| edit.offset != forgotten));
        assert_eq!(slugs, ["edit-missing"], "without the edit at {forgotten}");
    }
}

/// An edit is of the entry that it takes away; and of a call.
#[test]
fn another_call_and_none_are_found() {
    let forged = Forged::via(Via::Syscall, &harness::root().join("corpus/prebuilt/forms"));
    let is_time = |edit: &&Edit| {
        edit.entry == Entry::Time && edit.strategy == PatchStrategy::InPlace && edit.role == Role::Constant
    };
    let time = forged.plan.edits.iter().find(is_time).expect("a call of time");
    let number = time.after.windows(4).position(|bytes| bytes == 201_u32.to_le_bytes()).expect("its number");
    let slugs = forged.found(&|edits| {
        let edit = edits.iter_mut().find(|edit| edit.offset == time.offset).unwrap();
        edit.entry = Entry::Gettimeofday;
        edit.after[number..number + 4].copy_from_slice(&96_u32.to_le_bytes());
    });
    assert!(slugs.contains(&"edit-misplaced"), "another entry's call: {slugs:?}");
    let compared =
        forged.plan.sites.iter().find(|site| site.form.to_string() == "compare").expect("a comparison");
    let slugs = forged.found(&|edits| {
        let (offset, vaddr) = (compared.offset, Some(compared.vaddr));
        let before = forged.original[offset.index()..][..7].to_vec();
        let after = vec![0xb8, 96, 0, 0, 0, 0x0f, 0x05];
        edits.push(Edit { offset, vaddr, before, after, entry: compared.entry, ..time.clone() });
    });
    assert!(slugs.contains(&"edit-misplaced"), "a comparison that became a call: {slugs:?}");
}

/// A detour does what its instruction did: no byte of it can be another, and no other instruction can lead there.
#[test]
fn other_detours_are_found() {
    let forged = Forged::via(Via::Syscall, &harness::root().join("corpus/prebuilt/forms.so"));
    let detour = forged.plan.edits.iter().find(|edit| edit.role == Role::Detour).expect("a detour");
    for at in 0..detour.after.len() {
        for bit in 0..8 {
            let slugs = forged.found(&|edits| {
                edits.iter_mut().find(|edit| edit.offset == detour.offset).unwrap().after[at] ^= 1 << bit;
            });
            assert!(!slugs.is_empty(), "byte {at}, bit {bit}");
        }
    }
    let is_load = |edit: &&Edit| edit.role == Role::Constant && edit.after.starts_with(&[0x48, 0x8d]);
    let load = forged.plan.edits.iter().find(is_load).expect("a lea to a stub");
    let slugs = forged.found(&|edits| {
        let edit = edits.iter_mut().find(|edit| edit.offset == load.offset).unwrap();
        let behind = load.vaddr.unwrap().plus(7);
        let distance = detour.vaddr.unwrap().0.wrapping_sub(behind.0) as u32;
        edit.after[3..7].copy_from_slice(&distance.to_le_bytes());
        edit.entry = detour.entry;
    });
    assert_eq!(slugs, ["instruction-mismatch"], "a load of a detour's address");
}

proptest! {
    /// Whatever is in the file and wherever the record's edits are: findings, no panic.
    #[test]
    fn no_change_of_the_file_goes_unseen(at in 0usize..140, byte in any::<u8>()) {
        let expected = Expected::new();
        let mut patched = expected.patched.clone();
        let at = at % patched.len();
        prop_assume!(patched[at] != byte);
        patched[at] = byte;
        prop_assert!(!verify(&patched, &expected.record()).is_empty());
    }
}

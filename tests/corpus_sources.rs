//! Every source of the corpus in every link variant: what is found, what is written, and that it runs.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use harness::source::{Dress, Expect, Source, Variant};
use harness::{
    KILLED, RoundTrip, Site, denied, elf, host_emulates, later, need, read, round_trip, scan, temp_dir,
};

/// Length of the longest instruction: the bytes of a look-alike may begin anywhere in it.
const MAX_INSTRUCTION: u64 = 15;

/// What differs between the report and the expectations, in words; nothing if they agree.
fn differences(source: &Source, variant: Variant, labels: &[(&Expect, u64)], sites: &[Site]) -> Vec<String> {
    let mut wrong = vec![];
    let mut explained = BTreeSet::new();
    for (expect, offset) in labels {
        // What holds the address begins at the label. Bytes inside an instruction (or text) may be named by
        // the instruction's first byte or by their own.
        let look_alike = expect.allows("form", "other-instruction") || expect.allows("form", "data");
        let reach = if look_alike { MAX_INSTRUCTION } else { 1 };
        let found: Vec<_> =
            sites.iter().filter(|site| (*offset..offset + reach).contains(&site.offset)).collect();
        if found.is_empty() && expect.required {
            wrong.push(format!("`{}`: no site at {offset:#x}", expect.label));
        }
        for site in found {
            explained.insert(site.offset);
            let mut fields = vec![
                ("form", site.form.as_str()),
                ("verdict", &site.verdict),
                ("strategy", site.strategy.as_deref().unwrap_or("none")),
                ("reach", site.reach.as_deref().unwrap_or("none")),
            ];
            // Two look-alikes in one instruction may be of two entries.
            if reach == 1 {
                fields.push(("entry", &site.entry));
            }
            // What is not known to be a call has no reach, and only what is patched has a strategy.
            if site.verdict != "patch" {
                fields.retain(|&(key, _)| key != "strategy" && (key != "reach" || site.verdict == "refused"));
            }
            if site.function.is_some() || variant.dress == Dress::Symbols {
                fields.push(("function", site.function.as_deref().unwrap_or("none")));
            }
            for (key, value) in fields {
                if !expect.allows(key, value) {
                    wrong.push(format!(
                        "`{}`: {key} is {value}, not {} ({})",
                        expect.label,
                        expect.fields[key].join(" or "),
                        site.reason
                    ));
                }
            }
            if site.reason.is_empty() {
                wrong.push(format!("`{}`: no reason", expect.label));
            }
        }
    }
    for site in sites.iter().filter(|site| !explained.contains(&site.offset)) {
        wrong.push(format!("unexpected site: {site:x?}"));
    }
    if let Some(prefix) = &source.stub_prefix {
        // A stub is the edit with a `syscall` in bytes that were padding.
        let stubs: Vec<_> = sites
            .iter()
            .flat_map(|site| &site.edits)
            .filter(|edit| {
                edit.before.iter().all(|byte| [0x00, 0x90, 0xcc].contains(byte)) || edit.after.len() > 10
            })
            .filter(|edit| edit.after.windows(2).any(|bytes| bytes == [0x0f, 0x05]))
            .collect();
        if stubs.is_empty() || stubs.iter().any(|stub| !stub.after.starts_with(prefix)) {
            wrong.push(format!("stubs do not begin with {prefix:x?}: {stubs:x?}"));
        }
    }
    wrong
}

/// The program is killed before, and does what it should after; both with vsyscalls denied.
fn run_both(file: &Path, trip: &RoundTrip, status: i32) -> Vec<String> {
    let mut wrong = vec![];
    let unfiltered = harness::Ran::of(&mut std::process::Command::new(file));
    if unfiltered.status != status {
        wrong.push(format!("the source itself does not work: {unfiltered}"));
    }
    let before = denied([file]);
    if before.status != KILLED {
        wrong.push(format!("not killed before: {before}"));
    }
    let whole = trip.has("patch") && !trip.has("refused") && !trip.has("unproven");
    wrong.extend(run_patched(&trip.patched, whole, status));

    let by_page = harness::with_suffix(file, ".page");
    let ran =
        harness::tool([Path::new("patch"), Path::new("--via=vdso"), Path::new("--json"), file, &by_page]);
    let report = ran.report();
    let sites = harness::files(&report)[0]["sites"].as_array().cloned().unwrap_or_default();
    let has = |verdict: &str| sites.iter().any(|site| site["verdict"] == verdict);
    let whole = has("patch") && !has("refused") && !has("unproven");
    wrong
        .extend(run_patched(&by_page, whole, status).into_iter().map(|line| format!("via the vDSO: {line}")));
    wrong
}

/// What is wrong with the patched `file`, which is to be cured as a whole, or not.
fn run_patched(file: &Path, whole: bool, status: i32) -> Vec<String> {
    let mut wrong = vec![];
    let after = denied([file]);
    if whole && after.status != status {
        wrong.push(format!("does not work after: {after}"));
    }
    if after.status != KILLED && after.status != status {
        wrong.push(format!("broken, neither works nor is killed after: {after}"));
    }
    wrong
}

/// 64 KiB that are no padding and hold no address of the page.
fn trailer() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1] | 1
    };
    (0..64 * 1024).map(|_| next()).collect()
}

fn check(name: &str) {
    if !["as", "strip", "ld.bfd", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let source = Source::load(name);
    if let Some(reason) = &source.later {
        later(name, reason);
    }
    let dir = temp_dir();
    let object = source.assemble(dir.path());
    let mut wrong = vec![];
    let mut ran = 0;
    for (link, linker) in source.variants() {
        let linked = source.link(&object, link, linker, dir.path());
        for (file, dress) in linked.files.iter().zip(Dress::ALL) {
            let variant = Variant { link, linker, dress };
            let bytes = read(file);
            let labels: Vec<_> = source
                .expects(variant)
                .map(|expect| {
                    let vaddr =
                        *linked.labels.get(&expect.label).expect("the directive's label is in the source");
                    (expect, elf::offset_of(&bytes, vaddr).expect("the label is in the file"))
                })
                .collect();
            let trip = round_trip(file, dir.path());
            let mut here = differences(&source, variant, &labels, &trip.sites);
            let mode = |path| fs::metadata(path).expect("a file").permissions().mode();
            assert_eq!(mode(file), mode(&trip.patched), "mode of {}", trip.patched.display());
            if let Some(status) = source.run(variant)
                && host_emulates()
            {
                here.extend(run_both(file, &trip, status));
                ran += 1;
            }
            wrong.extend(here.into_iter().map(|line| format!("{variant}: {line}")));
        }
        // What follows the ELF file in one variant is as good as in all.
        let with_trailer = harness::with_suffix(&linked.files[0], ".trailer");
        fs::write(&with_trailer, [read(&linked.files[0]), trailer()].concat()).expect("written");
        let trip = round_trip(&with_trailer, dir.path());
        assert!(trip.patched_bytes.ends_with(&trailer()), "the trailer did not survive");
        assert_eq!(offsets(&trip.sites), offsets(&scan(&linked.files[0])), "a trailer changes no site");
    }
    if !source.variants().is_empty() && ran == 0 && !host_emulates() {
        harness::skip("this host does not emulate vsyscalls: nothing was run");
    }
    match &source.later {
        None => assert!(wrong.is_empty(), "{name}: {} differences\n{}", wrong.len(), wrong.join("\n")),
        Some(_) if wrong.is_empty() => eprintln!("{name}: fulfilled, its `later` can go"),
        Some(_) => {
            // Not demanded yet, but what is patched must never be wrong.
            let broken: Vec<_> = wrong.iter().filter(|line| line.contains("broken")).collect();
            assert!(broken.is_empty(), "{name}: {broken:#?}");
            eprintln!("{name}: {} differences\n{}", wrong.len(), wrong.join("\n"));
        }
    }
}

fn offsets(sites: &[Site]) -> Vec<u64> {
    sites.iter().map(|site| site.offset).collect()
}

macro_rules! sources {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { check($name); })*
        const NAMES: &[&str] = &[$($name),*];
    };
}

sources! {
    argument_register: "argument-register",
    call_entered_elsewhere: "call-entered-elsewhere",
    clean: "clean",
    compared_elsewhere: "compared-elsewhere",
    compared_distance: "compared-distance",
    compared_distance_unseen: "compared-distance-unseen",
    compared_in_register: "compared-in-register",
    compared_unseen: "compared-unseen",
    computed_base: "computed-base",
    computed_index: "computed-index",
    computed_index_from_time: "computed-index-from-time",
    computed_index_stored: "computed-index-stored",
    computed_mask: "computed-mask",
    computed_other_address: "computed-other-address",
    computed: "computed",
    data_word_changed: "data-word-changed",
    data_word_behind_array: "data-word-behind-array",
    data_word_behind_object: "data-word-behind-object",
    data_word_behind_table: "data-word-behind-table",
    data_word_copied: "data-word-copied",
    data_word_distance: "data-word-distance",
    data_word_dyn: "data-word-dyn",
    data_word_returned: "data-word-returned",
    data_word_structure: "data-word-structure",
    data_word_table: "data-word-table",
    data_word_memory: "data-word-memory",
    data_word_fields: "data-word-fields",
    data_word_fields_dyn: "data-word-fields-dyn",
    data_word_kept: "data-word-kept",
    data_word_named: "data-word-named",
    data_word_unread: "data-word-unread",
    data_word: "data-word",
    direct_branch: "direct-branch",
    direct_call_between: "direct-call-between",
    forms: "forms",
    direct_call_rax: "direct-call-rax",
    direct_call_registers: "direct-call-registers",
    go_padding: "go-padding",
    go_table: "go-table",
    hoisted: "hoisted",
    ibt: "ibt",
    ifunc_fallback: "ifunc-fallback",
    jump_table_between: "jump-table-between",
    jump_table_unscaled: "jump-table-unscaled",
    label_address_between: "label-address-between",
    label_distance_between: "label-distance-between",
    landing_pad_between: "landing-pad-between",
    look_alike_argument: "look-alike-argument",
    look_alike_compare: "look-alike-compare",
    look_alike_data: "look-alike-data",
    look_alike_fields: "look-alike-fields",
    look_alike_megabytes: "look-alike-megabytes",
    look_alike_other_instruction: "look-alike-other-instruction",
    look_alike_run_time_table: "look-alike-run-time-table",
    look_alike_stored: "look-alike-stored",
    movabs: "movabs",
    no_room: "no-room",
    no_symbol_no_fde: "no-symbol-no-fde",
    past_symbol_size: "past-symbol-size",
    push_return: "push-return",
    short_branch_between: "short-branch-between",
    returned: "returned",
    returned_second: "returned-second",
    scratch_read_after: "scratch-read-after",
    stack_slot_reached: "stack-slot-reached",
    stack_slot: "stack-slot",
    stored_compared: "stored-compared",
    stored_fallback_register: "stored-fallback-register",
    stored_fallback: "stored-fallback",
    tail_jump: "tail-jump",
    two_constants_branch: "two-constants-branch",
    two_constants_cmov: "two-constants-cmov",
    wrapper: "wrapper",
}

#[test]
fn every_source_has_a_test() {
    let files = fs::read_dir(harness::source::dir()).expect("the corpus directory");
    // The demo's sample has no directives; tests/demo.rs is for it.
    let sources: BTreeSet<String> = files
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "s"))
        .filter(|path| fs::read_to_string(path).expect("a text").contains("\n#@ "))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let tested: BTreeSet<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(sources, tested);
}

/// The corpus itself, without the tool: every variant links, every label stands before the bytes of its
/// entry's address, and runnable programs end as their source says.
#[test]
fn the_sources_say_what_is_true() {
    if !["as", "strip", "ld.bfd", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    for name in NAMES {
        let source = Source::load(name);
        let object = source.assemble(dir.path());
        for (link, linker) in source.variants() {
            let linked = source.link(&object, link, linker, dir.path());
            for (file, dress) in linked.files.iter().zip(Dress::ALL) {
                let variant = Variant { link, linker, dress };
                let bytes = read(file);
                for expect in source.expects(variant) {
                    let vaddr = linked.labels[&expect.label];
                    let offset = elf::offset_of(&bytes, vaddr).expect("the label is in the file") as usize;
                    // What is computed with may be the negated address.
                    let low: &[&[u8]] = match expect.fields["entry"][0].as_str() {
                        _ if expect.allows("form", "computed") => {
                            &[&[0x60, 0xff], &[0x00, 0xa0, 0x00], &[0xfc, 0x9f, 0x00], &[0xf8, 0x9f, 0x00]]
                        }
                        "gettimeofday" => &[&[0x00, 0x00, 0x60, 0xff]],
                        "time" => &[&[0x00, 0x04, 0x60, 0xff]],
                        "getcpu" => &[&[0x00, 0x08, 0x60, 0xff]],
                        other => panic!("{name}: entry {other}"),
                    };
                    let near = &bytes[offset..bytes.len().min(offset + 2 * MAX_INSTRUCTION as usize)];
                    assert!(
                        expect.allows("form", "direct-branch")
                            || low.iter().any(|low| near.windows(low.len()).any(|bytes| bytes == *low)),
                        "{name} {variant}: no {low:x?} behind `{}` at {offset:#x}: {near:x?}",
                        expect.label
                    );
                }
                if let Some(status) = source.run(variant)
                    && host_emulates()
                {
                    harness::Ran::of(&mut std::process::Command::new(file)).expect(status);
                }
            }
        }
    }
}

/// Where a Go program can be loaded anywhere, its table is in another section.
#[test]
fn go_tables_are_known_by_both_their_names() {
    if !["as", "strip", "ld.bfd", "objcopy"].into_iter().all(need) {
        return;
    }
    let (dir, source) = (temp_dir(), Source::load("go-table"));
    let object = source.assemble(dir.path());
    let (link, linker) = source.variants()[0];
    let stripped = &source.link(&object, link, linker, dir.path()).files[1];
    for (name, verdict) in [(".data.rel.ro.gopclntab", "patch"), (".other", "unproven")] {
        let mut objcopy = std::process::Command::new("objcopy");
        let renamed = harness::with_suffix(stripped, name);
        objcopy.args(["--rename-section", &format!(".gopclntab={name}")]).arg(stripped).arg(&renamed);
        harness::Ran::of(&mut objcopy).expect(0);
        let verdicts: Vec<_> = scan(&renamed).into_iter().map(|site| site.verdict).collect();
        assert_eq!(verdicts, [verdict], "{name}");
    }
}

/// What the unwinder reads is no data that code calls through; what is beside it is.
#[test]
fn a_word_in_unwind_information_is_no_pointer() {
    let (dir, program) = (temp_dir(), read(Path::new(env!("CARGO_BIN_EXE_vsyspatch"))));
    let path = dir.path().join("program");
    let sites = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("the program is written");
        scan(&path).len()
    };
    let before = sites(&program);
    for (section, more) in [(".eh_frame", 0), (".rodata", 1)] {
        let table = elf::section(&program, section).expect("a program of the linker has it");
        let start = table.as_ptr().addr() - program.as_ptr().addr();
        // In these the offset is the address.
        let at = (start + table.len() / 2).next_multiple_of(8);
        assert_eq!(elf::offset_of(&program, at as u64), Some(at as u64), "{section}");
        let mut bytes = program.clone();
        bytes[at..at + 8].copy_from_slice(&0xffff_ffff_ff60_0400_u64.to_le_bytes());
        assert_eq!(sites(&bytes), before + more, "{section}");
    }
}

//! Files that lie about themselves: one wrong field each. An error in one line with status 2, or accepted
//! where loaders accept it too; never a panic, a hang, or memory for what a header claims.

mod harness;

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Ran, is_root, read, root, skip, temp_dir, tool};

/// What the tool does with a file.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Status 2 and one line on stderr that holds these words and this file offset.
    Error(u64, &'static str),
    /// The same sites with the same verdicts as in the sound file.
    Accept,
    /// The same sites; what only section headers tell (symbols) may be missed, so that a verdict may be `unproven`.
    AcceptWithoutSections,
    /// No error, and patch and revert are each other's inverse; what is seen of the program may be less.
    AcceptAny,
    /// Named as something that is not handled, with status 0.
    Foreign(&'static str),
}
use Outcome::{Accept, AcceptAny, AcceptWithoutSections, Error, Foreign};

/// Bytes to write at an offset of corpus/prebuilt/forms.
type Change = (usize, &'static [u8]);

const PHDR: usize = 0x40;
/// The second program header: the data segment at 0x401000.
const DATA: usize = PHDR + 56;
const P_OFFSET: u64 = DATA as u64 + 8;
const P_VADDR: u64 = DATA as u64 + 16;
const P_FILESZ: u64 = DATA as u64 + 32;

const FIELDS: &[(&str, Change, Outcome)] = &[
    // The identification.
    ("magic", (0, b"\x7fELG"), Error(0, "not an ELF file")),
    ("class none", (4, &[0]), Error(4, "class 0")),
    ("class 32", (4, &[1]), Foreign("x32")),
    ("class unknown", (4, &[3]), Error(4, "class 3")),
    ("byte order none", (5, &[0]), Error(5, "byte order 0")),
    ("big endian", (5, &[2]), Foreign("big-endian")),
    ("identification version", (6, &[9]), AcceptWithoutSections),
    ("another system's ABI", (7, &[9]), Accept),
    ("identification padding", (9, &[0xff; 7]), Accept),
    // The header.
    ("type none", (0x10, &[0, 0]), Error(0x10, "type")),
    ("relocatable object", (0x10, &[1, 0]), AcceptAny),
    ("core file", (0x10, &[4, 0]), Foreign("core")),
    ("type unknown", (0x10, &[5, 0]), Error(0x10, "type")),
    ("i386 in 64 bits", (0x12, &[3, 0]), Foreign("i386")),
    ("AArch64", (0x12, &[183, 0]), Foreign("AArch64")),
    ("machine unknown", (0x12, &[0xff, 0xff]), Foreign("machine")),
    ("version", (0x14, &[0xff, 0, 0, 0]), Accept),
    ("entry point zero", (0x18, &[0; 8]), Accept),
    ("entry point nowhere", (0x18, &[0xff; 8]), Accept),
    ("entry point in data", (0x18, &[0x08, 0x10, 0x40, 0, 0, 0, 0, 0]), Accept),
    ("program headers behind the file", (0x20, &[0, 0, 1, 0, 0, 0, 0, 0]), Error(0x20, "beyond the file")),
    ("program headers wrap", (0x20, &[0xff; 8]), Error(0x20, "beyond the file")),
    (
        "program headers at a negative offset",
        (0x20, &[0, 0, 0, 0, 0, 0, 0, 0x80]),
        Error(0x20, "beyond the file"),
    ),
    ("section headers behind the file", (0x28, &[0, 0, 1, 0, 0, 0, 0, 0]), AcceptWithoutSections),
    ("section headers wrap", (0x28, &[0xff; 8]), AcceptWithoutSections),
    ("program headers over the ELF header", (0x20, &[0; 8]), Error(0x38, "no PT_LOAD")),
    ("program headers one byte off", (0x20, &[0x41, 0, 0, 0, 0, 0, 0, 0]), Error(0x38, "no PT_LOAD")),
    ("no section headers", (0x28, &[0; 8]), AcceptWithoutSections),
    ("section headers inside the header", (0x28, &[8, 0, 0, 0, 0, 0, 0, 0]), AcceptWithoutSections),
    ("flags", (0x30, &[0xff; 4]), Accept),
    ("header size", (0x34, &[0xff, 0xff]), AcceptWithoutSections),
    ("program header size 0", (0x36, &[0, 0]), Error(0x36, "program header size")),
    ("program header size 32", (0x36, &[32, 0]), Error(0x36, "program header size")),
    ("program header size 57", (0x36, &[57, 0]), Error(0x36, "program header size")),
    ("no program headers", (0x38, &[0, 0]), Error(0x38, "no program headers")),
    ("program header count beyond the file", (0x38, &[0xfe, 0xff]), Error(0x20, "beyond the file")),
    ("program header count in a section", (0x38, &[0xff, 0xff]), Error(0x38, "0xffff")),
    ("section header size 0", (0x3a, &[0, 0]), AcceptWithoutSections),
    ("section header size 63", (0x3a, &[63, 0]), AcceptWithoutSections),
    ("section header count beyond the file", (0x3c, &[0xff, 0xff]), AcceptWithoutSections),
    ("section header count 0", (0x3c, &[0, 0]), AcceptWithoutSections),
    ("section names beyond the count", (0x3e, &[0xff, 0x7f]), AcceptAny),
    ("section names in an extension", (0x3e, &[0xff, 0xff]), AcceptWithoutSections),
    // The segments.
    ("text segment unloaded", (PHDR, &[0, 0, 0, 0]), AcceptAny),
    (
        "data offset behind the file",
        (DATA + 8, &[0, 0x10, 1, 0, 0, 0, 0, 0]),
        Error(P_OFFSET, "beyond the file"),
    ),
    (
        "data offset wraps",
        (DATA + 8, &[0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        Error(P_OFFSET, "beyond the file"),
    ),
    ("data address wraps", (DATA + 16, &[0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), AcceptAny),
    ("data over text", (DATA + 16, &[0, 0, 0x40, 0, 0, 0, 0, 0]), Error(PHDR as u64 + 16, "overlaps")),
    ("data in the kernel's half", (DATA + 16, &[0, 0x10, 0, 0, 0, 0, 0, 0x80]), Foreign("kernel")),
    (
        "data address and offset out of step",
        (DATA + 16, &[8, 0x10, 0x40, 0, 0, 0, 0, 0]),
        Error(P_OFFSET, "differ within the page"),
    ),
    ("data physical address", (DATA + 24, &[0xff; 8]), Accept),
    (
        "data file size beyond the file",
        (DATA + 32, &[0, 0, 1, 0, 0, 0, 0, 0]),
        Error(P_OFFSET, "beyond the file"),
    ),
    ("data file size wraps", (DATA + 32, &[0xff; 8]), Error(P_OFFSET, "beyond the file")),
    (
        "data memory size smaller than file size",
        (DATA + 40, &[1, 0, 0, 0, 0, 0, 0, 0]),
        Error(P_FILESZ, "in memory"),
    ),
    ("data memory size of terabytes", (DATA + 40, &[0, 0, 0, 0, 0, 16, 0, 0]), Accept),
    ("data memory size wraps", (DATA + 40, &[0xff; 8]), Error(P_VADDR, "wraps")),
    ("data alignment 0", (DATA + 48, &[0; 8]), Accept),
    ("data alignment no power of two", (DATA + 48, &[3, 0x10, 0, 0, 0, 0, 0, 0]), Accept),
    ("data flags unknown", (DATA + 4, &[0x06, 0, 0, 0xf0]), Accept),
    // PT_GNU_EH_FRAME: unwind tables help, and are never needed.
    ("unwind tables nowhere", (DATA + 56 + 16, &[0xff; 8]), AcceptAny),
    ("unwind tables behind the file", (DATA + 56 + 8, &[0xff; 8]), AcceptAny),
    ("unwind tables empty", (DATA + 56 + 32, &[0; 16]), AcceptAny),
];

/// The sound file of the table.
fn sound() -> Vec<u8> {
    read(&root().join("corpus/prebuilt/forms"))
}

/// Runs `scan` with 256 MiB of address space: no header may make the tool ask for more.
fn scan_with_little_memory(file: &Path, json: bool) -> Ran {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -v 262144; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_vsyspatch"),
        "scan",
        "--all",
    ]);
    if json {
        command.arg("--json");
    }
    Ran::of(command.arg(file))
}

/// `ran` is one clear line about `file`, with status 2.
#[track_caller]
fn check_error(ran: &Ran, file: &Path, words: &str) {
    assert_eq!(ran.status, 2, "{words}: {ran}");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {ran}");
    assert!(lines[0].contains(&file.display().to_string()), "the line names the file: {ran}");
    assert!(lines[0].contains(words), "the line says `{words}`: {ran}");
}

fn check(name: &str, file: &Path, outcome: Outcome, sound: &[(u64, String, String)], dir: &Path) {
    match outcome {
        Error(offset, words) => {
            let ran = scan_with_little_memory(file, false);
            check_error(&ran, file, words);
            let place = format!("offset {offset:#x}:");
            assert!(ran.stderr.contains(&place), "{name}: the line says `{place}`: {ran}");
            let out = dir.join("out");
            let patched = tool([Path::new("patch"), file, Path::new("-o"), &out]);
            check_error(&patched, file, words);
            assert!(!out.exists(), "{name}: an error writes nothing");
        }
        Accept | AcceptWithoutSections | AcceptAny => {
            let ran = scan_with_little_memory(file, true);
            assert!(ran.status == 0 || ran.status == 1, "{name}: {ran}");
            let trip = harness::round_trip(file, dir);
            let mut found = summary(&trip.sites);
            if matches!(outcome, AcceptWithoutSections) {
                assert_eq!(found.len(), sound.len(), "{name}: the sites of the sound file");
                for (site, sound) in found.iter_mut().zip(sound).filter(|(site, _)| site.2 == "unproven") {
                    site.2.clone_from(&sound.2);
                }
            }
            if !matches!(outcome, AcceptAny) {
                assert_eq!(found, sound, "{name}: the sites of the sound file");
            }
        }
        Foreign(words) => {
            let ran = scan_with_little_memory(file, false).expect(0);
            assert!(ran.stdout.contains(words), "{name}: `{words}` in {ran}");
        }
    }
}

fn summary(sites: &[harness::Site]) -> Vec<(u64, String, String)> {
    sites.iter().map(|site| (site.offset, site.entry.clone(), site.verdict.clone())).collect()
}

#[test]
fn one_wrong_field() {
    let dir = temp_dir();
    let file = dir.path().join("file");
    fs::write(&file, sound()).expect("written");
    let expected = summary(&harness::scan(&file));
    assert!(
        expected.iter().any(|(_, _, verdict)| verdict == "patch"),
        "the sound file has something to patch"
    );
    let mut failures = vec![];
    for &(name, (offset, bytes), outcome) in FIELDS {
        let mut changed = sound();
        assert_ne!(changed[offset..offset + bytes.len()], *bytes, "{name} changes nothing");
        changed[offset..offset + bytes.len()].copy_from_slice(bytes);
        fs::write(&file, changed).expect("written");
        let checked = std::panic::catch_unwind(|| check(name, &file, outcome, &expected, dir.path()));
        if checked.is_err() {
            failures.push(name);
        }
    }
    assert_eq!(failures, Vec::<&str>::new(), "rows that differ, each is explained above");
}

/// The table above is about fields that are where it says.
#[test]
fn the_sound_file_has_the_fields_where_the_table_says() {
    let sound = sound();
    assert_eq!(harness::elf::u64_at(&sound, 0x20), PHDR as u64);
    let segments = harness::elf::segments(&sound);
    assert_eq!((segments[0].kind, segments[0].flags, segments[0].vaddr), (1, 5, 0x40_0000));
    assert_eq!((segments[1].kind, segments[1].flags, segments[1].vaddr), (1, 6, 0x40_1000));
    assert_eq!(segments[2].kind, 0x6474_e550);
}

#[test]
fn cut_short_anywhere_in_what_is_loaded() {
    let dir = temp_dir();
    let file = dir.path().join("file");
    let sound = sound();
    let loaded_end = {
        let segments = harness::elf::segments(&sound);
        segments.iter().map(|segment| segment.offset + segment.file_size).max().expect("segments") as usize
    };
    for len in (0..0x40 + 4 * 56).chain([0x200, 0xfff, 0x1000, 0x1001, loaded_end - 1]) {
        fs::write(&file, &sound[..len]).expect("written");
        if len % 32 == 0 || len > 0x120 {
            check_error(&tool([Path::new("scan"), &file]), &file, "");
        }
        let parsed = vsyspatch::elf::parse(&sound[..len]);
        let error = parsed.expect_err("a file that ends too early is malformed").to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "one line: {error}");
    }
    // Behind what is loaded only the section headers are lost.
    fs::write(&file, &sound[..loaded_end]).expect("written");
    tool([Path::new("scan"), &file]).expect(1);
}

#[test]
fn no_file_to_read() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("empty"), "").expect("written");
    check_error(&tool([Path::new("scan"), &at("empty")]), &at("empty"), "empty");
    fs::write(at("text"), "#!/bin/sh\n").expect("written");
    check_error(&tool([Path::new("scan"), &at("text")]), &at("text"), "not an ELF file");
    check_error(&tool([Path::new("scan"), &at("missing")]), &at("missing"), "No such file");
    fs::create_dir(at("directory")).expect("a directory");
    check_error(&tool([Path::new("explain"), &at("directory")]), &at("directory"), "directory");
    Ran::of(Command::new("mkfifo").arg(at("fifo"))).expect(0);
    // Opening a FIFO without a writer would wait for ever.
    let ran = Ran::of(
        Command::new("timeout").args(["10", env!("CARGO_BIN_EXE_vsyspatch"), "scan"]).arg(at("fifo")),
    );
    check_error(&ran, &at("fifo"), "not a regular file");
    std::os::unix::fs::symlink("nowhere", at("dangling")).expect("a link");
    check_error(&tool([Path::new("scan"), &at("dangling")]), &at("dangling"), "No such file");
}

#[test]
fn no_permission() {
    let dir = temp_dir();
    let file = dir.path().join("secret");
    fs::write(&file, sound()).expect("written");
    Ran::of(Command::new("chmod").arg("0").arg(&file)).expect(0);
    let ran = if is_root() {
        // Root reads everything: as nobody, who may search the temporary directory.
        Ran::of(Command::new("chmod").arg("755").arg(dir.path())).expect(0);
        let copy = dir.path().join("tool");
        // By a program of its own: children of other tests do not hold it open for writing while it starts.
        Ran::of(Command::new("cp").arg(env!("CARGO_BIN_EXE_vsyspatch")).arg(&copy)).expect(0);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy);
        let found = command.arg("scan").arg(&file).output();
        match found {
            Ok(_) => Ran::of(&mut command),
            Err(error) => return skip(&format!("setpriv: {error}")),
        }
    } else {
        tool([Path::new("scan"), &file])
    };
    check_error(&ran, &file, "ermission denied");
}

/// One bad file among several: the others are still scanned, and the worst status wins.
#[test]
fn the_run_goes_on_after_a_bad_file() {
    let dir = temp_dir();
    let (good, bad) = (root().join("corpus/prebuilt/forms"), dir.path().join("bad"));
    fs::write(&bad, b"\x7fELF").expect("written");
    let ran = tool([Path::new("scan"), &bad, &good]).expect(2);
    assert!(ran.stdout.contains("direct-call"), "{ran}");
    assert!(ran.stderr.contains("bad"), "{ran}");
}

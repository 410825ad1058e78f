//! Relocatable objects and `ar` archives: patched in place, they link to what the patched program would be,
//! and everything else in them stays.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::source::Source;
use harness::{
    Ran, denied, files, host_emulates, need, read, root, round_trip, scan, skip, temp_dir, tool, vsyspatch,
};

fn run(program: &str, arguments: &[&str], dir: &Path) -> Ran {
    Ran::of(Command::new(program).args(arguments).current_dir(dir)).expect(0)
}

/// Writes `text` as `dir/name.s` and assembles it.
fn assemble(name: &str, text: &str, dir: &Path) -> PathBuf {
    fs::write(dir.join(format!("{name}.s")), text).expect("written");
    run("as", &["-o", &format!("{name}.o"), &format!("{name}.s")], dir);
    dir.join(format!("{name}.o"))
}

#[test]
fn linking_the_patched_object_is_patching_the_linked_program() {
    if !["as", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let object = Source::load("direct-call-rax").assemble(dir.path());
    let trip = round_trip(&object, dir.path());
    assert_eq!(trip.sites.iter().map(|site| site.verdict.as_str()).collect::<Vec<_>>(), ["patch"; 3]);
    assert!(trip.sites.iter().all(|site| site.strategy.as_deref() == Some("in-place")));
    // The same name for both: it stands in the symbol table.
    let patched_object = read(&trip.patched);
    run("ld.bfd", &["--build-id=none", "-o", "linked", object.to_str().expect("UTF-8")], dir.path());
    fs::write(&object, patched_object).expect("written");
    run("ld.bfd", &["--build-id=none", "-o", "of-patched", object.to_str().expect("UTF-8")], dir.path());
    let linked = round_trip(&dir.path().join("linked"), dir.path());
    assert!(linked.patched_bytes == read(&dir.path().join("of-patched")));
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    denied([dir.path().join("linked")]).expect(harness::KILLED);
    denied([dir.path().join("of-patched")]).expect(0);
}

/// Of an archive in a tree, only the members are looked at that the search of the tree found something in.
#[test]
fn an_archive_in_a_tree_has_the_sites_that_it_has_by_itself() {
    if !["as", "ar"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    Source::load("direct-call-rax").assemble(dir.path());
    assemble("clean", ".globl clean\nclean: ret\n", dir.path());
    // Twice what looks like a call: in data that is loaded, in what no section is loaded from; and a table of pointers.
    assemble("number", ".data\n.long 0xff600000\n.byte 1\n", dir.path());
    assemble("note", ".section .comment\n.long 0xff600400\n", dir.path());
    assemble("table", ".globl table\n.data\n.balign 8\ntable: .quad 0xffffffffff600800\n", dir.path());
    // Longer than what is read at once.
    assemble("long", ".text\n.fill 200000, 1, 0x90\nret\n", dir.path());
    let members =
        ["clean.o", "direct-call-rax.o", "number.o", "long.o", "note.o", "table.o", "direct-call-rax.o"];
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a directory");
    run("ar", &[&["qcs", "root/lib.a"], &members[..]].concat(), dir.path());
    let scanned = |target: &Path| {
        let report = Ran::of(vsyspatch().args(["scan", "--json"]).arg(target)).expect(1).json();
        let file = files(&report)[0].clone();
        (file["archive"].clone(), file["sites"].clone())
    };
    let by_itself = scanned(&root.join("lib.a"));
    assert_eq!(by_itself.0["objects"], 7);
    assert!(by_itself.1.as_array().is_some_and(|sites| sites.len() >= 6), "{by_itself:?}");
    assert_eq!(scanned(&root), by_itself);
    fs::remove_dir_all(&root).expect("removed");
    fs::create_dir(&root).expect("a directory");
    let object = dir.path().join("direct-call-rax.o");
    fs::copy(&object, root.join("object.o")).expect("copied");
    assert_eq!(scanned(&object), scanned(&root));
}

#[test]
fn an_archive_keeps_its_members_names_times_order_and_symbol_table() {
    if !["as", "ar", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let object = Source::load("direct-call-rax").assemble(dir.path());
    let long = dir.path().join("a-name-that-is-too-long-for-the-header.o");
    fs::rename(&object, &long).expect("renamed");
    assemble("clean", ".globl clean\nclean: ret\n", dir.path());
    fs::write(dir.path().join("odd.txt"), "five\n").expect("written");
    let members = ["odd.txt", "clean.o", "a-name-that-is-too-long-for-the-header.o"];
    // The last one twice, under the same name.
    run("ar", &[&["qcs", "lib.a"], &members[..], &members[2..]].concat(), dir.path());
    let archive = dir.path().join("lib.a");

    let trip = round_trip(&archive, dir.path());
    assert_eq!(trip.sites.len(), 6);
    assert!(trip.sites.iter().all(|site| site.verdict == "patch"), "{:#?}", trip.sites);
    let report = Ran::of(vsyspatch().args(["scan", "--json"]).arg(&archive)).expect(1).json();
    let file = &files(&report)[0];
    assert_eq!(report["targets"][0]["kind"], "archive");
    assert_eq!(file["archive"]["members"], 4);
    assert_eq!(file["archive"]["objects"], 3);
    assert_eq!(file["sites"][5]["member"], members[2]);

    let listed = |archive: &str| run("ar", &["tv", archive], dir.path()).stdout;
    assert_eq!(listed("lib.a"), listed("lib.a.patched"));
    let symbols = |archive: &str| run("nm", &["-s", archive], dir.path()).stdout.replace(archive, "");
    assert_eq!(symbols("lib.a"), symbols("lib.a.patched"));

    let link = |archive: &str, program: &str| {
        run("ld.bfd", &["-u", "_start", "-o", program, archive], dir.path());
        dir.path().join(program)
    };
    let (before, after) = (link("lib.a", "before"), link("lib.a.patched", "after"));
    assert_eq!(scan(&after).iter().filter(|site| site.verdict != "harmless").count(), 0);
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    denied([before]).expect(harness::KILLED);
    denied([after]).expect(0);
}

/// Out-of-line code that nothing tells the begin of, but a branch from a function of another section.
#[test]
fn a_branch_from_any_section_tells_where_code_begins() {
    if !need("as") {
        return;
    }
    let dir = temp_dir();
    let text = "
        .section .text.first, \"ax\", @progbits
        .type first, @function
        first: xor %eax, %eax
        ret
        .size first, . - first
        .section .text.second, \"ax\", @progbits
        .type second, @function
        second: test %edi, %edi
        jne .Lout
        .Lback: ret
        .size second, . - second
        .section .text.out, \"ax\", @progbits
        .Lout: mov $0xffffffffff600400, %rax
        call *%rax
        jmp .Lback
    ";
    let sites = round_trip(&assemble("sections", text, dir.path()), dir.path()).sites;
    let verdicts: Vec<_> = sites.iter().map(|site| site.verdict.as_str()).collect();
    assert_eq!(verdicts, ["patch"]);
}

#[test]
fn what_an_object_has_no_room_for_is_refused() {
    if !need("as") {
        return;
    }
    let dir = temp_dir();
    let object = Source::load("hoisted").assemble(dir.path());
    for site in round_trip(&object, dir.path()).sites {
        assert_eq!(site.verdict, "refused");
        assert!(site.reason.contains("in place only"), "{}", site.reason);
    }
}

#[test]
fn a_site_that_a_relocation_changes_is_refused() {
    if !need("as") {
        return;
    }
    let dir = temp_dir();
    let text = "
        .globl vtime
        vtime = 0xffffffffff600400
        .type f, @function
        f: .cfi_startproc
        mov $0xffffffffff600400, %rax
        .reloc . - 4, R_X86_64_32S, vtime
        call *%rax
        ret
        .cfi_endproc
        .size f, . - f
        .type g, @function
        g: .cfi_startproc
        mov $0xffffffffff600400, %rax
        call *%rax
        ret
        .cfi_endproc
        .size g, . - g
    ";
    let sites = round_trip(&assemble("relocated", text, dir.path()), dir.path()).sites;
    let verdicts: Vec<_> = sites.iter().map(|site| (site.vaddr, site.verdict.as_str())).collect();
    assert_eq!(verdicts, [(0, "refused"), (10, "patch")]);
    assert!(sites[0].reason.contains("relocation"), "{}", sites[0].reason);
}

/// Calls in objects have no target yet but what their relocations say: one to another object changes
/// registers, one to a local function is followed.
#[test]
fn calls_lead_where_their_relocations_say() {
    if !need("as") {
        return;
    }
    let dir = temp_dir();
    let text = "
        .type f, @function
        f: .cfi_startproc
        sub $8, %rsp
        mov $0xffffffffff600400, %rax
        call elsewhere
        call *%rax
        add $8, %rsp
        ret
        .cfi_endproc
        .size f, . - f
        .type g, @function
        g: .cfi_startproc
        mov $0xffffffffff600400, %rdx
        jmp take
        .cfi_endproc
        .size g, . - g
        .section .text.unlikely, \"ax\"
        .type take, @function
        take: .cfi_startproc
        call *%rdx
        ret
        .cfi_endproc
        .size take, . - take
    ";
    let sites = scan(&assemble("calls", text, dir.path()));
    let verdicts: Vec<_> = sites.iter().map(|site| (site.vaddr, site.verdict.as_str())).collect();
    assert_eq!(verdicts, [(4, "unproven"), (0x17, "refused")], "{sites:#?}");
}

/// The C corpus as one object, patched and then linked with the rest.
#[test]
fn compiled_objects_work_once_linked() {
    if !["gcc", "as"].into_iter().all(need) {
        return;
    }
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    let dir = temp_dir();
    let sources = root().join("corpus/compiled");
    for level in ["-O0", "-O2", "-Os"] {
        for kind in ["-fno-pie", "-fPIC", "-ffunction-sections"] {
            let forms = sources.join("forms.c");
            run("gcc", &["-w", "-c", level, kind, "-o", "f.o", forms.to_str().expect("UTF-8")], dir.path());
            let object = dir.path().join("f.o");
            let trip = round_trip(&object, dir.path());
            let patched = trip.sites.iter().filter(|site| site.verdict == "patch").count();
            assert!(patched > 15, "{level} {kind}: {patched}");
            let main = sources.join("run.c");
            let link = ["-w", level, "-o", "run", "f.o.patched", main.to_str().expect("UTF-8")];
            run("gcc", &[&link[..], &["-no-pie"]].concat(), dir.path());
            let ran = denied([dir.path().join("run")]).expect(0).stdout;
            assert!(!ran.contains("wrong"), "{level} {kind}: {ran}");
            let works = ran.lines().filter(|line| line.ends_with(" ok")).count();
            assert!(works > 15, "{level} {kind}: {ran}");
        }
    }
}

#[test]
fn what_cannot_be_looked_into_is_never_clean() {
    if !["as", "ar"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    assemble("clean", "ret\n", dir.path());
    run("ar", &["rcsT", "thin.a", "clean.o"], dir.path());
    fs::write(dir.path().join("debian-binary"), "2.0\n").expect("written");
    run("ar", &["rc", "some.deb", "debian-binary"], dir.path());
    fs::write(dir.path().join("packed"), packed()).expect("written");
    let cases = [("thin.a", "thin archive"), ("some.deb", "Debian package"), ("packed", "UPX")];
    for (name, words) in cases {
        let target = dir.path().join(name);
        let ran = tool([Path::new("scan"), &target]).expect(1);
        assert!(ran.stdout.contains(words) && ran.stdout.contains("cannot be scanned"), "{ran}");
        let report = Ran::of(vsyspatch().args(["scan", "--json", "--all"]).arg(&target)).expect(1).json();
        assert_eq!(files(&report)[0]["outcome"], "not-scanned");
        let copy = dir.path().join("copy");
        tool([Path::new("patch"), &target, &copy]).expect(1);
        assert!(read(&copy) == read(&target), "{name}: an identical copy");
    }
    let members = tool([Path::new("scan"), &dir.path().join("clean.o")]).expect(0);
    assert!(members.stdout.contains("0 with sites"), "{members}");
}

/// A program with UPX' header behind its program headers.
fn packed() -> Vec<u8> {
    let mut bytes = read(&root().join("corpus/prebuilt/demo"));
    let count = u16::from_le_bytes([bytes[56], bytes[57]]);
    let behind = 64 + 56 * usize::from(count);
    bytes[behind + 4..behind + 8].copy_from_slice(b"UPX!");
    bytes[behind + 11] = 22;
    bytes
}

#[test]
fn a_damaged_archive_is_named_with_the_place() {
    if !["as", "ar"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    Source::load("direct-call-rax").assemble(dir.path());
    run("ar", &["rc", "lib.a", "direct-call-rax.o"], dir.path());
    let sound = read(&dir.path().join("lib.a"));
    let section_headers = 0x28; // e_shoff
    let member = sound.windows(4).position(|four| four == b"\x7fELF").expect("a member");
    let mut damaged = sound.clone();
    damaged[member + section_headers..][..8].fill(0xff);
    let cut = sound[..sound.len() / 2].to_vec();
    for (bytes, words) in [(damaged, "member direct-call-rax.o"), (cut, "not a sound archive")] {
        let target = dir.path().join("damaged.a");
        fs::write(&target, bytes).expect("written");
        let ran = tool([Path::new("scan"), &target]).expect(2);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("offset 0x"), "{ran}");
    }
}

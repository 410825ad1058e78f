//! Calls that find no room for their stubs: the file gets a page of room. Programs and libraries that have no unused bytes
//! left are patched, run, and given to tools.

mod harness;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::elf::{segments, told_table, u64_at};
use harness::source::Source;
use harness::values::{self, KINDS, can_run, compile, patched};
use harness::{Ran, denied, need, read, temp_dir, tool};
use vsyspatch::examine::examine;
use vsyspatch::plan::{Edit, Plan, Role, Via};

/// `hlt`: neither padding nor anything that a program may do.
const IN_USE: u8 = 0xf4;

fn plan(bytes: &[u8]) -> Plan {
    examine(bytes, Via::Syscall).expect("a program").1.expect("a plan")
}

/// Makes all bytes that a patch of `file` would take for its stubs look as if they were in use.
fn use_up(file: &Path) {
    let mut bytes = read(file);
    loop {
        let plan = plan(&bytes);
        let is_filled = |edit: &&Edit| {
            matches!(edit.role, Role::Stub | Role::Detour | Role::Guard) && !edit.before.is_empty()
        };
        let filled: Vec<&Edit> = plan.edits.iter().filter(is_filled).collect();
        if filled.is_empty() {
            break;
        }
        for edit in filled {
            bytes[edit.offset.index()..][..edit.before.len()].fill(IN_USE);
        }
    }
    fs::write(file, bytes).expect("written");
}

/// The kinds of programs that can be left without room: a static libc has thousands of gaps.
fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter().filter(|kind| !kind.contains("-static"))
}

#[test]
fn programs_run_with_it() {
    if !can_run() {
        return;
    }
    let dir = temp_dir();
    for (number, kind) in kinds().enumerate() {
        let program = dir.path().join(format!("values-{number}"));
        compile("values.c", &format!("-DPROGRAM {kind}"), &program);
        use_up(&program);
        denied([&program, Path::new("check")]).expect(harness::KILLED);
        let cured = patched(&program, "syscall");
        assert_grown_by_one_page(&program, &cured);
        let ran = denied([&cured, Path::new("check")]).expect(0);
        assert!(ran.stdout.contains("6000000 values from 4 threads, under signals"), "{kind}: {ran}");
        denied([&cured, Path::new("only")]).expect(0);
        let (told, there) = told_table(&read(&cured));
        assert_eq!(Some(told), there, "{kind}: where Linux before 5.18 tells the program that its table is");
        tool([Path::new("verify"), &cured]).expect(0);
        let back = dir.path().join("back");
        tool([Path::new("revert"), &cured, &back]).expect(0);
        assert!(read(&back) == read(&program), "{kind}");
        // The page that calls the vDSO is as good.
        denied([&patched(&program, "vdso"), Path::new("without")]).expect(0);
    }
}

#[test]
fn shared_objects_run_with_it() {
    if !can_run() {
        return;
    }
    let dir = temp_dir();
    let (host, objects) = values::host_and_objects(dir.path());
    for object in objects {
        use_up(&object);
        let cured = patched(&object, "syscall");
        assert_grown_by_one_page(&object, &cured);
        denied([&host, Path::new("check"), &object]).expect(harness::KILLED);
        denied([&host, Path::new("check"), &cured]).expect(0);
        Ran::of(Command::new(&host).arg("check").env("LD_PRELOAD", &cured)).expect(0);
    }
}

#[track_caller]
fn assert_grown_by_one_page(file: &Path, cured: &Path) {
    let loads =
        |file: &Path| segments(&read(file)).into_iter().filter(|load| load.kind == 1).collect::<Vec<_>>();
    let (before, after) = (loads(file), loads(cured));
    let size = read(file).len() as u64;
    let added: Vec<_> = after.iter().filter(|load| load.offset >= size).collect();
    let [page] = added[..] else { panic!("{}: {} segments added", file.display(), added.len()) };
    assert_eq!((page.flags, page.file_size, page.mem_size), (5, 0x1000, 0x1000), "read and run");
    assert_eq!(after.len(), before.len() + 1, "{}: nothing else is loaded", file.display());
    assert_eq!(u64_at(&read(cured), 24), u64_at(&read(file), 24), "{}: the entry point", file.display());
}

#[test]
fn tools_take_what_was_patched() {
    if !can_run() || !values::TOOLS.into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let (host, objects) = values::host_and_objects(dir.path());
    let programs = kinds().enumerate().map(|(number, kind)| {
        let program = dir.path().join(format!("values-{number}"));
        compile("values.c", &format!("-DPROGRAM {kind}"), &program);
        (program, false)
    });
    let objects = objects.into_iter().map(|object| (object, true));
    for (file, is_library) in programs.chain(objects) {
        use_up(&file);
        let cured = patched(&file, "syscall");
        let run = |file: &Path| {
            let only = Path::new("only");
            let ran = if is_library { denied([&host, only, file]) } else { denied([file, only]) };
            ran.status
        };
        values::assert_taken_by_tools(&file, &cured, run);
    }
}

/// More detours than a page holds: as many pages as it takes, and no more than twice that.
#[test]
fn many_calls_get_several_pages() {
    if !["as", "ld.bfd"].into_iter().all(need) {
        return;
    }
    const READERS: usize = 80;
    let dir = temp_dir();
    let mut source = String::from(".text\n");
    for entry in 0..3 {
        for reader in 0..READERS {
            write!(
                source,
                ".globl f{entry}_{reader}\n.type f{entry}_{reader}, @function\nf{entry}_{reader}:\n.cfi_startproc\n\
                 mov word{entry}(%rip), %rax\ncall *%rax\nret\n.cfi_endproc\n.size f{entry}_{reader}, .-f{entry}_{reader}\n"
            )
            .expect("a String takes text");
        }
    }
    source.push_str(".balign 4096, 0xf4\n.data\n");
    for entry in 0..3 {
        writeln!(source, "word{entry}: .quad 0xffffffffff600000 + {entry} * 0x400")
            .expect("a String takes text");
    }
    source.push_str(".section .note.GNU-stack,\"\",@progbits\n");
    let [assembly, object, library] = ["many.s", "many.o", "many.so"].map(|name| dir.path().join(name));
    fs::write(&assembly, source).expect("written");
    Ran::of(Command::new("as").arg("-o").arg(&object).arg(&assembly)).expect(0);
    Ran::of(Command::new("ld.bfd").args(["-shared", "-z", "separate-code", "-o"]).arg(&library).arg(&object))
        .expect(0);
    let cured = patched(&library, "syscall");
    let (before, after) = (read(&library), read(&cured));
    let size = before.len() as u64;
    let added =
        segments(&after).into_iter().find(|load| load.kind == 1 && load.offset >= size).expect("room");
    let detours = plan(&before)
        .edits
        .iter()
        .filter(|edit| edit.role == Role::Detour)
        .map(|edit| edit.after.len())
        .sum::<usize>();
    assert!(detours > 0x1000, "{detours} bytes of detours");
    assert!(added.file_size < 2 * detours as u64 + 0x1000, "{:#x} for {detours}", added.file_size);
    tool([Path::new("verify"), &cured]).expect(0);
    let back = dir.path().join("back.so");
    tool([Path::new("revert"), &cured, &back]).expect(0);
    assert!(read(&back) == before);
}

/// What stands behind the program is found from the end of the file: nothing can be added, and that is told.
/// Stripped programs of lld have no entry left in their table, and their addresses are pages ahead of their offsets.
#[test]
fn a_few_pages_of_zeroed_data_are_bridged() {
    if !can_run() || !need("ld.lld") {
        return;
    }
    let dir = temp_dir();
    let program = dir.path().join("program");
    compile("values.c", "-DPROGRAM -DZEROS=30000 -pie -fPIE -fuse-ld=lld -s", &program);
    denied([&patched(&program, "vdso"), Path::new("without")]).expect(0);
    use_up(&program);
    let cured = patched(&program, "syscall");
    let growth = read(&cured).len() - read(&program).len();
    assert!((0x4000..0x1_4000).contains(&growth), "{growth} bytes longer");
    denied([&cured, Path::new("check")]).expect(0);
    let (told, there) = told_table(&read(&cured));
    assert_eq!(Some(told), there, "where Linux before 5.18 tells the program that its table is");
    tool([Path::new("verify"), &cured]).expect(0);
}

#[test]
fn why_there_is_none_is_told() {
    if !need("gcc") {
        return;
    }
    let dir = temp_dir();
    let program = dir.path().join("program");
    compile("values.c", "-DPROGRAM -pie -fPIE", &program);
    use_up(&program);
    fs::write(&program, [&read(&program)[..], b"a payload"].concat()).expect("written");
    let ran = tool([Path::new("scan"), &program]).expect(1);
    let why = "no unused bytes for a stub in an executable segment, and none can be added: bytes stand behind everything";
    assert!(ran.stdout.contains(why), "{ran}");
}

/// To Go's run-time every address between two of its functions is one of the first of them, which its table has to tell about:
/// it ends the program where a signal interrupts code of which that tells nothing. Some take the end of the last for one, too.
#[test]
fn padding_between_functions_of_go_is_none() {
    if !["as", "strip", "ld.bfd", "objcopy"].into_iter().all(need) {
        return;
    }
    let (dir, source) = (temp_dir(), Source::load("go-padding"));
    let object = source.assemble(dir.path());
    let (link, linker) = source.variants()[0];
    let named = &source.link(&object, link, linker, dir.path()).files[0];
    let nameless = harness::with_suffix(named, ".nameless");
    let mut objcopy = Command::new("objcopy");
    Ran::of(objcopy.args(["--rename-section", ".gopclntab=.other"]).arg(named).arg(&nameless)).expect(0);
    let (named, nameless) = (read(named), read(&nameless));
    let table = |bytes: &[u8], name| {
        let table = harness::elf::section(bytes, name).expect("the table");
        (table.as_ptr().addr() - bytes.as_ptr().addr(), [u64_at(table, 16), u64_at(table, 48)])
    };
    let (at, [start, end]) = table(&nameless, ".other");
    // As where the addresses are in relocations alone, and where there is no table.
    let (mut relocated, mut other) = (nameless.clone(), nameless.clone());
    relocated[at + 16..at + 56].fill(0);
    other[at] = 0;
    for (bytes, is_of_go) in [(named, true), (nameless, true), (relocated, true), (other, false)] {
        let stubs = stubs(&bytes);
        assert_eq!(stubs.len(), 1);
        assert_eq!((start..=end).contains(&stubs[0]), !is_of_go, "{:#x} in {start:#x}..{end:#x}", stubs[0]);
    }
    let Some(corpus) = harness::real_corpus() else { return harness::skip("no VSYSPATCH_CORPUS") };
    for (name, end) in [("go1.14.7-tree", 0x49_2383), ("go1.6.2-stripped", 0x4a_a760)] {
        let stubs = stubs(&read(&corpus.join("go").join(name)));
        assert!(!stubs.is_empty() && stubs.iter().all(|&stub| stub > end), "{name}: {stubs:x?}");
    }
}

/// The addresses of the stubs that a patch makes.
fn stubs(bytes: &[u8]) -> Vec<u64> {
    let edits = plan(bytes).edits;
    edits.iter().filter(|edit| edit.role == Role::Stub).filter_map(|edit| Some(edit.vaddr?.0)).collect()
}

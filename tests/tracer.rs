//! Another pair of eyes: programs run under `vsyspatch trace`, which sees every vsyscall they really make and where it
//! returns to. Each must belong to a site that `scan` lists, found there without the scan's data flow.

mod harness;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::source::{Dress, Source, Variant};
use harness::{
    Ran, host_emulates, is_root, need, real_corpus, root, rootfs, skip, swept, temp_dir, vsyspatch,
};
use serde_json::Value;

/// Whether vsyscalls can be seen here; skips aloud where not.
fn can_trace() -> bool {
    let emulates = host_emulates();
    if !emulates {
        skip("this host does not emulate vsyscalls: none can be seen");
    }
    emulates
}

/// Runs `program` and returns the `trace` of the report, and how it ended.
fn trace<S: AsRef<OsStr>>(program: &[S]) -> (Value, Ran) {
    let dir = temp_dir();
    let report = dir.path().join("report");
    let ran = Ran::of(
        vsyspatch().args(["trace", "--json", "-o"]).arg(&report).arg("--").args(program).env("TERM", "xterm"),
    );
    let text = fs::read_to_string(&report).unwrap_or_else(|error| panic!("no report ({error}): {ran}"));
    let document = Ran { line: ran.line.clone(), status: ran.status, stdout: text, stderr: String::new() };
    (document.report()["trace"].clone(), ran)
}

/// The places that called, with the files that they are in.
fn callers(trace: &Value) -> Vec<(&str, &Value)> {
    let files = trace["files"].as_array().expect("files").iter();
    files
        .flat_map(|file| {
            let path = file["path"].as_str().expect("a path");
            file["callers"].as_array().expect("callers").iter().map(move |caller| (path, caller))
        })
        .collect()
}

/// Every call is explained by a listed site. Returns how many places belong in which way.
#[track_caller]
fn check(trace: &Value, what: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut wrong = vec![];
    for (file, caller) in callers(trace) {
        match caller["explained_by"].as_str() {
            Some(by) => *counts.entry(by.to_owned()).or_default() += 1,
            None => wrong.push(format!("{file}: {caller}")),
        }
    }
    assert!(wrong.is_empty(), "{what}: calls that no listed site explains:\n{}", wrong.join("\n"));
    assert_eq!(trace["unknown"], serde_json::json!([]), "{what}: callers in no file");
    eprintln!("{what}: {} call sites, {counts:?}", callers(trace).len());
    counts
}

/// Calls in the functions of corpus/compiled that get what they call from data, from their callers or from what they call.
const CALLS_BY_TRAVEL: usize = 21;

/// These functions, and what a jump in one of them returns to where it is part of its caller.
const BY_TRAVEL: [&str; 17] = [
    "main",
    "check",
    "f_static_ptr",
    "f_const_ptr",
    "f_global_ptr",
    "f_table",
    "f_ctable",
    "f_ops",
    "f_ops2",
    "apply",
    "apply2",
    "f_call_returned",
    "f_fields",
    "f_fields_from_one",
    "f_walk",
    "f_by_name",
    "f_lazy",
];

#[test]
fn compiled_programs() {
    let dir = temp_dir();
    if !can_trace() {
        return;
    }
    for compiler in ["gcc", "clang"] {
        if !need(compiler) {
            continue;
        }
        for options in [
            "-O0 -no-pie -fno-pie",
            "-O0 -pie -fPIE",
            "-O1 -pie -fPIE",
            "-O2 -no-pie -fno-pie",
            "-O2 -pie -fPIE",
            "-O3 -pie -fPIE -fcf-protection=full",
            "-Os -no-pie -fno-pie",
        ] {
            let program = dir.path().join("program");
            let sources = ["forms.c", "run.c"].map(|name| root().join("corpus/compiled").join(name));
            let mut command = Command::new(compiler);
            command.arg("-w").args(options.split(' ')).args(sources).arg("-o").arg(&program);
            Ran::of(&mut command).expect(0);
            let (seen, _) = trace(&[&program]);
            let what = format!("{compiler} {options}");
            let counts = check(&seen, &what);
            let places = callers(&seen).len();
            assert!(places > 30, "{what}: call sites seen: {places}");
            let travelled =
                callers(&seen).into_iter().filter(|(_, caller)| caller["explained_by"] == "travel");
            let names = travelled.filter_map(|(_, caller)| caller["function"].as_str());
            let unexpected: Vec<&str> =
                names.filter(|name| !BY_TRAVEL.contains(&name.split('.').next().unwrap_or(name))).collect();
            assert!(unexpected.is_empty(), "{what}: {counts:?}, by travel only: {unexpected:?}");
            let travelled = counts.get("travel").copied().unwrap_or_default();
            assert!(travelled <= CALLS_BY_TRAVEL, "{what}: {counts:?}");
        }
    }
}

#[test]
fn corpus_sources() {
    let dir = temp_dir();
    if !can_trace() {
        return;
    }
    if !["as", "strip", "ld.bfd", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let mut programs = 0;
    for entry in fs::read_dir(harness::source::dir()).expect("the corpus directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_str().expect("a name in UTF-8");
        if path.extension().is_none_or(|extension| extension != "s") || name == "demo" {
            continue;
        }
        let source = Source::load(name);
        let object = source.assemble(dir.path());
        for (link, linker) in source.variants() {
            let runs = |dress| source.run(Variant { link, linker, dress }).is_some();
            if !Dress::ALL.into_iter().any(runs) {
                continue;
            }
            let linked = source.link(&object, link, linker, dir.path());
            for (file, dress) in linked.files.iter().zip(Dress::ALL).filter(|&(_, dress)| runs(dress)) {
                let (seen, _) = trace(&[file]);
                let what = format!("{name} {}", Variant { link, linker, dress });
                assert!(!callers(&seen).is_empty(), "{what}: no call was seen");
                check(&seen, &what);
                programs += 1;
            }
        }
    }
    assert!(programs > 100, "programs that ran: {programs}");
}

#[test]
fn real_programs() {
    let dir = temp_dir();
    if !can_trace() {
        return;
    }
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    if !is_root() {
        return skip("chroot needs root");
    }
    if !["mknod", "as", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let tree = rootfs::with_tmux(dir.path(), "tree");
    let glibc_2_5 = rootfs::glibc_2_5(dir.path(), "glibc-2.5");
    let in_tree = |tree: &Path, program: &[&str]| {
        let tree = tree.to_str().expect("a path in UTF-8");
        trace(&[&["chroot", tree], program].concat()).0
    };
    let programs: [(&Path, &[&str]); 4] = [
        (&tree, &["mdadm", "--version"]),
        (&tree, &["e2fsck", "-V"]),
        (&tree, &rootfs::TMUX_SERVER),
        (&glibc_2_5, &["/old-glibc"]),
    ];
    for (tree, program) in programs {
        let seen = in_tree(tree, program);
        assert!(!callers(&seen).is_empty(), "{program:?}: no call was seen");
        let counts = check(&seen, program[0]);
        assert_eq!(counts.get("travel"), None, "{program:?}: {counts:?}");
    }
    for program in [&["busybox", "true"][..], &["strace", "-V"]] {
        let seen = in_tree(&tree, program);
        assert_eq!(seen["calls"], 0, "{program:?} makes none: {seen}");
    }
}

/// Starts threads and a child, each of which calls time() in the page as often as it is told, and then a program of
/// the same kind by exec.
const BUSY: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static long count;
__attribute__((noinline)) static void busy(void) {
    for (long i = 0; i < count; i++) ((long (*)(long *))0xffffffffff600400)(0);
}
static void *run(void *unused) { busy(); return unused; }
int main(int argc, char **argv) {
    pthread_t threads[4];
    int status;
    count = atol(argv[1]);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, run, 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    if (!fork()) { busy(); execl(argv[0], argv[0], argv[1], "last", (char *)0); }
    if (argc > 2) _exit(7);
    wait(&status);
    return WEXITSTATUS(status);
}
"#;

/// Compiles `source` and returns the program.
fn compiled(dir: &Path, source: &str, options: &[&str]) -> std::path::PathBuf {
    let (file, program) = (dir.join("busy.c"), dir.join("busy"));
    fs::write(&file, source).expect("the source is written");
    Ran::of(Command::new("cc").args(options).arg(&file).arg("-o").arg(&program)).expect(0);
    program
}

#[test]
fn threads_children_and_programs_that_they_become_are_counted() {
    if !can_trace() || !need("cc") {
        return;
    }
    let dir = temp_dir();
    for options in [&["-O1", "-pthread", "-no-pie"][..], &["-O1", "-pthread", "-static"]] {
        let source = BUSY.replace("if (!fork())", "if (argc == 2 && !fork())");
        let program = compiled(dir.path(), &source, options);
        let (seen, ran) = trace(&[program.as_os_str(), OsStr::new("25")]);
        assert_eq!((ran.status, &seen["status"]), (7, &Value::from(7)), "the program's status: {ran}");
        assert_eq!(seen["calls"], 25 * (4 + 1 + 4), "{seen:#}");
        assert_eq!(seen["processes"], 2, "{seen:#}");
        let places = callers(&seen);
        let [(file, caller)] = places[..] else { panic!("one place: {seen:#}") };
        assert_eq!(Path::new(file), program.canonicalize().expect("a path"));
        assert_eq!((&caller["entry"], &caller["function"]), (&"time".into(), &"busy".into()));
        check(&seen, "busy");
    }
}

#[test]
fn ten_thousand_calls_a_second_are_seen() {
    if !can_trace() || !need("cc") {
        return;
    }
    let dir = temp_dir();
    let program = compiled(dir.path(), &BUSY.replace("if (!fork())", "if (0)"), &["-O1", "-pthread"]);
    let begun = std::time::Instant::now();
    let (seen, _) = trace(&[program.as_os_str(), OsStr::new("10000")]);
    assert_eq!(seen["calls"], 40_000);
    let seconds = begun.elapsed().as_secs_f64();
    swept(&format!("trace: 40000 calls in {seconds:.1} s, {:.0} us each", seconds * 25.0));
    assert!(seconds < 40.0, "fewer than 1000 calls a second are seen: {seconds} s");
}

#[test]
fn the_report_goes_to_stderr_and_the_output_is_the_programs() {
    if !can_trace() {
        return;
    }
    let sample = root().join("corpus/prebuilt/demo");
    let ran = Ran::of(vsyspatch().args(["trace", "--"]).arg(&sample)).expect(0);
    assert!(ran.stdout.starts_with("time() works: "), "{ran}");
    assert!(ran.stderr.contains("1 call of the vsyscall page, by 1 process"), "{ran}");
    assert!(!ran.stderr.contains('\x1b'), "{ran}");
    let ran = Ran::of(vsyspatch().args(["trace", "--", "sh", "-c", "echo out; exit 3"])).expect(3);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "no vsyscall was made\n"));
    let ran = Ran::of(vsyspatch().args(["trace", "-o", "/nonexistent/file", "true"])).expect(2);
    assert!(ran.stderr.starts_with("vsyspatch: cannot write /nonexistent/file: "), "{ran}");
    let ran = Ran::of(vsyspatch().args(["trace", "./missing"])).expect(2);
    assert!(ran.stderr.starts_with("vsyspatch: cannot run ./missing: "), "{ran}");
}

#[test]
fn what_is_told_of_a_trace() {
    if !can_trace() {
        return;
    }
    let sample = root().join("corpus/prebuilt/demo");
    let ran = Ran::of(vsyspatch().args(["--color", "never", "trace", "--"]).arg(&sample)).expect(0);
    insta::assert_snapshot!(ran.stderr.replace(root().to_str().expect("UTF-8"), ""));
}

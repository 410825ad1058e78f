//! Compiler output: corpus/compiled by gcc and clang at every level, in fixed-address and
//! position-independent programs, run for real. With vsyscalls denied the patched program gives what the
//! original gives without the filter; what is still killed is what the report calls refused.

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Ran, denied, host_emulates, need, root, scan, skip, temp_dir, tool};

/// What may be refused where nothing tells where functions begin: a slot of the stack, and pointers that a
/// position-independent file cannot relocate, in code whose callers are not known.
const NEEDS_BOUNDS: [u32; 12] = [9, 13, 15, 16, 17, 18, 19, 38, 39, 40, 41, 42];

/// What gcc's `-mcmodel=large` leaves in the register of the result at the end of a function without one: the address
/// of the table that these read.
const LEFT_AS_RESULT: [u32; 5] = [13, 15, 16, 40, 42];

/// The kind of programs in which it does.
const LEAVES_RESULT: &str = "gcc -O2 -pie -fPIE -mcmodel=large";

/// The kind of programs in which nothing tells that.
const UNBOUNDED: &str = "-fno-asynchronous-unwind-tables -s";

#[test]
fn gcc() {
    by("gcc");
}

#[test]
fn clang() {
    by("clang");
}

fn by(compiler: &str) {
    if !need(compiler) {
        return;
    }
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    let dir = temp_dir();
    let kinds = ["-no-pie -fno-pie", "-pie -fPIE", "-no-pie -fcf-protection=full"];
    let more_kinds = [
        "-no-pie -fno-pie -flto",
        "-pie -fPIE -flto",
        "-no-pie -fno-pie -mcmodel=large",
        "-no-pie -mcmodel=large",
        "-pie -fPIE -mcmodel=large",
        "-pie -fPIE -fno-plt -fcf-protection=full",
        "-static-pie -fPIE",
        "-static -no-pie",
        "-no-pie -fno-pie -Wl,-z,noseparate-code",
        "-pie -fPIE -Wl,-z,noseparate-code -Wl,-z,norelro",
        "-pie -fPIE -fuse-ld=lld",
        "-no-pie -fno-pie -ffunction-sections -s",
        "-pie -fPIE -fno-asynchronous-unwind-tables -s",
    ];
    let levels = ["-O0", "-O1", "-O2", "-O3", "-Os"];
    let all = levels.iter().flat_map(|level| kinds.map(|kind| (*level, kind)));
    for (level, kind) in all.chain(more_kinds.map(|kind| ("-O2", kind))) {
        let (original, patched) = (dir.path().join("original"), dir.path().join("patched"));
        compile(compiler, &[level], kind, &original);
        check(&original, &patched, &format!("{compiler} {level} {kind}"));
        remove(&original, &patched);
    }
}

fn remove(original: &Path, patched: &Path) {
    std::fs::remove_file(original).expect("it was made");
    remove_patched(patched);
}

fn remove_patched(patched: &Path) {
    for file in [patched, &harness::with_suffix(patched, ".vsyspatch.json")] {
        std::fs::remove_file(file).expect("it was made");
    }
}

/// With a profile, which says that nothing but main is hot, so that code is split into hot and cold parts.
#[test]
fn gcc_with_a_profile() {
    if !need("gcc") {
        return;
    }
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    let dir = temp_dir();
    let (original, patched) = (dir.path().join("original"), dir.path().join("patched"));
    for kind in ["-no-pie -fno-pie", "-pie -fPIE"] {
        compile("gcc", &["-O2", "-fprofile-generate"], kind, &original);
        Ran::of(Command::new(&original).current_dir(dir.path())).expect(0);
        let split = ["-O2", "-fprofile-use", "-fprofile-partial-training", "-freorder-blocks-and-partition"];
        compile("gcc", &split, kind, &original);
        check(&original, &patched, &format!("gcc with a profile, {kind}"));
        remove(&original, &patched);
    }
}

/// corpus/compiled/exceptions.cc: calls around exceptions, in destructors, by members and lambdas.
#[test]
fn cpp() {
    if !["g++", "clang++"].into_iter().all(need) {
        return;
    }
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    /// Calls a member that was set in memory of the heap, which is not followed.
    const BY_MEMBER: u32 = 2;
    let dir = temp_dir();
    let (original, patched) = (dir.path().join("original"), dir.path().join("patched"));
    for compiler in ["g++", "clang++"] {
        for level in ["-O0", "-O1", "-O2", "-O3", "-Os"] {
            for kind in ["-no-pie -fno-pie", "-pie -fPIE", "-no-pie -s"] {
                let what = format!("{compiler} {level} {kind}");
                let mut command = Command::new(compiler);
                command.args(["-std=c++11", "-w", level]).args(kind.split(' ')).arg("-o").arg(&original);
                Ran::of(command.arg(root().join("corpus/compiled/exceptions.cc"))).expect(0);
                let before = outcomes(&denied([&original]).expect(0));
                assert!(before.iter().all(|(_, outcome)| outcome == "killed"), "{what}: {before:?}");
                let unproven = scan(&original).iter().any(|site| site.verdict == "unproven");
                for via in ["--via=syscall", "--via=vdso"] {
                    tool([Path::new("patch"), Path::new(via), &original, &patched]).expect(0);
                    for (number, outcome) in outcomes(&denied([&patched]).expect(0)) {
                        let excused = outcome == "killed" && unproven && number == BY_MEMBER;
                        assert!(outcome == "ok" || excused, "{what} {via}: function {number} is {outcome}");
                    }
                    remove_patched(&patched);
                }
                std::fs::remove_file(&original).expect("it was made");
            }
        }
    }
}

fn compile(compiler: &str, options: &[&str], kind: &str, output: &Path) {
    let sources = ["forms.c", "run.c"].map(|name| root().join("corpus/compiled").join(name));
    let mut command = Command::new(compiler);
    command
        .current_dir(output.parent().expect("a directory"))
        .arg("-w")
        .args(options)
        .args(kind.split(' '))
        .args(sources)
        .arg("-o")
        .arg(output);
    Ran::of(&mut command).expect(0);
}

fn check(original: &Path, patched: &Path, what: &str) {
    let before = outcomes(&Ran::of(&mut Command::new(original)).expect(0));
    assert!(before.iter().all(|(_, outcome)| outcome == "ok"), "{what}: {before:?}");
    let unfree = outcomes(&denied([original]).expect(0));
    assert!(unfree.iter().filter(|(_, outcome)| outcome == "killed").count() > 25, "{what}: {unfree:?}");
    let may_be_refused = match what {
        _ if what.ends_with(UNBOUNDED) => &NEEDS_BOUNDS[..],
        LEAVES_RESULT => &LEFT_AS_RESULT,
        _ => &[],
    };
    for via in ["vdso", "syscall"] {
        let words = [Path::new("patch"), Path::new("--via"), Path::new(via), original, patched];
        let report = tool(words.into_iter().chain([Path::new("--json")])).report();
        let sites = harness::files(&report)[0]["sites"].as_array().expect("sites").clone();
        let refused = sites.iter().filter(|site| site["verdict"] == "refused").count();
        assert_eq!(report["status"], i32::from(refused > 0), "{what} via {via}");
        assert!(refused == 0 || !may_be_refused.is_empty(), "{what} via {via}: {refused} refused");
        for (number, outcome) in outcomes(&denied([patched]).expect(0)) {
            let excused = outcome == "killed" && refused > 0 && may_be_refused.contains(&number);
            assert!(
                outcome == "ok" || excused,
                "{what} via {via}: function {number} is {outcome}; {refused} refused"
            );
        }
    }
}

fn outcomes(ran: &Ran) -> Vec<(u32, String)> {
    let line = |line: &str| {
        let (number, outcome) = line.split_once(' ').expect("a number and an outcome");
        (number.parse().expect("a number"), outcome.to_owned())
    };
    ran.stdout.lines().map(line).collect()
}

//! Compiler output: corpus/compiled/forms.c by gcc and clang at every level, in fixed-address and
//! position-independent programs, run for real. With vsyscalls denied the patched program gives what the
//! original gives without the filter; what is still killed is what the report calls refused.

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Ran, denied, host_emulates, need, root, scan, skip, temp_dir, tool};

/// Functions that need a stub's address in a pointer that a position-independent file cannot relocate, or
/// a page of stubs: tables, replaceable pointers, indices known only at run time.
const MAY_BE_REFUSED: [u32; 9] = [11, 13, 15, 16, 17, 18, 19, 21, 22];

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
    for level in ["-O0", "-O1", "-O2", "-O3", "-Os"] {
        for kind in ["-no-pie -fno-pie", "-pie -fPIE", "-no-pie -fcf-protection=full"] {
            let (original, patched) = (dir.path().join("original"), dir.path().join("patched"));
            compile(compiler, &[level], kind, &original);
            check(&original, &patched, &format!("{compiler} {level} {kind}"));
            for file in [&original, &patched, &harness::with_suffix(&patched, ".vsyspatch.json")] {
                std::fs::remove_file(file).expect("it was made");
            }
        }
    }
}

fn compile(compiler: &str, options: &[&str], kind: &str, output: &Path) {
    let sources = ["forms.c", "run.c"].map(|name| root().join("corpus/compiled").join(name));
    let mut command = Command::new(compiler);
    command.arg("-w").args(options).args(kind.split(' ')).args(sources).arg("-o").arg(output);
    Ran::of(&mut command).expect(0);
}

fn check(original: &Path, patched: &Path, what: &str) {
    let before = outcomes(&Ran::of(&mut Command::new(original)).expect(0));
    assert!(before.iter().all(|(_, outcome)| outcome == "ok"), "{what}: {before:?}");
    let unfree = outcomes(&denied([original]).expect(0));
    assert!(unfree.iter().filter(|(_, outcome)| outcome == "killed").count() > 25, "{what}: {unfree:?}");
    let refused = scan(original).iter().filter(|site| site.verdict == "refused").count();
    let arguments = [Path::new("patch"), original, patched];
    assert_eq!(tool(arguments).status, i32::from(refused > 0), "{what}");
    for (number, outcome) in outcomes(&denied([patched]).expect(0)) {
        let excused = outcome == "killed" && refused > 0 && MAY_BE_REFUSED.contains(&number);
        assert!(outcome == "ok" || excused, "{what}: function {number} is {outcome}; {refused} refused");
    }
}

fn outcomes(ran: &Ran) -> Vec<(u32, String)> {
    let line = |line: &str| {
        let (number, outcome) = line.split_once(' ').expect("a number and an outcome");
        (number.parse().expect("a number"), outcome.to_owned())
    };
    ran.stdout.lines().map(line).collect()
}

//! The demo tells its whole story, and its sample is what its source says.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{SAMPLE, folder, run, skip};
use object::{Object as _, ObjectSection as _};

/// The bytes of `.text`.
fn text_of(file: &[u8]) -> Vec<u8> {
    let file = object::File::parse(file).expect("an object file");
    file.section_by_name(".text").expect("has code").data().expect("is in the file").to_vec()
}

#[test]
fn the_sample_is_what_its_source_says() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/demo.s");
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .status()
            .map(|status| status.success())
    };
    let Ok(assembled) = run("as", &["-o", "demo.o", source.to_str().unwrap()]) else {
        return skip("binutils are not installed");
    };
    assert!(assembled);
    let link = ["--build-id=none", "-z", "noseparate-code", "--eh-frame-hdr", "-o", "demo", "demo.o"];
    assert!(run("ld", &link).unwrap());
    let built = fs::read(folder.path().join("demo")).unwrap();
    assert_eq!(text_of(&built), text_of(SAMPLE));
}

#[test]
fn the_demo_tells_the_whole_story() {
    let folder = folder();
    let told = run(folder.path(), &["demo"]).ends_with(0);
    assert_eq!(told.stderr, "");
    for said in [
        "$ vsyspatch scan sample\n",
        "time  direct-call  time  always  patch\n",
        "$ vsyspatch exec -- ./sample\n",
        "$ vsyspatch patch sample sample.patched\n",
        "$ vsyspatch verify sample.patched\n",
        "$ vsyspatch exec -- ./sample.patched\ntime() works: ",
        "$ vsyspatch revert sample.patched sample.reverted\n",
        "The story held",
    ] {
        assert!(told.stdout.contains(said), "{said:?} is missing in:\n{}", told.stdout);
    }
    assert_eq!(run(folder.path(), &["demo", "-q"]).ends_with(0).stdout, "");
}

/// Which of the two is seen depends on the kernel; /proc/self/maps says which it must be.
#[test]
fn the_demo_says_who_denied_the_call() {
    let folder = folder();
    let demo = run(folder.path(), &["demo", "--json"]).ends_with(0).json();
    let emulates = fs::read_to_string("/proc/self/maps").unwrap().contains("[vsyscall]");
    let (by, status) = if emulates { ("filter", 159) } else { ("kernel", 139) };
    let demo = &demo["demo"];
    assert_eq!(demo["denied_by"], by);
    assert_eq!(demo["steps"][1]["status"], status);
    assert_eq!(demo["original"], demo["reverted"]);
    assert_ne!(demo["original"], demo["patched"]);
}

#[test]
fn the_demo_cleans_up_behind_itself() {
    let folder = folder();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = common::vsyspatch(folder.path());
    let output = command.arg("demo").env("TMPDIR", temporary.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);

    let output = common::vsyspatch(folder.path()).arg("demo").env("TMPDIR", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("temporary folder"), "{output:?}");
}

//! The examples for GitHub Actions and GitLab are sound YAML, and their commands do what they say, run as these do:
//! `bash -e`, one step after the other in one directory.

mod harness;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use harness::{Ran, read, root, temp_dir, vsyspatch};
use serde_yaml_ng::Value;

fn parsed(name: &str) -> Value {
    let text = fs::read_to_string(root().join("tests/ci").join(name)).expect("the example");
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_sequence().expect("a list").iter().map(|item| item.as_str().expect("a string")).collect()
}

/// Runs the steps on a tree with one program that makes a vsyscall; the last proves that it makes none any more.
fn check(steps: &[&str], left_behind: &[&str]) {
    let dir = temp_dir();
    let program = dir.path().join("rootfs/bin/program");
    fs::create_dir_all(program.parent().expect("a directory")).expect("a tree");
    fs::write(&program, read(&root().join("corpus/prebuilt/demo"))).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    let original = read(&program);
    let command = vsyspatch();
    let bin = Path::new(command.get_program()).parent().expect("its directory").to_owned();
    let path =
        env::join_paths(std::iter::once(bin).chain(env::split_paths(&env::var_os("PATH").expect("a PATH"))))
            .expect("a PATH");
    let mut last = None;
    for step in steps {
        let mut shell = Command::new("bash");
        shell.args(["-e", "-o", "pipefail", "-c", step]).current_dir(dir.path()).env("PATH", &path);
        last = Some(Ran::of(&mut shell).expect(0));
    }
    assert!(last.expect("a step").stdout.contains("time() works: "), "the last step runs the program");
    assert_ne!(read(&program), original, "it is patched");
    for name in left_behind {
        assert!(!read(&dir.path().join(name)).is_empty(), "{name}");
    }
}

#[test]
fn github_actions() {
    let example = parsed("github.yml");
    let steps = example["jobs"]["vsyscalls"]["steps"].as_sequence().expect("steps");
    let commands: Vec<&str> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
    assert_eq!(commands.len(), 3);
    let upload = steps.iter().find_map(|step| step["with"]["sarif_file"].as_str()).expect("an upload");
    check(&commands, &[upload, "vsyspatch.html"]);
}

#[test]
fn gitlab() {
    let example = parsed("gitlab.yml");
    let job = &example["vsyscalls"];
    check(&strings(&job["script"]), &strings(&job["artifacts"]["paths"]));
}

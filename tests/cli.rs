//! The command from outside: words, exit statuses, streams.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use common::{Ran, SAMPLE, folder, run, skip, vsyspatch};

const CLEAN: &str = "clean";

/// The sample with its constant one bit away from an entry.
fn clean_sample() -> Vec<u8> {
    let mut bytes = SAMPLE.to_vec();
    assert_eq!(bytes[common::SAMPLE_CONSTANT + 3..][..4], [0x00, 0x04, 0x60, 0xff]);
    bytes[common::SAMPLE_CONSTANT + 5] = 0x50;
    bytes
}

#[test]
fn usage_errors_end_with_2_and_say_what_is_missing() {
    let folder = folder();
    let before = fs::read(folder.path().join("sample")).unwrap();
    for (words, said) in [
        (&[][..], "Usage:"),
        (&["scan"], "TARGET"),
        (&["frobnicate"], "frobnicate"),
        (&["scan", "--frobnicate", "sample"], "--frobnicate"),
        (&["scan", "--color", "pink", "sample"], "pink"),
        (&["scan", "-q", "-v", "sample"], "cannot be used with"),
        (&["scan", "--record", "r", "sample"], "--record"),
        (&["patch", "sample"], "--in-place"),
        (&["patch", "sample", "a", "b"], "'b'"),
        (&["patch", "sample", "a", "-o", "b"], "cannot be used with"),
        (&["patch", "sample", "a", "--in-place"], "cannot be used with"),
        (&["revert", "sample"], "--in-place"),
        (&["verify", "sample", "sample", "--record", "r"], "one target"),
        (&["exec"], "CMD"),
        (&["trace"], "CMD"),
        (&["exec", "--json", "true"], "no report"),
        (&["doctor", "--json", "--", "true"], "as text only"),
    ] {
        let ran = run(folder.path(), words).ends_with(2);
        assert!(ran.stderr.contains(said), "{words:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{words:?}");
    }
    assert_eq!(fs::read(folder.path().join("sample")).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written");
}

#[test]
fn help_names_the_commands_the_exit_statuses_and_the_symptom() {
    let folder = folder();
    let ran = run(folder.path(), &["--help"]).ends_with(0);
    for said in [
        "scan",
        "patch",
        "verify",
        "revert",
        "exec",
        "trace",
        "demo",
        "Exit status",
        "  0  ",
        "  1  ",
        "  2  ",
        "139",
    ] {
        assert!(ran.stdout.contains(said), "{said}: {}", ran.stdout);
    }
}

#[test]
fn version_names_the_commit() {
    let mut git = std::process::Command::new("git");
    git.args(["rev-parse", "--short=12", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Where nothing tells the commit, as in an archive of the sources, none is named.
    let commit = git.output().ok().filter(|output| output.status.success()).map_or(String::new(), |output| {
        format!(" ({})", String::from_utf8(output.stdout).expect("text").trim())
    });
    let ran = run(folder().path(), &["--version"]).ends_with(0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((ran.stdout, ran.stderr.as_str()), (format!("vsyspatch {version}{commit}\n"), ""));
}

#[test]
fn scan_tells_sites_from_clean_files() {
    let folder = folder();
    fs::write(folder.path().join(CLEAN), clean_sample()).unwrap();

    let found = run(folder.path(), &["scan", "sample", CLEAN]).ends_with(1);
    assert_eq!(found.stderr, "");
    insta::assert_snapshot!(found.stdout);

    let clean = run(folder.path(), &["scan", CLEAN]).ends_with(0);
    assert_eq!(clean.stdout, "1 file, 0 with sites\n");
    let all = run(folder.path(), &["scan", "--all", CLEAN]).ends_with(0);
    assert_eq!(all.stdout, "clean: EXEC, static, not stripped\n1 file, 0 with sites\n");
}

#[test]
fn verbose_shows_the_edits_before_and_after() {
    let folder = folder();
    insta::assert_snapshot!(run(folder.path(), &["scan", "-v", "sample"]).ends_with(1).stdout);
}

#[test]
fn quiet_says_nothing_on_success_and_the_finding_otherwise() {
    let folder = folder();
    fs::write(folder.path().join(CLEAN), clean_sample()).unwrap();
    let clean = run(folder.path(), &["scan", "-q", "--all", CLEAN]).ends_with(0);
    assert_eq!((clean.stdout.as_str(), clean.stderr.as_str()), ("", ""));
    let found = run(folder.path(), &["-q", "scan", CLEAN, "sample"]).ends_with(1);
    assert!(found.stdout.starts_with("sample: EXEC"), "{found:?}");
    assert_eq!(found.stdout.lines().count(), 2, "{found:?}");
}

#[test]
fn bad_targets_are_named_and_do_not_end_the_run() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("text"), b"#!/bin/sh\necho no ELF file, but long enough for a header of one\n").unwrap();
    fs::write(at("cut"), &SAMPLE[..0x80]).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), 0o644.into()).unwrap();

    for name in ["empty", "text", "cut", "fifo", "missing"] {
        let ran = run(folder.path(), &["scan", name, "sample"]).ends_with(2);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{ran:?}");
        assert!(lines[0].starts_with(&format!("vsyspatch: {name}: ")), "{ran:?}");
        assert!(ran.stdout.starts_with("sample: EXEC"), "the run went on: {ran:?}");
        assert!(ran.stdout.ends_with("; 1 error\n"), "{ran:?}");
        let malformed = ["empty", "text", "cut"].contains(&name);
        assert_eq!(lines[0].contains(": offset 0x"), malformed, "{ran:?}");
    }
}

#[test]
fn a_file_without_read_permission_is_an_error() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::set_permissions(at("sample"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = vsyspatch(folder.path());
    if fs::read(at("sample")).is_ok() {
        // The superuser reads everything, so another user runs a copy of the command that he can reach.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Copied by a program of its own: children of other tests do not hold it open for writing while it starts.
        let mut copy = std::process::Command::new("cp");
        let is_copied = copy.arg(env!("CARGO_BIN_EXE_vsyspatch")).arg(at("vsyspatch")).status();
        assert!(is_copied.is_ok_and(|status| status.success()));
        command = std::process::Command::new(at("vsyspatch"));
        command.current_dir(folder.path()).uid(65534).gid(65534);
    }
    let ran = Ran::from(command.args(["scan", "sample"]).output().unwrap()).ends_with(2);
    assert!(ran.stderr.starts_with("vsyspatch: sample: "), "{ran:?}");
    assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
}

#[test]
fn hostile_file_names_reach_no_terminal() {
    let folder = folder();
    let name = OsStr::from_bytes(b"a\x1b[31m\nb\xff");
    fs::write(folder.path().join(name), SAMPLE).unwrap();
    let found = run(folder.path(), &[OsStr::new("scan"), name]).ends_with(1);
    assert!(found.stdout.starts_with("a\\u{1b}[31m\\nb\\xff: EXEC"), "{found:?}");

    let missing =
        run(folder.path(), &[OsStr::new("scan"), OsStr::from_bytes(b"\x1b]0;title\x07")]).ends_with(2);
    assert!(missing.stderr.starts_with("vsyspatch: \\u{1b}]0;title\\u{7}: "), "{missing:?}");

    let json = run(folder.path(), &[OsStr::new("scan"), OsStr::new("--json"), name]).ends_with(1).json();
    assert_eq!(json["targets"][0]["target_bytes"], hex::encode(name.as_bytes()));
    assert_eq!(json["targets"][0]["files"][0]["path_bytes"], hex::encode(name.as_bytes()));
}

#[test]
fn a_name_that_looks_like_an_option_is_reached_behind_two_dashes() {
    let folder = folder();
    fs::write(folder.path().join("--json"), SAMPLE).unwrap();
    let found = run(folder.path(), &["scan", "--", "--json"]).ends_with(1);
    assert!(found.stdout.starts_with("--json: EXEC"), "{found:?}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let folder = folder();
    let colored = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut command = vsyspatch(folder.path());
        command.args(["scan", "sample", "missing"]).args(arguments).envs(variable);
        let output = command.output().unwrap();
        let has = |bytes: &[u8]| bytes.contains(&0x1b);
        assert_eq!(has(&output.stdout), has(&output.stderr));
        has(&output.stdout)
    };
    assert!(!colored(&[], None), "a pipe gets none");
    assert!(!colored(&["--color", "auto"], None));
    assert!(!colored(&["--color=never"], Some(("CLICOLOR_FORCE", "1"))));
    assert!(!colored(&[], Some(("NO_COLOR", "1"))));
    assert!(colored(&["--color=always"], None));
    assert!(colored(&["--color=always"], Some(("NO_COLOR", "1"))), "the option is more than the variable");
}

#[test]
fn no_color_holds_on_a_terminal() {
    let folder = folder();
    let on_terminal = |variable: &str| {
        let line = format!("{variable} {} scan sample", env!("CARGO_BIN_EXE_vsyspatch"));
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        command.current_dir(folder.path()).stdin(Stdio::null()).output()
    };
    let Ok(plain) = on_terminal("NO_COLOR=1") else { return skip("script(1) is not installed") };
    let colored = on_terminal("env").unwrap();
    assert!(colored.stdout.contains(&0x1b), "{colored:?}");
    assert!(!plain.stdout.contains(&0x1b), "{plain:?}");
    assert!(plain.stdout.starts_with(b"sample: EXEC"), "{plain:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = folder();
    for words in [&["scan"][..], &["scan", "--json"], &["scan", "-v"]] {
        // Far more than a pipe holds, so that the command is still writing when the reader is gone.
        let many = std::iter::repeat_n("sample", 4000);
        let mut command = vsyspatch(folder.path());
        let command = command.args(words).args(many).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let folder = folder();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = vsyspatch(folder.path()).args(["scan", "sample"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stderr.starts_with(b"vsyspatch: cannot write to stdout: "), "{output:?}");
}

#[test]
fn exec_is_transparent_for_programs_without_vsyscalls() {
    let folder = folder();
    let ran = run(folder.path(), &["exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).ends_with(7);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    let ran = run(folder.path(), &["exec", "--", "./missing"]).ends_with(2);
    assert!(ran.stderr.starts_with("vsyspatch: cannot run ./missing: "), "{ran:?}");
}

/// `text` with names relative to the temporary folder, however they are shown.
fn without_folder(folder: &Path, text: &str) -> String {
    let folder = folder.canonicalize().unwrap();
    text.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn patch_verify_revert_tell_what_they_did() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let mut told = String::new();
    for line in [
        "patch --dry-run sample",
        "patch sample -o patched",
        "patch patched --in-place",
        "verify patched",
        "revert patched --dry-run",
        "revert patched back",
        "revert back --in-place --record patched.vsyspatch.json",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = run(folder.path(), &words).ends_with(0);
        assert_eq!(ran.stderr, "", "{line}");
        told += &format!("$ vsyspatch {line}\n{}", without_folder(folder.path(), &ran.stdout));
    }
    insta::assert_snapshot!(told);
    assert_eq!(fs::read(at("back")).unwrap(), SAMPLE);
    assert_ne!(fs::read(at("patched")).unwrap(), SAMPLE);
}

#[test]
fn a_clean_file_is_copied_only_where_a_copy_was_asked_for() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at(CLEAN), clean_sample()).unwrap();
    let in_place = run(folder.path(), &["patch", CLEAN, "--in-place"]).ends_with(0);
    assert_eq!(in_place.stdout, "clean: EXEC, static, not stripped\n  clean: no vsyscall to patch\n");
    let copied = run(folder.path(), &["patch", CLEAN, "copy"]).ends_with(0);
    assert!(copied.stdout.ends_with("no vsyscall to patch; identical copy: copy\n"), "{copied:?}");
    assert_eq!(fs::read(at("copy")).unwrap(), clean_sample());
    assert!(!at("clean.vsyspatch.json").exists() && !at("copy.vsyspatch.json").exists());
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = folder();
    run(folder.path(), &["patch", "sample", "out", "--dry-run"]).ends_with(0);
    run(folder.path(), &["patch", "sample", "--in-place", "--dry-run"]).ends_with(0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read(folder.path().join("sample")).unwrap(), SAMPLE);
}

#[test]
fn quiet_patch_verify_revert_say_nothing_on_success() {
    let folder = folder();
    for line in ["patch -q sample -i", "verify -q sample", "revert -q sample -i"] {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = run(folder.path(), &words).ends_with(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line}");
    }
    assert_eq!(fs::read(folder.path().join("sample")).unwrap(), SAMPLE);
}

#[test]
fn verify_goes_on_behind_a_target_without_a_record() {
    let folder = folder();
    run(folder.path(), &["patch", "sample", "patched"]).ends_with(0);
    let ran = run(folder.path(), &["verify", "sample", "missing", "patched"]).ends_with(2);
    let stderr = without_folder(folder.path(), &ran.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    assert!(
        lines[0].starts_with("vsyspatch: sample: there is no record at sample.vsyspatch.json ("),
        "{ran:?}"
    );
    assert!(lines[1].starts_with("vsyspatch: missing: "), "{ran:?}");
    assert!(ran.stdout.starts_with("patched: EXEC"), "{ran:?}");
    assert!(ran.stdout.contains("verified: "), "{ran:?}");
}

#[test]
fn a_record_may_be_elsewhere_and_of_no_other_version() {
    let folder = folder();
    run(folder.path(), &["patch", "sample", "patched", "--record", "elsewhere.json"]).ends_with(0);
    assert!(!folder.path().join("patched.vsyspatch.json").exists());
    run(folder.path(), &["verify", "patched", "--record", "elsewhere.json"]).ends_with(0);

    let record = fs::read_to_string(folder.path().join("elsewhere.json")).unwrap();
    let newer = record.replace("vsyspatch.record/1", "vsyspatch.record/2");
    assert_ne!(newer, record);
    fs::write(folder.path().join("elsewhere.json"), newer).unwrap();
    let ran = run(folder.path(), &["verify", "patched", "--record", "elsewhere.json"]).ends_with(2);
    assert!(ran.stderr.contains("vsyspatch.record/2"), "{ran:?}");
}

//! Diagnoses of this host, of logs in the shapes that people have them in, and of the end of a command.

mod harness;

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use harness::{Ran, host_emulates, root, temp_dir, tool, vsyspatch};
use serde_json::{Value, json};

/// What a line means: program, process, entry, time.
type Meaning = (&'static str, u32, &'static str, Option<&'static str>);

/// One line of each shape.
const LINES: [(&str, Meaning); 18] = [
    (
        "bash[7] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33 sp:7ffd1c ax:ffffffffff600400 si:0 di:0",
        ("bash", 7, "time", None),
    ),
    (
        "bash[7]: segfault at ffffffffff600400 ip ffffffffff600400 sp 00007ffd1c error 15",
        ("bash", 7, "time", None),
    ),
    (
        "[ 1234.567890] bash[7] vsyscall attempted with vsyscall=none ip:ffffffffff600000 cs:33 sp:1 ax:1 si:0 di:0",
        ("bash", 7, "gettimeofday", Some("1234.567890")),
    ),
    (
        "[    2.5] init[1]: segfault at ffffffffff600800 ip ffffffffff600800 sp 00007ffd1c error 15 likely on CPU 1 (core 1, socket 0)",
        ("init", 1, "getcpu", Some("2.5")),
    ),
    (
        "<4>[   99.000001] http[812] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33 sp:1 ax:1 si:0 di:0",
        ("http", 812, "time", Some("99.000001")),
    ),
    (
        "[Mon Nov 23 22:01:07 2026] bash[7]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        ("bash", 7, "time", Some("Mon Nov 23 22:01:07 2026")),
    ),
    (
        "Nov 23 22:01:07 node-1 kernel: bash[7]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        ("bash", 7, "time", Some("Nov 23 22:01:07")),
    ),
    (
        "Nov  3 02:01:07 node kernel: [ 12.5] mdadm[90] vsyscall attempted with vsyscall=none ip:ffffffffff600000 cs:33 sp:1",
        ("mdadm", 90, "gettimeofday", Some("Nov 3 02:01:07")),
    ),
    (
        "2026-11-23T22:01:07+0000 host kernel: python2.6[55]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        ("python2.6", 55, "time", Some("2026-11-23T22:01:07+0000")),
    ),
    (
        "2026-11-23T22:01:07.123456+01:00 host kernel: [77.1] sh[5] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33",
        ("sh", 5, "time", Some("2026-11-23T22:01:07.123456+01:00")),
    ),
    (
        "bash[7]: segfault at ffffffffff600400 rip ffffffffff600400 rsp 00007fff error 15",
        ("bash", 7, "time", None),
    ),
    (
        "Nov 23 22:01:07 node-1 kernel: Web Content[4242]: segfault at ffffffffff600000 ip ffffffffff600000 sp 1 error 15",
        ("Web Content", 4242, "gettimeofday", Some("Nov 23 22:01:07")),
    ),
    (
        r#"{"_TRANSPORT":"kernel","MESSAGE":"bash[7] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33 sp:1"}"#,
        ("bash", 7, "time", None),
    ),
    (
        "4,885,93821,-;bash[7]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        ("bash", 7, "time", None),
    ),
    (
        "kern  :warn  : [  5.25] bash[7] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33 sp:1",
        ("bash", 7, "time", Some("5.25")),
    ),
    (
        "kern  :info  : [Mon Nov 23 22:01:07 2026] bash[7]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        ("bash", 7, "time", Some("Mon Nov 23 22:01:07 2026")),
    ),
    (
        "2026-11-23T22:01:07Z worker-3 kernel: [4.5] kworker/u8:0-x[9]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15\r",
        ("kworker/u8:0-x", 9, "time", Some("2026-11-23T22:01:07Z")),
    ),
    (
        "I1123 22:01:07.000001 node kernel: apt-get[31] vsyscall attempted with vsyscall=none ip:ffffffffff600400 cs:33 sp:1",
        ("apt-get", 31, "time", Some("I1123 22:01:07.000001")),
    ),
];

/// Runs `doctor --log -` on `log`.
fn doctor(log: &[u8], options: &[&str]) -> Ran {
    let dir = temp_dir();
    let file = dir.path().join("log");
    fs::File::create(&file).and_then(|mut file| file.write_all(log)).expect("the log is written");
    let stdin = Stdio::from(fs::File::open(&file).expect("it opens"));
    Ran::of(vsyspatch().args(["doctor", "--log", "-"]).args(options).stdin(stdin))
}

fn deaths(log: &[u8]) -> Vec<Value> {
    doctor(log, &["--json"]).report()["doctor"]["log"].as_array().expect("a list").clone()
}

#[test]
fn lines_of_every_shape_are_understood() {
    for (line, (program, pid, entry, when)) in LINES {
        let deaths = deaths(format!("noise\n{line}\nmore noise").as_bytes());
        let [death] = &deaths[..] else { panic!("one death in {line}: {deaths:?}") };
        assert_eq!(death["program"], program, "{line}");
        assert_eq!(death["pid"], pid, "{line}");
        assert_eq!(death["entry"], entry, "{line}");
        assert_eq!(death["first"], json!(when), "{line}");
        assert_eq!(death["count"], 1, "{line}");
    }
}

#[test]
fn other_lines_are_left_alone() {
    for line in [
        "bash[7]: segfault at 0 ip 00007f0000001000 sp 00007ffd error 4 in libc.so[7f00+1000]",
        "bash[7]: segfault at ffffffffff601000 ip ffffffffff601000 sp 1 error 15",
        "bash: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        "bash[x]: segfault at ffffffffff600400 ip ffffffffff600400 sp 1 error 15",
        " vsyscall attempted with vsyscall=none ip:",
        "]: segfault at ",
        "\0\u{ff}]: segfault at ffffffffff600400",
    ] {
        assert_eq!(deaths(line.as_bytes()), Vec::<Value>::new(), "{line}");
        doctor(line.as_bytes(), &[]).expect(0);
    }
    doctor(b"\xff\xfe[1]: segfault at ffffffffff600400\n", &[]).expect(1);
}

#[test]
fn both_lines_of_a_death_count_once_and_long_lines_end() {
    let (hint, segfault) = (LINES[0].0, LINES[1].0);
    let other = LINES[3].0;
    let long = "x".repeat(300_000);
    let log = format!("{hint}\n{segfault}\n{long}\n{other}\n{hint}\n{segfault}\n");
    let counts: Vec<Value> = deaths(log.as_bytes()).iter().map(|death| death["count"].clone()).collect();
    assert_eq!(counts, [2, 1]);
    let told = doctor(log.as_bytes(), &["--color", "never"]).expect(1).stdout;
    insta::assert_snapshot!(told);
    let escaped = doctor(b"a\x1b[2J[1]: segfault at ffffffffff600400 ip\n", &["--color", "never"]).expect(1);
    assert!(!escaped.stdout.contains('\x1b'), "{escaped}");
}

#[test]
fn a_log_that_is_not_there_and_two_things_at_once_are_errors() {
    let ran = tool(["doctor", "--log", "/nonexistent/log"]).expect(2);
    assert!(ran.stderr.starts_with("vsyspatch: cannot read /nonexistent/log: "), "{ran}");
    tool(["doctor", "--log", "-", "--", "true"]).expect(2);
    tool(["doctor", "true"]).expect(2);
}

/// The kernel's own word against what was tried.
#[test]
fn this_host_is_described() {
    let emulates = host_emulates();
    let ran = tool(["doctor", "--json"]).expect(i32::from(!emulates));
    let host = &ran.report()["doctor"]["host"];
    assert_eq!(host["call"], if emulates { "works" } else { "crashes" });
    assert_eq!(host["mode"] != "none", emulates);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    assert_eq!(host["release"], release.trim());
    let text = tool(["doctor"]).expect(i32::from(!emulates));
    assert!(text.stdout.contains(release.trim()) && text.stdout.contains("a real call of time"), "{text}");
}

#[test]
fn the_end_of_a_command_is_explained() {
    let ran = tool(["doctor", "--", "sh", "-c", "echo out; exit 6"]).expect(6);
    assert_eq!(ran.stdout, "out\n");
    assert!(ran.stderr.contains("it ended with status 6"), "{ran}");
    let sample = root().join("corpus/prebuilt/demo");
    let ran = tool(["doctor".as_ref(), "--".as_ref(), sample.as_os_str()]);
    let (status, said) =
        if host_emulates() { (0, "with vsyscall=none it dies") } else { (139, "this host has no vsyscalls") };
    assert_eq!(ran.status, status, "{ran}");
    assert!(ran.stderr.contains(said), "{ran}");
    let ran = tool(["doctor", "--", "sh", "-c", "kill -SEGV $$"]).expect(139);
    assert!(ran.stderr.contains("killed by signal 11 (status 139)"), "{ran}");
    let ran = tool(["doctor", "--", "/nonexistent"]).expect(2);
    assert!(ran.stderr.contains("cannot run /nonexistent"), "{ran}");
}

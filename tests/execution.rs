//! Real programs with vsyscalls denied: killed before patching, and as they always were after.

mod harness;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use harness::{
    KILLED, Ran, denied, host_emulates, is_root, need, real_corpus, root, rootfs, skip, temp_dir, tool,
    vsyspatch,
};

/// Whether a program can be run in a tree with vsyscalls denied here; skips aloud if not.
fn can_chroot() -> bool {
    if real_corpus().is_none() {
        skip("no VSYSPATCH_CORPUS");
    } else if !is_root() {
        skip("chroot needs root");
    } else if !host_emulates() {
        skip("this host does not emulate vsyscalls, so nothing shows that the programs made them");
    } else {
        return true;
    }
    false
}

/// Runs `program` in `tree`: as it is, and with vsyscalls denied.
fn in_tree(tree: &Path, program: &[&str]) -> (Ran, Ran) {
    let normal =
        Ran::of(Command::new("chroot").env("LC_ALL", "C").env("TERM", "xterm").arg(tree).args(program));
    let tree = tree.to_str().expect("a path in UTF-8");
    let under_filter =
        Ran::of(vsyspatch().env("TERM", "xterm").args(["exec", "--", "chroot", tree]).args(program));
    (normal, under_filter)
}

/// `program` is killed for its vsyscalls in `old`, and in `new` does the same with and without the filter.
#[track_caller]
fn check_cured(old: &Path, new: &Path, program: &[&str], clean_up: impl Fn()) {
    let (normal, killed) = in_tree(old, program);
    clean_up();
    assert_ne!(normal.status, KILLED, "the host's own filter? {normal}");
    assert_eq!(killed.status, KILLED, "killed before: {killed}");
    let (patched, cured) = in_tree(new, program);
    clean_up();
    for ran in [&patched, &cured] {
        assert_eq!(ran.status, normal.status, "status after: {ran}");
        assert_eq!(ran.stdout, normal.stdout, "output after: {ran}");
        assert_eq!(ran.stderr, normal.stderr, "messages after: {ran}");
    }
}

#[test]
fn the_filter_kills_for_vsyscalls_only() {
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    denied(["/bin/true"]).expect(0);
    denied(["/bin/sh", "-c", "exit 7"]).expect(7);
    let missing = denied(["/nonexistent/program"]);
    assert_ne!(missing.status, 0, "{missing}");
    assert_ne!(missing.status, KILLED, "{missing}");
}

/// Whoever makes the vsyscall is named, however it was started, and whoever waits for it sees it die.
#[test]
fn what_is_killed_is_named() {
    if !host_emulates() {
        return skip("this host does not emulate vsyscalls");
    }
    let sample = root().join("corpus/prebuilt/demo");
    let sample = sample.to_str().expect("a path in UTF-8");
    let ran = denied([sample]).expect(KILLED);
    assert!(
        ran.stderr.contains("/prebuilt/demo (process ") && ran.stderr.contains("the vsyscall time"),
        "{ran}"
    );
    let ran =
        denied(["sh", "-c", &format!("{sample} & wait $!; echo $?; {sample}; echo $?; exit 4")]).expect(4);
    assert_eq!(ran.stdout, "159\n159\n");
    assert_eq!(ran.stderr.matches("/prebuilt/demo (process ").count(), 2, "{ran}");
    // What ignores the signal is killed all the same, and what outlives the command, too.
    let ran = denied(["sh", "-c", &format!("trap '' SYS; {sample}; echo $?")]).expect(0);
    assert_eq!(ran.stdout, "137\n");
    let ran = denied(["sh", "-c", &format!("(sleep 0.3; {sample}) & exit 5")]).expect(5);
    assert!(ran.stderr.contains("/prebuilt/demo (process "), "{ran}");
    // Under a filter that somebody listens to already there can be no other listener: the kernel kills.
    let inner = harness::vsyspatch().get_program().to_owned();
    let ran = Ran::of(harness::vsyspatch().args(["trace", "--"]).arg(&inner).args(["exec", "--", sample]));
    let ran = ran.expect(KILLED);
    assert!(ran.stderr.contains("or what it started, made a vsyscall"), "{ran}");
}

#[test]
fn signals_are_passed_on() {
    let mut child = vsyspatch()
        .args(["exec", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; sleep 3 & wait"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut ready = [0; 6];
    child.stdout.take().expect("a pipe").read_exact(&mut ready).expect("it says so");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    assert_eq!(child.wait().expect("its end").code(), Some(9));
}

#[test]
fn glibc_2_13_tree() {
    if !can_chroot() {
        return;
    }
    let dir = temp_dir();
    let (old, new) = (rootfs::unpack(dir.path(), "old"), rootfs::unpack(dir.path(), "new"));
    let patched = rootfs::patch_tree(&new);
    assert_eq!(patched, 3, "libc, libpthread and mdadm");
    for program in [&["e2fsck", "-V"][..], &["mdadm", "--version"]] {
        let (normal, _) = in_tree(&old, program);
        assert_eq!(normal.status, 0, "{normal}");
        assert!(!normal.stderr.is_empty() || !normal.stdout.is_empty(), "it says its version: {normal}");
        check_cured(&old, &new, program, || {});
    }
    // These make no vsyscall: they are not the ones that break.
    for program in [&["busybox", "true"][..], &["strace", "-V"]] {
        let (normal, filtered) = in_tree(&old, program);
        assert_eq!(normal.status, filtered.status, "{filtered}");
        assert_ne!(filtered.status, KILLED, "{filtered}");
    }
}

#[test]
fn static_tmux_server() {
    if !can_chroot() {
        return;
    }
    let dir = temp_dir();
    if !need("mknod") {
        return;
    }
    let (old, new) = (rootfs::with_tmux(dir.path(), "old"), rootfs::with_tmux(dir.path(), "new"));
    tool([Path::new("patch"), Path::new("--in-place"), &new.join("bin/tmux")]).expect(0);
    let program = rootfs::TMUX_SERVER;
    let clean_up = || {
        for tree in [&old, &new] {
            let _ = fs::remove_file(tree.join("tmp/socket"));
        }
    };
    clean_up();
    let (_, killed) = in_tree(&old, &program);
    clean_up();
    assert_eq!(killed.status, KILLED, "killed before: {killed}");
    // A server without a session ends on its own, sometimes before it has answered, patched or not.
    let answers = (0..10).any(|_| {
        let (_, cured) = in_tree(&new, &program);
        clean_up();
        assert_ne!(cured.status, KILLED, "killed after: {cured}");
        cured.status == 0 && cured.stdout.contains("history-limit")
    });
    assert!(answers, "the patched server never answers");
}

#[test]
fn program_on_glibc_2_5() {
    if !can_chroot() || !["as", "ld.bfd"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let (old, new) = (rootfs::glibc_2_5(dir.path(), "old"), rootfs::glibc_2_5(dir.path(), "new"));
    let program = ["/old-glibc"];
    in_tree(&old, &program).0.expect(0);

    // With libc alone it comes as far as sem_timedwait() in libpthread.
    tool([Path::new("patch"), Path::new("--in-place"), &new.join("lib64/libc.so.6")]).expect(0);
    in_tree(&new, &program).1.expect(KILLED);
    tool([Path::new("patch"), Path::new("--in-place"), &new.join("lib64/libpthread.so.0")]).expect(0);
    check_cured(&old, &new, &program, || {});
}

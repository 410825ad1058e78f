//! Directory trees through the command: what is kept, what hostile trees cannot do, and what is left when a run
//! is killed or fails at any of its steps.

mod harness;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::mtree::{Listing, differences, listing};
use harness::{Ran, is_root, need, skip, temp_dir, vsyspatch};

const PROGRAM: &[u8] = include_bytes!("../corpus/prebuilt/forms");
const LIBRARY: &[u8] = include_bytes!("../corpus/prebuilt/forms.so");
const OTHER: &[u8] = include_bytes!("../corpus/prebuilt/demo");

fn put(path: &Path, bytes: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, bytes).expect("written");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
}

/// Times of long ago, so that every change of one shows.
fn age(tree: &Path) {
    Ran::of(Command::new("find").arg(tree).args([
        "-depth",
        "-exec",
        "touch",
        "-h",
        "-d",
        "2010-04-05 06:07:08.9",
        "{}",
        "+",
    ]))
    .expect(0);
}

/// A tree with a file of three names in two directories, a set-user-ID file and a library.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    put(&tree.join("bin/program"), PROGRAM, 0o755);
    fs::hard_link(tree.join("bin/program"), tree.join("bin/same")).expect("a link");
    fs::create_dir(tree.join("sbin")).expect("made");
    fs::hard_link(tree.join("bin/program"), tree.join("sbin/again")).expect("a link");
    put(&tree.join("bin/su"), OTHER, 0o4711);
    put(&tree.join("lib/library.so"), LIBRARY, 0o644);
    put(&tree.join("etc/text"), b"no program", 0o600);
    symlink("library.so", tree.join("lib/link.so")).expect("a link");
    age(&tree);
    tree
}

fn command(words: &[&str], tree: &Path) -> Ran {
    Ran::of(vsyspatch().args(words).arg(tree))
}

fn is_patched(path: &Path) -> bool {
    let bytes = fs::read(path).expect("it is there");
    ![PROGRAM, LIBRARY, OTHER].contains(&bytes.as_slice())
}

#[test]
fn a_tree_is_patched_verified_and_reverted_to_the_last_time_stamp() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let before = listing(&tree);
    command(&["scan"], &tree).expect(1);
    assert!(differences(&before, &listing(&tree)).is_empty(), "a scan changes nothing");
    let patched = command(&["patch", "--in-place", "--json"], &tree).expect(0).report();
    assert_eq!(patched["summary"]["patched"], 3);
    assert_eq!(patched["targets"][0]["kind"], "tree");
    command(&["verify", "--json"], &tree).expect(0).report();
    command(&["scan", "--json"], &tree).expect(0).report();

    let now = listing(&tree);
    let changed: Vec<&Path> = now
        .iter()
        .filter(|(path, line)| !path.starts_with("var") && before.get(*path) != Some(line))
        .map(|(path, _)| path.as_path())
        .collect();
    let expected = ["bin/program", "bin/same", "bin/su", "lib/library.so", "sbin/again"].map(Path::new);
    assert_eq!(changed, expected, "all names of a file, and neither its directory nor anything else");
    for path in expected {
        assert!(is_patched(&tree.join(path)));
        let (now, was) = (&now[path], &before[path]);
        assert_eq!(now.split(' ').next(), was.split(' ').next(), "the mode of {}", path.display());
    }
    let inode = |name: &str| fs::metadata(tree.join(name)).expect("there").ino();
    assert!(inode("bin/program") == inode("bin/same") && inode("bin/same") == inode("sbin/again"));

    let again = command(&["patch", "-i", "--json"], &tree).expect(0).report();
    assert_eq!((&again["summary"]["patched"], &again["summary"]["already_patched"]), (&0.into(), &3.into()));
    command(&["revert", "--in-place"], &tree).expect(0);
    assert_eq!(differences(&before, &listing(&tree)), Vec::<String>::new());
    command(&["revert", "--in-place"], &tree).expect(2);
}

#[test]
fn the_modification_time_is_kept_where_that_is_asked_for() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let mtime = |name: &str| fs::metadata(tree.join(name)).expect("there").mtime();
    let before = mtime("bin/su");
    command(&["patch", "-i", "--preserve-mtime"], &tree).expect(0);
    assert_eq!(mtime("bin/su"), before);
    assert!(is_patched(&tree.join("bin/su")));
}

#[test]
fn owners_capabilities_and_other_attributes_are_kept() {
    if !is_root() {
        return skip("needs root");
    }
    let dir = temp_dir();
    let tree = tree(dir.path());
    let su = tree.join("bin/su");
    std::os::unix::fs::chown(&su, Some(1234), Some(2345)).expect("root may");
    fs::set_permissions(&su, Permissions::from_mode(0o6711)).expect("its mode");
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, value) in [("user.note", &b"kept"[..]), ("security.capability", &capability)] {
        if rustix::fs::setxattr(&su, name, value, rustix::fs::XattrFlags::empty()).is_err() {
            return skip("the temporary directory has no extended attributes");
        }
    }
    age(&tree);
    let before = listing(&tree);
    command(&["patch", "-i", "--preserve-mtime"], &tree).expect(0);
    let attributes = |listing: &Listing| {
        let line = &listing[Path::new("bin/su")];
        let words: Vec<&str> = line.split(' ').collect();
        [words[0], words[1], words[2], words[words.len() - 1], words[words.len() - 2]].map(str::to_owned)
    };
    assert_eq!(attributes(&listing(&tree)), attributes(&before));
    fs::set_permissions(&su, Permissions::from_mode(0o755)).expect("its mode");
    let verified = command(&["verify"], &tree).expect(1);
    assert!(verified.stdout.contains("mode-changed"), "{verified}");
    fs::set_permissions(&su, Permissions::from_mode(0o6711)).expect("its mode");
    command(&["revert", "-i"], &tree).expect(0);
    assert_eq!(differences(&before, &listing(&tree)), Vec::<String>::new());
}

#[test]
fn a_file_with_a_name_elsewhere_is_refused_unless_the_user_lets_it_be() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let elsewhere = dir.path().join("elsewhere");
    fs::hard_link(tree.join("bin/same"), &elsewhere).expect("a link");
    let refused = command(&["patch", "-i"], &tree).expect(2);
    assert!(
        refused.stderr.contains("4 hard links, 3 of them") && refused.stderr.contains("--break-links"),
        "{refused}"
    );
    assert!(!is_patched(&tree.join("bin/program")) && is_patched(&tree.join("bin/su")));
    command(&["patch", "-i", "--break-links"], &tree).expect(0);
    assert!(is_patched(&tree.join("bin/program")) && !is_patched(&elsewhere));
    // A name that a pattern leaves out is one that is elsewhere.
    command(&["revert", "-i"], &tree).expect(0);
    let left_out = command(&["patch", "-i", "--exclude", "again"], &tree).expect(2);
    assert!(left_out.stderr.contains("hard links"), "{left_out}");
}

#[test]
fn patterns_say_what_is_looked_at() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let found = |words: &[&str]| {
        let json = command(&[&["scan", "--json"], words].concat(), &tree).report();
        let files = json["targets"][0]["files"].as_array().expect("files").clone();
        files
            .iter()
            .map(|file| file["path"].as_str().expect("a path").rsplit('/').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&["--include", "*.so"]), ["library.so"]);
    assert_eq!(found(&["--include", "/bin/s*", "--exclude", "same"]), ["su"]);
    assert_eq!(found(&["--exclude", "bin", "--exclude", "sbin", "-j", "1"]), ["library.so"]);
}

#[test]
fn a_copy_has_everything_and_shares_nothing() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    symlink("/nowhere", tree.join("etc/dangling")).expect("a link");
    Ran::of(Command::new("mkfifo").arg(tree.join("etc/fifo"))).expect(0);
    age(&tree);
    let (before, copy) = (listing(&tree), dir.path().join("copy"));
    command(&["patch", "-o", copy.to_str().expect("text")], &tree).expect(0);
    assert_eq!(differences(&before, &listing(&tree)), Vec::<String>::new());
    command(&["verify"], &copy).expect(0);
    let original = dir.path().join("original");
    command(&["revert", "-o", original.to_str().expect("text")], &copy).expect(0);
    assert_eq!(differences(&before, &listing(&original)), Vec::<String>::new());
    let inode = |root: &Path| fs::metadata(root.join("etc/text")).expect("there").ino();
    assert!(inode(&tree) != inode(&copy) && inode(&copy) != inode(&original));
    let there = command(&["patch", "-o", copy.to_str().expect("text")], &tree).expect(2);
    assert!(there.stderr.contains("is there already"), "{there}");
    let inside = tree.join("inside");
    command(&["patch", "-o", inside.to_str().expect("text")], &tree).expect(2);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).expect("read").map(|e| e.expect("read").file_name()).collect();
    names.sort();
    assert_eq!(names, ["copy", "original", "tree"], "nothing else is left");
}

// --- hostile trees ---

#[test]
fn nothing_in_a_tree_leads_out_of_it() {
    let dir = temp_dir();
    let outside = dir.path().join("outside");
    put(&outside.join("program"), PROGRAM, 0o755);
    put(&outside.join("lib/vsyspatch/record.json"), b"{}", 0o644);
    let before = listing(&outside);
    let tree = tree(dir.path());
    symlink(&outside, tree.join("usr")).expect("a link");
    symlink("../../outside", tree.join("bin/up")).expect("a link");
    symlink(outside.join("program"), tree.join("bin/absolute")).expect("a link");
    symlink("loop", tree.join("loop")).expect("a link");
    // Where the record belongs: as the tree's own processes would see it, that is a directory below the root.
    symlink(&outside, tree.join("var")).expect("a link");
    let failed = command(&["patch", "-i"], &tree);
    assert!(failed.status == 2 || failed.status == 0, "{failed}");
    assert_eq!(differences(&before, &listing(&outside)), Vec::<String>::new());

    fs::remove_file(tree.join("var")).expect("removed");
    fs::create_dir_all(tree.join("var/lib/vsyspatch")).expect("made");
    symlink(outside.join("program"), tree.join("var/lib/vsyspatch/record.json")).expect("a link");
    command(&["patch", "-i"], &tree).expect(2);
    command(&["revert", "-i"], &tree).expect(2);
    assert_eq!(differences(&before, &listing(&outside)), Vec::<String>::new());
    assert!(!is_patched(&tree.join("bin/su")), "no record, no patch");
}

#[test]
fn a_record_of_somebody_else_touches_nothing_outside() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let outside = dir.path().join("outside");
    put(&outside.join("program"), PROGRAM, 0o755);
    put(&outside.join(".vsyspatch-0"), b"not ours", 0o644);
    command(&["patch", "-i"], &tree).expect(0);
    let record = tree.join("var/lib/vsyspatch/record.json");
    let sound = fs::read_to_string(&record).expect("a record");
    let before = listing(&outside);
    for path in ["../outside/program", "/bin/su", "bin/../../outside/program", ""] {
        fs::write(&record, sound.replace("\"bin/su\"", &format!("{path:?}"))).expect("written");
        let reverted = command(&["revert", "-i"], &tree).expect(2);
        assert!(reverted.stderr.contains("record"), "{reverted}");
    }
    // A directory that became a link to elsewhere since.
    fs::write(&record, &sound).expect("written");
    fs::rename(tree.join("lib"), tree.join("lib.old")).expect("renamed");
    fs::copy(tree.join("lib.old/library.so"), outside.join("library.so")).expect("a copy");
    symlink("../outside", tree.join("lib")).expect("a link");
    let now = listing(&outside);
    command(&["revert", "-i"], &tree).expect(2);
    assert_eq!(differences(&now, &listing(&outside)), Vec::<String>::new());
    assert_eq!(before.len() + 1, now.len());
    // The name that a killed run left behind.
    let unfinished = r#""unfinished": {"direction": "patch", "temporary": "../../outside/.vsyspatch-0", "directories": []},"#;
    fs::write(&record, sound.replacen("\"files\"", &format!("{unfinished} \"files\""), 1)).expect("written");
    command(&["patch", "-i"], &tree);
    assert!(outside.join(".vsyspatch-0").exists());
}

#[test]
fn odd_files_and_names_are_passed_over() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = temp_dir();
    let tree = tree(dir.path());
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff\n\x1b[31m");
    put(&tree.join(odd).join(odd), LIBRARY, 0o755);
    Ran::of(Command::new("mkfifo").arg(tree.join("fifo"))).expect(0);
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("a socket");
    put(&tree.join("proc/1/exe"), PROGRAM, 0o755);
    put(&tree.join("dev/program"), PROGRAM, 0o755);
    let patched = command(&["patch", "-i"], &tree).expect(0);
    assert!(patched.stdout.contains("not entered: dev, proc"), "{patched}");
    assert!(!patched.stdout.contains('\x1b'), "names are escaped");
    assert!(is_patched(&tree.join(odd).join(odd)) && !is_patched(&tree.join("proc/1/exe")));
    let record = fs::read_to_string(tree.join("var/lib/vsyspatch/record.json")).expect("a record");
    assert!(record.contains(&hex::encode(Path::new(odd).join(odd).as_os_str().as_bytes())), "{record}");
    command(&["verify"], &tree).expect(0);
    command(&["revert", "-i"], &tree).expect(0);
    assert!(!is_patched(&tree.join(odd).join(odd)));
}

#[test]
fn deep_and_wide_trees_need_few_descriptors() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    // Deeper than a path can be named, two directories on every level, the program at the bottom.
    let make = "import os, sys\nos.chdir(sys.argv[1])\nfor i in range(3000):\n os.mkdir('side'); os.mkdir('d'); os.chdir('d')\nopen('program', 'wb').write(open(sys.argv[2], 'rb').read())\nfor i in range(3000): os.chdir('..')\nos.mkdir('wide')\nfor i in range(20000): open('wide/%d' % i, 'wb').close()";
    if !need("python3") {
        return;
    }
    let program = harness::root().join("corpus/prebuilt/forms");
    Ran::of(Command::new("python3").args(["-c", make]).arg(&tree).arg(program)).expect(0);
    let limited = |words: &str| {
        let script = format!("ulimit -n 200; exec \"$0\" {words} \"$1\"");
        Ran::of(Command::new("sh").arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_vsyspatch")).arg(&tree))
    };
    let json = limited("patch -i --json").expect(0).report();
    assert_eq!(json["summary"]["patched"], 4);
    assert!(json["summary"]["files"].as_u64() > Some(20_000));
    limited("verify").expect(0);
    limited("revert -i").expect(0);
    Ran::of(Command::new("rm").arg("-rf").arg(&tree)).expect(0);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_patched() {
    if !is_root() {
        return skip("needs root to become somebody else");
    }
    if !need("setpriv") {
        return;
    }
    let dir = temp_dir();
    let tree = tree(dir.path());
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("its mode");
    Ran::of(Command::new("chown").args(["-R", "65534:65534"]).arg(&tree)).expect(0);
    put(&tree.join("etc/secret"), PROGRAM, 0o600);
    let tool = dir.path().join("vsyspatch");
    fs::copy(env!("CARGO_BIN_EXE_vsyspatch"), &tool).expect("a copy");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(tool)
        .args(["patch", "-i"])
        .arg(&tree);
    let ran = Ran::of(&mut command).expect(2);
    assert!(ran.stderr.contains("etc/secret: cannot open: Permission denied"), "{ran}");
    assert!(is_patched(&tree.join("lib/library.so")));
}

// --- killed, or failing, at each step ---

/// The calls that write to files, as strace names them.
const WRITES: &str =
    "pwrite64,renameat,linkat,unlinkat,mkdirat,fsync,fchmod,fchown,fsetxattr,utimensat,ftruncate";

/// Runs the command on `tree`, with the fault that `inject` says at one of the calls that write.
fn traced(words: &[&str], tree: &Path, inject: Option<&str>, log: &Path) -> Ran {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(log).arg("-e").arg(format!("trace={WRITES}"));
    if let Some(inject) = inject {
        command.arg("-e").arg(format!("inject={inject}"));
    }
    Ran::of(command.arg(env!("CARGO_BIN_EXE_vsyspatch")).args(words).arg(tree))
}

/// The calls that write in their order: which one, and the how manieth of its kind.
fn calls(log: &Path) -> Vec<(String, usize)> {
    let text = fs::read_to_string(log).expect("what strace saw");
    let mut counts = std::collections::BTreeMap::new();
    let name = |line: &str| Some(line.split_once(' ')?.1.trim().split_once('(')?.0.to_owned());
    let counted = |name: String| {
        let count = counts.entry(name.clone()).or_insert(0);
        *count += 1;
        (name, *count)
    };
    text.lines()
        .filter_map(name)
        .filter(|name| WRITES.split(',').any(|known| known == name))
        .map(counted)
        .collect()
}

fn copied(from: &Path, to: &Path) {
    Ran::of(Command::new("cp").arg("-a").args([from, to])).expect(0);
}

/// Without what the record needs, and without times of directories.
fn files_only(listing: &Listing) -> Listing {
    listing
        .iter()
        .filter(|(path, line)| {
            !path.starts_with("var")
                && !path.to_string_lossy().contains(".vsyspatch-")
                && !line.starts_with('4')
        })
        .map(|(a, b)| (a.clone(), b.clone()))
        .collect()
}

/// Whatever happened to `tree`: every file is whole, the work can be finished, and it can be undone.
#[track_caller]
fn can_be_finished_and_undone(tree: &Path, original: &Listing, is_timeless: bool, what: &str) {
    for name in ["bin/program", "bin/same", "sbin/again", "bin/su", "lib/library.so"] {
        let at = tree.join(name);
        let bytes = harness::read(&at);
        let sound = [PROGRAM, OTHER, LIBRARY].contains(&bytes.as_slice())
            || Ran::of(vsyspatch().arg("scan").arg(&at)).status == 0;
        assert!(sound, "{what}: {name} is neither the old nor the new file");
    }
    assert_eq!(fs::metadata(tree.join("bin/su")).expect("there").mode() & 0o7777, 0o4711, "{what}");
    let other = harness::with_suffix(tree, ".undo");
    copied(tree, &other);

    command(&["patch", "-i"], tree).expect(0);
    command(&["verify"], tree).expect(0);
    let left = listing(tree);
    assert!(
        !left.keys().any(|path| path.to_string_lossy().contains(".vsyspatch-")),
        "{what}: {:?}",
        left.keys()
    );
    let inode = |name: &str| fs::metadata(tree.join(name)).expect("there").ino();
    assert!(inode("bin/program") == inode("bin/same") && inode("bin/same") == inode("sbin/again"), "{what}");
    command(&["revert", "-i"], tree).expect(0);
    assert_eq!(
        differences(&files_only(original), &files_only(&listing(tree))),
        Vec::<String>::new(),
        "{what}"
    );

    let has_record = other.join("var/lib/vsyspatch/record.json").exists();
    if has_record {
        command(&["revert", "-i"], &other).expect(0);
    }
    let now = listing(&other);
    // Without a record nothing is patched; the next run removes what was made for one.
    let lists = if has_record && !is_timeless {
        [original.clone(), now]
    } else {
        [files_only(original), files_only(&now)]
    };
    assert_eq!(differences(&lists[0], &lists[1]), Vec::<String>::new(), "{what}, undone");
    Ran::of(Command::new("rm").arg("-rf").args([tree, &other])).expect(0);
}

/// Every call of `words` on copies of `begin` in turn: killed there, or failing with each error.
fn at_each_step(words: &[&str], begin: &Path, original: &Listing) {
    if !need("strace") {
        return;
    }
    let dir = temp_dir();
    let (tree, log) = (dir.path().join("tree"), dir.path().join("log"));
    copied(begin, &tree);
    traced(words, &tree, None, &log).expect(0);
    let calls = calls(&log);
    assert!(calls.len() > 30, "only {calls:?} were seen");
    Ran::of(Command::new("rm").arg("-rf").arg(&tree)).expect(0);
    for (name, number) in calls {
        for fault in ["signal=KILL", "error=ENOSPC", "error=EIO"] {
            copied(begin, &tree);
            let what = format!("{} {fault} at {name} number {number}", words[0]);
            let ran = traced(words, &tree, Some(&format!("{name}:{fault}:when={number}")), &log);
            if fault == "signal=KILL" {
                assert_eq!(ran.status, 128 + 9, "{what}: {ran}");
            } else {
                // What cannot be flushed or timed is no failure; everything else is said.
                assert!(ran.status == 0 || (ran.status == 2 && !ran.stderr.is_empty()), "{what}: {ran}");
            }
            // Where the times of a directory cannot be set, they are not.
            let is_timeless = name == "utimensat" && fault != "signal=KILL";
            can_be_finished_and_undone(&tree, original, is_timeless, &what);
        }
    }
}

#[test]
fn a_patch_that_is_killed_or_fails_at_any_call_can_be_finished_and_undone() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let original = listing(&tree);
    at_each_step(&["patch", "-i"], &tree, &original);
}

#[test]
fn a_revert_that_is_killed_or_fails_at_any_call_can_be_finished_and_undone() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let original = listing(&tree);
    command(&["patch", "-i"], &tree).expect(0);
    at_each_step(&["revert", "-i"], &tree, &original);
}

#[test]
fn what_a_killed_run_left_is_told() {
    if !need("strace") {
        return;
    }
    let dir = temp_dir();
    let tree = tree(dir.path());
    let log = dir.path().join("log");
    put(&tree.join("init"), OTHER, 0o755);
    // The third file that gets its name is the second of the tree: the record was the first.
    traced(&["patch", "-i"], &tree, Some("renameat:signal=KILL:when=3"), &log).expect(128 + 9);
    let told = "found a run of patch that was killed";
    assert!(command(&["scan"], &tree).expect(1).stdout.contains(told));
    let verified = command(&["verify"], &tree).expect(1);
    assert!(verified.stdout.contains("unfinished"), "{verified}");
    assert!(command(&["patch", "-i"], &tree).expect(0).stdout.contains(told));
    assert!(!command(&["verify"], &tree).expect(0).stdout.contains(told));
}

#[test]
fn a_recorded_file_that_was_replaced_is_patched_anew() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    command(&["patch", "-i"], &tree).expect(0);
    fs::write(tree.join("bin/su"), LIBRARY).expect("written");
    fs::remove_file(tree.join("lib/library.so")).expect("removed");
    let verified = command(&["verify"], &tree).expect(1);
    for slug in ["file-missing", "size-changed"] {
        assert!(verified.stdout.contains(slug), "{slug}: {verified}");
    }
    let patched = command(&["patch", "-i"], &tree).expect(0);
    assert!(patched.stderr.contains("its record is dropped"), "{patched}");
    command(&["verify"], &tree).expect(0);
    command(&["revert", "-i"], &tree).expect(0);
    assert!(harness::read(&tree.join("bin/su")) == LIBRARY);
}

#[test]
fn two_runs_at_once_do_not_meet() {
    let dir = temp_dir();
    let tree = tree(dir.path());
    let held = fs::File::open(&tree).expect("opened");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let refused = command(&["patch", "-i"], &tree).expect(2);
    assert!(refused.stderr.contains("another run is at work"), "{refused}");
    drop(held);
    command(&["patch", "-i"], &tree).expect(0);
}

//! Directory trees: every file of one is patched, proven and brought back, whatever is in the tree, whoever
//! changes it meanwhile, and wherever the run is killed.

mod files;
mod harness;
#[path = "trees/injector.rs"]
mod injector;
#[path = "trees/tree.rs"]
mod tree;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use files::{CONSTANT, need_root};
use harness::mtree::{Listing, assert_same, changed, listing};
use harness::packages::{self, Fetched};
use harness::{Ran, need, skip};
use injector::{Fault, Injector, for_each_number};
use rustix::fs::{CWD, FileType, FlockOperation, IFlags, Mode, OFlags, RenameFlags};
use serde_json::{Value, json};
use tree::{CAPABILITY, RECORD, Tree, leftovers, patched, program, set_xattr};

/// Something that is done to a tree.
type Change<'a> = &'a dyn Fn(&Tree);

// --- the plain way ---

/// A tree with every kind of thing in it.
fn motley_tree() -> Tree {
    let tree = Tree::with_programs();
    tree.link("bin/first", "usr/bin/second name");
    tree.program("usr/lib/third");
    tree.write("usr/lib/third.note", b"no program", 0o600);
    tree.write("bin/clean", &files::clean_program(), 0o711);
    fs::create_dir(tree.path("empty")).unwrap();
    fs::set_permissions(tree.path("empty"), Permissions::from_mode(0o1777)).unwrap();
    symlink("../lib/second", tree.path("bin/link")).unwrap();
    symlink("nowhere", tree.path("bin/dangling")).unwrap();
    symlink("/lib", tree.path("usr/absolute")).unwrap();
    rustix::fs::mkfifoat(CWD, tree.path("fifo"), Mode::from_raw_mode(0o640)).unwrap();
    tree.age();
    tree
}

#[test]
fn a_tree_is_patched_and_verified_and_brought_back() {
    let tree = motley_tree();
    let before = tree.listing();
    let scanned = tree.run("scan root").expect(1);
    assert!(scanned.stdout.contains("3 with sites"), "{scanned}");
    assert_same(&before, &tree.listing(), "scan");
    tree.run("patch --in-place root").expect(0);
    for (path, name) in [
        ("bin/first", "bin/first"),
        ("usr/bin/second name", "bin/first"),
        ("lib/second", "lib/second"),
        ("usr/lib/third", "usr/lib/third"),
    ] {
        tree.is_patched(path, name);
    }
    assert_eq!(
        changed(&before, &tree.listing()),
        [
            "bin/first: mtime sha256",
            "lib/second: mtime sha256",
            "usr/bin/second name: mtime sha256",
            "usr/lib/third: mtime sha256",
            "var: new",
            "var/lib: new",
            "var/lib/vsyspatch: new",
            "var/lib/vsyspatch/record.json: new",
        ]
    );
    tree.run("verify root").expect(0);
    tree.run("scan root").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
    let again = tree.run("revert --in-place root").expect(2);
    assert!(again.stderr.contains("there is no record"), "{again}");
}

#[test]
fn the_modification_time_of_a_patched_file_is_kept_where_that_is_asked_for() {
    let tree = motley_tree();
    let before = tree.listing();
    tree.run("patch --in-place --preserve-mtime root").expect(0);
    let changed = changed(&before, &tree.listing());
    assert!(changed.contains(&"bin/first: sha256".to_owned()), "{changed:?}");
    assert!(!changed.iter().any(|line| line.contains("mtime")), "{changed:?}");
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

#[test]
fn directories_that_were_there_before_the_record_stay_as_they_were() {
    for existing in ["var", "var/lib", "var/lib/vsyspatch", "var/lib/vsyspatch/mine", "var/log"] {
        let tree = Tree::with_programs();
        fs::create_dir_all(tree.path(existing)).unwrap();
        tree.age();
        let before = tree.listing();
        tree.run("patch --in-place root").expect(0);
        tree.run("patch --in-place root").expect(0);
        tree.run("verify root").expect(0);
        tree.run("revert --in-place root").expect(0);
        assert_same(&before, &tree.listing(), existing);
    }
}

#[test]
fn what_others_put_beside_the_record_stays() {
    let tree = Tree::with_programs();
    tree.run("patch --in-place root").expect(0);
    tree.write("var/lib/dpkg/status", b"precious", 0o644);
    tree.run("revert --in-place root").expect(0);
    assert_eq!(files::names(&tree.path("var/lib")), ["dpkg"]);
}

#[test]
fn a_record_elsewhere_leaves_nothing_of_its_own_in_the_tree() {
    let tree = motley_tree();
    let before = tree.listing();
    tree.run("patch --in-place --record record root").expect(0);
    assert!(!tree.path("var").exists());
    let without = tree.run("verify root").expect(2);
    assert!(without.stderr.contains("there is no record"), "{without}");
    tree.run("verify --record record root").expect(0);
    tree.run("revert --in-place --record record root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
    assert_eq!(files::names(tree.outside()), ["root"]);
}

/// Else one `--record` for two trees, one after the other, would leave the first without a way back.
#[test]
fn a_named_record_of_another_tree_is_not_overwritten() {
    let tree = Tree::new();
    for name in ["one/bin/first", "one/bin/both", "two/bin/second", "two/bin/both"] {
        tree.program(name);
    }
    tree.run("patch --in-place --record record root/one").expect(0);
    let record = || fs::read(tree.outside().join("record")).unwrap();
    let (before, listing) = (record(), tree.listing());
    for line in [
        "patch --in-place --record record root/two",
        "patch --dry-run --record record root/two",
        "patch --record record root/two -o copy",
    ] {
        let ran = tree.run(line).expect(2);
        assert!(ran.stderr.contains("record is the record of another tree"), "{ran}");
        assert!(ran.stderr.contains("name another record with --record"), "{ran}");
        assert!(record() == before, "{line}");
        assert_same(&listing, &tree.listing(), line);
    }
    assert_eq!(files::names(tree.outside()), ["record", "root"]);
    // One of its own tree still is, whatever else was replaced there.
    tree.write("one/bin/both", &program("a newer version"), 0o755);
    tree.run("patch --in-place --record record root/one").expect(0);
    tree.run("patch --in-place --record another root/two").expect(0);
    tree.run("revert --in-place --record record root/one").expect(0);
    tree.is_original("one/bin/first", "one/bin/first");
}

/// A directory `root` with the trees `one` and `two`, which hold the same file, and `two` one more.
fn twins() -> Tree {
    let tree = Tree::in_memory();
    tree.program("one/bin/both");
    fs::create_dir_all(tree.path("two/bin")).unwrap();
    fs::copy(tree.path("one/bin/both"), tree.path("two/bin/both")).unwrap();
    tree.program("two/bin/second");
    tree.age();
    tree
}

/// The files of both may be the same: then the way back of the one that is patched is not the other's.
#[test]
fn a_named_record_is_of_the_tree_that_is_patched_and_not_of_its_twin() {
    let tree = twins();
    let before = tree.listing();
    tree.run("patch --in-place --record record root/one").expect(0);
    let record = fs::read(tree.outside().join("record")).unwrap();
    let listing = tree.listing();
    for line in [
        "patch --in-place --record record root/two",
        "patch --record record root/two -o copy",
        "revert --in-place --record record root/two",
        "revert --record record root/two -o copy",
    ] {
        let ran = tree.run(line).expect(2);
        assert!(ran.stderr.contains("record is the record of another tree"), "{line}: {ran}");
        assert!(fs::read(tree.outside().join("record")).unwrap() == record, "{line}");
        assert_same(&listing, &tree.listing(), line);
    }
    tree.run("patch --in-place --record second root/two").expect(0);
    // Though all that the record tells of is patched there, too, its own tree needs it still.
    let ran = tree.run("revert --in-place --record record root/two").expect(0);
    assert!(ran.stderr.contains("record stays"), "{ran}");
    tree.is_original("two/bin/both", "one/bin/both");
    tree.run("revert --in-place --record second root/two").expect(0);
    tree.run("revert --in-place --record record root/one").expect(0);
    assert_same(&before, &tree.listing(), "revert");
    assert_eq!(files::names(tree.outside()), ["root"]);
}

#[test]
fn a_named_record_goes_with_a_copy_and_stays_until_both_went_back() {
    let tree = twins();
    tree.run("patch --in-place --record record root/two").expect(0);
    Ran::of(Command::new("cp").arg("-a").args([tree.path("two"), tree.path("copy")])).expect(0);
    tree.program("copy/bin/third");
    tree.run("patch --in-place --record record root/copy").expect(0);
    tree.run("verify --record record root/copy").expect(0);
    tree.run("patch --in-place --record record root/copy").expect(0);
    let ran = tree.run("revert --in-place --record record root/copy").expect(0);
    assert!(ran.stderr.contains("record stays"), "{ran}");
    for (path, name) in [("both", "one/bin/both"), ("second", "two/bin/second"), ("third", "copy/bin/third")]
    {
        tree.is_original(&format!("copy/bin/{path}"), name);
    }
    // A second time there is nothing to undo, and nothing is lost.
    tree.run("revert --in-place --record record root/copy").expect(2);
    tree.is_patched("two/bin/second", "two/bin/second");
    // What the copy alone had is not there.
    let ran = tree.run("revert --in-place --record record root/two").expect(2);
    assert!(ran.stderr.contains("root/two/bin/third: is gone"), "{ran}");
    tree.is_original("two/bin/both", "one/bin/both");
    tree.is_original("two/bin/second", "two/bin/second");

    // One that is only moved is the same.
    let tree = twins();
    tree.run("patch --in-place --record record root/two").expect(0);
    fs::rename(tree.path("two"), tree.path("moved")).unwrap();
    fs::write(tree.path("moved/bin/second"), program("newer")).unwrap();
    tree.run("patch --in-place --record record root/moved").expect(0);
    tree.run("revert --in-place --record record root/moved").expect(0);
    assert_eq!(files::names(tree.outside()), ["root"]);
}

/// At each call of one another begins, for a tree of its own: whatever is patched then has its way back.
#[test]
fn two_first_runs_with_one_record_at_once_lose_nothing() {
    let Some(injector) = Injector::new() else { return };
    let start = twins();
    let line = "patch --in-place --record record root/one";
    let calls = injector.run(&start.copy(), line, 0, Fault::Kill).calls;
    let script = format!(
        "{} patch -q --in-place --record record root/two 2>/dev/null; exit 0",
        env!("CARGO_BIN_EXE_vsyspatch")
    );
    let script: &'static str = script.leak();
    let before = start.listing();
    let refused = AtomicUsize::new(0);
    let failed = for_each_number(calls.len(), |number| {
        let tree = start.copy();
        let ran = injector.run(&tree, line, number, Fault::Meanwhile(script)).ran;
        let is_original = |path: &str| fs::read(tree.path(path)).unwrap() == program("one/bin/both");
        let is_patched = ["one", "two"].map(|name| !is_original(&format!("{name}/bin/both")));
        assert_eq!(ran.status == 0, is_patched[0], "call {number}: {ran}");
        refused.fetch_add(usize::from(!is_patched[0]), Ordering::Relaxed);
        assert!(is_patched != [true, true] && is_patched != [false, false], "call {number}: {is_patched:?}");
        for (name, is_patched) in ["one", "two"].into_iter().zip(is_patched) {
            if is_patched {
                tree.run(&format!("revert --in-place --record record root/{name}")).expect(0);
            }
        }
        assert_same(&before, &tree.listing(), &format!("call {number}"));
    });
    none_failed(&failed, calls.len());
    assert!(refused.into_inner() > 0, "the other was never the first: {calls:?}");
}

/// A run that is stopped anywhere between the first and the last call that writes is still at work for the other.
#[test]
fn runs_with_records_in_one_directory_leave_each_other_alone() {
    let Some(injector) = Injector::new() else { return };
    let start = Tree::in_memory();
    start.program("a/one");
    start.program("b/two");
    fs::create_dir(start.path("records")).unwrap();
    let [of_a, of_b] =
        ["a", "b"].map(|name| format!("patch --in-place --record root/records/{name}.json root/{name}"));
    start.run(&of_a).expect(0);
    start.run(&of_b).expect(0);
    start.program("a/three");
    let calls = injector.run(&start.copy(), &of_a, 0, Fault::Kill).calls;
    let mut left = 0;
    for number in 1..=calls.len() {
        let tree = start.copy();
        injector.run(&tree, &of_a, number, Fault::Kill).ran.expect(137);
        let before = files::names(&tree.path("records"));
        left += before.len() - 2;
        tree.run(&of_b).expect(0);
        assert_eq!(files::names(&tree.path("records")), before, "killed at call {number}");
    }
    assert!(left > 0, "{calls:?}");
}

#[test]
fn a_dry_run_tells_everything_and_changes_nothing() {
    let tree = motley_tree();
    let before = tree.listing();
    let ran = tree.run("patch --dry-run root").expect(0);
    assert_eq!(ran.stdout.matches("would be patched").count(), 3, "{ran}");
    assert_same(&before, &tree.listing(), "patch --dry-run");
    tree.run("patch --in-place root").expect(0);
    let patched = tree.listing();
    let ran = tree.run("revert --dry-run root").expect(0);
    assert_eq!(ran.stdout.matches("would be reverted").count(), 3, "{ran}");
    assert_same(&patched, &tree.listing(), "revert --dry-run");
}

#[test]
fn globs_choose_what_is_looked_at() {
    let tree = Tree::with_programs();
    tree.program("usr/lib/third");
    tree.run("patch --in-place --include lib/* --include first root").expect(0);
    tree.is_patched("bin/first", "bin/first");
    tree.is_patched("lib/second", "lib/second");
    tree.is_original("usr/lib/third", "usr/lib/third");
    let left = tree.run("verify root").expect(1);
    assert!(left.stdout.contains("root/usr/lib/third"), "{left}");
    tree.run("verify --exclude usr root").expect(0);
    tree.run("scan --exclude usr -j 1 root").expect(0);
    tree.run("scan --include /usr/*/t* root").expect(1);
    tree.run("scan --include /lib/t* root").expect(0);
    let wrong = tree.run("scan --include a[ root").expect(2);
    assert!(wrong.stderr.contains("not a pattern"), "{wrong}");
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let tree = Tree::new();
    for number in 0..60 {
        tree.program(&format!("{}/{number}", number % 7));
    }
    // Reading these takes so long that what is beside them is left to other threads.
    for number in 0..3 {
        let path = tree.root().join(format!("0/{number}.a"));
        fs::write(&path, b"!<arch>\n").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(16 << 20).unwrap();
    }
    let said = |jobs: u32| {
        let copy = tree.copy();
        let ran = copy.run(&format!("patch --in-place -j {jobs} root")).expect(0);
        let mut record = copy.record();
        for entry in record["files"].as_array_mut().unwrap() {
            entry["mtime"] = json!(null);
        }
        (without_seconds(&ran.stdout), record)
    };
    let one = said(1);
    assert!(one.0.contains("63 files") && one.0.contains("60 patched"), "{}", one.0);
    assert!(one == said(2) && one == said(16));
}

#[test]
fn two_runs_do_not_work_in_one_tree() {
    let tree = Tree::with_programs();
    let before = tree.listing();
    let root = File::open(tree.root()).unwrap();
    rustix::fs::flock(&root, FlockOperation::LockExclusive).unwrap();
    let ran = tree.run("patch --in-place root").expect(2);
    assert!(ran.stderr.contains("another run is at work"), "{ran}");
    assert_same(&before, &tree.listing(), "a refused run");
    tree.run("patch --dry-run root").expect(0);
    drop(root);
    tree.run("patch --in-place root").expect(0);
}

#[test]
fn a_real_tree_is_patched_and_brought_back() {
    if harness::real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    let tree = Tree::new();
    fs::remove_dir(tree.root()).unwrap();
    harness::rootfs::unpack(tree.outside(), "root");
    tree.age();
    let before = tree.listing();
    let scanned = tree.run("scan --json root").expect(1).report();
    let sites = |document: &Value| document["targets"][0]["summary"]["patch"].as_u64().unwrap();
    assert!(sites(&scanned) > 5, "{scanned:#}");
    let patched = tree.run("patch --in-place --json root").expect(0).report();
    assert_eq!(sites(&patched), sites(&scanned));
    tree.run("verify root").expect(0);
    tree.run("scan root").expect(0);
    for line in changed(&before, &tree.listing()) {
        assert!(
            line.ends_with(": mtime sha256") || line.starts_with("var") && line.ends_with(": new"),
            "{line}"
        );
    }
    let again = tree.run("patch --in-place root").expect(0);
    assert!(again.stdout.contains("patched already"), "{again}");
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

/// Where stderr is a terminal.
#[test]
fn every_command_shows_how_far_it_has_come() {
    if !need("script") {
        return;
    }
    let tree = Tree::with_programs();
    for line in ["scan root", "patch --in-place root", "verify root", "revert --in-place root"] {
        let command = format!("{} {line}", env!("CARGO_BIN_EXE_vsyspatch"));
        let mut script = Command::new("script");
        script.args(["-qc", &command, "/dev/null"]).env("TERM", "xterm").current_dir(tree.outside());
        let ran = Ran::of(&mut script);
        assert!(ran.stdout.contains(" with sites, "), "{line}: {ran}");
    }
    tree.is_original("bin/first", "bin/first");
}

/// Packages of Debian that are unpacked into one tree, as corpus/look_alikes.tsv pins them.
const PACKAGES: [&str; 3] = ["criu", "dietlibc-dev", "vim"];

/// A program with a vsyscall of its own: how far apart that clock and the one of system calls are, in seconds.
const CLOCKS: &str = "
    #include <stdio.h>
    #include <time.h>
    int main(void) {
        time_t (*old_time)(time_t *) = (time_t (*)(time_t *))0xffffffffff600400;
        time_t old = old_time(0);
        printf(\"%ld\\n\", (long)((time(0) - old) / 60));
        return 0;
    }";

/// A tree of real packages; skips aloud where they cannot be fetched.
fn unpacked_packages() -> Option<Tree> {
    let table = fs::read_to_string(harness::root().join("corpus/look_alikes.tsv")).unwrap();
    let tree = Tree::new();
    for name in PACKAGES {
        let row: Vec<_> = table
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .find(|row| row[1] == name)
            .expect("a row of the package");
        let package = match packages::fetch(row[0], name, row[2], Some(row[3]))? {
            Fetched::Tree(package) => package,
            Fetched::Withdrawn(served) => {
                harness::withdrawn(&format!("{name} {} is not served any more, but {served}", row[2]));
                return None;
            }
        };
        Ran::of(Command::new("cp").arg("-a").arg(package.join(".")).arg(tree.root())).expect(0);
    }
    Some(tree)
}

/// Links `source` with the dietlibc of the tree, as the program `name` of the tree.
fn link_with_dietlibc(tree: &Tree, source: &str, name: &str) {
    let file = tree.outside().join("program.c");
    fs::write(&file, source).unwrap();
    fs::create_dir_all(tree.path(name).parent().unwrap()).unwrap();
    let library = tree.path("usr/lib/x86_64-linux-gnu/diet/lib-x86_64");
    let mut compile = Command::new("gcc");
    compile.args(["-w", "-O1", "-fno-stack-protector", "-nostdlib", "-static", "-no-pie", "-nostdinc"]);
    compile.arg("-isystem").arg(tree.path("usr/include/diet")).arg("-o").arg(tree.path(name));
    Ran::of(compile.arg(library.join("start.o")).arg(file).arg(library.join("libc.a"))).expect(0);
}

#[test]
fn a_tree_of_real_packages_with_programs_of_dietlibc_is_patched_and_brought_back() {
    if !need("gcc") {
        return;
    }
    let Some(tree) = unpacked_packages() else { return };
    let names = ["usr/bin/clocks", "usr/sbin/set-user-id"];
    for (number, name) in names.iter().enumerate() {
        link_with_dietlibc(&tree, &format!("int number = {number};{CLOCKS}"), name);
    }
    fs::set_permissions(tree.path(names[1]), Permissions::from_mode(0o4755)).unwrap();
    tree.link(names[0], "opt/old/clocks");
    tree.age();
    let before = tree.listing();
    assert!(before.len() > 400, "{} names", before.len());
    let scanned = tree.run("scan --json root").expect(1).report();
    assert_eq!(scanned["targets"][0]["summary"]["patch"], 2, "{scanned:#}");
    assert_same(&before, &tree.listing(), "scan");
    tree.run("patch --in-place root").expect(0);
    let expected = ["opt/old/clocks", names[0], names[1]].map(|name| format!("{name}: mtime sha256"));
    let changed = changed(&before, &tree.listing());
    let (new, changed): (Vec<_>, Vec<_>) = changed.into_iter().partition(|line| line.ends_with(": new"));
    assert_eq!(changed, expected);
    assert!(new.iter().all(|line| line.starts_with("var")), "{new:?}");
    for name in names {
        assert_eq!(Ran::of(&mut Command::new(tree.path(name))).expect(0).stdout, "0\n");
    }
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

// --- attributes and names ---

#[test]
fn the_attributes_of_every_file_are_kept() {
    if !need_root() {
        return;
    }
    let tree = Tree::new();
    for (name, mode) in
        [("set-user-id", 0o4755), ("set-group-id", 0o2711), ("sticky", 0o1755), ("locked", 0o000)]
    {
        tree.program(name);
        std::os::unix::fs::chown(tree.path(name), Some(1234), Some(2345)).unwrap();
        fs::set_permissions(tree.path(name), Permissions::from_mode(mode)).unwrap();
    }
    for name in ["note", "capability", "acl"] {
        tree.program(name);
    }
    let is_set = set_xattr(&tree.path("note"), "user.note", &[b'n'; 2000])
        && set_xattr(&tree.path("capability"), "security.capability", &CAPABILITY)
        && set_xattr(&tree.path("acl"), "system.posix_acl_access", &tree::acl());
    if !is_set {
        skip("the file system of the temporary directory has not all extended attributes");
    }
    tree.age();
    let before = tree.listing();
    tree.run("patch --in-place root").expect(0);
    let changed = changed(&before, &tree.listing());
    let patched = changed.iter().filter(|line| line.ends_with(": mtime sha256")).count();
    assert_eq!((patched, changed.len()), (7, 7 + 4), "{changed:?}");
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

#[test]
fn holes_stay_holes() {
    let tree = Tree::new();
    tree.program("sparse");
    File::options().write(true).open(tree.path("sparse")).unwrap().set_len(8 << 20).unwrap();
    let blocks = || fs::metadata(tree.path("sparse")).unwrap().blocks();
    let before = blocks();
    if before > 1000 {
        return skip("the file system of the temporary directory has no holes");
    }
    let before_all = tree.listing();
    tree.run("patch --in-place root").expect(0);
    assert!(blocks() <= before, "{} blocks, {before} before", blocks());
    tree.run("patch root -o copy").expect(0);
    assert!(fs::metadata(tree.outside().join("copy/sparse")).unwrap().blocks() <= before);
    tree.run("revert --in-place root").expect(0);
    assert!(blocks() <= before);
    assert_same(&before_all, &tree.listing(), "revert");
}

#[test]
fn a_group_of_hard_links_ends_as_links_to_one_new_file() {
    let tree = Tree::new();
    tree.program("bin/one");
    for name in ["bin/two", "lib/deep/three", "usr/four"] {
        tree.link("bin/one", name);
    }
    tree.age();
    let before = tree.listing();
    let inode = |name: &str| fs::metadata(tree.path(name)).unwrap().ino();
    let old = inode("bin/one");
    let ran = tree.run("patch --in-place root").expect(0);
    assert!(
        ran.stdout.contains("root/bin/one = root/bin/two = root/lib/deep/three = root/usr/four"),
        "{ran}"
    );
    let new: BTreeSet<u64> = ["bin/one", "bin/two", "lib/deep/three", "usr/four"].map(inode).into();
    assert!(new.len() == 1 && !new.contains(&old), "{old} {new:?}");
    assert_eq!(fs::metadata(tree.path("usr/four")).unwrap().nlink(), 4);
    assert!(changed(&before, &tree.listing()).iter().all(|line| !line.contains("links")));
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

#[test]
fn a_file_with_names_elsewhere_is_refused_and_the_others_are_patched() {
    for exclude in [false, true] {
        let tree = Tree::with_programs();
        let (other, words) = if exclude { ("root/opt/name", " --exclude opt") } else { ("name", "") };
        let other = tree.outside().join(other);
        fs::create_dir_all(other.parent().unwrap()).unwrap();
        fs::hard_link(tree.path("bin/first"), &other).unwrap();
        tree.age();
        let before = tree.listing();
        let line = format!("patch --in-place root{words}");
        let ran = tree.run(&line).expect(2);
        assert!(ran.stderr.contains("root/bin/first: has 2 hard links"), "{ran}");
        assert!(ran.stderr.contains("--break-links"), "{ran}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
        tree.is_original("bin/first", "bin/first");
        tree.is_patched("lib/second", "lib/second");
        tree.run("revert --in-place root").expect(0);
        assert_same(&before, &tree.listing(), "revert");

        tree.run(&format!("{line} --break-links")).expect(0);
        tree.is_patched("bin/first", "bin/first");
        assert!(fs::read(&other).unwrap() == program("bin/first"));
        assert_eq!(fs::metadata(&other).unwrap().nlink(), 1);
        tree.run(&format!("verify root{words}")).expect(0);
        tree.run("revert --in-place root").expect(0);
        tree.is_original("bin/first", "bin/first");
    }
}

/// Takes the flag from a file again, so that it can be removed.
struct Immutable(File);

impl Immutable {
    fn new(path: &Path) -> Option<Self> {
        let file = File::open(path).unwrap();
        rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE).ok().map(|()| Self(file))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = rustix::fs::ioctl_setflags(&self.0, IFlags::empty());
    }
}

#[test]
fn an_immutable_file_is_named_and_the_others_are_patched() {
    if !need_root() {
        return;
    }
    let tree = Tree::with_programs();
    tree.program("bin/third");
    tree.link("bin/third", "bin/zeroth");
    tree.age();
    let before = tree.listing();
    let Some(immutable) = Immutable::new(&tree.path("bin/third")) else {
        return skip("files cannot be made immutable here");
    };
    let first = Immutable::new(&tree.path("bin/first"));
    let ran = tree.run("patch --in-place root").expect(2);
    for name in ["first", "third"] {
        assert!(ran.stderr.contains(&format!("vsyspatch: root/bin/{name}: ")), "{ran}");
        tree.is_original(&format!("bin/{name}"), &format!("bin/{name}"));
    }
    assert_eq!(ran.stderr.matches("chattr -i").count(), 2, "{ran}");
    tree.is_patched("lib/second", "lib/second");
    assert_eq!(leftovers(&tree.root()), [] as [&Path; 0]);
    assert_eq!(tree.record().get("unfinished"), None);
    drop((immutable, first));
    tree.run("patch --in-place root").expect(0);
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

#[test]
fn a_program_that_is_running_is_replaced_and_goes_on() {
    let tree = Tree::new();
    let mut code = files::program();
    code[files::CODE..].copy_from_slice(&[
        0x31, 0xff, // xor %edi,%edi
        0xb8, 0x22, 0x00, 0x00, 0x00, // mov $34,%eax
        0x0f, 0x05, // syscall: pause
        0x48, 0xc7, 0xc0, 0x00, 0x04, 0x60, 0xff, // mov $0xffffffffff600400,%rax
        0xff, 0xd0, // call *%rax
        0x0f, 0x0b, // ud2
    ]);
    tree.write("program", &code, 0o755);
    let mut running = loop {
        match Command::new(tree.path("program")).spawn() {
            // Another test forked while the program was being written.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            started => break started.unwrap(),
        }
    };
    tree.run("patch --in-place root").expect(0);
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert!(fs::read(tree.path("program")).unwrap() == code);
    assert!(running.try_wait().unwrap().is_none(), "the program ended");
    running.kill().unwrap();
    running.wait().unwrap();
}

// --- hostile trees ---

/// A tree, and beside it a directory `victim` with a program that no run in the tree may touch.
fn tree_with_victim() -> (Tree, Listing) {
    let tree = Tree::with_programs();
    let victim = tree.outside().join("victim");
    fs::create_dir_all(victim.join("lib/vsyspatch")).unwrap();
    fs::write(victim.join("first"), program("bin/first")).unwrap();
    fs::write(victim.join("patched"), patched("bin/first")).unwrap();
    fs::write(victim.join("record.json"), b"precious").unwrap();
    tree::age(&victim);
    let before = listing(&victim);
    (tree, before)
}

#[track_caller]
fn victim_is_untouched(tree: &Tree, before: &Listing, what: &str) {
    assert_same(before, &listing(&tree.outside().join("victim")), what);
    let beside = files::names(tree.outside());
    assert_eq!(beside, ["root", "victim"], "{what}");
}

#[test]
fn nothing_that_links_out_of_the_tree_is_followed() {
    let (tree, victim) = tree_with_victim();
    let outside = tree.outside().join("victim");
    symlink(&outside, tree.path("absolute")).unwrap();
    symlink("../victim", tree.path("relative")).unwrap();
    symlink(outside.join("first"), tree.path("bin/absolute")).unwrap();
    symlink("../../victim/first", tree.path("bin/relative")).unwrap();
    symlink("loop", tree.path("loop")).unwrap();
    symlink(".", tree.path("lib/self")).unwrap();
    symlink("..", tree.path("lib/up")).unwrap();
    symlink("nowhere", tree.path("dangling")).unwrap();
    rustix::fs::mkfifoat(CWD, tree.path("bin/fifo"), Mode::from_raw_mode(0o666)).unwrap();
    let _socket = UnixListener::bind(tree.path("bin/socket")).unwrap();
    if need_root() {
        for (name, minor) in [("null", 3), ("zero", 5)] {
            let device = rustix::fs::makedev(1, minor);
            rustix::fs::mknodat(CWD, tree.path(name), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        }
    }
    let name = OsStr::from_bytes(b"bin/\xff\xfe\n\x1b[31m");
    tree.write(Path::new(name), &program("not UTF-8"), 0o755);
    tree.age();
    let before = tree.listing();
    let scanned = tree.run("scan root").expect(1);
    assert!(scanned.stdout.contains("3 with sites") && scanned.stdout.contains("\\xff\\xfe"), "{scanned}");
    assert!(!scanned.stdout.contains('\x1b'), "{scanned}");
    tree.run("patch --in-place root").expect(0);
    assert!(fs::read(tree.path(Path::new(name))).unwrap() == patched("not UTF-8"));
    assert_eq!(tree.record()["files"][1]["paths"], json!([{"hex": hex::encode(name.as_bytes())}]));
    tree.run("verify root").expect(0);
    tree.run("scan root --json").expect(0);
    tree.run("revert --in-place root").expect(0);
    assert_same(&before, &tree.listing(), "revert");
    victim_is_untouched(&tree, &victim, "a tree with links");
}

#[test]
fn a_record_directory_that_links_out_of_the_tree_is_refused() {
    let make: [(&str, Change<'_>); 6] = [
        ("var, absolute", &|tree| symlink(tree.outside().join("victim"), tree.path("var")).unwrap()),
        ("var, relative", &|tree| symlink("../victim", tree.path("var")).unwrap()),
        ("var/lib", &|tree| {
            fs::create_dir(tree.path("var")).unwrap();
            symlink("../../victim/lib", tree.path("var/lib")).unwrap();
        }),
        ("var/lib/vsyspatch", &|tree| {
            fs::create_dir_all(tree.path("var/lib")).unwrap();
            symlink("../../../victim", tree.path("var/lib/vsyspatch")).unwrap();
        }),
        ("the record", &|tree| {
            fs::create_dir_all(tree.path("var/lib/vsyspatch")).unwrap();
            symlink("../../../../victim/record.json", tree.path(RECORD)).unwrap();
        }),
        ("a loop", &|tree| symlink("var", tree.path("var")).unwrap()),
    ];
    for (what, make) in make {
        let (tree, victim) = tree_with_victim();
        make(&tree);
        tree.age();
        let before = tree.listing();
        for command in ["patch --in-place root", "revert --in-place root", "verify root"] {
            let ran = tree.run(command).expect(2);
            assert!(ran.stderr.starts_with("vsyspatch: root: "), "{what}: {ran}");
            assert_same(&before, &tree.listing(), what);
        }
        tree.run("scan root").expect(1);
        victim_is_untouched(&tree, &victim, what);
    }
}

#[test]
fn a_record_directory_that_is_reached_by_links_in_the_tree_is_used() {
    for absolute in [false, true] {
        let tree = Tree::with_programs();
        fs::create_dir_all(tree.path("data/state")).unwrap();
        let target = if absolute { "/data/state" } else { "data/state" };
        symlink(target, tree.path("var")).unwrap();
        tree.age();
        let before = tree.listing();
        tree.run("patch --in-place root").expect(0);
        assert!(tree.path("data/state/lib/vsyspatch/record.json").is_file());
        tree.run("verify root").expect(0);
        tree.run("revert --in-place root").expect(0);
        assert_same(&before, &tree.listing(), target);
    }
}

/// Directories to a depth of `depth`, each with `beside` further names; a program in the last.
fn deep(tree: &Tree, depth: usize, beside: impl Fn(&std::os::fd::OwnedFd)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = rustix::fs::open(tree.root(), flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        beside(&directory);
        rustix::fs::mkdirat(&directory, "d", Mode::from_raw_mode(0o755)).unwrap();
        directory = rustix::fs::openat(&directory, "d", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = rustix::fs::openat(&directory, "program", flags, Mode::from_raw_mode(0o755)).unwrap();
    rustix::io::write(&file, &program("deep")).unwrap();
}

/// Runs the command with at most 256 open descriptors.
fn with_few_descriptors(tree: &Tree, line: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" $1", env!("CARGO_BIN_EXE_vsyspatch"), line]);
    Ran::of(command.current_dir(tree.outside()))
}

fn can_be_copied_with_few_descriptors(tree: &Tree) {
    let output = with_few_descriptors(tree, "patch root -o new").expect(0);
    assert!(output.stdout.contains("1 patched"), "{}", output.stderr);
    with_few_descriptors(tree, "verify new").expect(0);
    let removed = Command::new("rm").arg("-rf").arg(tree.outside().join("new")).status().unwrap();
    assert!(removed.success());
}

fn can_be_worked_on_with_few_descriptors(tree: &Tree) {
    let begun = with_few_descriptors(tree, "scan root").expect(1);
    assert_eq!(begun.stderr, "");
    with_few_descriptors(tree, "patch --in-place root").expect(0);
    with_few_descriptors(tree, "verify root").expect(0);
    with_few_descriptors(tree, "scan root").expect(0);
    with_few_descriptors(tree, "revert --in-place root").expect(0);
    with_few_descriptors(tree, "scan root").expect(1);
    assert!(!tree.path("var").exists());
}

#[test]
fn a_chain_of_5000_directories_is_worked_on() {
    let tree = Tree::in_memory();
    deep(&tree, 5000, |_| {});
    can_be_copied_with_few_descriptors(&tree);
    can_be_worked_on_with_few_descriptors(&tree);
}

#[test]
fn a_comb_of_5000_directories_with_further_ones_is_worked_on() {
    let tree = Tree::in_memory();
    deep(&tree, 5000, |directory| {
        for name in ["a", "z"] {
            rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)).unwrap();
        }
    });
    can_be_worked_on_with_few_descriptors(&tree);
}

fn many_files(directory: &std::os::fd::OwnedFd, count: usize) {
    for number in 0..count {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        rustix::fs::openat(directory, number.to_string(), flags, Mode::from_raw_mode(0o644)).unwrap();
    }
}

#[test]
fn many_directories_with_many_files_take_few_descriptors() {
    let tree = Tree::in_memory();
    deep(&tree, 400, |directory| many_files(directory, 300));
    let scanned = with_few_descriptors(&tree, "scan root").expect(1);
    assert_eq!(scanned.stderr, "");
    assert!(scanned.stdout.contains("120001 files"), "{}", scanned.stdout);
}

#[test]
fn a_tree_of_200_000_files_is_worked_on() {
    let tree = Tree::in_memory();
    for name in ["a", "b", "c", "d"] {
        fs::create_dir(tree.path(name)).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        many_files(&rustix::fs::open(tree.path(name), flags, Mode::empty()).unwrap(), 50_000);
    }
    tree.program("c/program");
    let patched = tree.run("patch --in-place --json root").expect(0).report();
    assert_eq!(patched["targets"][0]["summary"]["files"], 200_001);
    assert_eq!(patched["targets"][0]["summary"]["patched"], 1);
    tree.run("revert --in-place root").expect(0);
    tree.is_original("c/program", "c/program");
}

#[test]
fn files_that_may_not_be_read_are_named_and_the_others_are_told() {
    if !need_root() {
        return;
    }
    let tree = Tree::with_programs();
    tree.program("bin/secret");
    tree.program("closed/program");
    fs::set_permissions(tree.path("bin/secret"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(tree.path("closed"), Permissions::from_mode(0o700)).unwrap();
    let before = tree.listing();
    let as_nobody = |line: &str| Ran::of(&mut tree.as_nobody(line)).expect(2);
    let scanned = as_nobody("scan root");
    assert!(
        scanned.stdout.contains("root/bin/first") && scanned.stdout.contains("root/lib/second"),
        "{scanned}"
    );
    for name in ["root/bin/secret", "root/closed"] {
        assert!(scanned.stderr.contains(&format!("vsyspatch: {name}: ")), "{scanned}");
    }
    assert_eq!(scanned.stderr.matches("Permission denied").count(), 2, "{scanned}");
    let patched = as_nobody("patch --in-place root");
    assert!(patched.stderr.contains("Permission denied"), "{patched}");
    assert_same(&before, &tree.listing(), "a user without permission");
}

/// Runs `meanwhile` over and over in another thread until `work` is done.
fn while_changing(meanwhile: impl Fn() + Sync, work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                meanwhile();
            }
        });
        let _stop = Stop(&is_done);
        work();
    });
}

#[test]
fn a_file_that_changes_while_it_is_looked_at_ends_no_run() {
    let tree = Tree::with_programs();
    let path = tree.path("bin/changing");
    tree.program("bin/changing");
    let long = [program("bin/changing"), vec![0; 100_000]].concat();
    let change = || {
        fs::write(&path, &long).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(90_000).unwrap();
    };
    while_changing(change, || {
        for number in 0..60 {
            let ran = tree.run(["scan root", "scan --all root", "patch --dry-run root"][number % 3]);
            assert!(ran.status <= 2, "{ran}");
            assert!(ran.stdout.contains("root/lib/second"), "{ran}");
        }
    });
    while_changing(change, || {
        for _ in 0..10 {
            for command in ["patch --in-place root", "verify root", "revert --in-place root"] {
                let ran = tree.run(command);
                assert!(ran.status <= 2, "{ran}");
            }
        }
    });
}

/// A large file is mapped while it is looked at: what is gone under the map must not end the process.
#[test]
fn a_large_file_that_is_made_shorter_while_it_is_looked_at_ends_no_run() {
    const SIZE: u64 = 32 << 20;
    let tree = Tree::with_programs();
    tree.program("bin/changing");
    let path = tree.path("bin/changing");
    let file = File::options().write(true).open(&path).unwrap();
    let change = || {
        for size in [SIZE, 100, SIZE, SIZE / 2] {
            file.set_len(size).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(7));
        }
    };
    let mut changed = 0;
    while_changing(change, || {
        for number in 0..60 {
            let line =
                ["scan --all root", "scan --all root/bin/changing", "patch --dry-run root"][number % 3];
            let ran = tree.run(line);
            assert!(ran.status <= 2, "{ran}");
            changed += u32::from(ran.stderr.contains("root/bin/changing: changed while it was read"));
        }
    });
    assert!(changed > 0, "it was never made shorter at the right time");
}

#[test]
fn a_name_that_is_swapped_for_a_link_never_leads_out_of_the_tree() {
    for what in ["bin/first", "bin", "lib/second", "lib"] {
        let (tree, _) = tree_with_victim();
        let victim = tree.outside().join("victim");
        fs::write(victim.join("second"), program("lib/second")).unwrap();
        let before = listing(&victim);
        let link = tree.outside().join("root/link");
        let target = match what {
            "bin" | "lib" => victim,
            file => victim.join(Path::new(file).file_name().unwrap()),
        };
        symlink(target, &link).unwrap();
        let swapped = tree.path(what);
        let swap = || {
            rustix::fs::renameat_with(CWD, &link, CWD, &swapped, RenameFlags::EXCHANGE).unwrap();
        };
        while_changing(swap, || {
            for _ in 0..15 {
                for command in ["patch --in-place root", "verify root", "revert --in-place root"] {
                    let ran = tree.run(command);
                    assert!(ran.status <= 2, "{ran}");
                }
            }
        });
        victim_is_untouched(&tree, &before, what);
        if fs::symlink_metadata(&link).unwrap().is_symlink() {
            fs::remove_file(&link).unwrap();
        } else {
            swap();
            fs::remove_file(&link).unwrap();
        }
        tree.run("patch --in-place root").expect(0);
        tree.run("verify root").expect(0);
        tree.run("revert --in-place root").expect(0);
        for name in ["bin/first", "lib/second"] {
            let bytes = fs::read(tree.path(name)).unwrap();
            // It may have been patched under the name that it had for a moment.
            assert!(bytes == program(name) || bytes == patched(name), "{name}");
        }
        assert_eq!(leftovers(&tree.root()), [] as [&Path; 0]);
    }
}

/// The same at every call that writes, one after the other.
#[test]
fn a_name_that_becomes_a_link_before_any_call_that_writes_never_leads_out_of_the_tree() {
    let Some(injector) = Injector::new() else { return };
    let scripts = [
        "mv root/lib root/moved && ln -s ../victim root/lib",
        "mv root/lib root/bin/moved && ln -s \"$PWD/victim\" root/lib",
        "mv root/lib/second root/lib/moved && ln -s ../../victim/second root/lib/second",
        "mv root/bin root/moved && ln -s victim root/bin && mv root moved && mkdir root && cp -a victim root/bin",
        "rm -rf root/var root/.vsyspatch-record && ln -s ../victim root/var && ln -s ../victim root/.vsyspatch-record",
    ];
    for command in ["patch --in-place root", "revert --in-place root"] {
        let (start, _) = tree_with_victim();
        let victim = start.outside().join("victim");
        for name in ["first", "second"] {
            let names = [format!("bin/{name}"), format!("lib/{name}")];
            let name = names.iter().find(|name| start.path(name).exists()).unwrap();
            fs::copy(start.path(name), victim.join(Path::new(name).file_name().unwrap())).unwrap();
        }
        tree::age(&victim);
        let before = listing(&victim);
        if command.starts_with("revert") {
            start.run("patch --in-place root").expect(0);
        }
        let calls = injector.run(&start.copy(), command, 0, Fault::Kill).calls;
        for script in scripts {
            let failed = for_each_number(calls.len(), |number| {
                let tree = start.copy();
                let copied = Command::new("cp").arg("-a").arg(&victim).arg(tree.outside()).status();
                assert!(copied.unwrap().success());
                let ran = injector.run(&tree, command, number, Fault::Meanwhile(script)).ran;
                let what = format!("{script} at call {number}, {}", calls[number - 1]);
                assert!(ran.status <= 2, "{what}: {ran}");
                assert_same(&before, &listing(&tree.outside().join("victim")), &what);
                let beside = files::names(tree.outside());
                assert!(
                    beside.iter().all(|name| ["moved", "root", "victim"].contains(&name.as_str())),
                    "{beside:?}"
                );
            });
            none_failed(&failed, calls.len());
        }
    }
}

#[test]
fn a_hostile_record_harms_nothing() {
    let of_first: [(&str, Value); 10] = [
        ("paths", json!(["../victim/first"])),
        ("paths", json!(["bin/../../victim/patched"])),
        ("paths", json!(["/etc/passwd"])),
        ("paths", json!([""])),
        ("paths", json!(["."])),
        ("paths", json!([])),
        ("paths", json!(["bin/first", "bin/first"])),
        ("paths", json!(["bin/first", "lib/second"])),
        ("paths", json!(["bin/\u{0}first"])),
        ("paths", json!([{"hex": "2e2e2f76696374696d2f7061746368656400"}])),
    ];
    let of_all: [(&str, Value); 7] = [
        ("created", json!(["bin"])),
        ("created", json!(["var/../victim"])),
        (
            "unfinished",
            json!({"direction": "patch", "temporary": "../../victim/first", "directories": [["bin", [0, 0]]]}),
        ),
        (
            "unfinished",
            json!({"direction": "patch", "temporary": ".vsyspatch-/../first", "directories": [["bin", [0, 0]]]}),
        ),
        ("unfinished", json!({"direction": "patch", "temporary": "first", "directories": [["bin", [0, 0]]]})),
        ("schema", json!("vsyspatch.tree-record/9")),
        ("files", json!("many")),
    ];
    let of_first = of_first.into_iter().map(|(key, value)| (true, key, value));
    let of_all = of_all.into_iter().map(|(key, value)| (false, key, value));
    let (start, victim) = tree_with_victim();
    start.run("patch --in-place root").expect(0);
    for (is_of_first, key, value) in of_first.chain(of_all) {
        let what = format!("{key}: {value}");
        start.change_record(|record| {
            let place = if is_of_first { &mut record["files"][0] } else { record };
            let before = place[key].take();
            place[key] = value;
            fs::write(start.outside().join("before"), serde_json::to_vec(&before).unwrap()).unwrap();
        });
        fs::remove_file(start.outside().join("before")).unwrap();
        let changed = start.listing();
        for command in ["verify root", "patch --in-place root", "revert --in-place root"] {
            let ran = start.run(command).expect(2);
            assert!(ran.stderr.starts_with("vsyspatch: root: record root/var/lib"), "{what}: {ran}");
            assert_same(&changed, &start.listing(), &what);
            victim_is_untouched(&start, &victim, &what);
        }
        fs::remove_dir_all(start.path("var")).unwrap();
        for name in ["bin/first", "lib/second"] {
            fs::write(start.path(name), program(name)).unwrap();
        }
        start.run("patch --in-place root").expect(0);
    }
}

#[test]
fn a_record_of_links_and_of_others_leads_nowhere() {
    let (start, victim) = tree_with_victim();
    start.run("patch --in-place root").expect(0);
    symlink("../victim", start.path("out")).unwrap();
    symlink("../../victim/patched", start.path("bin/link")).unwrap();
    rustix::fs::mkfifoat(CWD, start.path("fifo"), Mode::from_raw_mode(0o666)).unwrap();
    for path in ["out/patched", "bin/link", "out", "fifo", "bin", "bin/first/x", "bin/missing", "missing/x"] {
        let tree = start.copy();
        let outside = tree.outside().join("victim");
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(start.outside().join("victim"))
                .arg(&outside)
                .status()
                .unwrap()
                .success()
        );
        tree.change_record(|record| record["files"][0]["paths"] = json!([path]));
        let verified = tree.run("verify root");
        assert!(matches!(verified.status, 1 | 2), "{path}: {verified}");
        let reverted = tree.run("revert --in-place root").expect(2);
        assert!(reverted.stderr.contains(&format!("root/{path}: ")), "{path}: {reverted}");
        tree.is_original("lib/second", "lib/second");
        tree.is_patched("bin/first", "bin/first");
        let again = tree.run("patch --in-place root");
        assert!(matches!(again.status, 0 | 2), "{path}: {again}");
        tree.is_patched("lib/second", "lib/second");
        victim_is_untouched(&tree, &victim, path);
    }
}

#[test]
fn a_record_with_other_checksums_changes_nothing() {
    let other = "0".repeat(64);
    for (key, value) in [
        ("/files/0/record/patched_sha256", json!(other)),
        ("/files/0/record/original_sha256", json!(other)),
        ("/files/0/record/edits/0/before", json!("48c7c0000860ff")),
        ("/files/0/record/edits", json!([])),
    ] {
        let tree = Tree::with_programs();
        tree.run("patch --in-place root").expect(0);
        tree.change_record(|record| *record.pointer_mut(key).unwrap() = value);
        tree.run("verify root").expect(1);
        let reverted = tree.run("revert --in-place root").expect(2);
        assert!(reverted.stderr.contains("root/bin/first: "), "{key}: {reverted}");
        tree.is_patched("bin/first", "bin/first");
        tree.is_original("lib/second", "lib/second");
        assert_eq!(leftovers(&tree.root()), [] as [&Path; 0]);
    }
}

#[test]
fn a_record_of_thousands_of_files_that_are_not_there_is_read() {
    let tree = Tree::with_programs();
    tree.run("patch --in-place root").expect(0);
    tree.change_record(|record| {
        let files = record["files"].as_array_mut().unwrap();
        let entry = files[0].clone();
        files.extend((0..20_000).map(|number| {
            let mut entry = entry.clone();
            entry["paths"] = json!([format!("missing/{number}"), format!("bin/missing {number}")]);
            entry
        }));
    });
    let verified = tree.run("verify --json root").expect(1).report();
    assert_eq!(verified["targets"][0]["tree"]["findings"].as_array().unwrap().len(), 20_000);
    tree.run("patch --in-place root").expect(0);
    assert_eq!(tree.record()["files"].as_array().unwrap().len(), 2);
    tree.run("revert --in-place root").expect(0);
}

/// What is written can be read again, whatever its size: else there would be no way back.
#[test]
fn a_record_that_is_larger_than_those_of_files_is_written_and_read() {
    let tree = Tree::with_programs();
    tree.run("patch --in-place root").expect(0);
    tree.change_record(|record| {
        let files = record["files"].as_array_mut().unwrap();
        let mut entry = files[0].clone();
        entry["record"]["build_id"] = json!("0".repeat(1 << 20));
        files.extend((0..70).map(|number| {
            entry["paths"] = json!([format!("missing/{number}")]);
            entry.clone()
        }));
    });
    tree.run("verify root").expect(1);
    // What is missing stays in the record, which is written again.
    tree.run("revert --in-place root").expect(2);
    tree.is_original("bin/first", "bin/first");
    assert!(fs::metadata(tree.path(RECORD)).unwrap().len() > 64 << 20);
    tree.run("verify root").expect(1);
    tree.run("patch --in-place root").expect(0);
    tree.run("revert --in-place root").expect(0);
    tree.is_original("lib/second", "lib/second");
}

#[test]
fn a_record_that_no_run_can_have_written_is_refused() {
    let tree = Tree::with_programs();
    tree.run("patch --in-place root").expect(0);
    File::options().write(true).open(tree.path(RECORD)).unwrap().set_len((2 << 30) + 1).unwrap();
    for line in ["verify root", "patch --in-place root", "revert --in-place root"] {
        let ran = tree.run(line).expect(2);
        assert!(ran.stderr.contains("larger than any record"), "{ran}");
        tree.is_patched("bin/first", "bin/first");
    }
}

// --- killed, and calls that fail ---

/// Four files: a group of three names in two directories, two others, one of them set-user-ID.
fn small_tree() -> Tree {
    let tree = Tree::in_memory();
    tree.program("bin/one");
    tree.link("bin/one", "bin/two");
    tree.link("bin/one", "lib/three");
    tree.program("bin/set-user-id");
    tree.program("lib/other");
    fs::set_permissions(tree.path("bin/set-user-id"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    tree::set_xattr(&tree.path("lib/other"), "user.note", b"kept");
    tree.age();
    tree
}

/// The names in [`small_tree`], each with that of its content.
const FILES: [(&str, &str); 5] = [
    ("bin/one", "bin/one"),
    ("bin/two", "bin/one"),
    ("lib/three", "bin/one"),
    ("bin/set-user-id", "bin/set-user-id"),
    ("lib/other", "lib/other"),
];

/// Every file is the original or the patched one, with all that it had.
#[track_caller]
fn is_whole(tree: &Tree, original: &Listing, what: &str) {
    let now = tree.listing();
    for (path, name) in FILES {
        let bytes = fs::read(tree.path(path)).unwrap();
        assert!(bytes == program(name) || bytes == patched(name), "{what}: {path} is neither");
        for fact in ["mode", "owner", "xattrs", "size"] {
            let path = std::path::Path::new(path);
            assert_eq!(now[path][fact], original[path][fact], "{what}: {}: {fact}", path.display());
        }
    }
}

/// The tree is patched: nothing but the content and the times of the files differs, and the record is there.
#[track_caller]
fn is_patched(tree: &Tree, original: &Listing, what: &str) {
    let expected = [
        "bin/one: mtime sha256",
        "bin/set-user-id: mtime sha256",
        "bin/two: mtime sha256",
        "lib/other: mtime sha256",
        "lib/three: mtime sha256",
        "var: new",
        "var/lib: new",
        "var/lib/vsyspatch: new",
        "var/lib/vsyspatch/record.json: new",
    ];
    let found = changed(original, &tree.listing());
    assert_eq!(found, expected, "{what}");
    for (path, name) in FILES {
        tree.is_patched(path, name);
    }
    assert_eq!(tree.record().get("unfinished"), None, "{what}");
}

/// Whatever a run left in `tree` is completed by the next run of patch, and undone by one of revert.
fn can_be_finished_and_undone(tree: &Tree, original: &Listing, what: &str) {
    is_whole(tree, original, what);
    let second = tree.copy();

    let ran = tree.run("patch --in-place root");
    assert_eq!(ran.status, 0, "{what}: patch again: {ran}");
    let ran = tree.run("verify root");
    assert_eq!(ran.status, 0, "{what}: verify: {ran}");
    is_patched(tree, original, &format!("{what}: patch again"));

    let has_record = second.path(tree::RECORD).exists();
    let ran = second.run("revert --in-place root");
    if ran.status == 2 && !has_record && ran.stderr.contains("there is no record") {
        for (path, name) in FILES {
            second.is_original(path, name);
        }
    } else {
        assert_eq!(ran.status, 0, "{what}: revert: {ran}");
    }
    assert_same(original, &second.listing(), &format!("{what}: revert"));

    let ran = tree.run("revert --in-place root");
    assert_eq!(ran.status, 0, "{what}: patch again, and revert: {ran}");
    assert_same(original, &tree.listing(), &format!("{what}: patch again, and revert"));
}

/// Before the first record is there, and after the last one is gone, nothing can tell the next run when the root
/// was changed before something was made or removed in it. This is set right here; everywhere else it is the tool
/// that has to.
fn forget_what_nothing_tells(tree: &Tree, calls: &[String], number: usize) {
    let is_first = calls[..number] == ["openat", "pwrite64"];
    let is_last = calls[number - 1..] == ["fsync", "utimensat"] || number == calls.len();
    if is_first || is_last {
        tree::age_only(&tree.root());
    }
}

#[track_caller]
fn none_failed(failed: &[String], of: usize) {
    assert!(failed.is_empty(), "{} of {of} failed:\n{}", failed.len(), failed.join("\n\n"));
}

#[test]
fn a_patch_that_is_killed_at_any_call_that_writes_can_be_finished_and_undone() {
    let Some(injector) = Injector::new() else { return };
    let line = "patch --in-place root";
    let calls = injector.run(&small_tree(), line, 0, Fault::Kill).calls;
    assert!(calls.len() > 40, "{calls:?}");
    let failed = for_each_number(calls.len(), |number| {
        let tree = small_tree();
        let original = tree.listing();
        let hindered = injector.run(&tree, line, number, Fault::Kill);
        let what = format!("killed at call {number}, {}", calls[number - 1]);
        assert_eq!(hindered.ran.status, 137, "{what}: {}", hindered.ran);
        forget_what_nothing_tells(&tree, &calls, number);
        can_be_finished_and_undone(&tree, &original, &what);
    });
    none_failed(&failed, calls.len());
}

#[test]
fn a_revert_that_is_killed_at_any_call_that_writes_can_be_finished_and_undone() {
    let Some(injector) = Injector::new() else { return };
    let line = "revert --in-place root";
    let start = small_tree();
    let original = start.listing();
    start.run("patch --in-place root").expect(0);
    let calls = injector.run(&start.copy(), line, 0, Fault::Kill).calls;
    assert!(calls.len() > 40, "{calls:?}");
    let failed = for_each_number(calls.len(), |number| {
        let tree = start.copy();
        let hindered = injector.run(&tree, line, number, Fault::Kill);
        let what = format!("killed at call {number}, {}", calls[number - 1]);
        assert_eq!(hindered.ran.status, 137, "{what}: {}", hindered.ran);
        forget_what_nothing_tells(&tree, &calls, number);
        can_be_finished_and_undone(&tree, &original, &what);
    });
    none_failed(&failed, calls.len());
}

#[test]
fn a_second_patch_that_is_killed_at_any_call_that_writes_loses_nothing_of_the_first() {
    let Some(injector) = Injector::new() else { return };
    let start = small_tree();
    start.program("bin/added");
    start.link("bin/added", "opt/added");
    start.age();
    let original = start.listing();
    start.run("patch --in-place --exclude added root").expect(0);
    let line = "patch --in-place root";
    let calls = injector.run(&start.copy(), line, 0, Fault::Kill).calls;
    let failed = for_each_number(calls.len(), |number| {
        let tree = start.copy();
        injector.run(&tree, line, number, Fault::Kill).ran.expect(137);
        let what = format!("killed at call {number}, {}", calls[number - 1]);
        is_whole(&tree, &original, &what);
        let second = tree.copy();
        for command in ["patch --in-place root", "verify root", "revert --in-place root"] {
            let ran = tree.run(command);
            assert_eq!(ran.status, 0, "{what}: {ran}");
        }
        assert_same(&original, &tree.listing(), &format!("{what}: patch again, and revert"));
        let ran = second.run("revert --in-place root");
        assert_eq!(ran.status, 0, "{what}: {ran}");
        assert_same(&original, &second.listing(), &format!("{what}: revert"));
    });
    none_failed(&failed, calls.len());
}

/// Kills `line` at each call that writes, and lets each fail, in a tree in which the lines of `before` were run; the
/// record is elsewhere. Whatever is left is completed by patch, and undone by revert.
#[track_caller]
fn every_call_is_hindered_with_a_record_elsewhere(before: &[&str], line: &str) {
    let Some(injector) = Injector::new() else { return };
    let start = || {
        let tree = small_tree();
        let original = tree.listing();
        before.iter().for_each(|line| drop(tree.run(line).expect(0)));
        (tree, original)
    };
    let calls = injector.run(&start().0, line, 0, Fault::Kill).calls;
    assert!(calls.len() > 20, "{calls:?}");
    let ways = [(Fault::Kill, true), (Fault::Kill, false), (Fault::Io, false), (Fault::NoSpace, true)];
    let failed = for_each_number(calls.len() * ways.len(), |number| {
        let (number, (fault, is_finished)) = (number.div_ceil(ways.len()), ways[number % ways.len()]);
        let (tree, original) = start();
        let ran = injector.run(&tree, line, number, fault).ran;
        let what = format!("{fault:?} at call {number}, {}", calls[number - 1]);
        assert_eq!(ran.status, if fault == Fault::Kill { 137 } else { 2 }, "{what}: {ran}");
        is_whole(&tree, &original, &what);
        if is_finished {
            for command in ["patch --in-place --record record root", "verify --record record root"] {
                let ran = tree.run(command);
                assert_eq!(ran.status, 0, "{what}: {ran}");
            }
        }
        let ran = tree.run("revert --in-place --record record root");
        let has_none = !is_finished && ran.status == 2 && ran.stderr.contains("there is no record");
        assert!(ran.status == 0 || has_none, "{what}: {ran}");
        assert_same(&original, &tree.listing(), &format!("{what}: revert"));
        assert!(has_none || files::names(tree.outside()) == ["root"], "{what}: something is left");
    });
    none_failed(&failed, calls.len() * ways.len());
}

#[test]
fn a_patch_that_is_hindered_with_a_record_elsewhere_can_be_finished_and_undone() {
    every_call_is_hindered_with_a_record_elsewhere(&[], "patch --in-place --record record root");
}

#[test]
fn a_second_patch_that_is_hindered_with_a_record_elsewhere_can_be_finished_and_undone() {
    let first = ["patch --in-place --exclude other --exclude set-user-id --record record root"];
    every_call_is_hindered_with_a_record_elsewhere(&first, "patch --in-place --record record root");
}

#[test]
fn a_revert_that_is_hindered_with_a_record_elsewhere_can_be_finished_and_undone() {
    let first = ["patch --in-place --record record root"];
    every_call_is_hindered_with_a_record_elsewhere(&first, "revert --in-place --record record root");
}

#[test]
fn a_second_patch_with_any_failing_call_says_so_and_can_be_finished_and_undone() {
    let tree = small_tree();
    let original = tree.listing();
    tree.run("patch --in-place --exclude other --exclude set-user-id root").expect(0);
    every_call_fails_once("patch", &tree, &original);
}

fn every_call_fails_once(command: &str, start: &Tree, original: &Listing) {
    let Some(injector) = Injector::new() else { return };
    let line = format!("{command} --in-place root");
    let calls = injector.run(&start.copy(), &line, 0, Fault::Kill).calls;
    let failed = for_each_number(2 * calls.len(), |number| {
        let fault = if number % 2 == 0 { Fault::NoSpace } else { Fault::Io };
        let number = number.div_ceil(2);
        let tree = start.copy();
        let hindered = injector.run(&tree, &line, number, fault);
        let what = format!("{fault:?} at call {number}, {}", calls[number - 1]);
        assert_eq!(hindered.ran.status, 2, "{what}: {}", hindered.ran);
        assert!(hindered.ran.stderr.starts_with("vsyspatch: "), "{what}: {}", hindered.ran);
        if number == calls.len() {
            forget_what_nothing_tells(&tree, &calls, number);
        }
        can_be_finished_and_undone(&tree, original, &what);
    });
    none_failed(&failed, 2 * calls.len());
}

#[test]
fn a_patch_with_any_failing_call_says_so_and_can_be_finished_and_undone() {
    let tree = small_tree();
    every_call_fails_once("patch", &tree, &tree.listing());
}

#[test]
fn a_revert_with_any_failing_call_says_so_and_can_be_finished_and_undone() {
    let tree = small_tree();
    let original = tree.listing();
    tree.run("patch --in-place root").expect(0);
    every_call_fails_once("revert", &tree, &original);
}

#[test]
fn a_copy_that_fails_at_any_call_leaves_nothing() {
    let Some(injector) = Injector::new() else { return };
    let start = small_tree();
    symlink("one", start.path("bin/link")).unwrap();
    start.age();
    let line = "patch root -o new";
    let calls = injector.run(&start.copy(), line, 0, Fault::Kill).calls;
    let original = start.listing();
    let failed = for_each_number(calls.len(), |number| {
        let tree = start.copy();
        let ran = injector.run(&tree, line, number, Fault::NoSpace).ran;
        let what = format!("no space at call {number}, {}: {ran}", calls[number - 1]);
        assert_same(&original, &tree.listing(), &what);
        let names = files::names(tree.outside());
        if ran.status == 0 {
            assert_eq!(names, ["new", "root"], "{what}");
            let copy = listing(&tree.outside().join("new"));
            let differences = changed(&original, &copy);
            assert!(
                differences.iter().all(|line| line.ends_with("mtime sha256") || line.ends_with(": new")),
                "{what} {differences:?}"
            );
        } else {
            assert_eq!(ran.status, 2, "{what}");
            assert!(
                names == ["root"] || names == ["new", "root"] && ran.stdout.contains("patched"),
                "{names:?} {what}"
            );
        }
    });
    none_failed(&failed, calls.len());
}

#[test]
fn a_copy_that_is_killed_or_fails_at_any_call_leaves_the_source_alone() {
    let Some(injector) = Injector::new() else { return };
    let start = small_tree();
    let original = start.listing();
    let line = "patch root -o new --record record";
    let calls = injector.run(&start.copy(), line, 0, Fault::Kill).calls;
    let failed = for_each_number(2 * calls.len(), |number| {
        let fault = if number % 2 == 0 { Fault::Kill } else { Fault::Io };
        let number = number.div_ceil(2);
        let tree = start.copy();
        let ran = injector.run(&tree, line, number, fault).ran;
        let what = format!("{fault:?} at call {number}, {}: {ran}", calls[number - 1]);
        assert_same(&original, &tree.listing(), &what);
        // A copy that is there holds all files, and can be finished; one that is not can be made.
        let again = if tree.outside().join("new").exists() {
            tree.run("patch --in-place new --record record")
        } else {
            if fault == Fault::Kill {
                // The tree that it was of is gone.
                let _ = fs::remove_file(tree.outside().join("record"));
            }
            tree.run(line)
        };
        assert_eq!(again.status, 0, "{what}: {again}");
        let verified = tree.run("verify new --record record");
        assert_eq!(verified.status, 0, "{what}: {verified}");
        let ran = tree.run("revert --in-place new --record record");
        assert_eq!(ran.status, 0, "{what}: {ran}");
        assert_same(&original, &listing(&tree.outside().join("new")), &what);
    });
    none_failed(&failed, 2 * calls.len());
}

#[test]
fn a_copy_of_a_killed_run_is_told_by_the_next() {
    let Some(injector) = Injector::new() else { return };
    let tree = small_tree();
    let line = "patch root -o new";
    let calls = injector.run(&tree.copy(), line, 0, Fault::Kill).calls;
    let renamed = calls.iter().position(|call| call == "renameat2").unwrap() + 1;
    injector.run(&tree, line, renamed, Fault::Kill).ran.expect(137);
    let left = files::names(tree.outside()).into_iter().find(|name| name.starts_with(".vsyspatch-")).unwrap();
    // One that a run is at work on, and what only looks like one.
    let at_work = tree.outside().join(".vsyspatch-0123456789abcdef");
    fs::create_dir(&at_work).unwrap();
    fs::create_dir(tree.outside().join(".vsyspatch-mine")).unwrap();
    let held = File::open(&at_work).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let ran = tree.run(line).expect(0);
    assert_eq!(ran.stderr.matches("remove it").count(), 1, "{ran}");
    assert!(ran.stderr.contains(&format!("{left} is the copy of a run that was killed: remove it")), "{ran}");
    tree.run("verify new").expect(0);
}

#[test]
fn a_copy_of_a_deep_tree_that_fails_leaves_nothing() {
    let tree = Tree::in_memory();
    deep(&tree, 3000, |directory| many_files(directory, 1));
    tree.write(RECORD, b"{}", 0o644);
    let failed = with_few_descriptors(&tree, "patch root -o new").expect(2);
    assert!(failed.stderr.contains("record new/var/lib"), "{failed}");
    assert_eq!(files::names(tree.outside()), ["root"]);
}

// --- kernels and file systems ---

/// The number of the system call openat2.
const OPENAT2: u32 = 437;

/// Linux before 5.6 has no openat2, and filters of old container engines deny it.
#[test]
fn without_openat2_trees_are_worked_on_and_no_link_is_followed() {
    for errno in [rustix::io::Errno::NOSYS, rustix::io::Errno::PERM] {
        let hindered = move || {
            files::install(&format!("{OPENAT2} {}", errno.raw_os_error()));
            let opened =
                rustix::fs::openat2(CWD, ".", OFlags::PATH, Mode::empty(), rustix::fs::ResolveFlags::empty());
            assert_eq!(opened.unwrap_err(), errno, "the filter is at work");
            let tree = motley_tree();
            let before = tree.listing();
            tree.run("scan root").expect(1);
            tree.run("patch --in-place root").expect(0);
            tree.run("verify root").expect(0);
            tree.run("patch root -o copy").expect(0);
            tree.run("verify copy").expect(0);
            tree.run("revert --in-place root").expect(0);
            assert_same(&before, &tree.listing(), "revert");
            let deep_tree = Tree::in_memory();
            deep(&deep_tree, 1500, |_| {});
            can_be_worked_on_with_few_descriptors(&deep_tree);

            let (tree, victim) = tree_with_victim();
            symlink(tree.outside().join("victim"), tree.path("var")).unwrap();
            tree.age();
            let before = tree.listing();
            for command in ["patch --in-place root", "revert --in-place root", "verify root"] {
                tree.run(command).expect(2);
                assert_same(&before, &tree.listing(), command);
            }
            victim_is_untouched(&tree, &victim, "var is a link");
        };
        std::thread::spawn(hindered).join().expect("it holds");
    }
}

/// Something that is mounted, until this is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// Nothing where that cannot be, which is said aloud.
    fn new(words: &[&str], at: &Path) -> Option<Self> {
        if !need_root() {
            return None;
        }
        let mounted = Ran::of(Command::new("mount").args(words).arg(at));
        if mounted.status != 0 {
            skip(&format!("cannot mount here: {}", mounted.stderr.trim()));
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Ran::of(Command::new("umount").arg(&self.0));
    }
}

/// Patched files of a lower layer, and only these, come to the upper one, with all that they had.
#[test]
fn files_of_a_lower_layer_are_patched_and_brought_back() {
    let tree = small_tree();
    set_xattr(&tree.path("lib/other"), "security.capability", &CAPABILITY);
    tree.age();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| tree.outside().join(name));
    fs::rename(tree.root(), &lower).unwrap();
    [&tree.root(), &upper, &work].into_iter().for_each(|path| fs::create_dir(path).unwrap());
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let Some(mounted) = Mounted::new(&["-t", "overlay", "-o", &options, "overlay"], &tree.root()) else {
        return;
    };
    let (before, of_lower) = (tree.listing(), listing(&lower));
    for words in ["", " --record record"] {
        tree.run(&format!("patch --in-place root{words}")).expect(0);
        tree.run(&format!("verify root{words}")).expect(0);
        for (path, name) in FILES {
            tree.is_patched(path, name);
        }
        let (mut now, record) = (tree.listing(), Path::new("var"));
        now.retain(|path, _| !path.starts_with(record));
        let expected = FILES.map(|(path, _)| format!("{path}: mtime sha256"));
        let mut expected: Vec<String> = expected.into();
        expected.sort();
        assert_eq!(changed(&before, &now), expected, "{words}");
        let names = listing(&upper).into_keys().filter(|path| !path.starts_with(record));
        let files: Vec<_> = names.filter(|path| upper.join(path).is_file()).collect();
        assert_eq!(files.len(), FILES.len(), "{files:?}");
        tree.run(&format!("revert --in-place root{words}")).expect(0);
        assert_same(&before, &tree.listing(), "revert");
        assert_same(&of_lower, &listing(&lower), "the lower layer");
    }
    drop(mounted);
}

#[test]
fn a_tree_that_cannot_be_written_to_is_said_to_be_so() {
    let tree = small_tree();
    let before = tree.listing();
    let refused = |ran: &Ran, said: &str| {
        assert_eq!(ran.status, 2, "{ran}");
        assert!(ran.stderr.contains(said) && ran.stderr.contains("-o"), "{ran}");
        assert_same(&before, &tree.listing(), said);
    };
    if need_root() {
        refused(&Ran::of(&mut tree.as_nobody("patch --in-place root")), "no permission there");
    }
    let root = tree.root();
    let Some(_bound) = Mounted::new(&["--bind", root.to_str().unwrap()], &root) else { return };
    Ran::of(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&root)).expect(0);
    refused(&tree.run("patch --in-place root"), "read-only");
    let with_record = tree.run("patch --in-place --record record root").expect(2);
    assert!(with_record.stderr.contains("read-only"), "{with_record}");
    assert_same(&before, &tree.listing(), "a record elsewhere");
    tree.run("scan root").expect(1);
    let _ = fs::remove_file(tree.outside().join("record"));
    tree.run("patch root -o new --record record").expect(0);
    tree.run("verify new --record record").expect(0);
}

/// The program that patches has calls itself, and is in the tree.
#[test]
fn the_program_replaces_itself_while_it_runs() {
    use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
    let mut own = fs::read(env!("CARGO_BIN_EXE_vsyspatch")).unwrap();
    let parsed = object::File::parse(&own[..]).unwrap();
    // A function that no command for trees calls is to begin with a call of the page.
    let is_demo = |name: &str| name.contains("vsyspatch4demo3run");
    let symbol = parsed.symbols().find(|symbol| symbol.name().is_ok_and(is_demo));
    let Some(at) = symbol.map(|symbol| symbol.address()) else {
        return skip("the program has no symbols");
    };
    let holds = |from: u64, size: u64| (from..from + size).contains(&at);
    let segment = parsed.segments().find(|segment| holds(segment.address(), segment.size()));
    let segment = segment.expect("the segment of the function");
    let offset = (at - segment.address() + segment.file_range().0) as usize;
    let code = [&files::program()[CONSTANT..CONSTANT + 7], &[0xff, 0xd0, 0xc3]].concat();
    own[offset..offset + code.len()].copy_from_slice(&code);
    let tree = Tree::with_programs();
    tree.write("bin/vsyspatch", &own, 0o755);
    tree.age();
    let before = tree.listing();
    let run = |words: &[&str]| Ran::of(Command::new(tree.path("bin/vsyspatch")).args(words).arg(tree.root()));
    let patched = run(&["patch", "--in-place"]).expect(0);
    assert!(patched.stdout.contains("3 patched"), "{patched}");
    assert!(fs::read(tree.path("bin/vsyspatch")).unwrap() != own);
    run(&["verify"]).expect(0);
    run(&["revert", "--in-place"]).expect(0);
    assert_same(&before, &tree.listing(), "revert");
}

// --- copies ---

#[test]
fn a_patched_copy_has_everything_and_shares_nothing() {
    let tree = motley_tree();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(tree.path("lib/second"), Some(1234), Some(2345)).unwrap();
        std::os::unix::fs::lchown(tree.path("bin/link"), Some(1234), Some(2345)).unwrap();
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, tree.path("null"), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
    }
    set_xattr(&tree.path("bin/clean"), "user.note", b"kept");
    set_xattr(&tree.path("empty"), "user.note", b"kept");
    tree.age();
    let before = tree.listing();
    let ran = tree.run("patch root -o new").expect(0);
    assert!(ran.stdout.contains("new/bin/first = new/usr/bin/second name: "), "{ran}");
    assert!(ran.stdout.contains("record: new/var/lib/vsyspatch/record.json"), "{ran}");
    assert_same(&before, &tree.listing(), "the source");
    let new = tree.outside().join("new");
    let copied = listing(&new);
    let differing = changed(&before, &copied);
    assert_eq!(differing.iter().filter(|line| line.ends_with(": mtime sha256")).count(), 4, "{differing:?}");
    assert_eq!(differing.iter().filter(|line| line.ends_with(": new")).count(), 4, "{differing:?}");
    assert_eq!(differing.len(), 8, "{differing:?}");
    let inodes = |root: &Path, listing: &Listing| -> BTreeSet<(u64, u64)> {
        let of = |path: &Path| fs::symlink_metadata(root.join(path)).unwrap();
        listing.keys().map(|path| (of(path).dev(), of(path).ino())).collect()
    };
    assert!(inodes(&tree.root(), &before).is_disjoint(&inodes(&new, &copied)));
    tree.run("verify new").expect(0);

    tree.run("revert new -o newer").expect(0);
    assert_same(&before, &listing(&tree.outside().join("newer")), "a reverted copy");
    assert_same(&copied, &listing(&new), "the source of the reverted copy");
    tree.run("revert --in-place new").expect(0);
    assert_same(&before, &listing(&new), "the copy, reverted");
    assert_eq!(files::names(tree.outside()), ["new", "newer", "root"]);
}

#[test]
fn a_copy_goes_nowhere_where_something_is_and_not_into_itself() {
    let tree = Tree::with_programs();
    fs::create_dir(tree.outside().join("directory")).unwrap();
    fs::write(tree.outside().join("file"), "precious").unwrap();
    symlink("nowhere", tree.outside().join("dangling")).unwrap();
    symlink("root", tree.outside().join("link")).unwrap();
    let before = listing(tree.outside());
    for (output, said) in [
        ("directory", "is there already"),
        ("file", "is there already"),
        ("dangling", "is there already"),
        ("root", "is there already"),
        ("root/new", "in the tree itself"),
        ("root/bin/new", "in the tree itself"),
        ("link/bin/new", "in the tree itself"),
        ("directory/../root/new", "in the tree itself"),
        ("missing/new", "No such file"),
    ] {
        for command in ["patch", "revert"] {
            let ran = tree.run(&format!("{command} root -o {output}")).expect(2);
            assert!(ran.stderr.contains(said), "{output}: {ran}");
            assert_same(&before, &listing(tree.outside()), output);
        }
    }
}

#[test]
fn the_files_of_the_kernel_are_never_looked_at() {
    let tree = Tree::with_programs();
    for name in ["proc", "sys", "dev", "usr/dev"] {
        tree.program(&format!("{name}/program"));
    }
    let ran = tree.run("patch --in-place root").expect(0);
    assert!(ran.stdout.contains("not entered: dev, proc, sys\n"), "{ran}");
    for name in ["proc/program", "sys/program", "dev/program"] {
        tree.is_original(name, name);
    }
    tree.is_patched("usr/dev/program", "usr/dev/program");
    tree.run("verify root").expect(0);
}

#[test]
fn other_file_systems_are_entered_unless_they_are_not_wanted() {
    if !need_root() {
        return;
    }
    let tree = Tree::with_programs();
    fs::create_dir(tree.path("mnt")).unwrap();
    fs::create_dir(tree.path("kernel")).unwrap();
    fs::write(tree.outside().join("mounted"), program("mounted")).unwrap();
    let in_namespace = |line: &str| {
        let mounts = "mount -t tmpfs none root/mnt && cp mounted root/mnt && mount -t proc none root/kernel || exit 77; ";
        let script = format!("{mounts} exec \"$0\" {line}");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_vsyspatch")]);
        Ran::of(command.current_dir(tree.outside()))
    };
    let all = in_namespace("scan root");
    if all.status == 77 || all.stderr.contains("unshare") {
        return skip("nothing can be mounted here");
    }
    assert!(all.stdout.contains("root/mnt/mounted"), "{all}");
    assert!(all.stdout.contains("not entered: kernel\n"), "{all}");
    let one = in_namespace("scan --one-file-system root").expect(1);
    assert!(!one.stdout.contains("root/mnt/mounted"), "{one}");
    assert!(one.stdout.contains("not entered: kernel, mnt\n"), "{one}");
    in_namespace("patch root -o new --one-file-system").expect(0);
    assert_eq!(files::names(&tree.outside().join("new/mnt")), [] as [&str; 0]);
    in_namespace("patch root -o newer").expect(0);
    assert_eq!(files::names(&tree.outside().join("newer/mnt")), ["mounted"]);
    assert_eq!(files::names(&tree.outside().join("newer/kernel")), [] as [&str; 0]);
}

// --- again, and what changed since ---

#[test]
fn a_second_patch_changes_nothing() {
    let tree = motley_tree();
    tree.run("patch --in-place root").expect(0);
    let mut before = tree.listing();
    let again = tree.run("patch --in-place root").expect(0);
    assert_eq!(again.stdout.matches("patched already: nothing changed").count(), 3, "{again}");
    before.remove(Path::new(RECORD));
    let mut after = tree.listing();
    after.remove(Path::new(RECORD));
    assert_same(&before, &after, "patch again");
}

#[test]
fn a_file_that_was_replaced_since_is_patched_anew() {
    let tree = Tree::with_programs();
    tree.run("patch --in-place root").expect(0);
    fs::write(tree.path("bin/first"), program("a newer version")).unwrap();
    tree.program("bin/new");
    let ran = tree.run("patch --in-place root").expect(0);
    assert!(
        ran.stderr.contains("root/bin/first: was replaced since it was patched; its record is dropped"),
        "{ran}"
    );
    assert!(ran.stdout.contains("2 patched") && ran.stdout.contains("patched already"), "{ran}");
    tree.is_patched("bin/first", "a newer version");
    tree.is_patched("bin/new", "bin/new");
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    tree.is_original("bin/first", "a newer version");
    tree.is_original("lib/second", "lib/second");
    assert!(!tree.path("var").exists());
}

#[test]
fn a_file_that_was_removed_or_is_a_link_now_is_dropped_from_the_record() {
    let tree = Tree::with_programs();
    tree.program("bin/third");
    tree.run("patch --in-place root").expect(0);
    fs::remove_file(tree.path("bin/first")).unwrap();
    fs::remove_file(tree.path("bin/third")).unwrap();
    symlink("../lib/second", tree.path("bin/third")).unwrap();
    let reverted = tree.copy();
    let ran = tree.run("patch --in-place root").expect(0);
    for name in ["first", "third"] {
        assert!(ran.stderr.contains(&format!("warning: root/bin/{name}: ")), "{ran}");
    }
    assert_eq!(tree.record()["files"].as_array().unwrap().len(), 1);
    tree.run("verify root").expect(0);

    let ran = reverted.run("revert --in-place root").expect(2);
    for name in ["first", "third"] {
        assert!(ran.stderr.contains(&format!("vsyspatch: root/bin/{name}: ")), "{ran}");
    }
    reverted.is_original("lib/second", "lib/second");
}

/// One name of a group was replaced, as an upgrade of one of several packages does: the others can go back.
#[test]
fn names_of_a_group_that_stayed_keep_their_way_back() {
    let tree = Tree::new();
    tree.program("bin/one");
    tree.link("bin/one", "bin/two");
    tree.link("bin/one", "lib/three");
    tree.run("patch --in-place root").expect(0);
    fs::remove_file(tree.path("bin/one")).unwrap();
    fs::write(tree.path("bin/one"), program("a newer version")).unwrap();
    let ran = tree.run("patch --in-place root").expect(0);
    assert!(ran.stderr.contains("root/bin/one: was replaced since"), "{ran}");
    tree.is_patched("bin/one", "a newer version");
    tree.run("verify root").expect(0);
    tree.run("revert --in-place root").expect(0);
    tree.is_original("bin/one", "a newer version");
    tree.is_original("bin/two", "bin/one");
    tree.is_original("lib/three", "bin/one");
    assert_eq!(fs::metadata(tree.path("lib/three")).unwrap().nlink(), 2);
}

/// A name that became something else, or was removed, takes nothing from the others of its group.
#[test]
fn names_of_a_group_that_are_lost_are_dropped_and_the_others_keep_their_way_back() {
    let changes: [(&str, Change<'_>); 4] = [
        ("is gone", &|tree| fs::remove_file(tree.path("bin/one")).unwrap()),
        ("is no regular file any more", &|tree| {
            fs::remove_file(tree.path("bin/one")).unwrap();
            symlink("two", tree.path("bin/one")).unwrap();
        }),
        ("is no regular file any more", &|tree| {
            fs::remove_file(tree.path("bin/one")).unwrap();
            fs::create_dir(tree.path("bin/one")).unwrap();
        }),
        ("on the way there", &|tree| {
            fs::create_dir(tree.path("usr")).unwrap();
            fs::rename(tree.path("bin"), tree.path("usr/bin")).unwrap();
            symlink("usr/bin", tree.path("bin")).unwrap();
            fs::remove_file(tree.path("usr/bin/one")).unwrap();
        }),
    ];
    for (why, change) in changes {
        let tree = Tree::new();
        tree.program("bin/one");
        tree.link("bin/one", "lib/two");
        tree.link("bin/one", "lib/three");
        tree.run("patch --in-place root").expect(0);
        change(&tree);
        let verified = tree.run("verify --json root").expect(1).report();
        assert_eq!(slugs(&verified), ["name-missing"], "{why}");
        let reverted = tree.copy();
        let ran = tree.run("patch --in-place root").expect(0);
        assert!(ran.stderr.contains("warning: root/bin/one: ") && ran.stderr.contains(why), "{why}: {ran}");
        assert_eq!(tree.record()["files"][0]["paths"], json!(["lib/three", "lib/two"]), "{why}");
        tree.run("verify root").expect(0);
        tree.run("patch --in-place root").expect(0);
        for tree in [tree, reverted] {
            tree.run("revert --in-place root").expect(0);
            tree.is_original("lib/two", "bin/one");
            tree.is_original("lib/three", "bin/one");
            assert_eq!(fs::metadata(tree.path("lib/three")).unwrap().nlink(), 2, "{why}");
        }
    }
}

/// As a merge of `/lib` into `/usr/lib` does it.
#[test]
fn a_directory_that_is_a_link_now_or_a_file_ends_no_run() {
    let changes: [Change<'_>; 2] = [
        &|tree| {
            fs::rename(tree.path("lib"), tree.path("usr/lib")).unwrap();
            symlink("usr/lib", tree.path("lib")).unwrap();
        },
        &|tree| {
            fs::remove_dir_all(tree.path("lib")).unwrap();
            fs::write(tree.path("lib"), b"a file").unwrap();
        },
    ];
    for change in changes {
        let tree = Tree::with_programs();
        fs::create_dir(tree.path("usr")).unwrap();
        tree.run("patch --in-place root").expect(0);
        change(&tree);
        let verified = tree.run("verify --json root").expect(1).report();
        assert_eq!(slugs(&verified), ["file-missing"]);
        // The way back is not lost with a try.
        let reverted = tree.copy();
        let ran = reverted.run("revert --in-place root").expect(2);
        assert!(ran.stderr.contains("root/lib/second: is not where it was"), "{ran}");
        reverted.is_original("bin/first", "bin/first");
        assert_eq!(reverted.record()["files"][0]["paths"], json!(["lib/second"]));

        let ran = tree.run("patch --in-place root").expect(0);
        assert!(ran.stderr.contains("warning: root/lib/second: is not where it was"), "{ran}");
        tree.run("verify root").expect(0);
        assert!(!tree.run("patch --in-place root").expect(0).stderr.contains("warning"));
        tree.run("revert --in-place root").expect(0);
        tree.is_original("bin/first", "bin/first");
    }
}

/// The slugs of all findings of a tree, and of its files.
fn slugs(document: &Value) -> Vec<String> {
    let target = &document["targets"][0];
    let of_files = target["files"].as_array().unwrap().iter().map(|file| &file["findings"]);
    let lists =
        std::iter::once(&target["tree"]["findings"]).chain(of_files).filter_map(Value::as_array).flatten();
    lists.map(|finding| finding["slug"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn verify_finds_what_changed_since() {
    let start = Tree::new();
    start.program("bin/one");
    start.link("bin/one", "lib/two");
    start.program("lib/other");
    start.run("patch --in-place root").expect(0);
    let break_link = |tree: &Tree| {
        let bytes = fs::read(tree.path("lib/two")).unwrap();
        fs::remove_file(tree.path("lib/two")).unwrap();
        tree.write("lib/two", &bytes, 0o755);
    };
    let changes: [(&[&str], Change<'_>); 11] = [
        (&[], &|_| {}),
        (&["mode-changed"], &|tree| {
            fs::set_permissions(tree.path("lib/other"), Permissions::from_mode(0o700)).unwrap();
        }),
        (&["xattrs-changed"], &|tree| assert!(set_xattr(&tree.path("lib/other"), "user.note", b"new"))),
        (&["link-group-broken"], &break_link),
        (&["name-missing"], &|tree| fs::remove_file(tree.path("lib/two")).unwrap()),
        (&["file-missing"], &|tree| fs::remove_file(tree.path("lib/other")).unwrap()),
        (&["file-missing"], &|tree| {
            fs::remove_file(tree.path("lib/other")).unwrap();
            symlink("two", tree.path("lib/other")).unwrap();
        }),
        (&["not-patched"], &|tree| tree.program("lib/other")),
        (&["size-changed"], &|tree| tree.write("lib/other", &files::clean_program(), 0o755)),
        (&["checksum-patched", "unplanned-change"], &|tree| {
            let mut bytes = fs::read(tree.path("lib/other")).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(tree.path("lib/other"), bytes).unwrap();
        }),
        (&["unfinished"], &|tree| {
            tree.change_record(|record| {
            let run = json!({"direction": "patch", "temporary": ".vsyspatch-0123456789abcdef", "directories": []});
            record["unfinished"] = run;
        })
        }),
    ];
    for (expected, change) in changes {
        let tree = start.copy();
        change(&tree);
        let status = i32::from(!expected.is_empty());
        let document = tree.run("verify --json root").expect(status).report();
        assert_eq!(slugs(&document), expected);
        let text = tree.run("verify root").expect(status).stdout;
        assert!(expected.iter().all(|slug| text.contains(slug)), "{expected:?}: {text}");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(start.path("lib/other"), Some(1234), None).unwrap();
        assert_eq!(slugs(&start.run("verify --json root").expect(1).report()), ["owner-changed"]);
    }
}

#[test]
fn a_recorded_file_that_cannot_be_read_is_a_failure_and_no_finding() {
    if !need_root() {
        return;
    }
    let tree = Tree::with_programs();
    tree.run("patch --in-place root").expect(0);
    let mut command = tree.as_nobody("verify root");
    fs::set_permissions(tree.path("bin/first"), Permissions::from_mode(0o700)).unwrap();
    let verified = Ran::of(&mut command).expect(2);
    assert!(verified.stderr.contains("root/bin/first: cannot open: Permission denied"), "{verified}");
    assert!(!verified.stdout.contains("file-missing"), "{verified}");
    assert!(verified.stdout.contains("root/lib/second"), "{verified}");
}

#[test]
fn a_killed_run_is_told_by_scan_and_verify_and_finished_by_the_next() {
    let Some(injector) = Injector::new() else { return };
    for command in ["patch", "revert"] {
        let tree = small_tree();
        if command == "revert" {
            tree.run("patch --in-place root").expect(0);
        }
        let line = format!("{command} --in-place root");
        let calls = injector.run(&tree.copy(), &line, 0, Fault::Kill).calls;
        let linked = calls.iter().position(|call| call == "linkat").unwrap() + 1;
        injector.run(&tree, &line, linked + 3, Fault::Kill).ran.expect(137);
        let scanned = tree.run("scan root").expect(1);
        let said = format!("found a run of {command} that was killed");
        assert!(scanned.stdout.contains(&said), "{scanned}");
        let document = tree.run("scan --json root").expect(1).report();
        assert_eq!(document["targets"][0]["tree"]["unfinished"], command);
        let verified = tree.run("verify --json root").expect(1).report();
        let slugs = slugs(&verified);
        assert!(
            slugs.contains(&"unfinished".to_owned()) && slugs.contains(&"link-group-broken".to_owned()),
            "{slugs:?}"
        );
        let before = tree.listing();
        let planned = tree.run("patch --dry-run root").expect(0);
        assert!(planned.stdout.contains(&said), "{planned}");
        assert_same(&before, &tree.listing(), "patch --dry-run");
        let finished = tree.run("patch --in-place --json root").expect(0).report();
        assert_eq!(finished["targets"][0]["tree"]["unfinished"], command);
        tree.run("verify root").expect(0);
    }
}

// --- what is said ---

/// `text` with the time that the run took left open.
fn without_seconds(text: &str) -> String {
    let is_time = |part: &str| part.strip_suffix(" s").is_some_and(|number| number.parse::<f64>().is_ok());
    let line = |line: &str| {
        let parts: Vec<&str> =
            line.split("; ").map(|part| if is_time(part) { "N s" } else { part }).collect();
        parts.join("; ") + "\n"
    };
    text.lines().map(line).collect()
}

#[test]
fn the_documents_of_a_tree_follow_the_schema() {
    let tree = motley_tree();
    tree.program("bin/other name elsewhere");
    fs::hard_link(tree.path("bin/other name elsewhere"), tree.outside().join("elsewhere")).unwrap();
    tree.write("bin/cut", &program("cut")[..80], 0o755);
    tree.write(Path::new(OsStr::from_bytes(b"bin/\xff")), &program("not UTF-8"), 0o755);
    let commands = [
        ("scan root", 2),
        ("scan --all root", 2),
        ("scan --exclude bin/cut root", 1),
        ("patch --dry-run root", 2),
        ("patch root -o new", 2),
        ("patch --in-place root", 2),
        ("patch --in-place --exclude bin/cut root --break-links", 0),
        ("patch --in-place --exclude bin/cut root", 0),
        ("verify root", 2),
        ("verify --exclude bin/cut root", 0),
        ("revert --dry-run root", 0),
        ("revert --in-place root", 0),
        ("revert --in-place root", 2),
        ("verify root", 2),
    ];
    for (line, status) in commands {
        let document = tree.run(&format!("{line} --json")).expect(status).report();
        assert_eq!(document["status"], status, "{line}");
    }
}

#[test]
fn what_is_said_of_a_tree() {
    let tree = Tree::new();
    tree.program("bin/first");
    tree.link("bin/first", "usr/bin/second");
    tree.program("lib/third");
    tree.write("bin/clean", &files::clean_program(), 0o755);
    tree.write("etc/passwd", b"no program", 0o644);
    fs::create_dir(tree.path("proc")).unwrap();
    let mut all = String::new();
    let mut say = |line: &str, status: i32| {
        let ran = tree.run(line).expect(status);
        all +=
            &format!("$ vsyspatch {line}\n{}{}status {status}\n\n", without_seconds(&ran.stdout), ran.stderr);
    };
    say("scan root", 1);
    say("patch --in-place root", 0);
    say("patch --in-place root", 0);
    say("verify root", 0);
    fs::set_permissions(tree.path("lib/third"), Permissions::from_mode(0o4755)).unwrap();
    fs::remove_file(tree.path("usr/bin/second")).unwrap();
    say("verify root", 1);
    fs::write(tree.path("lib/third"), program("newer")).unwrap();
    say("revert --dry-run root", 2);
    say("patch --in-place root", 0);
    say("revert --in-place root", 0);
    say("verify root", 2);
    insta::assert_snapshot!(all);
}

//! Directory trees: every file of one is patched, proven and brought back, whatever is in the tree, whoever
//! changes it meanwhile, and wherever the run is killed.

mod common;
mod files;
mod trees;

use std::fs;

use trees::{
    Digest, Fault, Injector, Tree, assert_same, changed, for_each_number, leftovers, patched, program,
};

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
    trees::set_xattr(&tree.path("lib/other"), "user.note", b"kept");
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
fn is_whole(tree: &Tree, original: &Digest, what: &str) {
    let now = tree.digest();
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
fn is_patched(tree: &Tree, original: &Digest, what: &str) {
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
    let found = changed(original, &tree.digest());
    assert_eq!(found, expected, "{what}");
    for (path, name) in FILES {
        tree.is_patched(path, name);
    }
    assert_eq!(tree.record().get("unfinished"), None, "{what}");
}

/// Whatever a run left in `tree` is completed by the next run of patch, and undone by one of revert.
fn can_be_finished_and_undone(tree: &Tree, original: &Digest, what: &str) {
    is_whole(tree, original, what);
    let second = tree.copy();

    let ran = tree.run("patch --in-place root");
    assert_eq!(ran.status, Some(0), "{what}: patch again: {ran:?}");
    let ran = tree.run("verify root");
    assert_eq!(ran.status, Some(0), "{what}: verify: {ran:?}");
    is_patched(tree, original, &format!("{what}: patch again"));

    let has_record = second.path(trees::RECORD).exists();
    let ran = second.run("revert --in-place root");
    if ran.status == Some(2) && !has_record && ran.stderr.contains("there is no record") {
        for (path, name) in FILES {
            second.is_original(path, name);
        }
    } else {
        assert_eq!(ran.status, Some(0), "{what}: revert: {ran:?}");
    }
    assert_same(original, &second.digest(), &format!("{what}: revert"));

    let ran = tree.run("revert --in-place root");
    assert_eq!(ran.status, Some(0), "{what}: patch again, and revert: {ran:?}");
    assert_same(original, &tree.digest(), &format!("{what}: patch again, and revert"));
}

/// Before the first record is there, and after the last one is gone, nothing can tell the next run when the root
/// was changed before a directory for the record was made or removed in it. This is set right here; everywhere
/// else it is the tool that has to.
fn forget_what_nothing_tells(tree: &Tree, calls: &[String], number: usize) {
    let is_first = calls[0] == "mkdirat" && !calls[..number - 1].iter().any(|call| call == "utimensat");
    let is_last = number == calls.len() && calls[number - 1] == "utimensat";
    if is_first || is_last {
        trees::age_only(&tree.root());
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
        let original = tree.digest();
        let hindered = injector.run(&tree, line, number, Fault::Kill);
        let what = format!("killed at call {number}, {}", calls[number - 1]);
        assert_eq!(hindered.ran.status, Some(137), "{what}: {:?}", hindered.ran);
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
    let original = start.digest();
    start.run("patch --in-place root").ends_with(0);
    let calls = injector.run(&start.copy(), line, 0, Fault::Kill).calls;
    assert!(calls.len() > 40, "{calls:?}");
    let failed = for_each_number(calls.len(), |number| {
        let tree = start.copy();
        let hindered = injector.run(&tree, line, number, Fault::Kill);
        let what = format!("killed at call {number}, {}", calls[number - 1]);
        assert_eq!(hindered.ran.status, Some(137), "{what}: {:?}", hindered.ran);
        forget_what_nothing_tells(&tree, &calls, number);
        can_be_finished_and_undone(&tree, &original, &what);
    });
    none_failed(&failed, calls.len());
}

fn every_call_fails_once(command: &str, start: &Tree, original: &Digest) {
    let Some(injector) = Injector::new() else { return };
    let line = format!("{command} --in-place root");
    let calls = injector.run(&start.copy(), &line, 0, Fault::Kill).calls;
    let failed = for_each_number(2 * calls.len(), |number| {
        let fault = if number % 2 == 0 { Fault::NoSpace } else { Fault::Io };
        let number = number.div_ceil(2);
        let tree = start.copy();
        let hindered = injector.run(&tree, &line, number, fault);
        let what = format!("{fault:?} at call {number}, {}", calls[number - 1]);
        assert_eq!(hindered.ran.status, Some(2), "{what}: {:?}", hindered.ran);
        assert!(hindered.ran.stderr.starts_with("vsyspatch: "), "{what}: {:?}", hindered.ran);
        forget_what_nothing_tells(&tree, &calls, number);
        can_be_finished_and_undone(&tree, original, &what);
    });
    none_failed(&failed, 2 * calls.len());
}

#[test]
fn a_patch_with_any_failing_call_says_so_and_can_be_finished_and_undone() {
    let tree = small_tree();
    every_call_fails_once("patch", &tree, &tree.digest());
}

#[test]
fn a_revert_with_any_failing_call_says_so_and_can_be_finished_and_undone() {
    let tree = small_tree();
    let original = tree.digest();
    tree.run("patch --in-place root").ends_with(0);
    every_call_fails_once("revert", &tree, &original);
}

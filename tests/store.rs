//! Writing: whole files or nothing, with the attributes of the original, under every hindrance that can
//! be made here.

mod files;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use files::{Place, as_nobody, child_command, names, need_root, skip, with_fault};
use rustix::fs::XattrFlags;
use vsyspatch::digest::Sha256;
use vsyspatch::error::{Error, ErrorKind};
use vsyspatch::outcome::{Action, Unchanged};
use vsyspatch::plan::Via;
use vsyspatch::record::Record;
use vsyspatch::session::{self, Destination, Keep};
use vsyspatch::store::{self, Source};

/// Not a test: what the child processes run.
#[test]
fn child() {
    files::child();
}

#[track_caller]
fn refused(result: vsyspatch::error::Result<impl std::fmt::Debug>, kind: ErrorKind, words: &[&str]) -> Error {
    let error = result.expect_err("this must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    error
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).is_ok()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    let size = rustix::fs::getxattr(path, name, &mut buffer[..]).ok()?;
    Some(buffer[..size].to_vec())
}

// --- the plain way ---

#[test]
fn patch_and_revert_in_place_leave_no_trace() {
    let place = Place::new();
    place.patch_in_place().unwrap();
    place.has_patched();
    assert_eq!(place.names(), ["program", "program.vsyspatch.json"]);
    session::revert(&place.program(), &Destination::InPlace, None, Keep::default()).unwrap();
    place.has_original();
    assert_eq!(place.names(), ["program"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    session::patch(&place.program(), Via::Syscall, &Destination::DryRun, None, Keep::default()).unwrap();
    place.has_original();
    assert_eq!(place.names(), ["program"]);
}

#[test]
fn a_patched_file_is_not_patched_again() {
    let place = Place::new();
    place.patch_in_place().unwrap();
    let before = fs::metadata(place.program()).unwrap();
    let again = place.patch_in_place().unwrap();
    assert_eq!(again.action, Action::Unchanged(Unchanged::AlreadyPatched { copy: None }));
    let after = fs::metadata(place.program()).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
}

#[test]
fn a_patched_file_without_its_record_cannot_be_verified_or_reverted() {
    let place = Place::new();
    place.patch_in_place().unwrap();
    fs::remove_file(place.record()).unwrap();
    refused(session::verify(&place.program(), None), ErrorKind::Record, &["--record"]);
    let reverted = session::revert(&place.program(), &Destination::InPlace, None, Keep::default());
    refused(reverted, ErrorKind::Record, &["--record"]);
    place.has_patched();
}

#[test]
fn a_clean_file_is_copied_only_where_a_copy_was_asked_for() {
    let place = Place::new();
    let clean = files::clean_program();
    fs::write(place.program(), &clean).unwrap();
    fs::set_permissions(place.program(), Permissions::from_mode(0o750)).unwrap();
    place.patch_in_place().unwrap();
    assert_eq!(place.names(), ["program"]);
    session::patch(
        &place.program(),
        Via::Syscall,
        &Destination::To(place.path("copy")),
        None,
        Keep::default(),
    )
    .unwrap();
    assert_eq!(place.names(), ["copy", "program"]);
    assert!(fs::read(place.path("copy")).unwrap() == clean);
    assert_eq!(fs::metadata(place.path("copy")).unwrap().mode() & 0o7777, 0o750);
}

// --- attributes ---

#[test]
fn mode_owner_and_attributes_are_kept() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    let program = place.program();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // cap_net_raw+ep
    std::os::unix::fs::chown(&program, Some(1234), Some(2345)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o6511)).unwrap();
    if !(set_xattr(&program, "user.note", b"kept") && set_xattr(&program, "security.capability", &capability))
    {
        return skip("the file system of the temporary directory has no extended attributes");
    }
    let outcome = place.patch_in_place().unwrap();
    place.has_patched();
    assert_eq!(outcome.warnings, [] as [&str; 0]);
    let metadata = fs::metadata(&program).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 2345));
    assert_eq!(metadata.mode() & 0o7777, 0o6511);
    assert_eq!(xattr(&program, "user.note").unwrap(), b"kept");
    assert_eq!(xattr(&program, "security.capability").unwrap(), capability);
}

#[test]
fn an_ima_hash_is_dropped_with_a_warning() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    let hash = [&[1][..], &[0x5a; 20]].concat(); // IMA_XATTR_DIGEST, SHA-1
    if !set_xattr(&place.program(), "security.ima", &hash) {
        return skip("security.ima cannot be set here");
    }
    let outcome = place.patch_in_place().unwrap();
    assert!(outcome.warnings.iter().any(|warning| warning.contains("security.ima")), "{outcome:?}");
    assert_eq!(xattr(&place.program(), "security.ima"), None);
}

/// A directory's default ACL must not give the copy readers that the original did not have.
#[test]
fn a_default_acl_of_the_directory_does_not_reach_the_copy() {
    let place = Place::new();
    fs::set_permissions(place.program(), Permissions::from_mode(0o750)).unwrap();
    let mut acl = vec![2, 0, 0, 0];
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1_u16, 7_u16, none), (2, 7, 1234), (4, 7, none), (0x10, 7, none), (0x20, 5, none)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    if !set_xattr(place.directory.path(), "system.posix_acl_default", &acl) {
        return skip("the file system of the temporary directory has no ACLs");
    }
    place.patch_in_place().unwrap();
    place.has_patched();
    assert_eq!(xattr(&place.program(), "system.posix_acl_access"), None);
    assert_eq!(fs::metadata(place.program()).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn who_may_not_keep_the_owner_does_not_make_a_set_user_id_program() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.program(), Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(place.directory.path(), Permissions::from_mode(0o777)).unwrap();
    let said = as_nobody("copy", &place.program()).text();
    assert!(said.contains("OK") && said.contains("set-user-ID"), "{said}");
    let copy = fs::metadata(place.path("program.out")).unwrap();
    assert_eq!((copy.uid(), copy.mode() & 0o7777), (files::NOBODY, 0o755));
}

#[test]
fn attributes_of_a_read_only_file_are_kept_without_root() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    let program = place.program();
    if !set_xattr(&program, "user.note", b"kept") {
        return skip("the file system of the temporary directory has no extended attributes");
    }
    for path in [&program, place.directory.path()] {
        std::os::unix::fs::chown(path, Some(files::NOBODY), Some(files::NOBODY)).unwrap();
    }
    fs::set_permissions(&program, Permissions::from_mode(0o555)).unwrap();
    let said = as_nobody("patch", &program).text();
    assert!(said.contains("OK"), "{said}");
    place.has_patched();
    assert_eq!(xattr(&program, "user.note").as_deref(), Some(&b"kept"[..]), "{said}");
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o7777, 0o555);
}

#[test]
fn a_record_is_as_readable_as_its_file() {
    let place = Place::new();
    fs::set_permissions(place.program(), Permissions::from_mode(0o4711)).unwrap();
    place.patch_in_place().unwrap();
    assert_eq!(fs::metadata(place.record()).unwrap().mode() & 0o7777, 0o600);
}

// --- names ---

#[test]
fn a_file_with_other_names_is_refused_with_their_number() {
    let place = Place::new();
    fs::hard_link(place.program(), place.path("second")).unwrap();
    fs::hard_link(place.program(), place.path("third")).unwrap();
    refused(place.patch_in_place(), ErrorKind::Unsafe, &["3 hard links"]);
    place.has_original();
    assert_eq!(place.names(), ["program", "second", "third"]);
    session::patch(
        &place.program(),
        Via::Syscall,
        &Destination::To(place.path("out")),
        None,
        Keep::default(),
    )
    .unwrap();
    assert!(fs::read(place.path("out")).unwrap() == place.expected.patched);
}

#[test]
fn a_symbolic_link_stays_one_and_the_record_is_beside_the_file() {
    let place = Place::new();
    fs::create_dir(place.path("links")).unwrap();
    let link = place.path("links/link");
    symlink("../program", &link).unwrap();
    session::patch(&link, Via::Syscall, &Destination::InPlace, None, Keep::default()).unwrap();
    place.has_patched();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../program"));
    assert_eq!(names(&place.path("links")), ["link"]);
    for name in [&link, &place.program()] {
        let outcome = session::verify(name, None).unwrap();
        assert_eq!(outcome.action, Action::Verified(vec![]));
        let outcome =
            session::patch(name, Via::Syscall, &Destination::InPlace, None, Keep::default()).unwrap();
        assert_eq!(outcome.action, Action::Unchanged(Unchanged::AlreadyPatched { copy: None }));
    }
    session::revert(&link, &Destination::InPlace, None, Keep::default()).unwrap();
    place.has_original();
    assert_eq!(place.names(), ["links", "program"]);
}

#[test]
fn an_output_that_is_a_link_is_written_through() {
    let place = Place::new();
    fs::write(place.path("real"), "old").unwrap();
    symlink("real", place.path("link")).unwrap();
    session::patch(
        &place.program(),
        Via::Syscall,
        &Destination::To(place.path("link")),
        None,
        Keep::default(),
    )
    .unwrap();
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert!(fs::read(place.path("real")).unwrap() == place.expected.patched);
    assert_eq!(session::verify(&place.path("real"), None).unwrap().action, Action::Verified(vec![]));
}

#[test]
fn an_output_that_is_a_dangling_link_is_refused() {
    let place = Place::new();
    symlink("nowhere", place.path("link")).unwrap();
    let result = session::patch(
        &place.program(),
        Via::Syscall,
        &Destination::To(place.path("link")),
        None,
        Keep::default(),
    );
    refused(result, ErrorKind::Usage, &["symbolic link"]);
    assert_eq!(place.names(), ["link", "program"]);
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
}

#[test]
fn an_output_that_is_the_target_is_refused() {
    let place = Place::new();
    fs::hard_link(place.program(), place.path("second")).unwrap();
    symlink("program", place.path("link")).unwrap();
    for name in ["program", "second", "link"] {
        let result = session::patch(
            &place.program(),
            Via::Syscall,
            &Destination::To(place.path(name)),
            None,
            Keep::default(),
        );
        refused(result, ErrorKind::Usage, &["--in-place"]);
    }
    place.has_original();
    assert_eq!(place.names(), ["link", "program", "second"]);
}

#[test]
fn an_output_that_is_no_regular_file_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("directory")).unwrap();
    let status = Command::new("mkfifo").arg(place.path("fifo")).status().unwrap();
    assert!(status.success());
    for (output, what) in
        [(place.path("directory"), "directory"), (place.path("fifo"), "FIFO"), ("/dev/null".into(), "device")]
    {
        let result =
            session::patch(&place.program(), Via::Syscall, &Destination::To(output), None, Keep::default());
        refused(result, ErrorKind::Usage, &[what]);
    }
    assert_eq!(place.names(), ["directory", "fifo", "program"]);
}

#[test]
fn an_existing_output_is_replaced_as_a_whole() {
    let place = Place::new();
    fs::write(place.path("out"), "something older and much longer than the program".repeat(100)).unwrap();
    let open = fs::File::open(place.path("out")).unwrap();
    session::patch(
        &place.program(),
        Via::Syscall,
        &Destination::To(place.path("out")),
        None,
        Keep::default(),
    )
    .unwrap();
    assert!(fs::read(place.path("out")).unwrap() == place.expected.patched);
    assert_ne!(open.metadata().unwrap().ino(), fs::metadata(place.path("out")).unwrap().ino());
}

// --- records in the way ---

#[test]
fn a_record_path_that_is_the_output_is_refused() {
    let place = Place::new();
    let out = place.path("out");
    refused(
        session::patch(
            &place.program(),
            Via::Syscall,
            &Destination::To(out.clone()),
            Some(&out),
            Keep::default(),
        ),
        ErrorKind::Usage,
        &["record"],
    );
    assert_eq!(place.names(), ["program"]);
    let result = session::patch(
        &place.program(),
        Via::Syscall,
        &Destination::InPlace,
        Some(&place.program()),
        Keep::default(),
    );
    result.expect_err("the program is no record");
    place.has_original();
}

#[test]
fn a_file_that_is_no_record_is_not_overwritten_by_one() {
    let place = Place::new();
    for content in ["precious", "{\"schema\": \"vsyspatch.record/9\"}", "{}"] {
        fs::write(place.record(), content).unwrap();
        refused(place.patch_in_place(), ErrorKind::Record, &["program.vsyspatch.json"]);
        place.has_original();
        assert_eq!(fs::read_to_string(place.record()).unwrap(), content);
    }
}

/// Else one `--record` for two files, one after the other, would leave the first without a way back.
#[test]
fn a_named_record_of_another_file_is_not_overwritten() {
    let place = Place::new();
    let record = place.path("record");
    let mut other = place.expected.original.clone();
    other.extend(b"another file");
    fs::write(place.path("other"), &other).unwrap();
    session::patch(&place.path("other"), Via::Syscall, &Destination::InPlace, Some(&record), Keep::default())
        .unwrap();
    let before = fs::read(&record).unwrap();
    let result =
        session::patch(&place.program(), Via::Syscall, &Destination::InPlace, Some(&record), Keep::default());
    refused(result, ErrorKind::Unsafe, &["another file"]);
    place.has_original();
    assert!(fs::read(&record).unwrap() == before);
    session::revert(&place.path("other"), &Destination::InPlace, Some(&record), Keep::default()).unwrap();
    assert!(fs::read(place.path("other")).unwrap() == other);
}

#[test]
fn the_record_of_a_file_that_was_replaced_since_is_replaced_with_a_warning() {
    let place = Place::new();
    place.patch_in_place().unwrap();
    let mut upgrade = place.expected.original.clone();
    upgrade.extend(b"next version");
    fs::write(place.program(), &upgrade).unwrap();
    let outcome = place.patch_in_place().unwrap();
    assert!(outcome.warnings.iter().any(|warning| warning.contains("record")), "{outcome:?}");
    session::revert(&place.program(), &Destination::InPlace, None, Keep::default()).unwrap();
    assert!(fs::read(place.program()).unwrap() == upgrade);
}

// --- the input changes meanwhile ---

#[test]
fn a_file_that_changed_since_it_was_read_is_not_replaced() {
    type Change = fn(&Place);
    let changes: [(&str, Change); 4] = [
        ("content, same size", |place| {
            let mut bytes = place.expected.original.clone();
            bytes[files::CALL] ^= 1;
            fs::write(place.program(), bytes).unwrap();
        }),
        ("another file with the same content", |place| {
            fs::write(place.path("new"), &place.expected.original).unwrap();
            fs::rename(place.path("new"), place.program()).unwrap();
        }),
        ("another link", |place| fs::hard_link(place.program(), place.path("second")).unwrap()),
        ("gone", |place| fs::remove_file(place.program()).unwrap()),
    ];
    for (what, change) in changes {
        let place = Place::new();
        let source = Source::open(&place.program()).unwrap();
        let pending =
            store::prepare_in_place(&source, store::Names::default(), &place.expected.patched).unwrap();
        std::thread::sleep(Duration::from_millis(20)); // the clock of file times is coarse
        change(&place);
        let before = fs::read(place.program()).ok();
        let error = pending.commit(&source, store::Mtime::Now).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unsafe, "{what}: {error}");
        assert!(fs::read(place.program()).ok() == before, "{what}");
        assert!(!place.names().iter().any(|name| name.starts_with('.')), "{what}: {:?}", place.names());
    }
}

#[test]
fn a_file_that_grew_since_it_was_opened_is_not_read() {
    let place = Place::new();
    let source = Source::open(&place.program()).unwrap();
    fs::write(place.program(), [place.expected.original.as_slice(), b"more"].concat()).unwrap();
    refused(source.read(), ErrorKind::Unsafe, &["changed"]);
}

// --- what cannot be read ---

#[test]
fn what_is_no_regular_file_is_named_and_never_waited_for() {
    let place = Place::new();
    let fifo = place.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let start = Instant::now();
    for (path, what) in
        [(fifo.as_path(), "FIFO"), (place.directory.path(), "directory"), (Path::new("/dev/zero"), "device")]
    {
        refused(
            session::scan(path, Via::Syscall, session::Depth::Everything),
            ErrorKind::Io,
            &[what, "not a regular file"],
        );
        refused(
            session::patch(path, Via::Syscall, &Destination::InPlace, None, Keep::default()),
            ErrorKind::Io,
            &[what],
        );
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_record_that_is_no_regular_file_is_named_and_never_waited_for() {
    let place = Place::new();
    place.patch_in_place().unwrap();
    fs::remove_file(place.record()).unwrap();
    assert!(Command::new("mkfifo").arg(place.record()).status().unwrap().success());
    refused(session::verify(&place.program(), None), ErrorKind::Io, &["FIFO", "program.vsyspatch.json"]);
}

#[test]
fn an_empty_file_and_a_missing_one_are_errors() {
    let place = Place::new();
    fs::write(place.program(), "").unwrap();
    let empty = session::scan(&place.program(), Via::Syscall, session::Depth::Everything).unwrap_err().kind();
    assert!(matches!(empty, ErrorKind::NotElf | ErrorKind::Malformed), "{empty:?}");
    refused(
        session::scan(&place.path("missing"), Via::Syscall, session::Depth::Everything),
        ErrorKind::Io,
        &["No such file"],
    );
}

#[test]
fn a_huge_sparse_file_is_refused_by_its_size() {
    let place = Place::new();
    let file = fs::OpenOptions::new().write(true).open(place.program()).unwrap();
    if file.set_len(vsyspatch::limits::FILE_BYTES + 1).is_err() {
        return skip("the temporary directory cannot hold a large sparse file");
    }
    refused(
        session::patch(&place.program(), Via::Syscall, &Destination::InPlace, None, Keep::default()),
        ErrorKind::Io,
        &["bytes"],
    );
}

#[test]
fn no_permission_is_said() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.program(), Permissions::from_mode(0o600)).unwrap();
    let said = as_nobody("scan", &place.program()).text();
    assert!(said.contains("ERROR Io") && said.contains("Permission denied"), "{said}");
}

// --- what cannot be written ---

#[test]
fn a_directory_without_permission_leaves_everything_and_says_what_to_do() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    std::os::unix::fs::chown(place.program(), Some(files::NOBODY), None).unwrap();
    let said = as_nobody("patch", &place.program()).text();
    assert!(said.contains("ERROR Io") && said.contains("Permission denied") && said.contains("-o"), "{said}");
    assert!(!said.contains(".vsyspatch-"), "the temporary file's name means nothing to the user: {said}");
    place.has_original();
    assert_eq!(place.names(), ["program"]);
}

/// A file system of its own, for as long as it lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        status.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,{options}")]).arg(self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A directory in which a tmpfs can be mounted; skips aloud where that is not allowed.
fn mounted(options: &str, test: impl FnOnce(&Mounted<'_>, &Path)) {
    if !need_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    match Mounted::tmpfs(directory.path(), options) {
        Some(mount) => test(&mount, directory.path()),
        None => skip("a tmpfs cannot be mounted here"),
    }
}

#[test]
fn a_full_disk_leaves_everything_and_says_what_to_do() {
    mounted("size=64k", |_, directory| {
        let place = Place::under(directory);
        let mut large = place.expected.original.clone();
        large.resize(40 << 10, 0); // its copy does not fit any more
        fs::write(place.program(), &large).unwrap();
        refused(place.patch_in_place(), ErrorKind::Io, &["No space left", "room"]);
        assert!(fs::read(place.program()).unwrap() == large);
        assert_eq!(place.names(), ["program"]);
    });
}

/// The file's copy fits, its record does not.
#[test]
fn a_disk_that_fills_up_with_the_record_leaves_everything() {
    mounted("size=64k,nr_inodes=5", |_, directory| {
        let place = Place::under(directory); // with the root and this directory: three inodes
        fs::write(place.path("filler"), "").unwrap();
        refused(place.patch_in_place(), ErrorKind::Io, &["No space left"]);
        place.has_original();
        assert_eq!(place.names(), ["filler", "program"]);
    });
}

#[test]
fn a_read_only_file_system_leaves_everything_and_says_what_to_do() {
    mounted("size=1m", |mount, directory| {
        let place = Place::under(directory);
        mount.remount("ro");
        refused(place.patch_in_place(), ErrorKind::Io, &["Read-only", "-o"]);
        place.has_original();
        assert_eq!(place.names(), ["program"]);
        mount.remount("rw");
    });
}

#[test]
fn an_immutable_file_leaves_no_record_behind() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    let chattr = |flag: &str| {
        let status = Command::new("chattr").arg(flag).arg(place.program()).status();
        status.is_ok_and(|status| status.success())
    };
    if !chattr("+i") {
        return skip("chattr +i does not work in the temporary directory");
    }
    let result = place.patch_in_place();
    let names = place.names();
    assert!(chattr("-i"));
    refused(result, ErrorKind::Io, &["not permitted", "-o"]);
    place.has_original();
    assert_eq!(names, ["program"]);
}

// --- faults and kills at every step ---

mod number {
    pub const FSYNC: i64 = 74;
    pub const RENAME: i64 = 82;
    pub const FCHMOD: i64 = 91;
    pub const RENAMEAT: i64 = 264;
    pub const RENAMEAT2: i64 = 316;
    pub const UNLINKAT: i64 = 263;
    pub const WRITE_FAULT: [(&str, i64); 5] = [
        ("fsync", FSYNC),
        ("fchmod", FCHMOD),
        ("rename", RENAME),
        ("renameat", RENAMEAT),
        ("renameat2", RENAMEAT2),
    ];
}

const EIO: i32 = 5;

#[test]
fn a_step_that_fails_leaves_everything() {
    let mut failed = 0;
    for (name, number) in number::WRITE_FAULT {
        let place = Place::new();
        let said = with_fault("patch", &place.program(), number, Some(EIO)).text();
        if said.contains("OK") {
            place.has_patched(); // the step was not taken, or is done by another call
            continue;
        }
        failed += 1;
        assert!(said.contains("ERROR Io") && said.contains("Input/output error"), "{name}: {said}");
        place.has_original();
        assert_eq!(place.names(), ["program"], "{name}");
    }
    assert!(failed >= 3, "of fsync, chmod and rename, only {failed} were made to fail");
}

#[test]
fn a_record_that_cannot_be_removed_does_not_make_a_revert_fail() {
    let place = Place::new();
    place.patch_in_place().unwrap();
    let said = with_fault("revert", &place.program(), number::UNLINKAT, Some(EIO)).text();
    assert!(said.contains("OK") && said.contains("program.vsyspatch.json"), "{said}");
    place.has_original();
}

/// What must hold of the directory at any moment: the old or the new file, and a record that fits.
fn check_whole(place: &Place) -> &'static str {
    let strays = place.names();
    let known = |name: &String| name.starts_with("program") || name.starts_with(".vsyspatch-");
    assert!(strays.iter().all(known), "{strays:?}");
    let now = Sha256::of(&fs::read(place.program()).expect("the program is there"));
    let record = store::read_record(&place.record()).unwrap();
    let record = record.map(|json| Record::from_json(&json).expect("a record is whole"));
    match record {
        Some(record) if now == record.original => "original, with a record",
        Some(record) => {
            assert_eq!(now, record.patched, "neither of the files that the record names");
            "patched, with a record"
        }
        None => {
            place.has_original(); // a patched file without its record could not be undone
            "original"
        }
    }
}

#[test]
fn a_kill_at_each_step_leaves_a_whole_file_and_a_true_record() {
    let mut killed = 0;
    for (name, number) in number::WRITE_FAULT {
        let place = Place::new();
        let said = with_fault("patch", &place.program(), number, None);
        killed += usize::from(!said.0.status.success());
        check_whole(&place);
        if place.patch_in_place().is_ok() {
            place.has_patched();
        } else {
            panic!("cannot patch after a kill at {name}");
        }
    }
    assert!(killed >= 3, "only {killed} steps were killed");
    let place = Place::new();
    place.patch_in_place().unwrap();
    assert!(!with_fault("revert", &place.program(), number::UNLINKAT, None).0.status.success());
    assert_eq!(check_whole(&place), "original, with a record");
    // The next revert finishes the work.
    session::revert(&place.program(), &Destination::InPlace, None, Keep::default()).unwrap();
    assert_eq!(check_whole(&place), "original");
    assert!(!place.record().exists());
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_file_and_a_true_record() {
    const KILLS: u32 = 120;
    const MOST_KILLS: u32 = 2_000; // on a busy machine some states are met late
    let mut seen = std::collections::BTreeMap::new();
    let place = Place::new();
    for round in 0..MOST_KILLS {
        if round >= KILLS && seen.len() == 3 {
            break;
        }
        let mut child = child_command("patch and revert, again and again", &place.program())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Different moments, without a source of randomness that a failure could not be repeated with.
        std::thread::sleep(Duration::from_micros(4_000 + u64::from(round) * 397 % 23_000));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "round {round}: the child ended by itself: {status}");
        *seen.entry(check_whole(&place)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "not every state was met: {seen:?}");
    // Whatever was left, the way back works.
    if place.record().exists() {
        session::revert(&place.program(), &Destination::InPlace, None, Keep::default()).unwrap();
    }
    place.has_original();
}

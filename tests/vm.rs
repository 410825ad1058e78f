//! The real thing: Debian's kernel (vsyscall=none by its config) in an emulated machine, with the glibc 2.13
//! tree as its initramfs, as delivered and patched.

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Ran, cache, need, real_corpus, rootfs, skip, temp_dir};

/// Longer than a boot takes on a slow host (about 4 s here), shorter than anyone waits.
const BOOT_LIMIT_SECONDS: &str = "180";

/// Status of a process that SIGSEGV ended.
const SEGMENTATION_FAULT: i32 = 128 + 11;

/// The image of the kernel that `linux-image-cloud-amd64` depends on, fetched once.
fn kernel() -> Option<PathBuf> {
    let dir = cache().join("kernel");
    let image = || {
        let boot = fs::read_dir(dir.join("boot")).ok()?;
        boot.map(|entry| entry.expect("an entry").path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
    };
    if let Some(image) = image() {
        return Some(image);
    }
    let fetch = r#"set -e
        package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
        test -n "$package"
        rm -rf fetch && mkdir fetch && cd fetch
        apt-get download -q "$package"
        dpkg-deb -x ./*.deb root
        rm -rf ../kernel && mv root ../kernel"#;
    let ran = Ran::of(Command::new("sh").args(["-c", fetch]).current_dir(cache()));
    if ran.status != 0 {
        skip(&format!("the kernel package cannot be fetched: {ran}"));
        return None;
    }
    Some(image().expect("the package holds /boot/vmlinuz-*"))
}

/// What a boot told.
#[derive(Debug)]
struct Boot {
    statuses: Vec<(i32, String)>,
    /// What the compiled forms came to, by number.
    forms: Vec<String>,
    demo: Vec<String>,
    log: Vec<String>,
    mapped: bool,
}

/// Packs `tree` with the test's /init, boots it with `arguments` for the kernel, and reads what it printed.
fn boot(kernel: &Path, tree: &Path, arguments: &str) -> Boot {
    let own = tree.join(".test");
    fs::create_dir_all(&own).expect("a directory");
    fs::copy("/bin/busybox", own.join("busybox")).expect("the static busybox");
    let init = tree.join("init");
    fs::copy(harness::root().join("tests/vm/init"), &init).expect("the script");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("its mode");
    let initrd = harness::with_suffix(tree, ".cpio");
    let pack = "find . | cpio --quiet -o -H newc -R 0:0 > \"$1\"";
    Ran::of(Command::new("sh").args(["-c", pack, "sh"]).arg(&initrd).current_dir(tree)).expect(0);

    let mut machine = Command::new("timeout");
    machine.args(["-k", "5", BOOT_LIMIT_SECONDS, "qemu-system-x86_64"]);
    // KVM has hung where it was tried; translation is quick enough.
    machine.args(["-accel", "tcg", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none", "-kernel"]);
    machine.arg(kernel).arg("-initrd").arg(&initrd);
    machine.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {arguments}"));
    let ran = Ran::of(machine.stdin(Stdio::null())).expect(0);

    let lines: Vec<&str> = ran.stdout.lines().map(str::trim).collect();
    let begin = lines.iter().position(|line| line.ends_with("BEGIN vsyspatch"));
    let end = lines.iter().position(|line| *line == "END vsyspatch");
    let (Some(begin), Some(end)) = (begin, end) else { panic!("the machine did not come to its end: {ran}") };
    let told = &lines[begin..end];
    let status = |line: &&str| {
        let (status, program) = line.strip_prefix("STATUS ")?.split_once(' ')?;
        Some((status.parse().ok()?, program.to_owned()))
    };
    let with = |prefix: &str| {
        told.iter().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect::<Vec<_>>()
    };
    let boot = Boot {
        statuses: told.iter().filter_map(status).collect(),
        forms: with("FORM "),
        demo: with("DEMO "),
        log: with("LOG "),
        mapped: told.contains(&"MAPPED"),
    };
    eprintln!("{}: {boot:?}", tree.display());
    boot
}

fn statuses(both: i32) -> Vec<(i32, String)> {
    vec![(both, "e2fsck -V".to_owned()), (both, "mdadm --version".to_owned())]
}

/// Compiles the C corpus as a static program, for each tree as it is or patched.
fn add_forms(dir: &Path, old: &Path, new: &Path) {
    let sources = ["forms.c", "run.c"].map(|name| harness::root().join("corpus/compiled").join(name));
    let program = dir.join("forms");
    let mut compile = Command::new("gcc");
    compile.args(["-w", "-O2", "-static", "-no-pie", "-fcf-protection=full", "-o"]).arg(&program);
    Ran::of(compile.args(sources)).expect(0);
    let patched = dir.join("forms.patched");
    // What needs a page of stubs, for an index that is known at run time only, may find no room for one.
    let status = harness::tool([Path::new("patch"), &program, &patched]).status;
    assert!(status < 2, "the patch of the compiled forms");
    for (tree, program) in [(old, program), (new, patched)] {
        fs::create_dir_all(tree.join(".test")).expect("a directory");
        fs::copy(program, tree.join(".test/forms")).expect("a copy");
    }
}

/// The command itself in a tree of its own, with the libraries of this host that it is linked to.
fn add_command(tree: &Path) {
    let own = tree.join(".test/host");
    fs::create_dir_all(&own).expect("a directory");
    let command = env!("CARGO_BIN_EXE_vsyspatch");
    fs::copy(command, own.join("vsyspatch")).expect("a copy");
    let linked = Ran::of(Command::new("ldd").arg(command)).expect(0).stdout;
    for library in linked.split_whitespace().filter_map(|word| word.strip_prefix('/')).map(Path::new) {
        let copy = own.join(library);
        fs::create_dir_all(copy.parent().expect("a directory")).expect("made");
        fs::copy(Path::new("/").join(library), copy).expect("a copy");
    }
}

/// Leaves of the tree what came out of the archive.
fn remove_additions(tree: &Path) {
    fs::remove_dir_all(tree.join(".test")).expect("the test's directory");
    fs::remove_file(tree.join("init")).expect("the test's script");
}

#[test]
fn programs_of_the_glibc_2_13_tree_run_where_the_kernel_has_no_vsyscalls() {
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    if !["qemu-system-x86_64", "gcc", "busybox", "cpio", "apt-get", "dpkg-deb"].into_iter().all(need) {
        return;
    }
    let Some(kernel) = kernel() else { return };
    let dir = temp_dir();
    let (old, new) = (rootfs::unpack(dir.path(), "old"), rootfs::unpack(dir.path(), "new"));
    assert_eq!(rootfs::patch_tree(&new), 3, "libc, libpthread and mdadm");
    add_forms(dir.path(), &old, &new);
    let count = |boot: &Boot, outcome: &str| boot.forms.iter().filter(|form| form.ends_with(outcome)).count();

    let before = boot(&kernel, &old, "");
    assert!(!before.mapped, "this kernel has no vsyscall page");
    assert_eq!(before.statuses, statuses(SEGMENTATION_FAULT));
    assert!(count(&before, " killed") > 25, "{before:?}");
    for (line, program) in before.log.iter().zip(["e2fsck", "mdadm"]) {
        assert!(line.contains("vsyscall attempted with vsyscall=none"), "{line}");
        assert!(line.contains(program), "{line}");
    }

    // The normal statuses, from the same tree on the same kernel with vsyscalls emulated.
    let emulating = boot(&kernel, &old, "vsyscall=xonly");
    assert!(emulating.mapped, "{emulating:?}");
    assert_eq!(emulating.statuses, statuses(0));
    assert_eq!(count(&emulating, " ok"), before.forms.len());

    add_command(&new);
    let after = boot(&kernel, &new, "");
    assert!(!after.mapped, "this kernel has no vsyscall page");
    let (demo, programs) = after.statuses.split_last().expect("three programs");
    assert_eq!(programs, emulating.statuses);
    assert_eq!(after.forms.len(), emulating.forms.len());
    assert_eq!(count(&after, " wrong"), 0, "{after:?}");
    assert!(count(&after, " killed") <= 3, "{after:?}");
    assert_eq!(demo.0, 0, "{:#?}", after.demo);
    assert!(after.demo.iter().any(|line| line.contains("SIGSEGV")), "{:#?}", after.demo);
    // The demo's sample as delivered, and forms that were refused.
    let is_expected = |line: &String| line.contains("] sample[") || line.contains("] forms[");
    assert!(after.log.iter().all(is_expected), "{after:?}");

    [&old, &new].into_iter().for_each(|tree| remove_additions(tree));
    Ran::of(harness::vsyspatch().args(["revert", "--in-place"]).arg(&new)).expect(0);
    rootfs::assert_same(&old, &new);
}

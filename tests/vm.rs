//! The real thing: Debian's kernel (vsyscall=none by its config) in an emulated machine, with the glibc 2.13
//! tree as its initramfs, as delivered and patched; in one, the rest of the corpus, too.

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::image::image;
use harness::mtree::{assert_same, listing};
use harness::{Ran, cache, cache_alone, is_root, need, real_corpus, rootfs, skip, temp_dir};

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
    let _alone = cache_alone();
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

/// The kernel, where the tree of glibc 2.13, an emulated machine and `more` programs are there; skips aloud if not.
fn ready(more: &[&str]) -> Option<PathBuf> {
    if real_corpus().is_none() {
        skip("no VSYSPATCH_CORPUS");
        return None;
    }
    let programs = ["qemu-system-x86_64", "busybox", "cpio", "apt-get", "dpkg-deb"];
    if !programs.iter().chain(more).all(|program| need(program)) {
        return None;
    }
    kernel()
}

/// What a boot told.
#[derive(Debug)]
struct Boot {
    statuses: Vec<(i32, String)>,
    /// What the compiled forms came to, by number.
    forms: Vec<String>,
    /// What the command said, with the number of its run before each line.
    said: Vec<String>,
    log: Vec<String>,
    mapped: bool,
    vdso: bool,
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
        said: with("SAID "),
        log: with("LOG "),
        mapped: told.contains(&"MAPPED"),
        vdso: told.contains(&"VDSO"),
    };
    eprintln!("{}: {boot:?}", tree.display());
    boot
}

fn count(boot: &Boot, outcome: &str) -> usize {
    boot.forms.iter().filter(|form| form.ends_with(outcome)).count()
}

fn statuses(both: i32) -> Vec<(i32, String)> {
    vec![(both, "e2fsck -V".to_owned()), (both, "mdadm --version".to_owned())]
}

/// The same of a tree with the rest of the corpus, where programs of other C libraries run, too.
fn statuses_with_corpus(both: i32) -> Vec<(i32, String)> {
    let others = ["glibc-2.12", "glibc-2.5"];
    let others = others.map(|name| (both, format!("/.test/busybox chroot /opt/{name} /old-glibc")));
    [statuses(both), others.into()].concat()
}

/// Compiles the C corpus as a static program, for a tree as it is, and for one patched `via`.
fn add_forms(dir: &Path, old: &Path, new: &Path, via: &str) {
    let sources = ["forms.c", "run.c"].map(|name| harness::root().join("corpus/compiled").join(name));
    let program = dir.join("forms");
    let mut compile = Command::new("gcc");
    compile.args(["-w", "-O2", "-static", "-no-pie", "-fcf-protection=full", "-o"]).arg(&program);
    Ran::of(compile.args(sources)).expect(0);
    let patched = dir.join("forms.patched");
    harness::tool([Path::new("patch"), Path::new("--via"), Path::new(via), &program, &patched]).expect(0);
    for (tree, program) in [(old, program), (new, patched)] {
        fs::create_dir_all(tree.join(".test")).expect("a directory");
        fs::copy(program, tree.join(".test/forms")).expect("a copy");
    }
}

/// Compiles the program that holds what it gets against the system calls' answers, and patches it, for `tree`.
fn add_values(dir: &Path, tree: &Path) {
    let program = dir.join("values");
    let mut compile = Command::new("gcc");
    // An emulated machine is slow. Zeroed data before the page, which this kernel maps in another way than newer ones.
    let kind = ["-static-pie", "-fPIE", "-DPROGRAM", "-DZEROS=1000000", "-DROUNDS=2000"];
    compile.args(["-w", "-O2", "-pthread"]).args(kind).arg("-o").arg(&program);
    Ran::of(compile.arg(harness::root().join("tests/vdso/values.c"))).expect(0);
    let patched = tree.join(".test/values");
    harness::tool([Path::new("patch"), Path::new("--via=vdso"), &program, &patched]).expect(0);
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
    fs::copy(harness::root().join("corpus/prebuilt/demo"), own.join("sample")).expect("a copy");
    fs::set_permissions(own.join("sample"), fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// What the command is run for in the machine without vsyscalls: its words, the status, and something that it says.
const COMMANDS: [(&str, i32, &str); 6] = [
    ("demo", 0, "SIGSEGV"),
    ("doctor", 1, "vsyscalls do not work here"),
    ("doctor -- /sample", SEGMENTATION_FAULT, "died calling time in the vsyscall page"),
    ("exec -- /sample", SEGMENTATION_FAULT, "killed by SIGSEGV, and this kernel has no vsyscalls"),
    ("trace -- /sample", 2, "there is nothing to trace here"),
    ("doctor --log /log", 1, "died calling time in the vsyscall page"),
];

#[track_caller]
fn assert_commands(boot: &Boot, statuses: &[(i32, String)]) {
    assert_eq!(statuses.len(), COMMANDS.len(), "{boot:#?}");
    for (number, ((words, status, said), (ended, line))) in (1..).zip(COMMANDS.iter().zip(statuses)) {
        assert!(line.ends_with(&format!("/vsyspatch {words}")), "{line}");
        assert_eq!(ended, status, "{line}: {:#?}", boot.said);
        let number = format!("{number} ");
        let mut lines = boot.said.iter().filter_map(|line| line.strip_prefix(&number));
        assert!(lines.any(|line| line.contains(said)), "{words} says {said}: {:#?}", boot.said);
    }
}

/// The tree as an image of one layer, patched from the outside, and unpacked again.
fn exported(dir: &Path, tree: &Path) -> PathBuf {
    let tar = dir.join("layer.tar");
    Ran::of(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(tree).arg(".")).expect(0);
    let [from, to] = [image(dir, &[harness::read(&tar)]), format!("oci:{}:v1", dir.join("cured").display())];
    harness::tool(["patch", "-q", &from, &to]).expect(0);
    let bundle = dir.join("bundle");
    let name = to.strip_prefix("oci:").expect("a layout");
    Ran::of(Command::new("umoci").args(["unpack", "--image", name]).arg(&bundle)).expect(0);
    bundle.join("rootfs")
}

#[test]
fn an_exported_image_runs_where_the_kernel_has_no_vsyscalls() {
    if !is_root() {
        return skip("umoci needs root");
    }
    let Some(kernel) = ready(&["umoci"]) else { return };
    let dir = temp_dir();
    let old = rootfs::unpack(dir.path(), "old");
    let new = exported(dir.path(), &old);
    for (tree, both) in [(&old, SEGMENTATION_FAULT), (&new, 0)] {
        let boot = boot(&kernel, tree, "");
        assert!(!boot.mapped, "this kernel has no vsyscall page");
        assert_eq!(boot.statuses, statuses(both));
        assert_eq!(boot.log.is_empty(), both == 0, "{boot:?}");
    }
}

/// Leaves of the tree what came out of the archive.
fn remove_additions(tree: &Path) {
    fs::remove_dir_all(tree.join(".test")).expect("the test's directory");
    fs::remove_file(tree.join("init")).expect("the test's script");
}

#[test]
fn programs_of_a_tree_with_every_old_libc_run_where_the_kernel_has_no_vsyscalls() {
    let Some(kernel) = ready(&["gcc", "as", "ld.bfd"]) else { return };
    let dir = temp_dir();
    let (old, new) = (rootfs::unpack(dir.path(), "old"), rootfs::unpack(dir.path(), "new"));
    [&old, &new].into_iter().for_each(|tree| rootfs::add_corpus(tree));
    let mut before_patch = listing(&new);
    let patched =
        [("2.13 with mdadm", 3), ("2.5", 2), ("2.12", 2), ("2.17", 1), ("2.19", 1), ("programs", 5)];
    assert_eq!(
        rootfs::patch_tree(&new),
        patched.iter().map(|(_, count)| count).sum::<usize>(),
        "{patched:?}"
    );
    add_forms(dir.path(), &old, &new, "syscall");

    let before = boot(&kernel, &old, "");
    assert!(!before.mapped, "this kernel has no vsyscall page");
    assert_eq!(before.statuses, statuses_with_corpus(SEGMENTATION_FAULT));
    assert!(count(&before, " killed") > 25, "{before:?}");
    for (line, program) in before.log.iter().zip(["e2fsck", "mdadm", "old-glibc", "old-glibc"]) {
        assert!(line.contains("vsyscall attempted with vsyscall=none"), "{line}");
        assert!(line.contains(program), "{line}");
    }

    // The normal statuses, from the same tree on the same kernel with vsyscalls emulated.
    let emulating = boot(&kernel, &old, "vsyscall=xonly");
    assert!(emulating.mapped, "{emulating:?}");
    assert_eq!(emulating.statuses, statuses_with_corpus(0));
    assert_eq!(count(&emulating, " ok"), before.forms.len());

    add_command(&new);
    let after = boot(&kernel, &new, "");
    assert!(!after.mapped, "this kernel has no vsyscall page");
    let (programs, commands) = after.statuses.split_at(emulating.statuses.len());
    assert_eq!(programs, emulating.statuses);
    assert_commands(&after, commands);
    assert_eq!(after.forms.len(), emulating.forms.len());
    assert_eq!(count(&after, " wrong"), 0, "{after:?}");
    assert_eq!(count(&after, " killed"), 0, "{after:?}");
    // The sample as delivered, and the call that doctor tries: its program lies in memory, and is named as the descriptor
    // is.
    let is_expected = |line: &String| {
        let (_, told) = line.split_once("] ").expect("a time");
        let (program, _) = told.split_once('[').expect("a process");
        program == "sample" || program.bytes().all(|byte| byte.is_ascii_digit())
    };
    assert!(after.log.iter().all(is_expected), "{after:?}");

    [&old, &new].into_iter().for_each(|tree| remove_additions(tree));
    Ran::of(harness::vsyspatch().args(["revert", "--in-place"]).arg(&new)).expect(0);
    let mut after = listing(&new);
    // The test's own files came and went in the root directory.
    after.get_mut(Path::new("")).expect("the root").remove("mtime");
    before_patch.get_mut(Path::new("")).expect("the root").remove("mtime");
    assert_same(&before_patch, &after, "boot and revert");
}

/// With the vDSO and, by the kernel's parameter, without one.
#[test]
fn patched_programs_do_with_a_vdso_and_without() {
    let Some(kernel) = ready(&["gcc"]) else { return };
    let dir = temp_dir();
    let (old, new) = (rootfs::unpack(dir.path(), "old"), rootfs::unpack(dir.path(), "new"));
    harness::tool([Path::new("patch"), Path::new("--in-place"), Path::new("--via=vdso"), &new]).expect(0);
    add_forms(dir.path(), &old, &new, "vdso");
    add_values(dir.path(), &new);
    let mut expected = statuses(0);
    expected.push((0, "/.test/values check".to_owned()));
    for (parameter, has_vdso) in [("", true), ("vdso=0", false)] {
        let boot = boot(&kernel, &new, parameter);
        assert!(!boot.mapped, "this kernel has no vsyscall page");
        assert_eq!(boot.vdso, has_vdso, "{boot:?}");
        assert_eq!(boot.statuses, expected, "{boot:?}");
        assert_eq!((count(&boot, " wrong"), count(&boot, " killed")), (0, 0), "{boot:?}");
        assert!(count(&boot, " ok") > 25, "{boot:?}");
        assert_eq!(boot.log, [""; 0], "{boot:?}");
    }
}

//! A real `docker build` whose last step patches the whole image, from the inside, with the static program.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::docker::Daemon;
use harness::image::Registry;
use harness::{KILLED, Ran, host_emulates, need, real_corpus, rootfs, skip, static_program, temp_dir};

/// Status of a shell for a process that SIGSEGV ended: a vsyscall was made where the kernel has none.
const SEGMENTATION_FAULT: i32 = 128 + 11;

/// The Dockerfile of README.md; its last step is the patch.
const DOCKERFILE: &str = include_str!("docker/Dockerfile");

/// The step that undoes it.
const REVERT: &str = r#"RUN ["/vsyspatch", "revert", "--in-place", "/"]"#;

/// The same below a program that runs on the libc which is replaced, and goes on with it.
const PATCH_BELOW_A_RUNNING_PROGRAM: &str =
    r#"RUN ["/bin/strace", "-f", "-o", "/trace", "/vsyspatch", "patch", "--in-place", "/"]"#;

/// Programs of the tree that make a vsyscall at once: one through libc, one static.
const PROGRAMS: [[&str; 2]; 2] = [["/bin/e2fsck", "-V"], ["/bin/mdadm", "--version"]];

/// What the images are made of: the tree, in which one file to be patched has two names, and the program.
fn context(dir: &Path) -> PathBuf {
    let context = dir.join("context");
    fs::create_dir(&context).expect("a directory");
    let tree = rootfs::unpack(dir, "tree");
    fs::hard_link(tree.join("bin/mdadm"), tree.join("bin/mdadm-too")).expect("a second name");
    let mut tar = Command::new("tar");
    tar.arg("-c").arg("-f").arg(context.join("rootfs.tar")).arg("-C").arg(&tree).arg(".");
    Ran::of(&mut tar).expect(0);
    fs::copy(static_program::build(), context.join("vsyspatch")).expect("a copy");
    context
}

#[test]
fn the_dockerfile_is_the_one_that_people_read() {
    let readme = fs::read_to_string(harness::root().join("README.md")).expect("README.md");
    assert!(readme.contains(DOCKERFILE), "{DOCKERFILE}");
}

/// Status of a program that made a vsyscall with vsyscalls denied.
fn gone() -> i32 {
    if host_emulates() { KILLED } else { SEGMENTATION_FAULT }
}

/// The image `old` without running anything of it: saved, patched, loaded again, and back to the same image.
#[track_caller]
fn from_the_outside(daemon: &Daemon, dir: &Path) {
    let at = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    daemon.docker(&["save", "-o", &at("old.tar"), "old"]).expect(0);
    let archive = |name: &str, tag: &str| format!("docker-archive:{}{tag}", at(name));
    harness::tool(["patch", &archive("old.tar", ""), &archive("cured.tar", ":cured:1")]).expect(0);
    daemon.docker(&["load", "-i", &at("cured.tar")]).expect(0);
    for program in PROGRAMS {
        daemon.run_denied("cured:1", &program).expect(0);
    }
    daemon.run_denied("cured:1", &["/bin/mdadm-too", "--version"]).expect(0);
    daemon.docker(&["save", "-o", &at("saved.tar"), "cured:1"]).expect(0);
    harness::tool(["verify", &archive("saved.tar", "")]).expect(0);
    harness::tool(["revert", &archive("saved.tar", ""), &archive("back.tar", ":back:1")]).expect(0);
    daemon.docker(&["load", "-i", &at("back.tar")]).expect(0);
    let id = |name: &str| daemon.docker(&["inspect", "--format", "{{.Id}}", name]).expect(0).stdout;
    assert_eq!(id("back:1"), id("old"));
}

#[test]
fn an_image_is_patched_by_the_last_step_of_its_build() {
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    let dir = temp_dir();
    let Some(daemon) = Daemon::start(&dir.path().join("docker"), Command::new("dockerd")) else { return };
    let context = context(dir.path());
    let (steps_before, patch) = DOCKERFILE.trim_end().rsplit_once('\n').expect("several steps");
    assert!(patch.starts_with("RUN ["), "without a shell, which could not run: {patch}");

    daemon.build("old", steps_before, &context);
    let gone = gone();
    for program in PROGRAMS {
        daemon.run_denied("old", &program).expect(gone);
    }

    from_the_outside(&daemon, dir.path());

    let built = daemon.build("new", DOCKERFILE, &context);
    assert!(built.stdout.contains("/bin/mdadm"), "{built}");
    for program in PROGRAMS {
        let cured = daemon.run_denied("new", &program).expect(0);
        if host_emulates() {
            let normal = daemon.run("old", &program).expect(0);
            assert_eq!((cured.stdout, cured.stderr), (normal.stdout, normal.stderr), "{program:?}");
        }
    }
    daemon.run_denied("new", &["/bin/mdadm-too", "--version"]).expect(0);
    let verified = daemon.run("new", &["/vsyspatch", "verify", "/"]).expect(0);
    assert!(verified.stdout.contains("verified"), "{verified}");

    daemon.build("back", &format!("FROM new\n{REVERT}"), &context);
    daemon.run_denied("back", &["/bin/mdadm", "--version"]).expect(gone);
    let back = dir.path().join("back");
    daemon.unpack("back", &back);
    // What Docker adds, and the program that was copied in.
    for name in ["dev", "proc", "sys", "etc", ".dockerenv", "vsyspatch"] {
        let path = back.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap_or_else(|error| assert!(!path.exists(), "{}: {error}", path.display()));
    }
    rootfs::assert_same(&dir.path().join("tree"), &back);

    if host_emulates() {
        daemon.build("in-use", &format!("{steps_before}\n{PATCH_BELOW_A_RUNNING_PROGRAM}"), &context);
        daemon.run("in-use", &["/vsyspatch", "verify", "/"]).expect(0);
        daemon.run_denied("in-use", &["/bin/e2fsck", "-V"]).expect(0);
    }
}

/// The three lines of README.md, as a shell reads them, with a registry of our own in place of the one they name.
#[test]
fn the_cure_of_the_front_page_cures() {
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    if !need("docker-registry") {
        return;
    }
    let dir = temp_dir();
    let Some(daemon) = Daemon::start(&dir.path().join("docker"), Command::new("dockerd")) else { return };
    let registry = Registry::start(dir.path());
    daemon.build("old", "FROM scratch\nADD rootfs.tar /\nCOPY vsyspatch /", &context(dir.path()));
    let legacy = format!("{}/legacy:1", registry.address);
    daemon.docker(&["tag", "old", &legacy]).expect(0);
    daemon.docker(&["push", &legacy]).expect(0);
    daemon.run_denied(&legacy, &PROGRAMS[0]).expect(gone());

    let readme = fs::read_to_string(harness::root().join("README.md")).expect("README.md");
    let (_, cure) = readme.split_once("The cure, in three lines:\n\n```\n").expect("the cure");
    let lines: Vec<&str> = cure.lines().take_while(|line| *line != "```").collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    // Found; written; loaded.
    for (line, status) in lines.into_iter().zip([1, 0, 0]) {
        let line = line.replace("registry.example", &registry.address);
        Ran::of(daemon.shell(&line).current_dir(dir.path())).expect(status);
    }
    for program in PROGRAMS {
        daemon.run_denied("legacy:1", &program).expect(0);
    }
}

/// The image that holds nothing but the program, in the two ways that README.md names.
#[test]
fn the_image_of_the_program_cures_images_and_trees() {
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    if !need("buildah") {
        return;
    }
    let dir = temp_dir();
    let Some(daemon) = Daemon::start(&dir.path().join("docker"), Command::new("dockerd")) else { return };
    let context = context(dir.path());
    let archive = |name: &str| dir.path().join(name);
    for name in ["image.tar", "again.tar"] {
        let mut build = Command::new("tests/install/image");
        build.current_dir(harness::root()).arg(context.join("vsyspatch")).arg(archive(name));
        Ran::of(&mut build).expect(0);
    }
    let id = |name: &str| {
        let loaded = daemon.docker(&["load", "-i", archive(name).to_str().expect("UTF-8")]).expect(0).stdout;
        let image = loaded.trim().rsplit(' ').next().expect("a name").to_owned();
        (daemon.docker(&["inspect", "--format", "{{.Id}}", &image]).expect(0).stdout, image)
    };
    let (first, image) = id("image.tar");
    assert_eq!(first, id("again.tar").0, "the same program gives the same image");
    assert_eq!(image, concat!("vsyspatch:", env!("CARGO_PKG_VERSION")));
    assert!(daemon.run(&image, &["--version"]).expect(0).stdout.starts_with("vsyspatch "));

    let readme = fs::read_to_string(harness::root().join("README.md")).expect("README.md");
    let copy = format!("COPY --from={image} /vsyspatch /vsyspatch");
    assert!(readme.contains(&copy), "{copy}");
    daemon.build("dead", "FROM scratch\nADD rootfs.tar /", &context);
    let patch = DOCKERFILE.lines().last().expect("the patch");
    daemon.build("cured", &format!("FROM dead\n{copy}\n{patch}"), &context);
    for program in PROGRAMS {
        daemon.run_denied("cured", &program).expect(0);
    }

    let tree = dir.path().join("tree");
    let volume = format!("{}:/x", tree.display());
    let ways = ["run", "--rm", "--network", "none", "-v", &volume, &image, "patch", "--in-place", "/x"];
    assert!(readme.contains(&format!("-v TREE:/x {image} patch --in-place /x")), "the way in README.md");
    let before = harness::denied(in_tree(&tree, PROGRAMS[1])).status;
    assert_eq!(before, gone());
    let said = daemon.docker(&ways).expect(0);
    assert!(said.stdout.contains("/x/bin/mdadm"), "{said}");
    harness::tool([Path::new("verify"), &tree]).expect(0);
    for program in PROGRAMS {
        harness::denied(in_tree(&tree, program)).expect(0);
    }
}

/// The program with the tree as its root.
fn in_tree(tree: &Path, program: [&str; 2]) -> [String; 4] {
    let [program, argument] = program.map(str::to_owned);
    ["chroot".into(), tree.to_str().expect("UTF-8").to_owned(), program, argument]
}

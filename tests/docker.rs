//! A real `docker build` whose last step patches the whole image, from the inside, with the static program.

mod harness;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{
    KILLED, Ran, host_emulates, is_root, need, real_corpus, rootfs, skip, static_program, temp_dir,
};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than a daemon takes to start (about a second) or to stop on a slow host.
const DAEMON_LIMIT: Duration = Duration::from_secs(30);

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

/// A Docker daemon of its own, with everything it writes below one directory; ends with the value.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    /// Starts one, or says why that cannot be.
    fn start(dir: &Path) -> Result<Self, String> {
        fs::create_dir(dir).expect("a directory for the daemon");
        let log = dir.join("log");
        let output = File::create(&log).expect("the daemon's log");
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
        command.arg("--pidfile").arg(dir.join("pid")).arg("-H").arg(socket(dir));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        command.args(["--ip-forward=false", "--ip-masq=false"]);
        command.stdin(Stdio::null()).stderr(output.try_clone().expect("a descriptor")).stdout(output);
        let child = command.spawn().map_err(|error| format!("dockerd cannot be run: {error}"))?;
        let mut daemon = Self { child, dir: dir.to_owned() };
        let begun = Instant::now();
        while daemon.docker(&["version"]).status != 0 {
            let ended = daemon.child.try_wait().expect("its status");
            if ended.is_some() || begun.elapsed() > DAEMON_LIMIT {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("dockerd does not start here ({ended:?}): {}", last.join(" <- ")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn docker(&self, words: &[&str]) -> Ran {
        let mut docker = Command::new("docker");
        // No settings, credentials or plugins of whoever runs the tests; the builder that needs no plugin.
        docker.env("DOCKER_CONFIG", self.dir.join("config")).env("DOCKER_BUILDKIT", "0");
        docker.env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        Ran::of(docker.arg("-H").arg(socket(&self.dir)).args(words).stdin(Stdio::null()))
    }

    /// Builds the image `name` as `dockerfile` says, with the files in `context`.
    #[track_caller]
    fn build(&self, name: &str, dockerfile: &str, context: &Path) -> Ran {
        let file = context.join(format!("Dockerfile.{name}"));
        fs::write(&file, dockerfile).expect("the Dockerfile is written");
        let (file, context) = (file.to_str().expect("UTF-8"), context.to_str().expect("UTF-8"));
        self.docker(&["build", "--network", "none", "-t", name, "-f", file, context]).expect(0)
    }

    fn run(&self, image: &str, command: &[&str]) -> Ran {
        let words = [&["run", "--rm", "--network", "none", image], command].concat();
        self.docker(&words)
    }

    /// Runs the program with vsyscalls denied.
    fn run_denied(&self, image: &str, program: &[&str]) -> Ran {
        self.run(image, &[&["/vsyspatch", "exec", "--"], program].concat())
    }

    /// What is in the image, as a tree at `dir`.
    #[track_caller]
    fn unpack(&self, image: &str, dir: &Path) {
        let container = self.docker(&["create", "--network", "none", image, "/none"]).expect(0);
        let archive = dir.with_extension("tar");
        let archive_name = archive.to_str().expect("UTF-8");
        self.docker(&["export", "-o", archive_name, container.stdout.trim()]).expect(0);
        fs::create_dir(dir).expect("a directory for the tree");
        Ran::of(Command::new("tar").arg("-x").arg("-f").arg(&archive).arg("-C").arg(dir)).expect(0);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        // A daemon that ended by itself was waited for, so that its number may be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(pid, Signal::TERM);
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < DAEMON_LIMIT {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(dir: &Path) -> String {
    format!("unix://{}", dir.join("socket").display())
}

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
    if !is_root() {
        return skip("a Docker daemon needs root");
    }
    if !["dockerd", "docker", "runc", "containerd"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let daemon = match Daemon::start(&dir.path().join("docker")) {
        Ok(daemon) => daemon,
        Err(reason) => return skip(&reason),
    };
    let context = context(dir.path());
    let (steps_before, patch) = DOCKERFILE.trim_end().rsplit_once('\n').expect("several steps");
    assert!(patch.starts_with("RUN ["), "without a shell, which could not run: {patch}");

    daemon.build("old", steps_before, &context);
    let gone = if host_emulates() { KILLED } else { SEGMENTATION_FAULT };
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

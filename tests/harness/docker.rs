//! A Docker daemon of its own, for tests as root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Ran, is_root, need, skip};

/// Longer than a daemon takes to start (about a second) or to stop on a slow host.
const DAEMON_LIMIT: Duration = Duration::from_secs(90);

/// A Docker daemon of its own, with everything it writes below one directory; ends with the value.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    /// Starts one with this `command`, which ends in `dockerd`; where that cannot be, the calling test is skipped aloud.
    pub fn start(dir: &Path, command: Command) -> Option<Self> {
        if !is_root() {
            skip("a Docker daemon needs root");
            return None;
        }
        if !["dockerd", "docker", "runc", "containerd"].into_iter().all(need) {
            return None;
        }
        Self::try_start(dir, command).map_err(|reason| skip(&reason)).ok()
    }

    fn try_start(dir: &Path, mut command: Command) -> Result<Self, String> {
        fs::create_dir(dir).expect("a directory for the daemon");
        let log = dir.join("log");
        let output = File::create(&log).expect("the daemon's log");
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

    /// Runs the client.
    pub fn docker(&self, words: &[&str]) -> Ran {
        let mut docker = Command::new("docker");
        // No settings, credentials or plugins of whoever runs the tests; the builder that needs no plugin.
        docker.env("DOCKER_CONFIG", self.dir.join("config")).env("DOCKER_BUILDKIT", "0");
        docker.env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        Ran::of(docker.arg("-H").arg(socket(&self.dir)).args(words).stdin(Stdio::null()))
    }

    /// A shell in which `docker` is that of this daemon, and `vsyspatch` the tool under test.
    pub fn shell(&self, line: &str) -> Command {
        let tool = super::vsyspatch();
        let bin = Path::new(tool.get_program()).parent().expect("its directory").to_owned();
        let path = std::env::var_os("PATH").expect("a PATH");
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)));
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("PATH", path.expect("a PATH")).env("XDG_CACHE_HOME", "/dev/null");
        shell.env("DOCKER_CONFIG", self.dir.join("config")).env("DOCKER_HOST", socket(&self.dir));
        shell.env_remove("DOCKER_CONTEXT").stdin(Stdio::null());
        shell
    }

    /// Builds the image `name` as `dockerfile` says, with the files in `context`.
    #[track_caller]
    pub fn build(&self, name: &str, dockerfile: &str, context: &Path) -> Ran {
        let file = context.join(format!("Dockerfile.{name}"));
        fs::write(&file, dockerfile).expect("the Dockerfile is written");
        let (file, context) = (file.to_str().expect("UTF-8"), context.to_str().expect("UTF-8"));
        self.docker(&["build", "--network", "none", "-t", name, "-f", file, context]).expect(0)
    }

    /// Runs a container.
    pub fn run(&self, image: &str, command: &[&str]) -> Ran {
        let words = [&["run", "--rm", "--network", "none", image], command].concat();
        self.docker(&words)
    }

    /// Runs the program with vsyscalls denied, by the command in the image.
    pub fn run_denied(&self, image: &str, program: &[&str]) -> Ran {
        self.run(image, &[&["/vsyspatch", "exec", "--"], program].concat())
    }

    /// What is in the image, as a tree at `dir`.
    #[track_caller]
    pub fn unpack(&self, image: &str, dir: &Path) {
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

//! Images that an engine built, patched from the outside, in the engines: podman on both of its storages and from
//! registries, Docker, containerd and skopeo. Each has a store of its own.

mod harness;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::docker::Daemon;
use harness::image::{Registry, archive_of_2014, layer};
use harness::mtree::{Listing, changed, listing, listing_without};
use harness::{Ran, host_emulates, is_root, need, real_corpus, rootfs, skip, temp_dir, tool};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Programs of the tree that make a vsyscall at once: one through libc, one static; and a further name of one.
const PROGRAMS: [[&str; 2]; 3] =
    [["/bin/e2fsck", "-V"], ["/bin/mdadm", "--version"], ["/opt/mdadm-too", "--version"]];

const OLD: &str = "localhost/legacy:1";
const CURED: &str = "localhost/legacy:1-novsyscall";
/// As the one before, with calls of the vDSO.
const FAST: &str = "localhost/legacy:1-vdso";

/// The image of several layers.
const STACKED: &str = "localhost/stacked:1";
const STACKED_CURED: &str = "localhost/stacked:1-novsyscall";

/// What an image patched in a store is called there, and what it says that it was made of.
const IN_STORE: &str = "localhost/legacy:in-store";
const BASE_NAME: &str = r#"{{index .Config.Labels "org.opencontainers.image.base.name"}}"#;

/// Longer than a daemon takes to start or to stop on a slow host.
const LIMIT: Duration = Duration::from_secs(90);

fn ready(programs: &[&str]) -> bool {
    if real_corpus().is_none() {
        skip("no VSYSPATCH_CORPUS");
        return false;
    }
    if !is_root() {
        skip("engines need root");
        return false;
    }
    if !host_emulates() {
        skip("this kernel has no vsyscalls that a run could show");
        return false;
    }
    programs.iter().all(|program| need(program))
}

/// The tree, with hard links, a capability, setuid and sticky bits.
fn tree(dir: &Path, name: &str) -> PathBuf {
    let tree = rootfs::unpack(dir, name);
    fs::create_dir_all(tree.join("opt")).expect("a directory");
    fs::hard_link(tree.join("bin/mdadm"), tree.join("opt/mdadm-too")).expect("a second name");
    fs::create_dir_all(tree.join("tmp")).expect("a directory");
    let mode = |path: &str, mode| {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).expect("its mode");
    };
    mode("tmp", 0o1777);
    mode("bin/e2fsck", 0o4755);
    // Of a program that is patched, and of a file that is not.
    fs::write(tree.join("bin/untouched"), b"#!/bin/sh\n").expect("written");
    for path in ["bin/mdadm", "bin/untouched"] {
        Ran::of(Command::new("setcap").arg("cap_chown+ep").arg(tree.join(path))).expect(0);
    }
    Ran::of(Command::new("touch").args(["-h", "-d", "2011-02-03T04:05:06"]).arg(tree.join("bin/untouched")))
        .expect(0);
    tree
}

/// An image of the tree as buildah builds it, and the patched one: archives.
fn images(dir: &Path) -> [PathBuf; 2] {
    let tree = tree(dir, "tree");
    let buildah = |words: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(dir.join("built")).arg("--runroot").arg(dir.join("building"));
        Ran::of(command.args(["--storage-driver", "vfs"]).args(words).stdin(Stdio::null())).expect(0)
    };
    let container = buildah(&["from", "scratch"]).stdout.trim().to_owned();
    let mounted = buildah(&["mount", &container]).stdout.trim().to_owned();
    Ran::of(Command::new("cp").arg("-a").arg(tree.join(".")).arg(mounted)).expect(0);
    buildah(&["umount", &container]);
    buildah(&["config", "--env", "BUILT=yes", &container]);
    buildah(&["commit", "-q", &container, OLD]);
    let [old, cured] = ["old.tar", "cured.tar"].map(|name| dir.join(name));
    buildah(&["push", "-q", OLD, &format!("docker-archive:{}:{OLD}", old.display())]);
    let [from, to] = [(&old, OLD), (&cured, CURED)]
        .map(|(path, name)| format!("docker-archive:{}:{name}", path.display()));
    tool(["patch", "-q", &from, &to]).expect(0);
    tool(["verify", "-q", &to, "--against", &from]).expect(0);
    [old, cured]
}

/// An image of several layers as umoci makes it, and the patched one: archives. Of the tree's programs one was deleted,
/// one is below an opaque directory, and one was replaced by the real one, which has two names. All layers but the
/// patch's are of this `compression`.
fn stacked(dir: &Path, compression: &str) -> [PathBuf; 2] {
    let (tree, upper, opaque) = (tree(dir, "lowest"), dir.join("upper"), dir.join("opaque"));
    for directory in [upper.join("bin"), upper.join("opt"), opaque.clone(), tree.join("opt/opaque")] {
        fs::create_dir_all(directory).expect("a directory");
    }
    for copy in ["bin/deleted", "opt/opaque/hidden"] {
        fs::copy(tree.join("bin/mdadm"), tree.join(copy)).expect("a copy");
    }
    for name in ["bin/mdadm", "opt/mdadm-too"] {
        fs::rename(tree.join(name), upper.join(name)).expect("moved to the upper layer");
        fs::write(tree.join(name), "#!/bin/sh\n").expect("what the upper layer replaces");
    }
    fs::write(opaque.join("new"), "text").expect("written");
    let layout = format!("{}:v1", dir.join("stacked").display());
    let umoci = |words: &[&str]| drop(Ran::of(Command::new("umoci").args(words)).expect(0));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    umoci(&["init", "--layout", layout.trim_end_matches(":v1")]);
    umoci(&["new", "--image", &layout]);
    let insert = |words: &[&str]| umoci(&[&["insert", "--image", &layout], words].concat());
    insert(&[&text(&tree), "/"]);
    insert(&["--opaque", &text(&opaque), "/opt/opaque"]);
    insert(&["--whiteout", "/bin/deleted"]);
    // The last, since umoci's whiteouts come without their directories, whose times engines then make up.
    insert(&[&text(&upper), "/"]);
    umoci(&["config", "--image", &layout, "--architecture", "amd64", "--os", "linux"]);
    let source = format!("oci:{}:v1", dir.join(compression).display());
    let copy = ["copy", "-q", "--dest-compress", "--dest-compress-format", compression];
    Ran::of(Command::new("skopeo").args(copy).arg(format!("oci:{layout}")).arg(&source)).expect(0);
    let raw = Ran::of(Command::new("skopeo").args(["inspect", "--raw", &source])).expect(0).json();
    let layers = raw["layers"].as_array().expect("layers");
    let is_it = |layer: &serde_json::Value| layer["mediaType"].to_string().contains(compression);
    assert!(layers.len() == 4 && layers.iter().all(is_it), "{raw}");
    let [old, cured] = ["stacked-old.tar", "stacked-cured.tar"].map(|name| dir.join(name));
    let [was, is] = [(&old, STACKED), (&cured, STACKED_CURED)]
        .map(|(path, name)| format!("docker-archive:{}:{name}", path.display()));
    tool(["patch", "-q", &source, &is]).expect(0);
    tool(["verify", "-q", &is, "--against", &source]).expect(0);
    tool(["revert", "-q", &is, &was]).expect(0);
    [old, cured]
}

/// What the lower layers of that image have stays hidden.
#[track_caller]
fn assert_stacked(listing: &Listing) {
    let has = |path: &str| listing.contains_key(Path::new(path));
    assert!(
        has("opt/opaque/new") && !has("opt/opaque/hidden") && !has("bin/deleted"),
        "{:?}",
        listing.keys()
    );
    let mode = |path: &str| listing[Path::new(path)]["mode"].clone();
    assert_eq!([mode("tmp"), mode("bin/e2fsck")], ["41777", "104755"]);
    assert_eq!(listing[Path::new("bin/mdadm")]["links"], r#"["bin/mdadm", "opt/mdadm-too"]"#);
}

/// What a shell says of the first process of a container that was killed: no other signal ends it.
const KILLED_AS_FIRST: i32 = 128 + 9;

/// Only the programs differ, and these in their content alone; the record is new.
#[track_caller]
fn assert_only_programs_differ(before: &Listing, after: &Listing) {
    let mut names = Vec::new();
    for line in changed(before, after) {
        let (name, facts) = line.split_once(": ").expect("a name and facts");
        match name {
            _ if name.starts_with("var") => {}
            // No layer says when the root was made, and so it is when the engine made it.
            "" => assert_eq!(facts, "mtime"),
            _ => {
                assert_eq!(facts, "sha256", "{line}");
                names.push(name.to_owned());
            }
        }
    }
    for program in ["bin/mdadm", "opt/mdadm-too"] {
        assert!(names.iter().any(|name| name == program), "{program} is patched: {names:?}");
        let facts = &after[Path::new(program)];
        assert!(facts["xattrs"].contains("security.capability"), "{facts:?}");
    }
}

/// A podman with a store of its own.
struct Podman {
    store: TempDir,
    driver: &'static str,
}

impl Podman {
    fn new(driver: &'static str) -> Self {
        Self { store: temp_dir(), driver }
    }

    fn place(&self, name: &str) -> String {
        self.store.path().join(name).display().to_string()
    }

    /// Where its images are, as skopeo is told.
    fn places(&self) -> String {
        [self.place("root"), self.place("run")].join("+")
    }

    fn with(&self, command: &mut Command, words: &[&str]) -> Ran {
        command.args(["--root", &self.place("root"), "--runroot", &self.place("run")]);
        command.args(["--storage-driver", self.driver, "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        Ran::of(command.args(words).stdin(Stdio::null()))
    }

    fn plain(&self, words: &[&str]) -> Ran {
        self.with(&mut Command::new("podman"), words)
    }

    /// Runs the program in the image with vsyscalls denied.
    fn denied(&self, image: &str, program: &[&str]) -> Ran {
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let words = [&["run", "--rm", "-q", "--network", "none"][..], &limits, &[image], program].concat();
        self.with(harness::vsyspatch().args(["exec", "--", "podman"]), &words)
    }
}

#[test]
fn podman_runs_what_was_patched_on_both_of_its_storages() {
    if !ready(&["buildah", "podman", "runc", "setcap", "skopeo", "umoci"]) {
        return;
    }
    let dir = temp_dir();
    let [old, cured] = images(dir.path());
    let [stacked, stacked_cured] = stacked(dir.path(), "zstd");
    let fast = dir.path().join("fast.tar");
    let [from, to] =
        [(&old, OLD), (&fast, FAST)].map(|(path, name)| format!("docker-archive:{}:{name}", path.display()));
    tool(["patch", "-q", "--via=vdso", &from, &to]).expect(0);
    for driver in ["vfs", "overlay"] {
        let podman = Podman::new(driver);
        let loaded = |archive: &Path, name: &str| {
            podman.plain(&["load", "-q", "-i", archive.to_str().expect("UTF-8")]).expect(0);
            let mounted = podman.plain(&["image", "mount", name]).expect(0);
            let all = listing(Path::new(mounted.stdout.trim()));
            podman.plain(&["image", "unmount", name]).expect(0);
            all
        };
        assert_only_programs_differ(&loaded(&old, OLD), &loaded(&cured, CURED));
        let of_several = [loaded(&stacked, STACKED), loaded(&stacked_cured, STACKED_CURED)];
        of_several.iter().for_each(assert_stacked);
        assert_only_programs_differ(&of_several[0], &of_several[1]);
        // The same from its store to its store.
        let in_store = |name: &str| format!("containers-storage:[{driver}@{}]{name}", podman.places());
        let [from, to] = [OLD, IN_STORE].map(in_store);
        tool(["patch", "-q", &from, &to]).expect(0);
        tool(["verify", "-q", &to, "--against", &from]).expect(0);
        let label = ["image", "inspect", "--format", BASE_NAME, IN_STORE];
        assert_eq!(podman.plain(&label).expect(0).stdout.trim(), OLD, "without the place");
        for program in PROGRAMS {
            podman.denied(IN_STORE, &program).expect(0);
            for [old, cured] in [[OLD, CURED], [STACKED, STACKED_CURED]] {
                podman.denied(old, &program).expect(KILLED_AS_FIRST);
                podman.denied(cured, &program).expect(0);
            }
        }
        podman.plain(&["load", "-q", "-i", fast.to_str().expect("UTF-8")]).expect(0);
        for program in PROGRAMS {
            podman.denied(FAST, &program).expect(0);
        }
    }
}

#[test]
fn podman_pulls_and_runs_what_was_patched_in_a_registry() {
    if !ready(&["buildah", "podman", "runc", "setcap", "skopeo", "docker-registry", "openssl"]) {
        return;
    }
    let dir = temp_dir();
    let [old, _] = images(dir.path());
    let at = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a directory for the registry");
        path
    };
    let plain = "--tls-verify=false".to_owned();
    let (over_tls, authorities) = Registry::over_tls(&at("tls"));
    // Each with what podman and the tool have to be told alike.
    let registries = [
        (Registry::start(&at("open")), vec![plain.clone()]),
        (Registry::closed(&at("closed")), vec![plain, "--creds=user:secret".into()]),
        (over_tls, vec![format!("--cert-dir={}", authorities.display())]),
    ];
    for (registry, access) in &registries {
        let access: Vec<&str> = access.iter().map(String::as_str).collect();
        let [was, is] = ["1", "1-novsyscall"].map(|tag| format!("{}/team/legacy:{tag}", registry.address));
        let [from, to] = [&was, &is].map(|name| format!("docker://{name}"));
        let archive = format!("docker-archive:{}", old.display());
        let push = ["copy", "-q", "--dest-tls-verify=false", "--dest-creds=user:secret", &archive, &from];
        Ran::of(Command::new("skopeo").args(push)).expect(0);
        let patched = tool([&["patch", "-q"], &access[..], &[&from, &to]].concat()).expect(0);
        let podman = Podman::new("vfs");
        for image in [&was, &is] {
            podman.plain(&[&["pull", "-q"], &access[..], &[image]].concat()).expect(0);
        }
        let digest = podman.plain(&["image", "inspect", "--format", "{{.Digest}}", &is]).expect(0).stdout;
        assert!(patched.stdout.trim().ends_with(digest.trim()), "{patched} {digest}");
        for program in PROGRAMS {
            podman.denied(&was, &program).expect(KILLED_AS_FIRST);
            podman.denied(&is, &program).expect(0);
        }
    }
}

#[test]
fn docker_loads_and_runs_what_was_patched() {
    if !ready(&["buildah", "setcap", "skopeo", "umoci"]) {
        return;
    }
    let dir = temp_dir();
    let ([old, cured], [stacked, stacked_cured]) = (images(dir.path()), stacked(dir.path(), "gzip"));
    for driver in ["overlay2", "vfs"] {
        let Some(daemon) = denied_docker(&dir.path().join(driver), driver) else { continue };
        let loaded = |archive: &Path, name: &str| {
            daemon.docker(&["load", "-q", "-i", archive.to_str().expect("UTF-8")]).expect(0);
            inside(&daemon, name)
        };
        assert_only_programs_differ(&loaded(&old, OLD), &loaded(&cured, CURED));
        let of_several = [loaded(&stacked, STACKED), loaded(&stacked_cured, STACKED_CURED)];
        of_several.iter().for_each(assert_stacked);
        assert_only_programs_differ(&of_several[0], &of_several[1]);
        for program in PROGRAMS {
            for [old, cured] in [[OLD, CURED], [STACKED, STACKED_CURED]] {
                daemon.run(old, &program).expect(KILLED_AS_FIRST);
                daemon.run(cured, &program).expect(0);
            }
        }
    }
}

/// A daemon with this storage, with vsyscalls denied to all that it runs.
fn denied_docker(dir: &Path, storage: &str) -> Option<Daemon> {
    let mut command = harness::vsyspatch();
    command.args(["exec", "--", "dockerd", "--storage-driver", storage]);
    Daemon::start(dir, command)
}

/// An image of the daemon's store, patched to that store with whichever of its tools there is.
fn through_the_daemon(daemon: &Daemon, dir: &Path) {
    let with = |programs: &[&str], words: &str| {
        let bin = dir.join(["tools-", &programs.concat()].concat());
        fs::create_dir_all(&bin).expect("a directory");
        for program in programs {
            let found = Ran::of(Command::new("sh").args(["-c", &format!("command -v {program}")])).expect(0);
            let _ = std::os::unix::fs::symlink(found.stdout.trim(), bin.join(program));
        }
        let line = format!("tool=$(command -v vsyspatch); PATH={} exec \"$tool\" {words}", bin.display());
        Ran::of(&mut daemon.shell(&line))
    };
    for program in ["docker", "skopeo"] {
        let [from, to] =
            ["legacy:1", &format!("legacy:by-{program}")].map(|name| format!("docker-daemon:{name}"));
        with(&[program], &format!("patch -q {from} {to}")).expect(0);
        with(&[program], &format!("verify -q {to} --against {from}")).expect(0);
        with(&[program], &format!("revert -q {to} {to}-back")).expect(0);
        let id = |name: &str| daemon.docker(&["inspect", "--format", "{{.Id}}", name]).expect(0).stdout;
        assert_eq!(id(&format!("legacy:by-{program}-back")), id("legacy:1"));
        let name = format!("legacy:by-{program}");
        assert_eq!(daemon.docker(&["inspect", "--format", BASE_NAME, &name]).expect(0).stdout, "legacy:1\n");
        daemon.run(&name, &PROGRAMS[0]).expect(0);
        let missing = with(&[program], "scan docker-daemon:missing:1").expect(2);
        assert!(missing.stderr.contains(program) && missing.stderr.contains("missing:1"), "{missing}");
    }
    let none = with(&[], "scan docker-daemon:legacy:1").expect(2);
    assert!(
        none.stderr.contains("docker or skopeo") && none.stderr.contains("install one of them"),
        "{none}"
    );
}

/// What a container of the image sees, but for what the engine puts there.
fn inside(daemon: &Daemon, image: &str) -> Listing {
    let sleep = ["run", "-d", "--rm", "--network", "none", image, "/bin/busybox", "sleep", "600"];
    let container = daemon.docker(&sleep).expect(0).stdout.trim().to_owned();
    let pid = daemon.docker(&["inspect", "--format", "{{.State.Pid}}", &container]).expect(0).stdout;
    let root = Path::new("/proc").join(pid.trim()).join("root/.");
    let all = listing_without(&root, &["proc", "sys", "dev", "etc", ".dockerenv"]);
    daemon.docker(&["kill", &container]).expect(0);
    all
}

#[test]
fn docker_runs_what_was_patched_in_old_archives_and_in_registries() {
    if !ready(&["skopeo", "docker-registry"]) {
        return;
    }
    let dir = temp_dir();
    let Some(daemon) = denied_docker(&dir.path().join("docker"), "vfs") else { return };
    let registry = Registry::start(dir.path());
    let upper = layer(|tree| {
        fs::create_dir(tree.join("opt")).expect("a directory");
        fs::write(tree.join("opt/text"), "text").expect("written");
    });
    let of_2014 = archive_of_2014(dir.path(), &[layer(rootfs::unpack_to), upper]);
    let of_2014 = of_2014.to_str().expect("UTF-8");
    let new = dir.path().join("new.tar");
    let new = new.to_str().expect("UTF-8");
    tool(["patch", "-q", of_2014, &format!("docker-archive:{new}:legacy:1-novsyscall")]).expect(0);
    for archive in [of_2014, new] {
        daemon.docker(&["load", "-q", "-i", archive]).expect(0);
    }
    through_the_daemon(&daemon, dir.path());
    // The same in a registry: in the form of its day, and as Docker writes it today.
    let name = |name: &str| format!("{}/{name}", registry.address);
    let skopeo = |from: &str, to: &str, format: &str| {
        let words = ["copy", "-q", "--dest-tls-verify=false", "--format", format, from, to];
        Ran::of(Command::new("skopeo").args(words)).expect(0);
    };
    tool(["patch", "-q", "--always", of_2014, &format!("docker-archive:{new}:legacy:1")]).expect(0);
    tool(["revert", "-q", &format!("docker-archive:{new}"), &format!("docker-archive:{new}:legacy:1")])
        .expect(0);
    let mut pairs = vec![["legacy:1".to_owned(), "legacy:1-novsyscall".to_owned()]];
    for (repository, format) in [("schema1", "v2s1"), ("schema2", "v2s2")] {
        let [was, is] = ["1", "1-novsyscall"].map(|tag| name(&format!("{repository}:{tag}")));
        let [from, to] = [&was, &is].map(|name| format!("docker://{name}"));
        skopeo(&format!("docker-archive:{new}"), &from, format);
        tool(["patch", "-q", &from, &to]).expect(0);
        for image in [&was, &is] {
            daemon.docker(&["pull", "-q", image]).expect(0);
        }
        pairs.push([was, is]);
    }
    for [old, cured] in &pairs {
        for program in &PROGRAMS[..2] {
            daemon.run(old, program).expect(KILLED_AS_FIRST);
            daemon.run(cured, program).expect(0);
        }
    }
}

/// A containerd of its own, with vsyscalls denied to it and to all that it runs; ends with the value.
struct Containerd {
    child: Child,
    dir: PathBuf,
}

impl Containerd {
    fn start(dir: &Path) -> Result<Self, String> {
        fs::create_dir(dir).expect("a directory for the daemon");
        let place = |name: &str| dir.join(name).display().to_string();
        let settings = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            place("root"),
            place("state"),
            place("socket")
        );
        fs::write(dir.join("settings"), settings).expect("written");
        let log = File::create(dir.join("log")).expect("the daemon's log");
        let mut command = harness::vsyspatch();
        command.args(["exec", "--", "containerd", "-c"]).arg(dir.join("settings"));
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a descriptor")).stdout(log);
        let child = command.spawn().map_err(|error| format!("containerd cannot be run: {error}"))?;
        let mut daemon = Self { child, dir: dir.to_owned() };
        let begun = Instant::now();
        while daemon.ctr(&["version"]).status != 0 {
            let ended = daemon.child.try_wait().expect("its status");
            if ended.is_some() || begun.elapsed() > LIMIT {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("containerd does not start here ({ended:?}): {}", last.join(" <- ")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn ctr(&self, words: &[&str]) -> Ran {
        let mut ctr = Command::new("ctr");
        Ran::of(ctr.arg("-a").arg(self.dir.join("socket")).args(words).stdin(Stdio::null()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(pid, Signal::TERM);
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn containerd_imports_and_runs_what_was_patched() {
    if !ready(&["buildah", "containerd", "ctr", "runc", "setcap", "skopeo", "umoci"]) {
        return;
    }
    let dir = temp_dir();
    let [old, cured] = images(dir.path());
    let daemon = match Containerd::start(&dir.path().join("containerd")) {
        Ok(daemon) => daemon,
        Err(reason) => return skip(&reason),
    };
    // The old one as the tool writes it, too: containerd reads nothing older than the hybrid.
    let again = dir.path().join("again.tar");
    let to = format!("docker-archive:{}:{OLD}", again.display());
    tool(["patch", "-q", "--always", &format!("docker-archive:{}", old.display()), &to]).expect(0);
    tool(["revert", "-q", &to, &to]).expect(0);
    let native = ["--snapshotter", "native"];
    let [stacked, stacked_cured] = stacked(dir.path(), "zstd");
    for archive in [&again, &cured, &stacked, &stacked_cured] {
        let archive = archive.to_str().expect("UTF-8");
        daemon.ctr(&[&["image", "import"], &native[..], &[archive]].concat()).expect(0);
    }
    let listings = [OLD, CURED, STACKED, STACKED_CURED].map(|image| {
        // The snapshot has the name of the place.
        let place = dir.path().join(image.replace('/', "-"));
        fs::create_dir(&place).expect("a directory");
        let path = place.to_str().expect("UTF-8");
        daemon.ctr(&[&["image", "mount"], &native[..], &[image, path]].concat()).expect(0);
        let all = listing(&place);
        daemon.ctr(&["image", "unmount", path]).expect(0);
        all
    });
    assert_only_programs_differ(&listings[0], &listings[1]);
    listings[2..].iter().for_each(assert_stacked);
    assert_only_programs_differ(&listings[2], &listings[3]);
    // runc's own place is one for the whole machine: another run of this test may have containers of the same names.
    let own = dir.path().join("runc");
    let own = ["--runc-root", own.to_str().expect("UTF-8")];
    let run = |image: &str, name: &str, program: &[&str]| {
        daemon.ctr(&[&["run", "--rm"], &native[..], &own, &[image, name], program].concat())
    };
    for (number, program) in PROGRAMS.iter().enumerate() {
        for (image, status) in
            [(OLD, KILLED_AS_FIRST), (CURED, 0), (STACKED, KILLED_AS_FIRST), (STACKED_CURED, 0)]
        {
            let name = image.rsplit('/').next().expect("a name").replace(':', "-");
            run(image, &format!("{name}-{number}"), program).expect(status);
        }
    }
}

#[test]
fn skopeo_reads_what_was_patched_both_ways() {
    if !ready(&["buildah", "skopeo", "setcap"]) {
        return;
    }
    let dir = temp_dir();
    let [old, cured] = images(dir.path());
    let skopeo = |words: &[&str]| Ran::of(Command::new("skopeo").args(words)).expect(0);
    let at = |path: &Path| path.display().to_string();
    let before = skopeo(&["inspect", "--config", &format!("docker-archive:{}", at(&old))]).json();
    for transport in ["docker-archive", "oci-archive"] {
        let from = format!("{transport}:{}", at(&cured));
        let config = skopeo(&["inspect", "--config", &from]).json();
        assert_eq!(config["config"]["Env"], before["config"]["Env"]);
        let count = |config: &serde_json::Value| config["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
        assert_eq!(count(&config), count(&before) + 1);
        let copy = dir.path().join(format!("copy-of-{transport}"));
        skopeo(&["copy", "-q", &from, &format!("oci:{}:v1", at(&copy))]);
        tool(["verify", "-q", &at(&copy)]).expect(0);
    }
}

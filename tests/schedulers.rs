//! The files for schedulers, each run by the real one: Slurm with two nodes, GNU parallel, a container as a kubelet starts
//! it; the manifest against the schemas of Kubernetes.

mod harness;

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::fleet::{Fleet, many_images, real_registry, results};
use harness::image::{OTHER, PROGRAM, put};
use harness::web::{Reply, Web};
use harness::{Ran, is_root, need, root, skip, vsyspatch};
use serde_json::json;
use serde_yaml_ng::Value;

/// How long a daemon may take to start.
const DAEMON_LIMIT: Duration = Duration::from_secs(90);

fn file(name: &str) -> PathBuf {
    root().join("tests/fleet").join(name)
}

/// A `PATH` on which the tool is found.
fn path() -> std::ffi::OsString {
    let own = PathBuf::from(vsyspatch().get_program()).parent().expect("a directory").to_owned();
    let all = env::split_paths(&env::var_os("PATH").expect("a PATH")).collect::<Vec<_>>();
    env::join_paths(std::iter::once(own).chain(all)).expect("a PATH")
}

/// A work list of images in a registry; two are of no use.
fn work(count: usize) -> (Fleet, Web) {
    let (fleet, web) = (Fleet::new(), Web::default());
    many_images(&fleet.path(""), count, |name, layout| web.put_layout(layout, name));
    fleet.fleet(&format!("plan docker://{}/ -o work.jsonl", web.address)).expect(0);
    (fleet, web)
}

fn command(program: impl AsRef<std::ffi::OsStr>, fleet: &Fleet) -> Command {
    let mut command = Command::new(program);
    command.current_dir(fleet.dir.path()).env("PATH", path()).env("XDG_CACHE_HOME", "/dev/null");
    command
}

#[test]
fn gnu_parallel() {
    if !need("parallel") {
        return;
    }
    const COUNT: usize = 40;
    let (fleet, web) = work(COUNT);
    let run = |status: i32| {
        let mut parallel = command(file("parallel.sh"), &fleet);
        // Where it keeps what it knows of this machine.
        parallel.env("HOME", fleet.dir.path());
        Ran::of(parallel.args(["work.jsonl", "results", "--jobs", "2"])).expect(status)
    };
    // One image answers with 500 as long as anybody asks: every part that it is not in is done.
    web.twist(|request, reply| {
        let is_away = request.path.starts_with("/v2/team1/app7/") && request.method == "GET";
        if is_away { Reply::error(500, "AWAY").header("Retry-After", "0") } else { reply }
    });
    run(1);
    let merged = fleet.totals("results");
    assert_eq!(merged["totals"]["statuses"], json!({ "clean": 8, "failed": 1, "patched": 31 }), "{merged}");
    assert_eq!((&merged["status"], &merged["totals"]["may_pass"]), (&3.into(), &1.into()));
    web.twist(|_, reply| reply);
    let ran = run(0);
    assert_eq!(ran.stdout.matches("done now").count(), 16, "{ran}");
    assert_eq!(fleet.totals("results")["totals"]["statuses"], json!({ "clean": 8, "patched": 32 }));
}

/// How many images the registries have whose work lists real schedulers deal.
const MANY: usize = 200;

/// A registry with many images, all of whose parts have been through the command that `run` starts, which ends with a
/// status of its own: what comes of each is what should, and what is done is not done again.
fn a_real_registry_is_done(fleet: &Fleet, run: &dyn Fn() -> Ran) {
    let (registry, statuses) = real_registry(fleet, MANY);
    let planned = fleet.fleet(&format!("plan docker://{}/ -o work.jsonl --json", registry.address)).expect(0);
    let planned = planned.json();
    assert_eq!((&planned["items"], &planned["names"]), (&MANY.into(), &(MANY + 2).into()), "{planned}");
    let ran = run();
    // What is broken is so for good.
    assert_ne!(ran.status, 0, "{ran}");
    let totals = fleet.totals("results")["totals"].clone();
    assert_eq!(totals["statuses"], statuses, "{totals}");
    assert_eq!((&totals["missing"], &totals["may_pass"]), (&0.into(), &0.into()), "{totals}");
    let patched = statuses["patched"].as_u64().expect("a number");
    assert_eq!(totals["written"], patched + 2, "one is written under three names");
    let before = results(&fleet.path("results"));
    run();
    assert!(results(&fleet.path("results")) == before);
}

#[test]
fn gnu_parallel_and_a_real_registry() {
    if !["parallel", "docker-registry"].into_iter().all(need) {
        return;
    }
    let fleet = Fleet::new();
    a_real_registry_is_done(&fleet, &|| {
        let mut parallel = command(file("parallel.sh"), &fleet);
        parallel.env("HOME", fleet.dir.path());
        Ran::of(parallel.args(["work.jsonl", "results", "--jobs", "2"]))
    });
}

#[test]
fn slurm_and_a_real_registry() {
    if !["munged", "slurmctld", "slurmd", "sbatch", "docker-registry"].into_iter().all(need) {
        return;
    }
    if !is_root() {
        return skip("daemons of Slurm that start jobs need root");
    }
    let fleet = Fleet::new();
    let slurm = match Slurm::start(&fleet.path("slurm")) {
        Ok(slurm) => slurm,
        Err(reason) => return skip(&reason),
    };
    a_real_registry_is_done(&fleet, &|| {
        let mut sbatch = command("sbatch", &fleet);
        sbatch.env("SLURM_CONF", &slurm.settings).env("PAUSE", "0");
        sbatch.args(["--wait", "--mem=100", "-o", "log-%A-%a"]).arg(file("slurm.sh"));
        Ran::of(sbatch.args(["work.jsonl", "results"]))
    });
}

/// Names with blanks, and another machine: a shell that begins elsewhere and knows which shell it is, as that of ssh does
/// (without `SHELL`, GNU parallel runs nothing there and ends with 0).
#[test]
fn gnu_parallel_with_blanks_on_another_machine() {
    if !need("parallel") {
        return;
    }
    let fleet = Fleet::new();
    put(&fleet.path("zoo/program"), PROGRAM);
    put(&fleet.path("zoo/other"), OTHER);
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    fs::rename(fleet.path("work.jsonl"), fleet.path("my work.jsonl")).expect("renamed");
    put(
        &fleet.path("ssh"),
        b"#!/bin/bash\nwhile [[ $1 != -- ]]; do shift; done\ncd / && shift && SHELL=$BASH exec bash -c \"$*\"\n",
    );
    let ssh = fleet.path("ssh").display().to_string();
    for (results, machines) in
        [("my results", &[][..]), ("its results", &["--ssh", &ssh, "--sshlogin", "1/other"])]
    {
        let mut parallel = command(file("parallel.sh"), &fleet);
        parallel.env("HOME", fleet.dir.path()).args(["my work.jsonl", results, "--jobs", "2"]).args(machines);
        let ran = Ran::of(&mut parallel).expect(0);
        assert_eq!(ran.stdout.matches("done now").count(), 16, "{ran}");
        let mut merge = fleet.command("merge --json --work");
        let merged = Ran::of(merge.args(["my work.jsonl", results])).expect(0).json();
        assert_eq!(merged["totals"]["statuses"], json!({ "patched": 2 }));
    }
}

/// Slurm with two nodes, all of it on this machine.
struct Slurm {
    daemons: Vec<Child>,
    settings: PathBuf,
}

impl Slurm {
    /// Starts it; why not, where it does not start here.
    fn start(dir: &Path) -> Result<Self, String> {
        fs::create_dir(dir).expect("made");
        // Whoever is who is asked through a socket that all may reach.
        for open in [dir.parent().expect("a directory"), dir] {
            fs::set_permissions(open, Permissions::from_mode(0o711)).expect("its mode");
        }
        let at = |name: &str| dir.join(name).display().to_string();
        fs::create_dir(at("state")).expect("made");
        fs::write(at("key"), harness::sha256(dir.as_os_str().as_encoded_bytes())).expect("written");
        fs::set_permissions(at("key"), Permissions::from_mode(0o400)).expect("its mode");
        let host = Ran::of(Command::new("hostname").arg("-s")).expect(0).stdout.trim().to_owned();
        let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [controller, first, second] =
            listeners.map(|listener| listener.local_addr().expect("bound").port());
        let base = dir.display();
        let settings = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={controller}\n\
             AuthType=auth/munge\nAuthInfo=socket={base}/munge\nCredType=cred/munge\nSlurmUser=root\nSlurmdUser=root\n\
             StateSaveLocation={base}/state\nSlurmdSpoolDir={base}/spool-%n\n\
             SlurmctldPidFile={base}/controller.pid\nSlurmdPidFile={base}/%n.pid\n\
             SlurmctldLogFile={base}/controller.log\nSlurmdLogFile={base}/%n.log\n\
             ProctrackType=proctrack/pgid\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n\
             JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\nReturnToService=2\n\
             NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=8000\n\
             NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=8000\n\
             PartitionName=all Nodes=n1,n2 Default=YES State=UP\n"
        );
        let file = dir.join("slurm.conf");
        fs::write(&file, settings).expect("written");
        let mut slurm = Self { daemons: Vec::new(), settings: file };
        let munge = [
            "-F".to_owned(),
            format!("--socket={base}/munge"),
            format!("--key-file={base}/key"),
            format!("--pid-file={base}/munge.pid"),
            format!("--log-file={base}/munge.log"),
            format!("--seed-file={base}/seed"),
        ];
        slurm.spawn("munged", &munge)?;
        slurm.wait_for("munged", || dir.join("munge").exists())?;
        slurm.spawn("slurmctld", &["-D".into()])?;
        for node in ["n1", "n2"] {
            slurm.spawn("slurmd", &["-D".into(), "-N".into(), node.into()])?;
        }
        let settings = slurm.settings.clone();
        slurm.wait_for("slurmctld", move || {
            let nodes =
                Command::new("sinfo").args(["-h", "-o", "%D %t"]).env("SLURM_CONF", &settings).output();
            nodes.is_ok_and(|nodes| nodes.stdout.starts_with(b"2 idle"))
        })?;
        Ok(slurm)
    }

    fn spawn(&mut self, program: &str, words: &[String]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args(words).env("SLURM_CONF", &self.settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.daemons.push(command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?);
        Ok(())
    }

    fn wait_for(&mut self, what: &str, is_there: impl Fn() -> bool) -> Result<(), String> {
        let begun = Instant::now();
        while !is_there() {
            let ended = self.daemons.iter_mut().any(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            if ended || begun.elapsed() > DAEMON_LIMIT {
                return Err(format!("{what} does not start here (ended: {ended})"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn slurm() {
    if !["munged", "slurmctld", "slurmd", "sbatch"].into_iter().all(need) {
        return;
    }
    if !is_root() {
        return skip("daemons of Slurm that start jobs need root");
    }
    const COUNT: usize = 40;
    let (fleet, web) = work(COUNT);
    let slurm = match Slurm::start(&fleet.path("slurm")) {
        Ok(slurm) => slurm,
        Err(reason) => return skip(&reason),
    };
    let submit = |words: &[&str]| {
        let mut sbatch = command("sbatch", &fleet);
        sbatch.env("SLURM_CONF", &slurm.settings).env("PAUSE", "0").args([
            "--wait",
            "--mem=100",
            "-o",
            "log-%A-%a",
        ]);
        Ran::of(sbatch.args(words).arg(file("slurm.sh")).args(["work.jsonl", "results"]))
    };
    // A registry that is away, and comes back while the tasks try again.
    let left = std::sync::atomic::AtomicUsize::new(60);
    web.twist(move |_, reply| {
        use std::sync::atomic::Ordering::Relaxed;
        let is_away = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if is_away { Reply::error(503, "AWAY").header("Retry-After", "0") } else { reply }
    });
    submit(&[]).expect(0);
    let logs: Vec<PathBuf> = fs::read_dir(fleet.dir.path())
        .expect("logs")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")))
        .collect();
    assert_eq!(logs.len(), 8, "a task for each number of --array in the file");
    let shards = logs.iter().filter(|log| {
        let text = fs::read_to_string(log).expect("text");
        text.lines().any(|line| line.starts_with("shard ") && line.contains("/8: "))
    });
    assert_eq!(shards.count(), 8);
    assert_eq!(fleet.totals("results")["totals"]["statuses"], json!({ "clean": 8, "patched": 32 }));
    let before = results(&fleet.path("results"));

    // Another number of tasks, and numbers of another kind: all is done before. A failing status is the job's.
    submit(&["--array=0-4:2"]).expect(0);
    assert!(results(&fleet.path("results")) == before);
    submit(&["--array=1,2,5"]).expect(2);
}

#[test]
fn kubernetes_takes_the_manifest() {
    const VALIDATOR: &str = "kubernetes-validate==1.37.0";
    if !need("python3") {
        return;
    }
    let place = harness::cache().join("kubernetes-validate-1.37.0");
    let validator = place.join("bin/kubernetes-validate");
    let alone = harness::cache_alone();
    if !validator.is_file() {
        let made = Ran::of(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place));
        let pip = place.join("bin/pip");
        if made.status != 0 || Ran::of(Command::new(pip).args(["install", "-q", VALIDATOR])).status != 0 {
            return skip(&format!("{VALIDATOR} cannot be installed"));
        }
    }
    drop(alone);
    let validate = |manifest: &Path, version: &str| {
        Ran::of(Command::new(&validator).args(["--strict", "-k", version]).arg(manifest))
    };
    let manifest = file("kubernetes.yaml");
    for version in ["1.29", "1.37"] {
        validate(&manifest, version).expect(0);
    }
    // It finds what is wrong.
    let text = fs::read_to_string(&manifest).expect("text");
    let dir = harness::temp_dir();
    let wrong = dir.path().join("wrong.yaml");
    fs::write(&wrong, text.replace("backoffLimitPerIndex: 5", "backoffLimitPerIndex: five"))
        .expect("written");
    assert_ne!(validate(&wrong, "1.37").status, 0);
}

/// The one job of the manifest.
fn job() -> Value {
    serde_yaml_ng::from_str(&fs::read_to_string(file("kubernetes.yaml")).expect("text")).expect("YAML")
}

#[test]
fn the_manifest_says_what_the_command_means() {
    let job = job();
    let (spec, container) = (&job["spec"], &job["spec"]["template"]["spec"]["containers"][0]);
    let words: Vec<&str> =
        container["args"].as_sequence().expect("words").iter().filter_map(Value::as_str).collect();
    let shards = words.iter().find_map(|word| word.strip_prefix("--shards=")).expect("how many");
    assert_eq!(spec["completions"].as_u64().map(|count| count.to_string()).as_deref(), Some(shards));
    let fails = &spec["podFailurePolicy"]["rules"][1]["onExitCodes"];
    assert_eq!(fails["values"], serde_yaml_ng::from_str::<Value>("[2]").expect("YAML"));
    assert_eq!(fails["containerName"], container["name"]);
}

/// The root of a container: the tool, and the libraries that it is linked with here.
fn image(root: &Path) {
    let tool = PathBuf::from(vsyspatch().get_program());
    put(&root.join("vsyspatch"), &harness::read(&tool));
    let linked = Ran::of(Command::new("ldd").arg(&tool)).expect(0);
    for library in linked.stdout.split_whitespace().filter(|word| word.starts_with('/')) {
        put(&root.join(&library[1..]), &harness::read(library.as_ref()));
    }
    // Where engines put what they mount.
    for directory in ["proc", "sys", "dev", "etc", "tmp", "fleet", "run"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
}

#[test]
fn a_container_does_its_index_as_a_kubelet_starts_it() {
    if !["podman", "runc"].into_iter().all(need) {
        return;
    }
    if !is_root() {
        return skip("podman without root needs ranges of users");
    }
    let fleet = Fleet::new();
    let shared = fleet.path("shared");
    put(&shared.join("disk/program"), PROGRAM);
    put(&shared.join("disk/other"), OTHER);
    image(&fleet.path("image"));
    let job = job();
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let words: Vec<&str> =
        container["args"].as_sequence().expect("words").iter().filter_map(Value::as_str).collect();
    let run = |index: Option<usize>, words: &[&str]| {
        let mut podman = Command::new("podman");
        let at = |name: &str| fleet.path(name).display().to_string();
        podman.args(["--root", &at("store"), "--runroot", &at("run"), "--storage-driver", "vfs"]);
        podman.args([
            "--cgroup-manager",
            "cgroupfs",
            "--runtime",
            "runc",
            "run",
            "--rm",
            "-q",
            "--network",
            "none",
        ]);
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        // As the manifest says.
        podman.args(["--read-only", "--read-only-tmpfs=false", "--user", "65532:65532", "--cap-drop", "ALL"]);
        podman.args(["--security-opt", "no-new-privileges"]);
        podman.args(["-v", &format!("{}:/fleet", shared.display()), "-v", &format!("{}:/tmp", at("empty"))]);
        if let Some(index) = index {
            podman.args(["-e", &format!("JOB_COMPLETION_INDEX={index}")]);
        }
        Ran::of(podman.args(["--rootfs", &at("image"), "/vsyspatch"]).args(words))
    };
    fs::create_dir(fleet.path("empty")).expect("made");
    for open in ["", "shared", "shared/disk", "empty"] {
        fs::set_permissions(fleet.path(open), Permissions::from_mode(0o777)).expect("its mode");
    }
    let planned = run(None, &["fleet", "plan", "/fleet/disk", "-o", "/fleet/work.jsonl"]);
    if planned.status >= 125 {
        return skip(&format!("podman starts no container here: {}", planned.stderr.trim()));
    }
    planned.expect(0);
    for index in 0..8 {
        let ran = run(Some(index), &words).expect(0);
        assert!(ran.stdout.contains(&format!("shard {}/8: ", index + 1)), "{ran}");
    }
    run(Some(8), &words).expect(2);
    let merged =
        run(None, &["fleet", "merge", "/fleet/results", "--work", "/fleet/work.jsonl", "--json"]).expect(0);
    assert_eq!(merged.json()["totals"]["statuses"], json!({ "patched": 2 }));
    Ran::of(vsyspatch().arg("verify").arg(shared.join("disk/program-novsyscall"))).expect(0);
}

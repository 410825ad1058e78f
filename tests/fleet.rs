//! `fleet plan`, `run` and `merge` through the command: every kind of source, workers that are many, killed, or late,
//! registries that are busy, and the schedulers that start workers.

mod harness;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use harness::fleet::{Fleet, layout, many_images, real_registry, results};
use harness::image::{INDEX, LAYER, LIBRARY, Layout, MANIFEST, OTHER, PROGRAM, files, layer, put};
use harness::web::{Reply, Request, Web};
use harness::{Ran, need, vsyspatch};
use serde_json::Value;

/// The lines without what differs from run to run: times, and the order of images, which is that of their digests.
fn steady(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("time of workers"));
    let (mut items, mut table): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains("  oci:"));
    items.sort_unstable();
    table.extend(items);
    table.iter().map(|line| format!("{line}\n")).collect()
}

/// The text with no digit of a digest: layers that are made here have the time in them.
fn without_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "sha256:..." + part.get(64..).unwrap_or_default())
}

fn an_image(results: &[(String, Value)]) -> &Value {
    &results.iter().find(|(_, result)| result["kind"] == "image").expect("an image").1
}

/// Two images, one of them twice; one that is broken, one that cannot be looked into, one that is clean; an archive;
/// three programs, two of them the same; two trees; and what is none of these.
fn zoo(dir: &Path) {
    fs::create_dir(dir).expect("made");
    let base = files(&[("bin/program", PROGRAM)]);
    let top = files(&[("lib/library.so", LIBRARY)]);
    let clean = files(&[("etc/motd", b"nothing")]);
    let one = [(LAYER, &base[..], &base[..])];
    layout(dir, "image", &one);
    layout(dir, "image-again", &one);
    layout(dir, "image-with-top", &[one[0], (LAYER, &top, &top)]);
    layout(dir, "image-clean", &[(LAYER, &clean, &clean)]);
    let sealed = format!("{LAYER}+encrypted");
    layout(dir, "image-sealed", &[(&sealed, &clean, &clean)]);
    let broken = layout(dir, "image-broken", &[(LAYER, &top, &top)]);
    fs::remove_file(broken.0.join("blobs/sha256").join(&harness::image::digest(&top)[7..])).expect("gone");
    let source = layout(dir, "archived", &[(LAYER, &top, &top), one[0]]);
    let tar = dir.join("archive.tar");
    Ran::of(Command::new("tar").arg("-C").arg(&source.0).arg("-cf").arg(&tar).arg(".")).expect(0);
    fs::remove_dir_all(source.0).expect("gone");
    put(&dir.join("program"), PROGRAM);
    put(&dir.join("program-again"), PROGRAM);
    put(&dir.join("other"), OTHER);
    put(&dir.join("README"), b"no program");
    put(&dir.join("tree/bin/program"), OTHER);
    put(&dir.join("tree-clean/etc/motd"), b"nothing");
}

#[test]
fn all_kinds_of_things_are_planned_done_and_summed_up() {
    let fleet = Fleet::new();
    zoo(&fleet.path("zoo"));
    let dry = fleet.fleet("plan zoo --dry-run --shards 3").expect(0);
    insta::assert_snapshot!("plan", dry.stdout);
    assert!(!fleet.path("work.jsonl").exists(), "{dry}");
    let planned = fleet.fleet("plan zoo -o work.jsonl --shards 3").expect(0);
    assert_eq!(planned.stdout, dry.stdout);
    let json = fleet.fleet("plan zoo --dry-run --json").expect(0).json();
    assert_eq!((&json["items"], &json["names"]), (&10.into(), &12.into()), "{json}");

    let ran = fleet.fleet("run work.jsonl --results results").expect(2);
    assert!(ran.stderr.contains("image-broken") && ran.stderr.contains("has no blob"), "{ran}");
    let merged = fleet.fleet("merge results --work work.jsonl -v").expect(2);
    let told = steady(&merged.stdout).replace(&fleet.path("zoo").display().to_string(), "ZOO");
    insta::assert_snapshot!("merge", without_digests(&told));
    for patched in
        ["zoo/image", "zoo/image-again", "zoo/image-with-top", "zoo/archive.tar", "zoo/program", "zoo/tree"]
    {
        let patched = fleet.path(&format!("{patched}-novsyscall"));
        Ran::of(vsyspatch().arg("verify").arg(&patched)).expect(0);
    }
    for untouched in ["zoo/image-clean", "zoo/image-sealed", "zoo/image-broken"] {
        assert!(!fleet.path(&format!("{untouched}-novsyscall")).exists(), "{untouched}");
    }

    let without_list = fleet.fleet("merge results --json").expect(2).json();
    let mut with_list = fleet.totals("results");
    assert_eq!(
        (&without_list["totals"]["missing"], &with_list["totals"]["missing"]),
        (&Value::Null, &0.into())
    );
    for key in ["missing", "seconds"] {
        with_list["totals"][key] = without_list["totals"][key].clone();
    }
    assert_eq!(without_list["totals"], with_list["totals"]);

    fleet.fleet("merge results --work work.jsonl -q --html page.html").expect(2);
    let page = fs::read_to_string(fleet.path("page.html")).expect("a page");
    assert!(page.contains("zoo/image-broken") && page.ends_with("</html>\n"), "{page}");
}

/// What a worker remembers of one image changes nothing of the next: each is, byte for byte, what the command makes.
#[test]
fn images_on_one_base_are_those_of_the_command() {
    let fleet = Fleet::new();
    let zoo = fleet.path("zoo");
    fs::create_dir(&zoo).expect("made");
    let base = files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY)]);
    let same = files(&[("lib/again.so", LIBRARY)]);
    let hidden = files(&[("lib/.wh.library.so", b"")]);
    let other = files(&[("bin/program", OTHER)]);
    // The same contents under other permissions, and under one name more.
    let private = layer(|tree| {
        put(&tree.join("lib/library.so"), LIBRARY);
        fs::set_permissions(tree.join("lib/library.so"), Permissions::from_mode(0o700)).expect("its mode");
    });
    let linked = layer(|tree| {
        put(&tree.join("lib/library.so"), LIBRARY);
        fs::hard_link(tree.join("lib/library.so"), tree.join("lib/linked.so")).expect("linked");
    });
    let tops =
        [("same", &same), ("hidden", &hidden), ("other", &other), ("private", &private), ("linked", &linked)];
    layout(&zoo, "plain", &[(LAYER, &base, &base)]);
    for (name, top) in tops {
        layout(&zoo, name, &[(LAYER, &base, &base), (LAYER, top, top)]);
    }
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results results --cache-dir cache").expect(0);
    let totals = fleet.totals("results");
    assert_eq!(
        totals["totals"]["layers_known"],
        tops.len(),
        "the base is known to all but the first: {totals}"
    );
    let manifest_of = |layout: &Path| {
        let index: Value = serde_json::from_slice(&harness::read(&layout.join("index.json"))).expect("JSON");
        index["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
    };
    for name in ["plain"].into_iter().chain(tops.map(|(name, _)| name)) {
        let alone = fleet.path(&format!("alone-{name}"));
        let [from, to] = [zoo.join(name), alone.clone()].map(|path| format!("oci:{}", path.display()));
        Ran::of(vsyspatch().args(["patch", "-q", "--no-cache", &from, &to])).expect(0);
        let by_fleet = zoo.join(format!("{name}-novsyscall"));
        assert_eq!(manifest_of(&by_fleet), manifest_of(&alone), "{name}");
        Ran::of(vsyspatch().arg("verify").arg(&by_fleet)).expect(0);
    }
}

#[test]
fn each_action_is_that_of_the_command() {
    let fleet = Fleet::new();
    let zoo = fleet.path("zoo");
    put(&zoo.join("program"), PROGRAM);
    put(&zoo.join("tree/bin/other"), OTHER);
    fleet.fleet("plan zoo --in-place -o work.jsonl").expect(0);
    let statuses = |action: &str| {
        fleet.fleet(&format!("run work.jsonl --results {action} --action {action}")).expect(0);
        fleet.totals(action)["totals"]["statuses"].clone()
    };
    assert_eq!(statuses("scan"), serde_json::json!({ "to-patch": 2 }));
    // What is to be patched is told of, everywhere.
    let merged = fleet.fleet("merge scan --work work.jsonl -v --html page.html").expect(1);
    assert_eq!(merged.stdout.matches("\nto-patch  ").count(), 2, "{merged}");
    let page = fs::read_to_string(fleet.path("page.html")).expect("a page");
    assert_eq!(page.matches("<li>to-patch  ").count(), 2, "{page}");
    let open = fleet.totals("scan")["open"].clone();
    assert_eq!((&open[0]["status"], &open[1]["status"]), (&"to-patch".into(), &"to-patch".into()));
    assert_eq!(harness::read(&zoo.join("program")), PROGRAM);
    assert_eq!(statuses("patch"), serde_json::json!({ "patched": 2 }));
    assert_ne!(harness::read(&zoo.join("program")), PROGRAM);
    assert_eq!(statuses("verify"), serde_json::json!({ "verified": 2 }));
    assert_eq!(statuses("revert"), serde_json::json!({ "reverted": 2 }));
    assert_eq!(harness::read(&zoo.join("program")), PROGRAM);
    assert_eq!(harness::read(&zoo.join("tree/bin/other")), OTHER);
}

#[test]
fn no_result_takes_the_place_of_another_action_s() {
    let fleet = Fleet::new();
    put(&fleet.path("zoo/program"), PROGRAM);
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results results").expect(0);
    let before = results(&fleet.path("results"));
    let other = fleet.fleet("run work.jsonl --results results --action scan").expect(2);
    assert!(other.stderr.contains("a directory of results for each action"), "{other}");
    assert!(results(&fleet.path("results")) == before);
    fleet.fleet("run work.jsonl --results scanned --action scan").expect(0);
    let mixed = fleet.fleet("merge results scanned --work work.jsonl").expect(2);
    assert!(mixed.stderr.contains("is another action"), "{mixed}");
}

#[test]
fn what_is_done_is_not_done_again() {
    let fleet = Fleet::new();
    zoo(&fleet.path("zoo"));
    fleet.fleet("plan zoo --exclude *broken -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results results").expect(0);
    let before = results(&fleet.path("results"));
    let count = fleet.items().len();
    assert_eq!((before.len(), count), (9, 9));
    // Whoever reads an input again would find it gone.
    fs::rename(fleet.path("zoo"), fleet.path("elsewhere")).expect("renamed");
    let again = fleet.fleet("run work.jsonl --results results --json").expect(0).json();
    assert_eq!((&again["now"], &again["before"]), (&0.into(), &9.into()));
    assert_eq!(results(&fleet.path("results")), before);

    // Another version's result, one that is torn, and one that failed are not done.
    fs::rename(fleet.path("elsewhere"), fleet.path("zoo")).expect("renamed");
    let path = |number: usize| {
        let name = &before[number].0;
        fleet.path("results").join(&name[..2]).join(name)
    };
    let before_summary = an_image(&before)["summary"].clone();
    let twisted = |number: usize, key: &str, value: &str| {
        let mut result = before[number].1.clone();
        (result["seconds"], result["layers_known"]) = (0.5.into(), 0.into());
        result["summary"] = before_summary.clone();
        result[key] = value.into();
        fs::write(path(number), result.to_string()).expect("written");
    };
    twisted(0, "tool", "0.0.1 (another)");
    twisted(1, "status", "failed");
    fs::write(path(2), &harness::read(&path(2))[..100]).expect("written");
    let other = fleet.fleet("merge results --json").json();
    assert_eq!(other["totals"]["of_other_versions"], 1);
    let again = fleet.fleet("run work.jsonl --results results --json").expect(0).json();
    assert_eq!((&again["now"], &again["before"]), (&3.into(), &6.into()));
    assert_eq!(results(&fleet.path("results")), before);

    // The same sources make the same list; a program that changed is another item.
    let ids = || fleet.items().iter().map(|item| item["id"].to_string()).collect::<BTreeSet<_>>();
    let ids_before = ids();
    let plan = "plan zoo --exclude *broken --exclude *novsyscall* -o work.jsonl";
    fleet.fleet(plan).expect(0);
    assert_eq!(ids(), ids_before);
    put(&fleet.path("zoo/other"), LIBRARY);
    let changed = fleet.fleet("run work.jsonl --results elsewhere").expect(2);
    assert!(changed.stderr.contains("is not the file that was planned"), "{changed}");
    fleet.fleet(plan).expect(0);
    assert_eq!(ids().difference(&ids_before).count(), 1);
}

#[test]
fn shards_hold_every_item_once_whoever_says_which() {
    let fleet = Fleet::new();
    zoo(&fleet.path("zoo"));
    fleet.fleet("plan zoo --exclude *broken -o work.jsonl").expect(0);
    let run = |results: &str, words: &str, variables: &[(&str, String)]| {
        let mut command =
            fleet.command(&format!("run work.jsonl --action scan --json --results {results} {words}"));
        command.envs(variables.iter().map(|(name, value)| (*name, value)));
        Ran::of(&mut command)
    };
    const SHARDS: usize = 3;
    /// Words and variables that say which shard it is.
    type Way<'a> = &'a dyn Fn(usize) -> (String, Vec<(&'static str, String)>);
    let ways: [(&str, Way<'_>); 5] = [
        ("option", &|n| (format!("--shard {}/{SHARDS}", n + 1), vec![])),
        ("slurm", &|n| {
            let of = |name, value: usize| (name, value.to_string());
            let all = vec![
                of("SLURM_ARRAY_TASK_ID", n + 5),
                of("SLURM_ARRAY_TASK_COUNT", SHARDS),
                of("SLURM_ARRAY_TASK_MIN", 5),
                of("SLURM_ARRAY_TASK_MAX", 7),
            ];
            (String::new(), all)
        }),
        ("kubernetes", &|n| (format!("--shards {SHARDS}"), vec![("JOB_COMPLETION_INDEX", n.to_string())])),
        ("nomad", &|n| (format!("--shards {SHARDS}"), vec![("NOMAD_ALLOC_INDEX", n.to_string())])),
        ("parallel", &|n| (format!("--shards {SHARDS}"), vec![("PARALLEL_SEQ", (n + 1).to_string())])),
    ];
    let mut all = Vec::new();
    for (results_name, way) in ways {
        let mut counts = Vec::new();
        for shard in 0..SHARDS {
            let (words, variables) = way(shard);
            counts.push(
                run(results_name, &words, &variables).expect(0).json()["now"].as_u64().expect("a number"),
            );
        }
        assert!(counts.iter().all(|&count| count > 0) && counts.iter().sum::<u64>() == 9, "{counts:?}");
        all.push(results(&fleet.path(results_name)));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));

    // Slurm says how many there are; what the command says is the same or an error, unless it says which.
    let array = [("SLURM_ARRAY_TASK_ID", "1".to_owned()), ("SLURM_ARRAY_TASK_COUNT", "3".into())];
    run("x", "--shards 3", &array).expect(0);
    let unclear = run("x", "--shards 4", &array).expect(2);
    assert!(unclear.stderr.contains("--shards 4, and the array of Slurm has 3 tasks"), "{unclear}");
    assert_eq!(run("x", "--shard 2/4", &array).expect(0).json()["shard"], "2/4");
    let unclear = run("x", "", &[("JOB_COMPLETION_INDEX", "0".into())]).expect(2);
    assert!(unclear.stderr.contains("--shards N"), "{unclear}");
    run("x", "--shards 2", &[]).expect(2);
    run("x", "--shard 3/2", &[]).expect(2);
    // Half of it is missing, which another run helps.
    run("half", "--shard 1/2", &[]).expect(0);
    let half = fleet.fleet("merge half --work work.jsonl --json").expect(3).json();
    let missing = half["totals"]["missing"].as_u64().expect("a number");
    assert!(missing > 0 && half["totals"]["results"].as_u64() == Some(9 - missing), "{half}");
}

/// A layout with images that have these names, and one that has none.
fn several(dir: &Path, name: &str, names: &[&str]) -> (Layout, Vec<Value>) {
    let made = Layout::new(dir, name);
    let of = |number: usize| {
        let tar = files(&[("bin/program", PROGRAM), ("number", number.to_string().as_bytes())]);
        made.manifest("amd64", &[(LAYER, &tar, &tar)])
    };
    let mut all: Vec<Value> = (0..=names.len()).map(of).collect();
    for (one, name) in all.iter_mut().zip(names) {
        one["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": all });
    fs::write(made.0.join("index.json"), index.to_string()).expect("written");
    (made, all)
}

/// Packs what is in `layout`, which is gone then.
fn packed(layout: &Layout, archive: &Path) {
    Ran::of(Command::new("tar").arg("-C").arg(&layout.0).arg("-cf").arg(archive).arg(".")).expect(0);
    fs::remove_dir_all(&layout.0).expect("gone");
}

#[test]
fn each_image_of_an_archive_is_an_item() {
    let fleet = Fleet::new();
    let zoo = fleet.path("zoo");
    fs::create_dir(&zoo).expect("made");
    let (layout, _) = several(&fleet.path(""), "oci", &["v1", "v2"]);
    packed(&layout, &zoo.join("oci.tar"));
    let (layout, all) = several(&fleet.path(""), "docker", &["", ""]);
    let path = |digest: &Value| format!("blobs/sha256/{}", &digest.as_str().expect("a digest")[7..]);
    let listed = all.iter().zip([&["team/app:1", "team/app:latest"][..], &["other:1"], &[]]).map(|(one, names)| {
        let manifest = layout.document(&one["digest"]);
        let layer = path(&manifest["layers"][0]["digest"]);
        serde_json::json!({ "Config": path(&manifest["config"]["digest"]), "RepoTags": names, "Layers": [layer] })
    });
    put(
        &layout.0.join("manifest.json"),
        serde_json::json!(listed.collect::<Vec<_>>()).to_string().as_bytes(),
    );
    fs::remove_file(layout.0.join("index.json")).expect("gone");
    packed(&layout, &zoo.join("docker.tar"));

    let planned = fleet.fleet("plan zoo -o work.jsonl --json").expect(2);
    assert_eq!(planned.stderr.matches("1 of its images left out: they have no name").count(), 2, "{planned}");
    let planned = planned.json();
    assert_eq!(
        (&planned["items"], &planned["names"], &planned["unnamed"]),
        (&4.into(), &5.into(), &2.into()),
        "{planned}"
    );
    fleet.fleet("run work.jsonl --results results").expect(0);
    assert_eq!(fleet.totals("results")["totals"]["statuses"], serde_json::json!({ "patched": 4 }));
    for (archive, name) in [
        ("oci.tar-v1", "v1"),
        ("oci.tar-v2", "v2"),
        ("docker.tar-team-app-1", "team/app:1"),
        ("docker.tar-team-app-latest", "team/app:latest"),
        ("docker.tar-other-1", "other:1"),
    ] {
        let name = format!("docker-archive:{}-novsyscall:{name}", zoo.join(archive).display());
        Ran::of(vsyspatch().args(["verify", &name])).expect(0);
    }
}

#[test]
fn links_in_a_directory_are_counted() {
    let fleet = Fleet::new();
    put(&fleet.path("zoo/program"), PROGRAM);
    std::os::unix::fs::symlink("program", fleet.path("zoo/link")).expect("made");
    std::os::unix::fs::symlink("nowhere", fleet.path("zoo/dangling")).expect("made");
    let planned = fleet.fleet("plan zoo -n").expect(0);
    assert!(planned.stdout.contains("2 symbolic links left out"), "{planned}");
    let planned = fleet.fleet("plan zoo -n --exclude dangling --json").expect(0).json();
    assert_eq!((&planned["items"], &planned["links"]), (&1.into(), &1.into()), "{planned}");
}

#[test]
fn one_name_more_is_all_that_is_done_for_it() {
    let fleet = Fleet::new();
    let web = Web::default();
    let tar = files(&[("bin/program", PROGRAM)]);
    let made = layout(&fleet.path(""), "made", &[(LAYER, &tar, &tar)]);
    web.put_layout(&made, "team/app");
    let plan = || {
        fleet.fleet(&format!("plan docker://{}/ --exclude *-novsyscall -o work.jsonl", web.address)).expect(0)
    };
    plan();
    fleet.fleet("run work.jsonl --results results").expect(0);
    let before = fleet.items();
    let [manifest, _] = made.image();
    web.put_manifest("team/app", "stable", MANIFEST, &serde_json::to_vec(&manifest).expect("JSON"));
    plan();
    let after = fleet.items();
    assert_eq!(after[0]["places"].as_array().map(Vec::len), Some(2), "{after:?}");
    assert_eq!(before[0]["id"], after[0]["id"]);
    assert_eq!(
        fleet.fleet("merge results --work work.jsonl --json").expect(3).json()["totals"]["missing"],
        1
    );
    web.twist(|request, reply| {
        let is_first = request.method == "PUT" && request.path.ends_with("v1-novsyscall");
        if is_first { Reply::error(403, "DENIED") } else { reply }
    });
    let again = fleet.fleet("run work.jsonl --results results --json").expect(0).json();
    assert_eq!((&again["now"], &again["before"]), (&1.into(), &0.into()));
    let all = results(&fleet.path("results"));
    assert_eq!((all.len(), all[0].1["places"].as_array().map(Vec::len)), (1, Some(2)), "{all:?}");
    for tag in ["v1-novsyscall", "stable-novsyscall"] {
        assert!(web.has_tag("team/app", tag), "{tag}");
    }
    let again = fleet.fleet("run work.jsonl --results results --json").expect(0).json();
    assert_eq!((&again["now"], &again["before"]), (&0.into(), &1.into()));
}

/// A worker that fails while another one is done, at the last moment.
#[test]
fn a_failure_takes_the_place_of_no_result() {
    let fleet = Fleet::new();
    let web = Web::default();
    many_images(&fleet.path(""), 1, |name, layout| web.put_layout(layout, name));
    fleet.fleet(&format!("plan docker://{}/ -o work.jsonl", web.address)).expect(0);
    fleet.fleet("run work.jsonl --results good").expect(0);
    let good = results(&fleet.path("good"));
    let (from, to) = (fleet.path("good"), fleet.path("late"));
    web.twist(move |request, reply| {
        let is_last = request.method == "PUT" && request.path.ends_with("-novsyscall");
        if !is_last {
            return reply;
        }
        Ran::of(Command::new("cp").arg("-r").arg(&from).arg(&to)).expect(0);
        Reply::error(403, "DENIED")
    });
    let late = fleet.fleet("run work.jsonl --results late").expect(2);
    assert!(late.stderr.contains("DENIED"), "{late}");
    let there = results(&fleet.path("late"));
    assert!(there.len() == 2 && there.contains(&good[0]), "{there:?}");
    assert_eq!(fleet.totals("late")["totals"], fleet.totals("good")["totals"]);
    let again = fleet.fleet("run work.jsonl --results late --json").expect(0).json();
    assert_eq!((&again["now"], &again["before"]), (&0.into(), &1.into()));
    // Of another input, or by another version, it is no result of this one: then the failure counts.
    let (name, mut result) = good[0].clone();
    (result["seconds"], result["layers_known"]) = (0.5.into(), 0.into());
    result["tool"] = "0.0.1 (another)".into();
    fs::write(fleet.path("late").join(&name[..2]).join(&name), result.to_string()).expect("written");
    assert_eq!(fleet.totals("late")["totals"]["statuses"], serde_json::json!({ "failed": 1 }));
    // What is done in the end leaves no failure behind.
    web.twist(|_, reply| reply);
    fleet.fleet("run work.jsonl --results late").expect(0);
    assert_eq!(results(&fleet.path("late")), good);
}

#[test]
fn images_are_brought_back_as_they_were() {
    let fleet = Fleet::new();
    let web = Web::default();
    many_images(&fleet.path(""), 3, |name, layout| web.put_layout(layout, name));
    let all = format!("docker://{}/", web.address);
    fleet.fleet(&format!("plan {all} -o work.jsonl")).expect(0);
    let digests = || fleet.items().iter().map(|item| item["digest"].to_string()).collect::<BTreeSet<_>>();
    let before = digests();
    fleet.fleet("run work.jsonl --results patched").expect(0);
    let back = "--destination {registry}/{repository}:{tag}-back";
    fleet.fleet(&format!("plan {all} --include *-novsyscall {back} -o work.jsonl")).expect(0);
    fleet.fleet("run work.jsonl --results reverted --action revert").expect(0);
    assert_eq!(fleet.totals("reverted")["totals"]["statuses"], serde_json::json!({ "reverted": 3 }));
    fleet.fleet(&format!("plan {all} --include *-back -o work.jsonl")).expect(0);
    assert_eq!(digests(), before);
}

#[test]
fn merging_again_or_with_copies_of_results_gives_the_same() {
    let fleet = Fleet::new();
    zoo(&fleet.path("zoo"));
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results a").expect(2);
    let once = fleet.totals("a");
    Ran::of(Command::new("cp").arg("-r").arg(fleet.path("a")).arg(fleet.path("b"))).expect(0);
    assert_eq!(fleet.totals("a"), once);
    assert_eq!(fleet.totals("a b"), once);
    // A worker that was less fortunate elsewhere.
    let summary = an_image(&results(&fleet.path("b")))["summary"].clone();
    for (name, mut result) in results(&fleet.path("b")) {
        (result["seconds"], result["layers_known"]) = (0.5.into(), 0.into());
        result["summary"] = summary.clone();
        result["status"] = "failed".into();
        result["error"] = serde_json::json!({ "kind": "unavailable", "message": "away", "may_pass": true });
        fs::write(fleet.path("b").join(&name[..2]).join(&name), result.to_string()).expect("written");
    }
    assert_eq!(fleet.totals("a b")["totals"]["statuses"], once["totals"]["statuses"]);
    assert_eq!(fleet.totals("b a"), fleet.totals("a b"));
    assert_eq!(fleet.fleet("merge b --work work.jsonl").status, 3);
    // What is no result counts for nothing.
    put(&fleet.path("a/00/notes.txt"), b"x");
    put(&fleet.path("a/ab/ab.json"), b"x");
    assert_eq!(fleet.totals("a"), once);
    fleet.fleet("merge no-such-directory").expect(2);
}

// --- registries ---

#[test]
fn a_whole_registry_is_patched_and_each_content_once() {
    if !["docker-registry", "skopeo"].into_iter().all(need) {
        return;
    }
    let fleet = Fleet::new();
    let (registry, statuses) = real_registry(&fleet, 20);
    let all = format!("docker://{}/", registry.address);
    let planned = fleet.fleet(&format!("plan {all} -o work.jsonl --json")).expect(0).json();
    assert_eq!((&planned["items"], &planned["names"]), (&20.into(), &22.into()), "{planned}");
    for (words, items) in [
        (format!("{all}team1/*"), 7),
        (format!("{all}team0/app0:*"), 1),
        (format!("{all}team0/*:s*"), 1),
        (format!("{all}team0/app0:v1"), 1),
        (format!("{all} --include team2/* --exclude *app2:v1"), 6),
    ] {
        let counted = fleet.fleet(&format!("plan {words} --dry-run --json")).expect(0).json();
        assert_eq!(counted["items"], items, "{words}");
    }
    // Images on one base stand together.
    let costs: Vec<u64> = fleet.items().iter().map(|item| item["cost"].as_u64().expect("a number")).collect();
    let dear = costs.iter().filter(|&&cost| cost > (1 << 20) + 150_000).count();
    assert_eq!(dear, 1, "the base with noise is read once: {costs:?}");

    let ran = fleet.fleet("run work.jsonl --results results --cache-dir cache").expect(2);
    assert!(ran.stderr.contains("team1/lost0"), "{ran}");
    let merged = fleet.totals("results");
    let totals = &merged["totals"];
    assert_eq!(totals["statuses"], statuses, "{merged}");
    assert_eq!((&totals["written"], &totals["missing"]), (&17.into(), &0.into()));
    assert!(totals["layers_known"].as_u64().expect("a number") >= 16, "{merged}");
    let digest = |tag: &str| {
        let inspected = Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--raw"])
            .arg(format!("{all}team0/app0:{tag}-novsyscall"))
            .output();
        harness::sha256(&inspected.expect("it runs").stdout)
    };
    assert!(digest("v1") == digest("latest") && digest("v1") == digest("stable"));
    Ran::of(vsyspatch().args(["verify", &format!("{all}team0/app0:v1-novsyscall")])).expect(0);

    // What is patched is planned, too, unless it is left out, and is patched already.
    let again = fleet.fleet(&format!("plan {all} --exclude *-novsyscall --dry-run --json")).expect(0).json();
    assert_eq!(again["items"], 20);
    fleet.fleet(&format!("plan {all} --include *-novsyscall -o work.jsonl")).expect(0);
    fleet.fleet("run work.jsonl --results verified --action verify --shard 1/1").expect(0);
    assert_eq!(fleet.totals("verified")["totals"]["statuses"], serde_json::json!({ "verified": 15 }));
}

/// An image that holds nothing but the program has no authorities that it could trust: registries are reached all the same.
#[test]
fn registries_are_reached_where_the_system_has_no_certificates() {
    let fleet = Fleet::new();
    let web = Web::default();
    many_images(&fleet.path(""), 2, |name, layout| web.put_layout(layout, name));
    let bare = |words: &str| {
        let mut command = fleet.command(words);
        command.env("SSL_CERT_FILE", "/no/such/file").env("SSL_CERT_DIR", "/no/such/directory");
        Ran::of(&mut command)
    };
    bare(&format!("plan docker://{}/ -o work.jsonl", web.address)).expect(0);
    bare("run work.jsonl --results results").expect(0);
    assert_eq!(fleet.totals("results")["totals"]["statuses"], serde_json::json!({ "patched": 2 }));
}

#[test]
fn a_registry_that_is_killed_in_mid_run_and_started_again() {
    if !need("docker-registry") {
        return;
    }
    let fleet = Fleet::new();
    let (mut registry, statuses) = real_registry(&fleet, 60);
    fleet.fleet(&format!("plan docker://{}/ -o work.jsonl", registry.address)).expect(0);
    let place = fleet.path("results");
    let done = || if place.is_dir() { results(&place).len() } else { 0 };
    let workers =
        [1, 2].map(|n| spawn(&mut fleet.command(&format!("run work.jsonl --results results --shard {n}/2"))));
    while done() < 6 {
        std::thread::yield_now();
    }
    registry.kill();
    let before = done();
    assert!(before < 60, "it was killed in mid-run");
    // Longer than a worker tries again.
    std::thread::sleep(std::time::Duration::from_secs(5));
    registry.start_again();
    for mut worker in workers {
        assert!([0, 2, 3].contains(&worker.wait().expect("ended").code().expect("a status")));
    }
    let totals = fleet.totals("results")["totals"].clone();
    assert!(totals["may_pass"].as_u64() > Some(0) && totals["missing"] == 0, "{totals}");
    // What it was away for is done by the next; what is broken stays so.
    fleet.fleet("run work.jsonl --results results").expect(2);
    let totals = fleet.totals("results")["totals"].clone();
    assert_eq!((&totals["statuses"], &totals["may_pass"]), (&statuses, &0.into()), "{totals}");
    let name = |tag: &str| format!("docker://{}/team0/app0:{tag}-novsyscall", registry.address);
    for tag in ["v1", "latest", "stable"] {
        Ran::of(vsyspatch().args(["verify", &name(tag)])).expect(0);
    }
}

#[test]
fn a_repository_that_cannot_be_listed_ends_no_plan() {
    let fleet = Fleet::new();
    let web = Web::default();
    many_images(&fleet.path(""), 6, |name, layout| web.put_layout(layout, name));
    let answers = |status: u16, code: &'static str| {
        web.twist(move |request, reply| {
            let is_it = request.path.starts_with("/v2/team1/app4/tags");
            if is_it { Reply::error(status, code).header("Retry-After", "0") } else { reply }
        });
    };
    let plan =
        |words: &str| fleet.fleet(&format!("plan docker://{}/{words} -o work.jsonl --json", web.address));
    // All images of it were deleted, and the catalog still has its name.
    for (status, code, expected, unlisted) in
        [(404, "NAME_UNKNOWN", 0, 0), (403, "DENIED", 2, 1), (503, "AWAY", 3, 1)]
    {
        answers(status, code);
        let ran = plan("").expect(expected);
        assert!(ran.stderr.contains("team1/app4: "), "{ran}");
        let planned = ran.json();
        assert_eq!((&planned["items"], &planned["unlisted"]), (&5.into(), &unlisted.into()), "{planned}");
        assert_eq!(fleet.items().len(), 5);
    }
    // Whoever names it means it.
    answers(404, "NAME_UNKNOWN");
    let named = plan("team1/app4:*").expect(2);
    assert!(named.stderr.contains("there is no repository"), "{named}");
}

#[test]
fn a_registry_without_a_catalog_ends_no_other_source() {
    let fleet = Fleet::new();
    let [bad, good] = [Web::default(), Web::default()];
    many_images(&fleet.path(""), 2, |name, layout| good.put_layout(layout, name));
    put(&fleet.path("zoo/program"), PROGRAM);
    for (status, expected) in [(404, 2), (503, 3)] {
        bad.twist(move |_, _| Reply::error(status, "NO").header("Retry-After", "0"));
        let sources = format!("docker://{}/ docker://{}/ zoo", bad.address, good.address);
        let planned = fleet.fleet(&format!("plan {sources} -o work.jsonl")).expect(expected);
        assert!(planned.stderr.contains(&format!("docker://{}/: only what", bad.address)), "{planned}");
        assert!(planned.stdout.contains("1 source ended with an error"), "{planned}");
        assert_eq!(fleet.items().len(), 3);
        fs::remove_file(fleet.path("work.jsonl")).expect("gone");
    }
    // Where there is no other, there is no list.
    fleet.fleet(&format!("plan docker://{}/ -o work.jsonl", bad.address)).expect(3);
    assert!(!fleet.path("work.jsonl").exists());
}

#[test]
fn signatures_and_charts_are_no_images() {
    let fleet = Fleet::new();
    let web = Web::default();
    many_images(&fleet.path(""), 1, |name, layout| web.put_layout(layout, name));
    let manifest = |config: &str| {
        let of = |kind: &str| serde_json::json!({ "mediaType": kind, "digest": harness::image::digest(b"{}"), "size": 2 });
        let value = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": of(config),
            "layers": [of("application/vnd.dev.cosign.simplesigning.v1+json")] });
        serde_json::to_vec(&value).expect("JSON")
    };
    web.put_blob(b"{}");
    let (image, chart) =
        ("application/vnd.oci.image.config.v1+json", "application/vnd.cncf.helm.config.v1+json");
    let of_digest = |end: &str| format!("sha256-{}{end}", "0123456789abcdef".repeat(4));
    for end in [".sig", ".att", ".sbom"] {
        web.put_manifest("team0/app0", &of_digest(end), MANIFEST, &manifest(image));
    }
    web.put_manifest("charts/app", "1.0", MANIFEST, &manifest(chart));
    // The index of what refers to an image, in a registry that has no list of its own.
    let own = manifest(chart);
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": harness::image::digest(&own), "size": own.len(), "artifactType": chart }] });
    web.put_manifest("team0/app0", &of_digest(""), INDEX, index.to_string().as_bytes());
    web.put_manifest("team0/app0", &harness::image::digest(&own), MANIFEST, &own);
    let planned =
        fleet.fleet(&format!("plan docker://{}/ -o work.jsonl --json", web.address)).expect(0).json();
    assert_eq!((&planned["items"], &planned["artifacts"]), (&1.into(), &5.into()), "{planned}");
    let told = fleet.fleet(&format!("plan docker://{}/ -n", web.address)).expect(0);
    assert!(told.stdout.contains("5 signatures or artifacts left out"), "{told}");
    fleet.fleet("run work.jsonl --results results").expect(0);
    assert_eq!(fleet.totals("results")["totals"]["statuses"], serde_json::json!({ "patched": 1 }));
}

#[test]
fn lists_in_pages_and_a_registry_that_is_busy() {
    let fleet = Fleet::new();
    let web = Web::default();
    web.pages_of(3);
    many_images(&fleet.path(""), 10, |name, layout| web.put_layout(layout, name));
    // Of every fourth thing that is asked for the first three requests fail.
    let asked = Mutex::new(Vec::<(String, usize)>::new());
    let busy = move |request: &Request, reply| {
        let mut asked = asked.lock().unwrap();
        let index = asked.iter().position(|(other, _)| other == request.attempt()).unwrap_or_else(|| {
            asked.push((request.attempt().to_owned(), 0));
            asked.len() - 1
        });
        asked[index].1 += usize::from(index % 4 == 0);
        match asked[index].1 {
            1 => Reply::none(), // the pause after it is the shortest where it comes first
            2 => Reply::error(429, "TOOMANYREQUESTS").header("Retry-After", "0"),
            3 => Reply::error(500, "BUSY").header("Retry-After", "0"),
            _ => reply,
        }
    };
    web.twist(busy);
    let planned =
        fleet.fleet(&format!("plan docker://{}/ -o work.jsonl --json", web.address)).expect(0).json();
    assert_eq!(planned["items"], 10, "{planned}");
    assert_eq!(planned["unresolved"], 0, "{planned}");
    assert!(web.requests().iter().any(|request| request.path.contains("_catalog?n=1000&last=")));
    fleet.fleet("run work.jsonl --results results").expect(0);
    let all_done = serde_json::json!({ "clean": 2, "patched": 8 });
    assert_eq!(fleet.totals("results")["totals"]["statuses"], all_done);

    // One that is away for longer: status 3, and the same again when it is back.
    web.twist(|_, _| Reply::error(503, "AWAY").header("Retry-After", "0"));
    let away = fleet.fleet("run work.jsonl --results later --no-cache").expect(3);
    assert!(away.stdout.contains("10 failed, 10 of them may pass"), "{away}");
    let merged = fleet.fleet("merge later --work work.jsonl").expect(3);
    assert!(merged.stdout.contains("  of them may pass  10"), "{merged}");
    let planned = fleet.fleet(&format!("plan docker://{}/ -o none.jsonl", web.address)).expect(3);
    assert!(planned.stderr.contains("answers 503") && !fleet.path("none.jsonl").exists(), "{planned}");
    web.twist(|_, reply| reply);
    fleet.fleet("run work.jsonl --results later").expect(0);
    assert_eq!(fleet.totals("later")["totals"]["statuses"], all_done);
    // A registry without a catalog says what to do instead; repositories and lists of references are found still.
    web.twist(
        |request, reply| {
            if request.path.contains("_catalog") { Reply::error(404, "UNSUPPORTED") } else { reply }
        },
    );
    let none = fleet.fleet(&format!("plan docker://{}/team0/* -n", web.address)).expect(2);
    assert!(none.stderr.contains("the catalog of") && none.stderr.contains("name repositories"), "{none}");
    let one = fleet.fleet(&format!("plan docker://{}/team0/app0:* -n --json", web.address)).expect(0).json();
    assert_eq!((&one["items"], &one["names"]), (&2.into(), &2.into()), "with the patched one");
}

#[test]
fn workers_that_are_killed_lose_nothing_and_do_nothing_twice() {
    const KILLS: u64 = 50;
    let fleet = Fleet::new();
    let web = Web::default();
    many_images(&fleet.path(""), 6, |name, layout| web.put_layout(layout, name));
    put(&fleet.path("disk/program"), PROGRAM);
    put(&fleet.path("disk/tree/bin/other"), OTHER);
    let sources = format!("docker://{}/ disk", web.address);
    fleet.fleet(&format!("plan {sources} -o work.jsonl")).expect(0);
    // What comes of it where nobody is killed, in a registry that looks the same.
    let begun = std::time::Instant::now();
    fleet.fleet("run work.jsonl --results whole").expect(0);
    let whole_run = begun.elapsed();
    let whole = results(&fleet.path("whole"));
    let written = |name: &str| fs::read(fleet.path(name)).ok();
    let program = written("disk/program-novsyscall").expect("patched");
    for name in ["disk/program-novsyscall", "disk/program-novsyscall.vsyspatch.json"] {
        fs::remove_file(fleet.path(name)).expect("gone");
    }
    fs::remove_dir_all(fleet.path("disk/tree-novsyscall")).expect("gone");

    let seed = std::process::id().into();
    eprintln!("seed {seed}");
    let mut random: u64 = seed;
    let (mut killed, mut halfway, mut ended) = (0, 0, 0);
    while killed < KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Somewhere in the time of a few items, for one begins where the last was killed.
        let moment = whole_run.mul_f64(0.8 * (random >> 40) as f64 / (1 << 24) as f64);
        let mut worker = spawn(&mut fleet.command("run work.jsonl --results killed"));
        std::thread::sleep(moment);
        if worker.try_wait().expect("its status").is_some() {
            // All is done: from the begin.
            let found = results(&fleet.path("killed"));
            assert!(found == whole, "seed {seed}");
            fs::remove_dir_all(fleet.path("killed")).expect("gone");
            ended += 1;
            continue;
        }
        worker.kill().expect("killed");
        worker.wait().expect("ended");
        killed += 1;
        if fleet.path("killed").is_dir() {
            let found = results(&fleet.path("killed"));
            assert!(found.iter().all(|result| whole.contains(result)), "seed {seed}");
            halfway += usize::from((1..whole.len()).contains(&found.len()));
        }
    }
    fleet.fleet("run work.jsonl --results killed").expect(0);
    assert!(results(&fleet.path("killed")) == whole, "seed {seed}");
    assert!(written("disk/program-novsyscall") == Some(program), "seed {seed}");
    eprintln!("{killed} killed, {halfway} with a part done, {ended} came to an end");
    assert!(halfway > 0, "nobody was killed at work");
    for item in fleet.items() {
        for place in item["places"].as_array().expect("places") {
            let name = place["destination"].as_str().expect("text").replace("docker://", "");
            let Some((_, rest)) = name.split_once(&format!("{}/", web.address)) else { continue };
            let (repository, tag) = rest.rsplit_once(':').expect("a tag");
            if web.has_tag(repository, tag) {
                Ran::of(vsyspatch().args(["verify", &format!("docker://{name}")])).expect(0);
            }
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

#[test]
fn two_workers_at_once_come_to_the_same() {
    let fleet = Fleet::new();
    zoo(&fleet.path("zoo"));
    fleet.fleet("plan zoo --exclude *broken -o work.jsonl").expect(0);
    std::thread::scope(|scope| {
        let work = || fleet.fleet("run work.jsonl --results results --cache-dir cache").expect(0);
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().for_each(|worker| drop(worker.join().expect("done")));
    });
    let together = fleet.totals("results")["totals"].clone();
    assert_eq!(together["statuses"], serde_json::json!({ "clean": 2, "patched": 6, "refused": 1 }));
    for patched in
        ["image", "image-again", "image-with-top", "archive.tar", "program", "program-again", "tree"]
    {
        Ran::of(vsyspatch().arg("verify").arg(fleet.path(&format!("zoo/{patched}-novsyscall")))).expect(0);
    }
}

/// The modification time of the file at `path`, a day ago.
fn made_older(path: &Path) {
    Ran::of(Command::new("touch").args(["-d", "yesterday"]).arg(path)).expect(0);
}

#[test]
fn a_patched_copy_counts_for_the_tree_that_it_is_of_alone() {
    let fleet = Fleet::new();
    put(&fleet.path("zoo/tree/bin/other"), OTHER);
    put(&fleet.path("zoo/tree/etc/motd"), b"hello");
    let plan = "plan zoo --exclude *novsyscall -o work.jsonl";
    fleet.fleet(plan).expect(0);
    fleet.fleet("run work.jsonl --results first").expect(0);
    // A worker that was killed before it could write the result.
    fleet.fleet("run work.jsonl --results second").expect(0);
    assert_eq!(fleet.totals("second")["totals"]["statuses"], serde_json::json!({ "patched": 1 }));
    // The same names and sizes, and another content: of a file that nobody patched, and of one that was, as old as before.
    let stale = |results: &str| {
        let ran = fleet.fleet(&format!("run work.jsonl --results {results}")).expect(2);
        assert!(ran.stderr.contains("is there already, and is not what patching"), "{ran}");
    };
    fs::write(fleet.path("zoo/tree/etc/motd"), b"HELLO").expect("written");
    fleet.fleet(plan).expect(0);
    stale("third");
    fs::remove_dir_all(fleet.path("zoo/tree-novsyscall")).expect("gone");
    fleet.fleet("run work.jsonl --results fourth").expect(0);
    let program = fleet.path("zoo/tree/bin/other");
    let before = fs::metadata(&program).and_then(|of| of.modified()).expect("its time");
    let mut changed = OTHER.to_vec();
    *changed.last_mut().expect("bytes") ^= 1;
    fs::write(&program, changed).expect("written");
    let file = fs::File::options().write(true).open(&program).expect("opened");
    file.set_modified(before).expect("as old as before");
    stale("fifth");
}

#[test]
fn a_tree_that_is_not_what_was_planned_is_told_of() {
    let fleet = Fleet::new();
    let file = fleet.path("zoo/tree/etc/motd");
    put(&fleet.path("zoo/tree/bin/other"), OTHER);
    put(&file, b"hello");
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    made_older(&file);
    let changed = fleet.fleet("run work.jsonl --results results").expect(2);
    assert!(changed.stderr.contains("is not the tree that was planned"), "{changed}");
    assert!(!fleet.path("zoo/tree-novsyscall").exists());
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results results").expect(0);
}

#[test]
fn what_is_replaced_is_what_was_planned_or_that_patched() {
    let fleet = Fleet::new();
    let (file, program) = (fleet.path("zoo/tree/etc/motd"), fleet.path("zoo/program"));
    put(&program, PROGRAM);
    put(&fleet.path("zoo/tree/bin/other"), OTHER);
    put(&file, b"hello");
    fleet.fleet("plan zoo --in-place -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results first").expect(0);
    // As by a worker that was killed before it could write the result.
    fleet.fleet("run work.jsonl --results second").expect(0);
    fleet.fleet("run work.jsonl --results verified --action verify").expect(0);
    made_older(&file);
    put(&program, LIBRARY);
    let before = harness::mtree::listing(&fleet.path("zoo"));
    for action in ["patch", "revert"] {
        let changed = fleet.fleet(&format!("run work.jsonl --results {action} --action {action}")).expect(2);
        assert!(changed.stderr.contains("is not the tree that was planned"), "{changed}");
        assert!(changed.stderr.contains("is not the file that was planned"), "{changed}");
        harness::mtree::assert_same(&before, &harness::mtree::listing(&fleet.path("zoo")), action);
    }
    fleet.fleet("plan zoo --in-place --exclude program* -o work.jsonl").expect(0);
    fleet.fleet("run work.jsonl --results reverted --action revert").expect(0);
    assert_eq!(harness::read(&fleet.path("zoo/tree/bin/other")), OTHER);
}

#[test]
fn what_is_mounted_in_a_tree_is_of_it() {
    if !harness::is_root() {
        return harness::skip("only root mounts a file system");
    }
    let fleet = Fleet::new();
    put(&fleet.path("zoo/tree/etc/motd"), b"hello");
    fs::create_dir(fleet.path("zoo/tree/mnt")).expect("made");
    let inner = Mounted(fleet.path("zoo/tree/mnt"));
    let mounted = inner.mount("size=1m");
    if mounted.status != 0 {
        return harness::skip(&format!("cannot mount here: {}", mounted.stderr.trim()));
    }
    put(&fleet.path("zoo/tree/mnt/other"), OTHER);
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    put(&fleet.path("zoo/tree/mnt/program"), PROGRAM);
    let changed = fleet.fleet("run work.jsonl --results results").expect(2);
    assert!(changed.stderr.contains("is not the tree that was planned"), "{changed}");
}

#[test]
fn a_tree_that_another_run_is_at_work_in_may_pass() {
    let fleet = Fleet::new();
    put(&fleet.path("zoo/tree/bin/other"), OTHER);
    fleet.fleet("plan zoo --in-place -o work.jsonl").expect(0);
    let tree = fs::File::open(fleet.path("zoo/tree")).expect("opened");
    tree.lock().expect("held, as by a run");
    let busy = fleet.fleet("run work.jsonl --results results").expect(3);
    assert!(
        busy.stderr.contains("another run is at work") && busy.stdout.contains("1 of them may pass"),
        "{busy}"
    );
    drop(tree);
    fleet.fleet("run work.jsonl --results results").expect(0);
    assert_eq!(fleet.totals("results")["totals"]["statuses"], serde_json::json!({ "patched": 1 }));
}

/// A small file system of its own, gone when dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn mount(&self, options: &str) -> Ran {
        let mut mount = Command::new("mount");
        Ran::of(mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Ran::of(Command::new("umount").arg(&self.0));
    }
}

#[test]
fn a_full_disk_may_pass() {
    if !harness::is_root() {
        return harness::skip("only root mounts a small file system");
    }
    let fleet = Fleet::new();
    zoo(&fleet.path("zoo"));
    fleet.fleet("plan zoo --exclude *broken -o work.jsonl").expect(0);
    fs::create_dir(fleet.path("results")).expect("made");
    let small = Mounted(fleet.path("results"));
    let mounted = small.mount("size=16k");
    if mounted.status != 0 {
        return harness::skip(&format!("cannot mount here: {}", mounted.stderr.trim()));
    }
    let full = fleet.fleet("run work.jsonl --results results").expect(3);
    assert!(full.stderr.contains("No space left") && full.stderr.contains("make room"), "{full}");
    let there = results(&fleet.path("results")).len();
    assert!((1..9).contains(&there), "{there} results, each whole");
    assert_eq!(fleet.fleet("merge results --work work.jsonl").status, 3);
    small.mount("remount,size=1m").expect(0);
    fleet.fleet("run work.jsonl --results results").expect(0);
    assert_eq!(results(&fleet.path("results")).len(), 9);
}

#[test]
fn lists_that_are_none_are_said_to_be_so() {
    let fleet = Fleet::new();
    put(&fleet.path("zoo/program"), PROGRAM);
    put(&fleet.path("zoo/other"), OTHER);
    fleet.fleet("plan zoo -o work.jsonl").expect(0);
    let text = fs::read_to_string(fleet.path("work.jsonl")).expect("text");
    let cut: Vec<&str> = text.lines().take(2).collect();
    fs::write(fleet.path("cut.jsonl"), cut.join("\n")).expect("written");
    let ran = fleet.fleet("run cut.jsonl --results results").expect(2);
    assert!(ran.stderr.contains("ends after 1 of 2 items"), "{ran}");
    fs::write(fleet.path("torn.jsonl"), &text[..text.len() - 20]).expect("written");
    let ran = fleet.fleet("run torn.jsonl --results results").expect(2);
    assert!(ran.stderr.contains("line 3"), "{ran}");
    fs::write(fleet.path("other.jsonl"), "{}\n").expect("written");
    let ran = fleet.fleet("run other.jsonl --results results").expect(2);
    assert!(ran.stderr.contains("line 1: missing field `schema`"), "{ran}");
    let hostile = text.replace("\"id\":\"", "\"id\":\"../");
    fs::write(fleet.path("hostile.jsonl"), hostile).expect("written");
    let ran = fleet.fleet("run hostile.jsonl --results results").expect(2);
    assert!(ran.stderr.contains("identifies no item"), "{ran}");

    // What is in a list is found as the command would take it, and what is not there is told of at the end.
    fs::write(fleet.path("list"), "# programs\nzoo/program\n\nno/such/program # gone\nzoo\n")
        .expect("written");
    let planned = fleet.fleet("plan list -o work.jsonl").expect(0);
    assert!(planned.stderr.contains("no/such/program: not looked up"), "{planned}");
    let kinds: Vec<Value> = fleet.items().iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds, ["file", "file", "tree"]);
    let ran = fleet.fleet("run work.jsonl --results listed").expect(2);
    assert!(ran.stderr.contains("no/such/program"), "{ran}");

    let same = fleet.fleet("plan zoo --destination same -o same.jsonl").expect(2);
    assert!(same.stderr.contains("would both go to same") && !fleet.path("same.jsonl").exists(), "{same}");
    fleet.fleet("plan zoo --destination {tag} -o same.jsonl").expect(2);
    fleet.fleet("plan zoo --destination {oops} -o same.jsonl").expect(2);
}

//! Images through the command: layers as the engines have them, every transport that runs here, and engines that
//! take what comes out.

#[path = "images/hand.rs"]
mod hand;
mod harness;
#[path = "images/hostile.rs"]
mod hostile;
#[path = "images/indexes.rs"]
mod indexes;
#[path = "images/names.rs"]
mod names;
#[path = "images/places.rs"]
mod places;
#[path = "images/proofs.rs"]
mod proofs;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::image::{
    INDEX, LAYER, LIBRARY, Layout, MANIFEST, OTHER, PROGRAM, Registry, archive_of_2014, digest, files, image,
    layer, put,
};
use harness::mtree::{changed, listing};
use harness::{Ran, is_root, need, skip, temp_dir, vsyspatch};
use serde_json::{Value, json};

fn tool(words: &[&str]) -> Ran {
    Ran::of(vsyspatch().args(words))
}

/// The paths that a scan lists, with further names, without the name of the image.
fn scanned(image: &str) -> Vec<String> {
    let json = tool(&["scan", "--json", image]).report();
    let files = json["targets"][0]["files"].as_array().expect("files").clone();
    let short =
        |path: &Value| path.as_str().expect("a path").rsplit("v1:/").next().unwrap_or_default().to_owned();
    let names = |file: &Value| {
        let links = file["links"].as_array().cloned().unwrap_or_default();
        std::iter::once(&file["path"]).chain(&links).map(short).collect::<Vec<_>>().join(" = ")
    };
    files.iter().map(names).collect()
}

/// The merged tree of the image, unpacked by umoci.
fn unpacked(image: &str, to: &Path) -> PathBuf {
    let name = image.strip_prefix("oci:").expect("a layout");
    Ran::of(Command::new("umoci").args(["unpack", "--image", name]).arg(to)).expect(0);
    to.join("rootfs")
}

#[test]
fn each_file_is_told_with_the_layer_that_it_is_in() {
    let dir = temp_dir();
    let lower = files(&[("bin/a", PROGRAM), ("bin/b", PROGRAM)]);
    let upper = files(&[("bin/b", LIBRARY), ("bin/cut", &PROGRAM[..100])]);
    let source = image(dir.path(), &[lower.clone(), upper.clone()]);
    let ran = tool(&["scan", "--json", &source]).expect(2);
    let found = harness::files(&ran.report());
    let layers: Vec<_> =
        found.iter().map(|file| file["layer"].as_str().expect("a layer").to_owned()).collect();
    assert_eq!(layers, [digest(&lower), digest(&upper)]);
    assert!(ran.stderr.contains("/bin/cut: layer ") && ran.stderr.contains(&digest(&upper)), "{ran}");
}

fn ready(programs: &[&str]) -> bool {
    if !is_root() {
        skip("needs root");
        return false;
    }
    programs.iter().all(|program| need(program))
}

#[test]
fn the_new_image_differs_in_the_patched_files_alone_and_goes_back_to_the_last_byte() {
    if !ready(&["umoci", "setfattr", "setcap"]) {
        return;
    }
    let dir = temp_dir();
    let base = layer(|tree| {
        put(&tree.join("bin/program"), PROGRAM);
        fs::create_dir_all(tree.join("sbin")).expect("made");
        fs::hard_link(tree.join("bin/program"), tree.join("sbin/same")).expect("a link");
        put(&tree.join("usr/lib/a-rather-long-name-of-a-directory-so-that-the-whole-path-does-not-fit-into-a-header/x/library.so"), LIBRARY);
        put(&tree.join("bin/su"), OTHER);
        Ran::of(Command::new("setfattr").args(["-n", "user.note", "-v", "a\nb"]).arg(tree.join("bin/su")))
            .expect(0);
        Ran::of(Command::new("setcap").arg("cap_net_raw+ep").arg(tree.join("bin/su"))).expect(0);
        fs::set_permissions(tree.join("bin/su"), Permissions::from_mode(0o4711)).expect("its mode");
        fs::create_dir(tree.join("tmp")).expect("made");
        fs::set_permissions(tree.join("tmp"), Permissions::from_mode(0o1777)).expect("its mode");
        put(&tree.join("tmp/program"), PROGRAM);
    });
    let top = files(&[("etc/text", b"no program")]);
    let source = image(dir.path(), &[base, top]);
    let output = format!("oci:{}:v1", dir.path().join("patched").display());
    let patched = tool(&["patch", "--json", &source, &output]).expect(0).report();
    assert_eq!(patched["summary"]["patched"], 4);
    assert_eq!(patched["targets"][0]["kind"], "image");
    let verified = tool(&["verify", &output, "--against", &source]).expect(0);
    assert!(verified.stdout.contains("verified"), "{verified}");
    tool(&["scan", "--json", &output]).expect(0).report();
    tool(&["verify", "--json", &output]).expect(0).report();

    let before = listing(&unpacked(&source, &dir.path().join("before")));
    let after = listing(&unpacked(&output, &dir.path().join("after")));
    let files: Vec<String> =
        changed(&before, &after).into_iter().filter(|line| !line.starts_with("var")).collect();
    let long = "usr/lib/a-rather-long-name-of-a-directory-so-that-the-whole-path-does-not-fit-into-a-header/x/library.so";
    let names = ["bin/program", "bin/su", "sbin/same", "tmp/program", long];
    assert_eq!(
        files,
        names.map(|name| format!("{name}: sha256")),
        "neither modes, owners, times, links nor attributes"
    );

    let back = format!("oci:{}:v1", dir.path().join("back").display());
    tool(&["revert", "--json", &output, &back]).expect(0).report();
    let layout = |name: &str| Layout(dir.path().join(name));
    assert_eq!(layout("back").image(), layout("image").image());
    let again = format!("oci:{}:v1", dir.path().join("again").display());
    tool(&["patch", "-q", &source, &again]).expect(0);
    assert_eq!(layout("again").image(), layout("patched").image(), "the same input gives the same image");
    let twice = dir.path().join("twice");
    let already = tool(&["patch", &output, &format!("oci:{}", twice.display())]).expect(0);
    assert!(already.stdout.contains("patched already") && !twice.exists(), "{already}");
}

#[test]
fn an_image_is_patched_to_the_vdso_as_its_files_are() {
    let dir = temp_dir();
    let source = image(
        dir.path(),
        &[files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY), ("bin/demo", OTHER)])],
    );
    let output = format!("oci:{}:v1", dir.path().join("patched").display());
    // The library knows no glibc, so that nothing would start the page's code.
    let patched = tool(&["patch", "--via=auto", &source, &output]).expect(0);
    assert_eq!(patched.stdout.matches("system calls, not the vDSO: ").count(), 1, "{patched}");
    let sites = |path: &str| tool(&["scan", "--via=vdso", path]).stdout;
    assert!(
        sites(&source).contains("bin/demo") && sites(&source).contains("patch (vDSO)"),
        "{}",
        sites(&source)
    );
    tool(&["verify", &output, "--against", &source]).expect(0);
    let back = format!("oci:{}:v1", dir.path().join("back").display());
    tool(&["revert", &output, &back]).expect(0);
    let layout = |name: &str| Layout(dir.path().join(name));
    assert_eq!(layout("back").image(), layout("image").image());
}

#[test]
fn documents_keep_what_nobody_knows_and_say_where_the_image_comes_from() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    let output = format!("oci:{}:v1", dir.path().join("patched").display());
    tool(&["patch", "-q", &source, &output]).expect(0);
    let [old, old_config] = Layout(dir.path().join("image")).image();
    let [new, config] = Layout(dir.path().join("patched")).image();
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&config), keys(&old_config), "in their order");
    assert_eq!(keys(&config["history"][0]["x"]), ["b", "a"]);
    assert_eq!((&new["unknown"], &config["config"]["Unknown"]), (&json!("kept"), &Value::Null));
    assert_eq!(config["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(config["history"][1]["created"], "2010-04-05T00:00:00Z", "no clock");
    assert_eq!(new["layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(new["layers"][0], old["layers"][0]);
    let original = digest(&serde_json::to_vec(&old).expect("JSON"));
    assert_eq!(new["annotations"]["org.opencontainers.image.base.digest"], original);
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.base.digest"], original);
}

#[test]
fn the_same_input_gives_the_same_digests_anywhere_at_any_time() {
    let tar = files(&[("bin/program", PROGRAM), ("etc/text", b"text")]);
    let at = |epoch: Option<&str>| {
        let dir = temp_dir();
        let source = image(dir.path(), std::slice::from_ref(&tar));
        let archive = dir.path().join("somewhere/patched.tar");
        fs::create_dir(archive.parent().expect("a directory")).expect("made");
        let mut patch = vsyspatch();
        patch.env_remove("SOURCE_DATE_EPOCH").current_dir(dir.path());
        epoch.map(|epoch| patch.env("SOURCE_DATE_EPOCH", epoch));
        let to = format!("docker-archive:{}:localhost/a:1", archive.display());
        Ran::of(patch.args(["patch", "-q", &source, &to])).expect(0);
        let layout = format!("oci:{}:v1", dir.path().join("layout").display());
        tool(&["patch", "-q", "--always", &to, &layout]).expect(0);
        tool(&["verify", &to, "--against", &source]).expect(0);
        let back = format!("oci:{}:v1", dir.path().join("back").display());
        tool(&["revert", "-q", &to, &back]).expect(0);
        assert_eq!(Layout(dir.path().join("back")).image(), Layout(dir.path().join("image")).image());
        let layout = Layout(dir.path().join("layout"));
        let [manifest, config] = layout.image();
        let top = manifest["layers"][1]["digest"].as_str().expect("a digest")[7..].to_owned();
        let mut list = Command::new("tar");
        list.args(["--utc", "--full-time", "-tvzf"]).arg(layout.0.join("blobs/sha256").join(top));
        (digest(&harness::read(&archive)), config, Ran::of(&mut list).expect(0).stdout)
    };
    let (archive, config, layer) = at(None);
    // Longer than the grain of any clock that could have crept in.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(at(None).0, archive);
    assert_eq!(config["created"], "2010-04-05T00:00:00Z");
    assert!(layer.contains("1970-01-01 00:00:00 var/lib/vsyspatch/record.json"), "{layer}");

    let (archive, config, layer) = at(Some("1500000000"));
    assert_eq!(at(Some("1500000000")).0, archive);
    assert_eq!(config["created"], "2017-07-14T02:40:00Z");
    assert_eq!(config["history"][1]["created"], "2017-07-14T02:40:00Z");
    assert_eq!(config["history"][0].get("created"), None);
    assert!(layer.contains("2017-07-14 02:40:00 var/lib/vsyspatch/record.json"), "{layer}");
    let program = layer.lines().find(|line| line.ends_with("bin/program")).expect("it is there");
    assert!(!program.contains("1970") && !program.contains("2017"), "a patched file keeps its time: {layer}");

    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    for odd in ["", "-1", "yesterday", "99999999999999"] {
        let mut patch = vsyspatch();
        patch.env("SOURCE_DATE_EPOCH", odd).args(["patch", &source]).arg(dir.path().join("none"));
        let refused = Ran::of(&mut patch).expect(2);
        assert!(
            refused.stderr.contains("SOURCE_DATE_EPOCH") && refused.stderr.contains("date +%s"),
            "{refused}"
        );
        assert!(!dir.path().join("none").exists());
    }
}

#[test]
fn only_what_the_final_tree_shows_is_looked_at() {
    let dir = temp_dir();
    let source = image(
        dir.path(),
        &[
            files(&[
                ("bin/deleted", PROGRAM),
                ("bin/replaced", PROGRAM),
                ("bin/stays", PROGRAM),
                ("opaque/hidden", PROGRAM),
                ("file", PROGRAM),
                ("directory/program", PROGRAM),
                ("gone/below/program", PROGRAM),
            ]),
            files(&[
                ("bin/.wh.deleted", b""),
                ("bin/replaced", b"#!/bin/sh"),
                ("opaque/.wh..wh..opq", b""),
                ("opaque/new", LIBRARY),
                ("file/inside", OTHER),
                ("directory", b"a file now"),
                (".wh.gone", b""),
            ]),
        ],
    );
    assert_eq!(scanned(&source), ["bin/stays", "file/inside", "opaque/new"]);
}

#[test]
fn names_that_survive_are_patched_as_one_file() {
    if !ready(&["umoci"]) {
        return;
    }
    let dir = temp_dir();
    let base = layer(|tree| {
        put(&tree.join("a/carrier"), PROGRAM);
        for name in ["b", "c"] {
            fs::create_dir(tree.join(name)).expect("made");
            fs::hard_link(tree.join("a/carrier"), tree.join(name).join("link")).expect("a link");
        }
    });
    let source = image(dir.path(), &[base, files(&[("a/.wh.carrier", b"")])]);
    assert_eq!(scanned(&source), ["b/link = c/link"]);
    let output = format!("oci:{}:v1", dir.path().join("patched").display());
    tool(&["patch", "-q", &source, &output]).expect(0);
    tool(&["verify", &output]).expect(0);
    let after = listing(&unpacked(&output, &dir.path().join("after")));
    assert!(!after.contains_key(Path::new("a/carrier")));
    let group = r#"["b/link", "c/link"]"#;
    assert!(["b/link", "c/link"].iter().all(|name| after[Path::new(name)]["links"] == group), "{after:?}");
}

#[test]
fn large_programs_are_looked_into_as_small_ones_are() {
    const LARGE: usize = 9 << 20;
    let large = |program: &[u8]| {
        let mut bytes = program.to_vec();
        bytes.resize(LARGE, 0);
        bytes
    };
    let clean = harness::read(Path::new("/bin/true"));
    let of = |program: &[u8]| files(&[("bin/large", &large(program)), ("bin/other", OTHER)]);
    let summary = |dir: &Path, layers: &[Vec<u8>]| {
        tool(&["scan", "--json", &image(dir, layers)]).report()["summary"].clone()
    };
    let (a, b) = (temp_dir(), temp_dir());
    let (with, without) = (summary(a.path(), &[of(PROGRAM)]), summary(b.path(), &[of(&clean)]));
    assert_eq!((&with["files_with_sites"], &without["files_with_sites"]), (&json!(2), &json!(1)));
    for counts in [with, without] {
        assert_eq!((&counts["files"], &counts["elf_files"]), (&json!(2), &json!(2)));
        assert_eq!(counts["bytes"], LARGE + OTHER.len());
    }
    let name = image(a.path(), &[of(PROGRAM)]);
    let output = format!("oci:{}:v1", a.path().join("patched").display());
    tool(&["patch", "-q", &name, &output]).expect(0);
    tool(&["verify", &output]).expect(0);
}

#[test]
fn a_layer_may_end_with_the_last_byte_of_its_last_file() {
    let mut tar = files(&[("bin/program", PROGRAM)]);
    let begin = tar.windows(8).position(|window| window == &PROGRAM[..8]).expect("it is there");
    tar.truncate(begin + PROGRAM.len());
    assert!(!tar.len().is_multiple_of(512));
    let dir = temp_dir();
    assert_eq!(scanned(&image(dir.path(), std::slice::from_ref(&tar))), ["bin/program"]);
    tar.pop();
    assert!(tool(&["scan", &image(dir.path(), &[tar])]).expect(2).stderr.contains("it ends inside the file"));
}

#[test]
fn layers_of_every_compression_are_read() {
    if !["gzip", "zstd"].into_iter().all(need) {
        return;
    }
    let compressed = |program: &str, bytes: &[u8]| {
        let dir = temp_dir();
        fs::write(dir.path().join("in"), bytes).expect("written");
        let input = fs::File::open(dir.path().join("in")).expect("opened");
        let output = Command::new(program).arg("-c").stdin(input).output().expect("it runs");
        output.stdout
    };
    let tar = files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY)]);
    let (front, rest) = tar.split_at(tar.len() / 2);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    for (name, blob) in [
        ("gzip", compressed("gzip", &tar)),
        ("gzip of several members", [compressed("gzip", front), compressed("gzip", rest)].concat()),
        ("zstd", compressed("zstd", &tar)),
        (
            "zstd of several frames",
            [compressed("zstd", front), skippable.clone(), compressed("zstd", rest)].concat(),
        ),
        ("zstd behind a skippable frame", [skippable, compressed("zstd", &tar)].concat()),
    ] {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        let root = layout.manifest("amd64", &[(LAYER, &blob, &tar)]);
        assert_eq!(scanned(&layout.finish(root)), ["bin/program", "lib/library.so"], "{name}");
    }
}

#[test]
fn what_cannot_be_looked_into_is_never_clean() {
    let tar = files(&[("etc/text", b"no program")]);
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        let root = layout.manifest("amd64", &[(LAYER, &tar, &tar), (kind, b"secret", b"secret")]);
        let scanned = tool(&["scan", &layout.finish(root)]).expect(1);
        assert!(
            scanned.stdout.contains("not scanned: layer sha256:") && !scanned.stdout.contains("clean"),
            "{scanned}"
        );
    }
}

#[test]
fn a_clean_image_is_written_only_where_that_is_asked_for() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("etc/text", b"no program")])]);
    let output = dir.path().join("out");
    let clean = tool(&["patch", &source, &format!("oci:{}", output.display())]).expect(0);
    assert!(clean.stdout.contains("clean") && !output.exists(), "{clean}");
    tool(&["patch", "--always", &source, &format!("oci:{}", output.display())]).expect(0);
    assert_eq!(Layout(output).image(), Layout(dir.path().join("image")).image());
    let in_place = tool(&["patch", "--in-place", &source]).expect(2);
    assert!(in_place.stderr.contains("never changed in place"), "{in_place}");
}

#[test]
fn damage_is_named_and_nothing_is_written() {
    let tar = files(&[("bin/program", PROGRAM)]);
    let damaged = |what: &str, blob: &[u8], diff_of: &[u8], words: &str| {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        let root = layout.manifest("amd64", &[(LAYER, blob, diff_of)]);
        let source = layout.finish(root);
        let output = dir.path().join("out.tar");
        let ran = tool(&["patch", &source, &format!("docker-archive:{}", output.display())]).expect(2);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("layer sha256:"), "{what}: {ran}");
        assert!(!output.exists(), "{what}");
    };
    damaged("another diff_id", &tar, b"something else", "diff_id");
    damaged("cut in the middle", &tar[..2048], &tar[..2048], "it ends inside");
    damaged("no archive", &[0x11; 2048], &[0x11; 2048], "not a sound tar archive");
    // A blob that is not what its name says.
    let dir = temp_dir();
    let source = image(dir.path(), std::slice::from_ref(&tar));
    let blob = dir.path().join("image/blobs/sha256").join(&digest(&tar)[7..]);
    let mut bytes = tar.clone();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).expect("written");
    let ran = tool(&["scan", &source]).expect(2);
    assert!(ran.stderr.contains("the image is damaged"), "{ran}");
    fs::remove_file(&blob).expect("removed");
    assert!(tool(&["scan", &source]).expect(2).stderr.contains("has no blob sha256:"));
}

#[test]
fn archives_that_are_cut_anywhere_are_errors_and_no_panic() {
    let dir = temp_dir();
    let tar = files(&[("bin/program", PROGRAM)]);
    let source = image(dir.path(), std::slice::from_ref(&tar));
    let whole = dir.path().join("whole.tar");
    tool(&["patch", "-q", &source, &format!("docker-archive:{}", whole.display())]).expect(0);
    let bytes = harness::read(&whole);
    let cut = dir.path().join("cut.tar");
    for len in (512..bytes.len() - 1024).step_by(bytes.len() / 60) {
        fs::write(&cut, &bytes[..len]).expect("written");
        let ran = tool(&["scan", cut.to_str().expect("text")]);
        assert!(ran.status == 2 && !ran.stderr.contains("panicked"), "cut at {len}: {ran}");
    }
    for at in (0..tar.len().min(4096)).step_by(37) {
        let mut odd = tar.clone();
        odd[at] ^= 0x81;
        let place = temp_dir();
        let ran = tool(&["scan", &image(place.path(), &[odd])]);
        assert!((0..=2).contains(&ran.status) && !ran.stderr.contains("panicked"), "byte {at}: {ran}");
    }
}

#[test]
fn of_an_index_only_the_images_for_x86_64_change() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let mut ours = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
    ours["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut other = layout.manifest("arm64", &[(LAYER, &tar, &tar)]);
    other["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    let mut attestation = layout.manifest("unknown", &[("application/vnd.in-toto+json", b"{}", b"{}")]);
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [other, ours, attestation], "x": 1 });
    let root = layout.descriptor(INDEX, &index);
    let source = layout.finish(root);
    let output = dir.path().join("patched");
    let patched =
        tool(&["patch", "--json", &source, &format!("oci:{}", output.display())]).expect(0).report();
    assert_eq!(patched["summary"]["patched"], 1);
    let written = Layout(output);
    let top: Value = serde_json::from_slice(&harness::read(&written.0.join("index.json"))).expect("JSON");
    let new = written.document(&top["manifests"][0]["digest"]);
    assert_eq!((&new["manifests"][0], &new["manifests"][2], &new["x"]), (&other, &attestation, &json!(1)));
    assert_ne!(new["manifests"][1]["digest"], ours["digest"]);
    assert_eq!(new["manifests"][1]["platform"], ours["platform"]);
    let reverted = dir.path().join("reverted");
    tool(&["revert", written.0.to_str().expect("text"), reverted.to_str().expect("text")]).expect(0);
    let top: Value = serde_json::from_slice(&harness::read(&reverted.join("index.json"))).expect("JSON");
    assert_eq!(Layout(reverted).document(&top["manifests"][0]["digest"]), index);
}

#[test]
fn a_program_that_a_later_layer_replaced_is_a_finding() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY)])]);
    let patched = Layout(dir.path().join("patched"));
    tool(&["patch", "-q", &source, &format!("oci:{}:v1", patched.0.display())]).expect(0);
    let [mut manifest, mut config] = patched.image();
    let top = files(&[("bin/program", OTHER), ("lib/.wh.library.so", b"")]);
    config["rootfs"]["diff_ids"].as_array_mut().expect("a list").push(json!(digest(&top)));
    let config = serde_json::to_vec(&config).expect("JSON");
    manifest["config"]["digest"] = json!(patched.blob(&config));
    manifest["config"]["size"] = json!(config.len());
    let layer = json!({ "mediaType": LAYER, "digest": patched.blob(&top), "size": top.len() });
    manifest["layers"].as_array_mut().expect("a list").push(layer);
    let root = patched.descriptor(MANIFEST, &manifest);
    let name = patched.finish(root);
    let verified = tool(&["verify", &name]).expect(1);
    for slug in ["file-missing", "site-left"] {
        assert!(verified.stdout.contains(slug), "{slug}: {verified}");
    }
    let reverted = tool(&["revert", &name, &format!("oci:{}", dir.path().join("back").display())]).expect(2);
    assert!(reverted.stderr.contains("not the original plus the layer"), "{reverted}");
    let unpatched = tool(&["verify", &source]).expect(2);
    assert!(unpatched.stderr.contains("no record"), "{unpatched}");
}

// --- archives and engines ---

#[test]
fn archives_of_all_generations_become_ones_that_todays_tools_read() {
    if !["skopeo"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let layers = [files(&[("bin/program", PROGRAM)]), files(&[("lib/library.so", LIBRARY)])];
    let source = image(dir.path(), &layers);
    let of_skopeo = dir.path().join("skopeo.tar");
    let copy =
        |from: &str, to: &str| Ran::of(Command::new("skopeo").args(["copy", "-q", from, to])).expect(0);
    copy(&source, &format!("docker-archive:{}:localhost/a:1", of_skopeo.display()));
    let of_schema1 = dir.path().join("schema1");
    Ran::of(
        Command::new("skopeo")
            .args(["copy", "-q", "--format", "v2s1"])
            .arg(&source)
            .arg(format!("dir:{}", of_schema1.display())),
    )
    .expect(0);
    let of_2014 = archive_of_2014(dir.path(), &layers);
    for from in [
        of_skopeo.display().to_string(),
        of_2014.display().to_string(),
        format!("dir:{}", of_schema1.display()),
    ] {
        assert_eq!(
            tool(&["scan", "--json", &from]).expect(1).report()["summary"]["files_with_sites"],
            2,
            "{from}"
        );
        let new = dir.path().join("new.tar");
        let to = format!("docker-archive:{}:localhost/b:1", new.display());
        tool(&["patch", "-q", &from, &to]).expect(0);
        tool(&["verify", new.to_str().expect("text")]).expect(0);
        for transport in ["docker-archive", "oci-archive"] {
            let name = format!("{transport}:{}", new.display());
            let shown = Ran::of(Command::new("skopeo").args(["inspect", "--config", &name])).expect(0).json();
            assert_eq!(shown["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(3), "{from}");
            assert_eq!(shown["config"]["Cmd"][0], "/bin/program", "{from}");
        }
    }
}

#[test]
fn podman_runs_the_patched_image() {
    if !ready(&["podman", "runc", "skopeo"]) {
        return;
    }
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", OTHER)])]);
    let archive = dir.path().join("new.tar");
    tool(&[
        "patch",
        "-q",
        &source,
        &format!("docker-archive:{}:localhost/sample:patched", archive.display()),
    ])
    .expect(0);
    let podman = |words: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(dir.path().join("root")).arg("--runroot").arg(dir.path().join("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        Ran::of(command.args(words).stdin(Stdio::null()))
    };
    podman(&["load", "-q", "-i", archive.to_str().expect("text")]).expect(0);
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let run =
        [&["run", "--rm", "-q", "--network", "none"][..], &limits, &["localhost/sample:patched"]].concat();
    podman(&run).expect(0);
}

#[test]
fn a_registry_is_sent_the_new_layer_and_little_else() {
    if !["docker-registry", "skopeo"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let registry = Registry::start(dir.path());
    let noise: Vec<u8> = (0..3_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM), ("data", &noise)])]);
    let name = |repository: &str| format!("docker://{}/{repository}:v1", registry.address);
    Ran::of(Command::new("skopeo").args(["copy", "-q", "--dest-tls-verify=false", &source, &name("old")]))
        .expect(0);
    tool(&["scan", &name("old")]).expect(1);
    for to in ["old-patched", "team/other"] {
        let patched = tool(&["patch", "--json", &name("old"), &name(to)]).expect(0).report();
        let sent = patched["targets"][0]["image"]["sent"].as_u64().expect("a number");
        assert!((1_000..65_536).contains(&sent), "{sent} bytes were sent");
        tool(&["verify", &name(to), "--against", &name("old")]).expect(0);
    }
    let back = dir.path().join("back");
    tool(&["revert", &name("team/other"), &format!("dir:{}", back.display())]).expect(0);
    Ran::of(Command::new("skopeo").args(["inspect", &format!("dir:{}", back.display())])).expect(0);
    let raw = ["inspect", "--raw", "--tls-verify=false"];
    let original = Ran::of(Command::new("skopeo").args(raw).arg(name("old"))).expect(0).stdout;
    assert_eq!(String::from_utf8_lossy(&harness::read(&back.join("manifest.json"))), original);
    let missing = tool(&["scan", &name("missing")]).expect(2);
    assert!(missing.stderr.contains("check the name and the tag"), "{missing}");
    let address = registry.address.clone();
    drop(registry);
    let gone = tool(&["scan", &format!("docker://{address}/old:v1")]).expect(3);
    assert!(gone.stderr.contains("refused"), "{gone}");
}

//! Indexes of several images, and documents of both families.

use std::fs;

use serde_json::{Value, json};

use super::harness::{self, temp_dir};
use super::{INDEX, LAYER, LIBRARY, Layout, MANIFEST, PROGRAM, digest, files, tool};

/// The index that a layout leads to.
fn index_of(layout: &Layout) -> Value {
    let top: Value = serde_json::from_slice(&harness::read(&layout.0.join("index.json"))).expect("JSON");
    layout.document(&top["manifests"][0]["digest"])
}

fn with_platform(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    descriptor
}

fn index(layout: &Layout, manifests: &[Value]) -> Value {
    layout.descriptor(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }))
}

#[test]
fn an_image_of_another_system_in_an_index_is_passed_over() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let windows = layout.manifest("amd64", &[(foreign, b"none", b"none")]);
    let windows = with_platform(windows, "windows", "amd64");
    let ours = with_platform(layout.manifest("amd64", &[(LAYER, &tar, &tar)]), "linux", "amd64");
    let root = index(&layout, &[windows.clone(), ours.clone()]);
    let source = layout.finish(root);
    let output = dir.path().join("patched");
    // Status 0: nothing was left out.
    tool(&["patch", &source, &format!("oci:{}", output.display())]).expect(0);
    let new = index_of(&Layout(output));
    assert_eq!(new["manifests"][0], windows);
    assert_ne!(new["manifests"][1]["digest"], ours["digest"]);
}

/// Whatever an index lists besides images goes along, byte for byte.
#[test]
fn entries_of_an_index_that_are_no_images_are_carried_over() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let ours = with_platform(layout.manifest("amd64", &[(LAYER, &tar, &tar)]), "linux", "amd64");
    let opaque = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": layout.blob(bytes), "size": bytes.len() });
    let chart = layout.descriptor(
        MANIFEST,
        &json!({ "schemaVersion": 2, "mediaType": MANIFEST,
        "artifactType": "application/vnd.cncf.helm.chart", "layers": [opaque("application/x-tar", b"chart")],
        "config": opaque("application/vnd.cncf.helm.config.v1+json", b"{}") }),
    );
    let others = [
        chart,
        opaque("application/octet-stream", b"no document"),
        with_platform(opaque("application/vnd.example.thing", b"\0thing"), "linux", "amd64"),
        json!({ "mediaType": "application/octet-stream", "digest": digest(b"elsewhere"), "size": 9 }),
    ];
    let all: Vec<Value> = others.iter().cloned().chain([ours]).collect();
    let root = index(&layout, &all);
    let source = layout.finish(root);
    tool(&["scan", &source]).expect(1);
    let patched = Layout(dir.path().join("patched"));
    let output = format!("oci:{}:v1", patched.0.display());
    let archive = format!("docker-archive:{}:localhost/a:1", dir.path().join("out.tar").display());
    for output in [&output, &archive] {
        tool(&["patch", "-q", &source, output]).expect(0);
        tool(&["verify", output, "--against", &source]).expect(0);
    }
    assert_eq!(index_of(&patched)["manifests"].as_array().expect("a list")[..4], others);
    for bytes in [&b"no document"[..], b"\0thing", b"chart"] {
        let blob = patched.0.join("blobs/sha256").join(&digest(bytes)[7..]);
        assert_eq!(harness::read(&blob), bytes);
    }
    let back = Layout(dir.path().join("back"));
    tool(&["revert", "-q", &archive, &format!("oci:{}:v1", back.0.display())]).expect(0);
    assert_eq!(index_of(&back), index_of(&layout));
    // One of schema 1 may be an image, and nobody looked at it.
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let root = index(&layout, &[with_platform(opaque(old, b"{}"), "linux", "amd64")]);
    let scanned = tool(&["scan", &layout.finish(root)]).expect(1);
    assert!(scanned.stdout.contains("it is of schema 1, in an index"), "{scanned}");
}

#[test]
fn an_image_without_vsyscalls_beside_one_with_needs_no_record() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let (old, text) = (files(&[("bin/program", PROGRAM)]), files(&[("bin/text", b"text")]));
    let with = with_platform(layout.manifest("amd64", &[(LAYER, &old, &old)]), "linux", "amd64");
    let mut without = with_platform(layout.manifest("amd64", &[(LAYER, &text, &text)]), "linux", "amd64");
    without["platform"]["variant"] = json!("v3");
    let root = index(&layout, &[with, without.clone()]);
    let source = layout.finish(root);
    let patched = Layout(dir.path().join("patched"));
    let output = format!("oci:{}:v1", patched.0.display());
    tool(&["patch", "-q", &source, &output]).expect(0);
    tool(&["verify", &output, "--against", &source]).expect(0);
    assert_eq!(index_of(&patched)["manifests"][1], without);
    let back = Layout(dir.path().join("back"));
    tool(&["revert", &output, &format!("oci:{}:v1", back.0.display())]).expect(0);
    assert_eq!(index_of(&back), index_of(&layout));
    for command in ["verify", "revert"] {
        let ran = tool(&[command, &source, dir.path().join("none").to_str().expect("text")]);
        assert!(ran.status == 2 && ran.stderr.contains("no record"), "{ran}");
    }
}

/// Engines save the index of an image that they pulled, and of its images their own platform's alone.
#[test]
fn an_index_whose_other_images_are_not_there_is_patched_all_the_same() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let ours = with_platform(layout.manifest("amd64", &[(LAYER, &tar, &tar)]), "linux", "amd64");
    let missing = json!({ "mediaType": MANIFEST, "digest": digest(b"elsewhere"), "size": 9,
        "platform": { "os": "linux", "architecture": "arm64" } });
    let root = index(&layout, &[missing.clone(), ours]);
    let source = layout.finish(root);
    let archive = dir.path().join("patched.tar");
    tool(&["patch", "-q", &source, &format!("oci-archive:{}:localhost/a:1", archive.display())]).expect(0);
    let patched = Layout(dir.path().join("patched"));
    tool(&["patch", "-q", &source, &format!("oci:{}", patched.0.display())]).expect(0);
    assert_eq!(index_of(&patched)["manifests"][0], missing);
    for image in [archive.to_str(), patched.0.to_str()].map(|path| path.expect("text")) {
        tool(&["verify", image]).expect(0);
        let back = dir.path().join("back");
        tool(&["revert", image, &format!("oci:{}", back.display())]).expect(0);
        assert_eq!(index_of(&Layout(back.clone())), index_of(&layout));
        fs::remove_dir_all(back).expect("removed");
    }
}

#[test]
fn an_index_in_an_index_is_not_called_clean() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let ours = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
    let inner = index(&layout, &[ours]);
    let root = index(&layout, &[inner]);
    let scanned = tool(&["scan", &layout.finish(root)]).expect(1);
    assert!(scanned.stdout.contains("not scanned: index sha256:"), "{scanned}");
    assert!(!scanned.stdout.contains("clean"), "{scanned}");
}

#[test]
fn a_manifest_of_dockers_family_stays_one() {
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
    let mut manifest = layout.document(&root["digest"]);
    manifest["mediaType"] = json!(DOCKER);
    manifest["config"]["mediaType"] = json!(DOCKER_CONFIG);
    manifest["layers"][0]["mediaType"] = json!(DOCKER_LAYER);
    let root = layout.descriptor(DOCKER, &manifest);
    let source = layout.finish(root);
    let patched = Layout(dir.path().join("patched"));
    tool(&["patch", "-q", &source, &format!("oci:{}", patched.0.display())]).expect(0);
    let [new, config] = patched.image();
    assert_eq!((&new["mediaType"], &new["config"]["mediaType"]), (&json!(DOCKER), &json!(DOCKER_CONFIG)));
    assert_eq!(new["layers"][1]["mediaType"], DOCKER_LAYER);
    assert_eq!(new.get("annotations"), None, "Docker's manifests have none");
    assert!(config["config"]["Labels"]["org.opencontainers.image.base.digest"].is_string());
    tool(&["verify", patched.0.to_str().expect("text"), "--against", &source]).expect(0);
    let back = Layout(dir.path().join("back"));
    // A path alone means a place of the same kind.
    tool(&["revert", patched.0.to_str().expect("text"), back.0.to_str().expect("text")]).expect(0);
    assert_eq!(back.image(), layout.image());
}

#[test]
fn a_history_that_does_not_fit_the_layers_stays_as_it_is() {
    let tar = files(&[("bin/program", PROGRAM)]);
    let one = json!({ "created_by": "ADD" });
    let empty = json!({ "created_by": "ENV", "empty_layer": true });
    for (history, count) in [
        (None, None),
        (Some(json!([])), Some(0)),
        (Some(json!([one])), Some(2)),
        (Some(json!([empty, one, empty])), Some(4)),
        (Some(json!([one, one])), Some(2)),
        (Some(Value::Null), None),
    ] {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
        let mut manifest = layout.document(&root["digest"]);
        let mut config = layout.document(&manifest["config"]["digest"]);
        config.as_object_mut().expect("an object").shift_remove("history");
        if let Some(history) = &history {
            config["history"] = history.clone();
        }
        let config = serde_json::to_vec_pretty(&config).expect("JSON");
        manifest["config"]["digest"] = json!(layout.blob(&config));
        manifest["config"]["size"] = json!(config.len());
        let root = layout.descriptor(MANIFEST, &manifest);
        let source = layout.finish(root);
        let patched = Layout(dir.path().join("patched"));
        let output = format!("oci:{}:v1", patched.0.display());
        tool(&["patch", "-q", &source, &output]).expect(0);
        tool(&["verify", &output]).expect(0);
        let new = patched.image()[1].clone();
        assert_eq!(new["history"].as_array().map(Vec::len), count, "{history:?}");
        assert_eq!(new.get("history").is_some(), history.is_some());
        let back = Layout(dir.path().join("back"));
        tool(&["revert", "-q", &output, &format!("oci:{}:v1", back.0.display())]).expect(0);
        let original = back.image()[0]["config"]["digest"].clone();
        assert_eq!(original, digest(&config), "byte for byte");
    }
}

#[test]
fn a_record_or_a_label_that_somebody_changed_is_a_finding() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY)]);
    let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
    let source = layout.finish(root);
    let changed = |change: &dyn Fn(&mut Value, &mut Value)| {
        let dir = temp_dir();
        let patched = Layout(dir.path().join("patched"));
        tool(&["patch", "-q", &source, &format!("oci:{}:v1", patched.0.display())]).expect(0);
        let [mut manifest, mut config] = patched.image();
        change(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config).expect("JSON");
        manifest["config"]["digest"] = json!(patched.blob(&config));
        manifest["config"]["size"] = json!(config.len());
        let root = patched.descriptor(MANIFEST, &manifest);
        let name = patched.finish(root);
        tool(&["verify", "--json", &name]).expect(1).report()["targets"][0]["tree"]["findings"].clone()
    };
    let config = changed(&|_, config| config["config"]["Entrypoint"] = json!(["/bin/sh"]));
    assert_eq!(config[0]["slug"], "config-changed", "{config}");
    let manifest = changed(&|manifest, _| manifest["annotations"]["more"] = json!("x"));
    assert_eq!(manifest[0]["slug"], "manifest-changed", "{manifest}");
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// An index of two images to patch, one of arm64, and what BuildKit adds to the first.
fn of_several(layout: &Layout) -> (Value, [Value; 4]) {
    let (one, two) = (files(&[("bin/program", PROGRAM)]), files(&[("lib/library.so", LIBRARY)]));
    let first = with_platform(layout.manifest("amd64", &[(LAYER, &one, &one)]), "linux", "amd64");
    let mut second = with_platform(layout.manifest("amd64", &[(LAYER, &two, &two)]), "linux", "amd64");
    second["platform"]["variant"] = json!("v3");
    let arm = with_platform(layout.manifest("arm64", &[(LAYER, &one, &one)]), "linux", "arm64");
    let statement = layout.manifest("unknown", &[("application/vnd.in-toto+json", b"{}", b"{}")]);
    let mut statement = with_platform(statement, "unknown", "unknown");
    statement["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": first["digest"] });
    let all = [first, second, arm, statement];
    (index(layout, &all), all)
}

#[test]
fn one_image_of_an_index_is_chosen_by_its_platform() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let (root, all) = of_several(&layout);
    let source = layout.finish(root.clone());
    let sites = |platform: &str| {
        let report = tool(&["scan", "--json", "--platform", platform, &source]).report();
        (report["targets"][0]["image"]["digest"].clone(), report["summary"]["files_with_sites"].clone())
    };
    assert_eq!(sites("linux/amd64/v3"), (all[1]["digest"].clone(), json!(1)));
    // Of any variant, in the order of the index.
    assert_eq!(sites("linux/amd64").0, all[0]["digest"]);
    for platform in ["linux/s390x", "linux/amd64/v4", "windows/amd64"] {
        let none = tool(&["scan", "--platform", platform, &source]).expect(2);
        let words = format!(
            "there is no image for {platform} in it (choose one of these: linux/amd64, linux/amd64/v3,"
        );
        assert!(none.stderr.contains(&words) && none.stderr.contains("linux/arm64"), "{none}");
    }
    for odd in ["linux", "linux/", "a/b/c/d"] {
        assert!(tool(&["scan", "--platform", odd, &source]).expect(2).stderr.contains("OS/ARCH[/VARIANT]"));
    }
    let output = format!("oci:{}:v1", dir.path().join("one").display());
    let told = tool(&["patch", "--platform", "linux/amd64/v3", &source, &output]).expect(0);
    let words = format!("one image of the index {} was written, without the others", text(&root["digest"]));
    assert!(told.stderr.contains(&words), "{told}");
    assert!(!tool(&["patch", &source, &output]).expect(0).stderr.contains("without the others"));
    tool(&["patch", "-q", "--platform", "linux/amd64/v3", &source, &output]).expect(0);
    tool(&["verify", "--platform", "linux/amd64", &output, "--against", &source]).expect(1);
    tool(&["verify", &output, "--against", &source]).expect(0);
    let [manifest, _] = Layout(dir.path().join("one")).image();
    assert_eq!(manifest["annotations"]["org.opencontainers.image.base.digest"], all[1]["digest"]);
    let other = tool(&["scan", "--platform", "linux/arm64", &output]).expect(2);
    assert!(other.stderr.contains("choose one of these: linux/amd64)"), "{other}");
}

#[test]
fn what_was_of_the_old_digest_is_said_to_be_no_longer_valid() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let (root, all) = of_several(&layout);
    let source = layout.finish(root.clone());
    let tar = files(&[("etc/text", b"text")]);
    let beside = |name: &str| {
        let mut one = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
        one["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        one
    };
    let tag = |of: &Value, end: &str| of["digest"].as_str().expect("a digest").replace(':', "-") + end;
    let referrer = |of: &Value| {
        layout.descriptor(MANIFEST, &json!({ "schemaVersion": 2, "mediaType": MANIFEST, "subject": of,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": layout.blob(b"{}"), "size": 2 },
            "layers": [] }))
    };
    let (of_root, of_arm) = (referrer(&root), referrer(&all[2]));
    let path = layout.0.join("index.json");
    let mut top: Value = serde_json::from_slice(&harness::read(&path)).expect("JSON");
    let more = [
        beside(&tag(&root, ".sig")),
        beside(&tag(&all[1], ".att")),
        beside(&tag(&all[2], ".sig")),
        beside("v2"),
        of_root.clone(),
        of_arm,
    ];
    top["manifests"].as_array_mut().expect("a list").extend(more);
    fs::write(&path, top.to_string()).expect("written");

    let output = dir.path().join("out.tar");
    let output = format!("oci-archive:{}", output.display());
    let told = tool(&["patch", "--json", &source, &output]).expect(0).report();
    let expected = [
        format!("attestation {}, which is of {}", text(&all[3]["digest"]), text(&all[0]["digest"])),
        format!("signature {}, which is of {}", tag(&root, ".sig"), text(&root["digest"])),
        format!("attestation {}, which is of {}", tag(&all[1], ".att"), text(&all[1]["digest"])),
        format!("referrer {}, which is of {}", text(&of_root["digest"]), text(&root["digest"])),
    ];
    assert_eq!(told["targets"][0]["image"]["outdated"], json!(expected));
    let told = tool(&["patch", &source, &output]).expect(0);
    for line in expected {
        assert!(told.stdout.contains(&format!("no longer valid: {line}\n")), "{line}: {told}");
    }
    assert!(!tool(&["scan", &source]).expect(1).stdout.contains("no longer valid"));
}

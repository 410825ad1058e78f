//! What somebody changed in a patched image is a finding, whatever the image says of itself.

use std::process::Command;

use serde_json::{Value, json};

use super::hand::Tar;
use super::{INDEX, LAYER, Layout, MANIFEST, PROGRAM, digest, files, harness, image, tool};
use harness::{need, temp_dir};

/// The slugs that verify finds in the patched sample after the `change` of its manifest and configuration: alone, and
/// against its source.
fn found(change: &dyn Fn(&Layout, &mut Value, &mut Value)) -> [Vec<String>; 2] {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    let patched = Layout(dir.path().join("patched"));
    tool(&["patch", "-q", &source, &format!("oci:{}:v1", patched.0.display())]).expect(0);
    let [mut manifest, mut config] = patched.image();
    change(&patched, &mut manifest, &mut config);
    let config = serde_json::to_vec(&config).expect("JSON");
    manifest["config"]["digest"] = json!(patched.blob(&config));
    manifest["config"]["size"] = json!(config.len());
    let root = patched.descriptor(MANIFEST, &manifest);
    let name = patched.finish(root);
    [slugs(&["verify", "--json", &name]), slugs(&["verify", "--json", &name, "--against", &source])]
}

fn slugs(words: &[&str]) -> Vec<String> {
    let ran = tool(words);
    let report = ran.report();
    let findings = report["targets"][0]["tree"]["findings"].as_array().expect("a list").clone();
    assert_eq!(ran.status, i32::from(!findings.is_empty()), "{ran}");
    findings.iter().map(|one| one["slug"].as_str().expect("text").to_owned()).collect()
}

/// The topmost layer is `tar` from now on.
fn put_top(layout: &Layout, manifest: &mut Value, config: &mut Value, tar: &[u8]) {
    let top = manifest["layers"].as_array_mut().expect("layers").last_mut().expect("one");
    top["digest"] = json!(layout.blob(tar));
    top["size"] = json!(tar.len());
    *config["rootfs"]["diff_ids"].as_array_mut().expect("a list").last_mut().expect("one") =
        json!(digest(tar));
}

#[test]
fn a_file_more_in_the_layer_of_the_patch_is_a_finding() {
    if !need("gzip") {
        return;
    }
    let with = |more: &dyn Fn(Tar) -> Tar| {
        found(&|layout, manifest, config| {
            let top = manifest["layers"][1]["digest"].as_str().expect("a digest").to_owned();
            let blob = layout.0.join("blobs/sha256").join(&top[7..]);
            let file = std::fs::File::open(blob).expect("opened");
            let mut tar = Command::new("gzip").arg("-dc").stdin(file).output().expect("it runs").stdout;
            tar.truncate(tar.len() - 1024);
            tar.extend(more(Tar::default()).end());
            put_top(layout, manifest, config, &tar);
        })
    };
    assert_eq!(with(&|tar| tar), [[""; 0]; 2], "the same layer, not compressed");
    for more in [
        &(|tar: Tar| tar.file("etc/cron.d/more", b"* * * * * root /bin/program")) as &dyn Fn(Tar) -> Tar,
        &|tar| tar.directory("etc"),
        &|tar| tar.symlink("bin/sh", "program"),
        &|tar| tar.link("bin/sh", "bin/program"),
        &|tar| tar.file("etc/.wh.passwd", b""),
    ] {
        assert_eq!(with(more), [["file-not-recorded"]; 2]);
    }
    let many = with(&|tar| (0..100).fold(tar, |tar, n| tar.file(&format!("etc/{n}"), b"text")));
    assert_eq!(many[0].len(), 33, "32 are named, and that there are more");
}

#[test]
fn words_of_the_patch_that_are_not_true_are_findings() {
    assert_eq!(found(&|_, _, _| {}), [[""; 0]; 2]);
    let both = |key: &'static str, word: &'static str| {
        found(&|_, manifest, config| {
            manifest["annotations"][key] = json!(word);
            config["config"]["Labels"][key] = json!(word);
        })
    };
    let other = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    for key in [
        "org.opencontainers.image.base.digest",
        "dev.vsyspatch.original.manifest",
        "dev.vsyspatch.original.config",
        "dev.vsyspatch.version",
    ] {
        assert_eq!(both(key, other), [["config-changed", "manifest-changed"]; 2], "{key}");
    }
    // A source of a layout has a tag and no name, and the record has neither.
    assert_eq!(both("org.opencontainers.image.base.name", "docker.io/library/trusted:1"), [[""; 0]; 2]);
    for at in ["/created", "/history/1/created", "/history/1/comment"] {
        let changed = found(&|_, _, config| {
            *config.pointer_mut(at).expect(at) = json!("2020-01-01T00:00:00Z");
        });
        assert_eq!(changed, [["config-changed"]; 2], "{at}");
    }
    // As old as each other, and not as the record.
    let changed = found(&|_, _, config| {
        for at in ["/created", "/history/1/created"] {
            *config.pointer_mut(at).expect(at) = json!("2020-01-01T00:00:00Z");
        }
    });
    assert_eq!(changed, [["config-changed"]; 2]);
}

#[test]
fn an_image_says_the_name_of_its_source() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    let archive = |name: &str| format!("docker-archive:{}:{name}", dir.path().join("old.tar").display());
    let patched = format!("oci:{}:v1", dir.path().join("patched").display());
    let written_as = |name: &str| {
        tool(&["patch", "-q", "--always", &source, &archive(name)]).expect(0);
        tool(&["revert", "-q", &archive(name), &archive(name)]).expect(0);
    };
    written_as("docker.io/library/legacy:1");
    tool(&["patch", "-q", &archive("docker.io/library/legacy:1"), &patched]).expect(0);
    let slugs = |name: &str| slugs(&["verify", "--json", &patched, "--against", name]);
    assert_eq!(slugs(&archive("docker.io/library/legacy:1")), [""; 0]);
    assert_eq!(slugs(&source), [""; 0], "the same image");
    written_as("docker.io/library/other:1");
    assert_eq!(slugs(&archive("docker.io/library/other:1")), ["base-name-changed"]);
}

#[test]
fn a_manifest_is_compared_whatever_it_says_of_itself() {
    const OWN: &str = "dev.vsyspatch.original.manifest";
    let changed = found(&|_, manifest, _| {
        let annotations = manifest["annotations"].as_object_mut().expect("an object");
        annotations.remove(OWN);
        annotations.insert("more".into(), json!("x"));
    });
    assert_eq!(changed, [["manifest-changed"]; 2]);
    let changed = found(&|_, manifest, _| {
        manifest.as_object_mut().expect("an object").remove("annotations");
    });
    assert_eq!(changed, [["manifest-changed"]; 2]);
    // As if an engine had made it, which writes no such things.
    let changed = found(&|_, manifest, _| {
        manifest["layers"][1]["mediaType"] = json!(LAYER);
        manifest["annotations"]["more"] = json!("x");
    });
    assert_eq!(changed, [["manifest-changed"]; 2]);
    let changed = found(&|_, manifest, _| manifest["config"]["urls"] = json!(["https://elsewhere"]));
    assert_eq!(changed, [["manifest-changed"]; 2]);
}

#[test]
fn layers_on_top_of_the_patch_are_not_what_the_source_gives() {
    let more = files(&[("etc/text", b"text")]);
    let changed = found(&|layout, manifest, config| {
        config["rootfs"]["diff_ids"].as_array_mut().expect("a list").push(json!(digest(&more)));
        let layer = json!({ "mediaType": LAYER, "digest": layout.blob(&more), "size": more.len() });
        manifest["layers"].as_array_mut().expect("a list").push(layer);
    });
    assert_eq!(changed, [vec![], vec!["layers-changed"]]);
}

#[test]
fn an_index_is_compared_with_that_of_the_source() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let image_for = |architecture: &str| {
        let mut image = layout.manifest(architecture, &[(LAYER, &tar, &tar)]);
        image["platform"] = json!({ "os": "linux", "architecture": architecture });
        image
    };
    let manifests = [image_for("amd64"), image_for("arm64")];
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
        "annotations": { "own": "kept" } });
    let root = layout.descriptor(INDEX, &index);
    let source = layout.finish(root);
    let patched = Layout(dir.path().join("patched"));
    let name = format!("oci:{}:v1", patched.0.display());
    tool(&["patch", "-q", &source, &name]).expect(0);
    assert_eq!(slugs(&["verify", "--json", &name, "--against", &source]), [""; 0]);
    let top: Value = serde_json::from_slice(&harness::read(&patched.0.join("index.json"))).expect("JSON");
    let own = patched.document(&top["manifests"][0]["digest"]);
    let other = image_for("s390x");
    for change in [
        &(|index: &mut Value| index["manifests"][1]["digest"] = other["digest"].clone())
            as &dyn Fn(&mut Value),
        &|index| index["manifests"].as_array_mut().expect("a list").push(other.clone()),
        &|index| drop(index["manifests"].as_array_mut().expect("a list").pop()),
        &|index| index["annotations"]["own"] = json!("lost"),
        &|index| index["manifests"][0]["platform"]["variant"] = json!("v3"),
    ] {
        let mut changed = own.clone();
        change(&mut changed);
        let root = patched.descriptor(INDEX, &changed);
        let name = patched.finish(root);
        assert_eq!(slugs(&["verify", "--json", &name]), [""; 0], "of others the record tells nothing");
        assert_eq!(slugs(&["verify", "--json", &name, "--against", &source]), ["index-changed"]);
    }
}

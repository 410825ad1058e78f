//! What somebody changed in a patched image is a finding, whatever the image says of itself.

use std::process::Command;

use serde_json::{Value, json};

use super::hand::Tar;
use super::{INDEX, LAYER, Layout, MANIFEST, OTHER, PROGRAM, digest, files, harness, image, tool};
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
    let name = of_documents(&patched, manifest, &config);
    [slugs(&["verify", "--json", &name]), slugs(&["verify", "--json", &name, "--against", &source])]
}

/// The image of this manifest and configuration.
fn of_documents(layout: &Layout, mut manifest: Value, config: &Value) -> String {
    let config = serde_json::to_vec(config).expect("JSON");
    manifest["config"]["digest"] = json!(layout.blob(&config));
    manifest["config"]["size"] = json!(config.len());
    let root = layout.descriptor(MANIFEST, &manifest);
    layout.finish(root)
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

/// The header block with its right checksum.
fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn a_file_more_in_the_layer_of_the_patch_is_a_finding() {
    if !need("gzip") {
        return;
    }
    let with = |more: &dyn Fn(Tar) -> Tar| {
        found(&|layout, manifest, config| {
            let mut tar = top_of(layout, manifest);
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

/// The bytes of the topmost layer, which the tool compressed.
fn top_of(layout: &Layout, manifest: &Value) -> Vec<u8> {
    let top = manifest["layers"][1]["digest"].as_str().expect("a digest").to_owned();
    let file = std::fs::File::open(layout.0.join("blobs/sha256").join(&top[7..])).expect("opened");
    Command::new("gzip").arg("-dc").stdin(file).output().expect("it runs").stdout
}

#[test]
fn attributes_that_are_not_those_of_the_layers_below_are_findings() {
    if !need("gzip") {
        return;
    }
    // In the header of the entry that is called so: `bytes` at the place `at` of the block.
    let forged = |name: &str, at: usize, bytes: &[u8]| {
        let [alone, against] = found(&|layout, manifest, config| {
            let mut tar = top_of(layout, manifest);
            let is_it = |block: &&mut [u8]| {
                block.starts_with(name.as_bytes())
                    && block[name.len()] == 0
                    && block[257..].starts_with(b"ustar")
            };
            let block = tar.chunks_mut(512).find(is_it).expect("it is there");
            block[at..at + bytes.len()].copy_from_slice(bytes);
            seal(block);
            put_top(layout, manifest, config, &tar);
        });
        assert_eq!(alone, against);
        alone
    };
    const MODE: usize = 100;
    const OWNER: usize = 108;
    const GROUP: usize = 116;
    const TIME: usize = 136;
    assert_eq!(forged("./bin/program", MODE, b"0000755\0"), [""; 0], "as it was");
    for (at, bytes, slug) in [
        (MODE, &b"0004755\0"[..], "mode-changed"),
        (OWNER, b"0001750\0", "owner-changed"),
        (GROUP, b"0000005\0", "owner-changed"),
        (TIME, b"00000000000\0", "mtime-changed"),
    ] {
        assert_eq!(forged("./bin/program", at, bytes), [slug]);
        assert_eq!(forged("./bin/", at, bytes), [slug], "the directory above");
    }
    // What the patch made is as it makes it.
    assert_eq!(forged("var/lib/vsyspatch/record.json", MODE, b"0004755\0"), ["mode-changed"]);
    assert_eq!(forged("var/lib/vsyspatch/", MODE, b"0000777\0"), ["mode-changed"]);
}

#[test]
fn a_further_name_or_an_attribute_that_the_original_has_not_is_a_finding() {
    let dir = temp_dir();
    let capability = [("SCHILY.xattr.security.capability", &b"\x01\x00\x00\x02\x01"[..])];
    let base = || Tar::default().directory("bin");
    let source =
        image(dir.path(), &[base().file("bin/program", PROGRAM).link("bin/same", "bin/program").end()]);
    let patched = Layout(dir.path().join("patched"));
    let name = format!("oci:{}:v1", patched.0.display());
    tool(&["patch", "-q", &source, &name]).expect(0);
    assert_eq!(slugs(&["verify", "--json", &name, "--against", &source]), [""; 0]);
    if !need("gzip") {
        return;
    }
    let [mut manifest, mut config] = patched.image();
    let honest = top_of(&patched, &manifest);
    let entry = |tar: &[u8], begin: &str| {
        let is_it = |block: &[u8]| block.starts_with(begin.as_bytes()) && block[257..].starts_with(b"ustar");
        512 * tar.chunks(512).position(is_it).expect("it is there")
    };
    let mut verify = |tar: &[u8]| {
        put_top(&patched, &mut manifest, &mut config, tar);
        let name = of_documents(&patched, manifest.clone(), &config);
        slugs(&["verify", "--json", &name, "--against", &source])
    };
    assert_eq!(verify(&honest), [""; 0], "the same layer, not compressed");
    let mut setuid = honest.clone();
    let link = entry(&honest, "bin/same\0");
    setuid[link + 100..][..8].copy_from_slice(b"0004755\0");
    seal(&mut setuid[link..link + 512]);
    assert_eq!(verify(&setuid), ["mode-changed"], "engines give a link's mode to its file");
    // PAX records before the program.
    let at = entry(&honest, "bin/program\0");
    let mut records = Tar::default().pax(&capability).end();
    records.truncate(records.len() - 1024);
    assert_eq!(verify(&[&honest[..at], &records, &honest[at..]].concat()), ["xattrs-changed"]);
}

#[test]
fn a_record_of_another_original_than_the_layers_below_have_is_a_finding() {
    if !need("gzip") {
        return;
    }
    const RECORD: &str = "var/lib/vsyspatch/record.json";
    let dir = temp_dir();
    let of = |name: &str, program: &[u8]| {
        let place = dir.path().join(name);
        std::fs::create_dir(&place).expect("made");
        let source = image(&place, &[files(&[("bin/program", program)])]);
        let patched = Layout(place.join("patched"));
        tool(&["patch", "-q", &source, &format!("oci:{}:v1", patched.0.display())]).expect(0);
        let tar = top_of(&patched, &patched.image()[0]);
        let at = 512
            * tar.chunks(512).position(|block| block.starts_with(RECORD.as_bytes())).expect("it is there");
        let digits = std::str::from_utf8(&tar[at + 124..at + 135]).expect("text");
        let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).expect("a number");
        let record: Value = serde_json::from_slice(&tar[at + 512..][..size]).expect("JSON");
        let behind = (at + 512 + size).next_multiple_of(512);
        (source, patched, record, [tar[..at].to_vec(), tar[behind..].to_vec()])
    };
    let ((source, ours, own, _), (.., mut record, [before, behind])) =
        (of("ours", PROGRAM), of("theirs", OTHER));
    // The files of another image, as if they were made of ours.
    for key in ["manifest", "config"] {
        record[key] = own[key].clone();
    }
    let mut forged = Tar::default().file(RECORD, &serde_json::to_vec(&record).expect("JSON")).end();
    forged.truncate(forged.len() - 1024);
    forged[100..108].copy_from_slice(b"0000644\0");
    forged[136..148].copy_from_slice(b"00000000000\0");
    seal(&mut forged[..512]);
    let [mut manifest, mut config] = ours.image();
    put_top(&ours, &mut manifest, &mut config, &[before, forged, behind].concat());
    let name = of_documents(&ours, manifest, &config);
    assert_eq!(slugs(&["verify", "--json", &name, "--against", &source]), ["not-of-original"]);
}

#[test]
fn labels_of_the_image_stay_and_its_own_keys_say_what_it_was_made_of() {
    const BASE: &str = "org.opencontainers.image.base.digest";
    let dir = temp_dir();
    let tar = files(&[("bin/program", PROGRAM)]);
    let layout = Layout::new(dir.path(), "image");
    let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
    layout.finish(root);
    let [mut manifest, mut config] = layout.image();
    // buildah writes it empty.
    config["config"]["Labels"] = json!({ "zeta": "kept", BASE: "", "alpha": "kept, too" });
    manifest["annotations"] = json!({ "zeta": "kept" });
    let source = of_documents(&layout, manifest, &config);
    let [old, old_config] = layout.image().map(|document| serde_json::to_vec(&document).expect("JSON"));
    let patched = Layout(dir.path().join("patched"));
    tool(&["patch", "-q", &source, &format!("oci:{}:v1", patched.0.display())]).expect(0);
    let [new, new_config] = patched.image();
    let own = json!({
        BASE: digest(&old),
        "dev.vsyspatch.version": env!("CARGO_PKG_VERSION"),
        "dev.vsyspatch.original.manifest": digest(&old),
        "dev.vsyspatch.original.config": digest(&old_config),
    });
    let with_own = |others: Value| {
        let mut all = others;
        let own = own.as_object().expect("an object").clone();
        all.as_object_mut().expect("an object").extend(own);
        all
    };
    assert_eq!(new_config["config"]["Labels"], with_own(json!({ "zeta": "kept", "alpha": "kept, too" })));
    assert_eq!(new["annotations"], with_own(json!({ "zeta": "kept" })));
    let name = format!("oci:{}:v1", patched.0.display());
    assert_eq!(slugs(&["verify", "--json", &name, "--against", &source]), [""; 0]);
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

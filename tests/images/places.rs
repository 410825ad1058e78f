//! Names of images in archives and layouts, and what else is there.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::hand::Tar;
use super::{LAYER, Layout, PROGRAM, files, harness, image, put, tool};
use harness::{Ran, need, temp_dir};

fn json_at(path: &Path) -> Value {
    serde_json::from_slice(&harness::read(path)).expect("JSON")
}

/// A layout with one image of each of these names, and its descriptors.
fn layout_of(dir: &Path, names: &[Value]) -> (Layout, Vec<Value>) {
    let layout = Layout::new(dir, "several");
    let mut all = Vec::new();
    for (number, annotations) in names.iter().enumerate() {
        let text = format!("image {number}");
        let tar = files(&[("bin/program", PROGRAM), ("etc/text", text.as_bytes())]);
        let mut one = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
        one["annotations"] = annotations.clone();
        all.push(one);
    }
    list(&layout, &all);
    (layout, all)
}

fn list(layout: &Layout, manifests: &[Value]) {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(layout.0.join("index.json"), index.to_string()).expect("written");
}

/// An archive of the layout, with a `manifest.json` of these configurations and names.
fn archive_of(dir: &Path, layout: &Layout, names: &[(&Value, &[&str])]) -> String {
    let path = |digest: &Value| format!("blobs/sha256/{}", &digest.as_str().expect("a digest")[7..]);
    let of = |(image, names): &(&Value, &[&str])| {
        let manifest = layout.document(&image["digest"]);
        let layers: Vec<_> =
            manifest["layers"].as_array().expect("layers").iter().map(|one| path(&one["digest"])).collect();
        json!({ "Config": path(&manifest["config"]["digest"]), "RepoTags": names, "Layers": layers })
    };
    let list: Vec<Value> = names.iter().map(of).collect();
    put(&layout.0.join("manifest.json"), json!(list).to_string().as_bytes());
    let archive = dir.join("archive.tar");
    Ran::of(Command::new("tar").arg("-C").arg(&layout.0).arg("-cf").arg(&archive).arg(".")).expect(0);
    archive.display().to_string()
}

fn digest_of(name: &str) -> Value {
    tool(&["scan", "--json", name]).expect(1).report()["targets"][0]["image"]["digest"].clone()
}

/// As Docker 25 and later save images.
fn of_docker(name: &str) -> Value {
    let tag = name.rsplit_once(':').expect("a tag").1;
    json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag })
}

#[test]
fn an_archive_of_several_images_is_not_replaced_by_one() {
    let dir = temp_dir();
    let names = ["docker.io/library/foo:1", "docker.io/library/bar:1"].map(of_docker);
    let (layout, all) = layout_of(dir.path(), &names);
    let archive = archive_of(dir.path(), &layout, &[(&all[0], &["foo:1"]), (&all[1], &["bar:1"])]);
    let before = harness::read(archive.as_ref());
    let name = format!("docker-archive:{archive}:foo:1");
    let elsewhere = format!("docker-archive:{}:foo:1", dir.path().join("new.tar").display());
    let of_layout = format!("oci:{}:docker.io/library/bar:1", layout.0.display());
    for words in [["patch", &name, &name], ["patch", &of_layout, &name]] {
        let refused = tool(&words).expect(2);
        assert!(refused.stderr.contains("has several images or names"), "{refused}");
        assert!(refused.stderr.contains("write to another archive"), "{refused}");
        assert!(harness::read(archive.as_ref()) == before);
    }
    tool(&["patch", "-q", &name, &elsewhere]).expect(0);
    tool(&["verify", &elsewhere, "--against", &name]).expect(0);
    tool(&["revert", "-q", &elsewhere, &elsewhere]).expect(0);
}

#[test]
fn an_image_is_found_by_every_name_that_it_has() {
    let dir = temp_dir();
    let names = ["docker.io/library/foo:1", "docker.io/library/bar:2"].map(of_docker);
    let (layout, all) = layout_of(dir.path(), &names);
    let archive = archive_of(dir.path(), &layout, &[(&all[0], &["foo:1"]), (&all[1], &["bar:2"])]);
    for name in ["foo:1", "docker.io/library/foo:1", "docker.io/foo:1", "1"] {
        assert_eq!(digest_of(&format!("docker-archive:{archive}:{name}")), all[0]["digest"], "{name}");
    }
    assert_eq!(digest_of(&format!("oci:{}:bar:2", layout.0.display())), all[1]["digest"]);
    let none = tool(&["scan", &format!("docker-archive:{archive}:foo:2")]).expect(2);
    assert!(none.stderr.contains("there is no image \"foo:2\""), "{none}");
    assert!(tool(&["scan", &archive]).expect(2).stderr.contains("several images"));

    // Docker's own list tells apart what the index calls the same.
    let dir = temp_dir();
    let same = json!({ "org.opencontainers.image.ref.name": "1" });
    let (layout, all) = layout_of(dir.path(), &[same.clone(), same]);
    let archive = archive_of(dir.path(), &layout, &[(&all[0], &["foo:1"]), (&all[1], &["bar:1"])]);
    for (name, image) in [("foo:1", &all[0]), ("docker.io/library/bar:1", &all[1])] {
        assert_eq!(digest_of(&format!("docker-archive:{archive}:{name}")), image["digest"], "{name}");
    }
    assert!(tool(&["scan", &archive]).expect(2).stderr.contains("several images"));
}

#[test]
fn one_image_under_two_names_is_one() {
    let dir = temp_dir();
    let (layout, all) = layout_of(dir.path(), &[of_docker("docker.io/library/foo:1")]);
    let mut again = all[0].clone();
    again["annotations"] = of_docker("docker.io/library/foo:2");
    list(&layout, &[all[0].clone(), again]);
    assert_eq!(digest_of(&format!("oci:{}", layout.0.display())), all[0]["digest"]);
    let archive = archive_of(dir.path(), &layout, &[(&all[0], &["foo:1", "foo:2"])]);
    assert_eq!(digest_of(&archive), all[0]["digest"]);
    assert_eq!(digest_of(&format!("docker-archive:{archive}:foo:2")), all[0]["digest"]);
    // As Docker before 25 saved it.
    fs::remove_file(layout.0.join("index.json")).expect("removed");
    for names in [&[(&all[0], &["foo:1", "foo:2"][..])][..], &[(&all[0], &["foo:1"]), (&all[0], &["bar:1"])]]
    {
        let archive = archive_of(dir.path(), &layout, names);
        tool(&["scan", &archive]).expect(1);
        tool(&["scan", &format!("docker-archive:{archive}:foo:1")]).expect(1);
    }
}

#[test]
fn names_are_written_as_engines_know_them() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    let written = |source: &str, name: &str| {
        let archive = dir.path().join("out.tar");
        tool(&["patch", "-q", source, &format!("docker-archive:{}{name}", archive.display())]).expect(0);
        let unpacked = dir.path().join("out");
        fs::create_dir_all(&unpacked).expect("made");
        Ran::of(Command::new("tar").arg("-C").arg(&unpacked).arg("-xf").arg(&archive)).expect(0);
        let annotations = json_at(&unpacked.join("index.json"))["manifests"][0]["annotations"].clone();
        (json_at(&unpacked.join("manifest.json"))[0]["RepoTags"].clone(), annotations)
    };
    for (name, whole, tag) in [
        (":localhost/legacy", "localhost/legacy:latest", "latest"),
        (":localhost:5000/team/app", "localhost:5000/team/app:latest", "latest"),
        (":localhost:5000/team/app:2", "localhost:5000/team/app:2", "2"),
        (":legacy:1", "legacy:1", "1"),
    ] {
        let (tags, annotations) = written(&source, name);
        assert_eq!(tags, json!([whole]));
        assert_eq!(annotations["org.opencontainers.image.ref.name"], tag);
        assert_eq!(annotations["io.containerd.image.name"], whole);
    }
    // Of a name by its digest nothing is left.
    let by_digest = format!("localhost/legacy@sha256:{}", "0".repeat(64));
    let (layout, _) = layout_of(dir.path(), &[json!({ "org.opencontainers.image.ref.name": by_digest })]);
    let (tags, annotations) = written(&format!("oci:{}", layout.0.display()), "");
    assert_eq!((tags, annotations), (Value::Null, Value::Null));
}

#[test]
fn a_layout_keeps_images_of_other_names_with_the_same_tag() {
    let dir = temp_dir();
    let (layout, _) = layout_of(dir.path(), &["localhost/a:v1", "localhost/b:v1"].map(of_docker));
    let out = dir.path().join("out");
    let names = || -> Vec<Value> {
        let index = json_at(&out.join("index.json"));
        let all = index["manifests"].as_array().expect("a list").clone();
        all.iter().map(|one| one["annotations"]["io.containerd.image.name"].clone()).collect()
    };
    for _ in 0..2 {
        for name in ["localhost/a:v1", "localhost/b:v1"] {
            let source = format!("oci:{}:{name}", layout.0.display());
            tool(&["patch", "-q", &source, &format!("oci:{}", out.display())]).expect(0);
            tool(&["verify", &format!("oci:{}:{name}", out.display()), "--against", &source]).expect(0);
        }
        assert_eq!(names(), ["localhost/a:v1", "localhost/b:v1"]);
    }
    // Without a name there is one, however often it is written.
    let dir = temp_dir();
    let (layout, _) = layout_of(dir.path(), &[json!({})]);
    let out = dir.path().join("out");
    for _ in 0..2 {
        let to = format!("oci:{}", out.display());
        tool(&["patch", "-q", &format!("oci:{}", layout.0.display()), &to]).expect(0);
        assert_eq!(json_at(&out.join("index.json"))["manifests"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn options_that_mean_nothing_for_an_image_are_refused() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    let out = dir.path().join("out");
    let to = format!("oci:{}", out.display());
    let walk = [&["--exclude", "bin/*"][..], &["--include", "lib/*"], &["--one-file-system"]];
    let record = &["--record", "r.json"][..];
    let keep = [record, &["--preserve-mtime"], &["--break-links"]];
    for (command, options) in [
        (&["scan", &source][..], &walk[..]),
        (&["patch", &source, &to], &walk),
        (&["patch", &source, &to], &keep),
        (&["verify", &source], &walk),
        (&["verify", &source], &[record]),
        (&["revert", &source, &to], &keep),
    ] {
        for option in options {
            let refused = tool(&[command, option].concat()).expect(2);
            let words = format!("{} is for files and directories", option[0]);
            assert!(refused.stderr.contains(&words) && refused.stderr.contains("leave it out"), "{refused}");
        }
    }
    assert!(!out.exists());
}

#[test]
fn an_archive_that_is_compressed_as_a_whole_is_told_to_be_that() {
    let dir = temp_dir();
    let source = image(dir.path(), &[files(&[("bin/program", PROGRAM)])]);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let plain = at("image.tar");
    tool(&["patch", "-q", "--always", &source, &format!("docker-archive:{plain}")]).expect(0);
    for (program, end) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz"), ("bzip2", "bz2")] {
        if !need(program) {
            continue;
        }
        let packed = format!("{plain}.{end}");
        let pack = format!("{program} -c {plain} > {packed}");
        Ran::of(Command::new("sh").args(["-c", &pack])).expect(0);
        let before = harness::read(packed.as_ref());
        let remedy = format!("{program} --decompress --keep FILE");
        let name = format!("docker-archive:{packed}");
        for words in [["scan", &name].as_slice(), &["scan", &packed], &["patch", &source, &name]] {
            let told = tool(words).expect(2);
            assert!(told.stderr.contains(&remedy), "{told}");
            assert!(
                told.stderr.contains(&format!("compressed with {program}")) || words[1] == packed,
                "{told}"
            );
        }
        assert_eq!(harness::read(packed.as_ref()), before);
        // The remedy is one.
        fs::remove_file(&plain).expect("removed");
        let unpack = format!("cd {} && {}", dir.path().display(), remedy.replace("FILE", &packed));
        Ran::of(Command::new("sh").args(["-c", &unpack])).expect(0);
        tool(&["verify", &plain]).expect(0);
    }
}

#[test]
fn a_destination_by_digest_is_refused_before_anything_is_read() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let digest = format!("@sha256:{}", "0".repeat(64));
    for to in [
        format!("oci:{}:localhost/a{digest}", at("layout")),
        format!("docker-archive:{}:localhost/a:1{digest}", at("archive")),
        format!("docker-daemon:a{digest}"),
        format!("docker-daemon:{}", &digest[1..]),
        format!("containers-storage:[vfs@{}+{}]localhost/a{digest}", at("root"), at("run")),
        format!("docker://127.0.0.1:1/a{digest}"),
    ] {
        for command in ["patch", "revert"] {
            // There is no such source, and nobody notices.
            let refused = tool(&[command, &format!("oci:{}", at("missing")), &to]).expect(2);
            let words = [to.trim_start_matches("docker-archive:"), "by its digest", "name a tag for it"];
            assert!(words.iter().all(|word| refused.stderr.contains(word)), "{refused}");
        }
    }
}

/// What patching to `to` warns of.
fn warnings(source: &str, to: &str) -> Vec<String> {
    let report = tool(&["patch", "--json", source, to]).expect(0).report();
    let all = report["targets"][0]["tree"]["warnings"].as_array().expect("a list").clone();
    all.iter().map(|line| line.as_str().expect("text").to_owned()).collect()
}

#[test]
fn more_layers_than_docker_takes_are_a_warning() {
    let dir = temp_dir();
    let of = |count: usize| {
        let others = (1..count).map(|n| Tar::default().file(&format!("etc/{n}"), b"text").end());
        let layers: Vec<_> = std::iter::once(files(&[("bin/program", PROGRAM)])).chain(others).collect();
        let place = dir.path().join(count.to_string());
        fs::create_dir(&place).expect("made");
        warnings(&image(&place, &layers), &format!("oci:{}", place.join("new").display()))
    };
    assert_eq!(of(124), [""; 0]);
    let [line] = &of(125)[..] else { panic!("one warning") };
    assert!(line.contains("has 126 layers: Docker takes no more than 125"), "{line}");
}

#[test]
fn layers_that_old_docker_cannot_read_are_a_warning_for_its_archives() {
    if !need("zstd") {
        return;
    }
    let dir = temp_dir();
    let tar = files(&[("bin/program", PROGRAM)]);
    let file = dir.path().join("layer.tar");
    fs::write(&file, &tar).expect("written");
    let blob = Command::new("zstd").arg("-qc").arg(&file).output().expect("it runs").stdout;
    let layout = Layout::new(dir.path(), "image");
    let root = layout.manifest("amd64", &[(&format!("{LAYER}+zstd"), &blob, &tar)]);
    let source = layout.finish(root);
    let to = |name: &str| dir.path().join(name).display().to_string();
    let [line] = &warnings(&source, &format!("docker-archive:{}", to("new.tar")))[..] else {
        panic!("one warning")
    };
    assert!(line.contains("zstd, which Docker before 23 cannot read"), "{line}");
    assert_eq!(warnings(&source, &format!("oci:{}", to("new"))), [""; 0]);
}

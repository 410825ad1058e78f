//! Bytes that nobody means well with: errors are fine, panics and endless runs are not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::hand::Tar;
use super::harness::{self, Ran, need, temp_dir, vsyspatch};
use super::{INDEX, LAYER, LIBRARY, Layout, MANIFEST, PROGRAM, digest, files, image, tool};

/// Longer than any of these runs takes, on a slow host.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the tool, and ends it where it does not end by itself.
#[track_caller]
fn ends(words: &[&str]) -> Ran {
    let dir = temp_dir();
    let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
    let file = |path: &Path| fs::File::create(path).expect("made");
    let mut command = vsyspatch();
    command.args(words).stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let mut child = command.spawn().expect("it starts");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("its status") {
            break status;
        }
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{words:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = |path: &Path| String::from_utf8_lossy(&harness::read(path)).into_owned();
    let ran = Ran {
        line: format!("{words:?}"),
        status: status.code().unwrap_or(-1),
        stdout: text(&out),
        stderr: text(&err),
    };
    assert!((0..=2).contains(&ran.status) && !ran.stderr.contains("panicked"), "{ran}");
    ran
}

/// Numbers without a clock or a seed from outside (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }
}

#[test]
fn a_record_larger_than_any_is_not_read() {
    let dir = temp_dir();
    let tar = Tar::default().sized(b'0', "var/lib/vsyspatch/record.json", (64 << 20) + 1).end();
    let ran = ends(&["scan", &image(dir.path(), &[tar])]);
    assert!(ran.status == 2 && ran.stderr.contains("larger than any record"), "{ran}");
}

#[test]
fn sizes_that_no_file_has_are_errors() {
    let sizes = [u64::MAX, u64::MAX - 511, 1 << 63, (1 << 63) - 1, (1 << 63) - 512, 1 << 40];
    for size in sizes {
        for kind in [b'0', b'7', b'S', b'x', b'L', b'g', b'Z'] {
            let dir = temp_dir();
            let tar = Tar::default().file("bin/program", PROGRAM).sized(kind, "large", size).end();
            let ran = ends(&["scan", &image(dir.path(), std::slice::from_ref(&tar))]);
            assert_eq!(ran.status, 2, "{size:#x} {}: {ran}", kind as char);
            let archive = dir.path().join("archive.tar");
            fs::write(&archive, &tar).expect("written");
            assert_eq!(ends(&["scan", archive.to_str().expect("text")]).status, 2);
        }
        let record = size.to_string();
        let tar = Tar::default().pax(&[("size", record.as_bytes())]).file("large", PROGRAM).end();
        let dir = temp_dir();
        assert_eq!(ends(&["scan", &image(dir.path(), &[tar])]).status, 2, "{size:#x}");
    }
}

#[test]
fn what_a_device_says_of_its_size_means_nothing() {
    for kind in *b"123456" {
        let dir = temp_dir();
        let tar = Tar::default().file("a", b"").sized(kind, "device", 1 << 20).file("bin/program", PROGRAM);
        let scanned = tool(&["scan", "--json", &image(dir.path(), &[tar.end()])]);
        assert_eq!(scanned.report()["summary"]["files_with_sites"], 1, "{}: {scanned}", kind as char);
    }
}

#[test]
fn sparse_maps_that_lie_are_errors_of_one_file() {
    for map in [
        "0,512,18446744073709551615,512",
        "0,18446744073709551615",
        "4096,512",
        "0,512,256,512",
        "x",
        "",
        "1",
    ] {
        for size in ["1024", "18446744073709551615", "0", "9999999999"] {
            let records: [(&str, &[u8]); 4] = [
                ("GNU.sparse.map", map.as_bytes()),
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.name", b"sparse"),
            ];
            let tar = Tar::default().pax(&records).file("sparse", PROGRAM).end();
            let dir = temp_dir();
            ends(&["scan", &image(dir.path(), &[tar])]);
        }
    }
}

#[test]
fn layers_that_are_cut_anywhere_are_errors_that_name_them() {
    if !["gzip", "zstd"].into_iter().all(need) {
        return;
    }
    let tar = files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY)]);
    let plain = temp_dir();
    fs::write(plain.path().join("tar"), &tar).expect("written");
    let compressed = |program: &str| {
        let file = fs::File::open(plain.path().join("tar")).expect("opened");
        Command::new(program).arg("-c").stdin(file).output().expect("it runs").stdout
    };
    let all = [("tar", tar.clone(), 512), ("gzip", compressed("gzip"), 97), ("zstd", compressed("zstd"), 97)];
    for (name, blob, step) in all {
        for len in (0..blob.len()).step_by(step) {
            let dir = temp_dir();
            let layout = Layout::new(dir.path(), "image");
            let root = layout.manifest("amd64", &[(LAYER, &blob[..len], &tar)]);
            let output = dir.path().join("out");
            let ran = ends(&["patch", &layout.finish(root), &format!("oci:{}", output.display())]);
            assert!(ran.status == 2 && ran.stderr.contains("layer sha256:"), "{name}, {len} bytes: {ran}");
            assert!(!output.exists());
        }
    }
}

#[test]
fn bytes_that_change_anywhere_never_panic() {
    let tar = files(&[("bin/program", PROGRAM), ("lib/library.so", LIBRARY)]);
    let mut numbers = Numbers(1);
    for round in 0..150 {
        let mut odd = tar.clone();
        for _ in 0..=numbers.next(6) {
            // Headers are where it matters, and the first bytes of each block are their begin.
            let at = numbers.next(odd.len() / 512) * 512 + numbers.next(512);
            odd[at] = numbers.next(256) as u8;
        }
        // A header with a wrong checksum is all that most of these would show.
        for block in odd.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let dir = temp_dir();
        let source = image(dir.path(), &[odd]);
        let output = dir.path().join("out");
        let ran = ends(&["patch", &source, &format!("oci:{}:v1", output.display())]);
        if output.exists() {
            // A file that is no sound program stays as it is, and both say so.
            let verified = ends(&["verify", output.to_str().expect("text")]);
            assert_eq!(verified.status, ran.status, "round {round}: {ran}\n{verified}");
        }
    }
}

#[test]
fn documents_that_lie_are_errors() {
    let tar = files(&[("bin/program", PROGRAM)]);
    let mut numbers = Numbers(2);
    let words =
        ["null", "[]", "{}", "-1", "18446744073709551616", "\"\"", "\"sha256:\"", "true", "[[]]", "[null]"];
    for round in 0..120 {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
        let mut manifest = layout.document(&root["digest"]);
        let mut config = layout.document(&manifest["config"]["digest"]);
        let word = || serde_json::from_str(words[round % words.len()]).expect("JSON");
        let places = [
            "/rootfs/diff_ids/0",
            "/rootfs/diff_ids",
            "/rootfs",
            "/history",
            "/history/0",
            "/config",
            "/config/Cmd",
            "/created",
        ];
        if let Some(place) = config.pointer_mut(places[numbers.next(places.len())]) {
            *place = word();
        }
        let config = serde_json::to_vec(&config).expect("JSON");
        manifest["config"]["digest"] = layout.blob(&config).into();
        let places = [
            "/layers/0/digest",
            "/layers/0",
            "/layers",
            "/config",
            "/config/size",
            "/layers/0/size",
            "/layers/0/mediaType",
            "/mediaType",
            "/schemaVersion",
            "/none",
        ];
        if let Some(place) = manifest.pointer_mut(places[numbers.next(places.len())]) {
            *place = word();
        }
        let root = layout.descriptor(MANIFEST, &manifest);
        let source = layout.finish(root);
        for output in ["oci:LAYOUT:v1", "docker-archive:ARCHIVE:a:1", "dir:DIR"] {
            let (transport, name) = output.split_once(':').expect("a colon");
            let place = dir.path().join(name.split(':').next().expect("a name"));
            let (place, tag) =
                (place.display(), name.split_once(':').map_or(String::new(), |it| format!(":{}", it.1)));
            ends(&["patch", &source, &format!("{transport}:{place}{tag}")]);
        }
        for command in ["scan", "verify"] {
            ends(&[command, &source]);
        }
    }
    let deep = "[".repeat(100_000);
    for document in ["", "null", "[]", "{", "\u{feff}{}", &deep, r#"{"manifests":7}"#, r#"{"manifests":[7]}"#]
    {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        fs::write(layout.0.join("index.json"), document).expect("written");
        assert_eq!(ends(&["scan", layout.0.to_str().expect("text")]).status, 2, "{document:.20}");
        fs::write(dir.path().join("manifest.json"), document).expect("written");
        assert_eq!(ends(&["scan", &format!("dir:{}", dir.path().display())]).status, 2, "{document:.20}");
        for name in ["index.json", "manifest.json", "repositories"] {
            let archive = dir.path().join("archive.tar");
            fs::write(&archive, Tar::default().file(name, document.as_bytes()).end()).expect("written");
            assert_eq!(ends(&["scan", archive.to_str().expect("text")]).status, 2, "{name}: {document:.20}");
        }
    }
}

#[test]
fn names_in_archives_lead_nowhere_else() {
    let secret = temp_dir();
    fs::write(secret.path().join("config"), b"{}").expect("written");
    let path = secret.path().join("config");
    let path = path.to_str().expect("text").to_owned();
    for config in [path.clone(), format!("../../../../../..{path}"), "link".into()] {
        let list = serde_json::json!([{ "Config": config, "RepoTags": null, "Layers": ["link", config] }]);
        let tar =
            Tar::default().symlink("link", &path).file("manifest.json", list.to_string().as_bytes()).end();
        let archive = secret.path().join("archive.tar");
        fs::write(&archive, tar).expect("written");
        let ran = ends(&["scan", archive.to_str().expect("text")]);
        assert!(ran.status == 2 && ran.stderr.contains("has no member"), "{ran}");
    }
}

#[test]
fn headers_that_are_larger_than_any_name_are_errors() {
    let long = "n".repeat(2 << 20);
    let dir = temp_dir();
    let all = [
        Tar::default().pax(&[("path", long.as_bytes())]).file("bin/program", PROGRAM),
        Tar::default().pax(&[("comment", long.as_bytes())]).file("bin/program", PROGRAM),
        Tar::default().gnu_long(b'L', &long).file("bin/program", PROGRAM),
        Tar::default().gnu_long(b'K', &long).link("bin/link", "bin/program"),
    ];
    for (number, tar) in all.into_iter().enumerate() {
        let source = image(&dir.path().join(number.to_string()), &[tar.end()]);
        let ran = ends(&["scan", &source]);
        assert!(ran.status == 2 && ran.stderr.contains("layer sha256:"), "{number}: {ran}");
        assert!(ran.stderr.contains("metadata exceeds limit"), "{number}: {ran}");
    }
}

/// The error of a patch of `source`, which writes nothing.
#[track_caller]
fn refused(source: &str) -> String {
    let dir = temp_dir();
    for transport in ["oci", "docker-archive", "dir"] {
        let output = dir.path().join(transport);
        let ran = ends(&["patch", source, &format!("{transport}:{}", output.display())]);
        assert_eq!(ran.status, 2, "{ran}");
        let is_empty = fs::read_dir(dir.path()).expect("listed").next().is_none();
        assert!(is_empty, "{transport}: {ran}");
    }
    ends(&["scan", source]).stderr
}

/// An error that says all these.
#[track_caller]
fn names(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn names_of_a_layer_that_lead_out_of_it_are_errors() {
    for path in ["../bin/program", "bin/../../program", "/..", "a/../../b"] {
        let dir = temp_dir();
        let tar = Tar::default().file(path, PROGRAM).end();
        let error = refused(&image(dir.path(), &[tar]));
        names(&error, &["layer sha256:", "offset 0x200", path, "leads out of the archive", "do not trust"]);
        let tar = Tar::default().file("bin/program", PROGRAM).link("bin/link", path).end();
        names(&refused(&image(dir.path(), &[tar])), &["layer sha256:", path, "leads out of the archive"]);
    }
}

/// As engines read them: `/bin/../sbin/program` is `sbin/program` of the image.
#[test]
fn absolute_names_are_meant_from_the_root_of_the_image() {
    let dir = temp_dir();
    let tar = Tar::default().file("/bin/../sbin/./program", PROGRAM).link("bin/link", "/sbin/program");
    let source = image(dir.path(), &[tar.symlink("etc/link", "/../../../etc/passwd").end()]);
    assert_eq!(super::scanned(&source), ["sbin/program = bin/link"]);
    let output = format!("oci:{}:v1", dir.path().join("out").display());
    tool(&["patch", "-q", &source, &output]).expect(0);
    tool(&["verify", &output, "--against", &source]).expect(0);
    tool(&["scan", &output]).expect(0);
}

#[test]
fn a_program_below_a_symbolic_link_is_not_called_clean() {
    let dir = temp_dir();
    let tar = Tar::default().symlink("lib", "/usr/lib").file("lib/program", PROGRAM).end();
    let scanned = tool(&["scan", &image(dir.path(), &[tar])]).expect(1);
    names(&scanned.stdout, &["not scanned: layer sha256:", "/lib/program is below a symbolic link"]);
    assert!(!scanned.stdout.contains("clean"), "{scanned}");
}

#[test]
fn devices_and_links_in_the_stead_of_members_are_none() {
    let dir = temp_dir();
    let archive = dir.path().join("archive.tar");
    for kind in *b"346" {
        let tar = Tar::default().entry(kind, "manifest.json", "", b"").end();
        fs::write(&archive, tar).expect("written");
        names(&refused(archive.to_str().expect("text")), &["no image"]);
    }
    let list = br#"[{"Config":"c.json","Layers":["layer.tar"]}]"#;
    let config = serde_json::json!({ "rootfs": { "diff_ids": [digest(b"")] } }).to_string();
    let members = || Tar::default().file("manifest.json", list).file("c.json", config.as_bytes());
    let sparse: [(&str, &[u8]); 4] = [
        ("GNU.sparse.map", b"0,0"),
        ("GNU.sparse.size", b"9"),
        ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.name", b"layer.tar"),
    ];
    for tar in [
        members().link("layer.tar", "nowhere"),
        members().symlink("layer.tar", "layer.tar"),
        members().entry(b'3', "layer.tar", "", b""),
        members().pax(&sparse).file("layer.tar", b""),
    ] {
        fs::write(&archive, tar.end()).expect("written");
        names(&refused(archive.to_str().expect("text")), &["layer.tar", "get it again"]);
    }
}

#[test]
fn two_members_that_say_what_is_in_an_archive_are_an_error() {
    for name in ["manifest.json", "index.json", "repositories"] {
        let dir = temp_dir();
        let archive = dir.path().join("archive.tar");
        fs::write(&archive, Tar::default().file(name, b"{}").file(name, b"[]").end()).expect("written");
        let error = refused(archive.to_str().expect("text"));
        names(&error, &["offset 0x", "the archive has two members", name, "save the image again"]);
    }
}

#[test]
fn documents_that_no_engine_takes_are_errors() {
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    let tar = files(&[("bin/program", PROGRAM)]);
    let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
    let mut manifest = layout.document(&root["digest"]);
    let layer = manifest["layers"][0].clone();
    manifest["padding"] = "x".repeat(10 << 20).into();
    let error = refused(&layout.finish(layout.descriptor(MANIFEST, &manifest)));
    names(&error, &["blob sha256:", "more than 4194304 bytes", "no engine takes it"]);
    fs::write(layout.0.join("index.json"), " ".repeat(10 << 20)).expect("written");
    names(&refused(layout.0.to_str().expect("text")), &["index.json", "more than 4194304 bytes"]);
    let archive = dir.path().join("archive.tar");
    let tar = Tar::default().file("manifest.json", " ".repeat(10 << 20).as_bytes()).end();
    fs::write(&archive, tar).expect("written");
    names(&refused(archive.to_str().expect("text")), &["manifest.json", "more than 4194304 bytes"]);

    manifest["padding"] = "".into();
    manifest["layers"] = std::iter::repeat_n(layer, 2000).collect();
    let error = refused(&layout.finish(layout.descriptor(MANIFEST, &manifest)));
    names(&error, &["2000 layers"]);
    let all: Vec<_> = std::iter::repeat_n(root, 2000).collect();
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": all });
    names(
        &refused(&layout.finish(layout.descriptor(INDEX, &index))),
        &["more than 256 images", "choose one"],
    );
}

#[test]
fn a_layer_that_becomes_far_more_than_it_is_ends_early() {
    if !need("zstd") {
        return;
    }
    let mut zstd = Command::new("sh");
    zstd.args(["-c", "head -c 268435456 /dev/zero | zstd -q -c"]);
    let frame = zstd.output().expect("it runs").stdout;
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), "image");
    // 16 GiB in half a megabyte.
    let bomb = frame.repeat(64);
    let root = layout.manifest("amd64", &[(LAYER, &bomb, b"")]);
    names(&refused(&layout.finish(root)), &["layer sha256:", "compressed bytes become more than"]);
}

#[test]
fn blobs_of_another_size_or_content_than_the_image_says_are_errors() {
    let tar = files(&[("bin/program", PROGRAM)]);
    let with = |change: &dyn Fn(&Layout, &mut serde_json::Value)| {
        let dir = temp_dir();
        let layout = Layout::new(dir.path(), "image");
        let root = layout.manifest("amd64", &[(LAYER, &tar, &tar)]);
        let mut manifest = layout.document(&root["digest"]);
        change(&layout, &mut manifest);
        let root = layout.descriptor(MANIFEST, &manifest);
        refused(&layout.finish(root))
    };
    let error = with(&|_, manifest| manifest["layers"][0]["size"] = (tar.len() - 1).into());
    names(&error, &["layer sha256:", "more bytes than the manifest says", "get it again"]);
    let blob = |layout: &Layout, of: &serde_json::Value| {
        layout.0.join("blobs/sha256").join(&of["digest"].as_str().expect("a digest")[7..])
    };
    let error = with(&|layout, manifest| {
        let at = tar.windows(PROGRAM.len()).position(|bytes| bytes == PROGRAM).expect("uncompressed");
        fs::write(blob(layout, &manifest["layers"][0]), &tar[..at + 700]).expect("written");
    });
    names(&error, &["layer sha256:", "offset 0x", "ends inside the file bin/program", "get it again"]);
    let error = with(&|layout, manifest| {
        fs::write(blob(layout, &manifest["config"]), b"{}").expect("written");
    });
    names(&error, &["the blob sha256:", "is something else: sha256:", "get it again"]);
    let error = with(&|_, manifest| manifest["config"]["digest"] = "sha512:00".into());
    names(&error, &["sha512:00"]);
}

#[test]
fn a_blob_that_is_no_file_is_an_error_and_waited_for_by_nobody() {
    if !need("mkfifo") {
        return;
    }
    let dir = temp_dir();
    let tar = files(&[("bin/program", PROGRAM)]);
    let source = image(dir.path(), std::slice::from_ref(&tar));
    let [manifest, _] = Layout(dir.path().join("image")).image();
    for of in [&manifest["layers"][0], &manifest["config"]] {
        let name = &of["digest"].as_str().expect("a digest")[7..];
        let blob = dir.path().join("image/blobs/sha256").join(name);
        let bytes = harness::read(&blob);
        fs::remove_file(&blob).expect("removed");
        Ran::of(Command::new("mkfifo").arg(&blob)).expect(0);
        names(&ends(&["scan", &source]).stderr, &[name, "not a regular file"]);
        fs::remove_file(&blob).expect("removed");
        fs::write(&blob, bytes).expect("written");
    }
    assert_eq!(ends(&["scan", &source]).status, 1);
}

#[test]
fn a_manifest_of_schema_1_has_as_many_layers_as_entries_of_history() {
    let dir = temp_dir();
    let tar = files(&[("bin/program", PROGRAM)]);
    fs::write(dir.path().join(&digest(&tar)[7..]), &tar).expect("written");
    let scanned = |layers: usize, histories: usize| {
        let layer = serde_json::json!({ "blobSum": digest(&tar) });
        let history = serde_json::json!({ "v1Compatibility": r#"{"architecture":"amd64","os":"linux"}"# });
        let manifest = serde_json::json!({ "schemaVersion": 1, "fsLayers": vec![layer; layers],
            "history": vec![history; histories] });
        fs::write(dir.path().join("manifest.json"), manifest.to_string()).expect("written");
        ends(&["scan", &format!("dir:{}", dir.path().display())])
    };
    assert_eq!(scanned(1, 1).status, 1);
    for (layers, histories) in [(1, 0), (0, 1), (2, 1), (1, 2), (1025, 1025)] {
        let ran = scanned(layers, histories);
        assert_eq!(ran.status, 2, "{ran}");
        let counts = format!("{layers} layers and {histories} entries of history");
        names(&ran.stderr, &[&counts, "no engine takes it"]);
    }
}

#[test]
fn source_and_destination_may_be_the_same_archive() {
    let tar = files(&[("bin/program", PROGRAM)]);
    let dir = temp_dir();
    let source = image(dir.path(), std::slice::from_ref(&tar));
    let archive = dir.path().join("archive.tar");
    let name = format!("docker-archive:{}:localhost/a:1", archive.display());
    tool(&["patch", "-q", &source, &name]).expect(0);
    tool(&["revert", "-q", &name, &name]).expect(0);
    let original = harness::read(&archive);
    tool(&["patch", "-q", &name, &name]).expect(0);
    tool(&["verify", &name, "--against", &source]).expect(0);
    tool(&["revert", "-q", &name, &name]).expect(0);
    assert_eq!(digest(&harness::read(&archive)), digest(&original));
    // One that is damaged stays as it is, and so does what else is in the directory.
    let mut damaged = harness::read(&archive);
    let at = damaged.windows(PROGRAM.len()).position(|bytes| bytes == PROGRAM).expect("uncompressed");
    damaged[at + 100] ^= 1;
    fs::write(&archive, &damaged).expect("written");
    names(&ends(&["patch", &name, &name]).stderr, &["layer sha256:", "the image is damaged"]);
    assert_eq!(digest(&harness::read(&archive)), digest(&damaged));
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).expect("listed").map(|it| it.expect("one").file_name()).collect();
    left.sort();
    assert_eq!(left, ["archive.tar", "image"]);
    // A layout, too: the old blobs stay, and the name leads to the new image.
    tool(&["patch", "-q", &source, &source]).expect(0);
    tool(&["verify", &source]).expect(0);
    tool(&["revert", "-q", &source, &source]).expect(0);
    assert_eq!(super::scanned(&source), ["bin/program"]);
}

/// A scan with 140 MiB of address space, of which the program has some 50.
fn scan_with_little_memory(source: &str) -> Ran {
    let mut scan = Command::new("sh");
    scan.args(["-c", "ulimit -v 143360; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_vsyspatch")]);
    Ran::of(scan.args(["scan", "--no-cache", "--json", source]))
}

#[test]
fn what_gzip_made_a_thousand_times_smaller_streams_by() {
    if !need("gzip") {
        return;
    }
    let dir = temp_dir();
    // More than there is memory for; and a program in front and behind.
    let tar = files(&[("a", PROGRAM), ("b", &vec![0; 100 << 20]), ("c", LIBRARY)]);
    let file = dir.path().join("layer.tar");
    fs::write(&file, &tar).expect("written");
    let bomb = Command::new("gzip").arg("-9c").arg(&file).output().expect("it runs").stdout;
    assert!(bomb.len() < 1 << 20);
    let layout = Layout::new(dir.path(), "image");
    let root = layout.manifest("amd64", &[(&format!("{LAYER}+gzip"), &bomb, &tar)]);
    let report = scan_with_little_memory(&layout.finish(root)).expect(1).report();
    assert_eq!(report["summary"]["files_with_sites"], 2);
}

#[test]
fn a_layer_of_many_files_takes_little_memory() {
    let entry = |n: u32| format!("usr/share/doc/package-{:06}/file-of-it-{n:07}", n / 100);
    let many = (0..200_000).fold(Tar::default(), |tar, n| tar.file(&entry(n), b"")).end();
    let dir = temp_dir();
    let source = image(dir.path(), &[many]);
    let report = scan_with_little_memory(&source).expect(0).report();
    assert_eq!(report["summary"]["files"], 200_000);
}

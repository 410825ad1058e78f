//! What is remembered of layers: it saves reading them, and never changes what is said.

mod harness;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use harness::image::{LAYER, Layout, OTHER, PROGRAM, digest, files, layer, put};
use harness::source::{Link, Linker, Source};
use harness::web::Web;
use harness::{Ran, need, read, temp_dir, vsyspatch};
use serde_json::Value;

/// Images of uncompressed layers, in a registry and in layouts, and what is remembered of them.
struct Place {
    dir: tempfile::TempDir,
    web: Web,
}

impl Place {
    fn new() -> Self {
        Self { dir: temp_dir(), web: Web::default() }
    }

    fn layout(&self, name: &str, layers: &[&[u8]]) -> (Layout, String) {
        let layout = Layout::new(self.dir.path(), name);
        let layers: Vec<(&str, &[u8], &[u8])> = layers.iter().map(|tar| (LAYER, *tar, *tar)).collect();
        let root = layout.manifest("amd64", &layers);
        let reference = layout.finish(root);
        (layout, reference)
    }

    /// The image in the registry.
    fn image(&self, name: &str, layers: &[&[u8]]) -> String {
        self.web.put_layout(&self.layout(name, layers).0, name);
        format!("docker://{}/{name}:v1", self.web.address)
    }

    fn run(&self, words: &[&str]) -> Ran {
        Ran::of(vsyspatch().env("XDG_CACHE_HOME", self.dir.path()).env("HOME", "/dev/null").args(words))
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("vsyspatch/layers")
    }

    /// What is remembered of the layer.
    fn entry(&self, layer: &[u8]) -> PathBuf {
        self.cache().join(&digest(layer)[7..])
    }

    /// What is said of the image, without times; and bytes that the registry sent.
    fn said(&self, words: &[&str]) -> (Value, u64) {
        let before = self.web.sent();
        let ran = self.run(&[&["--json"], words].concat());
        assert!(ran.status < 2, "{ran}");
        let mut report = ran.report();
        report["targets"][0]["tree"]["seconds"] = Value::Null;
        (report, self.web.sent() - before)
    }

    /// What is said is the same as without what is remembered; how many bytes were sent with, and without.
    fn same(&self, words: &[&str]) -> [u64; 2] {
        let (with, sent) = self.said(words);
        let (without, all) = self.said(&[words, &["--no-cache"]].concat());
        assert_eq!(with, without, "{words:?}");
        [sent, all]
    }
}

/// A program with nothing to say of.
fn clean() -> Vec<u8> {
    read(Path::new("/bin/true"))
}

fn base() -> Vec<u8> {
    let noise: Vec<u8> = (0..2_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    files(&[("bin/program", PROGRAM), ("bin/clean", &clean()), ("bin/other", OTHER), ("data", &noise)])
}

#[test]
fn a_layer_that_images_share_is_fetched_once() {
    let place = Place::new();
    let base = base();
    let first = place.image("first", &[&base]);
    let second = place.image("second", &[&base, &files(&[("bin/more", OTHER), ("etc/text", b"text")])]);
    let (_, whole) = place.said(&["scan", &first]);
    assert!(whole > base.len() as u64, "{whole} bytes were sent");
    let [sent, all] = place.same(&["scan", &second]);
    assert!(all > whole && sent * 5 < whole, "{sent} of {all} bytes were sent");
    // A layer above decides what is seen of the one below.
    let hidden = files(&[("bin/.wh.program", b""), ("bin/other", b"#!/bin/sh"), ("data/.wh..wh..opq", b"")]);
    let third = place.image("third", &[&base, &hidden]);
    let [sent, _] = place.same(&["scan", &third]);
    assert!(sent * 5 < whole, "{sent} bytes were sent");
    assert_eq!(place.run(&["scan", &third]).status, 0);
    let none = place.said(&["scan", &first, "--no-cache"]).1;
    assert!(none >= whole, "{none} bytes were sent");

    // The new image is the same, and so is the way back.
    let to = |name: &str| format!("docker://{}/{name}:v1", place.web.address);
    let patched = place.run(&["patch", "-q", &second, &to("with")]).expect(0).stdout;
    let without = place.run(&["patch", "-q", "--no-cache", &second, &to("without")]).expect(0).stdout;
    assert_eq!(patched.split('@').nth(1), without.split('@').nth(1));
    place.run(&["verify", &to("with"), "--against", &second]).expect(0);
    place.same(&["scan", &to("with")]);
    let reverted = place.run(&["revert", "-q", &to("with"), &to("back")]).expect(0).stdout;
    let original = Layout(place.dir.path().join("second"));
    let index: Value = serde_json::from_slice(&read(&original.0.join("index.json"))).expect("JSON");
    assert_eq!(reverted.trim_end().split('@').nth(1), index["manifests"][0]["digest"].as_str());
}

/// A program of 17 MiB, more than is remembered in full, that holds the page's addresses and calls none of them.
fn look_alike(dir: &Path) -> Vec<u8> {
    let source = Source::load("look-alike-compare");
    let linked = source.link(&source.assemble(dir), Link::Exec, Linker::Bfd, dir);
    let mut bytes = read(&linked.files[0]);
    bytes.resize(17 << 20, 0);
    bytes
}

#[test]
fn a_layer_with_a_large_look_alike_is_fetched_once() {
    if !need("as") || !need("ld.bfd") {
        return;
    }
    let place = Place::new();
    let base = files(&[("bin/program", PROGRAM), ("bin/look-alike", &look_alike(place.dir.path()))]);
    let link = layer(|tree| {
        put(&tree.join("bin/look-alike"), b"");
        fs::hard_link(tree.join("bin/look-alike"), tree.join("bin/link")).expect("linked");
    });
    let first = place.image("first", &[&base]);
    let second = place.image("second", &[&base, &files(&[("bin/more", OTHER), ("etc/text", b"text")])]);
    let hidden = place.image("hidden", &[&base, &link]);
    let (said, whole) = place.said(&["scan", &first]);
    assert!(whole > 17 << 20 && said["summary"]["harmless"].as_u64() > Some(2), "{}", said["summary"]);
    assert!(
        fs::metadata(place.entry(&base)).expect("an entry").len() < 1 << 20,
        "it is not remembered in full"
    );
    let commands = [
        &["scan"][..],
        &["scan", "--all", "--via", "auto"],
        &["scan", "--strict", "--via", "vdso"],
        &["patch", "--dry-run"],
    ];
    for image in [&second, &hidden] {
        for words in commands {
            let [sent, all] = place.same(&[words, &[image]].concat());
            assert!(all > whole / 2 && sent * 100 < whole, "{words:?}: {sent} of {all} bytes were sent");
        }
        // In words, too, and as a forge and a browser want it.
        let html = place.dir.path().join("report.html");
        let told = |more: &[&str]| {
            let told = |how: &[&str]| {
                let ran = place.run(&[&["scan", "--all", image], how, more].concat());
                let lines = ran.stdout.lines().filter(|line| !line.ends_with(" s")).map(str::to_owned);
                lines.collect::<Vec<_>>()
            };
            let page = ["--html", html.to_str().expect("UTF-8")];
            (told(&["-v"]), told(&["--format", "sarif"]), told(&page), read(&html))
        };
        assert_eq!(told(&[]), told(&["--no-cache"]));
    }
    let to = |name: &str| format!("docker://{}/{name}:v1", place.web.address);
    let patched = place.run(&["patch", "-q", &second, &to("with")]).expect(0).stdout;
    let without = place.run(&["patch", "-q", "--no-cache", &second, &to("without")]).expect(0).stdout;
    assert_eq!(patched.split('@').nth(1), without.split('@').nth(1));
    place.run(&["verify", &to("with"), "--against", &second]).expect(0);
}

#[test]
fn an_entry_that_is_damaged_or_foreign_is_as_good_as_none() {
    let place = Place::new();
    let base = files(&[("bin/program", PROGRAM), ("bin/other", OTHER)]);
    let name = place.image("image", &[&base]);
    let (said, whole) = place.said(&["scan", &name]);
    let entry = place.entry(&base);
    let sound = read(&entry);
    let reads_again = |what: &str| {
        let (again, sent) = place.said(&["scan", &name]);
        assert_eq!(again, said, "{what}");
        assert!(sent >= whole, "{what}: {sent} bytes were sent");
        assert_eq!(read(&entry), sound, "{what}: it is written anew");
    };
    let taken = |what: &str| assert!(place.said(&["scan", &name]).1 * 5 < whole, "{what}");
    taken("a sound entry");
    for at in (0..sound.len()).step_by(sound.len() / 8) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&entry, bytes).expect("written");
        reads_again(&format!("byte {at} is another"));
        fs::write(&entry, &sound[..at]).expect("written");
        reads_again(&format!("cut at {at}"));
    }
    // One of another layer, which has nothing to say of, and one of another program.
    let other = files(&[("etc/text", b"no program")]);
    place.said(&["scan", &place.image("clean", &[&other])]);
    fs::copy(place.entry(&other), &entry).expect("copied");
    reads_again("the entry of another layer");
    let text = String::from_utf8_lossy(&sound).into_owned();
    let build = text.split("\"build\":\"sha256:").nth(1).expect("a build")[..64].to_owned();
    let at = sound.windows(64).position(|window| window == build.as_bytes()).expect("it is there");
    let mut foreign = sound.clone();
    foreign[at..at + 64].copy_from_slice(&digest(b"another program").as_bytes()[7..]);
    fs::write(&entry, foreign).expect("written");
    reads_again("another program wrote it");
    // One that somebody else could have written.
    fs::set_permissions(&entry, Permissions::from_mode(0o666)).expect("its mode");
    reads_again("others may write to it");
    taken("it is written anew");
    fs::remove_dir_all(place.cache()).expect("removed");
    fs::write(place.cache(), b"no directory").expect("written");
    let (again, sent) = place.said(&["scan", &name]);
    assert!(again == said && sent >= whole, "nothing can be remembered there");
}

#[test]
fn a_layer_on_the_disk_has_to_be_what_it_was() {
    let place = Place::new();
    let tar = files(&[("bin/program", PROGRAM)]);
    let (layout, name) = place.layout("image", &[&tar]);
    let archive = place.dir.path().join("image.tar");
    let archive_name = format!("oci-archive:{}", archive.display());
    place.run(&["patch", "-q", &name, &archive_name]).expect(0);
    for source in [&name, &archive_name] {
        place.same(&["scan", source]);
    }
    assert!(place.entry(&tar).is_file());
    for (file, name) in
        [(layout.0.join("blobs/sha256").join(&digest(&tar)[7..]), &name), (archive, &archive_name)]
    {
        let mut bytes = read(&file);
        let at = bytes.windows(8).position(|window| window == &PROGRAM[..8]).expect("it is there") + 0x200;
        bytes[at] ^= 1;
        fs::write(&file, bytes).expect("written");
        let ran = place.run(&["scan", name]).expect(2);
        assert!(ran.stderr.contains("the image is damaged"), "{ran}");
    }
}

#[test]
fn a_file_that_a_record_knows_is_looked_at_whatever_is_remembered() {
    // Once they are patched, there is nothing to say of one of them, and of the other that it has no calls.
    for program in [OTHER, PROGRAM] {
        look_whatever_is_remembered(program);
    }
}

fn look_whatever_is_remembered(program: &[u8]) {
    let place = Place::new();
    let (_, source) = place.layout("source", &[&files(&[("bin/program", program)])]);
    let patched = place.dir.path().join("patched");
    place.run(&["patch", "-q", &source, &format!("oci:{}:v1", patched.display())]).expect(0);
    let [manifest, _] = Layout(patched.clone()).image();
    let layer = manifest["layers"][1]["digest"].as_str().expect("a digest");
    let tree = place.dir.path().join("tree");
    fs::create_dir(&tree).expect("made");
    let unpack = ["-xf", &format!("{}/blobs/sha256/{}", patched.display(), &layer[7..])].map(str::to_owned);
    Ran::of(Command::new("tar").arg("-C").arg(&tree).args(unpack)).expect(0);
    let record = read(&tree.join("var/lib/vsyspatch/record.json"));
    let program = files(&[("bin/program", &read(&tree.join("bin/program")))]);
    // Alone it is any program; with the record it is one that was patched.
    let alone = place.image("alone", &[&program]);
    place.same(&["scan", &alone]);
    assert!(place.entry(&program).is_file());
    let both = place.image("both", &[&program, &files(&[("var/lib/vsyspatch/record.json", &record)])]);
    let report = place.same(&["patch", "--dry-run", &both]);
    assert!(report[0] > program.len() as u64, "the program was read");
    let (said, _) = place.said(&["patch", "--dry-run", &both]);
    assert_eq!(said["summary"]["already_patched"], 1);
    assert!(!place.entry(&files(&[("var/lib/vsyspatch/record.json", &record)])).exists());
}

#[test]
fn the_directory_is_the_one_that_is_named() {
    let place = Place::new();
    let tar = files(&[("bin/program", PROGRAM)]);
    let (_, name) = place.layout("image", &[&tar]);
    let named = place.dir.path().join("deep/er");
    let option = format!("--cache-dir={}", named.display());
    place.run(&["scan", &option, &name]).expect(1);
    assert!(named.join("layers").join(&digest(&tar)[7..]).is_file() && !place.cache().exists());
    place.run(&["scan", "--no-cache", &name]).expect(1);
    place.run(&["verify", &name]).expect(2);
    assert!(!place.cache().exists());
    assert!(place.run(&["scan", &option, "--no-cache", &name]).status == 2);
}

#[test]
fn what_was_not_needed_for_longest_makes_room() {
    let place = Place::new();
    let [needed, new] = [PROGRAM, OTHER].map(|program| files(&[("bin/program", program)]));
    let [first, second] =
        [("first", &needed), ("second", &new)].map(|(name, layer)| place.image(name, &[layer]));
    place.said(&["scan", &first]);
    // Files of 300 MB that take no room, named as entries are and otherwise.
    let sparse = |name: &str, days: u64| {
        let path = place.cache().join(name);
        let file = fs::File::create(&path).expect("made");
        file.set_len(300 << 20).expect("its size");
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).expect("its time");
        path
    };
    let [oldest, older] = [("a", 3), ("b", 2)].map(|(digit, days)| sparse(&digit.repeat(64), days));
    let other = sparse("notes", 9);
    fs::File::open(place.entry(&needed))
        .expect("an entry")
        .set_modified(SystemTime::UNIX_EPOCH)
        .expect("its time");
    place.said(&["scan", &first]);
    assert!(oldest.exists(), "nothing new was remembered");
    place.said(&["scan", &second]);
    assert_eq!([&oldest, &older, &other].map(|path| path.exists()), [false, true, true]);
    assert!([&needed, &new].iter().all(|layer| place.entry(layer).exists()), "one is new, one was needed");
}

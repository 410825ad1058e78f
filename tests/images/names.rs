//! What the names in layers mean, where layers are odd: the same name twice, names below names, links to what is
//! elsewhere.

use std::fs;
use std::path::Path;

use super::hand::Tar;
use super::{LAYER, LIBRARY, Layout, PROGRAM, files, harness, image, ready, scanned, tool, unpacked};
use harness::mtree::{changed, listing};
use harness::temp_dir;

/// The image of the layers is patched; the names in the layer that was added, the record and its parents left out.
#[track_caller]
fn patched_names(dir: &Path, layers: &[Vec<u8>]) -> Vec<String> {
    let source = image(dir, layers);
    let output = Layout(dir.join("patched"));
    tool(&["patch", "-q", &source, &format!("oci:{}:v1", output.0.display())]).expect(0);
    tool(&["verify", output.0.to_str().expect("text")]).expect(0);
    let [manifest, _] = output.image();
    let top = manifest["layers"].as_array().expect("layers").last().expect("one")["digest"].clone();
    let blob = output.0.join("blobs/sha256").join(&top.as_str().expect("text")[7..]);
    let mut tar = std::process::Command::new("tar");
    let listed = harness::Ran::of(tar.arg("-tzf").arg(blob)).expect(0).stdout;
    listed.lines().filter(|name| !name.starts_with("var")).map(str::to_owned).collect()
}

#[test]
fn a_link_keeps_the_content_that_its_target_had_when_it_was_made() {
    let dir = temp_dir();
    let layer = Tar::default().file("a", PROGRAM).link("b", "a").file("a", b"#!/bin/sh\n").end();
    assert_eq!(scanned(&image(dir.path(), std::slice::from_ref(&layer))), ["b"]);
    assert_eq!(patched_names(dir.path(), &[layer]), ["b"]);
    let dir = temp_dir();
    let layer = Tar::default().file("a", b"#!/bin/sh\n").link("b", "a").file("a", PROGRAM).end();
    assert_eq!(scanned(&image(dir.path(), &[layer])), ["a"]);
}

#[test]
fn a_file_that_takes_the_place_of_a_directory_takes_all_below_it_away() {
    let dir = temp_dir();
    let layer = Tar::default().directory("x/").file("x/p", PROGRAM).file("x", b"text").file("y", PROGRAM);
    assert_eq!(scanned(&image(dir.path(), &[layer.end()])), ["y"]);
    let dir = temp_dir();
    let layer = Tar::default().file("x", PROGRAM).directory("x/").file("x/p", LIBRARY).end();
    assert_eq!(scanned(&image(dir.path(), &[layer])), ["x/p"]);
}

#[test]
fn a_name_below_a_program_of_a_lower_layer_shows_that_it_is_a_directory_now() {
    let dir = temp_dir();
    let layers =
        [files(&[("tool", PROGRAM), ("other", PROGRAM)]), Tar::default().file("tool/text", b"text").end()];
    assert_eq!(scanned(&image(dir.path(), &layers)), ["other"]);
}

#[test]
fn the_same_name_twice_means_the_last_one() {
    let dir = temp_dir();
    let layer =
        Tar::default().file("a", PROGRAM).file("b", b"text").file("a", b"text").file("./b", PROGRAM).end();
    assert_eq!(patched_names(dir.path(), &[layer]), ["./b"]);
}

#[test]
fn a_whiteout_beside_the_name_that_it_hides_hides_lower_layers_only() {
    let dir = temp_dir();
    let upper = |front: bool| {
        let tar = Tar::default().directory("d/");
        let tar = if front { tar.file("d/.wh..wh..opq", b"") } else { tar };
        let tar = tar.file("d/.wh.a", b"").file("d/a", LIBRARY);
        if front { tar.end() } else { tar.file("d/.wh..wh..opq", b"").end() }
    };
    for front in [true, false] {
        let lower = files(&[("d/a", PROGRAM), ("d/b", PROGRAM), ("e", PROGRAM)]);
        assert_eq!(scanned(&image(dir.path(), &[lower, upper(front)])), ["d/a", "e"]);
    }
}

/// Docker on aufs, of the years of the programs that need patching, keeps what has several names in a directory
/// that no container sees.
#[test]
fn the_link_directory_of_aufs_is_no_place_but_its_files_have_names() {
    let dir = temp_dir();
    let layer = Tar::default()
        .directory(".wh..wh.plnk/")
        .file(".wh..wh.plnk/17.42", PROGRAM)
        .file(".wh..wh.plnk/17.43", LIBRARY)
        .directory("bin/")
        .link("bin/one", ".wh..wh.plnk/17.42")
        .link("bin/two", ".wh..wh.plnk/17.42")
        .end();
    assert_eq!(scanned(&image(dir.path(), std::slice::from_ref(&layer))), ["bin/one = bin/two"]);
    assert_eq!(patched_names(dir.path(), &[layer]), ["bin/", "bin/one", "bin/two"]);
}

#[test]
fn a_link_to_what_only_a_lower_layer_has_is_not_called_clean() {
    let dir = temp_dir();
    let layers = [files(&[("a", b"text")]), Tar::default().link("b", "a").end()];
    let scanned = tool(&["scan", &image(dir.path(), &layers)]).expect(1);
    assert!(scanned.stdout.contains("not scanned") && scanned.stdout.contains("/b"), "{scanned}");
    assert!(!scanned.stdout.contains("clean"), "{scanned}");
}

#[test]
fn links_to_links_are_names_of_one_file() {
    let dir = temp_dir();
    let layer = Tar::default().file("z", PROGRAM).link("y", "z").link("x", "./y").end();
    assert_eq!(scanned(&image(dir.path(), std::slice::from_ref(&layer))), ["z = x = y"]);
    assert_eq!(patched_names(dir.path(), std::slice::from_ref(&layer)), ["z", "x", "y"]);
    let dir = temp_dir();
    let upper = Tar::default().file(".wh.z", b"").end();
    assert_eq!(patched_names(dir.path(), &[layer, upper]), ["x", "y"]);
    // A circle is nobody's file.
    let dir = temp_dir();
    let circle = Tar::default().link("a", "b").link("b", "a").link("c", "c").end();
    tool(&["scan", &image(dir.path(), &[circle])]).expect(1);
}

#[test]
fn a_record_that_has_no_place_in_the_image_destroys_nothing() {
    for path in ["var", "var/lib", "var/lib/vsyspatch"] {
        let dir = temp_dir();
        let layer = Tar::default().symlink(path, "elsewhere").file("p", PROGRAM).end();
        let output = dir.path().join("out");
        let source = image(dir.path(), &[layer]);
        let ran = tool(&["patch", &source, &format!("oci:{}", output.display())]).expect(2);
        assert!(ran.stderr.contains(&format!("/{path} is no directory")), "{ran}");
        assert!(!output.exists());
    }
    // One that a higher layer replaced does no harm.
    let dir = temp_dir();
    let lower = Tar::default().symlink("var", "elsewhere").file("p", PROGRAM).end();
    let upper = Tar::default().directory("var/").end();
    assert_eq!(patched_names(dir.path(), &[lower, upper]), ["p"]);
}

#[test]
fn programs_below_a_layer_that_cannot_be_read_are_left_alone() {
    const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    let program = files(&[("bin/program", PROGRAM)]);
    let secret: (&str, &[u8], &[u8]) = (ENCRYPTED, b"secret", b"secret");
    let plain: (&str, &[u8], &[u8]) = (LAYER, &program, &program);
    let dir = temp_dir();
    let (source, output) = (Layout::new(dir.path(), "below"), dir.path().join("out"));
    let root = source.manifest("amd64", &[plain, secret]);
    let source = source.finish(root);
    tool(&["scan", &source]).expect(1);
    let refused = tool(&["patch", &source, &format!("oci:{}", output.display())]).expect(2);
    assert!(refused.stderr.contains("may hide or replace"), "{refused}");
    assert!(!output.exists());

    let above = Layout::new(dir.path(), "above");
    let root = above.manifest("amd64", &[secret, plain]);
    let patched = tool(&["patch", &above.finish(root), &format!("oci:{}", output.display())]).expect(1);
    assert!(patched.stdout.contains("not scanned") && patched.stdout.contains("bin/program"), "{patched}");
    tool(&["verify", output.to_str().expect("text")]).expect(1);
    assert_eq!(Layout(output).image()[0]["layers"].as_array().map(Vec::len), Some(3));
}

/// Directories, owners, times and attributes of what is written anew, because the name with the data is gone.
#[test]
fn a_name_that_lost_the_one_with_the_data_keeps_owner_times_and_attributes() {
    if !ready(&["umoci"]) {
        return;
    }
    let long = "l".repeat(90) + "/" + &"m".repeat(200);
    let records: [(&str, &[u8]); 5] = [
        ("mtime", b"1300000000.123456789"),
        ("uid", b"3000000"),
        ("gid", b"4000000"),
        ("SCHILY.xattr.user.note", b"a\nb=c\0d"),
        ("uname", "ж".as_bytes()),
    ];
    let with_path = [&records[..], &[("path", long.as_bytes()), ("linkpath", b"carrier")]].concat();
    let lower = Tar::default()
        .pax(&records)
        .file("carrier", PROGRAM)
        .directory(&("l".repeat(90) + "/"))
        .pax(&with_path)
        .link("cut", "carrier")
        .end();
    let dir = temp_dir();
    let source = image(dir.path(), &[lower, Tar::default().file(".wh.carrier", b"").end()]);
    let output = format!("oci:{}:v1", dir.path().join("patched").display());
    tool(&["patch", "-q", &source, &output]).expect(0);
    let before = listing(&unpacked(&source, &dir.path().join("before")));
    let after = listing(&unpacked(&output, &dir.path().join("after")));
    let facts = &after[Path::new(&long)];
    assert_eq!(facts["owner"], "3000000:4000000");
    assert_eq!(facts["mtime"], "1300000000.123456789");
    assert!(facts["xattrs"].contains(&hex::encode(b"a\nb=c\0d")), "{facts:?}");
    let is_of_program = |line: &String| line.starts_with(&long);
    let changes: Vec<String> = changed(&before, &after).into_iter().filter(is_of_program).collect();
    assert_eq!(changes, [format!("{long}: sha256")]);
    assert!(!after.contains_key(Path::new("carrier")));
    fs::remove_dir_all(dir.path().join("after")).expect("removed");
}

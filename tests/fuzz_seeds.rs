//! Seeds for the fuzz targets (tests/fuzz): a valid file of every form, as linked, stripped, and half patched.
//! What the targets demand of any bytes is demanded of the seeds here, without a fuzzer.
//!
//! `VSYSPATCH_FUZZ_SEEDS` names the directory that they are written to, for the fuzzer to begin with.

#[path = "fuzz/properties.rs"]
mod properties;

#[path = "images/hand.rs"]
mod hand;
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::image::{OTHER, digest, image};
use harness::layout::layout;
use harness::source::{Link, Linker, Source};
use harness::{Ran, need, read, root, sha256, temp_dir};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use vsyspatch::addr::Vaddr;
use vsyspatch::elf::{Parsed, parse};
use vsyspatch::functions::{Extent, Functions};
use vsyspatch::plan::{Edit, Role};

/// Larger files only make the fuzzer slow (`-max_len` of tests/fuzz/run).
const MAX_LEN: usize = 1 << 16;

/// Random layouts among the seeds.
const LAYOUTS: usize = 60;

/// The files of the corpus' sources, small ones: without the pages between segments that GNU ld leaves.
fn of_sources(dir: &Path) -> Vec<Vec<u8>> {
    let names = fs::read_dir(harness::source::dir()).expect("the corpus directory").map(|entry| {
        let path = entry.expect("an entry").path();
        (path.extension().is_some_and(|extension| extension == "s"))
            .then(|| path.file_stem().expect("a name").to_string_lossy().into_owned())
    });
    let names: BTreeSet<String> = names.flatten().filter(|name| name != "demo").collect();
    let mut seeds = vec![];
    for name in &names {
        let source = Source::load(name);
        let object = source.assemble(dir);
        seeds.push(read(&object));
        for kind in Link::ALL {
            let linkers: Vec<Linker> =
                source.variants().into_iter().filter(|(link, _)| *link == kind).map(|(_, by)| by).collect();
            let Some(&linker) = linkers.last() else { continue };
            let files = source.link(&object, kind, linker, dir).files;
            seeds.extend([&files[0], &files[2]].map(|file| read(file)));
        }
    }
    seeds
}

/// Layers with every kind of entry, in every compression.
fn layers() -> Vec<Vec<u8>> {
    let sparse: [(&str, &[u8]); 4] = [
        ("GNU.sparse.map", b"0,512,4096,512"),
        ("GNU.sparse.size", b"8192"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.name", b"usr/lib/sparse"),
    ];
    let all = hand::Tar::default()
        .directory("bin")
        .pax(&[("SCHILY.xattr.user.note", b"a\nb"), ("mtime", b"-1.5"), ("uid", b"3000000")])
        .file("bin/program", OTHER)
        .link("sbin/same", "bin/program")
        .symlink("lib", "usr/lib")
        .file("etc/.wh.gone", b"")
        .file("opt/.wh..wh..opq", b"")
        .gnu_long(b'L', &"long/".repeat(40))
        .file("short", b"text")
        .pax(&sparse)
        .file("sparse", &[0x7f; 1024])
        .entry(b'3', "dev/null", "", b"")
        .sized(b'0', "empty", 0)
        .end();
    let dir = temp_dir();
    fs::write(dir.path().join("tar"), &all).expect("written");
    let compressed = |program: &str| {
        let file = fs::File::open(dir.path().join("tar")).expect("opened");
        Command::new(program).arg("-c").stdin(file).output().expect("it runs").stdout
    };
    let mut seeds: Vec<_> =
        ["gzip", "zstd"].into_iter().filter(|program| need(program)).map(compressed).collect();
    seeds.push(all);
    assert!(seeds.iter().all(|seed| properties::layer(seed)), "seeds are layers");
    seeds
}

/// Archives of every generation.
fn archives() -> Vec<Vec<u8>> {
    let tar = hand::Tar::default().file("bin/program", OTHER).end();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&tar)
    );
    let list = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar"]}]"#;
    let old = hand::Tar::default().file("1/layer.tar", &tar).file("c.json", config.as_bytes());
    let oldest = hand::Tar::default()
        .file("1/json", br#"{"id":"1","architecture":"amd64","os":"linux"}"#)
        .file("1/layer.tar", &tar)
        .file("repositories", br#"{"a":{"1":"1"}}"#);
    let dir = temp_dir();
    let archive = dir.path().join("today");
    let source = image(dir.path(), std::slice::from_ref(&tar));
    let to = format!("docker-archive:{}:localhost/a:1", archive.display());
    harness::tool(["patch", "-q", &source, &to]).expect(0);
    harness::tool(["revert", "-q", &to, &to]).expect(0);
    let seeds = vec![old.file("manifest.json", list).end(), oldest.end(), read(&archive)];
    assert!(seeds.iter().all(|seed| properties::archive(seed)), "seeds are archives to patch");
    assert!(seeds.iter().all(|seed| seed.len() <= MAX_LEN));
    seeds
}

/// What a compiler makes of all forms.
fn compiled(dir: &Path) -> Vec<Vec<u8>> {
    let compile = |options: &str| {
        let output = dir.join("compiled");
        let source = root().join("corpus/compiled/forms.c");
        let mut command = Command::new("cc");
        command.args(["-w", "-nostdlib", "-Wl,--unresolved-symbols=ignore-all", "-Wl,-e,f_time_null"]);
        Ran::of(command.args(options.split(' ')).arg(source).arg("-o").arg(&output)).expect(0);
        read(&output)
    };
    ["-O0 -no-pie -fno-pie -s", "-O2 -no-pie -fno-pie -s", "-O2 -shared -fPIC", "-Os -fPIC -shared -s"]
        .map(compile)
        .into()
}

/// The file with every other one of its edits made: as a patch that is not whole would leave it.
fn half_patched(bytes: &[u8]) -> Option<Vec<u8>> {
    let Ok(Parsed::Image(image)) = parse(bytes) else { return None };
    let plan = vsyspatch::plan_elf(&image);
    let mut half = bytes.to_vec();
    // Headers that tell of what is not there would make no program.
    let is_of_program = |edit: &&Edit| edit.role != Role::Header && !edit.before.is_empty();
    for edit in plan.edits.iter().filter(is_of_program).step_by(2) {
        half[edit.offset.index()..][..edit.after.len()].copy_from_slice(&edit.after);
    }
    plan.has_edits().then_some(half)
}

/// The functions of a program as what the target `code` takes: a byte that says how, and the code.
fn functions(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Ok(Parsed::Image(image)) = parse(bytes) else { return vec![] };
    let functions = Functions::of(&image);
    let code = |extent: Extent<'_>| {
        let code = image.bytes_at(extent.range.start)?;
        code.get(..usize::try_from(extent.range.len()).ok()?)
    };
    let holds_address = |code: &&[u8]| code.windows(2).any(|two| two == [0x60, 0xff]);
    let codes = functions.around(&image, Vaddr(0)).filter_map(code).filter(holds_address);
    codes.enumerate().map(|(index, code)| [&[index as u8 & 0x71], code].concat()).collect()
}

/// The small files that fuzzing has found something with, by name.
fn finds() -> BTreeMap<String, Vec<u8>> {
    let dir = root().join("tests/fuzz/finds");
    let entries = fs::read_dir(dir).expect("the finds").map(|entry| entry.expect("an entry"));
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path()))).collect()
}

#[test]
fn what_fuzzing_has_found_stays_mended() {
    let finds = finds();
    assert_eq!(finds.len(), 18);
    for (name, bytes) in finds {
        let done = (properties::scan(&bytes), properties::patch_revert(&bytes));
        let expected = match name.as_str() {
            // Header tables are never patched, whatever stands in them.
            "code-in-a-header-table" => (true, false),
            "object-with-a-section-behind-the-end" => (false, false),
            // A section of no type is none, so that it holds no code.
            "object-with-code-of-no-section-type" => (true, false),
            _ => (true, true),
        };
        assert_eq!(done, expected, "{name}: scanned, patched");
    }
}

#[test]
fn the_seeds_hold() {
    if !["as", "strip", "cc", "ld.bfd", "ld.gold", "ld.lld"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let mut seeds: Vec<Vec<u8>> =
        ["demo", "forms", "forms.so"].map(|name| read(&root().join("corpus/prebuilt").join(name))).into();
    seeds.extend(of_sources(dir.path()));
    seeds.extend(compiled(dir.path()));
    seeds.extend(finds().into_values().filter(|find| properties::scan(find)));
    let mut runner = TestRunner::deterministic();
    let layouts = std::iter::repeat_with(|| layout().new_tree(&mut runner).expect("a layout").current());
    seeds.extend(layouts.take(LAYOUTS).map(|layout| layout.make().bytes));
    let halves: Vec<_> = seeds.iter().filter_map(|seed| half_patched(seed)).collect();
    seeds.extend(halves);
    seeds.retain(|seed| seed.len() <= MAX_LEN);

    let programs = seeds.iter().filter(|seed| properties::scan(seed)).count();
    assert_eq!(programs, seeds.len(), "every seed is a program");
    let patched = seeds.iter().filter(|seed| properties::patch_revert(seed)).count();
    assert!(patched > seeds.len() / 3, "seeds with something to patch: {patched} of {}", seeds.len());

    let codes: BTreeSet<Vec<u8>> = seeds.iter().flat_map(|seed| functions(seed)).collect();
    let programs: Vec<_> = codes.iter().map(|code| properties::program_of(code)).collect();
    assert!(programs.iter().all(|program| properties::scan(program)), "every code is in a program");
    let patched_codes = programs.iter().filter(|program| properties::patch_revert(program)).count();
    assert!(
        patched_codes > codes.len() / 3,
        "codes with something to patch: {patched_codes} of {}",
        codes.len()
    );

    let (layers, archives) = (layers(), archives());

    let Some(output) = std::env::var_os("VSYSPATCH_FUZZ_SEEDS") else { return };
    let write = |kind: &str, seeds: &mut dyn Iterator<Item = &Vec<u8>>| {
        let dir = Path::new(&output).join(kind);
        fs::create_dir_all(&dir).expect("the seeds' directory");
        seeds.for_each(|seed| fs::write(dir.join(sha256(seed)), seed).expect("a seed is written"));
    };
    write("files", &mut seeds.iter());
    write("code", &mut codes.iter());
    write("layer", &mut layers.iter());
    write("archive", &mut archives.iter());
    println!("{} files as seeds, {patched} with something to patch", seeds.len());
    println!("{} functions as seeds, {patched_codes} with something to patch", codes.len());
}

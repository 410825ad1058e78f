//! What people install: its size, and the Debian package: installed, used and purged, in a root of its own.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Ran, cache, cache_alone, need, read, root, static_program, temp_dir};

/// Bytes that the program may have at most.
const LIMIT: u64 = 8 << 20;

/// The version of cargo-deb that is installed for the test.
const CARGO_DEB: &str = "3.8.0";

#[test]
fn the_program_is_small_and_says_where_it_comes_from() {
    let program = static_program::build();
    let size = fs::metadata(&program).expect("the program").len();
    assert!(size < LIMIT, "{size} bytes");
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let megabytes = format!("{:.0} MB", size as f64 / 1e6);
    assert!(readme.contains(&megabytes), "README.md says the size: {megabytes}");
    let version = Ran::of(Command::new(&program).arg("--version")).expect(0).stdout;
    assert!(version.starts_with(concat!("vsyspatch ", env!("CARGO_PKG_VERSION"))), "{version}");
    let bytes = read(&program);
    for path in [root().to_str().expect("UTF-8"), "/.cargo/registry"] {
        assert!(memchr::memmem::find(&bytes, path.as_bytes()).is_none(), "the program names {path}");
    }
}

/// cargo with its command `deb`, which is built once and kept.
fn with_cargo_deb(command: &mut Command) {
    let tools = cache().join("tools");
    let alone = cache_alone();
    if !tools.join("bin/cargo-deb").is_file() {
        let mut install = Command::new(env!("CARGO"));
        install.args(["install", "--quiet", "--locked", "--debug", "cargo-deb", "--version", CARGO_DEB]);
        install.arg("--target-dir").arg(tools.join("target")).arg("--root").arg(&tools);
        Ran::of(&mut install).expect(0);
        fs::remove_dir_all(tools.join("target")).expect("what it was built with");
    }
    drop(alone);
    let path = std::env::var_os("PATH").expect("a PATH");
    let path = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(path).expect("a PATH"));
}

/// Everything below `dir` that is no directory, by its name there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let listed =
        Ran::of(Command::new("find").arg(dir).args(["!", "-type", "d", "-printf", "%P\\n"])).expect(0);
    let mut names: Vec<PathBuf> = listed.stdout.lines().map(PathBuf::from).collect();
    names.sort();
    names
}

#[test]
fn the_debian_package_is_installed_used_and_purged() {
    if !["dpkg", "gzip", "man"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let package = dir.path().join("vsyspatch.deb");
    let mut build = Command::new("tests/install/deb");
    with_cargo_deb(&mut build);
    Ran::of(build.current_dir(root()).arg(&package)).expect(0);

    let system = dir.path().join("system");
    let database = system.join("var/lib/dpkg");
    fs::create_dir_all(database.join("updates")).expect("a database");
    fs::create_dir_all(database.join("info")).expect("a database");
    fs::write(database.join("status"), "").expect("a database");
    let dpkg = |words: &[&str]| {
        let mut dpkg = Command::new("dpkg");
        // As the owner of a root of its own, who may be anybody.
        dpkg.args(["--force-not-root", "--force-script-chrootless"]);
        dpkg.arg("--root").arg(&system).args(words);
        Ran::of(&mut dpkg).expect(0)
    };
    dpkg(&["--install", package.to_str().expect("UTF-8")]);
    let names = files(&system.join("usr"));
    for name in [
        "bin/vsyspatch",
        "share/man/man1/vsyspatch.1.gz",
        "share/man/man1/vsyspatch-patch.1.gz",
        "share/bash-completion/completions/vsyspatch",
        "share/zsh/vendor-completions/_vsyspatch",
        "share/fish/vendor_completions.d/vsyspatch.fish",
        "share/doc/vsyspatch/copyright",
    ] {
        assert!(names.iter().any(|it| it == Path::new(name)), "{name} is missing: {names:#?}");
    }
    let installed = system.join("usr/bin/vsyspatch");
    let version = Ran::of(Command::new(&installed).arg("--version")).expect(0).stdout;
    assert!(version.starts_with(concat!("vsyspatch ", env!("CARGO_PKG_VERSION"))), "{version}");
    let sample = root().join("corpus/prebuilt/demo");
    let patched = dir.path().join("patched");
    Ran::of(Command::new(&installed).arg("patch").arg(&sample).arg(&patched)).expect(0);
    Ran::of(Command::new(&installed).arg("verify").arg(&patched)).expect(0);
    let page = system.join("usr/share/man/man1/vsyspatch-patch.1.gz");
    let shown = Ran::of(Command::new("man").args(["--local-file", "--warnings"]).arg(page)).expect(0);
    assert!(shown.stdout.contains("vsyspatch-patch") && shown.stderr.is_empty(), "{shown}");

    dpkg(&["--purge", "vsyspatch"]);
    let left = files(&system);
    assert!(left.iter().all(|name| name.starts_with("var/lib/dpkg")), "left behind: {left:#?}");
}

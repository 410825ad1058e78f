//! The picture in README.md is what the command prints on a terminal. `INSTA_UPDATE=always` draws it anew.

mod harness;

use std::fmt::Write as _;
use std::fs;

use anstyle::{AnsiColor, Style};
use anstyle_svg::{Term, WIN10_CONSOLE};
use harness::{Ran, read, root, temp_dir, vsyspatch};

/// Where README.md finds it.
const PICTURE: &str = "tests/snapshots/terminal.svg";

const PROMPT: Style = AnsiColor::Cyan.on_default().bold();

#[test]
fn the_picture_is_what_is_printed() {
    let dir = temp_dir();
    fs::write(dir.path().join("program"), read(&root().join("corpus/prebuilt/demo"))).expect("a copy");
    fs::write(dir.path().join("libold.so"), read(&root().join("corpus/prebuilt/forms.so"))).expect("a copy");
    let mut shown = String::new();
    for (words, status) in
        [("scan libold.so", 1), ("patch -v program cured", 0), ("verify cured", 0), ("scan cured", 0)]
    {
        let mut command = vsyspatch();
        command.current_dir(dir.path()).args(["--color", "always"]).args(words.split(' '));
        let ran = Ran::of(&mut command).expect(status);
        assert!(ran.stdout.contains("\x1b[32m") || status == 0, "in colours: {ran}");
        writeln!(shown, "{PROMPT}${PROMPT:#} vsyspatch {words}\n{}", ran.stdout).expect("a string takes all");
    }
    let picture = Term::new().palette(WIN10_CONSOLE).render_svg(&shown);
    let path = root().join(PICTURE);
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(&path, &picture).expect("the picture");
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|drawn| drawn == picture),
        "INSTA_UPDATE=always draws it anew"
    );
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains(&format!("]({PICTURE})")), "README.md shows it");
}

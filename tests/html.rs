//! `--html FILE`: one page that needs nothing else, shows every site, and obeys no name. Drawn by a real browser.

mod harness;

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Ran, need, read, root, skip, temp_dir, vsyspatch};

/// A name that would be a script, and would clear a terminal.
const HOSTILE: &str = "<script>alert(1)<\u{200b}script>&\"'\u{1b}[2J\u{202e}";

/// Runs the tool in `dir` with `--html page.html` and returns the page.
#[track_caller]
fn page(dir: &Path, words: &[&str], status: i32) -> String {
    Ran::of(vsyspatch().current_dir(dir).args(words).args(["--html", "page.html"])).expect(status);
    fs::read_to_string(dir.join("page.html")).expect("the page")
}

fn with_samples() -> tempfile::TempDir {
    let dir = temp_dir();
    for name in ["demo", "forms", "forms.so"] {
        fs::write(dir.path().join(name), read(&root().join("corpus/prebuilt").join(name))).expect("a copy");
    }
    dir
}

#[test]
fn the_page_needs_nothing_else_and_obeys_no_name() {
    let dir = with_samples();
    fs::copy(dir.path().join("demo"), dir.path().join(HOSTILE)).expect("a copy");
    let page = page(dir.path(), &["scan", HOSTILE, "missing<b>"], 2);
    for wrong in
        ["<script", "http://", "https://", "src=", "href=", "url(", "@import", "<b>", "\u{1b}", "\u{202e}"]
    {
        assert!(!page.contains(wrong), "{wrong} is in the page:\n{page}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("missing&lt;b&gt;"), "{page}");
    assert!(page.contains("default-src 'none'"), "{page}");
}

#[test]
fn the_page_shows_before_and_after_checksums_and_how_to_go_back() {
    let dir = with_samples();
    let patched = page(dir.path(), &["patch", "demo", "patched"], 0);
    for said in [
        "mov $0xffffffffff600400,%rax",
        "mov $0xc9,%rax",
        "patched.vsyspatch.json",
        &harness::sha256(&read(&dir.path().join("demo"))),
        &harness::sha256(&read(&dir.path().join("patched"))),
        "vsyspatch revert",
    ] {
        assert!(patched.contains(said), "{said} is missing:\n{patched}");
    }
    assert!(page(dir.path(), &["verify", "patched"], 0).contains("verified"));
    let ran =
        Ran::of(vsyspatch().current_dir(dir.path()).args(["scan", "demo", "--html", "/nonexistent/page"]));
    assert!(ran.expect(2).stderr.contains("cannot write /nonexistent/page: "));
}

/// The whole of what is said, as a person can review it.
#[test]
fn what_a_page_says() {
    let dir = with_samples();
    let page = page(dir.path(), &["patch", "--dry-run", "--in-place", "forms.so"], 0);
    let (_, body) = page.split_once("<body>").expect("a body");
    insta::assert_snapshot!(body.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

/// A program with as many calls, each of them to be patched.
fn with_sites(dir: &Path, name: &str, count: usize) {
    let source = format!(
        ".globl _start\n_start: .rept {count}\nmov $0xffffffffff600400, %rax\ncall *%rax\n.endr\nret\n"
    );
    let [assembly, object] = ["s", "o"].map(|suffix| dir.join(format!("many.{suffix}")));
    fs::write(&assembly, source).expect("the source");
    Ran::of(Command::new("as").arg("-o").arg(&object).arg(&assembly)).expect(0);
    Ran::of(Command::new("ld").arg("-o").arg(dir.join(name)).arg(&object)).expect(0);
}

/// On a phone nothing is wider than the screen, whatever the names and however many the sites.
#[test]
fn a_phone_shows_the_page_without_scrolling_sideways() {
    if !["chromium", "as", "ld"].into_iter().all(need) {
        return;
    }
    let dir = with_samples();
    let long = format!("{HOSTILE}{}", "w".repeat(150));
    fs::copy(dir.path().join("demo"), dir.path().join(&long)).expect("a copy");
    with_sites(dir.path(), "many", 2000);
    for (name, sites) in [(long.as_str(), 1), ("many", 2000), ("forms.so", 7)] {
        let page = page(dir.path(), &["patch", "--dry-run", "--in-place", name], 0);
        assert_eq!(page.matches("<section>").count(), sites, "{name}");
        // A window of the browser is not as narrow as a phone; a frame is. It is of the same origin, so that the page
        // around it can measure it.
        let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
        let around = format!(
            "<!doctype html><p id=said></p><iframe width=360 height=700 srcdoc=\"{escaped}\" onload=\"\
             const root = this.contentDocument.documentElement; \
             document.getElementById('said').textContent = \
             'width ' + root.scrollWidth + ' of ' + root.clientWidth + ', height ' + root.scrollHeight\"></iframe>"
        );
        fs::write(dir.path().join("around.html"), around).expect("a page around it");
        let mut chromium = Command::new("chromium");
        chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]);
        chromium.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
        let ran = Ran::of(chromium.arg(dir.path().join("around.html")));
        if ran.status != 0 {
            return skip(&format!("chromium does not run here: {}", ran.stderr.lines().last().unwrap_or("")));
        }
        let (_, said) = ran.stdout.split_once("<p id=\"said\">").expect("the paragraph");
        let (said, _) = said.split_once("</p>").expect("its end");
        assert!(said.starts_with("width 360 of 360, height "), "{name}: {said}");
        let height: usize = said.rsplit(' ').next().expect("a height").parse().expect("a number");
        assert!(height > 60 * sites, "every site is drawn: {name}: {said}");
    }
}

/// Set `VSYSPATCH_SCREENSHOTS` to a directory to look at what is drawn.
#[test]
fn a_browser_draws_the_page() {
    if !need("chromium") {
        return;
    }
    let dir = with_samples();
    fs::copy(dir.path().join("forms"), dir.path().join(HOSTILE)).expect("a copy");
    page(dir.path(), &["patch", "--dry-run", "--in-place", HOSTILE], 0);
    let shots = std::env::var_os("VSYSPATCH_SCREENSHOTS").map_or(dir.path().to_owned(), Into::into);
    for (name, size, flag) in [
        ("light", "1000,1400", "--blink-settings=preferredColorScheme=1"),
        ("dark", "1000,1400", "--blink-settings=preferredColorScheme=0"),
        ("phone", "500,1400", "--blink-settings=preferredColorScheme=1"),
    ] {
        let shot = shots.join(format!("{name}.png"));
        let mut chromium = Command::new("chromium");
        chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", flag]);
        chromium.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
        chromium.arg(format!("--window-size={size}")).arg(format!("--screenshot={}", shot.display()));
        let ran = Ran::of(chromium.arg(dir.path().join("page.html")));
        if ran.status != 0 {
            return skip(&format!("chromium does not run here: {}", ran.stderr.lines().last().unwrap_or("")));
        }
        assert!(read(&shot).starts_with(b"\x89PNG"), "{ran}");
    }
    assert_ne!(read(&shots.join("light.png")), read(&shots.join("dark.png")), "the dark page is drawn dark");
}

//! Tells the command which commit it is built from. Without git, as in a published package, `.cargo_vcs_info.json` tells.
//! A static program relocates itself, and its relocations are packed: a third of a megabyte less; functions that are the
//! same are there once.

use std::env;
use std::fs;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = packaged().or_else(checked_out).map(|commit| format!(" ({commit})")).unwrap_or_default();
    if env::var("CARGO_CFG_TARGET_FEATURE")
        .is_ok_and(|features| features.split(',').any(|it| it == "crt-static"))
    {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
    println!("cargo::rustc-env=VSYSPATCH_VERSION={version}{commit}");
}

/// The commit that a published package was made of: `"sha1": "..."`.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, behind) = text.split_once("\"sha1\"")?;
    behind.split('"').nth(1).map(|commit| commit.chars().take(12).collect())
}

fn checked_out() -> Option<String> {
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

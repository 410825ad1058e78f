//! What is said and done about the prebuilt files, as text that a person can review. The files are made once
//! (corpus/README.md), so that nothing here depends on a toolchain. `INSTA_UPDATE=always` writes them anew.

mod harness;

use std::fmt::Write as _;
use std::path::PathBuf;

use harness::{Ran, read, root, sha256, vsyspatch};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter};
use vsyspatch::elf::{Parsed, parse};
use vsyspatch::plan::{Edit, Plan, Role};

fn prebuilt() -> PathBuf {
    root().join("corpus/prebuilt")
}

/// Runs the tool in the directory of the files, so that no path of this machine is in what it prints.
fn said(arguments: &[&str]) -> String {
    let ran = Ran::of(vsyspatch().current_dir(prebuilt()).args(["--color", "never"]).args(arguments));
    assert!(ran.status < 2, "{ran}");
    format!("{}\n--- stderr\n{}status {}\n", ran.stdout.trim_end(), ran.stderr, ran.status)
}

#[test]
fn scan_of_a_program() {
    insta::assert_snapshot!(said(&["scan", "-v", "forms"]));
}

#[test]
fn scan_of_a_shared_object() {
    insta::assert_snapshot!(said(&["scan", "-v", "forms.so"]));
}

#[test]
fn scan_of_several() {
    insta::assert_snapshot!(said(&["scan", "demo", "forms", "forms.so"]));
}

#[test]
fn explanation_of_a_program() {
    insta::assert_snapshot!(said(&["explain", "forms"]));
}

#[test]
fn explanation_of_one_site_of_a_shared_object() {
    insta::assert_snapshot!(said(&["explain", "forms.so", "--site", "0x1008"]));
}

#[test]
fn plan_of_a_program() {
    insta::assert_snapshot!(said(&["patch", "--dry-run", "--in-place", "forms"]));
}

#[test]
fn plan_of_a_shared_object() {
    insta::assert_snapshot!(said(&["patch", "--dry-run", "--in-place", "forms.so"]));
}

#[test]
fn patched_program() {
    insta::assert_snapshot!(dump("forms"));
}

#[test]
fn patched_shared_object() {
    insta::assert_snapshot!(dump("forms.so"));
}

#[test]
fn patched_demo() {
    insta::assert_snapshot!(dump("demo"));
}

/// A patched file as text: every site, then every edit with bytes and assembly before and after, and the checksums.
fn dump(name: &str) -> String {
    let original = read(&prebuilt().join(name));
    let Ok(Parsed::Image(image)) = parse(&original) else { panic!("{name} is a program") };
    let plan = vsyspatch::plan_elf(&image);
    let mut patched = original.clone();
    for edit in &plan.edits {
        patched[edit.offset.index()..][..edit.after.len()].copy_from_slice(&edit.after);
    }
    let mut text = format!("{name}: {}\n{}: {}\n", sha256(&original), "patched", sha256(&patched));
    sites(&mut text, &plan);
    for (index, edit) in plan.edits.iter().enumerate() {
        describe(&mut text, index, edit).expect("a String takes text");
    }
    text
}

fn sites(text: &mut String, plan: &Plan) {
    for site in &plan.sites {
        let function = site.function.as_deref().unwrap_or("-");
        writeln!(
            text,
            "\n{} {} {} {} in {function}: {}\n  {}\n  edits {:?}",
            site.offset, site.vaddr, site.entry, site.form, site.verdict, site.reason, site.edits
        )
        .expect("a String takes text");
    }
}

fn describe(text: &mut String, index: usize, edit: &Edit) -> std::fmt::Result {
    writeln!(text, "\nedit {index} at {}, {:?}", edit.offset, edit.role)?;
    for (sign, bytes) in [('-', &edit.before), ('+', &edit.after)] {
        match (edit.vaddr, edit.role) {
            (Some(vaddr), Role::Constant | Role::Call | Role::Stub | Role::Detour) => {
                for (bytes, instruction) in disassemble(bytes, vaddr.0) {
                    writeln!(text, "  {sign} {bytes:<24} {instruction}")?;
                }
            }
            _ => writeln!(text, "  {sign} {}", hex::encode(bytes))?,
        }
    }
    Ok(())
}

/// Bytes and assembly of every instruction; what is left at the end as bytes.
fn disassemble(bytes: &[u8], address: u64) -> Vec<(String, String)> {
    let mut formatter = GasFormatter::new();
    let mut lines = vec![];
    for instruction in &mut Decoder::with_ip(64, bytes, address, DecoderOptions::NONE) {
        let start = (instruction.ip() - address) as usize;
        let mut assembly = String::new();
        formatter.format(&instruction, &mut assembly);
        lines.push((hex::encode(&bytes[start..start + instruction.len()]), assembly));
    }
    lines
}

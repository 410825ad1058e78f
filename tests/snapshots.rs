//! What is said and done about the prebuilt files, as text that a person can review. The files are made once
//! (corpus/README.md), so that nothing here depends on a toolchain. `INSTA_UPDATE=always` writes them anew.

mod harness;

use std::fmt::Write as _;
use std::path::PathBuf;

use harness::image::{INDEX, LAYER, Layout, OTHER, files as layer_of};
use harness::{Ran, read, root, sha256, temp_dir, vsyspatch};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter};
use serde_json::{Value, json};
use vsyspatch::apply::apply;
use vsyspatch::digest::Sha256;
use vsyspatch::elf::{Parsed, parse};
use vsyspatch::plan::{Edit, Plan, Role, Via};

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
fn sarif_of_the_demo() {
    let log = said(&["scan", "--format", "sarif", "demo"]);
    insta::assert_snapshot!(log.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn explanation_of_a_program() {
    insta::assert_snapshot!(said(&["explain", "forms"]));
}

#[test]
fn explanation_of_one_site_of_a_shared_object() {
    insta::assert_snapshot!(said(&["explain", "forms.so", "--site", "0x1008"]));
}

/// What is said of images, where digests and seconds are those of the tool's version and of the day.
#[test]
fn images_before_and_after() {
    let dir = temp_dir();
    let [tar, text] = [("bin/demo", OTHER), ("etc/text", b"text")].map(|file| layer_of(&[file]));
    let plain = |layout: &Layout, tar: &[u8]| layout.manifest("amd64", &[(LAYER, tar, tar)]);
    let finished = |name: &str, root: &dyn Fn(&Layout) -> Value| {
        let layout = Layout::new(dir.path(), name);
        let root = root(&layout);
        layout.finish(root);
    };
    finished("legacy", &|layout| layout.manifest("amd64", &[(LAYER, &text, &text), (LAYER, &tar, &tar)]));
    finished("clean", &|layout| plain(layout, &text));
    finished("sealed", &|layout| {
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        layout.manifest("amd64", &[(LAYER, &text, &text), (kind, b"sealed", &tar)])
    });
    finished("several", &|layout| {
        let mut ours = plain(layout, &tar);
        ours["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        let mut statement = plain(layout, &text);
        statement["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        statement["annotations"] = json!({ "vnd.docker.reference.digest": ours["digest"] });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [ours, statement] });
        layout.descriptor(INDEX, &index)
    });
    let mut all = String::new();
    let mut say = |line: &str, status: i32| {
        let mut command = vsyspatch();
        command.current_dir(dir.path()).args(["--color", "never"]).args(line.split(' '));
        let ran = Ran::of(&mut command).expect(status);
        writeln!(
            all,
            "$ vsyspatch {line}\n{}{}status {status}\n",
            of_any_day(&ran.stdout),
            of_any_day(&ran.stderr)
        )
        .expect("a String takes text");
    };
    say("scan legacy", 1);
    say("patch legacy oci-archive:cured.tar:legacy:1-novsyscall", 0);
    say("patch cured.tar oci:again", 0);
    say("patch --always cured.tar oci:again", 0);
    say("verify cured.tar --against legacy", 0);
    say("verify cured.tar --against clean", 1);
    say("revert cured.tar oci:back", 0);
    say("revert clean oci:back", 2);
    say("scan clean", 0);
    say("patch clean oci:never", 0);
    say("scan sealed", 1);
    say("patch sealed oci:never", 1);
    say("patch several oci:patched", 0);
    say("patch --platform linux/amd64 several oci:one", 0);
    say("scan --platform linux/s390x several", 2);
    insta::assert_snapshot!(all);
}

/// The text without what differs from day to day.
fn of_any_day(text: &str) -> String {
    let mut words: Vec<String> = text.split_inclusive([' ', '\n', ':', ',']).map(str::to_owned).collect();
    for at in 1..words.len() {
        if words[at - 1] == "sha256:" {
            let rest = words[at].trim_start_matches(|c: char| c.is_ascii_hexdigit()).to_owned();
            words[at] = format!("...{rest}");
        } else if words[at] == "s\n" {
            words[at - 1] = "N ".into();
        }
    }
    words.concat()
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
fn plan_of_a_program_via_the_vdso() {
    insta::assert_snapshot!(said(&["patch", "--dry-run", "--in-place", "--via", "vdso", "forms"]));
}

#[test]
fn plan_of_a_shared_object_that_cannot_take_the_page() {
    insta::assert_snapshot!(said(&["scan", "--via", "auto", "forms.so"]));
}

#[test]
fn patched_program() {
    insta::assert_snapshot!(dump("forms"));
}

#[test]
fn patched_shared_object() {
    insta::assert_snapshot!(dump("forms.so"));
}

/// A page of room is added for the stub.
#[test]
fn patched_program_without_room() {
    insta::assert_snapshot!(dump("no-room"));
}

#[test]
fn patched_demo() {
    insta::assert_snapshot!(dump("demo"));
}

/// All that is added to a program: the page with its code, the headers.
#[test]
fn patched_demo_via_the_vdso() {
    let original = read(&prebuilt().join("demo"));
    let (_, plan) = vsyspatch::examine::examine(&original, Via::Vdso).expect("a program");
    let mut text = String::new();
    for (index, edit) in plan.expect("a plan").edits.iter().enumerate() {
        if edit.role == Role::Page {
            page(&mut text, index, edit).expect("a String takes text");
        } else {
            describe(&mut text, index, edit).expect("a String takes text");
        }
    }
    insta::assert_snapshot!(text);
}

/// Code as assembly, names as text, and how much of nothing is between.
fn page(text: &mut String, index: usize, edit: &Edit) -> std::fmt::Result {
    const NAMES: std::ops::Range<usize> = 0x480..0x4e0;
    const FREE: u8 = 0xcc;
    let vaddr = edit.vaddr.expect("it is in memory").0;
    writeln!(text, "\nedit {index} at {}, {:?}", edit.offset, edit.role)?;
    let mut at = 0;
    while let Some(rest) = edit.after.get(at..).filter(|rest| !rest.is_empty()) {
        let free = rest.iter().take_while(|&&byte| byte == FREE).count();
        if free > 0 {
            writeln!(text, "  {:#x}: {free} bytes free", vaddr + at as u64)?;
            at += free;
        } else if NAMES.contains(&at) {
            for name in edit.after[NAMES].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
                writeln!(text, "  {}", String::from_utf8_lossy(name))?;
            }
            at = NAMES.end;
        } else {
            let end = rest.windows(2).position(|two| two == [FREE; 2]).unwrap_or(rest.len());
            writeln!(text, "  {:#x}:", vaddr + at as u64)?;
            for (bytes, instruction) in disassemble(&rest[..end], vaddr + at as u64) {
                writeln!(text, "    {bytes:<24} {instruction}")?;
            }
            at += end;
        }
    }
    Ok(())
}

/// A patched file as text: every site, then every edit with bytes and assembly before and after, and the checksums.
fn dump(name: &str) -> String {
    let original = read(&prebuilt().join(name));
    let Ok(Parsed::Image(image)) = parse(&original) else { panic!("{name} is a program") };
    let plan = vsyspatch::plan_elf(&image);
    let patched = apply(&original, Sha256::of(&original), &plan.edits).expect("the plan fits");
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
            (_, Role::Fill) => writeln!(text, "  {sign} {} bytes without use", bytes.len())?,
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

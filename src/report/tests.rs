//! Outcomes made by hand, in both forms: what no single real file shows at once.

use std::path::PathBuf;

use super::json::{Document, Options};
use super::text::{self, Detail};
use crate::addr::{FileOffset, Vaddr};
use crate::digest::Sha256;
use crate::elf::{FileType, Identity};
use crate::error::Error;
use crate::outcome::{Action, Direction, File, Found, Kind, Status, Target, Unchanged, Written};
use crate::plan::{Edit, Plan, PlannedSite, Role, Strategy};
use crate::site::{Form, Reach, Verdict};
use crate::verify::Finding;
use crate::vsyscall::Entry;

fn site(vaddr: u64, form: Form, verdict: Verdict, function: Option<&str>, reason: &str) -> PlannedSite {
    let is_patch = verdict == Verdict::Patch;
    PlannedSite {
        offset: FileOffset(vaddr - 0x40_0000),
        vaddr: Vaddr(vaddr),
        entry: Entry::Gettimeofday,
        form,
        member: None,
        function: function.map(Into::into),
        reach: is_patch.then_some(Reach::Fallback),
        verdict,
        reason: reason.into(),
        strategy: is_patch.then_some(Strategy::Stub),
        edits: if is_patch { vec![0, 1] } else { vec![] },
        steps: vec![],
    }
}

fn edit(vaddr: u64, role: Role, before: &[u8], after: &[u8]) -> Edit {
    Edit {
        offset: FileOffset(vaddr - 0x40_0000),
        vaddr: Some(Vaddr(vaddr)),
        before: before.into(),
        after: after.into(),
        role,
        entry: Entry::Gettimeofday,
        form: Form::IfuncFallback,
        strategy: Strategy::Stub,
        function: None,
    }
}

/// One site of every verdict; the function of one has a name that only an attacker gives.
fn plan() -> Plan {
    let stub = [0xb8, 0x60, 0, 0, 0, 0x0f, 0x05, 0xc3];
    Plan {
        size: 6,
        not_vdso: None,
        sites: vec![
            site(0x40_1000, Form::IfuncFallback, Verdict::Patch, Some("gettimeofday"), "returned"),
            site(0x40_1100, Form::DataWord, Verdict::Refused, None, "no room for a stub"),
            site(
                0x40_1200,
                Form::Computed,
                Verdict::Unproven,
                Some("f\x1b[2J"),
                "index known only at run time",
            ),
            site(0x40_1300, Form::Compare, Verdict::Harmless, Some("g"), "compared with"),
        ],
        edits: vec![
            edit(
                0x40_1000,
                Role::Constant,
                &[0x48, 0xc7, 0xc0, 0, 0, 0x60, 0xff],
                &[0x48, 0x8d, 0x05, 0xf9, 0x01, 0, 0],
            ),
            edit(0x40_1200, Role::Stub, &[0; 8], &stub),
        ],
    }
}

fn file(action: Action) -> File {
    let identity = Identity {
        file_type: FileType::Dyn,
        is_static: false,
        stripped: true,
        interp: None,
        soname: Some("libc.so.6".into()),
        build_id: None,
    };
    File {
        path: "libc.so.6".into(),
        links: vec![],
        layer: None,
        sha256: Some(Sha256::of(b"before")),
        size: 6,
        kind: Kind::Elf(identity),
        plan: Some(plan()),
        action,
        warnings: vec![],
    }
}

fn target(file: File) -> Target {
    Target { name: file.path.clone(), result: Ok(Found::File(Box::new(file))) }
}

fn written(direction: Direction, dry_run: bool) -> Action {
    Action::Written(Written {
        direction,
        dry_run,
        output: Some("out".into()),
        sha256: Sha256::of(b"after"),
        edits: plan().edits,
        record: Some(PathBuf::from("out.vsyspatch.json")),
    })
}

/// The text as a pipe gets it.
fn plain(target: &Target, detail: Detail) -> String {
    anstream::adapter::strip_str(&text::target(target, detail)).to_string()
}

#[test]
fn scan_shows_reasons_and_hides_the_harmless() {
    let scanned = target(file(Action::Scanned));
    insta::assert_snapshot!(plain(&scanned, Detail::default()));
    let verbose = plain(&scanned, Detail { verbose: true, all: false });
    assert!(verbose.contains("compare "), "{verbose}");
}

#[test]
fn patch_shows_checksums_and_the_record() {
    insta::assert_snapshot!(plain(&target(file(written(Direction::Patch, false))), Detail::default()));
}

#[test]
fn dry_run_shows_every_edit() {
    insta::assert_snapshot!(plain(&target(file(written(Direction::Patch, true))), Detail::default()));
}

#[test]
fn findings_are_shown_with_slug_and_place() {
    let finding = |slug: &'static str, offset| Finding { slug, message: "why".into(), offset };
    let findings = vec![finding("bytes-outside-edits", Some(FileOffset(0x123))), finding("checksum", None)];
    let mut verified = file(Action::Verified(findings));
    verified.plan = None;
    assert_eq!(verified.status(false), Status::Findings);
    insta::assert_snapshot!(plain(&target(verified), Detail::default()));
}

#[test]
fn the_status_follows_the_verdicts() {
    let with = |verdicts: &[Verdict], action: Action| {
        let mut file = file(action);
        file.plan.as_mut().unwrap().sites.retain(|site| verdicts.contains(&site.verdict));
        (file.status(false).code(), file.status(true).code())
    };
    let clean = Action::Unchanged(Unchanged::Clean { copy: None });
    for (verdict, scan, patch) in [
        (Verdict::Patch, (1, 1), (0, 0)),
        (Verdict::Refused, (1, 1), (1, 1)),
        (Verdict::Unproven, (0, 1), (0, 1)),
        (Verdict::Harmless, (0, 0), (0, 0)),
    ] {
        assert_eq!(with(&[verdict], Action::Scanned), scan, "scan, {verdict}");
        assert_eq!(with(&[verdict], written(Direction::Patch, false)), patch, "patch, {verdict}");
        assert_eq!(with(&[verdict], clean.clone()), patch, "patch of a clean file, {verdict}");
        assert_eq!(with(&[verdict], written(Direction::Revert, false)), (0, 0), "revert, {verdict}");
    }
}

#[test]
fn the_worst_status_of_several_targets_wins() {
    let bad = Target { name: "x".into(), result: Err(Error::malformed(5_usize, "e_phoff is a lie")) };
    let options = Options { command: "scan", all: false, strict: false };
    let document = Document::new(options, &[target(file(Action::Scanned)), bad]).to_text();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["status"], 2);
    assert_eq!(document["targets"][0]["status"], 1);
    assert_eq!(document["targets"][1]["error"]["message"], "e_phoff is a lie");
    assert_eq!(document["targets"][1]["error"]["offset"], 5);
    assert_eq!(document["summary"]["sites"], 3);
}

#[test]
fn doubt_and_losses_are_warned_of() {
    let mut lossy = file(written(Direction::Patch, false));
    lossy.warnings.push("security.ima was dropped".into());
    let lines = text::warning_lines(&target(lossy)).join("\n");
    assert_eq!(
        anstream::adapter::strip_str(&lines).to_string(),
        "vsyspatch: libc.so.6: warning: security.ima was dropped\n\
         vsyspatch: libc.so.6: warning: a site is unproven: it may become a call, and stays as it is"
    );
}

#[test]
fn an_error_line_names_file_offset_and_what_was_wrong() {
    let error = Error::malformed(0x20_usize, "e_phoff is a lie").remedy("get another file");
    let bad = Target { name: "a\nb".into(), result: Err(error) };
    let line = anstream::adapter::strip_str(&text::error_lines(&bad)[0]).to_string();
    assert_eq!(line, "vsyspatch: a\\nb: offset 0x20: e_phoff is a lie (get another file)");
}

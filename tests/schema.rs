//! Real output of every command, held against the JSON Schema of the report.

mod common;
#[path = "harness/schema.rs"]
mod of_json;

use std::fs;

use common::{SAMPLE, folder, run};
use of_json::{assert_follows, compiled};
use serde_json::{Value, json};

fn schema() -> jsonschema::Validator {
    compiled(include_str!("schema/report-1.json"))
}

fn record_schema() -> jsonschema::Validator {
    compiled(include_str!("schema/record-1.json"))
}

#[track_caller]
fn assert_valid(document: &Value) {
    assert_follows(&schema(), document);
}

#[test]
fn scan_writes_one_valid_document_whatever_the_targets_are() {
    let folder = folder();
    fs::write(folder.path().join("cut"), &SAMPLE[..0x80]).unwrap();
    let mut foreign = SAMPLE.to_vec();
    foreign[18] = 183; // e_machine: AArch64
    fs::write(folder.path().join("foreign"), foreign).unwrap();
    for (words, status) in [
        (&["sample"][..], 1),
        (&["sample", "--all"], 1),
        (&["foreign"], 0),
        (&["cut"], 2),
        (&["sample", "missing", "cut", "foreign", "."], 2),
    ] {
        let ran = run(folder.path(), &[&["scan", "--json"], words].concat()).ends_with(status);
        let document = ran.json();
        assert_valid(&document);
        assert_eq!(document["status"], status, "{words:?}");
    }
}

/// From patch to revert, with everything that can come between: the words of a line, the status, the
/// outcome that the document names.
#[test]
fn the_commands_that_write_and_prove_give_valid_documents() {
    let folder = folder();
    let sample = folder.path().join("sample");
    let break_byte = |name: &str, at: usize| {
        let mut bytes = fs::read(folder.path().join(name)).unwrap();
        bytes[at] ^= 1;
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    let document = |line: &str, status: i32| {
        let words: Vec<&str> = line.split(' ').chain(["--json"]).collect();
        let document = run(folder.path(), &words).ends_with(status).json();
        assert_valid(&document);
        assert_eq!(document["status"], status, "{line}");
        assert_eq!(document["command"], words[0], "{line}");
        document
    };
    let outcome = |line: &str, status: i32, outcome: &str| {
        let file = document(line, status)["targets"][0]["files"][0].clone();
        assert_eq!(file["outcome"], outcome, "{line}");
        file
    };
    let error = |line: &str, kind: &str| {
        assert_eq!(document(line, 2)["targets"][0]["error"]["kind"], kind, "{line}");
    };

    let planned = outcome("patch --dry-run sample", 0, "planned");
    assert_eq!(planned["sites"][0]["edits"].as_array().unwrap().len(), 2);
    assert_eq!(planned.get("output"), None);
    error("verify sample", "record");
    error("revert sample out", "record");
    let patched = outcome("patch sample patched", 0, "patched");
    assert_eq!(patched["output"], "patched");
    assert_eq!(patched["record"], "patched.vsyspatch.json");
    assert_eq!(patched["output_sha256"], planned["output_sha256"]);
    outcome("patch patched again", 0, "already-patched");
    outcome("verify again", 0, "verified");
    outcome("verify patched", 0, "verified");
    assert_eq!(outcome("revert --dry-run patched", 0, "planned")["edits"].as_array().unwrap().len(), 2);
    let reverted = outcome("revert patched reverted", 0, "reverted");
    assert_eq!(reverted["output_sha256"], patched["sha256"]);
    assert_eq!(reverted["edits"][1]["after_asm"], json!(["call *%rax"]));
    outcome("revert reverted x --record patched.vsyspatch.json", 0, "already-original");

    break_byte("patched", SAMPLE.len() - 1);
    let slugs = |file: Value| -> Vec<String> {
        let findings = file["findings"].as_array().unwrap().clone();
        findings.iter().map(|finding| finding["slug"].as_str().unwrap().to_owned()).collect()
    };
    let findings = slugs(outcome("verify patched", 1, "findings"));
    assert_eq!(findings, ["checksum-patched", "unplanned-change"]);
    error("revert patched out", "mismatch");
    break_byte("patched", SAMPLE.len() - 1);
    break_byte("patched", 0x12b);
    assert!(slugs(outcome("verify patched", 1, "findings")).contains(&"edit-missing".to_owned()));

    let mut clean = SAMPLE.to_vec();
    clean[0x124 + 5] = 0x50; // no entry's address any more
    fs::write(folder.path().join("clean"), clean).unwrap();
    let copied = outcome("patch clean copy", 0, "unchanged");
    assert_eq!(copied["output"], "copy");
    assert_eq!(fs::read(sample).unwrap(), SAMPLE);
}

#[test]
fn explain_gives_valid_documents_with_the_way_of_the_address() {
    for name in ["forms", "forms.so"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/prebuilt");
        let document = run(std::path::Path::new(path), &["explain", name, "--json"]).ends_with(1).json();
        assert_valid(&document);
        let sites = document["targets"][0]["files"][0]["sites"].as_array().unwrap();
        assert_eq!(sites.len(), 9, "{name}");
        for site in sites {
            let listing = site["listing"].as_array().unwrap();
            let has = |deed: &str| listing.iter().any(|line| line["deed"] == deed);
            assert!(has("holds") || has("compares") || has("contains"), "{site}");
            let is_called = site["reach"] == "always";
            assert_eq!(has("calls") || has("jumps"), is_called, "{site}");
        }
    }
}

#[test]
fn demo_writes_a_valid_document() {
    let folder = folder();
    let document = run(folder.path(), &["demo", "--json"]).ends_with(0).json();
    assert_valid(&document);
    assert_eq!(document["demo"]["steps"].as_array().unwrap().len(), 6);
}

#[test]
fn the_record_follows_its_schema() {
    let folder = folder();
    run(folder.path(), &["patch", "sample", "patched"]).ends_with(0);
    let record = fs::read(folder.path().join("patched.vsyspatch.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_follows(&record_schema(), &record);
    assert_eq!(record["size"], SAMPLE.len());
    assert_eq!(record["edits"][0]["before"], "48c7c0000460ff");
    for (pointer, key, value) in [
        ("", "schema", json!("vsyspatch.record/2")),
        ("", "original_sha256", json!("0")),
        ("", "surprise", json!(1)),
        ("/edits/0", "role", json!("magic")),
        ("/edits/0", "before", json!("4")),
    ] {
        let mut bad = record.clone();
        bad.pointer_mut(pointer).unwrap()[key] = value;
        assert!(!record_schema().is_valid(&bad), "{pointer}/{key}");
    }
}

/// The words of the contract, as a program would look for them.
#[test]
fn the_sample_is_described_in_full() {
    let folder = folder();
    let document = run(folder.path(), &["scan", "--json", "sample"]).ends_with(1).json();
    let file = &document["targets"][0]["files"][0];
    assert_eq!(document["schema"], "vsyspatch.report/1");
    assert_eq!(document["tool"]["name"], "vsyspatch");
    assert_eq!(file["size"], SAMPLE.len());
    assert_eq!(
        file["elf"],
        json!({"type": "EXEC", "static": true, "stripped": false, "interp": null, "soname": null, "build_id": null})
    );
    let site = &file["sites"][0];
    assert_eq!(site["offset"], 0x124);
    assert_eq!(site["vaddr"], 0x40_0124);
    for (key, value) in [
        ("entry", "time"),
        ("form", "direct-call"),
        ("function", "time"),
        ("reach", "always"),
        ("verdict", "patch"),
        ("strategy", "in-place"),
    ] {
        assert_eq!(site[key], value, "{key}");
    }
    let constant = &site["edits"][0];
    assert_eq!(constant["before"], "48c7c0000460ff");
    assert_eq!(constant["after"], "48c7c0c9000000");
    assert_eq!(constant["before_asm"], json!(["mov $0xffffffffff600400,%rax"]));
    assert_eq!(constant["after_asm"], json!(["mov $0xc9,%rax"]));
    assert_eq!(site["edits"][1]["after_asm"], json!(["syscall"]));
}

#[test]
fn errors_are_in_the_document_and_on_stderr() {
    let folder = folder();
    fs::write(folder.path().join("text"), b"no ELF file at all, but of some length: 64 bytes and a few more")
        .unwrap();
    let ran = run(folder.path(), &["scan", "--json", "text"]).ends_with(2);
    assert_eq!(ran.stderr.lines().count(), 1);
    let target = &ran.json()["targets"][0];
    assert_eq!(target["error"]["kind"], "not-elf");
    assert_eq!(target["error"]["offset"], 0);
    assert_eq!(target["files"], json!([]));
}

/// The schema is a contract only if it says no.
#[test]
fn the_schema_refuses_what_the_contract_does_not_have() {
    let folder = folder();
    let good = run(folder.path(), &["scan", "--json", "sample"]).ends_with(1).json();
    let site = "/targets/0/files/0/sites/0";
    for (pointer, key, value) in [
        ("", "schema", json!("vsyspatch.report/2")),
        ("", "surprise", json!(1)),
        ("", "status", json!(4)),
        ("/targets/0", "status", json!(2)),
        ("/targets/0/files/0", "sha256", json!("0")),
        ("/targets/0/files/0", "elf", json!(null)),
        (site, "entry", json!("clock_gettime")),
        (site, "form", json!("direct")),
        (site, "offset", json!("0x124")),
        (site, "edits", json!([])),
        (site, "verdict", json!("refused")),
    ] {
        let mut bad = good.clone();
        bad.pointer_mut(pointer).unwrap()[key] = value;
        assert!(!schema().is_valid(&bad), "{pointer}/{key}");
    }
}

//! Real output of every command, held against the JSON Schema of the report.

mod common;

use std::fs;

use common::{SAMPLE, folder, run};
use serde_json::{Value, json};

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("schema/report-1.json")).expect("JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("a JSON Schema");
    jsonschema::draft202012::new(&schema).expect("a JSON Schema")
}

#[track_caller]
fn assert_valid(document: &Value) {
    let errors: Vec<String> =
        schema().iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}\n{document:#}", errors.join("\n"));
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

/// The words that the issue promises, as a program would look for them.
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
        ("", "status", json!(3)),
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

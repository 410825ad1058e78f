//! `--format sarif` follows the SARIF 2.1.0 schema (the copy that the crate serde-sarif is generated from), and says
//! what the other forms of report say.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Ran, read, root, temp_dir, vsyspatch};
use serde_json::Value;

fn schema() -> jsonschema::Validator {
    let mut cargo = Command::new(env!("CARGO"));
    // What other platforms need is not there.
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
    let metadata = Ran::of(&mut cargo).expect(0).json();
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "serde-sarif").expect("a dependency");
    let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
    let text = fs::read_to_string(manifest.with_file_name("src").join("schema.json")).expect("the schema");
    // The published pattern of a language has a bracket too many, which strict expressions do not allow.
    let text = text.replace("[a-zA-Z]{2}]?$", "[a-zA-Z]{2}$");
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    jsonschema::draft7::new(&schema).expect("a JSON Schema")
}

/// Runs the tool in `dir` and returns its log, which follows the schema.
#[track_caller]
fn sarif(dir: &Path, words: &[&str], status: i32) -> Value {
    let mut command = vsyspatch();
    let log = Ran::of(command.current_dir(dir).args(words).args(["--format", "sarif"])).expect(status).json();
    let schema = schema();
    let errors: Vec<String> =
        schema.iter_errors(&log).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{words:?}: {}\n{log:#}", errors.join("\n"));
    assert_eq!(log["version"], "2.1.0");
    log["runs"][0].clone()
}

fn with_samples() -> tempfile::TempDir {
    let dir = temp_dir();
    for name in ["demo", "forms", "forms.so"] {
        fs::write(dir.path().join(name), read(&root().join("corpus/prebuilt").join(name))).expect("a copy");
    }
    dir
}

#[test]
fn the_schema_refuses_what_is_no_log() {
    for wrong in ["{}", r#"{"version":"2.1.0","runs":[{}]}"#, r#"{"version":"2.0.0","runs":[]}"#] {
        assert!(!schema().is_valid(&serde_json::from_str(wrong).expect("JSON")), "{wrong}");
    }
}

#[test]
fn every_site_of_the_report_is_a_result() {
    let dir = with_samples();
    let run = sarif(dir.path(), &["scan", "--all", "demo", "forms", "forms.so"], 1);
    let mut command = vsyspatch();
    let words = ["scan", "--all", "demo", "forms", "forms.so", "--format", "json"];
    let report = Ran::of(command.current_dir(dir.path()).args(words)).expect(1).report();
    let mut sites = vec![];
    for target in report["targets"].as_array().expect("targets") {
        for site in target["files"][0]["sites"].as_array().expect("sites") {
            sites.push((target["target"].clone(), site["offset"].clone(), site["verdict"].clone()));
        }
    }
    let results = run["results"].as_array().expect("results").iter().map(|result| {
        let place = &result["locations"][0]["physicalLocation"];
        let offset = place["region"]["byteOffset"].clone();
        (place["artifactLocation"]["uri"].clone(), offset, result["ruleId"].clone())
    });
    assert_eq!(results.collect::<Vec<_>>(), sites);
    assert!(sites.len() > 10, "{}", sites.len());
    let rules: Vec<&Value> =
        run["tool"]["driver"]["rules"].as_array().expect("rules").iter().map(|rule| &rule["id"]).collect();
    assert!(sites.iter().all(|(.., verdict)| rules.contains(&verdict)), "{rules:?}");
}

#[test]
fn patch_verify_errors_and_hostile_names() {
    let dir = with_samples();
    sarif(dir.path(), &["patch", "demo", "patched"], 0);
    assert_eq!(sarif(dir.path(), &["verify", "patched"], 0)["results"], serde_json::json!([]));
    let path = dir.path().join("patched");
    let mut bytes = read(&path);
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&path, bytes).expect("it is written");
    let run = sarif(dir.path(), &["verify", "patched"], 1);
    assert_eq!(run["results"][0]["ruleId"], "finding", "{run:#}");

    let run = sarif(dir.path(), &["scan", "missing"], 2);
    let notes = &run["invocations"][0];
    assert_eq!(notes["executionSuccessful"], false);
    assert_eq!(notes["exitCode"], 2);
    assert_eq!(notes["toolExecutionNotifications"].as_array().map(Vec::len), Some(1));

    let name = "a b%\u{1b}[2J\"<script>é";
    fs::copy(dir.path().join("demo"), dir.path().join(name)).expect("a copy");
    let run = sarif(dir.path(), &["scan", name], 1);
    let uri = &run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert_eq!(uri, "a%20b%25%1B%5B2J%22%3Cscript%3E%C3%A9");
}

#[test]
fn the_form_is_said_once() {
    let dir = with_samples();
    for words in [&["scan", "--json", "--format", "sarif", "demo"][..], &["scan", "--format", "xml", "demo"]]
    {
        Ran::of(vsyspatch().current_dir(dir.path()).args(words)).expect(2);
    }
    let said = |words: &[&str]| Ran::of(vsyspatch().current_dir(dir.path()).args(words)).expect(1).stdout;
    assert_eq!(said(&["scan", "--json", "demo"]), said(&["scan", "--format", "json", "demo"]));
    assert_eq!(said(&["scan", "demo"]), said(&["scan", "--format", "text", "demo"]));
}

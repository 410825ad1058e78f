//! JSON Schemas, and documents that follow them.

use serde_json::Value;

/// The schema that `text` is.
pub fn compiled(text: &str) -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(text).expect("JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("a JSON Schema");
    jsonschema::draft202012::new(&schema).expect("a JSON Schema")
}

#[track_caller]
pub fn assert_follows(schema: &jsonschema::Validator, document: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}\n{document:#}", errors.join("\n"));
}

//! Images of before 2016 as manifests of today: archives of Docker before 1.10, and registry manifests of schema 1.
//! Both have a configuration for every layer ("v1 compatibility"); the topmost one is the image's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::document::{self, Digest, Document, media_type};

/// A layer of an old image.
#[derive(Debug)]
pub struct OldLayer {
    /// Its configuration.
    pub v1: Map<String, Value>,
    /// Its content; nothing where it changed no file.
    pub blob: Option<OldBlob>,
}

/// The content of such a layer.
#[derive(Debug)]
pub struct OldBlob {
    /// Checksum of the blob.
    pub digest: Digest,
    /// Checksum of the uncompressed layer.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Whether it is compressed.
    pub is_compressed: bool,
}

/// What of a layer's configuration is not the image's.
const OF_THE_LAYER: [&str; 7] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway", "history"];

/// Manifest and configuration of the image with these layers, the lowest first. What Docker does when it reads
/// such an image (moby, `image/v1/imagev1.go`, up to version 28).
#[must_use]
pub fn converted(layers: &[OldLayer]) -> (Document, Document) {
    let mut config: Map<String, Value> = layers.last().map(|top| top.v1.clone()).unwrap_or_default();
    config.retain(|key, _| !OF_THE_LAYER.contains(&key.as_str()));
    let blobs = || layers.iter().filter_map(|layer| layer.blob.as_ref());
    let diff_ids: Vec<String> = blobs().map(|blob| blob.diff_id.to_string()).collect();
    config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
    config.insert("history".into(), layers.iter().map(history).collect());
    let config = Document::of(Value::Object(config));
    let kind = |blob: &OldBlob| {
        if blob.is_compressed { media_type::OCI_LAYER_GZIP } else { media_type::OCI_LAYER }
    };
    let layers: Vec<_> = blobs().map(|blob| (kind(blob), &blob.digest, blob.size)).collect();
    let manifest = document::manifest_of(&config, &layers);
    (manifest, config)
}

/// What was signed of a manifest of schema 1, which its digest is of: the bytes before the signatures, and the end
/// that the signatures hold. Nothing for what has no signatures.
#[must_use]
pub fn signed_payload(manifest: &Document) -> Option<Vec<u8>> {
    let part = |text: &Value| URL_SAFE_NO_PAD.decode(text.as_str()?.trim_end_matches('=')).ok();
    let header = part(manifest.value().pointer("/signatures/0/protected")?)?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    let length = usize::try_from(header.get("formatLength")?.as_u64()?).ok()?;
    let mut payload = manifest.bytes.get(..length)?.to_vec();
    payload.extend(part(header.get("formatTail")?)?);
    Some(payload)
}

fn history(layer: &OldLayer) -> Value {
    let mut entry = Map::new();
    for key in ["created", "author", "comment"] {
        if let Some(value) = layer.v1.get(key).filter(|value| value.as_str() != Some("")) {
            entry.insert(key.into(), value.clone());
        }
    }
    let command = layer.v1.get("container_config").and_then(|of| of.get("Cmd")).and_then(Value::as_array);
    if let Some(words) = command {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        entry.insert("created_by".into(), json!(words.join(" ")));
    }
    if layer.blob.is_none() {
        entry.insert("empty_layer".into(), json!(true));
    }
    Value::Object(entry)
}

//! Manifests, indexes and configurations: JSON that keeps what nobody here knows, in its order.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Media types of the two families.
pub mod media_type {
    /// A list of manifests.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A list of manifests, Docker's.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// An image.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image, Docker's.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// The configuration of an image.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A compressed layer.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A compressed layer, Docker's.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// `sha256:...`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// That of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_sum(Sha256::of(bytes))
    }

    /// That of bytes with this SHA-256 checksum.
    #[must_use]
    pub fn of_sum(sum: Sha256) -> Self {
        Self(format!("sha256:{sum}"))
    }

    /// Reads one.
    ///
    /// # Errors
    /// `Malformed` for what is none; other algorithms than SHA-256 are not known.
    pub fn parse(text: &str) -> Result<Self> {
        let is_hex =
            |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.strip_prefix("sha256:") {
            Some(hex) if is_hex(hex) => Ok(Self(text.to_owned())),
            _ => Err(malformed(format!("{text:?} is no sha256 digest"))),
        }
    }

    /// The digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The tag that lists what describes the image; with one of [`DESCRIBING_TAGS`] behind it, that is there itself.
    #[must_use]
    pub fn as_tag(&self) -> String {
        format!("sha256-{}", self.hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// What a manifest says of a blob.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// What kind of blob.
    pub media_type: String,
    /// Its checksum.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// It is to be fetched from elsewhere, and in no image.
    pub is_foreign: bool,
    /// What the image is for, in an index.
    pub platform: Option<Platform>,
    /// The name of the image, in the index of a layout.
    pub name: Option<String>,
    /// The image that it describes, in an index: that of a build's attestation.
    pub describes: Option<Digest>,
}

/// What an image is for: `OS/ARCH[/VARIANT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`, where it is known.
    pub os: String,
    /// As Go names it: `amd64`, `arm`.
    pub architecture: String,
    /// Which kind of that: `v7`.
    pub variant: Option<String>,
}

impl Platform {
    /// That of a descriptor in an index, or of a configuration.
    fn of(value: &Value) -> Self {
        let part = |key: &str| value.get(key).and_then(Value::as_str).filter(|part| !part.is_empty());
        let known = |key: &str| part(key).unwrap_or("unknown").to_owned();
        let variant = part("variant").map(str::to_owned);
        Self { os: known("os"), architecture: known("architecture"), variant }
    }

    /// Whether an image for `other` is meant: one of any variant where none is asked for.
    #[must_use]
    pub fn means(&self, other: &Self) -> bool {
        let is_same = self.os == other.os && self.architecture == other.architecture;
        is_same && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl std::str::FromStr for Platform {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = word.split('/').collect();
        let (os, architecture, variant) = match *parts {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err("not of the form OS/ARCH[/VARIANT]: linux/amd64".into()),
        };
        if parts.contains(&"") {
            return Err("a part of OS/ARCH[/VARIANT] is empty".into());
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Descriptor {
    fn of(value: &Value) -> Result<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let digest = text("digest").ok_or_else(|| malformed("a descriptor has no digest"))?;
        let annotation = |key| value.get("annotations")?.get(key)?.as_str();
        // Of the whole name and its tag the name, where both are there.
        let (tag, name) = (annotation(REF_NAME), annotation(CONTAINERD_NAME));
        let is_of = |name: &&str| tag.is_none_or(|tag| name.ends_with(&format!(":{tag}")));
        let name = name.filter(is_of).or(tag);
        Ok(Self {
            media_type: text("mediaType").unwrap_or_default().to_owned(),
            digest: Digest::parse(digest)?,
            size: value.get("size").and_then(Value::as_u64).unwrap_or(0),
            is_foreign: value.get("urls").and_then(Value::as_array).is_some_and(|urls| !urls.is_empty()),
            platform: value.get("platform").map(Platform::of),
            name: name.map(str::to_owned),
            describes: annotation(DESCRIBED).and_then(|digest| Digest::parse(digest).ok()),
        })
    }

    /// Whether it leads to a manifest or an index, and not to a blob.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        use media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
        [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].contains(&self.media_type.as_str())
    }

    /// Whether an image of an index is for Linux on x86-64; one that does not say may be.
    #[must_use]
    pub fn is_for_x86_64(&self) -> bool {
        self.platform.as_ref().is_none_or(|own| own.os == "linux" && own.architecture == "amd64")
    }

    /// Why the blob cannot be looked into, where that is so.
    #[must_use]
    pub fn not_scanned(&self) -> Option<&'static str> {
        if self.media_type.contains("+encrypted") {
            Some("it is encrypted")
        } else if self.is_foreign || self.media_type.contains("foreign") {
            Some("it is a foreign layer, which is not in the image")
        } else {
            None
        }
    }
}

/// Annotation of a layout's image: what `oci:DIR:NAME` means, which is the tag for many.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Of an attestation that BuildKit puts beside an image: the digest of the image.
const DESCRIBED: &str = "vnd.docker.reference.digest";
/// Ends of the tags that cosign gives to what describes an image, and what that is.
pub const DESCRIBING_TAGS: [(&str, &str); 3] =
    [(".sig", "signature"), (".att", "attestation"), (".sbom", "bill of materials")];

/// Whether `tag` is one of those that cosign gives.
#[must_use]
pub fn is_describing_tag(tag: &str) -> bool {
    let ends =
        || DESCRIBING_TAGS.iter().filter_map(|(end, _)| tag.strip_suffix(end)?.strip_prefix("sha256-"));
    ends().any(|hex| Digest::parse(&format!("sha256:{hex}")).is_ok())
}

/// The whole name, as containerd writes it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A JSON document with its exact bytes.
#[derive(Clone, Debug)]
pub struct Document {
    /// As it is stored.
    pub bytes: Vec<u8>,
    value: Value,
}

impl Document {
    /// Reads one.
    ///
    /// # Errors
    /// `Malformed` for what is no JSON object.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("not a JSON document: {error}")))?;
        if !value.is_object() {
            return Err(malformed("not a JSON object"));
        }
        Ok(Self { bytes, value })
    }

    /// The document of `value`.
    #[must_use]
    pub fn of(value: Value) -> Self {
        Self { bytes: serde_json::to_vec(&value).unwrap_or_default(), value }
    }

    /// The same, where it has the digest `wanted`.
    ///
    /// # Errors
    /// `Mismatch` where it has another one.
    pub fn checked(self, wanted: &Digest) -> Result<Self> {
        let found = self.digest();
        if found == *wanted {
            return Ok(self);
        }
        let message = format!("the blob {wanted} is something else: {found}");
        Err(Error::new(ErrorKind::Mismatch, message).remedy("the image is damaged: get it again"))
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Its content.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// What kind it says that it is; an index or a manifest by what it has, where it does not say.
    #[must_use]
    pub fn media_type(&self) -> &str {
        let by_content = if self.value.get("manifests").is_some() {
            media_type::OCI_INDEX
        } else {
            media_type::OCI_MANIFEST
        };
        self.value.get("mediaType").and_then(Value::as_str).unwrap_or(by_content)
    }

    /// When the image of a configuration was made, as it says.
    #[must_use]
    pub fn created(&self) -> Option<String> {
        self.value.get("created")?.as_str().map(str::to_owned)
    }

    /// What a configuration is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform::of(&self.value)
    }

    /// What a signature, an attestation or the like describes: the manifest that it refers to.
    #[must_use]
    pub fn subject(&self) -> Option<Digest> {
        Digest::parse(self.value.pointer("/subject/digest")?.as_str()?).ok()
    }

    /// Whether the manifest has an annotation of the name `key`; Docker's have none at all.
    #[must_use]
    pub fn names(&self, key: &str) -> bool {
        let is_named = self.value.get("annotations").is_some_and(|all| all.get(key).is_some());
        is_named || self.media_type() == media_type::DOCKER_MANIFEST
    }

    /// The manifests of an index; nothing for what is none.
    ///
    /// # Errors
    /// `Malformed` for descriptors that are none.
    pub fn manifests(&self) -> Result<Option<Vec<Descriptor>>> {
        let Some(list) = self.value.get("manifests").and_then(Value::as_array) else { return Ok(None) };
        list.iter().map(Descriptor::of).collect::<Result<_>>().map(Some)
    }

    /// The configuration of a manifest.
    ///
    /// # Errors
    /// `Malformed` where there is none.
    pub fn config(&self) -> Result<Descriptor> {
        Descriptor::of(
            self.value.get("config").ok_or_else(|| malformed("the manifest has no configuration"))?,
        )
    }

    /// Whether a manifest is of something that only looks like an image: a Helm chart, a signature, a plugin. Their
    /// configurations are of other types; some old images have one of no type.
    #[must_use]
    pub fn is_artifact(&self) -> bool {
        const OF_IMAGES: [&str; 4] =
            [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG, "application/octet-stream", ""];
        let of_config = self.value.pointer("/config/mediaType").and_then(Value::as_str);
        of_config.is_some_and(|of_config| !OF_IMAGES.contains(&of_config))
    }

    /// The layers of a manifest, the lowest first.
    ///
    /// # Errors
    /// `Malformed` where there are none.
    pub fn layers(&self) -> Result<Vec<Descriptor>> {
        let list = self.value.get("layers").and_then(Value::as_array);
        let list = list.ok_or_else(|| malformed("the manifest has no layers"))?;
        if list.len() > limits::IMAGE_LAYERS {
            return Err(malformed(format!(
                "{} layers, and engines take {}",
                list.len(),
                limits::IMAGE_LAYERS
            )));
        }
        list.iter().map(Descriptor::of).collect()
    }

    /// The checksums of the uncompressed layers, in a configuration.
    ///
    /// # Errors
    /// `Malformed` where there are none.
    pub fn diff_ids(&self) -> Result<Vec<Digest>> {
        let list = self.value.pointer("/rootfs/diff_ids").and_then(Value::as_array);
        let list = list.ok_or_else(|| malformed("the configuration has no diff_ids"))?;
        list.iter().map(|id| Digest::parse(id.as_str().unwrap_or_default())).collect()
    }
}

/// A manifest of `config` and of layers with these media types, digests and sizes, the lowest first.
#[must_use]
pub fn manifest_of(config: &Document, layers: &[(&str, &Digest, u64)]) -> Document {
    let layer = |&(kind, digest, size): &(&str, &Digest, u64)| json!({ "mediaType": kind, "digest": digest.to_string(), "size": size });
    Document::of(json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG,
            "digest": config.digest().to_string(),
            "size": config.bytes.len(),
        },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    }))
}

/// A layer that is put on top of an image.
#[derive(Debug)]
pub struct NewLayer {
    /// Checksum of the uncompressed layer.
    pub diff_id: Digest,
    /// Checksum of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// When the new image was made, where that is to be said; else it is as old as the old one.
    pub created: Option<String>,
    /// Key and value of what the configuration is to be labelled with, and the manifest annotated.
    pub labels: Vec<(String, String)>,
}

/// The configuration with one more layer: diff_id, history and labels; the rest as it was.
#[must_use]
pub fn config_with(config: &Document, layer: &NewLayer) -> Document {
    let mut value = config.value.clone();
    let layers = config.diff_ids().map_or(0, |ids| ids.len());
    if let Some(ids) = value.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut) {
        ids.push(json!(layer.diff_id.to_string()));
    }
    if let (Some(created), Some(object)) = (&layer.created, value.as_object_mut()) {
        object.insert("created".into(), json!(created));
    }
    let created = value.get("created").cloned();
    if let Some(history) = value.get_mut("history").and_then(Value::as_array_mut) {
        let is_empty = |entry: &&Value| entry.get("empty_layer").and_then(Value::as_bool) == Some(true);
        // A history that does not fit the layers stays as it is.
        if history.iter().filter(|entry| !is_empty(entry)).count() == layers {
            let mut entry = Map::new();
            if let Some(created) = created {
                entry.insert("created".into(), created);
            }
            entry.insert("created_by".into(), json!("vsyspatch patch"));
            entry.insert("comment".into(), json!("calls into the vsyscall page became system calls"));
            history.push(Value::Object(entry));
        }
    }
    if let Some(object) = value.as_object_mut() {
        // Docker's and podman's own form of these: an object, or null.
        let inner = object.entry("config").or_insert_with(|| json!({}));
        if inner.is_null() {
            *inner = json!({});
        }
        add_labels(inner, "Labels", &layer.labels);
    }
    Document::of(value)
}

fn add_labels(object: &mut Value, key: &str, labels: &[(String, String)]) {
    let Some(object) = object.as_object_mut() else { return };
    let all = object.entry(key).or_insert_with(|| json!({}));
    if all.is_null() {
        *all = json!({});
    }
    if let Some(all) = all.as_object_mut() {
        all.extend(labels.iter().map(|(key, value)| (key.clone(), json!(value))));
    }
}

/// The manifest with one more layer, and `config`; the rest as it was.
#[must_use]
pub fn manifest_with(manifest: &Document, config: &Document, layer: &NewLayer) -> Document {
    let mut value = manifest.value.clone();
    let is_docker = manifest.media_type() == media_type::DOCKER_MANIFEST;
    let layer_type = if is_docker { media_type::DOCKER_LAYER_GZIP } else { media_type::OCI_LAYER_GZIP };
    if let Some(layers) = value.get_mut("layers").and_then(Value::as_array_mut) {
        let digest = layer.digest.to_string();
        layers.push(json!({ "mediaType": layer_type, "digest": digest, "size": layer.size }));
    }
    set_descriptor(value.get_mut("config"), config);
    if !is_docker {
        add_labels(&mut value, "annotations", &layer.labels);
    }
    Document::of(value)
}

/// The manifest without its topmost layer and the annotations `keys`, and with `config`.
#[must_use]
pub fn manifest_without_top(manifest: &Document, config: &Document, keys: &[&str]) -> Document {
    let mut value = manifest.value.clone();
    if let Some(layers) = value.get_mut("layers").and_then(Value::as_array_mut) {
        layers.pop();
    }
    if let Some(annotations) = value.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !keys.contains(&key.as_str()));
    }
    set_descriptor(value.get_mut("config"), config);
    Document::of(value)
}

/// Lets `descriptor` lead to `document`.
pub fn set_descriptor(descriptor: Option<&mut Value>, document: &Document) {
    let Some(descriptor) = descriptor.and_then(Value::as_object_mut) else { return };
    descriptor.insert("digest".into(), json!(document.digest().to_string()));
    descriptor.insert("size".into(), json!(document.bytes.len()));
    // The content in place, where there was one, is that of the old document.
    descriptor.shift_remove("data");
}

/// The index with the manifests number `number` replaced.
#[must_use]
pub fn index_with(index: &Document, replaced: &[(usize, Document)]) -> Document {
    let mut value = index.value.clone();
    if let Some(list) = value.get_mut("manifests").and_then(Value::as_array_mut) {
        for (number, manifest) in replaced {
            set_descriptor(list.get_mut(*number), manifest);
        }
    }
    Document::of(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_stays_in_its_place() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let config = json!({ "zeta": 1, "rootfs": { "type": "layers", "diff_ids": [digest("a").to_string()] },
            "created": "2013-01-01T00:00:00Z", "history": [{ "created_by": "x" }, { "empty_layer": true }],
            "config": { "Labels": null, "Unknown": [1, 2] }, "alpha": { "b": 1, "a": 2 } });
        let layer = NewLayer {
            diff_id: digest("b"),
            digest: digest("c"),
            size: 7,
            created: None,
            labels: vec![("key".into(), "value".into())],
        };
        let patched = config_with(&Document::of(config), &layer);
        insta::assert_snapshot!(serde_json::to_string_pretty(patched.value()).unwrap());
    }
}

//! Images that are written: a layout on the disk, or an archive that every engine reads (an OCI layout with
//! Docker's `manifest.json`).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::blobs::{Blobs, Opened, needed, refuse_compressed};
use super::document::{CONTAINERD_NAME, Descriptor, Digest, Document, REF_NAME, media_type};
use super::engine;
use super::names;
use super::reference::Reference;
use super::registry::{Outgoing, Repository};
use super::tar;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::store::{self, Directory, NewFile, Root, Source, write_file};

/// What an image is made of.
#[derive(Debug)]
pub struct Image<'a> {
    /// Its manifest or index.
    pub root: &'a Document,
    /// Blobs that are new.
    pub added: &'a BTreeMap<Digest, Vec<u8>>,
    /// Where the others are.
    pub source: &'a Blobs,
    /// Its name.
    pub name: Option<&'a str>,
}

/// What was sent to a registry.
#[derive(Debug)]
pub struct Sent {
    /// Bytes of blobs and documents.
    pub bytes: u64,
    /// The image, by its digest.
    pub reference: String,
}

/// What a layout says of itself.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

impl Image<'_> {
    /// Writes it to where `reference` says; what a registry was sent.
    ///
    /// # Errors
    /// Those of reading and writing; then no image is there that was not there before.
    pub fn write(&self, reference: &Reference) -> Result<Option<Sent>> {
        match reference {
            Reference::Layout { path, tag } => self.write_layout(path, self.named(tag).as_deref())?,
            Reference::Archive { path, tag } => self.write_archive(path, self.named(tag).as_deref())?,
            Reference::Directory(path) => self.write_directory(path)?,
            Reference::Engine(name) => engine::import(self, name)?,
            Reference::Registry { name, access } => {
                let to = Repository::open(name, access)?.mounting(self.source.repository());
                return self.push(&to).map(Some);
            }
        }
        Ok(None)
    }

    /// What it is called where it is written as `tag`: a tag alone, or a whole name. A digest is that of the old image.
    fn named(&self, tag: &Option<String>) -> Option<String> {
        let name = tag.as_deref().or(self.name)?;
        if names::is_whole(name) { names::tagged(name) } else { Some(name.to_owned()) }
    }

    fn document(&self, digest: &Digest) -> Result<Document> {
        match self.added.get(digest) {
            Some(bytes) => Document::parse(bytes.clone()),
            None => self.source.manifest(digest),
        }
    }

    fn needed(&self) -> Result<Vec<Descriptor>> {
        let has = |entry: &Descriptor| self.added.contains_key(&entry.digest) || self.source.has_entry(entry);
        needed(self.root, &|digest| self.document(digest), &has)
    }

    fn blob(&self, of: &Descriptor) -> Result<Box<dyn Read + '_>> {
        match self.added.get(&of.digest) {
            Some(bytes) => Ok(Box::new(bytes.as_slice())),
            None => self.source.described(of),
        }
    }

    /// Every blob with its size and bytes, manifests among them; the root is the last.
    fn each_blob(&self, mut write: impl FnMut(&Digest, u64, &mut dyn Read) -> Result<()>) -> Result<()> {
        for descriptor in self.needed()? {
            if descriptor.is_manifest() {
                let manifest = self.document(&descriptor.digest)?;
                write(&descriptor.digest, manifest.bytes.len() as u64, &mut manifest.bytes.as_slice())?;
                continue;
            }
            let blob = self.blob(&descriptor)?;
            write(&descriptor.digest, descriptor.size, &mut Checked::new(blob, &descriptor.digest))?;
        }
        write(&self.root.digest(), self.root.bytes.len() as u64, &mut self.root.bytes.as_slice())
    }

    /// Sends what the registry does not have.
    fn push(&self, to: &Repository) -> Result<Sent> {
        let mut sent = 0;
        let (mut manifests, needed) = (Vec::new(), self.needed()?);
        let mut new = Vec::new();
        let is_own = self.source.repository().is_some_and(|from| from.is(to));
        for descriptor in &needed {
            if descriptor.is_manifest() {
                manifests.push(self.document(&descriptor.digest)?);
                continue;
            }
            let digest = &descriptor.digest;
            if let Some(bytes) = self.added.get(digest) {
                new.push((digest, bytes.as_slice()));
                continue;
            }
            // What the source has in the same repository is left where it is.
            if is_own {
                continue;
            }
            let checked = || -> Result<Box<dyn Read + '_>> {
                Ok(Box::new(Checked::new(self.source.described(descriptor)?, digest)))
            };
            sent += to.push_blob(digest, &Outgoing::Streamed(descriptor.size, &checked))?;
        }
        sent += to.push_new(&new)?;
        // An index needs what it lists.
        for manifest in manifests.iter().rev() {
            sent += to.push_manifest(manifest, false)?;
        }
        sent += to.push_manifest(self.root, true)?;
        Ok(Sent { bytes: sent, reference: to.name_of(&self.root.digest()) })
    }

    /// skopeo's directory of one image.
    fn write_directory(&self, path: &Path) -> Result<()> {
        make_directory(path)?;
        for descriptor in self.needed()? {
            let digest = &descriptor.digest;
            if descriptor.is_manifest() {
                let name = format!("{}.manifest.json", digest.hex());
                write_file(&path.join(name), &mut self.document(digest)?.bytes.as_slice())?;
            } else {
                write_file(&path.join(digest.hex()), &mut Checked::new(self.blob(&descriptor)?, digest))?;
            }
        }
        write_file(&path.join("version"), &mut &b"Directory Transport Version: 1.1\n"[..])?;
        write_file(&path.join("manifest.json"), &mut self.root.bytes.as_slice())
    }

    fn write_layout(&self, path: &Path, name: Option<&str>) -> Result<()> {
        let blobs = path.join("blobs/sha256");
        for directory in [path, &path.join("blobs"), &blobs] {
            make_directory(directory)?;
        }
        self.each_blob(|digest, size, bytes| {
            let blob = blobs.join(digest.hex());
            if blob.metadata().is_ok_and(|there| there.len() == size) {
                return Ok(());
            }
            write_file(&blob, bytes)
        })?;
        write_file(&path.join("oci-layout"), &mut &*LAYOUT)?;
        // Whoever adds another image meanwhile waits.
        let _lock = Root::open(path)?.wait_for_lock();
        let index = match Source::open(&path.join("index.json")) {
            Ok(source) => Document::parse(source.read()?)?.value().clone(),
            Err(_) => json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }),
        };
        let index = Document::of(with_image(index, self.root, name));
        write_file(&path.join("index.json"), &mut index.bytes.as_slice())
    }

    fn write_archive(&self, path: &Path, name: Option<&str>) -> Result<()> {
        refuse_to_lose(path)?;
        let mut file = NewFile::create(path)?;
        let mut archive = io::BufWriter::new(&mut file);
        let mut add = |name: &str, size: u64, bytes: &mut dyn Read| -> Result<()> {
            let headers = tar::file_headers(name.as_bytes(), &tar::own_attributes(0), size)?;
            let written = archive.write_all(&headers).and_then(|()| io::copy(bytes, &mut archive));
            let padded = written.and_then(|count| {
                let padding = count.next_multiple_of(tar::BLOCK) - count;
                archive.write_all(&vec![0; padding as usize]).map(|()| count)
            });
            match padded.map_err(|error| Error::io(format!("cannot write {}", path.display()), error))? {
                count if count == size => Ok(()),
                count => Err(Error::new(
                    ErrorKind::Mismatch,
                    format!("the blob {name} has {count} bytes, not {size}: the image is damaged"),
                )),
            }
        };
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] });
        let index = Document::of(with_image(index, self.root, name));
        add("oci-layout", LAYOUT.len() as u64, &mut &*LAYOUT)?;
        add("index.json", index.bytes.len() as u64, &mut index.bytes.as_slice())?;
        if let Some(list) = self.docker_list(name)? {
            add("manifest.json", list.len() as u64, &mut list.as_slice())?;
        }
        self.each_blob(|digest, size, bytes| add(&format!("blobs/sha256/{}", digest.hex()), size, bytes))?;
        let end = archive.write_all(&[0; 2 * tar::BLOCK as usize]).and_then(|()| archive.flush());
        end.map_err(|error| Error::io(format!("cannot write {}", path.display()), error))?;
        drop(archive);
        file.commit()
    }

    /// Its manifest, or those for x86-64 of its index.
    fn manifests(&self) -> Result<Vec<Document>> {
        let Some(manifests) = self.root.manifests()? else { return Ok(vec![self.root.clone()]) };
        let ours = manifests.iter().filter(|manifest| manifest.is_for_x86_64());
        let mut all = ours.map(|one| self.document(&one.digest)).collect::<Result<Vec<_>>>()?;
        all.retain(Document::is_image);
        Ok(all)
    }

    /// Where engines will not take it, once it is at `reference`.
    ///
    /// # Errors
    /// Those of reading documents.
    pub fn cautions(&self, reference: &Reference) -> Result<Vec<String>> {
        let (mut cautions, mut has_zstd) = (Vec::new(), false);
        for manifest in self.manifests()? {
            let (layers, most) = (manifest.layers()?, limits::DOCKER_LAYERS);
            has_zstd |= layers.iter().any(|layer| layer.media_type.ends_with("zstd"));
            if layers.len() > most {
                let count = layers.len();
                cautions.push(format!(
                    "the image {} has {count} layers: Docker takes no more than {most} (max depth exceeded)",
                    manifest.digest()
                ));
            }
        }
        if has_zstd && matches!(reference, Reference::Archive { .. }) {
            cautions.push(
                "layers of the archive are compressed with zstd, which Docker before 23 cannot read".into(),
            );
        }
        Ok(cautions)
    }

    /// `manifest.json`, which Docker reads: of the image, or of that for x86-64 in an index.
    fn docker_list(&self, name: Option<&str>) -> Result<Option<Vec<u8>>> {
        let Some(manifest) = self.manifests()?.into_iter().next() else { return Ok(None) };
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let layers: Vec<String> = manifest.layers()?.iter().map(|layer| path(&layer.digest)).collect();
        // A tag alone is no name for Docker.
        let tags = name.filter(|name| names::is_whole(name)).map(|name| json!([name]));
        let list =
            json!([{ "Config": path(&manifest.config()?.digest), "RepoTags": tags, "Layers": layers }]);
        Ok(Some(serde_json::to_vec(&list).unwrap_or_default()))
    }
}

/// The index with the image in it, in the stead of one of the same name.
fn with_image(mut index: Value, root: &Document, name: Option<&str>) -> Value {
    let mut descriptor = json!({
        "mediaType": root.media_type(),
        "digest": root.digest().to_string(),
        "size": root.bytes.len(),
    });
    if let Some(name) = name {
        let mut annotations = json!({ REF_NAME: name });
        if names::is_whole(name) {
            // What containerd calls it; the other is its tag.
            let tag = names::split(name).1.unwrap_or("latest");
            annotations = json!({ REF_NAME: tag, CONTAINERD_NAME: name });
        }
        descriptor["annotations"] = annotations;
    }
    if let Some(manifests) = index.get_mut("manifests").and_then(Value::as_array_mut) {
        let all = manifests.clone();
        manifests.retain(|other| !is_replaced(other, &descriptor, &all));
        manifests.push(descriptor);
    }
    index
}

/// Whether the image `other` of an index goes when `new` is put beside `all` that are there: one of the same name. A tag
/// alone means the only image that has it.
fn is_replaced(other: &Value, new: &Value, all: &[Value]) -> bool {
    let part = |value: &Value, key: &str| value.get("annotations")?.get(key)?.as_str().map(str::to_owned);
    let names = |value: &Value| (part(value, CONTAINERD_NAME), part(value, REF_NAME));
    match (names(new), names(other)) {
        ((None, None), (None, None)) => other.get("digest") == new.get("digest"),
        ((None, Some(tag)), (Some(_), Some(own))) => {
            tag == own && all.iter().filter(|one| names(one).1.as_ref() == Some(&tag)).count() == 1
        }
        ((new_name @ Some(_), _), (name, own)) => new_name == name || new_name == own,
        (new, other) => new == other,
    }
}

/// An archive is written anew as a whole: what else is in one of several images would be gone.
fn refuse_to_lose(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    refuse_compressed(Source::open(path)?.file()).map_err(|error| error.within(path.display()))?;
    if Opened::listed_in(path).unwrap_or(0) < 2 {
        return Ok(());
    }
    let message = format!("{} has several images or names, and would have one", path.display());
    Err(Error::new(ErrorKind::Unsafe, message).remedy("write to another archive"))
}

fn make_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = Directory::open(parent.unwrap_or(Path::new(".")))?;
    let made = store::make_directory(&parent.place(path.file_name().unwrap_or_default()));
    // Another run may write to the same place.
    made.or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
}

/// A blob that is copied, and fails at its end where it is something else.
struct Checked<'a> {
    reader: Box<dyn Read + 'a>,
    hasher: sha2::Sha256,
    wanted: &'a Digest,
}

impl<'a> Checked<'a> {
    fn new(reader: Box<dyn Read + 'a>, wanted: &'a Digest) -> Self {
        Self { reader, hasher: sha2::Sha256::default(), wanted }
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use sha2::Digest as _;
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() {
            let found = Digest::of_sum(Sha256::finished(self.hasher.clone()));
            if found != *self.wanted {
                let message = format!("the blob {} is something else: {found}", self.wanted);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(count)
    }
}

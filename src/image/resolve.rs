//! What an image is, as far as its documents tell: digest and layers. No layer of an image of today is read.

use std::path::Path;

use super::blobs::Opened;
use super::document::{Descriptor, Digest, Document};
use super::reference::Reference;
use super::registry::Repository;
use crate::error::Result;
use crate::limits;

/// What the documents of an image tell.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Digest of its manifest or index.
    pub digest: Digest,
    /// Layers of the image, or of the first image for x86-64 of the index, base first: digest and size in bytes. Empty
    /// where there is none.
    pub layers: Vec<(Digest, u64)>,
    /// It is no image, or an index of none: a Helm chart, a list of signatures.
    pub is_artifact: bool,
}

/// Looks up the image `reference`.
///
/// # Errors
/// Those of [`Opened::open`].
pub fn resolve(reference: &Reference) -> Result<Resolved> {
    if let Reference::Registry { name, access } = reference {
        let repository = Repository::open(name, access)?;
        return resolved(repository.manifest(None)?, |digest| repository.manifest(Some(digest)));
    }
    let opened = Opened::open(reference)?;
    resolved(opened.root, |digest| opened.blobs.manifest(digest))
}

fn resolved(root: Document, manifest: impl Fn(&Digest) -> Result<Document>) -> Result<Resolved> {
    let digest = root.digest();
    let listed = root.manifests()?;
    // An index of images says for which platforms they are.
    let may_be_artifact = listed.iter().flatten().all(|one| one.platform.is_none());
    let image = match listed {
        Some(all) => {
            let ours = all.iter().filter(|one| one.is_for_x86_64());
            let mut found = None;
            for one in ours.take(limits::INDEX_IMAGES) {
                found = Some(manifest(&one.digest)?);
                if found.as_ref().is_some_and(Document::is_image) {
                    break;
                }
            }
            match found {
                Some(found) => found,
                None => return Ok(Resolved { digest, layers: vec![], is_artifact: false }),
            }
        }
        None => root,
    };
    // Manifests of schema 1, and indexes in indexes, list none; what they are is said when they are looked at.
    let layers = if image.value().get("layers").is_some() { image.layers()? } else { vec![] };
    let is_artifact = may_be_artifact && image.is_artifact();
    let layers = layers.into_iter().map(|Descriptor { digest, size, .. }| (digest, size)).collect();
    Ok(Resolved { digest, layers, is_artifact })
}

/// The tags that the layout at `path` lists; those of images without one are not there.
///
/// # Errors
/// Those of reading the layout's index.
pub fn tags_of_layout(path: &Path) -> Result<Vec<String>> {
    let index = super::blobs::document_at(&path.join("index.json"))?;
    let manifests = index.manifests()?.unwrap_or_default();
    Ok(manifests.into_iter().filter_map(|one| one.name).collect())
}

/// The names of each image that the archive at `path` lists; one may have none.
///
/// # Errors
/// Those of reading the archive.
pub fn names_in_archive(path: &Path) -> Result<Vec<Vec<String>>> {
    Opened::names_in(path)
}

//! Images in the store of an engine: skopeo takes them out and puts them in, since only the engines themselves know
//! their stores.

use std::path::Path;
use std::process::Command;

use super::blobs::Opened;
use super::reference::Reference;
use super::writer::Image;
use crate::error::{Error, ErrorKind, Result};

/// An archive that goes from one to the other, in a directory that is gone when dropped.
fn archive() -> Result<(tempfile::TempDir, std::path::PathBuf)> {
    let directory = tempfile::Builder::new().prefix("vsyspatch-image.").tempdir();
    let directory = directory.map_err(|error| Error::io("cannot make a temporary directory", error))?;
    let path = directory.path().join("image.tar");
    Ok((directory, path))
}

fn copy(from: &str, to: &str) -> Result<()> {
    let ran = Command::new("skopeo").args(["copy", "--quiet", from, to]).output();
    let ran = ran.map_err(|error| {
        Error::io("cannot run skopeo, which reaches the stores of engines", error).remedy("install skopeo")
    })?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Io, format!("skopeo copy {from} {to}: {said}")))
}

fn archive_name(path: &Path) -> String {
    format!("docker-archive:{}", path.display())
}

/// Opens the image that the engine knows as `name`, with the transport before it.
///
/// # Errors
/// `Io` where skopeo is not there or fails; those of [`Opened::open`].
pub fn export(name: &str) -> Result<Opened> {
    let (_directory, path) = archive()?;
    copy(name, &archive_name(&path))?;
    let opened = Opened::of_archive(&path, None)?;
    let own = name.split_once(':').map(|(_, own)| own.to_owned());
    Ok(Opened { name: own, ..opened })
}

/// Gives `image` to the engine, as `name`.
///
/// # Errors
/// Those of [`export`], and of writing.
pub fn import(image: &Image<'_>, name: &str) -> Result<()> {
    let (_directory, path) = archive()?;
    image.write(&Reference::Archive { path: path.clone(), tag: None })?;
    copy(&archive_name(&path), name)
}

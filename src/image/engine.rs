//! Images in the store of an engine, which only the engine itself knows: docker, where it is installed, gives and takes
//! those of its daemon; skopeo those of every engine.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

use super::blobs::Opened;
use super::names;
use super::reference::Reference;
use super::writer::Image;
use crate::error::{Error, ErrorKind, Result};

/// Transport of Docker's daemon.
const DAEMON: &str = "docker-daemon:";

/// An archive that goes from one to the other, in a directory that is gone when dropped.
fn archive() -> Result<(tempfile::TempDir, std::path::PathBuf)> {
    let directory = tempfile::Builder::new().prefix("vsyspatch-image.").tempdir();
    let directory = directory.map_err(|error| Error::io("cannot make a temporary directory", error))?;
    let path = directory.path().join("image.tar");
    Ok((directory, path))
}

fn copy(from: &str, to: &str) -> Result<()> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet"]);
    // It does not ask the environment where the daemon is, as docker does.
    if let Some(host) = std::env::var_os("DOCKER_HOST").filter(|host| !host.is_empty()) {
        skopeo.arg("--src-daemon-host").arg(&host).arg("--dest-daemon-host").arg(&host);
    }
    let ran = skopeo.args([from, to]).output().map_err(|error| {
        let is_of_docker = [from, to].iter().any(|name| name.starts_with(DAEMON));
        let (tools, remedy) = match is_of_docker {
            true => ("docker or skopeo, which reach Docker's daemon", "install one of them"),
            false => ("skopeo, which reaches the stores of engines", "install skopeo"),
        };
        Error::io(format!("cannot run {tools}"), error).remedy(remedy)
    })?;
    succeeded(&format!("skopeo copy {from} {to}"), &ran)
}

/// Runs docker with these words and the path of an archive; whether it is installed.
fn docker(words: &[&str], path: &Path, name: &[&str]) -> Result<bool> {
    let ran = Command::new("docker").args(words).arg(path).args(name).output();
    match ran {
        Ok(ran) => succeeded(&format!("docker {} {}", words[0], name.concat()), &ran).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("cannot run docker", error)),
    }
}

fn succeeded(what: &str, ran: &Output) -> Result<()> {
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Io, format!("{}: {said}", what.trim_end())))
}

fn archive_name(path: &Path) -> String {
    format!("docker-archive:{}", path.display())
}

/// What the image is called behind the transport, and behind the place of a store (`[DRIVER@ROOT+RUNROOT]`). An id is
/// no name.
pub(super) fn own_name(name: &str) -> Option<String> {
    let (_, own) = name.split_once(':')?;
    let own = own.strip_prefix('[').and_then(|own| own.split_once(']')).map_or(own, |(_, own)| own);
    (!own.starts_with("sha256:")).then(|| own.to_owned())
}

/// Opens the image that the engine knows as `name`, with the transport before it.
///
/// # Errors
/// `Io` where the tools are not there or fail; those of [`Opened::open`].
pub fn export(name: &str) -> Result<Opened> {
    let (_directory, path) = archive()?;
    let is_there = match name.strip_prefix(DAEMON) {
        Some(own) => docker(&["save", "--output"], &path, &["--", own])?,
        None => false,
    };
    if !is_there {
        copy(name, &archive_name(&path))?;
    }
    let opened = Opened::of_archive(&path, None)?;
    Ok(Opened { name: own_name(name), ..opened })
}

/// Gives `image` to the engine, as `name`.
///
/// # Errors
/// Those of [`export`], and of writing.
pub fn import(image: &Image<'_>, name: &str) -> Result<()> {
    let (_directory, path) = archive()?;
    // Docker takes the name from the archive.
    let tag = own_name(name).and_then(|own| names::tagged(&own));
    let tag =
        tag.ok_or_else(|| Error::new(ErrorKind::Usage, format!("{name} is no name for a new image")))?;
    image.write(&Reference::Archive { path: path.clone(), tag: Some(tag) })?;
    if name.starts_with(DAEMON) && docker(&["load", "--quiet", "--input"], &path, &[])? {
        return Ok(());
    }
    copy(&archive_name(&path), name)
}

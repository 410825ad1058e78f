//! Names of images, in skopeo's syntax.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::engine;
use crate::error::{Error, ErrorKind, Result};

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `docker://HOST[:PORT]/NAME[:TAG|@DIGEST]`: in a registry.
    Registry {
        /// The name, without the transport.
        name: String,
        /// How to get at it.
        access: Access,
    },
    /// `dir:DIR`: skopeo's directory of one image.
    Directory(PathBuf),
    /// `docker-daemon:NAME` or `containers-storage:NAME`: an engine's own store, reached with the
    /// engine's tool or skopeo.
    Engine(String),
    /// `oci:DIR[:TAG]`: a directory in the OCI image layout.
    Layout {
        /// The directory.
        path: PathBuf,
        /// The image in it; the only one without.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]` or `docker-archive:FILE[:TAG]`: an archive, of whichever form.
    Archive {
        /// The file.
        path: PathBuf,
        /// The image in it; the only one without.
        tag: Option<String>,
    },
}

/// How to get at registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Certificates that nobody vouches for, and plain HTTP, will do.
    pub is_insecure: bool,
    /// Directory with certificates of further authorities (`*.crt`, PEM).
    pub certificates: Option<PathBuf>,
    /// `USER:PASSWORD`.
    pub credentials: Option<String>,
    /// File with credentials, as `docker login` writes it.
    pub credentials_file: Option<PathBuf>,
}

/// Transports that skopeo knows and this does not.
const UNKNOWN: [&str; 3] = ["ostree:", "sif:", "tarball:"];

/// Transports of engines.
const ENGINES: [&str; 2] = ["docker-daemon:", "containers-storage:"];

impl Reference {
    /// The image that `word` names: a reference, or the path of an archive or a layout. Nothing where it is
    /// neither.
    ///
    /// # Errors
    /// `Usage` for a transport that is not known here.
    pub fn parse(word: &OsStr, access: &Access) -> Result<Option<Self>> {
        let Some(text) = word.to_str() else { return Ok(Self::at(Path::new(word))) };
        let split = |rest: &str| match rest.split_once(':') {
            Some((path, tag)) if !tag.is_empty() => (PathBuf::from(path), Some(tag.to_owned())),
            Some((path, _)) => (PathBuf::from(path), None),
            None => (PathBuf::from(rest), None),
        };
        if let Some(name) = text.strip_prefix("docker://") {
            let (name, access) = (name.to_owned(), access.clone());
            return Ok(Some(Self::Registry { name, access }));
        }
        if let Some(path) = text.strip_prefix("dir:") {
            return Ok(Some(Self::Directory(PathBuf::from(path))));
        }
        if ENGINES.iter().any(|prefix| text.starts_with(prefix)) {
            return Ok(Some(Self::Engine(text.to_owned())));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = split(rest);
            return Ok(Some(Self::Layout { path, tag }));
        }
        for prefix in ["oci-archive:", "docker-archive:"] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let (path, tag) = split(rest);
                return Ok(Some(Self::Archive { path, tag }));
            }
        }
        if let Some(prefix) = UNKNOWN.iter().find(|prefix| text.starts_with(**prefix)) {
            return Err(Error::new(ErrorKind::Usage, format!("images behind {prefix} cannot be reached"))
                .remedy("copy it to an archive with skopeo copy, and name that with oci-archive:FILE"));
        }
        Ok(Self::at(Path::new(word)))
    }

    /// The place for an image that `word` names; a path alone means the same kind of place as this.
    ///
    /// # Errors
    /// Those of [`Reference::parse`].
    pub fn output(&self, word: &OsStr, access: &Access) -> Result<Self> {
        let path = || PathBuf::from(word);
        Ok(match (Self::parse(word, access)?, self) {
            (Some(named), _) => named,
            (None, Self::Layout { .. }) => Self::Layout { path: path(), tag: None },
            (None, Self::Directory(_)) => Self::Directory(path()),
            (None, _) => Self::Archive { path: path(), tag: None },
        })
    }

    /// That it can be the name of a new image.
    ///
    /// # Errors
    /// `Usage` for a digest, which is that of another.
    pub fn require_new(&self) -> Result<()> {
        let has_digest = match self {
            Self::Registry { name, .. } => name.contains('@'),
            Self::Engine(name) => engine::own_name(name).is_none_or(|own| own.contains('@')),
            Self::Layout { tag, .. } | Self::Archive { tag, .. } => {
                tag.as_ref().is_some_and(|tag| tag.contains('@'))
            }
            Self::Directory(_) => false,
        };
        if !has_digest {
            return Ok(());
        }
        let message = format!("{self} names an image by its digest, and the new one has a digest of its own");
        Err(Error::new(ErrorKind::Usage, message).remedy("name a tag for it"))
    }

    /// The image that is at `path`, where it is an archive or a layout.
    fn at(path: &Path) -> Option<Self> {
        if path.join("oci-layout").is_file() && path.join("index.json").is_file() {
            return Some(Self::Layout { path: path.to_owned(), tag: None });
        }
        is_tar(path).then(|| Self::Archive { path: path.to_owned(), tag: None })
    }
}

/// Whether the file at `path` begins as a tar archive.
fn is_tar(path: &Path) -> bool {
    use std::os::unix::fs::FileExt as _;
    const MAGIC: (u64, &[u8; 5]) = (257, b"ustar");
    let mut magic = [0; 5];
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|file| file.read_exact_at(&mut magic, MAGIC.0).is_ok())
        && magic == *MAGIC.1
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, tag) = match self {
            Self::Registry { name, .. } => return write!(f, "docker://{name}"),
            Self::Directory(path) => return write!(f, "dir:{}", path.display()),
            Self::Engine(name) => return f.write_str(name),
            Self::Layout { path, tag } => ("oci", path, tag),
            Self::Archive { path, tag } => ("oci-archive", path, tag),
        };
        write!(f, "{transport}:{}", path.display())?;
        tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_skopeo() {
        let parsed = |word: &str| {
            Reference::parse(OsStr::new(word), &Access::default()).map(|found| found.map(|it| it.to_string()))
        };
        assert_eq!(parsed("oci:a/b:v1").unwrap().unwrap(), "oci:a/b:v1");
        assert_eq!(
            parsed("docker-archive:a.tar:host/name:v1").unwrap().unwrap(),
            "oci-archive:a.tar:host/name:v1"
        );
        assert_eq!(parsed("oci-archive:a.tar").unwrap().unwrap(), "oci-archive:a.tar");
        assert_eq!(parsed("no/such/file").unwrap(), None);
        assert_eq!(parsed("docker://host:5000/name:v1").unwrap().unwrap(), "docker://host:5000/name:v1");
        assert_eq!(parsed("dir:a").unwrap().unwrap(), "dir:a");
        assert!(parsed("ostree:a").is_err());
    }
}

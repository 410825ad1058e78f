//! The only module that reads and writes files of the user.
//!
//! **Invariants.** A file is replaced by renaming a complete, flushed copy over it: whoever looks sees
//! the old or the new file, never a mix. The copy has the owner, mode and extended attributes of the
//! original. Nothing is replaced that changed since it was read, or that has other names (hard links)
//! which would stay behind. Modification times are those of the write: the content did change.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Extended attributes that hold a checksum or signature of the content: they must not be copied on.
const CONTENT_BOUND: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// A regular file, open for reading.
#[derive(Debug)]
pub struct Source {
    /// Without symbolic links.
    real_path: PathBuf,
    file: File,
    metadata: Metadata,
}

impl Source {
    /// Opens the regular file at `path`; symbolic links are followed. Never waits.
    ///
    /// # Errors
    /// `Io` where there is no such file, no permission, or it is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = |error: io::Error| Error::io("cannot open", error);
        let real_path = path.canonicalize().map_err(cannot)?;
        // To open a device or a FIFO can have effects of its own, so that this is asked first ...
        check_regular(&std::fs::metadata(&real_path).map_err(cannot)?)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file =
            rustix::fs::open(&real_path, flags, Mode::empty()).map_err(|errno| cannot(errno.into()))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(cannot)?;
        // ... and again of what was opened: the name may mean another file by now.
        check_regular(&metadata)?;
        Ok(Self { real_path, file, metadata })
    }

    /// Where the file is, without symbolic links.
    #[must_use]
    pub fn real_path(&self) -> &Path {
        &self.real_path
    }

    /// Size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// The whole file.
    ///
    /// # Errors
    /// `Io` where reading fails, `Unsafe` where the size changed while reading.
    pub fn read(&self) -> Result<Vec<u8>> {
        let size = self.size();
        if size > limits::FILE_BYTES {
            let message =
                format!("has {size} bytes, more than the {} that any program has", limits::FILE_BYTES);
            return Err(Error::new(ErrorKind::Io, message));
        }
        let mut bytes = Vec::with_capacity(size as usize + 1);
        let cannot = |error| Error::io("cannot read", error);
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(0)).map_err(cannot)?;
        (&self.file)
            .take(size + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("cannot read", error))?;
        if bytes.len() as u64 != size {
            return Err(self.changed());
        }
        Ok(bytes)
    }

    /// Fills `block` from `offset` on; how many bytes there were.
    ///
    /// # Errors
    /// `Io` where reading fails.
    pub fn read_block(&self, offset: u64, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            match rustix::io::pread(&self.file, &mut block[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("cannot read", errno)),
            }
        }
        Ok(filled)
    }

    /// Whether `path` names this very file.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|other| same_file(&other, &self.metadata))
    }

    fn changed(&self) -> Error {
        Error::new(ErrorKind::Unsafe, "changed while it was read; nothing was written").remedy("try again")
    }

    fn check_unchanged(&self) -> Result<()> {
        let now = std::fs::metadata(&self.real_path).map_err(|_| self.changed())?;
        let (now, then) = (stamp(&now), stamp(&self.metadata));
        if now == then { Ok(()) } else { Err(self.changed()) }
    }
}

fn check_regular(metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Io, format!("is {}, not a regular file", describe(kind))))
}

/// What tells two states of a file apart.
fn stamp(metadata: &Metadata) -> [i64; 7] {
    [
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.len().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

fn same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn describe(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "something else"
    }
}

/// A complete, flushed file that is not in its place yet. Dropped, it vanishes.
#[derive(Debug)]
pub struct Pending {
    file: NamedTempFile,
    /// Where it goes.
    destination: PathBuf,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Prepares `bytes` to replace `source` itself.
///
/// # Errors
/// `Unsafe` where other hard links to it would keep the old content; those of writing.
pub fn prepare_in_place(source: &Source, bytes: &[u8]) -> Result<Pending> {
    let links = source.metadata.nlink();
    if links > 1 {
        let message = format!("has {links} hard links; the other names would keep the old content");
        return Err(Error::new(ErrorKind::Unsafe, message)
            .remedy("write to another file with -o, or give the file a single name first"));
    }
    prepare(source, source.real_path.clone(), bytes)
}

/// Prepares `bytes` to become the file `destination`, with the attributes of `source`.
///
/// # Errors
/// `Usage` where `destination` is `source` itself or is no regular file; `Unsafe` where it has other
/// hard links; those of writing.
pub fn prepare_copy(source: &Source, destination: &Path, bytes: &[u8]) -> Result<Pending> {
    match std::fs::metadata(destination) {
        Ok(existing) if same_file(&existing, &source.metadata) => {
            let message = format!("{} is the file itself", destination.display());
            return Err(Error::new(ErrorKind::Usage, message).remedy("use --in-place to replace it"));
        }
        Ok(existing) if !existing.is_file() => {
            let message = format!(
                "{} is {}, not a regular file",
                destination.display(),
                describe(existing.file_type())
            );
            return Err(Error::new(ErrorKind::Usage, message).remedy("name a file"));
        }
        Ok(existing) if existing.nlink() > 1 => {
            let message = format!("{} has {} hard links", destination.display(), existing.nlink());
            return Err(
                Error::new(ErrorKind::Unsafe, message).remedy("the other names would keep the old content")
            );
        }
        Err(_) if destination.is_symlink() => {
            let message = format!("{} is a symbolic link that leads to no file", destination.display());
            return Err(
                Error::new(ErrorKind::Usage, message).remedy("name the file itself, or remove the link")
            );
        }
        _ => {}
    }
    prepare(source, real_path(destination), bytes)
}

/// `path` without symbolic links; as it is where there is no file yet.
#[must_use]
pub fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn prepare(source: &Source, destination: PathBuf, bytes: &[u8]) -> Result<Pending> {
    let mut file = temporary_beside(&destination)?;
    let cannot = |error: io::Error| cannot_write(&destination, error);
    file.as_file_mut().write_all(bytes).map_err(cannot)?;
    let mut warnings = Vec::new();
    copy_attributes(source, file.as_file(), &mut warnings).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    Ok(Pending { file, destination, warnings })
}

fn temporary_beside(destination: &Path) -> Result<NamedTempFile> {
    // tempfile wraps errors to add the temporary name: that would only confuse, and hides the number.
    let mut number = None;
    let create = |path: &Path| {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        file.inspect_err(|error| number = error.raw_os_error())
    };
    let file = tempfile::Builder::new().prefix(".vsyspatch-").make_in(directory_of(destination), create);
    file.map_err(|error| cannot_write(destination, number.map_or(error, io::Error::from_raw_os_error)))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn cannot_write(destination: &Path, error: io::Error) -> Error {
    let remedy = match Errno::from_io_error(&error) {
        Some(Errno::ROFS) => "the file system is read-only; write elsewhere with -o",
        Some(Errno::NOSPC | Errno::DQUOT) => "make room, or write elsewhere with -o",
        Some(Errno::ACCESS | Errno::PERM) => "no permission there; write elsewhere with -o",
        Some(Errno::NOENT) => "the directory must exist",
        _ => "nothing was changed",
    };
    Error::io(format!("cannot write {}", destination.display()), error).remedy(remedy)
}

/// Owner first: a change of owner clears set-user-ID and file capabilities. Then extended attributes,
/// while the owner may write to the file; then the mode, which may take that right away.
fn copy_attributes(source: &Source, file: &File, warnings: &mut Vec<String>) -> io::Result<()> {
    let wanted = &source.metadata;
    let now = file.metadata()?;
    let mut mode = wanted.mode() & 0o7777;
    if (now.uid(), now.gid()) != (wanted.uid(), wanted.gid()) {
        let owner = (Some(wanted.uid()), Some(wanted.gid()));
        if std::os::unix::fs::fchown(file, owner.0, owner.1).is_err() {
            let special =
                if mode & 0o6000 == 0 { "" } else { ", so it is not set-user-ID or set-group-ID any more" };
            warnings.push(format!("cannot keep the owner {}:{}{special}", wanted.uid(), wanted.gid()));
            mode &= 0o1777;
        }
    }
    drop_inherited_acl(&source.file, file)?;
    copy_xattrs(&source.file, file, warnings)?;
    file.set_permissions(Permissions::from_mode(mode))
}

/// A directory can have a default ACL, which a new file in it gets: it would let others at the copy who
/// had no right to the original.
fn drop_inherited_acl(from: &File, to: &File) -> io::Result<()> {
    const ACL: &[u8] = b"system.posix_acl_access";
    let has_acl = |file| Ok::<_, io::Error>(xattr_names(file)?.iter().any(|name| name == ACL));
    if has_acl(to)? && !has_acl(from)? {
        rustix::fs::fremovexattr(to, ACL)?;
    }
    Ok(())
}

fn copy_xattrs(from: &File, to: &File, warnings: &mut Vec<String>) -> io::Result<()> {
    for name in xattr_names(from)? {
        let shown = String::from_utf8_lossy(&name).into_owned();
        if CONTENT_BOUND.contains(&name.as_slice()) {
            warnings.push(format!("{shown} dropped: it no longer matches the content"));
            continue;
        }
        let Some(value) = xattr(from, &name)? else { continue };
        if let Err(errno) = rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
            // The security module labels new files itself; a label that it gave already is no loss.
            if xattr(to, &name)?.as_deref() != Some(&value) {
                warnings.push(format!("cannot keep {shown}: {}", io::Error::from(errno)));
            }
        }
    }
    Ok(())
}

fn xattr_names(file: &File) -> io::Result<Vec<Vec<u8>>> {
    let list = sized(|buffer| rustix::fs::flistxattr(file, buffer))?.unwrap_or_default();
    Ok(list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

fn xattr(file: &File, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    sized(|buffer| rustix::fs::fgetxattr(file, name, buffer))
}

/// What `get` fills a buffer of the right size with; nothing where there is no such attribute.
fn sized(get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; limits::XATTR_BYTES];
    match get(&mut buffer) {
        Ok(size) => {
            buffer.truncate(size);
            Ok(Some(buffer))
        }
        Err(Errno::NOTSUP | Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl Pending {
    /// Where the file will be.
    #[must_use]
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Puts the file in its place, if `source` is still what was read.
    ///
    /// # Errors
    /// `Unsafe` where `source` changed, `Io` where renaming fails; the old file is there as it was.
    pub fn commit(self, source: &Source) -> Result<()> {
        source.check_unchanged()?;
        self.put()
    }

    fn put(self) -> Result<()> {
        let Self { file, destination, .. } = self;
        file.persist(&destination).map_err(|error| cannot_write(&destination, error.error))?;
        sync_directory(&destination);
        Ok(())
    }
}

/// A rename is durable once its directory is flushed. Some file systems cannot: then the kernel's own
/// write-back does it later, and either name is whole.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(directory_of(path)) {
        let _ = directory.sync_all();
    }
}

/// Writes a record beside what it is about, readable by whoever may read `source`.
///
/// # Errors
/// Those of writing.
pub fn write_record(path: &Path, json: &[u8], source: &Source) -> Result<()> {
    let mut file = temporary_beside(path)?;
    let cannot = |error: io::Error| cannot_write(path, error);
    file.as_file_mut().write_all(json).map_err(cannot)?;
    let mode = (source.metadata.mode() & 0o444) | 0o600;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    Pending { file, destination: path.to_owned(), warnings: Vec::new() }.put()
}

/// The record at `path`; nothing where there is none.
///
/// # Errors
/// `Io` where it cannot be read, `Record` where it is larger than any record.
pub fn read_record(path: &Path) -> Result<Option<Vec<u8>>> {
    if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let source = Source::open(path).map_err(|error| in_record(path, &error))?;
    if source.size() > limits::RECORD_BYTES {
        let message =
            format!("{} is larger than any record ({} bytes)", path.display(), limits::RECORD_BYTES);
        return Err(Error::new(ErrorKind::Record, message));
    }
    source.read().map(Some).map_err(|error| in_record(path, &error))
}

fn in_record(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("record {}: {error}", path.display()))
}

/// Removes the record at `path`; it is for a patch that was undone, or that did not happen.
///
/// # Errors
/// `Io` where it cannot be removed.
pub fn remove_record(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|error| cannot_write(path, error))?;
    sync_directory(path);
    Ok(())
}

/// Where the record of the file at `path` is, unless the user says otherwise: beside the file itself,
/// whatever symbolic link it is named by.
#[must_use]
pub fn record_path(path: &Path) -> PathBuf {
    let file = if path.is_symlink() { real_path(path) } else { path.to_owned() };
    let mut name = file.into_os_string();
    name.push(".vsyspatch.json");
    PathBuf::from(name)
}

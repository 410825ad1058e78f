//! Owner, mode and extended attributes: copied to what replaces a file, and summed for the record.

use std::fs::File;
use std::io;

use rustix::fs::{Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::place::unless_failed;
use super::source::Source;
use crate::digest::Sha256;
use crate::limits;

/// Extended attributes that hold a checksum or signature of the content: they must not be copied on.
const CONTENT_BOUND: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// Gives `file` what `source` has.
pub(super) fn copy(source: &Source, file: &File, warnings: &mut Vec<String>) -> io::Result<()> {
    copy_without(&CONTENT_BOUND, source.file(), source.stat(), file, warnings)
}

/// Gives `file`, whose content is the same, what `source` has, which is `wanted`.
pub(super) fn copy_between(
    source: &File,
    wanted: &Stat,
    file: &File,
    warnings: &mut Vec<String>,
) -> io::Result<()> {
    copy_without(&[], source, wanted, file, warnings)
}

/// Owner first: a change of owner clears set-user-ID and file capabilities. Then extended attributes,
/// while the owner may write to the file; then the mode, which may take that right away.
fn copy_without(
    dropped: &[&[u8]],
    source: &File,
    wanted: &Stat,
    file: &File,
    warnings: &mut Vec<String>,
) -> io::Result<()> {
    let now = rustix::fs::fstat(file)?;
    let mut mode = wanted.st_mode & 0o7777;
    if (now.st_uid, now.st_gid) != (wanted.st_uid, wanted.st_gid) {
        let owner = (Uid::from_raw(wanted.st_uid), Gid::from_raw(wanted.st_gid));
        let changed = rustix::fs::fchown(file, Some(owner.0), Some(owner.1));
        unless_failed(changed)?;
        if changed.is_err() {
            let special =
                if mode & 0o6000 == 0 { "" } else { ", so it is not set-user-ID or set-group-ID any more" };
            warnings.push(format!("cannot keep the owner {}:{}{special}", wanted.st_uid, wanted.st_gid));
            mode &= 0o1777;
        }
    }
    drop_inherited_acl(source, file)?;
    copy_xattrs(dropped, source, file, warnings)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    Ok(())
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

fn copy_xattrs(dropped: &[&[u8]], from: &File, to: &File, warnings: &mut Vec<String>) -> io::Result<()> {
    for name in xattr_names(from)? {
        let shown = String::from_utf8_lossy(&name).into_owned();
        if dropped.contains(&name.as_slice()) {
            warnings.push(format!("{shown} dropped: it no longer matches the content"));
            continue;
        }
        let Some(value) = xattr(from, &name)? else { continue };
        let set = rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty());
        unless_failed(set)?;
        if let Err(errno) = set {
            // The security module labels new files itself; a label that it gave already is no loss.
            if xattr(to, &name)?.as_deref() != Some(&value) {
                warnings.push(format!("cannot keep {shown}: {}", io::Error::from(errno)));
            }
        }
    }
    Ok(())
}

/// Checksum over names and values of all extended attributes that a copy keeps; nothing where there are
/// none. ACLs and capabilities are among them.
///
/// # Errors
/// Those of reading them.
pub(crate) fn xattrs_sha256(file: &File) -> io::Result<Option<Sha256>> {
    let mut names = xattr_names(file)?;
    names.retain(|name| !CONTENT_BOUND.contains(&name.as_slice()));
    names.sort_unstable();
    let mut all = Vec::new();
    for name in names {
        let value = xattr(file, &name)?.unwrap_or_default();
        for bytes in [name, value] {
            all.extend((bytes.len() as u64).to_le_bytes());
            all.extend(bytes);
        }
    }
    Ok((!all.is_empty()).then(|| Sha256::of(&all)))
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

//! Entries of a tar archive as they stream by, with their header blocks as they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};

use tar_core::builder::EntryBuilder;
use tar_core::parse::{Limits, ParseEvent, Parser};
use tar_core::{EntryType, PaxExtensions};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Bytes of a block.
pub const BLOCK: u64 = 512;

/// Largest content that an entry can have: offsets of files end there.
const LARGEST: u64 = i64::MAX as u64 - BLOCK;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A further name of a file of the same archive.
    HardLink,
    /// A symbolic link.
    SymbolicLink,
    /// A device, a FIFO, or what nobody knows.
    Other,
}

/// An entry without its content.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path, without `.`, `..`, leading or trailing slashes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Where a link leads to: the path of a hard link, and of a symbolic link what it says.
    pub target: Vec<u8>,
    /// Bytes of its content in the archive.
    pub size: u64,
    /// Its header blocks, extensions included.
    pub headers: Vec<u8>,
    /// Where the pieces of a sparse file belong, and its size; the content holds only these.
    pub sparse: Option<(Vec<(u64, u64)>, u64)>,
    /// Owner, mode, times and extended attributes.
    pub attributes: Attributes,
}

/// What a header says of a file besides its name.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Attributes {
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    names: [Option<Vec<u8>>; 2],
    /// Extended attributes, exact times and what else PAX records say.
    records: Vec<(String, Vec<u8>)>,
}

/// PAX records that are extended attributes, as engines read them.
const XATTR: &str = "SCHILY.xattr.";

/// PAX records that are of one entry and not of its file, or that are made of the header's fields.
const OF_THE_ENTRY: [&str; 8] = ["path", "linkpath", "size", "uid", "gid", "uname", "gname", "hdrcharset"];

/// The records in the PAX header `pax` that are of the file.
fn records_of(pax: &[u8]) -> Vec<(String, Vec<u8>)> {
    let all = PaxExtensions::new(pax).filter_map(std::result::Result::ok);
    all.map(|record| {
        (String::from_utf8_lossy(record.key_bytes()).into_owned(), record.value_bytes().to_vec())
    })
    .filter(|(key, _)| !OF_THE_ENTRY.contains(&key.as_str()) && !key.starts_with("GNU.sparse."))
    .collect()
}

impl Attributes {
    /// The permissions.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode & 0o7777
    }

    /// When the content was changed, in seconds since 1970.
    #[must_use]
    pub fn mtime(&self) -> u64 {
        self.mtime
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(&self) -> (u64, u64) {
        (self.uid, self.gid)
    }

    /// The extended attributes, by name.
    #[must_use]
    pub fn xattrs(&self) -> BTreeMap<&str, &[u8]> {
        let all = self.records.iter();
        all.filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?, value.as_slice()))).collect()
    }

    /// Those that the first entry of `headers` tells.
    ///
    /// # Errors
    /// `Malformed` for what is no header.
    pub fn of_headers(headers: &[u8]) -> Result<Self> {
        let entry = Archive::new(headers).next_entry()?;
        Ok(entry.map(|entry| entry.attributes).unwrap_or_default())
    }
}

/// The entries of an archive.
pub struct Archive<R> {
    reader: R,
    /// Passes over bytes, and says over how many.
    pass: fn(&mut R, u64) -> io::Result<u64>,
    parser: Parser,
    buffer: Vec<u8>,
    /// Bytes of the last entry's content that were not read yet, and its padding.
    left: u64,
    padding: u64,
    /// Path of the last entry.
    path: Vec<u8>,
    /// Bytes read.
    at: u64,
}

fn malformed(at: u64, what: impl std::fmt::Display) -> Error {
    Error::malformed(at, format!("not a sound tar archive: {what}")).remedy("it is damaged: get it again")
}

impl<R: Read> Archive<R> {
    /// The archive that `reader` gives.
    pub fn new(reader: R) -> Self {
        let mut parser =
            Parser::new(Limits { max_metadata_size: limits::TAR_HEADER_BYTES, ..Limits::default() });
        // Real layers: a negative mtime, and a root without a name (umoci).
        parser.set_ignore_pax_errors(true);
        parser.set_allow_empty_path(true);
        let pass = |reader: &mut R, bytes| io::copy(&mut reader.take(bytes), &mut io::sink());
        Self { reader, pass, parser, buffer: Vec::new(), left: 0, padding: 0, path: Vec::new(), at: 0 }
    }

    /// Where the content of the last entry begins, in bytes from the begin of the archive.
    #[must_use]
    pub fn content_begins_at(&self) -> u64 {
        self.at
    }

    /// The next entry; the rest of the last one's content is passed over.
    ///
    /// # Errors
    /// `Malformed` for what is no tar archive, `Io` where reading fails.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip(self.left)?;
        let passed = (self.pass)(&mut self.reader, self.padding);
        let passed = passed.map_err(|error| Error::io("cannot read", error))?;
        self.at += passed;
        if passed < self.padding {
            return Ok(None); // umoci ends layers with the last byte of the last file, and engines take them
        }
        (self.left, self.padding) = (0, 0);
        self.buffer.clear();
        loop {
            let (consumed, entry, sparse) = match self.parser.parse(&self.buffer) {
                Ok(ParseEvent::NeedData { min_bytes }) => {
                    let wanted = min_bytes.max(self.buffer.len() + 1).next_multiple_of(BLOCK as usize);
                    if !self.fill(wanted)? {
                        if self.buffer.is_empty() {
                            return Ok(None); // many archives have no end
                        }
                        return Err(malformed(self.at, "it ends inside a header"));
                    }
                    continue;
                }
                Ok(ParseEvent::GlobalExtensions { consumed, .. }) => {
                    self.buffer.drain(..consumed);
                    continue;
                }
                Ok(ParseEvent::End { .. }) => return Ok(None),
                Ok(ParseEvent::Entry { consumed, entry }) => (consumed, entry, None),
                Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size, .. }) => {
                    let map = sparse_map.iter().map(|piece| (piece.offset, piece.length)).collect();
                    (consumed, entry, Some((map, real_size)))
                }
                Err(error) => return Err(malformed(self.at, error)),
            };
            let kind = match entry.entry_type {
                EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => Kind::File,
                EntryType::Directory => Kind::Directory,
                EntryType::Link => Kind::HardLink,
                EntryType::Symlink => Kind::SymbolicLink,
                _ => Kind::Other,
            };
            // As engines read it: a size in the header of a device, a FIFO or a link means nothing.
            let has_content = match entry.entry_type {
                EntryType::Char | EntryType::Block | EntryType::Fifo => false,
                _ => matches!(kind, Kind::File | Kind::Other),
            };
            if has_content && entry.size > LARGEST {
                return Err(malformed(self.at, format!("an entry of {} bytes", entry.size)));
            }
            let owned = |name: &Option<std::borrow::Cow<'_, [u8]>>| name.as_ref().map(|name| name.to_vec());
            let inside = |path: &[u8]| plain(path).ok_or_else(|| leads_out(self.at, path));
            let target = entry.link_target.as_deref().unwrap_or_default();
            let found = Entry {
                path: inside(&entry.path)?,
                kind,
                target: if kind == Kind::HardLink { inside(target)? } else { target.to_vec() },
                size: if has_content { entry.size } else { 0 },
                headers: self.buffer[..consumed].to_vec(),
                sparse,
                attributes: Attributes {
                    mode: entry.mode,
                    uid: entry.uid,
                    gid: entry.gid,
                    mtime: entry.mtime,
                    names: [owned(&entry.uname), owned(&entry.gname)],
                    records: entry.pax.map_or_else(Vec::new, records_of),
                },
            };
            self.path.clone_from(&found.path);
            self.left = found.size;
            self.padding = found.size.next_multiple_of(BLOCK) - found.size;
            if self.buffer.len() > consumed {
                return Err(malformed(self.at, "the headers of an entry are of an unknown form"));
            }
            return Ok(Some(found));
        }
    }

    /// Fills `block` with the next bytes of the last entry's content; how many there were.
    ///
    /// # Errors
    /// `Io` where reading fails, `Malformed` where the archive ends before.
    pub fn read_content(&mut self, block: &mut [u8]) -> Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(block.len());
        self.read_exactly(&mut block[..wanted])?;
        self.left -= wanted as u64;
        Ok(wanted)
    }

    /// Adds the rest of the last entry's content to `bytes`, which grow with what is there and not with what the
    /// header says.
    ///
    /// # Errors
    /// Those of [`Archive::read_content`].
    pub fn read_rest(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let read = (&mut self.reader).take(self.left).read_to_end(bytes);
        let read = read.map_err(|error| Error::io("cannot read", error))? as u64;
        self.at += read;
        self.left -= read;
        if self.left > 0 { Err(self.ends_early()) } else { Ok(()) }
    }

    /// Whatever follows the end of the archive is read, so that checksums hold all of it.
    ///
    /// # Errors
    /// `Io` where reading fails.
    pub fn finish(mut self) -> Result<R> {
        io::copy(&mut self.reader, &mut io::sink()).map_err(|error| Error::io("cannot read", error))?;
        Ok(self.reader)
    }

    /// Reads until the buffer has `wanted` bytes; whether there were any more.
    fn fill(&mut self, wanted: usize) -> Result<bool> {
        let begin = self.buffer.len();
        let more = (wanted - begin) as u64;
        let read = (&mut self.reader).take(more).read_to_end(&mut self.buffer);
        let read = read.map_err(|error| Error::io("cannot read", error))?;
        self.at += read as u64;
        if read > 0 && (read as u64) < more {
            return Err(malformed(self.at, "it ends inside a header"));
        }
        Ok(read > 0)
    }

    fn ends_early(&self) -> Error {
        malformed(self.at, format!("it ends inside the file {}", String::from_utf8_lossy(&self.path)))
    }

    fn read_exactly(&mut self, block: &mut [u8]) -> Result<()> {
        self.reader.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.ends_early(),
            _ => Error::io("cannot read", error),
        })?;
        self.at += block.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = (self.pass)(&mut self.reader, bytes);
        let skipped = skipped.map_err(|error| Error::io("cannot read", error))?;
        self.at += skipped;
        if skipped < bytes { Err(self.ends_early()) } else { Ok(()) }
    }
}

impl Archive<File> {
    /// The archive in `file`, whose contents are passed over without reading them.
    #[must_use]
    pub fn of_file(file: File) -> Self {
        let pass = |file: &mut File, bytes: u64| {
            file.seek_relative(bytes.cast_signed())?;
            Ok(bytes)
        };
        Self { pass, ..Self::new(file) }
    }
}

fn leads_out(at: u64, path: &[u8]) -> Error {
    let message = format!("the entry {} leads out of the archive", String::from_utf8_lossy(path));
    Error::malformed(at, message).remedy("no engine takes it: do not trust who made it")
}

/// `path` as all archives mean it: from the root, without empty parts, `.` and `..`. Nothing where it leads out.
fn plain(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// An archive that grows, in pieces: headers, and the contents, which lie elsewhere.
#[derive(Debug, Default)]
pub struct Writer<'a>(Vec<Cow<'a, [u8]>>);

impl<'a> Writer<'a> {
    /// Adds header blocks as they are.
    pub fn headers(&mut self, headers: Vec<u8>) {
        self.0.push(Cow::Owned(headers));
    }

    /// Adds header blocks as they are, with the content that they announce.
    pub fn raw(&mut self, headers: Vec<u8>, content: &'a [u8]) {
        self.headers(headers);
        self.0.push(Cow::Borrowed(content));
        let size = content.len() as u64;
        self.headers(vec![0; (size.next_multiple_of(BLOCK) - size) as usize]);
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// `Usage` for what no header can hold.
    pub fn file(&mut self, path: &[u8], attributes: &Attributes, content: &'a [u8]) -> Result<()> {
        self.raw(file_headers(path, attributes, content.len() as u64)?, content);
        Ok(())
    }

    /// Adds a directory that is of `mtime`, in seconds since 1970.
    ///
    /// # Errors
    /// Those of [`Writer::file`].
    pub fn directory(&mut self, path: &[u8], mtime: u64) -> Result<()> {
        let path = [path, b"/"].concat();
        self.headers(headers(&path, EntryType::Directory, &[], &directory_attributes(mtime), 0)?);
        Ok(())
    }

    /// Adds a further name of a file that is in the archive.
    ///
    /// # Errors
    /// Those of [`Writer::file`].
    pub fn hard_link(&mut self, path: &[u8], target: &[u8], attributes: &Attributes) -> Result<()> {
        self.headers(headers(path, EntryType::Link, target, attributes, 0)?);
        Ok(())
    }

    /// Adds the end.
    pub fn end(&mut self) {
        self.headers(vec![0; 2 * BLOCK as usize]);
    }

    /// The pieces of the archive, in their order: contents are borrowed ones, all else is not.
    #[must_use]
    pub fn pieces(&self) -> &[Cow<'a, [u8]>] {
        &self.0
    }
}

/// Attributes of a directory that nobody tells of, as tool and engines make it, and that is of `mtime`, in seconds
/// since 1970.
#[must_use]
pub fn directory_attributes(mtime: u64) -> Attributes {
    Attributes { mode: 0o755, mtime, ..Attributes::default() }
}

/// Attributes of a file that the tool itself makes, and that is of `mtime`, in seconds since 1970.
#[must_use]
pub fn own_attributes(mtime: u64) -> Attributes {
    Attributes { mode: 0o644, mtime, ..Attributes::default() }
}

/// The header blocks of a regular file of `size` bytes.
///
/// # Errors
/// `Usage` for what no header can hold.
pub fn file_headers(path: &[u8], attributes: &Attributes, size: u64) -> Result<Vec<u8>> {
    headers(path, EntryType::Regular, &[], attributes, size)
}

fn headers(
    path: &[u8],
    kind: EntryType,
    target: &[u8],
    attributes: &Attributes,
    size: u64,
) -> Result<Vec<u8>> {
    let build = || {
        let mut builder = EntryBuilder::new_ustar();
        builder.path(path).entry_type(kind).size(size)?;
        builder.mode(attributes.mode & 0o7777)?.uid(attributes.uid)?.gid(attributes.gid)?;
        // Of files from before 1970 the header's field cannot tell.
        let mtime = attributes.mtime.cast_signed();
        builder.mtime(u64::try_from(mtime).unwrap_or(0))?;
        if mtime < 0 && !attributes.records.iter().any(|(key, _)| key == "mtime") {
            builder.add_pax("mtime", mtime.to_string());
        }
        if !target.is_empty() {
            builder.link_name(target);
        }
        if let Some(name) = &attributes.names[0] {
            builder.username(name)?;
        }
        if let Some(name) = &attributes.names[1] {
            builder.groupname(name)?;
        }
        for (key, value) in &attributes.records {
            builder.add_pax(key, value);
        }
        Ok::<_, tar_core::HeaderError>(builder.finish_bytes())
    };
    build().map_err(|error| {
        let path = String::from_utf8_lossy(path);
        Error::new(ErrorKind::Usage, format!("{path}: no tar header can hold its attributes: {error}"))
    })
}

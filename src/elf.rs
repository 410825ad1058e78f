//! bytes -> [`Image`]: what kind of file, its segments, address <-> offset, functions.
//! The only user of `object`.

use crate::error::Result;

/// What the first bytes turned out to be.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// An x86-64 ELF64 little-endian program or shared object.
    Image(Image<'a>),
    /// An ELF file that vsyscall calls cannot be in, or that is not handled: what it is, in words.
    Foreign(String),
}

/// `ET_EXEC` or `ET_DYN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// Fixed addresses.
    Exec,
    /// Shared object or position-independent executable.
    Dyn,
}

/// The identity of a file, as reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Program with fixed addresses or not.
    pub file_type: FileType,
    /// No program interpreter and no needed libraries.
    pub is_static: bool,
    /// No symbol table (`.symtab`).
    pub stripped: bool,
    /// The program interpreter (`PT_INTERP`).
    pub interp: Option<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// The GNU build-id, in hex.
    pub build_id: Option<String>,
}

/// One ELF file that can be scanned.
#[derive(Debug)]
pub struct Image<'a> {
    /// The file.
    pub bytes: &'a [u8],
    /// What it says of itself.
    pub identity: Identity,
}

/// Reads the headers of `bytes`.
///
/// # Errors
/// `NotElf` where the magic is missing, `Malformed` with the offset of the header field that lies.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>> {
    let _ = bytes;
    Ok(Parsed::Foreign("not implemented".into()))
}

//! Compressed data, by its first bytes.

/// gzip.
pub const GZIP: &[u8] = &[0x1f, 0x8b];
/// A frame of zstd that holds data.
pub const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What else files are compressed with, and is not read here.
const XZ: &[u8] = b"\xfd7zXZ\0";
const BZIP2: &[u8] = b"BZh";

/// Bytes that [`program`] needs.
pub const HEAD: usize = 6;

/// The program that unpacks data that begins with `head`.
#[must_use]
pub fn program(head: &[u8]) -> Option<&'static str> {
    let all = [(GZIP, "gzip"), (ZSTD, "zstd"), (XZ, "xz"), (BZIP2, "bzip2")];
    all.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, program)| program)
}

/// What helps whoever names a file that is compressed as a whole.
#[must_use]
pub fn remedy(program: &str) -> String {
    format!("unpack it first: {program} --decompress --keep FILE")
}

//! Lines in order that memory does not hold: sorted in parts, which wait in temporary files and are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek as _, Write as _};
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// Bytes of lines that are held; a million items have some hundred megabytes, so that some dozen parts are merged.
pub const HELD_BYTES: usize = 32 << 20;

/// What a line takes besides its bytes.
const LINE_OVERHEAD: usize = 64;

/// Longest key or line that is read back: nobody writes longer ones than were held.
const LONGEST: usize = 2 * HELD_BYTES;

/// What lines are sorted by, and a line.
pub type Keyed = (Vec<u8>, Vec<u8>);

/// Takes lines in any order.
#[derive(Debug)]
pub struct Sorter {
    /// Where the temporary files are.
    directory: PathBuf,
    held: Vec<Keyed>,
    held_bytes: usize,
    parts: Vec<File>,
}

impl Sorter {
    /// One whose temporary files, which have no names, are in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, held: Vec::new(), held_bytes: 0, parts: Vec::new() }
    }

    /// Takes a line.
    ///
    /// # Errors
    /// Those of writing temporary files.
    pub fn push(&mut self, key: Vec<u8>, line: Vec<u8>) -> Result<()> {
        self.held_bytes += key.len() + line.len() + LINE_OVERHEAD;
        self.held.push((key, line));
        if self.held_bytes < HELD_BYTES {
            return Ok(());
        }
        let part = self.write_part().map_err(|error| Error::io("cannot write a temporary file", error))?;
        self.parts.push(part);
        self.held_bytes = 0;
        Ok(())
    }

    fn write_part(&mut self) -> std::io::Result<File> {
        self.held.sort_unstable();
        let mut out = BufWriter::new(tempfile::tempfile_in(&self.directory)?);
        for (key, line) in self.held.drain(..) {
            for bytes in [key, line] {
                out.write_all(&(bytes.len() as u64).to_le_bytes())?;
                out.write_all(&bytes)?;
            }
        }
        let mut file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }

    /// All lines, the least key first.
    ///
    /// # Errors
    /// Those of reading temporary files.
    pub fn finish(mut self) -> Result<Sorted> {
        self.held.sort_unstable();
        let mut sorted = Sorted {
            parts: self.parts.into_iter().map(|part| Part::File(BufReader::new(part))).collect(),
            next: BinaryHeap::new(),
        };
        sorted.parts.push(Part::Held(self.held.into_iter()));
        for number in 0..sorted.parts.len() {
            sorted.advance(number)?;
        }
        Ok(sorted)
    }
}

/// Lines in order.
#[derive(Debug)]
pub struct Sorted {
    parts: Vec<Part>,
    /// The first line of each part that has one, with the number of the part.
    next: BinaryHeap<Reverse<(Keyed, usize)>>,
}

#[derive(Debug)]
enum Part {
    File(BufReader<File>),
    Held(std::vec::IntoIter<Keyed>),
}

impl Part {
    fn next(&mut self) -> Result<Option<Keyed>> {
        match self {
            Self::Held(held) => Ok(held.next()),
            Self::File(file) => {
                let Some(key) = read_bytes(file)? else { return Ok(None) };
                let cut = || Error::new(ErrorKind::Io, "a temporary file is cut short");
                Ok(Some((key, read_bytes(file)?.ok_or_else(cut)?)))
            }
        }
    }
}

/// What was written of a number of bytes and these bytes; nothing at the end.
fn read_bytes(file: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let cannot = |error| Error::io("cannot read a temporary file", error);
    let mut length = [0; 8];
    match file.read_exact(&mut length) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(cannot)?,
    }
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(Error::new(ErrorKind::Io, "a temporary file was changed by somebody else"));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).map_err(cannot)?;
    Ok(Some(bytes))
}

impl Sorted {
    fn advance(&mut self, number: usize) -> Result<()> {
        if let Some(keyed) = self.parts[number].next()? {
            self.next.push(Reverse((keyed, number)));
        }
        Ok(())
    }
}

impl Iterator for Sorted {
    type Item = Result<Keyed>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((keyed, number)) = self.next.pop()?;
        Some(self.advance(number).map(|()| keyed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_files_comes_in_order_with_what_is_held() {
        const LINE: usize = 60 << 10;
        const FACTOR: usize = 11;
        let mut sorter = Sorter::new(std::env::temp_dir());
        let count = 3 * HELD_BYTES / LINE;
        for number in 0..count {
            // The factor is prime, and none of the count's: every number once, in disorder.
            let key = (number * FACTOR % count) as u64;
            sorter.push(key.to_be_bytes().to_vec(), vec![key as u8; LINE]).unwrap();
        }
        assert!(sorter.parts.len() >= 2, "{} parts", sorter.parts.len());
        assert_ne!(count % FACTOR, 0);
        let mut expected = 0_u64;
        for keyed in sorter.finish().unwrap() {
            let (key, line) = keyed.unwrap();
            assert_eq!(key, expected.to_be_bytes());
            assert!(line == vec![expected as u8; LINE]);
            expected += 1;
        }
        assert_eq!(expected, count as u64);
    }
}

//! What was found -> a work list: one item for each content, in an order in which layers are shared.
//!
//! Everything is sorted twice, and memory holds none of it ([`super::sort`]): by digest, so that the names of one content
//! come together; then by layers, base first, so that images on one base do. What shares its first layers with the
//! item before costs the others alone.

use std::io::{BufWriter, Read as _, Seek as _, Write};
use std::path::Path;

use serde::Serialize;

use super::gather::{Found, directory_of};
use super::sort::Sorter;
use super::{Head, Item, Kind, WORK_SCHEMA};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::store::NewFile;

/// What an item costs besides its bytes, in bytes: asking, planning and writing take about as long as a megabyte of
/// layers does.
pub const ITEM_COST: u64 = 1 << 20;

/// Digits of a digest that are sorted by: images with other layers do not meet by chance.
const SORTED_DIGITS: usize = 16;

/// What a plan holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Items of the list.
    pub items: u64,
    /// Their names.
    pub names: u64,
    /// Items that are images, trees, files.
    pub images: u64,
    /// Items that are trees.
    pub trees: u64,
    /// Items that are files.
    pub files: u64,
    /// Items that could not be looked up.
    pub unresolved: u64,
    /// Signatures, charts and the like, which are no images and are left out.
    pub artifacts: u64,
    /// Repositories that are left out because their tags could not be listed.
    pub unlisted: u64,
    /// Symbolic links in directories, which are left out.
    pub links: u64,
    /// Images of archives of several that are left out, for they have no name.
    pub unnamed: u64,
    /// Sources that ended with an error: what was found before it is in the list.
    pub sources_failed: u64,
    /// Bytes of all items.
    pub bytes: u64,
    /// Bytes of them that are in layers which the item before has, too.
    pub shared: u64,
    /// Sum of what the items cost.
    pub cost: u64,
}

/// Makes a work list.
#[derive(Debug)]
pub struct Planner {
    by_digest: Sorter,
    by_destination: Sorter,
    by_layers: Sorter,
}

/// An item whose cost is not known yet, and its layers.
type Uncosted = (Item, Vec<(String, u64)>);

impl Planner {
    /// One whose temporary files are where `output` is to be.
    #[must_use]
    pub fn new(output: Option<&Path>) -> Self {
        let directory = output.map_or_else(std::env::temp_dir, directory_of);
        let [by_digest, by_destination, by_layers] = [(); 3].map(|()| Sorter::new(directory.clone()));
        Self { by_digest, by_destination, by_layers }
    }

    /// Takes what was found.
    ///
    /// # Errors
    /// Those of writing temporary files.
    pub fn add(&mut self, found: &Found) -> Result<()> {
        let identity = match &found.digest {
            Some(digest) => format!("{:?} {digest}", found.kind),
            None => format!("{:?} ? {}", found.kind, found.place.source),
        };
        if let Some(destination) = &found.place.destination {
            let line = format!("{identity}\n{}", found.place.name);
            self.by_destination.push(destination.clone().into_bytes(), line.into_bytes())?;
        }
        self.by_digest.push(identity.into_bytes(), json(found)?)
    }

    /// Writes the list to `output`; without, only tells what it would hold.
    ///
    /// # Errors
    /// `Usage` where two contents would go to one destination; those of writing.
    pub fn finish(mut self, output: Option<&Path>) -> Result<Counts> {
        check_destinations(std::mem::replace(&mut self.by_destination, Sorter::new(std::env::temp_dir())))?;
        let by_digest = std::mem::replace(&mut self.by_digest, Sorter::new(std::env::temp_dir()));
        let mut open: Option<(Vec<u8>, Uncosted)> = None;
        for keyed in by_digest.finish()? {
            let (key, line) = keyed?;
            let found: Found = parsed(&line)?;
            match &mut open {
                Some((of, (item, _))) if *of == key => item.places.push(found.place),
                _ => {
                    let Found { kind, digest, bytes, layers, place } = found;
                    let item = Item { id: String::new(), kind, digest, bytes, cost: 0, places: vec![place] };
                    if let Some((_, done)) = open.replace((key, (item, layers))) {
                        self.add_item(done)?;
                    }
                }
            }
        }
        if let Some((_, done)) = open {
            self.add_item(done)?;
        }
        let directory = output.map_or_else(std::env::temp_dir, directory_of);
        let cannot = |error| Error::io("cannot write a temporary file", error);
        let mut lines = BufWriter::new(tempfile::tempfile_in(directory).map_err(cannot)?);
        let counts = write_items(self.by_layers, &mut lines)?;
        let Some(output) = output else { return Ok(counts) };
        let mut lines = lines.into_inner().map_err(|error| cannot(error.into_error()))?;
        lines.rewind().map_err(cannot)?;
        let Counts { items, names, bytes, cost, .. } = counts;
        let mut head = json(&Head { schema: WORK_SCHEMA.to_owned(), items, names, bytes, cost })?;
        head.push(b'\n');
        let mut file = NewFile::create(output)?;
        std::io::copy(&mut head.chain(lines), &mut file)
            .map_err(|error| Error::io(format!("cannot write {}", output.display()), error))?;
        file.commit()?;
        Ok(counts)
    }

    fn add_item(&mut self, (mut item, layers): Uncosted) -> Result<()> {
        item.places.sort();
        item.places.dedup();
        item.id = id_of(&item)?;
        let layers_key: String = layers
            .iter()
            .map(|(digest, _)| short(digest.strip_prefix("sha256:").unwrap_or(digest)))
            .collect();
        let own = if item.kind == Kind::Image { &layers_key } else { &item.places[0].source };
        let key = format!("{:?} {own} {}", item.kind, item.id);
        self.by_layers.push(key.into_bytes(), json(&(item, layers))?)
    }
}

fn short(digits: &str) -> &str {
    digits.get(..SORTED_DIGITS).unwrap_or(digits)
}

/// Two contents do not go to one place.
fn check_destinations(by_destination: Sorter) -> Result<()> {
    let mut before: Option<(Vec<u8>, Vec<u8>)> = None;
    for keyed in by_destination.finish()? {
        let keyed = keyed?;
        let identity = |line: &[u8]| line.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec);
        if let Some((destination, line)) = &before
            && *destination == keyed.0
            && identity(line) != identity(&keyed.1)
        {
            let name =
                |line: &[u8]| String::from_utf8_lossy(line).lines().last().unwrap_or_default().to_owned();
            let message = format!(
                "{} and {} are not the same, and would both go to {}",
                name(line),
                name(&keyed.1),
                String::from_utf8_lossy(destination)
            );
            return Err(Error::new(ErrorKind::Usage, message)
                .remedy("have {repository} and {tag}, or {path}, in the destination"));
        }
        before = Some(keyed);
    }
    Ok(())
}

/// Writes the items in order, each with its cost.
fn write_items(by_layers: Sorter, lines: &mut impl Write) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut before: Vec<(String, u64)> = Vec::new();
    for keyed in by_layers.finish()? {
        let (mut item, layers): Uncosted = parsed(&keyed?.1)?;
        let common = before.iter().zip(&layers).take_while(|(a, b)| a == b);
        let shared: u64 =
            common.map(|(_, (_, size))| size).fold(0, |sum: u64, size| sum.saturating_add(*size));
        let places = item.places.len() as u64;
        let repeated = if item.kind == Kind::Image { 1 } else { places };
        item.cost = ((item.bytes - shared).saturating_mul(repeated)).saturating_add(ITEM_COST * places);
        counts.add(&item, shared);
        let mut line = json(&item)?;
        line.push(b'\n');
        lines.write_all(&line).map_err(|error| Error::io("cannot write a temporary file", error))?;
        before = layers;
    }
    Ok(counts)
}

impl Counts {
    fn add(&mut self, item: &Item, shared: u64) {
        self.items += 1;
        self.names += item.places.len() as u64;
        match item.kind {
            Kind::Image => self.images += 1,
            Kind::Tree => self.trees += 1,
            Kind::File => self.files += 1,
        }
        self.unresolved += u64::from(item.digest.is_none());
        self.bytes = self.bytes.saturating_add(item.bytes);
        self.shared = self.shared.saturating_add(shared);
        self.cost = self.cost.saturating_add(item.cost);
    }
}

/// What tells items apart: the digest, so that a name more does not make another item; the source of what has none.
fn id_of(item: &Item) -> Result<String> {
    const DIGITS: usize = 32;
    let source = item.places.first().filter(|_| item.digest.is_none()).map(|place| &place.source);
    let sum = Sha256::of(&json(&(item.kind, &item.digest, source))?).to_string();
    Ok(sum[..DIGITS].to_owned())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::io("cannot write a line", error))
}

fn parsed<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|error| Error::io("cannot read a line", error))
}

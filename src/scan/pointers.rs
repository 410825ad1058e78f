//! What in data points to a word that holds an entry's address.

use super::pointer_at;
use crate::addr::{Vaddr, VaddrRange};
use crate::elf::Image;
use crate::functions;
use crate::limits;
use crate::references;
use crate::search;
use crate::vsyscall::Entry;

/// Bytes from the pointer to a name to the pointer that stands with it in a table, at most: Go keeps the name's length
/// and two checksums of it between them.
const NAME_TO_POINTER: u64 = 32;

/// Data that holds the address of a word, or of the table of entries' addresses that it may belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pointers {
    #[default]
    None,
    /// Each stands in a table with the name that the function has in the vDSO: what is found there by the name is to be
    /// stored to the word, which is a variable of its own. It is written by them, and not read. Go exports all its names for
    /// plugins, this word's, too.
    ByVdsoName,
    /// Code unseen may read and write by them, or by the word's name.
    Unknown,
}

impl Pointers {
    /// What points to the word at `at`.
    pub(super) fn to(image: &Image<'_>, at: Vaddr) -> Self {
        let before = (0..=limits::TABLE_WORDS).map(|words| Vaddr(at.0.wrapping_sub(8 * words)));
        let start = before.take_while(|&word| pointer_at(image, word).is_some()).last().unwrap_or(at);
        let table = VaddrRange { start, end: at.plus(1) };
        let mut holders: Vec<(Vaddr, u64)> = Vec::new();
        // A symbol is no pointer; who uses it by name is asked for elsewhere.
        let symbols = functions::dynamic_symbol_table(image);
        let is_symbol = |place: Vaddr| symbols.is_some_and(|symbols| symbols.contains(place));
        let is_searched = search::absolute_references(image, table, |place| {
            if !image.may_be_code(place) && !is_symbol(place) && references::may_be_pointer(image, place) {
                let number = image.array_at(place).map(i32::from_le_bytes);
                holders.extend(number.map(|number| (place, i64::from(number).cast_unsigned())));
            }
        });
        if !is_searched || holders.len() > limits::WORD_POINTERS {
            return Self::Unknown;
        }
        // Found where relocations hold them; they are used where these put them.
        let addends: Vec<Vaddr> = holders.iter().map(|&(place, _)| place).collect();
        for relocation in image.relative_relocations().filter(|_| !addends.is_empty()) {
            if let Some(index) = addends.iter().position(|&addend| addend == relocation.addend_at) {
                holders[index].0 = relocation.at;
            }
        }
        let is_named = |&(holder, to): &(Vaddr, u64)| {
            pointer_at(image, Vaddr(to)).is_some_and(|entry| stands_with_vdso_name(image, holder, entry))
        };
        let is_to_it = |&(_, to): &(Vaddr, u64)| to == at.0;
        if !holders.iter().all(is_named) {
            Self::Unknown
        } else if holders.iter().any(is_to_it) {
            Self::ByVdsoName
        } else {
            Self::None
        }
    }
}

/// Whether a pointer to the name of `entry`'s function in the vDSO stands right before the pointer at `holder`.
fn stands_with_vdso_name(image: &Image<'_>, holder: Vaddr, entry: Entry) -> bool {
    let words: Vec<Vaddr> =
        (1..=NAME_TO_POINTER / 8).map(|words| Vaddr(holder.0.wrapping_sub(8 * words))).collect();
    let in_file = words.iter().filter_map(|&word| image.array_at(word).map(u64::from_le_bytes));
    let relocated = image.relative_relocations().filter(|relocation| words.contains(&relocation.at));
    let mut pointers = in_file.chain(relocated.map(|relocation| relocation.value));
    pointers.any(|pointer| is_vdso_name(image, Vaddr(pointer), entry))
}

/// Whether the name of `entry`'s function in the vDSO stands at `at`; Go's names have no end of their own.
fn is_vdso_name(image: &Image<'_>, at: Vaddr, entry: Entry) -> bool {
    let name = image.bytes_at(at).and_then(|bytes| bytes.strip_prefix(b"__vdso_"));
    name.is_some_and(|name| name.starts_with(entry.name().as_bytes()))
}

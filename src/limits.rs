//! Every bound on work and memory, with its reason. Behind a bound a site is `unproven`, never guessed.

/// Longest stretch of code that is decoded as one function: real functions of megabytes exist
/// (generated parsers), ten times as long is hostile or no function.
pub const FUNCTION_BYTES: u64 = 4 << 20;

/// Values (of registers and stack slots, fifty bytes each) that the states of one function's blocks may hold:
/// those of the largest function seen with a site are a tenth of it.
pub const FLOW_VALUES: usize = 1 << 20;

/// Bytes that may be searched for references to places of one file: the fixed part is a second's work, the
/// other is for large files, for which a handful of searches is common.
#[must_use]
pub fn searched_bytes(file_size: usize) -> u64 {
    (2 << 30) + 64 * file_size as u64
}

/// Rounds of the data-flow analysis per block before it is given up: real functions settle in under
/// twenty, since a value can only lose knowledge.
pub const FLOW_ROUNDS_PER_BLOCK: usize = 400;

/// Sites of one function that the analysis can tell apart (bits of a word).
pub const SITES_PER_FUNCTION: usize = 64;

/// Stack slots of one function that are followed; compilers spill far fewer pointers.
pub const STACK_SLOTS: usize = 64;

/// Entries of a jump table that are read; the largest switch seen in real code has about 4,000.
pub const JUMP_TABLE_ENTRIES: usize = 16 << 10;

/// Landing pads of one function that are read; the most exceptional functions have some hundreds.
pub const LANDING_PADS: usize = 16 << 10;

/// Code parts (a function and its out-of-line pieces) that are analysed as one.
pub const FUNCTION_PARTS: usize = 8;

/// Bytes before a place without function bounds from which decoding starts to see whether decodes
/// converge: real code converges within 64.
pub const CONVERGENCE_WINDOW: u64 = 256;

/// Fewest independent decodes that must meet at an instruction for it to count as a boundary.
pub const CONVERGING_DECODES: usize = 16;

/// Functions whose code is searched for readers of one memory cell.
pub const CELL_READERS: usize = 256;

/// Pointers to one word in data whose tables are looked at.
pub const WORD_POINTERS: usize = 16;

/// Instructions before a guarded call that go to other code with it.
pub const GUARDED_INSTRUCTIONS: usize = 5;

/// Words before a data word that may belong to the same table.
pub const TABLE_WORDS: u64 = 64;

/// Bytes of one element of a table: an index that counts from one is added to an address so far before the table.
pub const TABLE_ELEMENT_BYTES: u64 = 64;

/// Gaps between functions that are tried as room for one stub before the segment's tail is.
pub const STUB_GAPS: usize = 512;

/// Gaps that are tried for all stubs of a file: programs need a handful of stubs, and most gaps do.
pub const STUB_GAPS_PER_FILE: usize = 8 * STUB_GAPS;

/// What begins as Go's table of functions and is tried as one, where no section tells of it: programs have one.
pub const GO_TABLES: usize = 16;

/// Pages of room for stubs that are added to a file at most: real programs take a part of one, generated ones with
/// thousands of calls a few.
pub const ROOM_PAGES: u64 = 16;

/// Instructions of a called function that are read to see which registers it leaves alone.
pub const CALLEE_INSTRUCTIONS: usize = 512;

/// Sites in one file that are analysed; a file with more is no program of any known kind.
pub const SITES_PER_FILE: usize = 1 << 16;

/// Largest file that is read as a program: displacements in x86-64 code reach 2 GiB, and the largest
/// programs known, with debug information, have a few GiB.
pub const FILE_BYTES: u64 = 8 << 30;

/// Largest record that is read: about a thousand bytes for each of [`SITES_PER_FILE`] sites.
pub const RECORD_BYTES: u64 = 64 << 20;

/// Largest record of a tree, read and written: it is held in memory, and a patched file takes some four thousand bytes
/// of it, so that this is half a million of them. A root file system has some dozens.
pub const TREE_RECORD_BYTES: u64 = 2 << 30;

/// Largest extended attribute, and list of their names, that Linux allows (`XATTR_SIZE_MAX`).
pub const XATTR_BYTES: usize = 64 << 10;

/// Plans made for one file, each for what the former leaves: rewriting one site has made at most one more
/// provable in all code seen.
pub const PLAN_ROUNDS: usize = 4;

/// Largest index, manifest or configuration of an image that is read: registries, skopeo and podman refuse more.
pub const DOCUMENT_BYTES: u64 = 4 << 20;

/// Layers of one image that Docker takes: its `maxLayerDepth`. Others take more.
pub const DOCKER_LAYERS: usize = 125;

/// Layers of one image that are read: several times what any engine takes.
pub const IMAGE_LAYERS: usize = 1024;

/// Images for x86-64 in one index: the largest indexes known have some dozens for all platforms together.
pub const INDEX_IMAGES: usize = 256;

/// Signatures and the like of one image that are listed: an image has a handful.
pub const REFERRERS: usize = 256;

/// Largest program of an image that is looked at where it is stored as a sparse file: some hundred bytes of a hostile
/// layer can become as much as they say, and holes of real programs are smaller than their content.
pub const SPARSE_PROGRAM_BYTES: u64 = 256 << 20;

/// Names, links and attributes of one entry of a layer or an archive: a path has 4 KiB, and Linux lets all extended
/// attributes of a file have 64 KiB on most file systems.
pub const TAR_HEADER_BYTES: u32 = 1 << 20;

/// Bytes that a layer may have when `compressed` bytes of it have been read. gzip never makes more than 1032 of one;
/// zstd can make gigabytes of some kilobytes, which only a layer of nothing but zeros does, and such a one may be as
/// large as the first term. No layer known has a hundredth of the last.
#[must_use]
pub fn expanded_bytes(compressed: u64) -> u64 {
    compressed.saturating_mul(1100).saturating_add(1 << 30).min(1 << 40)
}

/// What is remembered of one layer, in bytes: a base system has some ten thousand files of a hundred bytes, directories
/// with their headers, and a handful of programs to patch. More is read again each time.
pub const REMEMBERED_BYTES: u64 = 48 << 20;

/// Bytes of the programs that are kept in full among these, as text: reading more of them back takes as long as looking
/// into the layer anew, and many times the memory.
pub const REMEMBERED_PROGRAMS: u64 = 16 << 20;

/// What a run over many images keeps in memory of the last ones, in bytes: of what their layers have, of programs in them,
/// and of what was compressed for them, so much each.
pub const RECENT_BYTES: u64 = 32 << 20;

/// What is remembered of all layers, in bytes: an entry has some hundred kilobytes, so that this is thousands of layers
/// and as much of a disk as one image.
pub const CACHE_BYTES: u64 = 512 << 20;

/// Programs of an image up to this size are held in memory to be looked into. Larger ones are searched as they stream
/// by, and held only where something looks like a call: then their layer is read twice.
pub const IMAGE_HELD_BYTES: u64 = 8 << 20;

/// What is held of one layer until all of it was read: names and headers of its entries, and in full the programs
/// that there may be something to say of, which are a handful and some megabytes; room for two of the largest. Entries
/// count as what is noted of them, some 160 bytes for most; the tree that is made of them takes up to as much again: a
/// million were seen to take 240 MiB in the lowest layer, and 320 MiB in one above, of which it is kept what they hide.
pub const IMAGE_KEPT_BYTES: u64 = 2 * IMAGE_PROGRAM_BYTES;

/// Largest program of an image that is looked at: it is held in memory, a few kilobytes of a hostile layer can
/// become as much as it says, and the largest programs known, with debug information, are smaller.
pub const IMAGE_PROGRAM_BYTES: u64 = 2 << 30;

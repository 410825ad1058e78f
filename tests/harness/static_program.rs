//! The command as one file that needs nothing of the system it runs in, built as README.md says.

use std::path::PathBuf;
use std::process::Command;

use super::{Ran, elf, read, root};

/// Program header types (`PT_`) and tags of the dynamic section (`DT_`).
const DYNAMIC: u32 = 2;
const INTERP: u32 = 3;
const NEEDED: u64 = 1;

/// Builds it where it is not up to date. It lies beside the other build results.
#[track_caller]
pub fn build() -> PathBuf {
    let mut build = Command::new("tests/install/build");
    build.current_dir(root()).env_remove("CARGO_TARGET_DIR");
    let program = PathBuf::from(Ran::of(&mut build).expect(0).stdout.trim());
    assert_static(&read(&program));
    program
}

/// No dynamic loader, and no library that one would look for.
#[track_caller]
fn assert_static(bytes: &[u8]) {
    for segment in elf::segments(bytes) {
        assert_ne!(segment.kind, INTERP, "the static program asks for a loader");
        let (start, size) = (segment.offset as usize, segment.file_size as usize);
        if segment.kind == DYNAMIC {
            let entries = bytes[start..start + size].as_chunks::<16>().0;
            assert!(entries.iter().all(|entry| elf::u64_at(entry, 0) != NEEDED), "it asks for a library");
        }
    }
}

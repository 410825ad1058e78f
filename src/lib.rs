//! vsyspatch: skeleton, the architecture note comes with the phases.

pub mod addr;
pub mod cli;
pub mod demo;
pub mod deny;
pub mod digest;
pub mod elf;
pub mod error;
pub mod plan;
pub mod report;
pub mod site;
pub mod vsyscall;

use error::Result;

/// elf -> scan -> plan: everything that is decided about one file, nothing written.
///
/// # Errors
/// Those of [`elf::parse`].
pub fn plan_elf(image: &elf::Image<'_>) -> Result<plan::Plan> {
    Ok(plan::Plan {
        original: digest::Sha256::of(image.bytes),
        size: image.bytes.len() as u64,
        sites: vec![],
        edits: vec![],
    })
}

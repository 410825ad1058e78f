//! vsyspatch: skeleton, the architecture note comes with the phases.

pub mod addr;
pub mod cli;
pub mod code;
pub mod demo;
pub mod deny;
pub mod digest;
pub mod elf;
mod encode;
pub mod error;
mod flow;
pub mod functions;
pub mod limits;
pub mod plan;
pub mod report;
mod scan;
pub mod search;
pub mod site;
mod stub;
pub mod vsyscall;

use error::Result;

/// elf -> scan -> plan: everything that is decided about one file, nothing written.
///
/// # Errors
/// Those of [`elf::parse`].
pub fn plan_elf(image: &elf::Image<'_>) -> Result<plan::Plan> {
    Ok(plan::plan(image, &scan::scan(image)))
}

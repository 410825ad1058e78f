//! vsyspatch: skeleton, the architecture note comes with the phases.

pub mod addr;
pub mod apply;
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
pub mod outcome;
pub mod plan;
mod planner;
pub mod record;
pub mod report;
mod scan;
pub mod search;
pub mod session;
pub mod site;
pub mod store;
mod stub;
pub mod verify;
pub mod vsyscall;

/// elf -> scan -> plan: everything that is decided about one file, nothing written.
#[must_use]
pub fn plan_elf(image: &elf::Image<'_>) -> plan::Plan {
    planner::plan(image, &scan::scan(image))
}

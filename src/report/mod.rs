//! outcomes -> what the user reads: text for people, JSON for programs.

pub mod doctor;
pub mod escape;
pub mod explanation;
pub mod fleet;
pub mod html;
pub mod json;
pub mod paint;
pub mod sarif;
pub mod summary;
pub mod table;
pub mod text;
pub mod trace;

#[cfg(test)]
mod tests;

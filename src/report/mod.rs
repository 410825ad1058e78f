//! outcomes -> what the user reads: text for people, JSON for programs.

pub mod escape;
pub mod explanation;
pub mod json;
pub mod paint;
pub mod summary;
pub mod table;
pub mod text;

#[cfg(test)]
mod tests;

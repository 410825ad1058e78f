//! Finds out whether vsyscalls are what ails somebody: of this host, and from logs of any.

pub mod host;
pub mod log;

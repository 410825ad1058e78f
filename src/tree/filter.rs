//! Which files and directories of a tree are looked at.

use std::path::Path;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, ErrorKind, Result};

/// Directories of a root whose files are the kernel's, and never those of programs.
const NEVER_ENTERED: [&str; 3] = ["proc", "sys", "dev"];

/// What the user wants to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    /// Files that match one of `include` (all, where there is none) and none of `exclude`. A pattern with a
    /// slash is for the path from the root of the tree, one without for the last name of any path. Directories
    /// that are excluded are not entered.
    ///
    /// # Errors
    /// `Usage` for what is no pattern.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let include = if include.is_empty() { None } else { Some(set(include)?) };
        Ok(Self { include, exclude: set(exclude)? })
    }

    /// Whether the file at `path`, relative to the root, is looked at.
    #[must_use]
    pub fn wants_file(&self, path: &Path) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(path)) && !self.exclude.is_match(path)
    }

    /// Whether the directory at `path`, relative to the root, is entered.
    #[must_use]
    pub fn wants_directory(&self, path: &Path) -> bool {
        !self.exclude.is_match(path) && !is_of_the_kernel(path)
    }

    /// Whether it wants every file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }
}

/// Whether `path` is where the kernel's own file systems are.
#[must_use]
pub fn is_of_the_kernel(path: &Path) -> bool {
    NEVER_ENTERED.iter().any(|name| path == Path::new(name))
}

fn set(patterns: &[String]) -> Result<GlobSet> {
    let wrong = |error: &globset::Error| {
        Error::new(ErrorKind::Usage, format!("not a pattern: {error}"))
            .remedy("patterns are like usr/lib/*.so*, **/bin/* or libc-*.so")
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern).map_err(|error| wrong(&error))?);
    }
    set.build().map_err(|error| wrong(&error))
}

fn glob(pattern: &str) -> std::result::Result<Glob, globset::Error> {
    let of_root = pattern.strip_prefix('/').unwrap_or(pattern);
    let anchored = if pattern.contains('/') { of_root.to_owned() } else { format!("**/{pattern}") };
    GlobBuilder::new(anchored.trim_end_matches('/')).literal_separator(true).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_with_a_slash_are_for_the_whole_path() {
        let patterns = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let filter =
            Filter::new(&patterns(&["*.so*", "/bin/*"]), &patterns(&["libm*", "usr/share"])).unwrap();
        let wanted = |path: &str| filter.wants_file(Path::new(path));
        assert!(wanted("libc.so.6") && wanted("usr/lib/libc.so.6") && wanted("bin/sh"));
        assert!(!wanted("usr/bin/sh") && !wanted("lib/libm.so.6") && !wanted("bin/a/b"));
        assert!(!filter.wants_directory(Path::new("usr/share")) && filter.wants_directory(Path::new("usr")));
        assert!(!filter.wants_directory(Path::new("proc")) && filter.wants_directory(Path::new("a/proc")));
        assert!(Filter::new(&patterns(&["a["]), &[]).is_err());
    }
}

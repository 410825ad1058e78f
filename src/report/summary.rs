//! Counts over files and sites.

use std::fmt;

use crate::outcome::{File, Target};
use crate::site::Verdict;

/// How many files were looked at, and what their sites are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Files that could be read.
    pub files: usize,
    /// Those with a site that is not harmless.
    pub files_with_sites: usize,
    /// Sites that are not harmless.
    pub sites: usize,
    /// Sites to patch, or patched by this run.
    pub patch: usize,
    /// Sites that cannot be rewritten safely.
    pub refused: usize,
    /// Sites that may become calls.
    pub unproven: usize,
    /// Look-alikes.
    pub harmless: usize,
    /// Targets that could not be read, or not be handled.
    pub errors: usize,
}

impl Summary {
    /// Of one target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        match &target.result {
            Ok(file) => Self::of_file(file),
            Err(_) => Self { errors: 1, ..Self::default() },
        }
    }

    fn of_file(file: &File) -> Self {
        let [patch, refused, unproven, harmless] =
            [Verdict::Patch, Verdict::Refused, Verdict::Unproven, Verdict::Harmless]
                .map(|verdict| file.count(verdict));
        let sites = patch + refused + unproven;
        Self {
            files: 1,
            files_with_sites: usize::from(sites > 0),
            sites,
            patch,
            refused,
            unproven,
            harmless,
            errors: 0,
        }
    }

    /// This and one more.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.files_with_sites += other.files_with_sites;
        self.sites += other.sites;
        self.patch += other.patch;
        self.refused += other.refused;
        self.unproven += other.unproven;
        self.harmless += other.harmless;
        self.errors += other.errors;
    }
}

/// `3 files, 1 with sites; 3 sites: 2 patch, 1 unproven; 5 harmless; 1 error`
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{} file{}, {} with sites", self.files, plural(self.files), self.files_with_sites)?;
        let counts = [(self.patch, "patch"), (self.refused, "refused"), (self.unproven, "unproven")];
        let counts: Vec<String> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, verdict)| format!("{count} {verdict}"))
            .collect();
        if self.sites > 0 {
            write!(f, "; {} site{}: {}", self.sites, plural(self.sites), counts.join(", "))?;
        }
        if self.harmless > 0 {
            write!(f, "; {} harmless", self.harmless)?;
        }
        if self.errors > 0 {
            write!(f, "; {} error{}", self.errors, plural(self.errors))?;
        }
        Ok(())
    }
}

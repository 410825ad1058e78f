//! Counts over files and sites.

use std::fmt;

use crate::outcome::{Action, Direction, File, Seen, Target, Unchanged, Written};
use crate::site::Verdict;

/// How many files were looked at, and what their sites are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Files that could be read; of a tree, all regular files.
    pub files: usize,
    /// Programs, objects and archives among them, a file with several names counted once.
    #[serde(rename = "elf_files")]
    pub candidates: usize,
    /// Bytes of these.
    pub bytes: u64,
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
    /// Files that this run patched.
    pub patched: usize,
    /// Files that were patched before.
    pub already_patched: usize,
    /// Files that this run reverted.
    pub reverted: usize,
    /// Files that could not be read, or not be handled.
    pub errors: usize,
}

impl Summary {
    /// Of one target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        let mut summary = Self::default();
        for (_, result) in target.files() {
            summary.add(result.map_or(Self { errors: 1, ..Self::default() }, Self::of_file));
        }
        if let Some(tree) = target.tree() {
            let Seen { files, candidates, bytes, .. } = tree.seen;
            summary = Self { files, candidates, bytes, ..summary };
        }
        summary
    }

    fn of_file(file: &File) -> Self {
        let written = |direction| {
            let is_written = |written: &Written| written.direction == direction && !written.dry_run;
            usize::from(matches!(&file.action, Action::Written(written) if is_written(written)))
        };
        let is_patched = matches!(file.action, Action::Unchanged(Unchanged::AlreadyPatched { .. }));
        let [patch, refused, unproven, harmless] =
            [Verdict::Patch, Verdict::Refused, Verdict::Unproven, Verdict::Harmless]
                .map(|verdict| file.count(verdict));
        let sites = patch + refused + unproven;
        Self {
            files: 1,
            candidates: usize::from(file.is_handled()),
            bytes: file.size,
            files_with_sites: usize::from(sites > 0),
            sites,
            patch,
            refused,
            unproven,
            harmless,
            patched: written(Direction::Patch),
            already_patched: usize::from(is_patched),
            reverted: written(Direction::Revert),
            errors: 0,
        }
    }

    /// This and one more.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.candidates += other.candidates;
        self.bytes += other.bytes;
        self.files_with_sites += other.files_with_sites;
        self.sites += other.sites;
        self.patch += other.patch;
        self.refused += other.refused;
        self.unproven += other.unproven;
        self.harmless += other.harmless;
        self.patched += other.patched;
        self.already_patched += other.already_patched;
        self.reverted += other.reverted;
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
        self.write_rest(f)
    }
}

impl Summary {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errors > 0 {
            write!(f, "; {} error{}", self.errors, if self.errors == 1 { "" } else { "s" })?;
        }
        Ok(())
    }

    /// The line of a tree, which was looked at in so many `seconds`:
    /// `812 files, 97 of them programs, libraries or archives (64.2 MB), 3 with sites; 5 sites: 5 patch; 3 patched; 0.1 s`
    #[must_use]
    pub fn of_tree(&self, seconds: f64) -> String {
        let plain = Self { errors: 0, ..*self }.to_string();
        let megabytes = self.bytes as f64 / 1e6;
        let what =
            format!(", {} of them programs, libraries or archives ({megabytes:.1} MB)", self.candidates);
        let (files, rest) = plain.split_once(',').unwrap_or((&plain, ""));
        let mut line = format!("{files}{what},{rest}");
        let counts = [
            (self.patched, "patched"),
            (self.already_patched, "patched already"),
            (self.reverted, "reverted"),
            (self.errors, "failed"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            line += &format!("; {count} {what}");
        }
        line + &format!("; {seconds:.1} s")
    }
}

//! How far a run has come, for somebody who watches.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::output::Output;
use crate::image::Watch;
use crate::image::document::Digest;
use crate::tree::Progress;

/// How often it is told.
const TICK: Duration = Duration::from_millis(100);

/// A line for each blob that is on its way, where stderr is a terminal.
#[must_use]
pub fn of_blobs(output: &Output) -> Option<Arc<dyn Watch>> {
    let is_shown = std::io::stderr().is_terminal() && !output.is_quiet();
    is_shown.then(|| Arc::new(Blobs::default()) as Arc<dyn Watch>)
}

#[derive(Debug, Default)]
struct Blobs(MultiProgress);

impl Watch for Blobs {
    fn begin(&self, digest: &Digest, size: u64) -> Box<dyn FnMut(u64)> {
        const DIGITS: usize = 12;
        let bar = self.0.add(ProgressBar::new(size));
        let style = "{prefix} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(digest.hex()[..DIGITS].to_owned());
        bar.tick();
        let bar = Vanishing(bar);
        Box::new(move |count| bar.0.inc(count))
    }
}

/// A line that is gone when it is dropped.
struct Vanishing(ProgressBar);

impl Drop for Vanishing {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Runs `work`; where stderr is a terminal, its progress is shown there until it ends.
pub fn shown<T>(output: &Output, work: impl FnOnce(&Progress) -> T) -> T {
    let progress = Arc::new(Progress::default());
    if !std::io::stderr().is_terminal() || output.is_quiet() {
        return work(&progress);
    }
    let told = Arc::clone(&progress);
    let counts = move |_: &ProgressState, line: &mut dyn std::fmt::Write| {
        let files = told.files.load(Ordering::Relaxed);
        let with_sites = told.with_sites.load(Ordering::Relaxed);
        let _ = write!(line, "{files} files, {with_sites} with sites");
    };
    let style = ProgressStyle::with_template("{spinner} {counts}, {elapsed}");
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = style {
        bar.set_style(style.with_key("counts", counts));
    }
    bar.tick();
    bar.enable_steady_tick(TICK);
    let result = work(&progress);
    bar.finish_and_clear();
    result
}

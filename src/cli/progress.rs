//! How far a run has come, for somebody who watches.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::output::Output;
use crate::tree::Progress;

/// How often it is told.
const TICK: Duration = Duration::from_millis(100);

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
    bar.enable_steady_tick(TICK);
    let result = work(&progress);
    bar.finish_and_clear();
    result
}

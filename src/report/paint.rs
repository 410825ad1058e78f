//! What each colour means. The caller's stream drops the codes where there is no terminal.

use anstyle::{AnsiColor, Style};

use crate::site::Verdict;

/// The name of a file, where its lines begin.
pub const NAME: Style = Style::new().bold();
/// Done, or can be done.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Needs a look.
pub const DOUBT: Style = AnsiColor::Yellow.on_default();
/// Refused, wrong, failed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Of no consequence.
pub const FAINT: Style = Style::new().dimmed();

/// The colour of a verdict.
pub fn verdict(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Patch => GOOD,
        Verdict::Refused => BAD,
        Verdict::Unproven => DOUBT,
        Verdict::Harmless => FAINT,
    }
}

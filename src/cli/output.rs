//! stdout and stderr of the command: colours where they are wanted, and a reader that went away.

use std::io::{self, Write as _};

use anstream::{AutoStream, ColorChoice};

use super::args::Color;

/// Both streams.
#[derive(Debug)]
pub struct Output {
    choice: ColorChoice,
    is_quiet: bool,
}

impl Output {
    /// With colours as the user wants them, and for somebody who watches unless `is_quiet`.
    #[must_use]
    pub fn new(color: Color, is_quiet: bool) -> Self {
        let choice = match color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::AlwaysAnsi,
            Color::Never => ColorChoice::Never,
        };
        Self { choice, is_quiet }
    }

    /// Whether nobody wants to watch.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Whether results are shown in colours.
    #[must_use]
    pub fn has_colors(&self) -> bool {
        AutoStream::new(io::stdout(), self.choice).current_choice() != ColorChoice::Never
    }

    /// A result. All of it is out when this returns, so that lines of both streams keep their order.
    ///
    /// # Errors
    /// Those of the stream; a reader that went away is one of them.
    pub fn result(&self, text: &str) -> io::Result<()> {
        let mut stdout = AutoStream::new(io::stdout().lock(), self.choice);
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// stdout, for a result that is written piece by piece.
    #[must_use]
    pub fn stdout(&self) -> AutoStream<io::StdoutLock<'static>> {
        AutoStream::new(io::stdout().lock(), self.choice)
    }

    /// Lines of a report that goes where messages go, because stdout is another program's.
    pub fn note(&self, text: &str) {
        let mut stderr = AutoStream::new(io::stderr().lock(), self.choice);
        let _ = stderr.write_all(text.as_bytes());
    }

    /// One line for people. There is nobody left to tell where stderr fails, so that is ignored.
    pub fn message(&self, line: &str) {
        let mut stderr = AutoStream::new(io::stderr().lock(), self.choice);
        let _ = writeln!(stderr, "{line}");
    }
}

//! Names that come from files, made safe to show: a terminal never gets their control characters.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Shows a name on one line: printable characters as they are, everything else as an escape.
///
/// `\n`, `\r`, `\t`, `\\` and, for other control and invisible characters, `\u{..}`; bytes that are no
/// UTF-8 as `\xNN`. Two different names never look the same.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// The name of a file.
    pub fn path(path: &'a Path) -> Self {
        Self::os(path.as_os_str())
    }

    /// A word of the command line.
    pub fn os(word: &'a OsStr) -> Self {
        Self(word.as_bytes())
    }

    /// A name from a symbol table, a dynamic section or a message that may hold one.
    pub fn text(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

/// Whether a terminal would obey `c` or show nothing for it, rather than draw it.
///
/// The bidirectional controls are among them: they can make a name read as another one.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' | '\n' | '\r' | '\t' => write!(f, "{}", c.escape_default())?,
                    c if is_hidden(c) => write!(f, "{}", c.escape_unicode())?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_become_visible_and_names_stay_different() {
        for (name, shown) in [
            (&b"lib/libc-2.13.so"[..], "lib/libc-2.13.so"),
            ("f\u{fc}r Gr\u{f6}\u{df}e".as_bytes(), "f\u{fc}r Gr\u{f6}\u{df}e"),
            (b"a\x1b[2Jb", "a\\u{1b}[2Jb"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"a\\nb", "a\\\\nb"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("\u{202e}fdp.exe\u{85}".as_bytes(), "\\u{202e}fdp.exe\\u{85}"),
        ] {
            assert_eq!(Escaped(name).to_string(), shown);
        }
    }
}

//! One opaque error: what kind, where in the file, what was wrong, and what to do about it.
//!
//! The name of the file is added by whoever knows it (the carriers and the command), not here:
//! the engine takes bytes.

use std::fmt;

use crate::addr::FileOffset;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What class of thing went wrong; stable, for callers that decide on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read or write.
    Io,
    /// The bytes are no ELF file at all.
    NotElf,
    /// An ELF file whose headers contradict themselves or the file's size.
    Malformed,
    /// There is no record for a file that needs one, or it cannot be understood.
    Record,
    /// The bytes are not the ones that the plan or the record was made for.
    Mismatch,
    /// The final bytes did not pass verification; nothing was stored.
    Verification,
    /// The write would lose something (other links, a changed input, a busy program).
    Unsafe,
    /// The command line asks for something that cannot be.
    Usage,
    /// A network or a registry did not answer as it should; later it may.
    Unavailable,
}

impl ErrorKind {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::NotElf => "not-elf",
            Self::Malformed => "malformed",
            Self::Record => "record",
            Self::Mismatch => "mismatch",
            Self::Verification => "verification",
            Self::Unsafe => "unsafe",
            Self::Usage => "usage",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An error of this crate.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    offset: Option<FileOffset>,
    remedy: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says what was wrong.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), offset: None, remedy: None, source: None }
    }

    /// A contradiction in the file's bytes at `offset`.
    pub fn malformed(offset: impl Into<FileOffset>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message).at(offset)
    }

    /// A failed system call while doing `what`. An error of this crate that comes by way of a reader stays what it is.
    pub fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        match source.into().downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self { source: Some(Box::new(source)), ..Self::new(ErrorKind::Io, what) },
        }
    }

    /// The same error as one of a part: a layer, a member of an archive, a document.
    #[must_use]
    pub fn within(self, part: impl fmt::Display) -> Self {
        Self::new(self.kind, format!("{part}: {self}"))
    }

    /// The same error with the file offset that it is about.
    #[must_use]
    pub fn at(self, offset: impl Into<FileOffset>) -> Self {
        Self { offset: Some(offset.into()), ..self }
    }

    /// The same error with what the user can do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// What class of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was wrong, without the place and the remedy.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The number of the system's error that is behind it, if there is one.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        self.source.as_ref()?.downcast_ref::<std::io::Error>()?.raw_os_error()
    }

    /// Whether the same may succeed later, with nothing changed but the time: a registry that is busy, a disk that is
    /// full, a network file system that does not answer.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        const PASSING: [Errno; 10] = [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
            Errno::STALE,
            Errno::AGAIN,
            Errno::BUSY,
            Errno::TIMEDOUT,
            Errno::NOMEM,
            Errno::MFILE,
            Errno::NFILE,
        ];
        let is_passing = |number: i32| PASSING.iter().any(|errno| errno.raw_os_error() == number);
        self.kind == ErrorKind::Unavailable || self.os_error().is_some_and(is_passing)
    }

    /// The file offset that it is about, if there is one.
    #[must_use]
    pub fn offset(&self) -> Option<FileOffset> {
        self.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(offset) = self.offset {
            write!(f, "offset {offset}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, " ({remedy})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

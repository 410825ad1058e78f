//! The time that the user says something is of, since there is no clock here.

use std::ffi::OsStr;
use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// Name of the variable, of <https://reproducible-builds.org/specs/source-date-epoch/>.
pub const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// A time in whole seconds, shown as RFC 3339 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

const DAY: u64 = 24 * 60 * 60;

/// The last second that has a year of four digits, and so a form in RFC 3339.
const LAST: u64 = 253_402_300_799;

impl Epoch {
    /// The time that the variable's value says.
    ///
    /// # Errors
    /// `Usage` where that is none.
    pub fn parse(value: &OsStr) -> Result<Self> {
        let text = value.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let seconds = text.and_then(|text| text.parse().ok()).filter(|seconds| *seconds <= LAST);
        seconds.map(Self).ok_or_else(|| {
            let message = format!("{VARIABLE} is {value:?}, which is no number of seconds since 1970");
            Error::new(ErrorKind::Usage, message).remedy("unset it, or set it to what `date +%s` says")
        })
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, rest) = (self.0 / DAY, self.0 % DAY);
        let is_leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let (mut year, mut month) = (1970, 1);
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for length in lengths {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_date_shows() {
        // date -u -d @SECONDS +%FT%TZ
        for (seconds, shown) in [
            ("0", "1970-01-01T00:00:00Z"),
            ("951782399", "2000-02-28T23:59:59Z"),
            ("951782400", "2000-02-29T00:00:00Z"),
            ("1735689599", "2024-12-31T23:59:59Z"),
            ("4107542400", "2100-03-01T00:00:00Z"),
            ("253402300799", "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Epoch::parse(OsStr::new(seconds)).unwrap().to_string(), shown);
        }
        for bad in ["", "-1", "+1", "1.5", "today", "253402300800", "99999999999999999999"] {
            assert!(Epoch::parse(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}

//! Numbers that registers and stack slots are known to hold: addresses, and indices of which it is known what they are
//! multiples of.

use crate::limits;

/// A number that a place is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    Constant(u64),
    /// Distance from the stack pointer at the function's entry.
    Stack(i64),
    /// The address of an element of a table, or an index times the size of an element.
    Series(Series),
}

impl Known {
    /// As a series; an address on the stack is none.
    pub(super) fn series(self) -> Option<Series> {
        match self {
            Self::Nothing => Some(Series::ANY),
            Self::Constant(constant) => Some(Series::of(constant)),
            Self::Series(series) => Some(series),
            Self::Stack(_) => None,
        }
    }

    /// What is known where either of two may be there: that it is an element of a table, as the pointer of a loop is.
    pub(super) fn join(self, new: Self) -> Self {
        if self == new {
            return self;
        }
        let of_table = |known: Self| match known {
            Self::Constant(_) | Self::Series(_) => known.series(),
            Self::Stack(_) | Self::Nothing => None,
        };
        of_table(self)
            .zip(of_table(new))
            .and_then(|(known, new)| known.join(new))
            .map_or(Self::Nothing, Self::from)
    }

    /// What a 32-bit operation leaves of it, whether the upper half becomes zeros or the sign.
    pub(super) fn of_lower_half(self, extended: impl Fn(u32) -> u64) -> Self {
        match self {
            Self::Constant(constant) => Self::Constant(extended(constant as u32)),
            Self::Series(Series { first: 0, stride, .. }) => {
                Self::from(Series { first: 0, stride: 1 << stride.trailing_zeros().min(31), span: u64::MAX })
            }
            _ => Self::Nothing,
        }
    }
}

impl From<Series> for Known {
    fn from(series: Series) -> Self {
        match series {
            Series { span: 0, first, .. } => Self::Constant(first),
            Series { stride: 1, first: 0, .. } => Self::Nothing,
            _ => Self::Series(series),
        }
    }
}

/// `first`, or a number of strides more, up to `span` more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) first: u64,
    pub(super) stride: u64,
    /// The most there can be, where it is not known.
    span: u64,
}

/// Bytes of a pointer, which the elements of tables are that are followed.
const WORD: u64 = 8;

impl Series {
    pub(super) const ANY: Self = Self { first: 0, stride: 1, span: u64::MAX };

    pub(super) fn of(number: u64) -> Self {
        Self { first: number, stride: 0, span: 0 }
    }

    pub(super) fn contains(self, number: u64) -> bool {
        let distance = number.wrapping_sub(self.first);
        distance <= self.span && distance.checked_rem(self.stride).unwrap_or(distance) == 0
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            first: self.first.wrapping_add(other.first),
            stride: gcd(self.stride, other.stride),
            span: self.span.saturating_add(other.span),
        }
    }

    pub(super) fn times(self, factor: u64) -> Self {
        Self {
            first: self.first.wrapping_mul(factor),
            stride: self.stride.saturating_mul(factor),
            span: self.span.saturating_mul(factor),
        }
    }

    /// Whether it has two numbers, so that none of them is made up.
    pub(super) fn is_pair(self) -> bool {
        self.span == self.stride
    }

    /// The words from the first up to the one at `at`, which it contains. Of bytes at any distance, those that are aligned as
    /// the first one.
    pub(super) fn words_before(self, at: u64) -> impl Iterator<Item = u64> {
        let stride = if self.stride.is_multiple_of(WORD) { self.stride.max(WORD) } else { WORD };
        let words = at.wrapping_sub(self.first) / stride;
        (0..words).map(move |word| self.first.wrapping_add(word * stride))
    }

    /// The least series that contains both: of two addresses these, of more the elements of one table. Of two series it is
    /// not known where they end, and nothing is known where the new one begins before the other, as with a pointer that
    /// goes down: so joining ends, since the addresses in a function's code are few.
    fn join(self, new: Self) -> Option<Self> {
        let is_address = |series: Self| series.span == 0;
        let is_finite = is_address(self) || is_address(new);
        let (first, last) = if new.first < self.first && is_finite { (new, self) } else { (self, new) };
        let distance = last.first.checked_sub(first.first)?;
        let stride = gcd(gcd(self.stride, new.stride), distance);
        let is_of_two = is_address(self) && is_address(new);
        let is_near = is_of_two || stride <= WORD * limits::TABLE_WORDS;
        let behind = distance.saturating_add(last.span);
        let span = if behind > first.span && !is_finite { u64::MAX } else { behind.max(first.span) };
        (is_near && stride.is_multiple_of(WORD)).then_some(Self { first: first.first, stride, span })
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

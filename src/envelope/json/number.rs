//! JSON numbers: their grammar, their exact value, and whether Postgres can store them.

use super::{JsonError, Problem, hash};

/// Postgres `numeric` (so `jsonb` too) has at most 131,072 digits before the decimal point …
const MAX_LEADING: i64 = 131_071;
/// … and 16,383 after it, trailing zeros included.
const MAX_SCALE: i64 = 16_383;
/// The most bytes that one number takes when written out, with sign and point.
pub(super) const MAX_DIGITS: usize = (MAX_LEADING + 1 + MAX_SCALE + 2) as usize;
/// Postgres's parser refuses exponents from here on, whatever the digits are.
const MAX_EXPONENT: i64 = (i32::MAX / 2) as i64;

/// The most digits that always fit into a `u64`.
const SMALL: usize = 18;

/// The parts of a number, as written.
pub(super) struct Number {
    start: usize,
    negative: bool,
    /// Digits before the point: `int..int_end`.
    int: usize,
    int_end: usize,
    /// Digits after the point: `frac..frac_end`, empty without one.
    frac: usize,
    frac_end: usize,
    /// All digits as one integer; meaningless if there are more than [`SMALL`].
    mantissa: u64,
    /// Saturates far beyond the allowed range.
    exponent: i64,
    /// One past the last byte.
    pub(super) end: usize,
}

impl Number {
    /// Reads the number that starts at `at`.
    pub(super) fn read(bytes: &[u8], at: usize) -> Result<Self, JsonError> {
        let digit = |at: usize| {
            bytes
                .get(at)
                .map(|b| b.wrapping_sub(b'0'))
                .filter(|d| *d <= 9)
        };
        let expected = |at| JsonError::syntax(at, "a digit");
        let negative = bytes.get(at) == Some(&b'-');
        let int = at + usize::from(negative);
        let mut end = int;
        let mut mantissa = 0_u64;
        while let Some(d) = digit(end) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(d));
            end += 1;
        }
        let int_end = end;
        if int_end == int {
            return Err(expected(end));
        }
        if int_end - int > 1 && bytes[int] == b'0' {
            return Err(JsonError::syntax(int, "a number without leading zeros"));
        }
        let (mut frac, mut frac_end) = (end, end);
        if bytes.get(end) == Some(&b'.') {
            frac = end + 1;
            end = frac;
            while let Some(d) = digit(end) {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(d));
                end += 1;
            }
            frac_end = end;
            if frac_end == frac {
                return Err(expected(end));
            }
        }
        let mut exponent = 0_i64;
        if let Some(b'e' | b'E') = bytes.get(end) {
            end += 1;
            let minus = bytes.get(end) == Some(&b'-');
            if let Some(b'+' | b'-') = bytes.get(end) {
                end += 1;
            }
            let first = end;
            while let Some(d) = digit(end) {
                exponent = (exponent * 10 + i64::from(d)).min(MAX_EXPONENT * 100);
                end += 1;
            }
            if end == first {
                return Err(expected(end));
            }
            if minus {
                exponent = -exponent;
            }
        }
        Ok(Self {
            start: at,
            negative,
            int,
            int_end,
            frac,
            frac_end,
            mantissa,
            exponent,
            end,
        })
    }

    /// Whether it is written as an integer: digits and an optional sign.
    pub(super) fn is_plain_integer(&self) -> bool {
        self.end == self.int_end
    }

    /// The canonical hash of its exact value, and its size in bytes as Postgres writes it. Fails if Postgres cannot store it.
    pub(super) fn measure(&self, bytes: &[u8]) -> Result<(u128, usize), JsonError> {
        let count = (self.int_end - self.int) + (self.frac_end - self.frac);
        let scale = (self.frac_end - self.frac) as i64 - self.exponent;
        if count > SMALL {
            return self.measure_long(bytes, scale);
        }
        self.measure_short(self.mantissa, -scale, scale)
    }

    /// `mantissa × 10^exponent`, where `scale` is the number of digits written after the point.
    fn measure_short(
        &self,
        mut mantissa: u64,
        mut exponent: i64,
        scale: i64,
    ) -> Result<(u128, usize), JsonError> {
        if mantissa == 0 {
            // There is no negative zero.
            let written = self.written(0, scale)? - usize::from(self.negative);
            return Ok((hash::number(false, 0, 0), written));
        }
        while mantissa.is_multiple_of(10) {
            mantissa /= 10;
            exponent += 1;
        }
        let written = self.written(i64::from(mantissa.ilog10()) + exponent, scale)?;
        Ok((hash::number(self.negative, mantissa, exponent), written))
    }

    #[cold]
    fn measure_long(&self, bytes: &[u8], scale: i64) -> Result<(u128, usize), JsonError> {
        let all = [
            &bytes[self.int..self.int_end],
            &bytes[self.frac..self.frac_end],
        ]
        .concat();
        let first = all.iter().position(|b| *b != b'0');
        let last = all.iter().rposition(|b| *b != b'0');
        let (Some(first), Some(last)) = (first, last) else {
            return self.measure_short(0, 0, scale);
        };
        let digits = &all[first..=last];
        let exponent = (all.len() - 1 - last) as i64 - scale;
        if digits.len() <= SMALL {
            let mantissa = digits.iter().fold(0, |m, b| m * 10 + u64::from(b - b'0'));
            return self.measure_short(mantissa, exponent, scale);
        }
        let written = self.written(digits.len() as i64 - 1 + exponent, scale)?;
        Ok((hash::digits(self.negative, digits, exponent), written))
    }

    /// The size in bytes as `numeric` writes it: sign, digits before the point, point, digits after it. Fails if `numeric` cannot store it.
    /// `leading` is the power of ten of the first digit that is not 0.
    fn written(&self, leading: i64, scale: i64) -> Result<usize, JsonError> {
        if leading > MAX_LEADING || scale > MAX_SCALE || self.exponent >= MAX_EXPONENT {
            return Err(JsonError::new(self.start, Problem::Number));
        }
        let before = leading.max(0) as usize + 1;
        let after = scale.max(0) as usize;
        Ok(usize::from(self.negative) + before + after + usize::from(after > 0))
    }
}

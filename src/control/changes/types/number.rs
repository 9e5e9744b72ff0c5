//! Numbers as PostgreSQL's `numeric` prints them.
//!
//! What comes in: a number as a float, a `numeric` or JSON has it. What goes out: the same number without an exponent, its scale kept:
//! what comes of it when PostgreSQL makes jsonb of it. What always holds: what `numeric` cannot hold is malformed, as it is an error in
//! PostgreSQL (`numbers_end_where_numeric_ends`). Deliberately absent: NaN and the infinities, which are no numbers in JSON.

use super::Malformed;
use std::str::FromStr as _;

/// Digits before the point that `numeric` has room for: 32,768 places to the base of ten thousand.
const WHOLE_DIGITS_MAX: i64 = 4 * 32_768;

/// The same behind the point.
const SCALE_MAX: i64 = 16_383;

/// PostgreSQL's bound on exponents, whatever the digits are (numeric.c, `set_var_from_str`).
const EXPONENT_MAX: i64 = i32::MAX as i64 / 2 - 1;

/// Appends `text` as a number; `out` may become `ceiling` bytes long.
///
/// # Errors
///
/// [`Malformed`] when it is none, when `numeric` has no room for it, or when `out` has not.
pub(super) fn write(out: &mut Vec<u8>, text: &str, ceiling: usize) -> Result<(), Malformed> {
    let number = Number::parse(text)?;
    if number.is_settled() {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    number.write(out, ceiling)
}

/// Whether this is `NaN`, `Infinity` or `-Infinity`.
pub(super) fn is_special(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity")
}

/// Whether this number looks like itself in jsonb.
pub(super) fn is_settled(text: &str) -> bool {
    Number::parse(text).is_ok_and(|number| number.is_settled())
}

/// The parts of a number; its digits are checked.
struct Number<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: Option<i64>,
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Result<Self, Malformed> {
        let unsigned = text.strip_prefix('-');
        let (whole, rest) = digits(unsigned.unwrap_or(text))?;
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => digits(rest)?,
            None => ("", rest),
        };
        let exponent = match rest.strip_prefix(['e', 'E']) {
            Some(rest) => Some(exponent(rest)?),
            None if rest.is_empty() => None,
            None => return Err(Malformed),
        };
        Ok(Self {
            is_negative: unsigned.is_some(),
            whole,
            fraction,
            exponent,
        })
    }

    fn is_settled(&self) -> bool {
        let is_short =
            self.whole.len() as i64 <= WHOLE_DIGITS_MAX && self.fraction.len() as i64 <= SCALE_MAX;
        self.exponent.is_none() && is_short && !(self.is_negative && self.is_zero())
    }

    /// Zero has no sign in `numeric`, but a scale.
    fn is_zero(&self) -> bool {
        let is_zeros = |digits: &str| digits.bytes().all(|digit| digit == b'0');
        is_zeros(self.whole) && is_zeros(self.fraction)
    }

    fn write(&self, out: &mut Vec<u8>, ceiling: usize) -> Result<(), Malformed> {
        let exponent = self.exponent.unwrap_or_default();
        let scale = (self.fraction.len() as i64 - exponent).max(0);
        if exponent.abs() > EXPONENT_MAX || scale > SCALE_MAX {
            return Err(Malformed);
        }
        let (is_zero, digits) = (self.is_zero(), || {
            self.whole.bytes().chain(self.fraction.bytes())
        });
        // Digits before the point, which stands left of all of them when this is negative.
        let point = if is_zero {
            0
        } else {
            self.whole.len() as i64 + exponent
        };
        let leading = digits().take_while(|digit| *digit == b'0').count() as i64;
        if !is_zero && point - leading > WHOLE_DIGITS_MAX {
            return Err(Malformed);
        }
        let whole = (point - leading).max(0);
        let size = usize::try_from(whole + scale).map_err(|_| Malformed)?;
        if out.len().saturating_add(size) > ceiling {
            return Err(Malformed);
        }
        if self.is_negative && !is_zero {
            out.push(b'-');
        }
        // The digit in each place: zeros where the number has none.
        let mut digits = digits().skip(if is_zero {
            usize::MAX
        } else {
            point.min(leading).max(0) as usize
        });
        let mut digit = || digits.next().unwrap_or(b'0');
        if whole == 0 {
            out.push(b'0');
        }
        out.extend((0..whole).map(|_| digit()));
        if scale > 0 {
            out.push(b'.');
            // Places between the point and the first digit.
            let gap = (-point).clamp(0, scale);
            out.extend((0..gap).map(|_| b'0'));
            out.extend((gap..scale).map(|_| digit()));
        }
        Ok(())
    }
}

/// The digits that `text` begins with, at least one, and what follows.
fn digits(text: &str) -> Result<(&str, &str), Malformed> {
    let count = text.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 {
        return Err(Malformed);
    }
    Ok(text.split_at(count))
}

/// What follows an `e`. One that does not fit is as good as the largest.
fn exponent(text: &str) -> Result<i64, Malformed> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (digits, rest) = digits(unsigned)?;
    if !rest.is_empty() {
        return Err(Malformed);
    }
    let size = i64::from_str(digits).map_or(i64::MAX / 4, |size| size.min(i64::MAX / 4));
    Ok(if text.starts_with('-') { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<String, Malformed> {
        let mut out = b"x".to_vec();
        write(&mut out, text, 1_000_000)?;
        assert_eq!(is_settled(text), out[1..] == *text.as_bytes(), "{text}");
        Ok(String::from_utf8(out)
            .expect("a number is ASCII")
            .split_off(1))
    }

    #[test]
    fn numbers_have_no_exponent_and_keep_their_scale() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("0.00", "0.00"),
            ("1.50", "1.50"),
            ("-12.5", "-12.5"),
            ("9223372036854775807", "9223372036854775807"),
            ("1e3", "1000"),
            ("1E+3", "1000"),
            ("-1.50e1", "-15.0"),
            ("1.50e2", "150"),
            ("1.50e3", "1500"),
            ("1E-7", "0.0000001"),
            ("12.5e-1", "1.25"),
            ("12.5e-2", "0.125"),
            ("12.5e-4", "0.00125"),
            ("0.001e3", "1"),
            ("0.001e2", "0.1"),
            ("0.0012e3", "1.2"),
            ("0.0012e5", "120"),
            ("0.0012e-1", "0.00012"),
            ("0e5", "0"),
            ("0e-3", "0.000"),
            ("-0.0e-2", "0.000"),
            ("0.000e2", "0.0"),
            ("1e21", "1000000000000000000000"),
            ("0e1073741822", "0"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn numbers_end_where_numeric_ends() {
        let places = |text: &str| written(text).map(|number| number.len());
        assert_eq!(places("1e131071"), Ok(131_072));
        assert_eq!(places("1e131072"), Err(Malformed));
        assert_eq!(places("0.01e131073"), Ok(131_072));
        assert_eq!(places(&"9".repeat(131_072)), Ok(131_072));
        assert_eq!(places(&"9".repeat(131_073)), Err(Malformed));
        assert_eq!(places("1e-16383"), Ok(16_385));
        assert_eq!(places("1e-16384"), Err(Malformed));
        assert_eq!(places("0e-16384"), Err(Malformed));
        assert_eq!(places("0e1073741823"), Err(Malformed));
        assert_eq!(places("0e-99999999999999999999999999"), Err(Malformed));
        assert_eq!(places("1e99999999999999999999999999"), Err(Malformed));
        let mut out = Vec::new();
        assert_eq!(write(&mut out, "1e9", 9), Err(Malformed));
        assert_eq!(write(&mut out, "1e9", 10), Ok(()));
    }

    #[test]
    fn what_is_no_number_is_malformed() {
        for text in [
            "", "-", "+1", ".5", "1.", "1e", "1e+", "1e5.", "1.2.3", "0x1", " 1", "1 ", "NaN",
            "Infinity", "--1", "1e--1", "é",
        ] {
            assert_eq!(written(text), Err(Malformed), "{text}");
        }
    }
}

//! Values of a type in PostgreSQL's text form: which are equal, and which is the smaller one.
//!
//! What comes in: texts that PostgreSQL printed in sessions whose settings `database::connect` pins. What goes out: a text for each
//! value such that equal values have equal texts, and an order. What always holds: both agree with the type's operators
//! (`tests/database/filters` compares them with PostgreSQL's). Deliberately absent: checks of texts that nobody printed; those have
//! no order.

use std::borrow::Cow;
use std::cmp::Ordering;

/// How the values of a type are compared.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub(super) enum Form {
    /// Equal values have equal texts; the order is PostgreSQL's affair.
    Plain,
    /// The order of the values is that of the bytes of their texts, too.
    Bytewise,
    /// `char(n)`: spaces at the end do not count.
    Padded,
    /// `bytea`, compared as clients read it: without `\x` (spec: postgres-changes 5.6).
    Bytea,
    /// Whole numbers within 64 bits.
    Integer,
    /// `numeric`: the scale does not count.
    Numeric,
    /// `real` and `double precision`: -0 is 0, NaN equals itself and is the largest.
    Float,
    /// `date` and `timestamp`.
    Timestamp,
    /// `timestamptz` in UTC.
    TimestampTz,
    /// `pg_lsn`.
    Lsn,
}

impl Form {
    /// The form of a type, of a domain's base type for a domain.
    ///
    /// `is_enum` and `is_deterministic` (its collation) are what the catalog says of it.
    pub(super) fn of(base_oid: u32, is_enum: bool, is_deterministic: bool) -> Option<Self> {
        use tokio_postgres::types::Type;
        if is_enum {
            return Some(Self::Plain);
        }
        let form = match Type::from_oid(base_oid)? {
            Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Self::Integer,
            Type::NUMERIC => Self::Numeric,
            Type::FLOAT4 | Type::FLOAT8 => Self::Float,
            Type::DATE | Type::TIMESTAMP => Self::Timestamp,
            Type::TIMESTAMPTZ => Self::TimestampTz,
            Type::BYTEA => Self::Bytea,
            Type::PG_LSN => Self::Lsn,
            Type::BOOL | Type::UUID | Type::TIME | Type::MACADDR | Type::MACADDR8 => Self::Bytewise,
            Type::TEXT | Type::VARCHAR | Type::NAME if is_deterministic => Self::Plain,
            Type::BPCHAR if is_deterministic => Self::Padded,
            Type::CHAR | Type::TIMETZ | Type::INET | Type::CIDR | Type::BIT | Type::VARBIT => {
                Self::Plain
            }
            _ => return None,
        };
        Some(form)
    }

    /// Whether [`Form::order`] knows anything.
    pub(super) const fn is_ordered(self) -> bool {
        !matches!(self, Self::Plain | Self::Padded)
    }

    /// The text that all values have which are equal to this one.
    pub(super) fn canonical(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Padded => text.trim_end_matches(' ').into(),
            Self::Numeric if text.contains('.') => {
                text.trim_end_matches('0').trim_end_matches('.').into()
            }
            Self::Float if text == "-0" => "0".into(),
            // What PostgreSQL would print of these digits if they were the bytes themselves.
            Self::Bytea => hex(self.shown(text)).into(),
            _ => text.into(),
        }
    }

    /// The same of a filter's value.
    pub(super) fn canonical_of_filter(self, text: &str) -> Box<str> {
        match self {
            // What PostgreSQL prints of it already are the bytes that are compared.
            Self::Bytea => text.into(),
            _ => self.canonical(text).into(),
        }
    }

    /// A column's text as it is compared: without the `\x` of a `bytea`.
    pub(super) fn shown(self, text: &str) -> &str {
        match self {
            Self::Bytea => text.strip_prefix("\\x").unwrap_or(text),
            _ => text,
        }
    }

    /// How two canonical texts are ordered; nothing where only PostgreSQL knows.
    pub(super) fn order(self, a: &str, b: &str) -> Option<Ordering> {
        match self {
            Self::Plain | Self::Padded => None,
            Self::Bytewise | Self::Bytea => Some(a.cmp(b)),
            Self::Integer => Some(a.parse::<i64>().ok()?.cmp(&b.parse().ok()?)),
            Self::Numeric => Some(Decimal::parse(a)?.cmp(&Decimal::parse(b)?)),
            Self::Float => float_order(a.parse().ok()?, b.parse().ok()?),
            Self::Timestamp => Some(moment(a)?.cmp(&moment(b)?)),
            Self::TimestampTz => Some(moment_in_utc(a)?.cmp(&moment_in_utc(b)?)),
            Self::Lsn => Some(lsn(a)?.cmp(&lsn(b)?)),
        }
    }
}

/// `bytea_output = hex` of a text's bytes.
fn hex(text: &str) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let mut out = String::with_capacity(2 + 2 * text.len());
    out.push_str("\\x");
    for byte in text.bytes() {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out
}

fn float_order(a: f64, b: f64) -> Option<Ordering> {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b),
        (a, b) => Some(a.cmp(&b)),
    }
}

/// A `numeric`. The order of the variants is that of the values; digits of negative ones count the other way around.
#[derive(Debug, Eq, PartialEq)]
enum Decimal<'a> {
    NegativeInfinity,
    Negative(Digits<'a>),
    Zero,
    Positive(Digits<'a>),
    Infinity,
    NaN,
}

/// More digits before the point are more; otherwise the first that differs decides.
type Digits<'a> = (usize, &'a str, &'a str);

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::NaN),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let digits = (whole.len(), whole, fraction);
        Some(if whole.is_empty() && fraction.is_empty() {
            Self::Zero
        } else if is_negative {
            Self::Negative(digits)
        } else {
            Self::Positive(digits)
        })
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Negative(_) => 1,
            Self::Zero => 2,
            Self::Positive(_) => 3,
            Self::Infinity => 4,
            Self::NaN => 5,
        }
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Positive(a), Self::Positive(b)) => a.cmp(b),
            (Self::Negative(a), Self::Negative(b)) => b.cmp(a),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Year, and what is behind it, whose bytes are in the order of time: PostgreSQL cuts zeros off the end of fractions.
fn moment(text: &str) -> Option<(i32, &str)> {
    match text {
        "infinity" => return Some((i32::MAX, "")),
        "-infinity" => return Some((i32::MIN, "")),
        _ => {}
    }
    let (text, is_before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (year, rest) = text.split_once('-')?;
    let year: i32 = year.parse().ok()?;
    let is_time = |byte: u8| byte.is_ascii_digit() || b"-: .".contains(&byte);
    if !rest.bytes().all(is_time) {
        return None;
    }
    Some((if is_before_christ { 1 - year } else { year }, rest))
}

/// The same of a moment in UTC; nothing where the zone is another one.
fn moment_in_utc(text: &str) -> Option<(i32, &str)> {
    if text.ends_with("infinity") {
        return moment(text);
    }
    let (text, is_before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (year, rest) = moment(text.strip_suffix("+00")?)?;
    Some((if is_before_christ { 1 - year } else { year }, rest))
}

fn lsn(text: &str) -> Option<(u32, u32)> {
    let (high, low) = text.split_once('/')?;
    let half = |text| u32::from_str_radix(text, 16).ok();
    Some((half(high)?, half(low)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::{Equal, Greater, Less};

    #[test]
    fn equal_values_have_one_text() {
        let check = |form: Form, text: &str, expected: &str| {
            assert_eq!(form.canonical(text), expected, "{form:?} {text}");
        };
        check(Form::Plain, "a ", "a ");
        check(Form::Padded, "a  ", "a");
        check(Form::Padded, "  ", "");
        check(Form::Padded, "a\t", "a\t");
        check(Form::Numeric, "10.50", "10.5");
        check(Form::Numeric, "10.00", "10");
        check(Form::Numeric, "100", "100");
        check(Form::Numeric, "0.000", "0");
        check(Form::Numeric, "-0.10", "-0.1");
        check(Form::Numeric, "NaN", "NaN");
        check(Form::Float, "-0", "0");
        check(Form::Float, "-0.5", "-0.5");
        check(Form::Bytea, "\\xde", "\\x6465");
        check(Form::Bytea, "\\x", "\\x");
        check(
            Form::Timestamp,
            "2024-01-01 10:00:00",
            "2024-01-01 10:00:00",
        );
    }

    #[test]
    fn values_have_the_order_of_their_type() {
        let check = |form: Form, a: &str, b: &str, expected: Option<Ordering>| {
            assert_eq!(form.order(a, b), expected, "{form:?} {a} {b}");
            let mirrored = expected.map(Ordering::reverse);
            assert_eq!(form.order(b, a), mirrored, "{form:?} {b} {a}");
        };
        check(Form::Plain, "a", "b", None);
        check(Form::Bytewise, "f", "t", Some(Less));
        check(Form::Bytewise, "12:00:00", "12:00:00.5", Some(Less));
        check(Form::Integer, "-9", "10", Some(Less));
        check(Form::Integer, "9223372036854775807", "9", Some(Greater));
        check(Form::Integer, "x", "9", None);
        check(Form::Numeric, "9", "10.5", Some(Less));
        check(Form::Numeric, "10.05", "10.5", Some(Less));
        check(Form::Numeric, "-9", "-10.5", Some(Greater));
        check(Form::Numeric, "-0.001", "0", Some(Less));
        check(Form::Numeric, "0.0", "0", Some(Equal));
        check(Form::Numeric, "1.50", "1.5", Some(Equal));
        check(Form::Numeric, "NaN", "Infinity", Some(Greater));
        check(Form::Numeric, "-Infinity", "-99999", Some(Less));
        check(Form::Numeric, "1e5", "1", None);
        check(Form::Float, "NaN", "Infinity", Some(Greater));
        check(Form::Float, "NaN", "NaN", Some(Equal));
        check(Form::Float, "1e+21", "2e+20", Some(Greater));
        check(Form::Float, "-0", "0", Some(Equal));
        check(
            Form::Timestamp,
            "infinity",
            "294276-12-31 23:59:59",
            Some(Greater),
        );
        check(Form::Timestamp, "-infinity", "4713-01-01 BC", Some(Less));
        check(
            Form::Timestamp,
            "0044-03-15 BC",
            "0045-03-15 BC",
            Some(Greater),
        );
        check(Form::Timestamp, "0001-01-01 BC", "0001-01-01", Some(Less));
        check(Form::Timestamp, "10000-01-01", "9999-12-31", Some(Greater));
        check(
            Form::Timestamp,
            "2024-01-01 00:00:00.12",
            "2024-01-01 00:00:00.2",
            Some(Less),
        );
        check(
            Form::Timestamp,
            "2024-01-01 00:00:00+00",
            "2024-01-01 00:00:00",
            None,
        );
        check(
            Form::TimestampTz,
            "2024-01-01 00:00:00+00",
            "2024-01-01 00:00:00.5+00",
            Some(Less),
        );
        check(
            Form::TimestampTz,
            "0002-01-01 00:00:00+00 BC",
            "0001-01-01 00:00:00+00 BC",
            Some(Less),
        );
        check(
            Form::TimestampTz,
            "2024-01-01 00:00:00+01",
            "2024-01-01 00:00:00+00",
            None,
        );
        check(Form::TimestampTz, "-infinity", "infinity", Some(Less));
        check(Form::Lsn, "1/0", "0/FFFFFFFF", Some(Greater));
        check(Form::Lsn, "0/A0", "0/B", Some(Greater));
    }

    #[test]
    fn collations_that_fold_are_postgresqls_affair() {
        use tokio_postgres::types::Type;
        assert_eq!(Form::of(Type::TEXT.oid(), false, true), Some(Form::Plain));
        assert_eq!(Form::of(Type::TEXT.oid(), false, false), None);
        assert_eq!(Form::of(Type::BPCHAR.oid(), false, false), None);
        assert_eq!(Form::of(Type::JSONB.oid(), false, true), None);
        assert_eq!(Form::of(999_999, false, true), None);
        assert_eq!(Form::of(999_999, true, true), Some(Form::Plain));
    }
}

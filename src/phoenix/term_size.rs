//! The size that a payload counts against the quota: that of its Erlang external term (websocket-protocol section 9.4).
//!
//! The limit is old and public, and it is written in these units, so ours must come to the same verdicts. No term is built: one
//! pass over the text adds up what its values would take.

use super::scan::{hex4, plain_bytes};

const NULL: usize = 5;
const TRUE: usize = 6;
const FALSE: usize = 7;
/// An integer from 0 to 255.
const BYTE: usize = 2;
/// Any other integer of 32 bits.
const INTEGER: usize = 5;
const FLOAT: usize = 9;
/// A string, without its bytes.
const STRING: usize = 5;
/// A list, without its elements.
const LIST: usize = 6;
/// A map, without its keys and values.
const MAP: usize = 5;

/// The most that a JSON text of `text_bytes` bytes can count, so that small payloads need not be looked at.
///
/// No value takes more than three times its text: `[x]` adds two bytes of text and six of term, `1e1` is nine, `-1` five.
pub const fn term_size_at_most(text_bytes: usize) -> usize {
    text_bytes.saturating_mul(3).saturating_add(1)
}

/// The size in bytes of the external term of the value in `json`, which has been checked.
///
/// Repeated keys all count (the original keeps the last). Of text that is not JSON, some number.
pub fn json_term_size(json: &str) -> usize {
    let mut rest = json.as_bytes();
    // The version byte in front of every term.
    let mut size: usize = 1;
    // How many elements the innermost array has so far, while all of them are integers from 0 to 255: such an array is
    // written as a string of bytes. An array that holds an array or object is none, so this is all there is to remember.
    let mut bytes: Option<usize> = None;
    while let [first, tail @ ..] = rest {
        let value = match first {
            b'"' => string(&mut rest),
            b'-' | b'0'..=b'9' => number(&mut rest),
            _ => {
                rest = tail;
                match first {
                    b'{' => MAP,
                    b'}' => 0,
                    b'[' => LIST,
                    b']' => {
                        size = size.saturating_sub(byte_list_saving(bytes));
                        0
                    }
                    b'n' => skip(&mut rest, b"ull", NULL),
                    b't' => skip(&mut rest, b"rue", TRUE),
                    b'f' => skip(&mut rest, b"alse", FALSE),
                    _ => continue,
                }
            }
        };
        size = size.saturating_add(value);
        bytes = match first {
            b'[' => Some(0),
            _ if value == BYTE => bytes.map(|count| count.saturating_add(1)),
            _ => None,
        };
    }
    size
}

/// How much less than `LIST` and its elements an array takes that holds only this many integers from 0 to 255.
fn byte_list_saving(bytes: Option<usize>) -> usize {
    match bytes {
        None => 0,
        // The empty list is one byte.
        Some(0) => LIST.saturating_sub(1),
        // A string of bytes: three and one for each, instead of two for each.
        Some(count @ ..65_535) => LIST.saturating_sub(3).saturating_add(count),
        Some(_) => 0,
    }
}

fn skip(rest: &mut &[u8], letters: &[u8], size: usize) -> usize {
    *rest = rest.strip_prefix(letters).unwrap_or(rest);
    size
}

/// Takes a string; its size with each escape counted as what it stands for.
fn string(rest: &mut &[u8]) -> usize {
    let mut size = STRING;
    let mut left = rest.split_first().map_or(*rest, |(_, left)| left);
    loop {
        let (plain, special) = left.split_at(plain_bytes(left));
        size = size.saturating_add(plain.len());
        let character;
        (character, left) = match special {
            [b'\\', b'u', escape @ ..] => match hex4(escape) {
                Some((0xd800..=0xdbff, after)) => (4, after.get(6..).unwrap_or_default()),
                Some((unit, after)) => match unit {
                    ..0x80 => (1, after),
                    0x80..0x800 => (2, after),
                    _ => (3, after),
                },
                None => (0, escape),
            },
            [b'\\', _, after @ ..] => (1, after),
            [b'"', after @ ..] => {
                *rest = after;
                return size;
            }
            [_, after @ ..] => (1, after),
            [] => {
                *rest = &[];
                return size;
            }
        };
        size = size.saturating_add(character);
    }
}

/// Takes a number.
fn number(rest: &mut &[u8]) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = rest.iter().take_while(|byte| is_part(byte)).count();
    let (number, after) = rest.split_at(length);
    *rest = after;
    let (is_negative, digits) = match number {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return FLOAT;
    }
    match parse_u128(digits) {
        Some(0) => BYTE,
        Some(1..=255) if !is_negative => BYTE,
        Some(value) if value < 1 << 31 || is_negative && value == 1 << 31 => INTEGER,
        Some(value) => {
            big_integer(128_u32.saturating_sub(value.leading_zeros()).div_ceil(8) as usize)
        }
        None => big_integer(magnitude_bytes(digits)),
    }
}

/// An integer of more than 32 bits: tag, length and sign, and its magnitude. Beyond 255 bytes the length takes four.
fn big_integer(magnitude_bytes: usize) -> usize {
    let length_bytes: usize = if magnitude_bytes > 255 { 4 } else { 1 };
    magnitude_bytes
        .saturating_add(length_bytes)
        .saturating_add(2)
}

fn parse_u128(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = u128::from(digit.wrapping_sub(b'0'));
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// How many bytes the integer with these digits has, from its logarithm: exact but for values within a hair of a power of 256.
fn magnitude_bytes(digits: &[u8]) -> usize {
    let (leading, others) = digits.split_at_checked(17).unwrap_or((digits, &[]));
    let leading = parse_u128(leading).unwrap_or_default() as f64;
    let bits = leading.log2() + others.len() as f64 * std::f64::consts::LOG2_10;
    ((bits / 8.0) as usize).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::{json_term_size, term_size_at_most};
    use proptest::prelude::*;

    #[test]
    fn sizes_are_those_of_the_external_term_format() {
        for (json, size) in [
            // The examples of websocket-protocol section 9.4.
            ("{}", 6),
            (
                r#"{"event":"TEST","payload":{"msg":1},"type":"broadcast"}"#,
                75,
            ),
            (r#"{"l":[1,2,300]}"#, 27),
            // Its table, each plus the version byte.
            ("null", 6),
            ("true", 7),
            ("false", 8),
            ("0", 3),
            ("-0", 3),
            ("255", 3),
            ("256", 6),
            ("-1", 6),
            ("2147483647", 6),
            ("-2147483648", 6),
            ("2147483648", 8),
            ("-2147483649", 8),
            ("4294967296", 9),
            ("12345678901234567000", 12),
            ("18446744073709551615", 12),
            ("18446744073709551616", 13),
            ("340282366920938463463374607431768211455", 20),
            ("340282366920938463463374607431768211456", 21),
            ("1.5", 10),
            ("1e2", 10),
            ("-0.0", 10),
            (r#""""#, 6),
            (r#""abc""#, 9),
            (r#""é€😀""#, 15),
            (r#""\n\"\\\/""#, 10),
            (r#""\u0041\u00e9\u20ac\ud83d\ude00!""#, 17),
            (r#""0123456789abcdef""#, 22),
            ("[]", 2),
            ("[1]", 5),
            ("[0,255]", 6),
            ("[0,256]", 14),
            ("[-0]", 5),
            ("[1.0]", 16),
            ("[[]]", 8),
            ("[[1],[2]]", 15),
            ("[1,[2],3]", 15),
            ("[1,{},3]", 16),
            (r#"["a"]"#, 13),
            (r#"{"a":[1,2],"b":[]}"#, 6 + 6 + 5 + 6 + 1),
            (" { \"a\" : [ 1 , 2 ] } ", 6 + 6 + 5),
            (r#"{"a":"[1,2]"}"#, 6 + 6 + 10),
        ] {
            assert_eq!(json_term_size(json), size, "{json}");
        }
    }

    #[test]
    fn long_byte_lists_and_integers_follow_the_format() {
        let list = |count: usize| format!("[{}]", vec!["7"; count].join(","));
        assert_eq!(json_term_size(&list(65_534)), 1 + 3 + 65_534);
        assert_eq!(json_term_size(&list(65_535)), 1 + 6 + 2 * 65_535);
        // 10^n has floor(n * log2(10) / 8) + 1 bytes.
        let power = |zeros: usize| format!("1{}", "0".repeat(zeros));
        assert_eq!(json_term_size(&power(39)), 1 + 3 + 17);
        assert_eq!(json_term_size(&power(600)), 1 + 3 + 250);
        assert_eq!(json_term_size(&power(700)), 1 + 6 + 291);
    }

    #[test]
    fn text_that_is_not_json_does_no_harm() {
        for text in [
            "",
            "\"",
            "\"\\",
            "\"\\u",
            "\"\\ud800",
            "]]]]",
            "nul",
            "-",
            "\u{1}",
            "[1",
        ] {
            json_term_size(text);
        }
    }

    proptest! {
        #[test]
        fn no_term_is_larger_than_the_bound(json in crate::phoenix::tests::any_json()) {
            prop_assert!(json_term_size(&json) <= term_size_at_most(json.len()), "{}", json);
        }
    }

    #[test]
    fn the_bound_is_nearly_met() {
        let json = format!("{}1e1{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(json_term_size(&json), term_size_at_most(json.len()));
    }
}

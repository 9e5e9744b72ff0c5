//! Tokens as people paste them: percent-encoded, with line breaks.

use std::borrow::Cow;

/// Percent-decodes a token and removes all white space from it (spec: auth 1.1, step 0).
///
/// A `%` that no two hexadecimal digits follow stays as it is, and bytes that are not UTF-8 become replacement characters: neither can
/// be part of a token, so both end as a malformed one. An ordinary token is returned as it came, without a copy.
#[must_use]
pub fn normalise(token: &str) -> Cow<'_, str> {
    if !token
        .bytes()
        .any(|byte| byte == b'%' || byte.is_ascii_whitespace() || byte == VERTICAL_TAB)
    {
        return Cow::Borrowed(token);
    }
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let byte = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        };
        // White space is removed after decoding, so `%20` and `%0A` go as well.
        if !byte.is_ascii_whitespace() && byte != VERTICAL_TAB {
            out.push(byte);
        }
    }
    Cow::Owned(
        String::from_utf8(out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// White space for the original's regular expression, but not for `is_ascii_whitespace`.
const VERTICAL_TAB: u8 = 0x0b;

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_decoded_and_stripped() {
        for (token, expected) in [
            ("a.b-c_d", "a.b-c_d"),
            (" a\n.b\t\r.c ", "a.b.c"),
            ("a%2Eb%2ec", "a.b.c"),
            ("a%20b%0A", "ab"),
            ("a\u{b}b\u{c}", "ab"),
            ("a%2", "a%2"),
            ("a%zz", "a%zz"),
            ("%", "%"),
            ("%25%32%45", "%2E"),
            ("%ff", "\u{fffd}"),
            ("a+b", "a+b"),
            ("", ""),
        ] {
            assert_eq!(normalise(token), expected, "{token:?}");
        }
        assert!(
            matches!(normalise("a.b.c"), Cow::Borrowed(_)),
            "nothing to do, nothing copied"
        );
    }
}

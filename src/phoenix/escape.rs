//! Strings in and out of their JSON form.

use std::borrow::Cow;

use super::scan::{hex4, plain_bytes};

/// Appends `text` as a JSON string, quotes included.
pub fn json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    // Special characters are bytes of their own in UTF-8.
    while let Some((plain, special)) = rest.split_at_checked(plain_bytes(rest)) {
        out.extend_from_slice(plain);
        let Some((byte, behind)) = special.split_first() else {
            break;
        };
        out.extend_from_slice(escape_of(*byte).unwrap_or_default().as_bytes());
        rest = behind;
    }
    out.push(b'"');
}

/// `text` as it stands between the quotes of a JSON string; borrowed when nothing has to be escaped.
///
/// Escaped is what must be (RFC 8259 section 7): quote, backslash, and the characters below U+0020.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let plain = plain_bytes(text.as_bytes());
    if plain == text.len() {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len().saturating_add(16));
    for character in text.chars() {
        match u8::try_from(character).ok().and_then(escape_of) {
            Some(escape) => escaped.push_str(escape),
            None => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// The escape of a character that must be escaped.
fn escape_of(byte: u8) -> Option<&'static str> {
    match byte {
        b'"' => Some("\\\""),
        b'\\' => Some("\\\\"),
        control => CONTROLS.get(usize::from(control)).copied(),
    }
}

/// The escapes of the characters below U+0020.
const CONTROLS: [&str; 32] = [
    "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\b",
    "\\t", "\\n", "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012",
    "\\u0013", "\\u0014", "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a",
    "\\u001b", "\\u001c", "\\u001d", "\\u001e", "\\u001f",
];

/// The text that `inner` stands for: what was between the quotes of a checked JSON string.
///
/// Of an unchecked one, what cannot be decoded is left out.
pub(super) fn unescape(inner: &str) -> String {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escape.chars();
        let (character, unit_bytes) = match characters.next() {
            Some('u') => unescape_unit(characters.as_str()),
            Some('b') => (Some('\u{8}'), 0),
            Some('f') => (Some('\u{c}'), 0),
            Some('n') => (Some('\n'), 0),
            Some('r') => (Some('\r'), 0),
            Some('t') => (Some('\t'), 0),
            other => (other, 0),
        };
        text.extend(character);
        rest = characters.as_str().get(unit_bytes..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

/// The character behind `\u`, one or two units, and how many bytes it took.
fn unescape_unit(digits: &str) -> (Option<char>, usize) {
    match hex4(digits.as_bytes()) {
        Some((high @ 0xd800..=0xdbff, [b'\\', b'u', rest @ ..])) => {
            let low = hex4(rest).map_or(0, |(low, _)| low);
            let units = [high as u16, low as u16];
            let character = char::decode_utf16(units).next().and_then(Result::ok);
            (character, 10)
        }
        Some((unit, _)) => (char::from_u32(unit), 4),
        None => (None, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::{escape, unescape};

    #[test]
    fn strings_are_escaped_as_little_as_possible() {
        for (text, json) in [
            ("", ""),
            ("realtime:room é 😀/", "realtime:room é 😀/"),
            ("a\"b", "a\\\"b"),
            ("\\", "\\\\"),
            ("\u{8}\t\n\u{c}\r", "\\b\\t\\n\\f\\r"),
            ("\0\u{1f}\u{7f}", "\\u0000\\u001f\u{7f}"),
            (
                "long enough for a word\u{1}",
                "long enough for a word\\u0001",
            ),
        ] {
            assert_eq!(escape(text), json);
            assert_eq!(unescape(json), text);
        }
    }

    #[test]
    fn escapes_of_others_are_understood() {
        for (json, text) in [
            ("\\/", "/"),
            ("\\u0041\\u00e9\\u20AC", "Aé€"),
            ("x\\ud83d\\uDE00y", "x😀y"),
            ("\\u0000", "\0"),
            // Not JSON: nothing to decode, and no panic.
            ("\\", ""),
            ("\\ud800", ""),
            ("\\ud800\\u0041", ""),
            ("\\u12", "12"),
            ("\\ué", "é"),
        ] {
            assert_eq!(unescape(json), text, "{json}");
        }
    }
}

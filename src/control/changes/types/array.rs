//! Arrays as PostgreSQL prints them: `[0:1]={1,NULL,"a b"}`.
//!
//! What comes in: the text of an array. What goes out: its parts in order. What always holds: values and what stands between them
//! take turns, and what opens is closed, so whoever writes a bracket per brace writes JSON (`broken_arrays_are_malformed`).
//! Deliberately absent: what the elements are.

use super::Malformed;
use std::borrow::Cow;

/// A part of an array.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Part<'a> {
    /// A dimension begins.
    Open,
    /// It ends.
    Close,
    /// The next element, or the next array of the dimension within.
    Next,
    /// An element.
    Element(Cow<'a, str>),
    /// An element that is NULL.
    Null,
}

/// The parts of an array, one after the other.
pub(super) struct Parts<'a> {
    rest: &'a str,
    delimiter: u8,
    depth: u32,
    /// Whether an element or a dimension was just read; otherwise one has to come.
    is_behind_value: bool,
    /// Whether a dimension was just opened.
    is_behind_open: bool,
}

/// Dimensions of an array at most (PostgreSQL's `MAXDIM`).
const DEPTH_MAX: u32 = 6;

impl<'a> Parts<'a> {
    /// The parts of `text`, whose elements are told apart by `delimiter`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it begins as no array does.
    pub(super) fn new(text: &'a str, delimiter: char) -> Result<Self, Malformed> {
        // Bounds of the dimensions, where they do not begin at 1: JSON has none.
        let rest = match text.strip_prefix('[') {
            Some(bounds) => bounds.split_once('=').ok_or(Malformed)?.1,
            None => text,
        };
        if !rest.starts_with('{') || !delimiter.is_ascii() {
            return Err(Malformed);
        }
        Ok(Self {
            rest,
            delimiter: delimiter as u8,
            depth: 0,
            is_behind_value: false,
            is_behind_open: false,
        })
    }

    /// The next part; none at the end.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: this is no array.
    pub(super) fn next(&mut self) -> Result<Option<Part<'a>>, Malformed> {
        let Some(byte) = self.rest.bytes().next() else {
            return if self.depth == 0 && self.is_behind_value {
                Ok(None)
            } else {
                Err(Malformed)
            };
        };
        // Braces are closed and text goes on.
        if self.depth == 0 && self.is_behind_value {
            return Err(Malformed);
        }
        let is_behind_open = std::mem::take(&mut self.is_behind_open);
        let part = match (byte, self.is_behind_value) {
            (b'}', is_behind_value) if is_behind_value || is_behind_open => {
                self.depth -= 1;
                self.skip();
                self.is_behind_value = true;
                Part::Close
            }
            (byte, true) if byte == self.delimiter => {
                self.skip();
                self.is_behind_value = false;
                Part::Next
            }
            (b'{', false) if self.depth < DEPTH_MAX => {
                self.depth += 1;
                self.skip();
                self.is_behind_open = true;
                Part::Open
            }
            (b'"', false) => {
                self.skip();
                self.is_behind_value = true;
                Part::Element(self.quoted()?)
            }
            (_, false) => {
                self.is_behind_value = true;
                self.bare()?
            }
            (_, true) => return Err(Malformed),
        };
        Ok(Some(part))
    }

    /// Leaves one byte of ASCII behind.
    fn skip(&mut self) {
        self.rest = &self.rest[1..];
    }

    /// What stands before the next quote that is not escaped.
    fn quoted(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let end = memchr::memchr2(b'"', b'\\', self.rest.as_bytes()).ok_or(Malformed)?;
        let (plain, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        if rest.starts_with('"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        loop {
            // The character behind a backslash counts as it is.
            let character = self.rest.chars().next().ok_or(Malformed)?;
            text.push(character);
            self.rest = &self.rest[character.len_utf8()..];
            let end = memchr::memchr2(b'"', b'\\', self.rest.as_bytes()).ok_or(Malformed)?;
            let (plain, rest) = self.rest.split_at(end);
            text.push_str(plain);
            self.rest = &rest[1..];
            if rest.starts_with('"') {
                return Ok(Cow::Owned(text));
            }
        }
    }

    /// An element without quotes: PostgreSQL quotes all that hold a character with a meaning.
    fn bare(&mut self) -> Result<Part<'a>, Malformed> {
        let is_end = |byte: &u8| *byte == self.delimiter || *byte == b'}';
        let end = self
            .rest
            .as_bytes()
            .iter()
            .position(is_end)
            .ok_or(Malformed)?;
        let (text, rest) = self.rest.split_at(end);
        if text.is_empty() || memchr::memchr3(b'"', b'\\', b'{', text.as_bytes()).is_some() {
            return Err(Malformed);
        }
        self.rest = rest;
        Ok(match text {
            "NULL" => Part::Null,
            _ => Part::Element(Cow::Borrowed(text)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts, braces and delimiters as they are, elements between bars.
    fn parts(text: &str, delimiter: char) -> Result<String, Malformed> {
        let (mut parts, mut seen) = (Parts::new(text, delimiter)?, String::new());
        while let Some(part) = parts.next()? {
            match part {
                Part::Open => seen.push('{'),
                Part::Close => seen.push('}'),
                Part::Next => seen.push(','),
                Part::Element(text) => seen.extend(["|", &text, "|"]),
                Part::Null => seen.push('-'),
            }
        }
        Ok(seen)
    }

    #[test]
    fn arrays_come_in_parts() {
        for (text, expected) in [
            ("{}", "{}"),
            ("{1,NULL,3}", "{|1|,-,|3|}"),
            (r#"{"NULL",null,""}"#, "{|NULL|,|null|,||}"),
            ("{{1,2},{3,4}}", "{{|1|,|2|},{|3|,|4|}}"),
            ("[0:1][-2:-1]={{1,2},{3,4}}", "{{|1|,|2|},{|3|,|4|}}"),
            (
                r#"{"a,b","c\"d","\\","{}"," x "}"#,
                r#"{|a,b|,|c"d|,|\|,|{}|,| x |}"#,
            ),
            (r#"{"\é\\é",ü😀}"#, r"{|é\é|,|ü😀|}"),
            ("{(1;2)}", "{|(1;2)|}"),
        ] {
            assert_eq!(parts(text, ',').as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(
            parts("{(1,1),(0,0);(2,2),(1,1)}", ';').as_deref(),
            Ok("{|(1,1),(0,0)|,|(2,2),(1,1)|}")
        );
    }

    #[test]
    fn broken_arrays_are_malformed() {
        for text in [
            "",
            "1",
            "{",
            "}",
            "{1",
            "{1,",
            "{1,}",
            "{,1}",
            "{1,,2}",
            "{1}}",
            "{1}2",
            "{}{}",
            "{{1}",
            "{\"a}",
            "{\"a\\",
            "{\"a\"b}",
            "{a\"b\"}",
            "{1{2}}",
            "{a\\b}",
            "[1:2]",
            "[1:2]=",
            "{{{{{{{1}}}}}}}",
        ] {
            assert_eq!(parts(text, ','), Err(Malformed), "{text}");
        }
        assert_eq!(
            parts("{{{{{{1}}}}}}", ',').as_deref(),
            Ok("{{{{{{|1|}}}}}}")
        );
    }
}

//! The grammar of an entry's `filter` (spec: postgres-changes 2.4).
//!
//! What comes in: `column=operator.value`, several of them with commas between. What goes out: [`FilterText`]s in their order, or why
//! there are none, without the prefix that the client sees. What always holds: the first segment that makes no sense is the one that is
//! told of.

use super::{FilterText, Operator};
use crate::error::inspect;
use crate::limits;
use serde_json::Value;

/// The filters of a text; an empty one has none.
pub(super) fn filters(text: &str) -> Result<Vec<FilterText>, String> {
    match text.trim() {
        "" => Ok(Vec::new()),
        text => {
            let filters: Result<Vec<_>, _> = Segments::of(text)
                .take(limits::CHANGES_FILTERS_MAX + 1)
                .map(filter)
                .collect();
            let filters = filters?;
            if filters.len() > limits::CHANGES_FILTERS_MAX {
                let max = limits::CHANGES_FILTERS_MAX;
                return Err(format!("more than {max} filters in one entry"));
            }
            Ok(filters)
        }
    }
}

/// The parts of a text between its commas, parentheses and double quotes respected.
struct Segments<'a> {
    /// What is left; none after the last segment.
    rest: Option<&'a str>,
    /// What stands before it.
    previous: Option<u8>,
}

impl<'a> Segments<'a> {
    fn of(text: &'a str) -> Self {
        Self {
            rest: Some(text),
            previous: None,
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let end = segment_end(rest, self.previous);
        self.rest = rest.get(end + 1..);
        self.previous = Some(b',');
        Some(&rest[..end])
    }
}

/// Where the segment ends that a text begins with: at a comma, or at the text's end.
///
/// A double quote opens only where a value or an element begins, so that one in the midst of a value hides no comma.
fn segment_end(text: &str, mut previous: Option<u8>) -> usize {
    let mut depth: usize = 0;
    let mut in_quotes = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            // Of a character of several bytes this passes over the first; the others mean nothing here.
            b'\\' if in_quotes => {
                bytes.next();
            }
            b'"' if in_quotes => in_quotes = false,
            _ if in_quotes => {}
            b'"' => in_quotes = matches!(previous, Some(b'.' | b'(' | b',')),
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => return index,
            _ => {}
        }
        previous = Some(byte);
    }
    text.len()
}

fn filter(segment: &str) -> Result<FilterText, String> {
    let segment = segment.trim();
    if segment.is_empty() {
        return Err("filter must not contain empty segments (check for extra commas)".to_owned());
    }
    let (column, rest) = segment.split_once('=').ok_or_else(|| pieces(&[segment]))?;
    let (negate, rest) = match rest.strip_prefix("not.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (name, value) = rest.split_once('.').ok_or_else(|| pieces(&[rest]))?;
    let operator = Operator::of(name).ok_or_else(|| pieces(&[name, value]))?;
    let value = match operator {
        Operator::In => array_literal(value)?,
        _ => unquoted(value).unwrap_or_else(|| value.to_owned()),
    };
    Ok(FilterText {
        column: column.to_owned(),
        operator,
        value,
        negate,
    })
}

/// What is left when a text could not be taken apart.
fn pieces(pieces: &[&str]) -> String {
    inspect(&Value::from(pieces))
}

/// `(1,2)` as PostgreSQL writes an array.
fn array_literal(value: &str) -> Result<String, String> {
    let items = value
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or("`in` filter value must be wrapped by parentheses")?;
    Ok(format!("{{{items}}}"))
}

/// What stands in the double quotes, if they enclose the whole value.
fn unquoted(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => return chars.as_str().is_empty().then_some(out),
            '\\' => out.push(chars.next()?),
            char => out.push(char),
        }
    }
    None
}

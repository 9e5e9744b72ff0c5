//! JSON as PostgreSQL's jsonb prints it.
//!
//! What comes in: the text of a value of type `json`, spelled as the customer spelled it. What goes out: what comes of it when PostgreSQL
//! makes jsonb of it: one space behind `:` and `,`, keys by length and then by bytes, the last of equal keys, numbers without exponents,
//! only the escapes that must be. What always holds: time and memory grow with the text, whatever is in it, apart from numbers, which
//! have a ceiling; nothing recurses. Deliberately absent: values of type `jsonb`, whose text is right as it comes.

mod settled;
mod tape;

use super::{Malformed, number};
use settled::is_settled;
use tape::Tape;

/// Appends `text`; `out` may become `ceiling` bytes long.
///
/// # Errors
///
/// [`Malformed`] when it is no JSON, or such as PostgreSQL cannot make jsonb of: `\u0000`, half a surrogate pair, numbers out of range.
pub(super) fn write(out: &mut Vec<u8>, text: &str, ceiling: usize) -> Result<(), Malformed> {
    if is_settled(text) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    Tape::parse(text)?.write(out, ceiling)
}

#[cfg(test)]
mod tests;

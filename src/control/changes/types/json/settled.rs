//! Whether JSON is spelled already as jsonb would be.

use super::number;

/// Whether `text` is spelled as jsonb prints it. False negatives are allowed: such a text is read and written anew.
///
/// Costs no allocation, and nearly nothing for what other writers of JSON print, for it gives up at the first missing space.
pub(super) fn is_settled(text: &str) -> bool {
    Reader { text, at: 0 }.document().is_some()
}

/// Deeper texts are not looked at further.
const DEPTH_MAX: usize = 32;

/// Longer numbers may be out of range, which is not looked at here.
const NUMBER_BYTES_MAX: usize = 64;

/// An array or object that is open.
#[derive(Clone, Copy, Default)]
struct Open<'a> {
    is_object: bool,
    /// Its last key.
    key: &'a str,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads one value that is all of the text; none where anything is not as it would be printed.
    fn document(&mut self) -> Option<()> {
        let (mut open, mut depth) = ([Open::default(); DEPTH_MAX], 0_usize);
        loop {
            // A value.
            match self.peek()? {
                start @ (b'{' | b'[') => {
                    self.at += 1;
                    let is_object = start == b'{';
                    let end = if is_object { b'}' } else { b']' };
                    if self.peek()? != end {
                        let key = if is_object { self.key()? } else { "" };
                        *open.get_mut(depth)? = Open { is_object, key };
                        depth += 1;
                        continue;
                    }
                    self.at += 1;
                }
                b'"' => {
                    self.string()?;
                }
                _ => self.scalar()?,
            }
            // What stands behind it.
            loop {
                let Some(inner) = depth.checked_sub(1) else {
                    return (self.at == self.text.len()).then_some(());
                };
                let Open {
                    is_object,
                    key: last,
                } = open[inner];
                match self.peek()? {
                    b',' => {
                        self.expect(", ")?;
                        if is_object {
                            let key = self.key()?;
                            let is_behind = (last.len(), last) < (key.len(), key);
                            open[inner].key = is_behind.then_some(key)?;
                        }
                        break;
                    }
                    b'}' if is_object => {}
                    b']' if !is_object => {}
                    _ => return None,
                }
                self.at += 1;
                depth = inner;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, word: &str) -> Option<()> {
        let is_there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        is_there.then_some(())
    }

    /// A key without escapes, whose order can be seen, and what stands between it and its value.
    fn key(&mut self) -> Option<&'a str> {
        let key = self.string()?;
        self.expect(": ")?;
        (!key.contains('\\')).then_some(key)
    }

    /// A string that has the escapes it must have and no others.
    fn string(&mut self) -> Option<&'a str> {
        self.expect("\"")?;
        let (text, start) = (self.text, self.at);
        let bytes = text.as_bytes();
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    self.at += match bytes[self.at + 1..] {
                        [b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
                        [b'u', b'0', b'0', high @ b'0'..=b'1', low, ..] => {
                            let has_short_form =
                                high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
                            let is_zero = high == b'0' && low == b'0';
                            let is_lower_hex = matches!(low, b'0'..=b'9' | b'a'..=b'f');
                            (is_lower_hex && !has_short_form && !is_zero).then_some(6)?
                        }
                        _ => return None,
                    };
                }
                ..b' ' => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        text.get(start..self.at - 1)
    }

    /// A number or a word.
    fn scalar(&mut self) -> Option<()> {
        let rest = &self.text[self.at..];
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}');
        let size = rest
            .as_bytes()
            .iter()
            .position(is_end)
            .unwrap_or(rest.len());
        let token = &rest[..size];
        self.at += size;
        let digits = token.strip_prefix('-').unwrap_or(token);
        let is_padded = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        let is_number = size <= NUMBER_BYTES_MAX && !is_padded && number::is_settled(token);
        (is_number || matches!(token, "true" | "false" | "null")).then_some(())
    }
}

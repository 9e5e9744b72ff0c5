//! A checking scanner over JSON text (RFC 8259): finds where values end, builds nothing.
//!
//! It is ours because the libraries' ways to skip a value do not check enough for text that is forwarded as it is: `sonic-rs`
//! takes any four characters for a `\u` escape and recurses without a bound, `serde_json`'s raw values take lone surrogates.
//! What the original's parser refuses is refused here: lone surrogates, and numbers with a fraction or an exponent that are
//! beyond a double (an integer may have any number of digits). What the original does not parse may have both
//! ([`is_json_unread`]): the RFC allows them, and `JSON.stringify` makes lone surrogates of a string that was cut within a pair.

use std::borrow::Cow;

use super::escape::unescape;

/// How deep arrays and objects may be nested in one value. What is deeper is malformed: no reader has to follow.
///
/// The scanner itself keeps one bit per level and does not recurse.
pub const JSON_DEPTH_MAX: usize = 1024;

/// Why a text is not JSON.
pub(super) type Reason = &'static str;

/// A value's text, without the space around it.
#[derive(Copy, Clone, Debug)]
pub(super) struct Value<'a> {
    pub(super) raw: &'a str,
    /// For a string, whether it contains a backslash.
    escaped: bool,
}

impl<'a> Value<'a> {
    /// The string that this value is, decoded; `None` for any other value.
    #[inline]
    pub(super) fn text(&self) -> Option<Cow<'a, str>> {
        let inner = self.raw.strip_prefix('"')?.strip_suffix('"')?;
        Some(match self.escaped {
            false => Cow::Borrowed(inner),
            true => Cow::Owned(unescape(inner)),
        })
    }
}

/// A position in a text.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    /// What is left of `text`.
    rest: &'a [u8],
    /// Whether strings and numbers must be what the original's parser can make a value of.
    is_strict: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            rest: text.as_bytes(),
            is_strict: true,
        }
    }

    fn at(&self) -> usize {
        self.text.len().saturating_sub(self.rest.len())
    }

    #[inline]
    fn skip_space(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Takes `byte`, and space before it, if it comes next.
    #[inline]
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Fails unless only space is left.
    pub(super) fn end(&mut self) -> Result<(), Reason> {
        self.skip_space();
        match self.rest {
            [] => Ok(()),
            _ => Err("text after the end of the value"),
        }
    }

    /// Takes the next value, whatever it is, and checks all of it.
    pub(super) fn value(&mut self) -> Result<Value<'a>, Reason> {
        self.skip_space();
        let start = self.at();
        let escaped = match self.rest {
            [b'"', rest @ ..] => {
                self.rest = rest;
                self.string()?
            }
            _ => {
                self.skip_value()?;
                false
            }
        };
        let raw = self.text.get(start..self.at()).unwrap_or_default();
        Ok(Value { raw, escaped })
    }

    /// Takes the next member of an object: a key and its value.
    pub(super) fn member(&mut self) -> Result<(Cow<'a, str>, Value<'a>), Reason> {
        self.skip_space();
        let [b'"', ..] = self.rest else {
            return Err("expected a key");
        };
        let key = self.value()?.text().unwrap_or_default();
        if !self.eat(b':') {
            return Err("expected a colon");
        }
        Ok((key, self.value()?))
    }

    /// Takes a value. One flat loop; what is open is one bit per level.
    fn skip_value(&mut self) -> Result<(), Reason> {
        let mut open = Open::default();
        loop {
            self.skip_space();
            let [first, rest @ ..] = self.rest else {
                return Err("the text ends where a value should be");
            };
            self.rest = rest;
            match first {
                b'"' => {
                    self.string()?;
                }
                b'{' => {
                    open.push(true)?;
                    if !self.eat(b'}') {
                        self.key()?;
                        continue;
                    }
                    open.pop();
                }
                b'[' => {
                    open.push(false)?;
                    if !self.eat(b']') {
                        continue;
                    }
                    open.pop();
                }
                b'-' | b'0'..=b'9' => self.number(*first)?,
                b't' => self.literal(b"rue")?,
                b'f' => self.literal(b"alse")?,
                b'n' => self.literal(b"ull")?,
                _ => return Err("expected a value"),
            }
            if self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here. True when nothing is open any more, false when a further value must follow.
    #[inline]
    fn close(&mut self, open: &mut Open) -> Result<bool, Reason> {
        while open.depth > 0 {
            self.skip_space();
            let [first, rest @ ..] = self.rest else {
                return Err("the text ends inside of an array or object");
            };
            self.rest = rest;
            match (first, open.in_object()) {
                (b',', true) => {
                    self.key()?;
                    return Ok(false);
                }
                (b',', false) => return Ok(false),
                (b'}', true) | (b']', false) => open.pop(),
                _ => return Err("expected a comma or the end of an array or object"),
            }
        }
        Ok(true)
    }

    /// Takes a key and its colon.
    #[inline]
    fn key(&mut self) -> Result<(), Reason> {
        if !self.eat(b'"') {
            return Err("expected a key");
        }
        self.string()?;
        match self.eat(b':') {
            true => Ok(()),
            false => Err("expected a colon"),
        }
    }

    fn literal(&mut self, letters: &[u8]) -> Result<(), Reason> {
        self.rest = self.rest.strip_prefix(letters).ok_or("expected a value")?;
        Ok(())
    }

    /// Takes a string behind its first quote. True if it contains a backslash.
    #[inline]
    fn string(&mut self) -> Result<bool, Reason> {
        let mut escaped = false;
        loop {
            let (_, rest) = self.rest.split_at(plain_bytes(self.rest));
            match rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(escaped);
                }
                [b'\\', rest @ ..] => {
                    self.rest = skip_escape(rest, self.is_strict)?;
                    escaped = true;
                }
                [] => return Err("the text ends inside of a string"),
                _ => return Err("a control character in a string"),
            }
        }
    }

    /// Takes a number behind its first character.
    fn number(&mut self, first: u8) -> Result<(), Reason> {
        let start = self.at().saturating_sub(1);
        let mut rest = self.rest;
        let mut digit = first;
        if first == b'-' {
            let [next, more @ ..] = rest else {
                return Err("a minus without digits");
            };
            (digit, rest) = (*next, more);
        }
        match digit {
            b'0' => {
                if let [b'0'..=b'9', ..] = rest {
                    return Err("a number with a leading zero");
                }
            }
            b'1'..=b'9' => rest = skip_digits(rest),
            _ => return Err("a minus without digits"),
        }
        let integer_bytes = self.rest.len().saturating_sub(rest.len());
        let mut is_huge = integer_bytes > 300;
        let mut is_float = false;
        if let [b'.', more @ ..] = rest {
            rest = skip_some_digits(more)?;
            is_float = true;
        }
        if let [b'e' | b'E', more @ ..] = rest {
            rest = match more {
                [b'+' | b'-', more @ ..] | more => skip_some_digits(more)?,
            };
            (is_float, is_huge) = (true, true);
        }
        self.rest = rest;
        if is_float && is_huge && self.is_strict {
            let text = self.text.get(start..self.at()).unwrap_or_default();
            // Parity: the original's parser makes a double of such a number and refuses the text when it cannot.
            if !text.parse().is_ok_and(f64::is_finite) {
                return Err("a number beyond the range of a double");
            }
        }
        Ok(())
    }
}

/// Which arrays and objects are open: one bit per level, whether it is an object.
#[derive(Default)]
struct Open {
    depth: usize,
    /// The innermost levels, up to 64 of them, the innermost in the lowest bit.
    objects: u64,
    /// Full words of outer levels. Empty, and so without allocation, for all but strange texts; at most 15 words.
    outer: Vec<u64>,
}

impl Open {
    #[inline]
    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    #[inline]
    fn push(&mut self, is_object: bool) -> Result<(), Reason> {
        if self.depth & 63 == 0 && self.depth > 0 {
            if self.depth == JSON_DEPTH_MAX {
                return Err("arrays or objects are nested too deeply");
            }
            self.outer.push(self.objects);
        }
        self.objects = self.objects << 1 | u64::from(is_object);
        self.depth = self.depth.wrapping_add(1);
        Ok(())
    }

    #[inline]
    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        if self.depth & 63 == 0 {
            self.objects = self.outer.pop().unwrap_or_default();
        }
    }
}

const _: () = assert!(JSON_DEPTH_MAX.is_multiple_of(64));

fn skip_digits(mut rest: &[u8]) -> &[u8] {
    while let [b'0'..=b'9', more @ ..] = rest {
        rest = more;
    }
    rest
}

fn skip_some_digits(rest: &[u8]) -> Result<&[u8], Reason> {
    match rest {
        [b'0'..=b'9', more @ ..] => Ok(skip_digits(more)),
        _ => Err("digits are missing in a number"),
    }
}

/// Skips an escape behind its backslash.
fn skip_escape(rest: &[u8], is_strict: bool) -> Result<&[u8], Reason> {
    match rest {
        [
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            rest @ ..,
        ] => Ok(rest),
        [b'u', rest @ ..] => match hex4(rest).ok_or("a \\u without four hexadecimal digits")? {
            (_, rest) if !is_strict => Ok(rest),
            // A pair of surrogates stands for one character; half a pair stands for nothing.
            (0xd800..=0xdbff, [b'\\', b'u', rest @ ..]) => match hex4(rest) {
                Some((0xdc00..=0xdfff, rest)) => Ok(rest),
                _ => Err("half a surrogate pair"),
            },
            (0xd800..=0xdfff, _) => Err("half a surrogate pair"),
            (_, rest) => Ok(rest),
        },
        _ => Err("an unknown escape"),
    }
}

/// Four hexadecimal digits and what follows them.
pub(super) fn hex4(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<4>()?;
    let mut unit = 0;
    for digit in digits {
        unit = unit << 4 | char::from(*digit).to_digit(16)?;
    }
    Some((unit, rest))
}

/// How many bytes at the start of `bytes` are neither a quote, a backslash nor a control character.
///
/// Eight at a time, for most strings are short; from the ninth byte on also 32 at a time, which the compiler turns into vector
/// instructions: `benches/phoenix_codec.rs`, `validate`.
#[inline]
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((chunk, more)) = rest.split_first_chunk::<8>() {
        let special = special_bytes(u64::from_le_bytes(*chunk));
        if special != 0 {
            let in_chunk = (special.trailing_zeros() >> 3) as usize;
            return bytes.len().wrapping_sub(rest.len()).wrapping_add(in_chunk);
        }
        rest = more;
        while let Some((block, more)) = rest.split_first_chunk::<32>() {
            let (words, _) = block.as_chunks::<8>();
            let special = |word: &[u8; 8]| special_bytes(u64::from_le_bytes(*word));
            if words.iter().fold(0, |any, word| any | special(word)) != 0 {
                break;
            }
            rest = more;
        }
    }
    let in_tail = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..0x20));
    let plain = bytes.len().wrapping_sub(rest.len());
    plain.wrapping_add(in_tail.unwrap_or(rest.len()))
}

/// Sets the high bit of each byte of `word` that is special; of those above the first special one, perhaps of more.
#[inline]
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    const QUOTES: u64 = 0x2222_2222_2222_2222;
    const BACKSLASHES: u64 = 0x5c5c_5c5c_5c5c_5c5c;
    const SPACES: u64 = 0x2020_2020_2020_2020;
    // A byte that is zero borrows when one is taken from it, and its high bit was clear.
    let quote = word ^ QUOTES;
    let backslash = word ^ BACKSLASHES;
    let control = word.wrapping_sub(SPACES) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (quote | backslash | control) & HIGHS
}

/// Whether `bytes` are one JSON value, by the rules of this room.
pub fn is_json(bytes: &[u8]) -> bool {
    is_value(bytes, true)
}

/// Whether `bytes` are one JSON value that nobody here reads: half surrogate pairs and numbers of any size are let through. The depth
/// is bounded all the same, for those who do read it.
pub fn is_json_unread(bytes: &[u8]) -> bool {
    is_value(bytes, false)
}

fn is_value(bytes: &[u8], is_strict: bool) -> bool {
    let Ok(text) = simdutf8::basic::from_utf8(bytes) else {
        return false;
    };
    let mut scanner = Scanner {
        is_strict,
        ..Scanner::new(text)
    };
    scanner.value().is_ok() && scanner.end().is_ok()
}

/// The members of an object's text in order, repeated keys included: decoded key, raw value.
///
/// Ends early where the text is not JSON, and yields nothing for any other value.
pub fn members(object: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let mut scanner = Scanner::new(object);
    let mut more = scanner.eat(b'{') && !scanner.eat(b'}');
    std::iter::from_fn(move || {
        if !more {
            return None;
        }
        let member = scanner.member().ok();
        more = member.is_some() && scanner.eat(b',');
        member.map(|(key, value)| (key, value.raw))
    })
}

/// The elements of an array's text in order, raw.
///
/// Ends early where the text is not JSON, and yields nothing for any other value.
pub fn elements(array: &str) -> impl Iterator<Item = &str> {
    let mut scanner = Scanner::new(array);
    let mut more = scanner.eat(b'[') && !scanner.eat(b']');
    std::iter::from_fn(move || {
        if !more {
            return None;
        }
        let element = scanner.value().ok();
        more = element.is_some() && scanner.eat(b',');
        element.map(|value| value.raw)
    })
}

/// The string that a value's text is, decoded; `None` for any other value.
pub fn string_value(raw: &str) -> Option<Cow<'_, str>> {
    let escaped = raw.contains('\\');
    Value { raw, escaped }.text()
}

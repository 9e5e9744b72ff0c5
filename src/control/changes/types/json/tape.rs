//! JSON read into a list of nodes, put in order, and written.

use super::{Malformed, number};
use crate::limits;
use crate::phoenix;
use std::borrow::Cow;
use std::ops::Range;

/// No node.
const NONE: u32 = u32::MAX;

/// A text as a tree of values.
pub(super) struct Tape<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

/// A value.
struct Node {
    kind: Kind,
    /// Where its key stands, with its quotes; empty outside of objects.
    key: Range<u32>,
    /// Where it stands; nowhere for arrays and objects.
    value: Range<u32>,
    /// The first of the values in it.
    first: u32,
    /// The value behind it.
    next: u32,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Object,
    Array,
    String,
    Number,
    /// true, false, null.
    Word,
}

/// An array or object that is being read.
struct Open<'a> {
    node: u32,
    /// The last value in it.
    last: u32,
    /// The last key of an object.
    key: Cow<'a, str>,
    /// Whether the keys so far came in their order, without equal ones.
    is_in_order: bool,
}

impl<'a> Tape<'a> {
    /// Reads one value that is all of the text.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: as in [`super::write`].
    pub(super) fn parse(text: &'a str) -> Result<Self, Malformed> {
        // The last number of a node is NONE.
        if u32::try_from(text.len()).is_ok_and(|size| size < NONE) {
            Parser::new(text).document()
        } else {
            Err(Malformed)
        }
    }

    /// Appends what was read.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when a number is out of range, or `out` becomes longer than `ceiling`.
    pub(super) fn write(&self, out: &mut Vec<u8>, ceiling: usize) -> Result<(), Malformed> {
        // The arrays and objects around `at`, outermost first.
        let (mut open, mut at) = (Vec::new(), 0_u32);
        loop {
            let node = &self.nodes[at as usize];
            if open
                .last()
                .is_some_and(|outer| self.kind(*outer) == Kind::Object)
            {
                write_string(out, slice(self.text, &node.key));
                out.extend_from_slice(b": ");
            }
            let is_container = matches!(node.kind, Kind::Object | Kind::Array);
            if is_container {
                out.push(if node.kind == Kind::Object {
                    b'{'
                } else {
                    b'['
                });
                open.push(at);
                if node.first != NONE {
                    at = node.first;
                    continue;
                }
                open.pop();
                out.push(closing(node.kind));
            } else {
                self.write_scalar(out, node, ceiling)?;
            }
            if out.len() > ceiling {
                return Err(Malformed);
            }
            // The next value, of whichever array or object has one.
            loop {
                let Some(outer) = open.last() else {
                    return Ok(());
                };
                let next = self.nodes[at as usize].next;
                if next != NONE {
                    out.extend_from_slice(b", ");
                    at = next;
                    break;
                }
                at = *outer;
                out.push(closing(self.kind(at)));
                open.pop();
            }
        }
    }

    fn write_scalar(
        &self,
        out: &mut Vec<u8>,
        node: &Node,
        ceiling: usize,
    ) -> Result<(), Malformed> {
        let text = slice(self.text, &node.value);
        match node.kind {
            Kind::Number => number::write(out, text, ceiling)?,
            Kind::String => write_string(out, text),
            _ => out.extend_from_slice(text.as_bytes()),
        }
        Ok(())
    }

    fn kind(&self, node: u32) -> Kind {
        self.nodes[node as usize].kind
    }
}

fn closing(kind: Kind) -> u8 {
    if kind == Kind::Object { b'}' } else { b']' }
}

fn slice<'a>(text: &'a str, range: &Range<u32>) -> &'a str {
    &text[range.start as usize..range.end as usize]
}

/// Appends a checked string, given with its quotes.
fn write_string(out: &mut Vec<u8>, quoted: &str) {
    match decode(quoted) {
        // Nothing that has to be escaped stands in JSON as it is.
        Cow::Borrowed(_) => out.extend_from_slice(quoted.as_bytes()),
        Cow::Owned(text) => phoenix::json_string(out, &text),
    }
}

/// What a checked string stands for, given with its quotes.
fn decode(quoted: &str) -> Cow<'_, str> {
    phoenix::string_value(quoted).unwrap_or_default()
}

struct Parser<'a> {
    tape: Tape<'a>,
    open: Vec<Open<'a>>,
    at: usize,
    /// Values of an object with their keys, while they are put in order.
    members: Vec<(Cow<'a, str>, u32)>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let tape = Tape {
            text,
            nodes: Vec::new(),
        };
        Self {
            tape,
            open: Vec::new(),
            at: 0,
            members: Vec::new(),
        }
    }

    fn document(mut self) -> Result<Tape<'a>, Malformed> {
        let mut key = 0..0;
        loop {
            if let Some(kind) = self.value(std::mem::take(&mut key))? {
                let end = closing(kind);
                self.space();
                if self.peek() != Some(end) {
                    if kind == Kind::Object {
                        key = self.key()?;
                    }
                    continue;
                }
                self.at += 1;
                self.close();
            }
            loop {
                self.space();
                let Some(open) = self.open.last() else {
                    let is_end = self.at == self.tape.text.len();
                    return if is_end {
                        Ok(self.tape)
                    } else {
                        Err(Malformed)
                    };
                };
                let kind = self.tape.kind(open.node);
                let byte = self.peek().ok_or(Malformed)?;
                self.at += 1;
                if byte == closing(kind) {
                    self.close();
                } else if byte != b',' {
                    return Err(Malformed);
                } else {
                    if kind == Kind::Object {
                        key = self.key()?;
                    }
                    break;
                }
            }
        }
    }

    /// Reads a value, or the beginning of an array or object, which is opened.
    fn value(&mut self, key: Range<u32>) -> Result<Option<Kind>, Malformed> {
        self.space();
        let start = self.at;
        let (kind, value) = match self.peek().ok_or(Malformed)? {
            b'{' | b'[' if self.open.len() >= limits::CHANGE_JSON_DEPTH_MAX => {
                return Err(Malformed);
            }
            byte @ (b'{' | b'[') => {
                self.at += 1;
                (
                    if byte == b'{' {
                        Kind::Object
                    } else {
                        Kind::Array
                    },
                    0..0,
                )
            }
            b'"' => (Kind::String, self.string()?),
            byte => {
                let bytes = &self.tape.text.as_bytes()[start..];
                let is_token =
                    |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-');
                let size = bytes.iter().take_while(|byte| is_token(byte)).count();
                self.at += size;
                (scalar(byte, &bytes[..size])?, range(start, self.at))
            }
        };
        let node = self.tape.nodes.len() as u32;
        self.tape.nodes.push(Node {
            kind,
            key,
            value,
            first: NONE,
            next: NONE,
        });
        if let Some(open) = self.open.last_mut() {
            let (last, outer) = (std::mem::replace(&mut open.last, node), open.node);
            match self.tape.nodes.get_mut(last as usize) {
                Some(last) => last.next = node,
                None => self.tape.nodes[outer as usize].first = node,
            }
        }
        let is_container = matches!(kind, Kind::Object | Kind::Array);
        if is_container {
            self.open.push(Open {
                node,
                last: NONE,
                key: Cow::Borrowed(""),
                is_in_order: true,
            });
        }
        Ok(is_container.then_some(kind))
    }

    /// Reads a key and what stands between it and its value.
    fn key(&mut self) -> Result<Range<u32>, Malformed> {
        self.space();
        let key = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(Malformed);
        }
        self.at += 1;
        let text = decode(slice(self.tape.text, &key));
        let open = self.open.last_mut().ok_or(Malformed)?;
        let is_first = open.last == NONE;
        open.is_in_order &= is_first || rank(&open.key) < rank(&text);
        open.key = text;
        Ok(key)
    }

    /// Closes the innermost array or object.
    fn close(&mut self) {
        if let Some(open) = self.open.pop().filter(|open| !open.is_in_order) {
            self.put_in_order(open.node);
        }
    }

    /// Links the values of an object in the order of their keys; of equal keys the last one stays.
    fn put_in_order(&mut self, object: u32) {
        let (text, nodes) = (self.tape.text, &mut self.tape.nodes);
        let mut at = nodes[object as usize].first;
        self.members.clear();
        while let Some(node) = nodes.get(at as usize) {
            self.members.push((decode(slice(text, &node.key)), at));
            at = node.next;
        }
        // Nodes have their numbers in the order of the text: later ones first among equals.
        let place = |(key, node): &(Cow<'a, str>, u32)| (key.len(), std::cmp::Reverse(*node));
        self.members.sort_unstable_by(|one, other| {
            let (one_place, other_place) = (place(one), place(other));
            (one_place.0, &one.0, one_place.1).cmp(&(other_place.0, &other.0, other_place.1))
        });
        self.members.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut next = NONE;
        for (_, node) in self.members.iter().rev() {
            nodes[*node as usize].next = next;
            next = *node;
        }
        nodes[object as usize].first = next;
    }

    /// Reads a string and checks its escapes.
    fn string(&mut self) -> Result<Range<u32>, Malformed> {
        if self.peek() != Some(b'"') {
            return Err(Malformed);
        }
        let bytes = self.tape.text.as_bytes();
        let start = self.at;
        let mut at = start + 1;
        loop {
            match bytes.get(at..) {
                Some([b'"', ..]) => break,
                Some([b'\\', rest @ ..]) => at += 1 + escape_size(rest)?,
                Some([byte, ..]) if *byte >= b' ' => at += 1,
                _ => return Err(Malformed),
            }
        }
        self.at = at + 1;
        Ok(range(start, self.at))
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.tape.text.as_bytes().get(self.at).copied()
    }
}

/// Where a key stands in jsonb (jsonb_util.c, `lengthCompareJsonbString`).
fn rank(key: &str) -> (usize, &str) {
    (key.len(), key)
}

/// A place in a text that is shorter than four gigabytes.
fn range(start: usize, end: usize) -> Range<u32> {
    start as u32..end as u32
}

/// What a token is that is no string.
fn scalar(first: u8, token: &[u8]) -> Result<Kind, Malformed> {
    match token {
        b"true" | b"false" | b"null" => Ok(Kind::Word),
        // What else numbers have to be is checked when they are written.
        [b'-', b'0', b'0'..=b'9', ..] | [b'0', b'0'..=b'9', ..] => Err(Malformed),
        _ if first == b'-' || first.is_ascii_digit() => Ok(Kind::Number),
        _ => Err(Malformed),
    }
}

/// Bytes of the escape whose backslash stands before `rest`: two units for a pair of surrogates.
fn escape_size(rest: &[u8]) -> Result<usize, Malformed> {
    match rest {
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Ok(1),
        [b'u', digits @ ..] => match unit(digits)? {
            0 => Err(Malformed),
            0xd800..=0xdbff => match digits.get(4..) {
                Some([b'\\', b'u', low @ ..]) if matches!(unit(low)?, 0xdc00..=0xdfff) => Ok(11),
                _ => Err(Malformed),
            },
            0xdc00..=0xdfff => Err(Malformed),
            _ => Ok(5),
        },
        _ => Err(Malformed),
    }
}

/// The four digits that `digits` begins with.
fn unit(digits: &[u8]) -> Result<u32, Malformed> {
    let digits = digits.get(..4).ok_or(Malformed)?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(Malformed)?;
        Ok(unit << 4 | digit)
    })
}

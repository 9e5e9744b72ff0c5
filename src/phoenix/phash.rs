//! Erlang's portable hash `phash2`, of JSON as the original has it in memory and of tuples of binaries.
//!
//! What comes in: the text of a JSON value that has been checked, or some bytes. What goes out: the number that the original has for the
//! same. What always holds: objects with the same members have the same hash, in whatever order they are written, and of members with the
//! same name the last counts (`hashes_are_those_of_erlang`, `json_is_hashed_as_the_terms_it_is_decoded_to`). Deliberately absent:
//! integers of more than 64 bits, which are hashed as they are spelled: nobody depends on those.

use super::scan::{elements, members, string_value};
use std::collections::BTreeMap;

/// The golden ratio, by which Erlang tells kinds of terms apart: each kind has a multiple of it.
const GOLDEN: u32 = 0x9e37_79b9;
const INTEGER: u32 = GOLDEN;
const NIL: u32 = GOLDEN.wrapping_mul(2);
const ATOM: u32 = GOLDEN.wrapping_mul(3);
const BYTES_OF_LIST: u32 = GOLDEN.wrapping_mul(4);
const TUPLE: u32 = GOLDEN.wrapping_mul(9);
const BIG_NEGATIVE: u32 = GOLDEN.wrapping_mul(10);
const BIG_POSITIVE: u32 = GOLDEN.wrapping_mul(11);
const FLOAT: u32 = GOLDEN.wrapping_mul(12);
const BINARY: u32 = GOLDEN.wrapping_mul(13);
const MAP: u32 = GOLDEN.wrapping_mul(16);
const MAP_PAIRS: u32 = GOLDEN.wrapping_mul(19);

/// What stands for the end of a list.
const END_OF_LIST: u32 = 2;

/// Below this, values are hashed as they are spelled: an entry of a join is flat, so nobody gets there by accident.
const DEPTH_MAX: usize = 16;

/// `erlang:phash2(Tuple, 1 bsl 32)` of a tuple of binaries.
pub fn phash2_of_binaries(parts: &[&[u8]]) -> u32 {
    let arity = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let start = step(TUPLE, arity, 0, 0);
    parts.iter().fold(start, |hash, part| binary(part, hash))
}

/// `erlang:phash2(Term, 1 bsl 32)` of what a JSON text is decoded to.
pub(super) fn phash2_of_json(raw: &str) -> u32 {
    value(raw, 0, 0)
}

/// A value behind others; `hash` is theirs, 0 for none.
fn value(raw: &str, hash: u32, depth: usize) -> u32 {
    let deeper = depth.saturating_add(1);
    match raw.as_bytes() {
        _ if depth > DEPTH_MAX => binary(raw.as_bytes(), hash),
        [b'{', ..] => map(raw, hash, deeper),
        [b'[', ..] => list(raw, hash, deeper),
        [b'"', ..] => {
            let text = string_value(raw).unwrap_or_default();
            binary(text.as_bytes(), hash)
        }
        b"null" => atom(b"nil", hash),
        b"true" | b"false" => atom(raw.as_bytes(), hash),
        _ => number(raw, hash),
    }
}

/// Pairs are hashed each by itself, so that their order says nothing.
fn map(raw: &str, hash: u32, depth: usize) -> u32 {
    let members: BTreeMap<_, _> = members(raw).collect();
    let hash = step(
        MAP,
        u32::try_from(members.len()).unwrap_or(u32::MAX),
        0,
        hash,
    );
    if members.is_empty() {
        return hash;
    }
    let pairs = members
        .iter()
        .map(|(key, member)| value(member, binary(key.as_bytes(), 0), depth))
        .fold(0, |pairs, pair| pairs ^ pair);
    step(MAP_PAIRS, pairs, 0, hash)
}

/// Integers that fit a byte are taken four at a time, as Erlang's texts are.
fn list(raw: &str, mut hash: u32, depth: usize) -> u32 {
    let (mut bytes, mut count) = (0_u32, 0_u8);
    for element in elements(raw) {
        if let Ok(byte) = element.parse::<u8>() {
            bytes = bytes.wrapping_shl(8) | u32::from(byte);
            count = count.wrapping_add(1);
            if count == 4 {
                hash = step(BYTES_OF_LIST, bytes, 0, hash);
                (bytes, count) = (0, 0);
            }
            continue;
        }
        if count > 0 {
            hash = step(BYTES_OF_LIST, bytes, 0, hash);
            (bytes, count) = (0, 0);
        }
        hash = value(element, hash, depth);
    }
    if count > 0 {
        hash = step(BYTES_OF_LIST, bytes, 0, hash);
    }
    step(NIL, END_OF_LIST, 0, hash)
}

fn atom(name: &[u8], hash: u32) -> u32 {
    // P. J. Weinberger's hash, of the table of atoms.
    let own = name.iter().fold(0_u32, |own, byte| {
        let own = own.wrapping_shl(4).wrapping_add(u32::from(*byte));
        let high = own & 0xf000_0000;
        own ^ high.wrapping_shr(24) ^ high
    });
    if hash == 0 {
        own
    } else {
        step(ATOM, own, 0, hash)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "halves of words are wanted"
)]
fn number(raw: &str, hash: u32) -> u32 {
    if let Ok(integer) = raw.parse::<i64>() {
        let size = integer.unsigned_abs();
        if (-(1 << 27)..1 << 27).contains(&integer) {
            let own = integer as u32;
            // Negative ones are mixed twice.
            let hash = if integer < 0 {
                step(INTEGER, size as u32, 0, hash)
            } else {
                hash
            };
            return step(INTEGER, own, 0, hash);
        }
        let kind = if integer < 0 {
            BIG_NEGATIVE
        } else {
            BIG_POSITIVE
        };
        return step(kind, size as u32, size.wrapping_shr(32) as u32, hash);
    }
    let is_float = raw.contains(['.', 'e', 'E']);
    match raw.parse::<f64>() {
        Ok(float) if is_float => {
            // Both zeros are one.
            let bits = if float == 0.0 { 0 } else { float.to_bits() };
            step(FLOAT, bits.wrapping_shr(32) as u32, bits as u32, hash)
        }
        _ => binary(raw.as_bytes(), hash),
    }
}

fn binary(bytes: &[u8], hash: u32) -> u32 {
    let start = BINARY.wrapping_add(hash);
    if bytes.is_empty() {
        start
    } else {
        jenkins(bytes, start)
    }
}

/// Bob Jenkins' hash of 1996 ("lookup2"): blocks of three words, and the rest with the length.
fn jenkins(bytes: &[u8], start: u32) -> u32 {
    let (mut a, mut b, mut c) = (GOLDEN, GOLDEN, start);
    let (blocks, rest) = bytes.as_chunks::<12>();
    for block in blocks {
        let [one, two, three] = words(block);
        (a, b, c) = mixed(
            a.wrapping_add(one),
            b.wrapping_add(two),
            c.wrapping_add(three),
        );
    }
    // The lowest byte of the third word is the length's.
    let mut last = [0; 12];
    for (byte, from) in last.iter_mut().zip(rest.iter().take(8)) {
        *byte = *from;
    }
    for (byte, from) in last.iter_mut().skip(9).zip(rest.iter().skip(8)) {
        *byte = *from;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Erlang's lengths wrap as well"
    )]
    let length = bytes.len() as u32;
    let [one, two, three] = words(&last);
    let (_, _, c) = mixed(
        a.wrapping_add(one),
        b.wrapping_add(two),
        c.wrapping_add(length).wrapping_add(three),
    );
    c
}

/// Four bytes each, the lowest first.
fn words(block: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *block;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

/// Mixes two words of a term of some kind into the hash.
fn step(kind: u32, one: u32, other: u32, hash: u32) -> u32 {
    let (_, _, hash) = mixed(kind.wrapping_add(one), kind.wrapping_add(other), hash);
    hash
}

/// The mixing step: each word is hit by the other two, with these shifts.
fn mixed(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for (right, left, back) in [(13, 8, 13), (12, 16, 5), (3, 10, 15)] {
        a = a.wrapping_sub(b).wrapping_sub(c) ^ c.wrapping_shr(right);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ a.wrapping_shl(left);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ b.wrapping_shr(back);
    }
    (a, b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of Erlang/OTP's own tests (`hash_SUITE`, `phash2_test`).
    #[test]
    fn hashes_are_those_of_erlang() {
        let chars: Vec<u8> = (32..=127).collect();
        let long = chars.repeat(500);
        for (bytes, expected) in [
            (&b""[..], 147_926_629),
            (&[0], 2_914_887_855),
            (&[0; 4], 2_014_511_533),
            (b"abc", 1_306_188_027),
            (b"12345678901234567890", 3_021_061_640),
            (&long, 2_644_086_993),
            (&long[16..], 3_575_839_236),
        ] {
            assert_eq!(binary(bytes, 0), expected, "{} bytes", bytes.len());
        }
        assert_eq!(binary(b"Scott9", 0) % (1 << 27), 38_990_304);
        assert_eq!(phash2_of_binaries(&[b""]), 682_464_809);
        assert_eq!(phash2_of_json("[]"), 3_468_870_702);
    }

    /// The ids are recorded ones.
    #[test]
    fn json_is_hashed_as_the_terms_it_is_decoded_to() {
        for (raw, expected) in [
            (r#"{"event":"INSERT","schema":"public"}"#, 100_468_891),
            (r#"{"event":"*","schema":"public"}"#, 74_307_548),
            (
                r#"{"filter":"id=eq.1","event":"*","schema":"public","table":"messages"}"#,
                3_473_886,
            ),
            (
                r#"{"event":"*","schema":"public","table":"rls_todos"}"#,
                117_237_900,
            ),
            (
                r#"{"event":"*","schema":"public","table":"todos","select":["id","n"]}"#,
                67_730_079,
            ),
            (r#"{"event":1}"#, 60_023_909),
            // Of members with one name the last counts.
            (r#"{"event":null,"event":1}"#, 60_023_909),
        ] {
            assert_eq!(phash2_of_json(raw) % (1 << 27), expected, "{raw}");
        }
    }

    #[test]
    fn what_is_not_the_same_is_hashed_to_something_else() {
        let all = [
            "1",
            "-1",
            "256",
            "1000000000",
            "-1000000000",
            "99999999999999999999",
            "1.5",
            "-1.5",
            "null",
            "true",
            "false",
            "\"\"",
            "\"1\"",
            "[]",
            "[1]",
            "[1,2]",
            "[2,1]",
            "[1,2,3,4]",
            "[1,2,3,4,5]",
            "[256]",
            "[\"1\"]",
            "{}",
            "{\"a\":1}",
            "{\"a\":\"1\"}",
            "{\"a\":{}}",
            "{\"b\":1}",
            "{\"a\":1,\"b\":2}",
            "{\"a\":2,\"b\":1}",
        ];
        let hashes: std::collections::BTreeSet<u32> = all.into_iter().map(phash2_of_json).collect();
        assert_eq!(hashes.len(), all.len());
        assert_eq!(phash2_of_json("0.0"), phash2_of_json("-0.0"));
    }
}

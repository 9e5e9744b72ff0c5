//! The client's side of RFC 6455, written for counting: frames are found by their headers alone.
//!
//! In: bytes from a server, payloads for it. Out: frame boundaries without a copy, masked frames.
//! A server that breaks the rules it owes a client (masked, reserved bits, fragments that the load
//! never asks for) is an error, not something to be lenient about.
//! Deliberately absent: fragments, extensions, UTF-8 validation. This is not the server's codec and
//! shares no line with it: a client that did could not see its mistakes.

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

/// RFC 6455 section 5.2, the opcodes that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// 0x1
    Text,
    /// 0x2
    Binary,
    /// 0x8
    Close,
    /// 0x9
    Ping,
    /// 0xA
    Pong,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xA => Some(Self::Pong),
            _ => None,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// A whole frame at the start of the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub opcode: Opcode,
    /// Where its payload starts.
    pub payload_start: usize,
    /// Where it ends and the next one starts.
    pub end: usize,
}

/// What a server may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Section 5.1: a server must not mask.
    Masked,
    /// Section 5.2: reserved bits or a reserved opcode without a negotiated extension.
    Reserved,
    /// Legal, but nothing in these loads makes a server fragment.
    Fragmented,
}

/// The first frame in `bytes`, when it is there whole.
///
/// # Errors
///
/// [`FrameError`] when the server broke the protocol; the caller gives the connection up.
#[inline]
pub fn next_frame(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let (payload_start, payload_bytes): (usize, usize) = match second {
        126 => match bytes.get(2..4) {
            Some(length) => (4, usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(length) => {
                let length: [u8; 8] = length.try_into().expect("ten minus two");
                (10, u64::from_be_bytes(length) as usize)
            }
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    if first & 0x70 != 0 {
        return Err(FrameError::Reserved);
    }
    if first & 0x80 == 0 || first & 0x0f == 0 {
        return Err(FrameError::Fragmented);
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::Reserved)?;
    let end = payload_start.saturating_add(payload_bytes);
    Ok((end <= bytes.len()).then_some(Frame {
        opcode,
        payload_start,
        end,
    }))
}

/// Appends one masked frame (section 5.3) around `payload`.
pub fn push_frame(opcode: Opcode, payload: &[u8], mask: u32, out: &mut Vec<u8>) {
    out.push(0x80 | opcode.bits());
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = mask.to_ne_bytes();
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    for chunk in out[start..].chunks_mut(mask.len()) {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// The close code of a close frame's payload (section 5.5.1).
pub fn close_code(payload: &[u8]) -> Option<u16> {
    let code = payload.get(..2)?;
    Some(u16::from_be_bytes([code[0], code[1]]))
}

/// The request that opens a connection (section 4.1).
pub fn upgrade_request(host: &str, path_and_query: &str, key: &str) -> Vec<u8> {
    format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A `Sec-WebSocket-Key`: sixteen bytes in base64.
pub fn upgrade_key(nonce: u128) -> String {
    base64::engine::general_purpose::STANDARD.encode(nonce.to_le_bytes())
}

/// What a server must answer to `key` in `Sec-WebSocket-Accept` (section 4.2.2).
pub fn accept_of(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

/// The length of the answer to an upgrade in `bytes`, when it is there whole and accepts `key`.
///
/// # Errors
///
/// The status line, or what is wrong with the acceptance, for a person to read.
pub fn upgrade_answer(bytes: &[u8], key: &str) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        let body = String::from_utf8_lossy(&bytes[end + 4..]);
        return Err(format!("upgrade refused: {status} {body}"));
    }
    let accept = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"))
        .map(|(_, value)| value.trim());
    if accept != Some(accept_of(key).as_str()) {
        return Err("upgrade answered with a wrong Sec-WebSocket-Accept".to_owned());
    }
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(
        opcode: Opcode,
        payload_start: usize,
        end: usize,
    ) -> Result<Option<Frame>, FrameError> {
        Ok(Some(Frame {
            opcode,
            payload_start,
            end,
        }))
    }

    #[test]
    fn frames_are_found_by_their_headers() {
        let check = |bytes: &[u8], expected| assert_eq!(next_frame(bytes), expected, "{bytes:x?}");
        check(&[], Ok(None));
        check(&[0x81], Ok(None));
        check(&[0x81, 0], frame(Opcode::Text, 2, 2));
        check(&[0x82, 1, 7, 9], frame(Opcode::Binary, 2, 3));
        check(&[0x82, 2, 7], Ok(None));
        check(&[0x88, 2, 3, 0xe8], frame(Opcode::Close, 2, 4));
        check(&[0x82, 126, 0], Ok(None));
        check(
            &[&[0x82, 126, 0, 200][..], &[0; 200]].concat(),
            frame(Opcode::Binary, 4, 204),
        );
        check(
            &[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 5],
            frame(Opcode::Binary, 10, 11),
        );
        check(
            &[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255, 5],
            Ok(None),
        );
        check(&[0x82, 0x81, 0, 0, 0, 0, 0], Err(FrameError::Masked));
        check(&[0xc2, 0], Err(FrameError::Reserved));
        check(&[0x83, 0], Err(FrameError::Reserved));
        check(&[0x02, 0], Err(FrameError::Fragmented));
        check(&[0x80, 0], Err(FrameError::Fragmented));
    }

    /// RFC 6455 section 5.7, the masked "Hello".
    #[test]
    fn a_client_frame_is_masked_as_the_standard_shows() {
        let mut out = Vec::new();
        let mask = u32::from_ne_bytes([0x37, 0xfa, 0x21, 0x3d]);
        push_frame(Opcode::Text, b"Hello", mask, &mut out);
        assert_eq!(
            out,
            [
                0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58
            ]
        );
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        for (length, header) in [(125, 6), (126, 8), (0xffff, 8), (0x1_0000, 14)] {
            let mut out = Vec::new();
            push_frame(Opcode::Binary, &vec![0; length], 1, &mut out);
            assert_eq!(out.len(), header + length);
        }
    }

    /// RFC 6455 section 1.3, the example key.
    #[test]
    fn an_upgrade_is_accepted_only_with_the_right_hash() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nrest";
        assert_eq!(upgrade_answer(good, key), Ok(Some(good.len() - 4)));
        assert_eq!(upgrade_answer(&good[..40], key), Ok(None));
        assert!(upgrade_answer(good, "other").is_err());
        assert!(upgrade_answer(b"HTTP/1.1 403 Forbidden\r\n\r\n", key).is_err());
    }
}

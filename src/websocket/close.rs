//! The close frame: a code and a reason (RFC 6455 sections 5.5.1 and 7.4).

use super::frame::{Opcode, ProtocolError, encode_header};

/// The longest reason: a control frame's 125 bytes without the two of the code.
const REASON_BYTES_MAX: usize = 123;

/// Whether a peer may send this code: those of RFC 6455 section 7.4.1 and its registry (1012 to 1014), and the two ranges
/// for libraries and applications. 1004 is reserved; 1005, 1006 and 1015 mean that there was no close frame.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The code and reason of a close frame.
///
/// # Errors
///
/// A payload of one byte, a code that must not be sent, or a reason that is not UTF-8.
pub(super) fn decode(payload: &[u8]) -> Result<(Option<u16>, &str), ProtocolError> {
    if payload.is_empty() {
        return Ok((None, ""));
    }
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(ProtocolError::CloseTooShort);
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(ProtocolError::CloseCode(code));
    }
    let reason =
        simdutf8::basic::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonNotUtf8)?;
    Ok((Some(code), reason))
}

/// Appends a close frame. A reason of more than 123 bytes is cut at a character's border.
pub fn encode_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    debug_assert!(may_be_sent(code), "{code} is never sent");
    let (reason, _) = reason.split_at(reason.floor_char_boundary(REASON_BYTES_MAX));
    encode_header(out, Opcode::Close, reason.len().saturating_add(2));
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{decode, encode_close};

    #[test]
    fn a_close_frame_holds_code_and_reason() {
        let check = |code, reason: &str, expected: &[u8]| {
            let mut out = Vec::new();
            encode_close(&mut out, code, reason);
            assert_eq!(out, expected);
            let (decoded, text) = decode(&out[2..]).unwrap();
            assert_eq!(decoded, Some(code));
            assert!(reason.starts_with(text));
        };
        check(1000, "", &[0x88, 2, 0x03, 0xe8]);
        check(1012, "bye", &[0x88, 5, 0x03, 0xf4, b'b', b'y', b'e']);
        let cut = [&[0x88, 124, 0x03, 0xf1][..], "é".repeat(61).as_bytes()].concat();
        check(1009, &"é".repeat(62), &cut);
        let full = [&[0x88, 125, 0x0f, 0xa0][..], "a".repeat(123).as_bytes()].concat();
        check(4000, &"a".repeat(200), &full);
    }
}

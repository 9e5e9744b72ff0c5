//! One frame's header, read and written (RFC 6455 section 5.2).

use std::fmt;

/// What a frame is (RFC 6455 section 11.8). The other ten values are reserved and an error.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Opcode {
    /// A further fragment of the message that is being sent.
    Continuation,
    /// A message of text, or its first fragment.
    Text,
    /// A message of bytes, or its first fragment.
    Binary,
    /// The end of the connection.
    Close,
    /// A question for a sign of life.
    Ping,
    /// The answer to a ping, or an unasked sign of life.
    Pong,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why a connection must be closed. [`ProtocolError::close_code`] is what to say to the peer.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ProtocolError {
    /// A reserved bit is set, but no extension was negotiated.
    ReservedBits,
    /// An opcode that no standard defines.
    ReservedOpcode,
    /// A client must mask each frame (RFC 6455 section 5.1).
    Unmasked,
    /// A control frame carries at most 125 bytes (section 5.5).
    ControlTooLong,
    /// A control frame is never fragmented (section 5.5).
    ControlFragmented,
    /// A continuation, but there is nothing to continue (section 5.4).
    UnexpectedContinuation,
    /// A new message inside of a fragmented one (section 5.4).
    ExpectedContinuation,
    /// The length is written with more bytes than it needs (section 5.2).
    LengthNotMinimal,
    /// The length has its most significant bit set (section 5.2).
    LengthOutOfRange,
    /// The message is, or will be, longer than [`super::Limits::message_bytes_max`].
    MessageTooBig,
    /// A close frame of one byte: too short for a code (section 5.5.1).
    CloseTooShort,
    /// A close code that must not be sent (section 7.4).
    CloseCode(u16),
    /// The reason in a close frame is not UTF-8.
    CloseReasonNotUtf8,
    /// A text message is not UTF-8 (section 8.1).
    TextNotUtf8,
}

impl ProtocolError {
    /// The close code that tells the peer (RFC 6455 section 7.4.1): 1002, 1007 or 1009.
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::MessageTooBig => 1009,
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 => 1007,
            _ => 1002,
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a reserved bit is set",
            Self::ReservedOpcode => "the opcode is reserved",
            Self::Unmasked => "a client's frame is not masked",
            Self::ControlTooLong => "a control frame is longer than 125 bytes",
            Self::ControlFragmented => "a control frame is fragmented",
            Self::UnexpectedContinuation => "a continuation without a message to continue",
            Self::ExpectedContinuation => "a new message inside of a fragmented one",
            Self::LengthNotMinimal => "the length is not written in its shortest form",
            Self::LengthOutOfRange => "the length has its most significant bit set",
            Self::MessageTooBig => "the message is too big",
            Self::CloseTooShort => "a close frame of one byte",
            Self::CloseCode(code) => return write!(f, "the close code {code} must not be sent"),
            Self::CloseReasonNotUtf8 => "the close reason is not UTF-8",
            Self::TextNotUtf8 => "a text message is not UTF-8",
        })
    }
}

impl std::error::Error for ProtocolError {}

/// The longest header of a client's frame: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// A client frame's header, checked.
#[derive(Copy, Clone, Debug)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    pub(super) key: [u8; 4],
    /// Length of the payload.
    pub(super) payload_bytes: usize,
    /// Length of the header itself.
    pub(super) header_bytes: usize,
}

/// What the frames before say about the next one.
#[derive(Copy, Clone, Debug)]
pub(super) struct Context {
    /// A fragmented message has begun and not ended.
    pub(super) message_open: bool,
    /// How long the payload of the next data frame may be at most.
    pub(super) payload_bytes_max: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when it is not complete.
    ///
    /// Complains as soon as it can: about the opcode after one byte, about the length before the mask has arrived.
    ///
    /// # Errors
    ///
    /// Any rule of RFC 6455 sections 5.2, 5.4 and 5.5 that the header breaks, or a length beyond the context's.
    pub(super) fn decode(bytes: &[u8], context: Context) -> Result<Option<Self>, ProtocolError> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let (fin, opcode) = Self::decode_first(first, context)?;
        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let short = second & 0x7f;
        if opcode.is_control() && short > 125 {
            return Err(ProtocolError::ControlTooLong);
        }
        let Some((length, rest)) = Self::decode_length(short, rest)? else {
            return Ok(None);
        };
        let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if !opcode.is_control() && payload_bytes > context.payload_bytes_max {
            return Err(ProtocolError::MessageTooBig);
        }
        let Some((&key, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        Ok(Some(Self {
            fin,
            opcode,
            key,
            payload_bytes,
            header_bytes: bytes.len().saturating_sub(rest.len()),
        }))
    }

    #[inline]
    fn decode_first(first: u8, context: Context) -> Result<(bool, Opcode), ProtocolError> {
        let fin = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(ProtocolError::ReservedOpcode)?;
        match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => {
                Err(ProtocolError::ControlFragmented)
            }
            Opcode::Continuation if !context.message_open => {
                Err(ProtocolError::UnexpectedContinuation)
            }
            Opcode::Text | Opcode::Binary if context.message_open => {
                Err(ProtocolError::ExpectedContinuation)
            }
            _ => Ok((fin, opcode)),
        }
    }

    /// The length and what follows it; `None` when it is not complete.
    ///
    /// RFC 6455 section 5.2: "the minimal number of bytes MUST be used to encode the length". The original's HTTP server
    /// refuses longer forms, and so do we.
    #[inline]
    fn decode_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
        match short {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk::<2>() else {
                    return Ok(None);
                };
                let length = u16::from_be_bytes(*length);
                if length < 126 {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                Ok(Some((u64::from(length), rest)))
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk::<8>() else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(*length);
                if length >> 63 != 0 {
                    return Err(ProtocolError::LengthOutOfRange);
                }
                if length <= u64::from(u16::MAX) {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                Ok(Some((length, rest)))
            }
            _ => Ok(Some((u64::from(short), rest))),
        }
    }
}

/// Appends the header of a final, unmasked frame: two, four or ten bytes. The caller appends `payload_bytes` of payload.
#[inline]
pub fn encode_header(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    let first = 0x80 | opcode.bits();
    if let Ok(short @ 0..=125) = u8::try_from(payload_bytes) {
        out.extend_from_slice(&[first, short]);
    } else if let Ok(length) = u16::try_from(payload_bytes) {
        let [high, low] = length.to_be_bytes();
        out.extend_from_slice(&[first, 126, high, low]);
    } else {
        let [a, b, c, d, e, f, g, h] = (payload_bytes as u64).to_be_bytes();
        out.extend_from_slice(&[first, 127, a, b, c, d, e, f, g, h]);
    }
}

/// Appends a final, unmasked frame whose payload is what `write` appends.
///
/// For payloads whose length is not known beforehand. Four bytes are reserved for the header, which fits payloads of 126
/// to 65,535 bytes; a shorter one is then moved down by two bytes (at most 125 bytes are copied) and a longer one up by
/// six (once, a small part of what writing it cost). Reserving ten would move every payload. The encoders of `phoenix`
/// know their lengths and use [`encode_header`].
pub fn encode_frame(out: &mut Vec<u8>, opcode: Opcode, write: impl FnOnce(&mut Vec<u8>)) {
    const RESERVED: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; RESERVED]);
    let payload = start.saturating_add(RESERVED);
    write(out);
    let payload_bytes = out.len().saturating_sub(payload);
    let end = out.len();
    encode_header(out, opcode, payload_bytes);
    // The header now stands behind the payload, at most ten bytes of it.
    let mut header = [0; 10];
    let header_bytes = out.len().saturating_sub(end).min(header.len());
    for (to, from) in header.iter_mut().zip(out.drain(end..)) {
        *to = from;
    }
    out.splice(start..payload, header.into_iter().take(header_bytes));
}

#[cfg(test)]
mod tests {
    use super::{Opcode, encode_frame, encode_header};

    #[test]
    fn headers_take_their_shortest_form() {
        for (opcode, payload_bytes, header) in [
            (Opcode::Text, 0, &[0x81, 0][..]),
            (Opcode::Binary, 125, &[0x82, 125]),
            (Opcode::Binary, 126, &[0x82, 126, 0, 126]),
            (Opcode::Text, 65_535, &[0x81, 126, 0xff, 0xff]),
            (Opcode::Text, 65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (Opcode::Close, 2, &[0x88, 2]),
            (Opcode::Ping, 0, &[0x89, 0]),
            (Opcode::Pong, 125, &[0x8a, 125]),
            (Opcode::Continuation, 1, &[0x80, 1]),
        ] {
            let mut out = vec![7];
            encode_header(&mut out, opcode, payload_bytes);
            assert_eq!(out[1..], *header, "{opcode:?} {payload_bytes}");

            let payload: Vec<u8> = (0..payload_bytes).map(|at| at as u8).collect();
            let mut frame = vec![7];
            encode_frame(&mut frame, opcode, |out| out.extend_from_slice(&payload));
            assert_eq!(
                frame,
                [&out[..], &payload].concat(),
                "{opcode:?} {payload_bytes}"
            );
        }
    }
}

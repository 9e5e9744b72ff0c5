//! The stamp in every message: who sent it, which one it is, and when it should have been sent.
//!
//! In: a sender, a sequence number, a time. Out: a JSON object of an exact size, and the way back.
//! The stamp is a JSON string of fixed width that begins with a marker of eight bytes, so that a
//! receiver that knows where the marker was in the last frame reads the next one without a search.
//! Deliberately absent: JSON parsing. The harness must read millions of frames a second on one core.

/// What stands directly before the digits, in the same JSON string: a server may print a payload
/// again (keys sorted, no spaces), and PostgreSQL does (a space behind each colon), but a string
/// stays as it is.
pub const MARKER: &[u8; 8] = b"stamped:";

/// Hexadecimal digits of a stamp: 8 of the sender, 8 of the sequence number, 16 of the time.
const DIGITS: usize = 32;

/// Bytes of the smallest payload that can carry a stamp.
pub const PAYLOAD_BYTES_MIN: usize = b"{\"load\":\"\",\"pad\":\"\"}".len() + MARKER.len() + DIGITS;

/// One message as its sender knew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The sender, counted over all topics from 0.
    pub sender: u32,
    /// The message of this sender, counted from 0.
    pub sequence: u32,
    /// Nanoseconds of [`crate::clock`] at which the message was sent (closed loop) or should have
    /// been sent (open loop).
    pub at_ns: u64,
}

impl Stamp {
    /// Appends a JSON object of exactly `payload_bytes` that carries this stamp; of
    /// [`PAYLOAD_BYTES_MIN`] when that is larger.
    pub fn encode(&self, payload_bytes: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"load\":\"");
        out.extend_from_slice(MARKER);
        push_hex8(self.sender, out);
        push_hex8(self.sequence, out);
        push_hex8((self.at_ns >> 32) as u32, out);
        push_hex8(self.at_ns as u32, out);
        out.extend_from_slice(b"\",\"pad\":\"");
        let pad = payload_bytes.saturating_sub(PAYLOAD_BYTES_MIN);
        out.resize(out.len() + pad, b'x');
        out.extend_from_slice(b"\"}");
    }

    /// Reads the stamp whose marker starts at `offset`; nothing when there is no marker there.
    #[inline]
    pub fn decode_at(bytes: &[u8], offset: usize) -> Option<Self> {
        let marker = bytes.get(offset..offset + MARKER.len())?;
        if marker != MARKER {
            return None;
        }
        let start = offset + MARKER.len();
        let digits: &[u8; DIGITS] = bytes.get(start..start + DIGITS)?.try_into().ok()?;
        let word = |index: usize| {
            let digits: [u8; 8] = digits[index * 8..index * 8 + 8]
                .try_into()
                .expect("four words of eight digits");
            hex8(digits)
        };
        Some(Self {
            sender: word(0),
            sequence: word(1),
            at_ns: (u64::from(word(2)) << 32) | u64::from(word(3)),
        })
    }

    /// Where in `bytes` a marker starts.
    pub fn find(bytes: &[u8]) -> Option<usize> {
        memchr::memmem::find(bytes, MARKER)
    }
}

fn push_hex8(value: u32, out: &mut Vec<u8>) {
    for shift in (0..8).rev() {
        out.push(b"0123456789abcdef"[(value >> (shift * 4)) as usize & 15]);
    }
}

/// Eight lower-case hexadecimal digits to their value, all at once in one register.
#[inline]
fn hex8(digits: [u8; 8]) -> u32 {
    const LOW_BITS: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let word = u64::from_le_bytes(digits);
    // Letters have bit 6 set: 'a' is 0x61, and 1 + 9 is ten.
    let letters = (word >> 6) & 0x0101_0101_0101_0101;
    let nibbles = (word & LOW_BITS) + letters * 9;
    let bytes = ((nibbles << 4) | (nibbles >> 8)) & 0x00ff_00ff_00ff_00ff;
    let halves = ((bytes << 8) | (bytes >> 16)) & 0x0000_ffff_0000_ffff;
    ((halves << 16) | (halves >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_payload() {
        for (sender, sequence, at_ns) in [
            (0, 0, 0),
            (1, 0xdead_beef, 0x0123_4567_89ab_cdef),
            (u32::MAX, u32::MAX, u64::MAX),
        ] {
            let stamp = Stamp {
                sender,
                sequence,
                at_ns,
            };
            let mut out = b"before".to_vec();
            stamp.encode(100, &mut out);
            let offset = Stamp::find(&out).unwrap();
            assert_eq!(Stamp::decode_at(&out, offset), Some(stamp));
            assert_eq!(Stamp::decode_at(&out, offset + 1), None);
            assert_eq!(Stamp::decode_at(&out[..out.len() / 3], offset), None);
        }
    }

    #[test]
    fn a_payload_is_json_of_the_size_asked_for() {
        for (asked, got) in [
            (0, PAYLOAD_BYTES_MIN),
            (PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MIN),
            (100, 100),
            (5000, 5000),
        ] {
            let mut out = Vec::new();
            let stamp = Stamp {
                sender: 1,
                sequence: 2,
                at_ns: 3,
            };
            stamp.encode(asked, &mut out);
            assert_eq!(out.len(), got);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(value["load"].as_str().unwrap().len(), MARKER.len() + DIGITS);
        }
    }
}

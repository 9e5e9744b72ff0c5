//! One member of one topic: reads its frames and checks that nothing is missing, double or late.
//!
//! In: bytes as they were received. Out: stamps, each with a verdict, and how many bytes were used.
//! Always holds: a frame is looked at once, by its header and its stamp; nothing is allocated.
//! Deliberately absent: what the frame says otherwise. Conformance is tested elsewhere.

use crate::codec::{self, Opcode};
use crate::stamp::Stamp;

/// What came of a message with regard to the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or a later one: those between are missing until they come.
    InOrder,
    /// One that had been passed over.
    Late,
    /// One that had been here.
    Duplicate,
}

/// What one member has received from one sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// The sequence number after the largest received.
    expected: u32,
    /// Which of the 64 messages before `expected` were received, the newest in bit 0.
    seen: u64,
}

impl Record {
    /// Notes that message `sequence` has come.
    #[inline]
    pub fn note(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.expected {
            let passed = sequence - self.expected;
            self.seen = self.seen.checked_shl(passed + 1).unwrap_or(0) | 1;
            self.expected = sequence + 1;
            return Arrival::InOrder;
        }
        let bit = 1u64.checked_shl(self.expected - 1 - sequence).unwrap_or(0);
        // Older than the window: it may have been here, and counts as if it had.
        if bit == 0 || self.seen & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen |= bit;
        Arrival::Late
    }
}

/// What a member does with each thing it receives.
pub trait Sink {
    /// Looks at a data frame before anybody searches it for a stamp; true when that was all.
    fn takes(&mut self, payload: &[u8]) -> bool {
        let _ = payload;
        false
    }
    /// A message.
    fn on_stamp(&mut self, stamp: Stamp);
    /// A text frame without a stamp: replies, system messages.
    fn on_text(&mut self, text: &[u8]);
    /// A ping that wants an answer.
    fn on_ping(&mut self, payload: &[u8]);
    /// An answer to a ping.
    fn on_pong(&mut self) {}
}

/// Where a member is in its stream of bytes.
#[derive(Debug, Default)]
pub struct Reader {
    /// Where the stamp's marker was in the last message's payload.
    offset: usize,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
}

impl Reader {
    /// Puts what was kept of an incomplete frame at the start of `buffer` and says how long it is:
    /// receive behind it. The buffer grows when a frame is as large as it.
    pub fn begin(&mut self, buffer: &mut Vec<u8>) -> usize {
        let kept = self.partial.len();
        if kept > 0 {
            if buffer.len() < kept * 2 {
                buffer.resize(kept * 2, 0);
            }
            buffer[..kept].copy_from_slice(&self.partial);
            self.partial.clear();
        }
        kept
    }

    /// Hands every whole frame in `bytes` to `sink` and keeps the rest.
    ///
    /// # Errors
    ///
    /// Why the connection is over: a close frame or a broken one.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), String> {
        let mut rest = bytes;
        while let Some(frame) =
            codec::next_frame(rest).map_err(|error| format!("broken frame: {error:?}"))?
        {
            let payload = &rest[frame.payload_start..frame.end];
            match frame.opcode {
                Opcode::Text | Opcode::Binary => self.on_data(frame.opcode, payload, sink),
                Opcode::Close => {
                    return Err(format!(
                        "closed by the server: {:?}",
                        codec::close_code(payload)
                    ));
                }
                Opcode::Ping => sink.on_ping(payload),
                Opcode::Pong => sink.on_pong(),
            }
            rest = &rest[frame.end..];
        }
        if !rest.is_empty() {
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    #[inline]
    fn on_data(&mut self, opcode: Opcode, payload: &[u8], sink: &mut impl Sink) {
        if sink.takes(payload) {
            return;
        }
        if let Some(stamp) = Stamp::decode_at(payload, self.offset) {
            return sink.on_stamp(stamp);
        }
        match Stamp::find(payload) {
            Some(offset) => {
                self.offset = offset;
                if let Some(stamp) = Stamp::decode_at(payload, offset) {
                    sink.on_stamp(stamp);
                }
            }
            None if opcode == Opcode::Text => sink.on_text(payload),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_judged_by_what_came_before() {
        use Arrival::{Duplicate, InOrder, Late};
        let mut record = Record::default();
        for (sequence, expected) in [
            (0, InOrder),
            (1, InOrder),
            (1, Duplicate),
            (4, InOrder),
            (3, Late),
            (3, Duplicate),
            (0, Duplicate),
            (2, Late),
            (70, InOrder),
            (69, Late),
            (5, Duplicate), // older than the window
            (6, Duplicate),
            (7, Late),
            (1000, InOrder),
            (1000, Duplicate),
            (999, Late),
        ] {
            assert_eq!(record.note(sequence), expected, "{sequence}");
        }
    }

    #[derive(Default)]
    struct Log {
        sequences: Vec<u32>,
        texts: usize,
        pings: usize,
    }

    impl Sink for Log {
        fn on_stamp(&mut self, stamp: Stamp) {
            self.sequences.push(stamp.sequence);
        }
        fn on_text(&mut self, _: &[u8]) {
            self.texts += 1;
        }
        fn on_ping(&mut self, _: &[u8]) {
            self.pings += 1;
        }
    }

    /// A frame as a server writes it.
    fn server_frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
        out.push(first);
        match payload.len() {
            length @ 0..=125 => out.push(length as u8),
            length => {
                out.push(126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        for sequence in 0..20 {
            // The marker moves: text and binary messages in turn, as mixed senders would cause.
            let mut payload = vec![b' '; sequence as usize % 3 * 7];
            let stamp = Stamp {
                sender: 0,
                sequence,
                at_ns: 1,
            };
            stamp.encode(100, &mut payload);
            server_frame(0x82, &payload, &mut bytes);
            server_frame(0x81, b"[\"1\",\"1\",\"t\",\"system\",{}]", &mut bytes);
            server_frame(0x89, b"", &mut bytes);
        }
        bytes
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_frames() {
        let bytes = stream();
        for step in [1, 2, 3, 7, 50, 129, 1000, bytes.len()] {
            let (mut reader, mut log) = (Reader::default(), Log::default());
            let mut buffer = vec![0; 64];
            for chunk in bytes.chunks(step) {
                let kept = reader.begin(&mut buffer);
                if buffer.len() < kept + chunk.len() {
                    buffer.resize(kept + chunk.len(), 0);
                }
                buffer[kept..kept + chunk.len()].copy_from_slice(chunk);
                reader
                    .read(&buffer[..kept + chunk.len()], &mut log)
                    .unwrap();
            }
            assert_eq!(log.sequences, (0..20).collect::<Vec<_>>(), "step {step}");
            assert_eq!((log.texts, log.pings), (20, 20));
        }
    }

    #[test]
    fn a_close_frame_ends_the_reading_with_its_code() {
        let mut bytes = Vec::new();
        server_frame(0x88, &1012u16.to_be_bytes(), &mut bytes);
        let error = Reader::default().read(&bytes, &mut Log::default());
        assert!(error.unwrap_err().contains("1012"));
    }
}

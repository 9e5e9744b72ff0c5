//! Bytes to events: finds frames, joins fragments, keeps what is incomplete.

use super::close;
use super::frame::{Context, HEADER_BYTES_MAX, Header, Opcode, ProtocolError};
use super::mask::unmask;

/// What a decoder accepts.
#[derive(Copy, Clone, Debug)]
pub struct Limits {
    /// The longest message, fragments added up, in bytes. What announces more is [`ProtocolError::MessageTooBig`].
    pub message_bytes_max: usize,
    /// Whether a text message must be UTF-8, as RFC 6455 section 8.1 demands; then it fails at the first wrong byte.
    ///
    /// The product says no: its JSON parser looks at the same bytes anyway, and a frame that is not UTF-8 is dropped like any
    /// other malformed one (websocket-protocol section 3).
    pub text_must_be_utf8: bool,
}

/// A whole message or control frame. The bytes are lent: by the input, or by the decoder if they came in pieces.
#[derive(Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A text message; UTF-8 only if [`Limits::text_must_be_utf8`].
    Text(&'a mut [u8]),
    /// A binary message.
    Binary(&'a mut [u8]),
    /// A ping; the answer is a pong with the same payload.
    Ping(&'a [u8]),
    /// A pong; nothing is to be answered.
    Pong(&'a [u8]),
    /// The peer closes; the answer is a close frame. The decoder ignores whatever follows.
    Close {
        /// Absent when the frame was empty.
        code: Option<u16>,
        /// At most 123 bytes.
        reason: &'a str,
    },
}

/// The receiving half of one connection's protocol: eight bytes while frames arrive whole.
#[derive(Debug, Default)]
pub struct Decoder(Option<Box<Partial>>);

const _: () = assert!(size_of::<Decoder>() == 8, "every connection has one");

/// How many bytes of a message are made room for before they have come.
///
/// A frame up to this size gets its room at once. For a longer one, room doubles as bytes arrive and never passes what was
/// announced, so a client that announces much and sends little costs little.
const AHEAD_BYTES_MAX: usize = 4096;

/// What has to be remembered from one piece of input to the next.
#[derive(Debug)]
struct Partial {
    stage: Stage,
    /// What the last event borrowed; it is given back on the next call.
    lent: Lent,
    /// The beginning of a header.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: u8,
    /// The frame whose payload is arriving, and how much of it has.
    frame: Option<(Header, usize)>,
    /// Of which kind the message in `message` is, if one has begun.
    kind: Option<Opcode>,
    /// The fragments so far, and what has arrived of the current one; unmasked.
    message: Vec<u8>,
    /// How much of `message` is known to be UTF-8.
    utf8_bytes: usize,
    /// What has arrived of a control frame; unmasked. At most 125 bytes.
    control: Vec<u8>,
}

#[derive(Copy, Clone, Debug)]
enum Stage {
    Open,
    /// A close frame has been delivered.
    Closed,
    Failed(ProtocolError),
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Lent {
    Nothing,
    Control,
    Message,
}

/// How far one call came.
enum Step<'i> {
    /// The input is used up.
    NeedsMore,
    /// This frame lay in the input.
    Whole(Opcode, &'i mut [u8]),
    /// The control frame in `Partial::control` is complete.
    Control(Opcode),
    /// The message in `Partial::message` is complete.
    Message(Opcode),
}

impl Decoder {
    /// The next event in `input`, which advances past it; `None` when all of `input` is used up.
    ///
    /// A lending iterator, to be called until it yields `None` (only then is the memory of a reassembled message given back):
    ///
    /// ```
    /// # use realtime::websocket::{Decoder, Event, Limits, ProtocolError};
    /// # fn run(bytes: &mut [u8]) -> Result<(), ProtocolError> {
    /// # let limits = Limits { message_bytes_max: 100, text_must_be_utf8: false };
    /// # let mut decoder = Decoder::default();
    /// let mut input = &mut bytes[..];
    /// while let Some(event) = decoder.next(&mut input, &limits)? {
    ///     if let Event::Text(text) = event { println!("{}", text.len()) }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// A frame that lies whole in `input` is unmasked there and lent from there; of an incomplete one, the bytes that have
    /// come are copied into the decoder. The two lifetimes say that an event may borrow from either.
    ///
    /// # Errors
    ///
    /// What the peer did wrong; the connection is to be closed with [`ProtocolError::close_code`]. Every later call returns
    /// the same error.
    pub fn next<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'e>>, ProtocolError> {
        let step = match self.advance(input, limits) {
            Ok(step) => step,
            Err(error) => {
                self.partial().end(Stage::Failed(error));
                return Err(error);
            }
        };
        let (opcode, payload): (Opcode, &'e mut [u8]) = match step {
            Step::NeedsMore => return Ok(None),
            Step::Whole(opcode, payload) => {
                if opcode == Opcode::Close {
                    self.partial().end(Stage::Closed);
                }
                (opcode, payload)
            }
            Step::Control(opcode) => {
                let partial = self.partial();
                partial.lent = Lent::Control;
                if opcode == Opcode::Close {
                    partial.stage = Stage::Closed;
                }
                (opcode, &mut partial.control)
            }
            Step::Message(opcode) => {
                let partial = self.partial();
                partial.lent = Lent::Message;
                (opcode, &mut partial.message)
            }
        };
        Ok(Some(match opcode {
            Opcode::Text => Event::Text(payload),
            Opcode::Binary | Opcode::Continuation => Event::Binary(payload),
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            Opcode::Close => {
                let (code, reason) = close::decode(payload)?;
                Event::Close { code, reason }
            }
        }))
    }

    /// Whether no bytes of an incomplete frame or message are kept.
    pub fn is_idle(&self) -> bool {
        self.0.as_ref().is_none_or(|partial| partial.is_idle())
    }

    /// Memory that an incomplete message takes, but for what every connection with one has.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |partial| partial.message.capacity())
    }

    fn partial(&mut self) -> &mut Partial {
        self.0.get_or_insert_with(|| Box::new(Partial::new()))
    }

    fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Step<'i>, ProtocolError> {
        if let Some(partial) = &mut self.0 {
            partial.take_back();
            match partial.stage {
                Stage::Open if partial.is_empty() => self.0 = None,
                Stage::Open => {}
                Stage::Closed => {
                    *input = &mut [];
                    return Ok(Step::NeedsMore);
                }
                Stage::Failed(error) => return Err(error),
            }
        }
        while !input.is_empty() {
            let step = match &mut self.0 {
                Some(partial) if partial.head_bytes > 0 => {
                    partial.read_header(input, limits)?;
                    None
                }
                Some(partial) if partial.frame.is_some() => partial.read_payload(input, limits)?,
                _ => self.read_whole(input, limits)?,
            };
            if let Some(step) = step {
                return Ok(step);
            }
            // A frame without payload is complete although no byte of it is left to come.
            if let Some(partial) = &mut self.0
                && partial
                    .frame
                    .is_some_and(|(header, _)| header.payload_bytes == 0)
                && let Some(step) = partial.read_payload(input, limits)?
            {
                return Ok(step);
            }
        }
        Ok(Step::NeedsMore)
    }

    /// Reads a frame from its first byte on. A whole message is lent; anything else moves into the partial state.
    #[inline]
    fn read_whole<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Step<'i>>, ProtocolError> {
        let context = match &self.0 {
            Some(partial) => partial.context(limits),
            None => Context {
                message_open: false,
                payload_bytes_max: limits.message_bytes_max,
            },
        };
        let Some(header) = Header::decode(input, context)? else {
            let head: &mut [u8] = std::mem::take(input);
            self.partial().keep_head(head);
            return Ok(None);
        };
        let (_, rest) = std::mem::take(input)
            .split_at_mut_checked(header.header_bytes)
            .unwrap_or_default();
        let is_message = header.fin && header.opcode != Opcode::Continuation;
        if !is_message && !header.opcode.is_control() || rest.len() < header.payload_bytes {
            *input = rest;
            self.partial().begin(header);
            return Ok(None);
        }
        let (payload, rest) = rest
            .split_at_mut_checked(header.payload_bytes)
            .unwrap_or_default();
        *input = rest;
        unmask(payload, header.key, 0);
        match header.opcode {
            Opcode::Close => {
                close::decode(payload)?;
            }
            Opcode::Text if limits.text_must_be_utf8 => {
                simdutf8::basic::from_utf8(payload).map_err(|_| ProtocolError::TextNotUtf8)?;
            }
            _ => {}
        }
        Ok(Some(Step::Whole(header.opcode, payload)))
    }
}

impl Partial {
    fn new() -> Self {
        Self {
            stage: Stage::Open,
            lent: Lent::Nothing,
            head: [0; HEADER_BYTES_MAX],
            head_bytes: 0,
            frame: None,
            kind: None,
            message: Vec::new(),
            utf8_bytes: 0,
            control: Vec::new(),
        }
    }

    /// Forgets everything but how it ended.
    fn end(&mut self, stage: Stage) {
        *self = Self {
            stage,
            ..Self::new()
        };
    }

    /// Takes back what the last event borrowed.
    fn take_back(&mut self) {
        match self.lent {
            Lent::Nothing => {}
            Lent::Control => self.control.clear(),
            Lent::Message => {
                self.message = Vec::new();
                self.utf8_bytes = 0;
                self.kind = None;
            }
        }
        self.lent = Lent::Nothing;
    }

    /// Whether there is nothing to remember, given that nothing is lent.
    fn is_empty(&self) -> bool {
        self.head_bytes == 0 && self.frame.is_none() && self.kind.is_none()
    }

    fn is_idle(&self) -> bool {
        let message = self.kind.is_some() && self.lent != Lent::Message;
        self.head_bytes == 0 && self.frame.is_none() && !message
    }

    fn context(&self, limits: &Limits) -> Context {
        Context {
            message_open: self.kind.is_some(),
            payload_bytes_max: limits.message_bytes_max.saturating_sub(self.message.len()),
        }
    }

    fn keep_head(&mut self, bytes: &[u8]) {
        for (to, from) in self.head.iter_mut().zip(bytes) {
            *to = *from;
            self.head_bytes = self.head_bytes.saturating_add(1);
        }
    }

    /// Takes bytes of `input`, one by one, until the header is complete.
    fn read_header(&mut self, input: &mut &mut [u8], limits: &Limits) -> Result<(), ProtocolError> {
        let context = self.context(limits);
        while let Some((byte, rest)) = std::mem::take(input).split_first_mut() {
            *input = rest;
            let at = usize::from(self.head_bytes);
            if let Some(slot) = self.head.get_mut(at) {
                *slot = *byte;
            }
            self.head_bytes = self.head_bytes.saturating_add(1);
            let head = self.head.get(..=at).unwrap_or(&self.head);
            if let Some(header) = Header::decode(head, context)? {
                self.head_bytes = 0;
                self.begin(header);
                break;
            }
        }
        Ok(())
    }

    /// The payload of this frame comes next.
    fn begin(&mut self, header: Header) {
        if header.opcode.is_control() {
            self.control.reserve_exact(header.payload_bytes);
        } else {
            if header.opcode != Opcode::Continuation {
                self.kind = Some(header.opcode);
            }
            self.message
                .reserve_exact(header.payload_bytes.min(AHEAD_BYTES_MAX));
        }
        self.frame = Some((header, 0));
    }

    /// Takes what `input` holds of the current frame's payload.
    fn read_payload<'i>(
        &mut self,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<Option<Step<'i>>, ProtocolError> {
        let Some((header, received)) = self.frame else {
            return Ok(None);
        };
        let missing = header.payload_bytes.saturating_sub(received);
        let available = missing.min(input.len());
        let (chunk, rest) = std::mem::take(input)
            .split_at_mut_checked(available)
            .unwrap_or_default();
        *input = rest;
        let is_control = header.opcode.is_control();
        let target = if is_control {
            &mut self.control
        } else {
            make_room(&mut self.message, available, missing);
            &mut self.message
        };
        let start = target.len();
        target.extend_from_slice(chunk);
        let arrived = target.get_mut(start..).unwrap_or_default();
        unmask(arrived, header.key, received);

        let complete = available == missing;
        self.frame = (!complete).then_some((header, received.saturating_add(available)));
        if is_control {
            if complete && header.opcode == Opcode::Close {
                close::decode(&self.control)?;
            }
            return Ok(complete.then_some(Step::Control(header.opcode)));
        }
        let complete = complete && header.fin;
        if limits.text_must_be_utf8 && self.kind == Some(Opcode::Text) {
            self.check_utf8(complete)?;
        }
        Ok(complete.then_some(Step::Message(self.kind.unwrap_or(Opcode::Binary))))
    }

    /// Checks what has arrived since the last time; a character may still be incomplete unless the message is `complete`.
    fn check_utf8(&mut self, complete: bool) -> Result<(), ProtocolError> {
        let fresh = self.message.get(self.utf8_bytes..).unwrap_or_default();
        match simdutf8::compat::from_utf8(fresh) {
            Ok(_) => self.utf8_bytes = self.message.len(),
            Err(error) if error.error_len().is_some() || complete => {
                return Err(ProtocolError::TextNotUtf8);
            }
            Err(error) => self.utf8_bytes = self.utf8_bytes.saturating_add(error.valid_up_to()),
        }
        Ok(())
    }
}

/// Makes room for `available` more bytes, at least doubling what is there, but not beyond the `missing` announced ones.
fn make_room(message: &mut Vec<u8>, available: usize, missing: usize) {
    let free = message.capacity().saturating_sub(message.len());
    if free < available {
        let doubled = message.capacity();
        message.reserve_exact(available.max(doubled.min(missing)));
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD_BYTES_MAX, Decoder, Limits};

    const LIMITS: Limits = Limits {
        message_bytes_max: 5_000_000,
        text_must_be_utf8: false,
    };

    fn feed(decoder: &mut Decoder, bytes: &[u8]) -> usize {
        let mut bytes = bytes.to_vec();
        let mut input = &mut bytes[..];
        while decoder.next(&mut input, &LIMITS).unwrap().is_some() {}
        let partial = decoder.0.as_ref();
        partial.map_or(0, |partial| partial.message.capacity())
    }

    #[test]
    fn announcing_much_costs_little() {
        let mut decoder = Decoder::default();
        let announced: usize = 5_000_000;
        let mut head = vec![0x82, 0xff];
        head.extend((announced as u64).to_be_bytes());
        head.extend([0; 4]);
        assert_eq!(feed(&mut decoder, &head), AHEAD_BYTES_MAX);
        let mut received = 0;
        while received < announced {
            let size = (announced - received).min(2048);
            let capacity = feed(&mut decoder, &vec![b'x'; size]);
            received += size;
            assert!(
                capacity <= (2 * received).max(AHEAD_BYTES_MAX),
                "{received}"
            );
            assert!(capacity <= announced, "{received}");
        }
        assert_eq!(feed(&mut decoder, &[]), 0);
        assert!(
            decoder.0.is_none(),
            "a reassembled message leaves nothing behind"
        );
    }

    #[test]
    fn a_frame_of_usual_size_gets_its_room_once() {
        let mut decoder = Decoder::default();
        assert_eq!(
            feed(&mut decoder, &[0x82, 0xfe, 0x0f, 0xa0, 0, 0, 0, 0, 1]),
            4000
        );
    }
}

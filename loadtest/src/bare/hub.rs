//! Topics and members of a bare server, without a socket.
//!
//! In: bytes of a connection. Out: bytes for that connection, and once a turn one shared buffer for
//! each topic that got something.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::codec;

/// Bytes of a request head at most; a longer one ends the connection.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a frame at most; a longer one ends the connection.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The topics of a server, or of one thread of it.
#[derive(Debug, Default)]
pub struct Hub {
    names: FxHashMap<Vec<u8>, usize>,
    topics: Vec<Topic>,
    /// Topics that got something in this turn.
    dirty: Vec<usize>,
}

#[derive(Debug, Default)]
struct Topic {
    members: Vec<u32>,
    turn: Vec<u8>,
}

/// One connection as the hub sees it.
#[derive(Debug, Default)]
pub struct Session {
    /// The topic, once the upgrade is done.
    topic: Option<usize>,
    /// The beginning of a head or frame whose end has not come.
    partial: Vec<u8>,
}

/// The connection is over: it was closed, or it broke the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Over;

/// RFC 6455 section 5.2, a client's frame.
struct ClientFrame {
    opcode: u8,
    mask: [u8; 4],
    start: usize,
    end: usize,
}

impl Hub {
    /// Takes bytes of connection `id`; what is to be sent to it alone is appended to `reply`.
    ///
    /// # Errors
    ///
    /// [`Over`]: the caller ends the connection and then calls [`Hub::on_end`].
    pub fn on_bytes(
        &mut self,
        id: u32,
        session: &mut Session,
        bytes: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Over> {
        if session.partial.is_empty() {
            let used = self.consume(id, session, bytes, reply)?;
            session.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut whole = std::mem::take(&mut session.partial);
            whole.extend_from_slice(bytes);
            let used = self.consume(id, session, &whole, reply)?;
            whole.drain(..used);
            session.partial = whole;
        }
        let bytes_max = match session.topic {
            None => HEAD_BYTES_MAX,
            Some(_) => FRAME_BYTES_MAX,
        };
        if session.partial.len() > bytes_max {
            return Err(Over);
        }
        if session.partial.is_empty() {
            session.partial = Vec::new(); // an idle connection holds no buffer
        }
        Ok(())
    }

    fn consume(
        &mut self,
        id: u32,
        session: &mut Session,
        bytes: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<usize, Over> {
        let mut used = 0;
        if session.topic.is_none() {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                return Ok(0);
            };
            session.topic = Some(self.on_head(id, &bytes[..end], reply)?);
            used = end + 4;
        }
        let topic = session.topic.ok_or(Over)?;
        while let Some(frame) = client_frame(&bytes[used..])? {
            let payload = &bytes[used + frame.start..used + frame.end];
            match frame.opcode {
                1 | 2 => self.publish(topic, frame.opcode, frame.mask, payload),
                9 => push_server_frame(10, frame.mask, payload, reply),
                10 => {}
                _ => return Err(Over),
            }
            used += frame.end;
        }
        Ok(used)
    }

    /// Upgrades a connection: the path is the topic.
    fn on_head(&mut self, id: u32, head: &[u8], reply: &mut Vec<u8>) -> Result<usize, Over> {
        let head = std::str::from_utf8(head).map_err(|_| Over)?;
        let mut lines = head.split("\r\n");
        let path = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .ok_or(Over)?;
        let key = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            .map(|(_, value)| value.trim())
            .ok_or(Over)?;
        let accept = codec::accept_of(key);
        let answer = [
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            "Sec-WebSocket-Accept: ",
            &accept,
            "\r\n\r\n",
        ];
        for part in answer {
            reply.extend_from_slice(part.as_bytes());
        }
        let next = self.topics.len();
        let topic = *self.names.entry(path.as_bytes().to_vec()).or_insert(next);
        if topic == next {
            self.topics.push(Topic::default());
        }
        self.topics[topic].members.push(id);
        Ok(topic)
    }

    fn publish(&mut self, topic: usize, opcode: u8, mask: [u8; 4], payload: &[u8]) {
        let turn = &mut self.topics[topic].turn;
        if turn.is_empty() {
            self.dirty.push(topic);
        }
        push_server_frame(opcode, mask, payload, turn);
    }

    /// Forgets a connection.
    pub fn on_end(&mut self, id: u32, session: &Session) {
        if let Some(topic) = session.topic {
            let members = &mut self.topics[topic].members;
            if let Some(index) = members.iter().position(|member| *member == id) {
                members.swap_remove(index);
            }
        }
    }

    /// Whether something waits to be delivered.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Ends a turn: hands every member of every topic that got something its buffer.
    pub fn deliver(&mut self, mut to: impl FnMut(u32, &Rc<Vec<u8>>)) {
        for topic in self.dirty.drain(..) {
            let topic = &mut self.topics[topic];
            let buffer = Rc::new(std::mem::take(&mut topic.turn));
            for member in &topic.members {
                to(*member, &buffer);
            }
        }
    }
}

/// The first frame in `bytes`, when it is there whole. Clients must mask (section 5.1); fragments
/// are not for a bare server.
fn client_frame(bytes: &[u8]) -> Result<Option<ClientFrame>, Over> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & 0xf0 != 0x80 || second & 0x80 == 0 {
        return Err(Over);
    }
    let (head, length): (usize, usize) = match second & 0x7f {
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
    let start = head + 4;
    let end = start.saturating_add(length);
    if bytes.len() < end {
        return Ok(None);
    }
    let mask = bytes[head..start].try_into().expect("four bytes");
    Ok(Some(ClientFrame {
        opcode: first & 0x0f,
        mask,
        start,
        end,
    }))
}

/// Appends an unmasked frame around `payload`, which is masked with `mask`.
fn push_server_frame(opcode: u8, mask: [u8; 4], payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let start = out.len();
    out.extend_from_slice(payload);
    for chunk in out[start..].chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// What waits to be written to one connection: one buffer on its way, the others behind it.
#[derive(Debug, Default)]
pub struct Outbox {
    sending: Option<Rc<Vec<u8>>>,
    sent: usize,
    waiting: Vec<Rc<Vec<u8>>>,
}

impl Outbox {
    /// Queues a buffer; says whether nothing was on its way, so that sending has to be started.
    pub fn push(&mut self, buffer: Rc<Vec<u8>>) -> bool {
        if self.sending.is_some() {
            self.waiting.push(buffer);
            return false;
        }
        self.sending = Some(buffer);
        self.sent = 0;
        true
    }

    /// What is to be sent next. It stays where it is until [`Outbox::on_sent`] has counted it.
    pub fn sending(&self) -> Option<&[u8]> {
        self.sending.as_ref().map(|buffer| &buffer[self.sent..])
    }

    /// The whole buffer on its way, for loops that must own what they send.
    pub fn whole(&self) -> Option<Rc<Vec<u8>>> {
        self.sending.clone()
    }

    /// Counts bytes as sent; says whether more is to be sent. What has queued up meanwhile becomes
    /// one buffer: copying costs less than a call for each.
    pub fn on_sent(&mut self, bytes: usize) -> bool {
        self.sent += bytes;
        let Some(buffer) = &self.sending else {
            return false;
        };
        if self.sent < buffer.len() {
            return true;
        }
        self.sent = 0;
        self.sending = match self.waiting.len() {
            0 => None,
            1 => self.waiting.pop(),
            _ => Some(Rc::new(self.waiting.drain(..).fold(
                Vec::new(),
                |mut whole, buffer| {
                    whole.extend_from_slice(&buffer);
                    whole
                },
            ))),
        };
        self.sending.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Opcode;

    fn joined(hub: &mut Hub, id: u32, path: &str) -> Session {
        let (mut session, mut reply) = (Session::default(), Vec::new());
        let key = codec::upgrade_key(u128::from(id));
        let request = codec::upgrade_request("host", path, &key);
        for chunk in request.chunks(10) {
            hub.on_bytes(id, &mut session, chunk, &mut reply).unwrap();
        }
        assert_eq!(codec::upgrade_answer(&reply, &key), Ok(Some(reply.len())));
        session
    }

    fn delivered(hub: &mut Hub) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        hub.deliver(|id, buffer| all.push((id, buffer.to_vec())));
        all
    }

    #[test]
    fn a_frame_reaches_all_members_of_its_path_and_nobody_else() {
        let mut hub = Hub::default();
        let mut first = joined(&mut hub, 1, "/a");
        let second = joined(&mut hub, 2, "/a");
        joined(&mut hub, 3, "/b");
        let mut frames = Vec::new();
        codec::push_frame(Opcode::Text, b"one", 0x1234_5678, &mut frames);
        codec::push_frame(Opcode::Binary, &[7; 300], 0x8765_4321, &mut frames);
        let mut reply = Vec::new();
        for chunk in frames.chunks(5) {
            hub.on_bytes(1, &mut first, chunk, &mut reply).unwrap();
        }
        let expected = [b"\x81\x03one\x82\x7e\x01\x2c".as_slice(), &[7; 300]].concat();
        assert_eq!(delivered(&mut hub), [(1, expected.clone()), (2, expected)]);
        assert!(!hub.is_dirty());
        hub.on_end(2, &second);
        hub.on_bytes(1, &mut first, &frames, &mut reply).unwrap();
        assert_eq!(delivered(&mut hub).len(), 1);
        assert!(reply.is_empty());
    }

    #[test]
    fn a_close_or_a_broken_frame_ends_the_connection() {
        let mut hub = Hub::default();
        for bytes in [
            &[0x88, 0x80, 0, 0, 0, 0][..],
            &[0x81, 0x01, 0x00],
            &[0x01, 0x80],
        ] {
            let mut session = joined(&mut hub, 1, "/a");
            let outcome = hub.on_bytes(1, &mut session, bytes, &mut Vec::new());
            assert_eq!(outcome, Err(Over));
        }
    }

    #[test]
    fn an_outbox_keeps_the_order_and_joins_what_waits() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(Rc::new(b"abc".to_vec())));
        assert!(!outbox.push(Rc::new(b"de".to_vec())));
        assert!(!outbox.push(Rc::new(b"f".to_vec())));
        assert!(outbox.on_sent(1));
        assert_eq!(outbox.sending(), Some(&b"bc"[..]));
        assert!(outbox.on_sent(2));
        assert_eq!(outbox.sending(), Some(&b"def"[..]));
        assert!(!outbox.on_sent(3));
        assert_eq!(outbox.sending(), None);
    }
}

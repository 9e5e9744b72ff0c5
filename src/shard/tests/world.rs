//! Shards on the simulated kernel, and clients by hand: what the tests of the data plane and `tests/simulation.rs` share.
//!
//! What comes in: what clients say, and how time passes. What goes out: what they read, as JSON. What always holds: nothing waits, and
//! the same calls give the same run. Messages are written and shown as the five elements of 2.0.0 whatever the socket speaks, except
//! that 1.0.0 shows its object, so that a missing or superfluous key is seen.

use super::realtime::auth::{ClaimValidators, Verifier, sign_hs256};
use super::realtime::channel::{Channels, Settings};
use super::realtime::connection::OpenSockets;
use super::realtime::error::Level;
use super::realtime::fanout::Fanout;
use super::realtime::http::HeadLimits;
use super::realtime::logging::Line;
use super::realtime::mail::{Listen, Mail, Question, TopicHasher, TopicKey};
use super::realtime::metrics::{Board, Figures, ShardMetrics};
use super::realtime::shard::{Shard, UpgradeSettings};
use super::realtime::tenant::{Tenant, TenantDirectory, TenantId, TenantLimits, Usage};
use serde_json::{Value, json};
pub(crate) use shards::sim::Faults;
use shards::sim::{PeerId, Sim};
use shards::{Options, ShardId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// When a simulation begins, in seconds since 1970.
pub(crate) const BEGIN: u64 = 1_700_000_000;

/// The key of all tenants' tokens.
pub(crate) const SECRET: &[u8] = b"a secret of the tests, long enough for an HMAC";

/// Topics are hashed with this seed, so that a test can ask who owns one.
pub(crate) const HASH_SEED: u64 = 42;

/// What a world is made of.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) options: Options,
    /// One tenant per entry: `t0`, `t1`, …
    pub(crate) tenants: Vec<TenantLimits>,
    /// Whether a tenant that is not known is sought.
    pub(crate) seeks_tenants: bool,
}

/// Limits that nothing in a test comes near.
pub(crate) fn generous() -> TenantLimits {
    TenantLimits {
        users_max: 1_000_000,
        joins_per_second_max: 1_000_000,
        channels_per_socket_max: 1000,
        events_per_second_max: 1_000_000,
        presence_events_per_second_max: 1_000_000,
        client_presence_calls_max: 1_000_000,
        ..TenantLimits::default()
    }
}

/// One client of a world.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct Client(pub(crate) usize);

/// What a client does not have to know about its own socket.
struct Socket {
    peer: PeerId,
    vsn: u8,
    /// Bytes that are not a whole frame yet.
    bytes: Vec<u8>,
    is_upgraded: bool,
    frames: Vec<Value>,
}

/// Shards, tenants and clients.
pub(crate) struct World {
    pub(crate) sim: Sim<Shard>,
    pub(crate) tenants: Vec<Arc<Tenant>>,
    board: Board,
    /// What the control core was told, except for the log.
    pub(crate) letters: Vec<Mail>,
    /// What the log was told.
    pub(crate) lines: Vec<Line>,
    /// What it was asked, and by which shard.
    pub(crate) questions: VecDeque<(ShardId, Question)>,
    /// Who listens to row changes, as the control core was told by which shard.
    pub(crate) listens: Vec<(ShardId, Listen)>,
    sockets: Vec<Socket>,
    pub(crate) shard_count: usize,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let shard_count = setup.options.shards;
        let tenants: Vec<_> = (0..)
            .zip(setup.tenants)
            .map(|(n, limits)| tenant(n, limits, shard_count))
            .collect();
        let mut directory = TenantDirectory::default();
        for tenant in &tenants {
            directory.insert(Arc::clone(tenant));
        }
        let open_sockets = OpenSockets::new(16_384);
        let seeks_tenants = setup.seeks_tenants;
        let board = Board::new(shard_count);
        let make = |id| {
            let shared = (directory.clone(), open_sockets.clone(), board.clone());
            shard(id, shard_count, shared, seeks_tenants)
        };
        Self {
            sim: Sim::with_options(setup.seed, setup.faults, setup.options, make),
            tenants,
            board,
            letters: Vec::new(),
            lines: Vec::new(),
            questions: VecDeque::new(),
            listens: Vec::new(),
            sockets: Vec::new(),
            shard_count,
        }
    }

    // -- time --

    /// Lets everything happen that can before time moves on.
    pub(crate) fn run(&mut self) {
        loop {
            self.sim.run_until_idle();
            if !self.take_letters() {
                return;
            }
        }
    }

    /// At most `count` turns.
    pub(crate) fn steps(&mut self, count: usize) {
        self.sim.steps(count);
        self.take_letters();
    }

    /// Moves the clock; the control core takes its mail at least once a second.
    pub(crate) fn advance(&mut self, by: Duration) {
        let mut left = by;
        while !left.is_zero() {
            let slice = left.min(Duration::from_secs(1));
            self.run();
            self.sim.advance(slice);
            left -= slice;
        }
        self.run();
    }

    fn take_letters(&mut self) -> bool {
        let mut took = false;
        while let Some((from, letter)) = self.sim.control.receive() {
            took = true;
            match letter {
                Mail::Log(line) => self.lines.push(*line),
                Mail::Listen(listen) => self.listens.push((from, *listen)),
                Mail::Ask(question) => self.questions.push_back((from, *question)),
                letter => self.letters.push(letter),
            }
        }
        took
    }

    // -- shards --

    pub(crate) fn shards(&self) -> impl Iterator<Item = &Shard> {
        (0..self.shard_count).map(|n| self.sim.handler(shard_id(n)))
    }

    /// What a shard counts: of the product, and of the runtime.
    pub(crate) fn figures(&self, shard: usize) -> (&Figures, &ShardMetrics) {
        (&self.board[shard], self.sim.metrics(shard_id(shard)))
    }

    // -- clients --

    /// A client that asks for its upgrade.
    pub(crate) fn connect_with(
        &mut self,
        shard: usize,
        vsn: u8,
        tenant: usize,
        token: &str,
    ) -> Client {
        let peer = self.sim.connect(shard_id(shard));
        let request = format!(
            "GET /socket/websocket?vsn={vsn}.0.0&apikey={token} HTTP/1.1\r\nHost: t{tenant}.localhost\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.sim.peer(peer).write(request.as_bytes());
        self.sockets.push(Socket {
            peer,
            vsn,
            bytes: Vec::new(),
            is_upgraded: false,
            frames: Vec::new(),
        });
        Client(self.sockets.len() - 1)
    }

    pub(crate) fn vsn(&self, client: Client) -> u8 {
        self.sockets[client.0].vsn
    }

    /// Sends bytes that are no frame.
    pub(crate) fn write(&mut self, client: Client, bytes: &[u8]) {
        self.sim.peer(self.sockets[client.0].peer).write(bytes);
    }

    /// Sends a message, given as the five elements of 2.0.0.
    pub(crate) fn send(&mut self, client: Client, message: &Value) {
        let text = if self.vsn(client) == 1 {
            json!({"join_ref": message[0], "ref": message[1], "topic": message[2], "event": message[3], "payload": message[4]})
                .to_string()
        } else {
            message.to_string()
        };
        self.write_frame(client, 1, text.as_bytes());
    }

    /// Sends a binary frame.
    pub(crate) fn send_binary(&mut self, client: Client, bytes: &[u8]) {
        self.write_frame(client, 2, bytes);
    }

    /// Sends a close frame with this code.
    pub(crate) fn send_close(&mut self, client: Client, code: u16) {
        self.write_frame(client, 8, &code.to_be_bytes());
    }

    /// Sends a whole masked frame (RFC 6455 section 5.2).
    pub(crate) fn write_frame(&mut self, client: Client, opcode: u8, payload: &[u8]) {
        let mut out = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..=125 => out.push(0x80 | u8::try_from(length).expect("it is at most 125")),
            length @ 126..=0xffff => {
                out.push(0x80 | 126);
                let length = u16::try_from(length).expect("it is at most 65,535");
                out.extend(length.to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        let mask = [0x1b, 0x87, 0xe4, 0x5a];
        out.extend(mask);
        out.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.write(client, &out);
    }

    /// Says that nothing more will be sent.
    pub(crate) fn fin(&mut self, client: Client) {
        self.sim.peer(self.sockets[client.0].peer).fin();
    }

    /// Breaks the connection.
    pub(crate) fn reset(&mut self, client: Client) {
        self.sim.peer(self.sockets[client.0].peer).reset();
    }

    /// Whether nothing will come any more, and everything that came was read.
    pub(crate) fn is_ended(&self, client: Client) -> bool {
        self.sim.peer(self.sockets[client.0].peer).is_ended()
    }

    pub(crate) fn is_reset(&self, client: Client) -> bool {
        self.sim.peer(self.sockets[client.0].peer).is_reset()
    }

    /// Everything that has arrived and was not taken yet.
    pub(crate) fn read(&mut self, client: Client) -> Vec<Value> {
        let socket = &mut self.sockets[client.0];
        socket.bytes.extend(self.sim.peer(socket.peer).read());
        socket.take_head();
        while socket.is_upgraded
            && let Some((frame, used)) = decode(&socket.bytes, socket.vsn)
        {
            socket.bytes.drain(..used);
            socket.frames.push(frame);
        }
        std::mem::take(&mut socket.frames)
    }
}

impl Socket {
    /// Reads the answer to the upgrade, once: an upgrade shows nothing, a refusal its status and body.
    fn take_head(&mut self) {
        if self.is_upgraded {
            return;
        }
        let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        if head.starts_with("HTTP/1.1 101 ") {
            self.is_upgraded = true;
            self.bytes.drain(..end + 4);
        } else {
            let body = String::from_utf8_lossy(&self.bytes[end + 4..]);
            let status = head.split(' ').nth(1).unwrap_or_default();
            self.frames.push(json!({"status": status, "body": *body}));
            self.bytes.clear();
        }
    }
}

/// The first frame of `bytes` and its length, if it is whole. Servers neither mask nor, this one, fragment.
fn decode(bytes: &[u8], vsn: u8) -> Option<(Value, usize)> {
    let first = *bytes.first()?;
    assert!(
        first & 0xf0 == 0x80,
        "a final frame without reserved bits: {first:#x}"
    );
    let (length, header) = match *bytes.get(1)? {
        126 => (
            u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        length => {
            assert!(length < 126, "a server does not mask");
            (u64::from(length), 2)
        }
    };
    let end = header + usize::try_from(length).ok()?;
    let payload = bytes.get(header..end)?;
    let text = || String::from_utf8_lossy(payload).into_owned();
    let frame = match first & 0xf {
        1 => message(&text(), vsn),
        2 => {
            assert_eq!(vsn, 2, "1.0.0 gets no binary frames");
            user_frame(payload)
        }
        8 => json!({"close": payload.try_into().map_or(0, u16::from_be_bytes)}),
        10 => json!({"pong": text()}),
        other => panic!("a server does not send opcode {other}"),
    };
    Some((frame, end))
}

/// A text frame, its shape checked: spec websocket-protocol 3.1 and 3.2.
fn message(text: &str, vsn: u8) -> Value {
    let value: Value = serde_json::from_str(text).expect("every text frame is JSON");
    if vsn == 1 {
        let object = value.as_object().expect("1.0.0 gets objects");
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["event", "payload", "ref", "topic"]);
    } else {
        assert_eq!(value.as_array().map(Vec::len), Some(5), "{text}");
    }
    value
}

/// A binary frame as an object: kinds 2 and 4 of spec websocket-protocol 3.3.
fn user_frame(bytes: &[u8]) -> Value {
    let size = |n: usize| usize::from(bytes[n]);
    let (header, sizes) = match bytes[0] {
        2 => (3, vec![size(1), size(2)]),
        4 => (5, vec![size(1), size(2), size(3)]),
        kind => panic!("a server does not send kind {kind}"),
    };
    let mut at = header;
    let mut texts = sizes.into_iter().map(|size| {
        at += size;
        String::from_utf8_lossy(&bytes[at - size..at]).into_owned()
    });
    let (topic, event) = (texts.next(), texts.next());
    let metadata = texts.next();
    let mut value = json!({"kind": bytes[0], "topic": topic, "event": event});
    if let Some(metadata) = metadata {
        value["metadata"] = json!(metadata);
        value["encoding"] = json!(bytes[4]);
    }
    value["data"] = json!(String::from_utf8_lossy(&bytes[at..]));
    value
}

/// A user broadcast push: kind 3 of spec websocket-protocol 3.3. An encoding of 1 means JSON.
pub(crate) fn kind_3(
    refs: [&str; 2],
    topic: &str,
    event: &str,
    encoding: u8,
    data: &[u8],
) -> Vec<u8> {
    let parts = [refs[0], refs[1], topic, event];
    let mut out = vec![3];
    out.extend(parts.iter().map(|part| size_byte(part)));
    out.extend([0, encoding]);
    out.extend(parts.iter().flat_map(|part| part.bytes()));
    out.extend(data);
    out
}

/// A push with opaque data: kind 0 of spec websocket-protocol 3.3.
pub(crate) fn kind_0(refs: [&str; 2], topic: &str, event: &str, data: &[u8]) -> Vec<u8> {
    let parts = [refs[0], refs[1], topic, event];
    let mut out = vec![0];
    out.extend(parts.iter().map(|part| size_byte(part)));
    out.extend(parts.iter().flat_map(|part| part.bytes()));
    out.extend(data);
    out
}

fn size_byte(text: &str) -> u8 {
    u8::try_from(text.len()).expect("headers hold at most 255 bytes")
}

/// A token of every tenant that expires so many seconds after the beginning.
pub(crate) fn token(seconds: u64) -> String {
    let claims = json!({"role": "anon", "exp": BEGIN + seconds});
    sign_hs256(SECRET, &claims.to_string())
}

/// The shard that owns a public topic of this tenant.
pub(crate) fn owner(tenant: &Tenant, topic: &str, shards: usize) -> usize {
    let name = topic
        .strip_prefix("realtime:")
        .expect("only channels are owned");
    let hash = TopicHasher::new(HASH_SEED).hash(tenant.id, false, name);
    usize::from(TopicKey::owner_of(hash, shards).0)
}

/// A shard by its number.
pub(crate) fn shard_id(n: usize) -> ShardId {
    ShardId(u16::try_from(n).expect("there are few shards"))
}

/// Takes the tokens of [`token`].
pub(crate) fn verifier() -> Verifier {
    let validators = Arc::new(ClaimValidators::default());
    Verifier::new(Some(SECRET.to_vec()), None, validators)
}

/// The tenant `t<n>`.
pub(crate) fn tenant(n: u32, limits: TenantLimits, shards: usize) -> Arc<Tenant> {
    Arc::new(Tenant {
        id: TenantId(n + 1),
        external_id: format!("t{n}").into(),
        verifier: verifier(),
        limits,
        suspended: false,
        private_only: false,
        presence_enabled: false,
        has_database: false,
        usage: Arc::new(Usage::new(shards + 1)),
    })
}

fn shard(
    id: ShardId,
    shard_count: usize,
    (tenants, open_sockets, board): (TenantDirectory, OpenSockets, Board),
    seeks_tenants: bool,
) -> Shard {
    let settings = Settings {
        channel_error_backoff: Duration::from_secs(5),
        queued_bytes_max: 50_000_000,
        partial_bytes_max: 8 * 1024 * 1024,
        idle_timeout_seconds: 60,
        open_sockets,
        log_level: Level::Info.into(),
        board,
    };
    let upgrades = UpgradeSettings {
        connect_error_backoff: Duration::from_secs(2),
        no_channel_timeout: Duration::from_secs(600),
        any_host_single_tenant: true,
        seeks_tenants,
        head: HeadLimits::default(),
    };
    let hasher = TopicHasher::new(HASH_SEED);
    let fanout = Fanout::new(id, shard_count, hasher, settings.queued_bytes_max);
    Shard::new(Channels::new(fanout, tenants, settings), upgrades)
}

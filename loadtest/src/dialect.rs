//! What the load says to a server: Phoenix in its two serializers, or nothing but frames.
//!
//! In: topics, stamps. Out: the bytes of requests, joins and messages, and what an answer means.
//! A bare server has no join: its topic is the path of the upgrade, and it sends every frame on to
//! everybody on that path. Its messages have the size of what a 2.0.0 member would receive, so that
//! figures of both kinds of server can be divided by each other.

use crate::codec::{self, Opcode};
use crate::stamp::{MARKER, Stamp};

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Phoenix serializer 1.0.0: text objects.
    V1,
    /// Phoenix serializer 2.0.0: text arrays, broadcasts as binary frames of kind 3 and 4.
    V2,
    /// Phoenix serializer 2.0.0 with broadcasts as text, as clients before kind 3 sent them.
    V2Text,
    /// A WebSocket and nothing in it: one topic for each path.
    Bare,
}

/// The name of user events, as short as the stamp's payload wants it.
pub const USER_EVENT: &str = "m";

/// The reference of the join that opens a connection.
pub const FIRST_JOIN_REF: u32 = 1;

/// What every topic starts with for a client, and none in the database.
const TOPIC_PREFIX: &str = "realtime:";

/// What a join asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Join<'a> {
    /// What a member sends comes back to it.
    pub own: bool,
    /// The channel is private: the tenant's database says who may join.
    pub private: bool,
    /// A system message is asked for that says when rows of the database are broadcast.
    pub replication_ready: bool,
    /// The channel is told who is there from the beginning.
    pub presence: bool,
    /// Row changes are asked for: the one entry of `postgres_changes`, JSON.
    pub changes: Option<&'a str>,
    /// Rows that are still in the database are asked for.
    pub replay: Option<Replay>,
    /// A token of the channel's own instead of the socket's.
    pub access_token: Option<&'a str>,
}

/// Which of the rows in the database a join asks for.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// The oldest, milliseconds since 1970.
    pub since_ms: u64,
    /// How many at most; the server gives no more than 25.
    pub limit: u32,
}

/// What a data frame means to the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A reply with status ok.
    Ok,
    /// A reply with status error, or a channel that was closed.
    Refused,
    /// Something else: a broadcast, a system message.
    Other,
}

impl Dialect {
    /// The topic with number `index`, all of equal length so that frames are.
    pub fn topic(self, index: usize) -> String {
        match self {
            Self::Bare => format!("/load/{index:06}"),
            Self::V1 | Self::V2 | Self::V2Text => format!("realtime:load-{index:06}"),
        }
    }

    /// The path and query of the upgrade: `path` with the key and serializer, or the bare topic.
    pub fn path_and_query(self, path: &str, token: &str, topic: &str) -> String {
        let vsn = match self {
            Self::Bare => return topic.to_owned(),
            Self::V1 => "1.0.0",
            Self::V2 | Self::V2Text => "2.0.0",
        };
        format!("{path}?apikey={token}&vsn={vsn}")
    }

    /// Appends the first join of a connection; nothing for a bare server.
    pub fn push_join(self, topic: &str, join: &Join<'_>, mask: u32, out: &mut Vec<u8>) {
        if self.joins() {
            let payload = join.payload();
            self.push_channel(topic, FIRST_JOIN_REF, "phx_join", &payload, mask, out);
        }
    }

    /// Appends the join of one channel among others; its reference is `msg_ref`.
    pub fn push_numbered_join(self, topic: &str, msg_ref: u32, join: &Join<'_>, out: &mut Vec<u8>) {
        self.push_channel(
            topic,
            msg_ref,
            "phx_join",
            &join.payload(),
            mask(msg_ref),
            out,
        );
    }

    /// Appends the leave of the channel that was joined with `join_ref`.
    pub fn push_leave(self, topic: &str, join_ref: u32, out: &mut Vec<u8>) {
        self.push_channel(topic, join_ref, "phx_leave", "{}", mask(join_ref), out);
    }

    /// Appends another token for the channel that was joined with `join_ref`; there is no answer to it.
    pub fn push_access_token(self, topic: &str, join_ref: u32, token: &str, out: &mut Vec<u8>) {
        let payload = format!(r#"{{"access_token":"{token}"}}"#);
        self.push_channel(
            topic,
            join_ref,
            "access_token",
            &payload,
            mask(join_ref),
            out,
        );
    }

    /// Appends a member's presence in the channel that was joined with `join_ref`: `payload_bytes` of JSON
    /// with its stamp, instead of what it had there.
    pub fn push_track(
        self,
        topic: &str,
        join_ref: u32,
        stamp: &Stamp,
        payload_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        let mut meta = Vec::with_capacity(payload_bytes);
        stamp.encode(payload_bytes, &mut meta);
        let meta = String::from_utf8(meta).expect("a stamp's payload is ASCII");
        let payload = format!(r#"{{"type":"presence","event":"track","payload":{meta}}}"#);
        let mask = mask(stamp.sequence);
        self.push_channel(topic, join_ref, "presence", &payload, mask, out);
    }

    fn push_channel(
        self,
        topic: &str,
        msg_ref: u32,
        event: &str,
        payload: &str,
        mask: u32,
        out: &mut Vec<u8>,
    ) {
        let text = match self {
            Self::V1 => format!(
                r#"{{"topic":"{topic}","event":"{event}","payload":{payload},"ref":"{msg_ref}","join_ref":"{msg_ref}"}}"#
            ),
            Self::V2 | Self::V2Text => {
                format!(r#"["{msg_ref}","{msg_ref}","{topic}","{event}",{payload}]"#)
            }
            Self::Bare => return,
        };
        codec::push_frame(Opcode::Text, text.as_bytes(), mask, out);
    }

    /// Whether a join has to be answered before a member is one.
    pub const fn joins(self) -> bool {
        !matches!(self, Self::Bare)
    }

    /// Appends a heartbeat; a ping for a bare server.
    pub fn push_heartbeat(self, mask: u32, out: &mut Vec<u8>) {
        let text = match self {
            Self::Bare => return codec::push_frame(Opcode::Ping, b"", mask, out),
            Self::V1 => r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"2"}"#,
            Self::V2 | Self::V2Text => r#"[null,"2","phoenix","heartbeat",{}]"#,
        };
        codec::push_frame(Opcode::Text, text.as_bytes(), mask, out);
    }

    /// Appends one message of `payload_bytes` with its stamp. `scratch` is cleared and used.
    pub fn push_message(
        self,
        topic: &str,
        stamp: &Stamp,
        payload_bytes: usize,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        scratch.clear();
        let opcode = match self {
            Self::V1 => {
                scratch.extend_from_slice(b"{\"topic\":\"");
                scratch.extend_from_slice(topic.as_bytes());
                scratch.extend_from_slice(b"\",\"event\":\"broadcast\",\"payload\":");
                push_text_payload(stamp, payload_bytes, scratch);
                scratch.extend_from_slice(b",\"ref\":\"3\",\"join_ref\":\"1\"}");
                Opcode::Text
            }
            Self::V2Text => {
                scratch.extend_from_slice(b"[\"1\",\"3\",\"");
                scratch.extend_from_slice(topic.as_bytes());
                scratch.extend_from_slice(b"\",\"broadcast\",");
                push_text_payload(stamp, payload_bytes, scratch);
                scratch.push(b']');
                Opcode::Text
            }
            Self::V2 => {
                // Kind 3: join_ref "1", ref "3", no metadata, encoding 1 (JSON).
                let sizes = [3, 1, 1, size(topic), size(USER_EVENT), 0, 1];
                scratch.extend_from_slice(&sizes);
                scratch.extend_from_slice(b"13");
                push_binary_tail(topic, stamp, payload_bytes, scratch);
                Opcode::Binary
            }
            Self::Bare => {
                // What a member of a Phoenix server would receive: kind 4.
                scratch.extend_from_slice(&[4, size(topic), size(USER_EVENT), 0, 1]);
                push_binary_tail(topic, stamp, payload_bytes, scratch);
                Opcode::Binary
            }
        };
        codec::push_frame(opcode, scratch, mask(stamp.sequence), out);
    }

    /// What a text frame from the server means.
    pub fn answer(self, text: &[u8]) -> Answer {
        let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
        if holds(b"\"phx_reply\"") {
            if holds(b"\"status\":\"ok\"") {
                Answer::Ok
            } else {
                Answer::Refused
            }
        } else if holds(b"\"phx_close\"") || holds(b"\"phx_error\"") {
            Answer::Refused
        } else {
            Answer::Other
        }
    }

    /// Whether a text frame refuses something or ends a channel. One that was left is closed as well, which is
    /// neither: only its system message tells the one from the other.
    pub fn is_refusal(self, text: &[u8]) -> bool {
        says_shut_down(text) || !says_closed(text) && self.answer(text) == Answer::Refused
    }

    /// Whether a text frame refuses something or ends a channel that nobody has left.
    pub fn is_bad_news(self, text: &[u8]) -> bool {
        says_closed(text) || self.is_refusal(text)
    }

    /// Whether a text frame answers a heartbeat.
    pub fn is_heartbeat_reply(self, text: &[u8]) -> bool {
        let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
        holds(b"\"phoenix\"") && holds(b"\"phx_reply\"")
    }

    /// Whether a text frame is the reply to the join or leave with the reference `msg_ref`.
    pub fn is_reply_to(self, text: &[u8], msg_ref: u32) -> bool {
        let reference = match self {
            Self::V1 => format!("\"ref\":\"{msg_ref}\""),
            // Behind the join reference, before a topic that begins with a letter.
            Self::V2 | Self::V2Text => format!(",\"{msg_ref}\",\"{TOPIC_PREFIX}"),
            Self::Bare => return false,
        };
        let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
        holds(b"\"phx_reply\"") && holds(reference.as_bytes())
    }
}

/// Whether a text frame says that a channel is closed, because it was left or for another reason.
pub fn says_closed(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"\"phx_close\"").is_some()
}

/// Whether a text frame says why the server ends a channel (websocket-protocol 5.8).
pub fn says_shut_down(text: &[u8]) -> bool {
    let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
    holds(b"\"system\"") && holds(b"\"extension\":\"system\"") && holds(b"\"status\":\"error\"")
}

/// Whether a text frame says that rows of the tenant's database are broadcast from now on
/// (websocket-protocol 5.6).
pub fn says_replication_is_ready(text: &[u8]) -> bool {
    let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
    holds(b"\"system\"") && holds(b"\"Replication connection established\"")
}

/// Whether a text frame says that the channel is subscribed to row changes, or that it is not; nothing
/// for all other frames (postgres-changes 6).
pub fn says_changes(text: &[u8]) -> Option<bool> {
    let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
    (holds(b"\"system\"") && holds(b"\"extension\":\"postgres_changes\""))
        .then(|| holds(b"\"status\":\"ok\""))
}

/// Whether a text frame is a row change (postgres-changes 7.2).
pub fn is_change(text: &[u8]) -> bool {
    let holds = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
    holds(b"\"postgres_changes\"") && holds(b"\"ids\":[")
}

/// Whether a frame, of either kind, is a broadcast that was replayed to a joining member.
pub fn is_replayed(payload: &[u8]) -> bool {
    memchr::memmem::find(payload, b"\"replayed\":true").is_some()
}

/// The stamps of those who came, or are something else now, and of those who left, or were something else,
/// in a text frame that says so; nothing for all other frames (websocket-protocol 8.2).
pub fn presence_diff(text: &[u8]) -> Option<(Vec<Stamp>, Vec<Stamp>)> {
    let find = |needle: &[u8]| memchr::memmem::find(text, needle);
    find(b"\"presence_diff\"")?;
    let (joins, leaves) = (find(b"\"joins\":")?, find(b"\"leaves\":")?);
    let stamps = |from: usize, other: usize| {
        let to = if other > from { other } else { text.len() };
        let part = &text[from..to];
        memchr::memmem::find_iter(part, MARKER)
            .filter_map(|at| Stamp::decode_at(part, at))
            .collect()
    };
    Some((stamps(joins, leaves), stamps(leaves, joins)))
}

/// A channel's topic as the database knows it.
pub fn topic_in_database(topic: &str) -> &str {
    topic.strip_prefix(TOPIC_PREFIX).unwrap_or(topic)
}

impl Join<'_> {
    fn payload(&self) -> String {
        let Self { own, private, .. } = self;
        let ready = if self.replication_ready {
            r#","replication_ready":true"#
        } else {
            ""
        };
        let replay = self.replay.map_or_else(String::new, |replay| {
            let Replay { since_ms, limit } = replay;
            format!(r#","replay":{{"since":{since_ms},"limit":{limit}}}"#)
        });
        let changes = self.changes.map_or_else(String::new, |entry| {
            format!(r#""postgres_changes":[{entry}],"#)
        });
        let private = if *private { r#""private":true,"# } else { "" };
        let presence = if self.presence {
            r#""presence":{"enabled":true,"key":""},"#
        } else {
            ""
        };
        let token = self
            .access_token
            .map_or_else(String::new, |token| format!(r#","access_token":"{token}""#));
        format!(
            r#"{{"config":{{{private}{presence}{changes}"broadcast":{{"ack":false,"self":{own}{ready}{replay}}}}}{token}}}"#
        )
    }
}

/// A mask need not be unpredictable here (it protects proxies from scripts in browsers), but it must
/// not be zero, or the server's unmasking would be a copy of itself.
const fn mask(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b9) | 1
}

fn size(text: &str) -> u8 {
    u8::try_from(text.len()).expect("topics and events of the load are short")
}

fn push_binary_tail(topic: &str, stamp: &Stamp, payload_bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(USER_EVENT.as_bytes());
    stamp.encode(payload_bytes, out);
}

fn push_text_payload(stamp: &Stamp, payload_bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"m\",\"payload\":");
    stamp.encode(payload_bytes, out);
    out.extend_from_slice(b",\"type\":\"broadcast\"}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        sender: 1,
        sequence: 2,
        at_ns: 3,
    };

    fn unmasked(frame: &[u8]) -> Vec<u8> {
        let start = match frame[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let mask = &frame[start..start + 4];
        frame[start + 4..]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect()
    }

    fn message(dialect: Dialect) -> Vec<u8> {
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        dialect.push_message(&dialect.topic(7), &STAMP, 100, &mut scratch, &mut out);
        unmasked(&out)
    }

    #[test]
    fn text_messages_are_what_phoenix_expects() {
        let value: serde_json::Value = serde_json::from_slice(&message(Dialect::V1)).unwrap();
        assert_eq!(value["topic"], "realtime:load-000007");
        assert_eq!(value["event"], "broadcast");
        assert_eq!(value["payload"]["type"], "broadcast");
        let value: serde_json::Value = serde_json::from_slice(&message(Dialect::V2Text)).unwrap();
        assert_eq!(value[0], "1");
        assert_eq!(value[2], "realtime:load-000007");
        assert_eq!(value[4]["payload"]["load"].as_str().unwrap().len(), 40);
    }

    #[test]
    fn binary_messages_have_the_layout_of_kinds_3_and_4() {
        let kind3 = message(Dialect::V2);
        assert_eq!(&kind3[..7], [3, 1, 1, 20, 1, 0, 1]);
        assert_eq!(&kind3[7..30], b"13realtime:load-000007m");
        assert_eq!(kind3.len(), 30 + 100);
        let kind4 = message(Dialect::Bare);
        assert_eq!(&kind4[..5], [4, 12, 1, 0, 1]);
        for bytes in [kind3, kind4] {
            let offset = Stamp::find(&bytes).unwrap();
            assert_eq!(Stamp::decode_at(&bytes, offset), Some(STAMP));
        }
    }

    #[test]
    fn joins_are_json_and_bare_servers_get_none() {
        let mut out = Vec::new();
        let own = Join {
            own: true,
            ..Join::default()
        };
        Dialect::Bare.push_join("/load/000001", &own, 1, &mut out);
        assert_eq!(out, b"");
        Dialect::V2.push_join("realtime:a", &own, 5, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&unmasked(&out)).unwrap();
        assert_eq!(value[4]["config"]["broadcast"]["self"], true);
        assert_eq!(value[4]["config"].get("private"), None);
        out.clear();
        Dialect::V1.push_join("realtime:a", &Join::default(), 5, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&unmasked(&out)).unwrap();
        assert_eq!(value["event"], "phx_join");
        assert_eq!(value["payload"]["config"]["broadcast"]["self"], false);
    }

    #[test]
    fn a_join_of_a_private_channel_says_all_it_wants() {
        let join = Join {
            private: true,
            replication_ready: true,
            replay: Some(Replay {
                since_ms: 7,
                limit: 3,
            }),
            access_token: Some("a.b.c"),
            ..Join::default()
        };
        let mut out = Vec::new();
        Dialect::V2.push_numbered_join("realtime:a", 12, &join, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&unmasked(&out)).unwrap();
        let config = serde_json::json!({"private": true, "broadcast":
            {"ack": false, "self": false, "replication_ready": true, "replay": {"since": 7, "limit": 3}}});
        let payload = serde_json::json!({"config": config, "access_token": "a.b.c"});
        let expected = serde_json::json!(["12", "12", "realtime:a", "phx_join", payload]);
        assert_eq!(value, expected);
        out.clear();
        Dialect::V2.push_leave("realtime:a", 12, &mut out);
        let expected = br#"["12","12","realtime:a","phx_leave",{}]"#;
        assert_eq!(unmasked(&out), expected);
    }

    #[test]
    fn a_join_asks_for_row_changes_and_is_told_of_them() {
        let join = Join {
            changes: Some(r#"{"event":"INSERT"}"#),
            ..Join::default()
        };
        let payload: serde_json::Value = serde_json::from_str(&join.payload()).unwrap();
        let entries = serde_json::json!([{"event": "INSERT"}]);
        assert_eq!(payload["config"]["postgres_changes"], entries);
        let system = |status| {
            format!(
                r#"["1",null,"realtime:a","system",{{"channel":"a","extension":"postgres_changes","message":"m","status":"{status}"}}]"#
            )
        };
        assert_eq!(says_changes(system("ok").as_bytes()), Some(true));
        assert_eq!(says_changes(system("error").as_bytes()), Some(false));
        let reply = r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[{"id":1}]}}]"#;
        assert_eq!(says_changes(reply.as_bytes()), None);
        assert!(!is_change(reply.as_bytes()));
        let change = r#"[null,null,"realtime:a","postgres_changes",{"ids":[1],"data":{}}]"#;
        assert!(is_change(change.as_bytes()));
        assert_eq!(says_changes(change.as_bytes()), None);
    }

    #[test]
    fn who_comes_and_who_goes_is_read_in_any_order() {
        let meta = |sender| {
            let mut meta = Vec::new();
            Stamp { sender, ..STAMP }.encode(100, &mut meta);
            String::from_utf8(meta).unwrap()
        };
        let of = |senders: &[u32]| {
            let metas: Vec<String> = senders.iter().map(|sender| meta(*sender)).collect();
            format!(r#"{{"k":{{"metas":[{}]}}}}"#, metas.join(","))
        };
        let (joins, leaves) = (of(&[1, 2]), of(&[3]));
        let numbers =
            |stamps: &[Stamp]| -> Vec<u32> { stamps.iter().map(|stamp| stamp.sender).collect() };
        for payload in [
            format!(r#"{{"joins":{joins},"leaves":{leaves}}}"#),
            format!(r#"{{"leaves":{leaves},"joins":{joins}}}"#),
        ] {
            let text = format!(r#"[null,null,"realtime:a","presence_diff",{payload}]"#);
            let (came, went) = presence_diff(text.as_bytes()).unwrap();
            assert_eq!((numbers(&came), numbers(&went)), (vec![1, 2], vec![3]));
        }
        let state = format!(r#"["1",null,"realtime:a","presence_state",{joins}]"#);
        assert_eq!(presence_diff(state.as_bytes()), None);
        let mut out = Vec::new();
        Dialect::V2.push_track("realtime:a", 7, &STAMP, 100, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&unmasked(&out)).unwrap();
        assert_eq!((&value[0], &value[3]), (&"7".into(), &"presence".into()));
        assert_eq!(value[4]["event"], "track");
        assert!(value[4]["payload"]["load"].is_string());
    }

    #[test]
    fn a_reply_is_known_by_its_reference() {
        let check = |dialect: Dialect, text: &str, expected| {
            assert_eq!(dialect.is_reply_to(text.as_bytes(), 2), expected, "{text}");
        };
        let v2 = |event, refs| format!(r#"[{refs},"realtime:a","{event}",{{"status":"ok"}}]"#);
        check(Dialect::V2, &v2("phx_reply", r#""2","2""#), true);
        check(Dialect::V2, &v2("phx_reply", r#""2","3""#), false);
        check(Dialect::V2, &v2("phx_reply", r#""2","12""#), false);
        check(Dialect::V2, &v2("phx_close", r#""2","2""#), false);
        let v1 = |msg_ref| format!(r#"{{"event":"phx_reply","ref":"{msg_ref}","topic":"t"}}"#);
        check(Dialect::V1, &v1(2), true);
        check(Dialect::V1, &v1(12), false);
    }

    #[test]
    fn what_a_server_says_of_its_database_is_understood() {
        let system = r#"["1",null,"realtime:a","system",{"message":"Replication connection established","status":"ok"}]"#;
        assert!(says_replication_is_ready(system.as_bytes()));
        let late = system.replace("established", "was not established in time");
        assert!(!says_replication_is_ready(late.as_bytes()));
        assert!(is_replayed(br#"{"meta":{"id":"1","replayed":true}}"#));
        assert!(!is_replayed(br#"{"meta":{"id":"1"}}"#));
        assert_eq!(topic_in_database("realtime:load-000001"), "load-000001");
    }

    #[test]
    fn a_new_token_goes_to_the_channel_it_is_for() {
        let mut out = Vec::new();
        Dialect::V2.push_access_token("realtime:a", 7, "a.b.c", &mut out);
        let expected = br#"["7","7","realtime:a","access_token",{"access_token":"a.b.c"}]"#;
        assert_eq!(unmasked(&out), expected);
        out.clear();
        Dialect::V1.push_access_token("realtime:a", 7, "a.b.c", &mut out);
        let value: serde_json::Value = serde_json::from_slice(&unmasked(&out)).unwrap();
        assert_eq!(value["event"], "access_token");
        assert_eq!(value["payload"]["access_token"], "a.b.c");
    }

    #[test]
    fn a_channel_that_is_shut_down_is_told_from_one_that_was_left() {
        let check = |text: &str, refuses| {
            assert_eq!(Dialect::V2.is_refusal(text.as_bytes()), refuses, "{text}");
        };
        let closed = br#"["1","1","realtime:a","phx_close",{}]"#;
        assert!(Dialect::V2.is_bad_news(closed));
        check(r#"["1","1","realtime:a","phx_close",{}]"#, false);
        check(r#"["1","1","realtime:a","phx_error",{}]"#, true);
        let system = r#"["1",null,"realtime:a","system",{"channel":"a","extension":"system","message":"Token has expired 1 seconds ago","status":"error"}]"#;
        check(system, true);
        check(&system.replace("\"error\"", "\"ok\""), false);
        let reply = r#"[null,"2","phoenix","phx_reply",{"status":"ok","response":{}}]"#;
        assert!(Dialect::V2.is_heartbeat_reply(reply.as_bytes()));
        let other = reply.replace("phoenix", "realtime:a");
        assert!(!Dialect::V2.is_heartbeat_reply(other.as_bytes()));
    }

    #[test]
    fn answers_are_told_apart() {
        let check = |text: &str, expected| {
            assert_eq!(Dialect::V2.answer(text.as_bytes()), expected, "{text}");
        };
        check(
            r#"["1","1","t","phx_reply",{"status":"ok","response":{}}]"#,
            Answer::Ok,
        );
        check(
            r#"["1","1","t","phx_reply",{"status":"error","response":{}}]"#,
            Answer::Refused,
        );
        check(r#"["1","1","t","phx_close",{}]"#, Answer::Refused);
        check(r#"[null,null,"t","broadcast",{}]"#, Answer::Other);
    }
}

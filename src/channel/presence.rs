//! `presence`: a client tracks or untracks itself (spec: websocket-protocol 8).

use super::question::is_private;
use super::{Channels, Frame};
use crate::connection::{Channel, ConnectionId, Io};
use crate::error::{ErrorCode, text};
use crate::mail::{Checks, PresenceAction, PresenceState};
use crate::phoenix::{self, Message, Payload};
use crate::tenant::{Counter, TenantLimits};
use std::time::Duration;
use uuid::{Builder, Uuid};

/// A presence message's fields, as JSON texts: a missing field and a null one differ.
#[derive(Default)]
struct Fields<'a> {
    event: Option<&'a str>,
    payload: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(payload: &Payload<'a>) -> Self {
        let Payload::Json(text) = payload else {
            return Self::default();
        };
        let [event, payload] = phoenix::pick(text, ["event", "payload"]).unwrap_or_default();
        Self { event, payload }
    }
}

/// What a presence message leads to.
enum Outcome {
    Ok,
    Error,
    NotAnObject,
    /// The channel is shut down with this message.
    Shutdown(&'static str),
}

impl Channels {
    pub(super) fn presence(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        message: &Message<'_>,
        frame: Frame<'_>,
    ) {
        let fields = Fields::of(&message.payload);
        if let Some(checks) = self.unknown_of_track(id, place, &fields) {
            return if self.is_asking(id) {
                self.wait(io, id, message, frame);
            } else {
                self.ask_for_write(io, id, place, checks, frame.keep(message));
            };
        }
        let outcome = match fields.event {
            None => Outcome::Ok,
            Some(event) => {
                self.presence_event(io, id, place, event, fields.payload.unwrap_or("{}"))
            }
        };
        match outcome {
            Outcome::Ok => self.reply(io, id, place, message, "ok", "{}"),
            Outcome::Error => self.reply(io, id, place, message, "error", "{}"),
            Outcome::NotAnObject => {
                let response = r#"{"reason":"Presence track payload must be a map"}"#;
                self.reply(io, id, place, message, "error", response);
            }
            Outcome::Shutdown(text) => self.shut_down(io, id, place, text),
        }
    }

    /// What has to be asked before a track on a private topic can be handled. It is asked before the call is counted, because the message
    /// comes a second time when the answer is there.
    fn unknown_of_track(
        &self,
        id: ConnectionId,
        place: usize,
        fields: &Fields<'_>,
    ) -> Option<Checks> {
        let is_track = phoenix::string_value(fields.event?)?.eq_ignore_ascii_case("track");
        let channel = self.sockets.get(id)?.channels.get(place)?;
        let verdict = channel.verdict;
        let is_known = verdict.presence_write.is_some() && verdict.presence_read.is_some();
        if !is_track || is_known || !is_private(&self.fanout, channel) {
            return None;
        }
        Some(Checks {
            broadcast_read: false,
            presence_read: verdict.presence_read.is_none(),
            writes: verdict.presence_write.is_none(),
        })
    }

    /// The order of checks is the spec's (8.1): calls per window, object, identical, size, tenant's rate.
    fn presence_event(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        event: &str,
        payload: &str,
    ) -> Outcome {
        let now = io.now();
        let Some(limits) = self.tenant(id).map(|tenant| tenant.limits) else {
            return Outcome::Error;
        };
        let Some(channel) = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.channels.get_mut(place))
        else {
            return Outcome::Error;
        };
        if !may_call(channel, now, &limits) {
            self.report(
                io,
                id,
                ErrorCode::ClientPresenceRateLimitReached,
                ":client_rate_limit_exceeded",
            );
            return Outcome::Shutdown(text::CLIENT_PRESENCE_LIMIT);
        }
        let event = phoenix::string_value(event)
            .unwrap_or_default()
            .to_lowercase();
        match &*event {
            "track" => self.track(io, id, place, limits.payload_bytes_max, payload),
            "untrack" => {
                let topic = channel.topic;
                if channel.extra().tracked.take().is_some() {
                    self.fanout.presence(io, topic, id, PresenceAction::Untrack);
                }
                Outcome::Ok
            }
            _ => {
                self.report(io, id, ErrorCode::UnknownPresenceEvent, &event);
                Outcome::Error
            }
        }
    }

    fn track(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        payload_bytes_max: usize,
        payload: &str,
    ) -> Outcome {
        let channel = self.channel_at(id, place);
        if channel.is_some_and(|channel| {
            is_private(&self.fanout, channel) && channel.verdict.presence_write != Some(true)
        }) {
            self.report(io, id, ErrorCode::UnableToHandlePresence, ":unauthorized");
            return Outcome::Error;
        }
        if !payload.starts_with('{') {
            self.report(
                io,
                id,
                ErrorCode::InvalidPresencePayload,
                ":invalid_payload",
            );
            return Outcome::NotAnObject;
        }
        let Some(channel) = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.channels.get_mut(place))
        else {
            return Outcome::Error;
        };
        if channel
            .extra
            .as_ref()
            .and_then(|extra| extra.tracked.as_deref())
            .is_some_and(|tracked| same(tracked, payload))
        {
            return Outcome::Ok;
        }
        if phoenix::json_term_size(payload) > payload_bytes_max {
            return Outcome::Shutdown(text::TRACK_TOO_LARGE);
        }
        let topic = channel.topic;
        let Some(entry) = self.fanout.topic(topic) else {
            return Outcome::Error;
        };
        channel.flags.presence = true;
        let extra = channel.extra();
        let key = extra
            .presence_key
            .get_or_insert_with(|| new_key(io.unix_ms()))
            .clone();
        let (tenant, usage) = (entry.key.tenant(), &entry.usage);
        Self::count(io, tenant, usage, Counter::PresenceEvents, 1);
        if usage.is_tripped(Counter::PresenceEvents) {
            return Outcome::Shutdown(text::TOO_MANY_PRESENCE_MESSAGES);
        }
        extra.tracked = Some(payload.into());
        self.fanout.presence(
            io,
            topic,
            id,
            PresenceAction::Track {
                key,
                meta: payload.into(),
            },
        );
        Outcome::Ok
    }

    /// The owner's answer to a member that has just joined.
    pub fn on_presence_state(&mut self, io: &mut Io<'_>, letter: &PresenceState) {
        let PresenceState {
            topic,
            connection: id,
            join_ref,
            state,
        } = letter;
        let place = self.sockets.get(*id).and_then(|socket| {
            // A channel that was joined since has asked for a state of its own.
            socket
                .channels
                .iter()
                .position(|channel| channel.topic == *topic && *channel.join_ref == **join_ref)
        });
        let Some((place, tenant)) = place.zip(self.tenant(*id)) else {
            return;
        };
        Self::count(io, tenant.id, &tenant.usage, Counter::PresenceEvents, 1);
        if tenant.usage.is_tripped(Counter::PresenceEvents) {
            return self.shut_down(io, *id, place, text::TOO_MANY_PRESENCE_MESSAGES);
        }
        self.push_shared(io, *id, *topic, "presence_state", state);
    }
}

/// Counts one call in the channel's window, which begins with its first call (spec 9.3).
fn may_call(channel: &mut Channel, now: crate::connection::Tick, limits: &TenantLimits) -> bool {
    let extra = channel.extra();
    let window = Duration::from_millis(u64::from(limits.client_presence_window_ms));
    if extra.presence_calls == 0 || now.since(extra.presence_window) >= window {
        extra.presence_window = now;
        extra.presence_calls = 0;
    }
    extra.presence_calls += 1;
    extra.presence_calls <= limits.client_presence_calls_max
}

/// Whether two payloads, objects, say the same: keys in another order change nothing.
fn same(one: &str, other: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other
        || same_in_order(one, other)
            .unwrap_or_else(|| parse(one).is_some_and(|value| Some(value) == parse(other)))
}

/// The same, told member by member up to the first that differs: nothing is built for a payload that comes again with other numbers in
/// it, as nearly all do. None where names come in another order, or a value that differs is one that may be written in several ways.
fn same_in_order(one: &str, other: &str) -> Option<bool> {
    let (mut members, mut others) = (phoenix::members(one), phoenix::members(other));
    loop {
        let ((name, value), (other_name, other_value)) = match (members.next(), others.next()) {
            (Some(member), Some(other)) => (member, other),
            (None, None) => return Some(true),
            _ => return None,
        };
        if name != other_name {
            return None;
        }
        if value == other_value {
            continue;
        }
        let is_flat = |text: &str| !text.starts_with(['{', '[']) && !text.contains('\\');
        // Of a repeated name the last value counts.
        let counts =
            members.all(|(later, _)| later != name) && others.all(|(later, _)| later != name);
        return (is_flat(value) && is_flat(other_value) && counts).then_some(false);
    }
}

/// The key of a client that has not chosen one: a UUID of version 1 (spec 5.1). Its node is chosen anew each time, and says so (RFC 9562
/// section 6.10).
fn new_key(unix_ms: u64) -> Box<str> {
    const UNIX_EPOCH_TICKS: u64 = 0x01b2_1dd2_1381_4000;
    const TICKS_OF_MS: u64 = 10_000;
    let [one, two, .., a, b, c, d, e, f] = Uuid::new_v4().into_bytes();
    let (counter, node) = (u16::from_be_bytes([one, two]), [a | 1, b, c, d, e, f]);
    let ticks = UNIX_EPOCH_TICKS.wrapping_add(unix_ms.wrapping_mul(TICKS_OF_MS));
    let key = Builder::from_gregorian_timestamp(ticks, counter, &node).into_uuid();
    key.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_chose_is_a_uuid_of_version_1() {
        let keys = [new_key(1_700_000_000_123), new_key(1_700_000_000_123)];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            let key = Uuid::parse_str(&key).unwrap();
            assert_eq!(key.get_version_num(), 1);
            assert_eq!(key.get_variant(), uuid::Variant::RFC4122);
            let ticks = key.as_bytes();
            let ticks = [
                ticks[6] & 0xf,
                ticks[7],
                ticks[4],
                ticks[5],
                ticks[0],
                ticks[1],
                ticks[2],
                ticks[3],
            ];
            let unix_ticks = u64::from_be_bytes(ticks) - 0x01b2_1dd2_1381_4000;
            assert_eq!(unix_ticks, 1_700_000_000_123 * 10_000);
            assert_eq!(key.as_bytes()[10] & 1, 1, "no network card has it");
        }
    }

    #[test]
    fn payloads_are_the_same_whatever_the_order_of_keys() {
        let check = |one: &str, other: &str, expected: bool, by_tree: bool| {
            let tree = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(tree(one) == tree(other), expected, "{one} {other}");
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(same(one, other), expected, "{one} {other}");
                assert_eq!(
                    same_in_order(one, other).is_none(),
                    by_tree,
                    "{one} {other}"
                );
            }
        };
        check(r#"{"a":1,"b":2}"#, r#"{ "b":2, "a":1 }"#, true, true);
        check(r#"{"a":1}"#, r#"{"a":2}"#, false, false);
        let (big, next) = (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#);
        check(big, next, false, false);
        check(r#"{"a":1}"#, r#"{"a":"1"}"#, false, false);
        check(
            r#"{"a": 1, "b":[1, 2]}"#,
            r#"{"a":1,"b":[1, 2]}"#,
            true,
            false,
        );
        check(
            r#"{"x":1,"n":"a","b":{}}"#,
            r#"{"x":2,"n":"a","b":{}}"#,
            false,
            false,
        );
        // What may be written in several ways.
        check(r#"{"a":"\u0062"}"#, r#"{"a":"b"}"#, true, true);
        check(r#"{"a":[1,2]}"#, r#"{"a":[1, 2]}"#, true, true);
        check(r#"{"\u0061":"b"}"#, r#"{"a":"b"}"#, true, false);
        // Another number of names, and a name that comes twice.
        check(r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false, true);
        check("{}", r#"{"a":1}"#, false, true);
        check(r#"{"a":1,"a":2}"#, r#"{"a":3,"a":2}"#, true, true);
        check(r#"{"a":1,"b":0}"#, r#"{"a":3,"a":1,"b":0}"#, true, true);
        check(r#"{"a":1,"a":2}"#, r#"{"a":1,"a":3}"#, false, false);
    }
}

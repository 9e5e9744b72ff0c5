//! `postgres_changes` of a join: the echo of the entries, and the channel as a listener to row changes.

use super::Channels;
use crate::connection::{CONTROL, Channel, ConnectionId, Io};
use crate::error::text;
use crate::fanout::Listener;
use crate::mail::{Listen, Listening, Mail, TopicRef};
use crate::phoenix;
use crate::tenant::TenantId;
use std::sync::Arc;

/// Its name in `system` messages.
const EXTENSION: &str = "postgres_changes";

/// The `response` of an ok reply: the client's entries unchanged, each with its `id` (spec 5.4).
pub(super) fn response(subscriptions: &[Box<str>]) -> String {
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(b"{\"postgres_changes\":[");
    for (n, subscription) in subscriptions.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        phoenix::echo_subscription(
            &mut out,
            subscription,
            phoenix::subscription_id(subscription),
        );
    }
    out.extend_from_slice(b"]}");
    String::from_utf8(out)
        .expect("entries of a frame are UTF-8, and so is what is written around them")
}

impl Channels {
    /// A channel with subscriptions was joined: the control core is told. A tenant without a database is answered at once, as one
    /// whose database cannot be reached (spec: README, operations).
    pub(super) fn listen(&mut self, io: &mut Io<'_>, id: ConnectionId, topic: TopicRef) {
        let Some(tenant) = self.tenant_of(id) else {
            return;
        };
        if !tenant.has_database {
            let text = text::UNABLE_TO_CONNECT;
            return self.push_system(io, id, topic, EXTENSION, "error", text);
        }
        let Some(key) = self.fanout.topic(topic).map(|entry| Arc::clone(&entry.key)) else {
            return;
        };
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let vsn = socket.vsn;
        let Some(channel) = socket.channel(topic) else {
            return;
        };
        let claims = Arc::clone(&channel.token.claims);
        let extra = channel.extra();
        let entries = Arc::clone(&extra.subscriptions);
        let ids = entries.iter().map(|entry| phoenix::subscription_id(entry));
        let listener = self.fanout.changes.add(Listener {
            tenant: tenant.id,
            connection: id,
            topic,
            key,
            vsn,
            ids: (!extra.is_topic_subscription).then(|| ids.collect()),
        });
        extra.listener = Some(listener);
        let listen = Listen {
            tenant: tenant.id,
            listener,
            entries,
            claims,
            is_refresh: false,
        };
        io.mail(CONTROL, Mail::Listen(Box::new(listen)));
    }

    /// The channel has a new token: what it may see is decided by that one.
    pub(super) fn listen_again(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize) {
        let Some(tenant) = self.sockets.get(id).map(|socket| socket.tenant) else {
            return;
        };
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let Some((extra, listener)) = channel
            .extra
            .as_ref()
            .and_then(|extra| Some((extra, extra.listener?)))
        else {
            return;
        };
        let listen = Listen {
            tenant,
            listener,
            entries: Arc::clone(&extra.subscriptions),
            claims: Arc::clone(&channel.token.claims),
            is_refresh: true,
        };
        io.mail(CONTROL, Mail::Listen(Box::new(listen)));
    }

    /// A channel ends: nothing reaches it from now on.
    pub(super) fn unlisten(&mut self, io: &mut Io<'_>, tenant: TenantId, channel: &Channel) {
        let listener = channel.extra.as_ref().and_then(|extra| extra.listener);
        if let Some(listener) = listener
            && self.fanout.changes.remove(listener)
        {
            io.mail(CONTROL, Mail::Unlisten { tenant, listener });
        }
    }

    /// Where a channel stands, and what its client reads.
    pub fn on_listening(&mut self, io: &mut Io<'_>, listening: Listening) {
        let Some(listener) = self.fanout.changes.listener(listening.listener) else {
            return;
        };
        let (id, topic) = (listener.connection, listener.topic);
        if let Some(seats) = listening.seats {
            self.fanout.changes.seat(listening.listener, &seats);
        }
        if let Some((code, text)) = listening.line {
            self.report(io, id, code, &text);
        }
        if let Some(news) = listening.news {
            let status = if news.is_ok { "ok" } else { "error" };
            self.push_system(io, id, topic, EXTENSION, status, &news.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_are_echoed_in_order_with_an_id() {
        let entry: Box<str> = r#"{"event":"*","schema":"public","x":1.50}"#.into();
        let text = response(&[entry.clone(), entry]);
        assert!(text.contains("1.50"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let [one, other] = [0, 1].map(|n| value["postgres_changes"][n].clone());
        assert_eq!(one, other);
        assert_eq!(one["event"], json!("*"));
        assert!(one["id"].as_u64().unwrap() < 1 << 27);
        assert_eq!(response(&[]), r#"{"postgres_changes":[]}"#);
    }
}

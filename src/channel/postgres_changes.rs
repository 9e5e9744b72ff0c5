//! `postgres_changes` of a join: the echo of the entries, and the channel as a listener to row changes.

use super::{Channels, Delayed};
use crate::connection::{self, CONTROL, Channel, ConnectionId, Extra, Follows, Io, Tick};
use crate::error::text;
use crate::fanout::Listener;
use crate::limits;
use crate::mail::{Listen, Listening, Mail, TopicRef};
use crate::phoenix;
use crate::tenant::TenantId;
use std::sync::Arc;

/// Its name in `system` messages.
const EXTENSION: &str = "postgres_changes";

/// The `response` of an ok reply: the client's entries unchanged, each with its `id` (spec 5.4).
pub(super) fn response(subscriptions: &[Box<str>], ids: &[u32]) -> String {
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(b"{\"postgres_changes\":[");
    for (n, (subscription, id)) in subscriptions.iter().zip(ids).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        phoenix::echo_subscription(&mut out, subscription, *id);
    }
    out.extend_from_slice(b"]}");
    String::from_utf8(out)
        .expect("entries of a frame are UTF-8, and so is what is written around them")
}

impl Channels {
    /// A channel with subscriptions was joined: the control core is told. A tenant without a database is answered at once, as one
    /// whose database cannot be reached (spec: README, operations), and so is everybody while the control core takes no letters.
    pub(super) fn listen(&mut self, io: &mut Io<'_>, id: ConnectionId, topic: TopicRef) {
        let Some(tenant) = self.tenant_of(id) else {
            return;
        };
        if !tenant.has_database || connection::is_control_busy(io) {
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
        let ids = std::mem::take(&mut extra.subscription_ids);
        let listener = self.fanout.changes.add(Listener {
            tenant: tenant.id,
            connection: id,
            topic,
            key,
            vsn,
            ids: (!extra.is_topic_subscription).then_some(ids),
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

    /// What follows a join: behind the first word on its subscriptions where that is a matter of a moment, else at once (spec 5.4).
    pub(super) fn follow_join(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        follows: Follows,
    ) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let tenant = self.tenants.get(socket.tenant);
        let reads_changes = tenant.is_some_and(|tenant| tenant.usage.reads_changes());
        let channel = socket.channel(topic);
        let extra = channel.and_then(|channel| channel.extra.as_deref_mut());
        let waits = |extra: &&mut Extra| reads_changes && extra.listener.is_some();
        match extra.filter(waits) {
            Some(extra) if follows.replication || follows.state => {
                let due = io.now().after(limits::FIRST_NEWS_TIMEOUT);
                extra.behind_news = Some((follows, due));
                self.delay(io, due, Delayed::FirstNews { id, topic, due });
            }
            Some(_) => {}
            None => self.follow(io, id, topic, follows),
        }
    }

    /// The first word on a channel's subscriptions is there, or late: what waits for it comes, if its deadline is this one.
    pub(super) fn follow_news(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        is_it: impl FnOnce(Tick) -> bool,
    ) {
        let socket = self.sockets.get_mut(id);
        let channel = socket.and_then(|socket| socket.channel(topic));
        let extra = channel.and_then(|channel| channel.extra.as_deref_mut());
        let behind = extra.and_then(|extra| extra.behind_news.take_if(|(_, due)| is_it(*due)));
        if let Some((follows, _)) = behind {
            self.follow(io, id, topic, follows);
        }
    }

    fn follow(&mut self, io: &mut Io<'_>, id: ConnectionId, topic: TopicRef, follows: Follows) {
        if follows.replication {
            self.wait_for_replication(io, id, topic);
        }
        let socket = self.sockets.get_mut(id);
        let channel = socket.and_then(|socket| socket.channel(topic));
        if let Some(channel) = channel.filter(|_| follows.state) {
            let join_ref = Box::from(&*channel.join_ref);
            self.fanout.presence_state(io, topic, id, join_ref);
        }
    }

    /// The channel has a new token: what it may see is decided by that one. False when that cannot be said to the control core now: what
    /// the channel gets would be decided by the old one.
    #[must_use]
    pub(super) fn listen_again(&self, io: &mut Io<'_>, id: ConnectionId, place: usize) -> bool {
        let Some(tenant) = self.sockets.get(id).map(|socket| socket.tenant) else {
            return true;
        };
        let Some(channel) = self.channel_at(id, place) else {
            return true;
        };
        let Some((extra, listener)) = channel
            .extra
            .as_ref()
            .and_then(|extra| Some((extra, extra.listener?)))
        else {
            return true;
        };
        if connection::is_control_busy(io) {
            return false;
        }
        let listen = Listen {
            tenant,
            listener,
            entries: Arc::clone(&extra.subscriptions),
            claims: Arc::clone(&channel.token.claims),
            is_refresh: true,
        };
        io.mail(CONTROL, Mail::Listen(Box::new(listen)));
        true
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
            self.follow_news(io, id, topic, |_| true);
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
        let ids = [phoenix::subscription_id(&entry); 2];
        let text = response(&[entry.clone(), entry], &ids);
        assert!(text.contains("1.50"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let [one, other] = [0, 1].map(|n| value["postgres_changes"][n].clone());
        assert_eq!(one, other);
        assert_eq!(one["event"], json!("*"));
        assert!(one["id"].as_u64().unwrap() < 1 << 27);
        assert_eq!(response(&[], &[]), r#"{"postgres_changes":[]}"#);
    }
}

//! `postgres_changes` of a join: the echo of the entries, and what a tenant without a database is told.

use super::Channels;
use crate::connection::{ConnectionId, Io};
use crate::mail::TopicRef;
use crate::phoenix;

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
    /// The tenant has no database that could be asked for row changes: the client reads what it would read of a tenant whose
    /// database cannot be reached (spec: README, operations).
    pub(super) fn answer_subscriptions(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
    ) {
        let text = "Realtime was unable to connect to the project database";
        self.push_system(io, id, topic, "postgres_changes", "error", text);
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

//! From a running stream to the publisher.
//!
//! What comes in: events of a stream. What goes out: rows, in the order of their commits. What always holds: what is confirmed to the
//! database has been handed to the shards before; updates and deletes lead to nothing (spec: broadcast-from-database 3). Deliberately
//! absent: starting and watching the stream.

use super::engine::Engine;
use super::ledger::Novelty;
use super::measures::Lag;
use super::row::Layout;
use crate::control::clock;
use crate::control::replication::pgoutput::{Commit, Message, Relation, Tuple, decode};
use crate::control::replication::{Changes, Event, Fault, Lsn, POSTGRES_EPOCH_US};
use crate::error::{ErrorCode, Level};
use rustc_hash::FxHashMap;
use std::cell::Cell;

/// What the stream has said of its tables; none for one that is not ours.
type Layouts = FxHashMap<u32, Option<Layout>>;

impl Engine {
    /// Delivers what the stream says, until it ends.
    pub(super) async fn pump(&self, mut changes: Changes) -> Fault {
        let mut layouts = Layouts::default();
        loop {
            let event = match changes.next().await {
                Ok(event) => event,
                Err(fault) => return fault,
            };
            self.events.set(self.events.get().wrapping_add(1));
            match event {
                Event::Begin(begin) => {
                    let committed_at_us = begin.committed_at_us.saturating_add(POSTGRES_EPOCH_US);
                    self.publisher.begin(committed_at_us);
                    self.ledger.borrow_mut().begin(begin.xid);
                }
                Event::Message(bytes) => self.deliver(&mut layouts, &bytes).await,
                Event::Commit(commit) => {
                    self.measure(commit);
                    self.passed(&mut changes, commit.end);
                }
                Event::Passed(position) => self.passed(&mut changes, position),
            }
        }
    }

    fn passed(&self, changes: &mut Changes, position: Lsn) {
        self.position.set(self.position.get().max(position));
        self.ledger.borrow_mut().passed(position);
        changes.confirm(position);
    }

    fn measure(&self, commit: Commit) {
        let committed_at_us = commit.committed_at_us.saturating_add(POSTGRES_EPOCH_US);
        let committed_at_ms = u64::try_from(committed_at_us / 1000).unwrap_or(0);
        self.measures.lag.set(Lag {
            ms: clock::unix_ms().saturating_sub(committed_at_ms),
            ..self.measures.lag.get()
        });
    }

    async fn deliver(&self, layouts: &mut Layouts, bytes: &[u8]) {
        match decode(bytes) {
            Ok(Message::Relation(relation)) => self.note(layouts, &relation),
            Ok(Message::Insert { relation, new }) => {
                if let Some(Some(layout)) = layouts.get(&relation) {
                    self.insert(layout, &new).await;
                }
            }
            // It was delivered when it was inserted. Noted, because the table now shows it as a new one.
            Ok(Message::Update { relation, new, .. }) => {
                if let Some(Some(layout)) = layouts.get(&relation)
                    && let Some(key) = layout.key(&new)
                {
                    let _ = self.ledger.borrow_mut().stream(key);
                }
            }
            Ok(_) => {}
            Err(error) => self.log(ErrorCode::UnexpectedMessageReceived, &error.to_string()),
        }
    }

    fn note(&self, layouts: &mut Layouts, relation: &Relation) {
        let layout = Layout::of(relation);
        if layout.is_none() {
            let text = format!(
                "Unexpected relation on schema '{}' and table '{}'",
                relation.schema, relation.name
            );
            self.say(Level::Warning, &text);
        }
        layouts.insert(relation.id, layout);
    }

    async fn insert(&self, layout: &Layout, tuple: &Tuple<'_>) {
        // First of all: this may be dropped while it waits, and what is in the ledger counts as delivered.
        let place = {
            let _publishing = Publishing::begin(&self.is_publishing);
            self.publisher.place().await
        };
        let novelty = match layout.key(tuple) {
            Some(key) => self.ledger.borrow_mut().stream(key),
            None => Novelty::New,
        };
        if novelty == Novelty::New {
            self.publisher.publish(place, layout.row(tuple));
            self.limit_ledger();
        }
    }
}

/// While it lives a row is being handed over.
struct Publishing<'a>(&'a Cell<bool>);

impl<'a> Publishing<'a> {
    fn begin(flag: &'a Cell<bool>) -> Self {
        flag.set(true);
        Self(flag)
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

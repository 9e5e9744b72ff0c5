//! A row on its way to the shards (spec: broadcast-from-database 4).
//!
//! What comes in: rows, from the stream or from the table. What goes out: a parcel each, counted as one event of the tenant; or a line
//! that says why it was dropped. What always holds: rows go out in the order they come in, and every one that does not is counted
//! (`rows_that_are_none_are_logged_and_counted`, in tests/database); while the shards do not take them, the caller waits, and it waits
//! before it notes the row as delivered (`row_that_waits_for_the_shards_survives_a_break`, in tests/database). Deliberately absent:
//! policies, which were asked when the row was inserted.

use super::measures::Measures;
use super::row::{Dropped, Row};
use crate::control::clock;
use crate::control::database::Environment;
use crate::control::outgoing::{Parcel, Place};
use crate::error::ErrorCode;
use crate::logging::Line;
use crate::mail::{Audience, Content, Publish, To, TopicKey};
use crate::metrics::Relayed;
use crate::phoenix;
use crate::tenant::{Counter, Tenant};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that surround a binary payload in what is measured (spec: websocket-protocol 9.4).
const AROUND_PAYLOAD_BYTES: usize = 6;

/// See the room's documentation.
#[derive(Debug)]
pub struct Publisher {
    tenant: Arc<Tenant>,
    environment: Rc<Environment>,
    measures: Rc<Measures>,
    /// When the rows were committed that the stream says now, in microseconds since 1970.
    committed_at_us: Cell<Option<i64>>,
    /// The topic of the last row: often that of the next one as well.
    last: RefCell<Option<Arc<TopicKey>>>,
}

impl Publisher {
    /// For the rows of a tenant.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, environment: Rc<Environment>, measures: Rc<Measures>) -> Self {
        Self {
            tenant,
            environment,
            measures,
            committed_at_us: Cell::new(None),
            last: RefCell::default(),
        }
    }

    /// Waits while too much waits for the shards. Who is dropped meanwhile has published nothing, so the row must not be in the ledger
    /// yet.
    pub async fn place(&self) -> Place<'_> {
        self.environment.outgoing.reserve().await
    }

    /// The stream says rows that were committed then, in microseconds since 1970.
    pub fn begin(&self, committed_at_us: i64) {
        self.committed_at_us.set(Some(committed_at_us));
    }

    /// Sends a row of the stream to the members of its topic, if it is one and may be sent.
    pub fn publish(&self, place: Place<'_>, row: Result<Row<'_>, Dropped>) {
        self.hand_over(place, row, self.committed_at_us.get());
    }

    fn hand_over(
        &self,
        place: Place<'_>,
        row: Result<Row<'_>, Dropped>,
        committed_at_us: Option<i64>,
    ) {
        let inserted_at_us = row.as_ref().ok().map(|row| row.key.inserted_at_us);
        match row.and_then(|row| self.parcel(&row)) {
            Ok(parcel) => {
                self.measure(inserted_at_us, committed_at_us);
                self.measures
                    .delivered
                    .set(self.measures.delivered.get() + 1);
                place.send(parcel);
            }
            Err(dropped) => self.drop(dropped),
        }
    }

    /// The same for a row that no stream has said.
    pub fn publish_from_table(&self, place: Place<'_>, row: Result<Row<'_>, Dropped>) {
        let count = &self.measures.read_from_table;
        count.set(count.get() + u64::from(row.is_ok()));
        self.hand_over(place, row, None);
    }

    /// The largest body that the tenant may send, in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        let live = self.environment.tenants.borrow();
        let now = live.directory.get(self.tenant.id).unwrap_or(&self.tenant);
        let max = now.limits.payload_bytes_max;
        max.saturating_sub(AROUND_PAYLOAD_BYTES)
    }

    /// How long a row that is broadcast now was on its way.
    fn measure(&self, inserted_at_us: Option<i64>, committed_at_us: Option<i64>) {
        let now = clock::unix_ms();
        let since = |us: Option<i64>| {
            let ms = us.and_then(|us| u64::try_from(us / 1000).ok())?;
            Some(now.saturating_sub(ms))
        };
        let latencies = self.tenant.usage.latencies();
        if let Some(took) = since(inserted_at_us) {
            latencies.inserted_to_broadcast.observe(took);
        }
        if let Some(took) = since(committed_at_us) {
            latencies.committed_to_broadcast.observe(took);
        }
    }

    fn drop(&self, dropped: Dropped) {
        self.measures.count_drop(dropped);
        let code = ErrorCode::UnableToBroadcastChanges;
        let line = Line::coded(clock::unix_ms(), code, &dropped.to_string());
        let external_id = Arc::clone(&self.tenant.external_id);
        self.environment.log.write(line.of_tenant(external_id));
    }

    fn parcel(&self, row: &Row<'_>) -> Result<Parcel, Dropped> {
        let now = {
            let live = self.environment.tenants.borrow();
            let current = live.directory.get(self.tenant.id);
            Arc::clone(current.unwrap_or(&self.tenant))
        };
        if row.body.len() + AROUND_PAYLOAD_BYTES > now.limits.payload_bytes_max {
            return Err(Dropped::PayloadSizeExceeded);
        }
        if now.usage.average(Counter::Events) >= now.limits.events_per_second_max {
            return Err(Dropped::TooManyRequests);
        }
        let key = self.topic(row);
        let metadata = format!("{{\"id\":\"{}\"}}", row.key.id);
        phoenix::fits_binary(key.text(), row.event, Some(&metadata))
            .map_err(|_| Dropped::NameTooLong)?;
        let environment = &self.environment;
        let bytes = row.body.len() + AROUND_PAYLOAD_BYTES;
        now.usage
            .count_payload(environment.cell, Relayed::Broadcast, bytes);
        environment.count(&now, Counter::Events, 1);
        Ok(Parcel::Publish(Box::new(Publish {
            to: To::Key(key),
            content: Content::User {
                event: Cow::Owned(row.event.to_owned()),
                metadata: Some(Cow::Owned(metadata)),
                encoding: row.encoding,
                bytes: Cow::Owned(row.body.to_vec()),
            },
            except: None,
            audience: Audience::Broadcast,
            id: Some(row.key.id),
        })))
    }

    fn topic(&self, row: &Row<'_>) -> Arc<TopicKey> {
        let mut last = self.last.borrow_mut();
        if let Some(key) = last
            .as_ref()
            .filter(|key| key.is(self.tenant.id, row.private, row.topic))
        {
            return Arc::clone(key);
        }
        let hasher = &self.environment.hasher;
        let key = TopicKey::of_name(hasher, self.tenant.id, row.private, row.topic);
        Arc::clone(last.insert(Arc::new(key)))
    }
}

//! The tenants' part of the page.
//!
//! What comes in: the [`Roll`]. What goes out: families of an [`Exposition`], one series per tenant and more where there are reasons,
//! codes or sizes. What always holds: the thread is given up after every few hundred series, so that a page of thousands of tenants
//! holds nobody up (`a_page_of_many_tenants_holds_nobody_up`); a family stands there also when no tenant has a series of it.
//! Deliberately absent: who has been here (`roll`), and what numbers mean (`families`).

use super::exposition::Exposition;
use super::exposition::Kind::{self, Counter as C, Gauge, Histogram};
use super::exposition::Value::{self, Integer};
use super::families::{self, Family};
use super::pace::Pace;
use super::roll::{Roll, Row};
use crate::control::{changes, messages};
use crate::metrics::{self, Relayed};
use crate::tenant::{Counter, Latencies};

/// Writes all of it.
pub async fn write(text: &mut Exposition<'_>, roll: &Roll) {
    let mut out = Out {
        text,
        roll,
        pace: Pace::default(),
    };
    out.numbers().await;
    out.errors().await;
    out.payloads().await;
    out.latencies().await;
    out.families(families::CHANGES, |row| row.changes.as_deref())
        .await;
    let skipped = [changes::Dropped::RateLimited];
    for (family, reasons) in [
        (families::SKIPPED, &skipped[..]),
        (families::DROPPED_CHANGES, &changes::Dropped::ALL),
    ] {
        let reasons = reasons.iter().map(|reason| (reason.as_str(), *reason));
        let reasons: Vec<_> = reasons.collect();
        let measures = |row: &Row| row.changes.clone();
        out.reasons(family, &reasons, measures, |of, reason| of.dropped(reason))
            .await;
    }
    out.families(families::MESSAGES, |row| row.messages.as_deref())
        .await;
    let reasons = messages::Dropped::ALL.map(|reason| (reason.as_str(), reason));
    let measures = |row: &Row| row.messages.clone();
    out.reasons(
        families::DROPPED_MESSAGES,
        &reasons,
        measures,
        |of, reason| of.dropped(reason),
    )
    .await;
}

/// A number of a tenant that has one.
type Number = (&'static str, Kind, &'static str, fn(&Row) -> Option<Value>);

const NUMBERS: &[Number] = &[
    (
        "realtime_connections_connected",
        Gauge,
        "Sockets of the tenant on this node that have joined a channel.",
        |row| Some(Integer(row.usage.users().into())),
    ),
    (
        "realtime_connections_connected_cluster",
        Gauge,
        "Sockets of the tenant on all nodes that have joined a channel.",
        |row| Some(Integer(row.usage.users().into())),
    ),
    (
        "realtime_channel_joins",
        C,
        "Joins of channels that were counted.",
        |row| count(row, Counter::Joins),
    ),
    (
        "realtime_channel_events",
        C,
        "Broadcasts that were sent and delivered.",
        |row| count(row, Counter::Events),
    ),
    (
        "realtime_channel_presence_events",
        C,
        "Messages of presence that were sent and delivered.",
        |row| count(row, Counter::PresenceEvents),
    ),
    (
        "realtime_channel_db_events",
        C,
        "Row changes times the subscriptions that they matched.",
        |row| row.changes.as_ref().and(count(row, Counter::DbEvents)),
    ),
    (
        "realtime_channel_input_bytes",
        C,
        "Bytes that sockets have received.",
        |row| Some(Integer(row.usage.bytes().0)),
    ),
    (
        "realtime_channel_output_bytes",
        C,
        "Bytes that sockets have sent.",
        |row| Some(Integer(row.usage.bytes().1)),
    ),
];

fn count(row: &Row, counter: Counter) -> Option<Value> {
    Some(Integer(row.usage.total(counter)))
}

struct Out<'a, 'text> {
    text: &'a mut Exposition<'text>,
    roll: &'a Roll,
    pace: Pace,
}

impl Out<'_, '_> {
    async fn numbers(&mut self) {
        for (name, kind, help, read) in NUMBERS {
            self.text.family(name, *kind, help);
            for row in self.roll.shown() {
                if let Some(value) = read(row) {
                    self.text.series(&[("tenant", &*row.tenant)], value);
                }
                self.pace.step().await;
            }
        }
    }

    async fn errors(&mut self) {
        self.text.family(
            "realtime_channel_error",
            C,
            "Errors that clients have met, by operational code.",
        );
        for row in self.roll.shown() {
            for (code, count) in row.usage.errors() {
                let labels = [("tenant", &*row.tenant), ("code", code.as_str())];
                self.text.series(&labels, Integer(count));
            }
            self.pace.step().await;
        }
    }

    async fn payloads(&mut self) {
        self.text.family(
            "realtime_tenants_payload_size",
            Histogram,
            "Size of relayed payloads in bytes.",
        );
        for row in self.roll.shown() {
            for what in Relayed::ALL {
                if let Some(tally) = row.usage.payloads(*what) {
                    let labels = [("tenant", &*row.tenant), ("message_type", what.as_str())];
                    self.text.histogram(&labels, &tally, Integer);
                    self.pace.steps(tally.counts.len()).await;
                }
            }
            self.pace.step().await;
        }
    }

    async fn latencies(&mut self) {
        self.latency(
            "realtime_replication_poller_query_duration",
            "Milliseconds that it took to decide who gets the row changes of a batch.",
            |of| &of.changes,
        )
        .await;
        self.latency(
            "realtime_tenants_read_authorization_check",
            "Milliseconds that the database took to say what a token may read.",
            |of| &of.read_authorization,
        )
        .await;
        self.latency(
            "realtime_tenants_write_authorization_check",
            "Milliseconds that the database took to say what a token may write.",
            |of| &of.write_authorization,
        )
        .await;
        self.latency(
            "realtime_tenants_broadcast_from_database_latency_committed_at",
            "Milliseconds from the commit of a row of realtime.messages to its broadcast.",
            |of| &of.committed_to_broadcast,
        )
        .await;
        self.latency(
            "realtime_tenants_broadcast_from_database_latency_inserted_at",
            "Milliseconds from the inserted_at of a row of realtime.messages to its broadcast.",
            |of| &of.inserted_to_broadcast,
        )
        .await;
        self.latency(
            "realtime_tenants_replay",
            "Milliseconds that the database took to read kept messages for a join.",
            |of| &of.replay,
        )
        .await;
    }

    async fn latency<const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        read: fn(&Latencies) -> &metrics::Histogram<N>,
    ) {
        self.text.family(name, Histogram, help);
        for row in self.roll.shown() {
            let tally = row.usage.known_latencies().map(|of| read(of).tally());
            if let Some(tally) = tally.filter(|tally| tally.count() > 0) {
                self.text
                    .histogram(&[("tenant", &*row.tenant)], &tally, Integer);
                self.pace.steps(N).await;
            }
            self.pace.step().await;
        }
    }

    /// One series per tenant and family.
    async fn families<M: 'static>(
        &mut self,
        families: &[Family<M>],
        measures: fn(&Row) -> Option<&M>,
    ) {
        for family in families {
            self.text.family(family.name, family.kind, family.help);
            for row in self.roll.shown() {
                if let Some(measures) = measures(row) {
                    let value = (family.read)(measures);
                    self.text.series(&[("tenant", &*row.tenant)], value);
                }
                self.pace.step().await;
            }
        }
    }

    /// A counter with one series per tenant and reason.
    async fn reasons<M, R: Copy>(
        &mut self,
        (name, help): (&'static str, &str),
        reasons: &[(&str, R)],
        measures: fn(&Row) -> Option<M>,
        count: impl Fn(&M, R) -> u64,
    ) {
        self.text.family(name, C, help);
        for row in self.roll.shown() {
            if let Some(measures) = measures(row) {
                for (label, reason) in reasons {
                    let labels = [("tenant", &*row.tenant), ("reason", *label)];
                    let count = count(&measures, *reason);
                    self.text.series(&labels, Integer(count));
                }
                self.pace.steps(reasons.len()).await;
            }
            self.pace.step().await;
        }
    }
}

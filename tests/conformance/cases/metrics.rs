//! What the page of metrics says of clients, as they come and talk (spec: metrics).
//!
//! Some things are counted when the kernel has taken the last byte, which a client may have read by then: so a page is asked for until
//! it says what it has to.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Case, Context, TIMEOUT, V1, V2};
use crate::clock;
use crate::socket::{Event, Headers};
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "every_family_moves_by_what_clients_do",
        limits: || json!({}),
        run: |context| {
            let topic = "realtime:metrics";
            let mut one = context.joined(V2, topic, &json!({"broadcast": {"ack": true}}));
            let mut two = context.joined(V1, topic, &json!({}));
            wait_for(
                context,
                &[
                    ("realtime_connections_connected", "", 2.0),
                    ("realtime_connections_connected_cluster", "", 2.0),
                    ("realtime_channel_joins", "", 2.0),
                    ("realtime_channel_events", "", 0.0),
                ],
            );
            let payload = json!({"type": "broadcast", "event": "TEST", "payload": {"msg": 1}});
            let sent = one.push(topic, "broadcast", &payload);
            one.expect_reply(&sent, topic, "ok", &json!({}));
            two.expect_fanout(topic, "broadcast", &payload);
            let size = "realtime_tenants_payload_size";
            let of_broadcasts = "message_type=\"broadcast\"";
            wait_for(
                context,
                &[
                    // One sent, one delivered.
                    ("realtime_channel_events", "", 2.0),
                    (&format!("{size}_count"), of_broadcasts, 1.0),
                    // The worked example of spec websocket-protocol 9.4.
                    (&format!("{size}_sum"), of_broadcasts, 75.0),
                ],
            );
            let track = json!({"type": "presence", "event": "track", "payload": {"a": 1}});
            one.push(topic, "presence", &track);
            let of_presence = "message_type=\"presence\"";
            wait_for(
                context,
                &[
                    // The track, and the difference for both.
                    ("realtime_channel_presence_events", "", 3.0),
                    (&format!("{size}_count"), of_presence, 1.0),
                    (&format!("{size}_count"), of_broadcasts, 1.0),
                ],
            );
            two.text("no JSON");
            let of_code = "code=\"MalformedWebSocketMessage\"";
            wait_for(context, &[("realtime_channel_error", of_code, 1.0)]);
            two.abort();
            wait_for(
                context,
                &[
                    ("realtime_connections_connected", "", 1.0),
                    ("realtime_channel_joins", "", 2.0),
                ],
            );
        },
    },
    Case {
        name: "bytes_are_counted_as_they_pass",
        limits: || json!({}),
        run: |context| {
            let topic = "realtime:bytes";
            let mut one = context.joined(V2, topic, &json!({}));
            let mut two = context.joined(V2, topic, &json!({}));
            let names = [
                "realtime_channel_input_bytes",
                "realtime_channel_output_bytes",
            ];
            let of_tenant = tenant_of(context);
            let read = || {
                let page = Page::of(context);
                names.map(|name| page.value(name, &of_tenant).unwrap_or_default())
            };
            let before = read();
            // Two upgrades and their joins, and what was answered.
            assert!(before[0] > 600.0 && before[0] < 5000.0, "{before:?}");
            const LENGTH: u32 = 100_000;
            let payload = json!({"event": "e", "type": "broadcast", "payload": {"x": "y".repeat(LENGTH as usize)}});
            one.push(topic, "broadcast", &payload);
            two.expect_fanout(topic, "broadcast", &payload);
            let deadline = clock::now() + TIMEOUT;
            loop {
                let after = read();
                let grown = [after[0] - before[0], after[1] - before[1]];
                let is_within =
                    |bytes: &f64| (f64::from(LENGTH)..f64::from(LENGTH) + 500.0).contains(bytes);
                if grown.iter().all(is_within) {
                    break;
                }
                assert!(clock::now() < deadline, "{grown:?}");
            }
        },
    },
    Case {
        name: "a_refused_upgrade_and_a_refused_join_are_counted",
        limits: || json!({"max_concurrent_users": 1}),
        run: |context| {
            let endpoint = "endpoint=\"RealtimeWeb.Endpoint\"";
            let before = Page::of(context);
            let mut late = context.connect(V2);
            let mut one = context.joined(V2, "realtime:a", &json!({}));
            let reason = "ConnectionRateLimitReached: Too many connected users";
            late.join_refused("realtime:a", &json!({"config": {}}), reason);
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            let answer = context.open(&path, &Headers::new()).next();
            assert!(
                matches!(&answer, Event::Upgrade { status: 429, .. }),
                "{answer:?}"
            );
            // The join's line is an error, and so is the upgrade's.
            let of_code = "code=\"ConnectionRateLimitReached\"";
            wait_for(context, &[("realtime_channel_error", of_code, 2.0)]);
            let after = Page::of(context);
            // Others join and are refused on the same server meanwhile.
            let grown =
                |name: &str, labels: &str| after.sum(name, labels) - before.sum(name, labels);
            let joined = "phoenix_channel_joined_total";
            assert!(grown(joined, &format!("{endpoint},result=\"ok\"")) >= 1.0);
            assert!(grown(joined, &format!("{endpoint},result=\"error\"")) >= 1.0);
            assert!(
                grown(
                    "realtime_upgrades_refused_total",
                    "reason=\"too_many_users\""
                ) >= 1.0
            );
            let connected = "phoenix_socket_connected_duration_milliseconds_count";
            assert!(grown(connected, "result=\"ok\"") >= 2.0);
            assert!(grown(connected, "result=\"error\"") >= 1.0);
            assert!(grown("realtime_channel_global_joins", "") >= 1.0);
            assert!(grown("realtime_channel_global_error", of_code) >= 2.0);
            assert!(after.sum("phoenix_connections_total", "") >= 2.0);
            assert!(
                after.sum("realtime_shard_turns_total", "")
                    > before.sum("realtime_shard_turns_total", "")
            );
            let driver = context.setup.driver.replace("uring", "io_uring");
            let of_driver = format!("driver=\"{driver}\"");
            let shards = after.sum("realtime_shard_driver_info", &of_driver);
            assert!((shards - f64::from(context.setup.shards)).abs() < f64::EPSILON);
            one.expect_alive();
        },
    },
];

fn tenant_of(context: &Context<'_>) -> String {
    format!("tenant=\"{}\"", context.tenant)
}

/// Asks until all of these series of the tenant, found by name and one of their labels, have these values.
#[track_caller]
fn wait_for(context: &Context<'_>, expected: &[(&str, &str, f64)]) {
    let deadline = clock::now() + TIMEOUT;
    loop {
        let page = Page::of(context);
        let wrong = expected.iter().find(|(name, label, value)| {
            let labels = [&*tenant_of(context), label].join(",");
            let found = page.value(name, &labels);
            found.is_none_or(|found| (found - value).abs() > f64::EPSILON)
        });
        let Some((name, label, value)) = wrong else {
            return;
        };
        let labels = [&*tenant_of(context), label].join(",");
        let found = page.value(name, &labels);
        assert!(
            clock::now() < deadline,
            "{name}{{{label}}} is {found:?} and not {value}"
        );
    }
}

/// A page that was read.
struct Page(BTreeMap<String, f64>);

impl Page {
    fn of(context: &Context<'_>) -> Self {
        let page = context.metrics();
        let series = page.lines().filter(|line| !line.starts_with('#'));
        let series = series.map(|line| {
            let (series, value) = line
                .rsplit_once(' ')
                .expect("a value is behind each series");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Self(series.collect())
    }

    /// The values of all series of this name that have all of these labels.
    fn values<'a>(&'a self, name: &str, labels: &'a str) -> impl Iterator<Item = f64> {
        let start = format!("{name}{{");
        let labels = labels.split(',').filter(|label| !label.is_empty());
        self.0.iter().filter_map(move |(series, value)| {
            let has_all = labels.clone().all(|label| series.contains(label));
            (series.starts_with(&start) && has_all).then_some(*value)
        })
    }

    fn value(&self, name: &str, labels: &str) -> Option<f64> {
        self.values(name, labels).next()
    }

    fn sum(&self, name: &str, labels: &str) -> f64 {
        self.values(name, labels).sum()
    }
}

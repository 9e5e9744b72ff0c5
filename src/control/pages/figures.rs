//! What the status page shows to everybody: how busy the node is, as JSON.
//!
//! What comes in: the numbers of one moment ([`Scene`]). What goes out: an object. What always holds: a name says its unit, and ends in
//! `_total` where the number only grows, so that the page makes rates of it; nothing names a tenant, an address or a secret
//! (`figures_name_nobody`). Deliberately absent: rates and history; the page has a memory, the server needs none.

use crate::control::metrics::Scene;
use crate::control::metrics::reading::Reading;
use crate::metrics::Tally;
use crate::tenant::Counter;
use serde_json::{Value, json};

/// Who the node is.
#[derive(Copy, Clone, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// `REGION`.
    pub region: Option<&'a str>,
    /// How many tenants it serves.
    pub tenants: usize,
}

/// `/status/figures`.
#[must_use]
pub fn figures(node: Node<'_>, scene: &Scene) -> Value {
    let sum = |read: fn(&Reading) -> u64| scene.shards.iter().map(read).sum::<u64>();
    let totals = &scene.totals;
    let relayed = [Counter::Events, Counter::PresenceEvents, Counter::DbEvents];
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": node.name,
        "region": node.region,
        "driver": driver(&scene.shards),
        "uptime_seconds": scene.uptime.as_secs_f64(),
        "tenants": node.tenants,
        "users": scene.users,
        "connections": sum(|shard| shard.connections),
        "connections_max": scene.connections_max,
        "channels": sum(|shard| shard.channels),
        "http_connections": scene.http_connections,
        // Sent and delivered: a broadcast to a hundred members counts a hundred and one times.
        "messages_total": relayed.iter().map(|counter| totals.count(*counter)).sum::<u64>(),
        "joins_total": totals.count(Counter::Joins),
        "received_bytes_total": sum(|shard| shard.received_bytes_total),
        "sent_bytes_total": sum(|shard| shard.sent_bytes_total),
        "slow_readers_closed_total": sum(|shard| shard.slow_readers_closed_total),
        "turn_seconds_bounds": bounds(scene),
        "shards": scene.shards.iter().enumerate().map(|(index, shard)| of_shard(index, shard)).collect::<Vec<_>>(),
    })
}

/// The kernel interface that the shards have in common, or all that there are.
fn driver(shards: &[Reading]) -> Option<String> {
    let mut drivers: Vec<&str> = shards.iter().filter_map(|shard| shard.driver).collect();
    drivers.dedup();
    (!drivers.is_empty()).then(|| drivers.join(", "))
}

/// Bounds of the classes in which `turn_counts` counts; the last class has none.
fn bounds(scene: &Scene) -> Vec<f64> {
    let bounds = scene.shards.first().map(|shard| shard.turn_ns.bounds);
    bounds
        .into_iter()
        .flatten()
        .map(|ns| seconds(*ns))
        .collect()
}

fn of_shard(index: usize, shard: &Reading) -> Value {
    let turns = &shard.turn_ns;
    let counts: Vec<u64> = turns.counts.iter().copied().chain([turns.above]).collect();
    json!({
        "shard": index,
        "connections": shard.connections,
        "channels": shard.channels,
        "topics": shard.topics,
        "turns": turns.count(),
        "turn_seconds_total": seconds(turns.sum),
        "turn_seconds_p50": at_most(shard, 0.5),
        "turn_seconds_p99": at_most(shard, 0.99),
        "turn_seconds_max": seconds(shard.turn_ns_max),
        "turn_counts": counts,
        "outbox_bytes": shard.outbox_bytes,
        "letters_waiting": shard.letters_waiting,
        "messages_total": shard.messages_total,
        "sends_total": shard.sends_total,
        "received_bytes_total": shard.received_bytes_total,
        "sent_bytes_total": shard.sent_bytes_total,
        "slow_readers_closed_total": shard.slow_readers_closed_total,
    })
}

/// A time that this part of the turns did not pass, since the start. Turns are counted in classes, so it is the bound of one, or the
/// longest turn where that is shorter.
fn at_most(shard: &Reading, part: f64) -> f64 {
    let turns: &Tally<5> = &shard.turn_ns;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a count: it is no larger, and near is enough"
    )]
    let wanted = (turns.count() as f64 * part).ceil() as u64;
    let mut below = 0;
    let bound = turns.bounds.iter().zip(turns.counts).find(|(_, count)| {
        below += count;
        below >= wanted
    });
    let bound = bound.map_or(u64::MAX, |(bound, _)| *bound);
    seconds(bound.min(shard.turn_ns_max))
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Instruments, Slow};

    fn of(instruments: &Instruments) -> Value {
        let node = Node {
            name: "realtime@127.0.0.1",
            region: Some("eu-1"),
            tenants: 3,
        };
        figures(node, &Scene::for_test(instruments))
    }

    #[test]
    fn every_figure_is_what_was_counted() {
        let instruments = Instruments::for_test(2);
        let (runtime, figures) = (&instruments.runtime[1], &instruments.board[1]);
        let counts = [
            &runtime.connections,
            &figures.channels,
            &figures.topics_owned,
            &runtime.bytes_queued,
            &runtime.mail_waiting,
            &runtime.sends,
            &runtime.bytes_in,
            &runtime.bytes_out,
            &figures.slow[Slow::Full as usize],
        ];
        for (count, n) in counts.iter().zip(11..) {
            count.set(n);
        }
        figures.slow[Slow::Stalled as usize].set(100);
        figures.handled_ms.observe_many(1, 77);
        instruments.control.http_connections.set(5);
        let found = of(&instruments);
        let names = [
            "connections",
            "channels",
            "topics",
            "outbox_bytes",
            "letters_waiting",
            "sends_total",
            "received_bytes_total",
            "sent_bytes_total",
        ];
        for (name, n) in names.iter().zip(11..) {
            assert_eq!(found["shards"][1][name], n, "{name}");
            assert_eq!(found["shards"][0][name], 0, "{name}");
        }
        let shard = &found["shards"][1];
        assert_eq!(shard["slow_readers_closed_total"], 119);
        assert_eq!(
            (&shard["shard"], &shard["messages_total"]),
            (&json!(1), &json!(77))
        );
        for (name, n) in [
            ("connections", 11),
            ("channels", 12),
            ("received_bytes_total", 17),
            ("sent_bytes_total", 18),
            ("http_connections", 5),
            ("tenants", 3),
            ("slow_readers_closed_total", 119),
        ] {
            assert_eq!(found[name], n, "{name}");
        }
        assert_eq!(
            (&found["driver"], &found["region"]),
            (&json!("sim"), &json!("eu-1"))
        );
        assert_eq!(found["uptime_seconds"], 1.5);
    }

    #[test]
    fn turns_are_summed_up_by_their_classes() {
        let instruments = Instruments::for_test(1);
        let runtime = &instruments.runtime[0];
        let check = |p50: f64, p99: f64, max: f64| {
            let shard = &of(&instruments)["shards"][0];
            let found =
                ["p50", "p99", "max"].map(|name| shard[format!("turn_seconds_{name}")].as_f64());
            assert_eq!(found, [Some(p50), Some(p99), Some(max)]);
        };
        check(0.0, 0.0, 0.0);
        let observe = |ns: u64, n: u64| {
            runtime.turn_ns.observe_many(ns, n);
            runtime.turn_ns_max.raise(ns);
        };
        observe(50_000, 99);
        check(0.000_05, 0.000_05, 0.000_05);
        observe(400_000, 1);
        check(0.000_1, 0.000_1, 0.000_4);
        observe(400_000, 1);
        check(0.000_1, 0.000_4, 0.000_4);
        observe(5_000_000_000, 3);
        check(0.000_1, 5.0, 5.0);
        let found = of(&instruments);
        assert_eq!(
            found["turn_seconds_bounds"],
            json!([0.0001, 0.001, 0.01, 0.1, 1.0])
        );
        let shard = &found["shards"][0];
        assert_eq!(shard["turn_counts"], json!([99, 2, 0, 0, 0, 3]));
        assert_eq!(shard["turns"], 104);
    }

    #[test]
    fn figures_name_nobody() {
        let text = of(&Instruments::for_test(1)).to_string();
        for word in ["secret", "token", "external_id", "db_", "password", "host"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

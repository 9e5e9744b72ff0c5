//! The node's part of the page: sums over tenants, sockets, shards, the control core, the machine.
//!
//! What comes in: a [`Scene`], read where things are counted. What goes out: families of an [`Exposition`]. What always holds: names,
//! labels and bounds are the original's where it has the family (spec: metrics 2 to 5, 8, 10); all others are ours and begin with
//! `realtime_shard_`, `realtime_control_` or say that they are of a node. Deliberately absent: series of tenants.

use super::exposition::Exposition;
use super::exposition::Kind::{self, Counter as C, Gauge as G, Histogram as H};
use super::exposition::Value::{self, Float, Integer, Nanos};
use super::host::Host;
use super::reading::Reading;
use super::roll::Totals;
use crate::metrics::{
    Figures, HANDLED_MS_BOUNDS, Instruments, Refused, Relayed, ShardMetrics, Slow, Tally,
};
use crate::phoenix::Vsn;
use crate::tenant::Counter;
use std::time::Duration;

/// What is said of a node, at one moment.
#[derive(Debug)]
pub struct Scene {
    /// What the shards said, at that moment.
    pub shards: Vec<Reading>,
    /// HTTP connections at that moment.
    pub http_connections: u64,
    /// What the threads have counted, and go on counting.
    pub instruments: Instruments,
    /// The machine.
    pub host: Host,
    /// Since the start of the process.
    pub uptime: Duration,
    /// `MAX_CONNECTIONS`.
    pub connections_max: u32,
    /// Users of all tenants.
    pub users: u64,
    /// What was counted of all tenants.
    pub totals: Totals,
    /// Sessions with databases of tenants.
    pub sessions: u64,
    /// Tenants without series, since they are too many.
    pub tenants_left_out: u64,
    /// Parcels that wait for the carrier.
    pub parcels_waiting: u64,
    /// Tasks of the control core that were started again.
    pub restarts: u64,
    /// Lines of the log that nobody got: held back by the control core's gate, and lost since nobody reads.
    pub lines: (u64, u64),
}

#[cfg(test)]
impl Scene {
    /// Of a node without tenants that has just begun.
    pub(crate) fn for_test(instruments: &Instruments) -> Self {
        Self {
            shards: Reading::of_all(instruments),
            http_connections: instruments.control.http_connections.get(),
            instruments: instruments.clone(),
            host: Host::default(),
            uptime: Duration::from_millis(1500),
            connections_max: 16_384,
            users: 0,
            totals: Totals::default(),
            sessions: 0,
            tenants_left_out: 0,
            parcels_waiting: 0,
            restarts: 0,
            lines: (0, 0),
        }
    }
}

const ENDPOINT: (&str, &str) = ("endpoint", "RealtimeWeb.Endpoint");
const TRANSPORT: (&str, &str) = ("transport", "websocket");

/// How the original calls the serializers.
const SERIALIZERS: [(Vsn, &str); 2] = [
    (Vsn::V1, "Elixir.Phoenix.Socket.V1.JSONSerializer"),
    (Vsn::V2, "Elixir.RealtimeWeb.Socket.V2Serializer"),
];

/// Writes all of it.
pub fn write(text: &mut Exposition<'_>, scene: &Scene) {
    write_connections(text, scene);
    write_channels(text, &scene.instruments);
    write_sums(text, scene);
    write_host(text, scene);
    write_shards(text, &scene.instruments);
    write_reasons(text, scene);
    write_control(text, scene);
}

/// A family with one series.
fn single(
    text: &mut Exposition<'_>,
    name: &'static str,
    kind: Kind,
    help: &str,
    value: impl Into<Option<Value>>,
) {
    text.family(name, kind, help);
    if let Some(value) = value.into() {
        text.series(&[], value);
    }
}

fn write_connections(text: &mut Exposition<'_>, scene: &Scene) {
    let runtime = &scene.instruments.runtime;
    let http = scene.instruments.control.http_connections.get();
    let sum = |read: fn(&ShardMetrics) -> u64| runtime.iter().map(|of| read(of)).sum::<u64>();
    single(
        text,
        "realtime_connections_global_connected",
        G,
        "Sockets on this node that have joined a channel.",
        Integer(scene.users),
    );
    single(
        text,
        "realtime_connections_global_connected_cluster",
        G,
        "Sockets on all nodes that have joined a channel.",
        Integer(scene.users),
    );
    single(
        text,
        "realtime_tenants_connected",
        G,
        "Tenants with whose database this node has a session.",
        Integer(scene.sessions),
    );
    single(
        text,
        "phoenix_connections_total",
        G,
        "Open TCP connections, those that are closing and those of HTTP included.",
        Integer(sum(|of| of.sockets.get()) + http),
    );
    single(
        text,
        "phoenix_connections_active",
        G,
        "Open TCP connections that are not closing.",
        Integer(sum(|of| of.connections.get()) + http),
    );
    single(
        text,
        "phoenix_connections_max",
        G,
        "MAX_CONNECTIONS: WebSockets that may be open.",
        Integer(scene.connections_max.into()),
    );
}

fn write_channels(text: &mut Exposition<'_>, instruments: &Instruments) {
    let shards = instruments.board.shards();
    let sum = |read: fn(&Figures) -> u64| shards.iter().map(read).sum::<u64>();
    text.family(
        "phoenix_channel_joined_total",
        C,
        "Joins of channels that were answered.",
    );
    for (result, count) in [
        ("ok", sum(|of| of.joins_ok.get())),
        ("error", sum(|of| of.joins_refused.get())),
    ] {
        text.series(&[ENDPOINT, ("result", result), TRANSPORT], Integer(count));
    }
    text.family(
        "phoenix_channel_handled_in_duration_milliseconds",
        H,
        "Length of the turns in which messages of channels were handled, once per message.",
    );
    let mut handled = Tally::new(&HANDLED_MS_BOUNDS);
    shards.iter().for_each(|of| handled.add(&of.handled_ms));
    text.histogram(&[ENDPOINT], &handled, Integer);
    text.family(
        "phoenix_socket_connected_duration_milliseconds",
        H,
        "Length of the turns in which upgrades were answered, or how long their refusals were held back.",
    );
    let all = || shards.iter().chain([instruments.board.control()]);
    for (vsn, serializer) in SERIALIZERS {
        let mut upgraded = Tally::new(&HANDLED_MS_BOUNDS);
        let mut refused = Tally::new(&HANDLED_MS_BOUNDS);
        for of in all() {
            upgraded.add(&of.upgraded_ms[vsn as usize]);
            refused.add(&of.refused_ms[vsn as usize]);
        }
        for (result, tally) in [("ok", upgraded), ("error", refused)] {
            let labels = [
                ENDPOINT,
                ("result", result),
                ("serializer", serializer),
                TRANSPORT,
            ];
            text.histogram(&labels, &tally, Integer);
        }
    }
}

/// Over all tenants.
fn write_sums(text: &mut Exposition<'_>, scene: &Scene) {
    let totals = &scene.totals;
    let (received, sent) = totals.bytes;
    for (name, help, value) in [
        (
            "realtime_channel_global_joins",
            "Joins of channels that were counted, of all tenants.",
            totals.count(Counter::Joins),
        ),
        (
            "realtime_channel_global_events",
            "Broadcasts that were sent and delivered, of all tenants.",
            totals.count(Counter::Events),
        ),
        (
            "realtime_channel_global_presence_events",
            "Messages of presence that were sent and delivered, of all tenants.",
            totals.count(Counter::PresenceEvents),
        ),
        (
            "realtime_channel_global_db_events",
            "Row changes times the subscriptions that they matched, of all tenants.",
            totals.count(Counter::DbEvents),
        ),
        (
            "realtime_channel_global_input_bytes",
            "Bytes that sockets have received, of all tenants.",
            received,
        ),
        (
            "realtime_channel_global_output_bytes",
            "Bytes that sockets have sent, of all tenants.",
            sent,
        ),
    ] {
        single(text, name, C, help, Integer(value));
    }
    text.family(
        "realtime_channel_global_error",
        C,
        "Errors that clients have met, by operational code, of all tenants.",
    );
    for (code, count) in &totals.errors {
        text.series(&[("code", code.as_str())], Integer(*count));
    }
    text.family(
        "realtime_payload_size",
        H,
        "Size of relayed payloads in bytes, of all tenants.",
    );
    for what in Relayed::ALL {
        let tally = totals.payloads(*what);
        if tally.count() > 0 {
            text.histogram(&[("message_type", what.as_str())], tally, Integer);
        }
    }
}

fn write_host(text: &mut Exposition<'_>, scene: &Scene) {
    let host = &scene.host;
    let load = |index: usize| host.load.map(|loads| Float(loads[index]));
    for (name, help, value) in [
        (
            "osmon_ram_usage",
            "Memory of the machine in use, in percent.",
            host.memory_used.map(Float),
        ),
        (
            "osmon_cpu_util",
            "How busy the machine's cores were of late, in percent.",
            host.busy.map(Float),
        ),
        ("osmon_cpu_avg1", "Load average over 1 minute.", load(0)),
        ("osmon_cpu_avg5", "Load average over 5 minutes.", load(1)),
        ("osmon_cpu_avg15", "Load average over 15 minutes.", load(2)),
        (
            "beam_memory_allocated_bytes",
            "Resident memory of this process.",
            host.resident_bytes.map(Integer),
        ),
        (
            "beam_system_schedulers_online_info",
            "Shards: threads that serve sockets.",
            Some(Integer(scene.instruments.runtime.len() as u64)),
        ),
    ] {
        single(text, name, G, help, value);
    }
    single(
        text,
        "beam_stats_uptime_milliseconds_count",
        C,
        "Milliseconds since the start of the process.",
        Integer(crate::metrics::millis(scene.uptime)),
    );
}

/// A number of each shard.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&ShardMetrics, &Figures) -> Value,
}

const fn family(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&ShardMetrics, &Figures) -> Value,
) -> Family {
    Family {
        name,
        kind,
        help,
        read,
    }
}

const SHARDS: &[Family] = &[
    family(
        "realtime_shard_turns_total",
        C,
        "Turns of the loop.",
        |of, _| Integer(of.turns.get()),
    ),
    family(
        "realtime_shard_turn_seconds_max",
        G,
        "The longest turn since the start.",
        |of, _| Nanos(of.turn_ns_max.get()),
    ),
    family(
        "realtime_shard_completions_total",
        C,
        "Completions of the kernel that were taken; per turn, the size of a batch.",
        |of, _| Integer(of.completions.get()),
    ),
    family(
        "realtime_shard_sends_total",
        C,
        "Sends that were started; one carries all that waits for its socket.",
        |of, _| Integer(of.sends.get()),
    ),
    family(
        "realtime_shard_received_bytes_total",
        C,
        "Bytes received, those of HTTP requests included.",
        |of, _| Integer(of.bytes_in.get()),
    ),
    family(
        "realtime_shard_sent_bytes_total",
        C,
        "Bytes that the kernel took.",
        |of, _| Integer(of.bytes_out.get()),
    ),
    family(
        "realtime_shard_outbox_bytes",
        G,
        "Bytes that wait to be sent; what several sockets wait for counts for each.",
        |of, _| Integer(of.bytes_queued.get()),
    ),
    family(
        "realtime_shard_connections",
        G,
        "Open connections.",
        |of, _| Integer(of.connections.get()),
    ),
    family("realtime_shard_channels", G, "Joined channels.", |_, of| {
        Integer(of.channels.get())
    }),
    family(
        "realtime_shard_topics_owned",
        G,
        "Topics whose messages this shard puts into order.",
        |_, of| Integer(of.topics_owned.get()),
    ),
    family(
        "realtime_shard_accepted_total",
        C,
        "Connections accepted.",
        |of, _| Integer(of.accepts.get()),
    ),
    family(
        "realtime_shard_accept_errors_total",
        C,
        "Connections that could not be accepted, for want of a place or a descriptor.",
        |of, _| Integer(of.accept_errors.get()),
    ),
    family(
        "realtime_shard_receives_starved_total",
        C,
        "Receives that had to wait for a free buffer.",
        |of, _| Integer(of.receives_parked.get()),
    ),
    family(
        "realtime_shard_letters_sent_total",
        C,
        "Letters to other threads and to itself.",
        |of, _| Integer(of.mail_sent.get()),
    ),
    family(
        "realtime_shard_letters_received_total",
        C,
        "Letters of other threads and of itself.",
        |of, _| Integer(of.mail_received.get()),
    ),
    family(
        "realtime_shard_letters_waited_total",
        C,
        "Letters that found the mailbox full.",
        |of, _| Integer(of.mail_spilled.get()),
    ),
    family(
        "realtime_shard_letters_waiting",
        G,
        "Letters that wait for room in a mailbox.",
        |of, _| Integer(of.mail_waiting.get()),
    ),
    family(
        "realtime_shard_turns_held_total",
        C,
        "Turns that took no input since too many letters waited.",
        |of, _| Integer(of.turns_held.get()),
    ),
    family(
        "realtime_shard_doorbells_rung_total",
        C,
        "Times that a sleeping thread was woken by this shard.",
        |of, _| Integer(of.doorbells_rung.get()),
    ),
    family(
        "realtime_shard_doorbells_heard_total",
        C,
        "Times that this shard was woken by another thread.",
        |of, _| Integer(of.doorbells_heard.get()),
    ),
    family(
        "realtime_shard_completion_overflows_total",
        C,
        "Times that the kernel had more completions than its queue holds.",
        |of, _| Integer(of.completion_overflows.get()),
    ),
];

fn write_shards(text: &mut Exposition<'_>, instruments: &Instruments) {
    let shards: Vec<_> = instruments
        .runtime
        .iter()
        .zip(instruments.board.shards())
        .enumerate()
        .map(|(index, (runtime, figures))| (index.to_string(), &**runtime, figures))
        .collect();
    for family in SHARDS {
        text.family(family.name, family.kind, family.help);
        for (shard, runtime, figures) in &shards {
            text.series(&[("shard", shard)], (family.read)(runtime, figures));
        }
    }
    text.family(
        "realtime_shard_turn_duration_seconds",
        H,
        "How long turns take, the wait for events not counted.",
    );
    for (shard, runtime, _) in &shards {
        text.histogram(&[("shard", shard)], &runtime.turn_ns.tally(), Nanos);
    }
    text.family(
        "realtime_shard_driver_info",
        G,
        "The kernel interface in use.",
    );
    for ((shard, ..), driver) in shards.iter().zip(&*instruments.drivers) {
        text.series(&[("shard", shard), ("driver", driver)], Integer(1));
    }
}

/// What is counted by reason.
fn write_reasons(text: &mut Exposition<'_>, scene: &Scene) {
    let board = &scene.instruments.board;
    let shards: Vec<_> = (0..).zip(board.shards()).collect();
    let threads = shards
        .iter()
        .map(|(index, figures): &(usize, _)| (index.to_string(), *figures))
        .chain([("control".to_owned(), board.control())]);
    text.family(
        "realtime_upgrades_refused_total",
        C,
        "Connections that got no WebSocket although they asked for one, or asked for nothing.",
    );
    for (shard, figures) in threads {
        for (reason, count) in Refused::ALL.iter().zip(&figures.refused) {
            let labels = [("shard", &*shard), ("reason", reason.as_str())];
            text.series(&labels, Integer(count.get()));
        }
    }
    text.family(
        "realtime_slow_readers_closed_total",
        C,
        "Sockets that were closed because their client did not read.",
    );
    for (index, figures) in &shards {
        let shard = index.to_string();
        for (reason, count) in Slow::ALL.iter().zip(&figures.slow) {
            let labels = [("shard", &*shard), ("reason", reason.as_str())];
            text.series(&labels, Integer(count.get()));
        }
    }
}

fn write_control(text: &mut Exposition<'_>, scene: &Scene) {
    let control = &scene.instruments.control;
    let (held_back, lost) = scene.lines;
    let shards = scene.instruments.board.shards();
    let of_shards = shards.iter().map(|of| of.lines_suppressed.get());
    let held_back = held_back + of_shards.sum::<u64>();
    single(
        text,
        "realtime_control_tasks_restarted_total",
        C,
        "Tasks of the control core that panicked and were started again.",
        Integer(scene.restarts),
    );
    single(
        text,
        "realtime_control_letters_waiting",
        G,
        "Letters of the control core that wait to be sent, or for room in a shard's mailbox.",
        Integer(scene.parcels_waiting + control.letters_unsent.get()),
    );
    single(
        text,
        "realtime_control_http_connections",
        G,
        "Connections that the control core serves.",
        Integer(control.http_connections.get()),
    );
    text.family(
        "realtime_log_lines_dropped_total",
        C,
        "Lines of the log that were not written: held back beyond a code's share, or since nobody reads standard output.",
    );
    for (reason, count) in [("held_back", held_back), ("unread", lost)] {
        text.series(&[("reason", reason)], Integer(count));
    }
    single(
        text,
        "realtime_metrics_tenants_left_out",
        G,
        "Tenants without series on this page, since they are too many.",
        Integer(scene.tenants_left_out),
    );
}

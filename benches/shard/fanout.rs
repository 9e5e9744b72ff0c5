//! A broadcast, hops 2 to 10: a client's frame to its topic, and the topic's messages to its members.

use super::bed::{Bed, Call, PLAIN, SELF, broadcast_payload, frame, message};
use super::crowds;
use criterion::{BenchmarkId, Criterion, Throughput};
use realtime::mail::{Audience, Content, Encoded, Receivers, Serializers, TopicHasher, TopicKey};
use realtime::metrics::Relayed;
use realtime::tenant::{Counter, TenantId, Usage};
use realtime::websocket::Opcode;
use std::borrow::Cow;
use std::hint::black_box;

/// Frames of about 100 bytes that one receive buffer of 2 KiB holds.
const FRAMES: usize = 12;

pub(crate) fn bench(c: &mut Criterion) {
    receive(c);
    quota(c);
    names(c);
    encode(c);
    deliver(c);
}

/// Hops 2 to 7: the frames of one receive buffer, each decoded, found its channel, counted, and encoded into its topic's batch.
fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("receive");
    let payload = broadcast_payload(60);
    let kind_3 = |topic: &str| {
        let topic_bytes = u8::try_from(topic.len()).expect("a short name");
        let mut bytes = vec![3, 1, 1, topic_bytes, 6, 0, 1];
        bytes.extend(
            ["1", "2", topic, "cursor", r#"{"x":812.5,"y":44.25}"#]
                .concat()
                .bytes(),
        );
        frame(Opcode::Binary, &bytes)
    };
    let ack = PLAIN.replace(r#""ack":false"#, r#""ack":true"#);
    // Of two shards the client is on the first; who owns the topic decides whether a message becomes a letter.
    for (name, vsn, owner, config) in [
        ("text 2.0.0", 2, 0, PLAIN),
        ("text 1.0.0", 1, 0, PLAIN),
        ("kind 3", 2, 0, PLAIN),
        ("text 2.0.0, with ack", 2, 0, &*ack),
        ("text 2.0.0, another shard's topic", 2, 1, PLAIN),
    ] {
        let mut bed = Bed::new(2);
        let topic = bed.topic_of(owner);
        let client = bed.crowd(0, vsn, 1, &topic, config)[0];
        let one = match name {
            "kind 3" => kind_3(&topic),
            _ => message(vsn, &topic, "broadcast", &payload),
        };
        let frames = one.repeat(FRAMES);
        assert!(
            frames.len() <= 2048,
            "{name}: one receive of {} bytes",
            frames.len()
        );
        group.throughput(Throughput::Elements(FRAMES as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                bed.measure(&[Call::Bytes], times, |bed| bed.write(client, &frames))
            });
        });
    }
    group.finish();
}

/// Hop 5: what is counted of each broadcast, on a cell that no other thread writes.
fn quota(c: &mut Criterion) {
    let usage = Usage::new(3);
    let mut group = c.benchmark_group("quota");
    group.throughput(Throughput::Elements(1));
    group.bench_function("count and measure a broadcast", |b| {
        b.iter(|| {
            let is_first = usage.count(0, black_box(Counter::Events), 1);
            usage.count_payload(0, Relayed::Broadcast, black_box(100));
            (is_first, usage.is_tripped(Counter::Events))
        });
    });
    group.finish();
}

/// A topic by its name: hop 5 of a socket with many channels, hop 6 of what comes by HTTP or from the database.
fn names(c: &mut Criterion) {
    let mut group = c.benchmark_group("find a topic");
    group.throughput(Throughput::Elements(1));
    for topics in crowds(&[100, 10_000]) {
        let mut bed = Bed::new(1);
        let clients: Vec<_> = (0..topics).map(|_| bed.connect(0, 2)).collect();
        bed.run();
        for (n, client) in clients.iter().enumerate() {
            let topic = format!("realtime:room-{n}");
            bed.write(*client, &super::bed::join(2, &topic, PLAIN));
        }
        bed.run();
        let (tenant, wanted) = (bed.tenant.id, format!("realtime:room-{}", topics / 2));
        let fanout = &bed.shard(0).channels().fanout;
        assert!(fanout.find(tenant, false, &wanted).is_some());
        group.bench_function(BenchmarkId::new("of", topics), |b| {
            b.iter(|| fanout.find(tenant, false, black_box(&wanted)));
        });
    }
    group.finish();
}

/// Hops 7 and 8: a turn's messages of one topic, encoded one behind the other and sealed.
fn encode(c: &mut Criterion) {
    let key = TopicKey::of_name(&TopicHasher::new(1), TenantId(1), false, "room-1234");
    let payload = broadcast_payload(100);
    let content = Content::Json {
        event: "broadcast",
        payload: Cow::Borrowed(&payload),
    };
    let mut group = c.benchmark_group("encode and seal");
    for (name, v1) in [("2.0.0", false), ("both serializers", true)] {
        for messages in [1, 64] {
            group.throughput(Throughput::Elements(messages));
            group.bench_function(BenchmarkId::new(name, messages), |b| {
                let mut batch = Encoded::default();
                b.iter(|| {
                    for _ in 0..messages {
                        let wanted = Serializers { v1, v2: true };
                        let to = Receivers::all(Audience::Broadcast);
                        batch
                            .push(&key, black_box(&content), wanted, to)
                            .expect("its names are short");
                    }
                    batch.seal()
                });
            });
        }
    }
    group.finish();
}

/// Hops 8 to 10: the end of a turn in which a topic got something, one pointer into each member's outbox.
fn deliver(c: &mut Criterion) {
    let mut group = c.benchmark_group("deliver");
    group.sample_size(20);
    let payload = broadcast_payload(60);
    for members in crowds(&[10, 1000, 10_000]) {
        for (name, senders) in [("1 message", 1), ("messages of 32 members", 32)] {
            // Whoever sends gets its message or does not: the clients' default is that it does not.
            for (which, config) in [("", SELF), (", not to themselves", PLAIN)] {
                let mut bed = Bed::new(1);
                let topic = bed.topic_of(0);
                let clients = bed.crowd(0, 2, members, &topic, config);
                let bytes = message(2, &topic, "broadcast", &payload);
                group.throughput(Throughput::Elements(members as u64));
                group.bench_function(BenchmarkId::new(format!("{name}{which}"), members), |b| {
                    b.iter_custom(|times| {
                        bed.measure(&[Call::TurnEnd], times, |bed| {
                            for client in clients.iter().take(senders) {
                                bed.write(*client, &bytes);
                            }
                        })
                    });
                });
            }
        }
    }
    group.finish();
}

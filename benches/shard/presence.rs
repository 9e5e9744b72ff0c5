//! Presence: the roster of a topic by itself, members that join, track and leave, and the longest turns that a crowd leads to.

use super::bed::{Bed, Call, PRESENCE, SELF, join, message};
use super::{crowds, is_measured};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use realtime::mail::Member;
use realtime::presence::{PhxRef, Roster};
use realtime::tenant::Counter;
use shards::sim::PeerId;
use shards::{ConnectionId, ShardId};
use std::hint::black_box;
use std::io::{self, Write};

/// What the documentation of Supabase has a user track.
const META: &str = r#"{"user":"user-1","online_at":"2026-11-20T10:15:30.123Z"}"#;

const UUID_BYTES: usize = 36;

pub(crate) fn bench(c: &mut Criterion) {
    roster(c);
    on_a_shard(c);
    ends(c);
}

fn member(n: usize) -> Member {
    Member {
        shard: ShardId(0),
        connection: ConnectionId::new(u32::try_from(n).expect("a small crowd"), 1),
    }
}

fn phx_ref(n: usize) -> PhxRef {
    PhxRef::new(1_700_000_000_000_000_000, 0, n as u16)
}

/// A key as the server makes them: as long as a UUID, in no order.
fn key(n: usize) -> String {
    format!(
        "{:0UUID_BYTES$x}",
        (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    )
}

fn roster_of(members: usize) -> Roster {
    let mut roster = Roster::default();
    for n in 0..members {
        roster.track(member(n), &key(n), META, phx_ref(n));
    }
    roster
}

/// Track, update and untrack of one member among so many, and the state that the next one gets.
fn roster(c: &mut Criterion) {
    let mut group = c.benchmark_group("roster");
    for members in crowds(&[10, 1000, 10_000]) {
        let mut roster = roster_of(members);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("track and untrack", members), |b| {
            let (one, key) = (member(members), key(members));
            b.iter(|| {
                let joined = roster.track(one, black_box(&key), META, phx_ref(1));
                (joined, roster.untrack(one))
            });
        });
        group.bench_function(BenchmarkId::new("update", members), |b| {
            let (one, key) = (member(members / 2), key(members / 2));
            b.iter(|| roster.track(one, black_box(&key), META, phx_ref(2)));
        });
        group.throughput(Throughput::Bytes(roster.state().len() as u64));
        group.bench_function(BenchmarkId::new("state", members), |b| {
            b.iter(|| black_box(&roster).state());
        });
    }
    // A key that all members share: clients choose it.
    for members in crowds(&[1000]) {
        group.throughput(Throughput::Elements(members as u64));
        group.bench_function(BenchmarkId::new("untrack all, one key", members), |b| {
            let full = || {
                let mut roster = Roster::default();
                for n in 0..members {
                    roster.track(member(n), "same", META, phx_ref(n));
                }
                roster
            };
            b.iter_batched(
                full,
                |mut roster| {
                    for n in (0..members).rev() {
                        black_box(roster.untrack(member(n)));
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn track(topic: &str, n: usize) -> Vec<u8> {
    let payload = format!(
        r#"{{"type":"presence","event":"track","payload":{{"user":"user-{n}","online_at":"2026-11-20T10:15:30.123Z"}}}}"#
    );
    message(2, topic, "presence", &payload)
}

/// So many members of one topic that are present.
fn present(bed: &mut Bed, topic: &str, members: usize) -> Vec<PeerId> {
    let clients = bed.crowd(0, 2, members, topic, PRESENCE);
    for (n, client) in clients.iter().enumerate() {
        bed.write(*client, &track(topic, n));
        // Everybody hears of everybody: read in between, or it piles up.
        if n % 32 == 31 {
            bed.run();
            bed.drain();
        }
    }
    bed.run();
    bed.drain();
    clients
}

/// One member more, and one that changes what it has tracked: the reply, the diff and its way to all outboxes.
fn on_a_shard(c: &mut Criterion) {
    let mut group = c.benchmark_group("present on a shard");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1));
    for members in crowds(&[10, 1000]) {
        let mut bed = Bed::new(1);
        let topic = bed.topic_of(0);
        let clients = present(&mut bed, &topic, members);
        let mut n = members;
        group.bench_function(BenchmarkId::new("track", members), |b| {
            b.iter_custom(|times| {
                bed.measure(&[Call::Bytes, Call::TurnEnd], times, |bed| {
                    n += 1;
                    bed.write(clients[0], &track(&topic, n));
                })
            });
        });
        // The same member again and again: each join replaces the channel of the one before.
        let newcomer = bed.crowd(0, 2, 1, &topic, PRESENCE)[0];
        let again = join(2, &topic, PRESENCE);
        group.bench_function(BenchmarkId::new("join and read the state", members), |b| {
            b.iter_custom(|times| {
                bed.measure(&[Call::Bytes, Call::TurnEnd], times, |bed| {
                    bed.write(newcomer, &again);
                })
            });
        });
    }
    group.finish();
}

/// All members of a topic end in one turn, present and not.
fn ends(c: &mut Criterion) {
    let mut group = c.benchmark_group("all end in one turn");
    group.sample_size(10);
    for members in crowds(&[500]) {
        group.throughput(Throughput::Elements(members as u64));
        for (name, is_present) in [("members", false), ("members that are present", true)] {
            group.bench_function(BenchmarkId::new(name, members), |b| {
                b.iter_custom(|times| {
                    let once = || {
                        let mut bed = Bed::new(1);
                        let topic = bed.topic_of(0);
                        let clients = if is_present {
                            present(&mut bed, &topic, members)
                        } else {
                            bed.crowd(0, 2, members, &topic, SELF)
                        };
                        bed.measure(&[Call::Other, Call::TurnEnd], 1, |bed| {
                            clients.iter().for_each(|client| bed.end(*client));
                        })
                    };
                    (0..times).map(|_| once()).sum()
                });
            });
        }
    }
    group.finish();
}

/// The longest turn that crowds lead to, once each: not how long something takes on average, but how long a shard looks at nothing
/// else.
pub(crate) fn print_longest_turns(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "longest turn, without what the kernel takes")?;
    let members = if is_measured() { 2000 } else { 20 };
    let mut line = |what: &str, run: &dyn Fn(&mut Bed, &str)| {
        let mut bed = Bed::new(1);
        let topic = bed.topic_of(0);
        let clients = present(&mut bed, &topic, members);
        assert_eq!(bed.shard(0).channels().sockets.len(), clients.len());
        let longest = bed.longest_turn(|bed| {
            run(bed, &topic);
            bed.run();
        });
        writeln!(
            out,
            "  {what}, {members} present: {:.2} ms",
            longest.as_secs_f64() * 1000.0
        )
    };
    line("32 join in one turn", &|bed, topic| {
        let clients: Vec<_> = (0..32).map(|_| bed.connect(0, 2)).collect();
        bed.run();
        for client in clients {
            bed.write(client, &join(2, topic, PRESENCE));
        }
    })?;
    line("32 join and track in one turn", &|bed, topic| {
        let clients: Vec<_> = (0..32).map(|_| bed.connect(0, 2)).collect();
        bed.run();
        for (n, client) in clients.into_iter().enumerate() {
            bed.write(
                client,
                &[join(2, topic, PRESENCE), track(topic, n)].concat(),
            );
        }
    })?;
    line(
        "the tenant's limit of events ends all channels",
        &|bed, topic| {
            let client = bed.crowd(0, 2, 1, topic, SELF)[0];
            let limit = bed.tenant.limits.events_per_second_max;
            let is_new = bed
                .tenant
                .usage
                .publish(Counter::Events, f64::from(limit), limit);
            assert!(is_new, "nothing had reached it before");
            bed.write(
                client,
                &message(2, topic, "broadcast", &super::bed::broadcast_payload(60)),
            );
        },
    )
}

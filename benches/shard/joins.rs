//! Upgrades and joins, each handled in one call of the runtime.

use super::bed::{Bed, Call, PLAIN, PRESENCE, join, token, upgrade};
use criterion::{Criterion, Throughput};

/// Sockets of one round: each gives one receive.
const SOCKETS: usize = 32;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("join");
    group.throughput(Throughput::Elements(SOCKETS as u64));
    group.sample_size(20);
    let mut exp = 1_800_000_000;
    for (name, has_token_of_its_own) in [
        ("upgrade", false),
        ("upgrade, with tokens not seen before", true),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                rounds(times, |bed| {
                    // The first socket with a token is not the usual one.
                    let first = bed.open(0);
                    bed.write(first, &upgrade(2, &token(exp)));
                    bed.run();
                    let clients: Vec<_> = (0..SOCKETS).map(|_| bed.open(0)).collect();
                    bed.measure(&[Call::Bytes], 1, |bed| {
                        for client in &clients {
                            exp += u64::from(has_token_of_its_own);
                            bed.write(*client, &upgrade(2, &token(exp)));
                        }
                    })
                })
            });
        });
    }
    for (name, config, is_shared) in [
        ("a topic that others are on", PLAIN, true),
        ("a topic of one's own", PLAIN, false),
        ("with presence, nobody present", PRESENCE, true),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                rounds(times, |bed| {
                    let topic = bed.topic_of(0);
                    if is_shared {
                        bed.crowd(0, 2, 1, &topic, config);
                    }
                    let clients: Vec<_> = (0..SOCKETS).map(|_| bed.connect(0, 2)).collect();
                    bed.run();
                    bed.measure(&[Call::Bytes], 1, |bed| {
                        for (n, client) in clients.iter().enumerate() {
                            let topic = match is_shared {
                                true => topic.clone(),
                                false => format!("{topic}-{n}"),
                            };
                            bed.write(*client, &join(2, &topic, config));
                        }
                    })
                })
            });
        });
    }
    group.finish();
}

/// The same on so many shards, one after the other.
fn rounds(
    times: u64,
    mut round: impl FnMut(&mut Bed) -> std::time::Duration,
) -> std::time::Duration {
    (0..times).map(|_| round(&mut Bed::new(1))).sum()
}

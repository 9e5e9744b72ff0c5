//! Row changes on a shard (hop 9 of their way): a letter of the control core to the outboxes of those who listen.

use super::bed::{Bed, Call, shard_id};
use super::crowds;
use criterion::{BenchmarkId, Criterion, Throughput};
use realtime::mail::{
    ChangeBatch, ClassId, GroupId, Listeners, Listening, Mail, RowChange, Run, Seat,
};
use std::sync::Arc;

/// What a join asks for.
const CONFIG: &str = r#"{"broadcast":{"ack":false,"self":false},"presence":{"key":"","enabled":false},"postgres_changes":[{"event":"*","schema":"public","table":"todos"}],"private":false}"#;

/// A row of a table of five columns, as `control/changes/payload.rs` writes it.
const DATA: &str = r#"{"schema":"public","table":"todos","type":"INSERT","commit_timestamp":"2026-11-20T10:15:30.123Z","columns":[{"name":"id","type":"int8"},{"name":"task","type":"text"},{"name":"is_done","type":"bool"},{"name":"user_id","type":"uuid"},{"name":"inserted_at","type":"timestamptz"}],"record":{"id":4711,"task":"buy milk","is_done":false,"user_id":"b2a1c5c4-8d5b-4a51-9a3e-0a6ae7a0e6d2","inserted_at":"2026-11-20T10:15:30.123456+00:00"},"errors":null}"#;

const CLASS: ClassId = ClassId(1);

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("row changes to listeners");
    group.sample_size(20);
    for listeners in crowds(&[10, 500, 5000]) {
        let mut bed = Bed::new(1);
        let topic = bed.topic_of(0);
        bed.crowd(0, 2, listeners, &topic, CONFIG);
        seat(&mut bed);
        for (name, runs, changes) in [
            ("one change", 1, 1),
            ("a run of 64", 1, 64),
            ("64 runs of one", 64, 1),
        ] {
            // Runs are of neighbours for the same listeners: here the groups alternate, and both are everybody's.
            group.throughput(Throughput::Elements((runs * listeners) as u64));
            group.bench_function(BenchmarkId::new(name, listeners), |b| {
                b.iter_custom(|times| {
                    bed.measure(&[Call::Letter], times, |bed| {
                        let batch = batch(bed, runs, changes);
                        bed.mail(0, Mail::Changes(batch));
                    })
                });
            });
        }
    }
    group.finish();
}

/// Seats every channel that listens in one class, each in a group of its own, as under row level security.
fn seat(bed: &mut Bed) {
    for (n, (shard, listen)) in std::mem::take(&mut bed.listens).into_iter().enumerate() {
        assert_eq!(shard, shard_id(0));
        let seat = Seat {
            entry: 0,
            class: CLASS,
            group: GroupId(n as u64),
        };
        let listening = Listening {
            listener: listen.listener,
            seats: Some(vec![seat]),
            news: None,
            line: None,
        };
        bed.mail(0, Mail::Listening(Box::new(listening)));
    }
    bed.run();
}

fn batch(bed: &Bed, runs: usize, changes: usize) -> Arc<ChangeBatch> {
    let everybody = Listeners {
        class: CLASS,
        groups: None,
    };
    let change = RowChange {
        event: "INSERT",
        data: DATA.into(),
    };
    let run = Run {
        audience: vec![everybody],
        changes: vec![change; changes],
    };
    Arc::new(ChangeBatch {
        tenant: bed.tenant.id,
        runs: vec![run; runs],
        room: None,
    })
}

//! Hops 2 and 7: bytes of `pgoutput` to a row, and a row to what clients read.

use super::table;
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use realtime::control::changes::Action;
use realtime::control::changes::change::{Change, peek};
use realtime::control::changes::payload::Shape;
use realtime::control::changes::types::Types;
use realtime::control::replication::pgoutput;
use std::hint::black_box;

/// Messages of the stream.
pub(crate) fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode pgoutput");
    for (name, message) in [
        ("relation", table::relation_message()),
        ("insert", table::insert()),
        ("update", table::update()),
        ("delete", table::delete()),
    ] {
        pgoutput::decode(&message).expect("it is a message");
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| pgoutput::decode(black_box(&message)).is_ok());
        });
    }
    // What rows of tables that nobody listens to cost.
    let insert = table::insert();
    group.throughput(Throughput::Elements(1));
    group.bench_function("table alone", |b| b.iter(|| peek(black_box(&insert))));
    group.finish();
}

fn change(action: Action) -> Change {
    let message = match action {
        Action::Insert => table::insert(),
        Action::Update => table::update(),
        Action::Delete => table::delete(),
    };
    Change {
        relation: table::relation(),
        action,
        xid: 1000,
        committed_at_us: 840_000_000_000_000,
        message: Bytes::from(message),
    }
}

const ACTIONS: [Action; 3] = [Action::Insert, Action::Update, Action::Delete];

/// A message to the row as it is and as it was.
pub(crate) fn assemble(c: &mut Criterion) {
    let mut group = c.benchmark_group("change to row");
    group.throughput(Throughput::Elements(1));
    for action in ACTIONS {
        let change = change(action);
        assert!(change.row().is_some());
        group.bench_function(action.as_str(), |b| b.iter(|| black_box(&change).row()));
    }
    group.finish();
}

/// A row to JSON: its values once, and `data` once per role and list of columns.
pub(crate) fn payload(c: &mut Criterion) {
    let mut group = c.benchmark_group("row to JSON");
    let shape = Shape::new(table::now(), &table::relation(), &Types::new());
    let view = shape.view(&table::role(), None);
    for action in ACTIONS {
        let change = change(action);
        let row = change.row().expect("its message is one of a row");
        let values = shape.values(&row, &[], 1_048_576);
        assert_eq!(values.malformed, 0, "values are as PostgreSQL prints them");
        let bytes = shape.data(&change, &view, &values).len();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{}: values", action.as_str()), |b| {
            b.iter(|| shape.values(black_box(&row), &[], 1_048_576));
        });
        group.bench_function(format!("{}: data", action.as_str()), |b| {
            b.iter(|| shape.data(black_box(&change), &view, &values));
        });
    }
    group.throughput(Throughput::Elements(1));
    let role = table::role();
    group.bench_function("view of a role", |b| {
        b.iter(|| shape.view(black_box(&role), None))
    });
    group.finish();
}

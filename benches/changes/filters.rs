//! Hop 5: whether a value passes a filter, for each way in which values are compared here.

use criterion::{Criterion, Throughput};
use realtime::control::changes::Operator;
use realtime::control::changes::filter::{Filter, Truth};
use std::hint::black_box;

pub(crate) fn eval(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(1));
    let uuid = "b2a1c5c4-8d5b-4a51-9a3e-0a6ae7a0e6d2";
    let time = "2026-11-20 10:15:30.123456+00";
    for (name, type_oid, operator, value, of_row) in [
        ("int8 eq", 20, Operator::Eq, "4711", "4711"),
        ("int8 gt", 20, Operator::Gt, "4711", "4712"),
        ("numeric gte", 1700, Operator::Gte, "12.5", "12.50"),
        ("float8 lt", 701, Operator::Lt, "0.25", "-1e-05"),
        ("text eq", 25, Operator::Eq, "buy milk", "buy milk"),
        ("text neq", 25, Operator::Neq, "buy milk", "buy bread"),
        ("uuid eq", 2950, Operator::Eq, uuid, uuid),
        ("timestamptz lte", 1184, Operator::Lte, time, time),
        ("bool eq", 16, Operator::Eq, "t", "t"),
    ] {
        let filter = Filter::native("column", type_oid, operator, false, value);
        let filter = filter.expect("such values are compared here");
        assert_eq!(filter.eval(Some(of_row)), Truth::Yes, "{name}");
        group.bench_function(name, |b| b.iter(|| filter.eval(black_box(Some(of_row)))));
    }
    group.finish();
}

//! Hop 5: subscriptions to classes, and a row to the classes that it may be for.

use super::table;
use criterion::{BenchmarkId, Criterion, Throughput};
use realtime::control::changes::filter::{Checked, Filter};
use realtime::control::changes::registry::{ListenerKey, Placement, Registry};
use realtime::control::changes::{Action, FilterText, Operator, Wanted, Wish};
use realtime::mail::ListenerId;
use rustc_hash::FxHashMap;
use std::hint::black_box;
use std::rc::Rc;

const INT4: u32 = 23;

/// An entry of a join: all changes of the table, or those of one room; `claims` are those of one user.
fn placement(room: Option<(Operator, u32)>, claims: u32) -> Placement {
    let filters = room.map(|(operator, room)| FilterText {
        column: "room".to_owned(),
        operator,
        value: room.to_string(),
        negate: false,
    });
    let filters: Vec<FilterText> = filters.into_iter().collect();
    let checked = filters.iter().map(|text| {
        let filter = Filter::native(&text.column, INT4, text.operator, text.negate, &text.value);
        Rc::new(filter.expect("whole numbers are compared here"))
    });
    let checked = Checked {
        filters: checked.collect(),
        select: None,
    };
    Placement {
        wish: Rc::new(Wish {
            wanted: Wanted::All,
            schema: "public".to_owned(),
            table: "todos".to_owned(),
            filters,
            select: None,
        }),
        role: "authenticated".into(),
        claims: format!(r#"{{"sub":"{claims}","role":"authenticated"}}"#).into(),
        tables: Rc::new(FxHashMap::from_iter([(table::OID, Rc::new(checked))])),
    }
}

fn key(n: u32) -> ListenerKey {
    let listener = ListenerId {
        index: n,
        generation: 0,
    };
    (0, listener)
}

/// A registry of so many listeners, each with claims of its own and what `room` says of it.
fn registry(listeners: u32, room: impl Fn(u32) -> Option<(Operator, u32)>) -> Registry {
    let mut registry = Registry::default();
    for n in 0..listeners {
        registry.place(key(n), &[placement(room(n), n)]);
    }
    registry
}

/// One listener comes and goes.
pub(crate) fn place(c: &mut Criterion) {
    let mut group = c.benchmark_group("place a listener");
    group.throughput(Throughput::Elements(1));
    for listeners in [100, 5000] {
        let mut registry = registry(listeners, |_| None);
        let one = [placement(None, listeners)];
        group.bench_function(BenchmarkId::new("among", listeners), |b| {
            b.iter(|| {
                let seats = registry.place(key(listeners), black_box(&one));
                registry.remove(key(listeners));
                seats
            });
        });
    }
    group.finish();
}

/// The candidates of a row: of listeners who all want the same, of those with a room each, and of those who want all rooms but one,
/// which no index leaves out.
pub(crate) fn candidates(c: &mut Criterion) {
    let mut group = c.benchmark_group("candidates of a row");
    group.throughput(Throughput::Elements(1));
    for listeners in [1, 500, 5000] {
        for (name, room) in [
            ("no filter", None),
            ("a room each", Some(Operator::Eq)),
            ("all rooms but one", Some(Operator::Neq)),
        ] {
            let mut registry = registry(listeners, |n| room.map(|operator| (operator, n)));
            let index = registry.table(table::OID, "public", "todos");
            group.bench_function(BenchmarkId::new(name, listeners), |b| {
                b.iter(|| index.for_row(Action::Insert, |_| Some(black_box("42"))));
            });
        }
        // The first change behind a subscription or a leave finds the index gone.
        let mut registry = registry(listeners, |n| Some((Operator::Eq, n)));
        group.bench_function(
            BenchmarkId::new("index made anew, a room each", listeners),
            |b| {
                b.iter(|| {
                    registry.forget_table(table::OID);
                    registry.table(table::OID, "public", "todos")
                });
            },
        );
    }
    group.finish();
}

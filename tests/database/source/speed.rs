//! How fast a source reads.

use super::reader::{Reader, number, prepared};
use crate::postgres::Cluster;
use realtime::control::changes::source::Word;
use realtime::control::clock;
use serde_json::json;
use std::sync::Arc;

tests![
    large_transactions_are_read_in_order,
    many_transactions_are_read_in_order,
];

/// Takes words until the row of this number comes, confirming as whoever takes many at once; returns how many rows came.
async fn take_until(reader: &mut Reader, first: u64, last: u64) {
    let mut next = first;
    while next <= last {
        let mut word = Some(reader.word().await);
        let mut done = None;
        while let Some(taken) = word {
            match taken {
                Word::Message(bytes, place) => {
                    if let Some(number) = number(&bytes) {
                        assert_eq!(number, next);
                        next += 1;
                    }
                    done = Some(place);
                }
                Word::Commit(_, place) | Word::Passed(_, place) => done = Some(place),
                Word::Begin(_) => {}
                other => panic!("{other:?}"),
            }
            word = reader.source.ready();
        }
        if let Some(place) = done {
            reader.source.done(place);
        }
    }
}

#[expect(clippy::print_stdout, reason = "a figure, for whoever runs it")]
async fn large_transactions_are_read_in_order(cluster: Arc<Cluster>) {
    const ROWS: u64 = 200_000;
    for engine in ["stream", "poll"] {
        let settings = json!({"cdc_engine": engine});
        let mut reader = Reader::start(prepared(&cluster), &settings, &[]);
        assert!(reader.up().await);
        reader.insert(1..=ROWS).await;
        let start = clock::now();
        take_until(&mut reader, 1, ROWS).await;
        let rate = ROWS as f64 / clock::now().duration_since(start).as_secs_f64();
        println!("{engine}: rows of one transaction: {rate:.0} per second");
    }
}

#[expect(clippy::print_stdout, reason = "a figure, for whoever runs it")]
async fn many_transactions_are_read_in_order(cluster: Arc<Cluster>) {
    const ROWS: u64 = 50_000;
    for engine in ["stream", "poll"] {
        let settings = json!({"cdc_engine": engine, "poll_max_changes": 10_000});
        let mut reader = Reader::start(prepared(&cluster), &settings, &[]);
        assert!(reader.up().await);
        let database = &reader.database;
        // Made by the server itself, so that writing them is faster than reading.
        database.sql(
            "create procedure fill(first bigint, last bigint) language plpgsql as $$ begin \
               for n in first..last loop insert into numbers values (n, 'a text'); commit; end loop; end $$",
        );
        reader.sql(&format!("call fill(1, {ROWS})")).await;
        let start = clock::now();
        take_until(&mut reader, 1, ROWS).await;
        let rate = ROWS as f64 / clock::now().duration_since(start).as_secs_f64();
        println!("{engine}: transactions of one row: {rate:.0} per second");
    }
}

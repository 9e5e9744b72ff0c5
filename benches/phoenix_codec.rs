//! Hops 5 and 7 of a broadcast: a frame's payload to a message, and messages to frames.
//!
//! The scanner stands beside the libraries that it was chosen over; both check less (see `phoenix/scan.rs`).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use realtime::phoenix::{
    Encoding, Topic, Vsn, decode_binary, decode_text, encode_push, encode_user_broadcast, is_json,
    json_term_size, subscription_id,
};

/// A broadcast payload of about this size, of the usual mix of keys, numbers and text.
fn payload(bytes: usize) -> String {
    let mut items = String::new();
    let mut index = 0;
    while items.len() + 50 < bytes {
        let item = format!(r#"{{"id":{index},"name":"user {index} é","x":{index}.25,"on":true}},"#);
        items.push_str(&item);
        index += 1;
    }
    items.push_str("null");
    format!(r#"{{"type":"broadcast","event":"cursor","payload":[{items}]}}"#)
}

/// One long string: what a document or an image in base64 looks like.
fn long_string(bytes: usize) -> String {
    format!(r#"{{"data":"{}"}}"#, "Lorem ipsum 123+".repeat(bytes / 16))
}

const TOPIC: Topic<'_> = Topic {
    text: "realtime:room-1234",
    json: "\"realtime:room-1234\"",
};

fn bench_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for bytes in [100, 1000, 10_000] {
        let payload = payload(bytes);
        let json = TOPIC.json;
        let v2 = format!(r#"["12","345",{json},"broadcast",{payload}]"#);
        let v1 = format!(
            r#"{{"topic":{json},"event":"broadcast","payload":{payload},"ref":"345","join_ref":"12"}}"#
        );
        let head = [3, 2, 3, TOPIC.text.len() as u8, 6, 0, 1];
        let names = ["12", "345", TOPIC.text, "cursor", &payload].concat();
        let kind_3 = [&head, names.as_bytes()].concat();
        group.throughput(Throughput::Bytes(v2.len() as u64));
        group.bench_function(BenchmarkId::new("text 2.0.0", bytes), |b| {
            b.iter(|| black_box(decode_text(Vsn::V2, black_box(v2.as_bytes())).is_ok()));
        });
        group.bench_function(BenchmarkId::new("text 1.0.0", bytes), |b| {
            b.iter(|| black_box(decode_text(Vsn::V1, black_box(v1.as_bytes())).is_ok()));
        });
        group.bench_function(BenchmarkId::new("kind 3", bytes), |b| {
            b.iter(|| black_box(decode_binary(Vsn::V2, black_box(&kind_3)).is_ok()));
        });
    }
    group.finish();
}

fn bench_validate(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate");
    for (name, json) in [
        ("100 bytes", payload(100)),
        ("1 kB", payload(1000)),
        ("100 kB", payload(100_000)),
        ("1 kB in one string", long_string(1000)),
        ("100 kB in one string", long_string(100_000)),
    ] {
        let bytes = json.as_bytes();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("ours", name), |b| {
            b.iter(|| black_box(is_json(black_box(bytes))));
        });
        group.bench_function(BenchmarkId::new("sonic-rs", name), |b| {
            b.iter(|| {
                black_box(sonic_rs::from_slice::<sonic_rs::LazyValue<'_>>(black_box(bytes)).is_ok())
            });
        });
        group.bench_function(BenchmarkId::new("serde_json", name), |b| {
            b.iter(|| {
                let value: Result<&serde_json::value::RawValue, _> =
                    serde_json::from_slice(black_box(bytes));
                black_box(value.is_ok())
            });
        });
    }
    group.finish();
}

fn bench_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for bytes in [100, 1000] {
        let payload = payload(bytes);
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(payload.len() as u64));
        for (name, vsn) in [("push 1.0.0", Vsn::V1), ("push 2.0.0", Vsn::V2)] {
            group.bench_function(BenchmarkId::new(name, bytes), |b| {
                b.iter(|| {
                    out.clear();
                    let payload = black_box(&payload);
                    encode_push(
                        &mut out,
                        vsn,
                        "null",
                        "null",
                        TOPIC.json,
                        "broadcast",
                        payload,
                    );
                    black_box(&mut out);
                });
            });
        }
        for (name, vsn) in [
            ("user broadcast 1.0.0", Vsn::V1),
            ("user broadcast 2.0.0", Vsn::V2),
        ] {
            group.bench_function(BenchmarkId::new(name, bytes), |b| {
                b.iter(|| {
                    out.clear();
                    let bytes = black_box(payload.as_bytes());
                    let encoding = Encoding::Json;
                    black_box(encode_user_broadcast(
                        &mut out, vsn, TOPIC, "cursor", None, encoding, bytes,
                    ))
                });
            });
        }
    }
    group.finish();
}

fn bench_read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for bytes in [1000, 100_000] {
        let payload = payload(bytes);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(BenchmarkId::new("term size", bytes), |b| {
            b.iter(|| json_term_size(black_box(&payload)));
        });
    }
    let subscription = r#"{"event":"*","schema":"public","table":"todos","filter":"n=eq.5"}"#;
    group.throughput(Throughput::Elements(1));
    group.bench_function("subscription id", |b| {
        b.iter(|| subscription_id(black_box(subscription)));
    });
    group.finish();
}

criterion_group!(
    benches,
    bench_decode,
    bench_validate,
    bench_encode,
    bench_read
);
criterion_main!(benches);

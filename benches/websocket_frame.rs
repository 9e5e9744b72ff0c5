//! Hops 3, 4 and 10 of a broadcast: bytes to frames, unmasked, and frame headers back.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use realtime::websocket::{Decoder, Limits, Opcode, encode_frame, encode_header, unmask};

/// A masked text frame of letters.
fn frame(payload_bytes: usize) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = Vec::new();
    encode_header(&mut bytes, Opcode::Text, payload_bytes);
    bytes[1] |= 0x80;
    bytes.extend(key);
    let start = bytes.len();
    bytes.resize(start + payload_bytes, b'x');
    unmask(&mut bytes[start..], key, 0);
    bytes
}

/// Unmasking, beside the definition of RFC 6455 section 5.3 taken literally.
fn bench_unmask(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    let key = black_box([0x37, 0xfa, 0x21, 0x3d]);
    for bytes in [16, 100, 1024, 65_536] {
        group.throughput(Throughput::Bytes(bytes));
        let mut payload = vec![b'x'; bytes as usize];
        group.bench_function(BenchmarkId::new("wide", bytes), |b| {
            b.iter(|| unmask(black_box(&mut payload), key, 0));
        });
        group.bench_function(BenchmarkId::new("bytewise", bytes), |b| {
            b.iter(|| {
                for (at, byte) in black_box(&mut payload).iter_mut().enumerate() {
                    *byte ^= key[at & 3];
                }
            });
        });
    }
    group.finish();
}

/// One receive buffer of frames, whole or not, to events.
fn bench_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let mut case = |name: &str, wire: Vec<u8>, piece: usize, text_must_be_utf8: bool| {
        let limits = Limits {
            message_bytes_max: 5_000_000,
            text_must_be_utf8,
        };
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || wire.clone(),
                |wire| {
                    let mut decoder = Decoder::default();
                    let mut events = 0;
                    for input in wire.chunks_mut(piece) {
                        let mut input = input;
                        while let Some(event) = decoder.next(&mut input, &limits).unwrap_or(None) {
                            black_box(event);
                            events += 1;
                        }
                    }
                    events
                },
                BatchSize::SmallInput,
            );
        });
    };
    case("1 x 100 bytes", frame(100), 2048, false);
    case("19 x 100 bytes", frame(100).repeat(19), 2048, false);
    case(
        "19 x 100 bytes, UTF-8 checked",
        frame(100).repeat(19),
        2048,
        true,
    );
    case("20 x 100 bytes in halves", frame(100).repeat(20), 53, false);
    case("64 KiB in buffers of 2 KiB", frame(65_536), 2048, false);
    group.finish();
}

/// A header before a payload of known length, and after one of unknown length.
fn bench_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for bytes in [100, 1000, 100_000] {
        let payload = vec![b'x'; bytes];
        let mut out = Vec::with_capacity(bytes + 10);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("length known", bytes), |b| {
            b.iter(|| {
                out.clear();
                encode_header(&mut out, Opcode::Text, payload.len());
                out.extend_from_slice(black_box(&payload));
                black_box(&mut out);
            });
        });
        let mut out = Vec::with_capacity(bytes + 20);
        group.bench_function(BenchmarkId::new("length unknown", bytes), |b| {
            b.iter(|| {
                out.clear();
                encode_frame(&mut out, Opcode::Text, |out| {
                    out.extend_from_slice(black_box(&payload));
                });
                black_box(&mut out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench_unmask, bench_decode, bench_encode);
criterion_main!(benches);

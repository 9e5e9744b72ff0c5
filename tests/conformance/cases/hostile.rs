//! What no client does on purpose: noise, half messages, storms, readers that do not read. Each costs the sender its
//! connection at most, and a bystander nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::{Case, Client, Context, V2, none};
use crate::clock;
use crate::socket::{self, Event, Headers, frame, header, opcode};
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "noise_instead_of_a_request_ends_that_connection",
        limits: none,
        run: |context| {
            let mut bystander = context.connect(V2);
            for bytes in [
                noise(1, 20_000),
                b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
                b"GET / HTTP/9.9\r\n\r\n".to_vec(),
                b"\r\n\r\n\r\n".to_vec(),
                vec![b'A'; 100_000],
            ] {
                let mut stream = stream(context);
                // The server may be gone before all of it is written.
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                read_to_end(&mut stream);
                bystander.expect_alive();
            }
        },
    },
    Case {
        name: "noise_after_the_upgrade_ends_that_connection",
        limits: none,
        run: |context| {
            let mut bystander = context.connect(V2);
            for seed in 0..20 {
                let mut client = context.connect(V2);
                let _ = client.writer().raw(&noise(seed, 4000));
                client.half_close();
                client.read_to_end();
                bystander.expect_alive();
            }
        },
    },
    Case {
        name: "half_a_head_holds_up_nobody",
        limits: none,
        run: |context| {
            let mut streams: Vec<TcpStream> = (0..50).map(|_| stream(context)).collect();
            for stream in &mut streams {
                stream
                    .write_all(b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nUpgr")
                    .expect("the server reads");
            }
            context.connect(V2).expect_alive();
            assert!(context.server.is_healthy());
        },
    },
    Case {
        name: "a_head_and_frames_that_come_byte_by_byte_are_read",
        limits: none,
        run: |context| {
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            let head = socket::upgrade_head(&path, &context.host(), &Headers::new());
            let mut client = context.dial();
            for byte in head.as_bytes() {
                client.writer().raw(&[*byte]).expect("the server reads");
            }
            assert!(matches!(client.next(), Event::Upgrade { status: 101, .. }));
            for byte in frame(
                true,
                opcode::TEXT,
                br#"[null,"1","phoenix","heartbeat",{}]"#,
            ) {
                client.writer().raw(&[byte]).expect("the server reads");
            }
            client.expect_message(
                r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
            );
        },
    },
    Case {
        name: "one_byte_per_second_holds_up_nobody",
        limits: none,
        run: |context| {
            let mut slow = context.connect(V2);
            let mut bystander = context.connect(V2);
            for byte in frame(true, opcode::TEXT, b"[1,2,3,4,5]")
                .into_iter()
                .take(8)
            {
                slow.writer().raw(&[byte]).expect("the server reads");
                slow.expect_silence(Duration::from_secs(1));
                bystander.expect_alive();
            }
        },
    },
    Case {
        name: "frames_sent_with_the_head_are_read",
        limits: none,
        run: |context| {
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            let head = socket::upgrade_head(&path, &context.host(), &Headers::new());
            let beat = frame(
                true,
                opcode::TEXT,
                br#"[null,"1","phoenix","heartbeat",{}]"#,
            );
            let mut client = context.dial();
            client
                .writer()
                .raw(&[head.as_bytes(), &beat, &beat].concat())
                .expect("the server reads");
            assert!(matches!(client.next(), Event::Upgrade { status: 101, .. }));
            for _ in 0..2 {
                client.expect_message(
                    r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
                );
            }
        },
    },
    Case {
        name: "frames_that_break_the_protocol_close_with_1002",
        limits: none,
        run: |context| {
            let unmasked = b"\x81\x02[]".to_vec();
            let mut rsv = frame(true, opcode::TEXT, b"[]");
            rsv[0] |= 0x40;
            let unknown = frame(true, 3, b"");
            let unknown_control = frame(true, 11, b"");
            let long_ping = frame(true, opcode::PING, &[0; 126]);
            let split_ping = frame(false, opcode::PING, b"");
            let orphan = frame(true, opcode::CONTINUATION, b"x");
            let interrupted = [
                frame(false, opcode::TEXT, b"["),
                frame(true, opcode::TEXT, b"]"),
            ]
            .concat();
            let half_code = frame(true, opcode::CLOSE, &[3]);
            let bad_code = frame(true, opcode::CLOSE, &1005_u16.to_be_bytes());
            for bytes in [
                unmasked,
                rsv,
                unknown,
                unknown_control,
                long_ping,
                split_ping,
                orphan,
                interrupted,
                half_code,
                bad_code,
            ] {
                let mut client = context.connect(V2);
                client.writer().raw(&bytes).expect("the server reads");
                assert_eq!(
                    client.next(),
                    Event::Close {
                        code: 1002,
                        reason: String::new()
                    },
                    "{bytes:02x?}"
                );
                assert_eq!(client.next(), Event::End);
            }
        },
    },
    Case {
        name: "an_announced_length_of_2_to_the_63_is_refused_and_costs_nothing",
        limits: none,
        run: |context| {
            for size in [1 << 63, u64::MAX, (1 << 63) - 1, 1 << 40] {
                let mut client = context.connect(V2);
                client
                    .writer()
                    .raw(&header(true, opcode::BINARY, size))
                    .expect("the server reads");
                let event = client.next();
                assert!(
                    matches!(
                        event,
                        Event::Close {
                            code: 1002 | 1009,
                            ..
                        }
                    ),
                    "{size}: {event:?}"
                );
            }
        },
    },
    Case {
        name: "two_hundred_announcements_of_5_megabytes_cost_no_gigabyte",
        limits: none,
        run: |context| {
            // Each announces almost 5 MB and sends a few bytes; a server that allocates ahead needs 1 GB.
            let mut clients: Vec<Client> = (0..200).map(|_| context.connect(V2)).collect();
            for client in &mut clients {
                client
                    .writer()
                    .raw(&[header(true, opcode::TEXT, 4_999_999), b"\0\0\0\0[".to_vec()].concat())
                    .expect("the server reads");
            }
            context.connect(V2).expect_alive();
            let kib = context.server.memory_kib("VmRSS");
            assert!(kib < 700 * 1024, "the server takes {kib} KiB");
        },
    },
    Case {
        name: "ten_thousand_joins_in_one_burst_are_all_answered",
        limits: || json!({"max_joins_per_second": 1_000_000, "max_channels_per_client": 20_000}),
        run: |context| {
            let mut bystander = context.connect(V2);
            let mut client = context.connect(V2);
            let burst: Vec<u8> = (0..10_000)
                .flat_map(|n| {
                    frame(
                        true,
                        opcode::TEXT,
                        format!(r#"["{n}","{n}","realtime:{n}","phx_join",{{"config":{{}}}}]"#)
                            .as_bytes(),
                    )
                })
                .collect();
            client.writer().raw(&burst).expect("the server reads");
            bystander.expect_alive();
            for n in 0..10_000 {
                let reply = client.next_json();
                assert_eq!(
                    (&reply[1], &reply[4]["status"]),
                    (&json!(n.to_string()), &json!("ok")),
                    "{reply}"
                );
            }
        },
    },
    Case {
        name: "a_reader_that_never_reads_slows_nobody_down_and_is_let_go",
        limits: || json!({"max_events_per_second": 1_000_000, "max_payload_size_in_kb": 4000}),
        run: |context| {
            let mut sender =
                context.joined(V2, "realtime:slow", &json!({"broadcast": {"ack": true}}));
            let mut reader = context.joined(V2, "realtime:slow", &json!({}));
            let mut stuck = stuck_member(context, "realtime:slow");
            let payload = json!({"event": "e", "payload": "x".repeat(1_000_000)});
            // 80 MB: more than the cap of one socket's outbox (50 MB) and every buffer of the kernel.
            for n in 0..80 {
                let start = clock::now();
                let sent = sender.push("realtime:slow", "broadcast", &payload);
                sender.expect_reply(&sent, "realtime:slow", "ok", &json!({}));
                reader.expect_fanout("realtime:slow", "broadcast", &payload);
                assert!(
                    clock::now() - start < Duration::from_secs(10),
                    "message {n}"
                );
            }
            let kib = context.server.memory_kib("VmRSS");
            assert!(kib < 1_000_000, "the server takes {kib} KiB");
            // What was queued may still come; then the connection ends.
            read_to_end(&mut stuck);
            reader.expect_alive();
        },
    },
    Case {
        name: "a_connection_that_vanishes_is_counted_no_longer",
        limits: || json!({"max_joins_per_second": 1_000_000, "max_concurrent_users": 1}),
        run: |context| {
            // With a limit of one, a user who stays counted locks the tenant.
            for _ in 0..10 {
                context.joined(V2, "realtime:v", &json!({})).abort();
                let deadline = clock::now() + Duration::from_secs(10);
                while context.connect_status() != 101 {
                    assert!(clock::now() < deadline, "the user is still counted");
                }
            }
        },
    },
];

/// Bytes without a pattern, the same for the same seed (xorshift).
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

fn stream(context: &Context<'_>) -> TcpStream {
    let stream = TcpStream::connect(context.server.address).expect("the server accepts");
    stream
        .set_read_timeout(Some(READ_TIMEOUT))
        .expect("a socket can have a timeout");
    stream
        .set_write_timeout(Some(READ_TIMEOUT))
        .expect("a socket can have a timeout");
    stream
}

/// Longer than any patience of the server, but for the idle timeout.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads until the other side has ended the connection; fails when it does not.
#[track_caller]
fn read_to_end(stream: &mut TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let start = clock::now();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => assert!(clock::now() - start < 2 * READ_TIMEOUT, "it never ends"),
            Err(error) => {
                let timeout = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                assert!(!timeout, "the connection stays open");
                return;
            }
        }
    }
}

/// A member of `topic` that reads its reply and then nothing more.
fn stuck_member(context: &Context<'_>, topic: &str) -> TcpStream {
    let mut stream = stream(context);
    let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
    let head = socket::upgrade_head(&path, &context.host(), &Headers::new());
    let join = json!(["1", "1", topic, "phx_join", {"config": {}}]).to_string();
    stream
        .write_all(&[head.as_bytes(), &frame(true, opcode::TEXT, join.as_bytes())].concat())
        .expect("the server reads");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("postgres_changes") {
        let mut buffer = [0; 1024];
        let size = stream.read(&mut buffer).expect("the server answers");
        assert!(size > 0, "the server hung up");
        seen.extend_from_slice(&buffer[..size]);
    }
    stream
}

impl Client {
    /// Says that nothing more will be sent.
    fn half_close(&mut self) {
        self.writer().half_close();
    }

    /// Takes events until the connection ends.
    #[track_caller]
    fn read_to_end(&mut self) {
        while self.next() != Event::End {}
    }
}

impl Context<'_> {
    /// The status of an upgrade of this moment.
    fn connect_status(&self) -> u16 {
        let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
        match self.open(&path, &Headers::new()).next() {
            Event::Upgrade { status, .. } => status,
            other => panic!("{other:?}"),
        }
    }
}

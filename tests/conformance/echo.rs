//! RFC 6455 itself, over a real socket, against the echo example: framing, pings, reserved bits, opcodes, fragments, UTF-8
//! and closing, in the order in which the known conformance suites ask about them.
//!
//! The example is the server's frame code without a protocol on top, and strict about UTF-8. Every connection is new, and
//! the next event must be the expected one.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use crate::socket::{Event, Headers, Writer, frame, header, opcode};

/// Name and test; the address is that of an echo server.
pub type Case = (&'static str, fn(SocketAddr));

pub const CASES: &[Case] = &[
    ("messages_of_every_length_form_come_back", |address| {
        let mut peer = Peer::connect(address);
        for size in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1_000_000] {
            peer.send(&frame(true, opcode::TEXT, &vec![b'*'; size]));
            assert_eq!(peer.next(), Event::Text("*".repeat(size)));
            peer.send(&frame(true, opcode::BINARY, &vec![0xfe; size]));
            assert_eq!(peer.next(), Event::Binary(vec![0xfe; size]));
        }
        peer.close_well();
    }),
    ("a_message_in_chops_of_any_size_comes_back", |address| {
        for chop in [1, 7, 997] {
            let mut peer = Peer::connect(address);
            let bytes = frame(true, opcode::TEXT, &[b'*'; 3000]);
            bytes.chunks(chop).for_each(|part| peer.send(part));
            assert_eq!(peer.next(), Event::Text("*".repeat(3000)));
        }
    }),
    (
        "pings_are_answered_in_order_with_their_payload",
        |address| {
            let mut peer = Peer::connect(address);
            let payloads: Vec<Vec<u8>> = (0..=125_u8)
                .map(|size| vec![size; usize::from(size)])
                .collect();
            let burst: Vec<u8> = payloads
                .iter()
                .flat_map(|payload| frame(true, opcode::PING, payload))
                .collect();
            peer.send(&burst);
            for payload in payloads {
                assert_eq!(peer.next(), Event::Pong(payload));
            }
            peer.send(&frame(true, opcode::PONG, b"unasked"));
            peer.send(&frame(true, opcode::TEXT, b"still here"));
            assert_eq!(peer.next(), Event::Text("still here".to_owned()));
        },
    ),
    (
        "a_control_frame_that_is_too_long_or_fragmented_fails",
        |address| {
            for code in [opcode::PING, opcode::PONG, opcode::CLOSE] {
                fails(address, &frame(true, code, &[3; 126]), 1002);
                fails(address, &frame(false, code, &[3, 232]), 1002);
            }
        },
    ),
    (
        "reserved_bits_fail_and_what_came_before_is_answered",
        |address| {
            for bits in [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70] {
                for code in [opcode::TEXT, opcode::BINARY, opcode::PING, opcode::CLOSE] {
                    let mut bad = frame(true, code, &[3, 232]);
                    bad[0] |= bits;
                    fails(address, &bad, 1002);
                }
            }
            let mut bad = frame(true, opcode::TEXT, b"bad");
            bad[0] |= 0x40;
            let mut peer = Peer::connect(address);
            peer.send(&[frame(true, opcode::TEXT, b"good"), bad].concat());
            assert_eq!(peer.next(), Event::Text("good".to_owned()));
            peer.expect_failure(1002);
        },
    ),
    ("reserved_opcodes_fail", |address| {
        for code in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            fails(address, &frame(true, code, b""), 1002);
            fails(address, &frame(true, code, b"payload"), 1002);
        }
    }),
    ("a_frame_without_a_mask_fails", |address| {
        fails(address, b"\x81\x02hi", 1002);
        fails(address, b"\x89\x00", 1002);
    }),
    (
        "fragments_come_back_as_one_message_with_pings_between",
        |address| {
            let mut peer = Peer::connect(address);
            for code in [opcode::TEXT, opcode::BINARY] {
                for parts in [&["a"; 2][..], &["", "b", ""], &["x"; 100], &["", "", ""]] {
                    for (n, part) in parts.iter().enumerate() {
                        let code = if n == 0 { code } else { opcode::CONTINUATION };
                        peer.send(&frame(n + 1 == parts.len(), code, part.as_bytes()));
                        if n + 1 < parts.len() {
                            peer.send(&frame(true, opcode::PING, &[7]));
                            assert_eq!(peer.next(), Event::Pong(vec![7]));
                        }
                    }
                    let whole = parts.concat();
                    let expected = if code == opcode::TEXT {
                        Event::Text(whole)
                    } else {
                        Event::Binary(whole.into_bytes())
                    };
                    assert_eq!(peer.next(), expected);
                }
            }
        },
    ),
    ("fragments_out_of_order_fail", |address| {
        let start = frame(false, opcode::TEXT, b"a");
        for code in [opcode::TEXT, opcode::BINARY] {
            fails(
                address,
                &[&start[..], &frame(true, code, b"b")].concat(),
                1002,
            );
        }
        for fin in [true, false] {
            fails(address, &frame(fin, opcode::CONTINUATION, b"b"), 1002);
        }
        let whole = [
            frame(false, opcode::TEXT, b"a"),
            frame(true, opcode::CONTINUATION, b"b"),
        ]
        .concat();
        let mut peer = Peer::connect(address);
        peer.send(&[whole, frame(true, opcode::CONTINUATION, b"c")].concat());
        assert_eq!(peer.next(), Event::Text("ab".to_owned()));
        peer.expect_failure(1002);
    }),
    ("valid_utf_8_comes_back_however_it_is_cut", |address| {
        let mut peer = Peer::connect(address);
        for text in [
            "κόσμε",
            "\u{0}",
            "\u{7f}\u{80}\u{7ff}\u{800}",
            "\u{d7ff}\u{e000}\u{fffd}\u{ffff}",
            "\u{10000}\u{10ffff}",
            "\u{feff}x",
        ] {
            peer.send(&frame(true, opcode::TEXT, text.as_bytes()));
            assert_eq!(peer.next(), Event::Text(text.to_owned()));
            for (n, byte) in text.bytes().enumerate() {
                let code = if n == 0 {
                    opcode::TEXT
                } else {
                    opcode::CONTINUATION
                };
                peer.send(&frame(false, code, &[byte]));
            }
            peer.send(&frame(true, opcode::CONTINUATION, b""));
            assert_eq!(peer.next(), Event::Text(text.to_owned()));
        }
    }),
    ("invalid_utf_8_fails_with_1007", |address| {
        for bytes in INVALID {
            let text = [b"ok \xce\xba ", *bytes, b" rest"].concat();
            fails(address, &frame(true, opcode::TEXT, &text), 1007);
            let (start, end) = text.split_at(text.len() / 2);
            let parts = [
                frame(false, opcode::TEXT, start),
                frame(true, opcode::CONTINUATION, end),
            ]
            .concat();
            fails(address, &parts, 1007);
        }
        // Cut inside of a character at the end of the message.
        fails(address, &frame(true, opcode::TEXT, b"\xce"), 1007);
        fails(address, &frame(true, opcode::TEXT, b"\xf0\x9f\x98"), 1007);
    }),
    (
        "invalid_utf_8_fails_before_its_message_is_complete",
        |address| {
            for bytes in INVALID {
                fails(
                    address,
                    &frame(false, opcode::TEXT, &[b"ok ", *bytes, b" "].concat()),
                    1007,
                );
            }
        },
    ),
    ("any_bytes_are_binary", |address| {
        let mut peer = Peer::connect(address);
        for bytes in INVALID {
            peer.send(&frame(true, opcode::BINARY, bytes));
            assert_eq!(peer.next(), Event::Binary(bytes.to_vec()));
        }
    }),
    ("a_close_is_answered_and_nothing_after_it_is", |address| {
        let more = [
            frame(true, opcode::TEXT, b"late"),
            frame(true, opcode::PING, b"late"),
        ]
        .concat();
        for payload in [
            &b""[..],
            b"\x03\xe8",
            b"\x03\xe8because",
            &[&b"\x03\xe8"[..], &[b'r'; 123]].concat(),
        ] {
            let mut peer = Peer::connect(address);
            peer.send(&[frame(true, opcode::CLOSE, payload), more.clone()].concat());
            let event = peer.next();
            assert!(
                matches!(
                    event,
                    Event::Close {
                        code: 1000 | 1005,
                        ..
                    }
                ),
                "{event:?}"
            );
            assert_eq!(peer.next(), Event::End);
        }
    }),
    (
        "a_close_inside_of_a_fragmented_message_is_answered",
        |address| {
            let mut peer = Peer::connect(address);
            peer.send(
                &[
                    frame(false, opcode::TEXT, b"half"),
                    frame(true, opcode::CLOSE, b"\x03\xe8"),
                ]
                .concat(),
            );
            assert!(matches!(peer.next(), Event::Close { code: 1000, .. }));
            assert_eq!(peer.next(), Event::End);
        },
    ),
    ("close_codes_are_checked", |address| {
        for code in [
            1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
        ] {
            let mut peer = Peer::connect(address);
            peer.send(&frame(true, opcode::CLOSE, &code.to_be_bytes()));
            let event = peer.next();
            assert!(
                matches!(event, Event::Close { code: answer, .. } if answer == 1000 || answer == code),
                "{code}: {event:?}"
            );
        }
        for code in [
            0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
        ] {
            fails(
                address,
                &frame(true, opcode::CLOSE, &code.to_be_bytes()),
                1002,
            );
        }
        fails(address, &frame(true, opcode::CLOSE, &[3]), 1002);
    }),
    ("a_close_reason_has_to_be_utf_8", |address| {
        fails(
            address,
            &frame(true, opcode::CLOSE, b"\x03\xe8\xce\xff"),
            1007,
        );
    }),
    ("a_message_over_the_limit_fails_with_1009", |address| {
        fails(address, &header(true, opcode::BINARY, (64 << 20) + 1), 1009);
    }),
];

/// Overlong forms, surrogates, values that are too large, lone and missing continuation bytes, bytes that never occur.
const INVALID: &[&[u8]] = &[
    b"\x80",
    b"\xbf\xbf",
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff\xff",
    b"\xce ",
    b"\xe1\x80 ",
    b"\xf0\x9f\x98 ",
];

/// The bytes fail their connection with `code`, and nothing else comes.
#[track_caller]
fn fails(address: SocketAddr, bytes: &[u8], code: u16) {
    let mut peer = Peer::connect(address);
    peer.send(bytes);
    peer.expect_failure(code);
}

struct Peer {
    writer: Writer,
    events: Receiver<Event>,
}

impl Peer {
    fn connect(address: SocketAddr) -> Self {
        let mut writer = Writer::connect(address).expect("the server accepts");
        let (sender, events) = mpsc::channel();
        writer.read_into(move |event| sender.send(event).is_ok());
        writer
            .upgrade("/echo", "localhost", &Headers::new())
            .expect("the server reads a head");
        let mut peer = Self { writer, events };
        assert!(matches!(peer.next(), Event::Upgrade { status: 101, .. }));
        peer
    }

    /// The server may have closed already.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.writer.raw(bytes);
    }

    #[track_caller]
    fn next(&mut self) -> Event {
        self.events
            .recv_timeout(Duration::from_secs(20))
            .expect("an event comes in time")
    }

    #[track_caller]
    fn expect_failure(&mut self, expected: u16) {
        match self.next() {
            Event::Close { code, .. } => assert_eq!(code, expected),
            other => panic!("{other:?} instead of a close with {expected}"),
        }
        assert_eq!(self.next(), Event::End);
    }

    #[track_caller]
    fn close_well(&mut self) {
        self.writer.close(1000).expect("the server reads");
        self.expect_failure(1000);
    }
}

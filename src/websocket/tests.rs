//! The decoder against the cases of the Autobahn test suite (sections 1 to 7), and against any bytes in any split.

use proptest::prelude::*;

use super::ProtocolError::*;
use super::{Decoder, Event, Limits, Opcode, ProtocolError, encode_header, unmask};

/// An event that owns its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(bytes) => Self::Text(bytes.to_vec()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

type Outcome = (Vec<Seen>, Result<(), ProtocolError>);

const STRICT: Limits = Limits {
    message_bytes_max: 200_000,
    text_must_be_utf8: true,
};

/// Feeds `bytes` in pieces of these sizes, over and over.
fn feed(bytes: &[u8], sizes: &[usize], limits: &Limits) -> Outcome {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).clamp(1, rest.len()));
        rest = after;
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input, limits) {
                Ok(Some(event)) => seen.push(event.into()),
                Ok(None) => break,
                Err(error) => {
                    let mut more = frame(FIN | TEXT, "");
                    let again = decoder.next(&mut &mut more[..], limits);
                    assert_eq!(again, Err(error), "it stays failed");
                    return (seen, Err(error));
                }
            }
        }
        assert!(input.is_empty(), "all input is used up");
    }
    (seen, Ok(()))
}

/// Checks that `bytes` give these events and then this error, whole and in pieces.
fn check(name: &str, bytes: &[u8], events: &[Seen], end: Result<(), ProtocolError>) {
    for sizes in [
        &[usize::MAX][..],
        &[1],
        &[2],
        &[3, 1],
        &[7],
        &[997],
        &[2048],
    ] {
        let outcome = feed(bytes, sizes, &STRICT);
        assert_eq!(
            outcome,
            (events.to_vec(), end),
            "{name}, pieces of {sizes:?}"
        );
    }
}

fn ok(name: &str, frames: &[Vec<u8>], events: &[Seen]) {
    check(name, &frames.concat(), events, Ok(()));
}

fn fails(name: &str, frames: &[Vec<u8>], events: &[Seen], error: ProtocolError) {
    check(name, &frames.concat(), events, Err(error));
}

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = FIN | 8;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

/// A client's frame.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = Vec::new();
    encode_header(&mut bytes, Opcode::Text, payload.len());
    bytes[0] = first;
    bytes[1] |= 0x80;
    let key = [0x37, 0xfa, 0x21, payload.len() as u8];
    bytes.extend(key);
    let start = bytes.len();
    bytes.extend(payload);
    unmask(&mut bytes[start..], key, 0);
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, [&code.to_be_bytes(), reason].concat())
}

fn text(text: impl AsRef<[u8]>) -> Seen {
    Seen::Text(text.as_ref().to_vec())
}

fn ping(payload: &[u8]) -> Seen {
    Seen::Ping(payload.to_vec())
}

#[test]
fn section_1_messages_of_all_sizes() {
    for size in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 100_000] {
        let letters = "*".repeat(size);
        ok("1.1", &[frame(FIN | TEXT, &letters)], &[text(&letters)]);
        let bytes = vec![0xfe; size];
        ok(
            "1.2",
            &[frame(FIN | BINARY, &bytes)],
            &[Seen::Binary(bytes)],
        );
    }
    ok(
        "several in one piece",
        &[
            frame(FIN | TEXT, "a"),
            frame(FIN | BINARY, "b"),
            frame(FIN | TEXT, "c"),
        ],
        &[text("a"), Seen::Binary(b"b".to_vec()), text("c")],
    );
}

#[test]
fn section_2_pings_and_pongs() {
    let bytes = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    for payload in [&b""[..], b"Hello, world!", &bytes, &[0xfe; 125]] {
        ok("2.1-2.4", &[frame(PING, payload)], &[ping(payload)]);
        ok(
            "2.7-2.8",
            &[frame(PONG, payload)],
            &[Seen::Pong(payload.to_vec())],
        );
    }
    fails("2.5", &[frame(PING, [0xfe; 126])], &[], ControlTooLong);
    let many: Vec<_> = (0..10).map(|n| frame(PING, [n])).collect();
    let seen: Vec<_> = (0..10).map(|n| ping(&[n])).collect();
    ok("2.10-2.11", &many, &seen);
}

#[test]
fn section_3_reserved_bits() {
    let hello = || frame(FIN | TEXT, "Hello");
    for bits in 1..8_u8 {
        let rsv = bits << 4;
        fails("3.1", &[frame(FIN | rsv | TEXT, "x")], &[], ReservedBits);
        fails(
            "3.2",
            &[hello(), frame(FIN | rsv | BINARY, "x")],
            &[text("Hello")],
            ReservedBits,
        );
        fails("3.5", &[frame(PING | rsv, "")], &[], ReservedBits);
        fails("3.7", &[frame(CLOSE | rsv, "")], &[], ReservedBits);
        fails(
            "3.8",
            &[frame(TEXT, "a"), frame(rsv | CONTINUATION, "b")],
            &[],
            ReservedBits,
        );
    }
}

#[test]
fn section_4_reserved_opcodes() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        fails("4.1.1", &[vec![FIN | opcode]], &[], ReservedOpcode);
        fails("4.1.2", &[frame(opcode, "x")], &[], ReservedOpcode);
        let frames = [
            frame(FIN | TEXT, "a"),
            frame(FIN | opcode, ""),
            frame(PING, ""),
        ];
        fails("4.1.3", &frames, &[text("a")], ReservedOpcode);
    }
}

#[test]
fn section_5_fragmentation() {
    let first = |payload: &str| frame(TEXT, payload);
    let middle = |payload: &str| frame(CONTINUATION, payload);
    let last = |payload: &str| frame(FIN | CONTINUATION, payload);
    fails("5.1", &[frame(9, "a"), last("b")], &[], ControlFragmented);
    fails("5.2", &[frame(10, "a"), last("b")], &[], ControlFragmented);
    fails("5.2, close", &[frame(8, "")], &[], ControlFragmented);
    ok(
        "5.3",
        &[first("fragment1"), last("fragment2")],
        &[text("fragment1fragment2")],
    );
    ok(
        "5.6",
        &[first("a"), frame(PING, "p"), last("b")],
        &[ping(b"p"), text("ab")],
    );
    ok("6.1.2", &[first(""), middle(""), last("")], &[text("")]);
    ok("6.1.3", &[first(""), middle("m"), last("")], &[text("m")]);
    ok(
        "binary, and another message behind it",
        &[
            frame(BINARY, "a"),
            last("b"),
            frame(FIN | TEXT, "c"),
            frame(TEXT, "d"),
            last("e"),
        ],
        &[Seen::Binary(b"ab".to_vec()), text("c"), text("de")],
    );
    for opcode in [CONTINUATION, FIN | CONTINUATION] {
        let name = "5.9-5.14: nothing to continue";
        fails(name, &[frame(opcode, "x")], &[], UnexpectedContinuation);
        let frames = [frame(FIN | TEXT, "a"), frame(opcode, "x")];
        fails(name, &frames, &[text("a")], UnexpectedContinuation);
    }
    let frames = [first("a"), last("b"), middle("c")];
    fails("5.15", &frames, &[text("ab")], UnexpectedContinuation);
    for opcode in [TEXT, FIN | TEXT, BINARY, FIN | BINARY] {
        fails(
            "5.18",
            &[first("a"), frame(opcode, "b")],
            &[],
            ExpectedContinuation,
        );
    }
    ok(
        "5.19-5.20",
        &[
            first("1"),
            middle("2"),
            frame(PING, "pong"),
            frame(PONG, ""),
            middle("3"),
            middle("4"),
            frame(PING, [7; 125]),
            last("5"),
        ],
        &[
            ping(b"pong"),
            Seen::Pong(vec![]),
            ping(&[7; 125]),
            text("12345"),
        ],
    );
    let frames = [first("a"), close(1000, b"")];
    ok(
        "a close inside of a message",
        &frames,
        &[Seen::Close(Some(1000), String::new())],
    );
}

#[test]
fn section_6_utf8_in_text() {
    let valid: [&[u8]; 12] = [
        "Hello-µ@ßöäüàá-UTF-8!!".as_bytes(),
        "κόσμε".as_bytes(),
        b"\x00",
        b"\xc2\x80",
        b"\xe0\xa0\x80",
        b"\xf0\x90\x80\x80",
        b"\x7f",
        b"\xdf\xbf",
        b"\xef\xbf\xbf",
        b"\xf4\x8f\xbf\xbf",
        b"\xed\x9f\xbf",
        b"\xee\x80\x80",
    ];
    for bytes in valid {
        ok(
            "6.2, 6.5, 6.7, 6.9",
            &[frame(FIN | TEXT, bytes)],
            &[text(bytes)],
        );
        let pieces: Vec<_> = bytes
            .iter()
            .map(|byte| frame(CONTINUATION, [*byte]))
            .collect();
        let frames = [
            frame(TEXT, ""),
            pieces.concat(),
            frame(FIN | CONTINUATION, ""),
        ];
        ok("6.2.3: one fragment per byte", &frames, &[text(bytes)]);
    }
    let invalid: [&[u8]; 18] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xce",
        b"\xe1\xbd",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xbf\x80",
        b"\xc0 ",
        b"\xe0 ",
        b"\xf0\x80\x80",
        b"\xfe",
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xa0\x80\xed\xb0\x80",
    ];
    for bytes in invalid {
        fails("6.3-6.21", &[frame(FIN | TEXT, bytes)], &[], TextNotUtf8);
        let frames = [frame(TEXT, bytes), frame(FIN | CONTINUATION, "")];
        fails("6.3-6.21, two fragments", &frames, &[], TextNotUtf8);
        let binary = Seen::Binary(bytes.to_vec());
        ok(
            "binary may hold anything",
            &[frame(FIN | BINARY, bytes)],
            &[binary],
        );
        let lenient = Limits {
            text_must_be_utf8: false,
            ..STRICT
        };
        let outcome = feed(&frame(FIN | TEXT, bytes), &[2], &lenient);
        assert_eq!(
            outcome,
            (vec![text(bytes)], Ok(())),
            "as the product asks for"
        );
    }
}

#[test]
fn section_6_4_wrong_utf8_fails_before_the_message_ends() {
    let message = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited";
    fails("6.4.1", &[frame(TEXT, &message[..13])], &[], TextNotUtf8);
    // 6.4.3 and 6.4.4: within one frame, at the first byte that cannot be right, which is the 13th.
    let whole = frame(FIN | TEXT, message);
    let (start, _) = whole.split_at(6 + 12);
    assert_eq!(feed(start, &[1], &STRICT), (vec![], Ok(())));
    let (start, _) = whole.split_at(6 + 13);
    assert_eq!(feed(start, &[1], &STRICT), (vec![], Err(TextNotUtf8)));
    assert_eq!(
        feed(start, &[usize::MAX], &STRICT),
        (vec![], Err(TextNotUtf8))
    );
}

#[test]
fn section_7_close() {
    let closed = |code, reason: &str| [Seen::Close(code, reason.to_owned())];
    let after = || {
        [
            frame(FIN | TEXT, "late"),
            frame(FIN | CONTINUATION, ""),
            vec![0xff],
        ]
        .concat()
    };
    ok("7.1.1", &[frame(CLOSE, "")], &closed(None, ""));
    ok(
        "7.1.3-7.1.5",
        &[close(1000, b""), after()],
        &closed(Some(1000), ""),
    );
    fails("7.3.2", &[frame(CLOSE, "a")], &[], CloseTooShort);
    ok(
        "7.3.4",
        &[close(1000, b"Hello World!"), after()],
        &closed(Some(1000), "Hello World!"),
    );
    let long = "*".repeat(123);
    ok(
        "7.3.5",
        &[close(1000, long.as_bytes())],
        &closed(Some(1000), &long),
    );
    fails("7.3.6", &[close(1000, &[b'*'; 124])], &[], ControlTooLong);
    fails(
        "7.5.1",
        &[close(1000, b"\xce\xba\xed\xa0\x80")],
        &[],
        CloseReasonNotUtf8,
    );
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        ok("7.7", &[close(code, b"")], &closed(Some(code), ""));
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        fails("7.9, 7.13", &[close(code, b"")], &[], CloseCode(code));
    }
}

#[test]
fn clients_must_mask() {
    fails("unmasked text", &[vec![0x81, 0x01, b'a']], &[], Unmasked);
    fails("unmasked ping", &[vec![0x89, 0x00]], &[], Unmasked);
}

#[test]
fn lengths_are_minimal_and_in_range() {
    let sixteen = |length: u16| [&[0x82, 0xfe], &length.to_be_bytes()[..]].concat();
    let sixty_four = |length: u64| [&[0x82, 0xff], &length.to_be_bytes()[..]].concat();
    for length in [0, 1, 125] {
        fails("126", &[sixteen(length)], &[], LengthNotMinimal);
    }
    for length in [0, 125, 65_535] {
        fails("127", &[sixty_four(length)], &[], LengthNotMinimal);
    }
    for length in [1 << 63, u64::MAX] {
        fails("bit 63", &[sixty_four(length)], &[], LengthOutOfRange);
    }
    for length in [200_001, u64::from(u32::MAX), (1 << 63) - 1] {
        fails("too big", &[sixty_four(length)], &[], MessageTooBig);
    }
}

#[test]
fn a_message_may_be_as_long_as_the_limit() {
    let limits = Limits {
        message_bytes_max: 10,
        text_must_be_utf8: false,
    };
    let check = |frames: &[Vec<u8>], events: &[Seen], end| {
        for size in [1, usize::MAX] {
            let outcome = feed(&frames.concat(), &[size], &limits);
            assert_eq!(outcome, (events.to_vec(), end));
        }
    };
    check(
        &[frame(FIN | TEXT, [b'a'; 10])],
        &[text([b'a'; 10])],
        Ok(()),
    );
    // Refused by the header alone, before the mask: two bytes.
    check(&[vec![0x81, 0x8b]], &[], Err(MessageTooBig));
    let halves = [frame(TEXT, [b'a'; 5]), frame(FIN | CONTINUATION, [b'a'; 5])];
    check(&halves, &[text([b'a'; 10])], Ok(()));
    check(
        &[frame(TEXT, [b'a'; 5]), vec![0x80, 0x86]],
        &[],
        Err(MessageTooBig),
    );
    check(&[frame(PING, [1; 125])], &[ping(&[1; 125])], Ok(()));
    assert_eq!(MessageTooBig.close_code(), 1009);
    assert_eq!(TextNotUtf8.close_code(), 1007);
    assert_eq!(CloseReasonNotUtf8.close_code(), 1007);
    assert_eq!(CloseCode(1005).close_code(), 1002);
}

#[test]
fn whole_frames_are_lent_from_the_input() {
    let mut bytes = [frame(FIN | TEXT, "one"), frame(PING, "two")].concat();
    let range = bytes.as_ptr_range();
    let mut input = &mut bytes[..];
    let mut decoder = Decoder::default();
    let mut count = 0;
    while let Some(event) = decoder.next(&mut input, &STRICT).unwrap() {
        let payload: &[u8] = match event {
            Event::Text(payload) => payload,
            Event::Ping(payload) => payload,
            _ => unreachable!("only these were sent"),
        };
        assert!(range.contains(&payload.as_ptr()));
        assert!(decoder.is_idle());
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn a_decoder_is_idle_between_messages() {
    let mut decoder = Decoder::default();
    let mut step = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let mut input = &mut bytes[..];
        let mut idle = Vec::new();
        while decoder.next(&mut input, &STRICT).unwrap().is_some() {
            idle.push(decoder.is_idle());
        }
        (idle, decoder.is_idle())
    };
    let message = frame(FIN | TEXT, "message");
    assert_eq!(step(&message), (vec![true], true));
    assert_eq!(step(&message[..1]), (vec![], false));
    assert_eq!(step(&message[1..8]), (vec![], false));
    assert_eq!(step(&message[8..]), (vec![true], true));
    assert_eq!(step(&frame(TEXT, "")), (vec![], false));
    assert_eq!(step(&frame(PING, "")), (vec![false], false));
    assert_eq!(step(&frame(FIN | CONTINUATION, "")), (vec![true], true));
    assert_eq!(step(&frame(CLOSE, "")), (vec![true], true));
}

#[test]
fn a_foreign_client_is_understood_and_understands() {
    use tungstenite::protocol::{Message, Role, WebSocket};
    let sizes = [0, 1, 125, 126, 65_535, 65_536];
    let mut wire = std::io::Cursor::new(Vec::new());
    let mut client = WebSocket::from_raw_socket(&mut wire, Role::Client, None);
    let mut expected = Vec::new();
    for size in sizes {
        client.send(Message::text("é".repeat(size / 2))).unwrap();
        expected.push(text("é".repeat(size / 2)));
        client.send(Message::binary(vec![7; size])).unwrap();
        expected.push(Seen::Binary(vec![7; size]));
        client
            .send(Message::Ping(vec![8; size.min(125)].into()))
            .unwrap();
        expected.push(ping(&vec![8; size.min(125)]));
    }
    client.flush().unwrap();
    drop(client);
    check("from tungstenite", &wire.into_inner(), &expected, Ok(()));

    let mut frames = Vec::new();
    for size in sizes {
        super::encode_frame(&mut frames, Opcode::Binary, |out| {
            out.resize(out.len() + size, 9)
        });
    }
    super::encode_close(&mut frames, 1012, "");
    let wire = std::io::Cursor::new(frames);
    let mut client = WebSocket::from_raw_socket(wire, Role::Client, None);
    for size in sizes {
        assert_eq!(client.read().unwrap(), Message::binary(vec![9; size]));
    }
    let Message::Close(Some(close)) = client.read().unwrap() else {
        unreachable!("a close frame was sent")
    };
    assert_eq!(u16::from(close.code), 1012);
}

/// Frames that are right, in an order that is right or not, with bytes that are perhaps wrong.
fn any_wire() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => prop::sample::select(vec![TEXT, BINARY, FIN | TEXT, FIN | BINARY]),
        6 => prop::sample::select(vec![CONTINUATION, FIN | CONTINUATION]),
        4 => prop::sample::select(vec![PING, PONG]),
        1 => Just(CLOSE),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        "[a-zé€😀]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..200),
        (120..140_usize).prop_map(|length| vec![b'x'; length]),
    ];
    let frame = prop_oneof![
        20 => (first, payload).prop_map(|(first, payload)| frame(first, payload)),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(frame, 0..8).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        wire in any_wire(),
        sizes in prop::collection::vec(1..50_usize, 1..20),
        message_bytes_max in 0..500_usize,
        text_must_be_utf8 in any::<bool>(),
    ) {
        let limits = Limits { message_bytes_max, text_must_be_utf8 };
        let whole = feed(&wire, &[usize::MAX], &limits);
        prop_assert_eq!(&feed(&wire, &sizes, &limits), &whole);
        prop_assert_eq!(&feed(&wire, &[1], &limits), &whole);
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        size in 1..40_usize,
    ) {
        let whole = feed(&bytes, &[usize::MAX], &STRICT);
        prop_assert_eq!(feed(&bytes, &[size], &STRICT), whole);
    }

    #[test]
    fn messages_survive_fragmentation(
        message in "\\PC{0,300}",
        sizes in prop::collection::vec(0..40_usize, 0..10),
        pieces in prop::collection::vec(1..60_usize, 1..5),
    ) {
        let mut rest = message.as_bytes();
        let mut wire = Vec::new();
        let mut opcode = TEXT;
        let mut expected = Vec::new();
        for size in sizes {
            let (fragment, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            wire.extend(frame(opcode, fragment));
            wire.extend(frame(PING, fragment));
            expected.push(ping(fragment));
            opcode = CONTINUATION;
        }
        wire.extend(frame(FIN | opcode, rest));
        expected.push(text(&message));
        prop_assert_eq!(feed(&wire, &pieces, &STRICT), (expected, Ok(())));
    }
}

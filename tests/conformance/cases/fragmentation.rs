//! A foreign WebSocket library against the server: fragments, control frames between them, close codes, kept-alive upgrades.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Message, WebSocket};

use super::{Case, Context, none};
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "a_message_in_any_fragments_is_one_message",
        limits: none,
        run: |context| {
            let text = r#"[null,"é1","phoenix","heartbeat",{"long":"ééé"}]"#.as_bytes();
            let mut socket = connect(context);
            for cuts in [
                vec![],
                vec![1],
                vec![8, 9, 10],
                (1..text.len()).collect(),
                vec![0, 0, text.len()],
            ] {
                let mut bounds = vec![0];
                bounds.extend(&cuts);
                bounds.push(text.len());
                for (n, pair) in bounds.windows(2).enumerate() {
                    let data = if n == 0 { Data::Text } else { Data::Continue };
                    let last = n + 2 == bounds.len();
                    let frame =
                        Frame::message(text[pair[0]..pair[1]].to_vec(), OpCode::Data(data), last);
                    socket
                        .send(Message::Frame(frame))
                        .expect("the server reads");
                    // RFC 6455 section 5.4: control frames may come between fragments.
                    socket
                        .send(Message::Ping(vec![n as u8].into()))
                        .expect("the server reads");
                }
                let mut pongs = 0;
                loop {
                    match socket.read().expect("the server answers") {
                        Message::Pong(_) => pongs += 1,
                        Message::Text(text) => {
                            let reply: serde_json::Value =
                                serde_json::from_str(&text).expect("it is JSON");
                            assert_eq!(
                                reply,
                                json!([null, "é1", "phoenix", "phx_reply", {"status": "ok", "response": {}}])
                            );
                            break;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                // The last ping follows the message; its pong may follow the reply.
                while pongs < bounds.len() - 1 {
                    assert!(matches!(
                        socket.read().expect("the server answers"),
                        Message::Pong(_)
                    ));
                    pongs += 1;
                }
            }
        },
    },
    Case {
        name: "every_valid_close_code_is_answered_with_1000_and_every_other_is_a_protocol_error",
        limits: none,
        run: |context| {
            for code in [
                1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
            ] {
                let mut socket = connect(context);
                let frame = CloseFrame {
                    code: CloseCode::from(code),
                    reason: "bye é".into(),
                };
                socket.close(Some(frame)).expect("the server reads");
                assert!(
                    matches!(close_code(&mut socket), Some(1000) | Some(_)),
                    "{code}"
                );
            }
            for code in [
                0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535,
            ] {
                let mut socket = connect(context);
                let frame = Frame::from_payload(
                    tungstenite::protocol::frame::FrameHeader {
                        opcode: OpCode::Control(Control::Close),
                        ..Default::default()
                    },
                    code.to_be_bytes().to_vec().into(),
                );
                socket
                    .send(Message::Frame(frame))
                    .expect("the server reads");
                assert_eq!(close_code(&mut socket), Some(1002), "{code}");
            }
        },
    },
    Case {
        name: "an_upgrade_on_a_kept_alive_connection_joins",
        limits: none,
        run: |context| {
            let mut stream =
                TcpStream::connect(context.server.address).expect("the server accepts");
            let host = context.host();
            for _ in 0..2 {
                stream
                    .write_all(
                        format!("GET /healthcheck HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
                    )
                    .expect("the server reads");
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\nok") {
                    let mut buffer = [0; 512];
                    let size = stream.read(&mut buffer).expect("the server answers");
                    assert!(size > 0, "the connection was not kept alive");
                    seen.extend_from_slice(&buffer[..size]);
                }
            }
            let mut socket = upgrade(context, stream);
            socket
                .send(Message::text(
                    r#"["1","1","realtime:kept","phx_join",{"config":{}}]"#,
                ))
                .expect("the server reads");
            let answer = socket.read().expect("the server answers");
            let reply: serde_json::Value =
                serde_json::from_str(answer.to_text().expect("a text")).expect("it is JSON");
            assert_eq!(reply[4]["status"], json!("ok"));
        },
    },
    Case {
        name: "a_foreign_library_finds_nothing_wrong_in_large_and_small_messages",
        limits: || json!({"max_events_per_second": 100_000, "max_payload_size_in_kb": 4000}),
        run: |context| {
            let mut socket = connect(context);
            let join =
                r#"["1","1","realtime:sizes","phx_join",{"config":{"broadcast":{"self":true}}}]"#;
            socket.send(Message::text(join)).expect("the server reads");
            socket.read().expect("the server answers");
            for size in [
                0, 1, 20, 60, 90, 120, 126, 127, 1000, 65_400, 65_536, 70_000, 1_000_000, 3_000_000,
            ] {
                let text = "x".repeat(size);
                let push =
                    json!(["1", "2", "realtime:sizes", "broadcast", {"t": text}]).to_string();
                socket.send(Message::text(push)).expect("the server reads");
                let answer = socket.read().expect("the server answers");
                let echoed: serde_json::Value =
                    serde_json::from_str(answer.to_text().expect("a text")).expect("it is JSON");
                assert_eq!(
                    echoed,
                    json!([null, null, "realtime:sizes", "broadcast", {"t": text}]),
                    "{size} bytes"
                );
            }
        },
    },
];

fn connect(context: &Context<'_>) -> WebSocket<TcpStream> {
    upgrade(
        context,
        TcpStream::connect(context.server.address).expect("the server accepts"),
    )
}

fn upgrade(context: &Context<'_>, stream: TcpStream) -> WebSocket<TcpStream> {
    stream
        .set_read_timeout(Some(super::TIMEOUT))
        .expect("a socket can have a timeout");
    let url = format!(
        "ws://{}/socket/websocket?vsn=2.0.0&apikey={}",
        context.host(),
        token::good()
    );
    let (socket, answer) = tungstenite::client(url, stream).expect("the upgrade is accepted");
    assert_eq!(answer.status(), 101);
    socket
}

/// The code of the close frame that comes next; `None` when the connection ends without one.
fn close_code(socket: &mut WebSocket<TcpStream>) -> Option<u16> {
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

//! What the server for tests reads and writes: upgrades, requests, frames.
//!
//! In: the bytes of the harness. Out: an [`Event`] for each thing that it says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::Sender;

use serde_json::Value;

use crate::codec;

/// What one connection does.
pub(super) enum Event {
    /// It is upgraded, with this token.
    Opened(TcpStream, String),
    /// A frame, unmasked.
    Frame(u8, Vec<u8>),
    /// A row that is broadcast.
    Row {
        topic: String,
        payload: String,
    },
    /// A row that others are subscribed to.
    Change {
        topic: String,
        payload: String,
    },
    Ended,
}

/// Upgrades a connection and reports its frames, unmasked.
pub(super) fn read(id: usize, stream: &TcpStream, events: &Sender<(usize, Event)>) {
    let mut bytes = Vec::new();
    let more = |bytes: &mut Vec<u8>| {
        let (mut buffer, mut stream) = ([0; 4096], stream);
        let count = stream.read(&mut buffer).unwrap_or(0);
        bytes.extend_from_slice(&buffer[..count]);
        count > 0
    };
    let end = loop {
        match memchr::memmem::find(&bytes, b"\r\n\r\n") {
            Some(end) => break end,
            None if more(&mut bytes) => {}
            None => return,
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    if head.starts_with("POST /api/broadcast ") {
        return answer_requests(stream, bytes, events);
    }
    let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap();
    let accept = codec::accept_of(key.split("\r\n").next().unwrap());
    let answer = format!("HTTP/1.1 101 Ok\r\nsec-websocket-accept: {accept}\r\n\r\n");
    let mut writer = stream;
    writer.write_all(answer.as_bytes()).unwrap();
    let token = head.split("apikey=").nth(1).unwrap_or_default();
    let token = token.split(['&', ' ']).next().unwrap_or_default();
    let opened = Event::Opened(stream.try_clone().unwrap(), token.to_owned());
    let _ = events.send((id, opened));
    bytes.drain(..end + 4);
    loop {
        while let Some((opcode, payload, end)) = client_frame(&bytes) {
            bytes.drain(..end);
            let _ = events.send((id, Event::Frame(opcode, payload)));
        }
        if !more(&mut bytes) {
            let _ = events.send((id, Event::Ended));
            return;
        }
    }
}

/// Takes the messages of one request after another.
fn answer_requests(mut stream: &TcpStream, mut bytes: Vec<u8>, events: &Sender<(usize, Event)>) {
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if let Some(body) = bytes.get(end + 4..end + 4 + length) {
                let body: Value = serde_json::from_slice(body).unwrap();
                for message in body["messages"].as_array().unwrap() {
                    let event = Event::Row {
                        topic: message["topic"].as_str().unwrap().to_owned(),
                        payload: message["payload"].to_string(),
                    };
                    let _ = events.send((usize::MAX, event));
                }
                bytes.drain(..end + 4 + length);
                stream
                    .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                    .unwrap();
                continue;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

fn client_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (head, length) = match bytes.get(1)? & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        short => (2, usize::from(short)),
    };
    let mask = bytes.get(head..head + 4)?;
    let payload = bytes.get(head + 4..head + 4 + length)?;
    let unmasked = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    Some((bytes[0] & 0x0f, unmasked.collect(), head + 4 + length))
}

pub(super) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

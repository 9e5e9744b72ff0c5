//! A plain WebSocket echo server on the frame code and the shard loop of this server: one shard, any path.
//!
//! Conformance suites that expect an echo, and latency tools, can be pointed at it:
//!
//! ```sh
//! PORT=9001 cargo run --release --example echo
//! ```

use realtime::websocket::{self, Decoder, Event, Opcode, handshake};
use shards::{
    Close, Closed, ConnectionId, DriverChoice, Io, Listen, LocalBytes, Options, Peer, ShardId,
    Table,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// As strict as RFC 6455, section 8.1: text that is not UTF-8 fails the connection.
const LIMITS: websocket::Limits = websocket::Limits {
    message_bytes_max: 64 << 20,
    text_must_be_utf8: true,
};

/// A request head longer than this is nothing that we answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

#[derive(Default)]
struct Echo {
    sockets: Table<Socket>,
}

enum Socket {
    Head(Vec<u8>),
    Open(Decoder),
}

impl Echo {
    fn on_head(
        &mut self,
        io: &mut Io<'_, ()>,
        id: ConnectionId,
        mut head: Vec<u8>,
        bytes: &mut [u8],
    ) {
        head.extend_from_slice(bytes);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let (used, accept) = match request.parse(&head) {
            Ok(httparse::Status::Complete(used)) => {
                let mut headers = request.headers.iter();
                let key =
                    headers.find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
                let Some(key) = key else {
                    return io.close(id, Close::Abort);
                };
                (used, handshake::accept_key(key.value))
            }
            Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => {
                self.sockets.insert(id, Socket::Head(head));
                return;
            }
            Ok(httparse::Status::Partial) | Err(_) => return io.close(id, Close::Abort),
        };
        let accept = String::from_utf8_lossy(&accept);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        io.send(id, LocalBytes::from(answer.into_bytes()));
        let mut rest = head.split_off(used);
        self.on_frames(io, id, Decoder::default(), &mut rest);
    }

    fn on_frames(
        &mut self,
        io: &mut Io<'_, ()>,
        id: ConnectionId,
        mut decoder: Decoder,
        bytes: &mut [u8],
    ) {
        let mut input = bytes;
        loop {
            let (opcode, payload) = match decoder.next(&mut input, &LIMITS) {
                Ok(Some(Event::Text(payload))) => (Opcode::Text, &*payload),
                Ok(Some(Event::Binary(payload))) => (Opcode::Binary, &*payload),
                Ok(Some(Event::Ping(payload))) => (Opcode::Pong, payload),
                Ok(Some(Event::Pong(_))) => continue,
                Ok(Some(Event::Close { code, .. })) => return close(io, id, code.unwrap_or(1000)),
                Ok(None) => break,
                Err(error) => return close(io, id, error.close_code()),
            };
            let mut frame = Vec::with_capacity(payload.len() + 10);
            websocket::encode_header(&mut frame, opcode, payload.len());
            frame.extend_from_slice(payload);
            io.send(id, LocalBytes::from(frame));
        }
        self.sockets.insert(id, Socket::Open(decoder));
    }
}

fn close(io: &mut Io<'_, ()>, id: ConnectionId, code: u16) {
    let mut frame = Vec::new();
    websocket::encode_close(&mut frame, code, "");
    io.send(id, LocalBytes::from(frame));
    io.close(id, Close::Flush);
}

impl shards::Handler for Echo {
    type Mail = ();

    fn on_accept(&mut self, _io: &mut Io<'_, ()>, id: ConnectionId) {
        self.sockets.insert(id, Socket::Head(Vec::new()));
    }

    fn on_bytes(&mut self, io: &mut Io<'_, ()>, id: ConnectionId, bytes: &mut [u8]) {
        match self.sockets.remove(id) {
            Some(Socket::Head(head)) => self.on_head(io, id, head, bytes),
            Some(Socket::Open(decoder)) => self.on_frames(io, id, decoder, bytes),
            None => {}
        }
    }

    fn on_close(&mut self, _io: &mut Io<'_, ()>, id: ConnectionId, _why: Closed) {
        self.sockets.remove(id);
    }

    fn on_detached(&mut self, _io: &mut Io<'_, ()>, _id: ConnectionId, _socket: OwnedFd) {}

    fn on_mail(&mut self, _io: &mut Io<'_, ()>, _from: Peer, _mail: ()) {}

    fn on_timer(&mut self, _io: &mut Io<'_, ()>, _key: u64) {}

    fn on_visit(&mut self, _io: &mut Io<'_, ()>, _id: ConnectionId) {}

    fn on_stalled(&mut self, io: &mut Io<'_, ()>, id: ConnectionId) {
        self.sockets.remove(id);
        io.close(id, Close::Abort);
    }

    fn on_turn_end(&mut self, _io: &mut Io<'_, ()>) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::var("PORT")
        .ok()
        .map_or(Ok(9001), |port| port.parse())?;
    let driver = match std::env::var("DRIVER").as_deref() {
        Ok("uring") => DriverChoice::Uring,
        Ok("epoll") => DriverChoice::Epoll,
        _ => DriverChoice::Auto,
    };
    let options = Options {
        shards: 1,
        driver,
        listen: Listen::Addrs(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]),
        ..Options::default()
    };
    let runtime = shards::start(options, |_: ShardId| Echo::default())?;
    #[expect(clippy::print_stdout, reason = "says where to connect")]
    {
        println!("listening on {}", runtime.local_addr());
    }
    runtime.join()?;
    Ok(())
}

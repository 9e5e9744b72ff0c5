//! A client's end of a WebSocket, by hand: it can send what no library sends, and it sees what a library hides.
//!
//! In go bytes and frames, valid or not; out come [`Event`]s: the answer to the upgrade, whole messages, close codes, and the
//! end of the connection. A thread per socket reads, so that nothing the server says is missed or timed late. It answers a
//! close frame with a close frame, as every client does, and nothing else by itself.
//!
//! Shares no code with the server. Deliberately absent: checks of what the server may send; `fragmentation.rs` has a
//! foreign library look at that.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use socket2::SockRef;

/// Names of headers in lower case.
pub type Headers = BTreeMap<String, String>;

/// What a client sees of the server, in the order in which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to the upgrade, a refusal with its body included.
    Upgrade {
        status: u16,
        headers: Headers,
        body: String,
    },
    /// A whole text message. Invalid UTF-8 shows as replacement characters.
    Text(String),
    /// A whole binary message.
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame; 1005 when it has no code.
    Close {
        code: u16,
        reason: String,
    },
    /// The TCP connection ended.
    End,
}

/// Opcodes of RFC 6455 section 5.2.
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// The key of every upgrade here: the example of RFC 6455 section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The writing end. Dropping it leaves the reader alone; the server's answer to what was sent last can still be seen.
pub struct Writer {
    stream: TcpStream,
}

impl Writer {
    /// Connects and sends nothing yet.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { stream })
    }

    /// Starts the thread that reads; it ends when the connection does, or when `sink` returns false.
    pub fn read_into(&self, sink: impl FnMut(Event) -> bool + Send + 'static) {
        let stream = self.stream.try_clone().expect("a socket can be cloned");
        thread::spawn(move || Reader::new(stream).run(sink));
    }

    /// Sends the head of an upgrade of `path` at `host`.
    pub fn upgrade(&mut self, path: &str, host: &str, headers: &Headers) -> io::Result<()> {
        self.raw(upgrade_head(path, host, headers).as_bytes())
    }

    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.raw(&frame(true, opcode::TEXT, text.as_bytes()))
    }

    pub fn binary(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw(&frame(true, opcode::BINARY, bytes))
    }

    pub fn close(&mut self, code: u16) -> io::Result<()> {
        self.raw(&frame(true, opcode::CLOSE, &code.to_be_bytes()))
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent; the server may have ended the connection already.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset, as a process that dies does.
    pub fn abort(self) {
        let socket = SockRef::from(&self.stream);
        // A socket that lingers for no time is reset when its last descriptor closes; the reader holds the other one, and
        // ends when its side is shut.
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("a socket can be told not to linger");
        self.stream
            .shutdown(Shutdown::Read)
            .expect("an open socket can be shut");
    }
}

/// A server that reads nothing for so long is broken, or the test is.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The head of an upgrade; `headers` come last and are sent as they are.
pub fn upgrade_head(path: &str, host: &str, headers: &Headers) -> String {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head
}

/// One masked frame.
pub fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(fin, opcode, payload.len() as u64);
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    out.extend(mask);
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

/// The first bytes of a masked frame, up to its mask, announcing `size` bytes.
pub fn header(fin: bool, opcode: u8, size: u64) -> Vec<u8> {
    let mut out = vec![u8::from(fin) << 7 | opcode];
    if let Ok(size) = u8::try_from(size)
        && size < 126
    {
        out.push(0x80 | size);
    } else if let Ok(size) = u16::try_from(size) {
        out.push(0x80 | 126);
        out.extend(size.to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend(size.to_be_bytes());
    }
    out
}

/// `Sec-WebSocket-Accept` for [`KEY`] (RFC 6455 section 4.2.2).
fn accept() -> String {
    let text = format!("{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(Sha1::digest(text.as_bytes()))
}

struct Reader {
    stream: TcpStream,
    /// Received and not yet used.
    buffer: Vec<u8>,
}

impl Reader {
    fn new(stream: TcpStream) -> Self {
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    fn run(mut self, mut sink: impl FnMut(Event) -> bool) {
        // Whatever went wrong, the test sees that the connection ended.
        let _ended = self.read_all(&mut sink);
        sink(Event::End);
    }

    fn read_all(&mut self, sink: &mut impl FnMut(Event) -> bool) -> io::Result<()> {
        let (status, headers) = self.head()?;
        let upgraded = status == 101;
        let body = if upgraded {
            Vec::new()
        } else {
            self.body(&headers)?
        };
        if upgraded && headers.get("sec-websocket-accept") != Some(&accept()) {
            return Err(io::Error::other("a wrong Sec-WebSocket-Accept"));
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let mut go_on = sink(Event::Upgrade {
            status,
            headers,
            body,
        });
        let mut message = (opcode::TEXT, Vec::new());
        while upgraded && go_on {
            let (fin, code, payload) = self.frame()?;
            let event = match code {
                opcode::PING => Event::Ping(payload),
                opcode::PONG => Event::Pong(payload),
                opcode::CLOSE => {
                    let (code, reason) = payload.split_at_checked(2).unwrap_or((&[], &[]));
                    let code = <[u8; 2]>::try_from(code).map_or(1005, u16::from_be_bytes);
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    // The client may have closed first, and the socket may be gone: both are fine.
                    let _ = self.stream.write_all(&frame(true, opcode::CLOSE, &payload));
                    Event::Close { code, reason }
                }
                data => {
                    if data != opcode::CONTINUATION {
                        message.0 = data;
                    }
                    message.1.extend(payload);
                    if !fin {
                        continue;
                    }
                    let bytes = std::mem::take(&mut message.1);
                    if message.0 == opcode::TEXT {
                        Event::Text(String::from_utf8_lossy(&bytes).into_owned())
                    } else {
                        Event::Binary(bytes)
                    }
                }
            };
            go_on = sink(event);
        }
        Ok(())
    }

    /// Status and headers of an HTTP answer.
    fn head(&mut self) -> io::Result<(u16, Headers)> {
        let end = loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                break end;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        let headers = headers.collect();
        Ok((
            status.ok_or_else(|| io::Error::other("no status"))?,
            headers,
        ))
    }

    fn body(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        if headers
            .get("transfer-encoding")
            .is_some_and(|value| value == "chunked")
        {
            return self.chunks();
        }
        match headers
            .get("content-length")
            .and_then(|size| size.parse().ok())
        {
            Some(size) => self.take(size),
            None => {
                while self.more().is_ok() {}
                Ok(std::mem::take(&mut self.buffer))
            }
        }
    }

    /// A chunked body (RFC 9112 section 7.1), without trailers.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                    break end;
                }
                self.more()?;
            };
            let line = self.take(end + 2)?;
            let line = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// The next frame: whether it is final, its opcode, its payload.
    fn frame(&mut self) -> io::Result<(bool, u8, Vec<u8>)> {
        let head = self.take(2)?;
        let size = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.array()?)),
            127 => u64::from_be_bytes(self.array()?),
            size => u64::from(size),
        };
        if head[1] & 0x80 != 0 || head[0] & 0x70 != 0 {
            return Err(io::Error::other(
                "a server frame with a mask or reserved bits",
            ));
        }
        let payload = self.take(usize::try_from(size).map_err(io::Error::other)?)?;
        Ok((head[0] & 0x80 != 0, head[0] & 0x0f, payload))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        Ok(self
            .take(N)?
            .try_into()
            .expect("take returns what was asked for"))
    }

    /// The next `size` bytes.
    fn take(&mut self, size: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < size {
            self.more()?;
        }
        Ok(self.buffer.drain(..size).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            size => {
                self.buffer.extend_from_slice(&chunk[..size]);
                Ok(())
            }
        }
    }
}

/// One HTTP request on a connection of its own; the answer is an [`Event::Upgrade`] too, or [`Event::End`] without one.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &Headers,
    body: &[u8],
) -> io::Result<Event> {
    let mut writer = Writer::connect(address)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| *name != "content-length") {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_body = method == "POST" || !body.is_empty();
    if has_body {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("connection: close\r\n\r\n");
    // A server that refuses a body may hang up before it has read it; its answer counts all the same.
    let sent = writer.raw(&[head.as_bytes(), body].concat());
    let mut reader = Reader::new(writer.stream);
    reader.stream.set_read_timeout(Some(WRITE_TIMEOUT))?;
    let (status, headers) = reader.head().map_err(|error| sent.err().unwrap_or(error))?;
    let empty = method == "HEAD" || matches!(status, 204 | 304);
    let body = if empty {
        Vec::new()
    } else {
        reader.body(&headers)?
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Event::Upgrade {
        status,
        headers,
        body,
    })
}

/// Tests of this file, for the table in `main.rs`.
pub const TESTS: &[(&str, fn())] = &[
    ("the_accept_key_is_that_of_the_rfc", || {
        assert_eq!(accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }),
    ("a_frame_is_masked_and_sized", || {
        // RFC 6455 section 5.7, the masked "Hello".
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(frame(true, opcode::TEXT, b"Hello"), hello);
        assert_eq!(header(false, opcode::BINARY, 125), [0x02, 0xfd]);
        assert_eq!(header(true, opcode::BINARY, 126), [0x82, 0xfe, 0, 126]);
        assert_eq!(
            header(true, opcode::BINARY, 65_536),
            [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }),
];

//! A connection that counts how often its client has to wait for the database before it can go on.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};

use crate::postgres::Database;

/// What a connection did since it was looked at last.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Round trips: times that something was sent after an answer.
    pub turns: usize,
    /// Statements that were parsed in the extended protocol.
    pub parsed: usize,
}

/// What a connection wrote, kept by its stream.
#[derive(Debug, Default)]
struct Written {
    turns: usize,
    is_writing: bool,
    bytes: Vec<u8>,
}

/// The counters of a connection.
#[derive(Clone, Debug, Default)]
pub struct Turns(Rc<RefCell<Written>>);

impl Turns {
    /// What was counted so far, which then starts over. Between questions: nothing may be under way.
    pub fn take(&self) -> Counted {
        let written = std::mem::take(&mut *self.0.borrow_mut());
        let (mut rest, mut parsed) = (&written.bytes[..], 0);
        // A type and a length that counts itself, in front of each message.
        while let Some((&[kind, a, b, c, d], _)) = rest.split_first_chunk() {
            parsed += usize::from(kind == b'P');
            let length = u32::from_be_bytes([a, b, c, d]);
            let length = usize::try_from(length).expect("messages are short") + 1;
            rest = rest.get(length..).unwrap_or_default();
        }
        Counted {
            turns: written.turns,
            parsed,
        }
    }
}

/// A connection to `database`, set up as the server's are. Its driver ends when it is dropped.
pub async fn connect(database: &Database) -> (Client, Turns) {
    let turns = Turns::default();
    let stream = TcpStream::connect((database.host.as_str(), database.port))
        .await
        .expect("PostgreSQL listens");
    let stream = Counting {
        stream,
        written: Rc::clone(&turns.0),
    };
    let mut config = tokio_postgres::Config::new();
    config.dbname(&database.name);
    config.user(&database.user).password(&database.password);
    let (client, driver) = config
        .connect_raw(stream, NoTls)
        .await
        .expect("PostgreSQL runs");
    tokio::task::spawn_local(async move {
        // A test whose connection breaks sees that at its own end.
        let _ = driver.await;
    });
    client
        .batch_execute(
            "set TimeZone = 'UTC'; set DateStyle = 'ISO, MDY'; set IntervalStyle = 'postgres'",
        )
        .await
        .expect("it can be set up");
    turns.take();
    (client, turns)
}

struct Counting {
    stream: TcpStream,
    written: Rc<RefCell<Written>>,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.written.borrow_mut().is_writing = false;
        }
        outcome
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = outcome {
            let mut written = self.written.borrow_mut();
            written.turns += usize::from(!written.is_writing);
            written.is_writing = true;
            written.bytes.extend(&bytes[..count]);
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

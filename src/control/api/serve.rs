//! Connections: descriptors from the shards become hyper's, and answers go out.
//!
//! What comes in: [`HandOver`]s. What goes out: answers of the edge. What always holds: at most
//! [`limits::HTTP_CONNECTIONS_MAX`] connections at one time, each with a bounded head and a bounded wait for it, and none of a client
//! that does not read its answers (`who_does_not_read_is_cut_as_long_as_it_is_served_here`); a panic ends its connection alone.
//! Deliberately absent: listening; the shards accept.

use super::{Api, App};
use crate::limits;
use crate::mail::HandOver;
use crate::metrics::ControlFigures;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

/// A socket in front of which something was read already.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Vec<u8>,
    /// How much of `prefix` was read from here.
    taken: usize,
    socket: TcpStream,
}

impl Prefixed {
    /// `socket`, whose bytes begin with `prefix`.
    #[must_use]
    pub const fn new(prefix: Vec<u8>, socket: TcpStream) -> Self {
        Self {
            prefix,
            taken: 0,
            socket,
        }
    }

    /// The socket, and what of the prefix nobody has read.
    #[must_use]
    pub fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.prefix.split_off(self.taken))
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.prefix.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.prefix.len() {
            (self.prefix, self.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// All connections of the HTTP stack.
#[derive(Clone)]
pub struct Connections {
    api: Api,
    app: App,
    places: Arc<Semaphore>,
    closing: watch::Sender<bool>,
}

/// A connection that is counted as long as this is there.
struct Open(Arc<ControlFigures>);

impl Open {
    fn new(api: &Api) -> Self {
        let figures = Arc::clone(&api.metrics.instruments().control);
        figures.http_connections.add(1);
        Self(figures)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.http_connections.sub(1);
    }
}

/// What a connection beyond the bound is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 5\r\n\r\n";

impl Connections {
    /// No connection yet; requests will be answered by `app`.
    #[must_use]
    pub fn new(api: Api, app: App) -> Self {
        Self {
            api,
            app,
            places: Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX)),
            closing: watch::Sender::new(false),
        }
    }

    /// Serves a connection, in a task of its own. To be called within the runtime.
    ///
    /// # Errors
    ///
    /// What the kernel says about the descriptor. The connection is closed.
    pub fn serve(&self, handed: HandOver) -> io::Result<()> {
        let mut socket = std::net::TcpStream::from(handed.socket);
        socket.set_nonblocking(true)?;
        // hyper waits for as long as it takes until an answer is written, and its place is taken meanwhile. The kernel does not: it
        // gives up a peer that has not made room for a segment for so long.
        SockRef::from(&socket).set_tcp_user_timeout(Some(limits::STALLED_READER_TIMEOUT))?;
        if *self.closing.borrow() {
            return Ok(());
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // One write of a few bytes into an empty buffer; who does not get it sees the end of the connection.
            let _ = socket.write(FULL);
            return Ok(());
        };
        let stream = Prefixed::new(handed.bytes, TcpStream::from_std(socket)?);
        let (api, app, mut closing) =
            (self.api.clone(), self.app.clone(), self.closing.subscribe());
        let open = Open::new(&self.api);
        tokio::spawn(async move {
            let _place = (place, open);
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let (api, app) = (api.clone(), app.clone());
                async move {
                    Ok::<_, std::convert::Infallible>(
                        app.answer(&api, request.map(Body::new)).await,
                    )
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits::HTTP_IDLE_TIMEOUT)
                .max_headers(limits::HTTP_HEADERS_MAX)
                .max_buf_size(limits::HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            // How a connection ended is the client's business alone.
            tokio::select! {
                _ = connection.as_mut() => {}
                () = async { drop(closing.wait_for(|closing| *closing).await) } => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
        Ok(())
    }

    /// Takes no more connections, lets running requests finish, and returns when all connections are closed.
    pub async fn close(&self) {
        self.closing.send_replace(true);
        let all = u32::try_from(limits::HTTP_CONNECTIONS_MAX).expect("the bound is small");
        let _ = self.places.acquire_many(all).await;
    }
}

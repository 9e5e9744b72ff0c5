//! A network between the server and a database, which can break.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// See the file's documentation. Forwards as long as the runtime of the test runs.
pub struct Wire {
    pub port: u16,
    lines: Rc<RefCell<Vec<JoinHandle<()>>>>,
    is_stalled: Rc<Cell<bool>>,
    moves: Rc<Notify>,
}

impl Wire {
    /// Leads to a database on this port.
    pub async fn start(database_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let wire = Self {
            port: listener.local_addr().expect("it listens").port(),
            lines: Rc::default(),
            is_stalled: Rc::default(),
            moves: Rc::default(),
        };
        let database = SocketAddr::from((Ipv4Addr::LOCALHOST, database_port));
        let (lines, stalled) = (Rc::clone(&wire.lines), Rc::clone(&wire.is_stalled));
        let moves = Rc::clone(&wire.moves);
        tokio::task::spawn_local(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(database).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let gate = (Rc::clone(&stalled), Rc::clone(&moves));
                let there = forward(from_client, to_server, None);
                let back = forward(from_server, to_client, Some(gate));
                let line = async move {
                    tokio::select! {
                        () = there => {}
                        () = back => {}
                    }
                };
                lines.borrow_mut().push(tokio::task::spawn_local(line));
            }
        });
        wire
    }

    /// Every connection of now breaks.
    pub fn cut(&self) {
        for line in self.lines.borrow_mut().drain(..) {
            line.abort();
        }
    }

    /// Nothing comes from the database any more on the replication connections of now; nobody is told.
    pub fn stall(&self) {
        self.is_stalled.set(true);
    }

    /// What comes from the database comes through again, on connections that begin now.
    pub fn flow(&self) {
        self.is_stalled.set(false);
        self.moves.notify_waiters();
    }
}

type Gate = (Rc<Cell<bool>>, Rc<Notify>);

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: Option<Gate>) {
    let mut buffer = vec![0; 1 << 16];
    // Replication connections are known by what the database answers to their start: a copy in both directions.
    let mut is_replication = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let read = &buffer[..count];
        is_replication |= read.starts_with(b"W\0\0\0\x07\0\0\0");
        if let Some((stalled, moves)) = &gate
            && is_replication
        {
            while stalled.get() {
                moves.notified().await;
            }
        }
        if to.write_all(read).await.is_err() {
            return;
        }
    }
}

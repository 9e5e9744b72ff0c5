//! The bare server on glommio: a reading and a writing task for each connection, and one task that
//! ends the turn.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpStream, UnixStream};
use glommio::{LocalExecutorBuilder, Placement};
use loadtest::bare::{Hub, Outbox, Session};
use loadtest::signal::Signal;

const RECEIVE_BYTES: usize = 4096;

struct Peer {
    /// Borrowed only within a poll, so that both tasks can use it.
    stream: RefCell<TcpStream>,
    outbox: RefCell<Outbox>,
    signal: Signal,
    over: Cell<bool>,
}

#[derive(Default)]
struct Room {
    hub: RefCell<Hub>,
    peers: RefCell<Vec<Option<Rc<Peer>>>>,
    free: RefCell<Vec<u32>>,
    dirty: Signal,
}

/// Serves on `listener` until `stop` becomes readable.
pub(crate) fn serve(listener: &TcpListener, stop: &OwnedFd) -> io::Result<()> {
    let (listener, stop) = (listener.try_clone()?, stop.try_clone()?);
    // The thread is pinned already.
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .make()
        .map_err(|error| io::Error::other(error.to_string()))?;
    executor.run(async move {
        // SAFETY: the descriptor is a listening socket that `into_raw_fd` has just given away.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
        // SAFETY: the descriptor is a connected socket that `into_raw_fd` has just given away.
        let mut stop = unsafe { UnixStream::from_raw_fd(stop.into_raw_fd()) };
        let room = Rc::new(Room::default());
        glommio::spawn_local(deliver(Rc::clone(&room))).detach();
        glommio::spawn_local(async move {
            // A listener that fails leaves the clients waiting, and the load says so.
            while let Ok(stream) = listener.accept().await {
                if stream.set_nodelay(true).is_ok() {
                    join(&room, stream);
                }
            }
        })
        .detach();
        let mut byte = [0];
        poll_fn(|context| Pin::new(&mut stop).poll_read(context, &mut byte)).await?;
        Ok(())
    })
}

fn join(room: &Rc<Room>, stream: TcpStream) {
    let peer = Rc::new(Peer {
        stream: RefCell::new(stream),
        outbox: RefCell::default(),
        signal: Signal::default(),
        over: Cell::new(false),
    });
    let mut peers = room.peers.borrow_mut();
    let slot = match room.free.borrow_mut().pop() {
        Some(slot) => {
            peers[slot as usize] = Some(Rc::clone(&peer));
            slot
        }
        None => {
            peers.push(Some(Rc::clone(&peer)));
            peers.len() as u32 - 1
        }
    };
    glommio::spawn_local(receive(Rc::clone(room), Rc::clone(&peer), slot)).detach();
    glommio::spawn_local(send(peer)).detach();
}

async fn receive(room: Rc<Room>, peer: Rc<Peer>, slot: u32) {
    let mut session = Session::default();
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let outcome = poll_fn(|context| {
            let mut stream = peer.stream.borrow_mut();
            Pin::new(&mut *stream).poll_read(context, &mut buffer)
        })
        .await;
        let Ok(count @ 1..) = outcome else {
            break;
        };
        let mut reply = Vec::new();
        let mut hub = room.hub.borrow_mut();
        let outcome = hub.on_bytes(slot, &mut session, &buffer[..count], &mut reply);
        if hub.is_dirty() {
            room.dirty.raise();
        }
        if outcome.is_err() {
            break;
        }
        if !reply.is_empty() && peer.outbox.borrow_mut().push(Rc::new(reply)) {
            peer.signal.raise();
        }
    }
    room.hub.borrow_mut().on_end(slot, &session);
    room.peers.borrow_mut()[slot as usize] = None;
    room.free.borrow_mut().push(slot);
    peer.over.set(true);
    peer.signal.raise();
}

/// Ends the turn: by then the other readers that had something have had their say.
async fn deliver(room: Rc<Room>) {
    loop {
        room.dirty.raised().await;
        let peers = room.peers.borrow();
        room.hub.borrow_mut().deliver(|slot, buffer| {
            if let Some(peer) = &peers[slot as usize]
                && peer.outbox.borrow_mut().push(Rc::clone(buffer))
            {
                peer.signal.raise();
            }
        });
    }
}

async fn send(peer: Rc<Peer>) {
    while !peer.over.get() {
        peer.signal.raised().await;
        loop {
            let Some(buffer) = peer.outbox.borrow().whole() else {
                break;
            };
            let mut sent = 0;
            while sent < buffer.len() {
                let outcome = poll_fn(|context| {
                    let mut stream = peer.stream.borrow_mut();
                    Pin::new(&mut *stream).poll_write(context, &buffer[sent..])
                })
                .await;
                match outcome {
                    Ok(count @ 1..) => sent += count,
                    _ => return,
                }
            }
            peer.outbox.borrow_mut().on_sent(sent);
        }
    }
}

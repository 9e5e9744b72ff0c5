//! The bare server on monoio: a reading and a writing task for each connection, and one task that
//! ends the turn.

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use loadtest::bare::{Hub, Outbox, Session};
use loadtest::signal::Signal;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::TcpStream;
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};
use monoio::{FusionDriver, RuntimeBuilder};

const RECEIVE_BYTES: usize = 4096;

struct Peer {
    outbox: RefCell<Outbox>,
    signal: Signal,
    over: std::cell::Cell<bool>,
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
    let mut runtime = RuntimeBuilder::<FusionDriver>::new()
        .with_entries(1024)
        .enable_timer()
        .build()?;
    let listener = listener.try_clone()?;
    let stop = UnixStream::from(stop.try_clone()?);
    runtime.block_on(async move {
        let room = Rc::new(Room::default());
        let listener = monoio::net::TcpListener::from_std(listener)?;
        monoio::spawn(deliver(Rc::clone(&room)));
        monoio::spawn(async move {
            // A listener that fails leaves the clients waiting, and the load says so.
            while let Ok((stream, _)) = listener.accept().await {
                if stream.set_nodelay(true).is_ok() {
                    join(&room, stream);
                }
            }
        });
        monoio::net::UnixStream::from_std(stop)?
            .readable(false)
            .await
    })
}

fn join(room: &Rc<Room>, stream: TcpStream) {
    let peer = Rc::new(Peer {
        outbox: RefCell::default(),
        signal: Signal::default(),
        over: std::cell::Cell::new(false),
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
    let (reader, writer) = stream.into_split();
    monoio::spawn(receive(Rc::clone(room), Rc::clone(&peer), slot, reader));
    monoio::spawn(send(peer, writer));
}

async fn receive(room: Rc<Room>, peer: Rc<Peer>, slot: u32, mut reader: TcpOwnedReadHalf) {
    let mut session = Session::default();
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let (outcome, bytes) = reader.read(buffer).await;
        buffer = bytes;
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

async fn send(peer: Rc<Peer>, mut writer: TcpOwnedWriteHalf) {
    while !peer.over.get() {
        peer.signal.raised().await;
        loop {
            let Some(buffer) = peer.outbox.borrow().whole() else {
                break;
            };
            let (outcome, buffer) = writer.write_all(buffer).await;
            if outcome.is_err() {
                return;
            }
            peer.outbox.borrow_mut().on_sent(buffer.len());
        }
    }
}

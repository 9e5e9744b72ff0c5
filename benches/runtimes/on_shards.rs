//! The bare server on the shard loop of this project: what the loop adds to a ring of one's own, without the product.

use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use loadtest::bare::{Hub, Session};
use shards::{
    Close, Closed, ConnectionId, Handler, Io, Listen, LocalBytes, Options, Peer, Placement, ShardId,
};

/// One shard, with the options that the product gives it.
///
/// Serves on `listener` until `stop` becomes readable. The shard is a thread of its own, called `shard-0`, on the core of this one.
pub(crate) fn serve(listener: &TcpListener, stop: &OwnedFd) -> io::Result<()> {
    let options = Options {
        cpus: Placement::Cpus(vec![0]),
        listen: Listen::Bound(vec![listener.try_clone()?]),
        send_buffer_bytes: 128 * 1024,
        mailbox_letters: 4096,
        ..Options::default()
    };
    let (mut control, threads) = shards::start(options, |_| Relay::default())?.into_parts();
    UnixStream::from(stop.try_clone()?).read_to_end(&mut Vec::new())?;
    control.send(ShardId(0), Stop);
    threads.join()
}

/// The only letter: leave.
struct Stop;

#[derive(Default)]
struct Relay {
    hub: Hub,
    /// By the number of their slot.
    sessions: Vec<Option<(ConnectionId, Session)>>,
}

impl Relay {
    fn forget(&mut self, id: ConnectionId) {
        let place = self.sessions.get_mut(id.index() as usize);
        if let Some((_, session)) = place.and_then(Option::take) {
            self.hub.on_end(id.index(), &session);
        }
    }
}

impl Handler for Relay {
    type Mail = Stop;

    fn on_accept(&mut self, _: &mut Io<'_, Stop>, id: ConnectionId) {
        let index = id.index() as usize;
        if index >= self.sessions.len() {
            self.sessions.resize_with(index + 1, || None);
        }
        self.sessions[index] = Some((id, Session::default()));
    }

    fn on_bytes(&mut self, io: &mut Io<'_, Stop>, id: ConnectionId, bytes: &mut [u8]) {
        let Some(Some((_, session))) = self.sessions.get_mut(id.index() as usize) else {
            return;
        };
        let mut reply = Vec::new();
        let outcome = self.hub.on_bytes(id.index(), session, bytes, &mut reply);
        if outcome.is_err() {
            self.forget(id);
            io.close(id, Close::Abort);
        } else if !reply.is_empty() {
            io.send(id, LocalBytes::from(reply));
        }
    }

    fn on_turn_end(&mut self, io: &mut Io<'_, Stop>) {
        // The hub keeps its buffer, and a shard wants one of its own: copied once per topic and turn, not per member.
        let mut last: Option<(Rc<Vec<u8>>, LocalBytes)> = None;
        let sessions = &self.sessions;
        self.hub.deliver(|slot, buffer| {
            let bytes = match &last {
                Some((known, bytes)) if Rc::ptr_eq(known, buffer) => bytes.clone(),
                _ => LocalBytes::from(buffer.to_vec()),
            };
            if let Some(Some((id, _))) = sessions.get(slot as usize) {
                io.send(*id, bytes.clone());
            }
            last = Some((Rc::clone(buffer), bytes));
        });
    }

    fn on_close(&mut self, _: &mut Io<'_, Stop>, id: ConnectionId, _: Closed) {
        self.forget(id);
    }

    fn on_mail(&mut self, io: &mut Io<'_, Stop>, _: Peer, _: Stop) {
        io.stop();
    }

    fn on_stalled(&mut self, io: &mut Io<'_, Stop>, id: ConnectionId) {
        self.forget(id);
        io.close(id, Close::Abort);
    }

    fn on_detached(&mut self, _: &mut Io<'_, Stop>, _: ConnectionId, _: OwnedFd) {}
    fn on_timer(&mut self, _: &mut Io<'_, Stop>, _: u64) {}
    fn on_visit(&mut self, _: &mut Io<'_, Stop>, _: ConnectionId) {}
}

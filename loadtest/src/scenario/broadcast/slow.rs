//! Members that do not read: what became of them.
//!
//! In: their sockets, when the load is over. Out: how many the server has closed.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::codec::{self, Opcode};
use crate::link::Link;
use crate::scenario::fanout::Board;

/// How long a socket may be silent, once all is read that was waiting, before it counts as open.
const SILENCE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 2000 });

/// How long what was waiting may take to be read.
const READING: Duration = Duration::from_secs(10);

/// A member that has joined and does not read.
pub(super) struct Slow {
    link: Rc<Link>,
    /// What came behind the answer to its join.
    received: Vec<u8>,
}

impl Slow {
    /// Stops reading a socket.
    pub(super) fn new(link: Rc<Link>, received: Vec<u8>) -> Self {
        link.ignore_answers();
        Self { link, received }
    }

    /// Whether the server has closed it: with a close frame behind what it had sent, or at once.
    async fn ends_closed(mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < READING {
            match codec::next_frame(&self.received) {
                Ok(Some(frame)) if frame.opcode != Opcode::Close => {
                    self.received.drain(..frame.end);
                    continue;
                }
                Ok(None) => {}
                _ => return true,
            }
            monoio::select! {
                more = self.link.receive_more(&mut self.received) => if more.is_err() {
                    return true;
                },
                () = monoio::time::sleep(SILENCE) => return false,
            }
        }
        false
    }
}

/// Reads what is left on each and counts those that have been closed.
pub(super) async fn count_closed(slow: Vec<Slow>, board: &Board) {
    let all: Vec<_> = slow
        .into_iter()
        .map(|one| monoio::spawn(one.ends_closed()))
        .collect();
    for one in all {
        if one.await {
            board.closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

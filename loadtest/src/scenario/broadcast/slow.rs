//! Members that do not read: what became of them.
//!
//! In: their sockets, when the load is over. Out: how many the server has closed.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::link::Link;
use crate::scenario::fanout::Board;

/// How long a socket may be silent, once all is read that was waiting, before it counts as open.
const SILENCE: Duration = Duration::from_millis(500);

/// How long what was waiting may take to be read.
const READING: Duration = Duration::from_secs(5);

/// Reads what is left on each and counts those that end.
pub(super) async fn count_closed(links: &[Rc<Link>], board: &Board) {
    let all: Vec<_> = links
        .iter()
        .map(|link| monoio::spawn(ends(Rc::clone(link))))
        .collect();
    for one in all {
        if one.await {
            board.closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a socket ends when it is read at last.
async fn ends(link: Rc<Link>) -> bool {
    let mut received = Vec::new();
    let started = Instant::now();
    while started.elapsed() < READING {
        received.clear();
        monoio::select! {
            more = link.receive_more(&mut received) => if more.is_err() {
                return true;
            },
            () = monoio::time::sleep(SILENCE) => return false,
        }
    }
    false
}

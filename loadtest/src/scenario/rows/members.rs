//! The members of one harness thread: they join, and they read rows.
//!
//! In: a [`Crowd`]. Out: [`Findings`].
//! How they read is the affair of `scenario::readers`. Always holds: a member counts as joined when the server has
//! said that rows will come.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::dialect;
use crate::link::{self, Link, Target};
use crate::scenario::fanout::{Board, Findings, Phase};
use crate::scenario::readers::{CONNECTING_MAX, Listener, Readers, Turn};
use crate::stamp::Stamp;

use super::writer::Gate;
use super::{Ask, owner_of};

/// Which members are this thread's, and what they ask for.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    pub(super) index: usize,
    pub(super) threads: usize,
    pub(super) members: usize,
    pub(super) writers: usize,
    pub(super) ask: Ask,
}

impl Crowd {
    /// Whether member `number` is to get the row with this sequence number.
    #[inline]
    fn is_for(&self, number: usize, sequence: u32) -> bool {
        !self.ask.owns() || owner_of(sequence, self.members) == number
    }
}

/// What the tasks of a thread share.
struct Desk {
    readers: Rc<Readers>,
    crowd: Crowd,
    gate: Arc<Gate>,
    /// The next member that is to connect.
    next: Cell<usize>,
}

/// Everything that a harness thread does in one run.
pub(super) async fn work(
    target: Target,
    crowd: Crowd,
    board: Arc<Board>,
    gate: Arc<Gate>,
) -> Findings {
    let desk = Rc::new(Desk {
        readers: Readers::new(target, board, crowd.index),
        gate,
        next: Cell::new(crowd.index),
        crowd,
    });
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk)));
    }
    desk.readers.until_done(async {}).await
}

/// Connects members, one after another.
async fn connect_some(desk: Rc<Desk>) {
    loop {
        let number = desk.next.get();
        if number >= desk.crowd.members {
            return;
        }
        desk.next.set(number + desk.crowd.threads);
        match desk.connect(number).await {
            Ok((link, rest)) => {
                let link = Rc::new(link);
                desk.readers.welcome(&link);
                let ear = Ear {
                    desk: Rc::clone(&desk),
                    number,
                };
                desk.readers.listen(link, rest, desk.crowd.writers, ear);
            }
            Err(problem) => desk.readers.refused(problem),
        }
    }
}

impl Desk {
    /// Connects and joins member `number`, and waits until rows will come.
    async fn connect(&self, number: usize) -> Result<(Link, Vec<u8>), String> {
        let target = &self.readers.target;
        let dialect = target.dialect;
        let topic = target.topic(self.crowd.ask.topic_of(number));
        let join = self.crowd.ask.join_of(number);
        let (link, mut rest) = link::open(target, number, &topic, &join).await?;
        let ready = async {
            if join.replication_ready {
                link.replication_ready(dialect, &mut rest).await?;
            }
            if join.changes.is_some() {
                link.subscribed(dialect, &mut rest).await?;
            }
            Ok::<_, String>(())
        };
        // Kept where the end of the run finds it, should the server never say so.
        monoio::select! {
            ready = ready => ready?,
            () = self.readers.until(Phase::Done) =>
                return Err("the server never said that rows will come".to_owned()),
        }
        Ok((link, rest))
    }
}

/// What a member is to get: rows of all writers, as far as they are for it.
struct Ear {
    desk: Rc<Desk>,
    number: usize,
}

impl Listener for Ear {
    #[inline]
    fn on_stamp(&self, stamp: Stamp, turn: &mut Turn<'_>) {
        if !self.desk.crowd.is_for(self.number, stamp.sequence) {
            return turn.misdirected();
        }
        if turn.note(Some(stamp.sender as usize), stamp.sequence) {
            turn.time(stamp.at_ns);
        }
    }

    fn is_problem(&self, text: &[u8]) -> bool {
        // The system message that a channel gets each time it is subscribed again is not one.
        self.desk.readers.target.dialect.is_bad_news(text)
            || dialect::says_changes(text) == Some(false)
            || dialect::is_change(text)
    }

    #[inline]
    fn on_counted(&self) {
        // A writer that is about to wait must see what was counted, or be seen by `open`.
        fence(Ordering::SeqCst);
        self.desk.gate.open(&self.desk.readers.board);
    }
}

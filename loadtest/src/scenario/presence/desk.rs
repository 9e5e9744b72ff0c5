//! One harness thread of the presence load: its members, its churners, its counts.
//!
//! In: the plan and the thread's number. Out: [`Findings`].
//! How members read is the affair of `scenario::readers`. Always holds: a change is written at its time by the one
//! task that has it; what a socket does not take delays the next ones, and their latency says so.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::now_ns;
use crate::dialect::{self, FIRST_JOIN_REF, Join};
use crate::link::{self, Link, Target};
use crate::scenario::fanout::{Board, Findings, Phase};
use crate::scenario::readers::{CONNECTING_MAX, Listener, Readers, Turn};
use crate::signal::{self, Alarm};
use crate::stamp::Stamp;

use super::Plan;

/// What the tasks of a thread share.
struct Desk {
    readers: Rc<Readers>,
    plan: Plan,
    topic: String,
    /// This thread's members and churners.
    authors: RefCell<Vec<Rc<Author>>>,
}

/// Somebody who has a presence.
struct Author {
    number: usize,
    link: Rc<Link>,
    /// Of the channel it is in, or was.
    join_ref: Cell<u32>,
    is_there: Cell<bool>,
    /// The sequence number of its next presence.
    next: Cell<u32>,
}

/// Everything that thread `index` of `threads` does in one run.
pub(super) async fn work(
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    index: usize,
    threads: usize,
) -> Findings {
    let all = plan.members + plan.churners;
    let desk = Rc::new(Desk {
        topic: target.topic(0),
        readers: Readers::new(target, board, index),
        plan,
        authors: RefCell::default(),
    });
    let todo: VecDeque<usize> = (index..all).step_by(threads).collect();
    let todo = Rc::new(RefCell::new(todo));
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk), Rc::clone(&todo)));
    }
    let readers = Rc::clone(&desk.readers);
    readers
        .until_done(async move {
            desk.readers.until(Phase::WarmUp).await;
            let readers = Rc::clone(&desk.readers);
            readers.task(async move { desk.change_all(threads).await });
        })
        .await
}

/// Takes members from the list and connects them, one after another.
async fn connect_some(desk: Rc<Desk>, todo: Rc<RefCell<VecDeque<usize>>>) {
    let readers = &desk.readers;
    loop {
        let Some(number) = todo.borrow_mut().pop_front() else {
            return;
        };
        let join = presence(None);
        match link::open(&readers.target, number, &desk.topic, &join).await {
            Ok((link, rest)) => {
                let link = Rc::new(link);
                desk.authors.borrow_mut().push(Rc::new(Author {
                    number,
                    link: Rc::clone(&link),
                    join_ref: Cell::new(FIRST_JOIN_REF),
                    is_there: Cell::new(true),
                    next: Cell::new(0),
                }));
                readers.welcome(&link);
                let records = if desk.is_member(number) {
                    desk.plan.members + 2 * desk.plan.churners
                } else {
                    0
                };
                let ear = Ear {
                    desk: Rc::clone(&desk),
                    stays: desk.is_member(number),
                };
                readers.listen(link, rest, records, ear);
            }
            Err(problem) => readers.refused(problem),
        }
    }
}

/// A channel that is told who is there, joined with the socket's token or with one of its own.
fn presence(access_token: Option<&str>) -> Join<'_> {
    Join {
        presence: true,
        access_token,
        ..Join::default()
    }
}

/// Turns that come at a rate.
struct Turns {
    start_ns: u64,
    gap_ns: f64,
    count: u64,
}

impl Turns {
    /// The time of the next one; never, when the rate is nothing.
    fn at_ns(&self) -> u64 {
        let passed_ns = self.count as f64 * self.gap_ns;
        self.start_ns.saturating_add(passed_ns as u64)
    }
}

impl Desk {
    fn is_member(&self, number: usize) -> bool {
        number < self.plan.members
    }

    /// Everybody says what it is, and then members and churners have their turns until the load is over.
    ///
    /// # Errors
    ///
    /// Why nobody can say anything any more.
    async fn change_all(&self, threads: usize) -> Result<(), String> {
        let mut all = self.authors.borrow().clone();
        all.sort_by_key(|author| author.number);
        let (members, churners): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|author| self.is_member(author.number));
        self.change(&members, &churners, threads).await
    }

    async fn change(
        &self,
        members: &[Rc<Author>],
        churners: &[Rc<Author>],
        threads: usize,
    ) -> Result<(), String> {
        for author in members {
            self.track(author, now_ns(), Vec::new()).await?;
        }
        // They have joined to be counted; now they come with a presence.
        for author in churners {
            author.is_there.set(false);
            author.link.leave();
            let mut frame = Vec::new();
            let dialect = self.readers.target.dialect;
            dialect.push_leave(&self.topic, author.join_ref.get(), &mut frame);
            self.send(author, &frame).await?;
        }
        let alarm = Alarm::new().map_err(|error| format!("timer: {error}"))?;
        let start_ns = now_ns();
        let turns = |rate: f64, authors: usize| Turns {
            start_ns,
            gap_ns: if authors == 0 || rate <= 0.0 {
                f64::INFINITY
            } else {
                1e9 * threads as f64 / rate
            },
            count: 1,
        };
        let mut updates = turns(self.plan.rate, members.len());
        let mut churn = turns(self.plan.churn, churners.len());
        while !self.readers.board.is_at_least(Phase::Drain) {
            let at_ns = updates.at_ns().min(churn.at_ns());
            // The end of the load is looked for while nothing is due.
            alarm
                .until(at_ns.min(now_ns() + 50_000_000))
                .await
                .map_err(|error| format!("timer: {error}"))?;
            if at_ns > now_ns() {
                continue;
            }
            if updates.at_ns() <= churn.at_ns() {
                let author = &members[updates.count as usize % members.len()];
                updates.count += 1;
                self.track(author, at_ns, Vec::new()).await?;
            } else {
                let author = &churners[churn.count as usize % churners.len()];
                churn.count += 1;
                self.come_or_go(author, at_ns).await?;
            }
            // Readers get their turn even when the times have run ahead.
            signal::yield_now().await;
        }
        Ok(())
    }

    /// Joins with a presence, or leaves.
    async fn come_or_go(&self, author: &Author, at_ns: u64) -> Result<(), String> {
        let target = &self.readers.target;
        let mut frames = Vec::new();
        if author.is_there.replace(!author.is_there.get()) {
            let join_ref = author.join_ref.get();
            target
                .dialect
                .push_leave(&self.topic, join_ref, &mut frames);
            author.link.leave();
            if !self.announce() {
                return Ok(());
            }
            self.send(author, &frames).await
        } else {
            let join_ref = author.join_ref.get() + 1;
            author.join_ref.set(join_ref);
            // That of the socket may have ended meanwhile.
            let turn = target.tokens.turn();
            let token = target.tokens.of(author.number);
            let join = presence(Some(&token));
            let dialect = target.dialect;
            dialect.push_numbered_join(&self.topic, join_ref, &join, &mut frames);
            let number = author.number;
            author.link.enter(&self.topic, join_ref, number, turn);
            self.track(author, at_ns, frames).await
        }
    }

    /// Counts one change that is about to be made; false when the load is over.
    fn announce(&self) -> bool {
        self.readers.board.announce(self.readers.index, 1)
    }

    /// Sends a new presence behind what is to be said before.
    async fn track(&self, author: &Author, at_ns: u64, mut frames: Vec<u8>) -> Result<(), String> {
        if !self.announce() {
            return Ok(());
        }
        let stamp = Stamp {
            sender: author.number as u32,
            sequence: author.next.get(),
            at_ns,
        };
        author.next.set(stamp.sequence + 1);
        let (dialect, bytes) = (self.readers.target.dialect, self.plan.payload);
        let join_ref = author.join_ref.get();
        dialect.push_track(&self.topic, join_ref, &stamp, bytes, &mut frames);
        self.send(author, &frames).await
    }

    async fn send(&self, author: &Author, frames: &[u8]) -> Result<(), String> {
        let sent = author.link.send(frames).await;
        sent.map_err(|error| format!("send: {error}"))
    }
}

/// What a member is to get: presences of everybody, and goings of churners. A churner checks nothing.
struct Ear {
    desk: Rc<Desk>,
    stays: bool,
}

impl Listener for Ear {
    fn takes(&self, payload: &[u8], turn: &mut Turn<'_>) -> bool {
        let Some((came, went)) = dialect::presence_diff(payload) else {
            return false;
        };
        if turn.checks_nothing() {
            return true;
        }
        let (members, churners) = (self.desk.plan.members, self.desk.plan.churners);
        for stamp in came {
            if turn.note(Some(stamp.sender as usize), stamp.sequence) {
                turn.time(stamp.at_ns);
            }
        }
        // A member that stays has only been something else.
        for stamp in went {
            if stamp.sender as usize >= members {
                turn.note(Some(stamp.sender as usize + churners), stamp.sequence);
            }
        }
        true
    }

    /// Who was there at a join.
    fn on_stamp(&self, _: Stamp, _: &mut Turn<'_>) {}

    fn is_problem(&self, text: &[u8]) -> bool {
        let dialect = self.desk.readers.target.dialect;
        // A channel that was left is closed as well.
        dialect.is_refusal(text) || self.stays && dialect::says_closed(text)
    }
}

//! One harness thread of the presence load: its members, its churners, its counts.
//!
//! In: the plan and the thread's number. Out: [`Findings`].
//! Always holds: the receive buffer is one for all, because a read never waits. A change is written at its
//! time by the one task that has it; what a socket does not take delays the next ones, and their latency
//! says so.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::now_ns;
use crate::dialect::{self, Join};
use crate::link::{self, Link, Target};
use crate::member::{Arrival, Reader, Record, Sink};
use crate::scenario::fanout::{Board, Findings, Phase};
use crate::signal::{self, Alarm};
use crate::stamp::Stamp;

use super::Plan;

/// Handshakes that a thread has open at once.
const CONNECTING_MAX: usize = 64;

/// Bytes taken from a socket at once.
const RECEIVE_BYTES: usize = 256 * 1024;

/// What the tasks of a thread share.
struct Desk {
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    index: usize,
    topic: String,
    /// This thread's members, then its churners, each by its number.
    authors: RefCell<Vec<Rc<Author>>>,
    tasks: Cell<usize>,
    buffer: RefCell<Vec<u8>>,
    findings: RefCell<Findings>,
    received: Cell<u64>,
    receives: Cell<u64>,
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
        target,
        plan,
        board,
        index,
        authors: RefCell::default(),
        tasks: Cell::new(0),
        buffer: RefCell::new(vec![0; RECEIVE_BYTES]),
        findings: RefCell::default(),
        received: Cell::new(0),
        receives: Cell::new(0),
    });
    let todo: VecDeque<usize> = (index..all).step_by(threads).collect();
    let todo = Rc::new(RefCell::new(todo));
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk), Rc::clone(&todo)));
    }
    let alive = monoio::spawn({
        let (one, count, over) = (Rc::clone(&desk), Rc::clone(&desk), Rc::clone(&desk));
        link::keep_alive(
            desk.target.dialect,
            move |index| one.link(index),
            move || count.authors.borrow().len(),
            move || over.board.is_at_least(Phase::Done),
        )
    });
    desk.until(Phase::WarmUp).await;
    let changes = monoio::spawn({
        let desk = Rc::clone(&desk);
        async move { desk.change_all(threads).await }
    });
    desk.until(Phase::Done).await;
    // Who still waits for a socket to take something is freed by its end.
    desk.close().await;
    changes.await;
    alive.await;
    desk.findings.take()
}

/// Takes members from the list and connects them, one after another.
async fn connect_some(desk: Rc<Desk>, todo: Rc<RefCell<VecDeque<usize>>>) {
    loop {
        let Some(number) = todo.borrow_mut().pop_front() else {
            return;
        };
        match link::open(&desk.target, number, &desk.topic, &desk.join()).await {
            Ok((link, rest)) => {
                let author = Rc::new(Author {
                    number,
                    link: Rc::new(link),
                    join_ref: Cell::new(1),
                    is_there: Cell::new(true),
                    next: Cell::new(0),
                });
                desk.authors.borrow_mut().push(Rc::clone(&author));
                desk.board.joined.fetch_add(1, Ordering::Release);
                desk.tasks.set(desk.tasks.get() + 1);
                monoio::spawn(receive(Rc::clone(&desk), author, rest));
            }
            Err(problem) => {
                desk.problem(problem);
                desk.board.refused.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Reads what one of them gets until its connection ends.
async fn receive(desk: Rc<Desk>, author: Rc<Author>, rest: Vec<u8>) {
    let mut reader = Reader::default();
    let records = if desk.is_member(author.number) {
        desk.plan.members + 2 * desk.plan.churners
    } else {
        0
    };
    let mut records = vec![Record::default(); records];
    let mut ended = desk.read(&mut reader, &mut records, &rest);
    drop(rest);
    while ended.is_ok() {
        ended = match author.link.readable().await {
            Ok(()) => desk.receive(&mut reader, &mut records, &author.link),
            Err(error) => Err(error.to_string()),
        };
    }
    desk.tasks.set(desk.tasks.get() - 1);
    if let Err(problem) = ended
        && !desk.board.is_at_least(Phase::Done)
    {
        desk.problem(problem);
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
    fn problem(&self, problem: String) {
        self.findings.borrow_mut().problems.push(problem);
    }

    async fn until(&self, phase: Phase) {
        while !self.board.is_at_least(phase) {
            monoio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn is_member(&self, number: usize) -> bool {
        number < self.plan.members
    }

    fn link(&self, index: usize) -> Option<Rc<Link>> {
        let authors = self.authors.borrow();
        authors.get(index).map(|author| Rc::clone(&author.link))
    }

    fn join(&self) -> Join<'static> {
        Join {
            presence: true,
            ..Join::default()
        }
    }

    /// Everybody says what it is, and then members and churners have their turns until the load is over.
    async fn change_all(&self, threads: usize) {
        if self.board.is_at_least(Phase::Done) {
            return;
        }
        let mut all = self.authors.borrow().clone();
        all.sort_by_key(|author| author.number);
        let (members, churners): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|author| self.is_member(author.number));
        if let Err(problem) = self.change(&members, &churners, threads).await
            && !self.board.is_at_least(Phase::Done)
        {
            self.problem(problem);
        }
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
            let mut frame = Vec::new();
            let dialect = self.target.dialect;
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
        while !self.board.is_at_least(Phase::Drain) {
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
        let dialect = self.target.dialect;
        let mut frames = Vec::new();
        if author.is_there.replace(!author.is_there.get()) {
            dialect.push_leave(&self.topic, author.join_ref.get(), &mut frames);
            if !self.board.announce(self.index, 1) {
                return Ok(());
            }
            self.send(author, &frames).await
        } else {
            author.join_ref.set(author.join_ref.get() + 1);
            let join_ref = author.join_ref.get();
            dialect.push_numbered_join(&self.topic, join_ref, &self.join(), &mut frames);
            self.track(author, at_ns, frames).await
        }
    }

    /// Sends a new presence behind what is to be said before.
    async fn track(&self, author: &Author, at_ns: u64, mut frames: Vec<u8>) -> Result<(), String> {
        if !self.board.announce(self.index, 1) {
            return Ok(());
        }
        let stamp = Stamp {
            sender: author.number as u32,
            sequence: author.next.get(),
            at_ns,
        };
        author.next.set(stamp.sequence + 1);
        let (dialect, bytes) = (self.target.dialect, self.plan.payload);
        let join_ref = author.join_ref.get();
        dialect.push_track(&self.topic, join_ref, &stamp, bytes, &mut frames);
        self.send(author, &frames).await
    }

    async fn send(&self, author: &Author, frames: &[u8]) -> Result<(), String> {
        let sent = author.link.send(frames).await;
        sent.map_err(|error| format!("send: {error}"))
    }

    /// Ends every connection and waits until the tasks on them are gone.
    async fn close(&self) {
        for author in self.authors.borrow().iter() {
            author.link.shut_down();
        }
        while self.tasks.get() > 0 {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        self.authors.borrow_mut().clear();
        // Descriptors are closed by operations of their own; this lets them be done.
        monoio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Receives once and reads what came.
    fn receive(
        &self,
        reader: &mut Reader,
        records: &mut [Record],
        link: &Link,
    ) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let kept = reader.begin(&mut buffer);
        let count = match link.receive(&mut buffer[kept..]) {
            Ok(0) => return Err("connection ended without a close frame".to_owned()),
            Ok(count) => count,
            // Nothing was there: what was kept is kept again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(format!("receive: {error}")),
        };
        self.read(reader, records, &buffer[..kept + count])
    }

    fn read(
        &self,
        reader: &mut Reader,
        records: &mut [Record],
        bytes: &[u8],
    ) -> Result<(), String> {
        let mut findings = self.findings.borrow_mut();
        let mut turn = Turn {
            desk: self,
            findings: &mut findings,
            records,
            measures: self.board.is(Phase::Measure),
            now_ns: now_ns(),
            received: 0,
        };
        let outcome = reader.read(bytes, &mut turn);
        let received = turn.received;
        if received > 0 {
            self.received.set(self.received.get() + received);
            self.receives.set(self.receives.get() + 1);
            self.board.receives[self.index].store(self.receives.get(), Ordering::Relaxed);
            self.board.received[self.index].store(self.received.get(), Ordering::Relaxed);
        }
        outcome
    }
}

/// One receive of one of them.
struct Turn<'a> {
    desk: &'a Desk,
    findings: &'a mut Findings,
    /// Presences of everybody, then goings of churners; none for a churner, which checks nothing.
    records: &'a mut [Record],
    measures: bool,
    now_ns: u64,
    received: u64,
}

impl Turn<'_> {
    /// Notes message `sequence` of the record with this number.
    fn note(&mut self, record: usize, sequence: u32) {
        let Some(record) = self.records.get_mut(record) else {
            self.findings.misdirected += 1;
            return;
        };
        match record.note(sequence) {
            Arrival::InOrder => {}
            Arrival::Late => self.findings.late += 1,
            Arrival::Duplicate => {
                self.findings.duplicates += 1;
                return;
            }
        }
        self.received += 1;
    }
}

impl Sink for Turn<'_> {
    fn takes(&mut self, payload: &[u8]) -> bool {
        let Some((came, went)) = dialect::presence_diff(payload) else {
            if self.desk.target.dialect.is_refusal(payload) {
                let text = String::from_utf8_lossy(payload).into_owned();
                let problem = format!("the server said: {text}");
                self.findings.problems.push(problem);
            }
            return true;
        };
        if self.records.is_empty() {
            return true;
        }
        let (members, churners) = (self.desk.plan.members, self.desk.plan.churners);
        for stamp in came {
            let before = self.received;
            self.note(stamp.sender as usize, stamp.sequence);
            if self.measures && self.received > before {
                let took_ns = self.now_ns.saturating_sub(stamp.at_ns).max(1);
                let slot = self.findings.slot(&self.desk.board, self.now_ns);
                slot.saturating_record(took_ns);
            }
        }
        // A member that stays has only been something else.
        for stamp in went {
            if stamp.sender as usize >= members {
                self.note(stamp.sender as usize + churners, stamp.sequence);
            }
        }
        true
    }

    fn on_stamp(&mut self, _: Stamp) {}

    fn on_text(&mut self, _: &[u8]) {}

    fn on_ping(&mut self, _: &[u8]) {
        let problem = "the server sent a ping, which it is not expected to".to_owned();
        self.findings.problems.push(problem);
    }
}

//! What a harness thread has whose members read: their sockets, one buffer for all of them, what it found.
//!
//! In: the sockets of members that have joined, and for each a [`Listener`] that knows what it is to get. Out: [`Findings`].
//! Always holds: what the tasks of a thread share is touched between two awaits only; the receive buffer is one for all members,
//! because a read never waits.
//! Deliberately absent: who sends, and what is asked for at a join; that is the scenario's own affair.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::alive::{self, Crowd};
use crate::clock::now_ns;
use crate::dialect;
use crate::link::{Link, Target};
use crate::member::{Arrival, Reader, Record, Sink};
use crate::stamp::Stamp;

use super::fanout::{Board, Findings, Phase};

/// Handshakes that a thread has open at once.
pub(super) const CONNECTING_MAX: usize = 64;

/// Bytes taken from a socket at once.
pub(super) const RECEIVE_BYTES: usize = 256 * 1024;

/// What the tasks of a thread share.
pub(super) struct Readers {
    pub(super) target: Target,
    pub(super) board: Arc<Board>,
    /// The thread's number.
    pub(super) index: usize,
    links: RefCell<Vec<Rc<Link>>>,
    tasks: Cell<usize>,
    buffer: RefCell<Vec<u8>>,
    findings: RefCell<Findings>,
    received: Cell<u64>,
    receives: Cell<u64>,
}

/// What one member is to get.
pub(super) trait Listener: 'static {
    /// Looks at a data frame before anybody searches it for a stamp; true when that was all.
    #[inline]
    fn takes(&self, payload: &[u8], turn: &mut Turn<'_>) -> bool {
        let _ = (payload, turn);
        false
    }

    /// A message has come.
    fn on_stamp(&self, stamp: Stamp, turn: &mut Turn<'_>);

    /// Whether a text frame says something that should not be said.
    fn is_problem(&self, text: &[u8]) -> bool;

    /// All is counted that came at once, and it was not nothing.
    #[inline]
    fn on_counted(&self) {}
}

impl Readers {
    /// Those of thread `index`, nobody yet.
    pub(super) fn new(target: Target, board: Arc<Board>, index: usize) -> Rc<Self> {
        Rc::new(Self {
            target,
            board,
            index,
            links: RefCell::default(),
            tasks: Cell::new(0),
            buffer: RefCell::new(vec![0; RECEIVE_BYTES]),
            findings: RefCell::default(),
            received: Cell::new(0),
            receives: Cell::new(0),
        })
    }

    pub(super) fn findings(&self) -> RefMut<'_, Findings> {
        self.findings.borrow_mut()
    }

    pub(super) fn problem(&self, problem: String) {
        self.findings().problems.push(problem);
    }

    pub(super) async fn until(&self, phase: Phase) {
        while !self.board.is_at_least(phase) {
            monoio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has somebody joined.
    pub(super) fn welcome(&self, link: &Rc<Link>) {
        self.links.borrow_mut().push(Rc::clone(link));
        self.board.joined.fetch_add(1, Ordering::Release);
    }

    /// Somebody has not.
    pub(super) fn refused(&self, problem: String) {
        self.problem(problem);
        self.board.refused.fetch_add(1, Ordering::Release);
    }

    /// A task whose end is waited for, and whose error is a problem unless the run is over.
    pub(super) fn task(self: &Rc<Self>, work: impl Future<Output = Result<(), String>> + 'static) {
        let readers = Rc::clone(self);
        self.tasks.set(self.tasks.get() + 1);
        monoio::spawn(async move {
            let ended = work.await;
            readers.tasks.set(readers.tasks.get() - 1);
            if let Err(problem) = ended
                && !readers.board.is_at_least(Phase::Done)
            {
                readers.problem(problem);
            }
        });
    }

    /// Reads what one member gets until its connection ends; it keeps a record of as many senders.
    pub(super) fn listen(
        self: &Rc<Self>,
        link: Rc<Link>,
        rest: Vec<u8>,
        records: usize,
        listener: impl Listener,
    ) {
        let readers = Rc::clone(self);
        self.task(async move {
            let mut member = Member {
                link,
                listener,
                reader: Reader::default(),
                records: vec![Record::default(); records],
            };
            let mut ended = readers.read(&mut member, &rest);
            drop(rest);
            while ended.is_ok() {
                ended = match member.link.readable().await {
                    Ok(()) => readers.receive(&mut member),
                    Err(error) => Err(error.to_string()),
                };
            }
            if !readers.board.is_at_least(Phase::Done) {
                readers.findings().closed += 1;
            }
            ended
        });
    }

    /// Receives once and reads what came.
    #[inline]
    fn receive(&self, member: &mut Member<impl Listener>) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let kept = member.reader.begin(&mut buffer);
        let count = match member.link.receive(&mut buffer[kept..]) {
            Ok(0) => return Err("connection ended without a close frame".to_owned()),
            Ok(count) => count,
            // Nothing was there: what was kept is kept again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(format!("receive: {error}")),
        };
        self.read(member, &buffer[..kept + count])
    }

    #[inline]
    fn read<L: Listener>(&self, member: &mut Member<L>, bytes: &[u8]) -> Result<(), String> {
        let mut findings = self.findings.borrow_mut();
        let mut ears = Ears {
            listener: &member.listener,
            link: &member.link,
            turn: Turn {
                readers: self,
                findings: &mut findings,
                records: &mut member.records,
                measures: self.board.is(Phase::Measure),
                now_ns: now_ns(),
                received: 0,
            },
        };
        let outcome = member.reader.read(bytes, &mut ears);
        let received = ears.turn.received;
        if received > 0 {
            self.received.set(self.received.get() + received);
            self.receives.set(self.receives.get() + 1);
            self.board.receives[self.index].store(self.receives.get(), Ordering::Relaxed);
            self.board.received[self.index].store(self.received.get(), Ordering::Release);
            member.listener.on_counted();
        }
        outcome
    }

    /// Ends every connection and waits until the tasks on them are gone.
    async fn close(&self) {
        let links = self.links.take();
        for link in &links {
            self.findings().unanswered += u64::from(link.is_overdue());
            link.shut_down();
        }
        while self.tasks.get() > 0 {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(links);
        // Descriptors are closed by operations of their own; this lets them be done.
        monoio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Keeps everybody where they are until the run is done, and says what was found.
    pub(super) async fn until_done(self: &Rc<Self>, last: impl Future<Output = ()>) -> Findings {
        let readers = Rc::clone(self);
        let alive = monoio::spawn(async move { alive::keep(&readers.target, &*readers).await });
        last.await;
        self.until(Phase::Done).await;
        // Who still waits for a socket to take something is freed by its end.
        self.close().await;
        let kept = alive.await;
        let mut findings = self.findings.take();
        findings.renewed += kept.renewed;
        findings.unanswered += kept.unanswered;
        findings
    }
}

impl Crowd for Readers {
    fn link(&self, index: usize) -> Option<Rc<Link>> {
        self.links.borrow().get(index).cloned()
    }

    fn count(&self) -> usize {
        self.links.borrow().len()
    }

    fn is_over(&self) -> bool {
        self.board.is_at_least(Phase::Done)
    }
}

/// A member, as far as it reads.
struct Member<L> {
    link: Rc<Link>,
    listener: L,
    reader: Reader,
    records: Vec<Record>,
}

/// One receive of one member.
pub(super) struct Turn<'a> {
    readers: &'a Readers,
    findings: &'a mut Findings,
    records: &'a mut [Record],
    measures: bool,
    now_ns: u64,
    received: u64,
}

impl Turn<'_> {
    /// Whether this member keeps no records: it checks nothing.
    pub(super) const fn checks_nothing(&self) -> bool {
        self.records.is_empty()
    }

    /// Notes message `sequence` of the sender with this record; false when it has come before, or when there is no such sender.
    #[inline]
    pub(super) fn note(&mut self, record: Option<usize>, sequence: u32) -> bool {
        let Some(record) = record.and_then(|index| self.records.get_mut(index)) else {
            self.findings.misdirected += 1;
            return false;
        };
        match record.note(sequence) {
            Arrival::InOrder => {}
            Arrival::Late => self.findings.late += 1,
            Arrival::Duplicate => {
                self.findings.duplicates += 1;
                return false;
            }
        }
        self.received += 1;
        true
    }

    /// Takes the time of a message that was due at `at_ns`, if the load is measured.
    #[inline]
    pub(super) fn time(&mut self, at_ns: u64) {
        if self.measures {
            self.findings
                .slot(&self.readers.board, self.now_ns)
                .saturating_record(self.now_ns.saturating_sub(at_ns).max(1));
        }
    }

    /// A message that this member should not have got.
    pub(super) const fn misdirected(&mut self) {
        self.findings.misdirected += 1;
    }

    fn said(&mut self, text: &[u8]) {
        self.findings.closed += u64::from(dialect::says_closed(text));
        let text = String::from_utf8_lossy(text);
        self.findings
            .problems
            .push(format!("the server said: {text}"));
    }
}

/// A member's ears for one receive.
struct Ears<'a, L> {
    listener: &'a L,
    link: &'a Link,
    turn: Turn<'a>,
}

impl<L: Listener> Sink for Ears<'_, L> {
    #[inline]
    fn takes(&mut self, payload: &[u8]) -> bool {
        self.listener.takes(payload, &mut self.turn)
    }

    #[inline]
    fn on_stamp(&mut self, stamp: Stamp) {
        self.listener.on_stamp(stamp, &mut self.turn);
    }

    fn on_text(&mut self, text: &[u8]) {
        if self.turn.readers.target.dialect.is_heartbeat_reply(text) {
            self.link.answered();
        }
        if self.listener.is_problem(text) {
            self.turn.said(text);
        }
    }

    fn on_ping(&mut self, _: &[u8]) {
        let problem = "the server sent a ping, which it is not expected to".to_owned();
        self.turn.findings.problems.push(problem);
    }

    fn on_pong(&mut self) {
        self.link.answered();
    }
}

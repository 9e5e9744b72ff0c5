//! The members of one harness thread: they join, and they read rows.
//!
//! In: a [`Crowd`]. Out: [`Findings`].
//! Always holds: the receive buffer is one for all members, because a read never waits. A member
//! counts as joined when the server has said that rows will come.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::now_ns;
use crate::dialect::{self, Answer};
use crate::link::{self, Link, Target};
use crate::member::{Arrival, Reader, Record, Sink};
use crate::scenario::fanout::{Board, Findings, Phase};
use crate::stamp::Stamp;

use super::writer::Gate;
use super::{Ask, owner_of};

/// Handshakes that a thread has open at once.
const CONNECTING_MAX: usize = 64;

/// Bytes taken from a socket at once.
const RECEIVE_BYTES: usize = 256 * 1024;

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
    target: Target,
    crowd: Crowd,
    board: Arc<Board>,
    gate: Arc<Gate>,
    /// The next member that is to connect.
    next: Cell<usize>,
    links: RefCell<Vec<Rc<Link>>>,
    tasks: Cell<usize>,
    buffer: RefCell<Vec<u8>>,
    findings: RefCell<Findings>,
    received: Cell<u64>,
    receives: Cell<u64>,
}

/// What a member knows.
struct Member {
    number: usize,
    reader: Reader,
    /// One for each writer.
    records: Vec<Record>,
}

/// Everything that a harness thread does in one run.
pub(super) async fn work(
    target: Target,
    crowd: Crowd,
    board: Arc<Board>,
    gate: Arc<Gate>,
) -> Findings {
    let desk = Rc::new(Desk {
        target,
        board,
        gate,
        next: Cell::new(crowd.index),
        crowd,
        links: RefCell::new(Vec::new()),
        tasks: Cell::new(0),
        buffer: RefCell::new(vec![0; RECEIVE_BYTES]),
        findings: RefCell::new(Findings::default()),
        received: Cell::new(0),
        receives: Cell::new(0),
    });
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk)));
    }
    let alive = monoio::spawn({
        let (one, all, board) = (Rc::clone(&desk), Rc::clone(&desk), Rc::clone(&desk));
        link::keep_alive(
            desk.target.dialect,
            move |index| one.links.borrow().get(index).cloned(),
            move || all.links.borrow().len(),
            move || board.board.is_at_least(Phase::Done),
        )
    });
    while !desk.board.is_at_least(Phase::Done) {
        monoio::time::sleep(Duration::from_millis(10)).await;
    }
    for link in desk.links.borrow().iter() {
        link.shut_down();
    }
    while desk.tasks.get() > 0 {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
    desk.links.borrow_mut().clear();
    alive.await;
    // Descriptors are closed by operations of their own; this lets them be done.
    monoio::time::sleep(Duration::from_millis(20)).await;
    desk.findings.take()
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
                desk.links.borrow_mut().push(Rc::clone(&link));
                desk.tasks.set(desk.tasks.get() + 1);
                desk.board.joined.fetch_add(1, Ordering::Release);
                monoio::spawn(receive(Rc::clone(&desk), number, link, rest));
            }
            Err(problem) => {
                desk.problem(problem);
                desk.board.refused.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Reads what one member gets until its connection ends.
async fn receive(desk: Rc<Desk>, number: usize, link: Rc<Link>, rest: Vec<u8>) {
    let mut member = Member {
        number,
        reader: Reader::default(),
        records: vec![Record::default(); desk.crowd.writers],
    };
    let mut ended = desk.read(&mut member, &rest);
    drop(rest);
    while ended.is_ok() {
        ended = match link.readable().await {
            Ok(()) => desk.receive(&mut member, &link),
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

impl Desk {
    fn problem(&self, problem: String) {
        self.findings.borrow_mut().problems.push(problem);
    }

    /// Connects and joins member `number`, and waits until rows will come.
    async fn connect(&self, number: usize) -> Result<(Link, Vec<u8>), String> {
        let dialect = self.target.dialect;
        let topic = self.target.topic(self.crowd.ask.topic_of(number));
        let join = self.crowd.ask.join_of(number);
        let (link, mut rest) = link::open(&self.target, number, &topic, &join).await?;
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
        let done = async {
            while !self.board.is_at_least(Phase::Done) {
                monoio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        monoio::select! {
            ready = ready => ready?,
            () = done => return Err("the server never said that rows will come".to_owned()),
        }
        Ok((link, rest))
    }

    /// Receives once and reads what came.
    #[inline]
    fn receive(&self, member: &mut Member, link: &Link) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let kept = member.reader.begin(&mut buffer);
        let count = match link.receive(&mut buffer[kept..]) {
            Ok(0) => return Err("connection ended without a close frame".to_owned()),
            Ok(count) => count,
            // Nothing was there: what was kept is kept again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(format!("receive: {error}")),
        };
        self.read(member, &buffer[..kept + count])
    }

    #[inline]
    fn read(&self, member: &mut Member, bytes: &[u8]) -> Result<(), String> {
        let mut findings = self.findings.borrow_mut();
        let mut turn = Turn {
            desk: self,
            findings: &mut findings,
            number: member.number,
            records: &mut member.records,
            measures: self.board.is(Phase::Measure),
            now_ns: now_ns(),
            received: 0,
        };
        let outcome = member.reader.read(bytes, &mut turn);
        let received = turn.received;
        if received > 0 {
            self.received.set(self.received.get() + received);
            self.receives.set(self.receives.get() + 1);
            let index = self.crowd.index;
            self.board.receives[index].store(self.receives.get(), Ordering::Relaxed);
            // A writer that is about to wait must see this, or be seen by `open`.
            self.board.received[index].store(self.received.get(), Ordering::SeqCst);
            self.gate.open(&self.board);
        }
        outcome
    }
}

/// One receive of one member.
struct Turn<'a> {
    desk: &'a Desk,
    findings: &'a mut Findings,
    number: usize,
    records: &'a mut [Record],
    measures: bool,
    now_ns: u64,
    received: u64,
}

impl Turn<'_> {
    fn record(&mut self, since_ns: u64) {
        self.findings
            .slot(&self.desk.board, self.now_ns)
            .saturating_record(self.now_ns.saturating_sub(since_ns).max(1));
    }
}

impl Sink for Turn<'_> {
    #[inline]
    fn on_stamp(&mut self, stamp: Stamp) {
        let Some(record) = self.records.get_mut(stamp.sender as usize) else {
            self.findings.misdirected += 1;
            return;
        };
        if !self.desk.crowd.is_for(self.number, stamp.sequence) {
            self.findings.misdirected += 1;
            return;
        }
        match record.note(stamp.sequence) {
            Arrival::InOrder => {}
            Arrival::Late => self.findings.late += 1,
            Arrival::Duplicate => {
                self.findings.duplicates += 1;
                return;
            }
        }
        self.received += 1;
        if self.measures {
            self.record(stamp.at_ns);
        }
    }

    fn on_text(&mut self, text: &[u8]) {
        // The system message that a channel gets each time it is subscribed again is not one.
        let is_problem = self.desk.target.dialect.answer(text) == Answer::Refused
            || dialect::says_changes(text) == Some(false)
            || dialect::is_change(text);
        if is_problem {
            let text = String::from_utf8_lossy(text).into_owned();
            let problem = format!("the server said: {text}");
            self.findings.problems.push(problem);
        }
    }

    fn on_ping(&mut self, _: &[u8]) {
        let problem = "the server sent a ping, which it is not expected to".to_owned();
        self.findings.problems.push(problem);
    }
}

//! One harness thread of the broadcast load: its members, its senders, its counts.
//!
//! In: the plan and the thread's number. Out: [`Findings`].
//! Always holds: what the tasks of a thread share is touched between two awaits only; the receive
//! buffer is one for all members, because a read never waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rest::{self, Door};
use super::{Plan, Via, slow};
use crate::clock::now_ns;
use crate::dialect::{self, Answer, Join};
use crate::link::{self, Link, Target};
use crate::member::{Arrival, Reader, Record, Sink};
use crate::scenario::fanout::{Board, Findings, Phase};
use crate::signal::{self, Alarm, Signal};
use crate::stamp::Stamp;

/// Handshakes that a thread has open at once.
const CONNECTING_MAX: usize = 64;

/// Bytes taken from a socket at once.
const RECEIVE_BYTES: usize = 256 * 1024;

/// Messages that a sender may be behind its times before they are dropped and counted.
const DUE_MAX: usize = 65_536;

/// Bytes of messages that are written at once.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// What the tasks of a thread share.
struct Desk {
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    index: usize,
    /// By sender number; those of other threads are absent.
    senders: Vec<Option<Rc<Sender>>>,
    links: RefCell<Vec<Rc<Link>>>,
    /// Connections for requests.
    doors: RefCell<Vec<Rc<Link>>>,
    /// Those of members that do not read.
    slow: RefCell<Vec<Rc<Link>>>,
    tasks: Cell<usize>,
    buffer: RefCell<Vec<u8>>,
    findings: RefCell<Findings>,
    received: Cell<u64>,
    receives: Cell<u64>,
    sent: Cell<u64>,
}

/// A member that sends.
struct Sender {
    id: u32,
    topic: String,
    /// Members of its topic on this thread: all of them have to have a message before it is done.
    members_here: u32,
    next: Cell<u32>,
    /// Closed loop: messages that may be sent now.
    credits: Cell<usize>,
    /// Closed loop: how many members have each outstanding message, by its number modulo the size.
    arrivals: RefCell<Vec<u32>>,
    /// Open loop: the times of messages that are due.
    due: RefCell<VecDeque<u64>>,
    signal: Signal,
}

impl Sender {
    /// One more member has message `sequence`; the last one makes room for another message.
    #[inline]
    fn on_arrival(&self, sequence: u32) {
        let mut arrivals = self.arrivals.borrow_mut();
        let index = sequence as usize & (arrivals.len() - 1);
        let count = &mut arrivals[index];
        *count += 1;
        if *count == self.members_here {
            *count = 0;
            self.credits.set(self.credits.get() + 1);
            self.signal.raise();
        }
    }
}

/// The thread that member `member` of `topic` belongs to.
fn thread_of(topic: usize, member: usize, plan: &Plan, threads: usize) -> usize {
    if plan.topics >= threads {
        topic % threads
    } else {
        member % threads
    }
}

/// Everything that thread `index` of `threads` does in one run.
pub(super) async fn work(
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    index: usize,
    threads: usize,
) -> Findings {
    let mine: Vec<(usize, usize)> = (0..plan.topics)
        .flat_map(|topic| (0..plan.members).map(move |member| (topic, member)))
        .filter(|(topic, member)| thread_of(*topic, *member, &plan, threads) == index)
        .collect();
    let desk = Rc::new(Desk {
        senders: senders(&target, &plan, &mine),
        target,
        plan,
        board,
        index,
        links: RefCell::new(Vec::new()),
        doors: RefCell::new(Vec::new()),
        slow: RefCell::new(Vec::new()),
        tasks: Cell::new(0),
        buffer: RefCell::new(vec![0; RECEIVE_BYTES]),
        findings: RefCell::default(),
        received: Cell::new(0),
        receives: Cell::new(0),
        sent: Cell::new(0),
    });
    let todo = Rc::new(RefCell::new(VecDeque::from(mine)));
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk), Rc::clone(&todo)));
    }
    let alive = monoio::spawn({
        let (one, all, over) = (Rc::clone(&desk), Rc::clone(&desk), Rc::clone(&desk));
        link::keep_alive(
            desk.target.dialect,
            move |index| one.links.borrow().get(index).cloned(),
            move || all.links.borrow().len(),
            move || over.board.is_at_least(Phase::Done),
        )
    });
    desk.until(Phase::WarmUp).await;
    let pacer = desk
        .plan
        .rate
        .map(|rate| monoio::spawn(pace(Rc::clone(&desk), rate)));
    desk.until(Phase::Drain).await;
    if let Some(pacer) = pacer {
        pacer.await;
    }
    desk.until(Phase::Done).await;
    slow::count_closed(&desk.slow.take(), &desk.board).await;
    desk.close().await;
    alive.await;
    desk.findings.take()
}

/// The senders among `mine`, by sender number. The first members of a topic are its senders.
fn senders(target: &Target, plan: &Plan, mine: &[(usize, usize)]) -> Vec<Option<Rc<Sender>>> {
    let mut members_here = vec![0; plan.topics];
    for (topic, _) in mine.iter().filter(|(_, member)| plan.reads(*member)) {
        members_here[*topic] += 1;
    }
    let outstanding = plan.outstanding.div_ceil(plan.senders.max(1)).max(1);
    let mut senders = vec![None; plan.topics * plan.senders];
    for &(topic, member) in mine.iter().filter(|(_, member)| *member < plan.senders) {
        let id = topic * plan.senders + member;
        senders[id] = Some(Rc::new(Sender {
            id: id as u32,
            topic: target.topic(topic),
            members_here: members_here[topic],
            next: Cell::new(0),
            credits: Cell::new(if plan.rate.is_none() { outstanding } else { 0 }),
            arrivals: RefCell::new(vec![0; outstanding.next_power_of_two()]),
            due: RefCell::new(VecDeque::new()),
            signal: Signal::default(),
        }));
    }
    senders
}

/// Takes members from the list and connects them, one after another.
async fn connect_some(desk: Rc<Desk>, todo: Rc<RefCell<VecDeque<(usize, usize)>>>) {
    loop {
        let Some((topic, member)) = todo.borrow_mut().pop_front() else {
            return;
        };
        let name = desk.target.topic(topic);
        let number = topic * desk.plan.members + member;
        let sends = member < desk.plan.senders;
        let join = Join {
            own: sends,
            private: desk.plan.private,
            ..Join::default()
        };
        match link::open(&desk.target, number, &name, &join).await {
            Ok((link, rest)) => {
                let link = Rc::new(link);
                desk.links.borrow_mut().push(Rc::clone(&link));
                if sends {
                    let sender = desk.senders[topic * desk.plan.senders + member].clone();
                    let sender = sender.expect("a sender's thread is its member's");
                    desk.tasks.set(desk.tasks.get() + 1);
                    monoio::spawn(send(Rc::clone(&desk), sender, Rc::clone(&link)));
                }
                desk.board.joined.fetch_add(1, Ordering::Release);
                if desk.plan.reads(member) {
                    desk.tasks.set(desk.tasks.get() + 1);
                    monoio::spawn(receive(Rc::clone(&desk), topic, link, rest));
                } else if let Err(error) = link.keep_little() {
                    desk.problem(format!("a slow reader: {error}"));
                } else {
                    desk.slow.borrow_mut().push(link);
                }
            }
            Err(problem) => {
                desk.problem(problem);
                desk.board.refused.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Reads what one member gets until its connection ends.
async fn receive(desk: Rc<Desk>, topic: usize, link: Rc<Link>, rest: Vec<u8>) {
    let mut reader = Reader::default();
    let mut records = vec![Record::default(); desk.plan.senders];
    let mut ended = if rest.is_empty() {
        Ok(())
    } else {
        desk.read(topic, &mut reader, &mut records, &rest)
    };
    while ended.is_ok() {
        ended = match link.readable().await {
            Ok(()) => desk.receive(topic, &mut reader, &mut records, &link),
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

/// Sends what a sender may or must until the load ends.
async fn send(desk: Rc<Desk>, sender: Rc<Sender>, link: Rc<Link>) {
    desk.until(Phase::WarmUp).await;
    let sent = match desk.plan.via {
        Via::Socket => send_all(&desk, &sender, &link)
            .await
            .map_err(|error| format!("send: {error}")),
        Via::Rest => post_all(&desk, &sender).await,
    };
    if let Err(problem) = sent
        && !desk.board.is_at_least(Phase::Done)
    {
        desk.problem(problem);
    }
    desk.tasks.set(desk.tasks.get() - 1);
}

async fn send_all(desk: &Desk, sender: &Sender, link: &Link) -> std::io::Result<()> {
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    if sender.credits.get() > 0 {
        sender.signal.raise();
    }
    loop {
        sender.signal.raised().await;
        while !desk.board.is_at_least(Phase::Drain) {
            out.clear();
            let count = desk.write_messages(sender, &mut scratch, &mut out);
            if count == 0 {
                break;
            }
            desk.sent.set(desk.sent.get() + count);
            desk.board.sent[desk.index].store(desk.sent.get(), Ordering::Relaxed);
            link.send(&out).await?;
        }
        if desk.board.is_at_least(Phase::Drain) {
            return Ok(());
        }
    }
}

/// The same by requests, each with as many messages as are due.
async fn post_all(desk: &Desk, sender: &Sender) -> Result<(), String> {
    let mut door = Door::open(&desk.target, sender.id as usize).await?;
    desk.doors.borrow_mut().push(door.link());
    let topic = dialect::topic_in_database(&sender.topic);
    if sender.credits.get() > 0 {
        sender.signal.raise();
    }
    loop {
        sender.signal.raised().await;
        while !desk.board.is_at_least(Phase::Drain) {
            let now = now_ns();
            let stamps = std::iter::from_fn(|| desk.next_stamp(sender, now));
            let stamps: Vec<Stamp> = stamps.take(rest::MESSAGES_MAX).collect();
            if stamps.is_empty() {
                break;
            }
            desk.sent.set(desk.sent.get() + stamps.len() as u64);
            desk.board.sent[desk.index].store(desk.sent.get(), Ordering::Relaxed);
            let body = rest::body(topic, &stamps, desk.plan.payload, desk.plan.private);
            door.post(&body).await?;
        }
        if desk.board.is_at_least(Phase::Drain) {
            return Ok(());
        }
    }
}

/// Makes messages due at their times, the senders of this thread in turn.
async fn pace(desk: Rc<Desk>, rate: f64) {
    let senders: Vec<Rc<Sender>> = desk.senders.iter().flatten().cloned().collect();
    if senders.is_empty() {
        return;
    }
    let mine = rate * senders.len() as f64 / desk.senders.len() as f64;
    let gap_ns = 1e9 / mine;
    let alarm = match Alarm::new() {
        Ok(alarm) => alarm,
        Err(error) => return desk.problem(format!("timer: {error}")),
    };
    let start_ns = now_ns();
    let mut turn: u64 = 0;
    while !desk.board.is_at_least(Phase::Drain) {
        let at_ns = start_ns + (turn as f64 * gap_ns) as u64;
        if at_ns > now_ns()
            && let Err(error) = alarm.until(at_ns).await
        {
            return desk.problem(format!("timer: {error}"));
        }
        let now = now_ns();
        loop {
            let at_ns = start_ns + (turn as f64 * gap_ns) as u64;
            if at_ns > now {
                break;
            }
            let sender = &senders[(turn % senders.len() as u64) as usize];
            let mut due = sender.due.borrow_mut();
            if due.len() < DUE_MAX {
                due.push_back(at_ns);
            } else {
                desk.findings.borrow_mut().not_sent += 1;
            }
            sender.signal.raise();
            turn += 1;
        }
        // The senders and the members get their turn even when the times have run ahead.
        signal::yield_now().await;
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

    /// Ends every connection and waits until the tasks on them are gone.
    async fn close(&self) {
        for link in self.links.borrow().iter().chain(self.doors.borrow().iter()) {
            link.shut_down();
        }
        for sender in self.senders.iter().flatten() {
            sender.signal.raise();
        }
        while self.tasks.get() > 0 {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        self.links.borrow_mut().clear();
        // Descriptors are closed by operations of their own; this lets them be done.
        monoio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Receives once and reads what came.
    #[inline]
    fn receive(
        &self,
        topic: usize,
        reader: &mut Reader,
        records: &mut [Record],
        link: &Link,
    ) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let kept = reader.begin(&mut buffer);
        match link.receive(&mut buffer[kept..]) {
            Ok(0) => Err("connection ended without a close frame".to_owned()),
            Ok(count) => self.read(topic, reader, records, &buffer[..kept + count]),
            // Nothing was there: what was kept is kept again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.read(topic, reader, records, &buffer[..kept])
            }
            Err(error) => Err(format!("receive: {error}")),
        }
    }

    #[inline]
    fn read(
        &self,
        topic: usize,
        reader: &mut Reader,
        records: &mut [Record],
        bytes: &[u8],
    ) -> Result<(), String> {
        let mut findings = self.findings.borrow_mut();
        let mut turn = Turn {
            desk: self,
            topic,
            records,
            findings: &mut findings,
            measures: self.board.is(Phase::Measure),
            now_ns: now_ns(),
            received: 0,
        };
        let outcome = reader.read(bytes, &mut turn);
        let received = turn.received;
        drop(findings);
        self.received.set(self.received.get() + received);
        self.receives
            .set(self.receives.get() + u64::from(received > 0));
        self.board.receives[self.index].store(self.receives.get(), Ordering::Relaxed);
        self.board.received[self.index].store(self.received.get(), Ordering::Relaxed);
        outcome
    }

    /// The next message that `sender` may or must send now.
    fn next_stamp(&self, sender: &Sender, now_ns: u64) -> Option<Stamp> {
        let at_ns = if self.plan.rate.is_some() {
            sender.due.borrow_mut().pop_front()?
        } else {
            sender.credits.set(sender.credits.get().checked_sub(1)?);
            now_ns
        };
        let sequence = sender.next.get();
        sender.next.set(sequence + 1);
        Some(Stamp {
            sender: sender.id,
            sequence,
            at_ns,
        })
    }

    /// Writes the messages that `sender` may send now, up to a bound; says how many.
    fn write_messages(&self, sender: &Sender, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> u64 {
        let mut count = 0;
        let now = now_ns();
        while out.len() < WRITE_BYTES_MAX {
            let Some(stamp) = self.next_stamp(sender, now) else {
                break;
            };
            let (dialect, bytes) = (self.target.dialect, self.plan.payload);
            dialect.push_message(&sender.topic, &stamp, bytes, scratch, out);
            count += 1;
        }
        count
    }
}

/// One receive of one member.
struct Turn<'a> {
    desk: &'a Desk,
    topic: usize,
    records: &'a mut [Record],
    findings: &'a mut Findings,
    measures: bool,
    now_ns: u64,
    received: u64,
}

impl Sink for Turn<'_> {
    #[inline]
    fn on_stamp(&mut self, stamp: Stamp) {
        let desk = self.desk;
        let first = self.topic * desk.plan.senders;
        let Some(record) = (stamp.sender as usize)
            .checked_sub(first)
            .and_then(|index| self.records.get_mut(index))
        else {
            self.findings.misdirected += 1;
            return;
        };
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
            self.findings
                .slot(&desk.board, self.now_ns)
                .saturating_record(self.now_ns.saturating_sub(stamp.at_ns).max(1));
        }
        if desk.plan.rate.is_none()
            && let Some(sender) = &desk.senders[stamp.sender as usize]
        {
            sender.on_arrival(stamp.sequence);
        }
    }

    fn on_text(&mut self, text: &[u8]) {
        if self.desk.target.dialect.answer(text) == Answer::Refused {
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

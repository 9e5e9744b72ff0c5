//! One harness thread of the broadcast load: its members, its senders, its counts.
//!
//! In: the plan and the thread's number. Out: [`Findings`].
//! How members read is the affair of `scenario::readers`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rest::{self, Door};
use super::{Plan, Via, slow};
use crate::clock::now_ns;
use crate::dialect::{self, Join};
use crate::link::{self, Link, Target};
use crate::scenario::fanout::{Board, Findings, Phase};
use crate::scenario::readers::{CONNECTING_MAX, Listener, Readers, Turn};
use crate::signal::{self, Alarm, Signal};
use crate::stamp::Stamp;

/// Messages that a sender may be behind its times before they are dropped and counted.
const DUE_MAX: usize = 65_536;

/// Bytes of messages that are written at once.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// What the tasks of a thread share.
struct Desk {
    readers: Rc<Readers>,
    plan: Plan,
    /// By sender number; those of other threads are absent.
    senders: Vec<Option<Rc<Sender>>>,
    /// Connections for requests.
    doors: RefCell<Vec<Rc<Link>>>,
    /// Those of members that do not read.
    slow: RefCell<Vec<Rc<Link>>>,
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
        readers: Readers::new(target, board, index),
        plan,
        doors: RefCell::default(),
        slow: RefCell::default(),
        sent: Cell::new(0),
    });
    let todo = Rc::new(RefCell::new(VecDeque::from(mine)));
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk), Rc::clone(&todo)));
    }
    let readers = Rc::clone(&desk.readers);
    readers
        .until_done(async move {
            desk.readers.until(Phase::WarmUp).await;
            if let Some(rate) = desk.plan.rate {
                pace(&desk, rate).await;
            }
            desk.readers.until(Phase::Done).await;
            slow::count_closed(&desk.slow.take(), &desk.readers.board).await;
            desk.stop_sending();
        })
        .await
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
        let name = desk.readers.target.topic(topic);
        let number = topic * desk.plan.members + member;
        let join = Join {
            own: member < desk.plan.senders,
            private: desk.plan.private,
            ..Join::default()
        };
        match link::open(&desk.readers.target, number, &name, &join).await {
            Ok((link, rest)) => desk.joined(topic, member, Rc::new(link), rest),
            Err(problem) => desk.readers.refused(problem),
        }
    }
}

/// Sends what a sender may or must until the load ends.
///
/// # Errors
///
/// Why nothing can be sent any more.
async fn send(desk: Rc<Desk>, sender: Rc<Sender>, link: Rc<Link>) -> Result<(), String> {
    desk.readers.until(Phase::WarmUp).await;
    match desk.plan.via {
        Via::Socket => send_all(&desk, &sender, &link)
            .await
            .map_err(|error| format!("send: {error}")),
        Via::Rest => post_all(&desk, &sender).await,
    }
}

async fn send_all(desk: &Desk, sender: &Sender, link: &Link) -> std::io::Result<()> {
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    if sender.credits.get() > 0 {
        sender.signal.raise();
    }
    loop {
        sender.signal.raised().await;
        while !desk.is_over() {
            out.clear();
            let count = desk.write_messages(sender, &mut scratch, &mut out);
            if count == 0 {
                break;
            }
            desk.count_sent(count);
            link.send(&out).await?;
        }
        if desk.is_over() {
            return Ok(());
        }
    }
}

/// The same by requests, each with as many messages as are due.
async fn post_all(desk: &Desk, sender: &Sender) -> Result<(), String> {
    let mut door = Door::open(&desk.readers.target, sender.id as usize).await?;
    desk.doors.borrow_mut().push(door.link());
    let topic = dialect::topic_in_database(&sender.topic);
    if sender.credits.get() > 0 {
        sender.signal.raise();
    }
    loop {
        sender.signal.raised().await;
        while !desk.is_over() {
            let now = now_ns();
            let stamps = std::iter::from_fn(|| desk.next_stamp(sender, now));
            let stamps: Vec<Stamp> = stamps.take(rest::MESSAGES_MAX).collect();
            if stamps.is_empty() {
                break;
            }
            desk.count_sent(stamps.len() as u64);
            let body = rest::body(topic, &stamps, desk.plan.payload, desk.plan.private);
            door.post(&desk.readers.target, &body).await?;
        }
        if desk.is_over() {
            return Ok(());
        }
    }
}

/// Makes messages due at their times, the senders of this thread in turn.
async fn pace(desk: &Desk, rate: f64) {
    let senders: Vec<Rc<Sender>> = desk.senders.iter().flatten().cloned().collect();
    if senders.is_empty() {
        return;
    }
    let mine = rate * senders.len() as f64 / desk.senders.len() as f64;
    let gap_ns = 1e9 / mine;
    let alarm = match Alarm::new() {
        Ok(alarm) => alarm,
        Err(error) => return desk.readers.problem(format!("timer: {error}")),
    };
    let start_ns = now_ns();
    let mut turn: u64 = 0;
    while !desk.is_over() {
        let at_ns = start_ns + (turn as f64 * gap_ns) as u64;
        if at_ns > now_ns()
            && let Err(error) = alarm.until(at_ns).await
        {
            return desk.readers.problem(format!("timer: {error}"));
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
                desk.readers.findings().not_sent += 1;
            }
            sender.signal.raise();
            turn += 1;
        }
        // The senders and the members get their turn even when the times have run ahead.
        signal::yield_now().await;
    }
}

impl Desk {
    /// Gives a member that has joined what it has to do.
    fn joined(self: &Rc<Self>, topic: usize, member: usize, link: Rc<Link>, rest: Vec<u8>) {
        let readers = &self.readers;
        if member < self.plan.senders {
            let sender = self.senders[topic * self.plan.senders + member].clone();
            let sender = sender.expect("a sender's thread is its member's");
            readers.task(send(Rc::clone(self), sender, Rc::clone(&link)));
        }
        readers.welcome(&link);
        if self.plan.reads(member) {
            let desk = Rc::clone(self);
            readers.listen(link, rest, self.plan.senders, Ear { desk, topic });
        } else if let Err(error) = link.keep_little() {
            readers.problem(format!("a slow reader: {error}"));
        } else {
            self.slow.borrow_mut().push(link);
        }
    }

    /// Whether nothing is to be sent any more.
    fn is_over(&self) -> bool {
        self.readers.board.is_at_least(Phase::Drain)
    }

    fn count_sent(&self, count: u64) {
        self.sent.set(self.sent.get() + count);
        let sent = &self.readers.board.sent[self.readers.index];
        sent.store(self.sent.get(), Ordering::Relaxed);
    }

    /// Frees whoever waits for something to send, or for the answer to a request.
    fn stop_sending(&self) {
        for door in self.doors.borrow().iter() {
            door.shut_down();
        }
        for sender in self.senders.iter().flatten() {
            sender.signal.raise();
        }
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
            let (dialect, bytes) = (self.readers.target.dialect, self.plan.payload);
            dialect.push_message(&sender.topic, &stamp, bytes, scratch, out);
            count += 1;
        }
        count
    }
}

/// What a member of a topic is to get: the messages of its senders.
struct Ear {
    desk: Rc<Desk>,
    topic: usize,
}

impl Listener for Ear {
    #[inline]
    fn on_stamp(&self, stamp: Stamp, turn: &mut Turn<'_>) {
        let plan = &self.desk.plan;
        let record = (stamp.sender as usize).checked_sub(self.topic * plan.senders);
        if !turn.note(record, stamp.sequence) {
            return;
        }
        turn.time(stamp.at_ns);
        if plan.rate.is_none()
            && let Some(sender) = &self.desk.senders[stamp.sender as usize]
        {
            sender.on_arrival(stamp.sequence);
        }
    }

    fn is_problem(&self, text: &[u8]) -> bool {
        self.desk.readers.target.dialect.is_bad_news(text)
    }
}

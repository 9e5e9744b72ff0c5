//! A child process that holds connections.
//!
//! In: one [`Order`] and then one word a line. Out: one [`Said`] for the order and for each word.
//! It sends heartbeats, as a client must, except while the parent watches an idle server.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::dialect::{Dialect, Join};
use crate::link::{self, Link, Pace, Target};
use crate::member::{Reader, Sink};
use crate::probe;
use crate::scenario::threads;
use crate::settings::{self, Vsn};
use crate::stamp::Stamp;

/// The word on the command line that makes this program a child.
pub const COMMAND: &str = "connections-child";

/// Handshakes that a child has open at once.
const CONNECTING_MAX: usize = 64;

/// A server closes a connection that says nothing for a minute.
const HEARTBEAT_NS: u64 = 20_000_000_000;

/// What the parent wants from one child.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Order {
    /// See [`settings::Settings`].
    pub target: String,
    /// See [`settings::Settings`].
    pub host: String,
    /// See [`settings::Settings`].
    pub token: Option<String>,
    /// See [`settings::Settings`].
    pub secret: String,
    /// See [`settings::Settings`].
    pub tokens: usize,
    /// This child's part of it.
    pub opens_per_second: Option<f64>,
    /// See [`settings::Settings`].
    pub vsn: Vsn,
    /// The number of the first connection.
    pub first: usize,
    /// How many there are.
    pub count: usize,
    /// All on one topic.
    pub shared_topic: bool,
    /// A bare server.
    pub bare: bool,
    /// The core to run on.
    pub cpu: usize,
}

/// What a child says of its connections.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Said {
    /// Joined at first.
    pub joined: usize,
    /// Never joined.
    pub refused: usize,
    /// Ended since.
    pub lost: usize,
    /// That received the message.
    pub received: usize,
    /// The longest that one took.
    pub latency_ns_max: u64,
    /// Reasons, the first few.
    pub problems: Vec<String>,
}

/// What the tasks of a child share.
struct Desk {
    order: Order,
    target: Target,
    links: RefCell<Vec<Rc<Link>>>,
    said: RefCell<Said>,
    idle: Cell<bool>,
    heartbeat_ns: Cell<u64>,
    buffer: RefCell<Vec<u8>>,
}

/// Runs a child until its input ends.
///
/// # Errors
///
/// When the order cannot be read or the core cannot be had.
pub fn run() -> io::Result<()> {
    probe::raise_open_files()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let dialect = match (order.bare, order.vsn) {
        (true, _) => Dialect::Bare,
        (false, Vsn::V1) => Dialect::V1,
        (false, Vsn::V2) => Dialect::V2,
    };
    let target = settings::target_of(
        &order.target,
        &order.host,
        order.token.as_deref(),
        &order.secret,
        order.tokens,
        dialect,
    )
    .map_err(io::Error::other)?;
    let opens = order.opens_per_second.map(Pace::per_second).map(Arc::new);
    let target = Target { opens, ..target };
    let (sender, words) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    threads::block_on(order.cpu, move || work(order, target, words))?
}

async fn work(order: Order, target: Target, words: Receiver<String>) -> io::Result<()> {
    let todo: VecDeque<usize> = (order.first..order.first + order.count).collect();
    let desk = Rc::new(Desk {
        order,
        target,
        links: RefCell::default(),
        said: RefCell::default(),
        idle: Cell::new(false),
        heartbeat_ns: Cell::new(now_ns()),
        buffer: RefCell::new(vec![0; 64 * 1024]),
    });
    let todo = Rc::new(RefCell::new(todo));
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk), Rc::clone(&todo)));
    }
    while desk.answered() < desk.order.count {
        desk.beat().await;
        monoio::time::sleep(Duration::from_millis(20)).await;
    }
    desk.say()?;
    loop {
        match words.try_recv() {
            Ok(word) => {
                desk.obey(&word).await;
                desk.say()?;
                if word == "end" {
                    return Ok(());
                }
            }
            Err(TryRecvError::Empty) => {
                desk.beat().await;
                monoio::time::sleep(Duration::from_millis(20)).await;
            }
            // The parent is gone.
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

async fn connect_some(desk: Rc<Desk>, todo: Rc<RefCell<VecDeque<usize>>>) {
    loop {
        let Some(number) = todo.borrow_mut().pop_front() else {
            return;
        };
        let topic = desk.topic(number);
        let join = Join {
            own: true,
            ..Join::default()
        };
        match link::open(&desk.target, number, &topic, &join).await {
            Ok((link, rest)) => {
                let link = Rc::new(link);
                desk.links.borrow_mut().push(Rc::clone(&link));
                desk.said.borrow_mut().joined += 1;
                monoio::spawn(receive(Rc::clone(&desk), link, rest));
            }
            Err(problem) => {
                desk.problem(problem);
                desk.said.borrow_mut().refused += 1;
            }
        }
    }
}

/// Reads what one connection gets until it ends.
async fn receive(desk: Rc<Desk>, link: Rc<Link>, rest: Vec<u8>) {
    let mut reader = Reader::default();
    let mut ended = reader.read(&rest, &mut Arrivals(&desk));
    drop(rest);
    while ended.is_ok() {
        ended = match link.readable().await {
            Ok(()) => desk.receive(&mut reader, &link),
            Err(error) => Err(error.to_string()),
        };
    }
    desk.said.borrow_mut().lost += 1;
    if let Err(problem) = ended {
        desk.problem(problem);
    }
}

impl Desk {
    fn topic(&self, number: usize) -> String {
        let index = if self.order.shared_topic { 0 } else { number };
        self.target.topic(index)
    }

    fn answered(&self) -> usize {
        let said = self.said.borrow();
        said.joined + said.refused
    }

    fn problem(&self, problem: String) {
        let problems = &mut self.said.borrow_mut().problems;
        if problems.len() < 5 {
            problems.push(problem);
        }
    }

    fn say(&self) -> io::Result<()> {
        let line = serde_json::to_string(&*self.said.borrow())?;
        self.said.borrow_mut().problems.clear();
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    fn receive(&self, reader: &mut Reader, link: &Link) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let kept = reader.begin(&mut buffer);
        let count = match link.receive(&mut buffer[kept..]) {
            Ok(0) => return Err("connection ended without a close frame".to_owned()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(format!("receive: {error}")),
        };
        reader.read(&buffer[..kept + count], &mut Arrivals(self))
    }

    /// Sends a heartbeat on every connection when it is time.
    async fn beat(&self) {
        if self.idle.get() || now_ns() - self.heartbeat_ns.get() < HEARTBEAT_NS {
            return;
        }
        self.beat_now().await;
    }

    async fn beat_now(&self) {
        self.heartbeat_ns.set(now_ns());
        let links: Vec<Rc<Link>> = self.links.borrow().clone();
        let mut frame = Vec::new();
        self.target.dialect.push_heartbeat(5, &mut frame);
        for link in links {
            // One that has ended is counted where it is read.
            let _ = link.send(&frame).await;
        }
    }

    async fn obey(&self, word: &str) {
        match word {
            "idle" => {
                // All are heard of now, and then not for as long as the parent watches.
                self.beat_now().await;
                monoio::time::sleep(Duration::from_secs(1)).await;
                self.idle.set(true);
            }
            "send" => {
                self.idle.set(false);
                let link = self.links.borrow().first().cloned();
                let stamp = Stamp {
                    sender: 0,
                    sequence: 0,
                    at_ns: now_ns(),
                };
                let (mut scratch, mut out) = (Vec::new(), Vec::new());
                let topic = self.topic(self.order.first);
                let dialect = self.target.dialect;
                dialect.push_message(&topic, &stamp, 100, &mut scratch, &mut out);
                match link {
                    Some(link) => {
                        if let Err(error) = link.send(&out).await {
                            self.problem(format!("send: {error}"));
                        }
                    }
                    None => self.problem("no connection to send on".to_owned()),
                }
            }
            _ => {}
        }
    }
}

/// Counts the message.
struct Arrivals<'a>(&'a Desk);

impl Sink for Arrivals<'_> {
    fn on_stamp(&mut self, stamp: Stamp) {
        let mut said = self.0.said.borrow_mut();
        said.received += 1;
        said.latency_ns_max = said
            .latency_ns_max
            .max(now_ns().saturating_sub(stamp.at_ns));
    }

    fn on_text(&mut self, _: &[u8]) {}

    fn on_ping(&mut self, _: &[u8]) {}
}

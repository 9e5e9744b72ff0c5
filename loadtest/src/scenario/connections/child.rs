//! A child process that holds connections.
//!
//! In: one [`Order`] and then one word a line. Out: one [`Said`] for the order and for each word.
//! It sends heartbeats, as a client must, except while the parent watches an idle server.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::alive::{self, Crowd};
use crate::clock::now_ns;
use crate::dialect::{self, Dialect, Join};
use crate::link::{self, Link, Pace, Target};
use crate::member::{Arrival, Reader, Record, Sink};
use crate::probe;
use crate::scenario::readers::{CONNECTING_MAX, RECEIVE_BYTES};
use crate::scenario::threads;
use crate::settings::Place;
use crate::stamp::Stamp;

/// The word on the command line that makes this program a child.
pub const COMMAND: &str = "connections-child";

/// The last word of a parent.
pub(super) const END: &str = "end";

/// How often a child looks whether there is a word.
const LOOK: Duration = Duration::from_millis(20);

/// What the parent wants from one child.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Order {
    /// Where to connect.
    pub place: Place,
    /// Sockets that this child may open per second.
    pub opens_per_second: Option<f64>,
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
    /// How often one received it again.
    pub duplicates: u64,
    /// The longest that one took.
    pub latency_ns_max: u64,
    /// Channels that the server has ended.
    pub closed: usize,
    /// Heartbeats that were not answered.
    pub unanswered: u64,
    /// Tokens that were renewed.
    pub renewed: u64,
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
    over: Cell<bool>,
    buffer: RefCell<Vec<u8>>,
}

/// Runs a child until its input ends.
///
/// # Errors
///
/// When the order cannot be read or the core cannot be had.
pub fn run() -> io::Result<()> {
    probe::raise_open_files()?;
    serve(io::stdin(), io::stdout())
}

/// The same with any input and output.
///
/// # Errors
///
/// As [`run`].
pub(super) fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + 'static,
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut line = String::new();
    input.read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let mut target = order.place.target().map_err(io::Error::other)?;
    target.opens = order.opens_per_second.map(Pace::per_second).map(Arc::new);
    if order.bare {
        target.dialect = Dialect::Bare;
    }
    let (sender, words) = mpsc::channel();
    std::thread::spawn(move || {
        for line in input.lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    threads::block_on(order.cpu, move || work(order, target, words, output))?
}

async fn work(
    order: Order,
    target: Target,
    words: Receiver<String>,
    mut output: impl Write,
) -> io::Result<()> {
    let todo: VecDeque<usize> = (order.first..order.first + order.count).collect();
    let desk = Rc::new(Desk {
        order,
        target,
        links: RefCell::default(),
        said: RefCell::default(),
        idle: Cell::new(false),
        over: Cell::new(false),
        buffer: RefCell::new(vec![0; RECEIVE_BYTES]),
    });
    let todo = Rc::new(RefCell::new(todo));
    for _ in 0..CONNECTING_MAX {
        monoio::spawn(connect_some(Rc::clone(&desk), Rc::clone(&todo)));
    }
    let alive = monoio::spawn({
        let desk = Rc::clone(&desk);
        async move { alive::keep(&desk.target, &*desk).await }
    });
    while desk.answered() < desk.order.count {
        monoio::time::sleep(LOOK).await;
    }
    desk.say(&mut output)?;
    loop {
        match words.try_recv() {
            Ok(word) if word == END => {
                desk.over.set(true);
                let kept = alive.await;
                desk.end(kept);
                return desk.say(&mut output);
            }
            Ok(word) => {
                desk.obey(&word).await;
                desk.say(&mut output)?;
            }
            Err(TryRecvError::Empty) => monoio::time::sleep(LOOK).await,
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
    let mut ears = Ears {
        desk: &desk,
        link: &link,
        record: Record::default(),
    };
    let mut ended = reader.read(&rest, &mut ears);
    drop(rest);
    while ended.is_ok() {
        ended = match link.readable().await {
            Ok(()) => desk.receive(&mut reader, &mut ears),
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

    fn say(&self, output: &mut impl Write) -> io::Result<()> {
        let line = serde_json::to_string(&*self.said.borrow())?;
        self.said.borrow_mut().problems.clear();
        writeln!(output, "{line}")?;
        output.flush()
    }

    /// Notes what keeping everybody alive has shown.
    fn end(&self, kept: alive::Kept) {
        let links = self.links.borrow();
        let overdue = links.iter().filter(|link| link.is_overdue()).count();
        let mut said = self.said.borrow_mut();
        said.renewed = kept.renewed;
        said.unanswered += kept.unanswered + overdue as u64;
    }

    fn receive(&self, reader: &mut Reader, ears: &mut Ears<'_>) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let kept = reader.begin(&mut buffer);
        let count = match ears.link.receive(&mut buffer[kept..]) {
            Ok(0) => return Err("connection ended without a close frame".to_owned()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(format!("receive: {error}")),
        };
        reader.read(&buffer[..kept + count], ears)
    }

    /// Sends a heartbeat on every connection at once.
    async fn beat(&self) {
        let links: Vec<Rc<Link>> = self.links.borrow().clone();
        let mut frame = Vec::new();
        self.target.dialect.push_heartbeat(5, &mut frame);
        for link in links {
            let late = link.beat(&frame, self.target.heartbeat / 2).await;
            self.said.borrow_mut().unanswered += u64::from(late);
        }
    }

    async fn obey(&self, word: &str) {
        match word {
            "idle" => {
                // All are heard of now, and then not for as long as the parent watches.
                self.beat().await;
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

impl Crowd for Desk {
    fn link(&self, index: usize) -> Option<Rc<Link>> {
        self.links.borrow().get(index).cloned()
    }

    fn count(&self) -> usize {
        self.links.borrow().len()
    }

    fn is_over(&self) -> bool {
        self.over.get()
    }

    fn rests(&self) -> bool {
        self.idle.get()
    }
}

/// Counts the message, and what should not be said.
struct Ears<'a> {
    desk: &'a Desk,
    link: &'a Link,
    record: Record,
}

impl Sink for Ears<'_> {
    fn on_stamp(&mut self, stamp: Stamp) {
        let mut said = self.desk.said.borrow_mut();
        if self.record.note(stamp.sequence) == Arrival::Duplicate {
            said.duplicates += 1;
            return;
        }
        said.received += 1;
        said.latency_ns_max = said
            .latency_ns_max
            .max(now_ns().saturating_sub(stamp.at_ns));
    }

    fn on_text(&mut self, text: &[u8]) {
        let dialect = self.desk.target.dialect;
        if dialect.is_heartbeat_reply(text) {
            self.link.answered();
        }
        if dialect.is_bad_news(text) {
            let closed = usize::from(dialect::says_closed(text));
            self.desk.said.borrow_mut().closed += closed;
            let text = String::from_utf8_lossy(text);
            self.desk.problem(format!("the server said: {text}"));
        }
    }

    fn on_ping(&mut self, _: &[u8]) {}

    fn on_pong(&mut self) {
        self.link.answered();
    }
}

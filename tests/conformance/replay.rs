//! Plays a recording against the server: sends what was sent, when it was sent, and compares what comes back.
//!
//! A recorded line is sent at its time, but not before what preceded it has arrived (or is given up): the recorder waited
//! for answers too. What arrives must be the next recorded event of its lane (`compare::lane`), at about its time. Whatever
//! was not recorded is a failure, and so is a recorded event that never comes; silence is compared by this as well.
//!
//! Each recording has tenants of its own, so that recordings can be played at the same time and never hear each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::clock;
use crate::compare::{self, Pairs};
use crate::postgres::Database;
use crate::server::Server;
use crate::socket::{self, Event, Writer};
use crate::transcript::{Line, Transcript, What};

/// An event may come so much earlier than it was recorded: tokens and timers start at any fraction of their second.
const EARLY_MS: u64 = 1300;

/// … and so much later: the machine is busy.
const LATE_MS: u64 = 30_000;

/// How long a line waits for what should have come before it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same once something has not come.
const PATIENCE_LATER: Duration = Duration::from_millis(500);

/// Refused upgrades are answered after this time; their recorded moment is that of the answer.
const REFUSAL_MS: u64 = 2000;

/// What a connection's thread saw.
struct Seen {
    conn: String,
    event: Event,
    at: Instant,
}

/// Plays `transcript`; the error lists every difference, one a line.
pub fn play(
    server: &Server,
    transcript: &Transcript,
    host_of: &dyn Fn(&str) -> String,
    database: Option<&Database>,
) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    let mut player = Player {
        server,
        host_of,
        database,
        start: clock::now(),
        drift_ms: 0,
        last_played: 0,
        sender,
        receiver,
        writers: BTreeMap::new(),
        closing: BTreeSet::new(),
        book: Book::new(transcript),
    };
    for line in &transcript.lines {
        if !matches!(line.what, What::Receive(_)) {
            player.wait_for(line);
            player.play(line);
        }
    }
    player.finish(transcript)
}

struct Player<'a> {
    server: &'a Server,
    host_of: &'a dyn Fn(&str) -> String,
    /// That of the recordings' tenant with a database, when this recording needs it.
    database: Option<&'a Database>,
    start: Instant,
    /// How much later than recorded the last line was played.
    drift_ms: u64,
    /// Its number.
    last_played: usize,
    sender: Sender<Seen>,
    receiver: Receiver<Seen>,
    writers: BTreeMap<String, Writer>,
    /// Connections whose end is no surprise any more.
    closing: BTreeSet<String>,
    book: Book<'a>,
}

impl Player<'_> {
    /// Waits until it is time for `line`, and until everything recorded before it has come or is given up.
    fn wait_for(&mut self, line: &Line) {
        let starts_ms = match &line.what {
            What::Http {
                path,
                answer: Event::Upgrade { status: 401, .. },
                ..
            } if path.starts_with("/socket") => line.at_ms.saturating_sub(REFUSAL_MS),
            _ => line.at_ms,
        };
        let due = self.start + Duration::from_millis(starts_ms);
        self.read_until(due, |_| false);
        // What a request causes may have been recorded before its answer, which is when its line was written.
        let before = match line.what {
            What::Http { .. } => self.last_played,
            _ => line.number,
        };
        // A reply answers its own connection's message, never a request.
        // One thing that does not come is most often followed by others: they are not waited for as long.
        let patience = if self.book.failures.is_empty() {
            PATIENCE
        } else {
            PATIENCE_LATER
        };
        self.read_until(clock::now() + patience, |book| {
            !book.awaits_before(before) && !book.awaits_reply_before(line.number)
        });
        self.book.give_up_before(before);
        self.last_played = line.number;
        self.drift_ms = self.elapsed_ms(clock::now()).saturating_sub(starts_ms);
    }

    /// Takes what arrives until `deadline`, or until `done` says so.
    fn read_until(&mut self, deadline: Instant, done: impl Fn(&Book<'_>) -> bool) {
        while !done(&self.book) {
            let left = clock::left(deadline);
            match self.receiver.recv_timeout(left) {
                Ok(seen) => self.take(seen),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, seen: Seen) {
        let at_ms = self.elapsed_ms(seen.at);
        match &seen.event {
            Event::Close { .. } => {
                self.closing.insert(seen.conn.clone());
            }
            Event::Upgrade { status, .. } if *status != 101 => {
                self.closing.insert(seen.conn.clone());
            }
            // After a close frame, a refusal or our own reset the connection has to end.
            Event::End if self.closing.contains(&seen.conn) => return,
            _ => {}
        }
        self.book
            .check(&seen.conn, &seen.event, at_ms, self.drift_ms);
    }

    fn elapsed_ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis())
            .expect("tests are short")
    }

    fn play(&mut self, line: &Line) {
        if let Err(error) = self.try_play(line) {
            self.book
                .failures
                .push(format!("line {}: cannot be played: {error}", line.number));
        }
    }

    fn try_play(&mut self, line: &Line) -> std::io::Result<()> {
        match &line.what {
            What::Upgrade {
                path,
                host,
                headers,
            } => {
                let mut writer = Writer::connect(self.server.address)?;
                let (sender, conn) = (self.sender.clone(), line.conn.clone());
                writer.read_into(move |event| {
                    let (conn, at) = (conn.clone(), clock::now());
                    sender.send(Seen { conn, event, at }).is_ok()
                });
                writer.upgrade(path, &(self.host_of)(host), headers)?;
                self.writers.insert(line.conn.clone(), writer);
                Ok(())
            }
            What::SendText(text) => self.writer(line)?.text(text),
            What::SendBinary(bytes) => self.writer(line)?.binary(bytes),
            What::SendClose(code) => self.writer(line)?.close(*code),
            What::Abort => {
                self.closing.insert(line.conn.clone());
                // The recorder's own note of its reset.
                self.book.drop_end(&line.conn);
                self.writers.remove(&line.conn).ok_or_else(gone)?.abort();
                Ok(())
            }
            What::Http {
                method,
                path,
                headers,
                body,
                answer,
            } => {
                let mut headers = headers.clone();
                if let Some(host) = headers.get_mut("host") {
                    *host = (self.host_of)(host);
                }
                let actual =
                    socket::request(self.server.address, method, path, &headers, body.as_bytes())?;
                let at_ms = self.elapsed_ms(clock::now());
                self.book
                    .check_answer(line, answer, &actual, at_ms, self.drift_ms);
                Ok(())
            }
            What::Terminate => {
                self.server.terminate();
                Ok(())
            }
            What::Sql { text, fails } => {
                let database = self
                    .database
                    .ok_or_else(|| std::io::Error::other("no database"))?;
                match database.try_sql(text) {
                    Err(error) if !fails => Err(std::io::Error::other(error)),
                    Ok(_) if *fails => Err(std::io::Error::other("the statement was accepted")),
                    _ => Ok(()),
                }
            }
            What::Receive(_) => Ok(()),
        }
    }

    fn writer(&mut self, line: &Line) -> std::io::Result<&mut Writer> {
        self.writers.get_mut(&line.conn).ok_or_else(gone)
    }

    /// Waits for what is left, and then a moment for what should not come.
    fn finish(mut self, transcript: &Transcript) -> Result<(), String> {
        let last_ms = transcript.lines.last().map_or(0, |line| line.at_ms);
        let end = self.start + Duration::from_millis(last_ms + self.drift_ms + LATE_MS);
        self.read_until(end, |book| !book.awaits_before(usize::MAX));
        self.read_until(clock::now() + Duration::from_millis(200), |_| false);
        self.book.give_up_before(usize::MAX);
        if self.book.failures.is_empty() {
            Ok(())
        } else {
            Err(self.book.failures.join("\n"))
        }
    }
}

fn gone() -> std::io::Error {
    std::io::Error::other("the connection was never opened")
}

/// What is still expected, and what went wrong.
struct Book<'a> {
    /// Unmet expectations in recorded order.
    expected: Vec<&'a Line>,
    pairs: Pairs,
    failures: Vec<String>,
}

impl<'a> Book<'a> {
    fn new(transcript: &'a Transcript) -> Self {
        let expected = transcript
            .lines
            .iter()
            .filter(|line| matches!(line.what, What::Receive(_)));
        Self {
            expected: expected.collect(),
            pairs: Pairs::default(),
            failures: Vec::new(),
        }
    }

    /// Whether something recorded before line `number` must still come.
    fn awaits_before(&self, number: usize) -> bool {
        self.expected
            .iter()
            .any(|line| line.number < number && !line.optional && !line.any_time)
            || (number == usize::MAX && self.expected.iter().any(|line| !line.optional))
    }

    /// Whether a reply recorded before line `number` must still come.
    fn awaits_reply_before(&self, number: usize) -> bool {
        let is_reply = |line: &Line| match event_of(line) {
            Event::Text(text) => text.contains("phx_reply"),
            _ => false,
        };
        let mut awaited = self.expected.iter().filter(|line| line.number < number);
        awaited.any(|line| !line.optional && !line.any_time && is_reply(line))
    }

    /// Reports what did not come in time; it is not waited for again.
    fn give_up_before(&mut self, number: usize) {
        let all = number == usize::MAX;
        let (late, rest) = std::mem::take(&mut self.expected)
            .into_iter()
            .partition::<Vec<_>, _>(|line| {
                line.number < number && (all || !(line.optional || line.any_time))
            });
        self.expected = rest;
        for line in late.into_iter().filter(|line| !line.optional) {
            self.failures.push(format!(
                "line {}: {} never got {:?}",
                line.number,
                line.conn,
                event_of(line)
            ));
        }
    }

    /// Crosses the first expectation off that `event` meets; reports it when it comes at the wrong place or time.
    fn check(&mut self, conn: &str, event: &Event, at_ms: u64, drift_ms: u64) {
        let lane = compare::lane(event);
        let in_lane: Vec<usize> = (0..self.expected.len())
            .filter(|&index| {
                self.expected[index].conn == conn
                    && compare::lane(event_of(self.expected[index])) == lane
            })
            .collect();
        let mut first_difference = None;
        for (place, &index) in in_lane.iter().enumerate() {
            let line = self.expected[index];
            match compare::events(event_of(line), event, &mut self.pairs) {
                Ok(()) => {
                    let overtaken = in_lane[..place]
                        .iter()
                        .map(|&index| self.expected[index])
                        .find(|line| !line.optional);
                    if let Some(overtaken) = overtaken {
                        let (number, before) = (line.number, overtaken.number);
                        self.failures.push(format!(
                            "line {number}: {conn} got it before line {before}: {event:?}"
                        ));
                    }
                    self.check_time(line, at_ms, drift_ms);
                    self.expected.remove(index);
                    return;
                }
                Err(difference) if first_difference.is_none() => {
                    first_difference = Some((line.number, difference))
                }
                Err(_) => {}
            }
        }
        let hint = first_difference.map_or_else(String::new, |(number, text)| {
            format!(" (line {number} differs: {text})")
        });
        self.failures.push(format!(
            "{at_ms} ms: {conn} got {event:?}, which was not recorded{hint}"
        ));
    }

    fn check_answer(
        &mut self,
        line: &Line,
        recorded: &Event,
        actual: &Event,
        at_ms: u64,
        drift_ms: u64,
    ) {
        if let Err(difference) = compare::events(recorded, actual, &mut self.pairs) {
            let request = match &line.what {
                What::Http {
                    method, path, body, ..
                } => format!("{method} {path:.60} {body:.100}"),
                _ => String::new(),
            };
            self.failures
                .push(format!("line {}: {request}: {difference}", line.number));
        }
        self.check_time(line, at_ms, drift_ms);
    }

    fn check_time(&mut self, line: &Line, at_ms: u64, drift_ms: u64) {
        let early = at_ms + EARLY_MS < line.at_ms;
        let late = at_ms > line.at_ms + LATE_MS + drift_ms;
        if (early || late) && !line.any_time {
            let (number, conn, recorded) = (line.number, &line.conn, line.at_ms);
            self.failures.push(format!(
                "line {number}: {conn} got it at {at_ms} ms instead of {recorded} ms"
            ));
        }
    }

    /// Forgets that the recorder noted the end of `conn`.
    fn drop_end(&mut self, conn: &str) {
        self.expected
            .retain(|line| line.conn != conn || *event_of(line) != Event::End);
    }
}

fn event_of(line: &Line) -> &Event {
    match &line.what {
        What::Receive(event) => event,
        // Only lines that are received are in the book; an end matches nothing else.
        _ => &Event::End,
    }
}

/// Tests of this file, for the table in `main.rs`.
pub const TESTS: &[(&str, fn())] = &[
    ("a_recorded_event_is_crossed_off", || {
        assert_eq!(
            failures(&[("A", TEXT_1, 10), ("A", TEXT_2, 20)]),
            Vec::<String>::new()
        );
    }),
    ("events_of_different_topics_may_overtake", || {
        assert_eq!(
            failures(&[("A", OTHER_TOPIC, 5), ("A", TEXT_1, 10), ("A", TEXT_2, 20)]).len(),
            0
        );
    }),
    ("an_event_that_never_comes_is_reported", || {
        assert_eq!(failures(&[("A", TEXT_1, 10)]).len(), 1);
    }),
    ("an_event_that_was_not_recorded_is_reported", || {
        assert_eq!(
            failures(&[("A", TEXT_1, 10), ("A", TEXT_2, 20), ("A", TEXT_2, 21)]).len(),
            1
        );
        assert_eq!(
            failures(&[("A", TEXT_1, 10), ("A", TEXT_2, 20), ("B", TEXT_2, 21)]).len(),
            1
        );
    }),
    (
        "events_of_one_topic_in_the_wrong_order_are_reported",
        || {
            assert_eq!(failures(&[("A", TEXT_2, 10), ("A", TEXT_1, 20)]).len(), 1);
        },
    ),
    ("an_event_at_the_wrong_time_is_reported", || {
        assert_eq!(
            failures(&[("A", TEXT_1, 10), ("A", TEXT_2, 20 + LATE_MS + 1)]).len(),
            1
        );
        let mut early = Book {
            expected: Vec::new(),
            pairs: Pairs::default(),
            failures: Vec::new(),
        };
        early.check_time(&line(1, TEXT_1, 5000), 3000, 0);
        assert_eq!(early.failures.len(), 1);
        early.check_time(&line(1, TEXT_1, 5000), 4500, 0);
        assert_eq!(early.failures.len(), 1);
    }),
];

const TEXT_1: &str = r#"["1","1","t","phx_reply",{"a":1}]"#;
const TEXT_2: &str = r#"["1","2","t","phx_reply",{"a":2}]"#;
const OTHER_TOPIC: &str = r#"["1","3","o","phx_reply",{"a":2}]"#;

fn line(number: usize, text: &str, at_ms: u64) -> Line {
    let what = What::Receive(Event::Text(text.to_owned()));
    Line {
        number,
        at_ms,
        conn: "A".to_owned(),
        what,
        any_time: false,
        optional: text == OTHER_TOPIC,
    }
}

/// What a book reports that expects the three texts at 10, 20 and 30 ms, the last one optionally.
fn failures(seen: &[(&str, &str, u64)]) -> Vec<String> {
    let lines = vec![
        line(1, TEXT_1, 10),
        line(2, TEXT_2, 20),
        line(3, OTHER_TOPIC, 30),
    ];
    let transcript = Transcript {
        case: String::new(),
        lines,
    };
    let mut book = Book::new(&transcript);
    for (conn, text, at_ms) in seen {
        book.check(conn, &Event::Text((*text).to_owned()), *at_ms, 0);
    }
    book.give_up_before(usize::MAX);
    book.failures
}

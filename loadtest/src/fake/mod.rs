//! A server for tests that knows just enough Phoenix, and can be told to do it wrong.
//!
//! In: connections of the harness. Out: joins answered, broadcasts relayed, with one kind of fault.
//! A thread reads each connection; one thread owns everything else, so that nothing is shared.

mod room;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use serde_json::Value;

use crate::dialect::Dialect;
use crate::expect::Expectations;
use crate::link::{HEARTBEAT, PATIENCE, Target};
use crate::report::Run;
use crate::settings::{Bench, Server};
use crate::tokens::{self, Tokens};

use self::room::Room;
use self::wire::Event;

/// How late an answer comes that is late.
pub(crate) const LATE: Duration = room::LATE;

/// How often the server looks at the clock.
const LOOK: Duration = Duration::from_millis(10);

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The seventh delivery is forgotten, where it was sent.
    Loses,
    /// The seventh delivery is made twice, where it was sent.
    Doubles,
    /// The first delivery is forgotten, where it was sent.
    LosesFirst,
    /// The first delivery is made twice, where it was sent.
    DoublesFirst,
    /// The seventh and eighth message change places for everybody.
    Swaps,
    /// From the seventh message on, all wait until the 27th has come.
    Stalls,
    /// Every message goes to the members of all topics.
    Mixes,
    /// Joins are refused.
    Refuses,
    /// Joins are refused from the 21st on.
    RefusesLater,
    /// The seventh message closes its sender's connection.
    Closes,
    /// The seventh message closes the connection of somebody else than its sender.
    ClosesOther,
    /// Nobody is told who left.
    Stays,
    /// It never says that rows of the database are broadcast.
    NeverReady,
    /// Every tenth join is refused.
    RefusesTenth,
    /// Every tenth join is answered twice.
    AnswersTwice,
    /// Every tenth join is answered late.
    AnswersLate,
    /// Every tenth join is not answered.
    NeverAnswers,
    /// Every tenth join is answered, and its connection ended.
    HangsUp,
    /// Heartbeats are not answered, and a channel keeps its first token.
    Forgets,
}

/// The server's database: what is written there is broadcast.
#[derive(Clone)]
pub(crate) struct Rows(Sender<(usize, Event)>);

impl Rows {
    /// Writes one row; `payload` is JSON and is printed again as PostgreSQL does.
    pub(crate) fn insert(&self, topic: &str, payload: &str) {
        let value: serde_json::Map<String, Value> = serde_json::from_str(payload).unwrap();
        let keys = value.iter().rev();
        let pairs: Vec<String> = keys
            .map(|(key, value)| format!(r#""{key}": {value}"#))
            .collect();
        let event = Event::Row {
            topic: topic.to_owned(),
            payload: format!("{{{}}}", pairs.join(", ")),
        };
        // The server lives as long as the process.
        let _ = self.0.send((usize::MAX, event));
    }

    /// Writes one row that the members of a topic are subscribed to.
    pub(crate) fn change(&self, topic: &str, payload: &str) {
        let event = Event::Change {
            topic: format!("realtime:{topic}"),
            payload: payload.to_owned(),
        };
        // The server lives as long as the process.
        let _ = self.0.send((usize::MAX, event));
    }
}

thread_local! {
    /// Whether this test has started a server that does something wrong.
    static IS_FAULTY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// How long nothing may happen in this test: where nothing is wrong, longer than a busy machine may take; where something is missing, this
/// is waited for.
pub(crate) fn stall() -> Duration {
    let is_faulty = IS_FAULTY.with(std::cell::Cell::get);
    Duration::from_millis(if is_faulty { 500 } else { 5000 })
}

/// A machine with one core, and nobody who is watched.
pub(crate) fn bench() -> Bench {
    Bench {
        cpus: vec![0],
        server: None,
    }
}

/// The same with this process as the one that is watched.
pub(crate) fn watching_bench() -> Bench {
    Bench {
        server: Some(Server {
            pid: std::process::id(),
            thread_prefix: String::new(),
        }),
        ..bench()
    }
}

/// How long a run has to last for every token of [`start_to_keep`] to end that is not renewed.
pub(crate) const TOKENS_OUTLIVED_SECONDS: f64 = 4.3;

/// Starts a server and gives the members heartbeats after 300 ms, and tokens that are good for three seconds, or up to four: they
/// end at a full one.
pub(crate) fn start_to_keep(fault: Fault) -> (Target, Rows) {
    let (mut target, rows) = start_with_rows(Dialect::V2, fault);
    target.heartbeat = Duration::from_millis(300);
    let life = Duration::from_secs(3);
    target.tokens = Tokens::signed("s", 1, life, tokens::since_1970()).unwrap();
    (target, rows)
}

/// Checks that a load keeps its members where they are, by so many new tokens at least, and notices a server that forgets them.
pub(crate) fn assert_keeps(renewed: f64, run: impl Fn(Fault) -> Run + Sync) {
    let (honest, forgetful) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| run(Fault::None));
        let forgetful = scope.spawn(|| run(Fault::Forgets));
        (honest.join().unwrap(), forgetful.join().unwrap())
    });
    assert_eq!(honest.problems, [""; 0]);
    let found = honest.value("tokens renewed").unwrap_or_default();
    assert!(found >= renewed, "{found}");
    assert_noticed(&forgetful, "Token has expired", "closed=0");
    let problem = "heartbeats were not answered";
    assert_noticed(&forgetful, problem, "unanswered heartbeats=0");
}

/// Checks that a run has a problem with these words, and that an expectation of it is not met.
#[track_caller]
pub(crate) fn assert_noticed(run: &Run, problem: &str, expected: &str) {
    let found = run.problems.iter().any(|text| text.contains(problem));
    assert!(found, "not {problem}: {:?}", run.problems);
    let expectations: Expectations = expected.parse().unwrap();
    let unmet = expectations.unmet(std::slice::from_ref(run));
    assert_eq!(unmet.len(), 1, "{expected} was met: {:?}", run.figures);
}

/// Starts a server that lives as long as the test's process, and says how to reach it.
pub(crate) fn start(dialect: Dialect, fault: Fault) -> Target {
    start_with_rows(dialect, fault).0
}

/// The same with a database.
pub(crate) fn start_with_rows(dialect: Dialect, fault: Fault) -> (Target, Rows) {
    IS_FAULTY.with(|it| it.set(fault != Fault::None));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, events) = mpsc::channel();
    let rows = Rows(sender.clone());
    std::thread::spawn(move || {
        for (id, stream) in listener.incoming().enumerate() {
            let (sender, stream) = (sender.clone(), stream.unwrap());
            // The second of two small frames would wait for the first one's acknowledgement.
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || wire::read(id, &stream, &sender));
        }
    });
    std::thread::spawn(move || {
        let mut room = Room::new(dialect, fault);
        loop {
            match events.recv_timeout(LOOK) {
                Ok((id, event)) => room.on_event(id, event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            room.on_time();
        }
    });
    (target(dialect, address, fault), rows)
}

fn target(dialect: Dialect, address: SocketAddr, fault: Fault) -> Target {
    Target {
        address,
        host: "load.localhost".to_owned(),
        path: "/socket/websocket".to_owned(),
        tokens: Tokens::given("token"),
        dialect,
        opens: None,
        first_topic: 0,
        heartbeat: HEARTBEAT,
        patience: match fault {
            Fault::NeverAnswers => Duration::from_millis(300),
            _ => PATIENCE,
        },
    }
}

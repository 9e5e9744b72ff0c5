//! The life of one tenant's broadcasting: a stream while there can be one, the table while there is none.
//!
//! What comes in: a [`Source`]. What goes out: rows, through the publisher. What always holds: a row that was committed after
//! the snapshot of `Source::ledger` is delivered once, or counted; rows of one transaction keep their order
//! (`every_committed_row_comes_once_whatever_dies`, in tests/database); while no stream runs the table is read, so that a stream that
//! cannot be had delays rows and loses none. Deliberately absent: what a row becomes.
//!
//! A slot exports a snapshot that shows everything before its first position. So starting a stream is: make the slot, deliver what
//! that snapshot shows and the ledger does not know, begin to stream.

use super::catch_up::{ReadError, Reader};
use super::ledger::Ledger;
use super::measures::Measures;
use super::publication::{self, Publication};
use super::publish::Publisher;
use super::{Source, WindowExceeded};
use crate::control::clock;
use crate::control::database::quote::literal;
use crate::control::replication::backoff::Backoff;
use crate::control::replication::stream::{Created, Format, Lifetime, Polling, Target};
use crate::control::replication::{Changes, Fault, Lsn, Session, Way};
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the names of all slots for `realtime.messages` begin with; `SLOT_NAME_SUFFIX` follows.
const SLOT_PREFIX: &str = "supabase_realtime_messages_replication_slot_";

/// How replication connections show in the database.
const APPLICATION_NAME: &str = "realtime_replication_connection";

/// How far a slot has come.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Phase {
    /// There is none.
    #[default]
    Idle,
    /// It is being made, which may take as long as the longest transaction.
    Making,
    /// It is there, and what it is not going to say is being delivered: nobody else reads the table.
    CatchingUp,
    /// It is being read.
    Streaming,
}

/// See the room's documentation.
pub struct Engine {
    pub(super) source: Source,
    pub(super) measures: Rc<Measures>,
    pub(super) publisher: Publisher,
    pub(super) ledger: Rc<RefCell<Ledger>>,
    /// The slot of the current stream, or of the next one.
    pub(super) slot: RefCell<String>,
    /// Everything before this has been said by the current stream.
    pub(super) position: Cell<Lsn>,
    /// Events of the current stream.
    pub(super) events: Cell<u64>,
    /// A row is being handed over, which may take as long as the shards need.
    pub(super) is_publishing: Cell<bool>,
    pub(super) phase: Cell<Phase>,
    /// Streaming is refused: the table is all there is.
    is_refused: Cell<bool>,
    /// Some stream has run.
    has_streamed: Cell<bool>,
    /// The database could not be reached; when it can, the next attempt is due.
    is_away: Cell<bool>,
    is_back: Notify,
    /// That the table is missing has been said.
    misses_table: Cell<bool>,
    /// What a new stream's start has left to count: with what, and which rows.
    late: RefCell<Option<(Reader, String)>>,
    /// When rows could last be delivered, by whatever way.
    served_at: Cell<Instant>,
}

impl Engine {
    /// An engine that has not started.
    pub fn new(source: Source) -> Self {
        let measures = Rc::clone(&source.measures);
        let publisher = Publisher::new(
            Arc::clone(&source.tenant),
            Rc::clone(&source.environment),
            Rc::clone(&measures),
        );
        let suffix = source.environment.config.slot_name_suffix.as_deref();
        {
            // Another session may have ended in the middle of anything.
            let mut ledger = source.ledger.borrow_mut();
            ledger.stream_ended();
            ledger.hold(false);
        }
        Self {
            ledger: Rc::clone(&source.ledger),
            slot: RefCell::new(format!("{SLOT_PREFIX}{}", suffix.unwrap_or_default())),
            position: Cell::default(),
            events: Cell::default(),
            is_publishing: Cell::default(),
            phase: Cell::default(),
            is_refused: Cell::default(),
            has_streamed: Cell::default(),
            is_away: Cell::default(),
            is_back: Notify::new(),
            misses_table: Cell::default(),
            late: RefCell::default(),
            served_at: Cell::new(clock::now()),
            measures,
            publisher,
            source,
        }
    }

    /// Broadcasts until nothing could be delivered for too long.
    pub async fn run(&self) -> WindowExceeded {
        let mut backoff =
            Backoff::new(limits::REPLICATION_PAUSE_MIN, limits::REPLICATION_PAUSE_MAX);
        let mut pause = Duration::ZERO;
        loop {
            let stream = match self.start(&mut backoff, pause).await {
                Ok(stream) => stream,
                Err(exceeded) => {
                    self.source.state.send_replace(false);
                    return exceeded;
                }
            };
            let started = clock::now();
            self.is_refused.set(false);
            self.has_streamed.set(true);
            self.misses_table.set(false);
            self.measures.streams.set(self.measures.streams.get() + 1);
            self.phase.set(Phase::Streaming);
            self.source.state.send_replace(true);
            let text = format!(
                "rows of realtime.messages are read from a slot (engine: {})",
                stream.way()
            );
            self.say(Level::Info, &text);
            let fault = self.stream(stream).await;
            self.phase.set(Phase::Idle);
            self.source.state.send_replace(false);
            self.ledger.borrow_mut().stream_ended();
            self.served_at.set(clock::now());
            pause = backoff.broke(clock::now().duration_since(started));
            self.log(
                ErrorCode::ReplicationConnectionDown,
                &format!(
                    "Replication connection has been terminated, recovery window opened: {fault}"
                ),
            );
        }
    }

    /// Runs a stream to its end.
    async fn stream(&self, changes: Changes) -> Fault {
        let pid = changes.pid();
        let late = self.late.take();
        let count = async {
            if let Some((reader, missed)) = late
                && let Err(error) = self.count_too_old(&reader, &missed).await
            {
                let text =
                    format!("rows that are too old to be broadcast were not counted: {error}");
                self.say(Level::Debug, &text);
            }
            std::future::pending().await
        };
        tokio::select! {
            fault = self.pump(changes) => fault,
            fault = self.watch(pid) => fault,
            fault = count => fault,
        }
    }

    /// Tries until there is a stream. The table is read meanwhile.
    async fn start(
        &self,
        backoff: &mut Backoff,
        pause: Duration,
    ) -> Result<Changes, WindowExceeded> {
        let mut attempts = std::pin::pin!(self.attempts(backoff, pause));
        let mut reader = None;
        let mut due = clock::now() + limits::BROADCAST_READ_INTERVAL;
        loop {
            tokio::select! {
                biased;
                stream = &mut attempts => return Ok(stream),
                () = tokio::time::sleep_until(due) => {}
            }
            // The attempt waits while the table is read: rows come from one place at a time.
            let began = clock::now();
            if self.source.pool.down_since().borrow().is_some() {
                // The pool comes back by itself, with pauses of its own.
                self.is_away.set(true);
                reader = None;
            } else if self.phase.get() != Phase::CatchingUp {
                self.read_table(&mut reader).await;
            }
            let now = clock::now();
            due = now + self.read_pause(now.duration_since(began));
            let idle = now.duration_since(self.served_at.get());
            if idle > limits::REPLICATION_RECOVERY_WINDOW {
                let ms = idle.as_millis();
                let text = format!(
                    "Replication recovery window exceeded after {ms}ms, terminating connection"
                );
                self.log(ErrorCode::ReplicationRecoveryWindowExceeded, &text);
                return Err(WindowExceeded);
            }
        }
    }

    fn read_pause(&self, took: Duration) -> Duration {
        let least = if self.is_refused.get() {
            limits::BROADCAST_POLL_INTERVAL
        } else {
            limits::BROADCAST_READ_INTERVAL
        };
        least.max(took * limits::BROADCAST_READ_PAUSE_FACTOR)
    }

    /// Delivers from the table what is missing. What fails is tried again at the next turn.
    async fn read_table(&self, reader: &mut Option<Reader>) {
        let outcome = async {
            let (open, is_first) = match reader.take() {
                Some(open) => (open, false),
                None => (Reader::open(&self.source.settings).await?, true),
            };
            let missed = is_first.then(|| self.ledger.borrow().since().missed_rows());
            open.read(&self.ledger, &self.publisher).await?;
            if let Some(missed) = missed {
                self.count_too_old(&open, &missed).await?;
            }
            Ok::<_, ReadError>(open)
        };
        match outcome.await {
            Ok(open) => {
                *reader = Some(open);
                self.served_at.set(clock::now());
                self.limit_ledger();
                if self.is_away.replace(false) {
                    self.is_back.notify_one();
                }
                if self.is_refused.get() {
                    self.source.state.send_replace(true);
                }
            }
            Err(error) => {
                if self.is_refused.get() {
                    self.source.state.send_replace(false);
                }
                self.say(
                    Level::Debug,
                    &format!("realtime.messages was not read: {error}"),
                );
            }
        }
    }

    /// Says how many rows come too late. After the others: nobody waits for it.
    async fn count_too_old(&self, reader: &Reader, missed: &str) -> Result<(), ReadError> {
        let hours = limits::BROADCAST_CATCH_UP_AGE_MAX.as_secs() / 3600;
        match reader.count_too_old(missed).await? {
            Some(0) => {}
            Some(count) => {
                self.measures
                    .too_old
                    .set(self.measures.too_old.get() + count);
                let text = format!(
                    "{count} rows of realtime.messages that no stream has said are older than {hours} h and are not broadcast"
                );
                self.say(Level::Warning, &text);
            }
            None => {
                let text = "rows of realtime.messages that are too old to be broadcast were not counted: it took too long";
                self.say(Level::Warning, text);
            }
        }
        Ok(())
    }

    /// Tries until it works.
    async fn attempts(&self, backoff: &mut Backoff, mut pause: Duration) -> Changes {
        loop {
            // A database that is back need not wait for the rest of a pause.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.is_back.notified() => {}
            }
            let mut outcome = self.attempt_once(Way::Stream).await;
            if let Err(fault @ Fault::Refused(_)) = &outcome {
                if !self.is_refused.get() {
                    self.log(fault.code(), &fault.start_text());
                }
                outcome = self.attempt_once(Way::Poll).await;
            }
            pause = match outcome {
                Ok(changes) => return changes,
                Err(fault) => {
                    self.log_failure(&fault);
                    // The database may be restarting: when it can be read again, it may be streamed from as well.
                    if matches!(fault, Fault::Broken(_)) && backoff.may_hurry() {
                        self.is_away.set(true);
                    }
                    match fault {
                        Fault::TableMissing => limits::REPLICATION_TABLE_PAUSE,
                        _ => backoff.failed(),
                    }
                }
            };
        }
    }

    async fn attempt_once(&self, way: Way) -> Result<Changes, Fault> {
        let outcome = self.attempt(way).await;
        self.ledger.borrow_mut().hold(false);
        self.phase.set(Phase::Idle);
        outcome
    }

    fn log_failure(&self, fault: &Fault) {
        match fault {
            Fault::Refused(text) | Fault::PublicationRefused(text) => {
                // Said once: it stays so until somebody gives the privilege.
                if !self.is_refused.replace(true) {
                    self.log(fault.code(), &fault.start_text());
                    let text = format!(
                        "rows of realtime.messages are read from the table every {} ms or less often (engine: table), \
                         since neither a stream nor a slot can be had as user {}: {text}",
                        limits::BROADCAST_POLL_INTERVAL.as_millis(),
                        self.source.settings.user,
                    );
                    self.say(Level::Warning, &text);
                }
            }
            Fault::Broken(text) if self.has_streamed.get() => {
                let text = format!("DB check failed during recovery: {text}");
                self.log(ErrorCode::ReplicationConnectionRecoveryFailed, &text);
            }
            Fault::TableMissing => {
                // Said once: it is looked for every second.
                if !self.misses_table.replace(true) {
                    self.log(fault.code(), &fault.start_text());
                }
            }
            other => self.log(other.code(), &other.start_text()),
        }
    }

    /// One attempt to start a stream.
    async fn attempt(&self, way: Way) -> Result<Changes, Fault> {
        let mut session = self.open_session(way).await?;
        if publication::ensure(&mut session).await? == Publication::Wrong {
            let text = format!(
                "Publication {} contains unexpected tables. Recreating...",
                publication::NAME
            );
            self.say(Level::Warning, &text);
        }
        self.ledger.borrow_mut().hold(true);
        let slot = self.slot.borrow().clone();
        let created = match self.make_watched(&mut session, &slot).await {
            Err(Fault::SlotInUse {
                is_elsewhere: true, ..
            }) => {
                // Names of slots are the whole server's: another database's tenant has the plain one.
                let row = session
                    .query("select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()")
                    .await?;
                let oid = row.first().and_then(|row| row.first()?.clone());
                let own = own_slot(&slot, &oid.unwrap_or_default());
                *self.slot.borrow_mut() = own.clone();
                session = self.open_session(way).await?;
                self.make_watched(&mut session, &own).await?
            }
            outcome => outcome?,
        };
        self.position.set(created.consistent);
        self.phase.set(Phase::CatchingUp);
        let pid = session.pid();
        tokio::select! {
            stream = self.catch_up(session, created.snapshot.as_deref()) => stream,
            fault = self.watch(pid) => Err(fault),
        }
    }

    /// Makes the slot. The database keeps its log from the first moment on, so it is watched from then on.
    async fn make_watched(&self, session: &mut Session, slot: &str) -> Result<Created, Fault> {
        self.phase.set(Phase::Making);
        let pid = session.pid();
        tokio::select! {
            created = self.make_slot(session, slot) => created,
            fault = self.watch(pid) => Err(fault),
        }
    }

    /// Delivers what the stream of a new slot will not say, and starts the stream.
    async fn catch_up(&self, session: Session, snapshot: Option<&str>) -> Result<Changes, Fault> {
        let broken = |error: ReadError| match error {
            ReadError::TableMissing => Fault::TableMissing,
            other => Fault::Broken(other.to_string()),
        };
        let reader = Reader::open(&self.source.settings).await.map_err(broken)?;
        let missed = self.ledger.borrow().since().missed_rows();
        let found = match snapshot {
            Some(snapshot) => {
                let read = reader.read_snapshot(&self.ledger, &self.publisher, snapshot);
                read.await
            }
            // What the slot is going to say as well is in the ledger then.
            None => reader.read(&self.ledger, &self.publisher).await,
        };
        let found = found.map_err(broken)?;
        self.limit_ledger();
        if found.rows > 0 {
            let text = format!(
                "{} rows of realtime.messages that no stream has said were read from the table",
                found.rows
            );
            self.say(Level::Info, &text);
        }
        let changes = session.start().await?;
        self.late.replace(Some((reader, missed)));
        Ok(changes)
    }

    async fn open_session(&self, way: Way) -> Result<Session, Fault> {
        let slot = self.slot.borrow().clone();
        let target = Target {
            settings: &self.source.settings,
            address: self.source.pool.address(),
            application_name: APPLICATION_NAME,
            slot: &slot,
            publication: publication::NAME,
            format: Format::Binary,
            polling: Polling::Once,
        };
        Session::open(way, target).await
    }

    /// Makes the slot. A process that is just ending gets a moment to give the name back; what nobody uses is dropped.
    async fn make_slot(&self, session: &mut Session, slot: &str) -> Result<Created, Fault> {
        let deadline = clock::now() + limits::REPLICATION_SLOT_RELEASE_TIMEOUT;
        loop {
            let fault = match session.create_slot(slot, Lifetime::Temporary).await {
                Err(fault @ Fault::SlotInUse { .. }) => fault,
                outcome => return outcome,
            };
            let name = literal(slot);
            let rows = session
                .query(&format!(
                    "select active, database = pg_catalog.current_database() from pg_catalog.pg_replication_slots \
                     where slot_name = {name}"
                ))
                .await?;
            let flag = |index: usize| {
                let value = rows.first()?.get(index)?.as_deref()?;
                Some(value == "t")
            };
            match (flag(0), flag(1)) {
                // Gone in between.
                (None, _) => {}
                (_, None | Some(false)) => {
                    return Err(Fault::SlotInUse {
                        slot: slot.to_owned(),
                        is_elsewhere: true,
                    });
                }
                (Some(false), Some(true)) => {
                    let sql = format!("select pg_catalog.pg_drop_replication_slot({name})");
                    session.query(&sql).await?;
                    let text =
                        format!("replication slot {slot} was there and nobody used it: dropped");
                    self.say(Level::Warning, &text);
                }
                (Some(true), Some(true)) => {
                    if clock::now() >= deadline {
                        return Err(fault);
                    }
                    tokio::time::sleep(limits::REPLICATION_SLOT_RELEASE_INTERVAL).await;
                }
            }
        }
    }

    /// Bounds what is remembered.
    pub(super) fn limit_ledger(&self) {
        let forgotten = self.ledger.borrow_mut().limit();
        if let Some(count) = forgotten {
            let text = format!(
                "{count} delivered rows of realtime.messages are forgotten: if the stream breaks now, they are delivered again"
            );
            self.say(Level::Warning, &text);
        }
    }

    /// A line with a code.
    pub(super) fn log(&self, code: ErrorCode, text: &str) {
        self.write(Line::coded(clock::unix_ms(), code, text));
    }

    /// A line without one.
    pub(super) fn say(&self, level: Level, text: &str) {
        if self.source.environment.log.is_enabled(level) {
            self.write(Line::new(clock::unix_ms(), level, text));
        }
    }

    fn write(&self, line: Line) {
        let mut line = line.of_tenant(Arc::clone(&self.source.tenant.external_id));
        line.application_name = Some(APPLICATION_NAME);
        self.source.environment.log.write(line);
    }
}
/// The name of a slot with the number of its database behind it, within the 63 bytes of PostgreSQL's names.
fn own_slot(slot: &str, oid: &str) -> String {
    const BYTES_MAX: usize = 63;
    // Made of ASCII (`SLOT_NAME_SUFFIX` is checked at start), so it can be cut anywhere.
    let kept = slot.len().min(BYTES_MAX.saturating_sub(oid.len()));
    format!("{}{oid}", &slot[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_of_a_shared_server_has_a_name_that_fits() {
        let suffix = "abcdefghijklmnopqrs";
        assert_eq!(
            own_slot(SLOT_PREFIX, "16384"),
            "supabase_realtime_messages_replication_slot_16384"
        );
        let long = own_slot(&format!("{SLOT_PREFIX}{suffix}"), "4294967295");
        assert_eq!(
            long,
            "supabase_realtime_messages_replication_slot_abcdefghi4294967295"
        );
        assert_eq!(long.len(), 63);
    }
}

//! The life of a source: slots, one after the other, and connections that read them.
//!
//! What comes in: settings. What goes out: words, into the [`Queue`]. What always holds: while a slot is ours, a connection that breaks is
//! restored on it; a slot that is ours no longer is told as a gap, if anything was promised of it. Deliberately absent: what the
//! database is asked (`scout`), whose a slot is (`claim`), when one is given up (`watch`).

use super::place::{Place, is_counted};
use super::queue::Queue;
use super::scout::Scout;
use super::{Measures, Word, slot_name};
use crate::control::changes::settings::ChangesSettings;
use crate::control::clock;
use crate::control::database::{Environment, Settings};
use crate::control::replication::backoff::Backoff;
use crate::control::replication::stream::{Format, Lifetime, Polling, Target};
use crate::control::replication::{Changes, Event, Fault, Lsn, Session, Way};
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use crate::tenant::Tenant;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How the connections that read slots show in the database.
pub(super) const APPLICATION_NAME: &str = "realtime_changes_reader";

/// What a source does just now.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Phase {
    /// Nothing is read.
    #[default]
    Idle,
    /// A slot is being made, which may take as long as the longest transaction.
    Making,
    /// It is read, in this way.
    Reading(Way),
}

/// Why a slot is no longer read.
#[derive(Debug)]
pub(super) enum Ending {
    /// The connection broke; the slot may be fine.
    Broken(Fault),
    /// The slot is to be given up.
    GivenUp(ErrorCode, String),
}

/// See the room's documentation.
pub(super) struct Life {
    pub(super) environment: Rc<Environment>,
    pub(super) tenant: Arc<Tenant>,
    settings: Rc<Settings>,
    pub(super) changes: Rc<ChangesSettings>,
    pub(super) measures: Rc<Measures>,
    pub(super) queue: Rc<Queue>,
    pub(super) scout: Scout,
    /// What the slot is called, once the database was asked for its number.
    pub(super) name: RefCell<Option<Rc<str>>>,
    /// A slot of that name was made by this source, and is still the same.
    pub(super) is_owned: Cell<bool>,
    /// Whoever takes the words was told of it.
    is_announced: Cell<bool>,
    /// Whoever takes the words knows that nothing comes.
    is_down: Cell<bool>,
    /// The database's process that reads the slot, or did last.
    pub(super) pid: Cell<Option<i32>>,
    pub(super) phase: Cell<Phase>,
    /// What was said last.
    pub(super) place: Cell<Place>,
    /// Events of the current connection.
    pub(super) events: Cell<u64>,
    /// Failures in a row to get a slot that somebody else uses.
    pub(super) in_use: Cell<u32>,
    /// The place that could not be decoded, and how often.
    stuck: Cell<(Place, u32)>,
    /// The slot is to be moved here before it is read again.
    pub(super) step_over: Cell<Option<Lsn>>,
    /// The failure that was logged last, and when.
    logged: RefCell<Option<(String, Instant)>>,
    /// That a slot may keep the whole log was said.
    pub(super) warned: Cell<bool>,
    /// That streaming is refused was said.
    is_refused: Cell<bool>,
}

impl Life {
    pub(super) fn new(
        environment: Rc<Environment>,
        tenant: Arc<Tenant>,
        settings: Rc<Settings>,
        changes: Rc<ChangesSettings>,
        measures: Rc<Measures>,
        queue: Rc<Queue>,
    ) -> Self {
        Self {
            environment,
            tenant,
            scout: Scout::new(Rc::clone(&settings)),
            settings,
            changes,
            measures,
            queue,
            name: RefCell::default(),
            is_owned: Cell::default(),
            is_announced: Cell::default(),
            is_down: Cell::default(),
            pid: Cell::default(),
            phase: Cell::default(),
            place: Cell::default(),
            events: Cell::default(),
            in_use: Cell::default(),
            stuck: Cell::default(),
            step_over: Cell::default(),
            logged: RefCell::default(),
            warned: Cell::default(),
            is_refused: Cell::default(),
        }
    }

    /// Reads until it is dropped.
    pub(super) async fn run(&self) {
        let mut backoff = Backoff::new(limits::CHANGES_PAUSE_MIN, limits::CHANGES_PAUSE_MAX);
        let mut pause = Duration::ZERO;
        loop {
            let changes = self.start(&mut backoff, pause).await;
            let started = clock::now();
            self.came_up(changes.way());
            let ending = tokio::select! {
                fault = self.pump(changes) => Ending::Broken(self.of_slot(fault)),
                ending = self.watch() => ending,
            };
            self.phase.set(Phase::Idle);
            pause = backoff.broke(clock::now().duration_since(started));
            self.broke(ending);
        }
    }

    /// Drops the slot, if there may be one of ours. To be called instead of going on with [`Life::run`].
    pub(super) async fn end(&self) {
        let Some(name) = self.name.borrow().clone() else {
            return;
        };
        if !self.is_owned.get() && self.phase.get() != Phase::Making {
            return;
        }
        let drop_slot = async {
            // The process may need a while to notice that its connection is closed.
            if let Some(pid) = self.pid.get() {
                self.scout.end_process(APPLICATION_NAME, pid).await?;
            }
            self.scout.drop_slot(&name).await
        };
        let dropped = tokio::time::timeout(limits::CHANGES_END_TIMEOUT / 2, drop_slot).await;
        match dropped.unwrap_or(Err(Fault::TimedOut)) {
            Ok(()) => self.say(Level::Info, &format!("replication slot {name} is dropped")),
            Err(fault) => self.log(
                ErrorCode::DropReplicationSlotFailed,
                &format!("replication slot {name} was not dropped: {fault}"),
            ),
        }
    }

    /// Tries until there is a connection that reads the slot.
    async fn start(&self, backoff: &mut Backoff, mut pause: Duration) -> Changes {
        loop {
            tokio::time::sleep(pause).await;
            let fault = match self.attempt().await {
                Ok(changes) => return changes,
                Err(fault) => self.of_slot(fault),
            };
            self.phase.set(Phase::Idle);
            self.failed(&fault);
            pause = match fault {
                Fault::PublicationMissing(_) => limits::CHANGES_PUBLICATION_PAUSE,
                _ => backoff.failed(),
            };
        }
    }

    async fn attempt(&self) -> Result<Changes, Fault> {
        let suffix = self.environment.config.slot_name_suffix.as_deref();
        let base = &self.changes.slot_name;
        let external_id = &self.tenant.external_id;
        let name: Rc<str> =
            slot_name(base, suffix, self.scout.database().await?, external_id).into();
        self.claim(&name).await?;
        if !self.is_owned.get() && !self.scout.publishes(&self.changes.publication).await? {
            // A slot that is made before its publication could never be read.
            let text = format!(
                "the publication {} does not exist",
                self.changes.publication
            );
            return Err(Fault::PublicationMissing(text));
        }
        let mut session = self.open_session(&name).await?;
        self.pid.set(Some(session.pid()));
        if !self.is_owned.get() {
            self.make(&mut session, &name).await?;
        }
        session.start().await
    }

    /// Opens the connection that is to read the slot: by SQL where it cannot be streamed.
    async fn open_session(&self, name: &str) -> Result<Session, Fault> {
        let target = Target {
            settings: &self.settings,
            address: self.scout.address(),
            application_name: APPLICATION_NAME,
            slot: name,
            publication: &self.changes.publication,
            format: Format::Text,
            polling: Polling::Kept {
                interval: self.changes.poll_interval,
                changes_max: self.changes.poll_changes_max,
            },
        };
        match Session::open(self.changes.way, target).await {
            Err(fault @ Fault::Refused(_)) if self.changes.way == Way::Stream => {
                if !self.is_refused.replace(true) {
                    let text = format!("row changes cannot be streamed and are polled: {fault}");
                    self.say(Level::Warning, &text);
                }
                Session::open(Way::Poll, target).await
            }
            outcome => outcome,
        }
    }

    /// Makes the slot. The database keeps its log from the first moment on, so it is watched from then on.
    async fn make(&self, session: &mut Session, name: &str) -> Result<(), Fault> {
        let lifetime = if self.changes.is_slot_temporary {
            Lifetime::Temporary
        } else {
            Lifetime::Persistent
        };
        self.phase.set(Phase::Making);
        let created = tokio::select! {
            created = session.create_slot(name, lifetime) => created?,
            ending = self.watch() => return Err(match ending {
                Ending::Broken(fault) => fault,
                Ending::GivenUp(code, text) => {
                    self.log(code, &text);
                    Fault::Broken(text)
                }
            }),
        };
        self.is_owned.set(true);
        self.is_announced.set(false);
        self.phase.set(Phase::Idle);
        self.queue.begin_life(created.consistent);
        self.measures.slots.set(self.measures.slots.get() + 1);
        Ok(())
    }

    fn came_up(&self, way: Way) {
        self.phase.set(Phase::Reading(way));
        // The words go on behind what is done; those between that and what was said come again.
        self.place.set(self.queue.resume());
        self.in_use.set(0);
        self.is_down.set(false);
        self.logged.take();
        self.measures.streams.set(self.measures.streams.get() + 1);
        let is_new = !self.is_announced.replace(true);
        self.queue.tell(Word::Up { is_new });
        let name = self.name.borrow().clone().unwrap_or_default();
        let text = format!("row changes are read from slot {name} (engine: {way})");
        self.say(Level::Info, &text);
    }

    /// Says what the connection says, until it ends.
    async fn pump(&self, mut changes: Changes) -> Fault {
        loop {
            if let Some(position) = changes.awaited() {
                tokio::select! {
                    () = self.queue.reaches(position) => {}
                    () = changes.closed() => return Fault::Broken("the connection is closed".to_owned()),
                }
            }
            changes.confirm(self.queue.position_done());
            let event = match &mut changes {
                Changes::Poll(poll) => poll.next().await,
                Changes::Stream(stream) => tokio::select! {
                    biased;
                    event = stream.next() => event,
                    () = self.queue.more_is_done() => continue,
                },
            };
            let word = match event {
                Ok(event) => self.place_word(event),
                Err(fault) => return fault,
            };
            self.events.set(self.events.get() + 1);
            self.queue.say(word).await;
        }
    }

    /// A word for an event, at its place.
    fn place_word(&self, event: Event) -> Word {
        let mut place = self.place.get();
        let word = match event {
            Event::Begin(begin) => {
                place.begin(&begin);
                Word::Begin(begin)
            }
            Event::Message(bytes) => {
                place.message(&bytes);
                let measures = &self.measures;
                let count = u64::from(is_counted(&bytes));
                measures.messages.set(measures.messages.get() + count);
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                measures
                    .bytes
                    .set(measures.bytes.get().saturating_add(length));
                Word::Message(bytes, place)
            }
            Event::Commit(commit) => {
                place.commit(&commit);
                Word::Commit(commit, place)
            }
            Event::Passed(position) => {
                place.pass(position);
                Word::Passed(position, place)
            }
        };
        self.place.set(place);
        word
    }

    /// What the end of a connection means for its slot.
    fn broke(&self, ending: Ending) {
        let fault = match ending {
            Ending::GivenUp(code, text) => {
                self.log(code, &text);
                return self.lose(&text);
            }
            Ending::Broken(fault) => fault,
        };
        let text = fault.to_string();
        self.log(ErrorCode::PoolingReplicationError, &text);
        let state = fault.sqlstate().unwrap_or_default();
        match fault {
            Fault::MessageTooLarge(_) if !self.changes.is_slot_temporary => {
                // The slot would say it again and again: it goes on behind this transaction.
                let commit = self.place.get().commit_lsn();
                self.step_over.set(Some(Lsn(commit.0.saturating_add(1))));
                self.tell_gap(&text);
            }
            Fault::PublicationMissing(_) | Fault::SlotMissing(_) => self.lose(&text),
            _ if self.changes.is_slot_temporary => self.lose(&text),
            // Its log is not there any more.
            _ if matches!(state, "55000" | "58P01") => self.lose(&text),
            _ if self.is_stuck(state) => self.lose(&text),
            _ => self.tell_down(&text),
        }
    }

    /// Whether the database fails again and again to decode what comes next.
    fn is_stuck(&self, sqlstate: &str) -> bool {
        // A connection that is lost, a database that stops, a lack of something, and a slot that somebody has just taken pass.
        let passes = ["08", "53", "57", "55"];
        if sqlstate.is_empty() || passes.iter().any(|class| sqlstate.starts_with(class)) {
            return false;
        }
        let place = self.place.get();
        let (before, count) = self.stuck.get();
        let is_same = before.is_done_at(&place) && place.is_done_at(&before);
        let count = if is_same { count + 1 } else { 1 };
        self.stuck.set((place, count));
        count >= limits::CHANGES_DECODING_FAILURES_MAX
    }

    /// The slot is ours no longer.
    pub(super) fn lose(&self, text: &str) {
        if self.is_owned.replace(false) {
            self.step_over.set(None);
            self.tell_gap(text);
        }
    }

    fn tell_gap(&self, text: &str) {
        if self.is_announced.replace(false) {
            self.measures.gaps.set(self.measures.gaps.get() + 1);
            self.is_down.set(true);
            self.queue.tell(Word::Gap(text.to_owned()));
        }
    }

    /// See [`Fault::of_slot`].
    fn of_slot(&self, fault: Fault) -> Fault {
        match &*self.name.borrow() {
            Some(name) => fault.of_slot(name),
            None => fault,
        }
    }

    fn tell_down(&self, text: &str) {
        if !self.is_down.replace(true) {
            self.queue.tell(Word::Down(text.to_owned()));
        }
    }

    /// An attempt has failed.
    fn failed(&self, fault: &Fault) {
        let text = fault.to_string();
        match fault {
            // Said with who uses it.
            Fault::SlotInUse { .. } => {}
            Fault::TooMany(_) => self.log_rarely(fault.code(), &fault.start_text()),
            // What the server says has a code of it.
            Fault::Broken(_) if fault.sqlstate().is_none() => {
                self.log_rarely(ErrorCode::ReplicationPollerConnectionFailed, &text);
            }
            _ => self.log_rarely(ErrorCode::PoolingReplicationPreparationError, &text),
        }
        // An owner that is dead is replaced within seconds: nobody needs to hear of it.
        let is_replaced = matches!(
            fault,
            Fault::SlotInUse {
                is_elsewhere: false,
                ..
            }
        ) && self.in_use.get() < limits::CHANGES_SLOT_FAILURES_MAX;
        if !is_replaced {
            self.tell_down(&text);
        }
    }

    /// A line that comes once within [`limits::CHANGES_FAILURE_LOG_INTERVAL`], while nothing else fails.
    pub(super) fn log_rarely(&self, code: ErrorCode, text: &str) {
        let now = clock::now();
        let is_known = self.logged.borrow().as_ref().is_some_and(|(known, at)| {
            known == text && now.duration_since(*at) < limits::CHANGES_FAILURE_LOG_INTERVAL
        });
        if !is_known {
            self.logged.replace(Some((text.to_owned(), now)));
            self.log(code, text);
        }
    }

    /// A line with a code.
    pub(super) fn log(&self, code: ErrorCode, text: &str) {
        self.write(Line::coded(clock::unix_ms(), code, text));
    }

    /// A line without one.
    pub(super) fn say(&self, level: Level, text: &str) {
        if self.environment.log.is_enabled(level) {
            self.write(Line::new(clock::unix_ms(), level, text));
        }
    }

    fn write(&self, line: Line) {
        let mut line = line.of_tenant(Arc::clone(&self.tenant.external_id));
        line.application_name = Some(APPLICATION_NAME);
        self.environment.log.write(line);
    }
}

//! What looks after the row changes of one tenant, as long as somebody listens.
//!
//! What comes in: orders of the shards, and the words of a [`Source`]. What goes out: where listeners stand, and changes. What always
//! holds:
//!
//! - Where listeners stand changes between two batches, never within one; what a client was told of its subscription holds for every
//!   change that is sent behind it.
//! - A client reads `Subscribed to PostgreSQL` when the slot is there, so no commit behind it is missed.
//! - Words are taken only when the batch before was handed to the shards; while the database cannot be asked, a batch waits and the
//!   log is kept.
//! - When something may have been missed, every client is told, and told again when it listens anew.
//!
//! Deliberately absent: who starts this, and what outlives it; see [`hub`](super::hub).

mod checks;
mod decide;
mod dispatch;
mod listening;
mod manager;
mod questions;
mod settling;
mod verdicts;

use super::catalog::TableNow;
use super::change::{Change, peek};
use super::measures::{Dropped, Measures, add};
use super::registry::{Ids, ListenerKey, Registry};
use super::settings::ChangesSettings;
use super::source::{Place, Source, Word};
use super::visibility::Checkers;
use crate::control::clock;
use crate::control::database::connect::jittered;
use crate::control::database::{Connection, Environment, Settings, connect};
use crate::control::replication::pgoutput::{Message, Relation, decode};
use crate::control::replication::{Lsn, POSTGRES_EPOCH_US};
use crate::control::session::Sessions;
use crate::control::tenants::Live;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use crate::mail::Listen;
use crate::tenant::{Counter, Tenant, TenantId};
use checks::{Answer, Checks};
use decide::{Unanswered, Undecided, decide};
use dispatch::Dispatch;
use listening::Listening;
use manager::Manager;
use questions::{Look, Question};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use settling::Settling;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
pub(super) use verdicts::Patience;

/// How the connection that asks shows in the database.
const APPLICATION_NAME: &str = "realtime_subscription_manager";

/// Everybody who listens, whatever becomes of the engine.
pub(super) type Roster = Rc<RefCell<FxHashMap<ListenerKey, Rc<Listen>>>>;

/// What the engine is told. The roster has changed already.
#[derive(Debug)]
pub(super) enum Order {
    /// Somebody listens, or has other claims than before.
    Listen(ListenerKey),
    /// Somebody does no more.
    Unlisten(ListenerKey),
    /// The engine ends, and another one takes its place while somebody listens.
    Restart,
    /// The process ends.
    Stop,
}

/// Why an engine has ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// Nobody has listened for long.
    Idle,
    /// The tenant has another database or other settings: another engine is needed.
    Changed,
    /// The tenant is gone or suspended, or has no database any more, or it was told to make room for another one.
    Unwanted,
    /// It was told to.
    Stopped,
}

/// What decides whether there can be an engine for a tenant, and which: none of it is known of a tenant that is gone.
#[derive(Eq, PartialEq)]
pub(super) struct Grounds {
    is_served: bool,
    /// As it is stored.
    database: Option<Arc<Map<String, Value>>>,
}

impl Grounds {
    pub(super) fn of(live: &Live, tenant: TenantId) -> Self {
        let known = live.directory.get(tenant);
        Self {
            is_served: known.is_some_and(|tenant| !tenant.suspended),
            database: live.database(tenant).cloned(),
        }
    }
}

/// What all parts of an engine know.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) tenant: Arc<Tenant>,
    pub(super) settings: Rc<Settings>,
    pub(super) changes: Rc<ChangesSettings>,
    pub(super) environment: Rc<Environment>,
    pub(super) checkers: Checkers,
    pub(super) measures: Rc<Measures>,
    /// For how long nobody could be asked about row level security.
    pub(super) patience: Patience,
    /// When verdicts that could not be had were last written down, and how many came since.
    pub(super) lost_said_at: Cell<Option<Instant>>,
    pub(super) lost_unsaid: Cell<u64>,
}

/// What an engine waits for beside words and orders.
enum Event {
    Connected(Result<Connection, String>),
    Checked(Question, Answer),
    Published(Result<Look, Unanswered>),
}

/// See the room's documentation.
pub(super) struct Engine {
    context: Rc<Context>,
    sessions: Sessions,
    roster: Roster,
    registry: Registry,
    listening: Listening,
    dispatch: Dispatch,
    jobs: JoinSet<Event>,
    manager: Option<Rc<Manager>>,
    checks: Rc<Checks>,
    /// When to connect next, while there is no manager and none is being made.
    connect_at: Option<Instant>,
    connect_pause: Duration,
    source: Option<Source>,
    /// The slot is there.
    is_up: bool,
    /// What the stream has said of its tables.
    relations: FxHashMap<u32, Rc<Relation>>,
    /// Everything that was committed before has been handed to the shards.
    read_to: Lsn,
    /// The current transaction.
    xid: u32,
    /// When it was committed.
    committed_at_us: i64,
    batch: Batch,
    /// Before that the batch is not tried again.
    batch_due: Option<Instant>,
    /// What the batch waits for before row level security is asked about it.
    settling: Settling,
    /// Since when a transaction of the batch is not seen by others, and whether that was said.
    unseen: Option<(Instant, bool)>,
    /// A word that ends a batch.
    next_word: Option<Word>,
    publication_due: Instant,
    /// When the publication was looked at last.
    publication_seen: Instant,
    idle_since: Option<Instant>,
    /// A filter's column has another type than when the filter was checked.
    has_other_types: bool,
    /// No words are taken before everybody has been checked anew, or before this moment.
    hold: Option<Instant>,
}

/// What was taken from the source and is not dispatched yet.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    /// Everything up to here is in it.
    place: Option<Place>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // However it has ended, by a panic as well.
        self.context.tenant.usage.set_reads_changes(false);
    }
}

impl Engine {
    pub(super) fn new(context: Context, sessions: Sessions, roster: Roster, ids: Ids) -> Self {
        let now = clock::now();
        let (settings, changes) = (Rc::clone(&context.settings), Rc::clone(&context.changes));
        Self {
            dispatch: Dispatch::new(context.tenant.id, Rc::clone(&context.environment)),
            context: Rc::new(context),
            sessions,
            roster,
            registry: Registry::new(ids),
            listening: Listening::default(),
            jobs: JoinSet::new(),
            manager: None,
            checks: Rc::new(Checks::new(settings, changes)),
            connect_at: Some(now),
            connect_pause: limits::DATABASE_RECONNECT_PAUSE,
            source: None,
            is_up: false,
            relations: FxHashMap::default(),
            read_to: Lsn(0),
            xid: 0,
            committed_at_us: 0,
            batch: Batch::default(),
            batch_due: None,
            settling: Settling::default(),
            unseen: None,
            next_word: None,
            publication_due: now + limits::CHANGES_PUBLICATION_INTERVAL,
            publication_seen: now,
            idle_since: None,
            has_other_types: false,
            hold: None,
        }
    }

    /// Whether clients have been told of a slot that is there: without it, they may miss something.
    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// The slot is there, or gone. Shards know it by the tenant: what follows a join waits for the word on its subscriptions while that
    /// takes but a moment.
    fn set_up(&mut self, is_up: bool) {
        self.is_up = is_up;
        self.context.tenant.usage.set_reads_changes(is_up);
    }

    /// Runs until nobody needs it. The slot is gone then, unless the database could not be told. `missed` says why those who listen may
    /// have missed something since the engine before this one.
    pub(super) async fn run(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        missed: Option<&'static str>,
    ) -> End {
        // What was ordered before is in the roster: doing it twice would tell clients twice.
        while let Ok(order) = orders.try_recv() {
            if let Order::Stop = order {
                return End::Stopped;
            }
        }
        let keys: Vec<ListenerKey> = self.roster.borrow().keys().copied().collect();
        if keys.is_empty() {
            self.idle_since = Some(clock::now());
        }
        for key in keys {
            if let Some(why) = missed {
                self.tell_missed(key, why).await;
            }
            self.listen(key).await;
        }
        let end = self.work(orders).await;
        if let Some(source) = self.source.take() {
            source.end().await;
        }
        self.context.measures.come_to_rest();
        end
    }

    async fn work(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> End {
        let mut tenants = self.context.environment.tenants.clone();
        let mut known = Grounds::of(&tenants.borrow_and_update(), self.context.tenant.id);
        loop {
            let can_work = self
                .manager
                .as_ref()
                .is_some_and(|manager| !manager.is_closed());
            if can_work && self.has_work() && self.batch_due.is_none() {
                self.work_off().await;
                continue;
            }
            if self.hold.is_some() && !self.has_other_types && !self.listening.is_anybody_waiting()
            {
                self.hold = None;
            }
            self.measure();
            let due = self.next_due();
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Listen(key)) => self.listen(key).await,
                    Some(Order::Unlisten(key)) => self.unlisten(key),
                    Some(Order::Restart) => return End::Unwanted,
                    Some(Order::Stop) | None => return End::Stopped,
                },
                Some(event) = self.jobs.join_next(), if !self.jobs.is_empty() => match event {
                    Ok(event) => self.on_event(event).await,
                    // A job panicked: the supervisor starts all of it anew.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = closed(self.manager.clone()) => {
                    self.context.say(Level::Warning, "the connection that asks about row changes was closed");
                    self.connect_later();
                }
                Ok(()) = tenants.changed() => {
                    let now = Grounds::of(&tenants.borrow_and_update(), self.context.tenant.id);
                    if now != known {
                        match self.is_still_right() {
                            Ok(true) => known = now,
                            Ok(false) => return End::Changed,
                            Err(()) => return End::Unwanted,
                        }
                    }
                }
                () = sleep_until(due) => {
                    if self.is_idle() {
                        return End::Idle;
                    }
                    self.on_due().await;
                }
                // Last: while there is a backlog, a word is always there.
                word = next_word(&mut self.source), if can_work && self.takes_words() => {
                    self.gather(word);
                }
            }
        }
    }

    /// Whether the tenant still has the settings that this engine works with; nothing when it has no database any more, or is suspended.
    fn is_still_right(&self) -> Result<bool, ()> {
        let live = self.context.environment.tenants.borrow();
        let id = self.context.tenant.id;
        if !Grounds::of(&live, id).is_served {
            return Err(());
        }
        let settings = Settings::in_live(&live, id).ok_or(())?;
        let changes = ChangesSettings::in_live(&live, id).ok_or(())?;
        Ok(settings.as_ref() == Ok(&*self.context.settings)
            && changes.as_ref() == Ok(&*self.context.changes))
    }

    fn next_due(&self) -> Instant {
        if self.has_other_types {
            return clock::now();
        }
        let idle = self
            .idle_since
            .map(|since| since + limits::CHANGES_IDLE_TIMEOUT);
        [
            self.connect_at,
            self.listening.next_due(),
            idle,
            self.batch_due,
            self.hold,
        ]
        .into_iter()
        .flatten()
        .fold(self.publication_due, Instant::min)
    }

    fn is_idle(&self) -> bool {
        let idle = self
            .idle_since
            .map(|since| since + limits::CHANGES_IDLE_TIMEOUT);
        idle.is_some_and(|end| end <= clock::now())
    }

    async fn on_due(&mut self) {
        let now = clock::now();
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect();
        }
        if self.batch_due.is_some_and(|at| at <= now) {
            self.batch_due = None;
        }
        if self.hold.is_some_and(|at| at <= now) {
            self.hold = None;
        }
        if std::mem::take(&mut self.has_other_types) {
            self.listening.forget_answers();
            self.listen_all_anew().await;
        }
        if self.publication_due <= now {
            self.publication_due = now + limits::CHANGES_PUBLICATION_INTERVAL;
            self.publication_seen = now;
            self.look_at_publication();
            self.checks.close_unused(now);
        }
        self.do_what_is_due(now).await;
    }

    /// Opens the connection that asks, behind the tenant's session: that has made sure of the schema.
    fn connect(&mut self) {
        self.connect_at = None;
        self.manager = None;
        let (sessions, tenant) = (self.sessions.clone(), self.context.tenant.id);
        let settings = Rc::clone(&self.context.settings);
        self.jobs.spawn_local(async move {
            let outcome = async {
                let opened = sessions.open(tenant).await;
                opened.map_err(|error| format!("{error:?}"))?;
                let connection = connect(&settings, APPLICATION_NAME).await;
                connection.map_err(|error| error.to_string())
            };
            Event::Connected(outcome.await)
        });
    }

    /// The connection is lost, or was not to be had.
    fn connect_later(&mut self) {
        self.manager = None;
        self.connect_at = Some(clock::now() + jittered(self.connect_pause));
        self.connect_pause = (self.connect_pause * 2).min(limits::CHANGES_RECONNECT_PAUSE_MAX);
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected(Ok(connection)) => {
                self.connect_pause = limits::DATABASE_RECONNECT_PAUSE;
                let manager = Rc::new(Manager::new(connection));
                if self.source.is_none()
                    && let Err(Unanswered(text)) = manager.empty_subscriptions().await
                {
                    let code = ErrorCode::SubscriptionCleanupFailed;
                    self.context.log(code, &text);
                }
                self.manager = Some(manager);
                // Nobody knows what has become of it meanwhile.
                self.look_at_publication();
                self.ask_what_waits().await;
            }
            Event::Connected(Err(text)) => {
                let code = ErrorCode::SubscriptionManagerConnectionFailed;
                self.context.log(code, &text);
                self.connect_later();
                self.tell_unreachable(&text).await;
            }
            Event::Checked(question, answer) => self.on_checked(question, answer).await,
            Event::Published(look) => self.on_published(look).await,
        }
    }

    /// Begins to read, if nothing does.
    fn start_source(&mut self) {
        if self.source.is_none() {
            let context = &self.context;
            self.source = Some(Source::start(
                Rc::clone(&context.environment),
                Arc::clone(&context.tenant),
                Rc::clone(&context.settings),
                Rc::clone(&context.changes),
                Rc::clone(&context.measures.source),
            ));
        }
    }

    // -- words ---------------------------------------------------------------------------------------------------------

    /// Whether what comes belongs to the batch: there is none yet, or it waits for more.
    fn takes_words(&self) -> bool {
        let is_open = self.settling.is_waiting() && self.next_word.is_none();
        self.hold.is_none() && (is_open || !self.has_work())
    }

    /// Takes a word and those that are there already.
    fn gather(&mut self, word: Word) {
        let before = self.batch.changes.len();
        self.fill_batch(word);
        let (count, now) = (self.batch.changes.len(), clock::now());
        if count > before {
            self.settling.note(now);
        }
        if self.settling.is_waiting() {
            let is_open = self.next_word.is_none() && !self.is_batch_full();
            self.batch_due = self.settling.until(count, now).filter(|_| is_open);
        }
    }

    fn is_batch_full(&self) -> bool {
        self.batch.changes.len() >= limits::CHANGES_BATCH_MAX
            || self.batch.bytes >= limits::CHANGES_BATCH_BYTES_MAX
    }

    /// Takes words up to a full batch or a word that ends one.
    fn fill_batch(&mut self, word: Word) {
        let mut word = Some(word);
        while let Some(taken) = word {
            match taken {
                Word::Begin(begin) => {
                    self.xid = begin.xid;
                    self.committed_at_us = begin.committed_at_us;
                }
                Word::Message(bytes, place) => {
                    self.take_message(bytes);
                    self.batch.place = Some(place);
                }
                Word::Commit(_, place) | Word::Passed(_, place) => self.batch.place = Some(place),
                Word::Up { .. } | Word::Gap(_) | Word::Down(_) => {
                    self.next_word = Some(taken);
                    return;
                }
            }
            if self.hold.is_some() || self.is_batch_full() {
                return;
            }
            word = self.source.as_mut().and_then(Source::ready);
        }
    }

    fn take_message(&mut self, bytes: bytes::Bytes) {
        let Some((action, oid)) = peek(&bytes) else {
            match decode(&bytes) {
                Ok(Message::Relation(relation)) => self.note_relation(relation),
                Ok(Message::Type { oid, .. }) => {
                    if let Some(manager) = &self.manager {
                        manager.types.forget(oid);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let code = ErrorCode::PoolingReplicationError;
                    self.context.log(code, &error.to_string());
                }
            }
            return;
        };
        let Some(relation) = self.relations.get(&oid) else {
            return;
        };
        let index = self.registry.table(oid, &relation.schema, &relation.name);
        if !index.wants(action) {
            return;
        }
        add(&self.context.measures.seen, 1);
        self.batch.bytes += bytes.len();
        self.batch.changes.push(Change {
            relation: Rc::clone(relation),
            action,
            xid: self.xid,
            committed_at_us: self.committed_at_us,
            message: bytes,
        });
    }

    fn note_relation(&mut self, relation: Relation) {
        // Its own tables are nobody's business (spec: postgres-changes 5.1).
        if ["realtime", "_realtime"].contains(&&*relation.schema) {
            self.relations.remove(&relation.id);
            return;
        }
        let known = self.relations.get(&relation.id);
        if known
            .is_none_or(|known| (&known.schema, &known.name) != (&relation.schema, &relation.name))
        {
            self.registry.forget_table(relation.id);
        }
        if self.registry.has_other_types(&relation) {
            // Filters are checked for the new type before any row of it is looked at.
            self.has_other_types = true;
            self.hold = Some(clock::now() + limits::CHANGES_SUBSCRIBE_TIMEOUT);
        }
        // The database says a table before its first row, and again when the publication has changed: another one may be gone from it. This
        // one may have been made or published after those who ask for it came.
        let due = self.publication_seen + limits::CHANGES_PUBLICATION_INTERVAL_MIN;
        self.publication_due = self.publication_due.min(due);
        self.relations.insert(relation.id, Rc::new(relation));
    }

    fn has_work(&self) -> bool {
        !self.batch.changes.is_empty() || self.batch.place.is_some() || self.next_word.is_some()
    }

    /// Dispatches the batch, and does what the word behind it says.
    async fn work_off(&mut self) {
        self.settling.end();
        if !self.batch.changes.is_empty()
            && let Err(undecided) = self.dispatch_batch().await
        {
            return self.try_again(undecided);
        }
        self.unseen = None;
        self.settling = Settling::default();
        let batch = std::mem::take(&mut self.batch);
        if let (Some(place), Some(source)) = (batch.place, &self.source) {
            source.done(place);
            self.read_to = self.read_to.max(place.confirms());
            self.listen_anew_behind(clock::now()).await;
        }
        match self.next_word.take() {
            Some(Word::Up { is_new }) => self.on_up(is_new).await,
            Some(Word::Gap(text)) => self.on_gap(&text).await,
            Some(Word::Down(_)) => self.on_down().await,
            _ => {}
        }
    }

    /// The batch waits.
    fn try_again(&mut self, undecided: Undecided) {
        match undecided {
            Undecided::Unanswered(text) => {
                self.context.log(ErrorCode::PoolingReplicationError, &text);
                self.connect_later();
            }
            Undecided::Unchecked(text) => {
                let text = format!(
                    "row level security could not be asked about and is tried again: {text}"
                );
                self.context.say(Level::Warning, &text);
                let pause = jittered(limits::CHANGES_BATCH_RETRY_PAUSE);
                self.batch_due = Some(clock::now() + pause);
            }
            Undecided::Unseen => self.wait_until_seen(),
            Undecided::Unsettled => {
                self.settling.wait();
                let count = self.batch.changes.len();
                self.batch_due = self.settling.until(count, clock::now());
            }
        }
    }

    /// A commit is in the log before others see it: for microseconds, or for as long as it waits for a synchronous standby.
    fn wait_until_seen(&mut self) {
        let now = clock::now();
        let (since, mut is_said) = self.unseen.unwrap_or((now, false));
        let waited = now.duration_since(since);
        if waited >= limits::CHANGES_UNSEEN_QUIET && !is_said {
            is_said = true;
            let text = "a transaction is committed in the log, but its rows cannot be seen yet: it may wait for a synchronous standby. \
                Row changes wait for it";
            self.context.say(Level::Warning, text);
        }
        self.unseen = Some((since, is_said));
        let pause = (waited / 4).clamp(
            limits::CHANGES_UNSEEN_PAUSE_MIN,
            limits::CHANGES_UNSEEN_PAUSE_MAX,
        );
        self.batch_due = Some(now + pause);
    }

    async fn dispatch_batch(&mut self) -> Result<(), Undecided> {
        let Some(manager) = self.manager.clone() else {
            let text = "there is no connection to ask".to_owned();
            return Err(Undecided::Unanswered(text));
        };
        let changes = &self.batch.changes;
        let (context, committed) = (Rc::clone(&self.context), changes.last());
        let committed_at_us = committed.map_or(0, |change| change.committed_at_us);
        if context.is_over_limit() {
            let count = changes.len() as u64;
            context.measures.count_dropped(Dropped::RateLimited, count);
            return Ok(());
        }
        let before = context.measures.matched.get();
        let (registry, dispatch) = (&mut self.registry, &self.dispatch);
        let is_settled =
            self.next_word.is_some() || self.settling.until(changes.len(), clock::now()).is_none();
        decide(&context, &manager, registry, dispatch, changes, is_settled).await?;
        context.count_events(context.measures.matched.get().wrapping_sub(before));
        let committed_at_us = committed_at_us.saturating_add(POSTGRES_EPOCH_US);
        let committed_at_ms = u64::try_from(committed_at_us / 1000).unwrap_or(0);
        let lag_ms = clock::unix_ms().saturating_sub(committed_at_ms);
        context.measures.lag_ms.set(lag_ms);
        Ok(())
    }

    fn measure(&self) {
        let measures = &self.context.measures;
        measures.subscriptions.set(self.registry.subscriptions());
    }
}

async fn next_word(source: &mut Option<Source>) -> Word {
    match source {
        Some(source) => source.next().await,
        None => std::future::pending().await,
    }
}

/// Returns when the connection that asks is closed; never while there is none.
async fn closed(manager: Option<Rc<Manager>>) {
    match manager {
        Some(manager) => manager.closed().await,
        None => std::future::pending().await,
    }
}

impl Context {
    /// Whether the tenant gets nothing for now (spec: postgres-changes 4.4).
    fn is_over_limit(&self) -> bool {
        let live = self.environment.tenants.borrow();
        let tenant = live.directory.get(self.tenant.id).unwrap_or(&self.tenant);
        tenant.usage.is_tripped(Counter::DbEvents)
    }

    fn count_events(&self, count: u64) {
        if count > 0 {
            self.environment
                .count(&self.tenant, Counter::DbEvents, count);
        }
    }

    /// Verdicts that could not be had, of some rows for some claims.
    fn note_lost(&self, table: &TableNow, count: u64, reason: &str) {
        self.measures.count_dropped(Dropped::NoVerdict, count);
        let unsaid = self.lost_unsaid.get() + count;
        let now = clock::now();
        if self
            .lost_said_at
            .get()
            .is_some_and(|at| at + limits::CHANGES_LOST_INTERVAL > now)
        {
            self.lost_unsaid.set(unsaid);
            return;
        }
        self.lost_said_at.set(Some(now));
        self.lost_unsaid.set(0);
        let text = format!(
            "{unsaid} times nobody could say whether a row of {}.{} may be seen, so it was not delivered: {reason}",
            table.schema, table.name
        );
        self.log(ErrorCode::PoolingReplicationError, &text);
    }

    fn note_malformed(&self, table: &TableNow, count: u32) {
        let text = format!(
            "{count} values of a row of {}.{} are not what their types print: they are delivered as strings",
            table.schema, table.name
        );
        self.say(Level::Warning, &text);
    }

    fn note_uncomputed(&self, table: &TableNow, reason: &str) {
        let text = format!(
            "the generated columns of some rows of {}.{} could not be computed and are left out: {reason}",
            table.schema, table.name
        );
        self.say(Level::Warning, &text);
    }

    /// A line with a code.
    fn log(&self, code: ErrorCode, text: &str) {
        self.write(Line::coded(clock::unix_ms(), code, text));
    }

    /// A line about a bound that was reached.
    fn trip(&self, code: ErrorCode, text: &str) {
        self.write(Line::trip(clock::unix_ms(), code, text));
    }

    /// A line without one.
    fn say(&self, level: Level, text: &str) {
        if self.environment.log.is_enabled(level) {
            self.write(Line::new(clock::unix_ms(), level, text));
        }
    }

    fn write(&self, line: Line) {
        self.environment
            .log
            .write(line.of_tenant(Arc::clone(&self.tenant.external_id)));
    }
}

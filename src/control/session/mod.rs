//! The sessions with tenants' databases: one per tenant, started by whoever needs it first.
//!
//! What comes in: tenants whose database is needed. What goes out: [`Pool`]s, and to the shards which databases are connected. What
//! always holds:
//!
//! - However many ask, there is one attempt at a time (`many_callers_share_one_attempt`).
//! - A database that fails to start [`limits::DATABASE_FAILURES_MAX`] times in a short while is left alone for a moment
//!   (`failures_in_a_row_block_further_attempts`); a session that runs is handed out all the same.
//! - While users are connected, a session that has failed is tried again by itself, with pauses that grow
//!   (`a_database_that_comes_back_is_connected_without_being_asked`).
//! - A session works with the settings that the tenant has now: others end it, and a new one is started
//!   (`changed_settings_replace_the_session`).
//! - A session that is told to end does, also while it starts (`a_session_ends_when_it_is_told_to`).
//! - While users are connected, what is committed between two sessions with the same database is broadcast by the later one
//!   (`rows_between_two_sessions_are_broadcast`).
//! - One task per tenant waits for that tenant's database; nothing that another tenant needs is held meanwhile.
//!
//! Deliberately absent: what is asked of the database, and the stream of its messages; see `authorization` and `messages`.

mod attempts;
mod live;
mod stage;
mod start;

pub use stage::Stage;

use super::clock;
use super::database::connect::{describe, jittered};
use super::database::{ConnectError, Environment, Pool, PoolError, Settings};
use super::messages::{Kept, Measures};
use super::outgoing::{News, Parcel};
use super::supervise;
use crate::error::{ErrorCode, Level, text};
use crate::limits;
use crate::logging::Line;
use crate::mail::{AskError, DatabaseState};
use crate::tenant::{Tenant, TenantId};
use attempts::Attempts;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use start::Prepared;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// The sessions of this process. Clones are the same.
#[derive(Clone)]
pub struct Sessions(Rc<Inner>);

struct Inner {
    environment: Rc<Environment>,
    seats: RefCell<FxHashMap<TenantId, Rc<Seat>>>,
    /// What moments of failures are counted from.
    origin: Instant,
}

/// A tenant's place: it outlives sessions that fail.
struct Seat {
    tenant: TenantId,
    phase: watch::Sender<Phase>,
    attempts: RefCell<Attempts>,
    /// Whether a task keeps this tenant's session.
    has_keeper: Cell<bool>,
    /// Something that every session makes sure of is missing in the database.
    doubt: Rc<Notify>,
    measures: Rc<Measures>,
    /// What was delivered, while somebody may wait for what was not.
    kept: Kept,
    /// A session has run since the janitor asked.
    has_run: Cell<bool>,
    /// Ends the session that there is.
    stop: watch::Sender<()>,
    /// What the shards were told last.
    told: Cell<DatabaseState>,
    /// Why the last session could not be started, or was lost; nothing while one runs that has not been.
    failure: Cell<Option<ErrorCode>>,
    /// The settings with which the schema was last seen to be complete.
    prepared: RefCell<Option<Arc<Map<String, Value>>>>,
}

/// Where a tenant's session stands.
#[derive(Clone, Debug)]
enum Phase {
    /// There is none, and nobody has asked.
    Idle,
    /// It is being started; `is_connected` as soon as the database has let us in.
    Starting { is_connected: bool },
    /// It runs.
    Up(Pool),
    /// It could not be started, or was lost.
    Failed(AskError),
}

/// Why a session could not be started, or ended.
#[derive(Debug)]
struct Failure {
    /// The code of the line in the log.
    code: ErrorCode,
    /// The rest of that line.
    text: String,
    /// What a client is told.
    told: AskError,
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self {
            code: error.code(),
            text: error.to_string(),
            told: error.ask_error(),
        }
    }
}

/// How a session ended.
enum End {
    /// Nobody was connected for long, or it was told to end.
    Idle,
    /// The tenant is gone, suspended, or has no database any more.
    Unwanted,
    /// The tenant has another database, or other credentials.
    Changed,
    /// It was lost. The log knows already.
    Lost(AskError),
    /// It could not be started. The log knows already.
    NotStarted(AskError),
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("seats", &self.0.seats.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Sessions {
    /// Without any session.
    #[must_use]
    pub fn new(environment: Rc<Environment>) -> Self {
        Self(Rc::new(Inner {
            environment,
            seats: RefCell::default(),
            origin: clock::now(),
        }))
    }

    /// The tenant's session, started if need be; all who ask at the same time share one start.
    ///
    /// # Errors
    ///
    /// Why there is none, at the latest after [`limits::DATABASE_CONNECT_TIMEOUT`]. What needs the database is refused then.
    pub async fn open(&self, tenant: TenantId) -> Result<Pool, AskError> {
        let seat = self.seat(tenant)?;
        let mut phases = seat.phase.subscribe();
        let phase = phases.borrow().clone();
        match phase {
            Phase::Up(pool) => return Ok(pool),
            Phase::Starting { .. } => {}
            Phase::Idle | Phase::Failed(_) => self.begin(&seat)?,
        }
        let settled = phases.wait_for(|phase| !phase.is_starting());
        match tokio::time::timeout(limits::DATABASE_CONNECT_TIMEOUT, settled).await {
            Ok(Ok(phase)) => match &*phase {
                Phase::Up(pool) => Ok(pool.clone()),
                Phase::Failed(error) => Err(error.clone()),
                Phase::Idle | Phase::Starting { .. } => Err(AskError::Unreachable),
            },
            Ok(Err(_)) => Err(AskError::Unreachable),
            Err(_) => Err(match *seat.phase.borrow() {
                Phase::Starting { is_connected: true } => AskError::Initializing,
                _ => AskError::Unreachable,
            }),
        }
    }

    /// Has the schema and the partitions of a tenant's database looked at now: something that every session makes sure of was missing.
    /// What is missing is made again; nothing happens where there is no session.
    pub fn doubt(&self, tenant: TenantId) {
        if let Some(seat) = self.0.seats.borrow().get(&tenant) {
            seat.doubt.notify_one();
        }
    }

    /// What the shards know of a tenant's database.
    #[must_use]
    pub fn state(&self, tenant: TenantId) -> DatabaseState {
        let seats = self.0.seats.borrow();
        seats
            .get(&tenant)
            .map_or_else(DatabaseState::default, |seat| seat.told.get())
    }

    /// Ends a tenant's session, if there is one. Whoever needs it next starts another.
    pub fn end(&self, tenant: TenantId) {
        if let Some(seat) = self.0.seats.borrow().get(&tenant) {
            seat.stop.send_replace(());
        }
    }

    /// There is no such tenant any more: nothing of it stays.
    pub fn forget(&self, tenant: TenantId) {
        self.end(tenant);
        // A keeper takes its seat along when it is done.
        self.0
            .seats
            .borrow_mut()
            .retain(|id, seat| *id != tenant || seat.has_keeper.get());
    }

    /// Whether the schema of a tenant's database is known to be complete, as far as this process has seen.
    #[must_use]
    pub fn is_prepared(&self, tenant: TenantId) -> bool {
        let live = self.0.environment.tenants.borrow();
        let seats = self.0.seats.borrow();
        seats.get(&tenant).is_some_and(|seat| {
            let prepared = seat.prepared.borrow();
            prepared.is_some() && prepared.as_ref() == live.database(tenant)
        })
    }

    /// Brings the schema of a tenant's database up to date, on a connection of its own. Nothing for a tenant without a database, else how
    /// many migrations of the original the database has had.
    ///
    /// # Errors
    ///
    /// Why it is not up to date. The log knows already.
    pub async fn migrate(&self, id: TenantId) -> Result<Option<usize>, AskError> {
        let live = Arc::clone(&self.0.environment.tenants.borrow());
        let settings = match Settings::in_live(&live, id) {
            None => return Ok(None),
            Some(Ok(settings)) => settings,
            Some(Err(text)) => {
                let failure = Failure::unreachable(text);
                self.log(id, failure.code, &failure.text);
                return Err(failure.told);
            }
        };
        match start::prepare(&settings).await {
            Ok(prepared) => {
                self.log_prepared(id, &prepared);
                if let Some(seat) = self.seat_of(id) {
                    seat.prepared.replace(live.database(id).cloned());
                }
                Ok(prepared.upstream_versions)
            }
            Err(failure) => {
                self.log(id, failure.code, &failure.text);
                Err(failure.told)
            }
        }
    }

    /// What was counted while rows of a tenant's database were broadcast, over all of its sessions. None before the first of them.
    #[must_use]
    pub fn measures(&self, tenant: TenantId) -> Option<Rc<Measures>> {
        let seats = self.0.seats.borrow();
        seats.get(&tenant).map(|seat| Rc::clone(&seat.measures))
    }

    /// Whether a tenant's session runs.
    #[must_use]
    pub fn is_connected(&self, tenant: TenantId) -> bool {
        let seats = self.0.seats.borrow();
        seats.get(&tenant).is_some_and(|seat| seat.is_up())
    }

    /// How many sessions run.
    #[must_use]
    pub fn connected(&self) -> usize {
        let seats = self.0.seats.borrow();
        seats.values().filter(|seat| seat.is_up()).count()
    }

    /// Tenants whose session runs, or ran since this was asked last: whom the janitor visits.
    #[must_use]
    pub fn take_connected(&self) -> Vec<TenantId> {
        let seats = self.0.seats.borrow();
        let connected = seats
            .values()
            .filter(|seat| seat.has_run.replace(seat.is_up()));
        connected.map(|seat| seat.tenant).collect()
    }

    /// The place of a tenant that may have a session.
    fn seat(&self, id: TenantId) -> Result<Rc<Seat>, AskError> {
        let tenant = self.tenant(id).ok_or(AskError::Unreachable)?;
        if tenant.suspended {
            return Err(AskError::Suspended);
        }
        if !tenant.has_database {
            return Err(AskError::Unreachable);
        }
        self.seat_of(id).ok_or(AskError::Unreachable)
    }

    /// The place of a tenant that exists.
    fn seat_of(&self, id: TenantId) -> Option<Rc<Seat>> {
        self.tenant(id)?;
        let mut seats = self.0.seats.borrow_mut();
        let seat = seats.entry(id).or_insert_with(|| {
            Rc::new(Seat {
                tenant: id,
                phase: watch::Sender::new(Phase::Idle),
                attempts: RefCell::default(),
                has_keeper: Cell::new(false),
                doubt: Rc::default(),
                measures: Rc::default(),
                kept: Kept::default(),
                has_run: Cell::new(false),
                stop: watch::Sender::new(()),
                told: Cell::default(),
                failure: Cell::default(),
                prepared: RefCell::default(),
            })
        });
        Some(Rc::clone(seat))
    }

    /// A tenant as it is now.
    fn tenant(&self, id: TenantId) -> Option<Arc<Tenant>> {
        let live = self.0.environment.tenants.borrow();
        live.directory.get(id).cloned()
    }

    /// Has a session started, unless that failed too often of late.
    fn begin(&self, seat: &Rc<Seat>) -> Result<(), AskError> {
        if seat.is_blocked(self.0.origin) {
            return Err(AskError::TooManyAttempts);
        }
        seat.phase.send_replace(Phase::STARTING);
        // A keeper that waits to try again looks at the phase.
        if !seat.has_keeper.replace(true) {
            let (sessions, seat) = (self.clone(), Rc::clone(seat));
            tokio::task::spawn_local(async move { sessions.keep(&seat).await });
        }
        Ok(())
    }

    /// Keeps a tenant's session, from one that is being started to the last.
    async fn keep(&self, seat: &Rc<Seat>) {
        let mut pause = limits::DATABASE_RETRY_PAUSE;
        loop {
            let begun = clock::now();
            let end = match supervise::caught(self.session(seat)).await {
                Ok(end) => end,
                Err(panic) => {
                    let text = supervise::panic_text(&*panic);
                    self.fail(seat, ErrorCode::UnknownError, &text);
                    End::Lost(AskError::Unreachable)
                }
            };
            // Before anything is awaited: nobody may get a pool that is closed.
            seat.phase.send_replace(end.phase());
            if !matches!(end, End::NotStarted(_)) {
                if begun.elapsed() > limits::DATABASE_RETRY_PAUSE_MAX {
                    pause = limits::DATABASE_RETRY_PAUSE;
                }
                self.tell(seat, DatabaseState::default()).await;
            }
            if matches!(end, End::Idle | End::Unwanted) {
                seat.kept.forget();
            }
            // Somebody may have asked meanwhile, and waits for a keeper that he believes to be there.
            let goes_on = seat.is_starting()
                || match end {
                    End::Lost(_) | End::NotStarted(_) => self.wait_to_retry(seat, pause).await,
                    End::Changed | End::Idle | End::Unwanted => false,
                };
            if !goes_on {
                seat.kept.forget();
                break;
            }
            pause = (pause * 2).min(limits::DATABASE_RETRY_PAUSE_MAX);
            seat.phase.send_replace(Phase::STARTING);
        }
        seat.has_keeper.set(false);
        if self.tenant(seat.tenant).is_none() {
            self.0.seats.borrow_mut().remove(&seat.tenant);
        }
    }

    /// One session, from its start to its end.
    async fn session(&self, seat: &Rc<Seat>) -> End {
        let (tenant, settings) = match self.wanted(seat.tenant) {
            Some((tenant, Ok(settings))) => (tenant, Rc::new(settings)),
            Some((_, Err(text))) => return self.not_started(seat, Failure::unreachable(text)),
            None => return End::Unwanted,
        };
        let connected = || {
            let phase = Phase::Starting { is_connected: true };
            seat.phase.send_replace(phase);
        };
        self.say_initializing(&tenant);
        let mut stop = seat.stop.subscribe();
        let started = tokio::select! {
            started = start::start(Rc::clone(&settings), connected) => started,
            Ok(()) = stop.changed() => return End::Idle,
        };
        match started {
            Ok(started) => live::live(self, seat, (tenant, settings), started, stop).await,
            Err(failure) => self.not_started(seat, failure),
        }
    }

    fn not_started(&self, seat: &Seat, failure: Failure) -> End {
        self.fail(seat, failure.code, &failure.text);
        let now = clock::now().duration_since(self.0.origin);
        if seat.attempts.borrow_mut().fail(now) {
            let code = ErrorCode::DatabaseConnectionRateLimitReached;
            let line = Line::trip(clock::unix_ms(), code, text::TOO_MANY_DATABASE_ATTEMPTS);
            self.0.environment.write_of(seat.tenant, line);
        }
        End::NotStarted(failure.told)
    }

    /// Waits for the next attempt: for somebody who asks, for other settings, or for the end of the pause. False when nobody needs it.
    async fn wait_to_retry(&self, seat: &Seat, pause: Duration) -> bool {
        let mut phases = seat.phase.subscribe();
        let mut tenants = self.0.environment.tenants.clone();
        let mut stop = seat.stop.subscribe();
        let before = tenants.borrow_and_update().database(seat.tenant).cloned();
        let mut due = clock::now() + jittered(pause);
        while self.is_used(seat) || seat.is_starting() {
            tokio::select! {
                Ok(_) = phases.wait_for(Phase::is_starting) => return true,
                Ok(()) = stop.changed() => return seat.is_starting(),
                () = sleep_until(due) => {
                    if !seat.is_blocked(self.0.origin) {
                        return self.is_used(seat);
                    }
                    due += Duration::from_secs(1);
                }
                Ok(()) = tenants.changed() => {
                    if tenants.borrow_and_update().database(seat.tenant) != before.as_ref() {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// The tenant, and the database that it should have a session with now.
    fn wanted(&self, id: TenantId) -> Option<(Arc<Tenant>, Result<Settings, String>)> {
        let live = self.0.environment.tenants.borrow();
        let tenant = live.directory.get(id).filter(|tenant| !tenant.suspended)?;
        Some((Arc::clone(tenant), Settings::in_live(&live, id)?))
    }

    /// Whether a session is needed without being asked for.
    fn is_used(&self, seat: &Seat) -> bool {
        self.tenant(seat.tenant)
            .is_some_and(|tenant| tenant.usage.users() > 0)
    }

    /// Tells the shards.
    async fn tell(&self, seat: &Seat, state: DatabaseState) {
        seat.told.set(state);
        let news = Parcel::All(News::Database(seat.tenant, state));
        self.0.environment.outgoing.send(news).await;
    }

    fn log_prepared(&self, id: TenantId, prepared: &Prepared) {
        for error in &prepared.partition_errors {
            self.log(id, ErrorCode::PartitionCreationFailed, error);
        }
        for note in &prepared.notes {
            self.say(id, Level::Warning, note);
        }
    }

    /// In the original's words (spec: errors-and-logs 3).
    fn say_initializing(&self, tenant: &Tenant) {
        let node = self.0.environment.config.node();
        let text = format!("Tenant {} is initializing: :\"{node}\"", tenant.external_id);
        self.say(tenant.id, Level::Info, &text);
        self.say(tenant.id, Level::Info, "Connection process starting up");
    }

    /// A line without a code.
    fn say(&self, id: TenantId, level: Level, text: &str) {
        if self.0.environment.log.is_enabled(level) {
            let line = Line::new(clock::unix_ms(), level, text);
            self.0.environment.write_of(id, line);
        }
    }

    /// A session has failed: says so, and notes why.
    fn fail(&self, seat: &Seat, code: ErrorCode, text: &str) {
        seat.failure.set(Some(code));
        self.log(seat.tenant, code, text);
    }

    fn log(&self, id: TenantId, code: ErrorCode, text: &str) {
        let line = Line::coded(clock::unix_ms(), code, text);
        self.0.environment.write_of(id, line);
    }
}

impl Phase {
    const STARTING: Self = Self::Starting {
        is_connected: false,
    };

    fn is_starting(&self) -> bool {
        matches!(self, Self::Starting { .. })
    }
}

impl End {
    /// Where it leaves the tenant.
    fn phase(&self) -> Phase {
        match self {
            Self::Idle | Self::Unwanted => Phase::Idle,
            Self::Changed => Phase::STARTING,
            Self::Lost(error) | Self::NotStarted(error) => Phase::Failed(error.clone()),
        }
    }
}

impl Seat {
    fn is_blocked(&self, origin: Instant) -> bool {
        let now = clock::now().duration_since(origin);
        self.attempts.borrow_mut().is_blocked(now)
    }

    fn is_starting(&self) -> bool {
        self.phase.borrow().is_starting()
    }

    fn is_up(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Up(_))
    }
}

impl Failure {
    /// The database cannot be used.
    fn unreachable(text: String) -> Self {
        Self {
            code: ErrorCode::UnableToConnectToTenantDatabase,
            text,
            told: AskError::Unreachable,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::unreachable(describe(&error))
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self::unreachable(error.to_string())
    }
}

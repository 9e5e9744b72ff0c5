//! The sessions with tenants' databases: one per tenant, started by whoever needs it first.
//!
//! What comes in: tenants whose database is needed. What goes out: [`Pool`]s, and to the shards which databases are connected. What
//! always holds:
//!
//! - However many ask, there is one attempt at a time (`many_callers_share_one_attempt`).
//! - A database that fails to start [`limits::DATABASE_FAILURES_MAX`] times in a short while is left alone for a moment
//!   (`failures_in_a_row_block_further_attempts`); a session that runs is handed out all the same.
//! - While users are connected, a session that has failed is tried again by itself, with pauses that grow
//!   (`database_that_comes_back_is_connected_without_being_asked`).
//! - A session works with the settings that the tenant has now: others end it, and a new one is started
//!   (`changed_settings_replace_the_session`).
//! - One task per tenant waits for that tenant's database; nothing that another tenant needs is held meanwhile.
//!
//! Deliberately absent: what is asked of the database, and the stream of its messages; see `authorization` and `messages`.

mod attempts;
mod live;
mod start;

use super::clock;
use super::database::{ConnectError, Environment, Pool, Settings};
use super::outgoing::{News, Parcel};
use super::supervise;
use crate::control::database::connect::jittered;
use crate::error::{ErrorCode, text};
use crate::limits;
use crate::logging::Line;
use crate::mail::{AskError, DatabaseState};
use crate::tenant::{Tenant, TenantId};
use attempts::Attempts;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

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
    /// Ends the pause of that task: somebody has asked.
    wake: Notify,
    /// Something that every session makes sure of is missing in the database.
    doubt: Rc<Notify>,
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
    /// Nobody was connected for long.
    Idle,
    /// The tenant is gone, suspended, or has no database any more.
    Unwanted,
    /// The tenant has another database, or other credentials.
    Changed,
    /// It could not be started, or was lost. The log knows already.
    Failed(AskError),
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
        let settled = phases.wait_for(|phase| !matches!(phase, Phase::Starting { .. }));
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

    /// The place of a tenant that may have a session.
    fn seat(&self, id: TenantId) -> Result<Rc<Seat>, AskError> {
        let tenant = self.tenant(id).ok_or(AskError::Unreachable)?;
        if tenant.suspended {
            return Err(AskError::Suspended);
        }
        if !tenant.has_database {
            return Err(AskError::Unreachable);
        }
        let mut seats = self.0.seats.borrow_mut();
        let seat = seats.entry(id).or_insert_with(|| {
            Rc::new(Seat {
                tenant: id,
                phase: watch::Sender::new(Phase::Idle),
                attempts: RefCell::default(),
                has_keeper: Cell::new(false),
                wake: Notify::new(),
                doubt: Rc::default(),
            })
        });
        Ok(Rc::clone(seat))
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
        if seat.has_keeper.replace(true) {
            seat.wake.notify_one();
        } else {
            let (sessions, seat) = (self.clone(), Rc::clone(seat));
            tokio::task::spawn_local(async move { sessions.keep(&seat).await });
        }
        Ok(())
    }

    /// Keeps a tenant's session, from one that is being started to the last.
    async fn keep(&self, seat: &Rc<Seat>) {
        let mut pause = limits::DATABASE_RETRY_PAUSE;
        loop {
            let end = match supervise::caught(self.session(seat)).await {
                Ok((end, has_run)) => {
                    if has_run {
                        pause = limits::DATABASE_RETRY_PAUSE;
                    }
                    end
                }
                Err(panic) => {
                    let text = supervise::panic_text(&*panic);
                    self.log(seat.tenant, ErrorCode::UnknownError, &text);
                    End::Failed(AskError::Unreachable)
                }
            };
            self.tell(seat.tenant, DatabaseState::default()).await;
            match end {
                End::Changed => {}
                End::Idle | End::Unwanted => break,
                End::Failed(error) => {
                    seat.phase.send_replace(Phase::Failed(error));
                    if !self.wait_to_retry(seat, pause).await {
                        break;
                    }
                    pause = (pause * 2).min(limits::DATABASE_RETRY_PAUSE_MAX);
                }
            }
            if !self.is_used(seat) && !seat.is_starting() {
                break;
            }
            seat.phase.send_replace(Phase::STARTING);
        }
        seat.has_keeper.set(false);
        // A seat that somebody has begun to wait at meanwhile would never be looked at again.
        seat.phase.send_if_modified(|phase| {
            let is_left = !matches!(phase, Phase::Failed(_));
            if is_left {
                *phase = Phase::Idle;
            }
            is_left
        });
        if self.tenant(seat.tenant).is_none() {
            self.0.seats.borrow_mut().remove(&seat.tenant);
        }
    }

    /// One session, from its start to its end; with whether it was started.
    async fn session(&self, seat: &Rc<Seat>) -> (End, bool) {
        let (tenant, settings) = match self.wanted(seat.tenant) {
            Some((tenant, Ok(settings))) => (tenant, Rc::new(settings)),
            Some((_, Err(text))) => return (self.failed_to_start(seat, Failure::settings(text)), false),
            None => return (End::Unwanted, false),
        };
        let connected = || {
            seat.phase
                .send_replace(Phase::Starting { is_connected: true });
        };
        match start::start(Rc::clone(&settings), connected).await {
            Ok(started) => (live::live(self, seat, tenant, settings, started).await, true),
            Err(failure) => (self.failed_to_start(seat, failure), false),
        }
    }

    fn failed_to_start(&self, seat: &Seat, failure: Failure) -> End {
        self.log(seat.tenant, failure.code, &failure.text);
        let now = clock::now().duration_since(self.0.origin);
        if seat.attempts.borrow_mut().fail(now)
            && let Some(tenant) = self.tenant(seat.tenant)
        {
            let code = ErrorCode::DatabaseConnectionRateLimitReached;
            let line = Line::trip(clock::unix_ms(), code, text::TOO_MANY_DATABASE_ATTEMPTS);
            let log = &self.0.environment.log;
            log.write(line.of_tenant(Arc::clone(&tenant.external_id)));
        }
        End::Failed(failure.told)
    }

    /// Waits for the next attempt: for somebody who asks, for other settings, or for the end of the pause. False when nobody needs it.
    async fn wait_to_retry(&self, seat: &Seat, pause: std::time::Duration) -> bool {
        let mut tenants = self.0.environment.tenants.clone();
        let before = tenants.borrow_and_update().database(seat.tenant).cloned();
        loop {
            if !self.is_used(seat) && !seat.is_starting() {
                return false;
            }
            tokio::select! {
                () = seat.wake.notified() => return true,
                () = tokio::time::sleep(jittered(pause)) => {
                    if !seat.is_blocked(self.0.origin) {
                        return true;
                    }
                }
                _ = tenants.changed() => {
                    if tenants.borrow_and_update().database(seat.tenant) != before.as_ref() {
                        return true;
                    }
                }
            }
        }
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
    async fn tell(&self, tenant: TenantId, state: DatabaseState) {
        let news = Parcel::All(News::Database(tenant, state));
        self.0.environment.outgoing.send(news).await;
    }

    fn log(&self, id: TenantId, code: ErrorCode, text: &str) {
        let line = Line::coded(clock::unix_ms(), code, text);
        let line = match self.tenant(id) {
            Some(tenant) => line.of_tenant(Arc::clone(&tenant.external_id)),
            None => line,
        };
        self.0.environment.log.write(line);
    }
}

impl Phase {
    const STARTING: Self = Self::Starting {
        is_connected: false,
    };
}

impl Seat {
    fn is_blocked(&self, origin: Instant) -> bool {
        let now = clock::now().duration_since(origin);
        self.attempts.borrow_mut().is_blocked(now)
    }

    fn is_starting(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Starting { .. })
    }
}

impl Failure {
    /// The extension is not usable.
    fn settings(text: String) -> Self {
        Self {
            code: ErrorCode::UnableToConnectToTenantDatabase,
            text,
            told: AskError::Unreachable,
        }
    }
}

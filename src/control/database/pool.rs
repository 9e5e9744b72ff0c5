//! The general pool of a tenant's database: a few connections that come back by themselves.
//!
//! What comes in: [`Settings`]. What goes out: [`Lease`]s of open connections. What always holds:
//!
//! - A connection is leased to at most [`limits::DATABASE_LEASES_PER_CONNECTION`] at the same time, the longest waiting first
//!   (`leases_are_given_in_the_order_they_were_asked_for`).
//! - Nobody waits longer than `db_queue_target`, and nobody waits while all connections have been lost for longer than that.
//! - A lost connection is opened again at once where it has served for a while, else after a pause that is half random and doubles up
//!   to [`limits::DATABASE_RECONNECT_PAUSE_MAX`] (`a_database_that_hangs_up_at_once_is_not_hammered`).
//!
//! Leases share connections: whoever opens a transaction enqueues all of it, from its begin to its end, in one poll, so that those of
//! others stand before or behind it, never in between.
//!
//! Deliberately absent: when a pool that stays lost is given up; the session decides that.

use super::Settings;
use super::connect::{ConnectError, Connection, connect, jittered};
use crate::control::clock;
use crate::error::ErrorCode;
use crate::limits;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

/// The `application_name` of connections to a tenant's database.
const APPLICATION_NAME: &str = "realtime_connect";

/// A pool. Clones are the same pool; it ends with the last of them, or with [`Pool::close`].
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    settings: Rc<Settings>,
    application_name: &'static str,
    slots: Box<[Slot]>,
    /// Those who wait for a lease. Some may have given up.
    waiting: RefCell<VecDeque<oneshot::Sender<Lease>>>,
    /// Since when no connection is open.
    down_since: watch::Sender<Option<Instant>>,
    /// Why the last attempt to open a connection failed.
    failure: RefCell<Option<ConnectError>>,
    address: Cell<Option<IpAddr>>,
    is_closed: Cell<bool>,
    /// The tasks that keep the slots filled.
    keepers: RefCell<JoinSet<()>>,
}

/// A place for one connection.
#[derive(Default)]
struct Slot {
    connection: RefCell<Option<Rc<Shared>>>,
}

/// A connection and those who use it.
struct Shared {
    connection: Connection,
    leases: Cell<usize>,
}

/// Why there is no lease.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum PoolError {
    /// None got free within `db_queue_target`.
    TimedOut,
    /// The connections are lost and being restored, or the session has ended.
    Gone,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no connection of the pool got free in time",
            Self::Gone => "the connections to the database are lost",
        })
    }
}

impl std::error::Error for PoolError {}

/// The right to use a connection. It is given back when this is dropped.
pub struct Lease {
    pool: Rc<Inner>,
    shared: Rc<Shared>,
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.shared.connection.client
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.leases.set(self.shared.leases.get() - 1);
        self.pool.serve();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connections_max", &self.0.slots.len())
            .field("down_since", &*self.0.down_since.borrow())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Opens the first connection, and the others behind the caller's back.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] of the first connection. There is no pool then, and nothing is tried again.
    pub async fn open(settings: Rc<Settings>) -> Result<Self, ConnectError> {
        Self::open_as(settings, APPLICATION_NAME).await
    }

    /// The same under another `application_name`.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub async fn open_as(
        settings: Rc<Settings>,
        application_name: &'static str,
    ) -> Result<Self, ConnectError> {
        let first = connect(&settings, application_name).await?;
        let slots = settings.pool_size.max(1);
        let pool = Self(Rc::new(Inner {
            settings,
            application_name,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            waiting: RefCell::default(),
            down_since: watch::Sender::new(None),
            failure: RefCell::default(),
            address: Cell::new(None),
            is_closed: Cell::new(false),
            keepers: RefCell::default(),
        }));
        let mut first = Some(pool.0.fill(0, first));
        let mut keepers = JoinSet::new();
        for slot in 0..slots {
            keepers.spawn_local(keep(Rc::downgrade(&pool.0), slot, first.take()));
        }
        pool.0.keepers.replace(keepers);
        Ok(pool)
    }

    /// A connection to ask something of; see the rule for transactions above.
    ///
    /// # Errors
    ///
    /// [`PoolError`], at the latest after `db_queue_target`. What was to be asked is answered as if the database were busy or away.
    pub async fn lease(&self) -> Result<Lease, PoolError> {
        if self.0.is_closed.get() {
            return Err(PoolError::Gone);
        }
        let (give, given) = oneshot::channel();
        self.0.waiting.borrow_mut().push_back(give);
        // Whoever came before is served before.
        self.0.serve();
        match tokio::time::timeout_at(self.deadline(), given).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(_)) => Err(PoolError::Gone),
            Err(_) => {
                self.0.forget_who_gave_up();
                Err(if self.0.down_since.borrow().is_some() {
                    PoolError::Gone
                } else {
                    PoolError::TimedOut
                })
            }
        }
    }

    /// The end of a wait that begins now. It is over already when the database has been away for as long as anybody waits.
    fn deadline(&self) -> Instant {
        let begin = self.0.down_since.borrow().unwrap_or_else(clock::now);
        begin + self.0.settings.queue_target
    }

    /// The address of the connection that was opened last: the one to try for connections of another kind.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.0.address.get()
    }

    /// The same for all clones of this pool, and another one for every other pool that is still held.
    #[must_use]
    pub fn identity(&self) -> usize {
        Rc::as_ptr(&self.0).addr()
    }

    /// The settings that it connects with.
    #[must_use]
    pub fn settings(&self) -> &Rc<Settings> {
        &self.0.settings
    }

    /// Since when there is no open connection, now and after each change. None while there is one.
    #[must_use]
    pub fn down_since(&self) -> watch::Receiver<Option<Instant>> {
        self.0.down_since.subscribe()
    }

    /// Why no connection is open, for the log; None while there is one, or while nothing has been tried yet.
    #[must_use]
    pub fn why_down(&self) -> Option<(ErrorCode, String)> {
        self.why_down_as(|error| (error.code(), error.to_string()))
    }

    /// The same in the words of `explain`.
    #[must_use]
    pub fn why_down_as<T>(&self, explain: impl FnOnce(&ConnectError) -> T) -> Option<T> {
        (*self.0.down_since.borrow())?;
        self.0.failure.borrow().as_ref().map(explain)
    }

    /// Whether the database answers on a connection of this pool. A connection on which it does not within
    /// [`limits::DATABASE_HEALTH_TIMEOUT`] is thrown away and opened again; one that is lost is no business of this.
    pub async fn check_health(&self) {
        for slot in &self.0.slots {
            let Some(shared) = slot.connection.borrow().clone() else {
                continue;
            };
            let answer = shared.connection.client.check_connection();
            let timeout = tokio::time::timeout(limits::DATABASE_HEALTH_TIMEOUT, answer);
            if timeout.await.is_err() {
                shared.connection.cut();
            }
        }
    }

    /// Ends it, whoever still holds it. Connections close when the last of their leases is given back.
    pub fn close(&self) {
        self.0.is_closed.set(true);
        self.0.keepers.borrow_mut().abort_all();
        for slot in &self.0.slots {
            slot.connection.take();
        }
        self.0.waiting.take();
    }
}

impl Inner {
    /// Gives leases to those who wait, as long as there are any.
    fn serve(self: &Rc<Self>) {
        while let Some(shared) = self.least_leased() {
            let first = self.waiting.borrow_mut().pop_front();
            let Some(give) = first else { return };
            if give.is_closed() {
                continue;
            }
            shared.leases.set(shared.leases.get() + 1);
            let lease = Lease {
                pool: Rc::clone(self),
                shared,
            };
            // It is open, and nobody else runs: the lease arrives.
            let _ = give.send(lease);
        }
    }

    /// The connection with the fewest leases, if it may have one more.
    fn least_leased(&self) -> Option<Rc<Shared>> {
        let open = |slot: &Slot| {
            let shared = slot.connection.borrow();
            let is_open = |shared: &&Rc<Shared>| !shared.connection.client.is_closed();
            shared.as_ref().filter(is_open).map(Rc::clone)
        };
        let slots = self.slots.iter();
        slots
            .filter_map(open)
            .min_by_key(|shared| shared.leases.get())
            .filter(|shared| shared.leases.get() < limits::DATABASE_LEASES_PER_CONNECTION)
    }

    /// All wait for the same time: who has given up stands in front.
    fn forget_who_gave_up(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(oneshot::Sender::is_closed) {
            waiting.pop_front();
        }
    }

    fn fill(self: &Rc<Self>, slot: usize, connection: Connection) -> Rc<Shared> {
        self.address.set(Some(connection.address()));
        self.failure.take();
        let shared = Rc::new(Shared {
            connection,
            leases: Cell::new(0),
        });
        self.slots[slot]
            .connection
            .replace(Some(Rc::clone(&shared)));
        self.down_since
            .send_if_modified(|down| down.take().is_some());
        self.serve();
        shared
    }

    fn empty(&self, slot: usize) {
        self.slots[slot].connection.take();
        let is_down = self
            .slots
            .iter()
            .all(|slot| slot.connection.borrow().is_none());
        self.down_since.send_if_modified(|down| {
            let changes = is_down && down.is_none();
            if changes {
                *down = Some(clock::now());
            }
            changes
        });
    }
}

/// Keeps a slot filled as long as there is a pool.
async fn keep(pool: Weak<Inner>, slot: usize, mut shared: Option<Rc<Shared>>) {
    let mut pause = limits::DATABASE_RECONNECT_PAUSE;
    loop {
        if let Some(shared) = shared.take() {
            let opened = clock::now();
            shared.connection.closed().await;
            let Some(pool) = pool.upgrade() else { return };
            pool.empty(slot);
            if opened.elapsed() >= limits::DATABASE_RECONNECT_PAUSE_MAX {
                // It has served: the next one is opened at once.
                pause = limits::DATABASE_RECONNECT_PAUSE;
            } else {
                drop(pool);
                wait(&mut pause).await;
            }
        }
        let settings = pool
            .upgrade()
            .map(|pool| (Rc::clone(&pool.settings), pool.application_name));
        let Some((settings, application_name)) = settings else {
            return;
        };
        let outcome = connect(&settings, application_name).await;
        let Some(pool) = pool.upgrade() else { return };
        match outcome {
            Ok(connection) => shared = Some(pool.fill(slot, connection)),
            Err(error) => {
                pool.failure.replace(Some(error));
                drop(pool);
                wait(&mut pause).await;
            }
        }
    }
}

/// Waits, and makes the next pause longer.
async fn wait(pause: &mut Duration) {
    tokio::time::sleep(jittered(*pause)).await;
    *pause = (*pause * 2).min(limits::DATABASE_RECONNECT_PAUSE_MAX);
}

//! The connections that checks are asked on.
//!
//! What comes in: settings, and how many connections there may be. What goes out: a [`Lease`] of one of them, for one user at a time.
//! What always holds: connections are opened when somebody waits for one, and closed when nobody has used them for
//! [`limits::VISIBILITY_IDLE_MAX`]; one that is given back with a query on it is cut, and the query is cancelled, so that no backend
//! stays busy for nobody (`what_is_given_up_is_cancelled`). Deliberately absent: how long anybody waits.

use super::Measures;
use crate::control::clock;
use crate::control::database::connect::jittered;
use crate::control::database::{Connection, Settings, cancel, connect};
use crate::limits;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The connections' `application_name`.
const APPLICATION_NAME: &str = "realtime_rls";

/// All connections of a tenant for checks.
pub(super) struct Connections(Rc<Inner>);

struct Inner {
    settings: Rc<Settings>,
    connections_max: usize,
    measures: Rc<Measures>,
    idle: RefCell<Vec<(Session, Instant)>>,
    /// Those that are leased, idle or being opened.
    count: Cell<usize>,
    /// Those that are leased.
    leased: Cell<usize>,
    /// One may have become free, or the last attempt to open one has failed.
    changed: Notify,
    pause: Cell<Duration>,
    /// Why the last attempt failed.
    failure: RefCell<Option<Rc<str>>>,
    given_up: RefCell<Vec<Connection>>,
    /// Wakes the keeper.
    keeper: Rc<Notify>,
}

/// A connection and what is prepared on it.
pub(super) struct Session {
    connection: Connection,
    /// Names of prepared statements by role and SQL.
    pub prepared: FxHashMap<(Rc<str>, String), Rc<str>>,
    /// How many names were given, among them those of statements that are not used any more.
    pub names: usize,
}

impl Session {
    /// Sends queries.
    pub(super) fn client(&self) -> &tokio_postgres::Client {
        &self.connection.client
    }
}

/// A connection in use. It goes back when this is dropped.
pub(super) struct Lease {
    connections: Rc<Inner>,
    session: Option<Session>,
    is_busy: bool,
}

impl Lease {
    /// The connection, for something after which nothing is under way on it. Until [`Lease::done`] it counts as busy.
    pub(super) fn begin(&mut self) -> &mut Session {
        self.is_busy = true;
        self.session
            .as_mut()
            .expect("it is taken when dropped only")
    }

    /// Nothing is under way any more.
    pub(super) fn done(&mut self) {
        self.is_busy = false;
    }

    /// Whether it is of any use.
    pub(super) fn is_open(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| !session.client().is_closed())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let inner = &self.connections;
        inner.leased.set(inner.leased.get() - 1);
        if session.client().is_closed() {
            inner.count.set(inner.count.get() - 1);
        } else if self.is_busy {
            inner.count.set(inner.count.get() - 1);
            Measures::add(&inner.measures.given_up, 1);
            session.connection.cut();
            inner.given_up.borrow_mut().push(session.connection);
            inner.keeper.notify_one();
        } else {
            inner.idle.borrow_mut().push((session, clock::now()));
        }
        inner.changed.notify_one();
    }
}

impl Connections {
    /// Opens nothing yet.
    pub(super) fn new(
        settings: Rc<Settings>,
        connections_max: usize,
        measures: Rc<Measures>,
    ) -> Self {
        let keeper = Rc::new(Notify::new());
        let inner = Rc::new(Inner {
            settings,
            connections_max: connections_max.max(1),
            measures,
            idle: RefCell::default(),
            count: Cell::new(0),
            leased: Cell::new(0),
            changed: Notify::new(),
            pause: Cell::new(limits::DATABASE_RECONNECT_PAUSE),
            failure: RefCell::default(),
            given_up: RefCell::default(),
            keeper: Rc::clone(&keeper),
        });
        tokio::task::spawn_local(keep(Rc::downgrade(&inner), keeper));
        Self(inner)
    }

    /// How many there may be.
    pub(super) fn max(&self) -> usize {
        self.0.connections_max
    }

    /// Why there is none, as far as known; nothing while one is open.
    pub(super) fn failure(&self) -> Option<Rc<str>> {
        let idle = self.0.idle.borrow();
        let mut idle = idle.iter();
        let is_open = |(session, _): &(Session, Instant)| !session.client().is_closed();
        if self.0.leased.get() > 0 || idle.any(is_open) {
            return None;
        }
        self.0.failure.borrow().clone()
    }

    /// A connection that nobody else uses. It is waited for as long as it takes.
    pub(super) async fn take(&self) -> Lease {
        loop {
            if let Some(session) = self.0.idle() {
                self.0.leased.set(self.0.leased.get() + 1);
                return Lease {
                    connections: Rc::clone(&self.0),
                    session: Some(session),
                    is_busy: false,
                };
            }
            if self.0.count.get() < self.0.connections_max {
                self.0.count.set(self.0.count.get() + 1);
                tokio::task::spawn_local(open(Rc::downgrade(&self.0)));
            }
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.keeper.notify_one();
    }
}

impl Inner {
    /// The idle connection that was used last. Those that were lost meanwhile are forgotten.
    fn idle(&self) -> Option<Session> {
        while let Some((session, _)) = self.idle.borrow_mut().pop() {
            if !session.client().is_closed() {
                return Some(session);
            }
            self.count.set(self.count.get() - 1);
        }
        None
    }

    fn close_unused(&self) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|(session, since)| {
            !session.client().is_closed() && since.elapsed() < limits::VISIBILITY_IDLE_MAX
        });
        self.count.set(self.count.get() - (before - idle.len()));
    }
}

/// Opens one. While that fails, its place stays taken for a pause, so that a database that is away is not hammered.
async fn open(connections: Weak<Inner>) {
    let Some(settings) = connections
        .upgrade()
        .map(|inner| Rc::clone(&inner.settings))
    else {
        return;
    };
    let outcome = connect(&settings, APPLICATION_NAME).await;
    let Some(inner) = connections.upgrade() else {
        return;
    };
    match outcome {
        Ok(connection) => {
            let session = Session {
                connection,
                prepared: FxHashMap::default(),
                names: 0,
            };
            Measures::add(&inner.measures.connections, 1);
            inner.pause.set(limits::DATABASE_RECONNECT_PAUSE);
            inner.failure.take();
            inner.idle.borrow_mut().push((session, clock::now()));
        }
        Err(error) => {
            inner.failure.replace(Some(error.to_string().into()));
            let pause = inner.pause.get();
            inner
                .pause
                .set((pause * 2).min(limits::VISIBILITY_PAUSE_MAX));
            drop(inner);
            tokio::time::sleep(jittered(pause)).await;
            let Some(inner) = connections.upgrade() else {
                return;
            };
            inner.count.set(inner.count.get() - 1);
            inner.changed.notify_one();
            return;
        }
    }
    inner.changed.notify_one();
}

/// Cancels what was given up, and closes what nobody uses, as long as there are connections.
async fn keep(connections: Weak<Inner>, wake: Rc<Notify>) {
    loop {
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(limits::VISIBILITY_IDLE_MAX / 2) => {}
        }
        let Some(inner) = connections.upgrade() else {
            return;
        };
        inner.close_unused();
        let (settings, given_up) = (Rc::clone(&inner.settings), inner.given_up.take());
        drop(inner);
        for connection in given_up {
            // Where it fails, the statement's own timeout ends it.
            let _ = cancel(&settings, &connection).await;
        }
    }
}

//! Asks the database whether subscriptions may be served.
//!
//! What comes in: questions. What goes out: answers, with the publication as it was then. What always holds: a look at the publication
//! serves all who waited for one when it began, and looks are made one after the other, so their numbers are the order of what they
//! saw; at most [`limits::CHANGES_CHECKS_AT_ONCE_MAX`] questions are asked at the same time, each on a connection for itself, because filters
//! of one client may be slow: neither other clients nor changes wait behind them; the time of a question begins when it is asked; one
//! that runs out is cancelled in the database before the next one takes its place. Deliberately absent: who waits for an answer.

use super::Unanswered;
use super::manager::Manager;
use super::questions::{Look, Outcome, Question, Refusal};
use crate::control::authorization::guard::Timeouts;
use crate::control::changes::catalog::{Catalog, Published};
use crate::control::changes::filter::{CheckError, Checked, check};
use crate::control::changes::settings::ChangesSettings;
use crate::control::changes::wish::Wish;
use crate::control::clock;
use crate::control::database::connect::describe;
use crate::control::database::{Connection, Settings, cancel, connect};
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How the connections show in the database.
const APPLICATION_NAME: &str = "realtime_subscription_manager_pub";

/// What a client reads when the database is away (spec: README, operations).
pub(super) const UNREACHABLE: &str = crate::error::text::UNABLE_TO_CONNECT;

/// What it reads when the database is too slow: the original's text, braces and all (spec: websocket-protocol 7.2).
const TOO_SLOW: &str = "{:error, \"Too many database timeouts\"}";

/// What came of a question, and what the publication was then.
pub(super) struct Answer {
    /// None where it could not be looked at.
    pub(super) look: Option<Look>,
    pub(super) outcome: Outcome,
    /// So many have run out of time by now that nobody is asked about for a while. True once.
    pub(super) trips: bool,
}

/// See the room's documentation.
pub(super) struct Checks {
    settings: Rc<Settings>,
    changes: Rc<ChangesSettings>,
    /// One permit per question that may be under way.
    room: Semaphore,
    /// Connections that nobody uses, and since when.
    idle: RefCell<Vec<(Session, Instant)>>,
    /// Connections on which something is under way that nobody waits for.
    given_up: RefCell<Vec<Connection>>,
    /// Whoever has the permit looks at the publication.
    turn: Semaphore,
    /// The last look, and when it began.
    last: RefCell<Option<(Instant, Look)>>,
    looks: Cell<u64>,
    /// Questions that ran out of time.
    timeouts: RefCell<Timeouts>,
}

/// A connection, and what is prepared on it.
struct Session {
    connection: Connection,
    catalog: Catalog,
}

/// A connection in use.
struct Lease<'a> {
    checks: &'a Checks,
    session: Option<Session>,
    /// It was opened for this use.
    is_new: bool,
}

impl Checks {
    /// Connects to nothing yet.
    pub(super) fn new(settings: Rc<Settings>, changes: Rc<ChangesSettings>) -> Self {
        let room = changes
            .check_connections_max
            .min(limits::CHANGES_CHECKS_AT_ONCE_MAX);
        Self {
            settings,
            changes,
            room: Semaphore::new(room),
            idle: RefCell::default(),
            given_up: RefCell::default(),
            turn: Semaphore::new(1),
            last: RefCell::default(),
            looks: Cell::new(0),
            timeouts: RefCell::default(),
        }
    }

    /// The publication as it is at `asked_at` or later, but not more than a moment ago. Asked on the manager's connection, where no
    /// client's filter is in the way.
    pub(super) async fn look(
        &self,
        manager: &Manager,
        asked_at: Instant,
    ) -> Result<Look, Unanswered> {
        // Nobody closes it.
        let _turn = self.turn.acquire().await;
        let now = clock::now();
        if let Some((began, look)) = &*self.last.borrow()
            && *began >= asked_at
            && *began + limits::CHANGES_CHECK_LIFETIME >= now
        {
            return Ok(look.clone());
        }
        let published = manager.publication(&self.changes.publication).await?;
        self.looks.set(self.looks.get() + 1);
        let look = Look {
            number: self.looks.get(),
            published: Rc::new(published),
        };
        self.last.replace(Some((now, look.clone())));
        Ok(look)
    }

    /// Checks a wish against every table that it matches.
    pub(super) async fn answer(
        &self,
        manager: &Manager,
        question: &Question,
        asked_at: Instant,
    ) -> Answer {
        // Nobody closes it.
        let _room = self.room.acquire().await;
        let connections = self.changes.check_connections_max;
        let are_too_many = self
            .timeouts
            .borrow_mut()
            .are_too_many(clock::now(), connections);
        if are_too_many {
            return Answer {
                look: None,
                outcome: Err(too_slow("too many checks have run out of time of late")),
                trips: false,
            };
        }
        let mut look = None;
        let asking = async {
            let seen = self.look(manager, asked_at).await;
            let seen = seen.map_err(|Unanswered(text)| too_slow(&text))?;
            let published = Rc::clone(&look.insert(seen).published);
            self.ask(&published, question).await
        };
        let outcome = tokio::time::timeout(limits::CHANGES_SUBSCRIBE_TIMEOUT, asking).await;
        let trips = outcome.is_err() && self.timeouts.borrow_mut().note(clock::now(), connections);
        let outcome = outcome.unwrap_or_else(|_| Err(too_slow("the check took too long")));
        let given_up = self.given_up.take();
        for connection in given_up {
            // Where it fails, the timeouts of the statements end it.
            let _ = cancel(&self.settings, &connection).await;
        }
        Answer {
            look,
            outcome,
            trips,
        }
    }

    async fn ask(&self, published: &Published, (wish, role): &Question) -> Outcome {
        let matching = published
            .tables
            .iter()
            .filter(|table| wish.matches(&table.schema, &table.name));
        let oids: FxHashSet<u32> = matching.map(|table| table.oid).collect();
        if oids.is_empty() {
            return Err(Refusal::Refused(wish.not_enabled().into()));
        }
        loop {
            let lease = self.lease().await?;
            let tables = check_all(lease.session(), &oids, wish, role.as_ref()).await;
            let is_lost = lease.session().connection.client.is_closed();
            let is_new = lease.is_new;
            lease.done();
            if is_new || !is_lost || !matches!(tables, Err(Refusal::Failed(..))) {
                return tables;
            }
            // It was closed while nobody used it: there are others.
        }
    }

    /// A connection that nobody else uses.
    async fn lease(&self) -> Result<Lease<'_>, Refusal> {
        let idle = || Some(self.idle.borrow_mut().pop()?.0);
        let open = std::iter::from_fn(idle).find(|session| !session.connection.client.is_closed());
        let is_new = open.is_none();
        let session = match open {
            Some(session) => session,
            None => {
                let connection = connect(&self.settings, APPLICATION_NAME).await;
                let failed =
                    |error| Refusal::Failed(UNREACHABLE, format!("no check: {error}").into());
                Session {
                    connection: connection.map_err(failed)?,
                    catalog: Catalog::default(),
                }
            }
        };
        Ok(Lease {
            checks: self,
            session: Some(session),
            is_new,
        })
    }

    /// Closes connections that nobody has used for long.
    pub(super) fn close_unused(&self, now: Instant) {
        self.idle.borrow_mut().retain(|(session, since)| {
            !session.connection.client.is_closed() && *since + limits::CHANGES_CHECK_IDLE_MAX > now
        });
    }
}

impl Lease<'_> {
    fn session(&self) -> &Session {
        self.session.as_ref().expect("it is taken at the end only")
    }

    /// Nothing is under way on it.
    fn done(mut self) {
        if let Some(session) = self.session.take() {
            let idle = &self.checks.idle;
            idle.borrow_mut().push((session, clock::now()));
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.connection.cut();
            self.checks.given_up.borrow_mut().push(session.connection);
        }
    }
}

/// Checks a wish against these tables, one after the other.
async fn check_all(
    session: &Session,
    oids: &FxHashSet<u32>,
    wish: &Wish,
    role: Option<&Rc<str>>,
) -> Outcome {
    let client = &session.connection.client;
    let is_plain = wish.filters.is_empty() && wish.select.is_none();
    let roles = [role.cloned().unwrap_or_default()];
    let mut tables: FxHashMap<u32, Rc<Checked>> = FxHashMap::default();
    let mut plain: Option<Rc<Checked>> = None;
    for &oid in oids {
        if let Some(plain) = &plain {
            tables.insert(oid, Rc::clone(plain));
            continue;
        }
        let found = session.catalog.look(client, &[(oid, &roles)]).await;
        let mut found = found.map_err(|error| too_slow(&describe(&error)))?;
        // Dropped in between.
        let Some(table) = found.tables.remove(&oid) else {
            continue;
        };
        let checked = check(client, &table, role.map(|role| &**role), wish).await;
        let checked = Rc::new(checked.map_err(|error| refusal_of(wish, error))?);
        if is_plain {
            // Nothing of it depends on the table: the role exists.
            plain = Some(Rc::clone(&checked));
        }
        tables.insert(oid, checked);
    }
    if tables.is_empty() {
        return Err(Refusal::Refused(wish.not_enabled().into()));
    }
    Ok(Rc::new(tables))
}

fn refusal_of(wish: &Wish, error: CheckError) -> Refusal {
    match error {
        CheckError::Failed(error) => too_slow(&describe(&error)),
        refused => {
            let text = refused.text().expect("the database or the check says why");
            Refusal::Refused(wish.exception(&text).into())
        }
    }
}

fn too_slow(log: &str) -> Refusal {
    Refusal::Failed(TOO_SLOW, log.into())
}

//! What a role may read and write on a private channel, asked of the tenant's own database (spec: authorization-rls).
//!
//! What comes in: contexts and what is to be checked. What goes out: verdicts. What always holds:
//!
//! - A verdict that cannot be had is an error. (`every_failure_has_its_reason`)
//! - Equal questions that are in flight at the same time share one evaluation, and nothing of it is kept after it has ended.
//!   (`equal_checks_in_flight_share_one_evaluation`)
//! - Nobody gets a verdict of which the database had begun to think long before he asked. (`slow_evaluations_are_not_joined_late`)
//! - Nothing of a check is left in the database or on its connection. (`nothing_is_left_behind`)
//! - Nobody waits for a connection longer than `db_queue_target`, and who waited in vain too often does not wait at all.
//!   (`a_pool_that_is_not_free_is_protected`)
//!
//! Deliberately absent: remembering verdicts; a channel does that.

mod asker;
mod check;
pub(super) mod guard;
mod outcome;

use super::clock;
use super::database::{Environment, Pool, PoolError};
use crate::error::{ErrorCode, text};
use crate::limits;
use crate::logging::{Identity, Line};
use crate::mail::{AskError, Checks, Context, Verdict};
use crate::metrics::millis;
use crate::tenant::TenantId;
use asker::Asker;
use foldhash::quality::RandomState;
use guard::Timeouts;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::rc::Rc;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

type Outcome = Result<Verdict, AskError>;

/// Asks tenants' databases. Clones are the same.
#[derive(Clone)]
pub struct Authorizer(Rc<Shared>);

struct Shared {
    environment: Rc<Environment>,
    /// Its keys are chosen by clients.
    in_flight: RefCell<HashMap<Key, Rc<Progress>, RandomState>>,
    timeouts: RefCell<FxHashMap<TenantId, Timeouts>>,
}

/// How far an evaluation is.
#[derive(Default)]
struct Progress {
    /// When the database came to it.
    begun: Cell<Option<Instant>>,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Progress {
    /// Whether one who asks now may share it: until the database comes to it, its verdict is as fresh as any.
    fn is_fresh(&self) -> bool {
        let age = |begun| clock::now().duration_since(begun);
        let begun = self.begun.get();
        begun.is_none_or(|begun| age(begun) < limits::POLICY_SHARED_WITHIN)
    }
}

/// What makes two questions one.
#[derive(Clone, Eq, PartialEq)]
struct Key {
    tenant: TenantId,
    /// Where it is asked: after a change of settings that is another database.
    pool: usize,
    context: Context,
    checks: Checks,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Headers tell few sockets of one token and topic apart: comparing is left to them.
        self.tenant.hash(state);
        self.context.topic.hash(state);
        self.context.claims.json.hash(state);
        self.checks.hash(state);
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_flight = self.0.in_flight.borrow().len();
        f.debug_struct("Authorizer")
            .field("in_flight", &in_flight)
            .finish_non_exhaustive()
    }
}

impl Authorizer {
    /// With nothing in flight.
    #[must_use]
    pub fn new(environment: Rc<Environment>) -> Self {
        Self(Rc::new(Shared {
            environment,
            in_flight: RefCell::default(),
            timeouts: RefCell::default(),
        }))
    }

    /// What the policies of the tenant's database say. To be called within the `LocalSet`; a check that its caller gives up goes on
    /// to its end.
    ///
    /// # Errors
    ///
    /// Why there is no verdict.
    pub async fn check(
        &self,
        tenant: TenantId,
        pool: &Pool,
        context: &Context,
        checks: Checks,
    ) -> Outcome {
        if checks == Checks::default() {
            return Ok(Verdict::default());
        }
        let key = Key {
            tenant,
            pool: pool.identity(),
            context: context.clone(),
            checks,
        };
        let mut outcome = self.evaluation(key, pool);
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| {
            Err(AskError::Other(
                "a check ended without a verdict".to_owned(),
            ))
        })
    }

    /// The evaluation that is under way, or a new one.
    fn evaluation(&self, key: Key, pool: &Pool) -> watch::Receiver<Option<Outcome>> {
        let mut in_flight = self.0.in_flight.borrow_mut();
        if let Some(progress) = in_flight.get(&key).filter(|progress| progress.is_fresh()) {
            return progress.outcome.subscribe();
        }
        let progress = Rc::new(Progress::default());
        let outcome = progress.outcome.subscribe();
        in_flight.insert(key.clone(), Rc::clone(&progress));
        let flight = Flight {
            shared: Rc::clone(&self.0),
            key,
            progress,
        };
        tokio::task::spawn_local(evaluate(flight, pool.clone()));
        outcome
    }
}

/// An evaluation that others may share. It is over when this is dropped, also by a panic.
struct Flight {
    shared: Rc<Shared>,
    key: Key,
    progress: Rc<Progress>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut in_flight = self.shared.in_flight.borrow_mut();
        // A later one may have taken its place.
        let is_ours = |progress: &Rc<Progress>| Rc::ptr_eq(progress, &self.progress);
        if in_flight.get(&self.key).is_some_and(is_ours) {
            in_flight.remove(&self.key);
        }
    }
}

impl Flight {
    /// Answers all who wait. Whoever asks from now on gets an evaluation of its own.
    fn land(self, outcome: Outcome) {
        match (&outcome, self.progress.begun.get()) {
            (Err(reason), _) => self.shared.log(&self.key, reason),
            (Ok(_), Some(begun)) => self.shared.measure(&self.key, begun),
            (Ok(_), None) => {}
        }
        let progress = Rc::clone(&self.progress);
        drop(self);
        progress.outcome.send_replace(Some(outcome));
    }

    /// The same when it has waited for a connection in vain.
    fn land_exhausted(self, pool: &Pool) {
        let pool_size = pool.settings().pool_size;
        self.shared.note_timeout(&self.key, pool_size);
        self.land(Err(AskError::PoolExhausted));
    }
}

/// Evaluates and answers. Those who wait may be answered before the database is through with it; the lease is kept until it is.
async fn evaluate(flight: Flight, pool: Pool) {
    let Key {
        context, checks, ..
    } = flight.key.clone();
    let asker = match Asker::of(&context) {
        Ok(asker) => asker,
        Err(reason) => return flight.land(Err(reason)),
    };
    let settings = pool.settings();
    if flight
        .shared
        .is_protected(flight.key.tenant, settings.pool_size)
    {
        return flight.land(Err(AskError::PoolExhausted));
    }
    let patience = settings.queue_target.max(limits::POLICY_BEGIN_TIMEOUT_MIN);
    let deadline = clock::now() + patience;
    let lease = match pool.lease().await {
        Ok(lease) => lease,
        Err(PoolError::Gone) => return flight.land(Err(AskError::Unreachable)),
        Err(PoolError::TimedOut) => return flight.land_exhausted(&pool),
    };
    let (begun, has_begun) = oneshot::channel();
    let progress = Rc::clone(&flight.progress);
    let begun = move || {
        progress.begun.set(Some(clock::now()));
        let _ = begun.send(());
    };
    let mut check = pin!(check::evaluate(&lease, &asker, checks, begun));
    let outcome = tokio::select! {
        biased;
        outcome = check.as_mut() => outcome.map_err(|failure| outcome::reason_of(&failure, asker.role)),
        late = too_late(deadline, has_begun) => {
            match late {
                Late::Queued => flight.land_exhausted(&pool),
                Late::Slow => {
                    let text = "the policies were not evaluated in time".to_owned();
                    flight.land(Err(AskError::Canceled(text)));
                }
            }
            // Its end is bounded by the time of its statements, or by that of its connection.
            let _ = check.await;
            return;
        }
    };
    flight.land(outcome);
}

/// Why nobody is to wait any longer.
enum Late {
    /// The database has not come to the check in time, for it is busy with those in front.
    Queued,
    /// It has, and is not through with it in time.
    Slow,
}

async fn too_late(deadline: Instant, has_begun: oneshot::Receiver<()>) -> Late {
    if tokio::time::timeout_at(deadline, has_begun).await.is_err() {
        return Late::Queued;
    }
    tokio::time::sleep(limits::POLICY_TIMEOUT).await;
    Late::Slow
}

impl Shared {
    fn is_protected(&self, tenant: TenantId, pool_size: usize) -> bool {
        let mut timeouts = self.timeouts.borrow_mut();
        let Some(of_tenant) = timeouts.get_mut(&tenant) else {
            return false;
        };
        let is_protected = of_tenant.are_too_many(clock::now(), pool_size);
        if of_tenant.is_empty() {
            timeouts.remove(&tenant);
        }
        is_protected
    }

    fn note_timeout(&self, key: &Key, pool_size: usize) {
        let text = "no connection of the pool got free in time";
        self.write(key, ErrorCode::ErrorExecutingTransaction, text);
        let mut timeouts = self.timeouts.borrow_mut();
        let of_tenant = timeouts.entry(key.tenant).or_default();
        if of_tenant.note(clock::now(), pool_size) {
            let code = ErrorCode::IncreaseConnectionPool;
            let line = Line::trip(clock::unix_ms(), code, text::TOO_MANY_DATABASE_TIMEOUTS);
            self.environment.write_of(key.tenant, line);
        }
    }

    /// What an operator has to know of it, once for all who asked the same. A join that is refused is logged by its shard, with what
    /// the database said; a write that is refused by its code alone.
    fn log(&self, key: &Key, reason: &AskError) {
        match reason {
            _ if !key.checks.writes => {}
            AskError::Policy(text) => self.write(key, ErrorCode::RlsPolicyError, text),
            AskError::Other(text) => self.write(key, ErrorCode::UnableToSetPolicies, text),
            _ => {}
        }
    }

    /// A verdict was had, which the database began to think of at this moment.
    fn measure(&self, key: &Key, begun: Instant) {
        let took = millis(clock::now().duration_since(begun));
        if let Some(tenant) = self.environment.tenants.borrow().directory.get(key.tenant) {
            let latencies = tenant.usage.latencies();
            if key.checks.broadcast_read || key.checks.presence_read {
                latencies.read_authorization.observe(took);
            }
            if key.checks.writes {
                latencies.write_authorization.observe(took);
            }
        }
    }

    fn write(&self, key: &Key, code: ErrorCode, text: &str) {
        let claims = &key.context.claims;
        let exp = claims.exp.map(|exp| exp.to_string());
        let whose = Identity::new(claims.sub.as_deref(), claims.iss.as_deref(), exp.as_deref());
        let line = Line::coded(clock::unix_ms(), code, text).on_behalf_of(whose);
        self.environment.write_of(key.tenant, line);
    }
}

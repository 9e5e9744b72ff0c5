//! A session that runs: what is looked after as long as it lasts.
//!
//! What comes in: a started session. What goes out: how it ended. What always holds: it ends when nobody was connected for about
//! twelve minutes (`IdleClock`), when its database was away for ten, and when the tenant has other settings. Its tasks (the stream of
//! messages, the maintenance) end with it. Deliberately absent: a bound on how often it is started again; the keeper knows that.

use super::start::{self, Prepared, Started};
use super::{End, Failure, Phase, Seat, Sessions};
use crate::control::clock;
use crate::control::database::{Pool, Settings};
use crate::control::messages::{self, Source};
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::mail::{AskError, DatabaseState};
use crate::tenant::Tenant;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

/// Runs a session until its end.
pub(super) async fn live(
    sessions: &Sessions,
    seat: &Rc<Seat>,
    (tenant, settings): (Arc<Tenant>, Rc<Settings>),
    started: Started,
    stop: watch::Receiver<()>,
) -> End {
    let Started {
        pool,
        database,
        since,
        prepared,
        is_ipv4_only,
    } = started;
    if is_ipv4_only {
        let text = format!(
            "Tenant database host {} resolved to an IPv4 address",
            settings.host
        );
        sessions.log(tenant.id, ErrorCode::DatabaseIpVersionIsIpv4, &text);
    }
    sessions.log_prepared(tenant.id, &prepared);
    let (state, is_replicating) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let source = Source {
        tenant: Arc::clone(&tenant),
        settings: Rc::clone(&settings),
        pool: pool.clone(),
        ledger: seat.kept.take_up(database, since),
        state,
        measures: Rc::clone(&seat.measures),
        environment: Rc::clone(&sessions.0.environment),
    };
    tasks.spawn_local(async move {
        messages::broadcast(source).await;
    });
    let upkeep = Upkeep {
        sessions: sessions.clone(),
        seat: Rc::clone(seat),
        pool: pool.clone(),
        partitions_due: next_partitions(&prepared),
    };
    tasks.spawn_local(upkeep.run());
    let connected = DatabaseState {
        is_connected: true,
        is_replicating: false,
    };
    // First the shards: whoever waits for the session may ask for the state of its stream next.
    sessions.tell(seat, connected).await;
    seat.has_run.set(true);
    seat.prepared.replace(
        sessions
            .0
            .environment
            .tenants
            .borrow()
            .database(tenant.id)
            .cloned(),
    );
    seat.failure.set(None);
    seat.phase.send_replace(Phase::Up(pool.clone()));
    let watched = Watched {
        tenant: &tenant,
        settings: &settings,
        pool: &pool,
        is_replicating,
        stop,
    };
    let end = watch_over(sessions, seat, watched, tasks).await;
    pool.close();
    end
}

/// A session that runs, and what may happen to it.
struct Watched<'a> {
    tenant: &'a Arc<Tenant>,
    settings: &'a Settings,
    pool: &'a Pool,
    is_replicating: watch::Receiver<bool>,
    stop: watch::Receiver<()>,
}

/// Waits for the end of a session.
async fn watch_over(
    sessions: &Sessions,
    seat: &Seat,
    watched: Watched<'_>,
    mut tasks: JoinSet<()>,
) -> End {
    let Watched {
        tenant,
        settings,
        pool,
        mut is_replicating,
        mut stop,
    } = watched;
    let mut tenants = sessions.0.environment.tenants.clone();
    // What was changed while the session started counts as well.
    tenants.mark_changed();
    let mut known = None;
    let mut down = pool.down_since();
    // It may have been lost since it was opened.
    down.mark_changed();
    let mut lost = None;
    let mut idle = IdleClock::default();
    let mut users = every(limits::DATABASE_USERS_INTERVAL);
    loop {
        let window_end = lost.unwrap_or_else(clock::now) + limits::DATABASE_RECOVERY_WINDOW;
        tokio::select! {
            // Neither of the tasks returns while all is well.
            ended = tasks.join_next() => {
                if let Some(Err(error)) = ended {
                    sessions.fail(seat, ErrorCode::UnknownError, &error.to_string());
                }
                return End::Lost(AskError::Unreachable);
            }
            Ok(()) = is_replicating.changed() => {
                let state = DatabaseState {
                    is_connected: true,
                    is_replicating: *is_replicating.borrow_and_update(),
                };
                sessions.tell(seat, state).await;
            }
            Ok(()) = stop.changed() => {
                sessions.say(tenant.id, Level::Warning, "Shutdowning tenant connection");
                return End::Idle;
            }
            Ok(()) = tenants.changed() => {
                let now = tenants.borrow_and_update().database(tenant.id).cloned();
                match sessions.wanted(tenant.id) {
                    None => return End::Unwanted,
                    Some(_) if now == known => {}
                    Some((_, Ok(same))) if same == *settings => known = now,
                    Some(_) => return End::Changed,
                }
            }
            Ok(()) = down.changed() => {
                let is_first = lost.is_none();
                lost = *down.borrow_and_update();
                if is_first && lost.is_some() {
                    let code = ErrorCode::DatabaseConnectionDown;
                    sessions.log(tenant.id, code, "Database pool connection lost, recovery window opened");
                }
            }
            () = sleep_until(window_end), if lost.is_some() => {
                let text = format!(
                    "Database pool could not reconnect within {}ms, terminating connection",
                    limits::DATABASE_RECOVERY_WINDOW.as_millis()
                );
                sessions.fail(seat, ErrorCode::DatabaseConnectionRecoveryWindowExceeded, &text);
                return End::Lost(AskError::Unreachable);
            }
            _ = users.tick() => {
                if idle.sample(tenant.usage.users()) {
                    let text = "Tenant has no connected users, database connection will be terminated";
                    sessions.say(tenant.id, Level::Info, text);
                    return End::Idle;
                }
            }
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = interval_at(clock::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Samples in a row without a user.
#[derive(Default)]
struct IdleClock(u32);

impl IdleClock {
    /// Takes a sample. True when the session has been idle for so long that it ends: the last samples were all zero, and one more
    /// interval has passed.
    fn sample(&mut self, users: u32) -> bool {
        self.0 = if users == 0 { self.0 + 1 } else { 0 };
        self.0 > limits::DATABASE_IDLE_SAMPLES
    }
}

/// When the schema was looked at because somebody missed something. What is missed may be no business of ours, and then it is missed
/// again and again: each look makes the pause to the next one longer.
#[derive(Default)]
struct Doubts {
    last: Option<(Instant, Duration)>,
}

impl Doubts {
    /// Whether a doubt that comes now has the schema looked at.
    fn deserve_a_look(&mut self, now: Instant) -> bool {
        let pause = match self.last {
            Some((at, pause)) if now < at + pause => return false,
            Some((at, pause)) if now < at + limits::DATABASE_DOUBT_PAUSE_MAX * 2 => {
                (pause * 2).min(limits::DATABASE_DOUBT_PAUSE_MAX)
            }
            _ => limits::DATABASE_DOUBT_PAUSE,
        };
        self.last = Some((now, pause));
        true
    }
}

/// When the partitions are to be looked at again.
fn next_partitions(prepared: &Prepared) -> Instant {
    clock::now()
        + if prepared.partition_errors.is_empty() {
            limits::DATABASE_PARTITIONS_INTERVAL
        } else {
            limits::DATABASE_PARTITIONS_RETRY
        }
}

/// What is done in the database from time to time.
struct Upkeep {
    sessions: Sessions,
    seat: Rc<Seat>,
    pool: Pool,
    partitions_due: Instant,
}

impl Upkeep {
    async fn run(mut self) {
        let mut health = every(limits::DATABASE_HEALTH_INTERVAL);
        let mut down = self.pool.down_since();
        let mut doubts = Doubts::default();
        loop {
            tokio::select! {
                _ = health.tick() => {
                    // While all connections are lost the operator learns why.
                    match self.pool.why_down() {
                        Some((code, text)) => self.sessions.log(self.seat.tenant, code, &text),
                        None => {
                            self.pool.check_health().await;
                            self.look_at_schema().await;
                        }
                    }
                }
                () = sleep_until(self.partitions_due) => self.make_partitions().await,
                () = self.seat.doubt.notified() => {
                    if doubts.deserve_a_look(clock::now()) {
                        self.prepare().await;
                    }
                }
                Ok(()) = down.changed() => {
                    let is_back = down.borrow_and_update().is_none();
                    if is_back {
                        // It may be another database now, made anew under the old name.
                        self.look_at_schema().await;
                    }
                }
            }
        }
    }

    /// Makes the schema again where somebody has dropped it.
    async fn look_at_schema(&mut self) {
        let Ok(lease) = self.pool.lease().await else {
            return;
        };
        let sql = "SELECT to_regclass('realtime.messages') IS NULL";
        let rows = tokio::time::timeout(limits::DATABASE_STEP_TIMEOUT, lease.query_typed(sql, &[]));
        let Ok(Ok(rows)) = rows.await else { return };
        drop(lease);
        let is_missing = rows.first().and_then(|row| row.try_get(0).ok());
        if is_missing == Some(true) {
            self.prepare().await;
        }
    }

    /// Schema and partitions.
    async fn prepare(&mut self) {
        let outcome = start::prepare(self.pool.settings()).await;
        self.note(outcome);
    }

    async fn make_partitions(&mut self) {
        let outcome = start::make_partitions(self.pool.settings()).await;
        self.note(outcome);
    }

    fn note(&mut self, outcome: Result<Prepared, Failure>) {
        let tenant = self.seat.tenant;
        match outcome {
            Ok(prepared) => {
                self.partitions_due = next_partitions(&prepared);
                self.sessions.log_prepared(tenant, &prepared);
            }
            Err(failure) => {
                self.partitions_due = clock::now() + limits::DATABASE_PARTITIONS_RETRY;
                self.sessions.log(tenant, failure.code, &failure.text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_that_lead_to_nothing_are_heard_less_and_less() {
        let start = clock::now();
        let mut doubts = Doubts::default();
        let mut looks =
            (0..4000).filter(|second| doubts.deserve_a_look(start + Duration::from_secs(*second)));
        let first: Vec<_> = looks.by_ref().take(9).collect();
        assert_eq!(first, [0, 5, 15, 35, 75, 155, 315, 615, 915]);
        drop(looks);
        let much_later = start + Duration::from_secs(20_000);
        assert!(doubts.deserve_a_look(much_later));
        assert!(doubts.deserve_a_look(much_later + limits::DATABASE_DOUBT_PAUSE));
    }

    #[test]
    fn idle_session_ends_one_interval_after_the_last_samples_were_all_zero() {
        let check = |samples: &[u32], expected: Option<usize>| {
            let mut idle = IdleClock::default();
            let end = samples.iter().position(|users| idle.sample(*users));
            assert_eq!(end, expected, "{samples:?}");
        };
        check(&[0; 11], None);
        check(&[0; 12], Some(11));
        check(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None);
        check(&[&[0; 10][..], &[1], &[0; 12]].concat(), Some(22));
    }
}

//! What looks after a running stream (spec: broadcast-from-database 2.2).
//!
//! What comes in: the state of the stream, and what the database says of its slot and publication. What goes out: a fault when the
//! stream is to be started anew, after a line that says why. What always holds: the log that the database keeps for the slot stays
//! below the operator's bound and below half of its own, or the slot is given up; what a publication does not publish any more is
//! noticed. Deliberately absent: starting anew.

use super::engine::{Engine, Phase};
use super::measures::Lag;
use super::publication::{self, Publication};
use crate::control::clock;
use crate::control::database::connect::describe;
use crate::control::replication::Fault;
use crate::control::replication::slot::{self, Sight};
use crate::control::replication::watch::{Heard, Silence, Verdict, judge_slot};
use crate::error::{ErrorCode, Level};
use crate::limits;
use std::time::Duration;
use tokio_postgres::types::Type;

impl Engine {
    /// Looks after the stream of the process `pid` until it is to be given up.
    pub(super) async fn watch(&self, pid: i32) -> Fault {
        let config = &self.source.environment.config;
        let interval = Duration::from_millis(config.replication_watchdog_interval_ms);
        let check_interval = interval.min(limits::REPLICATION_CHECK_INTERVAL);
        let snapshot_interval = interval.min(limits::BROADCAST_SNAPSHOT_INTERVAL);
        let now = clock::now();
        let (mut check_at, mut snapshot_at) = (now + check_interval, now + snapshot_interval);
        let mut report_at = now + interval;
        let max = limits::REPLICATION_SILENCE_MAX.min(interval * 2);
        let mut silence = Silence::new(self.events.get(), self.position.get(), now, max);
        loop {
            tokio::time::sleep_until(check_at.min(snapshot_at)).await;
            if clock::now() >= snapshot_at {
                self.take_snapshot().await;
                snapshot_at = clock::now() + snapshot_interval;
            }
            if clock::now() < check_at {
                continue;
            }
            let look = tokio::time::timeout(limits::REPLICATION_CHECK_TIMEOUT, self.look());
            match look
                .await
                .unwrap_or_else(|_| Err("it took too long".to_owned()))
            {
                Ok((sight, publication)) => {
                    self.note_lag(&sight);
                    let verdict = self
                        .judge(&sight, publication)
                        .or_else(|| self.judge_silence(&mut silence, &sight));
                    if let Some((code, text)) = verdict {
                        self.log(code, &text);
                        self.terminate(pid).await;
                        return Fault::Broken(text);
                    }
                }
                // The connection may be on its way back: one line a watchdog's turn.
                Err(text) if clock::now() >= report_at => {
                    let text = format!("Could not check replication slot: {text}");
                    self.log(ErrorCode::ReplicationSlotCheckSkipped, &text);
                }
                Err(_) => {}
            }
            if clock::now() >= report_at {
                report_at = clock::now() + interval;
            }
            check_at = clock::now() + check_interval;
        }
    }

    async fn look(&self) -> Result<(Sight, Publication), String> {
        let lease = self
            .source
            .pool
            .lease()
            .await
            .map_err(|error| error.to_string())?;
        let slot = self.slot.borrow().clone();
        let (sight, publication) =
            tokio::join!(slot::look(&lease, &slot), publication::look(&lease));
        let said = |error| describe(&error);
        Ok((sight.map_err(said)?, publication.map_err(said)?))
    }

    fn note_lag(&self, sight: &Sight) {
        let lag = Lag {
            bytes: sight.end.0.saturating_sub(self.position.get().0),
            ..self.measures.lag.get()
        };
        self.measures.lag.set(lag);
        if self.source.environment.log.is_enabled(Level::Debug) {
            let text = format!(
                "replication lag: {} bytes, {} ms from commit to broadcast",
                lag.bytes, lag.ms
            );
            self.say(Level::Debug, &text);
        }
    }

    fn judge(&self, sight: &Sight, publication: Publication) -> Option<Verdict> {
        let bytes_max = self
            .source
            .environment
            .config
            .replication_slot_wal_bytes_max;
        let slot = sight.slot.as_ref();
        // One that is being made need not be there yet, nor be anybody's.
        if self.phase.get() == Phase::Making && !slot.is_some_and(|slot| slot.is_active) {
            return None;
        }
        judge_slot(slot, &self.slot.borrow(), bytes_max).or_else(|| {
            (publication != Publication::Right).then(|| {
                let text = format!(
                    "the publication {} does not publish realtime.messages any more",
                    publication::NAME
                );
                (ErrorCode::StartReplicationFailed, text)
            })
        })
    }

    fn judge_silence(&self, silence: &mut Silence, sight: &Sight) -> Option<Verdict> {
        let is_busy = self.is_publishing.get() || self.phase.get() != Phase::Streaming;
        silence.judge(&Heard {
            events: self.events.get(),
            position: self.position.get(),
            is_busy,
            end: sight.end,
            now: clock::now(),
        })
    }

    /// Ends the server's end of a stream that may not notice by itself that nobody reads it. What fails here ends by itself later.
    async fn terminate(&self, pid: i32) {
        const SQL: &str = "select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots \
             where slot_name = $1 and active_pid = $2";
        let slot = self.slot.borrow().clone();
        let end = async {
            let lease = self.source.pool.lease().await.ok()?;
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
                [(&slot, Type::TEXT), (&pid, Type::INT4)];
            lease.query_typed(SQL, &parameters).await.ok()
        };
        let _ = tokio::time::timeout(limits::REPLICATION_CHECK_TIMEOUT, end).await;
    }

    /// Moves the ledger on, so that it forgets what was delivered.
    async fn take_snapshot(&self) {
        let since = {
            let mut ledger = self.ledger.borrow_mut();
            if self.phase.get() != Phase::Streaming || ledger.is_empty() || ledger.is_moving() {
                return;
            }
            ledger.rotate();
            ledger.since().clone()
        };
        let take = async {
            let lease = self.source.pool.lease().await.ok()?;
            since.take_next(&lease).await.ok()
        };
        let taken = tokio::time::timeout(limits::REPLICATION_CHECK_TIMEOUT, take).await;
        // Without one the ledger stays where it is, and grows up to its bound.
        if let Ok(Some(snapshot)) = taken {
            let mut ledger = self.ledger.borrow_mut();
            if ledger.move_on(snapshot) {
                ledger.passed(self.position.get());
            }
        }
    }
}

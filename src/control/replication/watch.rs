//! When a slot, or a stream from it, is to be given up.
//!
//! What comes in: what the database says of the slot, what was heard of the stream, and the time. What goes out: a [`Verdict`], or none.
//! What always holds: the log that the database keeps for a slot stays below the operator's bound and below half of its own
//! (`slots_are_given_up_for_the_reasons_of_the_table`). Deliberately absent: looking, and giving up.

use super::Lsn;
use super::slot::SlotState;
use crate::error::ErrorCode;
use crate::limits;
use std::time::Duration;
use tokio::time::Instant;

/// Why a slot or a stream is given up: code and text of the line.
pub type Verdict = (ErrorCode, String);

/// What was seen of a stream that says nothing.
#[derive(Debug)]
pub struct Silence {
    /// Events when it was last seen to say something.
    events: u64,
    /// When that was.
    since: Instant,
    /// The end of the log at that moment: the stream should get there.
    end: Lsn,
    /// How long it may last.
    max: Duration,
}

/// What was heard of a stream up to now.
#[derive(Copy, Clone, Debug)]
pub struct Heard {
    /// Events so far.
    pub events: u64,
    /// Everything before this has been said.
    pub position: Lsn,
    /// The stream is not listened to, for whatever reason of the reader's.
    pub is_busy: bool,
    /// The end of the database's log.
    pub end: Lsn,
    /// The moment.
    pub now: Instant,
}

impl Silence {
    /// A stream begins that is to say what stands behind `position`.
    #[must_use]
    pub fn new(events: u64, position: Lsn, now: Instant, max: Duration) -> Self {
        Self {
            events,
            since: now,
            end: position,
            max,
        }
    }

    /// Whether it has said nothing for too long, although there was something to say.
    pub fn judge(&mut self, heard: &Heard) -> Option<Verdict> {
        let grew = self.end.0.saturating_sub(heard.position.0);
        if heard.events != self.events || heard.is_busy || grew <= limits::REPLICATION_SILENCE_BYTES
        {
            *self = Self::new(heard.events, heard.end, heard.now, self.max);
            return None;
        }
        (heard.now.duration_since(self.since) >= self.max).then(|| {
            (
                ErrorCode::ReplicationConnectionWatchdogTimeout,
                "ReplicationConnection is not responding".to_owned(),
            )
        })
    }
}

/// Whether a slot is to be given up.
#[must_use]
pub fn judge_slot(slot: Option<&SlotState>, name: &str, bytes_max: u64) -> Option<Verdict> {
    let dead = |reason: &str| {
        let text = format!("Replication slot {name} is not alive ({reason}), shutting down");
        Some((ErrorCode::ReplicationSlotNotAlive, text))
    };
    let Some(slot) = slot else {
        return dead("slot_not_found");
    };
    if slot
        .keep_bytes_max
        .is_some_and(|max| slot.retained_bytes > max / 2)
    {
        let text =
            "Replication slot lag exceeds 50% of max_slot_wal_keep_size, shutting down".to_owned();
        return Some((ErrorCode::ReplicationSlotLagTooHigh, text));
    }
    if slot.retained_bytes > bytes_max {
        let text = format!(
            "Replication slot lag of {} bytes exceeds REPLICATION_SLOT_WAL_BYTES_MAX ({bytes_max}), shutting down",
            slot.retained_bytes
        );
        return Some((ErrorCode::ReplicationSlotLagTooHigh, text));
    }
    if slot.is_active {
        None
    } else {
        dead("slot_inactive")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::clock;

    #[test]
    fn silence_is_judged_only_while_there_is_something_to_say() {
        let start = clock::now();
        let second = Duration::from_secs(1);
        let heard = |events, position, end, seconds: u32| Heard {
            events,
            position: Lsn(position),
            is_busy: false,
            end: Lsn(end),
            now: start + second * seconds,
        };
        let mut silence = Silence::new(0, Lsn(0), start, second * 10);
        assert_eq!(silence.judge(&heard(0, 0, 100_000, 1)), None);
        assert_eq!(silence.judge(&heard(0, 0, 200_000, 10)), None);
        let busy = Heard {
            is_busy: true,
            ..heard(0, 0, 200_000, 30)
        };
        assert_eq!(silence.judge(&busy), None);
        assert_eq!(silence.judge(&heard(0, 0, 200_000, 39)), None);
        assert!(silence.judge(&heard(0, 0, 200_000, 40)).is_some());
        assert_eq!(silence.judge(&heard(1, 0, 200_000, 41)), None);
        assert_eq!(silence.judge(&heard(1, 195_000, 200_000, 90)), None);
    }

    #[test]
    fn slots_are_given_up_for_the_reasons_of_the_table() {
        let slot = |is_active, retained_bytes, keep_bytes_max| SlotState {
            is_active,
            is_temporary: true,
            is_ours: true,
            retained_bytes,
            keep_bytes_max,
            active_pid: None,
            confirmed: None,
            is_lost: false,
        };
        let check = |slot: Option<SlotState>, expected: Option<(ErrorCode, &str)>| {
            let verdict = judge_slot(slot.as_ref(), "s", 1000);
            let seen = verdict.as_ref().map(|(code, text)| (*code, text.as_str()));
            assert_eq!(seen.map(|seen| seen.0), expected.map(|it| it.0), "{slot:?}");
            if let (Some(seen), Some(expected)) = (seen, expected) {
                assert!(seen.1.contains(expected.1), "{}", seen.1);
            }
        };
        use ErrorCode::{ReplicationSlotLagTooHigh as High, ReplicationSlotNotAlive as Dead};
        check(None, Some((Dead, "slot s is not alive (slot_not_found)")));
        check(Some(slot(false, 0, None)), Some((Dead, "(slot_inactive)")));
        check(Some(slot(true, 1000, None)), None);
        check(
            Some(slot(true, 1001, None)),
            Some((High, "1001 bytes exceeds")),
        );
        check(Some(slot(true, 500, Some(1000))), None);
        check(
            Some(slot(true, 501, Some(1000))),
            Some((High, "50% of max_slot_wal_keep_size")),
        );
        // Too much goes before inactive.
        check(Some(slot(false, 501, Some(1000))), Some((High, "50%")));
    }
}

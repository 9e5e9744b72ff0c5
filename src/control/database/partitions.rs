//! The partitions of `realtime.messages`: one a day, in UTC, made before they are needed and dropped when replay cannot reach them.
//!
//! What comes in: a connection and the time. What goes out: what could not be made, or what was dropped. What always holds: each partition
//! is a transaction of its own, so one that fails costs no other; making one never blocks who reads or writes messages, because a
//! finished table is attached (`tests/database/schema.rs`, `partitions_are_made_beside_a_reader`). Partitions with other names are
//! nobody's business here. Deliberately absent: when; the session and the janitor know that.

use super::migrate::said;
use crate::limits;
use crate::logging::UtcTime;
use std::fmt::{self, Write};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// A partition that could not be made or dropped. The text is a sentence for the operator.
#[derive(Debug)]
pub struct PartitionError {
    /// Its name in schema `realtime`; empty when they could not even be listed.
    pub partition: String,
    /// What PostgreSQL, or the way to it, said.
    pub error: tokio_postgres::Error,
}

impl fmt::Display for PartitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.partition.is_empty() {
            f.write_str("partitions of realtime.messages")?;
        } else {
            write!(f, "partition realtime.{}", self.partition)?;
        }
        write!(f, ": {}", said(&self.error))
    }
}

impl std::error::Error for PartitionError {}

const SECONDS_PER_DAY: i64 = 86_400;

/// Makes the partitions of yesterday, today and the next three days that are missing; one round trip when none is.
///
/// Returns those that could not be made, each to be logged as `PartitionCreationFailed`; the others are there.
pub async fn ensure_partitions(client: &Client, unix_now: i64) -> Vec<PartitionError> {
    let wanted = days(unix_now).map(Day::partition).collect::<Vec<_>>();
    let missing = client
        .query_typed(
            "select name from unnest($1) as name where to_regclass('realtime.' || name) is null",
            &[(&wanted, Type::TEXT_ARRAY)],
        )
        .await;
    let missing: Vec<String> = match missing {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(error) => {
            return vec![PartitionError {
                partition: String::new(),
                error,
            }];
        }
    };
    let mut failures = Vec::new();
    for day in days(unix_now) {
        let partition = day.partition();
        if !missing.contains(&partition) {
            continue;
        }
        match client.batch_execute(&day.statements()).await {
            // Another server made it in this moment.
            Err(error) if is_there(&error) => {}
            Err(error) => failures.push(PartitionError { partition, error }),
            Ok(()) => {}
        }
    }
    failures
}

/// The statements that make all of them, for a transaction in which there is none yet.
#[must_use]
pub fn statements(unix_now: i64) -> String {
    days(unix_now).fold(String::new(), |mut all, day| {
        all.push_str(&day.statements());
        all
    })
}

/// Drops the partitions of days before the day of 72 hours ago, and returns their names.
///
/// # Errors
///
/// The first that could not be dropped; the ones before it are gone.
pub async fn drop_old_partitions(
    client: &Client,
    unix_now: i64,
) -> Result<Vec<String>, PartitionError> {
    let failed = |partition: &str, error| PartitionError {
        partition: partition.to_owned(),
        error,
    };
    let rows = client
        .query_typed(CHILDREN, &[])
        .await
        .map_err(|error| failed("", error))?;
    let oldest = Day::of(unix_now - limits::MESSAGES_KEPT_SECONDS).partition();
    let mut dropped = Vec::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(|error| failed("", error))?;
        // Names of this form sort as their dates do.
        if !is_dated(&name) || name >= oldest {
            continue;
        }
        let statement = format!("{}; drop table if exists realtime.{name}", lock_timeout());
        client
            .batch_execute(&statement)
            .await
            .map_err(|error| failed(&name, error))?;
        dropped.push(name);
    }
    Ok(dropped)
}

const CHILDREN: &str = "select c.relname::text from pg_catalog.pg_inherits i \
    join pg_catalog.pg_class c on c.oid = i.inhrelid \
    where i.inhparent = to_regclass('realtime.messages') and c.relnamespace = to_regnamespace('realtime') order by 1";

/// A day in UTC, counted from the beginning of 1970.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Day(i64);

impl Day {
    fn of(unix_seconds: i64) -> Self {
        Self(unix_seconds.div_euclid(SECONDS_PER_DAY))
    }

    fn time(self) -> UtcTime {
        let unix_ms = u64::try_from(self.0 * SECONDS_PER_DAY * 1000);
        UtcTime::from_unix_ms(unix_ms.expect("clocks do not go back behind 1970"))
    }

    fn partition(self) -> String {
        let UtcTime {
            year, month, day, ..
        } = self.time();
        format!("messages_{year:04}_{month:02}_{day:02}")
    }

    fn date(self) -> String {
        let UtcTime {
            year, month, day, ..
        } = self.time();
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// What makes the partition. Sent at once, it is one transaction. `create table … partition of` would lock everybody out of
    /// `realtime.messages`; to attach a finished table does not.
    fn statements(self) -> String {
        let (name, from, to) = (self.partition(), self.date(), Self(self.0 + 1).date());
        let mut text = String::new();
        write!(
            text,
            "{timeout}; \
             create table realtime.{name} (like realtime.messages including defaults including constraints including indexes); \
             alter table realtime.messages attach partition realtime.{name} for values from ('{from}') to ('{to}'); \
             do $$ begin \
               if pg_has_role(current_user, 'supabase_realtime_admin', 'usage') then \
                 alter table realtime.{name} owner to supabase_realtime_admin; \
               end if; \
             exception when insufficient_privilege or undefined_object then null; end $$; ",
            timeout = lock_timeout(),
        )
        .expect("writing to a string does not fail");
        text
    }
}

fn days(unix_now: i64) -> impl Iterator<Item = Day> {
    let Day(today) = Day::of(unix_now);
    (today - 1..=today + limits::PARTITION_DAYS_AHEAD).map(Day)
}

/// Rather late than in front of everybody who waits behind us for the table.
fn lock_timeout() -> String {
    format!(
        "set local lock_timeout = {}",
        limits::PARTITION_LOCK_TIMEOUT.as_millis()
    )
}

fn is_there(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::DUPLICATE_TABLE) || code == Some(&SqlState::UNIQUE_VIOLATION)
}

/// Whether this is a name that we, or upstream, give: `messages_2026_11_24`.
fn is_dated(name: &str) -> bool {
    let Some(date) = name.strip_prefix("messages_") else {
        return false;
    };
    date.len() == 10
        && date.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'_',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_utc() {
        let check = |unix_now: i64, expected: &str| {
            let names: Vec<String> = days(unix_now).map(Day::partition).collect();
            assert_eq!(names.len(), 5);
            assert_eq!(names[1], expected, "{unix_now}");
        };
        check(1_795_478_400, "messages_2026_11_24");
        check(1_795_478_400 - 1, "messages_2026_11_23");
        check(1_709_164_800, "messages_2024_02_29");
        check(86_400, "messages_1970_01_02");
    }

    #[test]
    fn bounds_are_from_midnight_to_midnight() {
        let statements = Day::of(1_798_675_200).statements();
        assert!(
            statements.contains("from ('2026-12-31') to ('2027-01-01')"),
            "{statements}"
        );
    }

    #[test]
    fn names_of_partitions_are_recognised() {
        let check = |name: &str, expected: bool| assert_eq!(is_dated(name), expected, "{name}");
        check("messages_2026_11_24", true);
        check("messages_old", false);
        check("messages_2026-11-24", false);
        check("messages_2026_11_2", false);
        check("messages_2026_11_245", false);
        check("message_2026_11_24", false);
        check("messages_20261_1_24", false);
        check("messages_", false);
    }
}

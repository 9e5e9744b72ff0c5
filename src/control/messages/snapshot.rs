//! The transactions that are over at a moment, their subtransactions included.
//!
//! What comes in: a connection. What goes out: a [`Snapshot`]. What always holds: a transaction that it calls over had ended before
//! [`Snapshot::take`] returned, and every row that it had written was visible to whoever looked afterwards. Deliberately absent:
//! PostgreSQL's own `pg_snapshot` for that purpose: it lists top-level transactions only, and a row that `realtime.send` has inserted
//! is one of a subtransaction, since the function catches errors.

use crate::control::replication::Lsn;
use crate::limits;
use rustc_hash::FxHashSet;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// Ids 0 to 2 have a meaning of their own and are never given to a transaction.
const FIRST_XID: u32 = 3;

/// The transactions that were over at a moment: what came after it is to be broadcast.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// The first id that had not been given out, with its epoch.
    next: u64,
    /// Ids below that are in progress, with their epochs.
    running: FxHashSet<u64>,
    /// Whatever is called over was committed before this position.
    position: Lsn,
}

impl Snapshot {
    /// Takes one.
    ///
    /// # Errors
    ///
    /// What the database said.
    pub async fn take(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Self::default().take_next(client).await
    }

    /// Takes the next one: what this one knows need not be asked again.
    ///
    /// # Errors
    ///
    /// What the database said.
    pub async fn take_next(&self, client: &Client) -> Result<Self, tokio_postgres::Error> {
        // The snapshot is that of the statement's begin; what is in progress is looked at after it. Ids of subtransactions are found
        // by asking for every id that is new, and for those that were in progress.
        const TRANSACTIONS: &str = "with moment as materialized (select pg_catalog.pg_current_snapshot() as snapshot), \
             bounds as materialized (select snapshot, pg_catalog.pg_snapshot_xmin(snapshot)::text::bigint as low, \
               pg_catalog.pg_snapshot_xmax(snapshot)::text::bigint as high from moment) \
             select high, \
               array(select id::text::bigint from pg_catalog.pg_snapshot_xip(snapshot) id), \
               array(select id from (select pg_catalog.generate_series(greatest(low, high - $1, \
                   case when $2 <= high then $2 end), high - 1) union all select pg_catalog.unnest($3::bigint[])) as ids(id) \
                 where id >= low and id < high and pg_catalog.pg_xact_status(id::text::xid8) = 'in progress') \
             from bounds";
        const POSITION: &str = "select pg_catalog.pg_current_wal_insert_lsn()::text";
        let depth = limits::BROADCAST_TRANSACTIONS_MAX;
        let known = i64::try_from(self.next).unwrap_or(i64::MAX);
        let ids = self.running.iter().filter_map(|id| i64::try_from(*id).ok());
        let running: Vec<i64> = ids.collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
            (&depth, Type::INT8),
            (&known, Type::INT8),
            (&running, Type::INT8_ARRAY),
        ];
        let transactions = client.query_typed(TRANSACTIONS, &parameters).await?;
        // A statement of its own: it has to be read after the states of the transactions.
        let position = client.query_typed(POSITION, &[]).await?;
        let mut snapshot = Self::default();
        if let Some(row) = transactions.first() {
            let high: i64 = row.try_get(0)?;
            let top: Vec<i64> = row.try_get(1)?;
            let all: Vec<i64> = row.try_get(2)?;
            let ids = |ids: Vec<i64>| ids.into_iter().filter_map(|id| u64::try_from(id).ok());
            snapshot.next = u64::try_from(high).unwrap_or(0);
            snapshot.running = ids(top).chain(ids(all)).collect();
        }
        if let Some(row) = position.first() {
            snapshot.position = row.try_get::<_, &str>(0)?.parse().unwrap_or_default();
        }
        Ok(snapshot)
    }

    /// Whether a transaction was over, by its id without epoch.
    #[must_use]
    pub fn is_over(&self, xid: u32) -> bool {
        // As PostgreSQL compares them: modulo 2^32.
        let before = low_half(self.next).wrapping_sub(xid);
        let is_before = (1..=1 << 31).contains(&before);
        is_before
            && !self
                .running
                .contains(&self.next.wrapping_sub(u64::from(before)))
    }

    /// Whether `later` was taken of the same history. It was not when a backup was restored in between.
    #[must_use]
    pub fn is_before(&self, later: &Self) -> bool {
        self.next <= later.next
    }

    /// Whatever is over was committed before this position.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The condition that holds for rows of transactions that were not over, as SQL on the system column `xmin`.
    #[must_use]
    pub fn missed_rows(&self) -> String {
        let next = self.next_xid();
        let mut sql = format!("(pg_catalog.age(xmin) <= pg_catalog.age('{next}'::xid)");
        if !self.running.is_empty() {
            let ids = self.running.iter().map(|id| low_half(*id).to_string());
            let ids: Vec<String> = ids.collect();
            sql.push_str(&format!(" or xmin = any ('{{{}}}'::xid[])", ids.join(",")));
        }
        sql.push(')');
        sql
    }

    fn next_xid(&self) -> u32 {
        low_half(self.next).max(FIRST_XID)
    }
}

/// An id without its epoch.
fn low_half(id: u64) -> u32 {
    u32::try_from(id & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn snapshot(next: u64, running: &[u64], position: u64) -> Snapshot {
        Snapshot {
            next,
            running: running.iter().copied().collect(),
            position: Lsn(position),
        }
    }

    #[test]
    fn what_was_in_progress_is_not_over() {
        let seen = snapshot(100, &[90, 95], 0);
        let check = |xid, expected| assert_eq!(seen.is_over(xid), expected, "{xid}");
        check(89, true);
        check(90, false);
        check(94, true);
        check(95, false);
        check(99, true);
        check(100, false);
        check(101, false);
    }

    #[test]
    fn ids_are_compared_around_the_end_of_their_range() {
        let seen = snapshot(0x2_0000_0010, &[0x1_ffff_ffff], 0);
        let check = |xid, expected| assert_eq!(seen.is_over(xid), expected, "{xid}");
        check(0x0f, true);
        check(0x10, false);
        check(u32::MAX, false);
        check(u32::MAX - 1, true);
        check(0x7fff_ffff, false);
        check(0x9000_0000, true);
    }

    #[test]
    fn condition_names_what_was_in_progress() {
        let check = |seen: Snapshot, expected: &str| assert_eq!(seen.missed_rows(), expected);
        check(
            snapshot(0x1_0000_0064, &[], 0),
            "(pg_catalog.age(xmin) <= pg_catalog.age('100'::xid))",
        );
        check(
            snapshot(100, &[7], 0),
            "(pg_catalog.age(xmin) <= pg_catalog.age('100'::xid) or xmin = any ('{7}'::xid[]))",
        );
        // Ids below 3 are never given out.
        check(
            snapshot(0x1_0000_0000, &[], 0),
            "(pg_catalog.age(xmin) <= pg_catalog.age('3'::xid))",
        );
    }
}

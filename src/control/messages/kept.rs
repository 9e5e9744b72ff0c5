//! What one session leaves to the next: which rows are delivered.
//!
//! What comes in: the database of a session that starts. What goes out: the [`Ledger`] it goes on with. What always holds: a ledger goes
//! on with the database that it is of, in the same history (`ledger_goes_on_with_its_own_database_only`); so what was committed
//! between two sessions is broadcast (`rows_between_two_sessions_are_broadcast`, in tests/database). Deliberately absent: when nobody
//! needs it any more; the session's keeper knows.

use super::ledger::Ledger;
use super::snapshot::Snapshot;
use std::cell::RefCell;
use std::rc::Rc;
use tokio_postgres::Client;

/// Which database it is, whatever its address and its users.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Of the whole cluster, made by initdb. None where it may not be read.
    system: Option<i64>,
    /// Of the database in its cluster.
    oid: u32,
}

impl Identity {
    /// Asks.
    ///
    /// # Errors
    ///
    /// What the database said; a system identifier that is not shown is no error.
    pub async fn ask(client: &Client) -> Result<Self, tokio_postgres::Error> {
        const OID: &str =
            "select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()";
        const SYSTEM: &str = "select system_identifier from pg_catalog.pg_control_system()";
        let oid = match client.query_typed(OID, &[]).await?.first() {
            Some(row) => row.try_get(0)?,
            None => 0,
        };
        let system = match client.query_typed(SYSTEM, &[]).await {
            Ok(rows) => rows.first().map(|row| row.try_get(0)).transpose()?,
            // It is there, and refuses.
            Err(error) if error.code().is_some() => None,
            Err(error) => return Err(error),
        };
        Ok(Self { system, oid })
    }

    /// Whether both may be the same; what is not known counts as equal.
    fn may_be(self, other: Self) -> bool {
        let is_other_system = matches!((self.system, other.system), (Some(a), Some(b)) if a != b);
        self.oid == other.oid && !is_other_system
    }
}

/// A tenant's ledger, from session to session.
#[derive(Debug, Default)]
pub struct Kept(RefCell<Option<(Identity, Rc<RefCell<Ledger>>)>>);

impl Kept {
    /// The ledger for a session that begins `now`: the one of the session before if that was with the same database, else a new one.
    #[must_use]
    pub fn take_up(&self, database: Identity, now: Snapshot) -> Rc<RefCell<Ledger>> {
        let mut kept = self.0.borrow_mut();
        let known = kept.take().filter(|(of, ledger)| {
            let is_same_history = ledger.borrow().since().is_before(&now);
            database.may_be(*of) && is_same_history
        });
        let ledger = match known {
            Some((_, ledger)) => ledger,
            None => Rc::new(RefCell::new(Ledger::new(now))),
        };
        *kept = Some((database, Rc::clone(&ledger)));
        ledger
    }

    /// Nobody waits for what is committed from now on.
    pub fn forget(&self) {
        self.0.take();
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::snapshot;
    use super::*;

    #[test]
    fn ledger_goes_on_with_its_own_database_only() {
        let check = |before: (Option<i64>, u32), after: (Option<i64>, u32), next: u64, goes_on| {
            let identity = |(system, oid)| Identity { system, oid };
            let kept = Kept::default();
            let first = kept.take_up(identity(before), snapshot(100, &[], 0));
            let second = kept.take_up(identity(after), snapshot(next, &[], 0));
            assert_eq!(
                Rc::ptr_eq(&first, &second),
                goes_on,
                "{before:?} {after:?} {next}"
            );
            let since = if goes_on { 100 } else { next };
            assert_eq!(second.borrow().since(), &snapshot(since, &[], 0));
        };
        check((Some(1), 5), (Some(1), 5), 200, true);
        check((Some(1), 5), (Some(1), 6), 200, false);
        check((Some(1), 5), (Some(2), 5), 200, false);
        // A backup was restored.
        check((Some(1), 5), (Some(1), 5), 99, false);
        check((None, 5), (None, 5), 200, true);
        check((None, 5), (Some(1), 5), 200, true);
        check((None, 5), (None, 6), 200, false);
        check((None, 5), (None, 5), 99, false);
    }

    #[test]
    fn forgotten_ledger_does_not_go_on() {
        let database = Identity {
            system: Some(1),
            oid: 5,
        };
        let kept = Kept::default();
        let first = kept.take_up(database, snapshot(100, &[], 0));
        kept.forget();
        let second = kept.take_up(database, snapshot(200, &[], 0));
        assert!(!Rc::ptr_eq(&first, &second));
    }
}

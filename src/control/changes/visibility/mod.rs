//! Which rows the policies of a tenant's database show to whom (spec: postgres-changes 5.3 d, cdc-performance-notes 3.2).
//!
//! What comes in: [`Check`]s, each a table, a role, the claims of a token and keys. What goes out: a [`Verdict`] for each key. What
//! always holds:
//!
//! - A row is said to be visible only where a SELECT with this role and these claims found it. What fails, takes too long or is not
//!   known for any other reason is [`Verdict::Lost`]; where there was no connection to ask on it is [`Verdict::Unanswered`].
//! - Claims never meet other claims: each query stands in a savepoint of its own and is rolled back (`claims_do_not_mix`).
//! - What fails is isolated: a policy that raises for some claims loses those only, one that raises for a row loses that row only, and
//!   one that is slow holds up its own connection (`a_row_on_which_a_policy_raises_is_lost_alone`), and not the same again for the
//!   next batch (`a_policy_that_never_ends_holds_up_one_batch`).
//! - What takes long because there is much of it is not lost: time counts from answer to answer
//!   (`a_batch_that_takes_long_is_answered_whole`).
//! - Superusers and the connection's own user are nobody as whom anything is seen.
//!
//! Deliberately absent: which keys have to be asked about at all; whoever asks has looked at the [catalog](super::catalog).
//!
//! # How it is asked
//!
//! Claims of one role on one table share a transaction: begin, timeout, role, keys, then one message for each claims, which sets
//! `request.jwt.claims` and runs a prepared statement, then rollback; all of it is sent at once. The statement takes its keys from a
//! setting, as texts, and casts them to the type of the column. So it has no parameters, and PostgreSQL plans it once for all claims.
//!
//! It is planned without sequential scans, and finds each key with an index scan of the primary key: the planner would rather read a
//! table of a few pages whole, and so ask policies of rows that nobody has asked about, for each of the claims. Only the planning of
//! this statement is touched, not that of functions in policies. Under policies, only operators that are marked leakproof use an index.
//! Equality is for integers, floats, booleans, uuid, text, varchar, char(n), bytea, bit, dates, times and network addresses (so
//! for keys of bytea and char(n) as well, which the original never finds). It is not for numeric, enums, arrays, ranges and
//! jsonb: a table whose key has none of the former columns is read whole, once for each of the claims, as a hash join.

pub mod measures;
mod statement;
mod chunk;
mod ask;
mod connections;
mod slow;
mod call;
mod checkers;

pub use call::time_max;
pub use checkers::Checkers;
pub use measures::Measures;

use super::catalog::TableNow;
use std::rc::Rc;

/// The texts of a primary key's columns, in the key's order. Many claims ask for the same.
pub type Key = Rc<[Box<str>]>;

/// Whether somebody may see some rows.
#[derive(Clone, Debug)]
pub struct Check {
    /// The table, as the catalog described it for this batch.
    pub table: Rc<TableNow>,
    /// As whom.
    pub role: Rc<str>,
    /// With which claims, as JSON.
    pub claims: Rc<str>,
    /// Which rows.
    pub keys: Rc<[Key]>,
}

/// About one key of a [`Check`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// There is such a row, and it may be seen.
    Yes,
    /// There is none, or it may not be seen.
    No,
    /// Nobody knows, for this reason, and would not the next time either: a policy raised, or took too long. It counts as no.
    Lost(Rc<str>),
    /// It could not be asked, for this reason: connections were lost, or there is none to be had. It may be asked again.
    Unanswered(Rc<str>),
}

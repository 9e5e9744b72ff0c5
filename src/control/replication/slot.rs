//! What can go wrong between a slot and its reader, and what a database says about a slot.
//!
//! What comes in: what the server said. What goes out: a [`Fault`] that says what to do about it, and [`SlotState`]s. What always
//! holds: no password stands in a fault. Deliberately absent: doing it.

use super::Lsn;
use crate::control::database::ConnectError;
use crate::control::database::connect::describe;
use crate::error::ErrorCode;
use pgwire_replication::PgWireError;
use std::fmt;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Why there is no stream, or no longer. The text is for the log (spec: broadcast-from-database 2.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// No walsender, no slot or no connection is left (53300, 53400).
    TooMany(String),
    /// Nothing came within the time that a step may take.
    TimedOut,
    /// The slot's name is taken by somebody who uses it.
    SlotInUse {
        /// The slot.
        slot: String,
        /// Whether that is in another database: names of slots are the whole server's.
        is_elsewhere: bool,
    },
    /// The publication is not there at the position that is decoded (42704): only a new slot gets past it.
    PublicationMissing(String),
    /// The slot is not there any more (42704 as well): another one has to be made.
    SlotMissing(String),
    /// The publication cannot be made.
    PublicationRefused(String),
    /// There is nothing to publish: the table is not there.
    TableMissing,
    /// The user may not replicate, or whatever stands in between does not let replication through.
    Refused(String),
    /// A message is larger than [`limits::REPLICATION_MESSAGE_BYTES_MAX`](crate::limits::REPLICATION_MESSAGE_BYTES_MAX).
    MessageTooLarge(usize),
    /// What came is no replication stream.
    Garbled(String),
    /// The connection is lost, or could not be made, or the database said something else.
    Broken(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(text)
            | Self::PublicationMissing(text)
            | Self::SlotMissing(text)
            | Self::Garbled(text)
            | Self::Broken(text) => f.write_str(text),
            Self::TimedOut => f.write_str("Replication connection timed out during initialization"),
            Self::SlotInUse { slot, is_elsewhere } => {
                let place = if *is_elsewhere {
                    " by another database of this server"
                } else {
                    ""
                };
                write!(
                    f,
                    "Temporary Replication slot already exists and in use{place}: {slot}"
                )
            }
            Self::PublicationRefused(text) => write!(f, "Error creating publication: {text}"),
            Self::TableMissing => f.write_str(
                "Error creating publication: the table realtime.messages does not exist; it is looked for again and again",
            ),
            Self::Refused(text) => write!(
                f,
                "{text}. Streaming needs a user with the REPLICATION attribute and a direct connection"
            ),
            Self::MessageTooLarge(bytes) => {
                write!(f, "a row of {bytes} bytes is more than is read from a replication stream")
            }
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// The code of the line in the log when a stream could not be started.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooMany(_) => ErrorCode::ReplicationMaxWalSendersReached,
            Self::TimedOut => ErrorCode::ReplicationConnectionTimeout,
            _ => ErrorCode::StartReplicationFailed,
        }
    }

    /// The text of that line.
    #[must_use]
    pub fn start_text(&self) -> String {
        match self {
            Self::PublicationMissing(_)
            | Self::SlotMissing(_)
            | Self::Refused(_)
            | Self::MessageTooLarge(_)
            | Self::Garbled(_)
            | Self::Broken(_) => format!("Error starting replication: {self}"),
            Self::TooMany(text) => {
                format!("Tenant database has reached the maximum number of WAL senders: {text}")
            }
            Self::TimedOut
            | Self::SlotInUse { .. }
            | Self::PublicationRefused(_)
            | Self::TableMissing => self.to_string(),
        }
    }

    /// What a server said, by its SQLSTATE.
    #[must_use]
    pub fn of_server(sqlstate: &str, text: String) -> Self {
        match sqlstate {
            "53300" | "53400" => Self::TooMany(text),
            "42704" => Self::PublicationMissing(text),
            "42P01" | "3F000" => Self::TableMissing,
            // No privilege; no line in pg_hba.conf; a pooler that does not know the startup parameter; walsenders switched off.
            "42501" | "28000" | "08P01" | "0A000" => Self::Refused(text),
            _ => Self::Broken(text),
        }
    }
}

impl Fault {
    /// The same of whoever reads or drops this slot: PostgreSQL says of a slot that is not there what it says of a publication, in the
    /// language that it is set to, and names the one or the other.
    #[must_use]
    pub fn of_slot(self, slot: &str) -> Self {
        match self {
            Self::PublicationMissing(text) if text.contains(slot) => Self::SlotMissing(text),
            other => other,
        }
    }

    /// The SQLSTATE that the database gave with it, where its text has one: `… (SQLSTATE 57P01)` or `… (57P01)`.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        let (Self::TooMany(text)
        | Self::PublicationMissing(text)
        | Self::SlotMissing(text)
        | Self::Refused(text)
        | Self::Broken(text)) = self
        else {
            return None;
        };
        let (_, last) = text.strip_suffix(')')?.rsplit_once('(')?;
        let state = last.strip_prefix("SQLSTATE ").unwrap_or(last);
        let is_state = state.len() == 5 && state.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_state.then_some(state)
    }
}

impl From<PgWireError> for Fault {
    fn from(error: PgWireError) -> Self {
        match error {
            PgWireError::Server(text) => {
                let sqlstate = sqlstate(&text).unwrap_or_default().to_owned();
                Self::of_server(&sqlstate, text)
            }
            PgWireError::MessageTooLarge { payload_bytes, .. } => {
                Self::MessageTooLarge(payload_bytes)
            }
            PgWireError::Protocol(text) => Self::Garbled(text),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = describe(&error);
        Self::of_server(error.code().map_or("", SqlState::code), text)
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::TooManyConnections { .. } => Self::TooMany(error.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// The five characters behind the word, as pgwire-replication puts them into its text.
fn sqlstate(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once("SQLSTATE ")?;
    rest.get(..5)
}

/// A slot as the database shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlotState {
    /// Whether somebody uses it. A temporary one is used as long as it is there.
    pub is_active: bool,
    /// Whether it ends with its session.
    pub is_temporary: bool,
    /// Whether it decodes the database that was asked.
    pub is_ours: bool,
    /// Bytes of the log that the server keeps for it.
    pub retained_bytes: u64,
    /// `max_slot_wal_keep_size` in bytes; none for no bound.
    pub keep_bytes_max: Option<u64>,
    /// The process that uses it.
    pub active_pid: Option<i32>,
    /// Everything before this position is confirmed. None where there is nothing to confirm yet.
    pub confirmed: Option<Lsn>,
    /// What it has not said any more is not kept any more: nobody can read it again.
    pub is_lost: bool,
}

/// What the server says about a slot, and where the end of its log is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sight {
    /// The slot; none when there is none.
    pub slot: Option<SlotState>,
    /// The end of the log.
    pub end: Lsn,
    /// `max_slot_wal_keep_size` in bytes; none for no bound.
    pub keep_bytes_max: Option<u64>,
}

/// Looks at a slot.
///
/// # Errors
///
/// What the database said; the caller tries again later.
pub async fn look(client: &Client, slot: &str) -> Result<Sight, tokio_postgres::Error> {
    const SQL: &str = "select pg_catalog.pg_current_wal_insert_lsn()::text, s.active, s.temporary, \
         s.database = pg_catalog.current_database(), \
         pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint, \
         (select pg_catalog.pg_size_bytes(setting || unit) from pg_catalog.pg_settings \
           where name = 'max_slot_wal_keep_size' and setting <> '-1'), \
         s.active_pid, s.confirmed_flush_lsn::text, s.wal_status = 'lost' \
         from (values (1)) as always(one) left join pg_catalog.pg_replication_slots s on s.slot_name = $1";
    let rows = client.query_typed(SQL, &[(&slot, Type::TEXT)]).await?;
    let mut sight = Sight {
        slot: None,
        end: Lsn(0),
        keep_bytes_max: None,
    };
    if let Some(row) = rows.first() {
        sight.end = row.try_get::<_, &str>(0)?.parse().unwrap_or_default();
        let bytes = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        sight.keep_bytes_max = bytes(row.try_get(5)?);
        if let Some(is_active) = row.try_get::<_, Option<bool>>(1)? {
            sight.slot = Some(SlotState {
                is_active,
                is_temporary: row.try_get::<_, Option<bool>>(2)?.unwrap_or(false),
                is_ours: row.try_get::<_, Option<bool>>(3)?.unwrap_or(false),
                retained_bytes: bytes(row.try_get(4)?).unwrap_or(0),
                keep_bytes_max: sight.keep_bytes_max,
                active_pid: row.try_get(6)?,
                confirmed: row
                    .try_get::<_, Option<&str>>(7)?
                    .and_then(|text| text.parse().ok()),
                is_lost: row.try_get::<_, Option<bool>>(8)?.unwrap_or(false),
            });
        }
    }
    Ok(sight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_decides_what_to_do() {
        let check = |text: &str, expected: fn(String) -> Fault| {
            let error = PgWireError::Server(text.to_owned());
            assert_eq!(Fault::from(error), expected(text.to_owned()), "{text}");
        };
        check("all slots are in use (SQLSTATE 53400)", Fault::TooMany);
        check("no walsender left (SQLSTATE 53300)", Fault::TooMany);
        check(
            "publication \"x\" does not exist (SQLSTATE 42704)",
            Fault::PublicationMissing,
        );
        check("relation \"x\" does not exist (SQLSTATE 42P01)", |_| {
            Fault::TableMissing
        });
        check(
            "must be superuser or replication role (SQLSTATE 42501)",
            Fault::Refused,
        );
        check("terminating connection (SQLSTATE 57P01)", Fault::Broken);
        check("no state at all", Fault::Broken);
        check("SQLSTATE 42", Fault::Broken);
    }

    #[test]
    fn a_slot_that_is_gone_is_told_apart_from_a_publication() {
        let check = |text: &str, expected: fn(String) -> Fault| {
            let fault = Fault::of_server("42704", text.to_owned());
            assert_eq!(fault.of_slot("changes_slot_1"), expected(text.to_owned()));
        };
        check(
            "ERROR: replication slot \"changes_slot_1\" does not exist (SQLSTATE 42704)",
            Fault::SlotMissing,
        );
        check(
            "FEHLER: Replikations-Slot »changes_slot_1« existiert nicht (SQLSTATE 42704)",
            Fault::SlotMissing,
        );
        check(
            "ERROR: publication \"changes\" does not exist (SQLSTATE 42704)",
            Fault::PublicationMissing,
        );
        let other = Fault::Broken("changes_slot_1 (SQLSTATE 57P01)".to_owned());
        assert_eq!(other.clone().of_slot("changes_slot_1"), other);
    }

    #[test]
    fn sqlstate_is_found_at_the_end() {
        let check = |text: &str, expected: Option<&str>| {
            let fault = Fault::Broken(text.to_owned());
            assert_eq!(fault.sqlstate(), expected, "{text}");
        };
        check("ERROR gone (SQLSTATE 55000)", Some("55000"));
        check("FATAL stopped (57P01)", Some("57P01"));
        check("reset by peer (os error 104)", None);
        check("(57P01) and more", None);
        check("", None);
        assert_eq!(Fault::TimedOut.sqlstate(), None);
    }

    #[test]
    fn faults_have_the_codes_of_the_table() {
        let check = |fault: Fault, code: ErrorCode| assert_eq!(fault.code(), code, "{fault}");
        check(
            Fault::TooMany(String::new()),
            ErrorCode::ReplicationMaxWalSendersReached,
        );
        check(Fault::TimedOut, ErrorCode::ReplicationConnectionTimeout);
        check(Fault::TableMissing, ErrorCode::StartReplicationFailed);
        let in_use = Fault::SlotInUse {
            slot: "s".to_owned(),
            is_elsewhere: false,
        };
        assert!(in_use.start_text().contains("already exists and in use"));
        let broken = Fault::Broken("no".to_owned());
        assert_eq!(broken.start_text(), "Error starting replication: no");
        assert_eq!(broken.to_string(), "no");
        check(in_use, ErrorCode::StartReplicationFailed);
    }
}

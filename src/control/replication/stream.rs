//! A replication connection: first a [`Session`] that can be asked things, then a [`Stream`].
//!
//! What comes in: where the database is, and what to replicate. What goes out: [`Event`]s. What always holds: dropping either closes
//! its socket at once, so that the server ends the slot; at most [`limits::REPLICATION_EVENTS_WAITING_MAX`] messages wait here, the
//! rest waits in the server; only what the reader has confirmed is confirmed to the server. Deliberately absent: coming back.

use super::pgoutput::{Begin, Commit};
use super::slot::Fault;
use super::{Event, Lsn};
use crate::control::database::Settings;
use crate::control::database::quote::identifier;
use crate::limits;
use pgwire_replication::{ReplicationClient, ReplicationConfig, ReplicationEvent, TlsConfig};
use rustls::pki_types::ServerName;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

/// What to replicate, and from where.
#[derive(Copy, Clone, Debug)]
pub struct Target<'a> {
    /// The database.
    pub settings: &'a Settings,
    /// The address that works; none for the settings' host.
    pub address: Option<IpAddr>,
    /// How the connection shows in the database.
    pub application_name: &'static str,
    /// The slot.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
    /// How values come.
    pub format: Format,
    /// How a slot that is read by SQL is read.
    pub polling: Polling,
}

/// How values come.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Format {
    /// As the type prints itself.
    Text,
    /// As the type's `send` function makes it, where it has one.
    Binary,
}

/// How a slot that is read by SQL is read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Polling {
    /// What was read is confirmed by being read.
    Once,
    /// What was read stays until it is confirmed; until then nothing else is read.
    Kept {
        /// Time between two readings while there is nothing new.
        interval: Duration,
        /// After so many messages no further transaction is begun.
        changes_max: u32,
    },
}

/// How long a slot lives.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Lifetime {
    /// As long as the session that made it.
    Temporary,
    /// Until it is dropped.
    Persistent,
}

/// A row of an answer, as text.
pub type Row = Vec<Option<String>>;

/// Ends the task behind a client when it is dropped: left alone, it would wait for an answer to what was asked last.
struct Client(ReplicationClient);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A replication connection that does not stream yet.
pub struct Session {
    client: Client,
    /// The server's process of this connection.
    pub pid: i32,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// A slot that was just made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Created {
    /// Everything committed behind this position will be streamed.
    pub consistent: Lsn,
    /// Names the snapshot that shows everything before it, until the session says something else. None where a slot exports none.
    pub snapshot: Option<String>,
}

/// What values look like in text, where a type has no binary form; and no timeout of a role may end the session.
const SESSION: &str = "set TimeZone = 'UTC'; set DateStyle = 'ISO, MDY'; set IntervalStyle = 'postgres'; set bytea_output = 'hex'; \
     set extra_float_digits = 1; set lc_monetary = 'C'; set statement_timeout = 0; set lock_timeout = 0; \
     set idle_in_transaction_session_timeout = 0; set idle_session_timeout = 0; set client_min_messages = warning";

impl Session {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Fault`]; at the latest after [`limits::REPLICATION_STEP_TIMEOUT`].
    pub async fn open(target: Target<'_>) -> Result<Self, Fault> {
        let open = async {
            let client = ReplicationClient::connect_gated(config(target)).await?;
            let mut session = Self {
                client: Client(client),
                pid: 0,
            };
            session.client.0.simple_query(SESSION).await?;
            let rows = session.query("select pg_catalog.pg_backend_pid()").await?;
            let pid = rows
                .first()
                .and_then(|row| row.first()?.as_deref()?.parse().ok());
            session.pid = pid.ok_or_else(|| Fault::Garbled("no pid".to_owned()))?;
            Ok(session)
        };
        within(limits::REPLICATION_STEP_TIMEOUT, open).await
    }

    /// Runs one statement.
    ///
    /// # Errors
    ///
    /// [`Fault`]; at the latest after [`limits::REPLICATION_STEP_TIMEOUT`].
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        let rows = self.ask(limits::REPLICATION_STEP_TIMEOUT, sql).await?;
        let text = |value: Option<bytes::Bytes>| {
            value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(rows
            .into_iter()
            .map(|row| row.into_iter().map(text).collect())
            .collect())
    }

    async fn ask(
        &mut self,
        timeout: Duration,
        sql: &str,
    ) -> Result<Vec<pgwire_replication::QueryRow>, Fault> {
        within(timeout, async {
            Ok(self.client.0.simple_query(sql).await?)
        })
        .await
    }

    /// Makes a slot of this name for the plugin `pgoutput`. Waits until every transaction that is open now has ended.
    ///
    /// # Errors
    ///
    /// [`Fault::SlotInUse`] when the name is taken, by whomever; at the latest after [`limits::REPLICATION_SLOT_TIMEOUT`]
    /// [`Fault::TimedOut`].
    pub async fn create_slot(&mut self, name: &str, lifetime: Lifetime) -> Result<Created, Fault> {
        let temporary = match lifetime {
            Lifetime::Temporary => "TEMPORARY ",
            Lifetime::Persistent => "",
        };
        let sql = format!(
            "CREATE_REPLICATION_SLOT {} {temporary}LOGICAL pgoutput EXPORT_SNAPSHOT",
            identifier(name)
        );
        let rows = match self.ask(limits::REPLICATION_SLOT_TIMEOUT, &sql).await {
            Err(Fault::Broken(text)) if text.contains("SQLSTATE 42710") => {
                return Err(Fault::SlotInUse {
                    slot: name.to_owned(),
                    is_elsewhere: false,
                });
            }
            outcome => outcome?,
        };
        // slot_name, consistent_point, snapshot_name, output_plugin
        let text = |index: usize| {
            let value = rows.first()?.get(index)?.as_ref()?;
            std::str::from_utf8(value).ok()
        };
        match (text(1).and_then(|text| text.parse().ok()), text(2)) {
            (Some(consistent), Some(snapshot)) => Ok(Created {
                consistent,
                snapshot: Some(snapshot.to_owned()),
            }),
            _ => Err(Fault::Garbled("a slot without a position".to_owned())),
        }
    }

    /// Begins to stream from the slot of the target. Its snapshot ends.
    ///
    /// # Errors
    ///
    /// [`Fault`]; at the latest after [`limits::REPLICATION_STEP_TIMEOUT`].
    pub async fn start(mut self) -> Result<Stream, Fault> {
        let client = &mut self.client.0;
        within(limits::REPLICATION_STEP_TIMEOUT, async {
            client.start().await?;
            Ok(client.wait_started().await?)
        })
        .await?;
        Ok(Stream {
            client: self.client,
            pid: self.pid,
        })
    }
}

/// A running stream.
pub struct Stream {
    client: Client,
    /// The server's process of this connection.
    pub pid: i32,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// What comes next. May be dropped and called again.
    ///
    /// # Errors
    ///
    /// [`Fault`] ends the stream.
    pub async fn next(&mut self) -> Result<Event, Fault> {
        loop {
            return match self.client.0.recv().await? {
                Some(ReplicationEvent::XLogData { data, .. }) => Ok(Event::Message(data)),
                Some(ReplicationEvent::Begin {
                    final_lsn,
                    xid,
                    commit_time_micros,
                }) => Ok(Event::Begin(Begin {
                    commit_lsn: Lsn(final_lsn.0),
                    committed_at_us: commit_time_micros,
                    xid,
                })),
                Some(ReplicationEvent::Commit {
                    lsn,
                    end_lsn,
                    commit_time_micros,
                }) => Ok(Event::Commit(Commit {
                    lsn: Lsn(lsn.0),
                    end: Lsn(end_lsn.0),
                    committed_at_us: commit_time_micros,
                })),
                Some(ReplicationEvent::KeepAlive { wal_end, .. }) => {
                    Ok(Event::Passed(Lsn(wal_end.0)))
                }
                // Words that somebody wrote into the log mean nothing here.
                Some(ReplicationEvent::Message { .. }) => continue,
                Some(ReplicationEvent::StoppedAt { .. }) | None => {
                    Err(Fault::Broken("the server ended the stream".to_owned()))
                }
            };
        }
    }

    /// Everything before this position is done: the server need not keep it. It is told within
    /// [`limits::REPLICATION_STATUS_INTERVAL`].
    pub fn confirm(&self, position: Lsn) {
        self.client
            .0
            .update_applied_lsn(pgwire_replication::Lsn(position.0));
    }
}

fn config(target: Target<'_>) -> ReplicationConfig {
    let settings = target.settings;
    let host = match target.address {
        Some(address) => address.to_string(),
        None => settings.host.clone(),
    };
    // The certificate is not looked at (spec: tenant-database 1); the name is for whoever sorts connections by it.
    let tls = match (
        settings.ssl_enforced,
        ServerName::try_from(settings.host.as_str()),
    ) {
        (true, Ok(_)) => TlsConfig::require().with_sni_hostname(settings.host.as_str()),
        (true, Err(_)) => TlsConfig::require(),
        (false, _) => TlsConfig::disabled(),
    };
    ReplicationConfig::new(
        host,
        settings.user.as_str(),
        settings.password.expose(),
        settings.name.as_str(),
        identifier(target.slot),
        // A list of identifiers.
        identifier(target.publication),
    )
    .with_port(settings.port)
    .with_tls(tls)
    .with_application_name(target.application_name)
    .with_binary(target.format == Format::Binary)
    .with_buffer_size(limits::REPLICATION_EVENTS_WAITING_MAX)
    .with_max_message_size(limits::REPLICATION_MESSAGE_BYTES_MAX)
    .with_status_interval(limits::REPLICATION_STATUS_INTERVAL)
    .with_wakeup_interval(limits::REPLICATION_STATUS_INTERVAL_IDLE)
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(Fault::TimedOut))
}

//! A tenant in the words of the management API: its secrets in plain text, and beside them as they are stored.

use super::cipher::Sealed;
use crate::config::TenantDefaults;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use uuid::Uuid;

/// A tenant of record. Units, meaning and defaults: spec, http-api 3.4 and control-database 2.1.
///
/// In memory secrets are plain text. A store encrypts them before it writes ([`super::Cipher`]).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Names the row in `location` headers; a UUID.
    pub id: String,
    /// The tenant's name on the wire: the first label of its host.
    pub external_id: String,
    /// For people.
    pub name: String,
    /// Symmetric key of its tokens, as raw bytes of this string.
    pub jwt_secret: Option<String>,
    /// Keys of its tokens: an object with `keys`.
    pub jwt_jwks: Option<Value>,
    /// Sockets that have joined a channel.
    pub max_concurrent_users: i32,
    /// Broadcasts sent and delivered per second.
    pub max_events_per_second: i32,
    /// Joins per second.
    pub max_joins_per_second: i32,
    /// Channels of one socket.
    pub max_channels_per_client: i32,
    /// Stored, not enforced (spec: config 3).
    pub max_bytes_per_second: i32,
    /// Presence events per second.
    pub max_presence_events_per_second: i32,
    /// Largest payload in units of 1000 bytes.
    pub max_payload_size_in_kb: i32,
    /// Presence calls of one channel per window, in place of the server's setting.
    pub max_client_presence_events_per_window: Option<i32>,
    /// That window in milliseconds, in place of the server's setting.
    pub client_presence_window_ms: Option<i32>,
    /// Presence is on for every channel.
    pub presence_enabled: bool,
    /// Everything is refused.
    pub suspend: bool,
    /// Public channels are refused.
    pub private_only: bool,
    /// The extension that serves row changes.
    pub postgres_cdc_default: String,
    /// Stored, without effect here.
    pub broadcast_adapter: BroadcastAdapter,
    /// Flags of this tenant, which win over global ones.
    pub feature_flags: Map<String, Value>,
    /// Migrations that its database has had.
    pub migrations_ran: i32,
    /// What it has beyond broadcast and presence.
    pub extensions: Vec<ExtensionRecord>,
    /// When it was made, in Unix seconds.
    pub inserted_at: i64,
    /// When it was last changed, in Unix seconds.
    pub updated_at: i64,
    /// `jwt_secret` as the store has it.
    #[serde(skip)]
    pub sealed: Sealed,
    /// Which state of the row it was read from.
    #[serde(skip)]
    pub version: Version,
}

/// Which state of a row in a shared store a record was read from; of a record that was not read there is none. It says nothing about the
/// tenant, so records are equal whatever stands here.
#[derive(Clone, Debug, Default)]
pub struct Version(Option<String>);

impl Version {
    /// Of a record that was read.
    #[must_use]
    pub fn of(text: String) -> Self {
        Self(Some(text))
    }

    /// What it was read with, if it was.
    #[must_use]
    pub fn read(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl PartialEq for Version {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// How the original relays between its nodes.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BroadcastAdapter {
    /// Phoenix' own.
    Phoenix,
    /// `gen_rpc`.
    GenRpc,
}

/// One extension of a tenant.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtensionRecord {
    /// `postgres_cdc_rls`, or something that nobody knows.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its settings.
    pub settings: Map<String, Value>,
    /// When it was made, in Unix seconds.
    pub inserted_at: i64,
    /// When it was last changed, in Unix seconds.
    pub updated_at: i64,
    /// The secrets among the settings as the store has them. Of an extension that was never stored there are none.
    #[serde(skip)]
    pub sealed: Sealed,
}

impl ExtensionRecord {
    /// What is encrypted of the settings of a database (spec: control-database 4).
    pub const SECRET_SETTINGS: [&'static str; 5] =
        ["db_host", "db_port", "db_name", "db_user", "db_password"];

    /// Whether [`Self::SECRET_SETTINGS`] are encrypted where it is stored: nobody knows what an unknown extension's settings mean.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.kind == TenantRecord::POSTGRES_CDC
    }

    /// The settings as the management API shows them: without the password, and the other secrets as they are stored.
    #[must_use]
    pub fn shown(&self) -> Map<String, Value> {
        let mut shown = self.at_rest();
        shown.remove("db_password");
        shown
    }

    /// The settings as they are stored. A secret that has no stored text yet is left out.
    #[must_use]
    pub fn at_rest(&self) -> Map<String, Value> {
        let mut stored = self.settings.clone();
        let secrets = Self::SECRET_SETTINGS.iter();
        for name in secrets.filter(|_| self.has_secrets()) {
            // What is no text is no secret: nothing has encrypted it.
            if let Some(value @ Value::String(_)) = stored.get_mut(*name) {
                match self.sealed.get(name) {
                    Some(text) => *value = Value::from(text),
                    None => drop(stored.remove(*name)),
                }
            }
        }
        stored
    }
}

impl TenantRecord {
    /// Whether both say the same, whenever they were written.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.without_times() == other.without_times()
    }

    fn without_times(&self) -> Self {
        let mut record = self.clone();
        (record.inserted_at, record.updated_at) = (0, 0);
        for extension in &mut record.extensions {
            (extension.inserted_at, extension.updated_at) = (0, 0);
        }
        record
    }

    /// The extension that makes a tenant's database known.
    pub const POSTGRES_CDC: &'static str = "postgres_cdc_rls";

    /// Presence events per second where nothing else is said.
    pub const PRESENCE_EVENTS_PER_SECOND: i32 = 1000;

    /// The largest payload in units of 1000 bytes where nothing else is said.
    pub const PAYLOAD_SIZE_IN_KB: i32 = 3000;

    /// What can be said about a tenant from outside (spec: http-api 3.4).
    pub const ATTRIBUTES: &'static [&'static str] = &[
        "broadcast_adapter",
        "client_presence_window_ms",
        "extensions",
        "external_id",
        "feature_flags",
        "jwt_jwks",
        "jwt_secret",
        "max_bytes_per_second",
        "max_channels_per_client",
        "max_client_presence_events_per_window",
        "max_concurrent_users",
        "max_events_per_second",
        "max_joins_per_second",
        "max_payload_size_in_kb",
        "max_presence_events_per_second",
        "migrations_ran",
        "name",
        "postgres_cdc_default",
        "presence_enabled",
        "private_only",
        "suspend",
    ];

    /// A new tenant with nothing but a name; `now` in Unix seconds. Without a key of any kind it is not valid yet.
    #[must_use]
    pub fn new(external_id: &str, defaults: &TenantDefaults, now: i64) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            external_id: external_id.to_owned(),
            name: external_id.to_owned(),
            jwt_secret: None,
            jwt_jwks: None,
            max_concurrent_users: stored(defaults.users_max),
            max_events_per_second: stored(defaults.events_per_second_max),
            max_joins_per_second: stored(defaults.joins_per_second_max),
            max_channels_per_client: stored(defaults.channels_per_socket_max),
            max_bytes_per_second: stored(defaults.bytes_per_second_max),
            max_presence_events_per_second: Self::PRESENCE_EVENTS_PER_SECOND,
            max_payload_size_in_kb: Self::PAYLOAD_SIZE_IN_KB,
            max_client_presence_events_per_window: None,
            client_presence_window_ms: None,
            presence_enabled: false,
            suspend: false,
            private_only: false,
            postgres_cdc_default: Self::POSTGRES_CDC.to_owned(),
            broadcast_adapter: BroadcastAdapter::GenRpc,
            feature_flags: Map::new(),
            migrations_ran: 0,
            extensions: Vec::new(),
            inserted_at: now,
            updated_at: now,
            sealed: Sealed::default(),
            version: Version::default(),
        }
    }

    /// Whether it has a database of its own.
    #[must_use]
    pub fn has_database(&self) -> bool {
        self.database().is_some()
    }

    /// The settings of its database.
    #[must_use]
    pub fn database(&self) -> Option<&Map<String, Value>> {
        self.extensions
            .iter()
            .find(|extension| extension.kind == Self::POSTGRES_CDC)
            .map(|extension| &extension.settings)
    }
}

/// Without secrets: they must not reach a log.
impl fmt::Debug for TenantRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantRecord")
            .field("external_id", &self.external_id)
            .finish_non_exhaustive()
    }
}

/// Without settings: passwords stand in them.
impl fmt::Debug for ExtensionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionRecord")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A limit as the store has it: its numbers have a sign.
fn stored(limit: u32) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// The defaults that a server without any setting has.
#[cfg(test)]
pub const TEST_DEFAULTS: TenantDefaults = TenantDefaults {
    bytes_per_second_max: 100_000,
    channels_per_socket_max: 100,
    users_max: 200,
    events_per_second_max: 100,
    joins_per_second_max: 100,
};

//! The operational codes: what dashboards count, what operators search for, and what some clients match on.
//!
//! What comes in: nothing. What goes out: [`ErrorCode`] with its level, and the texts that are fixed. What always holds: names,
//! levels and texts are upstream's, letter for letter (spec: errors-and-logs 2), historical misspellings included; this is the
//! only list of codes. Deliberately absent: codes that upstream only documents and never emits, and how a line is written
//! (`logging`).

mod inspect;

pub use inspect::{inspect, inspect_str, inspect_tuples};

/// How bad a line is, from worst to least. The names are those of `LOG_LEVEL`.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Level {
    /// The system is unusable.
    Emergency,
    /// Somebody must act now.
    Alert,
    /// A limit that protects a tenant tripped.
    Critical,
    /// A person should look; counted by code.
    Error,
    /// Unusual, expected to pass.
    Warning,
    /// Normal, but worth noting.
    Notice,
    /// The ordinary course of things.
    Info,
    /// For finding mistakes in this server.
    Debug,
}

impl Level {
    /// All levels, worst first.
    pub const ALL: [Self; 8] = [
        Self::Emergency,
        Self::Alert,
        Self::Critical,
        Self::Error,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// The name as it stands in a line and in `LOG_LEVEL`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::Alert => "alert",
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The level of this name, exactly as [`Level::as_str`] writes it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// Who writes a coded line: it decides whether the line counts in `realtime_channel_error` (spec: errors-and-logs 4).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The upgrade of a socket.
    Upgrade,
    /// A socket or one of its channels after the upgrade.
    Socket,
    /// A rate counter whose flag went up.
    RateTrip,
    /// Anything else: REST, databases, replication.
    Elsewhere,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident $level:ident $($text:literal)?;)*) => {
        /// An operational code. The variants are spelled as they are written.
        #[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $name,)*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as dashboards and clients see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The code of this name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }

            /// The level of a line with this code (spec: errors-and-logs 2). Two codes are critical when a counter trips and errors
            /// when a join is refused by it: the trip's level stands here, and [`ErrorCode::level_in_join`] knows the other.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }

            /// What follows `Code: ` to a client, for codes that have exactly one such text. The others: [`text`].
            #[must_use]
            pub const fn text(self) -> Option<&'static str> {
                match self { $(Self::$name => codes!(@text $($text)?),)* }
            }
        }
    };
    (@text $text:literal) => { Some($text) };
    (@text) => { None };
}

codes! {
    // -- 2.1 connecting and joining --
    /// A join of `realtime:` with nothing behind it.
    TopicNameRequired Error "You must provide a topic name";
    /// A join payload has invalid fields; the join goes on with defaults.
    InvalidJoinPayload Error;
    /// No tenant of that name: upgrade, join, management API, each with its own text.
    TenantNotFound Error;
    /// An upgrade without a token.
    MissingAPIKey Error "API key is missing or not a valid string";
    /// Upgrade failures without a code of their own, as an inspected error.
    ErrorConnectingToWebsocket Error;
    /// A token that has expired or lacks `role` or `exp`.
    InvalidJWTToken Warning;
    /// What was sent is no JWT.
    MalformedJWT Error "The token provided is not a valid JWT";
    /// The signature is wrong.
    JwtSignatureError Error "Failed to validate JWT signature";
    /// There is no key to check the token with.
    JwtSignerError Error;
    /// A private join without read permission; the text names the topic.
    Unauthorized Error;
    /// A public join to a tenant that allows private channels only.
    PrivateOnly Error "This project only allows private channels";
    /// The tenant is suspended.
    RealtimeDisabledForTenant Error "Realtime disabled for this tenant";
    /// The process is about to end.
    RealtimeRestarting Error "Realtime is restarting, please standby";
    /// Something unexpected in a channel.
    UnknownErrorOnChannel Error;
    /// Membership of the cluster could not be joined.
    MusterJoinError Error;
    /// A frame that cannot be decoded.
    MalformedWebSocketMessage Error;
    /// A frame that broke the decoder.
    UnknownErrorOnWebSocketMessage Error;
    /// A channel was shut down; the text is the shutdown message.
    ChannelShutdown Warning;
    /// Replay is not possible, three texts.
    UnableToReplayMessages Error;
    /// A private broadcast could not be checked.
    UnableToHandleBroadcast Error;
    /// A presence message failed.
    UnableToHandlePresence Error;
    /// A track was refused.
    UnableToTrackPresence Error;
    /// A presence event that is neither track nor untrack.
    UnknownPresenceEvent Error;
    /// A track payload that is not an object.
    InvalidPresencePayload Error ":invalid_payload";

    // -- 2.2 limits --
    /// `max_concurrent_users` sockets are connected.
    ConnectionRateLimitReached Error "Too many connected users";
    /// `max_joins_per_second` at an upgrade.
    JoinsRateLimitReached Error "Too many joins per second";
    /// `max_joins_per_second` at a join.
    ClientJoinRateLimitReached Critical "Too many joins per second";
    /// `max_channels_per_client`: logged when the last slot is taken.
    ChannelRateLimitReached Error "Too many channels";
    /// `max_events_per_second`, also for row changes.
    MessagePerSecondRateLimitReached Error;
    /// `max_presence_events_per_second`.
    PresenceRateLimitReached Error "Too many presence events per second";
    /// Presence calls of one channel per window.
    ClientPresenceRateLimitReached Error ":client_rate_limit_exceeded";
    /// Connection attempts to the tenant's database.
    DatabaseConnectionRateLimitReached Critical;
    /// Time-outs of the authorization pool.
    IncreaseConnectionPool Critical;
    /// Time-outs of the subscription pool.
    IncreaseSubscriptionConnectionPool Error "Too many database timeouts";
    /// A rate counter is not available.
    RateCounterError Error;
    /// A counter is not available.
    UnknownErrorOnCounter Error;

    // -- 2.3 authorization and tenant database --
    /// A policy query failed unexpectedly.
    UnableToSetPolicies Error;
    /// A policy raised an SQL error.
    RlsPolicyError Error;
    /// The statement time-out cancelled a check.
    QueryCanceled Error;
    /// `realtime.messages` has no partition for today.
    MissingPartition Error "Realtime was unable to find the expected messages partition";
    /// The tenant's database cannot be reached, as a client reads it.
    UnableToConnectToProject Error "Realtime was unable to connect to the project database";
    /// The tenant's database cannot be reached, as an operator reads it.
    UnableToConnectToTenantDatabase Error;
    /// Too few connections are left in the tenant's database.
    DatabaseLackOfConnections Error "Database can't accept more connections, Realtime won't connect";
    /// The connection is being made, two texts.
    InitializingProjectConnection Error;
    /// The database host has an IPv4 address only.
    DatabaseIpVersionIsIpv4 Warning;
    /// The database pool lost its connection.
    DatabaseConnectionDown Warning "Database pool connection lost, recovery window opened";
    /// The database pool did not come back in time.
    DatabaseConnectionRecoveryWindowExceeded Warning;
    /// The registry is in an unexpected state.
    SynInitializationError Error;
    /// A transaction failed.
    ErrorExecutingTransaction Error;
    /// No connection could be taken from the pool.
    UnableCheckoutConnection Error "Unable to checkout connection, please check your connection pool configuration";
    /// A query failed.
    ErrorRunningQuery Error;
    /// Something unexpected with a database.
    UnknownError Error;
    /// Tenant migrations failed.
    MigrationsFailedToRun Error;
    /// Recorded and actual migration counts differ.
    MigrationCountMismatch Warning;
    /// That difference could not be reconciled.
    MigrationCountMismatchReconcileFailed Error;
    /// A partition could not be created.
    PartitionCreationFailed Error;
    /// Stored secrets could not be rewritten with the current cipher.
    EncryptionReconcileFailed Error;
    /// The janitor could not delete old messages.
    JanitorFailedToDeleteOldMessages Error;

    // -- 2.4 broadcast from the database --
    /// A replication stream could not be started.
    StartReplicationFailed Error;
    /// The database has no WAL sender left.
    ReplicationMaxWalSendersReached Error "Tenant database has reached the maximum number of WAL senders";
    /// Starting a replication stream took too long.
    ReplicationConnectionTimeout Error "Replication connection timed out during initialization";
    /// A replication stream ended.
    ReplicationConnectionDown Warning "Replication connection has been terminated, recovery window opened";
    /// The check before a new attempt failed.
    ReplicationConnectionRecoveryFailed Error;
    /// The stream did not come back in time.
    ReplicationRecoveryWindowExceeded Warning;
    /// The stream does not answer its watchdog.
    ReplicationConnectionWatchdogTimeout Error "ReplicationConnection is not responding";
    /// The slot is gone or inactive.
    ReplicationSlotNotAlive Error;
    /// The slot retains too much WAL.
    ReplicationSlotLagTooHigh Error "Replication slot lag exceeds 50% of max_slot_wal_keep_size, shutting down";
    /// The slot could not be looked at.
    ReplicationSlotCheckSkipped Warning;
    /// A row of `realtime.messages` could not be broadcast.
    UnableToBroadcastChanges Error;
    /// The stream sent something unknown.
    UnexpectedMessageReceived Error;

    // -- 2.5 Postgres changes --
    /// A subscription was refused for its parameters.
    RealtimeDisabledForConfiguration Warning;
    /// The worker is not ready, the subscription is tried again.
    ReconnectSubscribeToPostgres Warning;
    /// A subscription failed.
    UnableToSubscribeToPostgres Error;
    /// The worker could not be started.
    ErrorStartingPostgresCDC Error;
    /// The change slot is held elsewhere.
    ReplicationSlotBeingUsed Error;
    /// `pg_stat_activity` could not be read.
    PgStatActivityQueryFailed Error;
    /// The change slot could not be created.
    PoolingReplicationPreparationError Error;
    /// A poll of the change slot failed.
    PoolingReplicationError Error;
    /// The poller could not connect.
    ReplicationPollerConnectionFailed Error;
    /// The poller gave up.
    ReplicationPollerMaxRetriesReached Error;
    /// The change slot could not be dropped.
    DropReplicationSlotFailed Error;
    /// The publication could not be checked.
    CheckOidsError Error;
    /// The subscription manager could not connect.
    SubscriptionManagerConnectionFailed Error;
    /// Old subscriptions could not be removed.
    SubscriptionCleanupFailed Error;
    /// A subscription could not be deleted.
    SubscriptionDeletionFailed Error;
    /// Subscribers of another node could not be checked.
    UnableToCheckProcessesOnRemoteNode Error;
    /// A task got a message that it does not know.
    UnhandledProcessMessage Error;

    // -- 2.6 HTTP, cluster, operations --
    /// A step of deleting a tenant failed.
    UnableToDeleteTenant Error;
    /// A request is well-formed but not acceptable.
    UnprocessableEntity Error;
    /// A route came to an unexpected result.
    UnknownErrorOnController Error;
    /// An answer could not be encoded.
    UnableToEncodeJson Error;
    /// A request was answered 5xx.
    HttpServerError Error;
    /// A request was answered 4xx by no route.
    HttpClientError Warning;
    /// A call to another node failed.
    RpcError Error;
    /// A call to another node took too long.
    TimeoutOnRpcCall Error "Node request timeout";
    /// A call to another node failed.
    ErrorOnRpcCall Error;
    /// Another node is not reachable.
    RealtimeNodeDisconnected Error;
    /// Pushing metrics took too long.
    MetricsPusherTimeout Error;
    /// The task that pushes metrics ended.
    MetricsPusherTaskExited Error;
    /// Pushing metrics was refused.
    MetricsPusherFailed Error;
    /// Pushing metrics broke.
    MetricsPusherException Error;
    /// The database of a tenant could not be reached to look at its migrations.
    TenantMigrationsConnectFailed Error;
    /// A tenant database's version could not be read.
    TenantInfoPgVersionFailed Warning;
    /// A dump of migrations was left out.
    TenantMigrationsDumpSkipped Warning;
    /// The count of run migrations could not be read.
    TenantMigrationsRanCheckFailed Error;
}

impl ErrorCode {
    /// What a client reads in a join's error reply: `Code: text` (spec: websocket-protocol 5.5).
    #[must_use]
    pub fn reason(self, text: &str) -> String {
        let code = self.as_str();
        let mut reason = String::with_capacity(code.len() + 2 + text.len());
        reason.push_str(code);
        reason.push_str(": ");
        reason.push_str(text);
        reason
    }

    /// The level of a line that a refused join writes.
    #[must_use]
    pub const fn level_in_join(self) -> Level {
        match self {
            Self::DatabaseConnectionRateLimitReached | Self::IncreaseConnectionPool => Level::Error,
            _ => self.level(),
        }
    }

    /// Whether a line with this code, written by `origin`, adds to `realtime_channel_error` (spec: errors-and-logs 4).
    #[must_use]
    pub const fn counts_in_metrics(self, origin: Origin) -> bool {
        match origin {
            Origin::Socket => matches!(self.level_in_join(), Level::Error),
            Origin::Upgrade => matches!(
                self,
                Self::RealtimeDisabledForTenant
                    | Self::ConnectionRateLimitReached
                    | Self::JoinsRateLimitReached
            ),
            Origin::RateTrip | Origin::Elsewhere => false,
        }
    }
}

/// Texts of codes that have more than one, and client texts without a code.
pub mod text {
    /// `UnableToConnectToProject`, and what whoever needs the tenant's database reads while there is none.
    pub const UNABLE_TO_CONNECT: &str = "Realtime was unable to connect to the project database";
    /// `TenantNotFound` to a join.
    pub const TENANT_NOT_FOUND_IN_JOIN: &str = "Tenant with the given ID does not exist";
    /// `UnableToReplayMessages`: replay was asked of a public channel.
    pub const REPLAY_NOT_ALLOWED: &str = "Replay is not allowed for public channels";
    /// `UnableToReplayMessages`: the parameters are wrong.
    pub const REPLAY_PARAMS_INVALID: &str = "Replay params are not valid";
    /// `UnableToReplayMessages`: the query failed.
    pub const REPLAY_FAILED: &str = "Realtime was unable to replay messages";
    /// `DatabaseConnectionRateLimitReached` to a join.
    pub const TOO_MANY_DATABASE_CONNECTIONS: &str =
        "Too many database connections attempts per second";
    /// `DatabaseConnectionRateLimitReached` when the counter trips.
    pub const TOO_MANY_DATABASE_ATTEMPTS: &str =
        "Too many connection attempts against the tenant database";
    /// `IncreaseConnectionPool` to a join.
    pub const INCREASE_POOL: &str = "Please increase your connection pool size";
    /// `IncreaseConnectionPool` when the counter trips.
    pub const TOO_MANY_DATABASE_TIMEOUTS: &str = "Too many database timeouts";
    /// `InitializingProjectConnection`: the connection is being made by somebody else.
    pub const INITIALIZING: &str = "Realtime is initializing the project connection";
    /// `InitializingProjectConnection`: the connection was not made in time.
    pub const CONNECTING: &str = "Connecting to the project database";
    /// `InvalidJWTToken`: a claim that must be there is not.
    pub const CLAIMS_REQUIRED: &str = "Fields `role` and `exp` are required in JWT";
    /// `InvalidJWTToken`: `exp` was reached between two checks.
    pub const EXPIRATION_INVALID: &str = "Token expiration time is invalid";
    /// A join's reason for what has no text of its own; it has no code in front.
    pub const UNKNOWN_ERROR_ON_CHANNEL: &str = "Unknown Error on Channel";
    /// `MessagePerSecondRateLimitReached`, log and shutdown message.
    pub const TOO_MANY_MESSAGES: &str = "Too many messages per second";
    /// `MessagePerSecondRateLimitReached` of row changes, log.
    pub const TOO_MANY_CHANGES: &str = "Too many postgres changes messages per second";
    /// Shutdown message of `PresenceRateLimitReached`.
    pub const TOO_MANY_PRESENCE_MESSAGES: &str = "Too many presence messages per second";
    /// Shutdown message of `ClientPresenceRateLimitReached`.
    pub const CLIENT_PRESENCE_LIMIT: &str = "Client presence rate limit exceeded";
    /// Shutdown message of a track payload that is too large.
    pub const TRACK_TOO_LARGE: &str = "Track message size exceeded";
    /// Shutdown message of a channel that waited for replication in vain.
    pub const REPLICATION_NOT_READY: &str = "Replication connection was not established in time";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_wire_names_and_none_comes_twice() {
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(
            ErrorCode::PoolingReplicationError.as_str(),
            "PoolingReplicationError"
        );
        // Upstream's table documents these, but nothing emits them.
        for absent in [
            "ErrorAuthorizingWebsocket",
            "InvalidJWTExpiration",
            "TableHasSpacesInName",
            "MigrationCheckFailed",
        ] {
            assert!(names.binary_search(&absent).is_err(), "{absent}");
        }
    }

    #[test]
    fn reasons_are_code_and_text() {
        let reason = |code: ErrorCode| code.reason(code.text().expect("has one text"));
        assert_eq!(
            reason(ErrorCode::TopicNameRequired),
            "TopicNameRequired: You must provide a topic name"
        );
        assert_eq!(
            reason(ErrorCode::PrivateOnly),
            "PrivateOnly: This project only allows private channels"
        );
        assert_eq!(
            reason(ErrorCode::ClientJoinRateLimitReached),
            "ClientJoinRateLimitReached: Too many joins per second"
        );
        assert_eq!(ErrorCode::UnableToReplayMessages.text(), None);
    }

    #[test]
    fn levels_are_those_of_the_table() {
        use ErrorCode as C;
        for (code, level) in [
            (C::MalformedJWT, Level::Error),
            (C::InvalidJWTToken, Level::Warning),
            (C::ClientJoinRateLimitReached, Level::Critical),
            (C::DatabaseConnectionRateLimitReached, Level::Critical),
            (C::HttpClientError, Level::Warning),
            (C::HttpServerError, Level::Error),
        ] {
            assert_eq!(code.level(), level, "{code:?}");
        }
        assert_eq!(
            C::DatabaseConnectionRateLimitReached.level_in_join(),
            Level::Error
        );
    }

    #[test]
    fn only_errors_of_sockets_and_three_of_upgrades_count() {
        use ErrorCode as C;
        let check = |code: C, origin, expected| {
            assert_eq!(
                code.counts_in_metrics(origin),
                expected,
                "{code:?} {origin:?}"
            )
        };
        check(C::MalformedJWT, Origin::Socket, true);
        check(C::MalformedJWT, Origin::Upgrade, false);
        check(C::TenantNotFound, Origin::Socket, true);
        check(C::TenantNotFound, Origin::Upgrade, false);
        check(C::RealtimeDisabledForTenant, Origin::Upgrade, true);
        check(C::ConnectionRateLimitReached, Origin::Upgrade, true);
        check(C::JoinsRateLimitReached, Origin::Upgrade, true);
        check(C::InvalidJWTToken, Origin::Socket, false);
        check(C::ClientJoinRateLimitReached, Origin::Socket, false);
        check(C::MessagePerSecondRateLimitReached, Origin::RateTrip, false);
        check(C::IncreaseConnectionPool, Origin::Socket, true);
        check(C::IncreaseConnectionPool, Origin::RateTrip, false);
        check(C::UnableToDeleteTenant, Origin::Elsewhere, false);
    }

    #[test]
    fn levels_are_parsed_by_their_exact_name() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.as_str()), Some(level));
        }
        for wrong in ["", "Error", "warn", "errors"] {
            assert_eq!(Level::parse(wrong), None, "{wrong:?}");
        }
        assert!(Level::Critical < Level::Error, "worse levels come first");
    }
}

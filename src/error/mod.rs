//! The operational codes: what dashboards count, what operators search for, and what some clients match on.
//!
//! What comes in: nothing. What goes out: [`ErrorCode`] with its level, and the texts that are fixed. What always holds: names,
//! levels and texts are upstream's, letter for letter (spec: errors-and-logs 2), historical misspellings included; this is the
//! only list of codes. Deliberately absent: codes that upstream only documents and never emits, and how a line is written
//! (`logging`).

mod inspect;
mod remedy;

pub use inspect::{inspect, inspect_errors, inspect_str, inspect_tuples};

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

            /// What happened, in a sentence: for whoever reads the code and does not know it. [`ErrorCode::remedy`] says what to do.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)* }
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
    /// A join has fields that are not valid; it goes on with the defaults for these.
    InvalidJoinPayload Error;
    /// There is no tenant of that name: where it is connected to, joined or managed, each with its own text.
    TenantNotFound Error;
    /// A socket was opened without a token.
    MissingAPIKey Error "API key is missing or not a valid string";
    /// A socket was refused for a reason without a code of its own; the text is that error, inspected.
    ErrorConnectingToWebsocket Error;
    /// A token has expired, or lacks `role` or `exp`.
    InvalidJWTToken Warning;
    /// What was sent as a token is no JWT.
    MalformedJWT Error "The token provided is not a valid JWT";
    /// The signature of a token was made with another key, or the token was changed.
    JwtSignatureError Error "Failed to validate JWT signature";
    /// There is no key to check a token with.
    JwtSignerError Error;
    /// No policy lets this token read a private channel; the text names the topic.
    Unauthorized Error;
    /// A public channel was joined at a tenant that allows private channels only.
    PrivateOnly Error "This project only allows private channels";
    /// The tenant is suspended.
    RealtimeDisabledForTenant Error "Realtime disabled for this tenant";
    /// The process is about to end, and takes no joins any more.
    RealtimeRestarting Error "Realtime is restarting, please standby";
    /// Something unexpected happened in a channel; the text says what.
    UnknownErrorOnChannel Error;
    /// Membership of a cluster could not be joined.
    MusterJoinError Error;
    /// A client sent a frame that cannot be decoded.
    MalformedWebSocketMessage Error;
    /// A client sent a frame that is encoded well and is still no message.
    UnknownErrorOnWebSocketMessage Error;
    /// A channel was shut down; the text is the message that the client gets.
    ChannelShutdown Warning;
    /// Kept messages could not be replayed at a join; one of three texts says why.
    UnableToReplayMessages Error;
    /// A private broadcast could not be checked against the policies, and was dropped.
    UnableToHandleBroadcast Error;
    /// A presence message could not be handled.
    UnableToHandlePresence Error;
    /// The tracker refused a presence.
    UnableToTrackPresence Error;
    /// A presence message is neither `track` nor `untrack`; the text is its event.
    UnknownPresenceEvent Error;
    /// What a client tracks is not an object.
    InvalidPresencePayload Error ":invalid_payload";

    // -- 2.2 limits --
    /// As many sockets are connected as `max_concurrent_users` of the tenant allows.
    ConnectionRateLimitReached Error "Too many connected users";
    /// A socket was refused while the tenant is above its `max_joins_per_second`.
    JoinsRateLimitReached Error "Too many joins per second";
    /// The joins of a tenant went above its `max_joins_per_second`; the socket that joins then is closed.
    ClientJoinRateLimitReached Critical "Too many joins per second";
    /// A socket has as many channels as `max_channels_per_client` of its tenant allows.
    ChannelRateLimitReached Error "Too many channels";
    /// The messages of a tenant went above its `max_events_per_second`; row changes have a limit of their own.
    MessagePerSecondRateLimitReached Error;
    /// The presence messages of a tenant went above its `max_presence_events_per_second`.
    PresenceRateLimitReached Error "Too many presence events per second";
    /// One channel sent more presence messages than a window allows, and was closed.
    ClientPresenceRateLimitReached Error ":client_rate_limit_exceeded";
    /// Connecting to the database of a tenant was tried too often within a short time.
    DatabaseConnectionRateLimitReached Critical;
    /// Checks of private channels waited too long for a connection of the pool, again and again.
    IncreaseConnectionPool Critical;
    /// Subscriptions to row changes waited too long for a connection of their pool, again and again.
    IncreaseSubscriptionConnectionPool Error "Too many database timeouts";
    /// The counter of a rate is not there.
    RateCounterError Error;
    /// A counter that a join or a request asks is not there.
    UnknownErrorOnCounter Error;

    // -- 2.3 authorization and tenant database --
    /// The policies of a channel could not be read, for another reason than an error of SQL.
    UnableToSetPolicies Error;
    /// A policy on `realtime.messages` raised an error of SQL; the text is that error.
    RlsPolicyError Error;
    /// The statement time-out of the database cancelled a check of the policies.
    QueryCanceled Error;
    /// `realtime.messages` has no partition for today.
    MissingPartition Error "Realtime was unable to find the expected messages partition";
    /// The database of a tenant cannot be reached, as a client reads it.
    UnableToConnectToProject Error "Realtime was unable to connect to the project database";
    /// The database of a tenant cannot be reached, as an operator reads it.
    UnableToConnectToTenantDatabase Error;
    /// The database of a tenant has fewer connections left than the tenant needs.
    DatabaseLackOfConnections Error "Database can't accept more connections, Realtime won't connect";
    /// The connection to the database of a tenant is still being made.
    InitializingProjectConnection Error;
    /// The host of the database has an IPv4 address only.
    DatabaseIpVersionIsIpv4 Warning;
    /// The pool to the database of a tenant lost its connection, and is made anew.
    DatabaseConnectionDown Warning "Database pool connection lost, recovery window opened";
    /// The pool to the database of a tenant did not come back in time; the session ended.
    DatabaseConnectionRecoveryWindowExceeded Warning;
    /// The registry of tenant sessions is in an unexpected state.
    SynInitializationError Error;
    /// A transaction in the database of a tenant failed; the text is its error.
    ErrorExecutingTransaction Error;
    /// No connection could be taken from the pool to the database.
    UnableCheckoutConnection Error "Unable to checkout connection, please check your connection pool configuration";
    /// A query in the database of a tenant failed.
    ErrorRunningQuery Error;
    /// Something unexpected happened with a database; the text says what.
    UnknownError Error;
    /// The schema `realtime` in the database of a tenant could not be brought up to date.
    MigrationsFailedToRun Error;
    /// The count of migrations that is stored with the tenant is not the one in its database.
    MigrationCountMismatch Warning;
    /// The count of migrations that is stored with the tenant could not be put right.
    MigrationCountMismatchReconcileFailed Error;
    /// A partition of `realtime.messages` could not be created.
    PartitionCreationFailed Error;
    /// Stored secrets of a tenant could not be sealed anew with the current cipher.
    EncryptionReconcileFailed Error;
    /// The janitor could not delete the old messages of some tenants; the text names them.
    JanitorFailedToDeleteOldMessages Error;

    // -- 2.4 broadcast from the database --
    /// The replication stream of `realtime.messages` could not be started.
    StartReplicationFailed Error;
    /// The database of a tenant has no free WAL sender.
    ReplicationMaxWalSendersReached Error "Tenant database has reached the maximum number of WAL senders";
    /// Starting the replication stream of `realtime.messages` took too long.
    ReplicationConnectionTimeout Error "Replication connection timed out during initialization";
    /// The replication stream of `realtime.messages` ended, and is started again.
    ReplicationConnectionDown Warning "Replication connection has been terminated, recovery window opened";
    /// The database could not be asked before a new attempt to start the stream.
    ReplicationConnectionRecoveryFailed Error;
    /// The replication stream did not come back in time; the session ended.
    ReplicationRecoveryWindowExceeded Warning;
    /// The replication stream does not answer its watchdog.
    ReplicationConnectionWatchdogTimeout Error "ReplicationConnection is not responding";
    /// The slot of a replication stream is gone or inactive.
    ReplicationSlotNotAlive Error;
    /// A slot keeps too much of the log of the database, and was given up.
    ReplicationSlotLagTooHigh Error "Replication slot lag exceeds 50% of max_slot_wal_keep_size, shutting down";
    /// A slot could not be looked at; the next look comes in its time.
    ReplicationSlotCheckSkipped Warning;
    /// A row of `realtime.messages` could not be broadcast, and was dropped; the text says what is wrong with it.
    UnableToBroadcastChanges Error;
    /// The replication stream sent a message that this server does not know.
    UnexpectedMessageReceived Error;

    // -- 2.5 Postgres changes --
    /// A subscription to row changes was refused for what it asks for; the client reads the same text.
    RealtimeDisabledForConfiguration Warning;
    /// The reader of row changes is not ready; the subscription is tried again.
    ReconnectSubscribeToPostgres Warning;
    /// A subscription to row changes failed; the text is the error.
    UnableToSubscribeToPostgres Error;
    /// The reader of a tenant's row changes could not be started.
    ErrorStartingPostgresCDC Error;
    /// The slot of row changes is held by another connection.
    ReplicationSlotBeingUsed Error;
    /// Who holds the slot of row changes could not be asked.
    PgStatActivityQueryFailed Error;
    /// The slot of row changes could not be created.
    PoolingReplicationPreparationError Error;
    /// Reading the slot of row changes failed.
    PoolingReplicationError Error;
    /// The reader of row changes could not connect to the database.
    ReplicationPollerConnectionFailed Error;
    /// The reader of row changes gave up after all its attempts.
    ReplicationPollerMaxRetriesReached Error;
    /// A slot of row changes that nobody needs could not be dropped.
    DropReplicationSlotFailed Error;
    /// Which tables are published could not be asked.
    CheckOidsError Error;
    /// What checks subscriptions to row changes could not connect to the database.
    SubscriptionManagerConnectionFailed Error;
    /// Subscriptions of the time before could not be removed.
    SubscriptionCleanupFailed Error;
    /// A subscription could not be deleted.
    SubscriptionDeletionFailed Error;
    /// Subscribers of another node could not be asked after.
    UnableToCheckProcessesOnRemoteNode Error;
    /// A task got a message that it does not know.
    UnhandledProcessMessage Error;

    // -- 2.6 HTTP, cluster, operations --
    /// A tenant was deleted, and a step of what follows failed.
    UnableToDeleteTenant Error;
    /// A request is well formed, and what it asks for is not acceptable.
    UnprocessableEntity Error;
    /// A route of the HTTP interface came to an unexpected result.
    UnknownErrorOnController Error;
    /// An answer could not be encoded as JSON.
    UnableToEncodeJson Error;
    /// A request was answered with a status of 500 or more.
    HttpServerError Error;
    /// A request was refused before it came to a route: an unknown path, a body that cannot be read, an answer that cannot be
    /// accepted.
    HttpClientError Warning;
    /// A broadcast by HTTP could not be handed to the node that serves its tenant.
    RpcError Error;
    /// Another node took too long to answer.
    TimeoutOnRpcCall Error "Node request timeout";
    /// A call to another node failed.
    ErrorOnRpcCall Error;
    /// Another node is not reachable.
    RealtimeNodeDisconnected Error;
    /// Pushing metrics took longer than `METRICS_PUSHER_TIMEOUT_MS`.
    MetricsPusherTimeout Error;
    /// The task that pushes metrics ended.
    MetricsPusherTaskExited Error;
    /// Whoever receives pushed metrics refused them; the text has the status.
    MetricsPusherFailed Error;
    /// Metrics could not be pushed: the receiver is not reachable, or the connection broke.
    MetricsPusherException Error;
    /// The database of a tenant could not be reached to look at its migrations.
    TenantMigrationsConnectFailed Error;
    /// The version of the PostgreSQL of a tenant could not be read.
    TenantInfoPgVersionFailed Warning;
    /// A dump of the schema behind the migrations of a tenant was left out.
    TenantMigrationsDumpSkipped Warning;
    /// The count of migrations that a tenant has run could not be read.
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
    /// `InitializingProjectConnection`: the connection was not made in time.
    pub const CONNECTING: &str = "Connecting to the project database";
    /// `InvalidJWTToken`: a claim that must be there is not.
    pub const CLAIMS_REQUIRED: &str = "Fields `role` and `exp` are required in JWT";
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

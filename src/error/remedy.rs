//! What to do about a code.
//!
//! What comes in: a code. What goes out: a sentence or two for whoever reads it in a log or in an answer: which variable, which setting of the
//! tenant, which SQL, which claim. What always holds: every code has one, and it adds something to [`ErrorCode::meaning`]
//! (`every_code_says_what_happened_and_what_to_do`). Deliberately absent: what happened in this case; that is the text behind the code.

use super::ErrorCode;

impl ErrorCode {
    /// What whoever reads this code should do about it, in a sentence or two.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            // -- connecting and joining --
            Self::TopicNameRequired => {
                "Give the channel a name: `client.channel(\"room-1\")` joins `realtime:room-1`."
            }
            Self::InvalidJoinPayload => {
                "Compare the `config` of the join with the fields that the text names: `broadcast`, `presence` and `postgres_changes` have fixed types. A current client library sends them right."
            }
            Self::TenantNotFound => {
                "Check the first label of the host in the URL: it is the tenant's `external_id`. `GET /api/tenants/<external_id>` says whether it is there, `POST /api/tenants` makes it."
            }
            Self::MissingAPIKey => {
                "Send the tenant's key as `apikey` in the query of the URL, or in the header `x-api-key`."
            }
            Self::ErrorConnectingToWebsocket => {
                "Read the inspected error: `:signature_error` asks for a token that is signed with the tenant's `jwt_secret` or a key of its `jwt_jwks`, `claims` for other claims in the token."
            }
            Self::InvalidJWTToken => {
                "Get a new token and send it, on an open socket by `realtime.setAuth(token)`. It needs the claims `role` and `exp`, with `exp` in Unix seconds ahead of now; compare the clocks of both machines."
            }
            Self::MalformedJWT => {
                "Send a JWT, three parts joined by dots, without `Bearer` in front of it and without quotes. A key that begins with `sb_` is none and has to be exchanged by the gateway."
            }
            Self::JwtSignatureError => {
                "Sign tokens with the tenant's `jwt_secret`, or put the key that signs them into its `jwt_jwks` (`PUT /api/tenants/<external_id>`). After a rotation, fetch new tokens."
            }
            Self::JwtSignerError => {
                "Store a key that fits the token's `alg` and `kid`: `jwt_secret` for HS256, HS384 and HS512, or an entry of `jwt_jwks` for RS, ES and Ed25519."
            }
            Self::Unauthorized => {
                "Write a policy `for select` on `realtime.messages` that is true for this role and `realtime.topic()`, or join with a token of another `role` or `sub`."
            }
            Self::PrivateOnly => {
                "Join with `config: { private: true }`, or set `private_only` of the tenant to false."
            }
            Self::RealtimeDisabledForTenant => {
                "Set `suspend` of the tenant to false by `PUT /api/tenants/<external_id>`."
            }
            Self::RealtimeRestarting => {
                "Nothing: client libraries join again by themselves. Should it stay, the process hangs while it drains, and a second SIGTERM ends it."
            }
            Self::UnknownErrorOnChannel => {
                "Read the text. A payload that is no object or a join of more than 256 KiB has to be mended in the client; anything else deserves a report."
            }
            Self::MusterJoinError => {
                "This server has no cluster of that kind and never writes it: another process, the original, wrote the line."
            }
            Self::MalformedWebSocketMessage => {
                "Send what the `vsn` of the URL promises: objects for 1.0.0, lists `[join_ref, ref, topic, event, payload]` or binary frames for 2.0.0."
            }
            Self::UnknownErrorOnWebSocketMessage => {
                "Look for the kind of the frame in the text and correct the client that builds frames by hand; topic, event and payload are what is mostly missing."
            }
            Self::ChannelShutdown => {
                "Join again after the cause has gone; the message names it: a limit, a token that has expired, or an operator who disconnects the tenant."
            }
            Self::UnableToReplayMessages => {
                "Ask for replay on private channels only, with `since` in Unix milliseconds and `limit` from 1 to 25. Where the query failed, look at the database of the tenant."
            }
            Self::UnableToHandleBroadcast => {
                "Look for the code of the database that stands near this line, and mend that; then send again. `/api/tenants/<external_id>/health` says whether the database is connected."
            }
            Self::UnableToHandlePresence => {
                "Look for the code of the database that stands near this line. A channel that may not be checked tracks nobody."
            }
            Self::UnableToTrackPresence => {
                "Track again; presences are kept in memory here, so only a process that ends refuses one."
            }
            Self::UnknownPresenceEvent => {
                "Send `track` or `untrack` as the `event` of a presence message: `channel.track(state)` and `channel.untrack()` do."
            }
            Self::InvalidPresencePayload => {
                "Pass an object to `channel.track`, such as `{ user: \"ann\" }`; lists, texts and numbers are refused."
            }
            // -- limits --
            Self::ConnectionRateLimitReached => {
                "Raise `max_concurrent_users` of the tenant by `PUT /api/tenants/<external_id>` (for new tenants: TENANT_MAX_CONCURRENT_USERS), or open one socket per user instead of one per tab."
            }
            Self::JoinsRateLimitReached => {
                "Let clients wait a random time before they connect again, or raise `max_joins_per_second` of the tenant (for new tenants: TENANT_MAX_JOINS_PER_SECOND)."
            }
            Self::ClientJoinRateLimitReached => {
                "Spread the joins, and keep channels instead of joining them again and again; or raise `max_joins_per_second` of the tenant."
            }
            Self::ChannelRateLimitReached => {
                "Leave channels that are no longer used (`client.removeChannel`), or raise `max_channels_per_client` of the tenant (for new tenants: TENANT_MAX_CHANNELS_PER_CLIENT)."
            }
            Self::MessagePerSecondRateLimitReached => {
                "Send less often or gather what is sent, or raise `max_events_per_second` of the tenant (for new tenants: TENANT_MAX_EVENTS_PER_SECOND). Every delivery counts, not only what is sent."
            }
            Self::PresenceRateLimitReached => {
                "Track rarely, and what changes fast by broadcast instead; or raise `max_presence_events_per_second` of the tenant."
            }
            Self::ClientPresenceRateLimitReached => {
                "Track once after the join and when the state has changed, not with each movement. The bounds are `max_client_presence_events_per_window` and `client_presence_window_ms` of the tenant, else CLIENT_PRESENCE_MAX_CALLS and CLIENT_PRESENCE_WINDOW_MS."
            }
            Self::DatabaseConnectionRateLimitReached => {
                "Mend why connecting fails first: look for UnableToConnectToTenantDatabase. Attempts are allowed again when the average of their rate has come down."
            }
            Self::IncreaseConnectionPool => {
                "Raise `db_pool` in the settings of the tenant's extension, and make the policies on `realtime.messages` cheap: index what they look up, and call `auth.uid()` as `(select auth.uid())`."
            }
            Self::IncreaseSubscriptionConnectionPool => {
                "Raise `subs_pool_size` in the settings of the tenant's extension `postgres_cdc_rls`, and let fewer clients subscribe at one moment."
            }
            Self::RateCounterError => {
                "Restart the process and report it: counters are made with their tenant, so one that is missing is a mistake of the server."
            }
            Self::UnknownErrorOnCounter => {
                "Let the client try again; should it stay, restart the process and report it with the inspected text."
            }
            // -- authorization and tenant database --
            Self::UnableToSetPolicies => {
                "Look whether the connection broke or the database was restarted; the next join asks again. The inspected error is what the database driver said."
            }
            Self::RlsPolicyError => {
                "Run the policy by hand: `begin; set local role authenticated; select * from realtime.messages limit 0; rollback;` and mend what it calls, or grant what it needs (SQLSTATE 42501 names it)."
            }
            Self::QueryCanceled => {
                "Find what the policies on `realtime.messages` wait for (`select * from pg_stat_activity where application_name like 'realtime%'`); index the columns they compare, or raise `statement_timeout` of the role."
            }
            Self::MissingPartition => {
                "Let the partitions be made: RUN_JANITOR=true makes them every day, and the next connection to the database makes those of today; `select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass` lists them."
            }
            Self::UnableToConnectToProject => {
                "Check `db_host`, `db_port`, `db_user`, `db_password`, `db_name` and `ssl_enforced` in the settings of the tenant's extension; the log has the cause as UnableToConnectToTenantDatabase. Public channels need no database."
            }
            Self::UnableToConnectToTenantDatabase => {
                "Try the same with `psql` from this machine: name, port, firewall, password, `pg_hba.conf`, and whether TLS fits `ssl_enforced` of the extension. In a container, `localhost` is the container itself."
            }
            Self::DatabaseLackOfConnections => {
                "Raise `max_connections` of that PostgreSQL, close idle sessions of other programs, or lower `db_pool` and `subs_pool_size` of the extension."
            }
            Self::InitializingProjectConnection => {
                "Join again in a moment. When it stays, the database answers slowly or its migrations run long: the lines of this tenant before it say which."
            }
            Self::DatabaseIpVersionIsIpv4 => {
                "Nothing, unless this machine has IPv6 only: then publish an AAAA record for the host, or route IPv4."
            }
            Self::DatabaseConnectionDown => {
                "Look whether the database was restarted or fails over. Attempts go on for ten minutes, and sockets stay open meanwhile."
            }
            Self::DatabaseConnectionRecoveryWindowExceeded => {
                "Bring the database back, or correct where it is in the extension of the tenant; the next private join starts a new session."
            }
            Self::SynInitializationError => {
                "This server has no such registry and never writes it: another process, the original, wrote the line."
            }
            Self::ErrorExecutingTransaction => {
                "Read its SQLSTATE: 42501 asks for a grant to the `db_user` of the extension, 42P01 for the migrations (`/api/tenants/<external_id>/health` runs them), 57014 for a faster policy."
            }
            Self::UnableCheckoutConnection => {
                "Raise `db_pool` of the extension, or DB_POOL_SIZE for the main database, and look for long statements in `pg_stat_activity`."
            }
            Self::ErrorRunningQuery => {
                "Run the statement of the text by hand as the `db_user` of the extension, and mend what PostgreSQL says."
            }
            Self::UnknownError => {
                "Read the text: it names the task and what it met. Where it names a bug of this server, report it; the task has been started again."
            }
            Self::MigrationsFailedToRun => {
                "Read the SQL error. Mostly `db_user` may not create in the schema: connect as `supabase_admin` or a superuser, or `grant all on schema realtime` to it. The next connection tries again."
            }
            Self::MigrationCountMismatch => {
                "Nothing: the stored count is put right. Should it come again, two servers of different versions share the database."
            }
            Self::MigrationCountMismatchReconcileFailed => {
                "Look at the control database, where the count is stored (`select external_id, migrations_ran from _realtime.tenants`): it may be read-only or unreachable."
            }
            Self::PartitionCreationFailed => {
                "Let `db_user` own `realtime.messages` (`alter table realtime.messages owner to …`), drop a table of the partition's name that is no partition, and end whoever holds a lock on it."
            }
            Self::EncryptionReconcileFailed => {
                "Check DB_ENC_KEY and DB_ENC_KEY_GCM against those with which the row was written, and whether DB_USER may update `_realtime.tenants` and `_realtime.extensions`."
            }
            Self::JanitorFailedToDeleteOldMessages => {
                "Raise JANITOR_CHILDREN_TIMEOUT if the databases are slow; else look for the named tenants' other lines. Old days may be dropped by hand: `drop table realtime.messages_2025_01_31`."
            }
            // -- broadcast from the database --
            Self::StartReplicationFailed => {
                "Set `wal_level = logical` in that PostgreSQL and restart it, give `db_user` the attribute REPLICATION (`alter role … replication`), and raise `max_replication_slots`; poolers in transaction mode do not replicate."
            }
            Self::ReplicationMaxWalSendersReached => {
                "Raise `max_wal_senders` of that PostgreSQL and restart it, or end streams that nobody needs (`select * from pg_stat_replication`)."
            }
            Self::ReplicationConnectionTimeout => {
                "Look for a transaction that has been open for long (`select pid, xact_start from pg_stat_activity order by 2`): a new slot waits until it ends."
            }
            Self::ReplicationConnectionDown => {
                "Nothing at first: it is started again, and what was committed meanwhile is read from the table. When it repeats, look at the log of that PostgreSQL (`wal_sender_timeout`, restarts)."
            }
            Self::ReplicationConnectionRecoveryFailed => {
                "Bring the database back within reach; attempts go on for two hours with growing pauses."
            }
            Self::ReplicationRecoveryWindowExceeded => {
                "Mend the cause that stands in StartReplicationFailed or ReplicationConnectionDown before it; then any join of the tenant, or `POST /api/tenants/<external_id>/reload`, starts anew."
            }
            Self::ReplicationConnectionWatchdogTimeout => {
                "Look for a network that drops idle connections, and for a database that is out of CPU; the stream is started again."
            }
            Self::ReplicationSlotNotAlive => {
                "Look who drops or takes the slot: `select slot_name, active_pid from pg_replication_slots`. Two installations on one database need a SLOT_NAME_SUFFIX each."
            }
            Self::ReplicationSlotLagTooHigh => {
                "Raise `max_slot_wal_keep_size` (or REPLICATION_SLOT_WAL_BYTES_MAX of this server), and find out what is slow: huge transactions, or a network that cannot keep up."
            }
            Self::ReplicationSlotCheckSkipped => {
                "Nothing, unless it stays: then `db_user` cannot read `pg_replication_slots`, or the database answers too slowly."
            }
            Self::UnableToBroadcastChanges => {
                "`:topic_missing` and its like: insert by `realtime.send()` or give the named column a value. `:payload_size_exceeded`: raise `max_payload_size_in_kb`. `:too_many_requests`: raise `max_events_per_second` of the tenant."
            }
            Self::UnexpectedMessageReceived => {
                "Report it with the version of PostgreSQL; a proxy that speaks the replication protocol in its own way may be the cause."
            }
            // -- Postgres changes --
            Self::RealtimeDisabledForConfiguration => {
                "Correct what the text names: add the table by `alter publication supabase_realtime add table …`, grant `select` to the role, or mend `event`, `schema`, `table` and `filter` of the subscription."
            }
            Self::ReconnectSubscribeToPostgres => {
                "Nothing: it is tried again by itself. When it stays, look for a code of the reader of row changes at the same tenant."
            }
            Self::UnableToSubscribeToPostgres => {
                "Read the inspected error: a missing publication (`create publication supabase_realtime`), missing migrations, or a database that is not reachable. The subscription is tried again."
            }
            Self::ErrorStartingPostgresCDC => {
                "Check the settings of the tenant's extension `postgres_cdc_rls`: the text names the one that is missing or wrong."
            }
            Self::ReplicationSlotBeingUsed => {
                "Find its owner by `select slot_name, active_pid from pg_replication_slots`, and end it with `pg_terminate_backend`; give each installation its own SLOT_NAME_SUFFIX or `slot_name`."
            }
            Self::PgStatActivityQueryFailed => {
                "Let `db_user` see other sessions: `grant pg_monitor to <db_user>`."
            }
            Self::PoolingReplicationPreparationError => {
                "Set `wal_level = logical`, raise `max_replication_slots`, and give `db_user` the attribute REPLICATION; unused slots go by `select pg_drop_replication_slot('…')`."
            }
            Self::PoolingReplicationError => {
                "Read its SQLSTATE: 42704 asks for the publication (`create publication supabase_realtime`), 55000 says that the slot was invalidated and is made anew; what breaks on the way is tried again."
            }
            Self::ReplicationPollerConnectionFailed => {
                "Check that the database is reachable and has connections left; the reader goes on trying."
            }
            Self::ReplicationPollerMaxRetriesReached => {
                "Mend the error that the text repeats; clients that subscribe again, or `POST /api/tenants/<external_id>/reload`, start the reader anew."
            }
            Self::DropReplicationSlotFailed => {
                "Drop it by hand, so that it does not keep the log: `select pg_drop_replication_slot('…')`; while it is active, `pg_terminate_backend(active_pid)` first."
            }
            Self::CheckOidsError => {
                "Let `db_user` read `pg_publication_tables`, and look at the load of the database; the check comes again within a minute."
            }
            Self::SubscriptionManagerConnectionFailed => {
                "Check that the database is reachable and has connections left (`subs_pool_size` of the extension); subscriptions wait and are tried again."
            }
            Self::SubscriptionCleanupFailed => {
                "Remove them by hand: `delete from realtime.subscription`. This server keeps subscriptions in memory and leaves the table empty."
            }
            Self::SubscriptionDeletionFailed => {
                "Nothing for clients of this server, which keeps subscriptions in memory; rows that the original left go by `delete from realtime.subscription`."
            }
            Self::UnableToCheckProcessesOnRemoteNode => {
                "This server asks no other node and never writes it: another process, the original, wrote the line."
            }
            Self::UnhandledProcessMessage => {
                "Report it with the line: it is a mistake of the server, and nobody's work was lost by it."
            }
            // -- HTTP, cluster, operations --
            Self::UnableToDeleteTenant => {
                "Nothing for the tenant, which is gone. Look whether its slots are still there (`select slot_name from pg_replication_slots`) and drop them, or they keep the log."
            }
            Self::UnprocessableEntity => {
                "Correct the fields that the answer names; `/api/openapi` describes what each route takes."
            }
            Self::UnknownErrorOnController => {
                "Send the request again; if the answer stays, report it with its `x-request-id`."
            }
            Self::UnableToEncodeJson => {
                "Report it with the `x-request-id` of the answer: what this server answers can always be encoded."
            }
            Self::HttpServerError => {
                "Look for the lines with the same `request_id` before this one: they have the cause."
            }
            Self::HttpClientError => {
                "Compare path, method, `content-type` and `accept` of the request with `/api/openapi`; a probe that asks for a wrong path is harmless."
            }
            Self::RpcError => {
                "Send the broadcast again; it has reached nobody. Look for the cause at the node that the text names."
            }
            Self::TimeoutOnRpcCall => {
                "Join again; look at the load of the node and at the network between the nodes."
            }
            Self::ErrorOnRpcCall => {
                "Look at the log of the node that the text names; client libraries join again by themselves."
            }
            Self::RealtimeNodeDisconnected => {
                "Look whether that node runs and whether the ports between the nodes are open."
            }
            Self::MetricsPusherTimeout => {
                "Raise METRICS_PUSHER_TIMEOUT_MS, or look why METRICS_PUSHER_URL answers slowly; the next push comes after METRICS_PUSHER_INTERVAL_MS."
            }
            Self::MetricsPusherTaskExited => {
                "Nothing: pushing goes on with the next interval. Report the text, which says how the task ended."
            }
            Self::MetricsPusherFailed => {
                "401 and 403 ask for METRICS_PUSHER_USER and METRICS_PUSHER_AUTH, 404 for another path in METRICS_PUSHER_URL, 400 for METRICS_PUSHER_COMPRESS=false or other METRICS_PUSHER_EXTRA_LABELS."
            }
            Self::MetricsPusherException => {
                "Check host, port and certificate of METRICS_PUSHER_URL from this machine, for example by `curl -v`."
            }
            Self::TenantMigrationsConnectFailed => {
                "Check the settings of the tenant's extension as for UnableToConnectToTenantDatabase."
            }
            Self::TenantInfoPgVersionFailed => {
                "Nothing: it is asked again. Run `show server_version_num` as `db_user` if it stays."
            }
            Self::TenantMigrationsDumpSkipped => {
                "Nothing: this server writes no dumps. Use `pg_dump --schema=realtime` for one."
            }
            Self::TenantMigrationsRanCheckFailed => {
                "Let `db_user` read `realtime.schema_migrations`; `/api/tenants/<external_id>/health` looks again."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn every_code_says_what_happened_and_what_to_do() {
        for &code in ErrorCode::ALL {
            let (meaning, remedy) = (code.meaning(), code.remedy());
            for text in [meaning, remedy] {
                assert!(text.ends_with('.'), "{code:?}: {text:?}");
                assert_eq!(text, text.trim(), "{code:?}");
                assert!(!text.contains("  "), "{code:?}: {text:?}");
                assert!(text.len() > 20, "{code:?}: {text:?}");
            }
            assert!(
                !remedy.contains(meaning.trim_end_matches('.')),
                "{code:?} repeats itself"
            );
        }
    }

    #[test]
    fn no_two_codes_mean_the_same() {
        let mut seen = HashMap::new();
        for &code in ErrorCode::ALL {
            let other = seen.insert(code.meaning(), code);
            assert_eq!(other, None, "{code:?} means the same");
        }
    }

    #[test]
    fn a_meaning_of_several_lines_is_one_sentence() {
        let meaning = ErrorCode::HttpClientError.meaning();
        assert!(meaning.contains("an answer that cannot be accepted."));
        assert!(!meaning.contains('\n'));
    }
}

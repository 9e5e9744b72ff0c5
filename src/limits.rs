//! The bounds of the server in one place, each with its unit, its reason, and what happens when it is met.
//!
//! What an operator or a tenant can set stands in `config` or in the tenant's settings; what stands here is fixed. A bound that only one
//! file knows, and that nobody meets from outside, stands beside its user.

mod changes;

pub use changes::*;

use std::time::Duration;

// -- sockets --

/// Largest WebSocket message, also reassembled from fragments, in bytes. Above: close 1009 (spec: websocket-protocol 3.4).
pub const MESSAGE_BYTES_MAX: usize = 5_000_000;

/// Bytes of unfinished messages on one shard. Above: whoever sends more of one is closed with 1013, so that those who never finish theirs
/// cannot take all memory.
pub const PARTIAL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Largest request head in bytes, all headers together. Above: 431 and the connection is closed.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a request head may take to arrive. Above: 408 and the connection is closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long queued bytes may make no progress before their reader is closed with 1013, and a connection of the HTTP stack is cut.
pub const STALLED_READER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a socket that we closed may take to answer before it is cut.
pub const LINGER: Duration = Duration::from_secs(5);

/// Send buffer asked of the kernel per socket, in bytes: left alone, the kernel hides a stalled reader behind 4 MiB.
pub const SOCKET_SEND_BUFFER_BYTES: u32 = 128 * 1024;

/// Sockets above `MAX_CONNECTIONS` that a shard still accepts: to refuse upgrades politely, and for health and metrics.
pub const CONNECTIONS_RESERVE: usize = 32;

/// Connections that wait at one shard's listener to be accepted. Above, or above `net.core.somaxconn`: the client tries again a second later.
pub const LISTEN_BACKLOG: u16 = 4096;

/// Open files that are wanted beside sockets of clients: requests that were handed over, databases, the store. Above: connecting to a
/// database fails until others are closed.
pub const OPEN_FILES_RESERVE: u64 = 1024;

/// Memory of an idle connection that has joined a topic of its own, in bytes: some 940 of ours (benches/README.md), and 4.5 KB of the
/// kernel's. `MAX_CONNECTIONS` times this much should be there.
pub const CONNECTION_BYTES: u64 = 5632;

// -- channels --

/// Channels on one socket, whatever the tenant allows. Above: `too many channels joined` (spec 4.3).
pub const CHANNELS_PER_SOCKET_MAX: usize = 99_999;

/// Messages that may wait behind a join of their socket that is not decided yet. Above: the socket is closed with 1013.
pub const WAITING_MESSAGES_MAX: usize = 16_384;

/// Bytes of those messages. Above: as [`WAITING_MESSAGES_MAX`].
pub const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a join: payload, topic and `join_ref`, some of which are kept as long as the channel lives. Above: the join is refused.
pub const JOIN_BYTES_MAX: usize = 256 * 1024;

/// Messages with one `replay` request at most (spec 6.5).
pub const REPLAY_MESSAGES_MAX: u32 = 25;

/// Bytes of messages that are published while a join waits for those that were kept, and that it gets behind them. Above: the join is
/// refused as if those could not be had.
pub const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long the replication stream of a tenant may take before a channel that waits for it is shut down (spec 5.6).
pub const REPLICATION_READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long what follows a join waits for the first word on its subscriptions, while row changes are being read (spec 5.4). Above: it
/// comes before that word.
pub const FIRST_NEWS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a shard waits for an answer about a tenant's database: longer than [`DATABASE_CONNECT_TIMEOUT`],
/// [`DATABASE_QUEUE_TARGET_MAX`] and [`POLICY_TIMEOUT`] together. Above: as if the database could not be reached.
pub const QUESTION_TIMEOUT_SECONDS: u32 = 60;

// -- fan-out --

/// Payload from which a message for several channels is queued in parts of which they share the largest, in bytes. Smaller ones are
/// copied: that costs less than two more buffers.
pub const SHARED_PAYLOAD_BYTES_MIN: usize = 16 * 1024;

/// Bytes of one topic's batch above which it is sealed before the turn ends, so that one buffer stays sendable in one go.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Empty batches that a shard keeps for the next topics. Above: freed.
pub const SPARE_BATCHES_MAX: usize = 1024;

/// Letters that one mailbox between two threads holds. Above: they spill into the sender's queue, which stops reading from its
/// sockets while too many wait for other shards; for the control core see [`CONTROL_LETTERS_WAITING_MAX`].
pub const MAILBOX_LETTERS: usize = 4096;

/// Sockets that are disconnected in one turn of a shard at most, with their channels and presences. Above: the others in the next
/// turns, and what else comes in between.
pub const DISCONNECT_BATCH: usize = 512;

// -- quotas --

/// Time between two ticks of a rate counter (spec 9.2).
pub const RATE_TICK: Duration = Duration::from_secs(5);

/// Delay of a counter's first tick after its creation (spec 9.2: "about a millisecond later").
pub const RATE_FIRST_TICK: Duration = Duration::from_millis(1);

/// Buckets that a rate counter keeps: with [`RATE_TICK`] a window of 60 s (spec 9.2).
pub const RATE_BUCKETS_MAX: usize = 12;

/// Ticks without an event after which a rate counter is discarded: 5 min (spec 9.2).
pub const RATE_IDLE_TICKS_MAX: u32 = 60;

/// Time between two ticks of the counter of HTTP requests (spec 9.3).
pub const REQUEST_TICK: Duration = Duration::from_secs(1);

/// Buckets of the counter of HTTP requests: with [`REQUEST_TICK`] a window of 60 s (spec 9.3).
pub const REQUEST_BUCKETS_MAX: usize = 60;

/// Ticks without a request after which that counter is discarded: 5 min (spec 9.2).
pub const REQUEST_IDLE_TICKS_MAX: u32 = 300;

/// Bytes added to a tenant's payload limit of `max_payload_size_in_kb` x 1000 (spec 9.4).
pub const PAYLOAD_SLACK_BYTES: usize = 500;

// -- draining --

/// Sockets closed with 1012 in one batch of a drain, over all shards (spec 4.5).
pub const DRAIN_BATCH: usize = 10_000;

/// Time between two batches of a drain (spec 4.5).
pub const DRAIN_INTERVAL: Duration = Duration::from_secs(2);

/// Longest drain before the process ends anyway (spec 4.5).
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

// -- HTTP --

/// Largest body of a REST request in bytes. Above: 413 (spec: http-api 1.3).
pub const HTTP_BODY_BYTES_MAX: usize = 8_000_000;

/// Bytes of a refused body that are still read, so that its sender gets to see the answer. Above: the connection is cut.
pub const HTTP_DISCARD_BYTES_MAX: usize = 16_000_000;

/// Fields of one form. Above: 400.
pub const FORM_FIELDS_MAX: usize = 10_000;

/// Brackets behind the name of a form's field. Above: 400.
pub const FORM_DEPTH_MAX: usize = 32;

/// Bytes of request bodies that are held at one time, over all connections. Above: 503.
pub const HTTP_BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long a request body may take to arrive. Above: 408 and the connection is closed.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections that the control core serves at one time. Above: 503 and the connection is closed.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;

/// Scrapes that wait for the metrics to be written; those that wait get the same page. Above: the next ones wait in their connections.
pub const METRICS_SCRAPES_MAX: usize = 16;

/// Tenants whose series are on the page, by name, 2 to 20 KB each. Above: the others have none, and a gauge says how many they are.
pub const METRICS_TENANTS_MAX: usize = 5000;

/// How old numbers may be that people look at on the status page. Whoever asks within this time gets the same ones.
pub const FIGURES_FRESH_FOR: Duration = Duration::from_millis(250);

/// Tenants that the operators' page lists, about 300 bytes each: those in trouble first, then those with the most users. Above: the others
/// are left out, and a number says how many they are.
pub const FIGURES_TENANTS_MAX: usize = 500;

/// Series (or pieces of 128 bytes) that are written or compressed before others get their turn: less than a millisecond.
pub const METRICS_STEPS_PER_SLICE: usize = 256;

/// How long a tenant has neither users nor a session with its database before the cleaner takes its series (spec: metrics 1).
pub const METRICS_VACANT_AFTER: Duration = Duration::from_secs(600);

/// How long a connection may wait for its next request, that request's head included. Above: the connection is closed.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest request line in bytes. Above: 414 (spec: config, `MAX_HEADER_LENGTH`).
pub const HTTP_REQUEST_LINE_BYTES_MAX: usize = 8000;

/// Headers of a request at most. Above: 431.
pub const HTTP_HEADERS_MAX: usize = 100;

/// Bodies up to this many bytes are not compressed (spec: http-api 1.4).
pub const HTTP_COMPRESS_ABOVE_BYTES: u64 = 300;

/// Private topics of one batch that a tenant's database is asked about at the same time. The others wait for their turn.
pub const HTTP_TOPICS_ASKED_AT_ONCE: usize = 64;

// -- the control core --

/// Changes of tenants, and questions about them, that are handed in and not done. Above: the request is answered with 503.
pub const REGISTRAR_ERRANDS_MAX: usize = 4096;

/// Sockets and requests that wait for a tenant that is sought. Above: the tenant is not there. They are bounded apart from the changes: clients
/// choose the names, and operators get through all the same.
pub const REGISTRAR_SEEKS_MAX: usize = 4096;
/// Tenants that others have changed and that are read again at the same time. The others wait: operators need connections as well.
pub const NEWS_READ_AT_ONCE: usize = 2;

/// News of tenants that are being attended to. Above: the next ones stay where they are until one of these is done.
pub const NEWS_UNDERWAY_MAX: usize = 4096;

/// How often a change is tried that finds a tenant changed by another process meanwhile. Above: the request is answered with 500.
pub const STALE_CHANGES_MAX: usize = 3;

/// Names that are looked for in the store of tenants at the same time. Above: the tenant is not there. Clients choose the names.
pub const SEEKS_MAX: usize = 256;

/// Connections of the pool of `DB_POOL_SIZE` that names which are looked for leave to everything else, where it has more than that.
pub const SEEKS_LEAVE_CONNECTIONS: usize = 2;

/// Bytes of a tenant's external id, and of the type of an extension. Above: 422. Both stand in indexes of the control database, whose
/// entries are bounded (2,704 bytes).
pub const TENANT_NAME_BYTES_MAX: usize = 255;

/// Digits behind the point of a number in a tenant's description, and its exponent. Above: 422. PostgreSQL's `numeric` has no more.
pub const TENANT_NUMBER_FRACTION_DIGITS_MAX: i64 = 16_383;

/// How long a name may be looked for. Above: the tenant is not there.
pub const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// Sockets of one shard whose tenant is being looked for. Above: the tenant is not there.
pub const SEEKING_SOCKETS_MAX: usize = 1024;

/// How long the answer about a change waits for the shards to take note of it. Above: it is answered all the same.
pub const SHARDS_HEED_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the deletion of a tenant waits for its database. Above: it is answered, and what is left is done behind the answer.
pub const TENANT_TEARDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes of one batch. Above: the rest is the next batch. Larger ones cost fewer questions to the database and make the first change of each
/// wait longer.
pub const CHANGES_BATCH_MAX: usize = 512;

/// Bytes of one batch's messages. Above: the rest is the next batch.
pub const CHANGES_BATCH_BYTES_MAX: usize = 1024 * 1024;

/// For how long nothing may have followed the last change of a batch before row level security is asked about its rows: what is changed
/// again at once is judged as it is then, as by the original, which polls. Longer ones cost every such row that time.
pub const CHANGES_SETTLING_PAUSE: Duration = Duration::from_millis(30);

/// For how long a batch waits for that at most, from its first change on.
pub const CHANGES_SETTLING_MAX: Duration = Duration::from_millis(60);

/// Changes of a batch that waits. Above: it does not, or whoever writes much would be slowed down by it.
pub const CHANGES_SETTLING_ROWS_MAX: usize = 16;

/// Verdicts about rows of one batch, one for each row and distinct claims, that are asked for at the same time: some 24 bytes each, and as
/// much again for what is asked. Above: the rest is asked for when these are there, and a byte is kept of each.
pub const CHANGES_VERDICTS_AT_ONCE_MAX: usize = 256 * 1024;

/// Bytes of one tenant's changes that are under way to the shards. Above: the stream waits, and the database keeps its log.
pub const CHANGES_BYTES_UNDER_WAY_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a value in JSON that a change keeps which is too large as a whole (spec: postgres-changes 5.4).
pub const CHANGE_VALUE_BYTES_OF_TOO_LARGE: usize = 64;

/// Filters of one entry of a join. Above: the entry is refused. The original has no bound of its own, and each filter is a cast in the
/// customer's database.
pub const CHANGES_FILTERS_MAX: usize = 100;

/// Entries of a join. Above: the join is refused. The original has no bound of its own, and each entry is a subscription of its own in the
/// customer's database there.
pub const CHANGES_ENTRIES_MAX: usize = 1000;

/// How long a question about tables, types or privileges may take. Above: the connection is given up, and the batch is tried again.
pub const CHANGES_QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long changes wait for a connection on which can be asked who may see them, while the database is there otherwise. Above: nobody is
/// delivered what was not answered, until there are answers again.
pub const CHANGES_UNANSWERED_MAX: Duration = Duration::from_secs(30);

/// Time before a batch is tried again that could not be asked about.
pub const CHANGES_BATCH_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Time before the database is asked again whether others see a transaction that the stream has said: a quarter of the time it was
/// waited for, within these bounds.
pub const CHANGES_UNSEEN_PAUSE_MIN: Duration = Duration::from_millis(1);

/// See [`CHANGES_UNSEEN_PAUSE_MIN`].
pub const CHANGES_UNSEEN_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long nobody is told that row changes wait for such a transaction. It is waited for without an end: the bound of the log that the
/// slot keeps is what ends it.
pub const CHANGES_UNSEEN_QUIET: Duration = Duration::from_secs(10);

/// How long the check of a subscription may take. Above: its client reads so, and it is tried again (spec: postgres-changes 3.2).
pub const CHANGES_SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Subscriptions of one tenant that are checked at the same time, each on a connection for itself. Above: the others wait, and their time
/// has not begun. `subcriber_pool_size` may make it less.
pub const CHANGES_CHECKS_AT_ONCE_MAX: usize = 8;

/// How long a connection that checks subscriptions is kept unused.
pub const CHANGES_CHECK_IDLE_MAX: Duration = Duration::from_secs(30);

/// Time after a gap from which on whoever waits for the new slot reads that changes cannot be read.
pub const CHANGES_GAP_PAUSE: Duration = Duration::from_secs(1);

/// How long the check of one subscription serves equal ones. Privileges may be taken away at any time: seconds at most (spec:
/// cdc-performance-notes 3.6).
pub const CHANGES_CHECK_LIFETIME: Duration = Duration::from_secs(1);

/// Time between two looks at the tables of a publication (spec: postgres-changes 4.2).
pub const CHANGES_PUBLICATION_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two looks that something in the stream gives occasion for.
pub const CHANGES_PUBLICATION_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How long whoever asks for a table that has come or gone is still told what was committed before that was seen, while the stream is behind
/// it. Above: it is subscribed anew, or reads that it cannot be, whatever of the stream is still to come.
pub const CHANGES_BEHIND_MAX: Duration = Duration::from_secs(20);

/// How long a slot outlives its last subscriber (spec: postgres-changes, checklist 35): who comes back soon need not wait for a new one.
pub const CHANGES_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest pause before the connection that asks is opened again.
pub const CHANGES_RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest pause before a subscription is tried again that could not be checked; half of it is the shortest (spec: postgres-changes
/// 4.1).
pub const CHANGES_RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The shortest pause before a client reads that its new token counts (spec: postgres-changes 6).
pub const CHANGES_REFRESH_PAUSE_MIN: Duration = Duration::from_secs(1);

/// How much longer that pause is at most.
pub const CHANGES_REFRESH_PAUSE_SPREAD: Duration = Duration::from_secs(2);

/// Time between two lines about rows whose visibility could not be had. Between them they are counted.
pub const CHANGES_LOST_INTERVAL: Duration = Duration::from_secs(1);

/// Letters that wait to be handed to the mesh. Above: the task that wants to send waits.
pub const OUTGOING_LETTERS_MAX: usize = 4096;

/// Letters that a shard keeps for a control core that does not take them, beside the full mailbox. Above: requests get 503, log
/// lines are counted and summed up; the sockets go on.
pub const CONTROL_LETTERS_WAITING_MAX: usize = 4096;

/// Letters of shards that wait for one task of the control core. Above: a connection is closed, a counter is started by its
/// next use.
pub const INBOX_LETTERS_MAX: usize = 16_384;

/// Letters of shards that the control core takes in one go before it looks at its tasks again.
pub const LETTERS_PER_TURN_MAX: usize = 1024;

/// How long the last letters to the shards may wait for room in mailboxes. Above: the process ends without them.
pub const LAST_LETTERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long work on the disk that is under way may take when the process ends. Above: it is given up.
pub const LAST_DISK_WORK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last log lines may wait for whoever reads standard output. Above: the process ends without them.
pub const LAST_LOG_LINES_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last spans may take to their collector when the process ends. Above: they are lost.
pub const LAST_TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// Time within which spans that were lost are told of once.
pub const TRACES_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a collector's answer that are read. Above: its connection is closed.
pub const TRACES_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Log lines that wait to be written. Above: further ones are counted and dropped.
pub const LOG_LINES_WAITING_MAX: usize = 16_384;

/// Pause before a task that panicked is started again; doubled with each panic in a row.
pub const TASK_RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause. A task that ran longer than this starts again with [`TASK_RESTART_PAUSE`].
pub const TASK_RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

// -- databases of tenants --

/// How long a connection to a database may take, from the name of its host to the first query. Above: the attempt has failed.
pub const DATABASE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long anybody waits for a database that is being connected to (spec: tenant-database 2.1). Above: it counts as unreachable.
pub const DATABASE_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one address of a database may say nothing before the next one is tried as well (RFC 8305 section 8).
pub const DATABASE_FAMILY_PAUSE: Duration = Duration::from_millis(250);

/// Addresses of one host that are tried. Above: the others are left out.
pub const DATABASE_ADDRESSES_MAX: usize = 8;

/// How long a database may be silent where the kernel expects an acknowledgement. Above: the connection is lost.
pub const DATABASE_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long a connection that nobody needs any more may take to say goodbye. Above: it is cut.
pub const DATABASE_GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of one general pool, whatever `db_pool` says.
pub const DATABASE_POOL_CONNECTIONS_MAX: usize = 256;

/// Leases of one connection at the same time: their transactions follow each other without a round trip between. Above: the next one
/// waits, at most `db_queue_target`.
pub const DATABASE_LEASES_PER_CONNECTION: usize = 16;

/// Longest wait for a lease, whatever `db_queue_target` says: nobody waits for an answer any longer.
pub const DATABASE_QUEUE_TARGET_MAX: Duration = Duration::from_secs(15);

/// Connections that the parts of the server besides the general pool and the pool of subscriptions may use at the same time (spec:
/// tenant-database 2): migrations two, and one each for replication, the poller, the subscription manager, janitor, health check and
/// teardown.
pub const DATABASE_CONNECTIONS_AD_HOC: usize = 8;

/// Time between two looks at whether the database answers on the connections of a pool.
pub const DATABASE_HEALTH_INTERVAL: Duration = Duration::from_secs(30);

/// How long a database may take to answer there, behind the queries that were sent before. Above: the connection is cut and opened
/// again, and those queries fail.
pub const DATABASE_HEALTH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one question of a session that starts may take. Above: the start has failed. Partitions have as long, and fail alone.
pub const DATABASE_STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the migrations of a database may take (spec: tenant-database 5.1). Above: the start has failed.
pub const DATABASE_MIGRATION_TIMEOUT: Duration = Duration::from_secs(50);

/// Failures to start a session that are borne within [`DATABASE_FAILURES_WINDOW_SECONDS`] (spec: tenant-database 2.1). From there on:
/// no further attempt until their sum falls.
pub const DATABASE_FAILURES_MAX: u32 = 3;

/// The window of [`DATABASE_FAILURES_MAX`] in ticks of a second.
pub const DATABASE_FAILURES_WINDOW_SECONDS: usize = 5;

/// Pause before a session that failed while users are connected is tried again, half of it random; doubled with each failure. With
/// this one alone [`DATABASE_FAILURES_MAX`] is never met.
pub const DATABASE_RETRY_PAUSE: Duration = Duration::from_secs(4);

/// Longest such pause. After a session that lasted longer than this the next pause is the first one again.
pub const DATABASE_RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long the pool of a session may be without any connection (spec: tenant-database 2.1). Above: the session ends.
pub const DATABASE_RECOVERY_WINDOW: Duration = Duration::from_secs(600);

/// Time between two samples of a session's connected users (spec: tenant-database 2.1, step 7).
pub const DATABASE_USERS_INTERVAL: Duration = Duration::from_secs(60);

/// Samples in a row without a user that are borne. With the next one: the session ends.
pub const DATABASE_IDLE_SAMPLES: u32 = 11;

/// Time between two looks at whether the partitions of the coming days are there. They are made three days ahead.
pub const DATABASE_PARTITIONS_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// The same where one of them could not be made.
pub const DATABASE_PARTITIONS_RETRY: Duration = Duration::from_secs(60);

/// Pause before a schema that somebody has missed something in is looked at again; doubled with each look.
pub const DATABASE_DOUBT_PAUSE: Duration = Duration::from_secs(5);

/// Longest such pause. Twice as long without a look: the next pause is the first one again.
pub const DATABASE_DOUBT_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Pause before a connection of a pool is tried again that failed, or was lost soon after it had been opened. Half of it is random, and
/// it is doubled with each time.
pub const DATABASE_RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Longest such pause. A connection that lasted longer than this is opened again at once when it is lost.
pub const DATABASE_RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(30);

// -- tenants' databases: schema and partitions --

/// How often a migration that collided with another server's is tried. Above: `MigrationsFailedToRun`.
pub const MIGRATION_ATTEMPTS_MAX: u32 = 3;

/// How long a migration waits for a lock: another server's migration, or users of `realtime.messages`. Above: it fails, and is tried
/// again with the next connection.
pub const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one statement of a migration may take (spec: tenant-database 5.1). Above: it fails.
pub const MIGRATION_STATEMENT_TIMEOUT: Duration = Duration::from_secs(50);

// -- the control database --

/// How long a start waits for the control database: longer than a database that is started beside the server takes. Above: the process
/// ends, and whoever watches it starts it again.
pub const CONTROL_DATABASE_START_TIMEOUT: Duration = Duration::from_secs(60);

/// The first pause between two attempts to reach it, at start as later.
pub const CONTROL_DATABASE_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The longest such pause at start: the wait ends soon after the database is there.
pub const CONTROL_DATABASE_RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long it may take to answer a question about tenants, the wait for a connection not counted. Above: as if it could not be reached.
pub const CONTROL_DATABASE_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions to it that wait to be taken up. Above: who asks waits.
pub const CONTROL_DATABASE_QUESTIONS_WAITING_MAX: usize = 256;

/// The shortest period in which its tenants are compared with the known ones, whatever `TENANT_CACHE_EXPIRATION_IN_MS` says.
pub const CONTROL_DATABASE_COMPARISON_PERIOD_MIN: Duration = Duration::from_secs(1);

/// News of it that wait to be heard. Above: the oldest is forgotten, and a change is found again by the next comparison.
pub const CONTROL_DATABASE_NEWS_WAITING_MAX: usize = 4096;

/// Tenants of it whose secrets wait to be encrypted anew. Above: they are found again when they are read the next time.
pub const CONTROL_DATABASE_RENEWALS_WAITING_MAX: usize = 1024;

/// Causes for which it cannot be reached that are logged until it answers again. Above: they are not logged.
pub const CONTROL_DATABASE_CAUSES_MAX: usize = 16;

/// Notifications of PostgreSQL that wait to be read on one connection. Above: further ones are lost, and what they told of is found by a
/// comparison.
pub const NOTIFICATIONS_WAITING_MAX: usize = 1024;

/// Longest payload of a notification in bytes: PostgreSQL takes 7999. Above: nothing is sent, and others find the change by comparing.
pub const NOTIFICATION_BYTES_MAX: usize = 7_900;

/// How long the making or dropping of a partition waits for a lock. Above: it fails, and is tried again the next day or run.
pub const PARTITION_LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Days after today that have a partition (spec: broadcast-from-database 7).
pub const PARTITION_DAYS_AHEAD: i64 = 3;

/// How long rows of `realtime.messages` are kept at least, in seconds: 72 hours (spec: broadcast-from-database 7).
pub const MESSAGES_KEPT_SECONDS: i64 = 72 * 3600;

// -- log --

/// Longest message of a log line in bytes. Above: cut, and marked as cut.
pub const LOG_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Longest value in front of a log message (request id, `sub`, `iss`) in bytes. Above: cut.
pub const LOG_VALUE_BYTES_MAX: usize = 256;

/// Lines with one code of one tenant that are written per [`LOG_WINDOW_MS`]. Above: counted, and summed up in one line.
pub const LOG_LINES_PER_WINDOW_MAX: u32 = 20;

/// The window of [`LOG_LINES_PER_WINDOW_MAX`] in milliseconds.
pub const LOG_WINDOW_MS: u64 = 10_000;

/// Pairs of code and tenant that are told apart. Above: further tenants share one window per code.
pub const LOG_KEYS_MAX: usize = 4096;

// -- questions to tenants' databases --

/// How long one statement of a check of policies may take (spec: authorization-rls 4). Above: the database cancels it, and there is
/// no verdict.
pub const POLICY_STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long anybody waits for a check that the database has begun with, all its statements together. Above: as if it were canceled.
pub const POLICY_TIMEOUT: Duration = Duration::from_secs(20);

/// How long after the database has begun with a check another one that asks the same may share its verdict (spec: authorization-rls 5,
/// "a few hundred milliseconds"). Later ones are evaluated anew.
pub const POLICY_SHARED_WITHIN: Duration = Duration::from_millis(200);

/// How long the database may take at least to begin with a check, whatever `db_queue_target` is: a round trip is no queue. Above:
/// the pool counts as exhausted.
pub const POLICY_BEGIN_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// The window in which waits in vain for a pool are counted (spec: authorization-rls 4). As many as the pool has connections: further
/// checks are refused at once.
pub const POOL_TIMEOUTS_WINDOW: Duration = Duration::from_secs(30);

/// How long the query of a replay may take (spec: broadcast-from-database 6). Above: the join is refused.
pub const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);

/// The latest moment since which messages are replayed, in time since 1970: the end of the year 9999, the last one that both sides
/// can write. Later ones count as this.
pub const REPLAY_SINCE_MAX: Duration = Duration::from_secs(253_402_300_799);

/// Questions to tenants' databases that are not answered yet, over all tenants. Above: answered at once that nobody can be asked.
pub const DESK_QUESTIONS_MAX: usize = 65_536;

/// The same of one tenant, so that a database that hangs leaves room for the others' questions.
pub const DESK_QUESTIONS_PER_TENANT_MAX: usize = 16_384;

// -- replication --

/// How long one step of starting a replication connection may take: connecting, a query. Above: `ReplicationConnectionTimeout` (spec:
/// broadcast-from-database 2; the seed's 30 s).
pub const REPLICATION_STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long making a slot may take: it waits for every transaction that is open. Above: `ReplicationConnectionTimeout`, and another
/// attempt (spec: broadcast-from-database 2).
pub const REPLICATION_SLOT_TIMEOUT: Duration = Duration::from_secs(240);

/// How long a slot's name may stay taken by a process that is just ending. Above: it is in use.
pub const REPLICATION_SLOT_RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two looks at whether the name is free.
pub const REPLICATION_SLOT_RELEASE_INTERVAL: Duration = Duration::from_millis(50);

/// Messages of one stream that wait to be decoded. Above: the rest waits in the database.
pub const REPLICATION_EVENTS_WAITING_MAX: usize = 64;

/// Messages of a polled slot that are read at once.
pub const REPLICATION_POLL_ROWS: usize = 64;

/// Largest message of a stream in bytes. Above: the stream starts over behind it, and its row is judged by what the table says.
pub const REPLICATION_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest time between a commit that was delivered and its confirmation to the database.
pub const REPLICATION_STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two confirmations while there is nothing new to confirm: less than any `wal_sender_timeout` in use.
pub const REPLICATION_STATUS_INTERVAL_IDLE: Duration = Duration::from_secs(10);

/// How long a stream may say nothing while the database's log grows. Above: `ReplicationConnectionWatchdogTimeout` (spec:
/// broadcast-from-database 2.2).
pub const REPLICATION_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Growth of the log that a stream need not have mentioned, in bytes: one page.
pub const REPLICATION_SILENCE_BYTES: u64 = 8192;

/// Time between two looks at a stream's slot and publication. The watchdog of the specification comes on top, at its own interval.
pub const REPLICATION_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long such a look may take. Above: it is skipped.
pub const REPLICATION_CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams that broke soon after their start and are started again at once. Above: with a pause.
pub const REPLICATION_QUICK_RESTARTS: u32 = 3;

/// A stream that ran for this long has not broken soon.
pub const REPLICATION_STABLE_AFTER: Duration = Duration::from_secs(30);

/// Shortest pause before a failed start of a stream is tried again (spec: broadcast-from-database 2.1).
pub const REPLICATION_PAUSE_MIN: Duration = Duration::from_secs(5);

/// Longest such pause.
pub const REPLICATION_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Pause while there is no table to replicate: it may be made again at any moment.
pub const REPLICATION_TABLE_PAUSE: Duration = Duration::from_secs(1);

/// How long rows may be delivered neither by a stream nor from the table. Above: `ReplicationRecoveryWindowExceeded`, and the session
/// with the database ends (spec: broadcast-from-database 2.1).
pub const REPLICATION_RECOVERY_WINDOW: Duration = Duration::from_secs(2 * 60 * 60);

// -- broadcast from the database --

/// Transaction ids that are asked for being in progress when a snapshot is taken, some 0.3 µs each: those given out since the one before,
/// or since the oldest transaction in progress began. Above: the older ones are taken for over unless they are top-level transactions,
/// so rows that a transaction which is still open has written long ago in subtransactions are lost if the stream breaks before its end.
pub const BROADCAST_TRANSACTIONS_MAX: i64 = 500_000;

/// Rows that are remembered as delivered, some 30 bytes each. Above: all are forgotten, which is logged; if the stream breaks before
/// the next snapshot, they are delivered twice.
pub const BROADCAST_REMEMBERED_MAX: usize = 1_000_000;

/// Time between two snapshots by which delivered rows are forgotten.
pub const BROADCAST_SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);

/// Rows of the table that are read at once.
pub const BROADCAST_PAGE_ROWS: usize = 32;

/// How long a reading of the table waits for a lock: longer than whoever changes the table needs it as a rule, and short, since a slot
/// that is being made is not watched meanwhile. Above: the reading fails and is tried again.
pub const BROADCAST_LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Age up to which rows that no stream has said are broadcast. Above: they are counted and logged; replay still has them.
pub const BROADCAST_CATCH_UP_AGE_MAX: Duration = Duration::from_secs(3 * 60 * 60);

/// How long older rows may be counted. Above: they are not.
pub const BROADCAST_COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two readings of the table while no stream runs.
pub const BROADCAST_READ_INTERVAL: Duration = Duration::from_secs(1);

/// The same where streaming is refused: the default of `poll_interval_ms`.
pub const BROADCAST_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Readings may take this part of the time: the pause after one is at least so many times as long as it took.
pub const BROADCAST_READ_PAUSE_FACTOR: u32 = 10;

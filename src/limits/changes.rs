//! Bounds of what finds out who may see a changed row. Those of the subscriptions themselves are in the room above.

use std::time::Duration;

// -- what tenants' databases say of changed rows --

/// Tables of one tenant whose last description is kept. Above: all are forgotten, and read anew when they are asked for.
pub const CHANGES_TABLES_KNOWN_MAX: usize = 4096;

/// Keys that one query under policies looks for. Above: several queries.
pub const VISIBILITY_KEYS_MAX: usize = 256;

/// Queries of one transaction under policies, each for the claims of one token. Above: several transactions, on several connections
/// where there are some.
pub const VISIBILITY_QUERIES_MAX: usize = 64;

/// The work of one such transaction: its keys, and [`VISIBILITY_QUERY_WEIGHT`] for each query. Above: several transactions.
pub const VISIBILITY_WEIGHT_MAX: usize = 4096;

/// What a query costs beside its keys, as a number of keys.
pub const VISIBILITY_QUERY_WEIGHT: usize = 16;

/// How long one query under policies may take. Above: the database cancels it, and it is asked again in halves, when all
/// else is answered.
pub const VISIBILITY_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a batch of changes waits for the next answer of any of its questions. Above: what was being asked is not delivered; what was
/// not reached is asked again with the batch, with [`VISIBILITY_SLOW_TIMEOUT`].
pub const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(10);

/// The same while no connection can be opened.
pub const VISIBILITY_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long all questions of one batch may take, however steadily answers come, beside [`VISIBILITY_KEY_TIME`]. Above: what is not known yet
/// is not delivered, since everybody else of the tenant waits.
pub const VISIBILITY_TIME_MAX: Duration = Duration::from_secs(30);

/// What a batch may take beside [`VISIBILITY_TIME_MAX`] for each key that is asked about, and for [`VISIBILITY_QUERY_WEIGHT`] keys with each
/// query: ten times what a policy takes that compares an owner.
pub const VISIBILITY_KEY_TIME: Duration = Duration::from_micros(50);

/// How long a query may take whose claims have taken too long in an earlier batch; twice that if they have but stood behind such ones.
/// Doubled with each answer in time, until it is [`VISIBILITY_STATEMENT_TIMEOUT`] again.
pub const VISIBILITY_SLOW_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after which such claims are given their full time again, whether they have answered or not.
pub const VISIBILITY_SLOW_LIFETIME: Duration = Duration::from_secs(60);

/// Claims of one tenant that are known to take too long, some 200 bytes each beside the claims themselves, which are shared as a rule. Above:
/// further ones are given their full time.
pub const VISIBILITY_SLOW_MAX: usize = 16_384;

/// How long a batch looks for the keys that a query was slow on, when all else is answered. Above: the keys of its query are not
/// delivered.
pub const VISIBILITY_HALVES_TIMEOUT: Duration = Duration::from_secs(3);

/// Shortest time of a query that looks for such keys: a quarter of that of the query which it is a half of.
pub const VISIBILITY_HALF_TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// Transactions that look for the keys on which one transaction has failed. Above: what is not known yet is not delivered.
pub const VISIBILITY_BISECTIONS_MAX: u32 = 64;

/// Questions that a lost connection has left unanswered are asked again this many times. Above: they have no answer.
pub const VISIBILITY_RETRIES_MAX: u32 = 1;

/// Statements that one connection keeps prepared, one for each table and role. Above: all are forgotten.
pub const VISIBILITY_STATEMENTS_MAX: usize = 64;

/// A connection that has not been used for this long is closed.
pub const VISIBILITY_IDLE_MAX: Duration = Duration::from_secs(60);

/// Longest pause before a connection that could not be opened is tried again, for as long as somebody waits for it.
pub const VISIBILITY_PAUSE_MAX: Duration = Duration::from_secs(2);

// -- values of changed rows --

/// Bytes of one value in JSON: a few bytes in a database may stand for many here (`1e131071`). Above: the value cannot be said.
pub const CHANGE_VALUE_JSON_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Arrays and objects of a value of type `json` around each other: more than PostgreSQL's stack allows as it comes, which is how deep it
/// can read them itself. Above: the value cannot be said.
pub const CHANGE_JSON_DEPTH_MAX: usize = 16_384;

/// Types of arrays, rows and domains around each other. Above: the database is asked for their values, since here each takes stack.
pub const CHANGE_TYPE_NESTING_MAX: u16 = 32;

/// Types in a type, each counted as often as it stands there: ten rows as wide as PostgreSQL makes them. Above: as
/// [`CHANGE_TYPE_NESTING_MAX`], since whoever looks for a type in another one looks at all of them.
pub const CHANGE_TYPE_PARTS_MAX: u32 = 16_384;

/// How long one statement may take that has values converted by the database's casts. Above: it is cancelled, and asked again in halves.
pub const CHANGE_VALUES_STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long such a half may take. Above: the same; a single value has no JSON and is delivered as a string.
pub const CHANGE_VALUES_HALF_TIMEOUT: Duration = Duration::from_millis(150);

/// How long all such statements of one batch may take: one that is cancelled, and what looks for its slow value. Above: what was not
/// asked yet is delivered as strings. Well below [`CHANGES_QUESTION_TIMEOUT`](super::CHANGES_QUESTION_TIMEOUT), which gives up the connection.
pub const CHANGE_VALUES_ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long all statements of one batch may take together about types whose casts took too long before, each of them
/// [`CHANGE_VALUES_HALF_TIMEOUT`]. Above: what was not asked yet is delivered as strings.
pub const CHANGE_VALUES_SLOW_TIMEOUT: Duration = Duration::from_millis(400);

/// Time after which a type whose casts took too long is asked about as if they had not.
pub const CHANGE_VALUES_SLOW_LIFETIME: Duration = Duration::from_secs(60);

/// Types of one database whose casts are known to take too long. Above: further ones are given their full time in each batch.
pub const CHANGE_VALUES_SLOW_MAX: usize = 1024;

// -- filters of Postgres Changes --

/// Values of an `in` filter (spec: postgres-changes 3.3). Above: the subscription is refused.
pub const FILTER_LIST_MAX: usize = 100;

/// How long a statement may take that checks a filter: casts may call functions of the customer's. Above: the check has failed.
pub const FILTER_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement may take that compares values with filters. Above: each of its filters is asked alone.
pub const FILTER_STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a filter may take that is asked alone, some thousand times what one that is harmless takes. Above: its values do not pass, and
/// it is asked alone and last for [`FILTER_SLOW_LIFETIME`].
pub const FILTER_ALONE_TIMEOUT: Duration = Duration::from_millis(200);

/// How long all statements of one batch of changes may take. Above: what was not asked yet does not pass.
pub const FILTER_ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after which a filter that took too long is asked together with the others again.
pub const FILTER_SLOW_LIFETIME: Duration = Duration::from_secs(60);

/// How long all filters of one batch that took too long before may take together. Above: what was not asked yet does not pass.
pub const FILTER_SLOW_TIMEOUT: Duration = Duration::from_millis(400);

/// Filters of one database that are known to take too long. Above: further ones are asked together with the others each time.
pub const FILTER_SLOW_MAX: usize = 1024;

/// Such statements that are under way at the same time; they are done one after the other, without a round trip between.
pub const FILTER_STATEMENTS_AT_ONCE: usize = 16;

/// Comparisons of one statement, some microseconds each. Above: a further statement.
pub const FILTER_PAIRS_MAX: usize = 4096;

// -- row changes: the source --

/// Longest name of a slot in bytes: PostgreSQL's `NAMEDATALEN` less its end.
pub const SLOT_NAME_BYTES_MAX: usize = 63;

/// Shortest time between two readings of a polled slot that has nothing new: each reading decodes the log from the slot's restart on.
pub const CHANGES_POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Longest such time: what is later is no change feed any more.
pub const CHANGES_POLL_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Most messages of a polled slot after which a reading begins no further transaction.
pub const CHANGES_POLL_MESSAGES_MAX: u32 = 100_000;

/// Words of a source that wait to be taken. Above: the rest waits in the connection, and then in the database.
pub const CHANGES_WORDS_WAITING_MAX: usize = 1024;

/// Bytes of such words. Above: the same; a single word may be larger.
pub const CHANGES_WORDS_WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Shortest pause before a failed start of a source is tried again (spec: postgres-changes 4.4).
pub const CHANGES_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest such pause.
pub const CHANGES_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pause while there is no publication: it may be made again at any moment.
pub const CHANGES_PUBLICATION_PAUSE: Duration = Duration::from_millis(500);

/// Consecutive failures to get a slot that another process uses. From this one on, that process is terminated (spec: postgres-changes
/// 4.3).
pub const CHANGES_SLOT_FAILURES_MAX: u32 = 5;

/// Time within which the same failure is logged once.
pub const CHANGES_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Times that a database may refuse to decode the same place. Above: the slot is given up, since it would never get further.
pub const CHANGES_DECODING_FAILURES_MAX: u32 = 5;

/// How long ending a source may take. Above: its slot stays until the next start, or until somebody sweeps.
pub const CHANGES_END_TIMEOUT: Duration = Duration::from_secs(10);

/// Databases that are swept at once.
pub const CHANGES_SWEEPS_MAX: usize = 16;

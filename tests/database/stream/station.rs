//! A control core without shards that broadcasts from one database.

use crate::postgres::{Cluster, Database, Kind};
use realtime::auth::ClaimValidators;
use realtime::config::{Config, TenantDefaults};
use realtime::control::clock;
use realtime::control::database::migrate::migrate;
use realtime::control::database::partitions::ensure_partitions;
use realtime::control::database::{Environment, Pool};
use realtime::control::log::Log;
use realtime::control::messages::{Ledger, Measures, Snapshot, Source, broadcast};
use realtime::control::outgoing::{Outgoing, Parcel};
use realtime::control::store::{TenantRecord, apply};
use realtime::control::tenants::{Common, Registry};
use realtime::logging::Line;
use realtime::mail::{Content, Publish, To, TopicHasher};
use realtime::phoenix::Encoding;
use realtime::tenant::Tenant;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long anything may take in a test; far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What is broadcast.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    pub topic: String,
    pub private: bool,
    pub event: String,
    pub body: String,
    pub is_binary: bool,
    pub metadata: String,
}

/// See the file's documentation.
pub struct Station {
    pub database: Database,
    pub tenant: Arc<Tenant>,
    pub measures: Rc<Measures>,
    pub slot: String,
    state: watch::Receiver<bool>,
    parcels: mpsc::Receiver<Parcel>,
    lines: RefCell<Box<dyn FnMut() -> Vec<Line>>>,
    written: RefCell<Vec<String>>,
    /// Changed limits come from here.
    _registry: Registry,
    task: JoinHandle<()>,
}

impl Drop for Station {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A database with the schema and its partitions.
pub async fn prepared(cluster: &Arc<Cluster>) -> Database {
    let database = cluster.database(Kind::Supabase);
    prepare(&database).await;
    database
}

/// Makes the schema and its partitions.
pub async fn prepare(database: &Database) {
    let mut client = database.client(&database.user).await;
    migrate(&mut client)
        .await
        .expect("the database can be migrated");
    let now = clock::unix_seconds();
    assert!(ensure_partitions(&client, now).await.is_empty());
}

impl Station {
    /// Broadcasts from a database of the cluster, and is streaming.
    pub async fn streaming(cluster: &Arc<Cluster>) -> Self {
        let mut station = Self::start(prepared(cluster).await, &[]).await;
        station.streams().await;
        station
    }

    /// Begins to broadcast; `variables` are the server's.
    pub async fn start(database: Database, variables: &[(&str, &str)]) -> Self {
        Self::start_with(database, &json!({}), variables).await
    }

    /// The same with other settings of the extension.
    pub async fn start_with(database: Database, more: &Value, variables: &[(&str, &str)]) -> Self {
        let suffix = database.name.clone();
        let get = |name: &str| {
            let own = (name == "SLOT_NAME_SUFFIX").then(|| suffix.clone());
            let given = variables.iter().find(|(known, _)| *known == name);
            given.map(|(_, value)| (*value).to_owned()).or(own)
        };
        let (config, _) = Config::from_env(get).expect("the variables are right");
        let mut registry = Registry::new(Common {
            threads: 2,
            validators: Arc::new(ClaimValidators::default()),
            client_presence_calls_max: 5,
            client_presence_window_ms: 30_000,
        });
        let tenant = registry.apply(&record(&database)).0;
        let settings = Rc::new(database.settings_with(more));
        let pool = Pool::open(Rc::clone(&settings))
            .await
            .expect("the database runs");
        let since = Snapshot::take(&pool.lease().await.expect("the pool is new"))
            .await
            .expect("a snapshot can be taken");
        let (log, lines) = Log::for_test();
        let (outgoing, parcels) = Outgoing::new();
        let (notices, _) = mpsc::channel(1);
        let (state_sender, state) = watch::channel(false);
        let measures = Rc::new(Measures::default());
        let slot_suffix = config.slot_name_suffix.clone().unwrap_or_default();
        let source = Source {
            tenant: Arc::clone(&tenant),
            settings,
            pool,
            ledger: Rc::new(RefCell::new(Ledger::new(since))),
            state: state_sender,
            measures: Rc::clone(&measures),
            environment: Rc::new(Environment {
                config: Arc::new(config),
                tenants: registry.watch(),
                outgoing,
                notices,
                hasher: TopicHasher::new(1),
                cell: 1,
                log,
            }),
        };
        Self {
            slot: format!("supabase_realtime_messages_replication_slot_{slot_suffix}"),
            database,
            tenant,
            measures,
            state,
            parcels,
            lines: RefCell::new(Box::new(lines)),
            written: RefCell::default(),
            _registry: registry,
            task: tokio::task::spawn_local(async move {
                broadcast(source).await;
            }),
        }
    }

    /// Waits until rows are broadcast as they are committed.
    pub async fn streams(&mut self) {
        self.state_is(true).await;
    }

    /// Waits until they are, or are not.
    pub async fn state_is(&mut self, expected: bool) {
        let mut state = self.state.clone();
        let change = timeout(PATIENCE, state.wait_for(|is| *is == expected));
        let is_so = matches!(change.await, Ok(Ok(_)));
        assert!(
            is_so,
            "not streaming={expected}; the log: {:#?}",
            self.log()
        );
    }

    /// The next broadcast.
    pub async fn next(&mut self) -> Seen {
        match timeout(PATIENCE, self.parcels.recv()).await {
            Ok(Some(Parcel::Publish(publish))) => seen(*publish),
            Ok(_) => panic!("nothing else is sent"),
            Err(_) => panic!("nothing comes; the log: {:#?}", self.log()),
        }
    }

    /// The next broadcast, if it comes soon.
    pub async fn next_within(&mut self, time: Duration) -> Option<Seen> {
        match timeout(time, self.parcels.recv()).await {
            Ok(Some(Parcel::Publish(publish))) => Some(seen(*publish)),
            Ok(_) => panic!("nothing else is sent"),
            Err(_) => None,
        }
    }

    /// The events of the next broadcasts, up to and without the one whose event is `last`.
    pub async fn events_until(&mut self, last: &str) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            let seen = self.next().await;
            if seen.event == last {
                return events;
            }
            events.push(seen.event);
        }
    }

    /// Sends a row with this event, and returns the events that come before it.
    pub async fn flush(&mut self) -> Vec<String> {
        self.send("the end").await;
        self.events_until("the end").await
    }

    /// Calls `realtime.send` in a transaction of its own.
    pub async fn send(&self, event: &str) {
        self.sql(&format!(
            "select realtime.send('{{\"n\": 1}}', '{event}', 'room', false)"
        ))
        .await;
    }

    /// Runs statements without blocking the core.
    pub async fn sql(&self, text: &str) {
        let client = self.database.client(&self.database.user).await;
        client
            .batch_execute(text)
            .await
            .expect("the statements are right");
    }

    /// A connection of the test's own.
    pub async fn client(&self) -> tokio_postgres::Client {
        self.database.client(&self.database.user).await
    }

    /// Kills the server's end of the stream; true when there was one.
    pub async fn kill(&self) -> bool {
        self.killer().await.kill().await > 0
    }

    /// A connection that kills streams.
    pub async fn killer(&self) -> Killer {
        Killer(self.client().await)
    }

    /// Waits until a line begins so, and counts those that do.
    pub async fn logged(&self, start: &str) -> usize {
        until(&format!("logging {start}"), || async {
            self.count_logged(start) > 0 || {
                assert!(!self.task.is_finished(), "{:#?}", self.log());
                false
            }
        })
        .await;
        self.count_logged(start)
    }

    /// How many lines begin so.
    pub fn count_logged(&self, start: &str) -> usize {
        self.log()
            .iter()
            .filter(|line| line.starts_with(start))
            .count()
    }

    /// Everything that was logged so far, except what is for debugging.
    pub fn log(&self) -> Vec<String> {
        let lines = (self.lines.borrow_mut())();
        let mut written = self.written.borrow_mut();
        written.extend(lines.iter().map(|line| line.message.to_string()));
        written.clone()
    }
}

/// See [`Station::killer`].
pub struct Killer(tokio_postgres::Client);

impl Killer {
    /// Kills the server's end of the stream, if there is one. Returns how many there were.
    pub async fn kill(&self) -> u32 {
        let rows = self
            .0
            .query(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where application_name = 'realtime_replication_connection' and datname = current_database()",
                &[],
            )
            .await
            .expect("it is a statement");
        u32::try_from(rows.len()).unwrap_or(u32::MAX)
    }
}

/// Waits for what no event tells of.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !is_so().await {
        assert!(clock::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn record(database: &Database) -> TenantRecord {
    let defaults = TenantDefaults {
        bytes_per_second_max: 100_000,
        channels_per_socket_max: 100,
        users_max: 200,
        events_per_second_max: 100,
        joins_per_second_max: 100,
    };
    let mut record = TenantRecord::new("tenant", &defaults, 1);
    record.jwt_secret = Some("secret".to_owned());
    let attributes = json!({"extensions": database.extensions(&json!({}))});
    let attributes = attributes.as_object().expect("it is an object");
    apply(&mut record, attributes, 1).expect("the attributes are right");
    record
}

fn seen(publish: Publish) -> Seen {
    let To::Key(key) = publish.to else {
        panic!("a row names its topic");
    };
    let Content::User {
        event,
        metadata,
        encoding,
        bytes,
    } = publish.content
    else {
        panic!("a row is a broadcast of a user");
    };
    let metadata = metadata.expect("a row has an id").into_owned();
    let id = publish.id.expect("a row has an id");
    assert_eq!(metadata, format!("{{\"id\":\"{id}\"}}"));
    Seen {
        topic: key.text().to_owned(),
        private: key.is_private(),
        event: event.into_owned(),
        body: String::from_utf8_lossy(&bytes).into_owned(),
        is_binary: encoding == Encoding::Binary,
        metadata,
    }
}

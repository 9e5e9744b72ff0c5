//! A control core without shards, as far as sessions need one: tenants, a log whose lines are looked at, and what the shards are told.

use crate::postgres::Database;
use realtime::auth::ClaimValidators;
use realtime::config::{Config, TenantDefaults};
use realtime::control::clock;
use realtime::control::database::Environment;
use realtime::control::log::Log;
use realtime::control::outgoing::{News, Outgoing, Parcel};
use realtime::control::session::Sessions;
use realtime::control::store::{TenantRecord, apply};
use realtime::control::tenants::{Common, Registry};
use realtime::logging::Line;
use realtime::mail::{ChangeBatch, Content, DatabaseState, Listening, TopicHasher};
use realtime::tenant::{Tenant, TenantId};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long anything may take in a test; far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the shards are told of row changes.
#[derive(Debug)]
pub enum Letter {
    /// Where a listener stands, or what its client reads.
    Listening(Listening),
    /// Changes.
    Changes(Arc<ChangeBatch>),
}

/// What sessions see of a server.
pub struct World {
    pub sessions: Sessions,
    pub environment: Rc<Environment>,
    registry: RefCell<Registry>,
    lines: RefCell<Box<dyn FnMut() -> Vec<Line>>>,
    written: RefCell<Vec<String>>,
    parcels: RefCell<mpsc::Receiver<Parcel>>,
}

impl World {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A world where these variables are set.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let registry = Registry::new(Common {
            threads: 2,
            validators: Arc::new(ClaimValidators::default()),
            client_presence_calls_max: 5,
            client_presence_window_ms: 30_000,
        });
        let get = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (config, _) = Config::from_env(get).expect("the variables are right");
        let (log, lines) = Log::for_test();
        let (outgoing, parcels) = Outgoing::new();
        let (notices, _) = mpsc::channel(1);
        let environment = Rc::new(Environment {
            config: Arc::new(config),
            tenants: registry.watch(),
            outgoing,
            notices,
            hasher: TopicHasher::new(1),
            cell: 1,
            log,
        });
        Self {
            sessions: Sessions::new(Rc::clone(&environment)),
            environment,
            registry: RefCell::new(registry),
            lines: RefCell::new(Box::new(lines)),
            written: RefCell::default(),
            parcels: RefCell::new(parcels),
        }
    }

    /// A tenant with this database; `more` are settings of its extension, or others. The same name is the same tenant.
    pub fn tenant(&self, name: &str, database: &Database, more: &Value) -> Arc<Tenant> {
        self.tenant_of(name, &json!({"extensions": database.extensions(more)}))
    }

    /// A tenant with these attributes.
    pub fn tenant_of(&self, name: &str, attributes: &Value) -> Arc<Tenant> {
        let defaults = TenantDefaults {
            bytes_per_second_max: 100_000,
            channels_per_socket_max: 100,
            users_max: 200,
            events_per_second_max: 100,
            joins_per_second_max: 100,
        };
        let mut record = TenantRecord::new(name, &defaults, 1);
        record.jwt_secret = Some("secret".to_owned());
        let attributes = attributes.as_object().expect("attributes are an object");
        apply(&mut record, attributes, 1).expect("the attributes are right");
        self.registry.borrow_mut().apply(&record).0
    }

    /// The tenant is gone.
    pub fn remove(&self, name: &str) {
        self.registry.borrow_mut().remove(name);
    }

    /// Everything that was logged so far.
    pub fn log(&self) -> Vec<String> {
        let lines = (self.lines.borrow_mut())();
        let mut written = self.written.borrow_mut();
        written.extend(lines.iter().map(|line| line.message.to_string()));
        written.clone()
    }

    /// How many lines begin so.
    pub fn logged(&self, start: &str) -> usize {
        let log = self.log();
        log.iter().filter(|line| line.starts_with(start)).count()
    }

    /// The events of the next broadcasts, up to and without the one whose event is `last`.
    pub async fn events_until(&self, last: &str) -> Vec<String> {
        let mut events = Vec::new();
        let heard = async {
            loop {
                let next = poll_fn(|context| self.parcels.borrow_mut().poll_recv(context));
                let next = next.await.expect("the sessions hold the other end");
                if let Parcel::Publish(publish) = next
                    && let Content::User { event, .. } = publish.content
                {
                    if event == last {
                        return;
                    }
                    events.push(event.into_owned());
                }
            }
        };
        let heard = timeout(PATIENCE, heard).await.is_ok();
        assert!(heard, "only {events:?} come; the log: {:#?}", self.log());
        events
    }

    /// The next letter for the shards that is about listeners or their changes.
    pub async fn letter(&self) -> Letter {
        let letter = async {
            loop {
                let next = poll_fn(|context| self.parcels.borrow_mut().poll_recv(context));
                match next.await.expect("the sessions hold the other end") {
                    Parcel::Listening(_, listening) => return Letter::Listening(*listening),
                    Parcel::Changes(_, batch) => return Letter::Changes(batch),
                    _ => {}
                }
            }
        };
        match timeout(PATIENCE, letter).await {
            Ok(letter) => letter,
            Err(_) => panic!("no letter comes; the log: {:#?}", self.log()),
        }
    }

    /// Waits until the shards are told that the tenant's database is connected, or that it is not.
    pub async fn told(&self, tenant: TenantId, is_connected: bool) {
        self.told_that(tenant, |state| state.is_connected == is_connected)
            .await;
    }

    /// Waits until the shards are told that the tenant's database is in such a state.
    pub async fn told_that(&self, tenant: TenantId, is_it: impl Fn(DatabaseState) -> bool) {
        let told = async {
            loop {
                let next = poll_fn(|context| self.parcels.borrow_mut().poll_recv(context));
                match next.await.expect("the sessions hold the other end") {
                    Parcel::All(News::Database(id, state)) if id == tenant && is_it(state) => {
                        return;
                    }
                    _ => {}
                }
            }
        };
        let told = timeout(PATIENCE, told).await.is_ok();
        assert!(told, "the shards wait in vain; the log: {:#?}", self.log());
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

/// Moves the clock, and lets every timer that is due do what it does before the network is looked at again.
pub async fn advance(time: Duration) {
    tokio::time::pause();
    // Timers round up to whole milliseconds.
    tokio::time::advance(time + Duration::from_millis(2)).await;
    tokio::time::resume();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

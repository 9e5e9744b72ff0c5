//! A migrated database and what asks it: what tests of policies and of replay have in common.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use realtime::auth::{ClaimValidators, Claims};
use realtime::config::Config;
use realtime::control::authorization::Authorizer;
use realtime::control::clock;
use realtime::control::database::migrate::migrate;
use realtime::control::database::partitions::ensure_partitions;
use realtime::control::database::{Environment, Pool};
use realtime::control::log::Log;
use realtime::control::outgoing::Outgoing;
use realtime::control::store::{ExtensionRecord, Sealed, TenantRecord};
use realtime::control::tenants::{Common, Registry};
use realtime::logging::Line;
use realtime::mail::{AskError, Checks, Context, TopicHasher, Verdict};
use realtime::tenant::TenantId;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::postgres::{ADMIN, Cluster, Database, Kind};

/// The only tenant of [`environment`].
pub const TENANT: TenantId = TenantId(1);

/// Everything that may be read.
pub const READS: Checks = Checks {
    broadcast_read: true,
    presence_read: true,
    writes: false,
};

/// Everything.
pub const ALL: Checks = Checks {
    writes: true,
    ..READS
};

/// Lets everybody read and write everything.
pub const OPEN: &str = "create policy r on realtime.messages for select to public using (true);
    create policy w on realtime.messages for insert to public with check (true)";

/// The answer to [`ALL`] where everything is allowed.
pub const ALL_GRANTED: Verdict = Verdict {
    broadcast_read: Some(true),
    presence_read: Some(true),
    broadcast_write: Some(true),
    presence_write: Some(true),
};

/// A database with the schema, and what asks it.
pub struct World {
    pub database: Database,
    pub pool: Pool,
    pub authorizer: Authorizer,
    pub lines: RefCell<Box<dyn FnMut() -> Vec<Line>>>,
}

impl World {
    pub async fn new(cluster: &Arc<Cluster>) -> Self {
        Self::with(cluster, json!({})).await
    }

    /// `more` are settings of the extension.
    pub async fn with(cluster: &Arc<Cluster>, more: Value) -> Self {
        let database = cluster.database(Kind::Supabase);
        let mut client = database.client(ADMIN).await;
        migrate(&mut client)
            .await
            .expect("a project's database can be migrated");
        assert!(
            ensure_partitions(&client, clock::unix_seconds())
                .await
                .is_empty()
        );
        let settings = database.settings_with(&more);
        let pool = Pool::open(Rc::new(settings))
            .await
            .expect("it can be connected to");
        let (environment, lines) = environment();
        Self {
            database,
            pool,
            authorizer: Authorizer::new(environment),
            lines: RefCell::new(lines),
        }
    }

    pub async fn check(&self, context: &Context, checks: Checks) -> Result<Verdict, AskError> {
        self.authorizer
            .check(TENANT, &self.pool, context, checks)
            .await
    }

    /// Everything, as `authenticated`.
    pub async fn check_all(&self) -> Result<Verdict, AskError> {
        self.check(&context("room", "authenticated"), ALL).await
    }

    /// The messages of the log lines since the last call.
    pub fn lines(&self) -> Vec<String> {
        let lines = (self.lines.borrow_mut())();
        lines.iter().map(|line| line.message.to_string()).collect()
    }

    pub fn rows(&self) -> String {
        self.database.sql("select count(*) from realtime.messages")
    }
}

/// An environment with one tenant, `TENANT`, and what takes the lines of its log.
pub fn environment() -> (Rc<Environment>, Box<dyn FnMut() -> Vec<Line>>) {
    environment_with(None)
}

/// The same with a database.
pub fn environment_with(
    database: Option<&Map<String, Value>>,
) -> (Rc<Environment>, Box<dyn FnMut() -> Vec<Line>>) {
    let (config, _) = Config::from_env(|_| None).expect("the defaults are right");
    let mut registry = Registry::new(Common {
        threads: 1,
        validators: Arc::new(ClaimValidators::default()),
        client_presence_calls_max: 5,
        client_presence_window_ms: 30_000,
    });
    let mut record = TenantRecord::new("t", &config.tenant_defaults, 1);
    record
        .extensions
        .extend(database.map(|settings| ExtensionRecord {
            kind: TenantRecord::POSTGRES_CDC.to_owned(),
            settings: settings.clone(),
            inserted_at: 1,
            updated_at: 1,
            sealed: Sealed::default(),
        }));
    let (tenant, _) = registry.apply(&record);
    assert_eq!(tenant.id, TENANT);
    let (log, lines) = Log::for_test();
    let environment = Environment {
        config: Arc::new(config),
        tenants: registry.watch(),
        outgoing: Outgoing::new().0,
        notices: mpsc::channel(1).0,
        hasher: TopicHasher::new(1),
        cell: 0,
        log,
    };
    (Rc::new(environment), Box::new(lines))
}

/// Somebody with this role and no other claim.
pub fn context(topic: &str, role: &str) -> Context {
    context_of(topic, &json!({"role": role}), &[])
}

pub fn context_of(topic: &str, claims: &Value, headers: &[(&str, &str)]) -> Context {
    let text = |name: &str| claims[name].as_str().map(Into::into);
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Context {
        topic: topic.into(),
        claims: Arc::new(Claims {
            json: claims.to_string().into(),
            role: text("role"),
            sub: text("sub"),
            iss: None,
            exp: None,
            iat: None,
        }),
        headers: headers.collect(),
    }
}

/// The recorded cases of a file.
pub fn vectors(file: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/vectors");
    let text = std::fs::read_to_string(folder.join(file)).expect("the vectors are there");
    serde_json::from_str(&text).expect("they are a JSON array")
}

/// What of a session a check could leave behind.
pub const STATE: &str = "select current_user::text, current_setting('role'), current_setting('is_superuser'), current_setting('statement_timeout'),
    current_setting('realtime.topic', true), current_setting('request.jwt.claims', true), current_setting('request.jwt.claim.sub', true),
    current_setting('request.jwt.claim.role', true), current_setting('request.headers', true),
    (pg_current_xact_id_if_assigned() is null)::text";

pub async fn state_of(pool: &Pool) -> Vec<String> {
    let lease = pool.lease().await.expect("the connection is open");
    let row = lease
        .query_one(STATE, &[])
        .await
        .expect("it is a statement");
    // A setting that was never set is null, one that was is empty.
    (0..row.len())
        .map(|index| row.get::<_, Option<String>>(index).unwrap_or_default())
        .collect()
}

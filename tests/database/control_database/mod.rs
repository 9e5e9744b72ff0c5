//! The control database: the store of tenants in PostgreSQL, on databases of ours and on such as the original leaves.

pub mod contract;
pub mod original;
pub mod processes;
pub mod sharing;
pub mod start;

use std::sync::Arc;
use std::time::Duration;

use realtime::config::Config;
use realtime::control::clock;
use realtime::control::log::Log;
use realtime::control::main_database::{MainDatabaseError, Opened, open};
use realtime::control::store::{
    ExtensionRecord, Sealed, StoreError, StoreNews, TenantRecord, TenantStore,
};
use realtime::logging::Line;
use tokio::time::timeout;

use crate::postgres::Database;
use crate::world::PATIENCE;

/// The key of the tests, which is the one of the well-known self-hosted set-ups.
pub const KEY: &str = "supabaserealtime";
/// A key of the current format.
pub const KEY_GCM: &str = "abcdefghijklmnopqrstuvwxyz012345";

/// The variables of a server whose control database is this one.
pub fn variables(database: &Database) -> Vec<(&'static str, String)> {
    vec![
        ("DB_HOST", database.host.clone()),
        ("DB_PORT", database.port.to_string()),
        ("DB_NAME", database.name.clone()),
        ("DB_USER", database.user.clone()),
        ("DB_PASSWORD", database.password.clone()),
        ("DB_ENC_KEY", KEY.to_owned()),
        ("LOG_LEVEL", "emergency".to_owned()),
    ]
}

/// The same with more variables, or others; one that is empty is not set.
pub fn config(database: &Database, more: &[(&str, &str)]) -> Config {
    let known = variables(database);
    let get = |name: &str| {
        let more = more.iter().find(|(variable, _)| *variable == name);
        let more = more.map(|(_, value)| (*value).to_owned());
        let known = known.iter().find(|(variable, _)| *variable == name);
        more.or_else(|| known.map(|(_, value)| value.clone()))
            .filter(|value| !value.is_empty())
    };
    Config::from_env(get).expect("the variables are right").0
}

/// Opens the store of this configuration; the sentences are what it warned of.
pub async fn opened(config: &Config) -> Result<(Opened, Vec<String>), MainDatabaseError> {
    let said = std::cell::RefCell::new(Vec::new());
    let database = config.database.as_ref().expect("DB_HOST is set");
    let opening = open(database, config, |text| {
        said.borrow_mut().push(text.to_owned())
    })
    .await?;
    let opened = opening.finish().await.map_err(MainDatabaseError::Store)?;
    Ok((opened, said.into_inner()))
}

/// A store at work, and its log.
pub struct Working {
    pub store: Arc<dyn TenantStore>,
    /// The tenants that were there.
    pub records: Vec<TenantRecord>,
    lines: Box<dyn FnMut() -> Vec<Line>>,
    logged: Vec<String>,
}

impl Working {
    pub async fn start(database: &Database, more: &[(&str, &str)]) -> Self {
        let (opened, said) = opened(&config(database, more)).await.expect("it opens");
        assert_eq!(said, [""; 0]);
        Self::of(opened)
    }

    pub fn of(opened: Opened) -> Self {
        let (log, lines) = Log::for_test();
        opened.engine.start(log);
        Self {
            store: Arc::new(opened.store),
            records: opened.records,
            lines: Box::new(lines),
            logged: Vec::new(),
        }
    }

    /// How many lines so far hold this text.
    pub fn logged(&mut self, part: &str) -> usize {
        self.lines_with(part).len()
    }

    /// The lines so far that hold this text.
    pub fn lines_with(&mut self, part: &str) -> Vec<String> {
        let lines = (self.lines)();
        self.logged
            .extend(lines.iter().map(|line| line.message.to_string()));
        let lines = self.logged.iter().filter(|line| line.contains(part));
        lines.cloned().collect()
    }

    pub async fn get(&self, external_id: &str) -> TenantRecord {
        let got = self.store.get(external_id).await.expect("it answers");
        got.unwrap_or_else(|| panic!("there is no tenant {external_id}"))
    }

    /// The next news.
    pub async fn news(&self) -> StoreNews {
        let news = timeout(PATIENCE, self.store.news()).await;
        news.expect("there are news").expect("it answers")
    }

    /// Waits for this one, whatever comes before.
    pub async fn hears(&self, expected: &StoreNews) {
        while self.news().await != *expected {}
    }
}

/// A tenant that nobody else is.
pub fn new(external_id: &str) -> TenantRecord {
    let get = |_: &str| None;
    let (config, _) = Config::from_env(get).expect("nothing is set");
    TenantRecord::new(external_id, &config.tenant_defaults, 1_700_000_000)
}

/// A tenant that may be stored.
pub fn with_secret(external_id: &str) -> TenantRecord {
    let mut record = new(external_id);
    record.jwt_secret = Some(format!("secret of {external_id}"));
    record
}

/// Looks again and again until it is so: for what nobody tells of.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = clock::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

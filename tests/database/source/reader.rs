//! A source that reads a database of the test's own, and whoever takes its words.

use crate::postgres::{Cluster, Database, Kind};
use crate::world::World;
pub use crate::world::{PATIENCE, until};
use realtime::control::changes::ChangesSettings;
use realtime::control::changes::source::{Measures, Place, Source, Word, slot_name};
use realtime::control::clock;
use realtime::control::replication::pgoutput::{Message, Value as Field, decode};
use realtime::tenant::Tenant;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A watchdog that looks often.
pub const HASTE: [(&str, &str); 1] = [("REPLICATION_WATCHDOG_INTERVAL_MS", "200")];

/// See the file's documentation.
pub struct Reader {
    pub world: World,
    pub database: Database,
    pub tenant: Arc<Tenant>,
    pub changes: Rc<ChangesSettings>,
    pub measures: Rc<Measures>,
    pub source: Source,
    /// Taken and not done yet.
    taken: Vec<u64>,
    place: Option<Place>,
    /// Rows that were done, in order.
    pub dispatched: Vec<u64>,
}

/// A database with a table of numbers that is published.
pub fn prepared(cluster: &Arc<Cluster>) -> Database {
    let database = cluster.database(Kind::Empty);
    database.sql(
        "create table numbers (n bigint primary key, text text); create publication supabase_realtime for table numbers; \
         create table other (n bigint, text text)",
    );
    database
}

impl Reader {
    /// Reads, and is up.
    pub async fn up_from(cluster: &Arc<Cluster>) -> Self {
        let mut reader = Self::start(prepared(cluster), &json!({}), &[]);
        assert!(reader.up().await, "the first slot is a new one");
        reader
    }

    /// Begins to read; `more` are settings of the extension, `variables` the server's.
    pub fn start(database: Database, more: &Value, variables: &[(&str, &str)]) -> Self {
        Self::start_as("tenant", database, more, variables)
    }

    /// The same as a tenant of this name.
    pub fn start_as(
        name: &str,
        database: Database,
        more: &Value,
        variables: &[(&str, &str)],
    ) -> Self {
        let world = World::with(variables);
        let tenant = world.tenant(name, &database, more);
        let live = Arc::clone(&world.environment.tenants.borrow());
        let changes = ChangesSettings::in_live(&live, tenant.id)
            .expect("the tenant has a database")
            .expect("the settings are right");
        let (changes, measures) = (Rc::new(changes), Rc::<Measures>::default());
        let source = Source::start(
            Rc::clone(&world.environment),
            Arc::clone(&tenant),
            Rc::new(database.settings_with(more)),
            Rc::clone(&changes),
            Rc::clone(&measures),
        );
        Self {
            world,
            database,
            tenant,
            changes,
            measures,
            source,
            taken: Vec::new(),
            place: None,
            dispatched: Vec::new(),
        }
    }

    /// The next word.
    pub async fn word(&mut self) -> Word {
        match timeout(PATIENCE, self.source.next()).await {
            Ok(word) => word,
            Err(_) => panic!("nothing comes; the log: {:#?}", self.world.log()),
        }
    }

    /// Waits for the next `Up`, and tells whether its slot is new. What was taken and is not done is forgotten.
    pub async fn up(&mut self) -> bool {
        let up = |word: &Word| match word {
            Word::Up { is_new } => Some(*is_new),
            _ => None,
        };
        self.news(up).await
    }

    /// Waits for the next gap.
    pub async fn gap(&mut self) -> String {
        let gap = |word: &Word| match word {
            Word::Gap(text) => Some(text.clone()),
            _ => None,
        };
        self.news(gap).await
    }

    /// What the next word of this kind says, which comes however much is said beside it. What was taken before is forgotten.
    async fn news<T>(&mut self, find: impl Fn(&Word) -> Option<T>) -> T {
        let deadline = clock::now() + PATIENCE;
        loop {
            let word = self.word().await;
            if let Some(found) = find(&word) {
                self.forget();
                return found;
            }
            assert!(clock::now() < deadline, "the log: {:#?}", self.world.log());
            self.take(word);
        }
    }

    /// Takes a word as whoever dispatches rows would.
    pub fn take(&mut self, word: Word) {
        match word {
            Word::Message(bytes, place) => {
                self.place = Some(place);
                self.taken.extend(number(&bytes));
            }
            Word::Commit(_, place) | Word::Passed(_, place) => self.place = Some(place),
            Word::Down(_) | Word::Gap(_) => self.forget(),
            Word::Begin(_) | Word::Up { .. } => {}
        }
    }

    /// Everything that was taken is done.
    pub fn finish(&mut self) {
        self.dispatched.append(&mut self.taken);
        if let Some(place) = self.place.take() {
            self.source.done(place);
        }
    }

    fn forget(&mut self) {
        self.taken.clear();
        self.place = None;
    }

    /// Takes words until so many rows were taken and are not done.
    pub async fn take_rows(&mut self, count: usize) -> Vec<u64> {
        while self.taken.len() < count {
            let word = self.word().await;
            assert!(!matches!(word, Word::Gap(_)), "{word:?}");
            self.take(word);
        }
        self.taken.clone()
    }

    /// Takes words up to the end of the transaction, and everything is done.
    pub async fn finish_transaction(&mut self) {
        loop {
            let word = self.word().await;
            let is_over = matches!(word, Word::Commit(..));
            self.take(word);
            if is_over {
                return self.finish();
            }
        }
    }

    /// Takes words up to the end of the transaction whose last row has this number, everything done at once.
    pub async fn dispatch_until(&mut self, last: u64) {
        let mut is_over = false;
        while self.dispatched.last() != Some(&last) || !is_over {
            let word = self.word().await;
            is_over = matches!(word, Word::Commit(..));
            self.take(word);
            self.finish();
        }
    }

    /// Inserts these numbers in one transaction.
    pub async fn insert(&self, numbers: std::ops::RangeInclusive<u64>) {
        let (first, last) = numbers.into_inner();
        self.sql(&format!(
            "insert into numbers select n, 'a text' from generate_series({first}, {last}) n"
        ))
        .await;
    }

    /// Runs statements without blocking.
    pub async fn sql(&self, text: &str) {
        let client = self.database.client(&self.database.user).await;
        client
            .batch_execute(text)
            .await
            .expect("the statements are right");
    }

    /// Kills the connection that reads. Returns whether there was one.
    pub async fn kill(&self) -> bool {
        kill(&self.database.client(&self.database.user).await).await
    }

    /// What the slot is called.
    pub fn slot(&self) -> String {
        let oid = self
            .database
            .sql("select oid from pg_database where datname = current_database()");
        let suffix = self.world.environment.config.slot_name_suffix.as_deref();
        let oid = oid.parse().expect("it is a number");
        slot_name(
            &self.changes.slot_name,
            suffix,
            oid,
            &self.tenant.external_id,
        )
    }

    /// What `column` of the slot is; empty when there is no slot.
    pub fn slot_says(&self, column: &str) -> String {
        self.database.sql(&format!(
            "select {column} from pg_replication_slots where slot_name = '{}'",
            self.slot()
        ))
    }
}

/// Kills the connection that reads a database. Returns whether there was one.
pub async fn kill(client: &tokio_postgres::Client) -> bool {
    let rows = client
        .query(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where application_name = 'realtime_changes_reader' and datname = current_database()",
            &[],
        )
        .await;
    rows.is_ok_and(|rows| !rows.is_empty())
}

/// The number in an inserted row.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let Ok(Message::Insert { new, .. }) = decode(bytes) else {
        return None;
    };
    let Some(Field::Text(text)) = new.0.first() else {
        panic!("values come as text: {new:?}");
    };
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A while that a test lets pass because of what it kills.
pub async fn a_while(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

//! Writers of numbered rows that go on whatever happens to the database, and what must have been heard of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::dice::Dice;
use crate::postgres::Database;

/// A row: whose it is, its number among those, and the number of its transaction.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Row {
    pub(super) writer: i64,
    pub(super) n: i64,
    pub(super) t: i64,
}

impl Row {
    /// A line of psql.
    pub(super) fn parse(line: &str) -> Self {
        let mut parts = line
            .split('|')
            .map(|part| part.parse().expect("it is a number"));
        let mut next = || parts.next().expect("a row has three columns");
        let (writer, n, t) = (next(), next(), next());
        Self { writer, n, t }
    }

    /// A `record`.
    #[track_caller]
    pub(super) fn of(record: &Value) -> Self {
        let number = |name: &str| {
            record[name]
                .as_i64()
                .unwrap_or_else(|| panic!("{name} of {record}"))
        };
        let (writer, n, t) = (number("writer"), number("n"), number("t"));
        Self { writer, n, t }
    }
}

/// Threads that write.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Writers of these numbers write into `table`. A number is used once in a database.
    pub(super) fn start(database: &Database, table: &'static str, writers: Range<i64>) -> Self {
        let mut config = Config::new();
        config
            .host(&database.host)
            .port(database.port)
            .dbname(&database.name);
        config.user(&database.user).password(&database.password);
        let (stop, committed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let start = |number: i64| {
            let (config, stop, committed) =
                (config.clone(), Arc::clone(&stop), Arc::clone(&committed));
            let writer = Writer {
                table,
                number,
                n: 0,
                t: 0,
                dice: Dice(number.unsigned_abs()),
            };
            thread::spawn(move || writer.run(&config, &stop, &committed))
        };
        let writers = writers.map(start).collect();
        Self {
            stop,
            committed,
            writers,
        }
    }

    /// How many transactions were committed for certain.
    pub(super) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Lets every writer end its transaction.
    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().expect("a writer does not panic");
        }
    }
}

/// Who writes; numbers are never used twice, also where it is not known what became of a commit.
struct Writer {
    table: &'static str,
    number: i64,
    n: i64,
    t: i64,
    dice: Dice,
}

impl Writer {
    fn run(mut self, config: &Config, stop: &AtomicBool, committed: &AtomicUsize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime can be made").block_on(async {
            while !stop.load(Ordering::Relaxed) {
                if let Ok((client, driver)) = config.connect(NoTls).await {
                    tokio::spawn(driver);
                    while !stop.load(Ordering::Relaxed) && self.transaction(&client).await.is_ok() {
                        committed.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(self.dice.below(12))).await;
                    }
                }
                // The database is down, or this connection was.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// One of each kind: a row, some rows, many rows, some that are taken back in part or altogether.
    async fn transaction(&mut self, client: &Client) -> Result<(), Error> {
        self.t += 1;
        let kind = self.dice.below(10);
        if kind < 4 {
            return client.batch_execute(&self.insert(1)).await;
        }
        client.batch_execute("begin").await?;
        let count = 1 + self.dice.below(4);
        for _ in 0..count {
            client.batch_execute(&self.insert(1)).await?;
        }
        match kind {
            4 => client.batch_execute(&self.insert(40)).await?,
            5 => {
                let text = format!(
                    "savepoint s; {}; rollback to s; {}",
                    self.insert(3),
                    self.insert(1)
                );
                client.batch_execute(&text).await?;
            }
            // Others commit meanwhile, and come first.
            6 => tokio::time::sleep(Duration::from_millis(self.dice.below(150))).await,
            _ => {}
        }
        let end = if kind == 7 { "rollback" } else { "commit" };
        client.batch_execute(end).await
    }

    /// A statement that inserts the next rows.
    fn insert(&mut self, count: i64) -> String {
        let Self {
            table, number, t, ..
        } = self;
        let first = self.n + 1;
        self.n += count;
        format!(
            "insert into public.{table} select {number}, n, {t} from generate_series({first}, {}) n",
            self.n
        )
    }
}

/// `heard` are the rows that are `there`, each once, those of a writer in their order, those of a transaction together.
#[track_caller]
pub(super) fn assert_complete(heard: &[Row], there: &[Row], log: &str) {
    assert_orderly(heard, log);
    let mut sorted = heard.to_vec();
    sorted.sort_unstable();
    let missing: Vec<&Row> = there
        .iter()
        .filter(|row| sorted.binary_search(row).is_err())
        .collect();
    let invented: Vec<&Row> = sorted
        .iter()
        .filter(|row| there.binary_search(row).is_err())
        .collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "of {} rows these did not come: {missing:?}; these came and are not there: {invented:?}\n{log}",
        there.len()
    );
}

/// No row comes twice, or before one of its writer's that is older, or among those of another transaction.
#[track_caller]
pub(super) fn assert_orderly(heard: &[Row], log: &str) {
    let mut last: BTreeMap<i64, Row> = BTreeMap::new();
    let mut before = None;
    for row in heard {
        if let Some(earlier) = last.insert(row.writer, *row) {
            assert!(earlier.n < row.n, "after {earlier:?} came {row:?}\n{log}");
            let together = earlier.t != row.t || before == Some(earlier);
            assert!(
                together,
                "between {earlier:?} and {row:?} came {before:?}\n{log}"
            );
        }
        before = Some(*row);
    }
}

/// `heard` is the rest of what is `there`, from some row of each writer on, and nothing is missing since `since`, the last rows at
/// the moment from which on everything has to be heard.
#[track_caller]
pub(super) fn assert_rest(heard: &[Row], there: &[Row], since: &[Row], log: &str) {
    assert_orderly(heard, log);
    let first_of = |writer: i64| {
        heard
            .iter()
            .filter(|row| row.writer == writer)
            .map(|row| row.n)
            .min()
    };
    let last_of = |writer: i64| {
        since
            .iter()
            .filter(|row| row.writer == writer)
            .map(|row| row.n)
            .max()
    };
    let expected = there.iter().filter(|row| {
        let first = first_of(row.writer).unwrap_or(i64::MAX);
        row.n >= first || row.n > last_of(row.writer).unwrap_or(0)
    });
    let expected: Vec<Row> = expected.copied().collect();
    assert_complete(heard, &expected, log);
}

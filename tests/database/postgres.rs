//! PostgreSQL for tests: a [`Cluster`] that ends with its handle, and [`Database`]s in it.
//!
//! The cluster is started by the script `cluster` beside this file, which also stops it when this process dies. A database is
//! what a test has for itself; a plain one comes with a cluster of its own, because roles belong to the whole cluster and a
//! migration makes some.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

/// The password of every role that may log in.
pub const PASSWORD: &str = "postgres";

/// The superuser of a Supabase project.
pub const ADMIN: &str = "supabase_admin";

/// What a new database holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// What a Supabase project's database holds before Realtime has seen it. The server logs in as `supabase_admin`.
    Supabase,
    /// What initdb gives, in a cluster of its own that has no role but the superuser `postgres`.
    Plain,
    /// Nothing, in a cluster that has the roles of a Supabase project.
    Empty,
}

/// A running PostgreSQL.
pub struct Cluster {
    script: Child,
    commands: Option<ChildStdin>,
    answers: File,
    port: u16,
    folder: PathBuf,
    bin: PathBuf,
    superuser: &'static str,
    /// Made once, by the first database that needs them.
    roles: OnceLock<()>,
    databases: AtomicUsize,
}

impl Cluster {
    /// A cluster for many tests.
    pub fn start() -> Self {
        Self::start_with(ADMIN, &[])
    }

    /// A cluster with a superuser of this name and further lines of its postgresql.conf.
    pub fn start_with(superuser: &'static str, settings: &[&str]) -> Self {
        let mut script = Command::new(beside("cluster"))
            .arg(superuser)
            .args(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is there");
        let commands = script.stdin.take();
        let answers = OwnedFd::from(script.stdout.take().expect("it is piped")).into();
        let ready = answer(&answers);
        let words: Vec<&str> = ready.split_whitespace().collect();
        let ["ready", port, folder, bin] = words[..] else {
            panic!("PostgreSQL does not start: it said {ready:?}, and see standard error");
        };
        Self {
            port: port.parse().expect("the script prints a port"),
            folder: folder.into(),
            bin: bin.into(),
            script,
            commands,
            answers,
            superuser,
            roles: OnceLock::new(),
            databases: AtomicUsize::new(0),
        }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data, its socket and its log are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it as a power cut does. It keeps its port.
    pub fn stop(&self) {
        assert_eq!(self.command("stop"), "stopped");
    }

    /// Starts it again.
    pub fn start_again(&self) {
        assert!(self.command("start").starts_with("ready"));
    }

    fn command(&self, text: &str) -> String {
        let mut commands = self.commands.as_ref().expect("it is open until the end");
        writeln!(commands, "{text}").expect("the script reads commands");
        answer(&self.answers)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A database that nobody else uses.
    pub fn database(self: &Arc<Self>, kind: Kind) -> Database {
        if kind == Kind::Plain {
            let own = Arc::new(Self::start_with("postgres", &[]));
            return Database::new("postgres".to_owned(), own);
        }
        self.roles.get_or_init(|| {
            self.psql(
                "postgres",
                &["-v", &format!("pw={PASSWORD}")],
                &read("supabase-roles.sql"),
            );
        });
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &[], &format!("create database {name}"));
        if kind == Kind::Supabase {
            self.psql(&name, &[], &read("supabase-db.sql"));
        }
        Database::new(name, Arc::clone(self))
    }

    /// `count` databases that hold what `original` does. Nobody may be connected to that one.
    pub fn copies(self: &Arc<Self>, original: &Database, count: usize) -> Vec<Database> {
        // Copied file by file: page by page through the log, which is the default since there is a choice (PostgreSQL 15),
        // every replication slot of the cluster would have to read.
        let knows_strategies = "select current_setting('server_version_num')::int >= 150000";
        let strategy = match self.psql("postgres", &[], knows_strategies).as_str() {
            "t" => "strategy file_copy",
            _ => "",
        };
        let first = self.databases.fetch_add(count, Ordering::Relaxed);
        let names: Vec<String> = (first..first + count)
            .map(|number| format!("test_{number}"))
            .collect();
        let of = &original.name;
        let statements: String = names
            .iter()
            .map(|name| format!("create database {name} template {of} {strategy};\n"))
            .collect();
        self.psql("postgres", &[], &statements);
        let database = |name| Database::new(name, Arc::clone(self));
        names.into_iter().map(database).collect()
    }

    /// psql as the superuser; `database` is a name or a connection string.
    pub fn psql_command(&self, database: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"])
            .args(["-U", self.superuser, "-p", &self.port.to_string()])
            .args(["-d", database, "-h"])
            .arg(&self.folder);
        psql
    }

    /// What psql prints of `text`, run by the superuser in `database`; panics when a statement fails.
    fn psql(&self, database: &str, arguments: &[&str], text: &str) -> String {
        self.try_psql(database, arguments, text)
            .unwrap_or_else(|error| panic!("in {database}: {error}\nof {text}"))
    }

    /// The same; the error is what psql says of the first statement that fails.
    fn try_psql(&self, database: &str, arguments: &[&str], text: &str) -> Result<String, String> {
        let mut psql = self
            .psql_command(database)
            .args(arguments)
            .env("PGOPTIONS", "-c client_min_messages=warning")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql comes with PostgreSQL");
        let mut input = psql.stdin.take().expect("it is piped");
        let text_of_thread = text.to_owned();
        // Both pipes may be full at once. psql stops reading at the first error: that is what it says itself.
        let writer = std::thread::spawn(move || drop(input.write_all(text_of_thread.as_bytes())));
        let output = psql.wait_with_output().expect("it was started");
        writer.join().expect("writing does not panic");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        Ok(printed.trim_end().to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The end of its input is the script's order to stop.
        drop(self.commands.take());
        let _ = self.script.wait();
    }
}

/// A line of the script, byte by byte: lines are short, and the file is shared.
fn answer(mut answers: &File) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while answers.read(&mut byte).expect("a pipe can be read") == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8(line).expect("the script prints text")
}

/// A file of this folder.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/database")
        .join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(beside(name)).expect("it is a file of this folder")
}

/// A database of its own for a test, and how a server gets to it.
pub struct Database {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    /// The cluster ends with the last of its databases.
    pub cluster: Arc<Cluster>,
}

impl Database {
    fn new(name: String, cluster: Arc<Cluster>) -> Self {
        Self {
            name,
            host: "127.0.0.1".to_owned(),
            port: cluster.port,
            user: cluster.superuser.to_owned(),
            password: PASSWORD.to_owned(),
            cluster,
        }
    }

    /// Runs statements as the superuser and returns what they select: a line per row, `|` between columns. Blocks; panics when
    /// one fails.
    pub fn sql(&self, text: &str) -> String {
        self.cluster.psql(&self.name, &[], text)
    }

    /// The same; the error is what psql says of the first statement that fails.
    pub fn try_sql(&self, text: &str) -> Result<String, String> {
        self.cluster.try_psql(&self.name, &[], text)
    }

    /// A connection as `user` over TCP, with the password. Its driver ends when it is dropped.
    pub async fn client(&self, user: &str) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).dbname(&self.name);
        config.user(user).password(&self.password);
        let (client, driver) = config
            .connect(tokio_postgres::NoTls)
            .await
            .expect("PostgreSQL runs");
        tokio::spawn(async move {
            // A test that has its connection killed sees that at its own end.
            let _ = driver.await;
        });
        client
    }

    /// The attribute `extensions` of a tenant that has this database, as in the management API. `more` are settings, or others.
    pub fn extensions(&self, more: &Value) -> Value {
        let mut settings = json!({
            "db_host": self.host, "db_port": self.port.to_string(), "db_name": self.name, "db_user": self.user,
            "db_password": self.password, "region": "local", "ssl_enforced": false,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            settings[name] = value.clone();
        }
        json!([{"type": "postgres_cdc_rls", "settings": settings}])
    }
}

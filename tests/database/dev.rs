//! `realtime dev`: a newcomer's database, from its first start to its last.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::faults::peer::Peer;
use crate::postgres::Cluster;
use crate::server::{Server, Setup, free_port};
use crate::token;

tests![
    what_is_printed_works_and_ends_with_the_server,
    a_killed_server_leaves_a_database_that_the_next_one_takes_over,
    a_second_server_leaves_the_first_ones_database_alone,
];

/// The tenant that a server without any settings has.
const TENANT: &str = "realtime-dev";

/// Draining and stopping PostgreSQL, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `DATA_DIR` that outlives servers.
struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("realtime-dev-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("postgres").join(name)
    }

    /// Starts `realtime dev`; the error is the end of what it printed.
    fn try_start(&self) -> Result<Server, String> {
        let binary = Path::new(env!("CARGO_BIN_EXE_realtime"));
        let data = self.0.to_str().expect("temporary folders have plain names");
        let setup = Setup {
            driver: "auto",
            shards: 1,
        };
        let env = [("DATA_DIR", data)];
        let server = Server::try_start(binary, &["dev"], setup, &[], &env, free_port())?;
        // It listens before it takes signals, and it takes them before it answers.
        if server.is_healthy() {
            Ok(server)
        } else {
            Err(server.log_end())
        }
    }

    fn start(&self) -> Server {
        self.try_start()
            .unwrap_or_else(|log| panic!("it does not start:\n{log}"))
    }

    /// Whether PostgreSQL is there, by what it leaves on the disk, and by its port.
    fn runs(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.file("cluster/postmaster.pid")) else {
            return false;
        };
        let port = text
            .lines()
            .nth(3)
            .and_then(|line| line.trim().parse::<u16>().ok());
        port.is_some_and(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs SQL through the command that the server printed.
fn psql(server: &Server, sql: &str) -> String {
    let log = server.log();
    let printed = log
        .lines()
        .find_map(|line| line.trim().strip_prefix("psql "));
    let command = printed.unwrap_or_else(|| panic!("it prints no command:\n{log}"));
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{command} -XAtq -v ON_ERROR_STOP=1 -c \"$SQL\""))
        .env("SQL", sql)
        .output()
        .expect("there is a shell");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {error}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// An example that the server printed, without its comment.
fn example(server: &Server, start: &str) -> String {
    let log = server.log();
    let line = log
        .lines()
        .find_map(|line| line.find(start).map(|at| line[at..].to_owned()));
    let line = line.unwrap_or_else(|| panic!("it prints no {start}:\n{log}"));
    line.split("; --").next().unwrap_or_default().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o777
}

async fn what_is_printed_works_and_ends_with_the_server(_: Arc<Cluster>) {
    let data = Data::new("printed");
    let server = data.start();
    assert!(data.runs());
    assert_eq!(
        (mode(&data.file("")), mode(&data.file("pgpass"))),
        (0o700, 0o600)
    );
    let password = fs::read_to_string(data.file("pgpass")).expect("it is there");
    let password = password.trim().rsplit(':').next().expect("the last field");
    assert!(password.len() >= 32 && !server.log().contains(password));
    assert_eq!(
        psql(
            &server,
            "show timezone; show wal_level; show listen_addresses"
        ),
        "UTC\nlogical\n127.0.0.1"
    );

    // What a public channel hears needs no policy.
    let mut peer = Peer::connect(&server, TENANT, &token::of_role("anon", 600));
    let config = json!({"broadcast": {"replication_ready": true}});
    peer.start_join("realtime:room1", &config);
    peer.joined("realtime:room1").expect("it is public");
    let ready = peer.wait_for(PATIENCE, |message| message.event == "system");
    assert!(ready.is_some_and(|ready| ready.payload["status"] == "ok"));
    psql(
        &server,
        &example(
            &server,
            "select realtime.send('{\"hello\": \"world\"}', 'greeting', 'room1', false)",
        ),
    );
    let heard = peer
        .broadcast("realtime:room1", PATIENCE)
        .expect("the row is a broadcast");
    assert_eq!(heard["payload"]["hello"], "world");

    // Private channels are closed until somebody opens them.
    let mut peer = Peer::connect(&server, TENANT, &token::of_role("anon", 600));
    let refusal = peer.join("realtime:room1").expect_err("there is no policy");
    assert!(refusal.starts_with("Unauthorized"), "{refusal}");
    psql(&server, &example(&server, "create policy"));
    peer.join_streamed("realtime:room1");
    psql(
        &server,
        &example(
            &server,
            "select realtime.send('{\"hello\": \"world\"}', 'greeting', 'room1')",
        ),
    );
    let heard = peer
        .broadcast("realtime:room1", PATIENCE)
        .expect("the row is a broadcast");
    assert_eq!(
        (&heard["event"], &heard["payload"]["hello"]),
        (&json!("greeting"), &json!("world"))
    );
    assert_eq!(
        psql(
            &server,
            "select topic, event, payload ->> 'hello' from realtime.messages where private"
        ),
        "room1|greeting|world"
    );

    server.terminate();
    assert!(server.ends_within(PATIENCE));
    assert!(!data.runs());
}

async fn a_killed_server_leaves_a_database_that_the_next_one_takes_over(_: Arc<Cluster>) {
    let data = Data::new("killed");
    let server = data.start();
    psql(
        &server,
        "create table notes (text text); insert into notes values ('kept')",
    );
    // A handle that is dropped kills its process.
    drop(server);
    assert!(data.runs());
    let server = data.start();
    assert!(server.log().contains("still running"), "{}", server.log());
    assert_eq!(psql(&server, "select text from notes"), "kept");
    server.terminate();
    assert!(server.ends_within(PATIENCE));
    assert!(!data.runs());

    let server = data.start();
    assert_eq!(psql(&server, "select text from notes"), "kept");
    server.terminate();
    assert!(server.ends_within(PATIENCE));
}

async fn a_second_server_leaves_the_first_ones_database_alone(_: Arc<Cluster>) {
    let data = Data::new("second");
    let server = data.start();
    let refusal = data.try_start().err().expect("the folder is in use");
    assert!(
        refusal.contains("in use") || refusal.contains("another"),
        "{refusal}"
    );
    assert!(data.runs());
    assert_eq!(psql(&server, "select 1"), "1");
    server.terminate();
    assert!(server.ends_within(PATIENCE));
}

//! Tenants that operators make, change and delete while clients are there: what becomes of their databases.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::faults::peer::Peer;
use crate::faults::{RECOVERY, SETUP, eventually};
use crate::postgres::{Cluster, Database, Kind};
use crate::server::Server;
use crate::socket::{self, Event, Headers};
use crate::token;

tests![
    a_tenant_lives_from_its_creation_to_its_deletion,
    a_suspended_tenant_has_nothing_in_its_database,
    a_tenant_whose_database_is_away_can_be_made_and_deleted,
    a_deleted_tenant_that_is_made_again_is_another_one,
];

const TENANT: &str = "made";

/// A server without tenants, and what an operator says to it.
struct Office(Server);

impl Office {
    fn open() -> Self {
        let server = Server::start(SETUP, &[], &[("CHANNEL_ERROR_BACKOFF_MS", "50")]);
        Self(server)
    }

    /// Status and body of the answer; a body that is no JSON is null.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let bearer = format!("Bearer {}", token::of_role("service_role", 600));
        let headers = [
            ("host", "made.localhost"),
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let headers: Headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let body = body.to_string();
        let answer = socket::request(self.0.address, method, path, &headers, body.as_bytes());
        match answer.expect("the server answers") {
            Event::Upgrade { status, body, .. } => {
                (status, serde_json::from_str(&body).unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }

    fn put(&self, attributes: &Value) -> (u16, Value) {
        let path = format!("/api/tenants/{TENANT}");
        self.ask("PUT", &path, &json!({ "tenant": attributes }))
    }

    fn make(&self, extensions: Value) -> (u16, Value) {
        self.put(&json!({"jwt_secret": token::SECRET, "extensions": extensions}))
    }

    fn status(&self, method: &str, action: &str) -> u16 {
        let path = format!("/api/tenants/{TENANT}{action}");
        self.ask(method, &path, &json!({})).0
    }

    fn health(&self) -> Value {
        let path = format!("/api/tenants/{TENANT}/health");
        let (status, body) = self.ask("GET", &path, &json!({}));
        assert_eq!(status, 200);
        body["data"].clone()
    }

    /// A client that listens to the table `rows`.
    fn follower(&self) -> Peer {
        let mut peer = Peer::connect(&self.0, TENANT, &token::good());
        let wanted = json!({"event": "*", "schema": "public", "table": "rows"});
        peer.start_join("realtime:rows", &json!({"postgres_changes": [wanted]}));
        assert_eq!(peer.joined("realtime:rows"), Ok(()), "{}", self.0.log_end());
        let message = system(&mut peer);
        assert_eq!(message, "Subscribed to PostgreSQL", "{}", self.0.log_end());
        peer
    }
}

/// The text of the next system message.
#[track_caller]
fn system(peer: &mut Peer) -> String {
    let message = peer.wait_for(RECOVERY, |message| message.event == "system");
    let message = message.expect("a system message comes");
    message.payload["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn with_table(cluster: &Arc<Cluster>) -> Database {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        "create table public.rows (id int primary key); grant select on public.rows to anon, authenticated;
         do $$ begin create publication supabase_realtime; exception when duplicate_object then null; end $$;
         alter publication supabase_realtime add table public.rows;",
    );
    database
}

fn slots(database: &Database) -> String {
    database.sql("select count(*) from pg_replication_slots where database = current_database()")
}

fn backends(database: &Database, application_name: &str) -> String {
    database.sql(&format!(
        "select count(*) from pg_stat_activity where datname = current_database() and application_name like '{application_name}'"
    ))
}

#[track_caller]
fn nothing_is_left(database: &Database) {
    eventually("there is no slot", RECOVERY, || slots(database) == "0");
    eventually("there is no connection", RECOVERY, || {
        backends(database, "realtime%") == "0"
    });
}

async fn a_tenant_lives_from_its_creation_to_its_deletion(cluster: Arc<Cluster>) {
    let (office, database) = (Office::open(), with_table(&cluster));
    let (status, body) = office.make(database.extensions(&json!({})));
    assert_eq!(status, 201, "{body} {}", office.0.log_end());
    // The database is ready when the answer is there, and nobody is connected.
    assert_eq!(
        database.sql("select to_regclass('realtime.messages') is not null"),
        "t"
    );
    assert_eq!(backends(&database, "realtime_connect%"), "0");
    let health = office.health();
    assert_eq!(
        (&health["healthy"], &health["db_connected"]),
        (&json!(true), &json!(false))
    );
    let mut peer = office.follower();
    let health = office.health();
    assert_eq!(
        (&health["healthy"], &health["db_connected"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(health["connected_cluster"], 1);
    // A shutdown ends the session alone: the client hears nothing of it, and goes on hearing of rows.
    assert_eq!(office.status("POST", "/shutdown"), 204);
    eventually("the session ends", RECOVERY, || {
        backends(&database, "realtime_connect") == "0"
    });
    let health = office.health();
    assert_eq!(
        (&health["healthy"], &health["db_connected"]),
        (&json!(false), &json!(false))
    );
    database.sql("insert into public.rows values (1)");
    let change = peer.wait_for(RECOVERY, |_| true).expect("the row comes");
    assert_eq!(change.event, "postgres_changes");
    // Neither does a change of a limit, nor a secret that is the same.
    let same = json!({"max_events_per_second": 77, "jwt_secret": token::SECRET});
    assert_eq!(office.put(&same).0, 200);
    database.sql("insert into public.rows values (2)");
    let change = peer.wait_for(RECOVERY, |_| true).expect("the row comes");
    assert_eq!(change.event, "postgres_changes");
    assert_eq!(office.status("POST", "/reload"), 204);
    assert_eq!(system(&mut peer), "Server requested disconnect");
    let mut peer = office.follower();
    database.sql("insert into public.rows values (3)");
    let change = peer.wait_for(RECOVERY, |message| message.event == "postgres_changes");
    assert_eq!(
        change.expect("the row comes").payload["data"]["record"]["id"],
        3
    );
    assert_eq!(office.status("DELETE", ""), 204);
    assert_eq!(system(&mut peer), "Server requested disconnect");
    nothing_is_left(&database);
    assert_eq!(office.status("GET", ""), 404);
    assert_eq!(office.status("DELETE", ""), 204);
    assert!(!office.0.log().contains("UnableToDeleteTenant"));
}

async fn a_suspended_tenant_has_nothing_in_its_database(cluster: Arc<Cluster>) {
    let (office, database) = (Office::open(), with_table(&cluster));
    assert_eq!(office.make(database.extensions(&json!({}))).0, 201);
    let mut peer = office.follower();
    assert_ne!(slots(&database), "0");
    assert_eq!(office.put(&json!({"suspend": true})).0, 200);
    assert_eq!(system(&mut peer), "Server requested disconnect");
    nothing_is_left(&database);
    assert_eq!(office.put(&json!({"suspend": false})).0, 200);
    let mut peer = office.follower();
    database.sql("insert into public.rows values (1)");
    let change = peer.wait_for(RECOVERY, |message| message.event == "postgres_changes");
    assert!(change.is_some());
}

async fn a_tenant_whose_database_is_away_can_be_made_and_deleted(cluster: Arc<Cluster>) {
    let (office, database) = (Office::open(), with_table(&cluster));
    let away = database.extensions(&json!({"db_port": "1"}));
    let (status, body) = office.make(away);
    assert_eq!((status, body), (401, json!({"message": "Unauthorized"})));
    assert_eq!(office.health()["healthy"], false);
    // It is there, and can be told where its database really is: then the next look makes it ready.
    let (status, _) = office.put(&json!({"extensions": database.extensions(&json!({}))}));
    assert_eq!(status, 200);
    eventually("it is healthy", RECOVERY, || {
        office.health()["healthy"] == true
    });
    assert_eq!(
        database.sql("select to_regclass('realtime.messages') is not null"),
        "t"
    );
    let (status, _) =
        office.put(&json!({"extensions": database.extensions(&json!({"db_port": "1"}))}));
    assert_eq!(status, 200);
    assert_eq!(office.status("DELETE", ""), 204);
    assert_eq!(office.status("GET", ""), 404);
    eventually("the log says what may be left", RECOVERY, || {
        office.0.log().contains("UnableToDeleteTenant")
    });
}

async fn a_deleted_tenant_that_is_made_again_is_another_one(cluster: Arc<Cluster>) {
    let (office, database) = (Office::open(), with_table(&cluster));
    for round in 0..3 {
        let (status, body) = office.make(database.extensions(&json!({})));
        assert_eq!(status, 201, "{body}");
        let mut peer = office.follower();
        database.sql(&format!("insert into public.rows values ({round})"));
        let change = peer.wait_for(RECOVERY, |message| message.event == "postgres_changes");
        assert_eq!(
            change.expect("the row comes").payload["data"]["record"]["id"],
            round
        );
        assert_eq!(office.health()["connected_cluster"], 1);
        assert_eq!(office.status("DELETE", ""), 204);
        assert_eq!(system(&mut peer), "Server requested disconnect");
    }
    nothing_is_left(&database);
}

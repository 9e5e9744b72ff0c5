//! What happens when the server or its database ends in the middle.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::ears::Ears;
use super::super::sql::Sql;
use super::super::world::{self, PROBE, Tenant};
use super::{Case, TABLE, anon, entry, none, values_of};
use crate::cases::{Context, V2};
use crate::clock;
use crate::postgres::{ADMIN, Cluster, Database};
use crate::server::{Server, Setup};

pub const CASES: &[Case] = &[
    Case {
        name: "a_database_that_stops_and_starts_again_loses_no_change",
        settings: none,
        limits: none,
        run: |place| {
            let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
            let database = world::original(&cluster, place.setup);
            let server = start(place.setup, &database);
            let sql = Sql::open(&database);
            sql.run(TABLE);
            let mut ears = ears(&server, place.setup);
            ears.subscribe("realtime:room", &[entry()], &anon());
            sql.run("insert into public.t values (1, 'a', 'x')");
            assert_eq!(ears.change("realtime:room").data["record"]["id"], 1);
            cluster.stop();
            cluster.start_again();
            let sql = Sql::open(&database);
            for id in 2..12 {
                sql.run(&format!("insert into public.t values ({id}, 'a', 'x')"));
            }
            sql.run(PROBE);
            let ids: Vec<Value> = (2..12).map(Value::from).collect();
            assert_eq!(ears.rows_told("realtime:room"), ids);
        },
    },
    Case {
        name: "a_server_that_was_killed_leaves_no_slot_once_it_is_back",
        settings: none,
        limits: none,
        run: |place| {
            let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
            let database = world::original(&cluster, place.setup);
            let sql = Sql::open(&database);
            sql.run(TABLE);
            let first = start(place.setup, &database);
            let mut client = ears(&first, place.setup);
            client.subscribe("realtime:room", &[entry()], &anon());
            let slots = "select count(*) from pg_replication_slots where not temporary";
            assert_eq!(sql.value(slots), "1");
            // It is killed, and so can tidy nothing up.
            drop(first);
            // Nobody asks the next one for changes: the slot would hold the log for ever.
            let second = start(place.setup, &database);
            wait_for(&sql, slots, "0");
            // What happened in between belongs to nobody.
            sql.run("insert into public.t values (1, 'a', 'x')");
            let mut client = ears(&second, place.setup);
            client.subscribe("realtime:room", &[entry()], &anon());
            sql.run("insert into public.t values (2, 'a', 'x')");
            sql.run(PROBE);
            assert_eq!(
                values_of(&client.changes("realtime:room"), "id"),
                [json!(2)]
            );
            assert_eq!(sql.value(slots), "1");
            // One that is told to stop tidies up itself.
            second.terminate();
            wait_for(&sql, slots, "0");
        },
    },
    Case {
        name: "whoever_waits_for_a_slot_that_cannot_be_had_is_told_so_whenever_it_came",
        settings: none,
        limits: none,
        run: |place| {
            let cluster = Arc::new(Cluster::start_with(ADMIN, &["max_replication_slots = 3"]));
            let database = world::original(&cluster, place.setup);
            let sql = Sql::open(&database);
            sql.run(TABLE);
            for n in 0..3 {
                let fill = format!("select pg_create_physical_replication_slot('full_{n}')");
                let deadline = clock::now() + Duration::from_secs(20);
                // The server that made the schema had one, until its connection is noticed to be gone.
                while let Err(error) = sql.try_run(&fill) {
                    assert!(clock::now() < deadline, "{error}");
                }
            }
            let server = start(place.setup, &database);
            let mut ears = ears(&server, place.setup);
            // Why is for the log: no host, user or slot.
            let text = "Unable to read the changes of the database, it is tried again";
            for topic in ["realtime:first", "realtime:second", "realtime:third"] {
                ears.join(topic, &[entry()], &anon(), &json!({}));
                ears.not_subscribed(topic, text);
            }
            sql.run("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'full%'");
            for topic in ["realtime:first", "realtime:second", "realtime:third"] {
                ears.subscribed(topic);
            }
            sql.run("insert into public.t values (1, 'a', 'x')");
            assert_eq!(ears.change("realtime:third").data["record"]["id"], 1);
        },
    },
];

const TENANT: &str = "restarted";

fn start(setup: Setup, database: &Database) -> Server {
    let tenant = world::described(TENANT, &Tenant::default(), database);
    Server::start(setup, &[tenant], &[])
}

fn ears(server: &Server, setup: Setup) -> Ears {
    let tenant = TENANT.to_owned();
    Ears::new(
        &Context {
            server,
            setup,
            tenant,
        },
        V2,
    )
}

/// Asks until `query` selects `value`: a slot's end is no event that a session could be told of.
fn wait_for(sql: &Sql, query: &str, value: &str) {
    let deadline = clock::now() + Duration::from_secs(30);
    loop {
        let now = sql.value(query);
        if now == value {
            return;
        }
        assert!(clock::now() < deadline, "{query} still selects {now}");
        sql.run("select pg_sleep(0.1)");
    }
}

//! Who gets a change (checklist 25 to 31), beyond the vectors.

use std::time::Duration;

use serde_json::json;

use super::super::ears::{Change, Ears};
use super::super::world::PROBE;
use super::{
    Case, OWN_ROWS, ROOM, TABLE, anon, entry, in_room, none, prepared, service, user, values_of,
};
use crate::cases::V2;
use crate::clock;

pub const CASES: &[Case] = &[
    Case {
        name: "a_deleted_row_of_a_protected_table_shows_its_key_to_everybody",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, OWN_ROWS);
            sql.run("alter table public.t replica identity full");
            let mut ears = place.ears(V2);
            for (topic, token) in [
                ("realtime:anon", anon()),
                ("realtime:owner", user("u1")),
                ("realtime:other", user("u2")),
                ("realtime:service", service()),
            ] {
                ears.subscribe(topic, &[entry()], &token);
            }
            sql.run("insert into public.t values (1, 'u1', 'secret')");
            sql.run(PROBE);
            for (topic, count) in [
                ("realtime:anon", 0),
                ("realtime:owner", 1),
                ("realtime:other", 0),
                ("realtime:service", 1),
            ] {
                assert_eq!(ears.changes(topic).len(), count, "{topic}");
            }
            sql.run("delete from public.t");
            sql.run(PROBE);
            for topic in [
                "realtime:anon",
                "realtime:owner",
                "realtime:other",
                "realtime:service",
            ] {
                let changes = ears.changes(topic);
                assert_eq!(changes.len(), 1, "{topic}");
                assert_eq!(changes[0].data["old_record"], json!({"id": 1}), "{topic}");
            }
        },
    },
    Case {
        name: "a_policy_that_fails_keeps_a_row_from_those_it_is_asked_for_only",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                "create table public.t (id int primary key, owner text, v text);
                 create table public.calm (id int primary key);
                 grant select on public.t, public.calm to anon, authenticated, service_role;
                 alter table public.t enable row level security;
                 create policy fails on public.t for select to authenticated using (1.0 / (length(v) - 1) > 0);
                 create policy works on public.t for select to anon using (true);
                 create publication supabase_realtime for all tables",
            );
            let mut ears = place.ears(V2);
            let entries = [
                entry(),
                json!({"event": "*", "schema": "public", "table": "calm"}),
            ];
            for (topic, token) in [
                ("realtime:fails", user("u1")),
                ("realtime:works", anon()),
                ("realtime:all", service()),
            ] {
                ears.subscribe(topic, &entries, &token);
            }
            // The policy divides by zero for a text of one character, and only for that; one batch holds both.
            {
                let _held = place.server.hold();
                sql.run("insert into public.t values (1, 'u1', 'long'), (2, 'u1', 'x'), (3, 'u1', 'longer')");
                sql.run("insert into public.calm values (1)");
                sql.run("insert into public.t values (4, 'u1', 'y'), (5, 'u1', 'longest')");
                sql.run(PROBE);
            }
            let all = [json!(1), json!(2), json!(3), json!(1), json!(4), json!(5)];
            assert_eq!(values_of(&ears.changes("realtime:works"), "id"), all);
            assert_eq!(values_of(&ears.changes("realtime:all"), "id"), all);
            let seen = values_of(&ears.changes("realtime:fails"), "id");
            assert_eq!(seen, [json!(1), json!(3), json!(1), json!(5)]);
        },
    },
    Case {
        name: "a_row_that_is_gone_when_it_is_asked_for_is_shown_to_nobody",
        settings: none,
        limits: none,
        run: |place| {
            // Nor to those for whom no policy counts (recorded: postgres_changes_rls, `service_role`).
            let sql = prepared(place, OWN_ROWS);
            sql.run("create table public.many (id numeric primary key); alter table public.many enable row level security");
            sql.run("grant select on public.many to service_role");
            let entries = [
                entry(),
                json!({"event": "*", "schema": "public", "table": "many"}),
            ];
            let mut ears = place.ears(V2);
            ears.subscribe("realtime:owner", &[entry()], &user("u1"));
            ears.subscribe("realtime:service", &entries, &service());
            let kinds = |ears: &mut Ears, topic: &str| -> Vec<String> {
                let changes = ears.changes(topic);
                let kind = |change: &Change| {
                    let data = &change.data;
                    let row = data.get("record").unwrap_or(&data["old_record"]);
                    format!("{} {}", data["type"].as_str().unwrap_or(""), row["id"])
                };
                changes.iter().map(kind).collect()
            };
            {
                let _held = place.server.hold();
                sql.run("insert into public.t values (1, 'u1', 'x'), (2, 'u1', 'x')");
                sql.run("insert into public.many values (7.5), (8)");
                sql.run("delete from public.t where id = 1; delete from public.many where id = 8");
                sql.run(PROBE);
            }
            let owner = ["INSERT 2", "DELETE 1"];
            assert_eq!(kinds(&mut ears, "realtime:owner"), owner);
            let service = ["INSERT 2", "INSERT 7.5", "DELETE 1", "DELETE 8"];
            assert_eq!(kinds(&mut ears, "realtime:service"), service);
        },
    },
    Case {
        name: "a_protected_row_waits_for_what_follows_at_once",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, OWN_ROWS);
            let mut ears = place.ears(V2);
            ears.subscribe(ROOM, &[entry()], &user("u1"));
            // What is not flushed is not streamed; here that would come later than any pause.
            sql.run("set synchronous_commit = on");
            for id in 0..4 {
                let began = clock::now();
                sql.run(&format!("insert into public.t values ({id}, 'u1', 'x')"));
                let heard = ears.next_on(ROOM);
                assert_eq!(heard.event, "postgres_changes");
                // Less than the server's pause: its clock ticks in milliseconds.
                let waited = heard.at.duration_since(began);
                assert!(waited >= Duration::from_millis(28), "{waited:?}");
            }
        },
    },
    Case {
        name: "tables_of_the_server_itself_are_never_delivered",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            sql.run("grant select on all tables in schema realtime to service_role");
            let mut ears = place.ears(V2);
            let everything = [json!({"event": "*", "schema": "*"})];
            ears.subscribe("realtime:everything", &everything, &service());
            for table in ["messages", "subscription", "schema_migrations"] {
                let topic = format!("realtime:{table}");
                let own = [json!({"event": "*", "schema": "realtime", "table": table})];
                ears.join(&topic, &own, &service(), &json!({}));
                let text = format!(
                    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given \
                     connect parameters: [event: *, schema: realtime, table: {table}, filters: [], select: nil]"
                );
                ears.not_subscribed(&topic, &text);
            }
            sql.run("select realtime.send('{}'::jsonb, 'e', 'topic', false)");
            sql.run(
                "insert into realtime.subscription (subscription_id, entity, claims)
                 values (gen_random_uuid(), 'public.t', '{\"role\": \"anon\"}')",
            );
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run(PROBE);
            let changes = ears.changes("realtime:everything");
            assert_eq!(values_of(&changes, "id"), [json!(1)], "{changes:?}");
        },
    },
    Case {
        name: "tenants_see_the_changes_of_their_own_database_only",
        settings: none,
        limits: none,
        run: |place| {
            // Another tenant of the same cluster changes the same table of the same name at the same time.
            let sql = prepared(place, TABLE);
            let neighbour = super::super::sql::Sql::open(
                &place
                    .database
                    .cluster
                    .database(crate::postgres::Kind::Empty),
            );
            neighbour.run(TABLE);
            let mut ears = place.ears(V2);
            ears.subscribe(
                "realtime:room",
                &[entry(), json!({"event": "*", "schema": "*"})],
                &service(),
            );
            neighbour.run("insert into public.t values (1, 'theirs', 'x')");
            sql.run("insert into public.t values (2, 'ours', 'x')");
            neighbour.run("insert into public.t values (3, 'theirs', 'x')");
            sql.run(PROBE);
            assert_eq!(
                values_of(&ears.changes("realtime:room"), "owner"),
                [json!("ours")]
            );
        },
    },
    Case {
        name: "a_private_channel_gets_changes_whatever_its_policies_say_of_messages",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, OWN_ROWS);
            // Joining needs this; the changes do not look at it.
            sql.run(
                "create policy join_rooms on realtime.messages for select to authenticated
                   using (realtime.topic() = 'room' and extension = 'broadcast')",
            );
            let mut ears = place.ears(V2);
            let topic = "realtime:room";
            ears.join(topic, &[entry()], &user("u1"), &json!({"private": true}));
            ears.subscribed(topic);
            sql.run("insert into public.t values (1, 'u1', 'x'), (2, 'u2', 'x')");
            sql.run(PROBE);
            assert_eq!(values_of(&ears.changes(topic), "id"), [json!(1)]);
        },
    },
    Case {
        name: "grants_and_policies_count_as_they_are_when_a_row_changes",
        settings: none,
        limits: none,
        run: |place| {
            let (sql, mut ears, _) = in_room(place, TABLE, &[entry()]);
            let mut id = 0;
            let mut record = |before: &str| {
                sql.run(before);
                id += 1;
                sql.run(&format!("insert into public.t (id, v) values ({id}, 'x')"));
                sql.run(PROBE);
                let changes = ears.changes(ROOM);
                changes.first().map(|change| change.data["record"].clone())
            };
            let all = |id: u32| Some(json!({"id": id, "owner": null, "v": "x"}));
            assert_eq!(record("select 1"), all(1));
            assert_eq!(
                record(
                    "revoke select on public.t from anon; grant select (id) on public.t to anon"
                ),
                Some(json!({"id": 2}))
            );
            assert_eq!(
                record("revoke select (id) on public.t from anon"),
                Some(json!({}))
            );
            assert_eq!(record("grant select on public.t to anon"), all(4));
            assert_eq!(
                record("alter table public.t enable row level security"),
                None
            );
            assert_eq!(
                record("create policy all_rows on public.t for select to anon using (true)"),
                all(6)
            );
            assert_eq!(record("drop policy all_rows on public.t"), None);
            assert_eq!(
                record("alter table public.t disable row level security"),
                all(8)
            );
            assert_eq!(
                record("alter table public.t add column more int default 7"),
                Some(json!({"id": 9, "owner": null, "v": "x", "more": 7}))
            );
        },
    },
];

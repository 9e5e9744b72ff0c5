//! Joins that ask for row changes (checklist 1 to 12), beyond the vectors and the recordings.

use serde_json::{Value, json};

use super::super::world::PROBE;
use super::{Case, ROOM, TABLE, anon, entry, filtered, in_room, none, prepared, user, values_of};
use crate::cases::{V1, V2};

pub const CASES: &[Case] = &[
    Case {
        name: "a_row_written_right_after_the_ok_message_arrives",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let mut ears = place.ears(V2);
            for round in 0..200 {
                let topic = format!("realtime:room {round}");
                ears.subscribe(&topic, &[filtered(&format!("id=eq.{round}"))], &anon());
                sql.run(&format!("insert into public.t values ({round}, 'a', 'x')"));
                assert_eq!(ears.change(&topic).data["record"]["id"], round);
                ears.leave(&topic);
            }
        },
    },
    Case {
        name: "what_asks_for_nothing_is_told_nothing",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let nothing = [
                json!([]),
                Value::Null,
                json!([null]),
                json!("x"),
                json!({"a": 1}),
                json!([null, null]),
            ];
            for vsn in [V1, V2] {
                let mut ears = place.ears(vsn);
                for (index, entries) in nothing.iter().enumerate() {
                    let topic = format!("realtime:nothing {index}");
                    let payload =
                        json!({"config": {"postgres_changes": entries}, "access_token": anon()});
                    ears.send_join(&topic, &payload);
                    ears.joined(&topic, &[]);
                }
                // The worker runs and has told another channel; nobody else has heard anything.
                ears.subscribe("realtime:something", &[entry()], &anon());
                sql.run("truncate public.t");
                sql.run("insert into public.t values (1, 'a', 'x')");
                sql.run(PROBE);
                assert_eq!(ears.changes("realtime:something").len(), 1);
                for index in 0..nothing.len() {
                    ears.nothing_on(&format!("realtime:nothing {index}"));
                }
            }
        },
    },
    Case {
        name: "null_entries_are_dropped_and_the_others_keep_their_order",
        settings: none,
        limits: none,
        run: |place| {
            let _sql = prepared(place, TABLE);
            let mut ears = place.ears(V2);
            let topic = "realtime:room";
            let strange = json!({"table": "t", "schema": "public", "event": "delete", "mine": {"b": [1, 2.50], "a": null}});
            let entries = json!([null, strange, null, entry()]);
            let payload = json!({"config": {"postgres_changes": entries}, "access_token": anon()});
            ears.send_join(topic, &payload);
            ears.joined(topic, &[strange, entry()]);
            ears.subscribed(topic);
        },
    },
    Case {
        name: "one_bad_entry_fails_the_whole_join_and_the_channel_lives_on",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let mut ears = place.ears(V2);
            let topic = "realtime:room";
            let config = json!({"broadcast": {"self": true}});
            ears.join(
                topic,
                &[entry(), filtered("nope=eq.1"), filtered("id=bad.1")],
                &anon(),
                &config,
            );
            // What cannot be read is found before the database is asked.
            ears.not_subscribed(topic, "Error parsing `filter` params: [\"bad\", \"1\"]");
            ears.subscribe("realtime:witness", &[entry()], &anon());
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run(PROBE);
            assert_eq!(ears.changes("realtime:witness").len(), 1);
            ears.nothing_on(topic);
            let message = json!({"type": "broadcast", "event": "e", "payload": {}});
            ears.push(topic, "broadcast", &message);
            assert_eq!(ears.next_on(topic).event, "broadcast");
        },
    },
    Case {
        name: "a_role_without_a_grant_may_subscribe_but_not_filter",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                "create schema closed;
                 create table closed.t (id int primary key, v text);
                 create publication supabase_realtime for all tables",
            );
            let entry = json!({"event": "*", "schema": "closed", "table": "t"});
            let mut filtered = entry.clone();
            filtered["filter"] = json!("v=eq.x");
            let mut ears = place.ears(V2);
            ears.join("realtime:filtered", &[filtered], &anon(), &json!({}));
            ears.not_subscribed(
                "realtime:filtered",
                "Unable to subscribe to changes with given parameters. An exception happened so please check your connect \
                 parameters: [event: *, schema: closed, table: t, filters: [{\"v\", \"eq\", \"x\", false}], select: nil]. \
                 Exception: ERROR P0001 (raise_exception) invalid column for filter v",
            );
            ears.subscribe("realtime:all", &[entry], &anon());
            sql.run("insert into closed.t values (1, 'x')");
            sql.run("update closed.t set v = 'y'");
            sql.run("delete from closed.t");
            sql.run(PROBE);
            let changes = ears.changes("realtime:all");
            let unauthorized = |kind: &str| {
                json!({
                    "schema": "closed", "table": "t", "type": kind, "commit_timestamp": null, "columns": [],
                    "errors": ["Error 401: Unauthorized"], "record": {},
                })
            };
            assert_eq!(changes[0].data, unauthorized("INSERT"));
            let mut updated = unauthorized("UPDATE");
            updated["old_record"] = json!({});
            assert_eq!(changes[1].data, updated);
            let deleted = &changes[2].data;
            assert_eq!(
                (&deleted["columns"], &deleted["old_record"]),
                (&json!([]), &json!({}))
            );
            assert_eq!(deleted["errors"], Value::Null);
            assert_eq!(changes.len(), 3);
        },
    },
    Case {
        name: "a_filter_that_its_type_cannot_do_is_refused_and_harms_nobody",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                "create table public.t (id int primary key, v text, j json, p point, x xml);
                 grant select on public.t to anon;
                 create publication supabase_realtime for all tables",
            );
            let mut ears = place.ears(V2);
            for (filter, types) in [
                ("j=eq.{}", "json = json"),
                ("j=in.(\"{}\")", "json = json"),
                ("j=not.eq.{}", "json = json"),
                ("p=lt.(1,2)", "point < point"),
                ("x=eq.<a/>", "xml = xml"),
                ("j=isdistinct.{}", "json = json"),
            ] {
                let topic = format!("realtime:{filter}");
                ears.join(&topic, &[filtered(filter)], &anon(), &json!({}));
                let heard = ears.next_on(&topic);
                assert_eq!(heard.payload["status"], "error", "{filter}: {heard:?}");
                let message = heard.payload["message"].as_str().expect("it has a text");
                let text =
                    format!("ERROR 42883 (undefined_function) operator does not exist: {types}");
                assert!(message.contains(&text), "{filter}: {message}");
            }
            ears.subscribe(
                "realtime:good",
                &[filtered("v=eq.x"), filtered("j=is.null")],
                &anon(),
            );
            sql.run("insert into public.t values (1, 'x', '{}', '(1,2)', '<a/>')");
            sql.run(PROBE);
            assert_eq!(ears.changes("realtime:good").len(), 1);
        },
    },
    Case {
        name: "a_cold_tenant_is_subscribed_without_an_error_before",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            // Many at once, before anything of the tenant is connected.
            let mut clients: Vec<_> = (0..8).map(|_| place.ears(V2)).collect();
            for (index, ears) in clients.iter_mut().enumerate() {
                for channel in 0..5 {
                    let topic = format!("realtime:{channel}");
                    ears.join(
                        &topic,
                        &[filtered(&format!("id=eq.{channel}"))],
                        &user(&index.to_string()),
                        &json!({}),
                    );
                }
            }
            for ears in &mut clients {
                for channel in 0..5 {
                    ears.subscribed(&format!("realtime:{channel}"));
                }
            }
            sql.run("insert into public.t select i, 'a', 'x' from generate_series(0, 9) i");
            sql.run(PROBE);
            for ears in &mut clients {
                for channel in 0..5 {
                    let changes = ears.changes(&format!("realtime:{channel}"));
                    assert_eq!(values_of(&changes, "id"), [channel]);
                }
            }
        },
    },
    Case {
        name: "a_join_of_many_entries_is_told_once",
        settings: none,
        limits: none,
        run: |place| {
            let entries: Vec<Value> = (0..50).map(|id| filtered(&format!("id=eq.{id}"))).collect();
            let (sql, mut ears, _) = in_room(place, TABLE, &entries);
            sql.run("insert into public.t select i, 'a', 'x' from generate_series(0, 99) i");
            sql.run(PROBE);
            assert_eq!(ears.changes(ROOM).len(), 50);
            ears.nothing_on(ROOM);
        },
    },
    Case {
        name: "a_join_of_too_many_entries_is_told_so_and_one_of_as_many_as_may_be_is_served",
        settings: none,
        limits: none,
        run: |place| {
            // And the probe.
            let (sql, mut ears, _) = in_room(place, TABLE, &vec![entry(); 999]);
            ears.join("realtime:more", &vec![entry(); 1000], &anon(), &json!({}));
            ears.not_subscribed(
                "realtime:more",
                "Too many postgres_changes in one join: 1001 of at most 1000",
            );
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run(PROBE);
            assert_eq!(ears.changes(ROOM).len(), 1);
            ears.nothing_on("realtime:more");
        },
    },
];

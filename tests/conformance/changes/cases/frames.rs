//! What a change looks like on the wire (checklist 13 to 17 and 22).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::ears::Change;
use super::super::world::PROBE;
use super::{Case, ROOM, TABLE, anon, entry, filtered, in_room, none, prepared, values_of};
use crate::cases::{V1, V2};

pub const CASES: &[Case] = &[
    Case {
        name: "generated_columns_are_columns_like_others",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                "create table public.t (id int primary key, n int, big text, twice bigint generated always as (n * 2) stored,
                   size int generated always as (length(big)) stored);
                 create table public.k (n int, id int primary key generated always as (n + 1) stored);
                 alter table public.k enable row level security; create policy p on public.k for select using (id < 10);
                 grant select on public.t, public.k to anon;
                 alter table public.t alter big set storage external;
                 create publication supabase_realtime for all tables",
            );
            let mut ears = place.ears(V2);
            let select =
                json!({"event": "*", "schema": "public", "table": "t", "select": ["twice"]});
            ears.subscribe("realtime:all", &[entry()], &anon());
            ears.subscribe("realtime:filtered", &[filtered("twice=gt.10")], &anon());
            ears.subscribe("realtime:selected", &[select], &anon());
            let keyed = json!({"event": "*", "schema": "public", "table": "k"});
            ears.subscribe("realtime:keyed", &[keyed], &anon());
            sql.run(
                "insert into public.t (id, n, big) values (1, 5, repeat('x', 4000)), (2, 6, null)",
            );
            sql.run("update public.t set n = 7 where id = 1");
            sql.run("alter table public.t replica identity full");
            sql.run("update public.t set n = null where id = 1");
            sql.run("delete from public.t where id = 2");
            sql.run("insert into public.k (n) values (8), (9)");
            sql.run(PROBE);
            let seen = |changes: &[Change], row: &str| -> Vec<Value> {
                let value = |change: &Change| {
                    let row = change.data.get(row).cloned().unwrap_or_default();
                    json!([row["id"], row.get("twice"), row.get("size")])
                };
                changes.iter().map(value).collect()
            };
            let all = ears.changes("realtime:all");
            let rows = [
                json!([1, 10, 4000]),
                json!([2, 12, null]),
                // What is computed from a value that was not written again is known of whole rows alone.
                json!([1, 14, null]),
                json!([1, null, 4000]),
                json!([null, null, null]),
            ];
            assert_eq!(seen(&all, "record"), rows);
            assert!(all[2].data["record"].get("size").is_none());
            let old = [
                json!([null, null, null]),
                json!([null, null, null]),
                json!([1, null, null]),
                json!([1, 14, 4000]),
                json!([2, 12, null]),
            ];
            assert_eq!(seen(&all, "old_record"), old);
            let filtered = ears.changes("realtime:filtered");
            assert_eq!(
                values_of(&filtered, "id"),
                [json!(2), json!(1), Value::Null]
            );
            let selected = ears.changes("realtime:selected");
            assert_eq!(selected[0].data["record"], json!({"id": 1, "twice": 10}));
            let keyed = ears.changes("realtime:keyed");
            assert_eq!(
                values_of(&keyed, "id"),
                [json!(9)],
                "the policy decides by it"
            );
        },
    },
    Case {
        name: "numbers_that_json_does_not_have_and_its_null_are_null_to_filters",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                "create table public.t (id int primary key, n numeric, f real, a float8[], j jsonb); grant select on public.t to anon;
                 create publication supabase_realtime for all tables",
            );
            let mut ears = place.ears(V2);
            let topics = [
                ("n=gt.5", vec![1]),
                ("n=eq.NaN", vec![]),
                ("n=is.null", vec![2, 3]),
                ("f=neq.0", vec![1]),
                ("f=not.isdistinct.Infinity", vec![]),
                ("j=is.null", vec![2, 3]),
                ("j=neq.1", vec![1]),
            ];
            for (filter, _) in &topics {
                ears.subscribe(&format!("realtime:{filter}"), &[filtered(filter)], &anon());
            }
            ears.subscribe(ROOM, &[entry()], &anon());
            sql.run("insert into public.t values (1, 6, 1, '{NaN}', '2'), (2, 'NaN', 'Infinity', null, 'null'), (3, 'Infinity', 'NaN', null, null)");
            sql.run(PROBE);
            let changes = ears.changes(ROOM);
            assert_eq!(
                values_of(&changes, "n"),
                [json!(6), Value::Null, Value::Null]
            );
            assert_eq!(changes[0].data["record"]["a"], json!(["NaN"]));
            assert_eq!(changes[1].data["record"]["j"], Value::Null);
            for (filter, ids) in topics {
                let ids: Vec<Value> = ids.into_iter().map(Value::from).collect();
                let changes = ears.changes(&format!("realtime:{filter}"));
                assert_eq!(values_of(&changes, "id"), ids, "{filter}");
            }
        },
    },
    Case {
        name: "clients_of_both_versions_on_one_topic_get_their_own_encoding",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let topic = "realtime:room";
            // What comes is read strictly in the version of the one who reads it.
            let mut clients = [V1, V2, V1, V2].map(|vsn| place.ears(vsn));
            for ears in &mut clients {
                ears.subscribe(topic, &[entry()], &anon());
            }
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run("update public.t set v = 'y'");
            sql.run("delete from public.t");
            sql.run(PROBE);
            let seen = clients.each_mut().map(|ears| ears.changes(topic));
            for changes in &seen {
                let kinds: Vec<&Value> =
                    changes.iter().map(|change| &change.data["type"]).collect();
                assert_eq!(kinds, ["INSERT", "UPDATE", "DELETE"]);
                assert_eq!(
                    changes[0].data["record"],
                    json!({"id": 1, "owner": "a", "v": "x"})
                );
                assert_eq!(
                    changes[1].data["record"],
                    json!({"id": 1, "owner": "a", "v": "y"})
                );
                assert_eq!(changes[1].data["old_record"], json!({"id": 1}));
                assert_eq!(changes[2].data["old_record"], json!({"id": 1}));
                for (change, first) in changes.iter().zip(&seen[0]) {
                    assert_eq!(change.data, first.data);
                    assert_eq!(change.ids, first.ids);
                }
            }
        },
    },
    Case {
        name: "old_style_clients_of_both_versions_get_events_named_after_the_change",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let topic = "realtime:public:t";
            let mut clients = [V1, V2].map(|vsn| place.ears(vsn));
            for ears in &mut clients {
                for topic in [topic, "realtime:probe:mark"] {
                    ears.send_join(topic, &json!({"user_token": anon()}));
                    assert_eq!(ears.reply(topic)["status"], "ok");
                    ears.subscribed(topic);
                }
            }
            // A new-style client of the same topic gets its own shape.
            let mut new = place.ears(V2);
            new.subscribe(topic, &[entry()], &anon());
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run("delete from public.t");
            sql.run(PROBE);
            for ears in &mut clients {
                let (inserted, deleted) = (ears.change(topic), ears.change(topic));
                assert_eq!((inserted.ids, deleted.ids), (None, None));
                assert_eq!(inserted.data["type"], "INSERT");
                assert_eq!(deleted.data["type"], "DELETE");
                assert!(ears.change("realtime:probe:mark").ids.is_none());
            }
            let changes = new.changes(topic);
            assert_eq!(changes.len(), 2);
            assert!(changes.iter().all(|change| change.ids.is_some()));
        },
    },
    Case {
        name: "a_change_comes_once_with_the_ids_of_all_entries_that_match",
        settings: none,
        limits: none,
        run: |place| {
            let entries = [
                entry(),
                filtered("v=eq.x"),
                json!({"event": "INSERT", "schema": "*"}),
                filtered("v=eq.other"),
                json!({"event": "UPDATE", "schema": "public", "table": "t"}),
                entry(),
            ];
            let (sql, mut ears, ids) = in_room(place, TABLE, &entries);
            assert_eq!(ids[0], ids[5], "equal entries have equal ids");
            assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 5, "{ids:?}");
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run("update public.t set owner = 'b'");
            sql.run(PROBE);
            let changes = ears.changes(ROOM);
            assert_eq!(changes.len(), 2);
            let of = |indexes: &[usize]| Some(indexes.iter().map(|index| ids[*index]).collect());
            assert_eq!(changes[0].ids, of(&[0, 1, 2]));
            assert_eq!(changes[1].ids, of(&[0, 1, 4]));
        },
    },
    Case {
        name: "entries_that_select_other_columns_come_in_frames_of_their_own",
        settings: none,
        limits: none,
        run: |place| {
            let select = |names: &[&str]| json!({"event": "*", "schema": "public", "table": "t", "select": names});
            let entries = [
                select(&["v"]),
                entry(),
                select(&["v", "owner"]),
                select(&["owner", "v"]),
            ];
            let (sql, mut ears, ids) = in_room(place, TABLE, &entries);
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run(PROBE);
            let mut seen: Vec<(BTreeSet<u64>, Value)> = ears
                .changes(ROOM)
                .into_iter()
                .map(|change| {
                    (
                        change.ids.expect("new style"),
                        change.data["record"].clone(),
                    )
                })
                .collect();
            seen.sort_by_key(|(_, record)| record.to_string().len());
            let both = json!({"id": 1, "owner": "a", "v": "x"});
            assert_eq!(
                seen.remove(0),
                (BTreeSet::from([ids[0]]), json!({"id": 1, "v": "x"}))
            );
            // All columns, and all of them by name: two sets, however equal.
            let mut rest: Vec<_> = seen.iter().map(|(ids, _)| ids.clone()).collect();
            rest.sort();
            let mut expected = vec![BTreeSet::from([ids[1]]), BTreeSet::from([ids[2], ids[3]])];
            expected.sort();
            assert_eq!(rest, expected);
            assert!(seen.iter().all(|(_, record)| *record == both), "{seen:?}");
        },
    },
    Case {
        name: "names_and_values_of_all_alphabets_come_as_they_are",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                r#"create schema "Сервис";
                   create table "Сервис"."Täble .😀" (id int primary key, "ключ ""q""" text, "a.b" text);
                   grant usage on schema "Сервис" to anon;
                   grant select on "Сервис"."Täble .😀" to anon;
                   create publication supabase_realtime for all tables"#,
            );
            let value = "é \u{1f600} \"q\" \\ \n\t\r \u{1} \u{7f} \u{2028} </script> 漢字 עברית";
            let mut clients = [V1, V2].map(|vsn| place.ears(vsn));
            let topic = "realtime:комната 😀";
            let entries = [json!({
                "event": "*", "schema": "Сервис", "table": "Täble .😀", "filter": r#"ключ "q"=like.é%"#,
            })];
            for ears in &mut clients {
                ears.subscribe(topic, &entries, &anon());
            }
            let literal = value
                .replace('\\', "\\\\")
                .replace('\n', "\\n")
                .replace('\t', "\\t");
            let literal = literal.replace('\r', "\\r").replace('\u{1}', "\\x01");
            sql.run(&format!(r#"insert into "Сервис"."Täble .😀" values (1, E'{literal}', 'not'), (2, 'x', E'{literal}')"#));
            sql.run(PROBE);
            for ears in &mut clients {
                let changes = ears.changes(topic);
                assert_eq!(changes.len(), 1);
                let data = &changes[0].data;
                assert_eq!(data["schema"], "Сервис");
                assert_eq!(data["table"], "Täble .😀");
                assert_eq!(
                    data["record"],
                    json!({"id": 1, "ключ \"q\"": value, "a.b": "not"})
                );
                let names: Vec<&Value> = data["columns"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|column| &column["name"])
                    .collect();
                assert_eq!(names, ["id", "ключ \"q\"", "a.b"]);
            }
        },
    },
    Case {
        name: "the_time_of_a_change_is_that_of_its_commit_in_milliseconds",
        settings: none,
        limits: none,
        run: |place| {
            let (sql, mut ears, _) = in_room(place, TABLE, &[entry()]);
            let now = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
            let before = sql.value(now);
            sql.run("insert into public.t values (1, 'a', 'x'); insert into public.t values (2, 'a', 'x')");
            let after = sql.value(now);
            sql.run(PROBE);
            let changes = ears.changes(ROOM);
            let times: Vec<&str> = changes
                .iter()
                .map(|change| {
                    change.data["commit_timestamp"]
                        .as_str()
                        .expect("it has a time")
                })
                .collect();
            assert_eq!(times.len(), 2);
            assert_eq!(times[0], times[1], "one commit has one time");
            assert!(
                before.as_str() <= times[0] && times[0] <= after.as_str(),
                "{before} {times:?} {after}"
            );
        },
    },
];

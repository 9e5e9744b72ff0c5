//! The life of a subscription (checklist 32 to 37).

use std::time::Duration;

use serde_json::{Value, json};

use super::super::world::PROBE;
use super::{
    Case, OWN_ROWS, ROOM, TABLE, anon, entry, in_room, none, prepared, service, user, values_of,
};
use crate::cases::{V1, V2};
use crate::clock;

pub const CASES: &[Case] = &[
    Case {
        name: "everybody_is_told_again_when_the_publication_changes",
        settings: none,
        limits: none,
        run: |place| {
            let (sql, mut ears, _) = in_room(place, TABLE, &[entry()]);
            sql.run("create table public.u (id int primary key); grant select on public.u to anon");
            let of_u = json!({"event": "*", "schema": "public", "table": "u"});
            ears.subscribe("realtime:u", &[of_u], &anon());
            // Nothing has changed for it (spec: postgres-changes 4.2).
            ears.subscribed(ROOM);
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run(PROBE);
            assert_eq!(values_of(&ears.changes(ROOM), "id"), [json!(1)]);
        },
    },
    Case {
        name: "a_changed_publication_subscribes_everybody_again_or_tells_them",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(
                place,
                "create table public.t (id int primary key);
                 create table public.later (id int primary key);
                 grant select on public.t, public.later to anon;
                 create publication supabase_realtime for table public.t, probe.mark",
            );
            let mut ears = place.ears(V2);
            let all = json!({"event": "*", "schema": "public"});
            ears.subscribe("realtime:t", &[entry()], &anon());
            ears.subscribe("realtime:all", &[all], &anon());
            let later = json!({"event": "*", "schema": "public", "table": "later"});
            ears.join("realtime:later", &[later], &anon(), &json!({}));
            ears.not_subscribed("realtime:later", &not_enabled("later"));
            sql.run("insert into public.later values (1)");
            sql.run("alter publication supabase_realtime set table public.later, probe.mark");
            let start = clock::now();
            // Looked at every minute.
            let heard = ears.try_next_on("realtime:all", Duration::from_secs(75));
            let heard = heard.expect("the publication is looked at every minute");
            assert_eq!(
                heard.payload["message"], "Subscribed to PostgreSQL",
                "{heard:?}"
            );
            assert!(
                heard.at - start < Duration::from_secs(65),
                "after {:?}",
                heard.at - start
            );
            ears.not_subscribed("realtime:t", &not_enabled("t"));
            sql.run("insert into public.t values (2)");
            sql.run("insert into public.later values (2)");
            sql.run(PROBE);
            let changes = ears.changes("realtime:all");
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert_eq!(changes[0].data["table"], "later");
            ears.nothing_on("realtime:t");
        },
    },
    Case {
        name: "rows_from_before_a_table_was_dropped_come_before_its_subscribers_are_told",
        settings: none,
        limits: none,
        run: |place| {
            // Each row of the other table takes its time: the publication is looked at long before the last one is told.
            let other = json!({"event": "*", "schema": "public", "table": "u"});
            let (sql, mut ears, _) = in_room(
                place,
                "create table public.t (id int primary key);
                 create table public.u (id int primary key);
                 grant select on public.t, public.u to anon;
                 create function public.slowly() returns boolean language sql volatile as
                   $$ select pg_sleep(0.002) is not null $$;
                 alter table public.u enable row level security;
                 create policy all_rows on public.u for select to anon using (public.slowly());
                 create publication supabase_realtime for all tables",
                &[entry(), other],
            );
            {
                let _held = place.server.hold();
                sql.run("insert into public.t values (1)");
                sql.run("insert into public.u select generate_series(1, 2500)");
                sql.run("drop table public.t");
                sql.run(PROBE);
            }
            let ids: Vec<Value> = (1..=2500).map(Value::from).collect();
            assert_eq!(values_of(&ears.changes(ROOM), "id"), ids);
            ears.not_subscribed(ROOM, &not_enabled("t"));
        },
    },
    Case {
        name: "over_the_limit_of_events_changes_are_dropped_silently_until_it_is_met_again",
        settings: none,
        limits: || json!({"max_events_per_second": 1}),
        run: |place| {
            let sql = prepared(place, TABLE);
            let mut ears = place.ears(V2);
            let topic = "realtime:room";
            ears.subscribe(topic, &[entry()], &anon());
            // One a second on average over a minute; this is a little more.
            sql.run("insert into public.t select i, 'burst', 'x' from generate_series(1, 75) i");
            for id in 1..=75 {
                assert_eq!(ears.change(topic).data["record"]["id"], id);
            }
            let start = clock::now();
            let (mut id, mut dropped, mut resumed, mut last) = (100_i64, 0, false, 0);
            // A row every half second: the first ones may still arrive, because the counter ticks every five seconds.
            while !resumed && start.elapsed() < Duration::from_secs(100) {
                id += 1;
                sql.run(&format!(
                    "insert into public.t values ({id}, 'single', 'x')"
                ));
                match ears.try_next_on(topic, Duration::from_millis(500)) {
                    Some(heard) => {
                        assert_eq!(heard.event, "postgres_changes", "{heard:?}");
                        resumed = dropped > 10;
                        // What was dropped never comes later; what was not may come a moment late.
                        let seen = heard.payload["data"]["record"]["id"].as_i64();
                        let seen = seen.expect("a row has an id");
                        assert!(seen > last && seen > id - 8, "{seen} at {id}: {heard:?}");
                        last = seen;
                    }
                    None => dropped += 1,
                }
            }
            assert!(
                resumed,
                "{dropped} rows were dropped, and delivery did not resume"
            );
            let log = place.server.log_about(&place.tenant);
            assert!(
                log.contains("MessagePerSecondRateLimitReached: Too many postgres changes messages per second"),
                "{log}"
            );
        },
    },
    Case {
        name: "a_refreshed_token_is_told_again_and_its_claims_count",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, OWN_ROWS);
            for vsn in [V2, V1] {
                let mut ears = place.ears(vsn);
                let topic = "realtime:room";
                sql.run("truncate public.t");
                ears.subscribe(topic, &[entry()], &user("u1"));
                let rows = "insert into public.t values (1, 'u1', 'x'), (2, 'u2', 'x')";
                sql.run(rows);
                sql.run(PROBE);
                assert_eq!(values_of(&ears.changes(topic), "id"), [json!(1)]);
                let refreshed = clock::now();
                ears.push(topic, "access_token", &json!({"access_token": user("u2")}));
                let heard = ears.subscribed(topic);
                let after = heard.at - refreshed;
                // 1 to 3 s, and what a busy machine adds.
                let range = Duration::from_millis(900)..Duration::from_secs(10);
                assert!(range.contains(&after), "told after {after:?}");
                sql.run("truncate public.t");
                sql.run(rows);
                sql.run(PROBE);
                assert_eq!(values_of(&ears.changes(topic), "id"), [json!(2)]);
                // Another role is nothing special.
                ears.push(topic, "access_token", &json!({"access_token": service()}));
                ears.subscribed(topic);
                sql.run("truncate public.t");
                sql.run(rows);
                sql.run(PROBE);
                assert_eq!(values_of(&ears.changes(topic), "id"), [json!(1), json!(2)]);
            }
        },
    },
    Case {
        name: "a_refreshed_token_of_a_role_that_does_not_exist_ends_the_subscription",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let mut ears = place.ears(V2);
            ears.subscribe("realtime:witness", &[entry()], &anon());
            ears.subscribe("realtime:room", &[entry()], &anon());
            let nobody = crate::token::of_role("nobody_at_all", 3600);
            ears.push(
                "realtime:room",
                "access_token",
                &json!({"access_token": nobody}),
            );
            let heard = ears.next_on("realtime:room");
            assert_eq!(heard.payload["status"], "error", "{heard:?}");
            let text = heard.payload["message"].as_str().unwrap_or_default();
            assert!(
                text.contains("42704 (undefined_object) role \"nobody_at_all\" does not exist"),
                "{text}"
            );
            sql.run("insert into public.t values (1, 'a', 'x')");
            sql.run(PROBE);
            assert_eq!(ears.changes("realtime:witness").len(), 1);
            ears.nothing_on("realtime:room");
        },
    },
    Case {
        name: "a_leave_ends_delivery_at_once_and_a_new_join_begins_anew",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            let mut ears = place.ears(V2);
            for round in 0..20 {
                for topic in ["realtime:stays", "realtime:goes"] {
                    if round == 0 || topic == "realtime:goes" {
                        ears.subscribe(topic, &[entry()], &anon());
                    }
                }
                sql.run(&format!(
                    "insert into public.t values ({round}, 'before', 'x')"
                ));
                assert_eq!(ears.change("realtime:goes").data["record"]["id"], round);
                ears.leave("realtime:goes");
                sql.run(&format!(
                    "update public.t set owner = 'after' where id = {round}"
                ));
                sql.run(PROBE);
                assert_eq!(ears.changes("realtime:stays").len(), 2);
                ears.nothing_on("realtime:goes");
            }
        },
    },
    Case {
        name: "rows_that_another_server_left_in_the_subscription_table_are_removed",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            sql.run(
                "insert into realtime.subscription (subscription_id, entity, claims)
                 select gen_random_uuid(), 'public.t', '{\"role\": \"anon\"}' from generate_series(1, 10)",
            );
            let mut ears = place.ears(V2);
            let topic = "realtime:room";
            ears.subscribe(topic, &[entry()], &anon());
            // It happens when the worker starts, beside the subscription; the change comes after both.
            sql.run("insert into public.t values (1, 'a', 'x')");
            assert_eq!(ears.change(topic).data["record"]["id"], 1);
            assert_eq!(sql.value("select count(*) from realtime.subscription"), "0");
        },
    },
    Case {
        name: "no_change_is_lost_or_repeated_when_every_session_of_the_server_is_killed",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, OWN_ROWS);
            let mut ears = place.ears(V2);
            for (topic, token) in [("realtime:mine", user("u1")), ("realtime:all", service())] {
                ears.subscribe(topic, &[entry()], &token);
            }
            let insert =
                |id: u32| sql.run(&format!("insert into public.t values ({id}, 'u1', 'x')"));
            let (mut id, mut seen) = (0, [Vec::new(), Vec::new()]);
            for round in 0..3 {
                for _ in 0..20 {
                    insert(id);
                    id += 1;
                }
                let killed = sql.value(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()",
                );
                assert_ne!(killed, "0", "round {round}");
                for _ in 0..20 {
                    insert(id);
                    id += 1;
                }
                sql.run(PROBE);
                for (topic, seen) in ["realtime:all", "realtime:mine"].iter().zip(&mut seen) {
                    seen.extend(ears.rows_told(topic));
                }
            }
            let ids: Vec<Value> = (0..id).map(Value::from).collect();
            let [all, mine] = seen;
            assert_eq!(all, ids);
            // A verdict that is lost with its session delivers nothing; what comes, comes once and in order.
            let mut rest = ids.iter();
            assert!(
                mine.iter().all(|id| rest.any(|other| other == id)),
                "{mine:?}"
            );
            assert!(mine.len() > 60, "{} of {id} came", mine.len());
        },
    },
    Case {
        name: "whoever_sits_stays_seated_while_its_new_token_cannot_be_checked",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            sql.run(SLOW);
            let mut ears = place.ears(V2);
            let topic = "realtime:room";
            ears.subscribe(topic, &[super::filtered("slow=eq.x")], &user("u1"));
            sql.run("update public.slowly set is_slow = true");
            // Of another role: that of the same one was checked a moment ago.
            ears.push(topic, "access_token", &json!({"access_token": service()}));
            ears.not_subscribed(topic, "{:error, \"Too many database timeouts\"}");
            sql.run("insert into public.t values (1, 'a', 'v', 'x')");
            assert_eq!(ears.change(topic).data["record"]["id"], 1);
            sql.run("update public.slowly set is_slow = false");
            ears.subscribed(topic);
            sql.run("insert into public.t values (2, 'a', 'v', 'x')");
            assert_eq!(ears.change(topic).data["record"]["id"], 2);
        },
    },
    Case {
        name: "others_join_and_are_told_changes_while_filters_are_slow_to_check",
        settings: none,
        limits: none,
        run: |place| {
            let sql = prepared(place, TABLE);
            sql.run(SLOW);
            let mut ears = place.ears(V2);
            ears.subscribe("realtime:before", &[entry()], &anon());
            sql.run("update public.slowly set is_slow = true");
            let start = clock::now();
            for n in 0..3 {
                let filter = super::filtered(&format!("slow=eq.{n}"));
                ears.join(
                    &format!("realtime:slow {n}"),
                    &[filter],
                    &anon(),
                    &json!({}),
                );
            }
            ears.subscribe("realtime:after", &[super::filtered("id=eq.1")], &anon());
            sql.run("insert into public.t values (1, 'a', 'v', 'x')");
            for topic in ["realtime:before", "realtime:after"] {
                assert_eq!(ears.change(topic).data["record"]["id"], 1);
            }
            // Behind each other they would take 5 s each.
            let after = start.elapsed();
            assert!(after < Duration::from_secs(12), "after {after:?}");
            for n in 0..3 {
                let text = "{:error, \"Too many database timeouts\"}";
                ears.not_subscribed(&format!("realtime:slow {n}"), text);
            }
        },
    },
];

/// What is read by whoever asks for everything about a table of `public` that is not published.
fn not_enabled(table: &str) -> String {
    format!(
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given \
         connect parameters: [event: *, schema: public, table: {table}, filters: [], select: nil]"
    )
}

/// A column of `public.t` whose values take very long to cast for whoever checks filters, as long as `is_slow`. What is not logged
/// is not published.
const SLOW: &str = "
    create unlogged table public.slowly (is_slow boolean);
    insert into public.slowly values (false);
    create function public.is_fine(text) returns boolean language plpgsql as $$ begin
      if current_setting('application_name') = 'realtime_subscription_manager_pub'
        and (select is_slow from public.slowly) then perform pg_sleep(60); end if;
      return true;
    end $$;
    create domain public.slow as text check (public.is_fine(value));
    alter table public.t add column slow public.slow;";

//! The ways to read changes: a stream or polls, of a slot that stays or one that does not.

use serde_json::{Value, json};

use super::super::ears::Ears;
use super::super::sql::Sql;
use super::super::world::{PROBE, Place};
use super::{Case, OWN_ROWS, ROOM, anon, entry, in_room, none, prepared, user, values_of};
use crate::cases::V2;

pub const CASES: &[Case] = &[
    Case {
        name: "changes_are_read_from_a_slot_of_our_own_name_that_stays",
        settings: none,
        limits: none,
        run: |place| {
            let (_ears, sql) = delivers(place);
            assert_eq!(
                slots(&sql),
                "1 pgoutput f supabase_realtime_replication_slot",
                "persistent"
            );
        },
    },
    Case {
        name: "a_temporary_slot_serves_who_wants_one",
        settings: || json!({"temporary_slot": true}),
        limits: none,
        run: |place| {
            let (_ears, sql) = delivers(place);
            assert_eq!(
                slots(&sql),
                "1 pgoutput t supabase_realtime_replication_slot",
                "temporary"
            );
        },
    },
    Case {
        name: "a_slot_is_named_as_the_settings_say",
        settings: || json!({"slot_name": "my_slot"}),
        limits: none,
        run: |place| {
            let (_ears, sql) = delivers(place);
            assert_eq!(slots(&sql), "1 pgoutput f my_slot", "its own name");
        },
    },
    Case {
        name: "changes_can_be_polled",
        settings: || json!({"cdc_engine": "poll", "poll_interval_ms": 50, "poll_max_changes": 10}),
        limits: none,
        run: |place| {
            let (mut ears, sql) = delivers(place);
            let senders = "select count(*) from pg_stat_replication r join pg_stat_activity a using (pid)
                           where a.datname = current_database() and r.application_name like 'realtime_rls%'";
            assert_eq!(sql.value(senders), "0", "nothing is streamed");
            // Transactions are whole, however small a poll is.
            sql.run("insert into public.t select i, 'u1', 'x' from generate_series(1000, 1149) i");
            sql.run(PROBE);
            let ids: Vec<Value> = (1000..1150).map(Value::from).collect();
            assert_eq!(values_of(&ears.changes("realtime:mine"), "id"), ids);
        },
    },
    Case {
        name: "what_changes_cost_is_measured",
        settings: none,
        limits: none,
        run: |place| {
            let (_ears, _sql) = delivers(place);
            let context = place.context();
            // Three inserts, three updates, a delete and two probes. One row is nobody's who listens.
            for (name, value) in [
                ("realtime_postgres_changes_seen_total", "9"),
                ("realtime_postgres_changes_delivered_total", "7"),
                ("realtime_subscriptions_manager_subscribers", "4"),
                ("realtime_postgres_changes_slots_total", "1"),
                ("realtime_postgres_changes_streams_total", "1"),
                ("realtime_postgres_changes_gaps_total", "0"),
            ] {
                assert_eq!(context.metric(name).as_deref(), Some(value), "{name}");
            }
            for name in [
                "realtime_channel_db_events",
                "realtime_postgres_changes_batches_total",
                "realtime_postgres_changes_deciding_seconds_total",
                "realtime_postgres_changes_rls_checks_total",
                "realtime_postgres_changes_rls_keys_total",
                "realtime_postgres_changes_rls_seconds_total",
                "realtime_postgres_changes_rls_connections_total",
                "realtime_postgres_changes_stream_messages_total",
                "realtime_postgres_changes_stream_bytes_total",
            ] {
                let value = context.metric(name).expect("it is measured");
                assert!(
                    value.parse::<f64>().expect("a number") > 0.0,
                    "{name} {value}"
                );
            }
        },
    },
    Case {
        name: "a_publication_of_another_name_is_read",
        settings: || json!({"publication": "my publication"}),
        limits: none,
        run: |place| {
            let (sql, mut ears, _) = in_room(
                place,
                "create table public.t (id int primary key);
                 create table public.u (id int primary key);
                 grant select on public.t, public.u to anon;
                 create publication supabase_realtime for all tables;
                 create publication \"my publication\" for table public.t, probe.mark",
                &[json!({"event": "*", "schema": "*"})],
            );
            sql.run("insert into public.u values (1)");
            sql.run("insert into public.t values (2)");
            sql.run(PROBE);
            assert_eq!(values_of(&ears.changes(ROOM), "id"), [json!(2)]);
        },
    },
];

/// Inserts, updates and deletes arrive in order, with and without policies asked.
fn delivers(place: &Place<'_>) -> (Ears, Sql) {
    let sql = prepared(place, OWN_ROWS);
    let mut ears = place.ears(V2);
    ears.subscribe("realtime:mine", &[entry()], &user("u1"));
    ears.subscribe("realtime:anon", &[entry()], &anon());
    sql.run("begin; insert into public.t values (1, 'u1', 'x'), (2, 'u2', 'x'), (3, 'u1', 'x'); update public.t set v = 'y'; commit");
    sql.run(PROBE);
    let changes = ears.changes("realtime:mine");
    assert_eq!(values_of(&changes, "id"), [1, 3, 1, 3].map(Value::from));
    assert_eq!(
        values_of(&changes, "v"),
        ["x", "x", "y", "y"].map(Value::from)
    );
    sql.run("delete from public.t where id = 2");
    sql.run(PROBE);
    for topic in ["realtime:mine", "realtime:anon"] {
        let mut changes = ears.changes(topic);
        if topic == "realtime:anon" {
            // The first probe, before which nothing came.
            assert!(changes.is_empty(), "{changes:?}");
            changes = ears.changes(topic);
        }
        assert_eq!(changes.len(), 1, "{topic}");
        assert_eq!(changes[0].data["old_record"], json!({"id": 2}), "{topic}");
    }
    (ears, sql)
}

/// How many slots this database has for changes, their plugin, whether they are temporary, and the name without our tag.
fn slots(sql: &Sql) -> String {
    sql.value(
        "select format('%s %s %s %s', count(*), min(plugin), bool_or(temporary), min(substring(slot_name from '^(.*)_[^_]+$')))
         from pg_replication_slots where database = current_database() and slot_name !~ 'messages'",
    )
}

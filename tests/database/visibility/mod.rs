//! Rows under policies, asked of a real database, beside what a SELECT with the same role and claims finds.

pub mod slow;

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use realtime::control::changes::catalog::TableNow;
use realtime::control::changes::visibility::{Check, Checkers, Key, Verdict, time_max};
use realtime::control::clock;
use realtime::limits;
use serde_json::json;
use tokio_postgres::Client;

use crate::catalog::{look, oid};
use crate::postgres::{ADMIN, Cluster, Database, Kind};
use crate::world::until;

tests![
    rows_are_seen_as_a_select_sees_them,
    keys_of_many_types_are_found,
    claims_do_not_mix,
    many_claims_and_keys_are_cut_into_queries,
    claims_on_which_a_policy_raises_are_lost_alone,
    a_row_on_which_a_policy_raises_is_lost_alone,
    a_killed_connection_is_asked_again,
    a_database_that_is_away_is_waited_for,
    what_changed_since_the_look_harms_nobody_else,
    roles_that_may_not_be_taken_on_see_nothing,
    schemas_that_may_not_be_used_lose_their_role_only,
    plans_use_the_index_of_the_key,
    what_is_prepared_is_bounded_and_survives_changes,
];

/// A database with checkers.
struct World {
    database: Database,
    admin: Client,
    checkers: Checkers,
}

impl World {
    async fn new(cluster: &Arc<Cluster>, connections_max: usize, sql: &str) -> Self {
        let database = cluster.database(Kind::Supabase);
        database.sql(sql);
        let admin = database.client(ADMIN).await;
        let checkers = Checkers::new(Rc::new(database.settings()), connections_max, Rc::default());
        Self {
            database,
            admin,
            checkers,
        }
    }

    async fn table(&self, name: &str) -> Rc<TableNow> {
        look(&self.admin, oid(&self.database, name), &[]).await
    }

    async fn visible(&self, checks: Vec<Check>) -> Vec<Vec<Verdict>> {
        visible(&self.checkers, checks).await
    }

    /// How the checks of one user of a table end, a letter for each key.
    async fn ask(&self, table: &Rc<TableNow>, user: &str, keys: &[Key]) -> String {
        let check = check(table, "authenticated", user, keys);
        letters(&self.visible(vec![check]).await[0])
    }

    /// The policy of [`WAITING`] waits from now on.
    async fn lock(&self) {
        let lock = "select pg_advisory_lock(hashtext(current_database()))";
        self.admin.execute(lock, &[]).await.expect("it is free");
    }

    async fn unlock(&self) {
        let unlock = "select pg_advisory_unlock(hashtext(current_database()))";
        self.admin.execute(unlock, &[]).await.expect("it is held");
    }

    /// Waits until it does.
    async fn check_waits(&self) {
        until("a check waits for the lock", async || {
            self.backends("and wait_event = 'advisory'") == "1"
        })
        .await;
    }

    /// Processes of the checkers.
    fn backends(&self, and: &str) -> String {
        self.database.sql(&format!(
            "select count(*) from pg_stat_activity where application_name = 'realtime_rls' and datname = current_database() {and}"
        ))
    }
}

/// Verdicts, within the time that so many checks may take.
async fn visible(checkers: &Checkers, checks: Vec<Check>) -> Vec<Vec<Verdict>> {
    let keys = checks.iter().map(|check| check.keys.len()).sum();
    let deadline = clock::now() + time_max(checks.len(), keys);
    checkers.visible_until(checks, deadline).await
}

fn letters(verdicts: &[Verdict]) -> String {
    let letter = |verdict: &Verdict| match verdict {
        Verdict::Yes => 'y',
        Verdict::No => 'n',
        Verdict::Lost(_) => '-',
        Verdict::Unanswered(_) => '?',
    };
    verdicts.iter().map(letter).collect()
}

fn all_letters(verdicts: &[Vec<Verdict>]) -> Vec<String> {
    verdicts.iter().map(|verdicts| letters(verdicts)).collect()
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Lost(reason) | Verdict::Unanswered(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn user(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

fn check(table: &Rc<TableNow>, role: &str, user: &str, keys: &[Key]) -> Check {
    let claims = json!({"role": role, "sub": user, "name": "O'Brien \\ \"x\"", "n": 1});
    Check {
        table: Rc::clone(table),
        role: role.into(),
        claims: claims.to_string().into(),
        keys: keys.into(),
    }
}

fn keys<T: ToString>(list: impl IntoIterator<Item = T>) -> Vec<Key> {
    let key = |text: T| -> Key { [text.to_string().into()].into() };
    list.into_iter().map(key).collect()
}

/// A table whose rows 1 to 20 belong to the users 1 and 2 by turns.
const ORDERS: &str = "create table orders (id int primary key, owner uuid, body text);
    insert into orders select i, ('00000000-0000-0000-0000-' || lpad((2 - i % 2)::text, 12, '0'))::uuid, 'b' || i from generate_series(1, 20) i;
    alter table orders enable row level security; create policy own on orders for select using (owner = auth.uid());";

async fn rows_are_seen_as_a_select_sees_them(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 2, &format!(
        r#"{ORDERS}
        create schema "S.s"; grant usage on schema "S.s" to public;
        create table "S.s"."T ""t""" ("Id x" int, "o'k" text, owner uuid, hidden bool default false, primary key ("o'k", "Id x"));
        insert into "S.s"."T ""t""" select i, E'k\\"' || i % 3, ('00000000-0000-0000-0000-' || lpad((i % 3)::text, 12, '0'))::uuid, i % 5 = 0 from generate_series(1, 30) i;
        alter table "S.s"."T ""t""" enable row level security; grant select on "S.s"."T ""t""" to public;
        create policy a on "S.s"."T ""t""" for select to authenticated using (owner = (select auth.uid()));
        create policy b on "S.s"."T ""t""" to anon using ("Id x" < 10);
        create policy c on "S.s"."T ""t""" as restrictive for select using (not hidden);
        create policy d on "S.s"."T ""t""" for insert with check (true); create policy e on "S.s"."T ""t""" for update using (true)"#
    )).await;
    let odd = world.table(r#""S.s"."T ""t""""#).await;
    let odd_keys: Vec<Key> = (0..35)
        .map(|i| -> Key { [format!("k\\\"{}", i % 3).into(), i.to_string().into()].into() })
        .collect();
    let orders = world.table("orders").await;
    let order_keys = keys(0..25);
    let mut seen_count = 0;
    for role in ["authenticated", "anon", "service_role"] {
        for number in 0..4 {
            let user = user(number);
            let checks = vec![
                check(&odd, role, &user, &odd_keys),
                check(&orders, role, &user, &order_keys),
            ];
            let claims = checks[0].claims.replace('\'', "''");
            let select = |text: &str| {
                world.database.sql(&format!(
                    "begin; set local role {role}; set local request.jwt.claims = '{claims}'; {text}; rollback"
                ))
            };
            let expected_odd = select(
                r#"select coalesce(string_agg(case when t.owner is null then 'n' else 'y' end, '' order by i), '')
                from generate_series(0, 34) i left join "S.s"."T ""t""" t on "Id x" = i and "o'k" = E'k\\"' || i % 3"#,
            );
            let expected = select(
                "select string_agg(case when t.id is null then 'n' else 'y' end, '' order by i) from generate_series(0, 24) i left join orders t on t.id = i",
            );
            let verdicts = world.visible(checks).await;
            assert_eq!(letters(&verdicts[0]), expected_odd, "{role} {user}");
            assert_eq!(letters(&verdicts[1]), expected, "{role} {user}");
            seen_count += verdicts
                .iter()
                .flatten()
                .filter(|verdict| **verdict == Verdict::Yes)
                .count();
        }
    }
    assert!(seen_count > 200, "{seen_count}");
}

async fn keys_of_many_types_are_found(cluster: Arc<Cluster>) {
    let world = World::new(
        &cluster,
        2,
        r#"create type mood as enum ('sad', 'it''s "ok"'); create domain positive as int check (value > 0);
        create extension citext schema extensions;
        create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"#,
    )
    .await;
    // Type, a value that is there as the stream prints it, one that is not.
    let types = [
        ("int2", "7", "8"),
        ("int8", "9223372036854775807", "1"),
        (
            "uuid",
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000002",
        ),
        ("text", "a{b},\"c\\d' é", "a"),
        ("varchar(5)", "abcde", "abcd"),
        ("char(5)", "ab   ", "abc  "),
        ("bytea", "\\x00ff5c", "\\x00"),
        ("bit(3)", "101", "100"),
        ("varbit", "1010", "101"),
        ("boolean", "t", "f"),
        ("numeric(6,2)", "1.50", "1.51"),
        ("float8", "0.1", "0.2"),
        (
            "timestamptz",
            "2024-02-29 10:34:56.1+00",
            "2024-02-29 10:34:56+00",
        ),
        ("timestamp", "infinity", "-infinity"),
        ("date", "0044-03-15 BC", "2024-01-01"),
        ("interval", "1 year 2 mons 3 days 04:05:06.7", "1 year"),
        ("inet", "10.0.0.1/8", "10.0.0.1"),
        ("mood", "it's \"ok\"", "sad"),
        ("positive", "5", "6"),
        ("int4[]", "{1,2,NULL}", "{1}"),
        ("text[]", "{a,\"b c\",\"\\\"\"}", "{}"),
        ("int4range", "[1,5)", "[1,6)"),
        ("jsonb", "{\"a\": 1}", "{\"a\": 2}"),
        ("\"char\"", "x", "y"),
        ("name", "n", "m"),
        ("oid", "4000000000", "1"),
        ("extensions.citext", "AbC", "x"),
        ("text collate loose", "é", "e"),
        ("text collate \"C\"", "a", "A"),
        ("time", "24:00:00", "23:00:00"),
        ("money", "$1.50", "$2.50"),
    ];
    let mut sql = String::new();
    for (number, (type_sql, there, _)) in types.iter().enumerate() {
        let value = there.replace('\'', "''");
        let _ = write!(
            sql,
            "create table t{number} (id {type_sql} primary key, x int); insert into t{number} values ('{value}', 0);
             alter table t{number} enable row level security; create policy p on t{number} using (x = 0 and auth.uid() is not null);"
        );
    }
    world.database.sql(&sql);
    let mut checks = Vec::new();
    for (number, (_, there, absent)) in types.iter().enumerate() {
        let table = world.table(&format!("t{number}")).await;
        checks.push(check(
            &table,
            "authenticated",
            &user(1),
            &keys([there, absent]),
        ));
    }
    let verdicts = world.visible(checks).await;
    for ((type_sql, ..), verdicts) in types.iter().zip(verdicts) {
        assert_eq!(letters(&verdicts), "yn", "{type_sql} {verdicts:?}");
    }
}

async fn claims_do_not_mix(cluster: Arc<Cluster>) {
    // This policy leaves behind what it can, as its user, with a setting that outlives the query.
    let world = World::new(&cluster, 1, &format!(
        "{ORDERS} create table log (who text); grant all on log to authenticated;
         create function leaves() returns bool language plpgsql as $$ begin
           insert into log values (auth.uid());
           perform set_config('request.jwt.claim.sub', auth.uid()::text, false), set_config('role', 'service_role', true), set_config('realtime.check_keys_0', '{{1}}', true);
           return true; end $$;
         create policy leaving on orders as restrictive using (leaves())"
    )).await;
    let table = world.table("orders").await;
    let all = keys(1..=20);
    let checks: Vec<Check> = (0..40)
        .map(|number| check(&table, "authenticated", &user(number % 4), &all))
        .collect();
    for (number, verdicts) in world.visible(checks).await.iter().enumerate() {
        let expected = match number % 4 {
            1 => "yn".repeat(10),
            2 => "ny".repeat(10),
            _ => "n".repeat(20),
        };
        assert_eq!(letters(verdicts), expected, "{number}");
    }
    assert_eq!(world.database.sql("select count(*) from log"), "0");
    assert_eq!(world.checkers.measures().connections.get(), 1);
}

async fn many_claims_and_keys_are_cut_into_queries(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 3, &format!(
        "{ORDERS} insert into orders select i, ('00000000-0000-0000-0000-' || lpad((i % 100)::text, 12, '0'))::uuid from generate_series(21, 2000) i"
    )).await;
    let table = world.table("orders").await;
    let (all, few) = (keys(1..=700), keys([100, 101, 102]));
    let mut checks: Vec<Check> = (0..100)
        .map(|number| check(&table, "authenticated", &user(number), &all))
        .collect();
    // Claims of one role may ask for keys of their own.
    checks.extend(
        (0..100).map(|number| check(&table, "authenticated", &user(number), &few[number % 3..])),
    );
    checks.push(check(&table, "authenticated", &user(3), &[]));
    let verdicts = world.visible(checks).await;
    for number in 3..100 {
        let is_own = |key: usize| key > 20 && key % 100 == number;
        let expected: String = (1..=700)
            .map(|key| if is_own(key) { 'y' } else { 'n' })
            .collect();
        assert_eq!(letters(&verdicts[number]), expected, "{number}");
        let expected: String = [100, 101, 102][number % 3..]
            .iter()
            .map(|key| if is_own(*key) { 'y' } else { 'n' })
            .collect();
        assert_eq!(letters(&verdicts[100 + number]), expected, "{number}");
    }
    assert!(verdicts[200].is_empty());
    let measures = world.checkers.measures();
    assert_eq!(measures.calls.get(), 1);
    assert_eq!(measures.connections.get(), 3, "{measures:?}");
    assert!(measures.prepared.get() <= 3, "{measures:?}");
    assert_eq!(measures.bisections.get(), 0);
}

async fn claims_on_which_a_policy_raises_are_lost_alone(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, ORDERS).await;
    let table = world.table("orders").await;
    let mut checks: Vec<Check> = (0..5)
        .map(|number| check(&table, "authenticated", &user(number), &keys(1..=4)))
        .collect();
    // The first ones spoil the planning as well.
    checks.insert(0, check(&table, "authenticated", "no uuid", &keys(1..=4)));
    checks.insert(3, check(&table, "authenticated", "nor this", &keys(1..=4)));
    for _ in 0..3 {
        let verdicts = world.visible(checks.clone()).await;
        let seen = all_letters(&verdicts);
        assert_eq!(
            seen,
            ["----", "nnnn", "ynyn", "----", "nyny", "nnnn", "nnnn"]
        );
        assert_eq!(
            reason(&verdicts[0][0]),
            "ERROR 22P02: invalid input syntax for type uuid: \"no uuid\""
        );
    }
    assert_eq!(world.checkers.measures().connections.get(), 1);
}

async fn a_row_on_which_a_policy_raises_is_lost_alone(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 2, &format!(
        "{ORDERS} create policy poison on orders as restrictive using (1 / (id - 7) is not null and 1 / (id - 13) is not null)"
    )).await;
    let table = world.table("orders").await;
    let checks: Vec<Check> = (0..30)
        .map(|number| check(&table, "authenticated", &user(number), &keys(1..=20)))
        .collect();
    let verdicts = world.visible(checks).await;
    // The policy raises for whoever asks: of a row that nobody is shown PostgreSQL need not evaluate all of it.
    assert_eq!(letters(&verdicts[1]), "ynynyn-nynyn-nynynyn");
    for (number, verdicts) in verdicts.iter().enumerate() {
        assert!(letters(verdicts).matches('-').count() <= 2, "{number}");
        for verdict in verdicts
            .iter()
            .filter(|verdict| matches!(verdict, Verdict::Lost(_)))
        {
            assert_eq!(reason(verdict), "ERROR 22012: division by zero");
        }
    }
    let bisections = world.checkers.measures().bisections.get();
    assert!((2..=40).contains(&bisections), "{bisections}");
    // A row that is poison for all does not end in one query for each row.
    world
        .database
        .sql("create policy worse on orders as restrictive using (1 / (id - id) is not null)");
    let many = keys(1..=200);
    let before = world.checkers.measures().transactions.get();
    let all = world.ask(&table, &user(1), &many).await;
    assert!(all.starts_with("-n-n") || all.starts_with("----"), "{all}");
    assert!(!all.contains('y'));
    assert!(
        world.checkers.measures().transactions.get() - before
            <= 1 + u64::from(limits::VISIBILITY_BISECTIONS_MAX)
    );
}

/// A policy that waits for a lock which the test holds, for the user 1.
const WAITING: &str = "create function waits() returns bool language plpgsql volatile as $$ begin
      if auth.uid()::text like '%1' then perform pg_advisory_xact_lock(hashtext(current_database())); end if; return true; end $$;
    create policy waiting on orders as restrictive using (waits());";

async fn a_killed_connection_is_asked_again(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, &format!("{ORDERS} {WAITING}")).await;
    let table = world.table("orders").await;
    let kill = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where application_name = 'realtime_rls' and datname = current_database()";
    world.lock().await;
    let checks: Vec<Check> = (0..4)
        .map(|number| check(&table, "authenticated", &user(number), &keys(1..=4)))
        .collect();
    let call = world.visible(checks);
    let killer = async {
        world.check_waits().await;
        assert_eq!(world.database.sql(kill), "1");
        world.unlock().await;
    };
    let (verdicts, ()) = tokio::join!(call, killer);
    let seen = all_letters(&verdicts);
    assert_eq!(seen, ["nnnn", "ynyn", "nyny", "nnnn"]);
    // One that was killed while nobody used it is nobody's loss.
    assert_eq!(world.database.sql(kill), "1");
    assert_eq!(world.ask(&table, &user(2), &keys(1..=4)).await, "nyny");
    assert_eq!(world.checkers.measures().connections.get(), 3);
    // A policy that kills its connection is not asked forever.
    world.database.sql(
        "create function kills() returns bool security definer language sql as 'select pg_terminate_backend(pg_backend_pid())';
         create policy kills on orders as restrictive using (kills())",
    );
    assert_eq!(world.ask(&table, &user(2), &keys(1..=4)).await, "????");
    assert_eq!(world.checkers.measures().connections.get(), 4);
    world.database.sql("drop policy kills on orders");
    assert_eq!(world.ask(&table, &user(2), &keys(1..=4)).await, "nyny");
}

async fn a_database_that_is_away_is_waited_for(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start());
    let world = World::new(&cluster, 2, ORDERS).await;
    let table = world.table("orders").await;
    assert_eq!(world.ask(&table, &user(2), &keys([2])).await, "y");
    // The cluster does not wait for its log, and is not stopped gently: what is there has to survive.
    world
        .database
        .sql("set synchronous_commit = on; create table flushed ()");
    // The power cut takes along what is not written yet.
    world.database.sql("checkpoint");
    cluster.stop();
    let checks = vec![check(&table, "authenticated", &user(2), &keys([2]))];
    let deadline = clock::now() + Duration::from_millis(700);
    let verdicts = world.checkers.visible_until(checks.clone(), deadline).await;
    // The connection had not noticed yet, or could not be opened again.
    assert_eq!(letters(&verdicts[0]), "?", "{verdicts:?}");
    let verdicts = world
        .checkers
        .visible_until(checks.clone(), clock::now())
        .await;
    assert_eq!(letters(&verdicts[0]), "?");
    assert!(
        reason(&verdicts[0][0]).contains("nobody answers"),
        "{verdicts:?}"
    );
    // Nobody waits for all of the time that policies have.
    let began = clock::now();
    let verdicts = world.visible(checks.clone()).await;
    assert_eq!(letters(&verdicts[0]), "?");
    assert!(clock::now() < began + limits::VISIBILITY_TIMEOUT / 2);
    cluster.start_again();
    until("it is asked again", async || {
        letters(&world.visible(checks.clone()).await[0]) == "y"
    })
    .await;
}

async fn what_changed_since_the_look_harms_nobody_else(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 2, &format!("{ORDERS} create table other (id int, b int default 0, primary key (id, b)); insert into other select 1; alter table other enable row level security; create policy p on other using (true)")).await;
    let (orders, other) = (world.table("orders").await, world.table("other").await);
    let both = [["1".into(), "0".into()].into()];
    let ask = async || {
        let checks = vec![
            check(&other, "authenticated", &user(2), &both),
            check(&orders, "authenticated", &user(2), &keys([2])),
        ];
        let verdicts = world.visible(checks).await;
        assert_eq!(letters(&verdicts[1]), "y");
        verdicts[0][0].clone()
    };
    assert_eq!(ask().await, Verdict::Yes);
    world.database.sql(
        "alter table other add column c int, drop constraint other_pkey, alter column id type text",
    );
    assert!(reason(&ask().await).contains("operator does not exist"));
    world
        .database
        .sql("alter table other alter column id type int using id::int");
    assert_eq!(ask().await, Verdict::Yes);
    world.database.sql("alter table other drop column b");
    assert!(reason(&ask().await).contains("42703"));
    world.database.sql("drop table other");
    assert!(reason(&ask().await).contains("42P01"));
    world
        .database
        .sql("revoke select on orders from authenticated");
    assert_eq!(world.ask(&orders, &user(2), &keys([2])).await, "-");
    world
        .database
        .sql("grant select (id, owner) on orders to authenticated");
    assert_eq!(world.ask(&orders, &user(2), &keys([2])).await, "y");
    world.database.sql("drop policy own on orders");
    assert_eq!(world.ask(&orders, &user(2), &keys([2])).await, "n");
    world
        .database
        .sql("alter table orders disable row level security");
    assert_eq!(world.ask(&orders, &user(2), &keys([2, 99])).await, "yn");
    world.database.sql("alter table orders add primary_key int");
    let wrong = Check {
        keys: both.into(),
        ..check(&orders, "authenticated", &user(2), &[])
    };
    assert_eq!(
        reason(&world.visible(vec![wrong]).await[0][0]),
        "the primary key has other columns by now"
    );
}

async fn roles_that_may_not_be_taken_on_see_nothing(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 2, &format!(
        "{ORDERS} create role vis_super superuser; create role vis_gone in role authenticated; create role vis_modest login password 'postgres'; grant authenticated to vis_modest;
         grant select on orders to public; create policy every on orders using (true)"
    )).await;
    let table = world.table("orders").await;
    let one = keys([1]);
    let ask = async |checkers: &Checkers, role: &str| {
        let checks = vec![
            check(&table, role, &user(1), &one),
            check(&table, "authenticated", &user(1), &one),
        ];
        let verdicts = visible(checkers, checks).await;
        assert_eq!(letters(&verdicts[1]), "y", "{role}");
        verdicts[0][0].clone()
    };
    let may_not = |role: &str| format!("the role {role:?} may not be taken on");
    for role in [ADMIN, "vis_super"] {
        assert_eq!(reason(&ask(&world.checkers, role).await), may_not(role));
    }
    for role in ["", "none", "a\0b"] {
        assert_eq!(
            reason(&ask(&world.checkers, role).await),
            "the role may not be taken on"
        );
    }
    for role in ["None", "nobody", "o'\\dd", "public"] {
        let verdict = ask(&world.checkers, role).await;
        assert!(reason(&verdict).contains("does not exist"), "{verdict:?}");
    }
    assert_eq!(ask(&world.checkers, "vis_gone").await, Verdict::Yes);
    world.database.sql("drop role vis_gone");
    assert!(reason(&ask(&world.checkers, "vis_gone").await).contains("does not exist"));
    let settings = world
        .database
        .settings_with(&json!({"db_user": "vis_modest"}));
    let modest = Checkers::new(Rc::new(settings), 1, Rc::default());
    assert_eq!(
        reason(&ask(&modest, "vis_modest").await),
        may_not("vis_modest")
    );
    assert!(reason(&ask(&modest, "anon").await).contains("permission denied to set role"));
    drop(modest);
    until("it has disconnected", async || {
        world.backends("and usename = 'vis_modest'") == "0"
    })
    .await;
    world.database.sql("drop role vis_modest, vis_super");
}

async fn schemas_that_may_not_be_used_lose_their_role_only(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, "create schema s; create table s.t (id int primary key); insert into s.t values (1); grant select on s.t to anon, authenticated; \
        grant usage on schema s to anon; alter table s.t enable row level security; create policy p on s.t using (true)").await;
    let table = world.table("s.t").await;
    let ask = async || {
        let checks =
            ["authenticated", "anon"].map(|role| check(&table, role, &user(1), &keys([1])));
        let verdicts = world.visible(checks.into()).await;
        verdicts
            .into_iter()
            .map(|mut verdicts| verdicts.remove(0))
            .collect::<Vec<_>>()
    };
    let verdicts = ask().await;
    assert!(reason(&verdicts[0]).contains("42501: permission denied for schema s"));
    assert_eq!(verdicts[1], Verdict::Yes);
    world
        .database
        .sql("grant usage on schema s to authenticated");
    assert_eq!(ask().await, [Verdict::Yes, Verdict::Yes]);
    assert_eq!(world.checkers.measures().bisections.get(), 0);
}

async fn plans_use_the_index_of_the_key(cluster: Arc<Cluster>) {
    // A policy that counts the rows it is asked about, in a sequence, which no rollback undoes.
    let world = World::new(
        &cluster,
        1,
        "create sequence asked; grant usage on asked to public;
         create function counts() returns bool language sql volatile as $$ select nextval('asked') > 0 $$",
    )
    .await;
    let mut sql = String::new();
    let shapes = [
        ("a", "id int primary key", "i"),
        ("b", "id uuid primary key", "lpad(i::text, 32, '0')::uuid"),
        ("c", "id text primary key", "i::text"),
        (
            "d",
            "id timestamptz primary key",
            "'2024-01-01 00:00:00+00'::timestamptz + i * interval '1 s'",
        ),
        ("e", "id numeric primary key", "i"),
        (
            "f",
            "id bytea primary key",
            "decode(lpad(i::text, 8, '0'), 'hex')",
        ),
    ];
    for (name, column, value) in shapes {
        let _ = write!(sql, "create table {name} ({column}); insert into {name} select {value} from generate_series(1, 100) i;
            alter table {name} enable row level security; create policy p on {name} using (counts()); analyze {name};");
    }
    sql.push_str("create table g (n numeric, id int, primary key (n, id)); insert into g select i, i from generate_series(1, 100) i; alter table g enable row level security; create policy p on g using (counts());");
    world.database.sql(&sql);
    let asked = async |name: &str, keys: &[Key]| {
        let table = world.table(name).await;
        world.database.sql("select setval('asked', 1, false)");
        assert_eq!(world.ask(&table, &user(1), keys).await, "yy", "{name}");
        world
            .database
            .sql("select case when is_called then last_value else 0 end from asked")
    };
    assert_eq!(asked("a", &keys([1, 50])).await, "2");
    assert_eq!(
        asked(
            "b",
            &keys([
                "00000000000000000000000000000001",
                "00000000000000000000000000000050"
            ])
        )
        .await,
        "2"
    );
    assert_eq!(asked("c", &keys([1, 50])).await, "2");
    assert_eq!(
        asked(
            "d",
            &keys(["2024-01-01 00:00:01+00", "2024-01-01 00:00:50+00"])
        )
        .await,
        "2"
    );
    assert_eq!(asked("f", &keys(["\\x00000001", "\\x00000050"])).await, "2");
    // Equality of numeric is not leakproof: policies come first, once for each row, not for each row and key.
    assert_eq!(asked("e", &keys([1, 50])).await, "100");
    // The index is used for what is leakproof of a key.
    assert_eq!(
        asked(
            "g",
            &[
                ["1".into(), "1".into()].into(),
                ["50".into(), "50".into()].into()
            ]
        )
        .await,
        "2"
    );
}

async fn what_is_prepared_is_bounded_and_survives_changes(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, ORDERS).await;
    let orders = world.table("orders").await;
    for round in 0..3 {
        assert_eq!(world.ask(&orders, &user(1), &keys([1, 2])).await, "yn");
        assert_eq!(world.checkers.measures().prepared.get(), 1, "{round}");
        world.database.sql("analyze orders");
    }
    let mut sql = String::new();
    let count = limits::VISIBILITY_STATEMENTS_MAX + 10;
    for number in 0..count {
        let _ = write!(
            sql,
            "create table t{number} (id int primary key); insert into t{number} values ({number}); alter table t{number} enable row level security; create policy p on t{number} using (true);"
        );
    }
    world.database.sql(&sql);
    for _ in 0..2 {
        for number in 0..count {
            let table = world.table(&format!("t{number}")).await;
            assert_eq!(world.ask(&table, &user(1), &keys([number])).await, "y");
        }
        assert_eq!(world.ask(&orders, &user(1), &keys([1, 2])).await, "yn");
    }
    let prepared = world.checkers.measures().prepared.get();
    assert!(prepared > count as u64 + 1, "{prepared}");
    assert_eq!(world.checkers.measures().connections.get(), 1);
}

//! What the catalog says, beside what PostgreSQL does.

use std::rc::Rc;
use std::sync::Arc;

use realtime::control::changes::catalog::{
    Catalog, PublishedTable, RoleNow, TableNow, publication,
};
use tokio_postgres::Client;

use crate::postgres::{ADMIN, Cluster, Database, Kind};

tests![
    tables_are_described_as_they_are,
    an_answer_that_did_not_change_is_the_same,
    privileges_are_those_of_the_moment,
    policies_count_for_whom_postgresql_counts_them,
    a_key_that_may_be_broken_for_a_while_is_none,
    a_lost_connection_is_no_lasting_harm,
    publications_say_what_they_publish,
];

/// The oid of a table.
pub fn oid(database: &Database, name: &str) -> u32 {
    let text = database.sql(&format!("select '{name}'::regclass::oid"));
    text.parse().expect("it is a number")
}

/// What is true now of a table for roles.
pub async fn look(client: &Client, oid: u32, roles: &[&str]) -> Rc<TableNow> {
    let catalog = Catalog::default();
    look_by(&catalog, client, oid, roles).await
}

async fn look_by(catalog: &Catalog, client: &Client, oid: u32, roles: &[&str]) -> Rc<TableNow> {
    let roles: Vec<Rc<str>> = roles.iter().map(|role| Rc::from(*role)).collect();
    let tables = catalog.look(client, &[(oid, &roles)]).await;
    let tables = tables.expect("the catalog can be read");
    Rc::clone(tables.tables.get(&oid).expect("it is there"))
}

async fn tables_are_described_as_they_are(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        r#"create schema "Odd.one"; create type "Odd.one"."Mood" as enum ('a', 'b'); create extension citext schema extensions;
        create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        create table "Odd.one"."T ""x""" (gone int, "B b" varchar(10) not null, id int8, mood "Odd.one"."Mood"[], l text collate loose,
          c extensions.citext, n numeric(5,2), primary key (id, c, "B b") include (n));
        alter table "Odd.one"."T ""x""" drop column gone, enable row level security"#,
    );
    let client = database.client(ADMIN).await;
    let oid = oid(&database, r#""Odd.one"."T ""x""""#);
    let table = look(&client, oid, &[]).await;
    assert_eq!(
        (
            &*table.schema,
            &*table.name,
            table.is_rls_enabled,
            table.oid
        ),
        ("Odd.one", "T \"x\"", true, oid)
    );
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| {
            let (name, key) = (&*column.name, column.key_place);
            (
                name,
                column.number,
                &*column.type_name,
                key,
                column.is_deterministic,
            )
        })
        .collect();
    let expected = [
        ("B b", 2, "varchar", Some(2), true),
        ("id", 3, "int8", Some(0), true),
        ("mood", 4, "_Mood", None, true),
        ("l", 5, "text", None, false),
        ("c", 6, "citext", Some(1), true),
        ("n", 7, "numeric", None, true),
    ];
    assert_eq!(columns, expected);
    let [varchar, int8, ..] = &table.columns[..] else {
        panic!("it has columns")
    };
    assert_eq!((int8.type_oid, int8.type_modifier), (20, -1));
    assert_eq!((varchar.type_oid, varchar.type_modifier), (1043, 14));
    let key: Vec<_> = table
        .key
        .iter()
        .map(|part| {
            (
                &*part.column,
                &*part.type_sql,
                &*part.equality_sql,
                part.is_leakproof,
            )
        })
        .collect();
    let expected = [
        ("id", "pg_catalog.int8", "operator(pg_catalog.=)", true),
        ("c", "extensions.citext", "operator(extensions.=)", false),
        (
            "B b",
            "pg_catalog.\"varchar\"",
            "operator(pg_catalog.=)",
            true,
        ),
    ];
    assert_eq!(key.len(), 3);
    for (seen, expected) in key.iter().zip(expected) {
        assert_eq!(seen.1.replace('"', ""), expected.1.replace('"', ""));
        assert_eq!(
            (seen.0, seen.2, seen.3),
            (expected.0, expected.2, expected.3)
        );
    }
    database.sql(
        r#"create view v as select 1; create table no_key (); drop table "Odd.one"."T ""x""""#,
    );
    let catalog = Catalog::default();
    let [view, no_key] = ["v", "no_key"].map(|name| self::oid(&database, name));
    let tables = catalog
        .look(&client, &[(oid, &[]), (view, &[]), (no_key, &[]), (1, &[])])
        .await;
    let tables = tables.expect("the catalog can be read").tables;
    assert_eq!(tables.keys().collect::<Vec<_>>(), [&no_key]);
    assert!(tables[&no_key].columns.is_empty() && tables[&no_key].key.is_empty());
    assert!(
        catalog
            .look(&client, &[])
            .await
            .expect("nothing can be read")
            .tables
            .is_empty()
    );
}

async fn an_answer_that_did_not_change_is_the_same(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql("create table t (id int primary key)");
    let (client, catalog) = (database.client(ADMIN).await, Catalog::default());
    let oid = oid(&database, "t");
    let look = async || look_by(&catalog, &client, oid, &["anon"]).await;
    let first = look().await;
    assert!(Rc::ptr_eq(&first, &look().await));
    database.sql("alter table t enable row level security");
    let second = look().await;
    assert!(!Rc::ptr_eq(&first, &second) && second.is_rls_enabled && !first.is_rls_enabled);
    database.sql("revoke all on t from anon");
    assert!(!look().await.roles["anon"].may_select[0] && second.roles["anon"].may_select[0]);
}

async fn privileges_are_those_of_the_moment(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        "create table t (gone int, id int primary key, a text, b text); alter table t drop column gone;
         revoke all on t from anon, authenticated; grant select (id, b) on t to anon; grant select on t to authenticated",
    );
    let client = database.client(ADMIN).await;
    let (oid, roles) = (
        oid(&database, "t"),
        ["anon", "authenticated", "nobody", "o'dd"],
    );
    let may = async |role: &str| {
        look(&client, oid, &roles).await.roles[role]
            .may_select
            .clone()
    };
    assert_eq!(may("anon").await, [true, false, true]);
    assert_eq!(may("authenticated").await, [true; 3]);
    let table = look(&client, oid, &roles).await;
    for role in ["nobody", "o'dd"] {
        let role = &table.roles[role];
        assert!(!role.exists && !role.sees_all_rows && role.may_select == [false; 3]);
    }
    assert!(table.roles["anon"].exists);
    database.sql("revoke select (b) on t from anon; grant select on t to public; revoke all on t from authenticated");
    assert_eq!(may("anon").await, [true; 3]);
    database.sql("revoke select on t from public");
    assert_eq!(may("anon").await, [true, false, false]);
    assert_eq!(may("authenticated").await, [false; 3]);
}

/// Whether `role` sees a row of `t` that no policy shows, tried by being it; none where PostgreSQL refuses the SELECT.
fn tries(database: &Database, role: &str) -> Option<bool> {
    let ask = format!(
        "do $$ begin set local role {role}; perform set_config('test.seen', (select count(*) from s.t)::text, false); \
         exception when insufficient_privilege then perform set_config('test.seen', 'no', false); end $$; \
         select current_setting('test.seen')"
    );
    match database.sql(&ask).as_str() {
        "no" => None,
        count => Some(count == "1"),
    }
}

async fn a_key_that_may_be_broken_for_a_while_is_none(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql("create table t (id int primary key deferrable)");
    let client = database.client(ADMIN).await;
    let oid = oid(&database, "t");
    let table = look(&client, oid, &[]).await;
    assert!(table.key.is_empty() && table.columns[0].key_place.is_none());
    database.sql("alter table t drop constraint t_pkey, add primary key (id)");
    assert_eq!(look(&client, oid, &[]).await.key.len(), 1);
}

async fn policies_count_for_whom_postgresql_counts_them(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        "create role cat_owner; create role cat_member in role cat_owner; create role cat_apart noinherit in role cat_owner;
         create role cat_bypass bypassrls; create role cat_below in role cat_bypass; create role cat_other; create role cat_super superuser;
         create schema s; grant usage on schema s to public; create table s.t (id int primary key); insert into s.t values (1);
         grant select on s.t to public; alter table s.t owner to cat_owner",
    );
    let roles = [
        "cat_owner",
        "cat_member",
        "cat_apart",
        "cat_bypass",
        "cat_below",
        "cat_other",
        "anon",
        "service_role",
    ];
    let client = database.client(ADMIN).await;
    let oid = oid(&database, "s.t");
    let mut decided = Vec::new();
    let states = [
        "select 1",
        "alter table s.t enable row level security",
        "alter table s.t force row level security",
        "alter table s.t no force row level security; revoke usage on schema s from public; grant usage on schema s to cat_member, cat_bypass",
        "alter table s.t disable row level security; grant usage on schema s to public",
    ];
    for state in states {
        database.sql(state);
        let table = look(&client, oid, &roles).await;
        for role in roles {
            let tried = tries(&database, role).unwrap_or(false);
            assert_eq!(
                table.roles[role].sees_all_rows, tried,
                "{role} after {state}"
            );
            decided.push(tried);
        }
    }
    assert_eq!(
        decided.iter().filter(|seen| **seen).count(),
        8 + 4 + 2 + 2 + 8
    );
    // PostgreSQL would show them everything: to tokens they do not exist, whether policies count or not.
    for state in ["enable", "disable"] {
        database.sql(&format!("alter table s.t {state} row level security"));
        let table = look(&client, oid, &["cat_super", ADMIN]).await;
        assert_eq!(table.roles.len(), 2);
        for (name, role) in &table.roles {
            let nothing = RoleNow {
                may_select: vec![false],
                ..RoleNow::default()
            };
            assert_eq!(*role, nothing, "{name}, policies: {state}");
        }
    }
    // Roles belong to the cluster.
    database.sql("drop table s.t; drop schema s; drop role cat_member, cat_apart, cat_below, cat_bypass, cat_other, cat_super; drop role cat_owner");
}

async fn a_lost_connection_is_no_lasting_harm(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql("create table t (id int primary key)");
    let (catalog, oid) = (Catalog::default(), oid(&database, "t"));
    let first = database.client(ADMIN).await;
    let table = look_by(&catalog, &first, oid, &[]).await;
    database.sql("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()");
    assert!(catalog.look(&first, &[(oid, &[])]).await.is_err());
    let second = database.client(ADMIN).await;
    assert!(Rc::ptr_eq(
        &table,
        &look_by(&catalog, &second, oid, &[]).await
    ));
    second
        .batch_execute("deallocate all")
        .await
        .expect("it can");
    assert!(Rc::ptr_eq(
        &table,
        &look_by(&catalog, &second, oid, &[]).await
    ));
}

async fn publications_say_what_they_publish(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        r#"create schema "Z"; create schema b; create table "Z".t (id int primary key); create table b."A b" (id int primary key);
        create table b.aa (id int primary key); create table realtime.own (id int primary key); create table _realtime.own (id int primary key);
        create table p (id int, d int, primary key (id, d)) partition by list (d); create table p1 partition of p for values in (1);
        create publication every for all tables; create publication schemas for tables in schema b, realtime with (publish = 'insert, delete');
        create publication leaves for table p; create publication roots for table p with (publish_via_partition_root, publish = 'update');
        create publication listed for table b.aa (id) where (id > 1), realtime.own; create publication none;
        create publication dropped for table b.aa; drop publication dropped"#,
    );
    let client = database.client(ADMIN).await;
    let check = async |name: &str, acts: &str, expected: &[&str]| {
        let published = publication(&client, name).await.expect("it can be read");
        let seen: String = [
            (published.exists, 'e'),
            (published.inserts, 'i'),
            (published.updates, 'u'),
            (published.deletes, 'd'),
        ]
        .into_iter()
        .filter_map(|(is_so, letter)| is_so.then_some(letter))
        .collect();
        assert_eq!(seen, acts, "{name}");
        let in_schemas = |table: &&PublishedTable| {
            ["Z", "b", "public", "realtime", "_realtime"].contains(&&*table.schema)
        };
        let tables: Vec<_> = published.tables.iter().filter(in_schemas).collect();
        let names: Vec<_> = tables
            .iter()
            .map(|table| format!("{}.{}", table.schema, table.name))
            .collect();
        assert_eq!(names, expected, "{name}");
        for table in tables {
            assert_eq!(
                table.oid,
                oid(
                    &database,
                    &format!("\"{}\".\"{}\"", table.schema, table.name)
                )
            );
        }
    };
    check("every", "eiud", &["Z.t", "b.A b", "b.aa", "public.p1"]).await;
    check("schemas", "eid", &["b.A b", "b.aa"]).await;
    check("leaves", "eiud", &["public.p1"]).await;
    check("roots", "eu", &["public.p"]).await;
    check("listed", "eiud", &["b.aa"]).await;
    check("none", "eiud", &[]).await;
    check("dropped", "", &[]).await;
    check("No'ne", "", &[]).await;
}

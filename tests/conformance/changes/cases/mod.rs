//! Directed tests of row changes: what the protocol's checklist says and no vector shows.
//!
//! A test gets a [`Place`]: a server, a tenant and a database of its own, in which the server's schema and the probe's table
//! are, and nothing else.

use serde_json::{Value, json};

use super::ears::Ears;
use super::sql::Sql;
use super::world::Place;
use crate::cases::V2;
use crate::clock;
use crate::token;

mod engine;
mod frames;
mod life;
mod restart;
mod subscribe;
mod visibility;

/// One test.
pub struct Case {
    /// A sentence that is true when it passes.
    pub name: &'static str,
    /// Settings of its tenant's database, beyond the default ones.
    pub settings: fn() -> Value,
    /// Attributes of its tenant, beyond the default ones.
    pub limits: fn() -> Value,
    pub run: fn(&Place<'_>),
}

/// All of them; those that wait for long come first.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let rooms = [
        life::CASES,
        restart::CASES,
        engine::CASES,
        frames::CASES,
        subscribe::CASES,
        visibility::CASES,
    ];
    rooms.into_iter().flatten()
}

/// Nothing beyond the defaults.
fn none() -> Value {
    json!({})
}

/// A table that everybody may read, and a publication of everything.
const TABLE: &str = "
    create table public.t (id int primary key, owner text, v text);
    grant select on public.t to anon, authenticated, service_role;
    create publication supabase_realtime for all tables;";

/// The same with a policy: one sees one's own rows.
const OWN_ROWS: &str = "
    create table public.t (id int primary key, owner text, v text);
    grant select on public.t to anon, authenticated, service_role;
    alter table public.t enable row level security;
    create policy own on public.t for select to authenticated
      using (owner = current_setting('request.jwt.claims', true)::json ->> 'sub');
    create publication supabase_realtime for all tables;";

/// Everything about `public.t`.
fn entry() -> Value {
    json!({"event": "*", "schema": "public", "table": "t"})
}

/// The same with a filter.
fn filtered(filter: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": "t", "filter": filter})
}

fn anon() -> String {
    token::of_role("anon", 3600)
}

fn service() -> String {
    token::of_role("service_role", 3600)
}

/// A token of a user with this `sub`.
fn user(sub: &str) -> String {
    token::sign(&json!({"role": "authenticated", "sub": sub, "exp": clock::unix_s() + 3600}))
}

/// The topic of a client that joins one only.
const ROOM: &str = "realtime:room";

/// A session that has run `setup`, and a client that is subscribed to these entries on [`ROOM`] as `anon`, with their ids.
fn in_room(place: &Place<'_>, setup: &str, entries: &[Value]) -> (Sql, Ears, Vec<u64>) {
    let sql = prepared(place, setup);
    let mut ears = place.ears(V2);
    let ids = ears.subscribe(ROOM, entries, &anon());
    (sql, ears, ids)
}

/// Opens a session and runs `setup`.
fn prepared(place: &Place<'_>, setup: &str) -> Sql {
    let sql = place.sql();
    sql.run(setup);
    sql
}

/// The value of `column` in what `changes` say the rows are now.
fn values_of(changes: &[super::ears::Change], column: &str) -> Vec<Value> {
    let value = |change: &super::ears::Change| change.data["record"][column].clone();
    changes.iter().map(value).collect()
}

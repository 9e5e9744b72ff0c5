//! Engines of row changes as the hub runs them, without shards: who is told what, when an engine begins and ends, and what a batch costs.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use realtime::auth::Claims;
use realtime::control::changes::{Dropped, Hub, Measures};
use realtime::limits;
use realtime::mail::{GroupId, Listen, ListenerId, Listening};
use realtime::tenant::Tenant;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::postgres::{Cluster, Database, Kind};
use crate::world::{Letter, World, advance, until};

tests![
    whoever_listens_to_a_tenant_that_cannot_be_served_is_told_once,
    a_tenant_that_cannot_be_served_is_forgotten_with_its_last_listener,
    settings_that_were_wrong_are_used_when_they_are_right,
    a_tenant_that_is_suspended_loses_its_slot_and_gets_another_one_later,
    a_slot_that_nobody_has_needed_for_long_is_dropped,
    whoever_comes_while_an_idle_engine_ends_has_missed_nothing,
    a_batch_that_is_tried_again_is_counted_once,
    verdicts_for_many_claims_are_asked_for_in_rounds,
];

/// A tenant's database, and the hub of a server without shards.
struct Stage {
    world: World,
    hub: Hub,
    database: Database,
    tenant: Arc<Tenant>,
}

const NAME: &str = "tenant";

/// The slots of this database by which changes are read.
const SLOTS: &str = "select count(*) from pg_replication_slots where database = current_database() \
    and slot_name like 'supabase_realtime_replication_slot%'";

/// A table that everybody sees.
const TABLE: &str =
    "create table public.t (id int primary key); grant select on public.t to authenticated;
    alter publication supabase_realtime add table public.t;";

/// A table whose rows are seen when nobody holds the advisory lock of this number.
const GATE: &str = "create table public.gate (id int primary key); grant select on public.gate to authenticated;
    alter publication supabase_realtime add table public.gate; alter table public.gate enable row level security;
    create function public.passes() returns boolean language plpgsql as $$ begin
      perform pg_advisory_lock_shared(7); perform pg_advisory_unlock_shared(7); return true; end $$;
    create policy waits on public.gate using (public.passes());";

impl Stage {
    /// `attributes` are those of the tenant beside its database, of which `settings` are more.
    fn new(cluster: &Arc<Cluster>, sql: &str, attributes: &Value, settings: &Value) -> Self {
        let database = cluster.database(Kind::Supabase);
        database.sql(sql);
        let world = World::new();
        let tenant = world.tenant_of(NAME, &described(&database, attributes, settings));
        let hub = Hub::start(world.sessions.clone(), Rc::clone(&world.environment));
        Self {
            world,
            hub,
            database,
            tenant,
        }
    }

    /// The tenant has these attributes and settings from now on.
    fn change(&self, attributes: &Value, settings: &Value) {
        let described = described(&self.database, attributes, settings);
        self.world.tenant_of(NAME, &described);
    }

    /// A listener of this number asks for a table, as a user of this number.
    fn listen(&self, number: u32, table: &str) {
        let entry = json!({"event": "*", "schema": "public", "table": table}).to_string();
        let claims = json!({"role": "authenticated", "sub": number.to_string()}).to_string();
        self.hub.listen(
            0,
            Listen {
                tenant: self.tenant.id,
                listener: id(number),
                entries: [entry.into()].into(),
                claims: Arc::new(Claims {
                    json: claims.into(),
                    role: Some("authenticated".into()),
                    sub: None,
                    iss: None,
                    exp: None,
                    iat: None,
                }),
                is_refresh: false,
            },
        );
    }

    fn leave(&self, number: u32) {
        self.hub.unlisten(self.tenant.id, (0, id(number)));
    }

    /// What the shards are told next of a listener.
    async fn listening(&self) -> Listening {
        match self.world.letter().await {
            Letter::Listening(listening) => listening,
            Letter::Changes(batch) => panic!("{batch:?}"),
        }
    }

    /// Who reads something next, and what.
    async fn told(&self) -> (u32, String) {
        loop {
            let listening = self.listening().await;
            if let Some(news) = listening.news {
                return (listening.listener.index, news.message.to_string());
            }
        }
    }

    /// The next to read something are these, in whatever order, each once, and each reads this.
    async fn all_told(&self, numbers: &[u32], text: &str) {
        let mut told = Vec::new();
        for _ in numbers {
            let (number, said) = self.told().await;
            assert_eq!(said, text, "{number}");
            told.push(number);
        }
        told.sort_unstable();
        assert_eq!(told, numbers);
    }

    fn measures(&self) -> Rc<Measures> {
        let measures = self.hub.measures(self.tenant.id);
        measures.expect("somebody has listened")
    }

    /// Waits until the hub works for so many tenants.
    async fn workers(&self, count: usize) {
        let text = format!("workers: {count},");
        until(&text, async || format!("{:?}", self.hub).contains(&text)).await;
    }

    /// A session that holds the lock of [`GATE`].
    async fn closed_gate(&self) -> Client {
        let client = self.database.client(&self.database.user).await;
        run(&client, "select pg_advisory_lock(7)").await;
        client
    }

    /// Waits until so many checks wait for that lock.
    async fn check_waits(&self) {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
            and application_name = 'realtime_rls' and wait_event = 'advisory'";
        until("a check waits at the gate", async || {
            self.database.sql(waiting) == "1"
        })
        .await;
    }
}

fn described(database: &Database, attributes: &Value, settings: &Value) -> Value {
    let mut described = attributes.clone();
    described["extensions"] = database.extensions(settings);
    described["max_events_per_second"] = json!(1_000_000);
    described
}

fn id(number: u32) -> ListenerId {
    ListenerId {
        index: number,
        generation: 0,
    }
}

async fn run(client: &Client, sql: &str) {
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The ids of inserted rows, each with the groups that it is for.
async fn rows(stage: &Stage, count: usize) -> Vec<(u32, Vec<GroupId>)> {
    let mut rows = Vec::new();
    while rows.len() < count {
        let Letter::Changes(batch) = stage.world.letter().await else {
            continue;
        };
        for run in &batch.runs {
            let groups = run.audience.iter().flat_map(|one| one.groups.iter());
            let groups: Vec<GroupId> = groups.flat_map(|groups| groups.iter().copied()).collect();
            for change in &run.changes {
                let data: Value = serde_json::from_str(&change.data).expect("data is JSON");
                let id = data["record"]["id"].as_u64().expect("it has a number");
                rows.push((u32::try_from(id).expect("it is small"), groups.clone()));
            }
        }
    }
    rows
}

const SUBSCRIBED: &str = "Subscribed to PostgreSQL";

const UNABLE: &str = realtime::error::text::UNABLE_TO_CONNECT;

async fn whoever_listens_to_a_tenant_that_cannot_be_served_is_told_once(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster, TABLE, &json!({"suspend": true}), &json!({}));
    for number in 1..=3 {
        stage.listen(number, "t");
    }
    stage.all_told(&[1, 2, 3], UNABLE).await;
    stage.leave(1);
    stage.listen(4, "t");
    stage.leave(2);
    stage.listen(5, "t");
    stage.all_told(&[4], UNABLE).await;
    stage.all_told(&[5], UNABLE).await;
    // What has nothing to do with it wakes nobody.
    stage.change(
        &json!({"suspend": true, "max_channels_per_client": 7}),
        &json!({}),
    );
    stage.listen(6, "t");
    stage.all_told(&[6], UNABLE).await;
    stage.change(&json!({"suspend": false}), &json!({}));
    stage.all_told(&[3, 4, 5, 6], SUBSCRIBED).await;
    stage.listen(7, "t");
    stage.all_told(&[7], SUBSCRIBED).await;
}

async fn a_tenant_that_cannot_be_served_is_forgotten_with_its_last_listener(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster, TABLE, &json!({"suspend": true}), &json!({}));
    for number in 1..=2 {
        stage.listen(number, "t");
    }
    stage.all_told(&[1, 2], UNABLE).await;
    stage.leave(1);
    stage.listen(3, "t");
    stage.all_told(&[3], UNABLE).await;
    stage.workers(1).await;
    stage.leave(2);
    stage.leave(3);
    stage.workers(0).await;
    // The next one is told by another worker.
    stage.listen(4, "t");
    stage.all_told(&[4], UNABLE).await;
}

async fn settings_that_were_wrong_are_used_when_they_are_right(cluster: Arc<Cluster>) {
    let wrong = json!({"slot_name": "no/slot"});
    let stage = Stage::new(&cluster, TABLE, &json!({}), &wrong);
    for number in 1..=2 {
        stage.listen(number, "t");
    }
    stage.all_told(&[1, 2], UNABLE).await;
    stage.leave(1);
    stage.change(&json!({}), &json!({}));
    stage.all_told(&[2], SUBSCRIBED).await;
    assert_eq!(stage.database.sql(SLOTS), "1");
}

async fn a_tenant_that_is_suspended_loses_its_slot_and_gets_another_one_later(
    cluster: Arc<Cluster>,
) {
    let stage = Stage::new(&cluster, TABLE, &json!({}), &json!({}));
    assert!(!stage.tenant.usage.reads_changes());
    stage.listen(1, "t");
    stage.all_told(&[1], SUBSCRIBED).await;
    assert_eq!(stage.database.sql(SLOTS), "1");
    assert!(stage.tenant.usage.reads_changes());
    stage.change(&json!({"suspend": true}), &json!({}));
    stage.all_told(&[1], UNABLE).await;
    assert_eq!(stage.database.sql(SLOTS), "0");
    assert!(!stage.tenant.usage.reads_changes());
    stage.change(&json!({"suspend": false}), &json!({}));
    let text = "Changes may have been missed: the settings of the database were changed";
    stage.all_told(&[1], text).await;
    stage.all_told(&[1], SUBSCRIBED).await;
    assert_eq!(stage.database.sql(SLOTS), "1");
}

async fn a_slot_that_nobody_has_needed_for_long_is_dropped(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster, TABLE, &json!({}), &json!({}));
    let soon = limits::CHANGES_IDLE_TIMEOUT - Duration::from_secs(60);
    stage.listen(1, "t");
    stage.all_told(&[1], SUBSCRIBED).await;
    for number in 2..=3 {
        stage.leave(number - 1);
        let measures = stage.measures();
        until("nobody sits", async || measures.subscriptions.get() == 0).await;
        advance(soon).await;
        // Who comes back finds the slot that was there, and its time begins anew.
        stage.listen(number, "t");
        stage.all_told(&[number], SUBSCRIBED).await;
        assert_eq!(stage.database.sql(SLOTS), "1");
        assert_eq!(measures.source.slots.get(), 1);
    }
    stage.leave(3);
    let measures = stage.measures();
    until("nobody sits", async || measures.subscriptions.get() == 0).await;
    advance(limits::CHANGES_IDLE_TIMEOUT).await;
    stage.workers(0).await;
    assert_eq!(stage.database.sql(SLOTS), "0");
    stage.listen(4, "t");
    stage.all_told(&[4], SUBSCRIBED).await;
    assert_eq!(measures.source.slots.get(), 2);
}

async fn whoever_comes_while_an_idle_engine_ends_has_missed_nothing(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster, TABLE, &json!({}), &json!({}));
    stage.listen(1, "t");
    stage.all_told(&[1], SUBSCRIBED).await;
    stage.leave(1);
    let measures = stage.measures();
    until("nobody sits", async || measures.subscriptions.get() == 0).await;
    advance(limits::CHANGES_IDLE_TIMEOUT).await;
    // The slot is being dropped, which takes a round trip at least.
    assert!(format!("{:?}", stage.hub).contains("workers: 1,"));
    stage.listen(2, "t");
    stage.all_told(&[2], SUBSCRIBED).await;
    assert_eq!(measures.source.slots.get(), 2);
}

async fn a_batch_that_is_tried_again_is_counted_once(cluster: Arc<Cluster>) {
    let sql = "create table public.gone (id int primary key); grant select on public.gone to authenticated;
        alter publication supabase_realtime add table public.gone;";
    let stage = Stage::new(&cluster, &format!("{GATE}{sql}"), &json!({}), &json!({}));
    stage.listen(1, "gate");
    stage.listen(2, "gone");
    stage.all_told(&[1, 2], SUBSCRIBED).await;
    let gate = stage.closed_gate().await;
    let all = "begin; insert into public.gone values (1); insert into public.gate values (1); drop table public.gone; commit";
    run(&gate, all).await;
    // Asked again once with its connection, then with its batch.
    for _ in 0..5 {
        stage.check_waits().await;
        let kill = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() \
            and application_name = 'realtime_rls' and wait_event = 'advisory'";
        assert_eq!(stage.database.sql(kill), "t");
    }
    run(&gate, "select pg_advisory_unlock(7)").await;
    let rows = rows(&stage, 1).await;
    assert_eq!(rows[0].0, 1);
    let measures = stage.measures();
    assert!(measures.visibility.calls.get() > 1, "{measures:?}");
    assert_eq!(measures.batches.get(), 1);
    assert_eq!(measures.dropped(Dropped::TableGone), 1);
    assert_eq!(measures.dropped(Dropped::NoVerdict), 0);
    let visibility = &measures.visibility;
    assert_eq!((visibility.checks.get(), visibility.keys.get()), (1, 1));
}

async fn verdicts_for_many_claims_are_asked_for_in_rounds(cluster: Arc<Cluster>) {
    let rows_count = limits::CHANGES_BATCH_MAX;
    let claims = limits::CHANGES_VERDICTS_AT_ONCE_MAX / rows_count + 100;
    let sql = format!(
        "{GATE}{TABLE} alter table public.t enable row level security;
         create policy own on public.t using (id % {claims} = (current_setting('request.jwt.claims', true)::json ->> 'sub')::int);"
    );
    let stage = Stage::new(&cluster, &sql, &json!({}), &json!({}));
    let claims = u32::try_from(claims).expect("there are few");
    stage.listen(claims, "gate");
    stage.all_told(&[claims], SUBSCRIBED).await;
    let mut groups = BTreeMap::new();
    for number in 0..claims {
        stage.listen(number, "t");
        let listening = stage.listening().await;
        let seats = listening.seats.expect("it sits");
        groups.insert(seats[0].group, listening.listener.index);
    }
    // While a first row waits, all others become one batch.
    let gate = stage.closed_gate().await;
    run(&gate, "insert into public.gate values (0)").await;
    stage.check_waits().await;
    let measures = stage.measures();
    let before = measures.source.messages.get();
    let insert = format!("insert into public.t select generate_series(1, {rows_count})");
    run(&gate, &insert).await;
    until("all rows are there", async || {
        measures.source.messages.get() == before + rows_count as u64
    })
    .await;
    run(&gate, "select pg_advisory_unlock(7)").await;
    let mut rows = rows(&stage, 1 + rows_count).await;
    assert_eq!(rows.remove(0).0, 0);
    for (place, (id, to)) in rows.iter().enumerate() {
        assert_eq!(*id as usize, place + 1);
        let to: Vec<u32> = to.iter().map(|group| groups[group]).collect();
        assert_eq!(to, [*id % claims]);
    }
    // That of the first row, and two for the others.
    assert_eq!(measures.batches.get(), 2);
    assert_eq!(measures.visibility.calls.get(), 3);
    let keys = u64::from(claims) * rows_count as u64 + 1;
    assert_eq!(measures.visibility.keys.get(), keys);
    assert_eq!(measures.visibility.checks.get(), u64::from(claims) + 1);
}

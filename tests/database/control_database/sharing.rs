//! Several processes on one control database, and a control database that goes and comes.

use std::sync::Arc;
use std::time::Duration;

use realtime::control::clock;
use realtime::control::store::{StoreError, StoreNews};
use tokio::time::timeout;

use super::{Working, until, with_secret};
use crate::postgres::{ADMIN, Cluster, Database, Kind};

tests![
    two_stores_hear_each_other,
    ones_own_words_are_not_heard,
    what_nobody_tells_of_is_found,
    who_reads_takes_no_news_away,
    a_change_of_others_is_not_overwritten,
    what_is_stored_comes_back,
    a_listener_that_is_cut_off_comes_back,
    news_are_not_lost_with_who_gave_up,
    of_two_that_make_the_same_tenant_one_is_told,
    an_outage_is_said_once_and_ends_by_itself,
    flags_are_remembered_for_a_while,
];

/// Comparisons are so rare that a test does not see one.
const NEVER: [(&str, &str); 1] = [("TENANT_CACHE_EXPIRATION_IN_MS", "3600000")];
/// As often as there may be.
const OFTEN: [(&str, &str); 1] = [("TENANT_CACHE_EXPIRATION_IN_MS", "0")];

fn changed(external_id: &str) -> StoreNews {
    StoreNews::Changed(external_id.to_owned())
}

/// Connections that have compared: they say LISTEN first. Reading whole tenants is something else.
const LISTENERS: &str = "select count(*) from pg_stat_activity where application_name = 'supabase_mt_realtime' \
    and datname = current_database() and query like '%xmin%' and query not like '%to_jsonb%'";

/// Waits until this many stores listen: their first comparison comes after the LISTEN.
async fn listening(database: &Database, count: usize) {
    let expected = count.to_string();
    until("all listen", || database.sql(LISTENERS) == expected).await;
}

async fn two_stores_hear_each_other(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (one, other) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &NEVER).await,
    );
    listening(&database, 2).await;
    one.store.put(with_secret("a")).await.expect("it is new");
    one.store
        .announce(changed("a"))
        .await
        .expect("it never fails");
    assert_eq!(other.news().await, changed("a"));
    assert_eq!(other.get("a").await, one.get("a").await);
    for news in [
        StoreNews::Reload("a".to_owned()),
        StoreNews::Shutdown("ä\"b".to_owned()),
    ] {
        other
            .store
            .announce(news.clone())
            .await
            .expect("it never fails");
        assert_eq!(one.news().await, news);
    }
}

async fn ones_own_words_are_not_heard(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (one, other) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &NEVER).await,
    );
    listening(&database, 2).await;
    one.store
        .announce(changed("own"))
        .await
        .expect("it never fails");
    assert_eq!(other.news().await, changed("own"));
    // Notifications come in the order of their commits: the own one would have come before.
    other
        .store
        .announce(changed("others"))
        .await
        .expect("it never fails");
    assert_eq!(one.news().await, changed("others"));
}

async fn what_nobody_tells_of_is_found(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let working = Working::start(&database, &OFTEN).await;
    // Between the start and the first comparison, and later; by whatever means.
    let insert = "insert into _realtime.tenants (id, external_id, jwt_jwks, inserted_at, updated_at) \
                  values (gen_random_uuid(), 'a', '{\"keys\": []}', now(), now())";
    database.sql(insert);
    assert_eq!(working.news().await, changed("a"));
    let record = working.get("a").await;
    database.sql("update _realtime.tenants set suspend = true");
    assert_eq!(working.news().await, changed("a"));
    assert!(working.get("a").await.suspend && !record.suspend);
    // An extension is a part of its tenant.
    database.sql(
        "insert into _realtime.extensions values (gen_random_uuid(), 'other', '{}', 'a', now(), now())",
    );
    assert_eq!(working.news().await, changed("a"));
    assert_eq!(working.get("a").await.extensions.len(), 1);
    database.sql("update _realtime.extensions set settings = '{\"a\": 1}'");
    assert_eq!(working.news().await, changed("a"));
    database.sql("delete from _realtime.tenants");
    assert_eq!(working.news().await, changed("a"));
    assert_eq!(working.store.get("a").await.expect("it answers"), None);
}

async fn who_reads_takes_no_news_away(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let working = Working::start(&database, &OFTEN).await;
    working
        .store
        .put(with_secret("a"))
        .await
        .expect("it is new");
    assert_eq!(working.news().await, changed("a"));
    database.sql("update _realtime.tenants set suspend = true");
    // An operator looks, before it is found.
    assert!(working.get("a").await.suspend);
    working.store.list().await.expect("it answers");
    assert_eq!(working.news().await, changed("a"));
    database.sql("delete from _realtime.tenants");
    assert_eq!(working.store.get("a").await.expect("it answers"), None);
    assert_eq!(working.news().await, changed("a"));
}

async fn a_change_of_others_is_not_overwritten(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (one, other) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &NEVER).await,
    );
    one.store.put(with_secret("a")).await.expect("it is new");
    let is_stale = |put: Result<_, StoreError>| matches!(put, Err(StoreError::Stale { .. }));
    for round in 0..20 {
        let (mut first, mut second) = (one.get("a").await, other.get("a").await);
        first.max_joins_per_second = round;
        second.max_events_per_second = round;
        let (a, b) = tokio::join!(one.store.put(first), other.store.put(second));
        assert!(a.is_ok() != b.is_ok(), "exactly one is stored");
        let lost = if a.is_ok() { b } else { a };
        assert!(is_stale(lost));
    }
    // Extensions are a part of it.
    let before = one.get("a").await;
    database.sql(
        "insert into _realtime.extensions values (gen_random_uuid(), 'other', '{}', 'a', now(), now())",
    );
    assert!(is_stale(one.store.put(before).await));
    // What was deleted does not come back.
    let before = one.get("a").await;
    assert!(other.store.delete("a").await.expect("it answers"));
    assert!(is_stale(one.store.put(before).await));
    assert_eq!(one.store.get("a").await.expect("it answers"), None);
}

async fn what_is_stored_comes_back(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let working = Working::start(&database, &NEVER).await;
    let mut record = with_secret("a");
    let keys = r#"{"keys": [{"n": 1e2, "m": 1.50e0, "m": -0.0}]}"#;
    record.jwt_jwks = Some(serde_json::from_str(keys).expect("it is JSON"));
    let put = working.store.put(record.clone()).await.expect("it is new");
    assert_ne!(put.jwt_jwks, record.jwt_jwks, "PostgreSQL has its own way");
    assert_eq!(put, working.get("a").await);
}

async fn a_listener_that_is_cut_off_comes_back(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (one, other) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &NEVER).await,
    );
    listening(&database, 2).await;
    database.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'supabase_mt_realtime' \
         and datname = current_database()",
    );
    // What happened meanwhile is found when it is back, and what is told then is heard.
    database.sql(
        "insert into _realtime.tenants (id, external_id, jwt_jwks, inserted_at, updated_at) \
         values (gen_random_uuid(), 'meanwhile', '{\"keys\": []}', now(), now())",
    );
    one.hears(&changed("meanwhile")).await;
    other.hears(&changed("meanwhile")).await;
    // The other one's pool comes back as well.
    other
        .store
        .announce(changed("told"))
        .await
        .expect("it never fails");
    other.get("meanwhile").await;
    other
        .store
        .announce(changed("told"))
        .await
        .expect("it never fails");
    one.hears(&changed("told")).await;
}

async fn news_are_not_lost_with_who_gave_up(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (one, other) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &NEVER).await,
    );
    listening(&database, 2).await;
    // Given up while it waits, again and again.
    for _ in 0..3 {
        let given_up = timeout(Duration::from_millis(5), other.store.news()).await;
        assert!(given_up.is_err(), "nothing has happened");
    }
    let mut waits = other.store.news();
    let _ = timeout(Duration::from_millis(5), &mut waits).await;
    one.store
        .announce(changed("a"))
        .await
        .expect("it never fails");
    one.store
        .announce(changed("b"))
        .await
        .expect("it never fails");
    // The answer is on its way, and nobody takes it.
    one.get_nothing().await;
    drop(waits);
    assert_eq!(other.news().await, changed("a"));
    assert_eq!(other.news().await, changed("b"));
}

impl Working {
    /// A round trip.
    async fn get_nothing(&self) {
        assert_eq!(self.store.get("nobody").await.expect("it answers"), None);
    }
}

async fn of_two_that_make_the_same_tenant_one_is_told(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (one, other) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &NEVER).await,
    );
    for round in 0..20 {
        let name = format!("t{round}");
        let (first, second) = (with_secret(&name), with_secret(&name));
        let (a, b) = tokio::join!(one.store.put(first), other.store.put(second));
        assert!(a.is_ok() != b.is_ok(), "exactly one is stored");
        let error = a.err().or(b.err()).expect("one is told");
        assert!(matches!(error, StoreError::Taken { .. }), "{error}");
    }
    assert_eq!(one.store.list().await.expect("it answers").len(), 20);
}

async fn an_outage_is_said_once_and_ends_by_itself(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let database = cluster.database(Kind::Empty);
    let mut working = Working::start(&database, &[("DB_QUEUE_TARGET", "200"), OFTEN[0]]).await;
    working
        .store
        .put(with_secret("a"))
        .await
        .expect("it is new");
    cluster.stop();
    for _ in 0..20 {
        let start = clock::now();
        let error = working.store.get("a").await.expect_err("it is away");
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(8));
        assert!(working.store.put(with_secret("b")).await.is_err());
    }
    let said = working.lines_with("the control database cannot be reached");
    let causes: std::collections::HashSet<_> = said.iter().collect();
    assert!(
        !said.is_empty() && causes.len() == said.len(),
        "each cause once: {said:?}"
    );
    cluster.start_again();
    let start = clock::now();
    while working.store.get("a").await.is_err() {
        assert!(
            start.elapsed() < crate::world::PATIENCE,
            "it never comes back"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The listener comes back when its pause is over.
    let mut said = 0;
    until("it is said", || {
        said = working.logged("the control database answers again");
        said > 0
    })
    .await;
    assert_eq!(said, 1);
    assert_eq!(working.store.get("b").await.expect("it answers"), None);
}

async fn flags_are_remembered_for_a_while(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let (long, short) = (
        Working::start(&database, &NEVER).await,
        Working::start(&database, &OFTEN).await,
    );
    let tenant = with_secret("a");
    for working in [&long, &short] {
        assert!(!working.store.flag("f", &tenant).await.expect("it answers"));
    }
    database.sql(
        "insert into _realtime.feature_flags (id, name, enabled, inserted_at, updated_at) \
         values (gen_random_uuid(), 'f', true, now(), now())",
    );
    let start = clock::now();
    while !short.store.flag("f", &tenant).await.expect("it answers") {
        assert!(
            start.elapsed() < crate::world::PATIENCE,
            "it is never looked at again"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        !long.store.flag("f", &tenant).await.expect("it answers"),
        "it knows that there is none"
    );
    // A part of the tenants: the same ones everywhere.
    database.sql("update _realtime.feature_flags set rollout_percentage = 0");
    while short.store.flag("f", &tenant).await.expect("it answers") {
        assert!(
            start.elapsed() < crate::world::PATIENCE,
            "it is never looked at again"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

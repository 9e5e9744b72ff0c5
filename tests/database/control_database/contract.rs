//! What every store of tenants keeps, whatever it is made of. The unit tests of the embedded store and the tests of the one in
//! PostgreSQL run it; both put `TenantStore`, `TenantRecord`, `StoreError` and the rest of the room beside it.

use super::{Sealed, StoreError, TenantRecord, TenantStore};
use serde_json::{Value, json};

/// A tenant with something in every field.
pub(super) fn full(external_id: &str, mut record: TenantRecord) -> TenantRecord {
    record.external_id = external_id.to_owned();
    record.name = "Näme \"quoted\" \\ 😀".to_owned();
    record.jwt_secret = Some("söme-secret".to_owned());
    record.jwt_jwks = Some(json!({"keys": [{"kid": "a", "n": 12_345_678_901_234_567_890_u64}]}));
    record.max_concurrent_users = 1;
    record.max_events_per_second = 2;
    record.max_joins_per_second = 3;
    record.max_channels_per_client = 4;
    record.max_bytes_per_second = 5;
    record.max_presence_events_per_second = 6;
    record.max_payload_size_in_kb = 7;
    record.max_client_presence_events_per_window = Some(8);
    record.client_presence_window_ms = Some(9);
    record.presence_enabled = true;
    record.suspend = true;
    record.private_only = true;
    record.feature_flags = object(&json!({"on": true, "off": false}));
    record.migrations_ran = 10;
    record.inserted_at = 1_700_000_001;
    record.updated_at = 1_700_000_002;
    record.extensions = vec![extension("postgres_cdc_rls"), extension("other")];
    record
}

fn extension(kind: &str) -> super::ExtensionRecord {
    super::ExtensionRecord {
        kind: kind.to_owned(),
        settings: object(&json!({
            "db_host": "db.example", "db_port": "5432", "db_name": "postgres", "db_user": "u", "db_password": "pässword",
            "region": "r", "poll_interval_ms": 100, "ssl_enforced": false, "nothing": null,
        })),
        inserted_at: 1_700_000_003,
        updated_at: 1_700_000_004,
        sealed: Sealed::default(),
    }
}

fn object(value: &Value) -> serde_json::Map<String, Value> {
    value.as_object().cloned().expect("it is an object")
}

/// The order of extensions says nothing.
fn sorted(mut record: TenantRecord) -> TenantRecord {
    record.extensions.sort_by(|a, b| a.kind.cmp(&b.kind));
    record
}

/// Runs on an empty store. `new` makes a tenant that nobody else is.
pub(super) async fn keeps_the_contract(store: &dyn TenantStore, new: fn(&str) -> TenantRecord) {
    assert_eq!(store.list().await.expect("it is empty"), []);
    assert_eq!(store.get("a").await.expect("it is empty"), None);

    // What was put is there, whole.
    let (a, mut b) = (full("a", new("a")), new("b"));
    b.jwt_secret = Some("other".to_owned());
    let put = store.put(b.clone()).await.expect("it is new");
    assert_eq!(put, b);
    let put = store.put(a.clone()).await.expect("it is new");
    assert_eq!(sorted(put.clone()), sorted(a.clone()));
    let got = store
        .get("a")
        .await
        .expect("it answers")
        .expect("it is there");
    assert_eq!(sorted(got.clone()), sorted(a.clone()));
    let listed = store.list().await.expect("it answers");
    let listed: Vec<_> = listed.into_iter().map(sorted).collect();
    assert_eq!(listed, [sorted(a.clone()), b.clone()]);

    // Both show the same stored texts, and none of them says the secret.
    let shown = |record: &TenantRecord| {
        let cdc = |extension: &&super::ExtensionRecord| extension.kind == "postgres_cdc_rls";
        Value::Object(
            record
                .extensions
                .iter()
                .find(cdc)
                .expect("it has one")
                .shown(),
        )
    };
    assert_eq!(shown(&put), shown(&got));
    assert!(shown(&put).get("db_password").is_none());
    for (name, plain) in [
        ("db_host", "db.example"),
        ("db_port", "5432"),
        ("db_name", "postgres"),
        ("db_user", "u"),
    ] {
        assert!(
            shown(&put)[name].is_string() && shown(&put)[name] != plain,
            "{name}"
        );
    }
    assert_eq!(shown(&put)["region"], "r");

    // A change replaces the record whole, and only that one.
    let mut changed = got.clone();
    changed
        .extensions
        .retain(|extension| extension.kind == "other");
    changed.jwt_secret = None;
    changed.max_client_presence_events_per_window = None;
    changed.suspend = false;
    changed.feature_flags = serde_json::Map::new();
    let put = store.put(changed.clone()).await;
    assert_eq!(put.as_ref().expect("it is the same tenant"), &changed);
    changed.version = put.expect("it is the same tenant").version;
    assert_eq!(
        store.get("a").await.expect("it answers"),
        Some(changed.clone())
    );
    assert_eq!(store.get("b").await.expect("it answers"), Some(b.clone()));

    // An extension of a kind that is there is replaced.
    changed.extensions[0].settings = object(&json!({"x": 1.50}));
    changed.extensions[0].updated_at += 5;
    store
        .put(changed.clone())
        .await
        .expect("it is the same tenant");
    assert_eq!(
        store.get("a").await.expect("it answers"),
        Some(changed.clone())
    );

    // A tenant that is new does not take the place of another one.
    let thief = new("a");
    assert_ne!(thief.id, changed.id);
    let error = store
        .put(TenantRecord {
            jwt_secret: Some("s".to_owned()),
            ..thief
        })
        .await;
    assert!(
        matches!(error, Err(StoreError::Taken { ref external_id }) if external_id == "a"),
        "{error:?}"
    );
    assert_eq!(store.get("a").await.expect("it answers"), Some(changed));

    // The tenant's own flags count in every store.
    let flags = full("c", new("c"));
    for (name, is_on) in [("on", true), ("off", false), ("unknown", false)] {
        assert_eq!(
            store.flag(name, &flags).await.expect("it answers"),
            is_on,
            "{name}"
        );
    }

    // What was deleted is gone, and its name is free.
    assert!(store.delete("a").await.expect("it answers"));
    assert!(!store.delete("a").await.expect("it answers"));
    assert_eq!(store.get("a").await.expect("it answers"), None);
    assert_eq!(store.list().await.expect("it answers"), [b]);
    let again = full("a", new("a"));
    store.put(again.clone()).await.expect("its name is free");
    let got = store
        .get("a")
        .await
        .expect("it answers")
        .expect("it is there");
    assert_eq!(sorted(got), sorted(again));
}

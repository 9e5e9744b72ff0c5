//! Replay, asked of a real database: every recorded case, every kind of payload, and the end of patience.

use std::sync::Arc;

use realtime::control::clock;
use realtime::control::messages::replay;
use realtime::limits;
use realtime::mail::{AskError, Body, Replayed};
use serde_json::json;

use crate::asking::{World, state_of, vectors};
use crate::postgres::{ADMIN, Cluster};
use crate::world::PATIENCE;

tests![
    replay_selects_what_the_original_selected,
    replayed_payloads_are_those_of_the_rows,
    replay_needs_no_binary_payloads,
    replay_is_given_up_in_time,
];

const INSERT: &str = "insert into realtime.messages (topic, extension, event, payload, private, inserted_at, updated_at) values ";

async fn replay_selects_what_the_original_selected(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let vectors = vectors("broadcast-from-database/replay.json");
    assert!(vectors.len() >= 8);
    for vector in vectors {
        let rows = vector["rows"]
            .as_array()
            .expect("rows are a list")
            .iter()
            .map(|row| {
                let topic = row["topic"].as_str().unwrap_or("room:1");
                let private = row["private"].as_bool().unwrap_or(true);
                let event = row["event"].as_str().expect("an event is a text");
                let at = format!(
                    "(now() at time zone 'utc') + interval '{} s'",
                    row["offset_s"]
                );
                format!("('{topic}', 'broadcast', '{event}', '{{}}', {private}, {at}, {at})")
            });
        let rows: Vec<_> = rows.collect();
        let now_ms = i64::try_from(clock::unix_ms()).expect("it is not that late");
        world.database.sql(&format!(
            "truncate realtime.messages; {INSERT} {}",
            rows.join(", ")
        ));
        // Read before the rows are made: none is older than its offset from here.
        let since_ms = vector["since_offset_s"]
            .as_i64()
            .map_or(0, |offset| now_ms + offset * 1000);
        let limit = vector["limit"].as_i64().unwrap_or(25);
        let limit = u32::try_from(limit.clamp(1, i64::from(limits::REPLAY_MESSAGES_MAX)))
            .expect("it is clamped");
        let lease = world.pool.lease().await.expect("the connection is open");
        let messages = replay(&lease, "room:1", since_ms, limit)
            .await
            .expect("they can be read");
        let events: Vec<&str> = messages
            .iter()
            .map(|message| message.event.as_str())
            .collect();
        assert_eq!(json!(events), vector["events"], "{vector}");
    }
    let before = state_of(&world.pool).await;
    assert_eq!((before[0].as_str(), before[3].as_str()), (ADMIN, "0"));
}

async fn replayed_payloads_are_those_of_the_rows(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(
        "insert into realtime.messages (id, topic, extension, event, payload, binary_payload, private, inserted_at) values
         ('00000000-0000-0000-0000-000000000001', 't', 'broadcast', 'json', '{\"b\": 1.50, \"a\": [null, \"ä\"], \"b\": 2.50}', null, true, now() - interval '5 s'),
         ('00000000-0000-0000-0000-000000000002', 't', 'broadcast', 'binary', null, '\\x00ff', true, now() - interval '4 s'),
         ('00000000-0000-0000-0000-000000000003', 't', 'broadcast', 'nothing', null, null, true, now() - interval '3 s'),
         ('00000000-0000-0000-0000-000000000004', 't', 'broadcast', null, '{}', null, true, now() - interval '2 s'),
         ('00000000-0000-0000-0000-000000000005', 't', 'presence', 'other', '{}', null, true, now() - interval '1 s')",
    );
    let lease = world.pool.lease().await.expect("the connection is open");
    let messages = replay(&lease, "t", i64::MIN, 25)
        .await
        .expect("they can be read");
    let replayed = |id: u128, event: &str, body: Body| Replayed {
        id: uuid::Uuid::from_u128(id),
        event: event.to_owned(),
        body,
    };
    let expected = [
        replayed(
            1,
            "json",
            Body::Json(r#"{"a": [null, "ä"], "b": 2.50}"#.to_owned()),
        ),
        replayed(2, "binary", Body::Binary(vec![0, 255])),
        replayed(3, "nothing", Body::Json("null".to_owned())),
    ];
    assert_eq!(messages, expected);
    assert_eq!(replay(&lease, "t", i64::MAX, 25).await, Ok(Vec::new()));
}

/// A database that the original has set up long ago.
async fn replay_needs_no_binary_payloads(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(&format!("alter table realtime.messages drop column binary_payload; {INSERT} ('t', 'broadcast', 'e', '{{}}', true, now(), now())"));
    let lease = world.pool.lease().await.expect("the connection is open");
    let messages = replay(&lease, "t", 0, 25).await.expect("they can be read");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].body, Body::Json("{}".to_owned()));
}

async fn replay_is_given_up_in_time(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let other = world.database.client(ADMIN).await;
    other
        .batch_execute("begin; lock table realtime.messages")
        .await
        .expect("nobody holds it");
    let lease = world.pool.lease().await.expect("the connection is open");
    let start = clock::now();
    let outcome = replay(&lease, "t", 0, 25).await;
    assert!(matches!(outcome, Err(AskError::Canceled(_))), "{outcome:?}");
    let waited = clock::now().duration_since(start);
    assert!(waited < limits::REPLAY_TIMEOUT + PATIENCE, "{waited:?}");
    other
        .batch_execute("rollback")
        .await
        .expect("the connection is open");
    assert_eq!(
        replay(&lease, "t", 0, 25).await,
        Ok(Vec::new()),
        "the connection is free"
    );
    world.database.sql("alter schema realtime rename to away");
    let outcome = replay(&lease, "t", 0, 25).await;
    assert!(
        matches!(&outcome, Err(AskError::Other(text)) if text.contains("is not complete")),
        "{outcome:?}"
    );
}

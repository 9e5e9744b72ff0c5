//! Private messages, and a database whose answers are known (spec: http-api 5).

use super::*;
use crate::error::ErrorCode;

/// What the database says of a topic: its name is the answer.
pub(super) fn outcome_of(topic: &str) -> Result<Verdict, AskError> {
    let text = String::new;
    Err(match topic {
        "yes" | "no" => {
            return Ok(Verdict {
                broadcast_write: Some(topic == "yes"),
                presence_write: Some(true),
                ..Verdict::default()
            });
        }
        "away" => AskError::Unreachable,
        "full" => AskError::LackOfConnections,
        "often" => AskError::TooManyAttempts,
        "suspended" => AskError::Suspended,
        "starting" => AskError::Initializing,
        "policy" => AskError::Policy(text()),
        "slow" => AskError::Canceled(text()),
        "partition" => AskError::MissingPartition,
        "pool" => AskError::PoolExhausted,
        _ => AskError::Other(text()),
    })
}

#[test]
fn private_messages_are_asked_for_once_per_topic() {
    let mut stack = Stack::new();
    let message = |topic: &str, private: bool| {
        format!(r#"{{"topic":"{topic}","event":"e","payload":{{}},"private":{private}}}"#)
    };
    let batch = [
        message("yes", true),
        message("no", true),
        message("no", false),
        message("slow", true),
        message("policy", true),
        message("yes", true),
    ];
    let body = format!(r#"{{"messages":[{}]}}"#, batch.join(","));
    let request = with_token(&BATCH.replace("a.local", "db.local"));
    let request = format!("{request} | X-Two: 1 | x-two: 2 | cookie: c");
    let answer = run(stack.ask(&request, &body));
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    let sent: Vec<_> = stack
        .published()
        .iter()
        .map(|publish| match &publish.to {
            To::Key(key) => (key.text().to_owned(), key.is_private()),
            To::Topic(_) => panic!("topics of others are known by their key"),
        })
        .collect();
    let expected = [
        ("realtime:no", false),
        ("realtime:yes", true),
        ("realtime:yes", true),
    ];
    assert_eq!(
        sent,
        expected.map(|(topic, private)| (topic.to_owned(), private))
    );
    let asked: Vec<_> = stack.asks.try_iter().collect();
    let topics: Vec<&str> = asked
        .iter()
        .map(|(_, context, _)| &*context.topic)
        .collect();
    assert_eq!(topics, ["yes", "no", "slow", "policy"]);
    for (_, context, checks) in &asked {
        assert_eq!(*checks, Checks::WRITES);
        assert_eq!(context.claims.role.as_deref(), Some("anon"));
        let seen: Vec<_> = context
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert!(
            seen.ends_with(&["x-two: 1", "x-two: 2", "cookie: c"].map(str::to_owned)),
            "{seen:?}"
        );
        assert!(
            seen.iter()
                .any(|header| header.starts_with("authorization: Bearer ")),
            "{seen:?}"
        );
    }
    let usage = stack
        .registry
        .watch()
        .borrow()
        .directory
        .find("db")
        .unwrap()
        .usage
        .clone();
    assert_eq!(
        usage.total(Counter::Events),
        3,
        "one event for each message that goes out"
    );
}

#[test]
fn a_database_that_is_away_is_not_asked_for_every_topic() {
    let mut stack = Stack::new();
    let topics = (0..limits::HTTP_TOPICS_ASKED_AT_ONCE + 10).map(|index| match index {
        5 => "away".to_owned(),
        _ => format!("slow{index}"),
    });
    let topics: Vec<_> = topics
        .map(|topic| format!(r#"{{"topic":"{topic}","event":"e","payload":{{}},"private":true}}"#))
        .collect();
    let body = format!(r#"{{"messages":[{}]}}"#, topics.join(","));
    let request = with_token(&BATCH.replace("a.local", "db.local"));
    assert_eq!(run(stack.ask(&request, &body)).status, 202);
    assert!(stack.published().is_empty());
    assert_eq!(
        stack.asks.try_iter().count(),
        limits::HTTP_TOPICS_ASKED_AT_ONCE
    );
    let lines = (stack.lines)();
    let codes: Vec<_> = lines.iter().filter_map(|line| line.code).collect();
    assert_eq!(codes, [ErrorCode::UnableToConnectToProject]);
}

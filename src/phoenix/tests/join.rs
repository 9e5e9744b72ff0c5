//! The payloads of the recorded joins, of the specification and of the original's tests.

use crate::phoenix::{Invalid, JoinPayload, JoinPayloadError, TokenChoice, parse_join};

const DEFAULT: JoinPayload<'_> = JoinPayload {
    has_config: true,
    private: false,
    ack: false,
    self_broadcast: false,
    replay: None,
    replication_ready: false,
    presence_enabled: false,
    presence_key: None,
    postgres_changes: Vec::new(),
    token: TokenChoice::Socket,
    invalid: Vec::new(),
    broken: None,
};

#[test]
fn joins_of_the_recordings_are_understood() {
    let ok = |payload, expected: JoinPayload<'_>| {
        assert_eq!(parse_join(payload), expected, "{payload}");
    };
    // join_ok_variants
    ok(r#"{"config":{}}"#, DEFAULT);
    ok(
        "{}",
        JoinPayload {
            has_config: false,
            ..DEFAULT
        },
    );
    let acked = JoinPayload {
        ack: true,
        self_broadcast: true,
        ..DEFAULT
    };
    ok(
        r#"{"config":{"broadcast":{"self":true,"ack":true}}}"#,
        acked.clone(),
    );
    ok(
        r#"{"config":{"broadcast":{"self":"true","ack":"True"},"presence":{"enabled":"false"},"private":"false"}}"#,
        acked,
    );
    let key = |key: &'static str, enabled| JoinPayload {
        presence_key: Some(key.into()),
        presence_enabled: enabled,
        ..DEFAULT
    };
    ok(r#"{"config":{"presence":{"key":"k1"}}}"#, key("k1", false));
    ok(
        r#"{"config":{"presence":{"key":"k1","enabled":true}}}"#,
        key("k1", true),
    );
    ok(
        r#"{"config":{"presence":{"key":123,"enabled":true}}}"#,
        key("123", true),
    );
    ok(
        r#"{"config":{"presence":{"key":"\u00e9","enabled":"TRUE"}}}"#,
        key("é", true),
    );
    ok(
        r#"{"config":{"presence":{"key":"","enabled":true}}}"#,
        JoinPayload {
            presence_enabled: true,
            ..DEFAULT
        },
    );
    ok(
        r#"{"config":{"postgres_changes":[{"event":"*","schema":"public"},null, {"event":1} ]}}"#,
        JoinPayload {
            postgres_changes: vec![r#"{"event":"*","schema":"public"}"#, r#"{"event":1}"#],
            ..DEFAULT
        },
    );
    ok(r#"{"config":{"postgres_changes":[null]}}"#, DEFAULT);
    ok(
        r#"{"config":{"private":true,"presence":null,"broadcast":null,"postgres_changes":null}}"#,
        JoinPayload {
            private: true,
            ..DEFAULT
        },
    );
    ok(
        r#"{"config":{"broadcast":{"ack":false,"self":false},"presence":{"key":"","enabled":false},"postgres_changes":[],"private":false},"access_token":"a.b.c"}"#,
        JoinPayload {
            token: TokenChoice::AccessToken("a.b.c".into()),
            ..DEFAULT
        },
    );
    ok(r#"{"config":null}"#, DEFAULT);
    ok(r#"{"config":"x","config":{}}"#, DEFAULT);
    // join_legacy_pg_topic
    ok(
        r#"{"user_token":"a.b.c"}"#,
        JoinPayload {
            has_config: false,
            token: TokenChoice::UserToken("a.b.c".into()),
            ..DEFAULT
        },
    );
}

#[test]
fn replay_is_kept_raw_and_ready_is_truthy() {
    let check = |broadcast: &str, replay: Option<&str>, ready: bool, invalid: &[&str]| {
        let payload = format!(r#"{{"config":{{"broadcast":{broadcast}}}}}"#);
        let join = parse_join(&payload);
        assert_eq!(
            (join.replay, join.replication_ready),
            (replay, ready),
            "{broadcast}"
        );
        let paths: Vec<_> = join.invalid.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, invalid, "{broadcast}");
    };
    check("{}", None, false, &[]);
    check(r#"{"replay":null}"#, Some("null"), false, &[]);
    check(
        r#"{"replay":{"since": 1}}"#,
        Some(r#"{"since": 1}"#),
        false,
        &[],
    );
    check(
        r#"{"replay":5}"#,
        Some("5"),
        false,
        &["config.broadcast.replay"],
    );
    check(r#"{"replication_ready":true}"#, None, true, &[]);
    check(r#"{"replication_ready":"false"}"#, None, true, &[]);
    check(r#"{"replication_ready":0}"#, None, true, &[]);
    check(r#"{"replication_ready":false}"#, None, false, &[]);
    check(r#"{"replication_ready":null}"#, None, false, &[]);
}

#[test]
fn nonsense_takes_the_default_and_is_reported() {
    const SCALAR: &str = "unable to parse, expected boolean|string|integer";
    const MAP: &str = "unable to parse, expected a map";
    const MAPS: &str = "unable to parse, expected an array of maps";
    let check = |payload, invalid: &[Invalid]| {
        let expected = JoinPayload {
            invalid: invalid.to_vec(),
            ..DEFAULT
        };
        assert_eq!(parse_join(payload), expected, "{payload}");
    };
    check(
        r#"{"config":{"broadcast":{"ack":"maybe","self":1}}}"#,
        &[
            ("config.broadcast.ack", SCALAR),
            ("config.broadcast.self", SCALAR),
        ],
    );
    check(r#"{"config":{"presence":5}}"#, &[("config.presence", MAP)]);
    check(
        r#"{"config":{"postgres_changes":"x"}}"#,
        &[("config.postgres_changes", MAPS)],
    );
    check(
        r#"{"config":{"postgres_changes":{"a":1}}}"#,
        &[("config.postgres_changes", MAPS)],
    );
    check(
        r#"{"config":{"private":"banana"}}"#,
        &[("config.private", SCALAR)],
    );
    check(
        r#"{"access_token":123,"config":{}}"#,
        &[("access_token", SCALAR)],
    );
    check(
        r#"{"config":{"presence":{"key":{"a":1}}}}"#,
        &[("config.presence.key", SCALAR)],
    );
    // Pinned by a test of the original.
    check(
        r#"{"config":{"broadcast":{"ack":"test"},"presence":{"enabled":"test"},"postgres_changes":{"event":"test"}},"access_token":true}"#,
        &[
            ("config.broadcast.ack", SCALAR),
            ("config.presence.enabled", SCALAR),
            ("config.postgres_changes", MAPS),
            ("access_token", SCALAR),
        ],
    );
    check(
        r#"{"config":{"postgres_changes_options":{"wait":true},"x":[1]},"version":"realtime-js/2.119.1"}"#,
        &[],
    );
}

#[test]
fn shapes_that_fail_have_a_sentence() {
    for (payload, error, sentence) in [
        (
            "\"str\"",
            JoinPayloadError::Payload,
            "payload must be an object",
        ),
        (
            "null",
            JoinPayloadError::Payload,
            "payload must be an object",
        ),
        ("[]", JoinPayloadError::Payload, "payload must be an object"),
        (
            r#"{"config":"x"}"#,
            JoinPayloadError::Config,
            "config must be an object",
        ),
        (
            r#"{"config":[]}"#,
            JoinPayloadError::Config,
            "config must be an object",
        ),
        (
            r#"{"config":false}"#,
            JoinPayloadError::Config,
            "config must be an object",
        ),
        (
            r#"{"config":{"broadcast":"x"}}"#,
            JoinPayloadError::Broadcast,
            "config.broadcast must be an object",
        ),
        (
            r#"{"config":{"postgres_changes":[{}, "x"]}}"#,
            JoinPayloadError::PostgresChanges,
            "config.postgres_changes must be a list of objects",
        ),
    ] {
        let join = parse_join(payload);
        assert_eq!(join.broken, Some(error), "{payload}");
        assert!(join.invalid.iter().eq(&error.invalid()), "{payload}");
        assert_eq!(error.to_string(), sentence);
        assert_eq!(
            error.invalid().is_none(),
            error == JoinPayloadError::Payload
        );
    }
}

#[test]
fn the_token_is_chosen_as_the_original_does() {
    let user = |text: &'static str| TokenChoice::UserToken(text.into());
    let access = |text: &'static str| TokenChoice::AccessToken(text.into());
    for (payload, token) in [
        ("{}", TokenChoice::Socket),
        (r#"{"access_token":"a"}"#, access("a")),
        (r#"{"user_token":"u"}"#, user("u")),
        (r#"{"access_token":"a","user_token":"u"}"#, user("u")),
        (r#"{"access_token":""}"#, access("")),
        (r#"{"access_token":"sb_x"}"#, TokenChoice::Socket),
        (
            r#"{"access_token":"sb_x","user_token":"u"}"#,
            TokenChoice::Socket,
        ),
        (
            r#"{"access_token":null,"user_token":"sb_x"}"#,
            TokenChoice::Socket,
        ),
        (
            r#"{"access_token":false,"user_token":"sb_x"}"#,
            TokenChoice::Socket,
        ),
        (r#"{"access_token":"a","user_token":"sb_x"}"#, user("sb_x")),
        (r#"{"access_token":"","user_token":"sb_x"}"#, user("sb_x")),
        (r#"{"access_token":7,"user_token":"sb_x"}"#, user("sb_x")),
        (r#"{"access_token":7,"user_token":"u"}"#, user("u")),
        (r#"{"access_token":"a","user_token":null}"#, access("a")),
        (r#"{"access_token":"a","user_token":7}"#, access("a")),
        (
            r#"{"access_token":null,"user_token":null}"#,
            TokenChoice::Socket,
        ),
        (r#"{"access_token":"s\u0062_x"}"#, TokenChoice::Socket),
        (r#"{"access_token":"a\u002eb"}"#, access("a.b")),
    ] {
        assert_eq!(parse_join(payload).token, token, "{payload}");
    }
}

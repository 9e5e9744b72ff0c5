//! Tenants that an operator changes while clients are connected (specification, HTTP 3 and WebSocket 11).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Case, Context, V1, V2, none};
use crate::socket::Event;
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "tenants::changed_keys_disconnect_and_count_at_once",
        limits: none,
        run: changed_keys_disconnect_and_count_at_once,
    },
    Case {
        name: "tenants::changed_limits_disconnect_nobody_and_count",
        limits: none,
        run: changed_limits_disconnect_nobody_and_count,
    },
    Case {
        name: "tenants::what_is_suspended_or_private_is_refused_from_then_on",
        limits: none,
        run: what_is_suspended_or_private_is_refused_from_then_on,
    },
    Case {
        name: "tenants::a_reload_disconnects_and_a_shutdown_does_not",
        limits: none,
        run: a_reload_disconnects_and_a_shutdown_does_not,
    },
    Case {
        name: "tenants::a_deleted_tenant_is_not_found",
        limits: none,
        run: a_deleted_tenant_is_not_found,
    },
    Case {
        name: "tenants::changes_at_once_keep_one_of_them_whole",
        limits: none,
        run: changes_at_once_keep_one_of_them_whole,
    },
    Case {
        name: "tenants::tenants_are_listed_for_operators",
        limits: none,
        run: tenants_are_listed_for_operators,
    },
];

/// Status and body of an answer.
type Answer = (u16, String);

impl Context<'_> {
    /// As an operator.
    fn operate(&self, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", token::of_role("service_role", 600));
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        match self.http(method, path, &headers, body.to_string().as_bytes()) {
            Event::Upgrade { status, body, .. } => (status, body),
            other => panic!("{other:?}"),
        }
    }

    fn path(&self) -> String {
        format!("/api/tenants/{}", self.tenant)
    }

    /// Changes the tenant of this test, and returns it as it is then.
    #[track_caller]
    fn change(&self, attributes: &Value) -> Value {
        let (status, body) = self.operate("PUT", &self.path(), &json!({ "tenant": attributes }));
        assert_eq!(status, 200, "{body}");
        let mut body: Value = serde_json::from_str(&body).expect("it is JSON");
        body["data"].take()
    }

    /// The answer to an upgrade with a good token.
    fn upgrade_status(&self) -> u16 {
        let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
        match self.open(&path, &[].into()).next() {
            Event::Upgrade { status, .. } => status,
            other => panic!("{other:?}"),
        }
    }
}

const DISCONNECT: &str =
    r#"{"extension":"system","message":"Server requested disconnect","status":"ok"}"#;

fn changed_keys_disconnect_and_count_at_once(context: &Context<'_>) {
    let payload = serde_json::from_str(DISCONNECT).expect("it is JSON");
    // On every shard, most likely.
    let clients = [V1, V2, V1, V2, V1, V2].map(|vsn| context.joined(vsn, "realtime:a", &json!({})));
    let bare = context.connect(V2);
    // The same secret, sent once more, is no change.
    context.change(&json!({"jwt_secret": token::SECRET, "name": "n"}));
    let mut clients = clients.map(|mut client| {
        client.expect_alive();
        client
    });
    context.change(&json!({"jwt_secret": "another secret of the tenant, which nobody knows yet"}));
    for client in &mut clients {
        client.expect_fanout("realtime:a", "system", &payload);
        client.expect_close(1012);
    }
    let mut bare = bare;
    bare.expect_close(1012);
    assert_eq!(context.upgrade_status(), 401);
    context.change(&json!({"jwt_secret": token::SECRET}));
    assert_eq!(context.upgrade_status(), 101);
    context.change(&json!({"jwt_jwks": {"keys": []}}));
    let (status, body) = context.operate("GET", &context.path(), &json!({}));
    assert!(status == 200 && !body.contains("jwt"), "{body}");
}

fn changed_limits_disconnect_nobody_and_count(context: &Context<'_>) {
    let mut client = context.joined(V2, "realtime:a", &json!({}));
    let changed =
        context.change(&json!({"max_channels_per_client": "1", "max_concurrent_users": 1}));
    assert_eq!(changed["max_channels_per_client"], 1);
    client.expect_alive();
    let reason = "ChannelRateLimitReached: Too many channels";
    client.join_refused("realtime:b", &json!({"config": {}}), reason);
    assert_eq!(context.upgrade_status(), 429);
    context.change(&json!({"max_channels_per_client": 2, "max_concurrent_users": 2}));
    client.join("realtime:b", &json!({}));
    assert_eq!(context.upgrade_status(), 101);
}

fn what_is_suspended_or_private_is_refused_from_then_on(context: &Context<'_>) {
    let payload = serde_json::from_str(DISCONNECT).expect("it is JSON");
    for (change, back) in [
        (json!({"suspend": true}), json!({"suspend": false})),
        (
            json!({"private_only": true}),
            json!({"private_only": false}),
        ),
    ] {
        let mut client = context.joined(V2, "realtime:a", &json!({}));
        context.change(&change);
        client.expect_fanout("realtime:a", "system", &payload);
        client.expect_close(1012);
        if change["suspend"] == true {
            assert_eq!(context.upgrade_status(), 403);
        } else {
            let reason = "PrivateOnly: This project only allows private channels";
            let mut client = context.connect(V2);
            client.join_refused("realtime:a", &json!({"config": {}}), reason);
        }
        context.change(&back);
    }
    context.joined(V2, "realtime:a", &json!({}));
}

fn a_reload_disconnects_and_a_shutdown_does_not(context: &Context<'_>) {
    let payload = serde_json::from_str(DISCONNECT).expect("it is JSON");
    let mut client = context.joined(V1, "realtime:a", &json!({}));
    let action = |action: &str| {
        let path = format!("{}/{action}", context.path());
        context.operate("POST", &path, &json!({}))
    };
    assert_eq!(action("shutdown"), (204, String::new()));
    client.expect_alive();
    assert_eq!(action("reload"), (204, String::new()));
    client.expect_fanout("realtime:a", "system", &payload);
    client.expect_close(1012);
    context.joined(V2, "realtime:a", &json!({}));
}

fn a_deleted_tenant_is_not_found(context: &Context<'_>) {
    let payload = serde_json::from_str(DISCONNECT).expect("it is JSON");
    let mut client = context.joined(V2, "realtime:a", &json!({}));
    assert_eq!(
        context.operate("DELETE", &context.path(), &json!({})),
        (204, String::new())
    );
    client.expect_fanout("realtime:a", "system", &payload);
    client.expect_close(1012);
    assert_eq!(context.upgrade_status(), 404);
    let not_found = (404, r#"{"message":"not found"}"#.to_owned());
    for path in [context.path(), format!("{}/health", context.path())] {
        assert_eq!(context.operate("GET", &path, &json!({})), not_found);
    }
    let (status, body) = context.operate("GET", "/api/ping", &json!({}));
    assert_eq!(
        (status, body.contains("Tenant not found in database")),
        (401, true)
    );
    assert_eq!(
        context.operate("DELETE", &context.path(), &json!({})).0,
        204
    );
}

fn changes_at_once_keep_one_of_them_whole(context: &Context<'_>) {
    std::thread::scope(|scope| {
        for thread in 0..10 {
            scope.spawn(move || {
                for n in 0..10 {
                    let value = 1000 + thread * 10 + n;
                    let changed = context.change(
                        &json!({"name": value.to_string(), "max_events_per_second": value,
                        "max_joins_per_second": value.to_string()}),
                    );
                    assert_eq!(changed["name"], value.to_string());
                    assert_eq!(changed["max_joins_per_second"], value);
                }
            });
        }
    });
    let (_, body) = context.operate("GET", &context.path(), &json!({}));
    let body: Value = serde_json::from_str(&body).expect("it is JSON");
    let data = &body["data"];
    let numbers: BTreeSet<String> = ["max_events_per_second", "max_joins_per_second"]
        .map(|name| data[name].to_string())
        .into();
    assert_eq!(numbers.len(), 1, "{data}");
    assert_eq!(numbers.first().map(String::as_str), data["name"].as_str());
    // The last one that each thread has sent came after its others.
    let last = data["max_events_per_second"].as_i64().expect("a number");
    assert_eq!(last % 10, 9, "{data}");
}

fn tenants_are_listed_for_operators(context: &Context<'_>) {
    let (status, body) = context.operate("GET", "/api/tenants", &json!({}));
    let body: Value = serde_json::from_str(&body).expect("it is JSON");
    let list = body["data"].as_array().expect("a list");
    assert_eq!(status, 200);
    assert!(
        list.iter()
            .any(|it| it["external_id"] == json!(context.tenant))
    );
    assert!(list.iter().all(|it| it["jwt_secret"].is_null()));
    for path in ["/api/tenants", "/api/tenants/nosuch", &context.path()] {
        let answer = context.http("GET", path, &[("authorization", "Bearer potato")], b"");
        assert!(
            matches!(&answer, Event::Upgrade { status: 403, body, .. } if body.is_empty()),
            "{answer:?}"
        );
    }
    let document = context.operate("GET", "/api/openapi", &json!({}));
    let document: Value = serde_json::from_str(&document.1).expect("it is JSON");
    assert!(document["paths"]["/api/tenants/{tenant_id}"]["delete"].is_object());
}

//! The pages in the binary, over real sockets: what a browser gets, what a program gets, and whether the figures are true.

use serde_json::{Value, json};

use super::{Case, Context, TIMEOUT, V2, none};
use crate::clock;
use crate::socket::{Event, Headers};

const BROWSER: (&str, &str) = (
    "accept",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
);

pub const CASES: &[Case] = &[
    Case {
        name: "pages_come_with_all_their_files",
        limits: none,
        run: |context| {
            for path in ["/", "/status", "/swaggerui"] {
                let (status, headers, page) = answer(context, "GET", path, &[]);
                assert_eq!(status, 200, "{path}");
                let policy = &headers["content-security-policy"];
                assert!(policy.starts_with("default-src 'none'"), "{policy}");
                let (status, of_head, body) = answer(context, "HEAD", path, &[]);
                assert_eq!((status, body.as_str()), (200, ""), "{path}");
                for name in ["content-length", "content-type", "etag"] {
                    assert_eq!(headers[name], of_head[name], "{path}");
                }
                let known = [("if-none-match", headers["etag"].as_str())];
                let (status, _, body) = answer(context, "GET", path, &known);
                assert_eq!((status, body.as_str()), (304, ""), "{path}");
                let mut files = page.split("=\"/assets/").skip(1).peekable();
                assert!(files.peek().is_some(), "{path} has no style");
                for file in files {
                    let name = file.split('"').next().expect("a first part");
                    let (status, headers, _) =
                        answer(context, "GET", &format!("/assets/{name}"), &[]);
                    assert_eq!(status, 200, "{name}");
                    assert!(headers["cache-control"].contains("immutable"), "{name}");
                }
            }
        },
    },
    Case {
        name: "only_a_browser_sees_errors_as_pages",
        limits: none,
        run: |context| {
            let (status, _, body) = answer(context, "GET", "/nope", &[]);
            assert_eq!((status, body.as_str()), (404, "Not Found"));
            let (status, headers, body) = answer(context, "GET", "/nope", &[BROWSER]);
            assert_eq!(status, 404);
            assert!(body.contains("<h1>Not Found</h1>"), "{body}");
            let (status, of_head, body) = answer(context, "HEAD", "/nope", &[BROWSER]);
            assert_eq!((status, body.as_str()), (404, ""));
            assert_eq!(headers["content-length"], of_head["content-length"]);
        },
    },
    Case {
        name: "figures_grow_with_what_happens",
        limits: none,
        run: |context| {
            let before = figures(context);
            let mut client =
                context.joined(V2, "realtime:f", &json!({"broadcast": {"self": true}}));
            let payload = json!({"type": "broadcast", "event": "e", "payload": {}});
            for _ in 0..5 {
                client.push("realtime:f", "broadcast", &payload);
                client.expect_fanout("realtime:f", "broadcast", &payload);
            }
            let grown = |after: &Value, name: &str, by: u64| {
                let count = |figures: &Value| figures[name].as_u64().expect("it is a count");
                count(after) >= count(&before) + by
            };
            // Five that were sent and five that came back.
            wait_for(context, |after| {
                grown(after, "messages_total", 10)
                    && grown(after, "joins_total", 1)
                    && grown(after, "received_bytes_total", 100)
                    && grown(after, "sent_bytes_total", 100)
                    && sum(after, "connections") > 0
                    && sum(after, "channels") > 0
                    // What was sent on the channel; a join is counted apart.
                    && sum(after, "messages_total") >= sum(&before, "messages_total") + 5
                    && after["uptime_seconds"].as_f64() > before["uptime_seconds"].as_f64()
            });
            client.expect_alive();
        },
    },
    Case {
        name: "nobody_without_a_password_sees_tenants",
        limits: none,
        run: |context| {
            let text = figures(context).to_string();
            assert!(!text.contains(&context.tenant), "{text}");
            for path in ["/admin/dashboard", "/admin/figures"] {
                let (status, headers, body) = answer(context, "GET", path, &[]);
                assert_eq!((status, body.as_str()), (401, "Unauthorized"));
                assert_eq!(headers["www-authenticate"], "Basic realm=\"Application\"");
            }
        },
    },
];

fn answer(
    context: &Context<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, Headers, String) {
    match context.http(method, path, headers, b"") {
        Event::Upgrade {
            status,
            headers,
            body,
        } => (status, headers, body),
        other => panic!("{other:?} is no answer to {method} {path}"),
    }
}

fn figures(context: &Context<'_>) -> Value {
    let (status, _, body) = answer(context, "GET", "/status/figures", &[]);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("figures are JSON")
}

/// Over all shards.
fn sum(figures: &Value, name: &str) -> u64 {
    let shards = figures["shards"].as_array().expect("there are shards");
    shards.iter().filter_map(|shard| shard[name].as_u64()).sum()
}

/// Figures are read a few times a second, so what has happened is in one of the next.
#[track_caller]
fn wait_for(context: &Context<'_>, is_there: impl Fn(&Value) -> bool) {
    let start = clock::now();
    loop {
        let figures = figures(context);
        if is_there(&figures) {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "{figures}");
    }
}

//! What people and machines may read about the server (spec: http-api 7 to 10).

use super::settings as settings_of_api;
use super::*;
use crate::control::registrar::tests::{Office, run as run_local};
use serde_json::Value;

const BROWSER: &str = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const OPERATOR: &str = "authorization: Basic b3BlcmF0b3I6b3BlcmF0b3I=";

fn json(answer: &Answer) -> Value {
    assert_eq!((answer.status, kind(answer)), (200, "json"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn pages_are_for_people_and_are_not_framed() {
    let stack = Stack::new();
    let check = |request: &str, part: &str| {
        let answer = run(stack.ask(request, ""));
        assert_eq!((answer.status, kind(&answer)), (200, "html"), "{request}");
        assert!(answer.body.contains(part), "{request}: {}", answer.body);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert!(answer.header("x-request-id").is_some());
    };
    check("GET /", "<a href=\"/status\">");
    check("GET /status", "<title>Realtime Status</title>");
    check("GET //status/", "<title>Realtime Status</title>");
    check("GET /swaggerui", "POST /api/tenants");
    check(
        &format!("GET /admin/dashboard | {OPERATOR}"),
        "<title>Realtime Status</title>",
    );
    let info = format!("GET /admin/dashboard/node_info | {OPERATOR}");
    check(&info, "<dt>Region</dt><dd>eu-1</dd>");
    check(&info, "<dt>Name</dt><dd>realtime@127.0.0.1</dd>");
    check("HEAD /", "");
    // Everybody may read how the API works, in whatever way they ask.
    for request in ["GET /api/openapi", "GET /api/openapi | accept: text/html"] {
        let document = json(&run(stack.ask(request, "")));
        assert_eq!(document, openapi::parsed());
    }
    let icon = run(stack.ask("GET /favicon.svg", ""));
    assert_eq!((icon.status, kind(&icon)), (200, "image/svg+xml"));
    let robots = run(stack.ask("GET /robots.txt", ""));
    assert_eq!((robots.status, kind(&robots)), (200, "text"));
}

#[test]
fn a_page_is_sent_compressed_once_or_not_at_all() {
    let stack = Stack::new();
    let ask = |request: &str| run(stack.ask(request, ""));
    let plain = ask("GET /status");
    assert_eq!(plain.header("content-encoding"), None);
    let packed = ask("GET /status | accept-encoding: gzip");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let tag = packed.header("etag").unwrap();
    assert_ne!(Some(tag), plain.header("etag"));
    let known = ask(&format!(
        "GET /status | accept-encoding: gzip | if-none-match: {tag}"
    ));
    assert_eq!((known.status, known.body.as_str()), (304, ""));
    assert_eq!(known.header("etag"), Some(tag));
    // The layer that compresses all other answers leaves this one as it is.
    let refused = ask("GET /status | accept-encoding: gzip;q=0");
    assert_eq!(refused.header("content-encoding"), None);
    assert_eq!(refused.body, plain.body);
    let head = ask("HEAD /status | accept-encoding: gzip");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(
        head.header("content-length"),
        packed.header("content-length")
    );
    assert_eq!(head.header("etag"), Some(tag));
}

#[test]
fn every_file_of_a_page_is_there() {
    let stack = Stack::new();
    let mut found = 0;
    for path in ["/", "/status", "/swaggerui"] {
        let page = run(stack.ask(&format!("GET {path}"), "")).body;
        for part in page.split("\"/assets/").skip(1) {
            let name = part.split('"').next().unwrap();
            let answer = run(stack.ask(&format!("GET /assets/{name}"), ""));
            assert_eq!(answer.status, 200, "{name}");
            let cache = answer.header("cache-control").unwrap();
            assert!(cache.contains("immutable"), "{name}: {cache}");
            found += 1;
        }
    }
    assert!(found >= 5, "{found}");
    for name in ["nosuch.css", "base.css", "", "status/status.html"] {
        let answer = run(stack.ask(&format!("GET /assets/{name}"), ""));
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, "Not Found"),
            "{name}"
        );
    }
}

#[test]
fn only_browsers_get_errors_as_pages() {
    let stack = Stack::new();
    let check = |request: &str, phrase: &str, is_page: bool| {
        let answer = run(stack.ask(request, ""));
        let found = answer.body.contains("<!DOCTYPE html>");
        assert_eq!(found, is_page, "{request}: {answer:?}");
        assert!(answer.body.contains(phrase), "{request}: {answer:?}");
        if is_page {
            assert_eq!(kind(&answer), "html", "{request}");
            let policy = answer.header("content-security-policy").unwrap();
            assert!(policy.contains("default-src 'none'"));
        }
        answer
    };
    let of = |request: &str| format!("{request} | {BROWSER}");
    check("GET /nosuch", "Not Found", false);
    check("GET /nosuch | accept: text/html", "Not Found", false);
    check("GET /nosuch | sec-fetch-dest: empty", "Not Found", false);
    check("GET /nosuch | sec-fetch-dest: document", "Not Found", true);
    check(&of("GET /nosuch"), "<h1>Not Found</h1>", true);
    check(&of("GET /assets/nosuch.js"), "<h1>Not Found</h1>", true);
    check(&of("GET /metrics"), "<h1>Forbidden</h1>", true);
    check("GET /metrics", "", false);
    check(
        &of("GET /api/ping | host: nosuch.x"),
        "Tenant not found in database",
        false,
    );
    let refused = check(&of("GET /admin/dashboard"), "<h1>Unauthorized</h1>", true);
    assert_eq!(refused.status, 401);
    let realm = Some("Basic realm=\"Application\"");
    assert_eq!(refused.header("www-authenticate"), realm);
    // Programs get what the original answers, header for header.
    let refused = check("GET /admin/dashboard", "Unauthorized", false);
    assert_eq!((refused.status, kind(&refused)), (401, "-"));
    assert_eq!(refused.body, "Unauthorized");
    assert_eq!(refused.header("www-authenticate"), realm);
    let policy = "base-uri 'self'; frame-ancestors 'self';";
    assert_eq!(refused.header("content-security-policy"), Some(policy));
    let upgrade = check(&of("GET /socket/websocket | host: a.x"), "", false);
    assert!(upgrade.status >= 400, "{upgrade:?}");
}

#[test]
fn figures_are_what_was_counted() {
    let stack = Stack::new();
    let before = json(&run(stack.ask("GET /status/figures", "")));
    assert_eq!(before["tenants"], 5);
    assert_eq!(before["node"], "realtime@127.0.0.1");
    assert_eq!(before["region"], "eu-1");
    assert_eq!(before["shards"][0]["connections"], 0);
    let instruments = stack.api.metrics.instruments();
    instruments.runtime[0].connections.add(7);
    instruments.board[0].channels.add(3);
    let after = run(stack.ask("GET /status/figures", ""));
    assert_eq!(after.header("cache-control"), Some("no-store"));
    let after = json(&after);
    assert_eq!(after["shards"][0]["connections"], 7);
    assert_eq!(
        (&after["connections"], &after["channels"]),
        (&7.into(), &3.into())
    );
    // Nothing of a tenant is in it.
    let text = after.to_string();
    for word in ["suspended", "tiny", "\"db\"", "secret"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

#[test]
fn figures_that_cannot_be_had_are_a_500() {
    let stack = Stack::with(Metrics::for_test(None));
    let answer = run(stack.ask("GET /status/figures", ""));
    let found = (answer.status, answer.body.as_str());
    assert_eq!(found, (500, "Internal Server Error"));
}

#[test]
fn polls_write_no_lines() {
    let mut stack = Stack::new();
    run(stack.ask("GET /status/figures", ""));
    assert_eq!((stack.lines)().len(), 0);
    run(stack.ask("GET /status", ""));
    assert_eq!((stack.lines)().len(), 2);
}

#[test]
fn nobody_but_operators_sees_tenants() {
    let stack = Stack::new();
    for request in [
        "GET /admin/figures",
        "GET /admin/dashboard/node_info",
        "HEAD /admin/figures",
        "GET /admin/figures | authorization: Basic b3BlcmF0b3I6b3BlcmF0b3g=",
        "GET /admin/figures | authorization: Bearer b3BlcmF0b3I6b3BlcmF0b3I=",
        "GET //admin//figures/",
    ] {
        let answer = run(stack.ask(request, ""));
        assert_eq!(answer.status, 401, "{request}");
        assert!(
            answer.body.is_empty() || answer.body == "Unauthorized",
            "{request}"
        );
    }
}

/// Tenants `a`, and `db` with a database that cannot be reached, seen by an operator.
#[test]
fn operators_see_how_tenants_are_and_no_secret() {
    run_local(async {
        let mut with_database = record("db");
        with_database.name = "Orders".to_owned();
        with_database.jwt_secret = Some("hidden-secret".to_owned());
        let settings = serde_json::json!({
            "region": "r", "db_host": "127.0.0.1", "db_port": "1", "db_name": "hidden-name", "db_user": "hidden-user",
            "db_password": "hidden-password", "ssl_enforced": false,
        });
        with_database.extensions.push(ExtensionRecord {
            kind: TenantRecord::POSTGRES_CDC.to_owned(),
            settings: settings.as_object().unwrap().clone(),
            inserted_at: 0,
            updated_at: 0,
            sealed: Sealed::default(),
        });
        let operator = "operator";
        let variables = [
            ("DASHBOARD_USER", operator),
            ("DASHBOARD_PASSWORD", operator),
        ];
        let office = Office::open(&[record("a"), with_database], false, &variables);
        let desk = Desk::for_test(|_, _| Err(AskError::Unreachable));
        let metrics = Metrics::for_test(Some("# EOF"));
        let registrar = office.registrar.clone();
        let api = Api::new(
            settings_of_api(),
            &office.environment,
            desk,
            metrics,
            registrar,
        );
        let app = app(&api);
        let look = async || {
            let answer = ask(&api, &app, &format!("GET /admin/figures | {OPERATOR}"), "").await;
            for word in ["hidden", "127.0.0.1"] {
                assert!(!answer.body.contains(word), "{word} in {}", answer.body);
            }
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            json(&answer)
        };
        let before = look().await;
        let names = |found: &Value| [0, 1].map(|at| found["tenants"][at]["external_id"].clone());
        assert_eq!(names(&before), ["a", "db"]);
        let database = |found: &Value, at: usize| found["tenants"][at]["database"]["state"].clone();
        assert_eq!(
            [0, 1].map(|at| database(&before, at)),
            ["not_configured", "idle"]
        );
        let id = office.id("db").unwrap();
        assert!(office.sessions.open(id).await.is_err());
        let after = look().await;
        assert_eq!(names(&after), ["db", "a"], "the one in trouble comes first");
        let row = &after["tenants"][0];
        assert_eq!(
            (&row["name"], &row["database"]["state"]),
            (&"Orders".into(), &"failing".into())
        );
        let code = row["database"]["code"].as_str().unwrap();
        assert_eq!(code, "UnableToConnectToTenantDatabase");
        assert!(
            row["database"]["remedy"]
                .as_str()
                .is_some_and(|it| !it.is_empty())
        );
        let live = Arc::clone(&office.environment.tenants.borrow());
        assert!(live.directory.find("a").unwrap().usage.try_add_user(5));
        assert_eq!(look().await["tenants"][1]["users"], 1);
    });
}

#[test]
fn the_first_click_has_what_it_needs() {
    let stack = Stack::new();
    let found = |host: &str| {
        json(&run(stack.ask(
            &format!("GET /inspector/defaults.json | host: {host}"),
            "",
        )))
    };
    // The tenants of this stack have a secret of their own.
    let of_tenant = found("a.example.com:4000");
    assert_eq!(of_tenant["host"], "http://a.example.com:4000");
    assert_eq!(
        (&of_tenant["tenant"], &of_tenant["token"]),
        (&"a".into(), &Value::Null)
    );
    let of_loopback = found("localhost:4000");
    assert_eq!(of_loopback["host"], "http://a.localhost:4000");
    assert_eq!(found("nosuch.example.com")["host"], Value::Null);
    let codes = json(&run(stack.ask("GET /inspector/codes.json", "")));
    assert!(codes.as_array().unwrap().len() > 20);
}

#[test]
fn every_route_is_described() {
    let document = openapi::parsed();
    let paths = document["paths"].as_object().unwrap();
    let described = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let mut described: Vec<String> = described.collect();
    let known = routes().known;
    let of_api = known.iter().filter(|(method, path)| {
        path.starts_with("/api/") && *path != "/api/openapi" && *method != Method::OPTIONS
    });
    let mut served: Vec<String> = of_api
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}

//! Lines of requests that end before their route is through with them, and what keeps a request from meaning something else.

use super::tenants::Desk;
use super::*;
use crate::control::clock;
use crate::control::registrar::tests::run as run_local;
use crate::error::ErrorCode;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::Method;

/// The coded lines of this request.
fn said(stack: &mut Stack, request: &str, body: &str) -> Vec<(ErrorCode, String)> {
    (stack.lines)();
    run(stack.ask(request, body));
    let lines = (stack.lines)();
    let coded = lines
        .iter()
        .filter_map(|line| Some((line.code?, line.message.to_string())));
    coded.collect()
}

fn line(code: ErrorCode, text: &str) -> Vec<(ErrorCode, String)> {
    vec![(code, code.reason(text))]
}

#[test]
fn what_is_refused_has_the_originals_code_and_what_is_not_has_none() {
    let mut stack = Stack::with(Metrics::for_test(None));
    let authorization = sign_hs256(METRICS_SECRET.as_bytes(), "{}");
    let metrics = format!("GET /metrics | authorization: Bearer {authorization}");
    assert_eq!(
        said(&mut stack, &metrics, ""),
        line(
            ErrorCode::HttpServerError,
            "Sent 500 response: Internal Server Error"
        )
    );
    let unknown = "GET /nope";
    let text = "Sent 404 response: Phoenix.Router.NoRouteError - no route found for GET /nope (RealtimeWeb.Router)";
    assert_eq!(
        said(&mut stack, unknown, ""),
        line(ErrorCode::HttpClientError, text)
    );
    let policy = filled("{private:policy}");
    let coded = said(&mut stack, &policy, "{}");
    assert_eq!(
        coded,
        line(ErrorCode::UnprocessableEntity, "RLS policy error")
    );
    assert_eq!(
        said(&mut stack, &filled("{private:no}"), "{}"),
        [],
        "a denial is no mistake of the request"
    );
    assert_eq!(said(&mut stack, "GET /healthcheck", ""), []);
}

#[test]
fn lines_of_the_management_api_are_about_the_tenant_that_is_asked_for() {
    run_local(async {
        let mut desk = Desk::new();
        let mut said = async |request: &str| {
            desk.ask(request, "").await;
            let lines = (desk.office.lines)().into_iter();
            let of_requests = lines.filter(|line| line.request_id.is_some());
            let said = of_requests.map(|line| {
                let tenant = line.tenant.unwrap_or_default().to_string();
                let text = line.message.split(" in ").next().unwrap().to_owned();
                (tenant, text)
            });
            said.collect::<Vec<_>>()
        };
        let expect = |lines: &[(&str, &str)]| {
            let owned = |(tenant, text): &(&str, &str)| ((*tenant).to_owned(), (*text).to_owned());
            lines.iter().map(owned).collect::<Vec<_>>()
        };
        let known = [("", "GET /api/tenants/a"), ("a", "Sent 200")];
        assert_eq!(said("GET /api/tenants/a").await, expect(&known));
        for path in ["GET /api/tenants/x", "POST /api/tenants/x/reload"] {
            let unknown = [
                ("", path),
                ("x", "TenantNotFound: Tenant not found"),
                ("x", "Sent 404"),
            ];
            assert_eq!(said(path).await, expect(&unknown));
        }
        let long = format!("GET /api/tenants/{}", "x".repeat(256));
        let tenants = said(&long).await.into_iter().map(|(tenant, _)| tenant);
        assert_eq!(tenants.collect::<String>(), "");
    });
}

#[test]
fn metrics_are_told_as_the_chunks_that_they_are() {
    let mut stack = Stack::new();
    for path in ["/metrics", "/metrics/nosuch"] {
        let request = filled(&format!("GET {path} | authorization: Bearer {{metrics}}"));
        let answer = run(stack.ask(&request, ""));
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (200, None)
        );
        let lines = (stack.lines)();
        assert!(lines[1].message.starts_with("Chunked 200 in "), "{lines:?}");
    }
}

#[test]
fn what_balancers_ask_and_sockets_are_no_lines_of_requests() {
    run_local(async {
        let mut desk = Desk::with(Settings {
            healthcheck_is_silent: true,
            ..settings()
        });
        let mut requests = async |request: &str, status: u16| {
            assert_eq!(desk.ask(request, "").await.status, status, "{request}");
            let lines = (desk.office.lines)().into_iter();
            let of_requests = lines.filter(|line| line.request_id.is_some());
            of_requests.filter(|line| line.code.is_none()).count()
        };
        assert_eq!(requests("GET /healthcheck", 200).await, 0);
        assert_eq!(requests("GET /api/tenants/x/health", 404).await, 0);
        let upgrade = "GET /socket/websocket?vsn=7 | host: a.x";
        assert_eq!(requests(upgrade, 403).await, 0);
        assert_eq!(requests("GET /api/tenants/x", 404).await, 2);
    });
}

#[test]
fn a_panic_is_the_servers_mistake() {
    async fn fails() -> Response<Body> {
        panic!("a defect")
    }
    let mut stack = Stack::new();
    stack.app = App::new(Router::new().route("/fails", get(fails)));
    assert_eq!(
        said(&mut stack, "GET /fails", ""),
        line(
            ErrorCode::HttpServerError,
            "Sent 500 response: panic - a defect"
        )
    );
}

#[test]
fn a_token_that_no_key_fits_is_told_to_the_operator() {
    let mut stack = Stack::new();
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"role":"anon","exp":{EXP}}}"#);
    let (header, claims) = (part(r#"{"alg":"RS256","kid":"k"}"#), part(&claims));
    let of = |token: &str| format!("GET /api/ping | host: a.x | apikey: {token}");
    let request = format!(
        "POST /api/broadcast | host: a.x | content-type: application/json | apikey: {header}.{claims}.eA"
    );
    let coded = said(&mut stack, &request, ONE);
    let codes: Vec<_> = coded.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [ErrorCode::JwtSignerError], "{coded:?}");
    // Other tokens that are no good are nobody's business but their sender's.
    let expired = token(r#"{"role":"anon","exp":1}"#);
    assert_eq!(said(&mut stack, &of(&expired), ""), []);
}

#[test]
fn a_binary_payload_counts_with_what_surrounds_it() {
    let stack = Stack::new();
    let request =
        "POST /api/broadcast/t/events/e | host: tiny.x | content-type: application/octet-stream";
    let check = |bytes: usize, status: u16| {
        let answer = run(stack.ask(&with_token(request), &"x".repeat(bytes)));
        assert_eq!(answer.status, status, "{bytes}: {}", answer.body);
    };
    check(1494, 202);
    check(1495, 422);
}

#[test]
fn only_a_post_may_mean_another_method() {
    run_local(async {
        let desk = Desk::new();
        // Of equal keys the last counts.
        let body = r#"{"_method":"PATCH","_method":"DELETE","tenant":{"max_events_per_second":7}}"#;
        for (method, status) in [(Method::PUT, 200), (Method::POST, 204)] {
            let request = format!("{method} /api/tenants/a | content-type: application/json");
            assert_eq!(desk.ask(&request, body).await.status, status, "{method}");
        }
        assert!(desk.office.store.stored("a").await.is_none());
    });
}

#[test]
fn refusals_of_credentials_are_delayed() {
    run_local(async {
        let backoff = Duration::from_secs(2);
        let desk = Desk::with(Settings {
            connect_error_backoff: backoff,
            ..settings()
        });
        let took = async |request: &str, status: u16| {
            let began = clock::now();
            let answer = ask(&desk.api, &desk.app, request, "").await;
            assert_eq!(answer.status, status, "{request}");
            clock::now().duration_since(began)
        };
        let upgrade = "GET /socket/websocket?vsn=2.0.0";
        assert!(took(&format!("{upgrade} | host: a.x"), 401).await >= backoff);
        assert!(took("GET /socket/websocket?vsn=7 | host: a.x", 403).await < backoff);
    });
}

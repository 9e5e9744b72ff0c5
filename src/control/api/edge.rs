//! What surrounds every route: from the bytes of a request to a route that can be found, and from its outcome to a whole answer.
//!
//! What comes in: requests as hyper reads them. What goes out: answers with the headers that all answers have (spec: http-api 1.2
//! to 1.4). What always holds: a panic in a route is a 500 of its request alone (`panic_is_a_500_of_its_request_alone`), and a body
//! is checked before a route is looked for, as in the original. Deliberately absent: what routes do.

use super::body::{self, BodyError, Parameters};
use super::exchange::{Exchange, text_of};
use super::request_id::request_id;
use super::respond::{Cause, Chunked};
use super::{Api, messages, respond, upgrade};
use crate::control::clock;
use crate::control::pages::failure::Browser;
use crate::control::supervise::{caught, panic_text};
use crate::control::traces;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use crate::phoenix;
use axum::Router;
use axum::body::Body;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, HeaderName, HeaderValue, SERVER, VARY,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use tower_http::compression::predicate::SizeAbove;
use tower_http::compression::{Compression, CompressionLayer};

/// The routes with everything around them.
#[derive(Clone)]
pub struct App {
    routes: Compression<Router, SizeAbove>,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CACHE: HeaderValue = HeaderValue::from_static("max-age=0, private, must-revalidate");

impl App {
    /// Surrounds `routes`.
    #[must_use]
    pub fn new(routes: Router) -> Self {
        use tower::Layer;
        // The predicate counts from its number on, the spec from the one above.
        let above = SizeAbove::new(limits::HTTP_COMPRESS_ABOVE_BYTES + 1);
        Self {
            routes: CompressionLayer::new().compress_when(above).layer(routes),
        }
    }

    /// Answers a request.
    pub async fn answer(&self, api: &Api, mut request: Request<Body>) -> Response<Body> {
        let started = clock::now();
        let mut span = traces::request(request.method().as_str(), request.headers());
        let exchange = Exchange::new(request_id(
            request.headers(),
            &api.settings.request_id_baggage_key,
        ));
        let (method, path) = (request.method().clone(), normal_path(request.uri().path()));
        // Parity: sockets are none of the request log's business, also those that are refused.
        let is_silent = upgrade::is_upgrade_path(&path)
            || (api.settings.healthcheck_is_silent && is_about_health(&path));
        let is_logged = api.log.is_enabled(Level::Info) && !is_silent && !is_polled(&path);
        if is_logged {
            let text = format!("{} {}", request.method(), request.uri().path());
            api.log
                .forward(exchange.line(Line::new(clock::unix_ms(), Level::Info, &text)));
        }
        let accept = text_of(request.headers(), ACCEPT).map(str::to_owned);
        let browser = Browser::of(request.headers()).filter(|_| !upgrade::is_upgrade_path(&path));
        let outcome = caught(self.route(api, &exchange, &path, &mut request)).await;
        let mut response = outcome.unwrap_or_else(|panic| {
            let exception = format!("panic - {}", panic_text(&*panic));
            respond::because_of(exchange.failure(accept.as_deref()), &exception)
        });
        log_cause(api, &exchange, &mut response);
        if let Some(browser) = browser {
            let phrase = respond::reason(response.status());
            response = browser.page(response, phrase);
        }
        complete(&exchange, &mut response);
        exchange.trace(&mut span, &method, response.status());
        if is_logged || (!is_silent && response.status().as_u16() >= 400) {
            let took = clock::now().duration_since(started);
            log_outcome(api, &exchange, &response, took);
        }
        response
    }

    async fn route(
        &self,
        api: &Api,
        exchange: &Arc<Exchange>,
        path: &str,
        request: &mut Request<Body>,
    ) -> Response<Body> {
        let accept = text_of(request.headers(), ACCEPT).map(str::to_owned);
        if let Err(status) = check_head(request, api.settings.header_value_bytes_max) {
            let mut response = respond::phrase(status, accept.as_deref());
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        if upgrade::is_upgrade_path(path) {
            exchange.take_route(path);
            let mut response = upgrade::answer(api, exchange, request).await;
            response.extensions_mut().insert(WithoutRequestId);
            return response;
        }
        let mut request = std::mem::take(request);
        let content = std::mem::take(request.body_mut());
        match body::read(&api.budget, request.method(), request.headers(), content).await {
            Ok(parameters) => {
                override_method(&mut request, &parameters);
                rewrite_path(&mut request, path);
                request.extensions_mut().insert(parameters);
                request.extensions_mut().insert(Arc::clone(exchange));
                match self.routes.clone().oneshot(request).await {
                    Ok(response) => response.map(Body::new),
                    Err(never) => match never {},
                }
            }
            Err(error) => refuse_body(error, accept.as_deref()),
        }
    }
}

/// Marks an answer that has no `x-request-id` (spec: http-api 1.4).
#[derive(Copy, Clone)]
struct WithoutRequestId;

fn refuse_body(error: BodyError, accept: Option<&str>) -> Response<Body> {
    let response = respond::phrase(error.status(), accept);
    let mut response = respond::because_of(response, error.exception());
    match error {
        BodyError::Malformed => drop(response.extensions_mut().insert(WithoutRequestId)),
        BodyError::TooLarge => {
            response.extensions_mut().insert(WithoutRequestId);
            // The rest of the body may still be on its way, and nobody wants it.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        BodyError::Late | BodyError::Busy => {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// The bounds of a head that a shard checks for the first request of a connection.
fn check_head(request: &Request<Body>, header_value_bytes_max: usize) -> Result<(), StatusCode> {
    // Method, target, version, and the two spaces between them.
    let line =
        request.method().as_str().len() + request.uri().to_string().len() + " HTTP/1.1".len() + 1;
    if line > limits::HTTP_REQUEST_LINE_BYTES_MAX {
        return Err(StatusCode::URI_TOO_LONG);
    }
    if request
        .headers()
        .values()
        .any(|value| value.len() > header_value_bytes_max)
    {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    Ok(())
}

/// The path as the router knows it: without empty segments, and without the prefix that gateways put before the API (spec:
/// websocket-protocol 1).
fn normal_path(path: &str) -> String {
    let mut segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    if segments.starts_with(&["realtime", "v1", "api"]) {
        segments.drain(..2);
    }
    format!("/{}", segments.join("/"))
}

/// Whether it is a question that balancers and monitors ask all the time (spec: http-api 2).
fn is_about_health(path: &str) -> bool {
    let of_tenant = path
        .strip_prefix("/api/tenants/")
        .and_then(|rest| rest.strip_suffix("/health"));
    path == "/healthcheck" || of_tenant.is_some_and(|tenant| !tenant.contains('/'))
}

/// Whether pages ask for it every second while they are shown: a line for each would hide the others.
fn is_polled(path: &str) -> bool {
    matches!(path, "/status/figures" | "/admin/figures")
}

fn rewrite_path(request: &mut Request<Body>, path: &str) {
    if request.uri().path() == path && request.uri().authority().is_none() {
        return;
    }
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    // What hyper has read as a path is one, also with segments fewer.
    parts.path_and_query = target.parse().ok();
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// A form may say another method than POST (spec: http-api 1.1).
fn override_method(request: &mut Request<Body>, parameters: &Parameters) {
    if request.method() != Method::POST || !parameters.object().contains("_method") {
        return;
    }
    let wanted = messages::member(parameters.object(), "_method").and_then(phoenix::string_value);
    match wanted.map(|method| method.to_ascii_uppercase()).as_deref() {
        Some("PUT") => *request.method_mut() = Method::PUT,
        Some("PATCH") => *request.method_mut() = Method::PATCH,
        Some("DELETE") => *request.method_mut() = Method::DELETE,
        _ => {}
    }
}

/// The headers that all answers have.
fn complete(exchange: &Exchange, response: &mut Response<Body>) {
    let is_anonymous = response.extensions().get::<WithoutRequestId>().is_some();
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(CACHE);
    headers.insert(SERVER, HeaderValue::from_static("realtime"));
    if !is_upgrade {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    // The router's own word about methods, where the original has none.
    headers.remove(ALLOW);
    if !is_anonymous {
        headers.insert(REQUEST_ID, exchange.request_id.clone());
    }
    exchange.mark(headers);
}

/// The coded line of an answer, where it has one: what ends in 5xx always has.
fn log_cause(api: &Api, exchange: &Exchange, response: &mut Response<Body>) {
    let status = response.status();
    let cause = response.extensions_mut().remove::<Cause>();
    let cause = cause.or_else(|| {
        let phrase = status.canonical_reason().unwrap_or_default();
        status.is_server_error().then(|| Cause {
            code: ErrorCode::HttpServerError,
            text: format!("Sent {} response: {phrase}", status.as_u16()),
        })
    });
    if let Some(Cause { code, text }) = cause {
        let line = Line::coded(clock::unix_ms(), code, &text);
        api.log.write(exchange.line(line));
    }
}

fn log_outcome(api: &Api, exchange: &Exchange, response: &Response<Body>, took: Duration) {
    let status = response.status();
    let level = match status.as_u16() {
        ..400 => Level::Info,
        400..500 => Level::Warning,
        _ => Level::Error,
    };
    if api.log.is_enabled(level) {
        let word = match response.extensions().get::<Chunked>() {
            Some(_) => "Chunked",
            None => "Sent",
        };
        let text = format!("{word} {} in {}ms", status.as_u16(), took.as_millis());
        api.log
            .forward(exchange.line(Line::new(clock::unix_ms(), level, &text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_about_health_are_known() {
        let check = |path, expected| assert_eq!(is_about_health(path), expected, "{path}");
        check("/healthcheck", true);
        check("/api/tenants/a/health", true);
        check("/api/tenants/a/b/health", false);
        check("/api/tenants/health", false);
        check("/api/tenants", false);
    }

    #[test]
    fn paths_lose_empty_segments_and_the_gateways_prefix() {
        let check = |path, expected| assert_eq!(normal_path(path), expected, "{path}");
        check("/api/broadcast", "/api/broadcast");
        check("//api//broadcast/", "/api/broadcast");
        check("/realtime/v1/api/broadcast", "/api/broadcast");
        check("/realtime/v1/websocket/", "/realtime/v1/websocket");
        check("/realtime/v1/healthcheck", "/realtime/v1/healthcheck");
        check("/realtime/v1/apix", "/realtime/v1/apix");
        check("/", "/");
        check("*", "/*");
    }
}

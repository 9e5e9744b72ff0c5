//! Answers in the forms that clients match on (spec: http-api 1.2, 1.4).

use super::accept;
use crate::error::{ErrorCode, inspect_errors};
use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};

/// An answer that ends a request before its route is through with it.
pub type Refused = Box<Response<Body>>;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn with_body(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// No body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// What the log hears of an answer, beside its status.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The code of the line.
    pub code: ErrorCode,
    /// Its text.
    pub text: String,
}

/// The same answer with a line in the log.
#[must_use]
pub fn because(
    mut response: Response<Body>,
    code: ErrorCode,
    text: impl Into<String>,
) -> Response<Body> {
    let text = text.into();
    response.extensions_mut().insert(Cause { code, text });
    response
}

/// The same answer with the line that the original writes of an exception: one that ends a request before its route is through with it.
#[must_use]
pub fn because_of(response: Response<Body>, exception: &str) -> Response<Body> {
    let status = response.status();
    let code = if status.is_server_error() {
        ErrorCode::HttpServerError
    } else {
        ErrorCode::HttpClientError
    };
    let text = format!("Sent {} response: {exception}", status.as_u16());
    because(response, code, text)
}

/// 422 with this body, an object with `errors`, of which the log hears.
#[must_use]
pub fn unprocessable(body: String) -> Response<Body> {
    let shown = (body.len() <= SHOWN_ERRORS_BYTES_MAX).then(|| errors_of(&body));
    let text = shown.flatten();
    let text = text.unwrap_or_else(|| format!("<{} bytes of errors>", body.len()));
    let response = json(StatusCode::UNPROCESSABLE_ENTITY, body);
    because(response, ErrorCode::UnprocessableEntity, text)
}

/// More is not shown: a client chooses how many mistakes it makes.
const SHOWN_ERRORS_BYTES_MAX: usize = 16 * 1024;

fn errors_of(body: &str) -> Option<String> {
    let body: Map<String, Value> = serde_json::from_str(body).ok()?;
    body.get("errors")?.as_object().map(inspect_errors)
}

/// Plain text.
#[must_use]
pub fn text(body: impl Into<Body>) -> Response<Body> {
    with_body(StatusCode::OK, TEXT, body)
}

/// Marks an answer that goes out in chunks, as the log tells it (spec: errors-and-logs 1).
#[derive(Copy, Clone, Debug)]
pub struct Chunked;

/// The same answer, which goes out in chunks.
#[must_use]
pub fn chunked(mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Chunked);
    response
}

/// A body that is JSON already.
#[must_use]
pub fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    with_body(status, JSON, body)
}

/// A page for a browser, with the headers that the original gives to its pages.
#[must_use]
pub fn page(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = with_body(status, HTML, body);
    for (name, value) in [
        (
            "content-security-policy",
            "base-uri 'self'; frame-ancestors 'self';",
        ),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("x-content-type-options", "nosniff"),
        ("x-permitted-cross-domain-policies", "none"),
    ] {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Text as it stands in HTML.
#[must_use]
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// `{"message":"…"}`; the text needs no escapes.
#[must_use]
pub fn message(status: StatusCode, text: &str) -> Response<Body> {
    json(status, format!("{{\"message\":\"{text}\"}}"))
}

/// The status phrase, before a route has agreed on a format: HTML, but a JSON string for those who prefer JSON.
#[must_use]
pub fn phrase(status: StatusCode, accept: Option<&str>) -> Response<Body> {
    if accept::prefers_json(accept) {
        phrase_json(status)
    } else {
        with_body(status, HTML, reason(status))
    }
}

/// The status phrase inside a route of the API: always a JSON string.
#[must_use]
pub fn phrase_json(status: StatusCode) -> Response<Body> {
    json(status, format!("\"{}\"", reason(status)))
}

/// The phrases of the original, which are older than those of today's registry.
#[must_use]
pub fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        StatusCode::URI_TOO_LONG => "Request-URI Too Long",
        status => status.canonical_reason().unwrap_or("Unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_page_is_no_markup() {
        assert_eq!(escaped("<a b=\"&\">"), "&lt;a b=&quot;&amp;&quot;&gt;");
    }
}

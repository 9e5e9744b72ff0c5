//! Answers in the forms that clients match on (spec: http-api 1.2, 1.4).

use super::accept;
use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

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

/// Plain text.
#[must_use]
pub fn text(body: impl Into<Body>) -> Response<Body> {
    with_body(StatusCode::OK, TEXT, body)
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

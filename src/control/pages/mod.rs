//! The pages that the binary carries: for people with a browser (spec: http-api 8, 9, 10).
//!
//! What comes in: the path and the headers of a request. What goes out: a file, its compressed twin, or the word that the browser has it
//! already; and what the pages ask for while they are shown ([`figures`], [`invitation`]). What always holds: a page runs scripts and
//! styles of this server alone, and nothing that stands within it (`pages_run_nothing_from_elsewhere`); an answer says the same to
//! whatever encoding it is asked for in (`compressed_is_what_was_asked_for`). Deliberately absent: routes, and who may see what; `api`
//! knows that.

pub mod assets;
pub mod encoding;
pub mod failure;
pub mod figures;
pub mod invitation;
pub mod tenants;
#[cfg(test)]
mod tests;

use crate::error::ErrorCode;
use assets::{File, SOURCES, Site};
use axum::body::Body;
use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde_json::json;
use std::sync::LazyLock;

/// Where pages and files with fixed addresses stand, and which they are. One row an address.
pub const PAGES: &[(&str, &str)] = &[
    ("/", "index.html"),
    ("/inspector", "inspector/inspector.html"),
    ("/inspector/new", "inspector/inspector.html"),
    ("/demo/cursors", "cursors/cursors.html"),
    ("/status", "status/status.html"),
    ("/favicon.svg", "favicon.svg"),
    // What browsers look for beside documents that name no icon.
    ("/favicon.ico", "favicon.svg"),
    ("/robots.txt", "robots.txt"),
];

/// The page that operators get: the same as everybody's, whose script asks for more where it stands here.
pub const DASHBOARD: (&str, &str) = ("/admin/dashboard", "status/status.html");

/// A page below it, which is asked for to see that operators get in.
pub const NODE_INFO: (&str, &str) = ("/admin/dashboard/node_info", "status/node_info.html");

/// Nothing but what this server sends; connections go wherever the person at the page wants to connect.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' http: https: ws: wss:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

static SITE: LazyLock<Site> =
    LazyLock::new(|| Site::prepare(SOURCES).expect("a test prepares the same files"));

/// What the codes mean, as the inspector reads it.
static CODES: LazyLock<File> = LazyLock::new(|| {
    let codes = ErrorCode::ALL.iter().map(|code| {
        json!({
            "code": code.as_str(),
            "level": code.level().as_str(),
            "meaning": code.meaning(),
            "remedy": code.remedy(),
        })
    });
    let codes = serde_json::Value::Array(codes.collect());
    File::new("application/json; charset=utf-8", codes.to_string().into())
});

/// Makes all files ready. It takes a moment, and the first request would wait for it.
pub fn prepare() {
    LazyLock::force(&SITE);
    LazyLock::force(&CODES);
}

/// The page or file at this address.
#[must_use]
pub fn page(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let mut pages = PAGES.iter().chain([&DASHBOARD]);
    let (_, name) = pages.find(|(address, _)| *address == path)?;
    Some(answer(SITE.fixed(name)?, headers, ASK_AGAIN))
}

/// The file of this hashed name, which browsers may keep.
#[must_use]
pub fn asset(name: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    Some(answer(SITE.asset(name)?, headers, FOR_EVER))
}

/// `/inspector/codes.json`.
#[must_use]
pub fn codes(headers: &HeaderMap) -> Response<Body> {
    answer(&CODES, headers, ASK_AGAIN)
}

/// A page that is made while the server runs: the texts take the places of their names in a file of the table.
///
/// # Panics
///
/// When there is no such file.
#[must_use]
pub fn filled(name: &str, texts: &[(&str, &str)]) -> File {
    let file = SITE.fixed(name).expect("it is in the table");
    let mut page = String::from_utf8_lossy(&file.plain).into_owned();
    for (place, text) in texts {
        page = page.replace(&format!("{{{{{place}}}}}"), text);
    }
    File::new(file.kind, page.into())
}

/// Sends a page that was made while the server runs.
#[must_use]
pub fn send(file: &File, headers: &HeaderMap) -> Response<Body> {
    answer(file, headers, ASK_AGAIN)
}

/// The body in an encoding that the request takes, unless the browser has it.
fn answer(file: &File, headers: &HeaderMap, cache: HeaderValue) -> Response<Body> {
    let packed = file.gzip.as_ref().filter(|_| encoding::takes_gzip(headers));
    let tags = [
        format!("\"{}\"", file.hash),
        format!("\"{}-gzip\"", file.hash),
    ];
    let is_known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tags.iter().any(|it| tag == *it));
    let body = match (is_known, packed) {
        (true, _) => Bytes::new(),
        (false, Some(packed)) => packed.clone(),
        (false, None) => file.plain.clone(),
    };
    let mut response = Response::new(Body::from(body));
    let head = response.headers_mut();
    let tag = &tags[usize::from(packed.is_some())];
    head.insert(
        ETAG,
        HeaderValue::from_str(tag).expect("digits and letters"),
    );
    head.insert(CACHE_CONTROL, cache);
    guard(head);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    head.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    if packed.is_some() {
        head.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What a browser may do with an answer.
fn guard(head: &mut HeaderMap) {
    head.insert(CONTENT_SECURITY_POLICY, POLICY);
    head.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    head.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

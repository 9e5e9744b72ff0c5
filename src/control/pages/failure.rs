//! Errors for people: a browser that shows a whole page gets one in the style of the others.
//!
//! What comes in: an answer of 400 or above, and the headers of its request. What goes out: the same answer, or a page with the same
//! words. What always holds: a program gets the exact body of the original, and so does a script in a page
//! (`only_a_browser_that_navigates_gets_a_page`); status and headers stay. Deliberately absent: JSON, which stays as it is for everybody.

use super::encoding;
use axum::body::Body;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue,
};
use hyper::{Response, StatusCode};

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// A browser that is about to show what it is sent.
#[derive(Copy, Clone, Debug)]
pub struct Browser {
    takes_gzip: bool,
}

impl Browser {
    /// None where somebody else asks: a program, or a script in a page.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let navigates = match text(SEC_FETCH_DEST) {
            Some(destination) => destination == "document",
            None => {
                let accept = text(ACCEPT).unwrap_or_default();
                accept.contains("text/html") && accept.contains("application/xhtml+xml")
            }
        };
        navigates.then(|| Self {
            takes_gzip: encoding::takes_gzip(headers),
        })
    }

    /// The same failure as a page; `phrase` is what others read.
    #[must_use]
    pub fn page(self, response: Response<Body>, phrase: &str) -> Response<Body> {
        let status = response.status();
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if status.as_u16() < 400 || is_json {
            return response;
        }
        let file = super::filled(
            "error.html",
            &[
                ("status", status.as_str()),
                ("phrase", phrase),
                ("advice", advice(status)),
            ],
        );
        let packed = file.gzip.filter(|_| self.takes_gzip);
        let (mut head, _) = response.into_parts();
        for name in [CONTENT_LENGTH, CONTENT_ENCODING, ETAG] {
            head.headers.remove(name);
        }
        super::guard(&mut head.headers);
        head.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
        head.headers
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if packed.is_some() {
            head.headers
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Response::from_parts(head, packed.unwrap_or(file.plain).into())
    }
}

/// What a person may do about it.
fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "The request makes no sense to the server.",
        401 => {
            "This page is for operators: it wants the name in DASHBOARD_USER and the password in DASHBOARD_PASSWORD. Without both being set nobody gets in."
        }
        403 => {
            "This address wants a token in the Authorization header, which a browser does not send by itself."
        }
        404 => {
            "There is no page at this address. Perhaps it was moved, or the address has a letter too many."
        }
        406 => "This address answers in JSON alone. It is meant for programs.",
        429 => "Too many requests have come of late. Wait a moment.",
        503 => "The server has too much to do right now. Try again in a moment.",
        500.. => "Something went wrong in the server. Its log says what.",
        _ => "The server does not take this request.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_browser_that_navigates_gets_a_page() {
        let check = |pairs: &[(HeaderName, &str)], expected: bool| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, value.parse().unwrap());
            }
            assert_eq!(Browser::of(&headers).is_some(), expected, "{pairs:?}");
        };
        let of_browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        check(&[(ACCEPT, of_browser)], true);
        check(&[(SEC_FETCH_DEST, "document")], true);
        check(&[(SEC_FETCH_DEST, "empty"), (ACCEPT, of_browser)], false);
        check(&[(SEC_FETCH_DEST, "script"), (ACCEPT, "*/*")], false);
        check(&[(ACCEPT, "*/*")], false);
        check(&[(ACCEPT, "text/html")], false);
        check(&[(ACCEPT, "application/json")], false);
        check(&[], false);
    }

    #[test]
    fn a_page_of_errors_keeps_status_and_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_FETCH_DEST, HeaderValue::from_static("document"));
        let browser = Browser::of(&headers).unwrap();
        let answer = |status: u16, kind: Option<&'static str>| {
            let mut response = Response::new(Body::from("x"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let head = response.headers_mut();
            head.insert("x-rate-limit", HeaderValue::from_static("7"));
            head.insert(CONTENT_LENGTH, HeaderValue::from_static("1"));
            if let Some(kind) = kind {
                head.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            browser.page(response, "Whatever")
        };
        let check = |status, kind, is_page: bool| {
            let response = answer(status, kind);
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["x-rate-limit"], "7");
            let has_policy = response.headers().contains_key("content-security-policy");
            assert_eq!(has_policy, is_page, "{status} {kind:?}");
            assert_eq!(response.headers().contains_key(CONTENT_LENGTH), !is_page);
        };
        check(404, Some("text/html; charset=utf-8"), true);
        check(401, None, true);
        check(500, Some("text/html; charset=utf-8"), true);
        check(404, Some("application/json; charset=utf-8"), false);
        check(200, Some("text/html; charset=utf-8"), false);
        check(304, None, false);
    }
}

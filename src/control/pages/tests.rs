//! Answers as a browser sees them.

use super::*;
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::header::ACCEPT_ENCODING;
use std::io::Read;

/// Headers like `accept-encoding: gzip`.
fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let name: hyper::header::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

fn body(response: Response<Body>) -> Bytes {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    let body = runtime.block_on(response.into_body().collect());
    body.unwrap().to_bytes()
}

fn text(response: &Response<Body>, name: hyper::header::HeaderName) -> &str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Every address of a page, and every asset that pages lead to.
fn everything(lines: &[&str]) -> Vec<(String, Response<Body>)> {
    let headers = headers(lines);
    let pages = PAGES.iter().chain([&DASHBOARD]);
    let mut found: Vec<_> = pages
        .map(|(path, _)| ((*path).to_owned(), page(path, &headers).unwrap()))
        .collect();
    let mut names: Vec<String> = Vec::new();
    for (_, name) in PAGES {
        let text = String::from_utf8_lossy(&SITE.fixed(name).unwrap().plain).into_owned();
        let parts = text.split(assets::ASSETS).skip(1);
        names.extend(parts.map(|part| part.split('"').next().unwrap().to_owned()));
    }
    names.sort();
    names.dedup();
    assert!(names.len() >= 3, "{names:?}");
    found.extend(names.into_iter().map(|name| {
        let answer = asset(&name, &headers).unwrap();
        (name, answer)
    }));
    found
}

#[test]
fn pages_run_nothing_from_elsewhere() {
    for (name, answer) in everything(&[]) {
        let policy = text(&answer, CONTENT_SECURITY_POLICY);
        let directives: Vec<&str> = policy.split(';').map(str::trim).collect();
        for expected in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(directives.contains(&expected), "{name}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{name}: {policy}");
        assert_eq!(text(&answer, X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(text(&answer, REFERRER_POLICY), "no-referrer");
    }
}

#[test]
fn compressed_is_what_was_asked_for() {
    let plain = everything(&[]);
    let packed = everything(&["accept-encoding: gzip, br"]);
    let refused = everything(&["accept-encoding: gzip;q=0, *"]);
    let mut packed_count = 0;
    for (((name, plain), (_, packed)), (_, refused)) in plain.into_iter().zip(packed).zip(refused) {
        assert_eq!(text(&plain, CONTENT_ENCODING), "", "{name}");
        assert_eq!(text(&refused, CONTENT_ENCODING), "", "{name}");
        assert_eq!(text(&plain, CONTENT_TYPE), text(&packed, CONTENT_TYPE));
        let is_packed = text(&packed, CONTENT_ENCODING) == "gzip";
        let (one, other) = (
            text(&plain, ETAG).to_owned(),
            text(&packed, ETAG).to_owned(),
        );
        assert_eq!(
            one != other,
            is_packed,
            "each encoding has a tag of its own"
        );
        let (plain, packed, refused) = (body(plain), body(packed), body(refused));
        assert_eq!(plain, refused, "{name}");
        if is_packed {
            packed_count += 1;
            let mut unpacked = Vec::new();
            let mut decoder = GzDecoder::new(&*packed);
            decoder.read_to_end(&mut unpacked).unwrap();
            assert!(plain == unpacked && packed.len() < plain.len(), "{name}");
        } else {
            assert_eq!(plain, packed, "{name}");
            assert!(plain.len() <= 300, "{name} is worth it");
        }
    }
    assert!(packed_count >= 3);
}

#[test]
fn a_browser_that_has_it_is_not_sent_it_again() {
    let first = page("/", &headers(&["accept-encoding: gzip"])).unwrap();
    let tag = text(&first, ETAG).to_owned();
    let check = |value: &str, expected: u16| {
        let asked = headers(&["accept-encoding: gzip", &format!("if-none-match: {value}")]);
        let answer = page("/", &asked).unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{value}");
        assert_eq!(text(&answer, ETAG), tag);
        assert_eq!(text(&answer, CACHE_CONTROL), "no-cache");
        assert_eq!(text(&answer, CONTENT_TYPE).is_empty(), expected == 304);
        assert_eq!(body(answer).is_empty(), expected == 304);
    };
    check(&tag, 304);
    check(&format!("W/{tag}"), 304);
    check(&format!("\"other\", {tag}"), 304);
    check("*", 304);
    check(&tag.replace("-gzip", ""), 304);
    check("\"other\"", 200);
    check(&tag[..tag.len() - 1], 200);
    check("", 200);
}

#[test]
fn what_has_a_hash_in_its_name_is_kept_and_pages_are_asked_for_again() {
    for (name, answer) in everything(&[]) {
        let expected = match name.strip_prefix('/') {
            Some(_) => "no-cache",
            None => "public, max-age=31536000, immutable",
        };
        assert_eq!(text(&answer, CACHE_CONTROL), expected, "{name}");
    }
    let none = HeaderMap::new();
    for name in [
        "",
        "base.css",
        "base-00000000.css",
        "../index.html",
        "index.html",
    ] {
        assert!(asset(name, &none).is_none(), "{name}");
    }
    assert!(page("/nosuch", &none).is_none() && page("index.html", &none).is_none());
}

#[test]
fn every_code_says_what_it_means_and_what_to_do() {
    let answer = codes(&headers(&[&format!("{ACCEPT_ENCODING}: identity")]));
    assert!(text(&answer, CONTENT_TYPE).starts_with("application/json"));
    let codes: serde_json::Value = serde_json::from_slice(&body(answer)).unwrap();
    let codes = codes.as_array().unwrap();
    assert_eq!(codes.len(), ErrorCode::ALL.len());
    for code in codes {
        for name in ["code", "level", "meaning", "remedy"] {
            let is_text = code[name].as_str().is_some_and(|text| !text.is_empty());
            assert!(is_text, "{name} of {code}");
        }
    }
}

#[test]
fn texts_take_the_places_of_their_names() {
    let file = filled(
        "error.html",
        &[
            ("status", "404"),
            ("phrase", "Not Found"),
            ("advice", "Look"),
        ],
    );
    let page = str::from_utf8(&file.plain).unwrap();
    assert!(page.contains("<h1>Not Found</h1>") && page.contains(">404<") && page.contains("Look"));
    assert!(!page.contains("{{"), "{page}");
    let index = SITE.fixed("index.html").unwrap();
    let version = concat!("Version ", env!("CARGO_PKG_VERSION"));
    assert!(str::from_utf8(&index.plain).unwrap().contains(version));
}

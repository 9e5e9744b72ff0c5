//! The id of a request: the caller's, where there is one that can be used, else a random one (spec: http-api 1.4).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use std::borrow::Cow;
use uuid::Uuid;

/// The id, fit to be a header's value.
///
/// The W3C `baggage` header wins with the member `baggage_key` (`REQUEST_ID_BAGGAGE_KEY`), 10 to 200 bytes of printable ASCII;
/// then `x-request-id` of 20 to 200 bytes.
#[must_use]
pub fn request_id(headers: &HeaderMap, baggage_key: &str) -> HeaderValue {
    from_baggage(headers, baggage_key)
        .or_else(|| {
            headers
                .get("x-request-id")
                .filter(|value| (20..=200).contains(&value.len()))
                .cloned()
        })
        .unwrap_or_else(random)
}

fn from_baggage(headers: &HeaderMap, key: &str) -> Option<HeaderValue> {
    let members = headers
        .get_all("baggage")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for member in members {
        // Properties of a member follow its value behind a semicolon (W3C Baggage, section 3.3).
        let pair = member.split(';').next().unwrap_or(member);
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        if name.trim() != key {
            continue;
        }
        let value = percent_decoded(value.trim());
        if (10..=200).contains(&value.len())
            && value.iter().all(|byte| (0x20..=0x7e).contains(byte))
        {
            return HeaderValue::from_bytes(&value).ok();
        }
    }
    None
}

fn random() -> HeaderValue {
    let id = BASE64_URL_SAFE_NO_PAD.encode(&Uuid::new_v4().as_bytes()[..15]);
    HeaderValue::from_str(&id).expect("base64 is printable")
}

/// `text` with each `%` and two hexadecimal digits as the byte that they name; anything else stays.
#[must_use]
pub fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |offset: usize| {
            bytes
                .get(at + offset)
                .and_then(|digit| char::from(*digit).to_digit(16))
        };
        let named = digit(1).zip(digit(2)).filter(|_| byte == b'%');
        match named.and_then(|(high, low)| u8::try_from(high << 4 | low).ok()) {
            Some(named) => {
                decoded.push(named);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "request-id";

    fn id(headers: &[(&'static str, &str)]) -> HeaderValue {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        request_id(&map, KEY)
    }

    #[test]
    fn usable_ids_of_the_caller_are_taken() {
        let long = "x".repeat(200);
        let check = |headers: &[(&'static str, &str)], expected: &str| {
            assert_eq!(id(headers), expected, "{headers:?}")
        };
        check(
            &[("baggage", "request-id=abcdef1234567890")],
            "abcdef1234567890",
        );
        check(
            &[("baggage", "a=1, request-id = abcdefghij;p=1")],
            "abcdefghij",
        );
        check(
            &[("baggage", "a=1"), ("baggage", "request-id=abcdefghij")],
            "abcdefghij",
        );
        check(&[("baggage", "request-id=abc%20def%41hij")], "abc defAhij");
        check(
            &[("x-request-id", "12345678901234567890")],
            "12345678901234567890",
        );
        check(&[("x-request-id", &long)], &long);
        check(
            &[
                ("baggage", "request-id=short"),
                ("x-request-id", "12345678901234567890"),
            ],
            "12345678901234567890",
        );
        check(
            &[
                ("baggage", "request-id=abcdefghij"),
                ("x-request-id", "12345678901234567890"),
            ],
            "abcdefghij",
        );
    }

    #[test]
    fn other_ids_are_replaced_by_random_ones() {
        let too_long = "x".repeat(201);
        let in_baggage = format!("request-id={too_long}");
        let check = |headers: &[(&'static str, &str)]| {
            let made = id(headers);
            assert_eq!(made.len(), 20, "{headers:?}");
            assert_ne!(made, id(headers), "{headers:?}");
        };
        check(&[]);
        check(&[("x-request-id", "1234567890123456789")]);
        check(&[("x-request-id", &too_long)]);
        check(&[("baggage", "request-id=123456789")]);
        check(&[("baggage", &in_baggage)]);
        check(&[("baggage", "request-id=abcdefghij%0A")]);
        check(&[("baggage", "request-id=abcdefghij%c3%bc")]);
        check(&[("baggage", "Request-Id=abcdefghij")]);
    }

    #[test]
    fn percent_signs_without_digits_stay() {
        let check = |text, expected: &[u8]| assert_eq!(&*percent_decoded(text), expected, "{text}");
        check("a%2Fb", b"a/b");
        check("100%", b"100%");
        check("%2", b"%2");
        check("%zz%41", b"%zzA");
        check("%+1", b"%+1");
    }
}

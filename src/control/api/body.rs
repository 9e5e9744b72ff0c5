//! Request bodies: bytes to parameters, before a route is looked for (spec: http-api 1.3).
//!
//! What comes in: a body and its content type. What goes out: [`Parameters`], checked. What always holds: a body is at most
//! [`limits::HTTP_BODY_BYTES_MAX`] bytes, all bodies together at most [`limits::HTTP_BODIES_BYTES_MAX`], and none takes longer
//! than [`limits::HTTP_BODY_TIMEOUT`]. Deliberately absent: bodies of types that nobody reads; they are not read.

use super::form;
use crate::limits;
use crate::phoenix;
use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a request says in its body.
#[derive(Clone, Debug)]
pub struct Parameters {
    content: Content,
    /// Kept as long as the bytes are.
    _held: Arc<Held>,
}

#[derive(Clone, Debug)]
enum Content {
    /// A JSON object: the body, what was made of a form, or `{}`.
    Object(String),
    /// `application/octet-stream`.
    Raw(Bytes),
}

impl Parameters {
    /// The JSON object; `{}` for opaque bytes.
    #[must_use]
    pub fn object(&self) -> &str {
        match &self.content {
            Content::Object(text) => text,
            Content::Raw(_) => "{}",
        }
    }

    /// Opaque bytes, where the body was that.
    #[must_use]
    pub fn raw(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Object(_) => None,
            Content::Raw(bytes) => Some(bytes),
        }
    }
}

/// Why a body could not be taken.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum BodyError {
    /// Not what its type says.
    Malformed,
    /// More bytes than a body may have.
    TooLarge,
    /// It did not arrive in time.
    Late,
    /// Too many bytes of other bodies are held.
    Busy,
}

impl BodyError {
    /// The answer's status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the log says of it: the original's exception, where it has one.
    #[must_use]
    pub const fn exception(self) -> &'static str {
        match self {
            Self::Malformed => "Plug.Parsers.ParseError - malformed request",
            Self::TooLarge => "Plug.Parsers.RequestTooLargeError - the request is too large",
            Self::Late => "Plug.TimeoutError - the body did not arrive in time",
            Self::Busy => "too many bytes of other bodies are held",
        }
    }
}

/// Bytes of bodies that are held now, over all requests.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// The part of the budget that one body holds.
#[derive(Debug)]
struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    fn grow(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.budget.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if self.budget.0.load(Ordering::Relaxed) > limits::HTTP_BODIES_BYTES_MAX {
            Err(BodyError::Busy)
        } else {
            Ok(())
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The media type of a content type's value: `application/json` of `Application/JSON; charset=utf-8`.
#[must_use]
pub fn media_type(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Reads the parameters of a request.
///
/// # Errors
///
/// [`BodyError`]; the caller answers it, and nothing more is read from the connection.
pub async fn read(
    budget: &Budget,
    method: &Method,
    headers: &HeaderMap,
    body: Body,
) -> Result<Parameters, BodyError> {
    let mut held = Held {
        budget: budget.clone(),
        bytes: 0,
    };
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = media_type(content_type);
    let is_json =
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    let is_read = is_json
        || matches!(
            kind.as_str(),
            "application/octet-stream"
                | "application/x-www-form-urlencoded"
                | "multipart/form-data"
        );
    let has_body = matches!(
        *method,
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE
    );
    let content = if is_read && has_body {
        let mut body = body;
        let collected = collect(&mut held, headers, &mut body);
        let bytes = tokio::time::timeout(limits::HTTP_BODY_TIMEOUT, collected)
            .await
            .unwrap_or(Err(BodyError::Late));
        if bytes.is_err() {
            discard(&mut body).await;
        }
        parse(is_json, &kind, content_type, bytes?)?
    } else {
        Content::Object("{}".to_owned())
    };
    Ok(Parameters {
        content,
        _held: Arc::new(held),
    })
}

async fn collect(
    held: &mut Held,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Vec<u8>, BodyError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limits::HTTP_BODY_BYTES_MAX as u64) {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        // A connection that ends within a body, or chunks that are none: there is nobody left to tell which.
        let frame = frame.map_err(|_| BodyError::Malformed)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limits::HTTP_BODY_BYTES_MAX {
            return Err(BodyError::TooLarge);
        }
        held.grow(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Takes the rest of a body that is refused, within bounds: a connection that is closed while the client still sends is reset, and the
/// answer is lost with it.
async fn discard(body: &mut Body) {
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > limits::HTTP_DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    // Whether it came to its end or not, the connection is closed behind the answer.
    let _ = tokio::time::timeout(limits::LINGER, rest).await;
}

fn parse(
    is_json: bool,
    kind: &str,
    content_type: &str,
    bytes: Vec<u8>,
) -> Result<Content, BodyError> {
    if is_json {
        return json(bytes).map(Content::Object);
    }
    let form = match kind {
        "application/x-www-form-urlencoded" => {
            std::str::from_utf8(&bytes).ok().and_then(form::urlencoded)
        }
        "multipart/form-data" => form::multipart(content_type, &bytes),
        _ => return Ok(Content::Raw(Bytes::from(bytes))),
    };
    form.map(|form: Map<String, Value>| Content::Object(Value::Object(form).to_string()))
        .ok_or(BodyError::Malformed)
}

/// The object that a JSON body says: itself, or an object with the key `_json` around another value. No body at all says `{}`.
fn json(bytes: Vec<u8>) -> Result<String, BodyError> {
    if bytes.is_empty() {
        return Ok("{}".to_owned());
    }
    if !phoenix::is_json(&bytes) {
        return Err(BodyError::Malformed);
    }
    let text = String::from_utf8(bytes).map_err(|_| BodyError::Malformed)?;
    let value = text.trim_matches([' ', '\t', '\n', '\r']);
    Ok(if !value.starts_with('{') {
        format!("{{\"_json\":{value}}}")
    } else if value.len() == text.len() {
        text
    } else {
        value.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(content_type: Option<&str>, body: &str) -> Result<Parameters, BodyError> {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(read(
            &Budget::default(),
            &Method::POST,
            &headers,
            Body::from(body.to_owned()),
        ))
    }

    #[test]
    fn content_type_decides_what_a_body_says() {
        let check = |content_type, body: &str, expected: Result<&str, BodyError>| {
            let parameters = parameters(content_type, body);
            assert_eq!(
                parameters
                    .as_ref()
                    .map(Parameters::object)
                    .map_err(|error| *error),
                expected,
                "{content_type:?} {body}"
            );
        };
        let json = Some("application/json");
        check(json, r#"{"a":1.0}"#, Ok(r#"{"a":1.0}"#));
        check(Some("Application/JSON; charset=utf-8"), " {} \n", Ok("{}"));
        check(
            Some("application/vnd.api+json"),
            r#"{"a":1}"#,
            Ok(r#"{"a":1}"#),
        );
        check(json, " [1] ", Ok(r#"{"_json":[1]}"#));
        check(json, "\"x\"", Ok(r#"{"_json":"x"}"#));
        check(json, "", Ok("{}"));
        check(json, " ", Err(BodyError::Malformed));
        check(json, "not json", Err(BodyError::Malformed));
        check(json, "{} {}", Err(BodyError::Malformed));
        check(
            Some("application/x-www-form-urlencoded"),
            "a[b]=%22",
            Ok(r#"{"a":{"b":"\""}}"#),
        );
        check(
            Some("application/x-www-form-urlencoded"),
            "a=%ff",
            Err(BodyError::Malformed),
        );
        check(Some("multipart/form-data"), "x", Err(BodyError::Malformed));
        check(Some("text/plain"), "not json", Ok("{}"));
        check(None, "not json", Ok("{}"));
    }

    #[test]
    fn opaque_bytes_stay_what_they_are() {
        let check = |body: &str| {
            let parameters = parameters(Some("application/octet-stream"), body).unwrap();
            assert_eq!(
                parameters.raw().map(|bytes| &bytes[..]),
                Some(body.as_bytes())
            );
            assert_eq!(parameters.object(), "{}");
        };
        check("");
        check("not json");
    }

    #[test]
    fn largest_body_passes_and_one_byte_more_does_not() {
        let fits = "x".repeat(limits::HTTP_BODY_BYTES_MAX);
        assert!(parameters(Some("application/octet-stream"), &fits).is_ok());
        assert_eq!(
            parameters(Some("application/octet-stream"), &(fits + "x")).unwrap_err(),
            BodyError::TooLarge
        );
    }

    #[test]
    fn budget_is_given_back() {
        let budget = Budget::default();
        let mut held = Held {
            budget: budget.clone(),
            bytes: 0,
        };
        held.grow(limits::HTTP_BODIES_BYTES_MAX).unwrap();
        assert_eq!(held.grow(1), Err(BodyError::Busy));
        drop(held);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}

//! One collector: a POST of bytes.
//!
//! What comes in: protobuf. What goes out: the same, with the headers of the configuration, or why it was not taken. What always holds: an
//! error never holds the URL's credentials or a header's value. Deliberately absent: trying again.

use crate::config::Traces;
use crate::control::client::{Client, chain};
use crate::limits;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// Where spans are posted to.
pub(super) struct Collector {
    client: Client,
    /// Without credentials.
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("authority", &self.uri.authority())
            .finish_non_exhaustive()
    }
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

impl Collector {
    /// The collector of the configuration.
    ///
    /// # Errors
    ///
    /// What of it cannot be used: a sentence.
    pub(super) fn new(traces: &Traces) -> Result<Self, String> {
        let wrong = |what: &str| format!("env {ENDPOINT} (or that of traces alone): {what}");
        let uri: Uri = traces
            .endpoint
            .expose()
            .parse()
            .map_err(|error| wrong(&format!("this is no URL: {error}")))?;
        let mut headers = headers(traces)?;
        let authority = uri
            .authority()
            .ok_or_else(|| wrong("there is no host in it"))?;
        let mut parts = uri.clone().into_parts();
        if let Some((user, host)) = authority.as_str().rsplit_once('@') {
            let basic = format!("Basic {}", BASE64_STANDARD.encode(user));
            let mut basic = HeaderValue::from_str(&basic).expect("base64 is printable");
            basic.set_sensitive(true);
            headers.entry(AUTHORIZATION).or_insert(basic);
            parts.authority = host.parse().ok();
        }
        let uri = Uri::from_parts(parts).map_err(|_| wrong("there is no host in it"))?;
        Ok(Self {
            client: Client::new(&uri, ENDPOINT)?,
            uri,
            headers,
            timeout: Duration::from_millis(traces.timeout_ms),
        })
    }

    /// What posts: its certificate authorities may have to be read again.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Posts, and waits for the answer.
    ///
    /// # Errors
    ///
    /// Why it was not taken: a sentence.
    pub(super) async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let outcome = timeout(self.timeout, self.send(body)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let bound = self.timeout.as_millis();
            Err(format!("it did not answer within {bound} ms"))
        });
        let place = self.uri.authority().map_or("", |it| it.as_str());
        outcome.map_err(|why| format!("the collector at {place}: {why}"))
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| chain(&error))?;
        request.headers_mut().extend(self.headers.clone());
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| chain(&error))?;
        let status = answer.status();
        // What it says of spans that it did not want is its own business; read, the connection can be used again.
        let body = Limited::new(answer.into_body(), limits::TRACES_ANSWER_BYTES_MAX);
        let _ = body.collect().await;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answered {status}"))
        }
    }
}

fn headers(traces: &Traces) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &traces.headers {
        let known = HeaderName::from_bytes(name.as_bytes()).ok();
        let value = HeaderValue::from_str(value.expose()).ok();
        let (Some(known), Some(mut value)) = (known, value) else {
            return Err(format!(
                "env OTEL_EXPORTER_OTLP_TRACES_HEADERS or OTEL_EXPORTER_OTLP_HEADERS: {name:?} is no header with that value"
            ));
        };
        value.set_sensitive(true);
        headers.insert(known, value);
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-protobuf"),
    );
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("realtime/", env!("CARGO_PKG_VERSION"))),
    );
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn collector(variables: &[(&str, &str)]) -> Result<Collector, String> {
        let get = |name: &str| {
            let exporter = [("OTEL_TRACES_EXPORTER", "otlp")];
            let found = exporter
                .iter()
                .chain(variables)
                .find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (config, _) = Config::from_env(get).unwrap();
        Collector::new(&config.traces.unwrap())
    }

    #[tokio::test]
    async fn credentials_of_an_endpoint_are_sent_and_do_not_show() {
        let check = |url: &str, expected: &str| {
            let found = collector(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)]).unwrap();
            assert_eq!(found.uri, expected, "{url}");
            found
        };
        check("http://collector:4318/x?y=1", "http://collector:4318/x?y=1");
        check("http://[::1]:4318", "http://[::1]:4318/");
        let found = check("http://me:secret@collector:9/", "http://collector:9/");
        assert_eq!(found.headers[AUTHORIZATION], "Basic bWU6c2VjcmV0");
        let said = format!("{found:?} {:?}", found.headers);
        assert!(
            !said.contains("c2VjcmV0") && !said.contains("secret@"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn headers_are_sent_and_do_not_show() {
        let found = collector(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2")]).unwrap();
        assert_eq!(found.headers["api-key"], "hunter2");
        assert_eq!(found.headers[CONTENT_TYPE], "application/x-protobuf");
        assert!(!format!("{:?}", found.headers).contains("hunter2"));
    }
}

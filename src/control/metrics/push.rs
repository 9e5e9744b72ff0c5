//! The metrics to somebody who does not come to scrape them (spec: metrics 11).
//!
//! What comes in: `METRICS_PUSHER_*`. What goes out: every `METRICS_PUSHER_INTERVAL_MS` two POSTs, the node's part and that of its
//! tenants, and a line in the log for each that was not taken. What always holds: a push is over before the next one is due, whatever the
//! other side does (`a_push_never_delays_the_next`); neither password nor query of the URL stands in a line
//! (`lines_name_the_host_and_no_secret`). Deliberately absent: trying again; the next push says all of it and more.

use super::pace::Pace;
use super::page::SLICE_BYTES;
use super::{Metrics, Page};
use crate::config::MetricsPusher;
use crate::control::clock;
use crate::control::database::Environment;
use crate::control::log::Log;
use crate::control::supervise::{caught, panic_text};
use crate::error::ErrorCode;
use crate::limits;
use crate::logging::Line;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

/// Starts pushing, if that is wanted. To be called within the `LocalSet`.
pub fn start(metrics: Metrics, environment: &Environment) {
    let Some(settings) = environment.config.metrics.pusher.clone() else {
        return;
    };
    let log = environment.log.clone();
    match Pusher::new(settings, log.clone()) {
        Ok(pusher) => drop(spawn_local(pusher.work(metrics))),
        Err(text) => say(&log, ErrorCode::MetricsPusherException, &text),
    }
}

struct Pusher {
    settings: MetricsPusher,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// With the labels.
    uri: Uri,
    authorization: Option<HeaderValue>,
    log: Log,
}

impl Pusher {
    /// # Errors
    ///
    /// Why nothing can be pushed.
    fn new(settings: MetricsPusher, log: Log) -> Result<Self, String> {
        let uri = with_labels(&settings.url, &settings.extra_labels)
            .parse::<Uri>()
            .map_err(|error| format!("METRICS_PUSHER_URL is no URL: {error}"))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(uri.scheme_str() == Some("https"))?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authorization = settings.password.as_ref().map(|password| {
            let pair = format!("{}:{}", settings.user, password.expose());
            let value = format!("Basic {}", STANDARD.encode(pair));
            let mut value = HeaderValue::from_str(&value).expect("base64 is printable");
            value.set_sensitive(true);
            value
        });
        Ok(Self {
            settings,
            client,
            uri,
            authorization,
            log,
        })
    }

    /// As long as there is a control core.
    async fn work(self, metrics: Metrics) {
        let period = Duration::from_millis(self.settings.period_ms);
        let bound = Duration::from_millis(self.settings.timeout_ms).min(period);
        let mut ticks = interval_at(clock::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let push = timeout(bound, caught(self.push(&metrics)));
            let (code, text) = match push.await {
                Ok(Ok(())) => continue,
                Ok(Err(panic)) => (ErrorCode::MetricsPusherTaskExited, panic_text(&*panic)),
                Err(_) => (
                    ErrorCode::MetricsPusherTimeout,
                    format!("{} took longer than {} ms", self.whom(), bound.as_millis()),
                ),
            };
            say(&self.log, code, &text);
        }
    }

    /// Both parts at the same time.
    async fn push(&self, metrics: &Metrics) {
        let Some(page) = metrics.page().await else {
            // The log knows why it could not be written.
            return;
        };
        let [node, tenants] = Page::parts(&page);
        let outcomes = tokio::join!(self.post(node), self.post(tenants));
        for outcome in [outcomes.0, outcomes.1] {
            if let Err(text) = outcome {
                say(&self.log, ErrorCode::MetricsPusherFailed, &text);
            }
        }
    }

    async fn post(&self, part: Bytes) -> Result<(), String> {
        let failed = |error: &dyn std::error::Error| format!("{}: {}", self.whom(), chain(error));
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "text/plain");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = if self.settings.compresses {
            request = request.header(CONTENT_ENCODING, "gzip");
            gzip(&part).await
        } else {
            part
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        // What the answer says beyond its status is of no use.
        let answer = self.client.request(request).await;
        let status = answer.map_err(|error| failed(&error))?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("{} answered {status}", self.whom()))
        }
    }

    /// The other side, without what may be a secret.
    fn whom(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16();
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        format!("{scheme}://{host}{port}{}", self.uri.path())
    }
}

/// The certificate authorities of the machine, where they are needed.
fn tls(is_needed: bool) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the versions that it was built with");
    let builder = if is_needed {
        builder.with_native_roots().map_err(|error| {
            format!("there are no certificate authorities to check METRICS_PUSHER_URL by: {error}; install them or set SSL_CERT_FILE")
        })?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

/// The URL with a parameter for each pair.
fn with_labels(url: &str, labels: &[(String, String)]) -> String {
    let mut out = url.to_owned();
    for (name, value) in labels {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str("extra_label=");
        for byte in format!("{name}={value}").bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                write!(out, "%{byte:02X}").expect("a string takes everything");
            }
        }
    }
    out
}

/// In slices, as everything that takes long here.
async fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut pace = Pace::default();
    for slice in text.chunks(SLICE_BYTES) {
        encoder.write_all(slice).expect("memory takes everything");
        pace.steps(limits::METRICS_STEPS_PER_SLICE).await;
    }
    encoder.finish().expect("memory takes everything").into()
}

/// An error with its causes: the outermost of hyper's says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").expect("a string takes everything");
        source = cause.source();
    }
    text
}

fn say(log: &Log, code: ErrorCode, text: &str) {
    let text = format!("MetricsPusher: {text}");
    log.write(Line::coded(clock::unix_ms(), code, &text));
}

#[cfg(test)]
mod tests;

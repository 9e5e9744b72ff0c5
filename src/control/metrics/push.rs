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
use crate::control::client::{Client, chain};
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
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

/// Starts pushing, if that is wanted. To be called within the `LocalSet`. What pushes is returned.
pub fn start(metrics: Metrics, environment: &Environment) -> Option<Client> {
    let settings = environment.config.metrics.pusher.clone()?;
    let log = environment.log.clone();
    match Pusher::new(settings, log.clone()) {
        Ok(pusher) => {
            let client = pusher.client.clone();
            spawn_local(pusher.work(metrics));
            Some(client)
        }
        Err(text) => {
            say(&log, ErrorCode::MetricsPusherException, &text);
            None
        }
    }
}

struct Pusher {
    settings: MetricsPusher,
    client: Client,
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
        let client = Client::new(&uri, "METRICS_PUSHER_URL")?;
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
        let mut ticks = interval_at(clock::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.push_in_time(&metrics).await;
        }
    }

    /// One push, over before the next is due.
    async fn push_in_time(&self, metrics: &Metrics) {
        let bound = self.settings.timeout_ms.min(self.settings.period_ms);
        let push = caught(self.push(metrics));
        let (code, text) = match timeout(Duration::from_millis(bound), push).await {
            Ok(Ok(())) => return,
            Ok(Err(panic)) => (ErrorCode::MetricsPusherTaskExited, panic_text(&*panic)),
            Err(_) => (
                ErrorCode::MetricsPusherTimeout,
                format!("{} took longer than {bound} ms", self.whom()),
            ),
        };
        say(&self.log, code, &text);
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

fn say(log: &Log, code: ErrorCode, text: &str) {
    let text = format!("MetricsPusher: {text}");
    log.write(Line::coded(clock::unix_ms(), code, &text));
}

#[cfg(test)]
mod tests;

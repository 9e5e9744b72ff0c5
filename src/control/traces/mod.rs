//! Traces by OpenTelemetry: how long requests and the work in tenants' databases take, and whose they are.
//!
//! What comes in: [`Span`]s of requests and of work, each for as long as it is held. What goes out: posts to a collector
//! ([`OTEL_EXPORTER_OTLP_ENDPOINT`](crate::config::Traces)). What always holds: where no traces are wanted nothing is made and nothing is
//! kept; nobody waits for a collector: spans beyond a bound are dropped and counted (`spans_beyond_the_bound_are_counted`); secrets do not
//! stand in a span. Deliberately absent: shards, whose work is too small and too much to be traced; metrics and logs.

mod collector;
mod courier;

use crate::config::{Sampler, Traces};
use crate::control::client::Client;
use crate::control::clock;
use crate::control::log::Log;
use crate::error::Level;
use crate::logging::{Line, redact};
use courier::Courier;
use hyper::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue, trace};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::sync::OnceLock;

/// The tracer of this process, if traces are wanted.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The end of what is traced.
#[derive(Debug)]
pub struct Flush(Option<Courier>);

impl Flush {
    /// What posts to the collector, where somebody does.
    #[must_use]
    pub fn client(&self) -> Option<Client> {
        self.0.as_ref().and_then(Courier::client).cloned()
    }

    /// Sends what is left, and returns when it is sent or that takes too long.
    pub async fn flush(self) {
        if let Some(courier) = self.0 {
            courier.flush().await;
        }
    }
}

/// Starts tracing as `traces` says. Where spans cannot be sent, the log says why, and there are none: a server that is otherwise well
/// serves. To be called once, within the `LocalSet`.
pub fn start(traces: Option<&Traces>, log: &Log) -> Flush {
    let Some(traces) = traces else {
        return Flush(None);
    };
    let resource = resource(traces);
    let (courier, processor) = match courier::start(traces, &resource, log.clone()) {
        Ok(started) => started,
        Err(why) => {
            let text = format!("There will be no traces: {why}");
            log.write(Line::new(clock::unix_ms(), Level::Error, &text));
            return Flush(None);
        }
    };
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler(traces))
        .with_resource(resource)
        .with_span_processor(processor)
        .build();
    let _ = TRACER.set(provider.tracer("realtime"));
    Flush(Some(courier))
}

fn resource(traces: &Traces) -> Resource {
    let attributes = traces.attributes.iter();
    let attributes = attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    // Nothing of the environment: the configuration has read it.
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(attributes)
        .with_service_name(traces.service_name.clone())
        .build()
}

fn sampler(traces: &Traces) -> opentelemetry_sdk::trace::Sampler {
    use opentelemetry_sdk::trace::Sampler as Sdk;
    let own = match traces.sampler {
        Sampler::All => Sdk::AlwaysOn,
        Sampler::None => Sdk::AlwaysOff,
        Sampler::Part(part) => Sdk::TraceIdRatioBased(part),
    };
    if traces.follows_parent {
        Sdk::ParentBased(Box::new(own))
    } else {
        own
    }
}

/// Something that takes time; it ends when this is dropped.
#[derive(Debug)]
pub struct Span(Option<opentelemetry_sdk::trace::Span>);

/// A request that somebody has sent, as a part of the caller's trace if it names one (`traceparent`).
#[must_use]
pub fn request(method: &str, headers: &HeaderMap) -> Span {
    let start = |tracer: &SdkTracer| {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Caller(headers));
        tracer
            .span_builder(method.to_owned())
            .with_kind(SpanKind::Server)
            .with_attributes([KeyValue::new("http.request.method", method.to_owned())])
            .start_with_context(tracer, &parent)
    };
    Span(TRACER.get().map(start))
}

/// Work in the database of a tenant.
#[must_use]
pub fn work(name: &'static str, tenant: Option<&str>) -> Span {
    let start = |tracer: &SdkTracer| {
        let tenant = tenant.map(|tenant| KeyValue::new("tenant", tenant.to_owned()));
        tracer
            .span_builder(name)
            .with_kind(SpanKind::Client)
            .with_attributes(
                tenant
                    .into_iter()
                    .chain([KeyValue::new("db.system.name", "postgresql")]),
            )
            .start_with_context(tracer, &Context::new())
    };
    Span(TRACER.get().map(start))
}

impl Span {
    /// Says more of it.
    pub fn set(&mut self, key: &'static str, value: &str) {
        if let Some(span) = &mut self.0 {
            trace::Span::set_attribute(span, KeyValue::new(key, redact(value).into_owned()));
        }
    }

    /// The answer to a request, and the route that it has taken, if there is one.
    pub fn answered(&mut self, method: &str, route: Option<&str>, status: u16) {
        let Some(span) = &mut self.0 else {
            return;
        };
        trace::Span::set_attribute(
            span,
            KeyValue::new("http.response.status_code", i64::from(status)),
        );
        if let Some(route) = route {
            trace::Span::update_name(span, format!("{method} {route}"));
            trace::Span::set_attribute(span, KeyValue::new("http.route", route.to_owned()));
        }
        // The standard: what the client has done wrong is no error of the server.
        if status >= 500 {
            trace::Span::set_status(span, Status::error(""));
        }
    }

    /// It has failed, and why.
    pub fn fail(&mut self, why: &str) {
        if let Some(span) = &mut self.0 {
            trace::Span::set_status(span, Status::error(redact(why).into_owned()));
        }
    }
}

/// The headers of a request, to find the caller's trace in.
struct Caller<'a>(&'a HeaderMap);

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .map(hyper::header::HeaderName::as_str)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[tokio::test]
    async fn a_collector_that_cannot_be_asked_costs_the_traces_and_not_the_server() {
        let get = |name: &str| (name == "OTEL_TRACES_EXPORTER").then(|| "otlp".to_owned());
        let (config, _) = crate::config::Config::from_env(get).unwrap();
        let mut traces = config.traces.unwrap();
        traces.endpoint = Secret::new("http://".to_owned());
        let (log, mut lines) = Log::for_test();
        assert!(start(Some(&traces), &log).0.is_none());
        let lines = lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].level, Level::Error);
        assert!(lines[0].message.starts_with("There will be no traces: "));
    }
}

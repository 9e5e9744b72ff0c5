//! From spans to posts: what has ended waits in a bounded queue, and one task sends it in batches.
//!
//! What comes in: spans that ended, on any thread. What goes out: posts, and log lines about what was lost. What always holds: nobody
//! waits; a collector that is away costs the spans of its absence and one line per [`limits::TRACES_LOG_INTERVAL`].

use super::collector::Collector;
use crate::config::Traces;
use crate::control::client::Client;
use crate::control::clock;
use crate::control::log::Log;
use crate::error::Level;
use crate::limits;
use crate::logging::Line;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

/// The way to the task that sends.
#[derive(Debug)]
pub(super) struct Courier {
    parcels: mpsc::Sender<Parcel>,
    client: Option<Client>,
}

/// Hands spans that have ended to the task.
#[derive(Debug)]
pub(super) struct Processor {
    parcels: mpsc::Sender<Parcel>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Parcel {
    Span(Box<SpanData>),
    /// Everything before it is to be sent at once; answered when that is done.
    Flush(oneshot::Sender<()>),
}

/// Starts the task. To be called within the `LocalSet`.
///
/// # Errors
///
/// Why nothing can be sent there.
pub(super) fn start(
    traces: &Traces,
    resource: &Resource,
    log: Log,
) -> Result<(Courier, Processor), String> {
    let collector = Collector::new(traces)?;
    let (mut courier, processor, parcels) = queue(traces.waiting_max as usize);
    courier.client = Some(collector.client().clone());
    let task = Task {
        resource: resource.into(),
        batch_max: traces.batch_max as usize,
        period: Duration::from_millis(traces.period_ms),
        dropped: Arc::clone(&processor.dropped),
        losses: Losses::default(),
        log,
    };
    spawn_local(task.run(parcels, collector));
    Ok((courier, processor))
}

fn queue(waiting_max: usize) -> (Courier, Processor, mpsc::Receiver<Parcel>) {
    let (sender, parcels) = mpsc::channel(waiting_max);
    let processor = Processor {
        parcels: sender.clone(),
        dropped: Arc::default(),
    };
    let courier = Courier {
        parcels: sender,
        client: None,
    };
    (courier, processor, parcels)
}

impl Courier {
    /// What posts to the collector.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Returns when what was handed in is sent, or after [`limits::LAST_TRACES_TIMEOUT`].
    pub(super) async fn flush(self) {
        let (done, is_done) = oneshot::channel();
        let flush = async {
            if self.parcels.send(Parcel::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        let _ = timeout(limits::LAST_TRACES_TIMEOUT, flush).await;
    }
}

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled()
            && self.parcels.try_send(Parcel::Span(Box::new(span))).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What sends.
struct Task {
    resource: ResourceAttributesWithSchema,
    batch_max: usize,
    period: Duration,
    dropped: Arc<AtomicU64>,
    losses: Losses,
    log: Log,
}

impl Task {
    async fn run(mut self, mut parcels: mpsc::Receiver<Parcel>, collector: Collector) {
        while let Some(first) = parcels.recv().await {
            let (batch, flushed) = self.collect(first, &mut parcels).await;
            let count = batch.len() as u64;
            if count > 0 {
                let spans = group_spans_by_resource_and_scope(batch, &self.resource);
                let request = ExportTraceServiceRequest {
                    resource_spans: spans,
                };
                if let Err(error) = collector.post(request.encode_to_vec()).await {
                    self.losses.add(count, error);
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.losses
                    .add(dropped, "too many spans wait to be sent".to_owned());
            }
            if let Some(text) = self.losses.due(Instant::now()) {
                self.log
                    .write(Line::new(clock::unix_ms(), Level::Warning, &text));
            }
            if let Some(done) = flushed {
                // Who waited may have given up.
                let _ = done.send(());
            }
        }
    }

    /// A batch that begins with `first`: it is over when it is full, when its time is, or when somebody wants it sent.
    async fn collect(
        &self,
        first: Parcel,
        parcels: &mut mpsc::Receiver<Parcel>,
    ) -> (Vec<SpanData>, Option<oneshot::Sender<()>>) {
        let end = Instant::now() + self.period;
        let (mut batch, mut next) = (Vec::new(), Some(first));
        loop {
            match next {
                Some(Parcel::Span(span)) => batch.push(*span),
                Some(Parcel::Flush(done)) => return (batch, Some(done)),
                None => return (batch, None),
            }
            if batch.len() >= self.batch_max {
                return (batch, None);
            }
            next = timeout_at(end, parcels.recv()).await.ok().flatten();
        }
    }
}

/// Spans that were lost and not told of yet.
#[derive(Default)]
struct Losses {
    count: u64,
    why: String,
    told: Option<Instant>,
}

impl Losses {
    fn add(&mut self, count: u64, why: String) {
        self.count += count;
        self.why = why;
    }

    /// A sentence, if there is something to tell and it is time for it.
    fn due(&mut self, now: Instant) -> Option<String> {
        let is_early = |told| now.duration_since(told) < limits::TRACES_LOG_INTERVAL;
        if self.count == 0 || self.told.is_some_and(is_early) {
            return None;
        }
        self.told = Some(now);
        let count = std::mem::take(&mut self.count);
        Some(format!("{count} spans were not exported: {}", self.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    #[test]
    fn spans_beyond_the_bound_are_counted() {
        let (_courier, processor, mut parcels) = queue(2);
        let dropped = Arc::clone(&processor.dropped);
        let provider = SdkTracerProvider::builder()
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        for name in ["a", "b", "c", "d", "e"] {
            tracer.span_builder(name).start(&tracer).end();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        for name in ["a", "b"] {
            let Ok(Parcel::Span(span)) = parcels.try_recv() else {
                panic!("the first two have had room")
            };
            assert_eq!(span.name, name);
        }
    }

    #[test]
    fn spans_that_are_not_sampled_take_no_room() {
        let (_courier, processor, mut parcels) = queue(2);
        let provider = SdkTracerProvider::builder()
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOff)
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        tracer.span_builder("a").start(&tracer).end();
        assert!(parcels.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn losses_are_told_of_once_in_a_while() {
        let start = Instant::now();
        let mut losses = Losses::default();
        assert_eq!(losses.due(start), None);
        losses.add(2, "a".to_owned());
        losses.add(1, "b".to_owned());
        let told = losses.due(start).unwrap();
        assert_eq!(told, "3 spans were not exported: b");
        losses.add(1, "c".to_owned());
        assert_eq!(losses.due(start), None);
        let later = start + limits::TRACES_LOG_INTERVAL;
        assert_eq!(losses.due(later).unwrap(), "1 spans were not exported: c");
        assert_eq!(losses.due(later + limits::TRACES_LOG_INTERVAL), None);
    }
}

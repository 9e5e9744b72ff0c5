//! The one place that writes lines, and the bridge from `tracing`, which the control core and the libraries speak.

use super::{Identity, Line, Threshold, format};
use crate::config::LogFormat;
use crate::error::{ErrorCode, Level};
use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Puts lines onto standard output. Clones write to the same place. It may wait for the reader of that output, so shards mail their
/// lines to the control core instead of using one.
#[derive(Clone)]
pub struct Writer(Arc<Inner>);

/// Takes a whole line.
type Put = Box<dyn Fn(&[u8]) + Send + Sync>;

struct Inner {
    format: LogFormat,
    minimum: Threshold,
    region: Option<String>,
    cluster: Option<String>,
    put: Put,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("format", &self.0.format)
            .field("minimum", &self.0.minimum)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer to standard output. `region` and `cluster` stand in JSON lines only, as in the original.
    #[must_use]
    pub fn new(
        format: LogFormat,
        minimum: impl Into<Threshold>,
        region: Option<String>,
        cluster: Option<String>,
    ) -> Self {
        Self::to(put_on_stdout, format, minimum.into(), region, cluster)
    }

    fn to(
        put: impl Fn(&[u8]) + Send + Sync + 'static,
        format: LogFormat,
        minimum: Threshold,
        region: Option<String>,
        cluster: Option<String>,
    ) -> Self {
        Self(Arc::new(Inner {
            format,
            minimum,
            region,
            cluster,
            put: Box::new(put),
        }))
    }

    /// Writes a line, unless its level is too low.
    pub fn write(&self, line: &Line) {
        if !self.0.minimum.lets_pass(line.level) {
            return;
        }
        let text = match self.0.format {
            LogFormat::Text => format::text(line),
            LogFormat::Json => {
                format::json(line, self.0.region.as_deref(), self.0.cluster.as_deref())
            }
        };
        (self.0.put)(text.as_bytes());
    }
}

/// A line goes out whole. When nobody reads standard output any more there is nobody to tell either.
fn put_on_stdout(line: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(line).and_then(|()| stdout.flush());
}

/// Events of `tracing` as lines.
///
/// Fields that have a meaning: `code` (its name leads the message, and its level counts), `tenant`, `request_id`, `sub`, `iss`, `exp`.
/// Other fields follow the message as `key=value`.
#[derive(Debug)]
pub struct TracingLayer {
    writer: Writer,
    unix_ms: fn() -> u64,
}

impl TracingLayer {
    /// Events go to `writer`, with the time that `unix_ms` tells.
    #[must_use]
    pub fn new(writer: Writer, unix_ms: fn() -> u64) -> Self {
        Self { writer, unix_ms }
    }
}

impl<S: Subscriber> Layer<S> for TracingLayer {
    /// Libraries are heard from warnings on, unless everything is wanted.
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let minimum = self.writer.0.minimum.get();
        let target = metadata.target();
        let is_ours = target.starts_with("realtime") || target.starts_with("shards");
        // A coded event may be worse than its macro says, so warnings pass whatever the minimum; `write` decides.
        let heard = if is_ours || minimum == Level::Debug {
            minimum.max(Level::Warning)
        } else {
            Level::Warning
        };
        level_of(*metadata.level()) <= heard
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = level_of(*event.metadata().level());
        self.writer
            .write(&fields.into_line((self.unix_ms)(), level));
    }
}

fn level_of(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
    code: Option<ErrorCode>,
    tenant: Option<Arc<str>>,
    request_id: Option<String>,
    sub: Option<String>,
    iss: Option<String>,
    exp: Option<String>,
}

impl Fields {
    fn set(&mut self, name: &str, value: &str) {
        match name {
            "message" => value.clone_into(&mut self.message),
            "code" => self.code = ErrorCode::parse(value),
            "tenant" => self.tenant = Some(value.into()),
            "request_id" => self.request_id = Some(value.to_owned()),
            "sub" => self.sub = Some(value.to_owned()),
            "iss" => self.iss = Some(value.to_owned()),
            "exp" => self.exp = Some(value.to_owned()),
            name => self.others.extend([" ", name, "=", value]),
        }
    }

    fn into_line(self, unix_ms: u64, level: Level) -> Line {
        let text = self.message + &self.others;
        let line = match self.code {
            Some(code) => Line::coded(unix_ms, code, &text),
            None => Line::new(unix_ms, level, &text),
        };
        let identity = Identity::new(
            self.sub.as_deref(),
            self.iss.as_deref(),
            self.exp.as_deref(),
        );
        let line = Line {
            tenant: self.tenant,
            ..line
        }
        .on_behalf_of(identity);
        match self.request_id {
            Some(request_id) => line.of_request(&request_id),
            None => line,
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// What is written while `work` runs under a subscriber.
    fn written(minimum: Level, work: impl FnOnce(&Writer)) -> Vec<String> {
        let (sender, receiver) = mpsc::channel();
        let put = move |line: &[u8]| {
            sender
                .send(String::from_utf8_lossy(line).into_owned())
                .expect("the test listens")
        };
        let writer = Writer::to(put, LogFormat::Text, minimum.into(), None, None);
        let subscriber =
            tracing_subscriber::registry().with(TracingLayer::new(writer.clone(), || 0));
        tracing::subscriber::with_default(subscriber, || work(&writer));
        drop(writer);
        receiver.try_iter().collect()
    }

    #[test]
    fn events_and_lines_go_to_the_same_place() {
        let lines = written(Level::Info, |writer| {
            tracing::info!("hello");
            writer.write(&Line::new(0, Level::Notice, "mailed"));
            tracing::debug!("not wanted");
            writer.write(&Line::new(0, Level::Debug, "not wanted"));
        });
        assert_eq!(
            lines,
            [
                "00:00:00.000 [info] hello\n",
                "00:00:00.000 [notice] mailed\n"
            ]
        );
    }

    #[test]
    fn fields_of_events_find_their_place() {
        let lines = written(Level::Info, |_| {
            let code = ErrorCode::RpcError.as_str();
            tracing::error!(
                code,
                tenant = "t",
                request_id = "r",
                sub = "s",
                attempt = 3,
                "text {}",
                1
            );
            let code = ErrorCode::ClientJoinRateLimitReached.as_str();
            tracing::warn!(code, "token eyJhbGciOiJIUzI1NiJ9.e30.x");
        });
        let expected = [
            "00:00:00.000 request_id=r project=t external_id=t error_code=RpcError sub=s [error] RpcError: text 1 attempt=3\n",
            "00:00:00.000 error_code=ClientJoinRateLimitReached [critical] ClientJoinRateLimitReached: token <redacted>\n",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn libraries_are_heard_from_warnings_on() {
        let work = |_: &Writer| {
            tracing::info!(target: "hyper", "quiet");
            tracing::warn!(target: "hyper", "loud");
        };
        assert_eq!(
            written(Level::Info, work),
            ["00:00:00.000 [warning] loud\n"]
        );
        assert_eq!(written(Level::Debug, work).len(), 2);
        assert_eq!(written(Level::Error, work), Vec::<String>::new());
    }
}

//! The one place that writes lines.

use super::{Line, Threshold, format};
use crate::config::LogFormat;
use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Level;
    use std::sync::mpsc;

    #[test]
    fn lines_below_the_threshold_are_not_written() {
        let (sender, receiver) = mpsc::channel();
        let put = move |line: &[u8]| {
            sender
                .send(String::from_utf8_lossy(line).into_owned())
                .expect("the test listens")
        };
        let minimum = Threshold::new(Level::Info);
        let writer = Writer::to(put, LogFormat::Text, minimum.clone(), None, None);
        writer.write(&Line::new(0, Level::Notice, "mailed"));
        writer.write(&Line::new(0, Level::Debug, "not wanted"));
        minimum.set(Level::Debug);
        writer.write(&Line::new(0, Level::Debug, "wanted"));
        drop(writer);
        let lines: Vec<String> = receiver.try_iter().collect();
        assert_eq!(
            lines,
            [
                "00:00:00.000 [notice] mailed\n",
                "00:00:00.000 [debug] wanted\n"
            ]
        );
    }
}

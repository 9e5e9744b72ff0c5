//! Log lines on their way to standard output.
//!
//! What comes in: lines of the shards, which have passed their own gate, and lines of the control core, whose coded ones pass a gate
//! here. What goes out: the same, in order, by the one [`Writer`]. What always holds: nobody but a thread of this room waits for
//! whoever reads standard output; while that one does not read, at most [`limits::LOG_LINES_WAITING_MAX`] lines wait, and further
//! ones are counted and told of later. (`lines_beyond_the_bound_are_counted_and_told`)

use super::clock;
use crate::error::Level;
use crate::limits;
use crate::logging::{Gate, Line, Threshold, Writer};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
};
use std::thread::Builder;
use std::time::Duration;

/// Where lines are handed in. Clones lead to the same place.
#[derive(Clone, Debug)]
pub struct Log {
    lines: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
    /// Lines that the gate has held back.
    held_back: Arc<AtomicU64>,
    minimum: Threshold,
}

#[derive(Debug)]
enum Entry {
    /// A line whose gate is here.
    Ours(Line),
    /// A line that may be written as it is.
    Passed(Line),
    /// Nothing comes any more.
    End,
}

/// The thread that writes.
#[derive(Debug)]
pub struct LogThread {
    log: Log,
    /// Says nothing, and ends when the thread does.
    running: Receiver<()>,
}

impl Log {
    /// Starts the thread. Lines below `minimum` (`LOG_LEVEL`) are dropped when they are handed in.
    ///
    /// # Errors
    ///
    /// When the kernel has no thread left.
    pub fn start(writer: Writer, minimum: Threshold) -> io::Result<(Self, LogThread)> {
        let (log, lines) = Self::new(minimum.clone());
        let counts = (Arc::clone(&log.lost), Arc::clone(&log.held_back));
        let run = move || {
            write_lines(
                &lines,
                (&counts.0, &counts.1),
                Gate::new(minimum.clone()),
                |line| writer.write(line),
                clock::unix_ms,
            );
        };
        let running = spawn(run)?;
        Ok((log.clone(), LogThread { log, running }))
    }

    fn new(minimum: impl Into<Threshold>) -> (Self, Receiver<Entry>) {
        let (lines, receiver) = sync_channel(limits::LOG_LINES_WAITING_MAX);
        (
            Self {
                lines,
                lost: Arc::default(),
                held_back: Arc::default(),
                minimum: minimum.into(),
            },
            receiver,
        )
    }

    /// Lines that were lost since nobody reads standard output.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Lines that were held back since their code had had its share; shards count their own.
    #[must_use]
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Whether lines of this level are written at all: asked before their text is made.
    #[must_use]
    pub fn is_enabled(&self, level: Level) -> bool {
        self.minimum.lets_pass(level)
    }

    /// A line of the control core.
    pub fn write(&self, line: Line) {
        self.hand_in(line, Entry::Ours);
    }

    /// A line that a shard has mailed, or one of which all are wanted.
    pub fn forward(&self, line: Line) {
        self.hand_in(line, Entry::Passed);
    }

    fn hand_in(&self, line: Line, entry: impl FnOnce(Line) -> Entry) {
        if self.is_enabled(line.level) && self.lines.try_send(entry(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A log that writes nowhere, for tests: what is returned beside takes the lines that were handed in so far.
    pub fn for_test() -> (Self, impl FnMut() -> Vec<Line>) {
        let (log, receiver) = Self::new(Level::Debug);
        let taken = move || {
            let lines = receiver.try_iter();
            lines
                .filter_map(|entry| match entry {
                    Entry::Ours(line) | Entry::Passed(line) => Some(line),
                    Entry::End => None,
                })
                .collect()
        };
        (log, taken)
    }
}

impl LogThread {
    /// Waits until every line that was handed in is written, but not for a reader that does not read: the process has to end. Lines
    /// that come later are lost.
    pub fn finish(self) {
        self.finish_within(limits::LAST_LOG_LINES_TIMEOUT);
    }

    fn finish_within(self, timeout: Duration) {
        let start = clock::now();
        let left = || timeout.saturating_sub(clock::now().duration_since(start));
        // The thread is gone already only if it has panicked, and then there is nothing to wait for.
        while let Err(TrySendError::Full(_)) = self.log.lines.try_send(Entry::End) {
            let is_running =
                self.running.recv_timeout(left().min(FULL_RETRY)) == Err(RecvTimeoutError::Timeout);
            if !is_running || left().is_zero() {
                return;
            }
        }
        let _ = self.running.recv_timeout(left());
    }
}

/// Starts a thread, and returns what ends with it.
fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<Receiver<()>> {
    let (alive, running): (Sender<()>, _) = channel();
    Builder::new().name("log".to_owned()).spawn(move || {
        run();
        drop(alive);
    })?;
    Ok(running)
}

/// A full queue is tried again this often.
const FULL_RETRY: Duration = Duration::from_millis(10);

/// Lines that wait for the end of their window are looked for this often.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

fn write_lines(
    lines: &Receiver<Entry>,
    (lost, held_back): (&AtomicU64, &AtomicU64),
    mut gate: Gate,
    write: impl Fn(&Line),
    unix_ms: impl Fn() -> u64,
) {
    let mut summed_up = unix_ms();
    let mut told = 0;
    loop {
        match lines.recv_timeout(SUMMARY_EVERY) {
            // Lines without a code are told apart by nothing: a bound would cut the request log.
            Ok(Entry::Ours(line)) if line.code.is_some() => {
                if let Some(line) = gate.pass(line) {
                    write(&line);
                }
            }
            Ok(Entry::Ours(line) | Entry::Passed(line)) => write(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Entry::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = unix_ms();
        held_back.store(gate.suppressed(), Ordering::Relaxed);
        let lost = lost.load(Ordering::Relaxed);
        if lost > told {
            let lines = lost - told;
            told = lost;
            write(&Line::new(
                now,
                Level::Warning,
                &format!("{lines} log lines lost: nobody reads standard output fast enough"),
            ));
        }
        if now.abs_diff(summed_up) >= 1000 {
            summed_up = now;
            gate.summaries(now).iter().for_each(&write);
        }
    }
    // Whatever is left, in windows that are not over as well.
    for line in gate.summaries(u64::MAX) {
        write(&Line {
            unix_ms: unix_ms(),
            ..line
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use std::cell::RefCell;

    fn written(receiver: &Receiver<Entry>, log: (&AtomicU64, &AtomicU64)) -> Vec<String> {
        let out = RefCell::new(Vec::new());
        let gate = Gate::new(Level::Debug);
        write_lines(
            receiver,
            log,
            gate,
            |line| out.borrow_mut().push(line.message.to_string()),
            || 5,
        );
        out.into_inner()
    }

    #[test]
    fn lines_come_out_in_order_and_coded_ones_of_ours_are_gated() {
        let (log, receiver) = Log::new(Level::Info);
        log.write(Line::new(0, Level::Info, "a"));
        log.forward(Line::new(0, Level::Error, "b"));
        log.write(Line::new(0, Level::Debug, "too low"));
        for _ in 0..=limits::LOG_LINES_PER_WINDOW_MAX {
            log.write(Line::coded(0, ErrorCode::MalformedJWT, "x"));
        }
        log.lines.send(Entry::End).unwrap();
        let lines = written(&receiver, (&log.lost, &log.held_back));
        assert_eq!(log.held_back(), 1);
        assert_eq!(lines[..2], ["a", "b"]);
        assert_eq!(
            lines.len(),
            2 + limits::LOG_LINES_PER_WINDOW_MAX as usize + 1,
            "{lines:?}"
        );
        assert!(
            lines
                .last()
                .is_some_and(|line| line.contains("1 lines suppressed")),
            "{lines:?}"
        );
    }

    #[test]
    fn the_end_waits_for_lines_but_not_for_a_reader_that_does_not_read() {
        for lines_waiting in [1, limits::LOG_LINES_WAITING_MAX] {
            let (log, lines) = Log::new(Level::Info);
            let (reader, stuck) = channel::<()>();
            for _ in 0..lines_waiting {
                log.forward(Line::new(0, Level::Info, "line"));
            }
            // Its first write never returns while the test runs.
            let running = spawn(move || {
                let _ = stuck.recv();
                drop(lines);
            })
            .unwrap();
            LogThread { log, running }.finish_within(Duration::from_millis(50));
            drop(reader);
        }
        let (log, lines) = Log::new(Level::Info);
        let (written, done) = channel();
        let counts = (Arc::clone(&log.lost), Arc::clone(&log.held_back));
        let running = spawn(move || {
            let write = |line: &Line| {
                let message = line.message.to_string();
                written.send((line.unix_ms, message)).unwrap();
            };
            write_lines(
                &lines,
                (&counts.0, &counts.1),
                Gate::new(Level::Info),
                write,
                || 5,
            );
        })
        .unwrap();
        log.forward(Line::new(0, Level::Info, "last"));
        for _ in 0..=limits::LOG_LINES_PER_WINDOW_MAX {
            log.write(Line::coded(1, ErrorCode::MalformedJWT, "x"));
        }
        LogThread { log, running }.finish();
        let written: Vec<_> = done.try_iter().collect();
        assert_eq!(written[0], (0, "last".to_owned()));
        // What was held back is told with the time of the end, which the clock of this test says is 5.
        let (unix_ms, last) = written.last().unwrap();
        assert!(
            *unix_ms == 5 && last.contains("1 lines suppressed"),
            "{last}"
        );
    }

    #[test]
    fn lines_beyond_the_bound_are_counted_and_told() {
        let (log, receiver) = Log::new(Level::Info);
        for _ in 0..limits::LOG_LINES_WAITING_MAX + 3 {
            log.forward(Line::new(0, Level::Info, "line"));
        }
        drop(log.lines);
        let lines = written(&receiver, (&log.lost, &log.held_back));
        assert_eq!(log.lost.load(Ordering::Relaxed), 3);
        assert_eq!(lines.len(), limits::LOG_LINES_WAITING_MAX + 1);
        assert!(lines[1].starts_with("3 log lines lost"), "{}", lines[1]);
    }
}

//! Which lines are worth writing: the level, and a bound per code and tenant, so that no client can fill a disk.

use super::{Line, Threshold};
use crate::error::{ErrorCode, Level};
use crate::limits;
use std::collections::HashMap;
use std::sync::Arc;

/// What one thread lets through. Each shard has its own, so the bounds hold per shard.
#[derive(Debug)]
pub struct Gate {
    minimum: Threshold,
    windows: HashMap<Key, Window, foldhash::fast::RandomState>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    code: Option<ErrorCode>,
    level: Level,
    tenant: Option<Arc<str>>,
}

#[derive(Debug)]
struct Window {
    started_unix_ms: u64,
    written: u32,
    suppressed: u64,
}

impl Gate {
    /// Lets through what is at least as bad as `minimum`: `LOG_LEVEL`.
    #[must_use]
    pub fn new(minimum: impl Into<Threshold>) -> Self {
        Self {
            minimum: minimum.into(),
            windows: HashMap::default(),
        }
    }

    /// Whether a line of this level can pass at all: asked before its text is made.
    #[must_use]
    pub fn is_enabled(&self, level: Level) -> bool {
        self.minimum.lets_pass(level)
    }

    /// The line if it is to be written, nothing if its level is too low or its code has had its share
    /// ([`limits::LOG_LINES_PER_WINDOW_MAX`]).
    #[must_use]
    pub fn pass(&mut self, line: Line) -> Option<Line> {
        if !self.is_enabled(line.level) {
            return None;
        }
        let window = self.window(&line);
        if window.is_over(line.unix_ms) {
            // What was suppressed stays for the next summary.
            window.started_unix_ms = line.unix_ms;
            window.written = 0;
        }
        if window.written >= limits::LOG_LINES_PER_WINDOW_MAX {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        Some(line)
    }

    /// Counts a line that cannot be taken now: a later summary tells of it.
    pub fn suppress(&mut self, line: &Line) {
        if self.is_enabled(line.level) {
            self.window(line).suppressed += 1;
        }
    }

    fn window(&mut self, line: &Line) -> &mut Window {
        let mut key = Key {
            code: line.code,
            level: line.level,
            tenant: line.tenant.clone(),
        };
        if self.windows.len() >= limits::LOG_KEYS_MAX && !self.windows.contains_key(&key) {
            key.tenant = None;
        }
        self.windows.entry(key).or_insert(Window {
            started_unix_ms: line.unix_ms,
            written: 0,
            suppressed: 0,
        })
    }

    /// One line for every code and tenant whose window is over and had more lines than its share. To be called once a second or so.
    #[must_use]
    pub fn summaries(&mut self, unix_ms: u64) -> Vec<Line> {
        let over = self.windows.extract_if(|_, window| window.is_over(unix_ms));
        over.filter(|(_, window)| window.suppressed > 0)
            .map(|(key, window)| key.summary(unix_ms, window.suppressed))
            .collect()
    }
}

impl Window {
    /// A clock that was set back ends a window as well: nothing is suppressed for longer than it says.
    fn is_over(&self, unix_ms: u64) -> bool {
        unix_ms.abs_diff(self.started_unix_ms) >= limits::LOG_WINDOW_MS
    }
}

impl Key {
    fn summary(self, unix_ms: u64, suppressed: u64) -> Line {
        let text = format!("{suppressed} lines suppressed");
        let line = match self.code {
            Some(code) => Line::coded(unix_ms, code, &text),
            None => Line::new(unix_ms, self.level, &text),
        };
        Line {
            tenant: self.tenant,
            level: self.level,
            ..line
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = limits::LOG_LINES_PER_WINDOW_MAX as usize;

    fn line(unix_ms: u64, code: ErrorCode, tenant: &str) -> Line {
        Line::coded(unix_ms, code, "text").of_tenant(tenant.into())
    }

    fn passed(gate: &mut Gate, count: usize, line: &Line) -> usize {
        (0..count)
            .filter(|_| gate.pass(line.clone()).is_some())
            .count()
    }

    #[test]
    fn a_line_that_cannot_be_taken_is_told_of_later() {
        let mut gate = Gate::new(Level::Info);
        gate.suppress(&line(0, ErrorCode::MalformedJWT, "a"));
        let debug = line(0, ErrorCode::MalformedJWT, "a").at_level(Level::Debug);
        gate.suppress(&debug);
        let told = gate.summaries(limits::LOG_WINDOW_MS);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].message.contains("1 lines suppressed"),
            "{}",
            told[0].message
        );
    }

    #[test]
    fn lines_above_the_bound_are_counted() {
        let mut gate = Gate::new(Level::Info);
        let first = line(1000, ErrorCode::MalformedJWT, "a");
        assert_eq!(passed(&mut gate, MAX + 7, &first), MAX);
        // Other codes and other tenants have windows of their own.
        assert!(
            gate.pass(line(1000, ErrorCode::MalformedJWT, "b"))
                .is_some()
        );
        assert!(
            gate.pass(line(1000, ErrorCode::TenantNotFound, "a"))
                .is_some()
        );
        assert_eq!(gate.summaries(1000 + limits::LOG_WINDOW_MS - 1), []);
        let end = 1000 + limits::LOG_WINDOW_MS;
        let expected =
            Line::coded(end, ErrorCode::MalformedJWT, "7 lines suppressed").of_tenant("a".into());
        assert_eq!(gate.summaries(end), [expected]);
        assert_eq!(gate.summaries(end), []);
        assert_eq!(
            passed(&mut gate, 1, &line(end, ErrorCode::MalformedJWT, "a")),
            1
        );
    }

    #[test]
    fn a_new_window_keeps_what_was_suppressed() {
        let mut gate = Gate::new(Level::Info);
        assert_eq!(
            passed(&mut gate, MAX + 1, &line(0, ErrorCode::MalformedJWT, "a")),
            MAX
        );
        let later = limits::LOG_WINDOW_MS;
        assert_eq!(
            passed(
                &mut gate,
                MAX + 2,
                &line(later, ErrorCode::MalformedJWT, "a")
            ),
            MAX
        );
        let summaries = gate.summaries(2 * later);
        assert_eq!(summaries.len(), 1);
        assert!(
            summaries[0].message.ends_with(": 3 lines suppressed"),
            "{summaries:?}"
        );
    }

    #[test]
    fn lines_below_the_level_do_not_pass() {
        let mut gate = Gate::new(Level::Warning);
        assert!(!gate.is_enabled(Level::Info));
        assert!(gate.pass(Line::new(0, Level::Info, "x")).is_none());
        assert!(gate.pass(Line::new(0, Level::Warning, "x")).is_some());
        assert!(gate.pass(Line::new(0, Level::Critical, "x")).is_some());
    }

    #[test]
    fn tenants_beyond_the_bound_share_a_window() {
        let mut gate = Gate::new(Level::Info);
        for n in 0..limits::LOG_KEYS_MAX {
            assert!(
                gate.pass(line(0, ErrorCode::MalformedJWT, &n.to_string()))
                    .is_some()
            );
        }
        let shared = (0..MAX + 5).filter(|n| {
            gate.pass(line(0, ErrorCode::MalformedJWT, &format!("x{n}")))
                .is_some()
        });
        assert_eq!(shared.count(), MAX);
        assert_eq!(gate.windows.len(), limits::LOG_KEYS_MAX + 1);
    }
}

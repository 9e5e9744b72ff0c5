//! What keeps members where they are: heartbeats, and a new token before the old one ends.
//!
//! In: the links of a thread, by their numbers. Out: how many tokens were renewed, and how many heartbeats nobody answered.
//! Always holds: neither comes for all at once; each is spread over the time that there is for it.
//! Deliberately absent: what a server says to it. Whoever reads a link notes there that a heartbeat was answered, and sees a channel that
//! was closed because its token had ended.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::now_ns;
use crate::link::{Link, Target};

/// How often it is looked whose time has come.
const LOOK: Duration = Duration::from_millis(50);

/// How often all links are looked through in a turn of the tokens: one whose place in the crowd has changed meanwhile is found the next time.
const PASSES: u32 = 3;

/// Links that have to be kept.
pub trait Crowd {
    /// The link with this number; nothing beyond the last.
    fn link(&self, index: usize) -> Option<Rc<Link>>;
    /// How many there are.
    fn count(&self) -> usize;
    /// Whether the load is over.
    fn is_over(&self) -> bool;
    /// Whether nothing is to be said for now.
    fn rests(&self) -> bool {
        false
    }
}

/// What was said, and not heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Tokens that were renewed.
    pub renewed: u64,
    /// Heartbeats that had no answer when it was time for the next one.
    pub unanswered: u64,
}

/// Sends a heartbeat on every link in good time, and a new token, a few at once, until the load is over.
pub async fn keep(target: &Target, crowd: &impl Crowd) -> Kept {
    let mut frame = Vec::new();
    target.dialect.push_heartbeat(5, &mut frame);
    // The next one may come sooner, to a link whose place has changed.
    let patience = target.heartbeat / 2;
    let mut beats = Pass::new(target.heartbeat);
    let turn_length = target.tokens.turn_length();
    let mut renewals = turn_length.map(|turn| Pass::new(turn / PASSES));
    let mut kept = Kept::default();
    while !crowd.is_over() {
        monoio::time::sleep(LOOK).await;
        if crowd.rests() {
            continue;
        }
        for index in beats.due(crowd.count(), now_ns()) {
            if let Some(link) = crowd.link(index) {
                kept.unanswered += u64::from(link.beat(&frame, patience).await);
            }
        }
        let turn = target.tokens.turn();
        for index in renewals
            .iter_mut()
            .flat_map(|pass| pass.due(crowd.count(), now_ns()))
        {
            if let Some(link) = crowd.link(index) {
                kept.renewed += link.renew(target, turn).await;
            }
        }
    }
    kept
}

/// A way through all links that takes its time, again and again.
#[derive(Debug)]
struct Pass {
    span_ns: u64,
    began_ns: u64,
    next: usize,
}

impl Pass {
    fn new(span: Duration) -> Self {
        Self {
            span_ns: (span.as_nanos() as u64).max(1),
            began_ns: now_ns(),
            next: 0,
        }
    }

    /// Those of `count` whose time has come since the last question.
    fn due(&mut self, count: usize, now_ns: u64) -> Range<usize> {
        let elapsed_ns = now_ns.saturating_sub(self.began_ns).min(self.span_ns);
        let goal = (count as f64 * elapsed_ns as f64 / self.span_ns as f64) as usize;
        let due = self.next..goal.max(self.next);
        self.next = due.end;
        if elapsed_ns == self.span_ns {
            (self.began_ns, self.next) = (now_ns, 0);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_comes_to_each_once_and_to_few_at_a_time() {
        let mut pass = Pass {
            span_ns: 1000,
            began_ns: 50,
            next: 0,
        };
        let mut due = |count, now_ns| pass.due(count, now_ns);
        assert_eq!(due(10, 50), 0..0);
        assert_eq!(due(10, 350), 0..3);
        assert_eq!(due(10, 360), 3..3);
        // Some have gone: nobody is asked twice.
        assert_eq!(due(4, 550), 3..3);
        assert_eq!(due(10, 2000), 3..10);
        // The next pass begins when the last one has ended.
        assert_eq!(due(10, 2000), 0..0);
        assert_eq!(due(10, 2500), 0..5);
    }
}

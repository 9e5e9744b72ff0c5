//! Every interleaving of the doorbell's two sides: no letter is left behind.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p shards --test spsc_loom --release`
//!
//! The mailbox here is a counter: what matters is the order of pushing, fencing and looking. The queue itself is rtrb's.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

/// What `doorbell.rs` finds under this name in the crate, but loom's.
mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/doorbell.rs"]
mod doorbell;

use atomic::Ordering;
use doorbell::Doorbell;

/// A sleeper's mailbox, its doorbell, and the rings that reached it.
struct Sleeper {
    doorbell: Doorbell,
    letters: AtomicUsize,
    rings: AtomicUsize,
}

impl Sleeper {
    fn new() -> Arc<Self> {
        let doorbell = Doorbell::new();
        Arc::new(Self {
            doorbell,
            letters: AtomicUsize::new(0),
            rings: AtomicUsize::new(0),
        })
    }

    /// What a pusher does.
    fn push(&self) {
        self.letters.fetch_add(1, Ordering::Release);
        if self.doorbell.must_ring() {
            self.rings.fetch_add(1, Ordering::Release);
        }
    }

    /// What a sleeper does before it waits: returns whether it really would, with the letters seen so far.
    fn would_sleep(&self, seen: usize) -> bool {
        self.doorbell.asleep();
        if self.letters.load(Ordering::Acquire) > seen {
            self.doorbell.awake();
            return false;
        }
        true
    }
}

/// The sleeper sleeps with `pushers` letters on their way: either it saw them or somebody rings.
fn no_letter_is_left_behind(pushers: usize) {
    loom::model(move || {
        let sleeper = Sleeper::new();
        let threads: Vec<_> = (0..pushers)
            .map(|_| {
                let sleeper = Arc::clone(&sleeper);
                thread::spawn(move || sleeper.push())
            })
            .collect();
        let slept = sleeper.would_sleep(0);
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("a pusher does not panic"));
        let rings = sleeper.rings.load(Ordering::Acquire);
        assert!(
            !slept || rings > 0,
            "asleep with {pushers} letters and nobody rang"
        );
        assert!(rings <= 1, "one sleep is ended by one ring");
    });
}

#[test]
fn one_pusher_rings_or_is_seen() {
    no_letter_is_left_behind(1);
}

#[test]
fn of_two_pushers_one_rings_or_both_are_seen() {
    no_letter_is_left_behind(2);
}

#[test]
fn a_second_sleep_is_as_safe_as_the_first() {
    loom::model(|| {
        let sleeper = Sleeper::new();
        let pusher = {
            let sleeper = Arc::clone(&sleeper);
            thread::spawn(move || {
                sleeper.push();
                sleeper.push();
            })
        };
        // A first turn: whatever it finds, it is awake afterwards, as after a ring or a timeout.
        sleeper.would_sleep(0);
        sleeper.doorbell.awake();
        let seen = sleeper.letters.load(Ordering::Acquire);
        let rings_before = sleeper.rings.load(Ordering::Acquire);
        let slept = sleeper.would_sleep(seen);
        pusher.join().expect("a pusher does not panic");
        let rings = sleeper.rings.load(Ordering::Acquire);
        assert!(
            !slept || seen == 2 || rings > 0,
            "asleep with a letter and nobody rang"
        );
        // A ring for the first sleep may come late and wake the second for nothing, never the other way round.
        assert!(rings >= rings_before);
    });
}

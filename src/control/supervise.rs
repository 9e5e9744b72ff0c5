//! Tasks that are started again when they panic.
//!
//! What comes in: a name and a function that makes the task. What always holds: a panic ends that task alone, is logged, and the
//! task starts again after a pause that doubles up to [`limits::TASK_RESTART_PAUSE_MAX`]. A task that returns is done.
//! Deliberately absent: state. What must outlive a panic belongs to the caller, behind the function.

use super::clock;
use crate::limits;
use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

thread_local! {
    /// There is one control core, and it has one thread.
    static RESTARTS: Cell<u64> = const { Cell::new(0) };
}

/// How many tasks of this thread have panicked and were to be started again.
#[must_use]
pub fn restarts() -> u64 {
    RESTARTS.get()
}

/// Runs `make()` until it returns; again after each panic. `log` gets the name of the task and what the panic said.
pub async fn supervise<F: Future<Output = ()>>(
    name: &str,
    log: impl Fn(&str, &str),
    mut make: impl FnMut() -> F,
) {
    let mut pause = limits::TASK_RESTART_PAUSE;
    loop {
        let started = clock::now();
        match caught(make()).await {
            Ok(()) => return,
            Err(panic) => log(name, &panic_text(&*panic)),
        }
        RESTARTS.set(RESTARTS.get() + 1);
        pause = next_pause(pause, clock::now().duration_since(started));
        tokio::time::sleep(pause).await;
    }
}

/// The pause after a run of `ran`, when the pause before it was `before`.
fn next_pause(before: Duration, ran: Duration) -> Duration {
    if ran > limits::TASK_RESTART_PAUSE_MAX {
        limits::TASK_RESTART_PAUSE
    } else {
        (before * 2).min(limits::TASK_RESTART_PAUSE_MAX)
    }
}

/// What `future` returns, or its panic.
///
/// # Errors
///
/// What the panic carried. The future is not polled again.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        // The future is dropped after a panic and seen by nobody again; what it shares with others is mail and atomics.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// The text of a panic, where it has one.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn task_that_panics_is_logged_and_started_again() {
        let (runs, log) = (Cell::new(0), RefCell::new(Vec::new()));
        let task = || async {
            runs.set(runs.get() + 1);
            assert!(runs.get() > 1, "the first run fails");
        };
        block_on(supervise(
            "job",
            |name, text| log.borrow_mut().push(format!("{name}: {text}")),
            task,
        ));
        assert_eq!(runs.get(), 2);
        assert_eq!(*log.borrow(), ["job: the first run fails"]);
        assert_eq!(restarts(), 1);
    }

    #[test]
    fn pauses_double_to_a_bound_and_start_over_after_a_long_run() {
        let short = Duration::from_secs(1);
        assert_eq!(
            next_pause(limits::TASK_RESTART_PAUSE, short),
            limits::TASK_RESTART_PAUSE * 2
        );
        assert_eq!(
            next_pause(limits::TASK_RESTART_PAUSE_MAX, short),
            limits::TASK_RESTART_PAUSE_MAX
        );
        let long = limits::TASK_RESTART_PAUSE_MAX + short;
        assert_eq!(
            next_pause(limits::TASK_RESTART_PAUSE_MAX, long),
            limits::TASK_RESTART_PAUSE
        );
    }

    #[test]
    fn future_after_a_pending_poll_is_caught_too() {
        let caught = block_on(caught(async {
            tokio::task::yield_now().await;
            panic!("late {}", 1);
        }));
        assert_eq!(panic_text(&*caught.unwrap_err()), "late 1");
    }
}

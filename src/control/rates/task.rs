//! The task of the rate counters: waits for notices and for the next tick, and says what came of it.
//!
//! What comes in: [`Notice`]s, and the tenants as they are now. What goes out: ticks, and the lines that the original writes of
//! them. What always holds: without a counter that lives only a notice wakes it (`without_a_counter_nothing_wakes_the_task`), and
//! counters and inbox outlive a panic. Deliberately absent: what a tick leads to; [`Rates`] knows that.

use super::{Name, Notice, Rates, Ticked, written};
use crate::control::tenants::Live;
use crate::control::{clock, log::Log, supervise};
use crate::error::Level;
use crate::logging::Line;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Starts it. To be called within a `LocalSet`; it ends when nobody holds a sender of `inbox` any more.
pub fn start(inbox: mpsc::Receiver<Notice>, live: watch::Receiver<Arc<Live>>, log: Log) {
    let task = Rc::new(Task {
        rates: RefCell::default(),
        inbox: RefCell::new(inbox),
        live,
        log: log.clone(),
        start: clock::now(),
    });
    tokio::task::spawn_local(async move {
        let say = |name: &str, panic: &str| {
            let text = format!("the task {name} panicked and starts again: {panic}");
            log.write(Line::new(clock::unix_ms(), Level::Error, &text));
        };
        supervise::supervise("rates", say, move || Rc::clone(&task).run()).await;
    });
}

struct Task {
    rates: RefCell<Rates>,
    inbox: RefCell<mpsc::Receiver<Notice>>,
    live: watch::Receiver<Arc<Live>>,
    log: Log,
    /// What the times of `rates` count from.
    start: Instant,
}

impl Task {
    async fn run(self: Rc<Self>) {
        loop {
            let due = self.rates.borrow().next_due();
            let ticks = async {
                match due {
                    Some(due) => sleep_until(self.start + due).await,
                    // Not a moment that is far away: it would come, and be over from then on.
                    None => std::future::pending().await,
                }
            };
            let notice = std::future::poll_fn(|context| self.inbox.borrow_mut().poll_recv(context));
            let notice = tokio::select! {
                notice = notice => match notice {
                    Some(notice) => Some(notice),
                    None => return,
                },
                () = ticks => None,
            };
            let now = clock::now().duration_since(self.start);
            let live = Arc::clone(&self.live.borrow());
            let mut rates = self.rates.borrow_mut();
            let started = notice.map(|notice| rates.note(now, &live, notice));
            self.say_started(&live, &started.unwrap_or_default());
            self.say_ticked(rates.tick(now, &live));
        }
    }

    /// In the original's words (spec: errors-and-logs 3).
    fn say_started(&self, live: &Live, started: &[Name]) {
        for (id, counter) in started {
            if let Some(tenant) = live
                .directory
                .get(*id)
                .filter(|_| self.log.is_enabled(Level::Info))
            {
                let name = written(*counter, &tenant.external_id);
                let text = format!("Starting Realtime.RateCounter for: {name}");
                let line = Line::new(clock::unix_ms(), Level::Info, &text);
                self.log
                    .write(line.of_tenant(Arc::clone(&tenant.external_id)));
            }
        }
    }

    fn say_ticked(&self, ticked: Ticked) {
        for trip in ticked.trips {
            let (code, text) = trip.line();
            let line = Line::trip(clock::unix_ms(), code, text);
            self.log
                .write(line.of_tenant(Arc::clone(&trip.tenant.external_id)));
        }
        for billed in ticked.billed {
            if self.log.is_enabled(Level::Info) {
                let line = Line::new(clock::unix_ms(), Level::Info, &billed.text());
                let line = line.measuring(billed.sum, billed.limit);
                self.log
                    .write(line.of_tenant(Arc::clone(&billed.tenant.external_id)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tenants::tests::{record, registry};
    use crate::limits;
    use crate::tenant::Counter;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;
    use tokio::task::{LocalSet, yield_now};

    #[test]
    fn without_a_counter_nothing_wakes_the_task() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            let mut registry = registry();
            let (tenant, _) = registry.apply(&record("a"));
            let (log, mut lines) = Log::for_test();
            let (notices, inbox) = mpsc::channel(1);
            let task = Rc::new(Task {
                rates: RefCell::default(),
                inbox: RefCell::new(inbox),
                live: registry.watch(),
                log,
                start: clock::now(),
            });
            let polls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&polls);
            let run = tokio::task::spawn_local(async move {
                let mut run = pin!(task.run());
                poll_fn(|context| {
                    counted.set(counted.get() + 1);
                    run.as_mut().poll(context)
                })
                .await;
            });
            let polls_of_a_while = async || {
                let before = polls.get();
                for _ in 0..100 {
                    yield_now().await;
                }
                polls.get() - before
            };
            assert_eq!(polls_of_a_while().await, 1);
            // Longer than a counter lives without use, and than any moment that might stand for "never".
            let day = Duration::from_secs(24 * 60 * 60);
            tokio::time::advance(day).await;
            assert_eq!(polls_of_a_while().await, 0);
            let _ = tenant.usage.count(0, Counter::Events, 7);
            let used = Notice::Started(tenant.id, Some(Counter::Events));
            notices.send(used).await.unwrap();
            yield_now().await;
            tokio::time::sleep(limits::RATE_TICK).await;
            let said: Vec<_> = lines().into_iter().map(|line| line.message).collect();
            let started = format!(
                "Starting Realtime.RateCounter for: {}",
                written(Some(Counter::Events), "a")
            );
            let billed = "Billing metrics: [:realtime, :rate_counter, :channel, :events]";
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(*said[0] == *started && *said[1] == *billed, "{said:?}");
            // It lives on for a while, and then the task sleeps again.
            tokio::time::sleep(day).await;
            assert_eq!(polls_of_a_while().await, 0);
            drop(notices);
            run.await.unwrap();
        });
    }
}

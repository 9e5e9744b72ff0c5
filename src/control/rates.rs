//! Rate counters: who has to be ticked when, and what a tick leads to.
//!
//! What comes in: the first use of a counter, changed limits, and the time. What goes out: averages and flags in the tenant's
//! [`Usage`](crate::tenant::Usage) or [`RequestCounter`], and a [`Trip`] per flag that went up. What always holds: every counter
//! ticks at a phase of its own, first right after its creation and then once per window tick, and nothing changes in between
//! (spec: websocket-protocol 9.2). Deliberately absent: a clock, which is [`task`]'s, and counting itself.

pub mod task;

use super::tenants::{Live, RequestCounter};
use crate::error::{ErrorCode, inspect_str, text};
use crate::limits;
use crate::tenant::{Counter, RateMeter, RateWindow, Tenant, TenantId, TenantLimits};
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A counter's name: one of the four that tenants use, or `None` for the tenant's HTTP requests.
pub type Name = (TenantId, Option<Counter>);

/// What the task of the counters is told.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Notice {
    /// A counter was used for the first time.
    Started(TenantId, Option<Counter>),
    /// The tenant's limits are new: its counters start over (spec 9.2).
    LimitsChanged(TenantId),
    /// The tenant is no more, and its counters neither.
    Gone(TenantId),
}

impl Notice {
    /// Tells the task. Where it is overwhelmed nobody would tick a counter that has begun: `discard` takes its first use back, and a
    /// later one begins it again.
    pub fn tell(self, task: &mpsc::Sender<Self>, discard: impl FnOnce()) {
        if task.try_send(self).is_err() {
            discard();
        }
    }
}

/// Counts `n` uses of what a tenant is held to, in the counters' cell of this core.
pub fn count(task: &mpsc::Sender<Notice>, cell: usize, tenant: &Tenant, counter: Counter, n: u64) {
    if tenant.usage.count(cell, counter, n) {
        let discard = || tenant.usage.discard(counter);
        Notice::Started(tenant.id, Some(counter)).tell(task, discard);
    }
}

/// A flag that went up: to be logged, once.
#[derive(Debug)]
pub struct Trip {
    /// Whose limit was reached.
    pub tenant: Arc<Tenant>,
    /// Which one.
    pub counter: Counter,
}

impl Trip {
    /// Code and text of the log line (spec: errors-and-logs 2.2).
    #[must_use]
    pub const fn line(&self) -> (ErrorCode, &'static str) {
        match self.counter {
            Counter::Joins => (
                ErrorCode::ClientJoinRateLimitReached,
                "Too many joins per second",
            ),
            Counter::Events => (
                ErrorCode::MessagePerSecondRateLimitReached,
                text::TOO_MANY_MESSAGES,
            ),
            Counter::PresenceEvents => (
                ErrorCode::PresenceRateLimitReached,
                "Too many presence events per second",
            ),
            Counter::DbEvents => (
                ErrorCode::MessagePerSecondRateLimitReached,
                text::TOO_MANY_CHANGES,
            ),
        }
    }
}

/// A counter as the original writes its name (spec: errors-and-logs 3).
#[must_use]
pub fn written(counter: Option<Counter>, external_id: &str) -> String {
    let tenant = inspect_str(external_id);
    match counter {
        Some(counter) => format!("{{:channel, :{}, {tenant}}}", word(counter)),
        None => format!("{{:plug, :requests, {tenant}}}"),
    }
}

/// The original's word for what a counter counts.
const fn word(counter: Counter) -> &'static str {
    match counter {
        Counter::Joins => "joins",
        Counter::Events => "events",
        Counter::PresenceEvents => "presence_events",
        Counter::DbEvents => "db_events",
    }
}

/// What a counter counted since its last tick: lines that are made into bills (spec: errors-and-logs 3).
#[derive(Debug)]
pub struct Billed {
    /// Whose.
    pub tenant: Arc<Tenant>,
    /// Which counter.
    pub counter: Counter,
    /// How much was counted.
    pub sum: u64,
    /// The limit that it is held to, per second.
    pub limit: u32,
}

impl Billed {
    /// The text of the line, which is the same for everybody.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "Billing metrics: [:realtime, :rate_counter, :channel, :{}]",
            word(self.counter)
        )
    }
}

/// What ticks have led to.
#[derive(Debug, Default)]
pub struct Ticked {
    /// Flags that went up.
    pub trips: Vec<Trip>,
    /// What was counted, where that is something.
    pub billed: Vec<Billed>,
}

/// The limit that a counter is held to.
#[must_use]
pub const fn limit(limits: &TenantLimits, counter: Counter) -> u32 {
    match counter {
        Counter::Joins => limits.joins_per_second_max,
        Counter::Events | Counter::DbEvents => limits.events_per_second_max,
        Counter::PresenceEvents => limits.presence_events_per_second_max,
    }
}

/// All counters that were ever used. Times are since the start of the control core.
#[derive(Debug, Default)]
pub struct Rates {
    meters: FxHashMap<Name, Meter>,
    /// When which counter is due. An entry whose meter says otherwise is stale.
    due: BinaryHeap<Reverse<(Duration, TenantId, u8)>>,
}

#[derive(Debug)]
struct Meter {
    meter: RateMeter,
    /// Everything counted up to the last tick. Also while the counter is discarded: what comes after belongs to its next life.
    total: u64,
    /// The next tick; `None` while the counter is discarded.
    due: Option<Duration>,
}

/// A counter's place in the heap's order.
const fn ordinal(counter: Option<Counter>) -> u8 {
    match counter {
        Some(counter) => counter as u8,
        None => REQUESTS,
    }
}

const REQUESTS: u8 = Counter::ALL.len() as u8;

impl Rates {
    /// Takes note. A counter of an unknown tenant is none. Returns the counters that begin to live.
    pub fn note(&mut self, now: Duration, live: &Live, notice: Notice) -> Vec<Name> {
        let mut started = Vec::new();
        match notice {
            Notice::Started(id, counter) => {
                if live.directory.get(id).is_some() && self.start(now, (id, counter)) {
                    started.push((id, counter));
                }
            }
            Notice::LimitsChanged(id) => {
                let Some(tenant) = live.directory.get(id) else {
                    return started;
                };
                for counter in Counter::ALL {
                    let Some(meter) = self
                        .meters
                        .get_mut(&(id, Some(counter)))
                        .filter(|meter| meter.due.is_some())
                    else {
                        continue;
                    };
                    meter.total = tenant.usage.total(counter);
                    meter.due = None;
                    tenant
                        .usage
                        .publish(counter, 0.0, limit(&tenant.limits, counter));
                    self.start(now, (id, Some(counter)));
                    started.push((id, Some(counter)));
                }
            }
            Notice::Gone(id) => {
                let counters = Counter::ALL.into_iter().map(Some);
                for counter in counters.chain([None]) {
                    self.meters.remove(&(id, counter));
                }
            }
        }
        started
    }

    /// Begins a counter's life, unless it lives. Its first bucket holds what was counted since the end of its life before: the
    /// use that created it, and whatever followed up to the first tick. False when it lives already.
    fn start(&mut self, now: Duration, name: Name) -> bool {
        let window = if name.1.is_some() {
            RateWindow::USAGE
        } else {
            RateWindow::REQUESTS
        };
        let total = self.meters.get(&name).map_or(0, |meter| meter.total);
        if self
            .meters
            .get(&name)
            .is_some_and(|meter| meter.due.is_some())
        {
            return false;
        }
        let due = now + limits::RATE_FIRST_TICK;
        self.meters.insert(
            name,
            Meter {
                meter: RateMeter::with_window(window, total),
                total,
                due: Some(due),
            },
        );
        self.due.push(Reverse((due, name.0, ordinal(name.1))));
        true
    }

    /// When [`Rates::tick`] is to be called next.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((due, ..))| *due)
    }

    /// Ticks every counter that is due.
    pub fn tick(&mut self, now: Duration, live: &Live) -> Ticked {
        let mut ticked = Ticked::default();
        while let Some(&Reverse((due, id, ordinal))) = self.due.peek() {
            if due > now {
                break;
            }
            self.due.pop();
            let counter = Counter::ALL.get(usize::from(ordinal)).copied();
            if self
                .meters
                .get(&(id, counter))
                .is_none_or(|meter| meter.due != Some(due))
            {
                continue;
            }
            // Taken out while it is worked on: if that panics, this counter is gone and the others go on.
            let Some(mut meter) = self.meters.remove(&(id, counter)) else {
                continue;
            };
            let Some(tenant) = live.directory.get(id) else {
                continue;
            };
            match counter {
                Some(counter) => {
                    let before = meter.total;
                    if meter.tick_usage(now, tenant, counter) {
                        ticked.trips.push(Trip {
                            tenant: Arc::clone(tenant),
                            counter,
                        });
                    }
                    let sum = meter.total.wrapping_sub(before);
                    if sum > 0 {
                        ticked.billed.push(Billed {
                            tenant: Arc::clone(tenant),
                            counter,
                            sum,
                            limit: limit(&tenant.limits, counter),
                        });
                    }
                }
                None => {
                    if let Some(requests) = live.requests(id) {
                        meter.tick_requests(now, requests);
                    }
                }
            }
            if let Some(due) = meter.due {
                self.due.push(Reverse((due, id, ordinal)));
            }
            self.meters.insert((id, counter), meter);
        }
        ticked
    }
}

impl Meter {
    /// One tick, and as many empty ones as were missed while the control core was busy: they belong to the same time.
    fn advance(&mut self, now: Duration, total: u64) -> f64 {
        let window = self.meter.window();
        let mut due = self.due.unwrap_or(now);
        self.total = total;
        let mut average = self.meter.tick(total);
        due += window.tick;
        for _ in 0..window.buckets_max {
            if due > now {
                break;
            }
            average = self.meter.tick(total);
            due += window.tick;
        }
        self.due = if self.meter.is_idle() {
            None
        } else {
            Some(due.max(now))
        };
        average
    }

    /// True when the flag went up.
    fn tick_usage(&mut self, now: Duration, tenant: &Tenant, counter: Counter) -> bool {
        let average = self.advance(now, tenant.usage.total(counter));
        let raised = tenant
            .usage
            .publish(counter, average, limit(&tenant.limits, counter));
        if self.due.is_none() {
            tenant.usage.discard(counter);
        }
        raised
    }

    fn tick_requests(&mut self, now: Duration, requests: &RequestCounter) {
        let average = self.advance(now, requests.total());
        requests.publish(average);
        if self.due.is_none() {
            requests.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tenants::Registry;
    use super::super::tenants::tests::{record, registry};
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A tenant whose limits are all `limit`, and the counters of its process.
    struct Bench {
        registry: Registry,
        tenant: Arc<Tenant>,
        rates: Rates,
    }

    impl Bench {
        fn new(limit: i32) -> Self {
            let mut bench = Self {
                registry: registry(),
                tenant: registry().apply(&record("x")).0,
                rates: Rates::default(),
            };
            bench.limit(limit);
            bench
        }

        fn limit(&mut self, limit: i32) -> bool {
            let mut record = record("a");
            record.max_events_per_second = limit;
            record.max_joins_per_second = limit;
            record.max_presence_events_per_second = limit;
            let (tenant, changed) = self.registry.apply(&record);
            self.tenant = tenant;
            changed
        }

        fn live(&self) -> Arc<Live> {
            Arc::clone(&self.registry.watch().borrow())
        }

        fn count(&mut self, now: Duration, counter: Counter, n: u64) {
            if self.tenant.usage.count(0, counter, n) {
                let live = self.live();
                self.rates
                    .note(now, &live, Notice::Started(self.tenant.id, Some(counter)));
            }
        }

        fn tick(&mut self, now: Duration) -> Vec<&'static str> {
            let live = self.live();
            let ticked = self.rates.tick(now, &live);
            ticked.trips.iter().map(|trip| trip.line().1).collect()
        }

        fn average(&self, counter: Counter) -> u32 {
            self.tenant.usage.average(counter)
        }
    }

    /// The worked example of spec 9.2: tripped at t = 5 s, and logged once.
    #[test]
    fn counter_ticks_at_once_and_then_every_five_seconds() {
        let mut bench = Bench::new(100);
        bench.count(SECOND, Counter::Events, 0);
        assert_eq!(bench.rates.next_due(), Some(SECOND + MS));
        assert!(bench.tick(SECOND + MS).is_empty());
        bench.count(SECOND * 2, Counter::Events, 1000);
        assert!(
            bench.tick(SECOND * 6).is_empty() && bench.average(Counter::Events) == 0,
            "not due before 6.001 s"
        );
        assert_eq!(
            bench.tick(SECOND * 6 + MS),
            ["Too many messages per second"]
        );
        assert_eq!(bench.average(Counter::Events), 100);
        bench.count(SECOND * 7, Counter::Events, 5000);
        assert!(
            bench.tick(SECOND * 11 + MS).is_empty(),
            "told once per transition"
        );
        assert!(bench.tenant.usage.is_tripped(Counter::Events));
    }

    /// Spec 9.2: a burst in the moment of the first tick counts over one bucket.
    #[test]
    fn first_bucket_holds_the_use_that_created_the_counter() {
        let mut bench = Bench::new(1);
        bench.count(SECOND, Counter::PresenceEvents, 1);
        bench.count(SECOND, Counter::PresenceEvents, 5);
        assert_eq!(
            bench.tick(SECOND + MS),
            ["Too many presence events per second"]
        );
        assert_eq!(bench.average(Counter::PresenceEvents), 1);
    }

    #[test]
    fn every_counter_has_its_line() {
        let check = |counter: Counter, code: ErrorCode, text: &str| {
            let mut bench = Bench::new(0);
            bench.count(SECOND, counter, 10);
            let live = bench.live();
            let trips = bench.rates.tick(SECOND + MS, &live).trips;
            assert_eq!(
                trips.iter().map(Trip::line).collect::<Vec<_>>(),
                [(code, text)]
            );
        };
        check(
            Counter::Joins,
            ErrorCode::ClientJoinRateLimitReached,
            "Too many joins per second",
        );
        check(
            Counter::Events,
            ErrorCode::MessagePerSecondRateLimitReached,
            "Too many messages per second",
        );
        check(
            Counter::PresenceEvents,
            ErrorCode::PresenceRateLimitReached,
            "Too many presence events per second",
        );
        let text = "Too many postgres changes messages per second";
        check(
            Counter::DbEvents,
            ErrorCode::MessagePerSecondRateLimitReached,
            text,
        );
    }

    #[test]
    fn what_was_counted_is_billed_once_and_nothing_is_not() {
        let mut bench = Bench::new(100);
        bench.count(SECOND, Counter::Joins, 3);
        let live = bench.live();
        let mut billed = |now| {
            let ticked = bench.rates.tick(now, &live);
            let entries = ticked.billed.iter();
            entries
                .map(|it| (it.text(), it.sum, it.limit))
                .collect::<Vec<_>>()
        };
        let text = "Billing metrics: [:realtime, :rate_counter, :channel, :joins]";
        assert_eq!(billed(SECOND + MS), [(text.to_owned(), 3, 100)]);
        assert_eq!(billed(SECOND * 6 + MS), []);
    }

    #[test]
    fn a_counter_says_that_it_lives_once() {
        let mut bench = Bench::new(100);
        let (live, id) = (bench.live(), bench.tenant.id);
        let events = Notice::Started(id, Some(Counter::Events));
        let name = (id, Some(Counter::Events));
        assert_eq!(bench.rates.note(SECOND, &live, events), [name]);
        assert_eq!(bench.rates.note(SECOND, &live, events), []);
        // New limits begin a new life of those that live.
        let changed = Notice::LimitsChanged(id);
        assert_eq!(bench.rates.note(SECOND, &live, changed), [name]);
        let unknown = Notice::Started(TenantId(77), None);
        assert_eq!(bench.rates.note(SECOND, &live, unknown), []);
        assert_eq!(written(name.1, "t"), "{:channel, :events, \"t\"}");
        assert_eq!(written(None, "t"), "{:plug, :requests, \"t\"}");
    }

    #[test]
    fn counters_keep_phases_of_their_own() {
        let mut bench = Bench::new(100);
        bench.count(SECOND, Counter::Events, 1);
        bench.count(SECOND * 3, Counter::Joins, 1);
        bench.tick(SECOND * 3 + MS);
        assert_eq!(bench.rates.next_due(), Some(SECOND * 6 + MS));
        bench.tick(SECOND * 6 + MS);
        assert_eq!(bench.rates.next_due(), Some(SECOND * 8 + MS));
    }

    #[test]
    fn ticks_that_came_late_do_not_make_averages_too_large() {
        let mut bench = Bench::new(100);
        bench.count(SECOND, Counter::Events, 0);
        bench.tick(SECOND + MS);
        bench.count(SECOND * 2, Counter::Events, 600);
        // 20 s late: five buckets of 600 in all, 24 per second, where one bucket of 5 s would say 60.
        bench.tick(SECOND * 21 + MS);
        assert_eq!(bench.average(Counter::Events), 24);
        assert_eq!(bench.rates.next_due(), Some(SECOND * 26 + MS));
    }

    #[test]
    fn a_use_that_nobody_could_be_told_of_does_not_begin_a_counter() {
        let bench = Bench::new(100);
        let (task, mut inbox) = mpsc::channel(1);
        let use_it = || count(&task, 0, &bench.tenant, Counter::Events, 1);
        task.try_send(Notice::Gone(TenantId(77))).unwrap();
        use_it();
        inbox.try_recv().unwrap();
        use_it();
        let started = Notice::Started(bench.tenant.id, Some(Counter::Events));
        assert_eq!(inbox.try_recv(), Ok(started));
        use_it();
        assert!(inbox.try_recv().is_err(), "it is told of once");
    }

    #[test]
    fn idle_counters_are_discarded_and_begin_anew() {
        let mut bench = Bench::new(100);
        bench.count(Duration::ZERO, Counter::Joins, 500);
        let mut now = MS;
        let ticks = limits::RATE_BUCKETS_MAX as u32 + limits::RATE_IDLE_TICKS_MAX;
        for _ in 0..ticks {
            bench.tick(now);
            now += limits::RATE_TICK;
        }
        assert_eq!(
            (bench.rates.next_due(), bench.average(Counter::Joins)),
            (None, 0)
        );
        bench.count(now, Counter::Joins, 10);
        bench.tick(now + MS);
        assert_eq!(
            bench.average(Counter::Joins),
            2,
            "what was counted before is forgotten"
        );
    }

    #[test]
    fn new_limits_start_the_counters_over() {
        let mut bench = Bench::new(100);
        bench.count(SECOND, Counter::Events, 1000);
        bench.tick(SECOND + MS);
        assert!(bench.tenant.usage.is_tripped(Counter::Events));
        assert!(bench.limit(50));
        let (live, id) = (bench.live(), bench.tenant.id);
        bench
            .rates
            .note(SECOND * 2, &live, Notice::LimitsChanged(id));
        assert!(!bench.tenant.usage.is_tripped(Counter::Events));
        bench.count(SECOND * 2, Counter::Events, 250);
        assert_eq!(
            bench.tick(SECOND * 2 + MS),
            ["Too many messages per second"]
        );
        assert!(
            bench.tick(SECOND * 6 + MS).is_empty(),
            "the old phase is gone"
        );
        assert_eq!(bench.rates.next_due(), Some(SECOND * 7 + MS));
    }

    #[test]
    fn requests_are_averaged_over_seconds() {
        let mut bench = Bench::new(100);
        let live = bench.live();
        let requests = live.requests(bench.tenant.id).unwrap();
        assert!(requests.count() && !requests.count());
        bench
            .rates
            .note(SECOND, &live, Notice::Started(bench.tenant.id, None));
        assert_eq!(requests.average(), 0);
        bench.tick(SECOND + MS);
        assert_eq!(requests.average(), 2);
        bench.tick(SECOND * 2 + MS);
        assert_eq!(requests.average(), 1);
    }

    #[test]
    fn counters_of_a_tenant_that_is_gone_are_gone() {
        let mut bench = Bench::new(100);
        bench.count(SECOND, Counter::Events, 1);
        bench.registry.remove("a");
        assert!(bench.tick(SECOND + MS).is_empty());
        assert_eq!(bench.rates.next_due(), None);
        let live = bench.live();
        bench.rates.note(
            SECOND,
            &live,
            Notice::Started(bench.tenant.id, Some(Counter::Events)),
        );
        assert_eq!(bench.rates.next_due(), None);
    }
}

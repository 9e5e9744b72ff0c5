//! What Prometheus scrapes (spec: metrics).
//!
//! What comes in: requests for the page; what is counted is read where it is counted, at that moment. What goes out: the page, the
//! node's part and that of its tenants. What always holds: nothing is counted here, and a tenant that was never here has no series
//! (`a_tenant_that_was_never_here_has_no_series`); a panic costs the page that was being written. Deliberately absent, so far:
//! everything of the specification but row changes, broadcast from the database and connected users; removing the series of
//! tenants that left; pushing; other nodes.

pub mod exposition;
pub mod families;

use super::changes::{self, Hub};
use super::clock;
use super::database::Environment;
use super::messages;
use super::session::Sessions;
use super::supervise::{caught, panic_text};
use crate::config::Config;
use crate::error::Level;
use crate::limits;
use crate::logging::Line;
use crate::tenant::{Counter, Tenant, Usage};
use exposition::Kind;
use exposition::Value::Integer;
use exposition::{Exposition, Value};
use families::Family;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

/// A way to the page, from any thread. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Metrics(mpsc::Sender<oneshot::Sender<String>>);

impl Metrics {
    /// To be called within the `LocalSet`; it ends with the last of the clones.
    #[must_use]
    pub fn start(changes: Hub, sessions: Sessions, environment: Rc<Environment>) -> Self {
        let (metrics, mut scrapes) = Self::new();
        spawn_local(async move {
            let node = Node::of(&environment.config);
            while let Some(scrape) = scrapes.recv().await {
                let written = async { page(&node, &seen(&environment, &changes, &sessions)) };
                match caught(written).await {
                    // Who asked may have hung up.
                    Ok(page) => drop(scrape.send(page)),
                    Err(panic) => {
                        let text = format!("the metrics were not written: {}", panic_text(&*panic));
                        let line = Line::new(clock::unix_ms(), Level::Error, &text);
                        environment.log.write(line);
                    }
                }
            }
        });
        metrics
    }

    fn new() -> (Self, mpsc::Receiver<oneshot::Sender<String>>) {
        let (scrapes, inbox) = mpsc::channel(limits::METRICS_SCRAPES_MAX);
        (Self(scrapes), inbox)
    }

    /// The page as it is now; nothing when it could not be written, which the log says.
    pub async fn page(&self) -> Option<String> {
        let (scrape, page) = oneshot::channel();
        self.0.send(scrape).await.ok()?;
        page.await.ok()
    }
}

/// What every series says of this node.
struct Node {
    region: String,
    host: &'static str,
    id: String,
}

impl Node {
    /// As the original names a node that is alone: it takes the variables that would tell it an address, which are not ours.
    fn of(config: &Config) -> Self {
        let host = "127.0.0.1";
        Self {
            region: config.region.clone().unwrap_or_else(|| "nil".to_owned()),
            host,
            id: format!("{}@{host}", config.app_name),
        }
    }
}

/// A tenant that has been here.
struct Seen {
    tenant: Arc<str>,
    usage: Arc<Usage>,
    /// Its channels have listened to row changes.
    changes: Option<Rc<changes::Measures>>,
    /// Its database was needed.
    messages: Option<Rc<messages::Measures>>,
}

/// All of them, by name.
fn seen(environment: &Environment, changes: &Hub, sessions: &Sessions) -> Vec<Seen> {
    let live = environment.tenants.borrow();
    let seen = live.directory.iter().filter_map(|tenant| {
        let (changes, messages) = (changes.measures(tenant.id), sessions.measures(tenant.id));
        Seen::new(tenant, changes, messages)
    });
    let mut seen: Vec<Seen> = seen.collect();
    seen.sort_unstable_by(|a, b| a.tenant.cmp(&b.tenant));
    seen
}

impl Seen {
    /// Nothing for a tenant that was never here.
    fn new(
        tenant: &Tenant,
        changes: Option<Rc<changes::Measures>>,
        messages: Option<Rc<messages::Measures>>,
    ) -> Option<Self> {
        let usage = &tenant.usage;
        let has_joined = usage.users() > 0 || usage.total(Counter::Joins) > 0;
        (has_joined || changes.is_some() || messages.is_some()).then(|| Self {
            tenant: Arc::clone(&tenant.external_id),
            usage: Arc::clone(usage),
            changes,
            messages,
        })
    }

    fn users(&self) -> Value {
        Integer(self.usage.users().into())
    }

    fn events(&self) -> Value {
        Integer(self.usage.total(Counter::DbEvents))
    }
}

/// Both parts.
fn page(node: &Node, seen: &[Seen]) -> String {
    let labels = [
        ("region", &*node.region),
        ("host", node.host),
        ("id", &*node.id),
    ];
    let mut text = Exposition::new(&labels);
    let sum = |read: fn(&Usage) -> u64| Integer(seen.iter().map(|seen| read(&seen.usage)).sum());
    let (name, help) = families::USERS_OF_NODE;
    text.family(name, Kind::Gauge, help);
    text.series(&[], sum(|usage| usage.users().into()));
    let (name, help) = families::EVENTS_OF_NODE;
    text.family(name, Kind::Counter, help);
    text.series(&[], sum(|usage| usage.total(Counter::DbEvents)));
    text.end_part();
    write_tenants(&mut text, seen);
    text.end_part();
    text.into_text()
}

fn write_tenants(text: &mut Exposition<'_>, seen: &[Seen]) {
    let (name, help) = families::USERS;
    text.family(name, Kind::Gauge, help);
    for of in seen {
        text.series(&[("tenant", &*of.tenant)], of.users());
    }
    let (name, help) = families::EVENTS;
    text.family(name, Kind::Counter, help);
    for of in seen.iter().filter(|of| of.changes.is_some()) {
        text.series(&[("tenant", &*of.tenant)], of.events());
    }
    let changes = || listed(seen, |of| of.changes.as_deref());
    let messages = || listed(seen, |of| of.messages.as_deref());
    write_families(text, families::CHANGES, changes);
    let skipped = [changes::Dropped::RateLimited];
    for (family, reasons) in [
        (families::SKIPPED, &skipped[..]),
        (families::DROPPED_CHANGES, &changes::Dropped::ALL),
    ] {
        let reasons = reasons.iter().map(|reason| (reason.as_str(), *reason));
        let reasons: Vec<_> = reasons.collect();
        write_reasons(text, family, &reasons, changes, |of, reason| {
            of.dropped(reason)
        });
    }
    write_families(text, families::MESSAGES, messages);
    let reasons = messages::Dropped::ALL.map(|reason| (reason.as_str(), reason));
    let family = families::DROPPED_MESSAGES;
    write_reasons(text, family, &reasons, messages, |of, reason| {
        of.dropped(reason)
    });
}

/// Names and measures of those that have some.
fn listed<'a, M: 'a>(
    seen: &'a [Seen],
    measures: fn(&'a Seen) -> Option<&'a M>,
) -> impl Iterator<Item = (&'a str, &'a M)> {
    seen.iter()
        .filter_map(move |seen| Some((&*seen.tenant, measures(seen)?)))
}

/// One series per tenant and family.
fn write_families<'a, M: 'a, I: Iterator<Item = (&'a str, &'a M)>>(
    text: &mut Exposition<'_>,
    families: &[Family<M>],
    tenants: impl Fn() -> I,
) {
    for family in families {
        text.family(family.name, family.kind, family.help);
        for (tenant, measures) in tenants() {
            text.series(&[("tenant", tenant)], (family.read)(measures));
        }
    }
}

/// A counter with one series per tenant and reason.
fn write_reasons<'a, M: 'a, R: Copy, I: Iterator<Item = (&'a str, &'a M)>>(
    text: &mut Exposition<'_>,
    (name, help): (&'static str, &str),
    reasons: &[(&str, R)],
    tenants: impl Fn() -> I,
    count: impl Fn(&M, R) -> u64,
) {
    text.family(name, Kind::Counter, help);
    for (tenant, measures) in tenants() {
        for (label, reason) in reasons {
            let labels = [("tenant", tenant), ("reason", *label)];
            text.series(&labels, Integer(count(measures, *reason)));
        }
    }
}

#[cfg(test)]
impl Metrics {
    /// Always this page, on a thread of its own; without one, it cannot be written.
    pub(crate) fn for_test(page: Option<&'static str>) -> Self {
        let (metrics, mut scrapes) = Self::new();
        std::thread::spawn(move || {
            while let Some(scrape) = scrapes.blocking_recv() {
                if let Some(page) = page {
                    drop(scrape.send(page.to_owned()));
                }
            }
        });
        metrics
    }
}

#[cfg(test)]
mod tests;

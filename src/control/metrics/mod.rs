//! What Prometheus scrapes, or what is pushed to its like (spec: metrics).
//!
//! What comes in: requests for the page; what is counted is read where it is counted, at that moment. What goes out: the page, the
//! node's part and that of its tenants; and the same of the node as numbers ([`Scene`]), for people. What always holds: nothing is
//! counted here, and a tenant that was never here has no series (`a_tenant_that_was_never_here_has_no_series`); all who wait for a page
//! at the same time get the same one; writing it gives up the thread again and again; a panic costs what was being written, and however
//! many look at the numbers, they are read a few times a second (`numbers_are_read_anew_after_a_moment`). Deliberately absent: other
//! nodes, which there are none of, and who may read the page (`api::gate`).

pub mod exposition;
pub mod families;
pub mod host;
pub mod reading;
pub mod pace;
pub mod roll;
pub mod node;
pub mod tenants;
pub mod page;
pub mod push;

use super::changes::Hub;
use super::clock;
use super::database::Environment;
use super::session::Sessions;
use super::supervise::{self, caught, panic_text};
use crate::config::Config;
use crate::error::Level;
use crate::limits;
use crate::logging::Line;
use crate::metrics::{Figures, Instruments};
use exposition::Exposition;
pub use node::Scene;
use page::Page;
use reading::Reading;
use roll::Roll;
use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

/// A way to the page, from any thread, and to what the control core itself counts. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Metrics {
    wishes: mpsc::Sender<Wish>,
    instruments: Instruments,
}

/// What somebody waits for.
#[derive(Debug)]
enum Wish {
    /// The page.
    Page(oneshot::Sender<Page>),
    /// The numbers of the node.
    Scene(oneshot::Sender<Arc<Scene>>),
}

impl Metrics {
    /// To be called within the `LocalSet`; it ends with the last of the clones.
    #[must_use]
    pub fn start(
        changes: Hub,
        sessions: Sessions,
        environment: Rc<Environment>,
        instruments: Instruments,
    ) -> Self {
        let (metrics, wishes) = Self::new(instruments.clone());
        let scribe = Scribe::new(changes, sessions, environment, instruments);
        spawn_local(scribe.work(wishes));
        metrics
    }

    fn new(instruments: Instruments) -> (Self, mpsc::Receiver<Wish>) {
        let (wishes, inbox) = mpsc::channel(limits::METRICS_SCRAPES_MAX);
        let metrics = Self {
            wishes,
            instruments,
        };
        (metrics, inbox)
    }

    /// The page as it is now; nothing when it could not be written, which the log says.
    pub async fn page(&self) -> Option<Page> {
        let (sender, page) = oneshot::channel();
        self.wishes.send(Wish::Page(sender)).await.ok()?;
        page.await.ok()
    }

    /// The numbers of the node as they were at most [`limits::FIGURES_FRESH_FOR`] ago; nothing when they could not be read, which the
    /// log says.
    pub async fn scene(&self) -> Option<Arc<Scene>> {
        let (sender, scene) = oneshot::channel();
        self.wishes.send(Wish::Scene(sender)).await.ok()?;
        scene.await.ok()
    }

    /// What the control core counts as the shards do.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        self.instruments.board.control()
    }

    /// What the control core counts of itself.
    #[must_use]
    pub fn instruments(&self) -> &Instruments {
        &self.instruments
    }
}

/// What every series says of this node.
struct Node {
    region: String,
    host: &'static str,
    id: String,
}

impl Node {
    fn of(config: &Config) -> Self {
        let host = Config::HOST;
        Self {
            region: config.region.clone().unwrap_or_else(|| "nil".to_owned()),
            host,
            id: config.node(),
        }
    }

    fn labels(&self) -> [(&str, &str); 3] {
        [
            ("region", &*self.region),
            ("host", self.host),
            ("id", &*self.id),
        ]
    }
}

/// Writes the pages, one after the other.
struct Scribe {
    node: Node,
    changes: Hub,
    sessions: Sessions,
    environment: Rc<Environment>,
    instruments: Instruments,
    host: host::Reader,
    roll: Roll,
    start: Instant,
    /// What those who look have seen last.
    seen: Option<Arc<Scene>>,
}

impl Scribe {
    fn new(
        changes: Hub,
        sessions: Sessions,
        environment: Rc<Environment>,
        instruments: Instruments,
    ) -> Self {
        Self {
            node: Node::of(&environment.config),
            changes,
            sessions,
            environment,
            instruments,
            host: host::Reader::default(),
            roll: Roll::default(),
            start: clock::now(),
            seen: None,
        }
    }

    /// Until nobody can ask any more.
    async fn work(mut self, mut wishes: mpsc::Receiver<Wish>) {
        let mut cleaner = Cleaner::of(&self.environment.config, self.start);
        loop {
            let first = tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => wish,
                    None => return,
                },
                () = cleaner.wait() => {
                    self.look().await;
                    if cleaner.is_due(clock::now()) {
                        self.clean();
                    }
                    continue;
                }
            };
            let (mut pages, mut scenes) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(wish) = next {
                match wish {
                    Wish::Page(sender) => pages.push(sender),
                    Wish::Scene(sender) => scenes.push(sender),
                }
                next = wishes.try_recv().ok();
            }
            // Who asked may have hung up. Who looks does not wait for the page.
            if !scenes.is_empty() {
                match caught(self.fresh_scene()).await {
                    Ok(scene) => scenes
                        .into_iter()
                        .for_each(|sender| drop(sender.send(Arc::clone(&scene)))),
                    Err(panic) => self.say_lost(&*panic),
                }
            }
            if !pages.is_empty() {
                let began = clock::now();
                match caught(self.page()).await {
                    Ok(page) => {
                        pages
                            .into_iter()
                            .for_each(|sender| drop(sender.send(page.clone())));
                        self.say_collected(began);
                    }
                    Err(panic) => self.say_lost(&*panic),
                }
            }
        }
    }

    fn say_lost(&self, panic: &(dyn Any + Send)) {
        let text = panic_text(panic);
        let text = format!("the metrics were not written: {text}");
        self.say(Level::Error, &text);
    }

    /// Time since the start.
    fn now(&self) -> Duration {
        clock::now().duration_since(self.start)
    }

    async fn look(&mut self) {
        let now = self.now();
        self.roll
            .look(&self.environment, &self.changes, &self.sessions, now)
            .await;
    }

    fn clean(&mut self) {
        let taken = self.roll.clean(self.now());
        if taken > 0 {
            let text = format!("the metrics say no more of {taken} tenants that are away");
            self.say(Level::Info, &text);
        }
    }

    async fn page(&mut self) -> Page {
        self.look().await;
        let scene = self.scene().await;
        let labels = self.node.labels();
        let mut text = Exposition::new(&labels);
        node::write(&mut text, &scene);
        let tenants_at = text.end_part();
        tenants::write(&mut text, &self.roll).await;
        text.end_part();
        Page::new(text.into_text(), tenants_at)
    }

    /// The numbers of the node, read anew unless that was done just now.
    async fn fresh_scene(&mut self) -> Arc<Scene> {
        let now = self.now();
        let is_fresh = |scene: &&Arc<Scene>| now < scene.uptime + limits::FIGURES_FRESH_FOR;
        if let Some(scene) = self.seen.as_ref().filter(is_fresh) {
            return Arc::clone(scene);
        }
        self.look().await;
        let scene = Arc::new(self.scene().await);
        self.seen = Some(Arc::clone(&scene));
        scene
    }

    async fn scene(&mut self) -> Scene {
        let Environment {
            config,
            outgoing,
            log,
            ..
        } = &*self.environment;
        let now = clock::now().duration_since(self.start);
        let shortest = Duration::from_millis(config.metrics.gauges_period_ms);
        Scene {
            shards: Reading::of_all(&self.instruments),
            http_connections: self.instruments.control.http_connections.get(),
            instruments: self.instruments.clone(),
            host: self.host.read(now, shortest),
            uptime: now,
            connections_max: config.connections_max,
            users: self.roll.users(),
            totals: self.roll.totals().await,
            sessions: self.sessions.connected() as u64,
            tenants_left_out: self.roll.left_out() as u64,
            parcels_waiting: outgoing.waiting() as u64,
            restarts: supervise::restarts(),
            lines: (log.held_back(), log.lost()),
        }
    }

    /// In the original's words (spec: errors-and-logs 3).
    fn say_collected(&self, began: Instant) {
        if self.environment.log.is_enabled(Level::Info) {
            let took = clock::now().duration_since(began).as_millis();
            let text = format!("Collected cluster metrics in {took} milliseconds");
            self.say(Level::Info, &text);
        }
    }

    fn say(&self, level: Level, text: &str) {
        let line = Line::new(clock::unix_ms(), level, text);
        self.environment.log.write(line);
    }
}

/// Time between two looks at who is here: how far off the time may be for which somebody is said to be away.
const LOOK_INTERVAL: Duration = Duration::from_secs(limits::METRICS_VACANT_AFTER.as_secs() / 10);

/// When to look who is away, and when to take the series of those who are (`METRICS_CLEANER_SCHEDULE_TIMER_IN_MS`).
struct Cleaner {
    /// None without `RUN_JANITOR`.
    period: Option<Duration>,
    look_at: Instant,
    clean_at: Instant,
}

impl Cleaner {
    fn of(config: &Config, start: Instant) -> Self {
        let period = Duration::from_millis(config.metrics.cleaner_period_ms);
        Self {
            period: config.janitor.is_enabled.then_some(period),
            look_at: start + LOOK_INTERVAL.min(period),
            clean_at: start + period,
        }
    }

    /// Returns when it is time to look; never without a cleaner.
    async fn wait(&self) {
        match self.period {
            Some(_) => sleep_until(self.look_at).await,
            None => std::future::pending().await,
        }
    }

    /// After a look: whether it is time to clean as well.
    fn is_due(&mut self, now: Instant) -> bool {
        let Some(period) = self.period else {
            return false;
        };
        self.look_at = now + LOOK_INTERVAL.min(period);
        let is_due = now >= self.clean_at;
        if is_due {
            self.clean_at = now + period;
        }
        is_due
    }
}

#[cfg(test)]
impl Metrics {
    /// Always this page, on a thread of its own; without one, it cannot be written. The numbers are those of the instruments.
    pub(crate) fn for_test(page: Option<&'static str>) -> Self {
        let (metrics, mut wishes) = Self::new(Instruments::for_test(1));
        let instruments = metrics.instruments.clone();
        std::thread::spawn(move || {
            while let Some(wish) = wishes.blocking_recv() {
                match (wish, page) {
                    (Wish::Page(sender), Some(page)) => {
                        drop(sender.send(Page::new(page.to_owned(), 0)));
                    }
                    (Wish::Scene(sender), Some(_)) => {
                        drop(sender.send(Arc::new(Scene::for_test(&instruments))));
                    }
                    (_, None) => {}
                }
            }
        });
        metrics
    }
}

#[cfg(test)]
mod tests;

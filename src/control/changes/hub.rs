//! The engines of all tenants: one for each whose channels listen to row changes.
//!
//! What comes in: letters of the shards. What goes out: orders to engines, which are started and ended as they are needed. What always
//! holds: who listens is known here, whatever becomes of an engine: one that panics is started again and subscribes everybody anew; a
//! slot that an earlier life of this process has left is dropped, at the start of the process or before the tenant's engine starts;
//! engines of different tenants share nothing but this thread. Deliberately absent: what an engine does.

use super::engine::{Context, End, Engine, Grounds, Order, Patience, Roster};
use super::measures::Measures;
use super::registry::{Ids, ListenerKey};
use super::settings::ChangesSettings;
use super::source;
use super::visibility::Checkers;
use crate::control::clock;
use crate::control::database::{Environment, Settings};
use crate::control::outgoing::Parcel;
use crate::control::session::Sessions;
use crate::control::supervise::{caught, panic_text};
use crate::error::{ErrorCode, Level, inspect, text};
use crate::limits;
use crate::logging::Line;
use crate::mail::{Listen, ListenerId, ListenerNews, Listening};
use crate::tenant::{Tenant, TenantId};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

/// See the room's documentation. Clones are the same.
#[derive(Clone)]
pub struct Hub(Rc<Inner>);

struct Inner {
    sessions: Sessions,
    environment: Rc<Environment>,
    workers: RefCell<FxHashMap<TenantId, Worker>>,
    /// How many workers there are; whoever waits for the end waits for none.
    count: watch::Sender<usize>,
    measures: RefCell<FxHashMap<TenantId, Rc<Measures>>>,
    /// For the classes and groups of all engines, those that come after others as well.
    ids: Ids,
}

/// A tenant's engine as the hub knows it.
struct Worker {
    roster: Roster,
    orders: mpsc::UnboundedSender<Order>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("workers", &self.0.workers.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Without any engine. Slots that an earlier life of the process has left in tenants' databases are dropped behind the caller's back.
    #[must_use]
    pub fn start(sessions: Sessions, environment: Rc<Environment>) -> Self {
        let hub = Self(Rc::new(Inner {
            sessions,
            environment,
            workers: RefCell::default(),
            count: watch::Sender::new(0),
            measures: RefCell::default(),
            ids: Ids::default(),
        }));
        hub.sweep();
        hub
    }

    /// A channel of the shard of this index listens, or has other claims than before.
    pub fn listen(&self, shard: usize, listen: Listen) {
        let (tenant, key) = (listen.tenant, (shard, listen.listener));
        let mut workers = self.0.workers.borrow_mut();
        let worker = workers.entry(tenant).or_insert_with(|| self.work(tenant));
        worker.roster.borrow_mut().insert(key, Rc::new(listen));
        // A worker leaves the map before it stops reading its orders.
        let _ = worker.orders.send(Order::Listen(key));
    }

    /// It does so no more.
    pub fn unlisten(&self, tenant: TenantId, (shard, listener): (usize, ListenerId)) {
        let key = (shard, listener);
        if let Some(worker) = self.0.workers.borrow().get(&tenant) {
            worker.roster.borrow_mut().remove(&key);
            let _ = worker.orders.send(Order::Unlisten(key));
        }
    }

    /// Ends a tenant's engine. While somebody listens, another one is started, if the tenant may have one.
    pub fn restart(&self, tenant: TenantId) {
        if let Some(worker) = self.0.workers.borrow().get(&tenant) {
            let _ = worker.orders.send(Order::Restart);
        }
    }

    /// Waits until a tenant has no engine any more, and nobody who waits for one.
    pub async fn ended(&self, tenant: TenantId) {
        let mut count = self.0.count.subscribe();
        while self.0.workers.borrow().contains_key(&tenant) {
            // Every worker that ends changes it.
            if count.changed().await.is_err() {
                return;
            }
        }
    }

    /// There is no such tenant any more: what was counted of it is forgotten.
    pub fn forget(&self, tenant: TenantId) {
        self.0.measures.borrow_mut().remove(&tenant);
    }

    /// What was counted of a tenant's changes. None before somebody has listened.
    #[must_use]
    pub fn measures(&self, tenant: TenantId) -> Option<Rc<Measures>> {
        self.0.measures.borrow().get(&tenant).cloned()
    }

    /// How many channels of a tenant listen now.
    #[must_use]
    pub fn listeners(&self, tenant: TenantId) -> usize {
        let workers = self.0.workers.borrow();
        workers
            .get(&tenant)
            .map_or(0, |worker| worker.roster.borrow().len())
    }

    /// Ends all engines and drops their slots; at the latest after [`limits::CHANGES_END_TIMEOUT`] it returns, slots or not.
    pub async fn end(&self) {
        for worker in self.0.workers.borrow().values() {
            let _ = worker.orders.send(Order::Stop);
        }
        let mut count = self.0.count.subscribe();
        let ended = count.wait_for(|count| *count == 0);
        let _ = tokio::time::timeout(limits::CHANGES_END_TIMEOUT, ended).await;
    }

    /// Starts a tenant's worker.
    fn work(&self, tenant: TenantId) -> Worker {
        let (orders, inbox) = mpsc::unbounded_channel();
        let roster = Roster::default();
        let hub = self.clone();
        self.0.count.send_modify(|count| *count += 1);
        spawn_local({
            let roster = Rc::clone(&roster);
            async move { hub.run(tenant, roster, inbox).await }
        });
        Worker { roster, orders }
    }

    /// Runs engines as long as somebody listens.
    async fn run(&self, id: TenantId, roster: Roster, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut pause = limits::TASK_RESTART_PAUSE;
        // Why those who listen may have missed something, since an engine that had a slot is gone.
        let mut missed = None;
        loop {
            let began = clock::now();
            let end = match self.engine(id, &roster) {
                Some(mut engine) => {
                    let outcome = caught(engine.run(&mut orders, missed.take())).await;
                    let (end, why) = match outcome {
                        Ok(end) => (end, "the settings of the database were changed"),
                        Err(panic) => {
                            let text = format!("row changes start anew: {}", panic_text(&*panic));
                            self.log(id, ErrorCode::UnknownError, &text);
                            (End::Changed, "the server had to start reading anew")
                        }
                    };
                    // Whoever is there behind an idle one came while it ended.
                    missed = (end != End::Idle && engine.is_up()).then_some(why);
                    end
                }
                None => self.wait_for_settings(id, &roster, &mut orders).await,
            };
            let is_over = match end {
                End::Stopped => true,
                End::Idle | End::Unwanted => {
                    roster.borrow().is_empty() || self.tenant(id).is_none()
                }
                End::Changed => false,
            };
            if is_over {
                break;
            }
            if began.elapsed() > limits::TASK_RESTART_PAUSE_MAX {
                pause = limits::TASK_RESTART_PAUSE;
            }
            tokio::time::sleep(pause).await;
            // Who was disconnected along with the engine has been heard of by now.
            if end == End::Unwanted && roster.borrow().is_empty() {
                break;
            }
            pause = (pause * 2).min(limits::TASK_RESTART_PAUSE_MAX);
        }
        // From here on the next listener starts another worker.
        self.0.workers.borrow_mut().remove(&id);
        self.0.count.send_modify(|count| *count -= 1);
    }

    /// An engine with the settings that the tenant has now.
    fn engine(&self, id: TenantId, roster: &Roster) -> Option<Engine> {
        let live = Arc::clone(&self.0.environment.tenants.borrow());
        let tenant = live.directory.get(id).filter(|tenant| !tenant.suspended)?;
        let settings = match Settings::in_live(&live, id)? {
            Ok(settings) => Rc::new(settings),
            Err(text) => {
                self.log(id, ErrorCode::ErrorStartingPostgresCDC, &text);
                return None;
            }
        };
        let changes = match ChangesSettings::in_live(&live, id)? {
            Ok(changes) => Rc::new(changes),
            Err(text) => {
                self.log(id, ErrorCode::ErrorStartingPostgresCDC, &text);
                return None;
            }
        };
        self.say_starting(tenant, live.database(id));
        let measures = Rc::clone(self.0.measures.borrow_mut().entry(id).or_default());
        let context = Context {
            tenant: Arc::clone(tenant),
            checkers: Checkers::new(
                Rc::clone(&settings),
                changes.check_connections_max,
                Rc::clone(&measures.visibility),
            ),
            settings,
            changes,
            environment: Rc::clone(&self.0.environment),
            measures,
            patience: Patience::default(),
            lost_said_at: Cell::default(),
            lost_unsaid: Cell::default(),
        };
        let (sessions, ids) = (self.0.sessions.clone(), self.0.ids.clone());
        Some(Engine::new(context, sessions, Rc::clone(roster), ids))
    }

    /// There can be no engine: waits until there may be one, or nobody listens.
    async fn wait_for_settings(
        &self,
        id: TenantId,
        roster: &Roster,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> End {
        let mut tenants = self.0.environment.tenants.clone();
        let before = Grounds::of(&tenants.borrow_and_update(), id);
        // What was ordered before is in the roster: nobody is told twice.
        while let Ok(order) = orders.try_recv() {
            if let Order::Stop = order {
                return End::Stopped;
            }
        }
        let keys: Vec<ListenerKey> = roster.borrow().keys().copied().collect();
        if keys.is_empty() {
            return End::Unwanted;
        }
        for key in keys {
            self.tell_unreachable(key).await;
        }
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Stop) | None => return End::Stopped,
                    Some(Order::Restart) => return End::Unwanted,
                    Some(Order::Listen(key)) => self.tell_unreachable(key).await,
                    Some(Order::Unlisten(_)) if roster.borrow().is_empty() => return End::Unwanted,
                    Some(Order::Unlisten(_)) => {}
                },
                Ok(()) = tenants.changed() => {
                    if Grounds::of(&tenants.borrow_and_update(), id) != before {
                        return End::Changed;
                    }
                }
            }
        }
    }

    /// A client reads that there is no database to listen to.
    async fn tell_unreachable(&self, (shard, listener): ListenerKey) {
        let listening = Listening {
            listener,
            seats: Some(Vec::new()),
            news: Some(ListenerNews {
                is_ok: false,
                message: text::UNABLE_TO_CONNECT.into(),
            }),
            line: None,
        };
        let parcel = Parcel::Listening(shard, Box::new(listening));
        self.0.environment.outgoing.send(parcel).await;
    }

    /// Drops what an earlier life of the process has left.
    fn sweep(&self) {
        let hub = self.clone();
        spawn_local(async move {
            let live = Arc::clone(&hub.0.environment.tenants.borrow());
            let tenants = live.directory.iter().filter_map(|tenant| {
                // One that listens already has looked by itself.
                let is_at_work = hub.0.workers.borrow().contains_key(&tenant.id);
                let settings = Settings::in_live(&live, tenant.id)?.ok()?;
                let changes = ChangesSettings::in_live(&live, tenant.id)?.ok()?;
                (!is_at_work).then(|| (Arc::clone(tenant), Rc::new(settings), Rc::new(changes)))
            });
            source::sweep_all(Rc::clone(&hub.0.environment), tenants).await;
        });
    }

    fn tenant(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.0
            .environment
            .tenants
            .borrow()
            .directory
            .get(id)
            .cloned()
    }

    /// In the original's words (spec: errors-and-logs 3).
    fn say_starting(&self, tenant: &Tenant, settings: Option<&Arc<Map<String, Value>>>) {
        let region = settings.and_then(|settings| settings.get("region"));
        let region = region.map_or_else(|| "nil".to_owned(), inspect);
        let node = self.0.environment.config.node();
        let text = format!(
            "Starting distributed postgres extension [launch_node: :\"{node}\", region: {region}]"
        );
        let line = Line::new(clock::unix_ms(), Level::Warning, &text);
        self.0
            .environment
            .log
            .write(line.of_tenant(Arc::clone(&tenant.external_id)));
    }

    fn log(&self, id: TenantId, code: ErrorCode, text: &str) {
        let line = Line::coded(clock::unix_ms(), code, text);
        self.0.environment.write_of(id, line);
    }
}

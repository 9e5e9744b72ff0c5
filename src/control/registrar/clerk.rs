//! Who does what the registrar is asked for.

use super::effects::Effects;
use super::{Failure, Health, Means, Stored};
use crate::control::changes::source::{self, Swept};
use crate::control::changes::{ChangesSettings, Hub};
use crate::control::clock;
use crate::control::database::{Environment, Settings};
use crate::control::outgoing::{News, Parcel};
use crate::control::rates::Notice;
use crate::control::session::Sessions;
use crate::control::store::{
    FieldErrors, StoreError, StoreNews, TenantRecord, TenantStore, apply, is_storable, of_new,
};
use crate::control::supervise::{caught, panic_text};
use crate::control::tenants::Registry;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use crate::tenant::{Tenant, TenantId};
use rustc_hash::FxHashSet;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_local;

/// Names that clients choose.
type ByName<T> = HashMap<String, T, foldhash::fast::RandomState>;

/// See the module.
pub(super) struct Clerk {
    store: Arc<dyn TenantStore>,
    pub(super) registry: RefCell<Registry>,
    pub(super) sessions: Sessions,
    pub(super) changes: Hub,
    pub(super) environment: Rc<Environment>,
    /// Whose turn it is, for each tenant that is being changed.
    turns: RefCell<ByName<Arc<Semaphore>>>,
    /// Names that are being looked for; closed when that is over.
    seeks: RefCell<ByName<watch::Receiver<()>>>,
    /// Bounds what they ask the store at the same time: operators and news of others find a connection to it.
    lookups: Semaphore,
    /// Tenants that others have changed and that are being read again. Whoever reads looks here for further changes, and whether somebody
    /// has asked for a reload.
    following: RefCell<ByName<watch::Sender<bool>>>,
    /// Bounds what is read because of that.
    reading: Semaphore,
    /// Whose databases are being brought up to date because of a question about their health.
    pub(super) migrating: RefCell<FxHashSet<TenantId>>,
}

/// The right to change one tenant.
struct Turn<'a> {
    clerk: &'a Clerk,
    external_id: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.permit.take();
        let mut turns = self.clerk.turns.borrow_mut();
        // Those who wait have a handle each.
        let is_over = |turn: &Arc<Semaphore>| Arc::strong_count(turn) == 1;
        if turns.get(&self.external_id).is_some_and(is_over) {
            turns.remove(&self.external_id);
        }
    }
}

impl Clerk {
    pub(super) fn new(store: Arc<dyn TenantStore>, means: Means) -> Self {
        let Means {
            registry,
            sessions,
            changes,
            environment,
        } = means;
        let database = environment.config.database.as_ref();
        let lookups = database.map_or(limits::SEEKS_MAX, |it| {
            let connections = usize::try_from(it.connections_max).unwrap_or(usize::MAX);
            let connections = connections.min(limits::DATABASE_POOL_CONNECTIONS_MAX);
            connections.saturating_sub(limits::SEEKS_LEAVE_CONNECTIONS)
        });
        Self {
            store,
            registry: RefCell::new(registry),
            sessions,
            changes,
            environment,
            turns: RefCell::default(),
            seeks: RefCell::default(),
            lookups: Semaphore::new(lookups.clamp(1, limits::SEEKS_MAX)),
            following: RefCell::default(),
            reading: Semaphore::new(limits::NEWS_READ_AT_ONCE),
            migrating: RefCell::default(),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<TenantRecord>, Failure> {
        self.stored("the tenants cannot be listed", self.store.list())
            .await
    }

    pub(super) async fn get(&self, external_id: &str) -> Result<Option<TenantRecord>, Failure> {
        if !is_storable(external_id) {
            return Ok(None);
        }
        self.stored("a tenant cannot be read", self.store.get(external_id))
            .await
    }

    /// A description must be one of a new tenant, also where the tenant exists (spec: http-api 3.4).
    pub(super) async fn post(
        self: &Rc<Self>,
        attributes: &Map<String, Value>,
    ) -> Result<Stored, Failure> {
        let external_id = attributes.get("external_id").and_then(Value::as_str);
        let external_id = external_id.unwrap_or_default();
        let now = clock::unix_seconds();
        let defaults = &self.environment.config.tenant_defaults;
        let mut draft = TenantRecord::new(external_id, defaults, now);
        if let Err(errors) = apply(&mut draft, &of_new(attributes), now) {
            // That a key is missing is noticed when it is stored: the tenant may have one.
            if !is_about_missing_key(&errors) {
                return Err(Failure::Invalid(errors));
            }
        }
        self.put(external_id, attributes).await
    }

    pub(super) async fn put(
        self: &Rc<Self>,
        external_id: &str,
        attributes: &Map<String, Value>,
    ) -> Result<Stored, Failure> {
        if !is_storable(external_id) {
            return Err(Failure::Invalid(about("external_id", "is invalid")));
        }
        let turn = self.turn(external_id).await;
        let (record, is_new) = self
            .rewrite(external_id, |before| {
                let is_new = before.is_none();
                let record = match before {
                    Some(before) => self.changed(before, attributes)?,
                    None => self.made(external_id, attributes)?,
                };
                Ok(Some((record, is_new)))
            })
            .await?
            .expect("it is always stored");
        let id = self.adopt(&record, Effects::default()).await;
        let news = StoreNews::Changed(external_id.to_owned());
        self.announce(news).await;
        drop(turn);
        // Whoever reads the answer finds the tenant as it is now, at whichever shard.
        self.environment.outgoing.heeded().await;
        if is_new {
            self.make_ready(&record, id).await?;
        }
        Ok(Stored { record, is_new })
    }

    /// A tenant as a file describes it: one that is whole is made, and one that says nothing new is left alone.
    pub(super) async fn describe(
        self: &Rc<Self>,
        external_id: &str,
        attributes: &Map<String, Value>,
    ) -> Result<Option<bool>, Failure> {
        if !is_storable(external_id) {
            return Err(Failure::Invalid(about("external_id", "is invalid")));
        }
        let _turn = self.turn(external_id).await;
        let stored = self
            .rewrite(external_id, |before| {
                let now = clock::unix_seconds();
                let defaults = &self.environment.config.tenant_defaults;
                let made = || TenantRecord::new(external_id, defaults, now);
                let mut record = before.clone().unwrap_or_else(made);
                apply(&mut record, attributes, now).map_err(Failure::Invalid)?;
                let is_known = before
                    .as_ref()
                    .is_some_and(|before| before.says_the_same_as(&record));
                Ok((!is_known).then_some((record, before.is_none())))
            })
            .await?;
        let Some((record, is_new)) = stored else {
            return Ok(None);
        };
        self.adopt(&record, Effects::default()).await;
        self.announce(StoreNews::Changed(external_id.to_owned()))
            .await;
        Ok(Some(is_new))
    }

    /// Reads a tenant, and stores what `change` makes of it; again with what another process has made of it meanwhile. Nothing when
    /// nothing is to be stored.
    async fn rewrite<T>(
        &self,
        external_id: &str,
        change: impl Fn(Option<TenantRecord>) -> Result<Option<(TenantRecord, T)>, Failure>,
    ) -> Result<Option<(TenantRecord, T)>, Failure> {
        for tries_left in (0..limits::STALE_CHANGES_MAX).rev() {
            let Some((record, with)) = change(self.get(external_id).await?)? else {
                return Ok(None);
            };
            match self.store.put(record).await {
                Err(StoreError::Stale { .. }) if tries_left > 0 => {}
                put => {
                    let put = std::future::ready(put);
                    let record = self.stored("a tenant cannot be stored", put).await?;
                    return Ok(Some((record, with)));
                }
            }
        }
        Err(Failure::Store)
    }

    /// The record of a tenant that is there, with what `attributes` say.
    fn changed(
        &self,
        mut record: TenantRecord,
        attributes: &Map<String, Value>,
    ) -> Result<TenantRecord, Failure> {
        let external_id = record.external_id.clone();
        apply(&mut record, attributes, clock::unix_seconds()).map_err(Failure::Invalid)?;
        // Ours: its extensions refer to it by this name, and clients connect to it. The original fails.
        if record.external_id != external_id {
            return Err(Failure::Invalid(about("external_id", "is invalid")));
        }
        Ok(record)
    }

    /// The record of a new tenant (spec: http-api 3.4).
    fn made(
        &self,
        external_id: &str,
        attributes: &Map<String, Value>,
    ) -> Result<TenantRecord, Failure> {
        let mut attributes = of_new(attributes);
        for name in ["name", "external_id"] {
            attributes.insert(name.to_owned(), json!(external_id));
        }
        if let Some(Value::Array(extensions)) = attributes.get_mut("extensions") {
            let is_whole = |entry: &Value| {
                entry.as_object().is_some_and(|entry| {
                    entry.contains_key("type") && entry.contains_key("settings")
                })
            };
            extensions.retain(is_whole);
            extensions.reverse();
        }
        let now = clock::unix_seconds();
        let defaults = &self.environment.config.tenant_defaults;
        let mut record = TenantRecord::new(external_id, defaults, now);
        apply(&mut record, &attributes, now).map_err(Failure::Invalid)?;
        // Ours: the original fails, and may have stored it.
        if record.extensions.is_empty() {
            return Err(Failure::Invalid(about("extensions", "can't be blank")));
        }
        Ok(record)
    }

    /// Makes the database of a new tenant ready.
    async fn make_ready(&self, record: &TenantRecord, id: TenantId) -> Result<(), Failure> {
        let is_unknown = |kind: &str| kind != TenantRecord::POSTGRES_CDC;
        let unknown = record.extensions.iter().find(|it| is_unknown(&it.kind));
        if let Some(unknown) = unknown {
            let text = format!("nobody knows an extension of type {:?}", unknown.kind);
            self.log(ErrorCode::MigrationsFailedToRun, &text, &record.external_id);
            return Err(Failure::NotReady);
        }
        self.migrate(&record.external_id, id).await
    }

    /// Brings a tenant's database up to date, and notes how many migrations it has had.
    pub(super) async fn migrate(&self, external_id: &str, id: TenantId) -> Result<(), Failure> {
        let migrated = self.sessions.migrate(id).await;
        let ran = migrated.map_err(|_| Failure::NotReady)?;
        let Some(ran) = ran.and_then(|ran| i32::try_from(ran).ok()) else {
            return Ok(());
        };
        let _turn = self.turn(external_id).await;
        let known = self.registry.borrow().record(external_id).cloned();
        // It may be another one by now, or none.
        let cached = known.map_or(0, |known| known.migrations_ran);
        if cached == ran {
            return Ok(());
        }
        // A tenant that has had none yet is as it should be.
        if cached != 0 {
            let text = format!(
                "Reconciling migrations_ran for tenant {external_id} cached={cached} database={ran}"
            );
            self.log(ErrorCode::MigrationCountMismatch, &text, external_id);
        }
        let noted = self
            .rewrite(external_id, |before| {
                let before = before.filter(|_| self.id_of(external_id) == Some(id));
                Ok(before.map(|before| {
                    let migrations_ran = ran;
                    let record = TenantRecord {
                        migrations_ran,
                        ..before
                    };
                    (record, ())
                }))
            })
            .await;
        if noted.is_err() {
            let text = "the count of its migrations could not be stored";
            let code = ErrorCode::MigrationCountMismatchReconcileFailed;
            self.log(code, text, external_id);
        }
        if let Some((record, ())) = noted? {
            self.adopt(&record, Effects::default()).await;
        }
        Ok(())
    }

    pub(super) async fn delete(self: &Rc<Self>, external_id: &str) -> Result<(), Failure> {
        if !is_storable(external_id) {
            return Ok(());
        }
        let _turn = self.turn(external_id).await;
        let delete = self.store.delete(external_id);
        let was_there = self.stored("a tenant cannot be deleted", delete).await?;
        if was_there {
            self.announce(StoreNews::Changed(external_id.to_owned()))
                .await;
        }
        self.remove(external_id, true).await;
        self.environment.outgoing.heeded().await;
        Ok(())
    }

    pub(super) async fn reload(&self, external_id: &str) -> Result<bool, Failure> {
        let is_there = self.reload_here(external_id).await?;
        if is_there {
            self.announce(StoreNews::Reload(external_id.to_owned()))
                .await;
            self.environment.outgoing.heeded().await;
        }
        Ok(is_there)
    }

    /// Reads a tenant anew, and disconnects everybody.
    async fn reload_here(&self, external_id: &str) -> Result<bool, Failure> {
        let _turn = self.turn(external_id).await;
        let Some(record) = self.get(external_id).await? else {
            return Ok(false);
        };
        self.adopt(&record, Effects::ALL).await;
        Ok(true)
    }

    pub(super) async fn shut_down(&self, external_id: &str) -> Result<bool, Failure> {
        let Some(tenant) = self.find(external_id).await else {
            return Ok(false);
        };
        self.sessions.end(tenant.id);
        self.announce(StoreNews::Shutdown(external_id.to_owned()))
            .await;
        Ok(true)
    }

    pub(super) async fn health(self: &Rc<Self>, external_id: &str) -> Option<Health> {
        let tenant = self.find(external_id).await?;
        Some(self.health_of(&tenant))
    }

    /// Takes a record that is stored: tells the shards, and ends what it has made invalid, and what `also` says.
    async fn adopt(&self, record: &TenantRecord, also: Effects) -> TenantId {
        let before = self.registry.borrow().record(&record.external_id).cloned();
        let own = Effects::of(before.as_ref(), record);
        // Nothing is awaited between the note and the parcel: who reads the registry knows what the shards will know.
        let place = self.environment.outgoing.reserve().await;
        let (tenant, limits_changed) = self.registry.borrow_mut().apply(record);
        let id = tenant.id;
        place.send(Parcel::All(News::Tenant(tenant)));
        if limits_changed {
            let _ = self
                .environment
                .notices
                .send(Notice::LimitsChanged(id))
                .await;
        }
        if own.disconnects || also.disconnects {
            self.say_disconnecting(&record.external_id);
            let disconnect = Parcel::All(News::Disconnect(id));
            self.environment.outgoing.send(disconnect).await;
        }
        if own.restarts_database || also.restarts_database {
            self.sessions.end(id);
            self.changes.restart(id);
        }
        id
    }

    /// Takes note that a tenant is gone. `drops_slots` is for the process that has deleted it.
    async fn remove(self: &Rc<Self>, external_id: &str, drops_slots: bool) {
        let place = self.environment.outgoing.reserve().await;
        let live = Arc::clone(&self.environment.tenants.borrow());
        let Some(tenant) = self.registry.borrow_mut().remove(external_id) else {
            return;
        };
        self.say_disconnecting(external_id);
        // This disconnects its sockets as well.
        place.send(Parcel::All(News::TenantGone(tenant.id)));
        let _ = self.environment.notices.send(Notice::Gone(tenant.id)).await;
        self.sessions.end(tenant.id);
        self.changes.restart(tenant.id);
        let settings = Settings::in_live(&live, tenant.id).and_then(Result::ok);
        let changes = ChangesSettings::in_live(&live, tenant.id).and_then(Result::ok);
        let slots = settings.zip(changes).filter(|_| drops_slots);
        let clerk = Rc::clone(self);
        let torn_down = spawn_local(async move {
            clerk.changes.ended(tenant.id).await;
            clerk.changes.forget(tenant.id);
            clerk.sessions.forget(tenant.id);
            if let Some((settings, changes)) = slots {
                clerk.drop_slots(&tenant, settings, &changes).await;
            }
        });
        if !drops_slots {
            return;
        }
        // A database that hangs must not keep the caller: it goes on behind his back.
        let _ = tokio::time::timeout(limits::TENANT_TEARDOWN_TIMEOUT, torn_down).await;
    }

    async fn drop_slots(
        &self,
        tenant: &Arc<Tenant>,
        settings: Settings,
        changes: &ChangesSettings,
    ) {
        let swept = source::sweep(&self.environment, tenant, Rc::new(settings), changes).await;
        if let Swept::Failed = swept {
            let text = "its database could not be asked for what is left of it";
            let code = ErrorCode::UnableToDeleteTenant;
            self.log(code, text, &tenant.external_id);
        }
    }

    /// A tenant that is known, or is found in a store that others write to.
    async fn find(&self, external_id: &str) -> Option<Arc<Tenant>> {
        if let Some(tenant) = self.tenant(external_id) {
            return Some(tenant);
        }
        if self.store.is_shared() {
            self.seek(external_id).await;
        }
        self.tenant(external_id)
    }

    fn tenant(&self, external_id: &str) -> Option<Arc<Tenant>> {
        let live = self.environment.tenants.borrow();
        live.directory.find(external_id).cloned()
    }

    fn id_of(&self, external_id: &str) -> Option<TenantId> {
        self.tenant(external_id).map(|tenant| tenant.id)
    }

    /// Looks for a name in the store; whoever asks for the same name meanwhile waits for the same answer.
    pub(super) async fn seek(&self, external_id: &str) {
        if self.tenant(external_id).is_some() || !is_storable(external_id) {
            return;
        }
        let underway = self.seeks.borrow().get(external_id).cloned();
        if let Some(mut over) = underway {
            // It ends with an error: whoever looks lets go of his end.
            let _ = over.changed().await;
            return;
        }
        if self.seeks.borrow().len() >= limits::SEEKS_MAX {
            return;
        }
        let (_looking, over) = watch::channel(());
        let entry = Seeking(self, external_id);
        self.seeks.borrow_mut().insert(external_id.to_owned(), over);
        let found = async {
            let _lookup = self.lookups.acquire().await;
            let _turn = self.turn(external_id).await;
            match self.store.get(external_id).await {
                Ok(Some(record)) => drop(self.adopt(&record, Effects::default()).await),
                // The store says that once for all who ask: clients choose how often.
                Ok(None) | Err(StoreError::Unreachable { .. }) => {}
                Err(error) => {
                    let text = format!("a tenant cannot be read: {error}");
                    self.say_bounded(&text, Some(external_id));
                }
            }
        };
        let outcome = tokio::time::timeout(limits::SEEK_TIMEOUT, found).await;
        drop(entry);
        if outcome.is_err() {
            let text = "the store of tenants did not answer in time about one that is not known";
            self.say_bounded(text, None);
        }
    }

    /// A line with a code, about a tenant.
    fn log(&self, code: ErrorCode, text: &str, external_id: &str) {
        let line = Line::coded(clock::unix_ms(), code, text);
        self.environment
            .log
            .write(line.of_tenant(external_id.into()));
    }

    /// An error of which clients choose how often it happens: its lines are bounded by code and tenant.
    fn say_bounded(&self, text: &str, external_id: Option<&str>) {
        let line = Line::coded(clock::unix_ms(), ErrorCode::UnknownError, text);
        let line = match external_id {
            Some(external_id) => line.of_tenant(external_id.into()),
            None => line,
        };
        self.environment.log.write(line);
    }

    /// Follows what others do to the store, as long as the process lives.
    pub(super) async fn follow_news(self: Rc<Self>) {
        let mut pause = limits::TASK_RESTART_PAUSE;
        let room = Arc::new(Semaphore::new(limits::NEWS_UNDERWAY_MAX));
        loop {
            match self.store.news().await {
                Ok(news) => {
                    pause = limits::TASK_RESTART_PAUSE;
                    let room = Arc::clone(&room).acquire_owned().await;
                    let clerk = Rc::clone(&self);
                    // Tenants do not wait for each other; the turn keeps the order of each one's news.
                    spawn_local(async move {
                        if let Err(panic) = caught(clerk.take(news)).await {
                            let text =
                                format!("a change of a tenant was lost: {}", panic_text(&*panic));
                            clerk.say(Level::Error, &text);
                        }
                        drop(room);
                    });
                }
                Err(error) => {
                    let text = format!("changes of tenants by others are not heard of: {error}");
                    self.say(Level::Error, &text);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(limits::TASK_RESTART_PAUSE_MAX);
                }
            }
        }
    }

    async fn take(self: &Rc<Self>, news: StoreNews) {
        match news {
            StoreNews::Changed(external_id) => self.take_changed(&external_id, false).await,
            StoreNews::Reload(external_id) => self.take_changed(&external_id, true).await,
            StoreNews::Shutdown(external_id) => {
                if let Some(id) = self.id_of(&external_id) {
                    self.sessions.end(id);
                }
            }
        }
    }

    /// Takes a tenant as it is stored now. While the store does not say, it goes on with what it is known as, and is asked for again:
    /// nobody tells of the change once more, and nobody asks for the reload again.
    async fn take_changed(self: &Rc<Self>, external_id: &str, reloads: bool) {
        if let Some(again) = self.following.borrow().get(external_id) {
            again.send_modify(|wanted| *wanted |= reloads);
            return;
        }
        let (again, mut news) = watch::channel(reloads);
        let entry = Following(self, external_id);
        let name = external_id.to_owned();
        self.following.borrow_mut().insert(name, again);
        let mut pause = limits::TASK_RESTART_PAUSE;
        let mut has_said = false;
        loop {
            let taken = self.take_stored(external_id, &mut news).await;
            let error = taken.err();
            // The store says itself that it is away.
            let is_away = matches!(error, Some(StoreError::Unreachable { .. }));
            if let Some(error) = error.as_ref().filter(|_| !is_away && !has_said) {
                self.say(Level::Error, &format!("a tenant cannot be read: {error}"));
                has_said = true;
            }
            match error {
                // What is wrong with a row stays wrong until it changes, and that is news.
                None | Some(StoreError::Secret { .. } | StoreError::Record { .. }) => {
                    if !news.has_changed().unwrap_or(false) {
                        break;
                    }
                }
                Some(_) => {
                    let _ = tokio::time::timeout(pause, news.changed()).await;
                    pause = (pause * 2).min(limits::TASK_RESTART_PAUSE_MAX);
                }
            }
        }
        drop(entry);
    }

    /// Takes a tenant as it is stored, and with it all news of it so far.
    async fn take_stored(
        self: &Rc<Self>,
        external_id: &str,
        news: &mut watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        let _turn = self.turn(external_id).await;
        let room = self.reading.acquire().await;
        let reloads = *news.borrow_and_update();
        let read = self.store.get(external_id).await;
        drop(room);
        match read? {
            Some(record) if reloads => {
                self.note_reload(external_id);
                self.adopt(&record, Effects::ALL).await;
            }
            Some(record) => {
                // A name that nobody here has asked for yet is known from now on.
                let known = self.registry.borrow().record(external_id) == Some(&record);
                if !known {
                    self.adopt(&record, Effects::default()).await;
                }
            }
            None => self.remove(external_id, false).await,
        }
        Ok(())
    }

    /// The reload that was asked for happens now; nothing was awaited since it was read for.
    fn note_reload(&self, external_id: &str) {
        if let Some(wanted) = self.following.borrow().get(external_id) {
            // Who has asked meanwhile gets this one.
            wanted.send_if_modified(|wanted| {
                *wanted = false;
                false
            });
        }
    }

    /// Waits for the right to change a tenant: first come, first served.
    async fn turn(&self, external_id: &str) -> Turn<'_> {
        let turn = {
            let mut turns = self.turns.borrow_mut();
            let turn = turns.entry(external_id.to_owned());
            Arc::clone(turn.or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let mut own = Turn {
            clerk: self,
            external_id: external_id.to_owned(),
            permit: None,
        };
        own.permit = turn.acquire_owned().await.ok();
        own
    }

    async fn announce(&self, news: StoreNews) {
        if let Err(error) = self.store.announce(news).await {
            self.say(
                Level::Warning,
                &format!("other servers were not told of a change: {error}"),
            );
        }
    }

    /// What the store answers; why it does not is in the log then.
    async fn stored<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Failure> {
        answer.await.map_err(|error| {
            if !matches!(error, StoreError::Taken { .. }) {
                self.say(Level::Error, &format!("{what}: {error}"));
            }
            error.into()
        })
    }

    /// In the original's words (spec: errors-and-logs 3).
    fn say_disconnecting(&self, external_id: &str) {
        let text = format!("Disconnecting all sockets for tenant {external_id}");
        let line = Line::new(clock::unix_ms(), Level::Warning, &text);
        self.environment
            .log
            .write(line.of_tenant(external_id.into()));
    }

    pub(super) fn say(&self, level: Level, text: &str) {
        let line = Line::new(clock::unix_ms(), level, text);
        self.environment.log.write(line);
    }
}

/// A name that is being looked for. It is forgotten when that is over, however it ends.
struct Seeking<'a>(&'a Clerk, &'a str);

impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        self.0.seeks.borrow_mut().remove(self.1);
    }
}

/// A tenant that is being read again. It is forgotten when that is over, however it ends.
struct Following<'a>(&'a Clerk, &'a str);

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.following.borrow_mut().remove(self.1);
    }
}

/// One field and what is wrong with it.
fn about(field: &str, text: &str) -> FieldErrors {
    [(field.to_owned(), json!([text]))].into_iter().collect()
}

/// Whether nothing is wrong but that there is neither a secret nor a key set.
fn is_about_missing_key(errors: &FieldErrors) -> bool {
    errors.len() == 1
        && errors.get("jwt_secret")
            == Some(&json!(["either jwt_secret or jwt_jwks must be provided"]))
}

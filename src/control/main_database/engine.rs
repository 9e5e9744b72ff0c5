//! Answers questions about tenants, listens for what others do to them, and encrypts old secrets anew, on the control core's thread.
//!
//! What comes in: [`Question`]s. What goes out: answers, news, log lines. What always holds: every question is answered within the wait
//! for a connection and [`limits::CONTROL_DATABASE_ANSWER_TIMEOUT`] together; while the database cannot be reached, one line says so for
//! each cause, and one when it is back; who asks for news waits without holding a connection. Deliberately absent: what the answers are
//! for.

use super::backfill::encrypt_anew;
use super::news::{CHANNEL, News, heard, told};
use super::rows::{self, Stored};
use super::schema::Place;
use super::settings::{APPLICATION_NAME, explain};
use crate::control::clock;
use crate::control::database::connect::jittered;
use crate::control::database::{Lease, Pool, Settings, connect_listening};
use crate::control::log::Log;
use crate::control::store::{Cipher, Flag, StoreError, StoreNews, TenantRecord};
use crate::control::supervise;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a store is asked.
pub(super) enum Question {
    Get {
        external_id: String,
        reply: Reply<Option<TenantRecord>>,
    },
    List {
        reply: Reply<Vec<TenantRecord>>,
    },
    Put {
        record: Box<TenantRecord>,
        reply: Reply<TenantRecord>,
    },
    Delete {
        external_id: String,
        reply: Reply<bool>,
    },
    /// What happened after the news of this number.
    News {
        after: u64,
        reply: Reply<(u64, StoreNews)>,
    },
    Announce {
        news: StoreNews,
        reply: Reply<()>,
    },
    Flag {
        name: String,
        tenant: Box<TenantRecord>,
        reply: Reply<bool>,
    },
}

/// Whose connection it is about. What one of them gets an answer on says nothing of the other.
#[derive(Copy, Clone)]
enum Way {
    Pool,
    Listener,
}

/// Who waits for news, and the number of the last ones that were heard.
type Listener = (u64, Reply<(u64, StoreNews)>);

/// The flag that lets old secrets be encrypted anew (spec: control-database 4.2).
pub(super) const BACKFILL_FLAG: &str = "gcm_encryption_backfill";

/// Everything that answers take, ready to be started on the thread that is to have it.
pub struct Engine {
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) settings: Settings,
    pub(super) place: Place,
    pub(super) cipher: Arc<Cipher>,
    /// The rows as the process has read them at its start.
    pub(super) versions: FxHashMap<String, String>,
    /// Tenants whose secrets may have to be encrypted anew.
    pub(super) old: Vec<TenantRecord>,
    /// `TENANT_CACHE_EXPIRATION_IN_MS`.
    pub(super) period: Duration,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// The same at work.
struct Running {
    settings: Rc<Settings>,
    place: Place,
    cipher: Arc<Cipher>,
    period: Duration,
    /// The name by which other processes know what comes from here.
    name: String,
    log: Log,
    /// None until the first connection is open.
    pool: watch::Receiver<Option<Pool>>,
    news: RefCell<News>,
    listener: RefCell<Option<Listener>>,
    /// Flags and when they were read. What does not exist is known as well.
    flags: RefCell<FxHashMap<String, (Instant, Option<Flag>)>>,
    /// Where tenants go whose secrets may have to be encrypted anew.
    old: mpsc::Sender<TenantRecord>,
    /// Those that are on their way there, and those of which it has failed.
    renewing: RefCell<FxHashSet<String>>,
    /// Why the database cannot be reached, in the words of the log, by who has found it.
    failures: RefCell<[Vec<String>; 2]>,
}

impl Engine {
    /// Starts it on this thread's `LocalSet`. It ends with the last [`super::MainStore`].
    pub fn start(self, log: Log) {
        let (opened, pool) = watch::channel(None);
        let (old, mut found) = mpsc::channel(limits::CONTROL_DATABASE_RENEWALS_WAITING_MAX);
        // They are on their way already: a look at all tenants that comes first does not send them once more.
        let underway = self.old.iter().map(|record| record.external_id.clone());
        let underway = underway.collect();
        let running = Rc::new(Running {
            settings: Rc::new(self.settings),
            place: self.place,
            cipher: self.cipher,
            period: self
                .period
                .max(limits::CONTROL_DATABASE_COMPARISON_PERIOD_MIN),
            name: Uuid::new_v4().to_string(),
            log: log.clone(),
            pool,
            news: RefCell::new(News::new(self.versions)),
            listener: RefCell::default(),
            flags: RefCell::default(),
            old,
            renewing: RefCell::new(underway),
            failures: RefCell::default(),
        });
        let (engine, first) = (Rc::clone(&running), self.old);
        let say = move |name: &str, panic: &str| {
            let text = format!("the task {name} panicked and starts again: {panic}");
            log.write(Line::new(clock::unix_ms(), Level::Error, &text));
        };
        let complain = say.clone();
        let pool = async move {
            let open = || engine.open(&opened);
            supervise::supervise("tenant database", complain, open).await;
            // One after the other: nobody waits for it.
            for record in first {
                engine.renew_caught(&record).await;
            }
            while let Some(record) = found.recv().await {
                engine.renew_caught(&record).await;
            }
        };
        let engine = Rc::clone(&running);
        let listen = move || Rc::clone(&engine).listen();
        let helpers = [
            spawn_local(pool),
            spawn_local(async move { supervise::supervise("tenant news", say, listen).await }),
        ];
        let mut questions = self.questions;
        spawn_local(async move {
            while let Some(question) = questions.recv().await {
                running.take(question);
            }
            for helper in helpers {
                helper.abort();
            }
        });
    }
}

impl Running {
    /// Opens the pool; it keeps its connections open from then on.
    async fn open(&self, opened: &watch::Sender<Option<Pool>>) {
        let mut pause = limits::CONTROL_DATABASE_RETRY_PAUSE;
        loop {
            match Pool::open_as(Rc::clone(&self.settings), APPLICATION_NAME).await {
                Ok(pool) => {
                    opened.send_replace(Some(pool));
                    return;
                }
                Err(error) => self.note_failure(Way::Pool, &explain(&error)),
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(limits::DATABASE_RECONNECT_PAUSE_MAX);
        }
    }

    fn take(self: &Rc<Self>, question: Question) {
        let engine = Rc::clone(self);
        match question {
            Question::News { after, reply } => {
                self.listener.replace(Some((after, reply)));
                self.tell();
            }
            Question::Get { external_id, reply } => {
                spawn_local(async move {
                    let _ = reply.send(engine.get(&external_id).await);
                });
            }
            Question::List { reply } => {
                spawn_local(async move {
                    let _ = reply.send(engine.list().await);
                });
            }
            Question::Put { record, reply } => {
                spawn_local(async move {
                    let _ = reply.send(engine.put(*record).await);
                });
            }
            Question::Delete { external_id, reply } => {
                spawn_local(async move {
                    let _ = reply.send(engine.delete(&external_id).await);
                });
            }
            Question::Announce { news, reply } => {
                spawn_local(async move {
                    let _ = reply.send(engine.announce(&news).await);
                });
            }
            Question::Flag {
                name,
                tenant,
                reply,
            } => {
                spawn_local(async move {
                    let _ = reply.send(engine.is_on(&name, &tenant).await);
                });
            }
        }
    }

    async fn get(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        let lease = self.lease().await?;
        let got = rows::get(&lease, &self.place, &self.cipher, external_id);
        let Some(stored) = self.within(got).await? else {
            return Ok(None);
        };
        self.saw(&stored);
        self.news.borrow_mut().met(external_id);
        stored.record.map(Some)
    }

    /// All that can be used. One that cannot is logged: it must not take the others with it, unless all are like that.
    async fn list(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let lease = self.lease().await?;
        let listed = self
            .within(rows::list(&lease, &self.place, &self.cipher))
            .await?;
        for stored in &listed {
            self.saw(stored);
        }
        let (records, broken) = usable(listed)?;
        for error in broken {
            self.say(Level::Error, &error.to_string());
        }
        Ok(records)
    }

    async fn put(&self, mut record: TenantRecord) -> Result<TenantRecord, StoreError> {
        self.cipher
            .seal_record(&mut record)
            .map_err(|error| StoreError::Secret {
                external_id: record.external_id.clone(),
                error,
            })?;
        let lease = self.lease().await?;
        self.within(rows::put(&lease, &self.place, &record)).await?;
        self.news.borrow_mut().met(&record.external_id);
        // As it is stored now: the database writes numbers and times in its own way.
        let got = rows::get(&lease, &self.place, &self.cipher, &record.external_id);
        match self.within(got).await? {
            Some(stored) => stored.record,
            // Somebody has deleted it since; that is heard of as news.
            None => Ok(record),
        }
    }

    async fn delete(&self, external_id: &str) -> Result<bool, StoreError> {
        let lease = self.lease().await?;
        self.within(rows::delete(&lease, &self.place, external_id))
            .await
    }

    /// Others find what they are not told by comparing, so an error is a line in the log.
    async fn announce(&self, news: &StoreNews) -> Result<(), StoreError> {
        let Some(text) = told(news, &self.name) else {
            return Ok(());
        };
        let notified = async {
            let lease = self.lease().await?;
            let sql = "select pg_catalog.pg_notify($1, $2)";
            let parameters = [(&CHANNEL as _, Type::TEXT), (&text as _, Type::TEXT)];
            let notified = async {
                let rows = lease.query_typed(sql, &parameters).await;
                rows.map_err(|error| rows::store_error(&error))
            };
            self.within(notified).await
        };
        if let Err(error) = notified.await {
            let text = format!("other processes were not told of a change to a tenant: {error}");
            self.say(Level::Warning, &text);
        }
        Ok(())
    }

    async fn is_on(&self, name: &str, tenant: &TenantRecord) -> Result<bool, StoreError> {
        let known = self.flags.borrow().get(name).cloned();
        let known = known.filter(|(read, _)| read.elapsed() < self.period);
        let flag = if let Some((_, flag)) = known {
            flag
        } else {
            let lease = self.lease().await?;
            let flag = self.within(rows::flag(&lease, &self.place, name)).await?;
            let mut flags = self.flags.borrow_mut();
            flags.insert(name.to_owned(), (clock::now(), flag.clone()));
            flag
        };
        Ok(Flag::is_on(flag.as_ref(), name, tenant))
    }

    /// A connection, if one can be had in time.
    async fn lease(&self) -> Result<Lease, StoreError> {
        let mut opened = self.pool.clone();
        let pool = timeout(self.settings.queue_target, opened.wait_for(Option::is_some)).await;
        let pool = pool.ok().and_then(Result::ok).and_then(|pool| pool.clone());
        let Some(pool) = pool else {
            let error = self.failures.borrow()[Way::Pool as usize].last().cloned();
            return Err(StoreError::Unreachable {
                error: error.unwrap_or_else(|| "it has not been connected to yet".to_owned()),
            });
        };
        match pool.lease().await {
            Ok(lease) => Ok(lease),
            Err(error) => {
                // In the words in which the listener says it.
                let why = pool.why_down_as(explain);
                let text = why.unwrap_or_else(|| error.to_string());
                self.note_failure(Way::Pool, &text);
                Err(StoreError::Unreachable { error: text })
            }
        }
    }

    /// What is answered in time.
    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.within_on(Way::Pool, answer).await
    }

    async fn within_on<T>(
        &self,
        way: Way,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let bound = limits::CONTROL_DATABASE_ANSWER_TIMEOUT;
        let outcome = timeout(bound, answer).await.unwrap_or_else(|_| {
            Err(StoreError::Unreachable {
                error: format!("it did not answer within {} ms", bound.as_millis()),
            })
        });
        match &outcome {
            Err(StoreError::Unreachable { error }) => self.note_failure(way, error),
            _ => self.note_success(way),
        }
        outcome
    }

    fn note_failure(&self, way: Way, text: &str) {
        let mut failures = self.failures.borrow_mut();
        let is_known = failures.iter().flatten().any(|known| known == text);
        let own = &mut failures[way as usize];
        if own.len() >= limits::CONTROL_DATABASE_CAUSES_MAX || own.iter().any(|it| it == text) {
            return;
        }
        own.push(text.to_owned());
        drop(failures);
        if is_known {
            return;
        }
        let text = format!(
            "the control database cannot be reached: {text}. Tenants that are known are served on; changes to them have to wait"
        );
        self.say(Level::Error, &text);
    }

    fn note_success(&self, way: Way) {
        let mut failures = self.failures.borrow_mut();
        let failed = !std::mem::take(&mut failures[way as usize]).is_empty();
        let answers = failures.iter().all(Vec::is_empty);
        drop(failures);
        if failed && answers {
            self.say(Level::Notice, "the control database answers again");
        }
    }

    fn say(&self, level: Level, text: &str) {
        self.log.write(Line::new(clock::unix_ms(), level, text));
    }

    /// A row was read: its secrets may be old.
    fn saw(&self, stored: &Stored) {
        if let Ok(record) = &stored.record
            && !stored.is_gcm_migrated
            && self.cipher.writes_current()
            && self
                .renewing
                .borrow_mut()
                .insert(record.external_id.clone())
            && self.old.try_send(record.clone()).is_err()
        {
            // Too many at once: it is found again with the next read.
            self.renewing.borrow_mut().remove(&record.external_id);
        }
    }

    /// Finds tenants with old secrets that nobody asks for, where they may be encrypted anew: the flag may have been switched on just now.
    async fn find_old(&self, client: &Client) -> Result<(), StoreError> {
        if !self.cipher.writes_current() {
            return Ok(());
        }
        let flag = rows::flag(client, &self.place, BACKFILL_FLAG).await?;
        let is_on = flag.as_ref().is_some_and(|flag| flag.enabled);
        let read = (clock::now(), flag);
        self.flags
            .borrow_mut()
            .insert(BACKFILL_FLAG.to_owned(), read);
        let old = rows::old(client, &self.place, &self.cipher, (BACKFILL_FLAG, is_on)).await?;
        old.iter().for_each(|stored| self.saw(stored));
        Ok(())
    }

    /// A panic costs one tenant's turn, and is not tried again by this process.
    async fn renew_caught(&self, record: &TenantRecord) {
        if let Err(panic) = supervise::caught(self.renew(record)).await {
            self.fail_to_renew(&record.external_id, &supervise::panic_text(&*panic));
        }
    }

    /// What failed is not tried again by this process: it would fail in the same way.
    fn fail_to_renew(&self, external_id: &str, text: &str) {
        self.renewing.borrow_mut().insert(external_id.to_owned());
        let code = ErrorCode::EncryptionReconcileFailed;
        let line = Line::coded(clock::unix_ms(), code, text);
        self.log.write(line.of_tenant(external_id.into()));
    }

    /// Encrypts a tenant's secrets anew, where that is wanted.
    async fn renew(&self, record: &TenantRecord) {
        let external_id = record.external_id.as_str();
        let renewed = async {
            if self.cipher.writes_current() && self.is_on(BACKFILL_FLAG, record).await? {
                let lease = self.lease().await?;
                let done = encrypt_anew(&lease, &self.place, &self.cipher, external_id);
                self.within(done).await?;
            }
            Ok(())
        };
        match renewed.await {
            // It is tried again with the next read, if that is needed.
            Ok(()) | Err(StoreError::Unreachable { .. }) => {
                self.renewing.borrow_mut().remove(external_id);
            }
            Err(error) => self.fail_to_renew(external_id, &error.to_string()),
        }
    }

    /// Tells who waits for news, if there are any.
    fn tell(&self) {
        let listener = self.listener.take();
        let Some((after, reply)) = listener.filter(|(_, reply)| !reply.is_closed()) else {
            return;
        };
        match self.news.borrow_mut().next(after) {
            Some(news) => {
                // Whoever has given up asks again.
                let _ = reply.send(Ok(news));
            }
            None => {
                self.listener.replace(Some((after, reply)));
            }
        }
    }

    /// Listens on a connection of its own, and compares, until there is nobody left to tell.
    async fn listen(self: Rc<Self>) {
        let mut pause = limits::CONTROL_DATABASE_RETRY_PAUSE;
        loop {
            let since = clock::now();
            if let Err(error) = self.listen_once().await {
                self.note_failure(Way::Listener, &error);
            }
            if since.elapsed() > limits::DATABASE_RECONNECT_PAUSE_MAX {
                pause = limits::CONTROL_DATABASE_RETRY_PAUSE;
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(limits::DATABASE_RECONNECT_PAUSE_MAX);
        }
    }

    /// Until the connection is lost.
    async fn listen_once(&self) -> Result<(), String> {
        let (connection, mut notifications) = connect_listening(&self.settings, APPLICATION_NAME)
            .await
            .map_err(|error| explain(&error))?;
        let client = &connection.client;
        let listening = client.batch_execute(&format!("listen {CHANNEL}")).await;
        listening.map_err(|error| rows::store_error(&error).to_string())?;
        loop {
            // After the LISTEN: what was missed before is found here, what comes later is told.
            let versions = rows::versions(client, &self.place);
            let versions = self.within_on(Way::Listener, versions).await;
            match versions {
                Ok(versions) => self.news.borrow_mut().compare(versions),
                Err(StoreError::Unreachable { .. }) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            self.tell();
            match self.within(self.find_old(client)).await {
                Ok(()) => {}
                Err(StoreError::Unreachable { .. }) => return Ok(()),
                Err(error) => {
                    let text = error.to_string();
                    let code = ErrorCode::EncryptionReconcileFailed;
                    self.log.write(Line::coded(clock::unix_ms(), code, &text));
                }
            }
            let next = sleep(self.period);
            tokio::pin!(next);
            loop {
                let notification = tokio::select! {
                    () = &mut next => break,
                    notification = notifications.recv() => notification,
                };
                let Some(notification) = notification else {
                    return Ok(());
                };
                if let Some(news) = heard(notification.payload(), &self.name) {
                    self.news.borrow_mut().push(news);
                    self.tell();
                }
            }
        }
    }
}

/// The records that can be used, and what is wrong with the others.
///
/// # Errors
///
/// What is wrong with the first one, when none can be used: the cause is ours, not theirs.
pub(super) fn usable(
    stored: Vec<Stored>,
) -> Result<(Vec<TenantRecord>, Vec<StoreError>), StoreError> {
    let (mut records, mut broken) = (Vec::with_capacity(stored.len()), Vec::new());
    for one in stored {
        match one.record {
            Ok(record) => records.push(record),
            Err(error) => broken.push(error),
        }
    }
    if records.is_empty() && !broken.is_empty() {
        return Err(broken.swap_remove(0));
    }
    Ok((records, broken))
}

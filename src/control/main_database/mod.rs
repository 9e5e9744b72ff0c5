//! The tenants of record in PostgreSQL: the schema `_realtime`, as the original leaves it (spec: control-database).
//!
//! What comes in: the settings of `DB_HOST`. What goes out: a [`MainStore`], which is a [`TenantStore`] that other processes share. What
//! always holds: a database of the original is used as it is, so that the original can go on with it (`tests/database/control_database`);
//! what we do not know in a row stays; a change is one statement, so it happens whole or not at all; while the database cannot be
//! reached, questions fail within a bound, one line says so, and nothing else stops. Deliberately absent: a cache. Whoever serves tenants
//! keeps them in memory, and hears of changes by [`TenantStore::news`].
//!
//! [`open`] comes before there are threads: it waits for the database, brings the schema up to date and reads the tenants. [`Engine::start`]
//! goes on on the control core's thread.

mod settings;
mod rows;
mod schema;
mod news;
mod backfill;
mod engine;
mod opening;

pub use engine::Engine;
pub use opening::{MainDatabaseError, Opened, Opening, open};

use super::store::{Answer, StoreError, StoreNews, TenantRecord, TenantStore};
use engine::{Question, Reply};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// The store in PostgreSQL, from wherever. Its questions are answered by an [`Engine`]; before that is started they wait.
#[derive(Clone)]
pub struct MainStore {
    questions: mpsc::Sender<Question>,
    /// The number of the last news that somebody heard.
    heard: Arc<AtomicU64>,
}

impl fmt::Debug for MainStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MainStore")
    }
}

impl MainStore {
    /// A store, and where its questions come out.
    fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) =
            mpsc::channel(crate::limits::CONTROL_DATABASE_QUESTIONS_WAITING_MAX);
        let store = Self {
            questions,
            heard: Arc::default(),
        };
        (store, asked)
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(Reply<T>) -> Question,
    ) -> Answer<'static, T> {
        let (reply, answer) = oneshot::channel();
        let (question, questions) = (question(reply), self.questions.clone());
        Box::pin(async move {
            let sent = questions.send(question).await;
            sent.map_err(|_| StoreError::Interrupted)?;
            answer.await.unwrap_or(Err(StoreError::Interrupted))
        })
    }
}

impl TenantStore for MainStore {
    fn get<'a>(&'a self, external_id: &'a str) -> Answer<'a, Option<TenantRecord>> {
        let external_id = external_id.to_owned();
        self.ask(|reply| Question::Get { external_id, reply })
    }

    fn list(&self) -> Answer<'_, Vec<TenantRecord>> {
        self.ask(|reply| Question::List { reply })
    }

    fn put(&self, record: TenantRecord) -> Answer<'_, TenantRecord> {
        let record = Box::new(record);
        self.ask(|reply| Question::Put { record, reply })
    }

    fn delete<'a>(&'a self, external_id: &'a str) -> Answer<'a, bool> {
        let external_id = external_id.to_owned();
        self.ask(|reply| Question::Delete { external_id, reply })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn news(&self) -> Answer<'_, StoreNews> {
        Box::pin(async move {
            let after = self.heard.load(Ordering::Relaxed);
            let (number, news) = self.ask(|reply| Question::News { after, reply }).await?;
            // In one poll with the answer: whoever gives up before hears it next time.
            self.heard.store(number, Ordering::Relaxed);
            Ok(news)
        })
    }

    fn announce(&self, news: StoreNews) -> Answer<'_, ()> {
        self.ask(|reply| Question::Announce { news, reply })
    }

    fn flag<'a>(&'a self, name: &'a str, tenant: &'a TenantRecord) -> Answer<'a, bool> {
        let (name, tenant) = (name.to_owned(), Box::new(tenant.clone()));
        self.ask(|reply| Question::Flag {
            name,
            tenant,
            reply,
        })
    }
}

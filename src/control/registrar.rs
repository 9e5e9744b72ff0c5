//! The only one who changes tenants while the process serves.
//!
//! What comes in: what the management API asks for, labels that no tenant is known by, and what others did to the store
//! ([`StoreNews`](super::store::StoreNews)). What goes out: records in the store, snapshots for the shards, and the end of what a change has made invalid (spec:
//! websocket-protocol 11). What always holds:
//!
//! - Changes of one tenant happen one after the other, in the order in which they were asked for
//!   (`changes_at_once_keep_the_last_one_whole`); tenants do not wait for each other.
//! - What the shards are told was stored before, and nothing but a changed value disconnects anybody
//!   (`only_changed_values_disconnect`).
//! - A name that nobody knows is asked for once at a time, however many want to know, and never remembered as missing
//!   (`many_who_seek_the_same_share_one_question`).
//! - A tenant that is deleted leaves nothing behind; what its database keeps of it is logged (`UnableToDeleteTenant`).
//!
//! Deliberately absent: who may ask, and how an answer reads; `api` knows that.

mod clerk;
mod effects;
mod health;
mod survey;
#[cfg(test)]
pub(crate) mod tests;

pub use health::Health;
pub use survey::{Database, Survey, Surveyed};

use super::changes::Hub;
use super::database::Environment;
use super::outgoing::Parcel;
use super::session::Sessions;
use super::store::{FieldErrors, StoreError, TenantRecord, TenantStore};
use super::supervise::{caught, panic_text};
use super::tenants::Registry;
use crate::error::Level;
use crate::limits;
use crate::mail::Seek;
use clerk::Clerk;
use serde_json::{Map, Value};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::spawn_local;

/// A way to the registrar, from any thread. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Registrar {
    errands: mpsc::UnboundedSender<Errand>,
    /// Bounds the errands of operators that are handed in and not done.
    room: Arc<Semaphore>,
    /// Bounds those of clients whose tenant is sought.
    seeking: Arc<Semaphore>,
    is_shared: bool,
}

/// Something to be done, and the room it takes until it is.
struct Errand {
    work: Work,
    _room: OwnedSemaphorePermit,
}

type Work = Box<dyn FnOnce(Rc<Clerk>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}

/// What registrars have to do with.
#[derive(Debug)]
pub struct Means {
    /// The tenants of record.
    pub registry: Registry,
    /// Their databases.
    pub sessions: Sessions,
    /// Their row changes.
    pub changes: Hub,
    /// What everything shares.
    pub environment: Rc<Environment>,
}

/// A tenant as it is stored now.
#[derive(Debug)]
pub struct Stored {
    /// The tenant.
    pub record: TenantRecord,
    /// Whether there was none of this name before.
    pub is_new: bool,
}

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// The description is wrong, field by field. Nothing is stored.
    Invalid(FieldErrors),
    /// The tenant is stored, but its database could not be made ready. The log knows why.
    NotReady,
    /// The store could not do it. The log knows why.
    Store,
    /// Too much is waiting already.
    Busy,
    /// It was lost to a defect, which the log knows.
    Lost,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Taken { .. } => {
                let texts = serde_json::json!(["has already been taken"]);
                Self::Invalid([("external_id".to_owned(), texts)].into_iter().collect())
            }
            _ => Self::Store,
        }
    }
}

impl Registrar {
    /// Begins to work, as tasks of the `LocalSet`; they end with the last of the clones.
    #[must_use]
    pub fn start(store: Arc<dyn TenantStore>, means: Means) -> Self {
        let (errands, mut inbox) = mpsc::unbounded_channel::<Errand>();
        let registrar = Self {
            errands,
            room: Arc::new(Semaphore::new(limits::REGISTRAR_ERRANDS_MAX)),
            seeking: Arc::new(Semaphore::new(limits::REGISTRAR_SEEKS_MAX)),
            is_shared: store.is_shared(),
        };
        let clerk = Rc::new(Clerk::new(store, means));
        let news = spawn_local(Rc::clone(&clerk).follow_news());
        spawn_local(async move {
            while let Some(Errand { work, _room }) = inbox.recv().await {
                let clerk = Rc::clone(&clerk);
                spawn_local(async move {
                    if let Err(panic) = caught(work(Rc::clone(&clerk))).await {
                        let text =
                            format!("a change of a tenant was lost: {}", panic_text(&*panic));
                        clerk.say(Level::Error, &text);
                    }
                    drop(_room);
                });
            }
            news.abort();
        });
        registrar
    }

    /// Whether a tenant that is not known may be there all the same.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// All tenants, as they are stored.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn list(&self) -> Result<Vec<TenantRecord>, Failure> {
        self.run(|clerk| async move { clerk.list().await }).await
    }

    /// A tenant as it is stored.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn get(&self, external_id: String) -> Result<Option<TenantRecord>, Failure> {
        self.run(|clerk| async move { clerk.get(&external_id).await })
            .await
    }

    /// Makes the tenant that `attributes` describe, or changes the one of that name: `POST` (spec: http-api 3.4).
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn post(&self, attributes: Map<String, Value>) -> Result<Stored, Failure> {
        self.run(|clerk| async move { clerk.post(&attributes).await })
            .await
    }

    /// Changes the tenant of this name, or makes it: `PUT`.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn put(
        &self,
        external_id: String,
        attributes: Map<String, Value>,
    ) -> Result<Stored, Failure> {
        self.run(|clerk| async move { clerk.put(&external_id, &attributes).await })
            .await
    }

    /// Makes the tenant that a file describes, or changes the one of that name. None when nothing about it is new, else whether it is a new
    /// one. Its database is looked at when somebody needs it.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn describe(
        &self,
        external_id: String,
        attributes: Map<String, Value>,
    ) -> Result<Option<bool>, Failure> {
        self.run(|clerk| async move { clerk.describe(&external_id, &attributes).await })
            .await
    }

    /// Deletes a tenant, if it is there, and ends everything of it.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn delete(&self, external_id: String) -> Result<(), Failure> {
        self.run(|clerk| async move { clerk.delete(&external_id).await })
            .await
    }

    /// Disconnects a tenant's sockets and ends what goes on in its database. False when there is no such tenant.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn reload(&self, external_id: String) -> Result<bool, Failure> {
        self.run(|clerk| async move { clerk.reload(&external_id).await })
            .await
    }

    /// Ends the session with a tenant's database; its sockets are told nothing. False when there is no such tenant.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn shut_down(&self, external_id: String) -> Result<bool, Failure> {
        self.run(|clerk| async move { clerk.shut_down(&external_id).await })
            .await
    }

    /// How a tenant is. Nothing when there is no such tenant.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn health(&self, external_id: String) -> Result<Option<Health>, Failure> {
        self.run(|clerk| async move { Ok(clerk.health(&external_id).await) })
            .await
    }

    /// How all tenants are that this process knows.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn survey(&self) -> Result<Survey, Failure> {
        self.run(|clerk| async move { Ok(clerk.survey(limits::FIGURES_TENANTS_MAX).await) })
            .await
    }

    /// Looks in the store for a tenant that is not known. When this returns it is known, if it is there and the store has answered in
    /// time.
    pub async fn seek(&self, external_id: String) {
        if self.is_shared {
            let sought = self.run_in(&self.seeking, |clerk| async move {
                clerk.seek(&external_id).await;
                Ok(())
            });
            // What could not be looked for is not there.
            let _ = sought.await;
        }
    }

    /// The same for the shard of this index. It hears when it is over; also at once, when too many seek already.
    #[must_use = "a shard waits for an answer to each of its questions"]
    pub fn seek_for(&self, shard: usize, seek: Seek) -> Option<Seek> {
        let Ok(room) = Arc::clone(&self.seeking).try_acquire_owned() else {
            return Some(seek);
        };
        let Seek {
            external_id,
            connection,
        } = seek;
        let work: Work = Box::new(move |clerk| {
            Box::pin(async move {
                clerk.seek(&external_id).await;
                let parcel = Parcel::Sought(shard, connection);
                clerk.environment.outgoing.send(parcel).await;
            })
        });
        // Closed only when the process ends.
        let _ = self.errands.send(Errand { work, _room: room });
        None
    }

    /// Hands in work of an operator, and waits for what comes of it.
    async fn run<T, F>(
        &self,
        work: impl FnOnce(Rc<Clerk>) -> F + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        self.run_in(&self.room, work).await
    }

    /// The same with this room for it.
    async fn run_in<T, F>(
        &self,
        room: &Arc<Semaphore>,
        work: impl FnOnce(Rc<Clerk>) -> F + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        let room = Arc::clone(room).try_acquire_owned();
        let room = room.map_err(|_| Failure::Busy)?;
        let (sender, outcome) = oneshot::channel();
        let work: Work = Box::new(move |clerk| {
            Box::pin(async move {
                // Who asked may have hung up; what was begun is done all the same.
                drop(sender.send(work(clerk).await));
            })
        });
        let errand = Errand { work, _room: room };
        self.errands.send(errand).map_err(|_| Failure::Lost)?;
        outcome.await.unwrap_or(Err(Failure::Lost))
    }
}

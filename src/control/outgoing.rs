//! Letters out: what tasks of the control core hand in here, one task carries to the mesh.
//!
//! What comes in: [`Parcel`]s of any task. What goes out: the same, in the order they were handed in. What always holds: at most
//! [`limits::OUTGOING_LETTERS_MAX`] wait; a task that hands in more waits itself, the shards never do. Deliberately absent: which
//! shard a parcel goes to; the carrier knows the shards.

use crate::connection::ConnectionId;
use crate::limits;
use crate::mail::{Adopted, Answer, ChangeBatch, DatabaseState, Listening, Mail, Publish};
use crate::tenant::{Tenant, TenantId};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Something for the shards.
pub enum Parcel {
    /// For the shard that owns the topic; [`Publish::to`] names it by its key.
    Publish(Box<Publish>),
    /// For one shard, each in its turn.
    Adopt(Box<Adopted>),
    /// For the shard of this index, which has asked.
    Answer(usize, Box<Answer>),
    /// For the shard of this index: see [`Mail::Sought`].
    Sought(usize, ConnectionId),
    /// For the shard of this index, where the listener is.
    Listening(usize, Box<Listening>),
    /// For the shard of this index, which has listeners.
    Changes(usize, Arc<ChangeBatch>),
    /// For every shard.
    All(News),
    /// For every shard: when each of them has taken note of everything before, the sender is used.
    Mark(oneshot::Sender<()>),
}

/// What every shard has to know.
#[derive(Clone, Debug)]
pub enum News {
    /// See [`Mail::Tenant`].
    Tenant(Arc<Tenant>),
    /// See [`Mail::TenantGone`].
    TenantGone(TenantId),
    /// See [`Mail::Database`].
    Database(TenantId, DatabaseState),
    /// See [`Mail::Disconnect`].
    Disconnect(TenantId),
    /// See [`Mail::Drain`].
    Drain,
    /// See [`Mail::Stop`].
    Stop,
}

impl From<News> for Mail {
    fn from(news: News) -> Self {
        match news {
            News::Tenant(tenant) => Self::Tenant(tenant),
            News::TenantGone(id) => Self::TenantGone(id),
            News::Database(tenant, state) => Self::Database { tenant, state },
            News::Disconnect(id) => Self::Disconnect(id),
            News::Drain => Self::Drain,
            News::Stop => Self::Stop,
        }
    }
}

/// Where tasks hand in their letters.
#[derive(Clone, Debug)]
pub struct Outgoing(mpsc::Sender<Parcel>);

impl Outgoing {
    /// The slot and the sack behind it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Parcel>) {
        let (sender, receiver) = mpsc::channel(limits::OUTGOING_LETTERS_MAX);
        (Self(sender), receiver)
    }

    /// Hands in a parcel; waits while too many wait already. After the end of the carrier parcels are dropped: the process ends.
    pub async fn send(&self, parcel: Parcel) {
        self.reserve().await.send(parcel);
    }

    /// Waits until every shard has taken note of the parcels for all of them that were handed in before, or for
    /// [`limits::SHARDS_HEED_TIMEOUT`]: a shard that takes no mail for so long must not keep anybody.
    pub async fn heeded(&self) {
        let (sender, heeded) = oneshot::channel();
        self.send(Parcel::Mark(sender)).await;
        let _ = tokio::time::timeout(limits::SHARDS_HEED_TIMEOUT, heeded).await;
    }

    /// A place for one parcel; waits while too many parcels wait already. Who notes that a parcel is handed in reserves first: nothing is
    /// awaited between the note and the parcel then.
    pub async fn reserve(&self) -> Place<'_> {
        Place(self.0.reserve().await.ok())
    }
}

/// A place for one parcel. Dropped, it is free again.
#[derive(Debug)]
pub struct Place<'a>(Option<mpsc::Permit<'a, Parcel>>);

impl Place<'_> {
    /// Hands in the parcel at once.
    pub fn send(self, parcel: Parcel) {
        if let Some(permit) = self.0 {
            permit.send(parcel);
        }
    }
}

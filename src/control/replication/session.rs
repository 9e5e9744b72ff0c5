//! The two ways to a slot as one: by the replication protocol, or by SQL.

use super::poll::Poll;
use super::slot::Fault;
use super::stream::{self, Created, Lifetime, Row, Stream, Target};
use super::{Event, Lsn};
use std::fmt;

/// Which way.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// The replication protocol.
    Stream,
    /// SQL functions.
    Poll,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Poll => "poll",
        })
    }
}

/// A connection that can be asked things, and that a slot can be made on.
#[derive(Debug)]
pub enum Session {
    /// See [`stream::Session`].
    Stream(stream::Session),
    /// See [`Poll`].
    Poll(Box<Poll>),
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn open(way: Way, target: Target<'_>) -> Result<Self, Fault> {
        Ok(match way {
            Way::Stream => Self::Stream(stream::Session::open(target).await?),
            Way::Poll => Self::Poll(Box::new(Poll::open(target).await?)),
        })
    }

    /// The server's process of this connection.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match self {
            Self::Stream(session) => session.pid,
            Self::Poll(poll) => poll.pid,
        }
    }

    /// Runs one statement.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        match self {
            Self::Stream(session) => session.query(sql).await,
            Self::Poll(poll) => poll.query(sql).await,
        }
    }

    /// Makes a slot.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn create_slot(&mut self, name: &str, lifetime: Lifetime) -> Result<Created, Fault> {
        match self {
            Self::Stream(session) => session.create_slot(name, lifetime).await,
            Self::Poll(poll) => poll.create_slot(name, lifetime).await,
        }
    }

    /// Begins to read the slot.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn start(self) -> Result<Changes, Fault> {
        Ok(match self {
            Self::Stream(session) => Changes::Stream(session.start().await?),
            Self::Poll(poll) => Changes::Poll(poll),
        })
    }
}

/// A slot that is being read.
#[derive(Debug)]
pub enum Changes {
    /// See [`Stream`].
    Stream(Stream),
    /// See [`Poll`].
    Poll(Box<Poll>),
}

impl Changes {
    /// Which way they come.
    #[must_use]
    pub fn way(&self) -> Way {
        match self {
            Self::Stream(_) => Way::Stream,
            Self::Poll(_) => Way::Poll,
        }
    }

    /// The server's process of the connection.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match self {
            Self::Stream(stream) => stream.pid,
            Self::Poll(poll) => poll.pid,
        }
    }

    /// What comes next. To be called until it returns.
    ///
    /// # Errors
    ///
    /// [`Fault`] ends them.
    pub async fn next(&mut self) -> Result<Event, Fault> {
        match self {
            Self::Stream(stream) => stream.next().await,
            Self::Poll(poll) => poll.next().await,
        }
    }

    /// Everything before this position is done.
    pub fn confirm(&mut self, position: Lsn) {
        match self {
            Self::Stream(stream) => stream.confirm(position),
            Self::Poll(poll) => poll.confirm(position),
        }
    }

    /// Returns when a connection that is not listened to is closed; never for a stream, which is listened to all the time.
    pub async fn closed(&self) {
        match self {
            Self::Stream(_) => std::future::pending().await,
            Self::Poll(poll) => poll.closed().await,
        }
    }

    /// What has to be confirmed before [`Changes::next`] is called again; none where it need not wait.
    #[must_use]
    pub fn awaited(&self) -> Option<Lsn> {
        match self {
            Self::Stream(_) => None,
            Self::Poll(poll) => poll.awaited(),
        }
    }
}

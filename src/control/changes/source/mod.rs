//! The row changes of one tenant's database, in the order of their commits, each once whatever breaks in between.
//!
//! What comes in: where the database is and what it publishes. What goes out: [`Word`]s. What always holds, from an [`Word::Up`] on:
//!
//! - Each change of a committed transaction is said once, in order, while its slot lives: a connection that breaks is restored and goes on
//!   behind what is done. (`every_row_comes_once_while_walsenders_are_killed` and its neighbours in tests/database)
//! - The database is never told that something is done which was not dispatched (`nothing_is_confirmed_that_is_not_done`).
//! - When something may be missing, that is said: [`Word::Gap`].
//! - Of a transaction of any size only a bounded part is here; the rest waits in the database, which keeps its log until then, up to a
//!   bound of its own (`log_beyond_the_bound_is_a_gap`).
//!
//! Deliberately absent: what the rows mean, and who wants them.
//!
//! **Half a transaction.** A break can come in the middle of one. Whoever takes the words forgets that transaction at a [`Word::Down`] or
//! [`Word::Gap`]; behind the next [`Word::Up`] it begins again, with its [`Word::Begin`] and what of it is not done yet. What was taken
//! and is not done when the words behind that `Up` are taken comes again: so a `Down` is the moment to finish or to forget what is in
//! hand. Messages that explain (tables, types) are said anew by each connection and are never left out; they may stand outside of
//! a transaction.
//!
//! **One slot, one reader.** The slot is named by tenant and database (`name`), so two processes that read the same tenant's changes fight
//! for it: the later one terminates the connection of the earlier one after some seconds, which is how a dead owner is replaced,
//! and drops its slot. Whoever runs several processes gives each a `SLOT_NAME_SUFFIX` of its own or lets one of them read. A slot that is
//! polled looks unused between two readings: there, the later process does not even wait.

mod place;
mod measures;
mod queue;
mod name;
mod scout;
mod life;
mod claim;
mod watch;
mod sweep;

pub use measures::Measures;
pub use name::slot_name;
pub use place::Place;
pub use sweep::{Swept, sweep, sweep_all};

use super::settings::ChangesSettings;
use crate::control::database::{Environment, Settings};
use crate::control::replication::Lsn;
use crate::control::replication::pgoutput::{Begin, Commit};
use crate::limits;
use crate::tenant::Tenant;
use bytes::Bytes;
use life::Life;
use queue::Queue;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a source says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Word {
    /// The slot is there and is being read: every commit from now on will be said.
    Up {
        /// Whether it is another one than before, or the first one. If not, the words go on behind what is done.
        is_new: bool,
    },
    /// A transaction begins.
    Begin(Begin),
    /// A message within it, for [`pgoutput::decode`](crate::control::replication::pgoutput::decode).
    Message(Bytes, Place),
    /// It is complete.
    Commit(Commit, Place),
    /// Everything that was committed before this position has been said. To be confirmed like anything else ([`Source::done`]): while
    /// the published tables are quiet, nothing else tells the database that it need not keep its log.
    Passed(Lsn, Place),
    /// The slot is lost, or was given up: what was committed from here to the next `Up { is_new: true }` may be missing.
    Gap(String),
    /// There is no connection, and why. It is being restored; nothing is lost so far.
    Down(String),
}

/// See the room's documentation. Dropping it ends the reading and leaves the slot to the next start, or to [`sweep`]; the database keeps its
/// log for it meanwhile.
pub struct Source {
    queue: Rc<Queue>,
    ending: Rc<Notify>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    /// Begins to read, as a task of the `LocalSet`.
    #[must_use]
    pub fn start(
        environment: Rc<Environment>,
        tenant: Arc<Tenant>,
        settings: Rc<Settings>,
        changes: Rc<ChangesSettings>,
        measures: Rc<Measures>,
    ) -> Self {
        let queue = Rc::new(Queue::new(Rc::clone(&measures)));
        let ending = Rc::new(Notify::new());
        let life = Life::new(
            environment,
            tenant,
            settings,
            changes,
            measures,
            Rc::clone(&queue),
        );
        let (closing, ended) = (Closing(Rc::clone(&queue)), Rc::clone(&ending));
        let task = tokio::task::spawn_local(async move {
            let _closing = closing;
            tokio::select! {
                () = life.run() => {}
                () = ended.notified() => life.end().await,
            }
        });
        Self {
            queue,
            ending,
            task,
        }
    }

    /// What comes next. May be dropped and called again.
    ///
    /// # Panics
    ///
    /// When the task that reads has panicked: whoever looks after this one starts both again.
    pub async fn next(&mut self) -> Word {
        self.queue.next().await
    }

    /// What is there already, so that whoever was woken takes many words at once.
    pub fn ready(&mut self) -> Option<Word> {
        self.queue.ready()
    }

    /// Everything up to this place was dispatched: it is not said again, and the database need not keep it.
    pub fn done(&self, place: Place) {
        self.queue.done(place);
    }

    /// Ends the reading and drops the slot. Returns at the latest after [`limits::CHANGES_END_TIMEOUT`]; a slot that could not be dropped is
    /// logged and left to [`sweep`].
    pub async fn end(mut self) {
        self.ending.notify_one();
        // The task has a shorter bound of its own, so that it can say what went wrong.
        let _ = tokio::time::timeout(limits::CHANGES_END_TIMEOUT, &mut self.task).await;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells whoever waits for words that nothing comes any more.
struct Closing(Rc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

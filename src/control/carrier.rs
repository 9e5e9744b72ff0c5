//! The mesh's end of the control core: letters in to the tasks that wait for them, parcels out to the shards.
//!
//! What always holds: letters of one shard are handled in their order, parcels go out in the order they were handed in, no wake-up is
//! lost (the port is armed before the thread sleeps), and while [`limits::OUTGOING_LETTERS_MAX`] letters wait for room in mailboxes
//! no further parcel is taken. A panic over one letter loses that letter alone.

use super::api::Connections;
use super::changes::Hub;
use super::clock;
use super::database::Environment;
use super::desk::Desk;
use super::log::Log;
use super::metrics::Metrics;
use super::outgoing::{News, Parcel};
use super::rates::Notice;
use super::registrar::Registrar;
use super::supervise::panic_text;
use super::tenants::Live;
use super::{Port, shard};
use crate::error::Level;
use crate::limits;
use crate::logging::Line;
use crate::mail::{Mail, To};
use rustc_hash::FxHashMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

/// The only one who knows the port.
pub struct Carrier {
    port: Port,
    bell: AsyncFd<OwnedFd>,
    parcels: mpsc::Receiver<Parcel>,
    connections: Connections,
    notices: mpsc::Sender<Notice>,
    live: watch::Receiver<Arc<Live>>,
    log: Log,
    desk: Desk,
    changes: Hub,
    registrar: Registrar,
    drained: watch::Sender<usize>,
    metrics: Metrics,
    next_shard: usize,
    marks: Marks,
}

/// Who waits for the shards, by the number of the mark: how many of them have not answered yet.
#[derive(Debug, Default)]
struct Marks {
    last: u32,
    waiting: FxHashMap<u32, (usize, oneshot::Sender<()>)>,
}

impl Marks {
    /// A mark that so many shards are going to answer.
    fn set(&mut self, shards: usize, heeded: oneshot::Sender<()>) -> u32 {
        // Who has given up needs no answer.
        self.waiting.retain(|_, (_, heeded)| !heeded.is_closed());
        self.last = self.last.wrapping_add(1);
        self.waiting.insert(self.last, (shards, heeded));
        self.last
    }

    /// A shard has answered.
    fn answer(&mut self, number: u32) {
        if let Some((left, _)) = self.waiting.get_mut(&number) {
            *left -= 1;
            if *left == 0
                && let Some((_, heeded)) = self.waiting.remove(&number)
            {
                let _ = heeded.send(());
            }
        }
    }
}

impl Carrier {
    /// To be called within the runtime.
    ///
    /// # Errors
    ///
    /// When the doorbell cannot be waited for.
    pub fn new(
        port: Port,
        parcels: mpsc::Receiver<Parcel>,
        connections: Connections,
        (desk, changes, registrar): (Desk, Hub, Registrar),
        environment: &Environment,
        metrics: Metrics,
        drained: watch::Sender<usize>,
    ) -> io::Result<Self> {
        let doorbell = port
            .doorbell()
            .ok_or_else(|| io::Error::other("a simulated mesh has no doorbell"))?;
        // The successor asks its caller, in an unsafe block, for a descriptor that stays open and the same.
        #[expect(
            deprecated,
            reason = "an OwnedFd is what the successor asks for, and this crate has no unsafe blocks"
        )]
        let bell = AsyncFd::with_interest(doorbell.try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self {
            port,
            bell,
            parcels,
            connections,
            notices: environment.notices.clone(),
            live: environment.tenants.clone(),
            log: environment.log.clone(),
            desk,
            changes,
            registrar,
            drained,
            metrics,
            next_shard: 0,
            marks: Marks::default(),
        })
    }

    /// Carries until `end` is over; then every shard is told to stop.
    pub async fn carry(mut self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            let is_busy = self.turn();
            // Also when there is no end of letters: that is when somebody wants to know.
            let unsent = self.port.unsent() as u64;
            self.metrics
                .instruments()
                .control
                .letters_unsent
                .set(unsent);
            if is_busy {
                // Tasks, `end` among them, get their turn between two of ours.
                tokio::select! {
                    biased;
                    () = end.as_mut() => break,
                    () = tokio::task::yield_now() => continue,
                }
            }
            let may_sleep = self.port.arm();
            let is_over = may_sleep && self.sleep(end.as_mut()).await;
            self.port.disarm();
            if is_over {
                break;
            }
        }
        self.finish().await;
    }

    /// Waits for a ring, a parcel or the end; true for the last.
    async fn sleep(&mut self, end: impl Future<Output = ()>) -> bool {
        let has_room = self.port.unsent() < limits::OUTGOING_LETTERS_MAX;
        tokio::select! {
            ring = self.bell.readable() => {
                // The counter itself is read by `disarm`.
                if let Ok(mut ring) = ring {
                    ring.clear_ready();
                }
                false
            }
            Some(parcel) = self.parcels.recv(), if has_room => {
                self.deliver(parcel);
                false
            }
            () = end => true,
        }
    }

    /// Takes what has come, up to a bound. True when there may be more.
    fn turn(&mut self) -> bool {
        for taken in 0..limits::LETTERS_PER_TURN_MAX {
            let letter = self.port.receive();
            let parcel = if self.port.unsent() < limits::OUTGOING_LETTERS_MAX {
                self.parcels.try_recv().ok()
            } else {
                None
            };
            if letter.is_none() && parcel.is_none() {
                return taken > 0;
            }
            if let Some((sender, letter)) = letter {
                let sender = usize::from(sender.0);
                // What a panic leaves behind is a letter less: the tasks are told by channels.
                let outcome = catch_unwind(AssertUnwindSafe(|| self.hand_out(sender, letter)));
                if let Err(panic) = outcome {
                    self.say(
                        Level::Error,
                        &format!("a letter was lost: {}", panic_text(&*panic)),
                    );
                }
            }
            if let Some(parcel) = parcel {
                self.deliver(parcel);
            }
        }
        true
    }

    /// A letter of the shard of this index, to whoever waits for it.
    fn hand_out(&mut self, sender: usize, letter: Mail) {
        match letter {
            Mail::HandOver(handed) => {
                if let Err(error) = self.connections.serve(*handed) {
                    self.say(
                        Level::Warning,
                        &format!("a connection cannot be served: {error}"),
                    );
                }
            }
            Mail::RateStarted { tenant, counter } => {
                Notice::Started(tenant, Some(counter)).tell(&self.notices, || {
                    if let Some(tenant) = self.live.borrow().directory.get(tenant) {
                        tenant.usage.discard(counter);
                    }
                });
            }
            Mail::Ask(question) => {
                if let Some(refusal) = self.desk.ask_for(sender, *question) {
                    self.port.send(shard(sender), Mail::Answer(refusal));
                }
            }
            Mail::Seek(seek) => {
                if let Some(refused) = self.registrar.seek_for(sender, *seek) {
                    self.port
                        .send(shard(sender), Mail::Sought(refused.connection));
                }
            }
            Mail::Listen(listen) => self.changes.listen(sender, *listen),
            Mail::Unlisten { tenant, listener } => {
                self.changes.unlisten(tenant, (sender, listener))
            }
            Mail::Log(line) => self.log.forward(*line),
            Mail::Marked(number) => self.marks.answer(number),
            Mail::Drained => self.drained.send_modify(|drained| *drained += 1),
            _ => debug_assert!(
                false,
                "a shard does not say what only the control core says"
            ),
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        let shards = self.port.shard_count();
        match parcel {
            Parcel::Publish(publish) => match &publish.to {
                To::Key(key) => {
                    let owner = key.owner(shards);
                    self.port.send(owner, Mail::Publish(publish));
                }
                To::Topic(_) => debug_assert!(false, "the control core is subscribed to nothing"),
            },
            Parcel::Adopt(adopted) => {
                self.next_shard = (self.next_shard + 1) % shards;
                self.port.send(shard(self.next_shard), Mail::Adopt(adopted));
            }
            Parcel::Sought(index, connection) => {
                self.port.send(shard(index), Mail::Sought(connection));
            }
            Parcel::Answer(index, answer) => self.port.send(shard(index), Mail::Answer(answer)),
            Parcel::Listening(index, listening) => {
                self.port.send(shard(index), Mail::Listening(listening));
            }
            Parcel::Changes(index, batch) => self.port.send(shard(index), Mail::Changes(batch)),
            Parcel::All(news) => self.tell_all(&news),
            Parcel::Mark(heeded) => {
                let number = self.marks.set(shards, heeded);
                for index in 0..shards {
                    self.port.send(shard(index), Mail::Mark(number));
                }
            }
        }
    }

    fn tell_all(&mut self, news: &News) {
        for index in 0..self.port.shard_count() {
            self.port.send(shard(index), news.clone().into());
        }
    }

    /// Tells the shards to stop, and waits until they have been told.
    async fn finish(mut self) {
        while let Ok(parcel) = self.parcels.try_recv() {
            self.deliver(parcel);
        }
        self.tell_all(&News::Stop);
        let told = async {
            while self.port.unsent() > 0 {
                while self.port.receive().is_some() {}
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(limits::LAST_LETTERS_TIMEOUT, told)
            .await
            .is_err()
        {
            self.say(Level::Error, "a shard does not take its mail any more");
        }
    }

    fn say(&self, level: Level, text: &str) {
        self.log.write(Line::new(clock::unix_ms(), level, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_heeded_when_every_shard_has_answered() {
        let mut marks = Marks::default();
        let (sender, mut first) = oneshot::channel();
        let one = marks.set(2, sender);
        let (sender, mut second) = oneshot::channel();
        let other = marks.set(1, sender);
        marks.answer(one);
        marks.answer(other);
        assert!(first.try_recv().is_err() && second.try_recv().is_ok());
        marks.answer(one);
        assert!(first.try_recv().is_ok() && marks.waiting.is_empty());
        // One that nobody waits for any more is forgotten with the next.
        let (sender, gone) = oneshot::channel();
        let late = marks.set(1, sender);
        drop(gone);
        marks.set(1, oneshot::channel().0);
        marks.answer(late);
        assert_eq!(marks.waiting.len(), 1);
    }
}

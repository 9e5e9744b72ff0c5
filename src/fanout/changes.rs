//! Row changes to sockets: who listens on this shard, and what reaches them (spec: postgres-changes 7).
//!
//! What comes in: channels that listen, where the control core has put them, and its batches. What goes out: frames into outboxes. What
//! always holds: a change reaches a channel in one frame, which names all of its entries that match
//! (`entries_of_a_channel_share_a_frame`); changes reach a channel in the order they come in; neighbours for the same channels are one
//! buffer, shared by all that read the same (`equal_listeners_share_a_buffer`); a batch reaches listeners of its own tenant alone
//! (`a_batch_is_of_one_tenant`). Deliberately absent: who may see what; the control core
//! has decided that.

use crate::connection::{self, ConnectionId, Io, LocalBytes};
use crate::mail::{
    ChangeBatch, ClassId, GroupId, ListenerId, Listeners, RowChange, Seat, TopicKey, TopicRef,
};
use crate::phoenix::{self, Vsn};
use crate::tenant::TenantId;
use rustc_hash::FxHashMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

/// A channel that listens.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Whose channel.
    pub tenant: TenantId,
    /// Its socket.
    pub connection: ConnectionId,
    /// Its topic in this shard's registry.
    pub topic: TopicRef,
    /// The name of the topic.
    pub key: Arc<TopicKey>,
    /// The serializer of its socket.
    pub vsn: Vsn,
    /// The client's ids of its entries, in the order of its join. None where the topic itself is the only entry: such changes are sent
    /// without ids.
    pub ids: Option<Box<[u32]>>,
}

/// Everybody on this shard who listens to row changes.
#[derive(Default)]
pub struct Changes {
    places: Vec<Place>,
    free: Vec<u32>,
    /// A tenant's batch finds that tenant's classes only, whatever they are called.
    classes: FxHashMap<(TenantId, ClassId), Class>,
    /// Counts runs, to tell which listeners a run has met already.
    run: u64,
    /// The listeners of a run, in the order they were met. Kept for its memory.
    met: Vec<u32>,
    buffers_made: u64,
}

#[derive(Default)]
struct Place {
    generation: u32,
    seated: Option<Box<Seated>>,
}

/// A listener and where it stands.
struct Seated {
    listener: Listener,
    seats: Vec<Seat>,
    /// The run that has met it last.
    run: u64,
    /// The entries that match in that run.
    entries: Vec<u32>,
    /// The ids of the entries that matched before, as JSON: nearly always those that match next.
    last: (Vec<u32>, Rc<str>),
}

/// The listeners of a class by their groups: place and entry of each.
#[derive(Default)]
struct Class(FxHashMap<GroupId, Vec<(u32, u32)>>);

impl Changes {
    /// A channel begins to listen. It hears nothing before it is seated.
    pub fn add(&mut self, listener: Listener) -> ListenerId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("a shard has fewer channels than that")
        });
        let place = &mut self.places[index as usize];
        place.seated = Some(Box::new(Seated {
            listener,
            seats: Vec::new(),
            run: 0,
            entries: Vec::new(),
            last: (Vec::new(), Rc::from("[]")),
        }));
        ListenerId {
            index,
            generation: place.generation,
        }
    }

    /// A channel listens no more. False when it did not.
    pub fn remove(&mut self, id: ListenerId) -> bool {
        let Some(seated) = self.take_place(id) else {
            return false;
        };
        self.unseat(seated.listener.tenant, id.index, &seated.seats);
        true
    }

    /// The channel, while it listens.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<&Listener> {
        let place = self.places.get(id.index as usize)?;
        let seated = place.seated.as_deref()?;
        (place.generation == id.generation).then_some(&seated.listener)
    }

    /// Puts a channel where it stands from now on.
    pub fn seat(&mut self, id: ListenerId, seats: Vec<Seat>) {
        let Some(tenant) = self.listener(id).map(|listener| listener.tenant) else {
            return;
        };
        let seated = self.places[id.index as usize].seated.as_deref_mut();
        let old = seated.map_or_else(Vec::new, |seated| {
            std::mem::replace(&mut seated.seats, seats.clone())
        });
        self.unseat(tenant, id.index, &old);
        for seat in seats {
            let class = self.classes.entry((tenant, seat.class)).or_default();
            let group = class.0.entry(seat.group).or_default();
            group.push((id.index, seat.entry));
        }
    }

    /// How many channels listen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How many buffers were made for all that was delivered: one for each run and each way to read it.
    #[must_use]
    pub fn buffers_made(&self) -> u64 {
        self.buffers_made
    }

    /// Whether nobody listens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues what a batch says to those who listen here. Returns the readers whose queue has passed its bound: to be closed.
    pub fn deliver(
        &mut self,
        io: &mut Io<'_>,
        batch: &ChangeBatch,
        queued_bytes_max: usize,
    ) -> Vec<ConnectionId> {
        let mut slow = Vec::new();
        for run in &batch.runs {
            self.meet(batch.tenant, &run.audience);
            let mut buffers = Buffers::default();
            let mut met = std::mem::take(&mut self.met);
            for place in met.drain(..) {
                let Some(seated) = self.places[place as usize].seated.as_deref_mut() else {
                    continue;
                };
                let buffer = buffers.of(seated, &run.changes);
                let id = seated.listener.connection;
                if !connection::queue(io, id, buffer, queued_bytes_max) {
                    slow.push(id);
                }
            }
            self.met = met;
            self.buffers_made += buffers.made.len() as u64;
        }
        slow
    }

    /// Finds the listeners of an audience, each once, with the entries that match.
    fn meet(&mut self, tenant: TenantId, audience: &[Listeners]) {
        self.run += 1;
        let (places, met, run) = (&mut self.places, &mut self.met, self.run);
        let mut greet = |group: &[(u32, u32)]| {
            for &(place, entry) in group {
                let Some(seated) = places[place as usize].seated.as_deref_mut() else {
                    continue;
                };
                if seated.run != run {
                    seated.run = run;
                    seated.entries.clear();
                    met.push(place);
                }
                seated.entries.push(entry);
            }
        };
        for listeners in audience {
            let Some(class) = self.classes.get(&(tenant, listeners.class)) else {
                continue;
            };
            match &listeners.groups {
                None => class.0.values().for_each(|group| greet(group)),
                Some(groups) => groups
                    .iter()
                    .filter_map(|group| class.0.get(group))
                    .for_each(|group| greet(group)),
            }
        }
    }

    fn take_place(&mut self, id: ListenerId) -> Option<Box<Seated>> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let seated = place.seated.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(seated)
    }

    fn unseat(&mut self, tenant: TenantId, place: u32, seats: &[Seat]) {
        for seat in seats {
            let name = (tenant, seat.class);
            let Some(class) = self.classes.get_mut(&name) else {
                continue;
            };
            if let Some(group) = class.0.get_mut(&seat.group) {
                let found = group.iter().position(|&one| one == (place, seat.entry));
                found.map(|found| group.swap_remove(found));
                if group.is_empty() {
                    class.0.remove(&seat.group);
                }
            }
            if class.0.is_empty() {
                self.classes.remove(&name);
            }
        }
    }
}

/// The frames of one run, for all that read the same.
#[derive(Default)]
struct Buffers {
    made: FxHashMap<Reading, LocalBytes>,
    /// The one before: nearly always the next one as well.
    last: Option<(Reading, LocalBytes)>,
}

/// What a client reads depends on this.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Reading {
    topic: TopicRef,
    is_v2: bool,
    /// A JSON array; none for the way of old.
    ids: Option<Rc<str>>,
}

impl Buffers {
    fn of(&mut self, seated: &mut Seated, changes: &[RowChange]) -> LocalBytes {
        let reading = seated.reading();
        if let Some((last, buffer)) = &self.last
            && *last == reading
        {
            return buffer.clone();
        }
        let listener = &seated.listener;
        let make = || {
            let mut out = Vec::new();
            for change in changes {
                phoenix::encode_change(
                    &mut out,
                    listener.vsn,
                    listener.key.json(),
                    change.event,
                    reading.ids.as_deref(),
                    &change.data,
                );
            }
            LocalBytes::from(out)
        };
        let buffer = self.made.entry(reading.clone()).or_insert_with(make);
        let buffer = buffer.clone();
        self.last = Some((reading, buffer.clone()));
        buffer
    }
}

impl Seated {
    fn reading(&mut self) -> Reading {
        // As the original lists them: the last of the join first.
        self.entries.sort_unstable_by(|one, other| other.cmp(one));
        let ids = self.listener.ids.as_ref().map(|ids| {
            if self.last.0 != self.entries {
                let ids = self.entries.iter().map(|&entry| ids.get(entry as usize));
                let text = ids_json(ids.flatten().copied());
                self.last = (self.entries.clone(), text.into());
            }
            Rc::clone(&self.last.1)
        });
        Reading {
            topic: self.listener.topic,
            is_v2: self.listener.vsn == Vsn::V2,
            ids,
        }
    }
}

fn ids_json(ids: impl Iterator<Item = u32>) -> String {
    let mut text = String::from("[");
    for (n, id) in ids.enumerate() {
        let comma = if n > 0 { "," } else { "" };
        write!(text, "{comma}{id}").expect("a String takes everything");
    }
    text.push(']');
    text
}

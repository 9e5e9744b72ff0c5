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
    seats: Box<[Standing]>,
    /// The run that has met it last.
    run: u64,
    /// The entries that match in that run.
    entries: Vec<u32>,
    /// The ids of the entries that matched before, as JSON: nearly always those that match next.
    last: (Vec<u32>, Rc<str>),
}

/// A seat, and where in its group it is, so that nobody looks for it when it is left.
struct Standing {
    class: ClassId,
    group: GroupId,
    index: u32,
}

/// One entry of a listener, as its group knows it.
#[derive(Copy, Clone)]
struct Member {
    place: u32,
    entry: u32,
    /// Which of the listener's seats it is: that one knows where in the group this one is.
    seat: u32,
}

const _: () = assert!(size_of::<Standing>() == 24 && size_of::<Member>() == 12);

/// The listeners of a class by their groups.
#[derive(Default)]
struct Class(FxHashMap<GroupId, Vec<Member>>);

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
            seats: Box::default(),
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
        if self.listener(id).is_none() {
            return false;
        }
        self.unseat(id.index);
        let place = &mut self.places[id.index as usize];
        place.seated = None;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
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
    pub fn seat(&mut self, id: ListenerId, seats: &[Seat]) {
        let Some(tenant) = self.listener(id).map(|listener| listener.tenant) else {
            return;
        };
        self.unseat(id.index);
        let mut standing = Vec::with_capacity(seats.len());
        for (seat, n) in seats.iter().zip(0..) {
            let class = self.classes.entry((tenant, seat.class)).or_default();
            let group = class.0.entry(seat.group).or_default();
            standing.push(Standing {
                class: seat.class,
                group: seat.group,
                index: u32::try_from(group.len()).expect("a shard has fewer entries than that"),
            });
            group.push(Member {
                place: id.index,
                entry: seat.entry,
                seat: n,
            });
        }
        if let Some(seated) = self.places[id.index as usize].seated.as_deref_mut() {
            seated.seats = standing.into_boxed_slice();
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
        let mut greet = |group: &[Member]| {
            for &Member { place, entry, .. } in group {
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

    /// Takes a listener out of every group: so many steps as it has seats, however many others are in there.
    fn unseat(&mut self, place: u32) {
        let Some(seated) = self.places[place as usize].seated.as_deref_mut() else {
            return;
        };
        let tenant = seated.listener.tenant;
        let mut seats = std::mem::take(&mut seated.seats);
        for n in 0..seats.len() {
            let Standing {
                class,
                group,
                index,
            } = seats[n];
            let name = (tenant, class);
            let of_class = self.classes.get_mut(&name).expect("a seat is in a class");
            let members = of_class
                .0
                .get_mut(&group)
                .expect("a seat is in a group of its class");
            let left = members.swap_remove(index as usize);
            debug_assert!(left.place == place && left.seat as usize == n);
            // The last one of the group stands there now.
            if let Some(moved) = members.get(index as usize) {
                let (owner, seat) = (moved.place, moved.seat as usize);
                if owner == place {
                    seats[seat].index = index;
                } else if let Some(owner) = self.places[owner as usize].seated.as_deref_mut() {
                    owner.seats[seat].index = index;
                }
            }
            if members.is_empty() {
                of_class.0.remove(&group);
            }
            if of_class.0.is_empty() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::TopicHasher;

    const TENANT: TenantId = TenantId(1);

    fn add(changes: &mut Changes, key: &Arc<TopicKey>) -> ListenerId {
        changes.add(Listener {
            tenant: TENANT,
            connection: ConnectionId::new(0, 0),
            topic: TopicRef {
                index: 0,
                generation: 0,
            },
            key: Arc::clone(key),
            vsn: Vsn::V2,
            ids: None,
        })
    }

    fn key() -> Arc<TopicKey> {
        let hasher = TopicHasher::new(1);
        TopicKey::of_name(&hasher, TENANT, false, "a").into()
    }

    fn seat(entry: u32, class: u64, group: u64) -> Seat {
        Seat {
            entry,
            class: ClassId(class),
            group: GroupId(group),
        }
    }

    /// The places of those that a change for this class meets, with the entries that match, in order.
    fn met(changes: &mut Changes, class: u64) -> Vec<(u32, Vec<u32>)> {
        let whole = Listeners {
            class: ClassId(class),
            groups: None,
        };
        changes.meet(TENANT, &[whole]);
        let mut met: Vec<_> = std::mem::take(&mut changes.met)
            .into_iter()
            .map(|place| {
                let seated = changes.places[place as usize].seated.as_deref_mut();
                let seated = seated.expect("who is met is there");
                seated.entries.sort_unstable();
                (place, seated.entries.clone())
            })
            .collect();
        met.sort_unstable();
        met
    }

    /// Every member of every group is where its listener's seat says, and there are no others.
    fn check(changes: &Changes) {
        let mut members = 0;
        for ((_, class), groups) in &changes.classes {
            assert!(!groups.0.is_empty(), "a class of nobody");
            for (group, all) in &groups.0 {
                assert!(!all.is_empty(), "a group of nobody");
                for (member, index) in all.iter().zip(0..) {
                    let seated = changes.places[member.place as usize].seated.as_deref();
                    let standing = &seated.expect("it listens").seats[member.seat as usize];
                    assert_eq!((standing.class, standing.group), (*class, *group));
                    assert_eq!(standing.index, index);
                    members += 1;
                }
            }
        }
        let seated = changes.places.iter().filter_map(|one| one.seated.as_ref());
        assert_eq!(members, seated.map(|one| one.seats.len()).sum::<usize>());
    }

    #[test]
    fn leaving_a_large_group_takes_no_search() {
        // Looked for, these were some 500 million comparisons.
        const MEMBERS: u32 = 20_000;
        let (mut changes, key) = (Changes::default(), key());
        let ids: Vec<_> = (0..MEMBERS)
            .map(|_| {
                let id = add(&mut changes, &key);
                changes.seat(id, &[seat(0, 1, 1)]);
                id
            })
            .collect();
        // The same wish again and again in one join.
        let greedy = add(&mut changes, &key);
        let same: Vec<_> = (0..MEMBERS).map(|entry| seat(entry, 1, 1)).collect();
        changes.seat(greedy, &same);
        check(&changes);
        for id in ids.iter().rev().step_by(2) {
            assert!(changes.remove(*id));
        }
        check(&changes);
        assert!(changes.remove(greedy));
        assert!(!changes.remove(greedy));
        check(&changes);
        let left: Vec<_> = ids
            .iter()
            .step_by(2)
            .map(|id| (id.index, vec![0]))
            .collect();
        assert_eq!(met(&mut changes, 1), left);
        for id in ids.iter().rev() {
            changes.remove(*id);
        }
        assert!(changes.classes.is_empty() && changes.is_empty());
    }

    #[test]
    fn seats_are_kept_while_channels_come_and_go() {
        let (mut changes, key) = (Changes::default(), key());
        let mut there: Vec<(ListenerId, Vec<Seat>)> = Vec::new();
        let mut state = 7_u64;
        let mut dice = |sides: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % sides
        };
        for _ in 0..2000 {
            if there.is_empty() || (there.len() < 30 && dice(3) == 0) {
                there.push((add(&mut changes, &key), Vec::new()));
            }
            let one = usize::try_from(dice(there.len() as u64)).expect("it is small");
            if dice(4) == 0 {
                assert!(changes.remove(there.swap_remove(one).0));
            } else {
                let count = u32::try_from(dice(6)).expect("it is small");
                let seats: Vec<_> = (0..count)
                    .map(|entry| seat(entry, dice(3), dice(2)))
                    .collect();
                changes.seat(there[one].0, &seats);
                there[one].1 = seats;
            }
            check(&changes);
            let mut expected: Vec<_> = there
                .iter()
                .map(|(id, seats)| {
                    let of_class = seats.iter().filter(|seat| seat.class == ClassId(1));
                    (
                        id.index,
                        of_class.map(|seat| seat.entry).collect::<Vec<_>>(),
                    )
                })
                .filter(|(_, entries)| !entries.is_empty())
                .collect();
            expected.sort_unstable();
            assert_eq!(met(&mut changes, 1), expected);
        }
    }
}

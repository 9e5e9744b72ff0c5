//! The subscriptions of one tenant, by what has to be decided about a change once (spec: cdc-performance-notes 3.1).
//!
//! What comes in: where listeners belong. What goes out: the candidates of a table and an action, and who stands behind them. What
//! always holds: subscriptions with equal role and wish are one class, those of them with equal claims are one group, so nothing is decided
//! twice (`equal_subscriptions_are_one_class`); of filters that compare for equality only those are looked at whose value a row has
//! (`filters_of_other_values_are_not_looked_at`); names of classes and groups are never used twice. Deliberately absent: when a
//! placement may change: never while a batch is decided.

use super::change::Action;
use super::filter::{Checked, Filter};
use super::wish::{Wanted, Wish};
use crate::control::replication::pgoutput::Relation;
use crate::mail::{ClassId, GroupId, ListenerId, Seat};
use rustc_hash::FxHashMap;
use std::cell::Cell;
use std::rc::Rc;

/// A channel that listens, and its shard.
pub type ListenerKey = (usize, ListenerId);

/// An entry of a join that may be served.
#[derive(Clone, Debug)]
pub struct Placement {
    /// What it asks for.
    pub wish: Rc<Wish>,
    /// The role of its claims.
    pub role: Rc<str>,
    /// Its claims, as JSON.
    pub claims: Rc<str>,
    /// The tables that it was checked for, by their oids.
    pub tables: Rc<FxHashMap<u32, Rc<Checked>>>,
}

/// See the room's documentation.
#[derive(Debug, Default)]
pub struct Registry {
    listeners: FxHashMap<ListenerKey, Vec<(Seat, ClaimsId)>>,
    classes: FxHashMap<ClassId, Class>,
    by_wish: FxHashMap<(Rc<Wish>, Rc<str>), ClassId>,
    claims: FxHashMap<Rc<str>, Interned>,
    /// What was made of the classes for a table.
    tables: FxHashMap<u32, Named>,
    subscriptions: u64,
    ids: Ids,
}

/// A table's index, and what the stream calls the table.
#[derive(Debug)]
struct Named {
    schema: Box<str>,
    name: Box<str>,
    index: Rc<TableIndex>,
}

/// Gives out names that no two classes or groups of a process have, of whatever tenant. Clones go on together.
#[derive(Clone, Debug, Default)]
pub struct Ids(Rc<Cell<u64>>);

impl Ids {
    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// Subscriptions that ask for the same with the same role.
#[derive(Debug)]
pub struct Class {
    wish: Rc<Wish>,
    role: Rc<str>,
    tables: Rc<FxHashMap<u32, Rc<Checked>>>,
    groups: FxHashMap<ClaimsId, Group>,
    /// How many subscriptions it has on each shard.
    shards: Vec<u32>,
    /// How many it has.
    pub size: u32,
}

/// Equal claims have equal names: they are compared once and not at every change.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClaimsId(u64);

/// Those of a class that have the same claims.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub id: GroupId,
    /// The claims, as JSON.
    pub claims: Rc<str>,
    /// How many subscriptions it has.
    pub size: u32,
}

/// Claims that somebody has, and how many groups there are with them.
#[derive(Debug)]
struct Interned {
    id: ClaimsId,
    groups: u32,
}

/// What is known of a table's subscriptions.
#[derive(Debug, Default)]
pub struct TableIndex {
    /// All of its candidates.
    pub candidates: Vec<Candidate>,
    by_action: [ActionIndex; 3],
}

/// A class as a table's changes meet it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The class.
    pub class: ClassId,
    /// Its role.
    pub role: Rc<str>,
    /// All have to let a change pass.
    pub filters: Rc<[Rc<Filter>]>,
    /// The columns it asks for, sorted; none for all.
    pub select: Option<Rc<[Box<str>]>>,
}

/// Candidates by the value that a row has to have.
type ByValue = FxHashMap<Box<str>, Vec<usize>>;

#[derive(Debug, Default)]
struct ActionIndex {
    /// Every candidate of the action.
    all: Vec<usize>,
    /// Those that are looked at for every row.
    always: Vec<usize>,
    /// Those that are for rows with one value in one column: a filter that says how values are to be written, and the candidates by value.
    equal: Vec<(Rc<Filter>, ByValue)>,
}

impl Registry {
    /// Without anybody.
    #[must_use]
    pub fn new(ids: Ids) -> Self {
        Self {
            ids,
            ..Self::default()
        }
    }

    /// Puts a listener where its entries belong, in place of where it stood. Returns its seats, one per entry.
    pub fn place(&mut self, key: ListenerKey, entries: &[Placement]) -> Vec<Seat> {
        self.remove(key);
        let seats: Vec<(Seat, ClaimsId)> = entries
            .iter()
            .zip(0..)
            .map(|(placement, entry)| self.seat(key.0, placement, entry))
            .collect();
        let places = seats.iter().map(|(seat, _)| *seat).collect();
        self.subscriptions += seats.len() as u64;
        self.listeners.insert(key, seats);
        places
    }

    fn seat(&mut self, shard: usize, placement: &Placement, entry: u32) -> (Seat, ClaimsId) {
        let name = (Rc::clone(&placement.wish), Rc::clone(&placement.role));
        let class_id = match self.by_wish.get(&name) {
            Some(id) => *id,
            None => {
                let id = ClassId(self.ids.next());
                let class = Class {
                    wish: Rc::clone(&placement.wish),
                    role: Rc::clone(&placement.role),
                    tables: Rc::clone(&placement.tables),
                    groups: FxHashMap::default(),
                    shards: Vec::new(),
                    size: 0,
                };
                self.classes.insert(id, class);
                self.by_wish.insert(name, id);
                forget_tables_of(&mut self.tables, &placement.wish, &placement.tables);
                id
            }
        };
        let class = self
            .classes
            .get_mut(&class_id)
            .expect("every name leads to a class");
        // The last check counts for all of the class: it asked the same of the same tables.
        if !Rc::ptr_eq(&class.tables, &placement.tables) && class.tables != placement.tables {
            forget_tables_of(&mut self.tables, &class.wish, &class.tables);
            forget_tables_of(&mut self.tables, &class.wish, &placement.tables);
        }
        class.tables = Rc::clone(&placement.tables);
        let interned = self
            .claims
            .entry(Rc::clone(&placement.claims))
            .or_insert_with(|| Interned {
                id: ClaimsId(self.ids.next()),
                groups: 0,
            });
        let group = class.groups.entry(interned.id).or_insert_with(|| {
            interned.groups += 1;
            Group {
                id: GroupId(self.ids.next()),
                claims: Rc::clone(&placement.claims),
                size: 0,
            }
        });
        group.size += 1;
        class.size += 1;
        if class.shards.len() <= shard {
            class.shards.resize(shard + 1, 0);
        }
        class.shards[shard] += 1;
        let seat = Seat {
            entry,
            class: class_id,
            group: group.id,
        };
        (seat, interned.id)
    }

    /// A listener is no more.
    pub fn remove(&mut self, key: ListenerKey) {
        for (seat, claims) in self.listeners.remove(&key).unwrap_or_default() {
            self.subscriptions -= 1;
            let Some(class) = self.classes.get_mut(&seat.class) else {
                continue;
            };
            class.size -= 1;
            class.shards[key.0] -= 1;
            if let Some(group) = class.groups.get_mut(&claims) {
                group.size -= 1;
                if group.size == 0 {
                    let group = class.groups.remove(&claims);
                    group
                        .into_iter()
                        .for_each(|group| Self::release(&mut self.claims, &group));
                }
            }
            if class.size == 0 {
                let name = (Rc::clone(&class.wish), Rc::clone(&class.role));
                self.by_wish.remove(&name);
                forget_tables_of(&mut self.tables, &class.wish, &class.tables);
                self.classes.remove(&seat.class);
            }
        }
    }

    fn release(claims: &mut FxHashMap<Rc<str>, Interned>, group: &Group) {
        if let Some(interned) = claims.get_mut(&group.claims) {
            interned.groups -= 1;
            if interned.groups == 0 {
                claims.remove(&group.claims);
            }
        }
    }

    /// Everybody who has a seat.
    pub fn listeners(&self) -> impl Iterator<Item = ListenerKey> {
        self.listeners.keys().copied()
    }

    /// Whether this one has.
    #[must_use]
    pub fn is_seated(&self, key: ListenerKey) -> bool {
        self.listeners.contains_key(&key)
    }

    /// Whether nobody has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// The class of this name.
    #[must_use]
    pub fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(&id)
    }

    /// What is known of a table's subscriptions. `name` is what the stream calls it now: who asks for a name of that kind, without a
    /// filter that would have to be checked first, gets a table's changes from the first one on.
    #[must_use]
    pub fn table(&mut self, oid: u32, schema: &str, name: &str) -> Rc<TableIndex> {
        if let Some(known) = self.tables.get(&oid) {
            return Rc::clone(&known.index);
        }
        let mut index = TableIndex::default();
        // In the order in which they came: those of one channel among them are listed in one frame anyway.
        let mut ids: Vec<&ClassId> = self.classes.keys().collect();
        ids.sort_unstable();
        for id in ids {
            let class = &self.classes[id];
            let wish = &class.wish;
            let is_unchecked =
                || wish.filters.is_empty() && wish.select.is_none() && wish.matches(schema, name);
            let checked = class.tables.get(&oid);
            let (filters, select) = match checked {
                Some(checked) => (Rc::clone(&checked.filters), checked.select.clone()),
                None if is_unchecked() => (Rc::from([]), None),
                None => continue,
            };
            let candidate = Candidate {
                class: *id,
                role: Rc::clone(&class.role),
                filters,
                select,
            };
            index.add(wish.wanted, candidate);
        }
        let index = Rc::new(index);
        let named = Named {
            schema: schema.into(),
            name: name.into(),
            index: Rc::clone(&index),
        };
        self.tables.insert(oid, named);
        index
    }

    /// A table has another name, or is another one: what was made of the classes for it is made anew.
    pub fn forget_table(&mut self, oid: u32) {
        self.tables.remove(&oid);
    }

    /// Whether some filter was checked for another type than its column has in the rows that come now.
    #[must_use]
    pub fn has_other_types(&self, relation: &Relation) -> bool {
        let is_other = |filter: &Rc<Filter>| {
            let mut columns = relation.columns.iter();
            columns.any(|column| {
                *column.name == *filter.column() && column.type_oid != filter.type_oid()
            })
        };
        let mut checked = self
            .classes
            .values()
            .filter_map(|class| class.tables.get(&relation.id));
        checked.any(|checked| checked.filters.iter().any(is_other))
    }
}

/// Forgets what a class that comes, goes or changes has a part in.
fn forget_tables_of(
    tables: &mut FxHashMap<u32, Named>,
    wish: &Wish,
    checked: &FxHashMap<u32, Rc<Checked>>,
) {
    tables.retain(|oid, named| {
        !checked.contains_key(oid) && !wish.matches(&named.schema, &named.name)
    });
}

impl Class {
    /// Its groups by their claims.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (ClaimsId, &Group)> {
        self.groups.iter().map(|(claims, group)| (*claims, group))
    }

    /// The shards that have subscriptions of it.
    pub fn shards(&self) -> impl Iterator<Item = usize> {
        let counts = self.shards.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(shard, _)| shard)
    }
}

impl TableIndex {
    fn add(&mut self, wanted: Wanted, candidate: Candidate) {
        let n = self.candidates.len();
        let equal = candidate
            .filters
            .iter()
            .find_map(|filter| Some((filter, filter.equality()?)));
        for action in [Action::Insert, Action::Update, Action::Delete] {
            if !wanted.includes(action) {
                continue;
            }
            let index = &mut self.by_action[action as usize];
            index.all.push(n);
            let Some((filter, value)) = equal else {
                index.always.push(n);
                continue;
            };
            let of_column = |one: &&mut (Rc<Filter>, _)| {
                one.0.column() == filter.column() && one.0.type_oid() == filter.type_oid()
            };
            let by_value = match index.equal.iter_mut().find(of_column) {
                Some((_, by_value)) => by_value,
                None => {
                    index.equal.push((Rc::clone(filter), FxHashMap::default()));
                    let (_, by_value) = index.equal.last_mut().expect("it was pushed");
                    by_value
                }
            };
            by_value.entry(value.into()).or_default().push(n);
        }
        self.candidates.push(candidate);
    }

    /// Whether anybody asks for this.
    #[must_use]
    pub fn wants(&self, action: Action) -> bool {
        !self.by_action[action as usize].all.is_empty()
    }

    /// Everybody who asks for this, whatever the row.
    #[must_use]
    pub fn all(&self, action: Action) -> &[usize] {
        &self.by_action[action as usize].all
    }

    /// Those whom a row may be for: `value` is what it has in a filter's column, none where that is not known or NULL. Those who are left
    /// out have a filter that does not let it pass.
    pub fn for_row<'a>(
        &self,
        action: Action,
        value: impl Fn(&Filter) -> Option<&'a str>,
    ) -> Vec<usize> {
        let index = &self.by_action[action as usize];
        let mut found = index.always.clone();
        for (filter, by_value) in &index.equal {
            if let Some(text) = value(filter) {
                let candidates = by_value.get(&*filter.canonical(text));
                found.extend(candidates.into_iter().flatten());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::wish::{FilterText, Operator};
    use super::*;

    const TEXT: u32 = 25;

    fn wish(table: &str, wanted: Wanted) -> Rc<Wish> {
        Rc::new(Wish {
            wanted,
            schema: "public".to_owned(),
            table: table.to_owned(),
            filters: Vec::new(),
            select: None,
        })
    }

    fn placement(wish: &Rc<Wish>, claims: &str) -> Placement {
        Placement {
            wish: Rc::clone(wish),
            role: "anon".into(),
            claims: claims.into(),
            tables: Rc::default(),
        }
    }

    /// With a filter on `room` of table 7.
    fn filtered(room: &str, negate: bool) -> Placement {
        let filter = Filter::native("room", TEXT, Operator::Eq, negate, room);
        let filters = Rc::from([Rc::new(filter.expect("texts are compared here"))]);
        let checked = Rc::new(Checked {
            filters,
            select: None,
        });
        let mut wish = Wish::clone(&wish("t", Wanted::All));
        wish.filters = vec![FilterText {
            column: "room".to_owned(),
            operator: Operator::Eq,
            value: room.to_owned(),
            negate,
        }];
        Placement {
            tables: Rc::new(FxHashMap::from_iter([(7, checked)])),
            ..placement(&Rc::new(wish), "{}")
        }
    }

    fn key(index: u32) -> ListenerKey {
        let listener = ListenerId {
            index,
            generation: 0,
        };
        (1, listener)
    }

    #[test]
    fn equal_subscriptions_are_one_class() {
        let mut registry = Registry::default();
        let all = wish("t", Wanted::All);
        let a = registry.place(key(1), &[placement(&all, "{1}"), placement(&all, "{1}")]);
        let b = registry.place(key(2), &[placement(&wish("t", Wanted::All), "{1}")]);
        let c = registry.place(key(3), &[placement(&all, "{2}")]);
        let d = registry.place(
            key(4),
            &[placement(&wish("t", Wanted::Only(Action::Delete)), "{1}")],
        );
        assert_eq!((a[0].class, a[0].group), (b[0].class, b[0].group));
        assert_eq!((a[0].entry, a[1].entry), (0, 1));
        assert_eq!(c[0].class, a[0].class);
        assert_ne!(c[0].group, a[0].group);
        assert_ne!(d[0].class, a[0].class);
        let class = registry.class(a[0].class).unwrap();
        assert_eq!((class.size, class.groups().len()), (4, 2));
        assert_eq!(class.shards().collect::<Vec<_>>(), [1]);
        assert_eq!(registry.subscriptions(), 5);
    }

    #[test]
    fn nothing_stays_of_those_who_left() {
        let mut registry = Registry::default();
        let all = wish("t", Wanted::All);
        for n in 0..100 {
            let claims = format!("{{{}}}", n % 10);
            registry.place(
                key(n),
                &[placement(&all, &claims), placement(&all, &claims)],
            );
        }
        // Somebody who is placed again leaves where it stood.
        registry.place(key(5), &[placement(&wish("u", Wanted::All), "{}")]);
        assert_eq!(registry.subscriptions(), 199);
        assert!(registry.table(7, "public", "t").wants(Action::Insert));
        for n in 0..100 {
            registry.remove(key(n));
            registry.remove(key(n));
        }
        assert!(registry.is_empty() && registry.classes.is_empty());
        assert!(registry.by_wish.is_empty() && registry.claims.is_empty());
        assert_eq!(registry.subscriptions(), 0);
        assert!(!registry.table(7, "public", "t").wants(Action::Insert));
    }

    #[test]
    fn names_are_never_used_twice() {
        let ids = Ids::default();
        let all = wish("t", Wanted::All);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let mut registry = Registry::new(ids.clone());
            for _ in 0..3 {
                let seats = registry.place(key(1), &[placement(&all, "{}")]);
                seen.extend([seats[0].class.0, seats[0].group.0]);
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn filters_of_other_values_are_not_looked_at() {
        let mut registry = Registry::default();
        let mut classes = Vec::new();
        for n in 0..50 {
            classes.push(registry.place(key(n), &[filtered(&n.to_string(), false)])[0].class);
        }
        let negated = registry.place(key(50), &[filtered("7", true)])[0].class;
        let plain = registry.place(key(51), &[placement(&wish("t", Wanted::All), "{}")])[0].class;
        let index = registry.table(7, "public", "t");
        let found = |value: Option<&'static str>| {
            let mut found: Vec<ClassId> = index
                .for_row(Action::Update, |_| value)
                .into_iter()
                .map(|n| index.candidates[n].class)
                .collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(Some("7")), [classes[7], negated, plain]);
        assert_eq!(found(Some("x")), [negated, plain]);
        assert_eq!(found(None), [negated, plain]);
        assert_eq!(index.all(Action::Update).len(), 52);
    }

    #[test]
    fn a_table_that_was_not_checked_is_for_wishes_without_filters() {
        let mut registry = Registry::default();
        registry.place(key(1), &[filtered("1", false)]);
        let any = registry.place(key(2), &[placement(&wish("*", Wanted::All), "{}")]);
        let index = registry.table(8, "public", "t");
        assert_eq!(index.candidates.len(), 1);
        assert_eq!(index.candidates[0].class, any[0].class);
        assert!(!registry.table(9, "other", "t").wants(Action::Insert));
        // It has another name now.
        registry.forget_table(8);
        assert!(!registry.table(8, "other", "t").wants(Action::Insert));
    }

    #[test]
    fn indexes_of_other_tables_are_kept() {
        let mut registry = Registry::default();
        registry.place(key(1), &[placement(&wish("t", Wanted::All), "{}")]);
        let (t, u) = (
            registry.table(7, "public", "t"),
            registry.table(8, "public", "u"),
        );
        registry.place(key(2), &[placement(&wish("u", Wanted::All), "{}")]);
        assert!(Rc::ptr_eq(&registry.table(7, "public", "t"), &t));
        assert!(!Rc::ptr_eq(&registry.table(8, "public", "u"), &u));
        registry.place(key(3), &[placement(&wish("*", Wanted::All), "{}")]);
        assert!(!Rc::ptr_eq(&registry.table(7, "public", "t"), &t));
        assert_eq!(registry.table(7, "public", "t").candidates.len(), 2);
    }
}

//! Who gets a batch of changes (spec: postgres-changes 5.3).
//!
//! What comes in: changes, and the subscriptions as they are when the batch begins. What goes out: the same changes as clients read them,
//! each with its listeners, in the order of the stream. What always holds:
//!
//! - What the database says of tables, privileges and roles is asked once per batch, when its rows are known; nothing is kept from the
//!   batch before (spec: cdc-performance-notes 3.3).
//! - It is asked once every transaction of the batch is seen by others: before, answers would be those of the time before it.
//! - A verdict for some claims counts for these claims, this role and this table alone; without one nothing is delivered.
//! - When the database cannot be asked, nothing of the batch is decided: it is tried again. Only where connections for row level
//!   security are not to be had for long, what they would have been asked about is dropped: the others wait no longer.
//!
//! Deliberately absent: how rows come and where they go.

use super::Context;
use super::dispatch::{Dispatch, Outbound};
use super::manager::Manager;
use crate::control::changes::catalog::{RoleNow, TableNow};
use crate::control::changes::change::{Action, Cell, Change, Content, Row};
use crate::control::changes::filter::{Filter, Truth};
use crate::control::changes::measures::{Dropped, add};
use crate::control::changes::payload::{Lack, Shape, View};
use crate::control::changes::registry::{Candidate, ClaimsId, Class, Registry, TableIndex};
use crate::control::changes::visibility::{Check, Key, Verdict};
use crate::control::clock;
use crate::limits;
use crate::mail::{GroupId, Listeners, RowChange};
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// The database could not be asked.
#[derive(Debug)]
pub(super) struct Unanswered(pub String);

impl From<tokio_postgres::Error> for Unanswered {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(crate::control::database::connect::describe(&error))
    }
}

/// Why a batch is not decided.
#[derive(Debug)]
pub(super) enum Undecided {
    /// The connection that asks about everything else is of no use any more.
    Unanswered(String),
    /// It is, but nobody could be asked about row level security.
    Unchecked(String),
    /// Others do not see a transaction of it yet: it is committed in the log, and not done with.
    Unseen,
}

impl From<Unanswered> for Undecided {
    fn from(Unanswered(text): Unanswered) -> Self {
        Self::Unanswered(text)
    }
}

/// How long nobody could be asked about row level security.
#[derive(Debug, Default)]
pub(in crate::control::changes) struct Patience(std::cell::Cell<Option<Instant>>);

impl Patience {
    /// Once more nobody could. Whether it is worth another try.
    fn is_left(&self, now: Instant) -> bool {
        let since = self.0.get().unwrap_or(now);
        self.0.set(Some(since));
        now < since + limits::CHANGES_UNANSWERED_MAX
    }

    /// There was an answer to everything.
    fn restore(&self) {
        self.0.set(None);
    }
}

/// A change on its way through the steps.
struct Item<'a> {
    change: &'a Change,
    row: Row<'a>,
    index: Rc<TableIndex>,
    shape: Rc<Shape>,
    /// Candidates whose filters let it pass, or may do so.
    passing: Vec<Passing>,
    /// Its key among those of its table and role.
    keys: Vec<(Rc<str>, usize)>,
    /// Values that only PostgreSQL can convert.
    asked: Vec<(bool, usize, Box<str>)>,
}

/// A candidate that is still one.
struct Passing {
    /// Its place in the index.
    candidate: usize,
    /// Filters that PostgreSQL has to answer: their places among the questions, and in those.
    open: Vec<(usize, usize)>,
}

/// Filters that PostgreSQL is asked about, each with the values in question.
#[derive(Default)]
struct Questions {
    list: Vec<(Rc<Filter>, Vec<Box<str>>)>,
    by_filter: FxHashMap<Rc<Filter>, usize>,
}

/// What is asked about a table for a role.
#[derive(Default)]
struct Block {
    keys: Vec<Key>,
    /// Which of the keys each set of claims is interested in.
    claims: FxHashMap<ClaimsId, (Rc<str>, Vec<usize>)>,
    /// What came of it: by key, whether it may be seen.
    visible: FxHashMap<ClaimsId, Vec<bool>>,
}

type Blocks = FxHashMap<(u32, Rc<str>), Block>;

/// Decides a batch and sends what came of it. When it cannot be decided, nothing of it is sent.
pub(super) async fn decide(
    context: &Context,
    manager: &Manager,
    registry: &mut Registry,
    dispatch: &Dispatch,
    batch: &[Change],
) -> Result<(), Undecided> {
    let began = clock::now();
    let indexes: Vec<Rc<TableIndex>> = batch
        .iter()
        .map(|change| {
            let relation = &change.relation;
            registry.table(relation.id, &relation.schema, &relation.name)
        })
        .collect();
    let registry = &*registry;
    let tables = manager.look(batch, &indexes).await?;
    let mut items = items(context, manager, batch, indexes, &tables).await?;
    let questions = filter_natively(&mut items);
    let unknown = questions.ask(manager, &mut items).await?;
    context.measures.count_dropped(Dropped::NoVerdict, unknown);
    let blocks = visibility(context, manager, registry, &mut items).await?;
    convert(manager, &mut items).await?;
    add(&context.measures.batches, 1);
    let us = clock::now().duration_since(began).as_micros();
    add(
        &context.measures.deciding_us,
        u64::try_from(us).unwrap_or(u64::MAX),
    );
    deliver(context, registry, dispatch, &items, &blocks).await;
    Ok(())
}

/// The rows, with what is known of their tables.
async fn items<'a>(
    context: &Context,
    manager: &Manager,
    batch: &'a [Change],
    indexes: Vec<Rc<TableIndex>>,
    tables: &FxHashMap<u32, Rc<TableNow>>,
) -> Result<Vec<Item<'a>>, Unanswered> {
    let oids = batch.iter().flat_map(|change| &change.relation.columns);
    let oids: FxHashSet<u32> = oids.map(|column| column.type_oid).collect();
    manager.load_types(&oids).await?;
    let mut shapes: FxHashMap<*const _, Rc<Shape>> = FxHashMap::default();
    let mut items = Vec::with_capacity(batch.len());
    for (change, index) in batch.iter().zip(indexes) {
        let Some(table) = tables.get(&change.relation.id) else {
            context.measures.count_dropped(Dropped::TableGone, 1);
            continue;
        };
        let Some(row) = change.row() else {
            context.measures.count_dropped(Dropped::Garbled, 1);
            continue;
        };
        let shape = shapes
            .entry(Rc::as_ptr(&change.relation))
            .or_insert_with(|| {
                let shape = Shape::new(Rc::clone(table), &change.relation, &manager.types);
                Rc::new(shape)
            });
        items.push(Item {
            change,
            row,
            index,
            shape: Rc::clone(shape),
            passing: Vec::new(),
            keys: Vec::new(),
            asked: Vec::new(),
        });
    }
    Ok(items)
}

impl<'a> Item<'a> {
    /// What a filter sees of its column: the new row, or of a row that was deleted what is known of it. Nothing of a column that has another
    /// type than when the filter was checked.
    fn cell(&self, filter: &Filter) -> Cell<'a> {
        let cells = match self.change.action {
            Action::Insert | Action::Update => &self.row.new,
            Action::Delete => &self.row.old,
        };
        let mut columns = self.change.relation.columns.iter();
        let place = columns.position(|column| {
            *column.name == *filter.column() && column.type_oid == filter.type_oid()
        })?;
        cells.get(place).copied().flatten()
    }

    fn role(&self, candidate: &Candidate) -> Option<&RoleNow> {
        let role = self.shape.table.roles.get(&candidate.role);
        role.filter(|role| role.exists)
    }

    /// What a role lacks to be shown this.
    fn lack_of(&self, role: &RoleNow) -> Option<Lack> {
        match self.change.action {
            Action::Delete => None,
            Action::Insert | Action::Update => self.shape.lack_of(role),
        }
    }

    /// Whether policies have to be asked.
    fn is_checked(&self, role: &RoleNow) -> bool {
        let table = &self.shape.table;
        table.is_rls_enabled && self.change.action != Action::Delete && !role.sees_all_rows
    }
}

/// Leaves the candidates whose filters the server itself can answer with yes; the rest of the questions is returned.
fn filter_natively(items: &mut [Item<'_>]) -> Questions {
    let mut questions = Questions::default();
    for item in items {
        let action = item.change.action;
        let text = |filter: &Filter| match item.cell(filter) {
            Some(Content::Text(text)) => Some(text),
            Some(Content::Null) | None => None,
        };
        // A role that lacks something hears of every change, whatever its filters (spec 5.3, step 4 b and c).
        let roles = item.shape.table.roles.iter();
        let lacking: Vec<&Rc<str>> = roles
            .filter(|(_, now)| now.exists && item.lack_of(now).is_some())
            .map(|(role, _)| role)
            .collect();
        let lacks = |n: &usize| lacking.contains(&&item.index.candidates[*n].role);
        let mut passing = Vec::new();
        for n in item.index.for_row(action, text) {
            let candidate = &item.index.candidates[n];
            if !lacks(&n)
                && let Some(open) = questions.filter(candidate, |filter| item.cell(filter))
            {
                passing.push(Passing { candidate: n, open });
            }
        }
        if !lacking.is_empty() {
            let all = item.index.all(action).iter().copied().filter(lacks);
            passing.extend(all.map(|candidate| Passing {
                candidate,
                open: Vec::new(),
            }));
        }
        item.passing = passing;
    }
    questions
}

impl Questions {
    /// What is left to be asked of a candidate's filters; none when one of them says no.
    fn filter<'a>(
        &mut self,
        candidate: &Candidate,
        cell: impl Fn(&Filter) -> Cell<'a>,
    ) -> Option<Vec<(usize, usize)>> {
        let mut open = Vec::new();
        for filter in &*candidate.filters {
            // A column that the stream does not say: nobody knows whether the filter lets it pass.
            let value = match cell(filter)? {
                Content::Null => None,
                Content::Text(text) => Some(text),
            };
            match filter.eval(value) {
                Truth::Yes => {}
                Truth::No | Truth::Unknown => return None,
                Truth::Ask => open.push(self.add(filter, value?)),
            }
        }
        Some(open)
    }

    fn add(&mut self, filter: &Rc<Filter>, value: &str) -> (usize, usize) {
        let question = match self.by_filter.get(filter) {
            Some(question) => *question,
            None => {
                self.list.push((Rc::clone(filter), Vec::new()));
                self.by_filter
                    .insert(Rc::clone(filter), self.list.len() - 1);
                self.list.len() - 1
            }
        };
        let values = &mut self.list[question].1;
        // The same value comes again for each candidate with this filter.
        if values.last().is_none_or(|last| **last != *value) {
            values.push(value.into());
        }
        (question, values.len() - 1)
    }

    /// Asks, and leaves the candidates of which all answers are yes. Returns of how many values nobody knows whether they pass.
    async fn ask(self, manager: &Manager, items: &mut [Item<'_>]) -> Result<u64, Unanswered> {
        if self.list.is_empty() {
            return Ok(0);
        }
        let answers = manager.ask_filters(&self.list).await?;
        let is_yes = |&(question, value): &(usize, usize)| {
            let answers = answers.passed.get(question);
            answers.and_then(|values| values.get(value)).copied() == Some(true)
        };
        for item in items {
            item.passing
                .retain(|passing| passing.open.iter().all(is_yes));
        }
        Ok(answers.unknown)
    }
}

/// Asks what row level security says, where it has to be asked.
async fn visibility(
    context: &Context,
    manager: &Manager,
    registry: &Registry,
    items: &mut [Item<'_>],
) -> Result<Blocks, Undecided> {
    let mut blocks = Blocks::default();
    for item in items.iter_mut() {
        collect_keys(registry, item, &mut blocks);
    }
    let mut asked = Vec::new();
    let mut checks = Vec::new();
    for ((oid, role), block) in &blocks {
        let table = items.iter().find(|item| item.change.relation.id == *oid);
        let Some(table) = table.map(|item| &item.shape.table) else {
            continue;
        };
        let all: Rc<[Key]> = block.keys.clone().into();
        for (id, (claims, places)) in &block.claims {
            let keys = if places.len() == all.len() {
                Rc::clone(&all)
            } else {
                places.iter().map(|place| all[*place].clone()).collect()
            };
            checks.push(Check {
                table: Rc::clone(table),
                role: Rc::clone(role),
                claims: Rc::clone(claims),
                keys,
            });
            asked.push((*oid, Rc::clone(role), *id));
        }
    }
    if checks.is_empty() {
        return Ok(blocks);
    }
    let began = clock::now();
    let verdicts = context.checkers.visible(checks).await;
    if clock::now().duration_since(began) >= limits::VISIBILITY_TIMEOUT {
        // Either a policy is slow, or nobody is there.
        manager.is_there().await?;
    }
    is_answered(context, &verdicts)?;
    let mut lost: FxHashMap<u32, (u64, Rc<str>)> = FxHashMap::default();
    for ((oid, role, claims), answers) in asked.into_iter().zip(verdicts) {
        let Some(block) = blocks.get_mut(&(oid, role)) else {
            continue;
        };
        let places = block.claims.get(&claims).map(|(_, places)| places);
        let mut visible = vec![false; block.keys.len()];
        for (place, verdict) in places.into_iter().flatten().zip(answers) {
            match verdict {
                Verdict::Yes => visible[*place] = true,
                Verdict::No => {}
                Verdict::Lost(reason) | Verdict::Unanswered(reason) => {
                    let (count, _) = lost.entry(oid).or_insert((0, reason));
                    *count += 1;
                }
            }
        }
        block.visible.insert(claims, visible);
    }
    for (oid, (count, reason)) in lost {
        let table = items.iter().find(|item| item.change.relation.id == oid);
        if let Some(item) = table {
            context.note_lost(&item.shape.table, count, &reason);
        }
    }
    Ok(blocks)
}

/// Whether the verdicts may be used: not while some could not be asked about and may be soon.
fn is_answered(context: &Context, verdicts: &[Vec<Verdict>]) -> Result<(), Undecided> {
    let mut verdicts = verdicts.iter().flatten();
    let unanswered = verdicts.find_map(|verdict| match verdict {
        Verdict::Unanswered(reason) => Some(reason),
        _ => None,
    });
    match unanswered {
        Some(reason) if context.patience.is_left(clock::now()) => {
            Err(Undecided::Unchecked(reason.to_string()))
        }
        Some(_) => Ok(()),
        None => {
            context.patience.restore();
            Ok(())
        }
    }
}

/// Notes an item's key for everybody who may see it or not.
fn collect_keys(registry: &Registry, item: &mut Item<'_>, blocks: &mut Blocks) {
    let mut keys: Vec<(Rc<str>, usize)> = Vec::new();
    for passing in &item.passing {
        let candidate = &item.index.candidates[passing.candidate];
        let Some(role) = item.role(candidate) else {
            continue;
        };
        if !item.is_checked(role) || item.lack_of(role).is_some() {
            continue;
        }
        let name = (item.change.relation.id, Rc::clone(&candidate.role));
        let block = blocks.entry(name).or_default();
        let place = match keys.iter().find(|(name, _)| *name == candidate.role) {
            Some((_, place)) => *place,
            None => {
                let Some(key) = item.shape.key(&item.row) else {
                    continue;
                };
                block.keys.push(key.into_iter().map(Into::into).collect());
                let place = block.keys.len() - 1;
                keys.push((Rc::clone(&candidate.role), place));
                place
            }
        };
        let Some(class) = registry.class(candidate.class) else {
            continue;
        };
        for (id, group) in class.groups() {
            let (_, places) = block
                .claims
                .entry(id)
                .or_insert_with(|| (Rc::clone(&group.claims), Vec::new()));
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
    }
    item.keys = keys;
}

/// Has the values converted that only PostgreSQL can convert.
async fn convert(manager: &Manager, items: &mut [Item<'_>]) -> Result<(), Unanswered> {
    let mut wanted = Vec::new();
    for (n, item) in items.iter().enumerate() {
        if item.passing.is_empty() {
            continue;
        }
        for (is_new, cells) in [(true, &item.row.new), (false, &item.row.old)] {
            for (place, column) in item.change.relation.columns.iter().enumerate() {
                if let Some(Some(Content::Text(text))) = cells.get(place)
                    && let Some(value_type) = manager.types.get(column.type_oid)
                    && value_type.needs_asking()
                {
                    wanted.push((n, is_new, place, value_type, *text));
                }
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let (places, values): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .map(|(n, is_new, place, value_type, text)| ((n, is_new, place), (value_type, text)))
        .unzip();
    let answers = manager.convert(&values).await?;
    for ((n, is_new, place), json) in places.into_iter().zip(answers) {
        if let Some(json) = json {
            items[n].asked.push((is_new, place, json));
        }
    }
    Ok(())
}

/// Those who read the same of an item.
struct Audience<'a> {
    /// Stands for all of them: role and columns.
    candidate: &'a Candidate,
    role: &'a RoleNow,
    lack: Option<Lack>,
    listeners: Vec<Listeners>,
    /// How many subscriptions that are.
    size: u64,
    shards: Vec<usize>,
}

/// Sends the changes as clients read them: as soon as there is enough for a letter, for a row may be read in as many ways as there are lists
/// of columns.
async fn deliver(
    context: &Context,
    registry: &Registry,
    dispatch: &Dispatch,
    items: &[Item<'_>],
    blocks: &Blocks,
) {
    let mut outbound = Outbound::default();
    let mut views = Views::default();
    for item in items {
        let mut values = None;
        let audiences = audiences(registry, item, blocks);
        add(
            &context.measures.delivered,
            u64::from(!audiences.is_empty()),
        );
        for audience in audiences {
            let data = match audience.lack {
                Some(lack) => item.shape.data_without_row(item.change.action, lack),
                None => {
                    let bytes_max = context.changes.record_bytes_max;
                    let values = values.get_or_insert_with(|| {
                        let values = item.shape.values(&item.row, &item.asked, bytes_max);
                        if values.malformed > 0 {
                            context.note_malformed(&item.shape.table, values.malformed);
                        }
                        values
                    });
                    let view = views.of(item, audience.candidate, audience.role);
                    item.shape.data(item.change, &view, values)
                }
            };
            let change = RowChange {
                event: item.change.action.as_str(),
                data,
            };
            add(&context.measures.matched, audience.size);
            audience
                .shards
                .iter()
                .for_each(|shard| outbound.is_for(*shard));
            outbound.push(&audience.candidate.role, &audience.listeners, change);
            if outbound.is_enough() {
                dispatch.send(std::mem::take(&mut outbound)).await;
            }
        }
    }
    dispatch.send(outbound).await;
}

/// A role and a list of columns.
type ReadAs<'a> = (&'a Rc<str>, Option<&'a Rc<[Box<str>]>>);

/// Those who get an item, by role and list of columns.
fn audiences<'a>(registry: &Registry, item: &'a Item<'_>, blocks: &Blocks) -> Vec<Audience<'a>> {
    let mut found: Vec<Audience<'_>> = Vec::new();
    let mut places: FxHashMap<ReadAs<'_>, usize> = FxHashMap::default();
    for passing in &item.passing {
        let candidate = &item.index.candidates[passing.candidate];
        let Some((role, class)) = item.role(candidate).zip(registry.class(candidate.class)) else {
            continue;
        };
        let lack = item.lack_of(role);
        let (groups, size) = if item.is_checked(role) && lack.is_none() {
            let Some((groups, size)) = visible_groups(class, candidate, item, blocks) else {
                continue;
            };
            let is_all = groups.len() == class.groups().len();
            ((!is_all).then(|| Arc::from(groups)), size)
        } else {
            (None, u64::from(class.size))
        };
        let select = candidate.select.as_ref();
        let place = *places.entry((&candidate.role, select)).or_insert_with(|| {
            found.push(Audience {
                candidate,
                role,
                lack,
                listeners: Vec::new(),
                size: 0,
                shards: Vec::new(),
            });
            found.len() - 1
        });
        let audience = &mut found[place];
        audience.size += size;
        audience.listeners.push(Listeners {
            class: candidate.class,
            groups,
        });
        for shard in class.shards() {
            if !audience.shards.contains(&shard) {
                audience.shards.push(shard);
            }
        }
    }
    // As the original orders them: by role, all columns first.
    found.sort_by(|one, other| {
        let (one, other) = (one.candidate, other.candidate);
        (&one.role, &one.select).cmp(&(&other.role, &other.select))
    });
    found
}

/// The groups of a class that may see an item, and how many subscriptions they have; none when nobody may.
fn visible_groups(
    class: &Class,
    candidate: &Candidate,
    item: &Item<'_>,
    blocks: &Blocks,
) -> Option<(Vec<GroupId>, u64)> {
    let block = blocks.get(&(item.change.relation.id, Rc::clone(&candidate.role)))?;
    let (_, place) = item.keys.iter().find(|(role, _)| *role == candidate.role)?;
    let (mut groups, mut size) = (Vec::new(), 0);
    for (claims, group) in class.groups() {
        let visible = block.visible.get(&claims);
        if visible.and_then(|visible| visible.get(*place)) == Some(&true) {
            groups.push(group.id);
            size += u64::from(group.size);
        }
    }
    (!groups.is_empty()).then_some((groups, size))
}

/// Views of this batch.
#[derive(Default)]
struct Views(FxHashMap<ViewName, Rc<View>>);

/// Shape, role and columns.
type ViewName = (*const Shape, Rc<str>, Option<Rc<[Box<str>]>>);

impl Views {
    fn of(&mut self, item: &Item<'_>, candidate: &Candidate, role: &RoleNow) -> Rc<View> {
        let name = (
            Rc::as_ptr(&item.shape),
            Rc::clone(&candidate.role),
            candidate.select.clone(),
        );
        let view = self
            .0
            .entry(name)
            .or_insert_with(|| Rc::new(item.shape.view(role, candidate.select.as_deref())));
        Rc::clone(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_comes_back_with_an_answer() {
        let patience = Patience::default();
        let start = clock::now();
        assert!(patience.is_left(start));
        let last = start + limits::CHANGES_UNANSWERED_MAX;
        assert!(patience.is_left(last - std::time::Duration::from_millis(1)));
        assert!(!patience.is_left(last));
        // Those who come later do not wait once more.
        assert!(!patience.is_left(last + limits::CHANGES_UNANSWERED_MAX));
        patience.restore();
        assert!(patience.is_left(last));
        assert!(patience.is_left(last + limits::CHANGES_BATCH_RETRY_PAUSE));
    }
}

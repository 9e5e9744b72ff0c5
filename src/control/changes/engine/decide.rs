//! Who gets a batch of changes (spec: postgres-changes 5.3).
//!
//! What comes in: changes, and the subscriptions as they are when the batch begins. What goes out: the same changes as clients read them,
//! each with its listeners, in the order of the stream. What always holds:
//!
//! - What the database says of tables, privileges and roles is asked once per batch, when its rows are known; nothing is kept from the
//!   batch before (spec: cdc-performance-notes 3.3).
//! - It is asked once every transaction of the batch is seen by others: before, answers would be those of the time before it.
//! - When the database cannot be asked, nothing of the batch is decided, and nothing of it is counted: it is tried again.
//!
//! Deliberately absent: how rows come and where they go, and what row level security says of them, which is
//! [`verdicts`](super::verdicts)'s.

use super::Context;
use super::dispatch::{Dispatch, Outbound};
use super::manager::Manager;
use super::verdicts::Verdicts;
use crate::control::changes::catalog::{RoleNow, TableNow};
use crate::control::changes::change::{Action, Cell, Change, Content, Row};
use crate::control::changes::filter::{Filter, Truth};
use crate::control::changes::generated::{Computation, Computed};
use crate::control::changes::measures::{Dropped, add};
use crate::control::changes::payload::{Lack, Shape, View};
use crate::control::changes::registry::{Candidate, Registry, TableIndex};
use crate::control::clock;
use crate::control::replication::pgoutput::Relation;
use crate::mail::{Listeners, RowChange};
use crate::metrics::{Relayed, millis};
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;

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
    /// Rows of it are to be looked for in the database, and what changes them again may still be on its way.
    Unsettled,
}

impl From<Unanswered> for Undecided {
    fn from(Unanswered(text): Unanswered) -> Self {
        Self::Unanswered(text)
    }
}

/// A change on its way through the steps.
pub(super) struct Item<'a> {
    pub(super) change: &'a Change,
    /// The table as the row has it: with the columns that the stream leaves out.
    relation: Rc<Relation>,
    pub(super) row: Row<'a>,
    pub(super) index: Rc<TableIndex>,
    pub(super) shape: Rc<Shape>,
    /// Candidates whose filters let it pass, or may do so.
    pub(super) passing: Vec<Passing>,
    /// Its key among those of its table and role.
    pub(super) keys: Vec<(Rc<str>, usize)>,
    /// Values that only PostgreSQL can convert.
    asked: Vec<(bool, usize, Box<str>)>,
}

/// A candidate that is still one.
pub(super) struct Passing {
    /// Its place in the index.
    pub(super) candidate: usize,
    /// Filters that PostgreSQL has to answer: their places among the questions, and in those.
    open: Vec<(usize, usize)>,
}

/// Filters that PostgreSQL is asked about, each with the values in question.
#[derive(Default)]
struct Questions {
    list: Vec<(Rc<Filter>, Vec<Box<str>>)>,
    by_filter: FxHashMap<Rc<Filter>, usize>,
}

/// What is counted of a batch when it is decided: one that is tried again counts once.
#[derive(Debug, Default)]
pub(super) struct Tally {
    table_gone: u64,
    garbled: u64,
    /// Values of which nobody knows whether a filter lets them pass.
    unknown: u64,
    /// Sets of claims that were asked about, by table and role, and keys for them.
    pub(super) checks: u64,
    pub(super) keys: u64,
    /// Verdicts that could not be had: of which table, how many, and why.
    pub(super) lost: Vec<(Rc<TableNow>, u64, Rc<str>)>,
}

impl Tally {
    fn count(self, context: &Context) {
        let measures = &context.measures;
        measures.count_dropped(Dropped::TableGone, self.table_gone);
        measures.count_dropped(Dropped::Garbled, self.garbled);
        measures.count_dropped(Dropped::NoVerdict, self.unknown);
        add(&measures.visibility.checks, self.checks);
        add(&measures.visibility.keys, self.keys);
        for (table, count, reason) in &self.lost {
            context.note_lost(table, *count, reason);
        }
    }
}

/// Decides a batch and sends what came of it. When it cannot be decided, nothing of it is sent. `is_settled` says that it waits for nothing
/// that comes behind it.
pub(super) async fn decide(
    context: &Context,
    manager: &Manager,
    registry: &mut Registry,
    dispatch: &Dispatch,
    batch: &[Change],
    is_settled: bool,
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
    let mut tally = Tally::default();
    let additions = Additions::ask(context, manager, batch, &tables).await?;
    let mut items = items(manager, batch, indexes, &tables, &additions, &mut tally).await?;
    let questions = filter_natively(&mut items);
    tally.unknown = questions.ask(manager, &mut items).await?;
    let verdicts = Verdicts::ask(
        context, manager, registry, &mut items, &mut tally, is_settled,
    )
    .await?;
    convert(manager, &mut items).await?;
    tally.count(context);
    add(&context.measures.batches, 1);
    let took = clock::now().duration_since(began);
    add(
        &context.measures.deciding_us,
        u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    );
    let latencies = context.tenant.usage.latencies();
    latencies.changes.observe(millis(took));
    deliver(context, registry, dispatch, &items, &verdicts).await;
    Ok(())
}

/// What the stream leaves out of a batch's rows, by the tables as it describes them.
#[derive(Default)]
struct Additions(FxHashMap<*const Relation, Addition>);

struct Addition {
    computation: Computation,
    /// By the changes' places in the batch.
    computed: FxHashMap<usize, Computed>,
}

impl Additions {
    /// Asks for all rows of tables that have generated columns; one question per table.
    async fn ask(
        context: &Context,
        manager: &Manager,
        batch: &[Change],
        tables: &FxHashMap<u32, Rc<TableNow>>,
    ) -> Result<Self, Unanswered> {
        let mut relations: FxHashMap<*const Relation, (&TableNow, Vec<usize>)> =
            FxHashMap::default();
        for (n, change) in batch.iter().enumerate() {
            let table = tables.get(&change.relation.id);
            if let Some(table) = table.filter(|table| !table.generated.is_empty()) {
                let name = Rc::as_ptr(&change.relation);
                let (_, places) = relations.entry(name).or_insert((table, Vec::new()));
                places.push(n);
            }
        }
        let mut additions = Self::default();
        for (name, (table, mut places)) in relations {
            let relation = &batch[places[0]].relation;
            let Some(computation) = Computation::of(table, relation) else {
                continue;
            };
            places.retain(|n| batch[*n].row().is_some());
            let rows: Vec<Row<'_>> = places.iter().filter_map(|n| batch[*n].row()).collect();
            let computed = match manager.compute(&computation, &rows).await? {
                Ok(computed) => places.into_iter().zip(computed).collect(),
                Err(text) => {
                    context.note_uncomputed(table, &text);
                    FxHashMap::default()
                }
            };
            let addition = Addition {
                computation,
                computed,
            };
            additions.0.insert(name, addition);
        }
        Ok(additions)
    }

    /// A row with what was left out of it, and its table as it is then.
    fn complete<'a>(&'a self, n: usize, change: &Change, row: &mut Row<'a>) -> Rc<Relation> {
        let Some(addition) = self.0.get(&Rc::as_ptr(&change.relation)) else {
            return Rc::clone(&change.relation);
        };
        let computation = &addition.computation;
        computation.complete(row, addition.computed.get(&n));
        Rc::clone(&computation.relation)
    }

    /// The table as its rows have it when they are complete.
    fn relation<'a>(&'a self, change: &'a Change) -> &'a Relation {
        let addition = self.0.get(&Rc::as_ptr(&change.relation));
        addition.map_or(&change.relation, |addition| &addition.computation.relation)
    }
}

/// The rows, with what is known of their tables.
async fn items<'a>(
    manager: &Manager,
    batch: &'a [Change],
    indexes: Vec<Rc<TableIndex>>,
    tables: &FxHashMap<u32, Rc<TableNow>>,
    additions: &'a Additions,
    tally: &mut Tally,
) -> Result<Vec<Item<'a>>, Unanswered> {
    let relations = batch.iter().map(|change| additions.relation(change));
    let oids = relations.flat_map(|relation| &relation.columns);
    let oids: FxHashSet<u32> = oids.map(|column| column.type_oid).collect();
    manager.load_types(&oids).await?;
    let mut shapes: FxHashMap<*const _, Rc<Shape>> = FxHashMap::default();
    let mut items = Vec::with_capacity(batch.len());
    for (n, (change, index)) in batch.iter().zip(indexes).enumerate() {
        let Some(table) = tables.get(&change.relation.id) else {
            tally.table_gone += 1;
            continue;
        };
        let Some(mut row) = change.row() else {
            tally.garbled += 1;
            continue;
        };
        let relation = additions.complete(n, change, &mut row);
        row.forget_special_numbers(&relation);
        let shape = shapes.entry(Rc::as_ptr(&relation)).or_insert_with(|| {
            let shape = Shape::new(Rc::clone(table), &relation, &manager.types);
            Rc::new(shape)
        });
        items.push(Item {
            change,
            relation,
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
    /// type than when the filter was checked. A null of JSON is NULL to filters, as in the original.
    fn cell(&self, filter: &Filter) -> Cell<'a> {
        let cells = match self.change.action {
            Action::Insert | Action::Update => &self.row.new,
            Action::Delete => &self.row.old,
        };
        let mut columns = self.relation.columns.iter();
        let place = columns.position(|column| {
            *column.name == *filter.column() && column.type_oid == filter.type_oid()
        })?;
        let cell = cells.get(place).copied().flatten()?;
        let is_json = || [JSON, JSONB].contains(&filter.type_oid());
        match cell {
            Content::Text(text) if is_json() && text.trim() == "null" => Some(Content::Null),
            cell => Some(cell),
        }
    }

    pub(super) fn role(&self, candidate: &Candidate) -> Option<&RoleNow> {
        let role = self.shape.table.roles.get(&candidate.role);
        role.filter(|role| role.exists)
    }

    /// What a role lacks to be shown this.
    pub(super) fn lack_of(&self, role: &RoleNow) -> Option<Lack> {
        match self.change.action {
            Action::Delete => None,
            Action::Insert | Action::Update => self.shape.lack_of(role),
        }
    }

    /// Whether somebody is shown it only where the row is there when it is decided, as far as policies show it to him. Those for whom no
    /// policy counts are asked as well whether it is still there (spec: postgres-changes 5.3 d; recorded of `service_role`).
    pub(super) fn is_checked(&self) -> bool {
        let table = &self.shape.table;
        table.is_rls_enabled && self.change.action != Action::Delete
    }
}

/// `pg_type.oid` of the types that hold documents.
const JSON: u32 = 114;
const JSONB: u32 = 3802;

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

/// Has the values converted that only PostgreSQL can convert.
async fn convert(manager: &Manager, items: &mut [Item<'_>]) -> Result<(), Unanswered> {
    let mut wanted = Vec::new();
    for (n, item) in items.iter().enumerate() {
        if item.passing.is_empty() {
            continue;
        }
        for (is_new, cells) in [(true, &item.row.new), (false, &item.row.old)] {
            for (place, column) in item.relation.columns.iter().enumerate() {
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
    verdicts: &Verdicts,
) {
    let mut outbound = Outbound::default();
    let mut views = Views::default();
    for item in items {
        let mut values = None;
        let audiences = audiences(registry, item, verdicts);
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
            let (usage, cell) = (&context.tenant.usage, context.environment.cell);
            usage.count_payload(cell, Relayed::PostgresChanges, change.data.len());
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
fn audiences<'a>(
    registry: &Registry,
    item: &'a Item<'_>,
    verdicts: &Verdicts,
) -> Vec<Audience<'a>> {
    let mut found: Vec<Audience<'_>> = Vec::new();
    let mut places: FxHashMap<ReadAs<'_>, usize> = FxHashMap::default();
    for passing in &item.passing {
        let candidate = &item.index.candidates[passing.candidate];
        let Some((role, class)) = item.role(candidate).zip(registry.class(candidate.class)) else {
            continue;
        };
        let lack = item.lack_of(role);
        let (groups, size) = if item.is_checked() && lack.is_none() {
            let Some((groups, size)) = verdicts.visible_groups(class, candidate, item) else {
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

//! What a tenant's database is asked about changes beside row level security: tables, privileges, types, publications, casts.
//!
//! What comes in: an open connection. What goes out: answers. What always holds: nothing takes longer than
//! [`limits::CHANGES_QUESTION_TIMEOUT`], filters that take long themselves apart. Deliberately absent: opening the connection again.

use super::decide::{Unanswered, Undecided};
use crate::control::changes::catalog::{Catalog, Look, Published, TableNow, publication};
use crate::control::changes::change::{Change, Row};
use crate::control::changes::filter::{Asker, Filter, Passed};
use crate::control::changes::generated::{Computation, Computed};
use crate::control::changes::registry::TableIndex;
use crate::control::changes::types::{Converter, Type, Types, is_about_a_value};
use crate::control::database::Connection;
use crate::control::database::connect::describe;
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio_postgres::{Client, Error};

/// See the room's documentation.
#[derive(Debug)]
pub(super) struct Manager {
    connection: Connection,
    catalog: Rc<Catalog>,
    /// The types of the database that were met so far.
    pub(super) types: Rc<Types>,
    /// Asks about values that only the database can compare.
    filters: Asker,
    /// Asks for the JSON of values that only the database can write.
    converter: Converter,
}

impl Manager {
    /// On a connection that was just opened: it may be to another database than the one before.
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            catalog: Rc::default(),
            types: Rc::default(),
            filters: Asker::default(),
            converter: Converter::default(),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.connection.client
    }

    /// Returns when the connection is closed.
    pub(super) async fn closed(&self) {
        self.connection.closed().await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.client.is_closed()
    }

    /// The tables of a batch as they are now, for the roles that may get something of it, once others see its transactions.
    pub(super) async fn look(
        &self,
        batch: &[Change],
        indexes: &[Rc<TableIndex>],
    ) -> Result<FxHashMap<u32, Rc<TableNow>>, Undecided> {
        let mut tables: FxHashMap<u32, Vec<Rc<str>>> = FxHashMap::default();
        let mut seen: FxHashSet<*const TableIndex> = FxHashSet::default();
        for (change, index) in batch.iter().zip(indexes) {
            if seen.insert(Rc::as_ptr(index)) {
                let roles = tables.entry(change.relation.id).or_default();
                for candidate in &index.candidates {
                    if !roles.contains(&candidate.role) {
                        roles.push(Rc::clone(&candidate.role));
                    }
                }
            }
        }
        let tables: Vec<(u32, &[Rc<str>])> = tables
            .iter()
            .map(|(oid, roles)| (*oid, roles.as_slice()))
            .collect();
        let Look { snapshot, tables } = within(self.catalog.look(self.client(), &tables)).await?;
        let mut transactions: Vec<u32> = batch.iter().map(|change| change.xid).collect();
        transactions.dedup();
        if transactions.into_iter().all(|xid| snapshot.sees(xid)) {
            Ok(tables)
        } else {
            Err(Undecided::Unseen)
        }
    }

    /// Whether the database answers at all.
    pub(super) async fn is_there(&self) -> Result<(), Unanswered> {
        within(self.client().batch_execute("")).await
    }

    /// Rows that the original has left would make its functions work for nobody (spec: postgres-changes 3.1).
    pub(super) async fn empty_subscriptions(&self) -> Result<(), Unanswered> {
        let sql = "do $$ begin if pg_catalog.to_regclass('realtime.subscription') is not null then \
             delete from realtime.subscription; end if; end $$";
        within(self.client().batch_execute(sql)).await
    }

    pub(super) async fn publication(&self, name: &str) -> Result<Published, Unanswered> {
        within(publication(self.client(), name)).await
    }

    /// Makes sure that these types are known.
    pub(super) async fn load_types(&self, oids: &FxHashSet<u32>) -> Result<(), Unanswered> {
        let unknown = oids
            .iter()
            .copied()
            .filter(|oid| self.types.get(*oid).is_none());
        let unknown: Vec<u32> = unknown.collect();
        if unknown.is_empty() {
            return Ok(());
        }
        within(self.types.load(self.client(), &unknown)).await
    }

    /// Whether values pass filters that only PostgreSQL can answer.
    pub(super) async fn ask_filters(
        &self,
        questions: &[(Rc<Filter>, Vec<Box<str>>)],
    ) -> Result<Passed, Unanswered> {
        // Slow filters are ended by the database: this is for one that is not there.
        let round = limits::FILTER_STATEMENT_TIMEOUT * limits::FILTER_STATEMENTS_AT_ONCE as u32;
        let asking = limits::FILTER_ASK_TIMEOUT + limits::FILTER_SLOW_TIMEOUT;
        let timeout = asking + round + limits::CHANGES_QUESTION_TIMEOUT;
        within_time(timeout, self.filters.ask(self.client(), questions)).await
    }

    /// What the stream leaves out of these rows; within that why it cannot be computed.
    pub(super) async fn compute(
        &self,
        computation: &Computation,
        rows: &[Row<'_>],
    ) -> Result<Result<Vec<Computed>, String>, Unanswered> {
        let work = async {
            match computation.ask(self.client(), rows).await {
                Ok(computed) => Ok(Ok(computed)),
                Err(error) if is_about_a_value(&error) => Ok(Err(describe(&error))),
                Err(error) => Err(error),
            }
        };
        within(work).await
    }

    /// Reads all types again that are known.
    pub(super) async fn refresh_types(&self) -> Result<(), Unanswered> {
        within(self.types.refresh(self.client())).await
    }

    /// The JSON of values that only PostgreSQL can convert, in their order; none for one that it refuses.
    pub(super) async fn convert(
        &self,
        values: &[(Rc<Type>, &str)],
    ) -> Result<Vec<Option<Box<str>>>, Unanswered> {
        let mut by_type: Vec<(&Type, Vec<&str>)> = Vec::new();
        let mut places = Vec::with_capacity(values.len());
        for (value_type, text) in values {
            let question = by_type
                .iter()
                .position(|(known, _)| known.oid == value_type.oid);
            let question = question.unwrap_or_else(|| {
                by_type.push((value_type, Vec::new()));
                by_type.len() - 1
            });
            let texts = &mut by_type[question].1;
            texts.push(text);
            places.push((question, texts.len() - 1));
        }
        let mut answers = within(self.converter.ask(self.client(), &by_type)).await?;
        let take = |(question, place): (usize, usize)| {
            let answers = answers.get_mut(question)?;
            answers.get_mut(place)?.take()
        };
        Ok(places.into_iter().map(take).collect())
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Unanswered> {
    within_time(limits::CHANGES_QUESTION_TIMEOUT, work).await
}

async fn within_time<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Unanswered> {
    match tokio::time::timeout(timeout, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Unanswered("the database does not answer".to_owned())),
    }
}

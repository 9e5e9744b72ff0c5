//! Stored generated columns: before PostgreSQL 18 `pgoutput` leaves them out of the rows, and the original shows them.
//!
//! What comes in: a table as it is now, and rows of it as the stream has them. What goes out: the same rows with these columns behind the
//! others, their values as PostgreSQL prints them. What always holds: nothing runs that a user of the database has written
//! ([`GeneratedNow`]); a value that is computed from one that the stream does not say is not said either
//! (`what_is_computed_from_what_nobody_says_is_not_said`). Deliberately absent: expressions that no user may have written but that fail now,
//! since the table has other columns than the rows: what they would give is left out.

use super::catalog::{GeneratedNow, TableNow};
use super::change::{Cell, Content, Row};
use crate::control::database::quote::identifier;
use crate::control::database::statement;
use crate::control::replication::pgoutput::{Column, Relation};
use crate::limits;
use std::fmt::Write as _;
use std::rc::Rc;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// What the stream leaves out of a table's rows, and how it is computed.
#[derive(Debug)]
pub struct Computation {
    /// The table as the rows have it when they are complete.
    pub relation: Rc<Relation>,
    sql: String,
    /// The places of the sources among the columns of the stream.
    sources: Vec<usize>,
    /// For each column which of the sources it needs.
    needs: Vec<Vec<usize>>,
    has_full_identity: bool,
}

/// What was computed for a row: a cell for each column, of the new row and of the old one. Either is empty where the row has none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Computed {
    new: Vec<Answer>,
    old: Vec<Answer>,
}

/// A value: none where nobody can say it, and within that none for NULL.
type Answer = Option<Option<Box<str>>>;

/// The sources of a row, in the order of the computation's; none for those that nobody says.
type Sources<'a> = Vec<Cell<'a>>;

impl Computation {
    /// What is to be computed for rows of a table; none where the stream says everything that can be.
    #[must_use]
    pub fn of(table: &TableNow, relation: &Relation) -> Option<Self> {
        let place = |name: &str| {
            let mut columns = relation.columns.iter();
            columns.position(|column| column.name == name)
        };
        let (mut sources, mut declared) = (Vec::new(), String::new());
        let (mut needs, mut results) = (Vec::new(), Vec::new());
        let mut whole = relation.clone();
        for generated in &table.generated {
            let Some(column) = column_of(table, generated) else {
                continue;
            };
            let places: Option<Vec<usize>> = generated
                .sources
                .iter()
                .map(|(name, _)| place(name))
                .collect();
            let (None, Some(places)) = (place(&generated.column), places) else {
                continue;
            };
            let mut own = Vec::new();
            for (place, (name, type_sql)) in places.into_iter().zip(&generated.sources) {
                let known = sources.iter().position(|source| *source == place);
                own.push(known.unwrap_or_else(|| {
                    let n = sources.len();
                    let comma = if n == 0 { "" } else { ", " };
                    let _ = write!(
                        declared,
                        "{comma}v.v{n}::{type_sql} as {}",
                        identifier(name)
                    );
                    sources.push(place);
                    n
                }));
            }
            needs.push(own);
            results.push(&*generated.sql);
            whole.columns.push(Column {
                is_key: relation.replica_identity == b'f',
                ..column
            });
        }
        (!results.is_empty()).then(|| Self {
            has_full_identity: relation.replica_identity == b'f',
            relation: Rc::new(whole),
            sql: statement_of(sources.len(), &declared, &results),
            sources,
            needs,
        })
    }

    /// Computes what is missing in these rows.
    ///
    /// # Errors
    ///
    /// What the database or the connection said: nothing was computed.
    pub async fn ask(&self, client: &Client, rows: &[Row<'_>]) -> Result<Vec<Computed>, Error> {
        let asked: Vec<[Option<Sources<'_>>; 2]> =
            rows.iter().map(|row| self.sources_of(row)).collect();
        let lines: Vec<&Sources<'_>> = asked.iter().flatten().flatten().collect();
        let texts: Vec<Vec<Option<&str>>> = (0..self.sources.len().max(1))
            .map(|n| lines.iter().map(|line| text_of(line.get(n))).collect())
            .collect();
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> = texts
            .iter()
            .map(|texts| (texts as &(dyn ToSql + Sync), Type::TEXT_ARRAY))
            .collect();
        let begin = format!(
            "{}; set local search_path = pg_catalog",
            statement::begin(limits::CHANGE_VALUES_STATEMENT_TIMEOUT)
        );
        let (begun, answers, _) = tokio::join!(
            biased;
            client.batch_execute(&begin),
            client.query_typed(&self.sql, &parameters),
            client.batch_execute("rollback"),
        );
        begun?;
        let mut values = Vec::with_capacity(lines.len());
        for (line, row) in lines.iter().zip(&answers?) {
            let is_said = |needs: &Vec<usize>| needs.iter().all(|n| line[*n].is_some());
            let value = |(n, needs): (usize, &Vec<usize>)| match is_said(needs) {
                true => row.try_get(n).map(Some),
                false => Ok(None),
            };
            let line: Result<Vec<Answer>, Error> =
                self.needs.iter().enumerate().map(value).collect();
            values.push(line?);
        }
        let mut values = values.into_iter();
        let mut next = |one: &Option<Sources<'_>>| {
            let value = one.as_ref().and_then(|_| values.next());
            value.unwrap_or_default()
        };
        let computed = asked.iter().map(|[new, old]| Computed {
            new: next(new),
            old: next(old),
        });
        Ok(computed.collect())
    }

    /// The sources of the new row and of the old one. An old row has these columns where it is whole.
    fn sources_of<'a>(&self, row: &Row<'a>) -> [Option<Sources<'a>>; 2] {
        let cell = |cells: &[Cell<'a>], place: usize| cells.get(place).copied().flatten();
        let new = self.sources.iter().map(|place| {
            // What an update leaves alone is as it was.
            cell(&row.new, *place).or_else(|| cell(&row.old, *place))
        });
        let old = self.sources.iter().map(|place| cell(&row.old, *place));
        let has_old = self.has_full_identity && !row.old.is_empty();
        [
            (!row.new.is_empty()).then(|| new.collect()),
            has_old.then(|| old.collect()),
        ]
    }

    /// A row with what was computed for it; with nothing of it in place of what could not be.
    pub fn complete<'a>(&self, row: &mut Row<'a>, computed: Option<&'a Computed>) {
        let count = self.needs.len();
        let is_of = |cells: &[Cell<'_>]| !cells.is_empty();
        let cells = |answers: Option<&'a Vec<Answer>>| -> Vec<Cell<'a>> {
            let answer = |n: usize| answers.and_then(|all| all.get(n)).and_then(Option::as_ref);
            (0..count).map(|n| answer(n).map(content)).collect()
        };
        if is_of(&row.new) {
            row.new.extend(cells(computed.map(|one| &one.new)));
        }
        if is_of(&row.old) {
            row.old.extend(cells(computed.map(|one| &one.old)));
        }
    }
}

fn content(value: &Option<Box<str>>) -> Content<'_> {
    value.as_deref().map_or(Content::Null, Content::Text)
}

fn text_of<'a>(cell: Option<&Cell<'a>>) -> Option<&'a str> {
    match cell {
        Some(Some(Content::Text(text))) => Some(text),
        _ => None,
    }
}

/// The column as the stream would have it.
fn column_of(table: &TableNow, generated: &GeneratedNow) -> Option<Column> {
    let mut columns = table.columns.iter();
    let now = columns.find(|now| now.name == generated.column)?;
    Some(Column {
        is_key: false,
        name: now.name.to_string(),
        type_oid: now.type_oid,
        type_modifier: now.type_modifier,
    })
}

/// One row for each row, in their order, with the values as their types print them. Names in an expression are those of the innermost
/// query's columns: what this statement calls its own is not in the way.
fn statement_of(sources: usize, declared: &str, results: &[&str]) -> String {
    let (mut selected, mut named, mut texts, mut names) = Default::default();
    let list = |list: &mut String, n: usize, text: &str| {
        let comma = if n == 0 { "" } else { ", " };
        let _ = write!(list, "{comma}{text}");
    };
    for (n, result) in results.iter().enumerate() {
        // A row type may be null with a value; the number of arguments that are null is not deceived by it.
        let printed = format!(
            "case when pg_catalog.num_nulls(g.g{n}) = 0 then pg_catalog.format('%s', g.g{n}) end"
        );
        list(&mut selected, n, &printed);
        list(&mut named, n, &format!("{result} as g{n}"));
    }
    // What is computed from nothing needs a line all the same.
    for n in 0..sources.max(1) {
        list(&mut texts, n, &format!("pg_catalog.unnest(${})", n + 1));
        list(&mut names, n, &format!("v{n}"));
    }
    format!(
        "select {selected} from rows from ({texts}) with ordinality as v({names}, n) \
         cross join lateral (select {named} from (select {declared}) as s) as g order by v.n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::catalog::ColumnNow;
    use super::*;

    fn relation(replica_identity: u8) -> Relation {
        let column = |name: &str, type_oid| Column {
            is_key: name == "id",
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
        };
        Relation {
            id: 7,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity,
            columns: vec![column("id", 23), column("a", 23), column("big", 25)],
        }
    }

    /// `twice` of `a`, `size` of `big` and `a`.
    fn table() -> TableNow {
        let column = |name: &str, type_oid| ColumnNow {
            name: name.into(),
            number: 1,
            type_oid,
            type_modifier: -1,
            type_name: "int4".into(),
            key_place: None,
            is_deterministic: true,
        };
        let generated = |column: &str, sql: &str, sources: &[(&str, &str)]| GeneratedNow {
            column: column.into(),
            sql: sql.into(),
            sources: sources
                .iter()
                .map(|(name, sql)| ((*name).into(), (*sql).into()))
                .collect(),
        };
        TableNow {
            columns: vec![column("twice", 20), column("size", 23), column("id", 23)],
            generated: vec![
                generated("twice", "((a * 2))::bigint", &[("a", "integer")]),
                generated(
                    "size",
                    "(length(big) + a)::integer",
                    &[("a", "integer"), ("big", "text")],
                ),
            ],
            ..TableNow::default()
        }
    }

    const fn text(text: &str) -> Cell<'_> {
        Some(Content::Text(text))
    }

    #[test]
    fn what_the_stream_leaves_out_stands_behind_the_rest() {
        let computation = Computation::of(&table(), &relation(b'd')).unwrap();
        let columns = computation.relation.columns.iter();
        let columns: Vec<_> = columns
            .map(|column| (&*column.name, column.type_oid))
            .collect();
        assert_eq!(columns[3..], [("twice", 20), ("size", 23)]);
        assert_eq!(
            computation.sql,
            "select case when pg_catalog.num_nulls(g.g0) = 0 then pg_catalog.format('%s', g.g0) end, \
             case when pg_catalog.num_nulls(g.g1) = 0 then pg_catalog.format('%s', g.g1) end \
             from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) with ordinality as v(v0, v1, n) \
             cross join lateral (select ((a * 2))::bigint as g0, (length(big) + a)::integer as g1 \
             from (select v.v0::integer as \"a\", v.v1::text as \"big\") as s) as g order by v.n"
        );
        // From PostgreSQL 18 on the stream may say them.
        assert!(Computation::of(&table(), &computation.relation).is_none());
        let mut other = relation(b'd');
        other.columns.remove(1);
        assert!(Computation::of(&table(), &other).is_none(), "there is no a");
    }

    #[test]
    fn what_is_computed_from_what_nobody_says_is_not_said() {
        let full = Computation::of(&table(), &relation(b'f')).unwrap();
        let key = Computation::of(&table(), &relation(b'd')).unwrap();
        let row = Row {
            new: vec![text("1"), text("2"), None],
            old: vec![text("1"), Some(Content::Null), text("x")],
        };
        let new = vec![text("2"), text("x")];
        let old = vec![Some(Content::Null), text("x")];
        assert_eq!(full.sources_of(&row), [Some(new), Some(old)]);
        let row = Row {
            old: vec![text("1"), None, None],
            ..row
        };
        assert_eq!(key.sources_of(&row), [Some(vec![text("2"), None]), None]);
    }

    #[test]
    fn a_row_is_complete_whatever_was_computed() {
        let computation = Computation::of(&table(), &relation(b'd')).unwrap();
        let bare = Row {
            new: vec![text("1"), text("2"), None],
            old: vec![text("1"), None, None],
        };
        let computed = Computed {
            new: vec![Some(Some("4".into())), Some(None)],
            old: Vec::new(),
        };
        let mut row = bare.clone();
        computation.complete(&mut row, Some(&computed));
        assert_eq!(row.new[3..], [text("4"), Some(Content::Null)]);
        assert_eq!(row.old[3..], [None, None]);
        let mut row = bare;
        computation.complete(&mut row, None);
        assert_eq!(row.new[3..], [None, None]);
        let mut deleted = Row::default();
        computation.complete(&mut deleted, None);
        assert_eq!(deleted, Row::default());
    }
}

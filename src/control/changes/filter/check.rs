//! What PostgreSQL says to a subscription before it is accepted (spec: postgres-changes 3.3).
//!
//! What comes in: a [`Wish`], a table and a role. What goes out: [`Checked`], or what is wrong first, in the original's order and words.
//! What always holds: every cast is one of PostgreSQL's own, in a transaction that is rolled back and writes nothing; a filter that
//! is accepted has an operator (spec: checklist 12); a wish without filters asks nothing, one with filters takes two round trips, however
//! many they are (`a_check_takes_two_round_trips`); a role with an odd name takes one more. Deliberately absent: whether the table is published.

use super::super::catalog::{ColumnNow, TableNow};
use super::super::wish::{FilterText, Operator, Wish, exception_text, raised_text};
use super::ask::{all, is_of_connection};
use super::{Filter, Form, Keyword, Value, form_of, spelled_once};
use crate::control::database::statement;
use crate::limits;
use bytes::BytesMut;
use rustc_hash::FxHashMap;
use std::error::Error as StdError;
use std::rc::Rc;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Error, Row};

/// A wish that a table can fulfil.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// All of them have to let a change pass. In an order that does not depend on how they were sent, each of them once.
    pub filters: Rc<[Rc<Filter>]>,
    /// The columns that were asked for, sorted; none for all.
    pub select: Option<Rc<[Box<str>]>>,
}

/// Why a wish is not accepted.
#[derive(Debug)]
pub enum CheckError {
    /// PostgreSQL refuses it.
    Database(Box<DbError>),
    /// It is refused here, with an error that the original raises in the database.
    Raised {
        /// Its SQLSTATE; its severity is `ERROR`.
        sqlstate: &'static str,
        /// Its message.
        message: String,
    },
    /// Nothing is known of the wish: the connection is lost, or the check was canceled.
    Failed(Error),
}

impl CheckError {
    fn raised(message: String) -> Self {
        Self::Raised {
            sqlstate: "P0001",
            message,
        }
    }

    /// What the client reads behind `Exception: ` ([`Wish::exception`]); nothing where nothing is known of the wish.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Database(said) => Some(exception_text(said)),
            Self::Raised { sqlstate, message } => Some(raised_text("ERROR", sqlstate, message)),
            Self::Failed(_) => None,
        }
    }
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(said)
                if !is_of_connection(said.code()) && *said.code() != SqlState::QUERY_CANCELED =>
            {
                Self::Database(Box::new(said.clone()))
            }
            _ => Self::Failed(error),
        }
    }
}

/// Checks `wish` for `role`, which is none for a token that has no role. `table` is one that the wish matches, looked at just now, with the
/// role among those that were asked about.
///
/// # Errors
///
/// What is wrong with the wish, or that nobody can say.
pub async fn check(
    client: &Client,
    table: &TableNow,
    role: Option<&str>,
    wish: &Wish,
) -> Result<Checked, CheckError> {
    let readable = readable(table, role)?;
    let filters = filters(client, &readable, &wish.filters).await?;
    let select = select(&readable, wish.select.as_deref())?;
    let Some(role) = role else {
        return Err(CheckError::Raised {
            sqlstate: "23502",
            message: "null value in column \"claims_role\" of relation \"subscription\" violates not-null constraint"
                .to_owned(),
        });
    };
    if !is_read_as_written(role) {
        // As in the original, which keeps roles as `regrole` (spec: postgres-changes 3.4).
        let role: [(&(dyn ToSql + Sync), Type); 1] = [(&role, Type::TEXT)];
        let sql = "select $1::pg_catalog.text::pg_catalog.regrole";
        client.query_typed(sql, &role).await?;
    }
    Ok(Checked {
        filters: filters.into(),
        select,
    })
}

/// Whether `regrole` takes a name for itself: it folds case, and reads quotes, dots and spaces as SQL does.
fn is_read_as_written(role: &str) -> bool {
    !role.contains(|letter: char| {
        letter.is_uppercase() || letter.is_whitespace() || matches!(letter, '"' | '.')
    })
}

/// The columns that the role may select.
fn readable<'a>(
    table: &'a TableNow,
    role: Option<&str>,
) -> Result<FxHashMap<&'a str, &'a ColumnNow>, CheckError> {
    let Some(role) = role else {
        return Ok(FxHashMap::default());
    };
    let Some(now) = table.roles.get(role).filter(|now| now.exists) else {
        return Err(CheckError::Raised {
            sqlstate: "42704",
            message: format!("role \"{role}\" does not exist"),
        });
    };
    let columns = table.columns.iter().zip(&now.may_select);
    let columns = columns.filter(|(_, may_select)| **may_select);
    Ok(columns.map(|(column, _)| (&*column.name, column)).collect())
}

fn select(
    readable: &FxHashMap<&str, &ColumnNow>,
    select: Option<&[String]>,
) -> Result<Option<Rc<[Box<str>]>>, CheckError> {
    let Some(select) = select.filter(|select| !select.is_empty()) else {
        return Ok(None);
    };
    let is_unknown = |name: &&String| !readable.contains_key(name.as_str());
    if let Some(name) = select.iter().find(is_unknown) {
        return Err(CheckError::raised(format!(
            "invalid column for select {name}"
        )));
    }
    let mut names: Vec<Box<str>> = select.iter().map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    Ok(Some(names.into()))
}

async fn filters(
    client: &Client,
    readable: &FxHashMap<&str, &ColumnNow>,
    texts: &[FilterText],
) -> Result<Vec<Rc<Filter>>, CheckError> {
    // Only the filters before the first one that has no column are PostgreSQL's affair.
    let mut known = Vec::with_capacity(texts.len());
    let mut refusal = None;
    for text in texts {
        let Some(column) = readable.get(text.column.as_str()) else {
            let message = format!("invalid column for filter {}", text.column);
            refusal = Some(CheckError::raised(message));
            break;
        };
        known.push((text, *column));
    }
    let mut filters = Vec::with_capacity(known.len());
    if !known.is_empty() {
        let facts = facts(client, &known).await?;
        let plans = known.iter().map(|(text, column)| {
            let facts = facts
                .get(&column.type_oid)
                .ok_or_else(|| CheckError::Raised {
                    sqlstate: "XX000",
                    message: format!("cache lookup failed for type {}", column.type_oid),
                });
            facts.and_then(|facts| Plan::of(text, column, facts))
        });
        for filter in probe(client, plans.collect()).await {
            filters.push(Rc::new(filter?));
        }
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    filters.sort_unstable_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    filters.dedup();
    Ok(filters)
}

/// What the catalog says of a type.
struct Facts {
    /// As it stands in statements, whatever the search path is.
    name: String,
    /// The same of its array type; its own where it is one.
    array_name: String,
    /// As it stands in messages.
    shown: String,
    form: Option<Form>,
    is_row: bool,
    is_array: bool,
    /// Operators that have it on the left: `~~`.
    has_like: bool,
    /// On both sides: `~`, `~*`.
    has_match: bool,
    has_imatch: bool,
}

/// One row per type: a domain's base type is looked for through domains over domains. The collation is the type's own, for what is
/// compared is a value cast to the type and not the column.
const FACTS: &str = "with recursive chain(oid, base, kind) as ( \
    select t.oid, t.oid, t.typtype from pg_catalog.pg_type t where t.oid = any($1) \
    union all select c.oid, b.oid, b.typtype from chain c \
    join pg_catalog.pg_type d on d.oid = c.base and d.typtype = 'd' join pg_catalog.pg_type b on b.oid = d.typbasetype) \
    select t.oid, \
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname), \
    coalesce((select pg_catalog.quote_ident(an.nspname) || '.' || pg_catalog.quote_ident(a.typname) \
        from pg_catalog.pg_type a join pg_catalog.pg_namespace an on an.oid = a.typnamespace where a.oid = t.typarray), \
        pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname)), \
    t.oid::regtype::text, c.base, c.kind::text, \
    coalesce((select l.collisdeterministic from pg_catalog.pg_collation l where l.oid = t.typcollation), true), \
    t.typarray = 0, \
    exists (select from pg_catalog.pg_operator o where o.oprname = '~~' and o.oprleft = t.oid), \
    exists (select from pg_catalog.pg_operator o where o.oprname = '~' and o.oprleft = t.oid and o.oprright = t.oid \
        and o.oprresult = 'boolean'::regtype), \
    exists (select from pg_catalog.pg_operator o where o.oprname = '~*' and o.oprleft = t.oid and o.oprright = t.oid \
        and o.oprresult = 'boolean'::regtype) \
    from chain c join pg_catalog.pg_type t on t.oid = c.oid join pg_catalog.pg_namespace n on n.oid = t.typnamespace \
    where c.kind <> 'd'";

async fn facts(
    client: &Client,
    known: &[(&FilterText, &ColumnNow)],
) -> Result<FxHashMap<u32, Facts>, Error> {
    let mut oids: Vec<u32> = known.iter().map(|(_, column)| column.type_oid).collect();
    oids.sort_unstable();
    oids.dedup();
    let rows = client
        .query_typed(FACTS, &[(&oids, Type::OID_ARRAY)])
        .await?;
    rows.iter()
        .map(|row| {
            let kind: String = row.try_get(5)?;
            let facts = Facts {
                name: row.try_get(1)?,
                array_name: row.try_get(2)?,
                shown: row.try_get(3)?,
                form: Form::of(row.try_get(4)?, kind == "e", row.try_get(6)?),
                is_row: kind == "c",
                is_array: row.try_get(7)?,
                has_like: row.try_get(8)?,
                has_match: row.try_get(9)?,
                has_imatch: row.try_get(10)?,
            };
            Ok((row.try_get(0)?, facts))
        })
        .collect()
}

/// A filter whose value PostgreSQL has not seen.
struct Plan<'a> {
    text: &'a FilterText,
    column: &'a ColumnNow,
    facts: &'a Facts,
}

impl<'a> Plan<'a> {
    /// Refuses what the catalog alone refuses.
    fn of(
        text: &'a FilterText,
        column: &'a ColumnNow,
        facts: &'a Facts,
    ) -> Result<Self, CheckError> {
        let needs = match text.operator {
            Operator::Like => Some(("like", facts.has_like)),
            Operator::Ilike => Some(("ilike", facts.has_like)),
            Operator::Match => Some(("match", facts.has_match)),
            Operator::Imatch => Some(("imatch", facts.has_imatch)),
            _ => None,
        };
        if let Some((name, false)) = needs {
            return Err(CheckError::raised(format!(
                "operator {name} requires a text-compatible column type, got {}",
                facts.shown
            )));
        }
        if text.operator == Operator::Is {
            let Some(keyword) = Keyword::parse(&text.value) else {
                return Err(CheckError::raised(
                    "invalid value for is filter: must be null, true, false, or unknown".to_owned(),
                ));
            };
            if keyword != Keyword::Null && column.type_oid != Type::BOOL.oid() {
                return Err(CheckError::raised(format!(
                    "is {} filter requires a boolean column, got {}",
                    text.value, facts.shown
                )));
            }
        }
        Ok(Self {
            text,
            column,
            facts,
        })
    }

    /// How the values are compared here, if they are.
    fn form(&self) -> Option<Form> {
        form_of(self.text.operator, self.facts.form)
    }

    /// The operator and whether it is negated.
    fn operator(&self) -> (Operator, bool) {
        let (operator, negate) = (self.text.operator, self.text.negate);
        match self.form() {
            Some(_) => spelled_once(operator, negate),
            None => (operator, negate),
        }
    }

    /// The comparison of `left` and `right`, which are of the column's type or, on the right of `in`, of its array type.
    fn comparison(&self, left: &str, right: &str) -> String {
        let (operator, negate) = self.operator();
        let not = if negate { "not " } else { "" };
        let sign = match operator {
            Operator::Eq => "=",
            Operator::Neq => "<>",
            Operator::Lt => "<",
            Operator::Lte => "<=",
            Operator::Gt => ">",
            Operator::Gte => ">=",
            Operator::Like => "like",
            Operator::Ilike => "ilike",
            Operator::Match => "~",
            Operator::Imatch => "~*",
            Operator::In => return format!("{not}({left} = any ({right}))"),
            Operator::Is => return format!("({left} is {not}null)"),
            Operator::IsDistinct => return format!("({left} is {not}distinct from {right})"),
        };
        format!("{not}({left} {sign} {right})")
    }

    /// What is asked of values, as [`Filter::question`] says; nothing where nothing has to be asked.
    fn question(&self) -> Rc<str> {
        if self.text.operator == Operator::Is && !self.facts.is_row {
            return "".into();
        }
        let right = match self.text.operator {
            Operator::In => &self.facts.array_name,
            _ => &self.facts.name,
        };
        let left = format!("v.v::{}", self.facts.name);
        self.comparison(&left, &format!("f.f::{right}")).into()
    }

    /// Casts the value as PostgreSQL does it with a text of unknown type, and returns what it prints of it: one row of a text, and for
    /// `in` the number of elements and their texts.
    fn cast(&self) -> Option<String> {
        let (name, array_name) = (&self.facts.name, &self.facts.array_name);
        match self.text.operator {
            Operator::Is => None,
            Operator::Match | Operator::Imatch => {
                Some("select pg_catalog.format('%s', $1::text), '' ~ $1::text".to_owned())
            }
            Operator::In if self.form().is_some() => Some(format!(
                "select pg_catalog.format('%s', a), pg_catalog.cardinality(a), \
                 array(select case when e is not null then pg_catalog.format('%s', e) end from unnest(a) as u(e)) \
                 from (select $1::{array_name} as a) as s"
            )),
            Operator::In => Some(format!(
                "select pg_catalog.format('%s', a), pg_catalog.cardinality(a) from (select $1::{array_name} as a) as s"
            )),
            _ => Some(format!("select pg_catalog.format('%s', $1::{name})")),
        }
    }

    /// Compares the value with itself, where it is not certain that its type has the operator.
    fn trial(&self) -> Option<String> {
        let (name, array_name) = (&self.facts.name, &self.facts.array_name);
        if self.form().is_some() {
            return None;
        }
        let (left, right) = match self.text.operator {
            // Of these the type's operator was looked for already, and a pattern that fails does so for its own values alone.
            Operator::Is
            | Operator::Match
            | Operator::Imatch
            | Operator::Like
            | Operator::Ilike => return None,
            Operator::In if self.facts.is_array => {
                (format!("null::{name}"), format!("$1::{array_name}"))
            }
            Operator::In => (
                format!("coalesce(($1::{array_name})[1], null::{name})"),
                format!("$1::{array_name}"),
            ),
            _ => (format!("$1::{name}"), format!("$1::{name}")),
        };
        Some(format!("select {}", self.comparison(&left, &right)))
    }

    /// The filter, of what [`Self::cast`] returned.
    fn filter(&self, row: Option<&Row>) -> Result<Filter, CheckError> {
        let form = self.form();
        let value = match (self.text.operator, row) {
            (Operator::Is, _) | (_, None) => {
                Value::Keyword(Keyword::parse(&self.text.value).unwrap_or(Keyword::Null))
            }
            (Operator::In, Some(row)) => list(row, form)?,
            (_, Some(row)) => {
                let text: String = row.try_get(0)?;
                Value::One(match form {
                    None => text.into(),
                    Some(form) => form.canonical_of_filter(&text),
                })
            }
        };
        let (operator, negate) = self.operator();
        Ok(Filter {
            column: self.column.name.clone(),
            type_oid: self.column.type_oid,
            operator,
            negate,
            value,
            form,
            question: self.question(),
            shown: self.facts.form,
        })
    }
}

fn list(row: &Row, form: Option<Form>) -> Result<Value, CheckError> {
    let count: i32 = row.try_get(1)?;
    if usize::try_from(count).is_ok_and(|count| count > limits::FILTER_LIST_MAX) {
        return Err(CheckError::raised(format!(
            "too many values for `in` filter. Maximum {}",
            limits::FILTER_LIST_MAX
        )));
    }
    let Some(form) = form else {
        let text: String = row.try_get(0)?;
        return Ok(Value::Array {
            text: text.into(),
            is_empty: count == 0,
        });
    };
    let texts: Vec<Option<String>> = row.try_get(2)?;
    let has_null = texts.iter().any(Option::is_none);
    let canonical = |text: String| form.canonical_of_filter(&text);
    let mut elements: Vec<Box<str>> = texts.into_iter().flatten().map(canonical).collect();
    elements.sort_unstable();
    elements.dedup();
    Ok(Value::List {
        elements: elements.into(),
        has_null,
    })
}

/// Shows PostgreSQL the values, all at once and in one transaction: behind the first one that it refuses nothing is known, nor asked.
async fn probe(
    client: &Client,
    plans: Vec<Result<Plan<'_>, CheckError>>,
) -> Vec<Result<Filter, CheckError>> {
    let accepted = || plans.iter().take_while(|plan| plan.is_ok()).flatten();
    let mut shown = Vec::new().into_iter();
    if accepted().any(|plan| plan.text.operator != Operator::Is) {
        let begin = statement::begin(limits::FILTER_CHECK_TIMEOUT);
        let (begun, rows, _) = tokio::join!(
            biased;
            client.batch_execute(&begin),
            all(accepted().map(|plan| show(client, plan)).collect()),
            client.batch_execute("rollback"),
        );
        if let Err(error) = begun {
            return vec![Err(error.into())];
        }
        shown = rows.into_iter();
    }
    let filters = plans.into_iter().map(|plan| {
        let plan = plan?;
        let row = shown.next().unwrap_or(Ok(None));
        let row = row.map_err(|error| plan.refusal(error))?;
        plan.filter(row.as_ref())
    });
    filters.collect()
}

impl Plan<'_> {
    /// An error of [`show`].
    fn refusal(&self, error: Error) -> CheckError {
        let name = match self.text.operator {
            Operator::Match => "match",
            Operator::Imatch => "imatch",
            _ => return error.into(),
        };
        match CheckError::from(error) {
            CheckError::Database(said) => CheckError::raised(format!(
                "invalid regular expression for {name} filter: {}",
                said.message()
            )),
            other => other,
        }
    }
}

/// The cast, and the trial behind it.
async fn show(client: &Client, plan: &Plan<'_>) -> Result<Option<Row>, Error> {
    let value = Unknown(&plan.text.value);
    let ask = async |text: Option<String>| match text {
        Some(text) => {
            let rows = client
                .query_typed(&text, &[(&value, Type::UNKNOWN)])
                .await?;
            Ok::<_, Error>(rows.into_iter().next())
        }
        None => Ok(None),
    };
    let (row, tried) = tokio::join!(biased; ask(plan.cast()), ask(plan.trial()));
    let row = row?;
    tried?;
    Ok(row)
}

/// A text whose type PostgreSQL finds out, and which that type's input function reads: what a literal is.
#[derive(Debug)]
struct Unknown<'a>(&'a str);

impl ToSql for Unknown<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

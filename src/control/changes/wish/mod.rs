//! What one entry of a join's `postgres_changes` asks for, and what its client is told when it cannot have it.
//!
//! What comes in: the JSON text of an entry as the client sent it, checked by `phoenix`. What goes out: a [`Wish`], or the text for the
//! client (spec: postgres-changes 2.3, 2.4, 3.2). What always holds: any entry of any size gives the one or the other, in time that
//! grows with its length (`texts_of_any_size_are_read_once`); nothing is normalised that the original leaves as it is. Deliberately
//! absent: whether the table, its columns, and the values make sense; only the database knows.

mod condition;
mod exception;
mod grammar;

use super::change::Action;
use crate::error::{inspect, inspect_tuples};
use crate::phoenix::{elements, members, string_value};
use serde_json::{Map, Value};
use std::borrow::Cow;

pub use exception::{exception_text, raised_text};

/// One entry, understood (spec: postgres-changes 2.3, 2.4).
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct Wish {
    /// Which changes.
    pub wanted: Wanted,
    /// The schema; `*` for all.
    pub schema: String,
    /// The table; `*` for all.
    pub table: String,
    /// All of them have to let a change pass, in the order they were sent.
    pub filters: Vec<FilterText>,
    /// The columns, as sent; none for all.
    pub select: Option<Vec<String>>,
}

/// Which changes are asked for.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Wanted {
    /// All.
    All,
    /// Only these.
    Only(Action),
}

/// A filter as it was sent: nothing of it has been checked against a table.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct FilterText {
    /// The column.
    pub column: String,
    /// How values are compared.
    pub operator: Operator,
    /// What with. A list is an array literal: `{1,2}`.
    pub value: String,
    /// Whether the outcome is turned around.
    pub negate: bool,
}

/// How a filter compares. The order is that of `realtime.equality_op`, by which the filters of a subscription are sorted.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub enum Operator {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// Equal to one of a list.
    In,
    /// `LIKE`.
    Like,
    /// `ILIKE`.
    Ilike,
    /// `IS` null, true, false or unknown.
    Is,
    /// `~`.
    Match,
    /// `~*`.
    Imatch,
    /// `IS DISTINCT FROM`.
    IsDistinct,
}

impl Wish {
    /// Reads the text of one entry. Of a repeated key, the last counts.
    ///
    /// # Errors
    ///
    /// The whole text for the client. The entry is never going to be accepted.
    pub fn parse(entry: &str) -> Result<Self, String> {
        let fields = Fields::of(entry);
        let wanted = fields.event.map_or(Wanted::All, Wanted::of);
        let select = fields.select.map_or(Ok(None), selected)?;
        let text = |field: Option<&str>| match field {
            Some(raw) => string_value(raw).map(Cow::into_owned).map(Some).ok_or(()),
            None => Ok(None),
        };
        let place = (text(fields.schema), text(fields.table), fields.filter);
        let (schema, table, filter) = match place {
            (Ok(Some(schema)), Ok(Some(table)), filter) => (schema, table, filter),
            (Ok(Some(schema)), Ok(None), None) => (schema, ALL.to_owned(), None),
            (Ok(None), Ok(Some(table)), None) => (SCHEMA_DEFAULT.to_owned(), table, None),
            _ => return Err(fields.no_params(entry)),
        };
        let filters = match filter {
            Some(raw) => {
                let text = string_value(raw).ok_or_else(|| fields.no_params(entry))?;
                grammar::filters(&text)
                    .map_err(|reason| format!("Error parsing `filter` params: {reason}"))?
            }
            None => Vec::new(),
        };
        if select.is_some() && (schema == ALL || table == ALL) {
            return Err(SELECT_OF_MANY.to_owned());
        }
        Ok(Self {
            wanted,
            schema,
            table,
            filters,
            select,
        })
    }

    /// The list of parameters that the texts below embed.
    #[must_use]
    pub fn params(&self) -> String {
        let filters = self.filters.iter().map(|filter| {
            [
                Value::from(filter.column.as_str()),
                Value::from(filter.operator.as_str()),
                Value::from(filter.value.as_str()),
                Value::from(filter.negate),
            ]
        });
        format!(
            "event: {}, schema: {}, table: {}, filters: {}, select: {}",
            self.wanted.as_str(),
            self.schema,
            self.table,
            inspect_tuples(filters),
            inspect(&self.select.as_deref().map_or(Value::Null, Value::from)),
        )
    }

    /// What the client is told when no published table matches.
    #[must_use]
    pub fn not_enabled(&self) -> String {
        format!(
            "{UNABLE}Please check Realtime is enabled for the given connect parameters: [{}]",
            self.params()
        )
    }

    /// What the client is told when the database objects; `text` comes from [`exception_text`] or [`raised_text`].
    #[must_use]
    pub fn exception(&self, text: &str) -> String {
        format!(
            "{UNABLE}An exception happened so please check your connect parameters: [{}]. Exception: {text}",
            self.params()
        )
    }

    /// Whether this is about a table.
    ///
    /// Literally: the original compares with `LIKE`, so that `a_b` is about `axb` as well, which nobody asks for (spec:
    /// postgres-changes 3.2).
    #[must_use]
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        (self.schema == ALL || self.schema == schema) && (self.table == ALL || self.table == table)
    }
}

impl Wanted {
    /// What an entry's raw `event` means: anything that is no action means all.
    fn of(raw: &str) -> Self {
        if raw.len() > EVENT_BYTES_MAX {
            return Self::All;
        }
        let event = string_value(raw).map(|event| event.to_uppercase());
        match event.as_deref() {
            Some("INSERT") => Self::Only(Action::Insert),
            Some("UPDATE") => Self::Only(Action::Update),
            Some("DELETE") => Self::Only(Action::Delete),
            _ => Self::All,
        }
    }

    /// As it is written in `realtime.subscription`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => ALL,
            Self::Only(action) => action.as_str(),
        }
    }

    /// Whether a change is wanted.
    #[must_use]
    pub fn includes(self, action: Action) -> bool {
        match self {
            Self::All => true,
            Self::Only(wanted) => wanted == action,
        }
    }
}

impl Operator {
    /// All, in their order.
    pub const ALL: [Self; 13] = [
        Self::Eq,
        Self::Neq,
        Self::Lt,
        Self::Lte,
        Self::Gt,
        Self::Gte,
        Self::In,
        Self::Like,
        Self::Ilike,
        Self::Is,
        Self::Match,
        Self::Imatch,
        Self::IsDistinct,
    ];

    /// The name by which filters say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Neq => "neq",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::In => "in",
            Self::Like => "like",
            Self::Ilike => "ilike",
            Self::Is => "is",
            Self::Match => "match",
            Self::Imatch => "imatch",
            Self::IsDistinct => "isdistinct",
        }
    }

    /// The operator of a name; names are in lower case.
    fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operator| operator.as_str() == name)
    }
}

/// The raw values of the keys that mean something.
#[derive(Clone, Copy, Default)]
struct Fields<'a> {
    event: Option<&'a str>,
    schema: Option<&'a str>,
    table: Option<&'a str>,
    filter: Option<&'a str>,
    select: Option<&'a str>,
    /// Whether there is a key whose value nobody else may read.
    has_token: bool,
}

impl<'a> Fields<'a> {
    fn of(entry: &'a str) -> Self {
        let mut fields = Self::default();
        for (key, value) in members(entry) {
            match &*key {
                "event" => fields.event = Some(value),
                "schema" => fields.schema = Some(value),
                "table" => fields.table = Some(value),
                "filter" => fields.filter = Some(value),
                "select" => fields.select = Some(value),
                "user_token" | "auth_token" => fields.has_token = true,
                _ => {}
            }
        }
        fields
    }

    /// What the client is told whose entry is not about anything.
    fn no_params(&self, entry: &str) -> String {
        let entry = match self.has_token {
            true => "<redacted>".to_owned(),
            false => inspect(&term(entry, 0)),
        };
        format!(
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {entry}"
        )
    }
}

/// The columns that a raw `select` names; none for all.
fn selected(raw: &str) -> Result<Option<Vec<String>>, String> {
    match raw.as_bytes() {
        [b'[', ..] => {
            let columns: Vec<String> = elements(raw)
                .filter_map(string_value)
                .map(Cow::into_owned)
                .collect();
            Ok((!columns.is_empty()).then_some(columns))
        }
        [b'"', ..] => Err(SELECT_IS_TEXT.to_owned()),
        _ => Ok(None),
    }
}

/// A JSON text as a value to print. What lies deeper than anything that is printed is left out, since `serde_json` refuses it.
fn term(raw: &str, depth: usize) -> Value {
    match raw.as_bytes() {
        [b'{' | b'[', ..] if depth > TERM_DEPTH_MAX => Value::Null,
        [b'{', ..] => members(raw)
            .map(|(key, value)| (key.into_owned(), term(value, depth + 1)))
            .collect::<Map<_, _>>()
            .into(),
        [b'[', ..] => elements(raw)
            .map(|value| term(value, depth + 1))
            .collect::<Vec<_>>()
            .into(),
        _ => match string_value(raw) {
            Some(text) => Value::String(text.into_owned()),
            None => serde_json::from_str(raw).unwrap_or_default(),
        },
    }
}

/// Every schema, every table, every action.
const ALL: &str = "*";

/// The schema of an entry that names a table only.
const SCHEMA_DEFAULT: &str = "public";

/// Above, an `event` is no action however it is written; six letters may be escaped as `\u0049` each.
const EVENT_BYTES_MAX: usize = 64;

/// How deep values are printed: each level is an item, and `inspect` prints 50 items of one value.
const TERM_DEPTH_MAX: usize = 50;

const UNABLE: &str = "Unable to subscribe to changes with given parameters. ";

const SELECT_IS_TEXT: &str = r#"Error parsing `select` params: expected a list of column name strings, e.g. select: ["col1", "col2"]"#;

const SELECT_OF_MANY: &str = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";

#[cfg(test)]
mod tests;

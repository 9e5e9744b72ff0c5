//! What one entry of a join's `postgres_changes` asks for.

use super::change::Action;

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

/// How a filter compares.
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

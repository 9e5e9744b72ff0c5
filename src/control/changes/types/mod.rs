//! Types of a tenant's database, and their values as clients read them (spec: postgres-changes 5.5).

use std::rc::Rc;

/// A type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Type {
    /// Its `pg_type.oid`.
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: Box<str>,
    /// What it is made of.
    pub kind: Kind,
}

/// What a type is made of, as far as its values look different.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `boolean`.
    Bool,
    /// `smallint`, `integer`, `bigint`.
    Integer,
    /// `numeric`.
    Numeric,
    /// `real`.
    Real,
    /// `double precision`.
    Double,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`.
    TimestampTz,
    /// `bytea`.
    Bytea,
    /// `json`.
    Json,
    /// `jsonb`.
    Jsonb,
    /// An array.
    Array {
        /// Of what.
        element: Rc<Type>,
        /// What stands between its elements, nearly always a comma.
        delimiter: char,
    },
    /// A row type; its fields in their order, dropped ones left out.
    Composite(Vec<(Box<str>, Rc<Type>)>),
    /// A domain over this type.
    Domain(Rc<Type>),
    /// An enum.
    Enum,
    /// A type that brings a cast to `json` or `jsonb` with it: only PostgreSQL knows its values in JSON.
    CastToJson,
    /// Any other: its values are strings.
    Other,
}

//! What a tenant's database says of its tables and roles now (spec: postgres-changes 5.3).

use rustc_hash::FxHashMap;
use std::rc::Rc;

/// A table at the moment it was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableNow {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Whether row level security is on.
    pub is_rls_enabled: bool,
    /// Its live columns, in the order of their numbers.
    pub columns: Vec<ColumnNow>,
    /// What each of the roles that were asked about may do.
    pub roles: FxHashMap<Rc<str>, RoleNow>,
}

/// A column of a [`TableNow`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ColumnNow {
    /// Its name.
    pub name: Box<str>,
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// Its `pg_type.oid`.
    pub type_oid: u32,
    /// Its type's modifier; -1 for none.
    pub type_modifier: i32,
    /// Its type as clients read it: `pg_type.typname`.
    pub type_name: Box<str>,
    /// Its place in the primary key, from 0; none for a column outside of it.
    pub key_place: Option<u16>,
    /// Whether equal texts are equal bytes: false for nondeterministic collations.
    pub is_deterministic: bool,
}

/// A role and a table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RoleNow {
    /// Whether there is such a role.
    pub exists: bool,
    /// Which columns it may select, in the order of [`TableNow::columns`].
    pub may_select: Vec<bool>,
    /// Whether policies do not count for it.
    pub sees_all_rows: bool,
}

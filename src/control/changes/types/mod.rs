//! Types of a tenant's database, and their values as clients read them (spec: postgres-changes 5.5).
//!
//! What comes in: the text of a value as a replication stream has it, and its type. What goes out: the JSON that PostgreSQL's `to_jsonb`
//! makes of it, as jsonb is printed, and types from the catalog. What always holds: a text that its type does not know, because the type
//! was changed meanwhile or the text is broken, appends nothing (`what_no_type_knows_appends_nothing`); what is appended is one value in
//! JSON. Deliberately absent: NULL, whose JSON needs no type, and what a value may mean to a filter.
//!
//! Which form a type's values have, and where it comes from:
//!
//! | Types | JSON |
//! | --- | --- |
//! | `boolean`, integers, `numeric`, floats, `timestamp`, `timestamptz`, `bytea`, `json`, `jsonb` | written here, by its kind |
//! | arrays, rows, domains of what can be written here | written here, from the parts of the text |
//! | types with a cast to `json` that is a function (hstore, geometry), and whatever holds one | asked of the database: [`Converter`] |
//! | all others, enums, ranges and dates among them | the text as a string |

mod number;
mod array;
mod composite;
mod json;
mod value;
mod ask;
mod catalog;

pub use ask::{Converter, is_about_a_value};
pub use catalog::Types;
pub use value::{Fields, Kind, Type};

use std::fmt;

/// A text that is no value of its type, or that jsonb could not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text is no value of its type, or jsonb could not hold it")
    }
}

impl std::error::Error for Malformed {}

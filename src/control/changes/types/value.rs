//! A type, and its values in JSON.

use super::array::{Part, Parts};
use super::{Malformed, composite, json, number};
use crate::control::database::quote::identifier;
use crate::limits;
use crate::phoenix;
use std::rc::Rc;

/// A type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Type {
    /// Its `pg_type.oid`.
    pub oid: u32,
    /// The schema that it is in.
    pub schema: Box<str>,
    /// `pg_type.typname`: what clients read.
    pub name: Box<str>,
    /// What it is made of.
    pub kind: Kind,
    /// How many types stand around each other in it, itself included.
    nesting: u16,
    /// How many types stand in it, itself included.
    size: u32,
    /// Whether only PostgreSQL knows its values in JSON.
    needs_asking: bool,
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
    /// `int2vector`, `oidvector`: an array that is printed without braces.
    Vector(Rc<Type>),
    /// A row type.
    Composite(Fields),
    /// A domain over this type.
    Domain(Rc<Type>),
    /// An enum.
    Enum,
    /// A type that brings a cast to `json` with it: only PostgreSQL knows its values in JSON.
    CastToJson,
    /// Any other: its values are strings.
    Other,
}

/// The fields of a row type, dropped ones left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fields {
    /// Names and types, in the order of their numbers.
    fields: Box<[(Box<str>, Rc<Type>)]>,
    /// The same in jsonb's order of keys: its place among the fields, and the name as a key.
    order: Box<[(usize, Box<[u8]>)]>,
}

impl Fields {
    /// These fields, in the order of their numbers.
    #[must_use]
    pub fn new(fields: Vec<(Box<str>, Rc<Type>)>) -> Self {
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_by_key(|index| (fields[*index].0.len(), &fields[*index].0));
        let key = |index: usize| {
            let mut key = Vec::new();
            phoenix::json_string(&mut key, &fields[index].0);
            key.extend_from_slice(b": ");
            (index, key.into_boxed_slice())
        };
        Self {
            order: order.into_iter().map(key).collect(),
            fields: fields.into_boxed_slice(),
        }
    }

    /// Names and types, in the order of their numbers.
    #[must_use]
    pub fn all(&self) -> &[(Box<str>, Rc<Type>)] {
        &self.fields
    }
}

impl Type {
    /// A type of this kind. One in which too many others stand is one that the database is asked about.
    #[must_use]
    pub fn new(oid: u32, schema: &str, name: &str, kind: Kind) -> Self {
        let (schema, name) = (schema.into(), name.into());
        let parts = kind.parts();
        let nesting = 1 + parts.iter().map(|part| part.nesting).max().unwrap_or(0);
        let size = parts
            .iter()
            .fold(1, |size: u32, part| size.saturating_add(part.size));
        let (kind, nesting, size) =
            if nesting > limits::CHANGE_TYPE_NESTING_MAX || size > limits::CHANGE_TYPE_PARTS_MAX {
                (Kind::CastToJson, 1, 1)
            } else {
                (kind, nesting, size)
            };
        let needs_asking =
            matches!(kind, Kind::CastToJson) || kind.parts().iter().any(|part| part.needs_asking);
        Self {
            oid,
            schema,
            name,
            kind,
            nesting,
            size,
            needs_asking,
        }
    }

    /// Whether [`Self::write_json`] cannot write its values, so that the database has to be asked: [`super::Converter`].
    #[must_use]
    pub fn needs_asking(&self) -> bool {
        self.needs_asking
    }

    /// What it is called in SQL, whatever the search path is: `"public"."mood"`.
    #[must_use]
    pub fn sql_name(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    /// Whether `oid` is the type, or stands anywhere in it.
    pub(super) fn contains(&self, oid: u32) -> bool {
        self.oid == oid || self.kind.parts().iter().any(|part| part.contains(oid))
    }

    /// Appends the JSON of a column's value, as jsonb is printed.
    ///
    /// What PostgreSQL's `to_jsonb` makes of it, but for what the original reads values with, wal2json: there a column (not a domain, not
    /// an element of an array) has no `\x` before its bytes, and is null where it is no number.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: nothing was appended. So it is for every value of a type that [`Self::needs_asking`].
    pub fn write_json(&self, out: &mut Vec<u8>, text: &str) -> Result<(), Malformed> {
        let start = out.len();
        let written = match &self.kind {
            Kind::Numeric | Kind::Real | Kind::Double if number::is_special(text) => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            Kind::Bytea => hex_of(text).map(|hex| quote(out, hex)),
            _ => {
                let ceiling = start.saturating_add(limits::CHANGE_VALUE_JSON_BYTES_MAX);
                self.write(out, text, ceiling)
            }
        };
        written.inspect_err(|_| out.truncate(start))
    }

    /// Appends what `to_jsonb` makes of a value; `out` may become `ceiling` bytes long.
    fn write(&self, out: &mut Vec<u8>, text: &str, ceiling: usize) -> Result<(), Malformed> {
        if out.len() > ceiling {
            return Err(Malformed);
        }
        match &self.kind {
            Kind::Bool => out.extend_from_slice(match text {
                "t" => b"true",
                "f" => b"false",
                _ => return Err(Malformed),
            }),
            Kind::Numeric | Kind::Real | Kind::Double if number::is_special(text) => {
                quote(out, text)
            }
            Kind::Integer | Kind::Numeric | Kind::Real | Kind::Double => {
                number::write(out, text, ceiling)?
            }
            Kind::Timestamp | Kind::TimestampTz => {
                write_timestamp(out, text, self.kind == Kind::TimestampTz)?
            }
            Kind::Bytea => {
                out.extend_from_slice(b"\"\\\\x");
                out.extend_from_slice(hex_of(text)?.as_bytes());
                out.push(b'"');
            }
            Kind::Json => json::write(out, text, ceiling)?,
            // As it is printed it is what is wanted.
            Kind::Jsonb if !text.is_empty() => out.extend_from_slice(text.as_bytes()),
            Kind::Jsonb | Kind::CastToJson => return Err(Malformed),
            Kind::Array { element, delimiter } => {
                write_array(out, text, element, *delimiter, ceiling)?
            }
            Kind::Vector(element) => write_vector(out, text, element, ceiling)?,
            Kind::Composite(fields) => write_composite(out, text, fields, ceiling)?,
            Kind::Domain(base) => base.write(out, text, ceiling)?,
            Kind::Enum | Kind::Other => phoenix::json_string(out, text),
        }
        Ok(())
    }
}

impl Kind {
    /// The types that stand directly in it.
    fn parts(&self) -> Vec<&Type> {
        match self {
            Self::Array { element, .. } | Self::Vector(element) | Self::Domain(element) => {
                vec![element]
            }
            Self::Composite(fields) => fields.fields.iter().map(|(_, field)| &**field).collect(),
            _ => Vec::new(),
        }
    }
}

/// Appends a text that needs no escapes.
fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// The digits behind `\x`.
fn hex_of(text: &str) -> Result<&str, Malformed> {
    let hex = text.strip_prefix("\\x").ok_or(Malformed)?;
    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then_some(hex).ok_or(Malformed)
}

/// `2024-02-29 10:34:56.1+00` in ISO 8601, as far as PostgreSQL goes with that (datetime.c, `USE_XSD_DATES`): a T between date and time,
/// and minutes of every zone. Infinities and years before Christ keep their words.
fn write_timestamp(out: &mut Vec<u8>, text: &str, has_zone: bool) -> Result<(), Malformed> {
    if matches!(text, "infinity" | "-infinity") {
        quote(out, text);
        return Ok(());
    }
    let is_known = |byte: u8| byte.is_ascii_digit() || b"-+:. BC".contains(&byte);
    let (date, time) = text.split_once(' ').ok_or(Malformed)?;
    if !text.bytes().all(is_known) {
        return Err(Malformed);
    }
    let (time, era) = time.split_at(time.find(' ').unwrap_or(time.len()));
    let minutes = match time.rfind(['+', '-']) {
        Some(sign) if has_zone && !time[sign..].contains(':') => ":00",
        Some(_) if has_zone => "",
        None if !has_zone => "",
        _ => return Err(Malformed),
    };
    out.push(b'"');
    for part in [date, "T", time, minutes, era] {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
    Ok(())
}

fn write_array(
    out: &mut Vec<u8>,
    text: &str,
    element: &Type,
    delimiter: char,
    ceiling: usize,
) -> Result<(), Malformed> {
    let mut parts = Parts::new(text, delimiter)?;
    while let Some(part) = parts.next()? {
        match part {
            Part::Open => out.push(b'['),
            Part::Close => out.push(b']'),
            Part::Next => out.extend_from_slice(b", "),
            Part::Element(text) => element.write(out, &text, ceiling)?,
            Part::Null => out.extend_from_slice(b"null"),
        }
    }
    Ok(())
}

fn write_vector(
    out: &mut Vec<u8>,
    text: &str,
    element: &Type,
    ceiling: usize,
) -> Result<(), Malformed> {
    out.push(b'[');
    for (index, text) in text.split_ascii_whitespace().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        element.write(out, text, ceiling)?;
    }
    out.push(b']');
    Ok(())
}

fn write_composite(
    out: &mut Vec<u8>,
    text: &str,
    fields: &Fields,
    ceiling: usize,
) -> Result<(), Malformed> {
    let texts = composite::fields(text)?;
    // A row without fields is printed like one with a field that is NULL.
    let is_empty = fields.fields.is_empty() && texts.len() == 1 && texts[0].is_none();
    if texts.len() != fields.fields.len() && !is_empty {
        return Err(Malformed);
    }
    out.push(b'{');
    for (place, (index, key)) in fields.order.iter().enumerate() {
        if place > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(key);
        match &texts[*index] {
            Some(text) => fields.fields[*index].1.write(out, text, ceiling)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests;

//! The types of a database, read from its catalog as they are needed.
//!
//! What comes in: numbers of types. What goes out: [`Type`]s. What always holds: PostgreSQL's own types cost no query; a type is known
//! only with all that stands in it. Deliberately absent: when a type has changed; whoever hears of that says [`Types::forget`].

use super::{Fields, Kind, Type};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use tokio_postgres::types::{Kind as BuiltInKind, Type as BuiltIn};
use tokio_postgres::{Client, Error, Row};

/// The types of one database that were needed so far.
#[derive(Debug, Default)]
pub struct Types {
    known: RefCell<FxHashMap<u32, Rc<Type>>>,
}

impl Types {
    /// No types but PostgreSQL's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The type of this number; none while it is not loaded, or when there is none.
    #[must_use]
    pub fn get(&self, oid: u32) -> Option<Rc<Type>> {
        if let Some(known) = self.known.borrow().get(&oid) {
            return Some(Rc::clone(known));
        }
        let built_in = Rc::new(built_in(oid)?);
        self.known.borrow_mut().insert(oid, Rc::clone(&built_in));
        Some(built_in)
    }

    /// Reads those of these types that are not known yet, and what stands in them. One query; none when all are known.
    ///
    /// # Errors
    ///
    /// The query's. What was known stays.
    pub async fn load(&self, client: &Client, oids: &[u32]) -> Result<(), Error> {
        let missing: Vec<u32> = oids
            .iter()
            .copied()
            .filter(|oid| self.get(*oid).is_none())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows = client.query(QUERY, &[&missing]).await?;
        let rows = rows.iter().map(Entry::of).collect::<Result<Vec<_>, _>>()?;
        let rows: FxHashMap<u32, Entry> = rows.into_iter().map(|row| (row.oid, row)).collect();
        let mut made = FxHashMap::default();
        for oid in rows.keys() {
            make(*oid, &rows, &mut made);
        }
        self.known.borrow_mut().extend(made);
        Ok(())
    }

    /// Reads again all types that are not PostgreSQL's own: attributes of a row type may be added and renamed without a word in the
    /// replication stream. One query; none when there are none. Types that are loaded meanwhile stay.
    ///
    /// # Errors
    ///
    /// The query's. What was known stays.
    pub async fn refresh(&self, client: &Client) -> Result<(), Error> {
        let asked: Vec<u32> = self.known.borrow().keys().copied().collect();
        let fresh = Self::new();
        fresh.load(client, &asked).await?;
        let mut known = self.known.borrow_mut();
        for oid in &asked {
            known.remove(oid);
        }
        for (oid, read) in fresh.known.into_inner() {
            known.entry(oid).or_insert(read);
        }
        Ok(())
    }

    /// Forgets a type, and those in which it stands.
    pub fn forget(&self, oid: u32) {
        self.known
            .borrow_mut()
            .retain(|_, known| !known.contains(oid));
    }
}

/// A type that every PostgreSQL has, under the same number.
fn built_in(oid: u32) -> Option<Type> {
    let known = BuiltIn::from_oid(oid)?;
    let kind = match (&known, known.kind()) {
        (&BuiltIn::BOOL, _) => Kind::Bool,
        (&(BuiltIn::INT2 | BuiltIn::INT4 | BuiltIn::INT8), _) => Kind::Integer,
        (&BuiltIn::NUMERIC, _) => Kind::Numeric,
        (&BuiltIn::FLOAT4, _) => Kind::Real,
        (&BuiltIn::FLOAT8, _) => Kind::Double,
        (&BuiltIn::TIMESTAMP, _) => Kind::Timestamp,
        (&BuiltIn::TIMESTAMPTZ, _) => Kind::TimestampTz,
        (&BuiltIn::BYTEA, _) => Kind::Bytea,
        (&BuiltIn::JSON, _) => Kind::Json,
        (&BuiltIn::JSONB, _) => Kind::Jsonb,
        (&(BuiltIn::INT2_VECTOR | BuiltIn::OID_VECTOR), BuiltInKind::Array(element)) => {
            Kind::Vector(Rc::new(built_in(element.oid())?))
        }
        (_, BuiltInKind::Array(element)) => Kind::Array {
            element: Rc::new(built_in(element.oid())?),
            delimiter: if *element == BuiltIn::BOX { ';' } else { ',' },
        },
        _ => Kind::Other,
    };
    Some(Type::new(oid, "pg_catalog", known.name(), kind))
}

/// A row of [`QUERY`].
struct Entry {
    oid: u32,
    schema: String,
    name: String,
    type_kind: i8,
    element: u32,
    delimiter: i8,
    base: u32,
    has_cast: bool,
    field_names: Vec<String>,
    field_types: Vec<u32>,
}

impl Entry {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            type_kind: row.try_get(3)?,
            element: row.try_get(4)?,
            delimiter: row.try_get(5)?,
            base: row.try_get(6)?,
            has_cast: row.try_get(7)?,
            field_names: row.try_get(8)?,
            field_types: row.try_get(9)?,
        })
    }
}

/// Makes a type and what stands in it; none when the catalog lacks any of that.
///
/// PostgreSQL lets no type stand in itself, so this ends; `made` makes it end soon.
fn make(
    oid: u32,
    rows: &FxHashMap<u32, Entry>,
    made: &mut FxHashMap<u32, Rc<Type>>,
) -> Option<Rc<Type>> {
    if let Some(known) = made.get(&oid) {
        return Some(Rc::clone(known));
    }
    let made_now = match built_in(oid) {
        Some(built_in) => built_in,
        None => {
            let row = rows.get(&oid)?;
            let kind = kind_of(row, rows, made)?;
            Type::new(oid, &row.schema, &row.name, kind)
        }
    };
    let made_now = Rc::new(made_now);
    made.insert(oid, Rc::clone(&made_now));
    Some(made_now)
}

/// As PostgreSQL tells types apart for `to_jsonb` (jsonb.c, `jsonb_categorize_type`).
fn kind_of(
    row: &Entry,
    rows: &FxHashMap<u32, Entry>,
    made: &mut FxHashMap<u32, Rc<Type>>,
) -> Option<Kind> {
    let mut part = |oid| make(oid, rows, made);
    Some(match row.type_kind as u8 {
        b'd' => Kind::Domain(part(row.base)?),
        _ if row.element != 0 => Kind::Array {
            element: part(row.element)?,
            delimiter: char::from(row.delimiter as u8),
        },
        b'c' => {
            let fields = row.field_names.iter().zip(&row.field_types);
            let fields = fields.map(|(name, oid)| Some((name.as_str().into(), part(*oid)?)));
            Kind::Composite(Fields::new(fields.collect::<Option<_>>()?))
        }
        _ if row.has_cast => Kind::CastToJson,
        b'e' => Kind::Enum,
        _ => Kind::Other,
    })
}

/// Types by their numbers, and all that stand in them. Older versions of PostgreSQL have no `typsubscript`; there every type of variable
/// length that has elements is an array. A cast counts where `to_jsonb` looks for it: in types that are not PostgreSQL's own, to `json`
/// alone, by a function.
const QUERY: &str = "
with recursive wanted (oid) as (
    select pg_catalog.unnest($1::pg_catalog.oid[])
    union
    select part.oid from wanted join pg_catalog.pg_type t on t.oid = wanted.oid, lateral (
        select t.typelem where t.typlen = -1 and t.typelem <> 0
        union all select t.typbasetype where t.typtype = 'd'
        union all select a.atttypid from pg_catalog.pg_attribute a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) part (oid)
)
select t.oid, n.nspname::pg_catalog.text, t.typname::pg_catalog.text, t.typtype,
    case when t.typtype <> 'd' and t.typlen = -1 and coalesce(pg_catalog.to_jsonb(t) ->> 'typsubscript', 'array_subscript_handler')
        = 'array_subscript_handler' then t.typelem else 0::pg_catalog.oid end,
    coalesce(e.typdelim, ','), t.typbasetype,
    t.oid >= 16384 and exists (select from pg_catalog.pg_cast c
        where c.castsource = t.oid and c.casttarget = 'pg_catalog.json'::pg_catalog.regtype and c.castmethod = 'f'),
    array(select a.attname::pg_catalog.text from pg_catalog.pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum),
    array(select a.atttypid from pg_catalog.pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum)
from wanted join pg_catalog.pg_type t on t.oid = wanted.oid join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    left join pg_catalog.pg_type e on e.oid = t.typelem";

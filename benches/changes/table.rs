//! The table of these benchmarks: as the stream describes it, as the catalog does, and its rows as bytes of `pgoutput`.

use realtime::control::changes::catalog::{ColumnNow, RoleNow, TableNow};
use realtime::control::replication::pgoutput::{Message, Relation, decode};
use rustc_hash::FxHashMap;
use std::rc::Rc;

pub(crate) const OID: u32 = 16_385;

/// Name, `pg_type.oid`, name of the type, and a value as PostgreSQL prints it.
const COLUMNS: [(&str, u32, &str, &str); 8] = [
    ("id", 20, "int8", "4711"),
    (
        "user_id",
        2950,
        "uuid",
        "b2a1c5c4-8d5b-4a51-9a3e-0a6ae7a0e6d2",
    ),
    (
        "task",
        25,
        "text",
        "buy milk, \"bread\" and caf\u{e9} au lait",
    ),
    ("is_done", 16, "bool", "f"),
    ("room", 23, "int4", "42"),
    ("price", 1700, "numeric", "12.50"),
    (
        "meta",
        3802,
        "jsonb",
        r#"{"tags": ["home", "food"], "priority": 2}"#,
    ),
    (
        "inserted_at",
        1184,
        "timestamptz",
        "2026-11-20 10:15:30.123456+00",
    ),
];

/// The message that describes the table.
pub(crate) fn relation_message() -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(OID.to_be_bytes());
    out.extend(b"public\0todos\0d");
    out.extend((COLUMNS.len() as u16).to_be_bytes());
    for (n, (name, oid, ..)) in COLUMNS.iter().enumerate() {
        out.push(u8::from(n == 0));
        out.extend(name.as_bytes());
        out.push(0);
        out.extend(oid.to_be_bytes());
        out.extend((-1_i32).to_be_bytes());
    }
    out
}

/// An insert.
pub(crate) fn insert() -> Vec<u8> {
    let mut out = vec![b'I'];
    out.extend(OID.to_be_bytes());
    tuple(&mut out, b'N', |_| true);
    out
}

/// An update of a table whose replica identity is its key, and of a row whose key stays: the server sends the new row alone.
pub(crate) fn update() -> Vec<u8> {
    let mut out = insert();
    out[0] = b'U';
    out
}

/// A delete: the key, and nothing else.
pub(crate) fn delete() -> Vec<u8> {
    let mut out = vec![b'D'];
    out.extend(OID.to_be_bytes());
    tuple(&mut out, b'K', |n| n == 0);
    out
}

fn tuple(out: &mut Vec<u8>, kind: u8, is_sent: impl Fn(usize) -> bool) {
    out.push(kind);
    out.extend((COLUMNS.len() as u16).to_be_bytes());
    for (n, (.., value)) in COLUMNS.iter().enumerate() {
        if is_sent(n) {
            out.push(b't');
            out.extend((value.len() as u32).to_be_bytes());
            out.extend(value.as_bytes());
        } else {
            out.push(b'n');
        }
    }
}

/// The table as the stream describes it.
pub(crate) fn relation() -> Rc<Relation> {
    let message = relation_message();
    match decode(&message) {
        Ok(Message::Relation(relation)) => Rc::new(relation),
        other => unreachable!("a relation is no {other:?}"),
    }
}

/// The table as the catalog describes it: everybody may select everything, and row level security is off.
pub(crate) fn now() -> Rc<TableNow> {
    let columns = COLUMNS.iter().zip(1..);
    let columns = columns.map(|((name, type_oid, type_name, _), number)| ColumnNow {
        name: (*name).into(),
        number,
        type_oid: *type_oid,
        type_modifier: -1,
        type_name: (*type_name).into(),
        key_place: (number == 1).then_some(0),
        is_deterministic: true,
    });
    Rc::new(TableNow {
        oid: OID,
        schema: "public".into(),
        name: "todos".into(),
        columns: columns.collect(),
        roles: FxHashMap::from_iter([(Rc::from("authenticated"), role())]),
        ..TableNow::default()
    })
}

/// What a role may that may select everything.
pub(crate) fn role() -> RoleNow {
    RoleNow {
        exists: true,
        may_select: vec![true; COLUMNS.len()],
        sees_all_rows: false,
    }
}

//! A change of a row, as the stream said it.
//!
//! What comes in: messages of the replication protocol. What goes out: [`Change`]s that keep their message, and [`Row`]s that borrow
//! from it. What always holds: an old row is what the original shows as one, also where the protocol sends none: an update that
//! leaves the key alone has the key of the new row (spec: postgres-changes 5.2). Deliberately absent: what values mean.

use crate::control::replication::POSTGRES_EPOCH_US;
use crate::control::replication::pgoutput::{Message, Old, Relation, Tuple, Value, decode};
use crate::logging::UtcTime;
use bytes::Bytes;
use std::rc::Rc;

/// What happened to a row.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Action {
    /// It was inserted.
    Insert,
    /// It was changed.
    Update,
    /// It was deleted.
    Delete,
}

impl Action {
    /// As clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A change that somebody may want to hear of.
#[derive(Clone, Debug)]
pub struct Change {
    /// The table as it was then.
    pub relation: Rc<Relation>,
    /// What happened.
    pub action: Action,
    /// The number of its transaction.
    pub xid: u32,
    /// When that was committed, in microseconds since 2000.
    pub committed_at_us: i64,
    /// The message.
    pub message: Bytes,
}

/// A value of a column: none where the stream does not say it.
pub type Cell<'a> = Option<Content<'a>>;

/// What a column holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Content<'a> {
    /// NULL.
    Null,
    /// As the type prints itself.
    Text(&'a str),
}

/// The values of a change, in the order of the relation's columns.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Row<'a> {
    /// The row as it is now; empty for one that was deleted.
    pub new: Vec<Cell<'a>>,
    /// What is known of the row as it was: the columns of the replica identity. Empty for one that was inserted.
    pub old: Vec<Cell<'a>>,
}

impl Row<'_> {
    /// Numbers that JSON does not have are NULL, as in what the original reads rows from: for filters and keys as well (spec:
    /// postgres-changes 5.2). Those of domains and within arrays are not meant.
    pub fn forget_special_numbers(&mut self, relation: &Relation) {
        for (place, column) in relation.columns.iter().enumerate() {
            if ![FLOAT4, FLOAT8, NUMERIC].contains(&column.type_oid) {
                continue;
            }
            for cells in [&mut self.new, &mut self.old] {
                if let Some(Some(content)) = cells.get_mut(place)
                    && let Content::Text("NaN" | "Infinity" | "-Infinity") = content
                {
                    *content = Content::Null;
                }
            }
        }
    }
}

/// `pg_type.oid` of the types that have such numbers.
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const NUMERIC: u32 = 1700;

/// What kind of change a message is, and of which table; none for messages of another kind.
///
/// Cheap: whoever is not interested in the table need not decode the rest.
#[must_use]
pub fn peek(message: &[u8]) -> Option<(Action, u32)> {
    let (kind, rest) = message.split_first()?;
    let action = match kind {
        b'I' => Action::Insert,
        b'U' => Action::Update,
        b'D' => Action::Delete,
        _ => return None,
    };
    let relation = rest.first_chunk().copied().map(u32::from_be_bytes)?;
    Some((action, relation))
}

impl Change {
    /// The values. None for a message that is none of a row: the stream is not what it is taken for.
    #[must_use]
    pub fn row(&self) -> Option<Row<'_>> {
        let columns = &self.relation.columns;
        let is_key = |n: usize| columns.get(n).is_some_and(|column| column.is_key);
        let identity = |tuple: &Tuple<'_>| -> Vec<Cell<'_>> { Vec::with_capacity(tuple.0.len()) };
        let row = match decode(&self.message).ok()? {
            Message::Insert { new, .. } => Row {
                new: new.0.into_iter().map(cell).collect(),
                old: Vec::new(),
            },
            Message::Update { old, new, .. } => {
                let old = match old {
                    Some(old) => old_row(old, is_key),
                    None => {
                        let mut cells = identity(&new);
                        let values = new.0.iter().enumerate();
                        cells.extend(values.map(
                            |(n, value)| {
                                if is_key(n) { cell(*value) } else { None }
                            },
                        ));
                        cells
                    }
                };
                Row {
                    new: new.0.into_iter().map(cell).collect(),
                    old,
                }
            }
            Message::Delete { old, .. } => Row {
                new: Vec::new(),
                old: old_row(old, is_key),
            },
            _ => return None,
        };
        let fits = |cells: &[Cell<'_>]| cells.is_empty() || cells.len() == columns.len();
        (fits(&row.new) && fits(&row.old)).then_some(row)
    }

    /// When it was committed, as clients read it: three digits, cut off (spec: postgres-changes 5.4).
    #[must_use]
    pub fn committed_at(&self) -> String {
        let us = self.committed_at_us.saturating_add(POSTGRES_EPOCH_US);
        let time = UtcTime::from_unix_ms(u64::try_from(us.div_euclid(1000)).unwrap_or(0));
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            time.year, time.month, time.day, time.hour, time.minute, time.second, time.millisecond
        )
    }
}

fn old_row<'a>(old: Old<'a>, is_key: impl Fn(usize) -> bool) -> Vec<Cell<'a>> {
    match old {
        Old::Row(tuple) => tuple.0.into_iter().map(cell).collect(),
        // The columns that are no part of the key are sent as null.
        Old::Key(tuple) => {
            let values = tuple.0.into_iter().enumerate();
            values
                .map(|(n, value)| if is_key(n) { cell(value) } else { None })
                .collect()
        }
    }
}

fn cell(value: Value<'_>) -> Cell<'_> {
    match value {
        Value::Null => Some(Content::Null),
        // Asked for is text, in UTF-8.
        Value::Text(bytes) => std::str::from_utf8(bytes).ok().map(Content::Text),
        Value::Unchanged | Value::Binary(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::replication::pgoutput::Column;

    fn relation() -> Rc<Relation> {
        let column = |name: &str, is_key| Column {
            is_key,
            name: name.to_owned(),
            type_oid: 25,
            type_modifier: -1,
        };
        Rc::new(Relation {
            id: 7,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: b'd',
            columns: vec![column("id", true), column("v", false)],
        })
    }

    fn tuple(kind: u8, values: [Option<&str>; 2]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 2];
        for value in values {
            match value {
                None => bytes.push(b'n'),
                Some("unchanged") => bytes.push(b'u'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    fn change(kind: u8, tuples: &[Vec<u8>]) -> Change {
        let message = [&[kind, 0, 0, 0, 7][..], &tuples.concat()].concat();
        let (action, relation_id) = peek(&message).unwrap();
        assert_eq!(relation_id, 7);
        Change {
            relation: relation(),
            action,
            xid: 0,
            committed_at_us: 0,
            message: message.into(),
        }
    }

    const fn text(text: &str) -> Cell<'_> {
        Some(Content::Text(text))
    }

    #[test]
    fn an_update_that_leaves_the_key_alone_has_the_key_as_its_old_row() {
        let change = change(b'U', &[tuple(b'N', [Some("1"), Some("unchanged")])]);
        let row = change.row().unwrap();
        assert_eq!(row.new, [text("1"), None]);
        assert_eq!(row.old, [text("1"), None]);
    }

    #[test]
    fn old_rows_are_whole_or_the_key() {
        let new = tuple(b'N', [Some("2"), None]);
        let key = change(b'U', &[tuple(b'K', [Some("1"), None]), new.clone()]);
        let row = key.row().unwrap();
        assert_eq!(row.old, [text("1"), None]);
        assert_eq!(row.new, [text("2"), Some(Content::Null)]);
        let whole = change(b'U', &[tuple(b'O', [Some("1"), None]), new]);
        assert_eq!(whole.row().unwrap().old, [text("1"), Some(Content::Null)]);
        let deleted = change(b'D', &[tuple(b'K', [Some("1"), None])]);
        assert_eq!(deleted.row().unwrap().old, [text("1"), None]);
        assert!(deleted.row().unwrap().new.is_empty());
    }

    #[test]
    fn numbers_that_json_does_not_have_are_null() {
        let relation = |type_oid| Relation {
            columns: vec![Column {
                is_key: true,
                name: "n".to_owned(),
                type_oid,
                type_modifier: -1,
            }],
            ..(*relation()).clone()
        };
        let check = |type_oid, value, expected| {
            let mut row = Row {
                new: vec![text(value)],
                old: vec![text(value)],
            };
            row.forget_special_numbers(&relation(type_oid));
            assert_eq!(row.new, [expected], "{type_oid} {value}");
            assert_eq!(row.old, [expected]);
        };
        for type_oid in [FLOAT4, FLOAT8, NUMERIC] {
            for special in ["NaN", "Infinity", "-Infinity"] {
                check(type_oid, special, Some(Content::Null));
            }
            check(type_oid, "1.5", text("1.5"));
        }
        check(25, "NaN", text("NaN"));
        let mut deleted = Row::default();
        deleted.forget_special_numbers(&relation(NUMERIC));
        assert_eq!(deleted, Row::default());
    }

    #[test]
    fn a_row_of_another_shape_is_none() {
        let mut change = change(b'I', &[tuple(b'N', [Some("1"), None])]);
        assert!(change.row().is_some());
        Rc::make_mut(&mut change.relation).columns.pop();
        assert_eq!(change.row(), None);
        assert_eq!(peek(b"R\0\0\0\x07"), None);
        assert_eq!(peek(b"I\0\0"), None);
    }

    #[test]
    fn times_have_three_digits_and_are_cut_off() {
        let mut change = change(b'I', &[tuple(b'N', [Some("1"), None])]);
        let mut check = |us, expected| {
            change.committed_at_us = us;
            assert_eq!(change.committed_at(), expected);
        };
        check(0, "2000-01-01T00:00:00.000Z");
        check(1_999, "2000-01-01T00:00:00.001Z");
        check(817_232_801_354_953, "2025-11-23T17:06:41.354Z");
    }
}

//! The `data` of a change: built once per role and column list (spec: postgres-changes 5.4, 7.1).
//!
//! What comes in: a change, its table as it is now, and whose view of it is asked for. What goes out: a JSON object. What always holds: a
//! column that the role may not select, or that is no more, stands in none of it; a value is converted once, however many views there are
//! (`views_share_their_values`). Deliberately absent: who gets it.

use super::catalog::{RoleNow, TableNow};
use super::change::{Action, Cell, Change, Content, Row};
use super::types::{Type, Types};
use crate::control::replication::pgoutput::Relation;
use crate::limits;
use crate::phoenix;
use std::ops::Range;
use std::rc::Rc;

/// Why a client gets less than the row (spec: postgres-changes 5.3).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Lack {
    /// The table has no primary key.
    NoPrimaryKey,
    /// The role may not select all of its columns.
    Unauthorized,
    /// The whole change is larger than `poll_max_record_bytes`.
    TooLarge,
}

impl Lack {
    /// As clients read it in `errors`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPrimaryKey => "Error 400: Bad Request, no primary key",
            Self::Unauthorized => "Error 401: Unauthorized",
            Self::TooLarge => "Error 413: Payload Too Large",
        }
    }
}

/// A table as a stream's rows have it, beside what it is now.
#[derive(Debug)]
pub struct Shape {
    /// As it is now.
    pub table: Rc<TableNow>,
    columns: Vec<ShapeColumn>,
    /// `"schema":…,"table":…`
    names: Box<str>,
    /// What a change of this table measures at least.
    base_bytes: usize,
}

/// A column of the stream's rows.
#[derive(Debug)]
struct ShapeColumn {
    /// `"name":`
    label: Box<str>,
    /// Its place among the columns that there are now.
    now: Option<usize>,
    value_type: Option<Rc<Type>>,
    written: Written,
}

/// How a value stands in the document of which the original takes the size (spec: postgres-changes 5.2).
#[derive(Copy, Clone, Debug)]
enum Written {
    /// As it is.
    Bare,
    /// `true` or `false`.
    Bool,
    /// Without `\x`, in quotes.
    Bytea,
    /// In quotes, escaped.
    Quoted,
}

impl Written {
    fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Self::Bare,
            16 => Self::Bool,
            17 => Self::Bytea,
            _ => Self::Quoted,
        }
    }

    fn bytes(self, text: &str) -> usize {
        match self {
            Self::Bare => text.len(),
            Self::Bool if text == "t" => 4,
            Self::Bool => 5,
            Self::Bytea => text.len(),
            Self::Quoted => {
                let escapes = text.bytes().map(|byte| match byte {
                    b'"' | b'\\' | 8 | 9 | 10 | 12 | 13 => 1,
                    0..32 => 5,
                    _ => 0,
                });
                text.len() + 2 + escapes.sum::<usize>()
            }
        }
    }

    /// The same, without looking at the text: at least as much.
    fn bytes_at_most(self, text: &str) -> usize {
        6 * text.len() + 5
    }
}

/// What a role sees of a table with a list of columns.
#[derive(Debug)]
pub struct View {
    /// The columns that there are now, as a JSON array.
    columns: Box<str>,
    /// Which columns of the stream's rows are shown.
    shown: Vec<bool>,
}

/// The values of a change in JSON.
#[derive(Debug, Default)]
pub struct Values {
    text: Vec<u8>,
    new: Vec<Slot>,
    old: Vec<Slot>,
    /// The whole change is larger than allowed.
    pub is_too_large: bool,
    /// Values that are not what their types print: shown as they came.
    pub malformed: u32,
}

/// A value in JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Slot {
    /// The stream does not say it.
    Absent,
    /// NULL.
    Null,
    /// Where it stands.
    At(Range<usize>),
}

/// About what wal2json writes around a column's name, type and value (spec: cdc-performance-notes 4.7).
const AROUND_COLUMN_BYTES: usize = 60;

/// About what it writes around the columns.
const AROUND_CHANGE_BYTES: usize = 120;

impl Shape {
    /// Of a table now and rows of then.
    #[must_use]
    pub fn new(table: Rc<TableNow>, relation: &Relation, types: &Types) -> Self {
        let mut names = b"\"schema\":".to_vec();
        phoenix::json_string(&mut names, &table.schema);
        names.extend_from_slice(b",\"table\":");
        phoenix::json_string(&mut names, &table.name);
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| {
                let mut label = Vec::with_capacity(column.name.len() + 3);
                phoenix::json_string(&mut label, &column.name);
                label.push(b':');
                let is_it = |now: &super::catalog::ColumnNow| *now.name == *column.name;
                ShapeColumn {
                    label: text(label).into(),
                    now: table.columns.iter().position(is_it),
                    value_type: types.get(column.type_oid),
                    written: Written::of(column.type_oid),
                }
            })
            .collect();
        let keys = table.columns.iter().filter(|now| now.key_place.is_some());
        Self {
            names: text(names).into(),
            base_bytes: AROUND_CHANGE_BYTES + keys.count() * AROUND_COLUMN_BYTES,
            columns,
            table,
        }
    }

    /// What a role sees. `select` are the columns that are asked for beside the key; none for all.
    #[must_use]
    pub fn view(&self, role: &RoleNow, select: Option<&[Box<str>]>) -> View {
        let is_shown = |n: usize| {
            let column = &self.table.columns[n];
            let may_select = role.may_select.get(n).copied().unwrap_or(false);
            let is_asked_for = || select.is_none_or(|names| names.contains(&column.name));
            may_select && (column.key_place.is_some() || is_asked_for())
        };
        let mut columns = b"[".to_vec();
        for (n, column) in self.table.columns.iter().enumerate() {
            if is_shown(n) {
                if columns.len() > 1 {
                    columns.push(b',');
                }
                columns.extend_from_slice(b"{\"name\":");
                phoenix::json_string(&mut columns, &column.name);
                columns.extend_from_slice(b",\"type\":");
                phoenix::json_string(&mut columns, &column.type_name);
                columns.push(b'}');
            }
        }
        columns.push(b']');
        let shown = self.columns.iter();
        View {
            columns: text(columns).into(),
            shown: shown
                .map(|column| column.now.is_some_and(is_shown))
                .collect(),
        }
    }

    /// What a role lacks to be shown inserts and updates at all.
    #[must_use]
    pub fn lack_of(&self, role: &RoleNow) -> Option<Lack> {
        let mut keys = self
            .table
            .columns
            .iter()
            .zip(0..)
            .filter(|(now, _)| now.key_place.is_some());
        let (_, first) = match keys.next() {
            Some(first) => first,
            None => return Some(Lack::NoPrimaryKey),
        };
        let may = |n: usize| role.may_select.get(n).copied().unwrap_or(false);
        let may_all = may(first) && keys.all(|(_, n)| may(n));
        (!may_all).then_some(Lack::Unauthorized)
    }

    /// The values of the primary key, in its order. None where the stream does not say one of them.
    #[must_use]
    pub fn key<'a>(&self, row: &Row<'a>) -> Option<Vec<&'a str>> {
        let mut key: Vec<(u16, &str)> = Vec::new();
        for (n, column) in self.columns.iter().enumerate() {
            let now = column.now.and_then(|now| self.table.columns.get(now));
            let Some(place) = now.and_then(|now| now.key_place) else {
                continue;
            };
            let cell = row.new.get(n).copied().flatten();
            match cell.or_else(|| row.old.get(n).copied().flatten())? {
                Content::Text(text) => key.push((place, text)),
                Content::Null => return None,
            }
        }
        let keys = self
            .table
            .columns
            .iter()
            .filter(|now| now.key_place.is_some());
        if key.len() != keys.count() {
            return None;
        }
        key.sort_unstable_by_key(|(place, _)| *place);
        Some(key.into_iter().map(|(_, text)| text).collect())
    }

    /// Converts the values of a row. `asked` are those that only PostgreSQL can convert: whether it is one of the new row, its place, and
    /// its JSON.
    #[must_use]
    pub fn values(
        &self,
        row: &Row<'_>,
        asked: &[(bool, usize, Box<str>)],
        bytes_max: usize,
    ) -> Values {
        let mut values = Values::default();
        for is_new in [true, false] {
            let cells = if is_new { &row.new } else { &row.old };
            for (n, (cell, column)) in cells.iter().zip(&self.columns).enumerate() {
                let known = asked
                    .iter()
                    .find(|(new, place, _)| (*new, *place) == (is_new, n));
                let slot = values.convert(*cell, column, known.map(|(_, _, json)| &**json));
                let slots = if is_new {
                    &mut values.new
                } else {
                    &mut values.old
                };
                slots.push(slot);
            }
        }
        values.is_too_large = self.document_bytes(row, Written::bytes_at_most) > bytes_max
            && self.document_bytes(row, Written::bytes) > bytes_max;
        values
    }

    /// About how large the document is that the original has of a row.
    fn document_bytes(&self, row: &Row<'_>, bytes: impl Fn(Written, &str) -> usize) -> usize {
        let of_cells = |cells: &[Cell<'_>]| -> usize {
            let cells = cells.iter().zip(&self.columns);
            let size = |(cell, column): (&Cell<'_>, &ShapeColumn)| {
                let value = match cell {
                    None => return 0,
                    Some(Content::Null) => 4,
                    Some(Content::Text(text)) => bytes(column.written, text),
                };
                value + column.label.len() + AROUND_COLUMN_BYTES
            };
            cells.map(size).sum()
        };
        self.base_bytes + of_cells(&row.new) + of_cells(&row.old)
    }

    /// The `data` of a change.
    #[must_use]
    pub fn data(&self, change: &Change, view: &View, values: &Values) -> Box<str> {
        let mut out = Vec::with_capacity(values.text.len() + view.columns.len() + 256);
        self.begin(&mut out, change.action);
        out.extend_from_slice(b",\"commit_timestamp\":\"");
        out.extend_from_slice(change.committed_at().as_bytes());
        out.extend_from_slice(b"\",\"columns\":");
        out.extend_from_slice(view.columns.as_bytes());
        if change.action != Action::Delete {
            out.extend_from_slice(b",\"record\":");
            self.object(&mut out, values, |n| {
                view.shown[n].then(|| {
                    let old = values.old.get(n).filter(|_| !values.is_too_large);
                    match &values.new[n] {
                        Slot::Absent => old.cloned().unwrap_or(Slot::Absent),
                        slot => slot.clone(),
                    }
                })
            });
        }
        if change.action != Action::Insert {
            out.extend_from_slice(b",\"old_record\":");
            let keys_only = change.action == Action::Delete && self.table.is_rls_enabled;
            self.object(&mut out, values, |n| {
                let is_hidden = keys_only && !self.is_key(n);
                (view.shown[n] && !is_hidden).then(|| values.old[n].clone())
            });
        }
        let error = values.is_too_large.then_some(Lack::TooLarge);
        text(end(out, error)).into()
    }

    /// The `data` of a change of which a role gets to see that it happened.
    #[must_use]
    pub fn data_without_row(&self, action: Action, lack: Lack) -> Box<str> {
        let mut out = Vec::with_capacity(256);
        self.begin(&mut out, action);
        out.extend_from_slice(b",\"commit_timestamp\":null,\"columns\":[],\"record\":{}");
        if action == Action::Update {
            out.extend_from_slice(b",\"old_record\":{}");
        }
        text(end(out, Some(lack))).into()
    }

    fn begin(&self, out: &mut Vec<u8>, action: Action) {
        out.push(b'{');
        out.extend_from_slice(self.names.as_bytes());
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(action.as_str().as_bytes());
        out.push(b'"');
    }

    fn object(&self, out: &mut Vec<u8>, values: &Values, slot: impl Fn(usize) -> Option<Slot>) {
        out.push(b'{');
        let begin = out.len();
        for (n, column) in self.columns.iter().enumerate() {
            let json = match slot(n) {
                None | Some(Slot::Absent) => continue,
                Some(Slot::Null) if values.is_too_large => continue,
                Some(Slot::Null) => &b"null"[..],
                Some(Slot::At(range)) => &values.text[range],
            };
            if values.is_too_large && json.len() > limits::CHANGE_VALUE_BYTES_OF_TOO_LARGE {
                continue;
            }
            if out.len() > begin {
                out.push(b',');
            }
            out.extend_from_slice(column.label.as_bytes());
            out.extend_from_slice(json);
        }
        out.push(b'}');
    }

    /// Whether a column of the stream's rows is part of the primary key now.
    fn is_key(&self, n: usize) -> bool {
        let now = self.columns[n]
            .now
            .and_then(|now| self.table.columns.get(now));
        now.is_some_and(|now| now.key_place.is_some())
    }
}

impl Values {
    fn convert(&mut self, cell: Cell<'_>, column: &ShapeColumn, asked: Option<&str>) -> Slot {
        let content = match cell {
            None => return Slot::Absent,
            Some(Content::Null) => return Slot::Null,
            Some(Content::Text(content)) => content,
        };
        let begin = self.text.len();
        if let Some(json) = asked {
            self.text.extend_from_slice(json.as_bytes());
            return Slot::At(begin..self.text.len());
        }
        let converted = column
            .value_type
            .as_ref()
            .is_some_and(|one| one.write_json(&mut self.text, content).is_ok());
        if !converted {
            self.text.truncate(begin);
            self.malformed += 1;
            phoenix::json_string(&mut self.text, content);
        }
        Slot::At(begin..self.text.len())
    }
}

fn end(mut out: Vec<u8>, error: Option<Lack>) -> Vec<u8> {
    match error {
        None => out.extend_from_slice(b",\"errors\":null}"),
        Some(lack) => {
            out.extend_from_slice(b",\"errors\":[\"");
            out.extend_from_slice(lack.as_str().as_bytes());
            out.extend_from_slice(b"\"]}");
        }
    }
    out
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("it is made of texts")
}

#[cfg(test)]
mod tests {
    use super::super::catalog::ColumnNow;
    use super::*;
    use crate::control::replication::pgoutput::Column;
    use serde_json::{Value as Json, json};

    const INT4: u32 = 23;
    const TEXT: u32 = 25;

    /// `id` (the key), `secret` (not to be selected), `v`, and on the stream alone `gone`.
    fn table(is_rls_enabled: bool) -> Rc<TableNow> {
        let column = |number, name: &str, type_oid, type_name: &str, key_place| ColumnNow {
            name: name.into(),
            number,
            type_oid,
            type_modifier: -1,
            type_name: type_name.into(),
            key_place,
            is_deterministic: true,
        };
        Rc::new(TableNow {
            oid: 7,
            schema: "public".into(),
            name: "t".into(),
            is_rls_enabled,
            columns: vec![
                column(1, "id", INT4, "int4", Some(0)),
                column(2, "secret", TEXT, "text", None),
                column(4, "v", TEXT, "text", None),
            ],
            ..TableNow::default()
        })
    }

    fn relation() -> Relation {
        let column = |name: &str, type_oid, is_key| Column {
            is_key,
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
        };
        Relation {
            id: 7,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: b'd',
            columns: vec![
                column("id", INT4, true),
                column("secret", TEXT, false),
                column("gone", TEXT, false),
                column("v", TEXT, false),
            ],
        }
    }

    fn role(may_select: [bool; 3]) -> RoleNow {
        RoleNow {
            exists: true,
            may_select: may_select.to_vec(),
            sees_all_rows: false,
        }
    }

    const fn text(text: &str) -> Cell<'_> {
        Some(Content::Text(text))
    }

    fn row<'a>(new: &[Cell<'a>], old: &[Cell<'a>]) -> Row<'a> {
        Row {
            new: new.to_vec(),
            old: old.to_vec(),
        }
    }

    struct Case {
        action: Action,
        is_rls_enabled: bool,
        select: Option<Vec<Box<str>>>,
        bytes_max: usize,
    }

    const PLAIN: Case = Case {
        action: Action::Insert,
        is_rls_enabled: false,
        select: None,
        bytes_max: usize::MAX,
    };

    fn data(case: &Case, row: &Row<'_>) -> Json {
        let relation = Rc::new(relation());
        let shape = Shape::new(table(case.is_rls_enabled), &relation, &Types::default());
        let view = shape.view(&role([true, false, true]), case.select.as_deref());
        let change = Change {
            relation,
            action: case.action,
            xid: 1,
            committed_at_us: 0,
            message: bytes::Bytes::new(),
        };
        let values = shape.values(row, &[], case.bytes_max);
        serde_json::from_str(&shape.data(&change, &view, &values)).unwrap()
    }

    #[test]
    fn only_what_may_be_selected_and_still_is_there_is_shown() {
        let seen = data(
            &PLAIN,
            &row(&[text("1"), text("s"), text("g"), text("x\"y")], &[]),
        );
        let expected = json!({
            "schema": "public", "table": "t", "type": "INSERT",
            "commit_timestamp": "2000-01-01T00:00:00.000Z",
            "columns": [{"name": "id", "type": "int4"}, {"name": "v", "type": "text"}],
            "record": {"id": 1, "v": "x\"y"}, "errors": null,
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_selection_keeps_the_key() {
        let case = Case {
            select: Some(vec!["secret".into()]),
            ..PLAIN
        };
        let seen = data(&case, &row(&[text("1"), text("s"), None, text("x")], &[]));
        assert_eq!(seen["record"], json!({"id": 1}));
        assert_eq!(seen["columns"], json!([{"name": "id", "type": "int4"}]));
    }

    #[test]
    fn what_an_update_does_not_say_is_taken_from_the_old_row() {
        let case = Case {
            action: Action::Update,
            ..PLAIN
        };
        let old = [text("1"), text("s"), None, text("kept")];
        let seen = data(&case, &row(&[text("1"), None, None, None], &old));
        assert_eq!(seen["record"], json!({"id": 1, "v": "kept"}));
        assert_eq!(seen["old_record"], json!({"id": 1, "v": "kept"}));
        let old = [text("1"), None, None, None];
        let seen = data(&case, &row(&[text("1"), None, None, None], &old));
        assert_eq!(seen["record"], json!({"id": 1}));
    }

    #[test]
    fn of_a_deleted_row_only_the_key_is_shown_under_policies() {
        let delete = |is_rls_enabled| Case {
            action: Action::Delete,
            is_rls_enabled,
            ..PLAIN
        };
        let deleted = row(&[], &[text("1"), text("s"), None, Some(Content::Null)]);
        let seen = data(&delete(false), &deleted);
        assert_eq!(seen["old_record"], json!({"id": 1, "v": null}));
        assert_eq!(seen.get("record"), None);
        let seen = data(&delete(true), &deleted);
        assert_eq!(seen["old_record"], json!({"id": 1}));
    }

    #[test]
    fn the_size_is_that_of_the_texts_and_not_of_what_is_made_of_them() {
        let sizes = |type_oid, text: &str| {
            let written = Written::of(type_oid);
            assert!(written.bytes_at_most(text) >= written.bytes(text));
            written.bytes(text)
        };
        assert_eq!(sizes(INT4, "-12"), 3);
        assert_eq!((sizes(16, "t"), sizes(16, "f")), (4, 5));
        assert_eq!(sizes(17, "\\xab"), 4);
        assert_eq!(sizes(TEXT, ""), 2);
        assert_eq!(sizes(TEXT, "a\"\\\n\u{1}é"), 1 + 2 + 2 + 2 + 6 + 2 + 2);
        // An array of numbers is as long as its text, an array of texts as its text with quotes escaped.
        assert_eq!(sizes(1007, "{1,2,3}"), 9);
        assert_eq!(sizes(1009, "{\"a b\"}"), 11);
        let row = row(&[text("1"), text("\"\"\""), None, None], &[]);
        let shape = Shape::new(table(false), &relation(), &Types::default());
        let bytes = shape.document_bytes(&row, Written::bytes);
        assert!(!shape.values(&row, &[], bytes).is_too_large);
        assert!(shape.values(&row, &[], bytes - 1).is_too_large);
    }

    #[test]
    fn what_is_too_large_keeps_small_values() {
        let (small, large) = ("a".repeat(62), "a".repeat(63));
        let case = Case {
            bytes_max: 400,
            ..PLAIN
        };
        let seen = data(&case, &row(&[text("1"), None, None, text(&small)], &[]));
        assert_eq!(seen["errors"], Json::Null);
        let gone = "g".repeat(400);
        let seen = data(
            &case,
            &row(&[text("1"), None, text(&gone), text(&small)], &[]),
        );
        assert_eq!(seen["errors"], json!(["Error 413: Payload Too Large"]));
        assert_eq!(seen["record"], json!({"id": 1, "v": small}));
        assert_eq!(seen["columns"].as_array().map(Vec::len), Some(2));
        for value in [text(&large), Some(Content::Null)] {
            let seen = data(&case, &row(&[text("1"), None, text(&gone), value], &[]));
            assert_eq!(seen["record"], json!({"id": 1}));
        }
    }

    #[test]
    fn a_role_without_the_key_lacks_it() {
        let relation = relation();
        let shape = Shape::new(table(false), &relation, &Types::default());
        assert_eq!(shape.lack_of(&role([true, false, false])), None);
        let lack = shape.lack_of(&role([false, true, true]));
        assert_eq!(lack, Some(Lack::Unauthorized));
        let mut keyless = TableNow::clone(&table(false));
        keyless.columns[0].key_place = None;
        let shape = Shape::new(Rc::new(keyless), &relation, &Types::default());
        let lack = shape.lack_of(&role([true; 3]));
        assert_eq!(lack, Some(Lack::NoPrimaryKey));
        let seen = shape.data_without_row(Action::Update, Lack::NoPrimaryKey);
        let expected = json!({
            "schema": "public", "table": "t", "type": "UPDATE", "commit_timestamp": null,
            "columns": [], "record": {}, "old_record": {},
            "errors": ["Error 400: Bad Request, no primary key"],
        });
        assert_eq!(serde_json::from_str::<Json>(&seen).unwrap(), expected);
    }

    #[test]
    fn a_key_has_all_of_its_columns_in_their_order() {
        let mut two = TableNow::clone(&table(true));
        two.columns[2].key_place = Some(0);
        two.columns[0].key_place = Some(1);
        let shape = Shape::new(Rc::new(two), &relation(), &Types::default());
        let new = [text("1"), None, None, text("x")];
        assert_eq!(shape.key(&row(&new, &[])), Some(vec!["x", "1"]));
        let without = [text("1"), None, None, None];
        assert_eq!(shape.key(&row(&without, &[])), None);
        let old = [None, None, None, text("o")];
        assert_eq!(shape.key(&row(&without, &old)), Some(vec!["o", "1"]));
    }

    #[test]
    fn views_share_their_values() {
        let shape = Shape::new(table(false), &relation(), &Types::default());
        let known = [(true, 3, Box::from("{\"from\": \"PostgreSQL\"}"))];
        let values = shape.values(&row(&[text("x"), None, None, text("y")], &[]), &known, 1000);
        assert_eq!(values.malformed, 1, "x is no integer");
        let change = Change {
            relation: Rc::new(relation()),
            action: Action::Insert,
            xid: 1,
            committed_at_us: 0,
            message: bytes::Bytes::new(),
        };
        for (may, expected) in [
            (
                [true, true, true],
                json!({"id": "x", "v": {"from": "PostgreSQL"}}),
            ),
            ([true, true, false], json!({"id": "x"})),
        ] {
            let view = shape.view(&role(may), None);
            let data = shape.data(&change, &view, &values);
            let seen: Json = serde_json::from_str(&data).unwrap();
            assert_eq!(seen["record"], expected);
        }
    }
}

//! Where this server delivers something else than the vectors say, each with its reason.
//!
//! A vector that the original fails (`expect_error`) expects nothing until a row is added here: the failure stays with those
//! whom it concerns. A change that finds nothing to change fails the reading of the vectors.

use serde_json::Value;

use super::vector::{Outcome, Row, Vector};

/// One difference.
pub struct Ours {
    vector: &'static str,
    change: Change,
    /// Why; for the reader.
    reason: &'static str,
}

enum Change {
    /// The value at this place of this row's `data` is another.
    Data(usize, &'static str, &'static str),
    /// These receive the row.
    Receivers(usize, &'static [&'static str]),
    /// This row is delivered too, at the end: who receives it, and its `data`.
    Row(&'static [&'static str], &'static str),
    /// This row is not delivered.
    NoRow(usize),
    /// The join with these claims is refused.
    Refused(&'static str),
}

use Change::{Data, NoRow, Receivers, Refused, Row as AddRow};

const WHOLE: &str = "char(n) and bit(n) are delivered, and compared, whole: the original's cut values are wrong data";
const PGOUTPUT: &str = "pgoutput applies what the publication says, wal2json does not know it";
const ISOLATED: &str = "in the original the poll fails for everybody; here the change is delivered";
const ROLE: &str = "a token needs a role that is text and not empty";
const TYPED_KEY: &str = "rows are looked for by typed keys, so these are found";

#[rustfmt::skip]
const OURS: &[Ours] = &[
    ours("types/bit", Data(0, "/record/a", r#""1010""#), WHOLE),
    ours("filters/json-array-char-bytea", Data(0, "/record/c", r#""ab   ""#), WHOLE),
    ours("filters/json-array-char-bytea", Receivers(0, &["f00", "f02", "f04"]), WHOLE),
    ours("events/special-table-name-percent", NoRow(1), "names of tables are compared literally, not with LIKE"),
    ours("events/column-dropped-before-poll", AddRow(&["a"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"int4"},{"name":"v","type":"text"}],"record":{"id":1,"v":"x"}}"#), ISOLATED),
    ours("events/column-renamed-before-poll", AddRow(&["a"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"int4"},{"name":"v","type":"text"},{"name":"m","type":"int4"}],
            "record":{"id":1,"v":"x"}}"#), ISOLATED),
    ours("events/table-left-publication-before-poll", AddRow(&["a"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"int4"},{"name":"v","type":"text"},{"name":"n","type":"int4"}],
            "record":{"id":1,"v":"x","n":1}}"#),
        "the publication counts as it was when the row was written; the original reads it when it polls"),
    ours("publication/column-list-ignored", Data(0, "/record", r#"{"id":1}"#), PGOUTPUT),
    ours("publication/row-filter-ignored", NoRow(0), PGOUTPUT),
    ours("publication/partitioned-via-root", AddRow(&["a", "b"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"int4"},{"name":"d","type":"date"},{"name":"v","type":"text"}],
            "record":{"id":1,"d":"2024-05-05","v":"x"}}"#), PGOUTPUT),
    ours("rls/bytea-primary-key", AddRow(&["n"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"bytea"},{"name":"v","type":"text"}],"record":{"id":"deadbeef","v":"x"}}"#), TYPED_KEY),
    ours("rls/char-n-primary-key", AddRow(&["n"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"bpchar"},{"name":"v","type":"text"}],"record":{"id":"abc","v":"x"}}"#), TYPED_KEY),
    ours("types/user-defined-quoted-schema", AddRow(&["a"],
        r#"{"schema":"public","table":"t","type":"INSERT","commit_timestamp":"<timestamp>","errors":null,
            "columns":[{"name":"id","type":"int4"},{"name":"a","type":"My Enum"},{"name":"b","type":"_My Enum"}],
            "record":{"id":1,"a":"B c","b":["A"]}}"#), ISOLATED),
    ours("roles/missing-role", Refused("a"), ROLE),
    ours("roles/odd-role", Refused("b"), ROLE),
    ours("roles/null-role", Refused("a"), ROLE),
];

const fn ours(vector: &'static str, change: Change, reason: &'static str) -> Ours {
    Ours {
        vector,
        change,
        reason,
    }
}

/// Changes what is ours; `vectors` are all of them.
pub fn apply(vectors: &mut [Vector]) {
    for ours in OURS {
        assert!(!ours.reason.is_empty(), "{}: why?", ours.vector);
        let vector = vectors.iter_mut().find(|vector| vector.name == ours.vector);
        vector
            .unwrap_or_else(|| panic!("there is no vector {}", ours.vector))
            .change(&ours.change);
    }
}

impl Vector {
    fn change(&mut self, change: &Change) {
        let json = |text: &str| -> Value { serde_json::from_str(text).expect("it is JSON") };
        let own = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        match change {
            Data(row, place, value) => {
                let data = &mut self.expect[*row].data;
                let at = data
                    .pointer_mut(place)
                    .expect("there is something to change");
                assert_ne!(*at, json(value), "{}: {place} is that already", self.name);
                *at = json(value);
            }
            Receivers(row, keys) => self.expect[*row].receivers = own(keys),
            AddRow(keys, data) => self.expect.push(Row {
                receivers: own(keys),
                data: json(data),
            }),
            NoRow(row) => {
                self.expect.remove(*row);
            }
            Refused(key) => {
                let mut all = self.subscriptions.iter_mut();
                let subscription = all.find(|subscription| subscription.key == *key);
                subscription.expect("there is one of that name").outcome = Outcome::Refused;
            }
        }
    }
}

//! A row of `realtime.messages` as a broadcast (spec: broadcast-from-database 3 and 4).
//!
//! What comes in: a relation, and tuples of it in either format. What goes out: a [`Row`] that borrows from the tuple, or why there is
//! none. What always holds: columns are found by name, and what else a table has does not matter
//! (`columns_of_any_type_may_stand_beside`). Deliberately absent: limits of the tenant.

use crate::control::replication::POSTGRES_EPOCH_US;
use crate::control::replication::pgoutput::{Relation, Tuple, Value};
use crate::phoenix::Encoding;
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// The schema of the table.
const SCHEMA: &str = "realtime";

/// What the names of the table and of its partitions begin with.
const TABLE: &str = "messages";

/// Type of a column whose binary form is not its text behind a version byte.
const JSON_OID: u32 = 114;

/// Where the columns that matter stand in a relation's tuples.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    inserted_at: Option<usize>,
    event: Option<usize>,
    id: Option<usize>,
    topic: Option<usize>,
    private: Option<usize>,
    binary_payload: Option<usize>,
    payload: Option<usize>,
    /// `json` instead of `jsonb`.
    payload_is_plain: bool,
}

impl Layout {
    /// The layout of a relation; none for another table's.
    #[must_use]
    pub fn of(relation: &Relation) -> Option<Self> {
        if relation.schema != SCHEMA || !relation.name.starts_with(TABLE) {
            return None;
        }
        let columns = &relation.columns;
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        let payload = place("payload");
        Some(Self {
            inserted_at: place("inserted_at"),
            event: place("event"),
            id: place("id"),
            topic: place("topic"),
            private: place("private"),
            binary_payload: place("binary_payload"),
            payload,
            payload_is_plain: payload
                .is_some_and(|index| columns.get(index).is_some_and(|it| it.type_oid == JSON_OID)),
        })
    }

    /// What names the row. A tuple without it names none.
    #[must_use]
    pub fn key(&self, tuple: &Tuple<'_>) -> Option<Key> {
        Some(Key {
            id: uuid(value(tuple, self.id)?)?,
            inserted_at_us: timestamp(value(tuple, self.inserted_at)?)?,
        })
    }

    /// The row that a tuple holds.
    ///
    /// # Errors
    ///
    /// [`Dropped`] names the first column that is missing, in the order of spec 4.
    pub fn row<'a>(&self, tuple: &Tuple<'a>) -> Result<Row<'a>, Dropped> {
        let at = |place| value(tuple, place);
        let inserted_at_us = at(self.inserted_at)
            .and_then(timestamp)
            .ok_or(Dropped::InsertedAtMissing)?;
        let event = at(self.event).and_then(text).ok_or(Dropped::EventMissing)?;
        let id = at(self.id).and_then(uuid).ok_or(Dropped::IdMissing)?;
        let topic = at(self.topic).and_then(text).ok_or(Dropped::TopicMissing)?;
        let private = at(self.private)
            .and_then(boolean)
            .ok_or(Dropped::PrivateMissing)?;
        let binary = at(self.binary_payload).and_then(bytea);
        let json = || at(self.payload).and_then(|value| self.json(value));
        let (encoding, body) = match binary {
            Some(body) => (Encoding::Binary, body),
            None => (Encoding::Json, json().ok_or(Dropped::PayloadMissing)?),
        };
        Ok(Row {
            key: Key { id, inserted_at_us },
            event,
            topic,
            private,
            encoding,
            body,
        })
    }

    fn json<'a>(&self, value: Value<'a>) -> Option<Cow<'a, [u8]>> {
        let bytes = match value {
            Value::Text(bytes) => bytes,
            Value::Binary(bytes) if self.payload_is_plain => bytes,
            // The binary form of jsonb: a version, which is 1, and the text.
            Value::Binary([1, bytes @ ..]) => bytes,
            _ => return None,
        };
        // The connection's encoding is UTF-8, so this refuses what the protocol does not know.
        std::str::from_utf8(bytes).ok()?;
        Some(Cow::Borrowed(bytes))
    }
}

/// What names a row of `realtime.messages`: its primary key.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Key {
    /// The column `id`.
    pub id: Uuid,
    /// The column `inserted_at`, in microseconds since 1970.
    pub inserted_at_us: i64,
}

/// A row that can be broadcast.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row<'a> {
    /// Its name.
    pub key: Key,
    /// The user's event.
    pub event: &'a str,
    /// The channel's topic without `realtime:`.
    pub topic: &'a str,
    /// Whether only private channels get it; otherwise only public ones do.
    pub private: bool,
    /// What the body is.
    pub encoding: Encoding,
    /// The payload: JSON as PostgreSQL prints it, or any bytes.
    pub body: Cow<'a, [u8]>,
}

/// Why a row is not broadcast.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Dropped {
    /// `inserted_at` is null, or no time.
    InsertedAtMissing,
    /// `event` is null.
    EventMissing,
    /// `id` is null, or no UUID.
    IdMissing,
    /// `topic` is null.
    TopicMissing,
    /// `private` is null.
    PrivateMissing,
    /// Neither payload is there.
    PayloadMissing,
    /// The body is larger than the tenant may send.
    PayloadSizeExceeded,
    /// The tenant's events per second are used up.
    TooManyRequests,
    /// Topic or event are longer than a frame can name them.
    NameTooLong,
}

impl Dropped {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::InsertedAtMissing,
        Self::EventMissing,
        Self::IdMissing,
        Self::TopicMissing,
        Self::PrivateMissing,
        Self::PayloadMissing,
        Self::PayloadSizeExceeded,
        Self::TooManyRequests,
        Self::NameTooLong,
    ];

    /// Its name as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsertedAtMissing => "inserted_at_missing",
            Self::EventMissing => "event_missing",
            Self::IdMissing => "id_missing",
            Self::TopicMissing => "topic_missing",
            Self::PrivateMissing => "private_missing",
            Self::PayloadMissing => "payload_missing",
            Self::PayloadSizeExceeded => "payload_size_exceeded",
            Self::TooManyRequests => "too_many_requests",
            Self::NameTooLong => "name_too_long",
        }
    }
}

/// As the original logs it (spec: errors-and-logs 2.4).
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTooLong => f.write_str("topic or event of more than 255 bytes"),
            reason => write!(f, ":{}", reason.as_str()),
        }
    }
}

/// The value in this place, where there is one that is not null.
fn value<'a>(tuple: &Tuple<'a>, place: Option<usize>) -> Option<Value<'a>> {
    match tuple.0.get(place?)? {
        Value::Null | Value::Unchanged => None,
        there => Some(*there),
    }
}

fn text(value: Value<'_>) -> Option<&str> {
    match value {
        Value::Text(bytes) | Value::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        Value::Null | Value::Unchanged => None,
    }
}

fn boolean(value: Value<'_>) -> Option<bool> {
    match value {
        Value::Binary([byte]) => Some(*byte != 0),
        Value::Text(b"t") => Some(true),
        Value::Text(b"f") => Some(false),
        _ => None,
    }
}

fn uuid(value: Value<'_>) -> Option<Uuid> {
    match value {
        Value::Binary(bytes) => Uuid::from_slice(bytes).ok(),
        Value::Text(bytes) => Uuid::try_parse_ascii(bytes).ok(),
        Value::Null | Value::Unchanged => None,
    }
}

fn bytea(value: Value<'_>) -> Option<Cow<'_, [u8]>> {
    match value {
        Value::Binary(bytes) => Some(Cow::Borrowed(bytes)),
        Value::Text([b'\\', b'x', digits @ ..]) => {
            let (pairs, rest) = digits.as_chunks::<2>();
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let byte = |[high, low]: &[u8; 2]| {
                u8::try_from(digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?).ok()
            };
            let bytes = pairs.iter().map(byte).collect::<Option<Vec<u8>>>()?;
            rest.is_empty().then_some(Cow::Owned(bytes))
        }
        _ => None,
    }
}

/// Microseconds since 1970. The column has no zone; by convention it is UTC.
fn timestamp(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Binary(bytes) => {
            let since_2000 = i64::from_be_bytes(bytes.try_into().ok()?);
            // The ends of the range are the infinities: they stay what they are.
            Some(since_2000.saturating_add(POSTGRES_EPOCH_US))
        }
        Value::Text(bytes) => parse_timestamp(std::str::from_utf8(bytes).ok()?),
        Value::Null | Value::Unchanged => None,
    }
}

/// `2024-02-29 12:34:56.123456`, the fraction as long as it has to be: the style `ISO`.
fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    let days = days_since_1970(year, month, day)?;
    let seconds = days
        .checked_mul(86_400)?
        .checked_add(hour.checked_mul(3600)?)?
        .checked_add(minute.checked_mul(60)?)?
        .checked_add(second)?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// Days between 1970-01-01 and a date of the Gregorian calendar. None for years that no partition covers.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=200_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March: the leap day is the last one, and months before it are 153 days every five.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400;
    Some(days + (month * 153 + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::replication::pgoutput::{Column, Message, decode};
    use serde_json::Value as Json;

    fn relation(schema: &str, name: &str, columns: &[(&str, u32)]) -> Relation {
        Relation {
            id: 1,
            schema: schema.to_owned(),
            name: name.to_owned(),
            replica_identity: b'd',
            columns: columns
                .iter()
                .map(|(name, type_oid)| Column {
                    is_key: false,
                    name: (*name).to_owned(),
                    type_oid: *type_oid,
                    type_modifier: -1,
                })
                .collect(),
        }
    }

    /// What the streams of a vector lead to: a line a row.
    fn outcomes(stream: &Json) -> Vec<String> {
        let mut layout = None;
        let mut lines = Vec::new();
        for hex in stream.as_array().expect("a list") {
            let hex = format!("\\x{}", hex.as_str().expect("hexadecimal digits"));
            let bytes = bytea(Value::Text(hex.as_bytes())).expect("hexadecimal digits");
            match decode(&bytes).expect("a message") {
                Message::Relation(relation) => layout = Layout::of(&relation),
                Message::Insert { new, .. } => {
                    // Some vectors are of other tables.
                    let Some(layout) = &layout else { continue };
                    lines.push(match layout.row(&new) {
                        Ok(row) => format!(
                            "{} {} {} {} {} {:?} {:?}",
                            row.key.id,
                            row.key.inserted_at_us,
                            row.topic,
                            row.event,
                            row.private,
                            row.encoding,
                            String::from_utf8_lossy(&row.body),
                        ),
                        Err(dropped) => dropped.to_string(),
                    });
                }
                _ => {}
            }
        }
        lines
    }

    #[test]
    fn captured_streams_mean_the_same_in_both_formats() {
        let vectors = include_str!(
            "../../../tests/conformance/vectors/broadcast-from-database/pgoutput.json"
        );
        let vectors: Json = serde_json::from_str(vectors).expect("JSON");
        let mut rows = 0;
        for vector in vectors.as_array().expect("a list") {
            let name = &vector["name"];
            let binary = outcomes(&vector["stream_hex"]);
            assert_eq!(binary, outcomes(&vector["stream_hex_text_mode"]), "{name}");
            rows += binary.len();
            if name == "messages/public-and-nulls" {
                let row = r#"00000000-0000-4000-8000-000000000001 1709210096123456 room:1 ev false Json "{}""#;
                assert_eq!(binary, [row, ":event_missing"]);
            }
            if name == "messages/json-private" {
                let row = r#"00000000-0000-4000-8000-000000000001 1709210096123456 room:1 ev true Json "{\"a\": 1.50, \"id\": \"x\"}""#;
                assert_eq!(binary, [row]);
            }
        }
        assert!(rows > 3, "the vectors hold rows");
    }

    #[test]
    fn only_messages_of_schema_realtime_have_a_layout() {
        let check = |schema: &str, name: &str, expected| {
            assert_eq!(
                Layout::of(&relation(schema, name, &[])).is_some(),
                expected,
                "{schema}.{name}"
            );
        };
        check("realtime", "messages", true);
        check("realtime", "messages_2024_02_29", true);
        check("realtime", "subscription", false);
        check("public", "messages", false);
    }

    const COLUMNS: &[(&str, u32)] = &[
        ("extra", 23),
        ("payload", 3802),
        ("id", 2950),
        ("private", 16),
        ("topic", 25),
        ("event", 25),
        ("inserted_at", 1114),
        ("binary_payload", 17),
        ("more", 600),
    ];

    fn values<'a>() -> Vec<Value<'a>> {
        vec![
            Value::Binary(&[0, 0, 0, 1]),
            Value::Binary(b"\x01{\"a\": 1}"),
            Value::Binary(&[7; 16]),
            Value::Binary(&[1]),
            Value::Binary(b"room"),
            Value::Binary(b"ev"),
            Value::Binary(&[0; 8]),
            Value::Null,
            Value::Text(b"(1,2)"),
        ]
    }

    #[test]
    fn columns_of_any_type_may_stand_beside() {
        let layout = Layout::of(&relation("realtime", "messages", COLUMNS)).expect("a layout");
        let tuple = Tuple(values());
        let row = layout.row(&tuple).expect("a row");
        assert_eq!((row.topic, row.event, row.private), ("room", "ev", true));
        assert_eq!(row.key.inserted_at_us, POSTGRES_EPOCH_US);
        assert_eq!(
            (row.encoding, &*row.body),
            (Encoding::Json, b"{\"a\": 1}".as_slice())
        );
        assert_eq!(layout.key(&tuple), Some(row.key));
    }

    #[test]
    fn missing_columns_are_named_in_order() {
        let layout = Layout::of(&relation("realtime", "messages", COLUMNS)).expect("a layout");
        let check = |change: &dyn Fn(&mut Vec<Value<'static>>), expected| {
            let mut values = values();
            change(&mut values);
            assert_eq!(layout.row(&Tuple(values)), Err(expected));
        };
        check(
            &|values| values[6] = Value::Null,
            Dropped::InsertedAtMissing,
        );
        check(&|values| values[5] = Value::Null, Dropped::EventMissing);
        check(&|values| values[2] = Value::Null, Dropped::IdMissing);
        check(
            &|values| values[2] = Value::Binary(b"x"),
            Dropped::IdMissing,
        );
        check(&|values| values[4] = Value::Null, Dropped::TopicMissing);
        check(&|values| values[3] = Value::Null, Dropped::PrivateMissing);
        check(&|values| values[1] = Value::Null, Dropped::PayloadMissing);
        check(
            &|values| values[1] = Value::Binary(b"\x02{}"),
            Dropped::PayloadMissing,
        );
        check(&|values| values.truncate(6), Dropped::InsertedAtMissing);
        check(
            &|values| values[5..=6].fill(Value::Null),
            Dropped::InsertedAtMissing,
        );
    }

    #[test]
    fn bytes_go_before_json() {
        let layout = Layout::of(&relation("realtime", "messages", COLUMNS)).expect("a layout");
        let body = |value| {
            let mut values = values();
            values[7] = value;
            let tuple = Tuple(values);
            let row = layout.row(&tuple).expect("a row");
            (row.encoding, row.body.into_owned())
        };
        let expected = (Encoding::Binary, vec![0, 0xaf, 0xff]);
        assert_eq!(body(Value::Binary(&[0, 0xaf, 0xff])), expected);
        assert_eq!(body(Value::Text(b"\\x00afFF")), expected);
        // What cannot be read is none.
        assert_eq!(body(Value::Text(b"\\x00a")).0, Encoding::Json);
        assert_eq!(body(Value::Text(b"\\x0g")).0, Encoding::Json);
    }

    #[test]
    fn times_are_read_as_they_are_printed() {
        let check = |text: &str, expected| assert_eq!(parse_timestamp(text), expected, "{text}");
        check("1970-01-01 00:00:00", Some(0));
        check("1970-01-02 00:00:00.000001", Some(86_400_000_001));
        check("2000-01-01 00:00:00", Some(POSTGRES_EPOCH_US));
        check("2024-02-29 12:34:56.123456", Some(1_709_210_096_123_456));
        check("2024-03-01 00:00:00.5", Some(1_709_251_200_500_000));
        check("1969-12-31 23:59:59", Some(-1_000_000));
        check("9999-12-31 23:59:59.999999", Some(253_402_300_799_999_999));
        for text in [
            "infinity",
            "",
            "2024-02-29",
            "2024-13-01 00:00:00",
            "2024-01-01 00:00:00.1234567",
        ] {
            check(text, None);
        }
    }
}

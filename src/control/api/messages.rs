//! The batch of `POST /api/broadcast`: parameters to checked messages, or what is wrong with them (spec: http-api 5.1).
//!
//! What comes in: the parameters as JSON text, checked before. What goes out: messages whose payloads are the bytes that were
//! sent, so that numbers keep every digit. What always holds: all messages are right, or none is given out.
//! Deliberately absent: who may send, and how many.

use crate::phoenix;
use std::borrow::Cow;
use std::fmt::Write;

/// One message.
#[derive(Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// The sub topic, without `realtime:`.
    pub topic: Cow<'a, str>,
    /// The user's event.
    pub event: Cow<'a, str>,
    /// The payload, a JSON object as it was sent.
    pub payload: &'a str,
    /// Whether it is for the private topic.
    pub private: bool,
    /// Comes out as `meta.id`.
    pub id: Option<Cow<'a, str>>,
}

/// What is wrong with a field that is missing, null, or only white space.
pub const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";
/// What is wrong with a payload beyond the tenant's limit.
pub const TOO_LARGE: &str = "Payload size exceeds tenant limit";

/// The messages in `parameters`, a JSON object.
///
/// # Errors
///
/// The body of the 422 answer.
pub fn parse(parameters: &str, payload_bytes_max: usize) -> Result<Vec<Message<'_>>, String> {
    let messages = member(parameters, "messages").unwrap_or("[]");
    let elements: Vec<&str> = match messages.as_bytes().first() {
        Some(b'[') => phoenix::elements(messages).collect(),
        Some(b'{') => numbered(messages),
        _ => return Err(refusal(INVALID)),
    };
    if elements.is_empty() {
        return Err(refusal(BLANK));
    }
    if elements.iter().any(|element| !element.starts_with('{')) {
        return Err(refusal(INVALID));
    }
    let parsed: Vec<_> = elements
        .into_iter()
        .map(|element| Draft::new(element, payload_bytes_max))
        .collect();
    if parsed.iter().all(Draft::is_valid) {
        return Ok(parsed.into_iter().filter_map(Draft::finish).collect());
    }
    let mut body = String::from("{\"errors\":{\"messages\":[");
    for (index, draft) in parsed.iter().enumerate() {
        body.push_str(if index == 0 { "" } else { "," });
        draft.write_errors(&mut body);
    }
    body.push_str("]}}");
    Err(body)
}

/// The body of a 422 that is about all messages at once.
fn refusal(text: &str) -> String {
    format!("{{\"errors\":{{\"messages\":[\"{text}\"]}}}}")
}

/// The value of a key; of several the last counts.
#[must_use]
pub fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    phoenix::members(object)
        .filter(|(name, _)| name == key)
        .last()
        .map(|(_, value)| value)
}

/// The values of an object in the order of its keys, numbers first: how a form writes a list.
fn numbered(object: &str) -> Vec<&str> {
    let mut members: Vec<_> = phoenix::members(object).collect();
    members.sort_by(
        |(a, _), (b, _)| match (a.parse::<i64>(), b.parse::<i64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => std::cmp::Ordering::Less,
            (Err(_), Ok(_)) => std::cmp::Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        },
    );
    members.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            earlier.1 = later.1;
        }
        is_same
    });
    members.into_iter().map(|(_, value)| value).collect()
}

/// A field that was looked at: its value, or what is wrong with it.
type Checked<T> = Result<T, &'static str>;

/// A message before it is known whether all of it is right.
struct Draft<'a> {
    id: Checked<Option<Cow<'a, str>>>,
    private: Checked<bool>,
    event: Checked<Cow<'a, str>>,
    payload: Checked<&'a str>,
    topic: Checked<Cow<'a, str>>,
}

impl<'a> Draft<'a> {
    fn new(object: &'a str, payload_bytes_max: usize) -> Self {
        let [mut id, mut private, mut event, mut payload, mut topic] = [None; 5];
        for (key, value) in phoenix::members(object) {
            match &*key {
                "id" => id = Some(value),
                "private" => private = Some(value),
                "event" => event = Some(value),
                "payload" => payload = Some(value),
                "topic" => topic = Some(value),
                _ => {}
            }
        }
        Self {
            id: text(id),
            private: boolean(private),
            event: text(event).and_then(|event| event.ok_or(BLANK)),
            payload: object_within(payload, payload_bytes_max),
            topic: text(topic).and_then(|topic| topic.ok_or(BLANK)),
        }
    }

    fn is_valid(&self) -> bool {
        self.id.is_ok()
            && self.private.is_ok()
            && self.event.is_ok()
            && self.payload.is_ok()
            && self.topic.is_ok()
    }

    fn finish(self) -> Option<Message<'a>> {
        Some(Message {
            topic: self.topic.ok()?,
            event: self.event.ok()?,
            payload: self.payload.ok()?,
            private: self.private.ok()?,
            id: self.id.ok()?,
        })
    }

    /// `{}` where nothing is wrong: the answer is aligned with the input.
    fn write_errors(&self, out: &mut String) {
        let fields = [
            ("id", self.id.as_ref().err()),
            ("private", self.private.as_ref().err()),
            ("event", self.event.as_ref().err()),
            ("payload", self.payload.as_ref().err()),
            ("topic", self.topic.as_ref().err()),
        ];
        out.push('{');
        let errors = fields
            .into_iter()
            .filter_map(|(name, error)| error.map(|error| (name, error)));
        for (index, (name, error)) in errors.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}\"{name}\":[\"{error}\"]").expect("a String takes everything");
        }
        out.push('}');
    }
}

/// A text; nothing where it is missing, null or only white space.
fn text(raw: Option<&str>) -> Checked<Option<Cow<'_, str>>> {
    match raw {
        None | Some("null") => Ok(None),
        Some(raw) => match phoenix::string_value(raw) {
            Some(text) if text.trim().is_empty() => Ok(None),
            Some(text) => Ok(Some(text)),
            None => Err(INVALID),
        },
    }
}

/// A boolean in one of the forms that forms and JSON have for it.
fn boolean(raw: Option<&str>) -> Checked<bool> {
    match raw {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        raw => match text(raw)?.as_deref() {
            Some("true" | "1") => Ok(true),
            None | Some("false" | "0") => Ok(false),
            Some(_) => Err(INVALID),
        },
    }
}

fn object_within(raw: Option<&str>, payload_bytes_max: usize) -> Checked<&str> {
    match raw {
        None | Some("null") => Err(BLANK),
        Some(raw) if raw.starts_with('{') => {
            if is_within(raw, payload_bytes_max) {
                Ok(raw)
            } else {
                Err(TOO_LARGE)
            }
        }
        Some(raw) => match text(Some(raw))? {
            None => Err(BLANK),
            Some(_) => Err(INVALID),
        },
    }
}

/// Whether a payload of checked JSON keeps to the tenant's limit (spec: websocket-protocol 9.4).
#[must_use]
pub fn is_within(json: &str, payload_bytes_max: usize) -> bool {
    phoenix::term_size_at_most(json.len()) <= payload_bytes_max
        || phoenix::json_term_size(json) <= payload_bytes_max
}

impl Message<'_> {
    /// The payload of the event `broadcast` that members receive (spec: websocket-protocol 6.3).
    #[must_use]
    pub fn broadcast_payload(&self) -> String {
        let mut out = Vec::with_capacity(self.payload.len() + self.event.len() + 64);
        out.extend_from_slice(b"{\"event\":");
        phoenix::json_string(&mut out, &self.event);
        if let Some(id) = &self.id {
            out.extend_from_slice(b",\"meta\":{\"id\":");
            phoenix::json_string(&mut out, id);
            out.push(b'}');
        }
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(self.payload.as_bytes());
        out.extend_from_slice(b",\"type\":\"broadcast\"}");
        String::from_utf8(out).expect("all parts are text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1_500;

    /// Every row of the table of http-api 5.1, and every 422 of the recording `http_broadcast`.
    #[test]
    fn every_mistake_has_its_body() {
        let check = |parameters: &str, messages: &str| {
            assert_eq!(
                parse(parameters, LIMIT).map(|_| ()).unwrap_err(),
                format!("{{\"errors\":{{\"messages\":{messages}}}}}"),
                "{parameters}"
            );
        };
        check("{}", r#"["can't be blank"]"#);
        check(r#"{"_json":[]}"#, r#"["can't be blank"]"#);
        check(r#"{"messages":[]}"#, r#"["can't be blank"]"#);
        check(r#"{"messages":{}}"#, r#"["can't be blank"]"#);
        check(r#"{"messages":null}"#, r#"["is invalid"]"#);
        check(r#"{"messages":"x"}"#, r#"["is invalid"]"#);
        check(r#"{"messages":5}"#, r#"["is invalid"]"#);
        check(r#"{"messages":["x",5]}"#, r#"["is invalid"]"#);
        check(
            r#"{"messages":[{"topic":"t","event":"e","payload":{}},5]}"#,
            r#"["is invalid"]"#,
        );
        check(
            r#"{"messages":[{}]}"#,
            r#"[{"event":["can't be blank"],"payload":["can't be blank"],"topic":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"event":"e","payload":{"a":1}}]}"#,
            r#"[{"topic":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","payload":{"a":1}}]}"#,
            r#"[{"event":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e"}]}"#,
            r#"[{"payload":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"","event":"e","payload":{}}]}"#,
            r#"[{"topic":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":null,"event":" ","payload":{}}]}"#,
            r#"[{"event":["can't be blank"],"topic":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":5,"event":{},"payload":"str","private":"x"}]}"#,
            r#"[{"private":["is invalid"],"event":["is invalid"],"payload":["is invalid"],"topic":["is invalid"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e","payload":[1]}]}"#,
            r#"[{"payload":["is invalid"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e","payload":7}]}"#,
            r#"[{"payload":["is invalid"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e","payload":null}]}"#,
            r#"[{"payload":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e","payload":{},"private":1}]}"#,
            r#"[{"private":["is invalid"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e","payload":{},"id":1}]}"#,
            r#"[{"id":["is invalid"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"hb","event":"e","payload":{"a":1}},{}]}"#,
            r#"[{},{"event":["can't be blank"],"payload":["can't be blank"],"topic":["can't be blank"]}]"#,
        );
        check(
            r#"{"messages":[{"topic":"t"},{"payload":{}},{"topic":"t","event":"e","payload":{}}]}"#,
            r#"[{"event":["can't be blank"],"payload":["can't be blank"]},{"event":["can't be blank"],"topic":["can't be blank"]},{}]"#,
        );
    }

    #[test]
    fn payload_at_the_limit_passes_and_one_byte_more_does_not() {
        // Version 1, map 5, key 5 + 1, value 5 + n (spec: websocket-protocol 9.4).
        let batch = |bytes: usize| {
            format!(
                r#"{{"messages":[{{"topic":"t","event":"e","payload":{{"k":"{}"}}}}]}}"#,
                "x".repeat(bytes)
            )
        };
        assert!(parse(&batch(LIMIT - 17), LIMIT).is_ok());
        assert_eq!(
            parse(&batch(LIMIT - 16), LIMIT).unwrap_err(),
            r#"{"errors":{"messages":[{"payload":["Payload size exceeds tenant limit"]}]}}"#
        );
    }

    #[test]
    fn right_messages_come_out_as_sent() {
        let check = |message: &str, topic: &str, private: bool, broadcast: &str| {
            let parameters = format!(r#"{{"other":1,"messages":[{message}]}}"#);
            let messages = parse(&parameters, LIMIT).unwrap();
            assert_eq!(
                (&*messages[0].topic, messages[0].private),
                (topic, private),
                "{message}"
            );
            assert_eq!(messages[0].broadcast_payload(), broadcast, "{message}");
        };
        check(
            r#"{"topic":"hb","event":"e","payload":{"a":1.00, "big":123456789012345678901}}"#,
            "hb",
            false,
            r#"{"event":"e","payload":{"a":1.00, "big":123456789012345678901},"type":"broadcast"}"#,
        );
        check(
            r#"{"topic":"hb","event":"e","payload":{"a":1},"id":"abc"}"#,
            "hb",
            false,
            r#"{"event":"e","meta":{"id":"abc"},"payload":{"a":1},"type":"broadcast"}"#,
        );
        check(
            r#"{"topic":"a","topic":"h\u0062","event":"\"e\n","payload":{},"private":"true","extra":1,"id":""}"#,
            "hb",
            true,
            r#"{"event":"\"e\n","payload":{},"type":"broadcast"}"#,
        );
        check(
            r#"{"topic":"t","event":"e","payload":{},"private":null}"#,
            "t",
            false,
            r#"{"event":"e","payload":{},"type":"broadcast"}"#,
        );
        check(
            r#"{"topic":"t","event":"e","payload":{},"private":"0"}"#,
            "t",
            false,
            r#"{"event":"e","payload":{},"type":"broadcast"}"#,
        );
    }

    #[test]
    fn objects_with_numbers_are_lists_as_forms_write_them() {
        let message = |topic: &str| format!(r#"{{"topic":"{topic}","event":"e","payload":{{}}}}"#);
        let parameters = format!(
            r#"{{"messages":{{"10":{},"x":{},"9":{},"x":{}}}}}"#,
            message("b"),
            message("c"),
            message("a"),
            message("d")
        );
        let topics: Vec<_> = parse(&parameters, LIMIT)
            .unwrap()
            .into_iter()
            .map(|message| message.topic)
            .collect();
        assert_eq!(topics, ["a", "b", "d"]);
    }
}

//! Text frames: arrays in 2.0.0, objects in 1.0.0 (websocket-protocol sections 3.1 and 3.2).

use super::escape::escape;
use super::message::{DecodeError, Field, Message, Payload, RawJson, Vsn};
use super::scan::{Reason, Scanner, Value};
use crate::websocket::{Opcode, encode_header};

/// Decodes the payload of a text frame.
///
/// # Errors
///
/// [`DecodeError::Malformed`] for what is not JSON or lacks a field, [`DecodeError::Unknown`] for a value other than an object
/// in 1.0.0. The frame is to be dropped.
pub fn decode_text(vsn: Vsn, bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let text =
        simdutf8::basic::from_utf8(bytes).map_err(|_| DecodeError::Malformed("not UTF-8"))?;
    match vsn {
        Vsn::V1 => decode_object(text),
        Vsn::V2 => decode_array(text),
    }
}

/// `[join_ref, ref, topic, event, payload]`; further elements are ignored.
fn decode_array(text: &str) -> Result<Message<'_>, DecodeError> {
    let mut scanner = Scanner::new(text);
    let mut next = |before, missing| match scanner.eat(before) {
        true => scanner.value().map_err(DecodeError::Malformed),
        false => Err(DecodeError::Malformed(missing)),
    };
    let message = Message {
        join_ref: RawJson::sent(next(b'[', "not an array")?.raw),
        msg_ref: RawJson::sent(next(b',', TOO_FEW)?.raw),
        topic: Field::sent(next(b',', TOO_FEW)?),
        event: Field::sent(next(b',', TOO_FEW)?),
        payload: Payload::Json(next(b',', TOO_FEW)?.raw),
    };
    end_array(&mut scanner).map_err(DecodeError::Malformed)?;
    Ok(message)
}

const TOO_FEW: &str = "fewer than five elements";

fn end_array(scanner: &mut Scanner<'_>) -> Result<(), Reason> {
    while scanner.eat(b',') {
        scanner.value()?;
    }
    if !scanner.eat(b']') {
        return Err("the array does not end");
    }
    scanner.end()
}

/// An object with `topic`, `event`, `payload`, `ref` and perhaps `join_ref`, in any order; of a repeated key, the last counts.
fn decode_object(text: &str) -> Result<Message<'_>, DecodeError> {
    let mut scanner = Scanner::new(text);
    if !scanner.eat(b'{') {
        let is_json = scanner.value().and_then(|_| scanner.end());
        is_json.map_err(DecodeError::Malformed)?;
        return Err(DecodeError::Unknown("not an object"));
    }
    let fields = decode_members(&mut scanner).map_err(DecodeError::Malformed)?;
    let needed =
        |field: Option<_>| field.ok_or(DecodeError::Malformed("a required key is missing"));
    Ok(Message {
        join_ref: RawJson::sent(fields.join_ref.map_or("null", |value| value.raw)),
        msg_ref: RawJson::sent(needed(fields.msg_ref)?.raw),
        topic: Field::sent(needed(fields.topic)?),
        event: Field::sent(needed(fields.event)?),
        payload: Payload::Json(needed(fields.payload)?.raw),
    })
}

#[derive(Default)]
struct Fields<'a> {
    join_ref: Option<Value<'a>>,
    msg_ref: Option<Value<'a>>,
    topic: Option<Value<'a>>,
    event: Option<Value<'a>>,
    payload: Option<Value<'a>>,
}

fn decode_members<'a>(scanner: &mut Scanner<'a>) -> Result<Fields<'a>, Reason> {
    let mut fields = Fields::default();
    let mut more = !scanner.eat(b'}');
    while more {
        let (key, value) = scanner.member()?;
        let field = match &*key {
            "topic" => Some(&mut fields.topic),
            "event" => Some(&mut fields.event),
            "payload" => Some(&mut fields.payload),
            "ref" => Some(&mut fields.msg_ref),
            "join_ref" => Some(&mut fields.join_ref),
            _ => None,
        };
        if let Some(field) = field {
            *field = Some(value);
        }
        more = scanner.eat(b',');
        if !more && !scanner.eat(b'}') {
            return Err("the object does not end");
        }
    }
    scanner.end()?;
    Ok(fields)
}

/// Appends a `phx_reply` as a whole text frame.
///
/// `join_ref`, `msg_ref`, `topic_json` and `response_json` are JSON texts; `status` needs no escape. 1.0.0 carries no `join_ref`.
pub fn encode_reply(
    out: &mut Vec<u8>,
    vsn: Vsn,
    join_ref: &str,
    msg_ref: &str,
    topic_json: &str,
    status: &str,
    response_json: &str,
) {
    match vsn {
        Vsn::V1 => text_frame(
            out,
            [
                "{\"topic\":",
                topic_json,
                ",\"event\":\"phx_reply\",\"payload\":{\"status\":\"",
                status,
                "\",\"response\":",
                response_json,
                "},\"ref\":",
                msg_ref,
                "}",
            ],
        ),
        Vsn::V2 => text_frame(
            out,
            [
                "[",
                join_ref,
                ",",
                msg_ref,
                ",",
                topic_json,
                ",\"phx_reply\",{\"status\":\"",
                status,
                "\",\"response\":",
                response_json,
                "}]",
            ],
        ),
    }
}

/// Appends any other message of the server as a whole text frame.
///
/// `join_ref`, `msg_ref`, `topic_json` and `payload_json` are JSON texts; `event` is plain. 1.0.0 carries no `join_ref`.
pub fn encode_push(
    out: &mut Vec<u8>,
    vsn: Vsn,
    join_ref: &str,
    msg_ref: &str,
    topic_json: &str,
    event: &str,
    payload_json: &str,
) {
    let event = escape(event);
    let ([a, b, c, d, e, f, g, h, i], [x, y, z]) =
        around_push(vsn, join_ref, msg_ref, topic_json, &event);
    text_frame(out, [a, b, c, d, e, f, g, h, i, payload_json, x, y, z]);
}

/// Appends the frame of [`encode_push`] up to its payload, which has `payload_bytes` and is sent from elsewhere. Returns what has to
/// come behind the payload.
#[must_use]
pub fn encode_push_around(
    out: &mut Vec<u8>,
    vsn: Vsn,
    join_ref: &str,
    msg_ref: &str,
    topic_json: &str,
    event: &str,
    payload_bytes: usize,
) -> String {
    let event = escape(event);
    let (before, behind) = around_push(vsn, join_ref, msg_ref, topic_json, &event);
    let text_bytes = before.iter().chain(&behind).map(|part| part.len());
    let whole_bytes = text_bytes.fold(payload_bytes, usize::saturating_add);
    encode_header(out, Opcode::Text, whole_bytes);
    for part in before {
        out.extend_from_slice(part.as_bytes());
    }
    behind.concat()
}

/// What stands before and behind the payload of a push; `event` is escaped.
fn around_push<'a>(
    vsn: Vsn,
    join_ref: &'a str,
    msg_ref: &'a str,
    topic_json: &'a str,
    event: &'a str,
) -> ([&'a str; 9], [&'a str; 3]) {
    match vsn {
        Vsn::V1 => (
            [
                "{\"topic\":",
                topic_json,
                ",\"event\":\"",
                event,
                "\",\"payload\":",
                "",
                "",
                "",
                "",
            ],
            [",\"ref\":", msg_ref, "}"],
        ),
        Vsn::V2 => (
            [
                "[", join_ref, ",", msg_ref, ",", topic_json, ",\"", event, "\",",
            ],
            ["]", "", ""],
        ),
    }
}

/// Appends a row change as a whole text frame (spec: postgres-changes 7).
///
/// With `ids`, a JSON array, as the payload of `postgres_changes`; without, the way of old: `event` is what happened and `data` the
/// payload. `topic_json` and `data_json` are JSON texts; `event` needs no escape.
pub fn encode_change(
    out: &mut Vec<u8>,
    vsn: Vsn,
    topic_json: &str,
    event: &str,
    ids: Option<&str>,
    data_json: &str,
) {
    let [event, open, ids, between, close] = match ids {
        Some(ids) => ["postgres_changes", "{\"ids\":", ids, ",\"data\":", "}"],
        None => [event, "", "", "", ""],
    };
    match vsn {
        Vsn::V1 => text_frame(
            out,
            [
                "{\"topic\":",
                topic_json,
                ",\"event\":\"",
                event,
                "\",\"payload\":",
                open,
                ids,
                between,
                data_json,
                close,
                ",\"ref\":null}",
            ],
        ),
        Vsn::V2 => text_frame(
            out,
            [
                "[null,null,",
                topic_json,
                ",\"",
                event,
                "\",",
                open,
                ids,
                between,
                data_json,
                close,
                "]",
            ],
        ),
    }
}

/// Appends a text frame of `parts`, with room made once.
fn text_frame<const N: usize>(out: &mut Vec<u8>, parts: [&str; N]) {
    frame(out, Opcode::Text, parts.map(str::as_bytes));
}

/// Appends a frame of `parts`, with room made once.
pub(super) fn frame<const N: usize>(out: &mut Vec<u8>, opcode: Opcode, parts: [&[u8]; N]) {
    const HEADER_BYTES_MAX: usize = 10;
    let payload_bytes = parts
        .iter()
        .fold(0, |sum: usize, part| sum.saturating_add(part.len()));
    out.reserve(payload_bytes.saturating_add(HEADER_BYTES_MAX));
    encode_header(out, opcode, payload_bytes);
    for part in parts {
        out.extend_from_slice(part);
    }
}

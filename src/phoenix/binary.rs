//! Binary frames of 2.0.0, kinds 0 to 4 (websocket-protocol section 3.3).
//!
//! All lengths are one byte, so topics, events and metadata of more than 255 bytes cannot be framed. Kind 1 and the server's
//! kind 0 are never sent: no client can read them, and replies are text.

use std::borrow::Cow;
use std::fmt;

use super::escape::escape;
use super::json::{decode_text, frame};
use super::message::{DecodeError, Encoding, Field, Message, Payload, RawJson, Topic, Vsn};
use super::scan::{is_json, is_json_unread};
use crate::websocket::Opcode;

const KIND_PUSH: u8 = 0;
const KIND_BROADCAST: u8 = 2;
const KIND_USER_BROADCAST_PUSH: u8 = 3;
const KIND_USER_BROADCAST: u8 = 4;

/// Decodes the payload of a binary frame. From a 1.0.0 client it is read as JSON text.
///
/// # Errors
///
/// [`DecodeError::Malformed`] for metadata or a JSON payload that is not JSON, [`DecodeError::Unknown`] for any other kind, a
/// frame that is cut short, and names that are not UTF-8. The frame is to be dropped.
pub fn decode_binary(vsn: Vsn, bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    match (vsn, bytes) {
        (Vsn::V1, _) => decode_text(vsn, bytes),
        (Vsn::V2, [KIND_PUSH, rest @ ..]) => decode_push(rest),
        (Vsn::V2, [KIND_USER_BROADCAST_PUSH, rest @ ..]) => decode_user_broadcast_push(rest),
        (Vsn::V2, _) => Err(DecodeError::Unknown(
            "not a kind of frame that clients send",
        )),
    }
}

fn decode_push(rest: &[u8]) -> Result<Message<'_>, DecodeError> {
    let (sizes, mut rest) = rest.split_first_chunk::<4>().ok_or(CUT_SHORT)?;
    let [join_ref, msg_ref, topic, event] = *sizes;
    Ok(Message {
        join_ref: RawJson::quoted(take_text(&mut rest, join_ref)?),
        msg_ref: RawJson::quoted(take_text(&mut rest, msg_ref)?),
        topic: Field::plain(take_text(&mut rest, topic)?),
        event: Field::plain(take_text(&mut rest, event)?),
        payload: Payload::Opaque(rest),
    })
}

fn decode_user_broadcast_push(rest: &[u8]) -> Result<Message<'_>, DecodeError> {
    let (sizes, mut rest) = rest.split_first_chunk::<6>().ok_or(CUT_SHORT)?;
    let [join_ref, msg_ref, topic, event, metadata, encoding] = *sizes;
    let join_ref = RawJson::quoted(take_text(&mut rest, join_ref)?);
    let msg_ref = RawJson::quoted(take_text(&mut rest, msg_ref)?);
    let topic = Field::plain(take_text(&mut rest, topic)?);
    let event = take_text(&mut rest, event)?;
    // Parity: the original parses the metadata and then ignores it.
    let metadata = take(&mut rest, metadata)?;
    if !metadata.is_empty() && !is_json(metadata) {
        return Err(DecodeError::Malformed("the metadata is not JSON"));
    }
    let encoding = match encoding {
        0 => Encoding::Binary,
        _ => Encoding::Json,
    };
    // Parity: the original copies these bytes without a look (spec 3.3), so they need not be what its parser takes.
    if encoding == Encoding::Json && !is_json_unread(rest) {
        return Err(DecodeError::Malformed("the payload is not JSON"));
    }
    Ok(Message {
        join_ref,
        msg_ref,
        topic,
        event: Field {
            raw: RawJson::sent("\"broadcast\""),
            text: Some(Cow::Borrowed("broadcast")),
        },
        payload: Payload::User {
            event,
            encoding,
            bytes: rest,
        },
    })
}

const CUT_SHORT: DecodeError = DecodeError::Unknown("the frame is cut short");

fn take<'a>(rest: &mut &'a [u8], size: u8) -> Result<&'a [u8], DecodeError> {
    let (taken, left) = rest.split_at_checked(usize::from(size)).ok_or(CUT_SHORT)?;
    *rest = left;
    Ok(taken)
}

fn take_text<'a>(rest: &mut &'a [u8], size: u8) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(take(rest, size)?).map_err(|_| DecodeError::Unknown("a name is not UTF-8"))
}

/// A topic, event or metadata is longer than 255 bytes: no binary frame can hold it. The message is to be dropped.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a topic, event or metadata is longer than 255 bytes")
    }
}

impl std::error::Error for TooLong {}

/// Whether a broadcast can be framed for 2.0.0. To be asked before it is encoded for anyone: one that cannot reaches nobody,
/// 1.0.0 members included (no partial delivery).
///
/// # Errors
///
/// [`TooLong`] when not.
pub fn fits_binary(topic: &str, event: &str, metadata_json: Option<&str>) -> Result<(), TooLong> {
    size(topic)?;
    size(event)?;
    size(metadata_json.unwrap_or_default())?;
    Ok(())
}

fn size(text: &str) -> Result<u8, TooLong> {
    u8::try_from(text.len()).map_err(|_| TooLong)
}

/// Appends a user broadcast as a whole frame: kind 4 for 2.0.0, a text message for 1.0.0. False when nothing was written,
/// because 1.0.0 cannot carry [`Encoding::Binary`].
///
/// `bytes` are the checked text of one JSON value when the encoding says so. The metadata, checked JSON as well, stands as
/// `meta` in the text message.
///
/// # Errors
///
/// [`TooLong`], for both serializers: see [`fits_binary`].
pub fn encode_user_broadcast(
    out: &mut Vec<u8>,
    vsn: Vsn,
    topic: Topic<'_>,
    event: &str,
    metadata_json: Option<&str>,
    encoding: Encoding,
    bytes: &[u8],
) -> Result<bool, TooLong> {
    let metadata = metadata_json.unwrap_or_default();
    let sizes = [size(topic.text)?, size(event)?, size(metadata)?];
    match (vsn, encoding) {
        (Vsn::V1, Encoding::Binary) => return Ok(false),
        (Vsn::V1, Encoding::Json) => {
            let meta = if metadata.is_empty() {
                ""
            } else {
                ",\"meta\":"
            };
            frame(
                out,
                Opcode::Text,
                [
                    b"{\"topic\":",
                    topic.json.as_bytes(),
                    b",\"event\":\"broadcast\",\"payload\":{\"event\":\"",
                    escape(event).as_bytes(),
                    b"\"",
                    meta.as_bytes(),
                    metadata.as_bytes(),
                    b",\"payload\":",
                    bytes,
                    b",\"type\":\"broadcast\"},\"ref\":null}",
                ],
            );
        }
        (Vsn::V2, _) => {
            let [topic_size, event_size, metadata_size] = sizes;
            frame(
                out,
                Opcode::Binary,
                [
                    &[
                        KIND_USER_BROADCAST,
                        topic_size,
                        event_size,
                        metadata_size,
                        encoding as u8,
                    ],
                    topic.text.as_bytes(),
                    event.as_bytes(),
                    metadata.as_bytes(),
                    bytes,
                ],
            );
        }
    }
    Ok(true)
}

/// Appends the data of a kind 0 push for the members of a topic: kind 2 for 2.0.0. False when nothing was written, because
/// 1.0.0 cannot carry it.
///
/// # Errors
///
/// [`TooLong`], for both serializers: see [`fits_binary`].
pub fn encode_opaque_broadcast(
    out: &mut Vec<u8>,
    vsn: Vsn,
    topic: Topic<'_>,
    event: &str,
    data: &[u8],
) -> Result<bool, TooLong> {
    let header = [KIND_BROADCAST, size(topic.text)?, size(event)?];
    if vsn == Vsn::V1 {
        return Ok(false);
    }
    let parts = [&header, topic.text.as_bytes(), event.as_bytes(), data];
    frame(out, Opcode::Binary, parts);
    Ok(true)
}

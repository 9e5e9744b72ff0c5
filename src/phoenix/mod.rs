//! Frames to messages and back: the Phoenix channel protocol, serializers 1.0.0 and 2.0.0.
//!
//! In comes the payload of one WebSocket frame ([`decode_text`], [`decode_binary`]); out goes a [`Message`] whose fields borrow
//! from it. The encoders append complete WebSocket frames. Beside them stand what the protocol says about a payload as a
//! text: what a join asks for ([`parse_join`]) and what it counts against the quota ([`json_term_size`]).
//!
//! # Invariants
//!
//! - A payload is forwarded as the bytes that it is: checked, never rebuilt. No tree is made of it.
//! - What is called JSON here has been checked whole: UTF-8, grammar, numbers, surrogates, depth.
//!   (`validity_agrees_with_serde_json`)
//! - Bytes from outside never panic or overflow the stack. (`random_bytes_never_panic`, `deep_nesting_is_malformed`)
//! - A frame is decoded without allocation, except for strings with escapes.
//!
//! Absent on purpose: which event means what (`channel`), who receives what (`fanout`), operational codes and logging.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

mod scan;
mod escape;
mod message;
mod json;
mod binary;
mod term_size;
mod phash;
mod subscription;
mod join;
#[cfg(test)]
mod tests;

pub use binary::{
    TooLong, decode_binary, encode_opaque_broadcast, encode_user_broadcast, fits_binary,
};
pub use escape::json_string;
pub use join::{Invalid, JoinPayload, JoinPayloadError, TokenChoice, parse_join, pick};
pub use json::{decode_text, encode_change, encode_push, encode_push_around, encode_reply};
pub use message::{DecodeError, Encoding, Field, Message, Payload, RawJson, RawRef, Topic, Vsn};
pub use scan::{JSON_DEPTH_MAX, elements, is_json, is_json_unread, members, string_value};
pub use phash::phash2_of_binaries;
pub use scan::{JSON_DEPTH_MAX, elements, is_json, members, string_value};
pub use subscription::{echo_subscription, legacy_subscription, subscription_id};
pub use term_size::{json_term_size, term_size_at_most};

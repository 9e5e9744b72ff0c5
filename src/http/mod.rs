//! Request heads: what a socket wants before it is a WebSocket, and the answers that need nobody else.
//!
//! What comes in: the first bytes of a connection. What goes out: an upgrade to be checked against its tenant, a refusal to be written,
//! or the word that the control core's HTTP stack is to have the connection. What always holds: any bytes in any split give the same
//! outcome and never a panic (`any_split_gives_the_same_outcome`), and a head is bounded in every direction. Deliberately absent:
//! bodies and routes of the REST API; the control core serves those with hyper and axum.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod head;
mod refusal;
mod upgrade;

pub use head::{Head, HeadLimits, Parsed, Route, parse_head, route};
pub use refusal::{Refusal, http_date, write_101, write_refusal};
pub use upgrade::{
    LogLevel, UpgradeRequest, check_upgrade_headers, external_id, is_bare_host, log_level,
    query_value, upgrade_request,
};

#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

// The order of this list is the dependency rule: a room uses only rooms above it (tests/tidy.rs).
pub mod limits;
pub mod error;
pub mod config;
pub mod logging;
pub mod websocket;
pub mod phoenix;
pub mod metrics;
pub mod auth;
pub mod http;
pub mod tenant;
pub mod mail;
pub mod connection;
pub mod presence;
pub mod fanout;
pub mod channel;
pub mod shard;
pub mod control;
pub mod server;
pub mod dev;

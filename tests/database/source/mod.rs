//! Row changes of a database, word by word, while everything that can break does.
//!
//! The room `control::changes::source` runs as it does in the server, against a database of the test's own. What a test counts as
//! dispatched is what it has called done.

pub mod breaks;
pub mod reader;
pub mod slots;
pub mod speed;
mod wire;

#![doc = include_str!("../README.md")]

pub mod clock;
pub mod stamp;
pub mod codec;
pub mod dialect;
pub mod tokens;
pub mod probe;
pub mod syscalls;
pub mod timeline;
pub mod presets;
pub mod report;
pub mod expect;
pub mod signal;
pub mod link;
pub mod alive;
pub mod member;
pub mod html;
pub mod progress;
pub mod settings;
pub mod scenario;
pub mod bare;
#[cfg(test)]
mod fake;

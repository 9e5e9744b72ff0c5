//! Where a tenant's session stands, for people who look after it.

use super::{Phase, Sessions};
use crate::error::ErrorCode;
use crate::tenant::TenantId;

/// See [`Sessions::stage`].
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Stage {
    /// Nobody has needed the database, or nobody does any more.
    #[default]
    Idle,
    /// It is being connected to; with why that failed before, if it did.
    Connecting(Option<ErrorCode>),
    /// It is connected.
    Connected,
    /// It could not be connected to, or was lost, with the code that the log has.
    Failing(ErrorCode),
}

impl Sessions {
    /// Where the session of a tenant stands.
    #[must_use]
    pub fn stage(&self, tenant: TenantId) -> Stage {
        let seats = self.0.seats.borrow();
        let Some(seat) = seats.get(&tenant) else {
            return Stage::Idle;
        };
        let failure = seat.failure.get();
        match &*seat.phase.borrow() {
            Phase::Idle => Stage::Idle,
            Phase::Starting { .. } => Stage::Connecting(failure),
            // It is being reconnected, and the session goes on if that works.
            Phase::Up(pool) => match pool.why_down() {
                Some((code, _)) => Stage::Failing(code),
                None => Stage::Connected,
            },
            Phase::Failed(_) => {
                let unknown = ErrorCode::UnableToConnectToTenantDatabase;
                Stage::Failing(failure.unwrap_or(unknown))
            }
        }
    }
}

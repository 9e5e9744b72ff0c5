//! Why a check has no verdict (spec: authorization-rls 4).
//!
//! What always holds: an error of any kind is a reason, never a verdict.

use super::check::Failure;
use crate::control::database::statement;
use crate::mail::AskError;
use tokio_postgres::error::SqlState;

/// What a failure means for whoever asked with this role.
pub(super) fn reason_of(failure: &Failure, role: &str) -> AskError {
    if let Some(reason) = statement::reason_of(&failure.error) {
        return reason;
    }
    let Some(database) = failure.error.as_db_error() else {
        return AskError::Other(failure.error.to_string());
    };
    if failure.is_about_role && database.message().contains("\"\"") {
        // The name that stands for a role that is known and refused.
        AskError::Policy(format!("the role {role:?} may not be taken on"))
    } else if *database.code() == SqlState::CHECK_VIOLATION && database.table() == Some("messages")
    {
        AskError::MissingPartition
    } else {
        AskError::Policy(statement::text_of(database))
    }
}

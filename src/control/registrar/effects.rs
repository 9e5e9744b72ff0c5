//! What a change of a tenant's record ends (spec: websocket-protocol 11).
//!
//! What comes in: the record before and after. What goes out: [`Effects`]. What always holds: plain texts are compared, so a secret that
//! is sent again is no change, however it was sealed. Deliberately absent: settings of the database; its session and the engine of its
//! row changes compare those by themselves, and rate counters, which the registry compares.

use crate::control::store::TenantRecord;

/// What is to end.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Effects {
    /// The tenant's sockets.
    pub(super) disconnects: bool,
    /// What goes on in its database.
    pub(super) restarts_database: bool,
}

impl Effects {
    /// Everything.
    pub(super) const ALL: Self = Self {
        disconnects: true,
        restarts_database: true,
    };

    /// Nothing for a tenant that is new.
    pub(super) fn of(before: Option<&TenantRecord>, after: &TenantRecord) -> Self {
        let Some(before) = before else {
            return Self::default();
        };
        // Their ids are not compared: every start of a process that seeds a tenant makes it anew, with what it has been.
        let restarts_database = before.jwt_secret != after.jwt_secret
            || before.jwt_jwks != after.jwt_jwks
            || before.suspend != after.suspend;
        Self {
            disconnects: restarts_database || before.private_only != after.private_only,
            restarts_database,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tenants::tests::record;
    use serde_json::json;

    #[test]
    fn only_changed_values_disconnect() {
        let before = record("a");
        let check = |change: fn(&mut TenantRecord), disconnects, restarts_database| {
            let mut after = before.clone();
            change(&mut after);
            let expected = Effects {
                disconnects,
                restarts_database,
            };
            assert_eq!(Effects::of(Some(&before), &after), expected);
        };
        check(|_| {}, false, false);
        check(|it| it.jwt_secret = Some("secret".to_owned()), false, false);
        check(|it| it.jwt_secret = Some("other".to_owned()), true, true);
        check(|it| it.jwt_jwks = Some(json!({"keys": []})), true, true);
        check(|it| it.suspend = true, true, true);
        check(|it| it.private_only = true, true, false);
        check(|it| it.max_events_per_second = 1, false, false);
        check(|it| it.presence_enabled = true, false, false);
        check(|it| it.name = "b".to_owned(), false, false);
        check(|it| it.id = "another".to_owned(), false, false);
        assert_eq!(Effects::of(None, &before), Effects::default());
    }
}

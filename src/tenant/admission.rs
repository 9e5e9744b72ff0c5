//! Who may upgrade: checks 2 to 6 of the spec (websocket-protocol 2), the same on a shard and on the control core.

use super::{Counter, Tenant, TenantDirectory};
use crate::auth::TokenError;
use crate::http::{Refusal, UpgradeRequest};
use std::sync::Arc;

/// Finds the tenant and checks token and limits. `verify` checks a token as its caller does: with or without a memory of tokens.
///
/// # Errors
///
/// The first failing check, as the answer that the client gets.
pub fn admit<T>(
    tenants: &TenantDirectory,
    any_host_single_tenant: bool,
    request: &UpgradeRequest,
    verify: impl FnOnce(&Tenant, &str) -> Result<T, TokenError>,
) -> Result<(Arc<Tenant>, T), Refusal> {
    let external_id = &request.external_id;
    let found = tenants.find_host(external_id, any_host_single_tenant && request.host_is_bare);
    let tenant = found.ok_or_else(|| Refusal::tenant_not_found(external_id))?;
    if tenant.suspended {
        return Err(Refusal::tenant_suspended());
    }
    let token = request
        .token
        .as_deref()
        .ok_or_else(Refusal::missing_api_key)?;
    let verified = verify(tenant, token).map_err(|error| Refusal::token(&error))?;
    if tenant.usage.users() >= tenant.limits.users_max {
        return Err(Refusal::too_many_users());
    }
    if tenant.usage.is_tripped(Counter::Joins) {
        return Err(Refusal::too_many_joins());
    }
    Ok((Arc::clone(tenant), verified))
}

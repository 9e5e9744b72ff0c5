//! What the status page shows to operators beside: how each tenant is, as JSON.
//!
//! What comes in: a [`Survey`], and the machine as it was seen last. What goes out: an object. What always holds: no secret, and no address
//! of a database (`operators_see_how_tenants_are_and_no_secret`). Deliberately absent: changing anything; the management API does that.

use crate::control::metrics::Scene;
use crate::control::registrar::{Survey, Surveyed};
use serde_json::{Value, json};

/// `/admin/figures`.
#[must_use]
pub fn tenants(survey: &Survey, scene: &Scene) -> Value {
    json!({
        "uptime_seconds": scene.uptime.as_secs_f64(),
        "memory_bytes": scene.host.resident_bytes,
        "machine_busy_percent": scene.host.busy,
        "machine_memory_used_percent": scene.host.memory_used,
        "sessions": scene.sessions,
        "task_restarts_total": scene.restarts,
        "tenants_left_out": survey.left_out,
        "tenants": survey.tenants.iter().map(of_tenant).collect::<Vec<_>>(),
    })
}

fn of_tenant(tenant: &Surveyed) -> Value {
    let code = tenant.database.code();
    json!({
        "external_id": &*tenant.external_id,
        "name": tenant.name,
        "users": tenant.users,
        "users_max": tenant.users_max,
        "suspended": tenant.is_suspended,
        "events_total": tenant.events_total,
        "database": {
            "state": tenant.database.as_str(),
            "code": code.map(|code| code.as_str()),
            "meaning": code.map(|code| code.meaning()),
            "remedy": code.map(|code| code.remedy()),
        },
        "broadcast_stream": {
            "running": tenant.is_streaming,
            "rows_total": tenant.rows_broadcast_total,
            "lag_ms": tenant.broadcast_lag_ms,
        },
        "row_changes": {
            "listeners": tenant.listeners,
            "delivered_total": tenant.changes_total,
            "lag_ms": tenant.changes_lag_ms,
        },
    })
}

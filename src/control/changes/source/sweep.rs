//! Slots that an earlier life of the process has left behind.
//!
//! What comes in: tenants that have a database. What goes out: their slots are gone, or in use. What always holds: only a slot of exactly
//! our own name that nobody uses is dropped (`sweep_drops_what_nobody_uses`); a database that cannot be reached is passed over without a
//! line that anybody counts. Deliberately absent: when to sweep.
//!
//! A slot that another process polls looks unused between two readings, and so does one whose connection is just being restored: with
//! several processes each needs a `SLOT_NAME_SUFFIX` of its own.

use super::scout::Scout;
use super::slot_name;
use crate::control::changes::settings::ChangesSettings;
use crate::control::clock;
use crate::control::database::{Environment, Settings};
use crate::control::replication::Fault;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Line;
use crate::tenant::Tenant;
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What became of a tenant's slot.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Swept {
    /// There was none.
    Nothing,
    /// Nobody used it, and it is gone.
    Dropped,
    /// Somebody uses it, or it is in another database.
    InUse,
    /// The database did not answer, or refused.
    Failed,
}

/// Drops the slot of one tenant if nobody uses it.
pub async fn sweep(
    environment: &Environment,
    tenant: &Tenant,
    settings: Rc<Settings>,
    changes: &ChangesSettings,
) -> Swept {
    let scout = Scout::new(settings);
    let work = async {
        let suffix = environment.config.slot_name_suffix.as_deref();
        let database = scout.database().await?;
        let name = slot_name(&changes.slot_name, suffix, database, &tenant.external_id);
        let Some(slot) = scout.look(&name).await?.slot else {
            return Ok(Swept::Nothing);
        };
        if slot.is_active || !slot.is_ours {
            return Ok(Swept::InUse);
        }
        scout.drop_slot(&name).await?;
        let text = format!("replication slot {name} was there and nobody used it: dropped");
        write(
            environment,
            tenant,
            Line::new(clock::unix_ms(), Level::Warning, &text),
        );
        Ok::<_, Fault>(Swept::Dropped)
    };
    match work.await {
        Ok(swept) => swept,
        // Somebody has begun to use it in between.
        Err(fault) if fault.sqlstate() == Some("55006") => Swept::InUse,
        Err(fault) => {
            let text = format!("a replication slot was not looked for: {fault}");
            let line = match fault.sqlstate() {
                // The database was there and did not want to.
                Some(state) if !state.starts_with("08") && !state.starts_with("57") => Line::coded(
                    clock::unix_ms(),
                    ErrorCode::DropReplicationSlotFailed,
                    &text,
                ),
                _ => Line::new(clock::unix_ms(), Level::Debug, &text),
            };
            write(environment, tenant, line);
            Swept::Failed
        }
    }
}

/// Does so for many, [`limits::CHANGES_SWEEPS_MAX`] at a time. Runs in a `LocalSet`.
pub async fn sweep_all(
    environment: Rc<Environment>,
    tenants: impl IntoIterator<Item = (Arc<Tenant>, Rc<Settings>, Rc<ChangesSettings>)>,
) {
    let mut running = JoinSet::new();
    for (tenant, settings, changes) in tenants {
        while running.len() >= limits::CHANGES_SWEEPS_MAX {
            let _ = running.join_next().await;
        }
        let environment = Rc::clone(&environment);
        running.spawn_local(async move {
            sweep(&environment, &tenant, settings, &changes).await;
        });
    }
    while running.join_next().await.is_some() {}
}

fn write(environment: &Environment, tenant: &Tenant, line: Line) {
    if environment.log.is_enabled(line.level) {
        let line = line.of_tenant(Arc::clone(&tenant.external_id));
        environment.log.write(line);
    }
}

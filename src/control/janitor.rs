//! The janitor: drops the messages of old days in the databases of tenants, and sees to it that the coming days have a place.
//!
//! What comes in: the configuration, and who was connected since the last run. What goes out: dropped and made partitions, and lines in
//! the log for what failed. What always holds: a database that does not answer costs its own tenant's turn alone
//! (`tests/database/janitor.rs`); without `RUN_JANITOR` nothing is ever dropped. Deliberately absent: the partitions of a session that
//! runs, which the session makes by itself, with or without a janitor.

use super::clock;
use super::database::partitions::{drop_old_partitions, ensure_partitions};
use super::database::{Environment, Settings, connect};
use super::session::Sessions;
use super::supervise;
use crate::config::Janitor;
use crate::error::{ErrorCode, Level, inspect_str};
use crate::logging::Line;
use crate::tenant::TenantId;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Starts the janitor, if there is to be one.
pub fn start(sessions: Sessions, environment: Rc<Environment>) {
    if !environment.config.janitor.is_enabled {
        return;
    }
    let log = environment.log.clone();
    let say = move |name: &str, panic: &str| {
        let text = format!("the task {name} panicked and starts again: {panic}");
        log.write(Line::new(clock::unix_ms(), Level::Error, &text));
    };
    let rounds = move || rounds(sessions.clone(), Rc::clone(&environment));
    tokio::task::spawn_local(async move { supervise::supervise("janitor", say, rounds).await });
}

async fn rounds(sessions: Sessions, environment: Rc<Environment>) {
    let mut pause = Duration::from_millis(environment.config.janitor.first_delay_ms);
    loop {
        sleep(pause + period(&environment.config.janitor, random())).await;
        pause = Duration::ZERO;
        say(&environment, "Janitor started");
        sweep(&environment, sessions.take_connected()).await;
        say(&environment, "Janitor finished");
    }
}

fn say(environment: &Environment, text: &str) {
    let line = Line::new(clock::unix_ms(), Level::Info, text);
    environment.log.write(line);
}

/// The time between two runs; `random` chooses the 1 to 59 minutes that are added so that servers do not all sweep at once.
fn period(janitor: &Janitor, random: u64) -> Duration {
    let minutes = if janitor.is_randomized {
        1 + random % 59
    } else {
        0
    };
    Duration::from_millis(janitor.period_ms) + Duration::from_secs(60 * minutes)
}

/// Each state has a seed of its own: randomness enough for a minute.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// One run over the databases of these tenants: `JANITOR_CHUNK_SIZE` of them one after the other, `JANITOR_MAX_CHILDREN` such chunks at
/// the same time.
pub async fn sweep(environment: &Rc<Environment>, tenants: Vec<TenantId>) {
    let janitor = &environment.config.janitor;
    let chunk_size = usize::try_from(janitor.tenants_per_task.max(1)).unwrap_or(usize::MAX);
    let tasks_max = usize::try_from(janitor.tasks_max.max(1)).unwrap_or(usize::MAX);
    let mut tasks = JoinSet::new();
    for chunk in tenants.chunks(chunk_size) {
        if tasks.len() >= tasks_max {
            tasks.join_next().await;
        }
        let (environment, chunk) = (Rc::clone(environment), chunk.to_vec());
        tasks.spawn_local(async move {
            for tenant in chunk {
                visit(&environment, tenant).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One tenant. The bound of a task is counted per tenant, or a dead database would cost the rest of its chunk.
async fn visit(environment: &Environment, id: TenantId) {
    let live = Arc::clone(&environment.tenants.borrow());
    let (Some(tenant), Some(Ok(settings))) = (live.directory.get(id), Settings::in_live(&live, id))
    else {
        return;
    };
    let log = |code: ErrorCode, text: &str| {
        let line = Line::coded(clock::unix_ms(), code, text);
        environment
            .log
            .write(line.of_tenant(Arc::clone(&tenant.external_id)));
    };
    let bound = Duration::from_millis(environment.config.janitor.task_timeout_ms);
    let failed = ErrorCode::JanitorFailedToDeleteOldMessages;
    // The original names the tenants of a task at once, and not why.
    let said = |why: &str| {
        let tenant = inspect_str(&tenant.external_id);
        format!("Scheduled cleanup failed for tenants: [{tenant}]: {why}")
    };
    match timeout(bound, clean(&settings)).await {
        Ok(Ok(cleaned)) => {
            for text in cleaned.not_made {
                log(ErrorCode::PartitionCreationFailed, &text);
            }
            if let Some(text) = cleaned.not_dropped {
                log(failed, &said(&text));
            }
        }
        Ok(Err(text)) => log(failed, &said(&text)),
        Err(_) => {
            let why = format!("the database took longer than {} ms", bound.as_millis());
            log(failed, &said(&why));
        }
    }
}

/// What a visit could not do.
struct Cleaned {
    not_dropped: Option<String>,
    not_made: Vec<String>,
}

async fn clean(settings: &Settings) -> Result<Cleaned, String> {
    let connection = connect(settings, "realtime_janitor")
        .await
        .map_err(|error| error.to_string())?;
    let now = clock::unix_seconds();
    let dropped = drop_old_partitions(&connection.client, now).await;
    let failures = ensure_partitions(&connection.client, now).await;
    Ok(Cleaned {
        not_dropped: dropped.err().map(|error| error.to_string()),
        not_made: failures.iter().map(ToString::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn runs_are_a_period_apart_and_some_minutes_where_wanted() {
        let check = |variables: &[(&str, &str)], random, minutes: u64| {
            let get = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let (config, _) = Config::from_env(get).unwrap();
            assert_eq!(
                period(&config.janitor, random).as_secs(),
                minutes * 60,
                "{variables:?}"
            );
        };
        let fixed = ("JANITOR_SCHEDULE_RANDOMIZE", "false");
        check(&[fixed], 7, 240);
        check(&[fixed, ("JANITOR_SCHEDULE_TIMER_IN_MS", "60000")], 7, 1);
        check(&[], 0, 241);
        check(&[], 58, 299);
        check(&[], 59, 241);
    }
}

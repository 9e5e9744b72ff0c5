//! `realtime dev`: the server with a private PostgreSQL, for a person who wants to see everything work.
//!
//! What comes in: the configuration of the server. What goes out: the same server, whose tenant has a database: a cluster in
//! `DATA_DIR/postgres`, made with the programs that are installed here and prepared like a Supabase project. What always holds: the
//! cluster is started before the server and stopped after it, however that ends; a second start keeps what is in it; of two servers
//! with one `DATA_DIR` the second one leaves the first one's cluster alone, because the store refuses it before. Deliberately absent:
//! anything that a production server needs.

mod account;
mod binaries;
mod cluster;
mod project;

use crate::config::{Config, Reading};
use crate::control::boot;
use crate::control::clock;
use crate::server;
use account::Account;
use cluster::Cluster;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use tokio::runtime::Builder;

/// Serves with a database until a signal ends it.
///
/// # Errors
///
/// A sentence for the person at the terminal.
pub fn run(mut reading: Reading) -> Result<(), String> {
    let config = &mut reading.config;
    if config.database.is_some() {
        return Err("dev keeps its tenant in DATA_DIR: unset DB_HOST".to_owned());
    }
    let cluster = attached(config)?;
    say(&introduction(
        &cluster,
        &config.data_dir.display().to_string(),
    ))?;
    let outcome = server::run(reading);
    let stopped = cluster.stop();
    outcome.and(stopped)
}

/// The cluster, with the tenant's record leading to it.
fn attached(config: &mut Config) -> Result<Cluster, String> {
    let unix_now = clock::unix_seconds();
    // Opened before anything else: whoever has the store has the cluster beside it.
    let tenants = boot::boot_tenants(config, 1, unix_now).map_err(|error| error.to_string())?;
    let record = tenants.self_host.as_ref().ok_or_else(|| {
        format!(
            "there is no tenant {} in {}; set SELF_HOST_TENANT_NAME to one that is there, or SEED_SELF_HOST=true",
            config.self_host.tenant_name,
            config.data_dir.display()
        )
    })?;
    say("PostgreSQL is being started; the first time takes a few seconds\n")?;
    let cluster = Cluster::start(&config.data_dir)?;
    project::prepare(&cluster)?;
    if let Some(record) = project::attach(record, &project::settings(&cluster), unix_now)? {
        let runtime = Builder::new_current_thread()
            .build()
            .map_err(|error| format!("the kernel refuses a runtime: {error}"))?;
        let put = runtime.block_on(tenants.store.put(record));
        put.map_err(|error| error.to_string())?;
    }
    // It was seeded just now; once more would take its database away again.
    config.self_host.seeds = false;
    Ok(cluster)
}

/// How to look into the database and what to try there.
fn introduction(cluster: &Cluster, data_dir: &str) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        writeln!(text, "{arguments}").expect("a String takes everything");
    };
    line(format_args!(
        "PostgreSQL {} in {data_dir}/postgres, {} (stops with this server)",
        cluster.binaries.major, cluster.story
    ));
    if let Account::Other(user, _) = cluster.account {
        line(format_args!(
            "  it refuses to run as root, so it runs as user id {user}, who owns that folder"
        ));
    }
    line(format_args!(
        "  psql    PGPASSFILE='{}' {} -h 127.0.0.1 -p {} -U postgres postgres",
        cluster.password_file().display(),
        cluster.binaries.program("psql").display(),
        cluster.port
    ));
    line(format_args!(
        "  there   select realtime.send('{{\"hello\": \"world\"}}', 'greeting', 'room1', false); -- to public channel room1"
    ));
    line(format_args!(
        "          create policy \"all may read\" on realtime.messages for select to anon, authenticated using (true);"
    ));
    line(format_args!(
        "          select realtime.send('{{\"hello\": \"world\"}}', 'greeting', 'room1'); -- to who joined with config.private: true\n"
    ));
    text
}

fn say(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("standard output is closed: {error}"))
}

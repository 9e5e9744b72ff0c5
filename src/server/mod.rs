//! Puts both planes together: boot in the order in which things can fail, then serve until told to stop.
//!
//! What comes in: the configuration. What goes out: a process that serves, or one sentence that says why it does not. What always holds:
//! nothing is listened on before every tenant is known, and a panic on a shard ends the process, because a server with one dead core
//! is worse than a restart.

mod capacity;
mod machine;

use crate::channel::{Channels, Settings};
use crate::config::{Config, Driver, IpVersion, Reading, Report};
use crate::connection::OpenSockets;
use crate::control::banner::{self, Facts};
use crate::control::boot::{self, BootTenants};
use crate::control::{self, Boot, clock};
use crate::error::Level;
use crate::fanout::Fanout;
use crate::http::HeadLimits;
use crate::limits;
use crate::logging::{Line, Threshold, Writer};
use crate::mail::{Mail, TopicHasher};
use crate::metrics::{Board, Instruments};
use crate::shard::{Shard, UpgradeSettings};
use capacity::Plan;
use machine::Machine;
use shards::{DriverChoice, DriverKind, Listen, Options, Placement, Runtime, ShardId};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Serves with this configuration until a signal ends it.
///
/// # Errors
///
/// A sentence for the operator: what could not be had, and what to do about it.
pub fn run(reading: Reading) -> Result<(), String> {
    abort_when_a_shard_panics();
    control::reload::register().map_err(|error| format!("signals cannot be handled: {error}"))?;
    let config = Arc::new(reading.config);
    let threshold = Threshold::new(config.log_level);
    let writer = writer(&config, &threshold);
    let warn = |text: &str| {
        writer.write(&Line::new(clock::unix_ms(), Level::Warning, text));
    };
    for warning in &reading.warnings {
        warn(&warning.to_string());
    }
    let shard_count = shard_count(&config)?;
    let tenants = boot::boot_tenants(&config, shard_count + 1, clock::unix_seconds())
        .map_err(|error| error.to_string())?;
    // Clients choose the names of topics: a seed that they do not know keeps them from choosing the owner as well.
    let hasher = TopicHasher::new(RandomState::new().hash_one(clock::unix_ms()));
    let board = Board::new(shard_count);
    let shared = (&tenants, &hasher, &board);
    let runtime = start_shards(&config, &threshold, shard_count, shared)?;
    if let Some(reason) = runtime.fallback_reason() {
        warn(&format!("io_uring is not used, epoll is: {reason}"));
    }
    check_capacity(&config, &runtime)
        .iter()
        .for_each(|text| warn(text));
    say_hello(&config, &runtime, shard_count, &tenants).map_err(|error| error.to_string())?;
    let instruments = Instruments {
        board,
        control: Arc::default(),
        runtime: runtime.metrics().into(),
        drivers: runtime
            .drivers()
            .iter()
            .map(|kind| name_of(*kind))
            .collect(),
    };
    let (port, threads) = runtime.into_parts();
    control::run(Boot {
        config,
        report: reading.report,
        threshold,
        port,
        tenants,
        hasher,
        instruments,
        writer,
    })
    .map_err(|error| format!("the control core cannot run: {error}"))?;
    threads.join().map_err(|error| error.to_string())
}

/// Says in a report what unset variables come to on this machine.
///
/// # Errors
///
/// As [`run`].
pub fn derive(config: &Config, report: &mut Report) -> Result<(), String> {
    let shards = shard_count(config)?;
    report.derive(
        "SHARDS",
        shards.to_string(),
        "one for each core but the last",
    );
    if let Some((_, hard)) = Machine::read().open_files {
        report.derive("RLIMIT_NOFILE", hard.to_string(), "the hard limit");
    }
    Ok(())
}

/// What of the machine stands against `MAX_CONNECTIONS`.
fn check_capacity(config: &Config, runtime: &Runtime<Mail>) -> Vec<String> {
    let tables = runtime.socket_tables();
    let per_shard = sockets_per_shard(config.connections_max as usize, tables.len());
    let plan = Plan {
        connections_max: config.connections_max.into(),
        sockets_per_shard: per_shard as u64,
        socket_tables: tables,
        open_files_max: config.open_files_max,
        backlog: limits::LISTEN_BACKLOG.into(),
        port: runtime.local_addr().port(),
    };
    capacity::warnings(&plan, &Machine::read())
}

fn writer(config: &Config, threshold: &Threshold) -> Writer {
    Writer::new(
        config.log_format,
        threshold.clone(),
        config.region.clone(),
        config.cluster.clone(),
    )
}

/// `SHARDS`, or one for each core but the last, which is the control core's.
fn shard_count(config: &Config) -> Result<usize, String> {
    if let Some(shards) = config.shards {
        return Ok(usize::from(shards));
    }
    let cores = match &config.cores {
        Some(cores) => cores.len(),
        None => std::thread::available_parallelism()
            .map_err(|error| format!("the number of cores cannot be read: {error}; set SHARDS"))?
            .get(),
    };
    Ok(cores.saturating_sub(1).max(1))
}

fn start_shards(
    config: &Config,
    threshold: &Threshold,
    shard_count: usize,
    (tenants, hasher, board): (&BootTenants, &TopicHasher, &Board),
) -> Result<Runtime<Mail>, String> {
    let connections_max = config.connections_max as usize;
    let settings = Settings {
        channel_error_backoff: Duration::from_millis(config.channel_error_backoff_ms),
        queued_bytes_max: usize::try_from(config.queued_bytes_max).unwrap_or(usize::MAX),
        partial_bytes_max: limits::PARTIAL_BYTES_MAX,
        idle_timeout_seconds: u32::try_from(config.idle_timeout_ms.div_ceil(1000))
            .unwrap_or(u32::MAX),
        open_sockets: OpenSockets::new(connections_max),
        log_level: threshold.clone(),
        board: board.clone(),
    };
    let upgrades = UpgradeSettings {
        connect_error_backoff: Duration::from_millis(config.connect_error_backoff_ms),
        no_channel_timeout: Duration::from_millis(config.no_channel_timeout_ms),
        any_host_single_tenant: config.any_host_single_tenant,
        seeks_tenants: tenants.store.is_shared(),
        head: HeadLimits {
            header_value_bytes_max: config.header_value_bytes_max as usize,
            ..HeadLimits::default()
        },
    };
    let options = Options {
        shards: shard_count,
        cpus: config
            .cores
            .clone()
            .map_or(Placement::Auto, Placement::Cpus),
        driver: match config.driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::Uring => DriverChoice::Uring,
            Driver::Epoll => DriverChoice::Epoll,
        },
        connections_max: sockets_per_shard(connections_max, shard_count),
        open_files_max: config.open_files_max,
        backlog: i32::from(limits::LISTEN_BACKLOG),
        stall_after: limits::STALLED_READER_TIMEOUT,
        linger: limits::LINGER,
        send_buffer_bytes: limits::SOCKET_SEND_BUFFER_BYTES,
        mailbox_letters: limits::MAILBOX_LETTERS,
        ..Options::default()
    };
    let (directory, hasher) = (tenants.directory.clone(), hasher.clone());
    let make = move |shard: ShardId| {
        let fanout = Fanout::new(
            shard,
            shard_count,
            hasher.clone(),
            settings.queued_bytes_max,
        );
        let channels = Channels::new(fanout, directory.clone(), settings.clone());
        Shard::new(channels, upgrades.clone())
    };
    let addresses = addresses(config);
    let mut failure = String::new();
    for address in &addresses {
        let options = Options {
            listen: Listen::Addrs(vec![*address]),
            ..clone_of(&options)
        };
        match shards::start(options, make.clone()) {
            Ok(runtime) => return Ok(runtime),
            Err(error) => failure = explain(*address, &error),
        }
    }
    Err(failure)
}

/// The options without their listener, which cannot be cloned.
fn clone_of(options: &Options) -> Options {
    Options {
        cpus: options.cpus.clone(),
        listen: Listen::Addrs(Vec::new()),
        ..*options
    }
}

/// Sockets that one shard has room for. The kernel spreads connections over the listeners by chance, so each shard gets more than its
/// share; the limit itself is counted over all of them.
fn sockets_per_shard(connections_max: usize, shard_count: usize) -> usize {
    let share = connections_max.div_ceil(shard_count);
    let uneven = if shard_count == 1 { 0 } else { share / 4 + 64 };
    share + uneven + limits::CONNECTIONS_RESERVE
}

/// Where to listen, in the order to be tried: a dual-stack socket where there is IPv6, else IPv4 (spec: config 1).
fn addresses(config: &Config) -> Vec<SocketAddr> {
    let of = |address: IpAddr| SocketAddr::from((address, config.port));
    match (config.bind, config.ip_version) {
        (Some(address), _) => vec![of(address)],
        (None, IpVersion::V4) => vec![of(Ipv4Addr::UNSPECIFIED.into())],
        (None, IpVersion::V6) => vec![of(Ipv6Addr::UNSPECIFIED.into())],
        (None, IpVersion::Auto) => vec![
            of(Ipv6Addr::UNSPECIFIED.into()),
            of(Ipv4Addr::UNSPECIFIED.into()),
        ],
    }
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or set PORT",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; set PORT to another one"
        }
        io::ErrorKind::InvalidInput => {
            "set SHARDS, CPU_AFFINITY or DRIVER to something that this machine has"
        }
        _ => "see the error",
    };
    format!("cannot serve on {address}: {error} ({advice})")
}

/// Tells a person where to connect. The token is shown where everybody could make it, or where only a terminal reads it.
fn say_hello(
    config: &Config,
    runtime: &Runtime<Mail>,
    shards: usize,
    tenants: &BootTenants,
) -> io::Result<()> {
    let driver = runtime.drivers().first().copied();
    let driver = driver.map_or("no kernel", name_of);
    let mut stdout = io::stdout().lock();
    let is_development = config.api_jwt_secret.is_none();
    let text = banner::banner(&Facts {
        address: runtime.local_addr(),
        shards,
        driver,
        fallback: runtime.fallback_reason(),
        tenant: tenants.self_host.as_ref(),
        any_host: config.any_host_single_tenant && tenants.directory.len() == 1,
        shows_token: is_development || stdout.is_terminal(),
        unix_now: clock::unix_seconds(),
    });
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// How people call a kernel interface.
const fn name_of(driver: DriverKind) -> &'static str {
    match driver {
        DriverKind::Uring => "io_uring",
        DriverKind::Epoll => "epoll",
        DriverKind::Sim => "no kernel",
    }
}

/// Threads of the runtime have names that begin so.
const SHARD_THREAD: &str = "shard";

/// A panic ends a task of the control core alone, but on a shard it ends the process.
fn abort_when_a_shard_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        if std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with(SHARD_THREAD))
        {
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_room_for_more_than_its_share() {
        assert_eq!(
            sockets_per_shard(16_384, 1),
            16_384 + limits::CONNECTIONS_RESERVE
        );
        assert!(sockets_per_shard(35_000, 2) > 17_500 + 4_000);
        assert!(sockets_per_shard(1, 64) >= 65);
    }

    #[test]
    fn errors_say_what_to_do() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let text = explain(address, &io::ErrorKind::AddrInUse.into());
        assert!(
            text.contains("127.0.0.1:80") && text.contains("PORT"),
            "{text}"
        );
    }
}

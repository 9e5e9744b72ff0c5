//! The control core: one thread with a tokio runtime that does everything that waits on somebody else.
//!
//! What comes in: letters of the shards, HTTP connections among them, and signals. What goes out: letters to the shards, answers, log
//! lines. What always holds: nothing here stops a shard; a panic ends its task or its request alone; every queue has a bound
//! with a name in [`limits`]. Deliberately absent: sockets of WebSockets, and any state that a shard would have to wait for.
//!
//! [`boot::boot_tenants`] comes before there are threads, [`run`] is the thread. The rooms below, lowest first:

pub mod clock;
pub mod supervise;
pub mod log;
pub mod client;
pub mod traces;
pub mod outgoing;
pub mod store;
pub mod tenants;
pub mod rates;
pub mod database;
pub mod main_database;
pub mod replication;
pub mod messages;
pub mod authorization;
pub mod session;
pub mod changes;
pub mod metrics;
pub mod registrar;
pub mod desk;
pub mod janitor;
pub mod described;
pub mod boot;
pub mod banner;
pub mod pages;
pub mod api;
pub mod notify;
pub mod reload;
pub mod drain;
pub mod carrier;

use crate::config::{Config, Reading, Report};
use crate::limits;
use crate::logging::{Threshold, Writer};
use crate::mail::{Mail, TopicHasher};
use crate::metrics::Instruments;
use api::{Api, Connections};
use boot::BootTenants;
use carrier::Carrier;
use changes::Hub;
use database::Environment;
use desk::Desk;
use log::Log;
use metrics::Metrics;
use outgoing::Outgoing;
use registrar::{Means, Registrar};
use reload::Reloader;
use session::Sessions;
use shards::{ControlPort, ShardId};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

/// The control core's end of the mesh.
pub type Port = ControlPort<Mail>;

/// The shard of this index.
fn shard(index: usize) -> ShardId {
    ShardId(u16::try_from(index).expect("the runtime has fewer shards than that"))
}

/// What the control core starts with.
pub struct Boot {
    /// The configuration.
    pub config: Arc<Config>,
    /// What of it is in effect, and why.
    pub report: Report,
    /// `LOG_LEVEL`, as the shards have it.
    pub threshold: Threshold,
    /// Its end of the mesh.
    pub port: Port,
    /// The tenants, as the shards have them.
    pub tenants: BootTenants,
    /// The hasher that the shards have.
    pub hasher: TopicHasher,
    /// What the threads count.
    pub instruments: Instruments,
    /// Standard output.
    pub writer: Writer,
}

/// The control core's thread, from its first to its last moment: it returns when every shard was told to stop.
///
/// # Errors
///
/// When the kernel refuses what it cannot do without: its core, its doorbell, signals. The process cannot serve then.
pub fn run(boot: Boot) -> io::Result<()> {
    let (signal, signals) = drain::signal_channel();
    run_with_signals(boot, signals, || drain::listen(&signal))
}

/// The same with signals from wherever; `prepare` is called within the runtime.
fn run_with_signals(
    boot: Boot,
    signals: mpsc::Receiver<&'static str>,
    prepare: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    boot.port.pin_current_thread()?;
    let (log, log_thread) = Log::start(boot.writer.clone(), boot.threshold.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = LocalSet::new().block_on(&runtime, async {
        prepare()?;
        serve(boot, log, signals).await
    });
    runtime.shutdown_timeout(limits::LAST_DISK_WORK_TIMEOUT);
    log_thread.finish();
    outcome
}

async fn serve(boot: Boot, log: Log, signals: mpsc::Receiver<&'static str>) -> io::Result<()> {
    let Boot {
        config,
        report,
        threshold,
        port,
        tenants,
        hasher,
        instruments,
        writer: _,
    } = boot;
    let shards = port.shard_count();
    if let Some(engine) = tenants.engine {
        engine.start(log.clone());
    }
    let flush = traces::start(config.traces.as_ref(), &log);
    // On a thread of its own: compressing takes longer than a shard should wait for an answer.
    drop(tokio::task::spawn_blocking(pages::prepare));
    let (outgoing, parcels) = Outgoing::new();
    let (notices, inbox) = mpsc::channel(limits::INBOX_LETTERS_MAX);
    let environment = Rc::new(Environment {
        config,
        tenants: tenants.registry.watch(),
        outgoing,
        notices,
        hasher,
        cell: shards,
        log,
    });
    let sessions = Sessions::new(Rc::clone(&environment));
    janitor::start(sessions.clone(), Rc::clone(&environment));
    let changes = Hub::start(sessions.clone(), Rc::clone(&environment));
    let metrics = Metrics::start(
        changes.clone(),
        sessions.clone(),
        Rc::clone(&environment),
        instruments,
    );
    let pusher = metrics::push::start(metrics.clone(), &environment);
    let desk = Desk::start(sessions.clone(), Rc::clone(&environment));
    let means = Means {
        registry: tenants.registry,
        sessions: sessions.clone(),
        changes: changes.clone(),
        environment: Rc::clone(&environment),
    };
    let registrar = Registrar::start(tenants.store, means);
    let settings = settings(&environment.config);
    let api = Api::new(
        settings,
        &environment,
        desk.clone(),
        metrics.clone(),
        registrar.clone(),
    );
    let connections = Connections::new(api.clone(), api::app(&api));
    let reloader = Reloader {
        read: Reading::of_process,
        report,
        threshold,
        api: api.clone(),
        registrar: registrar.clone(),
        described: tenants.described,
        clients: pusher.into_iter().chain(flush.client()).collect(),
        log: environment.log.clone(),
    };
    reloader.listen()?;
    rates::task::start(inbox, environment.tenants.clone(), environment.log.clone());
    let (drained, drained_shards) = watch::channel(0);
    let end = drain::until_drained(
        signals,
        drained_shards,
        shards,
        &environment.outgoing,
        &connections,
        &environment.log,
    );
    let carrier = Carrier::new(
        port,
        parcels,
        connections.clone(),
        (desk, changes.clone(), registrar),
        &environment,
        metrics,
        drained,
    )?;
    tokio::task::spawn_local(notify::keep_alive());
    notify::ready();
    carrier.carry(end).await;
    changes.end().await;
    flush.flush().await;
    Ok(())
}

fn settings(config: &Config) -> api::Settings {
    api::Settings {
        any_host_single_tenant: config.any_host_single_tenant,
        request_id_baggage_key: config.request_id_baggage_key.clone(),
        header_value_bytes_max: config.header_value_bytes_max as usize,
        connect_error_backoff: Duration::from_millis(config.connect_error_backoff_ms),
        healthcheck_is_silent: !config.logs_healthchecks,
        tenant_name: config.self_host.tenant_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sign_hs256;
    use crate::channel::{self, Channels};
    use crate::config::{LogFormat, SelfHost};
    use crate::connection::OpenSockets;
    use crate::error::Level;
    use crate::fanout::Fanout;
    use crate::http::HeadLimits;
    use crate::metrics::Board;
    use crate::shard::{Shard, UpgradeSettings};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::path::PathBuf;
    use std::thread::JoinHandle;
    use tungstenite::protocol::{Role, WebSocket};

    const SHARDS: usize = 2;

    /// Both planes of a server, running.
    struct Server {
        directory: PathBuf,
        address: SocketAddr,
        signals: mpsc::Sender<&'static str>,
        control: JoinHandle<io::Result<()>>,
        threads: shards::Threads,
        board: Board,
    }

    impl Server {
        fn start(name: &str) -> Self {
            Self::start_with_room(name, 100)
        }

        /// With room for so many sockets on each shard.
        fn start_with_room(name: &str, sockets_max: usize) -> Self {
            let directory = std::env::temp_dir()
                .join(format!("realtime-control-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&directory);
            let variable =
                |name: &str| (name == "DATA_DIR").then(|| directory.display().to_string());
            let (mut config, _) = Config::from_env(variable).unwrap();
            config.log_level = Level::Emergency;
            let tenants = boot::boot_tenants(&config, SHARDS + 1, clock::unix_seconds()).unwrap();
            let (hasher, directory_of_shards) = (TopicHasher::new(7), tenants.directory.clone());
            let options = shards::Options {
                shards: SHARDS,
                listen: shards::Listen::Addrs(vec![([127, 0, 0, 1], 0).into()]),
                connections_max: 100,
                ..shards::Options::default()
            };
            let shard_hasher = hasher.clone();
            let board = Board::new(SHARDS);
            let of_shards = board.clone();
            let runtime = shards::start(options, move |id| {
                let fanout = Fanout::new(id, SHARDS, shard_hasher.clone(), 1_000_000);
                let settings = channel::Settings {
                    channel_error_backoff: Duration::ZERO,
                    queued_bytes_max: 1_000_000,
                    partial_bytes_max: 1_000_000,
                    idle_timeout_seconds: 60,
                    open_sockets: OpenSockets::new(sockets_max),
                    log_level: Level::Emergency.into(),
                    board: of_shards.clone(),
                };
                let upgrades = UpgradeSettings {
                    connect_error_backoff: Duration::ZERO,
                    no_channel_timeout: Duration::from_secs(600),
                    any_host_single_tenant: true,
                    seeks_tenants: false,
                    head: HeadLimits::default(),
                };
                Shard::new(
                    Channels::new(fanout, directory_of_shards.clone(), settings),
                    upgrades,
                )
            })
            .unwrap();
            let address = runtime.local_addr();
            let instruments = Instruments {
                board: board.clone(),
                control: Arc::default(),
                runtime: runtime.metrics().into(),
                drivers: [].into(),
            };
            let (port, threads) = runtime.into_parts();
            let writer = Writer::new(LogFormat::Text, config.log_level, None, None);
            let (signals, received) = drain::signal_channel();
            let boot = Boot {
                threshold: config.log_level.into(),
                report: Report::default(),
                config: Arc::new(config),
                port,
                tenants,
                hasher,
                instruments,
                writer,
            };
            let control = std::thread::spawn(move || run_with_signals(boot, received, || Ok(())));
            Self {
                directory,
                address,
                signals,
                control,
                threads,
                board,
            }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream
        }

        /// Ends it as an operator does; both planes have to follow.
        fn stop(self) {
            self.signals.try_send("sigterm").unwrap();
            self.join();
        }

        fn join(self) {
            self.control.join().unwrap().unwrap();
            self.threads.join().unwrap();
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    /// Sends a request and reads head and body of its answer.
    fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    fn token() -> String {
        sign_hs256(
            SelfHost::DEFAULT_JWT_SECRET.as_bytes(),
            r#"{"role":"anon","exp":4102444800}"#,
        )
    }

    fn post(body: &str) -> String {
        let (token, length) = (token(), body.len());
        format!(
            "POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    }

    fn upgrade(token: &str) -> String {
        format!(
            "GET /socket/websocket?vsn=2.0.0&apikey={token} HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive, Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }

    fn join(socket: &mut WebSocket<TcpStream>) {
        socket
            .send(r#"["1","1","realtime:room","phx_join",{"config":{}}]"#.into())
            .unwrap();
        let reply = socket.read().unwrap();
        assert!(
            reply.to_text().unwrap().contains(r#""status":"ok""#),
            "{reply}"
        );
    }

    #[test]
    fn requests_on_one_connection_end_in_an_upgrade() {
        let server = Server::start("upgrade");
        let mut stream = server.connect();
        let (head, body) = ask(&mut stream, "GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ndate: ") && body == "ok",
            "{head}"
        );
        let (head, _) = ask(
            &mut stream,
            &post(r#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#),
        );
        assert!(
            head.starts_with("HTTP/1.1 202 Accepted\r\n")
                && head.contains("\r\ncontent-length: 0\r\n"),
            "{head}"
        );
        let (head, _) = ask(
            &mut stream,
            "OPTIONS /api/broadcast HTTP/1.1\r\nhost: x\r\n\r\n",
        );
        assert!(
            head.starts_with("HTTP/1.1 204 No Content\r\n") && !head.contains("content-length"),
            "{head}"
        );
        // The client does not wait for the answer to its upgrade: what it sends behind it must arrive as well.
        let eager = [
            "\u{81}\u{82}".chars().map(|c| c as u8).collect::<Vec<_>>(),
            vec![0, 0, 0, 0],
            b"[]".to_vec(),
        ]
        .concat();
        stream
            .write_all(&[upgrade(&token()).as_bytes(), &eager].concat())
            .unwrap();
        let (head, _) = ask(&mut stream, "");
        assert!(
            head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{head}"
        );
        assert!(
            head.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{head}"
        );
        assert!(!head.contains("x-request-id"), "{head}");
        let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
        join(&mut socket);
        let (head, _) = ask(
            &mut server.connect(),
            &post(r#"{"messages":[{"topic":"room","event":"e","payload":{"n":1.50}}]}"#),
        );
        assert!(head.starts_with("HTTP/1.1 202 Accepted\r\n"), "{head}");
        let expected = r#"[null,null,"realtime:room","broadcast",{"event":"e","payload":{"n":1.50},"type":"broadcast"}]"#;
        assert_eq!(socket.read().unwrap().to_text().unwrap(), expected);
        server.stop();
    }

    #[test]
    fn an_upgrade_behind_a_request_counts_as_refused_where_there_is_no_room() {
        let server = Server::start_with_room("full", 0);
        let mut stream = server.connect();
        ask(&mut stream, "GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n");
        let (head, _) = ask(&mut stream, &upgrade(&token()));
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
        let close = socket.read().unwrap();
        let tungstenite::Message::Close(Some(close)) = close else {
            panic!("{close}");
        };
        assert_eq!(u16::from(close.code), 1013);
        let refused = |shard: usize| {
            server.board[shard].refused[crate::metrics::Refused::TooManyConnections as usize].get()
        };
        assert_eq!((0..SHARDS).map(refused).sum::<u64>(), 1);
        server.stop();
    }

    #[test]
    fn termination_closes_joined_sockets_and_ends_both_planes() {
        let server = Server::start("drain");
        let mut stream = server.connect();
        let (head, _) = ask(&mut stream, &upgrade(&token()));
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
        join(&mut socket);
        let mut idle = server.connect();
        ask(&mut idle, "GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n");
        server.signals.try_send("sigterm").unwrap();
        match socket.read().unwrap() {
            tungstenite::Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1012),
            other => panic!("{other}"),
        }
        server.join();
        assert_eq!(
            idle.read(&mut [0]).unwrap(),
            0,
            "waiting HTTP connections are closed"
        );
    }

    #[test]
    fn second_signal_stops_at_once() {
        let server = Server::start("twice");
        let mut stream = server.connect();
        // A body that never ends keeps the drain waiting.
        let half = post(r#"{"messages":[]}"#).replace("content-length: 15", "content-length: 16");
        stream.write_all(half.as_bytes()).unwrap();
        let mut other = server.connect();
        ask(&mut other, "GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n");
        let start = clock::now();
        server.signals.try_send("sigterm").unwrap();
        server.signals.try_send("sigint").unwrap();
        server.join();
        assert!(clock::now().duration_since(start) < limits::DRAIN_TIMEOUT / 2);
    }
}

//! From settings to an open connection.
//!
//! What comes in: [`Settings`] and the purpose of the connection. What goes out: a [`Connection`], or a [`ConnectError`] that is a
//! sentence for the operator. What always holds: both address families are tried, the second one shortly after the first
//! (`second_family_is_tried_while_the_first_hangs`); nothing takes longer than [`limits::DATABASE_CONNECTION_TIMEOUT`]; no password
//! stands in an error. Deliberately absent: startup options, which a pooler in between would refuse: what the server relies on is
//! set after the connection is open.

use super::tls::{connector, verifying_connector};
use super::{Families, Settings};
use crate::error::ErrorCode;
use crate::limits;
use crate::mail::AskError;
use socket2::{SockRef, TcpKeepalive};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What the server's SQL relies on, whatever the role or the database is set to. None of it runs long enough for a compiler: in a large
/// table of messages the planner thinks otherwise, and a replay of 1 ms takes 10.
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; \
     SET standard_conforming_strings = on; SET bytea_output = 'hex'; SET client_min_messages = warning; SET jit = off; \
     SET extra_float_digits = 1; SET lc_monetary = 'C'";

/// An open connection. Its driver runs as a task of the `LocalSet` and ends when this is dropped.
pub struct Connection {
    /// Sends queries.
    pub client: Client,
    address: IpAddr,
    is_ipv4_only: bool,
    driver: Driver,
}

/// What is known of a driver's task.
struct Driver {
    /// Closed when the task ends.
    ended: watch::Receiver<()>,
    /// Ends it at once.
    cut: Arc<Notify>,
    /// Tells the task when it is dropped.
    _alive: oneshot::Sender<()>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// The address that was connected to.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the host is a name that leads to IPv4 addresses only.
    #[must_use]
    pub fn is_ipv4_only(&self) -> bool {
        self.is_ipv4_only
    }

    /// Returns when the connection is closed, by whomever.
    pub async fn closed(&self) {
        let mut ended = self.driver.ended.clone();
        // Nothing is ever sent: the driver drops its end.
        while ended.changed().await.is_ok() {}
    }

    /// Closes it without a goodbye: the database does not answer. Whatever was asked fails.
    pub fn cut(&self) {
        self.driver.cut.notify_one();
    }
}

/// Why there is no connection. The text is a sentence for the operator, without secrets.
#[derive(Debug)]
pub enum ConnectError {
    /// The name of the host leads nowhere.
    HostNotFound {
        /// `db_host`.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// Nobody answers at its addresses: refused, no route, reset.
    Unreachable {
        /// Host and port.
        place: String,
        /// What the kernel said of the address that was tried last.
        error: io::Error,
    },
    /// It took longer than [`limits::DATABASE_CONNECTION_TIMEOUT`].
    TimedOut {
        /// Host and port.
        place: String,
    },
    /// TLS could not be agreed on.
    Tls {
        /// Host and port.
        place: String,
        /// What was wrong.
        error: String,
    },
    /// The database does not want this user, or not with this password.
    Denied {
        /// Host and port.
        place: String,
        /// What the database said.
        error: String,
    },
    /// There is no database of that name.
    NoSuchDatabase {
        /// Host and port.
        place: String,
        /// What the database said.
        error: String,
    },
    /// All connections that the database allows are in use.
    TooManyConnections {
        /// What the database said.
        error: String,
    },
    /// What was to be run first failed.
    AfterConnect {
        /// What the database said.
        error: String,
    },
    /// Anything else: the database is starting or stopping, or it is none.
    Other {
        /// Host and port.
        place: String,
        /// What happened.
        error: String,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNotFound { host, error } => {
                write!(f, "the host {host} cannot be found (nxdomain): {error}")
            }
            Self::Unreachable { place, error } => write!(f, "nobody answers at {place}: {error}"),
            Self::TimedOut { place } => write!(
                f,
                "{place} did not complete a connection within {} ms",
                limits::DATABASE_CONNECTION_TIMEOUT.as_millis()
            ),
            Self::Tls { place, error } => write!(
                f,
                "no TLS with {place}: {error}. Set ssl_enforced to false if it speaks none"
            ),
            Self::Denied { place, error } => write!(
                f,
                "{place} refuses the user or its password: {error}. Check db_user and db_password"
            ),
            Self::NoSuchDatabase { place, error } => {
                write!(f, "{place} has no such database: {error}. Check db_name")
            }
            Self::TooManyConnections { error } => {
                write!(f, "the database accepts no more connections: {error}")
            }
            Self::AfterConnect { error } => {
                write!(f, "what is run on every new connection failed: {error}")
            }
            Self::Other { place, error } => write!(f, "{place} cannot be used: {error}"),
        }
    }
}

impl Error for ConnectError {}

impl ConnectError {
    /// What a client is told.
    #[must_use]
    pub fn ask_error(&self) -> AskError {
        match self {
            Self::TooManyConnections { .. } => AskError::LackOfConnections,
            _ => AskError::Unreachable,
        }
    }

    /// The code of the line in the log.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooManyConnections { .. } => ErrorCode::DatabaseLackOfConnections,
            _ => ErrorCode::UnableToConnectToTenantDatabase,
        }
    }

    /// Sorts what happened while the connection was being agreed on.
    fn of(place: String, error: &tokio_postgres::Error) -> Self {
        let text = describe(error);
        let Some(code) = error.code() else {
            // The kind of an error is private, its text is not: these words are tokio-postgres' own.
            return if error.to_string().contains("TLS handshake") {
                Self::Tls { place, error: text }
            } else {
                Self::Other { place, error: text }
            };
        };
        if [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        ]
        .contains(code)
        {
            Self::Denied { place, error: text }
        } else if *code == SqlState::INVALID_CATALOG_NAME {
            Self::NoSuchDatabase { place, error: text }
        } else if *code == SqlState::TOO_MANY_CONNECTIONS {
            Self::TooManyConnections { error: text }
        } else {
            Self::Other { place, error: text }
        }
    }
}

/// What happened, in the database's own words where it said some. Nothing of it holds a password.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!(
            "{} {} ({})",
            said.severity(),
            said.message(),
            said.code().code()
        );
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Connects. The session is one in UTC, with `application_name` (spec: tenant-database 2).
///
/// # Errors
///
/// [`ConnectError`]; at the latest after [`limits::DATABASE_CONNECTION_TIMEOUT`].
pub async fn connect(
    settings: &Settings,
    application_name: &'static str,
) -> Result<Connection, ConnectError> {
    connect_hearing(settings, application_name, None).await
}

/// The same; what others `NOTIFY` after a `LISTEN` on it comes out of the channel. At most [`limits::NOTIFICATIONS_WAITING_MAX`] wait
/// there; further ones are lost. It ends with the connection.
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_listening(
    settings: &Settings,
    application_name: &'static str,
) -> Result<(Connection, mpsc::Receiver<Notification>), ConnectError> {
    let (heard, notifications) = mpsc::channel(limits::NOTIFICATIONS_WAITING_MAX);
    let connection = connect_hearing(settings, application_name, Some(heard)).await?;
    Ok((connection, notifications))
}

/// Where notifications go, if anywhere.
type Heard = Option<mpsc::Sender<Notification>>;

async fn connect_hearing(
    settings: &Settings,
    application_name: &'static str,
    heard: Heard,
) -> Result<Connection, ConnectError> {
    let place = place(settings);
    match tokio::time::timeout(
        limits::DATABASE_CONNECTION_TIMEOUT,
        attempt(settings, application_name, &place, heard),
    )
    .await
    {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::TimedOut { place }),
    }
}

/// Asks the database to cancel what it does for `connection`, on a connection of its own. Whether that came in time shows there.
///
/// # Errors
///
/// [`ConnectError`], at the latest after [`limits::DATABASE_GOODBYE_TIMEOUT`]. What was to be cancelled then runs to its end.
pub async fn cancel(settings: &Settings, connection: &Connection) -> Result<(), ConnectError> {
    let place = place(settings);
    let address = SocketAddr::new(connection.address, settings.port);
    let attempt = async {
        let unreachable = |error| ConnectError::Unreachable {
            place: place.clone(),
            error,
        };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        let token = connection.client.cancel_token();
        let outcome = if settings.ssl_enforced {
            let tls = tls(settings, address.ip(), &place)?;
            token.cancel_query_raw(stream, tls).await
        } else {
            token.cancel_query_raw(stream, NoTls).await
        };
        outcome.map_err(|error| ConnectError::of(place.clone(), &error))
    };
    match tokio::time::timeout(limits::DATABASE_GOODBYE_TIMEOUT, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::TimedOut { place }),
    }
}

fn place(settings: &Settings) -> String {
    format!("{}:{}", settings.host, settings.port)
}

async fn attempt(
    settings: &Settings,
    application_name: &'static str,
    place: &str,
    heard: Heard,
) -> Result<Connection, ConnectError> {
    let host = settings.host.as_str();
    let not_found = |error| ConnectError::HostNotFound {
        host: host.to_owned(),
        error,
    };
    let addresses = tokio::net::lookup_host((host, settings.port)).await;
    let mut addresses: Vec<SocketAddr> = addresses.map_err(not_found)?.collect();
    let family = match settings.manner.families {
        Families::Both => "",
        Families::V4 => "IPv4 ",
        Families::V6 => "IPv6 ",
    };
    addresses.retain(|address| match settings.manner.families {
        Families::Both => true,
        Families::V4 => address.is_ipv4(),
        Families::V6 => address.is_ipv6(),
    });
    if addresses.is_empty() {
        let text = format!("it has no {family}address");
        return Err(not_found(io::Error::new(io::ErrorKind::NotFound, text)));
    }
    let is_ipv4_only = host.parse::<IpAddr>().is_err() && addresses.iter().all(SocketAddr::is_ipv4);
    let unreachable = |error| ConnectError::Unreachable {
        place: place.to_owned(),
        error,
    };
    let (stream, address) = dial(addresses, TcpStream::connect)
        .await
        .map_err(unreachable)?;
    watch_peer(&stream).map_err(unreachable)?;
    let mut config = tokio_postgres::Config::new();
    config
        .user(&settings.user)
        .password(settings.password.expose())
        .dbname(&settings.name)
        .application_name(application_name);
    let failed = |error: tokio_postgres::Error| ConnectError::of(place.to_owned(), &error);
    let (client, driver) = if settings.ssl_enforced {
        config.ssl_mode(SslMode::Require);
        let tls = tls(settings, address.ip(), place)?;
        open(&config, stream, tls, heard).await
    } else {
        config.ssl_mode(SslMode::Disable);
        open(&config, stream, NoTls, heard).await
    }
    .map_err(failed)?;
    client.batch_execute(SESSION).await.map_err(failed)?;
    if let Some(sql) = &settings.manner.after_connect {
        let outcome = client.batch_execute(sql).await;
        outcome.map_err(|error| ConnectError::AfterConnect {
            error: describe(&error),
        })?;
    }
    Ok(Connection {
        client,
        address: address.ip(),
        is_ipv4_only,
        driver,
    })
}

/// TLS that names the host, or the address where the host's name cannot stand in a handshake.
fn tls(
    settings: &Settings,
    address: IpAddr,
    place: &str,
) -> Result<<MakeRustlsConnect as MakeTlsConnect<TcpStream>>::TlsConnect, ConnectError> {
    let host = settings.host.as_str();
    let name = if rustls::pki_types::ServerName::try_from(host).is_ok() {
        host.to_owned()
    } else {
        address.to_string()
    };
    let mut connector = match &settings.manner.ca_cert {
        None => connector(),
        Some(file) => verifying_connector(file).map_err(|error| ConnectError::Tls {
            place: place.to_owned(),
            error,
        })?,
    };
    let Ok(tls) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &name);
    Ok(tls)
}

/// Logs on, and starts the driver.
async fn open<T>(
    config: &tokio_postgres::Config,
    stream: TcpStream,
    tls: T,
    heard: Heard,
) -> Result<(Client, Driver), tokio_postgres::Error>
where
    T: TlsConnect<TcpStream>,
    T::Stream: Unpin + 'static,
{
    let (client, mut connection) = config.connect_raw(stream, tls).await?;
    let (running, ended) = watch::channel(());
    let (alive, dropped) = oneshot::channel::<()>();
    let cut = Arc::new(Notify::new());
    let cut_by_us = Arc::clone(&cut);
    tokio::task::spawn_local(async move {
        let _running = running;
        let last_words = async {
            let _ = dropped.await;
            tokio::time::sleep(limits::DATABASE_GOODBYE_TIMEOUT).await;
        };
        let messages = async {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let (AsyncMessage::Notification(notification), Some(heard)) = (message, &heard) {
                    // Whoever listens has other means to find what is lost here.
                    let _ = heard.try_send(notification);
                }
            }
        };
        // What the driver returns is what every query under way has returned as well.
        tokio::select! {
            () = messages => {}
            () = last_words => {}
            () = cut_by_us.notified() => {}
        }
    });
    let driver = Driver {
        ended,
        cut,
        _alive: alive,
    };
    Ok((client, driver))
}

/// A peer that is gone without a word is noticed within [`limits::DATABASE_SILENCE_MAX`].
fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(limits::DATABASE_SILENCE_MAX / 3)
        .with_interval(limits::DATABASE_SILENCE_MAX / 6)
        .with_retries(4);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(limits::DATABASE_SILENCE_MAX))
}

/// The first of these addresses that answers. Each next one is tried when the one before has failed, or has not answered for
/// [`limits::DATABASE_FAMILY_PAUSE`] (RFC 8305).
async fn dial<S: Send + 'static, F: Future<Output = io::Result<S>> + Send + 'static>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(S, SocketAddr)> {
    let mut waiting = by_turns(addresses);
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.pop_front() {
            let attempt = connect(address);
            attempts.spawn(async move { attempt.await.map(|stream| (stream, address)) });
        } else if attempts.is_empty() {
            return Err(failure);
        }
        let pause = tokio::time::sleep(limits::DATABASE_FAMILY_PAUSE);
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(answered)) => return Ok(answered),
                Ok(Err(error)) => failure = error,
                Err(error) => failure = io::Error::other(error),
            },
            () = pause, if !waiting.is_empty() => {}
        }
    }
}

/// IPv6 first (spec: tenant-database 1), then the families by turns. At most [`limits::DATABASE_ADDRESSES_MAX`].
fn by_turns(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let (mut v6, mut v4): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(SocketAddr::is_ipv6);
    let mut ordered = VecDeque::new();
    while ordered.len() < limits::DATABASE_ADDRESSES_MAX && !(v6.is_empty() && v4.is_empty()) {
        ordered.extend(v6.pop_front());
        ordered.extend(v4.pop_front());
    }
    ordered
}

/// A moment between half of `pause` and the whole, for retries that are not to come all at once.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    // Each state has a seed of its own: randomness enough to spread retries.
    let random = RandomState::new().hash_one(0_u8) % 1024;
    pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 2048
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let check = |list: &[&str], expected: &[&str]| {
            assert_eq!(by_turns(addresses(list)), addresses(expected), "{list:?}");
        };
        check(&["1.1.1.1:1", "[::1]:1"], &["[::1]:1", "1.1.1.1:1"]);
        check(
            &["1.1.1.1:1", "1.1.1.2:1", "[::1]:1", "[::2]:1"],
            &["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1"],
        );
        check(&["1.1.1.1:1", "1.1.1.2:1"], &["1.1.1.1:1", "1.1.1.2:1"]);
        check(&[], &[]);
        assert!(by_turns(addresses(&["1.1.1.1:1"; 100])).len() <= limits::DATABASE_ADDRESSES_MAX);
    }

    #[test]
    fn second_family_is_tried_while_the_first_hangs() {
        let connect = |address: SocketAddr| async move {
            if address.is_ipv6() {
                std::future::pending::<()>().await;
            }
            Ok(address)
        };
        let answered = block_on(dial(addresses(&["[::1]:1", "1.1.1.1:1"]), connect)).unwrap();
        assert!(answered.1.is_ipv4());
    }

    #[test]
    fn last_failure_is_told_when_all_addresses_fail() {
        let connect = |address: SocketAddr| async move {
            Err::<(), _>(if address.is_ipv6() {
                io::ErrorKind::NetworkUnreachable.into()
            } else {
                io::Error::from(io::ErrorKind::ConnectionRefused)
            })
        };
        let error = block_on(dial(addresses(&["[::1]:1", "1.1.1.1:1"]), connect)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = block_on(dial(Vec::new(), connect)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn retries_are_spread_over_half_of_their_pause() {
        let pause = Duration::from_secs(8);
        let pauses: Vec<_> = (0..64).map(|_| jittered(pause)).collect();
        assert!(
            pauses
                .iter()
                .all(|some| *some >= pause / 2 && *some <= pause)
        );
        assert!(pauses.iter().any(|some| *some != pauses[0]));
    }
}

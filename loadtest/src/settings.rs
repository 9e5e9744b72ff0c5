//! Where the server is, who the client claims to be, and which cores and process are watched.
//!
//! In: command-line options. Out: a [`Target`] and a [`Bench`]; tokens are signed here.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::expect::Expectations;
use crate::link::{PATIENCE, Pace, Target};
use crate::tokens::{self, Tokens};

/// The secret of the tenant in `loadtest/tenants.json`. It protects nothing.
pub const LOAD_SECRET: &str = "the-load-tenant-signs-with-this-and-guards-nothing";

/// Serializer version.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Vsn {
    /// 1.0.0
    #[value(name = "1")]
    V1,
    /// 2.0.0
    #[value(name = "2")]
    V2,
}

/// Options of all scenarios.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// The WebSocket endpoint; for `bare`, the path is not used.
    #[arg(
        long,
        global = true,
        default_value = "ws://127.0.0.1:4000/socket/websocket"
    )]
    pub target: String,
    /// The Host header: its first label is the tenant.
    #[arg(long, global = true, default_value = "load.localhost")]
    pub host: String,
    /// A token to use instead of signing one.
    #[arg(long, global = true)]
    pub token: Option<String>,
    /// The secret to sign tokens with (HS256).
    #[arg(long, global = true, default_value = LOAD_SECRET)]
    pub secret: String,
    /// How many different tokens are used in turn.
    #[arg(long, global = true, default_value_t = 1)]
    pub tokens: usize,
    /// How long a signed token is good for; each is renewed in time on every joined channel.
    #[arg(long, global = true, default_value_t = 3600.0)]
    pub token_seconds: f64,
    /// How often each member says that it is there.
    #[arg(long, global = true, default_value_t = 20.0)]
    pub heartbeat_seconds: f64,
    /// Serializer version.
    #[arg(long, global = true, value_enum, default_value = "2")]
    pub vsn: Vsn,
    /// With vsn 2: broadcasts as text frames instead of kind 3.
    #[arg(long, global = true)]
    pub text: bool,
    /// The cores of the harness, one thread on each.
    #[arg(long, global = true, value_delimiter = ',', default_value = "1")]
    pub cpus: Vec<usize>,
    /// The server's process: its CPU and memory are reported.
    #[arg(long, global = true)]
    pub pid: Option<u32>,
    /// How often everything is repeated.
    #[arg(long, global = true, default_value_t = 1)]
    pub runs: usize,
    /// A second server that gets the same load, run by run in turn: ratios of all figures are printed.
    #[arg(long, global = true)]
    pub against: Option<String>,
    /// Its process.
    #[arg(long, global = true, requires = "against")]
    pub against_pid: Option<u32>,
    /// The Host header for it, where that is another one.
    #[arg(long, global = true, requires = "against")]
    pub against_host: Option<String>,
    /// The secret of its tokens, where that is another one.
    #[arg(long, global = true, requires = "against")]
    pub against_secret: Option<String>,
    /// What every run has to meet, separated by commas: p99<50ms,loss=0. Exit code 3 when one does not.
    #[arg(long, global = true)]
    pub expect: Option<Expectations>,
    /// The exit code is about what was lost or refused, also when the machine was too busy for figures.
    #[arg(long, global = true)]
    pub busy_machine: bool,
    /// Sockets that are opened per second at most, by all scenarios but `joins`, which has a --rate.
    #[arg(long, global = true)]
    pub opens_per_second: Option<f64>,
    /// Writes a page with plots there as well.
    #[arg(long, global = true)]
    pub html: Option<PathBuf>,
    /// Print one JSON document instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The machine under the load.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Cores of the harness.
    pub cpus: Vec<usize>,
    /// Whose CPU and memory are watched.
    pub server: Option<Server>,
}

/// The process, or the threads of one, that are measured.
#[derive(Clone, Debug)]
pub struct Server {
    /// The process.
    pub pid: u32,
    /// Only threads whose name starts so: for servers that run inside the harness's own process.
    pub thread_prefix: String,
}

/// Where the server is and who the members claim to be, as one process of the harness tells another.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Place {
    url: String,
    host: String,
    token: Option<String>,
    secret: String,
    tokens: usize,
    token_life: Duration,
    /// When the first tokens are signed, since 1970.
    since: Duration,
    heartbeat: Duration,
    vsn: Vsn,
    text: bool,
}

impl Place {
    /// What to connect to.
    ///
    /// # Errors
    ///
    /// What is wrong with the options.
    pub fn target(&self) -> Result<Target, String> {
        let (address, path) = parse_url(&self.url)?;
        let tokens = match &self.token {
            Some(token) => Tokens::given(token),
            None => Tokens::signed(&self.secret, self.tokens, self.token_life, self.since)?,
        };
        Ok(Target {
            address,
            host: self.host.clone(),
            path,
            tokens,
            dialect: match (self.vsn, self.text) {
                (Vsn::V1, _) => Dialect::V1,
                (Vsn::V2, false) => Dialect::V2,
                (Vsn::V2, true) => Dialect::V2Text,
            },
            opens: None,
            first_topic: 0,
            heartbeat: self.heartbeat,
            patience: PATIENCE,
        })
    }
}

impl Settings {
    /// Where the server is and who the members claim to be from now on.
    ///
    /// # Errors
    ///
    /// What is wrong with the options.
    pub fn place(&self) -> Result<Place, String> {
        let duration = |name: &str, seconds: f64| match Duration::try_from_secs_f64(seconds) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            _ => Err(format!("{name} {seconds}: more than nothing, please")),
        };
        Ok(Place {
            url: self.target.clone(),
            host: self.host.clone(),
            token: self.token.clone(),
            secret: self.secret.clone(),
            tokens: self.tokens,
            token_life: duration("--token-seconds", self.token_seconds)?,
            since: tokens::since_1970(),
            heartbeat: duration("--heartbeat-seconds", self.heartbeat_seconds)?,
            vsn: self.vsn,
            text: self.text,
        })
    }

    /// What to connect to, in the dialect that the options name.
    ///
    /// # Errors
    ///
    /// What is wrong with the options.
    pub fn target(&self) -> Result<Target, String> {
        let opens = self.opens_per_second.map(Pace::per_second).map(Arc::new);
        Ok(Target {
            opens,
            ..self.place()?.target()?
        })
    }

    /// What has to be said before `seconds` of load with a token that will not last as long.
    pub fn warning(&self, seconds: f64) -> Option<String> {
        let left = Tokens::given(self.token.as_deref()?).given_for()?;
        (left.as_secs_f64() < seconds).then(|| {
            format!(
                "the token given with --token is good for {:.0} s, and this takes {seconds:.0} s: a server closes channels whose \
                 token has ended. Without --token, tokens are signed (--secret) and renewed",
                left.as_secs_f64()
            )
        })
    }

    /// The settings for the second server, if there is one.
    pub fn of_other(&self) -> Option<Self> {
        let target = self.against.clone()?;
        let or = |other: &Option<String>, own: &String| other.as_ref().unwrap_or(own).clone();
        Some(Self {
            target,
            pid: self.against_pid,
            host: or(&self.against_host, &self.host),
            secret: or(&self.against_secret, &self.secret),
            ..self.clone()
        })
    }

    /// What to measure on.
    pub fn bench(&self) -> Bench {
        Bench {
            cpus: self.cpus.clone(),
            server: self.pid.map(|pid| Server {
                pid,
                thread_prefix: String::new(),
            }),
        }
    }
}

/// `ws://host:port/path` to an address and a path. No TLS: a load test measures the server behind
/// whatever ends it.
fn parse_url(url: &str) -> Result<(SocketAddr, String), String> {
    let rest = url
        .strip_prefix("ws://")
        .ok_or_else(|| format!("{url}: only ws:// is spoken"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = authority
        .to_socket_addrs()
        .map_err(|error| format!("{authority}: {error}"))?
        .next()
        .ok_or_else(|| format!("{authority}: no address"))?;
    let path = if path.is_empty() { "/" } else { path };
    Ok((address, path.to_owned()))
}

#[cfg(test)]
impl Settings {
    /// What these words of a command line say.
    pub(crate) fn of(words: &[&str]) -> Self {
        use clap::Parser;
        #[derive(Parser)]
        struct Words {
            #[command(flatten)]
            settings: Settings,
        }
        Words::parse_from(["loadtest"].iter().chain(words)).settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_address_and_path() {
        let check = |url, port, path: &str| {
            let expected = (SocketAddr::from(([127, 0, 0, 1], port)), path.to_owned());
            assert_eq!(parse_url(url), Ok(expected));
        };
        check(
            "ws://127.0.0.1:4000/socket/websocket",
            4000,
            "/socket/websocket",
        );
        check("ws://127.0.0.1:80", 80, "/");
        assert!(parse_url("wss://127.0.0.1:1/").is_err());
        assert!(parse_url("ws://127.0.0.1/").is_err());
    }

    #[test]
    fn options_say_who_the_members_are_and_for_how_long() {
        let target = Settings::of(&[]).target().unwrap();
        let half_an_hour = Some(Duration::from_secs(1800));
        assert_eq!(target.tokens.turn_length(), half_an_hour);
        assert_eq!(target.heartbeat, Duration::from_secs(20));
        let words = ["--token-seconds", "10", "--tokens", "7", "--vsn", "1"];
        let target = Settings::of(&words).target().unwrap();
        assert_eq!(target.tokens.turn_length(), Some(Duration::from_secs(5)));
        assert_eq!(target.tokens.users(), 7);
        assert_eq!(target.dialect, Dialect::V1);
        for words in [["--token-seconds", "0"], ["--heartbeat-seconds", "nan"]] {
            let error = Settings::of(&words).target().unwrap_err();
            assert!(error.starts_with(words[0]), "{error}");
        }
        // A child process connects to the same place with the same tokens.
        let place = Settings::of(&["--text"]).place().unwrap();
        let told: Place = serde_json::from_str(&serde_json::to_string(&place).unwrap()).unwrap();
        let (own, told) = (place.target().unwrap(), told.target().unwrap());
        assert_eq!(own.tokens.of(0), told.tokens.of(0));
        assert_eq!((own.dialect, told.dialect), (Dialect::V2Text, own.dialect));
    }

    #[test]
    fn a_given_token_that_does_not_last_is_said() {
        let place = Settings::of(&["--token-seconds", "60"]).place().unwrap();
        let token = place.target().unwrap().tokens.of(0);
        let given = Settings::of(&["--token", &token]);
        assert_eq!(given.warning(30.0), None);
        let warning = given.warning(3600.0).unwrap();
        assert!(warning.contains("and this takes 3600 s"), "{warning}");
        // Those that are signed here are renewed, and one that does not say when it ends is believed.
        assert_eq!(Settings::of(&[]).warning(1e6), None);
        assert_eq!(Settings::of(&["--token", "x"]).warning(1e6), None);
    }

    #[test]
    fn the_tenant_files_have_the_secret_that_is_signed_with() {
        for file in [
            include_str!("../tenants.json"),
            include_str!("../tenants-database.json"),
        ] {
            let tenants: serde_json::Value = serde_json::from_str(file).unwrap();
            assert_eq!(tenants[0]["external_id"], "load");
            assert_eq!(tenants[0]["jwt_secret"], LOAD_SECRET);
        }
    }
}

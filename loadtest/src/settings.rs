//! Where the server is, who the client claims to be, and which cores and process are watched.
//!
//! In: command-line options. Out: a [`Target`] and a [`Bench`]; tokens are signed here.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::expect::Expectations;
use crate::link::{Pace, Target};

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

/// What the ids of users begin with; a number of twelve digits follows.
pub const USER_PREFIX: &str = "00000000-0000-4000-8000-";

#[derive(Deserialize, Serialize)]
struct Claims {
    role: String,
    exp: u64,
    sub: String,
}

impl Settings {
    /// What to connect to, in the dialect that the options name.
    ///
    /// # Errors
    ///
    /// What is wrong with the options.
    pub fn target(&self) -> Result<Target, String> {
        let dialect = match (self.vsn, self.text) {
            (Vsn::V1, _) => Dialect::V1,
            (Vsn::V2, false) => Dialect::V2,
            (Vsn::V2, true) => Dialect::V2Text,
        };
        let target = target_of(
            &self.target,
            &self.host,
            self.token.as_deref(),
            &self.secret,
            self.tokens,
            dialect,
        )?;
        let opens = self.opens_per_second.map(Pace::per_second).map(Arc::new);
        Ok(Target { opens, ..target })
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

/// A target from its parts; without a token, `tokens` different ones are signed.
///
/// # Errors
///
/// What is wrong with them.
pub fn target_of(
    url: &str,
    host: &str,
    token: Option<&str>,
    secret: &str,
    tokens: usize,
    dialect: Dialect,
) -> Result<Target, String> {
    let (address, path) = parse_url(url)?;
    let tokens = match token {
        Some(token) => vec![token.to_owned()],
        None => (0..tokens.max(1))
            .map(|index| sign(secret, index))
            .collect::<Result<_, _>>()?,
    };
    Ok(Target {
        address,
        host: host.to_owned(),
        path,
        tokens,
        dialect,
        opens: None,
        first_topic: 0,
    })
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

/// A token with the claims that the server demands (`role` and `exp`), good for a day. `index`
/// makes it that of another user: the policies of `loadtest/database.sql` know the same ones.
fn sign(secret: &str, index: usize) -> Result<String, String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let claims = Claims {
        role: "authenticated".to_owned(),
        exp: now + 24 * 3600,
        sub: format!("{USER_PREFIX}{index:012}"),
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| format!("token: {error}"))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};

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
    fn tokens_differ_and_verify() {
        let tokens = [sign("s", 0).unwrap(), sign("s", 1).unwrap()];
        assert_ne!(tokens[0], tokens[1]);
        for token in tokens {
            let key = DecodingKey::from_secret(b"s");
            let claims =
                jsonwebtoken::decode::<Claims>(&token, &key, &Validation::new(Algorithm::HS256));
            assert_eq!(claims.unwrap().claims.role, "authenticated");
        }
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

//! What a server says of itself when it is ready: where it listens, how to try it, and what is off.
//!
//! What comes in: facts. What goes out: text for a person at a terminal; nothing else parses it, but tests wait for the line with
//! `listening on`. Deliberately absent: writing it.

use super::store::TenantRecord;
use crate::auth::sign_hs256;
use std::fmt::Write;
use std::net::SocketAddr;

/// What the text is about.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Where the shards listen; at least one address.
    pub address: SocketAddr,
    /// How many shards there are.
    pub shards: usize,
    /// Their kernel interface: `io_uring`, `epoll`.
    pub driver: &'a str,
    /// Why it is not `io_uring`, where that was wanted.
    pub fallback: Option<&'a str>,
    /// The tenant to be tried, if there is one.
    pub tenant: Option<&'a TenantRecord>,
    /// Whether every host means that tenant.
    pub any_host: bool,
    /// Whether a token may be shown: a token that everybody could make anyway, or that nobody but its owner reads.
    pub shows_token: bool,
    /// Now, in Unix seconds.
    pub unix_now: i64,
}

/// How long the token to try with is good, in seconds.
const TOKEN_SECONDS: i64 = 365 * 24 * 60 * 60;

/// The text, with line breaks.
#[must_use]
pub fn banner(facts: &Facts<'_>) -> String {
    let mut text = String::new();
    let shards = if facts.shards == 1 {
        "1 shard".to_owned()
    } else {
        format!("{} shards", facts.shards)
    };
    let driver = facts.driver;
    line(
        &mut text,
        format_args!(
            "realtime {} listening on {} ({shards}, {driver})",
            env!("CARGO_PKG_VERSION"),
            facts.address
        ),
    );
    if let Some(reason) = facts.fallback {
        line(&mut text, format_args!("  io_uring is not used: {reason}"));
    }
    match facts.tenant {
        Some(tenant) => invitation(&mut text, facts, tenant),
        None => line(
            &mut text,
            format_args!(
                "  tenants are found by the first label of the host: http://<external_id>.<domain>"
            ),
        ),
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes everything");
}

/// How to try a tenant out.
fn invitation(text: &mut String, facts: &Facts<'_>, tenant: &TenantRecord) {
    let port = facts.address.port();
    let host = if facts.any_host {
        "localhost".to_owned()
    } else {
        format!("{}.localhost", tenant.external_id)
    };
    let token = tenant
        .jwt_secret
        .as_deref()
        .filter(|_| facts.shows_token)
        .map(|secret| {
            let claims = format!(
                r#"{{"role":"anon","exp":{}}}"#,
                facts.unix_now + TOKEN_SECONDS
            );
            sign_hs256(secret.as_bytes(), &claims)
        });
    line(
        text,
        format_args!("\n  URL     http://{host}:{port}  (WebSocket: ws://{host}:{port}/socket)"),
    );
    line(text, format_args!("  tenant  {}", tenant.external_id));
    match &token {
        Some(token) => {
            line(text, format_args!("  token   {token}"));
            line(
                text,
                format_args!(
                    "          role anon, good for a year; its secret is in the documentation, so set API_JWT_SECRET before others can connect"
                ),
            );
        }
        None => line(
            text,
            format_args!(
                "  token   sign one with the tenant's secret (HS256, claims role and exp)"
            ),
        ),
    }
    let token = token.as_deref().unwrap_or("<token>");
    line(
        text,
        format_args!("\n  import {{ createClient }} from '@supabase/supabase-js'"),
    );
    line(
        text,
        format_args!(
            "  const room = createClient('http://{host}:{port}', '{token}').channel('room1', {{ config: {{ broadcast: {{ self: true }} }} }})"
        ),
    );
    line(
        text,
        format_args!(
            "  room.on('broadcast', {{ event: '*' }}, console.log).subscribe((s) => s === 'SUBSCRIBED' && room.send({{ type: 'broadcast', event: 'hello', payload: {{}} }}))"
        ),
    );
    if !tenant.has_database() {
        line(
            text,
            format_args!(
                "\n  off: private channels, replay and Postgres Changes, because this tenant has no Postgres database"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::TEST_DEFAULTS;
    use super::*;
    use crate::auth::Verifier;
    use crate::config::SelfHost;
    use std::sync::Arc;

    const NOW: i64 = 1_700_000_000;

    fn tenant() -> TenantRecord {
        let mut tenant = TenantRecord::new("realtime-dev", &TEST_DEFAULTS, NOW);
        tenant.jwt_secret = Some(SelfHost::DEFAULT_JWT_SECRET.to_owned());
        tenant
    }

    fn facts(tenant: Option<&TenantRecord>) -> Facts<'_> {
        let address = ([0, 0, 0, 0], 4000).into();
        Facts {
            address,
            shards: 2,
            driver: "io_uring",
            fallback: None,
            tenant,
            any_host: true,
            shows_token: true,
            unix_now: NOW,
        }
    }

    #[test]
    fn first_line_says_where_it_listens() {
        let text = banner(&facts(None));
        assert!(
            text.lines().next().is_some_and(
                |line| line.ends_with("listening on 0.0.0.0:4000 (2 shards, io_uring)")
            ),
            "{text}"
        );
        let text = banner(&Facts {
            fallback: Some("seccomp forbids it"),
            shards: 1,
            driver: "epoll",
            ..facts(None)
        });
        assert!(
            text.contains("(1 shard, epoll)\n  io_uring is not used: seccomp forbids it\n"),
            "{text}"
        );
    }

    #[test]
    fn token_of_the_banner_is_good_for_a_year() {
        let tenant = tenant();
        let text = banner(&facts(Some(&tenant)));
        let token = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("token   "))
            .unwrap();
        let secret = tenant.jwt_secret.clone().map(String::into_bytes);
        let verifier = Verifier::new(secret, None, Arc::default());
        assert!(verifier.verify_connection(token, NOW).is_ok());
        assert!(
            verifier
                .verify_connection(token, NOW + TOKEN_SECONDS)
                .is_err()
        );
        assert!(
            text.contains(&format!("createClient('http://localhost:4000', '{token}')")),
            "{text}"
        );
        assert!(text.contains("off: private channels"), "{text}");
    }

    #[test]
    fn secret_tenants_show_no_token() {
        let tenant = tenant();
        let text = banner(&Facts {
            shows_token: false,
            any_host: false,
            ..facts(Some(&tenant))
        });
        assert!(!text.contains("eyJ") && text.contains("sign one"), "{text}");
        assert!(
            text.contains("http://realtime-dev.localhost:4000"),
            "{text}"
        );
    }
}

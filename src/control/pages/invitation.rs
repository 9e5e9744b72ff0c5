//! What the pages are filled in with, so that the first click works: `/inspector/defaults.json`.
//!
//! What comes in: the host that the page was asked of, and the tenants. What goes out: a tenant's address and, where everybody could make
//! one anyway, a token. What always holds: a token is given away only where the server runs without a secret of its own and the tenant
//! takes the one of the documentation (`a_token_is_shown_where_everybody_could_make_it`); a tenant's name only to who knows it.
//! Deliberately absent: secrets, which are never read here; whether a token is good is asked of the tenant's own keys.

use crate::auth::sign_hs256;
use crate::config::SelfHost;
use crate::control::tenants::Live;
use crate::http::{Head, external_id, is_bare_host};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

use crate::tenant::Tenant;

/// What the answer depends on beside the request.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// All tenants.
    pub live: &'a Live,
    /// `ANY_HOST_SINGLE_TENANT`.
    pub any_host_single_tenant: bool,
    /// `SELF_HOST_TENANT_NAME`: whom a person who tries the server out means.
    pub tenant_name: &'a str,
    /// No secret is set for managing tenants, so this is nobody's production server.
    pub is_development: bool,
    /// Now, in Unix seconds.
    pub unix_now: i64,
}

/// How long a token of the page is good, in seconds.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// `/inspector/defaults.json`.
#[must_use]
pub fn defaults(head: &Head, host: &Host<'_>) -> Value {
    let Some((origin, tenant, is_named)) = found(head, host) else {
        return json!({
            "host": null,
            "tenant": null,
            "token": null,
            "why": "The address of this page names no tenant. Enter your project's: http://<external_id>.<domain>, with the port if there is one.",
        });
    };
    let token = token(&tenant, host);
    let why = match (&token, tenant.suspended) {
        (_, true) => "The tenant is suspended: nobody can connect to it until that is taken back.",
        (Some(_), _) => {
            "This server runs with the secret of the documentation, so everybody can make this token: role anon, good for a day. Set API_JWT_SECRET before others can reach it."
        }
        (None, _) => {
            "Enter a token of the tenant: signed with its secret, with the claims role and exp."
        }
    };
    json!({
        "host": origin,
        "tenant": (is_named || host.is_development).then_some(&*tenant.external_id),
        "token": token,
        "why": why,
    })
}

/// The origin to connect to, the tenant that it means, and whether the request has named it.
fn found(head: &Head, host: &Host<'_>) -> Option<(String, Arc<Tenant>, bool)> {
    let authority = head.value("host")?.trim();
    let is_host =
        |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | '_' | ':' | '[' | ']');
    if authority.is_empty() || !authority.chars().all(is_host) {
        return None;
    }
    // What stands in front of the server, and speaks TLS for it, says so.
    let forwarded = head.value("x-forwarded-proto").unwrap_or_default();
    let is_secure = forwarded
        .split(',')
        .next()
        .is_some_and(|it| it.trim() == "https");
    let scheme = if is_secure { "https" } else { "http" };
    let label = external_id(head).unwrap_or_default();
    let means_the_only = host.any_host_single_tenant && is_bare_host(head);
    let directory = &host.live.directory;
    if let Some(tenant) = directory.find_host(&label, means_the_only) {
        let is_named = *tenant.external_id == *label;
        return Some((
            format!("{scheme}://{authority}"),
            Arc::clone(tenant),
            is_named,
        ));
    }
    // On the developer's own machine every name below localhost leads here.
    let port = port_of_loopback(authority).filter(|_| host.is_development)?;
    let tenant = directory.find(host.tenant_name)?;
    let origin = format!("http://{}.localhost{port}", tenant.external_id);
    Some((origin, Arc::clone(tenant), false))
}

/// The port with its colon, where the host is this machine by a name or an address that names no tenant.
fn port_of_loopback(authority: &str) -> Option<&str> {
    let host_end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']')? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = address.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
    (is_loopback || host.eq_ignore_ascii_case("localhost")).then_some(port)
}

/// A token that the tenant takes, if everybody could make it.
fn token(tenant: &Tenant, host: &Host<'_>) -> Option<String> {
    if !host.is_development || tenant.suspended {
        return None;
    }
    let expires = host.unix_now + TOKEN_SECONDS;
    let claims = format!(r#"{{"role":"anon","exp":{expires}}}"#);
    let token = sign_hs256(SelfHost::DEFAULT_JWT_SECRET.as_bytes(), &claims);
    let verdict = tenant.verifier.verify_connection(&token, host.unix_now);
    verdict.is_ok().then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tenants::tests::{record, registry};

    const NOW: i64 = 1_700_000_000;

    /// What a page gets that was asked of `authority`; tenants by name and secret.
    fn asked(tenants: &[(&str, &str)], authority: &str, is_development: bool) -> Value {
        asked_with(tenants, &[("host", authority)], is_development)
    }

    fn asked_with(
        tenants: &[(&str, &str)],
        headers: &[(&str, &str)],
        is_development: bool,
    ) -> Value {
        let mut registry = registry();
        for (name, secret) in tenants {
            let mut record = record(name);
            record.jwt_secret = Some((*secret).to_owned());
            record.suspend = *name == "suspended";
            registry.apply(&record);
        }
        let live = Arc::clone(&registry.watch().borrow());
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), value.as_bytes().into()));
        let head = Head {
            method: "GET".into(),
            target: "/inspector/defaults.json".into(),
            headers: headers.collect(),
        };
        let host = Host {
            live: &live,
            any_host_single_tenant: true,
            tenant_name: "realtime-dev",
            is_development,
            unix_now: NOW,
        };
        defaults(&head, &host)
    }

    const KNOWN: (&str, &str) = ("realtime-dev", SelfHost::DEFAULT_JWT_SECRET);
    const OTHER: (&str, &str) = ("other", "a secret that nobody knows");

    #[test]
    fn a_token_is_shown_where_everybody_could_make_it() {
        let check =
            |tenants: &[(&str, &str)], authority: &str, is_development: bool, expected: bool| {
                let found = asked(tenants, authority, is_development);
                assert_eq!(found["token"].is_string(), expected, "{authority}: {found}");
                assert!(found["why"].as_str().is_some_and(|why| why.ends_with('.')));
            };
        check(&[KNOWN], "localhost:4000", true, true);
        check(&[KNOWN], "realtime-dev.example.com", true, true);
        check(&[KNOWN, OTHER], "localhost:4000", true, true);
        check(&[KNOWN], "localhost:4000", false, false);
        check(&[OTHER], "localhost:4000", true, false);
        check(&[KNOWN, OTHER], "other.localhost", true, false);
        check(&[("suspended", KNOWN.1)], "localhost", true, false);
        check(&[], "localhost:4000", true, false);
        check(&[KNOWN, OTHER], "nosuch.example.com", true, false);
    }

    #[test]
    fn the_token_is_good_for_a_day() {
        let found = asked(&[KNOWN], "localhost", true);
        let token = found["token"].as_str().unwrap();
        let mut registry = registry();
        let mut record = record("x");
        record.jwt_secret = Some(KNOWN.1.to_owned());
        let tenant = registry.apply(&record).0;
        let last = NOW + TOKEN_SECONDS;
        assert!(tenant.verifier.verify_connection(token, last - 1).is_ok());
        assert!(tenant.verifier.verify_connection(token, last).is_err());
    }

    #[test]
    fn the_address_leads_to_the_tenant() {
        let check = |tenants: &[(&str, &str)],
                     authority: &str,
                     host: Option<&str>,
                     tenant: Option<&str>| {
            let found = asked(tenants, authority, true);
            assert_eq!(found["host"].as_str(), host, "{authority}");
            assert_eq!(found["tenant"].as_str(), tenant, "{authority}");
        };
        let both = [KNOWN, OTHER];
        let known = Some("realtime-dev");
        check(
            &[KNOWN],
            "localhost:4000",
            Some("http://localhost:4000"),
            known,
        );
        check(
            &[KNOWN],
            "127.0.0.1:4000",
            Some("http://127.0.0.1:4000"),
            known,
        );
        check(&[KNOWN], "[::1]:4000", Some("http://[::1]:4000"), known);
        check(
            &both,
            "localhost:4000",
            Some("http://realtime-dev.localhost:4000"),
            known,
        );
        check(
            &both,
            "127.0.0.1",
            Some("http://realtime-dev.localhost"),
            known,
        );
        check(
            &both,
            "[::1]:1",
            Some("http://realtime-dev.localhost:1"),
            known,
        );
        check(
            &both,
            "other.x.com",
            Some("http://other.x.com"),
            Some("other"),
        );
        check(&both, "nosuch.x.com", None, None);
        check(&both, "10.0.0.1", None, None);
        check(&[OTHER], "10.0.0.1", Some("http://10.0.0.1"), Some("other"));
        check(&[OTHER], "a b", None, None);
        check(&[OTHER], "a\"<script>", None, None);
    }

    #[test]
    fn a_name_is_told_to_who_knows_it() {
        let found = asked(&[OTHER], "10.0.0.1", false);
        assert_eq!(
            (&found["host"], &found["tenant"]),
            (&json!("http://10.0.0.1"), &Value::Null)
        );
        let found = asked(&[OTHER], "other.x.com", false);
        assert_eq!(found["tenant"], "other");
        assert_eq!(
            asked(&[KNOWN, OTHER], "localhost", false)["host"],
            Value::Null
        );
    }

    #[test]
    fn a_proxy_that_speaks_tls_says_so() {
        let check = |forwarded: &str, expected: &str| {
            let headers = [("host", "other.x.com"), ("x-forwarded-proto", forwarded)];
            assert_eq!(
                asked_with(&[OTHER], &headers, false)["host"],
                expected,
                "{forwarded}"
            );
        };
        check("https", "https://other.x.com");
        check("https, http", "https://other.x.com");
        check("http", "http://other.x.com");
        check("gopher", "http://other.x.com");
    }
}

//! Who may see what belongs to no tenant: tokens of operators (spec: http-api 1.6).
//!
//! What comes in: the headers of a request. What goes out: whether it may pass. What always holds: without a secret nobody passes
//! (`without_a_secret_nobody_passes`). Deliberately absent: tokens of tenants, and what is refused with (403, empty).

use crate::auth::{ClaimValidators, Verifier, normalise};
use crate::config::{Config, Secret};
use hyper::header::{AUTHORIZATION, HeaderMap};
use std::sync::Arc;

/// Knows the secrets of which one must have signed a token, and the tokens that are refused all the same.
#[derive(Debug)]
pub struct Gate {
    verifiers: Vec<Verifier>,
    blocklist: Vec<Secret>,
}

impl Gate {
    /// In front of the metrics: `METRICS_JWT_SECRET`, `METRICS_TOKEN_BLOCKLIST`.
    #[must_use]
    pub fn of_metrics(config: &Config) -> Self {
        let secrets = [config.metrics_jwt_secret.as_ref()];
        Self::new(config, &secrets, &config.metrics_token_blocklist)
    }

    /// In front of the management API: `API_JWT_SECRET`, `API_JWT_SECRET_NEXT`, `API_TOKEN_BLOCKLIST`.
    #[must_use]
    pub fn of_api(config: &Config) -> Self {
        let secrets = [&config.api_jwt_secret, &config.api_jwt_secret_next];
        let secrets = secrets.map(Option::as_ref);
        Self::new(config, &secrets, &config.api_token_blocklist)
    }

    fn new(config: &Config, secrets: &[Option<&Secret>], blocklist: &[Secret]) -> Self {
        let validators = Arc::new(ClaimValidators::new(config.claim_validators.clone()));
        let secrets = secrets.iter().flatten();
        let verifiers = secrets.map(|secret| {
            let secret = secret.expose().as_bytes().to_vec();
            Verifier::new(Some(secret), None, Arc::clone(&validators))
        });
        Self {
            verifiers: verifiers.collect(),
            blocklist: blocklist.to_vec(),
        }
    }

    /// Whether no secret is set, so that nobody passes.
    #[must_use]
    pub fn is_without_secret(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// Whether the one `Authorization` of a request is a bearer's good token. No claim is required.
    #[must_use]
    pub fn lets_pass(&self, headers: &HeaderMap, unix_now: i64) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let Some(token) = value
            .to_str()
            .ok()
            .and_then(|it| it.strip_prefix("Bearer "))
        else {
            return false;
        };
        let token = normalise(token);
        let is_blocked = self.blocklist.iter().any(|it| it.expose() == token);
        let mut verifiers = self.verifiers.iter();
        !is_blocked && verifiers.any(|verifier| verifier.verify(&token, unix_now).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sign_hs256;

    const NOW: i64 = 1_000;

    fn config(variables: &[(&str, &str)]) -> Config {
        let get = |name: &str| {
            let variable = variables.iter().find(|(it, _)| *it == name);
            variable.map(|(_, value)| (*value).to_owned())
        };
        Config::from_env(get).unwrap().0
    }

    fn gate(variables: &[(&str, &str)]) -> Gate {
        Gate::of_metrics(&config(variables))
    }

    fn passes(gate: &Gate, values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        gate.lets_pass(&headers, NOW)
    }

    #[test]
    fn a_token_of_the_secret_passes() {
        let token = |claims: &str| sign_hs256(b"secret", claims);
        let blocked = token(r#"{"of":"one who left"}"#);
        let gate = gate(&[
            ("METRICS_JWT_SECRET", "secret"),
            ("METRICS_TOKEN_BLOCKLIST", &format!("x,{blocked}")),
            ("JWT_CLAIM_VALIDATORS", r#"{"iss":"me"}"#),
        ]);
        let check = |value: &str, expected: bool| {
            assert_eq!(passes(&gate, &[value]), expected, "{value}");
        };
        let good = token("{}");
        check(&format!("Bearer {good}"), true);
        check(&format!("Bearer  {}", good.replace('.', "%2E")), true);
        check(&format!("Bearer {}", token(r#"{"exp":1001}"#)), true);
        check(&format!("Bearer {}", token(r#"{"exp":1000}"#)), false);
        check(&format!("Bearer {}", token(r#"{"iss":"me"}"#)), true);
        check(&format!("Bearer {}", token(r#"{"iss":"you"}"#)), false);
        check(&format!("Bearer {}", sign_hs256(b"other", "{}")), false);
        check(&format!("Bearer {blocked}"), false);
        check(&format!("Bearer {}", blocked.replace('.', "%2e")), false);
        check(&format!("bearer {good}"), false);
        check(&format!("Basic {good}"), false);
        check(&format!("Bearer{good}"), false);
        check(&good, false);
        check("", false);
        check("Bearer ", false);
        check("nospace", false);
        assert!(!passes(&gate, &[]));
        let good = format!("Bearer {good}");
        assert!(!passes(&gate, &[&good, &good]), "one header, not two");
    }

    #[test]
    fn either_secret_of_the_api_will_do() {
        let token = |secret: &str| sign_hs256(secret.as_bytes(), "{}");
        let blocked = token("next");
        let check = |variables: &[(&str, &str)], secret: &str, expected: bool| {
            let gate = Gate::of_api(&config(variables));
            let value = format!("Bearer {}", token(secret));
            assert_eq!(passes(&gate, &[&value]), expected, "{variables:?} {secret}");
        };
        let both = [("API_JWT_SECRET", "now"), ("API_JWT_SECRET_NEXT", "next")];
        check(&both, "now", true);
        check(&both, "next", true);
        check(&both, "other", false);
        check(&both[..1], "now", true);
        check(&both[..1], "next", false);
        check(&both[1..], "next", true);
        check(&[], "now", false);
        check(&[("METRICS_JWT_SECRET", "now")], "now", false);
        let with_blocklist = [both[0], both[1], ("API_TOKEN_BLOCKLIST", &blocked)];
        check(&with_blocklist, "now", true);
        check(&with_blocklist, "next", false);
    }

    #[test]
    fn without_a_secret_nobody_passes() {
        for variables in [&[][..], &[("METRICS_JWT_SECRET", "")]] {
            let gate = gate(variables);
            for secret in [
                "",
                "nil",
                "super-secret-jwt-token-with-at-least-32-characters-long",
            ] {
                let token = sign_hs256(secret.as_bytes(), "{}");
                assert!(!passes(&gate, &[&format!("Bearer {token}")]), "{secret:?}");
            }
        }
    }
}

//! What is wrong with a token, and what each place says about it (spec: auth 1.5).

use crate::error::{ErrorCode, inspect, inspect_str, text};
use serde_json::Value;
use std::fmt;

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenError {
    /// Not three parts, or a part that is not base64url or not JSON.
    TokenMalformed,
    /// The payload is JSON but no object.
    ExpectedClaimsMap,
    /// The header is JSON but no object.
    ExpectedHeaderMap,
    /// There is no key for the token's algorithm and key id.
    SignerMissing {
        /// The key id that was looked for; none when the token has none, or the tenant has no key set.
        kid: Option<Box<str>>,
    },
    /// The signature does not belong to header and payload.
    Signature,
    /// A claim that is there has an unacceptable value.
    InvalidClaim(Box<InvalidClaim>),
    /// `role` or `exp` is not there, or `role` is not a non-empty string.
    MissingClaims,
    /// The token was good once.
    Expired {
        /// Seconds since then; 0 in the second of `exp` itself.
        seconds: i64,
    },
}

/// See [`TokenError::InvalidClaim`].
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidClaim {
    /// What the check says.
    pub reason: Reason,
    /// The claim's name.
    pub claim: Box<str>,
    /// Its value.
    pub value: Value,
}

/// What the check of a claim says: the original's `message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `exp` is not after this time, in seconds since 1970.
    Now(i64),
    /// Any other claim.
    InvalidToken,
}

/// The text of a bad signature, to a join and an upgrade.
const BAD_SIGNATURE: &str = "Failed to validate JWT signature";
/// The text of what is no token.
const NO_JWT: &str = "The token provided is not a valid JWT";

impl TokenError {
    /// Status and `error` text of a refused upgrade.
    #[must_use]
    pub fn upgrade_response(&self) -> (u16, String) {
        match self {
            Self::Expired { .. } => (401, "Token has expired".to_owned()),
            Self::TokenMalformed
            | Self::MissingClaims
            | Self::Signature
            | Self::SignerMissing { .. } => (401, self.text()),
            Self::ExpectedClaimsMap | Self::ExpectedHeaderMap | Self::InvalidClaim(_) => {
                (500, "Error connecting to Realtime".to_owned())
            }
        }
    }

    /// The `reason` of a refused join.
    #[must_use]
    pub fn join_reason(&self) -> String {
        match self {
            Self::ExpectedClaimsMap | Self::ExpectedHeaderMap | Self::InvalidClaim(_) => {
                text::UNKNOWN_ERROR_ON_CHANNEL.to_owned()
            }
            _ => self.code().reason(&self.text()),
        }
    }

    /// The message of a channel that is shut down because a check of its token failed: text, or an inspected term.
    #[must_use]
    pub fn shutdown_message(&self) -> String {
        match self {
            Self::Signature | Self::SignerMissing { kid: None } => self.inspected(),
            _ => self.text(),
        }
    }

    /// The code of a line about a channel: a refused join, a refresh, a timer.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TokenMalformed => ErrorCode::MalformedJWT,
            Self::Expired { .. } | Self::MissingClaims => ErrorCode::InvalidJWTToken,
            Self::Signature => ErrorCode::JwtSignatureError,
            Self::SignerMissing { .. } => ErrorCode::JwtSignerError,
            Self::ExpectedClaimsMap | Self::ExpectedHeaderMap | Self::InvalidClaim(_) => {
                ErrorCode::UnknownErrorOnChannel
            }
        }
    }

    /// The code of a line about a refused upgrade (spec: websocket-protocol 2).
    #[must_use]
    pub const fn upgrade_code(&self) -> ErrorCode {
        match self {
            Self::TokenMalformed => ErrorCode::MalformedJWT,
            Self::Expired { .. } | Self::MissingClaims => ErrorCode::InvalidJWTToken,
            _ => ErrorCode::ErrorConnectingToWebsocket,
        }
    }

    /// What a line about a channel says behind its code.
    #[must_use]
    pub fn log_text(&self) -> String {
        match self {
            Self::ExpectedClaimsMap | Self::ExpectedHeaderMap | Self::InvalidClaim(_) => {
                format!("{{:error, {}}}", self.inspected())
            }
            _ => self.text(),
        }
    }

    /// What a line about a refused upgrade says behind its code: codes without an own text show the inspected error.
    #[must_use]
    pub fn upgrade_log_text(&self) -> String {
        match self.upgrade_code() {
            ErrorCode::ErrorConnectingToWebsocket => format!("{{:error, {}}}", self.inspected()),
            _ => self.text(),
        }
    }

    /// The sentence for a reader, or the inspected term where the original has none.
    fn text(&self) -> String {
        match self {
            Self::TokenMalformed => NO_JWT.to_owned(),
            Self::Expired { seconds } => format!("Token has expired {seconds} seconds ago"),
            Self::MissingClaims => text::CLAIMS_REQUIRED.to_owned(),
            Self::Signature => BAD_SIGNATURE.to_owned(),
            Self::SignerMissing { kid: Some(kid) } => format!(
                "Failed to generate JWT signer for key ID (kid) {}, check your JWT secret or JWKS configuration",
                inspect_str(kid)
            ),
            Self::SignerMissing { kid: None } => {
                "Failed to generate JWT signer, check your JWT secret or JWKS configuration"
                    .to_owned()
            }
            Self::ExpectedClaimsMap | Self::ExpectedHeaderMap | Self::InvalidClaim(_) => {
                self.inspected()
            }
        }
    }

    /// The error as the original's term, printed by Elixir's `inspect`.
    fn inspected(&self) -> String {
        match self {
            Self::TokenMalformed => ":token_malformed".to_owned(),
            Self::ExpectedClaimsMap => ":expected_claims_map".to_owned(),
            Self::ExpectedHeaderMap => ":expected_header_map".to_owned(),
            Self::SignerMissing { kid: None } => ":error_generating_signer".to_owned(),
            Self::SignerMissing { kid: Some(kid) } => {
                format!("{{:error_generating_signer, {}}}", inspect_str(kid))
            }
            Self::Signature => ":signature_error".to_owned(),
            Self::MissingClaims => ":missing_claims".to_owned(),
            Self::Expired { seconds } => format!(
                "{{:expired_token, {}}}",
                inspect_str(&format!("Token has expired {seconds} seconds ago"))
            ),
            Self::InvalidClaim(claim) => claim.to_string(),
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for TokenError {}

/// The keyword list that the original prints.
impl fmt::Display for InvalidClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            claim,
            value,
        } = self;
        f.write_str("[message: ")?;
        match reason {
            Reason::Now(now) => write!(f, "{now}")?,
            Reason::InvalidToken => f.write_str("\"Invalid token\"")?,
        }
        write!(
            f,
            ", claim: {}, claim_val: {}]",
            inspect_str(claim),
            inspect(value)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One row of spec auth 1.5.
    fn check(error: &TokenError, upgrade: (u16, &str), join: &str, shutdown: &str) {
        assert_eq!(
            error.upgrade_response(),
            (upgrade.0, upgrade.1.to_owned()),
            "{error:?}"
        );
        assert_eq!(error.join_reason(), join, "{error:?}");
        assert_eq!(error.shutdown_message(), shutdown, "{error:?}");
    }

    #[test]
    fn each_place_has_its_text() {
        let text = "The token provided is not a valid JWT";
        check(
            &TokenError::TokenMalformed,
            (401, text),
            &format!("MalformedJWT: {text}"),
            text,
        );
        let text = "Token has expired 7 seconds ago";
        let join = "InvalidJWTToken: Token has expired 7 seconds ago";
        check(
            &TokenError::Expired { seconds: 7 },
            (401, "Token has expired"),
            join,
            text,
        );
        let text = "Fields `role` and `exp` are required in JWT";
        check(
            &TokenError::MissingClaims,
            (401, text),
            &format!("InvalidJWTToken: {text}"),
            text,
        );
        let text = "Failed to validate JWT signature";
        check(
            &TokenError::Signature,
            (401, text),
            &format!("JwtSignatureError: {text}"),
            ":signature_error",
        );
        let text = "Failed to generate JWT signer for key ID (kid) \"k\", check your JWT secret or JWKS configuration";
        let error = TokenError::SignerMissing {
            kid: Some("k".into()),
        };
        check(
            &error,
            (401, text),
            &format!("JwtSignerError: {text}"),
            text,
        );
        let text = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";
        let error = TokenError::SignerMissing { kid: None };
        check(
            &error,
            (401, text),
            &format!("JwtSignerError: {text}"),
            ":error_generating_signer",
        );
        let (upgrade, join) = (
            (500, "Error connecting to Realtime"),
            "Unknown Error on Channel",
        );
        check(
            &TokenError::ExpectedClaimsMap,
            upgrade,
            join,
            ":expected_claims_map",
        );
        check(
            &TokenError::ExpectedHeaderMap,
            upgrade,
            join,
            ":expected_header_map",
        );
        let claim = |reason, claim: &str, value| {
            TokenError::InvalidClaim(Box::new(InvalidClaim {
                reason,
                claim: claim.into(),
                value,
            }))
        };
        let iss = claim(Reason::InvalidToken, "iss", json!("x"));
        check(
            &iss,
            upgrade,
            join,
            r#"[message: "Invalid token", claim: "iss", claim_val: "x"]"#,
        );
        let exp = claim(Reason::Now(1_700_000_000), "exp", json!("1"));
        check(
            &exp,
            upgrade,
            join,
            r#"[message: 1700000000, claim: "exp", claim_val: "1"]"#,
        );
    }

    #[test]
    fn lines_of_upgrades_and_channels_have_their_codes() {
        use ErrorCode as C;
        let check = |error: TokenError, upgrade: (C, &str), channel: C| {
            assert_eq!((error.upgrade_code(), &*error.upgrade_log_text()), upgrade);
            assert_eq!(error.code(), channel);
        };
        let text = "The token provided is not a valid JWT";
        check(
            TokenError::TokenMalformed,
            (C::MalformedJWT, text),
            C::MalformedJWT,
        );
        let text = "Token has expired 0 seconds ago";
        check(
            TokenError::Expired { seconds: 0 },
            (C::InvalidJWTToken, text),
            C::InvalidJWTToken,
        );
        let text = "{:error, :signature_error}";
        check(
            TokenError::Signature,
            (C::ErrorConnectingToWebsocket, text),
            C::JwtSignatureError,
        );
        let text = "{:error, :error_generating_signer}";
        let error = TokenError::SignerMissing { kid: None };
        check(
            error,
            (C::ErrorConnectingToWebsocket, text),
            C::JwtSignerError,
        );
        let text = "{:error, :expected_claims_map}";
        check(
            TokenError::ExpectedClaimsMap,
            (C::ErrorConnectingToWebsocket, text),
            C::UnknownErrorOnChannel,
        );
    }
}

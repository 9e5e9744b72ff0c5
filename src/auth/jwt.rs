//! The one routine that verifies tokens (spec: auth 1.1).

use super::claims::{ClaimValidators, Claims};
use super::json::{self, Object};
use super::keys::Keys;
use super::normalise::normalise;
use super::token_error::{InvalidClaim, TokenError};
use crate::logging::Identity;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Checks the tokens of one tenant, or of the management API.
pub struct Verifier {
    keys: Keys,
    validators: Arc<ClaimValidators>,
}

/// Keys are secrets.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier for a symmetric secret (its bytes as they are), a key set (`{"keys": [...]}`), both or neither. `validators` apply
    /// to every token.
    #[must_use]
    pub fn new(
        secret: Option<Vec<u8>>,
        jwks: Option<&Value>,
        validators: Arc<ClaimValidators>,
    ) -> Self {
        Self {
            keys: Keys::new(secret, jwks),
            validators,
        }
    }

    /// Verifies a token as it was sent: normalised here, then signature and claims (spec: auth 1.1 to 1.3).
    ///
    /// # Errors
    ///
    /// What is wrong with it. An expired token is a [`TokenError::InvalidClaim`] here.
    pub fn verify(&self, token: &str, unix_now: i64) -> Result<Claims, TokenError> {
        self.verify_normalised(&normalise(token), unix_now)
    }

    /// As [`Verifier::verify`], for sockets, channels and a tenant's HTTP requests: `role` and `exp` must be there, and a token past
    /// its `exp` is [`TokenError::Expired`] (spec: auth 1.4).
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn verify_connection(&self, token: &str, unix_now: i64) -> Result<Claims, TokenError> {
        let claims = self
            .verify(token, unix_now)
            .map_err(|error| expired(error, unix_now))?;
        // Ours: a role that is not a non-empty string is a missing one (spec: README, security).
        let has_role = claims.role.as_deref().is_some_and(|role| !role.is_empty());
        if has_role && claims.exp.is_some() {
            Ok(claims)
        } else {
            Err(TokenError::MissingClaims)
        }
    }

    fn verify_normalised(&self, token: &str, unix_now: i64) -> Result<Claims, TokenError> {
        let parts = Parts::split(token)?;
        let claims = decode(parts.claims)?;
        let wants = |name: &str| Claims::wants(name, &self.validators);
        let members = match json::object(&claims, wants) {
            Object::Members(members) => members,
            Object::OtherJson => return Err(TokenError::ExpectedClaimsMap),
            Object::Malformed => return Err(TokenError::TokenMalformed),
        };
        self.check_signature(&parts)?;
        Claims::check(&claims, &members, &self.validators, unix_now)
    }

    fn check_signature(&self, parts: &Parts<'_>) -> Result<(), TokenError> {
        let header = decode(parts.header)?;
        let members = match json::object(&header, |name| matches!(name, "alg" | "kid")) {
            Object::Members(members) => members,
            Object::OtherJson => return Err(TokenError::ExpectedHeaderMap),
            Object::Malformed => return Err(TokenError::TokenMalformed),
        };
        let string = |name| json::member(&members, name).and_then(json::string);
        let (alg, kid) = (string("alg"), string("kid"));
        let (key, algorithm) = self.keys.find(alg.as_deref(), kid.as_deref())?;
        // The key was chosen for the algorithm, and the library refuses a key of another family once more.
        let is_good = jsonwebtoken::crypto::verify(parts.signature, parts.signed, key, algorithm);
        if matches!(is_good, Ok(true)) {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }
}

/// An `exp` failure on an integer is an expired token; all other failures stay (spec: auth 1.4).
fn expired(error: TokenError, unix_now: i64) -> TokenError {
    let exp = match &error {
        TokenError::InvalidClaim(claim) => match &**claim {
            InvalidClaim {
                claim,
                value: Value::Number(exp),
                ..
            } if &**claim == "exp" => exp.as_str().parse::<i64>().ok(),
            _ => None,
        },
        _ => None,
    };
    match exp {
        Some(exp) => TokenError::Expired {
            seconds: unix_now.saturating_sub(exp),
        },
        None => error,
    }
}

/// Who a token says it belongs to, whether or not that is true: for log lines only (spec: errors-and-logs 1).
#[must_use]
pub fn unverified_identity(token: &str) -> Identity {
    let token = normalise(token);
    let claims = Parts::split(&token).and_then(|parts| decode(parts.claims));
    let Ok(claims) = claims else {
        return Identity::default();
    };
    let Object::Members(members) =
        json::object(&claims, |name| matches!(name, "sub" | "iss" | "exp"))
    else {
        return Identity::default();
    };
    let text = |name| {
        let value = json::member(&members, name)?;
        Some(json::string(value).unwrap_or_else(|| value.get().to_owned()))
    };
    Identity::new(
        text("sub").as_deref(),
        text("iss").as_deref(),
        text("exp").as_deref(),
    )
}

/// The parts of a token, still encoded.
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Header and claims with the dot between them: what is signed.
    signed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::TokenMalformed);
        };
        let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
        Ok(Self {
            header,
            claims,
            signature,
            signed,
        })
    }
}

/// A part as text. Parity: bits behind the last whole byte are ignored; the signature covers them anyway.
fn decode(part: &str) -> Result<String, TokenError> {
    const BASE64URL_NO_PAD: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::RequireNone)
            .with_decode_allow_trailing_bits(true),
    );
    let bytes = BASE64URL_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::TokenMalformed)?;
    String::from_utf8(bytes).map_err(|_| TokenError::TokenMalformed)
}

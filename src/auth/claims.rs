//! What a good token claims.

use super::json::{self, Numeric};
use super::token_error::{InvalidClaim, Reason, TokenError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// Exact values that claims must have where a token has them: `JWT_CLAIM_VALIDATORS`.
#[derive(Clone, Debug, Default)]
pub struct ClaimValidators(Map<String, Value>);

impl ClaimValidators {
    /// Claim names and the values that they must have.
    #[must_use]
    pub fn new(expected: Map<String, Value>) -> Self {
        Self(expected)
    }

    pub(super) fn names(&self, claim: &str) -> bool {
        self.0.contains_key(claim)
    }
}

/// The claims of a token whose signature was good.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    /// The claims as a JSON object, for the tenant's database: as signed, but `exp` and `iat` are integers.
    pub json: Box<str>,
    /// The database role, if it is a string.
    pub role: Option<Box<str>>,
    /// The subject, if it is a string.
    pub sub: Option<Box<str>>,
    /// The issuer, if it is a string.
    pub iss: Option<Box<str>>,
    /// When the token expires, in seconds since 1970, rounded to the nearest.
    pub exp: Option<i64>,
    /// When the token was issued, in seconds since 1970, rounded to the nearest.
    pub iat: Option<i64>,
}

/// Claims are a customer's data about its user: they do not belong into logs.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("role", &self.role)
            .field("exp", &self.exp)
            .finish_non_exhaustive()
    }
}

/// Why a role is not used in a database.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RoleError {
    /// There is none, or it is not a non-empty string. Answered like a missing claim.
    Missing,
    /// `none`: as a setting it would mean the connection's own user.
    None,
}

impl Claims {
    /// Whether a token that was good before still is: nothing but time can have changed.
    ///
    /// # Errors
    ///
    /// [`TokenError::Expired`] from the second of `exp` on.
    pub fn recheck(&self, unix_now: i64) -> Result<(), TokenError> {
        match self.exp {
            Some(exp) if exp <= unix_now => Err(TokenError::Expired {
                seconds: unix_now.saturating_sub(exp),
            }),
            _ => Ok(()),
        }
    }

    /// The role to use in a tenant's database. The caller still has to ask the catalog whether it is a superuser or the server's
    /// own user: those are refused as well (spec: authorization-rls 6, README security).
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn database_role(&self) -> Result<&str, RoleError> {
        match self.role.as_deref() {
            None | Some("") => Err(RoleError::Missing),
            Some("none") => Err(RoleError::None),
            Some(role) => Ok(role),
        }
    }

    /// Checks the claims that are there (spec: auth 1.3) and keeps what is needed of them.
    pub(super) fn check<'a>(
        text: &'a str,
        members: &[(Cow<'a, str>, &'a RawValue)],
        validators: &ClaimValidators,
        unix_now: i64,
    ) -> Result<Self, TokenError> {
        let number =
            |name| json::member(members, name).map(|value| (value, Numeric::parse(value.get())));
        let exp = match number("exp") {
            Some((_, Some(exp))) if exp.is_after(unix_now) => Some(exp),
            Some((value, _)) => return Err(invalid(Reason::Now(unix_now), "exp", value)),
            None => None,
        };
        let iat = match number("iat") {
            Some((_, Some(iat))) => Some(iat),
            Some((value, None)) => return Err(invalid(Reason::InvalidToken, "iat", value)),
            None => None,
        };
        for (name, expected) in &validators.0 {
            let Some(value) = json::member(members, name) else {
                continue;
            };
            let is_same = serde_json::from_str(value.get())
                .is_ok_and(|value| json::is_same(&value, expected));
            if !is_same {
                return Err(invalid(Reason::InvalidToken, name, value));
            }
        }
        let string = |name| {
            json::member(members, name)
                .and_then(json::string)
                .map(String::into_boxed_str)
        };
        Ok(Self {
            json: with_integers(text, exp, iat),
            role: string("role"),
            sub: string("sub"),
            iss: string("iss"),
            exp: exp.map(Numeric::rounded),
            iat: iat.map(Numeric::rounded),
        })
    }

    /// The members of a claims object that [`Claims::check`] looks at.
    pub(super) fn wants(name: &str, validators: &ClaimValidators) -> bool {
        matches!(name, "exp" | "iat" | "role" | "sub" | "iss") || validators.names(name)
    }
}

fn invalid(reason: Reason, claim: &str, value: &RawValue) -> TokenError {
    let value = serde_json::from_str(value.get()).unwrap_or(Value::Null);
    TokenError::InvalidClaim(Box::new(InvalidClaim {
        reason,
        claim: claim.into(),
        value,
    }))
}

/// The claims with `exp` and `iat` as integers. Nearly always they are already, and the text stays as it was signed.
fn with_integers(text: &str, exp: Option<Numeric>, iat: Option<Numeric>) -> Box<str> {
    let is_float = |time| matches!(time, Some(Numeric::Float(_)));
    if !is_float(exp) && !is_float(iat) {
        return text.into();
    }
    let Ok(mut claims) = serde_json::from_str::<Map<String, Value>>(text) else {
        return text.into();
    };
    for (name, time) in [("exp", exp), ("iat", iat)] {
        if let Some(time) = time {
            claims.insert(name.to_owned(), time.rounded().into());
        }
    }
    Value::Object(claims).to_string().into()
}

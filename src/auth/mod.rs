//! Who is asking: JSON web tokens against a tenant's keys.
//!
//! What comes in: a token as it was sent, the tenant's secret and key set, the time. What goes out: [`Claims`], or a [`TokenError`]
//! that knows what each place answers (spec: auth 1.5). What always holds:
//!
//! - A key of one kind never checks a signature of another: an RSA key is never an HMAC secret, and `none` is no algorithm.
//!   (`no_key_is_used_for_another_algorithm`)
//! - Every test token of spec auth 1.6 has its outcome. (`tokens_of_the_specification`)
//! - `exp` has no leeway: equal to now is expired. (`exp_has_no_leeway`)
//! - Bytes from outside never panic. (`random_tokens_never_panic`)
//!
//! Deliberately absent: clocks, tenants, what a role may do in the database, and ciphers of stored secrets.

mod claims;
mod json;
mod jwt;
mod keys;
mod normalise;
mod sign;
#[cfg(test)]
mod tests;
mod token_error;

pub use claims::{ClaimValidators, Claims, RoleError};
pub use jwt::{Verifier, unverified_identity};
pub use normalise::normalise;
pub use sign::sign_hs256;
pub use token_error::{InvalidClaim, Reason, TokenError};

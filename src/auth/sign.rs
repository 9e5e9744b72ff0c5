//! Tokens of our own: the ready-made one of the start-up text, and those of tests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};

/// A token with these claims, signed with HMAC SHA-256. `claims` is a JSON object and is not looked at.
#[must_use]
pub fn sign_hs256(secret: &[u8], claims: &str) -> String {
    sign_with_header(secret, r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

/// A token with this header too: tests want odd ones.
pub(super) fn sign_with_header(secret: &[u8], header: &str, claims: &str) -> String {
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(token.as_bytes(), &key, Algorithm::HS256)
        .expect("HMAC takes a key of any length and does not fail");
    token.push('.');
    token.push_str(&signature);
    token
}

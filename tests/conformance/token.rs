//! Tokens: made for directed tests, and recorded ones brought into the present.
//!
//! A recorded token that expires around the time of its recording meant "just now" or "in six seconds"; it is signed again
//! with an `exp` moved by as much as the recording lies in the past. A signature that was bad on purpose stays bad, and a
//! token without an `exp`, or with one far away, stays as it is, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::clock;

/// The secret of every tenant of the recordings, and of the management API.
pub const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// The secret of the metrics page.
pub const METRICS_SECRET: &str = "metrics-secret-jwt-token-with-at-least-32-characters";

/// How far from the recording an `exp` may lie to count as relative to it, in seconds.
const RELATIVE_S: i64 = 86_400;

/// A token with these claims, signed with [`SECRET`].
pub fn sign(claims: &Value) -> String {
    sign_with(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

/// A token with any header; its signature is HS256 with `secret` whatever the header says.
pub fn sign_with(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256)
        .expect("HS256 signs with any secret");
    format!("{message}.{signature}")
}

/// A token of `role` that is good for `seconds` (or expired that long ago).
pub fn of_role(role: &str, seconds: i64) -> String {
    sign(&json!({"role": role, "exp": clock::unix_s() + seconds}))
}

/// The token most tests use: role `authenticated`, good for an hour.
pub fn good() -> String {
    of_role("authenticated", 3600)
}

/// Moves every token in `text` that expires around `recorded_s` (seconds since 1970) by `shift_s`.
pub fn shift_all(text: &str, recorded_s: i64, shift_s: i64) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("eyJ") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let part_of_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let end = rest.find(|c| !part_of_token(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        match shifted(token, recorded_s, shift_s) {
            Some(new) => out.push_str(&new),
            None => out.push_str(token),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The same token in the present, or `None` when it has to stay as it is.
fn shifted(token: &str, recorded_s: i64, shift_s: i64) -> Option<String> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let decode = |part: &str| -> Option<Value> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let (header_value, mut claims_value) = (decode(header)?, decode(claims)?);
    let exp = claims_value.get("exp")?.as_i64()?;
    let relative = (exp - recorded_s).abs() <= RELATIVE_S;
    if !relative || header_value.get("alg")? != "HS256" {
        return None;
    }
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    let message = format!("{header}.{claims}");
    let was_good =
        crypto::verify(signature, message.as_bytes(), &key, Algorithm::HS256).unwrap_or(false);
    claims_value["exp"] = json!(exp + shift_s);
    let secret = if was_good { SECRET } else { "not the secret" };
    Some(sign_with(&header_value, &claims_value, secret))
}

/// Tests of this file, for the table in `main.rs`.
pub const TESTS: &[(&str, fn())] = &[
    ("a_recorded_token_moves_with_its_recording", || {
        let token = sign(&json!({"role": "anon", "exp": 1_795_454_232_i64}));
        let text = format!("[\"1\",{{\"access_token\":\"{token}\"}}]");
        let moved = shift_all(&text, 1_795_454_226, 1000);
        let expected = sign(&json!({"role": "anon", "exp": 1_795_455_232_i64}));
        assert_eq!(moved, text.replace(&token, &expected));
    }),
    ("a_bad_signature_stays_bad", || {
        let header = json!({"alg": "HS256"});
        let token = sign_with(&header, &json!({"exp": 1000}), "another");
        let moved = shift_all(&token, 1000, 50);
        assert_ne!(moved, token);
        assert_ne!(moved, sign_with(&header, &json!({"exp": 1050}), SECRET));
    }),
    ("other_tokens_stay_as_they_are", || {
        let far = sign(&json!({"role": "anon", "exp": 4_102_444_800_i64}));
        let none = sign(&json!({"role": "anon"}));
        let text = sign(&json!({"exp": "1000"}));
        for token in [
            far.as_str(),
            none.as_str(),
            text.as_str(),
            "eyJ",
            "eyJ.b.c",
            "a.b.c",
        ] {
            let path = format!("/socket/websocket?apikey={token}&vsn=2.0.0");
            assert_eq!(shift_all(&path, 1000, 50), path);
        }
    }),
];

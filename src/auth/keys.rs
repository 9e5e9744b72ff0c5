//! A tenant's keys, and which of them checks a token (spec: auth 1.2).

use super::token_error::TokenError;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// The symmetric secret and the key set of one tenant.
pub(super) struct Keys {
    secret: Option<DecodingKey>,
    /// None: the tenant has no key set, which is not the same as an empty one.
    jwks: Option<Vec<Jwk>>,
}

/// One key of a key set that has a key id. Its `alg`, `use` and `key_ops` are not consulted, as in the original.
struct Jwk {
    kid: String,
    kind: Kind,
    /// None: the parts of the key are missing or not base64, so nothing can be checked with it.
    key: Option<DecodingKey>,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Kind {
    Rsa,
    Ec,
    Okp,
    /// Symmetric, with a `k`.
    Oct,
}

/// What a token's `alg` asks for. Everything else, `none` and RSA-PSS included, is no algorithm here.
const ALGORITHMS: [(&str, Kind, Algorithm); 10] = [
    ("HS256", Kind::Oct, Algorithm::HS256),
    ("HS384", Kind::Oct, Algorithm::HS384),
    ("HS512", Kind::Oct, Algorithm::HS512),
    ("RS256", Kind::Rsa, Algorithm::RS256),
    ("RS384", Kind::Rsa, Algorithm::RS384),
    ("RS512", Kind::Rsa, Algorithm::RS512),
    ("ES256", Kind::Ec, Algorithm::ES256),
    ("ES384", Kind::Ec, Algorithm::ES384),
    ("EdDSA", Kind::Okp, Algorithm::EdDSA),
    ("Ed25519", Kind::Okp, Algorithm::EdDSA),
];

impl Keys {
    /// An empty secret is none: anybody could sign with it.
    pub(super) fn new(secret: Option<Vec<u8>>, jwks: Option<&Value>) -> Self {
        let secret = secret.filter(|secret| !secret.is_empty());
        let jwks = jwks
            .and_then(|jwks| jwks.get("keys"))
            .and_then(Value::as_array);
        Self {
            secret: secret.map(|secret| DecodingKey::from_secret(&secret)),
            jwks: jwks.map(|keys| keys.iter().filter_map(Jwk::parse).collect()),
        }
    }

    /// The key and the algorithm that check a token with this `alg` and `kid`.
    pub(super) fn find(
        &self,
        alg: Option<&str>,
        kid: Option<&str>,
    ) -> Result<(&DecodingKey, Algorithm), TokenError> {
        let missing = |kid: Option<&str>| TokenError::SignerMissing {
            kid: kid.map(Into::into),
        };
        let known = ALGORITHMS.iter().find(|(name, ..)| alg == Some(*name));
        let &(_, kind, algorithm) = known.ok_or_else(|| missing(None))?;
        let set = self.jwks.as_ref().zip(kid);
        let jwk =
            set.and_then(|(keys, kid)| keys.iter().find(|jwk| jwk.kind == kind && jwk.kid == kid));
        let key = match (jwk, kind) {
            (Some(jwk), _) => jwk.key.as_ref().ok_or_else(|| missing(kid)),
            (None, Kind::Oct) => self.secret.as_ref().ok_or_else(|| missing(None)),
            (None, _) => Err(missing(set.map(|(_, kid)| kid))),
        };
        Ok((key?, algorithm))
    }
}

impl Jwk {
    /// None: without a key id, or of a kind that no algorithm uses, it is never found.
    fn parse(jwk: &Value) -> Option<Self> {
        let member = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| {
            member(name)
                .and_then(|text| BASE64URL.decode(text).ok())
                .filter(|bytes| !bytes.is_empty())
        };
        let kid = member("kid")?.to_owned();
        let (kind, key) = match member("kty")? {
            "RSA" => {
                let parts = bytes("n").zip(bytes("e"));
                (
                    Kind::Rsa,
                    parts.map(|(n, e)| DecodingKey::from_rsa_raw_components(&n, &e)),
                )
            }
            "EC" => {
                let parts = bytes("x").zip(bytes("y"));
                (
                    Kind::Ec,
                    parts.map(|(x, y)| DecodingKey::from_ec_der(&point(&x, &y))),
                )
            }
            // Ed448 and X25519 keys are found and cannot be used.
            "OKP" => {
                let x = bytes("x").filter(|_| member("crv") == Some("Ed25519"));
                (Kind::Okp, x.map(|x| DecodingKey::from_ed_der(&x)))
            }
            "oct" => {
                // Without a `k` it is as if the key was not there: the symmetric secret counts.
                member("k")?;
                (Kind::Oct, bytes("k").map(|k| DecodingKey::from_secret(&k)))
            }
            _ => return None,
        };
        Some(Self { kid, kind, key })
    }
}

/// An uncompressed point: SEC 1 section 2.3.3.
fn point(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}

/// Key sets are written by people and tools of all kinds: with or without padding.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(keys: &Keys, alg: &str, kid: Option<&str>, expected: Result<Algorithm, Option<&str>>) {
        let found = keys.find(Some(alg), kid).map(|(_, algorithm)| algorithm);
        let expected = expected.map_err(|kid| TokenError::SignerMissing {
            kid: kid.map(Into::into),
        });
        assert_eq!(found, expected, "{alg} {kid:?}");
    }

    /// Spec auth 1.2, row by row.
    #[test]
    fn keys_are_chosen_by_algorithm_and_key_id() {
        let jwks = json!({"keys": [
            {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"},
            {"kty": "EC", "kid": "e", "x": "AQ", "y": "AQ"},
            {"kty": "OKP", "kid": "o", "crv": "Ed25519", "x": "AQ"},
            {"kty": "OKP", "kid": "o448", "crv": "Ed448", "x": "AQ"},
            {"kty": "oct", "kid": "s", "k": "AQ=="},
            {"kty": "oct", "kid": "bad", "k": "?"},
            {"kty": "oct", "kid": "no-k"},
            {"kty": "RSA", "kid": "no-n"},
        ]});
        let keys = Keys::new(Some(b"secret".to_vec()), Some(&jwks));
        for (alg, kid) in [
            ("RS256", "r"),
            ("RS384", "r"),
            ("RS512", "r"),
            ("ES256", "e"),
            ("ES384", "e"),
        ] {
            assert!(keys.find(Some(alg), Some(kid)).is_ok(), "{alg}");
            check(&keys, alg, Some("other"), Err(Some("other")));
            check(&keys, alg, None, Err(None));
        }
        check(&keys, "EdDSA", Some("o"), Ok(Algorithm::EdDSA));
        check(&keys, "Ed25519", Some("o"), Ok(Algorithm::EdDSA));
        check(&keys, "EdDSA", Some("o448"), Err(Some("o448")));
        check(&keys, "RS256", Some("no-n"), Err(Some("no-n")));
        check(&keys, "HS256", Some("s"), Ok(Algorithm::HS256));
        check(&keys, "HS512", Some("bad"), Err(Some("bad")));
        check(&keys, "HS512", Some("no-k"), Ok(Algorithm::HS512));
        check(&keys, "HS256", Some("unknown"), Ok(Algorithm::HS256));
        check(&keys, "HS256", None, Ok(Algorithm::HS256));
        for alg in [
            "none", "None", "PS256", "ES512", "Ed448", "HS1", "hs256", "",
        ] {
            check(&keys, alg, Some("r"), Err(None));
            check(&keys, alg, None, Err(None));
        }
        assert!(keys.find(None, Some("s")).is_err());
    }

    #[test]
    fn without_a_key_set_no_error_names_a_key() {
        for jwks in [
            None,
            Some(json!(null)),
            Some(json!({})),
            Some(json!({"keys": {}})),
        ] {
            let keys = Keys::new(None, jwks.as_ref());
            check(&keys, "RS256", Some("k"), Err(None));
            check(&keys, "HS256", Some("k"), Err(None));
            check(&keys, "HS256", None, Err(None));
        }
        let keys = Keys::new(None, Some(&json!({"keys": []})));
        check(&keys, "RS256", Some("k"), Err(Some("k")));
        check(&keys, "HS256", Some("k"), Err(None));
    }

    #[test]
    fn empty_secret_is_no_secret() {
        check(&Keys::new(Some(Vec::new()), None), "HS256", None, Err(None));
        let jwks = json!({"keys": [{"kty": "oct", "kid": "s", "k": ""}]});
        check(
            &Keys::new(None, Some(&jwks)),
            "HS256",
            Some("s"),
            Err(Some("s")),
        );
    }
}

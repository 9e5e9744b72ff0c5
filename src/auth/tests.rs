//! The test tokens of spec auth 1.6, each with its smallest refused neighbour.

use super::sign::sign_with_header;
use super::*;
use crate::logging::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &[u8] = b"super-secret-jwt-token-with-at-least-32-characters-long";
/// Some moment in 2026.
const NOW: i64 = 1_795_454_187;
const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

const GOOD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6NDEwMjQ0NDgwMCwic3ViIjoidTEifQ.kK07VTSNOQCZdzXwug-xsiIbnPJ5DZFLI1c1iQZBQLY";
const GOOD_HS512: &str = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiIsImV4cCI6NDEwMjQ0NDgwMH0.xjqPAVOKrKTtcS2TgrIN6It1yZc4yPsExHD9D6Z1Q5zBgbs_BUS5mo34sXBJXdSxZFEbOg3DUDpDzczlcDe1WQ";
const KID_K1: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImsxIn0.eyJyb2xlIjoiYW5vbiIsImV4cCI6NDEwMjQ0NDgwMH0.i_58n9Y3BYNDEVpaY3layo3Pa_Q5oOzDltp06Eg7Pmw";
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiIsImV4cCI6MTcwMDAwMDAwMH0.JAo2168O4K6f7g4nQipa2C7dUuBWrQe2X7qLw7wmbOU";
const NO_ROLE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDB9.bXwQsVlrdmsa-WdkPFkFsz7eUADBAY4Ia1eih7BFCeM";
const NO_EXP: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiJ9.ZopqoUt20nEV9cklpv9e3yw3PVyZLmKs5qLD6nGL1SI";
const STRING_EXP: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiIsImV4cCI6IjQxMDI0NDQ4MDAifQ.75tmiwywZ9-0D6Rrh7hxW1yk6s6N0nMJDtjmkMQq7so";
const FRACTION_EXP: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiIsImV4cCI6NDEwMjQ0NDgwMC42fQ.PtEVGkq00qfxXSHj11VqY026hahCC54_F-VkFz18RXc";
const STRING_IAT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiIsImV4cCI6NDEwMjQ0NDgwMCwiaWF0IjoiMSJ9.BK48Z_nB7ZRALN-h2iYy7MnmmD-dqNys_Xqd-PRmGLs";
const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYS0xIiwidHlwIjoiSldUIn0.eyJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6NDEwMjQ0NDgwMCwic3ViIjoidTEifQ.h470rUyjpaM9_HoMO_Lpb4xKf-329JWyeZQZYVfWehf8XIT_S0cflEWJSZ-op4tdXWoRXf4oEPx1W8QIuZbc9_pG68y_StcJNa2IqBkzGgccf-lzYsirkoNxHYBTWq8PlIuv-BwCdmZqudZYmlzIX9puXlURdheYA8v2YGQKPY5IvYRTCmWEZ7HWuZtd1Um7B9-g289iEBQlFB4DAAahDIXF_bqlYj2hjYA5-xL5Nnay66MuCRzZizR7QDWxIU6BNkwtFMe6nTnbWf4pH-jQV2znNDvhhR8vP1s15GtIUSh-OpIfvdoVEz6yvnb91Acdd3SWUSxNFxlaAVJdSCOmYQ";
const ES256: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImVjLTEiLCJ0eXAiOiJKV1QifQ.eyJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6NDEwMjQ0NDgwMCwic3ViIjoidTEifQ.qzaiF1MH9zqaqVQKkr3lznGkEJRJLXxDIABLRGPp8-b4yBmU78qKEs240-oh9XKFtizyqPf0Blj5DxRpeb4Gxw";
const EDDSA: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImVkLTEiLCJ0eXAiOiJKV1QifQ.eyJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6NDEwMjQ0NDgwMCwic3ViIjoidTEifQ.m1G5t9vhZB4TUaHeY9NKCLS3FLBJZLztKsbQkwNDOeWvotJwQ2qmWt0MM1Ezn1lZqDY-X1yP9TuQ7uJlJTC5CA";
const OCT: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6Im9jdC0xIiwidHlwIjoiSldUIn0.eyJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6NDEwMjQ0NDgwMCwic3ViIjoidTEifQ.q4iQje_zyaYYVojnmkRUeQlQLrqqaeN6DTO5TSn-JMs";
const JWKS: &str = r#"{"keys":[
{"kty":"RSA","n":"laCuob5In85Nllrtx1R89ufJF6PakhMMiDKJjWihGjztH4GUJJNv0R_3MrfxF-XuNGKfBsKr8oewL0_g0Dq22Ta8t-DOJiVonmFxwiW_lJnRMgZq2MWaST1_bpehMfGU91WxaOr2jZG3idniqE5j2qI4xifYrCzYeB819rhaXwnOVdJ-Vq1M1-oQgJfGPhd2U13BfcDb165nZdgkHQUqiYWkCIB94GRFap7L6aKn2f0VpBkAMZ17V8c4mBpzoaexsBFpsr8_cNJ_5jBOKc4YIGbUU-z700JS4GSfuuXf6B4A0tSM8FgS3AzmNRSOaso0JNaaGbPKT0Vj8bbGa6dhZw","e":"AQAB","kid":"rsa-1"},
{"kty":"EC","x":"mdaQVhuv89eGth-xbULEP_g06rjZKC9fZmAP3HwLR0c","y":"bZysvCxIr4a-yrullJePsP3srJpmiD3uJl0Bnb_k40Q","crv":"P-256","kid":"ec-1"},
{"crv":"Ed25519","x":"AAQe4gvZoIhaaYMGjqI19rr4mOtz06DUe5IHo1GFiis","kty":"OKP","kid":"ed-1"},
{"kty":"oct","kid":"oct-1","k":"YW5vdGhlci1zZWNyZXQtb2YtYXQtbGVhc3QtMzItYnl0ZXMhIQ"}
]}"#;

fn verifier(secret: Option<&[u8]>, jwks: Option<Value>) -> Verifier {
    Verifier::new(secret.map(<[u8]>::to_vec), jwks.as_ref(), Arc::default())
}

fn jwks() -> Option<Value> {
    Some(serde_json::from_str(JWKS).expect("the keys are JSON"))
}

fn missing(kid: Option<&str>) -> TokenError {
    TokenError::SignerMissing {
        kid: kid.map(Into::into),
    }
}

fn invalid(reason: Reason, claim: &str, value: Value) -> TokenError {
    TokenError::InvalidClaim(Box::new(InvalidClaim {
        reason,
        claim: claim.into(),
        value,
    }))
}

fn refused(verifier: &Verifier, token: &str) -> TokenError {
    verifier.verify_connection(token, NOW).expect_err(token)
}

/// A token with these claims under [`SECRET`].
fn signed(claims: &str) -> String {
    sign_hs256(SECRET, claims)
}

/// A token with this header, whose signature is of no algorithm but HMAC SHA-256.
fn with_header(header: &str) -> String {
    sign_with_header(SECRET, header, r#"{"role":"anon","exp":4102444800}"#)
}

fn with_last_char_changed(token: &str) -> String {
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    format!("{}{last}", &token[..token.len() - 1])
}

#[test]
fn tokens_of_the_specification() {
    let verifier = verifier(Some(SECRET), None);
    let good = |token: &str| verifier.verify_connection(token, NOW).expect(token);
    let claims = good(GOOD);
    assert_eq!(
        (claims.role.as_deref(), claims.sub.as_deref()),
        (Some("authenticated"), Some("u1"))
    );
    assert_eq!(claims.exp, Some(4_102_444_800));
    assert_eq!(
        &*claims.json,
        r#"{"role":"authenticated","exp":4102444800,"sub":"u1"}"#
    );
    assert_eq!(good(GOOD_HS512).role.as_deref(), Some("anon"));
    assert_eq!(good(KID_K1).role.as_deref(), Some("anon"));
    let fraction = good(FRACTION_EXP);
    assert_eq!(fraction.exp, Some(4_102_444_801));
    assert_eq!(&*fraction.json, r#"{"exp":4102444801,"role":"anon"}"#);

    let exp = 1_700_000_000;
    assert_eq!(
        refused(&verifier, EXPIRED),
        TokenError::Expired { seconds: NOW - exp }
    );
    assert_eq!(refused(&verifier, NO_ROLE), TokenError::MissingClaims);
    assert_eq!(refused(&verifier, NO_EXP), TokenError::MissingClaims);
    assert_eq!(
        refused(&verifier, STRING_EXP),
        invalid(Reason::Now(NOW), "exp", json!("4102444800"))
    );
    assert_eq!(
        refused(&verifier, STRING_IAT),
        invalid(Reason::InvalidToken, "iat", json!("1"))
    );
    assert_eq!(refused(&verifier, "potato"), TokenError::TokenMalformed);
    for token in [GOOD, GOOD_HS512, KID_K1, FRACTION_EXP] {
        assert_eq!(
            refused(&verifier, &with_last_char_changed(token)),
            TokenError::Signature,
            "{token}"
        );
    }
}

#[test]
fn api_tokens_need_no_claims() {
    let verifier = verifier(Some(SECRET), None);
    assert_eq!(
        verifier.verify(NO_ROLE, NOW).map(|claims| claims.role),
        Ok(None)
    );
    assert_eq!(
        verifier.verify(NO_EXP, NOW).map(|claims| claims.exp),
        Ok(None)
    );
    assert_eq!(
        verifier.verify(EXPIRED, NOW),
        Err(invalid(Reason::Now(NOW), "exp", json!(1_700_000_000)))
    );
}

#[test]
fn key_sets_verify_all_kinds() {
    let all = verifier(Some(SECRET), jwks());
    let none = verifier(Some(SECRET), Some(json!({"keys": []})));
    let without_set = verifier(Some(SECRET), None);
    for (token, kid) in [(RS256, "rsa-1"), (ES256, "ec-1"), (EDDSA, "ed-1")] {
        let claims = all.verify_connection(token, NOW).expect(kid);
        assert_eq!(claims.sub.as_deref(), Some("u1"), "{kid}");
        assert_eq!(
            refused(&all, &with_last_char_changed(token)),
            TokenError::Signature,
            "{kid}"
        );
        assert_eq!(refused(&none, token), missing(Some(kid)));
        assert_eq!(refused(&without_set, token), missing(None));
    }
    assert!(all.verify_connection(OCT, NOW).is_ok());
    assert_eq!(refused(&none, OCT), TokenError::Signature);
    assert_eq!(
        refused(&all, &with_last_char_changed(OCT)),
        TokenError::Signature
    );
    // A key set never replaces the symmetric secret.
    assert!(all.verify_connection(GOOD, NOW).is_ok());
    assert!(
        all.verify_connection(KID_K1, NOW).is_ok(),
        "an unknown key id falls back to the secret"
    );
    assert_eq!(refused(&verifier(None, jwks()), GOOD), missing(None));
    assert!(
        verifier(None, jwks()).verify_connection(RS256, NOW).is_ok(),
        "a tenant may have a key set only"
    );
}

#[test]
fn headers_of_the_specification() {
    let rsa = |kid: &str| Some(json!({"keys": [{"kty": "RSA", "kid": kid}]}));
    let check = |header: &str, jwks: Option<Value>, kid| {
        assert_eq!(
            refused(&verifier(Some(SECRET), jwks), &with_header(header)),
            missing(kid),
            "{header}"
        );
    };
    check(r#"{"alg":"PS256","kid":"key-1"}"#, rsa("key-1"), None);
    check(r#"{"alg":"RS256","typ":"JWT"}"#, rsa("key-1"), None);
    check(
        r#"{"alg":"RS256","kid":"key-id-1"}"#,
        rsa("some_other_kid"),
        Some("key-id-1"),
    );
    let x25519 = json!({"keys": [{"kty": "OKP", "crv": "X25519", "kid": "ed-key-1", "x": "AQ"}]});
    check(
        r#"{"alg":"EdDSA","kid":"ed-key-1"}"#,
        Some(x25519),
        Some("ed-key-1"),
    );
    check(r#"{"alg":"none"}"#, jwks(), None);
    check(r#"{"kid":"rsa-1"}"#, jwks(), None);
    check(r#"{"alg":1}"#, jwks(), None);
    check(r#"{"alg":"RS256","kid":1}"#, jwks(), None);
}

#[test]
fn no_key_is_used_for_another_algorithm() {
    // The public modulus as an HMAC secret: what an attacker can compute.
    let set: Value = jwks().expect("there is one");
    let modulus = set["keys"][0]["n"].as_str().expect("the first key is RSA");
    let modulus = URL_SAFE_NO_PAD
        .decode(modulus)
        .expect("a modulus is base64url");
    let claims = r#"{"role":"service_role","exp":4102444800}"#;
    let forged = sign_with_header(&modulus, r#"{"alg":"HS256","kid":"rsa-1"}"#, claims);
    assert_eq!(
        refused(&verifier(Some(SECRET), jwks()), &forged),
        TokenError::Signature
    );
    assert_eq!(refused(&verifier(None, jwks()), &forged), missing(None));
    let forged = sign_with_header(&modulus, r#"{"alg":"RS256","kid":"rsa-1"}"#, claims);
    assert_eq!(
        refused(&verifier(None, jwks()), &forged),
        TokenError::Signature
    );
    // A key of the right kind for another curve or hash.
    let (_, rest) = ES256.split_once('.').expect("a token has dots");
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES384","kid":"ec-1"}"#);
    assert_eq!(
        refused(&verifier(None, jwks()), &format!("{header}.{rest}")),
        TokenError::Signature
    );
    // No signature at all.
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode(claims)
    );
    assert_eq!(
        refused(&verifier(Some(SECRET), jwks()), &unsigned),
        missing(None)
    );
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(HS256),
        URL_SAFE_NO_PAD.encode(claims)
    );
    assert_eq!(
        refused(&verifier(Some(SECRET), jwks()), &unsigned),
        TokenError::Signature
    );
}

#[test]
fn shapes_are_told_apart() {
    let verifier = verifier(Some(SECRET), None);
    let check =
        |token: &str, error: TokenError| assert_eq!(refused(&verifier, token), error, "{token}");
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "bad_token",
        "sb_publishable_x",
        "eyJhbGciOiJIUzI1NiJ9",
    ] {
        check(token, TokenError::TokenMalformed);
    }
    check(&format!("{GOOD}."), TokenError::TokenMalformed);
    check(
        &format!("{}.{}.x", part(HS256), part("[]")),
        TokenError::ExpectedClaimsMap,
    );
    check(
        &format!("{}.{}.x", part(HS256), part("{")),
        TokenError::TokenMalformed,
    );
    check(
        &format!("{}.{}=.x", part(HS256), part("{ }")),
        TokenError::TokenMalformed,
    );
    check(
        &format!("{}.{}.x", part("[]"), part("{}")),
        TokenError::ExpectedHeaderMap,
    );
    check(
        &format!("{}.{}.x", part("[]"), part("[]")),
        TokenError::ExpectedClaimsMap,
    );
    check(
        &format!("{}.{}.x", part("x"), part("{}")),
        TokenError::TokenMalformed,
    );
    check(
        &format!("{}.{}.x", part(HS256), part("{}")),
        TokenError::Signature,
    );
    // The claims are looked at only behind a good signature.
    check(
        &sign_hs256(b"another secret", r#"{"exp":1}"#),
        TokenError::Signature,
    );
}

#[test]
fn tokens_are_normalised() {
    let verifier = verifier(Some(SECRET), None);
    let wrapped = format!(" {}%20\n{}\t", &GOOD[..20], GOOD[20..].replace('.', "%2E"));
    assert!(verifier.verify_connection(&wrapped, NOW).is_ok());
}

#[test]
fn exp_has_no_leeway() {
    let verifier = verifier(Some(SECRET), None);
    let check = |exp: &str, expected: Option<TokenError>| {
        let token = signed(&format!(r#"{{"role":"anon","exp":{exp}}}"#));
        assert_eq!(
            verifier.verify_connection(&token, 1000).err(),
            expected,
            "{exp}"
        );
    };
    check("1001", None);
    check("1000", Some(TokenError::Expired { seconds: 0 }));
    check("999", Some(TokenError::Expired { seconds: 1 }));
    check("1000.5", None);
    check(
        "1000.0",
        Some(invalid(
            Reason::Now(1000),
            "exp",
            serde_json::from_str("1000.0").expect("a number"),
        )),
    );
    check("null", Some(invalid(Reason::Now(1000), "exp", Value::Null)));
    check("99999999999999999999", None);
}

#[test]
fn a_token_that_was_good_is_rechecked_by_its_exp() {
    let verifier = verifier(Some(SECRET), None);
    let claims = verifier
        .verify(&signed(r#"{"exp":2000}"#), 1000)
        .expect("not expired yet");
    assert_eq!(claims.recheck(1999), Ok(()));
    assert_eq!(
        claims.recheck(2000),
        Err(TokenError::Expired { seconds: 0 })
    );
    assert_eq!(
        claims.recheck(2007),
        Err(TokenError::Expired { seconds: 7 })
    );
    let claims = verifier
        .verify(&signed("{}"), 1000)
        .expect("nothing to check");
    assert_eq!(claims.recheck(i64::MAX), Ok(()));
}

#[test]
fn validators_ask_only_for_claims_that_are_there() {
    let Value::Object(expected) = json!({"iss": "Tester", "aud": "www.test.com"}) else {
        unreachable!()
    };
    let validators = Arc::new(ClaimValidators::new(expected));
    let verifier = Verifier::new(Some(SECRET.to_vec()), None, validators);
    let check = |claims: &str, expected: Option<TokenError>| {
        assert_eq!(
            verifier.verify(&signed(claims), NOW).err(),
            expected,
            "{claims}"
        );
    };
    check(r#"{"iss":"Tester","aud":"www.test.com"}"#, None);
    check(r#"{"iss":"Tester"}"#, None);
    check("{}", None);
    check(
        r#"{"iss":"tester"}"#,
        Some(invalid(Reason::InvalidToken, "iss", json!("tester"))),
    );
    check(
        r#"{"aud":["www.test.com"]}"#,
        Some(invalid(
            Reason::InvalidToken,
            "aud",
            json!(["www.test.com"]),
        )),
    );
    check(
        r#"{"iss":null}"#,
        Some(invalid(Reason::InvalidToken, "iss", Value::Null)),
    );
}

#[test]
fn roles_are_non_empty_strings_and_not_none() {
    let verifier = verifier(Some(SECRET), None);
    for role in ["null", "1", "\"\"", "[\"anon\"]", "{}", "true"] {
        let token = signed(&format!(r#"{{"role":{role},"exp":4102444800}}"#));
        assert_eq!(
            refused(&verifier, &token),
            TokenError::MissingClaims,
            "{role}"
        );
        let claims = verifier.verify(&token, NOW).expect(role);
        assert_eq!(claims.database_role(), Err(RoleError::Missing), "{role}");
    }
    let role = |role: &str| {
        let token = signed(&format!(r#"{{"role":"{role}","exp":4102444800}}"#));
        let claims = verifier.verify_connection(&token, NOW).expect(role);
        claims.database_role().map(str::to_owned)
    };
    assert_eq!(role("anon"), Ok("anon".to_owned()));
    assert_eq!(role("service_role"), Ok("service_role".to_owned()));
    assert_eq!(role("none"), Err(RoleError::None));
    assert_eq!(
        role("None"),
        Ok("None".to_owned()),
        "only the lower-case word is special"
    );
}

#[test]
fn claims_keep_what_was_signed() {
    let verifier = verifier(Some(SECRET), None);
    let claims =
        r#"{ "role":"anon", "exp":4102444800, "n":12345678901234567890.120, "z":null, "a":1 }"#;
    let verified = verifier.verify(&signed(claims), NOW).expect("a good token");
    assert_eq!(&*verified.json, claims);
    assert_eq!(verified.sub, None);
    assert!(
        !format!("{verified:?}").contains("12345"),
        "claims do not show in debug output"
    );
    assert!(
        !format!("{verifier:?}").contains("secret"),
        "keys do not show in debug output"
    );
}

#[test]
fn identities_are_read_without_a_check() {
    let identity = |sub, iss, exp| Identity::new(sub, iss, exp);
    let token = sign_hs256(b"whoever", r#"{"sub":"s","iss":"i","exp":17}"#);
    assert_eq!(
        unverified_identity(&token),
        identity(Some("s"), Some("i"), Some("17"))
    );
    for nothing in ["", "potato", "a.b.c"] {
        assert_eq!(
            unverified_identity(nothing),
            Identity::default(),
            "{nothing}"
        );
    }
}

proptest! {
    #[test]
    fn random_tokens_never_panic(token in ".{0,200}") {
        let _ = verifier(Some(SECRET), jwks()).verify_connection(&token, NOW);
        let _ = unverified_identity(&token);
    }

    #[test]
    fn random_parts_never_verify(header in any::<Vec<u8>>(), claims in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let token = format!("{}.{}.{}", part(&header), part(&claims), part(&signature));
        prop_assert!(verifier(Some(SECRET), jwks()).verify(&token, NOW).is_err());
    }

    #[test]
    fn one_changed_byte_of_a_token_never_verifies(at in 0..GOOD.len(), byte in any::<u8>()) {
        let mut token = GOOD.as_bytes().to_vec();
        prop_assume!(token[at] != byte && !byte.is_ascii_whitespace() && byte != 0x0b);
        token[at] = byte;
        let token = String::from_utf8_lossy(&token);
        prop_assert!(verifier(Some(SECRET), None).verify(&token, NOW).is_err());
    }
}

//! Verifying a token, by the algorithm that signed it: what the first socket with a token costs its shard.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, Throughput};
use realtime::auth::{ClaimValidators, Verifier, sign_hs256};
use realtime::connection::Tokens;
use realtime::tenant::TenantId;
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;

const SECRET: &[u8] = b"a secret of the benchmarks, long enough for an HMAC";

const NOW: i64 = 1_700_000_000;

/// What Supabase Auth claims of a user who has signed in with a password.
fn claims() -> String {
    json!({
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": 1_700_000_000}],
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "aud": "authenticated",
        "email": "somebody@example.com",
        "exp": 1_700_003_600,
        "iat": 1_700_000_000,
        "is_anonymous": false,
        "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
        "phone": "",
        "role": "authenticated",
        "session_id": "3f7e5c1c-52f4-4d4b-8f0e-8f7ad2c6b7f1",
        "sub": "b2a1c5c4-8d5b-4a51-9a3e-0a6ae7a0e6d2",
        "user_metadata": {"email": "somebody@example.com", "email_verified": true, "sub": "b2a1c5c4-8d5b-4a51-9a3e-0a6ae7a0e6d2"},
    })
    .to_string()
}

/// A token with this algorithm, signed by `sign`.
fn signed(algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let header = json!({"alg": algorithm, "kid": algorithm, "typ": "JWT"}).to_string();
    let [header, claims] = [header, claims()].map(|part| URL_SAFE_NO_PAD.encode(part));
    let text = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

/// A token of each asymmetric algorithm, and the keys that check them.
fn asymmetric() -> (Vec<(&'static str, String)>, Value) {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("there is randomness");
    // RFC 8017, A.1.1: a sequence of two integers, the first with a zero before its 256 bytes; the second is 65537.
    let modulus = &rsa.public_key().as_ref()[9..265];
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("there is randomness");
    let ed = Ed25519KeyPair::generate().expect("there is randomness");
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let keys = json!({"keys": [
        {"kid": "RS256", "kty": "RSA", "n": text(modulus), "e": "AQAB"},
        {"kid": "ES256", "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y)},
        {"kid": "EdDSA", "kty": "OKP", "crv": "Ed25519", "x": text(ed.public_key().as_ref())},
    ]});
    let by_rsa = signed("RS256", |bytes| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature)
            .expect("the key signs");
        signature
    });
    let by_ec = signed("ES256", |bytes| {
        let signature = ec.sign(&random, bytes).expect("the key signs");
        signature.as_ref().to_vec()
    });
    let by_ed = signed("EdDSA", |bytes| ed.sign(bytes).as_ref().to_vec());
    (
        vec![("RS256", by_rsa), ("ES256", by_ec), ("EdDSA", by_ed)],
        keys,
    )
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify a token");
    group.throughput(Throughput::Elements(1));
    let (mut tokens, keys) = asymmetric();
    tokens.insert(0, ("HS256", sign_hs256(SECRET, &claims())));
    let validators = Arc::new(ClaimValidators::default());
    let verifier = Verifier::new(Some(SECRET.to_vec()), Some(&keys), validators);
    for (algorithm, token) in &tokens {
        verifier
            .verify_connection(token, NOW)
            .expect("the token is good");
        group.bench_function(*algorithm, |b| {
            b.iter(|| verifier.verify_connection(black_box(token), NOW));
        });
    }
    let (_, token) = &tokens[0];
    let mut known = Tokens::default();
    group.bench_function("known already", |b| {
        b.iter(|| {
            known
                .verify(TenantId(1), &verifier, black_box(token), NOW)
                .is_ok()
        });
    });
    group.finish();
}

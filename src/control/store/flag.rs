//! Feature flags: for which tenants something is on (spec: control-database 2.3).
//!
//! What comes in: a flag as it is stored, if it is, and a tenant. What goes out: yes or no. What always holds: a tenant's own word wins;
//! of a flag that is rolled out to a part of the tenants, the same tenants are in it on every node, the original's included, because
//! the hash is Erlang's (`hashes_are_those_of_erlang`).

use super::record::TenantRecord;
use serde_json::Value;

/// A flag for all tenants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flag {
    /// Whether it is on for anybody.
    pub enabled: bool,
    /// For which part of the tenants, in percent.
    pub rollout_percentage: i32,
    /// What is hashed beside the tenant in place of the flag's name, so that two flags may choose the same tenants.
    pub bucket_key: Option<String>,
}

impl Flag {
    /// Whether the flag of this name is on for a tenant. One that is not stored is off.
    #[must_use]
    pub fn is_on(flag: Option<&Self>, name: &str, tenant: &TenantRecord) -> bool {
        if let Some(Value::Bool(own)) = tenant.feature_flags.get(name) {
            return *own;
        }
        let Some(flag) = flag.filter(|flag| flag.enabled) else {
            return false;
        };
        let key = flag.bucket_key.as_deref().unwrap_or(name);
        let bucket = phash2_of_pair(tenant.external_id.as_bytes(), key.as_bytes()) % 100;
        i64::from(bucket) < i64::from(flag.rollout_percentage)
    }
}

/// The golden ratio, by which Erlang tells kinds of terms apart: each kind has a multiple of it.
const GOLDEN: u32 = 0x9e37_79b9;
const TUPLE: u32 = GOLDEN.wrapping_mul(9);
const BINARY: u32 = GOLDEN.wrapping_mul(13);

/// `erlang:phash2({First, Second}, 1 bsl 32)` of two binaries.
fn phash2_of_pair(first: &[u8], second: &[u8]) -> u32 {
    phash2_of_tuple(&[first, second])
}

/// The same of a tuple of any number of binaries.
fn phash2_of_tuple(parts: &[&[u8]]) -> u32 {
    let arity = u32::try_from(parts.len()).expect("tuples are short");
    let start = mix(TUPLE.wrapping_add(arity), TUPLE, 0);
    parts.iter().fold(start, |hash, part| binary(part, hash))
}

fn binary(bytes: &[u8], hash: u32) -> u32 {
    let start = BINARY.wrapping_add(hash);
    if bytes.is_empty() {
        start
    } else {
        jenkins(bytes, start)
    }
}

/// Bob Jenkins' hash of 1996 ("lookup2"): blocks of three words, and the rest with the length.
fn jenkins(bytes: &[u8], start: u32) -> u32 {
    let (mut a, mut b, mut c) = (GOLDEN, GOLDEN, start);
    let (blocks, rest) = bytes.as_chunks::<12>();
    for block in blocks {
        (a, b, c) = mixed(
            a.wrapping_add(word(&block[..4])),
            b.wrapping_add(word(&block[4..8])),
            c.wrapping_add(word(&block[8..])),
        );
    }
    // The lowest byte of the third word is the length's.
    let mut last = [0; 12];
    let split = rest.len().min(8);
    last[..split].copy_from_slice(&rest[..split]);
    last[9..9 + rest.len() - split].copy_from_slice(&rest[split..]);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Erlang's lengths wrap as well"
    )]
    let length = bytes.len() as u32;
    let (_, _, c) = mixed(
        a.wrapping_add(word(&last[..4])),
        b.wrapping_add(word(&last[4..8])),
        c.wrapping_add(length).wrapping_add(word(&last[8..])),
    );
    c
}

/// Four bytes, the lowest first.
fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn mix(a: u32, b: u32, c: u32) -> u32 {
    mixed(a, b, c).2
}

/// The mixing step: each word is hit by the other two, with these shifts.
fn mixed(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for (right, left, back) in [(13, 8, 13), (12, 16, 5), (3, 10, 15)] {
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> right);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << left);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> back);
    }
    (a, b, c)
}

#[cfg(test)]
mod tests {
    use super::super::TEST_DEFAULTS;
    use super::*;
    use serde_json::json;

    fn tenant(name: &str) -> TenantRecord {
        TenantRecord::new(name, &TEST_DEFAULTS, 1)
    }

    fn flag(rollout_percentage: i32) -> Flag {
        Flag {
            enabled: true,
            rollout_percentage,
            bucket_key: None,
        }
    }

    /// The numbers are those of Erlang/OTP's own tests (`hash_SUITE`, `phash2_test`).
    #[test]
    fn hashes_are_those_of_erlang() {
        let chars: Vec<u8> = (32..=127).collect();
        let long = chars.repeat(500);
        for (bytes, expected) in [
            (&b""[..], 147_926_629),
            (&[0], 2_914_887_855),
            (&[0; 4], 2_014_511_533),
            (b"abc", 1_306_188_027),
            (b"12345678901234567890", 3_021_061_640),
            (&long, 2_644_086_993),
            (&long[16..], 3_575_839_236),
        ] {
            assert_eq!(binary(bytes, 0), expected, "{} bytes", bytes.len());
        }
        assert_eq!(binary(b"Scott9", 0) % (1 << 27), 38_990_304);
        assert_eq!(phash2_of_tuple(&[b""]), 682_464_809);
    }

    #[test]
    fn a_tenants_own_word_wins() {
        let mut tenant = tenant("a");
        assert!(!Flag::is_on(None, "f", &tenant));
        assert!(Flag::is_on(Some(&flag(100)), "f", &tenant));
        tenant.feature_flags = json!({"f": false, "g": true, "h": "true"})
            .as_object()
            .unwrap()
            .clone();
        assert!(!Flag::is_on(Some(&flag(100)), "f", &tenant));
        assert!(Flag::is_on(None, "g", &tenant));
        assert!(!Flag::is_on(None, "h", &tenant), "a text is no word");
        let off = Flag {
            enabled: false,
            ..flag(100)
        };
        assert!(!Flag::is_on(Some(&off), "i", &tenant));
    }

    #[test]
    fn a_part_of_the_tenants_is_in_a_rollout() {
        let names: Vec<String> = (0..1000).map(|number| format!("tenant-{number}")).collect();
        let members = |flag: &Flag, name: &str| -> Vec<&String> {
            let is_in = |tenant_name: &&String| Flag::is_on(Some(flag), name, &tenant(tenant_name));
            names.iter().filter(is_in).collect()
        };
        assert!(members(&flag(0), "f").is_empty());
        let (third, half) = (members(&flag(30), "f"), members(&flag(50), "f"));
        assert!((200..400).contains(&third.len()), "{}", third.len());
        assert!(
            third.iter().all(|name| half.contains(name)),
            "a rollout only grows"
        );
        assert_ne!(members(&flag(30), "g"), third);
        let shared = Flag {
            bucket_key: Some("f".to_owned()),
            ..flag(30)
        };
        assert_eq!(members(&shared, "g"), third);
    }
}

//! Feature flags: for which tenants something is on (spec: control-database 2.3).
//!
//! What comes in: a flag as it is stored, if it is, and a tenant. What goes out: yes or no. What always holds: a tenant's own word wins;
//! of a flag that is rolled out to a part of the tenants, the same tenants are in it on every node, the original's included, because
//! the hash is Erlang's ([`phoenix`](crate::phoenix) has it).

use super::record::TenantRecord;
use crate::phoenix::phash2_of_binaries;
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
        let bucket = phash2_of_binaries(&[tenant.external_id.as_bytes(), key.as_bytes()]) % 100;
        i64::from(bucket) < i64::from(flag.rollout_percentage)
    }
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

//! All tenants, found by name, by number, or by the host that a client connected to.

use super::{Tenant, TenantId};
use foldhash::fast::FixedState;
use rustc_hash::FxHashMap;
use std::collections::HashMap;
use std::sync::Arc;

/// The tenants that one thread knows. Every thread keeps one of its own and changes it when mail says so.
#[derive(Clone, Debug, Default)]
pub struct TenantDirectory {
    by_id: FxHashMap<TenantId, Arc<Tenant>>,
    // Clients choose the names that are asked for, but only operators those that are entered: no seed is needed.
    by_external_id: HashMap<Arc<str>, Arc<Tenant>, FixedState>,
}

impl TenantDirectory {
    /// Enters a tenant, or replaces its snapshot of before, which is returned.
    pub fn insert(&mut self, tenant: Arc<Tenant>) -> Option<Arc<Tenant>> {
        let before = self.by_id.insert(tenant.id, Arc::clone(&tenant));
        if let Some(before) = before
            .as_ref()
            .filter(|before| before.external_id != tenant.external_id)
        {
            self.by_external_id.remove(&before.external_id);
        }
        self.by_external_id
            .insert(Arc::clone(&tenant.external_id), tenant);
        before
    }

    /// Forgets a tenant.
    pub fn remove(&mut self, id: TenantId) -> Option<Arc<Tenant>> {
        let tenant = self.by_id.remove(&id)?;
        // A tenant that was deleted and made again has a new number under its old name: that one stays.
        if self
            .by_external_id
            .get(&tenant.external_id)
            .is_some_and(|named| named.id == id)
        {
            self.by_external_id.remove(&tenant.external_id);
        }
        Some(tenant)
    }

    /// The tenant of this number.
    #[must_use]
    pub fn get(&self, id: TenantId) -> Option<&Arc<Tenant>> {
        self.by_id.get(&id)
    }

    /// The tenant of this name.
    #[must_use]
    pub fn find(&self, external_id: &str) -> Option<&Arc<Tenant>> {
        self.by_external_id.get(external_id)
    }

    /// The tenant that a request to a host means. `label` is what stands before the host's first dot, in lower case (spec:
    /// websocket-protocol 1.1). With `means_the_only` (`ANY_HOST_SINGLE_TENANT`, and a host that names nobody) and exactly one tenant, it
    /// means that one, so that `localhost` and an address work without a name.
    #[must_use]
    pub fn find_host(&self, label: &str, means_the_only: bool) -> Option<&Arc<Tenant>> {
        self.find(label).or_else(|| {
            if means_the_only && self.by_id.len() == 1 {
                self.by_id.values().next()
            } else {
                None
            }
        })
    }

    /// All tenants, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_id.values()
    }

    /// How many tenants there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no tenant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TenantLimits, Usage};
    use super::*;
    use crate::auth::{ClaimValidators, Verifier};

    fn tenant(id: u32, name: &str) -> Arc<Tenant> {
        Arc::new(Tenant {
            id: TenantId(id),
            external_id: name.into(),
            verifier: Verifier::new(
                Some(b"secret".to_vec()),
                None,
                Arc::new(ClaimValidators::default()),
            ),
            limits: TenantLimits::default(),
            suspended: false,
            private_only: false,
            presence_enabled: false,
            has_database: false,
            usage: Arc::new(Usage::new(1)),
        })
    }

    fn directory(names: &[&str]) -> TenantDirectory {
        let mut directory = TenantDirectory::default();
        for (id, name) in (1..).zip(names) {
            directory.insert(tenant(id, name));
        }
        directory
    }

    #[test]
    fn a_host_may_mean_the_only_tenant_but_never_one_of_two() {
        let check = |names: &[&str], label: &str, any_host: bool, expected: Option<&str>| {
            let directory = directory(names);
            let found = directory
                .find_host(label, any_host)
                .map(|tenant| &*tenant.external_id);
            assert_eq!(found, expected, "{names:?} {label} {any_host}");
        };
        check(&["a"], "a", false, Some("a"));
        check(&["a"], "localhost", false, None);
        check(&["a"], "localhost", true, Some("a"));
        check(&["a"], "", true, Some("a"));
        check(&["a", "b"], "localhost", true, None);
        check(&["a", "b"], "b", true, Some("b"));
        check(&[], "localhost", true, None);
    }

    #[test]
    fn replaced_snapshot_is_found_by_both_keys() {
        let mut directory = directory(&["a"]);
        let newer = tenant(1, "a");
        assert!(directory.insert(Arc::clone(&newer)).is_some());
        assert!(
            directory
                .get(TenantId(1))
                .is_some_and(|found| Arc::ptr_eq(found, &newer))
        );
        assert!(
            directory
                .find("a")
                .is_some_and(|found| Arc::ptr_eq(found, &newer))
        );
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn late_removal_does_not_touch_a_tenant_made_again() {
        let mut directory = directory(&["a"]);
        directory.insert(tenant(2, "a"));
        assert!(directory.remove(TenantId(1)).is_some());
        assert_eq!(
            directory.find("a").map(|tenant| tenant.id),
            Some(TenantId(2))
        );
        assert!(directory.remove(TenantId(2)).is_some());
        assert!(directory.find("a").is_none() && directory.is_empty());
    }
}

//! Tokens that were verified on this shard: most sockets of a tenant carry the same one, so each is kept and checked once.
//!
//! What always holds: a token found here had a good signature under the keys that its tenant has now (a tenant whose keys change loses
//! its tokens: [`Tokens::forget`]); whether it has expired is asked at every use, by the caller.

use crate::auth::{Claims, TokenError, Verifier};
use crate::tenant::TenantId;
use aws_lc_rs::digest::{SHA256, digest};
use rustc_hash::FxHashMap;
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// A verified token. Its text is not kept: where each user has a token, it would be the largest part of a connection.
#[derive(Debug)]
pub struct Token {
    fingerprint: Fingerprint,
    /// What it claims.
    pub claims: Arc<Claims>,
}

impl Token {
    /// Whether it was sent as this text.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.fingerprint == Fingerprint::of(text)
    }
}

/// The SHA-256 of a token's text: two texts with one fingerprint cannot be found.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(text: &str) -> Self {
        let digest = digest(&SHA256, text.as_bytes());
        let bytes = digest.as_ref().try_into();
        Self(bytes.expect("a SHA-256 has 32 bytes"))
    }
}

/// The tokens of one shard, by tenant.
#[derive(Debug, Default)]
pub struct Tokens {
    by_tenant: FxHashMap<TenantId, Known>,
}

/// The tokens of one tenant.
#[derive(Debug, Default)]
struct Known {
    tokens: HashSet<Entry, foldhash::fast::RandomState>,
    /// How many of them there may be before those that nobody uses any more are dropped. Each tenant has its own: many tokens of
    /// one must not keep the unused ones of another.
    sweep_at: usize,
}

/// A token, found by its fingerprint.
#[derive(Debug)]
struct Entry(Rc<Token>);

impl Borrow<Fingerprint> for Entry {
    fn borrow(&self) -> &Fingerprint {
        &self.0.fingerprint
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.fingerprint.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl Eq for Entry {}

/// Tokens of one tenant that may lie about unused before they are swept.
const UNUSED_MAX: usize = 256;

impl Tokens {
    /// The token with this text, verified now or before, and not expired at `unix_now` seconds.
    ///
    /// # Errors
    ///
    /// What is wrong with it; such a token is not kept.
    pub fn verify(
        &mut self,
        tenant: TenantId,
        verifier: &Verifier,
        text: &str,
        unix_now: i64,
    ) -> Result<Rc<Token>, TokenError> {
        let known = self.by_tenant.entry(tenant).or_default();
        let fingerprint = Fingerprint::of(text);
        if let Some(Entry(token)) = known.tokens.get(&fingerprint) {
            token.claims.recheck(unix_now)?;
            return Ok(Rc::clone(token));
        }
        let claims = verifier.verify_connection(text, unix_now)?;
        let token = Rc::new(Token {
            fingerprint,
            claims: Arc::new(claims),
        });
        if known.tokens.len() >= known.sweep_at.max(UNUSED_MAX) {
            known
                .tokens
                .retain(|Entry(token)| Rc::strong_count(token) > 1);
            known.sweep_at = known.tokens.len() * 2;
        }
        known.tokens.insert(Entry(Rc::clone(&token)));
        Ok(token)
    }

    /// Forgets what was verified for a tenant, because its keys may have changed.
    pub fn forget(&mut self, tenant: TenantId) {
        self.by_tenant.remove(&tenant);
    }
}

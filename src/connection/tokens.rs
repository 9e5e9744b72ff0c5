//! Tokens that were verified on this shard: most sockets of a tenant carry the same one, so each is kept and checked once.
//!
//! What always holds: a token found here had a good signature under the keys that its tenant has now (a tenant whose keys change loses
//! its tokens: [`Tokens::forget`]); whether it has expired is asked at every use, by the caller.

use crate::auth::{Claims, TokenError, Verifier};
use crate::tenant::TenantId;
use rustc_hash::FxHashMap;
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// A verified token.
#[derive(Debug)]
pub struct Token {
    /// As it was sent.
    pub text: Box<str>,
    /// What it claims.
    pub claims: Arc<Claims>,
}

/// The tokens of one shard, by tenant.
#[derive(Debug, Default)]
pub struct Tokens {
    by_tenant: FxHashMap<TenantId, Known>,
}

/// The tokens of one tenant.
#[derive(Debug, Default)]
struct Known {
    tokens: HashSet<ByText, foldhash::fast::RandomState>,
    /// How many of them there may be before those that nobody uses any more are dropped. Each tenant has its own: many tokens of
    /// one must not keep the unused ones of another.
    sweep_at: usize,
}

#[derive(Debug)]
struct ByText(Rc<Token>);

impl Borrow<str> for ByText {
    fn borrow(&self) -> &str {
        &self.0.text
    }
}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for ByText {}

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
        if let Some(ByText(token)) = known.tokens.get(text) {
            token.claims.recheck(unix_now)?;
            return Ok(Rc::clone(token));
        }
        let claims = verifier.verify_connection(text, unix_now)?;
        let token = Rc::new(Token {
            text: text.into(),
            claims: Arc::new(claims),
        });
        if known.tokens.len() >= known.sweep_at.max(UNUSED_MAX) {
            known
                .tokens
                .retain(|ByText(token)| Rc::strong_count(token) > 1);
            known.sweep_at = known.tokens.len() * 2;
        }
        known.tokens.insert(ByText(Rc::clone(&token)));
        Ok(token)
    }

    /// Forgets what was verified for a tenant, because its keys may have changed.
    pub fn forget(&mut self, tenant: TenantId) {
        self.by_tenant.remove(&tenant);
    }
}

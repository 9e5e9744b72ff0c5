//! The name of a topic, the same on every thread.

use crate::phoenix;
use crate::tenant::TenantId;
use foldhash::quality::FixedState;
use shards::ShardId;
use std::hash::BuildHasher;

/// Hashes topic names; one seed per process, known to nobody outside, since clients choose the names.
#[derive(Clone, Debug)]
pub struct TopicHasher(FixedState);

impl TopicHasher {
    /// A hasher with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }

    /// The hash of a topic's parts: [`TopicKey::hash`] before there is a key.
    #[must_use]
    pub fn hash(&self, tenant: TenantId, private: bool, name: &str) -> u64 {
        self.0.hash_one((tenant, private, name))
    }
}

/// A topic's full name: public and private topics of one name have nothing to do with each other, nor have those of two tenants
/// (spec: websocket-protocol 4.3).
#[derive(Debug)]
pub struct TopicKey {
    tenant: TenantId,
    private: bool,
    hash: u64,
    /// `realtime:<name>` as a JSON string, quotes included.
    json: Box<str>,
    /// The same as clients mean it, where it is not simply what stands between the quotes.
    unescaped: Option<Box<str>>,
}

/// What a topic is found by.
#[derive(Copy, Clone, Debug)]
pub struct TopicName<'a> {
    /// Whose topic.
    pub tenant: TenantId,
    /// Whether its members are checked by policies.
    pub private: bool,
    /// As clients write it, `realtime:` and all.
    pub text: &'a str,
    /// The same as a JSON string, quotes included.
    pub json: &'a str,
}

/// What every topic of a channel begins with.
const PREFIX: &str = "realtime:";

impl TopicKey {
    /// The key of a topic as a client has written it.
    #[must_use]
    pub fn new(hasher: &TopicHasher, name: TopicName<'_>) -> Self {
        let TopicName {
            tenant,
            private,
            text,
            json,
        } = name;
        debug_assert!(text.starts_with(PREFIX), "only channels have keys");
        let name = text.strip_prefix(PREFIX).unwrap_or(text);
        Self {
            tenant,
            private,
            hash: hasher.hash(tenant, private, name),
            json: json.into(),
            unescaped: (between_quotes(json) != text).then(|| text.into()),
        }
    }

    /// The key of the topic `realtime:<name>`.
    #[must_use]
    pub fn of_name(hasher: &TopicHasher, tenant: TenantId, private: bool, name: &str) -> Self {
        let text = format!("{PREFIX}{name}");
        let mut json = Vec::with_capacity(text.len() + 2);
        phoenix::json_string(&mut json, &text);
        let json = std::str::from_utf8(&json).expect("the escape of a text is text");
        Self::new(
            hasher,
            TopicName {
                tenant,
                private,
                text: &text,
                json,
            },
        )
    }

    /// Whose topic.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Whether its members are checked by policies.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// The hash of tenant, privacy and name.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The topic as clients write it: `realtime:room1`.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.unescaped {
            Some(text) => text,
            None => between_quotes(&self.json),
        }
    }

    /// [`TopicKey::text`] as a JSON string, quotes included.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The sub topic: what comes behind `realtime:`, verbatim.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text().strip_prefix(PREFIX).unwrap_or(self.text())
    }

    /// Whether this is the key of these parts.
    #[must_use]
    pub fn is(&self, tenant: TenantId, private: bool, name: &str) -> bool {
        self.tenant == tenant && self.private == private && self.name() == name
    }

    /// The shard that owns the topic.
    #[must_use]
    pub fn owner(&self, shard_count: usize) -> ShardId {
        Self::owner_of(self.hash, shard_count)
    }

    /// The shard that owns a topic of this hash. The map uses the low bits, this the high ones.
    #[must_use]
    pub fn owner_of(hash: u64, shard_count: usize) -> ShardId {
        let scaled = (u128::from(hash) * shard_count as u128) >> 64;
        ShardId(u16::try_from(scaled).unwrap_or(0))
    }
}

fn between_quotes(json: &str) -> &str {
    let inner = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(json)
}

/// A topic's place in the registry of one shard. The generation makes sure that a late letter cannot reach the next topic there.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct TopicRef {
    /// Place in the registry.
    pub index: u32,
    /// Counts the topics that had this place.
    pub generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_and_private_and_tenants_are_apart() {
        let hasher = TopicHasher::new(7);
        let key = TopicKey::of_name(&hasher, TenantId(1), false, "a:b");
        assert_eq!(key.json(), "\"realtime:a:b\"");
        assert_eq!(key.name(), "a:b");
        assert!(key.is(TenantId(1), false, "a:b"));
        assert!(!key.is(TenantId(1), true, "a:b"));
        assert!(!key.is(TenantId(2), false, "a:b"));
        assert_ne!(key.hash(), hasher.hash(TenantId(1), true, "a:b"));
        assert_eq!(key.hash(), hasher.hash(TenantId(1), false, "a:b"));
    }

    #[test]
    fn escapes_of_the_json_form_are_not_part_of_the_name() {
        let hasher = TopicHasher::new(7);
        let check = |text: &str, json: &str| {
            let (tenant, private) = (TenantId(1), false);
            let name = TopicName {
                tenant,
                private,
                text,
                json,
            };
            let key = TopicKey::new(&hasher, name);
            assert_eq!((key.text(), key.json()), (text, json));
        };
        check("realtime:a", r#""realtime:a""#);
        check("realtime:a\"b", r#""realtime:a\"b""#);
        check("realtime:\u{e4}", r#""realtime:\u00e4""#);
        check("realtime:\"", r#""realtime:\"""#);
    }

    #[test]
    fn every_shard_owns_some_topics() {
        let hasher = TopicHasher::new(7);
        let mut owned = [0_u32; 3];
        for n in 0..3000 {
            let hash = hasher.hash(TenantId(1), false, &n.to_string());
            owned[usize::from(TopicKey::owner_of(hash, 3).0)] += 1;
        }
        assert!(owned.iter().all(|&count| count > 800), "{owned:?}");
    }
}

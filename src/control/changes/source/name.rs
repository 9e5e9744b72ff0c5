//! What a tenant's slot is called.
//!
//! What comes in: the setting `slot_name`, `SLOT_NAME_SUFFIX`, the database and the tenant. What goes out: a name. What always holds: the
//! same in, the same out, in every version of the server, so that a later life of the process finds the slot of an earlier one
//! (`names_stay_what_they_are`); PostgreSQL takes it; it is never the original's name, whose takeover would kill our reader. Two
//! tenants of one database have slots of their own, and so have two databases of one server: names of slots are the whole
//! server's. Deliberately absent: processes. Two that serve the same tenant with the same suffix fight for its slot, see [`super`].

use crate::limits;

/// The name. `database` is its `pg_database.oid`.
#[must_use]
pub fn slot_name(base: &str, suffix: Option<&str>, database: u32, external_id: &str) -> String {
    let named = match suffix {
        Some(suffix) if !suffix.is_empty() => format!("{base}_{suffix}"),
        _ => base.to_owned(),
    };
    let tag = tag(&format!("{named}\n{database}\n{external_id}"));
    // Both are made of ASCII (they are checked where they come in), so it can be cut anywhere; the tag knows all of it.
    let kept = named
        .len()
        .min(limits::SLOT_NAME_BYTES_MAX - 1 - TAG_LENGTH);
    format!("{}_{tag}", &named[..kept])
}

/// With the longest suffix the default name still fits in whole. Some 2⁴¹ tags: far more than a server has slots.
const TAG_LENGTH: usize = 8;

/// FNV-1a, in letters and digits: it must never change, and nobody gains from a collision that he could not have by the name.
fn tag(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let digit = |power: u32| {
        let digit = hash / 36_u64.pow(power) % 36;
        char::from_digit(u32::try_from(digit).unwrap_or(0), 36).unwrap_or('0')
    };
    (0..)
        .take(TAG_LENGTH)
        .map(|power: u32| digit(power))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "supabase_realtime_replication_slot";

    #[test]
    fn names_stay_what_they_are() {
        // A change here leaves slots behind that nobody drops.
        let name = slot_name(BASE, None, 16384, "tenant");
        assert_eq!(name, "supabase_realtime_replication_slot_37pkkl24");
    }

    #[test]
    fn names_differ_where_anything_does() {
        let name = |suffix, database, tenant| slot_name(BASE, suffix, database, tenant);
        let first = name(None, 1, "a");
        assert_ne!(first, BASE);
        for other in [
            name(Some("x"), 1, "a"),
            name(None, 2, "a"),
            name(None, 1, "b"),
            slot_name("other", None, 1, "a"),
        ] {
            assert_ne!(first, other);
        }
        assert_eq!(name(Some(""), 1, "a"), first);
        assert!(name(Some("x"), 1, "a").starts_with("supabase_realtime_replication_slot_x_"));
    }

    #[test]
    fn names_fit() {
        let longest = "s".repeat(19);
        let whole = slot_name(BASE, Some(&longest), u32::MAX, "ten\u{e4}nt");
        assert_eq!(whole.len(), 63);
        assert!(whole.starts_with(&format!("{BASE}_{longest}_")));
        let cut = slot_name(&"b".repeat(63), Some("one"), 1, "a");
        assert_eq!(cut.len(), 63);
        // What was cut off still counts.
        assert_ne!(cut, slot_name(&"b".repeat(63), Some("two"), 1, "a"));
        let is_right =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(whole.bytes().all(is_right) && cut.bytes().all(is_right));
    }
}

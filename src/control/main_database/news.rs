//! What others did to the tenants: told by them, or found by comparing.
//!
//! What comes in: notifications of PostgreSQL, and the versions of all rows every `TENANT_CACHE_EXPIRATION_IN_MS`. What goes out:
//! [`StoreNews`] in a bounded queue. What always holds: a change in the database is news within that time, whoever made it, by whatever
//! means, whether or not anybody told of it (`tests/database/control_database`); what one's own process tells is not heard by it.
//! Deliberately absent: what news mean.

use crate::control::store::StoreNews;
use crate::limits;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// The channel of PostgreSQL's notifications.
pub(super) const CHANNEL: &str = "realtime_tenants";

/// News in the words that processes tell each other; `from` is the teller's name. None when it is too long to be told.
pub(super) fn told(news: &StoreNews, from: &str) -> Option<String> {
    let (what, tenant) = match news {
        StoreNews::Changed(tenant) => ("changed", tenant),
        StoreNews::Reload(tenant) => ("reload", tenant),
        StoreNews::Shutdown(tenant) => ("shutdown", tenant),
    };
    let text = json!({"from": from, "what": what, "tenant": tenant}).to_string();
    Some(text).filter(|text| text.len() <= limits::NOTIFICATION_BYTES_MAX)
}

/// What was told, unless it is one's own or in words that we do not know.
pub(super) fn heard(payload: &str, own: &str) -> Option<StoreNews> {
    let told: Value = serde_json::from_str(payload).ok()?;
    if told["from"] == own {
        return None;
    }
    let tenant = told["tenant"].as_str()?.to_owned();
    match told["what"].as_str()? {
        "changed" => Some(StoreNews::Changed(tenant)),
        "reload" => Some(StoreNews::Reload(tenant)),
        "shutdown" => Some(StoreNews::Shutdown(tenant)),
        _ => None,
    }
}

/// The version that no row has: whatever the next comparison finds, or no more finds, is news.
const UNKNOWN_VERSION: &str = "";

/// News that wait to be heard, and the rows as they were when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct News {
    waiting: VecDeque<(u64, StoreNews)>,
    last: u64,
    versions: FxHashMap<String, String>,
}

impl News {
    /// With these versions of rows.
    pub(super) fn new(versions: FxHashMap<String, String>) -> Self {
        Self {
            versions,
            ..Self::default()
        }
    }

    /// The first one after the one of this number, which has been heard with all before.
    pub(super) fn next(&mut self, after: u64) -> Option<(u64, StoreNews)> {
        while self
            .waiting
            .front()
            .is_some_and(|(number, _)| *number <= after)
        {
            self.waiting.pop_front();
        }
        self.waiting.front().cloned()
    }

    /// Takes one in.
    pub(super) fn push(&mut self, news: StoreNews) {
        // Nobody has read the row since: once is enough. The first one may be on its way to somebody, and be heard before the row changed.
        let mut known = self.waiting.iter().skip(1).map(|(_, known)| known);
        if matches!(news, StoreNews::Changed(_)) && known.any(|known| *known == news) {
            return;
        }
        if self.waiting.len() >= limits::CONTROL_DATABASE_NEWS_WAITING_MAX {
            self.forget_one();
        }
        self.last += 1;
        self.waiting.push_back((self.last, news));
    }

    /// Makes room. A change is found again by a comparison, also of a row that is gone; the other news are not, so they stay.
    fn forget_one(&mut self) {
        let is_change = |(_, news): &(u64, StoreNews)| matches!(news, StoreNews::Changed(_));
        let first = self.waiting.iter().position(is_change).unwrap_or(0);
        if let Some((_, StoreNews::Changed(lost))) = self.waiting.remove(first) {
            self.versions.insert(lost, UNKNOWN_VERSION.to_owned());
        }
    }

    /// Somebody was given this row, or has written it. It is still news when it is another one than at the last comparison, since nobody
    /// may have taken it in; and from now on it would be missed.
    pub(super) fn met(&mut self, external_id: &str) {
        if !self.versions.contains_key(external_id) {
            self.versions
                .insert(external_id.to_owned(), UNKNOWN_VERSION.to_owned());
        }
    }

    /// All rows as they are now.
    pub(super) fn compare(&mut self, rows: Vec<(String, String)>) {
        let mut gone = std::mem::take(&mut self.versions);
        let mut changed = Vec::new();
        for (external_id, version) in rows {
            if gone.remove(&external_id).as_ref() != Some(&version) {
                changed.push(external_id.clone());
            }
            self.versions.insert(external_id, version);
        }
        changed.extend(gone.into_keys());
        changed.sort_unstable();
        for external_id in changed {
            self.push(StoreNews::Changed(external_id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(tenant: &str) -> StoreNews {
        StoreNews::Changed(tenant.to_owned())
    }

    fn rows(rows: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
        rows.iter().map(owned).collect()
    }

    /// Everything that waits.
    fn all(news: &mut News, mut after: u64) -> Vec<StoreNews> {
        let mut heard = Vec::new();
        while let Some((number, one)) = news.next(after) {
            heard.push(one);
            after = number;
        }
        heard
    }

    #[test]
    fn what_is_told_is_heard_by_others_alone() {
        let of = |make: fn(String) -> StoreNews| make("t\"ä".to_owned());
        for news in [
            of(StoreNews::Changed),
            of(StoreNews::Reload),
            of(StoreNews::Shutdown),
        ] {
            let text = told(&news, "me").unwrap();
            assert_eq!(heard(&text, "you"), Some(news));
            assert_eq!(heard(&text, "me"), None);
        }
        assert_eq!(told(&changed(&"x".repeat(8000)), "me"), None);
        for foreign in [
            "",
            "{}",
            "[]",
            r#"{"from":"a","what":"other","tenant":"t"}"#,
        ] {
            assert_eq!(heard(foreign, "me"), None, "{foreign}");
        }
    }

    #[test]
    fn news_are_heard_once_and_not_lost_with_who_gave_up() {
        let mut news = News::default();
        assert_eq!(news.next(0), None);
        news.push(StoreNews::Reload("a".to_owned()));
        news.push(StoreNews::Reload("a".to_owned()));
        // Asked twice with the same number: the first answer did not arrive.
        let first = news.next(0).unwrap();
        assert_eq!(news.next(0), Some(first.clone()));
        let second = news.next(first.0).unwrap();
        assert_eq!(news.next(second.0), None);
    }

    #[test]
    fn a_comparison_finds_new_changed_and_gone_rows() {
        let mut news = News::new(
            rows(&[("a", "1"), ("b", "1"), ("c", "1")])
                .into_iter()
                .collect(),
        );
        news.compare(rows(&[("a", "1"), ("b", "2"), ("d", "1")]));
        assert_eq!(
            all(&mut news, 0),
            [changed("b"), changed("c"), changed("d")]
        );
        news.compare(rows(&[("a", "1"), ("b", "2"), ("d", "1")]));
        assert_eq!(all(&mut news, 3), []);
    }

    #[test]
    fn who_reads_a_row_takes_no_news_away() {
        let mut news = News::new(rows(&[("a", "1")]).into_iter().collect());
        news.met("a");
        news.compare(rows(&[("a", "2")]));
        assert_eq!(all(&mut news, 0), [changed("a")]);
        // One that came and went between two comparisons is known to whoever has read it.
        news.met("b");
        news.compare(rows(&[("a", "2")]));
        assert_eq!(all(&mut news, 1), [changed("b")]);
        news.compare(rows(&[("a", "2")]));
        assert_eq!(all(&mut news, 2), []);
    }

    #[test]
    fn the_same_change_waits_once() {
        let mut news = News::default();
        for _ in 0..5 {
            news.push(changed("a"));
            news.push(changed("b"));
        }
        assert_eq!(
            all(&mut news, 0),
            [changed("a"), changed("b"), changed("a")]
        );
    }

    #[test]
    fn what_is_forgotten_is_found_again() {
        let mut news = News::default();
        let many: Vec<(String, String)> = (0..=limits::CONTROL_DATABASE_NEWS_WAITING_MAX)
            .map(|number| (format!("{number:05}"), "1".to_owned()))
            .collect();
        news.compare(many.clone());
        let first = all(&mut news, 0);
        assert_eq!(first.len(), limits::CONTROL_DATABASE_NEWS_WAITING_MAX);
        assert!(!first.contains(&changed("00000")));
        let last = news.last;
        news.compare(many);
        assert_eq!(all(&mut news, last), [changed("00000")]);
        // Also when it is that rows are gone; and what no comparison finds is kept.
        let last = news.last;
        news.push(StoreNews::Reload("r".to_owned()));
        news.compare(Vec::new());
        let heard = all(&mut news, last);
        assert!(heard.contains(&StoreNews::Reload("r".to_owned())));
        let last = news.last;
        news.compare(Vec::new());
        let again = all(&mut news, last);
        assert_eq!(again.len(), 2, "{again:?}");
        assert!(again.iter().all(|one| !heard.contains(one)));
    }
}

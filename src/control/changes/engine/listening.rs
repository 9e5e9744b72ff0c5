//! From a join's entries to a seat, and what the client reads on the way (spec: postgres-changes 3.2, 4.1, 6).
//!
//! What comes in: orders, answers of the database, and news of the slot. What goes out: seats and `system` messages. What always holds:
//!
//! - One wrong entry fails all of its join, with the text of the first one that is wrong.
//! - Equal wishes of equal roles are checked once, however many ask at the same time.
//! - Old claims count until the new ones have been checked, and no longer; the message about it comes 1 to 3 s later, as from the original.
//!   Who sits stays seated while nobody can say whether it may.
//! - An answer holds for the publication as it was when it was given: when another answer or look has found that tables have come or gone
//!   since, those who ask for them are asked about anew. Who sits is so when everything that was committed before has been handed out:
//!   a table that is gone costs nobody a row of another one
//!   (`rows_from_before_a_table_was_dropped_come_before_its_subscribers_are_told`).
//! - Whoever waits for a slot that cannot be had reads so, whenever it came. No text to a client names hosts, users or slots.
//! - What the database refuses is not tried again before its publication changes; what it could not be asked is, after 5 to 10 s.

use super::checks::{Answer, UNREACHABLE};
use super::questions::{Look, News, Question, Questions, Refusal, Seen, Tables, Waiting};
use super::{Engine, Event, Unanswered};
use crate::control::changes::registry::ListenerKey;
use crate::control::changes::wish::Wish;
use crate::control::clock;
use crate::control::database::connect::jittered;
use crate::control::outgoing::Parcel;
use crate::control::replication::Lsn;
use crate::error::{ErrorCode, Level, inspect, text};
use crate::limits;
use crate::mail::{self, Listen, ListenerNews};
use serde_json::Value;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Those who wait, and what is due.
#[derive(Default)]
pub(super) struct Listening {
    questions: Questions,
    due: Timetable<Due>,
    /// The publication as it was seen last.
    seen: Seen,
    is_looking: bool,
    /// From when on those who wait for the slot read that it cannot be had; none while it is made, or is there.
    down_from: Option<Instant>,
    /// Those who sit and are to be subscribed anew when the stream is far enough.
    behind: Vec<Behind>,
}

/// Those whose tables have come or gone, as they listened when that was seen.
struct Behind {
    /// The stream is far enough here.
    position: Lsn,
    /// Nobody waits for it longer.
    until: Instant,
    listeners: Vec<(ListenerKey, Rc<Listen>)>,
}

/// What is due later.
enum Due {
    /// A client reads something, unless it listens with another token by then.
    News(ListenerKey, Rc<Listen>, ListenerNews),
    /// Somebody is tried again.
    Again(ListenerKey, Rc<Listen>),
    /// It reads that changes cannot be read, unless they can by then.
    Down(ListenerKey, Rc<Listen>),
}

/// What is due when, the earliest first; what is due at the same time in the order in which it came.
struct Timetable<T> {
    entries: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Default for Timetable<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<T> Timetable<T> {
    fn push(&mut self, at: Instant, what: T) {
        self.count += 1;
        self.entries.insert((at, self.count), what);
    }

    fn next(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    /// What is due, and is not any more.
    fn take(&mut self, now: Instant) -> impl Iterator<Item = T> + use<T> {
        let later = self.entries.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.entries, later).into_values()
    }
}

/// What a client reads when all is well.
const SUBSCRIBED: &str = "Subscribed to PostgreSQL";

/// What it reads while there is no slot. Why is for the log: it may hold names of hosts, users and slots.
const DOWN: &str = "Unable to read the changes of the database, it is tried again";

/// Why changes may be missing, as far as a client is concerned. The rest is for the log.
const GAP: &str = "the log of the database could not be read without a break";

impl Listening {
    pub(super) fn next_due(&self) -> Option<Instant> {
        let behind = self.behind.iter().map(|behind| behind.until);
        behind.chain(self.due.next()).min()
    }

    pub(super) fn is_anybody_waiting(&self) -> bool {
        !self.questions.is_empty()
    }

    /// What was answered counts no longer.
    pub(super) fn forget_answers(&mut self) {
        self.questions.forget_all();
    }
}

impl Engine {
    /// Somebody listens, with claims that are new here.
    pub(super) async fn listen(&mut self, key: ListenerKey) {
        let listen = self.roster.borrow().get(&key).cloned();
        if let Some(listen) = listen {
            self.listen_as(key, listen.is_refresh).await;
        }
    }

    /// The same; whether it reads of it later, as those do whose token is new.
    async fn listen_as(&mut self, key: ListenerKey, is_refresh: bool) {
        let Some(listen) = self.roster.borrow().get(&key).cloned() else {
            return;
        };
        self.idle_since = None;
        if listen.entries.len() > limits::CHANGES_ENTRIES_MAX {
            let text = format!(
                "Too many postgres_changes in one join: {} of at most {}",
                listen.entries.len(),
                limits::CHANGES_ENTRIES_MAX
            );
            let refusal = Refusal::Refused(text.into());
            return self.refuse(key, &listen, &refusal).await;
        }
        let mut questions = Vec::with_capacity(listen.entries.len());
        let role = listen.claims.role.as_deref().map(Rc::from);
        for entry in &*listen.entries {
            match Wish::parse(entry) {
                Ok(wish) => questions.push((Rc::new(wish), role.clone())),
                Err(text) => {
                    return self
                        .refuse(key, &listen, &Refusal::Refused(text.into()))
                        .await;
                }
            }
        }
        let claims = Rc::from(&*listen.claims.json);
        let waiting = Waiting::new(questions, claims, is_refresh);
        self.listening.questions.wait(key, waiting);
        self.ask_for(key);
        self.settle(key).await;
    }

    /// Somebody listens no more.
    pub(super) fn unlisten(&mut self, key: ListenerKey) {
        self.registry.remove(key);
        self.listening.questions.remove(key);
        if self.roster.borrow().is_empty() {
            self.idle_since.get_or_insert_with(clock::now);
        }
    }

    /// Asks what this listener waits for and nobody has asked yet. Without a connection that is left for later.
    fn ask_for(&mut self, key: ListenerKey) {
        if self.manager.is_some() {
            for question in self.listening.questions.ask(key, clock::now()) {
                self.ask(question);
            }
        }
    }

    fn ask(&mut self, question: Question) {
        let Some(manager) = self.manager.clone() else {
            return self.listening.questions.unask(&question);
        };
        let (checks, asked_at) = (Rc::clone(&self.checks), clock::now());
        self.jobs.spawn_local(async move {
            let answer = checks.answer(&manager, &question, asked_at).await;
            Event::Checked(question, answer)
        });
    }

    /// The connection is there: what waits for it is asked.
    pub(super) async fn ask_what_waits(&mut self) {
        for key in self.listening.questions.unasked() {
            self.ask_for(key);
            // All of it may be known already.
            self.settle(key).await;
        }
    }

    pub(super) async fn on_checked(&mut self, question: Question, answer: Answer) {
        if answer.trips {
            let text = text::TOO_MANY_DATABASE_TIMEOUTS;
            self.context
                .trip(ErrorCode::IncreaseSubscriptionConnectionPool, text);
        }
        if let Some(look) = answer.look {
            let position = look.published.position;
            match self.listening.seen.note(look) {
                News::Outdated(tables) if tables.matter_to(&question.0) => {
                    return self.ask(question);
                }
                News::Changed(tables) => self.listen_anew_to(&tables, position).await,
                News::None | News::Outdated(_) => {}
            }
        }
        let questions = &mut self.listening.questions;
        for key in questions.answer(question, answer.outcome, clock::now()) {
            self.settle(key).await;
        }
    }

    /// Seats a listener, if all is known and the slot is there.
    async fn settle(&mut self, key: ListenerKey) {
        let Some(listen) = self.roster.borrow().get(&key).cloned() else {
            return;
        };
        let Some(waiting) = self.listening.questions.get_mut(key) else {
            return;
        };
        let is_refresh = waiting.is_refresh;
        let placements = match waiting.outcome() {
            None => return,
            Some(Err(refusal)) => return self.refuse(key, &listen, &refusal).await,
            Some(Ok(placements)) => placements,
        };
        self.start_source();
        if !self.is_up {
            // Making a slot takes as long as the longest transaction: the client reads of it when it is there.
            return self.tell_down(key, &listen).await;
        }
        self.listening.questions.remove(key);
        let place = self.context.environment.outgoing.reserve().await;
        let news = ok_news();
        let seats = self.registry.place(key, &placements);
        let listening = mail::Listening {
            listener: key.1,
            seats: Some(seats),
            news: (!is_refresh).then(|| news.clone()),
            line: None,
        };
        place.send(Parcel::Listening(key.0, Box::new(listening)));
        if is_refresh {
            self.tell_later(key, listen, news);
        }
    }

    /// Somebody is not served, and reads why.
    async fn refuse(&mut self, key: ListenerKey, listen: &Rc<Listen>, refusal: &Refusal) {
        let (text, line) = match refusal {
            Refusal::Refused(text) => {
                let code = ErrorCode::RealtimeDisabledForConfiguration;
                (Arc::clone(text), (code, Arc::clone(text)))
            }
            Refusal::Failed(text, log) => {
                let code = ErrorCode::UnableToSubscribeToPostgres;
                (Arc::from(*text), (code, Arc::clone(log)))
            }
        };
        let news = ListenerNews {
            is_ok: false,
            message: text,
        };
        let is_failed = matches!(refusal, Refusal::Failed(..));
        if is_failed {
            let again = Due::Again(key, Rc::clone(listen));
            self.listening.due.push(clock::now() + retry_pause(), again);
        }
        let waiting = self.listening.questions.remove(key);
        let is_refresh = waiting.is_some_and(|waiting| waiting.is_refresh);
        let place = self.context.environment.outgoing.reserve().await;
        if !is_failed {
            // Its old claims count no longer, and the new ones lead nowhere.
            self.registry.remove(key);
        }
        let listening = mail::Listening {
            listener: key.1,
            // Where nobody could say anything about the new claims, the old ones count until somebody can: a moment in which the
            // database is slow costs nobody a row.
            seats: (!is_failed).then(Vec::new),
            news: (!is_refresh).then(|| news.clone()),
            line: Some(line),
        };
        place.send(Parcel::Listening(key.0, Box::new(listening)));
        if is_refresh {
            self.tell_later(key, Rc::clone(listen), news);
        }
    }

    fn tell_later(&mut self, key: ListenerKey, listen: Rc<Listen>, news: ListenerNews) {
        // 1 to 3 s (spec: postgres-changes 6).
        let spread = limits::CHANGES_REFRESH_PAUSE_SPREAD;
        let pause = limits::CHANGES_REFRESH_PAUSE_MIN + jittered(spread * 2) - spread;
        let at = clock::now() + pause;
        self.listening.due.push(at, Due::News(key, listen, news));
    }

    pub(super) async fn do_what_is_due(&mut self, now: Instant) {
        self.listen_anew_behind(now).await;
        for due in self.listening.due.take(now) {
            let (Due::News(key, listen, _) | Due::Again(key, listen) | Due::Down(key, listen)) =
                &due;
            if !self.is_current(*key, listen) {
                continue;
            }
            match due {
                Due::News(key, _, news) => self.tell(key, news).await,
                Due::Again(key, _) => self.listen(key).await,
                Due::Down(key, listen) => self.tell_down(key, &listen).await,
            }
        }
    }

    /// Whether somebody still listens as it did then.
    fn is_current(&self, key: ListenerKey, listen: &Rc<Listen>) -> bool {
        let roster = self.roster.borrow();
        let current = roster.get(&key);
        current.is_some_and(|current| Rc::ptr_eq(current, listen))
    }

    /// A client reads something; where it stands stays as it is.
    async fn tell(&self, key: ListenerKey, news: ListenerNews) {
        self.tell_with(key, news, None).await;
    }

    /// The same, and the log hears this on its behalf.
    async fn tell_with(
        &self,
        key: ListenerKey,
        news: ListenerNews,
        line: Option<(ErrorCode, Arc<str>)>,
    ) {
        let listening = mail::Listening {
            listener: key.1,
            seats: None,
            news: Some(news),
            line,
        };
        let parcel = Parcel::Listening(key.0, Box::new(listening));
        self.context.environment.outgoing.send(parcel).await;
    }

    // -- news of the database -------------------------------------------------------------------------------------------

    /// The connection is not to be had: those who wait for it read so, and are tried again with it.
    pub(super) async fn tell_unreachable(&mut self, why: &str) {
        for key in self.listening.questions.keys() {
            let Some(listen) = self.roster.borrow().get(&key).cloned() else {
                continue;
            };
            let refusal = Refusal::Failed(UNREACHABLE, why.into());
            self.refuse(key, &listen, &refusal).await;
        }
    }

    /// The slot is there.
    pub(super) async fn on_up(&mut self, is_new: bool) {
        self.relations.clear();
        self.set_up(true);
        if is_new {
            self.read_to = Lsn(0);
            // It may be read because its publication is there again.
            self.publication_due = clock::now();
        }
        self.listening.down_from = None;
        if is_new {
            let text = format!(
                "row changes of publication {} are read from a new slot",
                self.context.changes.publication
            );
            self.context.say(Level::Info, &text);
        }
        for key in self.listening.questions.keys() {
            self.settle(key).await;
        }
    }

    /// Something may have been missed: everybody who sits reads so, and is subscribed anew.
    pub(super) async fn on_gap(&mut self, text: &str) {
        self.set_up(false);
        // Another slot is a matter of a moment: who comes in between need not read of it.
        self.listening.down_from = Some(clock::now() + limits::CHANGES_GAP_PAUSE);
        // All who sit are subscribed anew now.
        self.listening.behind.clear();
        let gaps = &self.context.measures.gaps;
        gaps.set(gaps.get() + 1);
        self.context.log(ErrorCode::PoolingReplicationError, text);
        let keys: Vec<ListenerKey> = self.registry.listeners().collect();
        for key in keys {
            self.tell_missed(key, GAP).await;
            self.listen_anew(key).await;
            if let Some(waiting) = self.listening.questions.get_mut(key) {
                // This one knows.
                waiting.has_read_down = true;
            }
        }
    }

    /// A client reads that changes may have passed it by.
    pub(super) async fn tell_missed(&self, key: ListenerKey, why: &'static str) {
        let news = ListenerNews {
            is_ok: false,
            message: format!("Changes may have been missed: {why}").into(),
        };
        self.tell(key, news).await;
    }

    /// There is no connection. While there is no slot, those who wait read of it, and so does whoever comes later.
    pub(super) async fn on_down(&mut self) {
        if self.is_up {
            return;
        }
        self.listening.down_from = Some(clock::now());
        for key in self.listening.questions.keys() {
            let listen = self.roster.borrow().get(&key).cloned();
            if let Some(listen) = listen {
                self.tell_down(key, &listen).await;
            }
        }
    }

    /// Somebody waits for a slot: where that cannot be had, it reads so, once.
    async fn tell_down(&mut self, key: ListenerKey, listen: &Rc<Listen>) {
        let (Some(from), Some(waiting)) = (
            self.listening.down_from,
            self.listening.questions.get_mut(key),
        ) else {
            return;
        };
        if waiting.has_read_down {
            return;
        }
        if from > clock::now() {
            let due = Due::Down(key, Rc::clone(listen));
            return self.listening.due.push(from, due);
        }
        waiting.has_read_down = true;
        let news = ListenerNews {
            is_ok: false,
            message: DOWN.into(),
        };
        let code = ErrorCode::ReconnectSubscribeToPostgres;
        let line = (code, reconnect_text(&listen.entries).into());
        self.tell_with(key, news, Some(line)).await;
    }

    /// Subscribes somebody again who listened before: it reads of it at once.
    async fn listen_anew(&mut self, key: ListenerKey) {
        self.listen_as(key, false).await;
    }

    // -- the publication ------------------------------------------------------------------------------------------------

    /// Has the tables of the publication looked at.
    pub(super) fn look_at_publication(&mut self) {
        let Some(manager) = self.manager.clone() else {
            return;
        };
        if self.listening.is_looking {
            // The one that is under way may be too old for what this one is to see.
            self.publication_due = clock::now() + limits::CHANGES_PUBLICATION_INTERVAL_MIN;
            return;
        }
        self.listening.is_looking = true;
        let checks = Rc::clone(&self.checks);
        self.jobs.spawn_local(async move {
            let look = async {
                let look = checks.look(&manager, clock::now()).await?;
                // A type may get other parts or names without a word in the stream.
                manager.refresh_types().await?;
                Ok(look)
            };
            Event::Published(look.await)
        });
    }

    pub(super) async fn on_published(&mut self, look: Result<Look, Unanswered>) {
        self.listening.is_looking = false;
        match look {
            Ok(look) => {
                let position = look.published.position;
                if let News::Changed(tables) = self.listening.seen.note(look) {
                    self.listen_anew_to(&tables, position).await;
                }
            }
            Err(Unanswered(text)) => {
                self.context.log(ErrorCode::CheckOidsError, &text);
                self.publication_due = clock::now() + limits::CHANGES_PUBLICATION_INTERVAL_MIN;
            }
        }
    }

    /// Everybody is subscribed anew.
    pub(super) async fn listen_all_anew(&mut self) {
        let text = "a filter's column has another type: everybody is subscribed anew";
        self.context.say(Level::Warning, text);
        let keys: Vec<ListenerKey> = self.roster.borrow().keys().copied().collect();
        for key in keys {
            self.listen_anew(key).await;
        }
    }

    /// These tables have come or gone, as was seen when the log ended at `position`: those who ask for any of them are subscribed anew. For
    /// all others nothing has changed, and they read once more that they are subscribed, as everybody does (spec: postgres-changes 4.2).
    async fn listen_anew_to(&mut self, tables: &Tables, position: Lsn) {
        self.listening.questions.forget(tables);
        let asks = |entry: &str| Wish::parse(entry).is_ok_and(|wish| tables.matter_to(&wish));
        let affected = |listen: &Listen| listen.entries.iter().any(|entry| asks(entry));
        let all: Vec<(ListenerKey, Rc<Listen>)> = {
            let roster = self.roster.borrow();
            let all = roster.iter().map(|(key, listen)| (*key, Rc::clone(listen)));
            all.collect()
        };
        let (seated, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(key, _)| self.is_up && self.registry.is_seated(*key));
        let (seated, unaffected): (Vec<_>, Vec<_>) =
            seated.into_iter().partition(|(_, listen)| affected(listen));
        let others: Vec<ListenerKey> = others
            .into_iter()
            .filter(|(_, listen)| affected(listen))
            .map(|(key, _)| key)
            .collect();
        let text = format!(
            "Found new oids: {} are subscribed anew",
            seated.len() + others.len()
        );
        self.context.say(Level::Warning, &text);
        for (key, _) in unaffected {
            // Whoever has a new token reads of it anyway.
            if self.listening.questions.get_mut(key).is_none() {
                self.tell(key, ok_news()).await;
            }
        }
        for key in others {
            self.listen_anew(key).await;
        }
        let now = clock::now();
        if !seated.is_empty() {
            self.listening.behind.push(Behind {
                position,
                until: now + limits::CHANGES_BEHIND_MAX,
                listeners: seated,
            });
        }
        self.listen_anew_behind(now).await;
    }

    /// Subscribes those anew for whom the stream is far enough, or who have waited for it long enough.
    pub(super) async fn listen_anew_behind(&mut self, now: Instant) {
        let read_to = self.read_to;
        let is_due = |behind: &mut Behind| behind.position <= read_to || behind.until <= now;
        let due: Vec<Behind> = self.listening.behind.extract_if(.., is_due).collect();
        for (key, listen) in due.into_iter().flat_map(|behind| behind.listeners) {
            if self.is_current(key, &listen) {
                self.listen_anew(key).await;
            }
        }
    }
}

/// What waits for a slot, as the original's log has it: the entries of the join, as many of them as a line is to show.
fn reconnect_text(entries: &[Box<str>]) -> String {
    let mut text = String::from("Re-connecting to PostgreSQL with params: [");
    for (n, entry) in entries.iter().enumerate() {
        if n > 0 {
            text.push_str(", ");
        }
        if text.len() > SHOWN_ENTRIES_BYTES_MAX {
            text.push_str("...");
            break;
        }
        let entry: Value = serde_json::from_str(entry).unwrap_or_default();
        text.push_str(&inspect(&entry));
    }
    text.push(']');
    text
}

/// A join may have a thousand entries, and nobody reads them.
const SHOWN_ENTRIES_BYTES_MAX: usize = 1024;

fn ok_news() -> ListenerNews {
    ListenerNews {
        is_ok: true,
        message: SUBSCRIBED.into(),
    }
}

/// 5 to 10 s (spec: postgres-changes 4.1).
fn retry_pause() -> Duration {
    jittered(limits::CHANGES_RETRY_PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_shown_as_the_original_does_and_not_all_of_it() {
        let entry: Box<str> = r#"{"event":"*","schema":"public"}"#.into();
        let one = "%{\"event\" => \"*\", \"schema\" => \"public\"}";
        assert_eq!(
            reconnect_text(&[entry.clone(), entry.clone()]),
            format!("Re-connecting to PostgreSQL with params: [{one}, {one}]")
        );
        let many = reconnect_text(&vec![entry; 1000]);
        assert!(many.ends_with(", ...]") && many.len() < 2 * SHOWN_ENTRIES_BYTES_MAX);
    }

    #[test]
    fn what_is_due_is_taken_in_its_order_and_once() {
        let now = clock::now();
        let after = |ms| now + Duration::from_millis(ms);
        let mut due = Timetable::default();
        assert_eq!(due.next(), None);
        for (at, what) in [(20, 'd'), (10, 'b'), (30, 'e'), (10, 'c'), (0, 'a')] {
            due.push(after(at), what);
        }
        assert_eq!(due.next(), Some(now));
        assert_eq!(due.take(after(10)).collect::<String>(), "abc");
        assert_eq!(due.take(after(10)).count(), 0);
        assert_eq!(due.next(), Some(after(20)));
        assert_eq!(due.take(after(100)).collect::<String>(), "de");
    }
}

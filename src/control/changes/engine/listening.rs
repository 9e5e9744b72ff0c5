//! From a join's entries to a seat, and what the client reads on the way (spec: postgres-changes 3.2, 4.1, 6).
//!
//! What comes in: orders, answers of the database, and news of the slot. What goes out: seats and `system` messages. What always holds:
//!
//! - One wrong entry fails all of its join, with the text of the first one that is wrong.
//! - Equal wishes of equal roles are checked once, however many ask at the same time; an answer serves those who ask within
//!   [`limits::CHANGES_CHECK_LIFETIME`].
//! - Old claims count until the new ones have been checked, and no longer; the message about it comes 1 to 3 s later, as from the original.
//! - An answer holds for the publication as it was when it was given: when another answer or look has found another one since, all are
//!   asked anew.
//! - What the database refuses is not tried again before its publication changes; what it could not be asked is, after 5 to 10 s.

use super::manager::Manager;
use super::{Engine, Event, Unanswered};
use crate::control::changes::catalog::Published;
use crate::control::changes::filter::{CheckError, Checked, check};
use crate::control::changes::registry::{ListenerKey, Placement};
use crate::control::changes::wish::{Wish, exception_text, raised_text};
use crate::control::clock;
use crate::control::database::connect::{describe, jittered};
use crate::control::outgoing::Parcel;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::mail::{self, Listen, ListenerNews};
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is checked: a wish for a role, which is none for a token without one.
pub(super) type Question = (Rc<Wish>, Option<Rc<str>>);

/// What came of it: the tables.
pub(super) type Outcome = Result<Rc<FxHashMap<u32, Rc<Checked>>>, Refusal>;

/// What came of it, and what the publication was then.
pub(super) struct Answer {
    /// None where it could not be looked at.
    look: Option<Look>,
    outcome: Outcome,
}

/// The publication as it was seen. Later looks have greater numbers: all go over one connection.
#[derive(Clone)]
pub(super) struct Look {
    number: u64,
    published: Rc<Published>,
}

/// Why somebody is not served.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// What is asked for cannot be had: what the client reads.
    Refused(Arc<str>),
    /// The database could not be asked: what the client reads, and the log.
    Failed(&'static str, Arc<str>),
}

/// Those who wait, and what is known of what they wait for.
#[derive(Default)]
pub(super) struct Listening {
    waiting: FxHashMap<ListenerKey, Waiting>,
    /// Answers, and when they came.
    outcomes: FxHashMap<Question, (Instant, Outcome)>,
    /// Questions that are being asked, and who waits for each.
    asked: FxHashMap<Question, Vec<ListenerKey>>,
    due: Vec<(Instant, Due)>,
    /// The publication as it was seen last.
    seen: Option<Look>,
    /// How often it was looked at.
    looks: u64,
    is_looking: bool,
    /// Clients have read that the slot cannot be had.
    has_told_down: bool,
}

/// What a look at the publication tells.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum News {
    /// It is as it was.
    None,
    /// It is another one.
    Changed,
    /// It was as it is no more.
    Outdated,
}

/// Somebody who is not seated yet, or not with its new claims.
struct Waiting {
    questions: Vec<Question>,
    claims: Rc<str>,
    since: Instant,
    /// It has sat before, with other claims.
    is_refresh: bool,
}

/// What is due later.
enum Due {
    /// A client reads something, unless it listens with another token by then.
    News(ListenerKey, Rc<Listen>, ListenerNews),
    /// Somebody is tried again.
    Again(ListenerKey, Rc<Listen>),
}

/// What a client reads when all is well.
const SUBSCRIBED: &str = "Subscribed to PostgreSQL";

/// What it reads when the database is away (spec: README, operations).
const UNREACHABLE: &str = "Realtime was unable to connect to the project database";

/// What it reads when the database is too slow: the original's text, braces and all (spec: websocket-protocol 7.2).
const TOO_SLOW: &str = "{:error, \"Too many database timeouts\"}";

impl Listening {
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.iter().map(|(at, _)| *at).min()
    }

    pub(super) fn is_anybody_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What was answered counts no longer.
    pub(super) fn forget_answers(&mut self) {
        self.outcomes.clear();
    }

    /// The answer to a question, if it may serve somebody who asks since then.
    fn outcome(&self, question: &Question, since: Instant) -> Option<&Outcome> {
        let (at, outcome) = self.outcomes.get(question)?;
        (*at + limits::CHANGES_CHECK_LIFETIME >= since).then_some(outcome)
    }

    /// What a look tells beside those before.
    fn note(&mut self, look: Look) -> News {
        let (is_same, is_old) = match &self.seen {
            None => (true, false),
            Some(seen) => (seen.published == look.published, look.number < seen.number),
        };
        if is_old {
            return if is_same { News::None } else { News::Outdated };
        }
        self.seen = Some(look);
        if is_same { News::None } else { News::Changed }
    }

    /// Forgets answers that serve nobody any more.
    fn forget_old(&mut self, now: Instant) {
        let oldest = self.waiting.values().map(|waiting| waiting.since);
        let oldest = oldest.fold(now, Instant::min);
        self.outcomes
            .retain(|_, (at, _)| *at + limits::CHANGES_CHECK_LIFETIME >= oldest);
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
        let waiting = Waiting {
            questions,
            claims: Rc::from(&*listen.claims.json),
            since: clock::now(),
            is_refresh,
        };
        self.listening.waiting.insert(key, waiting);
        self.ask_for(key);
        self.settle(key).await;
    }

    /// Somebody listens no more.
    pub(super) fn unlisten(&mut self, key: ListenerKey) {
        self.registry.remove(key);
        self.listening.waiting.remove(&key);
        if self.roster.borrow().is_empty() {
            self.idle_since.get_or_insert_with(clock::now);
        }
    }

    /// Asks what this listener waits for and nobody has asked yet.
    fn ask_for(&mut self, key: ListenerKey) {
        let listening = &mut self.listening;
        let (Some(waiting), Some(manager)) = (listening.waiting.get(&key), &self.manager) else {
            return;
        };
        for question in &waiting.questions {
            if listening.outcome(question, waiting.since).is_some() {
                continue;
            }
            if let Some(others) = listening.asked.get_mut(question) {
                others.push(key);
                continue;
            }
            listening.asked.insert(question.clone(), vec![key]);
            listening.looks += 1;
            let number = listening.looks;
            let (manager, question) = (Rc::clone(manager), question.clone());
            let publication = self.context.changes.publication.clone();
            self.jobs.spawn_local(async move {
                let mut look = None;
                let answer = answer(&manager, &publication, &question, |published| {
                    look = Some(Look { number, published });
                });
                let outcome = tokio::time::timeout(limits::CHANGES_SUBSCRIBE_TIMEOUT, answer).await;
                let outcome = outcome.unwrap_or_else(|_| Err(too_slow("the check took too long")));
                Event::Checked(question, Answer { look, outcome })
            });
        }
    }

    /// The connection is there: what waits for it is asked.
    pub(super) fn ask_what_waits(&mut self) {
        let keys: Vec<ListenerKey> = self.listening.waiting.keys().copied().collect();
        for key in keys {
            self.ask_for(key);
        }
    }

    pub(super) async fn on_checked(&mut self, question: Question, answer: Answer) {
        let now = clock::now();
        self.listening.forget_old(now);
        let waiting = self.listening.asked.remove(&question).unwrap_or_default();
        let news = answer.look.map(|look| self.listening.note(look));
        if news == Some(News::Outdated) {
            for key in waiting {
                self.ask_for(key);
            }
            return;
        }
        let is_changed = news == Some(News::Changed);
        if is_changed {
            self.listening.outcomes.clear();
        }
        let outcome = (now, answer.outcome);
        self.listening.outcomes.insert(question, outcome);
        if is_changed {
            // Those who wait for this among them.
            return self.listen_all_anew().await;
        }
        for key in waiting {
            self.settle(key).await;
        }
    }

    /// Seats a listener, if all is known and the slot is there.
    async fn settle(&mut self, key: ListenerKey) {
        let Some(listen) = self.roster.borrow().get(&key).cloned() else {
            return;
        };
        let Some(waiting) = self.listening.waiting.get(&key) else {
            return;
        };
        let mut placements = Vec::with_capacity(waiting.questions.len());
        for question in &waiting.questions {
            match self.listening.outcome(question, waiting.since) {
                None => return,
                Some(Err(refusal)) => {
                    let refusal = refusal.clone();
                    return self.refuse(key, &listen, &refusal).await;
                }
                Some(Ok(tables)) => placements.push(Placement {
                    wish: Rc::clone(&question.0),
                    role: question.1.clone().unwrap_or_default(),
                    claims: Rc::clone(&waiting.claims),
                    tables: Rc::clone(tables),
                }),
            }
        }
        let is_refresh = waiting.is_refresh;
        self.start_source();
        if !self.is_up {
            // Making a slot takes as long as the longest transaction: the client reads of it when it is there.
            return;
        }
        self.listening.waiting.remove(&key);
        let place = self.context.environment.outgoing.reserve().await;
        let news = ok_news();
        let seats = self.registry.place(key, &placements);
        let listening = mail::Listening {
            listener: key.1,
            seats: Some(seats),
            news: (!is_refresh).then(|| news.clone()),
        };
        place.send(Parcel::Listening(key.0, Box::new(listening)));
        if is_refresh {
            self.tell_later(key, listen, news);
        }
    }

    /// Somebody is not served, and reads why.
    async fn refuse(&mut self, key: ListenerKey, listen: &Rc<Listen>, refusal: &Refusal) {
        let (text, log, code) = match refusal {
            Refusal::Refused(text) => {
                let code = ErrorCode::RealtimeDisabledForConfiguration;
                (Arc::clone(text), text, code)
            }
            Refusal::Failed(text, log) => (
                Arc::from(*text),
                log,
                ErrorCode::UnableToSubscribeToPostgres,
            ),
        };
        self.context.log(code, log);
        let news = ListenerNews {
            is_ok: false,
            message: text,
        };
        if matches!(refusal, Refusal::Failed(..)) {
            let at = clock::now() + retry_pause();
            self.listening
                .due
                .push((at, Due::Again(key, Rc::clone(listen))));
        }
        let waiting = self.listening.waiting.remove(&key);
        let is_refresh = waiting.is_some_and(|waiting| waiting.is_refresh);
        let place = self.context.environment.outgoing.reserve().await;
        // Its old claims count no longer, and the new ones lead nowhere.
        self.registry.remove(key);
        let listening = mail::Listening {
            listener: key.1,
            seats: Some(Vec::new()),
            news: (!is_refresh).then(|| news.clone()),
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
        self.listening.due.push((at, Due::News(key, listen, news)));
    }

    pub(super) async fn do_what_is_due(&mut self, now: Instant) {
        let due = std::mem::take(&mut self.listening.due);
        let (due, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, _)| *at <= now);
        self.listening.due = later;
        for (_, due) in due {
            let (Due::News(key, listen, _) | Due::Again(key, listen)) = &due;
            let is_current = self
                .roster
                .borrow()
                .get(key)
                .is_some_and(|current| Rc::ptr_eq(current, listen));
            if !is_current {
                continue;
            }
            match due {
                Due::News(key, _, news) => self.tell(key, news).await,
                Due::Again(key, _) => self.listen(key).await,
            }
        }
    }

    /// A client reads something; where it stands stays as it is.
    async fn tell(&self, key: ListenerKey, news: ListenerNews) {
        let listening = mail::Listening {
            listener: key.1,
            seats: None,
            news: Some(news),
        };
        let parcel = Parcel::Listening(key.0, Box::new(listening));
        self.context.environment.outgoing.send(parcel).await;
    }

    // -- news of the database -------------------------------------------------------------------------------------------

    /// The connection is not to be had: those who wait for it read so, and are tried again with it.
    pub(super) async fn tell_unreachable(&mut self, why: &str) {
        let keys: Vec<ListenerKey> = self.listening.waiting.keys().copied().collect();
        for key in keys {
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
        self.is_up = true;
        if is_new {
            // It may be read because its publication is there again.
            self.publication_due = clock::now();
        }
        self.listening.has_told_down = false;
        if is_new {
            let text = format!(
                "row changes of publication {} are read from a new slot",
                self.context.changes.publication
            );
            self.context.say(Level::Info, &text);
        }
        let keys: Vec<ListenerKey> = self.listening.waiting.keys().copied().collect();
        for key in keys {
            self.settle(key).await;
        }
    }

    /// Something may have been missed: everybody who sits reads so, and is subscribed anew.
    pub(super) async fn on_gap(&mut self, text: &str) {
        self.is_up = false;
        let gaps = &self.context.measures.gaps;
        gaps.set(gaps.get() + 1);
        self.context.log(ErrorCode::PoolingReplicationError, text);
        let keys: Vec<ListenerKey> = self.registry.listeners().collect();
        for key in keys {
            self.tell_missed(key, text).await;
            self.listen_anew(key).await;
        }
    }

    /// A client reads that changes may have passed it by.
    pub(super) async fn tell_missed(&self, key: ListenerKey, why: &str) {
        let news = ListenerNews {
            is_ok: false,
            message: format!("Changes may have been missed: {why}").into(),
        };
        self.tell(key, news).await;
    }

    /// There is no connection. Before there was a slot, those who wait read why.
    pub(super) async fn on_down(&mut self, text: &str) {
        if self.is_up || std::mem::replace(&mut self.listening.has_told_down, true) {
            return;
        }
        let news = ListenerNews {
            is_ok: false,
            message: format!("Unable to read the changes of the database: {text}").into(),
        };
        let keys: Vec<ListenerKey> = self.listening.waiting.keys().copied().collect();
        for key in keys {
            self.tell(key, news.clone()).await;
        }
    }

    /// Subscribes somebody again who listened before: it reads of it at once.
    async fn listen_anew(&mut self, key: ListenerKey) {
        self.listen_as(key, false).await;
    }

    // -- the publication ------------------------------------------------------------------------------------------------

    /// Has the tables of the publication looked at.
    pub(super) fn look_at_publication(&mut self) {
        let Some(manager) = self.manager.clone().filter(|_| !self.listening.is_looking) else {
            return;
        };
        self.listening.is_looking = true;
        self.listening.looks += 1;
        let number = self.listening.looks;
        let name = self.context.changes.publication.clone();
        self.jobs.spawn_local(async move {
            let look = async {
                let published = Rc::new(manager.publication(&name).await?);
                // A type may get other parts or names without a word in the stream.
                manager.refresh_types().await?;
                Ok(Look { number, published })
            };
            Event::Published(look.await)
        });
    }

    pub(super) async fn on_published(&mut self, look: Result<Look, Unanswered>) {
        self.listening.is_looking = false;
        match look {
            Ok(look) => {
                if self.listening.note(look) == News::Changed {
                    self.listening.outcomes.clear();
                    self.listen_all_anew().await;
                }
            }
            Err(Unanswered(text)) => {
                self.context.log(ErrorCode::CheckOidsError, &text);
                self.publication_due = clock::now() + limits::CHANGES_PUBLICATION_INTERVAL_MIN;
            }
        }
    }

    /// The publication is another one.
    pub(super) async fn listen_all_anew(&mut self) {
        self.context.say(
            Level::Warning,
            "Found new oids: everybody is subscribed anew",
        );
        let keys: Vec<ListenerKey> = self.roster.borrow().keys().copied().collect();
        for key in keys {
            self.listen_anew(key).await;
        }
    }
}

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

/// Checks a wish against every table that it matches. Says what the publication is, as soon as it knows.
async fn answer(
    manager: &Manager,
    publication: &str,
    (wish, role): &Question,
    see: impl FnOnce(Rc<Published>),
) -> Outcome {
    let failed = |Unanswered(text): Unanswered| too_slow(&text);
    let published = manager.publication(publication).await.map_err(failed)?;
    let published = Rc::new(published);
    see(Rc::clone(&published));
    let matching = published
        .tables
        .iter()
        .filter(|table| wish.matches(&table.schema, &table.name));
    let oids: FxHashSet<u32> = matching.map(|table| table.oid).collect();
    if oids.is_empty() {
        return Err(Refusal::Refused(wish.not_enabled().into()));
    }
    let is_plain = wish.filters.is_empty() && wish.select.is_none();
    let asked_as = role.clone().unwrap_or_default();
    let mut tables: FxHashMap<u32, Rc<Checked>> = FxHashMap::default();
    let mut plain: Option<Rc<Checked>> = None;
    for oid in oids {
        if let Some(plain) = &plain {
            tables.insert(oid, Rc::clone(plain));
            continue;
        }
        let table = manager.look_at(oid, &asked_as).await.map_err(failed)?;
        // Dropped in between.
        let Some(table) = table else { continue };
        let checked = check(manager.client(), &table, role.as_deref(), wish).await;
        let checked = Rc::new(checked.map_err(|error| refusal_of(wish, error))?);
        if is_plain {
            // Nothing of it depends on the table: the role exists.
            plain = Some(Rc::clone(&checked));
        }
        tables.insert(oid, checked);
    }
    if tables.is_empty() {
        return Err(Refusal::Refused(wish.not_enabled().into()));
    }
    Ok(Rc::new(tables))
}

fn refusal_of(wish: &Wish, error: CheckError) -> Refusal {
    match error {
        CheckError::Database(said) => {
            Refusal::Refused(wish.exception(&exception_text(&said)).into())
        }
        CheckError::Raised { sqlstate, message } => {
            let text = raised_text("ERROR", sqlstate, &message);
            Refusal::Refused(wish.exception(&text).into())
        }
        CheckError::Failed(error) => too_slow(&describe(&error)),
    }
}

fn too_slow(log: &str) -> Refusal {
    Refusal::Failed(TOO_SLOW, log.into())
}

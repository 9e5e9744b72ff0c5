//! Who waits for which answers of the database, and what it has answered.
//!
//! What comes in: who asks what, answers, and the time. What goes out: what has to be asked, and whose answers are complete. What always
//! holds: a question is under way once, however many wait for it (`equal_questions_are_asked_once`); an answer serves those who ask within
//! [`limits::CHANGES_CHECK_LIFETIME`] behind it; each answer costs what those who wait for it cost, and not what they wait for beside it.
//! Deliberately absent: who asks the database, and what clients read.

use crate::control::changes::catalog::{Published, PublishedTable};
use crate::control::changes::filter::Checked;
use crate::control::changes::registry::{ListenerKey, Placement};
use crate::control::changes::wish::Wish;
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// What is checked: a wish for a role, which is none for a token without one.
pub(super) type Question = (Rc<Wish>, Option<Rc<str>>);

/// What came of it: the tables.
pub(super) type Outcome = Result<Rc<FxHashMap<u32, Rc<Checked>>>, Refusal>;

/// Why somebody is not served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// What is asked for cannot be had: what the client reads.
    Refused(Arc<str>),
    /// The database could not be asked: what the client reads, and the log.
    Failed(&'static str, Arc<str>),
}

/// Those who wait, and what is known of what they wait for.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: FxHashMap<ListenerKey, Waiting>,
    /// Answers, and when they came.
    answered: FxHashMap<Question, (Instant, Outcome)>,
    /// Questions that are under way, and who waits for each.
    asked: FxHashMap<Question, Vec<Waiter>>,
    tickets: u64,
    /// When old answers were forgotten last.
    tidied_at: Option<Instant>,
}

/// Somebody who is not seated yet, or not with its new claims.
#[derive(Debug)]
pub(super) struct Waiting {
    questions: Vec<Question>,
    claims: Rc<str>,
    /// It has sat before, with other claims.
    pub(super) is_refresh: bool,
    /// It has read that changes cannot be read.
    pub(super) has_read_down: bool,
    answers: Vec<Option<Outcome>>,
    /// How many answers it lacks.
    open: usize,
    is_asked: bool,
    ticket: u64,
}

/// An entry of somebody who waits. Whoever has begun anew meanwhile has another ticket.
#[derive(Copy, Clone, Debug)]
struct Waiter {
    key: ListenerKey,
    ticket: u64,
    entry: usize,
}

impl Waiting {
    /// Nothing of it is asked yet.
    pub(super) fn new(questions: Vec<Question>, claims: Rc<str>, is_refresh: bool) -> Self {
        Self {
            open: questions.len(),
            answers: vec![None; questions.len()],
            questions,
            claims,
            is_refresh,
            has_read_down: false,
            is_asked: false,
            ticket: 0,
        }
    }

    fn fill(&mut self, entry: usize, outcome: &Outcome) {
        if let Some(answer) = self.answers.get_mut(entry)
            && answer.is_none()
        {
            *answer = Some(outcome.clone());
            self.open -= 1;
        }
    }

    /// Where its entries belong, or why the first one that is wrong is; none while an answer is open.
    pub(super) fn outcome(&self) -> Option<Result<Vec<Placement>, Refusal>> {
        if self.open > 0 {
            return None;
        }
        let answers = self.questions.iter().zip(self.answers.iter().flatten());
        let placements = answers.map(|((wish, role), answer)| {
            Ok(Placement {
                wish: Rc::clone(wish),
                role: role.clone().unwrap_or_default(),
                claims: Rc::clone(&self.claims),
                tables: answer.clone()?,
            })
        });
        Some(placements.collect())
    }
}

impl Questions {
    /// Somebody waits, in place of what it waited for before.
    pub(super) fn wait(&mut self, key: ListenerKey, waiting: Waiting) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.waiting.insert(key, Waiting { ticket, ..waiting });
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, key: ListenerKey) -> Option<Waiting> {
        self.waiting.remove(&key)
    }

    pub(super) fn get_mut(&mut self, key: ListenerKey) -> Option<&mut Waiting> {
        self.waiting.get_mut(&key)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Everybody who waits.
    pub(super) fn keys(&self) -> Vec<ListenerKey> {
        self.waiting.keys().copied().collect()
    }

    /// Those whose questions were never asked, or have to be asked again.
    pub(super) fn unasked(&self) -> Vec<ListenerKey> {
        let waiting = self.waiting.iter().filter(|(_, one)| !one.is_asked);
        waiting.map(|(key, _)| *key).collect()
    }

    /// What has to be asked for this listener: neither known nor under way.
    pub(super) fn ask(&mut self, key: ListenerKey, now: Instant) -> Vec<Question> {
        let mut unknown = Vec::new();
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return unknown;
        };
        waiting.is_asked = true;
        let ticket = waiting.ticket;
        for entry in 0..waiting.questions.len() {
            if waiting.answers[entry].is_some() {
                continue;
            }
            let question = &waiting.questions[entry];
            if let Some((at, outcome)) = self.answered.get(question)
                && is_fresh(*at, now)
            {
                let outcome = outcome.clone();
                waiting.fill(entry, &outcome);
                continue;
            }
            let waiter = Waiter { key, ticket, entry };
            match self.asked.get_mut(question) {
                Some(others) => others.push(waiter),
                None => {
                    self.asked.insert(question.clone(), vec![waiter]);
                    unknown.push(question.clone());
                }
            }
        }
        unknown
    }

    /// An answer. Returns those who lack no other.
    pub(super) fn answer(
        &mut self,
        question: Question,
        outcome: Outcome,
        now: Instant,
    ) -> Vec<ListenerKey> {
        self.tidy(now);
        let mut complete = Vec::new();
        for waiter in self.asked.remove(&question).unwrap_or_default() {
            let waiting = self.waiting.get_mut(&waiter.key);
            let Some(waiting) = waiting.filter(|waiting| waiting.ticket == waiter.ticket) else {
                continue;
            };
            let was_open = waiting.open > 0;
            waiting.fill(waiter.entry, &outcome);
            if was_open && waiting.open == 0 {
                complete.push(waiter.key);
            }
        }
        self.answered.insert(question, (now, outcome));
        complete
    }

    /// A question that is under way is not: it waits to be asked, with those who wait for it.
    pub(super) fn unask(&mut self, question: &Question) {
        for waiter in self.asked.remove(question).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(&waiter.key) {
                waiting.is_asked = false;
            }
        }
    }

    /// These tables were published and are no more, or the other way round: answers about them count no longer.
    pub(super) fn forget(&mut self, tables: &Tables) {
        self.answered.retain(|(wish, _), _| !tables.matter_to(wish));
    }

    /// No answer counts any longer.
    pub(super) fn forget_all(&mut self) {
        self.answered.clear();
    }

    /// Forgets answers that serve nobody any more, now and then.
    fn tidy(&mut self, now: Instant) {
        if self.tidied_at.is_none_or(|at| !is_fresh(at, now)) {
            self.tidied_at = Some(now);
            self.answered.retain(|_, (at, _)| is_fresh(*at, now));
        }
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    at + limits::CHANGES_CHECK_LIFETIME >= now
}

/// The publication as it was seen. Later looks have greater numbers.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) number: u64,
    pub(super) published: Rc<Published>,
}

/// Tables that one look has seen and another one has not.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Tables(Vec<PublishedTable>);

impl Tables {
    fn between(one: &Published, other: &Published) -> Self {
        fn row(table: &PublishedTable) -> (u32, &str, &str) {
            (table.oid, &table.schema, &table.name)
        }
        let (of_one, of_other): (FxHashSet<_>, FxHashSet<_>) = (
            one.tables.iter().map(row).collect(),
            other.tables.iter().map(row).collect(),
        );
        let gone = one.tables.iter().filter(|it| !of_other.contains(&row(it)));
        let come = other.tables.iter().filter(|it| !of_one.contains(&row(it)));
        Self(gone.chain(come).cloned().collect())
    }

    /// Whether an answer to this wish may be another one for the one look than for the other.
    pub(super) fn matter_to(&self, wish: &Wish) -> bool {
        let mut tables = self.0.iter();
        tables.any(|table| wish.matches(&table.schema, &table.name))
    }
}

/// What a look at the publication tells.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum News {
    /// It is as it was.
    None,
    /// These tables have come or gone.
    Changed(Tables),
    /// A later look has found that these have.
    Outdated(Tables),
}

/// The publication as it was seen last.
#[derive(Debug, Default)]
pub(super) struct Seen(Option<Look>);

impl Seen {
    /// What a look tells beside those before.
    pub(super) fn note(&mut self, look: Look) -> News {
        let Some(seen) = &self.0 else {
            self.0 = Some(look);
            return News::None;
        };
        let is_old = look.number < seen.number;
        let tables = match Rc::ptr_eq(&seen.published, &look.published) {
            true => Tables::default(),
            false => Tables::between(&seen.published, &look.published),
        };
        if !is_old {
            self.0 = Some(look);
        }
        match (tables.0.is_empty(), is_old) {
            (true, _) => News::None,
            (false, true) => News::Outdated(tables),
            (false, false) => News::Changed(tables),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::clock;
    use crate::mail::ListenerId;
    use std::time::Duration;

    fn question(table: &str) -> Question {
        let entry = format!(r#"{{"event":"*","schema":"public","table":"{table}"}}"#);
        let wish = Wish::parse(&entry).expect("it is an entry");
        (Rc::new(wish), Some("anon".into()))
    }

    fn key(index: u32) -> ListenerKey {
        let id = ListenerId {
            index,
            generation: 0,
        };
        (0, id)
    }

    fn waits(questions: &mut Questions, index: u32, tables: &[&str]) {
        let tables = tables.iter().map(|table| question(table)).collect();
        let waiting = Waiting::new(tables, "{}".into(), false);
        questions.wait(key(index), waiting);
    }

    fn fine() -> Outcome {
        Ok(Rc::default())
    }

    fn refused(text: &str) -> Outcome {
        Err(Refusal::Refused(text.into()))
    }

    #[test]
    fn equal_questions_are_asked_once() {
        let (mut questions, now) = (Questions::default(), clock::now());
        waits(&mut questions, 1, &["a", "b", "a"]);
        assert_eq!(questions.ask(key(1), now), [question("a"), question("b")]);
        waits(&mut questions, 2, &["b"]);
        assert_eq!(questions.ask(key(2), now), []);
        assert_eq!(questions.answer(question("b"), fine(), now), [key(2)]);
        assert_eq!(questions.answer(question("a"), fine(), now), [key(1)]);
        let outcome = questions.get_mut(key(1)).and_then(|one| one.outcome());
        assert_eq!(outcome.unwrap().unwrap().len(), 3);
    }

    #[test]
    fn the_first_entry_that_is_wrong_decides_whatever_was_answered_first() {
        let (mut questions, now) = (Questions::default(), clock::now());
        waits(&mut questions, 1, &["a", "b", "c"]);
        questions.ask(key(1), now);
        assert_eq!(questions.answer(question("c"), refused("c"), now), []);
        assert_eq!(questions.answer(question("b"), refused("b"), now), []);
        let waiting = questions.get_mut(key(1)).unwrap();
        assert!(waiting.outcome().is_none(), "nobody knows of a yet");
        assert_eq!(questions.answer(question("a"), fine(), now), [key(1)]);
        let outcome = questions.get_mut(key(1)).unwrap().outcome().unwrap();
        assert_eq!(outcome.unwrap_err(), Refusal::Refused("b".into()));
    }

    #[test]
    fn an_answer_serves_those_who_ask_soon_and_no_later() {
        let (mut questions, now) = (Questions::default(), clock::now());
        waits(&mut questions, 1, &["a"]);
        questions.ask(key(1), now);
        questions.answer(question("a"), fine(), now);
        let soon = now + limits::CHANGES_CHECK_LIFETIME;
        waits(&mut questions, 2, &["a"]);
        assert_eq!(questions.ask(key(2), soon), []);
        assert!(questions.get_mut(key(2)).unwrap().outcome().is_some());
        let late = soon + Duration::from_millis(1);
        waits(&mut questions, 3, &["a"]);
        assert_eq!(questions.ask(key(3), late), [question("a")]);
        // And is not kept for longer.
        questions.answer(question("b"), fine(), late);
        assert_eq!(questions.answered.len(), 1);
    }

    #[test]
    fn answers_for_what_somebody_asked_before_are_not_taken_for_what_it_asks_now() {
        let (mut questions, now) = (Questions::default(), clock::now());
        waits(&mut questions, 1, &["a", "b"]);
        questions.ask(key(1), now);
        waits(&mut questions, 1, &["b", "a"]);
        assert_eq!(questions.answer(question("a"), refused("a"), now), []);
        // Neither was asked for it yet, but an answer is there.
        assert_eq!(questions.ask(key(1), now), []);
        assert_eq!(questions.answer(question("b"), fine(), now), [key(1)]);
        let outcome = questions.get_mut(key(1)).unwrap().outcome().unwrap();
        assert_eq!(outcome.unwrap_err(), Refusal::Refused("a".into()));
    }

    #[test]
    fn what_could_not_be_asked_waits_to_be_asked() {
        let (mut questions, now) = (Questions::default(), clock::now());
        waits(&mut questions, 1, &["a", "b"]);
        assert_eq!(questions.unasked(), [key(1)]);
        questions.ask(key(1), now);
        assert_eq!(questions.unasked(), []);
        questions.unask(&question("a"));
        assert_eq!(questions.unasked(), [key(1)]);
        assert_eq!(questions.ask(key(1), now), [question("a")]);
        // It is said twice who waits for b, and counts once.
        assert_eq!(questions.answer(question("b"), fine(), now), []);
        assert_eq!(questions.answer(question("a"), fine(), now), [key(1)]);
    }

    fn look(number: u64, tables: &[(u32, &str)]) -> Look {
        let tables = tables.iter().map(|(oid, name)| PublishedTable {
            oid: *oid,
            schema: "public".into(),
            name: (*name).into(),
        });
        let published = Published {
            exists: true,
            tables: tables.collect(),
            ..Published::default()
        };
        Look {
            number,
            published: Rc::new(published),
        }
    }

    #[test]
    fn a_look_tells_which_tables_have_come_or_gone() {
        let mut seen = Seen::default();
        assert_eq!(seen.note(look(2, &[(1, "a"), (2, "b")])), News::None);
        assert_eq!(seen.note(look(3, &[(2, "b"), (1, "a")])), News::None);
        let News::Outdated(tables) = seen.note(look(1, &[(1, "a")])) else {
            panic!("a later one has seen b");
        };
        assert!(tables.matter_to(&question("b").0) && !tables.matter_to(&question("a").0));
        let News::Changed(tables) = seen.note(look(4, &[(1, "a"), (3, "b")])) else {
            panic!("b is another table");
        };
        assert!(tables.matter_to(&question("b").0) && !tables.matter_to(&question("a").0));
        assert!(tables.matter_to(&question("*").0));
        let News::Changed(tables) = seen.note(look(5, &[])) else {
            panic!("all are gone");
        };
        assert!(tables.matter_to(&question("a").0));
    }

    #[test]
    fn answers_about_other_tables_stay() {
        let (mut questions, now) = (Questions::default(), clock::now());
        waits(&mut questions, 1, &["a", "b"]);
        questions.ask(key(1), now);
        questions.answer(question("a"), fine(), now);
        questions.answer(question("b"), fine(), now);
        let tables = Tables(look(1, &[(1, "a")]).published.tables.clone());
        questions.forget(&tables);
        waits(&mut questions, 2, &["a", "b"]);
        assert_eq!(questions.ask(key(2), now), [question("a")]);
    }
}

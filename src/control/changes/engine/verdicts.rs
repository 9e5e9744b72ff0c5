//! What row level security says of the rows of a batch.
//!
//! What comes in: rows, each with the candidates that want it. What goes out: for each set of claims, which rows it may see. What always
//! holds:
//!
//! - A verdict for some claims counts for these claims, this role and this table alone; without one nothing is delivered.
//! - A role for which no policy counts is asked once whether a row is there, whatever claims its tokens have.
//! - However many claims there are, at most [`limits::CHANGES_VERDICTS_AT_ONCE_MAX`] verdicts are asked for at the same time
//!   (`rounds_are_bounded_and_leave_nothing_out`); all rounds of a batch have its time together.
//! - Where connections are not to be had, the batch is tried again; only when that goes on for long, what they would have been asked about
//!   is dropped: the others wait no longer.
//!
//! Deliberately absent: how it is asked, which is [`visibility`](crate::control::changes::visibility)'s.

use super::Context;
use super::decide::{Item, Tally, Undecided};
use super::manager::Manager;
use crate::control::changes::catalog::TableNow;
use crate::control::changes::registry::{Candidate, ClaimsId, Class, Registry};
use crate::control::changes::visibility::{Check, Key, Verdict, time_max};
use crate::control::clock;
use crate::limits;
use crate::mail::GroupId;
use rustc_hash::FxHashMap;
use std::ops::Range;
use std::rc::Rc;
use tokio::time::Instant;

/// What the bound says of a verdict's size.
const _: () = assert!(size_of::<Option<Verdict>>() <= 24);

/// How long nobody could be asked about row level security.
#[derive(Debug, Default)]
pub(in crate::control::changes) struct Patience(std::cell::Cell<Option<Instant>>);

impl Patience {
    /// Once more nobody could. Whether it is worth another try.
    fn is_left(&self, now: Instant) -> bool {
        let since = self.0.get().unwrap_or(now);
        self.0.set(Some(since));
        now < since + limits::CHANGES_UNANSWERED_MAX
    }

    /// There was an answer to everything.
    fn restore(&self) {
        self.0.set(None);
    }
}

/// What a set of claims has to do with a row.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Mark {
    /// It does not want it.
    Unwanted,
    /// It wants it, and may not see it as far as known.
    Hidden,
    /// It may see it.
    Visible,
}

/// A set of claims, and what it has to do with the rows of a block, as far as the last one that it wants.
struct Asked {
    claims: Rc<str>,
    marks: Vec<Mark>,
    wanted: usize,
}

/// Whose claims; none for all that a role for which no policy counts may have.
type Whose = Option<ClaimsId>;

/// What is asked about a table for a role.
struct Block {
    table: Rc<TableNow>,
    keys: Vec<Key>,
    claims: FxHashMap<Whose, Asked>,
}

/// What a role says for which no policy counts.
const NO_CLAIMS: &str = "{}";

/// Table and role.
type Name = (u32, Rc<str>);

/// See the room's documentation.
#[derive(Default)]
pub(super) struct Verdicts(FxHashMap<Name, Block>);

impl Verdicts {
    /// Asks, where row level security has to be asked; what is asked about has to be settled. Each item is told the places of its keys.
    pub(super) async fn ask(
        context: &Context,
        manager: &Manager,
        registry: &Registry,
        items: &mut [Item<'_>],
        tally: &mut Tally,
        is_settled: bool,
    ) -> Result<Self, Undecided> {
        let mut verdicts = Self::default();
        for item in items.iter_mut() {
            verdicts.collect_keys(registry, item);
        }
        let open = verdicts.open();
        if open.is_empty() {
            return Ok(verdicts);
        }
        if !is_settled {
            return Err(Undecided::Unsettled);
        }
        let counts: Vec<usize> = open.iter().map(|(.., wanted)| *wanted).collect();
        let keys = counts.iter().sum();
        let deadline = clock::now() + time_max(open.len(), keys);
        let mut is_answered = true;
        for round in rounds(&counts) {
            let names = &open[round];
            let began = clock::now();
            let checks = verdicts.checks(names);
            let answers = context.checkers.visible_until(checks, deadline).await;
            if clock::now().duration_since(began) >= limits::VISIBILITY_TIMEOUT {
                // Either a policy is slow, or nobody is there.
                manager.is_there().await?;
            }
            if let Some(reason) = unanswered(&answers) {
                is_answered = false;
                if context.patience.is_left(clock::now()) {
                    return Err(Undecided::Unchecked(reason.to_owned()));
                }
            }
            verdicts.note(names, answers, tally);
        }
        if is_answered {
            context.patience.restore();
        }
        tally.checks += open.len() as u64;
        tally.keys += keys as u64;
        Ok(verdicts)
    }

    /// Notes an item's key for everybody who wants it.
    fn collect_keys(&mut self, registry: &Registry, item: &mut Item<'_>) {
        let mut keys: Vec<(Rc<str>, usize)> = Vec::new();
        for passing in &item.passing {
            let candidate = &item.index.candidates[passing.candidate];
            let Some(role) = item.role(candidate) else {
                continue;
            };
            if !item.is_checked() || item.lack_of(role).is_some() {
                continue;
            }
            let name = (item.change.relation.id, Rc::clone(&candidate.role));
            let block = self.0.entry(name).or_insert_with(|| Block {
                table: Rc::clone(&item.shape.table),
                keys: Vec::new(),
                claims: FxHashMap::default(),
            });
            let place = match keys.iter().find(|(name, _)| *name == candidate.role) {
                Some((_, place)) => *place,
                None => {
                    let Some(key) = item.shape.key(&item.row) else {
                        continue;
                    };
                    block.keys.push(key.into_iter().map(Into::into).collect());
                    let place = block.keys.len() - 1;
                    keys.push((Rc::clone(&candidate.role), place));
                    place
                }
            };
            let Some(class) = registry.class(candidate.class) else {
                continue;
            };
            let mut want = |whose: Whose, claims: &dyn Fn() -> Rc<str>| {
                let asked = block.claims.entry(whose).or_insert_with(|| Asked {
                    claims: claims(),
                    marks: Vec::new(),
                    wanted: 0,
                });
                asked.want(place);
            };
            if role.sees_all_rows {
                want(None, &|| NO_CLAIMS.into());
                continue;
            }
            for (id, group) in class.groups() {
                want(Some(id), &|| Rc::clone(&group.claims));
            }
        }
        item.keys = keys;
    }

    /// All there is to ask, those of a block beside each other, with the number of keys that each is about.
    fn open(&self) -> Vec<(Name, Whose, usize)> {
        let blocks = self.0.iter().flat_map(|(name, block)| {
            let claims = block.claims.iter();
            claims.map(move |(id, asked)| (name.clone(), *id, asked.wanted))
        });
        blocks.collect()
    }

    /// One question for each of these names, in their order: [`Verdicts::note`] tells the answers apart by it.
    fn checks(&self, names: &[(Name, Whose, usize)]) -> Vec<Check> {
        // Those who want all rows of a block share the list.
        let mut whole: FxHashMap<&Name, Rc<[Key]>> = FxHashMap::default();
        let check = |(name, id, wanted): &'_ (Name, Whose, usize)| {
            let (name, block) = self
                .0
                .get_key_value(name)
                .expect("`open` lists blocks that are there");
            let asked = block
                .claims
                .get(id)
                .expect("`open` lists claims that are there");
            let keys = if *wanted == block.keys.len() {
                let whole = whole.entry(name);
                Rc::clone(whole.or_insert_with(|| block.keys.clone().into()))
            } else {
                let keys = asked.places().map(|place| Rc::clone(&block.keys[place]));
                keys.collect()
            };
            Check {
                table: Rc::clone(&block.table),
                role: Rc::clone(&name.1),
                claims: Rc::clone(&asked.claims),
                keys,
            }
        };
        names.iter().map(check).collect()
    }

    /// Notes what was answered to [`Verdicts::checks`] of the same names.
    fn note(
        &mut self,
        names: &[(Name, Whose, usize)],
        answers: Vec<Vec<Verdict>>,
        tally: &mut Tally,
    ) {
        let mut lost: FxHashMap<u32, (Rc<TableNow>, u64, Rc<str>)> = FxHashMap::default();
        for ((name, id, _), answers) in names.iter().zip(answers) {
            let Some(block) = self.0.get_mut(name) else {
                continue;
            };
            let Some(asked) = block.claims.get_mut(id) else {
                continue;
            };
            let wanted = asked.marks.iter_mut();
            let wanted = wanted.filter(|mark| **mark != Mark::Unwanted);
            for (mark, verdict) in wanted.zip(answers) {
                match verdict {
                    Verdict::Yes => *mark = Mark::Visible,
                    Verdict::No => {}
                    Verdict::Lost(reason) | Verdict::Unanswered(reason) => {
                        let entry = lost.entry(name.0);
                        let table = || (Rc::clone(&block.table), 0, reason);
                        entry.or_insert_with(table).1 += 1;
                    }
                }
            }
        }
        tally.lost.extend(lost.into_values());
    }

    /// The groups of a class that may see an item, and how many subscriptions they have; none when nobody may.
    pub(super) fn visible_groups(
        &self,
        class: &Class,
        candidate: &Candidate,
        item: &Item<'_>,
    ) -> Option<(Vec<GroupId>, u64)> {
        let name = (item.change.relation.id, Rc::clone(&candidate.role));
        let block = self.0.get(&name)?;
        let (_, place) = item.keys.iter().find(|(role, _)| *role == candidate.role)?;
        let is_visible = |whose: Whose| {
            let asked = block.claims.get(&whose);
            asked.and_then(|asked| asked.marks.get(*place)) == Some(&Mark::Visible)
        };
        let is_visible_to_all = is_visible(None);
        let (mut groups, mut size) = (Vec::new(), 0);
        for (claims, group) in class.groups() {
            if is_visible_to_all || is_visible(Some(claims)) {
                groups.push(group.id);
                size += u64::from(group.size);
            }
        }
        (!groups.is_empty()).then_some((groups, size))
    }
}

impl Asked {
    /// It wants the row of this place. Places come in their order, some of them more than once.
    fn want(&mut self, place: usize) {
        if self.marks.len() <= place {
            self.marks.resize(place, Mark::Unwanted);
            self.marks.push(Mark::Hidden);
            self.wanted += 1;
        }
    }

    /// Where the rows are that it wants.
    fn places(&self) -> impl Iterator<Item = usize> {
        let marks = self.marks.iter().enumerate();
        marks.filter_map(|(place, mark)| (*mark != Mark::Unwanted).then_some(place))
    }
}

/// Cuts what there is to ask, of which each part has so many keys, into what is asked together.
fn rounds(counts: &[usize]) -> Vec<Range<usize>> {
    let (mut rounds, mut from, mut sum) = (Vec::new(), 0, 0);
    for (place, count) in counts.iter().enumerate() {
        if place > from && sum + count > limits::CHANGES_VERDICTS_AT_ONCE_MAX {
            rounds.push(from..place);
            (from, sum) = (place, 0);
        }
        sum += count;
    }
    if from < counts.len() {
        rounds.push(from..counts.len());
    }
    rounds
}

/// Why something could not be asked that may be soon.
fn unanswered(answers: &[Vec<Verdict>]) -> Option<&str> {
    answers.iter().flatten().find_map(|verdict| match verdict {
        Verdict::Unanswered(reason) => Some(&**reason),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_comes_back_with_an_answer() {
        let patience = Patience::default();
        let start = clock::now();
        assert!(patience.is_left(start));
        let last = start + limits::CHANGES_UNANSWERED_MAX;
        assert!(patience.is_left(last - std::time::Duration::from_millis(1)));
        assert!(!patience.is_left(last));
        // Those who come later do not wait once more.
        assert!(!patience.is_left(last + limits::CHANGES_UNANSWERED_MAX));
        patience.restore();
        assert!(patience.is_left(last));
        assert!(patience.is_left(last + limits::CHANGES_BATCH_RETRY_PAUSE));
    }

    #[test]
    fn rounds_are_bounded_and_leave_nothing_out() {
        let max = limits::CHANGES_VERDICTS_AT_ONCE_MAX;
        let check = |counts: &[usize], lengths: &[usize]| {
            let rounds = rounds(counts);
            assert_eq!(rounds.iter().map(Range::len).collect::<Vec<_>>(), lengths);
            assert!(rounds.into_iter().flatten().eq(0..counts.len()));
        };
        check(&[], &[]);
        check(&[3], &[1]);
        check(&[max, 1], &[1, 1]);
        check(&[max - 1, 1, 1], &[2, 1]);
        // What is larger than the bound goes alone.
        check(&[1, max + 1, 1], &[1, 1, 1]);
        let claims = vec![limits::CHANGES_BATCH_MAX; 5000];
        let cut = rounds(&claims);
        assert_eq!(cut.iter().map(Range::len).sum::<usize>(), 5000);
        let largest = cut.iter().map(Range::len).max();
        assert_eq!(largest, Some(max / limits::CHANGES_BATCH_MAX));
    }

    #[test]
    fn what_nobody_wants_is_not_asked() {
        let mut asked = Asked {
            claims: "{}".into(),
            marks: Vec::new(),
            wanted: 0,
        };
        for place in [1, 1, 4, 4, 5] {
            asked.want(place);
        }
        assert_eq!(asked.places().collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(asked.wanted, 3);
    }
}

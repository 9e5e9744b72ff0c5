//! The questions of a batch, cut into transactions.
//!
//! What comes in: [`Check`]s. What goes out: [`Chunk`]s, each for one connection at a time, and halves of those that failed. What always
//! holds: every key of every check is in exactly one entry (`chunks_cover_every_key_once`); a chunk has one table and one role; what is
//! known to be slow shares a chunk with nothing.

use super::Check;
use crate::limits;
use rustc_hash::FxHashMap;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Questions that go in one transaction.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Never empty. All of one table and one role.
    pub entries: Vec<Entry>,
    /// How often a lost connection has left it unanswered.
    pub attempts: u32,
    /// How long each of its queries may take.
    pub timeout: Duration,
    /// It waits until all others are answered: something in it has taken too long.
    pub is_slow: bool,
    /// Bisections that are left to it and to what it is cut into.
    pub bisections: Rc<Cell<u32>>,
}

/// Some keys of a check.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    /// Which check.
    pub check: usize,
    /// Its first key.
    pub from: usize,
    /// Behind its last key.
    pub to: usize,
}

impl Entry {
    fn weight(self) -> usize {
        self.to - self.from + limits::VISIBILITY_QUERY_WEIGHT
    }
}

impl Chunk {
    /// `budget` is none for what is not slow.
    fn new(entries: Vec<Entry>, budget: Option<Duration>) -> Self {
        Self {
            entries,
            attempts: 0,
            timeout: budget.unwrap_or(limits::VISIBILITY_STATEMENT_TIMEOUT),
            is_slow: budget.is_some(),
            bisections: Rc::new(Cell::new(limits::VISIBILITY_BISECTIONS_MAX)),
        }
    }

    /// The same for other entries.
    fn with(&self, entries: Vec<Entry>) -> Self {
        Self {
            entries,
            attempts: 0,
            timeout: self.timeout,
            is_slow: self.is_slow,
            bisections: Rc::clone(&self.bisections),
        }
    }

    /// These entries of it once more: their connection was lost.
    pub(super) fn again(&self, entries: Vec<Entry>) -> Self {
        Self {
            attempts: self.attempts + 1,
            ..self.with(entries)
        }
    }

    /// Two chunks that hold the halves of these entries of it, which failed; fewer when no bisection is left.
    pub(super) fn halves(&self, failed: &[Entry]) -> Option<[Self; 2]> {
        let left = self.bisections.get().checked_sub(2)?;
        self.bisections.set(left);
        let half = |cut: fn(Entry, usize) -> Entry| {
            let halves = failed
                .iter()
                .map(|entry| cut(*entry, entry.from.midpoint(entry.to)));
            self.with(halves.collect())
        };
        Some([
            half(|entry, middle| Entry {
                to: middle,
                ..entry
            }),
            half(|entry, middle| Entry {
                from: middle,
                ..entry
            }),
        ])
    }

    /// The same for entries that have taken too long.
    pub(super) fn slow_halves(&self, late: &[Entry]) -> Option<[Self; 2]> {
        let timeout = (self.timeout / 4).max(limits::VISIBILITY_HALF_TIMEOUT_MIN);
        let slow = |half| Self {
            timeout,
            is_slow: true,
            ..half
        };
        Some(self.halves(late)?.map(slow))
    }
}

/// Cuts. Checks with the same keys stand beside each other as they came; those that have a budget come last, the shortest behind all others.
pub(super) fn cut(checks: &[Check], budgets: &[Option<Duration>]) -> VecDeque<Chunk> {
    let mut groups: Vec<Vec<Entry>> = Vec::new();
    let mut known: FxHashMap<(usize, &str), usize> = FxHashMap::default();
    let mut slow = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        if let Some(budget) = budgets.get(index).copied().flatten() {
            slow.extend(
                entries_of(index, check).map(|entry| Chunk::new(vec![entry], Some(budget))),
            );
            continue;
        }
        let group = *known
            .entry((Rc::as_ptr(&check.table).addr(), &check.role))
            .or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
        groups[group].extend(entries_of(index, check));
    }
    let mut chunks = VecDeque::new();
    for group in groups {
        let (mut entries, mut weight) = (Vec::new(), 0);
        for entry in group {
            let is_full = entries.len() >= limits::VISIBILITY_QUERIES_MAX
                || weight + entry.weight() > limits::VISIBILITY_WEIGHT_MAX;
            if is_full && !entries.is_empty() {
                chunks.push_back(Chunk::new(std::mem::take(&mut entries), None));
                weight = 0;
            }
            weight += entry.weight();
            entries.push(entry);
        }
        if !entries.is_empty() {
            chunks.push_back(Chunk::new(entries, None));
        }
    }
    slow.sort_by_key(|chunk| std::cmp::Reverse(chunk.timeout));
    chunks.extend(slow);
    chunks
}

fn entries_of(index: usize, check: &Check) -> impl Iterator<Item = Entry> {
    let count = check.keys.len();
    let starts = (0..count).step_by(limits::VISIBILITY_KEYS_MAX);
    starts.map(move |from| Entry {
        check: index,
        from,
        to: count.min(from + limits::VISIBILITY_KEYS_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::changes::catalog::TableNow;
    use crate::control::changes::visibility::Key;

    fn check(table: &Rc<TableNow>, role: &str, keys: usize) -> Check {
        let key = |number: usize| -> Key { [number.to_string().into()].into() };
        Check {
            table: Rc::clone(table),
            role: role.into(),
            claims: "{}".into(),
            keys: (0..keys).map(key).collect(),
        }
    }

    #[test]
    fn chunks_cover_every_key_once() {
        let tables = [Rc::new(TableNow::default()), Rc::new(TableNow::default())];
        let mut checks = Vec::new();
        for number in 0..300 {
            let role = if number % 3 == 0 {
                "anon"
            } else {
                "authenticated"
            };
            checks.push(check(
                &tables[number % 2],
                role,
                [0, 1, 256, 600][number % 4],
            ));
        }
        let mut seen: Vec<Vec<u32>> = checks
            .iter()
            .map(|check| vec![0; check.keys.len()])
            .collect();
        let budget =
            |number: usize| (number % 7 == 5).then(|| Duration::from_secs(1 + (number % 2) as u64));
        let budgets: Vec<_> = (0..300).map(budget).collect();
        let chunks = cut(&checks, &budgets);
        let is_slow: Vec<bool> = chunks.iter().map(|chunk| chunk.is_slow).collect();
        assert!(is_slow.is_sorted() && is_slow.contains(&true));
        for chunk in &chunks {
            let budget = budgets[chunk.entries[0].check];
            assert_eq!(chunk.is_slow, budget.is_some());
            assert!(!chunk.is_slow || chunk.entries.len() == 1 && Some(chunk.timeout) == budget);
            let first = &checks[chunk.entries[0].check];
            assert!(chunk.entries.len() <= limits::VISIBILITY_QUERIES_MAX);
            for entry in &chunk.entries {
                let check = &checks[entry.check];
                assert!(Rc::ptr_eq(&check.table, &first.table) && check.role == first.role);
                assert!(entry.to - entry.from <= limits::VISIBILITY_KEYS_MAX);
                for times in &mut seen[entry.check][entry.from..entry.to] {
                    *times += 1;
                }
            }
        }
        assert!(seen.iter().flatten().all(|times| *times == 1));
        assert!(chunks.len() < checks.len() / 2, "{}", chunks.len());
    }

    #[test]
    fn halves_are_bounded_and_whole() {
        let chunk = Chunk::new(
            vec![Entry {
                check: 0,
                from: 0,
                to: 3,
            }],
            None,
        );
        let [left, right] = chunk.halves(&chunk.entries).unwrap();
        assert_eq!((left.entries[0].from, left.entries[0].to), (0, 1));
        assert_eq!((right.entries[0].from, right.entries[0].to), (1, 3));
        let mut count = 2;
        while right.halves(&right.entries).is_some() {
            count += 2;
        }
        assert_eq!(count, limits::VISIBILITY_BISECTIONS_MAX);
    }
}

//! What joins get that ask for messages of the database: how many, which twice, and in which order.
//!
//! In: the replayed messages of one join after another. Out: [`Replays`], which says what was wrong with them.
//! `database.sql` writes as many messages to each topic, and a stamp into each: a join that got fewer than the fullest one has lost some,
//! and so has one whose numbers have a gap.

use std::collections::BTreeMap;

use crate::report::Run;
use crate::scenario::fanout::{DUPLICATES, LOSS};
use crate::stamp::Stamp;

/// What one join has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    count: u64,
    /// The numbers of each sender, in their order.
    sequences: BTreeMap<u32, Vec<u32>>,
}

impl Heard {
    /// A replayed message has come.
    pub(super) fn note(&mut self, payload: &[u8]) {
        self.count += 1;
        let stamp = Stamp::find(payload).and_then(|at| Stamp::decode_at(payload, at));
        if let Some(stamp) = stamp {
            let sequences = self.sequences.entry(stamp.sender).or_default();
            sequences.push(stamp.sequence);
        }
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }
}

/// What all joins have heard.
#[derive(Debug, Default)]
pub(super) struct Replays {
    /// How many joins got how many messages.
    joins: BTreeMap<u64, u64>,
    /// Numbers that were left out.
    gaps: u64,
    duplicates: u64,
    late: u64,
}

impl Replays {
    /// A join is over.
    pub(super) fn note(&mut self, heard: &Heard) {
        let mut duplicates = 0;
        for sequences in heard.sequences.values() {
            let mut sorted = sequences.clone();
            sorted.sort_unstable();
            sorted.dedup();
            duplicates += (sequences.len() - sorted.len()) as u64;
            let steps = sequences.windows(2);
            self.late += steps.filter(|pair| pair[1] < pair[0]).count() as u64;
            let steps = sorted.windows(2);
            self.gaps += steps
                .map(|pair| u64::from(pair[1] - pair[0] - 1))
                .sum::<u64>();
        }
        *self.joins.entry(heard.count - duplicates).or_default() += 1;
        self.duplicates += duplicates;
    }

    /// Adds those of another thread.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, joins) in &other.joins {
            *self.joins.entry(*count).or_default() += joins;
        }
        self.gaps += other.gaps;
        self.duplicates += other.duplicates;
        self.late += other.late;
    }

    /// Adds what was wrong to what is reported.
    pub(super) fn describe(&self, run: &mut Run) {
        let most = self.joins.keys().next_back().copied().unwrap_or(0);
        let counts = self.joins.iter();
        let missing: u64 = counts.map(|(count, joins)| (most - count) * joins).sum();
        run.push_count(LOSS, missing.max(self.gaps), "messages were not replayed");
        let twice = "messages were replayed twice";
        run.push_count(DUPLICATES, self.duplicates, twice);
        let late = "messages were replayed out of order";
        run.push_count("disorder", self.late, late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(sequences: &[u32]) -> Heard {
        let mut heard = Heard::default();
        for sequence in sequences {
            let mut payload = Vec::new();
            let stamp = Stamp {
                sender: 7,
                sequence: *sequence,
                at_ns: 0,
            };
            stamp.encode(100, &mut payload);
            heard.note(&payload);
        }
        heard
    }

    #[test]
    fn joins_are_measured_by_the_fullest_one() {
        for (joins, expected) in [
            (&[&[0, 1, 2][..], &[0, 1, 2]][..], [0.0, 0.0, 0.0]),
            (&[&[0, 1, 2], &[0, 1], &[]], [4.0, 0.0, 0.0]),
            // Also where all have the same gap.
            (&[&[0, 2], &[0, 2]], [2.0, 0.0, 0.0]),
            (&[&[0, 1, 1, 2], &[0, 1, 2]], [0.0, 1.0, 0.0]),
            (&[&[0, 2, 1], &[0, 1, 2]], [0.0, 0.0, 1.0]),
            // A limit leaves out the oldest, which is no gap.
            (&[&[5, 6, 7], &[5, 6, 7]], [0.0, 0.0, 0.0]),
        ] {
            let (mut one, mut all) = (Replays::default(), Replays::default());
            for join in joins {
                one.note(&heard(join));
            }
            all.add(&one);
            let mut run = Run::default();
            all.describe(&mut run);
            let names = [LOSS, DUPLICATES, "disorder"];
            let found = names.map(|name| run.value(name).unwrap());
            assert_eq!(found, expected, "{joins:?}");
        }
    }
}

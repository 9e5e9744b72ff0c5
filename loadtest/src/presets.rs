//! The workloads that Supabase has published figures of, as command lines of this harness.
//!
//! In: a name and a scale. Out: the words of a command line, and what was published beside it.
//! The published runs were made on clusters of two to six nodes of unpublished size, and say how many users and
//! messages there were, not how many shared a topic: 100 are taken here. A scale makes fewer topics, members or
//! connections and fewer messages, so that each member gets what it would get; published figures stay as they are.

/// A workload.
#[derive(Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// What was published of it, in words.
    pub published: &'static str,
    /// What was published of it, by the names of our figures: name, unit, value.
    pub figures: &'static [(&'static str, &'static str, f64)],
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Users, messages per second that they get together, bytes of each.
    Broadcast(f64, f64, u32),
    /// The same with rows of the database.
    DatabaseBroadcast(f64, f64),
    /// Connections that are held, connections per second, and the channels that each joins.
    PrivateJoins(f64, f64, usize),
    /// Subscribers, and who may see the rows.
    Changes(f64, &'static str),
}

/// Members of a topic.
const MEMBERS: f64 = 100.0;

/// All of them: the one table of what was published.
pub const PRESETS: [Preset; 9] = [
    Preset {
        name: "broadcast",
        published: "32,000 users, 224,000 messages/s",
        figures: &[
            ("delivered", "frames/s", 224_000.0),
            ("latency p50", "us", 6_000.0),
            ("latency p95", "us", 28_000.0),
            ("latency p99", "us", 213_000.0),
        ],
        kind: Kind::Broadcast(32_000.0, 224_000.0, 100),
    },
    Preset {
        name: "broadcast-1kb",
        published: "4,000 users, 28,000 messages/s of 1 KB",
        figures: &[("latency p95", "us", 36_000.0)],
        kind: Kind::Broadcast(4_000.0, 28_000.0, 1_000),
    },
    Preset {
        name: "broadcast-10kb",
        published: "4,000 users, 28,000 messages/s of 10 KB",
        figures: &[("latency p95", "us", 42_000.0)],
        kind: Kind::Broadcast(4_000.0, 28_000.0, 10_000),
    },
    Preset {
        name: "broadcast-50kb",
        published: "4,000 users, 28,000 messages/s of 50 KB",
        figures: &[("latency p95", "us", 81_000.0)],
        kind: Kind::Broadcast(4_000.0, 28_000.0, 50_000),
    },
    Preset {
        name: "broadcast-large",
        published: "250,000 users, over 800,000 messages/s",
        figures: &[
            ("delivered", "frames/s", 800_000.0),
            ("latency p50", "us", 58_000.0),
            ("latency p95", "us", 279_000.0),
            ("latency p99", "us", 508_000.0),
        ],
        kind: Kind::Broadcast(250_000.0, 800_000.0, 100),
    },
    Preset {
        name: "database-broadcast",
        published: "80,000 users, 10,000 messages/s",
        figures: &[
            ("delivered", "frames/s", 10_000.0),
            ("latency p50", "us", 46_000.0),
            ("latency p95", "us", 132_000.0),
            ("latency p99", "us", 159_000.0),
        ],
        kind: Kind::DatabaseBroadcast(80_000.0, 10_000.0),
    },
    Preset {
        name: "private-joins",
        published: "50,000 users, 500 connections/s, 1,000 joins/s",
        figures: &[("joined", "channels/s", 1_000.0)],
        kind: Kind::PrivateJoins(50_000.0, 500.0, 2),
    },
    Preset {
        name: "changes",
        published: "500 clients, 64 rows/s, no row level security",
        figures: &[("delivered to every member", "rows/s", 64.0)],
        kind: Kind::Changes(500.0, "none"),
    },
    Preset {
        name: "changes-rls",
        published: "500 clients, 30 rows/s with row level security",
        figures: &[("delivered to every member", "rows/s", 30.0)],
        kind: Kind::Changes(500.0, "all"),
    },
];

impl Preset {
    /// The names of all.
    pub fn names() -> [&'static str; PRESETS.len()] {
        PRESETS.each_ref().map(|preset| preset.name)
    }

    /// The preset of a name.
    pub fn of(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// The scenario and its options, `scale` times as large as published.
    pub fn words(&self, scale: f64) -> Vec<String> {
        let whole = |number: f64| ((number * scale).round().max(1.0) as usize).to_string();
        let words: Vec<String> = match self.kind {
            Kind::Broadcast(users, messages, payload) => {
                // A topic less than 100 members would have is still one topic.
                let topics = (users / MEMBERS * scale).round().max(1.0);
                let rate = messages / users * topics;
                let (members, topics) = (MEMBERS.to_string(), topics.to_string());
                let (rate, payload) = (rate.to_string(), payload.to_string());
                [
                    "broadcast",
                    "--members",
                    &members,
                    "--topics",
                    &topics,
                    "--rate",
                    &rate,
                    "--payload",
                    &payload,
                ]
                .map(str::to_owned)
                .to_vec()
            }
            Kind::DatabaseBroadcast(users, messages) => {
                // Slow, since all are on one topic: a row reaches everybody.
                let rate = (messages / users).to_string();
                [
                    "database-broadcast",
                    "--members",
                    &whole(users),
                    "--rate",
                    &rate,
                    "--seconds",
                    "80",
                ]
                .map(str::to_owned)
                .to_vec()
            }
            Kind::PrivateJoins(held, rate, channels) => {
                let rate = (rate * scale).max(1.0).to_string();
                [
                    "joins",
                    "--private",
                    "--channels",
                    &channels.to_string(),
                    "--hold",
                    &whole(held),
                    "--rate",
                    &rate,
                ]
                .map(str::to_owned)
                .to_vec()
            }
            Kind::Changes(subscribers, rls) => [
                "changes",
                "--subscribers",
                &whole(subscribers),
                "--rls",
                rls,
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_leaves_each_member_what_it_gets() {
        let words = |scale| Preset::of("broadcast").unwrap().words(scale).join(" ");
        assert_eq!(
            words(1.0),
            "broadcast --members 100 --topics 320 --rate 2240 --payload 100"
        );
        assert_eq!(
            words(0.01),
            "broadcast --members 100 --topics 3 --rate 21 --payload 100"
        );
        assert_eq!(
            words(1e-6),
            "broadcast --members 100 --topics 1 --rate 7 --payload 100"
        );
        let changes = Preset::of("changes-rls").unwrap().words(0.1).join(" ");
        assert_eq!(changes, "changes --subscribers 50 --rls all");
        let joins = Preset::of("private-joins").unwrap().words(0.1).join(" ");
        assert_eq!(joins, "joins --private --channels 2 --hold 5000 --rate 50");
    }

    #[test]
    fn names_are_told_apart() {
        let mut names = Preset::names().to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PRESETS.len());
        assert!(Preset::of("nothing").is_none());
    }
}

//! Channels that come and go on a socket that stays.
//!
//! In: the storm's desk. Out: its joins counted, one at a time on each socket.
//! Always holds: a socket has one channel, or two while one leaves and the next one joins; each join
//! carries the next token, so that as many sets of claims are asked about as there are tokens.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock::now_ns;
use crate::dialect::{self, Answer, Join, Replay};
use crate::link::{self, Link};

use super::Desk;

/// How far back a join looks for messages to be replayed.
const REPLAY_MS: u64 = 3_600_000;

/// The socket's first channel has 1; the ones that are counted follow.
const FIRST_REF: u32 = 2;

/// Opens a socket and joins channels on it until the storm is over.
pub(super) async fn again_and_again(desk: Rc<Desk>) {
    let (number, topic) = desk.next();
    let join = Join {
        private: desk.plan.private,
        ..Join::default()
    };
    match link::open(&desk.target, number, &topic, &join).await {
        Ok((link, received)) => {
            if let Err(problem) = join_and_leave(&desk, &link, topic, received).await {
                desk.refused(problem);
            }
        }
        Err(problem) => desk.refused(problem),
    }
    desk.under_way.set(desk.under_way.get() - 1);
}

/// Leaves the channel and joins the next one in one write, and waits for the join's answer.
///
/// # Errors
///
/// Why the socket can be used no longer. A join that was refused is only counted.
async fn join_and_leave(
    desk: &Desk,
    link: &Link,
    mut topic: String,
    mut received: Vec<u8>,
) -> Result<(), String> {
    let dialect = desk.target.dialect;
    let since_ms = unix_ms().saturating_sub(REPLAY_MS);
    let replay = desk.plan.replay.map(|limit| Replay { since_ms, limit });
    let mut frames = Vec::new();
    for msg_ref in FIRST_REF.. {
        if desk.is_over() {
            break;
        }
        let (number, next) = desk.next();
        let join = Join {
            private: desk.plan.private,
            replay,
            access_token: Some(&desk.target.tokens[number % desk.target.tokens.len()]),
            ..Join::default()
        };
        frames.clear();
        dialect.push_leave(&topic, msg_ref - 1, &mut frames);
        dialect.push_numbered_join(&next, msg_ref, &join, &mut frames);
        topic = next;
        let since_ns = now_ns();
        link.send(&frames)
            .await
            .map_err(|error| format!("join: {error}"))?;
        let mut replayed = 0;
        let answer = link
            .until(&mut received, |payload| {
                if dialect::is_replayed(payload) {
                    replayed += 1;
                }
                let is_mine = dialect.is_reply_to(payload, msg_ref);
                is_mine.then(|| match dialect.answer(payload) {
                    Answer::Ok => Ok(Ok(())),
                    _ => Ok(Err(String::from_utf8_lossy(payload).into_owned())),
                })
            })
            .await?;
        match answer {
            Ok(()) => desk.joined(since_ns),
            Err(text) => desk.refused(format!("join refused: {text}")),
        }
        desk.board.replayed.fetch_add(replayed, Ordering::Relaxed);
    }
    Ok(())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

//! Channels that come and go on a socket that stays.
//!
//! In: the storm's desk. Out: its joins counted, one at a time on each socket.
//! Always holds: a socket has one channel, or two while one leaves and the next one joins; each join
//! carries the next token, so that as many sets of claims are asked about as there are tokens.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::clock::now_ns;
use crate::dialect::{self, Answer, FIRST_JOIN_REF, Join, Replay};
use crate::link::{self, Link};
use crate::tokens;

use super::Desk;
use super::replays::Heard;

/// How far back a join looks for messages to be replayed.
const REPLAY_MS: u64 = 3_600_000;

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
    let since_ms = (tokens::since_1970().as_millis() as u64).saturating_sub(REPLAY_MS);
    let replay = desk.plan.replay.map(|limit| Replay { since_ms, limit });
    let mut frames = Vec::new();
    // The first channel asks for nothing.
    let (mut heard, mut asks) = (Heard::default(), false);
    // The socket's first channel has been joined; the ones that are counted follow.
    for msg_ref in FIRST_JOIN_REF + 1.. {
        if desk.is_over() {
            break;
        }
        let (number, next) = desk.next();
        let token = desk.target.tokens.of(number);
        let join = Join {
            private: desk.plan.private,
            replay,
            access_token: Some(&token),
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
        let mut replies_before = 0;
        let answer = link.until(&mut received, |payload| {
            if dialect::is_replayed(payload) {
                heard.note(payload);
            }
            replies_before += u64::from(dialect.is_reply_to(payload, msg_ref - 1));
            let is_mine = dialect.is_reply_to(payload, msg_ref);
            is_mine.then(|| match dialect.answer(payload) {
                Answer::Ok => Ok(Ok(())),
                _ => Ok(Err(String::from_utf8_lossy(payload).into_owned())),
            })
        });
        let answer = desk.target.in_time(answer).await?;
        // One is the answer to the leave.
        let again = replies_before.saturating_sub(1);
        desk.held.answered_again(again);
        let before = std::mem::take(&mut heard);
        desk.board
            .replayed
            .fetch_add(before.count(), Ordering::Relaxed);
        if asks {
            desk.replays.borrow_mut().note(&before);
        }
        asks = answer.is_ok();
        match answer {
            Ok(()) => desk.joined(since_ns),
            Err(text) => desk.refused(format!("join refused: {text}")),
        }
    }
    Ok(())
}

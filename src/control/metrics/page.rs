//! A written page on its way out.
//!
//! What always holds: it is shared, not copied, by all who get it; as a body it comes in slices, and between two of them other tasks get
//! their turn, because whoever asked may want it compressed (`a_body_comes_in_slices_with_turns_between`).

use crate::limits;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What is compressed before others get their turn.
pub const SLICE_BYTES: usize = 128 * limits::METRICS_STEPS_PER_SLICE;

/// A page. Clones share its text.
#[derive(Clone, Debug)]
pub struct Page {
    text: Bytes,
    /// Where the tenants' part begins.
    tenants_at: usize,
}

impl Page {
    /// Of this text, whose second part begins there.
    #[must_use]
    pub fn new(text: String, tenants_at: usize) -> Self {
        Self {
            text: text.into(),
            tenants_at,
        }
    }

    /// Both parts, each with its end.
    #[must_use]
    pub fn parts(&self) -> [Bytes; 2] {
        let (node, tenants) = (..self.tenants_at, self.tenants_at..);
        [self.text.slice(node), self.text.slice(tenants)]
    }

    /// Nothing at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            text: Bytes::new(),
            tenants_at: 0,
        }
    }

    /// As the body of an answer.
    #[must_use]
    pub fn into_body(self) -> Slices {
        Slices {
            rest: self.text,
            is_turn_of_others: false,
        }
    }
}

/// A page that is being sent.
#[derive(Debug)]
pub struct Slices {
    rest: Bytes,
    is_turn_of_others: bool,
}

impl Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.is_turn_of_others) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.is_turn_of_others = true;
        let length = self.rest.len().min(SLICE_BYTES);
        let slice = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    /// Parity: never its length, also where there is nothing: it is sent in chunks (spec: http-api 6).
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.rest.len() as u64);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Waker;

    #[test]
    fn both_parts_are_slices_of_the_text() {
        let page = Page::new("node\ntenants\n".to_owned(), 5);
        assert_eq!(page.parts(), ["node\n", "tenants\n"]);
    }

    #[test]
    fn a_body_comes_in_slices_with_turns_between() {
        let length = SLICE_BYTES * 2 + 1;
        let mut body = pin!(Page::new("x".repeat(length), 0).into_body());
        assert_eq!(body.size_hint().lower(), length as u64);
        assert_eq!(body.size_hint().exact(), None);
        let mut context = Context::from_waker(Waker::noop());
        let mut polled = Vec::new();
        while let poll = body.as_mut().poll_frame(&mut context)
            && !matches!(poll, Poll::Ready(None))
        {
            polled.push(match poll {
                Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap().len(),
                _ => 0,
            });
        }
        let slice = SLICE_BYTES;
        assert_eq!(polled, [slice, 0, slice, 0, 1]);
    }
}

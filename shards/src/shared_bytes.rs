//! One payload, many sockets, many shards: bytes that are counted instead of copied.
//!
//! [`SharedBytes`] crosses threads and pays an atomic count; [`LocalBytes`] stays on one shard, costs a plain count
//! and is one pointer wide, because every queued frame of every socket is one. A shard turns the one into the other
//! once per message, not once per member. Both are immutable from the moment they exist: the kernel may be reading
//! them. There is no `unsafe` here; the price is one more pointer to follow, once per send.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that cross shards.
#[derive(Clone)]
pub struct SharedBytes(Arc<Vec<u8>>);

impl From<Vec<u8>> for SharedBytes {
    /// Takes the vector as it is; nothing is copied.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}

/// Bytes that many sockets of one shard send.
#[derive(Clone)]
pub struct LocalBytes(Rc<Source>);

/// Where the bytes of a [`LocalBytes`] are, and whether what they begin goes on in the next buffer of the queue.
struct Source {
    place: Place,
    goes_on: bool,
}

enum Place {
    /// Its own.
    Owned(Vec<u8>),
    /// A part of bytes that other shards hold as well; both bounds were checked when it was made.
    Shared {
        bytes: SharedBytes,
        start: usize,
        end: usize,
    },
}

impl From<Place> for LocalBytes {
    fn from(place: Place) -> Self {
        Self(Rc::new(Source {
            place,
            goes_on: false,
        }))
    }
}

const _: () = assert!(
    size_of::<Option<LocalBytes>>() == 8,
    "a queued frame is one pointer"
);

impl LocalBytes {
    /// A part of shared bytes, without a copy.
    ///
    /// # Panics
    ///
    /// When `range` is not within `bytes`.
    #[must_use]
    pub fn slice(bytes: &SharedBytes, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= bytes.len(),
            "{range:?} is not within {} bytes",
            bytes.len()
        );
        Self::from(Place::Shared {
            bytes: bytes.clone(),
            start: range.start,
            end: range.end,
        })
    }

    /// Bytes of which nothing else holds a clone, as the beginning of something that goes on in the buffer that is queued next: once
    /// they have begun to leave, that one is not dropped.
    ///
    /// # Panics
    ///
    /// When there is a clone.
    #[must_use]
    pub fn going_on(mut self) -> Self {
        let source = Rc::get_mut(&mut self.0);
        source.expect("it is its maker's alone").goes_on = true;
        self
    }

    /// See [`LocalBytes::going_on`].
    pub(crate) fn goes_on(&self) -> bool {
        self.0.goes_on
    }

    /// How many bytes there are. Asked several times for every frame: unlike the slice it does not follow the pointers to the bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0.place {
            Place::Owned(bytes) => bytes.len(),
            Place::Shared { start, end, .. } => end - start,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vector inside, to be filled again, if nobody else holds these bytes and they are its own.
    pub(crate) fn reclaim(self) -> Option<Vec<u8>> {
        match Rc::try_unwrap(self.0).ok()?.place {
            Place::Owned(bytes) => Some(bytes),
            Place::Shared { .. } => None,
        }
    }
}

impl From<Vec<u8>> for LocalBytes {
    /// Takes the vector as it is; nothing is copied.
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Place::Owned(bytes))
    }
}

impl From<SharedBytes> for LocalBytes {
    fn from(bytes: SharedBytes) -> Self {
        let end = bytes.len();
        Self::from(Place::Shared {
            bytes,
            start: 0,
            end,
        })
    }
}

impl Deref for LocalBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0.place {
            Place::Owned(bytes) => bytes,
            Place::Shared { bytes, start, end } => &bytes[*start..*end],
        }
    }
}

impl fmt::Debug for LocalBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_and_sliced_without_a_copy() {
        let vector = b"hello world".to_vec();
        let at = vector.as_ptr();
        let shared = SharedBytes::from(vector);
        assert_eq!(shared.as_ptr(), at);
        let part = LocalBytes::slice(&shared, 6..11);
        assert_eq!(
            (&*part, part.len(), part.is_empty()),
            (&b"world"[..], 5, false)
        );
        assert_eq!(part.as_ptr(), at.wrapping_add(6));
        let none = LocalBytes::slice(&shared, 3..3);
        assert_eq!((none.len(), none.is_empty()), (0, true));
        assert_eq!(&*LocalBytes::from(shared), b"hello world");
        let own = LocalBytes::from(b"own".to_vec());
        assert_eq!((&*own, own.len()), (&b"own"[..], 3));
        assert!(LocalBytes::from(Vec::new()).is_empty());
    }

    #[test]
    fn only_the_last_holder_reclaims_its_own_bytes() {
        let bytes = LocalBytes::from(b"abc".to_vec());
        let other = bytes.clone();
        assert!(bytes.reclaim().is_none());
        assert_eq!(other.reclaim().as_deref(), Some(&b"abc"[..]));
        assert!(
            LocalBytes::from(SharedBytes::from(vec![1]))
                .reclaim()
                .is_none()
        );
    }

    #[test]
    #[should_panic(expected = "not within 3 bytes")]
    fn a_slice_beyond_the_end_is_our_own_mistake() {
        let _ = LocalBytes::slice(&SharedBytes::from(vec![1, 2, 3]), 1..4);
    }
}

//! A message before it is encoded ([`Content`]), and a turn's messages of one topic after it ([`Batch`]).

use super::{Member, Serializers};
use crate::phoenix::{self, Encoding, TooLong, Vsn};
use shards::SharedBytes;
use std::borrow::Cow;
use uuid::Uuid;

use super::TopicKey;

/// What is published, independent of a serializer.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// An event with a JSON payload: a text frame in both serializers.
    Json {
        /// The event: `broadcast`, `presence_diff`, `system`.
        event: &'static str,
        /// The payload, valid JSON.
        payload: Cow<'a, str>,
    },
    /// A user broadcast: kind 4 for 2.0.0, an object in a text frame for 1.0.0 unless its bytes are opaque (spec 6.3).
    User {
        /// The user's event.
        event: Cow<'a, str>,
        /// A JSON object for kind 4's metadata, and `meta` in 1.0.0.
        metadata: Option<Cow<'a, str>>,
        /// What the bytes are.
        encoding: Encoding,
        /// The payload; valid JSON when the encoding says so.
        bytes: Cow<'a, [u8]>,
    },
    /// The data of a kind 0 push: kind 2 for 2.0.0, nothing for 1.0.0 (spec 3.1).
    Opaque {
        /// The data.
        data: Cow<'a, [u8]>,
    },
}

impl Content<'_> {
    /// The same with bytes of its own, to travel to another thread.
    #[must_use]
    pub fn into_owned(self) -> Content<'static> {
        match self {
            Self::Json { event, payload } => Content::Json {
                event,
                payload: Cow::Owned(payload.into_owned()),
            },
            Self::User {
                event,
                metadata,
                encoding,
                bytes,
            } => Content::User {
                event: Cow::Owned(event.into_owned()),
                metadata: metadata.map(|metadata| Cow::Owned(metadata.into_owned())),
                encoding,
                bytes: Cow::Owned(bytes.into_owned()),
            },
            Self::Opaque { data } => Content::Opaque {
                data: Cow::Owned(data.into_owned()),
            },
        }
    }

    /// The size of its payload as the limit of tenants measures it, in bytes (spec: websocket-protocol 9.4).
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Json { payload, .. } => phoenix::json_term_size(payload),
            Self::User {
                event,
                encoding,
                bytes,
                ..
            } => {
                let around = match encoding {
                    Encoding::Json => 24,
                    Encoding::Binary => 26,
                };
                bytes.len() + event.len() + around
            }
            Self::Opaque { data } => data.len() + 6,
        }
    }

    /// Appends the message as one WebSocket frame, or nothing where the serializer cannot say it.
    ///
    /// # Errors
    ///
    /// [`TooLong`] when topic, event or metadata do not fit kind 4. The caller drops the message for everybody and logs it.
    pub fn encode(&self, out: &mut Vec<u8>, vsn: Vsn, key: &TopicKey) -> Result<(), TooLong> {
        #[cfg(test)]
        ENCODINGS.set(ENCODINGS.get() + 1);
        let topic = phoenix::Topic {
            text: key.text(),
            json: key.json(),
        };
        match self {
            Self::Json { event, payload } => {
                phoenix::encode_push(out, vsn, "null", "null", topic.json, event, payload);
                Ok(())
            }
            Self::User {
                event,
                metadata,
                encoding,
                bytes,
            } => phoenix::encode_user_broadcast(
                out,
                vsn,
                topic,
                event,
                metadata.as_deref(),
                *encoding,
                bytes,
            )
            .map(|_| ()),
            Self::Opaque { data } => {
                phoenix::encode_opaque_broadcast(out, vsn, topic, "broadcast", data).map(|_| ())
            }
        }
    }
}

/// Who of a topic's members may get a message.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Audience {
    /// Those who may read broadcasts.
    Broadcast,
    /// Those who may read presence.
    Presence,
}

/// Which of a topic's members get a message.
#[derive(Copy, Clone, Debug)]
pub struct Receivers {
    /// Who may get it.
    pub audience: Audience,
    /// The member that does not get it.
    pub except: Option<Member>,
    /// See [`Publish::id`](super::Publish::id).
    pub id: Option<Uuid>,
}

impl Receivers {
    /// All who may get it.
    #[must_use]
    pub const fn all(audience: Audience) -> Self {
        Self {
            audience,
            except: None,
            id: None,
        }
    }
}

/// One message of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who may get it.
    pub audience: Audience,
    /// The member that does not get it.
    pub except: Option<Member>,
    /// See [`Publish::id`](super::Publish::id).
    pub id: Option<Uuid>,
    /// Where its 1.0.0 frame ends in [`Batch::v1`]; it begins where the one before ends, and may be empty.
    pub v1_end: u32,
    /// The same for 2.0.0.
    pub v2_end: u32,
}

/// What a topic got in one turn of its owner: every frame encoded once, in the one order that all members see.
#[derive(Debug)]
pub struct Batch {
    /// All 1.0.0 frames, one behind the other. None where there is none, as nearly always of one of the two.
    pub v1: Option<SharedBytes>,
    /// All 2.0.0 frames.
    pub v2: Option<SharedBytes>,
    /// The messages.
    pub entries: Vec<Entry>,
}

impl Batch {
    /// All frames of a serializer.
    #[must_use]
    pub fn frames(&self, vsn: Vsn) -> Option<&SharedBytes> {
        match vsn {
            Vsn::V1 => self.v1.as_ref(),
            Vsn::V2 => self.v2.as_ref(),
        }
    }

    /// Bytes of all frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let frames = [&self.v1, &self.v2].into_iter().flatten();
        frames.map(|frames| frames.len()).sum()
    }
}

impl Entry {
    /// Where the frame ends in [`Batch::frames`].
    #[must_use]
    pub fn end(&self, vsn: Vsn) -> usize {
        match vsn {
            Vsn::V1 => self.v1_end as usize,
            Vsn::V2 => self.v2_end as usize,
        }
    }
}

/// A batch that still grows: the frames of a topic since the last time it was sealed.
#[derive(Debug, Default)]
pub struct Encoded {
    v1: Vec<u8>,
    v2: Vec<u8>,
    entries: Vec<Entry>,
}

impl Encoded {
    /// Encodes `content` once for each serializer in `wanted`.
    ///
    /// # Errors
    ///
    /// [`TooLong`]: nothing was added.
    pub fn push(
        &mut self,
        key: &TopicKey,
        content: &Content<'_>,
        wanted: Serializers,
        to: Receivers,
    ) -> Result<(), TooLong> {
        let before = (self.v1.len(), self.v2.len());
        let (encode_v1, mut encode_v2) = (wanted.v1, wanted.v2);
        // 2.0.0 first: it is the one that can refuse, also where nobody speaks it, so that a message goes to all or to nobody.
        encode_v2 |= !matches!(content, Content::Json { .. });
        let mut encoded = Ok(());
        if encode_v2 {
            encoded = content.encode(&mut self.v2, Vsn::V2, key);
        }
        if encode_v1 && encoded.is_ok() {
            encoded = content.encode(&mut self.v1, Vsn::V1, key);
        }
        if let Err(error) = encoded {
            self.v1.truncate(before.0);
            self.v2.truncate(before.1);
            return Err(error);
        }
        if !wanted.v2 {
            self.v2.truncate(before.1);
        }
        let [v1_end, v2_end] = [self.v1.len(), self.v2.len()]
            .map(|end| u32::try_from(end).expect("a batch is sealed long before 4 GiB"));
        self.entries.push(Entry {
            audience: to.audience,
            except: to.except,
            id: to.id,
            v1_end,
            v2_end,
        });
        Ok(())
    }

    /// The messages so far.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All frames of a serializer so far.
    #[must_use]
    pub fn frames(&self, vsn: Vsn) -> &[u8] {
        match vsn {
            Vsn::V1 => &self.v1,
            Vsn::V2 => &self.v2,
        }
    }

    /// Bytes encoded so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.v1.len() + self.v2.len()
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ends the batch.
    #[must_use]
    pub fn seal(&mut self) -> Batch {
        Batch {
            v1: shared(std::mem::take(&mut self.v1)),
            v2: shared(std::mem::take(&mut self.v2)),
            entries: std::mem::take(&mut self.entries),
        }
    }
}

fn shared(frames: Vec<u8>) -> Option<SharedBytes> {
    (!frames.is_empty()).then(|| SharedBytes::from(frames))
}

#[cfg(test)]
thread_local! {
    static ENCODINGS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many frames this thread has encoded, so that a test can see that no member costs one.
#[cfg(test)]
pub(crate) fn encodings() -> u64 {
    ENCODINGS.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked examples of spec websocket-protocol 9.4.
    #[test]
    fn payloads_measure_as_the_original_measures_them() {
        let user = |encoding| Content::User {
            event: "msg".into(),
            metadata: None,
            encoding,
            bytes: b"12345".into(),
        };
        assert_eq!(user(Encoding::Json).payload_bytes(), 5 + 3 + 24);
        assert_eq!(user(Encoding::Binary).payload_bytes(), 5 + 3 + 26);
        let data = b"123".into();
        assert_eq!(Content::Opaque { data }.payload_bytes(), 9);
        let (event, payload) = ("broadcast", "{}".into());
        assert_eq!(Content::Json { event, payload }.payload_bytes(), 6);
    }
}

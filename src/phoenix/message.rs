//! What the serializers decode to and encode from.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use super::escape::escape;
use super::scan::Value;

/// The serializer of a socket, chosen once, at its upgrade.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub enum Vsn {
    /// 1.0.x: objects.
    V1,
    /// 2.0.x: arrays, and binary frames.
    V2,
}

impl Vsn {
    /// The serializer for the query parameter `vsn`: a full semantic version that meets `~> 1.0.0` or `~> 2.0.0`.
    ///
    /// Parity: the rules are those of the original's version library: three numbers without leading zeros, then perhaps a
    /// pre-release and build metadata. A pre-release of x.0.0 comes before x.0.0 and does not meet the requirement.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, build) = split_optional(text, '+');
        let (numbers, pre_release) = split_optional(text, '-');
        let mut parts = numbers.split('.');
        let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
        let is_number = |part: &str| {
            part.bytes().all(|byte| byte.is_ascii_digit())
                && !part.is_empty()
                && (part == "0" || !part.starts_with('0'))
        };
        let is_word = |part: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !part.is_empty() && part.bytes().all(is_letter)
        };
        let is_pre_release = |part: &str| {
            is_word(part) && (is_number(part) || !part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let is_version = parts.next().is_none()
            && [major, minor, patch].into_iter().all(is_number)
            && pre_release.is_none_or(|text| text.split('.').all(is_pre_release))
            && build.is_none_or(|text| text.split('.').all(is_word));
        let is_below_release = patch == "0" && pre_release.is_some();
        if !is_version || minor != "0" || is_below_release {
            return None;
        }
        match major {
            "1" => Some(Self::V1),
            "2" => Some(Self::V2),
            _ => None,
        }
    }
}

fn split_optional(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// The JSON text of one value; derefs to it.
///
/// Of a text frame, exactly what was sent. A binary frame carries strings without quotes; short ones (nearly all) are
/// quoted in place, so that no allocation is needed.
#[derive(Clone)]
pub struct RawJson<'a>(Raw<'a>);

/// The JSON text of `join_ref` or `ref`: any value, `null` when absent.
pub type RawRef<'a> = RawJson<'a>;

#[derive(Clone)]
enum Raw<'a> {
    Text(Cow<'a, str>),
    Inline { bytes: [u8; INLINE_BYTES], len: u8 },
}

/// Room for `"realtime:` and a UUID.
const INLINE_BYTES: usize = 54;

const _: () = assert!(size_of::<RawJson<'_>>() == 56);

impl<'a> RawJson<'a> {
    /// The value as it was sent.
    #[inline(always)]
    pub(super) const fn sent(raw: &'a str) -> Self {
        Self(Raw::Text(Cow::Borrowed(raw)))
    }

    /// The JSON string of `text`.
    pub(super) fn quoted(text: &str) -> Self {
        let escaped = escape(text);
        let len = escaped.len().saturating_add(2);
        let mut bytes = [b'"'; INLINE_BYTES];
        match bytes.get_mut(1..len.saturating_sub(1)) {
            Some(inner) if len <= INLINE_BYTES => {
                inner.copy_from_slice(escaped.as_bytes());
                let len = len as u8;
                Self(Raw::Inline { bytes, len })
            }
            _ => Self(Raw::Text(Cow::Owned(["\"", &escaped, "\""].concat()))),
        }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Raw::Text(text) => text,
            Raw::Inline { bytes, len } => {
                let (text, _) = bytes.split_at(usize::from(*len));
                std::str::from_utf8(text).expect("quoted() copied a str")
            }
        }
    }

    /// Whether the value is `null`, or was absent.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }
}

impl Deref for RawJson<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for RawJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq for RawJson<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl PartialEq<&str> for RawJson<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// A topic or an event: a string, unless the client sent nonsense (which is answered all the same).
#[derive(Clone, Debug, PartialEq)]
pub struct Field<'a> {
    /// Its JSON text, to be echoed.
    pub raw: RawJson<'a>,
    /// The string that it is; `None` for any other JSON value.
    pub text: Option<Cow<'a, str>>,
}

impl<'a> Field<'a> {
    #[inline(always)]
    pub(super) fn sent(value: Value<'a>) -> Self {
        Self {
            raw: RawJson::sent(value.raw),
            text: value.text(),
        }
    }

    pub(super) fn plain(text: &'a str) -> Self {
        Self {
            raw: RawJson::quoted(text),
            text: Some(Cow::Borrowed(text)),
        }
    }
}

/// One message from a client. Its slices borrow from the frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Message<'a> {
    /// The `ref` of the join that the channel belongs to.
    pub join_ref: RawRef<'a>,
    /// The wire's `ref`; a reply repeats it.
    pub msg_ref: RawRef<'a>,
    /// What the message is for.
    pub topic: Field<'a>,
    /// What it wants. `broadcast` for [`Payload::User`].
    pub event: Field<'a>,
    /// What it brings.
    pub payload: Payload<'a>,
}

/// A message's payload, in one of three forms.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Payload<'a> {
    /// The text of any JSON value, checked.
    Json(&'a str),
    /// A user broadcast (binary kind 3).
    User {
        /// The user's name for it.
        event: &'a str,
        /// What `bytes` are.
        encoding: Encoding,
        /// Checked JSON, or anything.
        bytes: &'a [u8],
    },
    /// The data of a binary push (kind 0).
    Opaque(&'a [u8]),
}

/// What the bytes of a user broadcast are (kinds 3 and 4).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Encoding {
    /// Any bytes; 1.0.0 cannot carry them.
    Binary = 0,
    /// The text of one JSON value.
    Json = 1,
}

/// Why a frame is dropped. The connection stays, and the client is told nothing (websocket-protocol section 3.4).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// Not what the serializer can read: operational code `MalformedWebSocketMessage`.
    Malformed(&'static str),
    /// Readable, but nothing that exists: operational code `UnknownErrorOnWebSocketMessage`.
    Unknown(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Malformed(reason) | Self::Unknown(reason)) = self;
        f.write_str(reason)
    }
}

impl std::error::Error for DecodeError {}

/// A topic in both forms that the encoders need.
#[derive(Copy, Clone, Debug)]
pub struct Topic<'a> {
    /// The plain text.
    pub text: &'a str,
    /// The JSON string, quotes included.
    pub json: &'a str,
}

#[cfg(test)]
mod tests {
    use super::{RawJson, Vsn};

    #[test]
    fn a_vsn_is_a_full_version_of_a_known_serializer() {
        for (text, vsn) in [
            ("1.0.0", Some(Vsn::V1)),
            ("1.0.5", Some(Vsn::V1)),
            ("1.0.99999999999999999999", Some(Vsn::V1)),
            ("2.0.0", Some(Vsn::V2)),
            ("2.0.10", Some(Vsn::V2)),
            ("2.0.0+build.1", Some(Vsn::V2)),
            ("2.0.1-rc.1", Some(Vsn::V2)),
            ("2.0.1-a-b+c-d", Some(Vsn::V2)),
            ("2.0.0-rc.1", None),
            ("2.0.1-01", None),
            ("2.0.1-", None),
            ("2.0.0+", None),
            ("2.0.1-a..b", None),
            ("2.1.0", None),
            ("1.1.0", None),
            ("3.0.0", None),
            ("0.0.0", None),
            ("2.0", None),
            ("2", None),
            ("2.0.0.0", None),
            ("02.0.0", None),
            ("2.0.00", None),
            ("2.00.0", None),
            ("v2.0.0", None),
            (" 2.0.0", None),
            ("2.0.0 ", None),
            ("2.0.x", None),
            ("2..0", None),
            ("+2.0.0", None),
            ("-2.0.0", None),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(Vsn::parse(text), vsn, "{text}");
        }
    }

    #[test]
    fn strings_are_quoted_inline_or_not() {
        for length in [0, 1, 51, 52, 53, 200] {
            let text = "x".repeat(length);
            assert_eq!(RawJson::quoted(&text).as_str(), format!("\"{text}\""));
        }
        assert_eq!(RawJson::quoted("a\"\n").as_str(), "\"a\\\"\\n\"");
        assert!(RawJson::sent("null").is_null());
        assert!(!RawJson::quoted("null").is_null());
    }
}

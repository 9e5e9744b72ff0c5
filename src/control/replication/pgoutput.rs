//! The logical replication protocol of PostgreSQL's own plugin, `pgoutput`, versions 1 and 2 (PostgreSQL manual, 55.9 "Logical
//! Replication Message Formats").
//!
//! What comes in: the bytes of one message. What goes out: a [`Message`] that borrows from them. What always holds: any bytes decode or
//! are refused, without a panic and without more memory than they have themselves (`random_bytes_never_panic`); a message with
//! something behind its end is refused. Deliberately absent: messages of transactions that are still in progress (streaming is never
//! asked for), and what a value means: it stays as the bytes that the server sent.

use super::Lsn;
use std::fmt;

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message<'a> {
    /// A transaction begins; everything up to its [`Commit`] belongs to it.
    Begin(Begin),
    /// The transaction is complete.
    Commit(Commit),
    /// The transaction came from another server by replication.
    Origin {
        /// Where it was committed there.
        commit: Lsn,
        /// That server's name.
        name: &'a str,
    },
    /// What the table of the following changes looks like.
    Relation(Relation),
    /// What a type that is not built in is called.
    Type {
        /// Its `pg_type.oid`.
        oid: u32,
        /// Its schema; empty for `pg_catalog`.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// The table, from its [`Relation`].
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row was changed.
    Update {
        /// The table, from its [`Relation`].
        relation: u32,
        /// What the row was before, where the server says it.
        old: Option<Old<'a>>,
        /// What it is now.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The table, from its [`Relation`].
        relation: u32,
        /// What the row was.
        old: Old<'a>,
    },
    /// Tables were emptied.
    Truncate {
        /// The tables, each from its [`Relation`].
        relations: Vec<u32>,
        /// What depends on them as well.
        cascade: bool,
        /// Their sequences start over.
        restart_identity: bool,
    },
    /// What somebody wrote into the log with `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the transaction around it.
        is_transactional: bool,
        /// Where it stands.
        lsn: Lsn,
        /// What kind it is, by its sender's word.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
}

/// See [`Message::Begin`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Begin {
    /// Where the transaction's commit stands.
    pub commit_lsn: Lsn,
    /// When it was committed, in microseconds since 2000.
    pub committed_at_us: i64,
    /// Its top-level transaction id. Rows of its subtransactions have others.
    pub xid: u32,
}

/// See [`Message::Commit`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Commit {
    /// Where the commit stands.
    pub lsn: Lsn,
    /// Where the commit ends: everything before was seen.
    pub end: Lsn,
    /// When it was committed, in microseconds since 2000.
    pub committed_at_us: i64,
}

/// A table at the moment of a change. A partition comes under its own name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relation {
    /// Its `pg_class.oid`.
    pub id: u32,
    /// Its schema; empty for `pg_catalog`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_class.relreplident`: `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    /// Its columns, in the order of the values in a [`Tuple`].
    pub columns: Vec<Column>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Column {
    /// Whether it is part of the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: String,
    /// Its `pg_type.oid`.
    pub type_oid: u32,
    /// Its type's modifier; -1 for none.
    pub type_modifier: i32,
}

/// A row's values, in the order of the relation's columns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tuple<'a>(pub Vec<Value<'a>>);

/// One value.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An out-of-line value that an update did not touch; the server does not send it.
    Unchanged,
    /// As the type prints itself.
    Text(&'a [u8]),
    /// As the type's `send` function makes it.
    Binary(&'a [u8]),
}

/// What is known of a row as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Old<'a> {
    /// The columns of the replica identity; the others are null.
    Key(Tuple<'a>),
    /// The whole row: the table's replica identity is `full`.
    Row(Tuple<'a>),
}

/// Why bytes are no message: a few words for the log.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// They end too early.
    CutShort,
    /// Something follows the message.
    Trailing,
    /// A name that is not UTF-8.
    NotText,
    /// A kind of message that is not known.
    UnknownMessage(u8),
    /// A kind of row within a message that is not known.
    UnknownTuple(u8),
    /// A kind of value that is not known.
    UnknownValue(u8),
    /// A count below nothing.
    Negative,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |byte: u8| char::from(byte).escape_default();
        match *self {
            Self::CutShort => f.write_str("a replication message is cut short"),
            Self::Trailing => f.write_str("a replication message has bytes behind its end"),
            Self::NotText => f.write_str("a name in a replication message is not UTF-8"),
            Self::UnknownMessage(byte) => {
                write!(
                    f,
                    "a replication message is of the unknown kind {}",
                    kind(byte)
                )
            }
            Self::UnknownTuple(byte) => {
                write!(f, "a replicated row is of the unknown kind {}", kind(byte))
            }
            Self::UnknownValue(byte) => {
                write!(
                    f,
                    "a replicated value is of the unknown kind {}",
                    kind(byte)
                )
            }
            Self::Negative => f.write_str("a replication message has a negative count"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Decodes one message.
///
/// # Errors
///
/// [`DecodeError`]. The stream is not what it is taken for; the caller logs it and goes on with the next message, or starts over.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut input = Input(bytes);
    let message = match input.byte()? {
        b'B' => Message::Begin(Begin {
            commit_lsn: input.lsn()?,
            committed_at_us: input.i64()?,
            xid: input.u32()?,
        }),
        b'C' => {
            input.byte()?;
            Message::Commit(Commit {
                lsn: input.lsn()?,
                end: input.lsn()?,
                committed_at_us: input.i64()?,
            })
        }
        b'O' => Message::Origin {
            commit: input.lsn()?,
            name: input.text()?,
        },
        b'R' => Message::Relation(input.relation()?),
        b'Y' => Message::Type {
            oid: input.u32()?,
            schema: input.text()?,
            name: input.text()?,
        },
        b'I' => {
            let relation = input.u32()?;
            match input.byte()? {
                b'N' => Message::Insert {
                    relation,
                    new: input.tuple()?,
                },
                other => return Err(DecodeError::UnknownTuple(other)),
            }
        }
        b'U' => input.update()?,
        b'D' => {
            let relation = input.u32()?;
            let kind = input.byte()?;
            Message::Delete {
                relation,
                old: input.old(kind)?,
            }
        }
        b'T' => input.truncate()?,
        b'M' => input.logical()?,
        other => return Err(DecodeError::UnknownMessage(other)),
    };
    if input.0.is_empty() {
        Ok(message)
    } else {
        Err(DecodeError::Trailing)
    }
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(DecodeError::CutShort)?;
        self.0 = rest;
        Ok(*chunk)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.chunk().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.chunk().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.chunk().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.chunk().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.chunk().map(i64::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.chunk().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A length, and as many bytes.
    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.i32()?).map_err(|_| DecodeError::Negative)?;
        let (bytes, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::CutShort)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A text that ends with a zero.
    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let end = memchr::memchr(0, self.0).ok_or(DecodeError::CutShort)?;
        let (text, rest) = self.0.split_at_checked(end).ok_or(DecodeError::CutShort)?;
        self.0 = rest.split_first().map_or(rest, |(_zero, rest)| rest);
        std::str::from_utf8(text).map_err(|_| DecodeError::NotText)
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let id = self.u32()?;
        let schema = self.text()?.to_owned();
        let name = self.text()?.to_owned();
        let replica_identity = self.byte()?;
        let count = usize::from(self.u16()?);
        // A column takes ten bytes at least: no count makes this allocate more than a multiple of what came in.
        let mut columns = Vec::with_capacity(count.min(self.0.len() / 10));
        for _ in 0..count {
            columns.push(Column {
                is_key: self.byte()? & 1 == 1,
                name: self.text()?.to_owned(),
                type_oid: self.u32()?,
                type_modifier: self.i32()?,
            });
        }
        Ok(Relation {
            id,
            schema,
            name,
            replica_identity,
            columns,
        })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let count = usize::from(self.u16()?);
        let mut values = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            values.push(match self.byte()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b't' => Value::Text(self.bytes()?),
                b'b' => Value::Binary(self.bytes()?),
                other => return Err(DecodeError::UnknownValue(other)),
            });
        }
        Ok(Tuple(values))
    }

    fn old(&mut self, kind: u8) -> Result<Old<'a>, DecodeError> {
        match kind {
            b'K' => self.tuple().map(Old::Key),
            b'O' => self.tuple().map(Old::Row),
            other => Err(DecodeError::UnknownTuple(other)),
        }
    }

    fn update(&mut self) -> Result<Message<'a>, DecodeError> {
        let relation = self.u32()?;
        let (old, kind) = match self.byte()? {
            kind @ (b'K' | b'O') => (Some(self.old(kind)?), self.byte()?),
            kind => (None, kind),
        };
        match kind {
            b'N' => Ok(Message::Update {
                relation,
                old,
                new: self.tuple()?,
            }),
            other => Err(DecodeError::UnknownTuple(other)),
        }
    }

    fn truncate(&mut self) -> Result<Message<'a>, DecodeError> {
        let count = usize::try_from(self.i32()?).map_err(|_| DecodeError::Negative)?;
        let options = self.byte()?;
        let mut relations = Vec::with_capacity(count.min(self.0.len() / 4));
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate {
            relations,
            cascade: options & 1 == 1,
            restart_identity: options & 2 == 2,
        })
    }

    fn logical(&mut self) -> Result<Message<'a>, DecodeError> {
        Ok(Message::Logical {
            is_transactional: self.byte()? & 1 == 1,
            lsn: self.lsn()?,
            prefix: self.text()?,
            content: self.bytes()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFIX: &[u8] = &[0, 0, 0, 7];

    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn every_kind_of_message_is_decoded() {
        let check = |parts: &[&[u8]], expected: Message<'_>| {
            let whole = bytes(parts);
            assert_eq!(decode(&whole), Ok(expected), "{whole:?}");
            for end in 0..whole.len() {
                assert!(decode(&whole[..end]).is_err(), "{whole:?} cut at {end}");
            }
            let more = bytes(&[&whole, b"x"]);
            assert_eq!(decode(&more), Err(DecodeError::Trailing), "{whole:?}");
        };
        let lsn = [0, 0, 0, 1, 0, 0, 0, 2];
        let at = 5_i64.to_be_bytes();
        let place = Lsn(0x1_0000_0002);
        let begin = Begin {
            commit_lsn: place,
            committed_at_us: 5,
            xid: 7,
        };
        check(&[b"B", &lsn, &at, PREFIX], Message::Begin(begin));
        let commit = Commit {
            lsn: place,
            end: place,
            committed_at_us: 5,
        };
        check(&[b"C\0", &lsn, &lsn, &at], Message::Commit(commit));
        let origin = Message::Origin {
            commit: place,
            name: "o",
        };
        check(&[b"O", &lsn, b"o\0"], origin);
        let kind = Message::Type {
            oid: 7,
            schema: "s",
            name: "t",
        };
        check(&[b"Y", PREFIX, b"s\0t\0"], kind);
        let relation = Message::Relation(Relation {
            id: 7,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            replica_identity: b'd',
            columns: vec![Column {
                is_key: true,
                name: "c".to_owned(),
                type_oid: 7,
                type_modifier: -1,
            }],
        });
        check(
            &[b"R", PREFIX, b"s\0t\0d\0\x01\x01c\0", PREFIX, &[255; 4]],
            relation,
        );
        let row = [b"\0\x04nut\0\0\0\x01xb\0\0\0\x02yz".as_slice()].concat();
        let tuple = || {
            let x = [Value::Null, Value::Unchanged, Value::Text(b"x")];
            Tuple([x.as_slice(), &[Value::Binary(b"yz")]].concat())
        };
        let insert = Message::Insert {
            relation: 7,
            new: tuple(),
        };
        check(&[b"I", PREFIX, b"N", &row], insert);
        for (kind, old) in [
            (b"K".as_slice(), Old::Key(tuple())),
            (b"O", Old::Row(tuple())),
        ] {
            let update = Message::Update {
                relation: 7,
                old: Some(old.clone()),
                new: tuple(),
            };
            check(&[b"U", PREFIX, kind, &row, b"N", &row], update);
            check(
                &[b"D", PREFIX, kind, &row],
                Message::Delete { relation: 7, old },
            );
        }
        let update = Message::Update {
            relation: 7,
            old: None,
            new: tuple(),
        };
        check(&[b"U", PREFIX, b"N", &row], update);
        let truncate = Message::Truncate {
            relations: vec![7, 7],
            cascade: true,
            restart_identity: true,
        };
        check(&[b"T\0\0\0\x02\x03", PREFIX, PREFIX], truncate);
        let logical = Message::Logical {
            is_transactional: true,
            lsn: place,
            prefix: "p",
            content: b"c",
        };
        check(&[b"M\x01", &lsn, b"p\0\0\0\0\x01c"], logical);
    }

    #[test]
    fn what_is_none_is_refused_by_name() {
        let check = |bytes: &[u8], expected| assert_eq!(decode(bytes), Err(expected), "{bytes:?}");
        check(b"", DecodeError::CutShort);
        check(b"S", DecodeError::UnknownMessage(b'S'));
        check(b"I\0\0\0\x07K", DecodeError::UnknownTuple(b'K'));
        check(b"I\0\0\0\x07N\0\x01x", DecodeError::UnknownValue(b'x'));
        check(
            b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xff",
            DecodeError::Negative,
        );
        check(b"T\xff\xff\xff\xff\0", DecodeError::Negative);
        check(b"Y\0\0\0\x07\xff\0\0", DecodeError::NotText);
        check(b"R\0\0\0\x07s\0t\0d\xff\xff", DecodeError::CutShort);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            kind in prop::sample::select(b"BCORYIUDTMSx".to_vec()),
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = decode(&[&[kind], rest.as_slice()].concat());
        }

        #[test]
        fn changed_messages_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), which in 0_usize..3) {
            let mut whole = [
                b"R\0\0\0\x07s\0t\0d\0\x01\x01c\0\0\0\0\x07\xff\xff\xff\xff".to_vec(),
                b"U\0\0\0\x07K\0\x02nuN\0\x02t\0\0\0\x01xb\0\0\0\x02yz".to_vec(),
                b"T\0\0\0\x02\x03\0\0\0\x07\0\0\0\x07".to_vec(),
            ][which].clone();
            let at = at.index(whole.len());
            whole[at] = to;
            let _ = decode(&whole);
        }
    }
}

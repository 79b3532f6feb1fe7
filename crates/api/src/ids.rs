//! Identifiers shared by all floors (protocol.md sections 1 and 2).

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A term of one Primary (R1). 0: none yet.
    Term(u64)
);
number!(
    /// Number of a log entry, dense from 1; 0: before the first.
    LogIndex(u64)
);
number!(
    /// etcd's main revision: moves with key changes only; 1 in an empty store.
    Revision(i64)
);
number!(
    /// Number of a chunk in the object log, dense from 1; 0: before the first.
    ChunkSeq(u64)
);
number!(
    /// The number of mutations in the log up to and with this one: where a mutation's record is
    /// found. The same on every node, as it follows from the log alone. 0: before the first.
    Position(u64)
);
number!(
    /// A lease; never 0 once granted.
    LeaseId(i64)
);
number!(
    /// Wall-clock milliseconds since 1970, of the Primary that made an entry.
    UnixMillis(i64)
);

macro_rules! token {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(InvalidId(format!(
                        concat!(stringify!($name), " {:?} is not 32 hexadecimal digits"),
                        text
                    )));
                }
                u128::from_str_radix(text, 16)
                    .map($name)
                    .map_err(|e| InvalidId(e.to_string()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

token!(
    /// Random, made with a node's database: a node without its old database is a new incarnation (R11).
    Incarnation
);
token!(
    /// Random per process start, never stored locally: a restarted process needs a new term (R1).
    Session
);
token!(
    /// Random per write of a compare-and-swapped object, so that contents never repeat (R1).
    Nonce
);

/// Why a text is no valid identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidId(pub String);

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidId {}

/// The most characters a cluster id or node id may have.
pub const NAME_CHARS_MAX: usize = 32;

/// Checks the rule for cluster and node ids: lower-case letters, digits and single hyphens inside,
/// at most [`NAME_CHARS_MAX`].
pub fn check_name(what: &str, name: &str) -> Result<(), InvalidId> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends_ok = bytes.first().copied().is_some_and(inner) && bytes.last().copied().is_some_and(inner);
    let all_ok = bytes.iter().all(|&b| inner(b) || b == b'-');
    if !ends_ok || !all_ok || name.contains("--") || name.len() > NAME_CHARS_MAX {
        return Err(InvalidId(format!(
            "{what} {name:?} is not valid: use at most {NAME_CHARS_MAX} lower-case letters, digits and single hyphens, \
             beginning and ending with a letter or digit"
        )));
    }
    Ok(())
}

/// A node's name, unique in its cluster; checked by [`check_name`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeId(String);

impl NodeId {
    /// Checks `name` and makes it a node id.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidId> {
        let name = name.into();
        check_name("node id", &name)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        NodeId::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Names: bytes with a readable `Debug`.

use std::fmt;
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Any non-empty bytes. A driver refuses what its backend cannot store with
        /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput). Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<[u8]>);

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// The text, where the bytes are UTF-8.
            pub fn as_str(&self) -> Option<&str> {
                std::str::from_utf8(&self.0).ok()
            }

            /// Refuses the empty name.
            pub(crate) fn checked(self) -> Result<Self> {
                if self.0.is_empty() {
                    return Err(Error::invalid(concat!("the ", $what, " is empty")));
                }
                Ok(self)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.as_bytes().into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into_bytes().into())
            }
        }

        impl From<&String> for $name {
            fn from(text: &String) -> Self {
                Self(text.as_bytes().into())
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(bytes.into())
            }
        }

        impl<const N: usize> From<&[u8; N]> for $name {
            fn from(bytes: &[u8; N]) -> Self {
                Self(bytes.as_slice().into())
            }
        }

        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes.into())
            }
        }

        impl From<&$name> for $name {
            fn from(name: &$name) -> Self {
                name.clone()
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                Self::from(number.to_string())
            }
        }

        /// A string if the bytes are text, otherwise bytes; a format without bytes writes a sequence
        /// of numbers.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                match self.as_str() {
                    Some(text) => serializer.serialize_str(text),
                    None => serializer.serialize_bytes(&self.0),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                deserializer.deserialize_any(NameVisitor).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.escape_ascii_unless_utf8())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(\"{}\")"), self)
            }
        }
    };
}

name!(
    /// The id of a member: unique among the processes that share a backend.
    MemberId,
    "member id"
);
name!(
    /// The id of a group.
    GroupId,
    "group id"
);
name!(
    /// The name of a lock.
    LockName,
    "lock name"
);

/// Reads what [`MemberId`] and the like write, and numbers.
struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Arc<[u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name: text, bytes or a whole number")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(text.as_bytes().into())
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> std::result::Result<Self::Value, E> {
        Ok(bytes.into())
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Self::Value, E> {
        Ok(number.to_string().into_bytes().into())
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Self::Value, E> {
        Ok(number.to_string().into_bytes().into())
    }

    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut bytes: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut name = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            name.push(byte);
        }
        Ok(name.into())
    }
}

trait Readable {
    fn escape_ascii_unless_utf8(&self) -> std::borrow::Cow<'_, str>;
}

impl Readable for [u8] {
    /// Text as it is, and anything else with its odd bytes escaped.
    fn escape_ascii_unless_utf8(&self) -> std::borrow::Cow<'_, str> {
        match std::str::from_utf8(self) {
            Ok(text) if !text.contains(char::is_control) => text.into(),
            _ => self.escape_ascii().to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_readable() {
        assert_eq!(format!("{:?}", MemberId::from("host-1")), "MemberId(\"host-1\")");
        assert_eq!(format!("{:?}", GroupId::from(b"a\xff")), "GroupId(\"a\\xff\")");
        assert_eq!(LockName::from("büro").to_string(), "büro");
        assert_eq!(LockName::from("a\nb").to_string(), "a\\nb");
    }

    #[test]
    fn names_pass_through_serde_whatever_their_bytes() {
        for name in [GroupId::from("büro"), GroupId::from(b"a\xff"), GroupId::from(17)] {
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<GroupId>(&json).unwrap(), name, "{json}");
            let packed = rmp_serde::to_vec(&name).unwrap();
            assert_eq!(rmp_serde::from_slice::<GroupId>(&packed).unwrap(), name);
        }
        assert_eq!(serde_json::to_string(&MemberId::from("host-1")).unwrap(), "\"host-1\"");
        assert_eq!(serde_json::from_str::<MemberId>("17").unwrap(), MemberId::from(17));
        assert!(serde_json::from_str::<MemberId>("{}").is_err());
    }

    #[test]
    fn empty_names_are_refused() {
        assert!(LockName::from("").checked().is_err());
        assert!(LockName::from("x").checked().is_ok());
    }
}

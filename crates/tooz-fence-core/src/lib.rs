//! What a resource needs to know of a holder in order to refuse a stale one: [`Fence`].
//!
//! A crate of its own, so that a resource can check fences without the engine of `tooz`, and an
//! application that takes locks needs no resource's client. `tooz` and `tooz-fence` show it again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// What is held, and the fencing token of this holding of it: made by `guard.fence()` of a lock's
/// guard, a term or a partition.
///
/// A resource keeps the highest token for each [name](FenceName), and refuses a lower one. Since the
/// name is in it, the token of one lock cannot be taken for that of another.
///
/// It is 24 bytes, `Copy`, and the same in every process and language: as text, and in `serde`'s
/// formats, it is the name, a colon and the token in decimal.
///
/// ```
/// use tooz_fence_core::{Fence, FenceName};
/// let fence = Fence::new(FenceName::of_lock("inventory"), 42);
/// assert_eq!(fence.to_string(), "66e951361eea001a0bf4864086256756:42");
/// assert_eq!(fence, "66e951361eea001a0bf4864086256756:42".parse().unwrap());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    name: FenceName,
    token: u64,
}

/// Which lock or term a fence is of: a digest of its kind and name.
///
/// Its 16 bytes are the first 16 of the SHA-256 of the kind, a colon and the name: `lock:inventory`
/// for the lock `inventory`, `term:workers` for the leadership of the group `workers`. A partition's
/// is that of its lock. As text it is 32 lower-case hexadecimal digits:
///
/// ```text
/// $ printf lock:inventory | sha256sum | cut -c 1-32
/// 66e951361eea001a0bf4864086256756
/// ```
///
/// It says nothing of the backend or of its namespace, so that a move to another backend changes
/// nothing at the resource. Services that share a resource, and not a backend, choose names of locks
/// that differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceName([u8; 16]);

/// A text that is no fence, or no name of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(&'static str);

impl Fence {
    /// A fence of that name and token. Of a lock that is held, `guard.fence()` makes it.
    pub fn new(name: FenceName, token: u64) -> Self {
        Self { name, token }
    }

    /// Which lock or term it is of.
    pub fn name(&self) -> FenceName {
        self.name
    }

    /// The fencing token, which rises with each acquisition of that lock or term.
    pub fn token(&self) -> u64 {
        self.token
    }
}

impl FenceName {
    /// That of a lock.
    ///
    /// ```
    /// use tooz_fence_core::FenceName;
    /// let name = FenceName::of_lock("inventory");
    /// assert_eq!(name.to_string(), "66e951361eea001a0bf4864086256756");
    /// assert_ne!(name, FenceName::of_term("inventory"));
    /// ```
    pub fn of_lock(name: impl AsRef<[u8]>) -> Self {
        Self::of("lock", name.as_ref())
    }

    /// That of the leadership of a group.
    pub fn of_term(group: impl AsRef<[u8]>) -> Self {
        Self::of("term", group.as_ref())
    }

    /// Its 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    // No kind has a colon, so no kind and name spell another kind and name.
    fn of(kind: &str, name: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(kind).chain_update(":").chain_update(name);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finalize()[..16]);
        Self(bytes)
    }
}

impl fmt::Display for FenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for FenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FenceName({self})")
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.token)
    }
}

impl FromStr for FenceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let digits = text.len() == 32 && text.bytes().all(is_digit);
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        let number = number.ok_or(ParseError("a name is 32 lower-case hexadecimal digits"))?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl FromStr for Fence {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (name, digits) = text.split_once(':').ok_or(ParseError("a fence is NAME:TOKEN"))?;
        // One spelling for each number: no sign, no zero in front.
        let token = digits.parse().ok().filter(|token: &u64| token.to_string() == digits);
        let token = token.ok_or(ParseError("a token is a decimal number below 2^64"))?;
        Ok(Self { name: name.parse()?, token })
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a fence: {}", self.0)
    }
}

impl std::error::Error for ParseError {}

macro_rules! as_text {
    ($($type:ident)*) => {$(
        /// As its text.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(Fence FenceName);

#[cfg(test)]
mod tests {
    use super::*;

    /// What other languages compute: `printf 'term:workers' | sha256sum | cut -c 1-32`.
    #[test]
    fn names_are_the_same_everywhere() {
        for (name, text) in [
            (FenceName::of_lock("inventory"), "66e951361eea001a0bf4864086256756"),
            (FenceName::of_term("workers"), "244563ab7232ebcf30ee2ebabe569580"),
            (FenceName::of_lock(b"a\xff\0"), "a30daede8b956a08c77a39171c13fcb3"),
        ] {
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(name));
        }
    }

    #[test]
    fn kinds_and_names_are_not_mixed_up() {
        let all = [
            FenceName::of_lock("a"),
            FenceName::of_term("a"),
            FenceName::of_lock("term:a"),
            FenceName::of_lock(":a"),
            FenceName::of_lock(""),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
    }

    #[test]
    fn fences_pass_through_serde() {
        for token in [0, 1, (1 << 53) + 1, u64::MAX] {
            let fence = Fence::new(FenceName::of_lock("inventory"), token);
            let json = serde_json::to_string(&fence).unwrap();
            assert_eq!(json, format!("\"66e951361eea001a0bf4864086256756:{token}\""));
            assert_eq!(serde_json::from_str::<Fence>(&json).unwrap(), fence);
        }
    }

    #[test]
    fn what_is_no_fence_is_refused() {
        let name = "66e951361eea001a0bf4864086256756";
        for token in ["", "+1", "01", "-1", "1 ", "18446744073709551616", "1:2"] {
            assert!(format!("{name}:{token}").parse::<Fence>().is_err(), "{token}");
        }
        for name in ["", &name[1..], &name.to_uppercase(), "+6e951361eea001a0bf4864086256756"] {
            assert!(format!("{name}:1").parse::<Fence>().is_err(), "{name}");
        }
        assert!(name.parse::<Fence>().is_err());
    }
}

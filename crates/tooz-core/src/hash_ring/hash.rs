//! The hash functions that a ring can use.

use std::fmt;
use std::str::FromStr;

use sha2::Digest;

use crate::{Error, Result};

/// One row for each hash function: the variant, its name in Python's `hashlib`, its type.
macro_rules! hashes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $digest:ty,)*) => {
        /// The hash function of a [`HashRing`](super::HashRing), by the names of Python's
        /// `hashlib`.
        ///
        /// Rings agree only where their hash functions do. The choice is about agreement and
        /// speed, not security: MD5, the default, is also the default of a Python ring.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Hash {
            $($(#[$doc])* $variant,)*
        }

        impl Hash {
            /// Every hash function there is.
            pub const ALL: &[Hash] = &[$(Hash::$variant,)*];

            /// Its name in Python's `hashlib`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Hash::$variant => $name,)*
                }
            }

            /// Where `key` lies on the ring.
            #[inline]
            pub(super) fn position(self, key: &[u8]) -> u128 {
                match self {
                    $(Hash::$variant => leading_bits(&<$digest>::digest(key)),)*
                }
            }

            /// Passes the first `count` points of the node named `id` to `point`.
            pub(super) fn points(self, id: &[u8], count: u64, point: impl FnMut(u128)) {
                match self {
                    $(Hash::$variant => chain::<$digest>(id, count, point),)*
                }
            }
        }
    };
}

hashes! {
    /// MD5.
    #[default]
    Md5 = "md5": md5::Md5,
    /// SHA-1.
    Sha1 = "sha1": sha1::Sha1,
    /// SHA-224.
    Sha224 = "sha224": sha2::Sha224,
    /// SHA-256.
    Sha256 = "sha256": sha2::Sha256,
    /// SHA-384.
    Sha384 = "sha384": sha2::Sha384,
    /// SHA-512.
    Sha512 = "sha512": sha2::Sha512,
    /// SHA-512/224.
    Sha512_224 = "sha512_224": sha2::Sha512_224,
    /// SHA-512/256.
    Sha512_256 = "sha512_256": sha2::Sha512_256,
    /// BLAKE2b with 64 bytes of output.
    Blake2b = "blake2b": blake2::Blake2b512,
    /// BLAKE2s with 32 bytes of output.
    Blake2s = "blake2s": blake2::Blake2s256,
    /// SHA3-224.
    Sha3_224 = "sha3_224": sha3::Sha3_224,
    /// SHA3-256.
    Sha3_256 = "sha3_256": sha3::Sha3_256,
    /// SHA3-384.
    Sha3_384 = "sha3_384": sha3::Sha3_384,
    /// SHA3-512.
    Sha3_512 = "sha3_512": sha3::Sha3_512,
}

impl Hash {
    /// The hash function that Python's `hashlib` calls `name`.
    ///
    /// Case does not matter, and `-` may stand for `_`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), listing the known names.
    ///
    /// ```
    /// use tooz_core::hash_ring::Hash;
    ///
    /// assert_eq!(Hash::from_name("sha256")?, Hash::Sha256);
    /// assert_eq!("sha3-256".parse::<Hash>()?, Hash::Sha3_256);
    /// assert!(Hash::from_name("crc32").is_err());
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn from_name(name: &str) -> Result<Self> {
        let wanted = name.to_ascii_lowercase().replace('-', "_");
        Self::ALL.iter().copied().find(|hash| hash.name() == wanted).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|hash| hash.name()).collect();
            Error::invalid(format!("unknown hash function; known are {}", known.join(", ")))
                .with("hash", name)
        })
    }
}

impl FromStr for Hash {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::from_name(name)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Point `r` of a node is the digest of its id repeated `r + 1` times, so one running state
/// gives them all: the digest of the id alone is not a point.
fn chain<D: Digest + Clone>(id: &[u8], count: u64, mut point: impl FnMut(u128)) {
    let mut state = D::new_with_prefix(id);
    for _ in 0..count {
        state.update(id);
        point(leading_bits(&state.clone().finalize()));
    }
}

/// The first 128 bits, big-endian: all of MD5, and enough of the others (see the module).
#[inline]
fn leading_bits(digest: &[u8]) -> u128 {
    digest.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for &hash in Hash::ALL {
            assert_eq!(Hash::from_name(hash.name()).unwrap(), hash);
            assert_eq!(hash.to_string().to_uppercase().parse::<Hash>().unwrap(), hash);
        }
        assert_eq!(Hash::default(), Hash::Md5);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let text = Hash::from_name("shake_128").unwrap_err().to_string();
        assert!(text.contains("hash=shake_128"), "{text}");
        assert!(Hash::ALL.iter().all(|hash| text.contains(hash.name())), "{text}");
    }

    #[test]
    fn points_are_digests_of_the_repeated_id() {
        for &hash in Hash::ALL {
            let mut points = Vec::new();
            hash.points(b"ab", 3, |point| points.push(point));
            let direct = [b"abab".as_slice(), b"ababab", b"abababab"].map(|k| hash.position(k));
            assert_eq!(points, direct, "{hash}");
        }
    }
}

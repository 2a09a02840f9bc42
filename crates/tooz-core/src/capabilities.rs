//! The data that a member publishes about itself.

use std::fmt;
use std::sync::Arc;

use rmpv::Value;
use rmpv::decode::{Error as DecodeError, read_value_with_max_depth};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

const NIL: &[u8] = &[0xc0];
/// How the original wrote "none" up to 8.1.
const EMPTY_BIN: &[u8] = &[0xc4, 0x00];

/// A member's capabilities: any serde value, as msgpack on the wire, byte for byte what the
/// original writes.
///
/// ```
/// use tooz_core::Capabilities;
///
/// let capabilities = Capabilities::encode(&serde_json::json!({"weight": 1}))?;
/// assert_eq!(capabilities.as_msgpack(), b"\x81\xa6weight\x01");
/// let back: serde_json::Value = capabilities.decode()?;
/// assert_eq!(back["weight"], 1);
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Capabilities(Arc<[u8]>);

impl Capabilities {
    /// No capabilities: nil on the wire.
    pub fn none() -> Self {
        Self(NIL.into())
    }

    /// How deep maps and arrays may be nested. Deeper data from a peer is not read: reading
    /// takes stack, and one member's data must not end another's process.
    pub const MAX_DEPTH: usize = 64;

    /// The same limit as `rmpv` counts it, where each level is two: for a driver that reads
    /// capabilities as a part of something larger.
    pub const READ_DEPTH: usize = 2 * Self::MAX_DEPTH + 1;

    /// Encodes a value. Structs become maps; `()` and `None` become nil.
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`] when the value cannot be encoded, is nested deeper than
    /// [`MAX_DEPTH`](Self::MAX_DEPTH), has an integer beyond 64 bits, or has a map whose keys are
    /// neither text nor bytes: a Python peer could not read it.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let refuse = |what: String| Error::new(ErrorKind::Serialization, what);
        let unencodable = || refuse("the capabilities cannot be encoded".into());
        let mut bytes = Vec::new();
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        serializer.unstable_set_max_depth(Self::MAX_DEPTH);
        value.serialize(&mut serializer).map_err(|e| unencodable().caused_by(e))?;
        // The encoder writes 128-bit integers as plain bytes; this check refuses them.
        rmpv::ext::to_value(value).map_err(|e| unencodable().caused_by(e))?;
        if let Some(key) = odd_key(&read(&bytes)?) {
            return Err(refuse(format!(
                "the capabilities have the map key {key}; use text or bytes as keys"
            )));
        }
        Ok(Self(bytes.into()))
    }

    /// Decodes the value. "None" of either kind reads as nil: `()` or `None`.
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`] when the stored bytes are not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let bytes = if self.is_none() { NIL } else { &self.0 };
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        deserializer.set_max_depth(Self::MAX_DEPTH + 1);
        T::deserialize(&mut deserializer).map_err(|e| {
            Error::new(ErrorKind::Serialization, "the capabilities are of another type")
                .with("capabilities", self)
                .caused_by(e)
        })
    }

    /// The value in msgpack's own terms, which can express everything that a peer can have written.
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`] when the stored bytes are not msgpack.
    pub fn to_value(&self) -> Result<Value> {
        if self.is_none() { Ok(Value::Nil) } else { read(&self.0) }
    }

    /// The form that a backend has stored. Nothing is checked: a peer's odd data must not hide the
    /// member.
    pub fn from_msgpack(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::none() } else { Self(bytes) }
    }

    /// The encoded form.
    pub fn as_msgpack(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none: nil, or the empty bytes that the original wrote up to 8.1.
    pub fn is_none(&self) -> bool {
        *self.0 == *NIL || *self.0 == *EMPTY_BIN
    }
}

fn read(mut bytes: &[u8]) -> Result<Value> {
    let refuse = |what: &str| Error::new(ErrorKind::Serialization, what);
    let value =
        read_value_with_max_depth(&mut bytes, Capabilities::READ_DEPTH).map_err(|e| match e {
            DecodeError::DepthLimitExceeded => refuse("the capabilities are nested too deeply")
                .with("at most", Capabilities::MAX_DEPTH),
            e => refuse("the capabilities are not msgpack").caused_by(e),
        })?;
    if !bytes.is_empty() {
        return Err(refuse("the capabilities have bytes after their end"));
    }
    Ok(value)
}

fn odd_key(value: &Value) -> Option<&Value> {
    match value {
        Value::Map(pairs) => pairs.iter().find_map(|(key, value)| match key {
            Value::String(_) | Value::Binary(_) => odd_key(value),
            _ => Some(key),
        }),
        Value::Array(items) => items.iter().find_map(odd_key),
        _ => None,
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_value() {
            Ok(value) => write!(f, "{value}"),
            Err(_) => write!(f, "{} bytes that cannot be read", self.0.len()),
        }
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_none_are_none() {
        for stored in [&[0xc0][..], &[0xc4, 0], &[]] {
            let none = Capabilities::from_msgpack(stored);
            assert!(none.is_none());
            assert_eq!(none.decode::<Option<u8>>().unwrap(), None);
        }
        assert_eq!(Capabilities::encode(&()).unwrap(), Capabilities::none());
        assert!(!Capabilities::encode(&serde_json::json!({})).unwrap().is_none());
    }

    #[test]
    fn structs_are_maps_and_keep_their_order() {
        #[derive(Serialize)]
        struct Worker {
            weight: u32,
            host: &'static str,
        }
        let stored = Capabilities::encode(&Worker { weight: 3, host: "höst" }).unwrap();
        assert_eq!(stored.as_msgpack(), b"\x82\xa6weight\x03\xa4host\xa5h\xc3\xb6st");
    }

    #[test]
    fn what_python_cannot_read_is_refused() {
        let odd = std::collections::BTreeMap::from([(1, 2)]);
        let error = Capabilities::encode(&odd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Serialization);
        assert!(error.to_string().contains("map key 1"), "{error}");
    }

    #[test]
    fn integers_that_the_format_has_not_are_refused() {
        #[derive(Serialize)]
        struct Worker<T> {
            weight: T,
        }
        for error in [
            Capabilities::encode(&Worker { weight: 5u128 }).unwrap_err(),
            Capabilities::encode(&Worker { weight: Some(-5i128) }).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Serialization);
            assert!(format!("{error:?}").contains("128 is not supported"), "{error:?}");
        }
        let most = Capabilities::encode(&Worker { weight: u64::MAX }).unwrap();
        assert_eq!(most.decode::<serde_json::Value>().unwrap()["weight"], u64::MAX);
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused_and_not_read() {
        /// A list in a list, so many times.
        fn nested(depth: usize) -> Capabilities {
            let lists = std::iter::repeat_n(0x91, depth);
            Capabilities::from_msgpack(lists.chain([0xc0]).collect::<Vec<u8>>())
        }
        // On a small stack, as a thread of the user's may have.
        let small = std::thread::Builder::new().stack_size(512 * 1024);
        let read = small.spawn(|| {
            let deepest = nested(Capabilities::MAX_DEPTH);
            assert!(deepest.to_value().is_ok());
            assert!(deepest.decode::<serde_json::Value>().is_ok());
            for depth in [Capabilities::MAX_DEPTH + 1, 511, 1_000_000] {
                let error = nested(depth).to_value().unwrap_err().to_string();
                assert!(error.contains("nested too deeply (at most=64"), "{error}");
                assert!(nested(depth).decode::<serde_json::Value>().is_err());
                assert!(nested(depth).to_string().contains("cannot be read"));
            }
            let mut value = serde_json::Value::Null;
            for _ in 0..=Capabilities::MAX_DEPTH {
                value = serde_json::json!([value]);
            }
            assert_eq!(Capabilities::encode(&value).unwrap_err().kind(), ErrorKind::Serialization);
        });
        read.unwrap().join().unwrap();
    }

    #[test]
    fn a_peers_extension_types_are_kept() {
        let uuid = b"\x81\xa1u\xc7\x20\x0000000000000000000000000000000001";
        let stored = Capabilities::from_msgpack(&uuid[..]);
        let Value::Map(pairs) = stored.to_value().unwrap() else { panic!("not a map") };
        assert!(matches!(&pairs[0].1, Value::Ext(0, text) if text.len() == 32));
    }
}

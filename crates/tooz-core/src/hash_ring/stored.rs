//! Rings through `serde`: points, hash, nodes and weights. The points are computed again.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Hash, HashRing};
use crate::MemberId;

#[derive(Serialize, Deserialize)]
struct Stored {
    points: u32,
    hash: Hash,
    nodes: Vec<StoredNode>,
}

#[derive(Serialize, Deserialize)]
struct StoredNode {
    id: StoredId,
    weight: u32,
}

/// An id: bytes, but text in a human-readable format if it is UTF-8.
struct StoredId(MemberId);

impl Serialize for HashRing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nodes = self.weights();
        let nodes = nodes.map(|(id, weight)| StoredNode { id: StoredId(id.clone()), weight });
        let (points, hash) = (self.points_per_weight, self.hash);
        Stored { points, hash, nodes: nodes.collect() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HashRing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        let mut ring = HashRing::with(stored.points, stored.hash);
        let nodes = stored.nodes.into_iter().map(|node| (node.id.0, node.weight));
        ring.add_all(nodes).map_err(D::Error::custom)?;
        Ok(ring)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Hash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a hash function")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Hash, E> {
                Hash::from_name(name).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Name)
    }
}

impl Serialize for StoredId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_str() {
            Some(text) if serializer.is_human_readable() => serializer.serialize_str(text),
            _ => serializer.serialize_bytes(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for StoredId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrBytes;

        impl<'de> Visitor<'de> for TextOrBytes {
            type Value = StoredId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a node, as text or bytes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StoredId, E> {
                Ok(StoredId(text.into()))
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<StoredId, E> {
                Ok(StoredId(bytes.into()))
            }

            // How JSON writes bytes.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StoredId, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element::<u8>()? {
                    bytes.push(byte);
                }
                Ok(StoredId(bytes.into()))
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(TextOrBytes)
        } else {
            deserializer.deserialize_byte_buf(TextOrBytes)
        }
    }
}

//! A consistent hash ring: which node is responsible for which key.
//!
//! [`HashRing`] works alone: no coordinator, no backend, no async. It places keys exactly as the
//! ring of the Python original does, so that members written in either language agree on who
//! owns what.
//!
//! # How keys are placed
//!
//! Every node puts `points × weight` points on a circle: point *r* is the hash of the node's
//! id repeated *r* + 1 times, read as a big-endian number. A key lies where its own hash points,
//! and belongs to the node of the first point *after* it, going round at the end. Adding or
//! removing a node therefore moves only the keys it gains or loses.
//!
//! Positions here are the leading 128 bits of the hash. That is all of MD5; for a longer hash the
//! rest could matter only where a key and a point, or two points, agree in 128 bits by chance: for
//! the largest ring, less than once in 10³¹ lookups.
//!
//! # Where it departs from Python
//!
//! - Adding a node that is already there changes its weight and nothing else. Python keeps the old
//!   points of a node that is re-added with less weight, and returns it even after its removal.
//! - A node of weight 0 takes no keys. Python then fails with an `IndexError`, or loops for ever.
//! - Nodes can collide on a point, as `1` and `11` do: `1` repeated four times is `11` repeated
//!   twice. The node whose id is greater in byte order owns it, whatever the order in which the nodes
//!   were added; when it leaves, the other one owns it. In Python the node added last owns it, and
//!   removing either breaks the ring. So both agree if a Python ring's nodes were added in ascending
//!   order.
//! - Several nodes for a key are returned in ring order, owner first, not as an unordered set.

mod diff;
mod hash;
mod points;
mod stored;
mod walk;

use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, MemberId, Result};

pub use diff::{Diff, KeyRange, Move};
pub use hash::Hash;
use points::{Point, Points};
pub use walk::Walk;

/// A consistent hash ring over weighted nodes.
///
/// A lookup costs one hash of the key and a search in constant expected time. A change of nodes
/// costs the hashing of the points concerned and one pass over all points, O(n): to add many
/// nodes, use [`add_all`](Self::add_all). A ring takes about 31 bytes a point
/// (`points × weight` for each node), and up to twice that after it has grown.
///
/// Rings are equal when they place alike: the same hash, points, nodes and weights.
///
/// ```
/// use tooz_core::hash_ring::HashRing;
///
/// let mut ring = HashRing::new();
/// ring.add("m1")?;
/// ring.add("m2")?;
/// ring.add_with_weight("m3", 2)?;
///
/// let owner = ring.node("volume-17");
/// let replicas = ring.nodes("volume-17", 2, &[]);
/// assert_eq!(replicas.len(), 2);
/// assert_eq!(owner, Some(replicas[0]));
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Clone)]
pub struct HashRing {
    points_per_weight: u32,
    hash: Hash,
    /// Sorted by id, so that the order of indexes is the order of ids.
    nodes: Vec<Node>,
    points: Points,
}

#[derive(Clone, PartialEq, Eq)]
struct Node {
    id: MemberId,
    weight: u32,
}

impl HashRing {
    /// The default number of points of a node per unit of weight: 32, as in Python.
    pub const DEFAULT_POINTS: u32 = 32;

    /// The most points a ring takes: 2²⁴, some 450 MB, and twice that while they are made.
    ///
    /// Weights often come from other members: an absurd one is an error, and does not exhaust memory.
    pub const MAX_POINTS: u64 = 1 << 24;

    /// An empty ring with 32 points for each unit of weight that hashes with MD5.
    pub fn new() -> Self {
        Self::with(Self::DEFAULT_POINTS, Hash::default())
    }

    /// An empty ring that places `points` points for each unit of a node's weight.
    ///
    /// More points spread keys more evenly and cost memory. With 0, no node takes any key.
    ///
    /// ```
    /// use tooz_core::hash_ring::{Hash, HashRing};
    ///
    /// let mut ring = HashRing::with(64, Hash::Sha256);
    /// ring.add("m1")?;
    /// assert_eq!(ring.point_count(), 64);
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn with(points: u32, hash: Hash) -> Self {
        Self { points_per_weight: points, hash, nodes: Vec::new(), points: Points::default() }
    }

    /// The points of a node per unit of weight.
    pub fn points_per_weight(&self) -> u32 {
        self.points_per_weight
    }

    /// The hash function.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Adds a node with weight 1, or gives a node that is already there weight 1.
    ///
    /// # Errors
    ///
    /// The same as those of [`add_all`](Self::add_all).
    pub fn add(&mut self, node: impl Into<MemberId>) -> Result<()> {
        self.add_with_weight(node, 1)
    }

    /// Adds a node that takes `weight` times the keys of a node with weight 1, on average.
    ///
    /// A node that is already there gets the new weight, as if it had been added with it. With
    /// weight 0 a node is in the ring but takes no keys.
    ///
    /// # Errors
    ///
    /// The same as those of [`add_all`](Self::add_all).
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_with_weight("m1", 3)?;
    /// ring.add_with_weight("m1", 1)?;
    /// assert_eq!(ring.weight("m1"), Some(1));
    /// assert_eq!(ring.point_count(), 32);
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn add_with_weight(&mut self, node: impl Into<MemberId>, weight: u32) -> Result<()> {
        self.add_all([(node, weight)])
    }

    /// Adds or re-weights several nodes at once; for a node named twice, the last weight counts.
    ///
    /// Much cheaper than one by one: O(k log k) for k new points, and one pass over the rest.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the ring would grow beyond
    /// [`MAX_POINTS`](Self::MAX_POINTS), each node counting as at least one point. The ring is
    /// then unchanged.
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_all([("m1", 1), ("m2", 2)])?;
    /// assert_eq!(ring.point_count(), 96);
    /// assert!(ring.add_with_weight("m3", u32::MAX).is_err());
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn add_all<N: Into<MemberId>>(
        &mut self,
        nodes: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<()> {
        self.change(nodes.into_iter().map(|(node, weight)| (node.into(), Some(weight))).collect())
    }

    /// Removes a node.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), naming the node, if it is not in the
    /// ring.
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add("m1")?;
    /// ring.remove("m1")?;
    /// assert_eq!(ring.node("volume-17"), None);
    /// assert!(ring.remove("m1").is_err());
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn remove(&mut self, node: impl AsRef<[u8]>) -> Result<()> {
        let node = MemberId::from(node.as_ref());
        if !self.contains(&node) {
            return Err(Error::invalid("the node is not in the ring").with("node", node));
        }
        self.change(BTreeMap::from([(node, None)]))
    }

    /// Replaces all nodes by these.
    pub(crate) fn become_of(&mut self, weights: BTreeMap<MemberId, u32>) -> Result<()> {
        let gone = self.nodes.iter().filter(|node| !weights.contains_key(&node.id));
        let gone: Vec<_> = gone.map(|node| (node.id.clone(), None)).collect();
        let wanted = weights.into_iter().map(|(id, weight)| (id, Some(weight)));
        self.change(wanted.chain(gone).collect())
    }

    /// Sets the weight of each given node, or removes it (`None`): the one place that changes a
    /// ring.
    fn change(&mut self, mut changes: BTreeMap<MemberId, Option<u32>>) -> Result<()> {
        // Each node as it will be, with its present index if its points stay.
        let mut nodes = Vec::with_capacity(self.nodes.len() + changes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            match changes.remove(&node.id) {
                None => nodes.push((node.clone(), Some(index))),
                Some(Some(weight)) if weight == node.weight => {
                    nodes.push((node.clone(), Some(index)));
                }
                Some(Some(weight)) => nodes.push((Node { id: node.id.clone(), weight }, None)),
                Some(None) => {}
            }
        }
        let added =
            changes.into_iter().filter_map(|(id, weight)| Some(Node { id, weight: weight? }));
        nodes.extend(added.map(|node| (node, None)));
        nodes.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));

        let points = nodes.iter().map(|(node, _)| self.points_of(node).max(1));
        let total = points.fold(0, u64::saturating_add);
        if total > Self::MAX_POINTS {
            return Err(Error::invalid("the weights make too many points for a hash ring")
                .with("points", total)
                .with("at most", Self::MAX_POINTS));
        }

        // No index exceeds MAX_POINTS, so u32 holds it.
        let mut new_index = vec![None; self.nodes.len()];
        let mut fresh = Vec::new();
        for (index, (node, old_index)) in (0..).zip(&nodes) {
            match *old_index {
                Some(old) => new_index[old] = Some(index),
                None => self.hash.points(node.id.as_bytes(), self.points_of(node), |position| {
                    fresh.push(Point::new(position, index));
                }),
            }
        }
        self.points.change(&new_index, fresh);
        self.nodes = nodes.into_iter().map(|(node, _)| node).collect();
        Ok(())
    }

    fn points_of(&self, node: &Node) -> u64 {
        u64::from(self.points_per_weight) * u64::from(node.weight)
    }

    /// The node that owns `key`, or `None` if no node takes keys. Allocates nothing.
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// assert_eq!(ring.node("foo"), None);
    /// ring.add_all([("m1", 1), ("m2", 1), ("m3", 1)])?;
    /// assert_eq!(ring.node("foo"), Some(&"m3".into()));
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    #[inline]
    pub fn node(&self, key: impl AsRef<[u8]>) -> Option<&MemberId> {
        let after = self.points.after(self.position(key));
        self.points.as_slice().get(after).map(|point| self.owner(*point))
    }

    /// The first `replicas` nodes for `key` that are not in `ignore`, in ring order.
    ///
    /// Without `ignore`, the first is the key's owner. Fewer are returned if the ring has no
    /// more nodes that take keys. [`walk`](Self::walk) gives the same nodes one by one.
    ///
    /// ```
    /// use tooz_core::{MemberId, hash_ring::HashRing};
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_all([("m1", 1), ("m2", 1), ("m3", 1)])?;
    /// let [m1, m3] = [MemberId::from("m1"), MemberId::from("m3")];
    /// assert_eq!(ring.nodes("foo", 2, &[]), [&m3, &m1]);
    /// assert_eq!(ring.nodes("foo", 1, &[m3]), [&m1]);
    /// assert_eq!(ring.nodes("foo", 10, &[]).len(), 3);
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn nodes(
        &self,
        key: impl AsRef<[u8]>,
        replicas: usize,
        ignore: &[MemberId],
    ) -> Vec<&MemberId> {
        let mut walk = self.walk(key);
        for node in ignore {
            walk.skip_node(node);
        }
        walk.take(replicas).collect()
    }

    /// Walks the ring clockwise from `key`: every node that takes keys, once, the owner first.
    ///
    /// Allocates nothing for the first node, and one bit per node after it.
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_all([("m1", 1), ("m2", 1), ("m3", 1)])?;
    /// let alive = ring.walk("foo").find(|node| node.as_bytes() != b"m3");
    /// assert_eq!(alive, Some(&"m1".into()));
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn walk(&self, key: impl AsRef<[u8]>) -> Walk<'_> {
        Walk::new(self, self.points.after(self.position(key)))
    }

    /// Where `key` lies on the ring: the leading 128 bits of its hash.
    #[inline]
    pub fn position(&self, key: impl AsRef<[u8]>) -> u128 {
        self.hash.position(key.as_ref())
    }

    /// Whether the node is in the ring, with whatever weight.
    pub fn contains(&self, node: impl AsRef<[u8]>) -> bool {
        self.index_of(node.as_ref()).is_some()
    }

    /// The weight of a node, or `None` if it is not in the ring.
    pub fn weight(&self, node: impl AsRef<[u8]>) -> Option<u32> {
        self.index_of(node.as_ref()).map(|index| self.nodes[index].weight)
    }

    /// The nodes and their weights, in ascending order of their ids.
    pub fn weights(&self) -> impl ExactSizeIterator<Item = (&MemberId, u32)> {
        self.nodes.iter().map(|node| (&node.id, node.weight))
    }

    /// The number of nodes, those of weight 0 included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The number of points, where colliding ones count once: what Python calls the ring's `len`.
    /// O(n).
    pub fn point_count(&self) -> usize {
        self.points().count()
    }

    /// The points in ascending order of their positions, each with the node that owns it.
    pub fn points(&self) -> impl Iterator<Item = (u128, &MemberId)> {
        let points = self.points.as_slice().iter().enumerate();
        points
            .filter(|(index, _)| !self.points.is_shadowed(*index))
            .map(|(_, point)| (point.position(), self.owner(*point)))
    }

    #[inline]
    fn owner(&self, point: Point) -> &MemberId {
        &self.nodes[point.node as usize].id
    }

    fn index_of(&self, node: &[u8]) -> Option<usize> {
        self.nodes.binary_search_by(|other| other.id.as_bytes().cmp(node)).ok()
    }
}

impl Default for HashRing {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for HashRing {
    fn eq(&self, other: &Self) -> bool {
        // The points follow from these.
        self.points_per_weight == other.points_per_weight
            && self.hash == other.hash
            && self.nodes == other.nodes
    }
}

impl Eq for HashRing {}

impl fmt::Debug for HashRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Nodes<'a>(&'a [Node]);

        impl fmt::Debug for Nodes<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_map().entries(self.0.iter().map(|node| (&node.id, node.weight))).finish()
            }
        }

        f.debug_struct("HashRing")
            .field("points", &self.points_per_weight)
            .field("hash", &self.hash)
            .field("nodes", &Nodes(&self.nodes))
            .finish()
    }
}

#[cfg(test)]
mod tests;

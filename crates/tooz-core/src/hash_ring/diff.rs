//! Who owns how much of the ring, and what moves between two rings.

use std::fmt;

use super::HashRing;
use crate::{Error, MemberId, Result};

/// A stretch of the key space: the positions from `first` to `last`, both included.
///
/// Positions are those of [`HashRing::position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The lowest position.
    pub first: u128,
    /// The highest position, not below `first`.
    pub last: u128,
}

impl KeyRange {
    /// Whether `position` lies in the range.
    pub fn contains(&self, position: u128) -> bool {
        (self.first..=self.last).contains(&position)
    }

    /// The fraction of the key space: above 0, and 1 for all of it.
    pub fn fraction(&self) -> f64 {
        (self.last.saturating_sub(self.first) as f64 + 1.0) / 2f64.powi(128)
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}..={:032x}", self.first, self.last)
    }
}

/// A range whose keys change hands between two rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The keys concerned.
    pub range: KeyRange,
    /// Their owner before, or `None` if no node took keys.
    pub from: Option<MemberId>,
    /// Their owner after, or `None` if no node takes keys.
    pub to: Option<MemberId>,
}

/// What moves between two rings; see [`HashRing::diff`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    moves: Vec<Move>,
}

impl Diff {
    /// The moves in ascending order of their ranges, which do not overlap.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// The fraction of the key space that changes hands: from 0 for nothing to 1 for everything.
    pub fn fraction(&self) -> f64 {
        self.moves.iter().map(|moved| moved.range.fraction()).sum()
    }

    /// Whether no key changes hands.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }
}

impl HashRing {
    /// Every range and its owner, in ascending order; together they are the whole key space.
    /// Empty if no node takes keys.
    ///
    /// Adjacent ranges of one owner are one range. A stretch that passes the end of the key space is
    /// returned as two parts.
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_all([("m1", 1), ("m2", 1)])?;
    /// let position = ring.position("foo");
    /// let found = ring.ranges().into_iter().find(|(range, _)| range.contains(position));
    /// assert_eq!(found.map(|(_, owner)| owner), ring.node("foo"));
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn ranges(&self) -> Vec<(KeyRange, &MemberId)> {
        self.owned().into_iter().map(|(range, node)| (range, &self.nodes[node].id)).collect()
    }

    /// The ranges with the indexes of their owners.
    fn owned(&self) -> Vec<(KeyRange, usize)> {
        let points = self.points.as_slice();
        let mut ranges: Vec<(KeyRange, usize)> = Vec::new();
        let mut first = 0;
        let mut push = |first, last, owner| match ranges.last_mut() {
            Some((range, before)) if *before == owner => range.last = last,
            _ => ranges.push((KeyRange { first, last }, owner)),
        };
        for (index, point) in points.iter().enumerate() {
            // A point owns what lies before it, from the previous point on.
            if let Some(last) = point.position().checked_sub(1)
                && !self.points.is_shadowed(index)
            {
                push(first, last, point.node as usize);
            }
            first = point.position();
        }
        if let Some(point) = points.first() {
            push(first, u128::MAX, point.node as usize);
        }
        ranges
    }

    /// The ranges a node owns, in ascending order; none if it is not in the ring. O(n).
    pub fn ranges_of(&self, node: impl AsRef<[u8]>) -> Vec<KeyRange> {
        let node = node.as_ref();
        let ranges = self.ranges().into_iter();
        ranges.filter(|(_, owner)| owner.as_bytes() == node).map(|(range, _)| range).collect()
    }

    /// The fraction of the key space a node owns, or `None` if it is not in the ring. O(n).
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_all([("m1", 1), ("m2", 0)])?;
    /// assert_eq!(ring.share("m1"), Some(1.0));
    /// assert_eq!(ring.share("m2"), Some(0.0));
    /// assert_eq!(ring.share("m3"), None);
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn share(&self, node: impl AsRef<[u8]>) -> Option<f64> {
        let index = self.index_of(node.as_ref())?;
        self.shares().get(index).map(|(_, share)| *share)
    }

    /// The fraction of the key space each node owns, in ascending order of their ids. O(n).
    ///
    /// The fractions add up to 1, unless no node takes keys.
    pub fn shares(&self) -> Vec<(&MemberId, f64)> {
        let mut shares: Vec<_> = self.nodes.iter().map(|node| (&node.id, 0.0)).collect();
        for (range, node) in self.owned() {
            shares[node].1 += range.fraction();
        }
        shares
    }

    /// What changes hands when this ring is replaced by `next`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the rings hash differently: then a key
    /// has two different positions, and ranges cannot be compared.
    ///
    /// ```
    /// use tooz_core::hash_ring::HashRing;
    ///
    /// let mut ring = HashRing::new();
    /// ring.add_all([("m1", 1), ("m2", 1), ("m3", 1)])?;
    /// let mut without = ring.clone();
    /// without.remove("m2")?;
    ///
    /// let diff = ring.diff(&without)?;
    /// assert!(diff.moves().iter().all(|moved| moved.from == Some("m2".into())));
    /// assert!((diff.fraction() - ring.share("m2").unwrap_or(0.0)).abs() < 1e-9);
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn diff(&self, next: &HashRing) -> Result<Diff> {
        if self.hash != next.hash {
            return Err(Error::invalid("rings of different hash functions cannot be compared")
                .with("hash", self.hash)
                .with("other", next.hash));
        }
        let (mut before, mut after) = (Ranges::of(self), Ranges::of(next));
        let mut moves: Vec<Move> = Vec::new();
        let mut first = 0;
        loop {
            let last = before.last().min(after.last());
            let (from, to) = (before.owner(), after.owner());
            if from != to {
                match moves.last_mut() {
                    Some(moved)
                        if moved.range.last.checked_add(1) == Some(first)
                            && (moved.from.as_ref(), moved.to.as_ref()) == (from, to) =>
                    {
                        moved.range.last = last;
                    }
                    _ => moves.push(Move {
                        range: KeyRange { first, last },
                        from: from.cloned(),
                        to: to.cloned(),
                    }),
                }
            }
            let Some(following) = last.checked_add(1) else {
                return Ok(Diff { moves });
            };
            first = following;
            before.advance_to(first);
            after.advance_to(first);
        }
    }
}

/// The ranges of a ring, passed one after another. An empty ring is one range without an owner.
struct Ranges<'a> {
    ranges: Vec<(KeyRange, &'a MemberId)>,
    at: usize,
}

impl<'a> Ranges<'a> {
    fn of(ring: &'a HashRing) -> Self {
        Self { ranges: ring.ranges(), at: 0 }
    }

    fn last(&self) -> u128 {
        self.ranges.get(self.at).map_or(u128::MAX, |(range, _)| range.last)
    }

    fn owner(&self) -> Option<&'a MemberId> {
        self.ranges.get(self.at).map(|(_, owner)| *owner)
    }

    fn advance_to(&mut self, position: u128) {
        while self.last() < position {
            self.at += 1;
        }
    }
}

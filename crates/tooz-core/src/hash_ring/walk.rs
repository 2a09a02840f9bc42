//! The walk around a ring.

use std::iter::FusedIterator;

use super::HashRing;
use crate::MemberId;

/// The nodes for a key in ring order; see [`HashRing::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    ring: &'a HashRing,
    /// The index of the next point to look at.
    next: usize,
    /// How many points have not been looked at.
    remaining: usize,
    seen: Seen,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ring: &'a HashRing, start: usize) -> Self {
        let remaining = ring.points.as_slice().len();
        Self { ring, next: start, remaining, seen: Seen::default() }
    }

    /// Leaves a node out, if it is in the ring.
    pub(super) fn skip_node(&mut self, node: &MemberId) {
        if let Some(index) = self.ring.index_of(node.as_bytes()) {
            self.seen.insert(index, self.ring.nodes.len());
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a MemberId;

    fn next(&mut self) -> Option<&'a MemberId> {
        let points = self.ring.points.as_slice();
        // With every node seen there is nothing to find, however many points remain.
        while self.remaining > 0 && self.seen.count < self.ring.nodes.len() {
            let index = self.next;
            self.next = if index + 1 < points.len() { index + 1 } else { 0 };
            self.remaining -= 1;
            let node = points[index].node as usize;
            if !self.ring.points.is_shadowed(index) && self.seen.insert(node, self.ring.nodes.len())
            {
                return Some(&self.ring.nodes[node].id);
            }
        }
        None
    }
}

impl FusedIterator for Walk<'_> {}

/// A set of node indexes that allocates for its second element only.
#[derive(Clone, Debug, Default)]
struct Seen {
    first: Option<usize>,
    /// A bit for each node.
    bits: Vec<u64>,
    count: usize,
}

impl Seen {
    /// Adds `index`, one of `nodes`; false if it was there already.
    fn insert(&mut self, index: usize, nodes: usize) -> bool {
        match self.first {
            None => {
                self.first = Some(index);
            }
            Some(first) if first == index => return false,
            Some(_) => {
                if self.bits.is_empty() {
                    self.bits = vec![0; nodes.div_ceil(64)];
                }
                let (word, bit) = (index / 64, 1 << (index % 64));
                if self.bits[word] & bit != 0 {
                    return false;
                }
                self.bits[word] |= bit;
            }
        }
        self.count += 1;
        true
    }
}

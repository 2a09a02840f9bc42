//! The points of a ring in order, and the search among them.

use std::cmp::Ordering;

/// One point: its position, and the node that placed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    // Two halves rather than a u128, whose alignment would make a point 32 bytes instead of 24.
    high: u64,
    low: u64,
    /// The node's index in the ring's list of nodes.
    pub(super) node: u32,
}

impl Point {
    pub(super) fn new(position: u128, node: u32) -> Self {
        Self { high: (position >> 64) as u64, low: position as u64, node }
    }

    #[inline]
    pub(super) fn position(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// By position; where nodes collide, the highest comes first.
    fn order(&self, other: &Self) -> Ordering {
        self.position().cmp(&other.position()).then_with(|| other.node.cmp(&self.node))
    }
}

/// All points of a ring, sorted by position. Where nodes collide on a position, the one with the
/// highest index comes first, and only that one counts.
///
/// Positions are evenly spread, so a table over their leading bits leads a search to within a
/// point or two of its end: about as many buckets as points, 4 bytes each.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    sorted: Vec<Point>,
    /// How many points lie before each bucket, and one entry for the end of the last.
    before: Vec<u32>,
    /// How far a position's upper half is shifted to give its bucket.
    shift: u32,
}

impl Points {
    pub(super) fn as_slice(&self) -> &[Point] {
        &self.sorted
    }

    /// Takes the nodes' new indexes, `None` for those whose points go, and adds the points `fresh`.
    ///
    /// The new indexes keep the order of the old ones. O(n + k log n) for k fresh points.
    pub(super) fn change(&mut self, new_index: &[Option<u32>], mut fresh: Vec<Point>) {
        // No index comes near the maximum, which marks removed points: a plain pass is the fastest.
        let new_index: Vec<u32> = new_index.iter().map(|index| index.unwrap_or(u32::MAX)).collect();
        for point in &mut self.sorted {
            point.node = new_index[point.node as usize];
        }
        if new_index.contains(&u32::MAX) {
            self.sorted.retain(|point| point.node != u32::MAX);
        }

        // Merges from the back, moving up what lies between two fresh points in one block.
        fresh.sort_unstable_by(Point::order);
        let mut end = self.sorted.len();
        self.sorted.extend_from_slice(&fresh);
        for (ahead, point) in fresh.iter().enumerate().rev() {
            let at = self.sorted[..end].partition_point(|old| Point::order(old, point).is_lt());
            self.sorted.copy_within(at..end, at + ahead + 1);
            self.sorted[at + ahead] = *point;
            end = at;
        }
        self.index();
    }

    /// Makes the table of buckets.
    fn index(&mut self) {
        let bits = self.sorted.len().max(2).next_power_of_two().trailing_zeros();
        self.shift = u64::BITS - bits;
        self.before.clear();
        self.before.resize((1 << bits) + 1, 0);
        for point in &self.sorted {
            self.before[(point.high >> self.shift) as usize + 1] += 1;
        }
        let mut total = 0;
        for count in &mut self.before {
            total += *count;
            *count = total;
        }
    }

    /// The index of the first point after `position`, going round at the end; 0 if there is none.
    #[inline]
    pub(super) fn after(&self, position: u128) -> usize {
        if self.sorted.is_empty() {
            return 0;
        }
        let bucket = ((position >> 64) as u64 >> self.shift) as usize;
        let (from, to) = (self.before[bucket] as usize, self.before[bucket + 1] as usize);
        let after =
            from + self.sorted[from..to].partition_point(|point| point.position() <= position);
        if after < self.sorted.len() { after } else { 0 }
    }

    /// Whether another node owns this point's position.
    pub(super) fn is_shadowed(&self, index: usize) -> bool {
        index > 0 && self.sorted[index - 1].position() == self.sorted[index].position()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_agrees_with_a_plain_one() {
        let high = 1u128 << 64;
        let sets: [&[u128]; 7] = [
            &[],
            &[0],
            &[u128::MAX],
            &[0, 0, 5, 5, 5, u128::MAX, u128::MAX],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[high - 1, high, high + 1, 7 * high, 7 * high + 1],
            &[u128::MAX / 3, u128::MAX / 2, u128::MAX / 2 + 1],
        ];
        for set in sets {
            let mut points = Points::default();
            points.change(&[], set.iter().rev().map(|&at| Point::new(at, 0)).collect());
            let probes = set.iter().flat_map(|&at| [at.wrapping_sub(1), at, at.wrapping_add(1)]);
            for probe in probes.chain([0, high, u128::MAX / 2, u128::MAX]) {
                let plain = set.partition_point(|&at| at <= probe);
                let plain = if plain < set.len() { plain } else { 0 };
                assert_eq!(points.after(probe), plain, "{probe:#x} in {set:x?}");
            }
        }
    }

    fn content(points: &Points) -> Vec<(u128, u32)> {
        points.as_slice().iter().map(|point| (point.position(), point.node)).collect()
    }

    #[test]
    fn the_highest_node_comes_first_in_a_collision() {
        let mut points = Points::default();
        points.change(&[], [1, 3, 2].map(|node| Point::new(9, node)).to_vec());
        let same = [0, 1, 2, 3].map(Some);
        points.change(&same, vec![Point::new(9, 4)]);
        points.change(&[same.as_slice(), &[Some(4)]].concat(), vec![Point::new(9, 0)]);
        assert_eq!(content(&points), [(9, 4), (9, 3), (9, 2), (9, 1), (9, 0)]);
        assert!(!points.is_shadowed(0) && points.is_shadowed(1) && points.is_shadowed(4));
    }

    #[test]
    fn a_change_is_as_good_as_a_new_start() {
        let mut points = Points::default();
        points
            .change(&[], [(5, 0), (1, 1), (7, 2), (3, 1)].map(|(at, n)| Point::new(at, n)).into());
        // Node 1 goes, node 2 becomes 3, and 1 and 2 are new.
        let fresh = [(4, 1), (7, 2), (9, 1), (0, 2), (6, 1), (5, 2)];
        let fresh = fresh.map(|(at, n)| Point::new(at, n)).to_vec();
        points.change(&[Some(0), None, Some(3)], fresh);
        let all = [(0, 2), (4, 1), (5, 2), (5, 0), (6, 1), (7, 3), (7, 2), (9, 1)];
        assert_eq!(content(&points), all);
        points.change(&[None, None, None, None], Vec::new());
        assert_eq!((content(&points), points.after(3)), (vec![], 0));
    }
}

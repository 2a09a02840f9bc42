//! The orders in which steps are made.

/// Every order of two holders' steps, `steps` of each: who makes the next one.
pub(crate) fn all(steps: usize) -> Vec<Vec<usize>> {
    let bits = 2 * steps;
    let choices = (0_u32..1 << bits).filter(|choice| choice.count_ones() as usize == steps);
    choices.map(|choice| (0..bits).map(|bit| (choice >> bit & 1) as usize).collect()).collect()
}

/// Some of the orders of `steps` steps each of several holders, always the same ones for a seed.
pub(crate) fn some(count: usize, holders: usize, steps: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = Random(seed);
    let order = |_| {
        let mut order: Vec<_> = (0..holders * steps).map(|step| step % holders).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last + 1));
        }
        order
    };
    (0..count).map(order).collect()
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

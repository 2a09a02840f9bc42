//! The assignment of partitions, through random changes of a group.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use tooz_core::MemberId;
use tooz_core::assignment::{Assignment, Candidate};

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A group that changes at random.
struct Group {
    random: Random,
    members: BTreeMap<u64, Candidate>,
    largest_weight: u64,
}

impl Group {
    fn new(seed: u64, largest_weight: u64) -> Self {
        Self { random: Random(seed), members: BTreeMap::new(), largest_weight }
    }

    fn weight(&mut self) -> u32 {
        u32::try_from(1 + self.random.below(self.largest_weight)).unwrap()
    }

    /// Somebody comes, goes or changes its weight.
    fn change(&mut self) {
        let (who, weight) = (self.random.below(60), self.weight());
        match self.members.remove(&who) {
            Some(member) if self.random.below(2) == 0 => {
                self.members.insert(who, member.weight(weight));
            }
            Some(_) => {}
            None => {
                let member = Candidate::new(format!("host-{who}")).weight(weight);
                self.members.insert(who, member);
            }
        }
    }

    fn members(&self) -> Vec<Candidate> {
        self.members.values().cloned().collect()
    }
}

fn counts(plan: &Assignment) -> BTreeMap<MemberId, u64> {
    let mut counts = BTreeMap::new();
    for partition in 0..u32::try_from(plan.partitions()).unwrap() {
        if let Some(owner) = plan.owner(partition) {
            *counts.entry(owner.clone()).or_default() += 1;
        }
    }
    counts
}

/// The exact quota, as a whole number and the rest of the division by all weights.
fn quota(partitions: u64, member: &Candidate, members: &[Candidate]) -> (u64, u64) {
    let weights: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let exact = partitions * u64::from(member.weight);
    (exact / weights, exact % weights)
}

/// No plan that is even keeps more: each member keeps its quota, rounded down, and as many keep one
/// more as may have one more.
fn fewest_moves(before: &Assignment, members: &[Candidate]) -> u64 {
    let partitions = before.partitions() as u64;
    let counts = counts(before);
    let mut rounded_up = partitions;
    let (mut kept, mut could_keep_more) = (0, 0);
    for member in members {
        let (floor, fraction) = quota(partitions, member, members);
        let owned = counts.get(&member.member).copied().unwrap_or_default();
        rounded_up -= floor;
        kept += owned.min(floor);
        could_keep_more += u64::from(owned > floor && fraction > 0);
    }
    partitions - kept - could_keep_more.min(rounded_up)
}

#[test]
fn ten_thousand_changes_stay_even_and_move_as_little_as_can_be() {
    for (seed, partitions, largest_weight) in
        [(1, 64, 1), (2, 256, 1), (3, 1024, 1), (4, 256, 5), (5, 100, 100)]
    {
        let mut group = Group::new(seed, largest_weight);
        let mut plan = Assignment::new(partitions);
        for step in 0..2_000 {
            group.change();
            let mut members = group.members();
            let next = plan.rebalance(&members);
            if members.is_empty() {
                assert_eq!(counts(&next).len(), 0);
                plan = next;
                continue;
            }
            let counts = counts(&next);
            for member in &members {
                let (floor, fraction) = quota(partitions.into(), member, &members);
                let owned = counts.get(&member.member).copied().unwrap_or_default();
                let is_even = owned == floor || (owned == floor + 1 && fraction > 0);
                assert!(is_even, "{seed}/{step}: {} owns {owned}, not {floor}", member.member);
            }
            assert_eq!(counts.values().sum::<u64>(), u64::from(partitions), "all are owned");
            let moves = plan.moves(&next).len() as u64;
            assert_eq!(moves, fewest_moves(&plan, &members), "{seed}/{step}");
            // Whoever computes it, in whatever order the members are known.
            members.reverse();
            assert_eq!(plan.rebalance(&members), next);
            assert_eq!(next.rebalance(&members), next, "an even plan stays");
            plan = next;
        }
    }
}

#[test]
fn a_member_that_is_away_keeps_its_own() {
    let members: Vec<_> = (0..50).map(|n| Candidate::new(format!("host-{n}"))).collect();
    let plan = Assignment::new(256).rebalance(&members);
    // A rolling restart: each is away for a while, and back in time.
    for restarted in 0..members.len() {
        let mut seen = members.clone();
        seen[restarted] = seen[restarted].clone().away();
        assert_eq!(plan.rebalance(&seen), plan);
    }
    // Meanwhile somebody comes: it gets its share of what the others have.
    let mut seen = members.clone();
    seen[7] = seen[7].clone().away();
    seen.push(Candidate::new("host-new"));
    let next = plan.rebalance(&seen);
    let away = &members[7].member;
    assert!(next.partitions_of(away).eq(plan.partitions_of(away)));
    assert_eq!(next.partitions_of(&"host-new".into()).count(), plan.moves(&next).len());
}

#[test]
fn moves_can_be_few_at_a_time() {
    let members: Vec<_> = (0..5).map(|n| Candidate::new(format!("host-{n}"))).collect();
    let mut plan = Assignment::new(100).rebalance(&members[..4]);
    let mut steps = 0;
    loop {
        let next = plan.rebalance_by(&members, 3);
        let moves = plan.moves(&next);
        if moves.is_empty() {
            break;
        }
        assert!(moves.len() <= 3 && moves.iter().all(|m| m.to == Some("host-4".into())));
        (plan, steps) = (next, steps + 1);
    }
    assert_eq!(steps, 7, "20 partitions, by three");
    assert_eq!(plan, plan.rebalance(&members));
    // What nobody owns does not wait.
    let next = plan.rebalance_by(&members[1..], 0);
    assert_eq!(plan.moves(&next).len(), 20);
    assert!(counts(&next).values().all(|owned| *owned == 25));
}

#[test]
fn pinned_partitions_are_owned_by_who_wants_them() {
    let members = [
        Candidate::new("a").pinned([3, 9]),
        Candidate::new("b").pinned([9, 99]),
        Candidate::new("c").pinned(0..8),
        Candidate::new("d").weight(0),
    ];
    let plan = Assignment::new(12).rebalance(&members);
    let owner = |partition| plan.owner(partition).unwrap().to_string();
    assert_eq!([owner(3), owner(9), owner(4)], ["a", "a", "c"]);
    // c has more pinned than its quota of 4; a and b share the other five evenly.
    let counts: Vec<_> = counts(&plan).into_values().collect();
    assert_eq!(counts, [3, 2, 7]);
    assert_eq!(plan.owner(12), None);
    assert_eq!(plan.rebalance(&members), plan);
    // d alone owns nothing.
    assert_eq!(counts_of_nobody(&plan.rebalance(&members[3..])), 12);
}

fn counts_of_nobody(plan: &Assignment) -> usize {
    plan.partitions() - usize::try_from(counts(plan).values().sum::<u64>()).unwrap()
}

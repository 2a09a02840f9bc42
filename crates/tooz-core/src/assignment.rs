//! Even, calm assignment of partitions: the plan alone, without a group or a backend.

use std::collections::{BTreeMap, BTreeSet};

use crate::MemberId;

/// A plan: which member should own each of a fixed number of partitions.
///
/// [`rebalance`](Self::rebalance) computes the next plan from this one and from the members:
///
/// - **Even.** Each member's share is its exact quota by weight, rounded down or up. So the shares of
///   members with the same weight differ by at most one partition.
/// - **Calm.** No other even plan moves fewer partitions. A member keeps what it owns, unless it owns
///   more than its share.
/// - **The same everywhere.** The next plan depends on nothing else: everyone who knows the plan and
///   the members computes the same one.
///
/// It says who *should* own a partition. [`Partitions`](crate::Partitions), which see to it that only
/// one member does, follow the [hash ring](crate::HashRing) and not such a plan.
///
/// ```
/// use tooz_core::assignment::{Assignment, Candidate};
/// let members = [Candidate::new("a"), Candidate::new("b"), Candidate::new("c")];
/// let plan = Assignment::new(16).rebalance(&members);
/// assert_eq!(plan.partitions_of(&"a".into()).count(), 6);
///
/// // Without c, only c's five partitions move.
/// let next = plan.rebalance(&members[..2]);
/// assert_eq!(plan.moves(&next).len(), 5);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    owners: Vec<Option<MemberId>>,
}

/// A member that can own partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The member.
    pub member: MemberId,
    /// How much of the work it can do, compared with the others. A member of weight 0 gets nothing.
    pub weight: u32,
    /// Partitions that only this member is to own. If several members name one, the lowest id gets
    /// it.
    pub pinned: BTreeSet<u32>,
    /// It is absent and expected back: it keeps what it owns, and gets nothing new.
    pub is_away: bool,
}

/// A partition that another member should own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Move {
    /// The partition.
    pub partition: u32,
    /// The owner before; `None` if there was none.
    pub from: Option<MemberId>,
    /// The owner after; `None` if there is none.
    pub to: Option<MemberId>,
}

impl Candidate {
    /// A member of weight 1.
    pub fn new(member: impl Into<MemberId>) -> Self {
        Self { member: member.into(), weight: 1, pinned: BTreeSet::new(), is_away: false }
    }

    /// The same member with another weight.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same member with partitions that only it is to own.
    #[must_use]
    pub fn pinned(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.pinned = partitions.into_iter().collect();
        self
    }

    /// The same member, absent and expected back.
    #[must_use]
    pub fn away(mut self) -> Self {
        self.is_away = true;
        self
    }
}

/// What a member has in the plan that is being made.
struct Share<'a> {
    candidate: &'a Candidate,
    /// What it owned in the plan before and still owns, without pinned partitions.
    owned: Vec<u32>,
    /// How many pinned partitions it owns.
    pinned: usize,
    /// How many partitions it is to own, with the pinned ones.
    target: usize,
}

impl Assignment {
    /// That many partitions, which nobody owns.
    pub fn new(partitions: u32) -> Self {
        Self { owners: (0..partitions).map(|_| None).collect() }
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.owners.len()
    }

    /// Who should own a partition.
    pub fn owner(&self, partition: u32) -> Option<&MemberId> {
        self.owners.get(usize::try_from(partition).ok()?)?.as_ref()
    }

    /// What a member should own, in ascending order.
    pub fn partitions_of(&self, member: &MemberId) -> impl Iterator<Item = u32> {
        (0..).zip(&self.owners).filter_map(move |(partition, owner)| {
            (owner.as_ref() == Some(member)).then_some(partition)
        })
    }

    /// The next plan, for these members. If none of them can own anything, nobody owns anything.
    #[must_use]
    pub fn rebalance(&self, members: &[Candidate]) -> Self {
        self.rebalance_by(members, usize::MAX)
    }

    /// The next plan, which takes at most `max_moves` partitions from owners that are still there.
    /// Partitions without an owner are given out in any case. Repeat it until nothing moves.
    #[must_use]
    pub fn rebalance_by(&self, members: &[Candidate], max_moves: usize) -> Self {
        let members: BTreeMap<&MemberId, &Candidate> =
            members.iter().rev().map(|candidate| (&candidate.member, candidate)).collect();
        let pins = self.pins(&members);
        let mut shares = self.shares(&members, &pins);
        set_targets(&mut shares, self.partitions());
        let mut next = Self { owners: vec![None; self.partitions()] };
        for (partition, owner) in &pins {
            next.set(*partition, owner);
        }
        let mut moves_left = max_moves.saturating_sub(self.pins_moved(&pins, &members));
        for share in &mut shares {
            let room = share.target.saturating_sub(share.pinned);
            let surplus = share.owned.len().saturating_sub(room).min(moves_left);
            moves_left -= surplus;
            // The highest numbers go. Any rule would do that is the same everywhere.
            share.owned.truncate(share.owned.len() - surplus);
            for partition in &share.owned {
                next.set(*partition, &share.candidate.member);
            }
        }
        next.give_out(&mut shares);
        next
    }

    /// What differs in the next plan.
    pub fn moves(&self, next: &Self) -> Vec<Move> {
        let pairs = (0..).zip(self.owners.iter().zip(&next.owners));
        let moved = pairs.filter(|(_, (from, to))| from != to);
        moved
            .map(|(partition, (from, to))| Move { partition, from: from.clone(), to: to.clone() })
            .collect()
    }

    fn set(&mut self, partition: u32, owner: &MemberId) {
        let place = usize::try_from(partition).ok().and_then(|place| self.owners.get_mut(place));
        if let Some(place) = place {
            *place = Some(owner.clone());
        }
    }

    /// The owners of the pinned partitions. A member that is away keeps its own, and gets nothing new.
    fn pins<'a>(
        &self,
        members: &BTreeMap<&'a MemberId, &'a Candidate>,
    ) -> BTreeMap<u32, &'a MemberId> {
        let mut pins = BTreeMap::new();
        for (member, candidate) in members {
            for partition in &candidate.pinned {
                let has_it = self.owner(*partition) == Some(member);
                let exists = usize::try_from(*partition).is_ok_and(|p| p < self.owners.len());
                if exists && (has_it || !candidate.is_away) {
                    pins.entry(*partition).or_insert(*member);
                }
            }
        }
        pins
    }

    /// How many partitions the pins take from owners that are still there.
    fn pins_moved(
        &self,
        pins: &BTreeMap<u32, &MemberId>,
        members: &BTreeMap<&MemberId, &Candidate>,
    ) -> usize {
        let is_moved = |(partition, owner): &(&u32, &&MemberId)| {
            let before = self.owner(**partition);
            before.is_some_and(|before| before != **owner && members.contains_key(before))
        };
        pins.iter().filter(is_moved).count()
    }

    fn shares<'a>(
        &self,
        members: &BTreeMap<&'a MemberId, &'a Candidate>,
        pins: &BTreeMap<u32, &MemberId>,
    ) -> Vec<Share<'a>> {
        let mut owned: BTreeMap<&MemberId, Vec<u32>> = BTreeMap::new();
        for (partition, owner) in (0..).zip(&self.owners) {
            if let Some(owner) = owner
                && !pins.contains_key(&partition)
            {
                owned.entry(owner).or_default().push(partition);
            }
        }
        let share = |(member, candidate): (&&'a MemberId, &&'a Candidate)| Share {
            candidate,
            owned: owned.remove(*member).unwrap_or_default(),
            pinned: pins.values().filter(|owner| *owner == member).count(),
            target: 0,
        };
        members.iter().map(share).collect()
    }

    /// Gives the partitions without an owner to the members below their share, in turn.
    fn give_out(&mut self, shares: &mut [Share<'_>]) {
        let mut open: Vec<u32> =
            (0..).zip(&self.owners).filter(|(_, owner)| owner.is_none()).map(|(p, _)| p).collect();
        open.reverse();
        loop {
            let before = open.len();
            for share in shares.iter_mut() {
                let owned = share.owned.len() + share.pinned;
                if owned < share.target
                    && let Some(partition) = open.pop()
                {
                    share.owned.push(partition);
                    self.set(partition, &share.candidate.member);
                }
            }
            if open.is_empty() || open.len() == before {
                return;
            }
        }
    }
}

/// Sets how many partitions each member is to own: its exact quota by weight, rounded down, and one
/// more for as many members as it takes. Members that own that many already come first, so that the
/// fewest partitions move. A member that is away keeps what it has, a member with many pinned
/// partitions has those, and the others share the rest.
fn set_targets(shares: &mut [Share<'_>], partitions: usize) {
    let mut rest = partitions as u128;
    let mut sharing: Vec<usize> = Vec::new();
    for (place, share) in shares.iter_mut().enumerate() {
        share.target = share.pinned + share.owned.len();
        if share.candidate.is_away {
            rest = rest.saturating_sub(share.target as u128);
        } else {
            sharing.push(place);
        }
    }
    // A member with more pinned than its quota takes no part in sharing the rest. That lowers the
    // quotas of the others, so look again.
    loop {
        let weights: u128 = sharing.iter().map(|p| u128::from(shares[*p].candidate.weight)).sum();
        let quota = |share: &Share<'_>| {
            let exact = rest * u128::from(share.candidate.weight);
            match weights {
                0 => (0, 0),
                _ => (exact / weights, exact % weights),
            }
        };
        let is_full = |place: &usize| shares[*place].pinned as u128 > quota(&shares[*place]).0;
        if let Some(at) = sharing.iter().position(is_full) {
            let share = &mut shares[sharing.remove(at)];
            share.target = share.pinned;
            rest = rest.saturating_sub(share.pinned as u128);
            continue;
        }
        let floors: u128 = sharing.iter().map(|place| quota(&shares[*place]).0).sum();
        let mut ceilings = rest.saturating_sub(floors);
        let mut by_need = sharing.clone();
        by_need.sort_by_key(|place| {
            let share = &shares[*place];
            let (floor, fraction) = quota(share);
            let owns_more = (share.pinned + share.owned.len()) as u128 > floor;
            // A whole quota is not rounded.
            (fraction == 0, !owns_more)
        });
        let quotas: Vec<_> = by_need.iter().map(|place| quota(&shares[*place])).collect();
        for (place, (floor, fraction)) in by_need.into_iter().zip(quotas) {
            let one_more = u128::from(ceilings > 0 && fraction > 0);
            ceilings -= one_more;
            shares[place].target = usize::try_from(floor + one_more).unwrap_or(usize::MAX);
        }
        return;
    }
}

//! The partitioner: which member of a group is responsible for which object.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tracing::warn;

use crate::events::{EventSink, channel};
use crate::hash_ring::Hash;
use crate::{
    Capabilities, Coordinator, Error, Events, GroupEvent, GroupId, HashRing, Member, MemberId,
    Result,
};

/// What a member of a partitioned group publishes, as the original does.
#[derive(Serialize)]
struct Weight {
    weight: u32,
}

/// The members of a group as a hash ring that follows the group: made by
/// [`PartitionedGroup`].
///
/// The ring is built from a snapshot of the group and the events that follow it, so no join is
/// missed; joins, deaths and changed weights are pushed to it. It places objects
/// exactly as a Python peer with the same members does, if both hash the same bytes: Python hashes
/// the text of an object.
///
/// The same members always give the same ring, whatever came before: a weight above
/// [`MAX_WEIGHT`](Self::MAX_WEIGHT), which only a peer can publish, counts as `MAX_WEIGHT`, and if
/// all points together would exceed [`HashRing::MAX_POINTS`], all weights are halved until they
/// fit. Rings are made on a thread of their own; changes that come meanwhile make one more ring.
///
/// Two members can disagree for as long as an event is on its way. If two members must never work on
/// an object at once, use [`partitions`](Self::partitions).
///
/// Cheap to clone. When the last clone is dropped, the ring stops following; the membership stays.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-partitioner", "host-1").await?;
/// let workers = coordinator.partitioned_group("workers").join().await?;
/// assert!(workers.belongs_to_self("volume-17"));
/// assert_eq!(workers.members_for_object("volume-17", 2).len(), 1);
/// coordinator.leave_group("workers").await?;
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Partitioner {
    pub(crate) coordinator: Coordinator,
    pub(crate) group: GroupId,
    ring: watch::Receiver<Arc<HashRing>>,
}

/// A group whose members share out objects by a hash ring, made by
/// [`Coordinator::partitioned_group`]: joined, or followed from outside.
#[derive(Debug)]
#[must_use = "it does nothing until join() or follow() is called"]
pub struct PartitionedGroup {
    coordinator: Coordinator,
    group: GroupId,
    weight: u32,
    points: u32,
    hash: Hash,
}

impl Coordinator {
    /// A group whose members share out objects by a hash ring. Nothing is joined yet.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-partitioned-group", "host-1").await?;
    /// let workers = coordinator.partitioned_group("workers").weight(2).join().await?;
    /// assert!(workers.belongs_to_self("volume-17"));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn partitioned_group(&self, group: impl Into<GroupId>) -> PartitionedGroup {
        PartitionedGroup {
            coordinator: self.clone(),
            group: group.into(),
            weight: 1,
            points: HashRing::DEFAULT_POINTS,
            hash: Hash::default(),
        }
    }
}

impl PartitionedGroup {
    /// How much this member takes: with 2 twice as much as with 1, on average. 1 by default, at most
    /// [`Partitioner::MAX_WEIGHT`]. It can be [changed](Partitioner::change_weight) later.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// How many points a member has on the ring for each unit of its weight: 32 by default, at most
    /// [`Partitioner::MAX_POINTS`], and the same for all members.
    pub fn points(mut self, points: u32) -> Self {
        self.points = points;
        self
    }

    /// What places points and objects: MD5 by default, as in Python, and the same for all members.
    pub fn hash(mut self, hash: Hash) -> Self {
        self.hash = hash;
        self
    }

    /// Joins the group, creates it if it does not exist, and follows it.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a weight or a number of points above its
    /// limit, before any I/O; otherwise those of [`Coordinator::join_group`].
    ///
    /// # Cancellation
    /// A dropped call leaves the group again.
    pub async fn join(self) -> Result<Partitioner> {
        let during = |e: Error| e.during("join");
        let weight = Weight::checked(self.weight).map_err(during)?;
        check_points(self.points).map_err(during)?;
        let joined = self.coordinator.join_for_now(self.group.clone(), &weight).await?;
        let partitioner = self.follow().await?;
        joined.keep();
        Ok(partitioner)
    }

    /// Follows the group without being one of its members.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for too many points; otherwise those of
    /// [`Coordinator::watch_group`].
    pub async fn follow(self) -> Result<Partitioner> {
        let Self { coordinator, group, points, hash, .. } = self;
        check_points(points).map_err(|e| e.during("follow"))?;
        let mut events = coordinator.watch_group(group.clone()).await?;
        let (sender, receiver) = watch::channel(Arc::new(HashRing::with(points, hash)));
        let mut weights = Weights::default();
        // The first event is the snapshot.
        if let Some(first) = events.next().await {
            weights.apply(first);
        }
        let (built, first_is_built) = oneshot::channel();
        coordinator.spawn(async move {
            publish(&weights, &sender).await;
            // An error means that the caller is gone, and with it the receiver of the ring.
            let _ = built.send(());
            follow(events, weights, sender).await;
        });
        // An error means that the task panicked: the ring stays as it is.
        drop(first_is_built.await);
        Ok(Partitioner { coordinator, group, ring: receiver })
    }
}

impl Weight {
    fn checked(weight: u32) -> Result<Self> {
        let limit = Partitioner::MAX_WEIGHT;
        if weight <= limit {
            return Ok(Self { weight });
        }
        Err(Error::invalid("the weight is too large").with("weight", weight).with("at most", limit))
    }
}

fn check_points(points: u32) -> Result<()> {
    let limit = Partitioner::MAX_POINTS;
    if points <= limit {
        return Ok(());
    }
    Err(Error::invalid("there are too many points for each unit of weight")
        .with("points", points)
        .with("at most", limit))
}

/// Keeps the ring up to date until nobody looks at it or the events end.
async fn follow(
    mut events: Events<GroupEvent>,
    mut weights: Weights,
    ring: watch::Sender<Arc<HashRing>>,
) {
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event else { return };
                weights.apply(event);
                // Everything that came while the last ring was made is one change.
                while let Some(event) = events.try_next() {
                    weights.apply(event);
                }
                publish(&weights, &ring).await;
            }
            () = ring.closed() => return,
        }
    }
}

/// Makes the ring of these weights, on a thread where it does not delay any heartbeat.
async fn publish(weights: &Weights, ring: &watch::Sender<Arc<HashRing>>) {
    let now = ring.borrow().clone();
    let wanted = weights.effective(now.points_per_weight());
    // A change that moves nothing wakes nobody.
    if now.weights().eq(wanted.iter().map(|(id, weight)| (id, *weight))) {
        return;
    }
    let next = tokio::task::spawn_blocking(move || {
        let mut next = HashRing::clone(&now);
        next.become_of(wanted).map(|()| next)
    });
    match next.await {
        Ok(Ok(next)) => drop(ring.send_replace(Arc::new(next))),
        Ok(Err(error)) => warn!(%error, "the hash ring stays as it was"),
        Err(error) => warn!(%error, "the hash ring stays as it was"),
    }
}

/// The members of a group with the weights that they publish.
#[derive(Default)]
struct Weights(BTreeMap<MemberId, u32>);

impl Weights {
    fn apply(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Snapshot(members) => {
                self.0 = members.iter().map(|member| (member.id.clone(), weight(member))).collect();
            }
            GroupEvent::Joined(member) | GroupEvent::Updated(member) => {
                self.0.insert(member.id.clone(), weight(&member));
            }
            GroupEvent::Left(member) => drop(self.0.remove(&member.id)),
            _ => {}
        }
    }

    /// The weights that count. They follow from the members alone, not from the order in which
    /// they came: every view of one group must make the same ring.
    ///
    /// Where the points are more than a ring takes, all weights are halved, rounded up, until they
    /// fit; if not even weights of 1 fit, the first members in the order of their ids do.
    fn effective(&self, per_weight: u32) -> BTreeMap<MemberId, u32> {
        let points = |weight: u32| (u64::from(per_weight) * u64::from(weight)).max(1);
        let mut weights = self.0.clone();
        for weight in weights.values_mut() {
            *weight = (*weight).min(Partitioner::MAX_WEIGHT);
        }
        while weights.values().map(|weight| points(*weight)).sum::<u64>() > HashRing::MAX_POINTS {
            if weights.values().all(|weight| *weight <= 1) {
                let mut total = 0;
                weights.retain(|_, weight| {
                    total += points(*weight);
                    total <= HashRing::MAX_POINTS
                });
                break;
            }
            for weight in weights.values_mut() {
                *weight = weight.div_ceil(2);
            }
        }
        if weights != self.0 {
            warn!("the weights of the group are too large for a hash ring; they are reduced");
        }
        weights
    }
}

/// The `weight` of a map that has it, otherwise 1, as in the original. A negative one counts as 0:
/// the original places no point for it.
fn weight(member: &Member) -> u32 {
    stated_weight(&member.capabilities).unwrap_or(1)
}

fn stated_weight(capabilities: &Capabilities) -> Option<u32> {
    let value = capabilities.to_value().ok()?;
    let pairs = value.as_map()?;
    let (_, weight) = pairs.iter().find(|(key, _)| {
        key.as_str() == Some("weight") || key.as_slice() == Some(b"weight".as_slice())
    })?;
    match (weight.as_u64(), weight.as_i64()) {
        (Some(weight), _) => Some(u32::try_from(weight).unwrap_or(u32::MAX)),
        (None, Some(_negative)) => Some(0),
        (None, None) => None,
    }
}

impl Partitioner {
    /// The largest weight of a member. If another member publishes more, it counts as this much.
    pub const MAX_WEIGHT: u32 = 10_000;

    /// The most points for each unit of weight.
    pub const MAX_POINTS: u32 = 1 << 16;

    /// The ring as it is now. It does not change; ask again for a newer one.
    pub fn ring(&self) -> Arc<HashRing> {
        self.ring.borrow().clone()
    }

    /// The members responsible for an object, the owner first; fewer than `replicas` if the
    /// group has no more.
    pub fn members_for_object(&self, object: impl AsRef<[u8]>, replicas: usize) -> Vec<MemberId> {
        self.members_for_object_without(object, replicas, &[])
    }

    /// The same, without the members of `ignored`.
    pub fn members_for_object_without(
        &self,
        object: impl AsRef<[u8]>,
        replicas: usize,
        ignored: &[MemberId],
    ) -> Vec<MemberId> {
        self.ring.borrow().nodes(object, replicas, ignored).into_iter().cloned().collect()
    }

    /// Whether a member is among the first `replicas` responsible for an object.
    pub fn belongs_to_member(
        &self,
        object: impl AsRef<[u8]>,
        member: &MemberId,
        replicas: usize,
    ) -> bool {
        self.ring.borrow().walk(object).take(replicas).any(|owner| owner == member)
    }

    /// Whether this coordinator's member owns an object.
    pub fn belongs_to_self(&self, object: impl AsRef<[u8]>) -> bool {
        self.ring.borrow().node(object) == Some(self.coordinator.member_id())
    }

    /// Changes this member's weight. All rings follow.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a weight above
    /// [`MAX_WEIGHT`](Self::MAX_WEIGHT); otherwise those of [`Coordinator::update_capabilities`].
    pub async fn change_weight(&self, weight: u32) -> Result<()> {
        let weight = Weight::checked(weight).map_err(|e| e.during("change_weight"))?;
        self.coordinator.update_capabilities(&self.group, &weight).await
    }

    /// The ring now and after each change. [`HashRing::diff`] of two of them tells what moved, and
    /// from whom to whom. A slow consumer may miss rings in between, but never the newest.
    pub fn changes(&self) -> Events<Arc<HashRing>> {
        let (sink, events) = channel();
        self.coordinator.spawn(pass_on(self.ring.clone(), sink));
        events
    }

    pub(crate) fn rings(&self) -> watch::Receiver<Arc<HashRing>> {
        self.ring.clone()
    }
}

async fn pass_on(mut rings: watch::Receiver<Arc<HashRing>>, sink: EventSink<Arc<HashRing>>) {
    loop {
        let ring = rings.borrow_and_update().clone();
        sink.send(ring, |newest| vec![newest]);
        tokio::select! {
            changed = rings.changed() => if changed.is_err() { return },
            () = sink.closed() => return,
        }
    }
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partitioner")
            .field("group", &self.group)
            .field("ring", &self.ring())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighs(value: &serde_json::Value) -> u32 {
        weight(&Member::new("m", Capabilities::encode(value).unwrap()))
    }

    #[test]
    fn weights_are_read_as_the_original_reads_them() {
        use serde_json::json;
        assert_eq!(weighs(&json!({"weight": 3})), 3);
        assert_eq!(weighs(&json!({"weight": 0})), 0);
        assert_eq!(weighs(&json!({"weight": -3})), 0);
        assert_eq!(weighs(&json!({"weight": u64::MAX})), u32::MAX);
        for other in [json!(null), json!({}), json!(7), json!({"weight": "heavy"})] {
            assert_eq!(weighs(&other), 1, "{other}");
        }
    }

    fn effective<const N: usize>(weights: [(&str, u32); N], per_weight: u32) -> Vec<u32> {
        let weights = weights.map(|(id, weight)| (id.into(), weight)).into();
        Weights(weights).effective(per_weight).into_values().collect()
    }

    #[test]
    fn what_fits_is_left_alone_and_the_rest_is_reduced_alike() {
        const MOST: u32 = Partitioner::MAX_WEIGHT;
        assert_eq!(effective([("a", 0), ("b", 7), ("c", MOST)], 32), [0, 7, MOST]);
        assert_eq!(effective([("a", 1), ("b", u32::MAX)], 32), [1, MOST]);
        // 3 * 10,000 * 1,024 points are 30.7 million: twice too many.
        let reduced = effective([("a", MOST), ("b", MOST), ("c", MOST), ("d", 1)], 1024);
        assert_eq!(reduced, [MOST / 2, MOST / 2, MOST / 2, 1]);
        // 256 members with 65,536 points each fill a ring.
        let many = (0..300).map(|n| (format!("{n:03}").as_str().into(), 3)).collect();
        let kept = Weights(many).effective(Partitioner::MAX_POINTS);
        assert_eq!((kept.len(), kept.values().max()), (256, Some(&1)));
        assert!(kept.contains_key(&MemberId::from("255")));
    }
}

//! The partitioner: which member of a group is responsible for which object.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tracing::warn;

use crate::events::{EventSink, channel};
use crate::hash_ring::Hash;
use crate::partitions::Partitions;
use crate::{
    Capabilities, Coordinator, Events, GroupEvent, GroupId, HashRing, Member, MemberId, Result,
};

/// What a member of a partitioned group publishes, as the original does.
#[derive(Serialize)]
struct Weight {
    weight: u32,
}

/// The members of a group as a hash ring that follows the group: made by
/// [`Coordinator::join_partitioned_group`] or [`Coordinator::partitioner`].
///
/// The ring is built from a snapshot of the group and the events that follow it, so that no join
/// can fall between; it follows joins, deaths and changed weights by push. It places objects
/// exactly as a Python peer with the same members does, if both hash the same bytes: Python hashes
/// the text of an object.
///
/// Two members can disagree for as long as an event is on its way. Where an object must never be
/// worked by two at once, take [`partitions`](Self::partitions).
///
/// Cheap to clone. With the last clone the ring stops following; the membership stays.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-partitioner", "host-1").await?;
/// let workers = coordinator.join_partitioned_group("workers", 1, 32).await?;
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

impl Coordinator {
    /// Joins a group, created if it does not exist, with a weight, and follows it as a hash ring.
    ///
    /// A member of weight 2 takes twice the objects of one of weight 1, on average; `partitions`
    /// is the number of points per unit of weight, 32 unless there is a reason, and must be the
    /// same for all members. `weight` can be changed later: see
    /// [`Partitioner::change_weight`].
    ///
    /// # Errors
    /// As of [`join_group`](Self::join_group).
    ///
    /// # Cancellation
    /// A dropped call leaves the group again.
    pub async fn join_partitioned_group(
        &self,
        group: impl Into<GroupId>,
        weight: u32,
        partitions: u32,
    ) -> Result<Partitioner> {
        let group = group.into();
        let joined = self.join_for_now(group.clone(), &Weight { weight }).await?;
        let partitioner = self.partitioner(group, partitions, Hash::default()).await?;
        joined.keep();
        Ok(partitioner)
    }

    /// Follows a group as a hash ring, without being one of its members.
    ///
    /// # Errors
    /// As of [`watch_group`](Self::watch_group).
    pub async fn partitioner(
        &self,
        group: impl Into<GroupId>,
        partitions: u32,
        hash: Hash,
    ) -> Result<Partitioner> {
        let group = group.into();
        let mut events = self.watch_group(group.clone()).await?;
        let mut ring = HashRing::with(partitions, hash);
        // The first event is the snapshot.
        if let Some(first) = events.next().await {
            apply(&mut ring, first);
        }
        let (sender, receiver) = watch::channel(Arc::new(ring));
        self.spawn(follow(events, sender));
        Ok(Partitioner { coordinator: self.clone(), group, ring: receiver })
    }
}

/// Keeps the ring up to date until nobody looks at it or the events end.
async fn follow(mut events: Events<GroupEvent>, ring: watch::Sender<Arc<HashRing>>) {
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event else { return };
                let mut next = HashRing::clone(&ring.borrow());
                apply(&mut next, event);
                // What changes no placement wakes nobody.
                ring.send_if_modified(|now| {
                    let changed = **now != next;
                    if changed {
                        *now = Arc::new(next);
                    }
                    changed
                });
            }
            () = ring.closed() => return,
        }
    }
}

fn apply(ring: &mut HashRing, event: GroupEvent) {
    let changed = match event {
        GroupEvent::Snapshot(members) => {
            *ring = HashRing::with(ring.partitions(), ring.hash());
            ring.add_all(members.iter().map(|member| (&member.id, weight(member))))
        }
        GroupEvent::Joined(member) | GroupEvent::Updated(member) => {
            ring.add_with_weight(&member.id, weight(&member))
        }
        GroupEvent::Left(member) => {
            // An error means that it was left out for its weight.
            drop(ring.remove(&member.id));
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(error) = changed {
        warn!(%error, "members are left out of the hash ring");
    }
}

/// The `weight` of a map that has it, else 1, as the original.
fn weight(member: &Member) -> u32 {
    stated_weight(&member.capabilities).unwrap_or(1)
}

fn stated_weight(capabilities: &Capabilities) -> Option<u32> {
    let value = capabilities.to_value().ok()?;
    let pairs = value.as_map()?;
    let (_, weight) = pairs.iter().find(|(key, _)| {
        key.as_str() == Some("weight") || key.as_slice() == Some(b"weight".as_slice())
    })?;
    weight.as_u64().and_then(|weight| u32::try_from(weight).ok())
}

impl Partitioner {
    /// The ring as it is now. It does not change; ask again for a newer one.
    pub fn ring(&self) -> Arc<HashRing> {
        self.ring.borrow().clone()
    }

    /// The members responsible for an object, the owner first; fewer than `replicas` where the
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
    /// As of [`Coordinator::update_capabilities`].
    pub async fn change_weight(&self, weight: u32) -> Result<()> {
        self.coordinator.update_capabilities(&self.group, &Weight { weight }).await
    }

    /// The ring now and after each change. [`HashRing::diff`] of one and the next tells what
    /// moved, from whom to whom. A slow consumer misses rings in between, never the newest.
    pub fn changes(&self) -> Events<Arc<HashRing>> {
        let (sink, events) = channel();
        self.coordinator.spawn(pass_on(self.ring.clone(), sink));
        events
    }

    /// A fixed number of partitions, each owned by one member at a time, exclusively. See
    /// [`Partitions`].
    pub fn partitions(&self, count: u32) -> Partitions {
        Partitions::new(self, count)
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
        for other in [json!(null), json!({}), json!(7), json!({"weight": "heavy"})] {
            assert_eq!(weighs(&other), 1, "{other}");
        }
    }
}

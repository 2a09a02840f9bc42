//! Groups: members and the events of a group.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::events::{EventSink, Events, channel};
use crate::{Capabilities, MemberId};

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// What it published about itself.
    pub capabilities: Capabilities,
    /// When it joined, by the backend's clock, where the backend knows.
    pub joined_at: Option<SystemTime>,
    /// When its capabilities were last changed, where the backend knows.
    pub updated_at: Option<SystemTime>,
    /// Distinguishes one membership from a later one of the same id; 0 where the backend
    /// cannot.
    pub incarnation: u64,
}

impl Member {
    /// A member of which nothing else is known.
    pub fn new(id: impl Into<MemberId>, capabilities: Capabilities) -> Self {
        Self { id: id.into(), capabilities, joined_at: None, updated_at: None, incarnation: 0 }
    }
}

/// What happened in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent {
    /// The members at this moment: the first event of a stream, and the first after a
    /// [`Gap`](Self::Gap). The events that follow start from here, so nothing is missed in between.
    Snapshot(Vec<Member>),
    /// A member joined.
    Joined(Member),
    /// A member left, or died.
    Left(Member),
    /// A member changed its capabilities.
    Updated(Member),
    /// Events may have been missed. A [`Snapshot`](Self::Snapshot) follows.
    Gap,
    /// This coordinator lost its membership and has it again.
    Rejoined,
}

/// Where a driver puts what it learns about a group: whole snapshots or single changes.
///
/// It remembers the members last reported and turns changes into [`GroupEvent`]s; what changes
/// nothing makes no event. Clones are the same feed.
#[derive(Clone)]
pub struct GroupFeed(Arc<FeedShared>);

struct FeedShared {
    members: Mutex<Known>,
    sink: EventSink<GroupEvent>,
}

#[derive(Default)]
struct Known {
    members: BTreeMap<MemberId, Member>,
    /// Whether the consumer has a snapshot that these members follow from.
    reported: bool,
}

impl GroupFeed {
    pub(crate) fn new() -> (Self, Events<GroupEvent>) {
        let (sink, events) = channel();
        (Self(Arc::new(FeedShared { members: Mutex::default(), sink })), events)
    }

    /// Reports all members, as of now. This must be the first call of each watch.
    pub fn snapshot(&self, members: impl IntoIterator<Item = Member>) {
        let mut known = self.lock();
        let now: BTreeMap<_, _> = members.into_iter().map(|m| (m.id.clone(), m)).collect();
        if !known.reported {
            known.reported = true;
            known.members = now;
            let snapshot = GroupEvent::Snapshot(known.members.values().cloned().collect());
            return self.send(&known, snapshot);
        }
        let before = std::mem::take(&mut known.members);
        known.members = now;
        for (id, old) in &before {
            if known.members.get(id).is_none_or(|new| new.incarnation != old.incarnation) {
                self.send(&known, GroupEvent::Left(old.clone()));
            }
        }
        for (id, new) in &known.members {
            match before.get(id).filter(|old| old.incarnation == new.incarnation) {
                None => self.send(&known, GroupEvent::Joined(new.clone())),
                Some(old) if old.capabilities != new.capabilities => {
                    self.send(&known, GroupEvent::Updated(new.clone()));
                }
                Some(_) => {}
            }
        }
    }

    /// Reports one member that is there, new or changed.
    pub fn present(&self, member: Member) {
        let mut known = self.lock();
        let old = known.members.insert(member.id.clone(), member.clone());
        match old {
            Some(old) if old.incarnation == member.incarnation => {
                if old.capabilities != member.capabilities {
                    self.send(&known, GroupEvent::Updated(member));
                }
            }
            Some(old) => {
                self.send(&known, GroupEvent::Left(old));
                self.send(&known, GroupEvent::Joined(member));
            }
            None => self.send(&known, GroupEvent::Joined(member)),
        }
    }

    /// Reports one member that is gone.
    pub fn absent(&self, member: &MemberId) {
        let mut known = self.lock();
        if let Some(old) = known.members.remove(member) {
            self.send(&known, GroupEvent::Left(old));
        }
    }

    /// Reports that something may have been missed. A new snapshot must follow.
    pub fn gap(&self) {
        let mut known = self.lock();
        if std::mem::take(&mut known.reported) {
            self.send(&known, GroupEvent::Gap);
        }
    }

    /// Whether both are the same feed.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn rejoined(&self) {
        self.send(&self.lock(), GroupEvent::Rejoined);
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.0.sink.closed().await;
    }

    fn send(&self, known: &Known, event: GroupEvent) {
        self.0.sink.send(event, |_| {
            let snapshot = GroupEvent::Snapshot(known.members.values().cloned().collect());
            if known.reported { vec![GroupEvent::Gap, snapshot] } else { vec![GroupEvent::Gap] }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for GroupFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupFeed").field("members", &self.lock().members.len()).finish()
    }
}

/// Where a driver reports who leads a group. Only changes are passed on. Clones are the same feed.
#[derive(Clone)]
pub struct LeaderFeed(Arc<LeaderShared>);

struct LeaderShared {
    last: Mutex<Option<Option<MemberId>>>,
    sink: EventSink<Option<MemberId>>,
}

impl LeaderFeed {
    pub(crate) fn new() -> (Self, Events<Option<MemberId>>) {
        let (sink, events) = channel();
        (Self(Arc::new(LeaderShared { last: Mutex::default(), sink })), events)
    }

    /// Reports who leads now, or that nobody does.
    pub fn leader(&self, leader: Option<MemberId>) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() != Some(&leader) {
            *last = Some(leader.clone());
            self.0.sink.send(leader, |newest| vec![newest]);
        }
    }

    pub(crate) async fn closed(&self) {
        self.0.sink.closed().await;
    }
}

impl std::fmt::Debug for LeaderFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaderFeed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GroupEvent::{Gap, Joined, Left, Snapshot, Updated};

    fn member(id: &str, incarnation: u64) -> Member {
        Member { incarnation, ..Member::new(id, Capabilities::none()) }
    }

    fn drain(events: &mut Events<GroupEvent>) -> Vec<GroupEvent> {
        std::iter::from_fn(|| events.try_next()).collect()
    }

    #[test]
    fn snapshots_become_differences() {
        let (feed, mut events) = GroupFeed::new();
        let (a, b) = (member("a", 1), member("b", 1));
        feed.snapshot([a.clone()]);
        feed.snapshot([a.clone()]);
        feed.snapshot([a.clone(), b.clone()]);
        let heavier = Member { capabilities: Capabilities::encode(&2).unwrap(), ..a.clone() };
        feed.snapshot([heavier.clone()]);
        let expected = [Snapshot(vec![a]), Joined(b.clone()), Left(b), Updated(heavier)];
        assert_eq!(drain(&mut events), expected);
    }

    #[test]
    fn a_member_that_came_back_between_two_looks_left_and_joined() {
        let (feed, mut events) = GroupFeed::new();
        feed.snapshot([member("a", 1)]);
        feed.snapshot([member("a", 2)]);
        feed.present(member("a", 3));
        let expected = [
            Snapshot(vec![member("a", 1)]),
            Left(member("a", 1)),
            Joined(member("a", 2)),
            Left(member("a", 2)),
            Joined(member("a", 3)),
        ];
        assert_eq!(drain(&mut events), expected);
    }

    #[test]
    fn a_gap_is_followed_by_a_snapshot() {
        let (feed, mut events) = GroupFeed::new();
        feed.snapshot([member("a", 1)]);
        feed.gap();
        feed.gap();
        feed.snapshot([]);
        let expected = [Snapshot(vec![member("a", 1)]), Gap, Snapshot(vec![])];
        assert_eq!(drain(&mut events), expected);
    }

    #[test]
    fn a_slow_consumer_gets_a_gap_and_the_members_as_they_are() {
        let (feed, mut events) = GroupFeed::new();
        feed.snapshot([]);
        for n in 0..2_000 {
            feed.present(member("a", n));
        }
        feed.absent(&"a".into());
        let last = member("b", 1);
        feed.present(last.clone());
        let mut members = BTreeMap::new();
        for event in drain(&mut events) {
            match event {
                Snapshot(all) => members = all.into_iter().map(|m| (m.id.clone(), m)).collect(),
                Joined(m) | Updated(m) => drop(members.insert(m.id.clone(), m)),
                Left(m) => drop(members.remove(&m.id)),
                _ => {}
            }
        }
        assert_eq!(members.into_values().collect::<Vec<_>>(), [last]);
    }

    #[test]
    fn only_changes_of_the_leader_are_told() {
        let (feed, mut events) = LeaderFeed::new();
        for leader in [None, None, Some("a".into()), Some("a".into()), None] {
            feed.leader(leader);
        }
        let seen: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
        assert_eq!(seen, [None, Some(MemberId::from("a")), None]);
    }
}

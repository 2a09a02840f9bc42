//! This member in its groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};
use tracing::{debug, info, warn};

use super::{Run, SESSION, Supervisor, many_at_once, stopped};
use crate::{
    Capabilities, Error, ErrorKind, GroupId, JoinRequest, Lease, Loss, Moment, Result, Session,
    SessionEvent,
};

/// The memberships of a run. Each is locked during the whole of a join, a leave or a rejoin: those of
/// one group never overlap, and those of two groups never wait for each other.
#[derive(Default)]
pub(crate) struct Memberships(Mutex<BTreeMap<GroupId, Slot>>);

/// The slot of one group's membership, even while there is none.
type Slot = Arc<tokio::sync::Mutex<Option<Membership>>>;

pub(crate) struct Membership {
    capabilities: Capabilities,
    lease: Lease,
    /// Whether the candidacies in the group must end. Each has a receiver for as long as it lasts.
    candidacies: watch::Sender<bool>,
}

impl Memberships {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<GroupId, Slot>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a group, locked, once nobody else is changing it.
    pub(super) async fn of(&self, group: &GroupId) -> OwnedMutexGuard<Option<Membership>> {
        let slot = {
            let mut slots = self.slots();
            if !slots.contains_key(group) {
                slots.retain(|_, slot| is_used(slot));
            }
            slots.entry(group.clone()).or_default().clone()
        };
        slot.lock_owned().await
    }

    /// The groups that are joined, or are being joined or left.
    pub(super) fn groups(&self) -> Vec<GroupId> {
        let slots = self.slots();
        slots.iter().filter(|(_, slot)| is_used(slot)).map(|(group, _)| group.clone()).collect()
    }

    /// The memberships that no call is changing, and how long the backend may keep them.
    pub(super) fn left_over(&self) -> BTreeMap<GroupId, Moment> {
        let slots = self.slots();
        let kept = slots.iter().filter_map(|(group, slot)| {
            let ends = slot.try_lock().ok()?.as_ref()?.lease.ends_at_backend()?;
            Some((group.clone(), ends))
        });
        kept.collect()
    }

    /// Notes that they have ended with their session, except those that a call is changing.
    pub(super) fn have_ended(&self) {
        for slot in self.slots().values() {
            if let Ok(mut membership) = slot.try_lock() {
                *membership = None;
            }
        }
    }
}

/// Whether there is a membership, or a call that is changing it or about to.
fn is_used(slot: &Slot) -> bool {
    Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |membership| membership.is_some())
}

impl Membership {
    fn new(capabilities: Capabilities, lease: Lease) -> Self {
        Self { capabilities, lease, candidacies: watch::Sender::default() }
    }

    /// A candidacy: it lasts until this is dropped, and must end when this becomes true.
    fn stand(&self) -> watch::Receiver<bool> {
        self.candidacies.subscribe()
    }

    /// Ends the candidacies, and waits until they are cancelled.
    async fn end_candidacies(&self) {
        self.candidacies.send_replace(true);
        self.candidacies.closed().await;
        self.candidacies.send_replace(false);
    }
}

impl Supervisor {
    pub(crate) async fn join(
        self: &Arc<Self>,
        run: &Arc<Run>,
        group: &GroupId,
        capabilities: Capabilities,
    ) -> Result<()> {
        let mut membership = run.memberships.of(group).await;
        if membership.is_some() {
            return Err(Error::member_already_exists(group, &self.member));
        }
        let request =
            JoinRequest::new(group.clone(), capabilities.clone(), run.may_have_left(group));
        let (session, lease) = self
            .call_in(run, &request, |session, request| {
                Ok(session.require_groups()?.join(request.clone()))
            })
            .await?;
        if run.stopped.is_cancelled() {
            // The stop did not wait for this join; the session's end removes what is left of it.
            drop(session.require_groups()?.leave(group).await);
            return Err(stopped());
        }
        self.watch_over(run, group, &session, &lease);
        *membership = Some(Membership::new(capabilities, lease));
        Ok(())
    }

    pub(crate) async fn leave(&self, run: &Run, group: &GroupId) -> Result<()> {
        let mut slot = run.memberships.of(group).await;
        let membership = self.joined(run, &mut slot, group).await?;
        // Before the terms: a candidate may come to lead meanwhile.
        membership.end_candidacies().await;
        for term in run.terms_in(group) {
            self.release(run, &*term).await?;
        }
        let left = self
            .call_in(run, group, |session, group| Ok(session.require_groups()?.leave(group)))
            .await;
        match left {
            // Lost, and not joined again yet: now it never will be.
            Err(error) if is_pending(membership, &error) => {}
            left => left?.1,
        }
        *slot = None;
        Ok(())
    }

    pub(crate) async fn update(&self, group: &GroupId, capabilities: Capabilities) -> Result<()> {
        let run = self.run()?;
        let mut slot = run.memberships.of(group).await;
        let membership = self.joined(&run, &mut slot, group).await?;
        let update = (group.clone(), capabilities);
        let updated = self
            .call_in(&run, &update, |session, (group, new)| {
                Ok(session.require_groups()?.update_capabilities(group, new))
            })
            .await;
        match updated {
            // Lost, and not joined again yet: it will be with these.
            Err(error) if is_pending(membership, &error) => {}
            updated => updated?.1,
        }
        membership.capabilities = update.1;
        Ok(())
    }

    /// Fails unless this is a member. Returns what lasts as long as a candidacy of the member.
    pub(crate) async fn must_be_member(
        &self,
        run: &Run,
        group: &GroupId,
    ) -> Result<watch::Receiver<bool>> {
        match &*run.memberships.of(group).await {
            Some(membership) if membership.lease.is_held() => Ok(membership.stand()),
            // Temporary: the engine is about to join again.
            Some(_) => Err(Error::new(ErrorKind::SessionLost, "the membership was just lost")
                .with("group", group)
                .retryable(true)),
            None => Err(Error::member_not_joined(group, &self.member)),
        }
    }

    /// Fails unless this is a member: a membership of the same id may be somebody else's.
    async fn joined<'a>(
        &self,
        run: &Run,
        membership: &'a mut Option<Membership>,
        group: &GroupId,
    ) -> Result<&'a mut Membership> {
        if let Some(membership) = membership {
            return Ok(membership);
        }
        // For the error: which of the two is missing.
        self.call_in(run, group, |session, group| Ok(session.require_groups()?.members(group)))
            .await?;
        Err(Error::member_not_joined(group, &self.member))
    }

    /// Rejoins the group when only the membership is lost.
    fn watch_over(
        self: &Arc<Self>,
        run: &Arc<Run>,
        group: &GroupId,
        session: &Arc<dyn Session>,
        lease: &Lease,
    ) {
        let (supervisor, run) = (self.clone(), run.clone());
        let (group, session, lease) = (group.clone(), session.clone(), lease.clone());
        self.engine.spawn(async move {
            let loss = tokio::select! {
                loss = lease.lost() => loss,
                () = run.stopped.cancelled() => return,
            };
            let beats = supervisor.beats_begun();
            if session.lease().is_held() {
                if loss == Loss::Taken && !supervisor.settings.rejoin_when_removed {
                    return supervisor.removed(&run, &group).await;
                }
                warn!(%group, member = %supervisor.member, "membership lost");
                tokio::select! {
                    () = supervisor.is_alive(beats) => supervisor.rejoin(&run, &session, &group).await,
                    // The next session joins it again.
                    _ = session.lease().lost() => {}
                    () = run.stopped.cancelled() => {}
                }
            }
        });
    }

    /// Notes that somebody removed this member, and that it stays out.
    async fn removed(&self, run: &Run, group: &GroupId) {
        warn!(%group, member = %self.member, "removed from the group");
        if let Err(error) = self.leave(run, group).await {
            debug!(%group, %error, "what is left of the membership ends with the session");
        }
        self.announce(&SessionEvent::Removed(group.clone()));
    }

    pub(super) async fn rejoin_all(self: Arc<Self>, run: Arc<Run>, session: Arc<dyn Session>) {
        let groups = run.memberships.groups();
        let rejoining = groups.iter().cloned().map(|group| {
            let (supervisor, run, session) = (self.clone(), run.clone(), session.clone());
            async move { supervisor.rejoin(&run, &session, &group).await }
        });
        many_at_once(rejoining).await;
        if session.lease().is_held() {
            info!(target: SESSION, backend = self.entry.name, member = %self.member, "session rebuilt");
            self.announce(&SessionEvent::Rejoined(groups));
        }
    }

    /// Joins a group again with the previous capabilities, until it succeeds, the session is
    /// lost, or nobody wants the membership any more.
    async fn rejoin(self: &Arc<Self>, run: &Arc<Run>, session: &Arc<dyn Session>, group: &GroupId) {
        let Some(groups) = session.groups() else { return };
        let mut backoff = self.settings.retry.backoff();
        while session.lease().is_held() {
            let mut joined = run.memberships.of(group).await;
            let Some(membership) = &mut *joined else { return };
            let capabilities = membership.capabilities.clone();
            let request = JoinRequest::new(group.clone(), capabilities, true);
            match groups.join(request).await {
                Ok(lease) => {
                    membership.lease = lease.clone();
                    drop(joined);
                    self.watch_over(run, group, session, &lease);
                    for (_, feed) in self.state().group_feeds.iter().filter(|(g, _)| g == group) {
                        feed.rejoined();
                    }
                    return;
                }
                // The backend lost the group too, for example in a restart.
                Err(error) if error.kind() == ErrorKind::GroupNotCreated => {
                    match groups.create(group).await {
                        Ok(()) => continue,
                        Err(e) if e.kind() == ErrorKind::GroupAlreadyExists => continue,
                        Err(error) => warn!(%group, %error, "the group is not recreated yet"),
                    }
                }
                Err(error) => warn!(%group, %error, "not rejoined yet"),
            }
            drop(joined);
            backoff.pause().await;
        }
    }
}

/// Whether a membership is lost and waits to be joined again, so that the backend does not know it.
fn is_pending(membership: &Membership, error: &Error) -> bool {
    let unknown = matches!(error.kind(), ErrorKind::MemberNotJoined | ErrorKind::GroupNotCreated);
    unknown && !membership.lease.is_held()
}

//! The coordinator, where a user starts.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::engine::Undo;
use crate::events::channel;
use crate::handle::Handle;
use crate::ownership::{Ownership, Target};
use crate::supervisor::Supervisor;
use crate::{
    Capabilities, Characteristics, Error, ErrorKind, Events, Feature, Features, GroupEvent,
    GroupFeed, GroupId, LeaderFeed, Leadership, Lock, LockName, LockSet, Member, MemberId, Mode,
    Result, Semaphore, SessionEvent, Wait,
};

/// A member's access to a backend: locks, groups, elections.
///
/// A cheap handle: clones are the same coordinator. When the last clone and the last guard are
/// dropped, the coordinator is stopped in the background.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let registry = tooz_core::Registry::new().with(tooz_memory::DRIVER)?;
/// let coordinator = registry.builder("memory://docs-coordinator", "host-1")?.build()?;
/// coordinator.start().await?;
/// coordinator.join_group_create("workers", &()).await?;
/// let guard = coordinator.lock("inventory")?.acquire().await?;
/// guard.check()?;
/// guard.release().await?;
/// coordinator.stop().await?;
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Cancellation
/// The future of every method can be dropped at any await point. The engine then stops a dropped
/// `start`, leaves the group of a dropped `join_group`, and cancels or releases a dropped
/// acquisition. The other writes (creating, deleting and leaving a group, updating capabilities,
/// stopping) are finished by the engine once they have been polled.
///
/// # After a `fork`
/// The engine's threads and the connections belong to the parent. In the child every call fails
/// at once with [`ErrorKind::NotRunning`], every guard reports [`Loss::Forked`](crate::Loss::Forked),
/// and streams end. Dropping them there does nothing, so the parent keeps what it holds. A child must
/// make and start a coordinator of its own.
///
/// # Errors
/// Before it is started and after it is stopped, every method that needs the backend fails with
/// [`ErrorKind::NotRunning`]. A feature that the driver does not declare fails with
/// [`ErrorKind::NotImplemented`] before any I/O. If the backend cannot be reached within the
/// [timeout](crate::Builder::operation_timeout), the kind is [`ErrorKind::Connection`] or [`ErrorKind::TimedOut`].
/// Calls that failed without changing anything are retried within that time.
#[derive(Clone)]
pub struct Coordinator(Arc<Handle>);

impl Coordinator {
    pub(crate) fn new(supervisor: Arc<Supervisor>) -> Self {
        Self(Arc::new(Handle { supervisor }))
    }

    /// This member's id.
    pub fn member_id(&self) -> &MemberId {
        &self.0.supervisor.member
    }

    /// The name of the driver, such as `redis`.
    pub fn driver(&self) -> &'static str {
        self.0.supervisor.entry.name
    }

    /// Where the backend is, for messages: the URL's hosts, separated by commas, or its path if
    /// it has no hosts. Without user, password and options.
    pub fn address(&self) -> &str {
        let address = &self.0.supervisor.address;
        if address.hosts.is_empty() { &address.path } else { &address.hosts }
    }

    /// What the driver ensures in general.
    pub fn characteristics(&self) -> Characteristics {
        self.0.supervisor.entry.characteristics
    }

    /// What the driver implements.
    pub fn features(&self) -> Features {
        self.0.supervisor.entry.features
    }

    /// Connects, and starts the heartbeats unless they are manual.
    ///
    /// # Errors
    /// - [`ErrorKind::NotRunning`] if it is already started, or is being stopped.
    /// - [`ErrorKind::Connection`], [`ErrorKind::Authentication`] or [`ErrorKind::TimedOut`].
    /// - [`ErrorKind::DriverChosenPoorly`] if this deployment lacks what was
    ///   [required](crate::Builder::require).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let registry = tooz_core::Registry::new().with(tooz_memory::DRIVER)?;
    /// let coordinator = registry.builder("memory://docs-start", "host-1")?.build()?;
    /// coordinator.start().await?;
    /// coordinator.stop().await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn start(&self) -> Result<()> {
        let supervisor = self.supervisor();
        let undo = self
            .0
            .run("start", async move {
                supervisor.start().await?;
                Ok(Undo::with(move || {
                    let engine = supervisor.engine.clone();
                    engine.spawn(async move { drop(supervisor.stop().await) });
                }))
            })
            .await?;
        undo.keep();
        Ok(())
    }

    /// Releases all locks, resigns, leaves all groups and disconnects.
    ///
    /// From the first moment nothing new begins: calls and waiting acquisitions fail,
    /// streams end, partitions are [revoked](crate::Partition::revoked), and guards report their
    /// loss. What they held stays held at the backend until their holders have dropped them, but no
    /// longer than the [grace](crate::Builder::stop_grace), so that nobody else begins while they
    /// finish. Then everything that is left is released.
    ///
    /// # Errors
    /// - [`ErrorKind::NotRunning`] if it is not started.
    /// - The error that kept it from telling the backend. The coordinator is stopped even so, and what
    ///   the backend still has ends with its timeouts.
    pub async fn stop(&self) -> Result<()> {
        let supervisor = self.supervisor();
        self.0.run("stop", async move { supervisor.stop().await }).await
    }

    /// Waits until the coordinator is stopped: from then on every call fails with
    /// [`ErrorKind::NotRunning`]. Returns at the beginning of a [`stop`](Self::stop), so that workers
    /// can finish within its [grace](crate::Builder::stop_grace), and at once if it is not started.
    ///
    /// # Cancellation
    /// Dropping the future is safe. It runs on any runtime.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-stopped", "host-1").await?;
    /// let worker = std::thread::spawn({
    ///     let coordinator = coordinator.clone();
    ///     move || tooz_core::blocking::block_on(coordinator.stopped())
    /// });
    /// coordinator.stop().await?;
    /// worker.join().unwrap();
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn stopped(&self) {
        self.0.supervisor.stopped().await;
    }

    /// Renews everything that is held, and returns how long until the next heartbeat is due. Only
    /// needed with [`Heartbeat::Manual`](crate::Heartbeat::Manual).
    ///
    /// # Errors
    /// The same as those of the [type](Self). What is held stays held until its deadline: call again soon.
    ///
    /// ```
    /// # use tooz_core::Heartbeat;
    /// # tooz_core::blocking::block_on(async {
    /// # let registry = tooz_core::Registry::new().with(tooz_memory::DRIVER)?;
    /// # let builder = registry.builder("memory://docs-heartbeat", "host-1")?;
    /// let coordinator = builder.heartbeat(Heartbeat::Manual).build()?;
    /// coordinator.start().await?;
    /// let due = coordinator.heartbeat().await?; // call it again before this time is over
    /// # assert!(!due.is_zero());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn heartbeat(&self) -> Result<Duration> {
        let supervisor = self.supervisor();
        self.0.run("heartbeat", async move { supervisor.heartbeat().await }).await
    }

    /// The events of the session: trouble, loss, recovery.
    ///
    /// ```
    /// # use tooz_core::SessionEvent;
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-session-events", "host-1").await?;
    /// let mut events = coordinator.session_events();
    /// tooz_memory::World::named("docs-session-events").expire_session(coordinator.member_id());
    /// assert!(matches!(events.next().await, Some(SessionEvent::Lost(_))));
    /// assert!(matches!(events.next().await, Some(SessionEvent::Rejoined(_))));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn session_events(&self) -> Events<SessionEvent> {
        let (sink, events) = channel();
        self.0.supervisor.add_session_sink(sink);
        events
    }

    /// The lock of that name. Nothing is acquired yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty name; [`ErrorKind::NotImplemented`].
    pub fn lock(&self, name: impl Into<LockName>) -> Result<Lock> {
        self.0.needs(Feature::Locks, "lock")?;
        let name = name.into().checked().map_err(|e| e.during("lock"))?;
        Ok(Lock::new(self.0.clone(), name))
    }

    /// A semaphore of that name: a lock that `permits` holders have at once. Nothing is acquired yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty name, for no permits, and for more than
    /// [`Semaphore::MAX_PERMITS`]; [`ErrorKind::NotImplemented`].
    pub fn semaphore(&self, name: impl Into<LockName>, permits: u32) -> Result<Semaphore> {
        self.0.needs(Feature::Locks, "semaphore")?;
        Semaphore::new(self.0.clone(), name.into(), permits).map_err(|e| e.during("semaphore"))
    }

    /// Several locks, to be held together. Nothing is acquired yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for no names, an empty name, and one that is named twice;
    /// [`ErrorKind::NotImplemented`].
    pub fn lock_all<N: Into<LockName>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<LockSet> {
        self.0.needs(Feature::Locks, "lock_all")?;
        let names = names.into_iter().map(Into::into);
        LockSet::new(self.0.clone(), names.collect()).map_err(|e| e.during("lock_all"))
    }

    /// Creates a group.
    ///
    /// # Errors
    /// [`ErrorKind::GroupAlreadyExists`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-create-group", "host-1").await?;
    /// coordinator.create_group("workers").await?;
    /// let error = coordinator.create_group("workers").await.unwrap_err();
    /// assert_eq!(error.kind(), tooz_core::ErrorKind::GroupAlreadyExists);
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn create_group(&self, group: impl Into<GroupId>) -> Result<()> {
        let group = self.group(group, "create_group")?;
        self.0
            .call("create_group", group, |session, group| {
                Ok(session.require_groups()?.create(group))
            })
            .await
    }

    /// Deletes a group that has no members.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`], [`ErrorKind::GroupNotEmpty`]; otherwise those of the
    /// [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-delete-group", "host-1").await?;
    /// coordinator.create_group("workers").await?;
    /// coordinator.delete_group("workers").await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn delete_group(&self, group: impl Into<GroupId>) -> Result<()> {
        let group = self.group(group, "delete_group")?;
        self.0
            .call("delete_group", group, |session, group| {
                Ok(session.require_groups()?.delete(group))
            })
            .await
    }

    /// The groups that exist.
    ///
    /// # Errors
    /// The same as those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-groups", "host-1").await?;
    /// coordinator.create_group("workers").await?;
    /// assert!(coordinator.groups().await?.contains(&"workers".into()));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn groups(&self) -> Result<BTreeSet<GroupId>> {
        self.0.needs(Feature::Groups, "groups")?;
        self.0.call("groups", (), |session, ()| Ok(session.require_groups()?.list())).await
    }

    /// Joins a group. The membership lasts until [`leave_group`](Self::leave_group) or
    /// [`stop`](Self::stop): after a lost session the engine joins again, with the latest
    /// capabilities, and creates the group if the backend lost that too.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`], [`ErrorKind::MemberAlreadyExists`],
    /// [`ErrorKind::Serialization`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-join-group", "host-1").await?;
    /// coordinator.create_group("workers").await?;
    /// coordinator.join_group("workers", &serde_json::json!({"weight": 2})).await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn join_group<C: Serialize + ?Sized>(
        &self,
        group: impl Into<GroupId>,
        capabilities: &C,
    ) -> Result<()> {
        self.join(group.into(), Capabilities::encode(capabilities)?, false).await?.keep();
        Ok(())
    }

    /// Joins a group, and creates it if it does not exist. If the call is dropped, the membership is
    /// undone, but a group that was created stays.
    ///
    /// # Errors
    /// The same as those of [`join_group`](Self::join_group), without `GroupNotCreated`.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-join-group-create", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn join_group_create<C: Serialize + ?Sized>(
        &self,
        group: impl Into<GroupId>,
        capabilities: &C,
    ) -> Result<()> {
        self.join_for_now(group, capabilities).await?.keep();
        Ok(())
    }

    /// Joins, and leaves again when what it returns is dropped without being kept.
    pub(crate) async fn join_for_now<C: Serialize + ?Sized>(
        &self,
        group: impl Into<GroupId>,
        capabilities: &C,
    ) -> Result<Undo> {
        self.join(group.into(), Capabilities::encode(capabilities)?, true).await
    }

    async fn join(&self, group: GroupId, capabilities: Capabilities, create: bool) -> Result<Undo> {
        let group = self.group(group, "join_group")?;
        if !capabilities.is_none() {
            self.0.needs(Feature::Capabilities, "join_group")?;
        }
        let supervisor = self.supervisor();
        self.0
            .run("join_group", async move {
                let run = supervisor.run()?;
                loop {
                    match supervisor.join(&run, &group, capabilities.clone()).await {
                        Err(e) if create && e.kind() == ErrorKind::GroupNotCreated => {}
                        result => break result?,
                    }
                    match supervisor
                        .call(&group, |session, group| Ok(session.require_groups()?.create(group)))
                        .await
                    {
                        Err(e) if e.kind() == ErrorKind::GroupAlreadyExists => {}
                        result => result?,
                    }
                }
                Ok(Undo::with(move || {
                    let engine = supervisor.engine.clone();
                    // On failure the session's end ends the membership.
                    engine.spawn(async move { drop(supervisor.leave(&run, &group).await) });
                }))
            })
            .await
    }

    /// Leaves a group, and first resigns if this member leads it. Its campaigns in the group
    /// end with [`ErrorKind::MemberNotJoined`].
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`], [`ErrorKind::MemberNotJoined`]; otherwise those of the
    /// [type](Self), and then this coordinator is still a member.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-leave-group", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// coordinator.leave_group("workers").await?;
    /// assert!(coordinator.members("workers").await?.is_empty());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn leave_group(&self, group: impl Into<GroupId>) -> Result<()> {
        let group = self.group(group, "leave_group")?;
        let supervisor = self.supervisor();
        self.0
            .run("leave_group", async move {
                let run = supervisor.run()?;
                supervisor.leave(&run, &group).await
            })
            .await
    }

    /// Replaces what this member publishes about itself.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`], [`ErrorKind::MemberNotJoined`],
    /// [`ErrorKind::Serialization`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-update", "host-1").await?;
    /// coordinator.join_group_create("workers", &serde_json::json!({"weight": 1})).await?;
    /// coordinator.update_capabilities("workers", &serde_json::json!({"weight": 5})).await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn update_capabilities<C: Serialize + ?Sized>(
        &self,
        group: impl Into<GroupId>,
        capabilities: &C,
    ) -> Result<()> {
        let group = self.group(group, "update_capabilities")?;
        self.0.needs(Feature::Capabilities, "update_capabilities")?;
        let capabilities = Capabilities::encode(capabilities)?;
        let supervisor = self.supervisor();
        self.0
            .run(
                "update_capabilities",
                async move { supervisor.update(&group, capabilities).await },
            )
            .await
    }

    /// Removes any member from a group: for operators, when a member hangs or must go.
    ///
    /// A living member learns of it, and joins again unless it was built with
    /// [`Builder::rejoin_when_removed(false)`](crate::Builder::rejoin_when_removed).
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`], [`ErrorKind::MemberNotJoined`]; otherwise those of the
    /// [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-remove-member", "host-1").await?;
    /// coordinator.create_group("workers").await?;
    /// let error = coordinator.remove_member("workers", "host-9").await.unwrap_err();
    /// assert_eq!(error.kind(), tooz_core::ErrorKind::MemberNotJoined);
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn remove_member(
        &self,
        group: impl Into<GroupId>,
        member: impl Into<MemberId>,
    ) -> Result<()> {
        let group = self.group(group, "remove_member")?;
        let member = member.into().checked().map_err(|e| e.during("remove_member"))?;
        self.0
            .call("remove_member", (group, member), |session, (group, member)| {
                Ok(session.require_groups()?.remove_member(group, member))
            })
            .await
    }

    /// The ids of the living members.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-members", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// assert!(coordinator.members("workers").await?.contains(coordinator.member_id()));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn members(&self, group: impl Into<GroupId>) -> Result<BTreeSet<MemberId>> {
        let group = self.group(group, "members")?;
        self.0
            .call("members", group, |session, group| Ok(session.require_groups()?.members(group)))
            .await
    }

    /// The living members with what they publish, in the order of their ids.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-members-with", "host-1").await?;
    /// coordinator.join_group_create("workers", &"eu-west").await?;
    /// for member in coordinator.members_with_capabilities("workers").await? {
    ///     println!("{}: {}", member.id, member.capabilities);
    /// }
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn members_with_capabilities(
        &self,
        group: impl Into<GroupId>,
    ) -> Result<Vec<Member>> {
        let group = self.group(group, "members_with_capabilities")?;
        self.0
            .call("members_with_capabilities", group, |session, group| {
                Ok(session.require_groups()?.members_with_capabilities(group))
            })
            .await
    }

    /// One living member, with what it publishes and what the backend knows about it.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`], [`ErrorKind::MemberNotJoined`]; otherwise those of the
    /// [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-member", "host-1").await?;
    /// coordinator.join_group_create("workers", &"eu-west").await?;
    /// let member = coordinator.member("workers", "host-1").await?;
    /// assert_eq!(member.capabilities.decode::<String>()?, "eu-west");
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn member(
        &self,
        group: impl Into<GroupId>,
        member: impl Into<MemberId>,
    ) -> Result<Member> {
        let group = self.group(group, "member")?;
        let member = member.into().checked().map_err(|e| e.during("member"))?;
        self.0
            .call("member", (group, member), |session, (group, member)| {
                Ok(session.require_groups()?.member(group, member))
            })
            .await
    }

    /// The events of a group: a snapshot, then the changes, pushed. The stream survives lost
    /// sessions, which it marks with [`GroupEvent::Gap`]; if the group is deleted, it waits until
    /// the group is created again.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # use tooz_core::GroupEvent;
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-watch-group", "host-1").await?;
    /// coordinator.create_group("workers").await?;
    /// let mut events = coordinator.watch_group("workers").await?;
    /// assert!(matches!(events.next().await, Some(GroupEvent::Snapshot(all)) if all.is_empty()));
    /// coordinator.join_group("workers", &()).await?;
    /// assert!(matches!(events.next().await, Some(GroupEvent::Joined(_))));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn watch_group(&self, group: impl Into<GroupId>) -> Result<Events<GroupEvent>> {
        let group = self.group(group, "watch_group")?;
        self.0.needs(Feature::Events, "watch_group")?;
        let supervisor = self.supervisor();
        self.0
            .run("watch_group", async move {
                let run = supervisor.run()?;
                supervisor
                    .call(&group, |session, group| Ok(session.require_groups()?.members(group)))
                    .await?;
                let (feed, events) = GroupFeed::new();
                supervisor.feed_group(run, group, feed);
                Ok(events)
            })
            .await
    }

    /// Campaigns for the leadership of a group that this member has joined, until it leads or leaves
    /// the group.
    ///
    /// # Errors
    /// [`ErrorKind::MemberNotJoined`] before any I/O, and if the group is left meanwhile; otherwise
    /// those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-campaign", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// let term = coordinator.campaign("workers").await?;
    /// println!("leading, with the token {}", term.fencing_token());
    /// term.stand_down().await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn campaign(&self, group: impl Into<GroupId>) -> Result<Leadership> {
        let group = group.into();
        let term = self.campaign_with(group.clone(), Wait::Forever).await?;
        term.ok_or_else(|| {
            Error::new(ErrorKind::LockAcquireFailed, "the campaign ended without a term")
                .with("group", group)
        })
    }

    /// Campaigns for as long as `wait` says; `None` if that time ended without a term.
    ///
    /// # Errors
    /// The same as those of [`campaign`](Self::campaign).
    ///
    /// ```
    /// # use tooz_core::Wait;
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-campaign-with", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// let term = coordinator.campaign_with("workers", Wait::Try).await?;
    /// assert!(term.is_some());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn campaign_with(
        &self,
        group: impl Into<GroupId>,
        wait: Wait,
    ) -> Result<Option<Leadership>> {
        let group = self.group(group, "campaign")?;
        self.0.needs(Feature::Elections, "campaign")?;
        let (target, mode) = (Target::Leadership(group), Mode::Exclusive);
        let term = Ownership::acquire(self.0.clone(), "campaign", target, mode, wait).await?;
        Ok(term.map(Leadership::new))
    }

    /// Who leads the group.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-leader", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// assert_eq!(coordinator.leader("workers").await?, None);
    /// let term = coordinator.campaign("workers").await?;
    /// assert_eq!(coordinator.leader("workers").await?.as_ref(), Some(coordinator.member_id()));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn leader(&self, group: impl Into<GroupId>) -> Result<Option<MemberId>> {
        let group = self.group(group, "leader")?;
        self.0.needs(Feature::Elections, "leader")?;
        self.0
            .call("leader", group, |session, group| Ok(session.require_elections()?.leader(group)))
            .await
    }

    /// Who leads the group, now and after each change, pushed. A change that is immediately followed
    /// by another may not be seen.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotCreated`]; otherwise those of the [type](Self).
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-watch-leader", "host-1").await?;
    /// coordinator.join_group_create("workers", &()).await?;
    /// let mut leaders = coordinator.watch_leader("workers").await?;
    /// assert_eq!(leaders.next().await, Some(None));
    /// let term = coordinator.campaign("workers").await?;
    /// assert_eq!(leaders.next().await, Some(Some("host-1".into())));
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn watch_leader(
        &self,
        group: impl Into<GroupId>,
    ) -> Result<Events<Option<MemberId>>> {
        let group = self.group(group, "watch_leader")?;
        self.0.needs(Feature::Elections, "watch_leader")?;
        let supervisor = self.supervisor();
        self.0
            .run("watch_leader", async move {
                let run = supervisor.run()?;
                supervisor
                    .call(&group, |session, group| Ok(session.require_elections()?.leader(group)))
                    .await?;
                let (feed, events) = LeaderFeed::new();
                supervisor.feed_leader(run, group, feed);
                Ok(events)
            })
            .await
    }

    /// An alias of [`watch_leader`](Self::watch_leader), by the name that etcd uses.
    pub async fn observe_leader(
        &self,
        group: impl Into<GroupId>,
    ) -> Result<Events<Option<MemberId>>> {
        self.watch_leader(group).await
    }

    fn group(&self, group: impl Into<GroupId>, operation: &'static str) -> Result<GroupId> {
        self.0.needs(Feature::Groups, operation)?;
        group.into().checked().map_err(|e| e.during(operation))
    }

    /// Runs `work` on the engine, to its end.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.supervisor.engine.spawn(work);
    }

    /// The first pause of the retry policy, on the engine.
    pub(crate) async fn pause_before_retry(&self) {
        self.0.supervisor.settings.retry.backoff().pause().await;
    }

    fn supervisor(&self) -> Arc<Supervisor> {
        self.0.supervisor.clone()
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("backend", &self.0.supervisor.entry.name)
            .field("member", &self.0.supervisor.member)
            .finish()
    }
}

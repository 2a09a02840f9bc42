//! The same API for code without async.
//!
//! Each method does what its async namesake does, and blocks the calling thread meanwhile; errors and
//! guarantees are the same. The engine works on its own thread, so nothing here needs a runtime
//! or starves a heartbeat. Do not call it from async code: it blocks the executor.
//!
//! ```
//! use tooz_core::{Registry, blocking};
//!
//! let registry = Registry::new().with(tooz_memory::DRIVER)?;
//! let builder = registry.builder("memory://docs-blocking", "host-1")?;
//! let coordinator = blocking::Coordinator::connect(builder)?;
//! let guard = coordinator.lock("inventory")?.acquire()?;
//! guard.check()?;
//! guard.release()?;
//! coordinator.stop()?;
//! # Ok::<(), tooz_core::Error>(())
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::hash_ring::Hash;
use crate::{
    Builder, Fence, FencingToken, GroupEvent, GroupId, HashRing, LockName, Loss, Member, MemberId,
    Mode, Result, Revocation, SessionEvent, Wait,
};

/// Runs a future to its end on the calling thread, with no runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

/// [`Coordinator`](crate::Coordinator), blocking.
#[derive(Clone, Debug)]
pub struct Coordinator(crate::Coordinator);

/// [`Lock`](crate::Lock), blocking.
#[derive(Clone, Debug)]
pub struct Lock(crate::Lock);

/// [`LockGuard`](crate::LockGuard), blocking. Dropping it releases the lock in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard(crate::LockGuard);

/// [`Leadership`](crate::Leadership), blocking. Dropping it resigns in the background.
#[derive(Debug)]
#[must_use = "dropping the leadership resigns"]
pub struct Leadership(crate::Leadership);

/// [`PartitionedGroup`](crate::PartitionedGroup), blocking.
#[derive(Debug)]
#[must_use = "it does nothing until join() or follow() is called"]
pub struct PartitionedGroup(crate::PartitionedGroup);

/// [`Partitioner`](crate::Partitioner), blocking.
#[derive(Clone, Debug)]
pub struct Partitioner(crate::Partitioner);

/// [`Partitions`](crate::Partitions), blocking.
#[derive(Debug)]
pub struct Partitions(crate::Partitions);

/// [`Partition`](crate::Partition), blocking. Dropping it releases it in the background.
#[derive(Debug)]
#[must_use = "dropping the partition releases it"]
pub struct Partition(crate::Partition);

/// [`Events`](crate::Events) as an iterator that waits for the next event.
#[derive(Debug)]
#[must_use = "events come only to a stream that is kept"]
pub struct Events<T>(crate::Events<T>);

/// Declares blocking twins that only wait for the method of the same name.
macro_rules! wait_for {
    ($of:ident: $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)+) => {
        $(
            #[doc = concat!("[`", stringify!($name), "`](crate::", stringify!($of), "::", stringify!($name), "), blocking.")]
            pub fn $name(&self, $($arg: $type),*) -> Result<$result> {
                block_on(self.0.$name($($arg),*))
            }
        )+
    };
}

/// Declares what a guard, a leadership, a permit and a partition have in common: see
/// [`Ownership`](crate::Ownership).
macro_rules! ownership {
    ($($name:ident),+) => {
        $(
            impl $name {
                /// The token of this acquisition: greater than that of every earlier one.
                pub fn fencing_token(&self) -> FencingToken {
                    self.0.fencing_token()
                }

                /// What a resource needs in order to refuse earlier holders.
                pub fn fence(&self) -> Fence {
                    self.0.fence()
                }

                /// The moment at which it counts as lost unless a renewal is confirmed before.
                pub fn deadline(&self) -> Option<Instant> {
                    self.0.deadline()
                }

                /// Why it is lost, if it is. Looks at the clock, and does not block.
                pub fn loss(&self) -> Option<Loss> {
                    self.0.loss()
                }

                /// Succeeds while it is held. Looks at the clock, and does not block.
                ///
                /// # Errors
                /// The same as those of [`Ownership::check`](crate::Ownership::check).
                pub fn check(&self) -> Result<()> {
                    self.0.check()
                }

                /// Asks the backend whether it is still ours.
                ///
                /// # Errors
                /// The same as those of [`Ownership::verify`](crate::Ownership::verify).
                pub fn verify(&self) -> Result<bool> {
                    block_on(self.0.verify())
                }

                /// Waits until it is lost.
                pub fn lost(&self) -> Loss {
                    block_on(self.0.lost())
                }

                /// Waits until its deadline is nearer than `time`, or it is lost: see
                /// [`Ownership::expires_within`](crate::Ownership::expires_within).
                pub fn expires_within(&self, time: Duration) {
                    block_on(self.0.expires_within(time));
                }

                /// Runs `work` if it is held, and succeeds if it was held to the end. A thread
                /// cannot be interrupted, so `work` continues after a loss: let it
                /// [check](Self::check) between its steps, and send the
                /// [token](Self::fencing_token) with each write.
                ///
                /// # Errors
                /// The same as those of [`check`](Self::check). What `work` has done stays done.
                pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
                    self.check()?;
                    let done = work();
                    self.check()?;
                    Ok(done)
                }
            }
        )+
    };
}

ownership!(LockGuard, Leadership, Partition, Permit);

// Semaphores, and several locks at once.
mod several;

pub use several::{LockSet, LockSetGuard, Permit, Semaphore};

impl Coordinator {
    /// Makes the coordinator that a builder describes, and starts it.
    ///
    /// # Errors
    /// The same as those of [`Builder::connect`].
    pub fn connect(builder: Builder) -> Result<Self> {
        block_on(builder.connect()).map(Self)
    }

    /// The coordinator itself, for everything that does not block.
    pub fn asynchronous(&self) -> &crate::Coordinator {
        &self.0
    }

    wait_for! { Coordinator:
        start() -> ();
        stop() -> ();
        heartbeat() -> Duration;
        groups() -> BTreeSet<GroupId>;
        create_group(group: impl Into<GroupId>) -> ();
        delete_group(group: impl Into<GroupId>) -> ();
        join_group(group: impl Into<GroupId>, capabilities: &(impl Serialize + ?Sized)) -> ();
        join_group_create(group: impl Into<GroupId>, capabilities: &(impl Serialize + ?Sized)) -> ();
        update_capabilities(group: impl Into<GroupId>, capabilities: &(impl Serialize + ?Sized)) -> ();
        leave_group(group: impl Into<GroupId>) -> ();
        members(group: impl Into<GroupId>) -> BTreeSet<MemberId>;
        members_with_capabilities(group: impl Into<GroupId>) -> Vec<Member>;
        member(group: impl Into<GroupId>, member: impl Into<MemberId>) -> Member;
        remove_member(group: impl Into<GroupId>, member: impl Into<MemberId>) -> ();
        leader(group: impl Into<GroupId>) -> Option<MemberId>;
    }

    /// [`stopped`](crate::Coordinator::stopped), blocking.
    pub fn stopped(&self) {
        block_on(self.0.stopped());
    }

    /// The lock of that name. Nothing is acquired yet.
    pub fn lock(&self, name: impl Into<LockName>) -> Result<Lock> {
        self.0.lock(name).map(Lock)
    }

    /// A semaphore of that name. Nothing is acquired yet.
    pub fn semaphore(&self, name: impl Into<LockName>, permits: u32) -> Result<Semaphore> {
        self.0.semaphore(name, permits).map(Semaphore)
    }

    /// Several locks, to be held together. Nothing is acquired yet.
    pub fn lock_all<N: Into<LockName>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<LockSet> {
        self.0.lock_all(names).map(LockSet)
    }

    /// Campaigns until it leads.
    pub fn campaign(&self, group: impl Into<GroupId>) -> Result<Leadership> {
        block_on(self.0.campaign(group)).map(Leadership)
    }

    /// Campaigns for as long as `wait` says; `None` if that time ended without a term.
    pub fn campaign_with(
        &self,
        group: impl Into<GroupId>,
        wait: Wait,
    ) -> Result<Option<Leadership>> {
        Ok(block_on(self.0.campaign_with(group, wait))?.map(Leadership))
    }

    /// A group whose members share out objects by a hash ring. Nothing is joined yet.
    pub fn partitioned_group(&self, group: impl Into<GroupId>) -> PartitionedGroup {
        PartitionedGroup(self.0.partitioned_group(group))
    }

    /// The events of a group.
    pub fn watch_group(&self, group: impl Into<GroupId>) -> Result<Events<GroupEvent>> {
        block_on(self.0.watch_group(group)).map(Events)
    }

    /// Who leads the group, now and after each change.
    pub fn watch_leader(&self, group: impl Into<GroupId>) -> Result<Events<Option<MemberId>>> {
        block_on(self.0.watch_leader(group)).map(Events)
    }

    /// The events of the session.
    pub fn session_events(&self) -> Events<SessionEvent> {
        Events(self.0.session_events())
    }
}

impl From<crate::Coordinator> for Coordinator {
    fn from(coordinator: crate::Coordinator) -> Self {
        Self(coordinator)
    }
}

impl Lock {
    /// The lock itself.
    pub fn asynchronous(&self) -> &crate::Lock {
        &self.0
    }

    wait_for! { Lock:
        break_lock() -> bool;
    }

    /// The same lock, but held for at least `time`: see [`Lock::at_least`](crate::Lock::at_least).
    #[must_use]
    pub fn at_least(self, time: Duration) -> Self {
        Self(self.0.at_least(time))
    }

    /// Acquires it, and waits as long as it takes.
    pub fn acquire(&self) -> Result<LockGuard> {
        block_on(self.0.acquire()).map(LockGuard)
    }

    /// [`acquire`](Self::acquire), holding the lock [at least](Self::at_least) that long.
    pub fn acquire_at_least(&self, time: Duration) -> Result<LockGuard> {
        block_on(self.0.acquire_at_least(time)).map(LockGuard)
    }

    /// Acquires it if nobody holds it.
    pub fn try_acquire(&self) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::Try)
    }

    /// Acquires it, or gives up after `time`.
    pub fn try_acquire_for(&self, time: Duration) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::For(time))
    }

    /// Acquires it together with other shared holders, and waits as long as it takes.
    pub fn acquire_shared(&self) -> Result<LockGuard> {
        block_on(self.0.acquire_shared()).map(LockGuard)
    }

    /// Acquires it together with other shared holders, if no exclusive holder has it.
    pub fn try_acquire_shared(&self) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Shared, Wait::Try)
    }

    /// Acquires it together with other shared holders, or gives up after `time`.
    pub fn try_acquire_shared_for(&self, time: Duration) -> Result<Option<LockGuard>> {
        self.acquire_with(Mode::Shared, Wait::For(time))
    }

    /// Acquires it in a mode, and waits for as long as `wait` says; `None` if that time ended without
    /// the lock.
    pub fn acquire_with(&self, mode: Mode, wait: Wait) -> Result<Option<LockGuard>> {
        Ok(block_on(self.0.acquire_with(mode, wait))?.map(LockGuard))
    }
}

impl LockGuard {
    /// Releases the lock, and waits until that is confirmed or its lease has ended.
    ///
    /// # Errors
    /// The same as those of [`LockGuard::release`](crate::LockGuard::release).
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }
}

impl Leadership {
    /// Ends the term, and waits until that is confirmed or its lease has ended.
    ///
    /// # Errors
    /// The same as those of [`Leadership::resign`](crate::Leadership::resign).
    pub fn resign(self) -> Result<()> {
        block_on(self.0.resign())
    }
}

impl PartitionedGroup {
    /// How much this member takes: see [`weight`](crate::PartitionedGroup::weight).
    pub fn weight(self, weight: u32) -> Self {
        Self(self.0.weight(weight))
    }

    /// How many points it has for each unit of weight: see
    /// [`points`](crate::PartitionedGroup::points).
    pub fn points(self, points: u32) -> Self {
        Self(self.0.points(points))
    }

    /// What places points and objects: see [`hash`](crate::PartitionedGroup::hash).
    pub fn hash(self, hash: Hash) -> Self {
        Self(self.0.hash(hash))
    }

    /// Joins the group, creates it if it does not exist, and follows it.
    ///
    /// # Errors
    /// The same as those of [`join`](crate::PartitionedGroup::join).
    pub fn join(self) -> Result<Partitioner> {
        block_on(self.0.join()).map(Partitioner)
    }

    /// Follows the group without being one of its members.
    ///
    /// # Errors
    /// The same as those of [`follow`](crate::PartitionedGroup::follow).
    pub fn follow(self) -> Result<Partitioner> {
        block_on(self.0.follow()).map(Partitioner)
    }
}

impl Partitioner {
    wait_for! { Partitioner:
        change_weight(weight: u32) -> ();
    }

    /// The ring as it is now.
    pub fn ring(&self) -> Arc<HashRing> {
        self.0.ring()
    }

    /// Which members have an object, the owner first.
    pub fn members_for_object(&self, object: impl AsRef<[u8]>, replicas: usize) -> Vec<MemberId> {
        self.0.members_for_object(object, replicas)
    }

    /// Whether this member owns an object.
    pub fn belongs_to_self(&self, object: impl AsRef<[u8]>) -> bool {
        self.0.belongs_to_self(object)
    }

    /// The ring now and after each change of the group.
    pub fn changes(&self) -> Events<Arc<HashRing>> {
        Events(self.0.changes())
    }

    /// A fixed number of partitions, each owned by one member at a time.
    pub fn partitions(&self, count: u32) -> Partitions {
        Partitions(self.0.partitions(count))
    }
}

impl Partitions {
    /// Waits for the next partition that this member owns; `None` once the coordinator is stopped.
    pub fn owned(&mut self) -> Option<Partition> {
        block_on(self.0.owned()).map(Partition)
    }

    /// The partition that an object is in.
    pub fn number_of(&self, object: impl AsRef<[u8]>) -> u32 {
        self.0.number_of(object)
    }
}

impl Partition {
    /// Its number, from 0.
    pub fn number(&self) -> u32 {
        self.0.number()
    }

    /// Waits until it must be released.
    pub fn revoked(&self) -> Revocation {
        block_on(self.0.revoked())
    }

    /// Whether it must be released. Looks at the clock, and does not block.
    pub fn is_revoked(&self) -> Option<Revocation> {
        self.0.is_revoked()
    }

    /// Releases it, and waits until the next owner can have it.
    ///
    /// # Errors
    /// The same as those of [`LockGuard::release`].
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }
}

impl<T> Iterator for Events<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        block_on(self.0.next())
    }
}

//! The same API for code without async.
//!
//! Each method does what its namesake does, and blocks the calling thread meanwhile; errors and
//! guarantees are the same. The engine works on its own thread, so none of this needs a runtime,
//! and none of it starves a heartbeat. Do not call it from async code: it blocks the executor.
//!
//! ```
//! use tooz_core::{Registry, blocking};
//!
//! let registry = Registry::new().with(tooz_memory::DRIVER)?;
//! let coordinator = blocking::Coordinator::from(
//!     registry.builder("memory://docs-blocking", "host-1")?.build()?,
//! );
//! coordinator.start()?;
//! let guard = coordinator.lock("inventory")?.acquire()?;
//! guard.check()?;
//! guard.release()?;
//! coordinator.stop()?;
//! # Ok::<(), tooz_core::Error>(())
//! ```

use std::collections::BTreeSet;
use std::ops::Deref;
use std::time::Duration;

use serde::Serialize;

use crate::{
    GroupEvent, GroupId, LockName, Loss, Member, MemberId, Mode, Ownership, Result, SessionEvent,
    Wait,
};

/// Runs a future to its end on the calling thread, with no runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

/// [`Coordinator`](crate::Coordinator), blocking. Made from one with `From`.
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
#[must_use = "dropping the leadership resigns it"]
pub struct Leadership(crate::Leadership);

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

impl Coordinator {
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

    /// A lock of that name. Nothing is acquired yet.
    pub fn lock(&self, name: impl Into<LockName>) -> Result<Lock> {
        self.0.lock(name).map(Lock)
    }

    /// Stands for election until it leads.
    pub fn campaign(&self, group: impl Into<GroupId>) -> Result<Leadership> {
        block_on(self.0.campaign(group)).map(Leadership)
    }

    /// Stands for election and waits as told; `None` if the time was over before.
    pub fn campaign_with(
        &self,
        group: impl Into<GroupId>,
        wait: Wait,
    ) -> Result<Option<Leadership>> {
        Ok(block_on(self.0.campaign_with(group, wait))?.map(Leadership))
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

    /// Acquires it, and waits as long as it takes.
    pub fn acquire(&self) -> Result<LockGuard> {
        block_on(self.0.acquire()).map(LockGuard)
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

    /// Acquires it in a mode, waiting as told; `None` if the time was over before.
    pub fn acquire_with(&self, mode: Mode, wait: Wait) -> Result<Option<LockGuard>> {
        Ok(block_on(self.0.acquire_with(mode, wait))?.map(LockGuard))
    }
}

impl LockGuard {
    /// Waits until it is lost.
    pub fn wait_lost(&self) -> Loss {
        block_on(self.0.lost())
    }

    /// Releases the lock, and waits until that is confirmed or its lease has ended.
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }
}

impl Leadership {
    /// Waits until it is lost.
    pub fn wait_lost(&self) -> Loss {
        block_on(self.0.lost())
    }

    /// Ends the term, and waits until that is confirmed or its lease has ended.
    pub fn resign(self) -> Result<()> {
        block_on(self.0.resign())
    }
}

impl Deref for LockGuard {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        &self.0
    }
}

impl Deref for Leadership {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        &self.0
    }
}

impl<T> Iterator for Events<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        block_on(self.0.next())
    }
}

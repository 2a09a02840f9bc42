//! The contract between the engine and a driver.
//!
//! A driver crate exports one const [`DriverEntry`]. From it come, in this order: a [`Driver`]
//! (configured, not connected), its [`Session`]s (one connection's life each), and the [`Hold`]s
//! that a session grants (a lock, a term).
//!
//! # What the engine does, so that a driver need not
//!
//! - It calls a driver inside the engine's Tokio runtime and on no other thread, so `tokio::spawn`,
//!   timers and sockets work in every method.
//! - It drives the future of every method here to completion, whatever the caller does with its
//!   own: a driver never has to be safe against being dropped halfway. The two exceptions are
//!   [`Groups::watch`] and [`Elections::watch`], which only read and are dropped when
//!   nobody listens any more.
//! - It undoes what an abandoned call has done: it releases a hold, or leaves a group.
//! - It calls [`Session::heartbeat`] in time, retries, and opens a new session after a loss. It
//!   joins the groups again, restarts watches, and puts waiting acquisitions back in the queue.
//! - It never lets two joins, leaves or updates of the same group overlap. Those of different groups
//!   do.
//! - It judges ownership by [`Lease`]s: by the local deadline, without asking the driver.
//! - It refuses undeclared features and empty names before a driver is called.
//!
//! # What a driver must do
//!
//! - Return. Each request to the backend has a time limit of the driver's own, after which it fails
//!   with the right [`Outcome`](crate::Outcome). Waiting is bounded only by [`WaitLimit`].
//! - Resolve lost replies. Each acquisition carries an [`OperationId`]; store it, so that after a
//!   broken connection a read tells whether the write was applied. Only what stays unknown is
//!   [`Outcome::Unknown`](crate::Outcome::Unknown).
//! - Start every lease at a moment *before* the request for it was sent. What ends with the
//!   session has a [child](Lease::child) of the session's lease, or one [with a time of its
//!   own](Lease::timed_child): then it is lost with the session without any call by the driver.
//! - Call [`Lease::lose`] as soon as the backend says that something is no longer ours.
//! - Push: a waiter or a watch wakes because the backend notifies it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    Capabilities, Characteristics, CoordinatorUrl, Error, Feature, Features, GroupFeed, GroupId,
    LeaderFeed, Lease, LockName, Member, MemberId, Options, Result, WaitLimit,
};

/// What a driver crate exports as its const `DRIVER`.
#[derive(Clone, Copy, Debug)]
pub struct DriverEntry {
    /// The driver's name: that of its crate without `tooz-`.
    pub name: &'static str,
    /// The URL schemes that it serves.
    pub schemes: &'static [&'static str],
    /// What the backend ensures in general. A deployment may give less: see
    /// [`Session::characteristics`].
    pub characteristics: Characteristics,
    /// What the driver implements.
    pub features: Features,
    /// The options that say for how long, in seconds, the backend keeps what is ours after our last
    /// sign of life: those that [`Builder::time_to_live`](crate::Builder::time_to_live) sets. None if
    /// nothing ends by time.
    pub time_to_live: &'static [&'static str],
    /// Where its work runs.
    pub runs_on: RunsOn,
    /// Reads the URL and the options, and connects nothing.
    pub open: fn(&CoordinatorUrl, Options) -> Result<Arc<dyn Driver>>,
}

/// The thread that a driver's work runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsOn {
    /// The engine's thread, which all such drivers share: for drivers that never block.
    Engine,
    /// A thread of the driver's own, with the same kind of runtime: for system calls that block.
    OwnThread,
}

/// A configured backend.
#[async_trait]
pub trait Driver: fmt::Debug + Send + Sync + 'static {
    /// Opens a session for `member`: connects, authenticates, and starts whatever proves to the
    /// backend that the member lives.
    ///
    /// The engine limits the time of the call, and calls it again after a loss.
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>>;
}

/// One session with a backend: from its connection to its loss or close.
///
/// A session that is lost stays lost; the engine opens another.
#[async_trait]
pub trait Session: fmt::Debug + Send + Sync + 'static {
    /// The lease of the session itself. When it is lost, the engine opens another session.
    ///
    /// [`Lease::suspend`] on it says that the connection is in trouble; a renewal says that it is
    /// well again.
    fn lease(&self) -> &Lease;

    /// What this deployment ensures: the driver's [`DriverEntry::characteristics`], or less where
    /// the session found out about a proxy, a replica or the like.
    fn characteristics(&self) -> Characteristics;

    /// How often [`heartbeat`](Self::heartbeat) must be called; `None` if there is no need.
    fn heartbeat_interval(&self) -> Option<Duration> {
        None
    }

    /// Renews everything that this session holds, in one round trip, and the leases with it.
    ///
    /// What turns out to be lost is reported through its lease; it is not an error of the call.
    async fn heartbeat(&self) -> Result<()> {
        Ok(())
    }

    /// Ends the session: the backend forgets at once what depends on it. Idempotent, and best
    /// effort if the backend cannot be reached.
    async fn close(&self) -> Result<()>;

    /// Its locks, if the driver has any.
    fn locks(&self) -> Option<&dyn Locks> {
        None
    }

    /// Its groups, if the driver has any.
    fn groups(&self) -> Option<&dyn Groups> {
        None
    }

    /// Its elections, if the driver has any.
    fn elections(&self) -> Option<&dyn Elections> {
        None
    }
}

/// For callers that need what a driver may lack. Each method fails with
/// [`NotImplemented`](crate::ErrorKind::NotImplemented) in that case.
impl dyn Session + '_ {
    /// Its locks.
    pub fn require_locks(&self) -> Result<&dyn Locks> {
        self.locks().ok_or_else(|| Error::not_implemented(Feature::Locks))
    }

    /// Its groups.
    pub fn require_groups(&self) -> Result<&dyn Groups> {
        self.groups().ok_or_else(|| Error::not_implemented(Feature::Groups))
    }

    /// Its elections.
    pub fn require_elections(&self) -> Result<&dyn Elections> {
        self.elections().ok_or_else(|| Error::not_implemented(Feature::Elections))
    }
}

/// The locks of a session.
#[async_trait]
pub trait Locks: Send + Sync {
    /// Acquires a lock; `None` if the wait ended without it.
    ///
    /// After `None` or an error, nothing is left on the backend that could still be granted; what
    /// could not be cancelled at once is cancelled in the background as soon as that can be done.
    ///
    /// Acquisitions never nest: while one is held, another of the same name waits, even by the
    /// same session, unless both are shared.
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>>;

    /// Breaks a lock, whoever holds it, and returns whether anybody did. The holder learns of it as
    /// soon as the backend can tell.
    async fn break_lock(&self, name: &LockName) -> Result<bool>;
}

/// The groups of a session, and its member in them.
///
/// Calls that join, leave or update never overlap for the same group, but do for different ones.
#[async_trait]
pub trait Groups: Send + Sync {
    /// Creates a group, or fails with `GroupAlreadyExists`.
    async fn create(&self, group: &GroupId) -> Result<()>;

    /// Deletes a group, or fails with `GroupNotCreated` or `GroupNotEmpty`. No join can fall
    /// between the check and the deletion.
    async fn delete(&self, group: &GroupId) -> Result<()>;

    /// The groups that exist.
    async fn list(&self) -> Result<BTreeSet<GroupId>>;

    /// Joins a group, or fails with `GroupNotCreated` or `MemberAlreadyExists` and changes
    /// nothing. The lease is that of the membership.
    async fn join(&self, request: JoinRequest) -> Result<Lease>;

    /// Leaves a group, or fails with `GroupNotCreated` or `MemberNotJoined`.
    async fn leave(&self, group: &GroupId) -> Result<()>;

    /// Replaces this member's capabilities, or fails with `GroupNotCreated` or `MemberNotJoined`.
    async fn update_capabilities(&self, group: &GroupId, capabilities: &Capabilities)
    -> Result<()>;

    /// Removes any member, or fails with `GroupNotCreated` or `MemberNotJoined`. The
    /// lease of its membership is lost as [`Loss::Taken`](crate::Loss::Taken): at once where the
    /// backend pushes, with its next heartbeat at the latest.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()>;

    /// The ids of the living members, or `GroupNotCreated`.
    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>>;

    /// The living members with everything that is known about them, in the order of their ids, or
    /// `GroupNotCreated`. One round trip if the backend can.
    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>>;

    /// One member, or `GroupNotCreated` or `MemberNotJoined`.
    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member>;

    /// Feeds what happens in a group until it is dropped or fails: first a snapshot, then
    /// snapshots or changes, with nothing missing in between. A group that does not exist has no
    /// members, and may appear later.
    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()>;
}

/// The elections of a session: one in each group.
#[async_trait]
pub trait Elections: Send + Sync {
    /// Acquires the leadership of a group, under the rules of [`Locks::acquire`]. The engine has
    /// checked that this member is in the group.
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>>;

    /// Who leads the group, or `GroupNotCreated`.
    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>>;

    /// Feeds who leads the group until it is dropped or fails: first the present leader.
    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()>;
}

/// A lock or a term that a session granted.
#[async_trait]
pub trait Hold: fmt::Debug + Send + Sync + 'static {
    /// The fencing token: greater than that of every earlier acquisition of this name.
    fn token(&self) -> FencingToken;

    /// How long it is ours.
    fn lease(&self) -> &Lease;

    /// Asks the backend whether it is ours.
    async fn verify(&self) -> Result<bool>;

    /// Releases it, and touches nothing that is somebody else's by now. Idempotent; the engine
    /// repeats it until it is `Ok` or the lease has ended at the backend. Renewals stop before the
    /// request is sent. `WasLost` if there was nothing of ours to release: after an earlier request
    /// with [`Outcome::Unknown`](crate::Outcome::Unknown), the engine treats that as `Released`.
    async fn release(&self) -> Result<Release>;
}

/// What a release found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// It was ours, and it is free now.
    Released,
    /// It was no longer ours, and whoever has it keeps it.
    WasLost,
}

/// A number that strictly rises with every acquisition of a lock and every term of a group.
///
/// Send it with every request to the resource that the lock protects; the resource refuses a
/// number below the highest that it has seen.
///
/// It rises within one backend. Another backend under the same name, or one that was restored or
/// recreated, does not know the earlier tokens: see
/// [`Builder::fencing_offset`](crate::Builder::fencing_offset).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

/// For a column or a field of signed numbers. No token of ours is too large for it: the largest
/// [offset](crate::Builder::fencing_offset) plus what a driver counts is below 2⁶³.
impl TryFrom<FencingToken> for i64 {
    type Error = Error;

    fn try_from(token: FencingToken) -> Result<Self> {
        Self::try_from(token.0).map_err(|_| {
            Error::invalid("the fencing token is too large for a signed number")
                .with("token", token)
        })
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What makes an acquisition distinct from every other: stored as its value or its queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(Uuid);

impl OperationId {
    /// A new one, from the system's random numbers.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Its 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// 32 lower-case hexadecimal digits.
impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0.simple(), f)
    }
}

/// Whether a lock excludes everybody or only exclusive holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Excludes everybody.
    Exclusive,
    /// Excludes exclusive holders.
    Shared,
}

/// One acquisition of a lock or of a group's leadership. `T` is what names it: a name, a group, or
/// the driver's own keys for them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Acquisition<T> {
    /// Distinguishes it from all others.
    pub id: OperationId,
    /// What is acquired.
    pub target: T,
    /// Exclusive or shared; a leadership is exclusive.
    pub mode: Mode,
    /// How long to wait for it.
    pub wait: WaitLimit,
}

/// A join.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JoinRequest {
    /// The group.
    pub group: GroupId,
    /// What the member publishes.
    pub capabilities: Capabilities,
    /// Whether an earlier session of this very coordinator had joined: a membership under this
    /// id that is still there is a remnant of ours, to be replaced rather than refused.
    pub again: bool,
}

impl<T> Acquisition<T> {
    /// A new one.
    pub fn new(target: T, mode: Mode, wait: WaitLimit) -> Self {
        Self { id: OperationId::random(), target, mode, wait }
    }

    /// The same acquisition, with the driver's own form of the target.
    pub fn with_target<U>(self, target: U) -> Acquisition<U> {
        Acquisition { id: self.id, target, mode: self.mode, wait: self.wait }
    }
}

impl JoinRequest {
    /// A join of a group.
    pub fn new(group: GroupId, capabilities: Capabilities, again: bool) -> Self {
        Self { group, capabilities, again }
    }
}

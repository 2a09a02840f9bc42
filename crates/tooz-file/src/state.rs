//! What the files of a session share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};

use chrono::NaiveDateTime;
use tooz_core::kit::{Table, locked};
use tooz_core::{Error, GroupId, Lease, Loss, MemberId, OperationId, Release, Result};
use tracing::warn;

use crate::counter;
use crate::directory::Directory;
use crate::errors::session_lost;
use crate::group_dir::{Found, GroupDir};
use crate::guard::Guard;
use crate::locked_file::LockedFile;
use crate::presence::{Presence, SessionId};

/// The ids of all sessions of one coordinator: what they have left is its own.
pub(crate) type OwnSessions = Arc<Mutex<HashSet<SessionId>>>;

/// What a session was granted and has not released.
pub(crate) type Grants = Table<OperationId, Weak<Grant>>;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) directory: Directory,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) presence: Presence,
    pub(crate) own: OwnSessions,
    pub(crate) grants: Arc<Grants>,
    pub(crate) memberships: Table<GroupId, Arc<Membership>>,
    _guard: Guard,
}

/// A lock or a term that was granted: a locked file, for as long as a lease.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) token: u64,
    pub(crate) lease: Lease,
    /// None once it was released.
    pub(crate) locked: Mutex<Option<LockedFile>>,
    /// Whether the file says who holds it.
    pub(crate) is_signed: bool,
    pub(crate) _guard: Guard,
}

/// A group that the session has joined.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    pub(crate) joined_on: NaiveDateTime,
    pub(crate) _guard: Guard,
}

impl State {
    pub(crate) fn new(
        directory: Directory,
        presence: Presence,
        member: MemberId,
        own: OwnSessions,
    ) -> Self {
        let lease = Lease::untimed();
        let _guard = Guard::over_session(&directory, &presence.path, presence.identity, &lease);
        let (grants, memberships) = (Arc::default(), Table::default());
        Self { directory, member, lease, presence, own, grants, memberships, _guard }
    }

    pub(crate) fn group<'a>(&'a self, id: &'a GroupId) -> GroupDir<'a> {
        GroupDir { directory: &self.directory, id }
    }

    pub(crate) fn must_have_joined(&self, group: GroupDir<'_>) -> Result<()> {
        group.must_exist()?;
        match group.find(&self.member)? {
            Some(found) if self.is_ours(&found) => Ok(()),
            _ => Err(Error::member_not_joined(group.id, &self.member)),
        }
    }

    /// Whether this very session has written it.
    pub(crate) fn is_ours(&self, found: &Found) -> bool {
        found.is_of(&self.presence.id)
    }

    /// An acquisition that failed because the directory is gone failed with the session, perhaps
    /// sooner than the session was told.
    pub(crate) fn blame<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_ok() || self.presence.is_in_place() {
            return result;
        }
        self.lease.lose(Loss::SessionEnded);
        Err(session_lost())
    }
}

impl Grant {
    /// Gives it back; whether it was still ours.
    pub(crate) fn release(&self) -> Release {
        self.lease.lose(Loss::GivenUp);
        let file = locked(&self.locked).take();
        let Some(file) = file.filter(LockedFile::is_in_place) else { return Release::WasLost };
        if self.is_signed {
            // Nobody holds it from here on. If that cannot be written, the lock tells so at once.
            if let Err(error) = counter::write(file.file(), self.token, "") {
                warn!(path = %file.path().display(), %error, "the leader's name is not erased");
            }
        }
        Release::Released
    }
}

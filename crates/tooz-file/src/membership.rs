//! What a session is a member of.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use chrono::NaiveDateTime;
use tooz_core::{Capabilities, Error, ErrorKind, GroupId, JoinRequest, Lease, Loss, Result};
use tracing::debug;

use crate::errors::{failed, session_lost};
use crate::group::{Found, Group};
use crate::layout;
use crate::ofd::is_missing;
use crate::record::{self, Record};
use crate::seat::Guard;
use crate::session::FileSession;
use crate::watch::GONE;

/// The groups that a session has joined.
#[derive(Debug, Default)]
pub(crate) struct Memberships(Mutex<BTreeMap<GroupId, Membership>>);

#[derive(Debug)]
struct Membership {
    lease: Lease,
    joined_on: NaiveDateTime,
    _guard: Guard,
}

impl Memberships {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Membership>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileSession {
    pub(crate) async fn add_membership(&self, request: JoinRequest) -> Result<Lease> {
        let group = self.group(&request.group);
        if !self.presence.is_announced {
            // Its record would be a dead member's to everybody.
            let root = self.place.layout.root().display();
            let what = format!("nothing can be written to {root}, so that nobody can join there");
            return Err(Error::new(ErrorKind::Authentication, what));
        }
        let _lock = self.place.driver_lock().await?;
        if !self.lease.is_held() {
            return Err(session_lost());
        }
        group.must_exist()?;
        if let Some(found) = group.find(&self.member)?
            && found.standing.is_alive()
            && !(request.again && self.is_remnant(&found))
        {
            return Err(Error::member_already_exists(&request.group, &self.member));
        }
        let joined_on = record::now();
        self.write(group, request.capabilities, joined_on)?;
        let lease = self.lease.child();
        let membership = Membership {
            _guard: self.guard_membership(&request.group, &lease),
            lease: lease.clone(),
            joined_on,
        };
        self.memberships.lock().insert(request.group, membership);
        Ok(lease)
    }

    pub(crate) async fn remove_membership(&self, group: &GroupId) -> Result<()> {
        let _lock = self.place.driver_lock().await?;
        self.must_have_joined(self.group(group))?;
        let path = self.place.layout.member(group, &self.member);
        layout::remove(&path).map_err(|error| failed("remove", &path, error))?;
        if let Some(membership) = self.memberships.lock().remove(group) {
            membership.lease.lose(Loss::GivenUp);
        }
        Ok(())
    }

    pub(crate) async fn change_membership(
        &self,
        id: &GroupId,
        capabilities: Capabilities,
    ) -> Result<()> {
        let _lock = self.place.driver_lock().await?;
        let group = self.group(id);
        self.must_have_joined(group)?;
        let joined_on = self.memberships.lock().get(id).map(|membership| membership.joined_on);
        self.write(group, capabilities, joined_on.unwrap_or_else(record::now))
    }

    /// Shows Python that this member lives.
    pub(crate) fn touch_memberships(&self) -> Result<()> {
        for (group, membership) in &*self.memberships.lock() {
            if !membership.lease.is_held() {
                continue;
            }
            let path = self.place.layout.member(group, &self.member);
            let times = FileTimes::new().set_modified(SystemTime::now());
            // Opened to read: closing a file that was opened to write wakes who watches the group.
            match File::open(&path).and_then(|file| file.set_times(times)) {
                Ok(()) => {}
                Err(error) if is_missing(&error) => membership.lease.lose(Loss::Taken),
                Err(error) => return Err(failed("touch", &path, error)),
            }
        }
        Ok(())
    }

    /// Removes what tells of this session's memberships, which are over with its presence.
    pub(crate) async fn forget_memberships(&self) -> Result<()> {
        let groups = std::mem::take(&mut *self.memberships.lock());
        if groups.is_empty() {
            return Ok(());
        }
        let _lock = self.place.driver_lock().await?;
        for (id, _) in groups {
            let group = self.group(&id);
            if group.find(&self.member)?.is_some_and(|found| self.is_ours(&found)) {
                let path = self.place.layout.member(&id, &self.member);
                layout::remove(&path).map_err(|error| failed("remove", &path, error))?;
            }
        }
        Ok(())
    }

    pub(crate) fn must_have_joined(&self, group: Group<'_>) -> Result<()> {
        group.must_exist()?;
        match group.find(&self.member)? {
            Some(found) if self.is_ours(&found) => Ok(()),
            _ => Err(Error::member_not_joined(group.id, &self.member)),
        }
    }

    fn write(
        &self,
        group: Group<'_>,
        capabilities: Capabilities,
        joined_on: NaiveDateTime,
    ) -> Result<()> {
        let record = Record {
            member: self.member.clone(),
            capabilities,
            joined_on: Some(joined_on),
            session: Some(self.presence.id.clone()),
        };
        let path = self.place.layout.member(group.id, &self.member);
        let installed = self.place.layout.install(&path, &record.encode()?);
        installed.map_err(|error| failed("write", &path, error))
    }

    /// Loses the lease when the member's file is removed or somebody else's, or the group is no
    /// more.
    fn guard_membership(&self, group: &GroupId, lease: &Lease) -> Guard {
        let (place, group) = (self.place.clone(), group.clone());
        let (member, session) = (self.member.clone(), self.presence.id.clone());
        let path = place.layout.member(&group, &member);
        let metadata = place.layout.metadata(&group);
        Guard::while_true(&self.place, lease, Loss::Taken, move |watch| {
            watch.on_way(&path, place.layout.root());
            // An update replaces the file: the watch goes on with the new one.
            if !watch.on(&path, GONE) || !watch.on(&metadata, GONE) {
                return false;
            }
            match (Group { place: &place, id: &group }).find(&member) {
                Ok(found) => found.is_some_and(|found| is_of(&found, &session)),
                Err(error) => {
                    debug!(%group, %error, "the membership cannot be checked");
                    true
                }
            }
        })
    }

    fn is_ours(&self, found: &Found) -> bool {
        is_of(found, &self.presence.id)
    }

    /// Whether an earlier session of this coordinator has left it.
    fn is_remnant(&self, found: &Found) -> bool {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let session = found.record.as_ref().and_then(|record| record.session.as_ref());
        session.is_some_and(|session| own.contains(session))
    }
}

fn is_of(found: &Found, session: &str) -> bool {
    found.record.as_ref().and_then(|record| record.session.as_deref()) == Some(session)
}

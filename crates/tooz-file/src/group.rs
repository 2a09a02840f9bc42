//! Groups, and what a session is a member of.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::sync::Arc;
use std::time::SystemTime;

use chrono::NaiveDateTime;
use tooz_core::kit::locked;
use tooz_core::{
    Capabilities, Error, ErrorKind, GroupFeed, GroupId, Groups, JoinRequest, Lease, Loss, Member,
    MemberId, Result, async_trait,
};
use tracing::debug;

use crate::access;
use crate::errors::{failed, session_lost};
use crate::group_dir::{self, Found, GroupDir};
use crate::guard::Guard;
use crate::locked_file::LockedFile;
use crate::ofd::is_missing;
use crate::record::{self, Record};
use crate::state::{Membership, State};
use crate::watch::GONE;

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct FileGroups(pub(crate) Arc<State>);

impl FileGroups {
    /// What Python takes, too, around every change of a group.
    async fn driver_lock(&self) -> Result<LockedFile> {
        LockedFile::driver_lock(&self.0.directory).await
    }
}

#[async_trait]
impl Groups for FileGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let _lock = self.driver_lock().await?;
        self.0.group(group).create()
    }

    async fn delete(&self, group: &GroupId) -> Result<()> {
        let _lock = self.driver_lock().await?;
        self.0.group(group).delete()
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        group_dir::all(&self.0.directory)
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let group = state.group(&request.group);
        if !state.presence.is_announced {
            // Its record would be a dead member's to everybody.
            let root = state.directory.keys.root().display();
            let what = format!("{root} is not writable, so nobody can join there");
            return Err(Error::new(ErrorKind::Authentication, what));
        }
        let _lock = self.driver_lock().await?;
        if !state.lease.is_held() {
            return Err(session_lost());
        }
        group.must_exist()?;
        if let Some(found) = group.find(&state.member)?
            && found.standing.is_alive()
            && !(request.again && is_remnant(state, &found))
        {
            return Err(Error::member_already_exists(&request.group, &state.member));
        }
        let joined_on = record::now();
        write(state, group, request.capabilities, joined_on)?;
        let lease = state.lease.child();
        let _guard = guard(state, &request.group, &lease);
        let membership = Membership { lease: lease.clone(), joined_on, _guard };
        state.memberships.insert(request.group, Arc::new(membership));
        Ok(lease)
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let _lock = self.driver_lock().await?;
        state.must_have_joined(state.group(group))?;
        remove_record(state, group)?;
        if let Some(membership) = state.memberships.remove(group) {
            membership.lease.lose(Loss::GivenUp);
        }
        Ok(())
    }

    async fn update_capabilities(&self, id: &GroupId, capabilities: &Capabilities) -> Result<()> {
        let state = &self.0;
        let _lock = self.driver_lock().await?;
        let group = state.group(id);
        state.must_have_joined(group)?;
        let joined_on = state.memberships.get(id).map(|membership| membership.joined_on);
        write(state, group, capabilities.clone(), joined_on.unwrap_or_else(record::now))
    }

    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let _lock = self.driver_lock().await?;
        self.0.group(group).remove(member)
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        Ok(self.0.group(group).living().await?.members.into_keys().collect())
    }

    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        Ok(self.0.group(group).living().await?.members.into_values().collect())
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        self.0.group(group).member(member)
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        self.0.group(group).watch(feed).await
    }
}

/// Shows Python that this member lives.
pub(crate) fn touch_all(state: &State) -> Result<()> {
    for (group, membership) in state.memberships.entries() {
        if !membership.lease.is_held() {
            continue;
        }
        let path = state.directory.keys.member(&group, &state.member);
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

/// Removes what tells of the session's memberships, which are over with its presence.
pub(crate) async fn forget_all(state: &State) -> Result<()> {
    let memberships = state.memberships.take_all();
    if memberships.is_empty() {
        return Ok(());
    }
    let _lock = LockedFile::driver_lock(&state.directory).await?;
    for (group, _) in memberships {
        if state.group(&group).find(&state.member)?.is_some_and(|found| state.is_ours(&found)) {
            remove_record(state, &group)?;
        }
    }
    Ok(())
}

fn write(
    state: &State,
    group: GroupDir<'_>,
    capabilities: Capabilities,
    joined_on: NaiveDateTime,
) -> Result<()> {
    let record = Record {
        member: state.member.clone(),
        capabilities,
        joined_on: Some(joined_on),
        session: Some(state.presence.id.clone()),
    };
    let keys = &state.directory.keys;
    let path = keys.member(group.id, &state.member);
    keys.install(&path, &record.encode()?).map_err(|error| failed("write", &path, error))
}

fn remove_record(state: &State, group: &GroupId) -> Result<()> {
    let path = state.directory.keys.member(group, &state.member);
    access::remove(&path).map_err(|error| failed("remove", &path, error))
}

/// Loses the lease when the member's file is removed or somebody else's, or the group is gone.
fn guard(state: &State, group: &GroupId, lease: &Lease) -> Guard {
    let (directory, group) = (state.directory.clone(), group.clone());
    let (member, session) = (state.member.clone(), state.presence.id.clone());
    let path = directory.keys.member(&group, &member);
    let metadata = directory.keys.metadata(&group);
    Guard::while_true(&state.directory, lease, Loss::Taken, move |watch| {
        watch.on_way(&path, directory.keys.root());
        // An update replaces the file: the watch continues with the new one.
        if !watch.on(&path, GONE) || !watch.on(&metadata, GONE) {
            return false;
        }
        match (GroupDir { directory: &directory, id: &group }).find(&member) {
            Ok(found) => found.is_some_and(|found| found.is_of(&session)),
            Err(error) => {
                debug!(%group, %error, "the membership cannot be checked");
                true
            }
        }
    })
}

/// Whether an earlier session of this coordinator has left it.
fn is_remnant(state: &State, found: &Found) -> bool {
    let session = found.record.as_ref().and_then(|record| record.session.as_ref());
    session.is_some_and(|session| locked(&state.own).contains(session))
}

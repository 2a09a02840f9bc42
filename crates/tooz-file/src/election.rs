//! Elections: the holder of the lock on the leader's file leads.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Acquisition, Elections, GroupId, Hold, LeaderFeed, MemberId, Result, async_trait};

use crate::counter::Content;
use crate::directory::Directory;
use crate::errors::failed;
use crate::group_dir::{GroupDir, MADE};
use crate::keys::{hex, unhex};
use crate::lock;
use crate::ofd::{self, is_missing};
use crate::presence;
use crate::state::State;
use crate::watch::{Aftermath, CLOSED, Changes, GONE};

/// How often, 1 ms apart, to look again while a leader is about to sign.
const LOOKS: usize = 100;

/// Who leads, at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reading {
    Nobody,
    Leader(MemberId),
    /// The file is locked, and not, or no longer, signed by who has it.
    Changing,
}

/// The elections of a session.
#[derive(Debug)]
pub(crate) struct FileElections(pub(crate) Arc<State>);

#[async_trait]
impl Elections for FileElections {
    async fn campaign(&self, acquisition: Acquisition<GroupId>) -> Result<Option<Arc<dyn Hold>>> {
        self.0.blame(campaign(&self.0, acquisition).await)
    }

    async fn leader(&self, group: &GroupId) -> Result<Option<MemberId>> {
        leader(self.0.group(group)).await
    }

    async fn watch(&self, group: &GroupId, feed: &LeaderFeed) -> Result<()> {
        watch(self.0.group(group), feed).await
    }
}

async fn campaign(
    state: &Arc<State>,
    acquisition: Acquisition<GroupId>,
) -> Result<Option<Arc<dyn Hold>>> {
    let id = acquisition.target.clone();
    let group = state.group(&id);
    state.must_have_joined(group)?;
    let sign = |token| signature(&state.presence.id, &state.member, token);
    let acquisition = acquisition.with_target(state.directory.keys.leader(&id));
    let Some(hold) = lock::acquire(state, acquisition, Some(&sign)).await? else {
        return Ok(None);
    };
    // The wait may have outlasted the membership.
    if let Err(error) = state.must_have_joined(group) {
        hold.release_now();
        return Err(error);
    }
    Ok(Some(hold))
}

/// Who leads the group.
async fn leader(group: GroupDir<'_>) -> Result<Option<MemberId>> {
    group.must_exist()?;
    for _ in 0..LOOKS {
        match read(group.directory, group.id)? {
            Reading::Nobody => return Ok(None),
            Reading::Leader(member) => return Ok(Some(member)),
            Reading::Changing => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    // Stopped between the lock and its signature: nobody knows, not even itself.
    Ok(None)
}

/// Feeds who leads the group until it is dropped or fails.
async fn watch(group: GroupDir<'_>, feed: &LeaderFeed) -> Result<()> {
    let path = group.directory.keys.leader(group.id);
    let (mut watch, mut aftermath) = (group.directory.watch(), Aftermath::default());
    let mut is_first = true;
    loop {
        // A new leader writes its name; one that resigns or dies closes the file.
        let changes = CLOSED | GONE | Changes::IN_MODIFY;
        if !watch.on(&path, changes) {
            group.directory.watch_dir(&mut watch, &group.directory.keys.leaders(), MADE)?;
            // Made in between?
            watch.on(&path, changes);
        }
        match read(group.directory, group.id)? {
            Reading::Nobody => feed.leader(None),
            Reading::Leader(member) => feed.leader(Some(member)),
            Reading::Changing if is_first => feed.leader(None),
            Reading::Changing => {}
        }
        is_first = false;
        tokio::select! {
            changes = watch.changed() => if changes.intersects(CLOSED) { aftermath.begin() },
            () = aftermath.pause() => {}
        }
    }
}

fn read(directory: &Directory, group: &GroupId) -> Result<Reading> {
    let path = directory.keys.leader(group);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(Reading::Nobody),
        Err(error) => return Err(failed("open", &path, error)),
    };
    let read = || {
        if !ofd::is_locked(&file)? {
            return Ok(Reading::Nobody);
        }
        let content = Content::read(&file)?.unwrap_or_default();
        let Some((session, member)) = signed(&content) else { return Ok(Reading::Changing) };
        // A dead leader may have left its signature to one that has not signed yet.
        let lives = presence::lives(&directory.keys, session)?;
        Ok(if lives { Reading::Leader(member) } else { Reading::Changing })
    };
    read().map_err(|error| failed("read", &path, error))
}

/// Who leads, and by which session and token. The token ends it, so that half of it is none.
fn signature(session: &str, member: &MemberId, token: u64) -> String {
    format!("{session} {} {token}", hex(member.as_bytes()))
}

fn signed(content: &Content) -> Option<(&str, MemberId)> {
    let mut words = content.note.split(' ');
    let (session, member, token) = (words.next()?, words.next()?, words.next()?);
    let is_whole = token.parse() == Ok(content.token) && words.next().is_none();
    Some((session, MemberId::from(unhex(member)?))).filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_whole_or_none() {
        let member = MemberId::from(b"host 1\xff");
        let note = signature("s", &member, 17);
        let content = |token, note: &str| Content { token, note: note.to_owned() };
        assert_eq!(signed(&content(17, &note)), Some(("s", member)));
        assert_eq!(signed(&content(18, &note)), None);
        assert_eq!(signed(&content(17, &note[..note.len() - 1])), None);
        assert_eq!(signed(&content(17, "")), None);
    }
}

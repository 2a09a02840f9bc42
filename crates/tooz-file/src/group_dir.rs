//! A group as it stands in its directory: who is in it, and who of them lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tooz_core::{Error, ErrorKind, GroupFeed, GroupId, Member, MemberId, Result};
use tracing::{debug, warn};

use crate::access;
use crate::directory::Directory;
use crate::errors::failed;
use crate::locked_file::LockedFile;
use crate::ofd::is_missing;
use crate::presence;
use crate::record::{self, Record};
use crate::watch::{Aftermath, CLOSED, Changes, Watch};

/// What a session's end looks like from the directory of the sessions.
const ENDS: Changes = CLOSED.union(Changes::IN_DELETE).union(Changes::IN_MOVED_FROM);
/// What changes the members of a group; Python writes its files in place.
const MEMBERS: Changes =
    ENDS.union(Changes::IN_MOVED_TO).union(Changes::IN_DELETE_SELF).union(Changes::IN_MOVE_SELF);
/// What touches a file: both of its times, or one.
const TOUCHES: Changes = Changes::IN_ATTRIB.union(Changes::IN_MODIFY);
/// What makes a file or a directory.
pub(crate) const MADE: Changes = Changes::IN_CREATE.union(Changes::IN_MOVED_TO);

/// A member's file.
#[derive(Debug)]
pub(crate) struct Found {
    /// None if the file is torn.
    pub(crate) record: Option<Record>,
    pub(crate) standing: Standing,
    /// When the file was written.
    written_at: Option<SystemTime>,
}

/// Whether a member lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its session lives.
    Alive,
    /// Its session does not.
    Dead,
    /// A Python member that lives for so long unless its file is touched.
    For(Duration),
    /// A Python member whose file has not been touched for too long.
    Lapsed,
}

impl Found {
    /// Whether that session has written it.
    pub(crate) fn is_of(&self, session: &str) -> bool {
        self.record.as_ref().and_then(|record| record.session.as_deref()) == Some(session)
    }
}

impl Standing {
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Alive | Self::For(_))
    }
}

/// All of a group at one look.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) members: BTreeMap<MemberId, Member>,
    /// The files of members whose session is dead.
    dead: Vec<PathBuf>,
    /// When the first Python member lapses.
    next_lapse: Option<Duration>,
    /// Whether one has, and may come back.
    has_lapsed: bool,
}

/// One group of one directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupDir<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) id: &'a GroupId,
}

impl GroupDir<'_> {
    /// Fails if the group does not exist.
    pub(crate) fn must_exist(&self) -> Result<()> {
        let metadata = self.directory.keys.metadata(self.id);
        match fs::symlink_metadata(&metadata) {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Err(Error::group_not_created(self.id)),
            Err(error) => Err(failed("examine", &metadata, error)),
        }
    }

    // ---- Under the driver lock.

    pub(crate) fn create(&self) -> Result<()> {
        match self.must_exist() {
            Ok(()) => return Err(Error::group_already_exists(self.id)),
            Err(error) if error.kind() == ErrorKind::GroupNotCreated => {}
            Err(error) => return Err(error),
        }
        let content = record::encode_group(self.id)?;
        let (new, dir) = (self.directory.keys.new_temporary(), self.directory.keys.group(self.id));
        // With its metadata from the start: Python cannot read a directory without.
        let created = access::make_dir(&new)
            .and_then(|()| access::write_new(&new.join(".metadata"), &content))
            .and_then(|()| match fs::rename(&new, &dir) {
                // A group of Python's that was created or deleted in part.
                Err(error) if is_taken(&error) => {
                    fs::rename(new.join(".metadata"), dir.join(".metadata"))?;
                    fs::remove_dir(&new)
                }
                result => result,
            });
        created.map_err(|error| {
            // What cannot be removed now is removed at a later start.
            let _ = fs::remove_dir_all(&new);
            failed("create", &dir, error)
        })
    }

    pub(crate) fn delete(&self) -> Result<()> {
        self.must_exist()?;
        let dir = self.directory.keys.group(self.id);
        for entry in self.entries()? {
            let is_dead =
                || Ok::<_, Error>(self.read(&entry)?.is_none_or(|f| !f.standing.is_alive()));
            if entry.ends_with(".metadata") || (is_record(&entry) && is_dead()?) {
                continue;
            }
            return Err(Error::group_not_empty(self.id).with("file", entry.display()));
        }
        // Gone at once, then at leisure.
        let grave = self.directory.keys.new_temporary();
        fs::rename(&dir, &grave).map_err(|error| failed("delete", &dir, error))?;
        if let Err(error) = fs::remove_dir_all(&grave) {
            debug!(%error, "a deleted group is removed at a later start");
        }
        Ok(())
    }

    /// Removes a member, whoever it is. One of ours watches its file and so learns of it; Python's
    /// is told by the next touch that fails.
    pub(crate) fn remove(&self, member: &MemberId) -> Result<()> {
        self.must_exist()?;
        if !self.find(member)?.is_some_and(|found| found.standing.is_alive()) {
            return Err(Error::member_not_joined(self.id, member));
        }
        let path = self.directory.keys.member(self.id, member);
        access::remove(&path).map_err(|error| failed("remove", &path, error))
    }

    // ---- Any time.

    /// The file of one member.
    pub(crate) fn find(&self, member: &MemberId) -> Result<Option<Found>> {
        self.read(&self.directory.keys.member(self.id, member))
    }

    /// One living member.
    pub(crate) fn member(&self, member: &MemberId) -> Result<Member> {
        self.must_exist()?;
        let found = self.find(member)?.filter(|found| found.standing.is_alive());
        let found = found.ok_or_else(|| Error::member_not_joined(self.id, member))?;
        let written_at = found.written_at;
        let record = found.record.ok_or_else(|| {
            Error::new(ErrorKind::Serialization, "the member's file is incomplete")
                .with("group", self.id)
                .with("member", member)
        })?;
        Ok(record.into_member(written_at))
    }

    pub(crate) fn scan(&self) -> Result<Scan> {
        self.must_exist()?;
        let mut scan = Scan::default();
        for path in self.entries()?.into_iter().filter(|path| is_record(path)) {
            // Missing if it was removed since it was listed.
            let Some(found) = self.read(&path)? else { continue };
            match found.standing {
                Standing::Alive => {}
                Standing::Dead => scan.dead.push(path),
                Standing::Lapsed => scan.has_lapsed = true,
                Standing::For(left) => {
                    scan.next_lapse = Some(scan.next_lapse.map_or(left, |next| next.min(left)));
                }
            }
            if found.standing.is_alive()
                && let Some(record) = found.record
            {
                scan.members.insert(record.member.clone(), record.into_member(found.written_at));
            }
        }
        Ok(scan)
    }

    /// Scans, and removes what dead members have left.
    pub(crate) async fn living(&self) -> Result<Scan> {
        let scan = self.scan()?;
        if !scan.dead.is_empty()
            && let Err(error) = self.reap(&scan.dead).await
        {
            debug!(%error, group = %self.id, "the files of dead members are not removed");
        }
        Ok(scan)
    }

    async fn reap(&self, dead: &[PathBuf]) -> Result<()> {
        // The present holder of the lock may be doing just this.
        let Some(_lock) = LockedFile::try_driver_lock(self.directory).await? else { return Ok(()) };
        for path in dead {
            let Some(found) = self.read(path)? else { continue };
            if found.standing != Standing::Dead {
                continue;
            }
            access::remove(path).map_err(|error| failed("remove", path, error))?;
            let session = found.record.and_then(|record| record.session);
            if let Some(file) = session.and_then(|id| presence::path(&self.directory.keys, &id)) {
                access::remove(&file).map_err(|error| failed("remove", &file, error))?;
            }
        }
        Ok(())
    }

    /// Feeds what happens until it is dropped or fails.
    pub(crate) async fn watch(&self, feed: &GroupFeed) -> Result<()> {
        let (mut watch, mut aftermath) = (self.directory.watch(), Aftermath::default());
        // A Python member that has lapsed comes back by touching its file. Not watched for
        // otherwise, because every heartbeat of every member does that.
        let mut touches = Changes::empty();
        loop {
            let scan = self.scan_watched(&mut watch, MEMBERS | touches).await?;
            if scan.has_lapsed && touches.is_empty() {
                touches = TOUCHES;
                continue;
            }
            if !scan.has_lapsed {
                touches = Changes::empty();
            }
            feed.snapshot(scan.members.into_values());
            let lapse = async {
                match scan.next_lapse {
                    // Past the moment, not at it.
                    Some(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changes = watch.changed() => if changes.intersects(CLOSED) { aftermath.begin() },
                () = aftermath.pause() => {}
                () = lapse => {}
            }
        }
    }

    /// Scans after the watch is there, so that nothing falls between. A group that does not exist
    /// is empty.
    async fn scan_watched(&self, watch: &mut Watch, changes: Changes) -> Result<Scan> {
        let keys = &self.directory.keys;
        self.directory.watch_dir(watch, &keys.sessions(), ENDS)?;
        if !watch.on(&keys.group(self.id), changes) {
            self.directory.watch_dir(watch, &keys.groups(), MADE)?;
            // Made in between?
            watch.on(&keys.group(self.id), changes);
        }
        match self.living().await {
            Err(error) if error.kind() == ErrorKind::GroupNotCreated => Ok(Scan::default()),
            result => result,
        }
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let dir = self.directory.keys.group(self.id);
        let entries =
            fs::read_dir(&dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        entries.map_err(|error| match is_missing(&error) {
            true => Error::group_not_created(self.id),
            false => failed("list", &dir, error),
        })
    }

    fn read(&self, path: &Path) -> Result<Option<Found>> {
        match self.read_file(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("read", path, error)),
        }
    }

    fn read_file(&self, path: &Path) -> io::Result<Found> {
        let mut file = File::open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let metadata = file.metadata()?;
        let record = Record::decode(&content);
        if let Err(error) = &record {
            // Python writes its files in place: half of one may be a whole one soon.
            debug!(path = %path.display(), %error, "a member's file is not readable");
        }
        let record = record.ok();
        let standing = match record.as_ref().and_then(|record| record.session.as_deref()) {
            Some(session) if presence::lives(&self.directory.keys, session)? => Standing::Alive,
            Some(_) => Standing::Dead,
            None => standing_by_age(metadata.modified()?, self.directory.timeout),
        };
        Ok(Found { record, standing, written_at: metadata.created().ok() })
    }
}

/// Whether a directory cannot be renamed because one with files is there: the file systems differ
/// in how they say it.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Python's members touch their files; a file of the near future is one before a clock was set.
fn standing_by_age(touched: SystemTime, timeout: Duration) -> Standing {
    let left = match touched.elapsed() {
        Ok(age) => timeout.checked_sub(age),
        Err(ahead) => (ahead.duration() <= timeout).then_some(timeout),
    };
    left.map_or(Standing::Lapsed, Standing::For)
}

fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "raw")
}

/// The groups of a directory.
pub(crate) fn all(directory: &Directory) -> Result<BTreeSet<GroupId>> {
    let dir = directory.keys.groups();
    let listed = fs::read_dir(&dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    let mut groups = BTreeSet::new();
    for path in listed.map_err(|error| failed("list", &dir, error))? {
        let metadata = path.join(".metadata");
        match fs::read(&metadata) {
            Ok(content) => match record::decode_group(&content) {
                Ok(group) => drop(groups.insert(group)),
                Err(error) => warn!(path = %metadata.display(), %error, "not a group"),
            },
            // Not a group, or one that was deleted since it was listed.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failed("read", &metadata, error)),
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_members_are_judged_by_age() {
        let (now, timeout) = (SystemTime::now(), Duration::from_secs(10));
        let standing = |touched| standing_by_age(touched, timeout);
        assert!(standing(now - Duration::from_secs(9)).is_alive());
        assert_eq!(standing(now - Duration::from_secs(11)), Standing::Lapsed);
        assert!(standing(now + Duration::from_secs(5)).is_alive());
        assert_eq!(standing(now + Duration::from_secs(60)), Standing::Lapsed);
    }
}

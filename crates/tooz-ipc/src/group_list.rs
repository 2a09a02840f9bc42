//! The list of groups that Python keeps in shared memory, brought together with ours.
//!
//! Python knows of a group nothing but that it exists: its name is in a segment of 1024 bytes, which
//! every Python coordinator removes when it stops, for everybody. Our groups are in the directory,
//! with their members, and the list follows: what Python adds to it is created here, what Python
//! takes out of it is deleted unless it has members, and a list that was removed is written again.
//!
//! All changes are made under Python's lock for it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rmpv::Value;
use tooz_core::{Error, ErrorKind, GroupId, Groups, Mode, OperationId, Result};
use tooz_file::queue::{Queue, Ticket};
use tracing::warn;

use crate::errors::{failed, refused};
use crate::gate::Gate;
use crate::lock;
use crate::namespace::Namespace;
use crate::segment::Segment;

/// How long to wait for Python's lock, which is only ever held for a few system calls.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// The length before the list, in two bytes in the machine's order.
const HEADER: usize = 2;
/// As much as that length can tell. Python makes segments of 1024 bytes, and reads longer ones.
const SIZE: usize = HEADER + u16::MAX as usize;

/// Python's list, locked.
pub(crate) struct GroupList<'a> {
    namespace: &'a Namespace,
    segment: Segment,
    queue: Queue,
    gate: Gate,
    ticket: Ticket,
}

impl<'a> GroupList<'a> {
    /// Locks the list and takes over what Python has changed. Makes the segment if it is missing.
    pub(crate) async fn open(namespace: &'a Namespace, ours: &dyn Groups) -> Result<Self> {
        let list = Self::lock(namespace).await?;
        let known = ours.list().await?;
        let Some(listed) = read(list.segment.bytes()) else {
            warn!("the list of groups cannot be read: it is written again");
            return Ok(list);
        };
        let published =
            Published::read(namespace)?.filter(|last| last.segment == list.segment.id());
        for gone in published.iter().flat_map(|last| &last.groups).filter(|g| !listed.contains(g)) {
            match ours.delete(gone).await {
                Err(error) if error.kind() == ErrorKind::GroupNotEmpty => {
                    warn!(group = %gone, "Python, which sees no members, deleted the group: it stays");
                }
                Err(error) if error.kind() != ErrorKind::GroupNotCreated => return Err(error),
                _ => {}
            }
        }
        for new in listed.difference(&known) {
            match ours.create(new).await {
                Err(error) if error.kind() != ErrorKind::GroupAlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(list)
    }

    async fn lock(namespace: &'a Namespace) -> Result<Self> {
        let key = namespace.keys.list_lock();
        let over = tokio::time::sleep(LOCK_LIMIT);
        let taken =
            lock::take(namespace, OperationId::random(), key, Mode::Exclusive, over).await?;
        let Some((gate, ticket)) = taken else {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "the lock of the list of groups was held for more than {LOCK_LIMIT:?}: some \
                     process that changes groups is stopped or hangs"
                ),
            ));
        };
        let queue = namespace.queue(key);
        let segment = attach(namespace.keys.list())?;
        Ok(Self { namespace, segment, queue, gate, ticket })
    }

    /// Writes the list.
    pub(crate) fn publish(&self, groups: &BTreeSet<GroupId>) -> Result<()> {
        let segment = self.segment.id();
        let last = Published::read(self.namespace)?;
        let is_written = read(self.segment.bytes()).is_some_and(|listed| listed == *groups);
        if is_written && last.is_some_and(|l| l.segment == segment && l.groups == *groups) {
            return Ok(());
        }
        // A process that dies while it writes must not leave a list with parts that seem deleted.
        Published::forget(self.namespace)?;
        let groups = write(self.segment.bytes(), groups);
        Published { segment, groups }.write(self.namespace)
    }

    /// Removes the segment unless somebody else has it attached, as every Python coordinator has
    /// from its start to its stop.
    pub(crate) async fn remove_unused(namespace: &Namespace) -> Result<()> {
        let key = namespace.keys.list();
        if id_of(namespace)?.is_none() {
            return Ok(());
        }
        let list = GroupList::lock(namespace).await?;
        let removed = match list.segment.attached() {
            Ok(1) => list.segment.remove(),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| refused("remove the segment", key, error))
    }
}

impl Drop for GroupList<'_> {
    fn drop(&mut self) {
        if let Err(error) = lock::release_exclusive(&self.queue, &self.ticket, &self.gate) {
            warn!(%error, "the lock of the list of groups is left to be cleaned up");
        }
    }
}

/// Whether Python has that group in its list, as far as can be seen without the lock.
pub(crate) fn is_listed(namespace: &Namespace, group: &GroupId) -> Result<bool> {
    let key = namespace.keys.list();
    let segment = Segment::open(key).map_err(|error| refused("open the segment", key, error))?;
    Ok(segment.and_then(|segment| read(segment.bytes())).is_some_and(|l| l.contains(group)))
}

/// Whether the segment is the one that was last written: not if Python has removed it since.
pub(crate) fn is_current(namespace: &Namespace) -> Result<bool> {
    Ok(Published::read(namespace)?.map(|last| last.segment) == id_of(namespace)?)
}

fn id_of(namespace: &Namespace) -> Result<Option<i32>> {
    let key = namespace.keys.list();
    Segment::id_of(key).map_err(|error| refused("find the segment", key, error))
}

fn attach(key: i32) -> Result<Segment> {
    let attach = || loop {
        if let Some(segment) = Segment::open(key)? {
            return Ok(segment);
        }
        if let Some(segment) = Segment::create(key, SIZE)? {
            return Ok(segment);
        }
    };
    attach().map_err(|error: io::Error| refused("open the segment", key, error))
}

/// What was last written to which segment.
#[derive(Debug, PartialEq, Eq)]
struct Published {
    segment: i32,
    groups: BTreeSet<GroupId>,
}

impl Published {
    fn read(namespace: &Namespace) -> Result<Option<Self>> {
        let path = namespace.published();
        match fs::read(&path) {
            Ok(content) => Ok(Self::decode(&content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        }
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (segment, list) = content.split_at_checked(size_of::<i32>())?;
        Some(Self { segment: i32::from_ne_bytes(segment.try_into().ok()?), groups: decode(list)? })
    }

    fn write(&self, namespace: &Namespace) -> Result<()> {
        let content = [&self.segment.to_ne_bytes()[..], &encode(&self.groups)].concat();
        let path = namespace.published();
        namespace.install(&path, &content, true).map_err(|error| failed("write", &path, error))
    }

    fn forget(namespace: &Namespace) -> Result<()> {
        let path = namespace.published();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            _ => Ok(()),
        }
    }
}

/// What the segment lists; `None` if it is no list.
fn read(segment: &[AtomicU8]) -> Option<BTreeSet<GroupId>> {
    let load = |bytes: &[AtomicU8]| bytes.iter().map(|b| b.load(Relaxed)).collect::<Vec<_>>();
    let (header, list) = segment.split_at_checked(HEADER)?;
    let length = u16::from_ne_bytes(load(header).try_into().ok()?);
    match length {
        0 => Some(BTreeSet::new()),
        length => decode(&load(list.get(..length.into())?)),
    }
}

/// Writes as many groups as there is room for; which.
fn write(segment: &[AtomicU8], groups: &BTreeSet<GroupId>) -> BTreeSet<GroupId> {
    let mut groups = groups.clone();
    let room = segment.len().saturating_sub(HEADER).min(u16::MAX.into());
    let mut list = encode(&groups);
    while list.len() > room
        && let Some(last) = groups.pop_last()
    {
        warn!(group = %last, "Python's list of groups is full: this group is not in it");
        list = encode(&groups);
    }
    let length = u16::try_from(list.len()).unwrap_or(0).to_ne_bytes();
    for (byte, value) in segment.iter().zip(length.into_iter().chain(list)) {
        byte.store(value, Relaxed);
    }
    groups
}

fn encode(groups: &BTreeSet<GroupId>) -> Vec<u8> {
    let groups = groups.iter().map(|group| Value::Binary(group.as_bytes().to_vec())).collect();
    let mut list = Vec::new();
    // Writing to memory does not fail.
    let _ = rmpv::encode::write_value(&mut list, &Value::Array(groups));
    list
}

fn decode(mut list: &[u8]) -> Option<BTreeSet<GroupId>> {
    // A list of names: nothing deeper is one.
    let list = rmpv::decode::read_value_with_max_depth(&mut list, 4).ok()?;
    let Value::Array(groups) = list else { return None };
    let id = |group: Value| match group {
        Value::Binary(id) => Some(GroupId::from(id)),
        Value::String(id) => Some(GroupId::from(id.into_bytes())),
        _ => None,
    };
    groups.into_iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(size: usize) -> Vec<AtomicU8> {
        std::iter::repeat_with(|| AtomicU8::new(0)).take(size).collect()
    }

    fn groups(names: &[&str]) -> BTreeSet<GroupId> {
        names.iter().map(|name| GroupId::from(*name)).collect()
    }

    #[test]
    fn the_list_is_as_python_writes_it() {
        let segment = segment(1024);
        assert_eq!(read(&segment), Some(groups(&[])), "as new");
        assert_eq!(write(&segment, &groups(&["g"])), groups(&["g"]));
        let bytes: Vec<_> = segment[..6].iter().map(|byte| byte.load(Relaxed)).collect();
        let length = 4_u16.to_ne_bytes();
        assert_eq!(bytes, [length[0], length[1], 0x91, 0xc4, 0x01, b'g']);
        assert_eq!(read(&segment), Some(groups(&["g"])));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let (segment, long) = (segment(1024), "x".repeat(500));
        let names: Vec<_> = (0..3).map(|n| format!("{n}{long}")).collect();
        let all = groups(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let written = write(&segment, &all);
        assert_eq!(written.len(), 2);
        assert_eq!(read(&segment), Some(written));
    }

    #[test]
    fn what_is_no_list_is_not_taken_for_one() {
        for bytes in [&[9_u8, 0][..], &[1, 0, 0x80], &[2, 0, 0x91, 0xc4], &[1]] {
            let segment: Vec<_> = bytes.iter().copied().map(AtomicU8::new).collect();
            assert_eq!(read(&segment), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_was_published_is_read_back() {
        let published = Published { segment: 7, groups: groups(&["a", "b"]) };
        let content = [&7_i32.to_ne_bytes()[..], &encode(&published.groups)].concat();
        assert_eq!(Published::decode(&content), Some(published));
    }
}

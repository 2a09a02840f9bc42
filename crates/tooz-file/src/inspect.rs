//! For operators and tests: what coordinators have in a directory, how to end a session, and
//! how to remove what dead ones have left.

use std::path::Path;
use std::{fs, io};

use tooz_core::{MemberId, Result};

use crate::access::{self, list};
use crate::keys::{Keys, RESERVED};
use crate::ofd;
use crate::presence;
use crate::queue::Queue;
use crate::record::{Record, decode_group};

/// What coordinators have left in the directory, a line each, in order: members' files, sessions
/// with what they say of themselves, leaders' files and locks that anybody holds or waits for,
/// temporary files.
///
/// Groups are no residue, nor are files of locks that nobody holds: both are meant to stay.
/// Nothing is changed, and a directory that does not exist has nothing.
///
/// ```
/// assert!(tooz_file::inspect::residue("/nonexistent".as_ref())?.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When something cannot be read.
pub fn residue(dir: &Path) -> io::Result<Vec<String>> {
    let keys = Keys::new(dir);
    let mut residue = Vec::new();
    for group in list(&keys.groups())? {
        let id = fs::read(group.join(".metadata")).ok().and_then(|c| decode_group(&c).ok());
        let name = id.map_or_else(|| name(&group), |id| id.to_string());
        for file in list(&group)?.iter().filter(|file| file.extension().is_some()) {
            let record = fs::read(file).ok().and_then(|content| Record::decode(&content).ok());
            let member = record.map_or_else(|| self::name(file), |r| r.member.to_string());
            residue.push(format!("the member {member} of the group {name}"));
        }
    }
    for session in list(&keys.sessions())? {
        let state = if ofd::is_path_locked(&session)? { "living" } else { "dead" };
        let says = fs::read(&session).unwrap_or_default();
        let says = String::from_utf8_lossy(&says).trim_end().replace('\n', ", ");
        residue.push(format!("the {state} session {} ({says})", name(&session)));
    }
    for leader in list(&keys.leaders())? {
        if ofd::is_path_locked(&leader)? {
            residue.push(format!("the leader of a group ({})", name(&leader)));
        }
    }
    tickets(&keys, &mut residue).map_err(io::Error::other)?;
    for file in list(&keys.temporary())? {
        residue.push(format!("the temporary file {}", name(&file)));
    }
    for file in list(dir)?.iter().filter(|file| !RESERVED.contains(&name(file).as_str())) {
        locks(dir, file, &mut residue)?;
    }
    Ok(residue)
}

/// Ends the sessions of a member by removing their files, and says how many there were: its
/// memberships are over at once, and its coordinator reports the loss and starts again. A process
/// that is stopped keeps its locks until it continues.
///
/// # Errors
/// When a file cannot be read or removed.
pub fn end_sessions(dir: &Path, member: &MemberId) -> io::Result<usize> {
    let id = presence::id_line(member);
    let mut ended = 0;
    for session in list(&Keys::new(dir).sessions())? {
        let says = fs::read(&session).unwrap_or_default();
        if String::from_utf8_lossy(&says).lines().any(|line| line == id) {
            access::remove(&session)?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// Removes the files of dead sessions, old temporary files of ours, the tickets of dead processes
/// and the queues in which nobody waits, as every start does. What cannot be removed is left to the
/// next.
pub fn sweep(dir: &Path) {
    presence::sweep(&Keys::new(dir));
}

fn tickets(keys: &Keys, residue: &mut Vec<String>) -> Result<()> {
    for queue in Queue::all_in(&keys.queues())? {
        for ticket in queue.entries()? {
            let dead = if ticket.is_living()? { "" } else { ", left by a dead process" };
            residue.push(format!("{ticket} in the queue {}{dead}", queue.name()));
        }
    }
    Ok(())
}

fn locks(dir: &Path, path: &Path, residue: &mut Vec<String>) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return list(path)?.iter().try_for_each(|below| locks(dir, below, residue));
    }
    if ofd::is_path_locked(path)? {
        let name = path.strip_prefix(dir).unwrap_or(path);
        residue.push(format!("the lock {}", name.display()));
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

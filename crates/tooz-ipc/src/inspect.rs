//! For operators and tests: what coordinators have in a namespace, which semaphores are whose, and
//! how to end a session. The namespace is named by the URL of its coordinators.

use std::fs;
use std::io;

use tooz_core::{CoordinatorUrl, Error, ErrorKind, LockName, MemberId, Mode, Options, Result};

use crate::config::Config;
use crate::errors::failed;
use crate::gate;
use crate::keys::Keys;
use crate::namespace::{self, FILE, Namespace};
use crate::presence;
use crate::segment::Segment;
use crate::semaphore::Set;

/// The key of a lock's semaphores, as `ipcs -s` shows it.
///
/// ```
/// assert_eq!(tooz_ipc::inspect::lock_key("ipc://", &"foo".into())?, 0x91b9e60c);
/// # Ok::<(), tooz_core::Error>(())
/// ```
///
/// # Errors
/// When the URL or the name is not acceptable.
pub fn lock_key(url: &str, name: &LockName) -> Result<u32> {
    Ok(Keys::of(&config(url)?.namespace).lock(name)? as u32)
}

/// The key of the segment that lists the groups for Python, as `ipcs -m` shows it.
///
/// ```
/// assert_eq!(tooz_ipc::inspect::group_list_key("ipc://")?, 0x482d2f91);
/// # Ok::<(), tooz_core::Error>(())
/// ```
///
/// # Errors
/// When the URL is not acceptable.
pub fn group_list_key(url: &str) -> Result<u32> {
    Ok(Keys::of(&config(url)?.namespace).list() as u32)
}

/// What coordinators have left, a line each: sessions, members, leaders, locks held and waited for
/// with their semaphores, and the list of groups if nobody lives who needs it.
///
/// Groups are no residue: they are meant to stay. Nothing is changed, and a namespace that does not
/// exist has nothing.
///
/// # Errors
/// When the URL is not acceptable or something cannot be read.
pub fn residue(url: &str) -> Result<Vec<String>> {
    let config = config(url)?;
    let namespace = Look::at(&config)?;
    let mut residue = tooz_file::inspect::residue(&namespace.root.join(FILE))
        .map_err(|error| failed("examine", &namespace.root, error))?;
    let broken = |error| failed("examine", &namespace.root, error);
    for (key, queue) in namespace::queues(&namespace.root)? {
        let tickets = queue.entries()?;
        residue.extend(tickets.iter().map(|ticket| format!("{ticket} of the lock {key:#010x}")));
        residue.extend(gate::describe(key).map_err(broken)?);
    }
    residue.extend(gate::describe(namespace.keys.list_lock()).map_err(broken)?);
    let living = presence::count(&namespace.root.join("sessions")).map_err(broken)?;
    if living > 0 {
        residue.push(format!("{living} sessions"));
    } else if Segment::id_of(namespace.keys.list()).map_err(broken)?.is_some() {
        residue.push(format!("the list of groups {:#010x}", namespace.keys.list()));
    }
    Ok(residue)
}

/// Ends the sessions of a member, and says how many there were: its memberships are over at once,
/// and its coordinator reports the loss and starts again. A process that is stopped keeps its locks
/// until it continues.
///
/// # Errors
/// When the URL is not acceptable or a file cannot be read or removed.
pub fn end_sessions(url: &str, member: &MemberId) -> Result<usize> {
    let root = Look::at(&config(url)?)?.root;
    tooz_file::inspect::end_sessions(&root.join(FILE), member)
        .map_err(|error| failed("examine", &root, error))
}

/// Takes and releases the semaphores of a [lock's key](lock_key) that nobody uses, by the bare
/// system calls: what a lock over them cannot fall below, for benchmarks. It is no lock, since it
/// does not heed our own queue.
///
/// # Errors
/// When somebody has them, or a system call is refused.
pub fn bare_cycle(key: u32) -> Result<()> {
    let gate = gate::Gate::try_take(key.cast_signed(), Mode::Exclusive)?;
    let gate = gate.ok_or_else(|| {
        Error::new(ErrorKind::LockAcquireFailed, "somebody holds the semaphores")
            .with("key", format!("{key:#010x}"))
    })?;
    gate.open().map(drop)
}

/// Removes a namespace with all that is in it. Only when nobody uses it.
///
/// # Errors
/// When the URL is not acceptable or something cannot be removed.
pub fn wipe(url: &str) -> Result<()> {
    let namespace = Look::at(&config(url)?)?;
    let wiped = || {
        let queues = namespace::queues(&namespace.root).map_err(io::Error::other)?;
        for key in queues.iter().map(|(key, _)| *key).chain([namespace.keys.list_lock()]) {
            if let Some(set) = Set::open(key)? {
                set.remove()?;
            }
        }
        if let Some(segment) = Segment::open(namespace.keys.list())? {
            segment.remove()?;
        }
        match fs::remove_dir_all(&namespace.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    wiped().map_err(|error| failed("wipe", &namespace.root, error))
}

/// A namespace that is only looked at.
struct Look {
    root: std::path::PathBuf,
    keys: Keys,
}

impl Look {
    fn at(config: &Config) -> Result<Self> {
        let root = Namespace::root(config).map_err(|e| failed("examine", &config.directory, e))?;
        Ok(Self { root, keys: Keys::of(&config.namespace) })
    }
}

fn config(url: &str) -> Result<Config> {
    let url: CoordinatorUrl = url.parse()?;
    if url.scheme() != "ipc" {
        return Err(Error::invalid("not an ipc URL; write ipc:// or ipc://?namespace=NAME"));
    }
    Config::read(&url, Options::of(&url))
}

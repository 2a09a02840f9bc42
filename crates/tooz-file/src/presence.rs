//! The file that is locked for as long as a session lives.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tooz_core::kit::locked;
use tooz_core::{MemberId, Mode, Result};
use tracing::debug;
use uuid::Uuid;

use crate::access;
use crate::access::remove;
use crate::errors::unreachable;
use crate::keys::{Keys, TEMPORARY, hex};
use crate::ofd::{self, Identity};
use crate::queue::Queue;

/// How old a temporary file of ours must be to be one that a dead process has left.
const ABANDONED: Duration = Duration::from_secs(60);

/// The id of a session: its file's name.
pub(crate) type SessionId = String;

/// The presence of one session.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) id: SessionId,
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// Whether anybody can see it.
    pub(crate) is_announced: bool,
    /// None once the session has ended.
    locked: Mutex<Option<File>>,
}

impl Presence {
    /// Tells everybody that a session lives; where nothing can be written it lives untold, to look
    /// at what there is.
    pub(crate) fn announce(keys: &Keys, member: &MemberId) -> Result<Self> {
        let id = new_id();
        let path = keys.sessions().join(&id);
        let temporary = keys.new_temporary();
        let announced = Self::put_in_place(&temporary, &path, member);
        if announced.is_err() {
            // What cannot be removed now is removed at a later start.
            let _ = fs::remove_file(&temporary);
        }
        match announced {
            Ok((file, identity)) => {
                Ok(Self { id, path, identity, is_announced: true, locked: Mutex::new(Some(file)) })
            }
            Err(error) if access::is_unwritable(&error) => Self::untold(keys),
            Err(error) => Err(unreachable("create", &path, error)),
        }
    }

    /// One that lives for as long as the directory is there.
    fn untold(keys: &Keys) -> Result<Self> {
        let path = keys.root();
        let found =
            path.canonicalize().and_then(|path| Ok((Identity::of(&File::open(&path)?)?, path)));
        let (identity, path) = found.map_err(|error| unreachable("open", path, error))?;
        Ok(Self { id: new_id(), path, identity, is_announced: false, locked: Mutex::default() })
    }

    fn put_in_place(
        temporary: &PathBuf,
        path: &PathBuf,
        member: &MemberId,
    ) -> io::Result<(File, Identity)> {
        let mut file = access::create_new(temporary)?;
        // Locked before it is seen: a file there that is not locked is a dead session's.
        if !ofd::try_lock(&file, Mode::Exclusive)? {
            return Err(io::Error::other("a new file is already locked"));
        }
        let host = nix::unistd::gethostname()?;
        let (host, pid) = (host.display(), std::process::id());
        // For operators, and for `inspect`.
        let id = id_line(member);
        file.write_all(format!("member={member}\n{id}\npid={pid}\nhost={host}\n").as_bytes())?;
        fs::rename(temporary, path)?;
        let identity = Identity::of(&file)?;
        Ok((file, identity))
    }

    pub(crate) fn is_in_place(&self) -> bool {
        self.identity.is_at(&self.path)
    }

    /// Takes the file away. Idempotent.
    pub(crate) fn end(&self) {
        let file = locked(&self.locked).take();
        if let Some(file) = file {
            if self.is_in_place() {
                // Unlocked below even so, which is what counts; the rest is swept later.
                let _ = fs::remove_file(&self.path);
            }
            // Before the close, because that is what others are told of.
            let _ = ofd::unlock(&file);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.end();
    }
}

fn new_id() -> SessionId {
    Uuid::new_v4().simple().to_string()
}

/// The line by which a session's file tells its member from others that look alike.
pub(crate) fn id_line(member: &MemberId) -> String {
    format!("id={}", hex(member.as_bytes()))
}

/// Whether a session lives. What is no id of a session does not.
pub(crate) fn lives(keys: &Keys, session: &str) -> io::Result<bool> {
    path(keys, session).map_or(Ok(false), |path| ofd::is_path_locked(&path))
}

/// The file of a session; `None` if that is no id of one. It comes from files that others can
/// write, and must not lead elsewhere.
pub(crate) fn path(keys: &Keys, session: &str) -> Option<PathBuf> {
    let is_id = session.len() == 32 && session.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| keys.sessions().join(session))
}

/// Removes what dead processes have left, as far as that can be done now.
pub(crate) fn sweep(keys: &Keys) {
    let swept = sweep_sessions(keys).and_then(|()| sweep_temporary(keys));
    if let Err(error) = swept {
        debug!(%error, "some remnants of dead processes are not removed");
    }
    if let Err(error) = sweep_queues(keys) {
        debug!(%error, "some tickets of dead processes are not removed");
    }
}

fn sweep_queues(keys: &Keys) -> Result<()> {
    for queue in Queue::all_in(&keys.queues())? {
        queue.living()?;
        queue.remove_if_empty();
    }
    Ok(())
}

fn sweep_sessions(keys: &Keys) -> io::Result<()> {
    for entry in fs::read_dir(keys.sessions())? {
        // A session's file is locked before it is there, and its name is never used again.
        let path = entry?.path();
        if !ofd::is_path_locked(&path)? {
            remove(&path)?;
        }
    }
    Ok(())
}

fn sweep_temporary(keys: &Keys) -> io::Result<()> {
    for entry in fs::read_dir(keys.temporary())? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            continue;
        }
        let age = |m: fs::Metadata| {
            SystemTime::now().duration_since(m.modified()?).map_err(io::Error::other)
        };
        if !entry.metadata().and_then(age).is_ok_and(|age| age > ABANDONED) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => remove(&entry.path())?,
        }
    }
    Ok(())
}

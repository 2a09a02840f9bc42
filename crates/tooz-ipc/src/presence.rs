//! Which sessions live: each has a locked file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tooz_core::{Mode, Result};
use tooz_file::ofd;
use uuid::Uuid;

use crate::errors::failed;
use crate::namespace::Namespace;

/// Which of the mutexes of the namespace: that of no particular lock.
const MUTEX: i32 = 0;

/// The file of a living session, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    path: PathBuf,
    locked: File,
}

impl Presence {
    pub(crate) async fn announce(namespace: &Namespace) -> Result<Self> {
        let path = namespace.sessions().join(Uuid::new_v4().simple().to_string());
        // Nobody removes it before it is locked.
        let _mutex = namespace.mutex(MUTEX).await?;
        let file = File::create_new(&path).map_err(|error| failed("create", &path, error))?;
        let presence = Self { path, locked: file };
        match ofd::try_lock(&presence.locked, Mode::Exclusive) {
            Ok(_) => Ok(presence),
            Err(error) => Err(failed("lock", &presence.path, error)),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // If it fails, the file is that of a dead session, which others remove.
        let _ = fs::remove_file(&self.path);
    }
}

/// How many sessions live.
pub(crate) fn count(sessions: &Path) -> io::Result<usize> {
    Ok(look(sessions)?.into_iter().filter(|(_, is_living)| *is_living).count())
}

/// Removes the files of dead sessions, and says how many live.
pub(crate) async fn sweep(namespace: &Namespace) -> Result<usize> {
    let (sessions, _mutex) = (namespace.sessions(), namespace.mutex(MUTEX).await?);
    let swept = || {
        let (living, dead): (Vec<_>, Vec<_>) =
            look(&sessions)?.into_iter().partition(|(_, is_living)| *is_living);
        for (path, _) in dead {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(living.len())
    };
    swept().map_err(|error| failed("sweep", &sessions, error))
}

/// The files of sessions, and whether each lives.
fn look(sessions: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let entries = match fs::read_dir(sessions) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        found.push((path, ofd::is_locked(&file)?));
    }
    Ok(found)
}

//! The directory of a namespace: what System V IPC has no room for.
//!
//! `/dev/shm/tooz-UID-IPCNS/NAMESPACE/`, in memory, and gone with the next boot as semaphores are:
//!
//! - `locks/KEY/`: who holds and who waits for the lock of that key: see [`tooz_file::queue`].
//! - `mutex/0` to `mutex/f`: locked for the few system calls in which a queue is changed.
//! - `sessions/`: a locked file for each living session.
//! - `epoch`: what fencing tokens count from.
//! - `published`: the list of groups as it was last written for Python.
//! - `file/`: groups and elections, in the layout of the file driver.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::geteuid;
use sha1::{Digest, Sha1};
use tooz_core::{Error, ErrorKind, FencingToken, Moment, Result};
use tooz_file::queue::Queue;
use uuid::Uuid;

use crate::config::Config;
use crate::errors::failed;
use crate::keys::Keys;

/// What `libc` has no constant for.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// The directory of the file driver, below the root.
pub(crate) const FILE: &str = "file";

/// The directory of the queues.
const LOCKS: &str = "locks";

/// How long to wait for the others that change a queue at this moment, each for some microseconds.
const MUTEX_LIMIT: Duration = Duration::from_secs(5);

/// One namespace, as one session sees it.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) keys: Keys,
    root: PathBuf,
    /// Nanoseconds since 1970 at the time 0 of the monotonic clock.
    epoch: u64,
}

/// Nobody else changes some of the queues while it lives.
#[derive(Debug)]
pub(crate) struct Mutex {
    _locked: File,
}

impl Namespace {
    /// Where a namespace is, whether or not it is there.
    pub(crate) fn root(config: &Config) -> io::Result<PathBuf> {
        let namespace = match config.namespace.as_str() {
            "" => "default".to_owned(),
            name => hex(&Sha1::digest(name)),
        };
        Ok(user_dir(&config.directory)?.join(namespace))
    }

    /// Makes what is missing.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let root = Self::root(config).map_err(|e| failed("examine", Path::new(OF_PROCESS), e))?;
        must_be_in_memory(&config.directory)?;
        let namespace = Self { keys: Keys::of(&config.namespace), root, epoch: 0 };
        namespace.make()?;
        let epoch = namespace.read_epoch()?;
        Ok(Self { epoch, ..namespace })
    }

    /// Makes the directories that are missing: the only place that does. Any of them may have been
    /// removed while it was in use: systemd does so when a user has logged out.
    fn make(&self) -> Result<()> {
        make_private(self.root.parent().unwrap_or(&self.root))?;
        let dirs = [self.locks(), self.mutexes(), self.sessions(), self.file()];
        [self.root.clone()].iter().chain(&dirs).try_for_each(|dir| make_dir(dir))
    }

    fn locks(&self) -> PathBuf {
        self.root.join(LOCKS)
    }

    /// Who holds and who waits for the lock of that key. Tickets are drawn under its mutex.
    pub(crate) fn queue(&self, key: i32) -> Queue {
        Queue::at(self.locks().join(format!("{key:08x}")))
    }

    /// All that are there, by their keys.
    pub(crate) fn queues(&self) -> Result<Vec<(i32, Queue)>> {
        queues(&self.root)
    }

    fn mutexes(&self) -> PathBuf {
        self.root.join("mutex")
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    pub(crate) fn published(&self) -> PathBuf {
        self.root.join("published")
    }

    /// The directory of the file driver.
    pub(crate) fn file(&self) -> PathBuf {
        self.root.join(FILE)
    }

    /// Keeps the queue of that key from being changed by others.
    pub(crate) async fn mutex(&self, key: i32) -> Result<Mutex> {
        let path = self.mutexes().join(format!("{:x}", key & 0xf));
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let mut opened = options.open(&path);
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.make()?;
            opened = options.open(&path);
        }
        let file = opened.map_err(|error| failed("open", &path, error))?;
        let limit = Moment::now() + MUTEX_LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Mutex { _locked: file }),
                Err(TryLockError::WouldBlock) if !limit.has_passed() => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "{} was locked for more than {MUTEX_LIMIT:?}: some process that uses \
                             this namespace is stopped or hangs",
                            path.display()
                        ),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
            }
        }
    }

    /// A number that is greater than all before, on this host. Called while holding what it is for.
    ///
    /// The monotonic clock counts on over all processes, whether they use this library or not, and
    /// leaves nothing to keep. The time of day at which it began makes it rise over a boot too.
    pub(crate) fn token(&self) -> Result<FencingToken> {
        let token = self.epoch.checked_add(monotonic()?).ok_or_else(|| {
            let path = self.root.join("epoch");
            let what = "contains a number that is too large; remove it while no coordinator runs";
            Error::new(ErrorKind::Backend, format!("{} {what}", path.display()))
        })?;
        Ok(FencingToken(token))
    }

    fn read_epoch(&self) -> Result<u64> {
        let path = self.root.join("epoch");
        let read = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0));
                let epoch = now.saturating_sub(monotonic()?);
                let written = self.install(&path, epoch.to_string().as_bytes(), false);
                written.map_err(|error| failed("write", &path, error))?;
                fs::read_to_string(&path)
            }
            read => read,
        };
        let text = read.map_err(|error| failed("read", &path, error))?;
        text.parse().map_err(|_| {
            Error::new(
                ErrorKind::Backend,
                format!(
                    "{} contains no number; remove it while no coordinator runs",
                    path.display()
                ),
            )
        })
    }

    /// Puts a file in place at once: a reader sees all of it, or what was there before, which
    /// stays if it is not to be replaced.
    pub(crate) fn install(&self, path: &Path, content: &[u8], replace: bool) -> io::Result<()> {
        let temporary = self.root.join(format!(".{}", Uuid::new_v4().simple()));
        let installed = File::create_new(&temporary)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| match replace {
                true => fs::rename(&temporary, path),
                false => match fs::hard_link(&temporary, path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    linked => linked,
                },
            });
        // It is gone already if it was renamed.
        let _ = fs::remove_file(&temporary);
        installed
    }
}

/// Says which namespace of System V IPC a process is in: those of a container are its own.
const OF_PROCESS: &str = "/proc/self/ns/ipc";

/// The directory of this user in this namespace of System V IPC, so that the processes that share
/// it are those that share semaphores.
fn user_dir(base: &Path) -> io::Result<PathBuf> {
    let shared = fs::metadata(OF_PROCESS)?.ino();
    Ok(base.join(format!("tooz-{}-{shared}", geteuid())))
}

/// What is kept must be gone with the next boot, as semaphores are: the monotonic clock begins again,
/// and so do the ids of segments.
fn must_be_in_memory(dir: &Path) -> Result<()> {
    let found =
        statfs(dir).map_err(|error| failed("examine", dir, error.into()))?.filesystem_type();
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&found) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the directory {} is not on a file system in memory; choose one that is with the option \
         directory, such as /dev/shm or below /run",
        dir.display()
    )))
}

/// Makes the directory of this user. Anybody can make one of that name in `/dev/shm`, so what is
/// there must be this user's own.
fn make_private(dir: &Path) -> Result<()> {
    make_dir(dir)?;
    let found = fs::symlink_metadata(dir).map_err(|error| failed("examine", dir, error))?;
    if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Authentication,
        format!(
            "{} is not a directory of this user alone (mode 0700); somebody else has made it: \
             remove it, or choose another with the option directory",
            dir.display()
        ),
    ))
}

/// The queues of the namespace whose directory that is, by their keys.
pub(crate) fn queues(root: &Path) -> Result<Vec<(i32, Queue)>> {
    let by_key = |queue: Queue| {
        let key = u32::from_str_radix(queue.name(), 16).ok()?;
        Some((key.cast_signed(), queue))
    };
    Ok(Queue::all_in(&root.join(LOCKS))?.into_iter().filter_map(by_key).collect())
}

/// Makes a directory for this user alone, unless it is there.
fn make_dir(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("create the directory", dir, error))
        }
        _ => Ok(()),
    }
}

/// Nanoseconds of the monotonic clock, the same for all processes of this host.
fn monotonic() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|error| {
        Error::new(ErrorKind::Backend, "the monotonic clock cannot be read").caused_by(error)
    })?;
    Ok(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_memory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    fn config(directory: &Path) -> Config {
        Config { namespace: "test".to_owned(), directory: directory.to_owned() }
    }

    #[test]
    fn tokens_rise_and_are_the_same_for_all() {
        let dir = in_memory();
        let one = Namespace::open(&config(dir.path())).unwrap();
        let before = one.token().unwrap();
        let two = Namespace::open(&config(dir.path())).unwrap();
        assert_eq!(one.epoch, two.epoch);
        assert!(two.token().unwrap() > before);
        assert!(before.0 > 1_700_000_000_000_000_000, "counted since 1970");
        fs::write(one.root.join("epoch"), u64::MAX.to_string()).unwrap();
        let error = Namespace::open(&config(dir.path())).unwrap().token().unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let dir = in_memory();
        let user = user_dir(dir.path()).unwrap();
        DirBuilder::new().mode(0o755).create(&user).unwrap();
        let error = Namespace::open(&config(dir.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication);
        fs::remove_dir(&user).unwrap();
        std::os::unix::fs::symlink("/tmp", &user).unwrap();
        assert!(Namespace::open(&config(dir.path())).is_err());
    }

    #[tokio::test]
    async fn a_directory_that_was_removed_while_in_use_comes_back_for_this_user_alone() {
        let dir = in_memory();
        let namespace = Namespace::open(&config(dir.path())).unwrap();
        let user = user_dir(dir.path()).unwrap();
        fs::remove_dir_all(&user).unwrap();
        // Whatever is done with a lock begins with this.
        drop(namespace.mutex(1).await.unwrap());
        assert_eq!(fs::metadata(&user).unwrap().mode() & 0o777, 0o700);
        Namespace::open(&config(dir.path())).unwrap();
        // The queue makes its own directory alone, and says what is missing.
        fs::remove_dir_all(&user).unwrap();
        let id = tooz_core::OperationId::random();
        assert!(namespace.queue(1).draw(id, tooz_core::Mode::Exclusive).is_err());
        assert!(!user.exists());
    }

    #[test]
    fn a_directory_that_outlives_a_boot_is_refused() {
        let error = Namespace::open(&config(Path::new("/proc"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("such as /dev/shm"), "{error}");
    }

    #[tokio::test]
    async fn a_mutex_excludes_until_it_is_dropped() {
        let dir = in_memory();
        let namespace = Namespace::open(&config(dir.path())).unwrap();
        let held = namespace.mutex(1).await.unwrap();
        let mut second = std::pin::pin!(namespace.mutex(1));
        let soon = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(soon.is_err());
        drop(held);
        second.await.unwrap();
    }
}

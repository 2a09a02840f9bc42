//! The `file://` driver of tooz: locks, groups and elections of the processes of one host, over
//! nothing but a directory.
//!
//! `file:///absolute/dir[?timeout=10]`. The directory is made at the start. The path is taken as it
//! is written: it is not percent-decoded, as in Python. `timeout` is the time in seconds after
//! which a *Python* member counts as dead when nobody has touched its file, and a third of it is
//! how often we touch ours; it decides nothing between members that use this crate.
//!
//! # How it works
//!
//! - A **lock** is an OFD record lock on the file `dir/NAME`. It excludes Python's record locks and
//!   the other coordinators of this process alike, and the kernel gives it back when the holder
//!   dies. The file's content is the fencing token, a decimal counter that is never behind the
//!   clock. Waiters stand in a
//!   [queue]; the first of them is woken by inotify when the file is closed, and the next
//!   by the first, when it leaves the queue. An attempt that does not wait wakes nobody.
//! - A **session** is a file in `dir/.tooz/sessions`, locked for as long as the session lives. A
//!   member whose record names a session lives as long as that file is locked, so a killed process
//!   is noticed at once and without a clock. Who removes the file ends the session.
//! - A **group** has Python's keys, and our records one key more: the session. Everything is
//!   written beside and renamed into place, so that no reader sees half of it.
//! - A **leader** holds the lock of `dir/.tooz/leaders/HASH`, whose content is the counter and who
//!   it is. The file outlives its group, so that tokens rise when the group is created again.
//!
//! # Limits
//!
//! - The counters are not synced to the disk. Whatever a power failure takes back, or whoever
//!   removes, the clock makes up for, unless it was set back meanwhile.
//! - Each lock that is held takes a file descriptor, and each that is waited for three.
//! - A process that is stopped while it is the first to wait delays the others by a second or two,
//!   then is passed over. The queue orders ours alone: Python's looks again and again.
//! - A Python holder does not notice that its lock was broken.
//! - Over NFS and other network file systems changes of other hosts are not pushed: waiters and
//!   watches then look every 100 ms, and the log says so. Shared locks need `flock` to be apart
//!   from record locks, which NFS does not give.
//! - A child process that was forked and never executed another program keeps what its parent
//!   held.
//!
//! # Other systems
//!
//! Only Linux has what this needs. macOS has no OFD locks before version 13 and does not let its
//! record locks tell two descriptors of a process apart: it would take `F_OFD_SETLK` from the newer
//! systems, `flock` plus an in-process table elsewhere, and kqueue's `NOTE_CLOSE_WRITE` and
//! `NOTE_DELETE` instead of inotify. Windows would take `LockFileEx`, which is mandatory and so must
//! lock a range beyond the counter, `ReadDirectoryChangesW`, and names without `<>:"\|?*` and
//! without the reserved device names; a file that is open cannot be replaced there, so breaking a
//! lock would need another way. Python's driver does neither, so there is no keys to share.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
compile_error!("tooz-file needs OFD record locks and inotify, which only Linux has");

// Who may touch what is made, and small operations on files.
mod access;
mod config;
// The fencing token of a name, in its lock file.
mod counter;
// The directory as one session sees it, with the means to watch it.
mod directory;
mod driver;
mod election;
mod errors;
mod group;
// Python's layout of a group; the reading and reaping of its members.
mod group_dir;
// Leases that end with what is found at a path.
mod guard;
#[doc(hidden)]
pub mod inspect;
mod keys;
mod lock;
// A file with its lock, and the lock around all changes of groups.
mod locked_file;
// Record locks that belong to an open file.
#[doc(hidden)]
pub mod ofd;
// The file that is locked for as long as a session lives.
mod presence;
#[doc(hidden)]
pub mod queue;
// A member's file, as Python writes it.
mod record;
mod session;
mod state;
// One acquisition's turn in the queue before a file.
mod turn;
mod watch;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver of `file://`.
///
/// It is not declared linearizable: each lock and each single record is, but the members of a group
/// are read one after the other, and members that come and go meanwhile may be seen in part.
pub const DRIVER: DriverEntry = DriverEntry {
    name: "file",
    schemes: &["file"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &[],
    runs_on: RunsOn::OwnThread,
    open: driver::open,
};

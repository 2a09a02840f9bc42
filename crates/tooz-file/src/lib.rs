//! The `file://` driver of tooz: locks, groups and elections for the processes of one host, through
//! a directory.
//!
//! `file:///absolute/dir[?timeout=10]`. The directory is created at the start. The path is taken as
//! it is written: as in Python, it is not percent-decoded. `timeout` is the time in seconds after
//! which a *Python* member counts as dead when nobody has touched its file; we touch ours every third
//! of it. It decides nothing between members that use this crate.
//!
//! # How it works
//!
//! - A **lock** is an OFD record lock on the file `dir/NAME`. It excludes Python's record locks and
//!   the other coordinators of this process alike, and the kernel releases it when the holder
//!   dies. The file's content is the fencing token, a decimal counter that is never behind the
//!   clock. Waiters are in a
//!   [queue]; inotify wakes the first of them when the file is closed, and the first wakes the
//!   next when it leaves the queue. An attempt that does not wait wakes nobody.
//! - A **session** is a file in `dir/.tooz/sessions`, locked for as long as the session lives. A
//!   member whose record names a session lives as long as that file is locked, so a killed process
//!   is noticed at once and without a clock. Removing the file ends the session.
//! - A **group** has Python's keys, and our records have one more: the session. Everything is
//!   written beside and renamed into place, so that no reader sees half of it.
//! - A **leader** holds the lock on `dir/.tooz/leaders/HASH`, whose content is the counter and the
//!   leader's id. The file outlives its group, so that tokens rise when the group is created again.
//!
//! # Limits
//!
//! - The counters are not synced to the disk. The clock makes up for what a power failure loses or
//!   somebody removes, unless it was set back meanwhile.
//! - Each lock that is held takes a file descriptor, and each that is waited for takes three.
//! - A process that is stopped while it is the first waiter delays the others by a second or two,
//!   then is passed over. The queue only orders our own: Python's processes poll.
//! - A Python holder does not notice that its lock was broken.
//! - Over NFS and other network file systems changes by other hosts are not pushed: waiters and
//!   watches then look every 100 ms, and the log says so. Shared locks need `flock` to be separate
//!   from record locks, which is not so on NFS.
//! - A forked child that does not `exec` keeps what its parent held.
//!
//! # Other systems
//!
//! Only Linux has what this needs. macOS has no OFD locks before version 13 and does not let its
//! record locks tell two descriptors of a process apart: it would take `F_OFD_SETLK` from the newer
//! systems, `flock` plus an in-process table elsewhere, and kqueue's `NOTE_CLOSE_WRITE` and
//! `NOTE_DELETE` instead of inotify. Windows would take `LockFileEx`, which is mandatory and so must
//! lock a range beyond the counter, `ReadDirectoryChangesW`, and names without `<>:"\|?*` and
//! without the reserved device names; a file that is open cannot be replaced there, so breaking a
//! lock would need another way. Python's driver supports neither, so there are no keys to share.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
compile_error!("tooz-file needs OFD record locks and inotify, which only Linux has");

// Permissions of what is created, and small operations on files.
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
/// are read one after another, and members that come and go meanwhile may be seen in part.
pub const DRIVER: DriverEntry = DriverEntry {
    name: "file",
    schemes: &["file"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &[],
    runs_on: RunsOn::OwnThread,
    open: driver::open,
};

//! The `ipc://` driver of tooz: locks, groups and elections for the processes of one host, over
//! System V semaphores and shared memory, together with the Python original.
//!
//! `ipc://[?namespace=NAME]`. The namespace without a name is the one that Python's processes are
//! in. As in Python, only processes of one user meet in it.
//!
//! # How it works
//!
//! Three layers, each for what the one before has no room for:
//!
//! - The **semaphores** of a lock have Python's key and exclude Python, both ways. The kernel frees
//!   them when an exclusive holder dies, and a release removes them, as Python's does. See `gate`.
//! - A **queue** of tickets, in a directory in memory, orders our own: an exclusive holder, or
//!   readers, at its head, and the waiters behind, first come, first served. A ticket is a named
//!   pipe that its owner keeps open, so that the next one, and nobody else, is woken when the owner
//!   releases it or dies. See `queue`.
//! - **Groups and elections** are those of [`tooz_file`], in the same directory. Python knows only
//!   a group's name, from a shared memory segment, which is kept in step. See `group_list`.
//!
//! No clock declares anybody dead: queue, sessions and semaphores all end with the process. The
//! engine's thread never sleeps on a semaphore: the head of a queue waits for Python on a thread of
//! its own, which outlives an abandoned wait by at most 200 ms.
//!
//! # `unsafe`
//!
//! No safe crate has System V semaphores or segments. Two modules, `semaphore` and `segment`,
//! make the system calls behind an interface that is safe to use; `valgrind.sh` in this crate
//! runs their tests, and those of their users, under Valgrind.
//!
//! # Limits
//!
//! - A lock's key has 32 bits, by Python's rule: two names can share one, and then exclude each
//!   other.
//! - If *all* processes that share a lock are killed, a Python process that waits for it waits until
//!   the next of ours starts, stops, or has been idle for some ten seconds. An undo for each reader
//!   would free the lock when the first one dies, which is worse.
//! - A Python process that breaks a lock of ours tells nobody: we notice within a second.
//! - Tokens are the monotonic clock, plus the time of day at which it began: they rise from boot to
//!   boot unless the time of day was set back.
//! - Processes that share semaphores must share the directory too, which is `/dev/shm` unless the
//!   option `directory` says otherwise. Containers share both or neither by default.
//! - A forked child that does not `exec` keeps what its parent held, but not the undo of the
//!   semaphores.

#[cfg(not(target_os = "linux"))]
compile_error!("tooz-ipc needs Linux: undoing semaphores, named pipes with flock, and inotify");

mod config;
mod driver;
mod election;
mod errors;
// The semaphores of a lock, by Python's rules.
mod gate;
mod group;
// Python's list of groups in shared memory.
mod group_list;
#[doc(hidden)]
pub mod inspect;
mod keys;
mod lock;
// The directory beside the semaphores, with what they have no room for.
mod namespace;
// The file that is locked for as long as a session lives.
mod presence;
// Shared memory.
mod segment;
// The system's calls for semaphores.
mod semaphore;
mod session;
mod state;

use tooz_core::{DriverEntry, Features, RunsOn};

/// The driver of `ipc://`.
pub const DRIVER: DriverEntry = DriverEntry {
    name: "ipc",
    schemes: &["ipc"],
    characteristics: config::CHARACTERISTICS,
    features: Features::ALL,
    time_to_live: &[],
    runs_on: RunsOn::OwnThread,
    open: driver::open,
};

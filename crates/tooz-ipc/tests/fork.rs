//! A child by `fork` without `exec` has the coordinators and guards of its parent, and no engine.
//!
//! Here, because `fork` is `unsafe`; any driver shows it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "a fork")]

use std::time::{Duration, Instant};

use tooz_core::blocking::{Coordinator, block_on};
use tooz_core::{ErrorKind, Loss, Registry};

fn start(url: &str, member: &str) -> Coordinator {
    let registry = Registry::new().with(tooz_file::DRIVER).unwrap();
    let coordinator = registry.builder(url, member).unwrap().build().unwrap();
    block_on(coordinator.start()).unwrap();
    coordinator.into()
}

/// Runs `child` in a fork; whether it came to its end without a panic.
fn forked(child: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    // SAFETY: the child leaves by `_exit` and touches nothing that another thread of the parent
    // may have locked, but the allocator, which glibc makes whole after a fork.
    match unsafe { libc::fork() } {
        0 => {
            let done = std::panic::catch_unwind(child).is_ok();
            // SAFETY: it returns nowhere and needs nothing.
            unsafe { libc::_exit(i32::from(!done)) }
        }
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        child => ended_well(child),
    }
}

/// Waits for the child, which hung for ever once: it is ended after half a minute.
fn ended_well(child: libc::pid_t) -> bool {
    let start = Instant::now();
    let mut status = 0;
    // SAFETY: `status` is valid for the time of the call, and the child is our own.
    while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
        if start.elapsed() > Duration::from_secs(30) {
            // SAFETY: the child is ours and not waited for yet, so the number is still its.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn a_fork_is_told_so_and_takes_nothing_from_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let parent = start(&url, "parent");
    parent.join_group_create("g", &()).unwrap();
    let guard = parent.lock("l").unwrap().acquire().unwrap();
    let events = parent.session_events();
    let (inherited, handle) = (guard, parent.clone());
    let mut held = Some(inherited);
    let child = std::panic::AssertUnwindSafe(|| {
        let guard = held.take().unwrap();
        assert_eq!(guard.loss(), Some(Loss::Forked));
        assert_eq!(guard.check().unwrap_err().kind(), ErrorKind::LockLost);
        assert_eq!(guard.lost(), Loss::Forked);
        let not_running = |kind| assert_eq!(kind, ErrorKind::NotRunning);
        not_running(guard.release().unwrap_err().kind());
        not_running(handle.groups().unwrap_err().kind());
        not_running(handle.lock("m").unwrap().acquire().unwrap_err().kind());
        not_running(handle.leave_group("g").unwrap_err().kind());
        not_running(handle.stop().unwrap_err().kind());
        assert_eq!(events.into_iter().next(), None);
        drop(handle);
        // One of its own works, and sees what the parent holds.
        let own = start(&url, "child");
        assert!(own.lock("l").unwrap().try_acquire().unwrap().is_none());
        assert_eq!(own.members("g").unwrap().len(), 1);
        own.stop().unwrap();
    });
    assert!(forked(child), "the child says above what failed, or it hung");
    let guard = held.take().unwrap();
    guard.check().unwrap();
    assert!(guard.verify().unwrap());
    assert_eq!(parent.members("g").unwrap().len(), 1);
    parent.stop().unwrap();
}

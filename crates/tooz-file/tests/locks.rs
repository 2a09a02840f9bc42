//! Locks between the coordinators of one process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use common::{event, python_could_lock, soon, started, started_to_be_told, waiting};
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tooz_core::{ErrorKind, FencingToken, LockName, Loss, SessionEvent};

#[tokio::test]
async fn an_exclusive_lock_excludes_all_and_is_handed_over() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    let held = a.lock("volumes/17").unwrap().acquire().await.unwrap();
    assert!(!python_could_lock(&dir.path().join("volumes/17")));
    let lock = b.lock("volumes/17").unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert!(lock.try_acquire_shared().await.unwrap().is_none());
    assert!(lock.try_acquire_for(Duration::from_millis(20)).await.unwrap().is_none());
    assert!(a.lock("volumes/17").unwrap().try_acquire().await.unwrap().is_none(), "never nests");
    assert!(held.verify().await.unwrap());
    let first = held.fencing_token();
    let (released, next) =
        tokio::join!(held.release(), soon("hand-over", async { lock.acquire().await.unwrap() }));
    released.unwrap();
    assert!(next.fencing_token() > first);
    let content = fs::read_to_string(dir.path().join("volumes/17")).unwrap();
    assert_eq!(content, format!("{:020}\n", next.fencing_token().0));
    let last = next.fencing_token();
    drop(next);
    let again = soon("release by drop", lock.acquire()).await.unwrap();
    assert!(again.fencing_token() > last);
}

#[tokio::test]
async fn shared_locks_exclude_exclusive_ones_alone() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    let (a, b) = (a.lock("x").unwrap(), b.lock("x").unwrap());
    let one = a.try_acquire_shared().await.unwrap().unwrap();
    let two = b.try_acquire_shared().await.unwrap().unwrap();
    let three = a.try_acquire_shared().await.unwrap().unwrap();
    assert!(one.fencing_token() < two.fencing_token());
    assert!(two.fencing_token() < three.fencing_token());
    assert!(!python_could_lock(&dir.path().join("x")));
    assert!(b.try_acquire().await.unwrap().is_none());
    let last = three.fencing_token();
    drop((one, three));
    let waiting = tokio::spawn(async move { b.acquire().await.unwrap().fencing_token() });
    two.release().await.unwrap();
    assert!(soon("writer", waiting).await.unwrap() > last);
}

#[tokio::test]
async fn who_waits_longest_is_first() {
    let dir = tempdir().unwrap();
    let holder = started(dir.path(), "holder").await;
    let held = holder.lock("x").unwrap().acquire().await.unwrap();
    let (turns, mut order) = mpsc::unbounded_channel();
    let waiters = stream_of_waiters(dir.path(), &turns).await;
    // Who gives up leaves no gap, and who releases and wants it again is the last.
    waiters[3].abort();
    waiting(dir.path(), 7).await;
    held.release().await.unwrap();
    let again = soon("last turn", holder.lock("x").unwrap().acquire()).await.unwrap();
    drop(turns);
    let mut served = Vec::new();
    while let Ok(number) = order.try_recv() {
        served.push(number);
    }
    assert_eq!(served, [0, 1, 2, 4, 5, 6, 7]);
    again.release().await.unwrap();
    tooz_file::inspect::sweep(dir.path());
    assert_eq!(fs::read_dir(dir.path().join(".tooz/queues")).unwrap().count(), 0);
}

/// Eight that wait one after the other, each a coordinator of its own, so that nothing but the
/// driver orders them.
async fn stream_of_waiters(
    dir: &Path,
    turns: &mpsc::UnboundedSender<usize>,
) -> Vec<JoinHandle<()>> {
    let mut waiters = Vec::new();
    for number in 0..8 {
        let coordinator = started(dir, &format!("m{number}")).await;
        let turns = turns.clone();
        waiters.push(tokio::spawn(async move {
            let guard = coordinator.lock("x").unwrap().acquire().await.unwrap();
            turns.send(number).unwrap();
            guard.release().await.unwrap();
        }));
        waiting(dir, number + 1).await;
    }
    waiters
}

#[tokio::test]
async fn readers_do_not_overtake_a_writer() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    let reader = a.lock("x").unwrap().acquire_shared().await.unwrap();
    let lock = b.lock("x").unwrap();
    let writes = tokio::spawn(async move { lock.acquire().await.unwrap() });
    waiting(dir.path(), 1).await;
    let c = started(dir.path(), "c").await;
    let lock = c.lock("x").unwrap();
    assert!(lock.try_acquire_shared().await.unwrap().is_none());
    let reads = tokio::spawn(async move { lock.acquire_shared().await.unwrap() });
    waiting(dir.path(), 2).await;
    reader.release().await.unwrap();
    let writer = soon("writer", writes).await.unwrap();
    assert!(!reads.is_finished());
    writer.release().await.unwrap();
    soon("late reader", reads).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn many_at_once_count_each_alone() {
    let dir = tempdir().unwrap();
    let coordinator = started(dir.path(), "a").await;
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let lock = coordinator.lock("x").unwrap();
            tokio::spawn(async move {
                let guard = match n % 4 {
                    0 => lock.acquire().await.unwrap(),
                    _ => lock.acquire_shared().await.unwrap(),
                };
                guard.fencing_token().0
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(soon("turn", task).await.unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 100, "no two have the same token");
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let dir = tempdir().unwrap();
    let outside = tempdir().unwrap();
    let coordinator = started(dir.path(), "a").await;
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("new"), dir.path().join("file")).unwrap();
    drop(coordinator.lock("a/b").unwrap().acquire().await.unwrap());
    for (name, part) in [
        (&b"../x"[..], ". or .. as a part"),
        (b"/etc/x", "begins or ends with a slash"),
        (b"groups/x", "reserved for the driver"),
        (b".tooz", "reserved for the driver"),
        (b"a\0b", "has a NUL byte"),
        (b"a", "is a directory"),
        (b"a/b/c", "is below another lock's name"),
        (b"file", "is a symbolic link"),
        (b"link/x", "link is a symbolic link"),
        (b"link/x/y", "link is a symbolic link"),
    ] {
        let lock = coordinator.lock(LockName::from(name)).unwrap();
        let error = lock.acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(coordinator.lock("link/x").unwrap().break_lock().await.is_err());
    drop(coordinator.lock(b"\xff\xfe").unwrap().acquire().await.unwrap());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// Who can read a file can lock it, and who can read a member knows what it publishes.
#[tokio::test]
async fn nothing_is_for_everybody() {
    let base = tempdir().unwrap();
    let dir = base.path().join("new/root");
    let (a, b) = (started(&dir, "a").await, started(&dir, "b").await);
    a.join_group_create("g", &"secret").await.unwrap();
    let term = a.campaign("g").await.unwrap();
    let held = a.lock("volumes/17").unwrap().acquire().await.unwrap();
    let lock = b.lock("volumes/17").unwrap();
    let wait = tokio::spawn(async move { lock.acquire().await.unwrap() });
    waiting(&dir, 1).await;
    assert!(b.lock("volumes/17").unwrap().break_lock().await.unwrap());
    let mut dirs = vec![base.path().join("new")];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            assert_eq!(found.mode() & 0o007, 0, "{}", entry.path().display());
            seen += 1;
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    assert!(seen > 12, "files and directories of every kind: {seen}");
    drop((term, held, soon("the lock", wait).await.unwrap()));
}

#[tokio::test]
async fn a_directory_for_everybody_is_refused_unless_it_is_wanted() {
    let dir = tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = common::builder(dir.path(), "a", "").build().unwrap();
    let error = refused.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("world_writable=yes"), "{error}");
    let accepted = common::started_with(dir.path(), "a", "?world_writable=yes").await;
    drop(accepted.lock("x").unwrap().acquire().await.unwrap());
}

#[tokio::test]
async fn files_of_others_are_not_touched_and_those_of_python_are_taken() {
    let dir = tempdir().unwrap();
    let coordinator = started(dir.path(), "a").await;
    fs::write(dir.path().join("notes"), "to do").unwrap();
    let error = coordinator.lock("notes").unwrap().acquire().await.unwrap_err();
    assert!(error.to_string().contains("a content that no lock has"), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("notes")).unwrap(), "to do");
    fs::write(dir.path().join("python"), "").unwrap();
    let held = coordinator.lock("python").unwrap().acquire().await.unwrap();
    assert!(held.fencing_token().0 > 0);
}

#[tokio::test]
async fn a_broken_lock_is_lost_at_once_and_its_tokens_rise() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    assert!(!b.lock("x").unwrap().break_lock().await.unwrap(), "no such file");
    let held = a.lock("x").unwrap().acquire().await.unwrap();
    let waiter = b.lock("x").unwrap();
    let waiting = tokio::spawn(async move { waiter.acquire().await.unwrap() });
    assert!(b.lock("x").unwrap().break_lock().await.unwrap());
    assert_eq!(soon("loss", held.lost()).await, Loss::Taken);
    assert!(held.check().is_err());
    let next = soon("waiter's turn", waiting).await.unwrap();
    assert!(next.fencing_token() > held.fencing_token());
    assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(next.verify().await.unwrap(), "a late release takes nothing");
    next.release().await.unwrap();
    assert!(!b.lock("x").unwrap().break_lock().await.unwrap(), "free");
}

#[tokio::test]
async fn a_lock_whose_file_is_removed_is_lost() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    for remove in [
        |file: &std::path::Path| fs::remove_file(file).unwrap(),
        |file: &std::path::Path| fs::rename(file, file.with_extension("old")).unwrap(),
    ] {
        let held = a.lock("x").unwrap().acquire_shared().await.unwrap();
        let waiter = b.lock("x").unwrap();
        let waiting = tokio::spawn(async move { waiter.acquire().await.unwrap() });
        remove(&dir.path().join("x"));
        assert_eq!(soon("loss", held.lost()).await, Loss::Taken);
        soon("waiter's turn", waiting).await.unwrap().release().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_moved_away_is_lost_at_once_and_its_tokens_never_come_again() {
    let base = tempdir().unwrap();
    let (above, aside) = (base.path().join("above"), base.path().join("aside"));
    let dir = above.join("real/dir");
    fs::create_dir_all(&dir).unwrap();
    symlink(above.join("real"), base.path().join("link")).unwrap();
    fs::create_dir(base.path().join("elsewhere")).unwrap();
    symlink("elsewhere", base.path().join("other")).unwrap();
    let through_link = base.path().join("link/dir");
    let mut last = FencingToken(0);
    for (path, from, to) in [
        (&dir, dir.join("volumes"), aside.clone()),
        (&dir, dir.clone(), aside.clone()),
        (&dir, above.clone(), aside.clone()),
        (&through_link, above.join("real"), aside.clone()),
        (&through_link, base.path().join("other"), base.path().join("link")),
    ] {
        let (a, b) = (started_to_be_told(path, "a").await, started_to_be_told(path, "b").await);
        let lock = a.lock("volumes/17").unwrap();
        let held = lock.acquire().await.unwrap();
        assert!(held.fencing_token() > last, "{from:?}");
        let waiter = b.lock("volumes/17").unwrap();
        let waits = tokio::spawn(async move { waiter.acquire().await.unwrap() });
        waiting(path, 1).await;
        fs::rename(&from, &to).unwrap();
        if path == &through_link && to == aside {
            // Nobody makes what a link should lead to.
            fs::create_dir(&from).unwrap();
        }
        soon("loss", held.lost()).await;
        assert!(held.check().is_err());
        let next = soon("turn", waits).await.unwrap();
        assert!(next.fencing_token() > held.fencing_token(), "{from:?}");
        last = next.fencing_token();
        for coordinator in [a, b] {
            coordinator.stop().await.unwrap();
        }
        if to == aside {
            // It comes back, with a counter that has seen less.
            fs::remove_dir_all(&from).unwrap();
            fs::rename(&to, &from).unwrap();
        }
    }
}

#[tokio::test]
async fn all_that_a_session_held_is_free_when_it_is_taken_away() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    let mut events = a.session_events();
    b.stop().await.unwrap();
    let held = a.lock("x").unwrap().acquire().await.unwrap();
    assert_eq!(tooz_file::inspect::end_sessions(dir.path(), &"a".into()).unwrap(), 1);
    assert_eq!(soon("loss", held.lost()).await, Loss::SessionEnded);
    b.start().await.unwrap();
    let next = soon("turn", async { b.lock("x").unwrap().acquire().await.unwrap() }).await;
    assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert!(next.verify().await.unwrap());
    let rejoined = |e: &SessionEvent| matches!(e, SessionEvent::Rejoined(_)).then_some(());
    event(&mut events, "rejoined", rejoined).await;
    next.release().await.unwrap();
    a.lock("x").unwrap().acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_when_all_have_stopped() {
    let dir = tempdir().unwrap();
    let coordinator = started(dir.path(), "a").await;
    let _held = coordinator.lock("a/b").unwrap().acquire().await.unwrap();
    coordinator.create_group("g").await.unwrap();
    coordinator.join_group("g", &1).await.unwrap();
    let _term = coordinator.campaign("g").await.unwrap();
    let residue = tooz_file::inspect::residue(dir.path()).unwrap();
    let session = residue.iter().find(|line| line.starts_with("the living session")).unwrap();
    assert!(session.contains("(member=a, id=61, pid="), "{session}");
    for part in ["the member a of the group g", "the leader of a", "the lock a/b"] {
        assert!(residue.iter().any(|line| line.starts_with(part)), "{part} in {residue:?}");
    }
    coordinator.stop().await.unwrap();
    assert_eq!(tooz_file::inspect::residue(dir.path()).unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_had_is_named() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let coordinator = common::builder(&dir.path().join("file"), "a", "").build().unwrap();
    let error = coordinator.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("cannot create the directory"), "{error}");
    assert!(error.to_string().contains("/file: "), "{error}");
}

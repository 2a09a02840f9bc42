//! The cases, one file an area, and what they share.

mod break_lock;
mod cancellation;
mod capabilities;
mod contenders;
mod elections;
mod events;
mod faults;
mod fencing;
mod groups;
mod lifecycle;
mod locks;
mod processes;
mod semaphores;
mod sessions;
mod several;
mod shared_locks;

use std::time::Duration;

use tooz_core::{Coordinator, Error, ErrorKind, Events, Result};

use crate::Case;
use crate::context::Context;

/// All cases, in the order of the areas.
pub(crate) const ALL: &[&[Case]] = &[
    lifecycle::CASES,
    locks::CASES,
    shared_locks::CASES,
    break_lock::CASES,
    semaphores::CASES,
    several::CASES,
    groups::CASES,
    capabilities::CASES,
    events::CASES,
    elections::CASES,
    sessions::CASES,
    fencing::CASES,
    cancellation::CASES,
    faults::CASES,
    processes::CASES,
];

/// A bound that is as good as at once, for a hand-over or a push.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The error of what must fail with `kind`.
#[track_caller]
fn fails<T>(kind: ErrorKind, result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("succeeded, and must fail with {kind:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "the wrong kind of error: {error:?}");
            error
        }
    }
}

/// The next event, pushed within a second.
async fn next_within<T>(ctx: &Context, what: &str, events: &mut Events<T>) -> T {
    let event = ctx.within(AT_ONCE, what, events.next()).await;
    event.unwrap_or_else(|| panic!("{what}: the stream ended"))
}

/// Whether nobody holds the lock.
async fn is_free(coordinator: &Coordinator, name: &str) -> Result<bool> {
    match coordinator.lock(name)?.try_acquire().await? {
        None => Ok(false),
        Some(guard) => guard.release().await.map(|_| true),
    }
}

/// Names that an encoding or a path can stumble over.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        " ",
        "two words",
        "a/b",
        "/",
        "a/../b",
        "..",
        ".",
        ".hidden",
        "a\\b",
        "a:b",
        "a*?[]",
        "a%2Fb",
        "%",
        "-",
        "\u{fc}n\u{ef}c\u{f6}d\u{e9}-\u{1f512}",
        "tab\tnewline\n",
        "quote'\"`",
        "$(x);",
        "{tag}",
        "CON",
        "nul",
    ]
    .into_iter()
    .map(|name| name.as_bytes().to_owned())
    .collect();
    names.extend([vec![0], b"a\0b".to_vec(), vec![0xff, 0xfe, 0x80], (0..=255).collect()]);
    names.push(vec![b'x'; 200]);
    names
}

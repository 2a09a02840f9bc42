use tooz_core::{GroupId, LockName};

/// What a queue is for. A lock of a group's name is not its leadership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockKey {
    Lock(LockName),
    Leader(GroupId),
}

//! What CMD is run under: a lock, several, or a permit.

use std::fmt;
use std::time::Instant;

use tooz::{Coordinator, LockGuard, LockName, LockSetGuard, Mode, Ownership, Permit, Result, Wait};

/// What is asked for.
pub(crate) enum Wanted {
    Lock(LockName),
    All(Vec<LockName>),
    Permit(LockName, u32),
}

/// What is held.
pub(crate) enum Held {
    Lock(LockGuard),
    All(LockSetGuard),
    Permit(Permit),
}

impl Wanted {
    pub(crate) async fn acquire(
        &self,
        coordinator: &Coordinator,
        mode: Mode,
        wait: Wait,
    ) -> Result<Option<Held>> {
        Ok(match self {
            Self::Lock(name) => {
                coordinator.lock(name)?.acquire_with(mode, wait).await?.map(Held::Lock)
            }
            Self::All(names) => {
                coordinator.lock_all(names)?.acquire_with(mode, wait).await?.map(Held::All)
            }
            Self::Permit(name, permits) => {
                let semaphore = coordinator.semaphore(name, *permits)?;
                semaphore.acquire_with(wait).await?.map(Held::Permit)
            }
        })
    }

    /// Why it was not had.
    pub(crate) fn is_held_by_others(&self) -> String {
        match self {
            Self::Lock(name) => format!("the lock {name} is held by somebody else"),
            Self::All(_) => format!("one of {self} is held by somebody else"),
            Self::Permit(name, 1) => format!("the permit of {name} is held by somebody else"),
            Self::Permit(name, permits) => {
                format!("all {permits} permits of {name} are held by others")
            }
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(name) => write!(f, "the lock {name}"),
            Self::All(names) => {
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                write!(f, "the locks {}", names.join(", "))
            }
            Self::Permit(name, _) => write!(f, "a permit of {name}"),
        }
    }
}

impl Held {
    /// Each of it.
    pub(crate) fn ownerships(&self) -> Vec<&Ownership> {
        match self {
            Self::Lock(guard) => vec![&**guard],
            Self::All(guard) => guard.guards().map(|(_, guard)| &**guard).collect(),
            Self::Permit(permit) => vec![&**permit],
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ownerships().into_iter().filter_map(Ownership::deadline).min()
    }

    /// For messages: which of it is lost, if it is.
    pub(crate) fn lost_one(&self, wanted: &Wanted) -> String {
        match self {
            Self::All(guard) => match guard.loss() {
                Some((name, _)) => format!("the lock {name}"),
                None => format!("one of {wanted}"),
            },
            Self::Lock(_) | Self::Permit(_) => wanted.to_string(),
        }
    }

    pub(crate) async fn release(self) -> Result<()> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::All(guard) => guard.release().await,
            Self::Permit(permit) => permit.release().await,
        }
    }
}

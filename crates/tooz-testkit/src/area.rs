//! The areas that the cases are sorted into.

use std::fmt;

use tooz_core::{Characteristic, Characteristics, DriverEntry, Feature, Features};

/// A part of the contract: one column of the capability matrix, one file of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Starting, stopping, being dropped.
    Lifecycle,
    /// Exclusive locks.
    Locks,
    /// Shared locks beside exclusive ones.
    SharedLocks,
    /// Taking a lock away.
    BreakLock,
    /// Locks that several hold at once.
    Semaphores,
    /// Several locks that are held together.
    Several,
    /// Groups and their members.
    Groups,
    /// What members publish.
    Capabilities,
    /// The events of a group.
    Events,
    /// Leaders.
    Elections,
    /// The loss of a session, and silence.
    Sessions,
    /// Tokens that rise.
    Fencing,
    /// Futures and guards dropped anywhere.
    Cancellation,
    /// Harm to connections and servers: only where a URL names hosts.
    Faults,
    /// Several processes, some of them killed or stopped.
    Processes,
}

impl Area {
    /// All of them, in the order of the matrix.
    pub const ALL: [Self; 15] = [
        Self::Lifecycle,
        Self::Locks,
        Self::SharedLocks,
        Self::BreakLock,
        Self::Semaphores,
        Self::Several,
        Self::Groups,
        Self::Capabilities,
        Self::Events,
        Self::Elections,
        Self::Sessions,
        Self::Fencing,
        Self::Cancellation,
        Self::Faults,
        Self::Processes,
    ];

    /// Its name in the matrix and in the names of tests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Locks => "locks",
            Self::SharedLocks => "shared-locks",
            Self::BreakLock => "break-lock",
            Self::Semaphores => "semaphores",
            Self::Several => "several",
            Self::Groups => "groups",
            Self::Capabilities => "capabilities",
            Self::Events => "events",
            Self::Elections => "elections",
            Self::Sessions => "sessions",
            Self::Fencing => "fencing",
            Self::Cancellation => "cancellation",
            Self::Processes => "processes",
            Self::Faults => "faults",
        }
    }

    /// The features without which it cannot be run.
    pub const fn features(self) -> Features {
        match self {
            Self::Lifecycle
            | Self::Sessions
            | Self::Cancellation
            | Self::Processes
            | Self::Faults => Features::NONE,
            Self::Locks | Self::Semaphores | Self::Several => Features::of(&[Feature::Locks]),
            Self::SharedLocks => Features::of(&[Feature::Locks, Feature::SharedLocks]),
            Self::BreakLock => Features::of(&[Feature::Locks, Feature::BreakLock]),
            Self::Groups => Features::of(&[Feature::Groups]),
            Self::Capabilities => Features::of(&[Feature::Groups, Feature::Capabilities]),
            Self::Events => Features::of(&[Feature::Groups, Feature::Events]),
            Self::Elections => Features::of(&[Feature::Groups, Feature::Elections]),
            Self::Fencing => Features::of(&[Feature::Locks, Feature::FencingTokens]),
        }
    }

    /// The characteristics without which it cannot be run.
    pub const fn characteristics(self) -> Characteristics {
        match self {
            Self::Processes => Characteristics::of(&[Characteristic::DistributedAcrossProcesses]),
            _ => Characteristics::NONE,
        }
    }

    /// Whether the driver's own record says that it can be run; `None` where the record does not
    /// say.
    pub(crate) fn declared(self, driver: &DriverEntry) -> Option<bool> {
        let (features, characteristics) = (self.features(), self.characteristics());
        if features.is_empty() && characteristics.is_empty() {
            return None;
        }
        let lacking = features.without(driver.features);
        let weaker = characteristics.without(driver.characteristics);
        Some(lacking.is_empty() && weaker.is_empty())
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! What a backend ensures, and what a driver implements.

use std::fmt;

macro_rules! set_of {
    (
        $(#[$item_doc:meta])* $item:ident,
        $(#[$set_doc:meta])* $set:ident,
        { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }
    ) => {
        $(#[$item_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $item {
            $($(#[$doc])* $variant,)+
        }

        impl $item {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name, as the command prints it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $item {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        $(#[$set_doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $set(u32);

        impl $set {
            /// None.
            pub const NONE: Self = Self(0);

            /// Just these.
            pub const fn of(items: &[$item]) -> Self {
                let mut bits = 0;
                let mut index = 0;
                while index < items.len() {
                    bits |= 1 << items[index] as u32;
                    index += 1;
                }
                Self(bits)
            }

            /// Whether `item` is among them.
            pub const fn contains(self, item: $item) -> bool {
                self.0 & (1 << item as u32) != 0
            }

            /// Both sets together.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// What is in this set and not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether there is none.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// One after another, in the order of the declaration.
            pub fn iter(self) -> impl Iterator<Item = $item> {
                $item::ALL.iter().copied().filter(move |item| self.contains(*item))
            }
        }

        impl FromIterator<$item> for $set {
            fn from_iter<I: IntoIterator<Item = $item>>(items: I) -> Self {
                items.into_iter().fold(Self::NONE, |set, item| set.union(Self::of(&[item])))
            }
        }

        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.iter()).finish()
            }
        }

        /// The names, separated by commas.
        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, item) in self.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    f.write_str(item.name())?;
                }
                Ok(())
            }
        }
    };
}

set_of!(
    /// A property that a backend ensures, with the original's meaning.
    Characteristic,
    /// A set of [`Characteristic`]s.
    Characteristics,
    {
        /// Correctness does not depend on a timeout: a living holder never loses its lock because
        /// it was slow, and a dead one is noticed without a clock.
        NonTimeoutBased = "non-timeout-based",
        /// The primitives behave the same with many threads in a process.
        DistributedAcrossThreads = "distributed-across-threads",
        /// The primitives behave the same with many processes on a host.
        DistributedAcrossProcesses = "distributed-across-processes",
        /// The primitives behave the same with many hosts.
        DistributedAcrossHosts = "distributed-across-hosts",
        /// Every operation takes effect at one moment between its call and its return, for everybody.
        Linearizable = "linearizable",
        /// The operations of one process take effect in the order in which it made them.
        Sequential = "sequential",
        /// Everybody sees operations that depend on each other in that order.
        Causal = "causal",
        /// Everybody sees the operations in the same order, with no bound in time.
        Serializable = "serializable",
        /// Both sides of a network partition see the same data.
        SameViewUnderPartitions = "same-view-under-partitions",
        /// All clients see the same data at the same time.
        SameViewAcrossClients = "same-view-across-clients",
    }
);

set_of!(
    /// A part of the API that a driver implements.
    Feature,
    /// A set of [`Feature`]s.
    Features,
    {
        /// Exclusive locks.
        Locks = "locks",
        /// Shared (read) locks, which exclude exclusive ones.
        SharedLocks = "shared-locks",
        /// Breaking a lock: anybody can take it from its holder.
        BreakLock = "break-lock",
        /// Tokens that strictly rise with every acquisition of a name and every term of a group.
        FencingTokens = "fencing-tokens",
        /// Groups and their members.
        Groups = "groups",
        /// Data that a member publishes, and its update.
        Capabilities = "capabilities",
        /// Membership events, pushed.
        Events = "events",
        /// Leader election.
        Elections = "elections",
    }
);

impl Features {
    /// Every feature there is.
    pub const ALL: Self = Self::of(Feature::ALL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_contain_what_they_were_made_of() {
        const SET: Characteristics =
            Characteristics::of(&[Characteristic::Linearizable, Characteristic::NonTimeoutBased]);
        assert!(SET.contains(Characteristic::Linearizable));
        assert!(!SET.contains(Characteristic::Causal));
        assert_eq!(SET.to_string(), "non-timeout-based, linearizable");
        assert_eq!(SET.iter().collect::<Characteristics>(), SET);
        assert!(SET.without(SET).is_empty());
    }

    #[test]
    fn there_are_ten_characteristics() {
        assert_eq!(Characteristic::ALL.len(), 10);
    }
}

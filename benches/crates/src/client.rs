//! The crates behind one face: a client, the locks it makes, and a lock that is held.

use std::time::Duration;

use anyhow::bail;

#[cfg(feature = "etcd")]
use crate::etcd;
use crate::{distributed, redlock};

/// Which crate a process contends with.
#[derive(Clone, Copy)]
pub(crate) enum Crate {
    Distributed,
    Redlock,
    Etcd,
}

impl Crate {
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "distributed-lock" => Self::Distributed,
            "rslock" => Self::Redlock,
            "etcd-client" => Self::Etcd,
            other => bail!("no crate here is called {other}"),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Distributed => "distributed-lock",
            Self::Redlock => "rslock",
            Self::Etcd => "etcd-client",
        }
    }

    /// Whether this program was built with it.
    pub(crate) fn is_built(self) -> bool {
        !matches!(self, Self::Etcd) || cfg!(feature = "etcd")
    }

    pub(crate) async fn open(self, url: &str) -> anyhow::Result<Client> {
        Ok(match self {
            Self::Distributed => Client::Distributed(distributed::Client::open(url).await?),
            Self::Redlock => Client::Redlock(redlock::Client::open(url).await?),
            #[cfg(feature = "etcd")]
            Self::Etcd => Client::Etcd(Box::new(etcd::Client::open(url).await?)),
            #[cfg(not(feature = "etcd"))]
            Self::Etcd => bail!("built without the feature etcd"),
        })
    }
}

/// A connected client, kept as long as its process.
pub(crate) enum Client {
    Distributed(distributed::Client),
    Redlock(redlock::Client),
    #[cfg(feature = "etcd")]
    Etcd(Box<etcd::Client>),
}

impl Client {
    /// A lock of this client.
    pub(crate) fn lock(&self, name: &str) -> Lock {
        match self {
            Self::Distributed(client) => Lock::Distributed(Box::new(client.lock(name))),
            Self::Redlock(client) => Lock::Redlock(client.lock(name)),
            #[cfg(feature = "etcd")]
            Self::Etcd(client) => Lock::Etcd(Box::new(client.lock(name))),
        }
    }

    /// How many locks a client can hold at once, where that is limited.
    pub(crate) fn most_held(&self) -> Option<usize> {
        match self {
            Self::Distributed(client) => client.most_held(),
            _ => None,
        }
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd(client) => client.close().await,
            // They have nothing of the kind and close what they have when they are dropped.
            _ => Ok(()),
        }
    }
}

/// A lock by its name.
pub(crate) enum Lock {
    Distributed(Box<distributed::Lock>),
    Redlock(redlock::Lock),
    #[cfg(feature = "etcd")]
    Etcd(Box<etcd::Lock>),
}

impl Lock {
    /// Waits as the crate waits; `None` when it was in vain for so long.
    pub(crate) async fn acquire(&self, limit: Duration) -> anyhow::Result<Option<Held>> {
        Ok(match self {
            Self::Distributed(lock) => {
                lock.acquire(limit).await?.map(|held| Held::Distributed(Box::new(held)))
            }
            Self::Redlock(lock) => lock.acquire(limit).await?.map(Held::Redlock),
            #[cfg(feature = "etcd")]
            Self::Etcd(lock) => lock.acquire(limit).await?.map(|held| Held::Etcd(Box::new(held))),
        })
    }
}

/// A lock that was acquired.
pub(crate) enum Held {
    Distributed(Box<distributed::Held>),
    Redlock(redlock::Held),
    #[cfg(feature = "etcd")]
    Etcd(Box<etcd::Held>),
}

impl Held {
    pub(crate) async fn release(self) -> anyhow::Result<()> {
        match self {
            Self::Distributed(held) => held.release().await,
            Self::Redlock(held) => held.release().await,
            #[cfg(feature = "etcd")]
            Self::Etcd(held) => held.release().await,
        }
    }
}

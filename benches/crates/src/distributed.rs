//! `distributed-lock`: one provider for a client, which makes the locks.

use std::time::{Duration, Instant};

use anyhow::bail;
use distributed_lock::{
    DistributedLock, FileLockProvider, LockError, LockHandle as _, LockProvider,
    PostgresLockProvider, RedisLockProvider,
};
use distributed_lock_mysql::MySqlLockProvider;

use crate::url::{location, rewritten, scheme};

/// Over Redis the call that should wait gives up at once, and the caller has to ask again. This is
/// the pause that the same crate's locks of files begin with.
const PAUSE: Duration = Duration::from_millis(10);

/// The connections of a pool as the crate makes it; each lock that is held keeps one.
const POOL: usize = 10;

/// The crate rounds down to milliseconds, and PostgreSQL takes 0 for no limit.
const SHORTEST: Duration = Duration::from_millis(1);

/// Options of a URL that the SQL client beneath knows.
const SQL_OPTIONS: &[&str] = &["host", "socket", "ssl-ca", "ssl-mode", "sslmode", "sslrootcert"];

pub(crate) enum Client {
    File(FileLockProvider),
    Redis(RedisLockProvider),
    Postgres(PostgresLockProvider),
    MySql(MySqlLockProvider),
}

type LockOf<P> = <P as LockProvider>::Lock;

pub(crate) enum Lock {
    File(LockOf<FileLockProvider>),
    Redis(LockOf<RedisLockProvider>),
    Postgres(LockOf<PostgresLockProvider>),
    MySql(LockOf<MySqlLockProvider>),
}

type HeldOf<P> = <LockOf<P> as DistributedLock>::Handle;

pub(crate) enum Held {
    File(HeldOf<FileLockProvider>),
    Redis(HeldOf<RedisLockProvider>),
    Postgres(HeldOf<PostgresLockProvider>),
    MySql(HeldOf<MySqlLockProvider>),
}

impl Client {
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        Ok(match scheme(url) {
            "file" => Self::File(FileLockProvider::new(location(url))?),
            "redis" => Self::Redis(RedisLockProvider::new(rewritten(url, "redis", &[])).await?),
            "postgresql" | "postgres" => {
                let url = rewritten(url, "postgresql", SQL_OPTIONS);
                Self::Postgres(PostgresLockProvider::new(url).await?)
            }
            "mysql" | "mariadb" => {
                let url = rewritten(url, "mysql", SQL_OPTIONS);
                Self::MySql(MySqlLockProvider::new(url).await?)
            }
            other => bail!("distributed-lock has nothing for {other}"),
        })
    }

    pub(crate) fn lock(&self, name: &str) -> Lock {
        match self {
            Self::File(provider) => Lock::File(provider.create_lock(name)),
            Self::Redis(provider) => Lock::Redis(provider.create_lock(name)),
            Self::Postgres(provider) => Lock::Postgres(provider.create_lock(name)),
            Self::MySql(provider) => Lock::MySql(provider.create_lock(name)),
        }
    }

    pub(crate) fn most_held(&self) -> Option<usize> {
        match self {
            Self::File(_) | Self::Redis(_) => None,
            Self::Postgres(_) | Self::MySql(_) => Some(POOL),
        }
    }
}

impl Lock {
    pub(crate) async fn acquire(&self, limit: Duration) -> anyhow::Result<Option<Held>> {
        Ok(match self {
            Self::File(lock) => acquire(lock, limit).await?.map(Held::File),
            Self::Redis(lock) => acquire_by_asking(lock, limit).await?.map(Held::Redis),
            Self::Postgres(lock) => acquire(lock, limit.max(SHORTEST)).await?.map(Held::Postgres),
            Self::MySql(lock) => acquire(lock, limit).await?.map(Held::MySql),
        })
    }
}

impl Held {
    pub(crate) async fn release(self) -> anyhow::Result<()> {
        match self {
            Self::File(held) => held.release().await?,
            Self::Redis(held) => held.release().await?,
            Self::Postgres(held) => held.release().await?,
            Self::MySql(held) => held.release().await?,
        }
        Ok(())
    }
}

async fn acquire<L: DistributedLock>(
    lock: &L,
    limit: Duration,
) -> anyhow::Result<Option<L::Handle>> {
    match lock.acquire(Some(limit)).await {
        Ok(held) => Ok(Some(held)),
        Err(LockError::Timeout(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Like [`acquire`], of a lock whose call does not wait.
async fn acquire_by_asking<L: DistributedLock>(
    lock: &L,
    limit: Duration,
) -> anyhow::Result<Option<L::Handle>> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if let Some(held) = acquire(lock, left).await? {
            return Ok(Some(held));
        }
        if left.is_zero() {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE.min(left)).await;
    }
}

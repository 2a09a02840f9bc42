//! The account: a file, or a row in PostgreSQL. It can be used with a fence, and without.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, NoTls, Transaction};
use tooz::Fence;
use tooz_fence::{Error, Stale};

/// Where it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Account {
    File(PathBuf),
    /// A server, and a schema of our own in it.
    Postgres {
        url: String,
        schema: String,
    },
}

/// What the resource answers: it may refuse.
type Answer<T> = Result<Result<T, Stale>>;

impl Account {
    /// An account at the user's resource, or in a file of that folder.
    pub(super) fn new(resource: Option<&str>, folder: &Path) -> Result<Self> {
        match resource {
            None => Ok(Self::File(folder.join("account"))),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                let schema = format!("tooz_demo_{}", std::process::id());
                Ok(Self::Postgres { url: url.to_owned(), schema })
            }
            Some(_) => bail!("the resource is no postgresql:// URL"),
        }
    }

    /// For people, without secrets.
    pub(super) fn shown(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::Postgres { .. } => "a row in PostgreSQL",
        }
    }

    /// Opens it anew, with that balance.
    pub(super) async fn open(&self, balance: i64) -> Result<()> {
        match self {
            Self::File(path) => std::fs::write(path, balance.to_string())?,
            Self::Postgres { schema, .. } => {
                let fences = tooz_fence::postgres::SCHEMA;
                let open = format!(
                    "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; {fences};
                    CREATE TABLE account AS SELECT {balance}::bigint AS balance"
                );
                self.client().await?.batch_execute(&open).await?;
            }
        }
        Ok(())
    }

    /// Removes what was made.
    pub(super) async fn close(&self) -> Result<()> {
        if let Self::Postgres { schema, .. } = self {
            let drop = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
            self.client().await?.batch_execute(&drop).await?;
        }
        Ok(())
    }

    /// Reads the balance; with a fence, raises it first, so that nobody before can write any more.
    pub(super) async fn read(&self, fence: Option<Fence>) -> Answer<i64> {
        match (self, fence) {
            (Self::File(path), None) => Ok(Ok(number(&std::fs::read(path)?)?)),
            (Self::File(path), Some(fence)) => {
                let read = tooz_fence::file::raise(path, fence)
                    .and_then(|file| file.read().map_err(Error::Resource));
                Ok(match refused(read)? {
                    Ok(bytes) => Ok(number(&bytes)?),
                    Err(stale) => Err(stale),
                })
            }
            (Self::Postgres { .. }, fence) => {
                let mut client = self.client().await?;
                let transaction = client.transaction().await?;
                if let Err(stale) = raise(&transaction, fence).await? {
                    return Ok(Err(stale));
                }
                let row = transaction.query_one("SELECT balance FROM account", &[]).await?;
                transaction.commit().await?;
                Ok(Ok(row.try_get(0)?))
            }
        }
    }

    /// Writes the balance; with a fence, in one step with a raise of it.
    pub(super) async fn write(&self, balance: i64, fence: Option<Fence>) -> Answer<()> {
        match (self, fence) {
            (Self::File(path), None) => Ok(Ok(std::fs::write(path, balance.to_string())?)),
            (Self::File(path), Some(fence)) => {
                let text = balance.to_string();
                let file = tooz_fence::file::raise(path, fence);
                refused(file.and_then(|mut file| Ok(file.replace(text.as_bytes())?)))
            }
            (Self::Postgres { .. }, fence) => {
                let mut client = self.client().await?;
                let transaction = client.transaction().await?;
                if let Err(stale) = raise(&transaction, fence).await? {
                    return Ok(Err(stale));
                }
                transaction.execute("UPDATE account SET balance = $1", &[&balance]).await?;
                transaction.commit().await?;
                Ok(Ok(()))
            }
        }
    }

    async fn client(&self) -> Result<Client> {
        let Self::Postgres { url, schema } = self else { bail!("it is a file") };
        let mut config: tokio_postgres::Config = url.parse()?;
        config.options(format!("-c search_path={schema}"));
        let connected = config.connect(NoTls).await;
        let (client, connection) = connected.context("cannot connect to the resource")?;
        // How it ends is told by the client's next call.
        tokio::spawn(connection);
        Ok(client)
    }
}

async fn raise(transaction: &Transaction<'_>, fence: Option<Fence>) -> Answer<()> {
    match fence {
        Some(fence) => refused(tooz_fence::postgres::raise(transaction, fence).await),
        None => Ok(Ok(())),
    }
}

/// A refusal is an answer, and not an error.
fn refused<T, E>(answer: Result<T, Error<E>>) -> Answer<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Stale(stale)) => Ok(Err(stale)),
        Err(error) => Err(error.into()),
    }
}

fn number(bytes: &[u8]) -> Result<i64> {
    std::str::from_utf8(bytes)?.parse().context("the account is no number")
}

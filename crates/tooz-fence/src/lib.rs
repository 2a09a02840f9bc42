//! Refuses the writes of a stale holder, where it counts: at the resource that the lock protects.
//!
//! A process that is paused past its deadline believes, until it looks, that it still holds the lock,
//! and a write that it sent may arrive long after. No lock service can stop either; the resource can.
//! It keeps the highest [token](Fence::token) that it was shown, in the same transaction as what it
//! protects, and refuses a lower one. Here is the one correct way to do that for each resource.
//!
//! # The rule
//!
//! 1. **Raise before you read.** After an acquisition, first show the fence to the resource: `raise`.
//!    From then on no earlier holder can write. What is read afterwards has all that they wrote.
//! 2. **Raise where you write.** Each write is in one transaction with a `raise` before it.
//!
//! A holder that reads first can read what an earlier holder is just about to change: that write is
//! accepted, since nobody has shown a higher token yet, and lost with the next write.
//!
//! ```
//! # tooz::blocking::block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("balance");
//! # std::fs::write(&path, "100")?;
//! # let coordinator = tooz::connect("memory://docs-fence", "host-1").await?;
//! # #[cfg(feature = "file")] {
//! let lock = coordinator.lock("account-7")?;
//! let stale = lock.acquire().await?.fence(); // Released at once: as if its holder slept too long.
//! let guard = lock.acquire().await?;
//!
//! let mut file = tooz_fence::file::raise(&path, guard.fence())?;
//! let balance: u64 = String::from_utf8(file.read()?)?.parse()?;
//! file.replace((balance + 10).to_string().as_bytes())?;
//! drop(file);
//!
//! let refused = tooz_fence::file::raise(&path, stale).unwrap_err();
//! assert!(refused.is_stale(), "{refused}");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Resources
//!
//! | Feature | Module | Protects |
//! |---|---|---|
//! | `postgres` | [`postgres`] | what a transaction of `tokio-postgres` writes |
//! | `sqlx-postgres` | `sqlx_postgres` | what a transaction of `sqlx` writes in PostgreSQL |
//! | `sqlx-mysql` | `sqlx_mysql` | the same in MySQL and MariaDB |
//! | `sqlx-sqlite` | `sqlx_sqlite` | the same in SQLite |
//! | `redis` | [`redis`] | what one command writes in Redis, Valkey or a cluster of them |
//! | `file` | `file` | a file that is replaced or appended to |
//! | `object-store` | `object_store` | an object in a store with conditional puts |
//! | `http` | `http` | what requests with the header `Tooz-Fencing-Token` do |
//!
//! No feature is on by default. The statements are there without any, as text for other clients:
//! [`postgres::RAISE`], [`mysql::RAISE`], [`sqlite::RAISE`], [`redis::SCRIPT`]. Tables are made by you,
//! from [`postgres::SCHEMA`] and its like: nothing here changes a schema.
//!
//! # What it does not do
//!
//! - It stops no holder that has raised and is paused within its transaction: that one holds the row,
//!   and others wait until it goes on or its connection ends. Set the server's limit for idle
//!   transactions (`idle_in_transaction_session_timeout` in PostgreSQL).
//! - It protects from writers that raise. A write without is not seen.
//! - It knows tokens, not modes: holders of a *shared* lock have tokens that differ, and the later ones
//!   refuse the earlier. Writers take the lock exclusively.

mod error;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "http")]
pub mod http;
pub mod mysql;
#[cfg(feature = "object-store")]
pub mod object_store;
pub mod postgres;
pub mod redis;
#[cfg(any(feature = "sqlx-mysql", feature = "sqlx-postgres", feature = "sqlx-sqlite"))]
mod settled;
pub mod sqlite;
#[cfg(feature = "sqlx-mysql")]
pub mod sqlx_mysql;
#[cfg(feature = "sqlx-postgres")]
pub mod sqlx_postgres;
#[cfg(feature = "sqlx-sqlite")]
pub mod sqlx_sqlite;

pub use error::{Error, Stale};
pub use tooz_fence_core::{Fence, FenceName, ParseError};

//! SQLite: within a transaction, before all else in it. The function is `sqlx_sqlite::raise`, with the
//! feature `sqlx-sqlite`.
//!
//! [`RAISE`] writes the fence's row and returns the highest token, in one statement. Why it is correct:
//! a database has one writer at a time, and a transaction that begins with this statement is the writer
//! until it ends. It reads what all earlier ones have committed.
//!
//! A transaction that read before (`BEGIN` is deferred) becomes the writer only if nobody has written
//! since: else it fails with `SQLITE_BUSY_SNAPSHOT` (517) in WAL mode, and with `SQLITE_BUSY` (5) where
//! two that read want to write. Either is for the whole transaction to be tried again, from the `raise`
//! on. There is one isolation level. `PRAGMA synchronous` decides what a power loss takes: tokens go with
//! what they protected.

/// The table of the fences. Run it once, in a migration.
pub const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS tooz_fence (
    name TEXT NOT NULL PRIMARY KEY,
    token INTEGER NOT NULL
) WITHOUT ROWID";

/// Shows a fence: the parameters are its name as text and its token. Returns the highest token: if that
/// is above the fence's, the fence is stale, and the transaction is to be rolled back. SQLite 3.35 or
/// later.
pub const RAISE: &str = "\
INSERT INTO tooz_fence (name, token) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET token = max(token, excluded.token)
RETURNING token";

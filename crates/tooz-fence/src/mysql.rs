//! MySQL and MariaDB: within a transaction, before all else in it. The function is
//! `sqlx_mysql::raise`, with the feature `sqlx-mysql`.
//!
//! [`RAISE`] writes the fence's row, and [`HIGHEST`] reads it. Why they are correct:
//!
//! - *It locks.* `INSERT … ON DUPLICATE KEY UPDATE` takes the row exclusively at every isolation level,
//!   waits for whoever has it, and computes `GREATEST` from what is there then. `FOR UPDATE` reads the
//!   current row too, and not a snapshot.
//! - *They are statements of their own, before the write*: a subquery in an `UPDATE` may be answered
//!   before that waits for its row.
//! - *No snapshot is made by them.* Under `REPEATABLE READ` the snapshot is that of the first plain
//!   `SELECT`, which comes after the lock: it has all that earlier holders wrote.
//! - *It always writes*, also an equal token: the counter `raises` sees to that. Where several servers
//!   take writes (Galera, group replication), locks are local, and two transactions exclude each other
//!   by the rows that they changed.
//!
//! | Isolation | What happens |
//! |---|---|
//! | `READ UNCOMMITTED`, `READ COMMITTED` | Each statement sees all that earlier holders wrote: none of them is within its transaction any longer. |
//! | `REPEATABLE READ`, the default | The same, if the raise comes before the first plain `SELECT`. **If not, that one and all later ones are old**, and nothing tells: MySQL has no error for it, MariaDB has one from 11.6.2 on (1020). The same goes for `START TRANSACTION WITH CONSISTENT SNAPSHOT`. |
//! | `SERIALIZABLE` | Plain reads lock, so nothing is old; two that read before they raise end in a deadlock, of which one is undone. |
//!
//! All are safe if the raise comes first. A deadlock (1213), a timed-out wait for a lock (1205) and 1020
//! are for the whole transaction to be tried again, from the `raise` on. A 1205 leaves the transaction
//! open: roll it back. Statements that end a transaction by themselves, as `CREATE TABLE` does, give up
//! the row. The table has to be of InnoDB, which alone has locks and transactions; so has what is
//! protected.

/// The table of the fences. Run it once, in a migration.
///
/// To move it: names are 32 hexadecimal digits and tokens rise, so copies are merged by the greater
/// token. A row of a lock that no longer exists may be deleted, if all who held it are gone.
pub const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS tooz_fence (
    name CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    token BIGINT UNSIGNED NOT NULL,
    raises BIGINT UNSIGNED NOT NULL DEFAULT 1
) ENGINE = InnoDB";

/// Shows a fence, and locks its row: the parameters are its name as text, its token, and its token
/// once more.
pub const RAISE: &str = "\
INSERT INTO tooz_fence (name, token) VALUES (?, ?)
ON DUPLICATE KEY UPDATE token = GREATEST(token, ?), raises = raises + 1";

/// The highest token, after [`RAISE`]; the parameter is the fence's name. If it is above that of the
/// fence, the fence is stale, and the transaction is to be rolled back.
pub const HIGHEST: &str = "SELECT token FROM tooz_fence WHERE name = ? FOR UPDATE";

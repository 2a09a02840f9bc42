//! PostgreSQL: within a transaction, before all else in it.
//!
//! [`RAISE`] writes the fence's row and returns the highest token, in one statement and one round
//! trip. Why it is correct:
//!
//! - *It locks.* `ON CONFLICT DO UPDATE` locks the row's latest version, waits for whoever has it, and
//!   computes `greatest` from what is there then, whatever the snapshot. So of two holders' transactions
//!   one is over before the other gets past this statement, and a lower token that comes second sees
//!   the higher one. A check by `EXISTS (SELECT …)` does not lock: its answer is old when the write comes.
//! - *It is a statement of its own, before the write.* In one `UPDATE … WHERE token >= (SELECT …)` the
//!   write may wait for a row, and the subquery's answer is older than that wait.
//! - *It always writes*, also an equal token, so that a transaction with an older snapshot cannot pass.
//!
//! | Isolation | What happens |
//! |---|---|
//! | `READ COMMITTED` | Each statement sees what was committed before it: all that earlier holders wrote. |
//! | `REPEATABLE READ` | The same if it is the first statement. If a transaction that read before had to wait, or its snapshot is older than the last raise, the server fails it with 40001. |
//! | `SERIALIZABLE` | The same. |
//!
//! All are safe; `READ UNCOMMITTED` is `READ COMMITTED` here. A failure with 40001 (or 40P01, a deadlock)
//! is for the whole transaction to be tried again, from the `raise` on. Under `READ COMMITTED` what was
//! read *before* the raise may be old, so raise first. A transaction with several fences raises them in
//! the order of their names, or it may meet another in a deadlock.
//!
//! Two holders that use a row for the first time both insert it, and the index lets one of them wait.
//! An equal token is the same holder, who may write as often as it likes.
//!
//! After a failover to a standby that lacks the last commits, tokens are missing along with what they
//! protected: `synchronous_commit` is what keeps both.

/// The table of the fences. Run it once, in a migration.
///
/// To move it, or into another schema: names are 32 hexadecimal digits and tokens rise, so copies are
/// merged by the greater token. A row of a lock that no longer exists may be deleted, if all who held
/// it are gone.
pub const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS tooz_fence (
    name text NOT NULL PRIMARY KEY,
    token bigint NOT NULL
)";

/// Shows a fence: `$1` is its name as text, `$2` its token. Returns the highest token: if that is above
/// `$2`, the fence is stale, and the transaction is to be rolled back.
pub const RAISE: &str = "\
INSERT INTO tooz_fence AS fence (name, token) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET token = greatest(fence.token, excluded.token)
RETURNING token";

/// Begins a transaction and shows the fence in it, so that nothing is read before. Its row is locked
/// until the transaction ends.
///
/// # Errors
/// [`Stale`](crate::Error::Stale) if a later holder was there.
///
/// # Cancellation
/// Whatever was begun is rolled back.
///
/// ```no_run
/// # async fn deposit(client: &mut tokio_postgres::Client, fence: tooz_fence::Fence)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = tooz_fence::postgres::begin(client, fence).await?;
/// transaction.execute("UPDATE account SET balance = balance + 10 WHERE id = 7", &[]).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "postgres")]
pub async fn begin(
    client: &mut tokio_postgres::Client,
    fence: crate::Fence,
) -> Result<tokio_postgres::Transaction<'_>, crate::Error<tokio_postgres::Error>> {
    let transaction = client.transaction().await?;
    match raise(&transaction, fence).await {
        Ok(()) => Ok(transaction),
        Err(error) => {
            // The row is free when this returns.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

/// [`begin`] for a transaction that was started in another way: shows the fence to the database, and
/// keeps its row locked until the transaction ends. Make it the first statement of the transaction:
/// see [the rule](crate#the-rule).
///
/// # Errors
/// [`Stale`](crate::Error::Stale) if a later holder was there. After any error, roll the transaction back.
///
/// # Cancellation
/// A future that is dropped may leave the row locked until the transaction ends: drop the transaction
/// too.
#[cfg(feature = "postgres")]
pub async fn raise(
    transaction: &tokio_postgres::Transaction<'_>,
    fence: crate::Fence,
) -> Result<(), crate::Error<tokio_postgres::Error>> {
    use tokio_postgres::types::Type;

    let (name, token) = (fence.name().to_string(), crate::error::signed(fence)?);
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), _); 2] =
        [(&name, Type::TEXT), (&token, Type::INT8)];
    let row = transaction.query_typed_one(RAISE, &parameters).await?;
    let highest = crate::error::unsigned(row.try_get(0)?);
    crate::Stale::check(fence, highest).map_err(crate::Error::Stale)
}

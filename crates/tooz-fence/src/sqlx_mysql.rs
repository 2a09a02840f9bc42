//! MySQL and MariaDB, by `sqlx`: the statements of [`mysql`](crate::mysql), which says why they are
//! correct.

use sqlx::{MySql, Pool, Transaction};

use crate::mysql::{HIGHEST, RAISE};
use crate::settled::settled;
use crate::{Error, Fence, Stale};

/// Begins a transaction and shows the fence in it, so that nothing is read before. Its row is locked
/// until the transaction ends.
///
/// # Errors
/// [`Error::Stale`] if a later holder was there.
///
/// # Cancellation
/// Whatever was begun is rolled back.
///
/// ```no_run
/// # async fn deposit(pool: sqlx::MySqlPool, fence: tooz_fence::Fence)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = tooz_fence::sqlx_mysql::begin(&pool, fence).await?;
/// let deposit = sqlx::query("UPDATE account SET balance = balance + 10 WHERE id = 7");
/// deposit.execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
pub async fn begin(
    pool: &Pool<MySql>,
    fence: Fence,
) -> Result<Transaction<'static, MySql>, Error<sqlx::Error>> {
    let mut transaction = pool.begin().await?;
    let raised = raise(&mut transaction, fence).await;
    settled(transaction, raised).await
}

/// [`begin`] for a transaction that was started in another way: shows the fence to the database, and
/// keeps its row locked until the transaction ends. It must be the first statement of the transaction:
/// under `REPEATABLE READ`, what was read before stays old.
///
/// # Errors
/// [`Error::Stale`] if a later holder was there. After any error, roll the transaction back.
///
/// # Cancellation
/// A future that is dropped may leave the row locked until the transaction ends: drop the transaction
/// too.
pub async fn raise(
    transaction: &mut Transaction<'_, MySql>,
    fence: Fence,
) -> Result<(), Error<sqlx::Error>> {
    let (name, token) = (fence.name().to_string(), fence.token());
    let raise = sqlx::query(RAISE).bind(&name).bind(token).bind(token);
    raise.execute(&mut **transaction).await?;
    let highest: u64 =
        sqlx::query_scalar(HIGHEST).bind(&name).fetch_one(&mut **transaction).await?;
    Stale::check(fence, highest).map_err(Error::Stale)
}

//! PostgreSQL, by `sqlx`: the statement of [`postgres`](crate::postgres), which says why it is correct.

use sqlx::{Pool, Postgres, Transaction};

use crate::error::{signed, unsigned};
use crate::postgres::RAISE;
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
/// # async fn deposit(pool: sqlx::PgPool, fence: tooz_fence::Fence)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = tooz_fence::sqlx_postgres::begin(&pool, fence).await?;
/// let deposit = sqlx::query("UPDATE account SET balance = balance + 10 WHERE id = 7");
/// deposit.execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
pub async fn begin(
    pool: &Pool<Postgres>,
    fence: Fence,
) -> Result<Transaction<'static, Postgres>, Error<sqlx::Error>> {
    let mut transaction = pool.begin().await?;
    let raised = raise(&mut transaction, fence).await;
    settled(transaction, raised).await
}

/// [`begin`] for a transaction that was started in another way: shows the fence to the database, and
/// keeps its row locked until the transaction ends. Make it the first statement of the transaction:
/// see [the rule](crate#the-rule).
///
/// # Errors
/// [`Error::Stale`] if a later holder was there. After any error, roll the transaction back.
///
/// # Cancellation
/// A future that is dropped may leave the row locked until the transaction ends: drop the transaction
/// too.
pub async fn raise(
    transaction: &mut Transaction<'_, Postgres>,
    fence: Fence,
) -> Result<(), Error<sqlx::Error>> {
    let raise = sqlx::query_scalar(RAISE).bind(fence.name().to_string()).bind(signed(fence)?);
    let highest: i64 = raise.fetch_one(&mut **transaction).await?;
    Stale::check(fence, unsigned(highest)).map_err(Error::Stale)
}

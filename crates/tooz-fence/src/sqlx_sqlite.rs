//! SQLite, by `sqlx`: the statement of [`sqlite`](crate::sqlite), which says why it is correct.

use sqlx::{Pool, Sqlite, Transaction};

use crate::error::{signed, unsigned};
use crate::settled::settled;
use crate::sqlite::RAISE;
use crate::{Error, Fence, Stale};

/// Begins a transaction and shows the fence in it, so that nothing is read before. It is the database's
/// only writer until it ends.
///
/// # Errors
/// [`Error::Stale`] if a later holder was there.
///
/// # Cancellation
/// Whatever was begun is rolled back.
///
/// ```
/// # use tooz_fence::{Fence, FenceName};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = one.connect("sqlite::memory:").await?;
/// # sqlx::query(tooz_fence::sqlite::SCHEMA).execute(&pool).await?;
/// # let fence = Fence::new(FenceName::of_lock("account-7"), 5);
/// let transaction = tooz_fence::sqlx_sqlite::begin(&pool, fence).await?;
/// // Read and write here.
/// transaction.commit().await?;
/// # let stale = Fence::new(fence.name(), 4);
/// # assert!(tooz_fence::sqlx_sqlite::begin(&pool, stale).await.unwrap_err().is_stale());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub async fn begin(
    pool: &Pool<Sqlite>,
    fence: Fence,
) -> Result<Transaction<'static, Sqlite>, Error<sqlx::Error>> {
    let mut transaction = pool.begin().await?;
    let raised = raise(&mut transaction, fence).await;
    settled(transaction, raised).await
}

/// [`begin`] for a transaction that was started in another way: shows the fence to the database, whose
/// only writer the transaction is from then on. Make it the first statement of the transaction: see
/// [the rule](crate#the-rule).
///
/// # Errors
/// [`Error::Stale`] if a later holder was there. After any error, roll the transaction back.
///
/// # Cancellation
/// A future that is dropped may leave the database locked until the transaction ends: drop the
/// transaction too.
pub async fn raise(
    transaction: &mut Transaction<'_, Sqlite>,
    fence: Fence,
) -> Result<(), Error<sqlx::Error>> {
    let raise = sqlx::query_scalar(RAISE).bind(fence.name().to_string()).bind(signed(fence)?);
    let highest: i64 = raise.fetch_one(&mut **transaction).await?;
    Stale::check(fence, unsigned(highest)).map_err(Error::Stale)
}

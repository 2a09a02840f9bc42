//! SQLite, by `sqlx`: the statement of [`sqlite`](crate::sqlite), which says why it is correct.

use sqlx::{Sqlite, Transaction};

use crate::error::{signed, unsigned};
use crate::sqlite::RAISE;
use crate::{Error, Fence, Stale};

/// Shows the fence to the database, whose only writer the transaction is from then on. Let it be the
/// first statement of the transaction: see [the rule](crate#the-rule).
///
/// # Errors
/// [`Error::Stale`] if a later holder was there. After any error, roll the transaction back.
///
/// # Cancellation
/// A future that is dropped may leave the database locked until the transaction ends: drop the
/// transaction too.
///
/// ```
/// # use sqlx::Connection as _;
/// # use tooz_fence::{Fence, FenceName};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:").await?;
/// # sqlx::query(tooz_fence::sqlite::SCHEMA).execute(&mut connection).await?;
/// # let fence = Fence::new(FenceName::of_lock("account-7"), 5);
/// let mut transaction = connection.begin().await?;
/// tooz_fence::sqlx_sqlite::raise(&mut transaction, fence).await?;
/// // Read and write here.
/// transaction.commit().await?;
/// # let mut transaction = connection.begin().await?;
/// # let stale = Fence::new(fence.name(), 4);
/// # assert!(tooz_fence::sqlx_sqlite::raise(&mut transaction, stale).await.unwrap_err().is_stale());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub async fn raise(
    transaction: &mut Transaction<'_, Sqlite>,
    fence: Fence,
) -> Result<(), Error<sqlx::Error>> {
    let raise = sqlx::query_scalar(RAISE).bind(fence.name().to_string()).bind(signed(fence)?);
    let highest: i64 = raise.fetch_one(&mut **transaction).await?;
    Stale::check(fence, unsigned(highest)).map_err(Error::Stale)
}

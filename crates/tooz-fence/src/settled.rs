use sqlx::{Database, Transaction};

use crate::Error;

/// The transaction, if it was shown its fence. If not, what it locked is free when this returns, and
/// not only when its pool has looked at the connection.
pub(crate) async fn settled<D: Database>(
    transaction: Transaction<'static, D>,
    raised: Result<(), Error<sqlx::Error>>,
) -> Result<Transaction<'static, D>, Error<sqlx::Error>> {
    match raised {
        Ok(()) => Ok(transaction),
        Err(error) => {
            // If it fails, the server rolls back when the connection ends.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

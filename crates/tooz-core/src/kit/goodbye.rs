use std::time::Duration;

use crate::{Error, ErrorKind, Outcome, Result};

/// Ends a session within `limit`: a server that does not answer must not hold up a stop.
///
/// After the limit `saying` is dropped, and the error says that the outcome is unknown: what was not
/// released ends at the backend when its time is over.
pub async fn goodbye(limit: Duration, saying: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(limit, saying).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::TimedOut, "the server did not confirm the end of the session")
            .outcome_is(Outcome::Unknown))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_what_was_said_or_an_error_in_time() {
        let limit = Duration::from_secs(1);
        goodbye(limit, async { Ok(()) }).await.unwrap();
        let refused = goodbye(limit, async { Err(Error::invalid("no")) }).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let silence = goodbye(limit, std::future::pending()).await.unwrap_err();
        assert_eq!((silence.kind(), silence.outcome()), (ErrorKind::TimedOut, Outcome::Unknown));
    }
}

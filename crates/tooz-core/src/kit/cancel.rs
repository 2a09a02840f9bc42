use std::time::Duration;

use tracing::debug;

use crate::{ErrorKind, Lease, Result};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Repeats `cancel` until it has undone what an acquisition may have left at the backend, for as
/// long as `lease` says that the backend may have it: the session's own lease, or a
/// [timed child](Lease::timed_child) if the remnants expire by themselves.
///
/// `cancel` must do no harm when it is repeated, or when there is nothing to undo.
pub async fn cancel_until_gone<F>(lease: &Lease, mut cancel: impl FnMut() -> F)
where
    F: Future<Output = Result<()>>,
{
    while lease.is_held() {
        match cancel().await {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::SessionLost => return,
            Err(error) => debug!(%error, "an acquisition is not cancelled yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = lease.lost() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{Error, Loss, Moment};

    async fn attempts(lease: &Lease, answer: impl Fn(u32) -> Result<()>) -> u32 {
        let count = Cell::new(0);
        cancel_until_gone(lease, || {
            count.set(count.get() + 1);
            std::future::ready(answer(count.get()))
        })
        .await;
        count.get()
    }

    fn broken() -> Error {
        Error::new(ErrorKind::Connection, "there is no connection")
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_repeated_until_it_is_done() {
        let third = |attempt| if attempt == 3 { Ok(()) } else { Err(broken()) };
        assert_eq!(attempts(&Lease::untimed(), third).await, 3);
    }

    #[tokio::test]
    async fn with_the_session_there_is_nothing_left_to_undo() {
        let lost = Lease::untimed();
        lost.lose(Loss::SessionEnded);
        assert_eq!(attempts(&lost, |_| Ok(())).await, 0);
        let over = |_| Err(Error::new(ErrorKind::SessionLost, "the session is over"));
        assert_eq!(attempts(&Lease::untimed(), over).await, 1);
        let short = Lease::timed(Duration::from_millis(50), Moment::now());
        assert_eq!(attempts(&short, |_| Err(broken())).await, 1, "its time ends the pause");
    }
}

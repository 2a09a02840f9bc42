//! Drops futures at every point that they can be dropped at.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tooz_core::Result;

/// Where a future is dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// After so many polls, each but the first upon a wake-up.
    Polls(usize),
    /// After one poll and this long, in which the engine and the backend work on.
    Delay(Duration),
}

/// How long a future that is waiting for its next wake-up is given before it is dropped.
const IDLE: Duration = Duration::from_millis(30);

/// The delays, in microseconds: around one hop to the engine, one local round trip, one over a
/// network, and beyond.
const DELAYS: [u64; 10] = [0, 10, 30, 60, 100, 200, 500, 1_000, 3_000, 10_000];

/// What became of a future that was cut.
#[derive(Debug)]
pub(crate) enum Cutting<T> {
    /// It completed before.
    Completed(T),
    /// It was dropped where it should be.
    Dropped,
    /// It would not be polled again without something else happening.
    Idle,
}

impl<T> Cutting<T> {
    /// Whether it was dropped where it should be, and not later or earlier.
    fn is_last(&self) -> bool {
        !matches!(self, Self::Dropped)
    }

    pub(crate) fn is_completed(&self) -> bool {
        matches!(self, Self::Completed(_))
    }
}

impl Cut {
    /// Whether the future is polled at all.
    pub(crate) fn polls(self) -> bool {
        !matches!(self, Self::Polls(0))
    }

    /// Polls `future` up to this cut, and drops it.
    pub(crate) async fn apply<T>(
        self,
        future: impl Future<Output = Result<T>>,
    ) -> Result<Cutting<T>> {
        match self.cut(future).await {
            Cutting::Completed(result) => result.map(Cutting::Completed),
            Cutting::Dropped => Ok(Cutting::Dropped),
            Cutting::Idle => Ok(Cutting::Idle),
        }
    }

    async fn cut<F: Future>(self, future: F) -> Cutting<F::Output> {
        let mut future = pin!(future);
        match self {
            Self::Polls(polls) => {
                let mut left = polls;
                let polled = std::future::poll_fn(|cx| {
                    if left == 0 {
                        return Poll::Ready(Cutting::Dropped);
                    }
                    left -= 1;
                    match future.as_mut().poll(cx) {
                        Poll::Ready(value) => Poll::Ready(Cutting::Completed(value)),
                        Poll::Pending if left == 0 => Poll::Ready(Cutting::Dropped),
                        Poll::Pending => Poll::Pending,
                    }
                });
                tokio::select! {
                    // The timer first: its wake-up is none of the future's.
                    biased;
                    () = tokio::time::sleep(IDLE) => Cutting::Idle,
                    cutting = polled => cutting,
                }
            }
            Self::Delay(delay) => {
                let first = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
                if let Poll::Ready(value) = first {
                    return Cutting::Completed(value);
                }
                // Blocks the thread: timers are too coarse, and nobody else needs it.
                std::thread::sleep(delay);
                Cutting::Dropped
            }
        }
    }
}

/// How soon the next one must have what an abandoned one let go.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Calls `attempt` with every cut: by polls until the future is not dropped by one any more, and by
/// each delay. The attempt says how long somebody else needed to get the thing afterwards.
pub(crate) async fn sweep<T>(
    mut attempt: impl AsyncFnMut(Cut) -> Result<(Cutting<T>, Duration)>,
) -> Result<()> {
    for polls in 0.. {
        if at_once(&mut attempt, Cut::Polls(polls)).await?.is_last() {
            break;
        }
    }
    for delay in DELAYS {
        at_once(&mut attempt, Cut::Delay(Duration::from_micros(delay))).await?;
    }
    Ok(())
}

/// A machine that is busy with other things is slow now and then; what is left behind, each time.
async fn at_once<T>(
    attempt: &mut impl AsyncFnMut(Cut) -> Result<(Cutting<T>, Duration)>,
    cut: Cut,
) -> Result<Cutting<T>> {
    let mut times = Vec::new();
    while times.len() < 3 {
        let (cutting, time) = attempt(cut).await?;
        if time <= AT_ONCE {
            return Ok(cutting);
        }
        times.push(time);
    }
    panic!("after {cut:?} others had to wait for {times:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_number_of_polls_is_tried_until_the_future_completes() -> Result<()> {
        let mut seen = Vec::new();
        sweep(async |cut| {
            let steps = async {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                Ok(())
            };
            let cutting = cut.apply(steps).await?;
            if let Cut::Polls(polls) = cut {
                seen.push((polls, cutting.is_completed()));
            }
            Ok((cutting, Duration::ZERO))
        })
        .await?;
        assert_eq!(seen, [(0, false), (1, false), (2, false), (3, true)]);
        Ok(())
    }

    #[tokio::test]
    async fn a_future_that_waits_for_others_is_dropped_idle() {
        let cutting = Cut::Polls(2).cut(std::future::pending::<()>()).await;
        assert!(matches!(cutting, Cutting::Idle));
    }
}

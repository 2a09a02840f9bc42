//! Several locks at once.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::handle::Handle;
use crate::ownership::run_while;
use crate::supervisor::many_at_once;
use crate::wait::until_granted;
use crate::{
    Error, ErrorKind, Feature, FencingToken, Lock, LockGuard, LockName, Loss, Mode, Moment, Result,
    Wait,
};

/// Several locks that are held together, all or none: made by
/// [`Coordinator::lock_all`](crate::Coordinator::lock_all).
///
/// Cheap to clone. They are the locks of these names, which others may acquire one by one.
///
/// First all locks are tried at once, in one round trip if the backend takes requests together. In the
/// order of the names' bytes, the locks up to the first that was refused are kept; the others are
/// released, and then acquired in that order. So calls of this kind never wait for each other in a
/// circle, whatever the order of their names. A caller that already holds one of the locks waits for
/// itself.
///
/// # Errors
/// Acquiring fails as described at [`Coordinator`](crate::Coordinator), never because somebody else
/// holds the locks. Locks that had been acquired by then are released in the background.
///
/// # Cancellation
/// A dropped acquisition is cancelled; what it had been granted by then is released.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-lock-set", "host-1").await?;
/// let accounts = coordinator.lock_all(["account-7", "account-3"])?;
/// let guard = accounts.acquire().await?;
/// for (name, token) in guard.fencing_tokens() {
///     println!("send {token} with every write to {name}");
/// }
/// guard.check()?;
/// guard.release().await?;
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct LockSet {
    handle: Arc<Handle>,
    /// As the caller gave them.
    names: Arc<[LockName]>,
    /// Where in `names` each is, in the order of acquisition.
    order: Arc<[usize]>,
    at_least: Duration,
}

impl LockSet {
    pub(crate) fn new(handle: Arc<Handle>, names: Vec<LockName>) -> Result<Self> {
        let names = names.into_iter().map(LockName::checked).collect::<Result<Arc<[_]>>>()?;
        let mut order: Vec<_> = (0..names.len()).collect();
        order.sort_by_key(|place| &names[*place]);
        if order.is_empty() {
            return Err(Error::invalid("no lock is named; name at least one"));
        }
        if let Some(pair) = order.windows(2).find(|pair| names[pair[0]] == names[pair[1]]) {
            let twice = "a lock is named twice, and would wait for itself";
            return Err(Error::invalid(twice).with("lock", &names[pair[0]]));
        }
        Ok(Self { handle, names, order: order.into(), at_least: Duration::ZERO })
    }

    /// The locks' names, as they were given.
    pub fn names(&self) -> &[LockName] {
        &self.names
    }

    /// The same locks, but held for at least `time`: see [`Lock::at_least`].
    #[must_use]
    pub fn at_least(mut self, time: Duration) -> Self {
        self.at_least = time;
        self
    }

    /// Acquires all of them, and waits as long as it takes.
    pub async fn acquire(&self) -> Result<LockSetGuard> {
        until_granted(|| self.acquire_with(Mode::Exclusive, Wait::Forever)).await
    }

    /// Acquires all of them if nobody holds any of them. Otherwise those that were free are free again
    /// when this returns, or as soon as the backend can be told.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let coordinator = tooz_memory::start("docs-lock-set-try", "host-1").await?;
    /// let seven = coordinator.lock("account-7")?.acquire().await?;
    /// assert!(coordinator.lock_all(["account-3", "account-7"])?.try_acquire().await?.is_none());
    /// assert!(coordinator.lock("account-3")?.try_acquire().await?.is_some());
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<LockSetGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::Try).await
    }

    /// Acquires all of them, or gives up after `time` and holds none.
    pub async fn try_acquire_for(&self, time: Duration) -> Result<Option<LockSetGuard>> {
        self.acquire_with(Mode::Exclusive, Wait::For(time)).await
    }

    /// Acquires all of them in a mode, waiting as told; `None` if the time was over before.
    pub async fn acquire_with(&self, mode: Mode, wait: Wait) -> Result<Option<LockSetGuard>> {
        if mode == Mode::Shared {
            self.handle.needs(Feature::SharedLocks, "acquire")?;
        }
        let set = self.clone();
        let taking = Box::pin(async move { set.take(mode, wait).await });
        let Some(guards) = self.handle.while_awaited(taking).await? else { return Ok(None) };
        let mut guards: Vec<_> = self.order.iter().zip(guards).collect();
        guards.sort_by_key(|(place, _)| **place);
        let stays = |(_, guard): (_, LockGuard)| guard.stays_for(self.at_least);
        let guards = guards.into_iter().map(stays).collect();
        Ok(Some(LockSetGuard { handle: self.handle.clone(), names: self.names.clone(), guards }))
    }

    // ---- On the engine, in the order of acquisition.

    async fn take(&self, mode: Mode, wait: Wait) -> Result<Option<Vec<LockGuard>>> {
        let began = Moment::now();
        let mut held = self.take_free(mode).await?;
        loop {
            // What is lost takes the others along: they are had together or not at all.
            let lost = held.iter().any(|guard| guard.loss().is_some());
            let Some(next) = self.order.get(held.len()) else {
                if !lost {
                    return Ok(Some(held));
                }
                held = self.take_again(held, mode).await?;
                continue;
            };
            let next = self.lock(*next);
            let over = async {
                match wait.is_attempt() {
                    true => Ok(None),
                    false => next.acquire_with(mode, wait.left_since(began)).await,
                }
            };
            tokio::select! {
                biased;
                acquired = over => match acquired? {
                    Some(guard) => held.push(guard),
                    None => {
                        // In vain if the backend is out of reach, and then they end by themselves.
                        let _ = tokio::time::timeout(GOODBYE, release_all(held)).await;
                        return Ok(None);
                    }
                },
                _ = first_lost(&held) => held = self.take_again(held, mode).await?,
            }
        }
    }

    async fn take_again(&self, held: Vec<LockGuard>, mode: Mode) -> Result<Vec<LockGuard>> {
        drop(held);
        self.take_free(mode).await
    }

    /// Those that are free, up to the first that is not; the others are released in the background.
    async fn take_free(&self, mode: Mode) -> Result<Vec<LockGuard>> {
        let attempts = self.order.iter().enumerate().map(|(turn, place)| {
            let lock = self.lock(*place);
            async move { (turn, lock.acquire_with(mode, Wait::Try).await) }
        });
        let mut granted: Vec<_> = self.order.iter().map(|_| None).collect();
        for (turn, acquired) in many_at_once(attempts).await {
            granted[turn] = acquired?;
        }
        Ok(granted.into_iter().map_while(|guard| guard).collect())
    }

    fn lock(&self, place: usize) -> Lock {
        Lock::new(self.handle.clone(), self.names[place].clone())
    }
}

impl fmt::Debug for LockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockSet").field("names", &self.names).finish_non_exhaustive()
    }
}

/// How long a release is waited for before the caller hears that there is nothing.
const GOODBYE: Duration = Duration::from_millis(250);

/// Several locks that are held, with the methods of an [`Ownership`](crate::Ownership) for all of
/// them. Dropping it releases them in the background.
///
/// It is lost as a whole as soon as one of the locks is lost. The others are held until the guard is
/// dropped or released, so that work begun under them can be finished or undone.
#[must_use = "dropping the guard releases the locks"]
pub struct LockSetGuard {
    handle: Arc<Handle>,
    names: Arc<[LockName]>,
    /// One for each name.
    guards: Vec<LockGuard>,
}

impl LockSetGuard {
    /// The guard of each lock, in the order of the names as they were given.
    pub fn guards(&self) -> impl Iterator<Item = (&LockName, &LockGuard)> {
        self.names.iter().zip(&self.guards)
    }

    /// The token of each lock, in the order of the names as they were given.
    pub fn fencing_tokens(&self) -> impl Iterator<Item = (&LockName, FencingToken)> {
        self.guards().map(|(name, guard)| (name, guard.fencing_token()))
    }

    /// The earliest deadline of a lock: see [`Ownership::deadline`](crate::Ownership::deadline).
    pub fn deadline(&self) -> Option<Instant> {
        self.guards.iter().filter_map(|guard| guard.deadline()).min()
    }

    /// Which lock is lost, if one is, and why. Looks at the clock, asks nobody and never blocks.
    pub fn loss(&self) -> Option<(&LockName, Loss)> {
        self.guards().find_map(|(name, guard)| Some((name, guard.loss()?)))
    }

    /// Succeeds while all are held. Looks at the clock, asks nobody and never blocks.
    ///
    /// # Errors
    /// [`ErrorKind::LockLost`] with the name of the lock, or [`ErrorKind::NotRunning`] if the
    /// coordinator was stopped.
    pub fn check(&self) -> Result<()> {
        self.guards.iter().try_for_each(|guard| guard.check())
    }

    /// Waits until one is lost, and tells which: at its deadline at the latest, even with the network
    /// gone.
    ///
    /// # Cancellation
    /// Dropping the future is safe. It runs on any runtime.
    pub async fn lost(&self) -> (&LockName, Loss) {
        let (place, loss) = first_lost(&self.guards).await;
        (&self.names[place], loss)
    }

    /// Waits until the deadline of one is nearer than `time`, or one is lost: see
    /// [`Ownership::expires_within`](crate::Ownership::expires_within).
    pub async fn expires_within(&self, time: Duration) {
        first(self.guards.iter().map(|guard| guard.expires_within(time))).await;
    }

    /// Asks the backend whether all are still ours. Those that are not are lost from then on.
    ///
    /// # Errors
    /// The same as those of [`Ownership::verify`](crate::Ownership::verify).
    pub async fn verify(&self) -> Result<bool> {
        let mut ours = true;
        for guard in &self.guards {
            ours &= guard.verify().await?;
        }
        Ok(ours)
    }

    /// Runs `work` while all are held. The deadlines are looked at before each poll, and at the first
    /// loss the future is dropped.
    ///
    /// # Errors
    /// The same as those of [`check`](Self::check) at the loss. What `work` has done by then stays
    /// done.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let lost = async {
            let (place, loss) = first_lost(&self.guards).await;
            self.guards[place].lost_error(loss)
        };
        run_while(|| self.check(), lost, work).await
    }

    /// Releases all of them together, and waits until that is confirmed or their leases have ended.
    /// Each is released, whatever becomes of the others.
    ///
    /// # Errors
    /// [`LockLost`](ErrorKind::LockLost) if one was lost before; else the first of those that
    /// [`LockGuard::release`] has.
    ///
    /// # Cancellation
    /// The release goes on without the caller.
    pub async fn release(self) -> Result<()> {
        self.handle.run("release", release_all(self.guards)).await
    }
}

impl fmt::Debug for LockSetGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.guards()).finish()
    }
}

/// Inside the engine only.
async fn release_all(guards: Vec<LockGuard>) -> Result<()> {
    let released = guards.into_iter().enumerate();
    let released = released.map(|(place, guard)| async move { (place, guard.release().await) });
    let mut released = many_at_once(released).await;
    // A loss is what the caller must know first.
    let is_loss = |result: &Result<()>| matches!(result, Err(e) if e.kind() == ErrorKind::LockLost);
    released.sort_by_key(|(place, result)| (!is_loss(result), *place));
    released.into_iter().try_for_each(|(_, result)| result)
}

/// Which is lost first, and why. If there are none, never.
async fn first_lost(guards: &[LockGuard]) -> (usize, Loss) {
    first(guards.iter().map(|guard| guard.lost())).await
}

/// The first outcome, and whose it is.
async fn first<F: Future>(futures: impl Iterator<Item = F>) -> (usize, F::Output) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        for (place, future) in futures.iter_mut().enumerate() {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready((place, output));
            }
        }
        Poll::Pending
    })
    .await
}

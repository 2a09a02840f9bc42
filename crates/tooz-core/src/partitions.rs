//! Exclusive hand-off: partitions that two members never work on at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::partitioner::Partitioner;
use crate::process::Process;
use crate::{ErrorKind, HashRing, LockGuard, LockName, Loss, Ownership, Result};

/// A fixed number of partitions of a group's work, each worked on by one member at a time: made by
/// [`Partitioner::partitions`].
///
/// The ring says who should own a partition. A lock for each partition ensures that the
/// former owner has released it, or that its deadline has passed, before the next owner has it. That
/// holds across kills, pauses and network partitions, with the guarantees of the backend's locks and
/// a fencing token for each partition. All members must use the same `count`.
///
/// Dropping it ends the hand-off: the partitions that are held are revoked. A stop of the
/// coordinator does the same, and waits until they are dropped, but no longer than the
/// [grace](crate::Builder::stop_grace); only then can others own them.
///
/// ```
/// # tooz_core::blocking::block_on(async {
/// # let coordinator = tooz_memory::start("docs-partitions", "host-1").await?;
/// let workers = coordinator.partitioned_group("workers").join().await?;
/// let mut partitions = workers.partitions(8);
/// while let Some(partition) = partitions.owned().await {
///     println!("partition {}, token {}", partition.number(), partition.fencing_token());
///     // Work on it until partition.revoked().await returns, then drop it.
/// #   if partition.number() < 8 { break }
/// }
/// # Ok::<(), tooz_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "partitions come only to a hand-off that is kept"]
pub struct Partitions {
    process: Process,
    count: u32,
    owned: Arc<Owned>,
}

/// Partitions that we own but nobody has asked for yet.
type Owned = Mutex<mpsc::UnboundedReceiver<Partition>>;

/// A partition that this member owns, until it is revoked or lost.
///
/// Its methods are those of [`Ownership`]. Stop the work on it when [`revoked`](Self::revoked)
/// returns, then drop it: the next owner waits for that.
#[must_use = "dropping the partition releases it"]
pub struct Partition {
    number: u32,
    guard: LockGuard,
    revoked: CancellationToken,
    /// Dropped after the guard: tells the hand-off that it was released.
    _let_go: LetGo,
}

/// Why a partition must be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revocation {
    /// Another member will own it, or the coordinator is being stopped: finish what cannot wait,
    /// and drop it. It is held until then.
    Moved,
    /// It is lost: another member may have it already.
    Lost(Loss),
}

impl Partitioner {
    /// A fixed number of partitions, each owned by one member at a time, exclusively. See
    /// [`Partitions`].
    pub fn partitions(&self, count: u32) -> Partitions {
        Partitions::new(self, count)
    }
}

impl Partitions {
    pub(crate) fn new(partitioner: &Partitioner, count: u32) -> Self {
        let (sender, owned) = mpsc::unbounded_channel();
        let owned = Arc::new(Mutex::new(owned));
        let hand_off = HandOff::new(partitioner.clone(), count, sender, Arc::downgrade(&owned));
        partitioner.coordinator.spawn(hand_off.run());
        Self { process: Process::current(), count, owned }
    }

    /// Waits for the next partition that this member owns; `None` once the coordinator is stopped,
    /// and in a fork of the process. Dropping the future loses nothing.
    pub async fn owned(&mut self) -> Option<Partition> {
        if !self.process.is_current() {
            return None;
        }
        std::future::poll_fn(|cx| open(&self.owned).poll_recv(cx)).await
    }

    /// The partition that an object belongs to. The same for every member with the same `count`.
    pub fn number_of(&self, object: impl AsRef<[u8]>) -> u32 {
        let position = HashRing::new().position(object);
        // Below count, so it fits.
        (position % u128::from(self.count.max(1))) as u32
    }
}

impl Partition {
    /// Its number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Waits until it must be released.
    ///
    /// # Cancellation
    /// Dropping the future is safe. It runs on any runtime.
    pub async fn revoked(&self) -> Revocation {
        tokio::select! {
            biased;
            loss = self.guard.lost() => Revocation::Lost(loss),
            () = self.revoked.cancelled() => Revocation::Moved,
        }
    }

    /// Whether it must be released. Looks only at the clock, does no I/O and never blocks.
    pub fn is_revoked(&self) -> Option<Revocation> {
        match self.guard.loss() {
            Some(loss) => Some(Revocation::Lost(loss)),
            None => self.revoked.is_cancelled().then_some(Revocation::Moved),
        }
    }

    /// Releases it, and waits until the next owner can have it.
    ///
    /// # Errors
    /// The same as those of [`LockGuard::release`].
    pub async fn release(self) -> Result<()> {
        self.guard.release().await
    }
}

impl std::ops::Deref for Partition {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        &self.guard
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("number", &self.number)
            .field("token", &self.fencing_token().0)
            .field("revoked", &self.is_revoked())
            .finish()
    }
}

fn open(owned: &Owned) -> MutexGuard<'_, mpsc::UnboundedReceiver<Partition>> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    owned.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's side: acquires what the ring gives to us, and revokes what it gives to others.
struct HandOff {
    partitioner: Partitioner,
    count: u32,
    owned: mpsc::UnboundedSender<Partition>,
    /// The receiving end, while somebody has it.
    unclaimed: Weak<Owned>,
    /// What is not here is neither held nor waited for.
    acquisitions: HashMap<u32, PartitionAcquisition>,
    /// Numbers the acquisitions, so that a note of one that was cancelled is not taken for the
    /// next.
    attempts: u64,
    notes: mpsc::UnboundedSender<Note>,
    inbox: mpsc::UnboundedReceiver<Note>,
}

enum PartitionAcquisition {
    /// Cancels this attempt.
    Waiting(u64, CancellationToken),
    /// Cancelling revokes.
    Held(CancellationToken),
}

enum Note {
    /// Of this partition, by this attempt.
    Acquired(u32, u64, LockGuard),
    Failed(u32, u64),
    LetGo(u32),
    Stopped,
}

struct LetGo {
    number: u32,
    notes: mpsc::UnboundedSender<Note>,
}

impl Drop for LetGo {
    fn drop(&mut self) {
        // An error means that the hand-off has ended.
        drop(self.notes.send(Note::LetGo(self.number)));
    }
}

impl HandOff {
    fn new(
        partitioner: Partitioner,
        count: u32,
        owned: mpsc::UnboundedSender<Partition>,
        unclaimed: Weak<Owned>,
    ) -> Self {
        let (notes, inbox) = mpsc::unbounded_channel();
        let acquisitions = HashMap::new();
        Self { partitioner, count, owned, unclaimed, acquisitions, attempts: 0, notes, inbox }
    }

    async fn run(mut self) {
        let mut rings = self.partitioner.rings();
        loop {
            let ring = rings.borrow_and_update().clone();
            for number in 0..self.count {
                self.settle(number, &ring);
                // However many there are, the engine's other work goes on.
                if number % 1024 == 1023 {
                    tokio::task::yield_now().await;
                }
            }
            // Changes of the ring concern all partitions, notes only one.
            loop {
                tokio::select! {
                    changed = rings.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return self.end(),
                    },
                    Some(note) = self.inbox.recv() => {
                        let Some(number) = self.take(note) else { return self.end() };
                        self.settle(number, &rings.borrow());
                    }
                    () = self.owned.closed() => return self.end(),
                }
            }
        }
    }

    /// Makes what we do about a partition agree with the ring.
    fn settle(&mut self, number: u32, ring: &HashRing) {
        let member = self.partitioner.coordinator.member_id();
        let ours = ring.node(number.to_string()) == Some(member);
        match (ours, self.acquisitions.get(&number)) {
            (true, None) => self.acquire(number),
            (false, Some(PartitionAcquisition::Waiting(_, wait))) => {
                wait.cancel();
                self.acquisitions.remove(&number);
            }
            (false, Some(PartitionAcquisition::Held(held))) => held.cancel(),
            // One that moved away and back is released and acquired again: its worker has been told
            // to stop.
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn acquire(&mut self, number: u32) {
        let wait = CancellationToken::new();
        self.attempts += 1;
        let attempt = self.attempts;
        self.acquisitions.insert(number, PartitionAcquisition::Waiting(attempt, wait.clone()));
        let Partitioner { coordinator, group, .. } = self.partitioner.clone();
        let mut name = b"partition.".to_vec();
        name.extend_from_slice(group.as_bytes());
        name.extend_from_slice(format!(".{number}.{}", self.count).as_bytes());
        let notes = self.notes.clone();
        self.partitioner.coordinator.spawn(async move {
            let acquired = async { coordinator.lock(LockName::from(name))?.acquire().await };
            let note = tokio::select! {
                acquired = acquired => match acquired {
                    Ok(guard) => Note::Acquired(number, attempt, guard),
                    Err(error) if error.kind() == ErrorKind::NotRunning => Note::Stopped,
                    Err(error) => {
                        debug!(number, %error, "the partition is not ours yet");
                        coordinator.pause_before_retry().await;
                        Note::Failed(number, attempt)
                    }
                },
                // Dropping the acquisition cancels it.
                () = wait.cancelled() => return,
            };
            // An error means that the hand-off has ended; a guard in it is released.
            drop(notes.send(note));
        });
    }

    /// Takes note of what happened to a partition; `None` if the coordinator was stopped.
    fn take(&mut self, note: Note) -> Option<u32> {
        match note {
            Note::Acquired(number, attempt, guard) => {
                // Otherwise it moved away in the meantime: dropping the guard releases it.
                if self.waits_for(number, attempt) {
                    guard.is_revocable();
                    let revoked = CancellationToken::new();
                    self.acquisitions.insert(number, PartitionAcquisition::Held(revoked.clone()));
                    let _let_go = LetGo { number, notes: self.notes.clone() };
                    // An error means that nobody wants it: it is dropped, which releases it.
                    drop(self.owned.send(Partition { number, guard, revoked, _let_go }));
                }
                Some(number)
            }
            Note::Failed(number, attempt) => {
                if self.waits_for(number, attempt) {
                    self.acquisitions.remove(&number);
                }
                Some(number)
            }
            Note::LetGo(number) => {
                self.acquisitions.remove(&number);
                Some(number)
            }
            Note::Stopped => None,
        }
    }

    fn waits_for(&self, number: u32, attempt: u64) -> bool {
        matches!(self.acquisitions.get(&number), Some(PartitionAcquisition::Waiting(a, _)) if *a == attempt)
    }

    fn end(self) {
        for acquisition in self.acquisitions.into_values() {
            match acquisition {
                PartitionAcquisition::Waiting(_, token) | PartitionAcquisition::Held(token) => {
                    token.cancel()
                }
            }
        }
        // Nobody works on those, and a stop must not wait for them.
        if let Some(unclaimed) = self.unclaimed.upgrade() {
            let mut unclaimed = open(&unclaimed);
            let dropped: Vec<_> = std::iter::from_fn(|| unclaimed.try_recv().ok()).collect();
            drop((unclaimed, dropped));
        }
    }
}

//! Locks and terms: a key that the session locks, and a queue of those who wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tooz_core::{
    Acquisition, ErrorKind, FencingToken, Hold, Lease, LockName, Locks, Loss, Mode, OperationId,
    Outcome, Release, Result, Waiting, async_trait,
};
use tracing::debug;

use crate::keys::Prize;
use crate::poll::{self, KeyWatch};
use crate::presence;
use crate::queue;
use crate::session::{ConsulSession, Life, Pass};
use crate::shared::{self, Share};
use crate::transaction::{self, Entry, Op};

#[async_trait]
impl Locks for ConsulSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        let prize = self.0.keys().lock(&target)?;
        acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        take_away(&self.0, &self.0.keys().lock(name)?).await
    }
}

/// How long to wait when a key is nobody's and cannot be had, because of the lock-delay.
const DELAYED: Duration = Duration::from_millis(100);

/// How often those who share a lock are looked at by who waits for it: should they have died, nobody
/// tells.
const SHARERS: Duration = Duration::from_secs(1);

/// One acquisition.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

/// What a step towards a lock came to.
pub(crate) enum Step {
    Granted(Arc<ConsulHold>),
    /// Somebody has it.
    Taken,
    /// Somebody waits for it.
    Queued,
}

/// What shows that a key is ours.
pub(crate) struct Claim {
    pub(crate) key: String,
    pub(crate) session: String,
    /// `None` if it may be any.
    pub(crate) value: Option<Vec<u8>>,
}

impl Claim {
    pub(crate) fn fits(&self, entry: &Entry) -> bool {
        entry.is_of(&self.session) && self.value.as_ref().is_none_or(|value| *value == entry.value)
    }
}

/// One request if it is free; else a place in the queue, and two requests when our turn comes.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let entered = match life.try_enter(&attempt.prize.key) {
        None if !attempt.waiting.is_over() => tokio::select! {
            pass = life.enter(&attempt.prize.key) => Some(pass),
            () = attempt.waiting.over() => None,
        },
        entered => entered,
    };
    let Some(pass) = entered else { return Ok(None) };
    let mut queued = false;
    let result = contend(life, &attempt, &mut queued).await;
    match result {
        Ok(Some(hold)) => {
            if hold.is_exclusive() {
                hold.keep(pass);
            } else {
                drop(pass);
            }
            if queued {
                tokio::spawn(queue::tidy(life.clone(), attempt.prize));
            }
            life.add_hold(&hold);
            Ok(Some(hold))
        }
        result => {
            let unknown = result.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown);
            if queued || unknown {
                // Nobody of this session contends for it before that is done.
                let life = life.clone();
                tokio::spawn(async move {
                    withdraw(&life, &attempt).await;
                    drop(pass);
                });
            }
            result.map(|_| None)
        }
    }
}

async fn contend(
    life: &Arc<Life>,
    attempt: &Attempt,
    queued: &mut bool,
) -> Result<Option<Arc<ConsulHold>>> {
    // Who does not wait does not stand in the queue, and so need not respect it.
    match step(life, attempt, false).await? {
        Step::Granted(hold) => return Ok(Some(hold)),
        _ if attempt.waiting.is_over() => return Ok(None),
        Step::Taken | Step::Queued => {}
    }
    loop {
        // In place even if the request's fate is unknown: it is to be withdrawn.
        *queued = true;
        queue::enlist(life, &attempt.prize, attempt.id).await?;
        tokio::select! {
            first = queue::first(life, &attempt.prize, attempt.id) => if !first? {
                // Somebody has wiped the queue.
                continue;
            },
            () = attempt.waiting.over() => return Ok(None),
        }
        break;
    }
    let mut watch = KeyWatch::new(life.api(), &attempt.prize.key);
    let mut shared = false;
    loop {
        let wait = if shared { SHARERS } else { poll::wait() };
        let state = tokio::select! {
            state = watch.next(wait) => state?,
            () = attempt.waiting.over() => return Ok(None),
        };
        shared = state.as_ref().is_some_and(shared::is_shared);
        let free = state.as_ref().is_none_or(|entry| entry.session.is_none());
        if !free && !shared {
            continue;
        }
        if let Step::Granted(hold) = step(life, attempt, true).await? {
            return Ok(Some(hold));
        }
        if free {
            let pause = DELAYED + DELAYED.mul_f64(poll::random_fraction());
            tokio::select! {
                () = tokio::time::sleep(pause) => watch = KeyWatch::new(life.api(), &attempt.prize.key),
                () = attempt.waiting.over() => return Ok(None),
            }
        }
    }
}

/// Tries once; `first` in the queue or past it.
async fn step(life: &Arc<Life>, attempt: &Attempt, first: bool) -> Result<Step> {
    match attempt.mode {
        Mode::Shared => shared::take(life, attempt, first).await,
        Mode::Exclusive => take(life, attempt, first).await,
    }
}

async fn take(life: &Arc<Life>, attempt: &Attempt, first: bool) -> Result<Step> {
    let prize = &attempt.prize;
    let value = value(attempt.id, life);
    let lock = Op::lock(&prize.key, &value, &life.presence.locks);
    let (ops, locks) = if first {
        (vec![lock, Op::delete(&prize.place(attempt.id))], 0)
    } else if attempt.waiting.is_over() {
        (vec![lock], 0)
    } else {
        (vec![Op::check_absent(&prize.marker), lock], 1)
    };
    // Once more does no harm: the same session gets it again, and nobody else of it contends.
    loop {
        return match life.transact(&ops).await?.0 {
            transaction::Outcome::Done(done) => {
                let token = FencingToken(done.index(&prize.key));
                let kind = Kind::Exclusive { value, pass: Mutex::default() };
                Ok(Step::Granted(ConsulHold::new(life, attempt, token, kind)))
            }
            transaction::Outcome::Refused(refusal) if !refusal.has(locks) => Ok(Step::Queued),
            transaction::Outcome::Refused(_) => {
                if shared::clear_dead(life, prize).await? {
                    continue;
                }
                Ok(Step::Taken)
            }
        };
    }
}

/// The value of a key that is ours: the acquisition and who made it.
fn value(id: OperationId, life: &Life) -> Vec<u8> {
    let mut value = format!("{id}:").into_bytes();
    value.extend(life.member.as_bytes());
    value
}

/// Who made the acquisition that a value tells of; `None` for a peer of another kind.
pub(crate) fn holder(value: &[u8]) -> Option<&[u8]> {
    let (id, member) = value.split_at_checked(33)?;
    let is_ours = id[..32].iter().all(u8::is_ascii_hexdigit) && id[32] == b':';
    is_ours.then_some(member)
}

/// Takes an attempt back whose fate is unknown or that stands in the queue.
async fn withdraw(life: &Arc<Life>, attempt: &Attempt) {
    while life.lease.is_held() {
        match try_withdraw(life, attempt).await {
            Ok(()) => return,
            Err(error) => debug!(%error, "an acquisition is not withdrawn yet"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn try_withdraw(life: &Arc<Life>, attempt: &Attempt) -> Result<()> {
    let prize = &attempt.prize;
    life.transact(&[Op::delete(&prize.place(attempt.id))]).await?;
    queue::tidy(life.clone(), prize.clone()).await;
    match attempt.mode {
        Mode::Shared => shared::leave(life, prize, attempt.id).await.map(drop),
        Mode::Exclusive => {
            let claim = Claim {
                key: prize.key.clone(),
                session: life.presence.locks.clone(),
                value: Some(value(attempt.id, life)),
            };
            unlock(life, &claim, None).await.map(drop)
        }
    }
}

/// Unlocks a key that is still claimed; whether it was. `index` is where it was last changed, if that
/// is known.
async fn unlock(life: &Life, claim: &Claim, mut index: Option<u64>) -> Result<bool> {
    let mut again = false;
    loop {
        let changed = match index.take() {
            Some(index) => index,
            None => match life.api().get(&claim.key).await? {
                Some(entry) if claim.fits(&entry) => entry.changed,
                // By an attempt whose reply was lost.
                _ => return Ok(again),
            },
        };
        let ops = [
            Op::check_index(&claim.key, changed),
            Op::unlock(&claim.key, claim.session.as_bytes(), &claim.session),
        ];
        match life.transact(&ops).await? {
            (transaction::Outcome::Done(_), _) => return Ok(true),
            (transaction::Outcome::Refused(_), repeated) => again |= repeated,
        }
    }
}

/// Takes a lock away from whoever has it.
pub(crate) async fn take_away(life: &Arc<Life>, prize: &Prize) -> Result<bool> {
    let mut again = false;
    loop {
        let Some(Entry { session: Some(session), changed, value, .. }) =
            life.api().get(&prize.key).await?
        else {
            return Ok(again);
        };
        let is_shared = shared::is_cohort(&value);
        let mut ops = vec![
            Op::check_index(&prize.key, changed),
            Op::unlock(&prize.key, session.as_bytes(), &session),
        ];
        if is_shared {
            ops.push(Op::delete_tree(&prize.readers));
        }
        let (outcome, repeated) = life.transact(&ops).await?;
        if let transaction::Outcome::Done(_) = outcome {
            if is_shared {
                shared::disband(life, session);
            }
            for hold in life.holds().iter().filter(|hold| hold.prize.key == prize.key) {
                hold.lease.lose(Loss::Taken);
                hold.is_gone();
            }
            return Ok(true);
        }
        // What an attempt did whose reply was lost is undone now.
        again |= repeated;
    }
}

/// A lock or a term that is ours.
pub(crate) struct ConsulHold {
    life: Arc<Life>,
    id: OperationId,
    prize: Prize,
    kind: Kind,
    token: FencingToken,
    lease: Lease,
}

pub(crate) enum Kind {
    Exclusive {
        value: Vec<u8>,
        /// Kept until it is given back, so that nobody else of this session gets it.
        pass: Mutex<Option<Pass>>,
    },
    Shared(Share),
}

impl ConsulHold {
    pub(crate) fn new(
        life: &Arc<Life>,
        attempt: &Attempt,
        token: FencingToken,
        kind: Kind,
    ) -> Arc<Self> {
        Arc::new(Self {
            life: life.clone(),
            id: attempt.id,
            prize: attempt.prize.clone(),
            kind,
            token,
            lease: life.lease.child(),
        })
    }

    pub(crate) fn id(&self) -> OperationId {
        self.id
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(self.kind, Kind::Exclusive { .. })
    }

    /// The session that all who share it keep alive.
    pub(crate) fn cohort(&self) -> Option<&str> {
        match &self.kind {
            Kind::Shared(share) => Some(&share.cohort),
            Kind::Exclusive { .. } => None,
        }
    }

    fn keep(&self, pass: Pass) {
        if let Kind::Exclusive { pass: kept, .. } = &self.kind {
            *lock(kept) = Some(pass);
        }
    }

    /// It is nobody's of this session any more.
    pub(crate) fn is_gone(&self) {
        self.life.remove_hold(self.id);
        if let Kind::Exclusive { pass, .. } = &self.kind {
            drop(lock(pass).take());
        }
    }

    /// What shows that it is ours.
    pub(crate) fn claim(&self) -> Claim {
        match &self.kind {
            Kind::Exclusive { value, .. } => Claim {
                key: self.prize.key.clone(),
                session: self.life.presence.locks.clone(),
                value: Some(value.clone()),
            },
            Kind::Shared(_) => Claim {
                key: self.prize.share(self.id),
                session: self.life.presence.members.clone(),
                value: None,
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Hold for ConsulHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let claim = self.claim();
        if let Some(cohort) = self.cohort() {
            match presence::renew(self.life.api(), cohort).await {
                Err(error) if error.kind() == ErrorKind::SessionLost => return Ok(false),
                renewed => renewed?,
            }
        }
        Ok(self.life.api().get(&claim.key).await?.is_some_and(|entry| claim.fits(&entry)))
    }

    async fn release(&self) -> Result<Release> {
        let released = match &self.kind {
            Kind::Exclusive { .. } => unlock(&self.life, &self.claim(), Some(self.token.0)).await?,
            Kind::Shared(_) => shared::leave(&self.life, &self.prize, self.id).await?,
        };
        self.is_gone();
        Ok(if released { Release::Released } else { Release::WasLost })
    }
}

impl std::fmt::Debug for ConsulHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulHold")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_who_has_it() {
        let id = OperationId::random();
        assert_eq!(holder(format!("{id}:host:1").as_bytes()), Some(&b"host:1"[..]));
        for foreign in ["I got it!", "", &format!("{id}"), "0123456789abcdef0123456789abcdef-x"] {
            assert_eq!(holder(foreign.as_bytes()), None, "{foreign}");
        }
    }
}

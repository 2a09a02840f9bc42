//! Locks and terms: a key each, and a queue. See [`queue`](crate::queue).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, Hold, Lease, LockName, Locks, Mode, Moment,
    OperationId, Outcome, Release, Result, Waiting, async_trait,
};
use tracing::debug;

use crate::keys::{self, Prize, session_in};
use crate::session::{EtcdSession, Life, PAUSE, lease_of_lock, unexpected};
use crate::shared;
use crate::store::{Event, If, Refusal, Watched};
use crate::{queue, queue::pass_on};

#[async_trait]
impl Locks for EtcdSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        let prize = self.0.keys().lock(&target);
        acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        take_away(&self.0, &self.0.keys().lock(name)).await
    }
}

/// One acquisition.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

/// What a waiter finds.
enum Look {
    Granted(EtcdHold),
    /// Nothing to do until something happens to this key after that index.
    Wait(String, u64),
    /// It has changed meanwhile.
    Again,
}

/// One round trip for a free exclusive lock, three for a shared one.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    keys::check(&attempt.prize.reader(attempt.id), &life.member, "name")?;
    let mut queued = false;
    match attempt.run(life, &mut queued).await {
        Ok(Some(hold)) => {
            let hold = Arc::new(hold);
            life.add_hold(&hold);
            Ok(Some(hold))
        }
        Ok(None) => {
            if queued {
                life.remove_place(&attempt.prize.place(attempt.id));
                if attempt.withdraw(life).await.is_err() {
                    attempt.withdraw_later(life);
                }
            }
            Ok(None)
        }
        Err(error) => {
            life.remove_place(&attempt.prize.place(attempt.id));
            if queued || error.outcome() != Outcome::NotApplied {
                attempt.withdraw_later(life);
            }
            Err(error)
        }
    }
}

pub(crate) async fn take_away(life: &Life, prize: &Prize) -> Result<bool> {
    keys::check(&prize.readers, &life.member, "name")?;
    let held = match life.store.get(&prize.key).await?.result {
        Ok(event) => event.node.value,
        Err(Refusal::Missing) => return Ok(false),
        Err(refusal) => return Err(unexpected("the lock's key", refusal)),
    };
    let mut claims = vec![held.clone()];
    if shared::is_marker(&held) {
        claims = shared::readers(life, prize).await?;
    }
    life.store.delete(&prize.key, None).await?;
    if shared::is_marker(&held) {
        life.store.delete_tree(&prize.readers).await?;
    }
    for session in claims.iter().filter_map(|claim| session_in(claim)) {
        life.tell(session).await;
    }
    Ok(true)
}

impl Attempt {
    async fn run(&self, life: &Arc<Life>, queued: &mut bool) -> Result<Option<EtcdHold>> {
        if let Some(hold) = self.try_once(life).await? {
            return Ok(Some(hold));
        }
        if self.waiting.is_over() {
            return Ok(None);
        }
        let gone = Arc::new(Notify::new());
        *queued = true;
        self.stand_in_line(life).await?;
        life.add_place(&self.prize.place(self.id), &gone);
        let mut handed_over = false;
        loop {
            let look = match handed_over {
                true => self.confirm(life).await.map(|hold| self.found(life, hold)),
                false => self.look(life).await,
            };
            handed_over = false;
            let watched = match look {
                Ok(Look::Granted(hold)) => return Ok(Some(hold)),
                Ok(Look::Again) => None,
                Ok(Look::Wait(key, since)) => Some((key, since)),
                // A short break costs nobody the place.
                Err(error) if error.is_retryable() && life.lease.is_held() => {
                    debug!(%error, "looking again");
                    tokio::time::sleep(PAUSE).await;
                    None
                }
                Err(error) => return Err(error),
            };
            let happened = async {
                match watched {
                    None => {}
                    Some((key, since)) => match life.store.watch(&key, since, false).await {
                        Ok(Watched::Event(event)) => {
                            handed_over = self.is_handed_over(life, &event)
                        }
                        Ok(Watched::Forgotten) => {}
                        Err(error) => {
                            debug!(%error, "watching again");
                            tokio::time::sleep(PAUSE).await;
                        }
                    },
                }
            };
            tokio::select! {
                biased;
                () = self.waiting.over() => return Ok(None),
                _ = life.lease.lost() => return Err(ended()),
                () = happened => {}
                () = gone.notified() => {}
            }
        }
    }

    async fn stand_in_line(&self, life: &Life) -> Result<()> {
        let entry = queue::entry(self.mode, &life.claim(self.id));
        let (place, ttl) = (self.prize.place(self.id), Some(life.config.lock_timeout));
        match life.store.put(&place, &entry, ttl, Some(If::Absent)).await?.result {
            Ok(_) | Err(Refusal::Exists) => Ok(()),
            Err(refusal) => Err(unexpected("a place in a lock's queue", refusal)),
        }
    }

    /// Takes it if it is free and nobody is passed by.
    async fn try_once(&self, life: &Arc<Life>) -> Result<Option<EtcdHold>> {
        if self.mode == Mode::Exclusive {
            return self.take(life).await;
        }
        match life.store.get(&self.prize.key).await?.result {
            Err(Refusal::Missing) => shared::found(life, self).await,
            Ok(event) if shared::is_marker(&event.node.value) => {
                let queue = queue::look(life, &self.prize).await?;
                match queue.places.is_empty() {
                    true => shared::join(life, self, event.node.value).await,
                    false => Ok(None),
                }
            }
            Ok(_) => Ok(None),
            Err(refusal) => Err(unexpected("the lock's key", refusal)),
        }
    }

    async fn take(&self, life: &Arc<Life>) -> Result<Option<EtcdHold>> {
        let (sent, claim) = (Moment::now(), life.claim(self.id));
        let created = self.create(life, &claim).await?;
        Ok(created.map(|token| self.hold(life, claim, token, sent)))
    }

    /// Creates the lock's key; its index if it did.
    pub(crate) async fn create(&self, life: &Life, value: &str) -> Result<Option<u64>> {
        let ttl = Some(life.config.lock_timeout);
        let answer = life.store.put(&self.prize.key, value, ttl, Some(If::Absent)).await?;
        match answer.result {
            Ok(event) => Ok(Some(event.node.modified)),
            // A lost reply to the same request before may have been that it was done.
            Err(Refusal::Exists) if answer.again => {
                let event = life.store.get(&self.prize.key).await?.result.ok();
                let ours = event.filter(|event| event.node.value == value);
                Ok(ours.map(|event| event.node.modified))
            }
            Err(Refusal::Exists) => Ok(None),
            Err(refusal) => Err(unexpected("the lock's key", refusal)),
        }
    }

    /// Makes sure that what was handed over is still there, and lives as long as from now on.
    async fn confirm(&self, life: &Arc<Life>) -> Result<Option<EtcdHold>> {
        let (claim, ttl) = (life.claim(self.id), life.config.lock_timeout);
        let answer = life.store.refresh(&self.prize.key, ttl, If::Value(&claim)).await?;
        Ok(match answer.result {
            Ok(event) => Some(self.hold(life, claim, event.node.modified, answer.sent)),
            Err(_) => None,
        })
    }

    async fn look(&self, life: &Arc<Life>) -> Result<Look> {
        let queue = queue::look(life, &self.prize).await?;
        let id = self.id.to_string();
        let position = queue.places.iter().position(|place| place.id == id);
        if let Some(position @ 1..) = position {
            let before = &queue.places[position - 1].id;
            return Ok(Look::Wait(format!("{}/{before}", self.prize.queue), queue.index));
        }
        let lock = life.store.get(&self.prize.key).await?;
        let hold = match lock.result {
            Ok(event) => {
                let value = event.node.value;
                if self.mode == Mode::Exclusive && value == life.claim(self.id) {
                    self.confirm(life).await?
                } else if self.mode == Mode::Shared && shared::is_marker(&value) {
                    let hold = shared::join(life, self, value).await?;
                    self.leave_line(life, hold.is_some());
                    hold
                } else if position.is_some() {
                    return Ok(Look::Wait(self.prize.key.clone(), lock.index));
                } else {
                    // Neither in the queue nor the holder: the server forgot us.
                    self.stand_in_line(life).await?;
                    None
                }
            }
            Err(Refusal::Missing) => {
                let hold = match self.mode {
                    Mode::Exclusive => self.take(life).await?,
                    Mode::Shared => shared::found(life, self).await?,
                };
                self.leave_line(life, hold.is_some());
                hold
            }
            Err(refusal) => return Err(unexpected("the lock's key", refusal)),
        };
        Ok(self.found(life, hold))
    }

    /// What to do with what a look came to.
    fn found(&self, life: &Life, hold: Option<EtcdHold>) -> Look {
        match hold {
            Some(hold) => {
                life.remove_place(&self.prize.place(self.id));
                Look::Granted(hold)
            }
            None => Look::Again,
        }
    }

    /// Whether the lock's key names this acquisition now.
    fn is_handed_over(&self, life: &Life, event: &Event) -> bool {
        self.mode == Mode::Exclusive && event.node.value == life.claim(self.id)
    }

    /// Removes the place of one who got the lock otherwise than by a hand-over. The next in line
    /// waits for that.
    fn leave_line(&self, life: &Arc<Life>, granted: bool) {
        if granted {
            let (life, place) = (life.clone(), self.prize.place(self.id));
            tokio::spawn(async move { drop(life.store.delete(&place, None).await) });
        }
    }

    pub(crate) fn hold(
        &self,
        life: &Arc<Life>,
        value: String,
        token: u64,
        sent: Moment,
    ) -> EtcdHold {
        EtcdHold {
            life: life.clone(),
            id: self.id,
            prize: self.prize.clone(),
            mode: self.mode,
            value,
            token: FencingToken(token),
            lease: lease_of_lock(life, sent),
            asked: AtomicBool::new(false),
        }
    }

    /// Takes back whatever the server may have of the attempt.
    async fn withdraw(&self, life: &Life) -> Result<()> {
        life.store.delete(&self.prize.place(self.id), None).await?;
        // Handed over meanwhile?
        match self.mode {
            Mode::Exclusive => {
                let claim = life.claim(self.id);
                if queue::holds(life, &self.prize, &claim).await? {
                    pass_on(life, &self.prize, If::Value(&claim), self.id).await?;
                }
            }
            Mode::Shared => {
                let marker = shared::marker(&self.id.to_string());
                shared::leave(life, &self.prize, self.id, &marker).await?;
            }
        }
        Ok(())
    }

    /// The same in the background, as long as the server may know of it.
    fn withdraw_later(&self, life: &Arc<Life>) {
        let (life, end) = (life.clone(), Moment::now() + life.config.lock_timeout.0);
        let (id, prize, mode) = (self.id, self.prize.clone(), self.mode);
        let attempt = Self { id, prize, mode, waiting: Waiting::none() };
        tokio::spawn(async move {
            while let Err(error) = attempt.withdraw(&life).await {
                if end.has_passed() {
                    debug!(%error, "what is left of an acquisition is left to expire");
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::SessionLost, "the session ended while the lock was waited for")
}

/// A lock or a term that is ours.
pub(crate) struct EtcdHold {
    life: Arc<Life>,
    id: OperationId,
    prize: Prize,
    mode: Mode,
    /// The value of the lock's key.
    value: String,
    token: FencingToken,
    lease: Lease,
    /// Whether a release was asked for before, of which no answer came.
    asked: AtomicBool,
}

impl EtcdHold {
    pub(crate) fn id(&self) -> OperationId {
        self.id
    }

    /// When the renewal was sent, or `None` if it is not ours any more.
    pub(crate) async fn renew(&self) -> Result<Option<Moment>> {
        let life = &self.life;
        let ttl = life.config.lock_timeout;
        let sent = Moment::now();
        if self.mode == Mode::Shared {
            let reader = self.prize.reader(self.id);
            if life.store.refresh(&reader, ttl, If::Present).await?.result.is_err() {
                return Ok(None);
            }
        }
        let answer = life.store.refresh(&self.prize.key, ttl, If::Value(&self.value)).await?;
        Ok(answer.result.is_ok().then_some(sent))
    }
}

#[async_trait]
impl Hold for EtcdHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        let life = &self.life;
        if self.mode == Mode::Shared {
            let reader = life.store.get(&self.prize.reader(self.id)).await?;
            if reader.result.is_err() {
                return Ok(false);
            }
        }
        queue::holds(life, &self.prize, &self.value).await
    }

    async fn release(&self) -> Result<Release> {
        let life = &self.life;
        life.remove_hold(self.id);
        let given_back = match self.mode {
            Mode::Exclusive => pass_on(life, &self.prize, If::Value(&self.value), self.id).await,
            Mode::Shared => shared::leave(life, &self.prize, self.id, &self.value).await,
        };
        match given_back {
            Ok(true) => Ok(Release::Released),
            // What is not ours now may have been given back by a request of which no answer came.
            Ok(false) if self.asked.load(Ordering::Relaxed) => Ok(Release::Released),
            Ok(false) => Ok(Release::WasLost),
            Err(error) => {
                self.asked.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for EtcdHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdHold")
            .field("id", &self.id)
            .field("mode", &self.mode)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

//! Locks and terms: one queue each, of keys below `tooz-ext/queues/`, in the order in which they
//! were created. Whoever waits watches the key before its own, and the first the lock itself.
//!
//! A Python peer knows no queue: it takes the lock whenever it finds it free.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{
    Acquisition, Error, ErrorKind, Hold, LockName, Locks, Mode, Moment, OperationId, Outcome,
    Result, Waiting, async_trait,
};
use tracing::debug;

use crate::client::{Watch, exists_already};
use crate::hold::EtcdHold;
use crate::keys::{self, Prize};
use crate::session::{EtcdSession, Life, random_lease};
use crate::transport::{KeyValue, Op, Order, Range, Test, Txn};

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

/// How many of those who share a lock are told at once that it was broken. A transaction has a
/// limited number of operations; others learn it with their next heartbeat.
const NOTICES: usize = 100;

/// One acquisition.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

/// A place in the queue.
#[derive(Clone, Copy)]
struct Place {
    /// The revision that created its key.
    revision: i64,
    /// Whether it was seen that nobody is before us; newer places are behind us.
    is_first: bool,
}

/// What an attempt sees.
enum Look {
    Ours(Arc<EtcdHold>),
    /// It has to wait until something happens to this key.
    Behind(KeyValue),
    /// Something changed meanwhile.
    Changed,
}

/// One round trip if it is free; one more after the wait, which grants it only if our lease lives.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    life.add_attempt(attempt.id);
    let acquired = attempt.run(life).await;
    life.remove_attempt(attempt.id);
    match acquired {
        Ok(hold) => Ok(hold.map(|hold| hold as Arc<dyn Hold>)),
        // A stop ends its waits and its session at the same time.
        Err(error) if error.kind() == ErrorKind::SessionLost && attempt.waiting.is_over() => {
            Ok(None)
        }
        Err(error) => {
            let life = life.clone();
            tokio::spawn(async move { attempt.withdraw_later(&life).await });
            Err(error)
        }
    }
}

impl Attempt {
    fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }

    fn place(&self) -> Range {
        Range::key(self.prize.place(self.id, self.is_shared()))
    }

    async fn run(&self, life: &Arc<Life>) -> Result<Option<Arc<EtcdHold>>> {
        // The largest request of its life is that of one who has waited: refused now, not then.
        let place = Place { revision: i64::MAX, is_first: false };
        life.client.fits(&self.txn(life, Some(place), true))?;
        let mut place = None;
        let mut watched: Option<(Vec<u8>, Watch)> = None;
        loop {
            let wait = !self.waiting.is_over();
            let before = match self.look(life, &mut place, wait).await? {
                Look::Ours(hold) => return Ok(Some(hold)),
                Look::Changed => continue,
                Look::Behind(before) => before,
            };
            if !wait {
                if place.is_some() {
                    life.txn(&Txn::read(vec![self.place().delete()])).await?;
                }
                return Ok(None);
            }
            if watched.as_ref().is_none_or(|(key, _)| *key != before.key) {
                watched = self.watch(life, &before).await;
            }
            let Some((_, watch)) = &mut watched else { continue };
            tokio::select! {
                // A broken watch, too, is a reason to look.
                events = watch.next() => if let Err(error) = events {
                    debug!(%error, "watching again");
                    watched = None;
                },
                () = self.waiting.over() => {}
                _ = life.lease.lost() => return Err(life.forgotten()),
            }
        }
    }

    /// The watch, which tells what happens from now on; `None` if something has happened before.
    async fn watch(&self, life: &Life, before: &KeyValue) -> Option<(Vec<u8>, Watch)> {
        let watch = match life.client.watch(Range::key(before.key.clone())).await {
            Ok(watch) => watch,
            Err(error) => {
                debug!(%error, "no watch yet");
                tokio::time::sleep(Duration::from_millis(50)).await;
                return None;
            }
        };
        // From the revision of the look, the server would let the watch wait for its next round of
        // catching up, which is up to 100 ms away. This only reads, and is no entry in its log.
        let now = life.client.txn(&Txn::read(vec![Range::key(before.key.clone()).get()])).await;
        let now = now.ok()?.value.first(0)?;
        (now.mod_revision == before.mod_revision).then_some((now.key, watch))
    }

    /// Takes it if it is free and our turn, and sees what is in the way if not.
    async fn look(&self, life: &Arc<Life>, place: &mut Option<Place>, wait: bool) -> Result<Look> {
        let me = (self.id, &self.prize);
        let answer = life.txn(&self.txn(life, *place, wait)).await?;
        let (mut reply, last) = (answer.value, answer_index(*place, wait));
        if reply.succeeded {
            return match self.mode {
                Mode::Exclusive => Ok(Look::Ours(EtcdHold::exclusive(life, me, reply.revision))),
                Mode::Shared => {
                    let common = reply.first(0).as_ref().and_then(keys::shared_lease);
                    self.joined(life, common, reply.revision).await
                }
            };
        }
        let (lock, before) = (reply.first(0), reply.first(1));
        let (reader, own) = (reply.first(2), reply.first(last));
        let is_first = before.is_none();
        *place = own.map(|own| Place { revision: own.create_revision, is_first });
        // What an earlier attempt has got, whose reply was lost.
        if let Some(lock) = lock.as_ref().filter(|lock| lock.value == self.prize.value(self.id)) {
            self.leave_the_queue(life, place).await;
            return Ok(Look::Ours(EtcdHold::exclusive(life, me, lock.create_revision)));
        }
        // One who shared an earlier time of this lock is older than it.
        if let (Some(reader), Some(lock)) = (&reader, &lock)
            && reader.create_revision >= lock.create_revision
        {
            self.leave_the_queue(life, place).await;
            return self.joined(life, keys::shared_lease(lock), reader.create_revision).await;
        }
        match (before, lock) {
            (Some(before), _) if before.key == self.place().key => Ok(Look::Changed),
            (Some(before), _) => Ok(Look::Behind(before)),
            (None, None) if self.is_shared() => self.found(life, *place).await,
            (None, Some(lock)) if !self.is_shared() || keys::shared_lease(&lock).is_none() => {
                Ok(Look::Behind(lock))
            }
            (None, _) => Ok(Look::Changed),
        }
    }

    /// Takes it, or joins those who share it, if nobody is before us; else tells what is in the way,
    /// and queues up if there is time to wait.
    fn txn(&self, life: &Life, place: Option<Place>, wait: bool) -> Txn {
        let lock = self.prize.is();
        let mut when = self.is_our_turn(place);
        let mut then = match self.mode {
            Mode::Exclusive => {
                when.push(lock.clone().absent());
                let (key, value) = (lock.key.clone(), self.prize.value(self.id));
                vec![Op::Put { key, value, lease: life.id }]
            }
            Mode::Shared => {
                let (above, below) = keys::shared_values();
                when.push(lock.clone().is(Test::ValueAbove(above)));
                when.push(lock.clone().is(Test::ValueBelow(below)));
                vec![lock.clone().get(), self.put_reader(life)]
            }
        };
        if place.is_some() {
            then.push(self.place().delete());
        }
        let newest = Order::NewestUpTo(place.map_or(0, |place| place.revision - 1));
        let before = Op::Get(self.prize.before(self.is_shared()), newest);
        let reader = Range::key(self.prize.reader(self.id)).get();
        let mut or = vec![lock.get(), before, reader];
        if place.is_none() && wait {
            or.push(Op::Put { key: self.place().key, value: Vec::new(), lease: life.id });
        }
        or.push(self.place().get());
        Txn { when, then, or }
    }

    fn is_our_turn(&self, place: Option<Place>) -> Vec<crate::Compare> {
        let before = self.prize.before(self.is_shared());
        let Some(place) = place else { return vec![before.absent()] };
        // Gone with our lease, if that has ended.
        let mut when = vec![self.place().is(Test::CreatedAt(place.revision))];
        if !place.is_first {
            // Our own place is there, so that there are keys to compare, unless it is a reader's,
            // which is not among the writers' that are before it: then it fails, and we see more.
            when.push(before.is(Test::CreatedAfter(place.revision - 1)));
        }
        when
    }

    fn put_reader(&self, life: &Life) -> Op {
        Op::Put { key: self.prize.reader(self.id), value: Vec::new(), lease: life.id }
    }

    // ---- Shared locks.

    /// The lock is free: makes it shared, under a lease that all readers will keep alive.
    async fn found(&self, life: &Arc<Life>, place: Option<Place>) -> Result<Look> {
        let common = random_lease();
        let sent = match life.client.grant(common, life.config.ttl).await {
            Ok(answer) => answer.sent,
            Err(error) if error.outcome() == Outcome::Unknown && exists_already(&error) => {
                Moment::now()
            }
            Err(error) => return Err(error),
        };
        let value = keys::shared_value(common);
        let lock = self.prize.is();
        let mut when = self.is_our_turn(place);
        when.push(lock.clone().absent());
        let mut then = vec![
            Op::Put { key: lock.key.clone(), value: value.clone(), lease: common },
            self.put_reader(life),
        ];
        if place.is_some() {
            then.push(self.place().delete());
        }
        let txn = Txn { when, then, or: vec![lock.get()] };
        let found = life.txn(&txn).await;
        let revision = match found {
            Ok(mut answer) => match answer.value.first(0).filter(|lock| lock.value == value) {
                _ if answer.value.succeeded => Some(answer.value.revision),
                lock => lock.map(|lock| lock.create_revision),
            },
            Err(error) => {
                self.revoke_later(life, common);
                return Err(error);
            }
        };
        match revision {
            Some(revision) => {
                let me = (self.id, &self.prize);
                Ok(Look::Ours(EtcdHold::shared(life, me, revision, (common, sent))))
            }
            None => {
                self.revoke_later(life, common);
                Ok(Look::Changed)
            }
        }
    }

    /// We are among the readers: their lease is renewed, so that we know how long it lasts.
    async fn joined(&self, life: &Arc<Life>, common: Option<i64>, revision: i64) -> Result<Look> {
        let Some(common) = common else { return Ok(Look::Changed) };
        let renewed = life.client.keep_alive(common).await?;
        if renewed.value == 0 {
            // It ended just now, and the lock with it.
            let leave = Range::key(self.prize.reader(self.id)).delete();
            life.txn(&Txn::read(vec![leave])).await?;
            return Ok(Look::Changed);
        }
        let me = (self.id, &self.prize);
        Ok(Look::Ours(EtcdHold::shared(life, me, revision, (common, renewed.sent))))
    }

    fn revoke_later(&self, life: &Arc<Life>, lease: i64) {
        let life = life.clone();
        tokio::spawn(async move { life.client.revoke(lease).await });
    }

    // ---- Withdrawing.

    async fn leave_the_queue(&self, life: &Life, place: &mut Option<Place>) {
        if place.take().is_some()
            && let Err(error) = life.txn(&Txn::read(vec![self.place().delete()])).await
        {
            debug!(%error, "a place in the queue is left to the next heartbeat");
        }
    }

    /// Takes back what the server may have of a failed attempt, while it may have it. Should the
    /// request come to it even later, a heartbeat finds what it left.
    async fn withdraw_later(self, life: &Life) {
        let reader = Range::key(self.prize.reader(self.id));
        let undo = vec![self.place().delete(), reader.delete()];
        let held = self.prize.is().is(Test::Value(self.prize.value(self.id)));
        let mut with_lock = undo.clone();
        with_lock.push(self.prize.is().delete());
        let txn = Txn { when: vec![held], then: with_lock, or: undo };
        while life.lease.is_held() {
            match life.client.txn(&txn).await {
                Ok(_) => return,
                Err(error) => debug!(%error, "an acquisition is not withdrawn yet"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Where the reply to [`Attempt::txn`] has our place in the queue.
fn answer_index(place: Option<Place>, wait: bool) -> usize {
    if place.is_none() && wait { 4 } else { 3 }
}

/// Breaks a lock and tells those who had it.
pub(crate) async fn take_away(life: &Arc<Life>, prize: &Prize) -> Result<bool> {
    let mut again = false;
    loop {
        let read = Txn::read(vec![prize.is().get(), prize.readers().get()]);
        let mut reply = life.client.txn(&read).await?.value;
        let Some(lock) = reply.first(0) else { return Ok(again) };
        let mut then = vec![prize.is().delete(), prize.readers().delete()];
        let common = keys::shared_lease(&lock);
        if common.is_none() {
            then.extend(notice(life, lock.lease, &keys::operation_in(&lock.value)).await?);
        } else {
            for reader in reply.got(1).into_iter().take(NOTICES) {
                if let Some(operation) = life.keys().operation_of(&reader.key) {
                    let key = life.keys().notice(reader.lease, operation);
                    then.push(Op::Put { key, value: Vec::new(), lease: reader.lease });
                }
            }
        }
        let when = vec![prize.is().is(Test::ModifiedAt(lock.mod_revision))];
        match life.client.txn(&Txn { when, then, or: Vec::new() }).await {
            Ok(answer) if answer.value.succeeded => {
                if let Some(common) = common {
                    life.client.revoke(common).await?;
                }
                return Ok(true);
            }
            // Somebody else has it by now, or nobody, or our own earlier request did it.
            Ok(answer) => again |= answer.again,
            // A holder's session ended in between.
            Err(error) if error.kind() == ErrorKind::SessionLost => {}
            Err(error) => return Err(error),
        }
    }
}

/// What tells a session of its [loss](crate::keys::Keys::notice); nothing if the lease is not that
/// of a session of ours.
pub(crate) async fn notice(life: &Life, lease: i64, what: &str) -> Result<Option<Op>, Error> {
    let session = Txn::read(vec![Range::key(life.keys().session(lease)).get()]);
    let is_ours = !life.client.txn(&session).await?.value.got(0).is_empty();
    let key = life.keys().notice(lease, what);
    Ok(is_ours.then_some(Op::Put { key, value: Vec::new(), lease }))
}

//! Acquisitions of locks and terms. Each has a queue of keys below `tooz-ext/queues/`, in the order
//! in which they were created. A waiter watches the key before its own, and the first the lock
//! itself.
//!
//! A Python peer knows no queue: it takes the lock whenever it finds it free.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::kit::cancel_until_gone;
use tooz_core::{Acquisition, ErrorKind, FencingToken, Hold, Mode, Moment, Result};
use tracing::debug;

use crate::client::Watch;
use crate::hold::EtcdHold;
use crate::keys::{self, LockKeys};
use crate::state::{Grant, State};
use crate::txn::{Compare, KeyValue, Op, Order, Range, Test, Txn};

/// One round trip if it is free; one more after the wait, which grants it only if our lease lives.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<LockKeys>,
) -> Result<Option<Arc<dyn Hold>>> {
    let id = acquisition.id;
    let mut waiter = Waiter { state: state.clone(), acquisition, entry: None };
    state.operations.insert(id, ());
    let acquired = waiter.run().await;
    state.operations.remove(&id);
    match acquired {
        Ok(None) => Ok(None),
        Ok(Some(grant)) => Ok(Some(Arc::new(EtcdHold { state: state.clone(), grant }))),
        // A stop ends its waits and its session at the same time.
        Err(error)
            if error.kind() == ErrorKind::SessionLost && waiter.acquisition.wait.is_over() =>
        {
            Ok(None)
        }
        Err(error) => {
            tokio::spawn(async move { waiter.cancel().await });
            Err(error)
        }
    }
}

/// An acquisition under way.
struct Waiter {
    state: Arc<State>,
    acquisition: Acquisition<LockKeys>,
    entry: Option<Entry>,
}

/// An entry in the queue.
#[derive(Clone, Copy)]
struct Entry {
    /// The revision that created its key.
    revision: i64,
    /// Whether it was seen that nobody is before us; newer entries are behind us.
    is_first: bool,
}

/// What a look at the lock and its queue found.
enum Look {
    Ours(Arc<Grant>),
    /// It has to wait until something happens to this key.
    Behind(KeyValue),
    /// Something changed meanwhile.
    Changed,
}

impl Waiter {
    fn keys(&self) -> &LockKeys {
        &self.acquisition.target
    }

    fn is_shared(&self) -> bool {
        self.acquisition.mode == Mode::Shared
    }

    /// Its key in the queue.
    fn entry_key(&self) -> Range {
        Range::key(self.keys().entry(self.acquisition.id, self.acquisition.mode))
    }

    /// Its key among the readers.
    fn reader_key(&self) -> Range {
        Range::key(self.keys().reader(self.acquisition.id))
    }

    async fn run(&mut self) -> Result<Option<Arc<Grant>>> {
        // Its largest request is that of a waiter that has waited: refused now, not then.
        let last = Entry { revision: i64::MAX, is_first: false };
        self.state.client.fits(&self.txn(Some(last), true))?;
        let mut watched: Option<(Vec<u8>, Watch)> = None;
        loop {
            let may_wait = !self.acquisition.wait.is_over();
            let before = match self.look(may_wait).await? {
                Look::Ours(grant) => return Ok(Some(grant)),
                Look::Changed => continue,
                Look::Behind(before) => before,
            };
            if !may_wait {
                if self.entry.is_some() {
                    self.state.txn(&Txn::of(vec![self.entry_key().delete()])).await?;
                }
                return Ok(None);
            }
            if watched.as_ref().is_none_or(|(key, _)| *key != before.key) {
                watched = self.watch(&before).await;
            }
            let Some((_, watch)) = &mut watched else { continue };
            tokio::select! {
                // A broken watch, too, is a reason to look.
                events = watch.next() => if let Err(error) = events {
                    debug!(%error, "watching again");
                    watched = None;
                },
                () = self.acquisition.wait.over() => {}
                _ = self.state.lease.lost() => return Err(self.state.session_lost()),
            }
        }
    }

    /// The watch, which tells what happens from now on; `None` if something has happened before.
    async fn watch(&self, before: &KeyValue) -> Option<(Vec<u8>, Watch)> {
        let client = &self.state.client;
        let watch = match client.watch(Range::key(before.key.clone())).await {
            Ok(watch) => watch,
            Err(error) => {
                debug!(%error, "no watch yet");
                tokio::time::sleep(Duration::from_millis(50)).await;
                return None;
            }
        };
        // From the revision of the look, the server would let the watch wait for its next round of
        // catching up, which is up to 100 ms away. This only reads, and is no entry in its log.
        let [now] = client.read([before.key.clone()]).await.ok()?;
        let now = now?;
        (now.mod_revision == before.mod_revision).then_some((now.key, watch))
    }

    /// Takes it if it is free and our turn, and sees what is in the way if not.
    async fn look(&mut self, may_wait: bool) -> Result<Look> {
        let reply = self.state.txn(&self.txn(self.entry, may_wait)).await?.value;
        let revision = reply.revision;
        if reply.succeeded {
            if !self.is_shared() {
                return Ok(self.granted(revision, None));
            }
            let [lock] = reply.keys();
            return self.join_readers(lock.as_ref().and_then(keys::shared_lease), revision).await;
        }
        let [lock, before, reader, own] = reply.keys();
        let is_first = before.is_none();
        self.entry = own.map(|own| Entry { revision: own.create_revision, is_first });
        if let Some(lock) = &lock {
            // What an earlier attempt has got, whose reply was lost.
            if lock.value == self.keys().value(self.acquisition.id) {
                self.leave_queue().await;
                return Ok(self.granted(lock.create_revision, None));
            }
            // A reader of an earlier time of this lock is older than it.
            if let Some(reader) = reader.filter(|one| one.create_revision >= lock.create_revision) {
                self.leave_queue().await;
                return self.join_readers(keys::shared_lease(lock), reader.create_revision).await;
            }
        }
        match (before, lock) {
            (Some(before), _) if before.key == self.entry_key().key => Ok(Look::Changed),
            (Some(before), _) => Ok(Look::Behind(before)),
            (None, None) if self.is_shared() => self.share().await,
            (None, Some(lock)) if !self.is_shared() || keys::shared_lease(&lock).is_none() => {
                Ok(Look::Behind(lock))
            }
            (None, _) => Ok(Look::Changed),
        }
    }

    /// Takes it, or joins those who share it, if nobody is before us; else tells what is in the way,
    /// and queues up if there is time to wait.
    fn txn(&self, entry: Option<Entry>, may_wait: bool) -> Txn {
        let Acquisition { id, mode, .. } = self.acquisition;
        let lock = self.keys().lock();
        let mut when = self.is_our_turn(entry);
        let mut then = match mode {
            Mode::Exclusive => {
                when.push(lock.clone().absent());
                vec![Op::put(&lock.key, self.keys().value(id), self.state.id)]
            }
            Mode::Shared => {
                let (above, below) = keys::shared_values();
                when.push(lock.clone().is(Test::ValueAbove(above)));
                when.push(lock.clone().is(Test::ValueBelow(below)));
                vec![lock.clone().get(), self.put(self.reader_key())]
            }
        };
        if entry.is_some() {
            then.push(self.entry_key().delete());
        }
        let newest = Order::NewestUpTo(entry.map_or(0, |entry| entry.revision - 1));
        let before = Op::Get(self.keys().entries_before(mode), newest);
        let mut or = vec![lock.get(), before, self.reader_key().get()];
        if entry.is_none() && may_wait {
            or.push(self.put(self.entry_key()));
        }
        or.push(self.entry_key().get());
        Txn { when, then, or }
    }

    fn is_our_turn(&self, entry: Option<Entry>) -> Vec<Compare> {
        let before = self.keys().entries_before(self.acquisition.mode);
        let Some(entry) = entry else { return vec![before.absent()] };
        // Gone with our lease, if that has ended.
        let mut when = vec![self.entry_key().is(Test::CreatedAt(entry.revision))];
        if !entry.is_first {
            // Our own entry is there, so that there are keys to compare, unless it is a reader's,
            // which is not among the writers' that are before it: then it fails, and we see more.
            when.push(before.is(Test::CreatedAfter(entry.revision - 1)));
        }
        when
    }

    /// Puts a key of the session that says all by its name.
    fn put(&self, key: Range) -> Op {
        Op::put(&key.key, b"", self.state.id)
    }

    /// It is ours since this revision: as long as the session, or as long as the lease of the
    /// readers too, which was renewed by a request sent at that moment.
    fn granted(&self, revision: i64, readers: Option<(i64, Moment)>) -> Look {
        let Self { state, acquisition, .. } = self;
        let lease = match readers {
            None => state.lease.child(),
            Some((_, sent)) => state.lease.timed_child(state.config.session_ttl(), sent),
        };
        let grant = Arc::new(Grant {
            id: acquisition.id,
            keys: acquisition.target.clone(),
            readers_lease: readers.map(|(readers_lease, _)| readers_lease),
            token: FencingToken(revision.unsigned_abs()),
            lease,
        });
        state.grants.insert(grant.id, grant.clone());
        Look::Ours(grant)
    }

    // ---- Shared locks.

    /// The lock is free: makes it shared, under a lease that all readers will keep alive.
    async fn share(&self) -> Result<Look> {
        let (readers_lease, sent) = self.state.client.grant().await?;
        let value = keys::shared_value(readers_lease);
        let lock = self.keys().lock();
        let mut when = self.is_our_turn(self.entry);
        when.push(lock.clone().absent());
        let mut then =
            vec![Op::put(&lock.key, value.clone(), readers_lease), self.put(self.reader_key())];
        if self.entry.is_some() {
            then.push(self.entry_key().delete());
        }
        let txn = Txn { when, then, or: vec![lock.get()] };
        let shared = self.state.txn(&txn).await.map(|answer| {
            let (succeeded, revision) = (answer.value.succeeded, answer.value.revision);
            let [lock] = answer.value.keys();
            // An earlier attempt may have made it.
            let earlier = lock.filter(|lock| lock.value == value).map(|lock| lock.create_revision);
            if succeeded { Some(revision) } else { earlier }
        });
        if let Ok(Some(revision)) = shared {
            return Ok(self.granted(revision, Some((readers_lease, sent))));
        }
        let state = self.state.clone();
        tokio::spawn(async move { state.client.revoke(readers_lease).await });
        shared.map(|_| Look::Changed)
    }

    /// We are among the readers: their lease is renewed, so that we know how long it lasts.
    async fn join_readers(&self, readers_lease: Option<i64>, revision: i64) -> Result<Look> {
        let Some(readers_lease) = readers_lease else { return Ok(Look::Changed) };
        match self.state.client.keep_alive(readers_lease).await? {
            Some(sent) => Ok(self.granted(revision, Some((readers_lease, sent)))),
            // It ended just now, and the lock with it.
            None => {
                self.state.txn(&Txn::of(vec![self.reader_key().delete()])).await?;
                Ok(Look::Changed)
            }
        }
    }

    // ---- The end of the wait.

    async fn leave_queue(&mut self) {
        if self.entry.take().is_some()
            && let Err(error) = self.state.txn(&Txn::of(vec![self.entry_key().delete()])).await
        {
            debug!(%error, "the next heartbeat will remove a queue entry");
        }
    }

    /// Undoes what the server may have of a failed acquisition, while it may have it. Should the
    /// request come to it even later, a heartbeat finds what it left.
    async fn cancel(&self) {
        let undo = vec![self.entry_key().delete(), self.reader_key().delete()];
        let held = self.keys().lock().is(Test::Value(self.keys().value(self.acquisition.id)));
        let mut with_lock = undo.clone();
        with_lock.push(self.keys().lock().delete());
        let txn = Txn { when: vec![held], then: with_lock, or: undo };
        let state = &self.state;
        let txn = &txn;
        cancel_until_gone(&state.lease, || async move { state.client.txn(txn).await.map(drop) })
            .await;
    }
}

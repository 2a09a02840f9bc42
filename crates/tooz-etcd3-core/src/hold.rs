//! A lock or a term that is ours.

use std::fmt;
use std::sync::Arc;

use tooz_core::{FencingToken, Hold, Lease, Moment, OperationId, Release, Result, async_trait};
use tracing::debug;

use crate::keys::{self, Prize};
use crate::session::Life;
use crate::transport::{Op, Range, Reply, Test, Txn};

pub(crate) struct EtcdHold {
    life: Arc<Life>,
    id: OperationId,
    prize: Prize,
    /// Where it is shared, the lease that its readers keep alive.
    shared: Option<i64>,
    token: FencingToken,
    lease: Lease,
}

impl EtcdHold {
    /// Alone, from the revision that granted it: it lasts as long as the session.
    pub(crate) fn exclusive(
        life: &Arc<Life>,
        (id, prize): (OperationId, &Prize),
        revision: i64,
    ) -> Arc<Self> {
        let lease = life.lease.child();
        Self {
            life: life.clone(),
            id,
            prize: prize.clone(),
            shared: None,
            token: token(revision),
            lease,
        }
        .begin()
    }

    /// Shared with others, whose common lease was renewed by a request sent at `sent`.
    pub(crate) fn shared(
        life: &Arc<Life>,
        (id, prize): (OperationId, &Prize),
        revision: i64,
        (common, sent): (i64, Moment),
    ) -> Arc<Self> {
        let ttl = life.config.session_ttl();
        // It is lost with the session too, so it promises no more time than that has.
        let latest = life.lease.deadline().map_or(sent, |deadline| deadline - ttl * 9 / 10);
        let lease = Lease::timed(ttl, sent.min(latest));
        let (prize, token) = (prize.clone(), token(revision));
        Self { life: life.clone(), id, prize, shared: Some(common), token, lease }.begin()
    }

    fn begin(self) -> Arc<Self> {
        let hold = Arc::new(self);
        hold.life.add_hold(&hold);
        hold
    }

    pub(crate) fn id(&self) -> OperationId {
        self.id
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The lease that the readers keep alive, if it is shared.
    pub(crate) fn common_lease(&self) -> Option<i64> {
        self.shared
    }

    /// The key of ours that shows it.
    pub(crate) fn key(&self) -> Vec<u8> {
        match self.shared {
            None => self.prize.key.clone(),
            Some(_) => self.prize.reader(self.id),
        }
    }

    /// What the lock's own key must hold.
    fn value(&self) -> Vec<u8> {
        match self.shared {
            None => self.prize.value(self.id),
            Some(common) => keys::shared_value(common),
        }
    }

    fn has_the_value(&self) -> crate::Compare {
        self.prize.is().is(Test::Value(self.value()))
    }

    /// Gives it back, if it is ours; whether it was.
    ///
    /// What is gone when it is asked for again was given back by the request whose answer was lost:
    /// it was ours then, for all that the session's lease says.
    pub(crate) async fn give_back(&self) -> Result<bool> {
        let Some(common) = self.shared else {
            let remove = vec![self.prize.is().delete()];
            let txn = Txn { when: vec![self.has_the_value()], then: remove, or: Vec::new() };
            let answer = self.life.client.txn(&txn).await?;
            return Ok(answer.value.succeeded || answer.again);
        };
        // The last of the readers takes the lock along.
        let reader = self.prize.reader(self.id);
        let mut when = vec![self.has_the_value()];
        when.extend(self.prize.other_readers(&reader).map(Range::absent));
        let leave = Range::key(reader).delete();
        let then = vec![leave.clone(), self.prize.is().delete()];
        let txn = Txn { when, then, or: vec![leave, self.prize.is().get()] };
        let answer = self.life.client.txn(&txn).await?;
        let (again, mut reply) = (answer.again, answer.value);
        let was_there = reply.deleted(0) > 0;
        if reply.succeeded {
            // Without it the lease would end by itself, only later.
            if let Err(error) = self.life.client.revoke(common).await {
                debug!(%error, "a lease is left to expire");
            }
            return Ok(was_there || again);
        }
        let lock = reply.first(1);
        Ok(again || was_there && lock.is_some_and(|lock| lock.value == self.value()))
    }
}

fn token(revision: i64) -> FencingToken {
    FencingToken(revision.unsigned_abs())
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
        let ours = Op::Get(Range::key(self.key()), crate::Order::ByKey);
        let txn = Txn { when: vec![self.has_the_value()], then: vec![ours], or: Vec::new() };
        let reply = self.life.client.txn(&txn).await?.value;
        let is_there = matches!(&reply.replies[..], [Reply::Got(found)] if !found.is_empty());
        Ok(reply.succeeded && is_there)
    }

    async fn release(&self) -> Result<Release> {
        // Known while the request is under way, so that no heartbeat takes it for a remnant.
        self.life.add_attempt(self.id);
        self.life.remove_hold(self.id);
        let given_back = self.give_back().await;
        self.life.remove_attempt(self.id);
        Ok(if given_back? { Release::Released } else { Release::WasLost })
    }
}

impl fmt::Debug for EtcdHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdHold")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

//! The renewal of everything: one request for each key, as the API has none for several, and a
//! bounded number of them at a time.

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tooz_core::{Error, ErrorKind, GroupId, Loss, Mode, Moment, Result};

use crate::client::If;
use crate::errors::Refusal;
use crate::state::{Grant, Membership, State};

/// How many requests are under way at once: each has a connection for itself.
const AT_ONCE: usize = 16;

/// The renewals of what a session has, some at a time.
struct Renewals {
    turns: Arc<Semaphore>,
    tasks: JoinSet<Result<()>>,
}

pub(crate) async fn renew(state: &Arc<State>) -> Result<()> {
    let key = state.keys().session(state.id);
    let answer = state.client.refresh(&key, state.config.membership_timeout, If::Present).await?;
    if answer.result.is_err() {
        return Err(state.session_lost());
    }
    let (turns, tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    let mut renewals = Renewals { turns, tasks };
    for grant in state.grants.values() {
        renewals.spawn(renew_grant(state.clone(), grant));
    }
    for (group, membership) in state.memberships.entries() {
        renewals.spawn(renew_membership(state.clone(), group, membership));
    }
    for (key, notify) in state.queue_entries.entries() {
        renewals.spawn(renew_queue_entry(state.clone(), key, notify));
    }
    renewals.finish().await?;
    // Only now: what the session's lease stands for is renewed as a whole.
    if state.lease.renewed(answer.sent) { Ok(()) } else { Err(state.session_lost()) }
}

impl Renewals {
    fn spawn(&mut self, renewal: impl Future<Output = Result<()>> + Send + 'static) {
        let turns = self.turns.clone();
        self.tasks.spawn(async move {
            let _turn = turns.acquire().await;
            renewal.await
        });
    }

    /// Waits for all of them; the first error of any.
    async fn finish(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(renewed) = self.tasks.join_next().await {
            let renewed = renewed.unwrap_or_else(|e| {
                Err(Error::new(ErrorKind::Internal, "a renewal panicked").caused_by(e))
            });
            result = result.and(renewed);
        }
        result
    }
}

async fn renew_grant(state: Arc<State>, grant: Arc<Grant>) -> Result<()> {
    let (ttl, sent) = (state.config.lock_timeout, Moment::now());
    let reader = (grant.mode == Mode::Shared).then(|| (grant.keys.reader(grant.id), If::Present));
    let lock = (grant.keys.key.clone(), If::Value(&grant.value));
    for (key, condition) in reader.into_iter().chain([lock]) {
        if state.client.refresh(&key, ttl, condition).await?.result.is_err() {
            grant.lease.lose(Loss::Taken);
            state.grants.remove(&grant.id);
            return Ok(());
        }
    }
    grant.lease.renewed(sent);
    Ok(())
}

async fn renew_membership(state: Arc<State>, group: GroupId, membership: Membership) -> Result<()> {
    let (key, ttl) = (state.keys().member(&group, &state.member), state.config.membership_timeout);
    loop {
        let answer = state.client.refresh(&key, ttl, membership.proof()).await?;
        match answer.result {
            Ok(event) => {
                membership.changed(event.node.modified);
                membership.lease.renewed(answer.sent);
                return Ok(());
            }
            // By ourselves, if it still has our session's name.
            Err(Refusal::Differs) if state.still_has(&key, &membership).await? => {}
            Err(_) => {
                membership.lease.lose(Loss::Taken);
                return Ok(());
            }
        }
    }
}

async fn renew_queue_entry(state: Arc<State>, key: String, notify: Arc<Notify>) -> Result<()> {
    let answer = state.client.refresh(&key, state.config.lock_timeout, If::Present).await?;
    if answer.result.is_err() {
        // Given the lock, or wiped away: its owner looks.
        notify.notify_one();
    }
    Ok(())
}

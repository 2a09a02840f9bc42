//! Locks, and terms as well: one queue each, on the server. See `scripts/lock.lua`.

use std::sync::Arc;

use redis::{Cmd, Value};
use tooz_core::kit::cancel_until_gone;
use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, Hold, LockName, Locks, Mode, Moment, Outcome,
    Result, async_trait,
};

use crate::client::Replicated;
use crate::hold::RedisHold;
use crate::keys::{self, LockKeys};
use crate::queue::{QueueEntry, Waiter};
use crate::scripts::{self, Script, flag, milliseconds};
use crate::state::{Grant, State};

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct RedisLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for RedisLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        keys::check_lock(&acquisition.target)?;
        let keys = self.0.keys().lock(&acquisition.target);
        acquire(&self.0, acquisition.with_target(keys)).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        keys::check_lock(name)?;
        let request = self.0.lock_request(Script::Break, &self.0.keys().lock(name), &[]);
        let answer = self.0.client.call(&request).await?;
        match answer.value {
            // A repeated request may find nothing to do because the first one did it.
            Value::Int(broken) => Ok(broken == 1 || answer.repeated),
            _ => Err(Error::unexpected_answer()),
        }
    }
}

/// One round trip if it is free; one more after the wait, to see why it was pushed.
pub(crate) async fn acquire(
    state: &Arc<State>,
    acquisition: Acquisition<LockKeys>,
) -> Result<Option<Arc<dyn Hold>>> {
    let _in_flight = state.in_flight.begin();
    let mut waiter = Waiter::new(state, acquisition.id);
    // Of our queue entry, once there is one.
    let mut score = Vec::new();
    loop {
        let waits = !acquisition.wait.is_over();
        let request = attempt(state, &acquisition, &score, waits);
        let answer = match state.client.call_replicated(&request, is_grant).await {
            Ok(Replicated::Closed(closed)) => {
                state.client.warn_of(&closed);
                if !waits {
                    if !score.is_empty() {
                        tokio::spawn(cancel(state.clone(), acquisition));
                    }
                    return Ok(None);
                }
                tokio::select! {
                    () = closed.until.wait() => {}
                    () = acquisition.wait.over() => {}
                    _ = state.lease.lost() => return Err(state.session_lost()),
                }
                continue;
            }
            Ok(Replicated::Answered { value, is_safe, sent }) => {
                Answer::read(value).map(|answer| (answer, is_safe, sent))
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok((Answer::Granted { number, epoch }, is_safe, sent)) => {
                renew_session(state, sent);
                let grant = Arc::new(granted(state, &acquisition, number, epoch, sent));
                if is_safe {
                    state.grants.insert(grant.id.clone(), grant.clone());
                    return Ok(Some(Arc::new(RedisHold { state: state.clone(), grant })));
                }
                state.try_release(&grant).await;
                return Err(Error::new(
                    ErrorKind::LockAcquireFailed,
                    format!("fewer than {} replicas confirmed in time", state.config.wait_replicas),
                ));
            }
            Ok((Answer::Queued(entry), ..)) => {
                waiter.wait(&entry, &acquisition.wait).await;
                score = entry.score;
            }
            Ok((Answer::Refused, ..)) => return Ok(None),
            // A stop ends its waits and its session at the same time.
            Ok((Answer::SessionOver, ..)) if !waits => return Ok(None),
            Ok((Answer::SessionOver, ..)) => return Err(state.session_lost()),
            Err(error) => {
                if error.outcome() != Outcome::NotApplied || !score.is_empty() {
                    tokio::spawn(cancel(state.clone(), acquisition));
                }
                return Err(error);
            }
        }
    }
}

/// Cancels what the server may still know of an acquisition, for at most a time to live.
async fn cancel(state: Arc<State>, acquisition: Acquisition<LockKeys>) {
    let known = state.lease.timed_child(state.config.lock_timeout, Moment::now());
    let cancelling = || async {
        let answer = state.client.call(&attempt(&state, &acquisition, b"", false)).await?;
        if let Answer::Granted { number, epoch } = Answer::read(answer.value)? {
            let grant = granted(&state, &acquisition, number, epoch, Moment::now());
            state.client.call(&state.grant_request(Script::Release, &grant)).await?;
        }
        Ok(())
    };
    cancel_until_gone(&known, cancelling).await;
}

/// One attempt: `acquire.lua` lists the arguments as they are here.
fn attempt(state: &State, acquisition: &Acquisition<LockKeys>, score: &[u8], waits: bool) -> Cmd {
    let operation = acquisition.id.to_string();
    let session = state.id.to_string();
    let ttl = milliseconds(state.config.lock_timeout);
    let session_ttl = milliseconds(state.config.membership_timeout);
    let arguments = [
        operation.as_bytes(),
        scripts::mode(acquisition.mode),
        session.as_bytes(),
        state.member.as_bytes(),
        ttl.as_bytes(),
        score,
        flag(waits),
        session_ttl.as_bytes(),
    ];
    state.lock_request(Script::Acquire, &acquisition.target, &arguments)
}

fn granted(
    state: &State,
    acquisition: &Acquisition<LockKeys>,
    number: u64,
    epoch: Vec<u8>,
    sent: Moment,
) -> Grant {
    let number_part = match acquisition.mode {
        Mode::Exclusive => format!(":{number}"),
        Mode::Shared => String::new(),
    };
    let mut value = format!("{}{number_part}:{}:", acquisition.id, state.id).into_bytes();
    value.extend(state.member.as_bytes());
    Grant {
        id: acquisition.id.to_string(),
        keys: acquisition.target.clone(),
        mode: acquisition.mode,
        token: FencingToken(number),
        lease: state.lease.timed_child(state.config.lock_timeout, sent),
        value,
        epoch,
    }
}

/// A grant renews the session too. That wakes everybody who waits, so not each time.
fn renew_session(state: &State, sent: Moment) {
    let soon = sent + state.config.membership_timeout * 8 / 10;
    if state.lease.deadline().is_some_and(|deadline| deadline < soon) {
        state.lease.renewed(sent);
    }
}

fn is_grant(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if parts.first() == Some(&Value::Int(1)))
}

/// The answer of `acquire.lua` to an attempt.
enum Answer {
    Granted { number: u64, epoch: Vec<u8> },
    Queued(QueueEntry),
    Refused,
    SessionOver,
}

impl Answer {
    fn read(value: Value) -> Result<Self> {
        let Value::Array(parts) = value else { return Err(Error::unexpected_answer()) };
        match &parts[..] {
            [Value::Int(1), Value::BulkString(number), Value::BulkString(epoch)] => {
                let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                let number = number.ok_or_else(Error::unexpected_answer)?;
                Ok(Self::Granted { number, epoch: epoch.clone() })
            }
            [Value::Int(0)] => Ok(Self::Refused),
            [Value::Int(2)] => Ok(Self::SessionOver),
            [
                Value::Int(0),
                Value::Int(before),
                Value::Int(ttl),
                Value::Int(ours),
                Value::BulkString(score),
            ] => Ok(Self::Queued(QueueEntry {
                score: score.clone(),
                before: u32::try_from(*before).unwrap_or(0),
                ttl: scripts::ttl(*ttl),
                is_ours: *ours == 1,
            })),
            _ => Err(Error::unexpected_answer()),
        }
    }
}

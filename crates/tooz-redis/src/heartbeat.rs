//! The renewal of everything in one round trip: the signs of life, the memberships, the locks.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tooz_core::kit::locked;
use tooz_core::{Error, ErrorKind, GroupId, Loss, MemberId, Moment, OperationId, Outcome, Result};

use crate::config::Config;
use crate::scripts::{Script, flag, milliseconds};
use crate::state::{ClockReading, State};

/// How many locks one script renews: the server does nothing else while a script runs.
const CHUNK: usize = 250;

/// How far the server's clock may deviate from ours between two renewals, in seconds.
const CLOCKS: f64 = 1.0;

/// The signs of life of a session and of its member.
pub(crate) fn signs_of_life(
    config: &Config,
    (session, member): (OperationId, &MemberId),
    groups: &[GroupId],
    is_first: bool,
) -> Cmd {
    let mut keys = vec![config.keys.session(session), config.keys.heartbeat(member)];
    for group in groups {
        keys.extend([config.keys.group(group), config.keys.group_companion(group)]);
    }
    let (session, ttl) = (session.to_string(), milliseconds(config.membership_timeout));
    let arguments = [session.as_bytes(), member.as_bytes(), ttl.as_bytes(), flag(is_first)];
    Script::Heartbeat.call(&keys, arguments)
}

pub(crate) async fn renew(state: &Arc<State>) -> Result<()> {
    let config = &state.config;
    let (groups, memberships): (Vec<_>, Vec<_>) = state.memberships.entries().into_iter().unzip();
    let grants = state.grants.values();
    let mut requests = vec![signs_of_life(config, (state.id, &state.member), &groups, false)];
    for chunk in grants.chunks(CHUNK) {
        let mut keys: Vec<&[u8]> = Vec::new();
        let mut arguments = vec![milliseconds(config.lock_timeout).into_bytes()];
        for grant in chunk {
            let (renewed, spellings) = grant.keys.renewed_keys();
            keys.extend(renewed);
            arguments.push(spellings.to_string().into_bytes());
            arguments.extend(grant.proof().map(<[u8]>::to_vec));
        }
        requests.push(Script::Renew.call(keys, arguments));
    }
    if config.wait_replicas > 0 {
        requests.push(state.client.wait_command());
    }
    let (answers, sent) = state.client.call_all(&requests).await?;
    if config.wait_replicas > 0 {
        let Some(Value::Int(replicas)) = answers.last() else {
            return Err(Error::unexpected_answer());
        };
        // If such a replica took over, everything would end earlier than we believe.
        if *replicas < i64::from(config.wait_replicas) {
            return Err(Error::new(ErrorKind::TimedOut, "the renewal reached too few replicas")
                .outcome_is(Outcome::Unknown));
        }
    }
    let mut answers = answers.iter();
    let session = numbers(answers.next().ok_or_else(Error::unexpected_answer)?)?;
    let flags = answers.take(grants.len().div_ceil(CHUNK)).map(numbers);
    let flags = flags.collect::<Result<Vec<_>>>()?.concat();
    for (grant, is_ours) in grants.into_iter().zip(flags) {
        if is_ours == 1 {
            grant.lease.renewed(sent);
            continue;
        }
        grant.lease.lose(Loss::Taken);
        state.grants.remove(&grant.id);
        // The next in the queue gets what is nobody's any more: its expiry notified nobody.
        let state = state.clone();
        tokio::spawn(async move { state.try_release(&grant).await });
    }
    if session.first() != Some(&1) {
        return Err(state.session_lost());
    }
    let [_, clock, present @ ..] = &session[..] else { return Err(Error::unexpected_answer()) };
    compare_clocks(state, ClockReading { milliseconds: *clock, sent, answered: Moment::now() });
    for (membership, present) in memberships.iter().zip(present) {
        if *present == 0 {
            membership.lease.lose(Loss::Taken);
        }
    }
    state.lease.renewed(sent);
    Ok(())
}

/// The numbers that an array of a script's answer consists of.
fn numbers(value: &Value) -> Result<Vec<i64>> {
    let Value::Array(values) = value else { return Err(Error::unexpected_answer()) };
    let number = |value: &Value| match value {
        Value::Int(number) => Ok(*number),
        _ => Err(Error::unexpected_answer()),
    };
    values.iter().map(number).collect()
}

/// Warns if the server's clock ran differently from ours since the last renewal. What expires at
/// the server expires by that clock.
fn compare_clocks(state: &State, now: ClockReading) {
    let Some(last) = locked(&state.clock).replace(now) else { return };
    let between = |from: Moment, to: Moment| from.elapsed().saturating_sub(to.elapsed());
    let ours = (between(last.answered, now.sent), between(last.sent, now.answered));
    let jump = jump((now.milliseconds - last.milliseconds) as f64 / 1000.0, ours);
    if jump.abs() > CLOCKS {
        tracing::warn!(
            seconds = jump,
            "the server's clock jumped: what it keeps expires that much too early or too late"
        );
    }
}

/// How many seconds a clock got ahead of ours, when the time that it says has passed is
/// compared with the least and the most that have.
fn jump(theirs: f64, (least, most): (Duration, Duration)) -> f64 {
    theirs - theirs.clamp(least.as_secs_f64(), most.max(least).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_what_no_slow_answer_explains() {
        let ours = (Duration::from_secs(9), Duration::from_secs(11));
        for (theirs, expected) in [(10.0, 0.0), (11.0, 0.0), (71.0, 60.0), (-51.0, -60.0)] {
            assert_eq!(jump(theirs, ours), expected, "{theirs}");
        }
    }
}

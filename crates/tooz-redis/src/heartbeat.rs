//! The renewal of everything in one round trip: the beat, the memberships, the locks.

use redis::{Cmd, Value};
use tooz_core::{Error, ErrorKind, GroupId, Hold, Loss, MemberId, OperationId, Outcome, Result};

use crate::config::Config;
use crate::errors::odd_answer;
use crate::scripts::Script;
use crate::session::{Life, milliseconds, numbers};

/// How many locks one script renews: the server does nothing else while a script runs.
const CHUNK: usize = 250;

/// The request for a beat.
pub(crate) fn beat(
    config: &Config,
    (session, member): (OperationId, &MemberId),
    groups: &[GroupId],
    first: bool,
) -> Cmd {
    let mut keys = vec![config.keys.session(session), config.keys.beat(member)];
    keys.extend(
        groups
            .iter()
            .flat_map(|group| [config.keys.group(group), config.keys.group_companion(group)]),
    );
    let (life, session) = (milliseconds(config.membership_timeout), session.to_string());
    let first: &[u8] = if first { b"1" } else { b"0" };
    Script::Beat.call(&keys, [session.as_bytes(), member.as_bytes(), life.as_bytes(), first])
}

pub(crate) async fn renew(life: &Life) -> Result<()> {
    let config = &life.config;
    let (groups, memberships): (Vec<_>, Vec<_>) = life.memberships().into_iter().unzip();
    let holds = life.holds();
    let mut commands = vec![beat(config, (life.id, &life.member), &groups, false)];
    for chunk in holds.chunks(CHUNK) {
        let mut keys: Vec<&[u8]> = Vec::new();
        let mut arguments = vec![milliseconds(config.lock_timeout).into_bytes()];
        for hold in chunk {
            let (renewed, spellings) = hold.renewed_keys();
            keys.extend(renewed);
            arguments.push(spellings.to_string().into_bytes());
            arguments.extend(hold.proof());
        }
        commands.push(Script::Renew.call(keys, arguments));
    }
    if config.wait_replicas > 0 {
        commands.push(life.link.wait_command());
    }
    let (answers, sent) = life.link.call_all(&commands).await?;
    if config.wait_replicas > 0 {
        let Some(Value::Int(replicas)) = answers.last() else { return Err(odd_answer()) };
        // A replica that took over would let it all end earlier than we would believe.
        if *replicas < i64::from(config.wait_replicas) {
            return Err(Error::new(ErrorKind::TimedOut, "the renewal reached too few replicas")
                .outcome_is(Outcome::Unknown));
        }
    }
    let mut answers = answers.iter();
    let beaten = numbers(answers.next().ok_or_else(odd_answer)?)?;
    let flags = answers.take(holds.len().div_ceil(CHUNK)).map(numbers);
    let flags = flags.collect::<Result<Vec<_>>>()?.concat();
    for (hold, ours) in holds.iter().zip(flags) {
        if ours == 1 {
            hold.lease().renewed(sent);
        } else {
            hold.lease().lose(Loss::Taken);
            life.remove_hold(hold.id());
            hold.pass_on();
        }
    }
    if beaten.first() != Some(&1) {
        return Err(life.forgotten());
    }
    let [_, clock, present @ ..] = &beaten[..] else { return Err(odd_answer()) };
    life.compare_clocks(*clock, sent);
    for (membership, present) in memberships.iter().zip(present) {
        if *present == 0 {
            membership.lose(Loss::Taken);
        }
    }
    life.lease.renewed(sent);
    Ok(())
}

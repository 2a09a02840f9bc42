//! Locks and terms: one queue each, on the server. See `scripts/prize.lua`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use redis::{Cmd, Value};
use tooz_core::{
    Acquisition, Error, ErrorKind, FencingToken, Hold, Lease, LockName, Locks, Mode, Moment,
    OperationId, Outcome, Release, Result, Waiting, async_trait,
};

use crate::errors::odd_answer;
use crate::keys::{self, Prize};
use crate::push::Wake;
use crate::scripts::Script;
use crate::session::{Life, RedisSession, milliseconds, random_fraction};

#[async_trait]
impl Locks for RedisSession {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let Acquisition { id, target, mode, wait: waiting, .. } = acquisition;
        keys::check_lock(&target)?;
        let prize = self.0.keys().lock(&target);
        acquire(&self.0, Attempt { id, prize, mode, waiting }).await
    }

    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        keys::check_lock(name)?;
        take_away(&self.0, &self.0.keys().lock(name)).await
    }
}

/// How long a waiter has to answer when it was given the lock: `ANSWER` in `scripts/prize.lua`.
const ANSWER: Duration = Duration::from_millis(700);

/// What a clock's tick and the way to the server may cost.
const SLACK: Duration = Duration::from_millis(5);

/// One acquisition.
pub(crate) struct Attempt {
    pub(crate) id: OperationId,
    pub(crate) prize: Prize,
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
}

/// What the server says to an attempt.
enum Answer {
    Granted {
        number: u64,
        epoch: Vec<u8>,
    },
    Queued(Place),
    Refused,
    /// The server forgot the session.
    Over,
}

/// A place in the queue.
struct Place {
    before: u32,
    /// How long what is in the way lives unless it is renewed; `None` if for ever.
    life: Option<Duration>,
    /// Whether one of ours has it, who wakes us.
    is_ours: bool,
    place: Vec<u8>,
}

/// One round trip if it is free; one more after the wait, to see what the push was about.
pub(crate) async fn acquire(life: &Arc<Life>, attempt: Attempt) -> Result<Option<Arc<dyn Hold>>> {
    let mut waiter = life.listeners.add_waiter(attempt.id);
    let mut place = Vec::new();
    loop {
        let wait = !attempt.waiting.is_over();
        let command = attempt.command(life, &place, wait);
        let answer = match life.link.call_replicated(&command, is_grant).await {
            Ok(Err(closed)) => {
                life.link.tell(&closed);
                if !wait {
                    if !place.is_empty() {
                        let life = life.clone();
                        tokio::spawn(async move { attempt.withdraw(&life).await });
                    }
                    return Ok(None);
                }
                tokio::select! {
                    () = closed.until.wait() => {}
                    () = attempt.waiting.over() => {}
                    _ = life.lease.lost() => return Err(life.forgotten()),
                }
                continue;
            }
            Ok(Ok((value, safe, sent))) => Answer::read(value).map(|value| (value, safe, sent)),
            Err(error) => Err(error),
        };
        match answer {
            Ok((Answer::Granted { number, epoch }, safe, sent)) => {
                let hold = attempt.hold(life, number, epoch, sent);
                if safe {
                    life.add_hold(&hold);
                    return Ok(Some(hold));
                }
                take_back(life, hold.release_command()).await;
                return Err(Error::new(
                    ErrorKind::LockAcquireFailed,
                    format!("not on {} replicas in time", life.config.wait_replicas),
                ));
            }
            Ok((Answer::Queued(queued), ..)) => {
                let mut until = queued.look_again();
                place = queued.place;
                loop {
                    tokio::select! {
                        wake = waiter.woken() => match wake {
                            Wake::Now => break,
                            Wake::Overdue => until = Moment::now() + ANSWER + SLACK * 4,
                        },
                        () = until.wait() => break,
                        () = attempt.waiting.over() => break,
                    }
                }
            }
            Ok((Answer::Refused, ..)) => return Ok(None),
            // A stop ends its waits and its session at the same time.
            Ok((Answer::Over, ..)) if !wait => return Ok(None),
            Ok((Answer::Over, ..)) => return Err(life.forgotten()),
            Err(error) => {
                if error.outcome() != Outcome::NotApplied || !place.is_empty() {
                    let (life, attempt) = (life.clone(), attempt);
                    tokio::spawn(async move { attempt.withdraw(&life).await });
                }
                return Err(error);
            }
        }
    }
}

fn prize_call(life: &Life, prize: &Prize, script: Script, arguments: &[&[u8]]) -> Cmd {
    let (counter, session) = (life.keys().counter(), life.keys().session(life.id));
    let beat = life.keys().beat(&life.member);
    script.call(prize.keys(&counter, &session, &beat), arguments)
}

fn is_grant(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if parts.first() == Some(&Value::Int(1)))
}

/// Undoes what may have been done, as far as the server can be reached.
async fn take_back(life: &Life, command: Cmd) {
    if let Err(error) = life.link.call(&command).await {
        tracing::debug!(%error, "what is left of an acquisition is left to expire");
    }
}

pub(crate) async fn take_away(life: &Life, prize: &Prize) -> Result<bool> {
    let arguments = [&life.keys().session_channels()[..], &prize.watchers];
    let command = prize_call(life, prize, Script::Break, &arguments);
    let answer = life.link.call(&command).await?;
    match answer.value {
        // A repeated request may find undone what the first has done.
        Value::Int(broken) => Ok(broken == 1 || answer.again),
        _ => Err(odd_answer()),
    }
}

impl Attempt {
    fn command(&self, life: &Life, place: &[u8], wait: bool) -> Cmd {
        prize_call(
            life,
            &self.prize,
            Script::Acquire,
            &[
                &life.keys().session_channels()[..],
                &self.prize.watchers,
                self.id.to_string().as_bytes(),
                mode(self.mode),
                life.id.to_string().as_bytes(),
                life.member.as_bytes(),
                milliseconds(life.config.lock_timeout).as_bytes(),
                place,
                if wait { b"1" } else { b"0" },
                milliseconds(life.config.membership_timeout).as_bytes(),
            ],
        )
    }

    fn hold(&self, life: &Arc<Life>, number: u64, epoch: Vec<u8>, sent: Moment) -> Arc<RedisHold> {
        let number_part = match self.mode {
            Mode::Exclusive => format!(":{number}"),
            Mode::Shared => String::new(),
        };
        let mut value = format!("{}{number_part}:{}:", self.id, life.id).into_bytes();
        value.extend(life.member.as_bytes());
        Arc::new(RedisHold {
            life: life.clone(),
            id: self.id,
            prize: self.prize.clone(),
            mode: self.mode,
            value,
            epoch,
            token: FencingToken(number),
            lease: life.lease_of_lock(sent),
            released: AtomicBool::new(false),
        })
    }

    /// Takes the attempt back while the server may know of it, which is a time to live at most.
    async fn withdraw(self, life: &Arc<Life>) {
        let end = Moment::now() + life.config.lock_timeout;
        while !end.has_passed() {
            let command = self.command(life, b"", false);
            match life.link.call(&command).await.and_then(|answer| Answer::read(answer.value)) {
                Ok(Answer::Granted { number, epoch }) => {
                    let hold = self.hold(life, number, epoch, Moment::now());
                    return take_back(life, hold.release_command()).await;
                }
                Ok(_) => return,
                Err(error) if error.kind() == ErrorKind::SessionLost => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

fn mode(mode: Mode) -> &'static [u8] {
    match mode {
        Mode::Exclusive => b"x",
        Mode::Shared => b"s",
    }
}

impl Answer {
    fn read(value: Value) -> Result<Self> {
        let Value::Array(parts) = value else { return Err(odd_answer()) };
        match &parts[..] {
            [Value::Int(1), Value::BulkString(number), Value::BulkString(epoch)] => {
                let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                let number = number.ok_or_else(odd_answer)?;
                Ok(Self::Granted { number, epoch: epoch.clone() })
            }
            [Value::Int(0)] => Ok(Self::Refused),
            [Value::Int(2)] => Ok(Self::Over),
            [
                Value::Int(0),
                Value::Int(before),
                Value::Int(life),
                Value::Int(ours),
                Value::BulkString(place),
            ] => Ok(Self::Queued(Place {
                before: u32::try_from(*before).unwrap_or(0),
                life: u64::try_from(*life).ok().map(Duration::from_millis),
                is_ours: *ours == 1,
                place: place.clone(),
            })),
            _ => Err(odd_answer()),
        }
    }
}

impl Place {
    /// When to look again if nothing is pushed. The first in the queue looks when the holder's time
    /// is over, the others a little later each, should those before them be dead. A peer of another
    /// kind releases silently: then the first looks several times a second, and the others ever
    /// more rarely.
    fn look_again(&self) -> Moment {
        let step = Duration::from_millis(u64::from(self.before.min(4)) * 150);
        let jitter = Duration::from_millis(if self.before < 4 { 10 } else { 150 });
        let end = self.life.map(|life| life + SLACK + step + jitter.mul_f64(random_fraction()));
        let silent = match self.before {
            0 => Duration::from_millis(100) + Duration::from_millis(100).mul_f64(random_fraction()),
            before => Duration::from_secs(u64::from(before)),
        };
        Moment::now()
            + match end {
                Some(end) if self.is_ours => end,
                Some(end) => end.min(silent),
                None => silent,
            }
    }
}

/// A lock or a term that is ours.
pub(crate) struct RedisHold {
    life: Arc<Life>,
    id: OperationId,
    prize: Prize,
    mode: Mode,
    /// The value of the lock's keys, or the reader among the readers.
    value: Vec<u8>,
    epoch: Vec<u8>,
    token: FencingToken,
    lease: Lease,
    /// Whether a release was sent whose answer was lost.
    released: AtomicBool,
}

impl RedisHold {
    pub(crate) fn id(&self) -> OperationId {
        self.id
    }

    pub(crate) fn renewed_keys(&self) -> (impl Iterator<Item = &[u8]>, usize) {
        self.prize.renewed_keys()
    }

    /// What shows that it is ours.
    pub(crate) fn proof(&self) -> [Vec<u8>; 3] {
        [mode(self.mode).to_vec(), self.value.clone(), self.epoch.clone()]
    }

    fn command(&self, script: Script) -> Cmd {
        let channels = self.life.keys().session_channels();
        let [mode, value, epoch] = self.proof();
        let arguments = [&channels[..], &self.prize.watchers, &mode, &value, &epoch];
        prize_call(&self.life, &self.prize, script, &arguments)
    }

    pub(crate) fn release_command(&self) -> Cmd {
        self.command(Script::Release)
    }

    /// Sees to it that the next in the queue gets what is ours no more, and nobody's: its expiry
    /// told nobody.
    pub(crate) fn pass_on(&self) {
        let (life, command) = (self.life.clone(), self.release_command());
        tokio::spawn(async move { take_back(&life, command).await });
    }

    async fn ask(&self, command: &Cmd) -> Result<bool> {
        match self.life.link.call(command).await?.value {
            Value::Int(ours) => Ok(ours == 1),
            _ => Err(odd_answer()),
        }
    }
}

#[async_trait]
impl Hold for RedisHold {
    fn token(&self) -> FencingToken {
        self.token
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn verify(&self) -> Result<bool> {
        self.ask(&self.command(Script::Verify)).await
    }

    async fn release(&self) -> Result<Release> {
        self.life.remove_hold(self.id);
        // What a later try finds gone, the first one gave back, whose answer was lost.
        let again = self.released.load(Relaxed);
        let answer = self.life.link.call(&self.release_command()).await.inspect_err(|error| {
            self.released.fetch_or(error.outcome() != Outcome::NotApplied, Relaxed);
        })?;
        match answer.value {
            Value::Int(1) => Ok(Release::Released),
            Value::Int(_) if again || answer.again => Ok(Release::Released),
            Value::Int(_) => Ok(Release::WasLost),
            _ => Err(odd_answer()),
        }
    }
}

impl std::fmt::Debug for RedisHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisHold")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

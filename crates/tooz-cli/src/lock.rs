//! `tooz lock`: CMD under a lock, under several, or under a permit of a semaphore.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::Result;
use tooz::{Coordinator, ErrorKind, LockName, Mode, Wait};

use crate::child::{self, Ended};
use crate::connect::{self, Target, bytes};
use crate::grammar::time;
use crate::held::{Held, Wanted};
use crate::output;
use crate::signals::Signals;
use crate::{LOST, NOT_HAD};

/// Runs CMD while holding a lock
///
/// CMD sees TOOZ_FENCING_TOKEN, a number that rises with every acquisition: let what the lock
/// protects refuse a number lower than it has seen. TOOZ_FENCE is that number with the lock's name
/// digested, as the crate tooz-fence reads it: curl -H "Tooz-Fencing-Token: $TOOZ_FENCE". CMD also
/// sees TOOZ_LOCK, TOOZ_URL (without a password) and TOOZ_MEMBER_ID. Everything after NAME that is not an option is CMD.
///
/// With --also, several locks are held together, and none before all are free: TOOZ_LOCK_1,
/// TOOZ_FENCING_TOKEN_1 and TOOZ_FENCE_1 are those of NAME, TOOZ_LOCK_2 and so on those of the first
/// --also. With --permits, up to that many commands run at once: TOOZ_SLOT is a number
/// from 0 that none of the others has, and the token is that of the slot.
///
/// Exit code: that of CMD; 75 if the lock was not acquired; 76 if it was lost before CMD ended; 126
/// or 127 if CMD cannot be run; 1 for any other error. If a signal ended CMD, the same signal ends
/// this command (128 + n in a shell). Before it ends, the release of the lock is confirmed.
///
/// A signal is passed on to CMD and what it started, unless it was sent to the whole job or control
/// group and so has reached them already. A signal that was ignored at the start stays ignored. While
/// the command waits for the lock or releases it, the first signal asks for an orderly end, and the
/// second ends it at once. A job that is stopped (Ctrl-Z) keeps its lock.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The lock; write -- before a name that begins with -
    pub(crate) name: OsString,

    /// Another lock, to be held together with NAME; may be given several times
    #[arg(long, value_name = "NAME")]
    also: Vec<OsString>,

    /// NAME is a semaphore of so many permits, of which CMD needs one; all give the same number
    #[arg(long, value_name = "N", conflicts_with_all = ["also", "shared"])]
    permits: Option<u32>,

    /// Holds it together with other shared holders
    #[arg(long)]
    shared: bool,

    /// Does not wait: exits with 75 if somebody else holds it
    #[arg(short = 'n', long = "try", visible_aliases = ["nonblock"], conflicts_with = "wait")]
    no_wait: bool,

    /// Waits at most this long, then exits with 75
    #[arg(short, long, visible_aliases = ["timeout"], value_name = "TIME", value_parser = time)]
    wait: Option<Duration>,

    /// Holds it that long, even if CMD ends before: this command stays alive until then. For a job
    /// that many hosts start at the same time: with --try, and longer than their clocks differ. A
    /// signal ends the rest of the time
    #[arg(long, value_name = "TIME", value_parser = time)]
    at_least: Option<Duration>,

    /// How long CMD has between SIGTERM and SIGKILL when the lock is lost
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10")]
    grace: Duration,

    /// Lets CMD see the password in TOOZ_URL too
    #[arg(long)]
    pass_url: bool,

    /// The command to run
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl Args {
    fn wanted(&self) -> Wanted {
        let name = LockName::from(bytes(&self.name));
        match self.permits {
            Some(permits) => Wanted::Permit(name, permits),
            None if self.also.is_empty() => Wanted::Lock(name),
            None => {
                let also = self.also.iter().map(|name| LockName::from(bytes(name)));
                Wanted::All(std::iter::once(name).chain(also).collect())
            }
        }
    }

    /// What CMD sees of what is held.
    fn variables(&self, held: &Held) -> Vec<(String, OsString)> {
        let names = std::iter::once(&self.name).chain(&self.also);
        let mut variables = Vec::new();
        for (place, (name, ownership)) in names.zip(held.ownerships()).enumerate() {
            let (token, fence) = (ownership.fencing_token().to_string(), ownership.fence());
            let mut add = |suffix: &str| {
                variables.push((format!("TOOZ_LOCK{suffix}"), name.clone()));
                variables.push((format!("TOOZ_FENCING_TOKEN{suffix}"), token.clone().into()));
                variables.push((format!("TOOZ_FENCE{suffix}"), fence.to_string().into()));
            };
            if place == 0 {
                add("");
            }
            if !self.also.is_empty() {
                add(&format!("_{}", place + 1));
            }
        }
        if let Held::Permit(permit) = held {
            variables.push(("TOOZ_SLOT".into(), permit.slot().to_string().into()));
        }
        variables
    }
}

pub(crate) async fn run(target: &Target, args: Args, mut signals: Signals) -> Result<u8> {
    target.name_default()?;
    let coordinator = target.coordinator()?;
    connect::report_session(&coordinator);
    signals.interrupt(coordinator.start()).await??;
    let result = hold(&coordinator, target, &args, &mut signals).await;
    signals.end(connect::stop(&coordinator)).await?;
    result
}

async fn hold(
    coordinator: &Coordinator,
    target: &Target,
    args: &Args,
    signals: &mut Signals,
) -> Result<u8> {
    let mode = if args.shared { Mode::Shared } else { Mode::Exclusive };
    let wait = match args.wait {
        _ if args.no_wait => Wait::Try,
        Some(time) => Wait::For(time),
        None => Wait::Forever,
    };
    let wanted = args.wanted();
    let what = wanted.to_string();
    let acquiring = wanted.acquire(coordinator, mode, wait);
    let acquiring = connect::tell_of_wait(coordinator, &what, acquiring);
    let acquired = signals.interrupt(acquiring).await?;
    let Some(held) = acquired.inspect_err(connect::expect_trouble)? else {
        output::problem(ErrorKind::LockAcquireFailed, &wanted.is_held_by_others());
        return Ok(NOT_HAD);
    };

    let began = Instant::now();
    let mut variables = args.variables(&held);
    variables.push(("TOOZ_URL".into(), target.url_for_command(args.pass_url)?.into()));
    variables.push(("TOOZ_MEMBER_ID".into(), connect::argument(coordinator.member_id())));
    let ownerships = held.ownerships();
    let ended = child::run(&args.command, &variables, &ownerships, args.grace, signals).await;
    let mut held_to_the_end = false;
    if let (Ok(Ended::Exited(_)), Some(time)) = (&ended, args.at_least) {
        let rest = time.saturating_sub(began.elapsed());
        held_to_the_end = stay(rest, &what, &held, signals).await;
    }
    let deadline = held.deadline();
    let lost = held.lost_one(&wanted);
    let released = signals.end(held.release()).await?;
    match (ended?, released) {
        (Ended::Lost(loss), _) => {
            output::problem(ErrorKind::LockLost, &format!("{lost} was lost: {loss}"));
            Ok(LOST)
        }
        // The backend tells about the time before, unless its answer came so late that the lock would
        // have been lost anyway: what happened after CMD's end does not concern CMD.
        (Ended::Exited(_), Err(error))
            if error.kind() == ErrorKind::LockLost
                && !held_to_the_end
                && deadline.is_none_or(|end| Instant::now() < end) =>
        {
            let lost = format!("{lost} was lost before {:?} ended", args.command[0]);
            output::problem(ErrorKind::LockLost, &lost);
            Ok(LOST)
        }
        (Ended::Exited(code), Ok(())) => Ok(code?),
        (Ended::Exited(code), Err(error)) if error.kind() == ErrorKind::LockLost => {
            output::note(&format!("{lost} was lost after {:?} had ended", args.command[0]));
            Ok(code?)
        }
        // The lock was held until CMD ended, so CMD's exit code counts.
        (Ended::Exited(code), Err(error)) => {
            output::note(&output::chain(&error));
            Ok(code?)
        }
    }
}

/// Holds on for the rest of the time, unless that is lost or a signal asks for the end. Whether the
/// backend says that all was held when CMD ended.
async fn stay(rest: Duration, what: &str, held: &Held, signals: &mut Signals) -> bool {
    if rest.is_zero() || signals.have_asked() {
        return false;
    }
    let ownerships = held.ownerships();
    let mut held_to_the_end = false;
    let staying = async {
        for ownership in &ownerships {
            // If it is not ours, its release says so; if it cannot be told, we believe that it is.
            if let Ok(false) = ownership.verify().await {
                return;
            }
        }
        held_to_the_end = ownerships.iter().all(|ownership| ownership.loss().is_none());
        output::note(&format!("holds {what} for another {:.1} s", rest.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            _ = child::lost(&ownerships) => {}
        }
    };
    if let Err(interrupted) = signals.interrupt(staying).await {
        output::note(&format!("{interrupted}: releases {what} before the time is over"));
    }
    held_to_the_end
}

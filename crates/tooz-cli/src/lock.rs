//! `tooz lock`: CMD under a lock.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::Result;
use tooz::{Coordinator, ErrorKind, LockName, Mode, Wait};

use crate::child::{self, Ended};
use crate::connect::{self, Target, bytes};
use crate::grammar::time;
use crate::output;
use crate::signals::Signals;
use crate::{LOST, NOT_HAD};

/// Runs CMD while holding a lock
///
/// CMD sees TOOZ_FENCING_TOKEN, a number that rises with every acquisition: let what the lock
/// protects refuse a number lower than it has seen. CMD also sees TOOZ_LOCK, TOOZ_URL (without a
/// password) and TOOZ_MEMBER_ID. Everything after NAME that is not an option is CMD.
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

    /// Holds it together with other shared holders
    #[arg(long)]
    shared: bool,

    /// Does not wait: exits with 75 if somebody else holds it
    #[arg(short = 'n', long = "try", visible_aliases = ["nonblock"], conflicts_with = "wait")]
    no_wait: bool,

    /// Waits at most this long, then exits with 75
    #[arg(short, long, visible_aliases = ["timeout"], value_name = "TIME", value_parser = time)]
    wait: Option<Duration>,

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
    let name = LockName::from(bytes(&args.name));
    let lock = coordinator.lock(&name)?;
    let mode = if args.shared { Mode::Shared } else { Mode::Exclusive };
    let wait = match args.wait {
        _ if args.no_wait => Wait::Try,
        Some(time) => Wait::For(time),
        None => Wait::Forever,
    };
    let what = format!("the lock {name}");
    let acquiring = lock.acquire_with(mode, wait);
    let acquiring = connect::tell_of_wait(coordinator, &what, acquiring);
    let acquired = signals.interrupt(acquiring).await?;
    let Some(guard) = acquired.inspect_err(connect::expect_trouble)? else {
        let held = format!("{what} is held by somebody else");
        output::problem(ErrorKind::LockAcquireFailed, &held);
        return Ok(NOT_HAD);
    };

    let variables = [
        ("TOOZ_FENCING_TOKEN", guard.fencing_token().to_string().into()),
        ("TOOZ_LOCK", args.name.clone()),
        ("TOOZ_URL", target.url_for_command(args.pass_url)?.into()),
        ("TOOZ_MEMBER_ID", connect::argument(coordinator.member_id())),
    ];
    let ended = child::run(&args.command, &variables, Some(&*guard), args.grace, signals).await;
    let deadline = guard.deadline();
    let released = signals.end(guard.release()).await?;
    match (ended?, released) {
        (Ended::Lost(loss), _) => {
            output::problem(ErrorKind::LockLost, &format!("{what} was lost: {loss}"));
            Ok(LOST)
        }
        // The backend tells about the time before, unless its answer came so late that the lock would
        // have been lost anyway: what happened after CMD's end does not concern CMD.
        (Ended::Exited(_), Err(error))
            if error.kind() == ErrorKind::LockLost
                && deadline.is_none_or(|end| Instant::now() < end) =>
        {
            let lost = format!("{what} was lost before {:?} ended", args.command[0]);
            output::problem(ErrorKind::LockLost, &lost);
            Ok(LOST)
        }
        (Ended::Exited(code), Ok(())) => Ok(code?),
        (Ended::Exited(code), Err(error)) if error.kind() == ErrorKind::LockLost => {
            output::note(&format!("{what} was lost after {:?} had ended", args.command[0]));
            Ok(code?)
        }
        // The lock was held until CMD ended, so CMD's exit code counts.
        (Ended::Exited(code), Err(error)) => {
            output::note(&output::chain(&error));
            Ok(code?)
        }
    }
}

//! `tooz elect`: runs CMD only while leading.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use tooz::{Coordinator, GroupId, Leadership};

use crate::LOST;
use crate::child::{self, Ended};
use crate::connect::{self, Target, bytes};
use crate::grammar::time;
use crate::output;
use crate::signals::Signals;

/// How long to wait before another campaign, when one fails because the backend is out of reach.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs CMD only while leading a group
///
/// Joins the group, which is created if it does not exist, and campaigns. While this member leads,
/// CMD runs; it sees TOOZ_FENCING_TOKEN, which rises with every term, TOOZ_FENCE (see tooz lock),
/// TOOZ_GROUP, TOOZ_URL and TOOZ_MEMBER_ID. When CMD ends by itself, the member resigns and leaves.
///
/// Exit code: that of CMD; 76 if the term was lost, with --once; 126 or 127 if CMD cannot be run; 1
/// for any other error. If a signal ended CMD, the same signal ends this command. Signals are passed
/// on to CMD, and end the wait for the term, as with tooz lock.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group; write -- before a name that begins with -
    pub(crate) group: OsString,

    /// Ends when the term is lost, instead of campaigning again
    #[arg(long)]
    once: bool,

    /// How long CMD has between SIGTERM and SIGKILL when the term is lost
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
    let result = rule(&coordinator, target, &args, &mut signals).await;
    // This also leaves the group.
    signals.end(connect::stop(&coordinator)).await?;
    result
}

/// One term after another.
async fn rule(
    coordinator: &Coordinator,
    target: &Target,
    args: &Args,
    signals: &mut Signals,
) -> Result<u8> {
    let group = GroupId::from(bytes(&args.group));
    signals.interrupt(coordinator.join_group_create(&group, &())).await??;
    let what = format!("the term in {group}");
    let campaign = coordinator.campaign(&group);
    let campaign = connect::tell_of_wait(coordinator, &what, campaign);
    let mut term = signals.interrupt(campaign).await??;
    loop {
        output::note(&format!("leading {group}, with the token {}", term.fencing_token()));
        let variables = [
            ("TOOZ_FENCING_TOKEN", term.fencing_token().to_string().into()),
            ("TOOZ_FENCE", term.fence().to_string().into()),
            ("TOOZ_GROUP", args.group.clone()),
            ("TOOZ_URL", target.url_for_command(args.pass_url)?.into()),
            ("TOOZ_MEMBER_ID", connect::argument(coordinator.member_id())),
        ];
        let ended = child::run(&args.command, &variables, &[&*term], args.grace, signals).await;
        let stood_down = signals.end(term.resign()).await?;
        match ended? {
            Ended::Exited(code) => {
                if let Err(error) = stood_down {
                    output::note(&output::chain(&error));
                }
                return Ok(code?);
            }
            Ended::Lost(loss) => output::note(&format!("no longer leading {group}: {loss}")),
        }
        if args.once {
            return Ok(LOST);
        }
        let campaign = campaign_again(coordinator, &group);
        let campaign = connect::tell_of_wait(coordinator, &what, campaign);
        term = signals.interrupt(campaign).await??;
    }
}

/// A campaign that survives an outage of the backend.
async fn campaign_again(coordinator: &Coordinator, group: &GroupId) -> Result<Leadership> {
    loop {
        match coordinator.campaign(group).await {
            Err(error) if error.is_retryable() => output::note(&output::chain(&error)),
            result => return Ok(result?),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

//! `tooz join`: a member of a group.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tooz::{Coordinator, Events, GroupId, SessionEvent};

use crate::child::{self, Ended};
use crate::connect::{self, Target, bytes};
use crate::output::{self, Output};
use crate::signals::Signals;
use crate::stream::{self, text};

/// Is a member of a group while CMD runs, or until a signal
///
/// The group is created if it does not exist. With CMD, which sees TOOZ_GROUP, TOOZ_URL and
/// TOOZ_MEMBER_ID, signals are passed on and the exit code is CMD's, as with tooz lock. Without CMD,
/// it prints when it has joined, and when its session was lost or replaced; a signal ends it with
/// exit code 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group; write -- before a name that begins with -
    pub(crate) group: OsString,

    /// What the member publishes about itself
    #[arg(long, value_name = "JSON", value_parser = json_value, default_value = "null")]
    capabilities: serde_json::Value,

    /// Lets CMD see the password in TOOZ_URL too
    #[arg(long)]
    pass_url: bool,

    /// The command to run
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl Args {
    pub(crate) fn runs_a_command(&self) -> bool {
        !self.command.is_empty()
    }
}

fn json_value(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

pub(crate) async fn run(
    target: &Target,
    args: Args,
    out: Output,
    mut signals: Signals,
) -> Result<u8> {
    let coordinator = target.coordinator()?;
    connect::report_session(&coordinator);
    let session = coordinator.session_events();
    signals.interrupt(coordinator.start()).await??;
    let result = take_part(&coordinator, session, target, &args, &mut signals, out).await;
    // This also leaves the group.
    signals.end(connect::stop(&coordinator)).await?;
    result
}

async fn take_part(
    coordinator: &Coordinator,
    session: Events<SessionEvent>,
    target: &Target,
    args: &Args,
    signals: &mut Signals,
    out: Output,
) -> Result<u8> {
    let (group, member) = (GroupId::from(bytes(&args.group)), coordinator.member_id());
    signals.interrupt(coordinator.join_group_create(&group, &args.capabilities)).await??;
    if !args.runs_a_command() {
        let object = json!({"event": "joined", "member": output::id(member)});
        stream::line(out, &text("joined", format!("{member}  {group}")), object)?;
        tokio::select! {
            _ = signals.next() => {}
            ended = stream::follow_session(session, out) => ended?,
        }
        return Ok(0);
    }

    let variables = [
        ("TOOZ_GROUP", args.group.clone()),
        ("TOOZ_URL", target.url_for_command(args.pass_url)?.into()),
        ("TOOZ_MEMBER_ID", connect::argument(member)),
    ];
    // Nothing that CMD needs can be lost: the coordinator joins again by itself.
    match child::run(&args.command, &variables, &[], Duration::ZERO, signals).await? {
        Ended::Exited(code) => Ok(code?),
        Ended::Lost(_) => Ok(crate::LOST),
    }
}

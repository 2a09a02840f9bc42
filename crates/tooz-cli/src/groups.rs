//! `tooz groups`, `tooz members` and `tooz leader`: one query each.

use std::ffi::{OsStr, OsString};

use anyhow::Result;
use serde_json::json;
use tooz::GroupId;

use crate::connect::{Target, bytes};
use crate::output::{self, Output};
use crate::watch::{self, What};

/// Prints the groups: as text, one per line, or as a JSON array.
pub(crate) async fn groups(target: &Target, out: Output) -> Result<u8> {
    let groups = target.with(async |coordinator| Ok(coordinator.groups().await?)).await?;
    if out.json {
        let text =
            |group: &GroupId| group.as_str().map_or_else(|| group.to_string(), str::to_owned);
        out.value(&groups.iter().map(text).collect())?;
        return Ok(0);
    }
    for group in groups {
        out.line(&group.to_string())?;
    }
    Ok(0)
}

/// Prints the members with their capabilities: as text, one per line, or as a JSON array.
pub(crate) async fn members(target: &Target, group: &OsStr, out: Output) -> Result<u8> {
    let members = target
        .with(async |coordinator| Ok(coordinator.members_with_capabilities(bytes(group)).await?))
        .await?;
    if out.json {
        out.value(&members.iter().map(output::member).collect())?;
        return Ok(0);
    }
    for member in &members {
        out.line(&output::member_text(member))?;
    }
    Ok(0)
}

/// Prints who leads a group
///
/// The exit code is 1 if nobody does.
#[derive(Debug, clap::Args)]
pub(crate) struct LeaderArgs {
    /// The group
    #[arg(allow_hyphen_values = true)]
    group: OsString,

    /// Prints it again at each change, until a signal; then exits with 0
    #[arg(long)]
    watch: bool,
}

/// Prints the leader, if there is one.
pub(crate) async fn leader(target: &Target, args: LeaderArgs, out: Output) -> Result<u8> {
    if args.watch {
        return watch::run(target, &args.group, What::Leader, out).await;
    }
    let group = bytes(&args.group);
    let leader = target.with(async |coordinator| Ok(coordinator.leader(group).await?)).await?;
    match &leader {
        leader if out.json => out.value(&json!({"leader": leader.as_ref().map(output::id)}))?,
        Some(leader) => out.line(&leader.to_string())?,
        None => output::note(&format!("nobody leads {}", GroupId::from(group))),
    }
    Ok(u8::from(leader.is_none()))
}

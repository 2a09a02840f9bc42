//! `tooz watch`: the events of a group.

use std::ffi::OsStr;
use std::io;

use anyhow::{Result, bail};
use serde_json::json;
use tooz::{Coordinator, GroupEvent, Member};

use crate::connect::{self, Target, bytes};
use crate::output::{self, Output};
use crate::signals::Signals;

/// Prints events until a signal, which is the usual end and no failure.
pub(crate) async fn run(target: &Target, group: &OsStr, out: Output) -> Result<u8> {
    let mut signals = Signals::listen(None)?;
    let coordinator = target.coordinator()?;
    connect::report_session(&coordinator);
    signals.interrupt(coordinator.start()).await??;
    let watched = signals.interrupt(print_events(&coordinator, bytes(group), out)).await;
    signals.end(connect::stop(&coordinator)).await?;
    match watched {
        Ok(ended) => ended.map(|()| 0),
        Err(_signal) => Ok(0),
    }
}

async fn print_events(coordinator: &Coordinator, group: &[u8], out: Output) -> Result<()> {
    let mut events = coordinator.watch_group(group).await?;
    while let Some(event) = events.next().await {
        match out.json {
            true => print_json(&event, out)?,
            false => print_text(&event, out)?,
        }
    }
    bail!("the stream of events ended");
}

fn print_json(event: &GroupEvent, out: Output) -> io::Result<()> {
    let of_member = |event: &str, member: &Member| {
        let mut object = output::member(member);
        object["event"] = json!(event);
        object
    };
    out.value(&match event {
        GroupEvent::Snapshot(members) => {
            let members: Vec<_> = members.iter().map(output::member).collect();
            json!({"event": "snapshot", "members": members})
        }
        GroupEvent::Joined(member) => of_member("joined", member),
        GroupEvent::Left(member) => of_member("left", member),
        GroupEvent::Updated(member) => of_member("updated", member),
        GroupEvent::Gap => json!({"event": "gap"}),
        GroupEvent::Rejoined => json!({"event": "rejoined"}),
        _ => return Ok(()),
    })
}

fn print_text(event: &GroupEvent, out: Output) -> io::Result<()> {
    let of_member =
        |event: &str, member| out.line(&format!("{event:<8} {}", output::member_text(member)));
    match event {
        GroupEvent::Snapshot(members) => {
            out.line(&format!("members  {}", members.len()))?;
            members.iter().try_for_each(|member| of_member("member", member))
        }
        GroupEvent::Joined(member) => of_member("joined", member),
        GroupEvent::Left(member) => of_member("left", member),
        GroupEvent::Updated(member) => of_member("updated", member),
        GroupEvent::Gap => out.line("gap      events may have been missed"),
        GroupEvent::Rejoined => out.line("rejoined"),
        _ => Ok(()),
    }
}

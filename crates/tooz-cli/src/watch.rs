//! `tooz watch` and `tooz leader --watch`: what happens in a group.

use std::ffi::OsStr;
use std::io;

use anyhow::Result;
use serde_json::json;
use tooz::{Coordinator, Events, GroupEvent, Member, MemberId, SessionEvent};

use crate::connect::{self, Target, bytes};
use crate::output::{self, Output};
use crate::signals::Signals;
use crate::stream::{self, text};

/// What to watch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Members,
    Leader,
}

/// Prints events until a signal, which is the usual end, not a failure.
pub(crate) async fn run(target: &Target, group: &OsStr, what: What, out: Output) -> Result<u8> {
    let mut signals = Signals::listen(None)?;
    let coordinator = target.coordinator()?;
    connect::report_session(&coordinator);
    let session = coordinator.session_events();
    signals.interrupt(coordinator.start()).await??;
    let events = print_events(&coordinator, session, bytes(group), what, out);
    let watched = signals.interrupt(events).await;
    signals.end(connect::stop(&coordinator)).await?;
    match watched {
        Ok(ended) => ended.map(|()| 0),
        Err(_signal) => Ok(0),
    }
}

async fn print_events(
    coordinator: &Coordinator,
    session: Events<SessionEvent>,
    group: &[u8],
    what: What,
    out: Output,
) -> Result<()> {
    match what {
        What::Members => {
            let events = coordinator.watch_group(group).await?;
            stream::follow(events, session, out, |event| print(event, out)).await
        }
        What::Leader => {
            let leaders = coordinator.watch_leader(group).await?;
            stream::follow(leaders, session, out, |leader| print_leader(leader, out)).await
        }
    }
}

fn print_leader(leader: &Option<MemberId>, out: Output) -> io::Result<()> {
    let name = leader.as_ref().map_or("nobody".to_owned(), ToString::to_string);
    let object = json!({"event": "leader", "leader": leader.as_ref().map(output::id)});
    stream::line(out, &text("leader", name), object)
}

fn print(event: &GroupEvent, out: Output) -> io::Result<()> {
    let of_member = |event: &str, member: &Member| {
        let mut object = output::member(member);
        object["event"] = json!(event);
        stream::line(out, &text(event, output::member_text(member)), object)
    };
    match event {
        GroupEvent::Snapshot(members) if out.json => {
            let members: Vec<_> = members.iter().map(output::member).collect();
            stream::line(out, "", json!({"event": "snapshot", "members": members}))
        }
        GroupEvent::Snapshot(members) => {
            stream::line(out, &text("members", members.len()), json!({}))?;
            members.iter().try_for_each(|member| of_member("member", member))
        }
        GroupEvent::Joined(member) => of_member("joined", member),
        GroupEvent::Left(member) => of_member("left", member),
        GroupEvent::Updated(member) => of_member("updated", member),
        GroupEvent::Gap => {
            stream::line(out, &text("gap", "events may have been missed"), json!({"event": "gap"}))
        }
        GroupEvent::Rejoined => stream::line(out, "rejoined", json!({"event": "rejoined"})),
        _ => Ok(()),
    }
}

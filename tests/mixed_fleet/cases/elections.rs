//! Elections: both sides stand for one leadership.

use std::time::Duration;

use serde_json::json;

use super::{SOON, until};
use crate::mixed_fleet::arena::{Arena, Times};
use crate::mixed_fleet::peer::{Outcome, Peer, Side, must};

/// How long a campaign goes on that must not be won.
const IN_VAIN: Duration = Duration::from_secs(2);

/// Both join a group: the original's candidates are members.
fn candidates(arena: &Arena, times: Times) -> Outcome<(String, Peer, Peer)> {
    let (mut rust, mut python) = arena.both(times)?;
    let group = arena.name("group");
    python.on_group("create_group", &group)?;
    rust.on_group("join_plain", &group)?;
    python.on_group("join_plain", &group)?;
    Ok((group, rust, python))
}

/// While one side leads the other cannot, and then it can.
pub(super) fn one_leads(arena: &Arena) -> Outcome {
    let (group, mut rust, mut python) = candidates(arena, Times::Default)?;
    must!(rust.campaigns(&group, SOON)?, "nobody leads, and Rust is not elected");
    must!(!python.campaigns(&group, IN_VAIN)?, "Python is elected beside Rust");
    let was_own: bool = rust.ask("stand_down", json!({ "group": group }))?;
    must!(was_own, "Rust led no more");
    must!(python.campaigns(&group, SOON)?, "Rust stood down, and Python is not elected");
    must!(!rust.campaigns(&group, IN_VAIN)?, "Rust is elected beside Python");
    // Not everywhere does the original write its name.
    let seen = rust.leader(&group)?;
    must!(seen.as_ref().is_none_or(|it| *it == python.member), "{seen:?} leads in Rust's eyes");
    // Not everywhere can the original stand down.
    python.stop()?;
    must!(rust.campaigns(&group, SOON)?, "Python stopped, and Rust is not elected");
    Ok(())
}

/// What a killed leader leaves is free for the other side.
pub(super) fn killed_leader(arena: &Arena, side: Side) -> Outcome {
    let (group, rust, python) = candidates(arena, Times::Short)?;
    let (mut leader, mut other) = match side {
        Side::Rust => (rust, python),
        Side::Python => (python, rust),
    };
    must!(leader.campaigns(&group, SOON)?, "nobody leads, and {side:?} is not elected");
    must!(!other.campaigns(&group, IN_VAIN)?, "{} leads too", other.member);
    leader.kill();
    let elected = other.campaigns(&group, arena.row.dead_after)?;
    must!(elected, "{} is dead, and {} is not elected", leader.member, other.member);
    Ok(())
}

/// Both sides say that the same one leads.
pub(super) fn names(arena: &Arena, side: Side) -> Outcome {
    let (group, mut rust, mut python) = candidates(arena, Times::Default)?;
    let leader = if side == Side::Rust { &mut rust } else { &mut python };
    must!(leader.campaigns(&group, SOON)?, "nobody leads, and {side:?} is not elected");
    let leader = leader.member.clone();
    for peer in [&mut rust, &mut python] {
        let what = format!("{} knows that {leader} leads", peer.member);
        until(&what, SOON, || Ok(peer.leader(&group)?.as_deref() == Some(&*leader)))?;
    }
    Ok(())
}

//! Events: each side sees what members of the other do.

use super::SOON;
use super::groups::both_ways;
use crate::mixed_fleet::arena::{Arena, Times};
use crate::mixed_fleet::peer::{Outcome, Side};

pub(super) fn join_and_leave(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    both_ways(&mut rust, &mut python, |watcher, member| {
        let group = arena.name("group");
        watcher.on_group("create_group", &group)?;
        watcher.on_group("watch", &group)?;
        member.on_group("join_plain", &group)?;
        watcher.sees("joined", &member.member, &group, SOON)?;
        member.on_group("leave", &group)?;
        watcher.sees("left", &member.member, &group, SOON)
    })
}

pub(super) fn death(arena: &Arena, side: Side) -> Outcome {
    let mut member = arena.peer(side)?;
    let mut watcher = arena.peer(side.other())?;
    let group = arena.name("group");
    watcher.on_group("create_group", &group)?;
    member.on_group("join_plain", &group)?;
    watcher.on_group("watch", &group)?;
    member.kill();
    watcher.sees("left", &member.member, &group, arena.row.dead_after)?;
    Ok(())
}

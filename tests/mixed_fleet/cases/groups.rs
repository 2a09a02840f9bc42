//! Groups and their members.

use serde_json::json;

use super::{throughout, until};
use crate::mixed_fleet::arena::{Arena, Times};
use crate::mixed_fleet::peer::{Outcome, Peer, Side, must};

/// A group that one side creates is there for the other, which can delete it.
pub(super) fn creation(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    both_ways(&mut rust, &mut python, |maker, other| {
        let group = arena.name("group");
        maker.on_group("create_group", &group)?;
        let seen: Vec<String> = other.ask("groups", json!({}))?;
        must!(seen.contains(&group), "{} does not see the group {group}: {seen:?}", other.member);
        other.refused("create_group", json!({ "group": group }), "GroupAlreadyExists")?;
        other.on_group("delete_group", &group)?;
        let seen: Vec<String> = maker.ask("groups", json!({}))?;
        must!(!seen.contains(&group), "{} still sees the group {group}", maker.member);
        maker.refused("delete_group", json!({ "group": group }), "GroupNotCreated")
    })
}

/// A member of one side is one for the other, until it leaves.
pub(super) fn members(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    both_ways(&mut rust, &mut python, |one, other| {
        let group = arena.name("group");
        let on_group = json!({ "group": group });
        other.refused("join_plain", on_group.clone(), "GroupNotCreated")?;
        one.on_group("create_group", &group)?;
        one.on_group("join_plain", &group)?;
        must!(other.members(&group)? == [&*one.member], "{} is no member", one.member);
        other.refused("leave", on_group.clone(), "MemberNotJoined")?;
        other.refused("delete_group", on_group.clone(), "GroupNotEmpty")?;
        other.on_group("join_plain", &group)?;
        let mut both = [one.member.clone(), other.member.clone()];
        both.sort();
        for peer in [&mut *one, &mut *other] {
            let seen = peer.members(&group)?;
            must!(seen == both, "{} sees {seen:?}", peer.member);
        }
        one.on_group("leave", &group)?;
        must!(other.members(&group)? == [&*other.member], "{} is still a member", one.member);
        other.on_group("leave", &group)?;
        must!(one.members(&group)?.is_empty(), "{} is still a member", other.member);
        one.on_group("delete_group", &group)
    })
}

/// The other side sees a killed member go, and the group can be deleted.
pub(super) fn death(arena: &Arena, side: Side) -> Outcome {
    let mut member = arena.peer(side)?;
    let mut other = arena.peer(side.other())?;
    let group = arena.name("group");
    other.on_group("create_group", &group)?;
    member.on_group("join_plain", &group)?;
    other.on_group("join_plain", &group)?;
    must!(other.members(&group)?.contains(&member.member), "{} is no member", member.member);
    member.kill();
    let what = format!("{} sees that {} is dead", other.member, member.member);
    let after =
        until(&what, arena.row.dead_after, || Ok(other.members(&group)? == [&*other.member]))?;
    println!("{}: a member of {side:?} killed, gone after {after:?}", arena.row.setup.name);
    Ok(())
}

pub(super) fn kept_with_the_shortest_time(arena: &Arena) -> Outcome {
    kept(arena, Times::Short)
}

pub(super) fn kept_with_the_default_time(arena: &Arena) -> Outcome {
    kept(arena, Times::Default)
}

/// Who lives for longer than the time to live stays a member, for both sides.
fn kept(arena: &Arena, times: Times) -> Outcome {
    let (mut rust, mut python) = arena.both(times)?;
    let group = arena.name("group");
    rust.on_group("create_group", &group)?;
    rust.on_group("join_plain", &group)?;
    python.on_group("join_plain", &group)?;
    throughout(arena.outliving(times), || {
        for peer in [&mut rust, &mut python] {
            let seen = peer.members(&group)?;
            must!(seen.len() == 2, "{} sees {seen:?}", peer.member);
        }
        Ok(())
    })
}

/// The same with the parts changed.
pub(super) fn both_ways(
    rust: &mut Peer,
    python: &mut Peer,
    mut case: impl FnMut(&mut Peer, &mut Peer) -> Outcome,
) -> Outcome {
    case(rust, python)?;
    case(python, rust)
}

//! What members publish.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tooz_core::{Capabilities, Coordinator, ErrorKind, MemberId, Result};

use super::{AT_ONCE, fails};
use crate::Area;
use crate::case::{Case, case};
use crate::context::Context;

const AREA: Area = Area::Capabilities;

pub(super) const CASES: &[Case] = &[
    case!(any_value_comes_back_as_it_was),
    case!(bytes_come_back_as_they_were),
    case!(no_capabilities_are_none),
    case!(what_peers_could_not_read_is_refused),
    case!(large_capabilities_come_back_as_they_were),
    case!(an_update_is_seen_by_others),
    case!(many_updates_end_with_the_last),
    case!(an_update_of_one_leaves_the_others),
    case!(only_a_member_can_update),
    case!(all_ways_to_ask_agree),
    case!(a_new_membership_has_its_own_capabilities),
];

/// What another coordinator sees of the member `a`.
async fn seen(other: &Coordinator) -> Result<Capabilities> {
    Ok(other.member("g", "a").await?.capabilities)
}

fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!({}),
        json!([]),
        json!(""),
        json!(false),
        json!(0),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1.5e300),
        json!("\u{fc}n\u{ef}c\u{f6}d\u{e9} \u{1f512} \0 \n"),
        json!({"a": {"b": [{"c": [null, true, [1, [2, [3]]]]}]}, "": 0, "\u{fc}": -1}),
    ]
}

async fn any_value_comes_back_as_it_was(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.create_group("g").await?;
    for value in odd_values() {
        a.join_group("g", &value).await?;
        assert_eq!(seen(&b).await?.decode::<Value>()?, value, "after a join");
        a.leave_group("g").await?;
    }
    a.join_group("g", &()).await?;
    for value in odd_values() {
        a.update_capabilities("g", &value).await?;
        assert_eq!(seen(&b).await?.decode::<Value>()?, value, "after an update");
    }
    Ok(())
}

async fn bytes_come_back_as_they_were(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let all: Vec<u8> = (0..=255).collect();
    // As msgpack's own bytes, not as a list of numbers: with serde, that takes a newtype.
    let published = Capabilities::from_msgpack([&[0xc5, 1, 0][..], &all].concat());
    a.join_group_create("g", &Raw(&all)).await?;
    assert_eq!(seen(&b).await?, published);
    Ok(())
}

struct Raw<'a>(&'a [u8]);

impl serde::Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

async fn no_capabilities_are_none(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &()).await?;
    assert!(seen(&b).await?.is_none());
    a.update_capabilities("g", &1).await?;
    assert!(!seen(&b).await?.is_none());
    a.update_capabilities("g", &None::<u8>).await?;
    assert!(seen(&b).await?.is_none());
    Ok(())
}

async fn what_peers_could_not_read_is_refused(ctx: &Context) -> Result<()> {
    let a = ctx.start("a").await?;
    let odd = BTreeMap::from([(1, 2)]);
    fails(ErrorKind::Serialization, a.join_group_create("g", &odd).await);
    assert!(a.groups().await?.is_empty(), "refused before anything was done");
    a.join_group_create("g", &1).await?;
    fails(ErrorKind::Serialization, a.update_capabilities("g", &odd).await);
    assert_eq!(seen(&a).await?.decode::<i32>()?, 1, "a refused update changes nothing");
    Ok(())
}

async fn large_capabilities_come_back_as_they_were(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    let large = "capable ".repeat(4_000);
    a.join_group_create("g", &large).await?;
    assert_eq!(seen(&b).await?.decode::<String>()?, large);
    Ok(())
}

async fn an_update_is_seen_by_others(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &1).await?;
    let before = b.member("g", "a").await?;
    a.update_capabilities("g", &2).await?;
    let after = b.member("g", "a").await?;
    assert_eq!(after.capabilities.decode::<i32>()?, 2);
    assert_eq!(after.incarnation, before.incarnation, "an update is not another membership");
    assert_eq!(after.joined_at, before.joined_at, "an update is not another membership");
    Ok(())
}

async fn many_updates_end_with_the_last(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &0).await?;
    for n in 1..=50 {
        a.update_capabilities("g", &n).await?;
    }
    assert_eq!(seen(&b).await?.decode::<i32>()?, 50);
    Ok(())
}

async fn an_update_of_one_leaves_the_others(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &1).await?;
    a.join_group_create("h", &1).await?;
    b.join_group("g", &1).await?;
    a.update_capabilities("g", &2).await?;
    for (group, member, expected) in [("g", "a", 2), ("g", "b", 1), ("h", "a", 1)] {
        let member = b.member(group, member).await?;
        assert_eq!(member.capabilities.decode::<i32>()?, expected, "{group}: {member:?}");
    }
    Ok(())
}

async fn only_a_member_can_update(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    fails(ErrorKind::GroupNotCreated, a.update_capabilities("g", &1).await);
    a.join_group_create("g", &()).await?;
    fails(ErrorKind::MemberNotJoined, b.update_capabilities("g", &1).await);
    a.leave_group("g").await?;
    fails(ErrorKind::MemberNotJoined, a.update_capabilities("g", &1).await);
    assert!(b.members("g").await?.is_empty(), "a refused update joins nobody");
    Ok(())
}

async fn all_ways_to_ask_agree(ctx: &Context) -> Result<()> {
    let names = ["delta", "alpha", "charlie", "bravo"];
    let first = ctx.start(names[0]).await?;
    first.create_group("g").await?;
    first.join_group("g", &names[0]).await?;
    for name in &names[1..] {
        ctx.start(*name).await?.join_group("g", name).await?;
    }
    let members = first.members_with_capabilities("g").await?;
    let mut sorted = names.map(MemberId::from);
    sorted.sort();
    assert_eq!(members.iter().map(|m| m.id.clone()).collect::<Vec<_>>(), sorted, "by their ids");
    assert_eq!(first.members("g").await?, sorted.into());
    for member in members {
        assert_eq!(Some(member.capabilities.decode::<String>()?.as_str()), member.id.as_str());
        assert_eq!(first.member("g", &member.id).await?, member);
    }
    Ok(())
}

async fn a_new_membership_has_its_own_capabilities(ctx: &Context) -> Result<()> {
    let (a, b) = (ctx.start("a").await?, ctx.start("b").await?);
    a.join_group_create("g", &1).await?;
    a.update_capabilities("g", &2).await?;
    a.leave_group("g").await?;
    a.join_group("g", &()).await?;
    let bare = async || Ok(seen(&b).await?.is_none());
    ctx.until(AT_ONCE, "a membership without the capabilities of an earlier one", bare).await
}

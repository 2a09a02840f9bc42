//! Joins a group with capabilities, and watches who comes and goes.

use serde_json::json;
use tooz::GroupEvent;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    let first = tooz::connect("zake://group", "host-1").await?;
    let second = tooz::connect("zake://group", "host-2").await?;

    first.join_group_create("workers", &json!({"cores": 8})).await?;
    let mut events = first.watch_group("workers").await?;
    second.join_group("workers", &json!({"cores": 2})).await?;
    second.update_capabilities("workers", &json!({"cores": 4})).await?;
    second.leave_group("workers").await?;

    while let Some(event) = events.next().await {
        match event {
            GroupEvent::Snapshot(members) => println!("{} member(s) at first", members.len()),
            GroupEvent::Joined(member) => println!("{} joined: {}", member.id, member.capabilities),
            GroupEvent::Updated(member) => println!("{} is now {}", member.id, member.capabilities),
            GroupEvent::Left(member) => {
                println!("{} left", member.id);
                break;
            }
            _ => {}
        }
    }

    second.stop().await?;
    first.stop().await
}

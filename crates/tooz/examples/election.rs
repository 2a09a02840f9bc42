//! Two members campaign; when the leader stands down, the other takes over.

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    let first = tooz::get_coordinator("zake://election", "host-1")?;
    let second = tooz::get_coordinator("zake://election", "host-2")?;
    for coordinator in [&first, &second] {
        coordinator.start().await?;
        coordinator.join_group_create("workers", &()).await?;
    }

    let term = first.campaign("workers").await?;
    println!("{} leads, with the token {}", first.member_id(), term.fencing_token());

    // The second waits until the first, done with its work, stands down.
    let (next, stood_down) = tokio::join!(second.campaign("workers"), async {
        let worked = term.run(async { "led" }).await?;
        println!("{} {worked}", first.member_id());
        term.resign().await
    });
    stood_down?;
    let term = next?;
    println!("{} leads, with the token {}", second.member_id(), term.fencing_token());
    assert_eq!(first.leader("workers").await?.as_ref(), Some(second.member_id()));

    term.resign().await?;
    second.stop().await?;
    first.stop().await
}

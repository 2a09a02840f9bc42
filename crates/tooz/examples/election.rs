//! Two members campaign; when the leader resigns, the other takes over.

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    let first = tooz::connect("zake://election", "host-1").await?;
    let second = tooz::connect("zake://election", "host-2").await?;
    for coordinator in [&first, &second] {
        coordinator.join_group_create("workers", &()).await?;
    }

    let term = first.campaign("workers").await?;
    println!("{} leads, with the token {}", first.member_id(), term.fencing_token());

    // The second waits until the first, done with its work, resigns.
    let (next, resigned) = tokio::join!(second.campaign("workers"), async {
        let worked = term.run(async { "led" }).await?;
        println!("{} {worked}", first.member_id());
        term.resign().await
    });
    resigned?;
    let term = next?;
    println!("{} leads, with the token {}", second.member_id(), term.fencing_token());
    assert_eq!(first.leader("workers").await?.as_ref(), Some(second.member_id()));

    term.resign().await?;
    second.stop().await?;
    first.stop().await
}

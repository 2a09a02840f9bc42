//! Starts a coordinator, whose heart beats by itself, and stops it.

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    let coordinator = tooz::connect("zake://", "host-1").await?;
    println!("{} is started", coordinator.member_id());
    coordinator.stop().await
}

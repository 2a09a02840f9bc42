//! Starts a coordinator, whose heart beats by itself, and stops it.

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    let coordinator = tooz::get_coordinator("zake://", "host-1")?;
    coordinator.start().await?;
    println!("{} is started", coordinator.member_id());
    coordinator.stop().await
}

//! Beats the heart by hand, at the interval that it asks for.
//!
//! For a program that must be known as dead when its own loop hangs.

use tooz::Heartbeat;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    // A short time to live, so that the beats come quickly enough to watch.
    let coordinator = tooz::builder("zake://manual?timeout=0.6", "host-1")?
        .heartbeat(Heartbeat::Manual)
        .connect()
        .await?;
    for beat in 1..=3 {
        let next = coordinator.heartbeat().await?;
        println!("beat {beat}; the next is due in {next:?}");
        tokio::time::sleep(next).await;
    }
    coordinator.stop().await
}

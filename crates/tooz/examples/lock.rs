//! Holds a lock while working, and releases it.

use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> tooz::Result<()> {
    let coordinator = tooz::connect("zake://lock", "host-1").await?;
    let lock = coordinator.lock("foobar")?;

    let guard = lock.acquire().await?;
    println!("holding, with the token {}", guard.fencing_token());
    assert!(lock.try_acquire_for(Duration::from_millis(10)).await?.is_none(), "locks never nest");
    // At a loss of the lock the work is dropped, and this is an error.
    guard.run(async { println!("do something exclusive") }).await?;
    guard.release().await?;

    // Readers share it.
    let (one, two) = (lock.acquire_shared().await?, lock.acquire_shared().await?);
    assert!(lock.try_acquire().await?.is_none(), "readers keep writers out");
    one.release().await?;
    two.release().await?;
    coordinator.stop().await
}

//! Why a lock alone is not enough, and what a fence does about it: two processes deposit into one
//! account under one lock, and the first is stopped while it holds it. The same as `tooz demo --fencing`.
//!
//!     cargo run --example lost-update
//!     cargo run --example lost-update -- redis://localhost postgresql://postgres@localhost/postgres
//!
//! The first URL is that of the lock's backend (a directory of its own without one), the second that of
//! the account (a file).

#[allow(dead_code, reason = "what the command needs")]
#[path = "../src/demo/fencing/mod.rs"]
mod fencing;
#[path = "../src/demo/pace.rs"]
mod pace;

use anyhow::{Result, ensure};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next();
    if url.as_deref() == Some(fencing::WRITER) {
        return fencing::write().await;
    }
    let folder = tempfile::tempdir()?;
    let url = url.unwrap_or_else(|| format!("file://{}", folder.path().join("locks").display()));
    let resource = arguments.next();
    let mut tell = |time: std::time::Duration, text: &str| {
        println!("{:6.1} s  {text}", time.as_secs_f64());
        Ok(())
    };
    let good = fencing::run(url, resource.as_deref(), folder.path(), &mut tell).await?;
    ensure!(good, "it did not go as foretold");
    Ok(())
}

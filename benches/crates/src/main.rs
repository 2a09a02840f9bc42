//! A contestant's process over somebody else's crate: reads requests, one a line, and answers each
//! with a line. Its argument is the crate's name.

mod client;
mod clock;
mod contestant;
mod distributed;
#[cfg(feature = "etcd")]
mod etcd;
#[allow(dead_code, reason = "it has more than this program needs")]
#[path = "../../src/protocol.rs"]
mod protocol;
mod redlock;
mod url;

use std::io::{BufRead as _, Write as _};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use client::Crate;
use contestant::Contestant;
use protocol::{Answer, Ask};

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).context("which crate?")?;
    serve(Crate::named(&name)?)
}

/// Serves until the input ends.
fn serve(which: Crate) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let mut contestant = Contestant::new(which);
    for line in std::io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?).context("no request")?;
        let work = async move {
            let answer = contestant.answer(ask).await;
            (contestant, answer)
        };
        // A service's work is in spawned tasks. Some crates panic on what a server or a folder
        // does, which then is an answer like any other failure.
        let answer = match runtime.block_on(runtime.spawn(work)) {
            Ok((back, answer)) => {
                contestant = back;
                answer.unwrap_or_else(|error| failed(format!("{error:#}")))
            }
            Err(error) => {
                contestant = Contestant::new(which);
                failed(error.to_string())
            }
        };
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
        output.flush()?;
    }
    Ok(())
}

fn failed(error: String) -> Answer {
    Answer { error: Some(error), ..Answer::default() }
}

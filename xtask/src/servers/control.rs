//! A socket on which tests harm a server, and make it well again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::stage::Stage;
use crate::process::TICK;

/// How long a word may be on its way: who asks is on this machine.
const WORD_LIMIT: Duration = Duration::from_secs(5);

/// Each connection brings one line, `freeze`, `kill` or `start`, and gets one back when it is done:
/// `ok`, or what went wrong. `start` makes a server serve again after either.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    listener: UnixListener,
}

impl Control {
    /// Listens.
    pub(super) fn new(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        listener.set_nonblocking(true).context("cannot poll a socket")?;
        Ok(Self { path: path.to_owned(), listener })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Does what is asked for until it is `over`.
    pub(super) fn obey(&self, stage: &mut Stage<'_>, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            match self.listener.accept() {
                Ok((asking, _)) => {
                    if let Err(error) = answer(&asking, stage) {
                        eprintln!("{}: {error:#}", self.path.display());
                    }
                }
                Err(_) => sleep(TICK),
            }
        }
    }
}

fn answer(mut asking: &UnixStream, stage: &mut Stage<'_>) -> anyhow::Result<()> {
    asking.set_nonblocking(false)?;
    asking.set_read_timeout(Some(WORD_LIMIT))?;
    let mut word = String::new();
    BufReader::new(asking).read_line(&mut word)?;
    let answer = match harm(word.trim(), stage) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{error:#}").replace('\n', "; "),
    };
    writeln!(asking, "{answer}")?;
    Ok(())
}

fn harm(word: &str, stage: &mut Stage<'_>) -> anyhow::Result<()> {
    match word {
        "freeze" => stage.freeze(),
        "kill" => stage.kill(),
        "start" => stage.start_again()?,
        word => bail!("`{word}` is none of freeze, kill, start"),
    }
    Ok(())
}

//! A contestant, from the outside: its process, and what it is asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};

use tooz_benches::protocol::{Answer, Ask};

/// How long an answer may take. The longest are of thousands of locks over a slow backend.
const LIMIT: Duration = Duration::from_secs(120);

/// Who takes part with a setup, and how its process is started.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    /// As the tables call it.
    pub(crate) name: String,
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) url: String,
}

impl Contestant {
    /// Starts a process of it, connected.
    pub(crate) fn enter(&self, member: &str) -> anyhow::Result<Entrant> {
        self.enter_with(member, "")
    }

    /// Starts a process of it, connected with these URL options too.
    pub(crate) fn enter_with(&self, member: &str, options: &str) -> anyhow::Result<Entrant> {
        let mut entrant = self.start()?;
        let separator = if self.url.contains('?') { '&' } else { '?' };
        let url = match options {
            "" => self.url.clone(),
            options => format!("{}{separator}{options}", self.url),
        };
        entrant.ask(&Ask::Open { url, member: member.to_owned() })?;
        Ok(entrant)
    }

    /// Starts a process of it.
    pub(crate) fn start(&self) -> anyhow::Result<Entrant> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            command.spawn().with_context(|| format!("{} cannot be started", self.name))?;
        let requests = process.stdin.take().context("no input")?;
        let output = process.stdout.take().context("no output")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            // The end of the output closes the channel.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Entrant { name: self.name.clone(), process, requests, answers })
    }
}

/// A process of a contestant. Dropped, it is killed.
pub(crate) struct Entrant {
    pub(crate) name: String,
    process: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Entrant {
    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, ask: &Ask) -> anyhow::Result<Answer> {
        self.tell(ask)?;
        self.answer()
    }

    /// Asks for what is answered later.
    pub(crate) fn tell(&mut self, ask: &Ask) -> anyhow::Result<()> {
        let line = serde_json::to_string(ask)?;
        writeln!(self.requests, "{line}").with_context(|| format!("{} has ended", self.name))
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> anyhow::Result<Answer> {
        let line = match self.answers.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("{}: no answer in {LIMIT:?}", self.name),
            Err(RecvTimeoutError::Disconnected) => bail!("{} has ended", self.name),
        };
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))?;
        match answer {
            Answer { unsupported: Some(why), .. } => bail!(why),
            Answer { error: Some(error), .. } => bail!("{}: {error}", self.name),
            answer => Ok(answer),
        }
    }

    /// Ends it without a last word.
    pub(crate) fn kill(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Disconnects and ends it.
    pub(crate) fn leave(mut self) -> anyhow::Result<()> {
        self.ask(&Ask::Close).map(drop)
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        self.kill();
    }
}

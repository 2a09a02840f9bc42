//! A peer process of either language, from the outside.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::protocol::Failure;

/// How long an answer may take that waits for nothing. Far more than anything takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a case finds wrong, in words.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Fails the case with these words unless it is so.
macro_rules! must {
    ($so:expr, $($words:tt)+) => {
        if !$so {
            return Err(format!($($words)+));
        }
    };
}
pub(crate) use must;

/// A process with one coordinator. Dropped, it is killed.
pub(crate) struct Peer {
    /// What its member is called, and it in messages.
    pub(crate) member: String,
    pub(crate) side: Side,
    process: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

/// Which library a peer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Rust,
    Python,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Rust, Self::Python];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Rust => Self::Python,
            Self::Python => Self::Rust,
        }
    }
}

impl Peer {
    /// Starts the process, without a coordinator.
    pub(crate) fn spawn(side: Side, command: &mut Command, member: String) -> Outcome<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|e| format!("cannot start {member}: {e}"))?;
        let requests = process.stdin.take().expect("its input is a pipe");
        let output = process.stdout.take().expect("its output is a pipe");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            // The end of the output closes the channel.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { member, side, process, requests, answers })
    }

    /// Asks for something whose answer comes later.
    pub(crate) fn tell(&mut self, what: &str, mut arguments: Value) -> Outcome {
        arguments["do"] = what.into();
        writeln!(self.requests, "{arguments}").map_err(|e| format!("{}: {what}: {e}", self.member))
    }

    /// The answer, if it comes in time.
    pub(crate) fn answer_in(&mut self, limit: Duration) -> Outcome<Option<Result<Value, Failure>>> {
        let line = match self.answers.recv_timeout(limit) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("the process of {} has ended", self.member));
            }
        };
        serde_json::from_str(&line).map(Some).map_err(|e| format!("{}: {line}: {e}", self.member))
    }

    pub(crate) fn answer(&mut self, what: &str) -> Outcome<Result<Value, Failure>> {
        let answer = self.answer_in(LIMIT)?;
        answer.ok_or_else(|| format!("{}: {what}: no answer in {LIMIT:?}", self.member))
    }

    /// Asks, and says what came back, be it an error.
    pub(crate) fn try_ask(&mut self, what: &str, args: Value) -> Outcome<Result<Value, Failure>> {
        self.tell(what, args)?;
        self.answer(what)
    }

    /// Asks for something that must be done.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, what: &str, arguments: Value) -> Outcome<T> {
        let shown = format!("{what} {arguments}");
        let answer = self.try_ask(what, arguments)?;
        self.good(&shown, answer)
    }

    /// An answer that may not be an error.
    pub(crate) fn good<T: DeserializeOwned>(
        &self,
        what: &str,
        answer: Result<Value, Failure>,
    ) -> Outcome<T> {
        let wrong = |words: String| format!("{}: {what}: {words}", self.member);
        let value = answer.map_err(|e| wrong(format!("{}: {}", e.kind, e.message)))?;
        serde_json::from_value(value).map_err(|e| wrong(e.to_string()))
    }

    /// Asks for something that must be refused with an error of this kind.
    pub(crate) fn refused(&mut self, what: &str, arguments: Value, kind: &str) -> Outcome {
        let shown = format!("{}: {what} {arguments}", self.member);
        match self.try_ask(what, arguments)? {
            Err(failure) if failure.kind == kind => Ok(()),
            other => Err(format!("{shown}: {other:?} instead of {kind}")),
        }
    }

    /// Ends the process without a last word, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    // ---- What it can be asked, in short.

    /// Lets its coordinator start, beside others; [`end_start`](Self::end_start) waits for it.
    pub(crate) fn begin_start(&mut self, url: &str) -> Outcome {
        let member = self.member.clone();
        self.tell("start", json!({ "url": url, "member": member }))
    }

    pub(crate) fn end_start(&mut self) -> Outcome {
        let answer = self.answer("start")?;
        self.good("start", answer)
    }

    pub(crate) fn stop(&mut self) -> Outcome {
        self.ask("stop", json!({}))
    }

    /// Takes a lock if it is free.
    pub(crate) fn takes(&mut self, name: &str) -> Outcome<bool> {
        self.ask("lock", json!({ "name": name, "wait": false, "shared": false }))
    }

    pub(crate) fn takes_shared(&mut self, name: &str) -> Outcome<bool> {
        self.ask("lock", json!({ "name": name, "wait": false, "shared": true }))
    }

    /// Begins to wait for a lock as long as it takes.
    pub(crate) fn waits(&mut self, name: &str) -> Outcome {
        self.tell("lock", json!({ "name": name, "wait": true, "shared": false }))
    }

    /// Ends the wait, which must be over in time; says how long it still took.
    pub(crate) fn has_it_in(&mut self, limit: Duration) -> Outcome<Duration> {
        let begin = Instant::now();
        let Some(answer) = self.answer_in(limit)? else {
            return Err(format!("{} still waits for the lock after {limit:?}", self.member));
        };
        let taken: bool = self.good("lock", answer)?;
        must!(taken, "{} waited for the lock and has it not", self.member);
        Ok(begin.elapsed())
    }

    pub(crate) fn unlock(&mut self, name: &str) -> Outcome {
        let was_own: bool = self.ask("unlock", json!({ "name": name }))?;
        must!(was_own, "{}: the lock {name} was not its own any more", self.member);
        Ok(())
    }

    pub(crate) fn on_group(&mut self, what: &str, group: &str) -> Outcome {
        self.ask(what, json!({ "group": group }))
    }

    pub(crate) fn members(&mut self, group: &str) -> Outcome<Vec<String>> {
        self.ask("members", json!({ "group": group }))
    }

    pub(crate) fn leader(&mut self, group: &str) -> Outcome<Option<String>> {
        self.ask("leader", json!({ "group": group }))
    }

    pub(crate) fn campaigns(&mut self, group: &str, within: Duration) -> Outcome<bool> {
        self.ask("campaign", json!({ "group": group, "within": within.as_secs_f64() }))
    }

    /// Waits until it has seen the event on a group that it watches.
    pub(crate) fn sees(
        &mut self,
        kind: &str,
        member: &str,
        group: &str,
        within: Duration,
    ) -> Outcome {
        let within = within.as_secs_f64();
        let arguments = json!({ "group": group, "kind": kind, "member": member, "within": within });
        let seen: bool = self.ask("event", arguments)?;
        must!(seen, "{} did not see that {member} {kind}, in {within} s", self.member);
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program of a peer.
pub(crate) fn command(side: Side, setup: &str, python: &Path, script: &Path) -> Command {
    match side {
        Side::Rust => {
            let program = std::env::current_exe().expect("the test program knows where it is");
            let mut command = Command::new(program);
            command.args([super::WORKER, setup]);
            command
        }
        Side::Python => {
            let mut command = Command::new(python);
            command.arg(script);
            command
        }
    }
}

//! `tooz demo --fencing`, and the example `lost-update`: why a lock alone is not enough.
//!
//! Two processes deposit into one account under one lock. The first is stopped while it holds the lock,
//! past the end of that; the second deposits; the first goes on, and writes what it had in mind. Once
//! without a fence, which loses a deposit, and once with it.

mod account;
mod writer;

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tooz::{Characteristic, Coordinator, CoordinatorUrl, Feature, Features};

use self::account::Account;
use self::writer::{Report, Task, VARIABLE};
use super::pace::{self, Pace};

pub(crate) use self::writer::write;

/// The argument by which a program of ours is a writer.
pub(crate) const WRITER: &str = "demo-writer";

/// What the account has at first, and what is deposited: first by the one that is stopped.
const OPENING: i64 = 100;
const DEPOSITS: [i64; 2] = [20, 50];
const EXPECTED: i64 = OPENING + DEPOSITS[0] + DEPOSITS[1];

/// How long a step may take beyond the time to live of a lock.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where what happens is told.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Duration, &str) -> Result<()>;

/// Shows both, and says whether it went as foretold. `folder` is for files of its own.
pub(crate) async fn run(
    url: String,
    resource: Option<&str>,
    folder: &Path,
    tell: Tell<'_>,
) -> Result<bool> {
    let parsed: CoordinatorUrl = url.parse()?;
    let driver = pace::driver(&parsed)?;
    let ends_by_time = !driver.characteristics.contains(Characteristic::NonTimeoutBased);
    let needed: &[_] = match ends_by_time {
        true => &[Feature::Locks, Feature::FencingTokens],
        false => &[Feature::Locks, Feature::FencingTokens, Feature::BreakLock],
    };
    pace::needs(&driver, Features::of(needed))?;
    let Pace { url, limit } = Pace::of(&driver, url, &parsed);
    let account = Account::new(resource, folder)?;
    let began = Instant::now();
    let mut tell = |text: &str| tell(began.elapsed(), text);
    tell(&format!("two writers, a lock on {parsed}, and an account: {}", account.shown()))?;
    let [a, b] = DEPOSITS;
    tell(&format!("it has {OPENING}; A deposits {a} and B {b}, so {EXPECTED} are expected"))?;

    let coordinator = tooz::connect(&url, format!("demo-{}", std::process::id())).await?;
    let mut good = true;
    for fenced in [false, true] {
        tell(if fenced { "---- with a fence" } else { "---- with the lock alone" })?;
        let lock = format!("tooz-demo-fencing-{}-{fenced}", std::process::id());
        let (url, account) = (&url, &account);
        let scene = Scene { coordinator: &coordinator, url, account, lock, limit, fenced };
        let shown = scene.show(ends_by_time, &mut tell).await;
        let closed = account.close().await;
        good &= shown?;
        closed?;
    }
    // It holds nothing.
    let _ = coordinator.stop().await;
    Ok(good)
}

/// Removes what a show has left at the resource that was ended from outside.
pub(crate) async fn clean(resource: Option<&str>, folder: &Path) -> Result<()> {
    Account::new(resource, folder)?.close().await
}

/// Two writers, once.
struct Scene<'a> {
    coordinator: &'a Coordinator,
    url: &'a str,
    account: &'a Account,
    lock: String,
    /// How soon the lock of a stopped process ends, where it does.
    limit: Duration,
    fenced: bool,
}

impl Scene<'_> {
    async fn show(
        &self,
        ends_by_time: bool,
        tell: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<bool> {
        self.account.open(OPENING).await?;
        let mut a = self.writer("A", DEPOSITS[0])?;
        a.reads(tell).await?;
        a.signal(Signal::SIGSTOP)?;
        tell("A is stopped, by SIGSTOP: it could be a long pause of any kind")?;
        let mut b = self.writer("B", DEPOSITS[1])?;
        if ends_by_time {
            tell("nobody hears of A, so its lock ends")?;
        } else {
            tell("here a stopped process keeps its lock, so an operator breaks it for B")?;
            self.coordinator.lock(self.lock.as_str())?.break_lock().await?;
        }
        b.reads(tell).await?;
        b.goes_on(tell).await?;

        tell("A goes on, and knows nothing of all that")?;
        a.signal(Signal::SIGCONT)?;
        if !a.goes_on(tell).await? {
            a.reads(tell).await?;
            a.goes_on(tell).await?;
        }
        let Ok(balance) = self.account.read(None).await? else {
            bail!("the account refused to be read");
        };
        let lost = EXPECTED - balance;
        match lost {
            0 => tell(&format!("the account has {balance}: nothing is lost"))?,
            _ => tell(&format!(
                "the account has {balance}: {lost} are LOST, and both were told that theirs are written"
            ))?,
        }
        Ok(if self.fenced { lost == 0 } else { lost == DEPOSITS[1] })
    }

    fn writer(&self, name: &'static str, amount: i64) -> Result<Writer> {
        let task = Task {
            url: self.url.to_owned(),
            member: format!("writer-{name}-{}", std::process::id()),
            lock: self.lock.clone(),
            account: self.account.clone(),
            amount,
            fenced: self.fenced,
        };
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .arg(OsString::from(WRITER))
            .env(VARIABLE, serde_json::to_string(&task)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a writer")?;
        let stdin = child.stdin.take().context("a writer has no input")?;
        let stdout = child.stdout.take().context("a writer has no output")?;
        let reports = BufReader::new(stdout).lines();
        Ok(Writer { name, child, stdin, reports, limit: self.limit + PATIENCE })
    }
}

/// A writer, as the demonstration sees it.
struct Writer {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
    /// How long it may take until its next report.
    limit: Duration,
}

impl Writer {
    async fn report(&mut self) -> Result<Report> {
        let line = timeout(self.limit, self.reports.next_line()).await;
        let line = line.with_context(|| format!("{} does nothing any more", self.name))??;
        let line = line.with_context(|| format!("{} has ended", self.name))?;
        Ok(serde_json::from_str(&line)?)
    }

    /// It takes the lock and reads.
    async fn reads(&mut self, tell: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let Report::Read { token, balance } = self.report().await? else {
            bail!("{} did not read", self.name);
        };
        tell(&format!("{} has the lock, token {token}, and reads {balance}", self.name))
    }

    /// It writes; whether it was not refused.
    async fn goes_on(&mut self, tell: &mut dyn FnMut(&str) -> Result<()>) -> Result<bool> {
        let name = self.name;
        self.stdin.write_all(b"go\n").await?;
        match self.report().await? {
            Report::Wrote { balance } => tell(&format!("{name} writes {balance}"))?,
            Report::Refused { balance, why } => {
                tell(&format!("{name} writes {balance}: {why}"))?;
                return Ok(false);
            }
            _ => bail!("{name} did not write"),
        }
        match self.report().await? {
            Report::Done { lost: None } => tell(&format!("{name} releases the lock"))?,
            Report::Done { lost: Some(why) } => {
                tell(&format!("{name} releases the lock, too late to learn of it: {why}"))?;
            }
            _ => bail!("{name} did not release the lock"),
        }
        Ok(true)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        Ok(kill(Pid::from_raw(pid.try_into()?), signal)?)
    }
}

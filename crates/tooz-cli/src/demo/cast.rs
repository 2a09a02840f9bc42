//! The workers as the demonstration sees them: from what they report, and from what its own
//! coordinator sees of the group.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tooz::{Coordinator, Events, GroupEvent, MemberId};

use super::jobs::each_job_once;
use super::screen::{Screen, Tone};
use super::worker::{Report, WorkerArgs};

/// The longest time between two drawings of the screen.
const FRAME: Duration = Duration::from_millis(100);

/// What a demonstration runs on.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) url: String,
    pub(super) group: String,
    pub(super) lock: String,
    pub(super) record: PathBuf,
}

/// One worker, as last heard of.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) state: State,
    /// The token of its term.
    pub(super) leads: Option<u64>,
    /// Whether it has the lock now.
    pub(super) inside: bool,
    /// The token of its last turn with the lock.
    pub(super) token: Option<u64>,
    pub(super) turns: usize,
    pub(super) jobs: Vec<usize>,
    child: Child,
    /// When it is closed, the worker knows that we are gone.
    stdin: ChildStdin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Joined,
    Killed,
    /// It ended by itself, well or not.
    Ended {
        well: bool,
    },
}

impl Worker {
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.state, State::Starting | State::Joined)
    }
}

/// What our own coordinator sees of the group.
struct View {
    members: Events<GroupEvent>,
    leader: Events<Option<MemberId>>,
}

/// All workers, and what we have seen of them.
pub(super) struct Cast {
    pub(super) workers: Vec<Worker>,
    pub(super) members: BTreeSet<MemberId>,
    pub(super) leader: Option<MemberId>,
    /// The tokens of all terms so far.
    pub(super) terms: Vec<u64>,
    /// What went wrong with a worker, if anything did.
    pub(super) troubles: Vec<String>,
    pub(super) screen: Screen,
    setting: Setting,
    view: View,
    reports: mpsc::UnboundedReceiver<Heard>,
    reporter: mpsc::UnboundedSender<Heard>,
}

/// A report of the worker of that index, or `None` once it has ended.
type Heard = (usize, Option<Report>);

/// Passes on a worker's reports until it has ended. Anything on its standard error is trouble.
async fn listen(
    index: usize,
    stdout: ChildStdout,
    stderr: ChildStderr,
    reporter: mpsc::UnboundedSender<Heard>,
) {
    // A send error means that nobody wants to know any more.
    let says = async {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let report = serde_json::from_str(&line).unwrap_or(Report::Failed { error: line });
            let _ = reporter.send((index, Some(report)));
        }
    };
    let complains = async {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(error)) = lines.next_line().await {
            let _ = reporter.send((index, Some(Report::Failed { error })));
        }
    };
    tokio::join!(says, complains);
    let _ = reporter.send((index, None));
}

impl Cast {
    /// Creates the group and watches it. Nobody is in it yet.
    pub(super) async fn new(
        coordinator: &Coordinator,
        setting: Setting,
        screen: Screen,
    ) -> Result<Self> {
        coordinator.create_group(&setting.group).await?;
        let view = View {
            members: coordinator.watch_group(&setting.group).await?,
            leader: coordinator.watch_leader(&setting.group).await?,
        };
        let (reporter, reports) = mpsc::unbounded_channel();
        Ok(Self {
            workers: Vec::new(),
            members: BTreeSet::new(),
            leader: None,
            terms: Vec::new(),
            troubles: Vec::new(),
            screen,
            setting,
            view,
            reports,
            reporter,
        })
    }

    /// Starts one more worker.
    pub(super) fn start_worker(&mut self) -> Result<()> {
        let index = self.workers.len();
        let name = format!("worker-{}", index + 1);
        let Setting { url, group, lock, record } = &self.setting;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            // Output on standard error counts as a failure, so warnings must not appear there.
            .arg("--quiet")
            .args(WorkerArgs::arguments(group, lock, record.clone()))
            // Not as an argument: it may contain a password.
            .env("TOOZ_URL", url)
            .env("TOOZ_MEMBER", OsString::from(&name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // Ctrl-C is for us.
            .process_group(0)
            .spawn()
            .context("cannot start a worker")?;
        let stdin = child.stdin.take().context("a worker has no standard input")?;
        let stdout = child.stdout.take().context("a worker has no standard output")?;
        let stderr = child.stderr.take().context("a worker has no standard error")?;
        tokio::spawn(listen(index, stdout, stderr, self.reporter.clone()));
        self.workers.push(Worker {
            pid: child.id().unwrap_or_default(),
            name,
            state: State::Starting,
            leads: None,
            inside: false,
            token: None,
            turns: 0,
            jobs: Vec::new(),
            child,
            stdin,
        });
        Ok(())
    }

    /// Follows what happens until `wanted` is true, and returns how long that took; `None` if that
    /// took longer than `limit`.
    pub(super) async fn until(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Self) -> bool,
    ) -> Result<Option<Duration>> {
        let began = Instant::now();
        loop {
            if wanted(self) {
                return Ok(Some(began.elapsed()));
            }
            let Some(left) = limit.checked_sub(began.elapsed()) else { return Ok(None) };
            self.step(left).await?;
        }
    }

    /// Waits at most `limit` for the next thing to happen, and notes it.
    async fn step(&mut self, limit: Duration) -> Result<()> {
        tokio::select! {
            Some((index, report)) = self.reports.recv() => match report {
                Some(report) => self.take_in(index, report)?,
                None => self.ended(index).await?,
            },
            event = self.view.members.next() => {
                self.seen(event.context("the events of the group ended")?)?;
            }
            leader = self.view.leader.next() => {
                self.leader = leader.context("the events of the election ended")?;
            }
            () = tokio::time::sleep(limit.min(FRAME)) => {}
        }
        self.screen.draw(&self.workers)?;
        Ok(())
    }

    /// A worker reported.
    fn take_in(&mut self, index: usize, report: Report) -> Result<()> {
        let worker = &mut self.workers[index];
        if worker.state == State::Killed {
            // Its last report: what it reported before no longer holds.
            return Ok(());
        }
        let name = &worker.name;
        match report {
            Report::Joined => {
                worker.state = State::Joined;
                self.screen.tell(Tone::Plain, &format!("{name} joined"))?;
            }
            Report::Jobs { members, jobs } => {
                worker.jobs = jobs;
                let jobs = worker.jobs.len();
                self.screen.mention(&format!("{name} sees {members} members, has {jobs} jobs"))?;
            }
            Report::Leads { token } => {
                worker.leads = Some(token);
                self.terms.push(token);
                self.screen.tell(Tone::Good, &format!("{name} leads, with the token {token}"))?;
            }
            Report::Enters { token } => {
                (worker.inside, worker.token) = (true, Some(token));
                worker.turns += 1;
                self.screen.mention(&format!("{name} holds the lock, with the token {token}"))?;
            }
            Report::Leaves => worker.inside = false,
            Report::Failed { error } => {
                self.screen.tell(Tone::Bad, &format!("{name} failed: {error}"))?;
                self.troubles.push(format!("{name}: {error}"));
            }
        }
        Ok(())
    }

    /// A worker ended. The killed one is not news.
    async fn ended(&mut self, index: usize) -> Result<()> {
        let worker = &mut self.workers[index];
        let status = worker.child.wait().await.context("cannot wait for a worker")?;
        if worker.state == State::Killed {
            return Ok(());
        }
        worker.state = State::Ended { well: status.success() };
        (worker.leads, worker.inside) = (None, false);
        worker.jobs.clear();
        let tone = if status.success() { Tone::Plain } else { Tone::Bad };
        self.screen.tell(tone, &format!("{} ended: {status}", worker.name))?;
        Ok(())
    }

    /// Something happened in the group.
    fn seen(&mut self, event: GroupEvent) -> Result<()> {
        match event {
            GroupEvent::Snapshot(all) => {
                self.members = all.into_iter().map(|member| member.id).collect();
            }
            GroupEvent::Joined(member) => drop(self.members.insert(member.id)),
            GroupEvent::Left(member) => {
                self.members.remove(&member.id);
                self.screen.tell(Tone::Plain, &format!("{} is out of the group", member.id))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Kills a worker, which gets no chance to stop in order.
    pub(super) fn kill(&mut self, index: usize) -> Result<()> {
        let worker = &mut self.workers[index];
        worker.child.start_kill().context("cannot kill a worker")?;
        let lock = if worker.inside { ", which holds the lock" } else { "" };
        let text = format!("{} is killed: the leader{lock}", worker.name);
        worker.state = State::Killed;
        (worker.leads, worker.inside) = (None, false);
        worker.jobs.clear();
        self.screen.tell(Tone::Bad, &text)?;
        Ok(())
    }

    /// Asks all living workers to release everything and end.
    pub(super) async fn dismiss(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.is_alive()) {
            // One that is gone cannot be told, and has already ended.
            let _ = worker.stdin.write_all(b"stop\n").await;
        }
    }

    /// Kills whatever still runs, and waits until it is gone.
    pub(super) async fn clear(&mut self) {
        for worker in &mut self.workers {
            // An error means that it is gone.
            let _ = worker.child.kill().await;
        }
    }

    // ---- What the claims are about.

    pub(super) fn alive(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| worker.is_alive())
    }

    /// Whether the group has exactly the living workers, and they report so too.
    pub(super) fn all_joined(&self) -> bool {
        self.alive().all(|worker| worker.state == State::Joined)
            && self.members.len() == self.alive().count()
            && self.alive().all(|worker| self.members.contains(&worker.name.as_str().into()))
    }

    /// The index of the leader, if exactly one worker reports to lead and the group agrees.
    pub(super) fn only_leader(&self) -> Option<usize> {
        let mut leaders = (0..).zip(&self.workers).filter(|(_, worker)| worker.leads.is_some());
        let (index, worker) = leaders.next()?;
        let agreed = self.leader.as_ref().and_then(MemberId::as_str) == Some(&worker.name);
        (agreed && leaders.next().is_none()).then_some(index)
    }

    /// Whether each job belongs to exactly one living worker.
    pub(super) fn jobs_are_shared(&self) -> bool {
        each_job_once(self.alive().map(|worker| worker.jobs.as_slice()))
    }

    /// How many jobs each living worker has.
    pub(super) fn shares(&self) -> String {
        let shares: Vec<_> = self.alive().map(|worker| worker.jobs.len().to_string()).collect();
        shares.join(" + ")
    }
}

//! The contestant that is this library.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tooz::{Coordinator, Events, GroupEvent, HashRing, Leadership, LockGuard, MemberId};
use tooz_benches::protocol::{Answer, Ask, nanos};

use super::clock;

/// What the requests so far left.
#[derive(Default)]
pub(super) struct Ours {
    coordinator: Option<Coordinator>,
    url: String,
    crowd: Vec<Coordinator>,
    held: Vec<LockGuard>,
    watch: Option<Events<GroupEvent>>,
    terms: Vec<Leadership>,
    waiting: JoinSet<anyhow::Result<()>>,
    /// When those had their turns.
    turns: Arc<Mutex<Vec<u64>>>,
}

impl Ours {
    fn coordinator(&self) -> anyhow::Result<&Coordinator> {
        self.coordinator.as_ref().context("not open")
    }

    pub(super) async fn answer(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        match ask {
            Ask::Open { url, member } => self.open(url, &member).await,
            Ask::Close => self.close().await,
            Ask::Reads { .. } | Ask::Writes { .. } => Ok(Answer::unsupported("a raw client's")),
            Ask::Cycles { name, count } => self.cycles(&name, count).await,
            Ask::Contend { name, from, millis, hold_micros } => {
                let hold = Duration::from_micros(hold_micros);
                self.contend(&name, from, from + millis * 1_000_000, hold).await
            }
            Ask::Group { group, count } => self.group(&group, count).await,
            Ask::Join { group } => {
                self.coordinator()?.join_group_create(&*group, &()).await?;
                Ok(Answer::at(clock::now()))
            }
            Ask::Leave { group } => {
                self.coordinator()?.leave_group(&*group).await?;
                Ok(Answer::at(clock::now()))
            }
            Ask::Watch { group } => self.watch(&group).await,
            Ask::Event { member, joined, millis } => {
                let limit = Duration::from_millis(millis);
                let seen = tokio::time::timeout(limit, self.event(&member, joined)).await;
                seen.context("no event in time")?
            }
            Ask::Campaign { group } => {
                let term = self.coordinator()?.campaign(&*group).await?;
                let led = clock::now();
                self.terms.push(term);
                Ok(Answer::at(led))
            }
            Ask::Crowd { group, count, bytes } => self.crowd(&group, count, bytes).await,
            Ask::ReadGroup { group, count } => self.read_group(&group, count).await,
            Ask::Hold { prefix, count } => self.hold(&prefix, count).await,
            Ask::Beats { count } => self.beats(count).await,
            Ask::LetGo => self.let_go().await,
            Ask::Wait { name, count } => self.wait(&name, count),
            Ask::Waited => self.waited().await,
            Ask::Memory => Ok(Answer { bytes: Some(super::resident()?), ..Answer::default() }),
            Ask::Ring { nodes, batches } => ring(nodes, batches),
            Ask::Hops { group, count } => self.hops(&group, count).await,
        }
    }

    async fn open(&mut self, url: String, member: &str) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let coordinator = tooz::get_coordinator(&url, member)?;
        coordinator.start().await?;
        let answer = Answer::took(began.elapsed());
        (self.coordinator, self.url) = (Some(coordinator), url);
        Ok(answer)
    }

    async fn close(&mut self) -> anyhow::Result<Answer> {
        for coordinator in self.crowd.drain(..) {
            coordinator.stop().await?;
        }
        if let Some(coordinator) = self.coordinator.take() {
            coordinator.stop().await?;
        }
        *self = Self::default();
        Ok(Answer::default())
    }

    async fn cycles(&self, name: &str, count: usize) -> anyhow::Result<Answer> {
        let lock = self.coordinator()?.lock(name)?;
        Ok(timed!(count, lock.acquire().await?.release().await?))
    }

    async fn contend(
        &self,
        name: &str,
        from: u64,
        until: u64,
        hold: Duration,
    ) -> anyhow::Result<Answer> {
        let lock = self.coordinator()?.lock(name)?;
        clock::wait_for(from).await;
        let mut turns = Vec::new();
        loop {
            let asked = clock::now();
            if asked >= until {
                return Ok(Answer { turns, ..Answer::default() });
            }
            let Some(guard) = lock.try_acquire_for(Duration::from_nanos(until - asked)).await?
            else {
                return Ok(Answer { turns, ..Answer::default() });
            };
            let had = clock::now();
            clock::hold_for(hold);
            turns.push([asked, had, clock::now()]);
            guard.release().await?;
        }
    }

    async fn group(&self, group: &str, count: usize) -> anyhow::Result<Answer> {
        let coordinator = self.coordinator()?;
        let mut steps = Vec::with_capacity(count);
        for _ in 0..count {
            let mut began = Instant::now();
            let mut step = || {
                let now = Instant::now();
                nanos(now.duration_since(std::mem::replace(&mut began, now)))
            };
            coordinator.create_group(group).await?;
            let create = step();
            coordinator.join_group(group, &()).await?;
            let join = step();
            coordinator.members(group).await?;
            let members = step();
            coordinator.leave_group(group).await?;
            let leave = step();
            coordinator.delete_group(group).await?;
            steps.push([create, join, members, leave, step()]);
        }
        Ok(Answer { steps, ..Answer::default() })
    }

    async fn watch(&mut self, group: &str) -> anyhow::Result<Answer> {
        let mut events = self.coordinator()?.watch_group(group).await?;
        // The snapshot.
        events.next().await.context("the watch ended")?;
        self.watch = Some(events);
        Ok(Answer::default())
    }

    async fn event(&mut self, member: &str, joined: bool) -> anyhow::Result<Answer> {
        let events = self.watch.as_mut().context("no watch")?;
        loop {
            let (who, is_join) = match events.next().await.context("the watch ended")? {
                GroupEvent::Joined(member) => (member.id, true),
                GroupEvent::Left(member) => (member.id, false),
                _ => continue,
            };
            if is_join == joined && who == MemberId::from(member) {
                return Ok(Answer::at(clock::now()));
            }
        }
    }

    async fn crowd(&mut self, group: &str, count: usize, bytes: usize) -> anyhow::Result<Answer> {
        let capabilities = "x".repeat(bytes);
        for _ in 0..count {
            let member = format!("crowd-{}", self.crowd.len());
            let coordinator = tooz::get_coordinator(&self.url, member)?;
            coordinator.start().await?;
            coordinator.join_group_create(group, &capabilities).await?;
            self.crowd.push(coordinator);
        }
        Ok(Answer::default())
    }

    async fn read_group(&self, group: &str, count: usize) -> anyhow::Result<Answer> {
        let coordinator = self.coordinator()?;
        let (mut times, mut bytes) = (Vec::with_capacity(count), 0);
        for _ in 0..count {
            let began = Instant::now();
            let members = coordinator.members_with_capabilities(group).await?;
            times.push(nanos(began.elapsed()));
            bytes = members.iter().map(|member| member.id.as_bytes().len() as u64).sum();
        }
        Ok(Answer { times, bytes: Some(bytes), ..Answer::default() })
    }

    /// A hundred at a time, as a service that starts would.
    async fn hold(&mut self, prefix: &str, count: usize) -> anyhow::Result<Answer> {
        let coordinator = self.coordinator()?.clone();
        let began = Instant::now();
        for first in (0..count).step_by(100) {
            let mut acquisitions = JoinSet::new();
            for number in first..count.min(first + 100) {
                let lock = coordinator.lock(format!("{prefix}-{number}"))?;
                acquisitions.spawn(async move { lock.acquire().await });
            }
            while let Some(guard) = acquisitions.join_next().await {
                self.held.push(guard??);
            }
        }
        Ok(Answer::took(began.elapsed()))
    }

    async fn beats(&self, count: usize) -> anyhow::Result<Answer> {
        let coordinator = self.coordinator()?;
        Ok(timed!(count, coordinator.heartbeat().await?))
    }

    async fn let_go(&mut self) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let mut releases: JoinSet<_> = self.held.drain(..).map(LockGuard::release).collect();
        while let Some(released) = releases.join_next().await {
            released??;
        }
        Ok(Answer::took(began.elapsed()))
    }

    fn wait(&mut self, name: &str, count: usize) -> anyhow::Result<Answer> {
        for _ in 0..count {
            let lock = self.coordinator()?.lock(name)?;
            let turns = self.turns.clone();
            self.waiting.spawn(async move {
                loop {
                    let guard = lock.acquire().await?;
                    turns.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
                    guard.release().await?;
                }
            });
        }
        Ok(Answer::default())
    }

    async fn waited(&mut self) -> anyhow::Result<Answer> {
        // Who waits ends only when it fails.
        while let Some(failed) = self.waiting.try_join_next() {
            failed??;
        }
        self.waiting.shutdown().await;
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Answer { moments: std::mem::take(&mut *turns), ..Answer::default() })
    }

    /// Asks who leads, which over `memory://` is nothing but the way to the engine and back.
    async fn hops(&self, group: &str, count: usize) -> anyhow::Result<Answer> {
        let coordinator = self.coordinator()?;
        Ok(timed!(count, coordinator.leader(group).await?))
    }
}

fn ring(nodes: usize, batches: usize) -> anyhow::Result<Answer> {
    let mut ring = HashRing::new();
    ring.add_all((0..nodes).map(|node| (format!("node-{node}"), 1)))?;
    let keys: Vec<_> = (0..1000).map(|key| format!("key-{key}")).collect();
    Ok(timed!(
        batches,
        for key in &keys {
            std::hint::black_box(ring.node(key));
        }
    ))
}

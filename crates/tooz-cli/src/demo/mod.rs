//! `tooz demo`: five processes coordinate before your eyes, and survive their leader's death.
//!
//! Each thing that it shows is a claim, which is checked: from what the workers report, from what a
//! coordinator of its own sees, and from a record that the workers write under the lock.

mod cast;
mod claims;
mod fencing;
mod jobs;
mod pace;
mod screen;
mod worker;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tooz::{Coordinator, CoordinatorUrl, ErrorKind, Feature, Features, MemberId};

use self::cast::{Cast, Setting, State};
use self::claims::{Claims, read_record};
use self::jobs::JOBS;
use self::pace::Pace;
use self::screen::{Screen, Tone};
pub(crate) use self::worker::{WorkerArgs, work};
use crate::connect::{self, Target};
use crate::output::{self, Output, chain};
use crate::signals::Signals;

/// Which of the demonstrations.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Shows instead what a lock alone cannot prevent: a writer that was stopped and goes on too late,
    /// once without the check of its fencing token at the resource, and once with it
    #[arg(long)]
    fencing: bool,

    /// With --fencing: writes to PostgreSQL, without TLS, instead of a file; makes a schema of its own
    /// there, and removes it. A password in it is visible to every user of the host
    #[arg(long, value_name = "URL", requires = "fencing")]
    resource: Option<String>,
}

const WORKERS: usize = 5;

/// How far apart the workers start, so that one can watch them join.
const BETWEEN_STARTS: Duration = Duration::from_millis(350);
/// How long each part is shown at least.
const SCENE: Duration = Duration::from_millis(2_500);
/// How long a step may take for which no time is claimed.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it ends at the latest, if a death is known at once. All steps together stay below it only
/// if most are quicker than they may be.
const CURTAIN: Duration = Duration::from_secs(20);
/// The pause between two looks at what is left.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(target: &Target, args: DemoArgs, out: Output) -> Result<u8> {
    let mut signals = Signals::listen(None)?;
    let stage = tempfile::Builder::new().prefix("tooz-demo-").tempdir();
    let stage = stage.context("cannot make a temporary directory")?;
    if args.fencing {
        return fence(target, args.resource.as_deref(), &stage, out, &mut signals).await;
    }
    let (setting, limit) = setting(target, &stage)?;

    let shown = setting.url.parse::<CoordinatorUrl>()?;
    let title = format!("tooz demo: {WORKERS} processes, {JOBS} jobs and a lock on {shown}");
    let screen = Screen::new(out.json, title)?;
    let coordinator = tooz::get_coordinator(&setting.url, "demo")?;
    signals.interrupt(coordinator.start()).await??;
    let (group, lock) = (setting.group.clone(), setting.lock.clone());
    let played = play(&coordinator, setting, screen, limit, &mut signals).await;
    let cleaned = signals.interrupt(clean(&coordinator, &group, &lock, limit)).await;
    if let Ok(Err(error)) = &cleaned {
        output::note(&format!("the group {group} is left on the backend: {}", chain(error)));
    }
    connect::stop(&coordinator).await;
    played
}

/// The demonstration of fences.
async fn fence(
    target: &Target,
    resource: Option<&str>,
    stage: &TempDir,
    out: Output,
    signals: &mut Signals,
) -> Result<u8> {
    let mut tell = |time: Duration, text: &str| {
        let seconds = time.as_secs_f64();
        if out.json {
            return Ok(out.value(&serde_json::json!({"seconds": seconds, "event": text}))?);
        }
        Ok(out.line(&format!("{seconds:6.1} s  {text}"))?)
    };
    let show = fencing::run(url(target, stage)?, resource, stage.path(), &mut tell);
    let shown = signals.interrupt(show).await;
    if shown.is_err() {
        fencing::clean(resource, stage.path()).await?;
    }
    Ok(u8::from(!shown??))
}

/// One of its processes.
pub(crate) async fn write() -> Result<u8> {
    fencing::write().await.map(|()| 0)
}

/// The demonstration, and what was seen in it. Whatever comes out, no worker runs afterwards.
async fn play(
    coordinator: &Coordinator,
    setting: Setting,
    screen: Screen,
    limit: Duration,
    signals: &mut Signals,
) -> Result<u8> {
    let (group, lock) = (setting.group.clone(), setting.lock.clone());
    let record = setting.record.clone();
    let mut cast = signals.interrupt(Cast::new(coordinator, setting, screen)).await??;
    let mut claims = Claims::default();
    let play = async {
        let curtain = CURTAIN + limit * 2;
        match tokio::time::timeout(curtain, show(&mut cast, &mut claims, limit)).await {
            Ok(shown) => shown?,
            Err(_) => claims.add(format!("it ends within {curtain:?}"), Err("it did not".into())),
        }
        let killed = cast.workers.iter().find(|w| w.state == State::Killed).map(|w| &*w.name);
        check_record(&record, killed, &mut claims)?;
        check_residue(coordinator, &group, &lock, &mut claims).await;
        cast.screen.summary(&claims)?;
        Ok(u8::from(claims.failed() > 0))
    };
    let played = signals.interrupt(play).await;
    // The living ones release what they have; what the killed have stays theirs for a while.
    cast.dismiss().await;
    let ended = cast.until(PATIENCE, |cast| cast.alive().count() == 0);
    // Their errors have been shown.
    let _ = signals.interrupt(ended).await;
    cast.clear().await;
    played?
}

/// Removes the group with whoever is still in it, and the lock. Nobody needs them any more.
async fn clean(
    coordinator: &Coordinator,
    group: &str,
    lock: &str,
    limit: Duration,
) -> tooz::Result<()> {
    // What a killed worker has ends by itself; not every driver can end it sooner.
    let _ = coordinator.lock(lock)?.break_lock().await;
    let began = Instant::now();
    loop {
        match remove(coordinator, group).await {
            Err(error) if error.kind() == ErrorKind::GroupNotCreated => return Ok(()),
            Err(_) if began.elapsed() < limit => tokio::time::sleep(PAUSE).await,
            removed => return removed,
        }
    }
}

async fn remove(coordinator: &Coordinator, group: &str) -> tooz::Result<()> {
    for member in coordinator.members(group).await? {
        coordinator.remove_member(group, member).await?;
    }
    coordinator.delete_group(group).await
}

/// The user's backend, or one of our own that lasts as long as the demonstration; and how soon it
/// notices a death.
fn setting(target: &Target, stage: &TempDir) -> Result<(Setting, Duration)> {
    let Pace { url, limit } = suits(url(target, stage)?)?;
    let record = stage.path().join("record");
    std::fs::write(&record, "").context("cannot write the record")?;
    let run = std::process::id();
    let (group, lock) = (format!("tooz-demo-{run}"), format!("tooz-demo-lock-{run}"));
    Ok((Setting { url, group, lock, record }, limit))
}

fn url(target: &Target, stage: &TempDir) -> Result<String> {
    match target.chosen_url() {
        Some(url) => Ok(url.to_owned()),
        None => connect::file_url(&stage.path().join("store")),
    }
}

/// Fails unless several processes can use the backend and it has every feature that is shown.
/// Returns the pace.
fn suits(text: String) -> Result<Pace> {
    const NEEDED: Features = Features::of(&[
        Feature::Locks,
        Feature::FencingTokens,
        Feature::Groups,
        Feature::Capabilities,
        Feature::Events,
        Feature::Elections,
    ]);
    let url: CoordinatorUrl = text.parse()?;
    let driver = pace::driver(&url)?;
    pace::needs(&driver, NEEDED)?;
    Ok(Pace::of(&driver, text, &url))
}

/// The plot.
async fn show(cast: &mut Cast, claims: &mut Claims, limit: Duration) -> Result<()> {
    everybody_joins(cast, claims).await?;
    work_goes_on(cast, claims, "at first").await?;
    the_leader_dies(cast, claims, limit).await?;
    work_goes_on(cast, claims, "after it").await?;
    everybody_leaves(cast, claims).await
}

async fn everybody_joins(cast: &mut Cast, claims: &mut Claims) -> Result<()> {
    for _ in 0..WORKERS {
        cast.start_worker()?;
        cast.until(BETWEEN_STARTS, |_| false).await?;
    }
    let joined = cast.until(PATIENCE, Cast::all_joined).await?;
    let seen = format!("{} members", cast.members.len());
    claims.add("five processes join the group", happened(joined, &seen));

    let led = cast.until(PATIENCE, |cast| cast.only_leader().is_some()).await?;
    claims.add("they elect one leader", happened(led, &leader_of(cast)));
    Ok(())
}

/// The jobs are shared, and the workers take turns with the lock.
async fn work_goes_on(cast: &mut Cast, claims: &mut Claims, when: &str) -> Result<()> {
    let shared = cast.until(PATIENCE, Cast::jobs_are_shared).await?;
    let text = format!("each of the {JOBS} jobs has one owner {when}");
    claims.add(text, happened(shared, &cast.shares()));

    let scene = Instant::now();
    let before: Vec<_> = cast.workers.iter().map(|worker| worker.turns).collect();
    let turns = |cast: &Cast| {
        let turns = cast.workers.iter().zip(&before).filter(|(worker, _)| worker.is_alive());
        turns.map(|(worker, before)| worker.turns - before).min().unwrap_or(0)
    };
    let turned = cast.until(PATIENCE, |cast| turns(cast) > 0).await?;
    cast.until(SCENE.saturating_sub(scene.elapsed()), |_| false).await?;
    let text = format!("each of them holds the lock {when}");
    claims.add(text, happened(turned, &format!("{} at least", times(turns(cast)))));
    Ok(())
}

async fn the_leader_dies(cast: &mut Cast, claims: &mut Claims, limit: Duration) -> Result<()> {
    let Some(leader) = cast.only_leader() else {
        claims.add("the leader is killed", Err("nobody leads".into()));
        return Ok(());
    };
    // While it holds the lock, if that happens soon: then lock and leadership must both move.
    cast.until(PATIENCE, |cast| cast.workers[leader].inside).await?;
    let old = MemberId::from(&cast.workers[leader].name);
    let turns = |cast: &Cast| cast.workers.iter().map(|worker| worker.turns).sum::<usize>();
    let before = turns(cast);
    cast.kill(leader)?;

    // They come in any order: each moment is noted as it is seen.
    let killed = Instant::now();
    let (mut gone, mut led, mut shared, mut locked) = (None, None, None, None);
    cast.until(limit * 2, |cast| {
        let note = |moment: &mut Option<Duration>, happened: bool| {
            if happened {
                moment.get_or_insert(killed.elapsed());
            }
        };
        note(&mut gone, !cast.members.contains(&old));
        note(&mut led, cast.only_leader().is_some());
        note(&mut shared, cast.jobs_are_shared());
        note(&mut locked, turns(cast) > before);
        [gone, led, shared, locked].iter().all(Option::is_some)
    })
    .await?;
    claims.within("a new leader takes over", limit, led);
    claims.within("the dead one is out of the group", limit, gone);
    claims.within("its jobs have new owners", limit, shared);
    claims.within("another holds its lock", limit, locked);
    let rising = cast.terms.is_sorted_by(|a, b| a < b);
    let terms: Vec<_> = cast.terms.iter().map(ToString::to_string).collect();
    let seen = format!("terms with the tokens {}", terms.join(", "));
    let once = rising && cast.terms.len() == 2;
    claims.add("one leader at a time, and tokens rise", if once { Ok(seen) } else { Err(seen) });
    if let Some(took) = led {
        let text = format!("{}, {} ms after the death", leader_of(cast), took.as_millis());
        cast.screen.tell(Tone::Good, &text)?;
    }
    Ok(())
}

async fn everybody_leaves(cast: &mut Cast, claims: &mut Claims) -> Result<()> {
    cast.screen.tell(Tone::Plain, "all are asked to stop")?;
    cast.dismiss().await;
    let ended = |cast: &Cast| cast.alive().count() == 0;
    let all = cast.until(PATIENCE, ended).await?;
    let well = cast.workers.iter().filter(|w| w.state == State::Ended { well: true }).count();
    let seen = format!("{well} ended well");
    let good = all.is_some() && well == WORKERS - 1;
    claims.add("the others release everything and end", if good { Ok(seen) } else { Err(seen) });
    if !cast.troubles.is_empty() {
        claims.add("no worker is in trouble", Err(cast.troubles.join("; ")));
    }
    Ok(())
}

/// What the workers wrote into the record under the lock.
fn check_record(record: &Path, killed: Option<&str>, claims: &mut Claims) -> Result<()> {
    let record = std::fs::read_to_string(record).context("cannot read the record")?;
    let seen = read_record(&record, killed)
        .map(|turns| format!("{} turns, with tokens up to {}", turns.count, turns.last_token));
    claims.add("never two hold the lock, and tokens rise", seen);
    Ok(())
}

/// What is left on the backend: nothing that anybody holds.
async fn check_residue(coordinator: &Coordinator, group: &str, lock: &str, claims: &mut Claims) {
    let look = async {
        let (members, leader) =
            (coordinator.members(group).await?, coordinator.leader(group).await?);
        let free = match coordinator.lock(lock)?.try_acquire().await? {
            Some(guard) => guard.release().await.map(|_| true)?,
            None => false,
        };
        Ok::<_, tooz::Error>((members.len(), leader, free))
    };
    let seen = match look.await {
        Ok((0, None, true)) => Ok("no member, no leader, a free lock".into()),
        Ok((members, leader, free)) => Err(format!(
            "{members} members, {}, {} lock",
            leader.map_or("no leader".into(), |leader| format!("{leader} leads")),
            if free { "a free" } else { "a held" },
        )),
        Err(error) => Err(chain(&error)),
    };
    claims.add("nothing is left on the backend", seen);
}

/// What was seen counts only if it came in time.
fn happened(took: Option<Duration>, seen: &str) -> Result<String, String> {
    match took {
        Some(_) => Ok(seen.to_owned()),
        None => Err(format!("only {seen}, after {PATIENCE:?}")),
    }
}

fn leader_of(cast: &Cast) -> String {
    match cast.only_leader() {
        Some(leader) => format!("{} leads", cast.workers[leader].name),
        None => "not one leader".into(),
    }
}

fn times(count: usize) -> String {
    match count {
        1 => "once".into(),
        count => format!("{count} times"),
    }
}

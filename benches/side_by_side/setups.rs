//! The backends, and who contends over each.

use std::env;
use std::time::Duration;

use anyhow::Context as _;
use tooz_benches::record::{RAW, THREADED_RAW, is_raw};
use tooz_setups::{Benchmark, Python};

use crate::contestant::Contestant;

/// A backend that is there.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    /// Where its server is.
    pub(crate) url: String,
    pub(crate) short: &'static str,
    pub(crate) ttl: Duration,
    pub(crate) contestants: Vec<Contestant>,
    /// What a backend without a server keeps.
    _folder: Option<tempfile::TempDir>,
}

/// Those that `cargo xtask bench` started.
pub(crate) fn wanted() -> anyhow::Result<Vec<Setup>> {
    let names = env::var("TOOZ_TEST_SETUPS").context("it is run by `cargo xtask bench`")?;
    names.split(',').map(Setup::named).collect()
}

impl Setup {
    fn named(name: &str) -> anyhow::Result<Self> {
        let setup = tooz_setups::find(name).map_err(anyhow::Error::msg)?;
        let benchmark =
            setup.benchmark.as_ref().with_context(|| format!("{name} has no benchmarks"))?;
        let mut folder = None;
        let url = match setup.server {
            None if setup.scheme == "file" => {
                let made = tempfile::Builder::new().prefix("tooz-bench-").tempdir()?;
                let url = setup.url(&made.path().display().to_string());
                folder = Some(made);
                url
            }
            None => setup.url(""),
            Some(_) => {
                let variable = setup.url_variable();
                env::var(&variable).with_context(|| format!("{variable} is not set"))?
            }
        };
        let contestants = contestants(benchmark, &url)?;
        let Benchmark { short, ttl, .. } = *benchmark;
        Ok(Self { name: setup.name, url, short, ttl, contestants, _folder: folder })
    }

    /// The one of that name.
    pub(crate) fn contestant(&self, name: &str) -> anyhow::Result<&Contestant> {
        let found = self.contestants.iter().find(|contestant| contestant.name == name);
        found.with_context(|| format!("{name} does not take part over {}", self.name))
    }

    /// Ours, and the original where it has a driver.
    pub(crate) fn coordinators(&self) -> impl Iterator<Item = &Contestant> {
        self.contestants.iter().filter(|c| c.name == OURS || c.name.starts_with("Python"))
    }

    /// All that have locks, each called in one way only.
    pub(crate) fn locks(&self) -> impl Iterator<Item = &Contestant> {
        self.contestants.iter().filter(|c| !is_raw(&c.name) && !c.name.contains(", "))
    }
}

pub(crate) const OURS: &str = "tooz";

fn contestants(benchmark: &Benchmark, url: &str) -> anyhow::Result<Vec<Contestant>> {
    let this = env::current_exe()?.display().to_string();
    let worker = |name: &str, caller: &str| {
        let called = match caller {
            "multi-thread" => name.to_owned(),
            caller => format!("{name}, {caller}"),
        };
        let arguments = ["--worker", name, caller].map(str::to_owned).to_vec();
        Contestant { name: called, program: this.clone(), arguments, url: url.to_owned() }
    };
    let mut all = Vec::new();
    for caller in ["multi-thread", "spawned", "current-thread"] {
        all.push(worker(RAW, caller));
        all.push(worker(THREADED_RAW, caller));
        all.push(worker(OURS, caller));
    }
    if let Some(version) = benchmark.python {
        all.push(python(version, url)?);
    }
    for name in benchmark.crates {
        all.push(match *name {
            "zookeeper-client" => worker(name, "multi-thread"),
            // They have a program of their own, since nothing else needs what they bring.
            name => Contestant {
                name: name.to_owned(),
                program: env::var("TOOZ_BENCH_CRATES").context("TOOZ_BENCH_CRATES is not set")?,
                arguments: vec![name.to_owned()],
                url: url.to_owned(),
            },
        });
    }
    Ok(all)
}

fn python(version: Python, url: &str) -> anyhow::Result<Contestant> {
    let variable = version.variable();
    Ok(Contestant {
        name: format!("Python tooz {}", version.version()),
        program: env::var(variable).with_context(|| format!("{variable} is not set"))?,
        arguments: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/python/contestant.py").to_owned()],
        url: url.to_owned(),
    })
}

/// What needs no backend: the engine and the ring.
pub(crate) fn alone() -> anyhow::Result<Vec<Contestant>> {
    let none = Benchmark { python: None, crates: &[], short: "", ttl: Duration::ZERO };
    let mut all = contestants(&none, "memory://bench")?;
    all.retain(|contestant| contestant.name.starts_with(OURS));
    all.push(python(Python::V9_1, "")?);
    Ok(all)
}

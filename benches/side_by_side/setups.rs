//! The backends, and who contends over each.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tooz_benches::record::{RAW, THREADED_RAW, is_raw};

use crate::contestant::Contestant;

/// What is known of a backend.
#[derive(Debug)]
struct Facts {
    name: &'static str,
    /// The scheme of a URL that needs no server.
    embedded: Option<&'static str>,
    /// Names the interpreter with the original, and its version.
    python: Option<(&'static str, &'static str)>,
    /// Other crates, as the tables call them.
    crates: &'static [&'static str],
    /// URL options for a short time to live, and what they make of it. It is zero where a death
    /// is seen by the end of a connection or of a process.
    short: &'static str,
    ttl: Duration,
}

const V9: Option<(&str, &str)> = Some(("TOOZ_PYTHON", "Python tooz 9.1"));
const V8: Option<(&str, &str)> = Some(("TOOZ_PYTHON_8_1", "Python tooz 8.1"));

const FACTS: &[Facts] = &[
    Facts::new("file", V9, &["distributed-lock"], "", 0).embedded("file"),
    Facts::new("ipc", V9, &[], "", 0).embedded("ipc"),
    Facts::new("zookeeper", V9, &["zookeeper-client"], "timeout=3", 3),
    Facts::new("redis", V9, &["distributed-lock", "rslock"], "timeout=3", 3),
    Facts::new("memcached", V9, &[], "timeout=4", 4),
    Facts::new("etcd", V8, &[], "timeout=3", 3),
    Facts::new("etcd3", None, &["etcd-client"], "timeout=3", 3),
    Facts::new("etcd3-http", V9, &[], "timeout=3", 3),
    Facts::new("consul", V8, &[], "ttl=3&lock_delay=0", 3),
    Facts::new("postgresql", V9, &["distributed-lock"], "", 0),
    Facts::new("mysql", V9, &["distributed-lock"], "", 0),
    Facts::new("mariadb", V9, &["distributed-lock"], "", 0),
];

impl Facts {
    const fn new(
        name: &'static str,
        python: Option<(&'static str, &'static str)>,
        crates: &'static [&'static str],
        short: &'static str,
        ttl: u64,
    ) -> Self {
        let ttl = Duration::from_secs(ttl);
        Self { name, embedded: None, python, crates, short, ttl }
    }

    const fn embedded(self, scheme: &'static str) -> Self {
        Self { embedded: Some(scheme), ..self }
    }
}

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
        let Some(facts) = FACTS.iter().find(|facts| facts.name == name) else {
            let known: Vec<_> = FACTS.iter().map(|facts| facts.name).collect();
            bail!("{name} has no benchmarks; there are {}", known.join(", "));
        };
        let mut folder = None;
        let url = match facts.embedded {
            Some("file") => {
                let made = tempfile::Builder::new().prefix("tooz-bench-").tempdir()?;
                let url = format!("file://{}", made.path().display());
                folder = Some(made);
                url
            }
            Some(scheme) => format!("{scheme}://"),
            None => {
                let variable = format!("TOOZ_TEST_URL_{}", name.to_uppercase().replace('-', "_"));
                env::var(&variable).with_context(|| format!("{variable} is not set"))?
            }
        };
        let Facts { name, short, ttl, .. } = *facts;
        let contestants = contestants(facts, &url)?;
        Ok(Self { name, url, short, ttl, contestants, _folder: folder })
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

fn contestants(facts: &Facts, url: &str) -> anyhow::Result<Vec<Contestant>> {
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
    if let Some((variable, name)) = facts.python {
        all.push(python(variable, name, url)?);
    }
    for name in facts.crates {
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

fn python(variable: &str, name: &str, url: &str) -> anyhow::Result<Contestant> {
    Ok(Contestant {
        name: name.to_owned(),
        program: env::var(variable).with_context(|| format!("{variable} is not set"))?,
        arguments: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/python/contestant.py").to_owned()],
        url: url.to_owned(),
    })
}

/// What needs no backend: the engine and the ring.
pub(crate) fn alone() -> anyhow::Result<Vec<Contestant>> {
    let facts = Facts::new("memory", None, &[], "", 0);
    let mut all = contestants(&facts, "memory://bench")?;
    all.retain(|contestant| contestant.name.starts_with(OURS));
    if let Some((variable, name)) = V9 {
        all.push(python(variable, name, "")?);
    }
    Ok(all)
}

//! The Python environment of the tests that look at the original itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use tooz_setups::Python;

use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::{servers, workspace};

/// A version of the original that tests run beside.
struct Original {
    /// Which one.
    python: Python,
    /// As pip has it.
    version: &'static str,
    /// What its drivers need beside it.
    packages: &'static [Package],
}

/// A package of Python's.
struct Package {
    /// What pip calls it.
    name: &'static str,
    /// What `import` calls it.
    module: &'static str,
    /// Whether it is built here: what is built elsewhere lacks something.
    from_source: bool,
}

impl Package {
    const fn new(name: &'static str, module: &'static str) -> Self {
        Self { name, module, from_source: false }
    }
}

/// The latest version, and the last before it dropped drivers and spelled its keys in Redis another
/// way.
const ORIGINALS: [Original; 2] = [
    Original {
        python: Python::V9_1,
        version: "9.1.0",
        packages: &[
            Package::new("redis", "redis"),
            Package::new("kazoo", "kazoo"),
            Package::new("pymemcache", "pymemcache"),
            Package::new("psycopg2-binary", "psycopg2"),
            Package::new("PyMySQL", "pymysql"),
            Package::new("etcd3gw", "etcd3gw"),
            // The one that is built already has no semtimedop: it can only wait for ever.
            Package { name: "sysv_ipc", module: "sysv_ipc", from_source: true },
        ],
    },
    Original {
        python: Python::V8_1,
        version: "8.1.0",
        packages: &[
            Package::new("redis", "redis"),
            Package::new("python-etcd", "etcd"),
            Package::new("python-consul2", "consul"),
        ],
    },
];

/// The interpreters of all versions, each behind the variable that names it for tests.
pub(crate) fn interpreters(interrupt: &Interrupt) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let named = |original: &Original| {
        Ok((original.python.variable().into(), original.interpreter(interrupt)?.into()))
    };
    ORIGINALS.iter().map(named).collect()
}

/// What Debian has in a package of its own.
const VENV: (&str, &str) = ("import venv, ensurepip", "python3-venv");

impl Original {
    /// The interpreter that the user names, or that of an environment of our own under `target`,
    /// which is made unless it is there.
    fn interpreter(&self, interrupt: &Interrupt) -> anyhow::Result<PathBuf> {
        if let Some(python) = std::env::var_os(self.python.variable()) {
            return Ok(python.into());
        }
        let folder = workspace::root().join("target").join(format!("python-tooz-{}", self.version));
        let python = folder.join("bin/python");
        // Fails unless all is there.
        let import = format!(
            "import importlib.metadata, {}, tooz.coordination\n\
             assert importlib.metadata.version('tooz') == '{}'",
            self.packages.iter().map(|package| package.module).collect::<Vec<_>>().join(", "),
            self.version
        );
        if can(&python, &import) {
            println!("{} is there", folder.display());
            return Ok(python);
        }
        println!("making {}", folder.display());
        let mut make = Command::new(with_venv()?);
        // What a run that was interrupted left is cleared away.
        make.args(["-m", "venv", "--clear"]).arg(&folder);
        run(make, interrupt)
            .context("the environment for the tests against Python was not made")?;
        let tooz = format!("tooz=={}", self.version);
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", &tooz]);
        for package in self.packages {
            if package.from_source {
                install.args(["--no-binary", package.name]);
            }
            install.arg(package.name);
        }
        run(install, interrupt).with_context(|| format!("cannot install {tooz}"))?;
        ensure!(can(&python, &import), "installed, but {} cannot import tooz", python.display());
        Ok(python)
    }
}

/// A Python that can make environments.
fn with_venv() -> anyhow::Result<PathBuf> {
    let (test, package) = VENV;
    // The first on the path need not be the system's, for which the package is.
    let find =
        || ["python3", "/usr/bin/python3"].map(PathBuf::from).into_iter().find(|p| can(p, test));
    if let Some(python) = find() {
        return Ok(python);
    }
    servers::install_packages(&[package])?;
    find().with_context(|| format!("installed {package}, but no python3 can make environments"))
}

/// Whether there is such an interpreter and the script succeeds on it.
fn can(python: &Path, script: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(mut command: Command, interrupt: &Interrupt) -> anyhow::Result<()> {
    command.stdin(Stdio::null());
    let status = Process::spawn("python", &mut command, Signal::SIGTERM)?.wait(interrupt)?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

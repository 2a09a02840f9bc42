//! `cargo xtask ci`: everything that continuous integration checks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nix::sys::signal::Signal;

use crate::built::{self, Built, EVERYTHING};
use crate::interrupt::{Interrupt, Interrupted};
use crate::process::Process;
use crate::servers::{self, Host};
use crate::{mixed_fleet, python, test_backends, tidy, workspace};

/// The hand-off while processes are killed, over servers too.
const HAND_OFF: &str = "hand_off";

/// The command's own tests, and those of them that need a server.
const COMMAND: (&str, [&str; 2]) = ("cli", ["hang::", "messages::"]);

/// The checks at the resources, over the servers that are such.
const FENCES: &str = "tooz-fence";

/// The demonstration over every server, in the command's package.
const DEMONSTRATION: &str = "every_setup";

/// The crate whose features choose the drivers.
const FACADE: &str = "tooz";

/// What the command line says.
#[derive(Args)]
pub(crate) struct Options {
    /// Leaves out the slow steps: documentation, each feature alone, the tests against Python, the
    /// live servers.
    #[arg(long)]
    quick: bool,
    /// Runs only these steps, by the names that a run shows.
    #[arg(long, value_name = "STEP", value_delimiter = ',', conflicts_with = "quick")]
    only: Vec<String>,
    /// Runs only the live tests of this driver's crate, over the servers of its setups.
    #[arg(long, value_name = "CRATE", conflicts_with = "quick")]
    driver: Option<String>,
}

/// The steps in their order.
const STEPS: [&str; 9] = [
    "format",
    "tidy",
    "clippy",
    "documentation",
    "features",
    "tests",
    "servers",
    "mixed fleet",
    "live tests",
];

/// The steps of a quick run.
const QUICK: [&str; 4] = ["format", "tidy", "clippy", "tests"];

/// The steps to do, and those done so far.
struct Steps<'a> {
    interrupt: &'a Interrupt,
    wanted: Vec<&'static str>,
    done: Vec<(&'static str, Duration)>,
}

/// Runs the steps, the cheap ones first, and stops at the first that fails.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut steps = Steps { interrupt, wanted: wanted(options)?, done: Vec::new() };
    let result = all(options, &mut steps);
    println!();
    for (name, time) in &steps.done {
        println!("{name:<14} ok  {:>6.1} s", time.as_secs_f32());
    }
    result
}

fn wanted(options: &Options) -> anyhow::Result<Vec<&'static str>> {
    if options.quick {
        return Ok(QUICK.to_vec());
    }
    for name in &options.only {
        let known = STEPS.join(", ");
        ensure!(STEPS.contains(&&**name), "no step is called `{name}`; there are {known}");
    }
    let is_asked = |step: &&str| options.only.is_empty() || options.only.iter().any(|o| o == step);
    Ok(STEPS.into_iter().filter(is_asked).collect())
}

fn all(options: &Options, steps: &mut Steps<'_>) -> anyhow::Result<()> {
    steps.cargo("format", &["fmt", "--all", "--check"])?;
    steps.step("tidy", |_| tidy::check())?;
    let clippy = [&["clippy", "--all-targets"], &EVERYTHING[..], &["--", "-D", "warnings"]];
    steps.cargo("clippy", &clippy.concat())?;
    steps.step("documentation", |interrupt| {
        let mut doc = workspace::cargo();
        doc.args(["doc", "--no-deps"]).args(EVERYTHING);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        finish(doc, interrupt)
    })?;
    steps.step("features", each_feature)?;
    // A quick run looks at no Python.
    let pythons = |interrupt: &Interrupt| match options.quick {
        true => Ok(Variables::new()),
        false => python::interpreters(interrupt),
    };
    steps.step("tests", |interrupt| {
        let mut test = workspace::cargo();
        // With the documentation's examples; the conformance suite runs where no server is needed.
        test.arg("test").args(EVERYTHING).envs(pythons(interrupt)?);
        finish(test, interrupt)
    })?;
    let setups = test_backends::served_setups();
    steps.step("servers", |interrupt| test_backends::run_installing(&setups, interrupt))?;
    steps.step("mixed fleet", mixed_fleet::run_short)?;
    let driver = options.driver.as_deref();
    steps.step("live tests", |interrupt| {
        live_tests(&setups, driver, &pythons(interrupt)?, interrupt)
    })
}

/// Environment variables for tests.
type Variables = Vec<(OsString, OsString)>;

/// The drivers' and the command's own tests over real servers and beside Python, the fences',
/// the hand-off test and the demonstration; for one driver, only its own tests.
fn live_tests(
    setups: &[&str],
    driver: Option<&str>,
    pythons: &Variables,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let setups = setups.iter().map(|name| servers::find(name));
    let mut setups = setups.collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(driver) = driver {
        setups.retain(|setup| setup.driver == driver);
        ensure!(!setups.is_empty(), "no setup with a server has the driver `{driver}`");
    }
    servers::install(&servers::of_each(&setups))?;
    let host = Host::new(interrupt)?;
    let (_running, urls) = servers::launch_each(&setups, &host)?;
    let served = setups.iter().filter(|setup| setup.server.is_some());
    let folders: BTreeSet<_> =
        served.map(|setup| workspace::root().join("crates").join(setup.driver)).collect();
    let fences = workspace::root().join("crates").join(FENCES);
    // The hand-off needs the machine for itself, as does every other: one after the other.
    let is_wanted = |program: &Built| {
        folders.contains(&program.folder)
            || (driver.is_none()
                && (program.folder == fences
                    || [HAND_OFF, DEMONSTRATION, COMMAND.0].contains(&&*program.target)))
    };
    let mut failures = Vec::new();
    for program in built::test_programs("*", interrupt)?.iter().filter(|built| is_wanted(built)) {
        println!("\n{} in {}", program.target, program.folder.display());
        let mut test = Command::new(&program.program);
        test.current_dir(&program.folder).envs(urls.iter().cloned()).envs(pythons.iter().cloned());
        if program.target == COMMAND.0 {
            test.args(COMMAND.1);
        }
        // The others are still worth running.
        match finish(test, interrupt) {
            Err(error) if !error.is::<Interrupted>() => failures.push(format!("{error:#}")),
            finished => finished?,
        }
    }
    ensure!(failures.is_empty(), failures.join("; "));
    Ok(())
}

/// Each feature of the facade and of the fences must build alone: with `--workspace` they would all be
/// on.
fn each_feature(interrupt: &Interrupt) -> anyhow::Result<()> {
    for package in [FACADE, FENCES] {
        let manifest = workspace::package(package)?;
        let features = manifest["features"].as_object().context("it has no features")?;
        ensure!(!features.is_empty(), "{package} has no features");
        let alone = features.keys().filter(|name| *name != "default").map(String::as_str);
        for feature in alone.chain([""]) {
            println!("{package}: {}", if feature.is_empty() { "(none)" } else { feature });
            let mut clippy = workspace::cargo();
            clippy.args(["clippy", "--quiet", "--package", package, "--no-default-features"]);
            clippy.args(["--features", feature, "--", "-D", "warnings"]);
            finish(clippy, interrupt)
                .with_context(|| format!("{package} with the feature `{feature}` alone"))?;
        }
    }
    Ok(())
}

impl Steps<'_> {
    fn cargo(&mut self, name: &'static str, arguments: &[&str]) -> anyhow::Result<()> {
        self.step(name, |interrupt| {
            let mut cargo = workspace::cargo();
            cargo.args(arguments);
            finish(cargo, interrupt)
        })
    }

    fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Interrupt) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if !self.wanted.contains(&name) {
            return Ok(());
        }
        println!("\n== {name}");
        let since = Instant::now();
        work(self.interrupt).with_context(|| format!("{name} failed"))?;
        self.done.push((name, since.elapsed()));
        println!("== {name}: ok, {:.1} s", since.elapsed().as_secs_f32());
        Ok(())
    }
}

fn finish(mut command: Command, interrupt: &Interrupt) -> anyhow::Result<()> {
    command.stdin(Stdio::null());
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    let status = Process::spawn(&program, &mut command, Signal::SIGTERM)?.wait(interrupt)?;
    if !status.success() {
        let arguments = command.get_args().map(|text| text.to_string_lossy().into_owned());
        let words: Vec<_> = [program].into_iter().chain(arguments).collect();
        bail!("`{}` ended with {status}", words.join(" "));
    }
    Ok(())
}

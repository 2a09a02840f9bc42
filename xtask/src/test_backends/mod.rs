//! `cargo xtask test-backends`: the conformance suite against real servers.

mod plan;
mod program;
mod report;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, bail};
use clap::Args;
use tooz_setups::{SETUPS, Setup};

use self::plan::Plan;
use self::program::{Run, TestProgram};
use self::report::Report;
use crate::interrupt::{Interrupt, Interrupted};
use crate::servers::{self, Host, Running, Server};

/// What the command line says.
#[derive(Args, Debug, Default)]
pub(crate) struct Options {
    /// Runs only these setups, instead of all.
    #[arg(long, value_name = "SETUP", value_delimiter = ',')]
    only: Vec<String>,
    /// Lists the setups and what each of them needs, then exits.
    #[arg(long)]
    list: bool,
    /// Installs missing servers, through apt.
    #[arg(long)]
    install: bool,
    /// Uses your server instead of a private one; SCHEME may also be a setup's name.
    #[arg(long, value_name = "SCHEME=URL")]
    url: Vec<String>,
    /// Runs a conformance program that is already built, of this workspace or of another driver.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Arguments after `--` go to the test program: a filter, `--exact`, `--test-threads 1`.
    #[arg(last = true, value_name = "ARGUMENT")]
    pass: Vec<String>,
}

/// A setup that can be run, and the URL of its server if it has one.
#[derive(Debug)]
struct Ready {
    setup: &'static Setup,
    url: Option<String>,
    /// Where its server may be harmed, if it is ours.
    control: Option<PathBuf>,
}

/// Servers that run, each with the server it was started from.
type Started<'a> = Vec<(&'static Server, Running<'a>)>;

/// Runs the command.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    if options.list {
        print!("{}", table::setups());
        return Ok(());
    }
    let plan = Plan::new(options)?;
    if options.install {
        servers::install(&plan.servers())?;
    }
    let program = match &options.binary {
        Some(file) => TestProgram::existing(file)?,
        None => TestProgram::build("conformance", interrupt)?,
    };
    let host = Host::new(interrupt)?;
    test(&plan, &program, &host, &options.pass)
}

/// The setups with a server: what plain `cargo test` cannot run.
pub(crate) fn served_setups() -> Vec<&'static str> {
    SETUPS.iter().filter(|setup| setup.server.is_some()).map(|setup| setup.name).collect()
}

/// Runs these setups and installs what they miss.
pub(crate) fn run_installing(setups: &[&str], interrupt: &Interrupt) -> anyhow::Result<()> {
    let only = setups.iter().map(|&name| name.to_owned()).collect();
    run(&Options { only, install: true, ..Options::default() }, interrupt)
}

/// Runs another test program on these setups as the conformance suite is run, with these
/// environment variables.
pub(crate) fn run_other(
    target: &str,
    setups: &[&str],
    variables: Vec<(OsString, OsString)>,
    install: bool,
    arguments: &[String],
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let only = setups.iter().map(|&name| name.to_owned()).collect();
    let plan = Plan::new(&Options { only, ..Options::default() })?;
    if install {
        servers::install(&plan.servers())?;
    }
    let program = TestProgram::build(target, interrupt)?.with(variables);
    let host = Host::new(interrupt)?;
    test(&plan, &program, &host, arguments)
}

fn test(
    plan: &Plan,
    program: &TestProgram,
    host: &Host,
    arguments: &[String],
) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let mut started = Started::new();
    let mut ready = Vec::new();
    for chosen in &plan.setups {
        match make_ready(chosen.setup, chosen.url.clone(), host, &mut started) {
            Ok(setup) => ready.push(setup),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                // The other setups are still worth running; this one fails the whole at the end.
                eprintln!("{error:#}");
                problems.push(format!("{} has no server", chosen.setup.name));
            }
        }
    }
    if ready.is_empty() {
        bail!("nothing was run: {}", problems.join("; "));
    }

    let over = AtomicBool::new(false);
    let (run, ends) = thread::scope(|scope| {
        let obeying: Vec<_> = started
            .iter_mut()
            .map(|(server, running)| (server.name, scope.spawn(|| running.obey(&over))))
            .collect();
        let run = program.run(&ready, arguments, host);
        over.store(true, Ordering::Relaxed);
        let ends: Vec<_> =
            obeying.into_iter().map(|(name, thread)| (name, thread.join())).collect();
        (run, ends)
    });
    let run = run?;
    problems.extend(judge(&run, &ready, plan.required));
    for (name, end) in ends {
        if let Some(end) = end.map_err(|_| anyhow!("the control of {name} panicked"))?? {
            problems.push(format!("{name} did not survive the tests: {end}"));
        }
    }
    if !problems.is_empty() {
        for (server, running) in &started {
            if is_suspect(server, &run.report, &ready) {
                eprintln!("\n{}: {}", server.name, running.log_tail());
            }
        }
    }
    println!("\n{}", table::results(&run.report, &ready));
    // Once more, where a reader of the end finds it.
    for failure in run.report.failures() {
        eprintln!("{}: {}", failure.name, failure.words);
    }
    if !problems.is_empty() {
        bail!(problems.join("; "));
    }
    Ok(())
}

/// Starts the setup's server, unless it needs none, has a URL, or shares one that runs.
fn make_ready<'a>(
    setup: &'static Setup,
    url: Option<String>,
    host: &'a Host,
    started: &mut Started<'a>,
) -> anyhow::Result<Ready> {
    let server = match (url, servers::of(setup)) {
        (Some(url), _) => return Ok(Ready { setup, url: Some(url), control: None }),
        (None, None) => return Ok(Ready { setup, url: None, control: None }),
        (None, Some(server)) => server,
    };
    if !started.iter().any(|(other, _)| other.name == server.name) {
        let since = Instant::now();
        let running = server.launch(host)?;
        eprintln!("{} is ready after {:.1} s", server.name, since.elapsed().as_secs_f32());
        started.push((server, running));
    }
    let running = started.iter().find(|(other, _)| other.name == server.name);
    let (url, control) = running
        .map(|(_, running)| (setup.url(running.address()), running.control().to_owned()))
        .unzip();
    Ok(Ready { setup, url, control })
}

/// Whether a server's log may explain what went wrong: every log may if no failed test tells more.
fn is_suspect(server: &Server, report: &Report, ready: &[Ready]) -> bool {
    let mut own = ready.iter().filter(|ready| ready.setup.server == Some(server.name));
    report.total().failed == 0 || own.any(|own| report.of_setup(own.setup.name).failed > 0)
}

/// What is wrong with a run, one sentence each; nothing when it is good.
fn judge(run: &Run, ready: &[Ready], required: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let report = &run.report;
    let total = report.total();
    let failed = total.failed.max(report.stated().map_or(0, |stated| stated.failed));
    if failed > 0 {
        problems.push(format!("failed tests: {failed}"));
    } else if !run.status.success() {
        problems.push(format!("the test program failed: {}", run.status));
    }
    if total.run() == 0 {
        problems.push("no test was run".to_owned());
    } else {
        // A filter may leave a setup without tests, unless that setup was asked for by name.
        let empty = ready.iter().filter(|r| report.of_setup(r.setup.name).run() == 0);
        for setup in empty.filter(|_| required) {
            problems.push(format!("{} has no test run", setup.setup.name));
        }
    }
    if report.stated().is_none() {
        problems.push("the test program did not reach its end".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests;

//! The `tooz` command: locks, groups and elections from the shell, and a demonstration.
//!
//! Exit codes: 0; 1 for an error, and for a group without a leader; 2 for wrong usage; 75 when a lock
//! was not acquired; 76 when a lock or a term was lost; 126 and 127 when CMD cannot be run; otherwise
//! CMD's own. A command that a signal ends, or whose CMD a signal ends, dies of that signal, which
//! shells show as 128 + n.

mod child;
mod connect;
mod demo;
mod drivers;
mod elect;
mod front;
mod grammar;
mod groups;
mod held;
mod join;
mod lock;
mod output;
mod pages;
mod ring;
mod signals;
mod stdout;
mod store;
mod stream;
mod url;
mod watch;

use std::ffi::OsString;
use std::fs::File;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::connect::Target;
use crate::output::{Output, Voice};
use crate::signals::Signals;
use crate::watch::What;

/// The lock was not acquired (`EX_TEMPFAIL` of sysexits: try again later).
const NOT_HAD: u8 = 75;
/// The lock or the term was lost while CMD ran.
const LOST: u8 = 76;

const AFTER: &str = "\
Exit codes:
  0    all went well
  1    an error, or a group without a leader
  2    wrong usage
  75   the lock was not acquired in time
  76   the lock or the term was lost while CMD ran
  126  CMD cannot be executed
  127  there is no such CMD
Otherwise the exit code is CMD's. When a signal ended tooz or CMD, tooz dies of the same signal.

Environment:
  TOOZ_URL     the backend, as --url
  TOOZ_MEMBER  the member id, as --member
  RUST_LOG     what is logged on standard error, by part of the program, such as tooz_redis=debug";

/// Locks, groups and leader election over the backend you have.
#[derive(Debug, Parser)]
#[command(name = "tooz", version, max_term_width = 100, after_long_help = AFTER)]
struct Cli {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    voice: Voice,

    /// The process in front of this one, which runs a command
    #[arg(long, hide = true)]
    front: Option<front::Link>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows five processes coordinate, and survive their leader's death
    ///
    /// They join a group, elect a leader, share out jobs and hold a lock in turn; then the leader is
    /// killed. Everything that is shown is checked: the exit code is 1 if any of it did not happen.
    /// Without --url it uses a directory of its own, which it removes. On a backend that notices a
    /// death by a timeout, the timeout is 4 s unless the URL sets another. It leaves nothing behind.
    Demo(demo::DemoArgs),
    Lock(lock::Args),
    Elect(elect::Args),
    Join(join::Args),
    /// Lists the groups
    Groups,
    /// Lists the members of a group
    Members(GroupArg),
    Leader(groups::LeaderArgs),
    Ring(ring::Args),
    /// Prints what happens in a group, until a signal
    ///
    /// Each line has the time in UTC. When the session or the backend is lost, a line says so, and
    /// the stream continues with what it finds afterwards.
    Watch(GroupArg),
    /// Lists the drivers that are built in
    Drivers,
    Completions(pages::CompletionsArgs),
    Man(pages::ManArgs),
    /// One of the demonstration's processes
    #[command(hide = true)]
    DemoWorker(demo::WorkerArgs),
    /// One of the processes of `demo --fencing`
    #[command(hide = true)]
    DemoWriter,
}

impl Command {
    fn runs_a_command(&self) -> bool {
        match self {
            Self::Lock(_) | Self::Elect(_) => true,
            Self::Join(args) => args.runs_a_command(),
            _ => false,
        }
    }
}

#[derive(Debug, clap::Args)]
struct GroupArg {
    /// The group
    #[arg(allow_hyphen_values = true)]
    group: OsString,
}

fn main() -> ExitCode {
    // The process that becomes CMD passes here.
    if let Some(code) = child::become_command_if_asked() {
        return ExitCode::from(code);
    }
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(problem) => return ExitCode::from(output::usage(&problem)),
    };
    cli.voice.use_from_now_on();
    let in_front = cli.front.is_none() && cli.command.runs_a_command();
    let result = check_descriptors().and_then(|()| if in_front { front::run() } else { work(cli) });
    ExitCode::from(result.unwrap_or_else(|error| output::failure(&error)))
}

impl Cli {
    /// Reads the arguments. A NAME that begins with `-` may come before or after the `--`.
    fn from_arguments() -> Result<Self, clap::Error> {
        let given: Vec<_> = std::env::args_os().collect();
        let mut cli = Self::try_parse_from(&given).or_else(|error| {
            let otherwise = || {
                let (given, name) = grammar::name_behind_escape(given)?;
                let mut cli = Self::try_parse_from(given).ok()?;
                // A mistyped option after NAME would become the CMD.
                cli.command.name_and_command().is_some_and(|(n, _)| *n == name).then_some(cli)
            };
            let is_unknown = error.kind() == ErrorKind::UnknownArgument;
            is_unknown.then(otherwise).flatten().ok_or(error)
        })?;
        if let Some((_, command)) = cli.command.name_and_command() {
            grammar::drop_escape(command);
        }
        Ok(cli)
    }
}

impl Command {
    /// The NAME and the CMD of a command that runs one.
    fn name_and_command(&mut self) -> Option<(&OsString, &mut Vec<OsString>)> {
        match self {
            Self::Lock(args) => Some((&args.name, &mut args.command)),
            Self::Elect(args) => Some((&args.group, &mut args.command)),
            Self::Join(args) => Some((&args.group, &mut args.command)),
            _ => None,
        }
    }
}

/// The descriptors that a runtime takes, and a few that a driver needs.
const DESCRIPTORS: usize = 12;

/// Fails early where a runtime would panic for lack of descriptors.
fn check_descriptors() -> anyhow::Result<()> {
    let spare = (0..DESCRIPTORS).map(|_| File::open("/dev/null"));
    let spare = spare.collect::<std::io::Result<Vec<_>>>();
    spare.map(drop).context("this process may not open the files it needs; raise `ulimit -n`")
}

/// Does the work of the command line.
fn work(cli: Cli) -> anyhow::Result<u8> {
    let front = cli.front.map(front::Link::attach).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(dispatch(cli, front))
}

/// Runs the command and gives its exit code.
async fn dispatch(cli: Cli, front: Option<File>) -> anyhow::Result<u8> {
    let Cli { mut target, voice, command, front: _ } = cli;
    target.settle()?;
    let out = Output { json: voice.json };
    match command {
        Command::Demo(args) => demo::run(&target, args, out).await,
        Command::Lock(args) => lock::run(&target, args, Signals::listen(front)?).await,
        Command::Elect(args) => elect::run(&target, args, Signals::listen(front)?).await,
        Command::Join(args) => join::run(&target, args, out, Signals::listen(front)?).await,
        Command::Groups => groups::groups(&target, out).await,
        Command::Members(args) => groups::members(&target, &args.group, out).await,
        Command::Leader(args) => groups::leader(&target, args, out).await,
        Command::Ring(args) => ring::run(&target, args, out).await,
        Command::Watch(args) => watch::run(&target, &args.group, What::Members, out).await,
        Command::Drivers => drivers::run(out),
        Command::Completions(args) => pages::completions(&Cli::command(), &args),
        Command::Man(args) => pages::man(&Cli::command(), &args),
        Command::DemoWorker(args) => demo::work(&target, args).await,
        Command::DemoWriter => demo::write().await,
    }
}

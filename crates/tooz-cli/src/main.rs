//! The `tooz` command: locks, groups and elections from the shell, and a demonstration.
//!
//! Exit codes: 0; 1 for an error; 2 for wrong usage; 75 when a lock was not had; 76 when a lock or
//! a term was lost; 126 and 127 when CMD cannot be run; else CMD's own. What a signal ends, or whose
//! CMD a signal ends, dies of that signal, which shells show as 128 + n.

mod child;
mod connect;
mod demo;
mod drivers;
mod elect;
mod front;
mod groups;
mod join;
mod lock;
mod output;
mod ring;
mod signals;
mod watch;

use std::ffi::OsString;
use std::fs::File;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::connect::Target;
use crate::output::Output;
use crate::signals::Signals;

/// The lock was not had (`EX_TEMPFAIL` of sysexits: come again).
const NOT_HAD: u8 = 75;
/// The lock or the term was lost while CMD ran.
const LOST: u8 = 76;

/// Locks, groups and leader election over the backend you have.
#[derive(Debug, Parser)]
#[command(name = "tooz", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    target: Target,

    /// Prints data as JSON; a stream as one object a line
    #[arg(long, global = true)]
    json: bool,

    /// What stands in front of this process, which runs a command
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
    /// Without --url it uses a directory of its own, which it removes. A backend that knows of a
    /// death by a timeout needs a short one to be shown in time.
    Demo,
    Lock(lock::Args),
    Elect(elect::Args),
    Join(join::Args),
    /// Lists the groups
    Groups,
    /// Lists the members of a group
    Members(GroupArg),
    /// Says who leads a group
    Leader(GroupArg),
    Ring(ring::Args),
    /// Prints what happens in a group, until a signal
    Watch(GroupArg),
    /// Lists the drivers that are built in
    Drivers,
    /// One of the demonstration's processes
    #[command(hide = true)]
    DemoWorker(demo::WorkerArgs),
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
    group: OsString,
}

fn main() -> ExitCode {
    // CMD's process passes here on its way to becoming CMD.
    if let Some(code) = child::become_command_if_asked() {
        return ExitCode::from(code);
    }
    let cli = Cli::parse();
    let result =
        if cli.front.is_none() && cli.command.runs_a_command() { front::run() } else { work(cli) };
    ExitCode::from(result.unwrap_or_else(|error| output::failure(&error)))
}

/// Does the work of the command line.
fn work(cli: Cli) -> anyhow::Result<u8> {
    let front = cli.front.map(front::Link::attach).transpose()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(cli, front)))
}

/// Runs the command and gives its exit code.
async fn dispatch(cli: Cli, front: Option<File>) -> anyhow::Result<u8> {
    let Cli { target, json, command, front: _ } = cli;
    let out = Output { json };
    match command {
        Command::Demo => demo::run(&target, out).await,
        Command::Lock(args) => lock::run(&target, args, Signals::listen(front)?).await,
        Command::Elect(args) => elect::run(&target, args, Signals::listen(front)?).await,
        Command::Join(args) => join::run(&target, args, out, Signals::listen(front)?).await,
        Command::Groups => groups::groups(&target, out).await,
        Command::Members(args) => groups::members(&target, &args.group, out).await,
        Command::Leader(args) => groups::leader(&target, &args.group, out).await,
        Command::Ring(args) => ring::run(&target, args, out).await,
        Command::Watch(args) => watch::run(&target, &args.group, out).await,
        Command::Drivers => drivers::run(out),
        Command::DemoWorker(args) => demo::work(&target, args).await,
    }
}

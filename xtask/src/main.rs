//! The tasks of this workspace: `cargo xtask --help`.

mod bench;
mod built;
mod ci;
mod interrupt;
mod mixed_fleet;
mod process;
mod python;
mod server_command;
mod servers;
mod test_backends;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::interrupt::{Interrupt, Interrupted};

/// The tasks of this workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the conformance suite against private servers, started and stopped here.
    TestBackends(test_backends::Options),
    /// Runs processes of ours and of Python tooz side by side, on the servers of test-backends.
    MixedFleet(mixed_fleet::Options),
    /// Measures us, the bare clients, Python tooz and other crates side by side, on the servers of
    /// test-backends.
    Bench(bench::Options),
    /// Starts one private server, prints its URL and runs until Ctrl-C.
    Server(server_command::Options),
    /// Runs everything that continuous integration checks, in its order.
    Ci(ci::Options),
    /// Runs cheap checks of files: names, links, copied examples.
    Tidy(tidy::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                eprintln!("{interrupted}");
                ExitCode::from(interrupted.exit_code())
            }
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    // Registered before anything is started, so that from the first child on a signal only ever
    // sets a flag, and the guards of what runs get to clean up.
    let interrupt = Interrupt::install()?;
    match task {
        Task::TestBackends(options) => test_backends::run(&options, &interrupt),
        Task::MixedFleet(options) => mixed_fleet::run(&options, &interrupt),
        Task::Bench(options) => bench::run(&options, &interrupt),
        Task::Server(options) => server_command::run(&options, &interrupt),
        Task::Ci(options) => ci::run(&options, &interrupt),
        Task::Tidy(options) => tidy::run(&options),
    }
}

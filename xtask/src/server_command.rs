//! `cargo xtask server NAME`: one private server, until Ctrl-C.

use std::io::Write as _;
use std::thread::sleep;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::interrupt::Interrupt;
use crate::process::TICK;
use crate::servers::{self, Host};

/// What the command line says.
#[derive(Args)]
pub(crate) struct Options {
    /// The setup whose server is wanted: see `cargo xtask test-backends --list`.
    name: String,
    /// Installs what is missing, through apt.
    #[arg(long)]
    install: bool,
}

/// Starts the server, prints its URL as the one line of standard output, and waits.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let setup = servers::find(&options.name)?;
    let server = servers::of(setup).with_context(|| format!("{} needs no server", setup.name))?;
    if options.install {
        servers::install(&[server])?;
    }
    let host = Host::new(interrupt)?;
    let mut running = server.launch(&host)?;
    eprintln!("{} is ready; its log is {}", setup.name, running.log().display());
    eprintln!("Ctrl-C stops it and removes its data.");
    println!("{}", setup.url(running.address()));
    std::io::stdout().flush().context("cannot print the URL")?;
    while interrupt.check().is_ok() {
        if let Some(end) = running.ended()? {
            bail!("{end}\n{}", running.log_tail());
        }
        sleep(TICK);
    }
    // A signal is how this command is meant to end.
    Ok(())
}

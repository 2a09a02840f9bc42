//! `tooz completions` and `tooz man`, made from the grammar that reads the arguments.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;

use crate::output;

/// Prints a script that completes tooz's words in a shell
///
/// For bash: tooz completions bash > /etc/bash_completion.d/tooz
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the manual page, or writes one for each command
///
/// To read it: tooz man | man -l -
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Writes tooz.1, tooz-lock.1 and so on into this directory
    #[arg(long, value_name = "DIRECTORY")]
    into: Option<PathBuf>,
}

pub(crate) fn completions(grammar: &Command, args: &CompletionsArgs) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(grammar), grammar.get_name(), &mut script);
    output::raw(&script)?;
    Ok(0)
}

pub(crate) fn man(grammar: &Command, args: &ManArgs) -> Result<u8> {
    // Help belongs to the screen.
    let grammar = shown(grammar).disable_help_subcommand(true);
    if let Some(folder) = &args.into {
        let failed = || format!("cannot write manual pages into {}", folder.display());
        clap_mangen::generate_to(grammar, folder).with_context(failed)?;
        return Ok(0);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(grammar).render(&mut page)?;
    output::raw(&page)?;
    Ok(0)
}

/// The grammar without what is hidden, which the makers of scripts and pages do not leave out.
fn shown(grammar: &Command) -> Command {
    let commands = grammar.get_subcommands().filter(|command| !command.is_hide_set());
    let arguments = grammar.get_arguments().filter(|argument| !argument.is_hide_set());
    Command::new("tooz")
        .version(env!("CARGO_PKG_VERSION"))
        .about(grammar.get_about().cloned().unwrap_or_default())
        .after_long_help(grammar.get_after_long_help().cloned().unwrap_or_default())
        .subcommand_required(true)
        .args(arguments)
        .subcommands(commands)
}

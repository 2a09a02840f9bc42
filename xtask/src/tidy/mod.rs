//! `cargo xtask tidy`: cheap checks of files.

mod crates;
mod drivers;
mod files;
mod includes;
mod links;
mod markdown;
mod matrix;
mod sources;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use crate::workspace;

/// What the command line says.
#[derive(Args)]
pub(crate) struct Options {
    /// Rewrites the included code blocks and the capability matrix, before the checks.
    #[arg(long)]
    fix: bool,
}

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// The file, from the root.
    file: PathBuf,
    /// The line, counted from 1; 0 where it is about the file as a whole.
    line: usize,
    /// What is wrong.
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.fix {
        let root = workspace::root();
        for file in includes::fix(&root)?.into_iter().chain(matrix::fix(&root)?) {
            println!("rewrote {}", file.display());
        }
    }
    check()
}

/// Prints what is wrong in the repository, and fails when anything is.
pub(crate) fn check() -> anyhow::Result<()> {
    let findings = findings(&workspace::root())?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("1 thing is not tidy"),
        count => bail!("{count} things are not tidy"),
    }
}

fn findings(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = crates::check(root)?;
    findings.extend(drivers::check(root)?);
    findings.extend(sources::check(root)?);
    findings.extend(links::check(root)?);
    findings.extend(includes::check(root)?);
    findings.extend(matrix::check(root)?);
    Ok(findings)
}

/// A small repository for the checks' own tests.
#[cfg(test)]
fn sample(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::TempDir::new().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// The findings as lines, for comparing.
#[cfg(test)]
fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}

//! Installs what is missing: through apt, or from another release into a folder of our own.

use std::process::Command;

use anyhow::{Context as _, ensure};
use nix::unistd::geteuid;

use super::fetched::Fetched;
use super::host::find_program;
use super::server::Server;

/// Runs as root; its arguments are the packages.
const SCRIPT: &str = include_str!("install.sh");

/// Installs what the servers miss; does nothing when nothing is missing.
pub(crate) fn install(servers: &[&Server]) -> anyhow::Result<()> {
    let mut packages: Vec<_> = servers.iter().flat_map(|s| s.missing_packages()).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let (fetched, own): (Vec<_>, Vec<_>) =
        packages.into_iter().partition(|package| Fetched::named(package).is_some());
    if !own.is_empty() {
        install_packages(&own)?;
    }
    for package in fetched.into_iter().filter_map(Fetched::named) {
        package.fetch()?;
    }
    let missing: Vec<_> = servers.iter().flat_map(|s| s.missing_packages()).collect();
    ensure!(missing.is_empty(), "installed, but still not found: {}", missing.join(" "));
    Ok(())
}

/// Installs these packages of Debian's.
pub(crate) fn install_packages(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    ensure!(
        find_program("apt-get").is_some(),
        "no apt-get here: install by other means what Debian calls {list}"
    );
    eprintln!("installing {list}");
    // The script cleans up after itself, also after Ctrl-C; a package manager is not to be killed.
    let mut command = if geteuid().is_root() {
        Command::new("sh")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    };
    let status = command
        .args(["-euc", SCRIPT, "install.sh"])
        .args(packages)
        .status()
        .context("cannot run the package manager")?;
    ensure!(status.success(), "installing {list} failed: {status}");
    Ok(())
}

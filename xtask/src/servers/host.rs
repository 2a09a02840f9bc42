//! What this machine lets a server be started with.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use nix::unistd::{User, geteuid};

use super::ports::Ports;
use crate::interrupt::Interrupt;

/// Folders with programs that a user's `PATH` often lacks.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Debian keeps PostgreSQL's programs in one folder per version in here.
const POSTGRESQL_FOLDER: &str = "/usr/lib/postgresql";

/// This machine: its ports, the user that servers run as, the signal that ends it all.
#[derive(Debug)]
pub(crate) struct Host {
    /// Free ports.
    pub(super) ports: Ports,
    /// Set when we are asked to end.
    pub(crate) interrupt: Interrupt,
    /// The user that servers run as when we are root: several refuse root, and none needs it.
    pub(super) user: Option<User>,
    /// Whether its servers take more connections than by default: those of a benchmark's crowds.
    pub(super) crowded: bool,
}

impl Host {
    /// Looks at the machine.
    pub(crate) fn new(interrupt: &Interrupt) -> anyhow::Result<Self> {
        let user = if geteuid().is_root() {
            let nobody = User::from_name("nobody").context("cannot look up the user nobody")?;
            Some(nobody.context("run as root, servers need a user `nobody` to run as")?)
        } else {
            None
        };
        Ok(Self { ports: Ports::new()?, interrupt: interrupt.clone(), user, crowded: false })
    }

    /// The same for the benchmarks, with a thousand members or waiters at once.
    pub(crate) fn crowded(interrupt: &Interrupt) -> anyhow::Result<Self> {
        Ok(Self { crowded: true, ..Self::new(interrupt)? })
    }

    /// A command for a server's program: it runs as the servers' user and is killed when we die.
    pub(super) fn server_command(&self, program: &Path) -> anyhow::Result<Command> {
        let mut command = dying_command()
            .context("setpriv (package util-linux) is needed, to end servers with their runner")?;
        if let Some(user) = &self.user {
            command.arg("--reuid").arg(user.uid.to_string());
            command.arg("--regid").arg(user.gid.to_string());
            command.args(["--clear-groups", "--inh-caps=-all"]);
        }
        command.arg("--").arg(program);
        Ok(command)
    }
}

/// `program`, killed when we die where the machine can do that.
pub(crate) fn bound_command(program: &Path) -> Command {
    match dying_command() {
        Some(mut command) => {
            command.arg("--").arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// `setpriv` sets the kernel's parent-death signal, for which Rust alone would need `unsafe`, and
/// then becomes the program. The signal comes when the spawning *thread* ends: spawn from one
/// that lives on.
fn dying_command() -> Option<Command> {
    let mut command = Command::new(find_program("setpriv")?);
    command.args(["--pdeathsig", "KILL"]);
    Some(command)
}

/// Where a program is installed; an absolute path is only looked at.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.extend(postgresql_folders());
    folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The program folders of PostgreSQL's versions, the newest first.
fn postgresql_folders() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(POSTGRESQL_FOLDER) else {
        return Vec::new();
    };
    let version = |name: &OsStr| name.to_str().and_then(|name| name.parse::<u32>().ok());
    let mut versions: Vec<u32> =
        entries.flatten().filter_map(|entry| version(&entry.file_name())).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let folder = Path::new(POSTGRESQL_FOLDER);
    versions.iter().map(|version| folder.join(version.to_string()).join("bin")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let sh = find_program("sh").unwrap();
        assert_eq!(find_program(sh.to_str().unwrap()), Some(sh));
        assert_eq!(find_program("no-such-program"), None);
    }
}

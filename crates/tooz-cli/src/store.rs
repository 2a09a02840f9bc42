//! The directory that is used if no backend is named.
//!
//! All processes of one user on one host must find the same one, however they were started, and
//! nothing may clean it: so it depends on no environment variable, and is not a temporary directory.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{User, geteuid, gethostname};

/// Unlike a host name, it stays for as long as the system is installed.
const MACHINE_ID: &str = "/etc/machine-id";

/// The user's own directory on this host, created if it does not exist.
pub(crate) fn directory() -> Result<PathBuf> {
    let uid = geteuid();
    let user = User::from_uid(uid).context("cannot look the user up")?;
    let user = user.with_context(|| format!("the user {uid} has no home; choose a --url"))?;
    let directory = user.dir.join(".local/state/tooz").join(host()?);
    make_private(&directory)
        .with_context(|| format!("cannot use {}; choose a --url", directory.display()))?;
    Ok(directory)
}

/// Distinguishes the hosts that share a home.
fn host() -> Result<String> {
    let id = fs::read_to_string(MACHINE_ID).unwrap_or_default();
    let id = id.trim();
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id.to_owned());
    }
    // A container's name lasts as long as the container.
    let name = gethostname().context("the host has no name")?;
    Ok(name.to_string_lossy().replace('/', "_"))
}

/// Makes a directory that is only this user's, or checks that it is.
fn make_private(directory: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        bail!("it is not a directory");
    }
    if found.uid() != geteuid().as_raw() {
        bail!("it belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        bail!("other users have access to it; chmod it to 700");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_private_directory_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("of/its/own");
        make_private(&own).unwrap();
        make_private(&own).unwrap();
        assert_eq!(own.metadata().unwrap().mode() & 0o777, 0o700);

        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&own).unwrap_err().to_string().contains("chmod"));
        let link = temp.path().join("link");
        std::os::unix::fs::symlink("of", &link).unwrap();
        assert!(make_private(&link).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn a_host_is_a_part_of_a_path() {
        let host = host().unwrap();
        assert!(!host.is_empty() && !host.contains('/') && !host.starts_with('.'), "{host}");
    }
}

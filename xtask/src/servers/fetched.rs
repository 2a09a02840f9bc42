//! Packages that the machine's own Debian release does not have.
//!
//! They are unpacked below `target/debian`, with their own C library. A [`Need`](super::server::Need)
//! names one as apt does, `PACKAGE/RELEASE`, and its file by the path within.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::host::find_program;
use crate::workspace;

/// Its arguments are the release, the package and the folder.
const SCRIPT: &str = include_str!("fetch.sh");

/// What the script calls.
const TOOLS: [&str; 3] = ["apt-get", "dpkg", "flock"];

/// A package of another release, fetched or yet to be.
#[derive(Debug)]
pub(super) struct Fetched<'a> {
    package: &'a str,
    release: &'a str,
    folder: PathBuf,
}

impl<'a> Fetched<'a> {
    /// Reads `PACKAGE/RELEASE`; `None` for a package of the machine's own release.
    pub(super) fn named(name: &'a str) -> Option<Self> {
        let (package, release) = name.split_once('/')?;
        let folder = workspace::root().join("target/debian").join(format!("{package}-{release}"));
        Some(Self { package, release, folder })
    }

    /// The folder that stands for `/`.
    pub(super) fn root(&self) -> &Path {
        &self.folder
    }

    /// Fetches it, unless that was done before.
    pub(super) fn fetch(&self) -> anyhow::Result<()> {
        let Self { package, release, folder } = self;
        for tool in TOOLS {
            let found = find_program(tool).is_some();
            ensure!(found, "no {tool} here, which fetches {package} of Debian {release}");
        }
        eprintln!("fetching {package} of Debian {release} into {}", folder.display());
        let status = Command::new("sh")
            .args(["-euc", SCRIPT, "fetch.sh", release, package])
            .arg(folder)
            .status()
            .context("cannot run sh")?;
        ensure!(status.success(), "fetching {package} of Debian {release} failed: {status}");
        Ok(())
    }

    /// How to run one of its programs: the loader that came with it, and the loader's arguments.
    pub(super) fn program(&self, file: &str) -> anyhow::Result<(PathBuf, [OsString; 3])> {
        // Older releases keep a part of the libraries in each.
        let libraries = ["usr/lib", "lib"].map(|folder| self.folder.join(folder).join(triplet()));
        let loader = libraries.iter().find_map(|folder| loader(folder)).with_context(|| {
            format!("{} has no program loader: remove it and fetch again", self.folder.display())
        })?;
        let path = std::env::join_paths(&libraries).context("a folder with a colon")?;
        Ok((loader, ["--library-path".into(), path, self.folder.join(file).into()]))
    }
}

/// The name of Debian's folders for this processor.
fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn loader(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let mut loaders = files.filter(|file| file.file_name().as_bytes().starts_with(b"ld-linux"));
    loaders.next().map(|file| file.path())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_package_of_another_release_is_told_by_its_name() {
        assert!(Fetched::named("redis-server").is_none());
        let fetched = Fetched::named("consul/bullseye").unwrap();
        assert_eq!((fetched.package, fetched.release), ("consul", "bullseye"));
        assert!(fetched.root().ends_with("target/debian/consul-bullseye"));
    }

    #[test]
    fn a_program_is_run_by_its_own_loader_on_its_own_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let fetched = Fetched { package: "p", release: "r", folder: root.to_owned() };
        let error = fetched.program("usr/bin/p").unwrap_err().to_string();
        assert!(error.contains("no program loader"), "{error}");
        let libraries = root.join("lib").join(triplet());
        std::fs::create_dir_all(&libraries).unwrap();
        std::fs::write(libraries.join("ld-linux-any.so.2"), "").unwrap();
        let (loader, arguments) = fetched.program("usr/bin/p").unwrap();
        assert_eq!(loader, libraries.join("ld-linux-any.so.2"));
        let path = format!("{0}/usr/lib/{1}:{0}/lib/{1}", root.display(), triplet());
        let program = root.join("usr/bin/p").into_os_string();
        assert_eq!(arguments, ["--library-path".into(), path.into(), program]);
    }

    /// A stand-in for apt: what the script makes of an interruption and of runners side by side
    /// does not depend on what is fetched.
    const APT: &str = "#!/bin/sh
case $* in
    indextargets*) echo http://mirror ;;
    *update*) sleep 0.2; [ ! -e FOLDER/broken ] ;;
    *install*) echo >>FOLDER/fetches ;;
esac
";

    #[test]
    fn a_package_is_fetched_once_and_wholly_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text.replace("FOLDER", path)).unwrap();
            std::fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
        };
        write("apt-get", APT);
        // The archives are left out: their pattern stays as it is, and unpacks to nothing.
        write("dpkg", "#!/bin/sh\n");
        write("tar", "#!/bin/sh\n");
        let start = || {
            let mut sh = Command::new("sh");
            let target = folder.path().join("cache/p-r");
            sh.args(["-euc", SCRIPT, "fetch.sh", "r", "p"]).arg(target);
            let search = format!("{path}:{}", std::env::var("PATH").unwrap());
            sh.env("PATH", search).stderr(Stdio::null()).spawn().unwrap()
        };
        let cache = || {
            let entries = std::fs::read_dir(folder.path().join("cache")).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        write("broken", "");
        assert!(!start().wait().unwrap().success());
        assert_eq!(cache(), ["p-r.lock"]);
        std::fs::remove_file(folder.path().join("broken")).unwrap();
        // Killed: it leaves what it had, and the next one begins anew.
        std::fs::create_dir_all(folder.path().join("cache/p-r.new/half")).unwrap();
        let mut runners = [start(), start(), start()];
        assert!(runners.iter_mut().all(|runner| runner.wait().unwrap().success()));
        assert_eq!(cache(), ["p-r", "p-r.lock"]);
        assert!(!folder.path().join("cache/p-r/half").exists());
        let fetches = std::fs::read_to_string(folder.path().join("fetches")).unwrap();
        assert_eq!(fetches.lines().count(), 1, "one of the three fetched");
    }
}

//! Crates are where, and made of what, their names promise.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Finding, files};

/// The files that every driver repeats, so that who knows one driver knows where to look in all.
const DRIVER_FILES: [&str; 3] = ["src/lib.rs", "src/config.rs", "src/driver.rs"];

/// Has a `driver.rs`, the contract itself, without being a driver.
const NOT_DRIVERS: [&str; 1] = ["tooz-core"];

/// A crate's folder has its name; a driver has its files.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for folder in crate_folders(root)? {
        let manifest = folder.join("Cargo.toml");
        let text = files::read(root, &manifest)?;
        let name = package_name(&text).unwrap_or_default();
        if folder.file_name().is_none_or(|folder| folder != name) {
            let text = format!("the crate `{name}` is not in a folder of that name");
            findings.push(Finding { file: manifest, line: 0, text });
        }
        let is_driver = name.starts_with("tooz-")
            && !NOT_DRIVERS.contains(&name)
            && root.join(&folder).join("src/driver.rs").is_file();
        let missing = DRIVER_FILES.iter().filter(|file| !root.join(&folder).join(file).is_file());
        for file in missing.filter(|_| is_driver) {
            let text = format!("a driver has a file {file}");
            findings.push(Finding { file: folder.clone(), line: 0, text });
        }
    }
    Ok(findings)
}

/// The folders of the crates, from the root, sorted.
fn crate_folders(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root.join("crates")).context("cannot list crates/")? {
        let path = entry?.path();
        if path.join("Cargo.toml").is_file() {
            folders.push(path.strip_prefix(root)?.to_owned());
        }
    }
    folders.sort();
    Ok(folders)
}

/// The `name` of the manifest's `[package]`.
fn package_name(manifest: &str) -> Option<&str> {
    let (_, package) = manifest.split_once("[package]")?;
    let line = package.lines().map(str::trim).find(|line| line.starts_with("name"))?;
    line.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::super::{lines, sample};
    use super::*;

    #[test]
    fn folders_and_drivers_are_checked() {
        let root = sample(&[
            ("crates/tooz-good/Cargo.toml", "[package]\nname = \"tooz-good\"\n"),
            ("crates/tooz-good/src/lib.rs", ""),
            ("crates/tooz-good/src/config.rs", ""),
            ("crates/tooz-good/src/driver.rs", ""),
            ("crates/tooz-core/Cargo.toml", "[package]\nname = \"tooz-core\"\n"),
            ("crates/tooz-core/src/driver.rs", ""),
            ("crates/tooz-half/Cargo.toml", "[package]\nname = \"tooz-half\"\n"),
            ("crates/tooz-half/src/driver.rs", ""),
            ("crates/other/Cargo.toml", "[lib]\nname = \"x\"\n[package]\nname = \"tooz-other\"\n"),
        ]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            [
                "crates/other/Cargo.toml: the crate `tooz-other` is not in a folder of that name",
                "crates/tooz-half: a driver has a file src/lib.rs",
                "crates/tooz-half: a driver has a file src/config.rs",
            ]
        );
    }
}

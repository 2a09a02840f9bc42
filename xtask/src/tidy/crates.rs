//! Crates are where their names promise.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Finding, files};

/// A crate's folder has its name.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for folder in folders(root)? {
        let manifest = folder.join("Cargo.toml");
        let text = files::read(root, &manifest)?;
        let name = package_name(&text).unwrap_or_default();
        if folder.file_name().is_none_or(|folder| folder != name) {
            let text = format!("the crate `{name}` is not in a folder of that name");
            findings.push(Finding { file: manifest, line: 0, text });
        }
    }
    Ok(findings)
}

/// The folders of the crates, from the root, sorted.
pub(super) fn folders(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
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
    fn folders_have_the_names_of_their_crates() {
        let root = sample(&[
            ("crates/tooz-good/Cargo.toml", "[package]\nname = \"tooz-good\"\n"),
            ("crates/other/Cargo.toml", "[lib]\nname = \"x\"\n[package]\nname = \"tooz-other\"\n"),
        ]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            ["crates/other/Cargo.toml: the crate `tooz-other` is not in a folder of that name"]
        );
    }
}

//! Where the workspace is and what cargo says of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// The repository's root folder: the parent of this crate's own.
pub(crate) fn root() -> PathBuf {
    // `cargo run` says where this crate is now. Where it was built is only second to that: two
    // checkouts that share a target folder share the built program too.
    let built = env!("CARGO_MANIFEST_DIR");
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| built.into());
    let here = Path::new(&here);
    here.parent().unwrap_or(here).to_owned()
}

/// `cargo`, the one that runs us where one does, in the root folder.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(program);
    command.current_dir(root());
    // What `cargo run` says of this package: build scripts that look at it would run again.
    for (name, _) in std::env::vars_os() {
        let is_of_package =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(is_of_package) {
            command.env_remove(name);
        }
    }
    command
}

/// What `cargo metadata` says of a workspace member.
pub(crate) fn package(name: &str) -> anyhow::Result<Value> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata's answer is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    packages
        .iter()
        .find(|package| package["name"] == name)
        .cloned()
        .with_context(|| format!("the workspace has no package {name}"))
}

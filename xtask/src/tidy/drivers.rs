//! Every driver has the same files in the same roles, so that whoever knows one knows them all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Finding, crates, files};

/// The files with a role, from the lowest to the highest: a file may import those before it, those in
/// its row if that makes no cycle, and none after it. `ARCHITECTURE.md` says what each is for.
const ROLES: [&[&str]; 12] = [
    &["errors"],
    &["keys", "tls"],
    &["config"],
    &["connection"],
    &["client", "pool"],
    &["state"],
    &["queue", "shared", "watch", "hold"],
    &["heartbeat"],
    &["lock", "group", "election"],
    &["session"],
    &["driver"],
    &["inspect"],
];

/// The files that every driver has.
const REQUIRED: [&str; 2] = ["config", "driver"];

/// This crate has a `driver.rs`, the contract itself, but is not a driver.
const NOT_DRIVERS: [&str; 1] = ["tooz-core"];

/// Checks the files of every driver: their names, what they import, and that there is no cycle.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for folder in crates::folders(root)? {
        let is_driver = folder.join("src/driver.rs");
        let is_core = NOT_DRIVERS.iter().any(|name| folder.ends_with(name));
        if root.join(is_driver).is_file() && !is_core {
            findings.extend(check_driver(root, &folder)?);
        }
    }
    Ok(findings)
}

fn check_driver(root: &Path, folder: &Path) -> anyhow::Result<Vec<Finding>> {
    let source = folder.join("src");
    let finding = |file: PathBuf, line, text| Finding { file, line, text };
    let mut findings = Vec::new();
    for required in REQUIRED {
        if !root.join(&source).join(format!("{required}.rs")).is_file() {
            let text = format!("a driver has a file {required}.rs");
            findings.push(finding(source.clone(), 0, text));
        }
    }
    let lib = source.join("lib.rs");
    for (line, module) in unexplained(&files::read(root, &lib)?) {
        let text = format!(
            "`{module}` is no file that drivers have: a comment above it says why it is here"
        );
        findings.push(finding(lib.clone(), line, text));
    }
    let known = knowledge(root, &source)?;
    for (module, others) in &known {
        let file = || source.join(format!("{module}.rs"));
        let higher = |other: &&String| rank(module).zip(rank(other)).is_some_and(|(a, b)| a < b);
        for other in others.iter().filter(higher) {
            let text = format!("`{module}` is below `{other}`, and knows nothing of it");
            findings.push(finding(file(), 0, text));
        }
    }
    if let Some(circle) = circle(&known) {
        let text = format!("a circle: {}", circle.join(" -> "));
        findings.push(finding(source, 0, text));
    }
    Ok(findings)
}

/// How high a file stands; `None` for one of the driver's own.
fn rank(module: &str) -> Option<usize> {
    ROLES.iter().position(|row| row.contains(&module))
}

/// A driver's own modules that no comment explains, with their lines.
fn unexplained(lib: &str) -> Vec<(usize, &str)> {
    let mut explained = false;
    let mut found = Vec::new();
    for (index, line) in lib.lines().map(str::trim).enumerate() {
        let declared = line.strip_prefix("pub ").unwrap_or(line);
        let module = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        found.extend(module.filter(|m| rank(m).is_none() && !explained).map(|m| (index + 1, m)));
        // What stands between a comment and its module are attributes.
        explained = (line.starts_with("//") && !line.starts_with("//!"))
            || (explained && line.starts_with("#["));
    }
    found
}

/// Which of the driver's modules each module names, except in tests.
fn knowledge(root: &Path, source: &Path) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut texts = BTreeMap::<String, String>::new();
    for file in files::with_extension(root, "rs")? {
        let Ok(inside) = file.strip_prefix(source) else { continue };
        // A folder is one module with the file of its name.
        let first = inside.components().next().map(|first| Path::new(first.as_os_str()));
        let name = first.and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
        texts.entry(name.into_owned()).or_default().push_str(&files::read(root, &file)?);
    }
    texts.remove("lib");
    let modules: BTreeSet<_> = texts.keys().cloned().collect();
    let named = |(module, text): (String, String)| {
        let mut others = named(&text);
        others.retain(|other| modules.contains(other) && *other != module);
        (module, others)
    };
    Ok(texts.into_iter().map(named).collect())
}

/// What follows `crate::` in a file's code.
fn named(text: &str) -> BTreeSet<String> {
    let code: String = without_tests(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (_, rest) in code.match_indices("crate::").map(|(at, text)| code.split_at(at + text.len()))
    {
        let Some(group) = rest.strip_prefix('{') else {
            names.extend(rest.split(|c| !is_word(c)).next().map(str::to_owned));
            continue;
        };
        // The first word of each part of the group.
        let (mut depth, mut expected, mut word) = (1, true, String::new());
        for c in group.chars() {
            if expected && is_word(c) {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                names.insert(std::mem::take(&mut word));
                expected = false;
            }
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => expected = depth == 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// The text up to the module with its tests, which is the last thing in a file.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// A path from a module back to itself, if there is one.
fn circle(known: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<&str>> {
    fn from<'a>(
        module: &'a str,
        known: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<&'a str>> {
        if let Some(start) = way.iter().position(|earlier| *earlier == module) {
            return Some(way[start..].iter().copied().chain([module]).collect());
        }
        if !done.insert(module) {
            return None;
        }
        way.push(module);
        let found = known.get(module)?.iter().find_map(|other| from(other, known, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    known.keys().find_map(|module| from(module, known, &mut Vec::new(), &mut done))
}

#[cfg(test)]
mod tests {
    use super::super::{lines, sample};
    use super::*;

    fn findings(driver: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![("crates/tooz-a/Cargo.toml".to_owned(), "[package]\n")];
        for required in ["lib", "config", "driver"] {
            if !driver.iter().any(|(name, _)| *name == required) {
                all.push((format!("crates/tooz-a/src/{required}.rs"), ""));
            }
        }
        all.extend(
            driver.iter().map(|(name, text)| (format!("crates/tooz-a/src/{name}.rs"), *text)),
        );
        let all: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let root = sample(&all);
        lines(&check(root.path()).unwrap())
    }

    #[test]
    fn a_file_of_its_own_is_explained() {
        let lib = "mod config;\n// The text protocol.\n#[cfg(unix)]\nmod wire;\nmod odd;\n";
        assert_eq!(
            findings(&[("lib", lib)]),
            ["crates/tooz-a/src/lib.rs:5: `odd` is no file that drivers have: a comment above it \
              says why it is here"]
        );
    }

    #[test]
    fn a_lower_file_knows_no_higher_one() {
        let state = "use crate::{config::{Config, session::X}, session};\n// crate::lock\n";
        let found = findings(&[("state", state), ("session", ""), ("lock", "")]);
        assert_eq!(
            found,
            ["crates/tooz-a/src/state.rs: `state` is below `session`, and knows nothing of it"]
        );
    }

    #[test]
    fn no_circle_is_among_the_files() {
        let queue = "use crate::wire::X;\n\n#[cfg(test)]\nmod tests {\n    use crate::lock;\n}\n";
        let lib = "mod queue;\n// Why.\nmod wire;\n";
        let found =
            findings(&[("lib", lib), ("queue", queue), ("wire", "fn a() { crate::queue::b() }")]);
        assert_eq!(found, ["crates/tooz-a/src: a circle: queue -> wire -> queue"]);
    }

    #[test]
    fn what_every_driver_has_is_missed() {
        let root = sample(&[
            ("crates/tooz-a/Cargo.toml", "[package]\n"),
            ("crates/tooz-a/src/lib.rs", ""),
            ("crates/tooz-a/src/driver.rs", ""),
            ("crates/tooz-core/Cargo.toml", "[package]\n"),
            ("crates/tooz-core/src/driver.rs", ""),
        ]);
        let found = lines(&check(root.path()).unwrap());
        assert_eq!(found, ["crates/tooz-a/src: a driver has a file config.rs"]);
    }
}

//! Links within the repository lead somewhere.

use std::path::{Component, Path, PathBuf};

use super::{Finding, files, markdown};

/// Checks every Markdown file.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files::with_extension(root, "md")? {
        let text = files::read(root, &file)?;
        let lines: Vec<&str> = text.lines().collect();
        let fences = markdown::fences(&lines);
        for (index, line) in lines.iter().enumerate() {
            if fences.iter().any(|fence| (fence.open..=fence.close).contains(&index)) {
                continue;
            }
            for target in targets(&markdown::without_code(line)) {
                if let Err(why) = follow(root, &file, &target) {
                    let text = format!("the link to {target} {why}");
                    findings.push(Finding { file: file.clone(), line: index + 1, text });
                }
            }
        }
    }
    Ok(findings)
}

/// The targets of `[text](target "title")` and `[label]: target` in a line.
fn targets(line: &str) -> Vec<String> {
    let mut targets: Vec<&str> = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .collect();
    if let Some((label, target)) = line.trim_start().split_once("]: ")
        && label.starts_with('[')
        && !label.starts_with("[^")
    {
        targets.push(target);
    }
    targets.into_iter().filter_map(destination).collect()
}

/// The target without its title and angle brackets.
fn destination(target: &str) -> Option<String> {
    let target = target.split_whitespace().next()?;
    Some(target.trim_start_matches('<').trim_end_matches('>').to_owned())
}

/// Whether a target is another site's or exists here; else, what is wrong with it.
fn follow(root: &Path, file: &Path, target: &str) -> Result<(), &'static str> {
    let path = target.split(['#', '?']).next().unwrap_or_default();
    if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
        return Ok(());
    }
    if path.starts_with('/') {
        return Err("starts at the file system's root");
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    match within(folder, &path.replace("%20", " ")) {
        None => Err("leaves the repository"),
        Some(path) if root.join(&path).exists() => Ok(()),
        Some(_) => Err("leads nowhere"),
    }
}

/// `path` seen from `folder`, or `None` when it climbs above the root.
fn within(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut walked = folder.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir if walked.pop() => {}
            Component::ParentDir => return None,
            Component::CurDir => {}
            other => walked.push(other),
        }
    }
    Some(walked)
}

#[cfg(test)]
mod tests {
    use super::super::{lines, sample};
    use super::*;

    #[test]
    fn links_are_followed() {
        let readme = "\
[ok](docs/a.md), [part](docs/a.md#b \"title\"), [here](#x), [site](https://example.org/x)
![lost](img/none.svg) and [out](../../x.md), [absolute](/docs/a.md)
`[code](none.md)` is code; so is
```
[block](none.md)
```
[label]: docs/none.md
[^note]: see below
";
        let root = sample(&[
            ("README.md", readme),
            ("docs/a.md", "[up](../README.md) [folder](../docs)\n[gone](README.md)"),
        ]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            [
                "README.md:2: the link to img/none.svg leads nowhere",
                "README.md:2: the link to ../../x.md leaves the repository",
                "README.md:2: the link to /docs/a.md starts at the file system's root",
                "README.md:7: the link to docs/none.md leads nowhere",
                "docs/a.md:2: the link to README.md leads nowhere",
            ]
        );
    }
}

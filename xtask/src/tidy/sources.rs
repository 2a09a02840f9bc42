//! Rust files name nothing that a reader of the repository can't have.

use std::path::{Component, Path, PathBuf};

use super::{Finding, files};

/// Texts that no Rust file may hold, and why. Cut in two, so that this file holds none either.
const FORBIDDEN: [(&str, &str); 3] = [
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("desi", "gn §"), "a document that is not in the repository"),
];

/// Finds paths of one machine, and comments that point to documents that are not here.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files::with_extension(root, "rs")? {
        let text = files::read(root, &file)?;
        for (index, line) in text.lines().enumerate() {
            let mut report = |text| {
                findings.push(Finding { file: file.clone(), line: index + 1, text });
            };
            for (needle, why) in FORBIDDEN.iter().filter(|(needle, _)| line.contains(needle)) {
                report(format!("`{needle}`: {why}"));
            }
            let lost = documents(line).into_iter().filter(|name| !is_here(root, &file, name));
            for name in lost {
                report(format!("no document {name} in the repository"));
            }
        }
    }
    Ok(findings)
}

/// The Markdown files that a line's comment names.
fn documents(line: &str) -> Vec<&str> {
    let Some((before, comment)) = line.split_once("//") else {
        return Vec::new();
    };
    // A URL, or a string with two slashes: not a comment.
    if before.ends_with(':') || before.contains('"') {
        return Vec::new();
    }
    let is_path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    // What stands in quotes is an example's code, and perhaps a file of its reader's.
    let plain = comment.split('"').step_by(2);
    let words = plain.flat_map(|text| text.split(|c: char| !is_path(c)));
    let words = words.map(|word| word.trim_end_matches('.'));
    // Two slashes: a part of a URL, another site's document.
    words.filter(|word| word.len() > 3 && word.ends_with(".md") && !word.contains("//")).collect()
}

/// Whether the document exists, seen from the root, from the file or from its crate.
fn is_here(root: &Path, file: &Path, name: &str) -> bool {
    let from_file = file.ancestors().skip(1).map(|folder| folder.join(name));
    from_file.map(|path| normal(&path)).any(|path| root.join(path).is_file())
}

/// The path without `..` and `.`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::super::{lines, sample};
    use super::*;

    #[test]
    fn paths_of_a_machine_are_found() {
        let source = format!("fn a() {{}}\nconst A: &str = \"{}x\";\n", FORBIDDEN[0].0);
        let root = sample(&[("crates/a/src/lib.rs", &source), ("target/x.rs", &source)]);
        let expected =
            format!("crates/a/src/lib.rs:2: `{}`: a path of one machine", FORBIDDEN[0].0);
        assert_eq!(lines(&check(root.path()).unwrap()), [expected]);
    }

    #[test]
    fn comments_point_to_documents_that_exist() {
        let source = [
            "//! See ARCHITECTURE.md, docs/guide.md and ../README.md.\n",
            "// The layout: gone/layout.md. More: https://example.org/a/b.md\n",
            "const A: &str = \"// lost.md\";\n",
            "/// include_str!(\"yours.md\")\n",
        ]
        .concat();
        let root = sample(&[
            ("crates/a/src/lib.rs", &source),
            ("ARCHITECTURE.md", ""),
            ("docs/guide.md", ""),
            ("crates/a/README.md", ""),
        ]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            ["crates/a/src/lib.rs:2: no document gone/layout.md in the repository"]
        );
    }
}

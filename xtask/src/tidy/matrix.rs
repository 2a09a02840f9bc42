//! The capability matrix says what the setups declare.

use std::path::{Path, PathBuf};

use tooz_setups::SETUPS;

use super::{Finding, files};

const FILE: &str = "docs/capability-matrix.md";
const HEAD: &str = "| setup |";

/// Finds a table that differs from the setups.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let Some(text) = text(root)? else { return Ok(Vec::new()) };
    let is_right = right(&text).is_some_and(|right| right == text);
    let finding = || Finding {
        file: FILE.into(),
        line: 0,
        text: "differs from setups/src/table.rs; `cargo xtask tidy --fix` copies it".to_owned(),
    };
    Ok(if is_right { Vec::new() } else { vec![finding()] })
}

/// Writes the rows from the setups; returns the file if it changed.
pub(super) fn fix(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Some(text) = text(root)? else { return Ok(None) };
    match right(&text) {
        Some(right) if right != text => {
            std::fs::write(root.join(FILE), right)?;
            Ok(Some(FILE.into()))
        }
        _ => Ok(None),
    }
}

/// `None` in the small repositories of tests.
fn text(root: &Path) -> anyhow::Result<Option<String>> {
    root.join(FILE).is_file().then(|| files::read(root, Path::new(FILE))).transpose()
}

/// The document with the rows as they should be; `None` if it has no table.
fn right(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let head = lines.iter().position(|line| line.starts_with(HEAD))?;
    // The suite itself sees to it that the columns are its areas.
    let areas = || lines[head][HEAD.len()..].split('|').map(str::trim).filter(|a| !a.is_empty());
    let rows = SETUPS.iter().map(|setup| setup.matrix_row(areas()));
    let after = head + 2;
    let old = lines.iter().skip(after).take_while(|line| line.starts_with('|')).count();
    let kept = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let all = [kept(lines.get(..after)?), rows.collect(), kept(lines.get(after + old..)?)].concat();
    Some(all.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::{lines, sample};
    use super::*;

    #[test]
    fn a_table_that_differs_is_found_and_fixed() {
        let before = "# Title\n\n| setup | locks | faults |\n|---|---|---|\n| `memory` | no | yes |\n\nend\n";
        let root = sample(&[(FILE, before)]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            ["docs/capability-matrix.md: differs from setups/src/table.rs; `cargo xtask tidy \
              --fix` copies it"]
        );
        assert_eq!(fix(root.path()).unwrap(), Some(FILE.into()));
        let text = files::read(root.path(), Path::new(FILE)).unwrap();
        assert!(text.contains("|---|---|---|\n| `memory` | yes | no: has no connection |\n"));
        assert!(text.ends_with("|\n\nend\n"), "{text}");
        assert_eq!(check(root.path()).unwrap(), []);
        assert_eq!(fix(root.path()).unwrap(), None);
    }

    #[test]
    fn a_repository_without_the_document_is_left_alone() {
        assert_eq!(check(sample(&[]).path()).unwrap(), []);
    }
}

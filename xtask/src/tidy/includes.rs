//! Code that Markdown shows is the code that is compiled.
//!
//! A line `<!-- include: PATH -->`, with PATH seen from the repository's root, stands before a
//! code block; the block is that file, to the letter.

use std::path::{Path, PathBuf};

use super::markdown::{Fence, fences};
use super::{Finding, files};

const START: &str = "<!-- include:";
const END: &str = "-->";

/// Finds blocks that differ from their files.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files::with_extension(root, "md")? {
        let text = files::read(root, &file)?;
        let (_, wrong) = included(root, &text);
        findings.extend(wrong.into_iter().map(|(line, text)| Finding {
            file: file.clone(),
            line,
            text,
        }));
    }
    Ok(findings)
}

/// Rewrites the blocks from their files; returns the Markdown files that changed.
pub(super) fn fix(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for file in files::with_extension(root, "md")? {
        let text = files::read(root, &file)?;
        let (right, _) = included(root, &text);
        if right != text {
            std::fs::write(root.join(&file), right)?;
            changed.push(file);
        }
    }
    Ok(changed)
}

/// The Markdown as it should be, and what is wrong with it as it is: line and text.
fn included(root: &Path, text: &str) -> (String, Vec<(usize, String)>) {
    let lines: Vec<&str> = text.lines().collect();
    let fences = fences(&lines);
    let in_code = |index: usize| fences.iter().any(|f| (f.open..=f.close).contains(&index));
    let mut right = String::new();
    let mut wrong = Vec::new();
    // Lines up to here are in `right`.
    let mut copied = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some(path) = marker(line).filter(|_| !in_code(index)) else { continue };
        let Some(fence) = fence_after(&lines, &fences, index) else {
            wrong.push((index + 1, "no code block follows the include".to_owned()));
            continue;
        };
        let Ok(code) = std::fs::read_to_string(root.join(path)) else {
            wrong.push((index + 1, format!("no file {path} to include")));
            continue;
        };
        let block = block(&fence.info, &code);
        let close = (fence.close + 1).min(lines.len());
        if joined(&lines[fence.open..close]) != block {
            let text = format!("differs from {path}; `cargo xtask tidy --fix` copies it");
            wrong.push((fence.open + 1, text));
        }
        right.push_str(&joined(&lines[copied..fence.open]));
        right.push_str(&block);
        copied = close;
    }
    if wrong.is_empty() {
        // Untouched to the last byte, whatever its line ends are.
        return (text.to_owned(), wrong);
    }
    right.push_str(&joined(&lines[copied..]));
    (right, wrong)
}

/// The path in an include line.
fn marker(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix(START)?.strip_suffix(END)?.trim())
}

/// The block that begins after the line, with nothing but blank lines between.
fn fence_after<'a>(lines: &[&str], fences: &'a [Fence], index: usize) -> Option<&'a Fence> {
    let fence = fences.iter().find(|fence| fence.open > index)?;
    lines[index + 1..fence.open].iter().all(|line| line.trim().is_empty()).then_some(fence)
}

/// A code block, with a fence longer than any within the code.
fn block(info: &str, code: &str) -> String {
    let runs = code.split(|c| c != '`').map(str::len);
    let longest = runs.max().unwrap_or_default();
    let ticks = "`".repeat(if longest < 3 { 3 } else { longest + 1 });
    let end = if code.ends_with('\n') || code.is_empty() { "" } else { "\n" };
    format!("{ticks}{info}\n{code}{end}{ticks}\n")
}

fn joined(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{lines, sample};
    use super::*;

    const CODE: &str = "//! ```\n//! example\n//! ```\nfn main() {}\n";

    #[test]
    fn a_differing_block_is_found_and_fixed() {
        let before = "# Title\n<!-- include: a.rs -->\n\n```rust\nfn old() {}\n```\ntail\n";
        let root = sample(&[("A.md", before), ("a.rs", CODE)]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            ["A.md:4: differs from a.rs; `cargo xtask tidy --fix` copies it"]
        );
        assert_eq!(fix(root.path()).unwrap(), [PathBuf::from("A.md")]);
        assert_eq!(
            files::read(root.path(), Path::new("A.md")).unwrap(),
            format!("# Title\n<!-- include: a.rs -->\n\n````rust\n{CODE}````\ntail\n")
        );
        assert_eq!(check(root.path()).unwrap(), []);
        assert!(fix(root.path()).unwrap().is_empty());
    }

    #[test]
    fn several_blocks_are_fixed_in_one_go() {
        let one = "<!-- include: a.rs -->\n```rust\n```\n";
        let root = sample(&[("A.md", &format!("{one}between\n{one}")), ("a.rs", "fn a() {}\n")]);
        fix(root.path()).unwrap();
        let fixed = "<!-- include: a.rs -->\n```rust\nfn a() {}\n```\n";
        let text = files::read(root.path(), Path::new("A.md")).unwrap();
        assert_eq!(text, format!("{fixed}between\n{fixed}"));
    }

    #[test]
    fn what_cannot_be_included_is_told() {
        let root = sample(&[
            ("A.md", "<!-- include: none.rs -->\n```rust\n```\n"),
            ("B.md", "<!-- include: a.rs -->\ntext\n```rust\n```\n"),
            ("C.md", "```md\n<!-- include: none.rs -->\n```\n"),
            ("a.rs", ""),
        ]);
        assert_eq!(
            lines(&check(root.path()).unwrap()),
            ["A.md:1: no file none.rs to include", "B.md:1: no code block follows the include"]
        );
        assert!(fix(root.path()).unwrap().is_empty());
    }
}

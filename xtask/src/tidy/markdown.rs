//! As much of Markdown as the checks need.

/// A fenced code block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// The index of the opening line.
    pub(super) open: usize,
    /// The index of the closing line, or one past the last line when nothing closes it.
    pub(super) close: usize,
    /// What the opening line says after the backticks.
    pub(super) info: String,
}

/// The fenced code blocks, in order.
pub(super) fn fences(lines: &[&str]) -> Vec<Fence> {
    let mut fences = Vec::new();
    let mut next = 0;
    while let Some(offset) = lines[next..].iter().position(|line| marker(line).is_some()) {
        let open = next + offset;
        let (mark, length, info) = marker(lines[open]).unwrap_or_default();
        let closes = |line: &&str| {
            marker(line).is_some_and(|(m, l, rest)| m == mark && l >= length && rest.is_empty())
        };
        let close = lines[open + 1..].iter().position(closes).map_or(lines.len(), |i| open + 1 + i);
        fences.push(Fence { open, close, info: info.to_owned() });
        next = (close + 1).min(lines.len());
    }
    fences
}

/// The mark, its length and what follows, of a line that may open or close a block.
fn marker(line: &str) -> Option<(char, usize, &str)> {
    let line = line.trim();
    let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let rest = line.trim_start_matches(mark);
    let length = line.len() - rest.len();
    // A line such as ```x``` is code within a text.
    (length >= 3 && !rest.contains('`')).then(|| (mark, length, rest.trim()))
}

/// The line with its code spans blanked out.
pub(super) fn without_code(line: &str) -> String {
    line.split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 0 { part } else { " " })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(open: usize, close: usize, info: &str) -> Fence {
        Fence { open, close, info: info.to_owned() }
    }

    #[test]
    fn fences_are_found_also_within_longer_ones_and_unclosed() {
        let text = "a\n```rust\nx\n```\n````md\n```sh\n```\n````\n~~~\n```\n~~~\n  ```\nopen";
        let lines: Vec<_> = text.lines().collect();
        let expected =
            [fence(1, 3, "rust"), fence(4, 7, "md"), fence(8, 10, ""), fence(11, 13, "")];
        assert_eq!(fences(&lines), expected);
    }

    #[test]
    fn code_in_a_line_is_blanked() {
        assert_eq!(without_code("a `[x](y)` b"), "a   b");
        assert_eq!(fences(&["```not a fence```"]), []);
    }
}

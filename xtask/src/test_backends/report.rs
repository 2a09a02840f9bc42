//! Reads the conformance program's output while it streams by.

use std::collections::BTreeMap;

/// How many tests ended which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that failed.
    pub(super) failed: u64,
    /// Tests that were left out.
    pub(super) skipped: u64,
}

impl Counts {
    /// Tests that were really run.
    pub(super) fn run(self) -> u64 {
        self.passed + self.failed
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped => self.skipped += 1,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// What the lines so far said: `test setup::area::case ... ok`, and `test result: ...` at the end.
#[derive(Debug, Default)]
pub(super) struct Report {
    counts: BTreeMap<(String, String), Counts>,
    areas: Vec<String>,
    /// What the program itself says it did; `None` until it says so.
    stated: Option<Counts>,
    /// The begun line.
    line: Vec<u8>,
    /// A test whose outcome is still to come, because its own output broke the line.
    open: Option<String>,
    /// What failed tests say: `---- NAME ----`, and lines up to the list of their names.
    failures: Vec<Failure>,
    /// Whether the last of `failures` is still being told.
    telling: bool,
}

/// What a failed test says.
#[derive(Debug)]
pub(super) struct Failure {
    /// The test.
    pub(super) name: String,
    /// Its words.
    pub(super) words: String,
}

impl Report {
    /// Takes the next piece of output, wherever it was cut.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
    }

    /// Takes the end of the output.
    pub(super) fn finish(&mut self) {
        self.end_line();
    }

    /// The areas seen, in the order of their first test.
    pub(super) fn areas(&self) -> &[String] {
        &self.areas
    }

    /// The counts of one setup and area.
    pub(super) fn of_area(&self, setup: &str, area: &str) -> Counts {
        let key = (setup.to_owned(), area.to_owned());
        self.counts.get(&key).copied().unwrap_or_default()
    }

    /// The counts of one setup.
    pub(super) fn of_setup(&self, setup: &str) -> Counts {
        self.sum(|name| name == setup)
    }

    /// All counts.
    pub(super) fn total(&self) -> Counts {
        self.sum(|_| true)
    }

    /// What the program's own closing line counts, once it has come.
    pub(super) fn stated(&self) -> Option<Counts> {
        self.stated
    }

    /// What failed tests said.
    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    fn sum(&self, wanted: impl Fn(&str) -> bool) -> Counts {
        let mut sum = Counts::default();
        for ((setup, _), counts) in &self.counts {
            if wanted(setup) {
                sum += *counts;
            }
        }
        sum
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = without_colours(&String::from_utf8_lossy(&line));
        let line = line.trim();
        self.read_failure(line);
        if let Some(result) = line.strip_prefix("test result: ") {
            *self.stated.get_or_insert_default() += stated_counts(result);
        } else if let Some((name, rest)) = test_line(line) {
            match outcome(rest) {
                Some(outcome) => self.count(name, outcome),
                None => self.open = Some(name.to_owned()),
            }
        } else if let Some(outcome) = outcome(line)
            && let Some(name) = self.open.take()
        {
            self.count(&name, outcome);
        }
    }

    fn read_failure(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" ----")) {
            self.failures.push(Failure { name: name.to_owned(), words: String::new() });
            self.telling = true;
        } else if line == "failures:" {
            self.telling = false;
        } else if let Some(failure) = self.failures.last_mut().filter(|_| self.telling)
            && !line.is_empty()
        {
            failure.words += line;
            failure.words.push('\n');
        }
    }

    fn count(&mut self, name: &str, outcome: Outcome) {
        let mut parts = name.splitn(3, "::");
        let setup = parts.next().unwrap_or_default().to_owned();
        let area = parts.next().unwrap_or("other").to_owned();
        if !self.areas.contains(&area) {
            self.areas.push(area.clone());
        }
        self.counts.entry((setup, area)).or_default().count(outcome);
        self.open = None;
    }
}

/// The name and what follows it, of `test NAME ... REST` and `test [kind] NAME ... REST`.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("test ")?.trim_start();
    let line = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_kind, rest)) => rest,
        None => line,
    };
    // The end of the line may be trimmed already, when the outcome is on a later one.
    let (name, rest) = line.split_once(" ...")?;
    Some((name.trim(), rest.trim()))
}

/// The outcome that a text tells: `ok`, `FAILED`, `ignored` or `ignored, because of …`.
fn outcome(text: &str) -> Option<Outcome> {
    match text.split([',', ' ']).next()? {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        "ignored" => Some(Outcome::Skipped),
        _ => None,
    }
}

/// The counts of `ok. 3 passed; 0 failed; 1 ignored; …`.
fn stated_counts(result: &str) -> Counts {
    let counts = result.split_once(". ").map_or(result, |(_, counts)| counts);
    let mut stated = Counts::default();
    for part in counts.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => stated.passed = number,
            "failed" => stated.failed = number,
            "ignored" => stated.skipped = number,
            _ => {}
        }
    }
    stated
}

/// The text without the terminal's escape sequences for colours.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once('m').map_or(piece, |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(output: &str) -> Report {
        let mut report = Report::default();
        report.feed(output.as_bytes());
        report.finish();
        report
    }

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    const OUTPUT: &str = "
running 5 tests
test file::locks::fair           ... ok
test file::groups::join          ... FAILED
test redis::locks::fair          ... ignored
test [slow] redis::locks::many   ... ok
test memory                      ... ignored, needs several processes

failures:

---- file::groups::join ----
assertion failed: ok

failures:
    file::groups::join

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.05s
";

    #[test]
    fn a_whole_output_is_counted() {
        let report = report(OUTPUT);
        assert_eq!(report.areas(), ["locks", "groups", "other"]);
        assert_eq!(report.of_area("file", "locks"), counts(1, 0, 0));
        assert_eq!(report.of_area("file", "groups"), counts(0, 1, 0));
        assert_eq!(report.of_area("redis", "groups"), counts(0, 0, 0));
        assert_eq!(report.of_setup("redis"), counts(1, 0, 1));
        assert_eq!(report.total(), counts(2, 1, 2));
        assert_eq!(report.stated(), Some(report.total()));
        let [failure] = report.failures() else { panic!("one: {:?}", report.failures()) };
        assert_eq!(failure.name, "file::groups::join");
        assert_eq!(failure.words, "assertion failed: ok\n");
    }

    #[test]
    fn it_does_not_matter_where_the_stream_is_cut() {
        let mut bytewise = Report::default();
        for byte in OUTPUT.bytes() {
            bytewise.feed(&[byte]);
        }
        bytewise.finish();
        assert_eq!(bytewise.total(), counts(2, 1, 2));
        assert_eq!(bytewise.stated(), Some(bytewise.total()));
    }

    #[test]
    fn a_tests_own_output_may_break_its_line() {
        let report = report(
            "test a::locks::x ... connected\nlost: retry\nok\n\
             test a::locks::y ... \nFAILED\nok\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored",
        );
        assert_eq!(report.of_setup("a"), counts(1, 1, 0));
        assert_eq!(report.stated(), Some(report.total()));
    }

    #[test]
    fn colours_and_carriage_returns_are_looked_through() {
        let report = report(
            "test a::locks::x ... \x1b[32mok\x1b[0m\r\ntest a::b::y ... \x1b[1;31mFAILED\x1b[m\n",
        );
        assert_eq!(report.total(), counts(1, 1, 0));
    }

    #[test]
    fn the_closing_line_is_read_apart() {
        assert_eq!(report("test a::b::c ... ok\n").stated(), None);
        let report = report("test result: FAILED. 1 passed; 2 failed; 3 ignored\n");
        assert_eq!(report.stated(), Some(counts(1, 2, 3)));
        assert_eq!(report.total(), counts(0, 0, 0));
    }

    #[test]
    fn no_test_is_no_test() {
        let report =
            report("\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored;\n");
        assert_eq!(report.total().run(), 0);
        assert_eq!(report.stated(), Some(report.total()));
    }

    #[test]
    fn bytes_that_are_not_text_do_no_harm() {
        let mut report = Report::default();
        report.feed(b"\xff\xfe\ntest a::b::c ... ok\n");
        assert_eq!(report.total(), counts(1, 0, 0));
    }
}

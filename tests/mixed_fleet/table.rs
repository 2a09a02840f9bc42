//! The table in `docs/mixed-fleets.md`, which the runs write.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::cases::{self, AREAS, Case};
use super::peer::Outcome;
use super::rows::{Row, rows};

const FILE: &str = "../docs/mixed-fleets.md";

/// What the cases came to.
#[derive(Default)]
pub(crate) struct Results(Mutex<BTreeMap<String, bool>>);

impl Results {
    pub(crate) fn add(&self, row: &Row, case: &Case, passed: bool) {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(row.test_name(case.name), passed);
    }

    fn of(&self, row: &Row, case: &Case) -> Option<bool> {
        let results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        results.get(&row.test_name(case.name)).copied()
    }
}

/// The lines of the rows that were run as a whole, by their first cells.
pub(crate) struct Table(BTreeMap<String, String>);

impl Table {
    pub(crate) fn of(rows: &[Row], results: &Results) -> Self {
        let lines = rows.iter().filter_map(|row| Some((key(row), line(row, results)?)));
        Self(lines.collect())
    }

    /// Fails unless the document says the same.
    pub(crate) fn check(&self) -> Outcome {
        let text = std::fs::read_to_string(file()).map_err(|e| format!("{FILE}: {e}"))?;
        for line in self.0.values() {
            if !text.lines().any(|other| other == line) {
                return Err(format!(
                    "docs/mixed-fleets.md does not say what was found:\n{line}\n\
                     `cargo xtask mixed-fleet --write` writes it"
                ));
            }
        }
        Ok(())
    }

    /// Puts the lines into the document, in place of what it said.
    pub(crate) fn write(&self) -> Outcome {
        let text = std::fs::read_to_string(file()).map_err(|e| format!("{FILE}: {e}"))?;
        let mut lines: Vec<&str> = text.lines().collect();
        let head = lines.iter().position(|line| line.starts_with("|---"));
        let start = head.ok_or("docs/mixed-fleets.md has no table")? + 1;
        let length = lines[start..].iter().take_while(|line| line.starts_with('|')).count();
        let old: Vec<&str> = lines.splice(start..start + length, []).collect();
        let written = rows().filter_map(|row| {
            let key = key(&row);
            let was = || old.iter().copied().find(|line| line.starts_with(&key));
            self.0.get(&key).map(String::as_str).or_else(was)
        });
        lines.splice(start..start, written);
        std::fs::write(file(), lines.join("\n") + "\n").map_err(|e| format!("{FILE}: {e}"))
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

fn key(row: &Row) -> String {
    format!("| `{}` | {} |", row.setup.name, row.python.version())
}

/// `None` if a filter left something of the row out.
fn line(row: &Row, results: &Results) -> Option<String> {
    let mut line = key(row);
    for area in AREAS {
        line += &format!(" {} |", cell(row, area, results)?);
    }
    Some(line)
}

fn cell(row: &Row, area: &str, results: &Results) -> Option<String> {
    if let Some((_, why)) = row.cannot.iter().find(|(what, _)| *what == area) {
        return Some(format!("cannot: {why}"));
    }
    let of_area = cases::ALL.iter().filter(|case| case.area() == area);
    let mut passed = true;
    for case in of_area.filter(|case| row.excuse(case).is_none()) {
        match results.of(row, case) {
            Some(this) => passed &= this,
            // The short form finds nothing else than the full one.
            None if case.from == super::arena::Form::Full => {}
            None => return None,
        }
    }
    let mut cell = match (passed, row.ours) {
        (false, _) => "fails".to_owned(),
        (true, "") => "works".to_owned(),
        (true, option) => format!("works with `?{option}`"),
    };
    for (cases, why) in exceptions(row, area) {
        cell += &format!("; not {}: {why}", cases.join(", "));
    }
    Some(cell)
}

/// What of an area cannot be, by the reason.
fn exceptions(row: &Row, area: &str) -> Vec<(Vec<String>, &'static str)> {
    let mut exceptions: Vec<(Vec<String>, _)> = Vec::new();
    for (what, why) in row.cannot {
        let Some(case) = what.strip_prefix(area).and_then(|rest| rest.strip_prefix("::")) else {
            continue;
        };
        let case = case.replace("::", " of ").replace('_', " ");
        match exceptions.iter_mut().find(|(_, other)| other == why) {
            Some((cases, _)) => cases.push(case),
            None => exceptions.push((vec![case], *why)),
        }
    }
    exceptions
}

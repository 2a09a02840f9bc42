//! The tables that people read.

use std::fmt::Write as _;

use tooz_setups::SETUPS;

use super::Ready;
use super::report::{Counts, Report};
use crate::servers;

/// The results: a row per setup, a column per area.
pub(super) fn results(report: &Report, ready: &[Ready]) -> String {
    let mut rows = vec![vec!["setup".to_owned()]];
    rows[0].extend(report.areas().iter().cloned());
    rows[0].push("total".to_owned());
    for Ready { setup, .. } in ready {
        let mut row = vec![setup.name.to_owned()];
        row.extend(report.areas().iter().map(|area| cell(report.of_area(setup.name, area))));
        row.push(cell(report.of_setup(setup.name)));
        rows.push(row);
    }
    let mut text = columns(&rows);
    text.push_str("passed, F failed, s skipped, - none\n");
    if report.stated().is_some_and(|stated| stated != report.total()) {
        text.push_str("The closing line above counts more: some tests' lines could not be read.\n");
    }
    text
}

/// The setups: what each needs and whether it can run.
pub(super) fn setups() -> String {
    let mut rows = vec![vec!["setup".to_owned(), "URL".to_owned(), "state".to_owned()]];
    for setup in SETUPS {
        let server = servers::of(setup);
        let missing = server.map(|server| server.missing_packages()).unwrap_or_default();
        let state = match server {
            None => "needs no server".to_owned(),
            Some(_) if missing.is_empty() => "server installed".to_owned(),
            Some(_) => format!("missing: {} (--install gets it)", missing.join(" ")),
        };
        rows.push(vec![setup.name.to_owned(), format!("{}://", setup.scheme), state]);
    }
    columns(&rows)
}

fn cell(counts: Counts) -> String {
    let mut parts = Vec::new();
    for (count, mark) in [(counts.passed, ""), (counts.failed, "F"), (counts.skipped, "s")] {
        if count > 0 {
            parts.push(format!("{count}{mark}"));
        }
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
}

/// Rows of cells, each column as wide as its widest cell.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_a_grid() {
        let mut report = Report::default();
        report.feed(
            b"test memory::locks::a ... ok\ntest memory::locks::b ... FAILED\n\
              test memory::groups::a ... ignored\ntest file::locks::a ... ok\n",
        );
        let ready: Vec<Ready> = ["memory", "file"]
            .map(|name| Ready { setup: servers::find(name).unwrap(), url: None, control: None })
            .into();
        assert_eq!(
            results(&report, &ready),
            "setup   locks  groups  total\n\
             memory  1 1F   1s      1 1F 1s\n\
             file    1      -       1\n\
             passed, F failed, s skipped, - none\n"
        );
    }

    #[test]
    fn every_setup_is_listed() {
        let list = setups();
        assert!(SETUPS.iter().all(|setup| list.contains(setup.name)), "{list}");
        assert!(list.contains("needs no server"));
    }
}

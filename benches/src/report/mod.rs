//! From what was measured to its documentation: the page, its pictures and the figures as JSON.

mod bounds;
mod markdown;
mod measures;
mod plot;

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::record::{Results, Row, Unit};

/// The backends in the order of the page, those alike together: a table and a picture show one
/// such group. Any other backend comes last.
const GROUPS: [(&str, &[&str]); 4] = [
    ("local", &["none", "memory", "file", "ipc"]),
    ("caches", &["redis", "memcached"]),
    ("consensus", &["zookeeper", "etcd", "etcd3", "etcd3-http", "consul"]),
    ("databases", &["postgresql", "mysql", "mariadb"]),
];

/// The contestants in the order of the page, told by how their names begin. Any other comes last.
const CONTESTANTS: [&str; 14] = [
    "tooz",
    "tooz, spawned",
    "tooz, current-thread",
    "raw",
    "raw, spawned",
    "raw, current-thread",
    "threaded raw",
    "threaded raw, spawned",
    "threaded raw, current-thread",
    "Python",
    "distributed-lock",
    "rslock",
    "zookeeper-client",
    "etcd-client",
];

/// What stands behind a contestant's name that is called from elsewhere than the main task of a
/// multi-thread runtime.
const CALLERS: [&str; 3] = ["", ", spawned", ", current-thread"];

/// Writes the figures, the page and its pictures into the folder.
pub fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    // First, since only the figures cannot be had again.
    let figures = serde_json::to_string_pretty(&sorted(results))? + "\n";
    save(folder, "results.json", &figures)?;
    write_page(results, folder)
}

/// Writes the page and its pictures alone.
pub fn write_page(results: &Results, folder: &Path) -> anyhow::Result<()> {
    let results = sorted(results);
    let pictures = plot::pictures(&results)?;
    for (name, svg) in &pictures {
        save(folder, name, svg)?;
    }
    let names: Vec<_> = pictures.iter().map(|(name, _)| name.as_str()).collect();
    save(folder, "README.md", &markdown::page(&results, &names))
}

fn save(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| file.display().to_string())
}

/// In the page's order, whichever order it was measured in.
fn sorted(results: &Results) -> Results {
    let key = |backend: &str, contestant: &str, measure: &str| {
        let measure = (measures::place(measure), measure.to_owned());
        let backend = (place_of_backend(backend), backend.to_owned());
        (measure, backend, (place_of_contestant(contestant), contestant.to_owned()))
    };
    let mut results = results.clone();
    results
        .rows
        .sort_by_cached_key(|row| (key(&row.backend, &row.contestant, &row.measure), row.size));
    results.missing.sort_by_cached_key(|[backend, contestant, measure, reason]| {
        (key(backend, contestant, measure), reason.clone())
    });
    results
}

fn place_of_backend(name: &str) -> usize {
    let mut all = GROUPS.iter().flat_map(|(_, backends)| *backends);
    all.position(|backend| *backend == name).unwrap_or(usize::MAX)
}

fn place_of_contestant(name: &str) -> usize {
    let fits = |known: &&str| {
        let rest = name.strip_prefix(*known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    CONTESTANTS.iter().position(fits).unwrap_or(usize::MAX)
}

/// The groups of backends with a name for each, the last with those that are in no other.
fn groups(results: &Results) -> Vec<(&'static str, Vec<&str>)> {
    let mut groups: Vec<_> =
        GROUPS.iter().map(|(name, backends)| (*name, backends.to_vec())).collect();
    let mut others: Vec<_> = keys(results)
        .map(|[backend, ..]| backend)
        .filter(|backend| place_of_backend(backend) == usize::MAX)
        .collect();
    others.sort_unstable();
    others.dedup();
    groups.push(("others", others));
    groups
}

/// Backend, contestant and measure of all that was measured, or would have been.
fn keys(results: &Results) -> impl Iterator<Item = [&str; 3]> {
    let rows = results.rows.iter().map(|row| [&*row.backend, &*row.contestant, &*row.measure]);
    let missing = results.missing.iter();
    rows.chain(missing.map(|[backend, contestant, measure, _]| [&**backend, contestant, measure]))
}

fn find<'a>(
    results: &'a Results,
    [backend, contestant, measure]: [&str; 3],
    size: Option<u64>,
) -> Option<&'a Row> {
    results.rows.iter().find(|row| {
        row.backend == backend
            && row.contestant == contestant
            && row.measure == measure
            && row.size == size
    })
}

/// Why it was not measured, if the run told.
fn reason<'a>(results: &'a Results, key: [&str; 3]) -> Option<&'a str> {
    let found = results.missing.iter().find(|missing| missing.iter().zip(key).all(|(a, b)| a == b));
    found.map(|[.., reason]| reason.as_str())
}

/// The median of a time, in writes of the bare client that is called in the same way.
fn round_trips(results: &Results, row: &Row) -> Option<f64> {
    let (_, caller) = row.contestant.split_once(", ").unwrap_or_default();
    let raw = if caller.is_empty() { "raw".to_owned() } else { format!("raw, {caller}") };
    let write = find(results, [&row.backend, &raw, "write"], None)?;
    (row.unit == Unit::Nanoseconds && write.median > 0.0).then(|| row.median / write.median)
}

/// A figure with three significant digits, in the unit that fits.
fn figure(value: f64, unit: Unit) -> String {
    let (number, unit) = parts(value, unit);
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// The number and the unit of a figure.
fn parts(value: f64, unit: Unit) -> (String, &'static str) {
    let names: &[&str] = match unit {
        Unit::Nanoseconds => &["ns", "µs", "ms", "s"],
        Unit::Bytes => &["B", "kB", "MB", "GB"],
        Unit::Count => &[""],
        Unit::Ratio => return (format!("{value:.3}"), ""),
    };
    // Rounded before the unit is chosen, lest 999.9 µs become 1000 µs.
    let mut value = significant(value);
    let mut place = 0;
    while value >= 1000.0 && place + 1 < names.len() {
        value /= 1000.0;
        place += 1;
    }
    (number(value), names[place])
}

/// Rounded to three significant digits, or to a whole number where that is more.
fn significant(value: f64) -> f64 {
    if value.abs() < f64::MIN_POSITIVE {
        return 0.0;
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn number(value: f64) -> String {
    match significant(value) {
        0.0 => "0".to_owned(),
        rounded if rounded < 1.0 => format!("{rounded:.3}"),
        rounded if rounded < 10.0 => format!("{rounded:.2}"),
        rounded if rounded < 100.0 => format!("{rounded:.1}"),
        _ => thousands(value.round() as u64),
    }
}

/// As in 10,000.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A measure's name as a part of a file's.
fn slug(name: &str) -> String {
    let plain = name.replace(',', "").to_lowercase();
    let words = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests;

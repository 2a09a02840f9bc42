use super::bounds::{Bound, Verdict, bounds};
use super::*;
use crate::record::Machine;

fn row(key: [&str; 3], size: Option<u64>, median: f64) -> Row {
    let [backend, contestant, measure] = key.map(str::to_owned);
    let unit = Unit::Nanoseconds;
    let (p99, least) = (median * 2.0, median / 2.0);
    Row { backend, contestant, measure, size, unit, median, p99, least, runs: 1000 }
}

fn sample() -> Results {
    let text = str::to_owned;
    let machine = Machine {
        date: text("2026-01-31"),
        processor: text("A | B"),
        cores: 2,
        memory: 8_000_000_000,
        kernel: text("6.1"),
        distribution: text("Debian"),
        rust: text("rustc 1.95.0"),
        servers: vec![(text("redis"), text("8.0"))],
    };
    let rows = vec![
        row(["redis", "Python tooz 9.1", "acquire and release"], None, 1.5e6),
        row(["redis", "tooz", "acquire and release"], None, 252e3),
        row(["redis", "raw", "write"], None, 120e3),
        row(["redis", "tooz", "hand-off"], Some(8), 300e3),
        row(["redis", "tooz", "hand-off"], Some(2), 400e3),
        row(["redis", "rslock", "hand-off"], Some(2), 350e3),
        row(["memory", "tooz", "engine hop"], None, 10e3),
    ];
    let missing = [
        ["redis", "Python tooz 9.1", "hand-off", "no answer\nin <60 s>"],
        ["redis", "tooz", "hand-off", "odd"],
        ["file", "tooz", "join to event", "not tried"],
    ];
    Results { machine, rows, missing: missing.map(|texts| texts.map(text)).to_vec() }
}

fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(heading).unwrap();
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

#[test]
fn figures_have_three_digits_in_the_unit_that_fits() {
    use Unit::*;
    let cases = [
        (0.0, Nanoseconds, "0 ns"),
        (7.0, Nanoseconds, "7.00 ns"),
        (252_400.0, Nanoseconds, "252 µs"),
        (999_400.0, Nanoseconds, "999 µs"),
        (999_700.0, Nanoseconds, "1.00 ms"),
        (12_340_000.0, Nanoseconds, "12.3 ms"),
        (2_345_678_901_234.0, Nanoseconds, "2,350 s"),
        (8_349_000.0, Bytes, "8.35 MB"),
        (4.0, Count, "4.00"),
        (0.25, Count, "0.250"),
        (1_234_567.0, Count, "1,230,000"),
        (0.98765, Ratio, "0.988"),
    ];
    for (value, unit, text) in cases {
        assert_eq!(figure(value, unit), text);
    }
    assert_eq!(slug("memory: group of 1,000"), "memory-group-of-1000");
}

#[test]
fn tables_are_stable() {
    let page = |results: &Results| markdown::page(&sorted(results), &["hand-off-caches.svg"]);
    let results = sample();
    let mut shuffled = results.clone();
    shuffled.rows.reverse();
    shuffled.missing.reverse();
    assert_eq!(page(&shuffled), page(&results));

    let page = page(&results);
    let acquire = "\
| contestant | `redis` |
|---|---|
| tooz | 252 µs (p99 504)<br>2.10 ×, 1,000 runs |
| Python tooz 9.1 | 1.50 ms (p99 3.00)<br>12.5 ×, 1,000 runs |
";
    assert!(section(&page, "## Acquire and release\n").ends_with(acquire), "{page}");
    let hand_off = "
| backend | contestant | processes: 2 | processes: 8 |
|---|---|---|---|
| `redis` | tooz | 400 µs (p99 800)<br>3.33 ×, 1,000 runs | 300 µs (p99 600)<br>2.50 ×, 1,000 runs |
| `redis` | Python tooz 9.1 | — <sup>1</sup> | — <sup>1</sup> |
| `redis` | rslock | 350 µs (p99 700)<br>2.92 ×, 1,000 runs |  |

![hand-off: the table above as a picture](hand-off-caches.svg)

1. no answer in &lt;60 s>

- `redis`, tooz: odd
";
    assert!(section(&page, "## Hand-off\n").ends_with(hand_off), "{page}");
    assert!(section(&page, "## Renewal\n").ends_with("\nNot measured.\n"), "{page}");
    assert!(page.contains("| processor | A \\| B, 2 cores |"), "{page}");
}

#[test]
fn an_unknown_measure_has_a_section_at_the_end() {
    let mut results = sample();
    results.rows.push(row(["none", "tooz", "something new"], None, 1e3));
    let page = markdown::page(&sorted(&results), &[]);
    let section = "\n## Something new\n\n| contestant | no backend |\n|---|---|\n\
                   | tooz | 1.00 µs (p99 2.00)<br>1,000 runs |\n";
    assert!(page.ends_with(section), "{page}");
}

fn verdict(bounds: &[Bound], rule: &str, backend: &str) -> String {
    let fits = |bound: &&Bound| bound.rule.starts_with(rule) && bound.backend == backend;
    match &bounds.iter().find(fits).unwrap().verdict {
        Verdict::Measured { measured, limit, met } => format!("{measured} / {limit} / {met}"),
        Verdict::NotMeasured(why) => format!("{why:?}"),
    }
}

#[test]
fn bounds_are_met_unmet_or_not_measured() {
    let mut results = sample();
    // No bare client is a rival, since it has no lock.
    results.rows.push(row(["redis", "threaded raw", "hand-off"], Some(2), 200e3));
    let bounds = bounds(&results);
    let redis = |rule| verdict(&bounds, rule, "redis");
    let cost = "acquire and release ≤ 2.";
    assert_eq!(redis(cost), "252 µs / 296 µs (2.3 × 120 µs + 2 × 10.0 µs) / true");
    assert_eq!(verdict(&bounds, cost, "redis, current-thread"), "None");
    assert_eq!(redis("hand-off between 2 processes ≤"), "400 µs / 360 µs (3 × 120 µs) / false");
    assert_eq!(
        redis("hand-off between 2 processes: the least"),
        "400 µs / 350 µs (rslock) / false"
    );
    let ahead = "1; not in hand-off of 2 (400 µs; rslock 350 µs) / all 2 / false";
    assert_eq!(redis("ahead"), ahead);
    assert_eq!(verdict(&bounds, "ahead", "mysql"), "None");
    assert_eq!(redis("leader killed"), "None");
    let none = |bound: &Bound| bound.backend == "memcached" && bound.rule.contains("pushes");
    assert!(!bounds.iter().any(none));
}

#[test]
fn why_a_bound_is_not_measured_is_told_once() {
    let mut results = sample();
    let why = |backend: &str| [backend, "tooz", "join to event", "no events"].map(str::to_owned);
    results.missing = vec![why("redis"), why("file")];
    for backend in ["file", "redis"] {
        results.rows.push(row([backend, "raw", "write"], None, 1e5));
    }
    let page = markdown::page(&sorted(&results), &[]);
    let line = "| join to event ≤ 3 raw writes | `file`, `redis` | not measured: no events | | |\n";
    assert!(page.contains(line), "{page}");
}

#[test]
fn pictures_name_the_contestants() {
    let pictures = plot::pictures(&sorted(&sample())).unwrap();
    let names: Vec<_> = pictures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["hand-off-caches.svg", "acquire-and-release.svg"]);
    for (text, picture) in [("\ntooz\n", 0), ("\nrslock\n", 0), ("\n200 µs\n", 0), ("9.1", 1)] {
        let svg = &pictures[picture].1;
        assert!(svg.contains(text), "{text}: {svg}");
    }
}

#[test]
fn a_picture_of_one_value_has_an_axis() {
    let mut results = sample();
    results.rows.retain(|row| row.measure != "hand-off");
    for size in [2, 8] {
        let fair = row(["redis", "tooz", "fairness"], Some(size), 1.0);
        results.rows.push(Row { unit: Unit::Ratio, ..fair });
    }
    let pictures = plot::pictures(&sorted(&results)).unwrap();
    let (name, svg) = &pictures[1 - usize::from(pictures[0].0.starts_with("fair"))];
    assert_eq!(name, "fairness-caches.svg");
    assert!(svg.contains("\n0.5\n") && svg.contains("\n1\n"), "{svg}");
}

//! From values to figures.

use std::fmt;

use crate::record::{Row, Unit};

/// Median, 99th percentile and least of the values; `None` without any.
pub fn figures(mut values: Vec<f64>) -> Option<Figures> {
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (values.len() as f64 * share).ceil() as usize;
        values.get(place.saturating_sub(1)).copied()
    };
    Some(Figures { median: at(0.5)?, p99: at(0.99)?, least: *values.first()?, runs: values.len() })
}

/// What is told of many values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    median: f64,
    p99: f64,
    least: f64,
    runs: usize,
}

impl Figures {
    pub fn row(self, key: &Key<'_>, unit: Unit) -> Row {
        let Self { median, p99, least, runs } = self;
        Row {
            backend: key.backend.to_owned(),
            contestant: key.contestant.to_owned(),
            measure: key.measure.to_owned(),
            size: key.size,
            unit,
            median,
            p99,
            least,
            runs,
        }
    }
}

/// What a figure is of.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub backend: &'a str,
    pub contestant: &'a str,
    pub measure: &'a str,
    pub size: Option<u64>,
}

impl<'a> Key<'a> {
    pub fn of(backend: &'a str, contestant: &'a str, measure: &'a str) -> Self {
        Self { backend, contestant, measure, size: None }
    }

    pub fn sized(self, size: usize) -> Self {
        Self { size: Some(size as u64), ..self }
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, contestant, measure, size } = self;
        write!(f, "{backend}, {contestant}: {measure}")?;
        size.map_or(Ok(()), |size| write!(f, " ({size})"))
    }
}

/// Jain's index of fairness: 1 when all got the same, 1/n when one got all.
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_sorted_values() {
        let values = (1..=100).rev().map(f64::from).collect();
        let figures = figures(values).unwrap();
        assert_eq!(figures, Figures { median: 50.0, p99: 99.0, least: 1.0, runs: 100 });
        assert_eq!(super::figures(Vec::new()), None);
    }

    #[test]
    fn fairness_is_between_one_for_all_and_the_same_for_each() {
        assert_eq!(jain(&[5.0, 5.0]), 1.0);
        assert_eq!(jain(&[9.0, 0.0, 0.0]), 1.0 / 3.0);
    }
}

use std::time::Duration;

use crate::OperationId;

/// A random part of a time, from none of it to all: so that what happens to many at once is not
/// repeated by all at once.
pub fn random_part(of: Duration) -> Duration {
    let [a, b, c, d, ..] = *OperationId::random().as_bytes();
    of.mul_f64(f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_within_the_whole_and_differ() {
        let whole = Duration::from_secs(1);
        let parts: Vec<_> = (0..100).map(|_| random_part(whole)).collect();
        assert!(parts.iter().all(|part| *part <= whole));
        assert!(parts.iter().any(|part| *part < whole / 2));
        assert!(parts.iter().any(|part| *part > whole / 2));
    }
}

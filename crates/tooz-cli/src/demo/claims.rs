//! What the demonstration claims, and whether it happened.

use std::fmt;
use std::time::Duration;

/// One claim, and what was seen.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) text: String,
    pub(super) seen: Result<String, String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    /// Adds a claim with what was seen: `Ok` if it happened.
    pub(super) fn add(&mut self, text: impl Into<String>, seen: Result<String, String>) {
        self.0.push(Claim { text: text.into(), seen });
    }

    /// Adds a claim that something happens within a time, with the time that it took.
    pub(super) fn within(
        &mut self,
        text: impl fmt::Display,
        limit: Duration,
        took: Option<Duration>,
    ) {
        let text = format!("{text} within {limit:?}");
        self.add(
            text,
            match took {
                Some(took) if took <= limit => Ok(format!("{} ms", took.as_millis())),
                Some(took) => Err(format!("after {} ms", took.as_millis())),
                None => Err("it did not happen".into()),
            },
        );
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.0.iter()
    }

    /// How many did not happen.
    pub(super) fn failed(&self) -> usize {
        self.0.iter().filter(|claim| claim.seen.is_err()).count()
    }
}

/// What the record says about the turns with the lock: how many there were, and the last token.
///
/// A worker writes `enter NAME TOKEN` once it has the lock, and `leave NAME TOKEN` before it
/// releases it. `killed` may have entered and never left.
///
/// # Errors
/// The first line at which two had the lock, or a token did not rise.
pub(super) fn read_record(record: &str, killed: Option<&str>) -> Result<Turns, String> {
    let mut turns = Turns::default();
    let mut inside = None;
    for (number, line) in (1..).zip(record.lines()) {
        let wrong = |what: String| format!("line {number} of the record: {what}");
        let mut words = line.split(' ');
        let (Some(what), Some(name), Some(token)) = (words.next(), words.next(), words.next())
        else {
            return Err(wrong(format!("unreadable: {line:?}")));
        };
        let token: u64 = token.parse().map_err(|_| wrong(format!("no token: {line:?}")))?;
        match (what, inside) {
            ("leave", Some(holder)) if holder == (name, token) => inside = None,
            ("leave", _) => return Err(wrong(format!("{name} left without being inside"))),
            (_, Some((holder, _))) if Some(holder) != killed => {
                return Err(wrong(format!("{name} entered while {holder} was inside")));
            }
            _ if token <= turns.last_token => {
                return Err(wrong(format!("the token {token} follows {}", turns.last_token)));
            }
            _ => {
                inside = Some((name, token));
                turns.last_token = token;
                turns.count += 1;
            }
        }
    }
    Ok(turns)
}

/// The turns of a record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) count: usize,
    pub(super) last_token: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_record_is_counted() {
        let record = "enter a 3\nleave a 3\nenter b 4\nenter a 7\nleave a 7\n";
        assert_eq!(read_record(record, Some("b")), Ok(Turns { count: 3, last_token: 7 }));
    }

    #[test]
    fn two_inside_are_noticed() {
        let two = "enter a 1\nenter b 2\nleave a 1\n";
        assert!(read_record(two, None).unwrap_err().contains("b entered while a was inside"));
        assert!(read_record(two, Some("b")).is_err());
        assert!(read_record(two, Some("a")).unwrap_err().contains("a left"), "the dead write");
    }

    #[test]
    fn a_token_that_does_not_rise_is_noticed() {
        let same = "enter a 1\nleave a 1\nenter b 1\nleave b 1\n";
        assert!(read_record(same, None).unwrap_err().contains("1 follows 1"));
    }

    #[test]
    fn a_claim_that_is_late_or_never_true_fails() {
        let mut claims = Claims::default();
        let second = Duration::from_secs(1);
        for took in [Some(second), Some(second * 2), None] {
            claims.within("it ends", second, took);
        }
        assert_eq!(claims.failed(), 2);
        assert_eq!(claims.iter().next().unwrap().text, "it ends within 1s");
    }
}

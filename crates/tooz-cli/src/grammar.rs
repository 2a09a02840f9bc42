//! What arguments mean, beyond what their parser knows.

use std::ffi::OsString;
use std::time::Duration;

/// Reads a time: a number of seconds, which may have a fraction, or numbers with units.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "write seconds, as 90 or 0.5, or a time such as 1m30s".to_owned())
}

/// The arguments with a NAME that begins with `-` behind the `--` that it stands before; with that
/// NAME. `None` if no such word stands there.
pub(crate) fn name_behind_escape(mut given: Vec<OsString>) -> Option<(Vec<OsString>, OsString)> {
    let escape = given.iter().position(|argument| argument == "--")?;
    let name = given.get(escape.checked_sub(1)?)?.clone();
    name.as_encoded_bytes().starts_with(b"-").then(|| {
        given.swap(escape - 1, escape);
        (given, name)
    })
}

/// Drops the `--` before CMD that is left when one before NAME ended the options.
pub(crate) fn drop_escape(command: &mut Vec<OsString>) {
    if command.first().is_some_and(|first| first == "--") {
        command.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_units() {
        for (text, millis) in [
            ("0", 0),
            ("90", 90_000),
            ("0.25", 250),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("2h", 7_200_000),
            ("500ms", 500),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "soon", "1x", "nan", "1e30"] {
            assert!(time(text).unwrap_err().contains("1m30s"), "{text}");
        }
    }

    #[test]
    fn a_name_before_an_escape_is_put_behind_it() {
        let put = |given: &[&str]| name_behind_escape(given.iter().map(Into::into).collect());
        let (put_behind, name) = put(&["lock", "-job", "--", "true", "--"]).unwrap();
        assert_eq!(
            (put_behind, name),
            (["lock", "--", "-job", "true", "--"].map(Into::into).into(), "-job".into())
        );
        for given in [&["lock", "name", "--", "true"][..], &["lock", "-x", "name"], &["--", "x"]] {
            assert_eq!(put(given), None);
        }
    }
}

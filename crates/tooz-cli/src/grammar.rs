//! What arguments mean, beyond what their parser knows.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::Command;
use clap::error::ErrorKind;

/// Reads a time: a number of seconds, which may have a fraction, or numbers with units.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "write seconds, as 90 or 0.5, or a time such as 1m30s".to_owned())
}

/// Whether a name begins as options do.
pub(crate) fn looks_like_option(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"-")
}

/// Refuses a NAME that looks like an option, unless it is meant.
///
/// Options end at NAME, so that CMD needs no `--` before its own; then a mistyped option would be
/// taken for a NAME that begins with `-`, and NAME for CMD. Such a NAME needs a `--` beside it.
pub(crate) fn check(
    command: &mut Command,
    given: &[OsString],
    name: &OsStr,
) -> Result<(), clap::Error> {
    let escape = given.iter().position(|argument| argument == "--");
    let beside = |at: usize| [at.checked_sub(1), at.checked_add(1)];
    let is_meant = escape.is_some_and(|at| {
        beside(at).into_iter().flatten().any(|at| given.get(at).is_some_and(|other| other == name))
    });
    if is_meant {
        return Ok(());
    }
    let name = name.display();
    let text = format!("{name} is no option; a name that begins with - comes after --: -- {name}");
    Err(command.error(ErrorKind::UnknownArgument, text))
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
    fn a_name_that_begins_with_a_hyphen_stands_beside_an_escape() {
        let check = |given: &[&str], name: &str| {
            let given: Vec<OsString> = given.iter().map(Into::into).collect();
            check(&mut Command::new("tooz"), &given, OsStr::new(name))
        };
        check(&["lock", "-job", "--", "true"], "-job").unwrap();
        check(&["lock", "--", "-job", "true"], "-job").unwrap();
        check(&["lock", "--", "-job", "--", "true"], "-job").unwrap();
        for given in [&["lock", "-x", "name", "--", "true"][..], &["lock", "-x", "name", "true"]] {
            let error = check(given, "-x").unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("-- -x"), "{error}");
        }
    }
}

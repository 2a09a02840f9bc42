//! What is put into a wrong place of a URL may be a secret.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

const SECRET: &str = "hunter2";

/// A URL of a scheme that only an option can make wrong, and the options that it knows, as its own
/// error lists them.
fn known_options(scheme: &str) -> (String, Vec<String>) {
    let mut errors = Vec::new();
    // Some need a path, some refuse one.
    for path in ["", "/d"] {
        let url = format!("{scheme}://h:1{path}");
        let builder = tooz::builder(&url, "m").unwrap().option("no-such-option", "1");
        let error = builder.build().unwrap_err().to_string();
        if let Some((_, known)) = error.split_once("known are: ") {
            return (url, known.split(", ").map(str::to_owned).collect());
        }
        errors.push(error);
    }
    panic!("{scheme} lists no options: {errors:?}");
}

#[test]
fn no_driver_repeats_a_value_that_it_refuses() {
    let (mut refused, mut repeated) = (0, Vec::new());
    for driver in tooz::registry().drivers() {
        for scheme in driver.schemes {
            let (url, options) = known_options(scheme);
            for option in options {
                let url = format!("{url}?{option}={SECRET}");
                if let Err(error) = tooz::get_coordinator(&url, "m") {
                    refused += 1;
                    let shown = format!("{error} {error:?}");
                    // The name of a file that is not there must be told.
                    let is_path = shown.contains("No such file");
                    if shown.contains(SECRET) && !is_path {
                        repeated.push(format!("{url}: {shown}"));
                    }
                }
            }
        }
    }
    assert!(refused > 0, "something is refused, by any driver");
    assert!(repeated.is_empty(), "{}", repeated.join("\n"));
}

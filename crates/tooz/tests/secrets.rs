//! What is put into a wrong place of a URL may be a secret.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

const SECRET: &str = "hunter2";

/// The options that a scheme knows, as its own error lists them.
fn known_options(scheme: &str) -> Vec<String> {
    let builder = tooz::builder(&format!("{scheme}://h:1/"), "m").unwrap();
    let error = builder.option("no-such-option", "1").build().unwrap_err().to_string();
    let (_, list) = error.split_once("known are: ").unwrap_or_else(|| panic!("{scheme}: {error}"));
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn no_driver_repeats_a_value_that_it_refuses() {
    let (mut refused, mut repeated) = (0, Vec::new());
    for driver in tooz::registry().drivers() {
        for scheme in driver.schemes {
            for option in known_options(scheme) {
                let url = format!("{scheme}://h:1/?{option}={SECRET}");
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

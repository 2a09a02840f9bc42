//! The secrets of a URL: how they come in, and how they are kept from CMD.
//!
//! Every user of the host can see arguments; only the user's own processes, and root, can see the
//! environment.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use tooz::CoordinatorUrl;

use crate::output;

/// Replaces a secret where a URL is shown.
const WITHHELD: &str = "***";

/// More bytes than any URL has.
const LONGEST: u64 = 64 * 1024;

/// The URL in a file: its first line that is not empty.
pub(crate) fn read(file: &Path) -> Result<String> {
    let failed = || format!("cannot read the URL from {}", file.display());
    let opened = File::open(file).with_context(failed)?;
    let mode = opened.metadata().with_context(failed)?.mode();
    let mut text = String::new();
    opened.take(LONGEST).read_to_string(&mut text).with_context(failed)?;
    let url = text.lines().map(str::trim).find(|line| !line.is_empty());
    let url = url.with_context(|| format!("{} is empty; write a URL there", file.display()))?;
    if mode & 0o044 != 0 && shown(url).is_some() {
        let file = file.display();
        output::note(&format!("others can read {file} and the password in it; chmod it to 600"));
    }
    Ok(url.to_owned())
}

/// Looks at a URL that came as an argument or in the environment.
pub(crate) fn check(url: &str) -> Result<()> {
    ensure!(
        !is_withheld(url),
        "the URL has {WITHHELD} for a password: an outer tooz keeps it from its CMD; give that one \
         --pass-url"
    );
    if is_argument(url) && shown(url).is_some() {
        output::note(
            "every user of this host can see the password in --url; put the URL into TOOZ_URL, or \
             into a file and name it with --url-file",
        );
    }
    Ok(())
}

/// Refuses two URLs.
pub(crate) fn check_alone(url: Option<&str>) -> Result<()> {
    if url.is_some_and(is_argument) {
        bail!("--url and --url-file both name a backend; choose one");
    }
    Ok(())
}

/// The URL as CMD may see it: a secret in it is replaced, unless it is to be passed on. A `tooz` in
/// CMD refuses such a URL, and uses no other backend.
pub(crate) fn for_command(url: String, pass: bool) -> String {
    let shown = if pass { None } else { shown(&url) };
    shown.unwrap_or(url)
}

/// The URL without its secrets, if it has any. A malformed URL is refused elsewhere.
fn shown(url: &str) -> Option<String> {
    let shown = url.parse::<CoordinatorUrl>().ok()?.to_string();
    // The rest of it may contain that text too.
    let count = |text: &str| text.matches(WITHHELD).count();
    (count(&shown) > count(url)).then_some(shown)
}

/// Whether [`for_command`] made this of another URL.
fn is_withheld(url: &str) -> bool {
    let Ok(url) = url.parse::<CoordinatorUrl>() else { return false };
    url.password().is_some_and(|password| password.expose() == WITHHELD)
        || url.options().iter().any(|(_, value)| value == WITHHELD)
}

fn is_argument(url: &str) -> bool {
    let is_it = |argument: &str| argument.strip_prefix("--url=").unwrap_or(argument) == url;
    std::env::args_os().skip(1).any(|argument| argument.to_str().is_some_and(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_sees_a_url_without_its_secrets() {
        for (url, seen) in [
            ("redis://ops:hunter2@h:1/", "redis://ops:***@h:1/"),
            ("redis://:hunter2@h", "redis://:***@h"),
            ("consul://h?acl_token=hunter2", "consul://h?acl_token=***"),
            ("redis://ops@h?timeout=3", "redis://ops@h?timeout=3"),
            ("file:///var/lib/a%20b", "file:///var/lib/a%20b"),
            ("file:///var/lib/***", "file:///var/lib/***"),
        ] {
            assert_eq!(for_command(url.to_owned(), false), seen);
            assert_eq!(for_command(url.to_owned(), true), url);
        }
        let error = check("redis://ops:***@h").unwrap_err().to_string();
        assert!(error.contains("--pass-url"), "{error}");
        check("consul://h?acl_token=***").unwrap_err();
        check("redis://ops:hunter2@h").unwrap();
        check("file:///var/lib/***").unwrap();
    }

    #[test]
    fn a_url_is_read_from_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("url");
        std::fs::write(&file, "\n  redis://ops:x@h  \nmore\n").unwrap();
        assert_eq!(read(&file).unwrap(), "redis://ops:x@h");
        std::fs::write(&file, " \n").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("is empty"));
        let missing = read(&temp.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}

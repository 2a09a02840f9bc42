//! Options, from code and from the URL's query.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::url::{Secret, is_secret};
use crate::{CoordinatorUrl, Error, Result};

/// The options of one coordinator, read by the driver that it opens.
///
/// Options given in code take precedence over those of the URL, and the last value of a name wins,
/// unless the driver reads the name as a list. Reading an option makes it known;
/// [`finish`](Self::finish) refuses every other one, and lists the known names.
///
/// ```
/// # use std::time::Duration;
/// # use tooz_core::{CoordinatorUrl, Options};
/// let url: CoordinatorUrl = "redis://h?timeout=2.5&ssl=yes&tiemout=3".parse()?;
/// let mut options = Options::of(&url);
/// assert_eq!(options.seconds("timeout", Duration::from_secs(30))?, Duration::from_millis(2500));
/// assert!(options.flag("ssl", false)?);
/// let error = options.finish().unwrap_err();
/// assert_eq!(error.to_string(), "the option tiemout is unknown; known are: ssl, timeout");
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    values: Vec<(String, String)>,
    overrides: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Options {
    /// The options of `url` alone.
    pub fn of(url: &CoordinatorUrl) -> Self {
        Self::with_overrides(url, Vec::new())
    }

    /// The options of `url`, where those of `overrides` replace the ones of the same name.
    pub(crate) fn with_overrides(url: &CoordinatorUrl, overrides: Vec<(String, String)>) -> Self {
        Self { values: url.options().to_vec(), overrides, known: Vec::new() }
    }

    /// All values of `name`, in order.
    pub fn list(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let of = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
        };
        let from_code = of(&self.overrides);
        if from_code.is_empty() { of(&self.values) } else { from_code }
    }

    /// The value of `name`.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.list(name).pop()
    }

    /// The value of `name`, which is never printed.
    pub fn secret(&mut self, name: &'static str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    /// A number or another type that is parsed from text; `what` describes a valid value, such as
    /// "a whole number".
    pub fn parse<T: FromStr>(&mut self, name: &'static str, what: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.trim().parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(self.refuse(name, what)),
        }
    }

    /// A time in seconds, which may have a fraction and must be above zero.
    pub fn seconds(&mut self, name: &'static str, default: Duration) -> Result<Duration> {
        self.time(name, default, "a number of seconds above 0", |time| !time.is_zero())
    }

    /// A time in seconds, which may have a fraction and may be zero.
    pub fn seconds_or_zero(&mut self, name: &'static str, default: Duration) -> Result<Duration> {
        self.time(name, default, "a number of seconds, or 0", |_| true)
    }

    fn time(
        &mut self,
        name: &'static str,
        default: Duration,
        what: &str,
        suits: impl Fn(&Duration) -> bool,
    ) -> Result<Duration> {
        let Some(seconds) = self.parse::<f64>(name, what)? else { return Ok(default) };
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(suits)
            .ok_or_else(|| self.refuse(name, what))
    }

    /// A truth value: 1, t, true, on, y, yes, or 0, f, false, off, n, no.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool> {
        let Some(text) = self.text(name) else { return Ok(default) };
        match text.trim().to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => Ok(true),
            "0" | "f" | "false" | "off" | "n" | "no" => Ok(false),
            _ => Err(self.refuse(name, "yes or no")),
        }
    }

    /// Accepts options that the original takes but that have no effect here.
    pub fn ignore(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Refuses whatever was not read.
    pub fn finish(self) -> Result<()> {
        let unknown = self
            .overrides
            .iter()
            .chain(&self.values)
            .find(|(name, _)| !self.known.contains(&name.as_str()));
        let Some((unknown, _)) = unknown else { return Ok(()) };
        let mut known = self.known;
        known.sort_unstable();
        known.dedup();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Error::invalid(format!("the option {unknown} is unknown; known are: {known}")))
    }

    /// Does not repeat the value: it may be a secret that was put into the wrong option.
    fn refuse(&self, name: &str, what: &str) -> Error {
        Error::invalid(format!("the option {name} must be {what}"))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.overrides.iter().chain(&self.values);
        f.debug_map()
            .entries(shown.map(|(n, v)| (n, if is_secret(n) { "***" } else { v.as_str() })))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str, overrides: &[(&str, &str)]) -> Options {
        let url = format!("redis://h?{query}").parse().unwrap();
        let own = overrides.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Options::with_overrides(&url, own)
    }

    #[test]
    fn code_comes_before_the_url_and_the_last_value_wins() {
        let mut o = options("db=1&db=2&host=a&host=b", &[("db", "7")]);
        assert_eq!(o.parse::<u32>("db", "a whole number").unwrap(), Some(7));
        assert_eq!(o.list("host"), ["a", "b"]);
        assert_eq!(o.text("host").as_deref(), Some("b"));
        o.finish().unwrap();
    }

    #[test]
    fn bad_values_name_what_would_be_right() {
        let mut o = options("db=hunter2&timeout=-1&ssl=hunter2", &[]);
        for error in [
            o.parse::<u32>("db", "a whole number").unwrap_err(),
            o.seconds("timeout", Duration::from_secs(1)).unwrap_err(),
            o.flag("ssl", false).unwrap_err(),
        ] {
            assert!(error.to_string().contains("must be"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "a misplaced secret: {error}");
        }
    }

    #[test]
    fn an_unknown_option_lists_the_known_ones_and_no_secret() {
        let mut o = options("passwrod=x", &[("auth_token", "hush")]);
        assert!(!format!("{o:?}").contains("hush"));
        o.ignore(&["executor"]);
        o.secret("auth_token");
        let error = o.finish().unwrap_err().to_string();
        assert!(error.contains("passwrod is unknown; known are: auth_token, executor"), "{error}");
    }
}

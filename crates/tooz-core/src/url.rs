//! The URL that chooses and configures a driver.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;

use crate::{Error, Result};

/// `scheme://[user[:password]@]host[:port][,host[:port]…][/path][?option=value…]`
///
/// Several hosts are allowed, which the common URL parsers refuse. User, password, hosts
/// and options are percent-decoded; in options `+` is a space, as in a form. A fragment is ignored.
///
/// `Debug` and `Display` hide the password, and every option that is named like a secret.
///
/// ```
/// use tooz_core::CoordinatorUrl;
///
/// let url: CoordinatorUrl = "zookeeper://ops:s%40fe@zk1:2181,[::1]:2182/app?timeout=5".parse()?;
/// assert_eq!(url.scheme(), "zookeeper");
/// assert_eq!(url.hosts().len(), 2);
/// assert_eq!(url.hosts()[1].name, "::1");
/// assert_eq!(url.hosts()[1].port, Some(2182));
/// assert_eq!(url.path(), "/app");
/// assert_eq!(url.password().map(|p| p.expose()), Some("s@fe"));
/// assert_eq!(url.to_string(), "zookeeper://ops:***@zk1:2181,[::1]:2182/app?timeout=5");
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Clone)]
pub struct CoordinatorUrl {
    scheme: String,
    user: Option<String>,
    password: Option<Secret>,
    hosts: Vec<Host>,
    path: String,
    options: Vec<(String, String)>,
}

/// One host of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Name or address; an IPv6 address without its brackets.
    pub name: String,
    /// The port, where one was given.
    pub port: Option<u16>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, to hand to a server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl CoordinatorUrl {
    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The hosts, in the order given; none for `file:///dir` and the like.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The path with its leading slash, or the empty string. It stays as written, including escapes:
    /// the original never decodes it, and both must mean the same directory or database.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The options of the query, in the order given. Those without a value are left out, as the
    /// original does.
    pub fn options(&self) -> &[(String, String)] {
        &self.options
    }
}

impl std::str::FromStr for CoordinatorUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |what: &str| {
            // The text may contain a password: only the part before the authority is safe to repeat.
            let scheme = text.split("://").next().filter(|s| s.len() < text.len());
            Error::invalid(format!(
                "{what}; a coordinator URL looks like scheme://[user[:password]@]host[:port]\
                 [,host…][/path][?option=value]"
            ))
            .with("scheme", scheme.unwrap_or("none"))
        };
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| refuse("the URL has no scheme://"))?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(legal) {
            return Err(refuse("the URL's scheme is malformed"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        let unescaped =
            || refuse("the user or the password contains one of / ? #; write it as %2F %3F %23");
        let (behind, fragment) = behind.split_once('#').unwrap_or((behind, ""));
        let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
        if fragment.contains('@') || query.split('&').any(is_login) {
            return Err(unescaped());
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (user, password) = match login.map(|l| l.split_once(':').unwrap_or((l, ""))) {
            Some((user, password)) => (
                Some(decode(user).map_err(|()| refuse("the user is not UTF-8"))?),
                Some(decode(password).map_err(|()| refuse("the password is not UTF-8"))?),
            ),
            None => (None, None),
        };
        let hosts = hosts
            .split(',')
            .filter(|host| !host.is_empty())
            .map(|host| {
                // With an @ after it, what looks like a host is a login, and no part is repeated.
                let refuse =
                    |what: String| if behind.contains('@') { unescaped() } else { refuse(&what) };
                parse_host(host).map_err(refuse)
            })
            .collect::<Result<_>>()?;
        let mut options = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if value.is_empty() {
                continue;
            }
            let form = |part: &str| {
                decode(&part.replace('+', " ")).map_err(|()| refuse("an option is not UTF-8"))
            };
            options.push((form(name)?, form(value)?));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user: user.filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()).map(Secret),
            hosts,
            path: path.to_owned(),
            options,
        })
    }
}

/// Whether what looks like an option is the end of a login and a host: `@` in an option's name.
fn is_login(pair: &str) -> bool {
    pair.split('=').next().is_some_and(|name| name.contains('@'))
}

fn decode(part: &str) -> Result<String, ()> {
    percent_decode_str(part).decode_utf8().map(Cow::into_owned).map_err(|_| ())
}

fn parse_host(text: &str) -> Result<Host, String> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest
                .split_once(']')
                .ok_or_else(|| format!("the host {text:?} has only an opening bracket"))?;
            match after.strip_prefix(':') {
                Some(port) => (name, Some(port)),
                None if after.is_empty() => (name, None),
                None => return Err(format!("the host {text:?} has text after its bracket")),
            }
        }
        None => match text.rsplit_once(':') {
            Some((name, _)) if name.contains(':') => {
                return Err(format!("the IPv6 address {text:?} needs brackets: [{text}]"));
            }
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => Some(
            // The value is not repeated: without an @ in the URL it may be a password.
            port.parse::<u16>()
                .map_err(|_| format!("the port of {name:?} is not a number from 0 to 65535"))?,
        ),
        None => None,
    };
    let name = decode(name).map_err(|()| format!("the host {name:?} is not UTF-8"))?;
    if name.is_empty() {
        return Err(format!("the host {text:?} has no name"));
    }
    Ok(Host { name, port })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]", self.name)?,
            false => f.write_str(&self.name)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Whether an option of that name contains something that must not be printed.
pub(crate) fn is_secret(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    ["password", "token", "secret"].iter().any(|word| option.contains(word))
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if self.user.is_some() || self.password.is_some() {
            f.write_str(self.user.as_deref().unwrap_or_default())?;
            if self.password.is_some() {
                f.write_str(":***")?;
            }
            f.write_str("@")?;
        }
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index > 0 { "," } else { "" })?;
        }
        f.write_str(&self.path)?;
        for (index, (name, value)) in self.options.iter().enumerate() {
            let value = if is_secret(name) { "***" } else { value };
            write!(f, "{}{name}={value}", if index > 0 { "&" } else { "?" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoordinatorUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CoordinatorUrl> {
        text.parse()
    }

    #[test]
    fn every_part_is_optional_but_the_scheme() {
        let url = parse("memory://").unwrap();
        assert_eq!((url.hosts(), url.path(), url.options()), (&[][..], "", &[][..]));
        let url = parse("FILE:///var/lib/tooz?timeout=3").unwrap();
        assert_eq!((url.scheme(), url.path()), ("file", "/var/lib/tooz"));
        assert_eq!(url.options(), [("timeout".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn options_decode_like_a_form_and_repeat() {
        let url = parse("redis://h?a=1+2&a=%2B&empty=&b=x;y#fragment").unwrap();
        let pairs: Vec<_> = url.options().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "1 2"), ("a", "+"), ("b", "x;y")]);
    }

    #[test]
    fn a_password_may_hold_an_at_sign_and_is_never_shown() {
        let url = parse("mysql://u:p@ss%2Fw@h/db?ssl_key_password=x").unwrap();
        assert_eq!(url.password().unwrap().expose(), "p@ss/w");
        for shown in [format!("{url}"), format!("{url:?}")] {
            assert!(!shown.contains("p@ss") && !shown.contains("=x"), "{shown}");
        }
    }

    #[test]
    fn bad_urls_say_what_is_wrong_and_nothing_secret() {
        for (text, part) in [
            ("/var/lib/tooz", "no scheme"),
            ("1file:///x", "malformed"),
            ("redis://u:hunter2@h:port", "the port of \"h\" is not a number"),
            ("redis://u:hunter2", "the port of \"u\" is not a number"),
            ("redis://u:hun/hunter2@h", "%2F"),
            ("redis://u:hun?hunter2@h", "%3F"),
            ("redis://u:hun#hunter2@h", "%23"),
            ("redis://u:12?hunter2@h", "%3F"),
            ("redis://u:12#hunter2@h", "%23"),
            ("redis://::1:6379", "needs brackets"),
            ("redis://[::1", "opening bracket"),
            ("redis://:6379", "no name"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

//! Which setups to run, from what the command line says.

use anyhow::{Context as _, ensure};
use tooz_setups::{SETUPS, Setup};

use super::Options;
use crate::servers::{self, Server};

/// A setup to run, and the URL of the user's own server.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The setup.
    pub(super) setup: &'static Setup,
    /// The user's own server, if one was named.
    pub(super) url: Option<String>,
}

/// The setups to run.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of [`SETUPS`].
    pub(super) setups: Vec<Chosen>,
    /// Whether each of them must have a test that ran.
    pub(super) required: bool,
}

impl Plan {
    /// Reads the options; fails on an unknown setup.
    pub(super) fn new(options: &Options) -> anyhow::Result<Self> {
        for name in &options.only {
            servers::find(name)?;
        }
        let own: Vec<_> =
            options.url.iter().map(|text| own_server(text)).collect::<Result<_, _>>()?;
        let mut setups = Vec::new();
        for setup in SETUPS {
            let url = own.iter().rev().find(|(named, _)| named.name == setup.name);
            let asked = options.only.iter().any(|name| name == setup.name);
            if asked || options.only.is_empty() {
                setups.push(Chosen { setup, url: url.map(|(_, url)| url.clone()) });
            }
        }
        for (setup, _) in &own {
            let used = setups.iter().any(|chosen| chosen.setup.name == setup.name);
            ensure!(used, "--url names {}, which --only leaves out", setup.name);
        }
        Ok(Self { setups, required: !options.only.is_empty() || options.pass.is_empty() })
    }

    /// The servers that have to be started, some perhaps twice.
    pub(super) fn servers(&self) -> Vec<&'static Server> {
        let private = self.setups.iter().filter(|chosen| chosen.url.is_none());
        private.filter_map(|chosen| servers::of(chosen.setup)).collect()
    }
}

/// `SCHEME=URL`, where SCHEME is a scheme or a setup's name.
fn own_server(text: &str) -> anyhow::Result<(&'static Setup, String)> {
    let (name, url) =
        text.split_once('=').with_context(|| format!("--url takes SCHEME=URL, not `{text}`"))?;
    ensure!(url.contains("://"), "`{url}` is not a URL");
    let setup = match SETUPS.iter().find(|setup| setup.scheme == name) {
        Some(setup) => setup,
        None => servers::find(name)?,
    };
    Ok((setup, url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[&str], url: &[&str]) -> Options {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Options { only: owned(only), url: owned(url), ..Options::default() }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.setups.iter().map(|chosen| chosen.setup.name).collect()
    }

    #[test]
    fn the_order_is_ours_and_one_server_may_serve_several() {
        let plan = Plan::new(&options(&["etcd3", "redis", "etcd"], &[])).unwrap();
        assert_eq!(names(&plan), ["redis", "etcd", "etcd3"]);
        let servers: Vec<_> = plan.servers().iter().map(|server| server.name).collect();
        assert_eq!(servers, ["redis", "etcd", "etcd"]);
        assert!(plan.required);
    }

    #[test]
    fn a_server_of_ones_own_is_named_by_scheme_or_setup() {
        let urls = ["etcd3+http=etcd3+http://h:1", "mariadb=mysql://h/?a=b"];
        let plan = Plan::new(&options(&["etcd3-http", "mariadb"], &urls)).unwrap();
        let urls: Vec<_> = plan.setups.iter().map(|chosen| chosen.url.as_deref()).collect();
        assert_eq!(urls, [Some("etcd3+http://h:1"), Some("mysql://h/?a=b")]);
        assert!(plan.servers().is_empty());
    }

    #[test]
    fn mistakes_are_told() {
        for (only, url, expected) in [
            (&["oracle"][..], &[][..], "no setup is called `oracle`"),
            (&[], &["redis"], "SCHEME=URL"),
            (&[], &["redis=6379"], "not a URL"),
            (&["memory"], &["redis=redis://h"], "--only leaves out"),
        ] {
            let error = Plan::new(&options(only, url)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

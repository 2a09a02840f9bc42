//! What a URL says, and a name that no other process uses.

use tooz::CoordinatorUrl;

/// The first server.
pub(super) fn server(url: &CoordinatorUrl, port: u16) -> (String, u16) {
    match url.hosts().first() {
        Some(host) => (host.name.clone(), host.port.unwrap_or(port)),
        None => ("localhost".to_owned(), port),
    }
}

/// An option, of which the last counts.
pub(super) fn option<'a>(url: &'a CoordinatorUrl, name: &str) -> Option<&'a str> {
    let named = url.options().iter().rev().find(|(option, _)| option == name);
    named.map(|(_, value)| value.as_str())
}

/// Of what this process writes.
pub(super) fn own_name() -> String {
    format!("tooz-raw-{}", std::process::id())
}

//! The parts of a URL, as far as the crates don't take it as it is.

/// What stands before `://`.
pub(crate) fn scheme(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

/// What stands behind `://`, without options.
pub(crate) fn location(url: &str) -> &str {
    let location = url.split_once("://").map_or(url, |(_, location)| location);
    location.split_once('?').map_or(location, |(location, _)| location)
}

/// The same URL with another scheme and without the options that are not `known`.
pub(crate) fn rewritten(url: &str, scheme: &str, known: &[&str]) -> String {
    let options = url.split_once('?').map_or("", |(_, options)| options);
    let kept: Vec<_> = options
        .split('&')
        .filter(|option| known.contains(&option.split('=').next().unwrap_or_default()))
        .collect();
    let separator = if kept.is_empty() { "" } else { "?" };
    format!("{scheme}://{}{separator}{}", location(url), kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        assert_eq!(scheme("file:///locks"), "file");
        assert_eq!(location("file:///locks?timeout=3"), "/locks");
        assert_eq!(location("etcd3://[::1]:2379"), "[::1]:2379");
    }

    #[test]
    fn keeps_known_options_only() {
        let url = "mariadb://u:p@host:1/db?timeout=3&ssl-mode=required&x";
        let rewritten = |known| rewritten(url, "mysql", known);
        assert_eq!(rewritten(&["ssl-mode"]), "mysql://u:p@host:1/db?ssl-mode=required");
        assert_eq!(rewritten(&[]), "mysql://u:p@host:1/db");
    }
}

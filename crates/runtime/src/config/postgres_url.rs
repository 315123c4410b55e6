//! The parameters of PostgreSQL's URL that decide how the connection is secured.

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The URL's parameters about TLS, and the other parameters.
pub struct TlsParameters<'a> {
    /// `sslmode`.
    pub mode: &'a str,
    /// `sslrootcert`.
    pub root: Option<&'a str>,
    /// The other parameters.
    pub kept: Vec<&'a str>,
}

impl<'a> TlsParameters<'a> {
    /// Splits the query of a URL.
    pub fn of(query: &'a str) -> Self {
        let mut checks = Self { mode: "prefer", root: None, kept: Vec::new() };
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("sslmode", mode)) => {
                    checks.mode = mode;
                    checks.kept.push(if mode.starts_with("verify-") { "sslmode=require" } else { part });
                }
                Some(("sslrootcert", path)) => checks.root = Some(path),
                _ => checks.kept.push(part),
            }
        }
        checks
    }
}

/// The hosts that get the password of a URL although their certificates are not checked, and the `sslmode`.
pub(super) fn unchecked_password(url: &str) -> Option<(Vec<String>, String)> {
    let TlsParameters { mode, root, .. } = TlsParameters::of(url.split_once('?').map_or("", |(_, query)| query));
    let is_checked = mode.starts_with("verify-") || (mode == "require" && root.is_some());
    let config: Config = url.split('?').next()?.parse().ok()?;
    let hosts = config.get_hosts().iter().filter_map(|host| match host {
        Host::Tcp(host) => Some(host.clone()),
        // A socket on this machine.
        Host::Unix(_) => None,
    });
    (!is_checked && config.get_password().is_some()).then(|| (hosts.collect(), mode.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_over_an_unchecked_connection_is_found() {
        let found = |url: &str| unchecked_password(url).map(|(hosts, mode)| format!("{} {mode}", hosts.join(",")));
        for (url, want) in [
            ("postgres://u:p@h/d", Some("h prefer")),
            ("postgres://u:p@localhost,h/d", Some("localhost,h prefer")),
            ("postgres://u:p@h/d?sslmode=require", Some("h require")),
            ("postgres://u:p@h/d?sslmode=require&sslrootcert=/ca.pem", None),
            ("postgres://u:p@h/d?sslmode=verify-full", None),
            ("postgres://u@h/d", None),
        ] {
            assert_eq!(found(url).as_deref(), want, "{url}");
        }
    }
}

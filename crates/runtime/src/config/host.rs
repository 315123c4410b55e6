//! Hosts in addresses.

/// The host in `[user@]host[:port][/path]`.
pub(super) fn host_of(address: &str) -> &str {
    let address = address.rsplit_once("://").map_or(address, |(_, rest)| rest);
    let authority = address.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((six, _)) => six,
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    }
}

/// Whether traffic to this host stays on this machine.
pub(super) fn is_local(host: &str) -> bool {
    host.is_empty()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_and_told_apart() {
        for (address, host, local) in [
            ("localhost:9092", "localhost", true),
            ("127.0.0.1:9092", "127.0.0.1", true),
            ("[::1]:9092", "::1", true),
            ("SASL_SSL://broker-1.example.com:9092", "broker-1.example.com", false),
            ("user:p@ss@registry:8081/apis/ccompat/v7", "registry", false),
            ("127.0.0.1.example.com", "127.0.0.1.example.com", false),
            ("10.0.0.7", "10.0.0.7", false),
        ] {
            assert_eq!((host_of(address), is_local(host_of(address))), (host, local), "{address}");
        }
    }
}

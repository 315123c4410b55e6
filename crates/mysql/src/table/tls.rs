//! The checks of TLS to MySQL, by `db.ssl_mode`: for `mysql_async`, and for our own binlog connection.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mysql_async::SslOpts;
use native_tls::{Certificate, TlsConnector};

use model::error::{Code, Error, Result};
use runtime::config::{MySqlSettings, SslMode};

/// The checks of TLS.
struct TlsChecks<'a> {
    /// Certificates that are trusted in addition to the system's.
    roots: Option<&'a PathBuf>,
    /// Whether the system's certificates are trusted.
    system_roots: bool,
    certificate: bool,
    host: bool,
}

/// The checks for `db.ssl_mode`; `None` without TLS.
fn tls_checks(settings: &MySqlSettings) -> Option<TlsChecks<'_>> {
    let roots = settings.ssl_ca.as_ref();
    match settings.ssl_mode {
        SslMode::Disabled => None,
        // No certificate is checked, so none needs to be read.
        SslMode::Preferred | SslMode::Required => {
            Some(TlsChecks { roots: None, system_roots: false, certificate: false, host: false })
        }
        SslMode::VerifyCa => Some(TlsChecks { roots, system_roots: roots.is_none(), certificate: true, host: false }),
        SslMode::VerifyIdentity => {
            Some(TlsChecks { roots, system_roots: roots.is_none(), certificate: true, host: true })
        }
    }
}

/// The options of a connection of `mysql_async`; `None` without TLS.
pub(super) fn options(settings: &MySqlSettings) -> Option<SslOpts> {
    tls_checks(settings).map(|checks| {
        SslOpts::default()
            .with_root_certs(checks.roots.into_iter().cloned().map(PathBuf::into).collect())
            .with_disable_built_in_roots(!checks.system_roots)
            .with_danger_accept_invalid_certs(!checks.certificate)
            .with_danger_skip_domain_validation(!checks.host)
    })
}

/// The TLS client of a connection outside of `mysql_async`, with the same checks; `None` without TLS.
///
/// # Errors
/// Usage when the CA file can't be read.
pub fn tls_connector(settings: &MySqlSettings) -> Result<Option<TlsConnector>> {
    /// Creating one takes milliseconds. Where certificates are checked, their files are read for each connection.
    static UNCHECKED: Mutex<Option<TlsConnector>> = Mutex::new(None);
    let Some(checks) = tls_checks(settings) else { return Ok(None) };
    let make = || -> Result<TlsConnector> {
        let mut builder = TlsConnector::builder();
        if let Some(path) = checks.roots {
            let unreadable = |e: String| Error::usage(format!("db.ssl_ca {}: {e}", path.display()));
            let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
            for certificate in Certificate::stack_from_pem(&pem).map_err(|e| unreadable(e.to_string()))? {
                builder.add_root_certificate(certificate);
            }
        }
        builder
            .disable_built_in_roots(!checks.system_roots)
            .danger_accept_invalid_certs(!checks.certificate)
            .danger_accept_invalid_hostnames(!checks.host);
        builder.build().map_err(|e| Error::usage(format!("the TLS client for MySQL can't be made: {e}")))
    };
    if checks.certificate {
        return make().map(Some);
    }
    let mut unchecked = UNCHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*unchecked {
        Some(connector) => Ok(Some(connector.clone())),
        None => Ok(Some(unchecked.insert(make()?).clone())),
    }
}

/// The error for a server without TLS, where the login requires it ([`MySqlSettings::may_log_in_without_tls`]).
pub fn no_tls(what: &str) -> Error {
    Error::new(
        Code::CertificateRefused,
        format!("cannot {what}: the server offers no TLS, and without it others on the network can read DB_PASSWORD"),
    )
    .with_remedy(
        "turn TLS on in the server; or set db.ssl_mode to disabled, if nobody else can reach the network between",
    )
}

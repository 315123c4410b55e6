//! Connecting to PostgreSQL: TLS by the URL's `sslmode`, the database made when missing, errors sorted.

use std::time::Duration;

use native_tls::{Certificate, TlsConnector};
use pipeline::error::{Error, Result};
use postgres_native_tls::MakeTlsConnector;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the URL says.
pub(crate) struct Target {
    config: Config,
    tls: MakeTlsConnector,
}

impl Target {
    /// Takes `sslmode=verify-ca`, `sslmode=verify-full` and `sslrootcert` out of the URL: the client library knows the
    /// other modes only.
    ///
    /// # Errors
    /// Usage when it can't be read.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut check_certificate, mut check_name, mut root) = (false, false, None);
        let mut kept = Vec::new();
        for part in query.split('&').filter(|p| !p.is_empty()) {
            match part.split_once('=') {
                Some(("sslmode", mode @ ("verify-ca" | "verify-full"))) => {
                    check_certificate = true;
                    check_name = mode == "verify-full";
                    kept.push("sslmode=require");
                }
                Some(("sslrootcert", path)) => root = Some(path.to_owned()),
                _ => kept.push(part),
            }
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        // The library's message does not repeat the URL, which holds the password.
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
            Error::usage("postgres.url can't be read").with_source(e).with_remedy(
                "write it as postgres://user:password@host:5432/database, with %40 for an @ in the password",
            )
        })?;
        if config.get_dbname().is_none() {
            return Err(Error::usage("postgres.url names no database")
                .with_remedy("write it as postgres://user:password@host:5432/database"));
        }
        config.connect_timeout(CONNECT_TIMEOUT).application_name("consumer");
        Ok(Self { config, tls: tls(check_certificate, check_name, root.as_deref())? })
    }

    /// Connects, and makes the database when it is missing.
    ///
    /// # Errors
    /// Transient when the server can't be reached; definite when it refuses.
    pub(crate) async fn open(&self) -> Result<Client> {
        match self.connect(&self.config).await {
            Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => self.create_database().await?,
            outcome => return outcome.map_err(|e| failed(&self.what(), e)),
        }
        self.connect(&self.config).await.map_err(|e| failed(&self.what(), e))
    }

    async fn create_database(&self) -> Result<()> {
        let name = self.config.get_dbname().unwrap_or_default();
        let mut config = self.config.clone();
        let client = self.connect(config.dbname("postgres")).await.map_err(|e| failed(&self.what(), e))?;
        let created = client.batch_execute(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await;
        match created {
            // Another consumer was faster.
            Err(e) if matches!(e.code(), Some(&SqlState::DUPLICATE_DATABASE | &SqlState::UNIQUE_VIOLATION)) => {}
            Err(e) => return Err(failed(&format!("cannot create the PostgreSQL database {name}"), e)),
            Ok(()) => tracing::info!(database = name, "database created"),
        }
        Ok(())
    }

    async fn connect(&self, config: &Config) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = config.connect(self.tls.clone()).await?;
        // It ends by itself when the client is dropped; how it ended, the client's calls say.
        drop(tokio::spawn(connection));
        Ok(client)
    }

    fn what(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("cannot connect to PostgreSQL at {host}:{port}")
    }
}

/// As libpq does it: a certificate is checked by the `verify` modes only.
fn tls(check_certificate: bool, check_name: bool, root: Option<&str>) -> Result<MakeTlsConnector> {
    let mut builder = TlsConnector::builder();
    builder.danger_accept_invalid_certs(!check_certificate).danger_accept_invalid_hostnames(!check_name);
    if let Some(path) = root {
        let unreadable = |reason: String| Error::usage(format!("postgres.url: sslrootcert {path}: {reason}"));
        let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
        builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| unreadable(e.to_string()))?);
    }
    let connector = builder.build().map_err(|e| Error::usage("TLS for PostgreSQL can't be set up").with_source(e))?;
    Ok(MakeTlsConnector::new(connector))
}

/// Sorts an error of PostgreSQL; its remedy goes by its SQLSTATE (PostgreSQL manual, appendix A).
pub(crate) fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let state = error.code().map_or("", SqlState::code);
    let transient = ["08", "40", "53", "55", "57", "58"].iter().any(|class| state.starts_with(class));
    let remedy = match state {
        "" => "check postgres.url (host, port, sslmode) and that the server runs",
        "28P01" | "28000" => "check user and password in postgres.url, and the server's pg_hba.conf",
        "42501" => {
            "grant this user CREATE on the database and its schema public, or create database and tables yourself"
        }
        "3D000" => "create the database, or let this user do it (CREATEDB)",
        "22021" | "22P05" => {
            "PostgreSQL can't hold the character NUL: correct the product at its source and leave its old text out with \
             rules.drop, or leave postgres.url empty to go on with the logs alone"
        }
        "42703" | "42804" | "42P10" | "42P01" => {
            "the tables product and product_offsets belong to the consumers: rename the one that was there before, or \
             name another database in postgres.url"
        }
        _ => "see the server's log",
    };
    // The library's own text says only "db error"; the server's message is its cause.
    let error =
        if state.is_empty() || transient { Error::transient(what) } else { Error::definite(what) }.with_source(error);
    error.with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::SslMode;

    #[test]
    fn the_verify_modes_are_taken_out_of_the_url() {
        let url = "postgres://u:p@h:1/products?sslmode=verify-full&application_name=x";
        let target = Target::parse(url).expect("a URL");
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(target.config.get_dbname(), Some("products"));
        assert_eq!(target.what(), "cannot connect to PostgreSQL at h:1");
        let target = Target::parse("postgres://u:p@h/products").expect("a URL");
        assert_eq!(target.config.get_ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        for url in [
            "postgres://u:hunter2@h:1",
            "postgres://u:hunter2@h:x/d",
            "postgres://u:hunter2@h/d?sslmode=maybe",
            "hunter2",
        ] {
            let text = format!("{:?}", Target::parse(url).map(drop).expect_err(url));
            assert!(text.contains("postgres.url") && !text.contains("hunter2"), "{text}");
        }
    }
}

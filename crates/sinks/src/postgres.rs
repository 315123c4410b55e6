//! Connections to PostgreSQL: TLS by the URL's `sslmode` with libpq's meaning, the state that each transaction sets,
//! and the class of each error.
//!
//! Invariant: no state outlives a transaction on the server, so a pooler may give each transaction another connection.
//! Statements are unnamed, settings are `LOCAL`, and no default of the server, the database or the role has an effect.

use std::time::Duration;

use native_tls::{Certificate, TlsConnector};
use postgres_native_tls::MakeTlsConnector;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

use model::error::{Code, Error, Result, blames_certificate};
use runtime::config::{PostgresSettings, TlsParameters};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server ends a transaction that is idle for this long: its client is lost, and its locks must be released.
const IDLE_LIMIT: &str = "30s";
/// The server ends a statement that takes longer: its client is lost.
const STATEMENT_LIMIT: &str = "30s";

/// The purpose of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes rows that other consumers may write as well.
    Write,
    /// Reads one snapshot, with pauses of any length.
    Read,
}

/// A server, a database and a schema, as the settings name them.
#[derive(Clone)]
pub struct Target {
    config: Config,
    tls: MakeTlsConnector,
    schema: String,
}

impl Target {
    /// Reads the URL. Removes `sslmode=verify-ca`, `sslmode=verify-full` and `sslrootcert` from it first, as the client
    /// library knows only the other modes. The server shows `application` as the client's name.
    ///
    /// Source: PostgreSQL manual, "SSL Support" of libpq.
    ///
    /// # Errors
    /// Usage when the URL or a certificate can't be read, or when the URL requires a check that would verify nothing.
    pub fn from(settings: &PostgresSettings, application: &str) -> Result<Self> {
        let (base, query) = settings.url.expose().split_once('?').unwrap_or((settings.url.expose(), ""));
        let TlsParameters { mode, root, kept } = TlsParameters::of(query);
        if root == Some(SYSTEM) && mode != "verify-full" {
            return Err(Error::usage(format!(
                "postgres.url: with sslrootcert=system and sslmode={mode} any certificate would do"
            ))
            .with_remedy("use sslmode=verify-full, which compares the host's name"));
        }
        let (certificate, name) = match (mode, root) {
            ("verify-full", _) => (true, true),
            // As in libpq: a CA that is given is checked.
            ("verify-ca", _) | ("require", Some(_)) => (true, false),
            (_, Some(_)) => {
                return Err(Error::usage(format!("postgres.url: sslrootcert has no effect with sslmode={mode}"))
                    .with_remedy("add sslmode=verify-full to it"));
            }
            _ => (false, false),
        };
        if mode == "verify-ca" && root.is_none() {
            return Err(Error::usage(
                "postgres.url: with sslmode=verify-ca and no CA of your own, any certificate would do",
            )
            .with_remedy("add sslrootcert=…, or use sslmode=verify-full, which compares the host's name"));
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let remedy = "write it as postgres://user:password@host:5432/database, with %40 for an @ in the password";
        // The library's message does not repeat the URL, which holds the password.
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
            Error::usage("postgres.url can't be read").with_source(e).with_remedy(remedy)
        })?;
        if config.get_dbname().is_none() {
            return Err(Error::usage("postgres.url names no database").with_remedy(remedy));
        }
        config.connect_timeout(CONNECT_TIMEOUT).application_name(application);
        if !query.contains("keepalives") {
            // A server that is gone is noticed although a statement without a time limit has no answer yet.
            config
                .keepalives_idle(Duration::from_secs(30))
                .keepalives_interval(Duration::from_secs(10))
                .keepalives_retries(3);
        }
        let schema = settings.schema.clone();
        Ok(Self { config, tls: tls(certificate, name, root)?, schema })
    }

    /// The schema of the tables.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The statement that limits a transaction to our schema, so that no temporary table of a pooled connection hides
    /// one of ours.
    pub fn search_path(&self) -> String {
        format!("SET LOCAL search_path = {}, pg_temp", self.quoted_schema())
    }

    /// The same for statements that create tables: without our schema, they would create temporary ones.
    pub fn creation_path(&self) -> String {
        format!("SET LOCAL search_path = {}", self.quoted_schema())
    }

    fn quoted_schema(&self) -> String {
        format!("\"{}\"", self.schema.replace('"', "\"\""))
    }

    /// The statements that begin a transaction, separated by `;`, with all the settings that it depends on:
    ///
    /// - its isolation level, and whether it writes, whatever the defaults of role and database are;
    /// - our schema alone ([`Target::search_path`]);
    /// - an error where row level security would silently omit rows;
    /// - times in UTC;
    /// - our own time limits: a role's shorter ones would end a batch again and again, and without limits a vanished
    ///   client would keep its locks;
    /// - when it writes, each row found by the index: for thousands of keys PostgreSQL expects to be faster with the whole
    ///   table, whatever it holds besides, and takes as long for each batch;
    /// - a commit that is durable before it is answered; a role's stricter setting stays.
    pub fn begin(&self, access: Access) -> String {
        let (level, idle, plan) = match access {
            Access::Write => ("READ COMMITTED READ WRITE", IDLE_LIMIT, "SET LOCAL enable_seqscan = off; "),
            Access::Read => ("REPEATABLE READ READ ONLY", "0", ""),
        };
        let search_path = self.search_path();
        format!(
            "BEGIN ISOLATION LEVEL {level}; {search_path}; SET LOCAL row_security = off; SET LOCAL TimeZone = 'UTC'; SET LOCAL statement_timeout = '{STATEMENT_LIMIT}'; SET LOCAL lock_timeout = 0; \
             SET LOCAL idle_in_transaction_session_timeout = '{idle}'; {plan}\
             SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
        )
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// The same server and another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.config.dbname(name);
        other
    }

    /// Connects.
    ///
    /// # Errors
    /// The library's error, so that the caller can recognise a missing database; then [`failed`] with [`Target::what`].
    pub async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        // The task ends when the client is dropped; the client's calls report its error.
        drop(tokio::spawn(connection));
        Ok(client)
    }

    /// Connects, and creates the database when it is missing.
    ///
    /// # Errors
    /// Transient when the server can't be reached; definite when it refuses.
    pub async fn connect_or_create(&self) -> Result<Client> {
        match self.connect().await {
            Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => self.create_database().await?,
            outcome => return outcome.map_err(|e| failed(&self.what(), e)),
        }
        self.connect().await.map_err(|e| failed(&self.what(), e))
    }

    async fn create_database(&self) -> Result<()> {
        let name = self.database();
        let client = self.with_database("postgres").connect().await.map_err(|e| failed(&self.what(), e))?;
        match client.batch_execute(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await {
            // Another program has just created it.
            Err(e) if matches!(e.code(), Some(&SqlState::DUPLICATE_DATABASE | &SqlState::UNIQUE_VIOLATION)) => Ok(()),
            Err(e) => Err(failed(&format!("cannot create the PostgreSQL database {name}"), e)),
            Ok(()) => {
                tracing::info!(database = name, "database created");
                Ok(())
            }
        }
    }

    /// What could not be done when connecting fails, with host and port.
    pub fn what(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("cannot connect to PostgreSQL at {host}:{port}")
    }
}

/// `sslrootcert=system`: the CAs that the system trusts.
const SYSTEM: &str = "system";

/// A given `root` replaces all other CAs.
fn tls(certificate: bool, name: bool, root: Option<&str>) -> Result<MakeTlsConnector> {
    let mut builder = TlsConnector::builder();
    builder.danger_accept_invalid_certs(!certificate).danger_accept_invalid_hostnames(!name);
    if let Some(path) = root.filter(|path| *path != SYSTEM) {
        let unreadable = |reason: String| Error::usage(format!("postgres.url: sslrootcert {path}: {reason}"));
        let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
        for certificate in Certificate::stack_from_pem(&pem).map_err(|e| unreadable(e.to_string()))? {
            builder.add_root_certificate(certificate);
        }
    }
    builder.disable_built_in_roots(!certificate || root.is_some_and(|path| path != SYSTEM));
    let connector = builder.build().map_err(|e| Error::usage("TLS for PostgreSQL can't be set up").with_source(e))?;
    Ok(MakeTlsConnector::new(connector))
}

/// Classifies an error of PostgreSQL; its SQLSTATE selects the remedy (PostgreSQL manual, appendix A).
pub fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let state = if is_in_recovery(&error) { "25006" } else { error.code().map_or("", SqlState::code) };
    if state.is_empty() {
        let reason = whole(&error);
        if blames_certificate(&reason) || reason.contains("does not support TLS") {
            return Error::new(Code::CertificateRefused, what).with_source(error).with_remedy(
                "check sslmode and sslrootcert in postgres.url against the server's certificate: its CA, when it ends, and that \
                 it names this host",
            );
        }
    }
    let (code, remedy) = match state {
        "" => (Code::ServerUnreachable, "check postgres.url (host, port, sslmode) and that the server runs"),
        "28P01" | "28000" => {
            (Code::LoginRefused, "check user, password and sslmode in postgres.url, and the server's pg_hba.conf")
        }
        "42501" => (
            Code::RightMissing,
            "grant this user CREATE and USAGE on the schema (postgres.schema), or make the tables yourself and grant SELECT, \
             INSERT, UPDATE and DELETE on them: docs/security.md has the statements",
        ),
        "25006" => (
            Code::ServerUnreachable,
            "wait for the failover to end, or name the server that takes writes in postgres.url; it is found among several in \
             postgres://USER:PASSWORD@HOST,HOST/DATABASE?target_session_attrs=read-write",
        ),
        "3D000" => (Code::PostgresDatabase, "create the database, or let this user do it (CREATEDB)"),
        "3F000" => (Code::PostgresDatabase, "create the schema that postgres.schema names, or correct postgres.schema"),
        _ if pools_statements(&error) => (
            Code::PostgresDatabase,
            "let the pooler give a connection to each transaction: pool_mode = transaction (or session) for this database",
        ),
        "42703" | "42804" | "42P10" | "42P01" | "22P03" => {
            (Code::PostgresTables, "start the consumer again: it checks the tables and names each column that differs")
        }
        _ if heals(state) => (Code::TryAgain, "see the server's log"),
        _ => (Code::Fault, "see the server's log"),
    };
    // The library's own text is only "db error"; the server's message is its cause.
    Error::new(code, what).with_source(error).with_remedy(remedy)
}

/// Whether a server in recovery (a standby) refuses `READ WRITE`, our only two-valued setting that a server may refuse.
/// It reports an unsupported feature (0A000); the name of the server's function, unlike the message, is not translated.
fn is_in_recovery(error: &tokio_postgres::Error) -> bool {
    let routine = error.as_db_error().and_then(|e| e.routine());
    error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) && routine == Some("call_bool_check_hook")
}

/// Whether a pooler gives each statement another connection, so that transactions are impossible; recognised by
/// pgbouncer's text.
fn pools_statements(error: &tokio_postgres::Error) -> bool {
    let text = error.as_db_error().map_or("", |e| e.message());
    text.contains("statement pooling")
}

/// Whether the server refuses these rows but would accept others: their values, a constraint, a trigger or a limit of
/// the table forbids them. Any other error comes from the server, its settings, or the link.
pub fn refuses_rows(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| is_of_rows(state.code()))
}

/// By SQLSTATE. A trigger may raise one of an undefined class, so this lists the classes that are never caused by a
/// row. In class 22, an invalid binary form is not caused by a row either: the column's type has changed.
fn is_of_rows(state: &str) -> bool {
    const OTHERS: &str = "00 01 02 03 08 0A 0B 0F 0L 0P 0Z 24 25 26 28 2B 2D 34 3B 3D 3F 40 42 53 55 57 58 72 F0 HV XX";
    let class = state.get(..2).unwrap_or("00");
    !matches!(state, "22P03" | "22P04") && !OTHERS.split(' ').any(|other| other == class)
}

/// Whether the statement was refused because one before it in the same transaction failed.
pub fn follows_an_error(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION)
}

/// Whether the connection already has a prepared statement with this name, because the pooler gave it to another client
/// before.
pub fn is_prepared_already(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT)
}

/// Whether the binary form of a value is not that of its column, whose type another program has changed meanwhile.
pub fn has_other_form(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::INVALID_BINARY_REPRESENTATION | &SqlState::PROTOCOL_VIOLATION))
        && !pools_statements(error)
}

/// Whether an error with this SQLSTATE may heal: no answer at all, a broken link, a serialization failure, too few
/// resources, a lock, a shutdown, an error of the operating system. Of class 25, a server that is read-only during a
/// failover (25006), and a transaction that was idle or took too long, for example because the program was stopped
/// (25P03, 25P04).
fn heals(state: &str) -> bool {
    const CLASSES: [&str; 6] = ["08", "40", "53", "55", "57", "58"];
    matches!(state, "" | "25006" | "25P03" | "25P04") || CLASSES.iter().any(|class| state.starts_with(class))
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::config::Secret;
    use tokio_postgres::config::SslMode;

    fn target(url: &str) -> Result<Target> {
        Target::from(&PostgresSettings::at(Secret::new(url)), "test")
    }

    #[test]
    fn the_verify_modes_are_taken_out_of_the_url() {
        let checked = target("postgres://u:p@h:1/products?sslmode=verify-full&connect_timeout=3").expect("a URL");
        assert_eq!(checked.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(checked.database(), "products");
        assert_eq!(checked.with_database("postgres").what(), "cannot connect to PostgreSQL at h:1");
        assert_eq!(target("postgres://u:p@h/products").expect("a URL").config.get_ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn a_check_that_checks_nothing_is_refused() {
        for (query, want) in [
            ("sslmode=verify-ca", Some("any certificate would do")),
            ("sslmode=verify-ca&sslrootcert=system", Some("any certificate would do")),
            ("sslmode=require&sslrootcert=system", Some("any certificate would do")),
            ("sslrootcert=system", Some("any certificate would do")),
            ("sslrootcert=/etc/hosts", Some("has no effect with sslmode=prefer")),
            ("sslmode=disable&sslrootcert=/etc/hosts", Some("has no effect with sslmode=disable")),
            ("sslmode=verify-full", None),
            ("sslmode=verify-full&sslrootcert=system", None),
            ("sslmode=require", None),
        ] {
            let refused = target(&format!("postgres://u:hunter2@h/d?{query}")).err().map(|e| e.to_string());
            assert_eq!(refused.is_some(), want.is_some(), "{query}: {refused:?}");
            assert!(refused.unwrap_or_default().contains(want.unwrap_or_default()), "{query}");
        }
    }

    #[test]
    fn what_heals_by_itself_is_tried_again() {
        for (state, want) in [
            (SqlState::CONNECTION_FAILURE, true),
            (SqlState::T_R_SERIALIZATION_FAILURE, true),
            (SqlState::ADMIN_SHUTDOWN, true),
            (SqlState::UNIQUE_VIOLATION, false),
            (SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, true),
            (SqlState::READ_ONLY_SQL_TRANSACTION, true),
            (SqlState::IN_FAILED_SQL_TRANSACTION, false),
            (SqlState::UNDEFINED_TABLE, false),
            (SqlState::INSUFFICIENT_PRIVILEGE, false),
        ] {
            assert_eq!(heals(state.code()), want, "{state:?}");
        }
        assert!(heals(""), "no answer of the server");
    }

    #[test]
    fn what_a_row_is_refused_for_is_told_from_all_else() {
        for (state, want) in [
            ("22021", true),
            ("22001", true),
            ("22003", true),
            ("23505", true),
            ("23514", true),
            ("54000", true),
            ("P0001", true),
            ("45000", true),
            ("ZZ123", true),
            ("22P03", false),
            ("42501", false),
            ("42P01", false),
            ("53100", false),
            ("55006", false),
            ("57014", false),
            ("08006", false),
            ("25006", false),
            ("XX001", false),
            ("", false),
        ] {
            assert_eq!(is_of_rows(state), want, "{state}");
        }
    }

    #[test]
    fn a_transaction_relies_on_no_default() {
        let mut settings = PostgresSettings::at(Secret::new("postgres://u:p@h/d"));
        settings.schema = "a\"b".to_owned();
        let begin = Target::from(&settings, "test").expect("a URL").begin(Access::Write);
        assert!(begin.starts_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "), "{begin}");
        assert!(begin.contains("SET LOCAL search_path = \"a\"\"b\", pg_temp"), "{begin}");
        assert!(begin.split("; ").skip(1).all(|s| s.starts_with("SET LOCAL ") || s.ends_with("= 'off'")), "{begin}");
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        for url in [
            "postgres://u:hunter2@h:1",
            "postgres://u:hunter2@h:x/d",
            "postgres://u:hunter2@h/d?sslmode=maybe",
            "postgres://u:hunter2@h/d?sslrootcert=/nowhere",
            "hunter2",
        ] {
            let text = target(url).err().map(|e| format!("{e:?}")).unwrap_or_default();
            assert!(text.contains("postgres.url") && !text.contains("hunter2"), "{text}");
        }
    }
}

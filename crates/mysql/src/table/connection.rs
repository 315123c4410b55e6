//! Connections to MySQL: TLS, the session's settings, and the class of each error.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, IoError, Opts, OptsBuilder, SslOpts};

use crate::table::tls;
use model::error::{Code, Error, Result, blames_certificate};
use runtime::config::{MySqlSettings, SslMode};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do about a server whose binlog is off.
pub const ENABLE_BINLOG: &str = "restart the server with --log-bin, then run `cdc-producer checkpoint reset` and start: the \
                                 binlog has nothing of what was written without it";

/// The longest wait for an answer, or for its next row. None of our statements takes the server seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Every session variable that changes what our statements read or write, with the value that we need. `DEFAULT` would
/// be the server-wide value, which an administrator may change. Variables that MySQL 8.0 got after its first version
/// are in a version comment; MariaDB ignores all of these, and the start-up checks refuse MariaDB by name.
pub const VARIABLES: &str = concat!(
    // Text is sent, read and compared byte by byte; times are in UTC; no mode changes the result of a SELECT.
    "NAMES utf8mb4 COLLATE utf8mb4_bin, time_zone = '+00:00', ",
    "sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', ",
    // NOW() and CURRENT_TIMESTAMP follow the clock.
    "timestamp = DEFAULT, ",
    // Each read sees the latest commits, keeps no lock on the table's definition, and a COMMIT only commits.
    "autocommit = 1, completion_type = 0, ",
    // A result contains all of its rows, without a limit.
    "sql_select_limit = 18446744073709551615, max_join_size = 18446744073709551615, sql_big_selects = 1, ",
    // Writes are checked as usual, and new tables are transactional.
    "sql_safe_updates = 0, foreign_key_checks = 1, unique_checks = 1, default_storage_engine = InnoDB, ",
    // Seconds that the server waits for us: a full Kafka queue may block the reader, and some sessions are idle for
    // long.
    "wait_timeout = 86400, net_read_timeout = 600, net_write_timeout = 600 ",
    // Only committed rows are read, and a statement has no time limit.
    "/*!80000 , transaction_isolation = 'REPEATABLE-READ', transaction_read_only = 0, max_execution_time = 0 */ ",
    // A secondary engine answers from a delayed copy.
    "/*!80013 , use_secondary_engine = OFF */",
);

/// The statements that prepare every session. `init_connect` ran before them, and may have left a transaction or locks.
fn session() -> String {
    format!("SET {VARIABLES}; ROLLBACK AND NO CHAIN NO RELEASE; UNLOCK TABLES")
}

/// The options of a connection. With [`SslMode::Preferred`] they demand TLS: [`connect`] falls back where the server has
/// none.
///
/// # Errors
/// Usage when the CA file can't be read.
pub fn opts(settings: &MySqlSettings) -> Result<Opts> {
    if let Some(path) = &settings.ssl_ca {
        std::fs::metadata(path).map_err(|e| Error::usage(format!("db.ssl_ca {}: {e}", path.display())))?;
    }
    if !matches!(settings.ssl_mode, SslMode::Preferred | SslMode::Required) {
        return Ok(builder(settings, tls::options(settings)).into());
    }
    let mut last = UNCHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((of, opts)) if of == settings => Ok(opts.clone()),
        _ => Ok(last.insert((settings.clone(), builder(settings, tls::options(settings)).into())).1.clone()),
    }
}

/// The latest options that check no certificate, with the settings that they were made from. They cache their TLS
/// client, which takes milliseconds to create; where certificates are checked, the files are read again for each
/// connection.
static UNCHECKED: Mutex<Option<(MySqlSettings, Opts)>> = Mutex::new(None);

fn builder(settings: &MySqlSettings, tls: Option<SslOpts>) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname(settings.host.as_str())
        .tcp_port(settings.port)
        .user(Some(settings.user.as_str()))
        .pass(settings.password.as_ref().map(|p| p.expose().to_owned()))
        .ssl_opts(tls)
        // With forwarded ports, a local socket file would lead to another server.
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        // The largest row that MySQL can send; the default limit is 64 MiB.
        .max_allowed_packet(Some(1 << 30))
        // Set here, so that the client need not SELECT it before our settings are in force.
        .wait_timeout(Some(86_400))
        .setup(vec![session()])
}

/// Connects. The session has no default database, and [`VARIABLES`] replace the server's defaults of all settings that
/// matter.
///
/// # Errors
/// Transient when the server can't be reached; definite when the login fails until a person acts.
pub async fn connect(settings: &MySqlSettings) -> Result<Conn> {
    let what = format!("connect to MySQL at {}:{} as {}", settings.host, settings.port, settings.user);
    match within_time(opts(settings)?).await {
        Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
            if !settings.may_log_in_without_tls() {
                return Err(tls::no_tls(&what));
            }
            within_time(builder(settings, None).into()).await.map_err(|e| failed(&what, e))
        }
        result => result.map_err(|e| failed(&what, e)),
    }
}

/// Whether this session's writes get into the binlog as whole rows. The server-wide settings decide; changing them for
/// a single session takes a right that no program here has.
///
/// # Errors
/// Definite when they do not; else as [`failed`].
pub async fn require_logged_rows(conn: &mut Conn) -> Result<()> {
    let query = "SELECT @@SESSION.sql_log_bin, @@SESSION.binlog_format, @@SESSION.binlog_row_image";
    let found: Option<(bool, String, String)> =
        answered(conn.query_first(query)).await.map_err(|e| failed("ask how changes are logged", e))?;
    let refused = |found: &str, remedy: &str| {
        let message =
            format!("the server gives new sessions {found}: the binlog would not hold the rows that are written");
        Err(Error::new(Code::ServerSettings, message).with_remedy(remedy))
    };
    match found {
        Some((false, ..)) => refused("sql_log_bin = OFF", "take sql_log_bin out of the server's init_connect"),
        Some((_, format, _)) if format != "ROW" => {
            refused(&format!("binlog_format = {format}"), "SET PERSIST binlog_format = ROW, then start again")
        }
        Some((.., image)) if image != "FULL" => {
            refused(&format!("binlog_row_image = {image}"), "SET PERSIST binlog_row_image = FULL, then start again")
        }
        _ => Ok(()),
    }
}

async fn within_time(opts: Opts) -> mysql_async::Result<Conn> {
    within(CONNECT_TIMEOUT, Conn::new(opts)).await
}

/// Waits for the server's answer with a time limit: over a dead link it never arrives, and the operating system notices
/// such a link only after hours. Drop a connection whose answer was late.
///
/// # Errors
/// The library's error; [`failed`] classifies a late answer as transient.
pub async fn answered<T>(work: impl Future<Output = mysql_async::Result<T>>) -> mysql_async::Result<T> {
    within(ANSWER_TIMEOUT, work).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = mysql_async::Result<T>>) -> mysql_async::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let late = format!("no answer within {} s", limit.as_secs());
        Err(mysql_async::Error::from(io::Error::new(io::ErrorKind::TimedOut, late)))
    })
}

/// Classifies an error of MySQL; `what` is an infinitive: `read the table shop.product`.
pub fn failed(what: &str, error: mysql_async::Error) -> Error {
    let message = format!("cannot {what}");
    let running = "check that the server runs, and DB_HOST and DB_PORT (--check-config shows them)";
    match error {
        mysql_async::Error::Server(e) => {
            let message = format!("{message}: {} (error {})", e.message, e.code);
            match e.code {
                // Access denied: no such user, wrong password, no such right, locked, expired.
                1045 | 1698 | 1862 | 3118 => Error::new(Code::LoginRefused, message)
                    .with_remedy("check DB_USER and DB_PASSWORD, and that the user may connect from this host"),
                1044 | 1142 | 1143 | 1227 | 1370 => {
                    Error::new(Code::RightMissing, message).with_remedy("grant the right to the user of DB_USER")
                }
                3159 => Error::new(Code::CertificateRefused, message)
                    .with_remedy("set db.ssl_mode to verify_identity with db.ssl_ca, or at least to preferred"),
                1049 => Error::new(Code::TableMissing, message).with_remedy("create the database, or correct DB_NAME"),
                1054 | 1146 => {
                    Error::new(Code::TableMissing, message).with_remedy("create it, or correct DB_NAME and db.table")
                }
                // Too many connections, shutdown, lock waits, deadlocks, broken links, a killed or late query, a read-only
                // server during a failover.
                1040
                | 1053
                | 1077..=1079
                | 1152
                | 1158..=1161
                | 1184
                | 1203
                | 1205
                | 1213
                | 1290
                | 1317
                | 1836
                | 1927
                | 3024
                | 3032
                | 3101
                | 3169
                | 4031 => Error::transient(message),
                _ => Error::definite(message),
            }
        }
        // A handshake also fails when the link breaks, which is transient.
        mysql_async::Error::Io(IoError::Tls(e)) => {
            let text = format!("{message}: TLS: {e}");
            let code = if blames_certificate(&text) { Code::CertificateRefused } else { Code::ServerUnreachable };
            Error::new(code, text).with_remedy(
                "check db.ssl_ca against the CA of the server's certificate, when this ends, and that it names DB_HOST",
            )
        }
        mysql_async::Error::Io(IoError::Io(e)) => {
            Error::new(Code::ServerUnreachable, format!("{message}: {e}")).with_remedy(running)
        }
        mysql_async::Error::Url(e) => Error::usage(format!("{message}: {e}")),
        mysql_async::Error::Driver(DriverError::ConnectionClosed | DriverError::PoolDisconnected) => {
            Error::new(Code::ServerUnreachable, format!("{message}: the server closed the connection"))
                .with_remedy(running)
        }
        // The server also answers like this for a user that does not exist: it then names some method.
        mysql_async::Error::Driver(DriverError::UnknownAuthPlugin { name }) => Error::new(
            Code::LoginRefused,
            format!("{message}: the server wants the authentication {name}, which this client has not"),
        )
        .with_remedy("check that the user of DB_USER exists; ALTER USER … IDENTIFIED WITH caching_sha2_password"),
        error => Error::definite(format!("{message}: {error}")),
    }
}

/// An identifier in backticks.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A database as the place of a GRANT, as docs/security.md writes it: there an unescaped `_` or `%` matches other names
/// too, and MySQL adds a right only to those that are granted on the same text.
pub fn quoted_in_grant(database: &str) -> String {
    quoted(&database.replace('_', r"\_").replace('%', r"\%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quoted("a`b"), "`a``b`");
        assert_eq!(quoted_in_grant("my_shop"), r"`my\_shop`");
    }
}

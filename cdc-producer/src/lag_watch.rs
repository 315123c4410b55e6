//! Asks the server for the end of its binlog every two seconds, on a separate connection.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use model::error::{Error, Result};
use mysql_async::Conn;

use crate::endpoint::Endpoint;
use crate::lag::Sample;
use crate::server;
use crate::status::Status;

const EVERY: Duration = Duration::from_secs(2);
/// Longer than a connection may take: the server counts aborted handshakes and blocks the host after too many
/// (max_connect_errors).
const PATIENCE: Duration = Duration::from_secs(15);

/// Samples the server repeatedly; after a failure on a new connection. It does not log a server that does not answer,
/// as the session does.
pub(crate) async fn watch(endpoint: &Endpoint, status: &Status) -> Infallible {
    let mut conn = None;
    loop {
        let asked = tokio::time::timeout(PATIENCE, ask(endpoint, &mut conn)).await;
        match asked.unwrap_or_else(|_| Err(Error::transient("the server does not answer"))) {
            Ok(sample) => status.sampled(sample),
            Err(error) => {
                tracing::debug!(%error, "cannot ask how far the server is");
                conn = None;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(endpoint: &Endpoint, conn: &mut Option<(Conn, String)>) -> Result<Sample> {
    let (conn, uuid) = match conn {
        Some(conn) => conn,
        None => conn.insert(endpoint.identified().await?),
    };
    if !endpoint.is_session(uuid) {
        return Err(Error::transient(format!("server {uuid} is not the one that is read")));
    }
    sample(conn).await
}

/// The server's present answers.
///
/// # Errors
/// Transient when the link breaks; definite when the user may not ask.
pub async fn sample(conn: &mut Conn) -> Result<Sample> {
    let at = Instant::now();
    let server_time = server::now(conn).await?;
    let kept_for = server::binlogs_kept_for(conn).await?;
    Ok(Sample { server_time, at, files: server::binlog_files(conn).await?, kept_for })
}

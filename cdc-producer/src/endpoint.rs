//! Connections to the MySQL server. All connections of one session must reach the same server, since facts from one
//! server prove nothing about another server's binlog.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::error::{Code, Error, Result};
use mysql::table::{self, answered};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::config::MySqlSettings;

use crate::binlog_error::failed;
use crate::dump::{DumpConnection, Observer};
use crate::server;

const SERVER_UUID: &str = "SELECT @@server_uuid";

/// The answer of MariaDB to [`SERVER_UUID`].
const NO_SUCH_VARIABLE: u16 = 1193;

/// A failover changes the server once. A change back within this time means that two servers answer alternately.
const FAILOVER: Duration = Duration::from_secs(600);

/// The address of the server, with the identity of the server that the session reads from.
#[derive(Debug)]
pub struct Endpoint {
    settings: MySqlSettings,
    servers: Arc<Mutex<Servers>>,
    observer: Option<Arc<dyn Observer>>,
}

/// The servers that connections have reached, by `@@server_uuid`.
#[derive(Debug, Default)]
struct Servers {
    session: Option<String>,
    left: Vec<(String, Instant)>,
}

/// The server that a connection has reached.
#[derive(Debug)]
pub enum Reached {
    /// The server of the session.
    Same(Conn),
    /// Another server; the error names both.
    Other(Error),
}

impl Endpoint {
    /// An endpoint with these settings, without a session.
    pub fn new(settings: MySqlSettings) -> Self {
        Self { settings, servers: Arc::default(), observer: None }
    }

    /// The same endpoint, which reports bytes of the binlog to the observer as a sign of life.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same session for queries outside of the stream, which do not count as signs of life of the stream.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self { settings: self.settings.clone(), servers: Arc::clone(&self.servers), observer: None }
    }

    /// The observer of the work on the binlog.
    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.as_ref()
    }

    /// The settings of the connections.
    pub fn settings(&self) -> &MySqlSettings {
        &self.settings
    }

    /// Connects, and begins a session with the server that answers.
    ///
    /// # Errors
    /// As [`table::connect`].
    pub async fn begin(&self) -> Result<Conn> {
        let (conn, uuid) = self.identified().await?;
        self.servers().session = Some(uuid);
        Ok(conn)
    }

    /// Connects to the server of the session. The session is in UTC.
    ///
    /// # Errors
    /// As [`table::connect`]; an error that names both servers when another one answers: transient, as after a
    /// failover, and definite when two servers answer alternately.
    pub async fn connect(&self) -> Result<Conn> {
        match self.reach().await? {
            Reached::Same(conn) => Ok(conn),
            Reached::Other(error) => Err(error),
        }
    }

    /// Connects, and tells whether the server of the session has answered. Before the first session any server counts
    /// as that one.
    ///
    /// # Errors
    /// As [`table::connect`].
    pub async fn reach(&self) -> Result<Reached> {
        let (conn, uuid) = self.identified().await?;
        Ok(match self.servers().compare(&uuid, Instant::now()) {
            None => Reached::Same(conn),
            Some(error) => Reached::Other(error),
        })
    }

    /// Whether the session reads from this server.
    pub fn is_session(&self, uuid: &str) -> bool {
        self.servers().session.as_deref().is_none_or(|session| session == uuid)
    }

    /// Connects, and asks the server for its `@@server_uuid`.
    ///
    /// # Errors
    /// As [`table::connect`]; definite when the server is not MySQL.
    pub async fn identified(&self) -> Result<(Conn, String)> {
        let mut conn = table::connect(&self.settings).await?;
        match answered(conn.query_first::<String, _>(SERVER_UUID)).await {
            Ok(uuid) => Ok((conn, uuid.unwrap_or_default())),
            Err(mysql_async::Error::Server(e)) if e.code == NO_SUCH_VARIABLE => {
                Err(server::unsupported(&server::reported_version(&mut conn).await?))
            }
            Err(e) => Err(failed("ask for the server_uuid", e)),
        }
    }

    /// Connects to the server of the session for its binlog.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn dump(&self) -> Result<DumpConnection> {
        let mut conn = DumpConnection::connect(&self.settings).await?;
        let uuid = answered(conn.value(SERVER_UUID)).await.map_err(|e| failed("ask for the server_uuid", e))?;
        if let Some(observer) = &self.observer {
            conn.set_observer(Arc::clone(observer));
        }
        match self.servers().compare(&uuid.unwrap_or_default(), Instant::now()) {
            None => Ok(conn),
            Some(error) => Err(error),
        }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    fn compare(&mut self, found: &str, now: Instant) -> Option<Error> {
        let session = self.session.as_ref().filter(|session| *session != found)?;
        let text = format!(
            "DB_HOST leads to more than one server: a connection of this session reached server {session}, another one server {found}"
        );
        self.left.retain(|(_, at)| now.duration_since(*at) < FAILOVER);
        let is_back = self.left.iter().any(|(uuid, _)| uuid == found || uuid == session);
        let error = Error::new(if is_back { Code::TwoServers } else { Code::TryAgain }, text);
        self.left.push((session.clone(), now));
        Some(error.with_remedy(
            "set DB_HOST to the address of one server; a proxy must send every connection of the producer to the same server until a failover",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(session, found, seconds)` in order; the class of each error.
    fn classes(steps: &[(&str, &str, u64)]) -> Vec<Option<bool>> {
        let (mut servers, start) = (Servers::default(), Instant::now());
        let step = |(session, found, second): &(&str, &str, u64)| {
            servers.session = Some((*session).to_owned());
            servers.compare(found, start + Duration::from_secs(*second)).map(|e| e.is_transient())
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_failover_is_tried_again_and_a_balancer_is_refused() {
        assert_eq!(classes(&[("a", "a", 0)]), [None]);
        assert_eq!(classes(&[("a", "b", 0), ("b", "c", 60)]), [Some(true), Some(true)], "two failovers");
        assert_eq!(
            classes(&[("a", "b", 0), ("a", "b", 1)]),
            [Some(true), Some(false)],
            "a answers the next session again"
        );
        assert_eq!(classes(&[("a", "b", 0), ("b", "a", 1)]), [Some(true), Some(false)]);
        assert_eq!(classes(&[("a", "b", 0), ("b", "a", 601)]), [Some(true), Some(true)], "a failback later");
    }

    #[test]
    fn the_error_names_both() {
        let mut servers = Servers { session: Some("uuid-1".to_owned()), ..Servers::default() };
        let error = servers.compare("uuid-2", Instant::now()).expect("another server");
        assert!(
            ["more than one server", "uuid-1", "uuid-2"].iter().all(|text| error.to_string().contains(text)),
            "{error}"
        );
    }
}

//! The server, the position that is in Kafka, running snapshots, and what is parked in PostgreSQL.

use cdc_producer::lag::{Lag, Sample};
use cdc_producer::lag_watch;
use cdc_producer::server::{self, Server};
use model::error::{Error, Result};
use model::position::Progress;
use mysql::table::{self, answered};
use mysql_async::prelude::Queryable;
use runtime::config::{MySqlSettings, Settings};
use sinks::postgres::{Access, Target, failed};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::facts::{Answer, PATIENCE, Parked, Source, Table, snapshot_of};

/// The server's answers.
pub(super) struct Asked {
    address: String,
    server: Server,
    end: (String, u64),
    sample: Sample,
}

/// Asks the server.
///
/// # Errors
/// Transient when it does not answer; definite when a right is missing.
pub(super) async fn ask(settings: &MySqlSettings) -> Result<Asked> {
    let asked = async {
        let mut conn = table::connect(settings).await?;
        let server = Server::ask(&mut conn).await?;
        let end = server::binlog_end(&mut conn).await?;
        let sample = lag_watch::sample(&mut conn).await?;
        Ok(Asked { address: format!("{}:{}", settings.host, settings.port), server, end, sample })
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent(settings)))
}

fn silent(settings: &MySqlSettings) -> Error {
    let text = format!("MySQL at {}:{} does not answer within {} s", settings.host, settings.port, PATIENCE.as_secs());
    Error::transient(text).with_remedy("look at the server's processes and log")
}

impl Asked {
    /// Compares it with the position in Kafka; the producer knows more about its lag than the position shows.
    pub(super) fn compare(self, progress: Option<&Progress>, answers: &[Answer]) -> Source {
        let Self { address, server, end: (file, offset), sample } = self;
        let is_same_server = progress.map(|progress| progress.position.server_uuid == server.uuid);
        let mut lag = Lag::default();
        if let Some(progress) = progress.filter(|_| is_same_server == Some(true)) {
            lag.committed(progress);
            lag.sampled(sample);
        }
        let told = |name: &str| answers.iter().find_map(|answer| answer.value(name));
        let (major, minor, patch) = server.version;
        Source {
            address,
            version: format!("{major}.{minor}.{patch}"),
            server_uuid: server.uuid,
            end: format!("{file}:{offset}"),
            is_same_server,
            behind_bytes: told("producer_lag_bytes").map(|bytes| bytes as u64).or_else(|| lag.bytes()),
            behind_seconds: told("producer_lag_seconds").or_else(|| lag.seconds()),
            purge_seconds: lag.purge_seconds().filter(|seconds| seconds.is_finite()),
        }
    }
}

/// Adds the estimated number of rows to running snapshots.
///
/// # Errors
/// As [`ask`].
pub(super) async fn rows(
    mysql: &MySqlSettings,
    progress: &Progress,
    tables: &mut [Table],
    settings: &Settings,
) -> Result<()> {
    let source = settings.main_table().to_string();
    let runs = |table: &&mut Table| snapshot_of(progress, &source, &table.name).is_some();
    let running: Vec<&mut Table> = tables.iter_mut().filter(runs).collect();
    if running.is_empty() {
        return Ok(());
    }
    let mut conn = table::connect(mysql).await?;
    for table in running {
        let query = "SELECT table_rows FROM information_schema.tables WHERE CONCAT(table_schema, '.', table_name) = ?";
        let count: Option<Option<u64>> = answered(conn.exec_first(query, (&table.name,)))
            .await
            .map_err(|e| table::failed("ask how many rows a table has", e))?;
        if let Some(snapshot) = &mut table.snapshot {
            snapshot.of = count.flatten().map(|of| of.max(snapshot.rows));
            if let Some(rate) = snapshot.rows_per_second {
                snapshot.rate(rate);
            }
        }
    }
    Ok(())
}

/// Asks PostgreSQL; `None` when it is off, and before the consumers have made its tables.
///
/// # Errors
/// Transient when it does not answer; definite when a right is missing.
pub(super) async fn parked(target: Option<&Target>) -> Result<Option<Parked>> {
    let Some(target) = target else { return Ok(None) };
    let silent = || Error::transient(format!("{}: no answer within {} s", target.what(), PATIENCE.as_secs()));
    timeout(PATIENCE, ask_postgres(target)).await.unwrap_or_else(|_| Err(silent()))
}

async fn ask_postgres(target: &Target) -> Result<Option<Parked>> {
    let client = match target.connect().await {
        // The consumers create it.
        Err(e) if e.code() == Some(&SqlState::INVALID_CATALOG_NAME) => return Ok(None),
        connected => connected.map_err(|e| failed(&target.what(), e))?,
    };
    let failed = |e| failed("cannot ask PostgreSQL what it has", e);
    client.batch_execute(&target.begin(Access::Read)).await.map_err(failed)?;
    let there = "SELECT to_regclass('product_offsets') IS NOT NULL AND to_regclass('product_parked') IS NOT NULL";
    let there = client.query_typed(there, &[]).await.map_err(failed)?;
    if !there.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let mut parked = Parked::default();
    let offsets = "SELECT topic, partition, next_offset FROM product_offsets";
    for row in client.query_typed(offsets, &[]).await.map_err(failed)? {
        parked.next.insert((row.get(0), row.get(1)), row.get(2));
    }
    let keys = "SELECT k.topic, count(DISTINCT coalesce(to_jsonb(k) ->> 'key', k.id::text)) FROM product_parked k
        WHERE k.replaced_by IS NULL GROUP BY k.topic";
    for row in client.query_typed(keys, &[]).await.map_err(failed)? {
        parked.keys.insert(row.get(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0));
    }
    Ok(Some(parked))
}

//! Deletes rows of PostgreSQL for which the topic has no delete, because the records of their products have expired.
//!
//! A topic whose records expire does not show which products it once held, so a new epoch has no tombstones for all
//! deleted products. But a complete snapshot gives the offsets from which each product of the source table has a record
//! ([`CompleteSnapshot`]), and each row names its record. Once PostgreSQL has reached the snapshot's end in a
//! partition, a row from before the snapshot's beginning is no longer in the source table. The row stays if a later
//! record of its key, from behind that beginning, is parked. Parked records from before the beginning are marked as
//! replaced.
//!
//! Every consumer checks now and then; deleting twice changes nothing. Logs keep their lines: the topic does not show
//! which of them belong to deleted products.

use std::time::Duration;

use kafka::LastRecords;
use kafka::committed_progress;
use model::error::{Error, Result};
use model::position::CompleteSnapshot;
use runtime::config::{KafkaSettings, PostgresSettings};
use sinks::postgres::{Access, Target, failed};
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::CancellationToken;

/// How often to check for a new snapshot.
const EVERY: Duration = Duration::from_secs(5);
/// The time limit of a statement; after it, the server counts as lost.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The number of rows that a transaction deletes at most.
const ROWS: i64 = 20_000;

/// Deletes some rows from before the snapshot, in partitions that have reached its end, and marks what was parked
/// before it as replaced; returns the number of these rows and of these partitions. It compares a row that is written
/// meanwhile again.
const DELETE: &str = "WITH snapshot AS (
        SELECT s.partition, s.first FROM UNNEST($2::int[], $3::bigint[], $4::bigint[]) AS s (partition, first, next)
        LEFT JOIN product_offsets o ON o.topic = $1 AND o.partition = s.partition
        WHERE coalesce(o.next_offset, 0) >= s.next
    ), stale AS (
        SELECT p.id, s.first FROM product p JOIN snapshot s ON p.source_partition = s.partition AND p.source_offset < s.first
        WHERE NOT EXISTS (SELECT FROM product_parked k
            WHERE k.topic = $1 AND k.partition = s.partition AND k.id = p.id AND k.replaced_by IS NULL
                AND k.\"offset\" >= s.first)
        LIMIT $5
    ), ended AS (
        UPDATE product_parked k SET replaced_by = s.first FROM snapshot s
        WHERE k.topic = $1 AND k.partition = s.partition AND k.\"offset\" < s.first AND k.replaced_by IS NULL
    ), deleted AS (
        DELETE FROM product p USING stale s WHERE p.id = s.id AND p.source_offset < s.first RETURNING p.id
    )
    SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM snapshot)";

/// Checks for complete snapshots until shutdown.
pub(crate) fn start(kafka: KafkaSettings, postgres: PostgresSettings, shutdown: CancellationToken) {
    drop(tokio::spawn(async move { shutdown.run_until_cancelled(run(kafka, postgres, shutdown.clone())).await }));
}

async fn run(kafka: KafkaSettings, postgres: PostgresSettings, shutdown: CancellationToken) {
    let (mut records, mut done, mut told) = (None, None, String::new());
    loop {
        tokio::time::sleep(EVERY).await;
        let (settings, stop) = (kafka.clone(), shutdown.clone());
        let found = tokio::task::spawn_blocking(move || {
            let connected = records.map_or_else(|| LastRecords::new(&settings), Ok)?;
            let complete = complete_snapshot(&connected, &settings, &stop)?;
            Ok((connected, complete))
        });
        // The client logs its panic where it happens; the next check creates another client.
        let found = found.await.unwrap_or_else(|e| Err(Error::transient("cannot read the progress").with_source(e)));
        records = None;
        let outcome = match found {
            Ok((connected, Some(complete))) if done.as_ref() != Some(&complete) => {
                records = Some(connected);
                delete(&postgres, &kafka.topic, &complete).await.map(|all| {
                    if all {
                        done = Some(complete);
                    }
                })
            }
            Ok((connected, _)) => {
                records = Some(connected);
                Ok(())
            }
            Err(error) => Err(error),
        };
        // The consumer's loop reports a server that is away.
        if let Err(error) = outcome
            && !error.is_transient()
            && told != error.to_string()
        {
            told = error.to_string();
            tracing::warn!(%error, what_to_do = error.remedy(), "rows whose records have expired stay in PostgreSQL");
        }
    }
}

/// The last complete snapshot, according to the producer's progress. Blocks.
fn complete_snapshot(
    records: &LastRecords,
    settings: &KafkaSettings,
    shutdown: &CancellationToken,
) -> Result<Option<CompleteSnapshot>> {
    let progress = committed_progress::last(records, settings, &|| shutdown.is_cancelled())?;
    Ok(progress.and_then(|progress| progress.complete))
}

/// Deletes the rows from before the snapshot; returns whether PostgreSQL has reached its end in all partitions.
async fn delete(settings: &PostgresSettings, topic: &str, complete: &CompleteSnapshot) -> Result<bool> {
    const WHAT: &str = "cannot delete rows that are gone from the table product";
    let target = Target::from(settings, "consumer")?;
    let client = target.connect().await.map_err(|e| failed(&target.what(), e))?;
    let partitions: Vec<i32> = (0..).take(complete.begin.len()).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&topic, Type::TEXT),
        (&partitions, Type::INT4_ARRAY),
        (&complete.begin, Type::INT8_ARRAY),
        (&complete.end, Type::INT8_ARRAY),
        (&ROWS, Type::INT8),
    ];
    loop {
        let transaction = async {
            client.batch_execute(&target.begin(Access::Write)).await?;
            let answer = client.query_typed(DELETE, &parameters).await?;
            client.batch_execute("COMMIT").await?;
            Ok(answer.first().map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1))))
        };
        let answer = tokio::time::timeout(TIMEOUT, transaction).await;
        let answer = answer.map_err(|_| Error::transient(format!("{WHAT}: no answer within {TIMEOUT:?}")))?;
        let (rows, ready) = answer.map_err(|e| failed(WHAT, e))?;
        if rows > 0 {
            tracing::info!(rows, epoch = complete.epoch, "rows that are not in the snapshot are deleted in PostgreSQL");
        }
        if rows < ROWS {
            return Ok(ready == partitions.len() as i64);
        }
    }
}

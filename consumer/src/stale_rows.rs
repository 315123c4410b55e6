//! Deletes rows of PostgreSQL for which the topic has no delete, because the records of their keys have expired.
//!
//! A topic whose records expire does not show which keys it once held, so a new epoch has no tombstones for all
//! deleted rows. But a complete snapshot gives the offsets from which each row of the source table has a record
//! ([`CompleteSnapshot`]), and each row names its record. Once PostgreSQL has reached the snapshot's end in a
//! partition, a row from before the snapshot's beginning is no longer in the source table. The row stays if a later
//! record of its key, from behind that beginning, is parked. Parked records from before the beginning are marked as
//! replaced.
//!
//! Every consumer checks now and then; deleting twice changes nothing. Logs keep their lines: the topic does not show
//! which of them belong to deleted rows.

use std::sync::PoisonError;
use std::time::Duration;

use kafka::LastRecords;
use kafka::committed_progress;
use model::error::{Error, Result};
use model::position::CompleteSnapshot;
use model::row_key::read_key;
use rules::transform::Column;
use runtime::config::{KafkaSettings, PostgresSettings};
use sinks::postgres::{Access, Target, failed};
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::CancellationToken;

use crate::plan::{Latest, Plan};
use crate::sink::{Layout, array_of, quoted};
use crate::sql_value::{Array, Fields, sent_as};

/// How often to check for a new snapshot.
const EVERY: Duration = Duration::from_secs(5);
/// The time limit of a statement; after it, the server counts as lost.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The number of rows that a transaction deletes at most.
const ROWS: i64 = 20_000;

/// Deletes some rows from before the snapshot, in partitions that have reached its end, and marks what was parked
/// before it as replaced; returns the number of these rows and of these partitions. It compares a row that is written
/// meanwhile again. The parameters after the fifth are the key's columns of rows that stay.
fn delete_sql(table: &str, layout: &Layout) -> String {
    let columns: Vec<&Column> = layout.key_columns().collect();
    let keys = columns.iter().map(|column| format!("p.{}", quoted(&column.name))).collect::<Vec<_>>().join(", ");
    let every = |other: &str| {
        let same = |column: &&Column| format!("{other}.{0} = p.{0}", quoted(&column.name));
        columns.iter().map(same).collect::<Vec<_>>().join(" AND ")
    };
    let parameter = |(place, column): (usize, &&Column)| format!("${}::{}[]", place + 6, array_of(column.kind));
    let arrays = columns.iter().enumerate().map(parameter).collect::<Vec<_>>().join(", ");
    let names = columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ");
    let (table, of_parked, of_stale) = (quoted(table), every("k"), every("s"));
    format!(
        "WITH snapshot AS (
            SELECT s.partition, s.first FROM UNNEST($2::int[], $3::bigint[], $4::bigint[]) AS s (partition, first, next)
            LEFT JOIN product_offsets o ON o.topic = $1 AND o.partition = s.partition
            WHERE coalesce(o.next_offset, 0) >= s.next
        ), stale AS (
            SELECT {keys}, s.first FROM {table} p
            JOIN snapshot s ON p.source_partition = s.partition AND p.source_offset < s.first
            WHERE NOT EXISTS (SELECT FROM UNNEST({arrays}) AS k ({names}) WHERE {of_parked})
            LIMIT $5
        ), ended AS (
            UPDATE product_parked k SET replaced_by = s.first FROM snapshot s
            WHERE k.topic = $1 AND k.partition = s.partition AND k.\"offset\" < s.first AND k.replaced_by IS NULL
        ), deleted AS (
            DELETE FROM {table} p USING stale s WHERE {of_stale} AND p.source_offset < s.first RETURNING 1
        )
        SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM snapshot)"
    )
}

/// The keys whose parked state is from behind the beginning of the snapshot: their older rows stay.
const PARKED: &str = "SELECT coalesce(to_jsonb(k) ->> 'key', k.id::text) FROM product_parked k
    JOIN UNNEST($2::int[], $3::bigint[]) AS s (partition, first) ON k.partition = s.partition AND k.\"offset\" >= s.first
    WHERE k.topic = $1 AND k.replaced_by IS NULL";

/// Checks for complete snapshots until shutdown.
pub(crate) fn start(kafka: KafkaSettings, postgres: PostgresSettings, latest: Latest, shutdown: CancellationToken) {
    let run = |shutdown: CancellationToken| async move {
        shutdown.run_until_cancelled(run(kafka, postgres, latest, shutdown.clone())).await
    };
    drop(tokio::spawn(run(shutdown)));
}

async fn run(kafka: KafkaSettings, postgres: PostgresSettings, latest: Latest, shutdown: CancellationToken) {
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
        let plan = latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outcome = match (found, plan) {
            (Ok((connected, Some(complete))), Some(plan)) if done.as_ref() != Some(&complete) => {
                records = Some(connected);
                delete(&postgres, &kafka.topic, &plan, &complete).await.map(|all| {
                    if all {
                        done = Some(complete);
                    }
                })
            }
            (Ok((connected, _)), _) => {
                records = Some(connected);
                Ok(())
            }
            (Err(error), _) => Err(error),
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
    Ok(progress.and_then(|progress| progress.main.complete))
}

/// Deletes the rows from before the snapshot; returns whether PostgreSQL has reached its end in all partitions.
async fn delete(settings: &PostgresSettings, topic: &str, plan: &Plan, complete: &CompleteSnapshot) -> Result<bool> {
    let what = format!("cannot delete rows that are gone from the table {}", settings.table);
    let Some(layout) = plan.layout() else { return Ok(false) };
    let target = Target::from(settings, "consumer")?;
    let client = target.connect().await.map_err(|e| failed(&target.what(), e))?;
    let partitions: Vec<i32> = (0..).take(complete.begin.len()).collect();
    let sql = delete_sql(&settings.table, &layout);
    let of_parked: [(&(dyn ToSql + Sync), Type); 3] =
        [(&topic, Type::TEXT), (&partitions, Type::INT4_ARRAY), (&complete.begin, Type::INT8_ARRAY)];
    loop {
        let transaction = async {
            client.batch_execute(&target.begin(Access::Write)).await?;
            let parked = client.query_typed(PARKED, &of_parked).await?;
            let keys: Vec<String> = parked.iter().map(|row| row.get(0)).collect();
            let arrays = key_arrays(plan, &layout, &keys);
            let mut parameters = of_parked.to_vec();
            parameters.push((&complete.end, Type::INT8_ARRAY));
            parameters.push((&ROWS, Type::INT8));
            parameters.extend(arrays.iter().map(|(array, kind)| (array as &(dyn ToSql + Sync), kind.clone())));
            let answer = client.query_typed(&sql, &parameters).await?;
            client.batch_execute("COMMIT").await?;
            Ok(answer.first().map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1))))
        };
        let answer = tokio::time::timeout(TIMEOUT, transaction).await;
        let answer = answer.map_err(|_| Error::transient(format!("{what}: no answer within {TIMEOUT:?}")))?;
        let (rows, ready) = answer.map_err(|e| failed(&what, e))?;
        if rows > 0 {
            tracing::info!(rows, epoch = complete.epoch, "rows that are not in the snapshot are deleted in PostgreSQL");
        }
        if rows < ROWS {
            return Ok(ready == partitions.len() as i64);
        }
    }
}

/// The values of these keys, an array per column.
fn key_arrays(plan: &Plan, layout: &Layout, keys: &[String]) -> Vec<(Array, Type)> {
    let types = layout.key_columns().map(|column| sent_as(column.kind));
    let mut arrays: Vec<(Array, Type)> = types.map(|(element, array)| (Array::new(element), array)).collect();
    for key in keys {
        let Ok(values) = read_key(plan.decoder.schema(), key.as_bytes()) else { continue };
        let mut encoded = Vec::new();
        layout.put_key(&values, &mut encoded);
        arrays.iter_mut().zip(Fields(&encoded)).for_each(|((array, _), value)| array.push(value));
    }
    arrays
}

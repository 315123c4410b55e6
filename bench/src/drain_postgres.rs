//! Five consumers that drain a topic into their logs and PostgreSQL, beside one COPY of the rows that they made.
//!
//! The topic holds a table's snapshot, so each product comes once: both write the same rows, and as many. Several changes of
//! a product, of which consumers write the last one of each batch only, would not be the same work.

use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, TryStreamExt};
use mysql_async::prelude::Queryable;
use xtask::services::DATABASE;

use crate::cases::Size;
use crate::drain::{self, Drained};
use crate::load;
use crate::postgres;
use crate::report::{Better, Figure, median};
use crate::snapshot::Table;
use crate::stand::Stand;

/// As much as is handed to the client library at once.
const PIECE: usize = 64 << 10;

/// The case.
///
/// # Errors
/// When a program fails, stands still, or PostgreSQL holds other rows than MySQL.
pub fn case(stand: &mut Stand, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = "Drain to PostgreSQL";
    say(format!("{case}: {} records, each of another product", size.changes));
    let filled = Table::make(stand, size.changes)?.ours(stand)?;
    let (mut ours, mut copied) = (vec![], vec![]);
    for _ in 0..size.runs {
        postgres::forget(stand)?;
        let url = stand.stack.postgres.url();
        let run = drain::consumers(stand, &filled.topic, size.changes, &url)?;
        check(stand, "product")?;
        say(format!("  {run:?}"));
        ours.push(run);
        copied.push(copy(stand)?);
        say(format!("  COPY {:.0}/s", median(&copied)));
    }
    let of = |value: fn(&Drained) -> f64| ours.iter().map(value).collect::<Vec<_>>();
    let alone = |measure, unit, goal, value: fn(&Drained) -> f64| {
        Figure::new([case, measure, unit, "", goal], Better::Less, of(value), vec![])
    };
    Ok(vec![
        Figure::new(
            [case, "rate into five logs and the table", "records/s", "one COPY", "≥ 0.5 ×"],
            Better::More,
            of(|d| d.rate),
            copied,
        ),
        alone("CPU for a million records, five together", "s", "", |d| d.cpu_per_million),
        alone("most memory resident of a consumer", "MB", "≤ 48 MB", |d| d.peak_rss_mb),
    ])
}

/// Rows a second of one COPY of the consumers' rows into a table of the same definition.
fn copy(stand: &Stand) -> Result<f64> {
    let rate = stand.runtime.block_on(async {
        let client = postgres::connect(&stand.stack.postgres.url()).await?;
        let (mut bytes, mut pieces) = (BytesMut::new(), Vec::new());
        let mut out = std::pin::pin!(client.copy_out("COPY product TO STDOUT").await?);
        while let Some(row) = out.try_next().await? {
            bytes.extend_from_slice(&row);
            if bytes.len() > PIECE {
                pieces.push(bytes.split().freeze());
            }
        }
        pieces.push(bytes.freeze());
        client.batch_execute("CREATE TABLE copied (LIKE product INCLUDING ALL)").await?;
        client.batch_execute("CHECKPOINT").await?;
        let begun = Instant::now();
        let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>("COPY copied FROM STDIN").await?);
        for piece in pieces {
            sink.send(piece).await?;
        }
        let rows = sink.finish().await?;
        anyhow::Ok(rows as f64 / begun.elapsed().as_secs_f64())
    })?;
    check(stand, "copied")?;
    Ok(rate)
}

/// Compares rows, ids, prices and times of a table with MySQL's, and the two rules with what they should have done.
fn check(stand: &Stand, table: &str) -> Result<()> {
    let (theirs, ours) = stand.runtime.block_on(async {
        let mut mysql = load::connect(&stand.stack.mysql, Some(DATABASE)).await?;
        let sums: Option<String> = mysql
            .query_first(
                "SELECT CONCAT_WS(' ', COUNT(*), SUM(id), SUM(price), SUM(LENGTH(name)), \
                 CAST(SUM(UNIX_TIMESTAMP(last_updated)) AS DECIMAL(30,6)), \
                 SUM(IF(category = 'cat_5', ROUND(price * 0.8, 2), 0)))
                 FROM product",
            )
            .await?;
        let postgres = postgres::connect(&stand.stack.postgres.url()).await?;
        let row = postgres
            .query_one(
                &format!(
                    "SELECT CONCAT_WS(' ', COUNT(*), SUM(id), SUM(price), SUM(LENGTH(name)), \
                     SUM(EXTRACT(EPOCH FROM last_updated))::numeric(30,6), SUM(COALESCE(discount_price, 0)))
                     FROM {table} WHERE category = UPPER(category)"
                ),
                &[],
            )
            .await?;
        anyhow::Ok((sums, row.get::<_, String>(0)))
    })?;
    ensure!(theirs.as_deref() == Some(&ours[..]), "PostgreSQL has {ours} in {table}, MySQL {theirs:?}");
    Ok(())
}

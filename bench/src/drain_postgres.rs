//! Five consumers that drain a topic into their logs and PostgreSQL, compared with one COPY of the resulting rows.
//!
//! The topic has a table's snapshot, so each product occurs once, and both write the same number of rows. With several
//! changes of a product the work would differ, as consumers write only the last one of each batch.

use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, TryStreamExt};

use crate::drain::{self, Drained};
use crate::lab::Lab;
use crate::postgres;
use crate::report::{Better, Figure, median};
use crate::size::Size;
use crate::snapshot::Table;

/// The number of bytes passed to the client library at once.
const PIECE: usize = 64 << 10;

/// The case.
///
/// # Errors
/// When a program fails or makes no progress, or `verify` finds a difference.
pub fn case(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = "Drain to PostgreSQL";
    say(format!("{case}: {} records, each of another product", size.changes));
    let filled = Table::make(lab, size.changes)?.ours(lab)?;
    let (mut ours, mut copied) = (vec![], vec![]);
    for _ in 0..size.runs {
        postgres::forget(lab)?;
        let url = lab.stack.postgres.url();
        let run = drain::consumers(lab, &filled.topic, size.changes, &url)?;
        say(format!("  {run:?}"));
        ours.push(run);
        copied.push(copy(lab)?);
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

/// The rate in rows a second of one COPY of the consumers' rows into a table with the same definition.
fn copy(lab: &Lab) -> Result<f64> {
    lab.runtime.block_on(async {
        let client = testbed::postgres(&lab.stack.postgres.url()).await?;
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
        let rate = rows as f64 / begun.elapsed().as_secs_f64();
        // `verify` has compared the consumers' rows already.
        let missing = client.query_one("SELECT count(*) FROM (TABLE product EXCEPT TABLE copied) AS missing", &[]);
        let missing: i64 = missing.await?.get(0);
        ensure!(missing == 0, "COPY did not write {missing} of {rows} rows");
        Ok(rate)
    })
}

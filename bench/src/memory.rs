//! The producer's resident memory when it is idle, and during a transaction as large as a backlog. [`crate::growth`]
//! shows whether the memory of producer and consumers grows with the backlog.

use anyhow::Result;
use mysql_async::prelude::Queryable;
use testbed::servers::DATABASE;

use crate::backlog::Backlog;
use crate::lab::Lab;
use crate::load::{self, Load};
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::snapshot;

/// The case.
///
/// # Errors
/// When the producer fails, makes no progress, or does not deliver everything exactly once.
pub fn case(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = "Memory";
    say(format!("{case}: {} changes in transactions of 500, then in one", size.changes));
    let backlog = Backlog::make(lab, Load { changes: size.changes, per_transaction: 500 }, false)?;
    let (mut idle, mut most) = (vec![], vec![]);
    for _ in 0..size.runs {
        let usage = backlog.ours(lab)?.usage;
        say(format!("  {:.1} MB when all is done, {:.1} MB at most", usage.rss_mb, usage.peak_rss_mb));
        idle.push(usage.rss_mb);
        most.push(usage.peak_rss_mb);
    }
    let single = Backlog::of(lab, false, async |mysql| {
        let mut conn = load::connect(mysql, Some(DATABASE)).await?;
        conn.query_drop("BEGIN").await?;
        snapshot::fill(&mut conn, size.changes).await?;
        conn.query_drop("COMMIT").await?;
        Ok(size.changes)
    })?;
    let mut one = vec![];
    for _ in 0..size.runs {
        let run = single.ours(lab)?;
        say(format!("  {:.1} MB at most, {:.0}/s in one transaction", run.usage.peak_rss_mb, run.arrival.rate()));
        one.push(run.usage.peak_rss_mb);
    }
    let measure = format!("most resident of the producer, one transaction of {} rows", size.changes);
    Ok(vec![
        Figure::new([case, "resident of the idle producer, all sent", "MB", "", "≤ 40 MB"], Better::Less, idle, vec![]),
        Figure::new([case, &measure, "MB", "transactions of 500", "≤ 40 MB"], Better::Less, one, most),
    ])
}

//! A replica of MySQL, as durable as its source and otherwise with the server's defaults: when it has committed each
//! change.

use std::fs;

use anyhow::{Context, Result, ensure};
use cdc_producer::endpoint::Endpoint;
use cdc_producer::stream::EventStream;
use cdc_producer::transaction::{GtidMark, gtid_mark};
use mysql_async::prelude::Queryable;
use testbed::interrupt;
use testbed::servers::{self, MySql, MySqlOptions};

use super::measure::{Arrival, Latency, latencies, prepare, stretches};
use crate::lab::Lab;
use crate::limits;
use crate::load;
use crate::pace::Paced;

/// The replica's first binlog, and the offset of its first event.
const FIRST: (&str, u64) = ("binlog.000001", 4);
const CATCH_UP_S: u32 = 300;

/// Makes the changes while a replica follows, and nothing else.
///
/// # Errors
/// When the replica fails, or has not committed each change once.
pub(super) fn run(lab: &mut Lab, measured: u64) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let folder = lab.stack.dir().join("runs").join(lab.fresh_name("replica"));
    let flags = ["--server-id=2", "--relay-log=relay"].map(str::to_owned).to_vec();
    let mut replica = MySql::start(&MySqlOptions { folder: folder.clone(), port: None, flags }, &|_| {})?;
    lab.runtime.block_on(replicate(&lab.stack.mysql, &replica))?;
    let mut pace = prepare(lab)?;
    let mut paced = Vec::new();
    for stretch in stretches(measured) {
        interrupt::check()?;
        let part;
        (pace, part) = lab.runtime.block_on(pace.run(stretch))?;
        lab.runtime.block_on(catch_up(&lab.stack.mysql, &replica))?;
        paced.push(part);
    }
    paced.remove(0);
    let marks = lab.runtime.block_on(marks(&replica))?;
    replica.server.kill()?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    let latencies = latencies(arrivals(marks, pace.last_id), pace.last_id, &paced)?;
    Ok((paced, latencies))
}

/// Lets the replica follow from the source's present end: earlier loads are not copied.
async fn replicate(source: &MySql, replica: &MySql) -> Result<()> {
    let mut conn = load::connect(replica, None).await?;
    let purged = format!("SET GLOBAL gtid_purged = '{}'", executed(source).await?);
    for statement in [&purged, &servers::follow(source.port), "START REPLICA"] {
        conn.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

async fn executed(source: &MySql) -> Result<String> {
    let set = load::connect(source, None).await?.query_first("SELECT @@GLOBAL.gtid_executed").await?;
    set.context("MySQL has no gtid_executed")
}

/// Waits until the replica has executed what the source has.
async fn catch_up(source: &MySql, replica: &MySql) -> Result<()> {
    let query = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', {CATCH_UP_S})", executed(source).await?);
    let late: Option<u8> = load::connect(replica, None).await?.query_first(query).await?;
    ensure!(
        late == Some(0),
        "the replica does not catch up within {CATCH_UP_S} s: {} has why",
        replica.server.log().display()
    );
    Ok(())
}

/// The transactions of the replica's binlog.
async fn marks(replica: &MySql) -> Result<Vec<GtidMark>> {
    let endpoint = Endpoint::new(limits::connection(replica.port)?);
    let mut events = EventStream::scan(&endpoint, "reading the replica's binlog", FIRST.0, FIRST.1, None).await?;
    let mut marks = Vec::new();
    while let Some(event) = events.next_or_end().await? {
        marks.extend(gtid_mark(&event)?);
    }
    Ok(marks)
}

/// The last `all` transactions, as changes 1 to `all`: each change is a transaction, and the source numbers them in the
/// order of their commits. That is the order of the ids, but for those that were committed at the same time.
fn arrivals(mut marks: Vec<GtidMark>, all: u64) -> Vec<Arrival> {
    let number = |mark: &GtidMark| mark.gtid.as_ref().map_or(0, |(_, number)| *number);
    marks.sort_by_key(number);
    let before = marks.last().map_or(0, number).saturating_sub(all);
    let changes = marks.iter().filter(|mark| number(mark) > before);
    let arrival = |mark: &GtidMark| Arrival {
        id: number(mark) - before,
        committed: mark.first_committed_at.0,
        arrived: mark.committed_at.0,
    };
    changes.map(arrival).collect()
}

#[cfg(test)]
mod tests {
    use model::time::Micros;

    use super::*;

    fn mark(number: u64, committed: i64, lag: i64) -> GtidMark {
        let gtid = Some(("source".to_owned(), number));
        GtidMark { gtid, committed_at: Micros(committed + lag), first_committed_at: Micros(committed) }
    }

    #[test]
    fn the_last_transactions_are_the_changes() {
        // 7 made the table; 9 and 8 were committed in the other order.
        let marks = vec![mark(7, 100, 9), mark(9, 300, 20), mark(8, 200, 30)];
        let found = arrivals(marks, 2).into_iter().map(|a| (a.id, a.committed, a.arrived)).collect::<Vec<_>>();
        assert_eq!(found, [(1, 200, 230), (2, 300, 320)]);
    }
}

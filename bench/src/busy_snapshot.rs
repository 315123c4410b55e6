//! A snapshot during writes to the table: the topic must have every row's last state, and no deleted row.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kafka::LastRecords;
use mysql_async::prelude::Queryable;
use runtime::config::KafkaSettings;
use testbed::servers::DATABASE;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::backlog::{Run, now_ms, options};
use crate::complete::{self, Of};
use crate::debezium::{Debezium, Format, Snapshot};
use crate::lab::Lab;
use crate::load;
use crate::load::NAME;
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::snapshot::Table;
use crate::topic::{self, Arrival};
use testbed::Watch;

/// Row changes a second, in a hundred transactions; of twenty changes twelve update, six insert, two delete.
const RATE: u64 = 2_000;
const STANDSTILL: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(300);

/// The case.
///
/// # Errors
/// When a program fails or makes no progress, or when the topic differs from the table.
pub fn case(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let rows = size.changes;
    let case = format!("Snapshot of {rows} rows with writes");
    say(format!("{case}: {RATE} changes a second meanwhile"));
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..size.runs {
        let table = Table::make(lab, rows)?;
        let settings = topic::settings(&lab.kafka(), &lab.fresh_name("busy_snapshot"))?;
        let begun = now_ms()?;
        let mut producer = lab.programs(&settings.topic).producer()?;
        let pid = producer.pid().context("it was started")?;
        let watch = Watch::start(pid);
        let arrival = complete(lab, table, &settings, Of::Ours, || producer.check())?;
        ours.push(run(&settings, begun, arrival, pid, watch)?);
        producer.stop()?;
        say(shown("ours", &ours));
        if !size.alone {
            let table = Table::make(lab, rows)?;
            let name = lab.fresh_name("debezium_busy");
            let mut options = options(lab, lab.stack.dir().join("runs").join(&name), Format::Avro);
            (options.snapshot, options.topic_prefix) = (Snapshot::Initial, name);
            let settings = topic::settings(&lab.kafka(), &options.topic())?;
            lab.runtime.block_on(topic::make_anew(&settings))?;
            let begun = now_ms()?;
            let mut debezium = Debezium::start(&options)?;
            let pid = debezium.pid().context("it was started")?;
            let watch = Watch::start(pid);
            let arrival = complete(lab, table, &settings, Of::Debezium, || debezium.check())?;
            theirs.push(run(&settings, begun, arrival, pid, watch)?);
            debezium.stop()?;
            say(shown("Debezium", &theirs));
        }
    }
    let figure = |measure: &str, unit: &str, goal: &str, better, value: fn(&Run) -> f64| {
        let of = |runs: &[Run]| runs.iter().map(value).collect();
        Figure::new([&case, measure, unit, "Debezium", goal], better, of(&ours), of(&theirs))
    };
    Ok(vec![
        figure("rate of rows and changes", "records/s", "≥ 10 ×", Better::More, |r| r.arrival.rate()),
        figure("rate from the start of the process", "records/s", "≥ 10 ×", Better::More, Run::rate_from_start),
        figure("CPU for a million records", "s", "≤ 7 s", Better::Less, Run::cpu_per_million),
        figure("most memory resident", "MB", "≤ 40 MB", Better::Less, |r| r.usage.peak_rss_mb),
    ])
}

fn shown(name: &str, runs: &[Run]) -> String {
    let Some(run) = runs.last() else { return String::new() };
    let (records, rate, memory) = (run.arrival.records, run.arrival.rate(), run.usage.peak_rss_mb);
    format!("  {name:8}  {records} records, {rate:8.0}/s, {memory:.1} MB; every row's last state is there")
}

fn run(settings: &KafkaSettings, begun: i64, arrival: Arrival, pid: u32, watch: Watch) -> Result<Run> {
    let records = arrival.records;
    let run = Run::of(&settings.topic, begun, arrival, pid, records)?;
    Ok(Run { peaks: watch.end()?, ..run })
}

/// Writes to the table until the topic has as many records as the table had rows, and waits until the topic has all
/// changes.
fn complete(
    lab: &Lab,
    table: Table,
    settings: &KafkaSettings,
    of: Of,
    mut check: impl FnMut() -> Result<()>,
) -> Result<Arrival> {
    let writes = Writes::start(lab, table.rows)?;
    let asking = LastRecords::new(settings)?;
    let rows = i64::try_from(table.rows)?;
    let (mut end, mut since, mut checked) = (0, Instant::now(), Instant::now());
    let mut until = |enough: &dyn Fn(i64, Duration) -> bool| -> Result<()> {
        loop {
            if checked.elapsed() > Duration::from_secs(1) {
                check()?;
                checked = Instant::now();
            }
            let now = topic::ends_by(&asking, settings);
            if now != end {
                (end, since) = (now, Instant::now());
            }
            if enough(end, since.elapsed()) {
                return Ok(());
            }
            ensure!(since.elapsed() < STANDSTILL, "{} stalled at offset {end}", settings.topic);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until(&|end, _| end >= rows)?;
    let changes = writes.end(lab)?;
    let table = lab.runtime.block_on(complete::table(&lab.stack.mysql))?;
    let begun = Instant::now();
    loop {
        until(&|_, quiet| quiet > QUIET)?;
        let told = complete::told(settings, of)?;
        ensure!(told.doubled == 0, "{} records are in {} twice", told.doubled, settings.topic);
        let Some(difference) = complete::difference(&told.rows, &table) else { return Ok(told.arrival) };
        if begun.elapsed() > STANDSTILL * 10 {
            bail!("after {changes} changes {} {difference}", settings.topic);
        }
        // Either more records follow, or the program has stopped making progress.
        let seen = topic::ends_by(&asking, settings);
        until(&|end, _| end > seen)?;
    }
}

/// Writers at a fixed rate.
struct Writes {
    stop: CancellationToken,
    task: JoinHandle<Result<u64>>,
}

impl Writes {
    fn start(lab: &Lab, rows: u64) -> Result<Self> {
        let stop = CancellationToken::new();
        let conn = lab.runtime.block_on(load::connect(&lab.stack.mysql, Some(DATABASE)))?;
        let task = lab.runtime.spawn({
            let (stop, mut conn) = (stop.clone(), conn);
            async move {
                let mut tick = tokio::time::interval(Duration::from_millis(10));
                // Catch up after a late transaction.
                tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut round = 0;
                while !stop.is_cancelled() {
                    tick.tick().await;
                    for statement in statements(round, rows) {
                        conn.query_drop(statement).await?;
                    }
                    round += 1;
                }
                Ok(round * RATE / 100)
            }
        });
        Ok(Self { stop, task })
    }

    /// Stops the writers; returns an upper limit of the number of row changes, as some rows may have been deleted
    /// already.
    fn end(self, lab: &Lab) -> Result<u64> {
        self.stop.cancel();
        lab.runtime.block_on(self.task)?
    }
}

/// The statements of one transaction on a table that had so many rows at first.
fn statements(round: u64, rows: u64) -> [String; 5] {
    // A prime step reaches every row, but not in key order.
    let place = |n: u64| (round * 14 + n) * 7_368_787 % rows;
    let list = |from: u64, to: u64| (from..to).map(|n| place(n).to_string()).collect::<Vec<_>>().join(",");
    let row = |n: u64| {
        let id = rows + round * 6 + n;
        format!("({id},'{NAME}{id}','cat_5',1.25,NOW(6))")
    };
    [
        "BEGIN".to_owned(),
        format!(
            "UPDATE product SET name = CONCAT('{NAME}', id, '#{}'), price = price + 0.01, last_updated = NOW(6) \
             WHERE id IN ({})",
            round + 1,
            list(0, 12)
        ),
        format!("DELETE FROM product WHERE id IN ({})", list(12, 14)),
        format!("INSERT INTO product VALUES {}", (0..6).map(row).collect::<Vec<_>>().join(",")),
        "COMMIT".to_owned(),
    ]
}

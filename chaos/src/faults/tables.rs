//! A table and a column that are added while the pipeline works, and a table that is read again alone: a snapshot of one
//! table beside the stream of the others, and a new version of a schema.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use avro::registry::Registry;
use model::table_name::TableName;
use rand::Rng;
use runtime::config::{Program, RegistrySettings};
use runtime::step::ProducerStep;

use super::fault::Fault;
use super::people::{Who, refuses, stop_producer};
use super::points::{after_passes, dies_at, end_consumer, end_producer, visits};
use crate::harness::{Harness, wait_for};

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "table-added",
        expects: "a table is created in mid-stream, and the producer killed at some moment of its snapshot: rows from before, \
                  meanwhile and after are in its topic, and no other table is read again",
        weight: 4,
        quick: true,
        run: table_added,
    },
    Fault {
        name: "column-added",
        expects: "a table gets a column in mid-stream, and programs are killed at some moment: the subject gets a version, \
                  PostgreSQL a column, and no table is read again",
        weight: 4,
        quick: true,
        run: column_added,
    },
    Fault {
        name: "table-read-again",
        expects: "a snapshot of one table is asked for, at times as TRUNCATE has stopped the producer, which is killed at some \
                  moment of it: no other table is read again",
        weight: 3,
        quick: true,
        run: table_read_again,
    },
];

const SOON: Duration = Duration::from_secs(60);
/// Changes of a table that make its snapshot several chunks long.
const ROWS: u64 = 300;

fn name_of(harness: &Harness, table: usize) -> String {
    harness.load.ledger().tables[table].name.clone()
}

/// Waits until the load has committed so many more changes of the table.
fn writes(harness: &Harness, table: usize, many: u64) -> Result<()> {
    let name = name_of(harness, table);
    let count = || harness.load.ledger().changes_by_table().get(&name).copied().unwrap_or(0);
    let wanted = count() + many;
    wait_for("the load writes to the table", SOON, || (count() >= wanted).then_some(()))
}

/// Sleeps for a random time up to this one.
fn sleep_up_to(harness: &mut Harness, longest: Duration) {
    std::thread::sleep(longest.mul_f64(harness.rng.random()));
}

fn table_added(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let epoch = harness.epoch()?;
    let table = if harness.rng.random() {
        let table = harness.add_table()?;
        sleep_up_to(harness, Duration::from_secs(4));
        end_producer(harness);
        table
    } else {
        let points = [ProducerStep::ChunkRead, ProducerStep::ChunkSending];
        let point = points[harness.rng.random_range(0..points.len())];
        let before = visits(&end_producer(harness), point);
        let table = harness.add_table()?;
        writes(harness, table, ROWS)?;
        let failpoints = after_passes(harness, point, 4, "kill");
        harness.start_producer_with(&[("FAILPOINTS", &failpoints), ("PRODUCER_SNAPSHOT_CHUNK", "20")]);
        dies_at(harness.producer.take().context("it was started")?, point, before)?;
        table
    };
    writes(harness, table, ROWS)?;
    harness.start_producer();
    // The epoch stays, and with it what the other tables have streamed.
    let now = harness.epoch_after(epoch - 1)?;
    ensure!(now == epoch, "epoch {now} has begun");
    harness.collapse_until_here()?;
    writes(harness, table, ROWS)
}

fn column_added(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let epoch = harness.epoch()?;
    let tables = harness.load.ledger().tables.len();
    let table = harness.rng.random_range(1..tables);
    let is_behind = harness.rng.random_ratio(1, 3);
    if is_behind {
        end_producer(harness);
        writes(harness, table, ROWS)?;
    }
    let column = harness.add_column(table)?;
    if is_behind {
        writes(harness, table, ROWS)?;
        harness.start_producer();
    }
    if harness.rng.random() {
        sleep_up_to(harness, Duration::from_secs(3));
        end_producer(harness);
        harness.start_producer();
    }
    if harness.rng.random() {
        sleep_up_to(harness, Duration::from_secs(3));
        let (number, _) = end_consumer(harness)?;
        harness.start_consumer(number);
    }
    writes(harness, table, ROWS)?;
    let name = name_of(harness, table);
    let view = harness.bed.settings(Program::CdcProducer).of_table(&TableName::new(&harness.bed.name, &name));
    let registry = Registry::new(RegistrySettings::from(&view)?)?;
    wait_for("the subject has a version with the column", SOON, || {
        let latest = harness.block_on(registry.latest()).ok()??;
        latest.contains(&format!("\"{column}\"")).then_some(())
    })?;
    let url = harness.bed.get("POSTGRES_URL").to_owned();
    let sql = format!("SELECT count({column}) FROM {name}");
    let filled = |harness: &Harness| -> Result<i64> {
        harness.block_on(async {
            let client = testbed::postgres(&url).await?;
            Ok(client.query_one(&sql, &[]).await?.get(0))
        })
    };
    wait_for("PostgreSQL has values of the column", SOON, || filled(harness).ok().filter(|count| *count > 0))?;
    ensure!(harness.epoch()? == epoch, "epoch {} has begun", harness.epoch()?);
    Ok(())
}

fn table_read_again(harness: &mut Harness) -> Result<()> {
    // Earlier commits belong to the stream.
    harness.settle()?;
    let epoch = harness.epoch()?;
    let tables = harness.load.ledger().tables.len();
    let table = harness.rng.random_range(0..tables);
    let name = name_of(harness, table);
    let full_name = format!("{}.{name}", harness.bed.name);
    harness.load.ledger().read_again(table, epoch);
    if harness.rng.random() {
        let says = ["TRUNCATE TABLE changes the rows of", &format!("`cdc-producer snapshot {full_name}`")];
        refuses(harness, Who::Producer, &says, |harness| {
            harness.commit_direct(&[
                format!("CREATE TABLE kept AS SELECT * FROM {name}"),
                format!("TRUNCATE TABLE {name}"),
            ])
        })?;
        harness.commit_direct(&[format!("INSERT INTO {name} SELECT * FROM kept"), "DROP TABLE kept".to_owned()])?;
    } else if harness.rng.random() {
        stop_producer(harness)?;
    }
    harness.resume_load();
    writes(harness, table, ROWS)?;
    let asked = harness.bed.run("cdc-producer", &["snapshot", &full_name]);
    ensure!(asked.code == 0, "snapshot {full_name}: {}", asked.err);
    harness.start_all();
    sleep_up_to(harness, Duration::from_secs(3));
    end_producer(harness);
    writes(harness, table, ROWS)?;
    harness.start_producer();
    harness.requested_snapshot(table)?;
    ensure!(harness.epoch()? == epoch, "epoch {} has begun", harness.epoch()?);
    harness.collapse_until_here()
}

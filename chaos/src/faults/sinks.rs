//! PostgreSQL refuses rows, or blocks while somebody changes the logs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use super::fault::Fault;
use super::people::some_consumer;
use crate::harness::{Harness, wait_for};

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "postgres-refuses-rows",
        expects: "rows with a NUL character, which PostgreSQL can't hold, are parked one by one while everything else \
                  arrives; a later state of each replaces what is stale",
        weight: 2,
        quick: true,
        run: postgres_refuses_rows,
    },
    Fault {
        name: "log-cut-while-postgres-blocks",
        expects: "a log that is cut while its consumer waits for a lock in PostgreSQL stops that consumer before the next line; \
                  put back, it continues",
        weight: 1,
        quick: true,
        run: log_cut_while_postgres_blocks,
    },
];

const SOON: Duration = Duration::from_secs(60);

/// The number of records that are parked for PostgreSQL.
fn parked(harness: &Harness) -> Result<usize> {
    let settings = harness.bed.kafka();
    let mut count = 0;
    kafka::scan(&settings, &format!("{}.dlq", settings.topic), &mut |message| {
        let origin = kafka::header(message, "origin").unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(origin).contains(r#""sink":"postgres""#));
        Ok(())
    })?;
    Ok(count)
}

fn postgres_refuses_rows(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let before = parked(harness)?;
    // Each record is the last state of its key.
    let ids: Vec<i32> = (-1_060..-1_000).collect();
    let nul = |id: &i32| format!("REPLACE INTO product (id, name) VALUES ({id}, CONCAT('nul', CHAR(0), RAND()))");
    harness.commit_direct(&ids.iter().map(nul).collect::<Vec<_>>())?;
    wait_for("each row is parked", SOON, || (parked(harness).ok()? == before + ids.len()).then_some(()))?;
    harness.probe()?;
    harness.all_ready()?;
    // A later state of each key replaces the stale one.
    let half = [
        "UPDATE product SET name = 'mended' WHERE id BETWEEN -1060 AND -1031",
        "DELETE FROM product WHERE id BETWEEN -1030 AND -1001",
    ];
    harness.commit_direct(&half)?;
    let client = connect(harness)?;
    let sql = "SELECT count(*) FILTER (WHERE name = 'mended'), (SELECT count(*) FROM product_parked WHERE replaced_by IS NULL)
        FROM product WHERE id BETWEEN -1060 AND -1001";
    let counts =
        || harness.block_on(client.query_one(sql, &[])).ok().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
    wait_for("the later states are in PostgreSQL", SOON, || (counts()? == (30, 0)).then_some(()))?;
    ensure!(parked(harness)? == before + ids.len(), "a record is parked twice");
    Ok(())
}

fn log_cut_while_postgres_blocks(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let (number, log) = some_consumer(harness)?;
    let client = connect(harness)?;
    // A consumer may have partitions of one table only, and each writes its offsets.
    let lock = "BEGIN; SET LOCAL statement_timeout = 0; LOCK TABLE product_offsets IN SHARE MODE";
    harness.block_on(client.batch_execute(lock)).context("the lock in PostgreSQL")?;
    let consumer = harness.consumers[number].as_ref().context("it runs")?;
    let blocked = wait_for("the consumer waits for PostgreSQL", SOON, || {
        consumer.http("/ready").filter(|(code, said)| *code == 503 && said.contains("PostgreSQL")).map(drop)
    });
    let lines = blocked.and_then(|()| cut(&log));
    harness.block_on(client.batch_execute("ROLLBACK")).context("to let the lock go")?;
    let lines = lines?;
    let ended = harness.consumers[number].take().context("it runs")?.wait();
    ensure!(ended.code == 1 && ended.err.contains("bytes are gone"), "it ended with {}:\n{}", ended.code, ended.err);
    ensure!(fs::metadata(&log)?.len() == lines.len() as u64 / 2, "the file that was cut was touched");
    fs::write(&log, &lines)?;
    harness.start_all();
    harness.all_ready()
}

/// Cuts the log in half; returns its former contents.
fn cut(log: &PathBuf) -> Result<Vec<u8>> {
    let lines = fs::read(log)?;
    File::options().write(true).open(log)?.set_len(lines.len() as u64 / 2)?;
    Ok(lines)
}

/// A direct connection to PostgreSQL, past the proxy, in this test bed's database.
fn connect(harness: &Harness) -> Result<Client> {
    let url = harness.servers.postgres.url();
    let (server, _) = url.rsplit_once('/').context("a URL with a database")?;
    let url = format!("{server}/{}", harness.bed.name);
    harness.block_on(testbed::postgres(&url)).context("PostgreSQL")
}

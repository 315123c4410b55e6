//! A MySQL whose history does not match a position: GTIDs switched off and on, and two servers at one address.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use rand::Rng;

use super::super::fault::Fault;
use super::effects::{wait_all_ready, wait_stopped};
use crate::harness::{Harness, wait_for};
use crate::replica::Replica;

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "mysql-gtids-switched",
        expects: "gtid_mode goes to OFF and to ON again under load: the producer reads on; when it was behind, it names ON_PERMISSIVE",
        weight: 1,
        quick: false,
        run: switch,
    },
    Fault {
        name: "mysql-balanced",
        expects: "new connections reach MySQL and its replica in turn: the producer stops and names both; with one server it continues",
        weight: 1,
        quick: false,
        run: balance,
    },
];

/// The time limit for a change of the mode, and for the producer to continue reading.
const PATIENCE: Duration = Duration::from_secs(60);

fn switch(harness: &mut Harness) -> Result<()> {
    let behind = harness.rng.random_bool(0.5);
    if behind {
        let producer = harness.producer.take().context("the producer does not run")?.stop();
        ensure!(producer.code == 0, "the producer stops with {}: {}", producer.code, producer.err);
    }
    for mode in ["ON_PERMISSIVE", "OFF_PERMISSIVE"] {
        set_mode(harness, mode)?;
    }
    wait_for_commit(harness)?;
    if !behind {
        // With OFF the server does not send transactions that have a GTID.
        read_on(harness)?;
        set_mode(harness, "OFF")?;
        std::thread::sleep(Duration::from_millis(harness.rng.random_range(0..1_000)));
        set_mode(harness, "OFF_PERMISSIVE")?;
    }
    std::thread::sleep(Duration::from_millis(harness.rng.random_range(0..1_000)));
    set_mode(harness, "ON_PERMISSIVE")?;
    if behind {
        set_mode(harness, "ON")?;
        harness.start_producer();
        wait_stopped(harness, PATIENCE, &["Cannot replicate anonymous transaction", "gtid_mode = ON_PERMISSIVE"])?;
        set_mode(harness, "ON_PERMISSIVE")?;
        harness.start_producer();
    }
    read_on(harness)?;
    set_mode(harness, "ON")?;
    wait_all_ready(harness)
}

/// Waits until the load has committed a transaction that begins after this call.
fn wait_for_commit(harness: &Harness) -> Result<()> {
    // Each writer may have one transaction open.
    let enough = harness.load.ledger().transactions() + 10;
    wait_for("the load has committed", PATIENCE, || (harness.load.ledger().transactions() >= enough).then_some(()))
}

/// Sets `gtid_mode` as soon as no transaction of the other kind is active.
fn set_mode(harness: &Harness, mode: &str) -> Result<()> {
    let mut conn = harness.mysql()?;
    let statement = format!("SET GLOBAL gtid_mode = {mode}");
    let mut last = None;
    wait_for(&statement, PATIENCE, || match harness.block_on(conn.query_drop(&statement)) {
        Ok(()) => Some(()),
        Err(e) => {
            last = Some(e.to_string());
            None
        }
    })
    .with_context(|| format!("it says {last:?}"))
}

/// Waits until the producer has reached the file that MySQL begins now.
fn read_on(harness: &Harness) -> Result<()> {
    harness.commit_direct(&["FLUSH BINARY LOGS"])?;
    let mut conn = harness.mysql()?;
    let row: Option<mysql_async::Row> = harness.block_on(conn.query_first("SHOW BINARY LOG STATUS"))?;
    let file: String = row.and_then(|row| row.get(0)).context("MySQL has no binlog")?;
    wait_for(&format!("the producer reads {file}"), PATIENCE, || {
        let position = harness.progress().ok()??.position;
        model::position::compare_files(&position.file, &file).is_ge().then_some(())
    })
}

fn balance(harness: &mut Harness) -> Result<()> {
    let replica = Replica::start(harness)?;
    let epoch = harness.epoch()?;
    harness.servers.to_mysql.balance(&[harness.servers.mysql.port, replica.port()]);
    let stopped = wait_stopped(harness, PATIENCE, &["DB_HOST leads to more than one server", "address of one server"]);
    harness.servers.to_mysql.redirect(harness.servers.mysql.port);
    stopped?;
    replica.remove()?;
    harness.start_producer();
    wait_all_ready(harness)?;
    let now = harness.epoch()?;
    ensure!(now == epoch, "it began epoch {now} after epoch {epoch}");
    Ok(())
}
